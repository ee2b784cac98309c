//! Transposed convolution with the channels last: for every result row and kernel element, one product of a row of
//! pixels with the element's weights, which goes to where the element puts the pixels.
//!
//! Results of one element lie `stride` pixels apart, which to the product is the row distance of C. Where windows do
//! not overlap (stride and kernel are alike) every result is stored once and finished in registers; else the rows
//! begin as the bias, and products are added to them.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::blocks::{Block, COLUMNS, Columns, Format, ROWS, Rows, copy_floats};
use crate::conv::{n_own, own_bias};
use crate::epilogue::{Epilogue, Matrix};
use crate::isa::Isa;
use crate::micro::Post;
use crate::pack::{View, packed_b};
use crate::prepared::{Call, Cx, Prepared, Scratch, aligned, parts_for};
use crate::team::share;
use crate::window::Window;
use partita_runtime::error::RuntimeError;

/// Multiply-adds below which another thread does not pay.
const GRAIN: usize = 200_000;

/// Sizes of a transposed convolution whose operands were checked.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub batch: usize,
    pub groups: usize,
    /// Channels per group.
    pub inputs: usize,
    pub outputs: usize,
    /// The convolution whose gradient this is: its output is our input.
    pub window: Window,
}

struct ConvTranspose {
    isa: Isa,
    sizes: Sizes,
    /// Whether every result belongs to one kernel element.
    apart: bool,
    x: *const f32,
    w: *const f32,
    y: *mut f32,
    bias: Option<*const f32>,
    epilogue: Epilogue,
    members: usize,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for ConvTranspose {}
// SAFETY: as above.
unsafe impl Sync for ConvTranspose {}

impl ConvTranspose {
    fn rows(&self) -> usize {
        let w = &self.sizes.window;
        self.sizes.batch * w.input[0] * w.input[1]
    }

    fn channels(&self) -> usize {
        self.sizes.groups * self.sizes.outputs
    }

    /// Floats a copy of pixels wants.
    fn copy_floats(&self) -> usize {
        let s = &self.sizes;
        let a = self.pixels(self.x);
        copy_floats(&a, Format::F32, s.window.output[2], s.outputs)
    }

    /// Pixels from `x` on as rows of a matrix.
    fn pixels(&self, x: *const f32) -> Rows<'static> {
        let inputs = self.sizes.inputs;
        Rows::matrix(View { ptr: x, row: self.sizes.groups * inputs, column: 1 }, inputs)
    }

    /// Computes result row `row` (of all images).
    unsafe fn row(&self, row: usize, scratch: *mut u8) {
        let (w, channels) = (&self.sizes.window, self.channels());
        let (image, d, h) =
            (row / (w.input[0] * w.input[1]), row / w.input[1] % w.input[0], row % w.input[1]);
        let pixel = row * w.input[2];
        let y = self.y.wrapping_add(pixel * channels);
        // SAFETY: the row lies in the result; what is read was checked when the step was prepared.
        unsafe {
            if !self.apart {
                self.begin(y);
            }
            for kd in 0..w.kernel[0] {
                let Some(from_d) = back(w, 0, d, kd) else { continue };
                for kh in 0..w.kernel[1] {
                    let Some(from_h) = back(w, 1, h, kh) else { continue };
                    let from = ((image * w.output[0] + from_d) * w.output[1] + from_h) * w.output[2];
                    for kw in 0..w.kernel[2] {
                        let tap = (kd * w.kernel[1] + kh) * w.kernel[2] + kw;
                        self.tap(pixel, from, tap, kw, scratch);
                    }
                }
            }
            let rest = scratch.wrapping_add(aligned(self.copy_floats() * 4));
            self.epilogue.apply(pixel, w.input[2], 0, channels, channels, rest);
        }
    }

    /// Fills a result row with the bias.
    unsafe fn begin(&self, y: *mut f32) {
        let channels = self.channels();
        for pixel in 0..self.sizes.window.input[2] {
            let y = y.wrapping_add(pixel * channels);
            // SAFETY: the pixel lies in the result, the bias has all channels.
            unsafe {
                match self.bias {
                    Some(bias) => std::ptr::copy_nonoverlapping(bias, y, channels),
                    None => std::slice::from_raw_parts_mut(y, channels).fill(0.0),
                }
            }
        }
    }

