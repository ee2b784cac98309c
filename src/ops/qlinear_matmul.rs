//! `qlinear_matmul` and `matmul_integer`: matrix products of quantised operands, with scales and zero points for
//! all, per row of the left operand or per column of the right one.

use crate::common::{PLAIN, between, exactly, from_f64s, input, onnx, tensor, type_error};
use crate::elements::broadcast_walk;
use crate::eval::{optional, optional_type, result, same_dim, want_float};
use crate::matmul::{multiplied, product_shape, work_matmul};
use crate::quantize::quantised;
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{EvalCtx, InferCtx, OpDef, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&MATMUL_INTEGER, &QLINEAR_MATMUL];

static MATMUL_INTEGER: OpDef = OpDef {
    name: "matmul_integer",
    doc: "matrix product of a - a_zero_point and b - b_zero_point in i32",
    onnx: &[onnx("MatMulInteger", 10)],
    inputs: between(2, 4),
    outputs: exactly(1),
    attrs: &[],
    traits: PLAIN,
    infer: infer_integer,
    content: None,
    eval: eval_integer,
    scalar: None,
    data: None,
    work: work_matmul,
    sample: sample_integer,
};

static QLINEAR_MATMUL: OpDef = OpDef {
    name: "qlinear_matmul",
    doc: "matrix product of dequantised a and b, quantised: a, scale, zero_point, b, scale, zero_point, then y's",
    onnx: &[onnx("QLinearMatMul", 10)],
    inputs: exactly(8),
    infer: infer_qlinear,
    eval: eval_qlinear,
    work: |c| {
        let operands = [c.inputs.first(), c.inputs.get(3)].map(|t| t.cloned().flatten());
        work_matmul(&partita_ir::op::WorkCtx { inputs: &operands, ..*c })
    },
    sample: sample_qlinear,
    ..MATMUL_INTEGER
};

/// Float types of quantised operands.
const FLOATS: &[DType] = &[DType::F8E4M3fn, DType::F8E4M3fnuz, DType::F8E5M2, DType::F8E5M2fnuz];

/// Which operand of the product: scales go along its rows (left) or columns (right).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

impl Side {
    /// Distance from the last axis to the one that scales go along, and to the one that is summed over.
    fn axes(self) -> (usize, usize) {
        match self {
            Self::Left => (2, 1),
            Self::Right => (1, 2),
        }
    }

    /// The shape of scales as one that broadcasts to the operand and to the result, both seen as matrices.
    fn spread(self, scales: &[usize]) -> Vec<usize> {
        match (self, scales) {
            (Self::Left, [n]) => vec![*n, 1],
            _ => scales.to_vec(),
        }
    }

    /// The operand's shape with an axis of 1 added to a vector.
    fn as_matrix(self, shape: &[usize]) -> Vec<usize> {
        match (self, shape) {
            (Self::Left, [n]) => vec![1, *n],
            (Self::Right, [n]) => vec![*n, 1],
            _ => shape.to_vec(),
        }
    }
}

/// Checks the shape of scales or zero points: a number, a vector along rows (columns), or the operand's rank.
fn check_spread(scales: &Type, operand: &Type, side: Side) -> Result<(), Diag> {
    let (rank, (kept, summed)) = (operand.rank(), side.axes());
    if scales.n_elements().is(1) {
        return Ok(());
    }
    let misfit = || type_error(format!("scale or zero point {scales} does not fit the operand {operand}"));
    if rank < 2 {
        return Err(misfit());
    }
    match scales.shape.as_slice() {
        [d] => same_dim(d, &operand.shape[rank - kept], "rows or columns and their scales"),
        shape if shape.len() == rank => {
            let fits = |(axis, d): (usize, &Dim)| {
                d.as_known() == Some(1)
                    || (axis != rank - summed && crate::eval::may_equal(d, &operand.shape[axis]))
            };
            if shape.iter().enumerate().all(fits) { Ok(()) } else { Err(misfit()) }
        }
        _ => Err(misfit()),
    }
}

/// Checks that an element type is an 8-bit integer.
///
/// # Errors
/// `V020` when it is not.
pub(crate) fn want_byte(dtype: DType) -> Result<(), Diag> {
    if matches!(dtype, DType::I8 | DType::U8) {
        return Ok(());
    }
    Err(type_error(format!("quantised operands are i8 or u8, not {}", dtype.name())))
}

