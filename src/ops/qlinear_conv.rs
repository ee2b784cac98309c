//! `qlinear_conv` and `conv_integer`: convolutions of quantised data with quantised weights, whose scales and zero
//! points are for all of it or per output channel.

use crate::common::{PLAIN, between, exactly, from_f64s, input, onnx, tensor, type_error, work};
use crate::conv::{ATTRS, conv_shape, convolved, sample_geometry};
use crate::eval::{optional, optional_type, result, same_dim, want_float};
use crate::qlinear_matmul::{floats, sample_bytes, want_byte, wrapped};
use crate::quantize::quantised;
use partita_ir::diag::Diag;
use partita_ir::op::{EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&CONV_INTEGER, &QLINEAR_CONV];

static CONV_INTEGER: OpDef = OpDef {
    name: "conv_integer",
    doc: "convolution of x - x_zero_point with w - w_zero_point in i32; pads count as zero",
    onnx: &[onnx("ConvInteger", 10)],
    inputs: between(2, 4),
    outputs: exactly(1),
    attrs: ATTRS,
    traits: PLAIN,
    infer: infer_integer,
    content: None,
    eval: eval_integer,
    scalar: None,
    data: None,
    work: |c| work_conv(c, 1),
    sample: sample_integer,
};

static QLINEAR_CONV: OpDef = OpDef {
    name: "qlinear_conv",
    doc: "convolution of dequantised x and w, quantised: x, scale, zero_point, w, scale, zero_point, y's, bias in i32",
    onnx: &[onnx("QLinearConv", 10)],
    inputs: between(8, 9),
    infer: infer_qlinear,
    eval: eval_qlinear,
    work: |c| work_conv(c, 3),
    sample: sample_qlinear,
    ..CONV_INTEGER
};

/// Shape of the convolution of operand 0 with operand `w`, after checking both.
fn shape_of(ctx: &InferCtx, w: usize) -> Result<Vec<Dim>, Diag> {
    let (x, w) = (input(ctx, 0)?, input(ctx, w)?);
    want_byte(x.dtype)?;
    want_byte(w.dtype)?;
    if x.rank() < 3 || w.rank() != x.rank() {
        let text = format!("data {x} and weight {w} must have the same rank, at least 3");
        return Err(type_error(text).hint("the layout is [batch, channels, spatial...]"));
    }
    conv_shape(ctx.attrs, x, w)
}

/// Operand `n`, when given, must be one number.
fn want_one(ctx: &InferCtx, n: usize) -> Result<(), Diag> {
    match optional_type(ctx, n) {
        Some(t) if t.n_elements().as_known().is_some_and(|n| n != 1) => {
            Err(type_error(format!("operand {n} ({t}) must be one number")))
        }
        _ => Ok(()),
    }
}

/// Operand `n`, when given, must be one number or one per output channel of the weight.
fn want_channels(ctx: &InferCtx, n: usize, weight: &Type) -> Result<(), Diag> {
    match optional_type(ctx, n) {
        None => Ok(()),
        Some(t) if t.n_elements().is(1) => Ok(()),
        Some(t) => match t.shape.as_slice() {
            [d] => same_dim(d, &weight.shape[0], "output channels and what is stated for them"),
            _ => Err(type_error(format!("operand {n} ({t}) must be a number or a vector"))),
        },
    }
}

/// Operand `zero`, when given, must have the element type of operand `of`.
fn want_like(ctx: &InferCtx, zero: usize, of: usize) -> Result<(), Diag> {
    match optional_type(ctx, zero) {
        Some(t) if t.dtype != input(ctx, of)?.dtype => {
            Err(type_error("the zero point must have the element type of its operand"))
        }
        _ => Ok(()),
    }
}

fn infer_integer(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let shape = shape_of(ctx, 1)?;
    want_like(ctx, 2, 0)?;
    want_like(ctx, 3, 1)?;
    want_one(ctx, 2)?;
    want_channels(ctx, 3, input(ctx, 1)?)?;
    Ok(vec![Type::new(DType::I32, shape)])
}

fn infer_qlinear(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let shape = shape_of(ctx, 3)?;
    want_like(ctx, 2, 0)?;
    want_like(ctx, 5, 3)?;
    for n in [1, 2, 6, 7] {
        want_one(ctx, n)?;
    }
    for n in [4, 5] {
        want_channels(ctx, n, input(ctx, 3)?)?;
    }
    for n in [1, 4, 6] {
        want_float(input(ctx, n)?.dtype)?;
    }
    if let Some(bias) = optional_type(ctx, 8) {
        let vector = matches!(bias.shape.as_slice(), [_]) && bias.dtype == DType::I32;
        if !vector {
            return Err(type_error(format!("the bias must be a vector of i32, it is {bias}")));
        }
        same_dim(&bias.shape[0], &shape[1], "bias and output channels")?;
    }
    let dtype = input(ctx, 7)?.dtype;
    want_byte(dtype)?;
    Ok(vec![Type::new(dtype, shape)])
}

