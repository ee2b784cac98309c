//! Older forms of operators, rewritten into the newest one, which is the form the rows read.
//!
//! Three tables: attributes that became operands, attributes that went away, and rules for the rest.

use crate::call::{Call, Emit};
use crate::history;
use crate::training::{batch_norm_mode, dropout_mode, seeded};
use partita_ir::{Attr, DType, Diag, Tensor, ValueId};

/// Newest opset of the standard domain whose forms are known.
pub(crate) const NEWEST_OPSET: i64 = 28;
/// Oldest opset that is read.
pub(crate) const OLDEST_OPSET: i64 = 1;

/// What the operand holds that replaces an attribute.
#[derive(Clone, Copy)]
enum As {
    /// A list of i64.
    Ints,
    /// One i64 in a list.
    OneInt,
    /// A scalar i64.
    Int,
    /// A list of f32.
    Floats,
    /// A scalar f32.
    Float,
    /// A scalar of the first operand's type.
    Like,
}

/// Attributes that are operands since an opset: (operator, attribute, since, operand, its form).
const MOVED: &[(&str, &str, i64, usize, As)] = &[
    ("Clip", "min", 11, 1, As::Like),
    ("Clip", "max", 11, 2, As::Like),
    ("DFT", "axis", 20, 2, As::Int),
    ("Dropout", "ratio", 12, 1, As::Float),
    ("Pad", "pads", 11, 1, As::Ints),
    ("Pad", "value", 11, 2, As::Like),
    ("ReduceL1", "axes", 18, 1, As::Ints),
    ("ReduceL2", "axes", 18, 1, As::Ints),
    ("ReduceLogSum", "axes", 18, 1, As::Ints),
    ("ReduceLogSumExp", "axes", 18, 1, As::Ints),
    ("ReduceMax", "axes", 18, 1, As::Ints),
    ("ReduceMean", "axes", 18, 1, As::Ints),
    ("ReduceMin", "axes", 18, 1, As::Ints),
    ("ReduceProd", "axes", 18, 1, As::Ints),
    ("ReduceSum", "axes", 13, 1, As::Ints),
    ("ReduceSumSquare", "axes", 18, 1, As::Ints),
    ("Reshape", "shape", 5, 1, As::Ints),
    ("Slice", "starts", 10, 1, As::Ints),
    ("Slice", "ends", 10, 2, As::Ints),
    ("Slice", "axes", 10, 3, As::Ints),
    ("Split", "split", 13, 1, As::Ints),
    ("Squeeze", "axes", 13, 1, As::Ints),
    ("TopK", "k", 10, 1, As::OneInt),
    ("Unsqueeze", "axes", 13, 1, As::Ints),
    ("Upsample", "scales", 9, 1, As::Floats),
];

/// Attributes without a meaning for inference: (operator, attribute, gone since).
const DROPPED: &[(&str, &str, i64)] = &[
    ("GRU", "output_sequence", 7),
    ("Gemm", "broadcast", 7),
    ("LSTM", "output_sequence", 7),
    ("RNN", "output_sequence", 7),
];

/// The domain of optimizers.
const TRAINING: &str = "ai.onnx.preview.training";

type Rule = fn(Call, &mut Emit) -> Result<Call, Diag>;

/// Rules for forms older than an opset, in the order they are tried.
const RULES: &[(&str, i64, Rule)] = &[
    ("Add", 7, aligned_broadcast),
    ("And", 7, aligned_broadcast),
    ("BatchNormalization", 14, batch_norm_mode),
    ("Div", 7, aligned_broadcast),
    ("Equal", 7, aligned_broadcast),
    ("Greater", 7, aligned_broadcast),
    ("Less", 7, aligned_broadcast),
    ("Mul", 7, aligned_broadcast),
    ("Or", 7, aligned_broadcast),
    ("PRelu", 7, slope_per_channel),
    ("Pow", 7, aligned_broadcast),
    ("Sub", 7, aligned_broadcast),
    ("Xor", 7, aligned_broadcast),
    ("Cast", 6, type_by_name),
    ("Concat", 4, concat_axis),
    ("DFT", 20, default_axis_one),
    ("DequantizeLinear", i64::MAX, types_not_stated),
    ("Dropout", i64::MAX, dropout_mode),
    ("GlobalLpPool", 2, whole_exponent),
    ("GridSample", 20, grid_modes),
    ("GroupNormalization", 21, scale_per_channel),
    ("Hardmax", 13, over_flattened),
    ("Identity", i64::MAX, of_any_value),
    ("LogSoftmax", 13, over_flattened),
    ("LpPool", 2, whole_exponent),
    ("QuantizeLinear", i64::MAX, types_not_stated),
    ("Bernoulli", i64::MAX, seeded),
    ("Multinomial", i64::MAX, seeded),
    ("RandomNormal", i64::MAX, seeded),
    ("RandomNormalLike", i64::MAX, seeded),
    ("RandomUniform", i64::MAX, seeded),
    ("RandomUniformLike", i64::MAX, seeded),
    ("Resize", 11, resize_10),
    ("RoiAlign", 16, whole_pixels),
    ("Scatter", i64::MAX, renamed_scatter),
    ("Softmax", 13, over_flattened),
    ("Split", 18, equal_parts),
    ("Tile", 6, not_supported),
    ("Upsample", i64::MAX, upsample),
];

