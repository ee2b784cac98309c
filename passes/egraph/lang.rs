//! The language of the e-graph: one generic e-node whose head is an interned operator with its attributes.
//!
//! Attributes belong to the head and are no children: rules bind them, nothing is shared through them by
//! accident. Tensors stay in a table beside the e-graph; an e-node holds only their number.

use egg::{Id, Language};
use partita_ir::tensor::n_elements;
use partita_ir::{Attrs, OpRef, Tensor, Type};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Constants up to this many bytes are told apart by content, larger ones by the memory they live in (unless
/// they have one value throughout).
const CONTENT_KEY_BYTES: usize = 64 << 10;

/// What an e-node computes from its children.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Head {
    /// An omitted optional operand.
    Omitted,
    /// The n-th graph input.
    Input(u32),
    /// A constant, by its number in the table.
    Const(u32),
    /// An operator with attributes, by its number in the table.
    Op(u32),
    /// One result of an operator with several.
    Result(u32),
}

/// A head and its operands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ENode {
    pub head: Head,
    pub children: Vec<Id>,
}

impl ENode {
    /// A node without operands.
    pub fn leaf(head: Head) -> Self {
        Self { head, children: Vec::new() }
    }
}

impl Language for ENode {
    type Discriminant = Head;

    fn discriminant(&self) -> Head {
        self.head
    }

    fn matches(&self, other: &Self) -> bool {
        self.head == other.head && self.children.len() == other.children.len()
    }

    fn children(&self) -> &[Id] {
        &self.children
    }

    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.children
    }
}

/// An operator with everything that is fixed about one use of it.
#[derive(Clone, Debug)]
pub struct OpUse {
    pub op: OpRef,
    pub attrs: Attrs,
    pub n_outputs: usize,
    /// Zero, or a number that keeps two draws of random numbers apart.
    pub tag: u32,
}

/// Operators and constants by number.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub inputs: Vec<(Arc<str>, Type)>,
    ops: Vec<OpUse>,
    op_numbers: BTreeMap<(&'static str, String, usize, u32), u32>,
    consts: Vec<(Arc<str>, Tensor)>,
    const_numbers: BTreeMap<String, u32>,
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Table {
    /// The head of an operator use.
    pub fn op_head(&mut self, op: OpRef, attrs: &Attrs, n_outputs: usize, tag: u32) -> Head {
        let next = number(self.ops.len());
        let key = (op.name, attrs.key(), n_outputs, tag);
        let index = *self.op_numbers.entry(key).or_insert(next);
        if index == next {
            self.ops.push(OpUse { op, attrs: attrs.clone(), n_outputs, tag });
        }
        Head::Op(index)
    }

    /// The head of an operator use, if it is known already.
    pub fn find_op(&self, op: OpRef, attrs: &Attrs) -> Option<Head> {
        self.op_numbers.get(&(op.name, attrs.key(), 1, 0)).map(|&n| Head::Op(n))
    }

    /// The head of a constant. `name` is kept for the first one of this content.
    pub fn const_head(&mut self, name: &str, tensor: &Tensor) -> Head {
        let next = number(self.consts.len());
        let index = *self.const_numbers.entry(const_key(tensor)).or_insert(next);
        if index == next {
            self.consts.push((name.into(), tensor.clone()));
        }
        Head::Const(index)
    }

    /// The operator use behind a number.
    pub fn op(&self, n: u32) -> &OpUse {
        &self.ops[n as usize]
    }

    /// Name (empty for invented ones) and tensor behind a number.
    pub fn constant(&self, n: u32) -> (&str, &Tensor) {
        let (name, tensor) = &self.consts[n as usize];
        (name, tensor)
    }
}

/// A key that is equal only for equal constants.
pub fn const_key(tensor: &Tensor) -> String {
    if tensor.bytes().len() <= CONTENT_KEY_BYTES {
        return tensor.key();
    }
    if let Some(value) = tensor.splat_f64() {
        return format!("{}{:?}={:016x}", tensor.dtype().name(), tensor.shape(), value.to_bits());
    }
    let (at, n) = (tensor.bytes().as_ptr() as usize, n_elements(tensor.shape()));
    format!("{}{:?}@{at:x}+{n:?}", tensor.dtype().name(), tensor.shape())
}
