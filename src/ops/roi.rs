//! Pooling of regions of interest: `roi_align` interpolates, `max_roi_pool` rounds to whole elements.

use crate::common::{
    PLAIN, attr, attr_error, exactly, from_f64s, index_error, input, onnx, required, tensor, type_error,
    unsupported, work,
};
use crate::eval::{result, same_dim, want_float};
use crate::samples::{float, list};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&MAX_ROI_POOL, &ROI_ALIGN];

/// Most sampling points of one region; adaptive sampling takes one for each element the region covers.
const MAX_POINTS: f64 = (1u64 << 22) as f64;

/// Largest side of the pooled output.
const MAX_SIDE: i64 = 1 << 20;

static ROI_ALIGN: OpDef = OpDef {
    name: "roi_align",
    doc: "Pools each region into a fixed grid of bins, interpolating between elements.",
    onnx: &[onnx("RoiAlign", 16)],
    inputs: exactly(3),
    outputs: exactly(1),
    attrs: &[
        attr("coordinate_transformation_mode", AttrKind::Str),
        attr("mode", AttrKind::Str),
        attr("output_height", AttrKind::Int),
        attr("output_width", AttrKind::Int),
        attr("sampling_ratio", AttrKind::Int),
        attr("spatial_scale", AttrKind::Float),
    ],
    traits: PLAIN,
    infer: infer_align,
    content: None,
    eval: eval_align,
    scalar: None,
    data: None,
    work: work_roi,
    sample: sample_align,
};

static MAX_ROI_POOL: OpDef = OpDef {
    name: "max_roi_pool",
    doc: "The maximum in each bin of each region, whose corners are rounded to whole elements.",
    onnx: &[onnx("MaxRoiPool", 1)],
    inputs: exactly(2),
    attrs: &[required("pooled_shape", AttrKind::Ints), attr("spatial_scale", AttrKind::Float)],
    infer: infer_pool,
    eval: eval_pool,
    sample: sample_pool,
    ..ROI_ALIGN
};

/// A side of the output that fits any use.
fn side(value: i64, name: &str) -> Result<i64, Diag> {
    if (1..=MAX_SIDE).contains(&value) {
        return Ok(value);
    }
    Err(attr_error(format!("{name} is {value}, allowed are 1 to {MAX_SIDE}")))
}

/// The result: regions x channels x the bins.
fn pooled(ctx: &InferCtx, n_columns: i64, sides: [i64; 2]) -> Result<Vec<Type>, Diag> {
    let (x, rois) = (input(ctx, 0)?, input(ctx, 1)?);
    want_float(x.dtype)?;
    if x.rank() != 4 || rois.rank() != 2 || rois.dtype != x.dtype {
        return Err(type_error(format!("the data is {x}, the regions are {rois}")).hint(
            "data is [batch, channels, height, width], regions one row each of the same element type",
        ));
    }
    same_dim(&rois.shape[1], &n_columns.into(), "entries of a region and columns")?;
    let shape = vec![rois.shape[0].clone(), x.shape[1].clone(), sides[0].into(), sides[1].into()];
    Ok(vec![Type::new(x.dtype, shape)])
}

fn infer_align(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let batches = input(ctx, 2)?;
    if batches.dtype != DType::I64 || batches.rank() != 1 {
        return Err(type_error(format!("the batch indices are {batches}, a list of i64 is wanted")));
    }
    same_dim(&batches.shape[0], &first_dim(ctx, 1)?, "numbers of regions and batch indices")?;
    Align::read(ctx.attrs, DType::F32)?;
    let of = |name: &str| side(ctx.attrs.int_or(name, 1), name);
    pooled(ctx, 4, [of("output_height")?, of("output_width")?])
}

fn first_dim(ctx: &InferCtx, n: usize) -> Result<Dim, Diag> {
    let first = input(ctx, n)?.shape.first().cloned();
    first.ok_or_else(|| type_error(format!("operand {n} is a scalar")))
}

