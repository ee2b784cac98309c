//! Cuts a graph into what can be planned and what the host evaluates when the program runs.
//!
//! Static nodes have tensors of numbers with sizes that are known once their stage begins. Everything else runs on
//! the host: text, sequences, bodies, and operators whose results' sizes depend on data. Stages alternate; a node is
//! in the earliest stage its operands allow, so a static model is one stage.

use partita_ir::op::SIZES;
use partita_ir::{DType, Form, Graph, NodeId, Source, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// A part of a graph.
#[derive(Clone, Debug)]
pub enum Stage {
    /// A graph of its own, and which values of the whole its inputs and outputs are.
    Static { graph: Box<Graph>, inputs: Vec<ValueId>, outputs: Vec<ValueId> },
    /// A node that is evaluated on the host.
    Host(NodeId),
}

/// Why the host evaluates the node; `None` when it can be planned.
pub fn why_on_host(graph: &Graph, id: NodeId) -> Option<&'static str> {
    let node = graph.node(id);
    let types = || node.inputs.iter().flatten().chain(&node.outputs).map(|v| graph.ty(*v));
    if node.attrs.graphs().next().is_some() {
        Some("it runs bodies")
    } else if types().any(|t| t.dtype == DType::Str && t.is_tensor()) {
        Some("it works on text")
    } else if types().any(|t| matches!(t.form, Form::Unranked | Form::Any)) {
        Some("the number of dimensions of a value is only known when it runs")
    } else if node.op.data.is_some() || types().any(|t| !t.is_static()) {
        Some("it works on values that are no tensors")
    } else if defines_size(graph, id) {
        Some("the size of its result depends on data")
    } else {
        None
    }
}

/// Whether the host evaluates the node.
pub fn on_host(graph: &Graph, id: NodeId) -> bool {
    why_on_host(graph, id).is_some()
}

/// Whether a result has a size that only the node's run tells.
fn defines_size(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    let sizes = node.attrs.strs(SIZES).unwrap_or_default();
    let mentioned = || node.outputs.iter().flat_map(|v| graph.ty(*v).symbols());
    !sizes.is_empty() && mentioned().any(|s| sizes.iter().any(|n| **n == *s))
}

/// Whether the whole graph is one static stage.
pub fn is_static(graph: &Graph) -> bool {
    graph.nodes().all(|(id, _)| !on_host(graph, id))
        && graph.inputs().iter().all(|v| graph.ty(*v).is_static())
        && graph.outputs().all(|(_, v)| graph.ty(v).is_static())
}

/// The stages in the order they run.
pub fn cut(graph: &Graph) -> Vec<Stage> {
    let order = order(graph);
    let stage_of = stages(graph, &order);
    let last = stage_of.values().copied().max().unwrap_or(0);
    let mut out = Vec::new();
    for stage in 0..=last {
        let (hosted, planned): (Vec<NodeId>, Vec<NodeId>) =
            order.iter().filter(|n| stage_of[n] == stage).partition(|n| on_host(graph, **n));
        if !planned.is_empty() {
            out.push(part(graph, &planned, stage));
        }
        out.extend(hosted.into_iter().map(Stage::Host));
    }
    out
}

/// What must run before a node: the makers of its operands and of the sizes it mentions.
fn needs(graph: &Graph, id: NodeId, definers: &BTreeMap<String, NodeId>) -> BTreeSet<NodeId> {
    let operands = graph.node(id).inputs.iter().flatten().filter_map(|v| graph.producer(*v));
    let mentioned = graph.mentioned(id);
    let sizes = mentioned.iter().filter_map(|s| definers.get(&**s).copied());
    operands.chain(sizes).filter(|n| *n != id).collect()
}

/// All nodes, each behind what it needs.
fn order(graph: &Graph) -> Vec<NodeId> {
    let definers = graph.size_definers();
    let plain = graph.topological();
    if definers.is_empty() {
        return plain;
    }
    let place: BTreeMap<NodeId, usize> = plain.iter().enumerate().map(|(n, id)| (*id, n)).collect();
    let mut waits: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut readers: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
    for &id in &plain {
        let needs = needs(graph, id, &definers);
        waits.insert(id, needs.len());
        needs.into_iter().for_each(|n| readers.entry(n).or_default().push(id));
    }
    let mut ready: BTreeSet<(usize, NodeId)> =
        plain.iter().filter(|n| waits[n] == 0).map(|n| (place[n], *n)).collect();
    let mut out = Vec::with_capacity(plain.len());
    while let Some((_, id)) = ready.pop_first() {
        out.push(id);
        for reader in readers.remove(&id).unwrap_or_default() {
            let left = waits.entry(reader).or_default();
            *left -= 1;
            if *left == 0 {
                ready.insert((place[&reader], reader));
            }
        }
    }
    // A size that is mentioned before it can be told: the program will say so when it runs.
    if out.len() < plain.len() { plain } else { out }
}

fn stages(graph: &Graph, order: &[NodeId]) -> BTreeMap<NodeId, usize> {
    let definers = graph.size_definers();
    let mut stage_of: BTreeMap<NodeId, usize> = BTreeMap::new();
    for &id in order {
        let host = on_host(graph, id);
        let after =
            |n: &NodeId| stage_of.get(n).copied().unwrap_or(0) + usize::from(!host && on_host(graph, *n));
        let stage = needs(graph, id, &definers).iter().map(after).max().unwrap_or(0);
        stage_of.insert(id, stage);
    }
    stage_of
}

/// The nodes as a graph of their own.
fn part(graph: &Graph, nodes: &[NodeId], stage: usize) -> Stage {
    let inside: BTreeSet<NodeId> = nodes.iter().copied().collect();
    let mut own = Graph::new(format!("{}.{stage}", graph.name));
    let mut values: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    let mut inputs = Vec::new();
    for &id in nodes {
        let node = graph.node(id);
        let mut operands = Vec::with_capacity(node.inputs.len());
        for operand in &node.inputs {
            operands.push(operand.map(|v| match values.get(&v) {
                Some(known) => *known,
                None => {
                    let value = graph.value(v);
                    let new = match &value.source {
                        Source::Const(tensor) => own.add_const(&value.name, tensor.clone()),
                        _ => {
                            inputs.push(v);
                            own.add_input(&value.name, value.ty.clone())
                        }
                    };
                    values.insert(v, new);
                    new
                }
            }));
        }
        let results: Vec<_> =
            node.outputs.iter().map(|v| (graph.value(*v).name.to_string(), graph.ty(*v).clone())).collect();
        let new = own.add_node(&node.name, node.op, node.attrs.clone(), &operands, &results);
        let outputs = own.node(new).outputs.clone();
        values.extend(node.outputs.iter().copied().zip(outputs));
    }
    let outputs = leaving(graph, &inside);
    for v in &outputs {
        own.add_output(&graph.value(*v).name, values[v]);
    }
    Stage::Static { graph: Box::new(own), inputs, outputs }
}

/// Results of the nodes that are read outside of them.
fn leaving(graph: &Graph, inside: &BTreeSet<NodeId>) -> Vec<ValueId> {
    let uses = graph.uses();
    let wanted: BTreeSet<ValueId> = graph.outputs().map(|(_, v)| v).collect();
    let results = inside.iter().flat_map(|id| graph.node(*id).outputs.iter().copied());
    let leaves = |v: &ValueId| wanted.contains(v) || uses[v.index()].iter().any(|n| !inside.contains(n));
    results.filter(leaves).collect()
}
