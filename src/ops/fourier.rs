//! Fourier transforms as operators: `dft` along an axis and `stft` over sliding frames. Complex numbers are a
//! last axis of two.

use crate::common::{
    PLAIN, attr, attr_error, between, data_dependent, from_f64s, input, onnx, tensor, type_error,
    unsupported, work,
};
use crate::content;
use crate::eval::{Lines, optional, optional_type, result, same_dim, want_float};
use crate::fft::{Complex, Fourier};
use crate::samples::float;
use crate::shapes::or_unknown;
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&DFT, &STFT];

/// Longest transform.
const MAX_LENGTH: i64 = 1 << 24;

static DFT: OpDef = OpDef {
    name: "dft",
    doc: "The discrete Fourier transform along an axis, of real or complex data, or its inverse.",
    onnx: &[onnx("DFT", 20)],
    inputs: between(1, 3),
    outputs: between(1, 1),
    attrs: &[attr("inverse", AttrKind::Int), attr("onesided", AttrKind::Int)],
    traits: PLAIN,
    infer: infer_dft,
    content: None,
    eval: eval_dft,
    scalar: None,
    data: None,
    work: work_fourier,
    sample: sample_dft,
};

static STFT: OpDef = OpDef {
    name: "stft",
    doc: "The Fourier transforms of frames that slide over a signal, times a window.",
    onnx: &[onnx("STFT", 17)],
    inputs: between(2, 4),
    attrs: &[attr("onesided", AttrKind::Int)],
    infer: infer_stft,
    eval: eval_stft,
    sample: sample_stft,
    ..DFT
};

/// Whether the data is complex, by its last axis.
fn is_complex(x: &Type) -> Result<bool, Diag> {
    match x.shape.last().map(Dim::as_known) {
        Some(Some(1)) => Ok(false),
        Some(Some(2)) => Ok(true),
        Some(None) => Err(unsupported("the size of the last axis must be known: 1 is real, 2 is complex")),
        _ => Err(type_error(format!("the data is {x}, its last axis must have 1 or 2 elements"))),
    }
}

/// A length of a transform or frame; refused when it is known and out of range.
fn length(dim: Dim) -> Result<Dim, Diag> {
    match dim.as_known() {
        Some(n) if !(1..=MAX_LENGTH).contains(&n) => {
            Err(attr_error(format!("the length is {n}, allowed are 1 to {MAX_LENGTH}")))
        }
        _ => Ok(dim),
    }
}

/// The size in a scalar operand; `None` when it is omitted.
fn size(ctx: &InferCtx, n: usize) -> Result<Option<Dim>, Diag> {
    match optional_type(ctx, n) {
        None => Ok(None),
        Some(ty) if !matches!(ty.dtype, DType::I32 | DType::I64) => {
            Err(type_error(format!("operand {n} is {ty}, i32 or i64 is wanted")))
        }
        Some(_) => content::dim(ctx, n).ok_or_else(data_dependent).map(Some),
    }
}

/// The axis of the transform; the last one holds real and imaginary parts.
fn dft_axis(axis: i64, rank: usize) -> Result<usize, Diag> {
    crate::common::axis_of(axis, rank).ok().filter(|&a| a + 1 < rank).ok_or_else(|| {
        attr_error(format!("axis {axis} is out of range for {} axes of data", rank.saturating_sub(1)))
    })
}

fn infer_dft(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    or_unknown(exact_dft(ctx), || {
        let x = input(ctx, 0).ok()?;
        let last = x.rank().checked_sub(1)?;
        let axis = content::dim(ctx, 2).as_ref().and_then(Dim::as_known);
        let axis = axis.or((optional_type(ctx, 2).is_none()).then_some(-2));
        let is_real = ctx.attrs.flag("inverse") && ctx.attrs.flag("onesided");
        let mut shape = x.shape.clone();
        shape[last] = if is_real { 1.into() } else { 2.into() };
        let changed = match axis {
            Some(axis) => vec![dft_axis(axis, x.rank()).ok()?],
            None => (0..last).collect(),
        };
        changed.into_iter().for_each(|a| shape[a] = Dim::unknown(0, a));
        Some(vec![Type::new(x.dtype, shape)])
    })
}

