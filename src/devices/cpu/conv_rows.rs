//! Convolution whose result has its channels last: the product of pixels and weights, without a matrix of windows.
//!
//! Rows of the product are result pixels, columns output channels, the depth kernel elements and in them input channels.
//! Neighbouring pixels of a row of results are a fixed distance apart in the data, so the micro-kernel reads A where it
//! lies, one segment per kernel element. What windows miss above and below the image is left out of the depth; where
//! they reach over its sides, the rows of the data that a patch of results needs are first copied between zeros.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::blocks::{COLUMNS, Columns, DEPTH, Format, ONE, Rows, copy_floats};
use crate::conv::{Sizes, n_own, own_bias};
use crate::conv_bf16::HalfConv;
use crate::epilogue::{Epilogue, Matrix};
use crate::gemm::{Target, area};
use crate::isa::Isa;
use crate::layout::{Layout, MR, NR};
use crate::micro::{LINE, Micro, Post, kernels};
use crate::prepared::{Call, Cx, Operand, Prepared, Scratch, Shared, aligned, parts_for};
use crate::strip::{Place, Strides, Strip};
use crate::team::share;
use crate::window::Channels;
use partita_plan::ElementType;
use partita_runtime::error::RuntimeError;
use std::ops::Range;

/// Multiply-adds below which another thread does not pay.
const GRAIN: usize = 200_000;
/// Floats of data a patch should need: a quarter of a second-level cache of 1 MiB.
const PATCH_FLOATS: usize = 65_536;
/// Most pixels of a row of results in a patch, and of a patch whose sums are written more than once.
const PATCH_PIXELS: usize = 40 * MR;
/// Results between two runs of an epilogue that is a program: they should still be in the second cache level.
const PROGRAM_FLOATS: usize = 65_536;
/// Bytes per cycle that a core reads from memory, for choosing how to split the work.
const READ_RATE: usize = 8;

/// The weight as the product reads it.
#[derive(Clone, Copy)]
pub(crate) enum Weight {
    /// Layout `conv-b`.
    Packed(*const f32),
    /// Output channels, input channels, kernel elements.
    Raw(*const f32),
}

/// A convolution that is the product of two matrices: one element per window, all pixels in a row.
struct Pointwise {
    common: Common,
    pixels: usize,
}

/// Any other.
struct Direct {
    common: Common,
    /// Where pixels of the data are, and where the kernels read them.
    data: Strides,
    read: Strides,
    strip: Option<Strip>,
    /// Offsets of the kernel elements in what is read.
    taps: Vec<usize>,
    /// Parts into which a row of results is cut.
    pieces: usize,
    /// Rows of results per patch.
    rows: usize,
}

/// What both share.
struct Common {
    isa: Isa,
    sizes: Sizes,
    x: *const f32,
    w: Weight,
    y: *mut f32,
    epilogue: Epilogue,
    /// Parts over rows and over panels of columns.
    grid: (usize, usize),
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for Common {}
// SAFETY: as above.
unsafe impl Sync for Common {}

impl Common {
    /// Output channels of all groups: the distance of two result pixels.
    fn channels(&self) -> usize {
        self.sizes.outputs * self.sizes.groups
    }

    /// Panels of columns of one group.
    fn panels(&self) -> usize {
        self.sizes.outputs.div_ceil(NR)
    }

    fn packed_bytes(&self) -> usize {
        match self.w {
            Weight::Packed(_) => 0,
            Weight::Raw(_) => self.sizes.groups * self.panels() * NR * self.sizes.depth() * 4,
        }
    }

    /// The packed weight; packs it into the shared scratch when it is not.
    fn packed(&self, cx: &Cx<'_>) -> Result<*const f32, RuntimeError> {
        let source = match self.w {
            Weight::Packed(ptr) => return Ok(ptr),
            Weight::Raw(ptr) => Shared(ptr.cast_mut()),
        };
        let out = Shared(cx.shared.cast::<f32>());
        let parts = self.grid.0 * self.grid.1;
        cx.run(parts, &|part| {
            for panel in share(self.panels() * self.sizes.groups, 1, part, parts) {
                // SAFETY: the weight was checked; members fill different panels of scratch of sufficient size.
                unsafe { self.pack_panel(panel, source.get(), out.get()) };
            }
        })?;
        Ok(out.get())
    }

