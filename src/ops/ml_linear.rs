//! `LinearClassifier` and `LinearRegressor`.

use crate::common::{
    PLAIN, attr, attr_error, between, exactly, from_f64s, input, required, sample_of, tensor, type_error,
    unsupported, work,
};
use crate::eval::{result, results};
use crate::ml_common::{
    Labels, ML_NUMBERS, POST_TRANSFORM, Post, Rows, arg_max, floats, ml, round_f32, row_dims, want_dtype,
};
use partita_ir::attr::{Attr, Attrs};
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&LINEAR_CLASSIFIER, &LINEAR_REGRESSOR];

static LINEAR_CLASSIFIER: OpDef = OpDef {
    name: "linear_classifier",
    doc: "scores x * coefficients^T + intercepts, and the class with the highest one",
    onnx: &[ml("LinearClassifier", 1)],
    inputs: exactly(1),
    outputs: between(1, 2),
    attrs: &[
        attr("classlabels_ints", AttrKind::Ints),
        attr("classlabels_strings", AttrKind::Strs),
        required("coefficients", AttrKind::Floats),
        attr("intercepts", AttrKind::Floats),
        attr("multi_class", AttrKind::Int),
        POST_TRANSFORM,
    ],
    traits: PLAIN,
    infer: infer_classifier,
    content: None,
    eval: eval_classifier,
    scalar: None,
    data: None,
    work: work_linear,
    sample: sample_classifier,
};

static LINEAR_REGRESSOR: OpDef = OpDef {
    name: "linear_regressor",
    doc: "x * coefficients^T + intercepts for each target",
    onnx: &[ml("LinearRegressor", 1)],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: &[
        attr("coefficients", AttrKind::Floats),
        attr("intercepts", AttrKind::Floats),
        POST_TRANSFORM,
        attr("targets", AttrKind::Int),
    ],
    traits: PLAIN,
    infer: infer_regressor,
    content: None,
    eval: eval_regressor,
    scalar: None,
    data: None,
    work: work_linear,
    sample: sample_regressor,
};

/// Coefficients of each target, one after the other.
struct Model {
    n_targets: usize,
    n_features: usize,
    coefficients: Vec<f64>,
    intercepts: Vec<f64>,
}

impl Model {
    fn new(attrs: &Attrs, n_targets: usize) -> Result<Self, Diag> {
        let coefficients = floats(attrs, "coefficients").unwrap_or_default();
        let intercepts = floats(attrs, "intercepts").unwrap_or_default();
        if n_targets == 0 || !coefficients.len().is_multiple_of(n_targets) {
            let text = format!("{} coefficients do not fit {n_targets} targets", coefficients.len());
            return Err(attr_error(text).hint("there must be as many for each target as there are features"));
        }
        let intercepts = if intercepts.is_empty() { vec![0.0; n_targets] } else { intercepts };
        if intercepts.len() != n_targets {
            return Err(attr_error(format!("{} intercepts for {n_targets} targets", intercepts.len())));
        }
        Ok(Self { n_targets, n_features: coefficients.len() / n_targets, coefficients, intercepts })
    }

    /// A classifier: as many targets as intercepts, or as coefficients allow for.
    fn classifier(attrs: &Attrs, n_features: Option<i64>) -> Result<Self, Diag> {
        let n_intercepts = floats(attrs, "intercepts").map_or(0, |v| v.len());
        if n_intercepts > 0 {
            return Self::new(attrs, n_intercepts);
        }
        let n_coefficients = floats(attrs, "coefficients").map_or(0, |v| v.len());
        let Some(n_features) = n_features.and_then(|n| usize::try_from(n).ok()) else {
            return Err(unsupported("a classifier without intercepts needs a known number of features"));
        };
        Self::new(attrs, n_coefficients / n_features.max(1))
    }

    fn check(&self, features: &Dim) -> Result<(), Diag> {
        match features.as_known() {
            Some(n) if n != self.n_features as i64 => {
                Err(type_error(format!("the model has {} features, the operand {n}", self.n_features)))
            }
            _ => Ok(()),
        }
    }

    fn scores(&self, row: &[f64]) -> Vec<f64> {
        let target = |t: usize| {
            let coefficients = &self.coefficients[t * self.n_features..(t + 1) * self.n_features];
            let dot: f64 = row.iter().zip(coefficients).map(|(x, c)| x * c).sum();
            dot + self.intercepts[t]
        };
        (0..self.n_targets).map(target).collect()
    }
}

fn infer_regressor(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    want_dtype(x.dtype, ML_NUMBERS)?;
    let (rows, features) = row_dims(x)?;
    let n = ctx.attrs.int_or("targets", 1);
    let n = usize::try_from(n).map_err(|_| attr_error(format!("there are {n} targets")))?;
    Model::new(ctx.attrs, n)?.check(&features)?;
    Ok(vec![Type::new(DType::F32, [rows, n.into()])])
}

