//! Poolings over sliding windows: maximum, average, p-norm.

use crate::channels_last::{self, LAYOUT};
use crate::common::{
    PLAIN, attr, attr_error, between, from_f64s, from_i64s, indices, input, onnx, required, tensor,
    type_error, work,
};
use crate::conv::sample_window;
use crate::eval::{result, to_i128s, want_float};
use crate::window::{Geometry, Window};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrDef, AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::tensor::n_elements;
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&MAX_POOL, &AVERAGE_POOL, &LP_POOL];

const AUTO_PAD: AttrDef = attr("auto_pad", AttrKind::Str);
const CEIL_MODE: AttrDef = attr("ceil_mode", AttrKind::Int);
const DILATIONS: AttrDef = attr("dilations", AttrKind::Ints);
const KERNEL_SHAPE: AttrDef = required("kernel_shape", AttrKind::Ints);
const PADS: AttrDef = attr("pads", AttrKind::Ints);
const STRIDES: AttrDef = attr("strides", AttrKind::Ints);

/// Maximum and where it is.
static MAX_POOL: OpDef = OpDef {
    name: "max_pool",
    doc: "maximum under a sliding window; optionally its position in the flattened input",
    onnx: &[onnx("MaxPool", 1)],
    inputs: between(1, 1),
    outputs: between(1, 2),
    attrs: &[
        AUTO_PAD,
        CEIL_MODE,
        DILATIONS,
        KERNEL_SHAPE,
        LAYOUT,
        PADS,
        attr("storage_order", AttrKind::Int),
        STRIDES,
    ],
    traits: PLAIN,
    infer: |c| channels_last::infer(c, infer_max),
    content: None,
    eval: |c| channels_last::eval(c, eval_max),
    scalar: None,
    data: None,
    work: work_pool,
    sample: |rng| {
        let sample = sample_max(rng);
        channels_last::sample(rng, sample, &["nhwc"])
    },
};

/// Mean.
static AVERAGE_POOL: OpDef = OpDef {
    name: "average_pool",
    doc: "mean under a sliding window; pads count if count_include_pad",
    onnx: &[onnx("AveragePool", 7)],
    inputs: between(1, 1),
    outputs: between(1, 1),
    attrs: &[
        AUTO_PAD,
        CEIL_MODE,
        attr("count_include_pad", AttrKind::Int),
        DILATIONS,
        KERNEL_SHAPE,
        LAYOUT,
        PADS,
        STRIDES,
    ],
    traits: PLAIN,
    infer: |c| channels_last::infer(c, infer_float),
    content: None,
    eval: |c| channels_last::eval(c, eval_average),
    scalar: None,
    data: None,
    work: work_pool,
    sample: |rng| {
        let sample = sample_average(rng);
        channels_last::sample(rng, sample, &["nhwc"])
    },
};

/// p-norm.
static LP_POOL: OpDef = OpDef {
    name: "lp_pool",
    doc: "p-norm of the elements under a sliding window",
    onnx: &[onnx("LpPool", 2)],
    inputs: between(1, 1),
    outputs: between(1, 1),
    attrs: &[AUTO_PAD, CEIL_MODE, DILATIONS, KERNEL_SHAPE, attr("p", AttrKind::Int), PADS, STRIDES],
    traits: PLAIN,
    infer: infer_lp,
    content: None,
    eval: eval_lp,
    scalar: None,
    data: None,
    work: work_pool,
    sample: sample_lp,
};

