//! Comparisons, boolean and bitwise arithmetic, and choice between operands.

use crate::common::{
    COMMUTATIVE, ELEMENTWISE, attr, attr_error, exactly, input, onnx, required, sample_of, tensor,
    type_error, work_elementwise,
};
use crate::content;
use crate::elements::{broadcast_walk, from_bytes, from_ints, ints, zip_floats, zip_ints, zip_numbers};
use crate::samples::{any, broadcast, broadcast_shapes, number, unary_float, values};
use crate::scalar::{broadcast_inputs, fits, float_operand, infer_compare, same_dtypes, two};
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, ScalarCtx};
use partita_ir::tile::{Reg, TileBuilder};
use partita_ir::types::Type;
use partita_ir::{DType, Dim, Tensor};
use partita_plan::tile::TileOp;

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[
    &AND,
    &BIT_SHIFT,
    &BITWISE_AND,
    &BITWISE_NOT,
    &BITWISE_OR,
    &BITWISE_XOR,
    &EQUAL,
    &GREATER,
    &GREATER_OR_EQUAL,
    &IS_INF,
    &IS_NAN,
    &LESS,
    &LESS_OR_EQUAL,
    &NOT,
    &OR,
    &WHERE,
    &XOR,
];

/// What comparisons have in common.
const COMPARE: OpDef = OpDef {
    name: "",
    doc: "",
    onnx: &[],
    inputs: exactly(2),
    outputs: exactly(1),
    attrs: &[],
    traits: ELEMENTWISE,
    infer: infer_compare,
    content: None,
    eval: |c| compare(c, |a, b| a == b, |a, b| a == b),
    scalar: None,
    data: None,
    work: work_elementwise,
    sample: |rng| sample_compare(rng, number),
};

fn compare(
    ctx: &EvalCtx,
    f: impl Fn(f64, f64) -> bool,
    g: impl Fn(i128, i128) -> bool,
) -> Result<Vec<Tensor>, Diag> {
    let (a, b) = (tensor(ctx, 0)?, tensor(ctx, 1)?);
    let (shape, values) = if a.dtype().is_float() { zip_floats(a, b, f)? } else { zip_ints(a, b, g)? };
    Ok(vec![from_bytes(DType::Bool, &shape, values.into_iter().map(u8::from).collect())?])
}

/// Operands drawn so that some elements are equal.
fn sample_compare(rng: &mut Rng, dtype: fn(&mut Rng) -> DType) -> Sample {
    let dtype = dtype(rng);
    let shapes = broadcast_shapes(rng, 2);
    let draw = |rng: &mut Rng, shape: &[usize]| {
        let rounded: Vec<f64> = values(rng, dtype, shape).to_f64s().iter().map(|v| v.round()).collect();
        Tensor::from_f64s(dtype, shape, &rounded).unwrap_or_else(|| Tensor::scalar(0.0f32))
    };
    sample_of(vec![draw(rng, &shapes[0]), draw(rng, &shapes[1])])
}

/// A truth value as a dim.
fn truth(value: Option<bool>) -> Option<Dim> {
    value.map(|v| Dim::known(i64::from(v)))
}

static EQUAL: OpDef = OpDef {
    name: "equal",
    doc: "a == b; NaN equals nothing.",
    onnx: &[onnx("Equal", 7)],
    traits: COMMUTATIVE,
    content: Some(|c| content::zip(c, |a, b| truth(content::equal(a, b)))),
    scalar: Some(|c, b, x| two(c, b, x, TileOp::Eq)),
    sample: |rng| sample_compare(rng, any),
    ..COMPARE
};

static LESS: OpDef = OpDef {
    name: "less",
    doc: "a < b.",
    onnx: &[onnx("Less", 7)],
    content: Some(|c| content::zip(c, |a, b| truth(content::less(a, b)))),
    eval: |c| compare(c, |a, b| a < b, |a, b| a < b),
    scalar: Some(|c, b, x| two(c, b, x, TileOp::Lt)),
    ..COMPARE
};

