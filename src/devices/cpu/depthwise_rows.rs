//! Depthwise convolution with the channels last: vectors over channels, several pixels of a row at once.
//!
//! A tile is a run of neighbouring result pixels of one row whose sums stay in registers; every vector of the data
//! that is read serves all of them. Tiles of one step have one length, the last tile of a row begins earlier and
//! computes some pixels again. Padding is left out: a tile knows which of its input columns exist, and gets only the
//! kernel rows that do. Tiles run down a band of rows for a chunk of channels, so that input rows are read from the
//! first cache level the second time.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::conv::{n_own, own_bias};
use crate::epilogue::{Epilogue, Matrix};
use crate::gemm::grid;
use crate::isa::Isa;
use crate::lanes::Lanes;
use crate::micro::Post;
use crate::prepared::{Call, Cx, Prepared, Scratch, aligned, parts_for};
use crate::team::share;
use crate::window::Window;
use partita_runtime::error::RuntimeError;
use std::ops::Range;

/// Multiply-adds below which another thread does not pay.
const GRAIN: usize = 100_000;
/// Channels of a chunk: some rows of them fit the first cache level.
const CHUNK: usize = 64;
/// Rows of a band.
const BAND: usize = 16;
/// Floats of a band when its results go through a program afterwards, so that they are still in cache.
const PROGRAM_FLOATS: usize = 8192;
/// Members of a team share channels in multiples of this.
const PANEL: usize = 32;

/// One tile: a run of result pixels, all kernel rows that exist, a range of channels.
struct Tile {
    /// First input column of the tile (it may not exist) in the first kernel row.
    x: *const f32,
    /// Distance of two kernel rows in the data, and how many there are.
    x_row: usize,
    rows: usize,
    /// Input columns, counted from the tile's first, that exist.
    columns: Range<usize>,
    w: *const f32,
    y: *mut f32,
    /// Distance of two pixels.
    pixel: usize,
    channels: Range<usize>,
    /// Kernel columns, their distance and that of two windows, in pixels.
    width: usize,
    dilation: usize,
    stride: usize,
    post: Post,
}

type Kernel = unsafe fn(&Tile);

impl Tile {
    /// Calls `sums` for every vector of channels and stores what it computes, finished.
    #[inline(always)]
    unsafe fn each<V: Lanes, const P: usize>(&self, sums: impl Fn(usize, &mut [V; P])) {
        let post = &self.post;
        let mut next = self.channels.start;
        while next < self.channels.end {
            let channel = next.min(self.channels.end - V::COUNT);
            // SAFETY: the tile's pixels have the channels, operands of `post` too.
            unsafe {
                let bias = post.column_bias;
                let bias = if bias.is_null() { V::splat(0.0) } else { V::load(bias.wrapping_add(channel)) };
                let mut values = [bias; P];
                sums(channel, &mut values);
                for (p, value) in values.into_iter().enumerate() {
                    let at = p * self.pixel + channel;
                    post.after_bias(value, p, at).store(self.y.wrapping_add(at));
                }
            }
            next += V::COUNT;
        }
    }
}

/// Adds input column `IX` to the pixels whose windows have it.
#[inline(always)]
unsafe fn column<V: Lanes, const IX: usize, const K: usize, const S: usize, const P: usize>(
    tile: &Tile,
    row: *const f32,
    weights: &[V; K],
    sums: &mut [V; P],
) {
    let last = (P - 1) * S + K - 1;
    // Padding is narrower than the kernel, so only the outermost columns can be missing.
    let missing = (IX < K - 1 && IX < tile.columns.start) || (IX + K > last + 1 && IX >= tile.columns.end);
    if IX > last || missing {
        return;
    }
    // SAFETY: the column exists and has the channels.
    unsafe {
        let value = V::load(row.wrapping_add(IX * tile.pixel));
        for (p, sum) in sums.iter_mut().enumerate() {
            if IX >= p * S && IX - p * S < K {
                *sum = value.fma(weights[IX - p * S], *sum);
            }
        }
    }
}

