//! Windows of an image as panels of B, packed on the fly: the full matrix of windows never exists.
//!
//! For one panel (32 output positions) the addresses and the validity of every lane are worked out once;
//! then each tap of each channel is a load under a mask. With step 1 lanes of one output row are neighbours
//! in memory, so a few masked vector loads fetch a row of the panel; otherwise lanes are gathered.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::isa::Isa;
use crate::layout::NR;
use crate::window::Window;

/// Most runs of neighbours a half panel may consist of before gathering is cheaper.
const MAX_RUNS: usize = 4;

/// Neighbouring lanes within one half of a panel.
#[derive(Clone, Copy, Debug, Default)]
struct Lanes {
    mask: u32,
    /// Address of lane 0 of the panel, were the run that long, relative to the plane.
    base: isize,
    first: usize,
    count: usize,
}

/// Addresses and validity of the lanes of one panel.
pub(crate) struct Panel<'a> {
    window: &'a Window,
    /// Position of tap (0, 0, 0) for each lane, per axis; may lie outside of the input.
    at: [[isize; NR]; 3],
    /// The same as an offset in the plane.
    offsets: [i32; NR],
    lanes: usize,
    runs: [[Lanes; MAX_RUNS]; 2],
    /// Number of runs per half; `None` when there are too many.
    n_runs: Option<[usize; 2]>,
}

impl<'a> Panel<'a> {
    /// The panel of output positions `first..first + lanes` (at most `NR`).
    pub(crate) fn new(window: &'a Window, first: usize, lanes: usize) -> Self {
        let mut panel = Self {
            window,
            at: [[0; NR]; 3],
            offsets: [0; NR],
            lanes,
            runs: Default::default(),
            n_runs: None,
        };
        let [_, height, width] = window.output;
        for lane in 0..lanes {
            let position = first + lane;
            let index = [position / (width * height), position / width % height, position % width];
            for (i, at) in panel.at.iter_mut().enumerate() {
                at[lane] = (index[i] * window.stride[i]) as isize - window.pad[i] as isize;
            }
            panel.offsets[lane] = panel.offset([0, 1, 2].map(|i| panel.at[i][lane])) as i32;
        }
        panel.n_runs = panel.find_runs();
        panel
    }

    fn offset(&self, at: [isize; 3]) -> isize {
        let [_, height, width] = self.window.input;
        (at[0] * height as isize + at[1]) * width as isize + at[2]
    }

    fn find_runs(&mut self) -> Option<[usize; 2]> {
        let mut counts = [0; 2];
        for (half, count) in counts.iter_mut().enumerate() {
            for lane in half * NR / 2..((half + 1) * NR / 2).min(self.lanes) {
                let base = self.offsets[lane] as isize - lane as isize;
                let runs = &mut self.runs[half];
                if *count > 0 && runs[*count - 1].base == base {
                    runs[*count - 1].mask |= 1 << lane;
                    runs[*count - 1].count += 1;
                } else {
                    *runs.get_mut(*count)? = Lanes { mask: 1 << lane, base, first: lane, count: 1 };
                    *count += 1;
                }
            }
        }
        Some(counts)
    }

    /// Lanes for which tap `tap` of axis `i` is not padding.
    fn mask(&self, i: usize, tap: usize) -> u32 {
        let shift = (tap * self.window.dilation[i]) as isize;
        let limit = self.window.input[i] as isize;
        (0..self.lanes).fold(0, |mask, lane| {
            let at = self.at[i][lane] + shift;
            mask | (u32::from(at >= 0 && at < limit) << lane)
        })
    }

    /// Packs all taps of `channels` planes, starting at `x`, into `out` (channels x taps x `NR` floats).
    ///
    /// # Safety
    /// `x` has `channels` planes, `out` the room; `isa` exists here.
    pub(crate) unsafe fn pack(&self, isa: Isa, x: *const f32, channels: usize, out: *mut f32) {
        let w = self.window;
        let plane = w.input_len();
        let taps = w.taps();
        let mut tap = 0;
        for kd in 0..w.kernel[0] {
            let mask_d = self.mask(0, kd);
            for kh in 0..w.kernel[1] {
                let mask_h = mask_d & self.mask(1, kh);
                for kw in 0..w.kernel[2] {
                    let mask = mask_h & self.mask(2, kw);
                    let at = [kd * w.dilation[0], kh * w.dilation[1], kw * w.dilation[2]].map(|v| v as isize);
                    let job = Tap {
                        x: x.wrapping_offset(self.offset(at)),
                        plane,
                        channels,
                        mask,
                        out: out.wrapping_add(tap * NR),
                        step: taps * NR,
                    };
                    // SAFETY: lanes of the mask lie inside the planes; rows of this tap lie in `out`.
                    unsafe { self.pack_tap(isa, &job) };
                    tap += 1;
                }
            }
        }
    }

