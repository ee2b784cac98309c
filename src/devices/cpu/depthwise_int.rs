//! Depthwise convolution of bytes, channels last: each channel with its own kernel, exact in i32.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

#[cfg(target_arch = "x86_64")]
use crate::depthwise_wide::{self, Held};
use crate::int_finish::{Finish, Panel, Round, finish};
use crate::isa::Isa;
use crate::layout::{Layout, MR, NR};
use crate::micro_int_depthwise::{PANELS, Pixels, SPAN, sums};
use crate::prepared::{Call, Cx, Prepared, Scratch, aligned, parts_for};
use crate::strip_int::{Data, Place, Strides};
use crate::team::share;
use partita_runtime::error::RuntimeError;

/// Multiply-adds below which another thread does not pay.
const GRAIN: usize = 200_000;
/// Bytes of data that a patch of results should need: half of a first-level cache of 48 KiB.
const PATCH_BYTES: usize = 24 << 10;

struct DepthwiseInt {
    isa: Isa,
    /// All channels as one group.
    data: Data,
    batch: usize,
    x: *const u8,
    /// Taps of `channels` signed bytes.
    w: *const u8,
    finish: Finish,
    read: Strides,
    copy_bytes: Option<usize>,
    /// Offsets of the taps in what is read.
    taps: Vec<usize>,
    rows: usize,
    members: usize,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for DepthwiseInt {}
// SAFETY: as above.
unsafe impl Sync for DepthwiseInt {}

impl DepthwiseInt {
    /// The rows at `place`, all channels. `woven` has what `weave` wrote.
    unsafe fn patch(&self, place: &Place, local: *mut u8, woven: *const u8) {
        let origin = match self.copy_bytes {
            None => self.data.origin(self.x, place),
            Some(_) => {
                // SAFETY: the scratch has room for the copy.
                unsafe { self.data.copy(self.x, place, self.finish.padding(), (local, &self.read)) };
                local.cast_const()
            }
        };
        for first in (0..self.data.inputs).step_by(SPAN) {
            #[cfg(target_arch = "x86_64")]
            if let Some((y, _)) = self.wide() {
                let from = woven.wrapping_add(first / SPAN * depthwise_wide::woven_bytes(self.taps.len()));
                // SAFETY: the rows lie in the result, their windows in what is read.
                unsafe { depthwise_wide::run(&self.job(place, first, origin, y), from) };
                continue;
            }
            // SAFETY: as above.
            unsafe { self.block(place, first, origin) };
        }
    }

    /// The rows at `place` for the channels from `first` on, by tiles of sums.
    unsafe fn block(&self, place: &Place, first: usize, origin: *const u8) {
        let (w, channels) = (&self.data.window, self.data.inputs);
        // SAFETY: the channels lie in the weight.
        let panels = unsafe { [self.panel(first), self.panel(first + NR)] };
        for line in 0..place.rows {
            let row = (place.plane * w.output[1] + place.row + line) * w.output[2];
            let step = w.stride[2] * self.read.pixel;
            let x = origin.wrapping_add(line * w.stride[1] * self.read.row + first);
            for from in (0..w.output[2]).step_by(MR) {
                let pixels = Pixels {
                    x: x.wrapping_add(from * step),
                    step,
                    taps: &self.taps,
                    w: self.w.wrapping_add(first),
                    channels,
                    count: (channels - first).min(SPAN),
                    signed: self.finish.flips(),
                };
                // SAFETY: the pixels lie in the result, their windows in what is read.
                unsafe { self.tile(&pixels, &panels, (w.output[2] - from).min(MR), row + from) };
            }
        }
    }

    /// Result and rounding where the form with AVX-512 VNNI serves: results that are only rounded.
    #[cfg(target_arch = "x86_64")]
    fn wide(&self) -> Option<(*mut u8, Round)> {
        let fits = self.isa == Isa::Avx512 && depthwise_wide::available();
        self.finish.rounds().filter(|_| fits && self.taps.len() <= depthwise_wide::MOST_TAPS)
    }

    /// The rows at `place` for the channels from `first` on, in that form.
    #[cfg(target_arch = "x86_64")]
    fn job(&self, place: &Place, first: usize, origin: *const u8, y: *mut u8) -> depthwise_wide::Job<'_> {
        let (w, channels) = (&self.data.window, self.data.inputs);
        let x_step = w.stride[2] * self.read.pixel;
        // Pixels that follow each other without a gap, in data and result, share a vector.
        let shared = x_step == channels && SPAN.is_multiple_of(channels);
        let row = (place.plane * w.output[1] + place.row) * w.output[2];
        depthwise_wide::Job {
            x: origin.wrapping_add(first),
            signed: self.finish.flips(),
            x_row: w.stride[1] * self.read.row,
            x_step,
            taps: &self.taps,
            w: self.w.wrapping_add(first),
            channels,
            count: (channels - first).min(SPAN),
            rows: place.rows,
            width: w.output[2],
            pixels: if shared { SPAN / channels } else { 1 },
            y: y.wrapping_add(row * channels + first),
            y_row: w.output[2] * channels,
            y_step: channels,
        }
    }

