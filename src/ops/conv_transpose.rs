//! Transposed convolution: the adjoint of a convolution with the same window.

use crate::channels_last::{self, LAYOUT};
use crate::common::{PLAIN, attr, attr_error, between, exactly, from_f64s, indices, onnx, tensor, work};
use crate::conv::{check_bias, group_of, kernel_of, operands, sample_window};
use crate::eval::{optional, result, same_dim};
use crate::window::{Axis, Geometry, MAX_WINDOW, Tap, Window};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&CONV_TRANSPOSE];

/// Transposed convolution.
static CONV_TRANSPOSE: OpDef = OpDef {
    name: "conv_transpose",
    doc: "transposed convolution of x [N, C, ...] with w [C, M/group, kernel...] and bias [M]; layout says where x and y have their channels",
    onnx: &[onnx("ConvTranspose", 1)],
    inputs: between(2, 3),
    outputs: exactly(1),
    attrs: &[
        attr("auto_pad", AttrKind::Str),
        attr("dilations", AttrKind::Ints),
        attr("group", AttrKind::Int),
        attr("kernel_shape", AttrKind::Ints),
        LAYOUT,
        attr("output_padding", AttrKind::Ints),
        attr("output_shape", AttrKind::Ints),
        attr("pads", AttrKind::Ints),
        attr("strides", AttrKind::Ints),
    ],
    traits: PLAIN,
    infer: |c| channels_last::infer(c, infer_conv_transpose),
    content: None,
    eval: |c| channels_last::eval(c, eval_conv_transpose),
    scalar: None,
    data: None,
    work: work_conv_transpose,
    sample: |rng| {
        let sample = sample_conv_transpose(rng);
        channels_last::sample(rng, sample, &["nhwc"])
    },
};

/// The window with what only the transposed form has.
struct Transposed {
    geometry: Geometry,
    output_padding: Vec<i64>,
    output_shape: Option<Vec<i64>>,
    auto_pad: String,
}

impl Transposed {
    fn read(attrs: &Attrs, w: &Type) -> Result<Self, Diag> {
        let geometry = Geometry::read(attrs, kernel_of(attrs, w)?)?;
        let n = geometry.kernel.len();
        let output_padding = attrs.ints("output_padding").unwrap_or_else(|| vec![0; n]);
        let output_shape = attrs.ints("output_shape").filter(|s| !s.is_empty());
        for (name, values) in
            [("output_padding", Some(&output_padding)), ("output_shape", output_shape.as_ref())]
        {
            let fits = |v: &Vec<i64>| v.len() == n && v.iter().all(|v| (0..=MAX_WINDOW).contains(v));
            if values.is_some_and(|v| !fits(v)) {
                return Err(attr_error(format!("{name} must hold {n} sizes from 0 to {MAX_WINDOW}")));
            }
        }
        let auto_pad = attrs.str("auto_pad").unwrap_or_default().to_owned();
        Ok(Self { geometry, output_padding, output_shape, auto_pad })
    }

    fn is_same(&self) -> bool {
        self.auto_pad.starts_with("SAME")
    }

    /// Output size without any pads.
    fn full(&self, axis: usize, input: &Dim) -> Dim {
        let reach = self.geometry.extent(axis).saturating_add(self.output_padding[axis]);
        (input.clone() - Dim::known(1)) * Dim::known(self.geometry.strides[axis]) + Dim::known(reach)
    }

    fn output(&self, axis: usize, input: &Dim) -> Result<Dim, Diag> {
        let stride = Dim::known(self.geometry.strides[axis]);
        let out = match &self.output_shape {
            Some(shape) => Dim::known(shape[axis]),
            None if self.is_same() => input.clone() * stride,
            None => {
                let pads = self.geometry.begin[axis] + self.geometry.end[axis];
                self.full(axis, input) - Dim::known(pads)
            }
        };
        if out.as_known().is_some_and(|d| d < 0) {
            return Err(attr_error("the pads remove more than the output has"));
        }
        Ok(out)
    }

