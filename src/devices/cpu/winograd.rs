//! Winograd convolution F(m x m, 3 x 3) with the channels last; `winograd_weight` says what it is.
//!
//! The data of a block of squares is transformed, sixteen channels at a time, into (m + 2)^2 matrices of squares by
//! channels, which stay in the second cache level. Panel by panel of output channels they are multiplied with the
//! transformed weights, and the products are transformed into results while they are in cache.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::conv::{Sizes, n_own, own_bias};
use crate::epilogue::{Epilogue, Matrix};
use crate::isa::Isa;
use crate::lanes::{Lanes, per_lanes};
use crate::layout::{Layout, MR, NR};
use crate::micro::{LINE, Micro, Post, kernels};
use crate::prepared::{Call, Cx, Prepared, Scratch, Shared, aligned, parts_for};
use crate::team::share;
use partita_runtime::error::RuntimeError;
use std::ops::Range;

/// Multiply-adds below which another thread does not pay.
const GRAIN: usize = 200_000;
/// Floats of transformed data of a block: half of a second-level cache of 1 MiB.
const BLOCK_FLOATS: usize = 131_072;
/// Most products of one square.
const MAX_SQUARE: usize = 36;
/// Floats between two matrices of a block beyond their size, so that their rows do not share cache sets.
const GAP: usize = 16;

/// One way to filter, along one axis.
trait Filter {
    /// Results, and data they need.
    const RESULTS: usize;
    const SIDE: usize;

    /// Transforms `SIDE` data in place.
    unsafe fn data<V: Lanes>(d: &mut [V; 6]);
    /// Transforms `SIDE` products into `RESULTS` results.
    unsafe fn results<V: Lanes>(p: &[V; 6]) -> [V; 4];
}

/// F(2, 3) at 0, 1, -1 and infinity.
struct Two;
/// F(4, 3) at 0, 3/4, -3/4, 3/2, -3/2 and infinity.
struct Four;

impl Filter for Two {
    const RESULTS: usize = 2;
    const SIDE: usize = 4;

    #[inline(always)]
    unsafe fn data<V: Lanes>(d: &mut [V; 6]) {
        // SAFETY: the caller's contract.
        unsafe {
            let ([d0, d1, d2, d3, ..], minus) = (*d, V::splat(-1.0));
            d[0] = d0.fma(minus, d2);
            d[1] = d1.add(d2);
            d[2] = d1.fma(minus, d2);
            d[3] = d1.fma(minus, d3);
        }
    }

    #[inline(always)]
    unsafe fn results<V: Lanes>(p: &[V; 6]) -> [V; 4] {
        // SAFETY: the caller's contract.
        unsafe {
            let (sum, difference) = (p[1].add(p[2]), p[2].fma(V::splat(-1.0), p[1]));
            [p[0].add(sum), difference.add(p[3]), p[0], p[0]]
        }
    }
}

/// Two of the points; the others are their negatives and 0.
const A: f32 = 0.75;
const B: f32 = 1.5;

impl Filter for Four {
    const RESULTS: usize = 4;
    const SIDE: usize = 6;

    #[inline(always)]
    unsafe fn data<V: Lanes>(d: &mut [V; 6]) {
        // SAFETY: the caller's contract.
        unsafe {
            let [d0, d1, d2, d3, d4, d5] = *d;
            let (a, b) = (V::splat(A), V::splat(B));
            let (minus_a, minus_b) = (V::splat(-A), V::splat(-B));
            let (minus_aa, minus_bb) = (V::splat(-A * A), V::splat(-B * B));
            let (product, minus_sum) = (V::splat(A * A * B * B), V::splat(-(A * A + B * B)));
            let (even_a, odd_a) = (d2.fma(minus_bb, d4), d1.fma(minus_bb, d3));
            let (even_b, odd_b) = (d2.fma(minus_aa, d4), d1.fma(minus_aa, d3));
            d[0] = d0.fma(product, d2.fma(minus_sum, d4));
            d[1] = odd_a.fma(a, even_a);
            d[2] = odd_a.fma(minus_a, even_a);
            d[3] = odd_b.fma(b, even_b);
            d[4] = odd_b.fma(minus_b, even_b);
            d[5] = d1.fma(product, d3.fma(minus_sum, d5));
        }
    }