/// `P` pixels of a kernel with `K` neighbouring columns and stride `S`.
#[inline(always)]
unsafe fn fixed<V: Lanes, const K: usize, const S: usize, const P: usize>(tile: &Tile) {
    macro_rules! columns {
        ($row:ident, $weights:ident, $sums:ident: $($ix:literal)*) => {
            $(column::<V, $ix, K, S, P>(tile, $row, &$weights, $sums);)*
        };
    }
    // SAFETY: the tile's contract.
    unsafe {
        tile.each::<V, P>(|channel, sums| {
            let (mut row, mut w) = (tile.x.wrapping_add(channel), tile.w.wrapping_add(channel));
            for _ in 0..tile.rows {
                let weights: [V; K] = std::array::from_fn(|k| V::load(w.wrapping_add(k * tile.pixel)));
                columns!(row, weights, sums: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18);
                row = row.wrapping_add(tile.x_row);
                w = w.wrapping_add(K * tile.pixel);
            }
        });
    }
}

/// `P` pixels of any kernel.
#[inline(always)]
unsafe fn any<V: Lanes, const P: usize>(tile: &Tile) {
    let reach = (P - 1) * tile.stride + (tile.width - 1) * tile.dilation;
    let inside = tile.columns.start == 0 && reach < tile.columns.end;
    let step = tile.stride * tile.pixel;
    // SAFETY: the tile's contract.
    unsafe {
        tile.each::<V, P>(|channel, sums| {
            let (mut row, mut w) = (tile.x.wrapping_add(channel), tile.w.wrapping_add(channel));
            for _ in 0..tile.rows {
                for tap in 0..tile.width {
                    let weight = V::load(w.wrapping_add(tap * tile.pixel));
                    let first = tap * tile.dilation;
                    let from = row.wrapping_add(first * tile.pixel);
                    for (p, sum) in sums.iter_mut().enumerate() {
                        if inside || tile.columns.contains(&(first + p * tile.stride)) {
                            *sum = V::load(from.wrapping_add(p * step)).fma(weight, *sum);
                        }
                    }
                }
                row = row.wrapping_add(tile.x_row);
                w = w.wrapping_add(tile.width * tile.pixel);
            }
        });
    }
}

