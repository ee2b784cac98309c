//! Values as elements of other values: what transposes, reshapes, slices and broadcasts leave of an operand is where
//! its elements lie, so a kernel that takes steps reads the operand itself.

use crate::lower::{Ctx, slice_range};
use partita_ir::graph::Node;
use partita_ir::{Dim, ValueId};

/// Nodes that are looked through, so that a long chain costs no long search.
const MAX_DEPTH: usize = 16;

/// A part of an axis: that many elements, so far apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Factor {
    pub length: Dim,
    pub step: Dim,
}

impl Factor {
    fn new(length: &Dim, step: Dim) -> Self {
        Self { length: length.clone(), step }
    }
}

/// Axes over the elements of `root`; each axis is its factors from the outermost, those of length 1 left out.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub root: ValueId,
    /// The first element.
    pub first: Dim,
    pub axes: Vec<Vec<Factor>>,
}

impl View {
    /// `value` itself in shape `shape`.
    pub(crate) fn dense(value: ValueId, shape: &[Dim]) -> Self {
        let mut step = Dim::known(1);
        let mut axes = Vec::new();
        for length in shape.iter().rev() {
            axes.push(factors(length, &step));
            step = step * length.clone();
        }
        axes.reverse();
        Self { root: value, first: Dim::known(0), axes }
    }

    /// `value` as elements of the furthest value that only rearranging nodes lie in front of.
    pub(crate) fn of(ctx: &Ctx, value: ValueId) -> Self {
        let mut chain = Vec::new();
        let mut root = value;
        while chain.len() < MAX_DEPTH
            && let Some((node, operand)) = arranged(ctx, root)
        {
            chain.push((node, root));
            root = operand;
        }
        let dense = |v: ValueId| Self::dense(v, &ctx.graph.ty(v).shape);
        chain.iter().rev().fold(dense(root), |view, (node, output)| {
            view.through(ctx, node, *output).unwrap_or_else(|| dense(*output))
        })
    }

    /// What `node` makes of this view of its operand.
    fn through(&self, ctx: &Ctx, node: &Node, output: ValueId) -> Option<Self> {
        let shape = &ctx.graph.ty(output).shape;
        match node.op.name {
            "transpose" => {
                let rank = self.axes.len();
                let perm = node.attrs.ints("perm").unwrap_or_else(|| (0..rank as i64).rev().collect());
                self.transposed(&perm)
            }
            "expand" => self.expanded(shape),
            "split" => {
                let axis = node.attrs.int_or("axis", 0);
                let axis = usize::try_from(if axis < 0 { axis + shape.len() as i64 } else { axis }).ok()?;
                let before = node.outputs.iter().take_while(|v| **v != output);
                let skipped = before.fold(Dim::known(0), |sum, v| sum + ctx.graph.ty(*v).shape[axis].clone());
                self.part(axis, &skipped, &shape[axis])
            }
            "slice" => {
                let (starts, steps) = slice_range(ctx, node)?;
                let mut view = self.clone();
                for axis in 0..starts.len() {
                    if ctx.graph.ty(node.inputs[0]?).shape[axis] != shape[axis] {
                        view = view.part(axis, &starts[axis], &shape[axis]).filter(|_| steps[axis].is(1))?;
                    } else if !steps[axis].is(1) {
                        return None;
                    }
                }
                Some(view)
            }
            _ => self.reshaped(shape),
        }
    }

    /// The same with axes in the order `perm`.
    pub(crate) fn transposed(&self, perm: &[i64]) -> Option<Self> {
        let axes: Option<Vec<_>> =
            perm.iter().map(|&p| self.axes.get(usize::try_from(p).ok()?).cloned()).collect();
        Some(Self { axes: axes?, ..self.clone() })
    }

    /// Elements `from..from + length` of an axis that is one piece.
    fn part(&self, axis: usize, from: &Dim, length: &Dim) -> Option<Self> {
        let mut view = self.clone();
        let step = match view.axes[axis].as_slice() {
            [factor] => factor.step.clone(),
            [] => Dim::known(0),
            _ => return None,
        };
        view.first = view.first + from.clone() * step.clone();
        view.axes[axis] = factors(length, &step);
        Some(view)
    }

