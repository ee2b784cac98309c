//! Conversion of element types, and operators that are the identity or nearly so.

use crate::common::{
    ELEMENTWISE, RESHAPES, attr, between, exactly, input, n_out, onnx, operand, required, same_as_first,
    sample_of, sample_shape, tensor, type_error, work, work_elementwise, work_free,
};
use crate::content;
use crate::convert::{Rounding, converted};
use crate::elements::{from_bytes, ints, map_numbers};
use crate::samples::{any, number, shape, values};
use crate::scalar::{fits, infer_number};
use partita_ir::attr::{Attr, Attrs};
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, ScalarCtx};
use partita_ir::tile::{Reg, TileBuilder};
use partita_ir::types::Type;
use partita_ir::work::WorkKind;
use partita_ir::{DType, Dim, Tensor};
use partita_plan::tile::TileOp;

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&BIT_CAST, &CAST, &CAST_LIKE, &CLIP, &IDENTITY];

static CAST: OpDef = OpDef {
    name: "cast",
    doc: "x in the element type `to`: floats towards zero, integers wrap, bool is \"not zero\", text is decimal.",
    onnx: &[onnx("Cast", 6)],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: &[
        attr("round_mode", AttrKind::Str),
        attr("saturate", AttrKind::Int),
        required("to", AttrKind::DType),
    ],
    traits: ELEMENTWISE,
    infer: infer_cast,
    content: Some(content_cast),
    eval: |c| Ok(vec![converted(tensor(c, 0)?, target(c.attrs)?, Rounding::of(c.attrs)?)?]),
    scalar: Some(lower_cast),
    data: None,
    work: work_elementwise,
    sample: |rng| sample_cast(rng, false),
};

/// All element types.
const ALL: &[DType] = &[
    DType::F32,
    DType::F16,
    DType::Bf16,
    DType::F64,
    DType::I8,
    DType::I16,
    DType::I32,
    DType::I64,
    DType::U8,
    DType::U16,
    DType::U32,
    DType::U64,
    DType::Bool,
    DType::F8E4M3fn,
    DType::F8E4M3fnuz,
    DType::F8E5M2,
    DType::F8E5M2fnuz,
    DType::F8E8M0,
    DType::F4E2M1,
    DType::F6E2M3,
    DType::F6E3M2,
    DType::I4,
    DType::U4,
    DType::I2,
    DType::U2,
    DType::Str,
];

/// Values of any element type; text holds numbers.
fn sample_values(rng: &mut Rng, dtype: DType, shape: &[usize]) -> Tensor {
    if dtype != DType::Str {
        return values(rng, dtype, shape);
    }
    let numbers = values(rng, DType::F32, shape);
    let texts: Vec<String> = numbers.to_f64s().iter().map(|v| format!("{v:.2}")).collect();
    Tensor::from_strings(shape, &texts).unwrap_or(numbers)
}

/// Operands and attributes of a cast from one of all types to another; a second operand when `like`.
fn sample_cast(rng: &mut Rng, like: bool) -> Sample {
    let (from, to, shape) = (*rng.pick(ALL), *rng.pick(ALL), shape(rng));
    let mut sample = sample_of(vec![sample_values(rng, from, &shape)]);
    if like {
        sample.inputs.push(Some(sample_values(rng, to, &[1])));
    } else {
        sample.attrs.set("to", to);
    }
    if rng.below(3) == 0 {
        sample.attrs.set("saturate", rng.int(0, 1));
        sample.attrs.set("round_mode", *rng.pick(&["up", "down", "nearest"]));
    }
    sample
}

fn target(attrs: &Attrs) -> Result<DType, Diag> {
    attrs.dtype("to").ok_or_else(|| {
        crate::common::attr_error("the attribute to is missing").hint("name the element type to cast to")
    })
}

fn infer_cast(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    Rounding::of(ctx.attrs)?;
    Ok(vec![Type::new(target(ctx.attrs)?, input(ctx, 0)?.shape.clone())])
}

/// Content stays when an integer type becomes one that holds sizes.
fn content_cast(ctx: &InferCtx) -> Option<Vec<Dim>> {
    let to = ctx.attrs.dtype("to")?;
    kept_dims(ctx, to)
}

/// The first operand's content, unless its elements change in `to`.
fn kept_dims(ctx: &InferCtx, to: DType) -> Option<Vec<Dim>> {
    let from = input(ctx, 0).ok()?.dtype;
    if !content::holds_sizes(to) || !(content::holds_sizes(from) || from == DType::Bool) {
        return None;
    }
    let dims = content::dims(ctx, 0)?;
    let fits = |v: i64| to == DType::I64 || i32::try_from(v).is_ok();
    dims.iter().all(|d| d.as_known().is_none_or(fits)).then_some(dims)
}

