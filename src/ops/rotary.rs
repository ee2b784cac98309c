//! Rotary position embedding.

use crate::common::{
    PLAIN, attr, attr_error, between, exactly, from_f64s, index_error, input, n_out, onnx, tensor,
    type_error, work,
};
use crate::contrib_common::ms;
use crate::eval::{optional, optional_type, result, rounding, same_dim, same_dtypes, want_float};
use crate::multi_head_attention::{head_size, n_heads};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&INDEXED_ROTARY_EMBEDDING, &ROTARY_EMBEDDING];

/// Rotation of pairs by position.
static ROTARY_EMBEDDING: OpDef = OpDef {
    name: "rotary_embedding",
    doc: "rotates pairs of x [B, H, S, D] (or [B, S, H*D]) by angles whose cosines and sines are given per position",
    onnx: &[onnx("RotaryEmbedding", 23)],
    inputs: between(3, 4),
    outputs: exactly(1),
    attrs: &[
        attr("interleaved", AttrKind::Int),
        attr("num_heads", AttrKind::Int),
        attr("rotary_embedding_dim", AttrKind::Int),
    ],
    traits: PLAIN,
    infer: infer_rotary,
    content: None,
    eval: eval_rotary,
    scalar: None,
    data: None,
    work: work_rotary,
    sample: sample_rotary,
};

/// Batch, heads, length and head size of the data.
fn sizes(attrs: &Attrs, x: &Type) -> Result<[Dim; 4], Diag> {
    match x.shape.as_slice() {
        [b, h, s, d] => Ok([b, h, s, d].map(Clone::clone)),
        [b, s, hidden] => {
            let heads = attrs.int_or("num_heads", 0);
            if heads < 1 || hidden.as_known().is_some_and(|d| d % heads != 0) {
                return Err(attr_error(format!("num_heads is {heads}, the data is {x}"))
                    .hint("num_heads must divide the last dimension"));
            }
            Ok([b.clone(), Dim::known(heads), s.clone(), hidden.floor_div(&Dim::known(heads))])
        }
        _ => Err(type_error(format!("rotary_embedding wants data of rank 3 or 4, it is {x}"))),
    }
}

/// Number of rotated elements of each head.
fn rotated(attrs: &Attrs, head: &Dim) -> Result<Dim, Diag> {
    let n = match attrs.int_or("rotary_embedding_dim", 0) {
        0 => head.clone(),
        n => Dim::known(n),
    };
    let too_many = n.as_known().zip(head.as_known()).is_some_and(|(n, head)| n > head);
    if too_many || n.as_known().is_some_and(|n| n < 0 || n % 2 != 0) {
        return Err(attr_error(format!("{n} elements of a head of {head} cannot be rotated in pairs")));
    }
    Ok(n)
}

fn infer_rotary(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    want_float(same_dtypes(ctx, 0..3)?)?;
    let (x, cos, sin) = (input(ctx, 0)?, input(ctx, 1)?, input(ctx, 2)?);
    let [batch, _, length, head] = sizes(ctx.attrs, x)?;
    let half = rotated(ctx.attrs, &head)?.floor_div(&Dim::known(2));
    for cache in [cos, sin] {
        match (cache.shape.as_slice(), optional_type(ctx, 3)) {
            ([_, last], Some(_)) => same_dim(last, &half, "angles and pairs")?,
            ([b, s, last], None) => {
                same_dim(b, &batch, "batches of angles and data")?;
                same_dim(s, &length, "lengths of angles and data")?;
                same_dim(last, &half, "angles and pairs")?;
            }
            _ => {
                let text = format!("angles {cache} must have rank 2 with position ids, else rank 3");
                return Err(type_error(text));
            }
        }
    }
    if let (Some(a), Some(b)) = (cos.shape.first(), sin.shape.first()) {
        same_dim(a, b, "numbers of cosines and sines")?;
    }
    if let Some(ids) = optional_type(ctx, 3) {
        match ids.shape.as_slice() {
            [b, s] if !ids.dtype.is_float() => {
                same_dim(b, &batch, "batches of positions and data")?;
                same_dim(s, &length, "lengths of positions and data")?;
            }
            _ => return Err(type_error(format!("position ids must be integers [batch, length], not {ids}"))),
        }
    }
    Ok(vec![x.clone()])
}

/// The row of the angles each (batch, position) uses.
fn rows(ctx: &EvalCtx, n: usize) -> Result<Vec<usize>, Diag> {
    let Some(ids) = optional(ctx, 3) else { return Ok((0..n).collect()) };
    let n_rows = tensor(ctx, 1)?.shape()[0];
    let row = |id: i64| {
        let row = usize::try_from(id).ok().filter(|&r| r < n_rows);
        row.ok_or_else(|| type_error(format!("position {id} is out of range for {n_rows} angles")))
    };
    ids.to_i64s().into_iter().map(row).collect()
}

