//! Arithmetic of two operands, and of any number of them.
//!
//! Integers wrap at the width of their type. Division truncates towards zero; by zero it gives zero, so that
//! no input can stop a program.

use crate::common::{
    COMMUTATIVE, ELEMENTWISE, at_least, attr, exactly, n_out, onnx, sample_of, tensor, type_error, work,
    work_elementwise,
};
use crate::content;
use crate::elements::{from_ints, zip_floats, zip_ints, zip_numbers};
use crate::samples::{binary_number, broadcast, float, number};
use crate::scalar::{fits, infer_float, infer_numbers, two};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, ScalarCtx, WorkCtx};
use partita_ir::tile::{Reg, TileBuilder};
use partita_ir::types::Type;
use partita_ir::work::WorkKind;
use partita_ir::{DType, Dim, Tensor};
use partita_plan::tile::{Lane, TileOp};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&ADD, &DIV, &MAX, &MEAN, &MIN, &MOD, &MUL, &POW, &PRELU, &SUB, &SUM];

/// What these rows have in common.
const BINARY: OpDef = OpDef {
    name: "",
    doc: "",
    onnx: &[],
    inputs: exactly(2),
    outputs: exactly(1),
    attrs: &[],
    traits: ELEMENTWISE,
    infer: infer_numbers,
    content: None,
    eval: |c| zip_numbers(c, |x, _| x, |x, _| x),
    scalar: None,
    data: None,
    work: work_elementwise,
    sample: binary_number,
};

/// What rows with any number of operands have in common.
const VARIADIC: OpDef = OpDef {
    inputs: at_least(1),
    traits: COMMUTATIVE,
    data: None,
    work: |c| work(c, n_out(c) * c.inputs.len().saturating_sub(1) as f64, WorkKind::Vector),
    ..BINARY
};

static ADD: OpDef = OpDef {
    name: "add",
    doc: "a + b.",
    onnx: &[onnx("Add", 7)],
    traits: COMMUTATIVE,
    content: Some(|c| content::zip(c, |a, b| Some(a.clone() + b.clone()))),
    eval: |c| zip_numbers(c, |a, b| a + b, |a, b| a + b),
    scalar: Some(|c, b, x| two(c, b, x, TileOp::Add)),
    ..BINARY
};

static SUB: OpDef = OpDef {
    name: "sub",
    doc: "a - b.",
    onnx: &[onnx("Sub", 7)],
    content: Some(|c| content::zip(c, |a, b| Some(a.clone() - b.clone()))),
    eval: |c| zip_numbers(c, |a, b| a - b, |a, b| a - b),
    scalar: Some(|c, b, x| two(c, b, x, TileOp::Sub)),
    ..BINARY
};

static MUL: OpDef = OpDef {
    name: "mul",
    doc: "a * b.",
    onnx: &[onnx("Mul", 7)],
    traits: COMMUTATIVE,
    content: Some(|c| content::zip(c, |a, b| Some(a.clone() * b.clone()))),
    eval: |c| zip_numbers(c, |a, b| a * b, i128::wrapping_mul),
    scalar: Some(|c, b, x| two(c, b, x, TileOp::Mul)),
    ..BINARY
};

static DIV: OpDef = OpDef {
    name: "div",
    doc: "a / b; integers truncate towards zero, and give 0 for b = 0.",
    onnx: &[onnx("Div", 7)],
    content: Some(|c| content::zip(c, div_dims)),
    eval: |c| zip_numbers(c, |a, b| a / b, |a, b| a.checked_div(b).unwrap_or(0)),
    scalar: Some(|c, b, x| two(c, b, x, TileOp::Div)),
    sample: sample_divisor,
    ..BINARY
};

/// Content of `neg`.
pub(crate) fn content_neg(ctx: &InferCtx) -> Option<Vec<Dim>> {
    if !content::holds_sizes(crate::common::input(ctx, 0).ok()?.dtype) {
        return None;
    }
    let all = content::dims(ctx, 0)?;
    Some(all.into_iter().map(|d| Dim::known(0) - d).collect())
}

/// Truncating division; it is floor division where nothing is negative.
fn div_dims(a: &Dim, b: &Dim) -> Option<Dim> {
    let positive = a.at_least()? >= 0 && b.at_least()? > 0;
    positive.then(|| a.floor_div(b)).or_else(|| a.exact_div(b))
}

/// Operands whose second one has no zero.
fn sample_divisor(rng: &mut Rng) -> Sample {
    let mut sample = binary_number(rng);
    if let Some(Some(b)) = sample.inputs.get_mut(1) {
        *b = rng.tensor(b.dtype(), b.shape(), 1.0, 5.0);
    }
    sample
}

