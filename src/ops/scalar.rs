//! What elementwise rows share: inference by broadcasting and the common shapes of lowering.

use crate::common::{FLOATS, broadcast, input, type_error};
use partita_ir::diag::Diag;
use partita_ir::op::{InferCtx, ScalarCtx};
use partita_ir::tile::{Reg, TileBuilder, fits_lanes};
use partita_ir::types::Type;
use partita_ir::{DType, Dim};
use partita_plan::tile::{Lane, TileOp};

/// Whether all element types of this use fit the lanes of tile programs.
pub fn fits(ctx: &ScalarCtx) -> bool {
    fits_lanes(ctx.output) && ctx.inputs.iter().all(|&d| fits_lanes(d))
}

/// Lowering to one instruction with one operand.
pub fn one(ctx: &ScalarCtx, b: &mut TileBuilder, x: &[Reg], op: TileOp) -> Option<Reg> {
    (fits(ctx) && x.len() == 1).then(|| b.unary(op, x[0]))
}

/// Lowering to one instruction with two operands of one lane.
pub fn two(ctx: &ScalarCtx, b: &mut TileBuilder, x: &[Reg], op: TileOp) -> Option<Reg> {
    (fits(ctx) && x.len() == 2 && x[0].lane() == x[1].lane()).then(|| b.binary(op, x[0], x[1]))
}

/// The only operand, when it is a float that fits.
pub fn float_operand(ctx: &ScalarCtx, x: &[Reg]) -> Option<Reg> {
    x.first().copied().filter(|r| fits(ctx) && x.len() == 1 && r.lane() == Lane::Float)
}

/// `x` kept within `low..=high`; NaN stays.
pub fn clamp(b: &mut TileBuilder, x: Reg, low: Reg, high: Reg) -> Reg {
    // The register that may be NaN comes second: Max and Min return it then.
    let above = b.binary(TileOp::Max, low, x);
    b.binary(TileOp::Min, high, above)
}

/// Inference: the first operand's type, which must be a float.
///
/// # Errors
/// `V020` for another element type.
pub fn infer_float(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    if FLOATS.contains(&x.dtype) {
        return Ok(vec![x.clone()]);
    }
    Err(type_error(format!("operand 0 is {}, a float is wanted", x.dtype.name())).hint("cast the operand"))
}

/// Inference: the first operand's type, which must be a number.
///
/// # Errors
/// `V020` for booleans.
pub fn infer_number(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    if x.dtype == DType::Bool {
        return Err(type_error("operand 0 is bool, a number is wanted").hint("cast the operand"));
    }
    Ok(vec![x.clone()])
}

/// The shape all operands that are present broadcast to.
///
/// # Errors
/// `V020` when they do not.
pub fn broadcast_inputs(ctx: &InferCtx) -> Result<Vec<Dim>, Diag> {
    let shapes: Vec<&[Dim]> = ctx.inputs.iter().flatten().map(|o| o.ty.shape.as_slice()).collect();
    broadcast(&shapes)
}

/// Refuses operands whose element types differ.
///
/// # Errors
/// `V020` naming the two.
pub fn same_dtypes(ctx: &InferCtx) -> Result<DType, Diag> {
    let first = input(ctx, 0)?.dtype;
    match ctx.inputs.iter().flatten().find(|o| o.ty.dtype != first) {
        None => Ok(first),
        Some(other) => {
            let text = format!("operands are {} and {}", first.name(), other.ty.dtype.name());
            Err(type_error(text).hint("all operands must have one element type; cast one of them"))
        }
    }
}

/// Inference: operands of one numeric element type, broadcast.
///
/// # Errors
/// `V020` when element types differ or are bool, or shapes do not broadcast.
pub fn infer_numbers(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let dtype = same_dtypes(ctx)?;
    if dtype == DType::Bool {
        return Err(type_error("operands are bool, numbers are wanted").hint("cast the operands"));
    }
    Ok(vec![Type::new(dtype, broadcast_inputs(ctx)?)])
}

/// Inference: operands of one element type, broadcast, give booleans.
///
/// # Errors
/// `V020` when element types differ or shapes do not broadcast.
pub fn infer_compare(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    same_dtypes(ctx)?;
    Ok(vec![Type::new(DType::Bool, broadcast_inputs(ctx)?)])
}
