//! Convolution whose window's elements are moved by offsets that are data.

use crate::common::{
    PLAIN, attr, attr_error, between, from_f64s, indices, input, onnx, strides, tensor, type_error, work,
};
use crate::conv::sample_window;
use crate::eval::{optional, optional_type, result, same_dim, same_dtypes, want_float};
use crate::samples::float;
use crate::window::Geometry;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&DEFORM_CONV];

static DEFORM_CONV: OpDef = OpDef {
    name: "deform_conv",
    doc: "Convolution that reads each element of its window at a place moved by an offset, times a mask.",
    onnx: &[onnx("DeformConv", 19)],
    inputs: between(3, 5),
    outputs: between(1, 1),
    attrs: &[
        attr("dilations", AttrKind::Ints),
        attr("group", AttrKind::Int),
        attr("kernel_shape", AttrKind::Ints),
        attr("offset_group", AttrKind::Int),
        attr("pads", AttrKind::Ints),
        attr("strides", AttrKind::Ints),
    ],
    traits: PLAIN,
    infer,
    content: None,
    eval,
    scalar: None,
    data: None,
    work: work_deform,
    sample,
};

/// The window and the two numbers of groups.
struct Deform {
    geometry: Geometry,
    group: i64,
    offset_group: i64,
    /// Elements of the window.
    volume: i64,
}

impl Deform {
    fn read(ctx: &InferCtx) -> Result<Self, Diag> {
        let weights = &input(ctx, 1)?.shape;
        let known: Option<Vec<i64>> =
            weights.get(2..).unwrap_or_default().iter().map(Dim::as_known).collect();
        let known = known.ok_or_else(|| type_error("the size of the kernel must be known"))?;
        let kernel = ctx.attrs.ints("kernel_shape").unwrap_or_else(|| known.clone());
        if kernel != known {
            return Err(attr_error(format!("kernel_shape is {kernel:?}, the weights have {known:?}")));
        }
        let geometry = Geometry::read(ctx.attrs, kernel)?;
        let volume = geometry.kernel.iter().product();
        let (group, offset_group) = (ctx.attrs.int_or("group", 1), ctx.attrs.int_or("offset_group", 1));
        if !(1..=1 << 31).contains(&group) || !(1..=1 << 31).contains(&offset_group) {
            return Err(attr_error("group and offset_group must be 1 or more"));
        }
        Ok(Self { geometry, group, offset_group, volume })
    }
}

/// Checks that `whole` divides into `parts` where it is known.
fn divides(whole: &Dim, parts: i64, what: &str) -> Result<(), Diag> {
    match whole.as_known() {
        Some(w) if w % parts != 0 => Err(attr_error(format!("{w} {what} do not divide into {parts} groups"))),
        _ => Ok(()),
    }
}

fn infer(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let dtype = same_dtypes(ctx, 0..5)?;
    want_float(dtype)?;
    let (x, weights, offset) = (input(ctx, 0)?, input(ctx, 1)?, input(ctx, 2)?);
    if x.rank() < 3 || weights.rank() != x.rank() || offset.rank() != x.rank() {
        return Err(type_error(format!("the data is {x}, the weights {weights}, the offsets {offset}"))
            .hint("all three have the layout [., ., spatial...]"));
    }
    let deform = Deform::read(ctx)?;
    let channels = weights.shape[1].clone() * Dim::known(deform.group);
    same_dim(&x.shape[1], &channels, "channels of the data and of the weights times group")?;
    divides(&weights.shape[0], deform.group, "results")?;
    divides(&x.shape[1], deform.offset_group, "channels")?;
    let mut shape = vec![x.shape[0].clone(), weights.shape[0].clone()];
    shape.extend(deform.geometry.outputs(&x.shape[2..])?);
    let axes = x.rank() as i64 - 2;
    let rows = Dim::known(deform.offset_group.saturating_mul(deform.volume));
    check_places(offset, &(rows.clone() * Dim::known(axes)), &shape, "offsets")?;
    if let Some(bias) = optional_type(ctx, 3) {
        match bias.shape.as_slice() {
            [n] => same_dim(n, &weights.shape[0], "sizes of bias and results")?,
            _ => return Err(type_error(format!("the bias is {bias}, a list is wanted"))),
        }
    }
    if let Some(mask) = optional_type(ctx, 4) {
        check_places(mask, &rows, &shape, "masks")?;
    }
    Ok(vec![Type::new(dtype, shape)])
}

