//! Normalisation with one factor per channel: batch, instance and group normalisation, LRN, and
//! mean-variance normalisation.

use crate::common::{
    PLAIN, attr, attr_error, axis_of, between, exactly, from_f64s, input, onnx, required, tensor, type_error,
    work,
};
use crate::eval::{result, same_dim, want_float};
use crate::norm::{epsilon, moments, work_norm};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::tensor::n_elements;
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] =
    &[&BATCH_NORM, &INSTANCE_NORM, &GROUP_NORM, &LRN, &MEAN_VARIANCE_NORMALIZATION];

/// Normalisation by known statistics.
static BATCH_NORM: OpDef = OpDef {
    name: "batch_norm",
    doc: "(x - mean) / sqrt(var + epsilon) * scale + b per channel, with known statistics or in training x's own",
    onnx: &[onnx("BatchNormalization", 15)],
    inputs: exactly(5),
    // In training also the running mean and variance and, before opset 14, those of x.
    outputs: between(1, 5),
    attrs: &[
        attr("epsilon", AttrKind::Float),
        attr("momentum", AttrKind::Float),
        // In training, statistics over the batch only (before opset 9).
        attr("per_feature", AttrKind::Int),
        attr("training_mode", AttrKind::Int),
    ],
    traits: PLAIN,
    infer: infer_batch_norm,
    content: None,
    eval: eval_batch_norm,
    scalar: None,
    data: None,
    work: work_batch_norm,
    sample: sample_batch_norm,
};

/// Normalisation of each channel of each example.
static INSTANCE_NORM: OpDef = OpDef {
    name: "instance_norm",
    doc: "each channel of each example is normalised, then scaled and shifted",
    onnx: &[onnx("InstanceNormalization", 6)],
    inputs: exactly(3),
    outputs: exactly(1),
    attrs: &[attr("epsilon", AttrKind::Float)],
    traits: PLAIN,
    infer: infer_instance_norm,
    content: None,
    eval: eval_instance_norm,
    scalar: None,
    data: None,
    work: work_norm,
    sample: sample_instance_norm,
};

/// Normalisation of groups of channels of each example.
static GROUP_NORM: OpDef = OpDef {
    name: "group_norm",
    doc: "each group of channels of each example is normalised, then scaled and shifted per channel",
    onnx: &[onnx("GroupNormalization", 21)],
    inputs: exactly(3),
    outputs: exactly(1),
    attrs: &[
        attr("epsilon", AttrKind::Float),
        required("num_groups", AttrKind::Int),
        attr("stash_type", AttrKind::Int),
    ],
    traits: PLAIN,
    infer: infer_group_norm,
    content: None,
    eval: eval_group_norm,
    scalar: None,
    data: None,
    work: work_norm,
    sample: sample_group_norm,
};

/// Local response normalisation.
static LRN: OpDef = OpDef {
    name: "lrn",
    doc: "x / (bias + alpha / size * sum of squares over `size` neighbouring channels)^beta",
    onnx: &[onnx("LRN", 1)],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: &[
        attr("alpha", AttrKind::Float),
        attr("beta", AttrKind::Float),
        attr("bias", AttrKind::Float),
        required("size", AttrKind::Int),
    ],
    traits: PLAIN,
    infer: infer_lrn,
    content: None,
    eval: eval_lrn,
    scalar: None,
    data: None,
    work: work_lrn,
    sample: sample_lrn,
};

/// (x - mean) / (std + 1e-9).
static MEAN_VARIANCE_NORMALIZATION: OpDef = OpDef {
    name: "mean_variance_normalization",
    doc: "(x - mean) / (std + 1e-9) over `axes`",
    onnx: &[onnx("MeanVarianceNormalization", 9)],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: &[attr("axes", AttrKind::Ints)],
    traits: PLAIN,
    infer: infer_mvn,
    content: None,
    eval: eval_mvn,
    scalar: None,
    data: None,
    work: work_norm,
    sample: sample_mvn,
};

/// The data's type, checked: a float with at least `rank` axes, the other operands vectors of its channels.
pub(crate) fn with_channels<'a>(ctx: &InferCtx<'a>, rank: usize) -> Result<&'a Type, Diag> {
    let x = input(ctx, 0)?;
    want_float(x.dtype)?;
    if x.rank() < rank {
        return Err(type_error(format!("the data must have at least {rank} dimensions, it is {x}")));
    }
    for n in 1..ctx.inputs.len() {
        let weight = input(ctx, n)?;
        want_float(weight.dtype)?;
        match weight.shape.as_slice() {
            [d] => same_dim(d, &x.shape[1], "channels of the data and the size of its weights")?,
            _ => return Err(type_error(format!("operand {n} must be a vector, it is {weight}"))),
        }
    }
    Ok(x)
}

