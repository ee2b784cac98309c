//! ONNX Runtime's attention with a cache of keys and values, whose heads are shared by groups of query heads.

use crate::attention::check_heads;
use crate::common::{
    PLAIN, attr, attr_error, between, from_f64s, index_error, input, required, tensor, type_error,
    unsupported, work,
};
use crate::content;
use crate::contrib_common::ms;
use crate::contrib_mask::{Bias, check_bias};
use crate::eval::{optional, optional_type, results, same_dim, same_dtypes, want_float};
use crate::multi_head_attention::{head_size, masked, n_heads, past_length};
use crate::rotary::rotate;
use crate::sdpa::{Heads, Stage};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&GROUP_QUERY_ATTENTION];

/// Operands by their place.
const PAST_KEY: usize = 3;
const PAST_VALUE: usize = 4;
const LAST: usize = 5;
const TOTAL: usize = 6;
const COS: usize = 7;
const SIN: usize = 8;
const POSITIONS: usize = 9;
const ATTENTION_BIAS: usize = 10;
const SINK: usize = 11;
const K_SCALE: usize = 12;
const V_SCALE: usize = 13;
const Q_NORM: usize = 14;
const K_NORM: usize = 15;

/// Causal attention over a cache.
static GROUP_QUERY_ATTENTION: OpDef = OpDef {
    name: "group_query_attention",
    doc: "causal attention of q [B, S, H*D] over a cache of keys and values that grows by k and v [B, S, G*D], which \
          may be packed with q; also the cache, [B, G, N, D], and the scores",
    onnx: &[ms("GroupQueryAttention")],
    inputs: between(1, 16),
    outputs: between(1, 4),
    attrs: &[
        attr("causal", AttrKind::Int),
        attr("do_rotary", AttrKind::Int),
        attr("k_quant_type", AttrKind::Str),
        attr("kv_cache_bit_width", AttrKind::Int),
        required("kv_num_heads", AttrKind::Int),
        attr("local_window_size", AttrKind::Int),
        required("num_heads", AttrKind::Int),
        attr("qk_norm_epsilon", AttrKind::Float),
        attr("qk_output", AttrKind::Int),
        attr("rotary_interleaved", AttrKind::Int),
        attr("scale", AttrKind::Float),
        attr("sliding_window_cache", AttrKind::Int),
        attr("smooth_softmax", AttrKind::Int),
        attr("softcap", AttrKind::Float),
        attr("v_quant_type", AttrKind::Str),
    ],
    traits: PLAIN,
    infer: infer_gqa,
    content: None,
    eval: eval_gqa,
    scalar: None,
    data: None,
    work: work_gqa,
    sample: sample_gqa,
};

fn check_supported(ctx: &InferCtx) -> Result<(), Diag> {
    let quantized = |name| ctx.attrs.str(name).is_some_and(|kind| kind != "NONE");
    let scaled = [K_SCALE, V_SCALE].iter().any(|n| optional_type(ctx, *n).is_some());
    if quantized("k_quant_type") || quantized("v_quant_type") || scaled {
        return Err(unsupported("a quantized cache of keys and values is not supported"));
    }
    if ctx.attrs.flag("sliding_window_cache") {
        return Err(unsupported("a cache of the size of a window is not supported"));
    }
    let (window, causal) = (ctx.attrs.int_or("local_window_size", -1), ctx.attrs.int_or("causal", 1));
    if window < -1 || (window >= 0 && causal == 0) {
        return Err(attr_error(format!("local_window_size is {window}, causal is {causal}"))
            .hint("the window must be -1 or more, and queries that look ahead have none"));
    }
    match (ctx.attrs.int_or("qk_output", 0), ctx.n_outputs) {
        (0, 4) => Err(attr_error("the scores are wanted, but qk_output does not say which")),
        (0..=2, _) => Ok(()),
        (mode, _) => Err(attr_error(format!("qk_output is {mode}, it must be 0, 1 or 2"))),
    }
}

