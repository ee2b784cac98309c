//! Average poolings over 8-bit numbers with a scale and a zero point.

use crate::common::{
    PLAIN, attr, between, exactly, from_i64s, indices, input, required, tensor, type_error, work,
};
use crate::contrib_common::{
    Quant, check_scale, check_zero, eight_bits, ms, sample_eight_bit_type, sample_eight_bits, sample_scale,
};
use crate::conv::sample_window;
use crate::elements::walk;
use crate::eval::{Lines, result};
use crate::pool::geometry;
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrDef, AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::tensor::n_elements;
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&AVERAGE_POOL, &GLOBAL_AVERAGE_POOL];

const CHANNELS_LAST: AttrDef = attr("channels_last", AttrKind::Int);

static AVERAGE_POOL: OpDef = OpDef {
    name: "qlinear_average_pool",
    doc: "mean under a sliding window over 8-bit numbers with scale and zero point.",
    onnx: &[ms("QLinearAveragePool")],
    inputs: between(2, 5),
    outputs: exactly(1),
    attrs: &[
        attr("auto_pad", AttrKind::Str),
        attr("ceil_mode", AttrKind::Int),
        CHANNELS_LAST,
        attr("count_include_pad", AttrKind::Int),
        required("kernel_shape", AttrKind::Ints),
        attr("pads", AttrKind::Ints),
        attr("strides", AttrKind::Ints),
    ],
    traits: PLAIN,
    infer: infer_pool,
    content: None,
    eval: eval_pool,
    scalar: None,
    data: None,
    work: work_pool,
    sample: sample_pool,
};

static GLOBAL_AVERAGE_POOL: OpDef = OpDef {
    name: "qlinear_global_average_pool",
    doc: "mean of each channel over 8-bit numbers with scale and zero point.",
    onnx: &[ms("QLinearGlobalAveragePool")],
    inputs: exactly(5),
    outputs: exactly(1),
    attrs: &[CHANNELS_LAST],
    traits: PLAIN,
    infer: infer_global,
    content: None,
    eval: eval_global,
    scalar: None,
    data: None,
    work: work_global,
    sample: sample_global,
};

/// Checks the operands x, its scale and zero point, the result's scale and zero point.
fn checked<'a>(ctx: &InferCtx<'a>, least_rank: usize) -> Result<&'a Type, Diag> {
    let dtype = eight_bits(ctx, 0)?;
    for n in [1, 3] {
        check_scale(ctx, n)?;
        check_zero(ctx, n + 1, dtype)?;
    }
    let x = input(ctx, 0)?;
    if x.rank() < least_rank {
        return Err(type_error(format!("the data must have at least {least_rank} dimensions, it is {x}")));
    }
    Ok(x)
}

/// `[batch, channels, spatial...]` of dims in either layout.
fn first<D: Clone>(dims: &[D], last: bool) -> Vec<D> {
    let mut out = dims.to_vec();
    if last {
        out[1..].rotate_right(1);
    }
    out
}

/// The layout of the attributes from `[batch, channels, spatial...]`.
fn back<D: Clone>(dims: &[D], last: bool) -> Vec<D> {
    let mut out = dims.to_vec();
    if last {
        out[1..].rotate_left(1);
    }
    out
}

fn infer_pool(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = checked(ctx, 3)?;
    let geometry = geometry(ctx.attrs, x.rank())?;
    let last = ctx.attrs.flag("channels_last");
    let dims = first(&x.shape, last);
    let mut shape = dims[..2].to_vec();
    shape.extend(geometry.outputs(&dims[2..])?);
    Ok(vec![Type::new(x.dtype, back(&shape, last))])
}

/// Positions of the elements of `shape` (in the attributes' layout) in the order of channels first.
fn order(shape: &[usize], last: bool) -> Vec<usize> {
    let strides: Vec<i64> = crate::elements::signed_strides(shape);
    walk(&first(shape, last), 0, &first(&strides, last))
}

