//! Reductions over axes.

use crate::common::{
    PLAIN, attr, attr_error, axis_of, between, data_dependent, exactly, from_f64s, from_i64s, input, ints_of,
    onnx, operand, sample_shape, strides, tensor, work,
};
use crate::eval::{int_range, result, to_i128s};
use crate::shapes::{list_len, unknown_shape};
use partita_ir::attr::Attrs;
use partita_ir::builder::DATA_DEPENDENT;
use partita_ir::diag::Diag;
use partita_ir::op::{
    AttrDef, AttrKind, ContentFn, EvalCtx, EvalFn, InferCtx, OnnxName, OpDef, Rng, Sample, WorkCtx,
};
use partita_ir::tensor::n_elements;
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] =
    &[&SUM, &MEAN, &MAX, &MIN, &PROD, &L1, &L2, &SUM_SQUARE, &LOG_SUM, &LOG_SUM_EXP];

static SUM: OpDef = row("reduce_sum", "sum over axes", &[onnx("ReduceSum", 13)], Some(content_sum), |c| {
    reduce(c, |x| x.iter().sum(), |x| wrapping(x, |v| v))
});
static MEAN: OpDef = row("reduce_mean", "mean over axes", &[onnx("ReduceMean", 18)], None, |c| {
    reduce(c, |x| x.iter().sum::<f64>() / x.len() as f64, integer_mean)
});
static MAX: OpDef =
    row("reduce_max", "maximum over axes", &[onnx("ReduceMax", 18)], None, |c| extreme(c, true));
static MIN: OpDef =
    row("reduce_min", "minimum over axes", &[onnx("ReduceMin", 18)], None, |c| extreme(c, false));
static PROD: OpDef =
    row("reduce_prod", "product over axes", &[onnx("ReduceProd", 18)], Some(content_prod), |c| {
        reduce(c, |x| x.iter().product(), |x| x.iter().fold(1, |p: i128, &v| p.wrapping_mul(v)))
    });
static L1: OpDef = row("reduce_l1", "sum of absolute values over axes", &[onnx("ReduceL1", 18)], None, |c| {
    reduce(c, |x| x.iter().map(|v| v.abs()).sum(), |x| wrapping(x, i128::abs))
});
static L2: OpDef = row("reduce_l2", "Euclidean norm over axes", &[onnx("ReduceL2", 18)], None, |c| {
    let norm = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>().sqrt();
    reduce(c, norm, |x| x.iter().map(|&v| v as f64 * v as f64).sum::<f64>().sqrt() as i128)
});
static SUM_SQUARE: OpDef =
    row("reduce_sum_square", "sum of squares over axes", &[onnx("ReduceSumSquare", 18)], None, |c| {
        reduce(c, |x| x.iter().map(|v| v * v).sum(), |x| wrapping(x, |v| v.wrapping_mul(v)))
    });
static LOG_SUM: OpDef =
    row("reduce_log_sum", "logarithm of the sum over axes", &[onnx("ReduceLogSum", 18)], None, |c| {
        let f = |x: &[f64]| libm::log(x.iter().sum());
        reduce(c, f, |x| libm::log(x.iter().map(|&v| v as f64).sum()) as i128)
    });
static LOG_SUM_EXP: OpDef = row(
    "reduce_log_sum_exp",
    "logarithm of the sum of exponentials over axes",
    &[onnx("ReduceLogSumExp", 18)],
    None,
    |c| {
        let as_floats = |x: &[i128]| x.iter().map(|&v| v as f64).collect::<Vec<f64>>();
        reduce(c, log_sum_exp, |x| log_sum_exp(&as_floats(x)) as i128)
    },
);

/// Attributes of every reduction.
const ATTRS: &[AttrDef] = &[
    operand("axes", AttrKind::Ints, 1),
    attr("keepdims", AttrKind::Int),
    attr("noop_with_empty_axes", AttrKind::Int),
];

