//! The reference interpreter: walk in order, evaluate each operator by its definition. Slow and obviously right.

use crate::diag::Diag;
use crate::graph::{Graph, NodeId, Source};
use crate::op::EvalCtx;
use crate::tensor::Tensor;
use crate::types::Type;
use std::collections::BTreeMap;

/// Values of symbols.
pub type Symbols = BTreeMap<String, i64>;

/// Symbols bound by the shapes of `inputs`; every known dim is checked.
///
/// # Errors
/// `X001` for a wrong number of inputs, `X002` for a wrong element type or shape.
pub fn bind(graph: &Graph, inputs: &[Tensor]) -> Result<Symbols, Diag> {
    if inputs.len() != graph.inputs().len() {
        let text = format!("the graph has {} inputs, {} are given", graph.inputs().len(), inputs.len());
        return Err(Diag::new("X001", text).hint("give every input once, in the graph's order"));
    }
    let mut symbols = Symbols::new();
    for (value, tensor) in graph.inputs().iter().zip(inputs) {
        for (dim, &size) in graph.ty(*value).shape.iter().zip(tensor.shape()) {
            if let Some(name) = dim.as_symbol() {
                symbols.entry(name.to_owned()).or_insert(size as i64);
            }
        }
    }
    for (value, tensor) in graph.inputs().iter().zip(inputs) {
        let want = graph.ty(*value).bind(&|n| symbols.get(n).copied());
        check_input(&graph.value(*value).name, &want, tensor)?;
    }
    Ok(symbols)
}

fn check_input(name: &str, want: &Type, tensor: &Tensor) -> Result<(), Diag> {
    let have = Type::known(tensor.dtype(), tensor.shape());
    let fits = want.dtype == have.dtype
        && want.rank() == have.rank()
        && want.shape.iter().zip(&have.shape).all(|(w, h)| w.as_known().is_none() || w == h);
    if fits {
        return Ok(());
    }
    let text = format!("the input is {have}, the model wants {want}");
    Err(Diag::new("X002", text).at_value(name).hint("convert or reshape the input"))
}

/// Runs the graph on `inputs` and returns its outputs.
///
/// # Errors
/// From `bind`, or from an operator's evaluation.
pub fn run(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, Diag> {
    let symbols = bind(graph, inputs)?;
    let mut values: Vec<Option<Tensor>> = vec![None; graph.n_values()];
    for (id, value) in graph.values() {
        values[id.index()] = match &value.source {
            Source::Input(n) => Some(inputs[*n].clone()),
            Source::Const(t) => Some(t.clone()),
            Source::Node(..) => None,
        };
    }
    let mut last_use = last_uses(graph);
    for (step, id) in graph.topological().into_iter().enumerate() {
        let results = eval_node(graph, id, &values, &symbols)?;
        for (value, tensor) in graph.node(id).outputs.iter().zip(results) {
            values[value.index()] = Some(tensor);
        }
        for value in last_use.remove(&step).unwrap_or_default() {
            values[value] = None;
        }
    }
    graph
        .outputs()
        .map(|(name, v)| {
            values[v.index()].clone().ok_or_else(|| {
                Diag::new("V010", "the output was not computed, the graph has a cycle").at_value(name)
            })
        })
        .collect()
}

/// For each step the values nobody reads after it, so that memory is given back as the walk goes on.
fn last_uses(graph: &Graph) -> BTreeMap<usize, Vec<usize>> {
    let mut last: BTreeMap<usize, usize> = BTreeMap::new();
    for (step, id) in graph.topological().into_iter().enumerate() {
        for value in graph.node(id).inputs.iter().flatten() {
            last.insert(value.index(), step);
        }
    }
    for (_, value) in graph.outputs() {
        last.remove(&value.index());
    }
    let mut by_step: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (value, step) in last {
        by_step.entry(step).or_default().push(value);
    }
    by_step
}

fn eval_node(
    graph: &Graph,
    id: NodeId,
    values: &[Option<Tensor>],
    symbols: &Symbols,
) -> Result<Vec<Tensor>, Diag> {
    let node = graph.node(id);
    let attrs = node.attrs.bind(&|n| symbols.get(n).copied());
    let inputs: Vec<Option<&Tensor>> =
        node.inputs.iter().map(|v| v.and_then(|v| values[v.index()].as_ref())).collect();
    let ctx = EvalCtx { attrs: &attrs, inputs: &inputs, n_outputs: node.outputs.len() };
    (node.op.eval)(&ctx).map_err(|d| d.at_node(format!("{} ({})", node.name, node.op.name)))
}
