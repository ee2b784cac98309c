//! Activation functions of one operand, some with parameters.

use crate::common::{ELEMENTWISE, attr, attr_error, exactly, n_out, onnx, work, work_elementwise};
use crate::elements::{map_floats, map_numbers};
use crate::samples::{unary_float, unary_number};
use crate::scalar::{clamp, fits, float_operand, infer_float, infer_number, one};
use partita_ir::Tensor;
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, ScalarCtx};
use partita_ir::tile::{Reg, TileBuilder};
use partita_ir::types::Type;
use partita_ir::work::WorkKind;
use partita_plan::tile::TileOp;

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[
    &CELU,
    &ELU,
    &GELU,
    &HARD_SIGMOID,
    &HARD_SWISH,
    &LEAKY_RELU,
    &MISH,
    &RELU,
    &SELU,
    &SHRINK,
    &SIGMOID,
    &SILU,
    &SOFTPLUS,
    &SOFTSIGN,
    &THRESHOLDED_RELU,
];

/// What these rows have in common: one float operand, about 20 operations per element.
const SMOOTH: OpDef = OpDef {
    name: "",
    doc: "",
    onnx: &[],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: &[],
    traits: ELEMENTWISE,
    infer: infer_float,
    content: None,
    eval: |c| map_floats(c, |v| v),
    scalar: None,
    data: None,
    work: |ctx| work(ctx, 20.0 * n_out(ctx), WorkKind::Vector),
    sample: unary_float,
};

/// The same for a few comparisons and multiplications.
const PIECEWISE: OpDef = OpDef { work: |ctx| work(ctx, 3.0 * n_out(ctx), WorkKind::Vector), ..SMOOTH };

/// A float attribute in f64.
fn param(attrs: &Attrs, name: &str, default: f32) -> f64 {
    f64::from(attrs.float_or(name, default))
}

/// A sample with some of the float attributes `names` set to values in 0.1..2.
fn sample_params(rng: &mut Rng, names: &[&str]) -> Sample {
    let mut sample = unary_float(rng);
    for name in names {
        if rng.below(2) == 0 {
            sample.attrs.set(name, rng.float(0.1, 2.0) as f32);
        }
    }
    sample
}

/// `x` where it is not negative (or NaN), else `below`.
fn where_negative(b: &mut TileBuilder, x: Reg, below: Reg) -> Reg {
    let zero = b.constant(x, 0.0);
    let negative = b.binary(TileOp::Lt, x, zero);
    b.select(negative, below, x)
}

/// `scale * (exp(x * rate) - 1)`.
fn exp_below(b: &mut TileBuilder, x: Reg, scale: f64, rate: f64) -> Reg {
    let (scale, rate, minus_one) = (b.float(scale), b.float(rate), b.float(-1.0));
    let scaled = b.binary(TileOp::Mul, x, rate);
    let e = b.unary(TileOp::Exp, scaled);
    let e = b.binary(TileOp::Add, e, minus_one);
    b.binary(TileOp::Mul, e, scale)
}

static RELU: OpDef = OpDef {
    name: "relu",
    doc: "max(x, 0).",
    onnx: &[onnx("Relu", 6)],
    infer: infer_number,
    // max() would drop NaN; the comparison keeps it.
    eval: |c| map_numbers(c, |v| if v < 0.0 { 0.0 } else { v }, |v| v.max(0)),
    scalar: Some(|c, b, x| {
        let x = x.first().copied().filter(|_| fits(c))?;
        let zero = b.constant(x, 0.0);
        // In this order NaN stays NaN.
        Some(b.binary(TileOp::Max, zero, x))
    }),
    data: None,
    work: work_elementwise,
    sample: unary_number,
    ..SMOOTH
};

static LEAKY_RELU: OpDef = OpDef {
    name: "leaky_relu",
    doc: "x where it is not negative, else alpha * x.",
    onnx: &[onnx("LeakyRelu", 6)],
    attrs: &[attr("alpha", AttrKind::Float)],
    eval: |c| {
        let alpha = param(c.attrs, "alpha", 0.01);
        map_floats(c, |v| if v < 0.0 { alpha * v } else { v })
    },
    scalar: Some(|c, b, x| {
        let x = float_operand(c, x)?;
        let alpha = b.float(param(c.attrs, "alpha", 0.01));
        let below = b.binary(TileOp::Mul, x, alpha);
        Some(where_negative(b, x, below))
    }),
    sample: |rng| sample_params(rng, &["alpha"]),
    ..PIECEWISE
};

