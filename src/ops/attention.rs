//! Scaled dot-product attention as ONNX defines it: masks, windows, caches and the numbers in between.

use crate::common::{
    PLAIN, attr, attr_error, between, broadcast_position, from_f64s, input, onnx, tensor, type_error, work,
};
use crate::eval::{optional, optional_type, results, rounding, same_dim, want_float};
use crate::sdpa::{Heads, Sdpa, Stage};
use partita_ir::attr::{Attr, Attrs};
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&ATTENTION];

/// Operands by their place.
const MASK: usize = 3;
const PAST_KEY: usize = 4;
const PAST_VALUE: usize = 5;
const LENGTHS: usize = 6;

/// softmax(q k' * scale + mask) v.
static ATTENTION: OpDef = OpDef {
    name: "attention",
    doc: "softmax(q * k' * scale + mask) * v for q [B, H, M, D], k [B, G, N, D] (or [B, G, D, N]), v [B, G, N, E]; \
          or with the heads packed as [B, M, H*D]; also keys and values with the past, and scores",
    onnx: &[onnx("Attention", 23)],
    inputs: between(3, 7),
    outputs: between(1, 4),
    attrs: &[
        attr("is_causal", AttrKind::Int),
        attr("k_transposed", AttrKind::Int),
        attr("kv_num_heads", AttrKind::Int),
        attr("left_window_size", AttrKind::Int),
        attr("q_num_heads", AttrKind::Int),
        attr("qk_matmul_output_mode", AttrKind::Int),
        attr("right_window_size", AttrKind::Int),
        attr("scale", AttrKind::Float),
        attr("softcap", AttrKind::Float),
        attr("softmax_precision", AttrKind::Int),
    ],
    traits: PLAIN,
    infer: infer_attention,
    content: None,
    eval: eval_attention,
    scalar: None,
    data: None,
    work: work_attention,
    sample: crate::attention_sample::sample,
};

/// Batch, heads, length and size of an operand; `heads` is the attribute that splits packed ones.
///
/// # Errors
/// `V020` for another rank than 3 or 4, `V021` when the number of heads does not fit.
pub(crate) fn head_sizes(attrs: &Attrs, heads: &str, ty: &Type) -> Result<[Dim; 4], Diag> {
    let n = attrs.int_or(heads, 0);
    let fits = |dim: &Dim| dim.as_known().is_none_or(|d| n > 0 && d % n == 0);
    match ty.shape.as_slice() {
        [b, h, s, d] => Ok([b, h, s, d].map(Clone::clone)),
        [b, s, hidden] if n > 0 && fits(hidden) => {
            Ok([b.clone(), Dim::known(n), s.clone(), hidden.floor_div(&Dim::known(n))])
        }
        [_, _, _] => Err(attr_error(format!("{heads} is {n}, the operand is {ty}"))
            .hint("operands of rank 3 need a number of heads that divides their last dimension")),
        _ => Err(type_error(format!("attention wants operands of rank 3 or 4, one is {ty}"))),
    }
}

/// The sizes of queries, of keys and of values, past ones included.
struct Sizes {
    q: [Dim; 4],
    k: [Dim; 4],
    v: [Dim; 4],
}

impl Sizes {
    fn new(ctx: &InferCtx) -> Result<Self, Diag> {
        let (q, k, v) = (input(ctx, 0)?, input(ctx, 1)?, input(ctx, 2)?);
        if q.rank() != k.rank() || q.rank() != v.rank() {
            return Err(type_error(format!(
                "operands of attention have one rank, they are {q}, {k} and {v}"
            )));
        }
        let mut sizes = Self {
            q: head_sizes(ctx.attrs, "q_num_heads", q)?,
            k: head_sizes(ctx.attrs, "kv_num_heads", k)?,
            v: head_sizes(ctx.attrs, "kv_num_heads", v)?,
        };
        if ctx.attrs.flag("k_transposed") {
            sizes.k.swap(2, 3);
        }
        sizes.check()?;
        sizes.with_past(ctx)?;
        Ok(sizes)
    }

    fn check(&self) -> Result<(), Diag> {
        let (q, k, v) = (&self.q, &self.k, &self.v);
        same_dim(&q[0], &k[0], "batches of queries and keys")?;
        same_dim(&q[0], &v[0], "batches of queries and values")?;
        same_dim(&q[3], &k[3], "sizes of queries and keys")?;
        same_dim(&k[1], &v[1], "heads of keys and values")?;
        same_dim(&k[2], &v[2], "lengths of keys and values")?;
        check_heads(&q[1], &k[1])
    }