static LESS_OR_EQUAL: OpDef = OpDef {
    name: "less_or_equal",
    doc: "a <= b.",
    onnx: &[onnx("LessOrEqual", 12)],
    content: Some(|c| content::zip(c, |a, b| truth(content::less(b, a).map(|v| !v)))),
    eval: |c| compare(c, |a, b| a <= b, |a, b| a <= b),
    scalar: Some(|c, b, x| two(c, b, x, TileOp::Le)),
    ..COMPARE
};

static GREATER: OpDef = OpDef {
    name: "greater",
    doc: "a > b.",
    onnx: &[onnx("Greater", 7)],
    content: Some(|c| content::zip(c, |a, b| truth(content::less(b, a)))),
    eval: |c| compare(c, |a, b| a > b, |a, b| a > b),
    scalar: Some(|c, b, x| two(c, b, &swapped(x)?, TileOp::Lt)),
    ..COMPARE
};

static GREATER_OR_EQUAL: OpDef = OpDef {
    name: "greater_or_equal",
    doc: "a >= b.",
    onnx: &[onnx("GreaterOrEqual", 12)],
    content: Some(|c| content::zip(c, |a, b| truth(content::less(a, b).map(|v| !v)))),
    eval: |c| compare(c, |a, b| a >= b, |a, b| a >= b),
    scalar: Some(|c, b, x| two(c, b, &swapped(x)?, TileOp::Le)),
    ..COMPARE
};

fn swapped(x: &[Reg]) -> Option<[Reg; 2]> {
    match x {
        [a, b] => Some([*b, *a]),
        _ => None,
    }
}

/// What boolean rows have in common.
const BOOLEAN: OpDef = OpDef {
    traits: COMMUTATIVE,
    infer: infer_booleans,
    sample: |rng| broadcast(rng, DType::Bool, 2),
    ..COMPARE
};

fn infer_booleans(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    match same_dtypes(ctx)? {
        DType::Bool => Ok(vec![Type::new(DType::Bool, broadcast_inputs(ctx)?)]),
        other => Err(type_error(format!("operands are {}, bool is wanted", other.name()))
            .hint("compare the operands with something first")),
    }
}

static AND: OpDef = OpDef {
    name: "and",
    doc: "a and b.",
    onnx: &[onnx("And", 7)],
    eval: |c| compare(c, |_, _| false, |a, b| a != 0 && b != 0),
    scalar: Some(|c, b, x| two(c, b, x, TileOp::And)),
    ..BOOLEAN
};

static OR: OpDef = OpDef {
    name: "or",
    doc: "a or b.",
    onnx: &[onnx("Or", 7)],
    eval: |c| compare(c, |_, _| false, |a, b| a != 0 || b != 0),
    scalar: Some(|c, b, x| two(c, b, x, TileOp::Or)),
    ..BOOLEAN
};

static XOR: OpDef = OpDef {
    name: "xor",
    doc: "Either a or b.",
    onnx: &[onnx("Xor", 7)],
    eval: |c| compare(c, |_, _| false, |a, b| (a != 0) != (b != 0)),
    scalar: Some(|c, b, x| two(c, b, x, TileOp::Xor)),
    ..BOOLEAN
};

static NOT: OpDef = OpDef {
    name: "not",
    doc: "Not a.",
    onnx: &[onnx("Not", 1)],
    inputs: exactly(1),
    traits: ELEMENTWISE,
    eval: |c| {
        let x = tensor(c, 0)?;
        Ok(vec![from_bytes(DType::Bool, x.shape(), x.to_bools().iter().map(|&v| u8::from(!v)).collect())?])
    },
    scalar: Some(|_, b, x| Some(b.unary(TileOp::Not, *x.first()?))),
    sample: |rng| broadcast(rng, DType::Bool, 1),
    ..BOOLEAN
};