static ELU: OpDef = OpDef {
    name: "elu",
    doc: "x where it is not negative, else alpha * (exp(x) - 1).",
    onnx: &[onnx("Elu", 6)],
    attrs: &[attr("alpha", AttrKind::Float)],
    eval: |c| {
        let alpha = param(c.attrs, "alpha", 1.0);
        map_floats(c, |v| if v < 0.0 { alpha * libm::expm1(v) } else { v })
    },
    scalar: Some(|c, b, x| {
        let x = float_operand(c, x)?;
        let below = exp_below(b, x, param(c.attrs, "alpha", 1.0), 1.0);
        Some(where_negative(b, x, below))
    }),
    sample: |rng| sample_params(rng, &["alpha"]),
    ..SMOOTH
};

/// The defaults of ONNX.
const SELU_ALPHA: f32 = 1.673_263_2;
const SELU_GAMMA: f32 = 1.050_701;

static SELU: OpDef = OpDef {
    name: "selu",
    doc: "gamma * elu(x, alpha).",
    onnx: &[onnx("Selu", 6)],
    attrs: &[attr("alpha", AttrKind::Float), attr("gamma", AttrKind::Float)],
    eval: |c| {
        let (alpha, gamma) = (param(c.attrs, "alpha", SELU_ALPHA), param(c.attrs, "gamma", SELU_GAMMA));
        map_floats(c, |v| gamma * if v < 0.0 { alpha * libm::expm1(v) } else { v })
    },
    scalar: Some(|c, b, x| {
        let x = float_operand(c, x)?;
        let below = exp_below(b, x, param(c.attrs, "alpha", SELU_ALPHA), 1.0);
        let elu = where_negative(b, x, below);
        let gamma = b.float(param(c.attrs, "gamma", SELU_GAMMA));
        Some(b.binary(TileOp::Mul, elu, gamma))
    }),
    sample: |rng| sample_params(rng, &["alpha", "gamma"]),
    ..SMOOTH
};

static CELU: OpDef = OpDef {
    name: "celu",
    doc: "x where it is not negative, else alpha * (exp(x / alpha) - 1).",
    onnx: &[onnx("Celu", 12)],
    attrs: &[attr("alpha", AttrKind::Float)],
    eval: |c| {
        let alpha = param(c.attrs, "alpha", 1.0);
        map_floats(c, |v| if v < 0.0 { alpha * libm::expm1(v / alpha) } else { v })
    },
    scalar: Some(|c, b, x| {
        let x = float_operand(c, x)?;
        let alpha = param(c.attrs, "alpha", 1.0);
        let below = exp_below(b, x, alpha, alpha.recip());
        Some(where_negative(b, x, below))
    }),
    sample: |rng| sample_params(rng, &["alpha"]),
    ..SMOOTH
};

/// 1 / (1 + exp(-x)).
fn sigmoid(v: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-v))
}

static SIGMOID: OpDef = OpDef {
    name: "sigmoid",
    doc: "1 / (1 + exp(-x)).",
    onnx: &[onnx("Sigmoid", 6)],
    eval: |c| map_floats(c, sigmoid),
    scalar: Some(|c, b, x| one(c, b, x, TileOp::Sigmoid)),
    ..SMOOTH
};

static SILU: OpDef = OpDef {
    name: "silu",
    doc: "x * sigmoid(alpha * x); also called swish.",
    onnx: &[onnx("Swish", 24)],
    attrs: &[attr("alpha", AttrKind::Float)],
    eval: |c| {
        let alpha = param(c.attrs, "alpha", 1.0);
        map_floats(c, |v| v * sigmoid(alpha * v))
    },
    scalar: Some(|c, b, x| {
        let x = float_operand(c, x)?;
        let alpha = param(c.attrs, "alpha", 1.0);
        let inner = if alpha == 1.0 {
            x
        } else {
            let alpha = b.float(alpha);
            b.binary(TileOp::Mul, x, alpha)
        };
        let gate = b.unary(TileOp::Sigmoid, inner);
        Some(b.binary(TileOp::Mul, x, gate))
    }),
    sample: |rng| sample_params(rng, &["alpha"]),
    ..SMOOTH
};

/// `alpha * x + beta` kept within 0..1; NaN stays.
fn hard_sigmoid(v: f64, alpha: f64, beta: f64) -> f64 {
    let y = alpha * v + beta;
    if y.is_nan() { y } else { y.clamp(0.0, 1.0) }
}

