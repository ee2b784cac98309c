//! Convolution over any number of spatial axes.

use crate::channels_last::{self, LAYOUT};
use crate::common::{
    PLAIN, attr, attr_error, between, from_f64s, indices, input, onnx, tensor, type_error, work,
};
use crate::eval::{optional, optional_type, result, same_dim, same_dtypes, want_float};
use crate::window::{Geometry, Tap};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrDef, AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&CONV];

/// Attributes of every convolution.
pub(crate) const ATTRS: &[AttrDef] = &[
    attr("auto_pad", AttrKind::Str),
    attr("dilations", AttrKind::Ints),
    attr("group", AttrKind::Int),
    attr("kernel_shape", AttrKind::Ints),
    attr("pads", AttrKind::Ints),
    attr("strides", AttrKind::Ints),
];

/// What `conv` has beside them.
const CONV_ATTRS: &[AttrDef] = &[ATTRS[0], ATTRS[1], ATTRS[2], ATTRS[3], LAYOUT, ATTRS[4], ATTRS[5]];

/// Convolution (cross-correlation).
static CONV: OpDef = OpDef {
    name: "conv",
    doc: "convolution of x [N, C, ...] with w [M, C/group, kernel...] and bias [M]; layout says where x and y have their channels",
    onnx: &[onnx("Conv", 1)],
    inputs: between(2, 3),
    outputs: between(1, 1),
    attrs: CONV_ATTRS,
    traits: PLAIN,
    infer: |c| channels_last::infer(c, infer_conv),
    content: None,
    eval: |c| channels_last::eval(c, eval_conv),
    scalar: None,
    data: None,
    work: work_conv,
    sample: |rng| {
        let sample = sample_conv(rng);
        channels_last::sample(rng, sample, &["nhwc", "nchw_nhwc"])
    },
};

/// Number of groups.
///
/// # Errors
/// `V021` when it is not positive.
pub(crate) fn group_of(attrs: &Attrs) -> Result<i64, Diag> {
    let group = attrs.int_or("group", 1);
    if group >= 1 { Ok(group) } else { Err(attr_error(format!("group is {group}, it must be 1 or more"))) }
}

/// Kernel sizes: the weight's spatial dims, or the attribute where those are symbols.
///
/// # Errors
/// `V021` when both are known and differ, `V020` when neither is known.
pub(crate) fn kernel_of(attrs: &Attrs, weight: &Type) -> Result<Vec<i64>, Diag> {
    let stated = attrs.ints("kernel_shape");
    let dims = &weight.shape[2..];
    if let Some(stated) = &stated {
        let fits = stated.len() == dims.len()
            && stated.iter().zip(dims).all(|(s, d)| d.as_known().is_none_or(|d| d == *s));
        if !fits {
            return Err(attr_error(format!("kernel_shape {stated:?} does not fit the weight {weight}"))
                .hint("remove kernel_shape, the weight's shape says the same"));
        }
    }
    let known: Option<Vec<i64>> = dims.iter().map(Dim::as_known).collect();
    stated.or(known).ok_or_else(|| type_error(format!("the kernel size of {weight} is not known")))
}

/// Checks ranks and element types of data and weight; returns both types.
///
/// # Errors
/// `V020` when they do not fit.
pub(crate) fn operands<'a>(ctx: &InferCtx<'a>) -> Result<(&'a Type, &'a Type), Diag> {
    want_float(same_dtypes(ctx, 0..3)?)?;
    let (x, w) = (input(ctx, 0)?, input(ctx, 1)?);
    if x.rank() < 3 || w.rank() != x.rank() {
        let text = format!("data {x} and weight {w} must have the same rank, at least 3");
        return Err(type_error(text).hint("the layout is [batch, channels, spatial...]"));
    }
    Ok((x, w))
}

/// Checks an optional bias against the number of output channels.
///
/// # Errors
/// `V020` when it does not fit.
pub(crate) fn check_bias(ctx: &InferCtx, channels: &Dim) -> Result<(), Diag> {
    let Some(bias) = optional_type(ctx, 2) else { return Ok(()) };
    match bias.shape.as_slice() {
        [n] => same_dim(n, channels, "bias and output channels"),
        _ => Err(type_error(format!("the bias must be a vector, it is {bias}"))),
    }
}

/// Shape of the convolution of data `x` with weight `w`; both have at least three dimensions, and as many.
///
/// # Errors
/// `V020` and `V021` when sizes or attributes do not fit.
pub(crate) fn conv_shape(attrs: &Attrs, x: &Type, w: &Type) -> Result<Vec<Dim>, Diag> {
    let group = group_of(attrs)?;
    let geometry = Geometry::read(attrs, kernel_of(attrs, w)?)?;
    let channels = w.shape[1].clone() * Dim::known(group);
    same_dim(&x.shape[1], &channels, "channels of data and weight * group")?;
    if w.shape[0].as_known().is_some_and(|m| m % group != 0) {
        return Err(attr_error(format!("{} output channels do not divide into {group} groups", w.shape[0])));
    }
    let mut shape = vec![x.shape[0].clone(), w.shape[0].clone()];
    shape.extend(geometry.outputs(&x.shape[2..])?);
    Ok(shape)
}

