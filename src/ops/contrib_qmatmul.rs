//! `qgemm`: a matrix product over 8-bit numbers.

use crate::common::{
    PLAIN, attr, between, broadcast, exactly, from_f64s, from_i64s, input, tensor, type_error, work,
};
use crate::contrib_common::{
    Quant, check_scale, check_zero, eight_bits, ms, number, sample_eight_bit_type, sample_eight_bits,
    sample_scale,
};
use crate::elements::broadcast_walk;
use crate::eval::{may_equal, optional, optional_type, result, same_dim};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&QGEMM];

static QGEMM: OpDef = OpDef {
    name: "qgemm",
    doc: "alpha * a' * b' + c over 8-bit matrices; the result is f32, or 8-bit with its own scale.",
    onnx: &[ms("QGemm")],
    inputs: between(2, 9),
    outputs: exactly(1),
    attrs: &[attr("alpha", AttrKind::Float), attr("trans_a", AttrKind::Int), attr("trans_b", AttrKind::Int)],
    traits: PLAIN,
    infer,
    content: None,
    eval,
    scalar: None,
    data: None,
    work: work_gemm,
    sample,
};

/// Rows and columns of matrix operand `n`, after the transposition `flag` asks for.
fn sides<'a>(ctx: &InferCtx<'a>, n: usize, flag: &str) -> Result<[&'a Dim; 2], Diag> {
    match input(ctx, n)?.shape.as_slice() {
        [rows, columns] if ctx.attrs.flag(flag) => Ok([columns, rows]),
        [rows, columns] => Ok([rows, columns]),
        _ => Err(type_error(format!("operand {n} must be a matrix, it is {}", input(ctx, n)?))),
    }
}

/// Checks that operand `n`, where given, has one element or one for each of `columns`.
fn check_columns(ctx: &InferCtx, n: usize, dtype: DType, columns: &Dim) -> Result<(), Diag> {
    let Some(ty) = optional_type(ctx, n) else { return Ok(()) };
    let fits = match ty.shape.as_slice() {
        [] => true,
        [d] => d.is(1) || may_equal(d, columns),
        _ => false,
    };
    if fits && ty.dtype == dtype {
        return Ok(());
    }
    Err(type_error(format!(
        "operand {n} must be one {} or one for each of {columns} columns, it is {ty}",
        dtype.name()
    )))
}

/// Operands: a, its scale and zero point; b, its scales and zero points; c; the result's scale and zero point.
fn infer(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (a, b) = (eight_bits(ctx, 0)?, eight_bits(ctx, 3)?);
    let [m, k] = sides(ctx, 0, "trans_a")?;
    let [k_again, n] = sides(ctx, 3, "trans_b")?;
    same_dim(k, k_again, "the inner dimensions of a product")?;
    check_scale(ctx, 1)?;
    check_zero(ctx, 2, a)?;
    check_columns(ctx, 4, DType::F32, n)?;
    check_columns(ctx, 5, b, n)?;
    let shape = vec![m.clone(), n.clone()];
    if let Some(c) = optional_type(ctx, 6) {
        let both = broadcast(&[&shape, &c.shape])?;
        let grows = both.iter().zip(&shape).any(|(b, s)| s.as_known().is_some() && b != s);
        if c.dtype != DType::I32 || both.len() > 2 || grows {
            return Err(type_error(format!("operand 6 must be i32 and broadcast to [{m}, {n}], it is {c}")));
        }
    }
    if optional_type(ctx, 7).is_none() {
        return Ok(vec![Type::new(DType::F32, shape)]);
    }
    check_scale(ctx, 7)?;
    let dtype = optional_type(ctx, 8).map_or(a, |t| t.dtype);
    check_zero(ctx, 8, a)?;
    Ok(vec![Type::new(dtype, shape)])
}

/// A matrix of numbers less their zero points (one, or one for each column of the matrix as it is used), in the
/// order it is used.
fn centred(t: &Tensor, zero: Option<&Tensor>, flip: bool) -> Vec<i64> {
    let (rows, columns) = (t.shape()[0], t.shape()[1]);
    let values = t.to_i64s();
    let zero = zero.map(Tensor::to_i64s).unwrap_or_default();
    let at = |i: usize, columns: usize| zero.get(if zero.len() == 1 { 0 } else { i % columns }).copied();
    let all = 0..rows * columns;
    if flip {
        all.map(|i| values[(i % rows) * columns + i / rows] - at(i, rows).unwrap_or(0)).collect()
    } else {
        all.map(|i| values[i] - at(i, columns).unwrap_or(0)).collect()
    }
}