    unsafe fn pack_panel(&self, panel: usize, w: *const f32, out: *mut f32) {
        let (s, taps) = (&self.sizes, self.sizes.window.taps());
        let (group, first) = (panel / self.panels(), panel % self.panels() * NR);
        let count = (s.outputs - first).min(NR);
        let out = out.wrapping_add(panel * s.depth() * NR);
        for row in 0..s.depth() {
            let (tap, input) = (row / s.inputs, row % s.inputs);
            for column in 0..NR {
                let from = ((group * s.outputs + first + column) * s.inputs + input) * taps + tap;
                // SAFETY: the caller's contract.
                unsafe { *out.add(row * NR + column) = if column < count { *w.add(from) } else { 0.0 } };
            }
        }
    }
}

impl Pointwise {
    /// The data as a matrix.
    fn rows(&self) -> Rows<'static> {
        let depth = self.common.sizes.inputs;
        Rows { ptr: self.common.x, row: depth, step: 1, taps: ONE, depth }
    }
}

impl Prepared for Pointwise {
    fn scratch(&self) -> Scratch {
        let c = &self.common;
        let copy = copy_floats(&self.rows(), Format::F32, self.pixels, c.sizes.outputs);
        Scratch {
            shared: aligned(c.packed_bytes()),
            local: aligned(copy * 4) + aligned(c.epilogue.scratch_bytes()),
        }
    }

    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let c = &self.common;
        let (depth, columns) = (c.sizes.inputs, c.sizes.outputs);
        let b = Columns::packed(c.packed(cx)?, depth);
        cx.run(c.grid.0 * c.grid.1, &|part| {
            let rows = share(self.pixels, MR, part % c.grid.0, c.grid.0);
            let columns = share(columns, NR, part / c.grid.0, c.grid.1);
            let a = self.rows();
            let to = Target { c: c.y, ldc: c.channels(), row: 0 };
            // SAFETY: members compute different parts of the result; sizes were checked against the operands.
            unsafe { area(c.isa, &a, &b, &to, &c.epilogue, (rows, columns), cx.local(part)) };
        })
    }
}

/// Result pixels that are computed together: rows `rows` of a plane, from pixel `from` to `to`.
struct Patch {
    /// Plane of results, of all images.
    plane: usize,
    rows: Range<usize>,
    from: usize,
    to: usize,
}

/// The part of a patch's product over some neighbouring panels of columns.
struct Product<'a> {
    patch: &'a Patch,
    b: Columns,
    columns: usize,
    c: *mut f32,
    post: Post,
}

/// What one row of results takes of a part of the depth.
struct Cut<'a> {
    taps: &'a [usize],
    /// Row of B where it begins.
    from: usize,
    add: bool,
    last: bool,
}

impl Direct {
    /// The patch that starts at unit `unit` (a piece of a row of results) and the unit behind it, at most `end`.
    fn patch(&self, unit: usize, end: usize) -> (Patch, usize) {
        let [_, height, width] = self.common.sizes.window.output;
        let (line, piece) = (unit / self.pieces, unit % self.pieces);
        let (plane, top) = (line / height, line % height);
        let rows = if self.pieces > 1 { 1 } else { self.rows.min(height - top).min(end - unit) };
        let columns = share(width, MR, piece, self.pieces);
        let patch = Patch { plane, rows: top..top + rows, from: columns.start, to: columns.end };
        (patch, unit + rows)
    }

    /// Kernel elements of which row `row` of results has any; others would only meet padding.
    fn valid(&self, row: usize) -> Range<usize> {
        let w = &self.common.sizes.window;
        let [depth, height, width] = w.kernel;
        if depth > 1 {
            return 0..self.taps.len();
        }
        let (top, step) = (row * w.stride[1], w.dilation[1]);
        let from = w.pad[1].saturating_sub(top).div_ceil(step).min(height);
        let to = (w.input[1] + w.pad[1]).saturating_sub(top).div_ceil(step).clamp(from, height);
        from * width..to * width
    }

