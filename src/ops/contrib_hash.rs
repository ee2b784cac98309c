//! `n_gram_hash_mapping`: hashes of the last tokens at every position.

use crate::common::{PLAIN, attr, attr_error, between, from_i64s, input, required, tensor, type_error, work};
use crate::contrib_common::{ms, want_dtype};
use crate::eval::{may_equal, optional, optional_type, results, same_dim};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::work::WorkKind;
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&N_GRAM_HASH];

/// Longest n-gram; bounds what is allocated for the history.
const MAX_N_GRAM: i64 = 1 << 10;
/// Most hashes of one order of n-grams.
const MAX_HEADS: i64 = 1 << 16;

static N_GRAM_HASH: OpDef = OpDef {
    name: "n_gram_hash_mapping",
    doc: "hashes of the last 2, 3, ... tokens at every position of [batch, length], several for each order.",
    onnx: &[ms("NGramHashMapping")],
    inputs: between(3, 7),
    outputs: between(1, 2),
    attrs: &[
        required("max_ngram_size", AttrKind::Int),
        required("n_head_per_ngram", AttrKind::Int),
        required("pad_id", AttrKind::Int),
        attr("reset_on_eos", AttrKind::Int),
    ],
    traits: PLAIN,
    infer,
    content: None,
    eval,
    scalar: None,
    data: None,
    work: |ctx| work(ctx, 4.0 * crate::common::n_out(ctx), WorkKind::Vector),
    sample,
};

/// Tokens before the current one that count, and hashes of one order.
fn sizes(attrs: &Attrs) -> Result<(usize, usize), Diag> {
    let (n, heads) = (attrs.int_or("max_ngram_size", 0), attrs.int_or("n_head_per_ngram", 0));
    if !(2..=MAX_N_GRAM).contains(&n) || !(1..=MAX_HEADS).contains(&heads) {
        return Err(attr_error(format!("{heads} hashes of n-grams up to {n} are not possible"))
            .hint(format!("n-grams have 2 to {MAX_N_GRAM} tokens and 1 to {MAX_HEADS} hashes")));
    }
    Ok((n as usize - 1, heads as usize))
}

/// Operands: tokens, multipliers, sizes of the tables, past tokens, offsets, the token that ends a text, segments.
fn infer(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (history, heads) = sizes(ctx.attrs)?;
    let tokens = input(ctx, 0)?;
    if !matches!(tokens.dtype, DType::I32 | DType::I64) {
        return Err(type_error(format!("the tokens must be i32 or i64, they are {tokens}")));
    }
    let [batch, length] = tokens.shape.as_slice() else {
        return Err(type_error(format!("the tokens must be [batch, length], they are {tokens}")));
    };
    for n in (1..6).filter(|n| optional_type(ctx, *n).is_some()) {
        want_dtype(ctx, n, tokens.dtype)?;
    }
    let count = |n: usize, least: i64, exact: bool| -> Result<(), Diag> {
        let known = optional_type(ctx, n).and_then(|t| t.n_elements().as_known());
        match known {
            Some(k) if k < least || exact && k != least => {
                Err(type_error(format!("operand {n} must have {least} elements, it has {k}")))
            }
            _ => Ok(()),
        }
    };
    let all = (history * heads) as i64;
    count(1, history as i64 + 1, false)?;
    count(2, all, true)?;
    count(4, all, true)?;
    count(5, 1, true)?;
    let state = vec![batch.clone(), Dim::known(history as i64)];
    if let Some(past) = optional_type(ctx, 3)
        && (past.rank() != 2 || past.shape.iter().zip(&state).any(|(a, b)| !may_equal(a, b)))
    {
        return Err(type_error(format!("the past tokens must be [{batch}, {history}], they are {past}")));
    }
    if let Some(segments) = optional_type(ctx, 6) {
        want_dtype(ctx, 6, DType::I32)?;
        let [batch_again, length_again] = segments.shape.as_slice() else {
            return Err(type_error(format!("the segments must be [batch, length], they are {segments}")));
        };
        same_dim(batch_again, batch, "the batches of tokens and segments")?;
        same_dim(length_again, length, "the lengths of tokens and segments")?;
    }
    let shape = vec![batch.clone(), length.clone(), Dim::known(all)];
    let mut types = vec![Type::new(tokens.dtype, shape), Type::new(tokens.dtype, state)];
    types.truncate(ctx.n_outputs.max(1));
    Ok(types)
}