/// Checks a zero point that may be missing.
fn check_zero(ctx: &InferCtx, n: usize, operand: &Type, side: Side) -> Result<(), Diag> {
    let Some(zero) = optional_type(ctx, n) else { return Ok(()) };
    if zero.dtype != operand.dtype {
        return Err(type_error("the zero point must have the element type of its operand"));
    }
    check_spread(zero, operand, side)
}

fn infer_integer(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (a, b) = (input(ctx, 0)?, input(ctx, 1)?);
    want_byte(a.dtype)?;
    want_byte(b.dtype)?;
    let shape = product_shape(a, b)?;
    check_zero(ctx, 2, a, Side::Left)?;
    check_zero(ctx, 3, b, Side::Right)?;
    Ok(vec![Type::new(DType::I32, shape)])
}

fn infer_qlinear(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (a, b) = (input(ctx, 0)?, input(ctx, 3)?);
    for n in [0, 3, 7] {
        if !FLOATS.contains(&input(ctx, n)?.dtype) {
            want_byte(input(ctx, n)?.dtype)?;
        }
    }
    let shape = product_shape(a, b)?;
    check_spread(input(ctx, 1)?, a, Side::Left)?;
    check_zero(ctx, 2, a, Side::Left)?;
    check_spread(input(ctx, 4)?, b, Side::Right)?;
    check_zero(ctx, 5, b, Side::Right)?;
    for n in [1, 4, 6] {
        want_float(input(ctx, n)?.dtype)?;
    }
    let zero = input(ctx, 7)?;
    for (n, t) in [(6, input(ctx, 6)?), (7, zero)] {
        if t.n_elements().as_known().is_some_and(|n| n != 1) {
            return Err(type_error(format!(
                "operand {n} ({t}) must be one number: the result has one scale"
            )));
        }
    }
    Ok(vec![Type::new(zero.dtype, shape)])
}

/// For every element of `shape`, a matrix or more, the place of its number in scales of shape `scales`.
fn places(shape: &[usize], scales: &[usize], side: Side) -> Vec<usize> {
    // One number may have any number of axes.
    let one = scales.iter().all(|&d| d == 1);
    broadcast_walk(shape, &if one { vec![] } else { side.spread(scales) })
}

/// The operand less its zero points; f64 holds them and their sums exactly.
fn centred(x: &Tensor, zero: Option<&Tensor>, side: Side) -> Vec<f64> {
    let mut values = x.to_f64s();
    if let Some(zero) = zero {
        let zeros = zero.to_f64s();
        let places = places(&side.as_matrix(x.shape()), zero.shape(), side);
        values.iter_mut().zip(places).for_each(|(v, at)| *v -= zeros[at]);
    }
    values
}

/// The product; sums of integers wrap in i32.
fn accumulated(a: (&Tensor, Option<&Tensor>), b: (&Tensor, Option<&Tensor>), shape: &[usize]) -> Vec<f64> {
    let (left, right) = (centred(a.0, a.1, Side::Left), centred(b.0, b.1, Side::Right));
    let mut y = multiplied((a.0.shape(), &left), (b.0.shape(), &right), shape);
    if !a.0.dtype().is_float() && !b.0.dtype().is_float() {
        y.iter_mut().for_each(|v| *v = wrapped(*v));
    }
    y
}

/// An integer as i32 arithmetic would have it.
pub(crate) fn wrapped(sum: f64) -> f64 {
    f64::from(sum as i64 as i32)
}

fn eval_integer(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_integer)?;
    let a = (tensor(ctx, 0)?, optional(ctx, 2));
    let y = accumulated(a, (tensor(ctx, 1)?, optional(ctx, 3)), &shape);
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// Scales as single-precision numbers.
pub(crate) fn floats(t: &Tensor) -> Vec<f32> {
    t.to_f64s().into_iter().map(|v| v as f32).collect()
}

