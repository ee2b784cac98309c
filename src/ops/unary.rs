//! Mathematical functions of one operand.

use crate::common::{ELEMENTWISE, exactly, n_out, onnx, work};
use crate::elements::{map_floats, map_numbers};
use crate::samples::{unary_float, unary_number, unary_within};
use crate::scalar::{float_operand, infer_float, infer_number, one};
use partita_ir::op::OpDef;
use partita_ir::work::{Work, WorkKind};
use partita_plan::tile::TileOp;

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[
    &ABS,
    &ACOS,
    &ACOSH,
    &ASIN,
    &ASINH,
    &ATAN,
    &ATANH,
    &CEIL,
    &COS,
    &COSH,
    &ERF,
    &EXP,
    &FLOOR,
    &LOG,
    &NEG,
    &RECIPROCAL,
    &ROUND,
    &SIGN,
    &SIN,
    &SINH,
    &SQRT,
    &TAN,
    &TANH,
];

/// What rows of transcendental functions have in common. About 15 operations per element is what polynomial
/// approximations of these functions take.
const MATH: OpDef = OpDef {
    name: "",
    doc: "",
    onnx: &[],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: &[],
    traits: ELEMENTWISE,
    infer: infer_float,
    content: None,
    eval: |ctx| map_floats(ctx, |v| v),
    scalar: None,
    data: None,
    work: |ctx| work(ctx, 15.0 * n_out(ctx), WorkKind::Vector),
    sample: unary_float,
};

/// What rows of functions with one instruction have in common.
const SIMPLE: OpDef = OpDef { work: one_flop, ..MATH };

fn one_flop(ctx: &partita_ir::op::WorkCtx) -> Work {
    work(ctx, n_out(ctx), WorkKind::Vector)
}

static ABS: OpDef = OpDef {
    name: "abs",
    doc: "Absolute value.",
    onnx: &[onnx("Abs", 6)],
    infer: infer_number,
    eval: |c| map_numbers(c, f64::abs, i128::abs),
    scalar: Some(|c, b, x| one(c, b, x, TileOp::Abs)),
    sample: unary_number,
    ..SIMPLE
};

static NEG: OpDef = OpDef {
    name: "neg",
    doc: "-x.",
    onnx: &[onnx("Neg", 6)],
    infer: infer_number,
    content: Some(crate::binary::content_neg),
    eval: |c| map_numbers(c, |v| -v, |v| -v),
    scalar: Some(|c, b, x| one(c, b, x, TileOp::Neg)),
    sample: unary_number,
    ..SIMPLE
};

static SIGN: OpDef = OpDef {
    name: "sign",
    doc: "-1, 0 or 1; NaN stays.",
    onnx: &[onnx("Sign", 9)],
    infer: infer_number,
    eval: |c| map_numbers(c, sign, i128::signum),
    scalar: Some(|c, b, x| one(c, b, x, TileOp::Sign)),
    sample: unary_number,
    ..SIMPLE
};

/// f64::signum gives 1 for zero.
fn sign(v: f64) -> f64 {
    if v == 0.0 { 0.0 } else { v.signum() }
}

static FLOOR: OpDef = OpDef {
    name: "floor",
    doc: "The largest integer not above x.",
    onnx: &[onnx("Floor", 6)],
    eval: |c| map_floats(c, f64::floor),
    scalar: Some(|c, b, x| one(c, b, x, TileOp::Floor)),
    ..SIMPLE
};

static CEIL: OpDef = OpDef {
    name: "ceil",
    doc: "The smallest integer not below x.",
    onnx: &[onnx("Ceil", 6)],
    eval: |c| map_floats(c, f64::ceil),
    scalar: Some(|c, b, x| one(c, b, x, TileOp::Ceil)),
    ..SIMPLE
};

