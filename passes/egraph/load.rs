//! A graph into an e-graph, and a choice of e-nodes back into a graph.

use super::analysis::Egg;
use super::extract::Choice;
use super::lang::{ENode, Head};
use egg::Id;
use partita_ir::builder::Builder;
use partita_ir::diag::Diag;
use partita_ir::{Graph, Source, ValueId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A graph as an e-graph.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub egraph: Egg,
    /// Classes of the graph's outputs, in order.
    pub roots: Vec<Id>,
    /// The e-node each value of the graph was made of, in topological order.
    pub origin: Vec<(Id, ENode)>,
    /// Value and node name of what each class (as of loading) was in the graph.
    names: Vec<(Id, Arc<str>, Arc<str>)>,
}

/// Loads a graph without cycles.
pub fn load(graph: &Graph) -> Loaded {
    let mut out = Loaded { egraph: Egg::default(), roots: Vec::new(), origin: Vec::new(), names: Vec::new() };
    let mut ids: Vec<Option<Id>> = vec![None; graph.n_values()];
    for value in graph.inputs() {
        let v = graph.value(*value);
        out.egraph.analysis.table.inputs.push((v.name.clone(), v.ty.clone()));
    }
    for id in graph.topological() {
        let node = graph.node(id);
        let children: Vec<Id> = node.inputs.iter().map(|v| operand(graph, *v, &mut ids, &mut out)).collect();
        let tag = if node.op.traits.random { u32::try_from(id.index() + 1).unwrap_or(u32::MAX) } else { 0 };
        let head = out.egraph.analysis.table.op_head(node.op, &node.attrs, node.outputs.len(), tag);
        let whole = out.add(ENode { head, children });
        match node.outputs.as_slice() {
            [value] => {
                ids[value.index()] = Some(whole);
                out.name(whole, graph, *value, &node.name);
            }
            values => {
                out.names.push((whole, "".into(), node.name.clone()));
                for (n, value) in values.iter().enumerate() {
                    let head = Head::Result(u32::try_from(n).unwrap_or(u32::MAX));
                    let part = out.add(ENode { head, children: vec![whole] });
                    ids[value.index()] = Some(part);
                    out.name(part, graph, *value, &node.name);
                }
            }
        }
    }
    let outputs: Vec<ValueId> = graph.outputs().map(|(_, v)| v).collect();
    for value in outputs {
        let root = operand(graph, Some(value), &mut ids, &mut out);
        out.roots.push(root);
    }
    out.egraph.rebuild();
    out
}

/// The class of an operand; leaves are added when they are first read.
fn operand(graph: &Graph, value: Option<ValueId>, ids: &mut [Option<Id>], out: &mut Loaded) -> Id {
    let Some(value) = value else { return out.add(ENode::leaf(Head::Omitted)) };
    if let Some(id) = ids[value.index()] {
        return id;
    }
    let v = graph.value(value);
    let head = match &v.source {
        Source::Input(n) => Head::Input(u32::try_from(*n).unwrap_or(u32::MAX)),
        Source::Const(tensor) => out.egraph.analysis.table.const_head(&v.name, tensor),
        // Not in topological order: the graph has a cycle. Nothing may be matched behind it.
        Source::Node(..) => Head::Omitted,
    };
    let id = out.add(ENode::leaf(head));
    ids[value.index()] = Some(id);
    id
}

impl Loaded {
    fn add(&mut self, node: ENode) -> Id {
        let id = self.egraph.add(node.clone());
        self.origin.push((id, node));
        id
    }

    fn name(&mut self, id: Id, graph: &Graph, value: ValueId, node: &Arc<str>) {
        self.names.push((id, graph.value(value).name.clone(), node.clone()));
    }

    /// Builds the graph that `choice` stands for, with the inputs, outputs and names of `like`.
    ///
    /// # Errors
    /// When inference refuses a chosen node, or finds another type than its class has.
    pub fn emit(&self, choice: &Choice, like: &Graph) -> Result<Graph, Diag> {
        let mut emitter = Emitter::new(self, like);
        for id in choice.order(&self.egraph, &self.roots)? {
            emitter.class(id, choice)?;
        }
        for ((name, _), root) in like.outputs().zip(&self.roots) {
            let value = emitter.value(*root)?;
            emitter.builder.output(name, value);
        }
        Ok(emitter.builder.finish())
    }
}

