//! ONNX Runtime's attention of a sequence to itself, with the projection to queries, keys and values.

use crate::common::{
    PLAIN, attr, attr_error, between, from_f64s, input, required, tensor, type_error, unsupported, work,
};
use crate::contrib_common::ms;
use crate::contrib_mask::{ContribMask, check_bias, check_padding};
use crate::eval::{optional, optional_type, results, same_dim, same_dtypes, want_float};
use crate::multi_head_attention::{head_size, masked, n_heads};
use crate::sdpa::Heads;
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&PROJECTED_ATTENTION];

/// Operands by their place.
const BIAS: usize = 2;
const PADDING: usize = 3;
const PAST: usize = 4;
const ATTENTION_BIAS: usize = 5;

/// Attention over x w + b.
static PROJECTED_ATTENTION: OpDef = OpDef {
    name: "projected_attention",
    doc: "attention whose queries, keys and values are the columns of x [B, S, I] * w + b; also keys and values \
          with the past ones, [2, B, H, N, D]",
    onnx: &[ms("Attention")],
    inputs: between(2, 7),
    outputs: between(1, 2),
    attrs: &[
        attr("do_rotary", AttrKind::Int),
        attr("mask_filter_value", AttrKind::Float),
        required("num_heads", AttrKind::Int),
        attr("past_present_share_buffer", AttrKind::Int),
        attr("qkv_hidden_sizes", AttrKind::Ints),
        attr("rotary_embedding_dim", AttrKind::Int),
        attr("scale", AttrKind::Float),
        attr("unidirectional", AttrKind::Int),
    ],
    traits: PLAIN,
    infer: infer_projected,
    content: None,
    eval: eval_projected,
    scalar: None,
    data: None,
    work: work_projected,
    sample: sample_projected,
};

/// Columns of the queries, keys and values in the projection.
fn columns(attrs: &Attrs, all: &Dim) -> Result<[Dim; 3], Diag> {
    let Some(stated) = attrs.ints("qkv_hidden_sizes") else {
        let third = head_size(all, 3)?;
        return Ok([third.clone(), third.clone(), third]);
    };
    match *stated.as_slice() {
        [q, k, v] if q == k && q > 0 && v > 0 => {
            same_dim(all, &Dim::known(q.saturating_add(k).saturating_add(v)), "columns of the projection")?;
            Ok([q, k, v].map(Dim::known))
        }
        _ => Err(attr_error(format!("qkv_hidden_sizes is {stated:?}"))
            .hint("give three sizes, those of queries and keys equal")),
    }
}

fn check_supported(ctx: &InferCtx) -> Result<(), Diag> {
    if ctx.attrs.flag("do_rotary") {
        return Err(unsupported("attention that rotates its queries and keys is not supported")
            .hint("use RotaryEmbedding and MultiHeadAttention"));
    }
    if ctx.inputs.len() > ATTENTION_BIAS + 1 {
        return Err(unsupported("attention over a shared buffer is not supported"));
    }
    Ok(())
}

fn infer_projected(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    check_supported(ctx)?;
    let heads = n_heads(ctx.attrs, "num_heads")?;
    let dtype = same_dtypes(ctx, 0..3)?;
    want_float(dtype)?;
    let (x, w) = (input(ctx, 0)?, input(ctx, 1)?);
    let ([b, s, wide], [inner, all]) = (x.shape.as_slice(), w.shape.as_slice()) else {
        return Err(type_error(format!(
            "the data must have rank 3 and the weights rank 2, they are {x} and {w}"
        )));
    };
    same_dim(wide, inner, "columns of the data and rows of the weights")?;
    if let Some(bias) = optional_type(ctx, BIAS) {
        match bias.shape.as_slice() {
            [n] => same_dim(n, all, "elements of the bias and columns of the weights")?,
            _ => return Err(type_error(format!("the bias must be a vector, it is {bias}"))),
        }
    }
    let [q, _, v] = columns(ctx.attrs, all)?;
    let (d, e) = (head_size(&q, heads)?, head_size(&v, heads)?);
    let mut n = s.clone();
    if let Some(past) = optional_type(ctx, PAST) {
        let [two, pb, h, len, size] = past.shape.as_slice() else {
            return Err(type_error(format!("past keys and values have rank 5, not {past}")));
        };
        same_dim(two, &Dim::known(2), "the first dimension of past keys and values")?;
        same_dim(pb, b, "batches of past and new keys and values")?;
        same_dim(h, &Dim::known(heads), "heads of past keys and values")?;
        same_dim(size, &d, "sizes of past and new keys")?;
        n = n + len.clone();
    }
    let extent = [b.clone(), s.clone(), n.clone()];
    optional_type(ctx, PADDING).map_or(Ok(()), |mask| check_padding(mask, &extent))?;
    let h = Dim::known(heads);
    optional_type(ctx, ATTENTION_BIAS).map_or(Ok(()), |bias| check_bias(bias, &h, &extent))?;
    if ctx.n_outputs > 1 || optional_type(ctx, PAST).is_some() {
        same_dim(&d, &e, "sizes of keys and values that are kept")?;
    }
    let shapes = [vec![b.clone(), s.clone(), v], vec![Dim::known(2), b.clone(), h, n, d]];
    Ok(shapes.into_iter().take(ctx.n_outputs.max(1)).map(|shape| Type::new(dtype, shape)).collect())
}

