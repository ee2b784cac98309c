//! Elementwise operators over 8-bit numbers with a scale and a zero point for each operand and the result.

use crate::common::{
    ELEMENTWISE, PLAIN, at_least, attr, axis_of, between, broadcast, exactly, from_i64s, input, required,
    tensor, type_error, work, work_elementwise,
};
use crate::contrib_common::{
    Quant, check_scale, check_zero, eight_bits, ms, sample_eight_bit_type, sample_eight_bits, sample_scale,
    want_dtype,
};
use crate::elements::broadcast_walk;
use crate::eval::{Lines, result, same_dim};
use crate::samples::{broadcast_shapes, shape, shape_of_rank};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::work::WorkKind;
use partita_ir::{DType, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&ADD, &CONCAT, &LEAKY_RELU, &MUL, &SIGMOID, &SOFTMAX, &WHERE];

/// Two quantized operands that broadcast.
const BINARY: OpDef = OpDef {
    name: "",
    doc: "",
    onnx: &[],
    inputs: between(2, 8),
    outputs: exactly(1),
    attrs: &[],
    traits: PLAIN,
    infer: infer_binary,
    content: None,
    eval: eval_add,
    scalar: None,
    data: None,
    work: work_elementwise,
    sample: sample_binary,
};

/// One quantized operand.
const UNARY: OpDef =
    OpDef { inputs: between(2, 5), infer: infer_unary, sample: sample_unary, traits: ELEMENTWISE, ..BINARY };

static ADD: OpDef = OpDef {
    name: "qlinear_add",
    doc: "a + b over 8-bit numbers, each with scale and zero point; broadcast.",
    onnx: &[ms("QLinearAdd")],
    ..BINARY
};

static MUL: OpDef = OpDef {
    name: "qlinear_mul",
    doc: "a * b over 8-bit numbers, each with scale and zero point; broadcast.",
    onnx: &[ms("QLinearMul")],
    eval: eval_mul,
    ..BINARY
};

static SIGMOID: OpDef = OpDef {
    name: "qlinear_sigmoid",
    doc: "1 / (1 + exp(-x)) over 8-bit numbers with scale and zero point.",
    onnx: &[ms("QLinearSigmoid")],
    eval: |ctx| map(ctx, |v| (1.0 / (1.0 + libm::exp(-f64::from(v)))) as f32),
    ..UNARY
};

static LEAKY_RELU: OpDef = OpDef {
    name: "qlinear_leaky_relu",
    doc: "x where it is not negative, else alpha * x, over 8-bit numbers with scale and zero point.",
    onnx: &[ms("QLinearLeakyRelu")],
    attrs: &[attr("alpha", AttrKind::Float)],
    eval: |ctx| {
        let alpha = ctx.attrs.float_or("alpha", 0.01);
        map(ctx, |v| if v >= 0.0 { v } else { alpha * v })
    },
    sample: |rng| {
        let mut sample = sample_unary(rng);
        sample.attrs.set("alpha", rng.float(-0.5, 0.5) as f32);
        sample
    },
    ..UNARY
};

static SOFTMAX: OpDef = OpDef {
    name: "qlinear_softmax",
    doc: "softmax over 8-bit numbers along `axis` (before opset 13: over all axes from `axis`).",
    onnx: &[ms("QLinearSoftmax")],
    inputs: between(2, 5),
    attrs: &[attr("axis", AttrKind::Int), required("opset", AttrKind::Int)],
    traits: PLAIN,
    infer: infer_softmax,
    eval: eval_softmax,
    work: |ctx| work(ctx, 12.0 * crate::common::n_out(ctx), WorkKind::Vector),
    sample: sample_softmax,
    ..UNARY
};

static CONCAT: OpDef = OpDef {
    name: "qlinear_concat",
    doc: "8-bit tensors joined along `axis`, each with its scale and zero point.",
    onnx: &[ms("QLinearConcat")],
    inputs: at_least(5),
    attrs: &[required("axis", AttrKind::Int)],
    infer: infer_concat,
    eval: eval_concat,
    work: work_elementwise,
    sample: sample_concat,
    ..BINARY
};

static WHERE: OpDef = OpDef {
    name: "qlinear_where",
    doc: "x where the condition holds, else y, over 8-bit numbers with scale and zero point; broadcast.",
    onnx: &[ms("QLinearWhere")],
    inputs: exactly(9),
    infer: infer_where,
    eval: eval_where,
    sample: sample_where,
    ..BINARY
};

