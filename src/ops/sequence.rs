//! Sequences of tensors: making, changing, measuring and joining them.
//!
//! A sequence type names the type of its items. Where items may differ in shape that type has an element type only.

use crate::common::{
    PLAIN, at_least, attr, axis_of, between, exactly, no_tensors, onnx, required, type_error, unsupported,
    work_free,
};
use crate::elements::{from_bytes, reshaped};
use partita_ir::attr::Attrs;
use partita_ir::data::DataCtx;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, InferCtx, OpDef, Operand, Rng, Sample};
use partita_ir::tensor::share_tables;
use partita_ir::types::{Form, Type};
use partita_ir::{DType, Datum, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[
    &CONCAT_FROM_SEQUENCE,
    &SEQUENCE_AT,
    &SEQUENCE_CONSTRUCT,
    &SEQUENCE_EMPTY,
    &SEQUENCE_ERASE,
    &SEQUENCE_INSERT,
    &SEQUENCE_LENGTH,
    &SPLIT_TO_SEQUENCE,
];

/// Longest sequence.
const MAX_ITEMS: usize = 1 << 24;

static SEQUENCE_EMPTY: OpDef = OpDef {
    name: "sequence_empty",
    doc: "A sequence without items.",
    onnx: &[onnx("SequenceEmpty", 11)],
    inputs: exactly(0),
    outputs: exactly(1),
    attrs: &[attr("dtype", AttrKind::DType)],
    traits: PLAIN,
    infer: |c| Ok(vec![Type::sequence(Type::unranked(c.attrs.dtype("dtype").unwrap_or(DType::F32)))]),
    content: None,
    eval: no_tensors,
    scalar: None,
    data: Some(|_| Ok(vec![Datum::Sequence(Vec::new())])),
    work: work_free,
    sample: no_sample,
};

static SEQUENCE_CONSTRUCT: OpDef = OpDef {
    name: "sequence_construct",
    doc: "The operands as items of a sequence.",
    onnx: &[onnx("SequenceConstruct", 11)],
    inputs: at_least(1),
    attrs: &[],
    infer: infer_construct,
    data: Some(eval_construct),
    ..SEQUENCE_EMPTY
};

static SEQUENCE_INSERT: OpDef = OpDef {
    name: "sequence_insert",
    doc: "The sequence with an item more, before a position or at the end.",
    onnx: &[onnx("SequenceInsert", 11)],
    inputs: between(2, 3),
    attrs: &[],
    infer: infer_insert,
    data: Some(eval_insert),
    ..SEQUENCE_EMPTY
};

static SEQUENCE_ERASE: OpDef = OpDef {
    name: "sequence_erase",
    doc: "The sequence without the item at a position, or without the last.",
    onnx: &[onnx("SequenceErase", 11)],
    inputs: between(1, 2),
    attrs: &[],
    infer: |c| {
        item(c)?;
        Ok(c.inputs.iter().flatten().take(1).map(|o| o.ty.clone()).collect())
    },
    data: Some(eval_erase),
    ..SEQUENCE_EMPTY
};

static SEQUENCE_AT: OpDef = OpDef {
    name: "sequence_at",
    doc: "The item at a position.",
    onnx: &[onnx("SequenceAt", 11)],
    inputs: exactly(2),
    attrs: &[],
    infer: |c| Ok(vec![item(c)?]),
    data: Some(eval_at),
    ..SEQUENCE_EMPTY
};

static SEQUENCE_LENGTH: OpDef = OpDef {
    name: "sequence_length",
    doc: "The number of items.",
    onnx: &[onnx("SequenceLength", 11)],
    inputs: exactly(1),
    attrs: &[],
    infer: |c| item(c).map(|_| vec![Type::new(DType::I64, [])]),
    data: Some(|c| Ok(vec![Datum::Tensor(Tensor::scalar(sequence(c)?.len() as i64))])),
    ..SEQUENCE_EMPTY
};

static SPLIT_TO_SEQUENCE: OpDef = OpDef {
    name: "split_to_sequence",
    doc: "Parts of a tensor along an axis, of one size or of listed sizes, as a sequence.",
    onnx: &[onnx("SplitToSequence", 11)],
    inputs: between(1, 2),
    attrs: &[attr("axis", AttrKind::Int), attr("keepdims", AttrKind::Int)],
    infer: infer_split,
    data: Some(eval_split),
    ..SEQUENCE_EMPTY
};

static CONCAT_FROM_SEQUENCE: OpDef = OpDef {
    name: "concat_from_sequence",
    doc: "All items joined along an axis, or stacked along a new one.",
    onnx: &[onnx("ConcatFromSequence", 11)],
    inputs: exactly(1),
    attrs: &[required("axis", AttrKind::Int), attr("new_axis", AttrKind::Int)],
    infer: infer_join,
    data: Some(eval_join),
    ..SEQUENCE_EMPTY
};

/// Nothing is drawn: samples are tensors. Cases with other values are written by hand.
pub(crate) fn no_sample(_: &mut Rng) -> Sample {
    Sample { attrs: Attrs::new(), inputs: Vec::new(), n_outputs: 0 }
}

/// The type of operand `n`.
///
/// # Errors
/// `V020` when it is missing.
pub(crate) fn operand<'a>(ctx: &InferCtx<'a>, n: usize) -> Result<Operand<'a>, Diag> {
    let operand = ctx.inputs.get(n).copied().flatten();
    operand.ok_or_else(|| type_error(format!("operand {n} is missing")))
}