struct Emitter<'a> {
    loaded: &'a Loaded,
    builder: Builder,
    inputs: Vec<ValueId>,
    /// Results of each class.
    values: BTreeMap<Id, Vec<ValueId>>,
    /// First value name and node name of each class.
    names: BTreeMap<Id, (Arc<str>, Arc<str>)>,
    results: BTreeMap<(Id, u32), Arc<str>>,
    used: BTreeSet<String>,
}

impl<'a> Emitter<'a> {
    fn new(loaded: &'a Loaded, like: &Graph) -> Self {
        let mut builder = Builder::new(like.name.clone());
        let mut used = BTreeSet::new();
        let mut inputs = Vec::new();
        for value in like.inputs() {
            let v = like.value(*value);
            inputs.push(builder.input(&v.name, v.ty.clone()));
            used.insert(v.name.to_string());
        }
        let mut names = BTreeMap::new();
        for (id, value, node) in &loaded.names {
            let slot = names.entry(loaded.egraph.find(*id)).or_insert((value.clone(), node.clone()));
            if slot.0.is_empty() {
                slot.0.clone_from(value);
            }
        }
        let mut results = BTreeMap::new();
        for (id, node) in &loaded.origin {
            if let (Head::Result(n), Some((value, _))) = (node.head, names.get(&loaded.egraph.find(*id))) {
                results.insert((loaded.egraph.find(node.children[0]), n), value.clone());
            }
        }
        Self { loaded, builder, inputs, values: BTreeMap::new(), names, results, used }
    }

    /// `wish` if nobody has it, else a name like it.
    fn fresh(&mut self, wish: &str, otherwise: &str) -> String {
        let stem = if wish.is_empty() { otherwise } else { wish };
        let mut name = stem.to_owned();
        let mut n = 1;
        while !self.used.insert(name.clone()) {
            n += 1;
            name = format!("{stem}.{n}");
        }
        name
    }

    fn value(&self, id: Id) -> Result<ValueId, Diag> {
        let found = self.values.get(&self.loaded.egraph.find(id)).and_then(|v| v.first());
        found.copied().ok_or_else(|| Diag::new("R010", "a chosen form reads a value that was not chosen"))
    }

    fn class(&mut self, id: Id, choice: &Choice) -> Result<(), Diag> {
        let egraph = &self.loaded.egraph;
        let node = choice.node(egraph, id);
        let values = match node.head {
            Head::Omitted => Vec::new(),
            Head::Input(n) => vec![self.inputs[n as usize]],
            Head::Const(n) => {
                let (name, tensor) = egraph.analysis.table.constant(n);
                let own = self.names.get(&id).map_or("", |n| &*n.0);
                let wish = if name.is_empty() { own.to_owned() } else { name.to_owned() };
                let name = self.fresh(&wish, "const");
                vec![self.builder.constant(&name, tensor.clone())]
            }
            Head::Result(n) => {
                let whole = self.values.get(&egraph.find(node.children[0]));
                whole.and_then(|v| v.get(n as usize)).copied().into_iter().collect()
            }
            Head::Op(n) => self.op(id, n, node)?,
        };
        self.values.insert(id, values);
        Ok(())
    }

    fn op(&mut self, id: Id, n: u32, node: &ENode) -> Result<Vec<ValueId>, Diag> {
        let egraph = &self.loaded.egraph;
        let used = egraph.analysis.table.op(n);
        let mut inputs = Vec::with_capacity(node.children.len());
        for &child in &node.children {
            let omitted = egraph[child].data.types.is_empty();
            inputs.push(if omitted { None } else { Some(self.value(child)?) });
        }
        while inputs.last().is_some_and(Option::is_none) {
            inputs.pop();
        }
        let (value, label) = self.names.get(&id).cloned().unwrap_or_else(|| ("".into(), "".into()));
        let label = if label.is_empty() { value.clone() } else { label };
        let mut names = Vec::with_capacity(used.n_outputs);
        for k in 0..used.n_outputs {
            let wish = match self.results.get(&(id, u32::try_from(k).unwrap_or(u32::MAX))) {
                Some(name) if used.n_outputs > 1 => name.clone(),
                _ => value.clone(),
            };
            names.push(self.fresh(&wish, used.op.name));
        }
        let label = if label.is_empty() { names[0].clone() } else { label.to_string() };
        let values = self.builder.node(&label, used.op, used.attrs.clone(), &inputs, &names)?;
        let types = &egraph[id].data.types;
        let agrees = values.iter().zip(types).all(|(v, ty)| self.builder.graph().ty(*v) == ty);
        if agrees {
            return Ok(values);
        }
        Err(Diag::new("R011", format!("a form of {} has another type than the original", used.op.name)))
    }
}