/// The call in the newest form; may add nodes before it.
///
/// # Errors
/// `I020` for an attribute that the call's opset does not have any more, `U001` for old forms that are not
/// supported, and from nodes that are added.
pub(crate) fn adapt(mut call: Call, emit: &mut Emit) -> Result<Call, Diag> {
    if call.domain == TRAINING && call.op_type == "Gradient" {
        return Err(Diag::new(
            "U001",
            "Gradient asks for the derivatives of a part of the model, which is not supported",
        )
        .hint("export the model with the nodes that compute its gradients")
        .at_node(call.label()));
    }
    if !call.domain.is_empty() {
        return Ok(call);
    }
    let label = call.label();
    history::check(&call.op_type, call.version).map_err(|d| d.at_node(&*label))?;
    if call.version < 6 {
        // A hint for memory reuse that every operator had.
        call.attrs.remove("consumed_inputs");
    }
    for (op, attr, gone) in DROPPED {
        if *op == call.op_type && call.version < *gone {
            call.attrs.remove(*attr);
        }
    }
    move_attrs(&mut call, emit).map_err(|d| d.at_node(&*label))?;
    let rule = RULES.iter().find(|(op, before, _)| *op == call.op_type && call.version < *before);
    match rule {
        Some((_, _, rule)) => rule(call, emit).map_err(|d| d.at_node(label)),
        None => Ok(call),
    }
}

/// Attributes that became operands: they stay attributes where the row has them, else they become constants.
fn move_attrs(call: &mut Call, emit: &mut Emit) -> Result<(), Diag> {
    for (op, attr, since, operand, form) in MOVED {
        if *op != call.op_type || !call.attrs.contains_key(*attr) {
            continue;
        }
        if call.version >= *since {
            let text = format!("attribute {attr} of {op} is operand {operand} since opset {since}");
            return Err(Diag::new("I020", text).hint("the model states another opset than it was made for"));
        }
        let Some(mut value) = call.attrs.remove(*attr) else { continue };
        if emit.has_attr(op, attr) {
            if let (As::OneInt, Attr::Int(one)) = (*form, &value) {
                value = Attr::Ints(vec![*one]);
            }
            call.attrs.insert((*attr).to_owned(), value);
            continue;
        }
        let dtype = call.input(0).map_or(DType::F32, |v| emit.ty(v).dtype);
        let tensor = as_tensor(&value, *form, dtype).ok_or_else(|| {
            Diag::new("I019", format!("attribute {attr} of {op} has the wrong kind"))
                .hint("the model is damaged; export it again")
        })?;
        let constant = emit.constant(&format!("{}_{attr}", call.name), tensor);
        call.set_input(*operand, constant);
    }
    Ok(())
}

fn as_tensor(value: &Attr, form: As, like: DType) -> Option<Tensor> {
    match (form, value) {
        (As::Ints, Attr::Ints(v)) => Tensor::from_slice(&[v.len()], v),
        (As::OneInt, Attr::Int(v)) => Tensor::from_slice(&[1], &[*v]),
        (As::Int, Attr::Int(v)) => Some(Tensor::scalar(*v)),
        (As::Floats, Attr::Floats(v)) => Tensor::from_slice(&[v.len()], v),
        (As::Float, Attr::Float(v)) => Some(Tensor::scalar(*v)),
        (As::Like, Attr::Float(v)) => Tensor::from_f64s(like, &[], &[f64::from(*v)]),
        _ => None,
    }
}

/// An input that a rule needs.
pub(crate) fn need(call: &Call, n: usize) -> Result<ValueId, Diag> {
    call.input(n).ok_or_else(|| Diag::new("V002", format!("operand {n} of {} is required", call.op_type)))
}

/// A call with the same place in the model, for nodes that a rule adds.
pub(crate) fn sibling(call: &Call, inputs: &[ValueId]) -> Call {
    let inputs = inputs.iter().copied().map(Some).collect();
    Call { name: call.name.clone(), version: NEWEST_OPSET, inputs, ..Call::default() }
}