fn infer_conv(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (x, w) = operands(ctx)?;
    let shape = conv_shape(ctx.attrs, x, w)?;
    check_bias(ctx, &w.shape[0])?;
    Ok(vec![Type::new(x.dtype, shape)])
}

fn eval_conv(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_conv)?;
    let bias = optional(ctx, 2).map(Tensor::to_f64s);
    let y = convolved(ctx.attrs, tensor(ctx, 0)?, tensor(ctx, 1)?, bias.as_deref(), &shape)?;
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// The convolution of `x` with `w`, plus `bias` per output channel, in f64; `shape` is what `conv_shape` says.
///
/// # Errors
/// `V021` for attributes that do not fit.
pub(crate) fn convolved(
    attrs: &Attrs,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&[f64]>,
    shape: &[usize],
) -> Result<Vec<f64>, Diag> {
    let geometry = Geometry::read(attrs, kernel_of(attrs, &Type::known(w.dtype(), w.shape()))?)?;
    let window = geometry.window(&x.shape()[2..], &shape[2..]);
    let conv = Conv::new(x, w, group_of(attrs)? as usize);
    let n_positions: usize = shape[2..].iter().product();
    let mut y = vec![0.0; shape[0] * shape[1] * n_positions];
    for (p, at) in indices(&shape[2..]).enumerate() {
        let taps = window.taps(&at);
        for batch in 0..shape[0] {
            for m in 0..shape[1] {
                let start = bias.map_or(0.0, |b| b[m]);
                y[(batch * shape[1] + m) * n_positions + p] = start + conv.at(batch, m, &taps);
            }
        }
    }
    Ok(y)
}

/// Operands of a convolution with their sizes.
struct Conv {
    x: Vec<f64>,
    w: Vec<f64>,
    /// Channels of the data, of one group, output channels of one group.
    channels: usize,
    group_in: usize,
    group_out: usize,
    /// Spatial elements of the data and of the kernel.
    spatial: usize,
    kernel: usize,
}

impl Conv {
    fn new(x: &Tensor, w: &Tensor, group: usize) -> Self {
        Self {
            x: x.to_f64s(),
            w: w.to_f64s(),
            channels: x.shape()[1],
            group_in: w.shape()[1],
            group_out: (w.shape()[0] / group).max(1),
            spatial: x.shape()[2..].iter().product(),
            kernel: w.shape()[2..].iter().product(),
        }
    }

    /// The sum for output channel `m` of `batch` where the window covers `taps`.
    fn at(&self, batch: usize, m: usize, taps: &[Tap]) -> f64 {
        let first = m / self.group_out * self.group_in;
        let mut sum = 0.0;
        for c in 0..self.group_in {
            let x = &self.x[(batch * self.channels + first + c) * self.spatial..][..self.spatial];
            let w = &self.w[(m * self.group_in + c) * self.kernel..][..self.kernel];
            sum += taps.iter().map(|t| x[t.element] * w[t.weight]).sum::<f64>();
        }
        sum
    }
}

fn work_conv(ctx: &WorkCtx) -> Work {
    let size = |s: &[usize]| s.iter().map(|&d| d as f64).product::<f64>();
    let per_output = ctx.inputs.get(1).and_then(Option::as_ref).map_or(0.0, |(_, w)| size(&w[1..]));
    let out = ctx.outputs.first().map_or(0.0, |(_, s)| size(s));
    let has_bias = ctx.inputs.get(2).is_some_and(Option::is_some);
    work(ctx, out * (2.0 * per_output + if has_bias { 1.0 } else { 0.0 }), WorkKind::Dense)
}

/// Random window attributes over `n` spatial axes for a kernel of sizes `kernel`; the pads stay below it.
pub(crate) fn sample_window(rng: &mut Rng, kernel: &[i64]) -> Attrs {
    let n = kernel.len();
    let mut attrs = Attrs::new();
    if rng.below(2) == 0 {
        attrs.set("strides", (0..n).map(|_| rng.int(1, 3)).collect::<Vec<i64>>());
    }
    if rng.below(2) == 0 {
        attrs.set("dilations", (0..n).map(|_| rng.int(1, 2)).collect::<Vec<i64>>());
    }
    match rng.below(5) {
        0 => attrs.set("auto_pad", *rng.pick(&["SAME_UPPER", "SAME_LOWER", "VALID"])),
        1 => {}
        _ => {
            let pads: Vec<i64> = (0..2 * n).map(|i| rng.int(0, kernel[i % n] - 1)).collect();
            attrs.set("pads", pads);
        }
    }
    attrs
}

