//! The walk: builds the new graph node by node and knows every old value's versions in it.

use super::islands::Islands;
use super::perm;
use super::{CONVOLUTIONS, operators};
use partita_ir::builder::Builder;
use partita_ir::diag::Diag;
use partita_ir::graph::Node;
use partita_ir::op::EvalCtx;
use partita_ir::{Attr, Attrs, Dim, Graph, NodeId, OpRef, Source, Tensor, Type, ValueId};
use std::collections::BTreeSet;

/// A permuted version of an old value: `value` of the new graph is the old value with its axes permuted.
#[derive(Clone, Debug)]
pub(super) struct Moved {
    pub(super) value: ValueId,
    pub(super) perm: Vec<usize>,
}

/// What a walk gives.
pub(super) struct Done {
    pub(super) graph: Graph,
    /// Convolutions that were converted, in order.
    pub(super) converted: Vec<NodeId>,
    islands: Islands,
}

impl Done {
    /// Convolutions of islands that do not pay.
    pub(super) fn losing(&self, macs_per_move: f64) -> BTreeSet<NodeId> {
        self.islands.losing(macs_per_move)
    }
}

/// A walk under way.
pub(super) struct Walk<'a> {
    pub(super) old: &'a Graph,
    build: Builder,
    /// Convolutions that stay as they are.
    kept: &'a BTreeSet<NodeId>,
    symbol_size: i64,
    /// By old value: as it was, and permuted.
    plain: Vec<Option<ValueId>>,
    moved: Vec<Option<Moved>>,
    /// Names taken in the new graph, of values and of nodes.
    values: BTreeSet<String>,
    nodes: BTreeSet<String>,
    islands: Islands,
    converted: Vec<NodeId>,
}

fn failed() -> Diag {
    Diag::new("V020", "the layout of a value cannot be changed")
}

/// The operator called `name`.
pub(super) fn op(name: &str) -> Result<OpRef, Diag> {
    partita_ops::op(name).ok_or_else(failed)
}

fn fresh(taken: &mut BTreeSet<String>, name: &str, suffix: &str) -> String {
    let numbered = (2..).map(|n| format!("{name}{suffix}.{n}"));
    let mut names = [name.to_owned(), format!("{name}{suffix}")].into_iter().chain(numbered);
    // The list of names does not end.
    let free = names.find(|n| !taken.contains(n)).unwrap_or_default();
    taken.insert(free.clone());
    free
}

impl<'a> Walk<'a> {
    /// Walks over `old`, leaving the convolutions in `kept` alone.
    ///
    /// # Errors
    /// What inference says about a node of the new graph.
    pub(super) fn over(old: &'a Graph, kept: &'a BTreeSet<NodeId>, symbol_size: i64) -> Result<Done, Diag> {
        let mut walk = Self {
            old,
            build: Builder::new(old.name.clone()),
            kept,
            symbol_size,
            plain: vec![None; old.n_values()],
            moved: vec![None; old.n_values()],
            values: BTreeSet::new(),
            nodes: BTreeSet::new(),
            islands: Islands::default(),
            converted: Vec::new(),
        };
        for &input in old.inputs() {
            let value = old.value(input);
            walk.values.insert(value.name.to_string());
            walk.plain[input.index()] = Some(walk.build.input(&value.name, value.ty.clone()));
        }
        for id in old.topological() {
            // What does not fit permuted operands, for whatever reason, gets the plain ones.
            if !operators::carry(&mut walk, id).unwrap_or(false) {
                walk.copy(id)?;
            }
        }
        for (name, value) in old.outputs() {
            let plain = walk.plain(value)?;
            walk.build.output(name, plain);
        }
        Ok(Done { graph: walk.build.finish(), converted: walk.converted, islands: walk.islands })
    }

    /// Whether a convolution may be converted.
    pub(super) fn may_convert(&self, id: NodeId) -> bool {
        !self.kept.contains(&id)
    }

