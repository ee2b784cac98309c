//! Functions of a model, expanded where they are called, without recursion and within limits: forty functions
//! that each call the next one twice are a small file and a trillion nodes.

use crate::import::standard;
use crate::limits::{Limits, MAX_CALL_DEPTH};
use onnx_protobuf::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto};
use partita_ir::Diag;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Opset of each domain; empty is the standard domain.
pub(crate) type Opsets = Rc<BTreeMap<String, i64>>;

/// A node after expansion, with the opsets it was written for.
#[derive(Clone, Debug)]
pub(crate) struct Flat {
    pub(crate) node: NodeProto,
    pub(crate) opsets: Opsets,
}

type Key<'a> = (&'a str, &'a str, &'a str);

struct Pending {
    flat: Flat,
    /// How many calls it is inside.
    depth: usize,
}

struct Inliner<'a> {
    functions: BTreeMap<Key<'a>, (&'a FunctionProto, Opsets)>,
    /// Lead of names inside calls; no name of the model starts with it.
    lead: String,
    n_calls: usize,
}

/// `nodes`, those of `graph`, with every call of a model's function expanded.
///
/// # Errors
/// `I007` too many nodes, `I024` calls nested too deeply (or without end), `I025` a call that does not fit its
/// function, `I012` a function without opsets.
pub(crate) fn inline(
    model: &ModelProto,
    graph: &GraphProto,
    nodes: Vec<NodeProto>,
    opsets: &Opsets,
    limits: &Limits,
) -> Result<Vec<Flat>, Vec<Diag>> {
    let whole = |node| Flat { node, opsets: opsets.clone() };
    if model.functions.is_empty() {
        return Ok(nodes.into_iter().map(whole).collect());
    }
    let mut inliner = Inliner { functions: functions(model, opsets)?, lead: lead(graph, &nodes), n_calls: 0 };
    let mut todo: Vec<Pending> =
        nodes.into_iter().rev().map(|n| Pending { flat: whole(n), depth: 0 }).collect();
    let mut out = Vec::new();
    while let Some(next) = todo.pop() {
        let key = key_of(&next.flat.node);
        let Some((function, inner)) = inliner.functions.get(&key).cloned() else {
            out.push(next.flat);
            continue;
        };
        let here = |d: Diag| vec![d.at_node(format!("{} ({})", next.flat.node.name, next.flat.node.op_type))];
        if next.depth >= MAX_CALL_DEPTH {
            let text = format!("functions call functions more than {MAX_CALL_DEPTH} deep");
            return Err(here(Diag::new("I024", text).hint("a function must not call itself")));
        }
        let body = inliner.expand(function, &next.flat.node).map_err(here)?;
        if out.len() + todo.len() + body.len() > limits.nodes {
            let text = format!("the model has more than {} nodes once functions are expanded", limits.nodes);
            return Err(here(Diag::new("I007", text).hint("raise the limit")));
        }
        let depth = next.depth + 1;
        todo.extend(
            body.into_iter().rev().map(|node| Pending { flat: Flat { node, opsets: inner.clone() }, depth }),
        );
    }
    Ok(out)
}

fn key_of(node: &NodeProto) -> Key<'_> {
    (standard(&node.domain), node.op_type.as_str(), node.overload.as_str())
}

fn functions<'a>(
    model: &'a ModelProto,
    opsets: &Opsets,
) -> Result<BTreeMap<Key<'a>, (&'a FunctionProto, Opsets)>, Vec<Diag>> {
    let mut out = BTreeMap::new();
    for function in &model.functions {
        let key = (standard(&function.domain), function.name.as_str(), function.overload.as_str());
        let mut own: BTreeMap<String, i64> = (**opsets).clone();
        own.extend(function.opset_import.iter().map(|o| (standard(&o.domain).to_owned(), o.version)));
        if out.insert(key, (function, Rc::new(own))).is_some() {
            let text = format!("function {} is defined twice", function.name);
            return Err(vec![Diag::new("I014", text).hint("rename one of them")]);
        }
    }
    Ok(out)
}

/// A lead that no name of the graph starts with.
fn lead(graph: &GraphProto, nodes: &[NodeProto]) -> String {
    let made = nodes.iter().flat_map(|n| n.output.iter());
    let given = graph.input.iter().map(|i| &i.name).chain(graph.initializer.iter().map(|t| &t.name));
    let names: BTreeSet<&str> = made.chain(given).map(String::as_str).collect();
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
    let rename = |name: &String| match names.get(name) {
        Some(actual) => actual.clone(),
        None if name.is_empty() => String::new(),
        None => format!("{lead}/{name}"),
    };
    let mut out = node.clone();
    out.input = node.input.iter().map(rename).collect();
    out.output = node.output.iter().map(rename).collect();
    let own = if node.name.is_empty() { &node.op_type } else { &node.name };
    out.name = if call.name.is_empty() { format!("{lead}/{own}") } else { format!("{lead}_{own}") };
    // A reference to an attribute nobody gives means: leave it at its default.
    out.attribute = node.attribute.iter().filter_map(|a| resolve(a, attrs)).collect();
    out
}

fn resolve(attr: &AttributeProto, attrs: &BTreeMap<&str, &AttributeProto>) -> Option<AttributeProto> {
    if attr.ref_attr_name.is_empty() {
        return Some(attr.clone());
    }
    let actual = *attrs.get(attr.ref_attr_name.as_str())?;
    Some(AttributeProto { name: attr.name.clone(), ..actual.clone() })
}