const fn row(
    name: &'static str,
    doc: &'static str,
    onnx: &'static [OnnxName],
    content: Option<ContentFn>,
    eval: EvalFn,
) -> OpDef {
    OpDef {
        name,
        doc,
        onnx,
        inputs: between(1, 2),
        outputs: exactly(1),
        attrs: ATTRS,
        traits: PLAIN,
        infer: infer_reduce,
        content,
        eval,
        scalar: None,
        data: None,
        work: work_reduce,
        sample: sample_reduce,
    }
}

/// The axes a reduction removes, ascending.
///
/// # Errors
/// `V021` for axes out of range or twice, `U010` when they are known at run time only.
fn axes_of(ctx: &InferCtx, rank: usize) -> Result<Vec<usize>, Diag> {
    let given = ctx.inputs.get(1).copied().flatten();
    let stated = match (ctx.attrs.ints("axes"), given) {
        (Some(axes), _) => axes,
        (None, None) => Vec::new(),
        (None, Some(o)) => {
            o.content.and_then(|c| c.as_const()).map(Tensor::to_i64s).ok_or_else(data_dependent)?
        }
    };
    resolve(ctx.attrs, &stated, rank)
}

/// The axes `stated` means: none may stand for all.
fn resolve(attrs: &Attrs, stated: &[i64], rank: usize) -> Result<Vec<usize>, Diag> {
    if stated.is_empty() && !attrs.flag("noop_with_empty_axes") {
        return Ok((0..rank).collect());
    }
    let mut axes: Vec<usize> = stated.iter().map(|&a| axis_of(a, rank)).collect::<Result<_, _>>()?;
    axes.sort_unstable();
    if axes.windows(2).any(|w| w[0] == w[1]) {
        return Err(attr_error(format!("axes {stated:?} name an axis twice")));
    }
    Ok(axes)
}

fn infer_reduce(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    let keep = ctx.attrs.int_or("keepdims", 1) != 0;
    let axes = match axes_of(ctx, x.rank()) {
        // Which axes go is not known; how many are left is, if they are kept or counted.
        Err(diag) if diag.code == DATA_DEPENDENT => {
            let gone = if keep { Some(0) } else { list_len(ctx, 1).filter(|&n| n > 0) };
            let rank = gone.and_then(|n| x.rank().checked_sub(n)).ok_or(diag)?;
            return Ok(vec![Type::new(x.dtype, unknown_shape(0, rank))]);
        }
        other => other?,
    };
    Ok(vec![Type::new(x.dtype, reduced(&x.shape, &axes, keep))])
}

/// The shape without `axes`, or with 1 in their place.
pub(crate) fn reduced(shape: &[Dim], axes: &[usize], keep: bool) -> Vec<Dim> {
    let mut out = Vec::new();
    for (axis, dim) in shape.iter().enumerate() {
        match (axes.contains(&axis), keep) {
            (false, _) => out.push(dim.clone()),
            (true, true) => out.push(Dim::known(1)),
            (true, false) => {}
        }
    }
    out
}

/// For each result element the positions that are reduced into it.
pub(crate) fn groups(shape: &[usize], axes: &[usize]) -> impl Iterator<Item = Vec<usize>> + use<> {
    let strides = strides(shape);
    let offsets = |wanted: bool| {
        let mut out = vec![0];
        for (axis, &dim) in shape.iter().enumerate().filter(|(a, _)| axes.contains(a) == wanted) {
            let stride = strides[axis];
            out = out.iter().flat_map(|&o| (0..dim).map(move |i| o + i * stride)).collect();
        }
        out
    };
    let (kept, inside) = (offsets(false), offsets(true));
    kept.into_iter().map(move |start| inside.iter().map(|o| start + o).collect())
}

/// Reduces every group with the function for the element type; integers are exact, then wrap.
fn reduce(
    ctx: &EvalCtx,
    float: impl Fn(&[f64]) -> f64,
    int: impl Fn(&[i128]) -> i128,
) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_reduce)?;
    let x = tensor(ctx, 0)?;
    let axes = resolve(ctx.attrs, &ints_of(ctx, "axes", 1).unwrap_or_default(), x.rank())?;
    let groups = groups(x.shape(), &axes);
    let y = if dtype.is_float() {
        let v = x.to_f64s();
        let y: Vec<f64> = groups.map(|g| float(&pick(&v, &g))).collect();
        from_f64s(dtype, &shape, &y)
    } else {
        let v = to_i128s(x);
        let y: Vec<i64> = groups.map(|g| int(&pick(&v, &g)) as i64).collect();
        from_i64s(dtype, &shape, &y)
    };
    Ok(vec![y?])
}

