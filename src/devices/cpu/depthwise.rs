//! Depthwise convolution: one channel at a time, the padded plane as flat rows.
//!
//! The plane is copied once into zero-padded phase planes (one per residue of the strides), so that every
//! tap becomes a plain shifted read and one loop covers the whole plane, row ends included.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::conv::Sizes;
use crate::epilogue::Epilogue;
use crate::isa::{Isa, per_isa};
use crate::math::fma;
use crate::micro::Post;
use crate::prepared::{Call, Cx, Prepared, Scratch, aligned, parts_for};
use crate::stencil::{Plane, Stencil, find};
use crate::team::share;
use crate::window::Window;
use partita_runtime::error::RuntimeError;

/// Multiply-adds below which another thread does not pay.
const GRAIN: usize = 30_000;
/// Lanes that a flat loop may run past the last row.
const SLACK: usize = 16;

/// Sizes of the phase planes.
#[derive(Clone, Copy)]
struct Phases {
    rows: usize,
    width: usize,
    /// Distance of two phase planes.
    plane: usize,
    /// Lanes of the flat loop.
    lanes: usize,
    /// All floats.
    floats: usize,
}

struct Depthwise {
    isa: Isa,
    /// A faster way for this window.
    stencil: Option<Stencil>,
    sizes: Sizes,
    phases: Phases,
    x: *const f32,
    w: *const f32,
    y: *mut f32,
    epilogue: Epilogue,
    members: usize,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for Depthwise {}
// SAFETY: as above.
unsafe impl Sync for Depthwise {}

fn phases(window: &Window) -> Option<Phases> {
    let rows = window.extent(1)?.div_ceil(window.stride[1]);
    let width = window.extent(2)?.div_ceil(window.stride[2]);
    let lanes = (window.output[1].checked_mul(width)?).checked_next_multiple_of(SLACK)?;
    let plane = rows.checked_add(1)?.checked_mul(width)?.checked_add(2 * SLACK)?;
    let floats = plane.checked_mul(window.stride[1])?.checked_mul(window.stride[2])?;
    (floats < 1 << 32).then_some(Phases { rows, width, plane, lanes, floats })
}

impl Depthwise {
    /// Copies the plane at `x` into the phase planes; padding is zero.
    unsafe fn scatter(&self, x: *const f32, out: *mut f32) {
        let (w, p) = (&self.sizes.window, &self.phases);
        let [_, height, width] = w.input;
        // SAFETY: `out` has all phase planes; indices are bounded by their sizes.
        unsafe {
            std::slice::from_raw_parts_mut(out, p.floats).fill(0.0);
            for row in 0..height {
                let at = row + w.pad[1];
                let (phase, line) = (at % w.stride[1], at / w.stride[1]);
                if line >= p.rows {
                    break;
                }
                let src = x.add(row * width);
                for phase_x in 0..w.stride[2] {
                    let base = out.add((phase * w.stride[2] + phase_x) * p.plane + line * p.width);
                    // The first input column of this phase.
                    let first = (phase_x + w.stride[2] - w.pad[2] % w.stride[2]) % w.stride[2];
                    let to = (first + w.pad[2]) / w.stride[2];
                    let count =
                        width.saturating_sub(first).div_ceil(w.stride[2]).min(p.width.saturating_sub(to));
                    copy_strided(src.wrapping_add(first), w.stride[2], base.wrapping_add(to), count);
                }
            }
        }
    }

    unsafe fn channel(&self, index: usize, local: *mut u8) {
        let (w, p) = (&self.sizes.window, &self.phases);
        let planes: *mut f32 = local.cast();
        let sums: *mut f32 = local.wrapping_add(aligned(p.floats * 4)).cast();
        let scratch = local.wrapping_add(aligned(p.floats * 4) + aligned(p.lanes * 4));
        let weights = self.w.wrapping_add(index % self.sizes.groups * w.taps());
        let plane = w.output_len();
        let y = self.y.wrapping_add(index * plane);
        let post = self.epilogue.post(index, 0, plane);
        if let Some(stencil) = &self.stencil {
            let x = self.x.wrapping_add(index * w.input_len());
            // SAFETY: the planes were checked against the operands, the set of the stencil exists here.
            unsafe {
                stencil.run(&Plane { x, weights, y, post });
                self.epilogue.apply(index, 1, 0, plane, plane, scratch);
            }
            return;
        }
        // SAFETY: sizes were checked against the operands; the scratch holds all parts.
        unsafe {
            self.scatter(self.x.add(index * w.input_len()), planes);
            sum_taps(self.isa, w, p, planes, weights, sums);
            finish(self.isa, w.output[1], w.output[2], p.width, sums, y, &post);
            self.epilogue.apply(index, 1, 0, plane, plane, scratch);
        }
    }
}

#[inline(always)]
unsafe fn copy_strided(src: *const f32, step: usize, dst: *mut f32, count: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        match step {
            1 => std::ptr::copy_nonoverlapping(src, dst, count),
            2 => (0..count).for_each(|i| *dst.add(i) = *src.add(2 * i)),
            _ => (0..count).for_each(|i| *dst.add(i) = *src.add(step * i)),
        }
    }
}

