//! Computes equal things once: nodes with the same operator, attributes and operands are merged.

use crate::driver::Ctx;
use crate::egraph::lang::const_key;
use partita_ir::diag::Diag;
use partita_ir::{Graph, NodeId, Source, ValueId};
use std::collections::BTreeMap;

/// What two nodes must share to be one.
type Key = (&'static str, String, Vec<Option<ValueId>>, usize);

/// The pass.
///
/// # Errors
/// None.
pub fn run(ctx: &mut Ctx, mut graph: Graph) -> Result<Graph, Vec<Diag>> {
    let mut consts: BTreeMap<String, ValueId> = BTreeMap::new();
    let mut canonical: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    let mut seen: BTreeMap<Key, NodeId> = BTreeMap::new();
    for id in graph.topological() {
        let node = graph.node(id);
        if node.op.traits.random {
            continue;
        }
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for value in &node.inputs {
            inputs.push(value.map(|v| canonical_value(&graph, v, &mut consts, &mut canonical)));
        }
        let (n_outputs, outputs) = (node.outputs.len(), node.outputs.clone());
        if node.op.traits.commutative && inputs.len() == 2 {
            inputs.sort_unstable();
        }
        let key = (node.op.name, node.attrs.key(), inputs, n_outputs);
        let Some(&first) = seen.get(&key) else {
            seen.insert(key, id);
            continue;
        };
        if !ctx.spend("merge-equal-nodes") {
            break;
        }
        let kept = graph.node(first).outputs.clone();
        for (old, new) in outputs.into_iter().zip(kept) {
            graph.replace_uses(old, new);
        }
    }
    graph.remove_dead();
    Ok(graph)
}

/// The first constant of the same content, for constants; the value itself otherwise.
fn canonical_value(
    graph: &Graph,
    value: ValueId,
    consts: &mut BTreeMap<String, ValueId>,
    canonical: &mut BTreeMap<ValueId, ValueId>,
) -> ValueId {
    if let Some(&known) = canonical.get(&value) {
        return known;
    }
    let found = match &graph.value(value).source {
        Source::Const(tensor) => *consts.entry(const_key(tensor)).or_insert(value),
        _ => value,
    };
    canonical.insert(value, found);
    found
}