fn lower_hard_sigmoid(b: &mut TileBuilder, x: Reg, alpha: f64, beta: f64) -> Reg {
    let (alpha, beta, zero, unit) = (b.float(alpha), b.float(beta), b.float(0.0), b.float(1.0));
    let line = b.mul_add(x, alpha, beta);
    clamp(b, line, zero, unit)
}

static HARD_SIGMOID: OpDef = OpDef {
    name: "hard_sigmoid",
    doc: "alpha * x + beta, kept within 0 and 1.",
    onnx: &[onnx("HardSigmoid", 6)],
    attrs: &[attr("alpha", AttrKind::Float), attr("beta", AttrKind::Float)],
    eval: |c| {
        let (alpha, beta) = (param(c.attrs, "alpha", 0.2), param(c.attrs, "beta", 0.5));
        map_floats(c, |v| hard_sigmoid(v, alpha, beta))
    },
    scalar: Some(|c, b, x| {
        let x = float_operand(c, x)?;
        Some(lower_hard_sigmoid(b, x, param(c.attrs, "alpha", 0.2), param(c.attrs, "beta", 0.5)))
    }),
    sample: |rng| sample_params(rng, &["alpha", "beta"]),
    ..PIECEWISE
};

static HARD_SWISH: OpDef = OpDef {
    name: "hard_swish",
    doc: "x * hard_sigmoid(x, 1/6, 1/2).",
    onnx: &[onnx("HardSwish", 14)],
    eval: |c| map_floats(c, |v| v * hard_sigmoid(v, 1.0 / 6.0, 0.5)),
    scalar: Some(|c, b, x| {
        let x = float_operand(c, x)?;
        let gate = lower_hard_sigmoid(b, x, 1.0 / 6.0, 0.5);
        Some(b.binary(TileOp::Mul, x, gate))
    }),
    ..PIECEWISE
};

static GELU: OpDef = OpDef {
    name: "gelu",
    doc: "x * Phi(x), exactly or by the tanh approximation.",
    onnx: &[onnx("Gelu", 20)],
    attrs: &[attr("approximate", AttrKind::Str)],
    infer: infer_gelu,
    eval: eval_gelu,
    scalar: Some(lower_gelu),
    sample: |rng| {
        let mut sample = unary_float(rng);
        let form = *rng.pick(&["", "none", "tanh"]);
        if !form.is_empty() {
            sample.attrs.set("approximate", form);
        }
        sample
    },
    ..SMOOTH
};

fn is_tanh_form(attrs: &Attrs) -> bool {
    attrs.str("approximate") == Some("tanh")
}

fn infer_gelu(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    match ctx.attrs.str("approximate") {
        None | Some("none" | "tanh") => infer_float(ctx),
        Some(other) => {
            Err(attr_error(format!("approximate is \"{other}\"")).hint("use \"none\" or \"tanh\""))
        }
    }
}

fn eval_gelu(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let inner = (2.0 / std::f64::consts::PI).sqrt();
    if is_tanh_form(ctx.attrs) {
        return map_floats(ctx, |v| 0.5 * v * (1.0 + libm::tanh(inner * (v + 0.044_715 * v * v * v))));
    }
    map_floats(ctx, |v| 0.5 * v * (1.0 + libm::erf(v / std::f64::consts::SQRT_2)))
}

fn lower_gelu(ctx: &ScalarCtx, b: &mut TileBuilder, x: &[Reg]) -> Option<Reg> {
    let x = float_operand(ctx, x)?;
    let (half, unit) = (b.float(0.5), b.float(1.0));
    let inner = if is_tanh_form(ctx.attrs) {
        let (c, k) = (b.float(0.044_715), b.float((2.0 / std::f64::consts::PI).sqrt()));
        let square = b.binary(TileOp::Mul, x, x);
        let factor = b.mul_add(square, c, unit);
        let cubic = b.binary(TileOp::Mul, x, factor);
        let scaled = b.binary(TileOp::Mul, cubic, k);
        b.unary(TileOp::Tanh, scaled)
    } else {
        let k = b.float(std::f64::consts::FRAC_1_SQRT_2);
        let scaled = b.binary(TileOp::Mul, x, k);
        b.unary(TileOp::Erf, scaled)
    };
    let gate = b.binary(TileOp::Add, inner, unit);
    let half_x = b.binary(TileOp::Mul, x, half);
    Some(b.binary(TileOp::Mul, half_x, gate))
}

