//! Adding nodes with inferred types, and inference over a whole graph.
//!
//! Beside types, inference tracks *content*: small integer tensors whose elements are known as numbers or as
//! dims. That is what turns the Shape/Gather/Concat/Reshape chains of exporters into plain reshapes.

use crate::attr::{Attr, Attrs};
use crate::data::evaluate_tensors;
use crate::diag::Diag;
use crate::dim::{DATA_LEAD, unnamed};
use crate::graph::{Graph, NodeId, Source, ValueId};
use crate::op::{InferCtx, OpRef, Operand, SIZES};
use crate::tensor::Tensor;
use crate::types::{Content, Form, Type};
use crate::{DType, Dim};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Constants up to this many elements are folded while types are inferred.
pub const MAX_CONTENT_ELEMENTS: usize = 1024;

/// Most dimensions a tensor may have.
pub const MAX_RANK: usize = 32;

/// Code of the letter an operator's inference returns when the shape of a result depends on data.
pub const DATA_DEPENDENT: &str = "U010";

/// What inference found out about a node's results.
#[derive(Clone, Debug)]
pub struct Inferred {
    pub types: Vec<Type>,
    pub contents: Vec<Option<Content>>,
}

/// Infers one application of `op` from the types and contents of its operands.
///
/// # Errors
/// `V0xx` when the operands or attributes do not fit the operator.
pub fn infer_op(
    op: OpRef,
    attrs: &Attrs,
    inputs: &[Option<Operand>],
    n_outputs: usize,
) -> Result<Inferred, Diag> {
    check_arity(op, inputs, n_outputs)?;
    let ctx = InferCtx { attrs, inputs, n_outputs };
    if let Some(types) = untyped(op, &ctx)? {
        let contents = vec![None; types.len()];
        return Ok(Inferred { types, contents });
    }
    refuse_text(op, inputs)?;
    let types = match (op.infer)(&ctx) {
        // Not even the rank is known before the program runs.
        Err(diag) if diag.code == DATA_DEPENDENT => vec![Type::any(); n_outputs],
        other => other?,
    };
    let mut types = named_sizes(plain_sizes(types), attrs.strs(SIZES).unwrap_or_default());
    if types.len() < n_outputs {
        let text = format!("{} gives {} results, {n_outputs} were asked for", op.name, types.len());
        return Err(Diag::new("V003", text).hint("remove the results that do not exist"));
    }
    if let Some(ty) = types.iter().find(|t| t.rank() > MAX_RANK) {
        return Err(Diag::new(
            "V004",
            format!("a result has {} dimensions, at most {MAX_RANK} are supported", ty.rank()),
        ));
    }
    let contents = contents(op, &ctx, &mut types);
    Ok(Inferred { types, contents })
}

fn refuse_text(op: OpRef, inputs: &[Option<Operand>]) -> Result<(), Diag> {
    let takes = op.traits.text || op.data.is_some();
    match inputs.iter().position(|o| o.is_some_and(|o| o.ty.dtype == DType::Str)) {
        Some(n) if !takes => {
            Err(Diag::new("V006", format!("operand {n} of {} is text", op.name))
                .hint("cast it to numbers first"))
        }
        _ => Ok(()),
    }
}

/// The results of an operator over tensors when the rank of an operand is not known: nothing is known of them.
fn untyped(op: OpRef, ctx: &InferCtx) -> Result<Option<Vec<Type>>, Diag> {
    if op.data.is_some() || ctx.inputs.iter().flatten().all(|o| o.ty.is_tensor()) {
        return Ok(None);
    }
    let other = ctx
        .inputs
        .iter()
        .position(|o| o.is_some_and(|o| !matches!(o.ty.form, Form::Tensor | Form::Unranked | Form::Any)));
    if let Some(n) = other {
        let ty = ctx.inputs[n].map(|o| o.ty.to_string()).unwrap_or_default();
        let text = format!("operand {n} of {} must be a tensor, it is {ty}", op.name);
        return Err(Diag::new("V005", text).hint("take the tensor out of it first"));
    }
    Ok(Some(vec![Type::any(); ctx.n_outputs]))
}

/// Sizes without a name in the order of their appearance, each once.
fn unnamed_sizes(types: &[Type]) -> Vec<Arc<str>> {
    let mut found: Vec<Arc<str>> = Vec::new();
    for symbol in types.iter().flat_map(Type::symbols) {
        if unnamed(&symbol).is_some() && !found.contains(&symbol) {
            found.push(symbol);
        }
    }
    found
}

/// `types` where every size that depends on data is one symbol: what a result tells is one of its axes, not an
/// expression of it.
fn plain_sizes(types: Vec<Type>) -> Vec<Type> {
    let plain = |output: usize, axis: usize, dim: Dim| {
        let mut symbols = BTreeSet::new();
        dim.symbols(&mut symbols);
        let derived = dim.as_symbol().is_none() && symbols.iter().any(|s| unnamed(s).is_some());
        if derived { Dim::unknown(output, axis) } else { dim }
    };
    let one = |(output, ty): (usize, Type)| {
        let shape = ty.shape.into_iter().enumerate().map(|(axis, d)| plain(output, axis, d)).collect();
        Type { shape, ..ty }
    };
    types.into_iter().enumerate().map(one).collect()
}