fn infer_pool(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let shape = ctx.attrs.ints("pooled_shape").unwrap_or_default();
    match shape[..] {
        [height, width] => pooled(ctx, 5, [side(height, "pooled_shape")?, side(width, "pooled_shape")?]),
        _ => Err(attr_error(format!("pooled_shape has {} entries, 2 are needed", shape.len()))),
    }
}

/// The index of a batch that a region names.
fn batch_of(index: i64, n: usize) -> Result<usize, Diag> {
    usize::try_from(index).ok().filter(|&b| b < n).ok_or_else(|| index_error(index, n))
}

/// How regions are aligned.
struct Align {
    half_pixel: bool,
    max: bool,
    ratio: i64,
    scale: f64,
    /// Whether places are computed in f64; otherwise in f32, on which the number of points depends.
    wide: bool,
}

/// Four neighbours of a point, with their weights.
type Point = [(usize, f64); 4];

/// A region along one axis: where it starts, the size of its bins, and points in each.
struct Side {
    start: f64,
    bin: f64,
    points: usize,
}

impl Align {
    fn read(attrs: &Attrs, dtype: DType) -> Result<Self, Diag> {
        let half_pixel = match attrs.str("coordinate_transformation_mode").unwrap_or("half_pixel") {
            "half_pixel" => true,
            "output_half_pixel" => false,
            other => {
                return Err(attr_error(format!("coordinate_transformation_mode is {other:?}"))
                    .hint("allowed are half_pixel and output_half_pixel"));
            }
        };
        let max = match attrs.str("mode").unwrap_or("avg") {
            "avg" => false,
            "max" => true,
            other => return Err(attr_error(format!("mode is {other:?}")).hint("allowed are avg and max")),
        };
        let ratio = attrs.int_or("sampling_ratio", 0);
        if !(0..=MAX_SIDE).contains(&ratio) {
            return Err(attr_error(format!("sampling_ratio is {ratio}, allowed are 0 to {MAX_SIDE}")));
        }
        let scale = f64::from(attrs.float_or("spatial_scale", 1.0));
        Ok(Self { half_pixel, max, ratio, scale, wide: dtype == DType::F64 })
    }

    fn round(&self, v: f64) -> f64 {
        if self.wide { v } else { f64::from(v as f32) }
    }

    fn side(&self, from: f64, to: f64, n_bins: usize) -> Side {
        let offset = if self.half_pixel { 0.5 } else { 0.0 };
        let place = |v: f64| self.round(self.round(v * self.scale) - offset);
        let (start, mut size) = (place(from), self.round(place(to) - place(from)));
        if !self.half_pixel {
            size = size.max(1.0);
        }
        let bin = self.round(size / n_bins as f64);
        let points = if self.ratio > 0 { self.ratio as usize } else { bin.ceil().max(0.0) as usize };
        Side { start, bin, points }
    }

    /// Where point `i` of bin `n` lies.
    fn place(&self, s: &Side, n: usize, i: usize) -> f64 {
        let within = self.round(self.round((i as f64 + 0.5) * s.bin) / s.points as f64);
        self.round(self.round(s.start + self.round(n as f64 * s.bin)) + within)
    }

    /// The value of a bin over one channel.
    fn value(&self, channel: &[f64], points: &[Point]) -> f64 {
        if self.max {
            // The definition's reference compares the weighted neighbours, not the interpolated points.
            let largest =
                |p: &Point| p.iter().map(|&(i, w)| channel[i] * w).fold(f64::NEG_INFINITY, f64::max);
            return points.iter().map(largest).reduce(f64::max).unwrap_or(0.0);
        }
        let sum: f64 = points.iter().flatten().filter(|t| t.1 != 0.0).map(|&(i, w)| channel[i] * w).sum();
        sum / points.len().max(1) as f64
    }
}