    unsafe fn pack_tap(&self, isa: Isa, job: &Tap) {
        // SAFETY: the contract of `pack`.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if isa == Isa::Avx512 {
                return match self.n_runs {
                    Some(counts) if counts[0] <= 1 && counts[1] <= 1 => wide_runs::<1>(self, job),
                    Some(counts) if counts[0] <= 2 && counts[1] <= 2 => wide_runs::<2>(self, job),
                    Some(_) => wide_runs::<MAX_RUNS>(self, job),
                    None => wide_gather(self, job),
                };
            }
            let _ = isa;
            self.plain(job);
        }
    }

    unsafe fn plain(&self, job: &Tap) {
        for channel in 0..job.channels {
            let x = job.x.wrapping_add(channel * job.plane);
            // SAFETY: the contract of `pack`.
            unsafe {
                let out = std::slice::from_raw_parts_mut(job.out.add(channel * job.step), NR);
                match self.n_runs {
                    Some(counts) => self.plain_runs(x, job.mask, counts, out),
                    None => lanes_one_by_one(x, &self.offsets, job.mask, out),
                }
            }
        }
    }

    unsafe fn plain_runs(&self, x: *const f32, mask: u32, counts: [usize; 2], out: &mut [f32]) {
        if self.lanes < NR || mask.count_ones() < NR as u32 {
            // SAFETY: lanes of the mask lie in the plane.
            return unsafe { lanes_one_by_one(x, &self.offsets, mask, out) };
        }
        for (runs, count) in self.runs.iter().zip(counts) {
            for run in &runs[..count] {
                let src = x.wrapping_offset(run.base).wrapping_add(run.first);
                // SAFETY: all lanes are valid and neighbours.
                unsafe { std::ptr::copy_nonoverlapping(src, out.as_mut_ptr().add(run.first), run.count) };
            }
        }
    }
}

/// One tap of all channels.
struct Tap {
    /// The first plane, moved by the tap.
    x: *const f32,
    plane: usize,
    channels: usize,
    mask: u32,
    out: *mut f32,
    /// Distance of two channels in `out`.
    step: usize,
}

#[inline(always)]
unsafe fn lanes_one_by_one(x: *const f32, offsets: &[i32; NR], mask: u32, out: &mut [f32]) {
    for (lane, out) in out.iter_mut().enumerate() {
        let at = x.wrapping_offset(offsets[lane] as isize);
        let inside = mask >> lane & 1 == 1;
        // SAFETY: lanes of the mask lie in the plane.
        *out = if inside { unsafe { *at } } else { 0.0 };
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn wide_runs<const RUNS: usize>(panel: &Panel<'_>, job: &Tap) {
    use std::arch::x86_64::*;
    let part = |half: usize, run: usize| {
        let lanes = panel.runs[half][run];
        ((((lanes.mask & job.mask) >> (16 * half)) as u16), lanes.base + 16 * half as isize)
    };
    let mut parts = [[(0u16, 0isize); RUNS]; 2];
    for (half, parts) in parts.iter_mut().enumerate() {
        for (run, part_of) in parts.iter_mut().enumerate() {
            *part_of = part(half, run);
        }
    }
    let (mut x, mut out) = (job.x, job.out);
    for _ in 0..job.channels {
        for (half, parts) in parts.iter().enumerate() {
            let mut value = _mm512_setzero_ps();
            for &(mask, base) in parts {
                // SAFETY: lanes of the mask lie in the plane; others are not accessed.
                value = unsafe { _mm512_mask_loadu_ps(value, mask, x.wrapping_offset(base)) };
            }
            // SAFETY: `out` has NR floats per row.
            unsafe { _mm512_storeu_ps(out.add(16 * half), value) };
        }
        x = x.wrapping_add(job.plane);
        out = out.wrapping_add(job.step);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn wide_gather(panel: &Panel<'_>, job: &Tap) {
    use std::arch::x86_64::*;
    // SAFETY: `offsets` has 32 entries.
    let offsets = unsafe {
        [_mm512_loadu_epi32(panel.offsets.as_ptr()), _mm512_loadu_epi32(panel.offsets.as_ptr().add(16))]
    };
    let (mut x, mut out) = (job.x, job.out);
    for _ in 0..job.channels {
        for (half, &offsets) in offsets.iter().enumerate() {
            let mask = (job.mask >> (16 * half)) as u16;
            // SAFETY: lanes of the mask lie in the plane; others are not accessed; `out` has NR floats.
            unsafe {
                let value = _mm512_mask_i32gather_ps::<4>(_mm512_setzero_ps(), mask, offsets, x);
                _mm512_storeu_ps(out.add(16 * half), value);
            }
        }
        x = x.wrapping_add(job.plane);
        out = out.wrapping_add(job.step);
    }
}
