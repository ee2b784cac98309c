//! Dropout. In training mode it draws random numbers (see `random`), else it only passes its operand on.

use crate::common::{attr, attr_error, between, input, onnx, operand, tensor, type_error, work_elementwise};
use crate::content;
use crate::elements::from_bytes;
use crate::eval::optional;
use crate::random::{RANDOM, stream};
use crate::samples::{float, shape, values};
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::{Attrs, DType, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&DROPOUT];

static DROPOUT: OpDef = OpDef {
    name: "dropout",
    doc: "x; in training mode with a share `ratio` of zeros and the rest scaled up. Second: which were kept.",
    onnx: &[onnx("Dropout", 12)],
    inputs: between(1, 3),
    outputs: between(1, 2),
    attrs: &[
        // Before opset 10 the mask had the type of x.
        attr("mask_dtype", AttrKind::DType),
        operand("ratio", AttrKind::Float, 1),
        attr("seed", AttrKind::Int),
        operand("training_mode", AttrKind::Int, 2),
    ],
    traits: RANDOM,
    infer: infer_dropout,
    content: Some(|c| {
        let trains = c.attrs.flag("training_mode") || c.inputs.get(2).copied().flatten().is_some();
        if trains { None } else { content::pass(c) }
    }),
    eval: eval_dropout,
    scalar: None,
    data: None,
    work: work_elementwise,
    sample: sample_dropout,
};

fn infer_dropout(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    for n in [1, 2] {
        let given = crate::eval::optional_type(ctx, n);
        if let Some(ty) = given.filter(|t| t.n_elements().as_known().is_some_and(|n| n != 1)) {
            return Err(type_error(format!("operand {n} is {ty}, a scalar is wanted")));
        }
    }
    let mask = Type::new(ctx.attrs.dtype("mask_dtype").unwrap_or(DType::Bool), x.shape.clone());
    Ok(vec![x.clone(), mask].into_iter().take(ctx.n_outputs.max(1)).collect())
}

/// The share of elements that become zero; 0 outside of training.
fn ratio(ctx: &EvalCtx) -> Result<f64, Diag> {
    let scalar = |n: usize| optional(ctx, n).and_then(Tensor::to_scalar_f64);
    let trains = scalar(2).map_or_else(|| ctx.attrs.flag("training_mode"), |v| v != 0.0);
    let ratio = scalar(1).unwrap_or_else(|| f64::from(ctx.attrs.float_or("ratio", 0.5)));
    match trains {
        false => Ok(0.0),
        true if (0.0..1.0).contains(&ratio) => Ok(ratio),
        true => Err(attr_error(format!("ratio is {ratio}")).hint("use a number from 0 to below 1")),
    }
}

fn eval_dropout(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (x, ratio) = (tensor(ctx, 0)?, ratio(ctx)?);
    let mut stream = stream(ctx.attrs);
    let kept: Vec<bool> = (0..x.n_elements()).map(|_| ratio == 0.0 || stream.uniform() >= ratio).collect();
    let y = if ratio == 0.0 {
        x.clone()
    } else {
        let scale = 1.0 / (1.0 - ratio);
        let y: Vec<f64> =
            x.to_f64s().iter().zip(&kept).map(|(v, &kept)| if kept { v * scale } else { 0.0 * v }).collect();
        crate::common::from_f64s(x.dtype(), x.shape(), &y)?
    };
    let dtype = ctx.attrs.dtype("mask_dtype").unwrap_or(DType::Bool);
    let mask = if dtype == DType::Bool {
        from_bytes(dtype, x.shape(), kept.into_iter().map(u8::from).collect())?
    } else {
        let ones: Vec<i64> = kept.into_iter().map(i64::from).collect();
        crate::common::from_i64s(dtype, x.shape(), &ones)?
    };
    Ok(vec![y, mask].into_iter().take(ctx.n_outputs.max(1)).collect())
}

fn sample_dropout(rng: &mut Rng) -> Sample {
    let (dtype, shape) = (float(rng), shape(rng));
    let mut inputs = vec![Some(values(rng, dtype, &shape))];
    let mut attrs = Attrs::new();
    match rng.below(4) {
        0 => inputs.extend([
            Some(Tensor::scalar(rng.float(0.0, 0.9) as f32)),
            Tensor::from_bools(&[], &[rng.below(2) == 0]),
        ]),
        1 => attrs = attrs.with("training_mode", 1i64).with("ratio", 0.25f32).with("seed", rng.int(0, 9)),
        _ => {}
    }
    Sample { attrs, inputs, n_outputs: 1 + rng.below(2) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_dropped_and_the_sum_stays() {
        const N: usize = 40_000;
        let x = Tensor::from_f64s(DType::F64, &[N], &[1.0; N]).unwrap();
        let attrs = Attrs::new().with("training_mode", 1i64).with("ratio", 0.25f32).with("seed", 5i64);
        let ctx = EvalCtx { attrs: &attrs, inputs: &[Some(&x)], n_outputs: 2 };
        let y = eval_dropout(&ctx).unwrap();
        let dropped = y[0].to_f64s().iter().filter(|v| **v == 0.0).count() as f64 / N as f64;
        let mean = y[0].to_f64s().iter().sum::<f64>() / N as f64;
        assert!((dropped - 0.25).abs() < 0.01 && (mean - 1.0).abs() < 0.02, "{dropped} {mean}");
        assert!(y[0].to_f64s().iter().zip(y[1].to_bools()).all(|(v, kept)| (*v != 0.0) == kept));
    }

    #[test]
    fn ratios_outside_are_refused() {
        let x = Tensor::scalar(1.0f32);
        let attrs = Attrs::new().with("training_mode", 1i64).with("ratio", 1.0f32);
        let ctx = EvalCtx { attrs: &attrs, inputs: &[Some(&x)], n_outputs: 1 };
        assert_eq!(eval_dropout(&ctx).unwrap_err().code, "V021");
    }
}
