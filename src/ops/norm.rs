//! Normalisation over trailing axes: `layer_norm` and `rms_norm`.

use crate::common::{
    PLAIN, attr, attr_error, axis_of, between, broadcast, broadcast_position, from_f64s, indices, input,
    onnx, sample_shape, tensor, type_error, work,
};
use crate::eval::{Lines, optional, optional_type, result, results, want_float};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrDef, AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::tensor::n_elements;
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&LAYER_NORM, &RMS_NORM];

const ATTRS: &[AttrDef] =
    &[attr("axis", AttrKind::Int), attr("epsilon", AttrKind::Float), attr("stash_type", AttrKind::Int)];

/// (x - mean) / sqrt(var + epsilon) * scale + bias.
static LAYER_NORM: OpDef = OpDef {
    name: "layer_norm",
    doc: "(x - mean) / sqrt(var + epsilon) * scale + bias over axes `axis`..; also mean and 1/std",
    onnx: &[onnx("LayerNormalization", 17)],
    inputs: between(1, 3),
    outputs: between(1, 3),
    attrs: ATTRS,
    traits: PLAIN,
    infer: infer_layer_norm,
    content: None,
    eval: eval_layer_norm,
    scalar: None,
    data: None,
    work: work_norm,
    sample: sample_layer_norm,
};

/// x / sqrt(mean(x^2) + epsilon) * scale.
static RMS_NORM: OpDef = OpDef {
    name: "rms_norm",
    doc: "x / sqrt(mean(x^2) + epsilon) * scale over axes `axis`..",
    onnx: &[onnx("RMSNormalization", 23)],
    inputs: between(1, 2),
    outputs: between(1, 1),
    attrs: ATTRS,
    traits: PLAIN,
    infer: infer_rms_norm,
    content: None,
    eval: eval_rms_norm,
    scalar: None,
    data: None,
    work: work_norm,
    sample: sample_rms_norm,
};

/// Mean and variance, in two passes.
pub(crate) fn moments(line: &[f64]) -> (f64, f64) {
    let n = line.len() as f64;
    let mean = line.iter().sum::<f64>() / n;
    (mean, line.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n)
}

/// `epsilon`, 1e-5 when not stated.
pub(crate) fn epsilon(attrs: &Attrs) -> f64 {
    f64::from(attrs.float_or("epsilon", 1e-5))
}

fn axis(attrs: &Attrs, rank: usize) -> Result<usize, Diag> {
    axis_of(attrs.int_or("axis", -1), rank)
}

/// Checks the data and that scale and bias broadcast to it without growing it.
fn checked<'a>(ctx: &InferCtx<'a>) -> Result<&'a Type, Diag> {
    let x = input(ctx, 0)?;
    want_float(x.dtype)?;
    axis(ctx.attrs, x.rank())?;
    for n in 1..ctx.inputs.len() {
        let Some(weight) = optional_type(ctx, n) else { continue };
        want_float(weight.dtype)?;
        let both = broadcast(&[&x.shape, &weight.shape])?;
        let grows = both.iter().zip(&x.shape).any(|(b, d)| d.as_known().is_some() && b != d);
        if weight.rank() > x.rank() || grows {
            return Err(type_error(format!("operand {n} ({weight}) does not broadcast to {x}")));
        }
    }
    Ok(x)
}

fn infer_layer_norm(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = checked(ctx)?;
    let axis = axis(ctx.attrs, x.rank())?;
    let stats: Vec<Dim> =
        x.shape.iter().enumerate().map(|(a, d)| if a < axis { d.clone() } else { Dim::known(1) }).collect();
    let stats = Type::new(stash(ctx.attrs, x.dtype)?, stats);
    let mut types = vec![x.clone(), stats.clone(), stats];
    types.truncate(ctx.n_outputs.max(1));
    Ok(types)
}

/// Element type of mean and 1/std: ONNX numbers f32 as 1 and bf16 as 16; 0 is the data's.
fn stash(attrs: &Attrs, data: DType) -> Result<DType, Diag> {
    match attrs.int_or("stash_type", 1) {
        1 => Ok(DType::F32),
        16 => Ok(DType::Bf16),
        10 => Ok(DType::F16),
        11 => Ok(DType::F64),
        0 => Ok(data),
        other => Err(attr_error(format!("stash_type {other} is not a float type"))),
    }
}