/// The type of the items of operand 0, which must be a sequence.
fn item(ctx: &InferCtx) -> Result<Type, Diag> {
    let ty = operand(ctx, 0)?.ty;
    match &ty.form {
        Form::Sequence(item) => Ok((**item).clone()),
        Form::Any => Ok(Type::any()),
        _ => Err(type_error(format!("operand 0 must be a sequence, it is {ty}"))),
    }
}

/// The type of items of two types.
///
/// # Errors
/// `V020` when their element types differ.
fn common_item(a: &Type, b: &Type) -> Result<Type, Diag> {
    let tensors = [a, b].iter().all(|t| matches!(t.form, Form::Tensor | Form::Unranked));
    match () {
        () if a == b => Ok(a.clone()),
        () if !tensors => Ok(Type::any()),
        () if a.dtype == b.dtype => Ok(Type::unranked(a.dtype)),
        () => Err(type_error(format!("a sequence of {a} cannot hold {b}"))
            .hint("all items of a sequence have one element type")),
    }
}

fn infer_construct(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let mut item = operand(ctx, 0)?.ty.clone();
    for n in 1..ctx.inputs.len() {
        item = common_item(&item, operand(ctx, n)?.ty)?;
    }
    Ok(vec![Type::sequence(item)])
}

/// The value of operand `n`.
///
/// # Errors
/// `V020` when it is missing.
pub(crate) fn datum<'a>(ctx: &DataCtx<'a>, n: usize) -> Result<&'a Datum, Diag> {
    let datum = ctx.inputs.get(n).copied().flatten();
    datum.ok_or_else(|| type_error(format!("operand {n} is missing")))
}

/// The items of operand 0.
fn sequence<'a>(ctx: &DataCtx<'a>) -> Result<&'a [Datum], Diag> {
    match datum(ctx, 0)? {
        Datum::Sequence(items) => Ok(items),
        other => Err(type_error(format!("operand 0 must be a sequence, it is {}", other.kind()))),
    }
}

fn eval_construct(ctx: &DataCtx) -> Result<Vec<Datum>, Diag> {
    let items: Vec<Datum> =
        (0..ctx.inputs.len()).map(|n| datum(ctx, n).cloned()).collect::<Result<_, _>>()?;
    one_dtype(&items)?;
    Ok(vec![Datum::Sequence(items)])
}

/// Checks that tensors among `items` have one element type.
fn one_dtype(items: &[Datum]) -> Result<(), Diag> {
    let mut dtypes = items.iter().filter_map(Datum::as_tensor).map(Tensor::dtype);
    let Some(first) = dtypes.next() else { return Ok(()) };
    match dtypes.find(|d| *d != first) {
        None => Ok(()),
        Some(other) => {
            Err(type_error(format!("a sequence of {} cannot hold {}", first.name(), other.name())))
        }
    }
}

/// The position that operand `n` names among `size` places, counted from the front; `None` when it is omitted.
fn position(ctx: &DataCtx, n: usize, size: usize) -> Result<Option<usize>, Diag> {
    let Some(given) = ctx.inputs.get(n).copied().flatten() else { return Ok(None) };
    let one = given.as_tensor().filter(|t| t.n_elements() == 1).map(|t| t.to_i64s()[0]);
    let at = one.ok_or_else(|| type_error(format!("operand {n}, a position, must be one integer")))?;
    let places = size as i64;
    let wrapped = if at < 0 { at.saturating_add(places) } else { at };
    match usize::try_from(wrapped) {
        Ok(at) => Ok(Some(at)),
        Err(_) => Err(crate::common::index_error(at, size)),
    }
}