/// `x * w + b` for `x` of `rows` rows.
fn project(ctx: &EvalCtx) -> Result<Vec<f64>, Diag> {
    let (x, w) = (tensor(ctx, 0)?, tensor(ctx, 1)?);
    let (inner, all) = (w.shape()[0], w.shape()[1]);
    let (x, w) = (x.to_f64s(), w.to_f64s());
    let bias = optional(ctx, BIAS).map_or_else(|| vec![0.0; all], Tensor::to_f64s);
    let mut y = Vec::with_capacity(x.len() / inner.max(1) * all);
    for row in x.chunks(inner.max(1)) {
        let mut out = bias.clone();
        for (v, weights) in row.iter().zip(w.chunks(all.max(1))) {
            out.iter_mut().zip(weights).for_each(|(o, w)| *o += v * w);
        }
        y.extend(out);
    }
    Ok(y)
}

fn eval_projected(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let types = results(ctx, infer_projected)?;
    let heads = usize::try_from(n_heads(ctx.attrs, "num_heads")?).unwrap_or(1);
    let [b, s, v_columns] = [types[0].1[0], types[0].1[1], types[0].1[2]];
    let all = tensor(ctx, 1)?.shape()[1];
    let q_columns = (all - v_columns) / 2;
    let y = project(ctx)?;
    let part = |from: usize, n: usize| {
        let rows = y.chunks(all.max(1)).flat_map(|row| row[from..from + n].iter().copied());
        Heads::split(&rows.collect::<Vec<_>>(), [b, heads, s, n / heads])
    };
    let q = part(0, q_columns);
    let (mut k, mut v) = (part(q_columns, q_columns), part(2 * q_columns, v_columns));
    let mut n_past = 0;
    if let Some(past) = optional(ctx, PAST) {
        n_past = past.shape()[3];
        let mut keys = past.to_f64s();
        let values = keys.split_off(keys.len() / 2);
        let shape = [b, heads, n_past, k.shape[3]];
        k = Heads { values: keys, shape }.joined(&k);
        v = Heads { values, shape }.joined(&v);
    }
    let extent = [b, s, n_past + s];
    let mask =
        ContribMask::new(ctx.attrs, optional(ctx, PADDING), optional(ctx, ATTENTION_BIAS), n_past, extent);
    let number = |at| mask.at(at);
    let sdpa = masked(ctx.attrs, [q, k, v], &number);
    let y = sdpa.run(None).0.merged();
    let all = [y, [sdpa.k.values, sdpa.v.values].concat()];
    types.iter().zip(all).map(|((dtype, shape), values)| from_f64s(*dtype, shape, &values)).collect()
}

/// The projection, then two products and a softmax between them.
fn work_projected(ctx: &WorkCtx) -> Work {
    const FLOPS_PER_SCORE: f64 = 12.0;
    let shape = |n: usize| ctx.inputs.get(n).and_then(Option::as_ref).map(|(_, s)| s.as_slice());
    let (Some(x), Some(w)) = (shape(0), shape(1)) else { return work(ctx, 0.0, WorkKind::Dense) };
    let heads = ctx.attrs.int_or("num_heads", 1).max(1) as f64;
    let rows = (x[0] * x[1]) as f64;
    let scores = rows * (x[1] + shape(PAST).map_or(0, |s| s[3])) as f64;
    let flops =
        2.0 * rows * (w[0] * w[1]) as f64 + scores * (4.0 / 3.0 * w[1] as f64 + FLOPS_PER_SCORE * heads);
    work(ctx, flops, WorkKind::Dense)
}

fn sample_projected(rng: &mut Rng) -> Sample {
    let [b, h, s, i, d] = [(); 5].map(|()| 1 + rng.below(3));
    let mut attrs = Attrs::new().with("num_heads", h as i64);
    if rng.below(2) == 0 {
        attrs.set("unidirectional", 1i64);
    }
    let past = rng.below(2) * (1 + rng.below(3));
    let mut inputs = vec![Some(rng.tensor(DType::F32, &[b, s, i], -2.0, 2.0))];
    inputs.push(Some(rng.tensor(DType::F32, &[i, 3 * h * d], -1.0, 1.0)));
    inputs.push((rng.below(2) == 0).then(|| rng.tensor(DType::F32, &[3 * h * d], -1.0, 1.0)));
    let masks = [vec![b], vec![2 * b], vec![b, s + past], vec![b, s, s + past]];
    let mask = rng.pick(&masks).clone();
    inputs.push((rng.below(2) == 0).then(|| rng.tensor(DType::I32, &mask, 0.0, 1.0)));
    inputs.push((past > 0).then(|| rng.tensor(DType::F32, &[2, b, h, past, d], -2.0, 2.0)));
    Sample { attrs, inputs, n_outputs: if past > 0 { 2 } else { 1 } }
}
