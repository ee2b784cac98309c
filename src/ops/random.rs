//! Operators that draw random numbers: normal, uniform, yes or no, and one of several.
//!
//! The numbers depend only on the attribute `seed` (cut to a whole number of 32 bits) and are the same on every
//! machine; without a seed they are those of `DEFAULT_SEED`. All rows have the trait `random`: two nodes are never
//! merged, and nothing is folded.

use crate::common::{
    PLAIN, attr, attr_error, exactly, from_f64s, input, n_out, onnx, required, sample_shape, tensor,
    type_error, work,
};
use crate::eval::{result, want_float};
use crate::softmax::softmax;
use crate::twister::Twister;
use partita_ir::attr::{Attr, Attrs};
use partita_ir::diag::Diag;
use partita_ir::op::{AttrDef, AttrKind, EvalCtx, InferCtx, InferFn, OpDef, Rng, Sample, Traits};
use partita_ir::types::Type;
use partita_ir::work::WorkKind;
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] =
    &[&BERNOULLI, &MULTINOMIAL, &RANDOM_NORMAL, &RANDOM_NORMAL_LIKE, &RANDOM_UNIFORM, &RANDOM_UNIFORM_LIKE];

/// The seed of nodes that state none.
pub(crate) const DEFAULT_SEED: u32 = 0;

/// Draws random numbers.
pub(crate) const RANDOM: Traits = Traits { random: true, ..PLAIN };

static RANDOM_NORMAL: OpDef = OpDef {
    name: "random_normal",
    doc: "Normal random numbers with the given mean and deviation (`scale`).",
    onnx: &[onnx("RandomNormal", 1)],
    inputs: exactly(0),
    outputs: exactly(1),
    attrs: &[
        attr("dtype", AttrKind::DType),
        attr("mean", AttrKind::Float),
        attr("scale", AttrKind::Float),
        attr("seed", AttrKind::Float),
        required("shape", AttrKind::Dims),
    ],
    traits: RANDOM,
    infer: infer_shaped,
    content: None,
    eval: |c| normal(c, infer_shaped),
    scalar: None,
    data: None,
    work: |c| work(c, 20.0 * n_out(c), WorkKind::Vector),
    sample: |rng| sample_shaped(rng, ("mean", "scale")),
};

static RANDOM_NORMAL_LIKE: OpDef = OpDef {
    name: "random_normal_like",
    doc: "Normal random numbers in the shape of the operand.",
    onnx: &[onnx("RandomNormalLike", 1)],
    inputs: exactly(1),
    attrs: &LIKE_NORMAL,
    infer: infer_like,
    eval: |c| normal(c, infer_like),
    sample: |rng| sample_like(rng, ("mean", "scale")),
    ..RANDOM_NORMAL
};

const LIKE_NORMAL: [AttrDef; 4] = [
    attr("dtype", AttrKind::DType),
    attr("mean", AttrKind::Float),
    attr("scale", AttrKind::Float),
    attr("seed", AttrKind::Float),
];

static RANDOM_UNIFORM: OpDef = OpDef {
    name: "random_uniform",
    doc: "Random numbers uniform in `low`..`high`.",
    onnx: &[onnx("RandomUniform", 1)],
    attrs: &[
        attr("dtype", AttrKind::DType),
        attr("high", AttrKind::Float),
        attr("low", AttrKind::Float),
        attr("seed", AttrKind::Float),
        required("shape", AttrKind::Dims),
    ],
    eval: |c| uniform(c, infer_shaped),
    sample: |rng| sample_shaped(rng, ("low", "high")),
    ..RANDOM_NORMAL
};

static RANDOM_UNIFORM_LIKE: OpDef = OpDef {
    name: "random_uniform_like",
    doc: "Random numbers uniform in `low`..`high` in the shape of the operand.",
    onnx: &[onnx("RandomUniformLike", 1)],
    inputs: exactly(1),
    attrs: &[
        attr("dtype", AttrKind::DType),
        attr("high", AttrKind::Float),
        attr("low", AttrKind::Float),
        attr("seed", AttrKind::Float),
    ],
    infer: infer_like,
    eval: |c| uniform(c, infer_like),
    sample: |rng| sample_like(rng, ("low", "high")),
    ..RANDOM_NORMAL
};

static BERNOULLI: OpDef = OpDef {
    name: "bernoulli",
    doc: "1 with the probability that the operand states, else 0.",
    onnx: &[onnx("Bernoulli", 15)],
    inputs: exactly(1),
    attrs: &[attr("dtype", AttrKind::DType), attr("seed", AttrKind::Float)],
    infer: |c| {
        let x = input(c, 0)?;
        want_float(x.dtype)?;
        Ok(vec![Type::new(c.attrs.dtype("dtype").unwrap_or(x.dtype), x.shape.clone())])
    },
    eval: eval_bernoulli,
    sample: |rng| {
        let (dtype, shape) = (crate::samples::float(rng), crate::samples::shape(rng));
        let mut attrs = sample_seed(rng);
        if rng.below(2) == 0 {
            let to = *rng.pick(&[DType::Bool, DType::I32, DType::F64, DType::U8]);
            attrs.set("dtype", to);
        }
        Sample { attrs, inputs: vec![Some(rng.tensor(dtype, &shape, 0.0, 1.0))], n_outputs: 1 }
    },
    ..RANDOM_NORMAL
};

