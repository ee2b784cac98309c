//! What quantised graphs are made of inside the compiler: `quantize` and `dequantize` with one scale and one zero point
//! for all, which are elementwise, and products of quantised operands whose results are f32 values.
//!
//! A product followed by `quantize` is what ONNX calls a QLinear operator; apart, the two can be told what else happens
//! between them.

use crate::channels_last::{self, LAYOUT};
use crate::common::{
    ELEMENTWISE, PLAIN, attr, between, exactly, from_f64s, input, sample_of, tensor, type_error, work,
    work_elementwise,
};
use crate::conv::{ATTRS, conv_shape, convolved, sample_geometry};
use crate::eval::{int_range, optional, optional_type, result, same_dim};
use crate::matmul::{multiplied, product_shape, work_matmul};
use crate::qlinear_matmul::{floats, sample_bytes, want_byte};
use crate::quantize::quantised;
use crate::samples::shape;
use crate::scalar::clamp;
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrDef, AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};
use partita_plan::tile::TileOp;

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&DEQUANTIZE, &QUANTIZE, &QUANTIZED_CONV, &QUANTIZED_MATMUL];

static DEQUANTIZE: OpDef = OpDef {
    name: "dequantize",
    doc: "(x - zero) * scale as f32, for 8-bit x; one scale and zero point for all.",
    onnx: &[],
    inputs: exactly(3),
    outputs: exactly(1),
    attrs: &[],
    traits: ELEMENTWISE,
    infer: infer_dequantize,
    content: None,
    eval: eval_dequantize,
    scalar: Some(|_, b, x| {
        let &[x, scale, zero] = x else { return None };
        let (x, zero) = (b.convert(x, DType::F32), b.convert(zero, DType::F32));
        let centred = b.binary(TileOp::Sub, x, zero);
        Some(b.binary(TileOp::Mul, centred, scale))
    }),
    data: None,
    work: work_elementwise,
    sample: sample_dequantize,
};

static QUANTIZE: OpDef = OpDef {
    name: "quantize",
    doc: "round(x / scale) + zero, halves to even, saturated to the 8-bit type of zero; one scale and zero point for all.",
    infer: infer_quantize,
    eval: eval_quantize,
    scalar: Some(|c, b, x| {
        let &[x, scale, zero] = x else { return None };
        let (low, high) = int_range(c.output);
        let (low, high) = (b.float(low as f64), b.float(high as f64));
        let quotient = b.binary(TileOp::Div, x, scale);
        let rounded = b.unary(TileOp::Round, quotient);
        let zero = b.convert(zero, DType::F32);
        let number = b.binary(TileOp::Add, rounded, zero);
        Some(clamp(b, number, low, high))
    }),
    sample: sample_quantize,
    ..DEQUANTIZE
};

/// Attributes of `quantized_conv`.
const CONV_ATTRS: &[AttrDef] = &[ATTRS[0], ATTRS[1], ATTRS[2], ATTRS[3], LAYOUT, ATTRS[4], ATTRS[5]];

static QUANTIZED_CONV: OpDef = OpDef {
    name: "quantized_conv",
    doc: "convolution of dequantised x and w as f32: x, scale, zero, w, scale, zero, bias? in f32; w has one scale or one per channel.",
    inputs: between(6, 7),
    attrs: CONV_ATTRS,
    traits: PLAIN,
    infer: |c| channels_last::infer(c, infer_conv),
    eval: |c| channels_last::eval(c, eval_conv),
    scalar: None,
    work: work_conv,
    sample: |rng| {
        let sample = sample_conv(rng);
        channels_last::sample(rng, sample, &["nhwc", "nchw_nhwc"])
    },
    ..DEQUANTIZE
};

static QUANTIZED_MATMUL: OpDef = OpDef {
    name: "quantized_matmul",
    doc: "product of dequantised a and b as f32: a, scale, zero, b, scale, zero, bias? per column in f32; b has one scale or one per column.",
    inputs: between(6, 7),
    attrs: &[attr("trans_b", AttrKind::Int)],
    traits: PLAIN,
    infer: infer_matmul,
    eval: eval_matmul,
    scalar: None,
    work: work_matmul,
    sample: sample_matmul,
    ..DEQUANTIZE
};

/// Checks that operand `n` is one number of type `dtype`.
fn want_number(ctx: &InferCtx, n: usize, dtype: DType) -> Result<(), Diag> {
    let ty = input(ctx, n)?;
    if ty.dtype == dtype && ty.rank() == 0 {
        return Ok(());
    }
    Err(type_error(format!("operand {n} must be one {}, it is {ty}", dtype.name())))
}

