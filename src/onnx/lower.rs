//! Operators that ONNX has not, or has only since an opset few engines know: written as several nodes.

use crate::writer::Writer;
use partita_ir::graph::Node;
use partita_ir::op::AttrKind;
use partita_ir::{Attr, Diag, NodeId, Tensor};
use partita_ops::channels_last::{Layout, to_last, to_second};

type Lower = fn(&mut Writer, NodeId) -> Result<(), Diag>;

/// How each such operator is written.
const LOWER: &[(&str, Lower)] =
    &[("attention", attention), ("pass", pass), ("silu", silu), ("upsample", upsample)];

/// Whether the node is written as several.
pub(crate) fn must_lower(node: &Node) -> bool {
    if node.op.name == "attention" && !node.attrs.flag("k_transposed") {
        return false;
    }
    is_channels_last(node) || is_old_form(node) || LOWER.iter().any(|(name, _)| *name == node.op.name)
}

/// Whether data or result have their channels last, which ONNX does not know.
fn is_channels_last(node: &Node) -> bool {
    node.op.attr("layout").is_some_and(|a| a.kind == AttrKind::Str) && node.attrs.get("layout").is_some()
}

/// Whether only opsets older than those that are written have this form of the operator.
fn is_old_form(node: &Node) -> bool {
    match node.op.name {
        "batch_norm" => node.attrs.flag("per_feature") || node.outputs.len() > 3,
        "dropout" => node.attrs.get("mask_dtype").is_some(),
        _ => false,
    }
}

/// Writes the node as several.
///
/// # Errors
/// `U008` when there is no way to.
pub(crate) fn lower(writer: &mut Writer, id: NodeId) -> Result<(), Diag> {
    let op = writer.graph.node(id).op;
    if is_old_form(writer.graph.node(id)) {
        let text = format!("this form of {} is older than every opset that is written", op.name);
        return Err(Diag::new("U008", text).hint("convert the model to opset 14 or newer first"));
    }
    if is_channels_last(writer.graph.node(id)) {
        return channels_last(writer, id);
    }
    match LOWER.iter().find(|(name, _)| *name == op.name) {
        Some((_, lower)) => lower(writer, id),
        None => Err(Diag::new("U008", format!("operator {} has no ONNX form", op.name))
            .hint("write the graph before it is fused for a device")),
    }
}

/// The operator in the layout ONNX knows, between two transpositions.
fn channels_last(writer: &mut Writer, id: NodeId) -> Result<(), Diag> {
    let node = writer.graph.node(id);
    let layout = Layout::read(&node.attrs)?;
    let rank = writer.graph.ty(node.outputs[0]).rank();
    let perm = |p: Vec<usize>| [("perm", Attr::Ints(p.into_iter().map(|p| p as i64).collect()))];
    let Some(name) = node.op.onnx.first().map(|o| o.op_type) else {
        return Err(Diag::new("U008", format!("operator {} has no ONNX form", node.op.name)));
    };
    let mut operands = writer.operands(node);
    let output = writer.name_of(node.outputs[0]);
    if layout.input {
        operands[0] =
            writer.emit("Transpose", &operands[..1], &perm(to_second(rank)), &format!("{output}_nchw"));
    }
    let attrs: Vec<(&str, Attr)> =
        node.attrs.iter().filter(|(n, _)| *n != "layout").map(|(n, a)| (n, a.clone())).collect();
    if layout.output {
        let y = writer.emit(name, &operands, &attrs, &format!("{output}_plain"));
        writer.emit_to("Transpose", &[y], &perm(to_last(rank)), output);
    } else {
        writer.emit_to(name, &operands, &attrs, output);
    }
    Ok(())
}

/// x * sigmoid(alpha * x).
fn silu(writer: &mut Writer, id: NodeId) -> Result<(), Diag> {
    let node = writer.graph.node(id);
    let x = writer.operands(node).swap_remove(0);
    let output = writer.name_of(node.outputs[0]);
    let alpha = node.attrs.float_or("alpha", 1.0);
    let scaled = if alpha == 1.0 {
        x.clone()
    } else {
        let dtype = writer.graph.ty(node.outputs[0]).dtype;
        let factor = Tensor::from_f64s(dtype, &[], &[f64::from(alpha)])
            .ok_or_else(|| Diag::new("U008", "alpha cannot be written"))?;
        let factor = writer.constant("alpha", &factor);
        writer.emit("Mul", &[x.clone(), factor], &[], &format!("{output}_scaled"))
    };
    let gate = writer.emit("Sigmoid", &[scaled], &[], &format!("{output}_gate"));
    writer.emit_to("Mul", &[x, gate], &[], output);
    Ok(())
}

/// Attention over keys that are stored transposed.
fn attention(writer: &mut Writer, id: NodeId) -> Result<(), Diag> {
    let node = writer.graph.node(id);
    let mut operands = writer.operands(node);
    let output = writer.name_of(node.outputs[0]);
    let perm = [("perm", Attr::Ints(vec![0, 1, 3, 2]))];
    operands[1] = writer.emit("Transpose", &operands[1..2], &perm, &format!("{output}_keys"));
    let attrs: Vec<(&str, Attr)> =
        node.attrs.iter().filter(|(n, _)| *n != "k_transposed").map(|(n, a)| (n, a.clone())).collect();
    writer.emit_to("Attention", &operands, &attrs, output);
    Ok(())
}

/// In ONNX, tensors and other values are passed on by one operator.
fn pass(writer: &mut Writer, id: NodeId) -> Result<(), Diag> {
    let node = writer.graph.node(id);
    let operands = writer.operands(node);
    let output = writer.name_of(node.outputs[0]);
    writer.emit_to("Identity", &operands, &[], output);
    Ok(())
}

/// Upsample was withdrawn in favour of Resize, which says everything it did.
fn upsample(writer: &mut Writer, id: NodeId) -> Result<(), Diag> {
    let node = writer.graph.node(id);
    let operands = writer.operands(node);
    let scales = match (operands.get(1), node.attrs.get("scales")) {
        (Some(name), _) => name.clone(),
        (None, Some(Attr::Floats(v))) => {
            let tensor = Tensor::from_slice(&[v.len()], v);
            let tensor = tensor.ok_or_else(|| Diag::new("U008", "the scales cannot be written"))?;
            writer.constant("scales", &tensor)
        }
        _ => return Err(Diag::new("U008", "upsample without scales has no ONNX form")),
    };
    let mode = node.attrs.str("mode").unwrap_or("nearest");
    let attrs = [
        ("coordinate_transformation_mode", Attr::from("asymmetric")),
        ("mode", Attr::from(mode)),
        ("nearest_mode", Attr::from("floor")),
    ];
    let output = writer.name_of(node.outputs[0]);
    writer.emit_to("Resize", &[operands[0].clone(), String::new(), scales], &attrs, output);
    Ok(())
}
