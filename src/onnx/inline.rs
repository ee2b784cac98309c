//! Functions of a model, expanded where they are called, without recursion and within limits: forty functions
//! that each call the next one twice are a small file and a trillion nodes.

use crate::attrs::graphs;
use crate::free::{defined, n_nodes_of};
use crate::import::standard;
use crate::limits::{Limits, MAX_CALL_DEPTH};
use onnx_protobuf::{AttributeProto, FunctionProto, GraphProto, Message, ModelProto, NodeProto};
use partita_ir::Diag;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Opset of each domain; empty is the standard domain.
pub(crate) type Opsets = Rc<BTreeMap<String, i64>>;

/// A node after expansion, with the opsets it was written for.
#[derive(Clone, Debug)]
pub(crate) struct Flat<'g> {
    pub(crate) node: Cow<'g, NodeProto>,
    pub(crate) opsets: Opsets,
}

/// Nodes after expansion, and what went wrong.
#[derive(Default)]
pub(crate) struct Inlined<'g> {
    pub(crate) nodes: Vec<Flat<'g>>,
    /// Results of calls that could not be expanded.
    pub(crate) failed: Vec<String>,
    pub(crate) diags: Vec<Diag>,
}

type Key<'a> = (&'a str, &'a str, &'a str);

struct Pending<'g> {
    flat: Flat<'g>,
    /// How many calls it is inside.
    depth: usize,
}

/// A function with the opsets it was written for.
struct Function<'m> {
    proto: &'m FunctionProto,
    opsets: Opsets,
    /// Nodes, those of subgraphs included.
    n_nodes: usize,
    n_bytes: u64,
}

/// The functions of a model, and what expanding them and importing bodies may still cost.
pub(crate) struct Inliner<'m> {
    functions: BTreeMap<Key<'m>, Rc<Function<'m>>>,
    /// Lead of names inside calls; no name of the model starts with it.
    lead: String,
    n_calls: usize,
    pub(crate) cost: Cost,
}

/// Work that is left: nodes and bytes of structure that are looked at again and again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    limits: (usize, u64),
    nodes: usize,
    bytes: u64,
}

impl Cost {
    fn new(limits: &Limits) -> Self {
        let (nodes, bytes) = (limits.nodes, limits.structure_bytes as u64);
        Self { limits: (nodes, bytes), nodes, bytes }
    }

    /// Takes this much.
    ///
    /// # Errors
    /// `I007` when it is not left.
    pub(crate) fn take(&mut self, nodes: usize, bytes: u64) -> Result<(), Diag> {
        match (self.nodes.checked_sub(nodes), self.bytes.checked_sub(bytes)) {
            (Some(nodes), Some(bytes)) => {
                (self.nodes, self.bytes) = (nodes, bytes);
                Ok(())
            }
            _ => {
                let (nodes, bytes) = self.limits;
                let text = format!(
                    "the model has more than {nodes} nodes or {bytes} bytes once functions and bodies are expanded"
                );
                Err(Diag::new("I007", text).hint("raise the limit"))
            }
        }
    }
}

impl<'m> Inliner<'m> {
    /// The functions of a model whose graph is `graph`.
    ///
    /// # Errors
    /// `I014` for functions that are defined twice.
    pub(crate) fn new(
        model: &'m ModelProto,
        graph: &GraphProto,
        opsets: &Opsets,
        limits: &Limits,
    ) -> Result<Self, Vec<Diag>> {
        let functions = functions(model, opsets)?;
        Ok(Self { functions, lead: lead(graph), n_calls: 0, cost: Cost::new(limits) })
    }

    /// The newest opset of each domain, functions included.
    pub(crate) fn newest_opsets(&self, opsets: &Opsets) -> BTreeMap<String, i64> {
        let mut newest = (**opsets).clone();
        for (domain, version) in self.functions.values().flat_map(|f| f.opsets.iter()) {
            let slot = newest.entry(domain.clone()).or_insert(*version);
            *slot = (*slot).max(*version);
        }
        newest
    }