fn pick<T: Copy>(values: &[T], positions: &[usize]) -> Vec<T> {
    positions.iter().map(|&i| values[i]).collect()
}

/// Maximum or minimum; NaN wins, nothing gives the least (greatest) value.
fn extreme(ctx: &EvalCtx, max: bool) -> Result<Vec<Tensor>, Diag> {
    let dtype = tensor(ctx, 0)?.dtype();
    let none = if max { f64::NEG_INFINITY } else { f64::INFINITY };
    let float = |x: &[f64]| {
        let better = |a: f64, b: f64| a.is_nan() || (!b.is_nan() && if max { a > b } else { a < b });
        x.iter().fold(none, |best, &v| if better(v, best) { v } else { best })
    };
    let int = |x: &[i128]| {
        let best = if max { x.iter().max() } else { x.iter().min() };
        let (least, greatest) = int_range(dtype);
        best.copied().unwrap_or(if max { least } else { greatest })
    };
    reduce(ctx, float, int)
}

fn wrapping(x: &[i128], f: impl Fn(i128) -> i128) -> i128 {
    x.iter().fold(0, |sum: i128, &v| sum.wrapping_add(f(v)))
}

/// The exact mean, rounded towards zero; 0 of nothing.
fn integer_mean(x: &[i128]) -> i128 {
    wrapping(x, |v| v).checked_div(x.len() as i128).unwrap_or(0)
}

fn log_sum_exp(x: &[f64]) -> f64 {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let shift = if max.is_finite() { max } else { 0.0 };
    libm::log(x.iter().map(|v| libm::exp(v - shift)).sum()) + shift
}

/// The dims of a vector that is reduced as a whole.
fn content_operand(ctx: &InferCtx) -> Option<Vec<Dim>> {
    let x = ctx.inputs.first().copied().flatten()?;
    let axes = axes_of(ctx, x.ty.rank()).ok()?;
    (x.ty.rank() == 1 && axes == [0]).then(|| x.content?.as_dims())?
}

fn content_sum(ctx: &InferCtx) -> Option<Vec<Dim>> {
    Some(vec![content_operand(ctx)?.into_iter().fold(Dim::known(0), |a, b| a + b)])
}

fn content_prod(ctx: &InferCtx) -> Option<Vec<Dim>> {
    Some(vec![content_operand(ctx)?.into_iter().fold(Dim::known(1), |a, b| a * b)])
}

/// One operation per element read.
fn work_reduce(ctx: &WorkCtx) -> Work {
    let n = ctx.inputs.first().and_then(Option::as_ref).and_then(|(_, s)| n_elements(s)).unwrap_or(0);
    work(ctx, n as f64, WorkKind::Vector)
}

fn sample_reduce(rng: &mut Rng) -> Sample {
    let rank = rng.below(5);
    let shape = sample_shape(rng, rank);
    let dtype = *rng.pick(&[DType::F32, DType::F32, DType::F32, DType::F64, DType::I32, DType::I64]);
    // Positive, so that logarithms of sums exist.
    let mut inputs = vec![Some(rng.tensor(dtype, &shape, 1.0, 4.0))];
    let mut attrs = Attrs::new().with("keepdims", rng.int(0, 1));
    let axes: Vec<i64> = (0..rank as i64).filter(|_| rng.below(2) == 0).collect();
    let axes: Vec<i64> =
        axes.into_iter().map(|a| if rng.below(2) == 0 { a } else { a - rank as i64 }).collect();
    match rng.below(4) {
        0 => {}
        1 => attrs.set("axes", axes),
        2 => inputs.push(Tensor::from_slice(&[axes.len()], &axes)),
        _ => attrs.set("noop_with_empty_axes", 1i64),
    }
    Sample { attrs, inputs, n_outputs: 1 }
}
