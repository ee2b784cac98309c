//! Operators that cut and join along axes: slice, split, concat, pad.

use crate::common::{
    MOVES, at_least, attr, attr_error, axis_of, between, data_dependent, exactly, input, onnx, operand,
    required, sample_of, tensor, type_error, work_move,
};
use crate::content;
use crate::elements::from_bytes;
use crate::layout::{by_tables, element_bytes, empty};
use crate::samples::{any, list, shape_of_rank, values};
use crate::shapes::{
    integers, is_given, list_len, normal_axes, or_unknown, result_shape, result_types, sizes, unify,
    unknown_type,
};
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Operand, Rng, Sample};
use partita_ir::types::{Content, Type};
use partita_ir::{Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&CONCAT, &PAD, &SLICE, &SPLIT];

/// What these rows have in common.
const CUT: OpDef = OpDef {
    name: "",
    doc: "",
    onnx: &[],
    inputs: between(1, 5),
    outputs: exactly(1),
    attrs: &[],
    traits: MOVES,
    infer: infer_slice,
    content: None,
    eval: eval_slice,
    scalar: None,
    data: None,
    work: work_move,
    sample: sample_slice,
};

static SLICE: OpDef = OpDef {
    name: "slice",
    doc: "Every `step`-th element from `start` to before `end` along the given axes.",
    onnx: &[onnx("Slice", 10)],
    attrs: &[
        operand("axes", AttrKind::Ints, 3),
        operand("ends", AttrKind::Dims, 2),
        operand("starts", AttrKind::Dims, 1),
        operand("steps", AttrKind::Ints, 4),
    ],
    content: Some(content_slice),
    ..CUT
};

/// A cut along one axis: `len` elements from `start`, `step` apart.
#[derive(Clone, Debug)]
struct Cut {
    start: Dim,
    step: i64,
    len: Dim,
}

/// Ends from here on mean "to the end" (and their negatives "to the beginning"), whatever the size is.
const FAR: i64 = i32::MAX as i64;

/// A position within `0..=size`, where negative ones count from the end.
fn position(at: &Dim, size: &Dim) -> Result<Dim, Diag> {
    let known = at.as_known();
    if known.is_some_and(|v| v >= FAR) {
        return Ok(size.clone());
    }
    if known.is_some_and(|v| v < -FAR) {
        return Ok(Dim::known(0));
    }
    if at.at_least().is_some_and(|v| v >= 0) {
        return Ok(at.smaller(size));
    }
    let is_negative = (Dim::known(0) - at.clone()).at_least().is_some_and(|v| v > 0);
    if is_negative {
        return Ok((at.clone() + size.clone()).larger(&Dim::known(0)));
    }
    Err(data_dependent())
}

/// The cut of an axis of the given size, clamped as ONNX does.
fn cut(start: &Dim, end: &Dim, step: i64, size: &Dim) -> Result<Cut, Diag> {
    if step == 0 {
        return Err(attr_error("a step is 0").hint("use a positive or negative step"));
    }
    // Longer steps than any axis is long are all the same, and do not overflow.
    let step = step.clamp(-FAR, FAR);
    if step > 0 {
        let (start, end) = (position(start, size)?, position(end, size)?);
        let len = (end - start.clone()).ceil_div(&Dim::known(step)).larger(&Dim::known(0));
        return Ok(Cut { start, step, len });
    }
    // Backwards, the first element is at most the last one, and the end may lie before the first.
    let last = size.clone() - Dim::known(1);
    let start = position(start, size)?.smaller(&last);
    let end = match end.as_known() {
        Some(v) if v < -FAR => Dim::known(-1),
        // -1 - size is the first end that lies before the beginning.
        Some(v) if v < 0 => (Dim::known(v) + size.clone()).larger(&Dim::known(-1)),
        _ => position(end, size)?.smaller(&last),
    };
    let len = (start.clone() - end).ceil_div(&Dim::known(-step)).larger(&Dim::known(0));
    Ok(Cut { start, step, len })
}