fn eval_qlinear(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_qlinear)?;
    let (a, b) = (tensor(ctx, 0)?, tensor(ctx, 3)?);
    let (a_scale, b_scale) = (tensor(ctx, 1)?, tensor(ctx, 4)?);
    let sums = accumulated((a, optional(ctx, 2)), (b, optional(ctx, 5)), &shape);
    let full = product_as_matrix(a.shape(), b.shape(), &shape);
    let rows = places(&full, a_scale.shape(), Side::Left);
    let columns = places(&full, b_scale.shape(), Side::Right);
    let (a_scale, b_scale) = (floats(a_scale), floats(b_scale));
    let (y_scale, zero) = (floats(tensor(ctx, 6)?)[0], tensor(ctx, 7)?.to_f64s()[0]);
    let y: Vec<f64> = sums
        .into_iter()
        .zip(rows.into_iter().zip(columns))
        .map(|(sum, (row, column))| {
            let scale = a_scale[row] * b_scale[column] / y_scale;
            quantised(dtype, sum * f64::from(scale), zero)
        })
        .collect();
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// The result's shape with the axes of 1 that vectors as operands take away.
fn product_as_matrix(a: &[usize], b: &[usize], shape: &[usize]) -> Vec<usize> {
    let mut full = shape.to_vec();
    if b.len() == 1 {
        full.push(1);
    }
    if a.len() == 1 {
        full.insert(full.len() - 1, 1);
    }
    full
}

/// Shapes of two operands that can be multiplied.
fn sample_shapes(rng: &mut Rng) -> [Vec<usize>; 2] {
    let [m, k, n, p, q] = [(); 5].map(|()| 1 + rng.below(4));
    match rng.below(6) {
        0 => [vec![k], vec![k, n]],
        1 => [vec![p, m, k], vec![k]],
        2 | 3 => [vec![m, k], vec![k, n]],
        4 => [vec![p, m, k], vec![p, k, n]],
        _ => [vec![q, 1, m, k], vec![p, k, n]],
    }
}

/// A shape of scales for an operand: for all, along its rows (columns), or of its rank.
fn sample_spread(rng: &mut Rng, operand: &[usize], side: Side) -> Vec<usize> {
    let (rank, (kept, summed)) = (operand.len(), side.axes());
    match rng.below(3) {
        0 if rank >= 2 => vec![operand[rank - kept]],
        1 if rank >= 2 => {
            let mut shape = operand.to_vec();
            shape[rank - summed] = 1;
            shape
        }
        _ => vec![],
    }
}

const BYTES: &[DType] = &[DType::I8, DType::U8];

/// Any values of an 8-bit type.
pub(crate) fn sample_bytes(rng: &mut Rng, dtype: DType, shape: &[usize]) -> Tensor {
    let low = if dtype == DType::U8 { 0.0 } else { -128.0 };
    rng.tensor(dtype, shape, low, low + 255.0)
}

fn sample_integer(rng: &mut Rng) -> Sample {
    let [a, b] = sample_shapes(rng);
    let (a_type, b_type) = (*rng.pick(BYTES), *rng.pick(BYTES));
    let mut inputs = vec![Some(sample_bytes(rng, a_type, &a)), Some(sample_bytes(rng, b_type, &b))];
    if rng.below(3) > 0 {
        let shape = sample_spread(rng, &a, Side::Left);
        inputs.push((rng.below(3) > 0).then(|| sample_bytes(rng, a_type, &shape)));
        let shape = sample_spread(rng, &b, Side::Right);
        inputs.push(Some(sample_bytes(rng, b_type, &shape)));
    }
    Sample { attrs: Attrs::new(), inputs, n_outputs: 1 }
}

fn sample_qlinear(rng: &mut Rng) -> Sample {
    let shapes = sample_shapes(rng);
    let scale = *rng.pick(&[DType::F32, DType::F16, DType::Bf16]);
    let mut inputs = Vec::new();
    let types = if rng.below(4) == 0 { FLOATS } else { BYTES };
    for (shape, side) in shapes.iter().zip([Side::Left, Side::Right]) {
        let (dtype, spread) = (*rng.pick(types), sample_spread(rng, shape, side));
        inputs.push(Some(sample_bytes(rng, dtype, shape)));
        inputs.push(Some(rng.tensor(scale, &spread, 0.01, 0.1)));
        inputs.push(Some(sample_bytes(rng, dtype, &spread)));
    }
    inputs.push(Some(rng.tensor(scale, &[], 0.5, 2.0)));
    let dtype = *rng.pick(types);
    inputs.push(Some(sample_bytes(rng, dtype, &[])));
    Sample { attrs: Attrs::new(), inputs, n_outputs: 1 }
}
