//! Operators that read or reinterpret shapes.

use crate::common::{
    RESHAPES, attr, attr_error, axis_of, between, data_dependent, exactly, input, onnx, operand, sample_of,
    tensor, type_error, work_free, work_move,
};
use crate::content;
use crate::elements::{broadcast_walk, reshaped, take};
use crate::samples::{any, list, shape, values};
use crate::shapes::{
    integers, list_content, list_len, normal_axes, or_unknown, result_shape, sizes, unknown_type,
};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, InferFn, OpDef, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&EXPAND, &FLATTEN, &RESHAPE, &SHAPE, &SIZE, &SQUEEZE, &UNSQUEEZE];

/// What these rows have in common.
const VIEW: OpDef = OpDef {
    name: "",
    doc: "",
    onnx: &[],
    inputs: between(1, 2),
    outputs: exactly(1),
    attrs: &[],
    traits: RESHAPES,
    infer: infer_reshape,
    content: None,
    eval: eval_reshape,
    scalar: None,
    data: None,
    work: work_free,
    sample: sample_reshape,
};

/// Evaluation of an operator that only changes the shape.
fn eval_view(ctx: &EvalCtx, infer: InferFn) -> Result<Vec<Tensor>, Diag> {
    Ok(vec![reshaped(tensor(ctx, 0)?, &result_shape(ctx, infer)?)?])
}

/// The attribute, or the same as an operand.
fn attr_or_operand(rng: &mut Rng, x: Tensor, name: &str, given: &[i64]) -> Sample {
    let mut sample = sample_of(vec![x]);
    if rng.below(2) == 0 {
        sample.attrs.set(name, given);
    } else {
        sample.inputs.push(Some(list(given)));
    }
    sample
}

/// One operand of any element type and rank.
fn sample_any(rng: &mut Rng) -> Tensor {
    let (dtype, shape) = (any(rng), shape(rng));
    values(rng, dtype, &shape)
}

static RESHAPE: OpDef = OpDef {
    name: "reshape",
    doc: "x in another shape; 0 keeps a size (unless allowzero), -1 takes what is left.",
    onnx: &[onnx("Reshape", 5)],
    attrs: &[attr("allowzero", AttrKind::Int), operand("shape", AttrKind::Dims, 1)],
    content: Some(|c| list_content(c, infer_reshape)),
    ..VIEW
};

fn infer_reshape(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    or_unknown(exact_reshape(ctx), || unknown_type(ctx, list_len(ctx, 1)?))
}

fn exact_reshape(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    let shape = reshape(&x.shape, &sizes(ctx, "shape", 1)?, ctx.attrs.flag("allowzero"))?;
    let result = Type::new(x.dtype, shape);
    match (x.n_elements().as_known(), result.n_elements().as_known()) {
        (Some(a), Some(b)) if a != b => Err(type_error(format!("{a} elements cannot become {result}"))
            .hint("the product of the sizes must stay")),
        _ => Ok(vec![result]),
    }
}

/// The shape a reshape from `from` to `to` gives.
fn reshape(from: &[Dim], to: &[Dim], allow_zero: bool) -> Result<Vec<Dim>, Diag> {
    let mut out = Vec::with_capacity(to.len());
    let mut wild = None;
    for (at, dim) in to.iter().enumerate() {
        match dim.as_known() {
            Some(0) if !allow_zero => {
                let kept = from.get(at).ok_or_else(|| {
                    attr_error(format!("size {at} of the shape is 0, but the operand has no dimension {at}"))
                })?;
                out.push(kept.clone());
            }
            Some(-1) if wild.is_none() => {
                wild = Some(at);
                out.push(Dim::known(1));
            }
            Some(n) if n < 0 => return Err(attr_error(format!("size {at} of the shape is {n}"))),
            _ => out.push(dim.clone()),
        }
    }
    if let Some(at) = wild {
        out[at] = remaining(from, &out)?;
    }
    Ok(out)
}