/// What bitwise rows have in common.
const BITWISE: OpDef = OpDef {
    traits: COMMUTATIVE,
    infer: infer_integers,
    sample: |rng| {
        let dtype = integer(rng);
        broadcast(rng, dtype, 2)
    },
    ..COMPARE
};

fn integer(rng: &mut Rng) -> DType {
    *rng.pick(&[DType::I32, DType::I64, DType::U8, DType::I16, DType::U32, DType::U64])
}

fn infer_integers(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let dtype = same_dtypes(ctx)?;
    if dtype.is_float() || dtype == DType::Bool {
        return Err(type_error(format!("operands are {}, integers are wanted", dtype.name())));
    }
    Ok(vec![Type::new(dtype, broadcast_inputs(ctx)?)])
}

static BITWISE_AND: OpDef = OpDef {
    name: "bitwise_and",
    doc: "Bits set in both.",
    onnx: &[onnx("BitwiseAnd", 18)],
    eval: |c| zip_numbers(c, |a, _| a, |a, b| a & b),
    scalar: Some(|c, b, x| two(c, b, x, TileOp::And)),
    ..BITWISE
};

static BITWISE_OR: OpDef = OpDef {
    name: "bitwise_or",
    doc: "Bits set in either.",
    onnx: &[onnx("BitwiseOr", 18)],
    eval: |c| zip_numbers(c, |a, _| a, |a, b| a | b),
    scalar: Some(|c, b, x| two(c, b, x, TileOp::Or)),
    ..BITWISE
};

static BITWISE_XOR: OpDef = OpDef {
    name: "bitwise_xor",
    doc: "Bits set in exactly one.",
    onnx: &[onnx("BitwiseXor", 18)],
    eval: |c| zip_numbers(c, |a, _| a, |a, b| a ^ b),
    scalar: Some(|c, b, x| two(c, b, x, TileOp::Xor)),
    ..BITWISE
};

static BITWISE_NOT: OpDef = OpDef {
    name: "bitwise_not",
    doc: "All bits flipped.",
    onnx: &[onnx("BitwiseNot", 18)],
    inputs: exactly(1),
    traits: ELEMENTWISE,
    eval: |c| {
        let x = tensor(c, 0)?;
        let flipped: Vec<i128> = ints(x).into_iter().map(|v| !v).collect();
        Ok(vec![from_ints(x.dtype(), x.shape(), &flipped)?])
    },
    scalar: Some(|c, b, x| {
        let x = x.first().copied().filter(|_| fits(c))?;
        let ones = b.int(-1);
        Some(b.binary(TileOp::Xor, x, ones))
    }),
    sample: |rng| {
        let dtype = integer(rng);
        broadcast(rng, dtype, 1)
    },
    ..BITWISE
};

static BIT_SHIFT: OpDef = OpDef {
    name: "bit_shift",
    doc: "a shifted by b bits, LEFT or RIGHT; signed numbers keep their sign to the right.",
    onnx: &[onnx("BitShift", 11)],
    attrs: &[required("direction", AttrKind::Str)],
    traits: ELEMENTWISE,
    infer: infer_shift,
    eval: |c| {
        let left = is_left(c.attrs.str("direction"))?;
        zip_numbers(c, |a, _| a, |a, b| shift(a, b, left))
    },
    scalar: Some(lower_shift),
    sample: |rng| {
        let dtype = integer(rng);
        let mut sample = broadcast(rng, dtype, 2);
        if let (Some(Some(by)), 0) = (sample.inputs.get_mut(1), rng.below(3)) {
            *by = rng.tensor(dtype, by.shape(), 0.0, 99.0);
        }
        sample.attrs.set("direction", *rng.pick(&["LEFT", "RIGHT"]));
        sample
    },
    ..BITWISE
};