    #[inline(always)]
    unsafe fn results<V: Lanes>(p: &[V; 6]) -> [V; 4] {
        // SAFETY: the caller's contract.
        unsafe {
            let (zero, minus) = (V::splat(0.0), V::splat(-1.0));
            let (sum_a, difference_a) = (p[1].add(p[2]), p[2].fma(minus, p[1]));
            let (sum_b, difference_b) = (p[3].add(p[4]), p[4].fma(minus, p[3]));
            let powers = |a: V, b: V, n: i32, rest: V| {
                let (x, y) = (V::splat(A.powi(n)), V::splat(B.powi(n)));
                a.fma(x, b.fma(y, rest))
            };
            [
                p[0].add(sum_a.add(sum_b)),
                powers(difference_a, difference_b, 1, zero),
                powers(sum_a, sum_b, 2, zero),
                powers(difference_a, difference_b, 3, p[5]),
            ]
        }
    }
}

/// Element `y` of every column.
#[inline(always)]
fn line<V: Copy, const N: usize>(columns: &[[V; N]; 6], y: usize) -> [V; 6] {
    std::array::from_fn(|x| columns[x][y])
}

/// Pixels of one square of data, row by row.
type Sources = [*const f32; MAX_SQUARE];

per_lanes! { unsafe fn transform_2 = transform_two(sources: &Sources, channels: usize, out: *mut f32, step: usize) }
per_lanes! { unsafe fn transform_4 = transform_four(sources: &Sources, channels: usize, out: *mut f32, step: usize) }

#[inline(always)]
unsafe fn transform_two<V: Lanes>(sources: &Sources, channels: usize, out: *mut f32, step: usize) {
    // SAFETY: the same contract.
    unsafe { transform::<V, Two>(sources, channels, out, step) }
}

#[inline(always)]
unsafe fn transform_four<V: Lanes>(sources: &Sources, channels: usize, out: *mut f32, step: usize) {
    // SAFETY: the same contract.
    unsafe { transform::<V, Four>(sources, channels, out, step) }
}

/// Transforms one square of data; its products' channels go to `out`, `step` apart.
#[inline(always)]
unsafe fn transform<V: Lanes, F: Filter>(sources: &Sources, channels: usize, out: *mut f32, step: usize) {
    for channel in (0..channels).step_by(V::COUNT) {
        // The last vector may overlap the one before.
        let channel = channel.min(channels - V::COUNT);
        // SAFETY: every source has `channels` floats, and so has every product.
        unsafe {
            let mut half = [[V::splat(0.0); 6]; 6];
            for (x, half) in half.iter_mut().enumerate().take(F::SIDE) {
                for (y, value) in half.iter_mut().enumerate().take(F::SIDE) {
                    *value = V::load(sources[y * F::SIDE + x].wrapping_add(channel));
                }
                F::data(half);
            }
            for y in 0..F::SIDE {
                let mut row = line(&half, y);
                F::data(&mut row);
                for (x, value) in row.into_iter().enumerate().take(F::SIDE) {
                    value.store(out.wrapping_add((y * F::SIDE + x) * step + channel));
                }
            }
        }
    }
}

/// Where the results of one square go.
struct Square {
    /// Products, `step` apart, each with `columns` channels.
    products: *const f32,
    step: usize,
    columns: usize,
    /// The first result; pixels and rows are this far apart.
    y: *mut f32,
    pixel: usize,
    row: usize,
    /// Results that exist.
    height: usize,
    width: usize,
    /// What is added to and bounds them; in pixels, rows are `post_row` apart.
    post: Post,
    post_row: usize,
}

per_lanes! { unsafe fn results_2 = results_two(square: &Square) }
per_lanes! { unsafe fn results_4 = results_four(square: &Square) }

#[inline(always)]
unsafe fn results_two<V: Lanes>(square: &Square) {
    // SAFETY: the same contract.
    unsafe { results::<V, Two>(square) }
}

#[inline(always)]
unsafe fn results_four<V: Lanes>(square: &Square) {
    // SAFETY: the same contract.
    unsafe { results::<V, Four>(square) }
}