/// ln(1 + exp(x)) without overflow.
fn softplus(v: f64) -> f64 {
    let positive = if v < 0.0 { 0.0 } else { v };
    positive + libm::log1p(libm::exp(-v.abs()))
}

fn lower_softplus(b: &mut TileBuilder, x: Reg) -> Reg {
    let zero = b.float(0.0);
    let positive = b.binary(TileOp::Max, zero, x);
    let abs = b.unary(TileOp::Abs, x);
    let neg = b.unary(TileOp::Neg, abs);
    let exp = b.unary(TileOp::Exp, neg);
    let log = b.unary(TileOp::Log1p, exp);
    b.binary(TileOp::Add, positive, log)
}

static SOFTPLUS: OpDef = OpDef {
    name: "softplus",
    doc: "ln(1 + exp(x)).",
    onnx: &[onnx("Softplus", 1)],
    eval: |c| map_floats(c, softplus),
    scalar: Some(|c, b, x| {
        let x = float_operand(c, x)?;
        Some(lower_softplus(b, x))
    }),
    ..SMOOTH
};

static MISH: OpDef = OpDef {
    name: "mish",
    doc: "x * tanh(softplus(x)).",
    onnx: &[onnx("Mish", 18)],
    eval: |c| map_floats(c, |v| v * libm::tanh(softplus(v))),
    scalar: Some(|c, b, x| {
        let x = float_operand(c, x)?;
        let soft = lower_softplus(b, x);
        let gate = b.unary(TileOp::Tanh, soft);
        Some(b.binary(TileOp::Mul, x, gate))
    }),
    ..SMOOTH
};

static SOFTSIGN: OpDef = OpDef {
    name: "softsign",
    doc: "x / (1 + |x|).",
    onnx: &[onnx("Softsign", 1)],
    eval: |c| map_floats(c, |v| v / (1.0 + v.abs())),
    scalar: Some(|c, b, x| {
        let x = float_operand(c, x)?;
        let (abs, unit) = (b.unary(TileOp::Abs, x), b.float(1.0));
        let below = b.binary(TileOp::Add, abs, unit);
        Some(b.binary(TileOp::Div, x, below))
    }),
    ..PIECEWISE
};

static THRESHOLDED_RELU: OpDef = OpDef {
    name: "thresholded_relu",
    doc: "x where it is above alpha, else 0.",
    onnx: &[onnx("ThresholdedRelu", 10)],
    attrs: &[attr("alpha", AttrKind::Float)],
    eval: |c| {
        let alpha = param(c.attrs, "alpha", 1.0);
        map_floats(c, |v| if v > alpha { v } else { 0.0 })
    },
    scalar: Some(|c, b, x| {
        let x = float_operand(c, x)?;
        let (alpha, zero) = (b.float(param(c.attrs, "alpha", 1.0)), b.float(0.0));
        let above = b.binary(TileOp::Lt, alpha, x);
        Some(b.select(above, x, zero))
    }),
    sample: |rng| sample_params(rng, &["alpha"]),
    ..PIECEWISE
};

static SHRINK: OpDef = OpDef {
    name: "shrink",
    doc: "x + bias below -lambd, x - bias above lambd, 0 between.",
    onnx: &[onnx("Shrink", 9)],
    attrs: &[attr("bias", AttrKind::Float), attr("lambd", AttrKind::Float)],
    infer: infer_number,
    eval: |c| {
        let (bias, lambd) = (param(c.attrs, "bias", 0.0), param(c.attrs, "lambd", 0.5));
        map_floats(c, |v| {
            if v < -lambd {
                v + bias
            } else if v > lambd {
                v - bias
            } else {
                0.0
            }
        })
    },
    scalar: Some(lower_shrink),
    sample: |rng| sample_params(rng, &["bias", "lambd"]),
    ..PIECEWISE
};

fn lower_shrink(ctx: &ScalarCtx, b: &mut TileBuilder, x: &[Reg]) -> Option<Reg> {
    let x = float_operand(ctx, x)?;
    let (bias, lambd) = (param(ctx.attrs, "bias", 0.0), param(ctx.attrs, "lambd", 0.5));
    let (bias, low, high, zero) = (b.float(bias), b.float(-lambd), b.float(lambd), b.float(0.0));
    let (up, down) = (b.binary(TileOp::Add, x, bias), b.binary(TileOp::Sub, x, bias));
    let (is_low, is_high) = (b.binary(TileOp::Lt, x, low), b.binary(TileOp::Lt, high, x));
    let above = b.select(is_high, down, zero);
    Some(b.select(is_low, up, above))
}
