//! Attention whose softmax has a precision of its own, and whose scores and weights bodies may change (a preview
//! operator of ONNX).

use crate::attention::{check_heads, scaled, softmax_dtype};
use crate::common::{PLAIN, at_least, attr, exactly, from_f64s, input, no_tensors, tensor, type_error, work};
use crate::eval::{result, same_dim, same_dtypes, want_float};
use crate::sdpa::{Heads, Sdpa, Stage};
use partita_ir::attr::Attrs;
use partita_ir::data::DataCtx;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, CAPTURES, EvalCtx, InferCtx, OnnxName, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Datum, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&FLEX_ATTENTION];

/// The operator's own operands; the rest is what its bodies capture.
const N_OWN: usize = 3;

/// softmax(q k' * scale) v.
static FLEX_ATTENTION: OpDef = OpDef {
    name: "flex_attention",
    doc: "softmax(q * k' * scale) * v for q [B, H, M, D], k [B, G, N, D], v [B, G, N, E], softmax and the last \
          product in `softmax_precision`; `score_mod` and `prob_mod` change what goes in and out of it",
    onnx: &[OnnxName { domain: "ai.onnx.preview", op_type: "FlexAttention", since: 1 }],
    inputs: at_least(3),
    outputs: exactly(1),
    attrs: &[
        attr(CAPTURES, AttrKind::Int),
        attr("prob_mod", AttrKind::Graph),
        attr("scale", AttrKind::Float),
        attr("score_mod", AttrKind::Graph),
        attr("softmax_precision", AttrKind::Int),
    ],
    traits: PLAIN,
    infer: infer_flex,
    content: None,
    eval: no_tensors,
    scalar: None,
    data: Some(data_flex),
    work: work_flex,
    sample: sample_flex,
};

fn four<'a>(ctx: &InferCtx<'a>, n: usize) -> Result<&'a [Dim; 4], Diag> {
    let ty = input(ctx, n)?;
    let shape = ty.shape.as_slice().try_into();
    shape.map_err(|_| type_error(format!("flex_attention wants operands of rank 4, one is {ty}")))
}

/// Halves are too coarse for softmax.
fn precision(attrs: &Attrs, dtype: DType) -> Result<DType, Diag> {
    softmax_dtype(attrs, if dtype == DType::F64 { DType::F64 } else { DType::F32 })
}

fn infer_flex(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let dtype = same_dtypes(ctx, 0..3)?;
    want_float(dtype)?;
    precision(ctx.attrs, dtype)?;
    let (q, k, v) = (four(ctx, 0)?, four(ctx, 1)?, four(ctx, 2)?);
    same_dim(&q[0], &k[0], "batches of queries and keys")?;
    same_dim(&q[0], &v[0], "batches of queries and values")?;
    same_dim(&q[3], &k[3], "sizes of queries and keys")?;
    same_dim(&k[1], &v[1], "heads of keys and values")?;
    same_dim(&k[2], &v[2], "lengths of keys and values")?;
    check_heads(&q[1], &k[1])?;
    Ok(vec![Type::new(dtype, vec![q[0].clone(), q[1].clone(), q[2].clone(), v[3].clone()])])
}

/// Scores or weights after a body, if there is one; rounded to `dtype` before and after.
fn modified(
    ctx: &DataCtx,
    name: &str,
    values: Vec<f64>,
    dtype: DType,
    shape: &[usize],
) -> Result<Vec<f64>, Diag> {
    if ctx.attrs.graph(name).is_none() {
        return Ok(values);
    }
    let mut inputs = vec![Datum::Tensor(from_f64s(dtype, shape, &values)?)];
    inputs.extend(ctx.inputs.iter().skip(N_OWN).flatten().map(|d| (*d).clone()));
    let result = ctx.bodies.run(name, inputs)?;
    match result.first().and_then(Datum::as_tensor) {
        Some(t) if t.shape() == shape && t.dtype() == dtype => Ok(t.to_f64s()),
        _ => Err(type_error(format!("{name} must give one tensor of the type that it is given"))),
    }
}

fn data_flex(ctx: &DataCtx) -> Result<Vec<Datum>, Diag> {
    let tensors: Vec<Option<&Tensor>> =
        ctx.inputs.iter().take(N_OWN).map(|d| d.and_then(Datum::as_tensor)).collect();
    let own = EvalCtx { attrs: ctx.attrs, inputs: &tensors, n_outputs: 1 };
    let (dtype, shape) = result(&own, infer_flex)?;
    let heads = |n| Heads::new(tensor(&own, n)?, 0);
    let (q, k) = scaled(ctx.attrs, heads(0)?, heads(1)?, dtype);
    let softmax = precision(ctx.attrs, dtype)?;
    let sdpa = Sdpa {
        q,
        k,
        v: heads(2)?,
        scale: 1.0,
        softcap: 0.0,
        scores: dtype,
        softmax,
        weights: softmax,
        bias: &|_| 0.0,
        sink: None,
    };
    let n_keys = sdpa.k.shape[2];
    let scores_shape = [shape[0], shape[1], shape[2], n_keys];
    let scores = sdpa.run(Some(Stage::Raw)).1;
    let scores = modified(ctx, "score_mod", scores, softmax, &scores_shape)?;
    let weights = scores.chunks(n_keys.max(1)).flat_map(|row| crate::sdpa::softmax(row, softmax, None));
    let weights = modified(ctx, "prob_mod", weights.collect(), softmax, &scores_shape)?;
    Ok(vec![Datum::Tensor(from_f64s(dtype, &shape, &sdpa.weighted(&weights))?)])
}

/// Two products, and a softmax between them.
fn work_flex(ctx: &WorkCtx) -> Work {
    const FLOPS_PER_SCORE: f64 = 12.0;
    let shape = |n: usize| ctx.inputs.get(n).and_then(Option::as_ref).map(|(_, s)| s.as_slice());
    let (Some(q), Some(v)) = (shape(0), shape(2)) else { return work(ctx, 0.0, WorkKind::Dense) };
    let scores = (q[0] * q[1] * q[2]) as f64 * v[2] as f64;
    work(ctx, scores * (2.0 * (q[3] + v[3]) as f64 + FLOPS_PER_SCORE), WorkKind::Dense)
}

fn sample_flex(rng: &mut Rng) -> Sample {
    let [b, g, m, n, d, e] = [(); 6].map(|()| 1 + rng.below(4));
    let h = g * (1 + rng.below(2));
    let mut attrs = Attrs::new();
    if rng.below(2) == 0 {
        attrs.set("scale", 0.3f32);
    }
    if rng.below(3) == 0 {
        attrs.set("softmax_precision", *rng.pick(&[1i64, 10, 11, 16]));
    }
    let dtype = *rng.pick(&[DType::F32, DType::F32, DType::F16, DType::F64]);
    let shapes = [[b, h, m, d], [b, g, n, d], [b, g, n, e]];
    let inputs = shapes.iter().map(|s| Some(rng.tensor(dtype, s, -2.0, 2.0))).collect();
    Sample { attrs, inputs, n_outputs: 1 }
}