    /// All panels in `panels` (of all groups) for one patch.
    ///
    /// # Safety
    /// The patch lies in the result, `b` is the packed weight, the scratch is this member's.
    unsafe fn run(&self, patch: &Patch, panels: Range<usize>, b: *const f32, local: *mut u8) {
        let c = &self.common;
        let w = &c.sizes.window;
        let place =
            Place { plane: patch.plane, row: patch.rows.start, rows: patch.rows.len(), from: patch.from };
        let (origin, scratch) = match &self.strip {
            // SAFETY: the scratch has room for the strip.
            Some(strip) => unsafe {
                strip.fill(c.x, w, &self.data, &place, local.cast());
                (local.cast::<f32>().cast_const(), local.wrapping_add(aligned(strip.floats() * 4)))
            },
            None => (self.data.origin(c.x, w, &place), local),
        };
        let pixels = patch.rows.len() * (patch.to - patch.from);
        let most = if c.epilogue.is_program() {
            (PROGRAM_FLOATS / pixels / NR).clamp(4, COLUMNS / NR)
        } else {
            COLUMNS / NR
        };
        let mut panel = panels.start;
        while panel < panels.end {
            let (group, first) = (panel / c.panels(), panel % c.panels());
            let count = most.min(c.panels() - first).min(panels.end - panel);
            let column = first * NR;
            let columns = (count * NR).min(c.sizes.outputs - column);
            let a = Rows {
                ptr: origin.wrapping_add(group * c.sizes.inputs * self.read.channel),
                row: w.stride[2].wrapping_mul(self.read.pixel),
                step: self.read.channel,
                taps: &self.taps,
                depth: c.sizes.inputs,
            };
            let b = Columns::packed(b.wrapping_add(panel * NR * c.sizes.depth()), c.sizes.depth());
            // SAFETY: the caller's contract; panels lie in one group.
            unsafe { self.columns(patch, a, b, group * c.sizes.outputs + column, columns, scratch) };
            panel += count;
        }
    }

    /// Output channels `column..column + columns`, of one group, of a patch.
    unsafe fn columns(
        &self,
        patch: &Patch,
        a: Rows<'_>,
        b: Columns,
        column: usize,
        columns: usize,
        scratch: *mut u8,
    ) {
        let c = &self.common;
        let [_, height, width] = c.sizes.window.output;
        let pixel = (patch.plane * height + patch.rows.start) * width + patch.from;
        let product = Product {
            patch,
            b,
            columns,
            c: c.y.wrapping_add(pixel * c.channels() + column),
            post: c.epilogue.post(pixel, column, c.channels()),
        };
        let (k, mut done) = (a.k(), 0);
        loop {
            let (part, end) = a.part(done);
            // SAFETY: a part of the depth of a product in the result.
            unsafe { self.slab(&product, &part, done, end) };
            done = end;
            if done >= k {
                break;
            }
        }
        for row in 0..patch.rows.len() {
            // SAFETY: the pixels lie in the result.
            unsafe {
                let count = patch.to - patch.from;
                c.epilogue.apply(pixel + row * width, count, column, columns, c.channels(), scratch);
            }
        }
    }

    /// What row `row` takes of the part of the depth from `done` to `end`; `None` for nothing.
    fn cut<'a>(&self, part: &Rows<'a>, row: usize, done: usize, end: usize) -> Option<Cut<'a>> {
        let (valid, depth) = (self.valid(row), self.common.sizes.inputs.max(1));
        let first = done / depth;
        let from = valid.start.max(first);
        let to = valid.end.min(first + part.taps.len());
        // A row whose windows only meet padding is written with the first part.
        let empty = valid.is_empty();
        if from >= to && !(empty && done == 0) {
            return None;
        }
        let taps = if from < to { &part.taps[from - first..to - first] } else { &[] };
        Some(Cut {
            taps,
            from: done + (from.max(first) - first) * depth,
            add: done > valid.start * depth && !empty,
            last: end >= valid.end * depth || empty,
        })
    }

    /// All tiles of a patch over one part of the depth.
    unsafe fn slab(&self, product: &Product<'_>, part: &Rows<'_>, done: usize, end: usize) {
        let (patch, ldc) = (product.patch, self.common.channels());
        let width = patch.to - patch.from;
        let tiles = width.div_ceil(MR);
        let kernels = kernels(self.common.isa);
        let row_step = self.common.sizes.window.stride[1].wrapping_mul(self.read.row);
        for column in (0..product.columns).step_by(NR) {
            let (next, mut count) = (product.b.at(done, column + NR), 0);
            for (line, row) in patch.rows.clone().enumerate() {
                let Some(cut) = self.cut(part, row, done, end) else { continue };
                let b = product.b.at(cut.from, column);
                let first = line * self.common.sizes.window.output[2];
                for tile in 0..tiles {
                    let (from, to) = (tile * width / tiles, (tile + 1) * width / tiles);
                    let micro = Micro {
                        taps: cut.taps,
                        depth: part.depth,
                        a: part.ptr.wrapping_add(
                            line.wrapping_mul(row_step).wrapping_add(from.wrapping_mul(part.row)),
                        ),
                        a_row: part.row,
                        a_step: part.step,
                        b,
                        b_step: product.b.step,
                        b_panel: product.b.panel,
                        // Two tiles fetch the next panel.
                        ahead: if count < 2 { next.wrapping_add(count * (end - done) * LINE) } else { b },
                        ahead_step: LINE,
                        c: product.c.wrapping_add((first + from) * ldc + column),
                        ldc,
                        cols: (product.columns - column).min(NR),
                        add: cut.add,
                        post: if cut.last { product.post.at(first + from, column, ldc) } else { Post::NONE },
                    };
                    count += 1;
                    // SAFETY: the tile lies in the result; the table has an entry for every number of rows.
                    unsafe { kernels[to - from - 1](&micro) };
                }
            }
        }
    }
}