fn is_left(direction: Option<&str>) -> Result<bool, Diag> {
    match direction {
        Some("LEFT") => Ok(true),
        Some("RIGHT") => Ok(false),
        other => Err(attr_error(format!("direction is {other:?}")).hint("use \"LEFT\" or \"RIGHT\"")),
    }
}

fn infer_shift(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    is_left(ctx.attrs.str("direction"))?;
    infer_integers(ctx)
}

/// Bits shifted out are lost; the width of the type is applied later. A negative number of bits counts as more
/// than the width, and signed numbers keep their sign to the right.
fn shift(a: i128, by: i128, left: bool) -> i128 {
    let bits = u32::try_from(by).unwrap_or(64).min(64);
    match left {
        true if bits == 64 => 0,
        true => a << bits,
        false => a >> bits,
    }
}

fn lower_shift(ctx: &ScalarCtx, b: &mut TileBuilder, x: &[Reg]) -> Option<Reg> {
    let (a, by) = match x {
        [a, by] if fits(ctx) => (*a, *by),
        _ => return None,
    };
    // Shifts by a number of bits outside 0..64 are not the same on every device.
    let (zero, most) = (b.int(0), b.int(63));
    let (negative, large) = (b.binary(TileOp::Lt, by, zero), b.binary(TileOp::Lt, most, by));
    let outside = b.binary(TileOp::Or, negative, large);
    let bits = b.select(outside, most, by);
    if !is_left(ctx.attrs.str("direction")).ok()? {
        return Some(b.binary(TileOp::Shr, a, bits));
    }
    let shifted = b.binary(TileOp::Shl, a, bits);
    Some(b.select(outside, zero, shifted))
}

static IS_NAN: OpDef = OpDef {
    name: "is_nan",
    doc: "Whether x is not a number.",
    onnx: &[onnx("IsNaN", 9)],
    inputs: exactly(1),
    infer: infer_float_test,
    eval: |c| test_floats(c, f64::is_nan),
    scalar: Some(|c, b, x| {
        let x = float_operand(c, x)?;
        Some(b.unary(TileOp::IsNan, x))
    }),
    sample: sample_special,
    ..COMPARE
};

static IS_INF: OpDef = OpDef {
    name: "is_inf",
    doc: "Whether x is infinite, with the signs that are asked for.",
    onnx: &[onnx("IsInf", 10)],
    inputs: exactly(1),
    attrs: &[attr("detect_negative", AttrKind::Int), attr("detect_positive", AttrKind::Int)],
    infer: infer_float_test,
    eval: |c| {
        let (negative, positive) = signs(c.attrs);
        test_floats(c, |v| v.is_infinite() && if v < 0.0 { negative } else { positive })
    },
    scalar: Some(lower_is_inf),
    sample: |rng| {
        let mut sample = sample_special(rng);
        for name in ["detect_negative", "detect_positive"] {
            sample.attrs.set(name, rng.int(0, 1));
        }
        sample
    },
    ..COMPARE
};

fn signs(attrs: &partita_ir::Attrs) -> (bool, bool) {
    (attrs.int_or("detect_negative", 1) != 0, attrs.int_or("detect_positive", 1) != 0)
}

fn infer_float_test(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    crate::eval::want_float(x.dtype)?;
    Ok(vec![Type::new(DType::Bool, x.shape.clone())])
}

fn test_floats(ctx: &EvalCtx, f: impl Fn(f64) -> bool) -> Result<Vec<Tensor>, Diag> {
    let x = tensor(ctx, 0)?;
    Ok(vec![from_bytes(DType::Bool, x.shape(), x.to_f64s().into_iter().map(|v| u8::from(f(v))).collect())?])
}

