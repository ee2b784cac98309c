//! A first row, to show the form.

use crate::common::{
    ELEMENTWISE, exactly, from_f64s, onnx, same_as_first, sample_unary, tensor, work_elementwise,
};
use partita_ir::Tensor;
use partita_ir::diag::Diag;
use partita_ir::op::{EvalCtx, OpDef, ScalarCtx};
use partita_ir::tile::{Reg, TileBuilder};
use partita_plan::tile::TileOp;

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&RELU];

/// max(x, 0).
static RELU: OpDef = OpDef {
    name: "relu",
    doc: "max(x, 0)",
    onnx: &[onnx("Relu", 1)],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: &[],
    traits: ELEMENTWISE,
    infer: same_as_first,
    content: None,
    eval: eval_relu,
    scalar: Some(lower_relu),
    work: work_elementwise,
    sample: sample_unary,
};

fn eval_relu(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let x = tensor(ctx, 0)?;
    // max() would drop NaN; the comparison keeps it.
    let y: Vec<f64> = x.to_f64s().into_iter().map(|v| if v < 0.0 { 0.0 } else { v }).collect();
    Ok(vec![from_f64s(x.dtype(), x.shape(), &y)?])
}

fn lower_relu(_: &ScalarCtx, b: &mut TileBuilder, x: &[Reg]) -> Option<Reg> {
    let zero = b.constant(x[0], 0.0);
    // In this order NaN stays NaN.
    Some(b.binary(TileOp::Max, zero, x[0]))
}