/// What is left of the elements of `from` beside the sizes `taken`.
fn remaining(from: &[Dim], taken: &[Dim]) -> Result<Dim, Diag> {
    // Equal sizes cancel first: division of polynomials is exact by single terms only.
    let mut left = from.to_vec();
    let mut divisor = Dim::known(1);
    for dim in taken {
        match left.iter().position(|d| d == dim) {
            Some(at) => drop(left.remove(at)),
            None => divisor = divisor * dim.clone(),
        }
    }
    let product = left.into_iter().fold(Dim::known(1), |n, d| n * d);
    if let (Some(n), Some(by)) = (product.as_known(), divisor.as_known())
        && (by == 0 || n % by != 0)
    {
        return Err(attr_error(format!("{n} elements do not divide by {by}"))
            .hint("the size -1 stands for must be a whole number"));
    }
    Ok(product.floor_div(&divisor))
}

fn eval_reshape(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    eval_view(ctx, infer_reshape)
}

fn sample_reshape(rng: &mut Rng) -> Sample {
    let x = sample_any(rng);
    let mut to: Vec<i64> = x.shape().iter().map(|&d| d as i64).collect();
    if to.len() > 1 && rng.below(2) == 0 {
        let last = to.pop().unwrap_or(1);
        to.last_mut().into_iter().for_each(|d| *d *= last);
    }
    if rng.below(2) == 0 {
        to.insert(rng.below(to.len() + 1), 1);
    }
    if let Some(at) = (0..to.len()).find(|_| rng.below(3) == 0) {
        to[at] = -1;
    }
    if to.first() == x.shape().first().map(|&d| d as i64).as_ref() && rng.below(2) == 0 && !to.is_empty() {
        to[0] = 0;
    }
    attr_or_operand(rng, x, "shape", &to)
}

static FLATTEN: OpDef = OpDef {
    name: "flatten",
    doc: "x as a matrix: the axes before `axis` are rows, the others columns.",
    onnx: &[onnx("Flatten", 9)],
    inputs: exactly(1),
    attrs: &[attr("axis", AttrKind::Int)],
    infer: infer_flatten,
    eval: |c| eval_view(c, infer_flatten),
    sample: |rng| {
        let mut sample = sample_of(vec![sample_any(rng)]);
        let rank = sample.inputs[0].as_ref().map_or(0, Tensor::rank) as i64;
        if rng.below(3) > 0 && rank > 0 {
            sample.attrs.set("axis", rng.int(-rank, rank));
        }
        sample
    },
    ..VIEW
};

fn infer_flatten(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    let axis = ctx.attrs.int_or("axis", 1);
    // The axis may be the rank itself: then all are rows. A scalar is one row.
    let rank = x.rank().max(1);
    let axis = if axis == rank as i64 { rank } else { axis_of(axis, rank)? };
    let product = |dims: &[Dim]| dims.iter().fold(Dim::known(1), |n, d| n * d.clone());
    let (rows, columns) = x.shape.split_at(axis.min(x.rank()));
    Ok(vec![Type::new(x.dtype, [product(rows), product(columns)])])
}

static SQUEEZE: OpDef = OpDef {
    name: "squeeze",
    doc: "x without the named dimensions of size 1, or without all of them.",
    onnx: &[onnx("Squeeze", 13)],
    attrs: &[operand("axes", AttrKind::Ints, 1)],
    infer: infer_squeeze,
    content: Some(|c| list_content(c, infer_squeeze)),
    eval: |c| eval_view(c, infer_squeeze),
    sample: sample_squeeze,
    ..VIEW
};

fn infer_squeeze(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    or_unknown(exact_squeeze(ctx), || {
        unknown_type(ctx, input(ctx, 0).ok()?.rank().checked_sub(list_len(ctx, 1)?)?)
    })
}