/// The cut of every axis.
fn cuts(ctx: &InferCtx) -> Result<Vec<Cut>, Diag> {
    let shape = &input(ctx, 0)?.shape;
    let (starts, ends) = (sizes(ctx, "starts", 1)?, sizes(ctx, "ends", 2)?);
    let axes = match integers(ctx, "axes", 3)? {
        Some(axes) => normal_axes(&axes, shape.len())?,
        None => (0..starts.len()).collect(),
    };
    let steps = integers(ctx, "steps", 4)?.unwrap_or_else(|| vec![1; axes.len()]);
    if starts.len() != axes.len() || ends.len() != axes.len() || steps.len() != axes.len() {
        return Err(attr_error("starts, ends, axes and steps differ in length"));
    }
    let mut out: Vec<Cut> =
        shape.iter().map(|d| Cut { start: Dim::known(0), step: 1, len: d.clone() }).collect();
    for (n, &axis) in axes.iter().enumerate() {
        let size = shape
            .get(axis)
            .ok_or_else(|| attr_error(format!("{} starts for {} dimensions", starts.len(), shape.len())))?;
        out[axis] = cut(&starts[n], &ends[n], steps[n], size)?;
    }
    Ok(out)
}

fn infer_slice(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let exact = |cuts: Vec<Cut>| cuts.into_iter().map(|c| c.len).collect::<Vec<Dim>>();
    let x = input(ctx, 0)?;
    or_unknown(cuts(ctx).map(|c| vec![Type::new(x.dtype, exact(c))]), || {
        // Axes that are not cut keep their sizes.
        let mut shape = x.shape.clone();
        let axes = match integers(ctx, "axes", 3) {
            Ok(Some(axes)) => normal_axes(&axes, x.rank()).ok()?,
            Ok(None) => (0..list_len(ctx, 1).unwrap_or(x.rank()).min(x.rank())).collect(),
            Err(_) => (0..x.rank()).collect(),
        };
        axes.into_iter().for_each(|a| shape[a] = Dim::unknown(0, a));
        Some(vec![Type::new(x.dtype, shape)])
    })
}

fn content_slice(ctx: &InferCtx) -> Option<Vec<Dim>> {
    let list = content::dims(ctx, 0)?;
    let cuts = cuts(ctx).ok()?;
    let [cut] = cuts.as_slice() else { return None };
    let (start, len) = (cut.start.as_known()?, cut.len.as_known()?);
    (0..len).map(|i| list.get(usize::try_from(start + i * cut.step).ok()?).cloned()).collect()
}

fn eval_slice(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    if let Some(empty) = empty(tensor(ctx, 0)?, &result_shape(ctx, infer_slice)?) {
        return Ok(empty);
    }
    let known: Vec<Option<(Type, Content)>> = ctx
        .inputs
        .iter()
        .map(|t| t.map(|t| (Type::known(t.dtype(), t.shape()), Content::Const(t.clone()))))
        .collect();
    let inputs: Vec<Option<Operand>> =
        known.iter().map(|o| o.as_ref().map(|(ty, c)| Operand { ty, content: Some(c) })).collect();
    let cuts = cuts(&InferCtx { attrs: ctx.attrs, inputs: &inputs, n_outputs: 1 })?;
    let table = |c: &Cut| -> Option<Vec<Option<usize>>> {
        let (start, len) = (c.start.as_known()?, c.len.as_known()?);
        (0..len).map(|i| usize::try_from(start + i * c.step).ok().map(Some)).collect()
    };
    let tables: Option<Vec<_>> = cuts.iter().map(table).collect();
    let tables = tables.ok_or_else(|| type_error("the slice leaves the operand"))?;
    Ok(vec![by_tables(tensor(ctx, 0)?, &tables, &[])?])
}

fn sample_slice(rng: &mut Rng) -> Sample {
    let (dtype, shape) = (any(rng), shape_of_rank(rng, 1));
    let mut sample = sample_of(vec![values(rng, dtype, &shape)]);
    let far = [i64::MAX, i64::MIN, i64::from(i32::MAX), i64::from(i32::MIN)];
    let axes: Vec<i64> = (0..shape.len() as i64).filter(|_| rng.below(2) == 0).collect();
    let bound = |rng: &mut Rng| if rng.below(4) == 0 { *rng.pick(&far) } else { rng.int(-6, 6) };
    let starts: Vec<i64> = axes.iter().map(|_| bound(rng)).collect();
    let ends: Vec<i64> = axes.iter().map(|_| bound(rng)).collect();
    let steps: Vec<i64> = axes.iter().map(|_| *rng.pick(&[1, 1, 1, 2, 3, -1, -2])).collect();
    let lists = [("starts", starts), ("ends", ends), ("axes", axes), ("steps", steps)];
    for (name, given) in lists {
        if rng.below(2) == 0 {
            sample.attrs.set(name, given);
            sample.inputs.push(None);
        } else {
            sample.inputs.push(Some(list(&given)));
        }
    }
    sample
}