    /// Weaves the weights of all channels for that form; elsewhere nothing is written.
    ///
    /// # Safety
    /// `to` has `woven_bytes` bytes, aligned.
    unsafe fn weave(&self, to: *mut u8) {
        #[cfg(target_arch = "x86_64")]
        if let Some((y, round)) = self.wide() {
            let nowhere = Place { plane: 0, row: 0, rows: 0 };
            for (at, first) in (0..self.data.inputs).step_by(SPAN).enumerate() {
                let mut held = Held { offset: [0; SPAN], factor: [0.0; SPAN], bias: [0.0; SPAN], round };
                for half in (0..SPAN).step_by(NR) {
                    // SAFETY: the channels lie in the weight.
                    let panel = unsafe { self.panel(first + half) };
                    held.offset[half..half + NR].copy_from_slice(&panel.offset);
                    held.factor[half..half + NR].copy_from_slice(&panel.factor);
                    held.bias[half..half + NR].copy_from_slice(&panel.bias);
                }
                let to = to.wrapping_add(at * depthwise_wide::woven_bytes(self.taps.len()));
                // SAFETY: the caller's contract.
                unsafe { depthwise_wide::weave(&self.job(&nowhere, first, self.x, y), &held, to) };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = to;
    }

    /// Bytes of what `weave` writes.
    fn woven_bytes(&self) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self.wide().is_some() {
            return self.data.inputs.div_ceil(SPAN) * depthwise_wide::woven_bytes(self.taps.len());
        }
        0
    }

    /// What holds for the panel of channels from `first` on.
    unsafe fn panel(&self, first: usize) -> Panel {
        let (channels, mut sums) = (self.data.inputs, [0i32; NR]);
        let count = channels.saturating_sub(first).min(NR);
        for tap in 0..self.taps.len() {
            for (j, sum) in sums.iter_mut().enumerate().take(count) {
                // SAFETY: the channel lies in the tap.
                *sum += i32::from(unsafe { *self.w.add(tap * channels + first + j) } as i8);
            }
        }
        self.finish.panel(first, count, &sums, self.taps.len())
    }

    /// `count` pixels from result row `row` on.
    unsafe fn tile(&self, pixels: &Pixels<'_>, panels: &[Panel; PANELS], count: usize, row: usize) {
        let mut both = [[0i32; SPAN]; MR];
        // SAFETY: the caller's contract.
        unsafe {
            sums(self.isa, pixels, &mut both[..count]);
            for (at, panel) in panels.iter().enumerate().take(pixels.count.div_ceil(NR)) {
                let mut tile = [[0i32; NR]; MR];
                for (tile, both) in tile.iter_mut().zip(&both).take(count) {
                    tile.copy_from_slice(&both[at * NR..(at + 1) * NR]);
                }
                finish(self.isa, &self.finish, panel, &tile[..count], std::ptr::null(), row);
            }
        }
    }
}

impl Prepared for DepthwiseInt {
    fn scratch(&self) -> Scratch {
        Scratch { shared: 0, local: aligned(self.copy_bytes.unwrap_or(0)) + aligned(self.woven_bytes()) }
    }

    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let [planes, height, width] = self.data.window.output;
        let lines = self.batch * planes * height;
        let work = lines.saturating_mul(width * self.taps.len()).saturating_mul(self.data.inputs);
        let parts = parts_for(work, GRAIN, self.members);
        cx.run(parts, &|part| {
            let lines = share(lines, 1, part, parts);
            let local = cx.local(part);
            let woven = local.wrapping_add(aligned(self.copy_bytes.unwrap_or(0)));
            // SAFETY: the scratch has room behind the copy.
            unsafe { self.weave(woven) };
            let mut line = lines.start;
            while line < lines.end {
                let (plane, row) = (line / height, line % height);
                let rows = self.rows.min(height - row).min(lines.end - line);
                // SAFETY: members compute different rows with scratch of their own.
                unsafe { self.patch(&Place { plane, row, rows }, local, woven) };
                line += rows;
            }
        })
    }
}

/// Prepares a `conv_int` step with one input and one output channel per group.
pub(crate) fn prepare(call: &Call<'_>, data: Data, batch: usize) -> Result<Box<dyn Prepared>, RuntimeError> {
    let (x, w) = (call.input(0)?, call.input(3)?);
    // All channels are one group of as many channels side by side.
    let whole = Data { groups: 1, inputs: data.groups, ..data };
    let layout = Layout::IntDepthwise { taps: data.window.taps(), channels: data.groups };
    call.ensure(w.layout == Some(layout), "the weight is not packed for these sizes")?;
    if call.output(0)?.len() == 0 {
        return Ok(Box::new(crate::reference::Nothing));
    }
    let finish = Finish::new(call, data.groups)?;
    let window = &data.window;
    let row = window.extent(2).unwrap_or(1).saturating_mul(data.groups.next_multiple_of(4));
    let lines = PATCH_BYTES / row.max(1) / window.kernel[0].max(1);
    let halo = (window.kernel[1] - 1) * window.dilation[1];
    let rows = (lines.saturating_sub(halo) / window.stride[1]).clamp(1, window.output[1].max(1));
    let copied = whole.copied(rows).ok_or_else(|| call.bad("a row of results needs too much data"))?;
    let (read, copy_bytes) =
        if whole.needs_copy() { (copied.0, Some(copied.1)) } else { (whole.direct(), None) };
    let plane = if copy_bytes.is_some() { read.plane } else { read.plane * window.dilation[0] };
    let [_, height, width] = window.kernel;
    let tap = |t: usize| {
        let (d, h, x) = (t / (height * width), t / width % height, t % width);
        d * plane + h * window.dilation[1] * read.row + x * window.dilation[2] * read.pixel
    };
    Ok(Box::new(DepthwiseInt {
        isa: call.isa,
        taps: (0..window.taps()).map(tap).collect(),
        data: whole,
        batch,
        x: x.ptr,
        w: w.ptr,
        finish,
        read,
        copy_bytes,
        rows,
        members: call.members,
    }))
}
