//! The graph: operators in a petgraph digraph, values with types beside it.
//!
//! A value is a graph input, a constant or one output of a node. Values are numbered and never removed (an
//! unused one costs a few words); nodes are. petgraph's types stay inside this file.

use crate::attr::Attrs;
use crate::op::OpRef;
use crate::tensor::Tensor;
use crate::types::Type;
use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

/// Deepest nesting of bodies inside bodies; what walks them may recurse this far.
pub const MAX_BODY_DEPTH: usize = 12;

/// A node (one application of an operator).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(NodeIndex<u32>);

impl NodeId {
    /// A number that is unique in the graph and grows with the order of insertion.
    pub fn index(self) -> usize {
        self.0.index()
    }
}

/// A value (a tensor that flows along edges).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(u32);

impl ValueId {
    /// Index into tables over all values, below `Graph::n_values`.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// The n-th graph input.
    Input(usize),
    Const(Tensor),
    /// The n-th output of a node.
    Node(NodeId, usize),
}

/// A value's name, type and source.
#[derive(Clone, Debug)]
pub struct Value {
    pub name: Arc<str>,
    pub ty: Type,
    pub source: Source,
}

/// One application of an operator.
#[derive(Clone, Debug)]
pub struct Node {
    pub name: Arc<str>,
    pub op: OpRef,
    pub attrs: Attrs,
    /// `None` marks an omitted optional operand.
    pub inputs: Vec<Option<ValueId>>,
    pub outputs: Vec<ValueId>,
}

