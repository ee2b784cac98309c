//! ONNX Runtime's attention over keys and values with one head per query head.

use crate::common::{
    PLAIN, attr, attr_error, between, from_f64s, input, required, tensor, type_error, unsupported, work,
};
use crate::contrib_common::ms;
use crate::contrib_mask::{ContribMask, check_bias, check_padding};
use crate::eval::{optional, optional_type, results, same_dim, same_dtypes, want_float};
use crate::sdpa::{Heads, Sdpa, Stage};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&MULTI_HEAD_ATTENTION];

/// Operands by their place.
const BIAS: usize = 3;
const PADDING: usize = 4;
const ATTENTION_BIAS: usize = 5;
const PAST_KEY: usize = 6;
const PAST_VALUE: usize = 7;

/// softmax(q k' * scale + mask) v.
static MULTI_HEAD_ATTENTION: OpDef = OpDef {
    name: "multi_head_attention",
    doc: "softmax(q * k' * scale + masks) * v for q [B, M, H*D], k [B, N, H*D], v [B, N, H*E], or packed, or keys \
          and values in heads; also keys and values with the past ones, and the scores",
    onnx: &[ms("MultiHeadAttention")],
    inputs: between(1, 10),
    outputs: between(1, 4),
    attrs: &[
        attr("mask_filter_value", AttrKind::Float),
        required("num_heads", AttrKind::Int),
        attr("scale", AttrKind::Float),
        attr("unidirectional", AttrKind::Int),
    ],
    traits: PLAIN,
    infer: infer_mha,
    content: None,
    eval: eval_mha,
    scalar: None,
    data: None,
    work: work_mha,
    sample: sample_mha,
};

/// The number of heads.
///
/// # Errors
/// `V021` when it is not positive.
pub(crate) fn n_heads(attrs: &Attrs, name: &str) -> Result<i64, Diag> {
    match attrs.int_or(name, 0) {
        n if n > 0 => Ok(n),
        n => Err(attr_error(format!("{name} is {n}, it must be 1 or more"))),
    }
}

/// The size of each of `n` packed heads.
///
/// # Errors
/// `V020` when they do not divide.
pub(crate) fn head_size(packed: &Dim, n: i64) -> Result<Dim, Diag> {
    if packed.as_known().is_some_and(|d| d % n != 0) {
        return Err(type_error(format!("{packed} elements are not {n} heads")));
    }
    Ok(packed.floor_div(&Dim::known(n)))
}

/// `1 / sqrt(size)` unless the attribute states another factor; 0 states none.
pub(crate) fn scale(attrs: &Attrs, size: usize) -> f64 {
    match attrs.float_or("scale", 0.0) {
        0.0 => 1.0 / (size as f64).sqrt(),
        scale => f64::from(scale),
    }
}

/// Batch, length and head size of an operand, as `[B, S, H*D]`, `[B, H, S, D]` or `[B, S, H, parts, D]`.
fn sizes(ty: &Type, heads: i64, parts: i64) -> Result<[Dim; 3], Diag> {
    match ty.shape.as_slice() {
        [b, s, packed] => Ok([b.clone(), s.clone(), head_size(packed, heads)?]),
        [b, h, s, d] => {
            same_dim(h, &Dim::known(heads), "heads of an operand and num_heads")?;
            Ok([b.clone(), s.clone(), d.clone()])
        }
        [b, s, h, n, d] => {
            same_dim(h, &Dim::known(heads), "heads of an operand and num_heads")?;
            same_dim(n, &Dim::known(parts), "packed parts of an operand")?;
            Ok([b.clone(), s.clone(), d.clone()])
        }
        _ => Err(type_error(format!("multi_head_attention has no operand of type {ty}"))),
    }
}