fn eval_pool(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_pool)?;
    let (x, y) = (Quant::read(ctx, 1, 2, dtype)?, Quant::read(ctx, 3, 4, dtype)?);
    let data = tensor(ctx, 0)?;
    let last = ctx.attrs.flag("channels_last");
    let (from, to) = (first(data.shape(), last), first(&shape, last));
    let (in_order, out_order) = (order(data.shape(), last), order(&shape, last));
    let numbers = data.to_i64s();
    let values: Vec<f32> = in_order.into_iter().map(|i| x.value(numbers[i])).collect();
    let geometry = geometry(ctx.attrs, data.rank())?;
    let all_taps: f32 = geometry.kernel.iter().map(|&k| k as f32).product();
    let window = geometry.window(&from[2..], &to[2..]);
    let include = ctx.attrs.flag("count_include_pad");
    let (spatial, places) = (from[2..].iter().product::<usize>(), to[2..].iter().product::<usize>());
    let mut out = vec![0i64; out_order.len()];
    for (place, at) in indices(&to[2..]).enumerate() {
        let taps = window.taps(&at);
        let count = if include { all_taps } else { taps.len() as f32 };
        for channel in 0..to[0] * to[1] {
            let sum = taps.iter().fold(0.0f32, |sum, t| sum + values[channel * spatial + t.element]);
            out[out_order[channel * places + place]] = y.rounded(sum / count / y.scale + y.zero as f32);
        }
    }
    Ok(vec![from_i64s(dtype, &shape, &out)?])
}

fn work_pool(ctx: &WorkCtx) -> Work {
    let volume: f64 = ctx.attrs.ints("kernel_shape").unwrap_or_default().iter().map(|&k| k as f64).product();
    work(ctx, crate::common::n_out(ctx) * volume, WorkKind::Vector)
}

fn infer_global(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = checked(ctx, 2)?;
    let last = ctx.attrs.flag("channels_last");
    let mut dims = first(&x.shape, last);
    dims[2..].fill(Dim::known(1));
    Ok(vec![Type::new(x.dtype, back(&dims, last))])
}

/// The sum of a channel's numbers is exact; one factor leads from it to the result.
fn eval_global(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_global)?;
    let (x, y) = (Quant::read(ctx, 1, 2, dtype)?, Quant::read(ctx, 3, 4, dtype)?);
    let data = tensor(ctx, 0)?;
    let rank = data.rank();
    let lines = if ctx.attrs.flag("channels_last") {
        Lines::new(data.shape(), 1, rank - 1)
    } else {
        Lines::new(data.shape(), 2, rank)
    };
    let numbers = data.to_i64s();
    let steps = x.scale / (y.scale * lines.len as f32);
    let mean = |n: usize| {
        let sum: i64 = lines.line(n).map(|i| numbers[i] - x.zero).sum();
        y.saturated((sum as f32 * steps).round_ties_even() as i64, y.zero)
    };
    let out: Vec<i64> = (0..lines.count()).map(mean).collect();
    Ok(vec![from_i64s(dtype, &shape, &out)?])
}

fn work_global(ctx: &WorkCtx) -> Work {
    let n = ctx.inputs.first().and_then(Option::as_ref).and_then(|(_, s)| n_elements(s)).unwrap_or(0);
    work(ctx, n as f64, WorkKind::Vector)
}

/// Data in either layout with its quantization and the result's.
fn sample_inputs(rng: &mut Rng, spatial: usize, attrs: &Attrs) -> Vec<Option<Tensor>> {
    let dtype: DType = sample_eight_bit_type(rng);
    let mut shape = vec![1 + rng.below(2), 1 + rng.below(3)];
    shape.extend((0..spatial).map(|_| 5 + rng.below(3)));
    let shape = back(&shape, attrs.flag("channels_last"));
    let mut inputs = vec![Some(sample_eight_bits(rng, dtype, &shape))];
    for _ in 0..2 {
        inputs.extend([Some(sample_scale(rng)), Some(sample_eight_bits(rng, dtype, &[]))]);
    }
    inputs
}

fn sample_pool(rng: &mut Rng) -> Sample {
    let spatial = 1 + rng.below(3);
    let kernel: Vec<i64> = (0..spatial).map(|_| rng.int(1, 3)).collect();
    let mut attrs = sample_window(rng, &kernel).with("kernel_shape", kernel);
    attrs.remove("dilations");
    attrs.set("ceil_mode", rng.int(0, 1));
    attrs.set("count_include_pad", rng.int(0, 1));
    attrs.set("channels_last", rng.int(0, 1));
    let inputs = sample_inputs(rng, spatial, &attrs);
    Sample { attrs, inputs, n_outputs: 1 }
}

fn sample_global(rng: &mut Rng) -> Sample {
    let attrs = Attrs::new().with("channels_last", rng.int(0, 1));
    let spatial = rng.below(4);
    let inputs = sample_inputs(rng, spatial, &attrs);
    Sample { attrs, inputs, n_outputs: 1 }
}