/// Transforms the products of one square into results.
#[inline(always)]
unsafe fn results<V: Lanes, F: Filter>(s: &Square) {
    for channel in (0..s.columns).step_by(V::COUNT) {
        let channel = channel.min(s.columns - V::COUNT);
        // SAFETY: products and results have these channels.
        unsafe {
            let mut half = [[V::splat(0.0); 4]; 6];
            for (x, half) in half.iter_mut().enumerate().take(F::SIDE) {
                let mut column = [V::splat(0.0); 6];
                for (y, column) in column.iter_mut().enumerate().take(F::SIDE) {
                    *column = V::load(s.products.wrapping_add((y * F::SIDE + x) * s.step + channel));
                }
                *half = F::results(&column);
            }
            for y in 0..F::RESULTS {
                if y >= s.height {
                    break;
                }
                let row = F::results(&line(&half, y));
                for (x, value) in row.into_iter().enumerate().take(F::RESULTS) {
                    if x < s.width {
                        finish(s, value, [y, x, channel]);
                    }
                }
            }
        }
    }
}

/// Adds and bounds what the epilogue says and stores one result.
#[inline(always)]
unsafe fn finish<V: Lanes>(s: &Square, mut value: V, [y, x, channel]: [usize; 3]) {
    let (post, at) = (&s.post, y * s.row + x * s.pixel + channel);
    // SAFETY: the result exists, and operands have its extent.
    unsafe {
        if post.active {
            if !post.column_bias.is_null() {
                value = value.add(V::load(post.column_bias.wrapping_add(channel)));
            }
            value = post.after_bias(value, y * s.post_row + x, at);
        }
        value.store(s.y.wrapping_add(at));
    }
}

struct Winograd {
    isa: Isa,
    sizes: Sizes,
    /// Results of a square along an axis: 2 or 4.
    m: usize,
    x: *const f32,
    w: *const f32,
    y: *mut f32,
    /// Squares in a row, in a column and in all images.
    across: usize,
    down: usize,
    squares: usize,
    /// Most squares of a block.
    block: usize,
    parts: usize,
    /// Whether members share a block and each computes some panels of columns, or each has its own squares.
    by_panels: bool,
    epilogue: Epilogue,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for Winograd {}
// SAFETY: as above.
unsafe impl Sync for Winograd {}

impl Winograd {
    fn side(&self) -> usize {
        self.m + 2
    }

    /// Floats between two matrices of transformed data, and of products.
    fn data_step(&self) -> usize {
        self.block * self.sizes.inputs + GAP
    }

    fn product_step(&self) -> usize {
        self.block * NR + GAP
    }

    fn data_bytes(&self) -> usize {
        aligned(self.side() * self.side() * self.data_step() * 4)
    }

    fn product_bytes(&self) -> usize {
        aligned(self.side() * self.side() * self.product_step() * 4)
    }

    /// Image, row and column of the first result of a square.
    fn at(&self, square: usize) -> (usize, usize, usize) {
        let (image, rest) = (square / (self.across * self.down), square % (self.across * self.down));
        (image, rest / self.across * self.m, rest % self.across * self.m)
    }

    /// The pixels of the data of a square; padding is read from `zeros`.
    fn sources(&self, square: usize, zeros: *const f32) -> Sources {
        let w = &self.sizes.window;
        let (image, top, left) = self.at(square);
        let side = self.side();
        let mut sources = [zeros; MAX_SQUARE];
        for y in 0..side {
            let Some(row) = (top + y).checked_sub(w.pad[1]).filter(|&row| row < w.input[1]) else { continue };
            let row = (image * w.input[1] + row) * w.input[2];
            for x in 0..side {
                if let Some(column) = (left + x).checked_sub(w.pad[2]).filter(|&column| column < w.input[2]) {
                    sources[y * side + x] = self.x.wrapping_add((row + column) * self.sizes.inputs);
                }
            }
        }
        sources
    }

    /// Transforms the data of `squares`, of the block that begins at square `first`.
    unsafe fn transform(&self, squares: Range<usize>, first: usize, data: *mut f32, zeros: *mut f32) {
        let channels = self.sizes.inputs;
        // SAFETY: the scratch has room for a pixel of zeros and for the block.
        unsafe {
            std::slice::from_raw_parts_mut(zeros, channels).fill(0.0);
            for square in squares {
                let sources = self.sources(square, zeros);
                let out = data.wrapping_add((square - first) * channels);
                match self.m {
                    2 => transform_2(self.isa, channels, &sources, channels, out, self.data_step()),
                    _ => transform_4(self.isa, channels, &sources, channels, out, self.data_step()),
                }
            }
        }
    }

