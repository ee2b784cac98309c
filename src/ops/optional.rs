//! Values that may be absent, and passing on a value of any kind.

use crate::common::{attr, between, exactly, onnx, type_error};
use crate::sequence::{datum, no_sample, operand};
use partita_ir::data::DataCtx;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, InferCtx, OnnxName, OpDef};
use partita_ir::types::{Form, Type};
use partita_ir::{DType, Datum, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&OPTIONAL, &OPTIONAL_GET_ELEMENT, &OPTIONAL_HAS_ELEMENT, &PASS];

static OPTIONAL: OpDef = OpDef {
    name: "optional",
    doc: "An optional with the operand as its element, or without one.",
    onnx: &[onnx("Optional", 15)],
    inputs: between(0, 1),
    outputs: exactly(1),
    attrs: &[attr("type", AttrKind::Type)],
    traits: crate::common::PLAIN,
    infer: infer_optional,
    content: None,
    eval: crate::common::no_tensors,
    scalar: None,
    data: Some(|c| Ok(vec![Datum::Optional(given(c).cloned().map(Box::new))])),
    work: crate::common::work_free,
    sample: no_sample,
};

static OPTIONAL_HAS_ELEMENT: OpDef = OpDef {
    name: "optional_has_element",
    doc: "Whether there is an element: false for an optional without one and for an operand that is omitted.",
    onnx: &[onnx("OptionalHasElement", 15)],
    attrs: &[],
    infer: |_| Ok(vec![Type::new(DType::Bool, [])]),
    data: Some(eval_has),
    ..OPTIONAL
};

static OPTIONAL_GET_ELEMENT: OpDef = OpDef {
    name: "optional_get_element",
    doc: "The element of an optional; any other value is its own element.",
    onnx: &[onnx("OptionalGetElement", 15)],
    inputs: exactly(1),
    attrs: &[],
    infer: infer_get,
    data: Some(eval_get),
    ..OPTIONAL
};

/// `identity` of tensors is a row of its own, which devices run.
static PASS: OpDef = OpDef {
    name: "pass",
    doc: "The operand, of whatever kind.",
    onnx: &[OnnxName { domain: "partita", op_type: "Identity", since: 1 }],
    inputs: exactly(1),
    attrs: &[],
    infer: |c| Ok(vec![operand(c, 0)?.ty.clone()]),
    data: Some(|c| Ok(vec![datum(c, 0)?.clone()])),
    ..OPTIONAL
};

/// The operand, if there is one.
fn given<'a>(ctx: &DataCtx<'a>) -> Option<&'a Datum> {
    ctx.inputs.first().copied().flatten()
}

fn infer_optional(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let operand = ctx.inputs.first().copied().flatten();
    let item = operand.map(|o| o.ty.clone()).or_else(|| ctx.attrs.ty("type").cloned());
    let item = item.ok_or_else(|| type_error("an optional without an element must state its type"))?;
    Ok(vec![if item.form == Form::Any { item } else { Type::optional(item) }])
}

fn eval_has(ctx: &DataCtx) -> Result<Vec<Datum>, Diag> {
    let has = given(ctx).is_some_and(|d| *d != Datum::Optional(None));
    let truth = Tensor::from_bools(&[], &[has]).ok_or_else(|| type_error("a scalar has one element"))?;
    Ok(vec![Datum::Tensor(truth)])
}

fn infer_get(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let ty = operand(ctx, 0)?.ty;
    Ok(vec![match &ty.form {
        Form::Optional(item) => (**item).clone(),
        _ => ty.clone(),
    }])
}

fn eval_get(ctx: &DataCtx) -> Result<Vec<Datum>, Diag> {
    match datum(ctx, 0)? {
        Datum::Optional(Some(element)) => Ok(vec![(**element).clone()]),
        Datum::Optional(None) => Err(Diag::new("X023", "the optional has no element")
            .hint("ask OptionalHasElement first, inside of an If")),
        other => Ok(vec![other.clone()]),
    }
}