/// The call with sizes given as attribute where the row has it, else as a constant operand.
pub(crate) fn with_ints(
    mut call: Call,
    op: &str,
    attr: &str,
    values: Vec<i64>,
    emit: &mut Emit,
) -> Result<Call, Diag> {
    if emit.has_attr(op, attr) {
        call.attrs.insert(attr.to_owned(), Attr::Ints(values));
    } else {
        let tensor = Tensor::from_slice(&[values.len()], &values)
            .ok_or_else(|| Diag::new("I019", "a list of sizes is too long"))?;
        let wish = format!("{}_{attr}", call.name);
        let constant = emit.constant(&wish, tensor);
        call.set_input(1, constant);
    }
    Ok(call)
}

/// Before opset 7 the second operand was aligned by `axis` and broadcast only on demand.
fn aligned_broadcast(mut call: Call, emit: &mut Emit) -> Result<Call, Diag> {
    let broadcast = call.int("broadcast").unwrap_or(0) != 0;
    let axis = call.int("axis");
    call.attrs.remove("broadcast");
    call.attrs.remove("axis");
    let (a, b) = (need(&call, 0)?, need(&call, 1)?);
    let Some(axis) = axis.filter(|_| broadcast) else { return Ok(call) };
    let (rank_a, rank_b) = (emit.ranked(a)? as i64, emit.ranked(b)? as i64);
    let axis = if axis < 0 { axis + rank_a } else { axis };
    let trailing = rank_a - axis - rank_b;
    if trailing < 0 || axis < 0 {
        return Err(Diag::new("V021", format!("axis {axis} does not fit the operands")));
    }
    if trailing > 0 {
        let axes = (rank_b..rank_b + trailing).collect();
        let unsqueeze = with_ints(sibling(&call, &[b]), "Unsqueeze", "axes", axes, emit)?;
        let aligned = emit.step(unsqueeze, "Unsqueeze")?;
        call.set_input(1, aligned);
    }
    Ok(call)
}

/// Before opset 7 a vector of slopes went along the channels.
fn slope_per_channel(mut call: Call, emit: &mut Emit) -> Result<Call, Diag> {
    let (x, slope) = (need(&call, 0)?, need(&call, 1)?);
    let rank = emit.ranked(x)? as i64;
    let vector = emit.ranked(slope)? == 1 && !emit.ty(slope).shape[0].is(1);
    if vector && rank > 2 {
        let unsqueeze =
            with_ints(sibling(&call, &[slope]), "Unsqueeze", "axes", (1..rank - 1).collect(), emit)?;
        let aligned = emit.step(unsqueeze, "Unsqueeze")?;
        call.set_input(1, aligned);
    }
    Ok(call)
}

fn default_axis_one(mut call: Call, emit: &mut Emit) -> Result<Call, Diag> {
    if call.input(2).is_none() && !call.attrs.contains_key("axis") {
        let axis = emit.constant(&format!("{}_axis", call.name), Tensor::scalar(1i64));
        call.set_input(2, axis);
    }
    Ok(call)
}

fn grid_modes(mut call: Call, _: &mut Emit) -> Result<Call, Diag> {
    let newer = match call.attrs.get("mode") {
        Some(Attr::Str(mode)) if mode == "bilinear" => "linear",
        Some(Attr::Str(mode)) if mode == "bicubic" => "cubic",
        _ => return Ok(call),
    };
    call.attrs.insert("mode".to_owned(), Attr::from(newer));
    Ok(call)
}

/// Before opset 21 scale and bias had one element per group, not per channel.
fn scale_per_channel(mut call: Call, emit: &mut Emit) -> Result<Call, Diag> {
    let groups = call.int("num_groups").unwrap_or(0);
    let channels = emit.ty(need(&call, 0)?).shape.get(1).and_then(partita_ir::Dim::as_known);
    let (Some(channels), true) = (channels, groups > 0) else {
        return Err(Diag::new("U001", "GroupNormalization needs a known number of channels before opset 21"));
    };
    for operand in [1, 2] {
        let per_group = need(&call, operand)?;
        if emit.ty(per_group).shape.first().is_some_and(|d| d.is(channels)) {
            continue;
        }
        let column = with_ints(sibling(&call, &[per_group]), "Unsqueeze", "axes", vec![1], emit)?;
        let column = emit.step(column, "Unsqueeze")?;
        let wide =
            with_ints(sibling(&call, &[column]), "Expand", "shape", vec![groups, channels / groups], emit)?;
        let wide = emit.step(wide, "Expand")?;
        let flat = with_ints(sibling(&call, &[wide]), "Reshape", "shape", vec![channels], emit)?;
        let flat = emit.step(flat, "Reshape")?;
        call.set_input(operand, flat);
    }
    Ok(call)
}