per_isa! {
    /// Sums all taps over the flat lanes.
    unsafe fn sum_taps = sum_taps_body(w: &Window, p: &Phases, planes: *const f32, weights: *const f32, sums: *mut f32)
}

#[inline(always)]
unsafe fn sum_taps_body<const FMA: bool>(
    w: &Window,
    p: &Phases,
    planes: *const f32,
    weights: *const f32,
    sums: *mut f32,
) {
    let source = |kh: usize, kw: usize| {
        let (dy, dx) = (kh * w.dilation[1], kw * w.dilation[2]);
        let phase = (dy % w.stride[1]) * w.stride[2] + dx % w.stride[2];
        planes.wrapping_add(phase * p.plane + dy / w.stride[1] * p.width + dx / w.stride[2])
    };
    // SAFETY: sources are readable for the flat lanes, which end in the slack of the planes.
    unsafe {
        let out = std::slice::from_raw_parts_mut(sums, p.lanes);
        match (w.kernel[1], w.kernel[2]) {
            (3, 3) => fixed::<FMA, 9>(std::array::from_fn(|t| source(t / 3, t % 3)), weights, out),
            (5, 5) => fixed::<FMA, 25>(std::array::from_fn(|t| source(t / 5, t % 5)), weights, out),
            (height, width) => {
                out.fill(0.0);
                for tap in 0..height * width {
                    let src = std::slice::from_raw_parts(source(tap / width, tap % width), p.lanes);
                    let weight = *weights.add(tap);
                    out.iter_mut().zip(src).for_each(|(o, &s)| *o = fma::<FMA>(weight, s, *o));
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn fixed<const FMA: bool, const TAPS: usize>(
    sources: [*const f32; TAPS],
    weights: *const f32,
    out: &mut [f32],
) {
    // SAFETY: the contract of `sum_taps_body`.
    unsafe {
        let weights: [f32; TAPS] = std::array::from_fn(|t| *weights.add(t));
        for (lane, out) in out.iter_mut().enumerate() {
            let mut sum = 0.0;
            for tap in 0..TAPS {
                sum = fma::<FMA>(weights[tap], *sources[tap].add(lane), sum);
            }
            *out = sum;
        }
    }
}

per_isa! {
    /// Copies the flat sums to the rows of the plane at `y`, with bias, residual and bounds.
    unsafe fn finish = finish_body(height: usize, width: usize, step: usize, sums: *const f32, y: *mut f32, post: &Post)
}

#[inline(always)]
unsafe fn finish_body<const FMA: bool>(
    height: usize,
    width: usize,
    step: usize,
    sums: *const f32,
    y: *mut f32,
    post: &Post,
) {
    // SAFETY: rows lie in the sums and in the plane; operands have the plane's extent.
    unsafe {
        let bias = if post.row_bias.is_null() { 0.0 } else { *post.row_bias };
        for row in 0..height {
            let src = std::slice::from_raw_parts(sums.add(row * step), width);
            let dst = std::slice::from_raw_parts_mut(y.add(row * width), width);
            dst.iter_mut().zip(src).for_each(|(d, &s)| *d = s + bias);
            for extra in [post.residual, post.column_bias] {
                if !extra.is_null() {
                    let extra = std::slice::from_raw_parts(extra.add(row * width), width);
                    dst.iter_mut().zip(extra).for_each(|(d, &e)| *d += e);
                }
            }
            if post.active {
                dst.iter_mut().for_each(|d| *d = post.last([*d])[0]);
            }
        }
    }
}

impl Prepared for Depthwise {
    fn scratch(&self) -> Scratch {
        let local = aligned(self.phases.floats * 4) + aligned(self.phases.lanes * 4);
        Scratch { shared: 0, local: local + aligned(self.epilogue.scratch_bytes()) }
    }

    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let channels = self.sizes.batch * self.sizes.groups;
        let work = channels * self.sizes.window.output_len() * self.sizes.window.taps();
        let parts = parts_for(work, GRAIN, self.members);
        cx.run(parts, &|part| {
            for channel in share(channels, 1, part, parts) {
                // SAFETY: members work on different channels with own scratch.
                unsafe { self.channel(channel, cx.local(part)) };
            }
        })
    }
}

/// Prepares a depthwise convolution whose sizes were checked.
pub(crate) fn prepare(
    call: &Call<'_>,
    sizes: Sizes,
    epilogue: Epilogue,
) -> Result<Box<dyn Prepared>, RuntimeError> {
    let phases = phases(&sizes.window).ok_or_else(|| call.bad("a plane is too large"))?;
    Ok(Box::new(Depthwise {
        isa: call.isa,
        stencil: find(call.isa, &sizes.window, false),
        sizes,
        phases,
        x: call.input(0)?.f32(),
        w: call.input(1)?.f32(),
        y: call.output(0)?.f32(),
        epilogue,
        members: call.members,
    }))
}
