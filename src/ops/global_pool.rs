//! Poolings over all spatial axes at once.

use crate::common::{
    PLAIN, attr, attr_error, exactly, from_f64s, input, onnx, sample_shape, tensor, type_error, work,
};
use crate::eval::{Lines, result, want_float};
use crate::pool::p_norm;
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrDef, AttrKind, EvalCtx, EvalFn, InferCtx, OnnxName, OpDef, Rng, Sample, WorkCtx};
use partita_ir::tensor::n_elements;
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&AVERAGE, &MAX, &LP];

static AVERAGE: OpDef = row(
    "global_average_pool",
    "mean of each channel; spatial axes become 1",
    &[onnx("GlobalAveragePool", 1)],
    &[],
    |ctx| eval_global(ctx, |line| line.iter().sum::<f64>() / line.len() as f64),
);

static MAX: OpDef = row(
    "global_max_pool",
    "maximum of each channel; spatial axes become 1",
    &[onnx("GlobalMaxPool", 1)],
    &[],
    |ctx| eval_global(ctx, |line| line.iter().copied().fold(f64::NEG_INFINITY, larger)),
);

static LP: OpDef = row(
    "global_lp_pool",
    "p-norm of each channel; spatial axes become 1",
    &[onnx("GlobalLpPool", 2)],
    &[attr("p", AttrKind::Int)],
    |ctx| {
        let p = ctx.attrs.int_or("p", 2) as f64;
        eval_global(ctx, |line| p_norm(line.iter().copied(), p))
    },
);

const fn row(
    name: &'static str,
    doc: &'static str,
    onnx: &'static [OnnxName],
    attrs: &'static [AttrDef],
    eval: EvalFn,
) -> OpDef {
    OpDef {
        name,
        doc,
        onnx,
        inputs: exactly(1),
        outputs: exactly(1),
        attrs,
        traits: PLAIN,
        infer: infer_global,
        content: None,
        eval,
        scalar: None,
        data: None,
        work: work_global,
        sample: sample_global,
    }
}

/// The larger of two; NaN wins.
fn larger(a: f64, b: f64) -> f64 {
    if a > b || a.is_nan() { a } else { b }
}

fn infer_global(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    want_float(x.dtype)?;
    if x.rank() < 2 {
        return Err(type_error(format!("a global pooling wants batch and channel axes, the data is {x}")));
    }
    if ctx.attrs.int_or("p", 2) < 1 {
        return Err(attr_error("p must be 1 or more"));
    }
    let shape: Vec<Dim> =
        x.shape.iter().enumerate().map(|(a, d)| if a < 2 { d.clone() } else { Dim::known(1) }).collect();
    Ok(vec![Type::new(x.dtype, shape)])
}

fn eval_global(ctx: &EvalCtx, f: impl Fn(&[f64]) -> f64) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_global)?;
    let x = tensor(ctx, 0)?;
    let values = x.to_f64s();
    let lines = Lines::new(x.shape(), 2, x.rank());
    let y: Vec<f64> = (0..lines.count()).map(|n| f(&values[n * lines.len..(n + 1) * lines.len])).collect();
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

fn work_global(ctx: &WorkCtx) -> Work {
    let n = ctx.inputs.first().and_then(Option::as_ref).and_then(|(_, s)| n_elements(s)).unwrap_or(0);
    work(ctx, n as f64, WorkKind::Vector)
}

fn sample_global(rng: &mut Rng) -> Sample {
    let rank = 2 + rng.below(4);
    let shape = sample_shape(rng, rank);
    let inputs = vec![Some(rng.tensor(DType::F32, &shape, -3.0, 3.0))];
    Sample { attrs: Attrs::new(), inputs, n_outputs: 1 }
}