fn exact_dft(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    want_float(x.dtype)?;
    let (inverse, onesided) = (ctx.attrs.flag("inverse"), ctx.attrs.flag("onesided"));
    if onesided && is_complex(x)? != inverse {
        return Err(type_error(format!("the data is {x}"))
            .hint("a one-sided transform takes real data, its inverse complex data"));
    }
    is_complex(x)?;
    let axis = match size(ctx, 2)? {
        None => -2,
        Some(axis) => axis.as_known().ok_or_else(data_dependent)?,
    };
    let axis = dft_axis(axis, x.rank())?;
    let have = x.shape[axis].clone();
    let default = if inverse && onesided { (have.clone() - Dim::known(1)) * Dim::known(2) } else { have };
    let n = length(size(ctx, 1)?.unwrap_or(default))?;
    let mut shape = x.shape.clone();
    shape[axis] = if onesided && !inverse { bins(&n) } else { n };
    shape[x.rank() - 1] = if inverse && onesided { 1.into() } else { 2.into() };
    Ok(vec![Type::new(x.dtype, shape)])
}

/// Frequencies of a one-sided transform.
fn bins(n: &Dim) -> Dim {
    n.floor_div(&Dim::known(2)) + Dim::known(1)
}

/// Element `i` of complex data, or of real data with one part.
fn element(x: &[f64], parts: usize, i: usize) -> Complex {
    (x[i * parts], if parts == 2 { x[i * 2 + 1] } else { 0.0 })
}

/// The whole spectrum of a real signal of `n` from its first half; the imaginary parts of the two frequencies
/// that are their own mirror images do not count.
fn mirrored(half: &[Complex], n: usize) -> Vec<Complex> {
    let at = |k: usize| half.get(k).copied().unwrap_or_default();
    let whole = |k: usize| match k {
        k if k == 0 || 2 * k == n => (at(k).0, 0.0),
        k if 2 * k < n => at(k),
        _ => (at(n - k).0, -at(n - k).1),
    };
    (0..n).map(whole).collect()
}

/// The only integer of an optional operand.
fn int(ctx: &EvalCtx, n: usize) -> Option<i64> {
    optional(ctx, n)?.to_i64s().first().copied()
}

fn eval_dft(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_dft)?;
    let x = tensor(ctx, 0)?;
    let (inverse, onesided) = (ctx.attrs.flag("inverse"), ctx.attrs.flag("onesided"));
    let (last, axis) = (x.rank() - 1, dft_axis(int(ctx, 2).unwrap_or(-2), x.rank())?);
    let default = if onesided && !inverse { x.shape()[axis] } else { shape[axis] };
    let n = int(ctx, 1).map_or(default, |n| usize::try_from(n).unwrap_or(0));
    let (from, to) =
        (Lines::new(&x.shape()[..last], axis, axis + 1), Lines::new(&shape[..last], axis, axis + 1));
    let (values, parts, result_parts) = (x.to_f64s(), x.shape()[last], shape[last]);
    let fourier = Fourier::new(n, inverse);
    let scale = if inverse { 1.0 / n as f64 } else { 1.0 };
    let mut y = vec![0.0; to.count() * to.len * result_parts];
    for line in 0..to.count() {
        let mut signal: Vec<Complex> = from.line(line).map(|i| element(&values, parts, i)).collect();
        if inverse && onesided {
            signal = mirrored(&signal, n);
        }
        signal.resize(n, (0.0, 0.0));
        for (i, (re, im)) in to.line(line).zip(fourier.transform(&signal)) {
            y[i * result_parts] = re * scale;
            if result_parts == 2 {
                y[i * 2 + 1] = im * scale;
            }
        }
    }
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// Length of the frames of `stft`: an operand, the window's, or the whole signal.
fn frame_length(ctx: &InferCtx) -> Result<Dim, Diag> {
    let (signal, window) = (input(ctx, 0)?, optional_type(ctx, 2));
    if let Some(w) = window
        && (w.rank() != 1 || w.dtype != signal.dtype)
    {
        let text = format!("the window is {w}, a list of {} is wanted", signal.dtype.name());
        return Err(type_error(text));
    }
    let stated = size(ctx, 3)?;
    if let (Some(n), Some(w)) = (&stated, window) {
        same_dim(n, &w.shape[0], "frame_length and the length of the window")?;
    }
    let all = || window.map_or_else(|| signal.shape[1].clone(), |w| w.shape[0].clone());
    length(stated.unwrap_or_else(all))
}

fn infer_stft(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    or_unknown(exact_stft(ctx), || {
        let signal = input(ctx, 0).ok()?;
        let shape = [signal.shape.first()?.clone(), Dim::unknown(0, 1), Dim::unknown(0, 2), 2.into()];
        Some(vec![Type::new(signal.dtype, shape)])
    })
}

