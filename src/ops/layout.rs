//! Operators that put elements elsewhere: transposition, tiling, blocks, triangles, reversal.

use crate::common::{
    MOVES, attr, attr_error, axis_of, between, exactly, input, onnx, operand, required, sample_of,
    sample_shape, strides, tensor, type_error, work_move,
};
use crate::elements::{from_bytes, signed_strides, take, walk};
use crate::samples::{any, list, shape, shape_of_rank, values};
use crate::shapes::{normal_axes, or_unknown, result_shape, sizes, unknown_type};
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, InferFn, OpDef, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] =
    &[&DEPTH_TO_SPACE, &REVERSE_SEQUENCE, &SPACE_TO_DEPTH, &TILE, &TRANSPOSE, &TRILU];

/// What these rows have in common.
const MOVE: OpDef = OpDef {
    name: "",
    doc: "",
    onnx: &[],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: &[],
    traits: MOVES,
    infer: infer_transpose,
    content: None,
    eval: eval_transpose,
    scalar: None,
    data: None,
    work: work_move,
    sample: sample_transpose,
};

static TRANSPOSE: OpDef = OpDef {
    name: "transpose",
    doc: "x with its axes permuted; reversed when `perm` is absent.",
    onnx: &[onnx("Transpose", 1)],
    attrs: &[attr("perm", AttrKind::Ints)],
    ..MOVE
};

/// The permutation: axis `i` of the result is axis `perm[i]` of the operand.
fn permutation(perm: Option<Vec<i64>>, rank: usize) -> Result<Vec<usize>, Diag> {
    let Some(perm) = perm else {
        return Ok((0..rank).rev().collect());
    };
    if perm.len() != rank {
        return Err(attr_error(format!("perm has {} entries for {rank} dimensions", perm.len())));
    }
    normal_axes(&perm, rank)
}

fn infer_transpose(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    let perm = permutation(ctx.attrs.ints("perm"), x.rank())?;
    Ok(vec![Type::new(x.dtype, perm.iter().map(|&p| x.shape[p].clone()).collect::<Vec<Dim>>())])
}

/// The elements of `x`, seen as `from`, with its axes permuted, as a tensor of shape `to`.
pub(crate) fn permuted(x: &Tensor, from: &[usize], perm: &[usize], to: &[usize]) -> Result<Tensor, Diag> {
    let strides = signed_strides(from);
    let shape: Vec<usize> = perm.iter().map(|&p| from[p]).collect();
    let strides: Vec<i64> = perm.iter().map(|&p| strides[p]).collect();
    take(x, to, &walk(&shape, 0, &strides))
}

fn eval_transpose(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let x = tensor(ctx, 0)?;
    let perm = permutation(ctx.attrs.ints("perm"), x.rank())?;
    let shape: Vec<usize> = perm.iter().map(|&p| x.shape()[p]).collect();
    Ok(vec![permuted(x, x.shape(), &perm, &shape)?])
}

fn sample_transpose(rng: &mut Rng) -> Sample {
    let (dtype, shape) = (any(rng), shape(rng));
    let mut sample = sample_of(vec![values(rng, dtype, &shape)]);
    if rng.below(4) > 0 {
        let mut perm: Vec<i64> = (0..shape.len() as i64).collect();
        (1..perm.len()).for_each(|i| perm.swap(i, rng.below(i + 1)));
        sample.attrs.set("perm", perm);
    }
    sample
}

static TILE: OpDef = OpDef {
    name: "tile",
    doc: "x repeated along its axes.",
    onnx: &[onnx("Tile", 6)],
    inputs: between(1, 2),
    attrs: &[operand("repeats", AttrKind::Dims, 1)],
    infer: infer_tile,
    content: Some(|c| {
        let ty = infer_tile(c).ok()?.remove(0);
        crate::reshape::repeat_list(&ty, crate::content::dims(c, 0)?)
    }),
    eval: |c| {
        let (x, shape) = (tensor(c, 0)?, result_shape(c, infer_tile)?);
        if let Some(empty) = empty(x, &shape) {
            return Ok(empty);
        }
        let wrapped = |(&n, &d): (&usize, &usize)| (0..n).map(|i| Some(i % d.max(1))).collect();
        let tables: Vec<Vec<Option<usize>>> = shape.iter().zip(x.shape()).map(wrapped).collect();
        Ok(vec![by_tables(x, &tables, &[])?])
    },
    sample: |rng| {
        let (dtype, shape) = (any(rng), shape(rng));
        let repeats: Vec<i64> = shape.iter().map(|_| rng.int(0, 3)).collect();
        let mut sample = sample_of(vec![values(rng, dtype, &shape)]);
        if rng.below(2) == 0 {
            sample.attrs.set("repeats", repeats);
        } else {
            sample.inputs.push(Some(list(&repeats)));
        }
        sample
    },
    ..MOVE
};

