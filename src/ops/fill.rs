//! Operators that make tensors out of sizes and ranges, and running sums.

use crate::common::{
    PLAIN, attr, attr_error, axis_of, between, data_dependent, exactly, from_f64s, input, ints_of, onnx,
    operand, sample_of, sample_shape, tensor, type_error, work_elementwise, work_move,
};
use crate::content;
use crate::elements::{from_bytes, from_ints, ints};
use crate::samples::{list, number, shape_of_rank, values};
use crate::shapes::{integers, list_len, or_unknown, result_shape, sizes, unknown_shape};
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::Work;
use partita_ir::{Attrs, DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&CONSTANT_OF_SHAPE, &CUM_PROD, &CUM_SUM, &EYE_LIKE, &ONE_HOT, &RANGE];

/// Work: writes the results' bytes.
fn work_fill(ctx: &WorkCtx) -> Work {
    Work { read_bytes: 0.0, ..work_move(ctx) }
}

static CONSTANT_OF_SHAPE: OpDef = OpDef {
    name: "constant_of_shape",
    doc: "A tensor of the given shape filled with one value, 0.0 unless said.",
    onnx: &[onnx("ConstantOfShape", 9)],
    inputs: between(0, 1),
    outputs: exactly(1),
    attrs: &[operand("shape", AttrKind::Dims, 0), attr("value", AttrKind::Tensor)],
    traits: PLAIN,
    infer: infer_constant,
    content: Some(|c| {
        let ty = infer_constant(c).ok()?.remove(0);
        let value = fill_value(c.attrs).to_i64s().first().map(|&v| Dim::known(v))?;
        crate::reshape::repeat_list(&ty, vec![value])
    }),
    eval: |c| {
        let (shape, value) = (result_shape(c, infer_constant)?, fill_value(c.attrs));
        let n = partita_ir::tensor::n_elements(&shape).ok_or_else(|| type_error("the shape is too large"))?;
        Ok(vec![from_bytes(value.dtype(), &shape, value.bytes().repeat(n))?])
    },
    scalar: None,
    data: None,
    work: work_fill,
    sample: |rng| {
        let rank = rng.below(4);
        let shape: Vec<i64> = sample_shape(rng, rank).iter().map(|&d| d as i64).collect();
        let mut sample = sample_of(vec![]);
        if rng.below(2) == 0 {
            sample.attrs.set("shape", shape);
        } else {
            sample.inputs.push(Some(list(&shape)));
        }
        if rng.below(3) > 0 {
            let dtype = number(rng);
            sample.attrs.set("value", values(rng, dtype, &[1]));
        }
        sample
    },
};

fn fill_value(attrs: &Attrs) -> Tensor {
    attrs.tensor("value").cloned().unwrap_or_else(|| Tensor::scalar(0.0f32))
}

fn infer_constant(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let value = fill_value(ctx.attrs);
    if value.n_elements() != 1 {
        return Err(attr_error(format!("value has {} elements, one is wanted", value.n_elements())));
    }
    let shape = match sizes(ctx, "shape", 0) {
        Ok(shape) => shape,
        Err(diag) => unknown_shape(0, list_len(ctx, 0).ok_or(diag)?),
    };
    if let Some(dim) = shape.iter().find(|d| d.as_known().is_some_and(|d| d < 0)) {
        return Err(attr_error(format!("a size of the shape is {dim}")));
    }
    Ok(vec![Type::new(value.dtype(), shape)])
}

static RANGE: OpDef = OpDef {
    name: "range",
    doc: "start, start + delta, ... before limit.",
    onnx: &[onnx("Range", 11)],
    inputs: exactly(3),
    attrs: &[],
    infer: infer_range,
    content: Some(content_range),
    eval: eval_range,
    data: None,
    work: work_fill,
    sample: |rng| {
        let dtype = *rng.pick(&[DType::I64, DType::I64, DType::F32, DType::I32]);
        let delta = *rng.pick(&[1, 2, 3, -1, -2]);
        let given = [rng.int(-4, 4), rng.int(-6, 9), delta];
        sample_of(given.iter().filter_map(|&v| Tensor::from_i64s(dtype, &[], &[v])).collect())
    },
    ..CONSTANT_OF_SHAPE
};

