//! What evaluations of tensor operators share: concrete result types, splitting a tensor along axes, and a
//! wide integer form.

use crate::common::{type_error, unsupported};
use partita_ir::diag::Diag;
use partita_ir::op::{EvalCtx, InferCtx, InferFn, Operand};
use partita_ir::tensor::n_elements;
use partita_ir::types::{Content, Type};
use partita_ir::{DType, Dim, Tensor};

/// Largest result a reference evaluation allocates, in elements.
pub(crate) const MAX_EVAL_ELEMENTS: usize = 1 << 31;

/// A result's element type and shape.
pub(crate) type Shaped = (DType, Vec<usize>);

/// What `infer` says about concrete operands, so that evaluation checks exactly what inference checks.
///
/// # Errors
/// From `infer`; `U001` for a result above `MAX_EVAL_ELEMENTS`.
pub(crate) fn results(ctx: &EvalCtx, infer: InferFn) -> Result<Vec<Shaped>, Diag> {
    let types: Vec<Option<(Type, Content)>> = ctx
        .inputs
        .iter()
        .map(|t| t.map(|t| (Type::known(t.dtype(), t.shape()), Content::Const(t.clone()))))
        .collect();
    let inputs: Vec<Option<Operand>> =
        types.iter().map(|o| o.as_ref().map(|(ty, c)| Operand { ty, content: Some(c) })).collect();
    let inferred = infer(&InferCtx { attrs: ctx.attrs, inputs: &inputs, n_outputs: ctx.n_outputs })?;
    inferred.into_iter().map(concrete).collect()
}

fn concrete(ty: Type) -> Result<Shaped, Diag> {
    let shape = ty.known_shape().ok_or_else(|| type_error(format!("the result {ty} has no known size")))?;
    match n_elements(&shape) {
        Some(n) if n <= MAX_EVAL_ELEMENTS => Ok((ty.dtype, shape)),
        _ => Err(unsupported(format!("a result of {ty} is too large"))
            .hint(format!("results have at most {MAX_EVAL_ELEMENTS} elements"))),
    }
}

/// The first result of `results`.
///
/// # Errors
/// See `results`.
pub(crate) fn result(ctx: &EvalCtx, infer: InferFn) -> Result<Shaped, Diag> {
    let first = results(ctx, infer)?.into_iter().next();
    first.ok_or_else(|| type_error("the operator has no result"))
}

/// The tensor of an optional operand.
pub(crate) fn optional<'a>(ctx: &EvalCtx<'a>, n: usize) -> Option<&'a Tensor> {
    ctx.inputs.get(n).copied().flatten()
}

/// The type of an optional operand.
pub(crate) fn optional_type<'a>(ctx: &InferCtx<'a>, n: usize) -> Option<&'a Type> {
    ctx.inputs.get(n).copied().flatten().map(|o| o.ty)
}

/// A tensor seen as `outer x len x inner`, where `len` covers a run of neighbouring axes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lines {
    pub(crate) outer: usize,
    pub(crate) len: usize,
    pub(crate) inner: usize,
}

impl Lines {
    /// The split of `shape` along axes `from..to`.
    pub(crate) fn new(shape: &[usize], from: usize, to: usize) -> Self {
        Self {
            outer: shape[..from].iter().product(),
            len: shape[from..to].iter().product(),
            inner: shape[to..].iter().product(),
        }
    }

    /// Number of lines.
    pub(crate) fn count(self) -> usize {
        self.outer * self.inner
    }

    /// Positions of the elements of line `n`; lines are numbered outer first.
    pub(crate) fn line(self, n: usize) -> impl Iterator<Item = usize> + Clone {
        let (outer, inner) = (n / self.inner.max(1), n % self.inner.max(1));
        (0..self.len).map(move |i| (outer * self.len + i) * self.inner + inner)
    }

    /// `f` applied to every line of `x`, results at the same places.
    pub(crate) fn map(self, x: &[f64], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
        let mut y = vec![0.0; x.len()];
        for n in 0..self.count() {
            let line: Vec<f64> = self.line(n).map(|i| x[i]).collect();
            for (i, v) in self.line(n).zip(f(&line)) {
                y[i] = v;
            }
        }
        y
    }
}

/// The elements of an integer tensor, exact for every integer type.
pub(crate) fn to_i128s(t: &Tensor) -> Vec<i128> {
    let wide = |v: i64| if t.dtype() == DType::U64 { i128::from(v.cast_unsigned()) } else { i128::from(v) };
    t.to_i64s().into_iter().map(wide).collect()
}

/// Least and greatest value of an integer type.
pub(crate) fn int_range(dtype: DType) -> (i128, i128) {
    let bits = dtype.bits();
    match dtype {
        DType::Bool => (0, 1),
        DType::I2 | DType::I4 | DType::I8 | DType::I16 | DType::I32 | DType::I64 => {
            (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        }
        _ => (0, (1 << bits) - 1),
    }
}

/// What arithmetic in an element type does to an exact result.
pub(crate) fn rounding(dtype: DType) -> fn(f64) -> f64 {
    match dtype {
        DType::F16 => |v| half::f16::from_f64(v).to_f64(),
        DType::Bf16 => |v| half::bf16::from_f64(v).to_f64(),
        DType::F32 => |v| f64::from(v as f32),
        _ => |v| v,
    }
}

/// Whether two dims can be equal: a symbol fits anything.
pub(crate) fn may_equal(a: &Dim, b: &Dim) -> bool {
    match (a.as_known(), b.as_known()) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    }
}

/// Checks that two dims can be equal.
///
/// # Errors
/// `V020` with `what` in the sentence.
pub(crate) fn same_dim(a: &Dim, b: &Dim, what: &str) -> Result<(), Diag> {
    if may_equal(a, b) { Ok(()) } else { Err(type_error(format!("{what} must agree, they are {a} and {b}"))) }
}

/// Checks that all given operands have the element type of the first.
///
/// # Errors
/// `V020` when one differs.
pub(crate) fn same_dtypes(ctx: &InferCtx, operands: std::ops::Range<usize>) -> Result<DType, Diag> {
    let mut types = operands.filter_map(|n| optional_type(ctx, n));
    let first = types.next().ok_or_else(|| type_error("operand 0 is missing"))?.dtype;
    match types.find(|t| t.dtype != first) {
        None => Ok(first),
        Some(t) => Err(type_error(format!(
            "the operands' element types differ: {} and {}",
            first.name(),
            t.dtype.name()
        ))),
    }
}

/// Checks that an element type is a float.
///
/// # Errors
/// `V020` when it is not.
pub(crate) fn want_float(dtype: DType) -> Result<(), Diag> {
    if dtype.is_float() {
        Ok(())
    } else {
        Err(type_error(format!("the operands must be floats, not {}", dtype.name()))
            .hint("insert a cast in front of the operator"))
    }
}