fn infer_tile(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    or_unknown(exact_tile(ctx), || unknown_type(ctx, input(ctx, 0).ok()?.rank()))
}

fn exact_tile(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    let repeats = sizes(ctx, "repeats", 1)?;
    if repeats.len() != x.rank() {
        return Err(attr_error(format!("{} repeats for {} dimensions", repeats.len(), x.rank())));
    }
    let shape: Vec<Dim> = x.shape.iter().zip(repeats).map(|(d, r)| d.clone() * r).collect();
    Ok(vec![Type::new(x.dtype, shape)])
}

/// The result when it has no elements: index tables of its other axes could still be long.
pub(crate) fn empty(x: &Tensor, shape: &[usize]) -> Option<Vec<Tensor>> {
    let none = shape.contains(&0).then(|| from_bytes(x.dtype(), shape, Vec::new()).ok())??;
    Some(vec![none])
}

/// The elements of `x` picked per axis: entry `i` of an axis's table is the index read for index `i` of the
/// result, or nothing: then the element is `fill` (the bytes of one element).
///
/// # Errors
/// When an index is out of range.
pub(crate) fn by_tables(x: &Tensor, tables: &[Vec<Option<usize>>], fill: &[u8]) -> Result<Tensor, Diag> {
    let mut positions: Vec<Option<usize>> = vec![Some(0)];
    for (table, stride) in tables.iter().zip(strides(x.shape())) {
        positions =
            positions.iter().flat_map(|&p| table.iter().map(move |&t| Some(p? + t? * stride))).collect();
    }
    let size = x.dtype().size_bytes();
    let mut bytes = Vec::with_capacity(positions.len() * size);
    for position in positions {
        let element = position.map_or(Some(fill), |p| x.bytes().get(p * size..(p + 1) * size));
        bytes.extend(element.ok_or_else(|| type_error("an element outside the operand is read"))?);
    }
    let shape: Vec<usize> = tables.iter().map(Vec::len).collect();
    from_bytes(x.dtype(), &shape, bytes)
}

static DEPTH_TO_SPACE: OpDef = OpDef {
    name: "depth_to_space",
    doc: "Blocks of channels become blocks of pixels.",
    onnx: &[onnx("DepthToSpace", 11)],
    attrs: &[required("blocksize", AttrKind::Int), attr("mode", AttrKind::Str)],
    infer: infer_depth_to_space,
    eval: |c| {
        let (x, shape) = (tensor(c, 0)?, result_shape(c, infer_depth_to_space)?);
        let (b, channels) = (block_size(c.attrs)?, shape[1]);
        let [n, _, h, w] = four(x.shape())?;
        if is_crd(c.attrs)? {
            return Ok(vec![permuted(x, &[n, channels, b, b, h, w], &[0, 1, 4, 2, 5, 3], &shape)?]);
        }
        Ok(vec![permuted(x, &[n, b, b, channels, h, w], &[0, 3, 4, 1, 5, 2], &shape)?])
    },
    sample: |rng| sample_blocks(rng, false),
    ..MOVE
};

static SPACE_TO_DEPTH: OpDef = OpDef {
    name: "space_to_depth",
    doc: "Blocks of pixels become blocks of channels.",
    onnx: &[onnx("SpaceToDepth", 13)],
    attrs: &[required("blocksize", AttrKind::Int), attr("mode", AttrKind::Str)],
    infer: infer_space_to_depth,
    eval: |c| {
        let (x, shape) = (tensor(c, 0)?, result_shape(c, infer_space_to_depth)?);
        let b = block_size(c.attrs)?;
        let [n, channels, _, _] = four(x.shape())?;
        let perm = if is_crd(c.attrs)? { [0, 1, 3, 5, 2, 4] } else { [0, 3, 5, 1, 2, 4] };
        Ok(vec![permuted(x, &[n, channels, shape[2], b, shape[3], b], &perm, &shape)?])
    },
    sample: |rng| sample_blocks(rng, true),
    ..MOVE
};