static MULTINOMIAL: OpDef = OpDef {
    name: "multinomial",
    doc: "Classes drawn for each row of unnormalised log-probabilities.",
    onnx: &[onnx("Multinomial", 7)],
    inputs: exactly(1),
    attrs: &[
        attr("dtype", AttrKind::DType),
        attr("sample_size", AttrKind::Int),
        attr("seed", AttrKind::Float),
    ],
    infer: infer_multinomial,
    eval: eval_multinomial,
    sample: |rng| {
        let (dtype, shape) = (crate::samples::float(rng), sample_shape(rng, 2));
        let mut attrs = sample_seed(rng).with("sample_size", rng.int(1, 5));
        if rng.below(2) == 0 {
            attrs.set("dtype", *rng.pick(&[DType::I32, DType::I64]));
        }
        Sample { attrs, inputs: vec![Some(rng.tensor(dtype, &shape, -2.0, 2.0))], n_outputs: 1 }
    },
    ..RANDOM_NORMAL
};

/// The stream of a node's attribute `seed`, an integer or a float.
pub(crate) fn stream(attrs: &Attrs) -> Twister {
    Twister::new(match attrs.get("seed") {
        Some(Attr::Int(seed)) => *seed as u32,
        Some(Attr::Float(seed)) => *seed as i64 as u32,
        _ => DEFAULT_SEED,
    })
}

fn infer_shaped(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let dtype = ctx.attrs.dtype("dtype").unwrap_or(DType::F32);
    want_float(dtype)?;
    let shape = ctx.attrs.dims("shape").ok_or_else(|| attr_error("shape is missing"))?;
    if let Some(dim) = shape.iter().find(|d| d.as_known().is_some_and(|d| d < 0)) {
        return Err(attr_error(format!("a size of the shape is {dim}")));
    }
    Ok(vec![Type::new(dtype, shape)])
}

fn infer_like(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    let dtype = ctx.attrs.dtype("dtype").unwrap_or(x.dtype);
    want_float(dtype)?;
    Ok(vec![Type::new(dtype, x.shape.clone())])
}

/// A result of numbers that `draw` makes one after the other.
fn drawn(ctx: &EvalCtx, infer: InferFn, draw: impl Fn(&mut Twister) -> f64) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer)?;
    let n = partita_ir::tensor::n_elements(&shape).unwrap_or(0);
    let mut stream = stream(ctx.attrs);
    let y: Vec<f64> = (0..n).map(|_| draw(&mut stream)).collect();
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

fn normal(ctx: &EvalCtx, infer: InferFn) -> Result<Vec<Tensor>, Diag> {
    let param = |name: &str, default: f32| f64::from(ctx.attrs.float_or(name, default));
    let (mean, scale) = (param("mean", 0.0), param("scale", 1.0));
    drawn(ctx, infer, |s| mean + scale * s.normal())
}

fn uniform(ctx: &EvalCtx, infer: InferFn) -> Result<Vec<Tensor>, Diag> {
    let param = |name: &str, default: f32| f64::from(ctx.attrs.float_or(name, default));
    let (low, high) = (param("low", 0.0), param("high", 1.0));
    drawn(ctx, infer, |s| low + (high - low) * s.uniform())
}

fn eval_bernoulli(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let x = tensor(ctx, 0)?;
    let dtype = result(ctx, BERNOULLI.infer)?.0;
    let mut stream = stream(ctx.attrs);
    let mut draw = |p: f64| {
        // Impossible outcomes draw no number.
        let yes = p > 0.0 && if p <= 0.5 { stream.uniform() > 1.0 - p } else { stream.uniform() <= p };
        f64::from(u8::from(yes))
    };
    let y: Vec<f64> = x.to_f64s().into_iter().map(&mut draw).collect();
    Ok(vec![from_f64s(dtype, x.shape(), &y)?])
}

fn infer_multinomial(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    want_float(x.dtype)?;
    let (dtype, n) = (ctx.attrs.dtype("dtype").unwrap_or(DType::I32), ctx.attrs.int_or("sample_size", 1));
    if x.rank() != 2 || x.shape[1].is(0) {
        return Err(type_error(format!("the log-probabilities are {x}, rows of classes are wanted")));
    }
    if n < 0 || !matches!(dtype, DType::I32 | DType::I64) {
        return Err(attr_error(format!("{n} samples of {} are asked for", dtype.name()))
            .hint("classes are i32 or i64, and sample_size is not negative"));
    }
    Ok(vec![Type::new(dtype, [x.shape[0].clone(), Dim::known(n)])])
}