fn eval_regressor(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_regressor)?;
    let model = Model::new(ctx.attrs, shape[1])?;
    let post = Post::read(ctx.attrs)?;
    let mut out = Vec::with_capacity(shape.iter().product());
    for row in Rows::new(tensor(ctx, 0)?).iter() {
        let mut scores = model.scores(row);
        post.apply(&mut scores);
        out.extend(scores);
    }
    Ok(vec![from_f64s(dtype, &shape, &out)?])
}

/// Labels and number of columns of the scores.
fn shape_of_classes(attrs: &Attrs, model: &Model) -> Result<(Labels, usize), Diag> {
    let labels = Labels::read(attrs, "classlabels_ints").unwrap_or(Labels::Ints(Vec::new()));
    match (model.n_targets, labels.len()) {
        (1, 2) => Ok((labels, 2)),
        (1, 0) => Ok((labels.binary(), 1)),
        (1, 1) if labels == Labels::Ints(vec![1]) => Ok((labels.binary(), 1)),
        (1, 1) => Err(unsupported("a classifier with one class other than 1 has no defined result")),
        (n, have) if n == have => Ok((labels, n)),
        (n, have) => Err(attr_error(format!("{have} class labels for {n} classes"))),
    }
}

fn infer_classifier(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    want_dtype(x.dtype, ML_NUMBERS)?;
    let (rows, features) = row_dims(x)?;
    let model = Model::classifier(ctx.attrs, features.as_known())?;
    model.check(&features)?;
    let (labels, columns) = shape_of_classes(ctx.attrs, &model)?;
    let types =
        vec![Type::new(labels.dtype(), [rows.clone()]), Type::new(DType::F32, [rows, columns.into()])];
    Ok(types.into_iter().take(ctx.n_outputs.max(1)).collect())
}

fn eval_classifier(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let shapes = results(ctx, infer_classifier)?;
    let rows = Rows::new(tensor(ctx, 0)?);
    let model = Model::classifier(ctx.attrs, Some(rows.width as i64))?;
    let (labels, columns) = shape_of_classes(ctx.attrs, &model)?;
    let post = Post::read(ctx.attrs)?;
    let (mut picks, mut all) = (Vec::with_capacity(rows.n), Vec::with_capacity(rows.n * columns));
    for row in rows.iter() {
        let mut scores = model.scores(row);
        if columns > model.n_targets {
            scores.insert(0, -scores[0]);
        }
        round_f32(&mut scores);
        picks.push(if columns == 1 { usize::from(scores[0] > 0.0) } else { arg_max(&scores) });
        post.apply(&mut scores);
        all.extend(scores);
    }
    let mut out = vec![labels.vector(&picks)?];
    if let Some((dtype, shape)) = shapes.get(1) {
        out.push(from_f64s(*dtype, shape, &all)?);
    }
    Ok(out)
}

/// A multiplication and an addition for each coefficient and row.
fn work_linear(ctx: &WorkCtx) -> Work {
    let rows = ctx.outputs.first().and_then(|(_, s)| s.first().copied()).unwrap_or(0);
    let n = floats(ctx.attrs, "coefficients").map_or(0, |v| v.len());
    work(ctx, 2.0 * rows as f64 * n as f64, WorkKind::Vector)
}

/// A few rows of `n` features.
pub(crate) fn sample_rows(rng: &mut Rng, n: usize) -> Tensor {
    let dtype = *rng.pick(&[DType::F32, DType::F32, DType::F64, DType::I64, DType::I32]);
    let shape = if rng.below(4) == 0 { vec![n] } else { vec![1 + rng.below(3), n] };
    rng.tensor(dtype, &shape, -3.0, 3.0)
}

/// `n` floats.
pub(crate) fn sample_floats(rng: &mut Rng, n: usize) -> Attr {
    Attr::Floats((0..n).map(|_| rng.float(-1.0, 1.0) as f32).collect())
}

fn sample_model(rng: &mut Rng, n_targets: usize) -> Sample {
    let n_features = 1 + rng.below(4);
    let mut attrs = Attrs::new()
        .with("coefficients", sample_floats(rng, n_targets * n_features))
        .with("post_transform", *rng.pick(&["NONE", "NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"]));
    if rng.below(3) > 0 {
        attrs.set("intercepts", sample_floats(rng, n_targets));
    }
    Sample { attrs, ..sample_of(vec![sample_rows(rng, n_features)]) }
}

fn sample_regressor(rng: &mut Rng) -> Sample {
    let n = 1 + rng.below(3);
    let mut sample = sample_model(rng, n);
    sample.attrs.set("targets", n as i64);
    sample
}

fn sample_classifier(rng: &mut Rng) -> Sample {
    let n = 1 + rng.below(4);
    let mut sample = sample_model(rng, n);
    sample.attrs.set("classlabels_ints", (0..n.max(2) as i64).map(|i| i * i + 1).collect::<Vec<i64>>());
    sample.n_outputs = 1 + rng.below(2);
    sample
}
