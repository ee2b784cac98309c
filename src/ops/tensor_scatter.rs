//! Writing new entries into a cache of keys or values.

use crate::common::{
    MOVES, attr, attr_error, axis_of, between, exactly, index_error, input, onnx, tensor, type_error,
    work_move,
};
use crate::elements::from_bytes;
use crate::eval::{Lines, optional, optional_type, same_dim};
use crate::samples::{any, shape_of_rank, values};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::{DType, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&TENSOR_SCATTER];

/// A cache with an update written along one axis.
static TENSOR_SCATTER: OpDef = OpDef {
    name: "tensor_scatter",
    doc: "the cache with the update written along `axis`, in each batch from its own index on",
    onnx: &[onnx("TensorScatter", 24)],
    inputs: between(2, 3),
    outputs: exactly(1),
    attrs: &[attr("axis", AttrKind::Int), attr("mode", AttrKind::Str)],
    traits: MOVES,
    infer: infer_scatter,
    content: None,
    eval: eval_scatter,
    scalar: None,
    data: None,
    work: work_move,
    sample: sample_scatter,
};

fn axis(attrs: &Attrs, rank: usize) -> Result<usize, Diag> {
    let axis = axis_of(attrs.int_or("axis", -2), rank)?;
    if axis == 0 {
        return Err(attr_error("the axis of tensor_scatter cannot be the batch"));
    }
    Ok(axis)
}

/// Whether indices wrap at the end of the cache.
fn wraps(attrs: &Attrs) -> Result<bool, Diag> {
    match attrs.str("mode") {
        None | Some("linear") => Ok(false),
        Some("circular") => Ok(true),
        Some(other) => Err(attr_error(format!("mode is \"{other}\"")).hint("use \"linear\" or \"circular\"")),
    }
}

fn infer_scatter(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (cache, update) = (input(ctx, 0)?, input(ctx, 1)?);
    wraps(ctx.attrs)?;
    if cache.dtype != update.dtype || cache.rank() != update.rank() {
        return Err(type_error(format!("the cache is {cache}, its update {update}"))
            .hint("they must have one element type and one rank"));
    }
    let axis = axis(ctx.attrs, cache.rank())?;
    for (i, (a, b)) in cache.shape.iter().zip(&update.shape).enumerate() {
        if i != axis {
            same_dim(a, b, "dimensions of the cache and its update")?;
        } else if a.as_known().zip(b.as_known()).is_some_and(|(cache, update)| update > cache) {
            return Err(type_error(format!("an update of {b} entries does not fit a cache of {a}")));
        }
    }
    match optional_type(ctx, 2).map(|t| (t.shape.as_slice(), t.dtype)) {
        None => {}
        Some(([n], DType::I64 | DType::I32)) => same_dim(n, &cache.shape[0], "write indices and batches")?,
        Some(_) => return Err(type_error("the write indices must be a list of integers")),
    }
    Ok(vec![cache.clone()])
}

/// Where entry `i` of an update that starts at `start` goes.
fn place(start: i64, i: usize, len: usize, wraps: bool) -> Result<usize, Diag> {
    let at = start.saturating_add(i as i64);
    let at = if wraps { at.rem_euclid((len as i64).max(1)) } else { at };
    usize::try_from(at).ok().filter(|at| *at < len).ok_or_else(|| index_error(at, len))
}

fn eval_scatter(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (cache, update) = (tensor(ctx, 0)?, tensor(ctx, 1)?);
    crate::eval::result(ctx, infer_scatter)?;
    let axis = axis(ctx.attrs, cache.rank())?;
    let wraps = wraps(ctx.attrs)?;
    let lines = Lines::new(cache.shape(), axis, axis + 1);
    let n_new = update.shape()[axis];
    let starts = optional(ctx, 2).map(Tensor::to_i64s);
    let per_batch = (lines.outer / cache.shape()[0].max(1)).max(1);
    let run = lines.inner * cache.dtype().size_bytes();
    let mut bytes = cache.bytes().to_vec();
    for outer in 0..lines.outer {
        let start = starts.as_ref().map_or(0, |s| s[outer / per_batch]);
        for i in 0..n_new {
            let to = (outer * lines.len + place(start, i, lines.len, wraps)?) * run;
            let from = (outer * n_new + i) * run;
            bytes[to..to + run].copy_from_slice(&update.bytes()[from..from + run]);
        }
    }
    Ok(vec![from_bytes(cache.dtype(), cache.shape(), bytes)?])
}

fn sample_scatter(rng: &mut Rng) -> Sample {
    let (dtype, shape) = (any(rng), shape_of_rank(rng, 2));
    let axis = 1 + rng.below(shape.len() - 1);
    let mut attrs = Attrs::new().with("axis", axis as i64);
    let mut update = shape.clone();
    update[axis] = 1 + rng.below(shape[axis]);
    let mut last = (shape[axis] - update[axis]) as i64;
    if rng.below(2) == 0 {
        attrs.set("mode", "circular");
        last = 9;
    }
    let mut inputs = vec![Some(values(rng, dtype, &shape)), Some(values(rng, dtype, &update))];
    if rng.below(3) > 0 {
        inputs.push(Some(rng.tensor(DType::I64, &shape[..1], 0.0, last as f64)));
    }
    Sample { attrs, inputs, n_outputs: 1 }
}
