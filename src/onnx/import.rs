//! ONNX in: from bytes to a graph. All that is wrong with a model is listed at once.

use crate::adapt::{NEWEST_OPSET, OLDEST_OPSET, adapt};
use crate::attrs;
use crate::call::{Call, Emit};
use crate::external::External;
use crate::inline::{Flat, Opsets, inline};
use crate::inputs::{Symbols, check_output, element_type};
use crate::limits::{MAX_DIAGS, Options};
use crate::map::{Owner, hold, map};
use crate::order::{check, label};
use crate::schema::Msg;
use crate::tensors::Store;
use crate::values::Ports;
use crate::wire::scan;
use onnx_protobuf::{GraphProto, Message, ModelProto, NodeProto, ValueInfoProto};
use partita_ir::{Attr, Bytes, Diag, Graph, Tensor, ValueId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;

/// A model that was read.
#[derive(Clone, Debug)]
pub struct Imported {
    pub graph: Graph,
    /// Opset of the standard domain.
    pub opset: i64,
    pub ir_version: i64,
    pub producer: String,
    pub doc: String,
    /// The model's own key-value pairs, in file order.
    pub metadata: Vec<(String, String)>,
    /// Graph inputs that have a default (an initializer of the same name). They are constants here.
    pub defaulted_inputs: Vec<String>,
    /// What kinds of values the inputs and outputs are declared to be.
    pub ports: Ports,
}

/// Reads the model at `path`. Weights stay in the file, which is mapped.
///
/// # Errors
/// Everything that is wrong: `I0xx` for the file, `U0xx` for what is valid but not supported, `V0xx` where
/// operands do not fit an operator.
pub fn load(path: &Path, options: &Options) -> Result<Imported, Vec<Diag>> {
    let name = path.display().to_string();
    let owner = map(path, options.limits.model_bytes).map_err(|d| vec![d.in_file(&*name)])?;
    read(&name, owner, External::beside(path, &options.limits), options)
}

/// Reads a model from memory; `name` stands for the file in messages. External data is looked up in
/// `folder`, or refused without one.
///
/// # Errors
/// See `load`.
pub fn load_bytes(
    name: &str,
    bytes: Bytes,
    folder: Option<&Path>,
    options: &Options,
) -> Result<Imported, Vec<Diag>> {
    let external = folder.map_or_else(External::default, |f| External::in_folder(f, &options.limits));
    read(name, hold(bytes), external, options)
}

/// Names of the inputs of the model at `path` that have no default, in order, whether or not the model is
/// supported.
///
/// # Errors
/// `I0xx` for a file that is no ONNX model.
pub fn input_names(path: &Path) -> Result<Vec<String>, Diag> {
    Ok(port_kinds(path)?.inputs.into_iter().map(|(name, _)| name).collect())
}

/// The declared kinds of the inputs (without those that have a default) and outputs of the model at `path`,
/// whether or not the model is supported.
///
/// # Errors
/// `I0xx` for a file that is no ONNX model.
pub fn port_kinds(path: &Path) -> Result<Ports, Diag> {
    let options = Options::default();
    let owner = map(path, options.limits.model_bytes)?;
    let (model, _) = parse(&owner, &options)?;
    Ok(Ports::of(&model.graph.unwrap_or_default()))
}

fn read(name: &str, owner: Owner, external: External, options: &Options) -> Result<Imported, Vec<Diag>> {
    let result = parse(&owner, options).map_err(|d| vec![d]).and_then(|(model, lifts)| {
        let store = Store { owner, lifts, external, limits: options.limits };
        build(model, store, options)
    });
    result.map_err(|mut diags| {
        diags.truncate(MAX_DIAGS);
        diags.into_iter().map(|d| d.in_file(name)).collect()
    })
}

fn parse(owner: &Owner, options: &Options) -> Result<(ModelProto, Vec<crate::wire::Lift>), Diag> {
    let bytes = (**owner).as_ref();
    if bytes.is_empty() {
        return Err(Diag::new("I003", "the file is empty").hint("copy or export the model again"));
    }
    let scanned = scan(bytes, Msg::Model, &options.limits)?;
    let model = ModelProto::parse_from_bytes(&scanned.structure).map_err(|e| {
        Diag::new("I009", format!("the model cannot be decoded: {e}")).hint("the file is damaged")
    })?;
    Ok((model, scanned.lifts))
}

fn build(mut model: ModelProto, store: Store, options: &Options) -> Result<Imported, Vec<Diag>> {
    let mut graph = model.graph.take().ok_or_else(|| {
        vec![Diag::new("I011", "the file holds no graph").hint("the file is damaged or is not an ONNX model")]
    })?;
    let opsets = opsets(&model).map_err(|d| vec![d])?;
    let opset = opsets.get("").copied().unwrap_or(0);
    // Taken out, so that a node is not held twice.
    let nodes = std::mem::take(&mut graph.node);
    let nodes = inline(&model, &graph, nodes, &opsets, &options.limits)?;
    let mut importer = Importer::new(&graph, &nodes, store, options);
    importer.given(&graph);
    importer.structure(&graph, &nodes);
    nodes.iter().enumerate().for_each(|(at, flat)| importer.node(flat, at));
    importer.outputs(&graph);
    importer.diags.extend(importer.symbols.unused());
    importer.diags.extend(importer.unknown_inputs());
    if !importer.diags.is_empty() {
        return Err(importer.diags);
    }
    Ok(Imported {
        graph: importer.emit.builder.finish(),
        opset,
        ir_version: model.ir_version,
        producer: model.producer_name,
        doc: model.doc_string,
        metadata: model.metadata_props.into_iter().map(|e| (e.key, e.value)).collect(),
        defaulted_inputs: importer.defaulted,
        ports: Ports::of(&graph),
    })
}

/// The opset of each domain.
fn opsets(model: &ModelProto) -> Result<Opsets, Diag> {
    let mut opsets = BTreeMap::new();
    for import in &model.opset_import {
        let domain = standard(&import.domain);
        // Some converters state the same one twice.
        if opsets.insert(domain.to_owned(), import.version).is_some_and(|before| before != import.version) {
            let text = format!("the opset of domain {:?} is stated twice", import.domain);
            return Err(Diag::new("I012", text).hint("the model is damaged; export it again"));
        }
    }
    match opsets.get("") {
        Some(&v) if v > NEWEST_OPSET => {
            let text = format!("the model uses opset {v}, the newest known one is {NEWEST_OPSET}");
            Err(Diag::new("U005", text).hint("export the model with an older opset"))
        }
        Some(&v) if v < OLDEST_OPSET => {
            let text = format!("the model uses opset {v}, the oldest supported one is {OLDEST_OPSET}");
            Err(Diag::new("U005", text).hint("convert the model to a newer opset"))
        }
        None if opsets.is_empty() => {
            Err(Diag::new("I012", "the model states no opset, so its operators have no meaning")
                .hint("export the model again"))
        }
        _ => Ok(Rc::new(opsets)),
    }
}

/// The standard domain has two names.
pub(crate) fn standard(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

struct Importer<'a> {
    emit: Emit,
    store: Store,
    symbols: Symbols,
    /// `None` for values whose making failed: their readers are skipped in silence.
    values: BTreeMap<&'a str, Option<ValueId>>,
    defaulted: Vec<String>,
    /// Values the caller gives inputs.
    fixed: BTreeMap<String, Tensor>,
    diags: Vec<Diag>,
}

impl<'a> Importer<'a> {
    fn new(graph: &'a GraphProto, nodes: &'a [Flat], store: Store, options: &Options) -> Self {
        let made = nodes.iter().flat_map(|n| n.node.output.iter());
        let given = graph.input.iter().map(|i| &i.name).chain(graph.initializer.iter().map(|t| &t.name));
        let reserved: BTreeSet<String> = made.chain(given).cloned().collect();
        let inputs: Vec<&ValueInfoProto> = graph.input.iter().collect();
        Self {
            emit: Emit::new(&graph.name, partita_ops::registry(), reserved),
            store,
            symbols: Symbols::new(options.dims.clone(), &inputs),
            values: BTreeMap::new(),
            defaulted: Vec::new(),
            fixed: options.inputs.clone(),
            diags: Vec::new(),
        }
    }

    /// Initializers and inputs.
    fn given(&mut self, graph: &'a GraphProto) {
        let inputs: BTreeSet<&str> = graph.input.iter().map(|i| i.name.as_str()).collect();
        for tensor in &graph.initializer {
            let data = self.store.tensor(tensor);
            self.initializer(&tensor.name, data, inputs.contains(tensor.name.as_str()));
        }
        for sparse in &graph.sparse_initializer {
            let name = sparse.values.as_ref().map_or("", |v| v.name.as_str());
            let data = self.store.sparse(sparse);
            self.initializer(name, data, inputs.contains(name));
        }
        let mut seen = BTreeSet::new();
        for input in &graph.input {
            if !seen.insert(input.name.as_str()) || input.name.is_empty() {
                let diag = Diag::new("I014", "two graph inputs have this name, or it is empty");
                self.diags.push(diag.at_value(&*input.name).hint("rename one of them"));
            } else if !self.values.contains_key(input.name.as_str()) {
                self.input(input);
            }
        }
    }

    fn initializer(&mut self, name: &'a str, data: Result<Tensor, Diag>, is_input: bool) {
        if self.values.contains_key(name) || name.is_empty() {
            let diag = Diag::new("I014", "two initializers have this name, or it is empty");
            return self.diags.push(diag.at_value(name).hint("rename one of them"));
        }
        if is_input {
            self.defaulted.push(name.to_owned());
        }
        let value = match data {
            Ok(data) => Some(self.emit.builder.constant(name, data)),
            Err(diag) => {
                self.diags.push(diag);
                None
            }
        };
        self.values.insert(name, value);
    }

    fn input(&mut self, input: &'a ValueInfoProto) {
        let value = match self.input_value(input) {
            Ok(value) => Some(value),
            Err(diag) => {
                self.diags.push(diag);
                None
            }
        };
        self.values.insert(&input.name, value);
    }

    fn input_value(&mut self, input: &ValueInfoProto) -> Result<ValueId, Diag> {
        let Some(tensor) = self.fixed.remove(&input.name) else {
            let ty = self.symbols.input_type(input)?;
            return Ok(self.emit.builder.input(&input.name, ty));
        };
        if let Some(declared) = element_type(input)?.filter(|d| *d != tensor.dtype()) {
            let text =
                format!("the input is {}, the value given is {}", declared.name(), tensor.dtype().name());
            return Err(Diag::new("I026", text).at_value(&*input.name).hint("convert the value"));
        }
        let value = self.emit.builder.constant(&input.name, tensor);
        check_output(input, self.emit.ty(value)).map_err(|_| {
            let text =
                format!("the value given is {}, the model declares another shape", self.emit.ty(value));
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
        unknown.collect()
    }

    /// Names and order of all nodes, before any of them is understood.
    fn structure(&mut self, graph: &GraphProto, nodes: &[Flat]) {
        let given: BTreeSet<&str> = self.values.keys().copied().collect();
        let nodes: Vec<&NodeProto> = nodes.iter().map(|n| &n.node).collect();
        self.diags.extend(check(&nodes, &given));
        let made: BTreeSet<&str> =
            nodes.iter().flat_map(|n| n.output.iter().map(String::as_str)).chain(given).collect();
        for output in graph.output.iter().filter(|o| o.name.is_empty() || !made.contains(o.name.as_str())) {
            let diag = Diag::new("I018", "nothing makes this graph output").at_value(&*output.name);
            self.diags.push(diag.hint("the model is incomplete; export it again"));
        }
        if graph.output.is_empty() {
            self.diags
                .push(Diag::new("I018", "the graph has no outputs").hint("declare the model's results"));
        }
    }

    fn node(&mut self, flat: &'a Flat, at: usize) {
        let made = self.translate(flat, at).unwrap_or_else(|diag| {
            self.diags.push(diag.at_node(label(&flat.node, at)));
            Vec::new()
        });
        for (n, name) in flat.node.output.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            // The first maker of a name counts; `check` has reported the others.
            self.values.entry(name).or_insert(made.get(n).copied());
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
        let mut inputs = Vec::new();
        for name in &node.input {
            match (name.is_empty(), self.values.get(name.as_str()).copied().flatten()) {
                (true, _) => inputs.push(None),
                (false, Some(value)) => inputs.push(Some(value)),
                (false, None) => return self.known_op(flat, attrs, at).map(|()| Vec::new()),
            }
        }
        let call = Call { inputs, ..self.call(flat, attrs, version, at) };
        if crate::contrib::knows(&call.domain, &call.op_type) {
            return crate::contrib::rewrite(call, &mut self.emit);
        }
        let call = adapt(call, &mut self.emit)?;
        self.emit.call(call)
    }

    fn call(&self, flat: &Flat, attrs: BTreeMap<String, Attr>, version: i64, at: usize) -> Call {
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
    fn known_op(&self, flat: &Flat, attrs: BTreeMap<String, Attr>, at: usize) -> Result<(), Diag> {
        let call = self.call(flat, attrs, flat.opsets.get("").copied().unwrap_or(0), at);
        let older = matches!(call.op_type.as_str(), "Scatter" | "Upsample");
        let rewritten = crate::contrib::knows(&call.domain, &call.op_type);
        let known = older || rewritten || self.emit.row(&call.domain, &call.op_type).is_some();
        if known { Ok(()) } else { Err(self.emit.unknown(&call)) }
    }

    fn attributes(&mut self, node: &NodeProto) -> Result<BTreeMap<String, Attr>, Diag> {
        let mut out = BTreeMap::new();
        for proto in &node.attribute {
            let value = attrs::value(proto, &mut self.store)?;
            if out.insert(proto.name.clone(), value).is_some() {
                let text = format!("attribute {} is stated twice", proto.name);
                return Err(Diag::new("I019", text).hint("the model is damaged; export it again"));
            }
        }
        Ok(out)
    }

    fn constant(&mut self, node: &NodeProto, attrs: &BTreeMap<String, Attr>) -> Result<Vec<ValueId>, Diag> {
        let wrong = || {
            Diag::new("I019", "a Constant has one value, one result and no operands")
                .hint("the model is damaged; export it again")
        };
        let (Some((name, attr)), 1, true) = (attrs.first_key_value(), attrs.len(), node.input.is_empty())
        else {
            return Err(wrong());
        };
        if node.output.len() != 1 || self.values.contains_key(node.output[0].as_str()) {
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
        Ok(vec![self.emit.builder.constant(&node.output[0], tensor.ok_or_else(wrong)?)])
    }

    fn outputs(&mut self, graph: &GraphProto) {
        for output in &graph.output {
            // Anything else has been reported where it failed.
            let Some(&Some(value)) = self.values.get(output.name.as_str()) else { continue };
            if let Err(diag) = check_output(output, self.emit.ty(value)) {
                self.diags.push(diag);
            }
            self.emit.builder.output(&output.name, value);
        }
    }
}
