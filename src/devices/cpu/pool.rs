//! Max and average pooling, one plane at a time.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::isa::{Isa, per_isa};
use crate::micro::Post;
use crate::pool_rows::PoolRows;
use crate::prepared::{Call, Cx, Prepared, parts_for};
use crate::stencil::{Plane, Stencil, find};
use crate::team::share;
use crate::window::{Channels, Window};
use partita_plan::ElementType;
use partita_runtime::error::RuntimeError;
use std::ops::Range;
use std::slice::{from_raw_parts, from_raw_parts_mut};

/// Elementary operations below which another thread does not pay.
const GRAIN: usize = 30_000;

/// How many elements an average divides by.
#[derive(Clone, Copy)]
pub(crate) struct Count {
    pub window: Window,
    /// Whether padding counts, and the padding at the end of each axis.
    pub with_pads: bool,
    pub pad_end: [usize; 3],
}

impl Count {
    /// How many elements of window position `out` along axis `i` count.
    pub(crate) fn along(&self, i: usize, out: usize) -> usize {
        let w = &self.window;
        let limit = if self.with_pads { w.pad[i] + w.input[i] + self.pad_end[i] } else { 0 };
        let counts = |tap: usize| {
            let at = out * w.stride[i] + tap * w.dilation[i];
            if self.with_pads { at < limit } else { w.source(i, out, tap).is_some() }
        };
        (0..w.kernel[i]).filter(|&tap| counts(tap)).count()
    }
}

struct Pool {
    isa: Isa,
    planes: usize,
    window: Window,
    max: bool,
    /// A faster way for this window.
    stencil: Option<Stencil>,
    count: Count,
    x: *const f32,
    y: *mut f32,
    members: usize,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Pool {
    unsafe fn plane(&self, index: usize) {
        let w = &self.window;
        let x = self.x.wrapping_add(index * w.input_len());
        let y = self.y.wrapping_add(index * w.output_len());
        if let Some(stencil) = &self.stencil {
            let plane = Plane { x, weights: std::ptr::null(), y, post: Post::NONE };
            // SAFETY: the planes were checked against the operands, the set of the stencil exists here.
            return unsafe { stencil.run(&plane) };
        }
        for d in 0..w.output[0] {
            for h in 0..w.output[1] {
                // SAFETY: the row lies in the output plane.
                let row =
                    unsafe { from_raw_parts_mut(y.add((d * w.output[1] + h) * w.output[2]), w.output[2]) };
                row.fill(if self.max { f32::NEG_INFINITY } else { 0.0 });
                // SAFETY: the caller's plane.
                unsafe { self.row(x, d, h, row) };
                if !self.max {
                    self.divide(d, h, row);
                }
            }
        }
    }

    unsafe fn row(&self, x: *const f32, d: usize, h: usize, row: &mut [f32]) {
        let w = &self.window;
        for kd in 0..w.kernel[0] {
            let Some(at_d) = w.source(0, d, kd) else { continue };
            for kh in 0..w.kernel[1] {
                let Some(at_h) = w.source(1, h, kh) else { continue };
                let line = (at_d * w.input[1] + at_h) * w.input[2];
                for kw in 0..w.kernel[2] {
                    let columns = w.valid(2, kw);
                    if let Some(at_w) = w.source(2, columns.start, kw).filter(|_| !columns.is_empty()) {
                        // SAFETY: `valid` keeps the reads inside the input row.
                        unsafe {
                            tap(self.isa, self.max, x.add(line + at_w), w.stride[2], &mut row[columns]);
                        };
                    }
                }
            }
        }
    }

    fn divide(&self, d: usize, h: usize, row: &mut [f32]) {
        let outer = self.count.along(0, d) * self.count.along(1, h);
        for (column, value) in row.iter_mut().enumerate() {
            *value /= (outer * self.count.along(2, column)) as f32;
        }
    }
}

per_isa! {
    unsafe fn tap = tap_body(max: bool, src: *const f32, step: usize, row: &mut [f32])
}

#[inline(always)]
unsafe fn tap_body<const FMA: bool>(max: bool, src: *const f32, step: usize, row: &mut [f32]) {
    let larger = |a: f32, b: f32| if b > a || b.is_nan() { b } else { a };
    // SAFETY: the caller's contract: `row.len()` elements, `step` apart, are readable.
    unsafe {
        match (max, step) {
            (true, 1) => {
                let src = from_raw_parts(src, row.len());
                row.iter_mut().zip(src).for_each(|(r, &s)| *r = larger(*r, s));
            }
            (true, 2) => row.iter_mut().enumerate().for_each(|(i, r)| *r = larger(*r, *src.add(2 * i))),
            (true, _) => row.iter_mut().enumerate().for_each(|(i, r)| *r = larger(*r, *src.add(step * i))),
            (false, _) => row.iter_mut().enumerate().for_each(|(i, r)| *r += *src.add(step * i)),
        }
    }
}

impl Prepared for Pool {
    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let work = self.planes.saturating_mul(self.window.output_len()).saturating_mul(self.window.taps());
        let parts = parts_for(work, GRAIN, self.members);
        cx.run(parts, &|part| {
            let planes: Range<usize> = share(self.planes, 1, part, parts);
            for plane in planes {
                // SAFETY: members work on different planes of the checked operands.
                unsafe { self.plane(plane) };
            }
        })
    }
}

/// Prepares a `pool` step.
pub(crate) fn prepare(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let (x, y) = (call.input(0)?, call.output(0)?);
    let dense = [x, y].iter().all(|o| o.dtype == ElementType::F32 && o.layout.is_none());
    call.ensure(dense, "pooling takes f32, row-major operands")?;
    let layout = Channels::of(call)?;
    call.ensure(layout != Channels::FirstToLast, "the layout is unknown")?;
    let alike = x.shape.first() == y.shape.first() && layout.count_in(x) == layout.count_in(y);
    call.ensure(x.shape.len() >= 3 && y.shape.len() == x.shape.len() && alike, "batch or channels differ")?;
    let axes = x.shape.len() - 2;
    let kernel = call.sizes("kernel", axes, 1)?;
    let window = Window::over(call, layout.spatial_in(x), &kernel, layout.spatial_in(y))?;
    let pads = call.sizes("pads", axes * 2, 0)?;
    let mut pad_end = [0; 3];
    pad_end[3 - axes..].copy_from_slice(&pads[axes..]);
    let max = match call.kernel.string("mode") {
        Some("max") => true,
        Some("avg") => false,
        _ => return Err(call.bad("parameter `mode` is neither `max` nor `avg`")),
    };
    let count = Count { window, with_pads: call.flag("count_include_pad"), pad_end };
    let (batch, channels) = (x.shape[0], layout.count_in(x));
    if y.len() == 0 {
        return Ok(Box::new(crate::reference::Nothing));
    }
    if layout == Channels::Last {
        let (x, y, members) = (x.f32().cast_const(), y.f32(), call.members);
        return Ok(Box::new(PoolRows { isa: call.isa, window, max, count, batch, channels, x, y, members }));
    }
    Ok(Box::new(Pool {
        isa: call.isa,
        planes: batch * channels,
        stencil: if max { find(call.isa, &window, true) } else { None },
        window,
        max,
        count,
        x: x.f32(),
        y: y.f32(),
        members: call.members,
    }))
}