fn infer_insert(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (items, new) = (item(ctx)?, operand(ctx, 1)?.ty);
    // Nothing but the element type is known of an empty sequence, so it stays that way.
    Ok(vec![Type::sequence(common_item(&items, new)?)])
}

fn eval_insert(ctx: &DataCtx) -> Result<Vec<Datum>, Diag> {
    let mut items = sequence(ctx)?.to_vec();
    let new = datum(ctx, 1)?.clone();
    if items.len() >= MAX_ITEMS {
        return Err(unsupported(format!("a sequence of {} items cannot grow", items.len())));
    }
    one_dtype(&[items.first(), Some(&new)].into_iter().flatten().cloned().collect::<Vec<_>>())?;
    // Positions reach from -n to n: an item may be put behind the last one.
    match position(ctx, 2, items.len())? {
        Some(at) if at > items.len() => return Err(crate::common::index_error(at as i64, items.len())),
        Some(at) => items.insert(at, new),
        None => items.push(new),
    }
    Ok(vec![Datum::Sequence(items)])
}

/// The position of an item that exists; the last one when operand `n` is omitted.
fn existing(ctx: &DataCtx, n: usize, size: usize) -> Result<usize, Diag> {
    match position(ctx, n, size)? {
        Some(at) if at < size => Ok(at),
        Some(at) => Err(crate::common::index_error(at as i64, size)),
        None => size.checked_sub(1).ok_or_else(|| crate::common::index_error(-1, 0)),
    }
}

fn eval_erase(ctx: &DataCtx) -> Result<Vec<Datum>, Diag> {
    let mut items = sequence(ctx)?.to_vec();
    items.remove(existing(ctx, 1, items.len())?);
    Ok(vec![Datum::Sequence(items)])
}

fn eval_at(ctx: &DataCtx) -> Result<Vec<Datum>, Diag> {
    let items = sequence(ctx)?;
    Ok(vec![items[existing(ctx, 1, items.len())?].clone()])
}

fn infer_split(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = operand(ctx, 0)?.ty;
    match x.form {
        Form::Tensor => {}
        Form::Unranked => return Ok(vec![Type::sequence(x.clone())]),
        Form::Any => return Ok(vec![Type::any()]),
        _ => return Err(type_error(format!("operand 0 must be a tensor, it is {x}"))),
    }
    let axis = axis_of(ctx.attrs.int_or("axis", 0), x.rank())?;
    let mut shape = x.shape.clone();
    if ctx.inputs.get(1).copied().flatten().is_some() {
        // The last part may be shorter, and listed sizes may differ.
        return Ok(vec![Type::sequence(Type::unranked(x.dtype))]);
    }
    if ctx.attrs.int_or("keepdims", 1) == 0 {
        shape.remove(axis);
    } else {
        shape[axis] = Dim::known(1);
    }
    Ok(vec![Type::sequence(Type::new(x.dtype, shape))])
}

/// The sizes of the parts of an axis of `size` elements.
fn part_sizes(ctx: &DataCtx, size: usize) -> Result<Vec<usize>, Diag> {
    let Some(split) = ctx.inputs.get(1).copied().flatten() else { return Ok(vec![1; size]) };
    let split = split.as_tensor().ok_or_else(|| type_error("the sizes of the parts must be a tensor"))?;
    let sizes: Option<Vec<usize>> = split.to_i64s().into_iter().map(|s| usize::try_from(s).ok()).collect();
    let sizes = sizes.ok_or_else(|| type_error("a part has a negative size"))?;
    if split.rank() > 0 {
        let sum = sizes.iter().fold(0usize, |sum, s| sum.saturating_add(*s));
        return if sum == size {
            Ok(sizes)
        } else {
            Err(type_error(format!("parts of {sum} elements do not make up an axis of {size}")))
        };
    }
    match sizes.first() {
        Some(&each) if each > 0 => Ok((0..size).step_by(each).map(|at| each.min(size - at)).collect()),
        _ => Err(type_error("parts must have at least one element")),
    }
}

