//! Resizing by interpolation, one axis after the other: `resize` and the older `upsample`.

use crate::common::{
    PLAIN, attr, attr_error, axis_of, between, data_dependent, dims_of, from_f64s, input, ints_of, onnx,
    operand, tensor, type_error, work,
};
use crate::eval::{Lines, optional, result};
use crate::resample::{Interpolation, Span};
use crate::samples::{number, values};
use crate::shapes::{or_unknown, unknown_type};
use partita_ir::attr::{Attr, Attrs};
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::tensor::n_elements;
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Scales are less than this.
const MAX_SCALE: f64 = 1e9;

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&RESIZE, &UPSAMPLE];

/// Resizing.
static RESIZE: OpDef = OpDef {
    name: "resize",
    doc: "resizes axes by nearest, linear or cubic interpolation to given scales or sizes",
    onnx: &[onnx("Resize", 11)],
    inputs: between(1, 4),
    outputs: between(1, 1),
    attrs: &[
        attr("antialias", AttrKind::Int),
        attr("axes", AttrKind::Ints),
        attr("coordinate_transformation_mode", AttrKind::Str),
        attr("cubic_coeff_a", AttrKind::Float),
        attr("exclude_outside", AttrKind::Int),
        attr("extrapolation_value", AttrKind::Float),
        attr("keep_aspect_ratio_policy", AttrKind::Str),
        attr("mode", AttrKind::Str),
        attr("nearest_mode", AttrKind::Str),
        operand("roi", AttrKind::Floats, 1),
        operand("scales", AttrKind::Floats, 2),
        operand("sizes", AttrKind::Dims, 3),
    ],
    traits: PLAIN,
    infer: infer_resize,
    content: None,
    eval: eval_resize,
    scalar: None,
    data: None,
    work: work_resize,
    sample: sample_resize,
};

/// Upsampling.
static UPSAMPLE: OpDef = OpDef {
    name: "upsample",
    doc: "enlarges axes by scales, nearest or linear, output position / scale",
    onnx: &[onnx("Upsample", 9)],
    inputs: between(1, 2),
    outputs: between(1, 1),
    attrs: &[attr("mode", AttrKind::Str), operand("scales", AttrKind::Floats, 1)],
    traits: PLAIN,
    infer: infer_upsample,
    content: None,
    eval: eval_upsample,
    scalar: None,
    data: None,
    work: work_resize,
    sample: sample_upsample,
};

/// Floats of an attribute; `None` for no or an empty one.
fn floats(attrs: &Attrs, name: &str) -> Option<Vec<f64>> {
    match attrs.get(name)? {
        Attr::Floats(v) if !v.is_empty() => Some(v.iter().map(|&v| f64::from(v)).collect()),
        _ => None,
    }
}

/// Floats of an attribute or of operand `at`; an empty tensor counts as omitted.
///
/// # Errors
/// `U010` when they are known at run time only.
fn floats_of(ctx: &InferCtx, name: &str, at: usize) -> Result<Option<Vec<f64>>, Diag> {
    if let Some(v) = floats(ctx.attrs, name) {
        return Ok(Some(v));
    }
    let Some(operand) = ctx.inputs.get(at).copied().flatten() else { return Ok(None) };
    if operand.ty.n_elements().is(0) {
        return Ok(None);
    }
    match operand.content.and_then(|c| c.as_const()) {
        Some(t) => Ok(Some(t.to_f64s())),
        None => Err(data_dependent()),
    }
}

/// What is resized, in the order `scales` and `sizes` are given.
fn axes(attrs: &Attrs, rank: usize) -> Result<Vec<usize>, Diag> {
    match attrs.ints("axes") {
        Some(axes) => axes.into_iter().map(|a| axis_of(a, rank)).collect(),
        None => Ok((0..rank).collect()),
    }
}

/// `floor(dim * scale)`; with a symbol that is known only for scales that are fractions of a small power of two.
fn scaled(dim: &Dim, scale: f64, axis: usize) -> Result<Dim, Diag> {
    const MAX_SHIFT: u32 = 16;
    if !(scale > 0.0 && scale < MAX_SCALE) {
        return Err(attr_error(format!("scale {scale} is out of range")));
    }
    if let Some(known) = dim.as_known() {
        // The product is a 32-bit float by ONNX's shape inference: 10 * 0.7 is 7.
        return Ok(Dim::known((known as f32 * scale as f32).floor() as i64));
    }
    for shift in 0..=MAX_SHIFT {
        let denominator = 1i64 << shift;
        let numerator = scale * denominator as f64;
        if numerator.fract() == 0.0 {
            return Ok((dim.clone() * Dim::known(numerator as i64)).floor_div(&Dim::known(denominator)));
        }
    }
    Ok(Dim::unknown(0, axis))
}

