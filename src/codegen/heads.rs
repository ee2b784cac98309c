//! Lowering of attention: heads are read where projections left them and written where the next one reads them.
//!
//! The strided form takes any arrangement of heads, groups of them that share keys, and a transpose behind the
//! result; the dense form is for devices that have only that.

use crate::call::{Arg, Call, Lowered};
use crate::lower::Ctx;
use crate::params::{KernelBuilder, exprs};
use crate::views::{Factor, View, common};
use partita_ir::graph::Node;
use partita_ir::types::Type;
use partita_ir::{DType, Dim, Graph, NodeId, Tensor, ValueId};
use std::collections::BTreeSet;

/// Attributes and sizes of a node that the kernel covers.
struct Plain {
    scale: f64,
    causal: bool,
    turned: bool,
    /// Heads of queries, and of keys and values, where they are packed in the last axis.
    packed: Option<[Dim; 2]>,
    /// The mask, unless it is a constant that only says what `causal` does.
    mask: Option<ValueId>,
}

impl Plain {
    /// `None` for what goes the general way: caches, windows, soft caps, short masks, scores as results.
    fn new(ctx: &Ctx, node: &Node) -> Option<Self> {
        let ty = |n: usize| node.inputs.get(n).copied().flatten().map(|v| ctx.graph.ty(v));
        let (q, v) = (ty(0)?, ty(2)?);
        let keys = v.shape.get(v.rank().checked_sub(2)?)?;
        let fits = |mask: &Type| {
            let last = mask.shape.last();
            (mask.dtype == q.dtype || mask.dtype == DType::Bool) && last.is_none_or(|n| n.is(1) || n == keys)
        };
        let coarse = matches!(node.attrs.int("softmax_precision"), Some(10 | 16));
        let bounded = ["left_window_size", "right_window_size"].iter().any(|n| node.attrs.int_or(n, -1) >= 0);
        let plain = node.outputs.len() == 1
            && node.inputs.len() <= 4
            && node.attrs.float_or("softcap", 0.0) == 0.0
            && !coarse
            && !bounded
            && ty(3).is_none_or(fits);
        let heads = |name: &str| node.attrs.int(name).map(Dim::known);
        let packed = match q.rank() {
            4 => None,
            3 => Some([heads("q_num_heads")?, heads("kv_num_heads")?]),
            _ => return None,
        };
        let depth = match &packed {
            None => q.shape[3].as_known()?,
            Some([heads, _]) => q.shape[2].exact_div(heads)?.as_known()?,
        };
        let scale = node.attrs.float_or("scale", 1.0 / (depth as f32).sqrt());
        let queries = q.shape[q.rank() - 2].as_known();
        let mask = node.inputs.get(3).copied().flatten();
        let triangle = mask.and_then(|m| ctx.graph.as_const(m)).zip(queries.zip(keys.as_known()));
        let triangle = triangle.is_some_and(|(mask, scores)| is_triangle(mask, scores));
        plain.then_some(Self {
            scale: f64::from(scale),
            causal: node.attrs.flag("is_causal") || triangle,
            turned: node.attrs.flag("k_transposed"),
            packed,
            mask: mask.filter(|_| !triangle),
        })
    }

    fn kernel(&self) -> KernelBuilder {
        KernelBuilder::new("attention").float("scale", self.scale).int("causal", i64::from(self.causal))
    }
}

/// Whether a mask hides the keys behind each query from it, and nothing else.
fn is_triangle(mask: &Tensor, (queries, keys): (i64, i64)) -> bool {
    /// What leaves nothing of a score.
    const HIDDEN: f64 = -1e9;
    let [batch @ .., rows, columns] = mask.shape() else { return false };
    if batch.iter().any(|&n| n != 1) || (*rows as i64, *columns as i64) != (queries, keys) {
        return false;
    }
    let boolean = mask.dtype() == DType::Bool;
    let fits = |(at, value): (usize, f64)| match (at % columns <= at / columns, boolean) {
        (true, true) => value != 0.0,
        (false, true) => value == 0.0,
        (true, false) => value == 0.0,
        (false, false) => value <= HIDDEN,
    };
    mask.to_f64s().into_iter().enumerate().all(fits)
}