/// Operands: a, its scale and zero point; b, its scale and zero point; the result's scale and zero point.
fn infer_binary(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let dtype = eight_bits(ctx, 0)?;
    want_dtype(ctx, 3, dtype)?;
    for n in [1, 4, 6] {
        check_scale(ctx, n)?;
        check_zero(ctx, n + 1, dtype)?;
    }
    Ok(vec![Type::new(dtype, broadcast(&[&input(ctx, 0)?.shape, &input(ctx, 3)?.shape])?)])
}

/// Both operands' numbers for every element of the result.
fn pairs(ctx: &EvalCtx, shape: &[usize]) -> Result<Vec<(i64, i64)>, Diag> {
    let (a, b) = (tensor(ctx, 0)?, tensor(ctx, 3)?);
    let (at_a, at_b) = (broadcast_walk(shape, a.shape()), broadcast_walk(shape, b.shape()));
    let (a, b) = (a.to_i64s(), b.to_i64s());
    Ok(at_a.into_iter().zip(at_b).map(|(i, j)| (a[i], b[j])).collect())
}

/// Which operand repeats one number along the innermost axis that is longer than 1: the kernels fold that number
/// into the constant part of the sum, which rounds differently.
fn repeated(ctx: &EvalCtx, shape: &[usize]) -> Result<[bool; 2], Diag> {
    let Some(inner) = shape.iter().rev().position(|&d| d != 1) else { return Ok([false, true]) };
    let repeats = |t: &Tensor| t.shape().iter().rev().nth(inner).is_none_or(|&d| d == 1);
    Ok([repeats(tensor(ctx, 0)?), repeats(tensor(ctx, 3)?)])
}

fn eval_add(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_binary)?;
    let (a, b) = (Quant::read(ctx, 1, 2, dtype)?, Quant::read(ctx, 4, 5, dtype)?);
    let c = Quant::read(ctx, 6, 7, dtype)?;
    let (a_steps, b_steps) = (a.scale / c.scale, b.scale / c.scale);
    let fixed = c.zero as f32 - (a_steps * a.zero as f32 + b_steps * b.zero as f32);
    let [fold_a, _] = repeated(ctx, &shape)?;
    let add = |(x, y): (i64, i64)| {
        let (x, y) = (a_steps * x as f32, b_steps * y as f32);
        c.rounded(if fold_a { y + (fixed + x) } else { x + (y + fixed) })
    };
    let y: Vec<i64> = pairs(ctx, &shape)?.into_iter().map(add).collect();
    Ok(vec![from_i64s(dtype, &shape, &y)?])
}

fn eval_mul(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_binary)?;
    let (a, b) = (Quant::read(ctx, 1, 2, dtype)?, Quant::read(ctx, 4, 5, dtype)?);
    let c = Quant::read(ctx, 6, 7, dtype)?;
    let steps = a.scale * b.scale / c.scale;
    let mul = |(x, y): (i64, i64)| c.rounded(((x - a.zero) * (y - b.zero)) as f32 * steps + c.zero as f32);
    let y: Vec<i64> = pairs(ctx, &shape)?.into_iter().map(mul).collect();
    Ok(vec![from_i64s(dtype, &shape, &y)?])
}

/// Operands: x, its scale and zero point; the result's scale and zero point.
fn infer_unary(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let dtype = eight_bits(ctx, 0)?;
    for n in [1, 3] {
        check_scale(ctx, n)?;
        check_zero(ctx, n + 1, dtype)?;
    }
    Ok(vec![input(ctx, 0)?.clone()])
}

/// `f` of every value, rounded to the result's numbers.
fn map(ctx: &EvalCtx, f: impl Fn(f32) -> f32) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_unary)?;
    let (x, y) = (Quant::read(ctx, 1, 2, dtype)?, Quant::read(ctx, 3, 4, dtype)?);
    let mapped: Vec<i64> = tensor(ctx, 0)?.to_i64s().into_iter().map(|v| y.nearest(f(x.value(v)))).collect();
    Ok(vec![from_i64s(dtype, &shape, &mapped)?])
}

/// The axes of one distribution.
fn softmax_lines(attrs: &Attrs, rank: usize) -> Result<(usize, usize), Diag> {
    let newer = attrs.int_or("opset", 13) >= 13;
    let axis = attrs.int_or("axis", -1);
    // Before opset 13 the axis may stand behind the last one: nothing is left to sum over.
    if !newer && axis == rank as i64 {
        return Ok((rank, rank));
    }
    let axis = axis_of(axis, rank)?;
    Ok((axis, if newer { axis + 1 } else { rank }))
}