fn block_size(attrs: &partita_ir::Attrs) -> Result<usize, Diag> {
    let size = attrs.int_or("blocksize", 0);
    // The square of a size beyond this does not fit any tensor.
    usize::try_from(size)
        .ok()
        .filter(|b| (1..=1 << 20).contains(b))
        .ok_or_else(|| attr_error(format!("blocksize is {size}")).hint("use a positive number"))
}

/// Whether channels come before blocks.
fn is_crd(attrs: &partita_ir::Attrs) -> Result<bool, Diag> {
    match attrs.str("mode") {
        None | Some("DCR") => Ok(false),
        Some("CRD") => Ok(true),
        Some(other) => Err(attr_error(format!("mode is \"{other}\"")).hint("use \"DCR\" or \"CRD\"")),
    }
}

fn four<T: Clone>(shape: &[T]) -> Result<[T; 4], Diag> {
    <[T; 4]>::try_from(shape.to_vec())
        .map_err(|s| type_error(format!("the operand has {} dimensions, 4 are wanted", s.len())))
}

/// The quotient, which must be whole where it is known.
fn divided(dim: &Dim, by: &Dim) -> Result<Dim, Diag> {
    match (dim.as_known(), by.as_known()) {
        (Some(d), Some(b)) if b == 0 || d % b != 0 => {
            Err(type_error(format!("the size {d} does not divide by {b}")))
        }
        _ => Ok(dim.floor_div(by)),
    }
}

fn infer_depth_to_space(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (x, b) = (input(ctx, 0)?, Dim::from(block_size(ctx.attrs)?));
    is_crd(ctx.attrs)?;
    let [n, c, h, w] = four(&x.shape)?;
    let channels = divided(&c, &(b.clone() * b.clone()))?;
    Ok(vec![Type::new(x.dtype, [n, channels, h * b.clone(), w * b])])
}

fn infer_space_to_depth(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (x, b) = (input(ctx, 0)?, Dim::from(block_size(ctx.attrs)?));
    is_crd(ctx.attrs)?;
    let [n, c, h, w] = four(&x.shape)?;
    let (h, w) = (divided(&h, &b)?, divided(&w, &b)?);
    Ok(vec![Type::new(x.dtype, [n, c * b.clone() * b, h, w])])
}

fn sample_blocks(rng: &mut Rng, space: bool) -> Sample {
    let (dtype, base, b) = (any(rng), sample_shape(rng, 4), 1 + rng.below(3));
    let (c, s) = if space { (1, b) } else { (b * b, 1) };
    let x = values(rng, dtype, &[base[0], base[1] * c, base[2] * s, base[3] * s]);
    let mut sample = sample_of(vec![x]);
    sample.attrs.set("blocksize", b as i64);
    let mode = *rng.pick(&["", "DCR", "CRD"]);
    if !mode.is_empty() {
        sample.attrs.set("mode", mode);
    }
    sample
}

static REVERSE_SEQUENCE: OpDef = OpDef {
    name: "reverse_sequence",
    doc: "x with the first `lengths[b]` steps of every batch entry b in reverse order.",
    onnx: &[onnx("ReverseSequence", 10)],
    inputs: exactly(2),
    attrs: &[attr("batch_axis", AttrKind::Int), attr("time_axis", AttrKind::Int)],
    infer: infer_reverse,
    eval: eval_reverse,
    sample: |rng| {
        let (dtype, shape) = (any(rng), shape_of_rank(rng, 2));
        let batch = rng.below(2);
        let lengths: Vec<i64> = (0..shape[batch]).map(|_| rng.int(1, shape[1 - batch] as i64)).collect();
        let mut sample = sample_of(vec![values(rng, dtype, &shape), list(&lengths)]);
        sample.attrs.set("batch_axis", batch as i64);
        sample.attrs.set("time_axis", 1 - batch as i64);
        sample
    },
    ..MOVE
};

