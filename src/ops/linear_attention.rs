//! Linear attention: a state per head that every token updates and reads.

use crate::common::{
    PLAIN, attr, attr_error, between, from_f64s, input, onnx, required, tensor, type_error, work,
};
use crate::contrib_common::ms;

use crate::eval::{optional, optional_type, results, rounding, same_dim, same_dtypes, want_float};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&LINEAR_ATTENTION, &WINDOWED_LINEAR_ATTENTION];

/// Operands by their place.
const PAST: usize = 3;
const DECAY: usize = 4;
const BETA: usize = 5;

/// Most states that are kept.
const MAX_WINDOW: i64 = 8;

/// S = S + k v'; o = scale * q' S.
static LINEAR_ATTENTION: OpDef = OpDef {
    name: "linear_attention",
    doc: "o = scale * q' S for a state S [D, E] per head, which every token changes by k v', with decay and delta rule",
    onnx: &[onnx("LinearAttention", 27)],
    inputs: between(3, 6),
    outputs: between(1, 2),
    attrs: &[
        attr("chunk_size", AttrKind::Int),
        required("kv_num_heads", AttrKind::Int),
        required("q_num_heads", AttrKind::Int),
        attr("scale", AttrKind::Float),
        attr("update_rule", AttrKind::Str),
    ],
    traits: PLAIN,
    infer: infer_linear,
    content: None,
    eval: eval_linear,
    scalar: None,
    data: None,
    work: work_linear,
    sample: sample_linear,
};

/// The same with the states after the last tokens.
static WINDOWED_LINEAR_ATTENTION: OpDef = OpDef {
    name: "windowed_linear_attention",
    doc: "linear_attention that may keep the states after the last `state_window` tokens; heads are shared either way",
    onnx: &[ms("LinearAttention")],
    attrs: &[
        attr("chunk_size", AttrKind::Int),
        required("kv_num_heads", AttrKind::Int),
        required("q_num_heads", AttrKind::Int),
        attr("scale", AttrKind::Float),
        attr("state_window", AttrKind::Int),
        attr("update_rule", AttrKind::Str),
    ],
    sample: |rng| {
        let mut sample = sample_linear(rng);
        sample.attrs.set("state_window", rng.int(0, 3));
        sample.inputs[PAST] = None;
        sample
    },
    ..LINEAR_ATTENTION
};

/// Whether the rule decays the state, and whether it corrects it.
fn rule(attrs: &Attrs) -> Result<(bool, bool), Diag> {
    match attrs.str("update_rule").unwrap_or("gated_delta") {
        "linear" => Ok((false, false)),
        "gated" => Ok((true, false)),
        "delta" => Ok((false, true)),
        "gated_delta" => Ok((true, true)),
        other => Err(attr_error(format!("update_rule is \"{other}\""))
            .hint("use \"linear\", \"gated\", \"delta\" or \"gated_delta\"")),
    }
}

/// Heads of the queries and of the keys; either may be shared by groups of the other.
fn heads(attrs: &Attrs) -> Result<(i64, i64), Diag> {
    let (q, kv) = (attrs.int_or("q_num_heads", 0), attrs.int_or("kv_num_heads", 0));
    if q < 1 || kv < 1 || (q % kv != 0 && kv % q != 0) {
        return Err(attr_error(format!("{q} query heads and {kv} key heads cannot be shared")));
    }
    Ok((q, kv))
}

/// How many states are kept; 0 keeps the last one, without an axis for it.
fn window(attrs: &Attrs) -> Result<i64, Diag> {
    let window = attrs.int_or("state_window", 0);
    if (0..=MAX_WINDOW).contains(&window) {
        return Ok(window);
    }
    Err(attr_error(format!("state_window is {window}, it must be between 0 and {MAX_WINDOW}")))
}