fn infer_range(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    or_unknown(exact_range(ctx), || crate::shapes::unknown_type(ctx, 1))
}

fn exact_range(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let dtype = crate::scalar::same_dtypes(ctx)?;
    for n in 0..3 {
        let ty = input(ctx, n)?;
        if ty.rank() > 1 || ty.shape.first().is_some_and(|d| d.as_known().is_some_and(|d| d != 1)) {
            return Err(type_error(format!("operand {n} is {ty}, a scalar is wanted")));
        }
    }
    let len = if dtype.is_float() { Dim::from(float_len(ctx)?) } else { int_len(ctx)? };
    Ok(vec![Type::new(dtype, [len])])
}

/// Length of an integer range; the ends may hold symbols.
fn int_len(ctx: &InferCtx) -> Result<Dim, Diag> {
    let all: Option<Vec<Dim>> = (0..3).map(|n| content::dim(ctx, n)).collect();
    let all = all.ok_or_else(data_dependent)?;
    let (start, limit, step) = (all[0].clone(), all[1].clone(), all[2].clone());
    let step = step.as_known().ok_or_else(data_dependent)?;
    if step == 0 {
        return Err(type_error("the step of the range is 0"));
    }
    let span = if step > 0 { limit - start } else { start - limit };
    let by = i64::try_from(step.unsigned_abs()).unwrap_or(i64::MAX);
    Ok(span.ceil_div(&Dim::known(by)).larger(&Dim::known(0)))
}

/// Length of a float range, which must be known.
fn float_len(ctx: &InferCtx) -> Result<usize, Diag> {
    let known = |n: usize| ctx.inputs[n].and_then(|o| o.content?.as_const()?.to_scalar_f64());
    let (Some(start), Some(limit), Some(step)) = (known(0), known(1), known(2)) else {
        return Err(data_dependent());
    };
    let len = ((limit - start) / step).ceil();
    if !len.is_finite() {
        return Err(type_error("the range has no end"));
    }
    Ok(len.max(0.0) as usize)
}

fn content_range(ctx: &InferCtx) -> Option<Vec<Dim>> {
    let ty = infer_range(ctx).ok()?.remove(0);
    if !content::holds_sizes(ty.dtype) {
        return None;
    }
    let (start, step) = (content::dim(ctx, 0)?, content::dim(ctx, 2)?);
    let n = ty.shape[0].as_known().filter(|&n| n <= 64)?;
    Some((0..n).map(|i| start.clone() + step.clone() * Dim::known(i)).collect())
}

fn eval_range(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let shape = result_shape(ctx, infer_range)?;
    let (start, step) = (tensor(ctx, 0)?, tensor(ctx, 2)?);
    if start.dtype().is_float() {
        let (a, d) = (start.to_scalar_f64().unwrap_or(0.0), step.to_scalar_f64().unwrap_or(0.0));
        let all: Vec<f64> = (0..shape[0]).map(|i| a + d * i as f64).collect();
        return Ok(vec![from_f64s(start.dtype(), &shape, &all)?]);
    }
    let (a, d) = (ints(start)[0], ints(step)[0]);
    let all: Vec<i128> = (0..shape[0]).map(|i| a + d * i as i128).collect();
    Ok(vec![from_ints(start.dtype(), &shape, &all)?])
}

static EYE_LIKE: OpDef = OpDef {
    name: "eye_like",
    doc: "Ones on diagonal k, zeros elsewhere, in the shape of the operand.",
    onnx: &[onnx("EyeLike", 9)],
    inputs: exactly(1),
    attrs: &[attr("dtype", AttrKind::DType), attr("k", AttrKind::Int)],
    infer: |c| {
        let x = input(c, 0)?;
        if x.rank() != 2 {
            return Err(type_error(format!("the operand is {x}, a matrix is wanted")));
        }
        Ok(vec![Type::new(c.attrs.dtype("dtype").unwrap_or(x.dtype), x.shape.clone())])
    },
    content: None,
    eval: |c| {
        let x = tensor(c, 0)?;
        let (dtype, k) = (c.attrs.dtype("dtype").unwrap_or(x.dtype()), c.attrs.int_or("k", 0));
        let on = |i: Vec<usize>| i64::from(i[1] as i64 - i[0] as i64 == k);
        let all: Vec<i64> = crate::common::indices(x.shape()).map(on).collect();
        Ok(vec![crate::common::from_i64s(dtype, x.shape(), &all)?])
    },
    data: None,
    work: work_fill,
    sample: |rng| {
        let (dtype, shape) = (number(rng), sample_shape(rng, 2));
        let mut sample = sample_of(vec![values(rng, dtype, &shape)]);
        sample.attrs.set("k", rng.int(-2, 2));
        if rng.below(2) == 0 {
            let to = number(rng);
            sample.attrs.set("dtype", to);
        }
        sample
    },
    ..CONSTANT_OF_SHAPE
};

