//! Steps of training: one update of any number of tensors from their gradients.

use crate::common::{
    PLAIN, at_least, attr, attr_error, from_f64s, input, n_out, required, tensor, type_error, work,
};
use crate::eval::want_float;
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OnnxName, OpDef, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::work::WorkKind;
use partita_ir::{DType, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&ADAGRAD, &ADAM, &MOMENTUM];

/// A name in ONNX's preview of training.
const fn training(op_type: &'static str) -> OnnxName {
    OnnxName { domain: "ai.onnx.preview.training", op_type, since: 1 }
}

static ADAGRAD: OpDef = OpDef {
    name: "adagrad",
    doc: "One step of AdaGrad: new tensors, then their new sums of squared gradients.",
    onnx: &[training("Adagrad")],
    // The rate, the number of steps done, and three tensors for each that is trained.
    inputs: at_least(5),
    outputs: at_least(2),
    attrs: &[
        attr("decay_factor", AttrKind::Float),
        attr("epsilon", AttrKind::Float),
        attr("norm_coefficient", AttrKind::Float),
    ],
    traits: PLAIN,
    infer: |c| infer_step(c, 1),
    content: None,
    eval: |c| step(c, 1, adagrad),
    scalar: None,
    data: None,
    work: |c| work(c, 8.0 * n_out(c) * c.outputs.len() as f64, WorkKind::Vector),
    sample: |rng| sample_step(rng, 1, &["decay_factor", "epsilon", "norm_coefficient"]),
};

static ADAM: OpDef = OpDef {
    name: "adam",
    doc: "One step of Adam: new tensors, then their new averages of gradients, then of squared gradients.",
    onnx: &[training("Adam")],
    inputs: at_least(6),
    outputs: at_least(3),
    attrs: &[
        attr("alpha", AttrKind::Float),
        attr("beta", AttrKind::Float),
        attr("epsilon", AttrKind::Float),
        attr("norm_coefficient", AttrKind::Float),
        attr("norm_coefficient_post", AttrKind::Float),
    ],
    infer: |c| infer_step(c, 2),
    eval: |c| step(c, 2, adam),
    sample: |rng| sample_step(rng, 2, &["alpha", "beta", "norm_coefficient", "norm_coefficient_post"]),
    ..ADAGRAD
};

static MOMENTUM: OpDef = OpDef {
    name: "momentum",
    doc: "One step of gradient descent with momentum: new tensors, then their new momentums.",
    onnx: &[training("Momentum")],
    attrs: &[
        required("alpha", AttrKind::Float),
        required("beta", AttrKind::Float),
        required("mode", AttrKind::Str),
        required("norm_coefficient", AttrKind::Float),
    ],
    infer: |c| {
        nesterov(c.attrs)?;
        infer_step(c, 1)
    },
    eval: |c| step(c, 1, momentum),
    sample: |rng| {
        let mut sample = sample_step(rng, 1, &[]);
        for name in ["alpha", "beta", "norm_coefficient"] {
            sample.attrs.set(name, rng.float(0.1, 0.9) as f32);
        }
        sample.attrs.set("mode", *rng.pick(&["standard", "nesterov"]));
        sample
    },
    ..ADAGRAD
};

fn nesterov(attrs: &Attrs) -> Result<bool, Diag> {
    match attrs.str("mode") {
        Some("nesterov") => Ok(true),
        Some("standard") => Ok(false),
        other => Err(attr_error(format!("mode is {other:?}")).hint("use \"standard\" or \"nesterov\"")),
    }
}

/// How many tensors are trained, when each has a gradient and `n_states` tensors of state.
fn n_trained(n_operands: usize, n_states: usize) -> Result<usize, Diag> {
    let n = n_operands.saturating_sub(2);
    if n == 0 || !n.is_multiple_of(n_states + 2) {
        let text = format!("{n} tensors do not divide into groups of {}", n_states + 2);
        return Err(type_error(text).hint("every trained tensor needs its gradient and its state"));
    }
    Ok(n / (n_states + 2))
}

/// Results are the new tensors and their new states.
fn infer_step(ctx: &InferCtx, n_states: usize) -> Result<Vec<Type>, Diag> {
    let n = n_trained(ctx.inputs.len(), n_states)?;
    want_float(input(ctx, 0)?.dtype)?;
    for k in 0..2 {
        let ty = input(ctx, k)?;
        if ty.n_elements().as_known().is_some_and(|n| n != 1) {
            return Err(type_error(format!("operand {k} is {ty}, a scalar is wanted")));
        }
    }
    let mut types = Vec::new();
    for k in 0..n {
        let x = input(ctx, 2 + k)?;
        want_float(x.dtype)?;
        for other in 1..n_states + 2 {
            let ty = input(ctx, 2 + other * n + k)?;
            let fits = ty.rank() == x.rank()
                && ty.shape.iter().zip(&x.shape).all(|(a, b)| crate::eval::may_equal(a, b));
            if ty.dtype != x.dtype || !fits {
                return Err(type_error(format!("a gradient or state is {ty}, its tensor is {x}")));
            }
        }
        types.push(x.clone());
    }
    Ok(std::iter::repeat_n(types, n_states + 1).flatten().collect())
}

/// What an update of one element is given: rate, steps done, attributes, and value, gradient and states.
struct Update<'a> {
    rate: f64,
    count: f64,
    attrs: &'a Attrs,
}

