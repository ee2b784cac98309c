//! Brings exporters' many spellings into one: known operands become attributes, everything that only
//! reinterprets a shape becomes a reshape to known sizes, identities vanish.
//!
//! A change is made only where inference gives the same types after it as before.

use crate::driver::Ctx;
use partita_ir::builder::{Inference, infer_graph, infer_op};
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, Operand};
use partita_ir::{Attr, Attrs, Content, Graph, NodeId, OpRef, Tensor, ValueId};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Operators that only reinterpret the shape of their first operand.
const RESHAPING: &[&str] = &["squeeze", "unsqueeze", "flatten"];

/// The pass.
///
/// # Errors
/// What inference says about the graph.
pub fn run(ctx: &mut Ctx, mut graph: Graph) -> Result<Graph, Vec<Diag>> {
    let mut inference = infer_graph(&graph)?;
    let bound: BTreeSet<Arc<str>> = graph.input_symbols().into_keys().collect();
    for id in graph.topological() {
        if let Some(change) = attributes(&graph, id, &inference, &bound)
            && !commit(ctx, &mut graph, id, change, "operand-to-attribute", &inference)
        {
            break;
        }
        if let Some(value) = forwarded(&graph, id) {
            if !ctx.spend("remove-identity") {
                break;
            }
            let output = graph.node(id).outputs[0];
            graph.replace_uses(output, value);
            continue;
        }
        if let Some(shape) = reshape(&graph, id, &bound)
            && !to_reshape(ctx, &mut graph, id, shape, &mut inference)
        {
            break;
        }
    }
    graph.remove_dead();
    Ok(graph)
}

/// The operand a node merely passes on, if it does.
fn forwarded(graph: &Graph, id: NodeId) -> Option<ValueId> {
    let node = graph.node(id);
    let used_alone = || {
        let mask = node.outputs.get(1)?;
        let read = graph.consumers(id).into_iter().any(|c| graph.node(c).inputs.contains(&Some(*mask)));
        (!read && graph.outputs().all(|(_, v)| v != *mask)).then_some(())
    };
    let passes = match node.op.name {
        "identity" => true,
        // In training mode (a third operand, or the attribute) dropout draws random numbers.
        "dropout" => {
            node.inputs.get(2).is_none_or(Option::is_none)
                && !node.attrs.flag("training_mode")
                && (node.outputs.len() == 1 || used_alone().is_some())
        }
        _ => false,
    };
    let operand = node.inputs.first().copied().flatten()?;
    (passes && graph.ty(operand) == graph.ty(node.outputs[0])).then_some(operand)
}

/// New attributes and operands of a node.
struct Change {
    attrs: Attrs,
    inputs: Vec<Option<ValueId>>,
}

/// The node with every known operand that may be an attribute turned into one; `None` when there is none.
fn attributes(
    graph: &Graph,
    id: NodeId,
    inference: &Inference,
    bound: &BTreeSet<Arc<str>>,
) -> Option<Change> {
    let node = graph.node(id);
    let mut change = Change { attrs: node.attrs.clone(), inputs: node.inputs.clone() };
    let mut changed = false;
    for def in node.op.attrs {
        let Some(k) = def.operand else { continue };
        let Some(Some(value)) = node.inputs.get(k).copied() else { continue };
        let content = inference.contents[value.index()].as_ref();
        let Some(attr) = content.and_then(|c| as_attr(c, def.kind)) else { continue };
        if is_bound(&attr, bound) {
            change.attrs.set(def.name, attr);
            change.inputs[k] = None;
            changed = true;
        }
    }
    while change.inputs.last().is_some_and(Option::is_none) {
        change.inputs.pop();
    }
    changed.then_some(change)
}

/// Content as an attribute of a kind.
fn as_attr(content: &Content, kind: AttrKind) -> Option<Attr> {
    let constant = content.as_const();
    match kind {
        AttrKind::Ints | AttrKind::Dims => content.as_dims().map(Attr::from),
        AttrKind::Int => {
            let t = constant.filter(|t| t.n_elements() == 1 && !t.dtype().is_float())?;
            t.to_i64s().first().map(|v| Attr::Int(*v))
        }
        AttrKind::Float => {
            let t = constant.filter(|t| t.n_elements() == 1)?;
            exact_floats(t)?.first().map(|v| Attr::Float(*v))
        }
        AttrKind::Floats => {
            let t = constant.filter(|t| t.rank() == 1 && t.n_elements() <= 4096)?;
            exact_floats(t).map(Attr::Floats)
        }
        AttrKind::Tensor => constant.cloned().map(Attr::Tensor),
        AttrKind::Str | AttrKind::Strs | AttrKind::DType | AttrKind::Graph | AttrKind::Type => None,
    }
}