/// Before opset 13 these took the input as a matrix, split at `axis` (1 when not stated).
fn over_flattened(mut call: Call, emit: &mut Emit) -> Result<Call, Diag> {
    let x = need(&call, 0)?;
    let rank = if emit.ty(x).is_tensor() { emit.ty(x).rank() as i64 } else { i64::MAX };
    let axis = call.attrs.remove("axis").map_or(1, |a| if let Attr::Int(v) = a { v } else { 1 });
    let last = Attr::Int(-1);
    if axis == -1 || axis == rank - 1 {
        call.attrs.insert("axis".to_owned(), last);
        return Ok(call);
    }
    let mut flatten = sibling(&call, &[x]);
    flatten.attrs.insert("axis".to_owned(), Attr::Int(axis));
    let matrix = emit.step(flatten, "Flatten")?;
    let mut inner = sibling(&call, &[matrix]);
    inner.attrs.insert("axis".to_owned(), last);
    let result = emit.step(inner, &call.op_type)?;
    let shape = emit.step(sibling(&call, &[x]), "Shape")?;
    let mut back = sibling(&call, &[result, shape]);
    back.outputs = call.outputs;
    "Reshape".clone_into(&mut back.op_type);
    Ok(back)
}

/// Before opset 11 the second operand was `scales`, the origin was the corner, and the nearest element was the
/// one below where an axis grows and the one above where it shrinks.
fn resize_10(mut call: Call, emit: &mut Emit) -> Result<Call, Diag> {
    let scales = need(&call, 1)?;
    call.inputs.truncate(1);
    call.set_input(2, scales);
    call.attrs.insert("coordinate_transformation_mode".to_owned(), Attr::from("asymmetric"));
    if call.attrs.get("mode").is_some_and(|m| *m != Attr::from("nearest")) {
        return Ok(call);
    }
    let Some(known) = emit.builder.graph().as_const(scales).map(Tensor::to_f64s) else {
        return grow_then_shrink(call, scales, emit);
    };
    let (grows, shrinks) = (known.iter().any(|s| *s > 1.0), known.iter().any(|s| *s < 1.0));
    if grows && shrinks {
        // Axes do not influence each other, so some can be resized first.
        let grown = with_scales(call.clone(), known.iter().map(|s| s.max(1.0)), "floor", emit)?;
        let grown = emit.step(grown, "Resize")?;
        call.set_input(0, grown);
        return with_scales(call, known.iter().map(|s| s.min(1.0)), "ceil", emit);
    }
    let nearest = if shrinks { "ceil" } else { "floor" };
    call.attrs.insert("nearest_mode".to_owned(), Attr::from(nearest));
    Ok(call)
}

/// Nearest neighbours are found downwards along axes that grow, upwards along those that shrink; which ones do is
/// only known when the model runs.
fn grow_then_shrink(mut call: Call, scales: ValueId, emit: &mut Emit) -> Result<Call, Diag> {
    let one = emit.constant(&format!("{}_one", call.name), Tensor::scalar(1.0f32));
    let bare = Call { attrs: Default::default(), ..sibling(&call, &[scales, one]) };
    let (larger, smaller) = (emit.step(bare.clone(), "Max")?, emit.step(bare, "Min")?);
    call.set_input(2, larger);
    call.attrs.insert("nearest_mode".to_owned(), Attr::from("floor"));
    let grown = emit.step(call.clone(), "Resize")?;
    call.set_input(0, grown);
    call.set_input(2, smaller);
    call.attrs.insert("nearest_mode".to_owned(), Attr::from("ceil"));
    Ok(call)
}

/// The resize with other scales and nearest mode.
fn with_scales(
    mut call: Call,
    scales: impl Iterator<Item = f64>,
    nearest: &str,
    emit: &mut Emit,
) -> Result<Call, Diag> {
    let scales: Vec<f64> = scales.collect();
    let tensor = Tensor::from_f64s(DType::F32, &[scales.len()], &scales)
        .ok_or_else(|| Diag::new("I019", "the list of scales is too long"))?;
    let constant = emit.constant(&format!("{}_scales", call.name), tensor);
    call.set_input(2, constant);
    call.attrs.insert("nearest_mode".to_owned(), Attr::from(nearest));
    Ok(call)
}