static MOD: OpDef = OpDef {
    name: "mod",
    doc: "Remainder with the sign of b, or with the sign of a when fmod is set.",
    onnx: &[onnx("Mod", 10)],
    attrs: &[attr("fmod", AttrKind::Int)],
    content: Some(|c| content::zip(c, |a, b| Some(a.clone() - div_dims(a, b)? * b.clone()))),
    eval: eval_mod,
    scalar: Some(|c, b, x| two(c, b, x, if c.attrs.flag("fmod") { TileOp::Rem } else { TileOp::Mod })),
    sample: |rng| {
        let mut sample = sample_divisor(rng);
        if rng.below(2) == 0 {
            sample.attrs.set("fmod", 1);
        }
        sample
    },
    ..BINARY
};

fn eval_mod(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    if ctx.attrs.flag("fmod") {
        return zip_numbers(ctx, libm::fmod, |a, b| a.checked_rem(b).unwrap_or(0));
    }
    zip_numbers(
        ctx,
        |a, b| {
            let rest = libm::fmod(a, b);
            if rest == 0.0 {
                // Zero has the sign of the divisor, too.
                return rest.copysign(b);
            }
            if (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
        },
        |a, b| {
            let rest = a.checked_rem(b).unwrap_or(0);
            if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }
        },
    )
}

static POW: OpDef = OpDef {
    name: "pow",
    doc: "a to the power b, in the element type of a.",
    onnx: &[onnx("Pow", 13)],
    infer: infer_pow,
    eval: eval_pow,
    scalar: Some(lower_pow),
    data: None,
    work: |c| work(c, 20.0 * n_out(c), WorkKind::Vector),
    sample: sample_pow,
    ..BINARY
};

fn infer_pow(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let base = crate::common::input(ctx, 0)?.dtype;
    if base == DType::Bool || crate::common::input(ctx, 1)?.dtype == DType::Bool {
        return Err(type_error("operands are bool, numbers are wanted").hint("cast the operands"));
    }
    Ok(vec![Type::new(base, crate::scalar::broadcast_inputs(ctx)?)])
}

