//! Operators whose result's shape depends on data: exact where their operands are constants, else with sizes that
//! only a run can tell.

use crate::common::{
    TEXT, attr, axis_of, between, data_dependent, exactly, input, onnx, sample_of, tensor, type_error,
    work_move,
};
use crate::elements::take;
use crate::layout::by_tables;
use crate::samples::{any, list, number, shape_of_rank, values};
use crate::shapes::or_unknown;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, EvalFn, InferCtx, OpDef, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::{DType, Dim, Tensor};
use std::cmp::Ordering;

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&COMPRESS, &NON_ZERO, &UNIQUE];

/// Inference by evaluation, where all operands are constants.
fn infer_by(ctx: &InferCtx, eval: EvalFn) -> Result<Vec<Type>, Diag> {
    let mut tensors = Vec::with_capacity(ctx.inputs.len());
    for operand in ctx.inputs {
        tensors.push(match operand {
            None => None,
            Some(o) => Some(o.content.and_then(|c| c.as_const()).ok_or_else(data_dependent)?),
        });
    }
    let results = eval(&EvalCtx { attrs: ctx.attrs, inputs: &tensors, n_outputs: ctx.n_outputs })?;
    Ok(results.iter().map(|t| Type::known(t.dtype(), t.shape())).collect())
}

static COMPRESS: OpDef = OpDef {
    name: "compress",
    doc: "The slices of x along an axis, or the elements of x, for which the condition holds.",
    onnx: &[onnx("Compress", 9)],
    inputs: exactly(2),
    outputs: exactly(1),
    attrs: &[attr("axis", AttrKind::Int)],
    traits: TEXT,
    infer: |c| {
        or_unknown(infer_by(c, eval_compress), || {
            let x = input(c, 0).ok()?;
            let mut shape = vec![Dim::unknown(0, 0)];
            if let Some(axis) = c.attrs.int("axis") {
                let axis = axis_of(axis, x.rank()).ok()?;
                shape.clone_from(&x.shape);
                shape[axis] = Dim::unknown(0, axis);
            }
            Some(vec![Type::new(x.dtype, shape)])
        })
    },
    content: None,
    eval: eval_compress,
    scalar: None,
    data: None,
    work: work_move,
    sample: |rng| {
        let (dtype, shape) = (any(rng), shape_of_rank(rng, 1));
        let n: usize = shape.iter().product();
        let axis = rng.below(shape.len() + 1);
        let len = shape.get(axis).copied().unwrap_or(n);
        let mut sample = sample_of(vec![values(rng, dtype, &shape), values(rng, DType::Bool, &[len])]);
        if axis < shape.len() {
            sample.attrs.set("axis", axis as i64);
        }
        sample
    },
};

fn eval_compress(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (x, condition) = (tensor(ctx, 0)?, tensor(ctx, 1)?.to_bools());
    let kept: Vec<usize> = (0..condition.len()).filter(|&i| condition[i]).collect();
    let Some(axis) = ctx.attrs.int("axis") else {
        return Ok(vec![take(x, &[kept.len()], &kept)?]);
    };
    let axis = axis_of(axis, x.rank())?;
    if kept.last().is_some_and(|&k| k >= x.shape()[axis]) {
        return Err(type_error("the condition is longer than the axis"));
    }
    Ok(vec![by_tables(x, &tables(x, axis, &kept), &[])?])
}

/// Index tables that keep only `kept` along `axis`.
fn tables(x: &Tensor, axis: usize, kept: &[usize]) -> Vec<Vec<Option<usize>>> {
    let whole = |n: usize| (0..n).map(Some).collect::<Vec<_>>();
    let mut tables: Vec<Vec<Option<usize>>> = x.shape().iter().map(|&n| whole(n)).collect();
    tables[axis] = kept.iter().copied().map(Some).collect();
    tables
}

static NON_ZERO: OpDef = OpDef {
    name: "non_zero",
    doc: "Indices of the elements that are not zero, one row per axis.",
    onnx: &[onnx("NonZero", 9)],
    inputs: exactly(1),
    attrs: &[],
    infer: |c| {
        or_unknown(infer_by(c, eval_non_zero), || {
            let rank = input(c, 0).ok()?.rank();
            Some(vec![Type::new(DType::I64, [rank.into(), Dim::unknown(0, 1)])])
        })
    },
    eval: eval_non_zero,
    sample: |rng| {
        let (dtype, shape) = (any(rng), shape_of_rank(rng, 1));
        sample_of(vec![values(rng, dtype, &shape)])
    },
    ..COMPRESS
};

fn eval_non_zero(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let x = tensor(ctx, 0)?;
    let is_set: Vec<bool> = if x.dtype() == DType::Str {
        x.strings().into_iter().map(|s| !s.is_empty()).collect()
    } else {
        x.to_f64s().into_iter().map(|v| v != 0.0).collect()
    };
    let found: Vec<Vec<usize>> =
        crate::common::indices(x.shape()).zip(is_set).filter(|(_, set)| *set).map(|(i, _)| i).collect();
    let rows: Vec<i64> = (0..x.rank()).flat_map(|a| found.iter().map(move |i| i[a] as i64)).collect();
    Ok(vec![crate::common::from_i64s(DType::I64, &[x.rank(), found.len()], &rows)?])
}

