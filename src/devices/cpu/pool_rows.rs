//! Max and average pooling with the channels last: vectors over channels, one result pixel at a time.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::columns::{Folded, fold};
use crate::isa::Isa;
use crate::pool::Count;
use crate::prepared::{Cx, Prepared, parts_for};
use crate::team::share;
use crate::window::Window;
use partita_runtime::error::RuntimeError;

/// Elements read below which another thread does not pay.
const GRAIN: usize = 100_000;

/// A pooling whose operands were checked.
pub(crate) struct PoolRows {
    pub isa: Isa,
    pub window: Window,
    pub max: bool,
    pub count: Count,
    pub batch: usize,
    pub channels: usize,
    pub x: *const f32,
    pub y: *mut f32,
    pub members: usize,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for PoolRows {}
// SAFETY: as above.
unsafe impl Sync for PoolRows {}

impl PoolRows {
    /// Computes row `row` (of all images) of the result.
    unsafe fn row(&self, row: usize) {
        let w = &self.window;
        let (image, plane) = (row / (w.output[0] * w.output[1]), w.input_len());
        let (d, h) = (row / w.output[1] % w.output[0], row % w.output[1]);
        let (depths, lines) = (w.inside(0, d), w.inside(1, h));
        let first = (w.first(0, d, depths.start) * w.input[1] + w.first(1, h, lines.start)) * w.input[2];
        let outer = if self.max { 1 } else { self.counted(0, d) * self.counted(1, h) };
        let pixel = self.channels;
        for column in 0..w.output[2] {
            let columns = w.inside(2, column);
            let at = image * plane + first + w.first(2, column, columns.start);
            let folded = Folded {
                x: self.x.wrapping_add(at * pixel),
                counts: [depths.len(), lines.len(), columns.len()],
                steps: [
                    w.dilation[0].wrapping_mul(w.input[1] * w.input[2] * pixel),
                    w.dilation[1].wrapping_mul(w.input[2] * pixel),
                    w.dilation[2].wrapping_mul(pixel),
                ],
            };
            let factor = if self.max { 1.0 } else { 1.0 / (outer * self.counted(2, column)) as f32 };
            let y = self.y.wrapping_add((row * w.output[2] + column) * pixel);
            // SAFETY: the windows were clipped to the data, the pixel lies in the result.
            unsafe { fold(self.isa, pixel, &folded, self.max, factor, pixel, y) };
        }
    }

    /// How many elements of window position `out` along axis `i` count.
    fn counted(&self, i: usize, out: usize) -> usize {
        self.count.along(i, out)
    }
}

impl Prepared for PoolRows {
    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let w = &self.window;
        let rows = self.batch * w.output[0] * w.output[1];
        let results = rows.saturating_mul(w.output[2]).saturating_mul(self.channels);
        let parts = parts_for(results.saturating_mul(w.taps()), GRAIN, self.members);
        cx.run(parts, &|part| {
            for row in share(rows, 1, part, parts) {
                // SAFETY: members compute different rows of the checked result.
                unsafe { self.row(row) };
            }
        })
    }
}