/// The two elements next to a place on an axis of `len` and their weights; none far outside.
fn neighbours(at: f64, len: usize) -> Option<[(usize, f64); 2]> {
    if !(-1.0..=len as f64).contains(&at) {
        return None;
    }
    let (at, last) = (at.max(0.0), len.saturating_sub(1));
    let low = at as usize;
    if low >= last {
        return Some([(last, 1.0), (last, 0.0)]);
    }
    let ratio = at - low as f64;
    Some([(low, 1.0 - ratio), (low + 1, ratio)])
}

/// The points of one bin.
fn points(align: &Align, sides: &[Side; 2], bin: [usize; 2], size: [usize; 2]) -> Vec<Point> {
    let axis = |a: usize| {
        let place = move |i| neighbours(align.place(&sides[a], bin[a], i), size[a]);
        (0..sides[a].points).map(place).collect::<Vec<_>>()
    };
    let (rows, columns) = (axis(0), axis(1));
    let point = |y: &Option<[(usize, f64); 2]>, x: &Option<[(usize, f64); 2]>| -> Point {
        let (Some([y0, y1]), Some([x0, x1])) = (*y, *x) else { return [(0, 0.0); 4] };
        [(y0, x0), (y0, x1), (y1, x0), (y1, x1)].map(|(y, x)| (y.0 * size[1] + x.0, y.1 * x.1))
    };
    rows.iter().flat_map(|y| columns.iter().map(move |x| point(y, x))).collect()
}

fn eval_align(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_align)?;
    let align = Align::read(ctx.attrs, dtype)?;
    let x = tensor(ctx, 0)?;
    let (size, values) = ([x.shape()[2], x.shape()[3]], x.to_f64s());
    let area = size[0] * size[1];
    let mut y = Vec::new();
    if area == 0 || shape.contains(&0) {
        return Ok(vec![from_f64s(dtype, &shape, &vec![0.0; shape.iter().product()])?]);
    }
    let regions = tensor(ctx, 1)?.to_f64s();
    for (region, index) in regions.chunks(4).zip(tensor(ctx, 2)?.to_i64s()) {
        let batch = batch_of(index, x.shape()[0])? * shape[1];
        let sides = [align.side(region[1], region[3], shape[2]), align.side(region[0], region[2], shape[3])];
        let bins = (shape[2] * shape[3]) as f64;
        if bins * sides[0].points as f64 * sides[1].points as f64 > MAX_POINTS {
            return Err(unsupported("a region takes too many sampling points")
                .hint("state sampling_ratio, or check the regions"));
        }
        let mut bins = Vec::new();
        for row in 0..shape[2] {
            bins.extend((0..shape[3]).map(|column| points(&align, &sides, [row, column], size)));
        }
        for channel in values[batch * area..(batch + shape[1]) * area].chunks(area) {
            y.extend(bins.iter().map(|points| align.value(channel, points)));
        }
    }
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// The elements bin `n` of `n_bins` covers on an axis of `len`, for a region between rounded ends.
fn covered(n: usize, n_bins: usize, ends: (f64, f64), len: usize) -> std::ops::Range<usize> {
    let size = (ends.1 - ends.0 + 1.0).max(1.0) as f32;
    let bin = size / n_bins as f32;
    let low = f64::from((n as f32 * bin).floor()) + ends.0;
    let high = f64::from(((n + 1) as f32 * bin).ceil()) + ends.0;
    let within = |v: f64| v.clamp(0.0, len as f64) as usize;
    within(low)..within(high)
}

/// The largest element of a channel within a bin; 0 for an empty one.
fn largest(
    channel: &[f64],
    rows: &std::ops::Range<usize>,
    columns: &std::ops::Range<usize>,
    width: usize,
) -> f64 {
    let elements = rows.clone().flat_map(|r| channel[r * width..][columns.clone()].iter().copied());
    elements.reduce(|a, b| if b > a || b.is_nan() { b } else { a }).unwrap_or(0.0)
}