    fn with_past(&mut self, ctx: &InferCtx) -> Result<(), Diag> {
        let (key, value) = match (optional_type(ctx, PAST_KEY), optional_type(ctx, PAST_VALUE)) {
            (None, None) => return Ok(()),
            (Some(key), Some(value)) => (key, value),
            _ => return Err(type_error("past keys and past values come together")),
        };
        if ctx.attrs.flag("k_transposed") || optional_type(ctx, LENGTHS).is_some() {
            return Err(type_error("past keys go with neither transposed keys nor an external cache"));
        }
        let dtypes = [input(ctx, 1)?.dtype, input(ctx, 2)?.dtype];
        for (past, new, dtype) in [(key, &mut self.k, dtypes[0]), (value, &mut self.v, dtypes[1])] {
            let [b, h, s, d] = past.shape.as_slice() else {
                return Err(type_error(format!("past keys and values have rank 4, not {past}")));
            };
            same_dim(b, &new[0], "batches of past and new keys and values")?;
            same_dim(h, &new[1], "heads of past and new keys and values")?;
            same_dim(d, &new[3], "sizes of past and new keys and values")?;
            if past.dtype != dtype {
                return Err(type_error("past and new keys and values have one element type"));
            }
            new[2] = new[2].clone() + s.clone();
        }
        same_dim(&self.k[2], &self.v[2], "lengths of past keys and values")
    }
}

/// Heads of the keys are shared by groups of heads of the queries.
///
/// # Errors
/// `V020` when they cannot be.
pub(crate) fn check_heads(queries: &Dim, keys: &Dim) -> Result<(), Diag> {
    match (queries.as_known(), keys.as_known()) {
        (Some(q), Some(k)) if k < 1 || q % k != 0 => {
            Err(type_error(format!("{q} query heads cannot share {k} key heads")))
        }
        _ => Ok(()),
    }
}

fn check_mask(ctx: &InferCtx, sizes: &Sizes) -> Result<(), Diag> {
    let Some(mask) = optional_type(ctx, MASK) else { return Ok(()) };
    if mask.rank() > 4 {
        return Err(type_error(format!("the mask {mask} has more than 4 dimensions")));
    }
    let n_keys = &sizes.k[2];
    let scores = [&sizes.q[0], &sizes.q[1], &sizes.q[2]];
    let Some((last, leading)) = mask.shape.split_last() else { return Ok(()) };
    if last.as_known().zip(n_keys.as_known()).is_some_and(|(m, n)| m > n && m != 1) {
        return Err(type_error(format!("the mask {mask} is longer than the {n_keys} keys")));
    }
    for (dim, score) in leading.iter().rev().zip(scores.into_iter().rev()) {
        if !dim.is(1) {
            same_dim(dim, score, "a dimension of the mask and of the scores")?;
        }
    }
    Ok(())
}

fn check_lengths(ctx: &InferCtx, batch: &Dim) -> Result<(), Diag> {
    let Some(lengths) = optional_type(ctx, LENGTHS) else { return Ok(()) };
    match lengths.shape.as_slice() {
        [n] if !lengths.dtype.is_float() && lengths.dtype != DType::Bool => {
            same_dim(n, batch, "numbers of lengths and of batches")
        }
        _ => Err(type_error(format!("the lengths must be a list of integers, not {lengths}"))),
    }
}

fn check_attrs(attrs: &Attrs, scores: DType) -> Result<(), Diag> {
    for name in ["left_window_size", "right_window_size"] {
        if attrs.int_or(name, -1) < -1 {
            return Err(attr_error(format!("{name} is {}, it must be -1 or more", attrs.int_or(name, -1))));
        }
    }
    let mode = attrs.int_or("qk_matmul_output_mode", 0);
    if !(0..=3).contains(&mode) {
        return Err(attr_error(format!("qk_matmul_output_mode is {mode}, it must be 0, 1, 2 or 3")));
    }
    softmax_dtype(attrs, scores).map(|_| ())
}