fn lower_cast(ctx: &ScalarCtx, b: &mut TileBuilder, x: &[Reg]) -> Option<Reg> {
    let x = x.first().copied().filter(|_| fits(ctx))?;
    Some(b.convert(x, ctx.output))
}

static CAST_LIKE: OpDef = OpDef {
    name: "cast_like",
    doc: "x in the element type of the second operand.",
    onnx: &[onnx("CastLike", 15)],
    inputs: exactly(2),
    attrs: &[attr("round_mode", AttrKind::Str), attr("saturate", AttrKind::Int)],
    traits: crate::common::PLAIN,
    infer: |c| {
        Rounding::of(c.attrs)?;
        Ok(vec![Type::new(input(c, 1)?.dtype, input(c, 0)?.shape.clone())])
    },
    content: Some(|c| kept_dims(c, input(c, 1).ok()?.dtype)),
    eval: |c| Ok(vec![converted(tensor(c, 0)?, tensor(c, 1)?.dtype(), Rounding::of(c.attrs)?)?]),
    scalar: None,
    sample: |rng| sample_cast(rng, true),
    ..CAST
};

static BIT_CAST: OpDef = OpDef {
    name: "bit_cast",
    doc: "The bits of x read as the element type `to`, which has the same width.",
    onnx: &[onnx("BitCast", 26)],
    attrs: &[required("to", AttrKind::DType)],
    traits: crate::common::PLAIN,
    infer: infer_bit_cast,
    content: None,
    eval: |c| {
        let (x, to) = (tensor(c, 0)?, target(c.attrs)?);
        check_widths(x.dtype(), to)?;
        let bytes = x.bytes().iter().map(|&b| narrow_code(to, b)).collect();
        Ok(vec![from_bytes(to, x.shape(), bytes)?])
    },
    scalar: None,
    data: None,
    work: work_free,
    sample: |rng| {
        let groups: [&[DType]; 6] = [
            &[DType::F32, DType::I32, DType::U32],
            &[DType::F64, DType::I64, DType::U64],
            &[DType::F16, DType::Bf16, DType::I16, DType::U16],
            &[DType::I8, DType::U8, DType::Bool, DType::F8E4M3fn, DType::F8E5M2fnuz, DType::F8E8M0],
            &[DType::I4, DType::U4, DType::F4E2M1],
            &[DType::I2, DType::U2],
        ];
        let group = *rng.pick(&groups);
        let (from, to, shape) = (*rng.pick(group), *rng.pick(group), shape(rng));
        let mut sample = sample_of(vec![values(rng, from, &shape)]);
        sample.attrs.set("to", to);
        sample
    },
    ..CAST
};

fn infer_bit_cast(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (x, to) = (input(ctx, 0)?, target(ctx.attrs)?);
    check_widths(x.dtype, to)?;
    Ok(vec![Type::new(to, x.shape.clone())])
}

fn check_widths(from: DType, to: DType) -> Result<(), Diag> {
    if from == DType::Str || to == DType::Str {
        return Err(type_error("text has no bits to read as another type").hint("use cast"));
    }
    if from.bits() == to.bits() {
        return Ok(());
    }
    Err(type_error(format!("the widths of {} and {} differ", from.name(), to.name()))
        .hint("only types of the same width share their bits"))
}

/// A byte of the operand as a byte of a tensor of type `to`. Types below a byte are held with their sign extended
/// or not, and booleans as 0 and 1.
fn narrow_code(to: DType, byte: u8) -> u8 {
    let sign_extended = |bits: u32| ((byte << bits).cast_signed() >> bits).cast_unsigned();
    match to {
        DType::Bool => u8::from(byte != 0),
        DType::U4 | DType::F4E2M1 => byte & 15,
        DType::I4 => sign_extended(4),
        DType::F6E2M3 | DType::F6E3M2 => byte & 63,
        DType::U2 => byte & 3,
        DType::I2 => sign_extended(6),
        _ => byte,
    }
}

static IDENTITY: OpDef = OpDef {
    name: "identity",
    doc: "x itself.",
    onnx: &[onnx("Identity", 1)],
    attrs: &[],
    traits: partita_ir::op::Traits { elementwise: true, ..RESHAPES },
    infer: same_as_first,
    content: Some(content::pass),
    eval: |c| Ok(vec![tensor(c, 0)?.clone()]),
    scalar: Some(|c, _, x| x.first().copied().filter(|_| fits(c))),
    data: None,
    work: work_free,
    sample: |rng| {
        let (dtype, shape) = (any(rng), shape(rng));
        sample_of(vec![values(rng, dtype, &shape)])
    },
    ..CAST
};