/// Defines the kernels of one kind of vector: `fixed` and `any` as functions with target features.
macro_rules! kernels {
    ($name:ident, $vector:ty $(, $features:literal)?) => {
        mod $name {
            use super::{Kernel, Tile};

            $(#[target_feature(enable = $features)])?
            unsafe fn fixed<const K: usize, const S: usize, const P: usize>(tile: &Tile) {
                // SAFETY: the tile's contract.
                unsafe { super::fixed::<$vector, K, S, P>(tile) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn any<const P: usize>(tile: &Tile) {
                // SAFETY: the tile's contract.
                unsafe { super::any::<$vector, P>(tile) }
            }

            const fn lengths<const K: usize, const S: usize>() -> [Kernel; 5] {
                [fixed::<K, S, 4>, fixed::<K, S, 5>, fixed::<K, S, 6>, fixed::<K, S, 7>, fixed::<K, S, 8>]
            }

            /// For three and five columns, strides one and two, and four to eight pixels.
            pub(super) static FIXED: [[Kernel; 5]; 4] =
                [lengths::<3, 1>(), lengths::<3, 2>(), lengths::<5, 1>(), lengths::<5, 2>()];
            /// For one, two, four and eight pixels.
            pub(super) static ANY: [Kernel; 4] = [any::<1>, any::<2>, any::<4>, any::<8>];
        }
    };
}

kernels!(portable, [f32; 4]);
kernels!(single, [f32; 1]);
#[cfg(target_arch = "x86_64")]
kernels!(avx2, std::arch::x86_64::__m256, "avx2,fma");
#[cfg(target_arch = "x86_64")]
kernels!(avx512, std::arch::x86_64::__m512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2");

type Tables = (&'static [[Kernel; 5]; 4], &'static [Kernel; 4]);

/// The kernels with the widest vectors that `channels` channels fill.
fn tables(isa: Isa, channels: usize) -> Tables {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if channels >= 16 => (&avx512::FIXED, &avx512::ANY),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx2 if channels >= 8 => (&avx2::FIXED, &avx2::ANY),
        _ if channels >= 4 => (&portable::FIXED, &portable::ANY),
        _ => (&single::FIXED, &single::ANY),
    }
}

/// The kernel for a window and the pixels of its tiles.
fn choose(isa: Isa, window: &Window, channels: usize) -> (Kernel, usize) {
    let (fixed, any) = tables(isa, channels);
    let [.., columns] = window.output;
    let row = match (window.kernel[2], window.stride[2], window.dilation[2]) {
        (3, 1, 1) => Some(0),
        (3, 2, 1) => Some(1),
        (5, 1, 1) => Some(2),
        (5, 2, 1) => Some(3),
        _ => None,
    };
    let reach = (columns - 1) * window.stride[2] + window.kernel[2];
    let narrow =
        window.pad[2] < window.kernel[2] && reach < window.input[2] + window.pad[2] + window.kernel[2];
    if let (Some(row), true, 4..) = (row, narrow, columns) {
        let pixels =
            (4..=columns.min(8)).min_by_key(|&p| (columns.div_ceil(p) * (p + 1), 8 - p)).unwrap_or(4);
        return (fixed[row][pixels - 4], pixels);
    }
    let size = columns.min(8).ilog2();
    (any[size as usize], 1 << size)
}

/// How rows of pixels become rows of results: the window, the weight and the kernel for it.
pub(crate) struct Stage {
    pub window: Window,
    pub channels: usize,
    kernel: Kernel,
    /// Pixels of a tile.
    pixels: usize,
    w: *const f32,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for Stage {}
// SAFETY: as above.
unsafe impl Sync for Stage {}

/// Where a stage reads and writes: the first pixels of the first image, whether they are there or not, and what
/// finishes results.
#[derive(Clone, Copy)]
pub(crate) struct Ends<'a> {
    pub x: *const f32,
    pub y: *mut f32,
    pub epilogue: &'a Epilogue,
}

impl Stage {
    /// The stage with the packed weight `w`; the result must have pixels.
    pub(crate) fn new(isa: Isa, window: Window, channels: usize, w: *const f32) -> Self {
        let (kernel, pixels) = choose(isa, &window, channels);
        Self { window, channels, kernel, pixels, w }
    }

    /// Computes channels `channels` of result rows `rows` (of all images), as far as registers finish them.
    ///
    /// # Safety
    /// The rows of the data that the windows reach are there, and those of the result.
    pub(crate) unsafe fn band(&self, ends: &Ends<'_>, rows: Range<usize>, channels: Range<usize>) {
        let columns = self.window.output[2];
        let chunks = channels.len().div_ceil(CHUNK).max(1);
        let chunk = channels.len().div_ceil(chunks).next_multiple_of(16);
        for from in channels.clone().step_by(chunk) {
            let part = from..(from + chunk).min(channels.end);
            for column in (0..columns).step_by(self.pixels) {
                for row in rows.clone() {
                    // SAFETY: the tile lies in the caller's band.
                    unsafe { self.tile(ends, row, column.min(columns - self.pixels), part.clone()) };
                }
            }
        }
    }

    /// Computes the tile that starts at `column` of result row `row`.
    unsafe fn tile(&self, ends: &Ends<'_>, row: usize, column: usize, channels: Range<usize>) {
        let (w, pixel) = (&self.window, self.channels);
        let (image, line) = (row / w.output[1], row % w.output[1]);
        let taps = w.inside(1, line);
        let from = image * w.input[1] + w.first(1, line, taps.start);
        // Input columns from the tile's first on: those before the data are missing.
        let start = column * w.stride[2];
        let columns = w.pad[2].saturating_sub(start)..(w.input[2] + w.pad[2]).saturating_sub(start);
        let at = row * w.output[2] + column;
        let x = (from * w.input[2] + start).wrapping_sub(w.pad[2]).wrapping_mul(pixel);
        let tile = Tile {
            x: ends.x.wrapping_add(x),
            x_row: w.dilation[1].wrapping_mul(w.input[2] * pixel),
            rows: taps.len(),
            columns,
            w: self.w.wrapping_add(taps.start * w.kernel[2] * pixel),
            y: ends.y.wrapping_add(at * pixel),
            pixel,
            channels,
            width: w.kernel[2],
            dilation: w.dilation[2],
            stride: w.stride[2],
            post: ends.epilogue.post(at, 0, pixel),
        };
        // SAFETY: rows and columns were clipped to the data, which was checked against the operands.
        unsafe { (self.kernel)(&tile) };
    }
}

struct Depthwise {
    stage: Stage,
    batch: usize,
    band: usize,
    x: *const f32,
    y: *mut f32,
    epilogue: Epilogue,
    members: usize,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for Depthwise {}
// SAFETY: as above.
unsafe impl Sync for Depthwise {}

impl Depthwise {
    fn rows(&self) -> usize {
        self.batch * self.stage.window.output[1]
    }

    /// Computes result rows `rows` (of all images) of channels `channels`.
    unsafe fn area(&self, rows: Range<usize>, channels: Range<usize>, scratch: *mut u8) {
        let (columns, pixel) = (self.stage.window.output[2], self.stage.channels);
        let ends = Ends { x: self.x, y: self.y, epilogue: &self.epilogue };
        for first in rows.clone().step_by(self.band) {
            let band = first..(first + self.band).min(rows.end);
            let (at, count) = (first * columns, band.len() * columns);
            // SAFETY: the band lies in the caller's area; the scratch is the caller's.
            unsafe {
                self.stage.band(&ends, band, channels.clone());
                self.epilogue.apply(at, count, channels.start, channels.len(), pixel, scratch);
            };
        }
    }
}

impl Prepared for Depthwise {
    fn scratch(&self) -> Scratch {
        Scratch { shared: 0, local: aligned(self.epilogue.scratch_bytes()) }
    }

    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let (window, channels) = (&self.stage.window, self.stage.channels);
        let results = self.rows().saturating_mul(window.output[2]).saturating_mul(channels);
        let parts = parts_for(results.saturating_mul(window.taps()), GRAIN, self.members);
        // Vectors at the end of the channels overlap others, which another member must not write.
        let panels = if channels.is_multiple_of(16) { channels.div_ceil(PANEL) } else { 1 };
        let (grid_rows, grid_channels) = grid(parts, self.rows(), panels);
        cx.run(parts, &|part| {
            let rows = share(self.rows(), 1, part % grid_rows, grid_rows);
            let channels = match grid_channels {
                1 => 0..channels,
                _ => share(channels, PANEL, part / grid_rows, grid_channels),
            };
            if !rows.is_empty() && !channels.is_empty() {
                // SAFETY: members compute different parts of the result.
                unsafe { self.area(rows, channels, cx.local(part)) };
            }
        })
    }
}

/// Whether the kernels here have the window.
pub(crate) fn has(window: &Window) -> bool {
    window.input[0] == 1 && window.kernel[0] == 1 && window.output[0] == 1 && window.pad[0] == 0
}

/// Prepares a depthwise convolution whose operands were checked; the weight is packed.
pub(crate) fn prepare(
    call: &Call<'_>,
    window: Window,
    batch: usize,
    channels: usize,
) -> Result<Box<dyn Prepared>, RuntimeError> {
    let matrix = Matrix { columns: channels, rows: batch.saturating_mul(window.output_len()) };
    let epilogue = Epilogue::over_columns(call, n_own(call), matrix, own_bias(call))?;
    let row = window.output[2].saturating_mul(channels).max(1);
    let band = if epilogue.is_program() { (PROGRAM_FLOATS / row).clamp(1, BAND) } else { BAND };
    let (x, w, y) = (call.input(0)?.f32(), call.input(1)?.f32(), call.output(0)?.f32());
    let stage = Stage::new(call.isa, window, channels, w);
    Ok(Box::new(Depthwise { stage, batch, band, x, y, epilogue, members: call.members }))
}
