//! Operators that read elements at given indices.

use crate::common::{
    MOVES, attr, attr_error, axis_of, data_dependent, exactly, index_error, input, onnx, sample_of,
    sample_shape, strides, tensor, type_error, work_move,
};
use crate::content;
use crate::elements::take;
use crate::samples::{any, shape_of_rank, values};
use crate::shapes::{result_shape, unify};
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::{Attrs, DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&GATHER, &GATHER_ELEMENTS, &GATHER_ND];

static GATHER: OpDef = OpDef {
    name: "gather",
    doc: "Slices of x along an axis at the given indices; negative ones count from the end.",
    onnx: &[onnx("Gather", 1)],
    inputs: exactly(2),
    outputs: exactly(1),
    attrs: &[attr("axis", AttrKind::Int)],
    traits: MOVES,
    infer: infer_gather,
    content: Some(content_gather),
    eval: eval_gather,
    scalar: None,
    data: None,
    work: work_move,
    sample: sample_gather,
};

/// The index counted from the front.
///
/// # Errors
/// `X020` when it is out of range.
pub(crate) fn normal_index(index: i64, size: usize) -> Result<usize, Diag> {
    let wrapped = if index < 0 { index.saturating_add(size as i64) } else { index };
    usize::try_from(wrapped).ok().filter(|&i| i < size).ok_or_else(|| index_error(index, size))
}

/// Refuses indices that are no integers.
pub(crate) fn check_indices(ty: &Type) -> Result<(), Diag> {
    if ty.dtype.is_float() || ty.dtype == DType::Bool {
        return Err(type_error(format!("the indices are {}, integers are wanted", ty.dtype.name())));
    }
    Ok(())
}

fn axis(attrs: &Attrs, rank: usize) -> Result<usize, Diag> {
    axis_of(attrs.int_or("axis", 0), rank)
}

fn infer_gather(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (x, indices) = (input(ctx, 0)?, input(ctx, 1)?);
    check_indices(indices)?;
    let axis = axis(ctx.attrs, x.rank())?;
    let shape = [&x.shape[..axis], &indices.shape, &x.shape[axis + 1..]].concat();
    Ok(vec![Type::new(x.dtype, shape)])
}

fn content_gather(ctx: &InferCtx) -> Option<Vec<Dim>> {
    let ty = infer_gather(ctx).ok()?.remove(0);
    if ty.rank() > 1 || ty.dtype.is_float() {
        return None;
    }
    let (list, indices) = (content::dims(ctx, 0)?, content::dims(ctx, 1)?);
    let pick = |i: &Dim| list.get(normal_index(i.as_known()?, list.len()).ok()?).cloned();
    indices.iter().map(pick).collect()
}

fn eval_gather(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (x, indices) = (tensor(ctx, 0)?, tensor(ctx, 1)?);
    let axis = axis(ctx.attrs, x.rank())?;
    let size = x.shape()[axis];
    let rows: Vec<usize> =
        indices.to_i64s().into_iter().map(|i| normal_index(i, size)).collect::<Result<_, Diag>>()?;
    let outer: usize = x.shape()[..axis].iter().product();
    let inner: usize = x.shape()[axis + 1..].iter().product();
    let mut positions = Vec::with_capacity(outer * rows.len() * inner);
    for o in 0..outer {
        for row in &rows {
            let start = (o * size + row) * inner;
            positions.extend(start..start + inner);
        }
    }
    Ok(vec![take(x, &result_shape(ctx, infer_gather)?, &positions)?])
}

/// Random indices into an axis of `size` elements, negative ones too.
pub(crate) fn sample_indices(rng: &mut Rng, shape: &[usize], size: usize) -> Tensor {
    let dtype = *rng.pick(&[DType::I64, DType::I64, DType::I32]);
    let values: Vec<i64> =
        (0..shape.iter().product()).map(|_| rng.int(-(size as i64), size as i64 - 1)).collect();
    Tensor::from_i64s(dtype, shape, &values).unwrap_or_else(|| Tensor::scalar(0i64))
}

