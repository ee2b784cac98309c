//! Where the largest elements are: `arg_max`, `arg_min` and `top_k`.

use crate::common::{
    PLAIN, attr, attr_error, axis_of, between, dims_of, exactly, from_i64s, input, ints_of, onnx, operand,
    sample_shape, tensor, type_error, work,
};
use crate::eval::{Lines, result, results, to_i128s};
use crate::reduce::reduced;
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{
    AttrDef, AttrKind, EvalCtx, EvalFn, InferCtx, OnnxName, OpDef, Rng, Sample, SampleFn, WorkCtx,
};
use partita_ir::tensor::n_elements;
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{Bytes, DType, Dim, Tensor};
use std::cmp::Ordering;

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&ARG_MAX, &ARG_MIN, &TOP_K];

const ARG_ATTRS: &[AttrDef] =
    &[attr("axis", AttrKind::Int), attr("keepdims", AttrKind::Int), attr("select_last_index", AttrKind::Int)];

static ARG_MAX: OpDef =
    arg_row("arg_max", "index of the maximum along `axis`", &[onnx("ArgMax", 12)], |ctx| arg(ctx, true));
static ARG_MIN: OpDef =
    arg_row("arg_min", "index of the minimum along `axis`", &[onnx("ArgMin", 12)], |ctx| arg(ctx, false));

const fn arg_row(name: &'static str, doc: &'static str, onnx: &'static [OnnxName], eval: EvalFn) -> OpDef {
    OpDef {
        name,
        doc,
        onnx,
        inputs: exactly(1),
        outputs: exactly(1),
        attrs: ARG_ATTRS,
        traits: PLAIN,
        infer: infer_arg,
        content: None,
        eval,
        scalar: None,
        data: None,
        work: work_arg,
        sample: sample_arg as SampleFn,
    }
}

/// The k largest.
static TOP_K: OpDef = OpDef {
    name: "top_k",
    doc: "the k largest (smallest) elements along `axis` in order, and their indices; ties: lower index first",
    onnx: &[onnx("TopK", 11)],
    inputs: between(1, 2),
    outputs: between(1, 2),
    attrs: &[
        attr("axis", AttrKind::Int),
        operand("k", AttrKind::Dims, 1),
        attr("largest", AttrKind::Int),
        attr("sorted", AttrKind::Int),
    ],
    traits: PLAIN,
    infer: infer_top_k,
    content: None,
    eval: eval_top_k,
    scalar: None,
    data: None,
    work: work_top_k,
    sample: sample_top_k,
};

fn infer_arg(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    let axis = axis_of(ctx.attrs.int_or("axis", 0), x.rank())?;
    if x.shape[axis].is(0) {
        return Err(type_error("the axis is empty, it has no extreme element"));
    }
    Ok(vec![Type::new(DType::I64, reduced(&x.shape, &[axis], ctx.attrs.int_or("keepdims", 1) != 0))])
}

/// How elements of a tensor compare, by position; NaN is above everything.
fn ordering(t: &Tensor) -> Box<dyn Fn(usize, usize) -> Ordering> {
    if t.dtype().is_float() {
        let v = t.to_f64s();
        Box::new(move |a, b| {
            let by_value = v[a].partial_cmp(&v[b]).unwrap_or(Ordering::Equal);
            v[a].is_nan().cmp(&v[b].is_nan()).then(by_value)
        })
    } else {
        let v = to_i128s(t);
        Box::new(move |a, b| v[a].cmp(&v[b]))
    }
}

fn arg(ctx: &EvalCtx, max: bool) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_arg)?;
    let x = tensor(ctx, 0)?;
    let axis = axis_of(ctx.attrs.int_or("axis", 0), x.rank())?;
    let lines = Lines::new(x.shape(), axis, axis + 1);
    let (compare, last) = (ordering(x), ctx.attrs.flag("select_last_index"));
    let nan: Vec<bool> =
        if x.dtype().is_float() { x.to_f64s().iter().map(|v| v.is_nan()).collect() } else { Vec::new() };
    // What is not a number is the extreme of both.
    let not_number = |i: usize| nan.get(i).copied().unwrap_or(false);
    let best = if max { Ordering::Greater } else { Ordering::Less };
    let pick = |n: usize| {
        let line: Vec<usize> = lines.line(n).collect();
        let wins = |i: usize, j: usize| {
            let (i, j) = (line[i], line[j]);
            if not_number(i) || not_number(j) {
                return not_number(i) && (last || !not_number(j));
            }
            let order = compare(i, j);
            order == best || (last && order == Ordering::Equal)
        };
        (1..line.len()).fold(0, |j, i| if wins(i, j) { i } else { j }) as i64
    };
    let y: Vec<i64> = (0..lines.count()).map(pick).collect();
    Ok(vec![from_i64s(dtype, &shape, &y)?])
}

