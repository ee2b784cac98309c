//! Operators that ONNX has not, or has only since an opset few engines know: written as several nodes.

use crate::writer::Writer;
use partita_ir::graph::Node;
use partita_ir::{Diag, NodeId, Tensor};

type Lower = fn(&mut Writer, NodeId) -> Result<(), Diag>;

/// How each such operator is written.
const LOWER: &[(&str, Lower)] = &[("silu", silu)];

/// Whether the node is written as several.
pub(crate) fn must_lower(node: &Node) -> bool {
    LOWER.iter().any(|(name, _)| *name == node.op.name)
}

/// Writes the node as several.
///
/// # Errors
/// `U008` when there is no way to.
pub(crate) fn lower(writer: &mut Writer, id: NodeId) -> Result<(), Diag> {
    let op = writer.graph.node(id).op;
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