static CONCAT: OpDef = OpDef {
    name: "concat",
    doc: "The operands one behind the other along an axis.",
    onnx: &[onnx("Concat", 4)],
    inputs: at_least(1),
    attrs: &[required("axis", AttrKind::Int)],
    infer: infer_concat,
    content: Some(content_concat),
    eval: eval_concat,
    sample: |rng| {
        let (dtype, mut shape) = (any(rng), shape_of_rank(rng, 1));
        let axis = rng.below(shape.len());
        let mut inputs = Vec::new();
        for _ in 0..=rng.below(3) {
            shape[axis] = rng.below(4);
            inputs.push(values(rng, dtype, &shape));
        }
        let mut sample = sample_of(inputs);
        let back = if rng.below(2) == 0 { shape.len() as i64 } else { 0 };
        sample.attrs.set("axis", axis as i64 - back);
        sample
    },
    ..CUT
};

fn axis_attr(attrs: &partita_ir::Attrs, default: i64, rank: usize) -> Result<usize, Diag> {
    axis_of(attrs.int_or("axis", default), rank)
}

fn infer_concat(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let dtype = crate::scalar::same_dtypes(ctx)?;
    let first = input(ctx, 0)?;
    let axis = axis_attr(ctx.attrs, 0, first.rank())?;
    let mut shape = first.shape.clone();
    for n in 1..ctx.inputs.len() {
        let next = input(ctx, n)?;
        if next.rank() != shape.len() {
            return Err(type_error(format!("operand {n} is {next}, operand 0 is {first}"))
                .hint("all operands must have the same number of dimensions"));
        }
        for (at, (slot, dim)) in shape.iter_mut().zip(&next.shape).enumerate() {
            *slot = if at == axis { slot.clone() + dim.clone() } else { unify(slot, dim)? };
        }
    }
    Ok(vec![Type::new(dtype, shape)])
}

fn content_concat(ctx: &InferCtx) -> Option<Vec<Dim>> {
    let ty = infer_concat(ctx).ok()?.remove(0);
    if ty.rank() != 1 || !content::holds_sizes(ty.dtype) {
        return None;
    }
    let lists: Option<Vec<Vec<Dim>>> = (0..ctx.inputs.len()).map(|n| content::dims(ctx, n)).collect();
    Some(lists?.concat())
}

/// Elements behind `axis` per index, in bytes.
fn block_bytes(t: &Tensor, axis: usize) -> usize {
    t.shape()[axis + 1..].iter().product::<usize>() * t.dtype().size_bytes()
}

fn eval_concat(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let shape = result_shape(ctx, infer_concat)?;
    let first = tensor(ctx, 0)?;
    let axis = axis_attr(ctx.attrs, 0, first.rank())?;
    let outer: usize = shape[..axis].iter().product();
    let mut bytes = Vec::new();
    for row in 0..outer {
        for t in ctx.inputs.iter().flatten() {
            let len = block_bytes(t, axis) * t.shape()[axis];
            bytes.extend_from_slice(&t.bytes()[row * len..(row + 1) * len]);
        }
    }
    Ok(vec![from_bytes(first.dtype(), &shape, bytes)?])
}

static SPLIT: OpDef = OpDef {
    name: "split",
    doc: "x cut along an axis into parts of the given sizes, or into equal parts (the last may be smaller).",
    onnx: &[onnx("Split", 2)],
    inputs: between(1, 2),
    outputs: at_least(1),
    attrs: &[
        attr("axis", AttrKind::Int),
        attr("num_outputs", AttrKind::Int),
        operand("split", AttrKind::Dims, 1),
    ],
    infer: infer_split,
    eval: eval_split,
    sample: sample_split,
    ..CUT
};

fn infer_split(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    or_unknown(exact_split(ctx), || {
        let x = input(ctx, 0).ok()?;
        let axis = axis_attr(ctx.attrs, 0, x.rank()).ok()?;
        let part = |n: usize| {
            let mut shape = x.shape.clone();
            shape[axis] = Dim::unknown(n, axis);
            Type::new(x.dtype, shape)
        };
        Some((0..ctx.n_outputs).map(part).collect())
    })
}

