//! `quantize_linear` and `dequantize_linear`: per tensor, per axis and per block.

use crate::common::{
    PLAIN, attr, attr_error, between, exactly, from_f64s, from_i64s, input, onnx, tensor, type_error,
    work_elementwise,
};
use crate::eval::{int_range, optional, optional_type, result, to_i128s, want_float};
use crate::scales::{Spread, check};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrDef, AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::{DType, Tensor};
use partita_plan::rounding::rounded;

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&QUANTIZE_LINEAR, &DEQUANTIZE_LINEAR];

/// Element types of quantised data.
const QUANTISED: &[DType] = &[DType::I8, DType::U8, DType::I16, DType::U16];

const AXIS: AttrDef = attr("axis", AttrKind::Int);
const BLOCK_SIZE: AttrDef = attr("block_size", AttrKind::Int);
const OUTPUT_DTYPE: AttrDef = attr("output_dtype", AttrKind::DType);

/// round(x / scale) + zero point, saturated.
static QUANTIZE_LINEAR: OpDef = OpDef {
    name: "quantize_linear",
    doc: "round(x / scale) + zero_point, halves to even, saturated; scale per tensor, along `axis` or per block",
    onnx: &[onnx("QuantizeLinear", 10)],
    inputs: between(2, 3),
    outputs: exactly(1),
    attrs: &[
        AXIS,
        BLOCK_SIZE,
        OUTPUT_DTYPE,
        attr("precision", AttrKind::DType),
        attr("saturate", AttrKind::Int),
    ],
    traits: PLAIN,
    infer: infer_quantize,
    content: None,
    eval: eval_quantize,
    scalar: None,
    data: None,
    work: work_elementwise,
    sample: sample_quantize,
};

/// (x - zero point) * scale.
static DEQUANTIZE_LINEAR: OpDef = OpDef {
    name: "dequantize_linear",
    doc: "(x - zero_point) * scale; scale per tensor, along `axis` or per block",
    onnx: &[onnx("DequantizeLinear", 10)],
    inputs: between(2, 3),
    outputs: exactly(1),
    attrs: &[AXIS, BLOCK_SIZE, OUTPUT_DTYPE],
    traits: PLAIN,
    infer: infer_dequantize,
    content: None,
    eval: eval_dequantize,
    scalar: None,
    data: None,
    work: work_elementwise,
    sample: sample_dequantize,
};

/// Float type the division runs in: what `precision` says, else that of the scale.
fn division(ctx: &InferCtx) -> Result<DType, Diag> {
    let (x, scale) = (input(ctx, 0)?.dtype, input(ctx, 1)?.dtype);
    for dtype in [x, scale] {
        if !dtype.is_float() && dtype != DType::I32 {
            return Err(type_error(format!("data and scale must be floats or i32, not {}", dtype.name())));
        }
    }
    match ctx.attrs.dtype("precision") {
        Some(precision) if precision.is_float() => Ok(precision),
        Some(other) => Err(attr_error(format!("precision is {}, it must be a float type", other.name()))),
        // A quotient of integers is never so close to a half that f64 does not tell them apart.
        None if scale == DType::I32 => Ok(DType::F64),
        None => Ok(scale),
    }
}

fn infer_quantize(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    division(ctx)?;
    check(ctx)?;
    let (zero, stated) = (optional_type(ctx, 2).map(|t| t.dtype), ctx.attrs.dtype("output_dtype"));
    if let (Some(zero), Some(stated)) = (zero, stated)
        && zero != stated
    {
        let text = format!("output_dtype is {}, the zero point is {}", stated.name(), zero.name());
        return Err(type_error(text).hint("leave output_dtype out"));
    }
    let dtype = zero.or(stated).unwrap_or(DType::U8);
    if !QUANTISED.contains(&dtype) {
        return Err(type_error(format!("quantised data cannot be {}", dtype.name())));
    }
    Ok(vec![Type::new(dtype, input(ctx, 0)?.shape.clone())])
}

fn infer_dequantize(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    want_float(input(ctx, 1)?.dtype)?;
    check(ctx)?;
    let x = input(ctx, 0)?;
    if !QUANTISED.contains(&x.dtype) && x.dtype != DType::I32 {
        return Err(type_error(format!("quantised data cannot be {}", x.dtype.name())));
    }
    if optional_type(ctx, 2).is_some_and(|zero| zero.dtype != x.dtype) {
        return Err(type_error("the zero point must have the element type of the data"));
    }
    let dtype = ctx.attrs.dtype("output_dtype").unwrap_or(input(ctx, 1)?.dtype);
    want_float(dtype)?;
    Ok(vec![Type::new(dtype, x.shape.clone())])
}