/// The resized shape.
fn resized(
    x: &Type,
    axes: &[usize],
    sizes: Option<&[Dim]>,
    scales: Option<&[f64]>,
) -> Result<Vec<Dim>, Diag> {
    let mut shape = x.shape.clone();
    let n = sizes.map(<[Dim]>::len).or(scales.map(<[f64]>::len)).unwrap_or(0);
    if n != axes.len() {
        return Err(attr_error(format!("{n} scales or sizes are given for {} axes", axes.len())));
    }
    for (i, &axis) in axes.iter().enumerate() {
        shape[axis] = match (sizes, scales) {
            (Some(sizes), _) => sizes[i].clone(),
            (None, Some(scales)) => scaled(&shape[axis], scales[i], axis)?,
            (None, None) => shape[axis].clone(),
        };
        if shape[axis].as_known().is_some_and(|d| d < 0) {
            return Err(attr_error(format!("size {} is negative", shape[axis])));
        }
    }
    Ok(shape)
}

/// The one scale of all axes that a policy other than `stretch` gives; `None` for `stretch`.
///
/// # Errors
/// `V021` for an unknown policy or an empty axis.
fn common_scale(attrs: &Attrs, from: &[i64], to: &[i64]) -> Result<Option<f64>, Diag> {
    let ratios = from.iter().zip(to).map(|(&from, &to)| to as f64 / from as f64);
    let scale = match attrs.str("keep_aspect_ratio_policy").unwrap_or("stretch") {
        "stretch" => return Ok(None),
        "not_larger" => ratios.reduce(f64::min),
        "not_smaller" => ratios.reduce(f64::max),
        other => {
            return Err(attr_error(format!("keep_aspect_ratio_policy is {other:?}"))
                .hint("allowed are stretch, not_larger and not_smaller"));
        }
    };
    let valid = scale.filter(|s| s.is_finite() && *s < MAX_SCALE && !from.contains(&0));
    valid.map(Some).ok_or_else(|| attr_error("the aspect ratio of an empty axis is not known"))
}

/// The sizes that a policy makes of those that are given, rounded half up.
fn by_policy(attrs: &Attrs, x: &Type, axes: &[usize], sizes: Vec<Dim>) -> Result<Vec<Dim>, Diag> {
    if sizes.len() != axes.len() || attrs.str("keep_aspect_ratio_policy").unwrap_or("stretch") == "stretch" {
        return Ok(sizes);
    }
    let from: Option<Vec<i64>> = axes.iter().map(|&a| x.shape[a].as_known()).collect();
    let to: Option<Vec<i64>> = sizes.iter().map(|d| d.as_known().filter(|d| *d >= 0)).collect();
    let (Some(from), Some(to)) = (from, to) else {
        return Ok(axes.iter().map(|&a| Dim::unknown(0, a)).collect());
    };
    let scale = common_scale(attrs, &from, &to)?.unwrap_or(1.0);
    Ok(from.iter().map(|&d| Dim::known((scale * d as f64 + 0.5).floor() as i64)).collect())
}

fn infer_resize(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    or_unknown(exact_resize(ctx), || {
        let x = input(ctx, 0).ok()?;
        let mut shape = x.shape.clone();
        for axis in axes(ctx.attrs, x.rank()).ok()? {
            shape[axis] = Dim::unknown(0, axis);
        }
        Some(vec![Type::new(x.dtype, shape)])
    })
}

fn exact_resize(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    if x.dtype == DType::Str && ctx.attrs.str("mode").unwrap_or("nearest") != "nearest" {
        return Err(type_error("text cannot be interpolated").hint("set mode to nearest"));
    }
    let axes = axes(ctx.attrs, x.rank())?;
    // A region that is known only at run time does not change the result's size.
    match floats_of(ctx, "roi", 1) {
        Ok(roi) => interpolation(ctx.attrs)?.check(roi.as_deref(), axes.len())?,
        Err(_) => {
            interpolation(ctx.attrs)?;
        }
    }
    common_scale(ctx.attrs, &[1], &[1])?;
    let scales = floats_of(ctx, "scales", 2)?;
    let sizes = dims_of(ctx, "sizes", 3).filter(|s| !s.is_empty());
    let has_operand = ctx.inputs.get(3).copied().flatten().is_some_and(|o| !o.ty.n_elements().is(0));
    if sizes.is_none() && has_operand {
        return Err(data_dependent());
    }
    let sizes = match (&scales, sizes) {
        (None, Some(sizes)) => Some(by_policy(ctx.attrs, x, &axes, sizes)?),
        (Some(_), Some(_)) => return Err(attr_error("both scales and sizes are given")),
        _ => None,
    };
    Ok(vec![Type::new(x.dtype, resized(x, &axes, sizes.as_deref(), scales.as_deref())?)])
}