/// Checks a tensor that has `rows` entries for every place of the result.
fn check_places(ty: &Type, rows: &Dim, shape: &[Dim], what: &str) -> Result<(), Diag> {
    if ty.rank() != shape.len() {
        return Err(type_error(format!("the {what} are {ty}, they need {} dimensions", shape.len())));
    }
    same_dim(&ty.shape[1], rows, &format!("entries of the {what} and of the window"))?;
    same_dim(&ty.shape[0], &shape[0], &format!("batches of data and {what}"))?;
    let spatial = ty.shape[2..].iter().zip(&shape[2..]);
    spatial.into_iter().try_for_each(|(a, b)| same_dim(a, b, &format!("sizes of the result and the {what}")))
}

/// The elements around a place, with the weights of linear interpolation; nothing lies outside the data.
fn neighbours(place: &[f64], spatial: &[usize]) -> Vec<(usize, f64)> {
    let mut taps = vec![(0usize, 1.0f64)];
    for ((&at, &len), stride) in place.iter().zip(spatial).zip(strides(spatial)) {
        let floor = at.floor();
        let axis: Vec<(usize, f64)> = [(floor, 1.0 - (at - floor)), (floor + 1.0, at - floor)]
            .into_iter()
            .filter(|&(p, w)| p >= 0.0 && p < len as f64 && w != 0.0)
            .map(|(p, w)| (p as usize * stride, w))
            .collect();
        taps = taps.iter().flat_map(|t| axis.iter().map(move |a| (t.0 + a.0, t.1 * a.1))).collect();
    }
    taps
}

/// Everything an evaluation reads.
struct Reader {
    geometry: Geometry,
    x: Vec<f64>,
    spatial: Vec<usize>,
    channels: usize,
    offset: Vec<f64>,
    mask: Option<Vec<f64>>,
    offset_group: usize,
    n_places: usize,
}

impl Reader {
    fn new(ctx: &EvalCtx, shape: &[usize]) -> Result<Self, Diag> {
        let (x, weights) = (tensor(ctx, 0)?, tensor(ctx, 1)?);
        let kernel = weights.shape()[2..].iter().map(|&d| d as i64).collect();
        Ok(Self {
            geometry: Geometry::read(ctx.attrs, kernel)?,
            x: x.to_f64s(),
            spatial: x.shape()[2..].to_vec(),
            channels: x.shape()[1],
            offset: tensor(ctx, 2)?.to_f64s(),
            mask: optional(ctx, 4).map(Tensor::to_f64s),
            offset_group: ctx.attrs.int_or("offset_group", 1) as usize,
            n_places: shape[2..].iter().product(),
        })
    }

    /// The window's elements at place `at` (number `n`) of batch `batch`: channels x elements of the window.
    fn window(&self, batch: usize, at: &[usize], n: usize) -> Vec<f64> {
        let g = &self.geometry;
        let kernel: Vec<usize> = g.kernel.iter().map(|&k| k as usize).collect();
        let (axes, volume) = (kernel.len(), kernel.iter().product::<usize>());
        let (area, per_group) = (self.spatial.iter().product::<usize>(), self.channels / self.offset_group);
        let mut out = vec![0.0; self.channels * volume];
        for group in 0..self.offset_group {
            let row = (batch * self.offset_group + group) * volume;
            for (k, index) in indices(&kernel).enumerate() {
                let place = |a: usize| {
                    let fixed = at[a] as i64 * g.strides[a] - g.begin[a] + index[a] as i64 * g.dilations[a];
                    fixed as f64 + self.offset[((row + k) * axes + a) * self.n_places + n]
                };
                let place: Vec<f64> = (0..axes).map(place).collect();
                let taps = neighbours(&place, &self.spatial);
                let factor = self.mask.as_ref().map_or(1.0, |m| m[(row + k) * self.n_places + n]);
                for channel in group * per_group..(group + 1) * per_group {
                    let start = (batch * self.channels + channel) * area;
                    let value: f64 = taps.iter().map(|&(i, w)| self.x[start + i] * w).sum();
                    out[channel * volume + k] = value * factor;
                }
            }
        }
        out
    }
}

