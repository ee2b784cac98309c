//! `quantize_linear` and `dequantize_linear`: per tensor, per axis and per block.

use crate::common::{
    PLAIN, attr, attr_error, between, exactly, from_f64s, input, onnx, tensor, type_error, work_elementwise,
};
use crate::convert::{Rounding, small_floats};
use crate::eval::{int_range, optional, optional_type, result};
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
const QUANTISED: &[DType] = &[
    DType::I8,
    DType::U8,
    DType::I16,
    DType::U16,
    DType::I4,
    DType::U4,
    DType::I2,
    DType::U2,
    DType::F8E4M3fn,
    DType::F8E4M3fnuz,
    DType::F8E5M2,
    DType::F8E5M2fnuz,
    DType::F4E2M1,
    DType::F6E2M3,
    DType::F6E3M2,
];

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

/// Whether it is a float that is computed with.
fn is_wide_float(dtype: DType) -> bool {
    dtype.is_float() && dtype.is_computable()
}

/// Float type the division runs in: what `precision` says, else that of the scale.
fn precision(attrs: &Attrs, scale: DType) -> DType {
    attrs.dtype("precision").unwrap_or(match scale {
        // A quotient of integers is never so close to a half that f64 does not tell them apart.
        DType::I32 => DType::F64,
        DType::F8E8M0 => DType::F32,
        float => float,
    })
}

fn check_types(ctx: &InferCtx) -> Result<(), Diag> {
    let (x, scale) = (input(ctx, 0)?.dtype, input(ctx, 1)?.dtype);
    for (dtype, power) in [(x, false), (scale, true)] {
        let fits = is_wide_float(dtype) || dtype == DType::I32 || (power && dtype == DType::F8E8M0);
        if !fits {
            return Err(type_error(format!("data and scale must be floats or i32, not {}", dtype.name())));
        }
    }
    match ctx.attrs.dtype("precision") {
        Some(other) if !is_wide_float(other) => {
            Err(attr_error(format!("precision is {}, it must be a float type", other.name())))
        }
        _ => Ok(()),
    }
}

fn infer_quantize(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    check_types(ctx)?;
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
    check(ctx)?;
    let (x, scale) = (input(ctx, 0)?, input(ctx, 1)?.dtype);
    if !is_wide_float(scale) && scale != DType::F8E8M0 {
        return Err(type_error(format!("the scale must be a float, not {}", scale.name())));
    }
    if !QUANTISED.contains(&x.dtype) && x.dtype != DType::I32 {
        return Err(type_error(format!("quantised data cannot be {}", x.dtype.name())));
    }
    if optional_type(ctx, 2).is_some_and(|zero| zero.dtype != x.dtype) {
        return Err(type_error("the zero point must have the element type of the data"));
    }
    let dtype = ctx.attrs.dtype("output_dtype").unwrap_or(scale);
    if !is_wide_float(dtype) {
        return Err(
            type_error(format!("the result cannot be {}", dtype.name())).hint("state an output_dtype")
        );
    }
    Ok(vec![Type::new(dtype, x.shape.clone())])
}

/// `quotient` plus `zero`, saturated to `dtype`; for integers the quotient is rounded with halves to even before.
pub(crate) fn quantised(dtype: DType, quotient: f64, zero: f64) -> f64 {
    if dtype.is_float() {
        return quotient + zero;
    }
    let (low, high) = int_range(dtype);
    (quotient.round_ties_even() + zero).clamp(low as f64, high as f64)
}

fn eval_quantize(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_quantize)?;
    let (x, scale) = (tensor(ctx, 0)?, tensor(ctx, 1)?);
    let precision = precision(ctx.attrs, scale.dtype());
    let spread = Spread::new(ctx.attrs, &shape, scale.shape())?;
    let scales: Vec<f64> = scale.to_f64s().into_iter().map(|s| rounded(precision, s)).collect();
    let zeros = optional(ctx, 2).map(Tensor::to_f64s);
    let quantize = |(i, v): (usize, f64)| {
        let at = spread.at(i);
        // Halves depend on the precision of the quotient.
        let quotient = rounded(precision, rounded(precision, v) / scales[at]);
        // Negative zero is the zero point that keeps the sign of a zero.
        quantised(dtype, quotient, zeros.as_ref().map_or(-0.0, |z| z[at]))
    };
    let y: Vec<f64> = x.to_f64s().into_iter().enumerate().map(quantize).collect();
    let y = if dtype.is_float() {
        small_floats(dtype, &shape, &y, Rounding::of(ctx.attrs)?)
    } else {
        from_f64s(dtype, &shape, &y)
    };
    Ok(vec![y?])
}

fn eval_dequantize(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_dequantize)?;
    let (x, scale) = (tensor(ctx, 0)?, tensor(ctx, 1)?);
    let spread = Spread::new(ctx.attrs, &shape, scale.shape())?;
    let (scales, zeros) = (scale.to_f64s(), optional(ctx, 2).map(Tensor::to_f64s));
    // Difference and product are floats of at least single precision before the result is rounded.
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let dequantize = |(i, v): (usize, f64)| {
        let at = spread.at(i);
        let difference = rounded(wide, v - zeros.as_ref().map_or(0.0, |z| z[at]));
        rounded(wide, difference * scales[at])
    };
    let y: Vec<f64> = x.to_f64s().into_iter().enumerate().map(dequantize).collect();
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

/// A type for scales, and the type that data of `float` has with it.
fn sample_types(rng: &mut Rng) -> (DType, DType) {
    let float = crate::samples::float(rng);
    match rng.below(6) {
        0 => (DType::I32, float),
        1 => (float, DType::F8E8M0),
        _ => (float, float),
    }
}

fn sample_quantize(rng: &mut Rng) -> Sample {
    let dtype = *rng.pick(QUANTISED);
    let (x, scale) = sample_types(rng);
    let mut sample = sample_scaled(rng, x, scale, dtype, (-20.0, 20.0));
    if sample.inputs.len() == 2 && rng.below(2) == 0 {
        sample.attrs.set("output_dtype", dtype);
    }
    if rng.below(4) == 0 {
        sample.attrs.set("precision", DType::F32);
    }
    if rng.below(4) == 0 {
        sample.attrs.set("saturate", 0i64);
    }
    sample
}

fn sample_dequantize(rng: &mut Rng) -> Sample {
    let dtype = if rng.below(4) == 0 { DType::I32 } else { *rng.pick(QUANTISED) };
    let (_, scale) = sample_types(rng);
    let mut sample = sample_scaled(rng, dtype, scale, dtype, (0.0, 127.0));
    if scale == DType::F8E8M0 || rng.below(4) == 0 {
        sample.attrs.set("output_dtype", DType::F16);
    }
    sample
}