fn infer_top_k(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    let axis = axis_of(ctx.attrs.int_or("axis", -1), x.rank())?;
    let k = dims_of(ctx, "k", 1).and_then(|k| k.into_iter().next()).unwrap_or_else(|| Dim::unknown(0, axis));
    if k.as_known().is_some_and(|k| k < 0 || x.shape[axis].as_known().is_some_and(|d| k > d)) {
        return Err(attr_error(format!("k is {k}, the axis has {} elements", x.shape[axis])));
    }
    let mut shape = x.shape.clone();
    shape[axis] = k;
    let mut types = vec![Type::new(x.dtype, shape.clone()), Type::new(DType::I64, shape)];
    types.truncate(ctx.n_outputs.max(1));
    Ok(types)
}

fn eval_top_k(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let types = results(ctx, infer_top_k)?;
    let (dtype, shape) = &types[0];
    let x = tensor(ctx, 0)?;
    let axis = axis_of(ctx.attrs.int_or("axis", -1), x.rank())?;
    let k = ints_of(ctx, "k", 1).and_then(|k| k.first().copied()).unwrap_or(0);
    let (lines, out) = (Lines::new(x.shape(), axis, axis + 1), Lines::new(shape, axis, axis + 1));
    let (compare, largest) = (ordering(x), ctx.attrs.int_or("largest", 1) != 0);
    let size = dtype.size_bytes();
    let n = out.count() * out.len;
    let (mut bytes, mut places) = (vec![0; n * size], vec![0i64; n]);
    for line_idx in 0..lines.count() {
        let line: Vec<usize> = lines.line(line_idx).collect();
        let mut order: Vec<usize> = (0..line.len()).collect();
        // A stable sort: equal elements stay in index order.
        order.sort_by(|&a, &b| {
            let order = compare(line[a], line[b]);
            if largest { order.reverse() } else { order }
        });
        for (slot, &i) in out.line(line_idx).zip(order.iter().take(k as usize)) {
            bytes[slot * size..(slot + 1) * size].copy_from_slice(&x.bytes()[line[i] * size..][..size]);
            places[slot] = i as i64;
        }
    }
    let values = Tensor::new(*dtype, shape, Bytes::from_vec(bytes));
    let values = values.ok_or_else(|| attr_error("the result does not fit its shape"))?;
    let mut results = vec![values, from_i64s(DType::I64, shape, &places)?];
    results.truncate(ctx.n_outputs.max(1));
    Ok(results)
}

fn n_in(ctx: &WorkCtx) -> f64 {
    ctx.inputs.first().and_then(Option::as_ref).and_then(|(_, s)| n_elements(s)).unwrap_or(0) as f64
}

/// One comparison per element.
fn work_arg(ctx: &WorkCtx) -> Work {
    work(ctx, n_in(ctx), WorkKind::Vector)
}

/// Comparisons of a heap of k elements.
fn work_top_k(ctx: &WorkCtx) -> Work {
    let shape = ctx.outputs.first().map_or(&[][..], |(_, s)| s.as_slice());
    let k = axis_of(ctx.attrs.int_or("axis", -1), shape.len()).map_or(1, |axis| shape[axis]);
    work(ctx, n_in(ctx) * libm::log2(2.0 + k as f64), WorkKind::Vector)
}

fn sample_input(rng: &mut Rng) -> (Tensor, Attrs) {
    let rank = 1 + rng.below(4);
    let shape = sample_shape(rng, rank);
    let dtype = *rng.pick(&[DType::F32, DType::F32, DType::I32, DType::I64, DType::U8]);
    let mut attrs = Attrs::new();
    if rng.below(3) > 0 {
        attrs.set("axis", rng.int(-(rank as i64), rank as i64 - 1));
    }
    (rng.tensor(dtype, &shape, 0.0, 3.0), attrs)
}

fn sample_arg(rng: &mut Rng) -> Sample {
    let (x, attrs) = sample_input(rng);
    let attrs = attrs.with("keepdims", rng.int(0, 1)).with("select_last_index", rng.int(0, 1));
    Sample { attrs, inputs: vec![Some(x)], n_outputs: 1 }
}

fn sample_top_k(rng: &mut Rng) -> Sample {
    let (x, attrs) = sample_input(rng);
    let axis = attrs.int_or("axis", -1).rem_euclid(x.rank() as i64) as usize;
    let k = rng.int(1, x.shape()[axis] as i64);
    let mut attrs = attrs.with("largest", rng.int(0, 1));
    let mut inputs = vec![Some(x)];
    if rng.below(2) == 0 {
        attrs.set("k", vec![k]);
    } else {
        inputs.push(Tensor::from_slice(&[1], &[k]));
    }
    Sample { attrs, inputs, n_outputs: 1 + rng.below(2) }
}
