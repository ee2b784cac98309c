//! Contents of constants: `splat`, `dense`, `random`, `iota`.

use crate::op::Rng;
use crate::tensor::{Bytes, n_elements};
use crate::{DType, Tensor};

/// A number as written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Int(i64),
    Float(f64),
}

/// A tensor with every element `value`.
pub(crate) fn splat(dtype: DType, shape: &[usize], value: Number) -> Option<Tensor> {
    let one = dense(dtype, &[1], &[value])?;
    let bytes = one.bytes().repeat(n_elements(shape)?);
    Tensor::new(dtype, shape, Bytes::from_vec(bytes))
}

/// A tensor from its elements.
pub(crate) fn dense(dtype: DType, shape: &[usize], values: &[Number]) -> Option<Tensor> {
    let ints: Option<Vec<i64>> = values
        .iter()
        .map(|v| match v {
            Number::Int(i) => Some(*i),
            Number::Float(_) => None,
        })
        .collect();
    match ints.filter(|_| !dtype.is_float()) {
        Some(ints) => Tensor::from_i64s(dtype, shape, &ints),
        None => Tensor::from_f64s(dtype, shape, &values.iter().map(|v| v.as_f64()).collect::<Vec<_>>()),
    }
}

impl Number {
    fn as_f64(self) -> f64 {
        match self {
            Self::Int(i) => i as f64,
            Self::Float(f) => f,
        }
    }
}

/// Pseudo-random elements: floats uniform in -0.5..0.5, integers in 0..9, booleans either.
pub(crate) fn random(dtype: DType, shape: &[usize], seed: i64) -> Tensor {
    let mut rng = Rng(seed.cast_unsigned());
    match dtype {
        DType::Bool => rng.tensor(dtype, shape, 0.0, 1.0),
        _ if dtype.is_float() => rng.tensor(dtype, shape, -0.5, 0.5),
        _ => rng.tensor(dtype, shape, 0.0, 9.0),
    }
}

/// 0, 1, 2, ...
pub(crate) fn iota(dtype: DType, shape: &[usize]) -> Option<Tensor> {
    let values: Vec<i64> = (0..n_elements(shape)? as i64).collect();
    Tensor::from_i64s(dtype, shape, &values)
}