fn eval_rotary(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_rotary)?;
    let ty = Type::known(dtype, &shape);
    let known = |d: &Dim| d.as_known().and_then(|d| usize::try_from(d).ok()).unwrap_or(0);
    let dims = sizes(ctx.attrs, &ty)?;
    let half = known(&rotated(ctx.attrs, &dims[3])?) / 2;
    let [batches, heads, length, head] = [0, 1, 2, 3].map(|i| known(&dims[i]));
    let (cos, sin) = (tensor(ctx, 1)?.to_f64s(), tensor(ctx, 2)?.to_f64s());
    let rows = rows(ctx, batches * length)?;
    let interleaved = ctx.attrs.flag("interleaved");
    let mut y = tensor(ctx, 0)?.to_f64s();
    for at in 0..batches * heads * length {
        let (b, h, s) = (at / (heads * length), at / length % heads, at % length);
        let start = if shape.len() == 4 { at } else { (b * length + s) * heads + h } * head;
        let row = rows[b * length + s] * half;
        let (cos, sin) = (&cos[row..row + half], &sin[row..row + half]);
        rotate(&mut y[start..start + head], cos, sin, interleaved, rounding(dtype));
    }
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// Rotates the pairs of a head's vector by the angles with these cosines and sines; `round` is what the element
/// type does to each product and sum.
pub(crate) fn rotate(x: &mut [f64], cos: &[f64], sin: &[f64], interleaved: bool, round: fn(f64) -> f64) {
    let half = cos.len();
    for (pair, (c, s)) in cos.iter().zip(sin).enumerate() {
        let (first, second) = if interleaved { (2 * pair, 2 * pair + 1) } else { (pair, pair + half) };
        let (p, q) = (x[first], x[second]);
        x[first] = round(round(c * p) - round(s * q));
        x[second] = round(round(s * p) + round(c * q));
    }
}

/// The forms of ONNX Runtime: caches of angles for every position, and positions that may be one offset.
static INDEXED_ROTARY_EMBEDDING: OpDef = OpDef {
    name: "indexed_rotary_embedding",
    doc: "rotates pairs of x [B, H, S, D] (or [B, S, H*D]) by the angles of their positions [B, S] (or of one offset)",
    onnx: &[ms("RotaryEmbedding")],
    inputs: exactly(4),
    attrs: &[
        attr("interleaved", AttrKind::Int),
        attr("is_packed_batching", AttrKind::Int),
        attr("num_heads", AttrKind::Int),
        attr("rotary_embedding_dim", AttrKind::Int),
        attr("scale", AttrKind::Float),
    ],
    infer: infer_indexed,
    eval: eval_indexed,
    sample: sample_indexed,
    ..ROTARY_EMBEDDING
};

/// Head size, and how many pairs of each head are rotated.
fn indexed_sizes(ctx: &InferCtx) -> Result<(Dim, Dim), Diag> {
    let (x, cos) = (input(ctx, 0)?, input(ctx, 2)?);
    let [_, half] = cos.shape.as_slice() else {
        return Err(type_error(format!("cosines must have rank 2, they are {cos}")));
    };
    let stated = ctx.attrs.int_or("rotary_embedding_dim", 0);
    let two = Dim::known(2);
    // Without a stated dimension the angles tell the head size.
    let head = match x.shape.as_slice() {
        [_, _, _, d] => d.clone(),
        [_, _, hidden] if stated > 0 => {
            let heads = n_heads(ctx.attrs, "num_heads")?;
            head_size(hidden, heads)?
        }
        [_, _, hidden] => {
            let head = half.clone() * two.clone();
            let fits =
                hidden.as_known().zip(head.as_known()).is_none_or(|(all, head)| head > 0 && all % head == 0);
            if !fits {
                return Err(type_error(format!("{hidden} elements do not split into heads of {head}")));
            }
            head
        }
        _ => return Err(type_error(format!("rotary embedding wants data of rank 3 or 4, it is {x}"))),
    };
    let rotated = if stated > 0 { Dim::known(stated) } else { head.clone() };
    same_dim(&(half.clone() * two), &rotated, "rotated elements and twice the angles")?;
    if rotated.as_known().zip(head.as_known()).is_some_and(|(rotated, head)| rotated > head) {
        return Err(type_error(format!("{rotated} elements of a head of {head} cannot be rotated")));
    }
    Ok((head, half.clone()))
}