fn infer_softmax(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let types = infer_unary(ctx)?;
    softmax_lines(ctx.attrs, types[0].rank())?;
    Ok(types)
}

/// Exponentials are whole numbers of at most 23 bits, so that the sum of a line fits in 32 bits.
fn eval_softmax(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    const GREATEST: f64 = 0x7f_ffff as f64;
    let (dtype, shape) = result(ctx, infer_softmax)?;
    let (x, y) = (Quant::read(ctx, 1, 2, dtype)?, Quant::read(ctx, 3, 4, dtype)?);
    let (from, to) = softmax_lines(ctx.attrs, shape.len())?;
    let lines = Lines::new(&shape, from, to);
    let unit = (f64::from(u32::MAX) / lines.len as f64).min(GREATEST);
    let power = |below: f64| (libm::exp(-below * f64::from(x.scale)) * unit).round_ties_even();
    let steps = (1.0 / y.scale).floor();
    let mapped = lines.map(&tensor(ctx, 0)?.to_f64s(), |line| {
        let max = line.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = line.iter().map(|v| power(max - v)).collect();
        let sum = powers.iter().sum::<f64>() as f32;
        let share = |p: &f64| (*p as f32 * steps / sum).round_ties_even() as i64;
        powers.iter().map(|p| y.saturated(share(p), y.zero) as f64).collect()
    });
    let mapped: Vec<i64> = mapped.into_iter().map(|v| v as i64).collect();
    Ok(vec![from_i64s(dtype, &shape, &mapped)?])
}

/// Operands: the result's scale and zero point; then each part with its scale and zero point.
fn infer_concat(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let dtype = eight_bits(ctx, 2)?;
    check_scale(ctx, 0)?;
    check_zero(ctx, 1, dtype)?;
    if ctx.inputs.len() % 3 != 2 {
        return Err(type_error("every part needs a scale and a zero point"));
    }
    let mut out = input(ctx, 2)?.clone();
    let axis = axis_of(ctx.attrs.int_or("axis", 0), out.rank())?;
    for n in (2..ctx.inputs.len()).step_by(3) {
        want_dtype(ctx, n, dtype)?;
        check_scale(ctx, n + 1)?;
        check_zero(ctx, n + 2, dtype)?;
        let part = input(ctx, n)?;
        if part.rank() != out.rank() {
            return Err(type_error(format!("parts of ranks {} and {} do not join", out.rank(), part.rank())));
        }
        for (a, dim) in part.shape.iter().enumerate() {
            match (a == axis, n == 2) {
                (_, true) => {}
                (true, false) => out.shape[a] = out.shape[a].clone() + dim.clone(),
                (false, false) => same_dim(&out.shape[a], dim, "the other axes of joined tensors")?,
            }
        }
    }
    Ok(vec![out])
}

fn eval_concat(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_concat)?;
    let axis = axis_of(ctx.attrs.int_or("axis", 0), shape.len())?;
    let y = Quant::read(ctx, 0, 1, dtype)?;
    let (row, outer) = (shape[axis..].iter().product::<usize>(), shape[..axis].iter().product::<usize>());
    let (mut out, mut column) = (vec![0i64; outer * row], 0);
    for n in (2..ctx.inputs.len()).step_by(3) {
        let part = tensor(ctx, n)?;
        let x = Quant::read(ctx, n + 1, n + 2, dtype)?;
        let same = x.scale == y.scale && x.zero == y.zero;
        let width: usize = part.shape()[axis..].iter().product();
        for (i, v) in part.to_i64s().into_iter().enumerate() {
            let slot = i / width * row + column + i % width;
            out[slot] = if same { v } else { y.nearest(x.value(v)) };
        }
        column += width;
    }
    Ok(vec![from_i64s(dtype, &shape, &out)?])
}

/// Operands: the condition; x, its scale and zero point; y, its scale and zero point; the result's scale and zero
/// point.
fn infer_where(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    want_dtype(ctx, 0, DType::Bool)?;
    let dtype = eight_bits(ctx, 1)?;
    want_dtype(ctx, 4, dtype)?;
    for n in [2, 5, 7] {
        check_scale(ctx, n)?;
        check_zero(ctx, n + 1, dtype)?;
    }
    let shapes = [&*input(ctx, 0)?.shape, &*input(ctx, 1)?.shape, &*input(ctx, 4)?.shape];
    Ok(vec![Type::new(dtype, broadcast(&shapes)?)])
}

