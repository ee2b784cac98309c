//! What spectra are weighted with: window functions, and the matrix that sums frequencies on the mel scale.

use crate::common::{PLAIN, attr, attr_error, exactly, from_f64s, input, onnx, tensor, type_error, work};
use crate::content;
use crate::eval::result;
use partita_ir::attr::{Attr, Attrs};
use partita_ir::diag::Diag;
use partita_ir::op::{AttrDef, AttrKind, EvalCtx, EvalFn, InferCtx, OnnxName, OpDef, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::work::WorkKind;
use partita_ir::{DType, Dim, Tensor};
use std::f64::consts::PI;

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&BLACKMAN, &HAMMING, &HANN, &MEL];

static HANN: OpDef = row("hann_window", "sin(pi i / n)^2", &[onnx("HannWindow", 17)], |c| {
    eval_window(c, |turn| {
        let sin = libm::sin(PI * turn);
        sin * sin
    })
});

static HAMMING: OpDef =
    row("hamming_window", "25/46 - 21/46 cos(2 pi i / n)", &[onnx("HammingWindow", 17)], |c| {
        const ALPHA: f64 = 25.0 / 46.0;
        eval_window(c, |turn| ALPHA - libm::cos(2.0 * PI * turn) * (1.0 - ALPHA))
    });

static BLACKMAN: OpDef = row(
    "blackman_window",
    "0.42 - 0.5 cos(2 pi i / n) + 0.08 cos(4 pi i / n)",
    &[onnx("BlackmanWindow", 17)],
    |c| eval_window(c, |turn| 0.42 + (0.08 * libm::cos(4.0 * PI * turn) - 0.5 * libm::cos(2.0 * PI * turn))),
);

const ATTRS: &[AttrDef] = &[attr("output_datatype", AttrKind::DType), attr("periodic", AttrKind::Int)];

const fn row(name: &'static str, doc: &'static str, onnx: &'static [OnnxName], eval: EvalFn) -> OpDef {
    OpDef {
        name,
        doc,
        onnx,
        inputs: exactly(1),
        outputs: exactly(1),
        attrs: ATTRS,
        traits: PLAIN,
        infer: infer_window,
        content: None,
        eval,
        scalar: None,
        data: None,
        work: |c| work(c, 16.0 * crate::common::n_out(c), WorkKind::Vector),
        sample: sample_window,
    }
}

static MEL: OpDef = OpDef {
    inputs: exactly(5),
    attrs: &[attr("output_datatype", AttrKind::DType)],
    infer: infer_mel,
    work: |c| work(c, crate::common::n_out(c), WorkKind::Vector),
    sample: sample_mel,
    ..row(
        "mel_weight_matrix",
        "Triangles on the mel scale, one a column, that sum the frequencies of a spectrum.",
        &[onnx("MelWeightMatrix", 17)],
        eval_mel,
    )
};

/// The result's element type, which must be a number.
fn result_dtype(attrs: &Attrs) -> Result<DType, Diag> {
    match attrs.get("output_datatype") {
        None => Ok(DType::F32),
        Some(Attr::DType(d)) if d.is_float() || crate::common::INTS.contains(d) => Ok(*d),
        Some(other) => Err(attr_error(format!("output_datatype is {other:?}, a number is wanted"))),
    }
}

/// The size in a scalar operand, of axis `axis` of the result.
fn size(ctx: &InferCtx, n: usize, axis: usize) -> Result<Dim, Diag> {
    let ty = input(ctx, n)?;
    if !matches!(ty.dtype, DType::I32 | DType::I64) {
        return Err(type_error(format!("operand {n} is {ty}, i32 or i64 is wanted")));
    }
    let dim = content::dim(ctx, n).unwrap_or_else(|| Dim::unknown(0, axis));
    if dim.as_known().is_some_and(|d| d < 0) {
        return Err(attr_error(format!("operand {n} is {dim}, a size is wanted")));
    }
    Ok(dim)
}

fn infer_window(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    Ok(vec![Type::new(result_dtype(ctx.attrs)?, vec![size(ctx, 0, 0)?])])
}

/// `f` of the fraction of the window's length at each element.
fn eval_window(ctx: &EvalCtx, f: impl Fn(f64) -> f64) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_window)?;
    let n = shape[0] as f64;
    let length = if ctx.attrs.int_or("periodic", 1) == 0 { n - 1.0 } else { n };
    let y: Vec<f64> = (0..shape[0]).map(|i| f(i as f64 / length)).collect();
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

