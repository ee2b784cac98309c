//! ONNX Runtime's attention of one new token, over a buffer of keys and values or over those of an encoder.

use crate::common::{
    PLAIN, attr, between, from_f64s, index_error, input, required, tensor, type_error, work,
};
use crate::content;
use crate::contrib_common::ms;
use crate::contrib_mask::{ContribMask, check_bias, check_padding};
use crate::eval::{optional, optional_type, results, same_dim, same_dtypes, want_float};
use crate::multi_head_attention::{head_size, masked, n_heads, past_length};
use crate::sdpa::{Heads, Stage};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&DECODER_ATTENTION];

/// Operands by their place.
const PADDING: usize = 3;
const ATTENTION_BIAS: usize = 4;
const PAST_KEY: usize = 5;
const PAST_VALUE: usize = 6;
const PAST_LENGTH: usize = 7;
const BEAM_WIDTH: usize = 8;
const BEAMS: usize = 9;
const BIAS: usize = 10;

/// Attention of one token.
static DECODER_ATTENTION: OpDef = OpDef {
    name: "decoder_masked_multi_head_attention",
    doc: "attention of one token q [B, 1, H*D] over its own k and v and past ones, or over keys and values [B, H, N, D]; \
          also keys and values with the new ones, and the scores",
    onnx: &[ms("DecoderMaskedMultiHeadAttention")],
    inputs: between(1, 11),
    outputs: between(1, 4),
    attrs: &[
        attr("mask_filter_value", AttrKind::Float),
        required("num_heads", AttrKind::Int),
        attr("output_qk", AttrKind::Int),
        attr("past_present_share_buffer", AttrKind::Int),
        attr("scale", AttrKind::Float),
    ],
    traits: PLAIN,
    infer: infer_decoder,
    content: None,
    eval: eval_decoder,
    scalar: None,
    data: None,
    work: work_decoder,
    sample: sample_decoder,
};

/// Whether keys and values are an encoder's, in heads.
fn is_cross(key: Option<usize>) -> bool {
    key == Some(4)
}

/// Batches, and the sizes of keys and values.
fn sizes(ctx: &InferCtx, heads: i64) -> Result<[Dim; 3], Diag> {
    let query = input(ctx, 0)?;
    let [b, one, packed] = query.shape.as_slice() else {
        return Err(type_error(format!("queries must have rank 3, they are {query}")));
    };
    same_dim(one, &Dim::known(1), "the length of the queries and 1")?;
    let (key, value) = match (optional_type(ctx, 1), optional_type(ctx, 2)) {
        (None, None) => {
            let third = head_size(packed, 3 * heads)?;
            return Ok([b.clone(), third.clone(), third]);
        }
        (Some(key), Some(value)) => (key, value),
        _ => return Err(type_error("keys and values come together")),
    };
    let size = head_size(packed, heads)?;
    match (key.shape.as_slice(), value.shape.as_slice()) {
        ([kb, kh, n, d], [vb, vh, m, e]) => {
            for (x, y) in [(kb, b), (vb, b), (kh, &Dim::known(heads)), (vh, kh), (n, m), (d, &size)] {
                same_dim(x, y, "dimensions of queries, keys and values")?;
            }
            Ok([b.clone(), size, e.clone()])
        }
        ([kb, k1, k], [vb, v1, v]) => {
            for (x, y) in [(kb, b), (vb, b), (k1, one), (v1, one), (k, packed)] {
                same_dim(x, y, "dimensions of queries, keys and values")?;
            }
            Ok([b.clone(), size, head_size(v, heads)?])
        }
        _ => Err(type_error(format!("keys are {key}, values {value}"))),
    }
}