impl Prepared for Direct {
    fn scratch(&self) -> Scratch {
        let c = &self.common;
        let strip = self.strip.as_ref().map_or(0, Strip::floats);
        let local = aligned(strip * 4) + aligned(c.epilogue.scratch_bytes());
        Scratch { shared: aligned(c.packed_bytes()), local }
    }

    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let c = &self.common;
        let b = Shared(c.packed(cx)?.cast_mut());
        let [planes, height, _] = c.sizes.window.output;
        let units = c.sizes.batch * planes * height * self.pieces;
        cx.run(c.grid.0 * c.grid.1, &|part| {
            let rows = share(units, 1, part % c.grid.0, c.grid.0);
            let panels = share(c.panels() * c.sizes.groups, 1, part / c.grid.0, c.grid.1);
            let mut unit = rows.start;
            while unit < rows.end {
                let (patch, next) = self.patch(unit, rows.end);
                // SAFETY: members compute different parts of the result with own scratch.
                unsafe { self.run(&patch, panels.clone(), b.get(), cx.local(part)) };
                unit = next;
            }
        })
    }
}

/// How a team is cut into a grid over `rows` units and `panels` of columns: the cut whose slowest member is done first,
/// when every member reads its rows and its panels once.
fn grid(parts: usize, rows: (usize, usize), panels: (usize, usize), cycles: usize) -> (usize, usize) {
    let cost = |by_rows: usize| {
        let (r, p) = (rows.0.div_ceil(by_rows), panels.0.div_ceil(parts / by_rows));
        let bytes = r.saturating_mul(rows.1).saturating_add(p.saturating_mul(panels.1));
        r.saturating_mul(p).saturating_mul(cycles).saturating_add(bytes / READ_RATE)
    };
    let by_rows = (1..=parts).filter(|n| parts.is_multiple_of(*n)).min_by_key(|&n| cost(n)).unwrap_or(1);
    (by_rows, parts / by_rows)
}

/// Reads and checks the operands of a `conv` whose result has its channels last.
pub(crate) fn sizes(call: &Call<'_>, layout: Channels) -> Result<Sizes, RuntimeError> {
    let (x, w, y) = (call.input(0)?, call.input(1)?, call.output(0)?);
    let float = [x, w, y].iter().all(|o| o.dtype == ElementType::F32);
    call.ensure(float, "convolutions are computed in f32")?;
    call.ensure(x.layout.is_none() && y.layout.is_none(), "only the weight may be packed")?;
    let axes = x.shape.len();
    call.ensure(
        axes >= 3 && w.shape.len() == axes && y.shape.len() == axes,
        "operands differ in their axes",
    )?;
    let window =
        crate::window::Window::over(call, layout.spatial_in(x), &w.shape[2..], Channels::Last.spatial_in(y))?;
    let groups = usize::try_from(call.kernel.int("group").unwrap_or(1)).unwrap_or(0);
    call.ensure(groups > 0 && w.shape[0].is_multiple_of(groups), "groups do not divide the channels")?;
    let sizes = Sizes { batch: x.shape[0], groups, inputs: w.shape[1], outputs: w.shape[0] / groups, window };
    let channels = sizes.inputs.checked_mul(groups);
    call.ensure(channels == Some(layout.count_in(x)), "input channels do not fit the weight")?;
    call.ensure(
        y.shape[0] == x.shape[0] && Channels::Last.count_in(y) == w.shape[0],
        "the result has the wrong batch or channels",
    )?;
    let depth = w.shape[1].checked_mul(window.taps()).filter(|&d| d < 1 << 40);
    call.ensure(depth.is_some(), "the weight is too large")?;
    crate::conv::check_bias(call, w.shape[0])?;
    Ok(sizes)
}

fn weight(call: &Call<'_>, w: &Operand, s: &Sizes) -> Result<Weight, RuntimeError> {
    match w.layout {
        None => Ok(Weight::Raw(w.f32())),
        Some(Layout::ConvB { groups, depth, columns })
            if (groups, depth, columns) == (s.groups, s.depth(), s.outputs) =>
        {
            Ok(Weight::Packed(w.f32()))
        }
        Some(_) => Err(call.bad("the weight is packed for other sizes")),
    }
}