    /// `nodes` with every call of a model's function expanded; calls inside subgraphs stay for later. Calls that
    /// cannot be expanded are left out, with a letter: `I007` too many nodes, `I024` calls nested too deeply (or
    /// without end), `I025` a call that does not fit its function.
    pub(crate) fn inline<'g>(&mut self, nodes: &'g [NodeProto], opsets: &Opsets) -> Inlined<'g> {
        let whole = |node| Flat { node: Cow::Borrowed(node), opsets: opsets.clone() };
        let mut todo: Vec<Pending> =
            nodes.iter().rev().map(|n| Pending { flat: whole(n), depth: 0 }).collect();
        let mut out = Inlined { nodes: Vec::with_capacity(nodes.len()), ..Inlined::default() };
        while let Some(next) = todo.pop() {
            let Some(function) = self.functions.get(&key_of(&next.flat.node)).cloned() else {
                out.nodes.push(next.flat);
                continue;
            };
            match self.expanded(&function, &next) {
                Ok(body) => {
                    let depth = next.depth + 1;
                    let flat = |node| Flat { node: Cow::Owned(node), opsets: function.opsets.clone() };
                    todo.extend(body.into_iter().rev().map(|node| Pending { flat: flat(node), depth }));
                }
                Err(diag) => {
                    let node = &next.flat.node;
                    let spent = diag.code == "I007";
                    out.diags.push(diag.at_node(format!("{} ({})", node.name, node.op_type)));
                    out.failed.extend(node.output.iter().cloned());
                    if spent {
                        todo.drain(..).for_each(|p| out.failed.extend(p.flat.node.output.iter().cloned()));
                    }
                }
            }
        }
        out
    }

    fn expanded(&mut self, function: &Function<'m>, next: &Pending) -> Result<Vec<NodeProto>, Diag> {
        if next.depth >= MAX_CALL_DEPTH {
            let text = format!("functions call functions more than {MAX_CALL_DEPTH} deep");
            return Err(Diag::new("I024", text).hint("a function must not call itself"));
        }
        let names = (next.flat.node.name.len() * function.n_nodes) as u64;
        self.cost.take(function.n_nodes, function.n_bytes.saturating_add(names))?;
        self.expand(function.proto, &next.flat.node)
    }
}

fn key_of(node: &NodeProto) -> Key<'_> {
    (standard(&node.domain), node.op_type.as_str(), node.overload.as_str())
}

fn functions<'m>(
    model: &'m ModelProto,
    opsets: &Opsets,
) -> Result<BTreeMap<Key<'m>, Rc<Function<'m>>>, Vec<Diag>> {
    let mut out = BTreeMap::new();
    for proto in &model.functions {
        let key = (standard(&proto.domain), proto.name.as_str(), proto.overload.as_str());
        let mut own: BTreeMap<String, i64> = (**opsets).clone();
        own.extend(proto.opset_import.iter().map(|o| (standard(&o.domain).to_owned(), o.version)));
        let n_nodes = 1 + proto.node.iter().map(n_nodes_of).sum::<usize>();
        let function = Function { proto, opsets: Rc::new(own), n_nodes, n_bytes: proto.compute_size() };
        if out.insert(key, Rc::new(function)).is_some() {
            let text = format!("function {} is defined twice", proto.name);
            return Err(vec![Diag::new("I014", text).hint("rename one of them")]);
        }
    }
    Ok(out)
}

/// A lead that no name of the graph, or of a graph inside it, starts with.
fn lead(graph: &GraphProto) -> String {
    let mut names = BTreeSet::new();
    let mut todo = vec![graph];
    while let Some(graph) = todo.pop() {
        names.extend(defined(graph));
        todo.extend(graph.node.iter().flat_map(|n| graphs(n).map(|(_, inner)| inner)));
    }
    let mut lead = "call".to_owned();
    while names.range(lead.as_str()..).next().is_some_and(|n| n.starts_with(lead.as_str())) {
        lead.push('_');
    }
    lead
}

impl Inliner<'_> {
    /// The body of `function` with the names and attributes of this call.
    fn expand(&mut self, function: &FunctionProto, call: &NodeProto) -> Result<Vec<NodeProto>, Diag> {
        if call.input.len() > function.input.len() || call.output.len() > function.output.len() {
            let text = format!(
                "the call has {} operands and {} results, function {} has {} and {}",
                call.input.len(),
                call.output.len(),
                function.name,
                function.input.len(),
                function.output.len()
            );
            return Err(Diag::new("I025", text).hint("the model is damaged; export it again"));
        }
        self.n_calls += 1;
        let lead = format!("{}{}", self.lead, self.n_calls);
        let names = self.names(function, call, &lead);
        let attrs = attributes(function, call);
        let mut body: Vec<NodeProto> =
            function.node.iter().map(|node| bind(node, &names, &attrs, &lead, call)).collect();
        body.extend(passed_through(function, call));
        Ok(body)
    }

    /// What formal names stand for.
    fn names(&self, function: &FunctionProto, call: &NodeProto, lead: &str) -> BTreeMap<String, String> {
        let mut names = BTreeMap::new();
        for (n, formal) in function.input.iter().enumerate() {
            names.insert(formal.clone(), call.input.get(n).cloned().unwrap_or_default());
        }
        for (n, formal) in function.output.iter().enumerate() {
            let actual = call.output.get(n).filter(|o| !o.is_empty());
            let actual = actual.cloned().unwrap_or_else(|| format!("{lead}/{formal}"));
            // A result that is an operand as well keeps the operand's name, see `passed_through`.
            names.entry(formal.clone()).or_insert(actual);
        }
        names
    }
}

