//! What an e-node costs, in microseconds, when it runs once.
//!
//! Device-free: the caller gives time as a function of work. Two corrections: what a kernel can take into its
//! epilogue or an elementwise cluster costs no launch, and what is computed at compile time costs next to
//! nothing. Both are needed so that the cheapest e-nodes make the cheapest plan.

use super::analysis::{Egg, Facts};
use super::lang::{ENode, Head, OpUse};
use egg::Id;
use partita_ir::op::WorkCtx;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, OpRef, Type};
use std::collections::{BTreeMap, BTreeSet};

/// A node that moves nothing still costs a little: fewer nodes are better.
const NODE_US: f64 = 0.02;

/// A constant expression: smaller ones are better, all are better than run time.
const CONSTANT_US: f64 = 0.001;

/// Part of an elementwise node's time that remains when it runs inside another kernel.
const FUSED_SHARE: f64 = 0.1;

/// Operators whose kernels take elementwise epilogues.
pub const ANCHORS: &[&str] = &["matmul", "gemm", "conv", "conv_transpose"];

/// Operands of the product itself; further ones are added to it.
const PRODUCT_OPERANDS: usize = 2;

/// Prices e-nodes.
pub struct Pricer<'a> {
    /// Microseconds for a piece of work.
    pub time: &'a dyn Fn(&Work) -> f64,
    /// The size a symbol is taken to have.
    pub symbol_size: i64,
}

impl Pricer<'_> {
    /// Prices every e-node of every class, in the classes' order of nodes.
    pub fn prices(&self, egraph: &Egg) -> BTreeMap<Id, Vec<f64>> {
        let hosts = hosts(egraph);
        let price = |class: &egg::EClass<ENode, Facts>| {
            class.nodes.iter().map(|n| self.node(egraph, class.id, n, &hosts)).collect()
        };
        egraph.classes().map(|c| (c.id, price(c))).collect()
    }

    fn node(&self, egraph: &Egg, class: Id, node: &ENode, hosts: &BTreeSet<Id>) -> f64 {
        let Head::Op(n) = node.head else { return 0.0 };
        let facts = &egraph[class].data;
        if facts.foldable && node.children.iter().all(|&c| egraph[c].data.foldable) {
            return CONSTANT_US;
        }
        let used = egraph.analysis.table.op(n);
        let inputs: Vec<&Facts> = node.children.iter().map(|&c| &egraph[c].data).collect();
        let work = self.work(used, &inputs, facts);
        if is_elementwise(used.op)
            && let Some(host) = node
                .children
                .iter()
                .position(|&c| hosts.contains(&egraph.find(c)) && same_shape(&egraph[c].data, facts))
        {
            let others = inputs.iter().enumerate().filter(|(n, _)| *n != host);
            let read_bytes = others.map(|(_, f)| self.bytes(f)).sum();
            return NODE_US + self.fused(Work { read_bytes, written_bytes: 0.0, ..work });
        }
        if !ANCHORS.contains(&used.op.name) || inputs.len() <= PRODUCT_OPERANDS {
            return NODE_US + self.time_of(&work);
        }
        // What an anchor adds to its product costs what it would cost as an epilogue.
        let read_bytes = inputs[PRODUCT_OPERANDS..].iter().map(|f| self.bytes(f)).sum();
        let flops = facts.ty().map_or(0.0, |ty| self.size(ty));
        let added = Work { flops, read_bytes, written_bytes: 0.0, dtype: work.dtype, kind: WorkKind::Vector };
        let product = Work { flops: work.flops - flops, read_bytes: work.read_bytes - read_bytes, ..work };
        NODE_US + self.time_of(&product) + self.fused(added)
    }

    /// What remains of a piece of work inside another kernel.
    fn fused(&self, work: Work) -> f64 {
        FUSED_SHARE * (self.time_of(&work) - self.launch()).max(0.0)
    }

    fn time_of(&self, work: &Work) -> f64 {
        let time = if work.kind == WorkKind::Free { 0.0 } else { (self.time)(work) };
        if time.is_finite() { time.max(0.0) } else { f64::MAX / 1e6 }
    }

    /// Number of elements.
    fn size(&self, ty: &Type) -> f64 {
        ty.n_elements().eval(&|_| Some(self.symbol_size)).unwrap_or(1) as f64
    }

    fn bytes(&self, facts: &Facts) -> f64 {
        facts.ty().map_or(0.0, |ty| self.size(ty) * ty.dtype.size_bytes() as f64)
    }

    /// Time of an empty piece of work.
    fn launch(&self) -> f64 {
        let empty = Work {
            flops: 0.0,
            read_bytes: 0.0,
            written_bytes: 0.0,
            dtype: DType::F32,
            kind: WorkKind::Vector,
        };
        (self.time)(&empty)
    }

    /// Work of one operator by itself.
    fn work(&self, used: &OpUse, inputs: &[&Facts], output: &Facts) -> Work {
        let lookup = |_: &str| Some(self.symbol_size);
        let shape = |ty: &Type| {
            let dims = ty.shape.iter().map(|d| usize::try_from(d.eval(&lookup).unwrap_or(1)).unwrap_or(0));
            (ty.dtype, dims.collect::<Vec<usize>>())
        };
        let attrs = used.attrs.bind(&lookup);
        let inputs: Vec<_> = inputs.iter().map(|f| f.ty().map(shape)).collect();
        let outputs: Vec<_> = output.types.iter().map(shape).collect();
        (used.op.work)(&WorkCtx { attrs: &attrs, inputs: &inputs, outputs: &outputs })
    }
}

fn same_shape(a: &Facts, b: &Facts) -> bool {
    a.ty().map(|t| &t.shape) == b.ty().map(|t| &t.shape)
}

fn is_elementwise(op: OpRef) -> bool {
    op.traits.elementwise && op.scalar.is_some()
}

/// Classes another elementwise node can join: results of anchors and of elementwise nodes.
fn hosts(egraph: &Egg) -> BTreeSet<Id> {
    let joins = |node: &ENode| match node.head {
        Head::Op(n) => {
            let op = egraph.analysis.table.op(n).op;
            is_elementwise(op) || ANCHORS.contains(&op.name)
        }
        _ => false,
    };
    egraph.classes().filter(|c| !c.data.foldable && c.nodes.iter().any(joins)).map(|c| c.id).collect()
}

/// The roofline of a plain machine, for callers without a device: microseconds as the larger of arithmetic
/// and memory time, plus a launch.
pub fn roofline(work: &Work) -> f64 {
    const LAUNCH_US: f64 = 2.0;
    const BYTES_PER_US: f64 = 20e3;
    let flops_per_us = match work.kind {
        WorkKind::Dense => 100e3,
        WorkKind::Vector | WorkKind::Move => 20e3,
        WorkKind::Free => return 0.0,
    };
    LAUNCH_US + (work.flops / flops_per_us).max((work.read_bytes + work.written_bytes) / BYTES_PER_US)
}