    /// The results of `squares` in the columns of `panels`.
    unsafe fn compute(&self, squares: &Range<usize>, panels: Range<usize>, data: *const f32, local: *mut u8) {
        let products: *mut f32 = local.cast();
        let outputs = self.sizes.outputs;
        for panel in panels.clone() {
            let columns = (outputs - panel * NR).min(NR);
            // SAFETY: the scratch has room for the products of a block.
            unsafe {
                self.products(squares.len(), panel, columns, data, products);
                for square in squares.clone() {
                    self.results(
                        square,
                        panel * NR,
                        columns,
                        products.wrapping_add((square - squares.start) * NR),
                    );
                }
            }
        }
        if self.epilogue.is_program() && !panels.is_empty() {
            let columns = panels.start * NR..(panels.end * NR).min(outputs);
            // SAFETY: the results of the squares exist; the scratch behind the products is the epilogue's.
            unsafe { self.apply(squares, &columns, local.wrapping_add(self.product_bytes())) };
        }
    }

    /// All products of a block of `rows` squares for one panel of columns.
    unsafe fn products(&self, rows: usize, panel: usize, columns: usize, data: *const f32, out: *mut f32) {
        let (depth, square) = (self.sizes.inputs, self.side() * self.side());
        let (kernels, tiles) = (kernels(self.isa), rows.div_ceil(MR));
        for at in 0..square {
            let b = self.w.wrapping_add((panel * square + at) * depth * NR);
            for tile in 0..tiles {
                let (from, to) = (tile * rows / tiles, (tile + 1) * rows / tiles);
                let micro = Micro {
                    taps: crate::blocks::ONE,
                    depth,
                    a: data.wrapping_add(at * self.data_step() + from * depth),
                    a_row: depth,
                    a_step: 1,
                    b,
                    b_step: NR,
                    b_panel: depth * NR,
                    // Two tiles fetch the weights of the next product.
                    ahead: if tile < 2 { b.wrapping_add(depth * NR + tile * depth * LINE) } else { b },
                    ahead_step: if tiles > 1 { LINE } else { 2 * LINE },
                    c: out.wrapping_add(at * self.product_step() + from * NR),
                    ldc: NR,
                    cols: columns,
                    add: false,
                    post: Post::NONE,
                };
                // SAFETY: the rows lie in the block; the table has an entry for every number of rows.
                unsafe { kernels[to - from - 1](&micro) };
            }
        }
    }

    /// Results of one square from column `column` on.
    unsafe fn results(&self, square: usize, column: usize, columns: usize, products: *const f32) {
        let [_, height, width] = self.sizes.window.output;
        let (image, top, left) = self.at(square);
        let (pixel, channels) = ((image * height + top) * width + left, self.sizes.outputs);
        let square = Square {
            products,
            step: self.product_step(),
            columns,
            y: self.y.wrapping_add(pixel * channels + column),
            pixel: channels,
            row: width * channels,
            height: (height - top).min(self.m),
            width: (width - left).min(self.m),
            post: self.epilogue.post(pixel, column, channels),
            post_row: width,
        };
        // SAFETY: the results of the square exist.
        unsafe {
            match self.m {
                2 => results_2(self.isa, columns, &square),
                _ => results_4(self.isa, columns, &square),
            }
        }
    }

    /// Runs the epilogue's program over the results of `squares`, one row of pixels after the other.
    unsafe fn apply(&self, squares: &Range<usize>, columns: &Range<usize>, scratch: *mut u8) {
        let [_, height, width] = self.sizes.window.output;
        let mut square = squares.start;
        while square < squares.end {
            let (image, top, left) = self.at(square);
            let count = (self.across - left / self.m).min(squares.end - square);
            let right = (left + count * self.m).min(width);
            for row in top..(top + self.m).min(height) {
                let pixel = (image * height + row) * width + left;
                let channels = self.sizes.outputs;
                // SAFETY: the pixels exist.
                unsafe {
                    self.epilogue.apply(pixel, right - left, columns.start, columns.len(), channels, scratch);
                }
            }
            square += count;
        }
    }