/// An Identity for each result that is one of the function's operands.
fn passed_through(function: &FunctionProto, call: &NodeProto) -> Vec<NodeProto> {
    let mut out = Vec::new();
    for (formal, actual) in function.output.iter().zip(&call.output).filter(|(_, actual)| !actual.is_empty())
    {
        if let Some(n) = function.input.iter().position(|input| input == formal) {
            out.push(NodeProto {
                name: actual.clone(),
                op_type: "Identity".to_owned(),
                input: vec![call.input.get(n).cloned().unwrap_or_default()],
                output: vec![actual.clone()],
                ..Default::default()
            });
        }
    }
    out
}

/// Attributes a body may refer to: the call's, else the function's defaults.
fn attributes<'a>(function: &'a FunctionProto, call: &'a NodeProto) -> BTreeMap<&'a str, &'a AttributeProto> {
    let defaults = function.attribute_proto.iter();
    defaults.chain(&call.attribute).map(|a| (a.name.as_str(), a)).collect()
}

fn bind(
    node: &NodeProto,
    names: &BTreeMap<String, String>,
    attrs: &BTreeMap<&str, &AttributeProto>,
    lead: &str,
    call: &NodeProto,
) -> NodeProto {
    let mut out = node.clone();
    let own = if node.name.is_empty() { &node.op_type } else { &node.name };
    out.name = if call.name.is_empty() { format!("{lead}/{own}") } else { format!("{}_{own}", call.name) };
    Binding { names, attrs, lead, own: Vec::new() }.node(&mut out);
    out
}

/// What names and attributes of a function's body stand for in one call.
struct Binding<'a> {
    names: &'a BTreeMap<String, String>,
    attrs: &'a BTreeMap<&'a str, &'a AttributeProto>,
    lead: &'a str,
    /// Names that the subgraphs around define; they hide those of the function.
    own: Vec<BTreeSet<String>>,
}

impl Binding<'_> {
    fn name(&self, name: &mut String) {
        let hidden = self.own.iter().any(|names| names.contains(name.as_str()));
        match self.names.get(name.as_str()).filter(|_| !hidden) {
            Some(actual) => name.clone_from(actual),
            None if name.is_empty() => {}
            None => *name = format!("{}/{name}", self.lead),
        }
    }

    fn node(&mut self, node: &mut NodeProto) {
        node.input.iter_mut().chain(&mut node.output).for_each(|name| self.name(name));
        // A reference to an attribute nobody gives means: leave it at its default.
        let bound = std::mem::take(&mut node.attribute).into_iter().filter_map(|a| self.attribute(a));
        node.attribute = bound.collect();
    }

    /// An attribute that is given is the caller's: nothing in it is the function's.
    fn attribute(&mut self, mut attr: AttributeProto) -> Option<AttributeProto> {
        if !attr.ref_attr_name.is_empty() {
            let actual = *self.attrs.get(attr.ref_attr_name.as_str())?;
            return Some(AttributeProto { name: attr.name, ..actual.clone() });
        }
        if let Some(graph) = attr.g.as_mut() {
            self.graph(graph);
        }
        Some(attr)
    }

    /// Subgraphs nest no deeper than messages may.
    fn graph(&mut self, graph: &mut GraphProto) {
        self.own.push(defined(graph).into_iter().map(str::to_owned).collect());
        for info in graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info) {
            self.name(&mut info.name);
        }
        graph.initializer.iter_mut().for_each(|tensor| self.name(&mut tensor.name));
        for sparse in &mut graph.sparse_initializer {
            if let Some(values) = sparse.values.as_mut() {
                self.name(&mut values.name);
            }
        }
        graph.node.iter_mut().for_each(|node| self.node(node));
        self.own.pop();
    }
}