fn infer_upsample(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    or_unknown(exact_upsample(ctx), || unknown_type(ctx, input(ctx, 0).ok()?.rank()))
}

fn exact_upsample(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    upsampling(ctx.attrs)?;
    let scales = floats_of(ctx, "scales", 1)?.ok_or_else(|| attr_error("scales are missing"))?;
    let axes: Vec<usize> = (0..x.rank()).collect();
    Ok(vec![Type::new(x.dtype, resized(x, &axes, None, Some(&scales))?)])
}

fn interpolation(attrs: &Attrs) -> Result<Interpolation, Diag> {
    Interpolation::read(
        attrs.str("mode").unwrap_or("nearest"),
        attrs.str("coordinate_transformation_mode").unwrap_or("half_pixel"),
        attrs.str("nearest_mode").unwrap_or("round_prefer_floor"),
        attrs,
    )
}

fn upsampling(attrs: &Attrs) -> Result<Interpolation, Diag> {
    // Models write `bilinear` for what the definition calls `linear`.
    let mode = match attrs.str("mode").unwrap_or("nearest") {
        "bilinear" => "linear",
        other => other,
    };
    Interpolation::read(mode, "asymmetric", "floor", attrs)
}

/// Floats of an attribute or operand of the evaluation.
fn eval_floats(ctx: &EvalCtx, name: &str, at: usize) -> Option<Vec<f64>> {
    floats(ctx.attrs, name).or_else(|| optional(ctx, at).map(Tensor::to_f64s)).filter(|v| !v.is_empty())
}

/// Interpolates along the given axes, one after the other.
fn along_axes(x: &Tensor, shape: &[usize], how: &Interpolation, spans: &[(usize, Span)]) -> Vec<f64> {
    let (mut values, mut at) = (x.to_f64s(), x.shape().to_vec());
    for (axis, span) in spans {
        let table = how.table(*span);
        let from = Lines::new(&at, *axis, axis + 1);
        at[*axis] = shape[*axis];
        let to = Lines::new(&at, *axis, axis + 1);
        let mut next = vec![0.0; to.count() * to.len];
        for n in 0..to.count() {
            let line: Vec<f64> = from.line(n).map(|i| values[i]).collect();
            for (slot, taps) in to.line(n).zip(&table) {
                next[slot] = how.blend(&line, taps.as_deref());
            }
        }
        values = next;
    }
    values
}

/// The resized tensor: nearest elements are copied, others blended; integers are rounded, halves to even.
fn interpolate(
    x: &Tensor,
    shape: &[usize],
    how: &Interpolation,
    spans: &[(usize, Span)],
) -> Result<Tensor, Diag> {
    let mut tables: Vec<Vec<Option<usize>>> = x.shape().iter().map(|&d| (0..d).map(Some).collect()).collect();
    let mut nearest = true;
    for (axis, span) in spans {
        match how.nearest_table(*span) {
            Some(table) => tables[*axis] = table,
            None => nearest = false,
        }
    }
    if let Some(empty) = crate::layout::empty(x, shape).and_then(|mut e| e.pop()) {
        return Ok(empty);
    }
    if nearest {
        let fill = match x.dtype() {
            DType::Str => crate::crop::zero_bytes(DType::Str),
            dtype => from_f64s(dtype, &[1], &[how.extrapolation()])?.bytes().to_vec(),
        };
        return crate::layout::by_tables(x, &tables, &fill);
    }
    let mut y = along_axes(x, shape, how, spans);
    if !x.dtype().is_float() {
        y.iter_mut().for_each(|v| *v = v.round_ties_even());
    }
    from_f64s(x.dtype(), shape, &y)
}

