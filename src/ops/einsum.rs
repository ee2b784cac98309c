//! Einstein summation: products of tensors with named axes, summed over the names the result lacks.

use crate::common::{
    PLAIN, at_least, attr_error, exactly, from_f64s, from_i64s, indices, input, onnx, required, strides,
    type_error, unsupported, work,
};
use crate::eval::{MAX_EVAL_ELEMENTS, may_equal, result, same_dtypes};
use crate::matmul::Number;
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};
use std::collections::BTreeMap;

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&EINSUM];

/// Most multiplications an evaluation makes.
const MAX_STEPS: usize = MAX_EVAL_ELEMENTS;

/// Einstein summation.
static EINSUM: OpDef = OpDef {
    name: "einsum",
    doc: "products of the operands with axes named by `equation`, summed over names the result lacks",
    onnx: &[onnx("Einsum", 12)],
    inputs: at_least(1),
    outputs: exactly(1),
    attrs: &[required("equation", AttrKind::Str)],
    traits: PLAIN,
    infer: infer_einsum,
    content: None,
    eval: eval_einsum,
    scalar: None,
    data: None,
    work: work_einsum,
    sample: sample_einsum,
};

/// Name of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    /// An axis the ellipsis stands for, counted from its right end.
    Dots(usize),
    Letter(char),
}

/// The names of every operand's axes and of the result's.
#[derive(Clone, Debug)]
struct Equation {
    operands: Vec<Vec<Label>>,
    result: Vec<Label>,
}

fn bad(equation: &str, why: &str) -> Diag {
    attr_error(format!("equation {equation:?}: {why}"))
}

/// The labels of one term; `n_dots` axes stand for the ellipsis.
fn labels(equation: &str, term: &str, n_dots: usize) -> Result<Vec<Label>, Diag> {
    let (before, after) = term.split_once("...").map_or((term, None), |(b, a)| (b, Some(a)));
    let mut out: Vec<Label> = before.chars().map(Label::Letter).collect();
    if let Some(after) = after {
        out.extend((0..n_dots).rev().map(Label::Dots));
        out.extend(after.chars().map(Label::Letter));
    }
    match out.iter().find(|l| matches!(l, Label::Letter(c) if !c.is_ascii_alphabetic())) {
        Some(_) => Err(bad(equation, "axes are named by letters, with one ellipsis per term")),
        None => Ok(out),
    }
}

impl Equation {
    /// The equation for operands of the given ranks.
    fn read(attrs: &Attrs, ranks: &[usize]) -> Result<Self, Diag> {
        let text = attrs.str("equation").ok_or_else(|| attr_error("equation is missing"))?;
        let compact: String = text.chars().filter(|c| *c != ' ').collect();
        let (left, right) = compact.split_once("->").map_or((compact.as_str(), None), |(l, r)| (l, Some(r)));
        let terms: Vec<&str> = left.split(',').collect();
        if terms.len() != ranks.len() {
            return Err(bad(text, &format!("{} operands are given", ranks.len())));
        }
        let mut operands = Vec::new();
        for (term, &rank) in terms.iter().zip(ranks) {
            let n_letters = term.chars().filter(char::is_ascii_alphabetic).count();
            let term = labels(text, term, rank.saturating_sub(n_letters))?;
            if term.len() != rank {
                return Err(bad(text, &format!("an operand has {rank} dimensions")));
            }
            operands.push(term);
        }
        let n_dots = operands.iter().map(|o| o.iter().filter(|l| matches!(l, Label::Dots(_))).count()).max();
        let result = match right {
            Some(right) => labels(text, right, n_dots.unwrap_or(0))?,
            None => implicit(&operands, n_dots.unwrap_or(0)),
        };
        let known = |l: &Label| operands.iter().flatten().any(|o| o == l);
        let repeated = result.iter().enumerate().any(|(i, l)| result[..i].contains(l));
        if repeated || !result.iter().all(known) {
            return Err(bad(text, "the result names an axis twice, or one that no operand has"));
        }
        Ok(Self { operands, result })
    }