/// The size of each of `heads` packed heads.
fn head_size(packed: &Dim, heads: i64) -> Result<Dim, Diag> {
    if packed.as_known().is_some_and(|d| d % heads != 0) {
        return Err(type_error(format!("{packed} elements are not {heads} heads")));
    }
    Ok(packed.floor_div(&Dim::known(heads)))
}

fn three<'a>(ctx: &InferCtx<'a>, n: usize) -> Result<&'a [Dim; 3], Diag> {
    let ty = input(ctx, n)?;
    ty.shape
        .as_slice()
        .try_into()
        .map_err(|_| type_error(format!("operand {n} must have rank 3, it is {ty}")))
}

fn infer_linear(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let dtype = same_dtypes(ctx, 0..3)?;
    want_float(dtype)?;
    let (q_heads, kv_heads) = heads(ctx.attrs)?;
    let ([batch, length, q], [kb, kl, k], [vb, vl, v]) = (three(ctx, 0)?, three(ctx, 1)?, three(ctx, 2)?);
    for (a, b) in [(batch, kb), (batch, vb)] {
        same_dim(a, b, "batches of queries, keys and values")?;
    }
    for (a, b) in [(length, kl), (length, vl)] {
        same_dim(a, b, "lengths of queries, keys and values")?;
    }
    let (size, v_size) = (head_size(q, q_heads)?, head_size(v, kv_heads)?);
    same_dim(&size, &head_size(k, kv_heads)?, "sizes of queries and keys")?;
    check_gates(ctx, [batch, length, &size], kv_heads)?;
    let mut state = vec![batch.clone(), Dim::known(kv_heads), size, v_size.clone()];
    if window(ctx.attrs)? > 0 {
        state.insert(0, Dim::known(window(ctx.attrs)?));
    }
    let state_dtype = check_past(ctx, &state)?.unwrap_or(dtype);
    let y = vec![batch.clone(), length.clone(), v_size * Dim::known(q_heads.max(kv_heads))];
    let types = [Type::new(dtype, y), Type::new(state_dtype, state)];
    Ok(types.into_iter().take(ctx.n_outputs.max(1)).collect())
}

/// Element type of the past state, checked against the shape of the state.
fn check_past(ctx: &InferCtx, state: &[Dim]) -> Result<Option<DType>, Diag> {
    let Some(past) = optional_type(ctx, PAST) else { return Ok(None) };
    want_float(past.dtype)?;
    if past.rank() != state.len() {
        return Err(type_error(format!("the past state must have rank {}, it is {past}", state.len())));
    }
    past.shape.iter().zip(state).try_for_each(|(a, b)| same_dim(a, b, "sizes of past and new state"))?;
    Ok(Some(past.dtype))
}

/// Checks that decay and beta are given where the rule has them.
fn check_gates(ctx: &InferCtx, [batch, length, size]: [&Dim; 3], heads: i64) -> Result<(), Diag> {
    let (gated, delta) = rule(ctx.attrs)?;
    let whole = size.clone() * Dim::known(heads);
    let per_head = Dim::known(heads);
    let one = Dim::known(1);
    for (operand, wanted, name, sizes) in
        [(DECAY, gated, "decay", [&per_head, &whole]), (BETA, delta, "beta", [&per_head, &one])]
    {
        if wanted != optional_type(ctx, operand).is_some() {
            let verb = if wanted { "needs" } else { "does not take" };
            return Err(type_error(format!("this update rule {verb} an operand {name}")));
        }
        if !wanted {
            continue;
        }
        let [b, l, last] = three(ctx, operand)?;
        want_float(input(ctx, operand)?.dtype)?;
        same_dim(b, batch, "batches of gates and queries")?;
        same_dim(l, length, "lengths of gates and queries")?;
        if sizes.iter().all(|size| same_dim(last, size, "").is_err()) {
            let text = format!("the last dimension of {name} is {last}, not {} or {}", sizes[0], sizes[1]);
            return Err(type_error(text));
        }
    }
    Ok(())
}