fn sample_gather(rng: &mut Rng) -> Sample {
    let (dtype, shape) = (any(rng), shape_of_rank(rng, 1));
    let axis = rng.below(shape.len());
    let rank = rng.below(3);
    let index_shape = sample_shape(rng, rank);
    let indices = sample_indices(rng, &index_shape, shape[axis]);
    let mut sample = sample_of(vec![values(rng, dtype, &shape), indices]);
    if axis > 0 || rng.below(2) == 0 {
        let back = if rng.below(2) == 0 { shape.len() as i64 } else { 0 };
        sample.attrs.set("axis", axis as i64 - back);
    }
    sample
}

static GATHER_ELEMENTS: OpDef = OpDef {
    name: "gather_elements",
    doc: "The element of x at each index along an axis; the other indices are the element's own.",
    onnx: &[onnx("GatherElements", 11)],
    infer: |c| {
        let (x, indices) = (input(c, 0)?, input(c, 1)?);
        check_indices(indices)?;
        axis(c.attrs, x.rank())?;
        same_rank(x, indices)?;
        Ok(vec![Type::new(x.dtype, indices.shape.clone())])
    },
    content: None,
    eval: |c| {
        let (x, indices) = (tensor(c, 0)?, tensor(c, 1)?);
        let at = element_positions(x.shape(), indices, axis(c.attrs, x.rank())?)?;
        Ok(vec![take(x, indices.shape(), &at)?])
    },
    sample: |rng| {
        let (dtype, shape) = (any(rng), shape_of_rank(rng, 1));
        let axis = rng.below(shape.len());
        let indices = sample_element_indices(rng, &shape, axis, false);
        let mut sample = sample_of(vec![values(rng, dtype, &shape), indices]);
        sample.attrs.set("axis", axis as i64);
        sample
    },
    ..GATHER
};

/// Refuses operands whose numbers of dimensions differ.
pub(crate) fn same_rank(x: &Type, other: &Type) -> Result<(), Diag> {
    if x.rank() != other.rank() {
        return Err(type_error(format!("operands are {x} and {other}"))
            .hint("both must have the same number of dimensions"));
    }
    Ok(())
}

/// For each element of `indices` the position in a tensor of shape `shape` that it names along `axis`.
///
/// # Errors
/// `X020` when an index is out of range, `V020` when `indices` is larger than `shape` beside `axis`.
pub(crate) fn element_positions(shape: &[usize], indices: &Tensor, axis: usize) -> Result<Vec<usize>, Diag> {
    let larger = |a: usize| a != axis && indices.shape()[a] > shape[a];
    if indices.rank() != shape.len() || (0..shape.len()).any(larger) {
        let text = format!("indices of shape {:?} do not fit the shape {shape:?}", indices.shape());
        return Err(type_error(text).hint("beside the axis, no size may be larger than the operand's"));
    }
    let strides = strides(shape);
    let rows = indices.to_i64s();
    crate::common::indices(indices.shape())
        .zip(rows)
        .map(|(mut index, row)| {
            index[axis] = normal_index(row, shape[axis])?;
            Ok(index.iter().zip(&strides).map(|(i, s)| i * s).sum())
        })
        .collect()
}

/// Indices for `element_positions`; each names another element when `distinct`.
pub(crate) fn sample_element_indices(rng: &mut Rng, shape: &[usize], axis: usize, distinct: bool) -> Tensor {
    let smaller: Vec<usize> = shape.iter().map(|&d| 1 + rng.below(d)).collect();
    if !distinct {
        return sample_indices(rng, &smaller, shape[axis]);
    }
    let shift = rng.below(shape[axis]);
    let rows: Vec<i64> =
        crate::common::indices(&smaller).map(|i| ((i[axis] + shift) % shape[axis]) as i64).collect();
    Tensor::from_slice(&smaller, &rows).unwrap_or_else(|| Tensor::scalar(0i64))
}

static GATHER_ND: OpDef = OpDef {
    name: "gather_nd",
    doc: "Slices of x at index tuples, the last axis of the indices; the first batch_dims axes go together.",
    onnx: &[onnx("GatherND", 12)],
    attrs: &[attr("batch_dims", AttrKind::Int)],
    infer: infer_gather_nd,
    content: None,
    eval: eval_gather_nd,
    sample: sample_gather_nd,
    ..GATHER
};

