//! The graph in ONNX's terms: names, initializers, nodes.

use crate::attrs::{graph_attribute, to_proto};
use crate::call::unique;
use crate::kept::Kept;
use crate::lower::{lower, must_lower};
use crate::sizes::{order, reshape_target};
use crate::typing::value_info;
use onnx_protobuf::{GraphProto, NodeProto};
use partita_ir::graph::Node;
use partita_ir::op::{CAPTURES, OnnxName, SIZES};
use partita_ir::{Attr, DType, Diag, Dim, Graph, NodeId, Source, Tensor, Type, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// Opset written when no operator needs a newer one.
pub(crate) const BASE_OPSET: i64 = 20;

/// Attributes that came after the base opset: (operator, attribute, since).
const NEWER_ATTRS: &[(&str, &str, i64)] = &[
    ("attention", "left_window_size", 25),
    ("attention", "right_window_size", 25),
    ("cast", "round_mode", 24),
    ("cast_like", "round_mode", 24),
    ("dequantize_linear", "block_size", 21),
    ("dequantize_linear", "output_dtype", 23),
    ("quantize_linear", "block_size", 21),
    ("quantize_linear", "output_dtype", 21),
    ("quantize_linear", "precision", 23),
];

/// Operand attributes that are not an i64 vector, an i64 scalar or a scalar of the first operand's type.
const OPERAND_FORMS: &[(&str, &str, Form)] = &[
    ("dropout", "ratio", Form::Float),
    ("dropout", "training_mode", Form::Bool),
    ("top_k", "k", Form::OneInt),
    ("topk", "k", Form::OneInt),
];

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Bool,
    Float,
    OneInt,
}

/// What the writers of a graph and of the bodies in it share: names are unique in the whole model, and constants of
/// bodies are initializers of the model, which every body sees.
#[derive(Default)]
pub(crate) struct Shared<'g> {
    taken: BTreeSet<String>,
    node_names: BTreeSet<String>,
    pub(crate) initializers: Vec<(String, Tensor)>,
    /// Initializer of each content.
    by_content: BTreeMap<String, usize>,
    pub(crate) opset: i64,
    /// Other domains that are used, with the oldest version that has all that is used.
    pub(crate) domains: BTreeMap<&'static str, i64>,
    /// What the model that was read said about nodes.
    pub(crate) kept: Option<&'g Kept>,
    errors: Vec<Diag>,
}

/// ONNX nodes under construction.
pub(crate) struct Writer<'g> {
    pub(crate) graph: &'g Graph,
    /// Name of each value that has one already, by index.
    names: Vec<Option<String>>,
    /// Names of the graph's outputs.
    outputs: Vec<String>,
    pub(crate) nodes: Vec<NodeProto>,
    pub(crate) shared: Shared<'g>,
    /// Vectors of one size that exist already.
    pub(crate) sizes_made: BTreeMap<Dim, String>,
    /// The value and axis that has the size of each symbol.
    pub(crate) places: BTreeMap<String, (String, usize)>,
}

/// The name a node is written under, unless it is decomposed.
pub(crate) fn onnx_name(node: &Node) -> Option<OnnxName> {
    if must_lower(node) {
        return None;
    }
    node.op.0.onnx.iter().copied().min_by_key(|n| (n.domain, n.since))
}

/// A type without sizes that only have a name inside: what flows through a body differs from run to run.
fn without_symbols(ty: &Type) -> Type {
    if ty.is_tensor() && ty.shape.iter().any(|d| d.as_known().is_none()) {
        return Type::unranked(ty.dtype);
    }
    ty.clone()
}

/// The standard opset a name needs.
fn since(name: OnnxName) -> i64 {
    if name.domain.is_empty() { name.since } else { 0 }
}