/// Integer powers wrap; a negative exponent leaves only the powers of 1 and -1.
fn pow_int(base: i128, exponent: i128) -> i128 {
    let (mut base, mut left) = match (base, exponent < 0) {
        (_, false) => (base, exponent),
        (1 | -1, true) => (base, -exponent),
        _ => return 0,
    };
    let mut power = 1i128;
    while left > 0 {
        if left & 1 == 1 {
            power = power.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        left >>= 1;
    }
    power
}

fn eval_pow(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (a, b) = (tensor(ctx, 0)?, tensor(ctx, 1)?);
    if !a.dtype().is_float() && !b.dtype().is_float() {
        let (shape, values) = zip_ints(a, b, pow_int)?;
        return Ok(vec![from_ints(a.dtype(), &shape, &values)?]);
    }
    let (shape, values) = zip_floats(a, b, libm::pow)?;
    Ok(vec![crate::common::from_f64s(a.dtype(), &shape, &values)?])
}

fn lower_pow(ctx: &ScalarCtx, b: &mut TileBuilder, x: &[Reg]) -> Option<Reg> {
    let base = x.first().copied().filter(|r| fits(ctx) && r.lane() == Lane::Float)?;
    let exponent = b.convert(*x.get(1)?, DType::F32);
    Some(b.binary(TileOp::Pow, base, exponent))
}

fn sample_pow(rng: &mut Rng) -> Sample {
    let shapes = crate::samples::broadcast_shapes(rng, 2);
    let base = number(rng);
    let exponent = *rng.pick(&[base, DType::I32, DType::F32]);
    let exponent = if base.is_float() { exponent } else { DType::I64 };
    let (low, high) = if exponent.is_float() { (-2.0, 2.0) } else { (0.0, 3.0) };
    sample_of(vec![rng.tensor(base, &shapes[0], 0.5, 3.0), rng.tensor(exponent, &shapes[1], low, high)])
}

static PRELU: OpDef = OpDef {
    name: "prelu",
    doc: "x where it is not negative, else slope * x; the slope broadcasts to x.",
    onnx: &[onnx("PRelu", 9)],
    eval: |c| {
        let f = |x: f64, slope: f64| if x < 0.0 { slope * x } else { x };
        zip_numbers(c, f, |x, slope| if x < 0 { slope.wrapping_mul(x) } else { x })
    },
    scalar: Some(|c, b, x| {
        let below = two(c, b, x, TileOp::Mul)?;
        let zero = b.constant(x[0], 0.0);
        let negative = b.binary(TileOp::Lt, x[0], zero);
        Some(b.select(negative, below, x[0]))
    }),
    data: None,
    work: |c| work(c, 3.0 * n_out(c), WorkKind::Vector),
    sample: |rng| {
        let (dtype, shape) = (number(rng), crate::samples::shape(rng));
        let slope = crate::samples::shrink(rng, &shape);
        let values = crate::samples::values;
        sample_of(vec![values(rng, dtype, &shape), values(rng, dtype, &slope)])
    },
    ..BINARY
};

/// All operands folded pairwise.
fn fold(
    ctx: &EvalCtx,
    f: impl Fn(f64, f64) -> f64 + Copy,
    g: impl Fn(i128, i128) -> i128 + Copy,
) -> Result<Vec<Tensor>, Diag> {
    let mut acc = tensor(ctx, 0)?.clone();
    for n in 1..ctx.inputs.len() {
        let pair = [Some(&acc), Some(tensor(ctx, n)?)];
        let step = EvalCtx { attrs: ctx.attrs, inputs: &pair, n_outputs: 1 };
        let mut result = zip_numbers(&step, f, g)?;
        acc = result.remove(0);
    }
    Ok(vec![acc])
}

/// Lowering: all operands folded by `op`; NaN in any operand gives NaN when `keep_nan`.
fn lower_fold(ctx: &ScalarCtx, b: &mut TileBuilder, x: &[Reg], op: TileOp, keep_nan: bool) -> Option<Reg> {
    let (first, rest) = x.split_first()?;
    if !fits(ctx) || rest.iter().any(|r| r.lane() != first.lane()) {
        return None;
    }
    Some(rest.iter().fold(*first, |acc, &next| {
        let picked = b.binary(op, acc, next);
        if !keep_nan || acc.lane() == Lane::Int {
            return picked;
        }
        // Max and Min return the second operand when one is NaN; the first one is checked here.
        let nan = b.unary(TileOp::IsNan, acc);
        b.select(nan, acc, picked)
    }))
}

fn sample_variadic(rng: &mut Rng, dtype: DType) -> Sample {
    let n = 1 + rng.below(4);
    broadcast(rng, dtype, n)
}

static MAX: OpDef = OpDef {
    name: "max",
    doc: "The largest operand; NaN if one is NaN.",
    onnx: &[onnx("Max", 8)],
    content: Some(|c| content::fold(c, |a, b| Some(a.larger(b)))),
    eval: |c| fold(c, |a, b| if a.is_nan() || a > b { a } else { b }, i128::max),
    scalar: Some(|c, b, x| lower_fold(c, b, x, TileOp::Max, true)),
    sample: |rng| {
        let dtype = number(rng);
        sample_variadic(rng, dtype)
    },
    ..VARIADIC
};

static MIN: OpDef = OpDef {
    name: "min",
    doc: "The smallest operand; NaN if one is NaN.",
    onnx: &[onnx("Min", 8)],
    content: Some(|c| content::fold(c, |a, b| Some(a.smaller(b)))),
    eval: |c| fold(c, |a, b| if a.is_nan() || a < b { a } else { b }, i128::min),
    scalar: Some(|c, b, x| lower_fold(c, b, x, TileOp::Min, true)),
    sample: MAX.sample,
    ..VARIADIC
};

static SUM: OpDef = OpDef {
    name: "sum",
    doc: "The sum of all operands, rounded once.",
    onnx: &[onnx("Sum", 8)],
    infer: infer_floats,
    eval: |c| sum_scaled(c, |_| 1.0),
    scalar: Some(|c, b, x| lower_fold(c, b, x, TileOp::Add, false)),
    sample: |rng| {
        let dtype = float(rng);
        sample_variadic(rng, dtype)
    },
    ..VARIADIC
};

static MEAN: OpDef = OpDef {
    name: "mean",
    doc: "The mean of all operands, rounded once.",
    onnx: &[onnx("Mean", 8)],
    infer: infer_floats,
    eval: |c| sum_scaled(c, |n| 1.0 / n),
    scalar: Some(|c, b, x| {
        let sum = lower_fold(c, b, x, TileOp::Add, false)?;
        let scale = b.float(1.0 / x.len() as f64);
        Some(b.binary(TileOp::Mul, sum, scale))
    }),
    data: None,
    work: work_mean,
    sample: SUM.sample,
    ..VARIADIC
};

fn work_mean(ctx: &WorkCtx) -> partita_ir::Work {
    work(ctx, n_out(ctx) * ctx.inputs.len() as f64, WorkKind::Vector)
}

fn infer_floats(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    infer_float(ctx)?;
    infer_numbers(ctx)
}

/// The sum of all operands in f64, times a factor of their number.
fn sum_scaled(ctx: &EvalCtx, factor: impl Fn(f64) -> f64) -> Result<Vec<Tensor>, Diag> {
    let dtype = tensor(ctx, 0)?.dtype();
    let wide: Vec<Tensor> = (0..ctx.inputs.len())
        .map(|n| {
            let x = tensor(ctx, n)?;
            crate::common::from_f64s(DType::F64, x.shape(), &x.to_f64s())
        })
        .collect::<Result<_, Diag>>()?;
    let refs: Vec<Option<&Tensor>> = wide.iter().map(Some).collect();
    let attrs = Attrs::new();
    let sum = fold(&EvalCtx { attrs: &attrs, inputs: &refs, n_outputs: 1 }, |a, b| a + b, |a, _| a)?;
    let k = factor(wide.len() as f64);
    let values: Vec<f64> = sum[0].to_f64s().into_iter().map(|v| v * k).collect();
    Ok(vec![crate::common::from_f64s(dtype, sum[0].shape(), &values)?])
}