static ROUND: OpDef = OpDef {
    name: "round",
    doc: "The nearest integer, halves to even.",
    onnx: &[onnx("Round", 11)],
    eval: |c| map_floats(c, f64::round_ties_even),
    scalar: Some(|c, b, x| one(c, b, x, TileOp::Round)),
    ..SIMPLE
};

static SQRT: OpDef = OpDef {
    name: "sqrt",
    doc: "Square root.",
    onnx: &[onnx("Sqrt", 6)],
    eval: |c| map_floats(c, f64::sqrt),
    scalar: Some(|c, b, x| one(c, b, x, TileOp::Sqrt)),
    sample: |rng| unary_within(rng, 0.0, 9.0),
    ..SIMPLE
};

static RECIPROCAL: OpDef = OpDef {
    name: "reciprocal",
    doc: "1 / x.",
    onnx: &[onnx("Reciprocal", 6)],
    eval: |c| map_floats(c, f64::recip),
    scalar: Some(|c, b, x| one(c, b, x, TileOp::Recip)),
    sample: |rng| unary_within(rng, 0.25, 4.0),
    ..SIMPLE
};

static ERF: OpDef = OpDef {
    name: "erf",
    doc: "Error function; of an integer without its fraction.",
    onnx: &[onnx("Erf", 9)],
    infer: infer_number,
    eval: |c| map_numbers(c, libm::erf, |v| libm::erf(v as f64) as i128),
    scalar: Some(|c, b, x| {
        let x = float_operand(c, x)?;
        Some(b.unary(TileOp::Erf, x))
    }),
    sample: unary_number,
    ..MATH
};

/// A row of a transcendental function: name, ONNX name and version, sentence, function, instruction and the
/// range samples are drawn from.
macro_rules! math {
    ($($row:ident = $name:literal, $onnx:literal $since:literal, $doc:literal,
       $f:expr, $op:ident, $low:literal .. $high:literal;)*) => {
        $(static $row: OpDef = OpDef {
            name: $name,
            doc: $doc,
            onnx: &[onnx($onnx, $since)],
            eval: |c| map_floats(c, $f),
            scalar: Some(|c, b, x| one(c, b, x, TileOp::$op)),
            sample: |rng| unary_within(rng, $low, $high),
            ..MATH
        };)*
    };
}

math! {
    ACOS = "acos", "Acos" 7, "Arc cosine.", libm::acos, Acos, -1.0..1.0;
    ACOSH = "acosh", "Acosh" 9, "Inverse hyperbolic cosine.", libm::acosh, Acosh, 1.0..9.0;
    ASIN = "asin", "Asin" 7, "Arc sine.", libm::asin, Asin, -1.0..1.0;
    ASINH = "asinh", "Asinh" 9, "Inverse hyperbolic sine.", libm::asinh, Asinh, -3.0..3.0;
    ATAN = "atan", "Atan" 7, "Arc tangent.", libm::atan, Atan, -3.0..3.0;
    ATANH = "atanh", "Atanh" 9, "Inverse hyperbolic tangent.", libm::atanh, Atanh, -0.9..0.9;
    COS = "cos", "Cos" 7, "Cosine.", libm::cos, Cos, -9.0..9.0;
    COSH = "cosh", "Cosh" 9, "Hyperbolic cosine.", libm::cosh, Cosh, -3.0..3.0;
    EXP = "exp", "Exp" 6, "e to the power x.", libm::exp, Exp, -3.0..3.0;
    LOG = "log", "Log" 6, "Natural logarithm.", libm::log, Log, 0.1..9.0;
    SIN = "sin", "Sin" 7, "Sine.", libm::sin, Sin, -9.0..9.0;
    SINH = "sinh", "Sinh" 9, "Hyperbolic sine.", libm::sinh, Sinh, -3.0..3.0;
    TAN = "tan", "Tan" 7, "Tangent.", libm::tan, Tan, -1.3..1.3;
    TANH = "tanh", "Tanh" 6, "Hyperbolic tangent.", libm::tanh, Tanh, -3.0..3.0;
}