/// The opset that all nodes of the graph need.
fn opset_of(graph: &Graph) -> i64 {
    let of_node = |node: &Node| {
        let own = match node.op.name {
            // Lengths of an external cache came as the seventh operand.
            "attention" => 23 + i64::from(node.inputs.len() > 6),
            _ => onnx_name(node).map_or(0, since),
        };
        let newer =
            NEWER_ATTRS.iter().filter(|(op, attr, _)| *op == node.op.name && node.attrs.get(attr).is_some());
        newer.map(|(_, _, since)| *since).max().unwrap_or(0).max(own)
    };
    let inside = |n: &Node| n.attrs.graphs().map(|(_, body)| opset_of(body)).max().unwrap_or(0);
    graph.nodes().map(|(_, n)| of_node(n).max(inside(n))).max().unwrap_or(0).max(BASE_OPSET)
}

impl<'g> Writer<'g> {
    /// A writer that has named the graph's inputs and reserved the names of its outputs.
    pub(crate) fn new(graph: &'g Graph, min_opset: i64, kept: Option<&'g Kept>) -> Self {
        let opset = opset_of(graph).max(min_opset);
        let mut writer = Self::over(graph, Shared { opset, kept, ..Shared::default() });
        for &input in graph.inputs() {
            let name = unique(&graph.value(input).name, &mut writer.shared.taken);
            writer.names[input.index()] = Some(name);
        }
        for (name, _) in graph.outputs() {
            if writer.outputs.iter().any(|other| other == name) {
                let diag = Diag::new("I018", "two graph outputs have this name")
                    .at_value(name)
                    .hint("rename one of them");
                writer.shared.errors.push(diag);
            }
            writer.outputs.push(name.to_owned());
        }
        let free: BTreeSet<String> =
            writer.outputs.iter().filter(|n| !writer.shared.taken.contains(*n)).cloned().collect();
        writer.shared.taken.extend(free.iter().cloned());
        writer.name_outputs(&free);
        writer.find_inputs();
        writer
    }

    fn over(graph: &'g Graph, shared: Shared<'g>) -> Self {
        Self {
            graph,
            names: vec![None; graph.n_values()],
            outputs: Vec::new(),
            nodes: Vec::new(),
            shared,
            sizes_made: BTreeMap::new(),
            places: BTreeMap::new(),
        }
    }

    /// Gives results of nodes the names of the outputs they are, where these are `free`.
    fn name_outputs(&mut self, free: &BTreeSet<String>) {
        for ((_, value), name) in self.graph.outputs().zip(&self.outputs) {
            let made_here = matches!(self.graph.value(value).source, Source::Node(..));
            if made_here && free.contains(name) && self.names[value.index()].is_none() {
                self.names[value.index()] = Some(name.clone());
            }
        }
    }

    /// Symbols that are dimensions of inputs.
    fn find_inputs(&mut self) {
        let graph = self.graph;
        graph.inputs().iter().for_each(|input| self.find(*input));
    }

    /// Symbols that are dimensions of a value.
    fn find(&mut self, value: ValueId) {
        let graph = self.graph;
        for (axis, dim) in graph.ty(value).shape.iter().enumerate() {
            if let Some(symbol) = dim.as_symbol().filter(|s| !self.places.contains_key(*s)) {
                let name = self.name_of(value);
                self.places.insert(symbol.to_owned(), (name, axis));
            }
        }
    }

