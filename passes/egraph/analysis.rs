//! What is known about every class: types, content, whether it can be computed at compile time.
//!
//! Weights computed by rules stay expressions here (`foldable`); they are evaluated once, after extraction.

use super::lang::{ENode, Head, OpUse, Table};
use crate::fold_constants::may_fold;
use egg::{Analysis, DidMerge, EGraph, Id};
use partita_ir::builder::{MAX_CONTENT_ELEMENTS, infer_op};
use partita_ir::op::{EvalCtx, Operand};
use partita_ir::tensor::n_elements;
use partita_ir::{Content, Tensor, Type};

/// E-graph of this crate.
pub type Egg = EGraph<ENode, Semantics>;

/// What holds for every member of a class.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// One type per result; empty for an omitted operand.
    pub types: Vec<Type>,
    pub content: Option<Content>,
    /// Computable at compile time within the size guard.
    pub foldable: bool,
    /// A constant leaf is a member.
    pub has_leaf: bool,
    /// The value all elements share, for constants.
    pub splat: Option<f64>,
}

impl Facts {
    /// The type of a class with one result that is a tensor of numbers; rules know nothing of other values.
    pub fn ty(&self) -> Option<&Type> {
        self.only_type().filter(|ty| ty.is_static())
    }

    fn only_type(&self) -> Option<&Type> {
        match self.types.as_slice() {
            [ty] => Some(ty),
            _ => None,
        }
    }

    /// As an operand of inference.
    pub fn operand(&self) -> Option<Operand<'_>> {
        self.only_type().map(|ty| Operand { ty, content: self.content.as_ref() })
    }
}

/// The analysis: the table the heads point into, and how often classes of different types were merged.
#[derive(Clone, Debug, Default)]
pub struct Semantics {
    pub table: Table,
    /// Merges of classes with different types: an unsound rule. Any such merge voids the e-graph.
    pub conflicts: usize,
}

/// Facts about `node`, given the facts of its children.
pub fn facts_of(table: &Table, node: &ENode, child: &dyn Fn(Id) -> Facts) -> Option<Facts> {
    match node.head {
        Head::Omitted => Some(Facts { foldable: true, ..Facts::default() }),
        Head::Input(n) => {
            let ty = table.inputs.get(n as usize)?.1.clone();
            Some(Facts { types: vec![ty], ..Facts::default() })
        }
        Head::Const(n) => Some(constant_facts(table.constant(n).1)),
        Head::Result(n) => {
            let tuple = child(*node.children.first()?);
            let ty = tuple.types.get(n as usize)?.clone();
            Some(Facts { types: vec![ty], ..Facts::default() })
        }
        Head::Op(n) => {
            let children: Vec<Facts> = node.children.iter().map(|&c| child(c)).collect();
            op_facts(table.op(n), &children)
        }
    }
}

/// Facts about a constant.
pub fn constant_facts(tensor: &Tensor) -> Facts {
    Facts {
        types: vec![Type::known(tensor.dtype(), tensor.shape())],
        splat: tensor.splat_f64(),
        content: Some(Content::Const(tensor.clone())),
        foldable: true,
        has_leaf: true,
    }
}

/// Facts about an operator applied to operands of these facts; `None` when inference refuses.
pub fn op_facts(op: &OpUse, children: &[Facts]) -> Option<Facts> {
    let operands: Vec<Option<Operand>> = children.iter().map(Facts::operand).collect();
    let inferred = infer_op(op.op, &op.attrs, &operands, op.n_outputs).ok()?;
    let mut types = inferred.types;
    types.truncate(op.n_outputs);
    let content = if op.n_outputs == 1 { inferred.contents.into_iter().next().flatten() } else { None };
    let inputs: Vec<&Type> = children.iter().filter_map(Facts::ty).collect();
    let foldable = op.n_outputs == 1
        && children.iter().all(|c| c.foldable && c.types.len() <= 1)
        && may_fold(op.op, &inputs, &types);
    let folded = content.as_ref().and_then(Content::as_const).and_then(Tensor::splat_f64);
    let splat = folded.or_else(|| if foldable { splat_of(op, children, &types) } else { None });
    Some(Facts { types, content, foldable, has_leaf: false, splat })
}