fn exact_squeeze(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    let axes = match integers(ctx, "axes", 1)? {
        Some(axes) => normal_axes(&axes, x.rank())?,
        // Every size of 1 goes, so all must be known.
        None if x.shape.iter().any(|d| d.as_known().is_none()) => return Err(data_dependent()),
        None => (0..x.rank()).filter(|&a| x.shape[a].is(1)).collect(),
    };
    if let Some(axis) = axes.iter().find(|&&a| x.shape[a].as_known().is_some_and(|d| d != 1)) {
        let text = format!("axis {axis} has the size {}, only size 1 can be removed", x.shape[*axis]);
        return Err(type_error(text));
    }
    let kept = x.shape.iter().enumerate().filter(|(a, _)| !axes.contains(a)).map(|(_, d)| d.clone());
    Ok(vec![Type::new(x.dtype, kept.collect::<Vec<Dim>>())])
}

fn sample_squeeze(rng: &mut Rng) -> Sample {
    let (dtype, mut shape) = (any(rng), shape(rng));
    let mut axes = Vec::new();
    for _ in 0..rng.below(3) {
        let at = rng.below(shape.len() + 1);
        axes.iter_mut().for_each(|a: &mut i64| *a += i64::from(*a >= at as i64));
        shape.insert(at, 1);
        axes.push(at as i64);
    }
    let x = values(rng, dtype, &shape);
    if axes.is_empty() || rng.below(3) == 0 {
        return sample_of(vec![x]);
    }
    if rng.below(2) == 0 {
        axes[0] -= shape.len() as i64;
    }
    attr_or_operand(rng, x, "axes", &axes)
}

static UNSQUEEZE: OpDef = OpDef {
    name: "unsqueeze",
    doc: "x with dimensions of size 1 put in at `axes` of the result.",
    onnx: &[onnx("Unsqueeze", 13)],
    attrs: &[operand("axes", AttrKind::Ints, 1)],
    infer: infer_unsqueeze,
    content: Some(|c| list_content(c, infer_unsqueeze)),
    eval: |c| eval_view(c, infer_unsqueeze),
    sample: sample_unsqueeze,
    ..VIEW
};

fn infer_unsqueeze(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    or_unknown(exact_unsqueeze(ctx), || unknown_type(ctx, input(ctx, 0).ok()?.rank() + list_len(ctx, 1)?))
}

fn exact_unsqueeze(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    let axes = integers(ctx, "axes", 1)?
        .ok_or_else(|| attr_error("axes are missing").hint("say where the dimensions go"))?;
    let rank = x.rank() + axes.len();
    let axes = normal_axes(&axes, rank)?;
    let mut old = x.shape.iter().cloned();
    let shape: Vec<Dim> = (0..rank)
        .map(|a| if axes.contains(&a) { Dim::known(1) } else { old.next().unwrap_or_default() })
        .collect();
    Ok(vec![Type::new(x.dtype, shape)])
}

fn sample_unsqueeze(rng: &mut Rng) -> Sample {
    let x = sample_any(rng);
    let n = 1 + rng.below(2);
    let rank = (x.rank() + n) as i64;
    let first = rng.int(0, rank - 1);
    let mut axes = vec![first];
    if n == 2 {
        axes.push((first + 1) % rank - rank);
    }
    attr_or_operand(rng, x, "axes", &axes)
}

static SHAPE: OpDef = OpDef {
    name: "shape",
    doc: "The sizes of x from axis `start` to before axis `end`.",
    onnx: &[onnx("Shape", 1)],
    inputs: exactly(1),
    attrs: &[attr("end", AttrKind::Int), attr("start", AttrKind::Int)],
    traits: crate::common::TEXT,
    infer: |c| Ok(vec![Type::known(DType::I64, &[shape_range(c.attrs, input(c, 0)?.rank()).len()])]),
    content: Some(|c| {
        let x = input(c, 0).ok()?;
        Some(x.shape[shape_range(c.attrs, x.rank())].to_vec())
    }),
    eval: |c| {
        let x = tensor(c, 0)?;
        let sizes: Vec<i64> = x.shape().iter().map(|&d| d as i64).collect();
        Ok(vec![list(&sizes[shape_range(c.attrs, x.rank())])])
    },
    sample: |rng| {
        let mut sample = sample_of(vec![sample_any(rng)]);
        for name in ["end", "start"] {
            if rng.below(3) == 0 {
                sample.attrs.set(name, rng.int(-5, 5));
            }
        }
        sample
    },
    ..VIEW
};