/// The element type that `softmax_precision` names by ONNX's numbers, else `default`.
///
/// # Errors
/// `V021` when it is no float type.
pub(crate) fn softmax_dtype(attrs: &Attrs, default: DType) -> Result<DType, Diag> {
    match attrs.int("softmax_precision") {
        None => Ok(default),
        Some(1) => Ok(DType::F32),
        Some(10) => Ok(DType::F16),
        Some(11) => Ok(DType::F64),
        Some(16) => Ok(DType::Bf16),
        Some(other) => Err(attr_error(format!("softmax_precision {other} is not a float type"))),
    }
}

fn infer_attention(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (q, k, v) = (input(ctx, 0)?, input(ctx, 1)?, input(ctx, 2)?);
    want_float(q.dtype)?;
    want_float(v.dtype)?;
    if q.dtype != k.dtype {
        return Err(type_error(format!("queries and keys have one element type, they are {q} and {k}")));
    }
    let sizes = Sizes::new(ctx)?;
    check_mask(ctx, &sizes)?;
    check_lengths(ctx, &sizes.q[0])?;
    check_attrs(ctx.attrs, q.dtype)?;
    let [b, h, s, _] = sizes.q;
    let size = sizes.v[3].clone();
    let y = if q.rank() == 3 {
        vec![b.clone(), s.clone(), h.clone() * size]
    } else {
        vec![b.clone(), h.clone(), s.clone(), size]
    };
    let scores = vec![b, h, s, sizes.k[2].clone()];
    let shapes = [(q.dtype, y), (k.dtype, sizes.k.into()), (v.dtype, sizes.v.into()), (q.dtype, scores)];
    let types = shapes.into_iter().map(|(dtype, shape)| Type::new(dtype, shape));
    Ok(types.take(ctx.n_outputs.max(1)).collect())
}

/// What is added to the scores.
struct Bias<'a> {
    /// False is minus infinity.
    mask: Option<(Vec<f64>, &'a [usize])>,
    n_keys: usize,
    /// Valid keys of each batch, where the operands are a cache that is not full.
    lengths: Option<Vec<i64>>,
    /// Keys in front of the first query, per batch or for all.
    offsets: Vec<i64>,
    causal: bool,
    /// How far queries look back and ahead; -1 is without bound.
    window: (i64, i64),
    round: fn(f64) -> f64,
}

impl<'a> Bias<'a> {
    fn new(ctx: &EvalCtx<'a>, q: &Heads, n_keys: usize) -> Self {
        let lengths = optional(ctx, LENGTHS).map(Tensor::to_i64s);
        let past = optional(ctx, PAST_KEY).map_or(0, |t| t.shape()[2] as i64);
        let offsets = match &lengths {
            Some(lengths) => lengths.iter().map(|n| n.saturating_sub(q.shape[2] as i64)).collect(),
            None => vec![past; q.shape[0]],
        };
        let window = |name| ctx.attrs.int_or(name, -1);
        Self {
            mask: optional(ctx, MASK).map(|m| (additive(m), m.shape())),
            n_keys,
            lengths,
            offsets,
            causal: ctx.attrs.flag("is_causal"),
            window: (window("left_window_size"), window("right_window_size")),
            round: rounding(ctx.inputs[0].map_or(DType::F32, Tensor::dtype)),
        }
    }

    fn at(&self, at: [usize; 4]) -> f64 {
        let [batch, _, query, key] = at;
        let place = self.offsets[batch].saturating_add(query as i64);
        let ahead = (key as i64).saturating_sub(place);
        let (left, right) = self.window;
        let hidden = (self.causal && ahead > 0)
            || (left >= 0 && ahead < -left)
            || (right >= 0 && ahead > right)
            || self.lengths.as_ref().is_some_and(|n| key as i64 >= n[batch]);
        (self.round)(self.masked(&at) + if hidden { f64::NEG_INFINITY } else { 0.0 })
    }

    /// The mask's number; keys beyond its end are hidden.
    fn masked(&self, at: &[usize; 4]) -> f64 {
        let Some((mask, shape)) = &self.mask else { return 0.0 };
        match shape.last() {
            Some(&len) if len != 1 && len < self.n_keys && at[3] >= len => f64::NEG_INFINITY,
            _ => (self.round)(mask[broadcast_position(at, shape)]),
        }
    }
}

/// The mask as something to add: false is minus infinity.
fn additive(mask: &Tensor) -> Vec<f64> {
    if mask.dtype() == DType::Bool {
        mask.to_bools().into_iter().map(|b| if b { 0.0 } else { f64::NEG_INFINITY }).collect()
    } else {
        mask.to_f64s()
    }
}

