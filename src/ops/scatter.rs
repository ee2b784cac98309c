//! Operators that write elements at given indices.

use crate::common::{
    MOVES, attr, attr_error, axis_of, exactly, from_f64s, input, onnx, sample_of, sample_shape, tensor,
    type_error, work_move,
};
use crate::elements::{from_bytes, from_ints, ints};
use crate::gather::{
    check_indices, element_positions, same_rank, same_shape, sample_element_indices, sample_indices,
    tuple_position,
};
use crate::samples::{number, shape_of_rank, values};
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::{Attrs, DType, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&SCATTER_ELEMENTS, &SCATTER_ND];

/// How a written element meets the one that is there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reduction {
    None,
    Add,
    Mul,
    Max,
    Min,
}

fn reduction(attrs: &Attrs) -> Result<Reduction, Diag> {
    match attrs.str("reduction") {
        None | Some("none") => Ok(Reduction::None),
        Some("add") => Ok(Reduction::Add),
        Some("mul") => Ok(Reduction::Mul),
        Some("max") => Ok(Reduction::Max),
        Some("min") => Ok(Reduction::Min),
        Some(other) => Err(attr_error(format!("reduction is \"{other}\""))
            .hint("use \"none\", \"add\", \"mul\", \"max\" or \"min\"")),
    }
}

static SCATTER_ELEMENTS: OpDef = OpDef {
    name: "scatter_elements",
    doc: "x with each update written at its index along an axis; the other indices are the update's own.",
    onnx: &[onnx("ScatterElements", 11)],
    inputs: exactly(3),
    outputs: exactly(1),
    attrs: &[attr("axis", AttrKind::Int), attr("reduction", AttrKind::Str)],
    traits: MOVES,
    infer: infer_elements,
    content: None,
    eval: |c| {
        let (x, indices, updates) = (tensor(c, 0)?, tensor(c, 1)?, tensor(c, 2)?);
        same_shape(indices.shape(), updates.shape())?;
        let at = element_positions(x.shape(), indices, axis(c.attrs, x.rank())?)?;
        Ok(vec![scatter(x, &at, updates, reduction(c.attrs)?)?])
    },
    scalar: None,
    data: None,
    work: work_move,
    sample: sample_elements,
};

fn axis(attrs: &Attrs, rank: usize) -> Result<usize, Diag> {
    axis_of(attrs.int_or("axis", 0), rank)
}

/// Checks that updates have the element type of x.
fn check_updates(ctx: &InferCtx) -> Result<(), Diag> {
    reduction(ctx.attrs)?;
    check_indices(input(ctx, 1)?)?;
    let (x, updates) = (input(ctx, 0)?.dtype, input(ctx, 2)?.dtype);
    if x != updates {
        return Err(type_error(format!("the updates are {}, the operand is {}", updates.name(), x.name())));
    }
    Ok(())
}

fn infer_elements(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    check_updates(ctx)?;
    axis(ctx.attrs, x.rank())?;
    same_rank(x, input(ctx, 1)?)?;
    Ok(vec![x.clone()])
}

/// `x` with `updates` written at `positions`, in order.
fn scatter(x: &Tensor, positions: &[usize], updates: &Tensor, how: Reduction) -> Result<Tensor, Diag> {
    if how == Reduction::None {
        let size = x.dtype().size_bytes();
        let mut bytes = x.bytes().to_vec();
        for (&at, element) in positions.iter().zip(updates.bytes().chunks_exact(size)) {
            bytes[at * size..(at + 1) * size].copy_from_slice(element);
        }
        return from_bytes(x.dtype(), x.shape(), bytes);
    }
    if x.dtype() == DType::Str {
        return scatter_text(x, positions, updates, how);
    }
    if x.dtype().is_float() {
        let mut out = x.to_f64s();
        positions.iter().zip(updates.to_f64s()).for_each(|(&at, v)| out[at] = meet_floats(how, out[at], v));
        return from_f64s(x.dtype(), x.shape(), &out);
    }
    let mut out = ints(x);
    positions.iter().zip(ints(updates)).for_each(|(&at, v)| out[at] = meet_ints(how, out[at], v));
    from_ints(x.dtype(), x.shape(), &out)
}

/// Text is appended, or the later one in the order of characters wins.
fn scatter_text(x: &Tensor, positions: &[usize], updates: &Tensor, how: Reduction) -> Result<Tensor, Diag> {
    let mut out: Vec<String> = x.strings().into_iter().map(str::to_owned).collect();
    for (&at, new) in positions.iter().zip(updates.strings()) {
        match how {
            Reduction::None => new.clone_into(&mut out[at]),
            Reduction::Add => out[at].push_str(new),
            Reduction::Max if new > out[at].as_str() => new.clone_into(&mut out[at]),
            Reduction::Min if new < out[at].as_str() => new.clone_into(&mut out[at]),
            Reduction::Max | Reduction::Min => {}
            Reduction::Mul => {
                return Err(type_error("text cannot be multiplied").hint("use another reduction"));
            }
        }
    }
    Tensor::from_strings(x.shape(), &out)
        .ok_or_else(|| type_error("a result has the wrong number of elements"))
}