fn infer_rms_norm(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = checked(ctx)?;
    stash(ctx.attrs, x.dtype)?;
    // The scale has an element type of its own, which is the result's.
    let dtype = optional_type(ctx, 1).map_or(x.dtype, |scale| scale.dtype);
    Ok(vec![Type::new(dtype, x.shape.clone())])
}

/// `y * scale + bias`, each where present, broadcast.
fn affine(ctx: &EvalCtx, y: &mut [f64], shape: &[usize]) {
    for (n, combine) in [(1, (|a, b| a * b) as fn(f64, f64) -> f64), (2, |a, b| a + b)] {
        let Some(weight) = optional(ctx, n) else { continue };
        let values = weight.to_f64s();
        for (slot, at) in y.iter_mut().zip(indices(shape)) {
            *slot = combine(*slot, values[broadcast_position(&at, weight.shape())]);
        }
    }
}

fn eval_layer_norm(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let types = results(ctx, infer_layer_norm)?;
    let x = tensor(ctx, 0)?;
    let lines = Lines::new(x.shape(), axis(ctx.attrs, x.rank())?, x.rank());
    let (values, epsilon) = (x.to_f64s(), epsilon(ctx.attrs));
    let (mut y, mut means, mut scales) = (vec![0.0; values.len()], Vec::new(), Vec::new());
    for n in 0..lines.count() {
        let line = &values[n * lines.len..(n + 1) * lines.len];
        let (mean, variance) = moments(line);
        let scale = 1.0 / (variance + epsilon).sqrt();
        for (slot, v) in y[n * lines.len..].iter_mut().zip(line) {
            *slot = (v - mean) * scale;
        }
        means.push(mean);
        scales.push(scale);
    }
    affine(ctx, &mut y, x.shape());
    types.iter().zip([y, means, scales]).map(|((dtype, shape), v)| from_f64s(*dtype, shape, &v)).collect()
}

fn eval_rms_norm(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_rms_norm)?;
    let x = tensor(ctx, 0)?;
    let epsilon = epsilon(ctx.attrs);
    let lines = Lines::new(x.shape(), axis(ctx.attrs, x.rank())?, x.rank());
    let mut y = lines.map(&x.to_f64s(), |line| {
        let mean_square = line.iter().map(|v| v * v).sum::<f64>() / line.len() as f64;
        let scale = 1.0 / (mean_square + epsilon).sqrt();
        line.iter().map(|v| v * scale).collect()
    });
    affine(ctx, &mut y, x.shape());
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// Two passes for mean and variance, one to scale: about eight operations an element.
pub(crate) fn work_norm(ctx: &WorkCtx) -> Work {
    const FLOPS_PER_ELEMENT: f64 = 8.0;
    let n = ctx.inputs.first().and_then(Option::as_ref).and_then(|(_, s)| n_elements(s)).unwrap_or(0);
    work(ctx, n as f64 * FLOPS_PER_ELEMENT, WorkKind::Vector)
}

fn sample_norm(rng: &mut Rng, max_weights: usize) -> Sample {
    let rank = 1 + rng.below(4);
    let shape = sample_shape(rng, rank);
    let axis = rng.below(rank);
    let stated = if rng.below(2) == 0 { axis as i64 } else { axis as i64 - rank as i64 };
    let mut attrs = Attrs::new().with("axis", stated);
    if rng.below(2) == 0 {
        attrs.set("epsilon", 1e-3f32);
    }
    let mut inputs = vec![Some(rng.tensor(DType::F32, &shape, -3.0, 3.0))];
    for _ in 0..1 + rng.below(max_weights) {
        inputs.push(Some(rng.tensor(DType::F32, &shape[axis..], -2.0, 2.0)));
    }
    Sample { attrs, inputs, n_outputs: 1 }
}

fn sample_layer_norm(rng: &mut Rng) -> Sample {
    let mut sample = sample_norm(rng, 2);
    sample.n_outputs = 1 + rng.below(3);
    sample
}

fn sample_rms_norm(rng: &mut Rng) -> Sample {
    sample_norm(rng, 1)
}