    /// All labels: the result's first, then those summed over.
    fn order(&self) -> Vec<Label> {
        let mut out = self.result.clone();
        for label in self.operands.iter().flatten() {
            if !out.contains(label) {
                out.push(*label);
            }
        }
        out
    }

    /// The size of each label; 1 gives way to anything else.
    fn sizes(&self, shapes: &[&[Dim]]) -> Result<BTreeMap<Label, Dim>, Diag> {
        let mut sizes: BTreeMap<Label, Dim> = BTreeMap::new();
        for (label, dim) in self.operands.iter().zip(shapes).flat_map(|(o, s)| o.iter().zip(*s)) {
            let slot = sizes.entry(*label).or_insert_with(|| dim.clone());
            if slot.is(1) || (slot.as_known().is_none() && dim.as_known().is_some_and(|d| d != 1)) {
                *slot = dim.clone();
            } else if !dim.is(1) && !may_equal(slot, dim) {
                return Err(type_error(format!("axes of one name have sizes {slot} and {dim}")));
            }
        }
        Ok(sizes)
    }
}

/// Without `->`: the ellipsis, then letters that occur once, sorted.
fn implicit(operands: &[Vec<Label>], n_dots: usize) -> Vec<Label> {
    let mut counts: BTreeMap<Label, usize> = BTreeMap::new();
    for label in operands.iter().flatten().filter(|l| matches!(l, Label::Letter(_))) {
        *counts.entry(*label).or_default() += 1;
    }
    let once = counts.into_iter().filter(|(_, n)| *n == 1).map(|(l, _)| l);
    (0..n_dots).rev().map(Label::Dots).chain(once).collect()
}

fn infer_einsum(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let types: Vec<&Type> = (0..ctx.inputs.len()).map(|n| input(ctx, n)).collect::<Result<_, _>>()?;
    let dtype = same_dtypes(ctx, 0..ctx.inputs.len())?;
    let ranks: Vec<usize> = types.iter().map(|t| t.rank()).collect();
    let equation = Equation::read(ctx.attrs, &ranks)?;
    let shapes: Vec<&[Dim]> = types.iter().map(|t| t.shape.as_slice()).collect();
    let sizes = equation.sizes(&shapes)?;
    let shape: Vec<Dim> = equation.result.iter().filter_map(|l| sizes.get(l).cloned()).collect();
    Ok(vec![Type::new(dtype, shape)])
}

/// Sizes of all labels in `order`, for concrete shapes.
fn concrete(equation: &Equation, shapes: &[&[usize]]) -> Result<Vec<usize>, Diag> {
    let dims: Vec<Vec<Dim>> = shapes.iter().map(|s| s.iter().map(|&d| d.into()).collect()).collect();
    let sizes = equation.sizes(&dims.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
    let size = |l: &Label| sizes.get(l).and_then(Dim::as_known).and_then(|d| usize::try_from(d).ok());
    Ok(equation.order().iter().map(|l| size(l).unwrap_or(0)).collect())
}

/// For each label of `order` how far one step moves in an operand; 0 where the operand lacks it or has size 1.
fn steps(order: &[Label], labels: &[Label], shape: &[usize]) -> Vec<usize> {
    let strides = strides(shape);
    let step = |l: &Label| {
        let axes = labels.iter().zip(shape).zip(&strides);
        axes.filter(|((label, dim), _)| *label == l && **dim != 1).map(|(_, s)| s).sum()
    };
    order.iter().map(step).collect()
}

fn eval_einsum(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_einsum)?;
    let tensors: Vec<&Tensor> = ctx.inputs.iter().copied().flatten().collect();
    let shapes: Vec<&[usize]> = tensors.iter().map(|t| t.shape()).collect();
    let equation = Equation::read(ctx.attrs, &shapes.iter().map(|s| s.len()).collect::<Vec<_>>())?;
    let sizes = concrete(&equation, &shapes)?;
    if sizes.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).is_none_or(|n| n > MAX_STEPS) {
        return Err(unsupported("the summation takes too many steps")
            .hint(format!("at most {MAX_STEPS} products are added; split the equation")));
    }
    let order = equation.order();
    let steps: Vec<Vec<usize>> =
        equation.operands.iter().zip(&shapes).map(|(labels, shape)| steps(&order, labels, shape)).collect();
    let (outer, inner) = sizes.split_at(equation.result.len());
    let y = if dtype.is_float() {
        let values: Vec<Vec<f64>> = tensors.iter().map(|t| t.to_f64s()).collect();
        from_f64s(dtype, &shape, &summed(&values, &steps, outer, inner))
    } else {
        let values: Vec<Vec<i64>> = tensors.iter().map(|t| t.to_i64s()).collect();
        from_i64s(dtype, &shape, &summed(&values, &steps, outer, inner))
    };
    Ok(vec![y?])
}