fn sample_window(rng: &mut Rng) -> Sample {
    let mut attrs = Attrs::new();
    if rng.below(3) > 0 {
        attrs.set("periodic", rng.int(0, 1));
    }
    if rng.below(2) == 0 {
        let dtype = *rng.pick(&[DType::F32, DType::F64, DType::F16, DType::Bf16, DType::I32, DType::U8]);
        attrs.set("output_datatype", dtype);
    }
    let n = rng.int(2, 12);
    let size = if rng.below(2) == 0 { Tensor::scalar(n) } else { Tensor::scalar(n as i32) };
    Sample { attrs, inputs: vec![Some(size)], n_outputs: 1 }
}

fn infer_mel(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    for n in 2..5 {
        let ty = input(ctx, n)?;
        if ty.n_elements().as_known().is_some_and(|d| d != 1) || ty.dtype.is_float() != (n > 2) {
            return Err(type_error(format!("operand {n} is {ty}, one number is wanted")));
        }
    }
    let spectrum = size(ctx, 1, 0)?.floor_div(&Dim::known(2)) + Dim::known(1);
    Ok(vec![Type::new(result_dtype(ctx.attrs)?, vec![spectrum, size(ctx, 0, 1)?])])
}

/// Hertz to mel and back.
fn mel(hertz: f64) -> f64 {
    2595.0 * libm::log1p(hertz / 700.0) / std::f64::consts::LN_10
}

fn hertz(mel: f64) -> f64 {
    700.0 * libm::expm1(mel / 2595.0 * std::f64::consts::LN_10)
}

/// The frequency of the spectrum that each corner of the triangles falls on.
fn corners(ctx: &EvalCtx, n_bands: usize, n_spectrum: usize) -> Result<Vec<usize>, Diag> {
    let number = |n: usize| {
        tensor(ctx, n)?.to_scalar_f64().ok_or_else(|| type_error(format!("operand {n} must be one number")))
    };
    let (dft_length, rate) = (number(1)?, number(2)?);
    let (low, high) = (mel(number(3)?), mel(number(4)?));
    let step = (high - low) / (n_bands as f64 + 2.0);
    let corner = |i: usize| {
        let at = ((dft_length + 1.0) * hertz(i as f64 * step + low) / rate).floor();
        if (0.0..n_spectrum as f64).contains(&at) {
            return Ok(at as usize);
        }
        Err(attr_error(format!("a mel band ends at {at} of {n_spectrum} frequencies"))
            .hint("the edges must lie between 0 and half the sample rate"))
    };
    (0..n_bands + 2).map(corner).collect()
}

fn eval_mel(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_mel)?;
    let (n_spectrum, n_bands) = (shape[0], shape[1]);
    let corners = corners(ctx, n_bands, n_spectrum)?;
    let mut y = vec![0.0; n_spectrum * n_bands];
    for (band, corner) in corners.windows(3).enumerate() {
        let (low, center, high) = (corner[0], corner[1], corner[2]);
        let mut set = |at: usize, v: f64| y[at * n_bands + band] = v;
        for at in low..center {
            set(at, (at - low) as f64 / (center - low) as f64);
        }
        set(center, 1.0);
        for at in center..high {
            set(at, (high - at) as f64 / (high - center) as f64);
        }
    }
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

fn sample_mel(rng: &mut Rng) -> Sample {
    let mut attrs = Attrs::new();
    if rng.below(2) == 0 {
        attrs.set("output_datatype", *rng.pick(&[DType::F32, DType::F64, DType::F16]));
    }
    let inputs = vec![
        Some(Tensor::scalar(rng.int(1, 12))),
        Some(Tensor::scalar(rng.int(16, 64))),
        Some(Tensor::scalar(8192i64)),
        Some(Tensor::scalar(rng.float(0.0, 500.0) as f32)),
        Some(Tensor::scalar(rng.float(1000.0, 4000.0) as f32)),
    ];
    Sample { attrs, inputs, n_outputs: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_a_window_is_exactly_one() {
        for row in [&HANN, &HAMMING, &BLACKMAN] {
            let size = Tensor::scalar(10i64);
            let attrs = Attrs::new().with("output_datatype", DType::I32);
            let y = (row.eval)(&EvalCtx { attrs: &attrs, inputs: &[Some(&size)], n_outputs: 1 }).unwrap();
            assert_eq!(y[0].to_i64s(), [0, 0, 0, 0, 0, 1, 0, 0, 0, 0], "{}", row.name);
        }
    }
}