/// Random attributes of a convolution, and the shapes of its data and weight.
pub(crate) fn sample_geometry(rng: &mut Rng) -> (Attrs, Vec<usize>, Vec<usize>) {
    let n_spatial = 1 + rng.below(3);
    let group = *rng.pick(&[1, 1, 2, 3]);
    let (group_in, group_out) = (1 + rng.below(3), 1 + rng.below(2));
    let kernel: Vec<i64> = (0..n_spatial).map(|_| rng.int(1, 3)).collect();
    let mut attrs = sample_window(rng, &kernel);
    if group != 1 {
        attrs.set("group", group as i64);
    }
    if rng.below(2) == 0 {
        attrs.set("kernel_shape", kernel.clone());
    }
    let mut x = vec![1 + rng.below(2), group * group_in];
    x.extend((0..n_spatial).map(|_| 5 + rng.below(3)));
    let mut w = vec![group * group_out, group_in];
    w.extend(kernel.iter().map(|&k| k as usize));
    (attrs, x, w)
}

fn sample_conv(rng: &mut Rng) -> Sample {
    let (attrs, x, w) = sample_geometry(rng);
    let mut inputs =
        vec![Some(rng.tensor(DType::F32, &x, -2.0, 2.0)), Some(rng.tensor(DType::F32, &w, -2.0, 2.0))];
    if rng.below(2) == 0 {
        inputs.push(Some(rng.tensor(DType::F32, &[w[0]], -2.0, 2.0)));
    }
    Sample { attrs, inputs, n_outputs: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second formulation: pad, gather all patches as columns, one matrix product per group.
    fn im2col(s: &Sample, out: &[usize]) -> Vec<f64> {
        let (x, w) = (s.inputs[0].as_ref().unwrap(), s.inputs[1].as_ref().unwrap());
        let n = x.rank() - 2;
        let ints = |name: &str| s.attrs.ints(name).unwrap_or_else(|| vec![1; n]);
        let (strides, dilations) = (ints("strides"), ints("dilations"));
        let group = s.attrs.int_or("group", 1) as usize;
        let begin: Vec<i64> = (0..n)
            .map(|a| {
                let extent = (w.shape()[a + 2] as i64 - 1) * dilations[a] + 1;
                let need = ((out[a + 2] as i64 - 1) * strides[a] + extent - x.shape()[a + 2] as i64).max(0);
                match s.attrs.str("auto_pad").unwrap_or("NOTSET") {
                    "SAME_UPPER" => need / 2,
                    "SAME_LOWER" => (need + 1) / 2,
                    "VALID" => 0,
                    _ => s.attrs.ints("pads").map_or(0, |p| p[a]),
                }
            })
            .collect();
        let xs = x.to_f64s();
        let read = |b: usize, c: usize, at: &[i64]| -> f64 {
            let mut flat = b * x.shape()[1] + c;
            for (&i, &d) in at.iter().zip(&x.shape()[2..]) {
                if i < 0 || i >= d as i64 {
                    return 0.0;
                }
                flat = flat * d + i as usize;
            }
            xs[flat]
        };
        let ws = w.to_f64s();
        let (m_group, row) = (w.shape()[0] / group, w.shape()[1..].iter().product::<usize>());
        let bias = s.inputs.get(2).and_then(Option::as_ref).map(Tensor::to_f64s);
        let mut y = Vec::new();
        for at in indices(out) {
            let g = at[1] / m_group;
            let column: Vec<f64> = indices(&w.shape()[1..])
                .map(|k| {
                    let place: Vec<i64> = (0..n)
                        .map(|a| at[a + 2] as i64 * strides[a] + k[a + 1] as i64 * dilations[a] - begin[a])
                        .collect();
                    read(at[0], g * w.shape()[1] + k[0], &place)
                })
                .collect();
            let dot: f64 = column.iter().zip(&ws[at[1] * row..]).map(|(a, b)| a * b).sum();
            y.push(dot + bias.as_ref().map_or(0.0, |b| b[at[1]]));
        }
        y
    }

    #[test]
    fn agrees_with_patches_as_columns() {
        for seed in 0..200 {
            let s = sample_conv(&mut Rng(seed));
            let inputs: Vec<Option<&Tensor>> = s.inputs.iter().map(Option::as_ref).collect();
            let y = eval_conv(&EvalCtx { attrs: &s.attrs, inputs: &inputs, n_outputs: 1 }).unwrap();
            for (a, b) in y[0].to_f64s().iter().zip(im2col(&s, y[0].shape())) {
                assert!((a - b).abs() < 1e-4, "seed {seed}: {a} is not {b}");
            }
        }
    }
}
