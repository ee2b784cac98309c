//! Rotary position embedding as exporters write it, `x cos + concat(-x2, x1) sin` with the halves x1 and x2 of each
//! row, as one kernel that reads its operands where they lie.

use crate::call::{Arg, Call};
use crate::lower::{Ctx, slice_range};
use crate::params::{KernelBuilder, exprs};
use crate::views::{Factor, View, common};
use partita_ir::graph::Node;
use partita_ir::{DType, Dim, NodeId, ValueId};

/// Matches nodes from their results backwards.
struct Match<'a> {
    ctx: &'a Ctx<'a>,
}

/// What was found: x, the cosine and the sine, and the elementwise nodes that turn x.
struct Found {
    operands: [ValueId; 3],
    nodes: [NodeId; 4],
}

impl<'a> Match<'a> {
    fn node(&self, value: ValueId, op: &str) -> Option<(NodeId, &'a Node)> {
        let id = self.ctx.graph.producer(value)?;
        let node = self.ctx.graph.node(id);
        (node.op.name == op).then_some((id, node))
    }

    /// Both operands of a commutative node, in both orders.
    fn pairs(&self, node: &Node) -> Vec<(ValueId, ValueId)> {
        match node.inputs.as_slice() {
            &[Some(a), Some(b)] => vec![(a, b), (b, a)],
            _ => Vec::new(),
        }
    }

    /// Whether `value` is elements `from..from + half` of the last axis of `x`.
    fn is_half(&self, value: ValueId, x: ValueId, from: &Dim, half: &Dim) -> bool {
        let cut = || {
            let node = self.ctx.graph.node(self.ctx.graph.producer(value)?);
            let last = self.ctx.graph.ty(x).rank().checked_sub(1)?;
            let whole = node.inputs.first().copied().flatten()? == x;
            let length = self.ctx.graph.ty(value).shape.last()? == half;
            let start = match node.op.name {
                "slice" => {
                    let (starts, steps) = slice_range(self.ctx, node)?;
                    let others = starts[..last].iter().all(|s| s.is(0)) && steps.iter().all(|s| s.is(1));
                    let same = self.ctx.graph.ty(value).shape[..last] == self.ctx.graph.ty(x).shape[..last];
                    (others && same).then(|| starts[last].clone())?
                }
                "split" if node.attrs.int_or("axis", 0).rem_euclid(last as i64 + 1) == last as i64 => {
                    let before = node.outputs.iter().take_while(|v| **v != value);
                    before.fold(Dim::known(0), |n, v| n + self.ctx.graph.ty(*v).shape[last].clone())
                }
                _ => return None,
            };
            Some(whole && length && start == *from)
        };
        cut().unwrap_or(false)
    }

    /// The node that negates the second half of `x`, when `value` is that in front of the first half.
    fn negation(&self, value: ValueId, x: ValueId) -> Option<NodeId> {
        let (_, concat) = self.node(value, "concat")?;
        let last = self.ctx.graph.ty(x).rank().checked_sub(1)? as i64;
        let &[Some(front), Some(back)] = concat.inputs.as_slice() else { return None };
        let (id, neg) = self.node(front, "neg")?;
        let half = self.ctx.graph.ty(x).shape.last()?.exact_div(&Dim::known(2))?;
        let axis = concat.attrs.int_or("axis", 0).rem_euclid(last + 1) == last;
        let halves =
            self.is_half(neg.inputs[0]?, x, &half, &half) && self.is_half(back, x, &Dim::known(0), &half);
        (axis && halves).then_some(id)
    }

    /// The rotation that ends in `sum`.
    fn rotation(&self, sum: NodeId) -> Option<Found> {
        let node = self.ctx.graph.node(sum);
        if node.op.name != "add" {
            return None;
        }
        self.pairs(node).into_iter().find_map(|(plain, turned)| {
            let (plain_id, plain) = self.node(plain, "mul")?;
            let (turned_id, turned) = self.node(turned, "mul")?;
            let both = self
                .pairs(plain)
                .into_iter()
                .flat_map(|p| self.pairs(turned).into_iter().map(move |t| (p, t)));
            both.into_iter().find_map(|((x, cos), (value, sin))| {
                let negation = self.negation(value, x)?;
                Some(Found { operands: [x, cos, sin], nodes: [sum, plain_id, turned_id, negation] })
            })
        })
    }
}

/// The call for a group of elementwise nodes, when that is what they do.
pub(crate) fn rotary(ctx: &Ctx, nodes: &[NodeId]) -> Option<Call> {
    let sum = *nodes.last()?;
    let found = Match { ctx }.rotation(sum)?;
    let output = ctx.graph.node(sum).outputs[0];
    let ty = ctx.graph.ty(output);
    let covers = nodes.iter().all(|n| found.nodes.contains(n));
    let whole = ctx.graph.ty(found.operands[0]).shape == ty.shape && ty.dtype == DType::F32;
    if !covers || !whole || !ctx.targets.iter().all(|t| t.heads_in_place) {
        return None;
    }
    call(ctx, found.operands, output)
}

fn call(ctx: &Ctx, operands: [ValueId; 3], output: ValueId) -> Option<Call> {
    let shape = &ctx.graph.ty(output).shape;
    let (columns, leading) = shape.split_last()?;
    let views: Vec<View> =
        operands.iter().map(|v| View::of(ctx, *v).expanded(shape)).collect::<Option<_>>()?;
    let contiguous = |view: &View| match view.axes.last().map(Vec::as_slice) {
        Some([Factor { step, .. }]) => step.is(1),
        _ => false,
    };
    if !views.iter().all(contiguous) {
        return None;
    }
    let mut rows = Vec::new();
    for axis in 0..leading.len() {
        rows.extend(common(views.iter().map(|v| v.axes[axis].clone()).collect())?);
    }
    if rows.is_empty() {
        rows.push((Dim::known(1), vec![Dim::known(0); views.len()]));
    }
    let sizes: Vec<Dim> = rows.iter().map(|(length, _)| length.clone()).chain([columns.clone()]).collect();
    let mut kernel = KernelBuilder::new("rotary").dims("sizes", exprs(&sizes, ctx.symbols)?);
    for (n, (name, view)) in ["x", "cos", "sin"].into_iter().zip(&views).enumerate() {
        let steps = rows.iter().map(|(_, steps)| steps[n].clone());
        let all: Vec<Dim> = [view.first.clone()].into_iter().chain(steps).chain([Dim::known(1)]).collect();
        kernel = kernel.dims(name, exprs(&all, ctx.symbols)?);
    }
    let operands = views.iter().map(|v| Some(Arg::of(v.root))).collect();
    Some(Call { kernel: kernel.finish(), operands, results: vec![Arg::of(output)] })
}