fn meet_floats(how: Reduction, old: f64, new: f64) -> f64 {
    match how {
        Reduction::None => new,
        Reduction::Add => old + new,
        Reduction::Mul => old * new,
        Reduction::Max => old.max(new),
        Reduction::Min => old.min(new),
    }
}

fn meet_ints(how: Reduction, old: i128, new: i128) -> i128 {
    match how {
        Reduction::None => new,
        Reduction::Add => old.wrapping_add(new),
        Reduction::Mul => old.wrapping_mul(new),
        Reduction::Max => old.max(new),
        Reduction::Min => old.min(new),
    }
}

/// Sets a random reduction; whether several updates may meet the same element.
fn sample_reduction(rng: &mut Rng, attrs: &mut Attrs) -> bool {
    let how = *rng.pick(&["", "none", "add", "mul", "max", "min"]);
    if !how.is_empty() {
        attrs.set("reduction", how);
    }
    !matches!(how, "" | "none")
}

fn sample_elements(rng: &mut Rng) -> Sample {
    let (dtype, shape) = (number(rng), shape_of_rank(rng, 1));
    let axis = rng.below(shape.len());
    let mut attrs = Attrs::new().with("axis", axis as i64);
    let may_meet = sample_reduction(rng, &mut attrs);
    let indices = sample_element_indices(rng, &shape, axis, !may_meet);
    let updates = values(rng, dtype, indices.shape());
    Sample { attrs, ..sample_of(vec![values(rng, dtype, &shape), indices, updates]) }
}

static SCATTER_ND: OpDef = OpDef {
    name: "scatter_nd",
    doc: "x with slices of the updates written at index tuples, the last axis of the indices.",
    onnx: &[onnx("ScatterND", 11)],
    attrs: &[attr("reduction", AttrKind::Str)],
    infer: infer_nd,
    eval: eval_nd,
    sample: sample_nd,
    ..SCATTER_ELEMENTS
};

fn infer_nd(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (x, indices) = (input(ctx, 0)?, input(ctx, 1)?);
    check_updates(ctx)?;
    let last =
        indices.shape.last().ok_or_else(|| type_error("the indices are a scalar, a list is wanted"))?;
    if last.as_known().is_some_and(|n| n < 0 || n > x.rank() as i64) {
        return Err(type_error(format!("index tuples of {last} do not fit {x}")));
    }
    Ok(vec![x.clone()])
}

fn eval_nd(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (x, indices, updates) = (tensor(ctx, 0)?, tensor(ctx, 1)?, tensor(ctx, 2)?);
    let len = indices.shape().last().copied().filter(|&n| n <= x.rank());
    let len = len.ok_or_else(|| type_error("index tuples are longer than the operand's shape"))?;
    let (sizes, inner) = x.shape().split_at(len);
    same_shape(updates.shape(), &[&indices.shape()[..indices.rank() - 1], inner].concat())?;
    let inner: usize = inner.iter().product();
    let n_tuples: usize = indices.shape()[..indices.rank() - 1].iter().product();
    let all = indices.to_i64s();
    let mut positions = Vec::with_capacity(updates.n_elements());
    for n in 0..n_tuples {
        let start = tuple_position(&all[n * len..(n + 1) * len], sizes)? * inner;
        positions.extend(start..start + inner);
    }
    Ok(vec![scatter(x, &positions, updates, reduction(ctx.attrs)?)?])
}

fn sample_nd(rng: &mut Rng) -> Sample {
    let (dtype, shape) = (number(rng), shape_of_rank(rng, 1));
    let mut attrs = Attrs::new();
    let may_meet = sample_reduction(rng, &mut attrs);
    let lead = if may_meet { sample_shape(rng, 1) } else { vec![1] };
    let n = lead[0];
    // Tuples of one index keep this simple; longer ones when there is only one tuple.
    let len = if n == 1 { 1 + rng.below(shape.len()) } else { 1 };
    let columns: Vec<i64> = (0..n * len)
        .map(|i| sample_indices(rng, &[1], shape[i % len]).to_i64s().first().copied().unwrap_or(0))
        .collect();
    let tuples = Tensor::from_slice(&[n, len], &columns).unwrap_or_else(|| Tensor::scalar(0i64));
    let updates = values(rng, dtype, &[&lead, &shape[len..]].concat());
    Sample { attrs, ..sample_of(vec![values(rng, dtype, &shape), tuples, updates]) }
}
