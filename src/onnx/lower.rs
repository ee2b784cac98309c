//! Operators that ONNX has not, or has only since an opset few engines know: written as several nodes.

use crate::writer::Writer;
use partita_ir::graph::Node;
use partita_ir::{Attr, Diag, NodeId, Tensor};

type Lower = fn(&mut Writer, NodeId) -> Result<(), Diag>;

/// How each such operator is written.
const LOWER: &[(&str, Lower)] =
    &[("attention", attention), ("pass", pass), ("silu", silu), ("upsample", upsample)];

/// Whether the node is written as several.
pub(crate) fn must_lower(node: &Node) -> bool {
    if node.op.name == "attention" && !node.attrs.flag("k_transposed") {
        return false;
    }
    is_old_form(node) || LOWER.iter().any(|(name, _)| *name == node.op.name)
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
    match LOWER.iter().find(|(name, _)| *name == op.name) {
        Some((_, lower)) => lower(writer, id),
        None => Err(Diag::new("U008", format!("operator {} has no ONNX form", op.name))
            .hint("write the graph before it is fused for a device")),
    }
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
