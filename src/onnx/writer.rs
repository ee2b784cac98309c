//! The graph in ONNX's terms: names, initializers, nodes.

use crate::attrs::to_proto;
use crate::call::unique;
use crate::lower::{lower, must_lower};
use crate::sizes::reshape_target;
use onnx_protobuf::NodeProto;
use partita_ir::graph::Node;
use partita_ir::op::OnnxName;
use partita_ir::{Attr, DType, Diag, Dim, Graph, NodeId, Source, Tensor, ValueId};
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

/// ONNX nodes and initializers under construction.
pub(crate) struct Writer<'g> {
    pub(crate) graph: &'g Graph,
    /// Name of each value that has one already, by index.
    names: Vec<Option<String>>,
    taken: BTreeSet<String>,
    node_names: BTreeSet<String>,
    pub(crate) nodes: Vec<NodeProto>,
    pub(crate) initializers: Vec<(String, Tensor)>,
    /// Initializer of each content.
    by_content: BTreeMap<String, usize>,
    /// Vectors of one size that exist already.
    pub(crate) sizes_made: BTreeMap<Dim, String>,
    pub(crate) opset: i64,
    /// Other domains that are used.
    pub(crate) domains: BTreeSet<&'static str>,
}

/// The name a node is written under, unless it is decomposed.
pub(crate) fn onnx_name(node: &Node) -> Option<OnnxName> {
    if must_lower(node) {
        return None;
    }
    node.op.0.onnx.iter().copied().min_by_key(|n| (n.domain, n.since))
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
    graph.nodes().map(|(_, n)| of_node(n)).max().unwrap_or(0).max(BASE_OPSET)
}

impl<'g> Writer<'g> {
    /// A writer that has named the graph's inputs and reserved the names of its outputs.
    pub(crate) fn new(graph: &'g Graph, min_opset: i64) -> Self {
        let mut writer = Self {
            graph,
            names: vec![None; graph.n_values()],
            taken: BTreeSet::new(),
            node_names: BTreeSet::new(),
            nodes: Vec::new(),
            initializers: Vec::new(),
            by_content: BTreeMap::new(),
            sizes_made: BTreeMap::new(),
            opset: opset_of(graph).max(min_opset),
            domains: BTreeSet::new(),
        };
        for &input in graph.inputs() {
            let name = unique(&graph.value(input).name, &mut writer.taken);
            writer.names[input.index()] = Some(name);
        }
        for (name, value) in graph.outputs() {
            let made_here = matches!(graph.value(value).source, Source::Node(..));
            let free = writer.taken.insert(name.to_owned());
            if made_here && free && writer.names[value.index()].is_none() {
                writer.names[value.index()] = Some(name.to_owned());
            }
        }
        writer
    }

    /// Writes all nodes.
    ///
    /// # Errors
    /// One per node that has no ONNX form.
    pub(crate) fn write(&mut self) -> Result<(), Vec<Diag>> {
        let mut errors = Vec::new();
        for id in self.graph.topological() {
            let node = self.graph.node(id);
            if let Err(diag) = self.node(id) {
                errors.push(diag.at_node(format!("{} ({})", node.name, node.op.name)));
            }
        }
        errors.extend(self.outputs());
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Outputs that are not simply the result of a node get an Identity.
    fn outputs(&mut self) -> Vec<Diag> {
        let mut errors = Vec::new();
        let mut seen = BTreeSet::new();
        let outputs: Vec<(String, ValueId)> = self.graph.outputs().map(|(n, v)| (n.to_owned(), v)).collect();
        for (name, value) in outputs {
            if !seen.insert(name.clone()) {
                errors.push(Diag::new("I018", "two graph outputs have this name").at_value(name));
                continue;
            }
            let source = self.name_of(value);
            if source != name {
                let node_name = unique(&format!("{name}_identity"), &mut self.node_names);
                self.nodes.push(NodeProto {
                    name: node_name,
                    op_type: "Identity".to_owned(),
                    input: vec![source],
                    output: vec![name],
                    ..Default::default()
                });
            }
        }
        errors
    }

    /// The ONNX name of a value; a constant becomes an initializer the first time.
    pub(crate) fn name_of(&mut self, value: ValueId) -> String {
        if let Some(name) = &self.names[value.index()] {
            return name.clone();
        }
        let graph = self.graph;
        let name = match &graph.value(value).source {
            Source::Const(tensor) => self.constant(&graph.value(value).name, tensor),
            _ => unique(&graph.value(value).name, &mut self.taken),
        };
        self.names[value.index()] = Some(name.clone());
        name
    }

    /// The name of an initializer with this content.
    pub(crate) fn constant(&mut self, wish: &str, tensor: &Tensor) -> String {
        let key = tensor.key();
        if let Some(&at) = self.by_content.get(&key) {
            let (name, other) = &self.initializers[at];
            if other.same_memory(tensor) || other == tensor {
                return name.clone();
            }
        }
        let name = unique(wish, &mut self.taken);
        self.by_content.insert(key, self.initializers.len());
        self.initializers.push((name.clone(), tensor.clone()));
        name
    }

    /// Adds a node with one result and returns that; for nodes the graph does not have.
    pub(crate) fn emit(&mut self, op: &str, inputs: &[String], attrs: &[(&str, Attr)], wish: &str) -> String {
        let output = unique(wish, &mut self.taken);
        self.emit_to(op, inputs, attrs, output.clone());
        output
    }

    /// Adds a node with the one result `output`.
    pub(crate) fn emit_to(&mut self, op: &str, inputs: &[String], attrs: &[(&str, Attr)], output: String) {
        let name = unique(&output, &mut self.node_names);
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
        let mut attribute = Vec::new();
        for (name, attr) in node.attrs.iter() {
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
        let name = unique(&node.name, &mut self.node_names);
        if !onnx.domain.is_empty() {
            self.domains.insert(onnx.domain);
        }
        self.nodes.push(NodeProto {
            name,
            op_type: onnx.op_type.to_owned(),
            domain: onnx.domain.to_owned(),
            input: inputs,
            output,
            attribute,
            ..Default::default()
        });
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
        let tensor = tensor
            .ok_or_else(|| Diag::new("U009", format!("attribute {name} cannot be written as an operand")))?;
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