/// The axes `start..end`, clamped as ONNX does.
fn shape_range(attrs: &Attrs, rank: usize) -> std::ops::Range<usize> {
    let rank = rank as i64;
    let clamp = |v: i64| if v < 0 { v.saturating_add(rank).max(0) } else { v.min(rank) } as usize;
    let (start, end) = (clamp(attrs.int_or("start", 0)), clamp(attrs.int_or("end", rank)));
    start..end.max(start)
}

static SIZE: OpDef = OpDef {
    name: "size",
    doc: "The number of elements of x.",
    onnx: &[onnx("Size", 1)],
    inputs: exactly(1),
    traits: crate::common::TEXT,
    infer: |_| Ok(vec![Type::known(DType::I64, &[])]),
    content: Some(|c| Some(vec![input(c, 0).ok()?.n_elements()])),
    eval: |c| Ok(vec![Tensor::scalar(tensor(c, 0)?.n_elements() as i64)]),
    sample: |rng| sample_of(vec![sample_any(rng)]),
    ..VIEW
};

static EXPAND: OpDef = OpDef {
    name: "expand",
    doc: "x broadcast with the shape.",
    onnx: &[onnx("Expand", 8)],
    attrs: &[operand("shape", AttrKind::Dims, 1)],
    traits: crate::common::MOVES,
    infer: infer_expand,
    content: Some(content_expand),
    eval: |c| {
        let (x, shape) = (tensor(c, 0)?, result_shape(c, infer_expand)?);
        Ok(vec![take(x, &shape, &broadcast_walk(&shape, x.shape()))?])
    },
    data: None,
    work: work_move,
    sample: |rng| {
        let (dtype, full) = (any(rng), shape(rng));
        let small = crate::samples::shrink(rng, &full);
        let to: Vec<i64> = crate::samples::shrink(rng, &full).iter().map(|&d| d as i64).collect();
        let x = values(rng, dtype, &small);
        attr_or_operand(rng, x, "shape", &to)
    },
    ..VIEW
};

fn infer_expand(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    or_unknown(exact_expand(ctx), || unknown_type(ctx, input(ctx, 0).ok()?.rank().max(list_len(ctx, 1)?)))
}

fn exact_expand(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    let shape = sizes(ctx, "shape", 1)?;
    if let Some(dim) = shape.iter().find(|d| d.as_known().is_some_and(|d| d < 0)) {
        return Err(attr_error(format!("a size of the shape is {dim}")));
    }
    Ok(vec![Type::new(x.dtype, crate::common::broadcast(&[&x.shape, &shape])?)])
}

fn content_expand(ctx: &InferCtx) -> Option<Vec<Dim>> {
    let ty = infer_expand(ctx).ok()?.remove(0);
    let values = content::dims(ctx, 0)?;
    repeat_list(&ty, values)
}

/// One value for every element of a list of type `ty`, or the values themselves when there are as many.
pub(crate) fn repeat_list(ty: &Type, values: Vec<Dim>) -> Option<Vec<Dim>> {
    /// Longer lists are no shapes.
    const MAX_LIST: i64 = 64;
    let n = ty.n_elements().as_known().filter(|&n| ty.rank() <= 1 && n <= MAX_LIST)?;
    let n = usize::try_from(n).ok()?;
    match values.as_slice() {
        _ if !content::holds_sizes(ty.dtype) => None,
        [one] => Some(vec![one.clone(); n]),
        _ => (values.len() == n).then_some(values),
    }
}
