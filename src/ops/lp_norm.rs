//! Scaling along one axis to length one: `lp_normalization`.

use crate::common::{
    PLAIN, attr, attr_error, axis_of, exactly, from_f64s, input, onnx, sample_of, tensor, work,
};
use crate::eval::{Lines, result, want_float};
use crate::samples::{float, shape_of_rank, values};
use partita_ir::Tensor;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef};
use partita_ir::types::Type;
use partita_ir::work::WorkKind;

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&LP_NORMALIZATION];

static LP_NORMALIZATION: OpDef = OpDef {
    name: "lp_normalization",
    doc: "x / its p-norm along an axis; 0 where the norm is 0.",
    onnx: &[onnx("LpNormalization", 1)],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: &[attr("axis", AttrKind::Int), attr("p", AttrKind::Int)],
    traits: PLAIN,
    infer,
    content: None,
    eval,
    scalar: None,
    data: None,
    work: |c| work(c, 3.0 * crate::common::n_out(c), WorkKind::Vector),
    sample: |rng| {
        let (dtype, shape) = (float(rng), shape_of_rank(rng, 1));
        let mut sample = sample_of(vec![values(rng, dtype, &shape)]);
        sample.attrs.set("p", rng.int(1, 2));
        sample.attrs.set("axis", rng.int(-(shape.len() as i64), shape.len() as i64 - 1));
        sample
    },
};

fn infer(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    want_float(x.dtype)?;
    axis_of(ctx.attrs.int_or("axis", -1), x.rank())?;
    match ctx.attrs.int_or("p", 2) {
        1 | 2 => Ok(vec![x.clone()]),
        p => Err(attr_error(format!("p is {p}, allowed are 1 and 2"))),
    }
}

fn eval(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer)?;
    let axis = axis_of(ctx.attrs.int_or("axis", -1), shape.len())?;
    let p = ctx.attrs.int_or("p", 2);
    let norm = |line: &[f64]| -> f64 {
        if p == 1 {
            return line.iter().map(|v| v.abs()).sum();
        }
        line.iter().map(|v| v * v).sum::<f64>().sqrt()
    };
    let y = Lines::new(&shape, axis, axis + 1).map(&tensor(ctx, 0)?.to_f64s(), |line| {
        let norm = norm(line);
        line.iter().map(|v| if norm == 0.0 { 0.0 } else { v / norm }).collect()
    });
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}