fn summed<T: Number>(values: &[Vec<T>], steps: &[Vec<usize>], outer: &[usize], inner: &[usize]) -> Vec<T> {
    let offset = |steps: &[usize], at: &[usize]| steps.iter().zip(at).map(|(s, i)| s * i).sum::<usize>();
    let element = |at: Vec<usize>| {
        let bases: Vec<usize> = steps.iter().map(|s| offset(s, &at)).collect();
        indices(inner).fold(T::ZERO, |sum, k| {
            let factors = values.iter().zip(steps).zip(&bases);
            let product =
                factors.fold(T::ONE, |p, ((v, s), b)| T::ZERO.mul_add(p, v[b + offset(&s[at.len()..], &k)]));
            sum.mul_add(product, T::ONE)
        })
    };
    indices(outer).map(element).collect()
}

/// One multiplication per operand and step.
fn work_einsum(ctx: &WorkCtx) -> Work {
    let shapes: Vec<&[usize]> = ctx.inputs.iter().flatten().map(|(_, s)| s.as_slice()).collect();
    let ranks: Vec<usize> = shapes.iter().map(|s| s.len()).collect();
    let sizes = Equation::read(ctx.attrs, &ranks).and_then(|e| concrete(&e, &shapes)).unwrap_or_default();
    let n_steps: f64 = sizes.iter().map(|&d| d as f64).product();
    work(ctx, n_steps * shapes.len() as f64, WorkKind::Dense)
}

fn sample_einsum(rng: &mut Rng) -> Sample {
    let equation = *rng.pick(&[
        "ij,jk->ik",
        "bij, bjk -> bik",
        "bhqd,bhkd->bhqk",
        "i,i->",
        "ii->i",
        "ij->ji",
        "ij,kl->ijkl",
        "bij,bj->bi",
        "ij,jk",
        "...ij,...jk->...ik",
        "ab,bc,cd->ad",
        "bsd,dhk->bhsk",
    ]);
    let sizes: Vec<usize> = (0..26).map(|_| 1 + rng.below(3)).collect();
    let left: String = equation.split("->").take(1).collect::<String>().replace(' ', "");
    let inputs = left.split(',').map(|term| {
        let mut shape = if term.starts_with("...") { vec![2, 3] } else { vec![] };
        shape.extend(term.bytes().filter(u8::is_ascii_alphabetic).map(|c| sizes[usize::from(c - b'a')]));
        Some(rng.tensor(DType::F32, &shape, -2.0, 2.0))
    });
    let inputs: Vec<Option<Tensor>> = inputs.collect();
    Sample { attrs: Attrs::new().with("equation", equation), inputs, n_outputs: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_equations_are_refused() {
        for text in
            ["ij,jk->iq", "ij->ij->i", "i.j,jk->ik", "ij", "ijk,jk", "ij,jk->ii", ",", "->", "......,jk"]
        {
            let attrs = Attrs::new().with("equation", text);
            assert_eq!(Equation::read(&attrs, &[2, 2]).unwrap_err().code, "V021", "{text}");
        }
    }

    #[test]
    fn implicit_results_are_sorted() {
        let attrs = Attrs::new().with("equation", "ba,ac");
        let equation = Equation::read(&attrs, &[2, 2]).unwrap();
        assert_eq!(equation.result, [Label::Letter('b'), Label::Letter('c')]);
    }
}
