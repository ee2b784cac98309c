//! Softmax and log-softmax along one axis.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::isa::Isa;
use crate::prepared::{Call, Cx, Prepared, Scratch, aligned, parts_for};
use crate::team::share;
use crate::vector;
use partita_plan::ElementType;
use partita_runtime::error::RuntimeError;
use std::slice::{from_raw_parts, from_raw_parts_mut};

/// Elements below which another thread does not pay.
const GRAIN: usize = 8192;

struct Softmax {
    isa: Isa,
    rows: usize,
    length: usize,
    /// Distance of two elements of a row.
    step: usize,
    log: bool,
    /// The half-width type that results between the steps are rounded to, as ONNX defines softmax.
    half: Option<ElementType>,
    x: *const f32,
    y: *mut f32,
    members: usize,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for Softmax {}
// SAFETY: as above.
unsafe impl Sync for Softmax {}

/// Softmax of `len` elements from `src` to `dst`, which may be the same.
///
/// # Safety
/// Both ranges are valid; `isa` exists here.
pub(crate) unsafe fn softmax_row(isa: Isa, src: *const f32, dst: *mut f32, len: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        let largest = vector::maximum(isa, from_raw_parts(src, len));
        // A row that is masked out entirely has no finite maximum; its result is NaN as in the definition.
        let total = vector::exp_row(isa, src, dst, len, 1.0, largest);
        vector::scale_row(isa, from_raw_parts_mut(dst, len), 1.0 / total);
    }
}

/// Softmax of a row of halves in f32, with every step rounded to `half`.
///
/// # Safety
/// As `softmax_row`.
unsafe fn half_softmax_row(isa: Isa, half: ElementType, src: *const f32, dst: *mut f32, len: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        let largest = vector::maximum(isa, from_raw_parts(src, len));
        for i in 0..len {
            *dst.add(i) = rounded(half, *src.add(i) - largest);
        }
        vector::exp_row(isa, dst, dst, len, 1.0, 0.0);
        let row = from_raw_parts_mut(dst, len);
        row.iter_mut().for_each(|v| *v = rounded(half, *v));
        let total = rounded(half, row.iter().sum());
        row.iter_mut().for_each(|v| *v /= total);
    }
}

/// `value` as `half` holds it.
fn rounded(half: ElementType, value: f32) -> f32 {
    match half {
        ElementType::F16 => half::f16::from_f32(value).to_f32(),
        _ => half::bf16::from_f32(value).to_f32(),
    }
}

unsafe fn log_softmax_row(isa: Isa, src: *const f32, dst: *mut f32, len: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        let row = from_raw_parts(src, len);
        let largest = vector::maximum(isa, row);
        let shift = largest + vector::sum_exp(isa, row, largest).ln();
        vector::shift_row(isa, src, dst, len, shift);
    }
}

impl Softmax {
    unsafe fn row(&self, index: usize, scratch: *mut f32) {
        let base = index / self.step * self.step * self.length + index % self.step;
        // SAFETY: both rows are valid, as the caller of this closure says.
        let run = |isa, src, dst, len| unsafe {
            match (self.log, self.half) {
                (true, _) => log_softmax_row(isa, src, dst, len),
                (false, None) => softmax_row(isa, src, dst, len),
                (false, Some(half)) => half_softmax_row(isa, half, src, dst, len),
            }
        };
        // SAFETY: the row lies in both operands; the scratch holds one row.
        unsafe {
            if self.step == 1 {
                return run(self.isa, self.x.add(base), self.y.add(base), self.length);
            }
            for i in 0..self.length {
                *scratch.add(i) = *self.x.add(base + i * self.step);
            }
            run(self.isa, scratch, scratch, self.length);
            for i in 0..self.length {
                *self.y.add(base + i * self.step) = *scratch.add(i);
            }
        }
    }
}

impl Prepared for Softmax {
    fn scratch(&self) -> Scratch {
        Scratch { shared: 0, local: if self.step == 1 { 0 } else { aligned(self.length * 4) } }
    }

    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let parts = parts_for(self.rows * self.length, GRAIN, self.members);
        cx.run(parts, &|part| {
            for row in share(self.rows, 1, part, parts) {
                // SAFETY: members work on different rows.
                unsafe { self.row(row, cx.local(part).cast()) };
            }
        })
    }
}

/// Prepares a `softmax` step.
pub(crate) fn prepare(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let (x, y) = (call.input(0)?, call.output(0)?);
    let dense = [x, y].iter().all(|o| o.dtype == ElementType::F32 && o.layout.is_none());
    call.ensure(dense && x.shape == y.shape, "operand and result must be f32 of one shape")?;
    let axis = call.axis("axis", x.shape.len())?;
    let length = x.shape[axis];
    if x.len() == 0 {
        return Ok(Box::new(crate::reference::Nothing));
    }
    Ok(Box::new(Softmax {
        isa: call.isa,
        rows: x.len() / length,
        length,
        step: x.shape[axis + 1..].iter().product(),
        log: call.flag("log"),
        half: call.widened,
        x: x.f32(),
        y: y.f32(),
        members: call.members,
    }))
}