/// Row-major `a` (m x k) times `b` (k x n).
fn product(a: &[i64], b: &[i64], [m, k, n]: [usize; 3]) -> Vec<i64> {
    let mut out = vec![0i64; m * n];
    for i in 0..m {
        for j in 0..k {
            let x = a[i * k + j];
            for (slot, y) in out[i * n..(i + 1) * n].iter_mut().zip(&b[j * n..(j + 1) * n]) {
                *slot += x * y;
            }
        }
    }
    out
}

fn eval(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer)?;
    let (a, b) = (tensor(ctx, 0)?, tensor(ctx, 3)?);
    let trans_a = ctx.attrs.flag("trans_a");
    let k = a.shape()[usize::from(!trans_a)];
    let numbers =
        [centred(a, optional(ctx, 2), trans_a), centred(b, optional(ctx, 5), ctx.attrs.flag("trans_b"))];
    let mut sums = product(&numbers[0], &numbers[1], [shape[0], k, shape[1]]);
    if let Some(c) = optional(ctx, 6) {
        let values = c.to_i64s();
        for (slot, i) in sums.iter_mut().zip(broadcast_walk(&shape, c.shape())) {
            // The sum is one of i32, which wraps.
            *slot = i64::from((*slot as i32).wrapping_add(values[i] as i32));
        }
    }
    let a_scale = ctx.attrs.float_or("alpha", 1.0) * number(tensor(ctx, 1)?) as f32;
    let scales: Vec<f32> = tensor(ctx, 4)?.to_f64s().iter().map(|s| a_scale * *s as f32).collect();
    let scale = |i: usize| scales[if scales.len() == 1 { 0 } else { i % shape[1] }];
    if optional(ctx, 7).is_none() {
        let y: Vec<f64> = sums.iter().enumerate().map(|(i, v)| f64::from(*v as f32 * scale(i))).collect();
        return Ok(vec![from_f64s(dtype, &shape, &y)?]);
    }
    let y = Quant::read(ctx, 7, 8, dtype)?;
    let requantized = |(i, v): (usize, &i64)| {
        y.saturated((*v as f32 * (scale(i) / y.scale)).round_ties_even() as i64, y.zero)
    };
    let out: Vec<i64> = sums.iter().enumerate().map(requantized).collect();
    Ok(vec![from_i64s(dtype, &shape, &out)?])
}

fn work_gemm(ctx: &WorkCtx) -> Work {
    let inner = |s: &[usize]| s.get(usize::from(!ctx.attrs.flag("trans_a"))).copied();
    let k = ctx.inputs.first().and_then(Option::as_ref).and_then(|(_, s)| inner(s)).unwrap_or(0);
    work(ctx, 2.0 * k as f64 * crate::common::n_out(ctx), WorkKind::Dense)
}

fn sample(rng: &mut Rng) -> Sample {
    let [m, k, n] = [(); 3].map(|()| 1 + rng.below(4));
    let (trans_a, trans_b) = (rng.int(0, 1), rng.int(0, 1));
    let (a_type, b_type) = (sample_eight_bit_type(rng), sample_eight_bit_type(rng));
    let columns = if rng.below(2) == 0 { vec![] } else { vec![n] };
    let mut inputs = vec![
        Some(sample_eight_bits(rng, a_type, &if trans_a == 1 { [k, m] } else { [m, k] })),
        Some(sample_scale(rng)),
        Some(sample_eight_bits(rng, a_type, &[])),
        Some(sample_eight_bits(rng, b_type, &if trans_b == 1 { [n, k] } else { [k, n] })),
        Some(rng.tensor(DType::F32, &columns, 0.01, 0.3)),
        Some(sample_eight_bits(rng, b_type, &columns)),
    ];
    inputs.push((rng.below(2) == 0).then(|| rng.tensor(DType::I32, &[n], -1000.0, 1000.0)));
    if rng.below(2) == 0 {
        inputs.push(Some(rng.tensor(DType::F32, &[], 1.0, 20.0)));
        inputs.push(Some(sample_eight_bits(rng, a_type, &[])));
    }
    let attrs = Attrs::new()
        .with("trans_a", trans_a)
        .with("trans_b", trans_b)
        .with("alpha", *rng.pick(&[1.0f32, 0.5]));
    Sample { attrs, inputs, n_outputs: 1 }
}