fn infer_mha(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let heads = n_heads(ctx.attrs, "num_heads")?;
    let dtype = same_dtypes(ctx, 0..4)?;
    want_float(dtype)?;
    if ctx.inputs.iter().skip(PAST_VALUE + 1).any(Option::is_some) {
        return Err(unsupported("multi_head_attention over shared buffers is not supported")
            .hint("give past keys and values without past_sequence_length and cache_indirection"));
    }
    let query = input(ctx, 0)?;
    if query.rank() == 4 {
        return Err(type_error(format!("queries have rank 3 or 5, they are {query}")));
    }
    let [b, s, d] = sizes(query, heads, 3)?;
    let (key, value) = match (optional_type(ctx, 1), optional_type(ctx, 2)) {
        (None, None) if query.rank() == 5 => (query, query),
        (Some(key), None) if key.rank() == 5 && query.rank() == 3 => (key, key),
        (Some(key), Some(value)) if key.rank() == value.rank() && key.rank() < 5 && query.rank() == 3 => {
            (key, value)
        }
        _ => return Err(type_error("queries, keys and values are given together or packed")),
    };
    let parts = if query.rank() == 5 { 3 } else { 2 };
    let ([kb, mut n, kd], [vb, vn, e]) = (sizes(key, heads, parts)?, sizes(value, heads, parts)?);
    for (x, y, what) in [
        (&b, &kb, "batches of queries and keys"),
        (&b, &vb, "batches of queries and values"),
        (&d, &kd, "sizes of queries and keys"),
        (&n, &vn, "lengths of keys and values"),
    ] {
        same_dim(x, y, what)?;
    }
    let h = Dim::known(heads);
    if let Some(bias) = optional_type(ctx, BIAS) {
        let whole = (d.clone() * Dim::known(2) + e.clone()) * h.clone();
        match bias.shape.as_slice() {
            [n] => same_dim(n, &whole, "elements of the bias and of queries, keys and values")?,
            _ => return Err(type_error(format!("the bias must be a vector, it is {bias}"))),
        }
    }
    n = n + past_length([PAST_KEY, PAST_VALUE].map(|n| optional_type(ctx, n)), [&b, &h], [&d, &e])?;
    let extent = [b.clone(), s.clone(), n.clone()];
    optional_type(ctx, PADDING).map_or(Ok(()), |mask| check_padding(mask, &extent))?;
    optional_type(ctx, ATTENTION_BIAS).map_or(Ok(()), |bias| check_bias(bias, &h, &extent))?;
    let shapes = [
        vec![b.clone(), s.clone(), h.clone() * e.clone()],
        vec![b.clone(), h.clone(), n.clone(), d],
        vec![b.clone(), h.clone(), n.clone(), e],
        vec![b, h, s, n],
    ];
    Ok(shapes.into_iter().take(ctx.n_outputs.max(1)).map(|shape| Type::new(dtype, shape)).collect())
}

/// The number of past keys; `lead` are batches and heads, `sizes` those of keys and values.
///
/// # Errors
/// `V020` when past keys or values do not fit.
pub(crate) fn past_length(past: [Option<&Type>; 2], lead: [&Dim; 2], sizes: [&Dim; 2]) -> Result<Dim, Diag> {
    let (key, value) = match past.into() {
        (None, None) => return Ok(Dim::known(0)),
        (Some(key), Some(value)) => (key, value),
        _ => return Err(type_error("past keys and past values come together")),
    };
    let mut lengths = Vec::new();
    for (past, size) in [(key, sizes[0]), (value, sizes[1])] {
        let [b, h, n, d] = past.shape.as_slice() else {
            return Err(type_error(format!("past keys and values have rank 4, not {past}")));
        };
        same_dim(b, lead[0], "batches of past and new keys and values")?;
        same_dim(h, lead[1], "heads of past and new keys and values")?;
        same_dim(d, size, "sizes of past and new keys and values")?;
        lengths.push(n.clone());
    }
    same_dim(&lengths[0], &lengths[1], "lengths of past keys and values")?;
    Ok(lengths.swap_remove(0))
}

/// Part `part` of an operand as heads; a bias of packed heads goes on what is not in heads already.
fn heads_of(t: &Tensor, heads: usize, part: usize, bias: Option<&[f64]>) -> Result<Heads, Diag> {
    let mut out = match *t.shape() {
        [b, s, h, parts, d] => {
            let all = t.to_f64s();
            let starts = (0..b * s * h).map(|i| (i * parts + part) * d);
            let values: Vec<f64> = starts.flat_map(|at| all[at..at + d].iter().copied()).collect();
            Heads::split(&values, [b, h, s, d])
        }
        _ => Heads::new(t, heads)?,
    };
    if let Some(bias) = bias.filter(|_| t.rank() != 4) {
        out.shift(bias);
    }
    Ok(out)
}