fn exact_split(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    let axis = axis_attr(ctx.attrs, 0, x.rank())?;
    let size = &x.shape[axis];
    let parts =
        if is_given(ctx, "split", 1) { sizes(ctx, "split", 1)? } else { equal_parts(size, ctx.n_outputs) };
    let total = parts.iter().fold(Dim::known(0), |n, p| n + p.clone());
    if parts.len() != ctx.n_outputs {
        let text = format!("{} parts are given, {} results are asked for", parts.len(), ctx.n_outputs);
        return Err(attr_error(text));
    }
    unify(size, &total).map_err(|d| d.hint("the sizes of the parts must add up to the size of the axis"))?;
    let typed = parts.into_iter().map(|part| {
        let mut shape = x.shape.clone();
        shape[axis] = part;
        Type::new(x.dtype, shape)
    });
    Ok(typed.collect())
}

/// Parts of `ceil(size / n)`, and what is left.
fn equal_parts(size: &Dim, n: usize) -> Vec<Dim> {
    let n_parts = Dim::from(n.max(1));
    let part = size.exact_div(&n_parts).unwrap_or_else(|| size.ceil_div(&n_parts));
    let left = |i: usize| (size.clone() - part.clone() * Dim::from(i)).larger(&Dim::known(0));
    if size.exact_div(&n_parts).is_some() {
        return vec![part; n];
    }
    (0..n).map(|i| part.smaller(&left(i))).collect()
}

fn eval_split(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let x = tensor(ctx, 0)?;
    let axis = axis_attr(ctx.attrs, 0, x.rank())?;
    let outer: usize = x.shape()[..axis].iter().product();
    let (block, row) = (block_bytes(x, axis), block_bytes(x, axis) * x.shape()[axis]);
    let mut start = 0;
    let mut out = Vec::new();
    for ty in result_types(ctx, infer_split)? {
        let shape = ty.known_shape().ok_or_else(data_dependent)?;
        let range = start * block..(start + shape[axis]) * block;
        let rows = (0..outer).map(|o| x.bytes().get(o * row + range.start..o * row + range.end));
        let rows: Option<Vec<&[u8]>> = rows.collect();
        let rows = rows.ok_or_else(|| type_error("the parts are larger than the operand"))?;
        start += shape[axis];
        out.push(from_bytes(x.dtype(), &shape, rows.concat())?);
    }
    Ok(out)
}

fn sample_split(rng: &mut Rng) -> Sample {
    let (dtype, mut shape) = (any(rng), shape_of_rank(rng, 1));
    let (axis, n_outputs) = (rng.below(shape.len()), 1 + rng.below(3));
    let parts: Vec<i64> = (0..n_outputs).map(|_| rng.int(0, 3)).collect();
    shape[axis] = parts.iter().sum::<i64>() as usize;
    let mut sample = Sample { n_outputs, ..sample_of(vec![values(rng, dtype, &shape)]) };
    sample.attrs.set("axis", axis as i64);
    match rng.below(3) {
        0 => sample.attrs.set("split", parts),
        1 => sample.inputs.push(Some(list(&parts))),
        _ => sample.attrs.set("num_outputs", n_outputs as i64),
    }
    sample
}

static PAD: OpDef = OpDef {
    name: "pad",
    doc: "x with elements put before and behind along axes; negative pads cut.",
    onnx: &[onnx("Pad", 11)],
    inputs: between(1, 4),
    attrs: &[
        operand("axes", AttrKind::Ints, 3),
        attr("mode", AttrKind::Str),
        operand("pads", AttrKind::Dims, 1),
        operand("value", AttrKind::Float, 2),
    ],
    infer: infer_pad,
    eval: eval_pad,
    sample: sample_pad,
    ..CUT
};

/// Where elements outside of the operand come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PadMode {
    Constant,
    Reflect,
    Edge,
    Wrap,
}

fn pad_mode(attrs: &partita_ir::Attrs) -> Result<PadMode, Diag> {
    match attrs.str("mode") {
        None | Some("constant") => Ok(PadMode::Constant),
        Some("reflect") => Ok(PadMode::Reflect),
        Some("edge") => Ok(PadMode::Edge),
        Some("wrap") => Ok(PadMode::Wrap),
        Some(other) => Err(attr_error(format!("mode is \"{other}\""))
            .hint("use \"constant\", \"reflect\", \"edge\" or \"wrap\"")),
    }
}