    /// Adds kernel element `tap`, the `kw`-th of its row, from the row of pixels at `from` to the result row at `to`.
    unsafe fn tap(&self, to: usize, from: usize, tap: usize, kw: usize, scratch: *mut u8) {
        let (s, w) = (&self.sizes, &self.sizes.window);
        let pixels = w.valid(2, kw);
        let Some(first) = w.source(2, pixels.start, kw).filter(|_| !pixels.is_empty()) else { return };
        let (channels, ldc) = (self.channels(), w.stride[2].wrapping_mul(self.channels()));
        for group in 0..s.groups {
            let x = (from + pixels.start) * s.groups * s.inputs + group * s.inputs;
            let weights = (group * w.taps() + tap) * packed_b(s.inputs, s.outputs);
            let at = (to + first) * channels + group * s.outputs;
            let a = self.pixels(self.x.wrapping_add(x));
            let b = Columns::packed(self.w.wrapping_add(weights), s.inputs);
            let c = self.y.wrapping_add(at);
            for row in (0..pixels.len()).step_by(ROWS) {
                for column in (0..s.outputs).step_by(COLUMNS) {
                    let (m, n) = ((pixels.len() - row).min(ROWS), (s.outputs - column).min(COLUMNS));
                    let c = c.wrapping_add(row * ldc + column);
                    let post = self.post(c, at + row * ldc + column, group * s.outputs + column);
                    let copy = if self.copy_floats() > 0 { scratch.cast() } else { std::ptr::null_mut() };
                    let (a, b) = (a.from(row), b.from(column));
                    // SAFETY: the pixels lie in the data and the result, the weights in the packed operand.
                    unsafe { Block { isa: self.isa, m, n, a, b, c, ldc, post, copy }.run() };
                }
            }
        }
    }

    /// What finishes the block at `c`: its first result is element `at` of channel `channel`.
    fn post(&self, c: *mut f32, at: usize, channel: usize) -> Post {
        if !self.apart {
            // The sum so far has the row distance of the result.
            return Post { residual: c, active: true, ..Post::NONE };
        }
        let post = self.epilogue.post(0, 0, 0);
        let shift = |p: *const f32, by: usize| if p.is_null() { p } else { p.wrapping_add(by) };
        Post { column_bias: shift(post.column_bias, channel), residual: shift(post.residual, at), ..post }
    }
}

/// The input index along axis `i` from which kernel element `tap` reaches result index `at`.
fn back(w: &Window, i: usize, at: usize, tap: usize) -> Option<usize> {
    let shifted = (at + w.pad[i]).checked_sub(tap * w.dilation[i])?;
    let from = shifted / w.stride[i];
    (shifted.is_multiple_of(w.stride[i]) && from < w.output[i]).then_some(from)
}

impl Prepared for ConvTranspose {
    fn scratch(&self) -> Scratch {
        let copy = aligned(self.copy_floats() * 4);
        Scratch { shared: 0, local: copy + aligned(self.epilogue.scratch_bytes()) }
    }

    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let s = &self.sizes;
        let pixels = s.batch.saturating_mul(s.window.output_len()).saturating_mul(s.window.taps());
        let work = pixels.saturating_mul(s.groups * s.inputs).saturating_mul(s.outputs);
        let parts = parts_for(work, GRAIN, self.members);
        cx.run(parts, &|part| {
            for row in share(self.rows(), 1, part, parts) {
                // SAFETY: members compute different rows with own scratch.
                unsafe { self.row(row, cx.local(part)) };
            }
        })
    }
}

/// Whether windows neither overlap nor leave gaps.
fn apart(w: &Window) -> bool {
    (0..3).all(|i| {
        let alike = w.kernel[i] == w.stride[i] && (w.dilation[i] == 1 || w.kernel[i] == 1);
        alike && w.pad[i] == 0 && w.output[i].checked_mul(w.stride[i]) == Some(w.input[i])
    })
}

/// Prepares a transposed convolution whose operands were checked; the weight is packed.
pub(crate) fn prepare(call: &Call<'_>, sizes: Sizes) -> Result<Box<dyn Prepared>, RuntimeError> {
    let w = &sizes.window;
    let (x, weight, y) = (call.input(0)?, call.input(1)?, call.output(0)?);
    let matrix = Matrix { columns: sizes.groups * sizes.outputs, rows: sizes.batch * w.input_len() };
    let bias = own_bias(call);
    let mut epilogue = Epilogue::over_columns(call, n_own(call), matrix, bias)?;
    // Values per pixel do not have the row distance of a product.
    let apart = apart(w) && epilogue.post(0, 0, 0).row_bias.is_null();
    if !apart {
        epilogue = Epilogue::tile_only(call, n_own(call), matrix)?;
    }
    Ok(Box::new(ConvTranspose {
        isa: call.isa,
        sizes,
        apart,
        x: x.f32(),
        w: weight.f32(),
        y: y.f32(),
        bias: bias.map(|b| b.f32().cast_const()),
        epilogue,
        members: call.members,
    }))
}