/// A graph of operators.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub name: String,
    /// Edges go from producer to consumer; the weight is the operand's index.
    dag: StableDiGraph<Node, u32, u32>,
    values: Vec<Value>,
    inputs: Vec<ValueId>,
    outputs: Vec<(Arc<str>, ValueId)>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    fn add_value(&mut self, name: &str, ty: Type, source: Source) -> ValueId {
        let id = ValueId(u32::try_from(self.values.len()).unwrap_or(u32::MAX));
        self.values.push(Value { name: name.into(), ty, source });
        id
    }

    /// Adds a graph input.
    pub fn add_input(&mut self, name: &str, ty: Type) -> ValueId {
        let id = self.add_value(name, ty, Source::Input(self.inputs.len()));
        self.inputs.push(id);
        id
    }

    /// Adds a constant.
    pub fn add_const(&mut self, name: &str, tensor: Tensor) -> ValueId {
        let ty = Type::known(tensor.dtype(), tensor.shape());
        self.add_value(name, ty, Source::Const(tensor))
    }

    /// Adds a node with its results' names and types. Operands must exist; types are the caller's business
    /// (see `builder` for inferred ones, `verify` for the check).
    pub fn add_node(
        &mut self,
        name: &str,
        op: OpRef,
        attrs: Attrs,
        inputs: &[Option<ValueId>],
        results: &[(String, Type)],
    ) -> NodeId {
        let node = Node { name: name.into(), op, attrs, inputs: inputs.to_vec(), outputs: Vec::new() };
        let id = NodeId(self.dag.add_node(node));
        for (operand, value) in inputs.iter().enumerate() {
            if let Some(Source::Node(producer, _)) = value.map(|v| &self.values[v.index()].source) {
                self.dag.add_edge(producer.0, id.0, u32::try_from(operand).unwrap_or(u32::MAX));
            }
        }
        let outputs: Vec<ValueId> = results
            .iter()
            .enumerate()
            .map(|(n, (name, ty))| self.add_value(name, ty.clone(), Source::Node(id, n)))
            .collect();
        self.dag[id.0].outputs = outputs;
        id
    }

    /// Adds a graph output under `name`.
    pub fn add_output(&mut self, name: &str, value: ValueId) {
        self.outputs.push((name.into(), value));
    }

    /// The node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.dag[id.0]
    }

    /// Whether the node is still there.
    pub fn contains(&self, id: NodeId) -> bool {
        self.dag.contains_node(id.0)
    }

    /// The value.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// The type of a value.
    pub fn ty(&self, id: ValueId) -> &Type {
        &self.values[id.index()].ty
    }

    /// The constant behind a value, if it is one.
    pub fn as_const(&self, id: ValueId) -> Option<&Tensor> {
        match &self.value(id).source {
            Source::Const(t) => Some(t),
            _ => None,
        }
    }

    /// The node that produces a value, if one does.
    pub fn producer(&self, id: ValueId) -> Option<NodeId> {
        match self.value(id).source {
            Source::Node(node, _) => Some(node),
            _ => None,
        }
    }

    /// Whether the value with this index is the result of a node.
    pub(crate) fn is_computed(&self, index: usize) -> bool {
        matches!(self.values[index].source, Source::Node(..))
    }

    /// Graph inputs in order.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// Graph outputs in order, with the names the model gives them.
    pub fn outputs(&self) -> impl Iterator<Item = (&str, ValueId)> {
        self.outputs.iter().map(|(n, v)| (n.as_ref(), *v))
    }

    /// Number of nodes.
    pub fn n_nodes(&self) -> usize {
        self.dag.node_count()
    }

    /// Number of values, unused ones included.
    pub fn n_values(&self) -> usize {
        self.values.len()
    }

    /// All values in order of creation.
    pub fn values(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.values.iter().enumerate().map(|(i, v)| (ValueId(i as u32), v))
    }

    /// All nodes in order of creation.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.dag.node_indices().map(|i| (NodeId(i), &self.dag[i]))
    }

    /// Nodes that read any output of `id`, each once, in order of creation.
    pub fn consumers(&self, id: NodeId) -> BTreeSet<NodeId> {
        self.dag.edges_directed(id.0, Direction::Outgoing).map(|e| NodeId(e.target())).collect()
    }

    /// For every value (by index) the nodes that read it, once per operand, in order of creation.
    pub fn uses(&self) -> Vec<Vec<NodeId>> {
        let mut uses = vec![Vec::new(); self.values.len()];
        for (id, node) in self.nodes() {
            for value in node.inputs.iter().flatten() {
                uses[value.index()].push(id);
            }
        }
        uses
    }

    /// Nodes such that producers come before consumers, ties by order of creation. Nodes on a cycle are left
    /// out, so the result is shorter than `n_nodes` exactly when there is one.
    pub fn topological(&self) -> Vec<NodeId> {
        let mut missing: BTreeMap<NodeIndex<u32>, usize> = BTreeMap::new();
        let mut ready = BinaryHeap::new();
        for id in self.dag.node_indices() {
            match self.dag.edges_directed(id, Direction::Incoming).count() {
                0 => ready.push(Reverse(id)),
                n => {
                    missing.insert(id, n);
                }
            }
        }
        let mut order = Vec::with_capacity(self.n_nodes());
        while let Some(Reverse(id)) = ready.pop() {
            order.push(NodeId(id));
            for edge in self.dag.edges_directed(id, Direction::Outgoing) {
                if let Some(n) = missing.get_mut(&edge.target()) {
                    *n -= 1;
                    if *n == 0 {
                        ready.push(Reverse(edge.target()));
                    }
                }
            }
        }
        order
    }

    /// Changes one operand of a node.
    pub fn set_input(&mut self, id: NodeId, operand: usize, value: Option<ValueId>) {
        let old = self.dag.edges_directed(id.0, Direction::Incoming);
        let old = old.filter(|e| *e.weight() as usize == operand).map(|e| e.id()).next();
        if let Some(edge) = old {
            self.dag.remove_edge(edge);
        }
        if let Some(Source::Node(producer, _)) = value.map(|v| self.values[v.index()].source.clone()) {
            self.dag.add_edge(producer.0, id.0, u32::try_from(operand).unwrap_or(u32::MAX));
        }
        let inputs = &mut self.dag[id.0].inputs;
        if inputs.len() <= operand {
            inputs.resize(operand + 1, None);
        }
        inputs[operand] = value;
    }

    /// Drops omitted operands at the end of a node's operand list.
    pub fn trim_inputs(&mut self, id: NodeId) {
        let inputs = &mut self.dag[id.0].inputs;
        while inputs.last().is_some_and(Option::is_none) {
            inputs.pop();
        }
    }

    /// Changes a node's attributes.
    pub fn attrs_mut(&mut self, id: NodeId) -> &mut Attrs {
        &mut self.dag[id.0].attrs
    }

    /// Makes every reader of `old`, graph outputs included, read `new`.
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        let readers: Vec<(NodeId, usize)> = match self.value(old).source {
            Source::Node(producer, _) => self.readers_of(self.consumers(producer).into_iter(), old),
            _ => self.readers_of(self.dag.node_indices().map(NodeId), old),
        };
        for (node, operand) in readers {
            self.set_input(node, operand, Some(new));
        }
        for output in &mut self.outputs {
            if output.1 == old {
                output.1 = new;
            }
        }
    }

    fn readers_of(&self, nodes: impl Iterator<Item = NodeId>, value: ValueId) -> Vec<(NodeId, usize)> {
        nodes
            .flat_map(|n| self.node(n).inputs.iter().enumerate().map(move |(k, v)| (n, k, *v)))
            .filter(|(_, _, v)| *v == Some(value))
            .map(|(n, k, _)| (n, k))
            .collect()
    }

    /// Nodes that name sizes which depend on data, by the names of the sizes.
    pub fn size_definers(&self) -> BTreeMap<String, NodeId> {
        let names = |(id, node): (NodeId, &Node)| {
            let sizes = node.attrs.strs(crate::op::SIZES).unwrap_or_default().to_vec();
            sizes.into_iter().map(move |name| (name, id))
        };
        self.nodes().flat_map(names).collect()
    }

    /// Symbols that a node's results and attributes mention.
    pub fn mentioned(&self, id: NodeId) -> BTreeSet<Arc<str>> {
        let node = self.node(id);
        let mut symbols: BTreeSet<Arc<str>> =
            node.outputs.iter().flat_map(|v| self.ty(*v).symbols()).collect();
        for dims in node.attrs.iter().filter_map(|(name, _)| node.attrs.dims(name)) {
            dims.iter().for_each(|d| d.symbols(&mut symbols));
        }
        symbols
    }

    /// A size that depends on data which is mentioned but whose definition is gone.
    pub fn undefined_size(&self) -> Option<Arc<str>> {
        let definers = self.size_definers();
        let given = self.input_symbols();
        let lost = |s: &Arc<str>| {
            s.starts_with(crate::dim::DATA_LEAD) && !definers.contains_key(&**s) && !given.contains_key(s)
        };
        self.nodes().find_map(|(id, _)| self.mentioned(id).into_iter().find(lost))
    }

    /// Removes nodes whose results nobody needs; returns how many. A node that defines a size somebody mentions is
    /// needed.
    pub fn remove_dead(&mut self) -> usize {
        let definers = self.size_definers();
        let mut live: BTreeSet<NodeIndex<u32>> = BTreeSet::new();
        let mut todo: Vec<NodeId> = self.outputs.iter().filter_map(|(_, v)| self.producer(*v)).collect();
        while let Some(node) = todo.pop() {
            if live.insert(node.0) {
                todo.extend(self.node(node).inputs.iter().flatten().filter_map(|v| self.producer(*v)));
                if !definers.is_empty() {
                    todo.extend(self.mentioned(node).iter().filter_map(|s| definers.get(&**s)));
                }
            }
        }
        let before = self.n_nodes();
        self.dag.retain_nodes(|_, id| live.contains(&id));
        before - self.n_nodes()
    }

    /// Names of all symbols that inputs, results and attributes mention, in name order.
    pub fn all_symbols(&self) -> BTreeSet<Arc<str>> {
        let inputs = self.inputs.iter().flat_map(|v| self.ty(*v).symbols());
        inputs.chain(self.nodes().flat_map(|(id, _)| self.mentioned(id))).collect()
    }

    /// Names of all symbols in the types of the graph's inputs, each with the input and axis that is exactly
    /// that symbol (the first such), in name order.
    pub fn input_symbols(&self) -> BTreeMap<Arc<str>, Option<(usize, usize)>> {
        let mut symbols: BTreeMap<Arc<str>, Option<(usize, usize)>> = BTreeMap::new();
        for (input, value) in self.inputs.iter().enumerate() {
            for (axis, dim) in self.ty(*value).shape.iter().enumerate() {
                let mut names = BTreeSet::new();
                dim.symbols(&mut names);
                for name in names {
                    let place = (dim.as_symbol() == Some(&name)).then_some((input, axis));
                    let slot = symbols.entry(name).or_default();
                    *slot = slot.or(place);
                }
            }
        }
        symbols
    }
}