fn upsample(mut call: Call, emit: &mut Emit) -> Result<Call, Diag> {
    "Resize".clone_into(&mut call.op_type);
    if call.attrs.get("mode") == Some(&Attr::from("bilinear")) {
        call.attrs.insert("mode".to_owned(), Attr::from("linear"));
    }
    // Opset 1 had a scale for each of the two spatial axes.
    let (height, width) = (call.attrs.remove("height_scale"), call.attrs.remove("width_scale"));
    if let (Some(Attr::Float(height)), Some(Attr::Float(width))) = (height, width) {
        call.attrs.insert("scales".to_owned(), Attr::Floats(vec![1.0, 1.0, height, width]));
    }
    if let Some(Attr::Floats(scales)) = call.attrs.remove("scales") {
        let tensor = Tensor::from_slice(&[scales.len()], &scales)
            .ok_or_else(|| Diag::new("I019", "the list of scales is too long"))?;
        let constant = emit.constant(&format!("{}_scales", call.name), tensor);
        call.set_input(1, constant);
    }
    // Upsample only grows, so scales that only a run can tell do not matter for which element is nearest.
    let known = call.input(1).is_none_or(|scales| emit.builder.graph().as_const(scales).is_some());
    if !known {
        let scales = need(&call, 1)?;
        call.inputs.truncate(1);
        call.set_input(2, scales);
        call.attrs.insert("coordinate_transformation_mode".to_owned(), Attr::from("asymmetric"));
        call.attrs.insert("nearest_mode".to_owned(), Attr::from("floor"));
        return Ok(call);
    }
    resize_10(call, emit)
}

/// Before opset 16 the corners of regions were not moved by half a pixel.
fn whole_pixels(mut call: Call, _: &mut Emit) -> Result<Call, Diag> {
    call.attrs.insert("coordinate_transformation_mode".to_owned(), Attr::from("output_half_pixel"));
    Ok(call)
}

/// Before opset 2 the exponent was a float; only whole ones have the newer form.
fn whole_exponent(mut call: Call, _: &mut Emit) -> Result<Call, Diag> {
    if let Some(Attr::Float(p)) = call.attrs.get("p") {
        if p.fract() != 0.0 || !(1.0..1e6).contains(p) {
            return Err(Diag::new(
                "U001",
                format!("{} with the exponent {p} is not supported", call.op_type),
            ));
        }
        let p = Attr::Int(*p as i64);
        call.attrs.insert("p".to_owned(), p);
    }
    Ok(call)
}

/// Tensors have a row of their own, which devices run.
fn of_any_value(mut call: Call, emit: &mut Emit) -> Result<Call, Diag> {
    let form = &emit.ty(need(&call, 0)?).form;
    if !matches!(form, partita_ir::types::Form::Tensor | partita_ir::types::Form::Unranked) {
        "partita".clone_into(&mut call.domain);
    }
    Ok(call)
}

fn renamed_scatter(mut call: Call, _: &mut Emit) -> Result<Call, Diag> {
    "ScatterElements".clone_into(&mut call.op_type);
    Ok(call)
}

/// Before opset 18 the number of parts was the number of results.
fn equal_parts(mut call: Call, emit: &mut Emit) -> Result<Call, Diag> {
    let stated = call.input(1).is_some() || call.attrs.contains_key("split");
    if !stated && emit.has_attr("Split", "num_outputs") {
        let n = call.outputs.len() as i64;
        call.attrs.insert("num_outputs".to_owned(), Attr::Int(n));
    }
    Ok(call)
}

/// Before opset 6 the target type was text.
fn type_by_name(mut call: Call, _: &mut Emit) -> Result<Call, Diag> {
    if let Some(Attr::Str(name)) = call.attrs.get("to") {
        let code = crate::dtypes::code_named(name)?;
        call.attrs.insert("to".to_owned(), Attr::Int(code));
    }
    Ok(call)
}

/// Element type 0, the default of these attributes, is the same as leaving them out.
fn types_not_stated(mut call: Call, _: &mut Emit) -> Result<Call, Diag> {
    for name in ["output_dtype", "precision"] {
        if call.int(name) == Some(0) {
            call.attrs.remove(name);
        }
    }
    Ok(call)
}

/// Before opset 4 the axis had a default.
fn concat_axis(mut call: Call, _: &mut Emit) -> Result<Call, Diag> {
    call.attrs.entry("axis".to_owned()).or_insert(Attr::Int(1));
    Ok(call)
}

fn not_supported(call: Call, _: &mut Emit) -> Result<Call, Diag> {
    let text = format!("{} of opset {} is not supported", call.op_type, call.version);
    Err(Diag::new("U001", text).hint("convert the model to opset 7 or newer"))
}