fn infer_decoder(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let heads = n_heads(ctx.attrs, "num_heads")?;
    let dtype = same_dtypes(ctx, 0..3)?;
    want_float(dtype)?;
    let [b, d, e] = sizes(ctx, heads)?;
    let h = Dim::known(heads);
    let past = past_length([PAST_KEY, PAST_VALUE].map(|n| optional_type(ctx, n)), [&b, &h], [&d, &e])?;
    let key = optional_type(ctx, 1);
    let shared = ctx.attrs.flag("past_present_share_buffer") && optional_type(ctx, PAST_KEY).is_some();
    let one = Dim::known(1);
    let (kept, n_keys) = match key {
        Some(key) if is_cross(Some(key.rank())) => (key.shape[2].clone(), key.shape[2].clone()),
        _ if shared => {
            let length = content::dim(ctx, PAST_LENGTH).unwrap_or_else(|| Dim::unknown(3, 3) - one.clone());
            (past, length + one.clone())
        }
        _ => (past.clone() + one.clone(), past + one.clone()),
    };
    if shared && optional_type(ctx, PAST_LENGTH).is_none() {
        return Err(type_error("a shared buffer needs past_sequence_length"));
    }
    let extent = [b.clone(), one.clone(), n_keys.clone()];
    optional_type(ctx, PADDING).map_or(Ok(()), |mask| check_padding(mask, &extent))?;
    optional_type(ctx, ATTENTION_BIAS).map_or(Ok(()), |bias| check_bias(bias, &h, &extent))?;
    if let Some(bias) = optional_type(ctx, BIAS) {
        let whole = (d.clone() * Dim::known(2) + e.clone()) * h.clone();
        match bias.shape.as_slice() {
            [n] => same_dim(n, &whole, "elements of the bias and of queries, keys and values")?,
            _ => return Err(type_error(format!("the bias must be a vector, it is {bias}"))),
        }
    }
    if optional_type(ctx, BEAMS).is_some_and(|beams| beams.rank() != 3) {
        return Err(type_error("the beams of past tokens must have rank 3"));
    }
    let shapes = [
        vec![b.clone(), one.clone(), h.clone() * e.clone()],
        vec![b.clone(), h.clone(), kept.clone(), d],
        vec![b.clone(), h.clone(), kept, e],
        vec![b, h, one, n_keys],
    ];
    Ok(shapes.into_iter().take(ctx.n_outputs.max(1)).map(|shape| Type::new(dtype, shape)).collect())
}

/// Queries, keys and values of the call, with their bias.
fn split(ctx: &EvalCtx, heads: usize) -> Result<[Heads; 3], Diag> {
    let query = tensor(ctx, 0)?;
    let mut parts = match (optional(ctx, 1), optional(ctx, 2)) {
        (Some(k), Some(v)) => [Heads::new(query, heads)?, Heads::new(k, heads)?, Heads::new(v, heads)?],
        _ => {
            let packed = Heads::new(query, 3 * heads)?;
            [packed.range(0, heads), packed.range(heads, heads), packed.range(2 * heads, heads)]
        }
    };
    if let Some(bias) = optional(ctx, BIAS).map(Tensor::to_f64s) {
        let n = if is_cross(optional(ctx, 1).map(Tensor::rank)) { 1 } else { 3 };
        let mut from = 0;
        for part in parts.iter_mut().take(n) {
            let len = part.shape[1] * part.shape[3];
            part.shift(&bias[from..from + len]);
            from += len;
        }
    }
    Ok(parts)
}

/// A buffer with the new vectors at `at`.
fn written(mut buffer: Heads, new: &Heads, at: usize) -> Result<Heads, Diag> {
    let [_, _, len, d] = buffer.shape;
    if at >= len {
        return Err(index_error(at as i64, len));
    }
    for (line, vector) in buffer.values.chunks_mut((len * d).max(1)).zip(new.values.chunks(d.max(1))) {
        line[at * d..(at + 1) * d].copy_from_slice(vector);
    }
    Ok(buffer)
}

/// Past vectors as each beam saw them: entry `[batch, beam, place]` is the beam a place came from.
fn from_beams(ctx: &EvalCtx, keys: &Heads, past: usize) -> Result<Heads, Diag> {
    let Some(beams) = optional(ctx, BEAMS) else { return Ok(keys.clone()) };
    let width = optional(ctx, BEAM_WIDTH).and_then(|t| t.to_i64s().first().copied()).unwrap_or(1);
    let [b, h, len, d] = keys.shape;
    let width = usize::try_from(width).ok().filter(|w| *w > 0 && b % w == 0);
    let width = width.ok_or_else(|| type_error(format!("{b} batches do not hold the stated beams")))?;
    let most = beams.shape()[2];
    if beams.n_elements() != b * most || most < past {
        return Err(type_error(format!(
            "{} beams do not fit {b} batches of {past} tokens",
            beams.n_elements()
        )));
    }
    let from = beams.to_i64s();
    let mut out = keys.clone();
    for (row, vector) in out.values.chunks_mut(d.max(1)).enumerate() {
        let (batch, head, place) = (row / (h * len), row / len % h, row % len);
        if place < past {
            let beam = from[batch * most + place];
            let beam = usize::try_from(beam).ok().filter(|beam| *beam < width);
            let beam = beam.ok_or_else(|| index_error(from[batch * most + place], width))?;
            vector.copy_from_slice(keys.at(batch / width * width + beam, head, place));
        }
    }
    Ok(out)
}