/// `types` with `names` for the sizes that have none.
fn named_sizes(types: Vec<Type>, names: &[String]) -> Vec<Type> {
    let found = unnamed_sizes(&types);
    if found.is_empty() || names.is_empty() {
        return types;
    }
    let name = |symbol: &str| found.iter().position(|f| **f == *symbol).and_then(|n| names.get(n));
    let rename = |d: &Dim| d.substitute(&|symbol| name(symbol).map(|n| Dim::symbol(n)));
    types.into_iter().map(|ty| Type { shape: ty.shape.iter().map(rename).collect(), ..ty }).collect()
}

/// Names for sizes that depend on data: the result's name and the axis.
fn invented_sizes(types: &[Type], results: &[String]) -> Vec<String> {
    let invent = |symbol: &Arc<str>| {
        let (output, axis) = unnamed(symbol).unwrap_or_default();
        let result = results.get(output).map_or("", String::as_str);
        format!("{DATA_LEAD}{result}.{axis}")
    };
    unnamed_sizes(types).iter().map(invent).collect()
}

fn check_arity(op: OpRef, inputs: &[Option<Operand>], n_outputs: usize) -> Result<(), Diag> {
    let n_inputs = inputs.len();
    if n_inputs < op.inputs.min || n_inputs > op.inputs.max {
        let most =
            if op.inputs.max == usize::MAX { "any number".to_owned() } else { op.inputs.max.to_string() };
        let text = format!("{} takes {} to {most} operands, {n_inputs} are given", op.name, op.inputs.min);
        return Err(Diag::new("V001", text).hint("see the operator's definition for its operands"));
    }
    if let Some(at) = inputs.iter().take(op.inputs.min).position(Option::is_none) {
        return Err(Diag::new("V002", format!("operand {at} of {} is required but omitted", op.name)));
    }
    if n_outputs > op.outputs.max {
        let text = format!("{} has at most {} results, {n_outputs} are asked for", op.name, op.outputs.max);
        return Err(Diag::new("V003", text));
    }
    Ok(())
}

/// Contents of the results: by evaluation when all operands are small constants, else by the operator's own
/// symbolic rule.
fn contents(op: OpRef, ctx: &InferCtx, types: &mut [Type]) -> Vec<Option<Content>> {
    if let Some(folded) = fold(op, ctx, types) {
        for (ty, tensor) in types.iter_mut().zip(&folded) {
            *ty = Type::known(tensor.dtype(), tensor.shape());
        }
        return folded.into_iter().map(|t| Some(Content::Const(t))).collect();
    }
    let mut out = vec![None; types.len()];
    if let Some(dims) = op.content.and_then(|f| f(ctx)) {
        out[0] = Some(as_content(dims, &types[0]));
    }
    out
}

fn as_content(dims: Vec<crate::Dim>, ty: &Type) -> Content {
    let known: Option<Vec<i64>> = dims.iter().map(crate::Dim::as_known).collect();
    let tensor = known.zip(ty.known_shape()).and_then(|(v, shape)| Tensor::from_i64s(ty.dtype, &shape, &v));
    tensor.map_or(Content::Dims(dims), Content::Const)
}

fn fold(op: OpRef, ctx: &InferCtx, types: &[Type]) -> Option<Vec<Tensor>> {
    // A size that depends on data is as small as the data.
    let small = |t: &Type| {
        depends_on_data(t)
            || t.known_shape()
                .and_then(|s| crate::tensor::n_elements(&s))
                .is_some_and(|n| n <= MAX_CONTENT_ELEMENTS)
    };
    if op.traits.random || op.data.is_some() || !types.iter().all(small) {
        return None;
    }
    let mut tensors = Vec::with_capacity(ctx.inputs.len());
    for operand in ctx.inputs {
        tensors.push(match operand {
            None => None,
            Some(o) => Some(o.content?.as_const()?.clone()),
        });
    }
    if tensors.iter().flatten().any(|t| t.n_elements() > MAX_CONTENT_ELEMENTS) {
        return None;
    }
    let attrs = ctx.attrs.bind(&|_| None);
    let out = evaluate_tensors(op, &attrs, &mut tensors, ctx.n_outputs).ok()?;
    // A folded value must agree with the inferred type, or symbols were lost on the way.
    let agrees = out.len() >= types.len()
        && out.iter().zip(types).all(|(t, ty)| t.dtype() == ty.dtype && fits(ty, t.shape()));
    agrees.then_some(out)
}

fn depends_on_data(ty: &Type) -> bool {
    ty.symbols().iter().any(|s| s.starts_with(DATA_LEAD) || unnamed(s).is_some())
}

fn fits(ty: &Type, shape: &[usize]) -> bool {
    let same =
        |(dim, &size): (&Dim, &usize)| dim.as_known().map_or(depends_on_data(ty), |d| d == size as i64);
    ty.is_tensor() && ty.rank() == shape.len() && ty.shape.iter().zip(shape).all(same)
}

