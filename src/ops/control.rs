//! Control flow: operators with bodies. A body is a graph; its inputs are its formal ones, then the values that
//! the node's bodies capture from around them (the last `captures` operands, the same for every body).
//!
//! Bodies are typed when they are built, for every run: what may change from one run to the next (sizes that a loop
//! carries) is a symbol of the body. Inference here only says what of that is visible outside.

use crate::common::{
    PLAIN, at_least, attr, attr_error, axis_of, between, no_tensors, onnx, required, type_error, work_free,
};
use crate::elements::{from_bytes, take, walk};
use partita_ir::attr::Attrs;
use partita_ir::data::DataCtx;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrDef, AttrKind, CAPTURES, InferCtx, OpDef, Rng, Sample};
use partita_ir::tensor::{n_elements, share_tables};
use partita_ir::types::{Form, Type};
use partita_ir::{Datum, Dim, Graph, Tensor};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&IF, &LOOP, &SCAN, &SEQUENCE_MAP];

const IF_ATTRS: &[AttrDef] = &[
    attr(CAPTURES, AttrKind::Int),
    required("else_branch", AttrKind::Graph),
    required("then_branch", AttrKind::Graph),
];

static IF: OpDef = OpDef {
    name: "if",
    doc: "The results of `then_branch` when the condition holds, else those of `else_branch`.",
    onnx: &[onnx("If", 1)],
    inputs: at_least(1),
    outputs: at_least(0),
    attrs: IF_ATTRS,
    traits: PLAIN,
    infer: infer_if,
    content: None,
    eval: no_tensors,
    scalar: None,
    data: Some(eval_if),
    work: work_free,
    sample: no_sample,
};

const BODY_ATTRS: &[AttrDef] = &[required("body", AttrKind::Graph), attr(CAPTURES, AttrKind::Int)];

static LOOP: OpDef = OpDef {
    name: "loop",
    doc: "Runs `body` a number of times, or while it says so; carries values and stacks others.",
    onnx: &[onnx("Loop", 1)],
    inputs: at_least(0),
    attrs: BODY_ATTRS,
    infer: infer_loop,
    data: Some(eval_loop),
    ..IF
};

static SCAN: OpDef = OpDef {
    name: "scan",
    doc: "Runs `body` over the slices of its last operands; carries states and stacks results.",
    onnx: &[onnx("Scan", 9)],
    inputs: at_least(1),
    attrs: &[
        required("body", AttrKind::Graph),
        attr(CAPTURES, AttrKind::Int),
        required("num_scan_inputs", AttrKind::Int),
        attr("scan_input_axes", AttrKind::Ints),
        attr("scan_input_directions", AttrKind::Ints),
        attr("scan_output_axes", AttrKind::Ints),
        attr("scan_output_directions", AttrKind::Ints),
    ],
    infer: infer_scan,
    data: Some(eval_scan),
    ..IF
};

static SEQUENCE_MAP: OpDef = OpDef {
    name: "sequence_map",
    doc: "Runs `body` on every item of a sequence; other operands are sequences of the same length, or go to every run.",
    onnx: &[onnx("SequenceMap", 17)],
    inputs: at_least(1),
    outputs: between(1, usize::MAX),
    attrs: BODY_ATTRS,
    infer: infer_sequence_map,
    data: Some(eval_sequence_map),
    ..IF
};

/// Nothing is drawn: bodies are not random. Cases with bodies are written by hand.
fn no_sample(_: &mut Rng) -> Sample {
    Sample { attrs: Attrs::new(), inputs: Vec::new(), n_outputs: 0 }
}

fn body<'a>(attrs: &'a Attrs, name: &str) -> Result<&'a Arc<Graph>, Diag> {
    attrs.graph(name).ok_or_else(|| attr_error(format!("{name} is missing")))
}

/// How many operands of `n` are the operator's own.
fn n_own(attrs: &Attrs, n: usize) -> Result<usize, Diag> {
    let captures = usize::try_from(attrs.int_or(CAPTURES, 0)).ok().filter(|c| *c <= n);
    captures.map(|c| n - c).ok_or_else(|| attr_error("captures is out of range"))
}

/// What a caller may rely on: symbols that exist outside the body.
struct Outside(BTreeSet<Arc<str>>);

impl Outside {
    fn new(ctx: &InferCtx) -> Self {
        Self(ctx.inputs.iter().flatten().flat_map(|o| o.ty.symbols()).collect())
    }