fn eval_split(ctx: &DataCtx) -> Result<Vec<Datum>, Diag> {
    let x = datum(ctx, 0)?;
    let x =
        x.as_tensor().ok_or_else(|| type_error(format!("operand 0 must be a tensor, it is {}", x.kind())))?;
    let axis = axis_of(ctx.attrs.int_or("axis", 0), x.rank())?;
    let drop_axis = ctx.inputs.get(1).copied().flatten().is_none() && ctx.attrs.int_or("keepdims", 1) == 0;
    let sizes = part_sizes(ctx, x.shape()[axis])?;
    if sizes.len() > MAX_ITEMS {
        return Err(unsupported(format!("{} parts are too many", sizes.len())));
    }
    let mut parts = Vec::with_capacity(sizes.len());
    let mut at = 0;
    for size in sizes {
        let mut part = cut(x, axis, at, size)?;
        if drop_axis {
            let mut shape = part.shape().to_vec();
            shape.remove(axis);
            part = reshaped(&part, &shape)?;
        }
        parts.push(Datum::Tensor(part));
        at += size;
    }
    Ok(vec![Datum::Sequence(parts)])
}

/// Elements `start..start + size` along `axis`.
fn cut(x: &Tensor, axis: usize, start: usize, size: usize) -> Result<Tensor, Diag> {
    let inner = x.shape()[axis + 1..].iter().product::<usize>() * x.dtype().size_bytes();
    let block = x.shape()[axis] * inner;
    let mut shape = x.shape().to_vec();
    shape[axis] = size;
    let outer: usize = x.shape()[..axis].iter().product();
    let mut bytes = Vec::with_capacity(outer * size * inner);
    for n in 0..outer {
        let from = n * block + start * inner;
        bytes.extend_from_slice(&x.bytes()[from..from + size * inner]);
    }
    Ok(from_bytes(x.dtype(), &shape, bytes)?.with_table(x.table().cloned()))
}

fn infer_join(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let item = item(ctx)?;
    if !item.is_tensor() {
        return Ok(vec![item]);
    }
    let stacks = ctx.attrs.flag("new_axis");
    let axis = axis_of(ctx.attrs.int_or("axis", 0), item.rank() + usize::from(stacks))?;
    let mut shape = item.shape;
    if stacks {
        shape.insert(axis, Dim::unknown(0, axis));
    } else {
        shape[axis] = Dim::unknown(0, axis);
    }
    Ok(vec![Type::new(item.dtype, shape)])
}

fn eval_join(ctx: &DataCtx) -> Result<Vec<Datum>, Diag> {
    let mut items = Vec::new();
    for item in sequence(ctx)? {
        let tensor = item.as_tensor();
        items.push(tensor.cloned().ok_or_else(|| type_error("the items must be tensors"))?);
    }
    let first = items.first().ok_or_else(|| type_error("a sequence without items cannot be joined"))?;
    let stacks = ctx.attrs.flag("new_axis");
    let axis = axis_of(ctx.attrs.int_or("axis", 0), first.rank() + usize::from(stacks))?;
    if stacks {
        items = items.iter().map(|t| with_axis(t, axis)).collect::<Result<_, _>>()?;
    }
    Ok(vec![Datum::Tensor(join(items, axis)?)])
}

/// The tensor with an axis of one element more.
fn with_axis(t: &Tensor, axis: usize) -> Result<Tensor, Diag> {
    let mut shape = t.shape().to_vec();
    if axis > shape.len() {
        return Err(type_error("the items differ in their number of dimensions"));
    }
    shape.insert(axis, 1);
    reshaped(t, &shape)
}

/// Tensors that agree in all but `axis`, one after the other along it; there is at least one.
fn join(mut items: Vec<Tensor>, axis: usize) -> Result<Tensor, Diag> {
    let (dtype, mut shape) = (items[0].dtype(), items[0].shape().to_vec());
    let others = |s: &[usize]| [&s[..axis], &s[axis + 1..]].concat();
    let fits =
        |t: &Tensor| t.dtype() == dtype && t.rank() == shape.len() && others(t.shape()) == others(&shape);
    if let Some(other) = items.iter().find(|t| !fits(t)) {
        return Err(type_error(format!("{other:?} cannot be joined to {:?} along axis {axis}", items[0])));
    }
    let table = share_tables(&mut items.iter_mut().collect::<Vec<_>>());
    let outer: usize = shape[..axis].iter().product();
    let inner = shape[axis + 1..].iter().product::<usize>() * dtype.size_bytes();
    let mut bytes = Vec::with_capacity(items.iter().map(|t| t.bytes().len()).sum());
    for n in 0..outer {
        for item in &items {
            let block = item.shape()[axis] * inner;
            bytes.extend_from_slice(&item.bytes()[n * block..(n + 1) * block]);
        }
    }
    shape[axis] = items.iter().map(|t| t.shape()[axis]).sum();
    Ok(from_bytes(dtype, &shape, bytes)?.with_table(table))
}
