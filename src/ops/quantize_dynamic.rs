//! `dynamic_quantize_linear`: scale and zero point from the range of the data itself.

use crate::common::{
    PLAIN, between, exactly, from_f64s, input, n_out, onnx, sample_of, tensor, type_error, work,
};
use crate::quantize::quantised;
use partita_ir::diag::Diag;
use partita_ir::op::{EvalCtx, InferCtx, OpDef, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::work::WorkKind;
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&DYNAMIC_QUANTIZE_LINEAR];

/// Greatest quantised value; the least is 0.
const Q_MAX: f32 = 255.0;

static DYNAMIC_QUANTIZE_LINEAR: OpDef = OpDef {
    name: "dynamic_quantize_linear",
    doc: "x as u8 over its own range, with 0 in it; then the scale and the zero point.",
    onnx: &[onnx("DynamicQuantizeLinear", 11)],
    inputs: exactly(1),
    outputs: between(1, 3),
    attrs: &[],
    traits: PLAIN,
    infer,
    content: None,
    eval,
    scalar: None,
    data: None,
    work: |c| work(c, 4.0 * n_out(c), WorkKind::Vector),
    sample,
};

fn infer(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    if x.dtype != DType::F32 {
        return Err(type_error(format!("the data must be f32, not {}", x.dtype.name())).hint("cast it"));
    }
    let scalar = |dtype| Type::new(dtype, Vec::<Dim>::new());
    let all = [Type::new(DType::U8, x.shape.clone()), scalar(DType::F32), scalar(DType::U8)];
    Ok(all.into_iter().take(ctx.n_outputs.max(1)).collect())
}

/// Scale and zero point for data of the given range, in single precision throughout.
fn parameters(low: f32, high: f32) -> (f32, f32) {
    // Any scale is right when all is 0; this is the one ONNX's reference gives.
    let range = if low == high { 1.0 } else { high - low };
    let scale = range / Q_MAX;
    (scale, (0.0 - low / scale).clamp(0.0, Q_MAX).round_ties_even())
}

fn eval(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let x = tensor(ctx, 0)?;
    let values: Vec<f32> = x.to_f64s().into_iter().map(|v| v as f32).collect();
    let low = values.iter().copied().fold(0.0, f32::min);
    let high = values.iter().copied().fold(0.0, f32::max);
    let (scale, zero) = parameters(low, high);
    let y: Vec<f64> =
        values.iter().map(|v| quantised(DType::U8, f64::from(v / scale), f64::from(zero))).collect();
    let all = [
        from_f64s(DType::U8, x.shape(), &y)?,
        from_f64s(DType::F32, &[], &[f64::from(scale)])?,
        from_f64s(DType::U8, &[], &[f64::from(zero)])?,
    ];
    Ok(all.into_iter().take(ctx.n_outputs.max(1)).collect())
}

fn sample(rng: &mut Rng) -> Sample {
    let shape = crate::samples::shape(rng);
    let (low, high) = *rng.pick(&[(-3.0, 3.0), (1.0, 4.0), (-4.0, -1.0), (0.0, 0.0)]);
    let n_outputs = 1 + rng.below(3);
    Sample { n_outputs, ..sample_of(vec![rng.tensor(DType::F32, &shape, low, high)]) }
}
