//! Groups nodes into regions, the future kernels: an anchor with its elementwise epilogue, elementwise chains,
//! reshapes, and everything else by itself.
//!
//! Only single-consumer values are swallowed, and a region grows only from a producer to its sole consumer, so
//! the quotient graph is acyclic by construction.

use partita_ir::op::ScalarCtx;
use partita_ir::tile::{TileBuilder, fits_lanes};
use partita_ir::{DType, Graph, NodeId, Region, RegionKind, Regions, Source, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// Most operands an elementwise region may read, so that a tile program stays small.
const MAX_INPUTS: usize = 16;

/// Most nodes of one region.
const MAX_NODES: usize = 64;

/// Which nodes may be swallowed.
pub struct Rules<'a> {
    /// Whether an operator's kernel takes an elementwise epilogue.
    pub takes_epilogue: &'a dyn Fn(&str) -> bool,
}

impl Default for Rules<'_> {
    fn default() -> Self {
        Self { takes_epilogue: &|op| crate::egraph::cost::ANCHORS.contains(&op) }
    }
}

/// Groups the nodes of a graph without cycles.
pub fn fuse(graph: &Graph, rules: &Rules) -> Regions {
    let mut groups = Groups::new(graph);
    let order = graph.topological();
    for &id in &order {
        if (rules.takes_epilogue)(graph.node(id).op.name) && lanes_of_anchor(graph, id) {
            groups.grow_epilogue(id);
        }
    }
    // Producers join their sole consumer, last nodes first, so that a cluster has one shape: its result's.
    for &id in order.iter().rev() {
        groups.join_consumer(id);
    }
    groups.finish(&order)
}

/// Whether the anchor's result is of a type epilogues compute in.
fn lanes_of_anchor(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    node.outputs.len() == 1
        && matches!(graph.ty(node.outputs[0]).dtype, DType::F32 | DType::F16 | DType::Bf16)
}

/// Whether a node is one result element per element of (broadcast) operands, in the lanes of tile programs.
fn has_tile_form(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    let Some(scalar) = node.op.scalar else { return false };
    let [output] = node.outputs.as_slice() else { return false };
    let inputs: Option<Vec<DType>> = node.inputs.iter().map(|v| v.map(|v| graph.ty(v).dtype)).collect();
    let Some(inputs) = inputs.filter(|i| !i.is_empty()) else { return false };
    let dtype = graph.ty(*output).dtype;
    if !node.op.traits.elementwise || !fits_lanes(dtype) || !inputs.iter().all(|d| fits_lanes(*d)) {
        return false;
    }
    let mut builder = TileBuilder::new();
    let regs: Vec<_> = inputs.iter().map(|d| builder.input(*d)).collect();
    scalar(&ScalarCtx { attrs: &node.attrs, inputs: &inputs, output: dtype }, &mut builder, &regs).is_some()
}

struct Groups<'a> {
    graph: &'a Graph,
    /// Readers of each value, once per operand; graph outputs count as one more.
    n_reads: Vec<usize>,
    readers: Vec<Vec<NodeId>>,
    tile: BTreeMap<NodeId, bool>,
    /// Representative (last node) of each node's group, and its members.
    group: BTreeMap<NodeId, NodeId>,
    members: BTreeMap<NodeId, Vec<NodeId>>,
    anchor: BTreeMap<NodeId, NodeId>,
}

impl<'a> Groups<'a> {
    fn new(graph: &'a Graph) -> Self {
        let readers = graph.uses();
        let mut n_reads: Vec<usize> = readers.iter().map(Vec::len).collect();
        for (_, value) in graph.outputs() {
            n_reads[value.index()] += 1;
        }
        let tile = graph.nodes().map(|(id, _)| (id, has_tile_form(graph, id))).collect();
        let group = graph.nodes().map(|(id, _)| (id, id)).collect();
        let members = graph.nodes().map(|(id, _)| (id, vec![id])).collect();
        Self { graph, n_reads, readers, tile, group, members, anchor: BTreeMap::new() }
    }

    /// The only node that reads a value, when it is no graph output and every read is by that node.
    fn sole_reader(&self, value: ValueId) -> Option<NodeId> {
        let readers = &self.readers[value.index()];
        let first = *readers.first()?;
        (self.n_reads[value.index()] == readers.len() && readers.iter().all(|r| *r == first)).then_some(first)
    }

    /// Elementwise nodes behind an anchor, as long as each is the only reader of the one before.
    fn grow_epilogue(&mut self, anchor: NodeId) {
        self.anchor.insert(anchor, anchor);
        let mut last = anchor;
        let shape = &self.graph.ty(self.graph.node(anchor).outputs[0]).shape;
        while let Some(next) = self.sole_reader(self.graph.node(last).outputs[0]) {
            let output = self.graph.node(next).outputs[0];
            let fits = self.tile[&next]
                && self.graph.ty(output).shape == *shape
                && self.group[&next] == next
                && self.members[&last].len() < MAX_NODES
                && self.n_inputs(last, next) <= MAX_INPUTS;
            if !fits || self.is_last_dequantize(next) {
                break;
            }
            self.merge(last, next);
            last = next;
        }
    }

