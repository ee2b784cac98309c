//! Convolution of bytes whose result has its channels last: pixels times weights, exact in i32, with scales, zero points
//! and an epilogue.
//!
//! Rows of the product are result pixels, its columns output channels, the depth kernel elements and in them input
//! channels. Data is read where it lies, or from a copy with the zero point around it (`strip_int`).
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::gemm_int::of_rows;
use crate::int_finish::Finish;
use crate::int_panels::{Rows, constants, panel_bytes, product};
use crate::isa::Isa;
use crate::layout::{Layout, NR};
use crate::micro_int::STEPS;
use crate::prepared::{Call, Cx, Prepared, Scratch, aligned, parts_for};
use crate::strip_int::{Data, Place, Strides};
use crate::team::share;
use crate::window::{Channels, Window};
use partita_runtime::error::RuntimeError;

/// Multiply-adds below which another thread does not pay.
const GRAIN: usize = 800_000;
/// Bytes of data that a patch of results should need: a quarter of a second-level cache of 1 MiB.
const PATCH_BYTES: usize = 1 << 18;

struct ConvInt {
    isa: Isa,
    data: Data,
    batch: usize,
    /// Output channels of one group.
    outputs: usize,
    x: *const u8,
    w: *const u8,
    finish: Finish,
    /// Strides of what is read, and the bytes of a copy where one is made.
    read: Strides,
    copy_bytes: Option<usize>,
    /// Offsets of segments in what is read, and bytes of a segment.
    taps: Vec<usize>,
    segment: usize,
    /// Rows of results per patch.
    rows: usize,
    /// Parts over rows and over panels.
    grid: (usize, usize),
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for ConvInt {}
// SAFETY: as above.
unsafe impl Sync for ConvInt {}

/// Offsets of a window's segments in what is read.
fn offsets(data: &Data, read: &Strides, copied: bool) -> Vec<usize> {
    let w = &data.window;
    let plane = if copied { read.plane } else { read.plane * w.dilation[0] };
    let across = if data.is_whole() { 1 } else { w.kernel[2] };
    let mut taps = Vec::with_capacity(data.segments().0);
    for d in 0..w.kernel[0] {
        for h in 0..w.kernel[1] {
            for x in 0..across {
                taps.push(d * plane + h * w.dilation[1] * read.row + x * w.dilation[2] * read.pixel);
            }
        }
    }
    taps
}

impl ConvInt {
    /// Panels of one group.
    fn panels(&self) -> usize {
        self.outputs.div_ceil(NR)
    }

    /// Steps of the depth, padding included.
    fn depth(&self) -> usize {
        self.taps.len() * self.segment
    }

    /// The rows at `place` for panels `panels` of all groups.
    unsafe fn patch(&self, place: &Place, panels: std::ops::Range<usize>, local: *mut u8) {
        let w = &self.data.window;
        let origin = match self.copy_bytes {
            None => self.data.origin(self.x, place),
            Some(_) => {
                // SAFETY: the scratch has room for the copy.
                unsafe { self.data.copy(self.x, place, self.finish.padding(), (local, &self.read)) };
                local.cast_const()
            }
        };
        for panel in panels {
            let (group, first) = (panel / self.panels(), panel % self.panels() * NR);
            let b = self.w.wrapping_add(panel * panel_bytes(self.depth()));
            let count = (self.outputs - first).min(NR);
            // SAFETY: the panel lies in the weight, its columns in the result.
            unsafe {
                let constants = constants(&self.finish, b, group * self.outputs + first, count, self.depth());
                for line in 0..place.rows {
                    let a = Rows {
                        ptr: origin
                            .wrapping_add(group * self.read.group + line * w.stride[1] * self.read.row),
                        row: w.stride[2] * self.read.pixel,
                        taps: &self.taps,
                        depth: self.segment,
                    };
                    let row = (place.plane * w.output[1] + place.row + line) * w.output[2];
                    let place = (w.output[2], row);
                    product(self.isa, &self.finish, &a, (b, &constants), place, std::ptr::null());
                }
            }
        }
    }
}

impl Prepared for ConvInt {
    fn scratch(&self) -> Scratch {
        Scratch { shared: 0, local: aligned(self.copy_bytes.unwrap_or(0)) }
    }

    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let [planes, height, _] = self.data.window.output;
        let lines = self.batch * planes * height;
        cx.run(self.grid.0 * self.grid.1, &|part| {
            let panels = self.panels() * self.data.groups;
            let panels = share(panels, 1, part / self.grid.0, self.grid.1);
            let lines = share(lines, 1, part % self.grid.0, self.grid.0);
            let mut line = lines.start;
            while line < lines.end && !panels.is_empty() {
                let (plane, row) = (line / height, line % height);
                let rows = self.rows.min(height - row).min(lines.end - line);
                // SAFETY: members compute different rows or panels with scratch of their own.
                unsafe { self.patch(&Place { plane, row, rows }, panels.clone(), cx.local(part)) };
                line += rows;
            }
        })
    }
}