fn infer_dequantize(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    want_byte(x.dtype)?;
    want_number(ctx, 1, DType::F32)?;
    want_number(ctx, 2, x.dtype)?;
    Ok(vec![Type::new(DType::F32, x.shape.clone())])
}

fn infer_quantize(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (x, dtype) = (input(ctx, 0)?, input(ctx, 2)?.dtype);
    want_byte(dtype)?;
    want_number(ctx, 1, DType::F32)?;
    want_number(ctx, 2, dtype)?;
    if x.dtype != DType::F32 {
        return Err(type_error(format!("the data must be f32, not {}", x.dtype.name())).hint("cast it"));
    }
    Ok(vec![Type::new(dtype, x.shape.clone())])
}

fn number(ctx: &EvalCtx, n: usize) -> Result<f64, Diag> {
    Ok(tensor(ctx, n)?.to_f64s().first().copied().unwrap_or(0.0))
}

fn eval_dequantize(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_dequantize)?;
    let (scale, zero) = (number(ctx, 1)?, number(ctx, 2)?);
    let y: Vec<f64> = tensor(ctx, 0)?.to_f64s().into_iter().map(|v| (v - zero) * scale).collect();
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

fn eval_quantize(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_quantize)?;
    let (scale, zero) = (number(ctx, 1)? as f32, number(ctx, 2)?);
    let quantize = |v: f64| quantised(dtype, f64::from(v as f32 / scale), zero);
    let y: Vec<f64> = tensor(ctx, 0)?.to_f64s().into_iter().map(quantize).collect();
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// Checks scales and zero points of a product whose second operand has `columns` columns or output channels.
fn check_scales(ctx: &InferCtx, columns: &Dim) -> Result<(), Diag> {
    for n in [0, 3] {
        want_byte(input(ctx, n)?.dtype)?;
        want_number(ctx, n + 2, input(ctx, n)?.dtype)?;
    }
    want_number(ctx, 1, DType::F32)?;
    for n in [4, 6] {
        let Some(ty) = optional_type(ctx, n) else { continue };
        match ty.shape.as_slice() {
            _ if ty.dtype != DType::F32 => {
                return Err(type_error(format!("scales and bias are f32, not {}", ty.dtype.name())));
            }
            [] if n == 4 => {}
            [d] => same_dim(d, columns, "columns and what is stated for them")?,
            _ => return Err(type_error(format!("operand {n} ({ty}) must be a vector"))),
        }
    }
    input(ctx, 4).map(|_| ())
}

/// Operand `n` less its zero point.
fn centred(ctx: &EvalCtx, n: usize) -> Result<Tensor, Diag> {
    let (x, zero) = (tensor(ctx, n)?, number(ctx, n + 2)?);
    let values: Vec<f64> = x.to_f64s().into_iter().map(|v| v - zero).collect();
    from_f64s(DType::F64, x.shape(), &values)
}

/// Values of exact sums; `column` gives the column or output channel of an element.
fn values(ctx: &EvalCtx, sums: Vec<f64>, column: impl Fn(usize) -> usize) -> Result<Vec<f64>, Diag> {
    let scale = floats(tensor(ctx, 1)?)[0];
    let scales: Vec<f64> =
        floats(tensor(ctx, 4)?).into_iter().map(|s| f64::from(scale) * f64::from(s)).collect();
    let bias = optional(ctx, 6).map(Tensor::to_f64s);
    let value = |(i, sum): (usize, f64)| {
        let c = column(i);
        sum * scales[if scales.len() == 1 { 0 } else { c }] + bias.as_ref().map_or(0.0, |b| b[c])
    };
    Ok(sums.into_iter().enumerate().map(value).collect())
}

fn infer_conv(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (x, w) = (input(ctx, 0)?, input(ctx, 3)?);
    if x.rank() < 3 || w.rank() != x.rank() {
        let text = format!("data {x} and weight {w} must have the same rank, at least 3");
        return Err(type_error(text).hint("the layout is [batch, channels, spatial...]"));
    }
    check_scales(ctx, &w.shape[0])?;
    Ok(vec![Type::new(DType::F32, conv_shape(ctx.attrs, x, w)?)])
}

