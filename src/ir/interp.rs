//! The reference interpreter: walk in order, evaluate each operator by its definition. Slow and obviously right.

use crate::Budget;
use crate::Datum;
use crate::attr::Attrs;
use crate::data::{Bodies, DataCtx, evaluate};
use crate::diag::Diag;
use crate::graph::{Graph, NodeId, Source};
use crate::tensor::Tensor;
use crate::types::{Form, Type};
use std::collections::BTreeMap;

/// Values of symbols.
pub type Symbols = BTreeMap<String, i64>;

/// Symbols bound by the shapes of `inputs`; every known dim is checked.
///
/// # Errors
/// `X001` for a wrong number of inputs, `X002` for a wrong element type or shape.
pub fn bind(graph: &Graph, inputs: &[Tensor]) -> Result<Symbols, Diag> {
    let mut symbols = Symbols::new();
    bind_into(graph, inputs.iter().map(Some), &mut symbols)?;
    Ok(symbols)
}

fn bind_into<'a>(
    graph: &Graph,
    inputs: impl ExactSizeIterator<Item = Option<&'a Tensor>> + Clone,
    symbols: &mut Symbols,
) -> Result<(), Diag> {
    if inputs.len() != graph.inputs().len() {
        let text = format!("the graph has {} inputs, {} are given", graph.inputs().len(), inputs.len());
        return Err(Diag::new("X001", text).hint("give every input once, in the graph's order"));
    }
    for (value, tensor) in graph.inputs().iter().zip(inputs.clone()) {
        if let Some(tensor) = tensor {
            bind_sizes(graph.ty(*value), tensor, symbols);
        }
    }
    for (value, tensor) in graph.inputs().iter().zip(inputs) {
        let want = graph.ty(*value).bind(&|n| symbols.get(n).copied());
        check_input(&graph.value(*value).name, &want, tensor)?;
    }
    Ok(())
}

/// Symbols that are a whole dim of `ty` get the size they have in `tensor`, unless they are bound.
fn bind_sizes(ty: &Type, tensor: &Tensor, symbols: &mut Symbols) {
    for (dim, &size) in ty.shape.iter().zip(tensor.shape()) {
        if let Some(name) = dim.as_symbol() {
            symbols.entry(name.to_owned()).or_insert(size as i64);
        }
    }
}

fn check_input(name: &str, want: &Type, tensor: Option<&Tensor>) -> Result<(), Diag> {
    let have = tensor.map(|t| Type::known(t.dtype(), t.shape()));
    let fits = match (&want.form, &have) {
        (Form::Tensor, Some(have)) => {
            want.dtype == have.dtype
                && want.rank() == have.rank()
                && want.shape.iter().zip(&have.shape).all(|(w, h)| w.as_known().is_none() || w == h)
        }
        (Form::Unranked, Some(have)) => want.dtype == have.dtype,
        (Form::Any, _) => true,
        (Form::Tensor | Form::Unranked, None) => false,
        (_, have) => have.is_none(),
    };
    if fits {
        return Ok(());
    }
    let have = have.map_or_else(|| "no tensor".to_owned(), |h| h.to_string());
    let text = format!("the input is {have}, the model wants {want}");
    Err(Diag::new("X002", text).at_value(name).hint("convert or reshape the input"))
}