/// Packed vectors `[batch, length, heads * size]`.
struct Packed {
    values: Vec<f64>,
    length: usize,
    heads: usize,
    size: usize,
}

impl Packed {
    fn new(t: &Tensor, heads: usize) -> Self {
        let shape = t.shape();
        Self { values: t.to_f64s(), length: shape[1], heads, size: shape[2] / heads.max(1) }
    }

    fn at(&self, batch: usize, token: usize, head: usize) -> &[f64] {
        let start = ((batch * self.length + token) * self.heads + head) * self.size;
        &self.values[start..start + self.size]
    }
}

struct Recurrence {
    q: Packed,
    k: Packed,
    v: Packed,
    decay: Option<Packed>,
    beta: Option<Packed>,
    scale: f64,
}

impl Recurrence {
    fn new(ctx: &EvalCtx) -> Result<Self, Diag> {
        let (q_heads, kv_heads) = heads(ctx.attrs)?;
        let n = |heads: i64| usize::try_from(heads).unwrap_or(1);
        let q = Packed::new(tensor(ctx, 0)?, n(q_heads));
        let scale = match ctx.attrs.float_or("scale", 0.0) {
            0.0 => 1.0 / (q.size as f64).sqrt(),
            scale => f64::from(scale),
        };
        Ok(Self {
            q,
            k: Packed::new(tensor(ctx, 1)?, n(kv_heads)),
            v: Packed::new(tensor(ctx, 2)?, n(kv_heads)),
            decay: optional(ctx, DECAY).map(|t| Packed::new(t, n(kv_heads))),
            beta: optional(ctx, BETA)
                .map(|t| Packed::new(t, if t.shape()[2] == 1 { 1 } else { n(kv_heads) })),
            scale,
        })
    }

    /// The state `[size, v_size]` of a head after one more token.
    fn update(&self, state: &mut [f64], batch: usize, token: usize, head: usize) {
        let (k, v) = (self.k.at(batch, token, head), self.v.at(batch, token, head));
        let width = self.v.size;
        if let Some(decay) = &self.decay {
            let decay = decay.at(batch, token, head);
            for (d, row) in state.chunks_mut(width.max(1)).enumerate() {
                let factor = libm::exp(decay[if decay.len() == 1 { 0 } else { d }]);
                row.iter_mut().for_each(|s| *s *= factor);
            }
        }
        let mut written = v.to_vec();
        if let Some(beta) = &self.beta {
            let beta = beta.at(batch, token, if beta.heads == 1 { 0 } else { head })[0];
            for (e, w) in written.iter_mut().enumerate() {
                let known: f64 = k.iter().enumerate().map(|(d, k)| k * state[d * width + e]).sum();
                *w = beta * (*w - known);
            }
        }
        for (d, k) in k.iter().enumerate() {
            for (e, w) in written.iter().enumerate() {
                state[d * width + e] += k * w;
            }
        }
    }

    /// What query head `q_head` reads from a state.
    fn read(&self, state: &[f64], batch: usize, token: usize, q_head: usize) -> Vec<f64> {
        let q = self.q.at(batch, token, q_head);
        let sum = |e| q.iter().enumerate().map(|(d, q)| q * state[d * self.v.size + e]).sum::<f64>();
        (0..self.v.size).map(|e| self.scale * sum(e)).collect()
    }
}