/// The window of the attributes over data of `rank` dimensions.
///
/// # Errors
/// `V021` when the attributes do not fit.
pub(crate) fn geometry(attrs: &Attrs, rank: usize) -> Result<Geometry, Diag> {
    let kernel = attrs.ints("kernel_shape").ok_or_else(|| attr_error("kernel_shape is missing"))?;
    if rank < 3 || kernel.len() != rank - 2 {
        let text = format!("kernel_shape has {} entries, data of rank {rank} is given", kernel.len());
        return Err(attr_error(text).hint("the layout is [batch, channels, spatial...]"));
    }
    let geometry = Geometry::read(attrs, kernel)?;
    for axis in 0..geometry.kernel.len() {
        if geometry.begin[axis].max(geometry.end[axis]) >= geometry.extent(axis) {
            return Err(attr_error("a pad must be smaller than the dilated kernel")
                .hint("a window of nothing but pads has no result"));
        }
    }
    Ok(geometry)
}

fn infer_pool(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    let geometry = geometry(ctx.attrs, x.rank())?;
    let mut shape = x.shape[..2].to_vec();
    shape.extend(geometry.outputs(&x.shape[2..])?);
    Ok(vec![Type::new(x.dtype, shape)])
}

fn infer_max(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    if input(ctx, 0)?.dtype == DType::Bool {
        return Err(type_error("max_pool does not take booleans"));
    }
    let mut types = infer_pool(ctx)?;
    types.push(Type::new(DType::I64, types[0].shape.clone()));
    types.truncate(ctx.n_outputs.max(1));
    Ok(types)
}

fn infer_float(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    want_float(input(ctx, 0)?.dtype)?;
    infer_pool(ctx)
}

fn infer_lp(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let p = ctx.attrs.int_or("p", 2);
    if p < 1 {
        return Err(attr_error(format!("p is {p}, it must be 1 or more")));
    }
    infer_float(ctx)
}

/// What a pooling walks over.
struct Pool {
    window: Window,
    shape: Vec<usize>,
    /// Elements of one channel of the data.
    spatial: usize,
}

impl Pool {
    fn new(ctx: &EvalCtx, shape: &[usize]) -> Result<Self, Diag> {
        let x = tensor(ctx, 0)?;
        let geometry = geometry(ctx.attrs, x.rank())?;
        let spatial = x.shape()[2..].iter().product();
        Ok(Self { window: geometry.window(&x.shape()[2..], &shape[2..]), shape: shape.to_vec(), spatial })
    }

    /// `f` of the window's place and the positions it covers in the whole data, for every result element.
    fn map<T: Clone + Default>(&self, mut f: impl FnMut(&[usize], &[usize]) -> T) -> Vec<T> {
        let n_channels = self.shape[0] * self.shape[1];
        let n_places: usize = self.shape[2..].iter().product();
        let mut out = vec![T::default(); n_channels * n_places];
        for (p, at) in indices(&self.shape[2..]).enumerate() {
            let taps = self.window.taps(&at);
            for channel in 0..n_channels {
                let covered: Vec<usize> = taps.iter().map(|t| channel * self.spatial + t.element).collect();
                out[channel * n_places + p] = f(&at, &covered);
            }
        }
        out
    }
}

fn eval_max(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_max)?;
    let x = tensor(ctx, 0)?;
    let pool = Pool::new(ctx, &shape)?;
    let (y, places) = if dtype.is_float() {
        let v = x.to_f64s();
        let places = pool.map(|_, covered| first_largest(covered, |i, j| v[i] > v[j] || v[i].is_nan()));
        let y: Vec<f64> = places.iter().map(|p| p.map_or(f64::NEG_INFINITY, |p| v[p])).collect();
        (from_f64s(dtype, &shape, &y)?, places)
    } else {
        let v = to_i128s(x);
        let places = pool.map(|_, covered| first_largest(covered, |i, j| v[i] > v[j]));
        let y: Vec<i64> = places.iter().map(|p| p.map_or(0, |p| v[p] as i64)).collect();
        (from_i64s(dtype, &shape, &y)?, places)
    };
    let column_major = ctx.attrs.flag("storage_order");
    let n = |p: &Option<usize>| p.map_or(0, |p| numbered(p, x.shape(), column_major)) as i64;
    let mut out = vec![y, from_i64s(DType::I64, &shape, &places.iter().map(n).collect::<Vec<_>>())?];
    out.truncate(ctx.n_outputs.max(1));
    Ok(out)
}

