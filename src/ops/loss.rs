//! Losses of classification: negative log-likelihood, and softmax with cross entropy.

use crate::common::{
    PLAIN, attr, attr_error, between, from_f64s, index_error, input, onnx, tensor, type_error, work,
};
use crate::eval::{Lines, optional, optional_type, results, same_dim, want_float};
use crate::softmax::log_softmax;
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrDef, AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::tensor::n_elements;
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&NLL_LOSS, &SOFTMAX_CROSS_ENTROPY_LOSS];

const ATTRS: &[AttrDef] = &[attr("ignore_index", AttrKind::Int), attr("reduction", AttrKind::Str)];

/// The loss of log-probabilities.
static NLL_LOSS: OpDef = OpDef {
    name: "negative_log_likelihood_loss",
    doc: "minus the log-probability of each target class, weighted per class; as it is, its sum or its mean",
    onnx: &[onnx("NegativeLogLikelihoodLoss", 13)],
    inputs: between(2, 3),
    outputs: between(1, 1),
    attrs: ATTRS,
    traits: PLAIN,
    infer: infer_loss,
    content: None,
    eval: eval_nll,
    scalar: None,
    data: None,
    work: |ctx| work(ctx, 2.0 * n_targets(ctx), WorkKind::Vector),
    sample: |rng| Sample { n_outputs: 1, ..sample_loss(rng) },
};

/// The loss of scores.
static SOFTMAX_CROSS_ENTROPY_LOSS: OpDef = OpDef {
    name: "softmax_cross_entropy_loss",
    doc: "the loss of log_softmax(x) over the classes (axis 1), and these log-probabilities",
    onnx: &[onnx("SoftmaxCrossEntropyLoss", 13)],
    outputs: between(1, 2),
    eval: eval_cross_entropy,
    work: work_cross_entropy,
    sample: sample_loss,
    ..NLL_LOSS
};

/// How the losses of all targets become the result.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reduction {
    None,
    Sum,
    Mean,
}

fn reduction(attrs: &Attrs) -> Result<Reduction, Diag> {
    match attrs.str("reduction") {
        Some("none") => Ok(Reduction::None),
        Some("sum") => Ok(Reduction::Sum),
        None | Some("mean") => Ok(Reduction::Mean),
        Some(other) => {
            Err(attr_error(format!("reduction is \"{other}\"")).hint("use \"none\", \"sum\" or \"mean\""))
        }
    }
}

fn infer_loss(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (x, target) = (input(ctx, 0)?, input(ctx, 1)?);
    want_float(x.dtype)?;
    if !matches!(target.dtype, DType::I32 | DType::I64) {
        return Err(type_error(format!("the targets are {}, i32 or i64 is wanted", target.dtype.name())));
    }
    if x.rank() < 2 || target.rank() + 1 != x.rank() {
        return Err(type_error(format!("targets of {target} do not fit scores of {x}"))
            .hint("scores are [N, C, ...], targets [N, ...]"));
    }
    same_dim(&x.shape[0], &target.shape[0], "sizes of the batch")?;
    for (d, t) in x.shape[2..].iter().zip(&target.shape[1..]) {
        same_dim(d, t, "sizes of the scores and the targets")?;
    }
    if let Some(weight) = optional_type(ctx, 2) {
        if weight.rank() != 1 || weight.dtype != x.dtype {
            return Err(type_error(format!(
                "the weights are {weight}, a vector of {} is wanted",
                x.dtype.name()
            )));
        }
        same_dim(&x.shape[1], &weight.shape[0], "the number of classes and the size of the weights")?;
    }
    let shape = if reduction(ctx.attrs)? == Reduction::None { target.shape.clone() } else { Vec::new() };
    let mut types = vec![Type::new(x.dtype, shape), x.clone()];
    types.truncate(ctx.n_outputs.max(1));
    Ok(types)
}

fn eval_nll(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    loss(ctx, &tensor(ctx, 0)?.to_f64s())
}

fn eval_cross_entropy(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let types = results(ctx, infer_loss)?;
    let x = tensor(ctx, 0)?;
    let log_prob = Lines::new(x.shape(), 1, 2).map(&x.to_f64s(), log_softmax);
    let mut out = loss(ctx, &log_prob)?;
    if let Some((dtype, shape)) = types.get(1) {
        out.push(from_f64s(*dtype, shape, &log_prob)?);
    }
    Ok(out)
}

