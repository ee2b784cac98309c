//! From one graph of a file to a graph of ours, node by node. Bodies are graphs within: see `bodies`.

use crate::adapt::adapt;
use crate::attrs::{self, is_graph};
use crate::call::{Call, Emit};
use crate::free::defined;
use crate::import::standard;
use crate::inline::{Flat, Inlined, Inliner, Opsets};
use crate::inputs::{Symbols, check_output, element_type};
use crate::kept::Kept;
use crate::limits::Options;
use crate::order::{check, label};
use crate::tensors::Store;
use onnx_protobuf::{GraphProto, NodeProto, ValueInfoProto};
use partita_ir::op::CAPTURES;
use partita_ir::{Attr, Diag, Graph, Tensor, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// Values by their names in the file; `None` for those whose making failed: their readers are skipped in silence.
pub(crate) type Scope = BTreeMap<String, Option<ValueId>>;

/// Attributes of a node by name.
pub(crate) type AttrMap = BTreeMap<String, Attr>;

/// A graph under construction.
pub(crate) struct Level {
    pub(crate) emit: Emit,
    /// Innermost last: a branch that is inlined has a scope of its own in the same graph.
    pub(crate) scopes: Vec<Scope>,
    /// Bodies around it.
    pub(crate) depth: usize,
}

impl Level {
    /// What a name stands for; `None` for a name nobody has made.
    pub(crate) fn get(&self, name: &str) -> Option<Option<ValueId>> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name).copied())
    }

    fn innermost(&mut self) -> &mut Scope {
        if self.scopes.is_empty() {
            self.scopes.push(Scope::new());
        }
        let last = self.scopes.len() - 1;
        &mut self.scopes[last]
    }

    /// Lets a name stand for a value, unless it stands for one in the innermost scope already.
    pub(crate) fn bind(&mut self, name: &str, value: Option<ValueId>) {
        self.innermost().entry(name.to_owned()).or_insert(value);
    }
}

/// What an importer made.
pub(crate) struct Built {
    pub(crate) graph: Graph,
    /// Inputs that have a default.
    pub(crate) defaulted: Vec<String>,
    pub(crate) kept: Kept,
}

pub(crate) struct Importer<'m> {
    pub(crate) level: Level,
    pub(crate) store: Store,
    pub(crate) inliner: Inliner<'m>,
    symbols: Symbols,
    defaulted: Vec<String>,
    /// Values the caller gives inputs.
    fixed: BTreeMap<String, Tensor>,
    /// Bodies and inlined branches around the current graph.
    pub(crate) nesting: usize,
    kept: Kept,
    pub(crate) diags: Vec<Diag>,
}

impl<'m> Importer<'m> {
    pub(crate) fn new(name: &str, inliner: Inliner<'m>, store: Store, options: &Options, kept: Kept) -> Self {
        let emit = Emit::new(name, partita_ops::registry(), BTreeSet::new());
        Self {
            level: Level { emit, scopes: vec![Scope::new()], depth: 0 },
            store,
            inliner,
            symbols: Symbols::new(options.dims.clone()),
            defaulted: Vec::new(),
            fixed: options.inputs.clone(),
            nesting: 0,
            kept,
            diags: Vec::new(),
        }
    }

    /// Builds the model's graph.
    ///
    /// # Errors
    /// All that is wrong.
    pub(crate) fn model(mut self, graph: &GraphProto, opsets: &Opsets) -> Result<Built, Vec<Diag>> {
        let inlined = self.inliner.inline(&graph.node, opsets);
        let nodes = &inlined.nodes;
        let made = nodes.iter().flat_map(|n| n.node.output.iter().map(String::as_str));
        self.level.emit.reserve(made.chain(defined(graph)));
        self.symbols.avoid(&graph.input);
        self.given(graph);
        self.nodes(graph, &inlined);
        if graph.output.is_empty() {
            let diag = Diag::new("I018", "the graph has no outputs");
            self.diags.push(diag.hint("declare the model's results"));
        }
        for output in &graph.output {
            // Anything else has been reported where it failed.
            let Some(Some(value)) = self.level.get(&output.name) else { continue };
            if let Err(diag) = check_output(output, self.level.emit.ty(value)) {
                self.diags.push(diag);
            }
            self.level.emit.builder.output(&output.name, value);
        }
        self.diags.extend(self.symbols.unused());
        self.diags.extend(self.unknown_inputs());
        if self.diags.is_empty() {
            let graph = self.level.emit.builder.finish();
            Ok(Built { graph, defaulted: self.defaulted, kept: self.kept })
        } else {
            Err(self.diags)
        }
    }

    /// Initializers and inputs.
    fn given(&mut self, graph: &GraphProto) {
        let inputs: BTreeSet<&str> = graph.input.iter().map(|i| i.name.as_str()).collect();
        self.defaulted =
            self.initializers(graph).into_iter().filter(|n| inputs.contains(n.as_str())).collect();
        let mut seen = BTreeSet::new();
        for input in &graph.input {
            if !seen.insert(input.name.as_str()) || input.name.is_empty() {
                let diag = Diag::new("I014", "two graph inputs have this name, or it is empty");
                self.diags.push(diag.at_value(&*input.name).hint("rename one of them"));
            } else if self.level.get(&input.name).is_none() {
                let value = self.reported(|s| s.input_value(input));
                self.level.bind(&input.name, value);
            }
        }
    }