fn eval(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer)?;
    let reader = Reader::new(ctx, &shape)?;
    let weights = tensor(ctx, 1)?.to_f64s();
    let n_results = shape[1];
    let bias = optional(ctx, 3).map_or_else(|| vec![0.0; n_results], Tensor::to_f64s);
    let per_result = weights.len() / n_results.max(1);
    let group = ctx.attrs.int_or("group", 1) as usize;
    let mut y = vec![0.0; shape.iter().product()];
    for batch in 0..shape[0] {
        for (n, at) in indices(&shape[2..]).enumerate() {
            let window = reader.window(batch, &at, n);
            for result in 0..n_results {
                let first = result / (n_results / group) * per_result;
                let pairs = weights[result * per_result..][..per_result].iter().zip(&window[first..]);
                let sum: f64 = pairs.map(|(w, v)| w * v).sum();
                y[(batch * n_results + result) * reader.n_places + n] = sum + bias[result];
            }
        }
    }
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// Two operations for each weight and result, and interpolation of the window.
fn work_deform(ctx: &WorkCtx) -> Work {
    let weights: &[usize] = ctx.inputs.get(1).and_then(Option::as_ref).map_or(&[], |(_, s)| s);
    let per_result: f64 = weights.iter().skip(1).map(|&d| d as f64).product();
    let taps = 2f64.powi(weights.len().saturating_sub(2).min(8) as i32);
    work(ctx, (2.0 + taps) * per_result * crate::common::n_out(ctx), WorkKind::Dense)
}

fn sample(rng: &mut Rng) -> Sample {
    let (axes, group, offset_group) = (1 + rng.below(3), 1 + rng.below(2), 1 + rng.below(2));
    let kernel: Vec<i64> = (0..axes).map(|_| rng.int(1, 2)).collect();
    let mut attrs = sample_window(rng, &kernel);
    attrs.remove("auto_pad");
    let channels = group * offset_group;
    let size: Vec<usize> = (0..axes).map(|_| 3 + rng.below(2)).collect();
    let dims: Vec<Dim> = size.iter().map(|&d| d.into()).collect();
    let out = Geometry::read(&attrs, kernel.clone()).and_then(|g| g.outputs(&dims)).unwrap_or_default();
    let out: Vec<usize> = out.iter().filter_map(|d| usize::try_from(d.as_known()?).ok()).collect();
    let (batch, results) = (1 + rng.below(2), group * (1 + rng.below(2)));
    let kernel_size: Vec<usize> = kernel.iter().map(|&k| k as usize).collect();
    let rows = offset_group * kernel_size.iter().product::<usize>();
    let dtype = float(rng);
    let mut random = |head: [usize; 2], tail: &[usize]| {
        let shape: Vec<usize> = head.into_iter().chain(tail.iter().copied()).collect();
        Some(rng.tensor(dtype, &shape, -2.0, 2.0))
    };
    let mut inputs = vec![
        random([batch, channels], &size),
        random([results, channels / group], &kernel_size),
        random([batch, rows * axes], &out),
    ];
    let mask = random([batch, rows], &out);
    if rng.below(2) == 0 {
        inputs.push((rng.below(2) == 0).then(|| rng.tensor(dtype, &[results], -1.0, 1.0)));
        inputs.push(mask);
    }
    attrs.set("group", group as i64);
    attrs.set("offset_group", offset_group as i64);
    Sample { attrs, inputs, n_outputs: 1 }
}