/// The first of `positions` that none `beats`.
fn first_largest(positions: &[usize], beats: impl Fn(usize, usize) -> bool) -> Option<usize> {
    let mut items = positions.iter().copied();
    let first = items.next()?;
    Some(items.fold(first, |best, i| if beats(i, best) { i } else { best }))
}

/// A position in the flattened data; `column_major` counts the spatial axes in reverse order.
fn numbered(position: usize, shape: &[usize], column_major: bool) -> usize {
    if !column_major {
        return position;
    }
    let spatial: usize = shape[2..].iter().product();
    let (channel, mut rest) = (position / spatial, position % spatial);
    let mut index = Vec::new();
    for &dim in shape[2..].iter().rev() {
        index.push(rest % dim);
        rest /= dim;
    }
    // `index` runs from the last axis to the first, which is the order column-major nests in.
    channel * spatial + index.iter().zip(shape[2..].iter().rev()).fold(0, |at, (&i, &dim)| at * dim + i)
}

fn eval_average(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_float)?;
    let x = tensor(ctx, 0)?.to_f64s();
    let pool = Pool::new(ctx, &shape)?;
    let include = ctx.attrs.flag("count_include_pad");
    let y = pool.map(|at, covered| {
        let count = if include { pool.window.padded_count(at) } else { covered.len() as f64 };
        covered.iter().map(|&i| x[i]).sum::<f64>() / count
    });
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

fn eval_lp(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_lp)?;
    let x = tensor(ctx, 0)?.to_f64s();
    let p = ctx.attrs.int_or("p", 2) as f64;
    let y = Pool::new(ctx, &shape)?.map(|_, covered| p_norm(covered.iter().map(|&i| x[i]), p));
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// `(sum |x|^p)^(1/p)`.
pub(crate) fn p_norm(x: impl Iterator<Item = f64>, p: f64) -> f64 {
    libm::pow(x.map(|v| libm::pow(v.abs(), p)).sum(), 1.0 / p)
}

fn work_pool(ctx: &WorkCtx) -> Work {
    let kernel = ctx.attrs.ints("kernel_shape").unwrap_or_default();
    let volume: f64 = kernel.iter().map(|&k| k as f64).product();
    let out = ctx.outputs.first().and_then(|(_, s)| n_elements(s)).unwrap_or(0);
    work(ctx, out as f64 * volume, WorkKind::Vector)
}

fn sample_pool(rng: &mut Rng) -> Sample {
    let n_spatial = 1 + rng.below(3);
    let kernel: Vec<i64> = (0..n_spatial).map(|_| rng.int(1, 3)).collect();
    let mut attrs = sample_window(rng, &kernel).with("kernel_shape", kernel);
    if rng.below(3) == 0 {
        attrs.set("ceil_mode", 1i64);
    }
    let mut shape = vec![1 + rng.below(2), 1 + rng.below(2)];
    shape.extend((0..n_spatial).map(|_| 5 + rng.below(4)));
    Sample { attrs, inputs: vec![Some(rng.tensor(DType::F32, &shape, -3.0, 3.0))], n_outputs: 1 }
}

fn sample_max(rng: &mut Rng) -> Sample {
    let mut sample = sample_pool(rng);
    if rng.below(2) == 0 {
        sample.n_outputs = 2;
        sample.attrs.set("storage_order", rng.int(0, 1));
    }
    sample
}

fn sample_average(rng: &mut Rng) -> Sample {
    let mut sample = sample_pool(rng);
    sample.attrs.set("count_include_pad", rng.int(0, 1));
    sample
}

fn sample_lp(rng: &mut Rng) -> Sample {
    let mut sample = sample_pool(rng);
    sample.attrs.set("p", rng.int(1, 3));
    sample
}