/// The value all elements of an elementwise or data-moving result share, when each operand's elements do.
fn splat_of(op: &OpUse, children: &[Facts], types: &[Type]) -> Option<f64> {
    if !op.op.traits.elementwise {
        let only = children.first().filter(|_| op.op.traits.moves_data && children.len() == 1)?;
        return only.splat.filter(|_| FILLS_NOTHING.contains(&op.op.name));
    }
    let one = |f: &Facts| Some(Some(Tensor::from_f64s(f.ty()?.dtype, &[], &[f.splat?])?));
    let inputs: Vec<Option<Tensor>> = children.iter().map(one).collect::<Option<_>>()?;
    let inputs: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
    let out = (op.op.eval)(&EvalCtx { attrs: &op.attrs, inputs: &inputs, n_outputs: 1 }).ok()?;
    out.first().filter(|t| Some(t.dtype()) == types.first().map(|t| t.dtype))?.splat_f64()
}

/// Data movers whose result holds only elements of their first operand.
const FILLS_NOTHING: &[&str] = &["expand", "reshape", "slice", "tile", "transpose"];

/// A constant with one value throughout gets a leaf up to this many elements, so that equal ones are one class.
const MAX_FILLED_ELEMENTS: usize = 1 << 20;

/// The constant a class is, when it is known and small or has one value throughout.
fn leaf_of(facts: &Facts) -> Option<Tensor> {
    if let Some(Content::Const(tensor)) = &facts.content
        && tensor.n_elements() <= MAX_CONTENT_ELEMENTS
    {
        return Some(tensor.clone());
    }
    let (value, ty) = facts.splat.filter(|_| facts.foldable).zip(facts.ty())?;
    let shape = ty.known_shape()?;
    let n = n_elements(&shape).filter(|n| *n <= MAX_FILLED_ELEMENTS)?;
    Tensor::from_f64s(ty.dtype, &shape, &vec![value; n])
}

impl Analysis<ENode> for Semantics {
    type Data = Facts;

    fn make(egraph: &mut Egg, node: &ENode, _: Id) -> Facts {
        facts_of(&egraph.analysis.table, node, &|id| egraph[id].data.clone()).unwrap_or_default()
    }

    fn merge(&mut self, a: &mut Facts, b: Facts) -> DidMerge {
        if a.types.is_empty() {
            a.types.clone_from(&b.types);
        } else if !b.types.is_empty() && a.types != b.types {
            self.conflicts += 1;
        }
        let (had_content, had_splat, was) =
            (a.content.is_some(), a.splat.is_some(), (a.foldable, a.has_leaf));
        let b_more = (b.content.is_some(), b.splat.is_some(), b.foldable, b.has_leaf);
        a.content = a.content.take().or(b.content);
        a.splat = a.splat.or(b.splat);
        a.foldable |= b.foldable;
        a.has_leaf |= b.has_leaf;
        let a_changed = a.content.is_some() != had_content
            || a.splat.is_some() != had_splat
            || (a.foldable, a.has_leaf) != was;
        let b_changed = (a.content.is_some(), a.splat.is_some(), a.foldable, a.has_leaf) != b_more;
        DidMerge(a_changed, b_changed)
    }

    fn modify(egraph: &mut Egg, id: Id) {
        let data = &egraph[id].data;
        if data.has_leaf {
            return;
        }
        let Some(tensor) = leaf_of(data) else { return };
        let head = egraph.analysis.table.const_head("", &tensor);
        let leaf = egraph.add(ENode::leaf(head));
        egraph.union(id, leaf);
    }
}
