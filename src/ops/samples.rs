//! Random operands for the rows' `sample` functions.

use crate::common::{sample_of, sample_shape};
use partita_ir::op::{Rng, Sample};
use partita_ir::{DType, Tensor};

/// A random shape of rank 0 to 4 with dims 1 to 4.
pub fn shape(rng: &mut Rng) -> Vec<usize> {
    let rank = rng.below(5);
    sample_shape(rng, rank)
}

/// A random shape of rank `least` to 4.
pub fn shape_of_rank(rng: &mut Rng, least: usize) -> Vec<usize> {
    let rank = least + rng.below(5 - least.min(4));
    sample_shape(rng, rank)
}

/// A numeric element type, mostly f32.
pub fn number(rng: &mut Rng) -> DType {
    *rng.pick(&[
        DType::F32,
        DType::F32,
        DType::F32,
        DType::F16,
        DType::F64,
        DType::I64,
        DType::I32,
        DType::U8,
    ])
}

/// A float element type, mostly f32.
pub fn float(rng: &mut Rng) -> DType {
    *rng.pick(&[DType::F32, DType::F32, DType::F32, DType::F16, DType::Bf16, DType::F64])
}

/// Any element type, mostly f32.
pub fn any(rng: &mut Rng) -> DType {
    *rng.pick(&[DType::F32, DType::F32, DType::F16, DType::I64, DType::I32, DType::U8, DType::Bool])
}

/// A tensor in a range that suits the element type.
pub fn values(rng: &mut Rng, dtype: DType, shape: &[usize]) -> Tensor {
    match dtype {
        DType::Bool => rng.tensor(dtype, shape, -0.49, 1.49),
        DType::U8 | DType::U16 | DType::U32 | DType::U64 => rng.tensor(dtype, shape, 0.0, 9.0),
        d if d.is_float() => rng.tensor(dtype, shape, -3.0, 3.0),
        _ => rng.tensor(dtype, shape, -9.0, 9.0),
    }
}

/// Shapes that broadcast with each other.
pub fn broadcast_shapes(rng: &mut Rng, n: usize) -> Vec<Vec<usize>> {
    let full = shape(rng);
    (0..n).map(|_| shrink(rng, &full)).collect()
}

/// A shape that broadcasts to `full`.
pub fn shrink(rng: &mut Rng, full: &[usize]) -> Vec<usize> {
    if rng.below(3) == 0 {
        return full.to_vec();
    }
    let skip = if rng.below(2) == 0 { 0 } else { rng.below(full.len() + 1) };
    full[skip..].iter().map(|&d| if rng.below(3) == 0 { 1 } else { d }).collect()
}

/// `n` broadcasting operands of `dtype`.
pub fn broadcast(rng: &mut Rng, dtype: DType, n: usize) -> Sample {
    let shapes = broadcast_shapes(rng, n);
    sample_of(shapes.iter().map(|s| values(rng, dtype, s)).collect())
}

/// One float operand.
pub fn unary_float(rng: &mut Rng) -> Sample {
    let (dtype, shape) = (float(rng), shape(rng));
    sample_of(vec![values(rng, dtype, &shape)])
}

/// One float operand with elements in `low..high`.
pub fn unary_within(rng: &mut Rng, low: f64, high: f64) -> Sample {
    let (dtype, shape) = (float(rng), shape(rng));
    sample_of(vec![rng.tensor(dtype, &shape, low, high)])
}

/// One numeric operand.
pub fn unary_number(rng: &mut Rng) -> Sample {
    let (dtype, shape) = (number(rng), shape(rng));
    sample_of(vec![values(rng, dtype, &shape)])
}

/// Two numeric operands that broadcast.
pub fn binary_number(rng: &mut Rng) -> Sample {
    let dtype = number(rng);
    broadcast(rng, dtype, 2)
}

/// A 1-D i64 tensor.
pub fn list(values: &[i64]) -> Tensor {
    Tensor::from_slice(&[values.len()], values).unwrap_or_else(|| Tensor::scalar(0i64))
}