    /// Broadcast to `shape`.
    pub(crate) fn expanded(&self, shape: &[Dim]) -> Option<Self> {
        let missing = shape.len().checked_sub(self.axes.len())?;
        let mut axes = vec![Vec::new(); missing];
        axes.extend(self.axes.iter().cloned());
        for (axis, length) in axes.iter_mut().zip(shape) {
            if axis.is_empty() {
                *axis = factors(length, &Dim::known(0));
            }
        }
        Some(Self { axes, ..self.clone() })
    }

    /// The same elements in another shape, where each axis still has steps.
    pub(crate) fn reshaped(&self, shape: &[Dim]) -> Option<Self> {
        let mut left: Vec<Factor> = Vec::new();
        for factor in self.axes.iter().flatten().rev() {
            match left.last_mut() {
                Some(inner) if factor.step == inner.step.clone() * inner.length.clone() => {
                    inner.length = inner.length.clone() * factor.length.clone();
                }
                _ => left.push(factor.clone()),
            }
        }
        // `left` has the outermost factor last.
        let axes: Option<Vec<_>> = shape.iter().map(|length| take(&mut left, length.clone())).collect();
        left.is_empty().then_some(Self { axes: axes?, ..self.clone() })
    }
}

/// One factor, or none for an axis of one element.
fn factors(length: &Dim, step: &Dim) -> Vec<Factor> {
    if length.is(1) { Vec::new() } else { vec![Factor::new(length, step.clone())] }
}

/// Takes factors that multiply to `need` off the outer end of `left`.
fn take(left: &mut Vec<Factor>, mut need: Dim) -> Option<Vec<Factor>> {
    let mut taken = Vec::new();
    while !need.is(1) {
        let factor = left.pop()?;
        if let Some(rest) = need.exact_div(&factor.length) {
            need = rest;
            taken.push(factor);
        } else {
            let inner = factor.length.exact_div(&need)?;
            taken.push(Factor::new(&need, factor.step.clone() * inner.clone()));
            left.push(Factor::new(&inner, factor.step));
            need = Dim::known(1);
        }
    }
    Some(taken)
}

/// The node and the operand whose elements it arranges as `value`, if that is all it does.
fn arranged<'a>(ctx: &Ctx<'a>, value: ValueId) -> Option<(&'a Node, ValueId)> {
    let node = ctx.graph.node(ctx.graph.producer(value)?);
    let known = matches!(node.op.name, "transpose" | "expand" | "split" | "slice") || node.op.traits.reshapes;
    let operand = node.inputs.first().copied().flatten()?;
    (known && ctx.graph.ty(operand).dtype == ctx.graph.ty(value).dtype).then_some((node, operand))
}

/// Cuts axes of several views, one list of factors each, at common places; `None` when they do not align.
///
/// The result has one row per common factor: its length and each view's step.
pub(crate) fn common(mut axes: Vec<Vec<Factor>>) -> Option<Vec<(Dim, Vec<Dim>)>> {
    let mut rows = Vec::new();
    axes.iter_mut().for_each(|axis| axis.reverse());
    while axes.iter().any(|axis| !axis.is_empty()) {
        let outer: Option<Vec<Dim>> = axes.iter().map(|axis| Some(axis.last()?.length.clone())).collect();
        let outer = outer?;
        let length = outer.iter().find(|l| outer.iter().all(|other| other.exact_div(l).is_some()))?.clone();
        let mut steps = Vec::new();
        for axis in &mut axes {
            let factor = axis.pop()?;
            let inner = factor.length.exact_div(&length)?;
            steps.push(factor.step.clone() * inner.clone());
            if !inner.is(1) {
                axis.push(Factor::new(&inner, factor.step));
            }
        }
        rows.push((length, steps));
    }
    Some(rows)
}
