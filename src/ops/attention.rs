//! Scaled dot-product attention.

use crate::common::{
    PLAIN, attr, between, broadcast_position, exactly, from_f64s, input, onnx, tensor, type_error,
    unsupported, work,
};
use crate::eval::{optional, optional_type, result, same_dim, same_dtypes, want_float};
use crate::softmax::softmax;
use partita_ir::attr::{Attr, Attrs};
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&ATTENTION];

/// softmax(q k' * scale + mask) v.
static ATTENTION: OpDef = OpDef {
    name: "attention",
    doc: "softmax(q * k' * scale + mask) * v for q [B, H, M, D], k [B, G, N, D] (or [B, G, D, N]), v [B, G, N, E]",
    onnx: &[onnx("Attention", 23)],
    inputs: between(3, 4),
    outputs: exactly(1),
    attrs: &[
        attr("is_causal", AttrKind::Int),
        attr("k_transposed", AttrKind::Int),
        attr("kv_num_heads", AttrKind::Int),
        attr("q_num_heads", AttrKind::Int),
        attr("qk_matmul_output_mode", AttrKind::Int),
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
    sample: sample_attention,
};

/// `[B, H, N, D]` of the keys, whichever way they are stored.
fn key_shape<D: Clone>(attrs: &Attrs, shape: &[D]) -> Vec<D> {
    let mut out = shape.to_vec();
    if attrs.flag("k_transposed") {
        out.swap(2, 3);
    }
    out
}

fn infer_attention(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    want_float(same_dtypes(ctx, 0..3)?)?;
    let (q, k, v) = (input(ctx, 0)?, input(ctx, 1)?, input(ctx, 2)?);
    if q.rank() == 3 && ctx.attrs.int_or("q_num_heads", 0) > 0 {
        return Err(unsupported("attention over operands of rank 3 is not supported")
            .hint("split the heads: reshape to [batch, seq, heads, size] and transpose"));
    }
    if q.rank() != 4 || k.rank() != 4 || v.rank() != 4 {
        return Err(type_error(format!("attention wants operands of rank 4, they are {q}, {k} and {v}")));
    }
    let keys = key_shape(ctx.attrs, &k.shape);
    same_dim(&q.shape[0], &keys[0], "batches of queries and keys")?;
    same_dim(&q.shape[0], &v.shape[0], "batches of queries and values")?;
    same_dim(&q.shape[3], &keys[3], "sizes of queries and keys")?;
    same_dim(&keys[1], &v.shape[1], "heads of keys and values")?;
    same_dim(&keys[2], &v.shape[2], "lengths of keys and values")?;
    check_heads(&q.shape[1], &keys[1])?;
    check_mask(ctx, q, &keys[2])?;
    let shape = vec![q.shape[0].clone(), q.shape[1].clone(), q.shape[2].clone(), v.shape[3].clone()];
    Ok(vec![Type::new(q.dtype, shape)])
}

/// Heads of the keys are shared by groups of heads of the queries.
fn check_heads(queries: &Dim, keys: &Dim) -> Result<(), Diag> {
    match (queries.as_known(), keys.as_known()) {
        (Some(q), Some(k)) if k < 1 || q % k != 0 => {
            Err(type_error(format!("{q} query heads cannot share {k} key heads")))
        }
        _ => Ok(()),
    }
}

fn check_mask(ctx: &InferCtx, q: &Type, n_keys: &Dim) -> Result<(), Diag> {
    let Some(mask) = optional_type(ctx, 3) else { return Ok(()) };
    if mask.dtype != DType::Bool && !mask.dtype.is_float() {
        return Err(type_error("the mask must be boolean or a float that is added"));
    }
    if mask.rank() > 4 {
        return Err(type_error(format!("the mask {mask} has more than 4 dimensions")));
    }
    let scores = [&q.shape[0], &q.shape[1], &q.shape[2], n_keys];
    for (dim, score) in mask.shape.iter().rev().zip(scores.into_iter().rev()) {
        if !dim.is(1) {
            same_dim(dim, score, "a dimension of the mask and of the scores")?;
        }
    }
    Ok(())
}

/// The mask as something to add: false is minus infinity.
fn additive(mask: &Tensor) -> Vec<f64> {
    if mask.dtype() == DType::Bool {
        mask.to_bools().into_iter().map(|b| if b { 0.0 } else { f64::NEG_INFINITY }).collect()
    } else {
        mask.to_f64s()
    }
}

/// Operands with their sizes.
struct Attention<'a> {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    mask: Option<(Vec<f64>, &'a [usize])>,
    q_shape: &'a [usize],
    k_shape: Vec<usize>,
    v_shape: &'a [usize],
    k_transposed: bool,
    scale: f64,
    softcap: f64,
    causal: bool,
}

