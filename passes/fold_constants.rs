//! Evaluates nodes whose operands are constants, by the operators' own definitions.

use crate::driver::Ctx;
use partita_ir::builder::infer_graph;
use partita_ir::data::evaluate_tensors;
use partita_ir::diag::Diag;
use partita_ir::tensor::n_elements;
use partita_ir::{Content, Graph, NodeId, OpRef, Tensor, Type};

/// Results up to this size are always worth folding.
pub const SMALL_BYTES: usize = 64 << 10;

/// Larger results may be at most this many times the operands.
const MAX_GROWTH: usize = 2;

/// One run of the pass may write this many bytes, or so many times the constants it found if that is more: growth
/// by a factor of two a node would otherwise double along a chain.
const BUDGET_BYTES: usize = 64 << 20;
const BUDGET_GROWTH: usize = 3;

/// Whether a node over constants of these types may be evaluated at compile time: the result must not blow up
/// the model (an expanded mask, a filled tensor).
pub fn may_fold(op: OpRef, inputs: &[&Type], outputs: &[Type]) -> bool {
    let bytes = |ty: &Type| ty.known_shape().and_then(|s| n_elements(&s)?.checked_mul(ty.dtype.size_bytes()));
    let written: Option<usize> = outputs.iter().try_fold(0usize, |n, ty| n.checked_add(bytes(ty)?));
    let read: Option<usize> = inputs.iter().try_fold(0usize, |n, ty| n.checked_add(bytes(ty)?));
    match (written, read) {
        (Some(w), Some(r)) => {
            !op.traits.random && op.data.is_none() && w <= SMALL_BYTES.max(r.saturating_mul(MAX_GROWTH))
        }
        _ => false,
    }
}

/// The pass.
///
/// # Errors
/// What inference says about the graph.
pub fn run(ctx: &mut Ctx, mut graph: Graph) -> Result<Graph, Vec<Diag>> {
    let inference = infer_graph(&graph)?;
    let mut budget_bytes = budget(&graph);
    for id in graph.topological() {
        let known = graph.node(id).outputs.iter().map(|v| match &inference.contents[v.index()] {
            Some(Content::Const(t)) => Some(t.clone()),
            _ => None,
        });
        let known: Option<Vec<Tensor>> = known.collect();
        let written = written_bytes(&graph, id);
        if written.is_none_or(|w| w > budget_bytes) {
            continue;
        }
        let Some(tensors) = known.or_else(|| evaluate(&graph, id)) else { continue };
        budget_bytes -= written.unwrap_or(0);
        if !ctx.spend("fold-constants") {
            break;
        }
        replace(&mut graph, id, tensors);
    }
    graph.remove_dead();
    Ok(graph)
}

/// Bytes that the pass may write.
fn budget(graph: &Graph) -> usize {
    let constants = graph.values().filter_map(|(id, _)| graph.as_const(id));
    let bytes = constants.fold(0usize, |n, t| n.saturating_add(t.bytes().len()));
    BUDGET_BYTES.max(bytes.saturating_mul(BUDGET_GROWTH))
}

/// Bytes of a node's results, when their sizes are known.
fn written_bytes(graph: &Graph, id: NodeId) -> Option<usize> {
    graph.node(id).outputs.iter().try_fold(0usize, |n, v| {
        let ty = graph.ty(*v);
        n.checked_add(n_elements(&ty.known_shape()?)?.checked_mul(ty.dtype.size_bytes())?)
    })
}

/// The results of a node over constants, within the size guard.
fn evaluate(graph: &Graph, id: NodeId) -> Option<Vec<Tensor>> {
    let node = graph.node(id);
    let mut inputs = Vec::with_capacity(node.inputs.len());
    for value in &node.inputs {
        inputs.push(match value {
            None => None,
            Some(v) => Some(graph.as_const(*v)?.clone()),
        });
    }
    let in_types: Vec<&Type> = node.inputs.iter().flatten().map(|v| graph.ty(*v)).collect();
    let out_types: Vec<Type> = node.outputs.iter().map(|v| graph.ty(*v).clone()).collect();
    if !may_fold(node.op, &in_types, &out_types) {
        return None;
    }
    let attrs = node.attrs.bind(&|_| None);
    let out = evaluate_tensors(node.op, &attrs, &mut inputs, node.outputs.len()).ok()?;
    // An evaluation that disagrees with the stated type is left to run time, which reports it.
    let agrees = out.len() >= out_types.len()
        && out.iter().zip(&out_types).all(|(t, ty)| Type::known(t.dtype(), t.shape()) == *ty);
    agrees.then_some(out)
}

fn replace(graph: &mut Graph, id: NodeId, tensors: Vec<Tensor>) {
    let outputs = graph.node(id).outputs.clone();
    for (value, tensor) in outputs.into_iter().zip(tensors) {
        let name = graph.value(value).name.clone();
        let constant = graph.add_const(&name, tensor);
        graph.replace_uses(value, constant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{Options, run_passes};
    use partita_ir::{Attrs, Builder, DType};

    #[test]
    fn a_chain_of_doublings_stays_within_the_budget() {
        let mut b = Builder::new("doubling");
        let concat = partita_ops::op("concat").unwrap();
        let mut x = b.constant("c", Tensor::from_slice(&[1 << 14], &[1.0f32; 1 << 14]).unwrap());
        for _ in 0..20 {
            x = b.op(concat, Attrs::new().with("axis", 0i64), &[x, x]).unwrap();
        }
        b.output("y", x);
        let (graph, _) = run_passes(b.finish(), &["fold-constants"], &Options::default()).unwrap();
        let bytes: usize =
            graph.values().filter_map(|(v, _)| graph.as_const(v)).map(|t| t.bytes().len()).sum();
        assert!(bytes <= BUDGET_BYTES + (1 << 16), "{bytes}");
        assert_eq!(graph.ty(graph.outputs().next().unwrap().1), &Type::known(DType::F32, &[1 << 34]));
    }
}
