//! What many rows share: shape rules, error letters, readers of operands, default work and samplers.

use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{Arity, AttrDef, AttrKind, EvalCtx, InferCtx, OnnxName, Rng, Sample, Traits, WorkCtx};
use partita_ir::tensor::n_elements;
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Element types by group, for checks and samples.
pub const FLOATS: &[DType] = &[DType::F32, DType::F16, DType::Bf16, DType::F64];
/// Integers.
pub const INTS: &[DType] =
    &[DType::I8, DType::I16, DType::I32, DType::I64, DType::U8, DType::U16, DType::U32, DType::U64];

/// No special facts.
pub const PLAIN: Traits = Traits {
    elementwise: false,
    commutative: false,
    moves_data: false,
    reshapes: false,
    random: false,
    text: false,
};
/// No special facts, takes text.
pub const TEXT: Traits = Traits { text: true, ..PLAIN };
/// Elementwise.
pub const ELEMENTWISE: Traits = Traits { elementwise: true, ..PLAIN };
/// Elementwise, operands may be swapped.
pub const COMMUTATIVE: Traits = Traits { elementwise: true, commutative: true, ..PLAIN };
/// Moves elements.
pub const MOVES: Traits = Traits { moves_data: true, ..TEXT };
/// Reinterprets the shape.
pub const RESHAPES: Traits = Traits { moves_data: true, reshapes: true, ..TEXT };

/// Exactly `n`.
pub const fn exactly(n: usize) -> Arity {
    Arity { min: n, max: n }
}

/// From `min` to `max`.
pub const fn between(min: usize, max: usize) -> Arity {
    Arity { min, max }
}

/// `min` or more.
pub const fn at_least(min: usize) -> Arity {
    Arity { min, max: usize::MAX }
}

/// A name in ONNX's default domain.
pub const fn onnx(op_type: &'static str, since: i64) -> OnnxName {
    OnnxName { domain: "", op_type, since }
}

/// An optional attribute.
pub const fn attr(name: &'static str, kind: AttrKind) -> AttrDef {
    AttrDef { name, kind, operand: None, required: false }
}

/// A required attribute.
pub const fn required(name: &'static str, kind: AttrKind) -> AttrDef {
    AttrDef { name, kind, operand: None, required: true }
}

/// An attribute that newer ONNX forms take as operand `operand`.
pub const fn operand(name: &'static str, kind: AttrKind, operand: usize) -> AttrDef {
    AttrDef { name, kind, operand: Some(operand), required: false }
}

/// `V020`: the operands' types do not fit.
pub fn type_error(message: impl Into<String>) -> Diag {
    Diag::new("V020", message)
}

/// `V021`: an attribute's value does not fit.
pub fn attr_error(message: impl Into<String>) -> Diag {
    Diag::new("V021", message)
}

/// `U001`: valid, but not supported here.
pub fn unsupported(message: impl Into<String>) -> Diag {
    Diag::new("U001", message)
}

/// `U010`: a shape that is only known at run time.
pub fn data_dependent() -> Diag {
    Diag::new(partita_ir::builder::DATA_DEPENDENT, "the shape of the result depends on data")
        .hint("make the operand that holds the sizes a constant")
}

/// `X020`: an index that is out of range at run time.
pub fn index_error(index: i64, size: usize) -> Diag {
    Diag::new("X020", format!("index {index} is out of range for {size} elements"))
        .hint("check the indices that are fed to the model")
}

/// The type of operand `n`.
///
/// # Errors
/// When it is omitted.
pub fn input<'a>(ctx: &InferCtx<'a>, n: usize) -> Result<&'a Type, Diag> {
    ctx.inputs
        .get(n)
        .copied()
        .flatten()
        .map(|o| o.ty)
        .ok_or_else(|| type_error(format!("operand {n} is missing")))
}

/// The tensor of operand `n`.
///
/// # Errors
/// When it is omitted.
pub fn tensor<'a>(ctx: &EvalCtx<'a>, n: usize) -> Result<&'a Tensor, Diag> {
    ctx.inputs.get(n).copied().flatten().ok_or_else(|| type_error(format!("operand {n} is missing")))
}

/// Sizes that are an attribute, or the content of an operand where it is known.
pub fn dims_of(ctx: &InferCtx, name: &str, operand: usize) -> Option<Vec<Dim>> {
    ctx.attrs.dims(name).or_else(|| {
        ctx.inputs.get(operand).copied().flatten().and_then(|o| o.content).and_then(|c| c.as_dims())
    })
}

/// Integers that are an attribute or an operand of the evaluation.
pub fn ints_of(ctx: &EvalCtx, name: &str, operand: usize) -> Option<Vec<i64>> {
    ctx.attrs.ints(name).or_else(|| ctx.inputs.get(operand).copied().flatten().map(Tensor::to_i64s))
}

/// The axis counted from the front.
///
/// # Errors
/// When it is out of range.
pub fn axis_of(axis: i64, rank: usize) -> Result<usize, Diag> {
    let wrapped = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
    usize::try_from(wrapped)
        .ok()
        .filter(|&a| a < rank)
        .ok_or_else(|| attr_error(format!("axis {axis} is out of range for {rank} dimensions")))
}

/// Broadcasts two dims. A symbol against a number other than 1 is taken to be that number.
///
/// # Errors
/// When both are known, differ and neither is 1.
pub fn broadcast_dim(a: &Dim, b: &Dim) -> Result<Dim, Diag> {
    if a == b || b.is(1) {
        return Ok(a.clone());
    }
    if a.is(1) {
        return Ok(b.clone());
    }
    match (a.as_known(), b.as_known()) {
        (Some(x), Some(y)) => Err(type_error(format!("dimensions {x} and {y} do not broadcast"))),
        (Some(_), None) => Ok(a.clone()),
        (None, Some(_)) => Ok(b.clone()),
        // Two different expressions: one may be 1 at run time, so the larger is right either way.
        (None, None) => Ok(a.larger(b)),
    }
}