/// A tensor's numbers in the width of attributes, where that loses nothing.
fn exact_floats(tensor: &Tensor) -> Option<Vec<f32>> {
    /// Integers up to here are floats.
    const MAX_INTEGER: f64 = 16_777_216.0;
    let float = tensor.dtype().is_float();
    let exact = |v: f64| f64::from(v as f32) == v && (float || v.abs() <= MAX_INTEGER);
    tensor.to_f64s().into_iter().map(|v| exact(v).then_some(v as f32)).collect()
}

/// Whether every symbol in the attribute gets its value from the graph's inputs.
fn is_bound(attr: &Attr, bound: &BTreeSet<Arc<str>>) -> bool {
    match attr {
        Attr::Dims(dims) => {
            let mut names = BTreeSet::new();
            dims.iter().for_each(|d| d.symbols(&mut names));
            names.is_subset(bound)
        }
        _ => true,
    }
}

/// The shape a node reshapes to, when that is all it does and the shape is known.
fn reshape(graph: &Graph, id: NodeId, bound: &BTreeSet<Arc<str>>) -> Option<Attr> {
    let node = graph.node(id);
    if node.inputs.iter().flatten().chain(&node.outputs).any(|v| !graph.ty(*v).is_tensor()) {
        return None;
    }
    let shape = Attr::from(graph.ty(*node.outputs.first()?).shape.clone());
    let explicit =
        node.op.name == "reshape" && (node.inputs.len() > 1 || node.attrs.get("shape") != Some(&shape));
    let reshapes = explicit || RESHAPING.contains(&node.op.name);
    (reshapes && node.outputs.len() == 1 && is_bound(&shape, bound)).then_some(shape)
}

/// Changes a node in place if its types stay; false when the fuel is spent.
fn commit(
    ctx: &mut Ctx,
    graph: &mut Graph,
    id: NodeId,
    change: Change,
    what: &str,
    inference: &Inference,
) -> bool {
    let node = graph.node(id);
    let contents = |v: ValueId| inference.contents.get(v.index()).and_then(Option::as_ref);
    let operands: Vec<Option<Operand>> =
        change.inputs.iter().map(|v| v.map(|v| Operand { ty: graph.ty(v), content: contents(v) })).collect();
    let Ok(inferred) = infer_op(node.op, &change.attrs, &operands, node.outputs.len()) else { return true };
    let same = node.outputs.iter().zip(&inferred.types).all(|(v, ty)| graph.ty(*v) == ty);
    if !same {
        return true;
    }
    if !ctx.spend(what) {
        return false;
    }
    for k in 0..graph.node(id).inputs.len() {
        graph.set_input(id, k, change.inputs.get(k).copied().flatten());
    }
    graph.trim_inputs(id);
    *graph.attrs_mut(id) = change.attrs;
    true
}

/// Replaces a node by a reshape to `shape`; false when the fuel is spent.
fn to_reshape(ctx: &mut Ctx, graph: &mut Graph, id: NodeId, shape: Attr, inference: &mut Inference) -> bool {
    let Some(op) = partita_ops::op("reshape") else { return true };
    let node = graph.node(id);
    let (Some(Some(operand)), output) = (node.inputs.first().copied(), node.outputs[0]) else { return true };
    let Some(attrs) = reshape_attrs(op, graph, operand, output, shape) else { return true };
    if node.op == op && node.attrs == attrs && node.inputs.len() == 1 {
        return true;
    }
    if !ctx.spend("to-reshape") {
        return false;
    }
    let (name, value, ty) =
        (node.name.clone(), graph.value(output).name.to_string(), graph.ty(output).clone());
    let new = graph.add_node(&name, op, attrs, &[Some(operand)], &[(value, ty)]);
    let result = graph.node(new).outputs[0];
    // The new value has the number after all others.
    inference.types.push(graph.ty(result).clone());
    inference.contents.push(inference.contents[output.index()].clone());
    graph.replace_uses(output, result);
    true
}

/// Attributes of the reshape, if inference agrees with them.
fn reshape_attrs(op: OpRef, graph: &Graph, operand: ValueId, output: ValueId, shape: Attr) -> Option<Attrs> {
    let zero = match &shape {
        Attr::Ints(v) => v.contains(&0),
        _ => false,
    };
    let mut attrs = Attrs::new().with("shape", shape);
    if zero {
        attrs.set("allowzero", 1i64);
    }
    let inputs = [Some(Operand { ty: graph.ty(operand), content: None })];
    let inferred = infer_op(op, &attrs, &inputs, 1).ok()?;
    (inferred.types.first() == Some(graph.ty(output))).then_some(attrs)
}