fn infer_indexed(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (x, ids, cos, sin) = (input(ctx, 0)?, input(ctx, 1)?, input(ctx, 2)?, input(ctx, 3)?);
    want_float(x.dtype)?;
    if x.dtype != cos.dtype || x.dtype != sin.dtype || ids.dtype.is_float() {
        return Err(type_error(format!("the data is {x}, positions {ids}, angles {cos} and {sin}"))
            .hint("data and angles must have one float type, positions are integers"));
    }
    indexed_sizes(ctx)?;
    if sin.rank() != 2 {
        return Err(type_error(format!("sines must have rank 2, they are {sin}")));
    }
    cos.shape.iter().zip(&sin.shape).try_for_each(|(a, b)| same_dim(a, b, "numbers of cosines and sines"))?;
    match ids.shape.as_slice() {
        [n] => same_dim(n, &Dim::known(1), "a single offset and 1")?,
        [b, s] => {
            same_dim(b, &x.shape[0], "batches of positions and data")?;
            same_dim(s, &x.shape[x.rank() - 2], "lengths of positions and data")?;
        }
        _ => return Err(type_error(format!("positions must have rank 1 or 2, they are {ids}"))),
    }
    Ok(vec![x.clone()])
}

fn eval_indexed(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_indexed)?;
    let (ids, cos) = (tensor(ctx, 1)?, tensor(ctx, 2)?);
    let (rows, half) = (cos.shape()[0], cos.shape()[1]);
    let stated = ctx.attrs.int_or("rotary_embedding_dim", 0);
    let length = shape[shape.len() - 2];
    let head = match (shape.len(), usize::try_from(ctx.attrs.int_or("num_heads", 1))) {
        (4, _) => shape[3],
        (_, Ok(heads)) if stated > 0 => shape[2] / heads.max(1),
        _ => 2 * half,
    };
    let heads = shape.iter().skip(1).product::<usize>() / (length * head).max(1);
    let (cos, sin) = (cos.to_f64s(), tensor(ctx, 3)?.to_f64s());
    let positions = ids.to_i64s();
    let mut y = tensor(ctx, 0)?.to_f64s();
    for (at, vector) in y.chunks_mut(head.max(1)).enumerate() {
        let batch = at / (heads * length);
        let place = if shape.len() == 4 { at % length } else { at / heads % length };
        let position = if ids.rank() == 1 {
            positions[0].saturating_add(place as i64)
        } else {
            positions[batch * length + place]
        };
        let row = usize::try_from(position).ok().filter(|row| *row < rows);
        let row = row.ok_or_else(|| index_error(position, rows))? * half;
        let (cos, sin) = (&cos[row..row + half], &sin[row..row + half]);
        rotate(vector, cos, sin, ctx.attrs.flag("interleaved"), |v| v);
    }
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

fn sample_indexed(rng: &mut Rng) -> Sample {
    let [b, h, s] = [(); 3].map(|()| 1 + rng.below(3));
    let head = 2 * (1 + rng.below(4));
    let mut attrs = Attrs::new().with("interleaved", rng.int(0, 1));
    let mut half = head / 2;
    if rng.below(3) == 0 {
        half = 1 + rng.below(half);
        attrs.set("rotary_embedding_dim", 2 * half as i64);
        attrs.set("num_heads", h as i64);
    }
    let x = if rng.below(2) == 0 { vec![b, h, s, head] } else { vec![b, s, h * head] };
    let ids = if rng.below(2) == 0 { vec![1] } else { vec![b, s] };
    let inputs = [
        rng.tensor(DType::F32, &x, -1.0, 1.0),
        rng.tensor(DType::I64, &ids, 0.0, 4.0),
        rng.tensor(DType::F32, &[8, half], -1.0, 1.0),
        rng.tensor(DType::F32, &[8, half], -1.0, 1.0),
    ];
    Sample { attrs, inputs: inputs.map(Some).to_vec(), n_outputs: 1 }
}

/// Four products and two sums for each pair.
fn work_rotary(ctx: &WorkCtx) -> Work {
    work(ctx, 3.0 * n_out(ctx), WorkKind::Vector)
}

fn sample_rotary(rng: &mut Rng) -> Sample {
    let [b, h, s] = [(); 3].map(|()| 1 + rng.below(3));
    let head = 2 * (1 + rng.below(4));
    let mut attrs = Attrs::new().with("interleaved", rng.int(0, 1));
    let mut half = head / 2;
    let x = if rng.below(2) == 0 {
        vec![b, h, s, head]
    } else {
        attrs.set("num_heads", h as i64);
        vec![b, s, h * head]
    };
    if rng.below(3) == 0 {
        half = 1 + rng.below(half);
        attrs.set("rotary_embedding_dim", 2 * half as i64);
        attrs.set("num_heads", h as i64);
    }
    let with_ids = rng.below(2) == 0;
    let angles = if with_ids { vec![7, half] } else { vec![b, s, half] };
    let mut inputs: Vec<Option<Tensor>> =
        [x, angles.clone(), angles].iter().map(|s| Some(rng.tensor(DType::F32, s, -1.0, 1.0))).collect();
    if with_ids {
        inputs.push(Some(rng.tensor(DType::I64, &[b, s], 0.0, 6.0)));
    }
    Sample { attrs, inputs, n_outputs: 1 }
}