/// Batch and time axis: 0 and 1 in either order.
fn reverse_axes(attrs: &partita_ir::Attrs, rank: usize) -> Result<(usize, usize), Diag> {
    let batch = axis_of(attrs.int_or("batch_axis", 1), rank)?;
    let time = axis_of(attrs.int_or("time_axis", 0), rank)?;
    if batch == time || batch > 1 || time > 1 {
        return Err(attr_error(format!("batch_axis is {batch} and time_axis {time}")).hint("use 0 and 1"));
    }
    Ok((batch, time))
}

fn infer_reverse(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    let (batch, _) = reverse_axes(ctx.attrs, x.rank())?;
    let lengths = input(ctx, 1)?;
    if lengths.rank() != 1 {
        return Err(type_error(format!("the lengths are {lengths}, a list is wanted")));
    }
    crate::shapes::unify(&x.shape[batch], &lengths.shape[0])?;
    Ok(vec![x.clone()])
}

fn eval_reverse(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (x, lengths) = (tensor(ctx, 0)?, tensor(ctx, 1)?.to_i64s());
    let (batch, time) = reverse_axes(ctx.attrs, x.rank())?;
    let steps = x.shape()[time];
    let inner: usize = x.shape()[2..].iter().product();
    let mut positions = Vec::with_capacity(x.n_elements());
    for i in 0..x.shape()[0] {
        for j in 0..x.shape()[1] {
            let (b, t) = if batch == 0 { (i, j) } else { (j, i) };
            let length = lengths.get(b).copied().unwrap_or(0);
            let n = usize::try_from(length)
                .ok()
                .filter(|&n| n <= steps)
                .ok_or_else(|| crate::common::index_error(length, steps))?;
            let t = if t < n { n - 1 - t } else { t };
            let row = if batch == 0 { b * x.shape()[1] + t } else { t * x.shape()[1] + b };
            positions.extend(row * inner..(row + 1) * inner);
        }
    }
    Ok(vec![take(x, x.shape(), &positions)?])
}

static TRILU: OpDef = OpDef {
    name: "trilu",
    doc: "The upper or lower triangle of each matrix, moved by k diagonals; zero elsewhere.",
    onnx: &[onnx("Trilu", 14)],
    inputs: between(1, 2),
    attrs: &[operand("k", AttrKind::Int, 1), attr("upper", AttrKind::Int)],
    infer: infer_trilu,
    eval: eval_trilu,
    sample: |rng| {
        let (dtype, shape) = (any(rng), shape_of_rank(rng, 2));
        let mut sample = sample_of(vec![values(rng, dtype, &shape)]);
        match rng.below(3) {
            0 => sample.attrs.set("k", rng.int(-3, 3)),
            1 => sample.inputs.push(Some(Tensor::scalar(rng.int(-3, 3)))),
            _ => {}
        }
        sample.attrs.set("upper", rng.int(0, 1));
        sample
    },
    ..MOVE
};

fn infer_trilu(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    if x.rank() < 2 {
        return Err(type_error(format!("the operand is {x}, a matrix is wanted")));
    }
    Ok(vec![x.clone()])
}

fn eval_trilu(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let x = tensor(ctx, 0)?;
    let shape = result_shape(ctx, infer_trilu as InferFn)?;
    let k = crate::common::ints_of(ctx, "k", 1).and_then(|k| k.first().copied()).unwrap_or(0);
    let upper = ctx.attrs.int_or("upper", 1) != 0;
    let (rows, columns) = (shape[shape.len() - 2], shape[shape.len() - 1]);
    let zero = element_bytes(x.dtype(), 0.0)?;
    let mut bytes = x.bytes().to_vec();
    for (n, element) in bytes.chunks_exact_mut(zero.len()).enumerate() {
        let (row, column) = ((n / columns % rows) as i64, (n % columns) as i64);
        let diagonal = column - row;
        if if upper { diagonal < k } else { diagonal > k } {
            element.copy_from_slice(&zero);
        }
    }
    Ok(vec![from_bytes(x.dtype(), &shape, bytes)?])
}

/// Bytes of one element of `dtype` with the value `v`; for text the empty string.
///
/// # Errors
/// None; the type says so because tensors are built with checks.
pub(crate) fn element_bytes(dtype: DType, v: f64) -> Result<Vec<u8>, Diag> {
    if dtype == DType::Str {
        // An index outside of the tensor's table.
        return Ok(u32::MAX.to_le_bytes().to_vec());
    }
    Ok(crate::common::from_f64s(dtype, &[], &[v])?.bytes().to_vec())
}