fn exact_stft(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let signal = input(ctx, 0)?;
    want_float(signal.dtype)?;
    if signal.rank() != 3 {
        return Err(type_error(format!("the signal is {signal}")).hint("[batch, length, 1 or 2] is wanted"));
    }
    let onesided = ctx.attrs.int_or("onesided", 1) != 0;
    // Of a complex signal, which has no symmetry, one-sided means just the first half of the frequencies.
    is_complex(signal)?;
    let step = length(size(ctx, 1)?.ok_or_else(|| type_error("operand 1 is missing"))?)?;
    let n = frame_length(ctx)?;
    let room = signal.shape[1].clone() - n.clone();
    if room.as_known().is_some_and(|r| r < 0) {
        return Err(type_error(format!("a frame has {n} elements, the signal {}", signal.shape[1])));
    }
    let frames = room.floor_div(&step) + Dim::known(1);
    let n_bins = if onesided { bins(&n) } else { n };
    Ok(vec![Type::new(signal.dtype, vec![signal.shape[0].clone(), frames, n_bins, 2.into()])])
}

fn eval_stft(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_stft)?;
    let signal = tensor(ctx, 0)?;
    let (values, parts, len) = (signal.to_f64s(), signal.shape()[2], signal.shape()[1]);
    let window = optional(ctx, 2).map(Tensor::to_f64s);
    let stated = int(ctx, 3).and_then(|n| usize::try_from(n).ok());
    let n = stated.or(window.as_ref().map(Vec::len)).unwrap_or(len);
    let step = int(ctx, 1).and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
    let fourier = Fourier::new(n, false);
    let mut y = Vec::with_capacity(shape.iter().product());
    for batch in 0..shape[0] {
        for frame in 0..shape[1] {
            let weighted = |i: usize| {
                let (re, im) = element(&values, parts, batch * len + frame * step + i);
                let w = window.as_ref().map_or(1.0, |w| w[i]);
                (re * w, im * w)
            };
            let signal: Vec<Complex> = (0..n).map(weighted).collect();
            y.extend(fourier.transform(&signal).into_iter().take(shape[2]).flat_map(|c| [c.0, c.1]));
        }
    }
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// About five operations an element and doubling of the length.
fn work_fourier(ctx: &WorkCtx) -> Work {
    let n = crate::common::n_out(ctx);
    let longest = ctx.outputs.iter().flat_map(|(_, s)| s).copied().max().unwrap_or(1);
    work(ctx, 5.0 * n * (longest as f64 + 1.0).log2(), WorkKind::Vector)
}

fn sample_dft(rng: &mut Rng) -> Sample {
    let (inverse, onesided) = (rng.int(0, 1), rng.int(0, 1));
    let rank = 2 + rng.below(3);
    let mut shape: Vec<usize> = (0..rank).map(|_| 2 + rng.below(6)).collect();
    shape[rank - 1] = if onesided == 1 { 1 + inverse as usize } else { 1 + rng.below(2) };
    let dtype = float(rng);
    let mut inputs = vec![Some(rng.tensor(dtype, &shape, -3.0, 3.0))];
    let length = (rng.below(2) == 0).then(|| Tensor::scalar(rng.int(1, 9)));
    if rng.below(2) == 0 {
        let axis = rng.below(rank - 1) as i64;
        inputs.extend([length, Some(Tensor::scalar(axis - rank as i64 * rng.int(0, 1)))]);
    } else if length.is_some() {
        inputs.push(length);
    }
    let attrs = Attrs::new().with("inverse", inverse).with("onesided", onesided);
    Sample { attrs, inputs, n_outputs: 1 }
}

fn sample_stft(rng: &mut Rng) -> Sample {
    let (onesided, n, parts) = (rng.int(0, 1), 1 + rng.below(6), 1 + rng.below(2));
    let dtype = float(rng);
    let shape = [1 + rng.below(2), n + rng.below(9), parts];
    let signal = rng.tensor(dtype, &shape, -3.0, 3.0);
    let mut inputs = vec![Some(signal), Some(Tensor::scalar(rng.int(1, 4)))];
    match rng.below(4) {
        0 => inputs.push(Some(rng.tensor(dtype, &[n], 0.0, 1.0))),
        1 => inputs.extend([None, Some(Tensor::scalar(n as i64))]),
        2 => inputs.extend([Some(rng.tensor(dtype, &[n], 0.0, 1.0)), Some(Tensor::scalar(n as i64))]),
        _ => {}
    }
    Sample { attrs: Attrs::new().with("onesided", onesided), inputs, n_outputs: 1 }
}