/// Prepares a `conv` step whose result has its channels last.
pub(crate) fn prepare(call: &Call<'_>, layout: Channels) -> Result<Box<dyn Prepared>, RuntimeError> {
    let sizes = sizes(call, layout)?;
    let (x, w, y) = (call.input(0)?, call.input(1)?, call.output(0)?);
    if y.len() == 0 {
        return Ok(Box::new(crate::reference::Nothing));
    }
    if let (Channels::Last, Some(Layout::Winograd { .. })) = (layout, w.layout) {
        return crate::winograd::prepare(call, sizes);
    }
    let pixels = sizes.batch * sizes.window.output_len();
    let matrix = Matrix { columns: sizes.outputs * sizes.groups, rows: pixels };
    let epilogue = Epilogue::over_columns(call, n_own(call), matrix, own_bias(call))?;
    let work = pixels.saturating_mul(matrix.columns).saturating_mul(sizes.depth());
    let parts = parts_for(work, GRAIN, call.members);
    if let Some(Layout::ConvBHalf { groups, depth, columns }) = w.layout {
        let fits = (groups, depth, columns) == (sizes.groups, sizes.depth(), sizes.outputs);
        call.ensure(fits, "the weight is packed for other sizes")?;
        let (data, isa) = (Strides::of(&sizes, layout), call.isa);
        let (x, w, y) = (x.f32().cast_const(), w.f32().cast_const(), y.f32());
        return Ok(Box::new(HalfConv { isa, sizes, data, x, w, y, epilogue, parts }));
    }
    let w = weight(call, w, &sizes)?;
    let panel = (sizes.groups * sizes.outputs.div_ceil(NR), sizes.depth() * NR * 4);
    let common = |grid| Common { isa: call.isa, sizes, x: x.f32(), w, y: y.f32(), epilogue, grid };
    if layout == Channels::Last && sizes.groups == 1 && sizes.window.is_pointwise() {
        let rows = (pixels.div_ceil(MR), sizes.inputs * MR * 4);
        let grid = grid(parts, rows, panel, MR * sizes.depth());
        return Ok(Box::new(Pointwise { common: common(grid), pixels }));
    }
    let window = &sizes.window;
    let (pieces, rows, strip) = patches(call, &sizes, layout)?;
    let units = sizes.batch * window.output[0] * window.output[1] * pieces;
    let width = window.output[2].div_ceil(pieces);
    let row = sizes.inputs * sizes.groups * window.input[2].div_ceil(pieces) * window.stride[1] * 4;
    let grid = grid(parts, (units, row), panel, width * sizes.depth());
    let data = Strides::of(&sizes, layout);
    let read = strip.as_ref().map_or(data, |s| s.strides);
    let taps = read.taps(window, strip.is_some());
    Ok(Box::new(Direct { common: common(grid), data, read, strip, taps, pieces, rows }))
}

/// How results are cut: parts of a row of results, rows per patch, and the strip of data a patch needs, if any.
fn patches(
    call: &Call<'_>,
    sizes: &Sizes,
    layout: Channels,
) -> Result<(usize, usize, Option<Strip>), RuntimeError> {
    let w = &sizes.window;
    let [_, height, width] = w.output;
    let too_large = || call.bad("the data is too large");
    let channels = sizes.inputs * sizes.groups;
    let line = |width: usize| w.reach(2, width)?.checked_mul(channels)?.checked_mul(w.kernel[0]);
    let most = if sizes.depth() > DEPTH { PATCH_PIXELS } else { PATCH_FLOATS };
    let pieces = width.div_ceil(PATCH_PIXELS);
    let piece = width.div_ceil(MR).div_ceil(pieces) * MR;
    let floats = line(piece.min(width)).ok_or_else(too_large)?;
    let halo = (w.kernel[1] - 1).saturating_mul(w.dilation[1]);
    let lines = (PATCH_FLOATS / floats.max(1)).saturating_sub(halo) / w.stride[1];
    let rows = lines.min(most / width.max(1)).clamp(1, height);
    let rows = height.div_ceil(height.div_ceil(rows));
    let rows = if pieces > 1 { 1 } else { rows };
    let strip = match w.overhangs() {
        false => None,
        true => Some(Strip::new(sizes, layout, rows, piece.min(width)).ok_or_else(too_large)?),
    };
    Ok((pieces, rows, strip))
}