    /// Whether it is a `dequantize` that nothing could follow in an epilogue: the numbers are smaller.
    fn is_last_dequantize(&self, id: NodeId) -> bool {
        let output = self.graph.node(id).outputs[0];
        let goes_on = self.sole_reader(output).is_some_and(|next| {
            let shape = |id: NodeId| &self.graph.ty(self.graph.node(id).outputs[0]).shape;
            self.tile[&next] && self.group[&next] == next && shape(next) == shape(id)
        });
        self.graph.node(id).op.name == "dequantize" && !goes_on
    }

    /// Number of values the union of two groups would read.
    fn n_inputs(&self, first: NodeId, second: NodeId) -> usize {
        let mut nodes = self.members[&first].clone();
        nodes.extend(&self.members[&second]);
        self.inputs(&nodes).len()
    }

    /// Puts the group of `producer` into that of `consumer`, which keeps the name.
    fn merge(&mut self, producer: NodeId, consumer: NodeId) {
        let from = self.group[&producer];
        let into = self.group[&consumer];
        let mut moved = self.members.remove(&from).unwrap_or_default();
        for id in &moved {
            self.group.insert(*id, into);
        }
        if let Some(anchor) = self.anchor.remove(&from) {
            self.anchor.insert(into, anchor);
        }
        let own = self.members.entry(into).or_default();
        moved.append(own);
        *own = moved;
    }

    /// Joins an elementwise node with its sole consumer's elementwise cluster of the same shape.
    fn join_consumer(&mut self, id: NodeId) {
        if !self.tile[&id] || self.anchor.contains_key(&self.group[&id]) {
            return;
        }
        let output = self.graph.node(id).outputs[0];
        let Some(reader) = self.sole_reader(output) else { return };
        let (from, into) = (self.group[&id], self.group[&reader]);
        // What makes floats of numbers goes along even with an epilogue; nothing else reads it, so no cycle can arise.
        let joins = !self.anchor.contains_key(&into)
            || (self.graph.node(id).op.name == "dequantize" && self.members[&from].len() == 1);
        let fits = from != into
            && self.tile[&reader]
            && joins
            && self.graph.ty(output).shape == self.graph.ty(self.graph.node(into).outputs[0]).shape
            && self.members[&from].len() + self.members[&into].len() <= MAX_NODES
            && self.n_inputs(from, into) <= MAX_INPUTS;
        if fits {
            self.merge(from, into);
        }
    }

    /// Values read from outside, constants included, in order of first reading.
    fn inputs(&self, nodes: &[NodeId]) -> Vec<ValueId> {
        let inside: BTreeSet<ValueId> =
            nodes.iter().flat_map(|id| self.graph.node(*id).outputs.iter().copied()).collect();
        let mut seen = BTreeSet::new();
        let read = nodes.iter().flat_map(|id| self.graph.node(*id).inputs.iter().flatten().copied());
        read.filter(|v| !inside.contains(v) && seen.insert(*v)).collect()
    }

    fn region(&self, last: NodeId, order: &BTreeMap<NodeId, usize>) -> Region {
        let mut nodes = self.members[&last].clone();
        nodes.sort_by_key(|id| order[id]);
        let anchor = self.anchor.get(&last).copied();
        let node = self.graph.node(last);
        let kind = if anchor.is_some() {
            RegionKind::Anchor
        } else if node.op.traits.reshapes && node.outputs.len() == 1 && self.reinterprets(last) {
            RegionKind::Reshape
        } else if self.tile[&last] {
            RegionKind::Elementwise
        } else {
            RegionKind::Single
        };
        Region {
            name: self.graph.node(anchor.unwrap_or(last)).name.to_string(),
            kind,
            anchor,
            inputs: self.inputs(&nodes),
            outputs: node.outputs.clone(),
            nodes,
        }
    }

    /// Whether a reshape's result has the element type of its operand (and one operand to share memory with).
    fn reinterprets(&self, id: NodeId) -> bool {
        let node = self.graph.node(id);
        let operand = node.inputs.first().copied().flatten();
        operand.is_some_and(|v| self.graph.ty(v).dtype == self.graph.ty(node.outputs[0]).dtype)
    }

    /// Regions in topological order of the quotient graph.
    fn finish(self, order: &[NodeId]) -> Regions {
        let place: BTreeMap<NodeId, usize> = order.iter().enumerate().map(|(n, &id)| (id, n)).collect();
        // By the place of the last node: everything a region reads was finished by an earlier last node.
        let lasts: Vec<NodeId> = order.iter().copied().filter(|id| self.members.contains_key(id)).collect();
        let list: Vec<Region> = lasts.iter().map(|last| self.region(*last, &place)).collect();
        let mut of_node = BTreeMap::new();
        for (n, region) in list.iter().enumerate() {
            of_node.extend(region.nodes.iter().map(|id| (*id, n)));
        }
        Regions { list, of_node }
    }
}

/// Whether regions partition the graph's nodes, are in topological order, and only `Single` ones have several
/// results. For tests and for the verifier of later stages.
pub fn is_partition(graph: &Graph, regions: &Regions) -> bool {
    let n_members: usize = regions.list.iter().map(|r| r.nodes.len()).sum();
    let ordered = regions.list.iter().enumerate().all(|(n, region)| {
        region.inputs.iter().all(|v| match graph.value(*v).source {
            Source::Node(producer, _) => regions.of_node.get(&producer).is_some_and(|p| *p < n),
            _ => true,
        })
    });
    let one_result = regions.list.iter().all(|r| r.outputs.len() == 1 || r.kind == RegionKind::Single);
    ordered && one_result && n_members == graph.n_nodes() && regions.of_node.len() == n_members
}
