//! Convolution with channels last and a weight in bfloat16: windows of some pixels are rounded into rows side by side, and
//! the rows multiplied.
//!
//! Rounding needs a pass over the data anyway, so windows are gathered in it; rows of a block stay in the second cache
//! level while all output channels are computed from them.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::blocks::{Block, COLUMNS, Columns, Format, Rows};
use crate::conv::Sizes;
use crate::epilogue::Epilogue;
use crate::isa::Isa;
use crate::layout::{MR, NR};
use crate::micro::LINE;
use crate::micro_bf16::round_pairs;
use crate::prepared::{Cx, Prepared, Scratch, aligned};
use crate::strip::Strides;
use crate::team::share;
use crate::window::Window;
use partita_runtime::error::RuntimeError;

/// Pairs of a block of rows: 384 KiB.
const BLOCK_PAIRS: usize = 98_304;
/// Most rows of a block.
const ROWS: usize = 8 * MR;

/// A prepared convolution.
pub(crate) struct HalfConv {
    pub isa: Isa,
    pub sizes: Sizes,
    pub data: Strides,
    pub x: *const f32,
    /// Layout `conv-b-bf16`.
    pub w: *const f32,
    pub y: *mut f32,
    pub epilogue: Epilogue,
    /// Parts of the work.
    pub parts: usize,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for HalfConv {}
// SAFETY: as above.
unsafe impl Sync for HalfConv {}

impl HalfConv {
    /// Pairs of a row, and between two rows.
    fn pairs(&self) -> (usize, usize) {
        let pairs = self.sizes.depth().div_ceil(2);
        (pairs, pairs + LINE)
    }

    fn rows(&self) -> usize {
        let least = MR.min(self.pixels().max(1));
        (BLOCK_PAIRS / self.pairs().1).clamp(least, ROWS)
    }

    fn pixels(&self) -> usize {
        self.sizes.batch * self.sizes.window.output_len()
    }

    /// Rounds the window of result `pixel` for group `group`; `line` has room for its floats.
    unsafe fn window(&self, pixel: usize, group: usize, line: *mut f32, to: *mut f32) {
        let (s, w, d) = (&self.sizes, &self.sizes.window, &self.data);
        let x = self.x.wrapping_add(group * s.inputs * d.channel);
        let dense = d.channel == 1;
        // SAFETY: taps inside the window lie in the data; `line` and `to` have the depth.
        unsafe {
            if dense && w.is_pointwise() {
                return round_pairs(self.isa, x.add(pixel * d.pixel), s.inputs, to);
            }
            for tap in 0..w.taps() {
                let part = std::slice::from_raw_parts_mut(line.add(tap * s.inputs), s.inputs);
                match source(w, d, pixel, tap) {
                    None => part.fill(0.0),
                    Some(at) if dense => {
                        part.copy_from_slice(std::slice::from_raw_parts(x.add(at), s.inputs));
                    }
                    Some(at) => {
                        part.iter_mut().enumerate().for_each(|(c, v)| *v = *x.add(at + c * d.channel));
                    }
                }
            }
            round_pairs(self.isa, line, s.depth(), to);
        }
    }

    /// Rows `from..to` of the result.
    unsafe fn block(&self, from: usize, to: usize, local: *mut u8) {
        let s = &self.sizes;
        let (depth, row) = self.pairs();
        let (m, ldc) = (to - from, s.outputs * s.groups);
        let pairs: *mut f32 = local.cast();
        let line = local.wrapping_add(aligned(self.rows() * row * 4));
        let scratch = line.wrapping_add(aligned(s.depth() * 4));
        for group in 0..s.groups {
            for (n, pixel) in (from..to).enumerate() {
                // SAFETY: the scratch has room for the rows of a block and one row of floats.
                unsafe { self.window(pixel, group, line.cast(), pairs.add(n * row)) };
            }
            let a = Rows::pairs(pairs, row, depth);
            let panels = s.outputs.div_ceil(NR) * NR * depth;
            let b = Columns::in_format(Format::Bf16, self.w.wrapping_add(group * panels), s.depth());
            for column in (0..s.outputs).step_by(COLUMNS) {
                let n = (s.outputs - column).min(COLUMNS);
                let at = group * s.outputs + column;
                let block = Block {
                    isa: self.isa,
                    m,
                    n,
                    a,
                    b: b.from(column),
                    c: self.y.wrapping_add(from * ldc + at),
                    ldc,
                    post: self.epilogue.post(from, at, ldc),
                    copy: std::ptr::null_mut(),
                };
                // SAFETY: the block lies in the result; the packed weight was checked.
                unsafe {
                    block.run_pairs(&a);
                    self.epilogue.apply(from, m, at, n, ldc, scratch);
                }
            }
        }
    }
}

/// Offset of element `tap` of the window of result `pixel` in the data, all images counted; `None` for padding.
fn source(w: &Window, d: &Strides, pixel: usize, tap: usize) -> Option<usize> {
    let [depth, height, width] = w.output;
    let (image, rest) = (pixel / (depth * height * width), pixel % (depth * height * width));
    let at = [rest / (height * width), rest / width % height, rest % width];
    let [_, kernel_h, kernel_w] = w.kernel;
    let taps = [tap / (kernel_h * kernel_w), tap / kernel_w % kernel_h, tap % kernel_w];
    let place = |axis: usize| w.source(axis, at[axis], taps[axis]);
    Some(image * d.image + place(0)? * d.plane + place(1)? * d.row + place(2)? * d.pixel)
}

impl Prepared for HalfConv {
    fn scratch(&self) -> Scratch {
        let rows = aligned(self.rows() * self.pairs().1 * 4) + aligned(self.sizes.depth() * 4);
        Scratch { shared: 0, local: rows + aligned(self.epilogue.scratch_bytes()) }
    }

    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        cx.run(self.parts, &|part| {
            let own = share(self.pixels(), 1, part, self.parts);
            let blocks = own.len().div_ceil(self.rows());
            for n in 0..blocks {
                let rows = share(own.len(), 1, n, blocks);
                // SAFETY: members compute different rows of the result with own scratch.
                unsafe { self.block(own.start + rows.start, own.start + rows.end, cx.local(part)) };
            }
        })
    }
}
