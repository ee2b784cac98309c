//! Matrix products: `matmul` with numpy's broadcasting, and `gemm`.

use crate::common::{
    PLAIN, attr, between, broadcast, broadcast_position, exactly, from_f64s, from_i64s, indices, input, onnx,
    tensor, type_error, work,
};
use crate::eval::{optional, optional_type, result, same_dim, same_dtypes};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::tensor::n_elements;
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&MATMUL, &GEMM];

/// Matrix product.
static MATMUL: OpDef = OpDef {
    name: "matmul",
    doc: "matrix product over the last two axes; leading axes broadcast, 1-D operands are vectors (numpy)",
    onnx: &[onnx("MatMul", 1)],
    inputs: exactly(2),
    outputs: exactly(1),
    attrs: &[],
    traits: PLAIN,
    infer: infer_matmul,
    content: None,
    eval: eval_matmul,
    scalar: None,
    data: None,
    work: work_matmul,
    sample: sample_matmul,
};

/// alpha * a' * b' + beta * c.
static GEMM: OpDef = OpDef {
    name: "gemm",
    doc: "alpha * a' * b' + beta * c for matrices, a' and b' optionally transposed",
    onnx: &[onnx("Gemm", 11)],
    inputs: between(2, 3),
    outputs: exactly(1),
    attrs: &[
        attr("alpha", AttrKind::Float),
        attr("beta", AttrKind::Float),
        attr("trans_a", AttrKind::Int),
        attr("trans_b", AttrKind::Int),
    ],
    traits: PLAIN,
    infer: infer_gemm,
    content: None,
    eval: eval_gemm,
    scalar: None,
    data: None,
    work: work_gemm,
    sample: sample_gemm,
};

/// The shape as a matrix, and whether an axis of 1 was added; `left` puts it in front.
fn as_matrix<D: Clone>(shape: &[D], one: D, left: bool) -> (Vec<D>, bool) {
    match shape {
        [d] if left => (vec![one, d.clone()], true),
        [d] => (vec![d.clone(), one], true),
        _ => (shape.to_vec(), false),
    }
}

fn infer_matmul(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let dtype = same_dtypes(ctx, 0..2)?;
    Ok(vec![Type::new(dtype, product_shape(input(ctx, 0)?, input(ctx, 1)?)?)])
}

/// Shape of the matrix product of `a` and `b`.
///
/// # Errors
/// `V020` for scalars, or sizes that do not fit.
pub(crate) fn product_shape(a: &Type, b: &Type) -> Result<Vec<Dim>, Diag> {
    if a.rank() == 0 || b.rank() == 0 {
        return Err(type_error("matmul wants operands of at least one dimension").hint("use mul for scalars"));
    }
    let (a, a_vector) = as_matrix(&a.shape, Dim::known(1), true);
    let (b, b_vector) = as_matrix(&b.shape, Dim::known(1), false);
    let (a_batch, a_last) = a.split_at(a.len() - 2);
    let (b_batch, b_last) = b.split_at(b.len() - 2);
    same_dim(&a_last[1], &b_last[0], "the inner dimensions of a product")?;
    let mut shape = broadcast(&[a_batch, b_batch])?;
    if !a_vector {
        shape.push(a_last[0].clone());
    }
    if !b_vector {
        shape.push(b_last[1].clone());
    }
    Ok(shape)
}

/// Sizes of a plain product.
#[derive(Clone, Copy)]
struct Sizes {
    m: usize,
    k: usize,
    n: usize,
}

/// Element type the arithmetic runs in: f64 for floats, wrapping i64 for integers.
pub(crate) trait Number: Copy {
    const ZERO: Self;
    const ONE: Self;
    /// `self + a * b`.
    fn mul_add(self, a: Self, b: Self) -> Self;
}

impl Number for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    fn mul_add(self, a: Self, b: Self) -> Self {
        self + a * b
    }
}

impl Number for i64 {
    const ZERO: Self = 0;
    const ONE: Self = 1;
    fn mul_add(self, a: Self, b: Self) -> Self {
        self.wrapping_add(a.wrapping_mul(b))
    }
}

/// Row-major `a` (m x k) times `b` (k x n), appended to `out`.
fn product<T: Number>(a: &[T], b: &[T], s: Sizes, out: &mut Vec<T>) {
    for i in 0..s.m {
        let mut row = vec![T::ZERO; s.n];
        for k in 0..s.k {
            let x = a[i * s.k + k];
            for (slot, &y) in row.iter_mut().zip(&b[k * s.n..(k + 1) * s.n]) {
                *slot = slot.mul_add(x, y);
            }
        }
        out.extend(row);
    }
}