/// The call for an attention node: over heads where they lie, unless a device reads dense ones only.
pub(crate) fn attention(ctx: &Ctx, node: &Node) -> Option<Call> {
    if node.op.name != "attention" {
        return None;
    }
    let plain = Plain::new(ctx, node)?;
    let in_place = ctx.targets.iter().all(|t| t.heads_in_place);
    let (strided, dense) = (|| strided(ctx, node, &plain), || dense(ctx, node, &plain));
    if in_place { strided().or_else(dense) } else { dense().or_else(strided) }
}

fn dense(ctx: &Ctx, node: &Node, plain: &Plain) -> Option<Call> {
    let shape = |n: usize| node.inputs[n].map(|v| &ctx.graph.ty(v).shape);
    let (q, v) = (shape(0)?, shape(2)?);
    let boolean = plain.mask.is_some_and(|m| ctx.graph.ty(m).dtype == DType::Bool);
    let fits = plain.packed.is_none() && q[..2] == v[..2] && !boolean;
    let kernel = plain.kernel().int("k_transposed", i64::from(plain.turned)).finish();
    let own = node.inputs[..3].iter().copied().chain(plain.mask.map(Some));
    let operands = own.map(|v| v.map(Arg::of)).collect();
    fits.then(|| Call { kernel, operands, results: vec![Arg::of(node.outputs[0])] })
}

/// Results of attention that are those of another node: the transpose that reads them.
pub(crate) fn results_of_others(graph: &Graph, lowered: &[Lowered]) -> BTreeSet<ValueId> {
    let calls = lowered.iter().flat_map(|l| &l.calls).filter(|c| c.kernel.library == "attention");
    let results = calls.flat_map(|c| &c.results).map(|r| r.value);
    let own = |v: &ValueId| graph.producer(*v).is_some_and(|n| graph.node(n).op.name == "attention");
    results.filter(|v| !own(v)).collect()
}

/// The views of queries, keys, values, result and mask over [batch, head, row, column].
fn views(ctx: &Ctx, node: &Node, plain: &Plain, result: &View) -> Option<[Option<View>; 5]> {
    let view = |n: usize| Some(View::of(ctx, node.inputs.get(n).copied().flatten()?));
    let heads = |view: View, value: ValueId, n: usize| match &plain.packed {
        None => Some(view),
        Some(packed) => split_heads(&view, &ctx.graph.ty(value).shape, &packed[n]),
    };
    let q = heads(view(0)?, node.inputs[0]?, 0)?;
    let mut k = heads(view(1)?, node.inputs[1]?, 1)?;
    let v = heads(view(2)?, node.inputs[2]?, 1)?;
    if plain.turned {
        k = k.transposed(&[0, 1, 3, 2])?;
    }
    let mask = match plain.mask {
        None => None,
        Some(mask) => Some(broadcast_mask(ctx, &View::of(ctx, mask), node, plain)?),
    };
    Some([Some(q), Some(k), Some(v), Some(result.clone()), mask])
}

/// [batch, row, heads * column] as [batch, head, row, column].
fn split_heads(view: &View, shape: &[Dim], heads: &Dim) -> Option<View> {
    let [batch, rows, packed] = shape else { return None };
    let split = [batch.clone(), rows.clone(), heads.clone(), packed.exact_div(heads)?];
    view.reshaped(&split)?.transposed(&[0, 2, 1, 3])
}

fn broadcast_mask(ctx: &Ctx, mask: &View, node: &Node, plain: &Plain) -> Option<View> {
    let (q, v) = (&ctx.graph.ty(node.inputs[0]?).shape, &ctx.graph.ty(node.inputs[2]?).shape);
    let scores = match &plain.packed {
        None => [q[0].clone(), q[1].clone(), q[2].clone(), v[2].clone()],
        Some([heads, _]) => [q[0].clone(), heads.clone(), q[1].clone(), v[1].clone()],
    };
    mask.expanded(&scores)
}