    /// Writes all nodes.
    ///
    /// # Errors
    /// One per node that has no ONNX form, in bodies as well.
    pub(crate) fn write(&mut self) -> Result<(), Vec<Diag>> {
        self.write_nodes();
        let errors = std::mem::take(&mut self.shared.errors);
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    fn write_nodes(&mut self) {
        let graph = self.graph;
        for id in order(graph) {
            let node = graph.node(id);
            match self.node(id) {
                Ok(()) => node.outputs.iter().for_each(|value| self.find(*value)),
                Err(diag) => {
                    self.shared.errors.push(diag.at_node(format!("{} ({})", node.name, node.op.name)));
                }
            }
        }
        self.write_outputs();
    }

    /// Outputs that are not simply the result of a node get an Identity.
    fn write_outputs(&mut self) {
        let values: Vec<ValueId> = self.graph.outputs().map(|(_, v)| v).collect();
        for (name, value) in std::mem::take(&mut self.outputs).into_iter().zip(values) {
            let source = self.name_of(value);
            if source != name {
                self.emit_to("Identity", &[source], &[], name.clone());
            }
            self.outputs.push(name);
        }
    }

    /// A body as ONNX writes it: what it captures is read by name. `captured` are the operands' names.
    fn body(&mut self, body: &'g Graph, captured: &[String]) -> GraphProto {
        let mut inner = Self::over(body, std::mem::take(&mut self.shared));
        inner.sizes_made.clone_from(&self.sizes_made);
        inner.places.clone_from(&self.places);
        let (formal, around) = body.inputs().split_at(body.inputs().len().saturating_sub(captured.len()));
        for (value, name) in around.iter().zip(captured) {
            inner.names[value.index()] = Some(name.clone());
        }
        let mut input = Vec::new();
        for &value in formal {
            let name = unique(&body.value(value).name, &mut inner.shared.taken);
            inner.names[value.index()] = Some(name.clone());
            input.push(value_info(name, &without_symbols(body.ty(value))));
        }
        for (name, _) in body.outputs() {
            let name = unique(name, &mut inner.shared.taken);
            inner.outputs.push(name);
        }
        inner.name_outputs(&inner.outputs.iter().cloned().collect());
        inner.find_inputs();
        inner.write_nodes();
        let types = body.outputs().map(|(_, v)| without_symbols(body.ty(v)));
        let output = inner.outputs.iter().cloned().zip(types).map(|(n, ty)| value_info(n, &ty)).collect();
        self.shared = inner.shared;
        let name = if body.name.is_empty() { "body" } else { &body.name }.to_owned();
        GraphProto { node: inner.nodes, name, input, output, ..Default::default() }
    }

    /// The ONNX name of a value; a constant becomes an initializer the first time.
    pub(crate) fn name_of(&mut self, value: ValueId) -> String {
        if let Some(name) = &self.names[value.index()] {
            return name.clone();
        }
        let graph = self.graph;
        let name = match &graph.value(value).source {
            Source::Const(tensor) => self.constant(&graph.value(value).name, tensor),
            _ => unique(&graph.value(value).name, &mut self.shared.taken),
        };
        self.names[value.index()] = Some(name.clone());
        name
    }

    /// The name of an initializer with this content.
    pub(crate) fn constant(&mut self, wish: &str, tensor: &Tensor) -> String {
        let key = tensor.key();
        if let Some(&at) = self.shared.by_content.get(&key) {
            let (name, other) = &self.shared.initializers[at];
            if other.same_memory(tensor) || other == tensor {
                return name.clone();
            }
        }
        let name = unique(wish, &mut self.shared.taken);
        self.shared.by_content.insert(key, self.shared.initializers.len());
        self.shared.initializers.push((name.clone(), tensor.clone()));
        name
    }

    /// Adds a node with one result and returns that; for nodes the graph does not have.
    pub(crate) fn emit(&mut self, op: &str, inputs: &[String], attrs: &[(&str, Attr)], wish: &str) -> String {
        let output = unique(wish, &mut self.shared.taken);
        self.emit_to(op, inputs, attrs, output.clone());
        output
    }

    /// Adds a node with the one result `output`.
    pub(crate) fn emit_to(&mut self, op: &str, inputs: &[String], attrs: &[(&str, Attr)], output: String) {
        let name = unique(&output, &mut self.shared.node_names);
        self.nodes.push(NodeProto {
            name,
            op_type: op.to_owned(),
            input: inputs.to_vec(),
            output: vec![output],
            attribute: attrs.iter().filter_map(|(n, a)| to_proto(n, a)).collect(),
            ..Default::default()
        });
    }

    fn node(&mut self, id: NodeId) -> Result<(), Diag> {
        let node = self.graph.node(id);
        let Some(onnx) = onnx_name(node) else { return lower(self, id) };
        let mut inputs = self.operands(node);
        let n_captured = usize::try_from(node.attrs.int_or(CAPTURES, 0)).unwrap_or(0);
        let captured = inputs.split_off(inputs.len().saturating_sub(n_captured));
        let mut attribute = Vec::new();
        for (name, attr) in node.attrs.iter().filter(|(name, _)| *name != SIZES && *name != CAPTURES) {
            if let Attr::Graph(body) = attr {
                let graph = self.body(&body.0, &captured);
                attribute.push(graph_attribute(name, graph));
                continue;
            }
            let operand = node.op.attr(name).and_then(|def| def.operand);
            if let Some(n) = operand {
                let value = self.operand(node, name, attr)?;
                if inputs.len() <= n {
                    inputs.resize(n + 1, String::new());
                }
                inputs[n] = value;
            } else {
                attribute.push(to_proto(name, attr).ok_or_else(|| {
                    let text = format!("attribute {name} holds symbolic sizes, ONNX wants numbers");
                    Diag::new("U009", text).hint("fix the symbols with --dim NAME=N")
                })?);
            }
        }
        let output = node.outputs.iter().map(|v| self.name_of(*v)).collect();
        let name = unique(&node.name, &mut self.shared.node_names);
        if !onnx.domain.is_empty() {
            let version = self.shared.domains.entry(onnx.domain).or_default();
            *version = (*version).max(onnx.since);
        }
        let mut proto = NodeProto {
            name,
            op_type: onnx.op_type.to_owned(),
            domain: onnx.domain.to_owned(),
            input: inputs,
            output,
            attribute,
            ..Default::default()
        };
        if let Some(kept) = self.shared.kept {
            kept.restore(&node.name, &mut proto);
        }
        self.nodes.push(proto);
        Ok(())
    }

    /// Names of a node's operands; omitted ones are empty.
    pub(crate) fn operands(&mut self, node: &Node) -> Vec<String> {
        node.inputs.iter().map(|v| v.map_or_else(String::new, |v| self.name_of(v))).collect()
    }

    /// The operand that says what the attribute says.
    fn operand(&mut self, node: &Node, name: &str, attr: &Attr) -> Result<String, Diag> {
        let like = node.inputs.first().copied().flatten().map_or(DType::F32, |v| self.graph.ty(v).dtype);
        let form = OPERAND_FORMS.iter().find(|(op, a, _)| *op == node.op.name && *a == name).map(|f| f.2);
        let tensor = match (attr, form) {
            (Attr::Dims(dims), _) => return self.dims_operand(node, name, dims),
            (Attr::Ints(v), _) => Tensor::from_slice(&[v.len()], v),
            (Attr::Floats(v), _) => Tensor::from_slice(&[v.len()], v),
            (Attr::Int(v), Some(Form::Bool)) => Tensor::from_bools(&[], &[*v != 0]),
            (Attr::Int(v), Some(Form::OneInt)) => Tensor::from_slice(&[1], &[*v]),
            (Attr::Int(v), _) => Some(Tensor::scalar(*v)),
            (Attr::Float(v), Some(Form::Float)) => Some(Tensor::scalar(*v)),
            (Attr::Float(v), _) => Tensor::from_f64s(like, &[], &[f64::from(*v)]),
            (Attr::Tensor(t), _) => Some(t.clone()),
            _ => None,
        };
        let tensor = tensor.ok_or_else(|| {
            Diag::new("U009", format!("attribute {name} cannot be written as an operand"))
                .hint("write the graph before it is changed for a device")
        })?;
        Ok(self.constant(&format!("{}_{name}", node.name), &tensor))
    }

    fn dims_operand(&mut self, node: &Node, name: &str, dims: &[Dim]) -> Result<String, Diag> {
        let reshape = node.op.name == "reshape" && name == "shape" && !node.attrs.flag("allowzero");
        let from = node.inputs.first().copied().flatten().filter(|_| reshape);
        match from.and_then(|v| reshape_target(dims, self.graph.ty(v))) {
            Some(target) => Ok(self.ints(&target)),
            None => self.sizes(dims),
        }
    }
}