/// The value in the width of the element type.
fn wrapped(v: i64, dtype: DType) -> i64 {
    if dtype == DType::I32 { i64::from(v as i32) } else { v }
}

/// First position of `line` (history, then tokens) whose token counts at each of its positions.
fn boundaries(line: &[i64], history: usize, eos: Option<i64>, segments: Option<&[i64]>) -> Vec<usize> {
    let mut first = 0;
    let mut out = Vec::with_capacity(line.len());
    for at in 0..line.len() {
        if at > 0 && eos == Some(line[at - 1]) {
            first = at;
        }
        if let Some(segments) = segments
            && at > history
            && segments[at - history] != segments[at - history - 1]
        {
            first = at;
        }
        out.push(first);
    }
    out
}

fn eval(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let types = results(ctx, infer)?;
    let (history, heads) = sizes(ctx.attrs)?;
    let tokens = tensor(ctx, 0)?;
    let (dtype, length) = (tokens.dtype(), tokens.shape()[1]);
    let list = |n: usize| optional(ctx, n).map(Tensor::to_i64s);
    let (ids, multipliers, tables) = (tokens.to_i64s(), tensor(ctx, 1)?.to_i64s(), tensor(ctx, 2)?.to_i64s());
    if let Some(bad) = tables.iter().find(|t| **t < 1) {
        return Err(type_error(format!("a table of {bad} entries cannot hold hashes")));
    }
    let (past, offsets, segments) = (list(3), list(4), list(6));
    let eos = list(5).and_then(|v| v.first().copied());
    let fill = eos.unwrap_or_else(|| wrapped(ctx.attrs.int_or("pad_id", 0), dtype));
    let reset = eos.filter(|_| ctx.attrs.flag("reset_on_eos"));
    let (mut hashes, mut present) = (Vec::new(), Vec::new());
    for row in 0..tokens.shape()[0] {
        let mut line = match &past {
            Some(past) => past[row * history..(row + 1) * history].to_vec(),
            None => vec![fill; history],
        };
        line.extend(&ids[row * length..(row + 1) * length]);
        let segments = segments.as_ref().map(|s| &s[row * length..(row + 1) * length]);
        let first = boundaries(&line, history, reset, segments);
        for at in history..line.len() {
            let token = |back: usize| if at - back < first[at] { fill } else { line[at - back] };
            let mut mix = token(0).wrapping_mul(multipliers[0]);
            for (order, multiplier) in multipliers.iter().enumerate().take(history + 1).skip(1) {
                mix ^= token(order).wrapping_mul(*multiplier);
                for head in (order - 1) * heads..order * heads {
                    let hash = wrapped(mix, dtype).rem_euclid(tables[head]);
                    let offset = offsets.as_ref().map_or(0, |o| o[head]);
                    hashes.push(wrapped(hash.wrapping_add(offset), dtype));
                }
            }
        }
        present.extend(&line[line.len() - history..]);
    }
    types.iter().zip([hashes, present]).map(|((dtype, shape), v)| from_i64s(*dtype, shape, &v)).collect()
}

fn sample(rng: &mut Rng) -> Sample {
    let (batch, length, history, heads) =
        (1 + rng.below(2), 1 + rng.below(5), 1 + rng.below(3), 1 + rng.below(2));
    let dtype = *rng.pick(&[DType::I32, DType::I64]);
    let all = history * heads;
    let mut inputs = vec![
        Some(rng.tensor(dtype, &[batch, length], 0.0, 5.0)),
        Some(rng.tensor(dtype, &[history + 1], 1.0, 1e5)),
        Some(rng.tensor(dtype, &[all], 5.0, 50.0)),
    ];
    inputs.push((rng.below(2) == 0).then(|| rng.tensor(dtype, &[batch, history], 0.0, 5.0)));
    inputs.push((rng.below(2) == 0).then(|| rng.tensor(dtype, &[all], 0.0, 99.0)));
    inputs.push((rng.below(2) == 0).then(|| rng.tensor(dtype, &[], 0.0, 5.0)));
    inputs.push((rng.below(2) == 0).then(|| rng.tensor(DType::I32, &[batch, length], 0.0, 1.0)));
    let attrs = Attrs::new()
        .with("max_ngram_size", history as i64 + 1)
        .with("n_head_per_ngram", heads as i64)
        .with("pad_id", 0i64)
        .with("reset_on_eos", rng.int(0, 1));
    Sample { attrs, inputs, n_outputs: 1 + rng.below(2) }
}
