//! Layer and root-mean-square normalisation over the trailing axes.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::isa::{Isa, per_isa};
use crate::math::fma;
use crate::prepared::{Call, Cx, Operand, Prepared, parts_for};
use crate::team::share;
use crate::vector::{self, Term};
use partita_plan::ElementType;
use partita_runtime::error::RuntimeError;
use std::slice::from_raw_parts;

/// Elements below which another thread does not pay.
const GRAIN: usize = 16_384;

struct Norm {
    isa: Isa,
    rows: usize,
    length: usize,
    epsilon: f32,
    rms: bool,
    x: *const f32,
    y: *mut f32,
    /// One value per element of a row, or null.
    scale: *const f32,
    bias: *const f32,
    members: usize,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for Norm {}
// SAFETY: as above.
unsafe impl Sync for Norm {}

per_isa! {
    /// `y = (x - mean) * factor * scale + bias`.
    unsafe fn apply = apply_body(norm: &Norm, x: *const f32, y: *mut f32, mean: f32, factor: f32)
}

#[inline(always)]
unsafe fn apply_body<const FMA: bool>(norm: &Norm, x: *const f32, y: *mut f32, mean: f32, factor: f32) {
    // SAFETY: rows, scale and bias have `length` elements.
    unsafe {
        for i in 0..norm.length {
            *y.add(i) = (*x.add(i) - mean) * factor;
        }
        match (norm.scale.is_null(), norm.bias.is_null()) {
            (true, true) => {}
            (false, true) => (0..norm.length).for_each(|i| *y.add(i) *= *norm.scale.add(i)),
            (true, false) => (0..norm.length).for_each(|i| *y.add(i) += *norm.bias.add(i)),
            (false, false) => {
                (0..norm.length)
                    .for_each(|i| *y.add(i) = fma::<FMA>(*y.add(i), *norm.scale.add(i), *norm.bias.add(i)));
            }
        }
    }
}

impl Norm {
    unsafe fn row(&self, index: usize) {
        // SAFETY: the row lies in both operands.
        unsafe {
            let x = self.x.add(index * self.length);
            let row = from_raw_parts(x, self.length);
            let count = self.length as f32;
            let (mean, square) = if self.rms {
                (0.0, vector::sum(self.isa, row, Term::Square) / count)
            } else {
                let mean = vector::sum(self.isa, row, Term::Plain) / count;
                (mean, vector::sum_squared_from(self.isa, row, mean) / count)
            };
            let factor = 1.0 / (square + self.epsilon).sqrt();
            apply(self.isa, self, x, self.y.add(index * self.length), mean, factor);
        }
    }
}

impl Prepared for Norm {
    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let parts = parts_for(self.rows * self.length, GRAIN, self.members);
        cx.run(parts, &|part| {
            for row in share(self.rows, 1, part, parts) {
                // SAFETY: members work on different rows.
                unsafe { self.row(row) };
            }
        })
    }
}

fn row_operand(
    call: &Call<'_>,
    operand: Option<&Operand>,
    length: usize,
) -> Result<*const f32, RuntimeError> {
    let Some(operand) = operand else { return Ok(std::ptr::null()) };
    let fits = operand.dtype == ElementType::F32 && operand.layout.is_none() && operand.len() == length;
    call.ensure(fits, "scale and bias must be f32 with one value per normalised element")?;
    Ok(operand.f32())
}

/// Prepares a `layer_norm` step.
pub(crate) fn prepare(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let (x, y) = (call.input(0)?, call.output(0)?);
    let dense = [x, y].iter().all(|o| o.dtype == ElementType::F32 && o.layout.is_none());
    call.ensure(dense && x.shape == y.shape, "operand and result must be f32 of one shape")?;
    let axis = call.axis("axis", x.shape.len())?;
    let length: usize = x.shape[axis..].iter().product();
    let (scale, bias) =
        (row_operand(call, call.optional(1), length)?, row_operand(call, call.optional(2), length)?);
    if x.len() == 0 {
        return Ok(Box::new(crate::reference::Nothing));
    }
    Ok(Box::new(Norm {
        isa: call.isa,
        rows: x.len() / length,
        length,
        epsilon: call.kernel.float("epsilon").unwrap_or(1e-5) as f32,
        rms: call.flag("rms"),
        x: x.f32(),
        y: y.f32(),
        scale,
        bias,
        members: call.members,
    }))
}