    /// How many elements a shape has; symbols count as a typical size.
    pub(super) fn elements(&self, shape: &[Dim]) -> f64 {
        let size = |d: &Dim| d.eval(&|_| Some(self.symbol_size)).map_or(1.0, |d| d as f64);
        shape.iter().map(size).product()
    }

    /// The type of an old value.
    pub(super) fn ty(&self, value: ValueId) -> &'a Type {
        self.old.ty(value)
    }

    /// The permuted version of an old value, if there is one.
    pub(super) fn moved(&self, value: ValueId) -> Option<&Moved> {
        self.moved[value.index()].as_ref()
    }

    /// Whether the old value's own version is there, or a constant.
    pub(super) fn has_plain(&self, value: ValueId) -> bool {
        self.plain[value.index()].is_some() || self.old.as_const(value).is_some()
    }

    /// The old value in the new graph, as it was.
    pub(super) fn plain(&mut self, value: ValueId) -> Result<ValueId, Diag> {
        if let Some(plain) = self.plain[value.index()] {
            return Ok(plain);
        }
        let plain = match (self.old.as_const(value), self.moved[value.index()].clone()) {
            (Some(tensor), _) => self.constant(&self.old.value(value).name, tensor.clone()),
            (None, Some(moved)) => {
                let back = perm::inverse(&moved.perm);
                let plain = self.permute(moved.value, &back, value, ".nchw")?;
                self.border(moved.value, plain);
                plain
            }
            (None, None) => return Err(failed()),
        };
        self.plain[value.index()] = Some(plain);
        Ok(plain)
    }

    /// The old value with its axes permuted.
    pub(super) fn moved_as(&mut self, value: ValueId, perm: &[usize]) -> Result<ValueId, Diag> {
        if perm::is_identity(perm) {
            return self.plain(value);
        }
        if let Some(moved) = self.moved(value).filter(|m| m.perm == perm) {
            return Ok(moved.value);
        }
        let new = match self.old.as_const(value) {
            Some(tensor) => {
                let turned = transposed(tensor, perm)?;
                self.constant(&format!("{}.nhwc", self.old.value(value).name), turned)
            }
            None => self.turned(value, perm)?,
        };
        if self.moved[value.index()].is_none() {
            self.moved[value.index()] = Some(Moved { value: new, perm: perm.to_vec() });
        }
        Ok(new)
    }

    /// A computed value with its axes permuted: from its own version if that is there, else from another one.
    fn turned(&mut self, value: ValueId, perm: &[usize]) -> Result<ValueId, Diag> {
        let other = self.moved(value).filter(|_| self.plain[value.index()].is_none()).cloned();
        let (from, turn) = match &other {
            Some(moved) => (moved.value, perm::apply(perm, &perm::inverse(&moved.perm))),
            None => (self.plain(value)?, perm.to_vec()),
        };
        let new = self.permute(from, &turn, value, ".nhwc")?;
        if other.is_some() {
            self.islands.join(from, new);
        }
        self.border(new, new);
        Ok(new)
    }

    /// Counts what the transposition that gave `made` moves for the island of `inside`.
    fn border(&mut self, inside: ValueId, made: ValueId) {
        let graph = self.build.graph();
        let moves = graph.producer(made).is_some_and(|n| graph.node(n).op.name == "transpose");
        if moves {
            let elements = self.elements(&graph.ty(made).shape.clone());
            self.islands.moved(inside, elements);
        }
    }

    /// A value of the new graph with its axes permuted; named after the old value `of`.
    fn permute(
        &mut self,
        value: ValueId,
        perm: &[usize],
        of: ValueId,
        suffix: &str,
    ) -> Result<ValueId, Diag> {
        let shape = self.build.graph().ty(value).shape.clone();
        if perm::keeps_order(perm, &shape) {
            return self.reshape(value, perm::apply(perm, &shape), of, suffix);
        }
        let perm: Vec<i64> = perm.iter().map(|&p| p as i64).collect();
        self.insert("transpose", Attrs::new().with("perm", perm), &[value], of, suffix)
    }

    /// A value of the new graph in another shape; named after the old value `of`.
    pub(super) fn reshape(
        &mut self,
        value: ValueId,
        shape: Vec<Dim>,
        of: ValueId,
        suffix: &str,
    ) -> Result<ValueId, Diag> {
        if self.build.graph().ty(value).shape == shape {
            return Ok(value);
        }
        let mut attrs = Attrs::new();
        if shape.iter().any(|d| d.is(0)) {
            attrs.set("allowzero", 1i64);
        }
        attrs.set("shape", Attr::from(shape));
        self.insert("reshape", attrs, &[value], of, suffix)
    }

    /// Adds a node that the old graph has not; its names are those of the old value `of` where they are free.
    pub(super) fn insert(
        &mut self,
        name: &str,
        attrs: Attrs,
        inputs: &[ValueId],
        of: ValueId,
        suffix: &str,
    ) -> Result<ValueId, Diag> {
        let value = self.old.value(of);
        let producer = match value.source {
            Source::Node(id, _) => self.old.node(id).name.clone(),
            _ => value.name.clone(),
        };
        let node = fresh(&mut self.nodes, &producer, suffix);
        let result = fresh(&mut self.values, &value.name, suffix);
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        let results = self.build.node(&node, op(name)?, attrs, &inputs, &[result])?;
        results.first().copied().ok_or_else(failed)
    }

    /// Adds a constant.
    pub(super) fn constant(&mut self, name: &str, tensor: Tensor) -> ValueId {
        let name = fresh(&mut self.values, name, ".const");
        self.build.constant(&name, tensor)
    }

    /// The node as it was.
    fn copy(&mut self, id: NodeId) -> Result<(), Diag> {
        let node = self.old.node(id);
        let inputs = self.all_plain(&node.inputs)?;
        let results = self.add(node, node.op, node.attrs.clone(), &inputs)?;
        for (old, new) in node.outputs.iter().zip(results) {
            if self.build.graph().ty(new) != self.ty(*old) {
                return Err(failed());
            }
            self.plain[old.index()] = Some(new);
        }
        Ok(())
    }

    /// Operands as they were.
    pub(super) fn all_plain(&mut self, inputs: &[Option<ValueId>]) -> Result<Vec<Option<ValueId>>, Diag> {
        inputs.iter().map(|v| v.map(|v| self.plain(v)).transpose()).collect()
    }

    /// Adds a node with the names and as many results as `node` of the old graph.
    fn add(
        &mut self,
        node: &Node,
        op: OpRef,
        attrs: Attrs,
        inputs: &[Option<ValueId>],
    ) -> Result<Vec<ValueId>, Diag> {
        let name = fresh(&mut self.nodes, &node.name, ".again");
        let names: Vec<String> = node
            .outputs
            .iter()
            .map(|v| fresh(&mut self.values, &self.old.value(*v).name, ".again"))
            .collect();
        self.build.node(&name, op, attrs, inputs, &names)
    }

    /// Adds what `node` becomes on permuted values; each of its results is permuted by `perm`.
    pub(super) fn carried(
        &mut self,
        node: &Node,
        op: OpRef,
        attrs: Attrs,
        inputs: &[Option<ValueId>],
        perm: &[usize],
    ) -> Result<(), Diag> {
        let results = self.add(node, op, attrs, inputs)?;
        for (old, new) in node.outputs.iter().zip(results) {
            self.follow(inputs, new);
            self.define(*old, new, perm)?;
        }
        Ok(())
    }

    /// `new` is of the island of those operands that are permuted versions.
    fn follow(&mut self, inputs: &[Option<ValueId>], new: ValueId) {
        for (n, input) in inputs.iter().enumerate().filter_map(|(n, v)| Some((n, (*v)?))) {
            let graph = self.build.graph();
            let alike = n == 0 || graph.ty(input).rank() == graph.ty(new).rank();
            // Constants and small operands that every island may use do not join islands.
            if graph.as_const(input).is_none() && alike {
                self.islands.join(input, new);
            }
        }
    }

    /// The old value is the new one, permuted.
    ///
    /// # Errors
    /// When the types do not agree.
    pub(super) fn define(&mut self, old: ValueId, new: ValueId, perm: &[usize]) -> Result<(), Diag> {
        let (ty, have) = (self.ty(old), self.build.graph().ty(new));
        if ty.dtype != have.dtype || perm::apply(perm, &ty.shape) != have.shape {
            return Err(failed());
        }
        if perm::is_identity(perm) {
            self.plain[old.index()] = Some(new);
        } else {
            self.moved[old.index()] = Some(Moved { value: new, perm: perm.to_vec() });
        }
        Ok(())
    }

    /// Adds a convolution in another layout; `joins` when its data is permuted too.
    pub(super) fn convolution(
        &mut self,
        node: &Node,
        attrs: Attrs,
        inputs: &[Option<ValueId>],
        joins: bool,
    ) -> Result<(), Diag> {
        let results = self.add(node, node.op, attrs, inputs)?;
        let (Some(&new), Some(&old)) = (results.first(), node.outputs.first()) else { return Err(failed()) };
        if let (true, Some(Some(x))) = (joins, inputs.first()) {
            self.islands.join(*x, new);
        }
        self.define(old, new, &partita_ops::channels_last::to_last(4))
    }

    /// A transposition of the old graph to `ty` that the island of `inside` does without.
    pub(super) fn spare(&mut self, inside: ValueId, ty: &Type, turn: &[usize]) {
        if !perm::keeps_order(&perm::inverse(turn), &ty.shape) {
            self.islands.moved(inside, -self.elements(&ty.shape));
        }
    }

    /// Two values of the new graph hand their layout to each other.
    pub(super) fn join(&mut self, a: ValueId, b: ValueId) {
        self.islands.join(a, b);
    }

    /// The old value, which has fewer axes than `full` says, with that shape and its axes permuted.
    pub(super) fn stretched(
        &mut self,
        value: ValueId,
        full: Vec<Dim>,
        perm: &[usize],
    ) -> Result<ValueId, Diag> {
        let plain = self.plain(value)?;
        if perm::keeps_order(perm, &full) {
            return self.reshape(plain, perm::apply(perm, &full), value, ".nhwc");
        }
        let full = self.reshape(plain, full, value, ".nhwc")?;
        let new = self.permute(full, perm, value, ".nhwc")?;
        self.border(new, new);
        Ok(new)
    }

    /// Notes a converted convolution.
    pub(super) fn convert(&mut self, id: NodeId, macs: f64) {
        let node = self.old.node(id);
        debug_assert!(CONVOLUTIONS.contains(&node.op.name), "only convolutions pay");
        if let Some(value) = self.moved(node.outputs[0]).map(|m| m.value) {
            self.islands.convolution(value, id, macs);
        }
        self.converted.push(id);
    }

    /// The type of a value of the new graph.
    pub(super) fn new_type(&self, value: ValueId) -> &Type {
        self.build.graph().ty(value)
    }
}

/// The tensor with its axes permuted.
pub(super) fn transposed(tensor: &Tensor, perm: &[usize]) -> Result<Tensor, Diag> {
    let attrs = Attrs::new().with("perm", perm.iter().map(|&p| p as i64).collect::<Vec<i64>>());
    let ctx = EvalCtx { attrs: &attrs, inputs: &[Some(tensor)], n_outputs: 1 };
    (op("transpose")?.eval)(&ctx)?.into_iter().next().ok_or_else(failed)
}