fn eval_multinomial(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_multinomial)?;
    let x = tensor(ctx, 0)?;
    let mut stream = stream(ctx.attrs);
    let mut classes = Vec::new();
    for row in x.to_f64s().chunks(x.shape()[1]) {
        let mut total = 0.0;
        let bounds: Vec<f64> = softmax(row)
            .into_iter()
            .map(|p| {
                total += p;
                total
            })
            .collect();
        for _ in 0..shape[1] {
            let at = stream.uniform() * total;
            let class = bounds.iter().position(|&b| at < b).unwrap_or(row.len() - 1);
            classes.push(class as f64);
        }
    }
    Ok(vec![from_f64s(dtype, &shape, &classes)?])
}

fn sample_seed(rng: &mut Rng) -> Attrs {
    match rng.below(3) {
        0 => Attrs::new(),
        _ => Attrs::new().with("seed", rng.below(1000) as f32),
    }
}

fn sample_params(rng: &mut Rng, names: (&str, &str)) -> Attrs {
    let mut attrs = sample_seed(rng);
    if rng.below(2) == 0 {
        attrs.set(names.0, rng.float(-2.0, 0.0) as f32);
        attrs.set(names.1, rng.float(0.5, 2.0) as f32);
    }
    if rng.below(2) == 0 {
        attrs.set("dtype", crate::samples::float(rng));
    }
    attrs
}

fn sample_shaped(rng: &mut Rng, names: (&str, &str)) -> Sample {
    let shape: Vec<i64> = crate::samples::shape(rng).iter().map(|&d| d as i64).collect();
    Sample { attrs: sample_params(rng, names).with("shape", shape), inputs: vec![], n_outputs: 1 }
}

fn sample_like(rng: &mut Rng, names: (&str, &str)) -> Sample {
    let (dtype, shape) = (crate::samples::float(rng), crate::samples::shape(rng));
    let x = crate::samples::values(rng, dtype, &shape);
    Sample { attrs: sample_params(rng, names), inputs: vec![Some(x)], n_outputs: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: usize = 40_000;

    fn numbers(row: &OpDef, attrs: Attrs, inputs: &[Option<&Tensor>]) -> Vec<f64> {
        (row.eval)(&EvalCtx { attrs: &attrs, inputs, n_outputs: 1 }).unwrap().remove(0).to_f64s()
    }

    fn moments(x: &[f64]) -> (f64, f64) {
        crate::norm::moments(x)
    }

    /// Three deviations of the mean of `N` numbers are 0.015 of their own.
    #[test]
    fn distributions_are_as_stated() {
        let shape = Attrs::new().with("shape", vec![N as i64]).with("seed", 7.0f32);
        let x = numbers(&RANDOM_NORMAL, shape.clone().with("mean", 3.0f32).with("scale", 2.0f32), &[]);
        let (mean, variance) = moments(&x);
        assert!((mean - 3.0).abs() < 0.03 && (variance - 4.0).abs() < 0.1, "{mean} {variance}");
        let within = x.iter().filter(|v| (*v - 3.0).abs() < 2.0).count() as f64 / N as f64;
        assert!((within - 0.6827).abs() < 0.01, "{within}");
        let x = numbers(&RANDOM_UNIFORM, shape.with("low", -1.0f32).with("high", 3.0f32), &[]);
        let (mean, variance) = moments(&x);
        assert!(x.iter().all(|v| (-1.0..3.0).contains(v)));
        assert!((mean - 1.0).abs() < 0.02 && (variance - 16.0 / 12.0).abs() < 0.03, "{mean} {variance}");
    }

    #[test]
    fn draws_have_their_probabilities() {
        for p in [0.0, 0.1, 0.5, 0.8, 1.0] {
            let x = Tensor::from_f64s(DType::F64, &[N], &[p; N]).unwrap();
            let (mean, _) = moments(&numbers(&BERNOULLI, Attrs::new().with("seed", 3.0f32), &[Some(&x)]));
            assert!((mean - p).abs() < 0.01, "{p}: {mean}");
        }
        let x = Tensor::from_f64s(DType::F64, &[1, 3], &[0.0, f64::ln(2.0), f64::ln(5.0)]).unwrap();
        let attrs = Attrs::new().with("sample_size", N as i64);
        let classes = numbers(&MULTINOMIAL, attrs, &[Some(&x)]);
        for (class, p) in [(0.0, 0.125), (1.0, 0.25), (2.0, 0.625)] {
            let share = classes.iter().filter(|c| **c == class).count() as f64 / N as f64;
            assert!((share - p).abs() < 0.01, "{class}: {share}");
        }
    }

    #[test]
    fn seeds_decide() {
        let attrs = |seed: f32| Attrs::new().with("shape", vec![8i64]).with("seed", seed);
        let x = numbers(&RANDOM_NORMAL, attrs(1.0), &[]);
        assert_eq!(x, numbers(&RANDOM_NORMAL, attrs(1.0), &[]));
        assert_ne!(x, numbers(&RANDOM_NORMAL, attrs(2.0), &[]));
        let default = numbers(&RANDOM_NORMAL, Attrs::new().with("shape", vec![8i64]), &[]);
        assert_eq!(default, numbers(&RANDOM_NORMAL, attrs(DEFAULT_SEED as f32), &[]));
    }
}
