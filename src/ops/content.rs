//! Content: arithmetic over small integer tensors whose elements are dims, so that the shape computations of
//! exporters resolve before the program runs.

use partita_ir::op::InferCtx;
use partita_ir::{DType, Dim};

/// The elements of operand `n` as dims.
pub fn dims(ctx: &InferCtx, n: usize) -> Option<Vec<Dim>> {
    ctx.inputs.get(n).copied().flatten()?.content?.as_dims()
}

/// The only element of operand `n`.
pub fn dim(ctx: &InferCtx, n: usize) -> Option<Dim> {
    let mut all = dims(ctx, n)?;
    (all.len() == 1).then(|| all.remove(0))
}

/// The first operand's content, when the result has at most one dimension.
pub fn pass(ctx: &InferCtx) -> Option<Vec<Dim>> {
    dims(ctx, 0)
}

/// Whether arithmetic on sizes is the same as arithmetic in this type (others wrap early or have no sign).
pub fn holds_sizes(dtype: DType) -> bool {
    matches!(dtype, DType::I64 | DType::I32)
}

/// Whether all operands have at most one dimension and elements that hold sizes.
fn is_list(ctx: &InferCtx) -> bool {
    ctx.inputs.iter().flatten().all(|o| o.ty.rank() <= 1 && holds_sizes(o.ty.dtype))
}

/// Applies `f` to pairs of elements; a single element goes with all of the other's.
pub fn zip(ctx: &InferCtx, f: impl Fn(&Dim, &Dim) -> Option<Dim>) -> Option<Vec<Dim>> {
    if !is_list(ctx) {
        return None;
    }
    let (a, b) = (dims(ctx, 0)?, dims(ctx, 1)?);
    let n = broadcast_len(&[a.len(), b.len()])?;
    (0..n).map(|i| f(at(&a, i), at(&b, i))).collect()
}

/// Folds all operands elementwise.
pub fn fold(ctx: &InferCtx, f: impl Fn(&Dim, &Dim) -> Option<Dim>) -> Option<Vec<Dim>> {
    if !is_list(ctx) {
        return None;
    }
    let all: Vec<Vec<Dim>> = (0..ctx.inputs.len()).map(|n| dims(ctx, n)).collect::<Option<_>>()?;
    let n = broadcast_len(&all.iter().map(Vec::len).collect::<Vec<_>>())?;
    (0..n)
        .map(|i| {
            let first = at(all.first()?, i).clone();
            all[1..].iter().try_fold(first, |acc, list| f(&acc, at(list, i)))
        })
        .collect()
}

/// Element `i` of a list; of a single element for every `i`.
pub fn at(list: &[Dim], i: usize) -> &Dim {
    &list[if list.len() == 1 { 0 } else { i }]
}

/// Length of lists that broadcast.
pub fn broadcast_len(lens: &[usize]) -> Option<usize> {
    let n = lens.iter().copied().find(|&l| l != 1).unwrap_or(1);
    lens.iter().all(|&l| l == n || l == 1).then_some(n)
}

/// Whether `a < b`, where that does not depend on the symbols.
pub fn less(a: &Dim, b: &Dim) -> Option<bool> {
    if (b.clone() - a.clone()).at_least().is_some_and(|d| d > 0) {
        return Some(true);
    }
    (a.clone() - b.clone()).at_least().is_some_and(|d| d >= 0).then_some(false)
}

/// Whether `a == b`, where that does not depend on the symbols.
pub fn equal(a: &Dim, b: &Dim) -> Option<bool> {
    if a == b {
        return Some(true);
    }
    (less(a, b) == Some(true) || less(b, a) == Some(true)).then_some(false)
}