fn eval_decoder(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let types = results(ctx, infer_decoder)?;
    let heads = usize::try_from(n_heads(ctx.attrs, "num_heads")?).unwrap_or(1);
    let [q, mut k, mut v] = split(ctx, heads)?;
    let mut n_past = 0;
    let mut n_keys = k.shape[2];
    if let (Some(key), Some(value)) = (optional(ctx, PAST_KEY), optional(ctx, PAST_VALUE)) {
        let (key, value) = (Heads::new(key, heads)?, Heads::new(value, heads)?);
        if ctx.attrs.flag("past_present_share_buffer") {
            let stated = tensor(ctx, PAST_LENGTH)?.to_i64s().first().copied().unwrap_or(0);
            n_past = usize::try_from(stated).map_err(|_| index_error(stated, key.shape[2]))?;
            (k, v) = (written(key, &k, n_past)?, written(value, &v, n_past)?);
        } else {
            n_past = key.shape[2];
            (k, v) = (key.joined(&k), value.joined(&v));
        }
        n_keys = n_past + 1;
    }
    let seen = [from_beams(ctx, &k, n_past)?.first(n_keys), from_beams(ctx, &v, n_past)?.first(n_keys)];
    let extent = [q.shape[0], 1, n_keys];
    let mask =
        ContribMask::new(ctx.attrs, optional(ctx, PADDING), optional(ctx, ATTENTION_BIAS), n_past, extent);
    let number = |at| mask.at(at);
    let [keys, values] = seen;
    let sdpa = masked(ctx.attrs, [q, keys, values], &number);
    let (y, scores) = sdpa.run((types.len() > 3).then_some(Stage::Biased));
    let all = [y.merged(), k.values, v.values, scores];
    types.iter().zip(all).map(|((dtype, shape), values)| from_f64s(*dtype, shape, &values)).collect()
}

/// Two products with one query, and a softmax between them.
fn work_decoder(ctx: &WorkCtx) -> Work {
    const FLOPS_PER_SCORE: f64 = 12.0;
    let heads = ctx.attrs.int_or("num_heads", 1).max(1) as f64;
    let length = |n: usize| {
        let shape = ctx.inputs.get(n).and_then(Option::as_ref).map(|(_, s)| s.as_slice());
        shape.filter(|s| s.len() == 4).map_or(0, |s| s[2])
    };
    let Some((_, y)) = ctx.outputs.first() else { return work(ctx, 0.0, WorkKind::Dense) };
    let n_keys = (length(1) + length(PAST_KEY) + 1) as f64;
    work(ctx, y[0] as f64 * n_keys * (4.0 * y[2] as f64 + FLOPS_PER_SCORE * heads), WorkKind::Dense)
}

fn sample_decoder(rng: &mut Rng) -> Sample {
    let [b, h, n, d] = [(); 4].map(|()| 1 + rng.below(3));
    let mut attrs = Attrs::new().with("num_heads", h as i64);
    let mut draw = |shape: &[usize]| Some(rng.tensor(DType::F32, shape, -2.0, 2.0));
    let mut inputs = vec![draw(&[b, 1, h * d])];
    let buffer = [draw(&[b, h, n, d]), draw(&[b, h, n, d])];
    let new = [draw(&[b, 1, h * d]), draw(&[b, 1, h * d])];
    if rng.below(3) == 0 {
        inputs.extend(buffer);
        inputs.push(Some(rng.tensor(DType::I32, &[b, n], 0.0, 1.0)));
        return Sample { attrs, inputs, n_outputs: 1 };
    }
    inputs.extend(new);
    inputs.extend([None, None]);
    inputs.extend(buffer);
    if rng.below(2) == 0 {
        attrs.set("past_present_share_buffer", 1i64);
        inputs.push(Tensor::from_slice(&[1], &[rng.below(n) as i32]));
    }
    Sample { attrs, inputs, n_outputs: 3 }
}
