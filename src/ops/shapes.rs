//! Readers for operators whose operands say which shape the result has.

use crate::common::{attr_error, data_dependent, dims_of, input, type_error};
use partita_ir::builder::MAX_RANK;
use partita_ir::diag::Diag;
use partita_ir::op::{EvalCtx, InferCtx, InferFn, Operand};
use partita_ir::tensor::n_elements;
use partita_ir::types::{Content, Type};
use partita_ir::{Dim, Tensor};

/// Most elements a result may have; larger ones are refused before anything is allocated.
pub const MAX_RESULT_ELEMENTS: usize = 1 << 32;

/// Whether operand `n` or the attribute `name` is given.
pub fn is_given(ctx: &InferCtx, name: &str, n: usize) -> bool {
    ctx.attrs.get(name).is_some() || ctx.inputs.get(n).copied().flatten().is_some()
}

/// Sizes from the attribute `name` or operand `n`.
///
/// # Errors
/// `U010` when they are not known before the program runs.
pub fn sizes(ctx: &InferCtx, name: &str, n: usize) -> Result<Vec<Dim>, Diag> {
    dims_of(ctx, name, n).ok_or_else(data_dependent)
}

/// Integers from the attribute `name` or operand `n`; `None` when neither is given.
///
/// # Errors
/// `U010` when they are not known before the program runs.
pub fn integers(ctx: &InferCtx, name: &str, n: usize) -> Result<Option<Vec<i64>>, Diag> {
    if !is_given(ctx, name, n) {
        return Ok(None);
    }
    let known: Option<Vec<i64>> = sizes(ctx, name, n)?.iter().map(Dim::as_known).collect();
    known.map(Some).ok_or_else(data_dependent)
}

/// What inference says exactly; where the shape depends on data, what `unknown` says instead.
///
/// # Errors
/// What inference says.
pub fn or_unknown(
    exact: Result<Vec<Type>, Diag>,
    unknown: impl FnOnce() -> Option<Vec<Type>>,
) -> Result<Vec<Type>, Diag> {
    match exact {
        Err(diag) if diag.code == data_dependent().code => unknown().ok_or(diag),
        other => other,
    }
}

/// A shape of `rank` sizes of result `output` that only a run can tell.
pub fn unknown_shape(output: usize, rank: usize) -> Vec<Dim> {
    (0..rank).map(|axis| Dim::unknown(output, axis)).collect()
}

/// One result of operand 0's element type whose `rank` sizes only a run can tell.
pub fn unknown_type(ctx: &InferCtx, rank: usize) -> Option<Vec<Type>> {
    Some(vec![Type::new(input(ctx, 0).ok()?.dtype, unknown_shape(0, rank))])
}

/// Number of elements of operand `n`, a list.
pub fn list_len(ctx: &InferCtx, n: usize) -> Option<usize> {
    let ty = ctx.inputs.get(n).copied().flatten()?.ty;
    match ty.known_shape()?.as_slice() {
        [] => Some(1),
        [len] => Some(*len).filter(|&len| len <= MAX_RANK),
        _ => None,
    }
}

/// Axes counted from the front, each once.
///
/// # Errors
/// `V021` when one is out of range or named twice.
pub fn normal_axes(axes: &[i64], rank: usize) -> Result<Vec<usize>, Diag> {
    let mut out = Vec::with_capacity(axes.len());
    for &axis in axes {
        let axis = crate::common::axis_of(axis, rank)?;
        if out.contains(&axis) {
            return Err(attr_error(format!("axis {axis} is named twice")));
        }
        out.push(axis);
    }
    Ok(out)
}

/// Types of the results of an evaluation: inference with everything known, so that both agree.
///
/// # Errors
/// What inference says.
pub fn result_types(ctx: &EvalCtx, infer: InferFn) -> Result<Vec<Type>, Diag> {
    let known: Vec<Option<(Type, Content)>> =
        ctx.inputs.iter().map(|t| t.map(|t| (Type::known(t.dtype(), t.shape()), content_of(t)))).collect();
    let inputs: Vec<Option<Operand>> =
        known.iter().map(|o| o.as_ref().map(|(ty, c)| Operand { ty, content: Some(c) })).collect();
    infer(&InferCtx { attrs: ctx.attrs, inputs: &inputs, n_outputs: ctx.n_outputs })
}

fn content_of(t: &Tensor) -> Content {
    Content::Const(t.clone())
}

/// The shape of the first result of an evaluation; see `result_types`.
///
/// # Errors
/// What inference says.
pub fn result_shape(ctx: &EvalCtx, infer: InferFn) -> Result<Vec<usize>, Diag> {
    let types = result_types(ctx, infer)?;
    let shape = types.first().and_then(Type::known_shape);
    let shape = shape.ok_or_else(|| type_error("the shape of the result is negative or not known"))?;
    if n_elements(&shape).is_none_or(|n| n > MAX_RESULT_ELEMENTS) {
        return Err(type_error(format!("a result of shape {shape:?} is too large"))
            .hint("check the sizes that the operands give"));
    }
    Ok(shape)
}

/// The first operand's content for operators that only change the shape: it stays while the result is a list.
pub fn list_content(ctx: &InferCtx, infer: InferFn) -> Option<Vec<Dim>> {
    let ty = infer(ctx).ok()?.into_iter().next()?;
    if ty.rank() > 1 || ty.dtype.is_float() {
        return None;
    }
    crate::content::dims(ctx, 0)
}

/// Two sizes that must be equal; the more definite one.
///
/// # Errors
/// `V020` when both are known and differ.
pub fn unify(a: &Dim, b: &Dim) -> Result<Dim, Diag> {
    match (a.as_known(), b.as_known()) {
        (Some(x), Some(y)) if x != y => Err(type_error(format!("sizes {x} and {y} differ"))),
        (None, Some(_)) => Ok(b.clone()),
        _ => Ok(a.clone()),
    }
}