/// Broadcasts shapes by numpy's rules.
///
/// # Errors
/// When two dims do not fit.
pub fn broadcast(shapes: &[&[Dim]]) -> Result<Vec<Dim>, Diag> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![Dim::known(1); rank];
    for shape in shapes {
        for (slot, dim) in out[rank - shape.len()..].iter_mut().zip(*shape) {
            *slot = broadcast_dim(slot, dim)?;
        }
    }
    Ok(out)
}

/// Broadcasts concrete shapes.
///
/// # Errors
/// When two dims do not fit.
pub fn broadcast_shapes(shapes: &[&[usize]]) -> Result<Vec<usize>, Diag> {
    let dims: Vec<Vec<Dim>> = shapes.iter().map(|s| s.iter().map(|&d| d.into()).collect()).collect();
    let refs: Vec<&[Dim]> = dims.iter().map(Vec::as_slice).collect();
    let out = broadcast(&refs)?;
    Ok(out.iter().map(|d| usize::try_from(d.as_known().unwrap_or(0)).unwrap_or(0)).collect())
}

/// Evaluation of rows that have a `data` form.
///
/// # Errors
/// Always.
pub fn no_tensors(_: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    Err(unsupported("this operator is evaluated on values of any kind"))
}

/// Inference: one result of the first operand's type.
///
/// # Errors
/// When the operand is omitted.
pub fn same_as_first(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    Ok(vec![input(ctx, 0)?.clone()])
}

/// Row-major strides in elements.
pub fn strides(shape: &[usize]) -> Vec<usize> {
    let mut out = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        out[i - 1] = out[i] * shape[i];
    }
    out
}

/// All index tuples of a shape, in row-major order.
pub fn indices(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> {
    let shape = shape.to_vec();
    let n = n_elements(&shape).unwrap_or(0);
    (0..n).map(move |mut flat| {
        let mut index = vec![0; shape.len()];
        for (slot, &dim) in index.iter_mut().zip(&shape).rev() {
            *slot = flat % dim;
            flat /= dim;
        }
        index
    })
}

/// Position in a row-major tensor of shape `shape` that broadcasts to the index `index` of a larger shape.
pub fn broadcast_position(index: &[usize], shape: &[usize]) -> usize {
    let skip = index.len() - shape.len();
    shape.iter().zip(&index[skip..]).fold(0, |at, (&dim, &i)| at * dim + if dim == 1 { 0 } else { i })
}

/// A tensor of `dtype` from f64 values.
///
/// # Errors
/// When their number does not match the shape (a bug of the caller, reported rather than panicking).
pub fn from_f64s(dtype: DType, shape: &[usize], values: &[f64]) -> Result<Tensor, Diag> {
    Tensor::from_f64s(dtype, shape, values)
        .ok_or_else(|| type_error("a result has the wrong number of elements"))
}

/// A tensor of an integer `dtype` from i64 values.
///
/// # Errors
/// See `from_f64s`.
pub fn from_i64s(dtype: DType, shape: &[usize], values: &[i64]) -> Result<Tensor, Diag> {
    Tensor::from_i64s(dtype, shape, values)
        .ok_or_else(|| type_error("a result has the wrong number of elements"))
}

/// Bytes of a list of typed shapes.
fn bytes(tensors: &[(DType, Vec<usize>)]) -> f64 {
    tensors.iter().map(|(d, s)| n_elements(s).unwrap_or(usize::MAX) as f64 * d.size_bytes() as f64).sum()
}

/// Work with `flops` and the bytes of all operands and results.
pub fn work(ctx: &WorkCtx, flops: f64, kind: WorkKind) -> Work {
    let inputs: Vec<(DType, Vec<usize>)> = ctx.inputs.iter().flatten().cloned().collect();
    let dtype = ctx.outputs.first().or(inputs.first()).map_or(DType::F32, |t| t.0);
    Work { flops, read_bytes: bytes(&inputs), written_bytes: bytes(ctx.outputs), dtype, kind }
}

/// Number of elements of the first result.
pub fn n_out(ctx: &WorkCtx) -> f64 {
    ctx.outputs.first().map_or(0.0, |(_, s)| n_elements(s).unwrap_or(usize::MAX) as f64)
}

/// Work: one operation per result element.
pub fn work_elementwise(ctx: &WorkCtx) -> Work {
    work(ctx, n_out(ctx), WorkKind::Vector)
}

/// Work: moves the results' bytes.
pub fn work_move(ctx: &WorkCtx) -> Work {
    Work { read_bytes: bytes(ctx.outputs), ..work(ctx, 0.0, WorkKind::Move) }
}

/// Work: nothing.
pub fn work_free(_: &WorkCtx) -> Work {
    Work::free()
}

/// A random small shape of `rank` dims between 1 and 4.
pub fn sample_shape(rng: &mut Rng, rank: usize) -> Vec<usize> {
    (0..rank).map(|_| 1 + rng.below(4)).collect()
}

/// A sample with these operands and no attributes.
pub fn sample_of(inputs: Vec<Tensor>) -> Sample {
    Sample { attrs: Attrs::new(), inputs: inputs.into_iter().map(Some).collect(), n_outputs: 1 }
}

/// One f32 operand of rank 0 to 4 with elements in -3..3.
pub fn sample_unary(rng: &mut Rng) -> Sample {
    let rank = rng.below(5);
    let shape = sample_shape(rng, rank);
    sample_of(vec![rng.tensor(DType::F32, &shape, -3.0, 3.0)])
}