    /// Every member computes squares of its own.
    fn launch_squares(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let panels = self.sizes.outputs.div_ceil(NR);
        cx.run(self.parts, &|part| {
            let own = share(self.squares, 1, part, self.parts);
            let local = cx.local(part);
            let data: *mut f32 = local.cast();
            let zeros = local.wrapping_add(self.data_bytes());
            let rest = zeros.wrapping_add(aligned(self.sizes.inputs * 4));
            let blocks = own.len().div_ceil(self.block.max(1));
            for block in 0..blocks {
                let squares = share(own.len(), 1, block, blocks);
                let squares = own.start + squares.start..own.start + squares.end;
                // SAFETY: members compute different results with own scratch.
                unsafe {
                    self.transform(squares.clone(), squares.start, data, zeros.cast());
                    self.compute(&squares, 0..panels, data, rest);
                }
            }
        })
    }

    /// All members work on one block after the other.
    fn launch_panels(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let panels = self.sizes.outputs.div_ceil(NR);
        let data = Shared(cx.shared.cast::<f32>());
        let blocks = self.squares.div_ceil(self.block.max(1));
        for block in 0..blocks {
            let squares = share(self.squares, 1, block, blocks);
            cx.run(self.parts, &|part| {
                let own = share(squares.len(), 1, part, self.parts);
                let own = squares.start + own.start..squares.start + own.end;
                // SAFETY: members transform different squares.
                unsafe { self.transform(own, squares.start, data.get(), cx.local(part).cast()) };
            })?;
            cx.run(self.parts, &|part| {
                let panels = share(panels, 1, part, self.parts);
                let local = cx.local(part).wrapping_add(aligned(self.sizes.inputs * 4));
                // SAFETY: members compute different columns with own scratch.
                unsafe { self.compute(&squares, panels, data.get(), local) };
            })?;
        }
        Ok(())
    }
}

impl Prepared for Winograd {
    fn scratch(&self) -> Scratch {
        let zeros = aligned(self.sizes.inputs * 4);
        let local = zeros + self.product_bytes() + aligned(self.epilogue.scratch_bytes());
        match self.by_panels {
            true => Scratch { shared: self.data_bytes(), local },
            false => Scratch { shared: 0, local: local + self.data_bytes() },
        }
    }

    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        if self.by_panels { self.launch_panels(cx) } else { self.launch_squares(cx) }
    }
}

/// Prepares a `conv` step with the channels last whose weight is packed for it; sizes were checked.
pub(crate) fn prepare(call: &Call<'_>, sizes: Sizes) -> Result<Box<dyn Prepared>, RuntimeError> {
    let (x, w, y) = (call.input(0)?, call.input(1)?, call.output(0)?);
    let Some(Layout::Winograd { m, inputs, outputs }) = w.layout else {
        return Err(call.bad("the weight is packed for another kernel"));
    };
    let window = &sizes.window;
    let fits = (inputs, outputs) == (sizes.inputs, sizes.outputs)
        && sizes.groups == 1
        && window.kernel == [1, 3, 3]
        && window.stride == [1; 3]
        && window.dilation == [1; 3]
        && (window.input[0], window.output[0], window.pad[0]) == (1, 1, 0);
    call.ensure(fits, "the weight is packed for other sizes")?;
    let [_, height, width] = window.output;
    let (across, down) = (width.div_ceil(m), height.div_ceil(m));
    let squares = sizes.batch * across * down;
    let square = (m + 2) * (m + 2);
    let fit = (BLOCK_FLOATS / square.saturating_mul(inputs).max(1) / MR * MR).max(MR);
    let members =
        parts_for(squares.saturating_mul(square).saturating_mul(inputs * outputs), GRAIN, call.members);
    let by_panels = members > 1 && outputs > squares && outputs.div_ceil(NR) >= members;
    let most = if by_panels { squares } else { squares.div_ceil(members) };
    // A little more than fits is better than a second block that reads all weights again.
    let blocks = ((2 * most + fit) / (2 * fit)).max(1);
    let matrix = Matrix { columns: outputs, rows: sizes.batch * height * width };
    Ok(Box::new(Winograd {
        isa: call.isa,
        m,
        x: x.f32(),
        w: w.f32(),
        y: y.f32(),
        across,
        down,
        squares,
        block: most.div_ceil(blocks),
        parts: members,
        by_panels,
        epilogue: Epilogue::over_columns(call, n_own(call), matrix, own_bias(call))?,
        sizes,
    }))
}