/// Builds a graph node by node; types and contents are inferred as it goes.
#[derive(Debug, Default)]
pub struct Builder {
    graph: Graph,
    contents: Vec<Option<Content>>,
    n_fresh: usize,
}

impl Builder {
    /// An empty graph called `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Self { graph: Graph::new(name), ..Self::default() }
    }

    /// The graph so far.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    fn record(&mut self, value: ValueId, content: Option<Content>) {
        self.contents.resize(self.contents.len().max(value.index() + 1), None);
        self.contents[value.index()] = content;
    }

    /// What is known about a value.
    pub fn content(&self, value: ValueId) -> Option<&Content> {
        self.contents.get(value.index()).and_then(Option::as_ref)
    }

    /// Adds a graph input.
    pub fn input(&mut self, name: &str, ty: Type) -> ValueId {
        let id = self.graph.add_input(name, ty);
        self.record(id, None);
        id
    }

    /// Adds a constant.
    pub fn constant(&mut self, name: &str, tensor: Tensor) -> ValueId {
        let id = self.graph.add_const(name, tensor.clone());
        self.record(id, Some(Content::Const(tensor)));
        id
    }

    /// Adds a node; its results are called `names`.
    ///
    /// # Errors
    /// What inference says about the operands.
    pub fn node(
        &mut self,
        name: &str,
        op: OpRef,
        attrs: Attrs,
        inputs: &[Option<ValueId>],
        names: &[String],
    ) -> Result<Vec<ValueId>, Diag> {
        let operands: Vec<Option<Operand>> = inputs
            .iter()
            .map(|v| v.map(|v| Operand { ty: self.graph.ty(v), content: self.content(v) }))
            .collect();
        let mut inferred = infer_op(op, &attrs, &operands, names.len())
            .map_err(|d| d.at_node(format!("{name} ({})", op.name)))?;
        let sizes = invented_sizes(&inferred.types, names);
        let mut attrs = attrs;
        if !sizes.is_empty() {
            inferred.types = named_sizes(inferred.types, &sizes);
            attrs.set(SIZES, Attr::Strs(sizes));
        }
        let results: Vec<(String, Type)> = names.iter().cloned().zip(inferred.types).collect();
        let id = self.graph.add_node(name, op, attrs, inputs, &results);
        let outputs = self.graph.node(id).outputs.clone();
        for (value, content) in outputs.iter().zip(inferred.contents) {
            self.record(*value, content);
        }
        Ok(outputs)
    }

    /// Adds a node with one result and an invented name; for hand-built graphs.
    ///
    /// # Errors
    /// What inference says about the operands.
    pub fn op(&mut self, op: OpRef, attrs: Attrs, inputs: &[ValueId]) -> Result<ValueId, Diag> {
        self.n_fresh += 1;
        let name = format!("{}_{}", op.name, self.n_fresh);
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        Ok(self.node(&name, op, attrs, &inputs, std::slice::from_ref(&name))?[0])
    }

    /// Adds a graph output.
    pub fn output(&mut self, name: &str, value: ValueId) {
        self.graph.add_output(name, value);
    }

    /// The finished graph.
    pub fn finish(self) -> Graph {
        self.graph
    }
}

/// Types and contents of a whole graph, indexed by value, inferred anew from its inputs and constants.
#[derive(Clone, Debug)]
pub struct Inference {
    pub types: Vec<Type>,
    pub contents: Vec<Option<Content>>,
}

/// Infers every node of `graph`; all failures are listed.
///
/// # Errors
/// One diagnostic per node that does not fit its operands; nodes behind it are skipped.
pub fn infer_graph(graph: &Graph) -> Result<Inference, Vec<Diag>> {
    let mut types: Vec<Type> = graph.values().map(|(_, v)| v.ty.clone()).collect();
    let mut contents: Vec<Option<Content>> = graph
        .values()
        .map(|(_, v)| match &v.source {
            Source::Const(t) => Some(Content::Const(t.clone())),
            _ => None,
        })
        .collect();
    let mut errors = Vec::new();
    for id in graph.topological() {
        match infer_node(graph, id, &types, &contents) {
            Ok(inferred) => {
                let outputs = &graph.node(id).outputs;
                for ((value, ty), content) in outputs.iter().zip(inferred.types).zip(inferred.contents) {
                    types[value.index()] = ty;
                    contents[value.index()] = content;
                }
            }
            Err(diag) => errors.push(diag),
        }
    }
    if errors.is_empty() { Ok(Inference { types, contents }) } else { Err(errors) }
}

fn infer_node(
    graph: &Graph,
    id: NodeId,
    types: &[Type],
    contents: &[Option<Content>],
) -> Result<Inferred, Diag> {
    let node = graph.node(id);
    let operands: Vec<Option<Operand>> = node
        .inputs
        .iter()
        .map(|v| v.map(|v| Operand { ty: &types[v.index()], content: contents[v.index()].as_ref() }))
        .collect();
    infer_op(node.op, &node.attrs, &operands, node.outputs.len())
        .map_err(|d| d.at_node(format!("{} ({})", node.name, node.op.name)))
}