/// The result over [batch, head, row, column]: of a transpose that alone reads it, else its own.
fn result(ctx: &Ctx, node: &Node, plain: &Plain) -> Option<View> {
    let own = node.outputs[0];
    let shape = &ctx.graph.ty(own).shape;
    if let Some([heads, _]) = &plain.packed {
        return split_heads(&View::dense(own, shape), shape, heads);
    }
    Some(turned_result(ctx, own).unwrap_or_else(|| View::dense(own, shape)))
}

fn turned_result(ctx: &Ctx, own: ValueId) -> Option<View> {
    let readers = ctx.graph.consumers(ctx.graph.producer(own)?);
    let [reader] = *readers.into_iter().collect::<Vec<NodeId>>().as_slice() else { return None };
    let node = ctx.graph.node(reader);
    let kept = ctx.graph.outputs().any(|(_, v)| v == own);
    let perm = node.attrs.ints("perm").filter(|_| node.op.name == "transpose" && !kept)?;
    let mut inverse = vec![0; perm.len()];
    for (to, from) in perm.iter().enumerate() {
        inverse[usize::try_from(*from).ok()?] = to as i64;
    }
    let target = node.outputs[0];
    let view = View::dense(target, &ctx.graph.ty(target).shape).transposed(&inverse)?;
    // The kernel writes rows of neighbours.
    single(&view.axes[3]).is_some_and(|f| f.step.is(1)).then_some(view)
}

/// An axis as one factor; one element has any step.
fn single(axis: &[Factor]) -> Option<Factor> {
    match axis {
        [] => Some(Factor { length: Dim::known(1), step: Dim::known(1) }),
        [factor] => Some(factor.clone()),
        _ => None,
    }
}

fn strided(ctx: &Ctx, node: &Node, plain: &Plain) -> Option<Call> {
    let axes = if plain.packed.is_some() { 3 } else { 4 };
    let mut shaped = node.inputs.iter().take(3).copied().chain([node.outputs.first().copied()]);
    if !shaped.all(|v| v.is_some_and(|v| ctx.graph.ty(v).rank() == axes)) {
        return None;
    }
    let result = result(ctx, node, plain)?;
    let mut views = views(ctx, node, plain, &result)?;
    share_groups(&mut views)?;
    let present: Vec<&View> = views.iter().flatten().collect();
    let mut rows = Vec::new();
    for axis in 0..2 {
        rows.extend(common(present.iter().map(|v| v.axes[axis].clone()).collect())?);
    }
    let matrix = |view: &View| Some([single(&view.axes[2])?, single(&view.axes[3])?]);
    let (q, v) = (matrix(present[0])?, matrix(present[2])?);
    let mut sizes: Vec<Dim> = rows.iter().map(|(length, _)| length.clone()).collect();
    sizes.extend([&q[0], &v[0], &q[1], &v[1]].map(|f| f.length.clone()));
    let mut kernel = plain.kernel().dims("sizes", exprs(&sizes, ctx.symbols)?);
    for (n, (name, view)) in ["q", "k", "v", "y", "mask"].into_iter().zip(&present).enumerate() {
        let mut steps = vec![view.first.clone()];
        steps.extend(rows.iter().map(|(_, steps)| steps[n].clone()));
        steps.extend(matrix(view)?.map(|f| f.step));
        kernel = kernel.dims(name, exprs(&steps, ctx.symbols)?);
    }
    let operand = |n: usize| views[n].as_ref().map(|v| Some(Arg::of(v.root)));
    let operands = [0, 1, 2, 4].into_iter().filter_map(operand).collect();
    Some(Call { kernel: kernel.finish(), operands, results: vec![Arg::of(result.root)] })
}

/// Repeats keys and values over the heads of queries that share them.
fn share_groups(views: &mut [Option<View>; 5]) -> Option<()> {
    let length = |view: &Option<View>| {
        let axis = &view.as_ref()?.axes[1];
        Some(axis.iter().fold(Dim::known(1), |n, f| n * f.length.clone()))
    };
    let (heads, groups) = (length(&views[0])?, length(&views[1])?);
    let repeated = heads.exact_div(&groups)?;
    if !repeated.is(1) {
        for view in views[1..3].iter_mut().flatten() {
            view.axes[1].push(Factor { length: repeated.clone(), step: Dim::known(0) });
        }
    }
    Some(())
}