/// Batch axes and length of the index tuples.
fn tuple_of(ctx: &InferCtx) -> Result<(usize, usize), Diag> {
    let (x, indices) = (input(ctx, 0)?, input(ctx, 1)?);
    check_indices(indices)?;
    let last =
        indices.shape.last().ok_or_else(|| type_error("the indices are a scalar, a list is wanted"))?;
    let len = last.as_known().ok_or_else(data_dependent)?;
    let len = usize::try_from(len).map_err(|_| type_error("index tuples have a negative length"))?;
    let batch = ctx.attrs.int_or("batch_dims", 0);
    let batch = usize::try_from(batch)
        .ok()
        .filter(|b| *b < indices.rank() && b.saturating_add(len) <= x.rank())
        .ok_or_else(|| attr_error(format!("index tuples of {len} and batch_dims {batch} do not fit {x}")))?;
    Ok((batch, len))
}

fn infer_gather_nd(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (x, indices) = (input(ctx, 0)?, input(ctx, 1)?);
    let (batch, len) = tuple_of(ctx)?;
    let mut shape: Vec<Dim> = Vec::new();
    for (a, b) in x.shape[..batch].iter().zip(&indices.shape) {
        shape.push(unify(a, b)?);
    }
    shape.extend_from_slice(&indices.shape[batch..indices.rank() - 1]);
    shape.extend_from_slice(&x.shape[batch + len..]);
    Ok(vec![Type::new(x.dtype, shape)])
}

/// Position of the slice that an index tuple names within `sizes`, in slices.
pub(crate) fn tuple_position(tuple: &[i64], sizes: &[usize]) -> Result<usize, Diag> {
    tuple.iter().zip(sizes).try_fold(0, |at, (&i, &size)| Ok(at * size + normal_index(i, size)?))
}

fn eval_gather_nd(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let shape = result_shape(ctx, infer_gather_nd)?;
    let (x, indices) = (tensor(ctx, 0)?, tensor(ctx, 1)?);
    let batch = usize::try_from(ctx.attrs.int_or("batch_dims", 0)).unwrap_or(0);
    let len = indices.shape().last().copied().unwrap_or(0);
    let sizes = &x.shape()[batch..batch + len];
    let inner: usize = x.shape()[batch + len..].iter().product();
    let per_batch: usize = indices.shape()[batch..indices.rank() - 1].iter().product();
    let n_batches: usize = indices.shape()[..batch].iter().product();
    let batch_slices: usize = sizes.iter().product();
    let all = indices.to_i64s();
    let mut positions = Vec::with_capacity(n_batches * per_batch * inner);
    for n in 0..n_batches * per_batch {
        let tuple = tuple_position(&all[n * len..(n + 1) * len], sizes)?;
        let start = (n / per_batch * batch_slices + tuple) * inner;
        positions.extend(start..start + inner);
    }
    Ok(vec![take(x, &shape, &positions)?])
}

/// Index tuples of length `len` for the axes of `shape` from `batch` on.
fn sample_tuples(rng: &mut Rng, lead: &[usize], sizes: &[usize]) -> Tensor {
    let n: usize = lead.iter().product();
    let values: Vec<i64> = (0..n)
        .flat_map(|_| sizes.iter().map(|&s| rng.int(-(s as i64), s as i64 - 1)).collect::<Vec<_>>())
        .collect();
    let shape = [lead, &[sizes.len()]].concat();
    Tensor::from_slice(&shape, &values).unwrap_or_else(|| Tensor::scalar(0i64))
}

fn sample_gather_nd(rng: &mut Rng) -> Sample {
    let (dtype, shape) = (any(rng), shape_of_rank(rng, 2));
    let batch = rng.below(2);
    let len = 1 + rng.below(shape.len() - batch);
    let rank = rng.below(2);
    let lead = [&shape[..batch], &sample_shape(rng, rank)].concat();
    let tuples = sample_tuples(rng, &lead, &shape[batch..batch + len]);
    let mut sample = sample_of(vec![values(rng, dtype, &shape), tuples]);
    sample.attrs.set("batch_dims", batch as i64);
    sample
}

/// Refuses shapes that differ.
pub(crate) fn same_shape(a: &[usize], b: &[usize]) -> Result<(), Diag> {
    if a == b { Ok(()) } else { Err(type_error(format!("the shapes {a:?} and {b:?} differ"))) }
}