/// Batch, length, and head sizes.
fn sizes(ctx: &InferCtx) -> Result<[Dim; 3], Diag> {
    let (heads, groups) = (n_heads(ctx.attrs, "num_heads")?, n_heads(ctx.attrs, "kv_num_heads")?);
    check_heads(&Dim::known(heads), &Dim::known(groups))?;
    let query = input(ctx, 0)?;
    let [b, s, packed] = query.shape.as_slice() else {
        return Err(type_error(format!("queries must have rank 3, they are {query}")));
    };
    let size = match (optional_type(ctx, 1), optional_type(ctx, 2)) {
        (None, None) => head_size(packed, heads + 2 * groups)?,
        (Some(k), Some(v)) => {
            let size = head_size(packed, heads)?;
            for ty in [k, v] {
                let [kb, ks, packed] = ty.shape.as_slice() else {
                    return Err(type_error(format!("keys and values must have rank 3, one is {ty}")));
                };
                same_dim(kb, b, "batches of queries, keys and values")?;
                same_dim(ks, s, "lengths of queries, keys and values")?;
                same_dim(&head_size(packed, groups)?, &size, "head sizes of queries, keys and values")?;
            }
            size
        }
        _ => return Err(type_error("keys and values come together")),
    };
    Ok([b.clone(), s.clone(), size])
}

/// Checks the operands besides the cache.
fn check_operands(ctx: &InferCtx, size: &Dim, extent: &[Dim; 3]) -> Result<(), Diag> {
    let heads = Dim::known(n_heads(ctx.attrs, "num_heads")?);
    optional_type(ctx, ATTENTION_BIAS).map_or(Ok(()), |bias| check_bias(bias, &heads, extent))?;
    for (operand, wanted) in [(SINK, &heads), (Q_NORM, size), (K_NORM, size)] {
        match optional_type(ctx, operand).map(|ty| ty.shape.as_slice()) {
            None => {}
            Some([n]) => same_dim(n, wanted, "the length of a vector of the operator")?,
            Some(_) => return Err(type_error(format!("operand {operand} must be a vector"))),
        }
    }
    if optional_type(ctx, Q_NORM).is_some() != optional_type(ctx, K_NORM).is_some() {
        return Err(type_error("norms of queries and keys come together"));
    }
    for n in [LAST, TOTAL] {
        if input(ctx, n)?.dtype.is_float() {
            return Err(type_error(format!("operand {n} must be integers")));
        }
    }
    let whole = extent[0].clone();
    if let [n] = input(ctx, LAST)?.shape.as_slice() {
        same_dim(n, &whole, "lengths and batches")?;
    }
    if !ctx.attrs.flag("do_rotary") {
        return Ok(());
    }
    let (cos, sin) = (input(ctx, COS)?, input(ctx, SIN)?);
    let ([rows, half], [sin_rows, sin_half]) = (cos.shape.as_slice(), sin.shape.as_slice()) else {
        return Err(type_error(format!("cosines and sines must have rank 2, they are {cos} and {sin}")));
    };
    same_dim(rows, sin_rows, "numbers of cosines and sines")?;
    same_dim(half, sin_half, "sizes of cosines and sines")?;
    if half.as_known().zip(size.as_known()).is_some_and(|(half, size)| 2 * half > size) {
        return Err(type_error(format!("{half} angles are too many for heads of {size}")));
    }
    Ok(())
}