/// The element for output channel `m` of a vector that has one for all, or one per channel.
fn of_channel<T: Copy>(values: &[T], m: usize) -> T {
    values[if values.len() == 1 { 0 } else { m }]
}

/// `t` less its zero points, one or one per slice of the first axis, as f64.
fn centred(t: &Tensor, zero: Option<&Tensor>) -> Result<Tensor, Diag> {
    let mut values = t.to_f64s();
    if let Some(zero) = zero {
        let zeros = zero.to_f64s();
        let per_slice = t.shape()[1..].iter().product::<usize>().max(1);
        for (slice, n) in values.chunks_mut(per_slice).zip(0..) {
            slice.iter_mut().for_each(|v| *v -= of_channel(&zeros, n));
        }
    }
    from_f64s(DType::F64, t.shape(), &values)
}

/// Sums of products in i32, which wrap; f64 holds them exactly on the way.
fn accumulated(
    ctx: &EvalCtx,
    x: (&Tensor, Option<&Tensor>),
    w: (&Tensor, Option<&Tensor>),
    shape: &[usize],
) -> Result<Vec<f64>, Diag> {
    let (x, w) = (centred(x.0, x.1)?, centred(w.0, w.1)?);
    let bias = optional(ctx, 8).map(Tensor::to_f64s);
    let y = convolved(ctx.attrs, &x, &w, bias.as_deref(), shape)?;
    Ok(y.into_iter().map(wrapped).collect())
}

fn eval_integer(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_integer)?;
    let x = (tensor(ctx, 0)?, optional(ctx, 2));
    let y = accumulated(ctx, x, (tensor(ctx, 1)?, optional(ctx, 3)), &shape)?;
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

fn eval_qlinear(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_qlinear)?;
    let x = (tensor(ctx, 0)?, optional(ctx, 2));
    let sums = accumulated(ctx, x, (tensor(ctx, 3)?, optional(ctx, 5)), &shape)?;
    let (x_scale, y_scale) = (floats(tensor(ctx, 1)?)[0], floats(tensor(ctx, 6)?)[0]);
    let scales: Vec<f32> = floats(tensor(ctx, 4)?).into_iter().map(|w| x_scale * w / y_scale).collect();
    let zero = tensor(ctx, 7)?.to_f64s()[0];
    let n_positions = shape[2..].iter().product::<usize>().max(1);
    let channel = |i: usize| i / n_positions % shape[1];
    let y: Vec<f64> = sums
        .into_iter()
        .enumerate()
        .map(|(i, sum)| quantised(dtype, sum * f64::from(of_channel(&scales, channel(i))), zero))
        .collect();
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// Two operations per element of a window; the weight is operand `w`.
fn work_conv(ctx: &WorkCtx, w: usize) -> Work {
    let size = |s: &[usize]| s.iter().map(|&d| d as f64).product::<f64>();
    let per_output = ctx.inputs.get(w).and_then(Option::as_ref).map_or(0.0, |(_, w)| size(&w[1..]));
    let out = ctx.outputs.first().map_or(0.0, |(_, s)| size(s));
    work(ctx, out * 2.0 * per_output, WorkKind::Dense)
}

fn pick_byte(rng: &mut Rng) -> DType {
    *rng.pick(&[DType::I8, DType::U8])
}

/// One number, or one per output channel.
fn sample_spread(rng: &mut Rng, channels: usize) -> Vec<usize> {
    if rng.below(2) == 0 { vec![] } else { vec![channels] }
}

fn sample_integer(rng: &mut Rng) -> Sample {
    let (attrs, x, w) = sample_geometry(rng);
    let (x_type, w_type) = (pick_byte(rng), pick_byte(rng));
    let mut inputs = vec![Some(sample_bytes(rng, x_type, &x)), Some(sample_bytes(rng, w_type, &w))];
    if rng.below(3) > 0 {
        inputs.push((rng.below(3) > 0).then(|| sample_bytes(rng, x_type, &[])));
        let spread = sample_spread(rng, w[0]);
        inputs.push(Some(sample_bytes(rng, w_type, &spread)));
    }
    Sample { attrs, inputs, n_outputs: 1 }
}

fn sample_qlinear(rng: &mut Rng) -> Sample {
    let (attrs, x, w) = sample_geometry(rng);
    let mut inputs = Vec::new();
    for (shape, spread) in [(&x, vec![]), (&w, sample_spread(rng, w[0]))] {
        let dtype = pick_byte(rng);
        inputs.push(Some(sample_bytes(rng, dtype, shape)));
        inputs.push(Some(rng.tensor(DType::F32, &spread, 0.01, 0.1)));
        inputs.push(Some(sample_bytes(rng, dtype, &spread)));
    }
    inputs.push(Some(rng.tensor(DType::F32, &[], 0.5, 2.0)));
    let dtype = pick_byte(rng);
    inputs.push(Some(sample_bytes(rng, dtype, &[])));
    if rng.below(2) == 0 {
        inputs.push(Some(rng.tensor(DType::I32, &[w[0]], -1000.0, 1000.0)));
    }
    Sample { attrs, inputs, n_outputs: 1 }
}