fn eval_resize(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (_, shape) = result(ctx, infer_resize)?;
    let x = tensor(ctx, 0)?;
    let axes = axes(ctx.attrs, x.rank())?;
    let (roi, scales) = (eval_floats(ctx, "roi", 1), eval_floats(ctx, "scales", 2));
    let common = match (&scales, ints_of(ctx, "sizes", 3)) {
        (None, Some(sizes)) => {
            let from: Vec<i64> = axes.iter().map(|&a| x.shape()[a] as i64).collect();
            common_scale(ctx.attrs, &from, &sizes)?
        }
        _ => None,
    };
    let span = |i: usize, axis: usize| {
        let (input, output) = (x.shape()[axis], shape[axis]);
        let stated = scales.as_ref().map(|s| s[i]).or(common);
        let scale = stated.unwrap_or(output as f64 / input as f64);
        let roi = roi.as_ref().map_or((0.0, 1.0), |r| (r[i], r[i + axes.len()]));
        (axis, Span { input, output, scale, roi })
    };
    let spans: Vec<(usize, Span)> = axes.iter().enumerate().map(|(i, &a)| span(i, a)).collect();
    Ok(vec![interpolate(x, &shape, &interpolation(ctx.attrs)?, &spans)?])
}

fn eval_upsample(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (_, shape) = result(ctx, infer_upsample)?;
    let x = tensor(ctx, 0)?;
    let scales = eval_floats(ctx, "scales", 1).unwrap_or_default();
    let span = |(axis, &scale): (usize, &f64)| {
        (axis, Span { input: x.shape()[axis], output: shape[axis], scale, roi: (0.0, 1.0) })
    };
    let spans: Vec<(usize, Span)> = scales.iter().enumerate().map(span).collect();
    Ok(vec![interpolate(x, &shape, &upsampling(ctx.attrs)?, &spans)?])
}

/// Taps per axis: 1, 2 or 4, multiplied over two spatial axes.
fn work_resize(ctx: &WorkCtx) -> Work {
    let taps = match ctx.attrs.str("mode") {
        Some("linear" | "bilinear") => 4.0,
        Some("cubic") => 16.0,
        _ => 0.0,
    };
    let out = ctx.outputs.first().and_then(|(_, s)| n_elements(s)).unwrap_or(0);
    let kind = if taps == 0.0 { WorkKind::Move } else { WorkKind::Vector };
    work(ctx, 2.0 * taps * out as f64, kind)
}

fn sample_resize(rng: &mut Rng) -> Sample {
    let shape = [1, 1 + rng.below(2), 2 + rng.below(4), 2 + rng.below(4)];
    let mode = *rng.pick(&["nearest", "linear", "cubic"]);
    let coordinates = *rng.pick(&[
        "half_pixel",
        "asymmetric",
        "align_corners",
        "pytorch_half_pixel",
        "half_pixel_symmetric",
    ]);
    let mut attrs = Attrs::new().with("mode", mode).with("coordinate_transformation_mode", coordinates);
    match mode {
        "nearest" => attrs
            .set("nearest_mode", *rng.pick(&["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])),
        "cubic" => {
            attrs.set("cubic_coeff_a", *rng.pick(&[-0.75f32, -0.5]));
            attrs.set("exclude_outside", rng.int(0, 1));
            attrs.set("antialias", rng.int(0, 1));
        }
        _ => attrs.set("antialias", rng.int(0, 1)),
    }
    let dtype = number(rng);
    let mut inputs = vec![Some(values(rng, dtype, &shape))];
    let scales: Vec<f32> =
        vec![1.0, 1.0, *rng.pick(&[2.0, 1.5, 0.5, 0.75]), *rng.pick(&[2.0, 3.0, 0.5, 1.25])];
    let sizes = [1, shape[1] as i64, rng.int(1, 7), rng.int(1, 7)];
    match rng.below(5) {
        0 => attrs.set("scales", scales),
        1 => attrs.set("sizes", sizes.to_vec()),
        2 => inputs.extend([None, Tensor::from_slice(&[4], &scales)]),
        3 => inputs.extend([None, None, Tensor::from_slice(&[4], &sizes)]),
        _ => {
            // Sizes large enough that no axis shrinks to nothing.
            attrs.set("axes", vec![2i64, -1]);
            attrs.set("keep_aspect_ratio_policy", *rng.pick(&["not_larger", "not_smaller"]));
            inputs.extend([None, None, Tensor::from_slice(&[2], &[rng.int(3, 7), rng.int(3, 7)])]);
        }
    }
    Sample { attrs, inputs, n_outputs: 1 }
}

fn sample_upsample(rng: &mut Rng) -> Sample {
    let shape = [1, 1 + rng.below(2), 1 + rng.below(4), 1 + rng.below(4)];
    let attrs = Attrs::new().with("mode", *rng.pick(&["nearest", "linear"]));
    let scales = [1.0f32, 1.0, *rng.pick(&[1.0, 2.0, 3.0]), *rng.pick(&[2.0, 1.5])];
    let inputs = vec![Some(rng.tensor(DType::F32, &shape, -3.0, 3.0)), Tensor::from_slice(&[4], &scales)];
    Sample { attrs, inputs, n_outputs: 1 }
}