fn eval_pool(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_pool)?;
    let x = tensor(ctx, 0)?;
    let scale = f64::from(ctx.attrs.float_or("spatial_scale", 1.0));
    let (height, width) = (x.shape()[2], x.shape()[3]);
    let (area, values) = (height * width, x.to_f64s());
    let mut y = Vec::new();
    if area == 0 || shape.contains(&0) {
        return Ok(vec![from_f64s(dtype, &shape, &vec![0.0; shape.iter().product()])?]);
    }
    for region in tensor(ctx, 1)?.to_f64s().chunks(5) {
        let batch = batch_of(region[0] as i64, x.shape()[0])? * shape[1];
        let end = |i: usize| f64::from((region[i] * scale) as f32).round();
        let (rows, columns) = ((end(2), end(4)), (end(1), end(3)));
        for channel in values[batch * area..(batch + shape[1]) * area].chunks(area) {
            for row in 0..shape[2] {
                let rows = covered(row, shape[2], rows, height);
                let bin = |n| largest(channel, &rows, &covered(n, shape[3], columns, width), width);
                y.extend((0..shape[3]).map(bin));
            }
        }
    }
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// About one interpolation of four neighbours for each of four points of a bin.
fn work_roi(ctx: &WorkCtx) -> Work {
    const FLOPS_PER_BIN: f64 = 32.0;
    work(ctx, FLOPS_PER_BIN * crate::common::n_out(ctx), WorkKind::Vector)
}

/// Random regions of `dtype`: two corners each, after `first` columns of zeros.
fn sample_regions(rng: &mut Rng, dtype: DType, n: usize, first: usize) -> Option<Tensor> {
    let mut values = Vec::new();
    for _ in 0..n {
        let (left, top) = (rng.float(-1.0, 5.0), rng.float(-1.0, 5.0));
        values.extend(std::iter::repeat_n(0.0, first));
        values.extend([left, top, left + rng.float(-0.5, 5.0), top + rng.float(-0.5, 5.0)]);
    }
    Tensor::from_f64s(dtype, &[n, 4 + first], &values)
}

fn sample_data(rng: &mut Rng, dtype: DType) -> Tensor {
    let shape = [1 + rng.below(2), 1 + rng.below(3), 1 + rng.below(6), 1 + rng.below(6)];
    rng.tensor(dtype, &shape, -3.0, 3.0)
}

fn sample_align(rng: &mut Rng) -> Sample {
    let dtype = float(rng);
    let (x, n) = (sample_data(rng, dtype), rng.below(4));
    let regions = sample_regions(rng, dtype, n, 0);
    let batches: Vec<i64> = (0..n).map(|_| rng.below(x.shape()[0]) as i64).collect();
    let attrs = Attrs::new()
        .with("coordinate_transformation_mode", *rng.pick(&["half_pixel", "output_half_pixel"]))
        .with("mode", *rng.pick(&["avg", "max"]))
        .with("output_height", rng.int(1, 3))
        .with("output_width", rng.int(1, 3))
        .with("sampling_ratio", rng.int(0, 2))
        .with("spatial_scale", *rng.pick(&[1.0f32, 0.5]));
    Sample { attrs, inputs: vec![Some(x), regions, Some(list(&batches))], n_outputs: 1 }
}

fn sample_pool(rng: &mut Rng) -> Sample {
    let dtype = float(rng);
    let (x, n) = (sample_data(rng, dtype), rng.below(4));
    let regions = sample_regions(rng, dtype, n, 1);
    let attrs = Attrs::new()
        .with("pooled_shape", vec![rng.int(1, 3), rng.int(1, 3)])
        .with("spatial_scale", *rng.pick(&[1.0f32, 0.5]));
    Sample { attrs, inputs: vec![Some(x), regions], n_outputs: 1 }
}