    fn dim(&self, dim: &Dim, output: usize, axis: usize) -> Dim {
        let mut symbols = BTreeSet::new();
        dim.symbols(&mut symbols);
        if symbols.is_subset(&self.0) { dim.clone() } else { Dim::unknown(output, axis) }
    }

    /// The type of result `output` of the node when a body gives `ty`.
    fn ty(&self, ty: &Type, output: usize) -> Type {
        let shape = ty.shape.iter().enumerate().map(|(a, d)| self.dim(d, output, a)).collect();
        let form = match &ty.form {
            Form::Sequence(item) => Form::Sequence(Box::new(self.item(item))),
            Form::Optional(item) => Form::Optional(Box::new(self.item(item))),
            other => other.clone(),
        };
        Type { dtype: ty.dtype, shape, form }
    }

    /// Items of sequences differ in shape, so a size inside that is not known outside means: no shape.
    fn item(&self, ty: &Type) -> Type {
        if ty.symbols().is_subset(&self.0) { ty.clone() } else { Type::unranked(ty.dtype) }
    }
}

/// What holds for both types.
pub(crate) fn join(a: &Type, b: &Type, output: usize) -> Type {
    if a == b {
        return a.clone();
    }
    match (&a.form, &b.form) {
        (Form::Sequence(x), Form::Sequence(y)) if x.dtype == y.dtype => {
            Type::sequence(Type::unranked(x.dtype))
        }
        (Form::Optional(x), Form::Optional(y)) if x.dtype == y.dtype => {
            Type::optional(Type::unranked(x.dtype))
        }
        (Form::Tensor, Form::Tensor) if a.dtype == b.dtype && a.rank() == b.rank() => {
            let pairs = a.shape.iter().zip(&b.shape).enumerate();
            let dim = |(axis, (x, y)): (usize, (&Dim, &Dim))| {
                if x == y { x.clone() } else { Dim::unknown(output, axis) }
            };
            Type::new(a.dtype, pairs.map(dim).collect::<Vec<_>>())
        }
        (Form::Tensor | Form::Unranked, Form::Tensor | Form::Unranked) if a.dtype == b.dtype => {
            Type::unranked(a.dtype)
        }
        _ => Type::any(),
    }
}

fn output_types(graph: &Graph) -> Vec<&Type> {
    graph.outputs().map(|(_, v)| graph.ty(v)).collect()
}

fn infer_if(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (then, other) = (body(ctx.attrs, "then_branch")?, body(ctx.attrs, "else_branch")?);
    let (then, other) = (output_types(then), output_types(other));
    if then.len() != other.len() || then.len() < ctx.n_outputs {
        let text = format!("the branches give {} and {} results", then.len(), other.len());
        return Err(type_error(text).hint("both branches must give all results of the node"));
    }
    let outside = Outside::new(ctx);
    let both = then.iter().zip(&other).enumerate();
    Ok(both.map(|(n, (a, b))| join(&outside.ty(a, n), &outside.ty(b, n), n)).collect())
}

fn eval_if(ctx: &DataCtx) -> Result<Vec<Datum>, Diag> {
    let name = if flag(ctx, 0)?.unwrap_or(false) { "then_branch" } else { "else_branch" };
    let captured = ctx.inputs.iter().skip(1).flatten().map(|d| (*d).clone()).collect();
    ctx.bodies.run(name, captured)
}

/// The truth of a condition; `None` when it is omitted.
fn flag(ctx: &DataCtx, n: usize) -> Result<Option<bool>, Diag> {
    let Some(datum) = ctx.inputs.get(n).copied().flatten() else { return Ok(None) };
    let one = datum.as_tensor().filter(|t| t.n_elements() == 1);
    let one = one.ok_or_else(|| type_error(format!("operand {n}, a condition, must be one boolean")))?;
    Ok(Some(one.to_bools()[0]))
}

fn captured(ctx: &DataCtx, n_own: usize) -> Vec<Datum> {
    ctx.inputs.iter().skip(n_own).flatten().map(|d| (*d).clone()).collect()
}