impl<'a> Attention<'a> {
    fn new(ctx: &EvalCtx<'a>) -> Result<Self, Diag> {
        let (q, k, v) = (tensor(ctx, 0)?, tensor(ctx, 1)?, tensor(ctx, 2)?);
        let default = 1.0 / (q.shape()[3] as f64).sqrt();
        let scale = match ctx.attrs.get("scale") {
            Some(Attr::Float(scale)) => f64::from(*scale),
            _ => default,
        };
        Ok(Self {
            q: q.to_f64s(),
            k: k.to_f64s(),
            v: v.to_f64s(),
            mask: optional(ctx, 3).map(|m| (additive(m), m.shape())),
            q_shape: q.shape(),
            k_shape: key_shape(ctx.attrs, k.shape()),
            v_shape: v.shape(),
            k_transposed: ctx.attrs.flag("k_transposed"),
            scale,
            softcap: f64::from(ctx.attrs.float_or("softcap", 0.0)),
            causal: ctx.attrs.flag("is_causal"),
        })
    }

    /// Keys' and values' head for a query head, as `batch * heads + head`.
    fn shared(&self, batch: usize, head: usize) -> usize {
        batch * self.k_shape[1] + head / (self.q_shape[1] / self.k_shape[1]).max(1)
    }

    fn dot(&self, at: [usize; 3], key: usize) -> f64 {
        let [batch, head, query] = at;
        let size = self.q_shape[3];
        let q = ((batch * self.q_shape[1] + head) * self.q_shape[2] + query) * size;
        let k = self.shared(batch, head) * self.k_shape[2] * size;
        let place = |d: usize| if self.k_transposed { d * self.k_shape[2] + key } else { key * size + d };
        (0..size).map(|d| self.q[q + d] * self.k[k + place(d)]).sum()
    }

    fn score(&self, at: [usize; 3], key: usize) -> f64 {
        if self.causal && key > at[2] {
            return f64::NEG_INFINITY;
        }
        let mut score = self.dot(at, key) * self.scale;
        if self.softcap > 0.0 {
            score = libm::tanh(score / self.softcap) * self.softcap;
        }
        let [batch, head, query] = at;
        score
            + self
                .mask
                .as_ref()
                .map_or(0.0, |(mask, shape)| mask[broadcast_position(&[batch, head, query, key], shape)])
    }

    /// One row of the result.
    fn row(&self, at: [usize; 3], out: &mut Vec<f64>) {
        let scores: Vec<f64> = (0..self.k_shape[2]).map(|key| self.score(at, key)).collect();
        // A query that may look at nothing gives zeros.
        let blind = scores.iter().all(|&s| s == f64::NEG_INFINITY);
        let weights = if blind { vec![0.0; scores.len()] } else { softmax(&scores) };
        let (n, size) = (self.v_shape[2], self.v_shape[3]);
        let v = self.shared(at[0], at[1]) * n * size;
        for e in 0..size {
            out.push(weights.iter().enumerate().map(|(key, w)| w * self.v[v + key * size + e]).sum());
        }
    }
}

fn eval_attention(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_attention)?;
    let attention = Attention::new(ctx)?;
    let mut y = Vec::new();
    for batch in 0..shape[0] {
        for head in 0..shape[1] {
            for query in 0..shape[2] {
                attention.row([batch, head, query], &mut y);
            }
        }
    }
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// Two products, and a softmax between them.
fn work_attention(ctx: &WorkCtx) -> Work {
    const FLOPS_PER_SCORE: f64 = 12.0;
    let shape = |n: usize| ctx.inputs.get(n).and_then(Option::as_ref).map(|(_, s)| s.as_slice());
    let (Some(q), Some(v)) = (shape(0), shape(2)) else { return work(ctx, 0.0, WorkKind::Dense) };
    let scores = q[..3].iter().map(|&d| d as f64).product::<f64>() * v[2] as f64;
    work(ctx, scores * (2.0 * q[3] as f64 + 2.0 * v[3] as f64 + FLOPS_PER_SCORE), WorkKind::Dense)
}

fn sample_attention(rng: &mut Rng) -> Sample {
    let [b, g, m, n, d, e] = [(); 6].map(|()| 1 + rng.below(4));
    let h = g * (1 + rng.below(2));
    let k_transposed = rng.below(3) == 0;
    let k = if k_transposed { [b, g, d, n] } else { [b, g, n, d] };
    let mut attrs = Attrs::new();
    if k_transposed {
        attrs.set("k_transposed", 1i64);
    }
    if rng.below(2) == 0 {
        attrs.set("scale", *rng.pick(&[0.25f32, 1.0]));
    }
    match rng.below(6) {
        0 => attrs.set("is_causal", 1i64),
        1 => attrs.set("softcap", 2.0f32),
        _ => {}
    }
    let mut inputs: Vec<Option<Tensor>> =
        [[b, h, m, d], k, [b, g, n, e]].iter().map(|s| Some(rng.tensor(DType::F32, s, -2.0, 2.0))).collect();
    let masks = [vec![m, n], vec![b, 1, m, n], vec![b, h, m, n], vec![1, n]];
    let mask = rng.pick(&masks).clone();
    match rng.below(3) {
        0 => inputs.push(Some(rng.tensor(DType::F32, &mask, -2.0, 0.0))),
        1 => inputs.push(Some(rng.tensor(DType::Bool, &mask, 0.0, 1.0))),
        _ => {}
    }
    Sample { attrs, inputs, n_outputs: 1 }
}
