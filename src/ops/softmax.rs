//! Softmax and its relatives along one axis.

use crate::common::{
    PLAIN, attr, axis_of, exactly, from_f64s, input, onnx, sample_of, sample_shape, tensor, work,
};
use crate::eval::{Lines, result, rounding, want_float};
use partita_ir::DType;
use partita_ir::Tensor;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrDef, AttrKind, EvalCtx, EvalFn, InferCtx, OnnxName, OpDef, Rng, Sample, WorkCtx};
use partita_ir::tensor::n_elements;
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&SOFTMAX, &LOG_SOFTMAX, &HARDMAX];

static SOFTMAX: OpDef = row("softmax", "exp(x) / sum(exp(x)) along `axis`", &[onnx("Softmax", 13)], |ctx| {
    along(ctx, rounded_softmax)
});

static LOG_SOFTMAX: OpDef =
    row("log_softmax", "x - log(sum(exp(x))) along `axis`", &[onnx("LogSoftmax", 13)], |ctx| {
        along(ctx, rounded_log_softmax)
    });

static HARDMAX: OpDef =
    row("hardmax", "1 at the first maximum along `axis`, else 0", &[onnx("Hardmax", 13)], |ctx| {
        along(ctx, hardmax)
    });

const ATTRS: &[AttrDef] = &[attr("axis", AttrKind::Int)];

const fn row(name: &'static str, doc: &'static str, onnx: &'static [OnnxName], eval: EvalFn) -> OpDef {
    OpDef {
        name,
        doc,
        onnx,
        inputs: exactly(1),
        outputs: exactly(1),
        attrs: ATTRS,
        traits: PLAIN,
        infer: infer_softmax,
        content: None,
        eval,
        scalar: None,
        data: None,
        work: work_softmax,
        sample: sample_softmax,
    }
}

fn infer_softmax(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    want_float(x.dtype)?;
    axis_of(ctx.attrs.int_or("axis", -1), x.rank())?;
    Ok(vec![x.clone()])
}

/// A function of a line, and of how its element type rounds.
type LineFn = fn(&[f64], fn(f64) -> f64) -> Vec<f64>;

/// The results of a function of a line and of how its element type rounds.
fn along(ctx: &EvalCtx, f: LineFn) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_softmax)?;
    let axis = axis_of(ctx.attrs.int_or("axis", -1), shape.len())?;
    // Wider types gain nothing from their own rounding.
    let round: fn(f64) -> f64 = if dtype.size_bytes() < 4 { rounding(dtype) } else { |v| v };
    let y = Lines::new(&shape, axis, axis + 1).map(&tensor(ctx, 0)?.to_f64s(), |line| f(line, round));
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

fn largest(line: &[f64]) -> f64 {
    line.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// `exp(x) / sum(exp(x))`, shifted by the maximum so that nothing overflows. ONNX defines it as a function of
/// operators of the element type, so halves are rounded at every step.
fn rounded_softmax(line: &[f64], round: fn(f64) -> f64) -> Vec<f64> {
    let max = largest(line);
    let powers: Vec<f64> = line.iter().map(|v| round(libm::exp(round(v - max)))).collect();
    let sum: f64 = round(powers.iter().sum());
    powers.into_iter().map(|p| p / sum).collect()
}

/// `softmax` without rounding on the way.
pub(crate) fn softmax(line: &[f64]) -> Vec<f64> {
    rounded_softmax(line, |v| v)
}

/// `log(softmax(x))` without rounding on the way.
pub(crate) fn log_softmax(line: &[f64]) -> Vec<f64> {
    rounded_log_softmax(line, |v| v)
}

fn rounded_log_softmax(line: &[f64], round: fn(f64) -> f64) -> Vec<f64> {
    let max = largest(line);
    let shifted: Vec<f64> = line.iter().map(|v| round(v - max)).collect();
    let sum: f64 = round(shifted.iter().map(|v| round(libm::exp(*v))).sum());
    let log_sum = round(libm::log(sum));
    shifted.into_iter().map(|v| v - log_sum).collect()
}

fn hardmax(line: &[f64], _: fn(f64) -> f64) -> Vec<f64> {
    let max = largest(line);
    let first = line.iter().position(|v| v.is_nan()).or_else(|| line.iter().position(|&v| v == max));
    (0..line.len()).map(|i| if Some(i) == first { 1.0 } else { 0.0 }).collect()
}

/// Maximum, difference, exponential, sum and division.
fn work_softmax(ctx: &WorkCtx) -> Work {
    const FLOPS_PER_ELEMENT: f64 = 12.0;
    let out = ctx.outputs.first().and_then(|(_, s)| n_elements(s)).unwrap_or(0);
    work(ctx, out as f64 * FLOPS_PER_ELEMENT, WorkKind::Vector)
}

fn sample_softmax(rng: &mut Rng) -> Sample {
    let rank = 1 + rng.below(4);
    let shape = sample_shape(rng, rank);
    let mut sample = sample_of(vec![rng.tensor(DType::F32, &shape, -5.0, 5.0)]);
    if rng.below(3) > 0 {
        sample.attrs.set("axis", rng.int(-(rank as i64), rank as i64 - 1));
    }
    sample
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_to_one() {
        for seed in 0..50 {
            let s = sample_softmax(&mut Rng(seed));
            let x = s.inputs[0].as_ref().unwrap();
            let ctx = EvalCtx { attrs: &s.attrs, inputs: &[Some(x)], n_outputs: 1 };
            let y = along(&ctx, rounded_softmax).unwrap().remove(0).to_f64s();
            let log = along(&ctx, rounded_log_softmax).unwrap().remove(0).to_f64s();
            let axis = axis_of(s.attrs.int_or("axis", -1), x.rank()).unwrap();
            let lines = Lines::new(x.shape(), axis, axis + 1);
            for n in 0..lines.count() {
                let sum: f64 = lines.line(n).map(|i| y[i]).sum();
                assert!((sum - 1.0).abs() < 1e-6, "seed {seed}: {sum}");
            }
            assert!(y.iter().zip(&log).all(|(y, l)| (y.ln() - l).abs() < 1e-4));
        }
    }

    #[test]
    fn large_values_do_not_overflow() {
        assert_eq!(softmax(&[1e300, 1e300]), [0.5, 0.5]);
        assert_eq!(hardmax(&[1.0, 3.0, 3.0], |v| v), [0.0, 1.0, 0.0]);
    }
}
