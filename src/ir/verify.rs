//! The verifier: a table of checks, each with its code. All failures are listed at once.

use crate::builder::infer_graph;
use crate::diag::Diag;
use crate::graph::{Graph, Source, ValueId};
use crate::op::{AttrKind, SIZES};
use crate::{Attr, Type};
use std::collections::BTreeSet;

type Check = fn(&Graph, &mut Vec<Diag>);

/// Every check with what it guarantees, in the order they run; later ones rely on earlier ones.
const CHECKS: &[(&str, Check)] = &[
    ("V010 no cycles", acyclic),
    ("V011 every operand is a value of the graph", operands_exist),
    ("V012 every value has one name and every name one value", unique_names),
    ("V013 attributes are known, of the right kind, and required ones are present", attributes),
    ("V014 stated types are the inferred ones", types),
    ("V015 symbols of the graph are bound by its inputs", symbols),
    ("V016 bodies are valid graphs", bodies),
];

/// Checks that a body makes; its symbols may be bound around it.
const BODY_CHECKS: &[Check] = &[acyclic, operands_exist, unique_names, attributes, types, bodies];

/// Checks a graph.
///
/// # Errors
/// All findings of the first check that fails.
pub fn verify(graph: &Graph) -> Result<(), Vec<Diag>> {
    for (_, check) in CHECKS {
        let mut found = Vec::new();
        check(graph, &mut found);
        if !found.is_empty() {
            return Err(found);
        }
    }
    Ok(())
}

fn acyclic(graph: &Graph, found: &mut Vec<Diag>) {
    let ordered: BTreeSet<_> = graph.topological().into_iter().collect();
    if ordered.len() == graph.n_nodes() {
        return;
    }
    if let Some((_, node)) = graph.nodes().find(|(id, _)| !ordered.contains(id)) {
        let diag = Diag::new("V010", "the node takes part in, or depends on, a cycle").at_node(&*node.name);
        found.push(diag.hint("a graph must be acyclic; loops are written with an operator that has a body"));
    }
}

fn operands_exist(graph: &Graph, found: &mut Vec<Diag>) {
    let alive = |v: ValueId| match graph.value(v).source {
        Source::Node(producer, n) => {
            graph.contains(producer) && graph.node(producer).outputs.get(n) == Some(&v)
        }
        Source::Input(_) | Source::Const(_) => true,
    };
    for (_, node) in graph.nodes() {
        if let Some(value) = node.inputs.iter().flatten().find(|v| !alive(**v)) {
            let diag =
                Diag::new("V011", "an operand's producer is not in the graph any more").at_node(&*node.name);
            found.push(diag.at_value(&*graph.value(*value).name));
        }
    }
    for (name, value) in graph.outputs().filter(|(_, v)| !alive(*v)) {
        let text = format!("graph output {name} has no producer");
        found.push(Diag::new("V011", text).at_value(&*graph.value(value).name));
    }
}

fn unique_names(graph: &Graph, found: &mut Vec<Diag>) {
    let mut seen = BTreeSet::new();
    let read: BTreeSet<ValueId> =
        graph.nodes().flat_map(|(_, n)| n.inputs.iter().flatten().copied()).collect();
    let written = graph.nodes().flat_map(|(_, n)| n.outputs.iter().copied());
    let live: BTreeSet<ValueId> = written.chain(graph.inputs().iter().copied()).chain(read).collect();
    for value in live {
        let name = &graph.value(value).name;
        if !name.is_empty() && !seen.insert(name.clone()) {
            found.push(
                Diag::new("V012", "two values have this name").at_value(&**name).hint("rename one of them"),
            );
        }
    }
}

fn attributes(graph: &Graph, found: &mut Vec<Diag>) {
    for (_, node) in graph.nodes() {
        let here = |d: Diag| d.at_node(format!("{} ({})", node.name, node.op.name));
        for (name, attr) in node.attrs.iter() {
            match node.op.attr(name) {
                None if name == SIZES => {}
                None => {
                    found.push(here(Diag::new("V013", format!("{} has no attribute {name}", node.op.name))));
                }
                Some(def) if !has_kind(attr, def.kind) => {
                    let text = format!("attribute {name} must be of kind {:?}", def.kind);
                    found.push(here(Diag::new("V013", text)));
                }
                Some(_) => {}
            }
        }
        for def in node.op.attrs.iter().filter(|d| d.required && node.attrs.get(d.name).is_none()) {
            let as_operand = def.operand.is_some_and(|k| node.inputs.get(k).is_some_and(Option::is_some));
            if !as_operand {
                found.push(here(Diag::new("V013", format!("attribute {} is missing", def.name))));
            }
        }
    }
}

fn has_kind(attr: &Attr, kind: AttrKind) -> bool {
    matches!(
        (attr, kind),
        (Attr::Int(_), AttrKind::Int)
            | (Attr::Float(_), AttrKind::Float)
            | (Attr::Str(_), AttrKind::Str)
            | (Attr::Ints(_), AttrKind::Ints | AttrKind::Dims)
            | (Attr::Dims(_), AttrKind::Dims | AttrKind::Ints)
            | (Attr::Floats(_), AttrKind::Floats)
            | (Attr::Strs(_), AttrKind::Strs)
            | (Attr::DType(_), AttrKind::DType)
            | (Attr::Tensor(_), AttrKind::Tensor)
            | (Attr::Graph(_), AttrKind::Graph)
            | (Attr::Type(_), AttrKind::Type)
    )
}

fn types(graph: &Graph, found: &mut Vec<Diag>) {
    let inference = match infer_graph(graph) {
        Ok(inference) => inference,
        Err(errors) => return found.extend(errors),
    };
    for (_, node) in graph.nodes() {
        for value in &node.outputs {
            let (stated, inferred): (&Type, &Type) = (graph.ty(*value), &inference.types[value.index()]);
            if stated != inferred {
                let text = format!("the stated type {stated} is not the inferred one, {inferred}");
                found.push(Diag::new("V014", text).at_node(&*node.name).at_value(&*graph.value(*value).name));
            }
        }
    }
}

fn bodies(graph: &Graph, found: &mut Vec<Diag>) {
    for (_, node) in graph.nodes() {
        for (name, body) in node.attrs.graphs() {
            let mut inside = Vec::new();
            for check in BODY_CHECKS {
                check(body, &mut inside);
                if !inside.is_empty() {
                    break;
                }
            }
            found.extend(inside.into_iter().map(|d| d.hint(format!("in body {name} of {}", node.name))));
        }
    }
}

fn symbols(graph: &Graph, found: &mut Vec<Diag>) {
    for (name, place) in graph.input_symbols() {
        if place.is_none() {
            let text = format!("symbol {name} appears in an input only inside an expression");
            found.push(Diag::new("V015", text).hint(format!("fix it with --dim {name}=N")));
        }
    }
}