    /// The value, or `None` and a letter.
    fn reported<T>(&mut self, make: impl FnOnce(&mut Self) -> Result<T, Diag>) -> Option<T> {
        make(self).map_err(|diag| self.diags.push(diag)).ok()
    }

    /// Makes the initializers of a graph values of the innermost scope; returns their names.
    pub(crate) fn initializers(&mut self, graph: &GraphProto) -> Vec<String> {
        let mut names = Vec::new();
        for tensor in &graph.initializer {
            let data = self.reported(|s| s.store.tensor(tensor));
            self.initializer(&tensor.name, data, &mut names);
        }
        for sparse in &graph.sparse_initializer {
            let data = self.reported(|s| s.store.sparse(sparse));
            self.initializer(sparse.values.as_ref().map_or("", |v| &v.name), data, &mut names);
        }
        names
    }

    fn initializer(&mut self, name: &str, data: Option<Tensor>, names: &mut Vec<String>) {
        if self.level.innermost().contains_key(name) || name.is_empty() {
            let diag = Diag::new("I014", "two initializers have this name, or it is empty");
            return self.diags.push(diag.at_value(name).hint("rename one of them"));
        }
        let emit = &mut self.level.emit;
        let value = data.map(|data| {
            let own = emit.named(name);
            emit.builder.constant(&own, data)
        });
        self.level.bind(name, value);
        names.push(name.to_owned());
    }

    fn input_value(&mut self, input: &ValueInfoProto) -> Result<ValueId, Diag> {
        let emit = &mut self.level.emit;
        let Some(tensor) = self.fixed.remove(&input.name) else {
            let ty = self.symbols.input_type(input)?;
            return Ok(emit.builder.input(&input.name, ty));
        };
        if let Some(declared) = element_type(input)?.filter(|d| *d != tensor.dtype()) {
            let text =
                format!("the input is {}, the value given is {}", declared.name(), tensor.dtype().name());
            return Err(Diag::new("I026", text).at_value(&*input.name).hint("convert the value"));
        }
        let value = emit.builder.constant(&input.name, tensor);
        let ty = emit.ty(value);
        check_output(input, ty).map_err(|_| {
            let text = format!("the value given is {ty}, the model declares another shape");
            Diag::new("I026", text).at_value(&*input.name).hint("reshape the value")
        })?;
        Ok(value)
    }

    /// `I026` for values given to inputs the model does not have.
    fn unknown_inputs(&self) -> Vec<Diag> {
        let unknown = self
            .fixed
            .keys()
            .map(|name| Diag::new("I026", format!("the model has no input {name} to give a value to")));
        unknown.map(|d| d.hint("give values to inputs of the model")).collect()
    }

    /// Adds all nodes of a graph whose inputs and initializers are in the innermost scope.
    pub(crate) fn nodes(&mut self, graph: &GraphProto, inlined: &Inlined) {
        self.diags.extend(inlined.diags.iter().cloned());
        inlined.failed.iter().for_each(|name| self.level.bind(name, None));
        let nodes = &inlined.nodes;
        self.structure(graph, nodes);
        nodes.iter().enumerate().for_each(|(at, flat)| self.node(flat, at));
    }

    /// Names and order of all nodes, before any of them is understood.
    fn structure(&mut self, graph: &GraphProto, nodes: &[Flat]) {
        let Some((own, around)) = self.level.scopes.split_last() else { return };
        let given: BTreeSet<&str> = own.keys().map(String::as_str).collect();
        let outside = |name: &str| around.iter().any(|scope| scope.contains_key(name));
        let nodes: Vec<&NodeProto> = nodes.iter().map(|n| &*n.node).collect();
        self.diags.extend(check(&nodes, &given, &outside));
        let made: BTreeSet<&str> =
            nodes.iter().flat_map(|n| n.output.iter().map(String::as_str)).chain(given).collect();
        for output in &graph.output {
            let name = output.name.as_str();
            if name.is_empty() || !(made.contains(name) || outside(name)) {
                let diag = Diag::new("I018", "nothing makes this graph output").at_value(name);
                self.diags.push(diag.hint("the model is incomplete; export it again"));
            }
        }
    }