/// The loss for log-probabilities in the shape of the first operand.
fn loss(ctx: &EvalCtx, log_prob: &[f64]) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = results(ctx, infer_loss)?.swap_remove(0);
    let lines = Lines::new(tensor(ctx, 0)?.shape(), 1, 2);
    let targets = tensor(ctx, 1)?.to_i64s();
    let weights = optional(ctx, 2).map(Tensor::to_f64s);
    let ignored = ctx.attrs.int("ignore_index");
    let (mut losses, mut total_weight) = (Vec::with_capacity(targets.len()), 0.0);
    for (n, &target) in targets.iter().enumerate() {
        if Some(target) == ignored {
            losses.push(0.0);
            continue;
        }
        let class = usize::try_from(target).ok().filter(|&c| c < lines.len);
        let class = class.ok_or_else(|| index_error(target, lines.len))?;
        let weight = weights.as_ref().map_or(1.0, |w| w[class]);
        let (outer, inner) = (n / lines.inner.max(1), n % lines.inner.max(1));
        losses.push(-weight * log_prob[(outer * lines.len + class) * lines.inner + inner]);
        total_weight += weight;
    }
    let sum = || losses.iter().sum::<f64>();
    let y = match reduction(ctx.attrs)? {
        Reduction::Sum => vec![sum()],
        // Over the weights that count, so that ignored targets do not.
        Reduction::Mean => vec![sum() / total_weight],
        Reduction::None => losses,
    };
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

fn n_targets(ctx: &WorkCtx) -> f64 {
    let shape = ctx.inputs.get(1).and_then(Option::as_ref).map(|(_, s)| s.as_slice());
    shape.and_then(n_elements).unwrap_or(0) as f64
}

/// A softmax of all scores, then the loss.
fn work_cross_entropy(ctx: &WorkCtx) -> Work {
    const FLOPS_PER_SCORE: f64 = 12.0;
    let n = ctx.inputs.first().and_then(Option::as_ref).and_then(|(_, s)| n_elements(s)).unwrap_or(0);
    work(ctx, n as f64 * FLOPS_PER_SCORE, WorkKind::Vector)
}

fn sample_loss(rng: &mut Rng) -> Sample {
    let (batch, classes) = (1 + rng.below(3), 2 + rng.below(3));
    let inner: Vec<usize> = (0..rng.below(3)).map(|_| 1 + rng.below(3)).collect();
    let dtype = *rng.pick(&[DType::F32, DType::F32, DType::F64, DType::F16]);
    let target_type = *rng.pick(&[DType::I64, DType::I32]);
    let targets = rng.tensor(target_type, &[&[batch], &inner[..]].concat(), -0.49, classes as f64 - 0.51);
    let x = rng.tensor(dtype, &[&[batch, classes], &inner[..]].concat(), -3.0, 0.0);
    let mut inputs = vec![Some(x), Some(targets)];
    if rng.below(2) == 0 {
        inputs.push(Some(rng.tensor(dtype, &[classes], 0.25, 2.0)));
    }
    let reduction = *rng.pick(&["none", "sum", "mean"]);
    let mut attrs = Attrs::new().with("reduction", reduction);
    // A mean of ignored targets only is not a number, which samples are not.
    if reduction != "mean" && rng.below(2) == 0 {
        attrs.set("ignore_index", rng.int(-1, 1));
    }
    Sample { attrs, inputs, n_outputs: 1 + rng.below(2) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(attrs: &Attrs, targets: &[i64], weights: Option<&[f64]>) -> Result<f64, Diag> {
        let x = Tensor::from_f64s(DType::F64, &[2, 2], &[-1.0, -2.0, -3.0, -4.0]).unwrap();
        let targets = Tensor::from_slice(&[2], targets).unwrap();
        let weights = weights.map(|w| Tensor::from_f64s(DType::F64, &[2], w).unwrap());
        let inputs = [Some(&x), Some(&targets), weights.as_ref()];
        let y = eval_nll(&EvalCtx { attrs, inputs: &inputs, n_outputs: 1 })?;
        Ok(y[0].to_f64s()[0])
    }

    #[test]
    fn means_are_over_the_weights_that_count() {
        let plain = Attrs::new();
        assert_eq!(run(&plain, &[0, 1], None).unwrap(), 2.5);
        assert_eq!(run(&plain, &[0, 1], Some(&[1.0, 3.0])).unwrap(), 13.0 / 4.0);
        let ignore = Attrs::new().with("ignore_index", -7i64);
        assert_eq!(run(&ignore, &[-7, 1], None).unwrap(), 4.0);
        assert_eq!(run(&ignore, &[-7, 0], Some(&[2.0, 3.0])).unwrap(), 3.0);
    }

    #[test]
    fn targets_outside_the_classes_are_refused() {
        assert_eq!(run(&Attrs::new(), &[0, 2], None).unwrap_err().code, "X020");
        assert_eq!(run(&Attrs::new(), &[-1, 0], None).unwrap_err().code, "X020");
    }
}