fn eval_mha(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let types = results(ctx, infer_mha)?;
    let heads = usize::try_from(n_heads(ctx.attrs, "num_heads")?).unwrap_or(1);
    let query = tensor(ctx, 0)?;
    // Packed operands stand for those that are missing.
    let key = optional(ctx, 1).unwrap_or(query);
    let value = optional(ctx, 2).unwrap_or(key);
    let last = if query.rank() == 5 { 2 } else { 1 };
    let bias = optional(ctx, BIAS).map(Tensor::to_f64s);
    let size = if query.rank() == 5 { query.shape()[4] * heads } else { query.shape()[2] };
    let part =
        |from: usize, to: Option<usize>| bias.as_ref().map(|b| to.map_or(&b[from..], |to| &b[from..to]));
    let q = heads_of(query, heads, 0, part(0, Some(size)))?;
    let k = heads_of(key, heads, last - 1, part(size, Some(2 * size)))?;
    let v = heads_of(value, heads, last, part(2 * size, None))?;
    let past = |n: usize, new: Heads| match optional(ctx, n) {
        Some(past) => Heads::new(past, heads).map(|past| past.joined(&new)),
        None => Ok(new),
    };
    let (k, v) = (past(PAST_KEY, k)?, past(PAST_VALUE, v)?);
    let n_past = optional(ctx, PAST_KEY).map_or(0, |t| t.shape()[2]);
    let extent = [q.shape[0], q.shape[2], k.shape[2]];
    let mask =
        ContribMask::new(ctx.attrs, optional(ctx, PADDING), optional(ctx, ATTENTION_BIAS), n_past, extent);
    let number = |at| mask.at(at);
    let sdpa = masked(ctx.attrs, [q, k, v], &number);
    let (y, scores) = sdpa.run((types.len() > 3).then_some(Stage::Biased));
    let all = [y.merged(), sdpa.k.values, sdpa.v.values, scores];
    types.iter().zip(all).map(|((dtype, shape), values)| from_f64s(*dtype, shape, &values)).collect()
}

/// An attention in f32, as these operators compute it for every element type.
pub(crate) fn masked<'a>(attrs: &Attrs, qkv: [Heads; 3], bias: &'a dyn Fn([usize; 4]) -> f64) -> Sdpa<'a> {
    let [q, k, v] = qkv;
    Sdpa {
        scale: scale(attrs, q.shape[3]),
        q,
        k,
        v,
        softcap: 0.0,
        scores: DType::F32,
        softmax: DType::F32,
        weights: DType::F32,
        bias,
        sink: None,
    }
}

/// Two products, and a softmax between them.
fn work_mha(ctx: &WorkCtx) -> Work {
    const FLOPS_PER_SCORE: f64 = 12.0;
    let heads = ctx.attrs.int_or("num_heads", 1).max(1) as f64;
    let shape = |n: usize| ctx.inputs.get(n).and_then(Option::as_ref).map(|(_, s)| s.as_slice());
    let (Some(q), Some((_, y))) = (shape(0), ctx.outputs.first()) else {
        return work(ctx, 0.0, WorkKind::Dense);
    };
    let length = |s: &[usize]| if s.len() == 4 { s[2] } else { s[1] };
    let n_keys = shape(1).map_or(q[1], length) + shape(PAST_KEY).map_or(0, length);
    let scores = (y[0] * y[1] * n_keys) as f64;
    work(ctx, scores * (4.0 * y[2] as f64 + FLOPS_PER_SCORE * heads), WorkKind::Dense)
}

fn sample_mha(rng: &mut Rng) -> Sample {
    let [b, h, s, n, d, e] = [(); 6].map(|()| 1 + rng.below(3));
    let mut attrs = Attrs::new().with("num_heads", h as i64);
    if rng.below(3) == 0 {
        attrs.set("unidirectional", 1i64);
    }
    if rng.below(3) == 0 {
        attrs.set("scale", 0.3f32);
    }
    let mut draw = |shape: &[usize]| Some(rng.tensor(DType::F32, shape, -2.0, 2.0));
    let mut inputs = vec![draw(&[b, s, h * d])];
    inputs.extend([draw(&[b, n, h * d]), draw(&[b, n, h * e]), draw(&[h * (2 * d + e)])]);
    let past = rng.below(2) * (1 + rng.below(3));
    let masks = [vec![b], vec![b, n + past], vec![b, s, n + past]];
    let mask = rng.pick(&masks).clone();
    inputs.push((rng.below(2) == 0).then(|| rng.tensor(DType::I32, &mask, 0.0, 1.0)));
    inputs.push((rng.below(2) == 0).then(|| rng.tensor(DType::F32, &[1, h, s, n + past], -1.0, 1.0)));
    for size in [d, e] {
        inputs.push((past > 0).then(|| rng.tensor(DType::F32, &[b, h, past, size], -2.0, 2.0)));
    }
    Sample { attrs, inputs, n_outputs: if past > 0 { 4 } else { 1 } }
}