static UNIQUE: OpDef = OpDef {
    name: "unique",
    doc: "Distinct elements (or slices), where each is first, which one each is, and how often it is.",
    onnx: &[onnx("Unique", 11)],
    inputs: exactly(1),
    outputs: between(1, 4),
    attrs: &[attr("axis", AttrKind::Int), attr("sorted", AttrKind::Int)],
    infer: |c| or_unknown(infer_by(c, eval_unique), || unique_types(c)),
    eval: eval_unique,
    sample: sample_unique,
    ..COMPRESS
};

/// Types when the number of distinct elements is not known.
fn unique_types(ctx: &InferCtx) -> Option<Vec<Type>> {
    let x = input(ctx, 0).ok()?;
    let mut shape = x.shape.clone();
    let (n_found, n_all) = match ctx.attrs.int("axis") {
        None => {
            shape = vec![Dim::unknown(0, 0)];
            (Dim::unknown(0, 0), x.n_elements())
        }
        Some(axis) => {
            let axis = axis_of(axis, x.rank()).ok()?;
            let size = std::mem::replace(&mut shape[axis], Dim::unknown(0, axis));
            (Dim::unknown(0, axis), size)
        }
    };
    let list = |n: &Dim| Type::new(DType::I64, [n.clone()]);
    let all = [Type::new(x.dtype, shape), list(&n_found), list(&n_all), list(&n_found)];
    Some(all.into_iter().take(ctx.n_outputs.max(1)).collect())
}

/// The slices along `axis` as lists of values, which compare as the slices do.
fn slices(x: &Tensor, axis: Option<usize>) -> Vec<Vec<f64>> {
    let values = x.to_f64s();
    let Some(axis) = axis else {
        return values.into_iter().map(|v| vec![v]).collect();
    };
    let mut out = vec![Vec::new(); x.shape()[axis]];
    for (index, v) in crate::common::indices(x.shape()).zip(values) {
        out[index[axis]].push(v);
    }
    out
}

/// Zeros of both signs are equal, and so are all that are not numbers, which come last.
fn compare(a: &[f64], b: &[f64]) -> Ordering {
    let one =
        |x: &f64, y: &f64| x.is_nan().cmp(&y.is_nan()).then(x.partial_cmp(y).unwrap_or(Ordering::Equal));
    a.iter().zip(b).map(|(x, y)| one(x, y)).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
}

fn eval_unique(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let x = tensor(ctx, 0)?;
    let axis = ctx.attrs.int("axis").map(|a| axis_of(a, x.rank())).transpose()?;
    let slices = slices(x, axis);
    // Positions in order of value; the first of equal ones comes first, as the sort is stable.
    let mut order: Vec<usize> = (0..slices.len()).collect();
    order.sort_by(|&a, &b| compare(&slices[a], &slices[b]));
    let mut firsts: Vec<usize> = Vec::new();
    let mut group_of = vec![0usize; slices.len()];
    for &at in &order {
        if firsts.last().is_none_or(|&f| compare(&slices[f], &slices[at]).is_ne()) {
            firsts.push(at);
        }
        group_of[at] = firsts[firsts.len() - 1];
    }
    if ctx.attrs.int_or("sorted", 1) == 0 {
        firsts.sort_unstable();
    }
    let inverse: Vec<i64> =
        group_of.iter().map(|g| firsts.iter().position(|f| f == g).unwrap_or(0) as i64).collect();
    let counts: Vec<i64> =
        (0..firsts.len() as i64).map(|n| inverse.iter().filter(|&&i| i == n).count() as i64).collect();
    let starts: Vec<i64> = firsts.iter().map(|&f| f as i64).collect();
    let values = match axis {
        None => take(x, &[firsts.len()], &firsts)?,
        Some(axis) => by_tables(x, &tables(x, axis, &firsts), &[])?,
    };
    let all = vec![values, list(&starts), list(&inverse), list(&counts)];
    Ok(all.into_iter().take(ctx.n_outputs.max(1)).collect())
}

fn sample_unique(rng: &mut Rng) -> Sample {
    let (dtype, shape) = (number(rng), shape_of_rank(rng, 1));
    let small = rng.tensor(dtype, &shape, 0.0, 2.0);
    let rounded: Vec<f64> = small.to_f64s().iter().map(|v| v.round()).collect();
    let x = Tensor::from_f64s(dtype, &shape, &rounded).unwrap_or(small);
    let mut sample = Sample { n_outputs: 1 + rng.below(4), ..sample_of(vec![x]) };
    sample.attrs.set("sorted", rng.int(0, 1));
    if rng.below(2) == 0 {
        sample.attrs.set("axis", rng.below(shape.len()) as i64);
    }
    sample
}
