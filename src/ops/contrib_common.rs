//! What the rows of the domain `com.microsoft` share: their names, and numbers quantized by one scale and one
//! zero point.
//!
//! Roundings follow ONNX Runtime's CPU kernels, which are the only specification of these operators: scales and
//! their products are f32, and halves go to the even neighbour.

use crate::common::{input, tensor, type_error};
use crate::eval::{int_range, optional, optional_type};
use partita_ir::diag::Diag;
use partita_ir::op::{EvalCtx, InferCtx, OnnxName, Rng};
use partita_ir::{DType, Tensor};

/// A name in the domain.
pub(crate) const fn ms(op_type: &'static str) -> OnnxName {
    OnnxName { domain: "com.microsoft", op_type, since: 1 }
}

/// An affine quantization of a whole tensor: `value = scale * (number - zero)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quant {
    pub(crate) scale: f32,
    pub(crate) zero: i64,
    low: i64,
    high: i64,
}

impl Quant {
    /// From operands `scale` and `zero`; an omitted zero point is 0.
    ///
    /// # Errors
    /// `V020` when the scale is missing.
    pub(crate) fn read(ctx: &EvalCtx, scale: usize, zero: usize, dtype: DType) -> Result<Self, Diag> {
        let (low, high) = int_range(dtype);
        Ok(Self {
            scale: number(tensor(ctx, scale)?) as f32,
            zero: optional(ctx, zero).and_then(|t| t.to_i64s().first().copied()).unwrap_or(0),
            low: low as i64,
            high: high as i64,
        })
    }

    /// The value of a number.
    pub(crate) fn value(&self, number: i64) -> f32 {
        self.scale * (number - self.zero) as f32
    }

    /// The number nearest to a value.
    pub(crate) fn nearest(&self, value: f32) -> i64 {
        self.saturated((value / self.scale).round_ties_even() as i64, self.zero)
    }

    /// `steps + offset` within the element type's range.
    pub(crate) fn saturated(&self, steps: i64, offset: i64) -> i64 {
        steps.saturating_add(offset).clamp(self.low, self.high)
    }

    /// The number nearest to `steps` counted from the element type's own zero.
    pub(crate) fn rounded(&self, steps: f32) -> i64 {
        self.saturated(steps.round_ties_even() as i64, 0)
    }
}

/// The first element.
pub(crate) fn number(t: &Tensor) -> f64 {
    t.to_f64s().first().copied().unwrap_or(0.0)
}

/// Checks that operand `n` is an f32 scale of one element.
///
/// # Errors
/// `V020` when it is not.
pub(crate) fn check_scale(ctx: &InferCtx, n: usize) -> Result<(), Diag> {
    let ty = input(ctx, n)?;
    if ty.dtype != DType::F32 {
        return Err(type_error(format!("the scale must be f32, operand {n} is {ty}")));
    }
    one_element(ctx, n)
}

/// Checks that operand `n`, where it is given, is a zero point of one element of type `dtype`.
///
/// # Errors
/// `V020` when it is not.
pub(crate) fn check_zero(ctx: &InferCtx, n: usize, dtype: DType) -> Result<(), Diag> {
    match optional_type(ctx, n) {
        Some(ty) if ty.dtype != dtype => {
            Err(type_error(format!("the zero point must be {}, operand {n} is {ty}", dtype.name())))
        }
        Some(_) => one_element(ctx, n),
        None => Ok(()),
    }
}

fn one_element(ctx: &InferCtx, n: usize) -> Result<(), Diag> {
    let ty = input(ctx, n)?;
    match ty.shape.iter().find(|d| d.as_known().is_some_and(|d| d != 1)) {
        Some(_) => Err(type_error(format!("operand {n} must have one element, it is {ty}"))),
        None => Ok(()),
    }
}

/// Checks that operand `n` has 8-bit elements; returns their type.
///
/// # Errors
/// `V020` when it has others.
pub(crate) fn eight_bits(ctx: &InferCtx, n: usize) -> Result<DType, Diag> {
    let ty = input(ctx, n)?;
    match ty.dtype {
        DType::I8 | DType::U8 => Ok(ty.dtype),
        _ => Err(type_error(format!("quantized operands are i8 or u8, operand {n} is {ty}"))),
    }
}

/// Checks that operand `n` has the element type `dtype`.
///
/// # Errors
/// `V020` when it has another.
pub(crate) fn want_dtype(ctx: &InferCtx, n: usize, dtype: DType) -> Result<(), Diag> {
    let ty = input(ctx, n)?;
    if ty.dtype == dtype {
        Ok(())
    } else {
        Err(type_error(format!("operand {n} must be {}, it is {ty}", dtype.name())))
    }
}

/// A scale of about one hundredth of the values' range.
pub(crate) fn sample_scale(rng: &mut Rng) -> Tensor {
    rng.tensor(DType::F32, &[], 0.01, 0.3)
}

/// Numbers of the whole range of an 8-bit type.
pub(crate) fn sample_eight_bits(rng: &mut Rng, dtype: DType, shape: &[usize]) -> Tensor {
    let (low, high) = int_range(dtype);
    rng.tensor(dtype, shape, low as f64, high as f64)
}

/// One of the 8-bit types.
pub(crate) fn sample_eight_bit_type(rng: &mut Rng) -> DType {
    *rng.pick(&[DType::U8, DType::I8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_go_to_the_even_neighbour() {
        let quant = Quant { scale: 1.0, zero: 3, low: 0, high: 255 };
        assert_eq!([0.5, 1.5, -2.5, 1e9, f32::NAN].map(|v| quant.nearest(v)), [3, 5, 1, 255, 3]);
        assert_eq!(quant.value(1), -2.0);
    }
}