fn infer_batch_norm(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    if ctx.attrs.flag("training_mode") {
        return crate::batch_training::infer(ctx);
    }
    if ctx.n_outputs > 1 {
        return Err(attr_error("statistics are results in training mode only").hint("set training_mode to 1"));
    }
    Ok(vec![with_channels(ctx, 2)?.clone()])
}

fn infer_instance_norm(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    Ok(vec![with_channels(ctx, 3)?.clone()])
}

fn infer_group_norm(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = with_channels(ctx, 2)?;
    let groups = ctx.attrs.int("num_groups").ok_or_else(|| attr_error("num_groups is missing"))?;
    if groups < 1 || x.shape[1].as_known().is_some_and(|c| c % groups != 0) {
        return Err(attr_error(format!("{} channels do not divide into {groups} groups", x.shape[1])));
    }
    Ok(vec![x.clone()])
}

fn infer_lrn(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let size = ctx.attrs.int("size").ok_or_else(|| attr_error("size is missing"))?;
    if size < 1 {
        return Err(attr_error(format!("size is {size}, it must be 1 or more")));
    }
    Ok(vec![with_channels(ctx, 2)?.clone()])
}

fn mvn_axes(attrs: &Attrs, rank: usize) -> Result<Vec<usize>, Diag> {
    let axes = attrs.ints("axes").unwrap_or_else(|| vec![0, 2, 3]);
    axes.into_iter().map(|a| axis_of(a, rank)).collect()
}

fn infer_mvn(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    want_float(x.dtype)?;
    mvn_axes(ctx.attrs, x.rank())?;
    Ok(vec![x.clone()])
}

/// Size of one channel and the channel of a position.
fn channel_of(shape: &[usize]) -> impl Fn(usize) -> usize {
    let inner = shape[2..].iter().product::<usize>().max(1);
    let channels = shape[1].max(1);
    move |i| i / inner % channels
}

fn eval_batch_norm(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    if ctx.attrs.flag("training_mode") {
        return crate::batch_training::eval(ctx);
    }
    let (dtype, shape) = result(ctx, infer_batch_norm)?;
    let weight = |n: usize| tensor(ctx, n).map(Tensor::to_f64s);
    let (scale, b, mean, var) = (weight(1)?, weight(2)?, weight(3)?, weight(4)?);
    let (channel, epsilon) = (channel_of(&shape), epsilon(ctx.attrs));
    let at = |(i, v): (usize, f64)| {
        let c = channel(i);
        (v - mean[c]) / (var[c] + epsilon).sqrt() * scale[c] + b[c]
    };
    let y: Vec<f64> = tensor(ctx, 0)?.to_f64s().into_iter().enumerate().map(at).collect();
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// Normalises blocks of `n` neighbouring elements, then scales and shifts per channel.
fn normalize_blocks(ctx: &EvalCtx, dtype: DType, shape: &[usize], n: usize) -> Result<Vec<Tensor>, Diag> {
    let (scale, bias) = (tensor(ctx, 1)?.to_f64s(), tensor(ctx, 2)?.to_f64s());
    let (channel, epsilon) = (channel_of(shape), epsilon(ctx.attrs));
    let mut y = tensor(ctx, 0)?.to_f64s();
    for (block, values) in y.chunks_mut(n.max(1)).enumerate() {
        let (mean, variance) = moments(values);
        for (i, v) in values.iter_mut().enumerate() {
            let c = channel(block * n + i);
            *v = (*v - mean) / (variance + epsilon).sqrt() * scale[c] + bias[c];
        }
    }
    Ok(vec![from_f64s(dtype, shape, &y)?])
}

fn eval_instance_norm(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_instance_norm)?;
    normalize_blocks(ctx, dtype, &shape, shape[2..].iter().product())
}

fn eval_group_norm(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_group_norm)?;
    let groups = ctx.attrs.int_or("num_groups", 1) as usize;
    normalize_blocks(ctx, dtype, &shape, shape[1..].iter().product::<usize>() / groups)
}