/// Keys or values with the past ones in front.
fn cached(ctx: &EvalCtx, operand: usize, past: usize) -> Result<Heads, Diag> {
    let heads = usize::try_from(ctx.attrs.int_or("kv_num_heads", 1)).unwrap_or(1);
    let mut new = Heads::new(tensor(ctx, operand)?, heads)?;
    if operand == 1 && ctx.attrs.flag("k_transposed") {
        new = new.transposed();
    }
    match optional(ctx, past) {
        Some(past) => Ok(Heads::new(past, 0)?.joined(&new)),
        None => Ok(new),
    }
}

/// Queries and keys with a factor on both, as ONNX wants it so that products of halves do not overflow.
///
/// A negative factor has no root; it goes on the queries alone.
pub(crate) fn scaled(attrs: &Attrs, q: Heads, k: Heads, dtype: DType) -> (Heads, Heads) {
    let scale = match attrs.get("scale") {
        Some(Attr::Float(scale)) => f64::from(*scale),
        _ => 1.0 / (q.shape[3] as f64).sqrt(),
    };
    let round = rounding(dtype);
    let (for_q, for_k) = if scale < 0.0 { (scale, 1.0) } else { (scale.sqrt(), scale.sqrt()) };
    let (for_q, for_k) = (round(for_q), round(for_k));
    (q.map(|v| round(v * for_q)), k.map(|v| round(v * for_k)))
}

fn eval_attention(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let types = results(ctx, infer_attention)?;
    let q = tensor(ctx, 0)?;
    let dtype = q.dtype();
    let heads = usize::try_from(ctx.attrs.int_or("q_num_heads", 1)).unwrap_or(1);
    let q = Heads::new(q, heads)?;
    let (keys, v) = (cached(ctx, 1, PAST_KEY)?, cached(ctx, 2, PAST_VALUE)?);
    let present = (types.len() > 1).then(|| (keys.values.clone(), v.values.clone()));
    let bias = Bias::new(ctx, &q, keys.shape[2]);
    let (q, k) = scaled(ctx.attrs, q, keys, dtype);
    let stage = match ctx.attrs.int_or("qk_matmul_output_mode", 0) {
        1 => Stage::Capped,
        2 => Stage::Biased,
        3 => Stage::Weights,
        _ => Stage::Raw,
    };
    let sdpa = Sdpa {
        q,
        k,
        v,
        scale: 1.0,
        softcap: f64::from(ctx.attrs.float_or("softcap", 0.0)),
        scores: dtype,
        softmax: softmax_dtype(ctx.attrs, dtype)?,
        weights: dtype,
        bias: &|at| bias.at(at),
        sink: None,
    };
    let (y, scores) = sdpa.run((types.len() > 3).then_some(stage));
    let y = if types[0].1.len() == 3 { y.merged() } else { y.values };
    let (present_key, present_value) = present.unwrap_or_default();
    let all = [y, present_key, present_value, scores];
    types.iter().zip(all).map(|((dtype, shape), values)| from_f64s(*dtype, shape, &values)).collect()
}

/// Two products, and a softmax between them.
fn work_attention(ctx: &WorkCtx) -> Work {
    const FLOPS_PER_SCORE: f64 = 12.0;
    let shape = |n: usize| ctx.inputs.get(n).and_then(Option::as_ref).map(|(_, s)| s.as_slice());
    let (Some(q), Some(v)) = (shape(0), shape(2)) else { return work(ctx, 0.0, WorkKind::Dense) };
    let past = shape(PAST_KEY).map_or(0, |s| s[2]);
    let n_keys = (v[v.len() - 2] + past) as f64;
    let n = |name| usize::try_from(ctx.attrs.int_or(name, 1)).unwrap_or(1).max(1);
    let (heads, q_size, v_size) = if q.len() == 3 {
        (n("q_num_heads"), q[2] / n("q_num_heads"), v[2] / n("kv_num_heads"))
    } else {
        (q[1], q[3], v[3])
    };
    let scores = (q[0] * heads * q[q.len() - 2]) as f64 * n_keys;
    work(ctx, scores * (2.0 * (q_size + v_size) as f64 + FLOPS_PER_SCORE), WorkKind::Dense)
}