fn eval_linear(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let types = results(ctx, infer_linear)?;
    let net = Recurrence::new(ctx)?;
    let (q_heads, kv_heads) = (net.q.heads, net.k.heads);
    let (length, batches) = (net.q.length, types[0].1[0]);
    let (y_heads, cells) = (q_heads.max(kv_heads), net.q.size * net.v.size);
    let slots = usize::try_from(window(ctx.attrs)?).unwrap_or(0).max(1);
    let states_len = batches * kv_heads * cells;
    // Only the last slot of what was kept goes on.
    let past = optional(ctx, PAST).map(|t| t.to_f64s().split_off((slots - 1) * states_len));
    let mut state = past.unwrap_or_else(|| vec![0.0; states_len]);
    let mut kept = vec![0.0; slots * states_len];
    let mut y = vec![0.0; batches * length * y_heads * net.v.size];
    for token in 0..length {
        for (at, state) in state.chunks_mut(cells.max(1)).enumerate() {
            net.update(state, at / kv_heads, token, at % kv_heads);
        }
        for (at, out) in y.chunks_mut(net.v.size.max(1)).enumerate() {
            let (head, place) = (at % y_heads, at / y_heads);
            let (batch, kv_head) = (place / length, head * kv_heads / y_heads);
            if place % length == token {
                let state = &state[(batch * kv_heads + kv_head) * cells..][..cells];
                out.copy_from_slice(&net.read(state, batch, token, head * q_heads / y_heads));
            }
        }
        if let Some(slot) = (slots + token).checked_sub(length) {
            kept[slot * states_len..][..states_len].copy_from_slice(&state);
        }
    }
    if length == 0 {
        kept[(slots - 1) * states_len..].copy_from_slice(&state);
    }
    let round = rounding(DType::F32);
    types
        .iter()
        .zip([y, kept])
        .map(|((dtype, shape), values)| {
            from_f64s(*dtype, shape, &values.into_iter().map(round).collect::<Vec<_>>())
        })
        .collect()
}

/// Each token decays, corrects, writes and reads every state.
fn work_linear(ctx: &WorkCtx) -> Work {
    const FLOPS_PER_CELL: f64 = 8.0;
    let shape = |n: usize| ctx.inputs.get(n).and_then(Option::as_ref).map(|(_, s)| s.as_slice());
    let (Some(q), Some(v)) = (shape(0), shape(2)) else { return work(ctx, 0.0, WorkKind::Vector) };
    let heads = ctx.attrs.int_or("q_num_heads", 1).max(1) as f64;
    let cells = (q[0] * q[1] * q[2]) as f64 * v[2] as f64 / heads;
    work(ctx, FLOPS_PER_CELL * cells, WorkKind::Vector)
}

fn sample_linear(rng: &mut Rng) -> Sample {
    let [b, t, heads, d, e] = [(); 5].map(|()| 1 + rng.below(3));
    let q_heads = heads * (1 + rng.below(2));
    let name = *rng.pick(&["linear", "gated", "delta", "gated_delta"]);
    let mut attrs = Attrs::new()
        .with("q_num_heads", q_heads as i64)
        .with("kv_num_heads", heads as i64)
        .with("update_rule", name);
    if rng.below(3) == 0 {
        attrs.set("scale", 0.5f32);
    }
    let dtype = *rng.pick(&[DType::F32, DType::F32, DType::F16]);
    let (gated, delta) = (name.starts_with("gated"), name.ends_with("delta"));
    let decay = if rng.below(2) == 0 { heads } else { heads * d };
    let beta = if rng.below(2) == 0 { heads } else { 1 };
    let past = rng.below(2) == 0;
    let mut draw = |wanted: bool, dtype: DType, shape: &[usize], low: f64, high: f64| {
        wanted.then(|| rng.tensor(dtype, shape, low, high))
    };
    let inputs = vec![
        draw(true, dtype, &[b, t, q_heads * d], -1.0, 1.0),
        draw(true, dtype, &[b, t, heads * d], -1.0, 1.0),
        draw(true, dtype, &[b, t, heads * e], -1.0, 1.0),
        draw(past, DType::F32, &[b, heads, d, e], -1.0, 1.0),
        draw(gated, dtype, &[b, t, decay], -1.0, 0.0),
        draw(delta, dtype, &[b, t, beta], 0.0, 1.0),
    ];
    Sample { attrs, inputs, n_outputs: 2 }
}