fn infer_gqa(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    check_supported(ctx)?;
    let dtype = same_dtypes(ctx, 0..PAST_VALUE + 1)?;
    want_float(dtype)?;
    let [b, s, d] = sizes(ctx)?;
    let groups = Dim::known(n_heads(ctx.attrs, "kv_num_heads")?);
    let heads = Dim::known(n_heads(ctx.attrs, "num_heads")?);
    let past = [PAST_KEY, PAST_VALUE].map(|n| optional_type(ctx, n));
    let past = past_length(past, [&b, &groups], [&d, &d])?;
    let total = content::dim(ctx, TOTAL);
    let extent = [b.clone(), s.clone(), total.clone().unwrap_or_else(|| Dim::unknown(3, 3))];
    check_operands(ctx, &d, &extent)?;
    let mut types = vec![Type::new(dtype, vec![b.clone(), s.clone(), heads.clone() * d.clone()])];
    if ctx.n_outputs > 1 {
        let length = |output| total.as_ref().map_or_else(|| Dim::unknown(output, 2), |n| past.larger(n));
        let cache = |output| Type::new(dtype, vec![b.clone(), groups.clone(), length(output), d.clone()]);
        let n_scores = total.clone().unwrap_or_else(|| Dim::unknown(3, 3));
        types.extend([cache(1), cache(2), Type::new(dtype, vec![b.clone(), heads, s, n_scores])]);
    }
    types.truncate(ctx.n_outputs.max(1));
    Ok(types)
}

/// What the lengths say about each batch.
struct Lengths {
    /// Keys in all.
    total: usize,
    /// Valid keys of each batch after the call.
    valid: Vec<usize>,
    /// Valid keys of each batch before it.
    past: Vec<usize>,
    /// Whether the call starts the sequences.
    prompt: bool,
}

impl Lengths {
    fn new(ctx: &EvalCtx, batches: usize, queries: usize, cache: usize) -> Result<Self, Diag> {
        let wrong =
            |text: String| Diag::new("X020", text).hint("check the lengths that are fed to the model");
        let total = tensor(ctx, TOTAL)?.to_i64s().first().copied().unwrap_or(0);
        let total = usize::try_from(total).map_err(|_| wrong(format!("a total length of {total}")))?;
        let prompt = queries == total;
        // A cache either has room for everything, or grows by what is new.
        if total < queries || (total > cache && total != cache + queries) {
            return Err(wrong(format!("{queries} keys, {cache} in the cache, do not make {total}")));
        }
        let last = tensor(ctx, LAST)?.to_i64s();
        if last.len() != batches {
            return Err(wrong(format!("{} lengths for {batches} batches", last.len())));
        }
        let mut lengths = Self { total, valid: Vec::new(), past: Vec::new(), prompt };
        for last in last {
            let valid = usize::try_from(last.saturating_add(1)).ok().filter(|n| *n <= total);
            let past = valid.and_then(|n| if prompt { Some(0) } else { n.checked_sub(queries) });
            let (Some(valid), Some(past)) = (valid, past.filter(|n| prompt || *n <= cache)) else {
                return Err(wrong(format!("a length of {last} + 1 does not fit a total of {total}")));
            };
            lengths.valid.push(valid);
            lengths.past.push(past);
        }
        Ok(lengths)
    }

    /// The position of a new key or query.
    fn position(&self, given: Option<&Tensor>, batch: usize, place: usize, queries: usize) -> i64 {
        let at = |i: usize| given.and_then(|ids| ids.to_i64s().get(i).copied());
        if self.prompt {
            at(0).unwrap_or(0) + place as i64
        } else {
            at(batch * queries + place).unwrap_or((self.past[batch] + place) as i64)
        }
    }
}

/// Queries, new keys and new values.
fn split(ctx: &EvalCtx, heads: usize, groups: usize) -> Result<[Heads; 3], Diag> {
    let query = tensor(ctx, 0)?;
    if let (Some(k), Some(v)) = (optional(ctx, 1), optional(ctx, 2)) {
        return Ok([Heads::new(query, heads)?, Heads::new(k, groups)?, Heads::new(v, groups)?]);
    }
    let packed = Heads::new(query, heads + 2 * groups)?;
    Ok([packed.range(0, heads), packed.range(heads, groups), packed.range(heads + groups, groups)])
}

