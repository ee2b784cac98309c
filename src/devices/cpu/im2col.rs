//! Windows of an image as panels of B, packed on the fly: the full matrix of windows never exists.
//!
//! For one panel (32 output positions) the addresses and the validity of every lane are worked out once;
//! then each tap of each channel is a load under a mask. With steps 1 and 2 lanes of one output row are (every
//! other) neighbours in memory, so a few masked vector loads fetch a row of the panel; else lanes are gathered.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::isa::{Isa, per_isa};
use crate::layout::NR;
use crate::window::Window;

/// Most runs of neighbours a half panel may consist of before gathering is cheaper.
const MAX_RUNS: usize = 4;

/// Lanes within one half of a panel whose addresses are one stride apart.
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
    at: [[i32; NR]; 3],
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
        let mut index = [first / (width * height), first / width % height, first % width];
        for lane in 0..lanes {
            let at = [0, 1, 2].map(|i| (index[i] * window.stride[i]) as i32 - window.pad[i] as i32);
            (0..3).for_each(|i| panel.at[i][lane] = at[i]);
            panel.offsets[lane] = panel.offset(at.map(|v| v as isize)) as i32;
            index[2] += 1;
            if index[2] == width {
                index =
                    if index[1] + 1 == height { [index[0] + 1, 0, 0] } else { [index[0], index[1] + 1, 0] };
            }
        }
        panel.n_runs = panel.find_runs();
        panel
    }

    fn offset(&self, at: [isize; 3]) -> isize {
        let [_, height, width] = self.window.input;
        (at[0] * height as isize + at[1]) * width as isize + at[2]
    }

    fn find_runs(&mut self) -> Option<[usize; 2]> {
        let step = self.window.stride[2];
        if step > 2 {
            return None;
        }
        let mut counts = [0; 2];
        for (half, count) in counts.iter_mut().enumerate() {
            for lane in half * NR / 2..((half + 1) * NR / 2).min(self.lanes) {
                let base = self.offsets[lane] as isize - (lane * step) as isize;
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
    fn mask(&self, isa: Isa, i: usize, tap: usize) -> u32 {
        let shift = (tap * self.window.dilation[i]) as i32;
        let limit = self.window.input[i] as u32;
        let all = if self.lanes == NR { u32::MAX } else { (1 << self.lanes) - 1 };
        // SAFETY: an `Isa` is only obtained from detection.
        all & unsafe { lanes_below(isa, &self.at[i], shift, limit) }
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
            let mask_d = self.mask(isa, 0, kd);
            for kh in 0..w.kernel[1] {
                let mask_h = mask_d & self.mask(isa, 1, kh);
                for kw in 0..w.kernel[2] {
                    let mask = mask_h & self.mask(isa, 2, kw);
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
                    Some(_) if self.window.stride[2] == 2 => wide_pairs(self, job),
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
        if self.window.stride[2] != 1 || mask.count_ones() < NR as u32 {
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

per_isa! {
    /// Lanes whose position, moved by `shift`, is not negative and below `limit`.
    unsafe fn lanes_below = lanes_below_body(at: &[i32; NR], shift: i32, limit: u32) -> u32
}

#[inline(always)]
unsafe fn lanes_below_body<const FMA: bool>(at: &[i32; NR], shift: i32, limit: u32) -> u32 {
    let mut bits = [0u32; NR];
    for (lane, bit) in bits.iter_mut().enumerate() {
        *bit = u32::from(((at[lane] + shift) as u32) < limit) << lane;
    }
    bits.iter().fold(0, |all, bit| all | bit)
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

/// `wide_runs` for lanes two elements apart: two loads are sifted into one vector.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2")]
unsafe fn wide_pairs(panel: &Panel<'_>, job: &Tap) {
    use std::arch::x86_64::*;
    let Some(counts) = panel.n_runs else { return };
    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    for (half, (runs, count)) in panel.runs.iter().zip(counts).enumerate() {
        let parts = runs.map(|run| {
            let mask = ((run.mask & job.mask) >> (16 * half)) as u16;
            (mask, _pdep_u32(u32::from(mask), 0x5555_5555), run.base + 32 * half as isize)
        });
        let (mut x, mut out) = (job.x, job.out.wrapping_add(16 * half));
        for _ in 0..job.channels {
            let mut value = _mm512_setzero_ps();
            for &(mask, spread, base) in &parts[..count] {
                let src = x.wrapping_offset(base);
                // SAFETY: lanes of the mask lie in the plane; others are not accessed.
                unsafe {
                    let low = _mm512_maskz_loadu_ps(spread as u16, src);
                    let high = _mm512_maskz_loadu_ps((spread >> 16) as u16, src.wrapping_add(16));
                    let sifted = _mm512_permutex2var_ps(low, even, high);
                    value = _mm512_mask_mov_ps(value, mask, sifted);
                }
            }
            // SAFETY: `out` has NR floats per row.
            unsafe { _mm512_storeu_ps(out, value) };
            x = x.wrapping_add(job.plane);
            out = out.wrapping_add(job.step);
        }
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