fn infer_loop(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let inside = body(ctx.attrs, "body")?;
    let n_own = n_own(ctx.attrs, ctx.inputs.len())?;
    let n_carried = n_own.saturating_sub(2);
    let results = output_types(inside);
    if results.len() != 1 + ctx.n_outputs.max(n_carried) {
        return Err(type_error(format!(
            "the body gives {} results, {} are wanted",
            results.len(),
            1 + ctx.n_outputs.max(n_carried)
        )));
    }
    let outside = Outside::new(ctx);
    let carried = (0..n_carried).map(|n| {
        // Without a run of the body the result is the operand.
        let initial = ctx.inputs[2 + n].map(|o| o.ty.clone()).unwrap_or_else(Type::any);
        join(&outside.ty(results[1 + n], n), &initial, n)
    });
    let stacked = (n_carried..results.len() - 1).map(|n| {
        let item = outside.ty(results[1 + n], n);
        if !item.is_tensor() {
            return item;
        }
        // The axis that is stacked comes first; the other sizes keep their numbers.
        let inner = item.shape.iter().enumerate().map(|(a, d)| outside.dim(d, n, a + 1));
        Type::new(item.dtype, std::iter::once(Dim::unknown(n, 0)).chain(inner).collect::<Vec<_>>())
    });
    Ok(carried.chain(stacked).collect())
}

fn eval_loop(ctx: &DataCtx) -> Result<Vec<Datum>, Diag> {
    let inside = body(ctx.attrs, "body")?;
    let n_own = n_own(ctx.attrs, ctx.inputs.len())?;
    let most = ctx
        .inputs
        .first()
        .copied()
        .flatten()
        .map(|d| d.as_tensor().filter(|t| t.n_elements() == 1).map(|t| t.to_i64s()[0]));
    let most =
        most.map(|m| m.ok_or_else(|| type_error("the number of runs must be one integer"))).transpose()?;
    let mut go_on = flag(ctx, 1)?.unwrap_or(true);
    let mut carried: Vec<Datum> = Vec::new();
    for n in 2..n_own {
        let initial = ctx.inputs[n].ok_or_else(|| type_error(format!("operand {n} of loop is missing")))?;
        carried.push(initial.clone());
    }
    let n_carried = carried.len();
    let n_stacked = inside.outputs().count().saturating_sub(1 + n_carried);
    let mut stacks: Vec<Vec<Tensor>> = vec![Vec::new(); n_stacked];
    let around = captured(ctx, n_own);
    let mut run = 0;
    while go_on && most.is_none_or(|m| run < m) {
        let mut inputs = vec![Datum::Tensor(Tensor::scalar(run)), Datum::Tensor(truth(go_on))];
        inputs.append(&mut carried);
        inputs.extend(around.iter().cloned());
        let mut results = ctx.bodies.run("body", inputs)?.into_iter();
        go_on = results.next().as_ref().and_then(Datum::as_tensor).is_some_and(|t| t.to_bools() == [true]);
        carried = results.by_ref().take(n_carried).collect();
        push(ctx, &mut stacks, results)?;
        run += 1;
    }
    let items = inside.outputs().skip(1 + n_carried).map(|(_, v)| inside.ty(v));
    let stacked = stacks.into_iter().zip(items).map(|(s, ty)| stack(s, ty, 0, false).map(Datum::Tensor));
    carried.into_iter().map(Ok).chain(stacked).collect()
}

fn truth(value: bool) -> Tensor {
    Tensor::from_bools(&[], &[value]).unwrap_or_else(|| Tensor::scalar(0u8))
}

fn push(ctx: &DataCtx, stacks: &mut [Vec<Tensor>], results: impl Iterator<Item = Datum>) -> Result<(), Diag> {
    for (stack, datum) in stacks.iter_mut().zip(results) {
        let Datum::Tensor(tensor) = datum else {
            return Err(type_error(format!("what a body stacks must be a tensor, it is {}", datum.kind())));
        };
        ctx.bodies.hold(tensor.bytes().len())?;
        stack.push(tensor);
    }
    Ok(())
}

/// Tensors of one shape stacked along a new axis `axis`; `ty` is the type of an item, for when there is none.
fn stack(mut items: Vec<Tensor>, ty: &Type, axis: usize, reversed: bool) -> Result<Tensor, Diag> {
    if reversed {
        items.reverse();
    }
    let Some(first) = items.first() else {
        let mut shape: Vec<usize> = ty
            .shape
            .iter()
            .map(|d| d.as_known().and_then(|d| usize::try_from(d).ok()).unwrap_or(0))
            .collect();
        shape.insert(axis.min(shape.len()), 0);
        return from_bytes(ty.dtype, &shape, Vec::new());
    };
    let (dtype, inner) = (first.dtype(), first.shape().to_vec());
    if let Some(other) = items.iter().find(|t| t.shape() != inner || t.dtype() != dtype) {
        let text = format!(
            "a body stacks {}{:?} after {}{inner:?}",
            other.dtype().name(),
            other.shape(),
            dtype.name()
        );
        return Err(type_error(text).hint("all runs must give the same shape"));
    }
    let table = share_tables(&mut items.iter_mut().collect::<Vec<_>>());
    let bytes: Vec<u8> = items.iter().flat_map(|t| t.bytes().iter().copied()).collect();
    let mut shape = vec![items.len()];
    shape.extend(&inner);
    let front = from_bytes(dtype, &shape, bytes)?.with_table(table);
    moved_axis(&front, 0, axis)
}

