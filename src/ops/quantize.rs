//! `quantize_linear` and `dequantize_linear`, per tensor and per axis.

use crate::common::{
    PLAIN, attr, axis_of, between, exactly, from_f64s, from_i64s, input, onnx, tensor, type_error,
    unsupported, work_elementwise,
};
use crate::eval::{Lines, int_range, optional, optional_type, result, same_dim, to_i128s, want_float};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrDef, AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample};
use partita_ir::tensor::n_elements;
use partita_ir::types::Type;
use partita_ir::{DType, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&QUANTIZE_LINEAR, &DEQUANTIZE_LINEAR];

const AXIS: AttrDef = attr("axis", AttrKind::Int);
const BLOCK_SIZE: AttrDef = attr("block_size", AttrKind::Int);
const OUTPUT_DTYPE: AttrDef = attr("output_dtype", AttrKind::DType);

/// round(x / scale) + zero point, saturated.
static QUANTIZE_LINEAR: OpDef = OpDef {
    name: "quantize_linear",
    doc: "round(x / scale) + zero_point, halves to even, saturated; scale per tensor or along `axis`",
    onnx: &[onnx("QuantizeLinear", 10)],
    inputs: between(2, 3),
    outputs: exactly(1),
    attrs: &[
        AXIS,
        BLOCK_SIZE,
        OUTPUT_DTYPE,
        attr("precision", AttrKind::Int),
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
    doc: "(x - zero_point) * scale; scale per tensor or along `axis`",
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

/// Checks that scale and zero point are one number, or one per slice along the axis.
fn check_scales(ctx: &InferCtx) -> Result<(), Diag> {
    if ctx.attrs.int_or("block_size", 0) != 0 {
        return Err(unsupported("blocked quantisation is not supported"));
    }
    let (x, scale) = (input(ctx, 0)?, input(ctx, 1)?);
    want_float(scale.dtype)?;
    let axis = axis(ctx.attrs, &scale.known_shape().unwrap_or_else(|| vec![2]), x.rank())?;
    match (scale.shape.as_slice(), axis) {
        ([], _) | ([_], None) => {}
        ([d], Some(axis)) => same_dim(d, &x.shape[axis], "scales and slices along the axis")?,
        _ => {
            return Err(type_error(format!("the scale must be a number or a vector, it is {scale}")));
        }
    }
    match optional_type(ctx, 2) {
        Some(zero) if zero.n_elements() != scale.n_elements() && zero.known_shape().is_some() => {
            Err(type_error(format!("zero point {zero} and scale {scale} must have the same shape")))
        }
        _ => Ok(()),
    }
}

/// The axis scales belong to; `None` when one scale is for all.
fn axis(attrs: &Attrs, scale: &[usize], rank: usize) -> Result<Option<usize>, Diag> {
    if n_elements(scale) == Some(1) { Ok(None) } else { axis_of(attrs.int_or("axis", 1), rank).map(Some) }
}

fn infer_quantize(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    check_scales(ctx)?;
    let zero = optional_type(ctx, 2).map(|t| t.dtype);
    let dtype = zero.or_else(|| ctx.attrs.dtype("output_dtype")).unwrap_or(DType::U8);
    match dtype {
        DType::I8 | DType::U8 | DType::I16 | DType::U16 | DType::I32 => {
            Ok(vec![Type::new(dtype, input(ctx, 0)?.shape.clone())])
        }
        other => Err(unsupported(format!("quantisation to {} is not supported", other.name()))),
    }
}

fn infer_dequantize(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    check_scales(ctx)?;
    let x = input(ctx, 0)?;
    if !matches!(x.dtype, DType::I8 | DType::U8 | DType::I16 | DType::U16 | DType::I32) {
        return Err(type_error(format!("quantised data cannot be {}", x.dtype.name())));
    }
    if optional_type(ctx, 2).is_some_and(|zero| zero.dtype != x.dtype) {
        return Err(type_error("the zero point must have the element type of the data"));
    }
    let dtype = ctx.attrs.dtype("output_dtype").unwrap_or(input(ctx, 1)?.dtype);
    want_float(dtype)?;
    Ok(vec![Type::new(dtype, x.shape.clone())])
}

/// Scales and zero points, and which of them an element has.
struct Scales {
    scale: Vec<f64>,
    zero: Option<Vec<i128>>,
    lines: Option<Lines>,
}

impl Scales {
    fn new(ctx: &EvalCtx) -> Result<Self, Diag> {
        let (x, scale) = (tensor(ctx, 0)?, tensor(ctx, 1)?);
        let axis = axis(ctx.attrs, scale.shape(), x.rank())?;
        Ok(Self {
            scale: scale.to_f64s(),
            zero: optional(ctx, 2).map(to_i128s),
            lines: axis.map(|a| Lines::new(x.shape(), a, a + 1)),
        })
    }

    /// Scale and zero point of element `i`.
    fn at(&self, i: usize) -> (f64, i128) {
        let n = self.lines.map_or(0, |l| i / l.inner % l.len);
        (self.scale[n], self.zero.as_ref().map_or(0, |z| z[n]))
    }
}

fn eval_quantize(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_quantize)?;
    let x = tensor(ctx, 0)?;
    let scales = Scales::new(ctx)?;
    let (low, high) = int_range(dtype);
    let wide = x.dtype() == DType::F64;
    let quantize = |(i, v): (usize, f64)| {
        let (scale, zero) = scales.at(i);
        // The quotient is a float of the data's precision before it is rounded: halves depend on it.
        let quotient = if wide { v / scale } else { f64::from((v / scale) as f32) };
        (quotient.round_ties_even() as i128).saturating_add(zero).clamp(low, high) as i64
    };
    let y: Vec<i64> = x.to_f64s().into_iter().enumerate().map(quantize).collect();
    Ok(vec![from_i64s(dtype, &shape, &y)?])
}

fn eval_dequantize(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_dequantize)?;
    let scales = Scales::new(ctx)?;
    let dequantize = |(i, v): (usize, i128)| {
        let (scale, zero) = scales.at(i);
        (v - zero) as f64 * scale
    };
    let y: Vec<f64> = to_i128s(tensor(ctx, 0)?).into_iter().enumerate().map(dequantize).collect();
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// Data of `dtype` with scales and maybe zero points of `quantized`.
fn sample_scaled(rng: &mut Rng, dtype: DType, quantized: DType, range: (f64, f64)) -> Sample {
    let rank = 1 + rng.below(4);
    let shape = crate::common::sample_shape(rng, rank);
    let axis = rng.below(rank);
    let mut attrs = Attrs::new();
    let scales = if rng.below(2) == 0 {
        attrs.set("axis", if rng.below(2) == 0 { axis as i64 } else { axis as i64 - rank as i64 });
        vec![shape[axis]]
    } else {
        vec![]
    };
    let mut inputs = vec![
        Some(rng.tensor(dtype, &shape, range.0, range.1)),
        Some(rng.tensor(DType::F32, &scales, 0.01, 0.5)),
    ];
    if quantized != DType::I32 && rng.below(3) > 0 {
        inputs.push(Some(rng.tensor(quantized, &scales, 0.0, 100.0)));
    }
    Sample { attrs, inputs, n_outputs: 1 }
}

fn sample_quantize(rng: &mut Rng) -> Sample {
    let dtype = *rng.pick(&[DType::I8, DType::U8]);
    let mut sample = sample_scaled(rng, DType::F32, dtype, (-20.0, 20.0));
    if sample.inputs.len() == 2 && rng.below(2) == 0 {
        sample.attrs.set("output_dtype", dtype);
    }
    sample
}

fn sample_dequantize(rng: &mut Rng) -> Sample {
    let dtype = *rng.pick(&[DType::I8, DType::U8, DType::I32]);
    sample_scaled(rng, dtype, dtype, (0.0, 127.0))
}