static ONE_HOT: OpDef = OpDef {
    name: "one_hot",
    traits: crate::common::TEXT,
    doc: "A new axis of `depth` elements: values[1] at the index, values[0] elsewhere.",
    onnx: &[onnx("OneHot", 11)],
    inputs: between(1, 3),
    attrs: &[attr("axis", AttrKind::Int), operand("depth", AttrKind::Dims, 1)],
    infer: infer_one_hot,
    content: None,
    eval: eval_one_hot,
    data: None,
    work: work_fill,
    sample: |rng| {
        let rank = rng.below(3);
        let (dtype, shape, depth) = (number(rng), sample_shape(rng, rank), 1 + rng.below(4));
        let indices = rng.tensor(DType::I64, &shape, -(depth as f64), depth as f64);
        let mut sample = sample_of(vec![indices]);
        if rng.below(2) == 0 {
            sample.attrs.set("depth", vec![depth as i64]);
            sample.inputs.push(None);
        } else {
            sample.inputs.push(Some(Tensor::scalar(depth as i64)));
        }
        sample.inputs.push(Some(values(rng, dtype, &[2])));
        sample.attrs.set("axis", rng.int(-(rank as i64) - 1, rank as i64));
        sample
    },
    ..CONSTANT_OF_SHAPE
};

fn depth_of(ctx: &InferCtx) -> Result<Dim, Diag> {
    // The depth may be a float tensor.
    let float = ctx.inputs.get(1).copied().flatten().and_then(|o| o.content?.as_const()?.to_scalar_f64());
    match (ctx.attrs.dims("depth"), float) {
        (Some(dims), _) => dims.into_iter().next().ok_or_else(data_dependent),
        (None, Some(v)) => Ok(Dim::known(v as i64)),
        (None, None) => Ok(content::dim(ctx, 1).unwrap_or_else(|| Dim::unknown(0, 0))),
    }
}

fn infer_one_hot(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (indices, values) = (input(ctx, 0)?, input(ctx, 2)?);
    let axis = axis_of(ctx.attrs.int_or("axis", -1), indices.rank() + 1)?;
    let mut shape = indices.shape.clone();
    shape.insert(axis, depth_of(ctx)?);
    Ok(vec![Type::new(values.dtype, shape)])
}

fn eval_one_hot(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let shape = result_shape(ctx, infer_one_hot)?;
    let (indices, values) = (tensor(ctx, 0)?, tensor(ctx, 2)?);
    let axis = axis_of(ctx.attrs.int_or("axis", -1), indices.rank() + 1)?;
    let (depth, inner) = (shape[axis] as i64, shape[axis + 1..].iter().product::<usize>());
    let size = values.dtype().size_bytes();
    let (off, on) = values.bytes().split_at(size.min(values.bytes().len()));
    let rows = indices.to_i64s();
    let outer: usize = shape[..axis].iter().product();
    let mut bytes = Vec::new();
    for o in 0..outer {
        for d in 0..depth {
            for i in 0..inner {
                let row = rows[o * inner + i];
                let is_on = row == d || row.saturating_add(depth) == d;
                bytes.extend_from_slice(if is_on { on } else { off });
            }
        }
    }
    Ok(vec![from_bytes(values.dtype(), &shape, bytes)?])
}