    fn node(&mut self, flat: &Flat, at: usize) {
        let made = self.translate(flat, at).unwrap_or_else(|diag| {
            self.diags.push(diag.at_node(label(&flat.node, at)));
            Vec::new()
        });
        let built = self.level.emit.builder.graph();
        if let Some(id) = made.first().and_then(|value| built.producer(*value)) {
            self.kept.note(&built.node(id).name, &flat.node);
        }
        for (n, name) in flat.node.output.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            // The first maker of a name counts; `check` has reported the others.
            self.level.bind(name, made.get(n).copied());
        }
    }

    /// The values a node makes; none when one of its operands could not be made.
    fn translate(&mut self, flat: &Flat, at: usize) -> Result<Vec<ValueId>, Diag> {
        let node = &flat.node;
        let domain = standard(&node.domain);
        let Some(&version) = flat.opsets.get(domain) else {
            let text = format!("the model states no opset for domain {:?}", node.domain);
            return Err(Diag::new("I012", text).hint("the model is incomplete; export it again"));
        };
        if node.output.iter().all(String::is_empty) {
            return Err(Diag::new("I018", "the node has no results").hint("remove it"));
        }
        let attrs = self.attributes(node)?;
        if domain.is_empty() && node.op_type == "Constant" {
            return self.constant(node, &attrs);
        }
        let mut call = self.call(flat, attrs, version, at);
        for name in &node.input {
            match (name.is_empty(), self.level.get(name).flatten()) {
                (true, _) => call.inputs.push(None),
                (false, Some(value)) => call.inputs.push(Some(value)),
                (false, None) => return self.known_op(&call).map(|()| Vec::new()),
            }
        }
        if node.attribute.iter().any(is_graph) {
            return self.control(flat, call);
        }
        if crate::contrib::knows(&call.domain, &call.op_type) {
            for value in call.inputs.iter().flatten() {
                self.level.emit.ranked(*value)?;
            }
            return crate::contrib::rewrite(call, &mut self.level.emit);
        }
        let call = adapt(call, &mut self.level.emit)?;
        self.level.emit.call(call)
    }

    fn call(&self, flat: &Flat, attrs: AttrMap, version: i64, at: usize) -> Call {
        let node = &flat.node;
        let name = if node.name.is_empty() {
            format!("{}_{at}", crate::call::snake(&node.op_type))
        } else {
            node.name.clone()
        };
        let domain = standard(&node.domain).to_owned();
        let outputs = node.output.clone();
        Call { name, domain, op_type: node.op_type.clone(), version, inputs: Vec::new(), attrs, outputs }
    }

    /// Even a node that cannot be built is checked for its operator, so that the list of what is not supported
    /// is complete at the first attempt.
    pub(crate) fn known_op(&self, call: &Call) -> Result<(), Diag> {
        let older = matches!(call.op_type.as_str(), "Scatter" | "Upsample");
        let rewritten = crate::contrib::knows(&call.domain, &call.op_type);
        let known = older || rewritten || self.level.emit.row(&call.domain, &call.op_type).is_some();
        if known { Ok(()) } else { Err(self.level.emit.unknown(call)) }
    }

    /// Attributes but for subgraphs.
    fn attributes(&mut self, node: &NodeProto) -> Result<AttrMap, Diag> {
        let mut out = AttrMap::new();
        let mut seen = BTreeSet::new();
        for proto in &node.attribute {
            if !seen.insert(proto.name.as_str()) {
                let text = format!("attribute {} is stated twice", proto.name);
                return Err(Diag::new("I019", text).hint("the model is damaged; export it again"));
            }
            if proto.name == CAPTURES {
                let text = format!("attribute {CAPTURES} of {} is not supported", node.op_type);
                return Err(Diag::new("U006", text).hint("remove it if the model does not need it"));
            }
            if !is_graph(proto) || !proto.ref_attr_name.is_empty() {
                out.insert(proto.name.clone(), attrs::value(proto, &mut self.store)?);
            }
        }
        Ok(out)
    }

    fn constant(&mut self, node: &NodeProto, attrs: &AttrMap) -> Result<Vec<ValueId>, Diag> {
        let wrong = || {
            Diag::new("I019", "a Constant has one value, one result and no operands")
                .hint("the model is damaged; export it again")
        };
        let (Some((name, attr)), 1, true) = (attrs.first_key_value(), attrs.len(), node.input.is_empty())
        else {
            return Err(wrong());
        };
        if node.output.len() != 1 || self.level.innermost().contains_key(&node.output[0]) {
            return Err(wrong());
        }
        let tensor = match (name.as_str(), attr) {
            ("value" | "sparse_value", Attr::Tensor(tensor)) => Some(tensor.clone()),
            ("value_int", Attr::Int(v)) => Some(Tensor::scalar(*v)),
            ("value_float", Attr::Float(v)) => Some(Tensor::scalar(*v)),
            ("value_ints", Attr::Ints(v)) => Tensor::from_slice(&[v.len()], v),
            ("value_floats", Attr::Floats(v)) => Tensor::from_slice(&[v.len()], v),
            ("value_string", Attr::Str(v)) => Tensor::from_strings(&[], std::slice::from_ref(v)),
            ("value_strings", Attr::Strs(v)) => Tensor::from_strings(&[v.len()], v),
            _ => None,
        };
        let tensor = tensor.ok_or_else(wrong)?;
        let emit = &mut self.level.emit;
        let own = emit.named(&node.output[0]);
        Ok(vec![emit.builder.constant(&own, tensor)])
    }
}