fn eval_conv(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_conv)?;
    let sums = convolved(ctx.attrs, &centred(ctx, 0)?, &centred(ctx, 3)?, None, &shape)?;
    let positions = shape[2..].iter().product::<usize>().max(1);
    let y = values(ctx, sums, |i| i / positions % shape[1])?;
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// The type of the second operand as the product reads it.
fn right(ctx: &InferCtx) -> Result<Type, Diag> {
    let b = input(ctx, 3)?;
    match (ctx.attrs.flag("trans_b"), b.shape.as_slice()) {
        (false, _) => Ok(b.clone()),
        (true, [n, k]) => Ok(Type::new(b.dtype, vec![k.clone(), n.clone()])),
        _ => Err(type_error(format!("only a matrix can be transposed, operand 3 is {b}"))),
    }
}

fn infer_matmul(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let b = right(ctx)?;
    let shape = product_shape(input(ctx, 0)?, &b)?;
    let columns = if b.rank() < 2 { Dim::known(1) } else { b.shape[b.rank() - 1].clone() };
    check_scales(ctx, &columns)?;
    Ok(vec![Type::new(DType::F32, shape)])
}

fn eval_matmul(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_matmul)?;
    let (a, mut b) = (centred(ctx, 0)?, centred(ctx, 3)?);
    if ctx.attrs.flag("trans_b") {
        let turned = [b.shape()[1], b.shape()[0]];
        b = crate::layout::permuted(&b, b.shape(), &[1, 0], &turned)?;
    }
    let sums = multiplied((a.shape(), &a.to_f64s()), (b.shape(), &b.to_f64s()), &shape);
    let columns = if b.rank() < 2 { 1 } else { b.shape()[b.rank() - 1] };
    let y = values(ctx, sums, |i| i % columns.max(1))?;
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// Two operations per element of a window.
fn work_conv(ctx: &WorkCtx) -> Work {
    let size = |s: &[usize]| s.iter().map(|&d| d as f64).product::<f64>();
    let per_output = ctx.inputs.get(3).and_then(Option::as_ref).map_or(0.0, |(_, w)| size(&w[1..]));
    let out = ctx.outputs.first().map_or(0.0, |(_, s)| size(s));
    work(ctx, out * 2.0 * per_output, WorkKind::Dense)
}

const BYTES: &[DType] = &[DType::I8, DType::U8];

fn sample_dequantize(rng: &mut Rng) -> Sample {
    let (dtype, shape) = (*rng.pick(BYTES), shape(rng));
    let x = sample_bytes(rng, dtype, &shape);
    let scale = rng.tensor(DType::F32, &[], 0.01, 0.3);
    sample_of(vec![x, scale, sample_bytes(rng, dtype, &[])])
}

fn sample_quantize(rng: &mut Rng) -> Sample {
    let (dtype, shape) = (*rng.pick(BYTES), shape(rng));
    let x = rng.tensor(DType::F32, &shape, -20.0, 20.0);
    let scale = rng.tensor(DType::F32, &[], 0.05, 0.3);
    sample_of(vec![x, scale, sample_bytes(rng, dtype, &[])])
}

/// Operands of a product with shapes `a` and `b` and `columns` columns or channels.
fn sample_product(rng: &mut Rng, attrs: Attrs, a: &[usize], b: &[usize], columns: usize) -> Sample {
    let mut inputs = Vec::new();
    for shape in [a, b] {
        let dtype = *rng.pick(BYTES);
        let spread = if inputs.is_empty() || rng.below(2) == 0 { vec![] } else { vec![columns] };
        inputs.push(Some(sample_bytes(rng, dtype, shape)));
        inputs.push(Some(rng.tensor(DType::F32, &spread, 0.01, 0.1)));
        inputs.push(Some(sample_bytes(rng, dtype, &[])));
    }
    if rng.below(2) == 0 {
        inputs.push(Some(rng.tensor(DType::F32, &[columns], -3.0, 3.0)));
    }
    Sample { attrs, inputs, n_outputs: 1 }
}

fn sample_conv(rng: &mut Rng) -> Sample {
    let (attrs, x, w) = sample_geometry(rng);
    sample_product(rng, attrs, &x, &w, w[0])
}

fn sample_matmul(rng: &mut Rng) -> Sample {
    let [m, k, n, p] = [(); 4].map(|()| 1 + rng.below(4));
    match rng.below(4) {
        0 => sample_product(rng, Attrs::new(), &[p, m, k], &[p, k, n], n),
        1 => sample_product(rng, Attrs::new().with("trans_b", 1i64), &[m, k], &[n, k], n),
        2 => sample_product(rng, Attrs::new(), &[p, m, k], &[k, n], n),
        _ => sample_product(rng, Attrs::new(), &[m, k], &[k, n], n),
    }
}