/// The tensor with axis `from` at place `to`.
fn moved_axis(t: &Tensor, from: usize, to: usize) -> Result<Tensor, Diag> {
    if from == to {
        return Ok(t.clone());
    }
    if to >= t.rank() || from >= t.rank() {
        return Err(attr_error(format!("axis {to} is out of range for {} dimensions", t.rank())));
    }
    let mut order: Vec<usize> = (0..t.rank()).filter(|&a| a != from).collect();
    order.insert(to, from);
    let strides = crate::elements::signed_strides(t.shape());
    let shape: Vec<usize> = order.iter().map(|&a| t.shape()[a]).collect();
    let strides: Vec<i64> = order.iter().map(|&a| strides[a]).collect();
    Ok(take(t, &shape, &walk(&shape, 0, &strides))?.with_table(t.table().cloned()))
}

/// How a scan walks: axis and direction of every operand or result.
fn direction(
    attrs: &Attrs,
    axes: &str,
    directions: &str,
    n: usize,
    rank: usize,
) -> Result<(usize, bool), Diag> {
    let axis = attrs.ints(axes).and_then(|a| a.get(n).copied()).unwrap_or(0);
    let reversed = attrs.ints(directions).and_then(|d| d.get(n).copied()).unwrap_or(0) != 0;
    Ok((axis_of(axis, rank)?, reversed))
}

/// Operands of a scan: states, what is scanned, and the rest, which is captured.
fn scan_parts(attrs: &Attrs, n_inputs: usize) -> Result<(usize, usize), Diag> {
    let own = n_own(attrs, n_inputs)?;
    let n_scanned = usize::try_from(attrs.int_or("num_scan_inputs", 0)).unwrap_or(0);
    match own.checked_sub(n_scanned) {
        Some(n_states) if n_scanned > 0 => Ok((n_states, own)),
        _ => Err(attr_error(format!("num_scan_inputs is {n_scanned}, the node has {own} operands"))),
    }
}

fn infer_scan(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let inside = body(ctx.attrs, "body")?;
    let (n_states, n_own) = scan_parts(ctx.attrs, ctx.inputs.len())?;
    let results = output_types(inside);
    if results.len() < n_states.max(ctx.n_outputs) {
        return Err(type_error(format!("the body gives only {} results", results.len())));
    }
    let length = scan_length(ctx, n_states, n_own)?;
    let outside = Outside::new(ctx);
    let mut types = Vec::new();
    for (n, result) in results.iter().enumerate() {
        let item = outside.ty(result, n);
        if n < n_states {
            let initial = ctx.inputs[n].map(|o| o.ty.clone()).unwrap_or_else(Type::any);
            types.push(join(&item, &initial, n));
        } else if item.is_tensor() {
            let (axis, _) = direction(
                ctx.attrs,
                "scan_output_axes",
                "scan_output_directions",
                n - n_states,
                item.rank() + 1,
            )?;
            let mut shape: Vec<Dim> =
                item.shape.iter().enumerate().map(|(a, d)| outside.dim(d, n, a + 1)).collect();
            shape.insert(axis, length.clone());
            types.push(Type::new(item.dtype, shape));
        } else {
            types.push(Type::any());
        }
    }
    Ok(types)
}

fn scan_length(ctx: &InferCtx, n_states: usize, n_own: usize) -> Result<Dim, Diag> {
    let mut length = Dim::unknown(n_states, 0);
    for n in n_states..n_own {
        let Some(ty) = ctx.inputs[n].map(|o| o.ty).filter(|t| t.is_tensor()) else { continue };
        let (axis, _) =
            direction(ctx.attrs, "scan_input_axes", "scan_input_directions", n - n_states, ty.rank())?;
        if n == n_states {
            length = ty.shape[axis].clone();
        } else {
            crate::eval::same_dim(&length, &ty.shape[axis], "the lengths of what is scanned")?;
        }
    }
    Ok(length)
}