fn eval_lrn(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_lrn)?;
    let x = tensor(ctx, 0)?.to_f64s();
    let float = |name: &str, default: f32| f64::from(ctx.attrs.float_or(name, default));
    let (alpha, beta, bias) = (float("alpha", 1e-4), float("beta", 0.75), float("bias", 1.0));
    let size = ctx.attrs.int_or("size", 1);
    let inner: usize = shape[2..].iter().product();
    let channel = channel_of(&shape);
    let at = |(i, v): (usize, &f64)| {
        let c = channel(i) as i64;
        let low = (c - (size - 1) / 2).max(0);
        let high = c.saturating_add(size / 2).min(shape[1] as i64 - 1);
        let first = i - (c - low) as usize * inner;
        let squares: f64 = (0..=(high - low) as usize).map(|k| x[first + k * inner]).map(|v| v * v).sum();
        v / libm::pow(bias + alpha / size as f64 * squares, beta)
    };
    let y: Vec<f64> = x.iter().enumerate().map(at).collect();
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

fn eval_mvn(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    const EPSILON: f64 = 1e-9;
    let (dtype, shape) = result(ctx, infer_mvn)?;
    let mut y = tensor(ctx, 0)?.to_f64s();
    let axes = mvn_axes(ctx.attrs, shape.len())?;
    for group in crate::reduce::groups(&shape, &axes) {
        let line: Vec<f64> = group.iter().map(|&i| y[i]).collect();
        let (mean, variance) = moments(&line);
        group.iter().for_each(|&i| y[i] = (y[i] - mean) / (variance.sqrt() + EPSILON));
    }
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// One multiplication and one addition an element once the channel's factors are known.
fn work_batch_norm(ctx: &WorkCtx) -> Work {
    let out = ctx.outputs.first().and_then(|(_, s)| n_elements(s)).unwrap_or(0);
    work(ctx, 2.0 * out as f64, WorkKind::Vector)
}

/// The sum over neighbours, then a power.
fn work_lrn(ctx: &WorkCtx) -> Work {
    const FLOPS_OF_POWER: f64 = 16.0;
    let out = ctx.outputs.first().and_then(|(_, s)| n_elements(s)).unwrap_or(0);
    let per_element = 2.0 * ctx.attrs.int_or("size", 1) as f64 + FLOPS_OF_POWER;
    work(ctx, out as f64 * per_element, WorkKind::Vector)
}

/// Data of `rank` axes with `channels`, then `n` weight vectors.
fn sample_channels(rng: &mut Rng, rank: usize, channels: usize, n: usize) -> Sample {
    let mut shape = vec![1 + rng.below(2), channels];
    shape.extend((2..rank).map(|_| 1 + rng.below(4)));
    let mut inputs = vec![Some(rng.tensor(DType::F32, &shape, -3.0, 3.0))];
    inputs.extend((0..n).map(|_| Some(rng.tensor(DType::F32, &[channels], 0.25, 2.0))));
    Sample { attrs: Attrs::new(), inputs, n_outputs: 1 }
}

fn sample_batch_norm(rng: &mut Rng) -> Sample {
    let (rank, channels) = (2 + rng.below(4), 1 + rng.below(4));
    let mut sample = sample_channels(rng, rank, channels, 4);
    sample.attrs.set("epsilon", *rng.pick(&[1e-5f32, 1e-3]));
    if rng.below(3) == 0 {
        sample.attrs.set("training_mode", 1i64);
        sample.n_outputs = 1 + 2 * rng.below(3);
    }
    sample
}

fn sample_instance_norm(rng: &mut Rng) -> Sample {
    let (rank, channels) = (3 + rng.below(3), 1 + rng.below(4));
    sample_channels(rng, rank, channels, 2)
}

fn sample_group_norm(rng: &mut Rng) -> Sample {
    let (rank, groups) = (3 + rng.below(2), 1 + rng.below(3));
    let channels = groups * (1 + rng.below(3));
    let mut sample = sample_channels(rng, rank, channels, 2);
    sample.attrs.set("num_groups", groups as i64);
    sample
}

fn sample_lrn(rng: &mut Rng) -> Sample {
    let channels = 1 + rng.below(6);
    let mut sample = sample_channels(rng, 4, channels, 0);
    sample.attrs.set("size", rng.int(1, 5));
    sample.attrs.set("alpha", 0.5f32);
    sample
}

fn sample_mvn(rng: &mut Rng) -> Sample {
    let channels = 1 + rng.below(3);
    let mut sample = sample_channels(rng, 4, channels, 0);
    if rng.below(2) == 0 {
        sample.attrs.set("axes", vec![0i64, -1]);
    }
    sample
}