fn lower_is_inf(ctx: &ScalarCtx, b: &mut TileBuilder, x: &[Reg]) -> Option<Reg> {
    let x = float_operand(ctx, x)?;
    let (negative, positive) = signs(ctx.attrs);
    // Compared with the largest finite number, as not every device can spell infinity.
    let (low, high) = (b.float(f64::from(f32::MIN)), b.float(f64::from(f32::MAX)));
    let (below, above) = (b.binary(TileOp::Lt, x, low), b.binary(TileOp::Lt, high, x));
    Some(match (negative, positive) {
        (true, true) => b.binary(TileOp::Or, below, above),
        (true, false) => below,
        (false, true) => above,
        (false, false) => b.int(0),
    })
}

/// A float operand with some NaN and infinities.
fn sample_special(rng: &mut Rng) -> Sample {
    let mut sample = unary_float(rng);
    if let Some(Some(x)) = sample.inputs.first_mut() {
        let special = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
        let values: Vec<f64> = x
            .to_f64s()
            .into_iter()
            .map(|v| if rng.below(2) == 0 { *rng.pick(&special) } else { v })
            .collect();
        *x = Tensor::from_f64s(x.dtype(), x.shape(), &values).unwrap_or_else(|| x.clone());
    }
    sample
}

static WHERE: OpDef = OpDef {
    name: "where",
    doc: "a where the condition holds, else b.",
    onnx: &[onnx("Where", 9)],
    inputs: exactly(3),
    infer: infer_where,
    content: Some(content_where),
    eval: eval_where,
    scalar: Some(|c, b, x| match x {
        [condition, yes, no] if fits(c) && yes.lane() == no.lane() => Some(b.select(*condition, *yes, *no)),
        _ => None,
    }),
    sample: |rng| {
        let (dtype, shapes) = (any(rng), broadcast_shapes(rng, 3));
        sample_of(vec![
            values(rng, DType::Bool, &shapes[0]),
            values(rng, dtype, &shapes[1]),
            values(rng, dtype, &shapes[2]),
        ])
    },
    ..COMPARE
};

fn infer_where(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (condition, a, b) = (input(ctx, 0)?, input(ctx, 1)?, input(ctx, 2)?);
    if condition.dtype != DType::Bool {
        let text = format!("the condition is {}, bool is wanted", condition.dtype.name());
        return Err(type_error(text));
    }
    if a.dtype != b.dtype {
        let text = format!("operands 1 and 2 are {} and {}", a.dtype.name(), b.dtype.name());
        return Err(type_error(text).hint("both must have one element type; cast one of them"));
    }
    Ok(vec![Type::new(a.dtype, broadcast_inputs(ctx)?)])
}

fn content_where(ctx: &InferCtx) -> Option<Vec<Dim>> {
    let ty = infer_where(ctx).ok()?.remove(0);
    if ty.rank() > 1 || !content::holds_sizes(ty.dtype) {
        return None;
    }
    let (condition, a, b) = (content::dims(ctx, 0)?, content::dims(ctx, 1)?, content::dims(ctx, 2)?);
    let n = content::broadcast_len(&[condition.len(), a.len(), b.len()])?;
    let pick = |i| {
        let side = if content::at(&condition, i).as_known()? == 0 { &b } else { &a };
        Some(content::at(side, i).clone())
    };
    (0..n).map(pick).collect()
}

fn eval_where(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (condition, a, b) = (tensor(ctx, 0)?, tensor(ctx, 1)?, tensor(ctx, 2)?);
    let shape = crate::common::broadcast_shapes(&[condition.shape(), a.shape(), b.shape()])?;
    let flags = condition.to_bools();
    let size = a.dtype().size_bytes();
    let walks = [condition, a, b].map(|t| broadcast_walk(&shape, t.shape()));
    let mut bytes = Vec::with_capacity(walks[0].len() * size);
    for (i, &c) in walks[0].iter().enumerate() {
        let (side, at) = if flags[c] { (a, walks[1][i]) } else { (b, walks[2][i]) };
        bytes.extend_from_slice(&side.bytes()[at * size..(at + 1) * size]);
    }
    Ok(vec![from_bytes(a.dtype(), &shape, bytes)?])
}