static CUM_SUM: OpDef = OpDef {
    name: "cum_sum",
    doc: "Running sums along an axis; exclusive of the element itself, or from the end, if asked.",
    onnx: &[onnx("CumSum", 11)],
    inputs: between(1, 2),
    attrs: &[
        operand("axis", AttrKind::Int, 1),
        attr("exclusive", AttrKind::Int),
        attr("reverse", AttrKind::Int),
    ],
    infer: infer_cum_sum,
    content: None,
    eval: |c| eval_scan(c, (0.0, 0), |a, b| a + b, i128::wrapping_add),
    data: None,
    work: work_elementwise,
    sample: sample_cum_sum,
    ..CONSTANT_OF_SHAPE
};

static CUM_PROD: OpDef = OpDef {
    name: "cum_prod",
    doc: "Running products along an axis; exclusive of the element itself, or from the end, if asked.",
    onnx: &[onnx("CumProd", 26)],
    eval: |c| eval_scan(c, (1.0, 1), |a, b| a * b, i128::wrapping_mul),
    ..CUM_SUM
};

fn infer_cum_sum(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = crate::scalar::infer_number(ctx)?;
    // An axis that is only known at run time does not change the type.
    if let Ok(Some(axis)) = integers(ctx, "axis", 1) {
        axis_of(axis.first().copied().unwrap_or(0), x[0].rank())?;
    }
    Ok(x)
}

/// Running results of `f` or `g`, which start with `start`.
fn eval_scan(
    ctx: &EvalCtx,
    start: (f64, i128),
    f: impl Fn(f64, f64) -> f64,
    g: impl Fn(i128, i128) -> i128,
) -> Result<Vec<Tensor>, Diag> {
    let x = tensor(ctx, 0)?;
    let axis = ints_of(ctx, "axis", 1).and_then(|a| a.first().copied()).unwrap_or(0);
    let axis = axis_of(axis, x.rank())?;
    let lanes = (x.shape()[axis], x.shape()[axis + 1..].iter().product());
    let (exclusive, reverse) = (ctx.attrs.flag("exclusive"), ctx.attrs.flag("reverse"));
    let lanes_of: Vec<Vec<usize>> =
        scan_order(x.n_elements(), lanes, reverse).chunks(lanes.0.max(1)).map(<[usize]>::to_vec).collect();
    if x.dtype().is_float() {
        let results = scan(&x.to_f64s(), &lanes_of, exclusive, start.0, f);
        return Ok(vec![from_f64s(x.dtype(), x.shape(), &results)?]);
    }
    let results = scan(&ints(x), &lanes_of, exclusive, start.1, g);
    Ok(vec![from_ints(x.dtype(), x.shape(), &results)?])
}

/// Positions lane by lane in the order of the scan; `lanes` is the length of a lane and its stride.
fn scan_order(n: usize, lanes: (usize, usize), reverse: bool) -> Vec<usize> {
    let (len, stride) = lanes;
    let mut out = Vec::with_capacity(n);
    for lane in 0..n.checked_div(len).unwrap_or(0) {
        let start = lane / stride * len * stride + lane % stride;
        let steps = 0..len;
        if reverse {
            out.extend(steps.rev().map(|i| start + i * stride));
        } else {
            out.extend(steps.map(|i| start + i * stride));
        }
    }
    out
}

/// Running results along each lane, a list of positions.
fn scan<T: Copy>(x: &[T], lanes: &[Vec<usize>], exclusive: bool, start: T, f: impl Fn(T, T) -> T) -> Vec<T> {
    let mut out = vec![start; x.len()];
    for lane in lanes {
        let mut acc = start;
        for &at in lane {
            let next = f(acc, x[at]);
            out[at] = if exclusive { acc } else { next };
            acc = next;
        }
    }
    out
}

fn sample_cum_sum(rng: &mut Rng) -> Sample {
    let (dtype, shape) = (number(rng), shape_of_rank(rng, 1));
    let mut sample = sample_of(vec![values(rng, dtype, &shape)]);
    let axis = rng.int(-(shape.len() as i64), shape.len() as i64 - 1);
    if rng.below(2) == 0 {
        sample.attrs.set("axis", axis);
    } else {
        sample.inputs.push(Some(Tensor::scalar(axis)));
    }
    sample.attrs.set("exclusive", rng.int(0, 1));
    sample.attrs.set("reverse", rng.int(0, 1));
    sample
}