fn batched<T: Number>(a: (&[usize], &[T]), b: (&[usize], &[T]), batch: &[usize]) -> Vec<T> {
    let (a_batch, a_last) = a.0.split_at(a.0.len() - 2);
    let (b_batch, b_last) = b.0.split_at(b.0.len() - 2);
    let s = Sizes { m: a_last[0], k: a_last[1], n: b_last[1] };
    let mut out = Vec::new();
    for at in indices(batch) {
        let from_a = broadcast_position(&at, a_batch) * s.m * s.k;
        let from_b = broadcast_position(&at, b_batch) * s.k * s.n;
        product(&a.1[from_a..from_a + s.m * s.k], &b.1[from_b..from_b + s.k * s.n], s, &mut out);
    }
    out
}

fn eval_matmul(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_matmul)?;
    let (a, b) = (tensor(ctx, 0)?, tensor(ctx, 1)?);
    let y = if dtype.is_float() {
        let y = multiplied((a.shape(), &a.to_f64s()), (b.shape(), &b.to_f64s()), &shape);
        from_f64s(dtype, &shape, &y)
    } else {
        let y = multiplied((a.shape(), &a.to_i64s()), (b.shape(), &b.to_i64s()), &shape);
        from_i64s(dtype, &shape, &y)
    };
    Ok(vec![y?])
}

/// The matrix product of two operands (shape and elements); `shape` is what `product_shape` says.
pub(crate) fn multiplied<T: Number>(a: (&[usize], &[T]), b: (&[usize], &[T]), shape: &[usize]) -> Vec<T> {
    let (a_shape, a_vector) = as_matrix(a.0, 1, true);
    let (b_shape, b_vector) = as_matrix(b.0, 1, false);
    let n_matrix = 2 - usize::from(a_vector) - usize::from(b_vector);
    batched((&a_shape, a.1), (&b_shape, b.1), &shape[..shape.len() - n_matrix])
}

/// Work: two operations per element of a row times a column; operand 0 has the rows.
pub(crate) fn work_matmul(ctx: &WorkCtx) -> Work {
    let inner = ctx.inputs.first().and_then(Option::as_ref).and_then(|(_, s)| s.last()).copied();
    let out = ctx.outputs.first().and_then(|(_, s)| n_elements(s)).unwrap_or(0);
    work(ctx, 2.0 * out as f64 * inner.unwrap_or(0) as f64, WorkKind::Dense)
}

fn sample_matmul(rng: &mut Rng) -> Sample {
    let [m, k, n, p, q] = [(); 5].map(|()| 1 + rng.below(4));
    let (a, b): (Vec<usize>, Vec<usize>) = match rng.below(7) {
        0 => (vec![k], vec![k]),
        1 => (vec![k], vec![p, k, n]),
        2 => (vec![q, m, k], vec![k]),
        3 => (vec![m, k], vec![k, n]),
        4 => (vec![p, m, k], vec![k, n]),
        5 => (vec![q, 1, m, k], vec![p, k, n]),
        _ => (vec![p, q, m, k], vec![p, q, k, n]),
    };
    let dtype = *rng.pick(&[DType::F32, DType::F32, DType::F32, DType::F64, DType::I32, DType::I64]);
    let inputs = vec![Some(rng.tensor(dtype, &a, -3.0, 3.0)), Some(rng.tensor(dtype, &b, -3.0, 3.0))];
    Sample { attrs: Attrs::new(), inputs, n_outputs: 1 }
}

/// Rows and columns of operand `n`, after the transposition `flag` asks for.
fn gemm_operand<'a>(ctx: &InferCtx<'a>, n: usize, flag: &str) -> Result<[&'a Dim; 2], Diag> {
    match input(ctx, n)?.shape.as_slice() {
        [rows, columns] if ctx.attrs.flag(flag) => Ok([columns, rows]),
        [rows, columns] => Ok([rows, columns]),
        other => Err(type_error(format!("gemm wants matrices, operand {n} has {} dimensions", other.len()))
            .hint("use matmul for other ranks")),
    }
}

fn infer_gemm(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let dtype = same_dtypes(ctx, 0..3)?;
    let [m, k] = gemm_operand(ctx, 0, "trans_a")?;
    let [k_again, n] = gemm_operand(ctx, 1, "trans_b")?;
    same_dim(k, k_again, "the inner dimensions of a product")?;
    let shape = vec![m.clone(), n.clone()];
    if let Some(c) = optional_type(ctx, 2) {
        let both = broadcast(&[&shape, &c.shape])?;
        let grows = both.iter().zip(&shape).any(|(b, s)| s.as_known().is_some() && b != s);
        if both.len() > 2 || grows {
            return Err(type_error(format!("operand 2 ({c}) does not broadcast to [{m}, {n}]")));
        }
    }
    Ok(vec![Type::new(dtype, shape)])
}