/// Scales every vector to mean square 1, then by a weight per element.
fn normalize(heads: Heads, weight: Option<&Tensor>, attrs: &Attrs) -> Heads {
    let Some(weight) = weight.map(Tensor::to_f64s) else { return heads };
    let epsilon = f64::from(attrs.float_or("qk_norm_epsilon", 1e-6));
    let mut heads = heads;
    for vector in heads.values.chunks_mut(weight.len().max(1)) {
        let mean = vector.iter().map(|v| v * v).sum::<f64>() / vector.len() as f64;
        let factor = 1.0 / (mean + epsilon).sqrt();
        vector.iter_mut().zip(&weight).for_each(|(v, w)| *v = *v * factor * w);
    }
    heads
}

/// Rotates every vector by its position.
fn rotated(ctx: &EvalCtx, mut heads: Heads, lengths: &Lengths) -> Result<Heads, Diag> {
    if !ctx.attrs.flag("do_rotary") {
        return Ok(heads);
    }
    let (cos, sin) = (tensor(ctx, COS)?, tensor(ctx, SIN)?);
    let (rows, half) = (cos.shape()[0], cos.shape()[1]);
    let (cos, sin) = (cos.to_f64s(), sin.to_f64s());
    let interleaved = ctx.attrs.flag("rotary_interleaved");
    let [_, h, s, d] = heads.shape;
    for (i, vector) in heads.values.chunks_mut(d.max(1)).enumerate() {
        let position = lengths.position(optional(ctx, POSITIONS), i / (h * s), i % s, s);
        let row = usize::try_from(position).ok().filter(|row| *row < rows);
        let at = row.ok_or_else(|| index_error(position, rows))? * half;
        rotate(vector, &cos[at..at + half], &sin[at..at + half], interleaved, |v| v);
    }
    Ok(heads)
}

/// The cache with the new vectors behind the valid ones; what is behind them is zero.
fn updated(past: Option<&Tensor>, new: &Heads, lengths: &Lengths) -> Result<Heads, Diag> {
    let [b, g, s, d] = new.shape;
    let past = past.map(|t| Heads::new(t, g)).transpose()?;
    let len = past.as_ref().map_or(0, |past| past.shape[2]).max(lengths.total);
    let mut values = vec![0.0; b * g * len * d];
    for (i, line) in values.chunks_mut((len * d).max(1)).enumerate() {
        let n_past = lengths.past[i / g];
        for place in 0..n_past + s {
            let from = match &past {
                Some(past) if place < n_past => past.at(i / g, i % g, place),
                _ => new.at(i / g, i % g, place - n_past),
            };
            line[place * d..(place + 1) * d].copy_from_slice(from);
        }
    }
    Ok(Heads { values, shape: [b, g, len, d] })
}

/// What is added to the scores: minus infinity for keys that a query does not see.
struct Visible<'a> {
    lengths: &'a Lengths,
    bias: Option<Bias>,
    causal: bool,
    window: Option<usize>,
}

impl Visible<'_> {
    fn at(&self, at: [usize; 4]) -> f64 {
        let [batch, _, query, key] = at;
        let valid = self.lengths.valid[batch];
        let end = if self.causal { valid.min(self.lengths.past[batch] + query + 1) } else { valid };
        let start = self.window.map_or(0, |window| end.saturating_sub(window));
        if key < start || key >= end {
            return f64::NEG_INFINITY;
        }
        self.bias.as_ref().map_or(0.0, |bias| bias.at(at))
    }
}

