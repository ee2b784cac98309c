//! Batch normalisation in training mode: by the statistics of the batch itself, which also move the running ones.

use crate::channel_norm::with_channels;
use crate::common::{from_f64s, input, tensor, type_error};
use crate::eval::{Lines, may_equal, results, want_float};
use crate::norm::{epsilon, moments};
use partita_ir::diag::Diag;
use partita_ir::op::{EvalCtx, InferCtx};
use partita_ir::types::Type;
use partita_ir::{Dim, Tensor};

/// Whether all elements of a channel share statistics; else every feature has its own.
fn is_spatial(attrs: &partita_ir::Attrs) -> bool {
    !attrs.flag("per_feature")
}

/// The normalised data, the running mean and variance, and those of the batch.
///
/// # Errors
/// `V020` when the operands do not fit.
pub(crate) fn infer(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = if is_spatial(ctx.attrs) { with_channels(ctx, 2)? } else { with_features(ctx)? };
    let (mean, var) = (input(ctx, 3)?, input(ctx, 4)?);
    let mut types = vec![x.clone(), mean.clone(), var.clone(), mean.clone(), var.clone()];
    types.truncate(ctx.n_outputs.max(1));
    Ok(types)
}

/// The data's type, where every other operand has the shape of one example.
fn with_features<'a>(ctx: &InferCtx<'a>) -> Result<&'a Type, Diag> {
    let x = input(ctx, 0)?;
    want_float(x.dtype)?;
    let features: &[Dim] = x.shape.get(1..).unwrap_or_default();
    for n in 1..ctx.inputs.len() {
        let ty = input(ctx, n)?;
        want_float(ty.dtype)?;
        let fits = ty.rank() == features.len() && ty.shape.iter().zip(features).all(|(a, b)| may_equal(a, b));
        if x.rank() < 2 || !fits {
            return Err(type_error(format!("operand {n} is {ty}, one example of {x} is wanted")));
        }
    }
    Ok(x)
}

/// Evaluation; see `infer`.
///
/// # Errors
/// From `infer`.
pub(crate) fn eval(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let types = results(ctx, infer)?;
    let shape = &types[0].1;
    let end = if is_spatial(ctx.attrs) { 2 } else { shape.len() };
    let lines =
        Lines { outer: shape[0], len: shape[1..end].iter().product(), inner: shape[end..].iter().product() };
    let floats = |n: usize| tensor(ctx, n).map(Tensor::to_f64s);
    let (mut y, scale, bias) = (floats(0)?, floats(1)?, floats(2)?);
    let (mean, var) = (floats(3)?, floats(4)?);
    let (momentum, epsilon) = (f64::from(ctx.attrs.float_or("momentum", 0.9)), epsilon(ctx.attrs));
    let mut columns: [Vec<f64>; 4] = Default::default();
    for feature in 0..lines.len {
        let at = |outer: usize| (outer * lines.len + feature) * lines.inner;
        let positions: Vec<usize> = (0..lines.outer).flat_map(|o| at(o)..at(o) + lines.inner).collect();
        let batch: Vec<f64> = positions.iter().map(|&i| y[i]).collect();
        let (m, v) = moments(&batch);
        for i in positions {
            y[i] = (y[i] - m) / (v + epsilon).sqrt() * scale[feature] + bias[feature];
        }
        let moved = |old: f64, new: f64| old * momentum + new * (1.0 - momentum);
        let row = [moved(mean[feature], m), moved(var[feature], v), m, v];
        columns.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
    }
    let all = std::iter::once(&y).chain(&columns);
    types.iter().zip(all).map(|((dtype, shape), values)| from_f64s(*dtype, shape, values)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_ir::{Attrs, DType};

    fn vector(shape: &[usize], v: &[f64]) -> Tensor {
        Tensor::from_f64s(DType::F64, shape, v).unwrap()
    }

    #[test]
    fn running_statistics_move_towards_the_batch() {
        let x = vector(&[2, 1, 2], &[1.0, 3.0, 5.0, 7.0]);
        let (one, zero) = (vector(&[1], &[1.0]), vector(&[1], &[0.0]));
        let attrs = Attrs::new().with("training_mode", 1i64).with("momentum", 0.5f32).with("epsilon", 0.0f32);
        let inputs = [Some(&x), Some(&one), Some(&zero), Some(&zero), Some(&one)];
        let y = eval(&EvalCtx { attrs: &attrs, inputs: &inputs, n_outputs: 5 }).unwrap();
        let values: Vec<f64> = y[1..].iter().map(|t| t.to_f64s()[0]).collect();
        assert_eq!(values, [2.0, 3.0, 4.0, 5.0]);
        assert!((y[0].to_f64s()[0] + 3.0 / 5f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn features_have_their_own_statistics_if_asked() {
        let x = vector(&[2, 1, 2], &[1.0, 3.0, 5.0, 3.0]);
        let (one, zero) = (vector(&[1, 2], &[1.0; 2]), vector(&[1, 2], &[0.0; 2]));
        let attrs = Attrs::new().with("training_mode", 1i64).with("per_feature", 1i64);
        let inputs = [Some(&x), Some(&one), Some(&zero), Some(&zero), Some(&one)];
        let y = eval(&EvalCtx { attrs: &attrs, inputs: &inputs, n_outputs: 5 }).unwrap();
        assert_eq!(y[3].to_f64s(), [3.0, 3.0]);
        assert_eq!(y[4].to_f64s(), [4.0, 0.0]);
    }
}