/// Runs a graph over tensors and returns its outputs.
///
/// # Errors
/// From `bind`, or from an operator's evaluation; `X033` for an output that is no tensor.
pub fn run(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, Diag> {
    let inputs = inputs.iter().cloned().map(Datum::Tensor).collect();
    let outputs = run_data(graph, inputs, Symbols::new(), &Budget::default())?;
    let tensor = |(datum, (name, _)): (Datum, (&str, _))| match datum {
        Datum::Tensor(tensor) => Ok(tensor),
        other => {
            Err(Diag::new("X033", format!("the output is {}, not a tensor", other.kind())).at_value(name))
        }
    };
    outputs.into_iter().zip(graph.outputs()).map(tensor).collect()
}

/// Runs a graph over any values; `symbols` are those bound around it.
///
/// # Errors
/// See `run`.
pub fn run_data(
    graph: &Graph,
    inputs: Vec<Datum>,
    mut symbols: Symbols,
    budget: &Budget,
) -> Result<Vec<Datum>, Diag> {
    bind_into(graph, inputs.iter().map(Datum::as_tensor), &mut symbols)?;
    let mut values: Vec<Option<Datum>> = graph
        .values()
        .map(|(_, value)| match &value.source {
            Source::Input(n) => Some(inputs[*n].clone()),
            Source::Const(t) => Some(Datum::Tensor(t.clone())),
            Source::Node(..) => None,
        })
        .collect();
    drop(inputs);
    let mut last_use = last_uses(graph);
    for (step, id) in graph.topological().into_iter().enumerate() {
        let results = eval_node(graph, id, &values, &symbols, budget)?;
        for (value, datum) in graph.node(id).outputs.iter().zip(results) {
            if let Some(tensor) = datum.as_tensor() {
                bind_sizes(graph.ty(*value), tensor, &mut symbols);
            }
            budget.hold(datum.size_bytes()).map_err(limit)?;
            values[value.index()] = Some(datum);
        }
        for value in last_use.remove(&step).unwrap_or_default() {
            let dropped = values[value].take().filter(|_| graph.is_computed(value));
            budget.release(dropped.map_or(0, |d| d.size_bytes()));
        }
    }
    let output = |(name, v): (&str, crate::ValueId)| {
        values[v.index()].clone().ok_or_else(|| {
            Diag::new("V010", "the output was not computed, the graph has a cycle").at_value(name)
        })
    };
    let outputs = graph.outputs().map(output).collect();
    let left = values.iter().enumerate().filter(|(v, _)| graph.is_computed(*v)).map(|(_, d)| d.iter());
    budget.release(left.flatten().map(Datum::size_bytes).sum());
    outputs
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

fn limit(error: partita_plan::PlanError) -> Diag {
    Diag::new(error.code, error.message).hint(error.hint)
}

/// The bodies of a node under evaluation.
struct GraphBodies<'a> {
    attrs: &'a Attrs,
    symbols: &'a Symbols,
    budget: &'a Budget,
}

impl Bodies for GraphBodies<'_> {
    fn run(&self, name: &str, inputs: Vec<Datum>) -> Result<Vec<Datum>, Diag> {
        let body = self
            .attrs
            .graph(name)
            .ok_or_else(|| Diag::new("X031", format!("there is no body {name} here")))?;
        self.budget.step().map_err(limit)?;
        run_data(body, inputs, self.symbols.clone(), self.budget)
    }

    fn hold(&self, bytes: usize) -> Result<(), Diag> {
        self.budget.hold(bytes).map_err(limit)
    }

    fn room(&self, bytes: usize) -> Result<(), Diag> {
        self.budget.room(bytes).map_err(limit)
    }
}

fn eval_node(
    graph: &Graph,
    id: NodeId,
    values: &[Option<Datum>],
    symbols: &Symbols,
    budget: &Budget,
) -> Result<Vec<Datum>, Diag> {
    let node = graph.node(id);
    let attrs = node.attrs.bind(&|n| symbols.get(n).copied());
    let inputs: Vec<Option<&Datum>> =
        node.inputs.iter().map(|v| v.and_then(|v| values[v.index()].as_ref())).collect();
    let bodies = GraphBodies { attrs: &attrs, symbols, budget };
    let ctx = DataCtx { attrs: &attrs, inputs: &inputs, n_outputs: node.outputs.len(), bodies: &bodies };
    evaluate(node.op, &ctx).map_err(|d| d.at_node(format!("{} ({})", node.name, node.op.name)))
}