fn eval_gqa(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let types = results(ctx, infer_gqa)?;
    let n = |name| usize::try_from(ctx.attrs.int_or(name, 1)).unwrap_or(1);
    let [q, k, v] = split(ctx, n("num_heads"), n("kv_num_heads"))?;
    let [batches, heads, queries, _] = q.shape;
    let cache = optional(ctx, PAST_KEY).map_or(0, |t| t.shape()[2]);
    let lengths = Lengths::new(ctx, batches, queries, cache)?;
    let q = rotated(ctx, normalize(q, optional(ctx, Q_NORM), ctx.attrs), &lengths)?;
    let k = rotated(ctx, normalize(k, optional(ctx, K_NORM), ctx.attrs), &lengths)?;
    let keys = updated(optional(ctx, PAST_KEY), &k, &lengths)?;
    let values = updated(optional(ctx, PAST_VALUE), &v, &lengths)?;
    let visible = Visible {
        lengths: &lengths,
        bias: optional(ctx, ATTENTION_BIAS).map(Bias::new),
        causal: ctx.attrs.int_or("causal", 1) != 0,
        window: usize::try_from(ctx.attrs.int_or("local_window_size", -1)).ok(),
    };
    let number = |at| visible.at(at);
    let sink = optional(ctx, SINK).map(Tensor::to_f64s);
    let sink = sink.or_else(|| ctx.attrs.flag("smooth_softmax").then(|| vec![0.0; heads]));
    let mut sdpa = masked(ctx.attrs, [q, keys.first(lengths.total), values.first(lengths.total)], &number);
    sdpa.softcap = f64::from(ctx.attrs.float_or("softcap", 0.0));
    sdpa.sink = sink.as_deref();
    let stage = if ctx.attrs.int_or("qk_output", 0) == 1 { Stage::Biased } else { Stage::Weights };
    let (y, mut scores) = sdpa.run((types.len() > 3).then_some(stage));
    scores.iter_mut().filter(|s| **s == f64::NEG_INFINITY).for_each(|s| *s = 0.0);
    let all = [y.merged(), keys.values, values.values, scores];
    types.iter().zip(all).map(|((dtype, shape), values)| from_f64s(*dtype, shape, &values)).collect()
}

/// Two products over the cache, and a softmax between them.
fn work_gqa(ctx: &WorkCtx) -> Work {
    const FLOPS_PER_SCORE: f64 = 12.0;
    let heads = ctx.attrs.int_or("num_heads", 1).max(1) as f64;
    let shape = |n: usize| ctx.inputs.get(n).and_then(Option::as_ref).map(|(_, s)| s.as_slice());
    let Some((_, y)) = ctx.outputs.first() else { return work(ctx, 0.0, WorkKind::Dense) };
    let n_keys = shape(PAST_KEY).map_or(0, |s| s[2]) + y[1];
    let scores = (y[0] * y[1] * n_keys) as f64;
    work(ctx, scores * (4.0 * y[2] as f64 + FLOPS_PER_SCORE * heads), WorkKind::Dense)
}

fn sample_gqa(rng: &mut Rng) -> Sample {
    let [b, g, s] = [(); 3].map(|()| 1 + rng.below(3));
    let (h, d) = (g * (1 + rng.below(2)), 2 * (1 + rng.below(3)));
    let cache = rng.below(2) * (1 + rng.below(4));
    let total = cache + s;
    let mut attrs = Attrs::new().with("num_heads", h as i64).with("kv_num_heads", g as i64);
    let mut draw = |shape: &[usize]| Some(rng.tensor(DType::F32, shape, -2.0, 2.0));
    let mut inputs = vec![draw(&[b, s, h * d]), draw(&[b, s, g * d]), draw(&[b, s, g * d])];
    for _ in 0..2 {
        inputs.push(if cache > 0 { draw(&[b, g, cache, d]) } else { None });
    }
    inputs.push(Some(rng.tensor(DType::I32, &[b], (total - 1) as f64, (total - 1) as f64)));
    inputs.push(Tensor::from_slice(&[1], &[total as i32]));
    match rng.below(5) {
        0 => attrs.set("local_window_size", rng.int(1, 3)),
        1 => attrs.set("softcap", 2.0f32),
        2 => attrs.set("smooth_softmax", 1i64),
        3 => attrs.set("qk_output", rng.int(1, 2)),
        _ => {
            attrs.set("do_rotary", 1i64);
            attrs.set("rotary_interleaved", rng.int(0, 1));
            for _ in 0..2 {
                inputs.push(Some(rng.tensor(DType::F32, &[total, d / 2], -1.0, 1.0)));
            }
        }
    }
    let n_outputs = if attrs.get("qk_output").is_some() { 4 } else { 3 };
    Sample { attrs, inputs, n_outputs }
}