/// `quotient`, rounded with halves to even, plus `zero`, saturated to the integer type `dtype`.
pub(crate) fn saturated(dtype: DType, quotient: f64, zero: i128) -> i64 {
    let (low, high) = int_range(dtype);
    (quotient.round_ties_even() as i128).saturating_add(zero).clamp(low, high) as i64
}

fn eval_quantize(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_quantize)?;
    let (x, scale) = (tensor(ctx, 0)?, tensor(ctx, 1)?);
    let precision = ctx.attrs.dtype("precision").unwrap_or(scale.dtype());
    let spread = Spread::new(ctx.attrs, &shape, scale.shape())?;
    let scales: Vec<f64> = scale.to_f64s().into_iter().map(|s| rounded(precision, s)).collect();
    let zeros = optional(ctx, 2).map(to_i128s);
    let quantize = |(i, v): (usize, f64)| {
        let at = spread.at(i);
        // Halves depend on the precision of the quotient.
        let quotient = rounded(precision, rounded(precision, v) / scales[at]);
        saturated(dtype, quotient, zeros.as_ref().map_or(0, |z| z[at]))
    };
    let y: Vec<i64> = x.to_f64s().into_iter().enumerate().map(quantize).collect();
    Ok(vec![from_i64s(dtype, &shape, &y)?])
}

fn eval_dequantize(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_dequantize)?;
    let (x, scale) = (tensor(ctx, 0)?, tensor(ctx, 1)?);
    let spread = Spread::new(ctx.attrs, &shape, scale.shape())?;
    let (scales, zeros) = (scale.to_f64s(), optional(ctx, 2).map(to_i128s));
    // Difference and product are floats of at least single precision before the result is rounded.
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let dequantize = |(i, v): (usize, i128)| {
        let at = spread.at(i);
        let difference = rounded(wide, (v - zeros.as_ref().map_or(0, |z| z[at])) as f64);
        rounded(wide, difference * scales[at])
    };
    let y: Vec<f64> = to_i128s(x).into_iter().enumerate().map(dequantize).collect();
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// Random attributes and the shape of the scales they need, for data of shape `shape`.
fn sample_spread(rng: &mut Rng, shape: &[usize]) -> (Attrs, Vec<usize>) {
    let rank = shape.len();
    let axis = rng.below(rank);
    let mut attrs = Attrs::new();
    let kind = rng.below(3);
    if kind == 0 {
        return (attrs, vec![]);
    }
    attrs.set("axis", if rng.below(2) == 0 { axis as i64 } else { axis as i64 - rank as i64 });
    if kind == 1 {
        return (attrs, vec![shape[axis]]);
    }
    let block = 1 + rng.below(3);
    attrs.set("block_size", block as i64);
    let mut scales = shape.to_vec();
    scales[axis] = shape[axis].div_ceil(block);
    (attrs, scales)
}

/// Data of `dtype` with scales of `scale` and maybe zero points of `quantized`.
fn sample_scaled(rng: &mut Rng, dtype: DType, scale: DType, quantized: DType, range: (f64, f64)) -> Sample {
    let rank = 1 + rng.below(4);
    let shape = crate::common::sample_shape(rng, rank);
    let (attrs, scales) = sample_spread(rng, &shape);
    let mut inputs =
        vec![Some(rng.tensor(dtype, &shape, range.0, range.1)), Some(rng.tensor(scale, &scales, 0.01, 0.5))];
    if quantized != DType::I32 && rng.below(3) > 0 {
        inputs.push(Some(rng.tensor(quantized, &scales, 0.0, 100.0)));
    }
    Sample { attrs, inputs, n_outputs: 1 }
}

fn sample_quantize(rng: &mut Rng) -> Sample {
    let dtype = *rng.pick(QUANTISED);
    let float = crate::samples::float(rng);
    let x = *rng.pick(&[float, DType::I32]);
    let mut sample = sample_scaled(rng, x, float, dtype, (-20.0, 20.0));
    if sample.inputs.len() == 2 && rng.below(2) == 0 {
        sample.attrs.set("output_dtype", dtype);
    }
    if rng.below(4) == 0 {
        sample.attrs.set("precision", DType::F32);
    }
    sample
}

fn sample_dequantize(rng: &mut Rng) -> Sample {
    let dtype = *rng.pick(&[DType::I8, DType::U8, DType::I16, DType::U16, DType::I32]);
    let float = crate::samples::float(rng);
    let mut sample = sample_scaled(rng, dtype, float, dtype, (0.0, 127.0));
    if rng.below(4) == 0 {
        sample.attrs.set("output_dtype", DType::F16);
    }
    sample
}
