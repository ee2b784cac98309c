//! Elements in bulk: reading them as numbers, moving them by position, and the few broadcasting walks that
//! every family shares.

use crate::common::{broadcast_shapes, tensor, type_error};
use partita_ir::diag::Diag;
use partita_ir::op::EvalCtx;
use partita_ir::tensor::n_elements;
use partita_ir::{Bytes, DType, Tensor};

/// Integers of any element type without loss; i128 so that neither u64 nor a product wraps too early.
pub fn ints(t: &Tensor) -> Vec<i128> {
    let unsigned = t.dtype() == DType::U64;
    let widen = |v: i64| if unsigned { i128::from(v.cast_unsigned()) } else { i128::from(v) };
    t.to_i64s().into_iter().map(widen).collect()
}

/// A tensor of an integer `dtype`; values wrap at its width.
///
/// # Errors
/// When the number of values does not match the shape.
pub fn from_ints(dtype: DType, shape: &[usize], values: &[i128]) -> Result<Tensor, Diag> {
    let wrapped: Vec<i64> = values.iter().map(|&v| v as i64).collect();
    crate::common::from_i64s(dtype, shape, &wrapped)
}

/// Positions visited by walking `shape` in row-major order, where a step along axis `i` moves by `strides[i]`
/// elements, starting at `start`.
pub fn walk(shape: &[usize], start: i64, strides: &[i64]) -> Vec<usize> {
    let n = n_elements(shape).unwrap_or(0);
    let mut out = Vec::with_capacity(n);
    let mut index = vec![0usize; shape.len()];
    let mut at = start;
    for _ in 0..n {
        out.push(usize::try_from(at).unwrap_or(0));
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis] as i64;
            index[axis] = 0;
        }
    }
    out
}

/// Row-major strides as signed numbers, for `walk`.
pub fn signed_strides(shape: &[usize]) -> Vec<i64> {
    crate::common::strides(shape).into_iter().map(|s| s as i64).collect()
}

/// For every element of `out` the position in a tensor of shape `shape` that broadcasts to it.
pub fn broadcast_walk(out: &[usize], shape: &[usize]) -> Vec<usize> {
    let skip = out.len().saturating_sub(shape.len());
    let mut strides = vec![0i64; skip];
    strides.extend(signed_strides(shape).iter().zip(shape).map(|(&s, &d)| if d == 1 { 0 } else { s }));
    walk(out, 0, &strides)
}

/// The elements of `x` at `positions`, as a tensor of shape `shape`.
///
/// # Errors
/// When a position is out of range or their number does not match the shape.
pub fn take(x: &Tensor, shape: &[usize], positions: &[usize]) -> Result<Tensor, Diag> {
    let size = x.dtype().size_bytes();
    let bytes = x.bytes();
    let mut out = Vec::with_capacity(positions.len() * size);
    for &p in positions {
        let element = bytes.get(p * size..(p + 1) * size);
        out.extend(element.ok_or_else(|| type_error("an element outside the operand is read"))?);
    }
    from_bytes(x.dtype(), shape, out)
}

/// A tensor over `bytes`.
///
/// # Errors
/// When their number does not match the shape.
pub fn from_bytes(dtype: DType, shape: &[usize], bytes: Vec<u8>) -> Result<Tensor, Diag> {
    Tensor::new(dtype, shape, Bytes::from_vec(bytes))
        .ok_or_else(|| type_error("a result has the wrong number of elements"))
}

/// The same elements in another shape.
///
/// # Errors
/// When the numbers of elements differ.
pub fn reshaped(x: &Tensor, shape: &[usize]) -> Result<Tensor, Diag> {
    x.reshaped(shape).ok_or_else(|| {
        type_error(format!("{} elements do not fit the shape {shape:?}", x.n_elements()))
            .hint("the numbers of elements must be equal")
    })
}

/// Applies `f` to every element of the first operand, in f64, rounded once.
///
/// # Errors
/// When the operand is missing.
pub fn map_floats(ctx: &EvalCtx, f: impl Fn(f64) -> f64) -> Result<Vec<Tensor>, Diag> {
    let x = tensor(ctx, 0)?;
    let y: Vec<f64> = x.to_f64s().into_iter().map(f).collect();
    Ok(vec![crate::common::from_f64s(x.dtype(), x.shape(), &y)?])
}

/// As `map_floats`, with `g` for integer element types.
///
/// # Errors
/// When the operand is missing.
pub fn map_numbers(
    ctx: &EvalCtx,
    f: impl Fn(f64) -> f64,
    g: impl Fn(i128) -> i128,
) -> Result<Vec<Tensor>, Diag> {
    let x = tensor(ctx, 0)?;
    if x.dtype().is_float() {
        return map_floats(ctx, f);
    }
    let y: Vec<i128> = ints(x).into_iter().map(g).collect();
    Ok(vec![from_ints(x.dtype(), x.shape(), &y)?])
}

/// Pairs of broadcast elements and the shape they have.
fn zip<T: Copy>(
    a: (&[usize], &[T]),
    b: (&[usize], &[T]),
    mut each: impl FnMut(T, T),
) -> Result<Vec<usize>, Diag> {
    let shape = broadcast_shapes(&[a.0, b.0])?;
    if a.0 == b.0 {
        a.1.iter().zip(b.1).for_each(|(&x, &y)| each(x, y));
        return Ok(shape);
    }
    let left = broadcast_walk(&shape, a.0);
    let right = broadcast_walk(&shape, b.0);
    left.into_iter().zip(right).for_each(|(i, j)| each(a.1[i], b.1[j]));
    Ok(shape)
}

/// Applies `f` to broadcast pairs of floats; the results and their shape.
///
/// # Errors
/// When the shapes do not broadcast.
pub fn zip_floats<R>(
    a: &Tensor,
    b: &Tensor,
    f: impl Fn(f64, f64) -> R,
) -> Result<(Vec<usize>, Vec<R>), Diag> {
    let mut out = Vec::new();
    let shape = zip((a.shape(), &a.to_f64s()), (b.shape(), &b.to_f64s()), |x, y| out.push(f(x, y)))?;
    Ok((shape, out))
}

/// Applies `f` to broadcast pairs of integers; the results and their shape.
///
/// # Errors
/// When the shapes do not broadcast.
pub fn zip_ints<R>(
    a: &Tensor,
    b: &Tensor,
    f: impl Fn(i128, i128) -> R,
) -> Result<(Vec<usize>, Vec<R>), Diag> {
    let mut out = Vec::new();
    let shape = zip((a.shape(), &ints(a)), (b.shape(), &ints(b)), |x, y| out.push(f(x, y)))?;
    Ok((shape, out))
}

/// Applies `f` or `g` to the two operands, depending on their element type; the result has the first's.
///
/// # Errors
/// When an operand is missing or the shapes do not broadcast.
pub fn zip_numbers(
    ctx: &EvalCtx,
    f: impl Fn(f64, f64) -> f64,
    g: impl Fn(i128, i128) -> i128,
) -> Result<Vec<Tensor>, Diag> {
    let (a, b) = (tensor(ctx, 0)?, tensor(ctx, 1)?);
    let y = if a.dtype().is_float() {
        let (shape, values) = zip_floats(a, b, f)?;
        crate::common::from_f64s(a.dtype(), &shape, &values)?
    } else {
        let (shape, values) = zip_ints(a, b, g)?;
        from_ints(a.dtype(), &shape, &values)?
    };
    Ok(vec![y])
}