fn eval_scan(ctx: &DataCtx) -> Result<Vec<Datum>, Diag> {
    let inside = body(ctx.attrs, "body")?;
    let (n_states, n_own) = scan_parts(ctx.attrs, ctx.inputs.len())?;
    let mut scanned = Vec::new();
    for n in n_states..n_own {
        let tensor = ctx.inputs[n].and_then(Datum::as_tensor);
        let tensor = tensor.ok_or_else(|| type_error(format!("operand {n} of scan must be a tensor")))?;
        let (axis, reversed) =
            direction(ctx.attrs, "scan_input_axes", "scan_input_directions", n - n_states, tensor.rank())?;
        scanned.push((moved_axis(tensor, axis, 0)?, reversed));
    }
    let length = scanned[0].0.shape()[0];
    if scanned.iter().any(|(t, _)| t.shape()[0] != length) {
        return Err(type_error("what is scanned differs in length"));
    }
    let mut states: Vec<Datum> = ctx.inputs[..n_states].iter().flatten().map(|d| (*d).clone()).collect();
    let around = captured(ctx, n_own);
    let n_stacked = inside.outputs().count().saturating_sub(n_states);
    let mut stacks: Vec<Vec<Tensor>> = vec![Vec::new(); n_stacked];
    for run in 0..length {
        let mut inputs = std::mem::take(&mut states);
        for (tensor, reversed) in &scanned {
            inputs.push(Datum::Tensor(slice_at(tensor, if *reversed { length - 1 - run } else { run })?));
        }
        inputs.extend(around.iter().cloned());
        let mut results = ctx.bodies.run("body", inputs)?.into_iter();
        states = results.by_ref().take(n_states).collect();
        push(ctx, &mut stacks, results)?;
    }
    let mut out = states;
    let items: Vec<&Type> = inside.outputs().skip(n_states).map(|(_, v)| inside.ty(v)).collect();
    for (n, (items, ty)) in stacks.into_iter().zip(items).enumerate() {
        let rank = items.first().map_or(ty.rank(), Tensor::rank) + 1;
        let (axis, reversed) = direction(ctx.attrs, "scan_output_axes", "scan_output_directions", n, rank)?;
        out.push(Datum::Tensor(stack(items, ty, axis, reversed)?));
    }
    Ok(out)
}

/// Entry `index` of the first axis.
fn slice_at(t: &Tensor, index: usize) -> Result<Tensor, Diag> {
    let shape = &t.shape()[1..];
    let bytes = n_elements(shape).unwrap_or(0) * t.dtype().size_bytes();
    let part = t.bytes().get(index * bytes..(index + 1) * bytes);
    let part = part.ok_or_else(|| type_error("a slice lies outside the operand"))?;
    Ok(from_bytes(t.dtype(), shape, part.to_vec())?.with_table(t.table().cloned()))
}

fn infer_sequence_map(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let inside = body(ctx.attrs, "body")?;
    let outside = Outside::new(ctx);
    let item = |(n, ty): (usize, &Type)| Type::sequence(outside.item(&outside.ty(ty, n)));
    Ok(output_types(inside).into_iter().enumerate().map(item).collect())
}

fn eval_sequence_map(ctx: &DataCtx) -> Result<Vec<Datum>, Diag> {
    let n_own = n_own(ctx.attrs, ctx.inputs.len())?;
    let own: Vec<&Datum> = ctx.inputs[..n_own].iter().flatten().copied().collect();
    let Some(Datum::Sequence(items)) = own.first() else {
        return Err(type_error("the first operand of sequence_map must be a sequence"));
    };
    let mut out = vec![Vec::new(); ctx.n_outputs];
    for n in 0..items.len() {
        let mut inputs = Vec::with_capacity(own.len());
        for datum in &own {
            inputs.push(match datum {
                Datum::Sequence(items) => {
                    items.get(n).cloned().ok_or_else(|| type_error("the sequences differ in length"))?
                }
                other => (*other).clone(),
            });
        }
        inputs.extend(captured(ctx, n_own));
        for (slot, datum) in out.iter_mut().zip(ctx.bodies.run("body", inputs)?) {
            ctx.bodies.hold(datum.size_bytes())?;
            slot.push(datum);
        }
    }
    Ok(out.into_iter().map(Datum::Sequence).collect())
}