/// Pads before and behind each axis of `rank`.
fn pads(ctx: &InferCtx, rank: usize) -> Result<Vec<(Dim, Dim)>, Diag> {
    let given = sizes(ctx, "pads", 1)?;
    let axes = match integers(ctx, "axes", 3)? {
        Some(axes) => normal_axes(&axes, rank)?,
        None => (0..rank).collect(),
    };
    if given.len() != 2 * axes.len() {
        return Err(attr_error(format!("{} pads for {} axes", given.len(), axes.len()))
            .hint("give one number before and one behind for every axis"));
    }
    let mut out = vec![(Dim::known(0), Dim::known(0)); rank];
    for (n, &axis) in axes.iter().enumerate() {
        out[axis] = (given[n].clone(), given[n + axes.len()].clone());
    }
    Ok(out)
}

fn infer_pad(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    or_unknown(exact_pad(ctx), || unknown_type(ctx, input(ctx, 0).ok()?.rank()))
}

fn exact_pad(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    let mode = pad_mode(ctx.attrs)?;
    let mut shape = Vec::with_capacity(x.rank());
    for (size, (before, behind)) in x.shape.iter().zip(pads(ctx, x.rank())?) {
        let padded = size.clone() + before + behind;
        if padded.as_known().is_some_and(|d| d < 0) {
            return Err(attr_error(format!("the pads cut more than the {size} elements there are")));
        }
        if mode != PadMode::Constant && size.is(0) && !padded.is(0) {
            return Err(type_error("an empty axis has nothing to repeat"));
        }
        shape.push(padded);
    }
    Ok(vec![Type::new(x.dtype, shape)])
}

/// The index read for position `at` (relative to the operand) along an axis of `size` elements.
fn padded_index(at: i64, size: usize, mode: PadMode) -> Option<usize> {
    let n = size as i64;
    let index = match mode {
        PadMode::Constant => at,
        PadMode::Edge => at.clamp(0, n - 1),
        PadMode::Wrap => at.rem_euclid(n),
        PadMode::Reflect if n == 1 => 0,
        PadMode::Reflect => {
            let period = 2 * (n - 1);
            let folded = at.rem_euclid(period);
            folded.min(period - folded)
        }
    };
    usize::try_from(index).ok().filter(|&i| i < size)
}

fn eval_pad(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (x, shape, mode) = (tensor(ctx, 0)?, result_shape(ctx, infer_pad)?, pad_mode(ctx.attrs)?);
    if let Some(empty) = empty(x, &shape) {
        return Ok(empty);
    }
    let given = crate::common::ints_of(ctx, "pads", 1).unwrap_or_default();
    let axes = match crate::common::ints_of(ctx, "axes", 3) {
        Some(axes) => normal_axes(&axes, x.rank())?,
        None => (0..x.rank()).collect(),
    };
    let before = |axis: usize| axes.iter().position(|&a| a == axis).map_or(0, |n| given[n]);
    let table = |(axis, &n): (usize, &usize)| {
        (0..n as i64).map(|i| padded_index(i.saturating_sub(before(axis)), x.shape()[axis], mode)).collect()
    };
    let tables: Vec<Vec<Option<usize>>> = shape.iter().enumerate().map(table).collect();
    let fill = match ctx.inputs.get(2).copied().flatten() {
        Some(value) => value.bytes().to_vec(),
        None => element_bytes(x.dtype(), f64::from(ctx.attrs.float_or("value", 0.0)))?,
    };
    Ok(vec![by_tables(x, &tables, &fill)?])
}

fn sample_pad(rng: &mut Rng) -> Sample {
    let (dtype, shape) = (any(rng), shape_of_rank(rng, 1));
    let mut sample = sample_of(vec![values(rng, dtype, &shape)]);
    let axes: Vec<i64> = (0..shape.len() as i64).filter(|_| rng.below(3) > 0).collect();
    let mode = *rng.pick(&["", "constant", "reflect", "edge", "wrap"]);
    let low = if mode.len() < 5 || mode == "constant" { -1 } else { 0 };
    let mut pads: Vec<i64> = axes.iter().map(|_| rng.int(low, 2)).collect();
    pads.extend(axes.iter().map(|_| rng.int(0, 2)).collect::<Vec<i64>>());
    if !mode.is_empty() {
        sample.attrs.set("mode", mode);
    }
    sample.inputs.push(Some(list(&pads)));
    if rng.below(2) == 0 {
        sample.inputs.push(Some(values(rng, dtype, &[])));
    } else {
        sample.inputs.push(None);
        sample.attrs.set("value", 1.0f32);
    }
    sample.inputs.push(Some(list(&axes)));
    sample
}