/// The elements of a matrix, transposed if `flip`.
fn transposed(values: Vec<f64>, shape: &[usize], flip: bool) -> Vec<f64> {
    if !flip {
        return values;
    }
    let (rows, columns) = (shape[0], shape[1]);
    (0..rows * columns).map(|i| values[(i % rows) * columns + i / rows]).collect()
}

fn eval_gemm(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_gemm)?;
    let (a, b) = (tensor(ctx, 0)?, tensor(ctx, 1)?);
    let trans_a = ctx.attrs.flag("trans_a");
    let k = if trans_a { a.shape()[0] } else { a.shape()[1] };
    let s = Sizes { m: shape[0], k, n: shape[1] };
    let alpha = f64::from(ctx.attrs.float_or("alpha", 1.0));
    let beta = f64::from(ctx.attrs.float_or("beta", 1.0));
    if !dtype.is_float() && alpha == 1.0 && beta == 1.0 {
        return gemm_integers(ctx, dtype, s);
    }
    let mut y = Vec::new();
    let b_values = transposed(b.to_f64s(), b.shape(), ctx.attrs.flag("trans_b"));
    product(&transposed(a.to_f64s(), a.shape(), trans_a), &b_values, s, &mut y);
    y.iter_mut().for_each(|v| *v *= alpha);
    if let Some(c) = optional(ctx, 2) {
        let values = c.to_f64s();
        for (slot, at) in y.iter_mut().zip(indices(&shape)) {
            *slot += beta * values[broadcast_position(&at, c.shape())];
        }
    }
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

fn gemm_integers(ctx: &EvalCtx, dtype: DType, s: Sizes) -> Result<Vec<Tensor>, Diag> {
    let flip = |n: usize, flag: &str| -> Result<Vec<i64>, Diag> {
        let t = tensor(ctx, n)?;
        let (values, columns) = (t.to_i64s(), t.shape()[1]);
        let rows = t.shape()[0];
        let all = 0..rows * columns;
        Ok(if ctx.attrs.flag(flag) {
            all.map(|i| values[(i % rows) * columns + i / rows]).collect()
        } else {
            values
        })
    };
    let mut y = Vec::new();
    product(&flip(0, "trans_a")?, &flip(1, "trans_b")?, s, &mut y);
    if let Some(c) = optional(ctx, 2) {
        let values = c.to_i64s();
        for (slot, at) in y.iter_mut().zip(indices(&[s.m, s.n])) {
            *slot = slot.wrapping_add(values[broadcast_position(&at, c.shape())]);
        }
    }
    Ok(vec![from_i64s(dtype, &[s.m, s.n], &y)?])
}

fn work_gemm(ctx: &WorkCtx) -> Work {
    let inner = |s: &[usize]| s.get(usize::from(!ctx.attrs.flag("trans_a"))).copied();
    let k = ctx.inputs.first().and_then(Option::as_ref).and_then(|(_, s)| inner(s)).unwrap_or(0);
    let out = ctx.outputs.first().and_then(|(_, s)| n_elements(s)).unwrap_or(0) as f64;
    let has_bias = ctx.inputs.get(2).is_some_and(Option::is_some);
    work(ctx, out * (2.0 * k as f64 + if has_bias { 1.0 } else { 0.0 }), WorkKind::Dense)
}

fn sample_gemm(rng: &mut Rng) -> Sample {
    let [m, k, n] = [(); 3].map(|()| 1 + rng.below(4));
    let (trans_a, trans_b) = (rng.int(0, 1), rng.int(0, 1));
    let a = if trans_a == 1 { [k, m] } else { [m, k] };
    let b = if trans_b == 1 { [n, k] } else { [k, n] };
    let c: Option<Vec<usize>> = match rng.below(5) {
        0 => None,
        1 => Some(vec![]),
        2 => Some(vec![n]),
        3 => Some(vec![m, 1]),
        _ => Some(vec![m, n]),
    };
    let attrs = Attrs::new()
        .with("trans_a", trans_a)
        .with("trans_b", trans_b)
        .with("alpha", *rng.pick(&[1.0f32, 0.5, -2.0]))
        .with("beta", *rng.pick(&[1.0f32, 0.25]));
    let mut inputs =
        vec![Some(rng.tensor(DType::F32, &a, -3.0, 3.0)), Some(rng.tensor(DType::F32, &b, -3.0, 3.0))];
    inputs.extend(c.map(|shape| Some(rng.tensor(DType::F32, &shape, -3.0, 3.0))));
    Sample { attrs, inputs, n_outputs: 1 }
}