    /// Pad at the beginning of `axis` for concrete sizes.
    fn begin(&self, axis: usize, input: usize, output: usize) -> i64 {
        if self.output_shape.is_none() && !self.is_same() {
            return self.geometry.begin[axis];
        }
        let full = self.full(axis, &input.into()).as_known().unwrap_or(0);
        let total = full.saturating_sub(output as i64).max(0);
        if self.auto_pad == "SAME_UPPER" { total / 2 } else { total - total / 2 }
    }

    /// The window over the *output*: its place is a position of the data.
    fn window(&self, input: &[usize], output: &[usize]) -> Window {
        let axis = |a: usize| Axis {
            input: output[a] as i64,
            kernel: self.geometry.kernel[a],
            stride: self.geometry.strides[a],
            dilation: self.geometry.dilations[a],
            begin: self.begin(a, input[a], output[a]),
            end: 0,
        };
        Window { axes: (0..input.len()).map(axis).collect() }
    }
}

fn infer_conv_transpose(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (x, w) = operands(ctx)?;
    let group = group_of(ctx.attrs)?;
    let transposed = Transposed::read(ctx.attrs, w)?;
    same_dim(&x.shape[1], &w.shape[0], "channels of data and weight")?;
    if x.shape[1].as_known().is_some_and(|c| c % group != 0) {
        return Err(attr_error(format!("{} channels do not divide into {group} groups", x.shape[1])));
    }
    let channels = w.shape[1].clone() * Dim::known(group);
    check_bias(ctx, &channels)?;
    let mut shape = vec![x.shape[0].clone(), channels];
    for (axis, dim) in x.shape[2..].iter().enumerate() {
        shape.push(transposed.output(axis, dim)?);
    }
    Ok(vec![Type::new(x.dtype, shape)])
}

fn eval_conv_transpose(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_conv_transpose)?;
    let (x, w) = (tensor(ctx, 0)?, tensor(ctx, 1)?);
    let transposed = Transposed::read(ctx.attrs, &Type::known(w.dtype(), w.shape()))?;
    let window = transposed.window(&x.shape()[2..], &shape[2..]);
    let n_places: usize = shape[2..].iter().product();
    let bias = optional(ctx, 2).map(Tensor::to_f64s);
    let start = |i: usize| bias.as_ref().map_or(0.0, |b| b[i / n_places % shape[1]]);
    let n_out = shape[0] * shape[1] * n_places;
    let mut scatter = Scatter {
        w: w.to_f64s(),
        w_shape: w.shape(),
        group_in: x.shape()[1] / group_of(ctx.attrs)? as usize,
        n_channels: shape[1],
        n_places,
        y: (0..n_out).map(start).collect(),
    };
    let values = x.to_f64s();
    let n_spatial: usize = x.shape()[2..].iter().product();
    for (p, at) in indices(&x.shape()[2..]).enumerate() {
        let taps = window.taps(&at);
        for channel in 0..x.shape()[0] * x.shape()[1] {
            let (batch, c) = (channel / x.shape()[1], channel % x.shape()[1]);
            scatter.add(batch, c, values[channel * n_spatial + p], &taps);
        }
    }
    Ok(vec![from_f64s(dtype, &shape, &scatter.y)?])
}

/// The result under construction, and the weight that spreads each element over it.
struct Scatter<'a> {
    w: Vec<f64>,
    w_shape: &'a [usize],
    group_in: usize,
    n_channels: usize,
    n_places: usize,
    y: Vec<f64>,
}

impl Scatter<'_> {
    /// Adds what element `x` of channel `c` contributes to all output channels of its group.
    fn add(&mut self, batch: usize, c: usize, x: f64, taps: &[Tap]) {
        let kernel: usize = self.w_shape[2..].iter().product();
        let group_out = self.w_shape[1];
        for m in 0..group_out {
            let channel = c / self.group_in * group_out + m;
            let y = (batch * self.n_channels + channel) * self.n_places;
            let w = (c * group_out + m) * kernel;
            for tap in taps {
                self.y[y + tap.element] += x * self.w[w + tap.weight];
            }
        }
    }
}