/// Reads and checks the sizes of x, w and y.
fn sizes(call: &Call<'_>) -> Result<(Data, usize, usize), RuntimeError> {
    let (x, w, y) = (call.input(0)?, call.input(3)?, call.output(0)?);
    let channels = Channels::of(call)?;
    call.ensure(channels != Channels::First, "results of integers have their channels last")?;
    let axes = x.shape.len();
    call.ensure(
        axes >= 3 && w.shape.len() == axes && y.shape.len() == axes,
        "operands differ in their axes",
    )?;
    call.ensure(x.layout.is_none() && y.layout.is_none(), "only the weight may be packed")?;
    let window = Window::over(call, channels.spatial_in(x), &w.shape[2..], &y.shape[1..axes - 1])?;
    let groups = usize::try_from(call.kernel.int("group").unwrap_or(1)).unwrap_or(0);
    call.ensure(groups > 0 && w.shape[0].is_multiple_of(groups), "groups do not divide the channels")?;
    let data = Data { window, channels, groups, inputs: w.shape[1] };
    let fits = data.inputs.checked_mul(groups) == Some(channels.count_in(x));
    call.ensure(fits, "input channels do not fit the weight")?;
    let result = y.shape[0] == x.shape[0] && y.shape[axes - 1] == w.shape[0];
    call.ensure(result, "the result has the wrong batch or channels")?;
    Ok((data, x.shape[0], w.shape[0] / groups))
}

/// Rows of results per patch.
fn patch_rows(data: &Data) -> usize {
    let row =
        data.window.extent(2).unwrap_or(1).saturating_mul(data.groups * data.inputs.next_multiple_of(STEPS));
    let lines = PATCH_BYTES / row.max(1) / data.window.kernel[0].max(1);
    let halo = (data.window.kernel[1] - 1) * data.window.dilation[1];
    (lines.saturating_sub(halo) / data.window.stride[1]).clamp(1, data.window.output[1].max(1))
}

/// Prepares a `conv_int` step.
pub(crate) fn prepare(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let (data, batch, outputs) = sizes(call)?;
    let (x, w) = (call.input(0)?, call.input(3)?);
    let taps = data.window.taps();
    if data.inputs == 1 && outputs == 1 {
        return crate::depthwise_int::prepare(call, data, batch);
    }
    let (segments, bytes) = data.segments();
    let layout = Layout::IntB { groups: data.groups, taps: segments, depth: bytes, columns: outputs };
    call.ensure(w.layout == Some(layout), "the weight is not packed for these sizes")?;
    if call.output(0)?.len() == 0 {
        return Ok(Box::new(crate::reference::Nothing));
    }
    let finish = Finish::new(call, outputs * data.groups)?;
    let pixels = batch * data.window.output_len();
    if data.window.is_pointwise() && data.groups == 1 && !data.needs_copy() {
        return Ok(of_rows(call, (pixels, outputs, data.inputs), (x.ptr, w.ptr), finish));
    }
    let rows = patch_rows(&data);
    let too_large = || call.bad("a row of results needs too much data");
    let copied = data.copied(rows).ok_or_else(too_large)?;
    let (read, copy_bytes) =
        if data.needs_copy() { (copied.0, Some(copied.1)) } else { (data.direct(), None) };
    let taps_at = offsets(&data, &read, copy_bytes.is_some());
    let work = pixels.saturating_mul(outputs * data.groups).saturating_mul(data.inputs * taps);
    let parts = parts_for(work, GRAIN, call.members);
    let lines = batch * data.window.output[0] * data.window.output[1];
    let grid = crate::gemm::grid(parts, lines, outputs.div_ceil(NR) * data.groups);
    Ok(Box::new(ConvInt {
        isa: call.isa,
        data,
        batch,
        outputs,
        x: x.ptr,
        w: w.ptr,
        finish,
        read,
        copy_bytes,
        taps: taps_at,
        segment: bytes.next_multiple_of(STEPS),
        rows,
        grid,
    }))
}
