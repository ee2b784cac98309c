//! The gated activation of two operands.

use crate::common::{
    ELEMENTWISE, attr, exactly, from_f64s, input, n_out, onnx, sample_of, tensor, type_error, work,
};
use crate::eval::{result, rounding, same_dim};
use crate::samples::{float, shape, values};
use crate::scalar::{fits, infer_float, same_dtypes};
use partita_ir::Tensor;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, ScalarCtx};
use partita_ir::tile::{Reg, TileBuilder};
use partita_ir::types::Type;
use partita_ir::work::WorkKind;
use partita_plan::tile::{Lane, TileOp};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&SWIGLU];

/// a * sigmoid(alpha * a) * b.
static SWIGLU: OpDef = OpDef {
    name: "swiglu",
    doc: "a * sigmoid(alpha * a) * b, for operands of one shape",
    onnx: &[onnx("SwiGLU", 28)],
    inputs: exactly(2),
    outputs: exactly(1),
    attrs: &[attr("alpha", AttrKind::Float)],
    traits: ELEMENTWISE,
    infer: infer_swiglu,
    content: None,
    eval: eval_swiglu,
    scalar: Some(lower_swiglu),
    data: None,
    work: |ctx| work(ctx, 20.0 * n_out(ctx), WorkKind::Vector),
    sample: sample_swiglu,
};

fn infer_swiglu(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (a, b) = (input(ctx, 0)?, input(ctx, 1)?);
    same_dtypes(ctx)?;
    if a.rank() != b.rank() {
        return Err(type_error(format!("the operands of swiglu have one shape, they are {a} and {b}")));
    }
    a.shape.iter().zip(&b.shape).try_for_each(|(a, b)| same_dim(a, b, "dimensions of gate and value"))?;
    infer_float(ctx)
}

/// Every step is rounded: ONNX defines it as a function of operators of the element type.
fn eval_swiglu(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_swiglu)?;
    let (round, alpha) = (rounding(dtype), f64::from(ctx.attrs.float_or("alpha", 1.0)));
    let alpha = round(alpha);
    let (a, b) = (tensor(ctx, 0)?.to_f64s(), tensor(ctx, 1)?.to_f64s());
    let at = |(a, b): (f64, f64)| {
        let power = round(libm::exp(round(-alpha * a)));
        let gate = round(1.0 / round(1.0 + power));
        round(a * gate) * b
    };
    let y: Vec<f64> = a.into_iter().zip(b).map(at).collect();
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

fn lower_swiglu(ctx: &ScalarCtx, builder: &mut TileBuilder, x: &[Reg]) -> Option<Reg> {
    let [a, b] = *x else { return None };
    if !fits(ctx) || a.lane() != Lane::Float || b.lane() != Lane::Float {
        return None;
    }
    let alpha = builder.float(f64::from(ctx.attrs.float_or("alpha", 1.0)));
    let inner = builder.binary(TileOp::Mul, a, alpha);
    let gate = builder.unary(TileOp::Sigmoid, inner);
    let gated = builder.binary(TileOp::Mul, a, gate);
    Some(builder.binary(TileOp::Mul, gated, b))
}

fn sample_swiglu(rng: &mut Rng) -> Sample {
    let (dtype, shape) = (float(rng), shape(rng));
    let mut sample = sample_of(vec![values(rng, dtype, &shape), values(rng, dtype, &shape)]);
    if rng.below(2) == 0 {
        sample.attrs.set("alpha", 1.5f32);
    }
    sample
}