impl Update<'_> {
    fn param(&self, name: &str, default: f32) -> f64 {
        f64::from(self.attrs.float_or(name, default))
    }

    /// The gradient with that of `norm_coefficient / 2 * |x|^2`.
    fn gradient(&self, at: &[f64]) -> f64 {
        self.param("norm_coefficient", 0.0) * at[0] + at[1]
    }
}

/// Runs `update` on every element of every tensor: from value, gradient and states to value and states.
fn step(
    ctx: &EvalCtx,
    n_states: usize,
    update: fn(&Update, &[f64]) -> Vec<f64>,
) -> Result<Vec<Tensor>, Diag> {
    let types =
        crate::eval::results(ctx, if n_states == 1 { |c| infer_step(c, 1) } else { |c| infer_step(c, 2) })?;
    let n = n_trained(ctx.inputs.len(), n_states)?;
    let scalar = |k: usize| Ok::<f64, Diag>(tensor(ctx, k)?.to_scalar_f64().unwrap_or(0.0));
    let what = Update { rate: scalar(0)?, count: scalar(1)?, attrs: ctx.attrs };
    let mut results: Vec<Option<Tensor>> = vec![None; types.len()];
    for k in 0..n {
        let columns: Vec<Vec<f64>> = (0..n_states + 2)
            .map(|j| Ok(tensor(ctx, 2 + j * n + k)?.to_f64s()))
            .collect::<Result<_, Diag>>()?;
        let mut new = vec![Vec::with_capacity(columns[0].len()); n_states + 1];
        for i in 0..columns[0].len() {
            let at: Vec<f64> = columns.iter().map(|c| c[i]).collect();
            update(&what, &at).into_iter().zip(&mut new).for_each(|(v, column)| column.push(v));
        }
        for (j, column) in new.iter().enumerate() {
            let (dtype, shape) = &types[j * n + k];
            results[j * n + k] = Some(from_f64s(*dtype, shape, column)?);
        }
    }
    Ok(results.into_iter().flatten().collect())
}

fn adagrad(u: &Update, at: &[f64]) -> Vec<f64> {
    let rate = u.rate / (1.0 + u.count * u.param("decay_factor", 0.0));
    let g = u.gradient(at);
    let h = at[2] + g * g;
    vec![at[0] - rate * g / (h.sqrt() + u.param("epsilon", 1e-6)), h]
}

fn adam(u: &Update, at: &[f64]) -> Vec<f64> {
    let (alpha, beta) = (u.param("alpha", 0.9), u.param("beta", 0.999));
    let g = u.gradient(at);
    let v = alpha * at[2] + (1.0 - alpha) * g;
    let h = beta * at[3] + (1.0 - beta) * g * g;
    // Averages that started at zero are too small at first.
    let bias = (1.0 - libm::pow(beta, u.count)).sqrt() / (1.0 - libm::pow(alpha, u.count));
    let rate = if u.count > 0.0 { u.rate * bias } else { u.rate };
    let x = at[0] - rate * v / (h.sqrt() + u.param("epsilon", 1e-6));
    vec![(1.0 - u.param("norm_coefficient_post", 0.0)) * x, v, h]
}

fn momentum(u: &Update, at: &[f64]) -> Vec<f64> {
    let alpha = u.param("alpha", 0.0);
    let beta = if u.count > 0.0 { u.param("beta", 0.0) } else { 1.0 };
    let g = u.gradient(at);
    let v = alpha * at[2] + beta * g;
    let direction = if u.attrs.str("mode") == Some("nesterov") { g + alpha * v } else { v };
    vec![at[0] - u.rate * direction, v]
}

/// One to three tensors with gradient and states; each attribute in `params` is set half the time.
fn sample_step(rng: &mut Rng, n_states: usize, params: &[&str]) -> Sample {
    let n = 1 + rng.below(3);
    let dtype = *rng.pick(&[DType::F32, DType::F32, DType::F64]);
    let shapes: Vec<Vec<usize>> = (0..n).map(|_| crate::samples::shape(rng)).collect();
    let mut inputs = vec![Some(Tensor::scalar(0.1f32)), Some(Tensor::scalar(rng.int(0, 3)))];
    for column in 0..n_states + 2 {
        // States may be sums of squares.
        let low = if column < 2 { -2.0 } else { 0.0 };
        inputs.extend(shapes.iter().map(|s| Some(rng.tensor(dtype, s, low, 2.0))));
    }
    let mut attrs = Attrs::new();
    for name in params {
        if rng.below(2) == 0 {
            attrs.set(name, rng.float(0.1, 0.9) as f32);
        }
    }
    Sample { attrs, inputs, n_outputs: n * (n_states + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_step_of_adam_is_the_rate() {
        let attrs = Attrs::new().with("epsilon", 0.0f32);
        let update = Update { rate: 0.5, count: 1.0, attrs: &attrs };
        let new = adam(&update, &[3.0, 7.0, 0.0, 0.0]);
        assert!((new[0] - 2.5).abs() < 1e-9, "{new:?}");
    }

    #[test]
    fn groups_must_be_complete() {
        assert_eq!(n_trained(8, 1).unwrap(), 2);
        assert_eq!(n_trained(7, 1).unwrap_err().code, "V020");
        assert_eq!(n_trained(2, 1).unwrap_err().code, "V020");
    }
}