fn eval_where(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_where)?;
    let z = Quant::read(ctx, 7, 8, dtype)?;
    let requantized = |n: usize| -> Result<Vec<i64>, Diag> {
        let x = Quant::read(ctx, n + 1, n + 2, dtype)?;
        let t = tensor(ctx, n)?;
        let values: Vec<i64> = t.to_i64s().into_iter().map(|v| z.nearest(x.value(v))).collect();
        Ok(broadcast_walk(&shape, t.shape()).into_iter().map(|i| values[i]).collect())
    };
    let (x, y) = (requantized(1)?, requantized(4)?);
    let condition = tensor(ctx, 0)?;
    let holds = condition.to_bools();
    let at = broadcast_walk(&shape, condition.shape());
    let out: Vec<i64> = at.into_iter().enumerate().map(|(i, c)| if holds[c] { x[i] } else { y[i] }).collect();
    Ok(vec![from_i64s(dtype, &shape, &out)?])
}

/// A tensor with scale and zero point.
fn sample_quantized(rng: &mut Rng, dtype: DType, shape: &[usize]) -> [Option<Tensor>; 3] {
    [
        Some(sample_eight_bits(rng, dtype, shape)),
        Some(sample_scale(rng)),
        Some(sample_eight_bits(rng, dtype, &[])),
    ]
}

fn sample_binary(rng: &mut Rng) -> Sample {
    let dtype = sample_eight_bit_type(rng);
    let shapes = broadcast_shapes(rng, 2);
    let mut inputs: Vec<Option<Tensor>> =
        shapes.iter().flat_map(|s| sample_quantized(rng, dtype, s)).collect();
    if rng.below(3) == 0 {
        inputs[2] = None;
    }
    let [_, scale, zero] = sample_quantized(rng, dtype, &[]);
    inputs.extend([scale, zero]);
    Sample { attrs: Attrs::new(), inputs, n_outputs: 1 }
}

fn sample_unary(rng: &mut Rng) -> Sample {
    let (dtype, shape) = (sample_eight_bit_type(rng), shape(rng));
    let mut inputs = sample_quantized(rng, dtype, &shape).to_vec();
    if rng.below(3) == 0 {
        inputs[2] = None;
    }
    let [_, scale, zero] = sample_quantized(rng, dtype, &[]);
    inputs.push(scale);
    if rng.below(3) > 0 {
        inputs.push(zero);
    }
    Sample { attrs: Attrs::new(), inputs, n_outputs: 1 }
}

fn sample_softmax(rng: &mut Rng) -> Sample {
    let (dtype, shape) = (sample_eight_bit_type(rng), shape_of_rank(rng, 1));
    let mut inputs = sample_quantized(rng, dtype, &shape).to_vec();
    let [_, _, zero] = sample_quantized(rng, dtype, &[]);
    inputs.extend([Some(Tensor::scalar(1.0f32 / 256.0)), zero]);
    let rank = shape.len() as i64;
    let attrs = Attrs::new().with("opset", *rng.pick(&[12i64, 13])).with("axis", rng.int(-rank, rank - 1));
    Sample { attrs, inputs, n_outputs: 1 }
}

fn sample_concat(rng: &mut Rng) -> Sample {
    let dtype = sample_eight_bit_type(rng);
    let mut shape = shape_of_rank(rng, 1);
    let axis = rng.below(shape.len());
    let [_, scale, zero] = sample_quantized(rng, dtype, &[]);
    let mut inputs = vec![scale, zero];
    for _ in 0..1 + rng.below(3) {
        shape[axis] = 1 + rng.below(3);
        inputs.extend(sample_quantized(rng, dtype, &shape));
    }
    Sample { attrs: Attrs::new().with("axis", axis as i64), inputs, n_outputs: 1 }
}

fn sample_where(rng: &mut Rng) -> Sample {
    let dtype = sample_eight_bit_type(rng);
    let shapes = broadcast_shapes(rng, 3);
    let mut inputs = vec![Some(rng.tensor(DType::Bool, &shapes[0], -0.49, 1.49))];
    inputs.extend(shapes[1..].iter().flat_map(|s| sample_quantized(rng, dtype, s)).collect::<Vec<_>>());
    let [_, scale, zero] = sample_quantized(rng, dtype, &[]);
    inputs.extend([scale, zero]);
    Sample { attrs: Attrs::new(), inputs, n_outputs: 1 }
}