static CLIP: OpDef = OpDef {
    name: "clip",
    doc: "x kept within min and max; NaN stays.",
    onnx: &[onnx("Clip", 11)],
    inputs: between(1, 3),
    outputs: exactly(1),
    attrs: &[operand("max", AttrKind::Float, 2), operand("min", AttrKind::Float, 1)],
    traits: ELEMENTWISE,
    infer: infer_clip,
    content: None,
    eval: eval_clip,
    scalar: Some(lower_clip),
    data: None,
    work: |c| work(c, 2.0 * n_out(c), WorkKind::Vector),
    sample: sample_clip,
};

fn infer_clip(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    for bound in ctx.inputs.iter().skip(1).flatten() {
        if bound.ty.rank() > 0 && !bound.ty.n_elements().is(1) {
            return Err(type_error(format!("a bound is {}, a scalar is wanted", bound.ty)));
        }
    }
    crate::scalar::same_dtypes(ctx)?;
    infer_number(ctx)
}

/// A bound given as an attribute: a float, an integer or a scalar tensor.
fn bound_attr(attrs: &Attrs, name: &str) -> Option<f64> {
    match attrs.get(name)? {
        Attr::Float(v) => Some(f64::from(*v)),
        Attr::Int(v) => Some(*v as f64),
        Attr::Tensor(t) => t.to_scalar_f64(),
        _ => None,
    }
}

/// A bound as a float and as an integer; the latter without loss when it is an operand.
fn bound(ctx: &EvalCtx, name: &str, n: usize) -> Option<(f64, i128)> {
    match ctx.inputs.get(n).copied().flatten() {
        Some(t) => Some((*t.to_f64s().first()?, *ints(t).first()?)),
        None => bound_attr(ctx.attrs, name).map(|v| (v, v as i128)),
    }
}

fn eval_clip(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (low, high) = (bound(ctx, "min", 1), bound(ctx, "max", 2));
    // The maximum wins where the bounds cross, as in ONNX.
    map_numbers(
        ctx,
        |v| {
            let v = low.map_or(v, |(low, _)| if v < low { low } else { v });
            high.map_or(v, |(high, _)| if v > high { high } else { v })
        },
        |v| {
            let v = low.map_or(v, |(_, low)| v.max(low));
            high.map_or(v, |(_, high)| v.min(high))
        },
    )
}

/// Operands and attributes may be mixed; with one bound as an operand it is the one that is no attribute, and
/// without any attribute two operands do not tell which bound is there.
fn lower_clip(ctx: &ScalarCtx, b: &mut TileBuilder, x: &[Reg]) -> Option<Reg> {
    let (low, high) = (bound_attr(ctx.attrs, "min"), bound_attr(ctx.attrs, "max"));
    let value = x.first().copied().filter(|_| fits(ctx))?;
    let (low, high) = match (x, low, high) {
        ([_], low, high) => (low.map(|v| b.constant(value, v)), high.map(|v| b.constant(value, v))),
        ([_, other], Some(low), None) => (Some(b.constant(value, low)), Some(*other)),
        ([_, other], None, Some(high)) => (Some(*other), Some(b.constant(value, high))),
        ([_, low, high], None, None) => (Some(*low), Some(*high)),
        _ => return None,
    };
    // The register that may be NaN comes second: Max and Min return it then.
    let above = low.map_or(value, |low| b.binary(TileOp::Max, low, value));
    Some(high.map_or(above, |high| b.binary(TileOp::Min, high, above)))
}

fn sample_clip(rng: &mut Rng) -> Sample {
    let dtype = number(rng);
    let rank = rng.below(4);
    let shape = sample_shape(rng, rank);
    let mut sample = sample_of(vec![values(rng, dtype, &shape)]);
    let (low, high) = (rng.int(0, 1), rng.int(2, 3));
    match rng.below(4) {
        0 => sample.inputs.extend([low, high].map(|v| Tensor::from_i64s(dtype, &[], &[v]))),
        1 => sample.inputs.extend([None, Tensor::from_i64s(dtype, &[], &[high])]),
        2 => sample.attrs.set("min", low as f32),
        _ => {
            sample.attrs.set("max", high as f32);
            sample.inputs.push(Tensor::from_i64s(dtype, &[], &[low]));
        }
    }
    sample
}