fn work_conv_transpose(ctx: &WorkCtx) -> Work {
    let size = |s: &[usize]| s.iter().map(|&d| d as f64).product::<f64>();
    let operand = |n: usize| ctx.inputs.get(n).and_then(Option::as_ref).map(|(_, s)| s.as_slice());
    let x = operand(0).map_or(0.0, size);
    let per_element = operand(1).map_or(0.0, |w| size(&w[1..]));
    work(ctx, 2.0 * x * per_element, WorkKind::Dense)
}

fn sample_conv_transpose(rng: &mut Rng) -> Sample {
    let n_spatial = 1 + rng.below(3);
    let group = *rng.pick(&[1, 1, 2]);
    let (group_in, group_out) = (1 + rng.below(2), 1 + rng.below(2));
    let kernel: Vec<i64> = (0..n_spatial).map(|_| rng.int(1, 3)).collect();
    let mut attrs = sample_window(rng, &kernel);
    if group != 1 {
        attrs.set("group", group as i64);
    }
    if let (Some(strides), 0) = (attrs.ints("strides"), rng.below(2)) {
        attrs.set("output_padding", strides.iter().map(|s| rng.int(0, s - 1)).collect::<Vec<i64>>());
    }
    let mut x = vec![1 + rng.below(2), group * group_in];
    x.extend((0..n_spatial).map(|_| 3 + rng.below(3)));
    let mut w = vec![group * group_in, group_out];
    w.extend(kernel.iter().map(|&k| k as usize));
    let mut inputs =
        vec![Some(rng.tensor(DType::F32, &x, -2.0, 2.0)), Some(rng.tensor(DType::F32, &w, -2.0, 2.0))];
    if rng.below(2) == 0 {
        inputs.push(Some(rng.tensor(DType::F32, &[group * group_out], -2.0, 2.0)));
    }
    Sample { attrs, inputs, n_outputs: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eval(name: &str, attrs: &Attrs, inputs: &[&Tensor]) -> Tensor {
        let inputs: Vec<Option<&Tensor>> = inputs.iter().map(|t| Some(*t)).collect();
        let ctx = EvalCtx { attrs, inputs: &inputs, n_outputs: 1 };
        (crate::op(name).unwrap().eval)(&ctx).unwrap().remove(0)
    }

    /// `<conv(y, w), x> = <y, conv_transpose(x, w)>` for every x and y.
    #[test]
    fn is_the_adjoint_of_conv() {
        for seed in 0..200 {
            let mut rng = Rng(seed);
            let s = sample_conv_transpose(&mut rng);
            if s.attrs.get("output_padding").is_some() || s.attrs.get("auto_pad").is_some() {
                continue;
            }
            let (x, w) = (s.inputs[0].as_ref().unwrap(), s.inputs[1].as_ref().unwrap());
            let wide = |t: &Tensor| Tensor::from_f64s(DType::F64, t.shape(), &t.to_f64s()).unwrap();
            let (x, w) = (wide(x), wide(w));
            let back = eval("conv_transpose", &s.attrs, &[&x, &w]);
            if back.n_elements() == 0 {
                continue;
            }
            let y = rng.tensor(DType::F64, back.shape(), -1.0, 1.0);
            let there = eval("conv", &s.attrs, &[&y, &w]);
            let dot = |a: &Tensor, b: &Tensor| -> f64 {
                assert_eq!(a.shape(), b.shape(), "seed {seed}");
                a.to_f64s().iter().zip(b.to_f64s()).map(|(a, b)| a * b).sum()
            };
            assert!((dot(&there, &x) - dot(&y, &back)).abs() < 1e-9, "seed {seed}");
        }
    }
}
