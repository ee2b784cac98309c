//! `SVMClassifier` and `SVMRegressor`: support vector machines as libsvm lays them out (Chang and Lin, "LIBSVM: a
//! library for support vector machines", 2011).

use crate::common::{
    PLAIN, attr, attr_error, between, exactly, from_f64s, input, sample_of, tensor, type_error, unsupported,
    work,
};
use crate::eval::{result, results};
use crate::ml_common::{
    Labels, ML_NUMBERS, POST_TRANSFORM, Post, Rows, arg_max, floats, logistic, ml, row_dims, want_dtype,
};
use crate::ml_linear::{sample_floats, sample_rows};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrDef, AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&SVM_CLASSIFIER, &SVM_REGRESSOR];

const KERNEL_PARAMS: AttrDef = attr("kernel_params", AttrKind::Floats);
const KERNEL_TYPE: AttrDef = attr("kernel_type", AttrKind::Str);

static SVM_CLASSIFIER: OpDef = OpDef {
    name: "svm_classifier",
    doc: "support vector machine: every pair of classes decides, the class with most votes wins",
    onnx: &[ml("SVMClassifier", 1)],
    inputs: exactly(1),
    outputs: between(1, 2),
    attrs: &[
        attr("classlabels_ints", AttrKind::Ints),
        attr("classlabels_strings", AttrKind::Strs),
        attr("coefficients", AttrKind::Floats),
        KERNEL_PARAMS,
        KERNEL_TYPE,
        POST_TRANSFORM,
        attr("prob_a", AttrKind::Floats),
        attr("prob_b", AttrKind::Floats),
        attr("rho", AttrKind::Floats),
        attr("support_vectors", AttrKind::Floats),
        attr("vectors_per_class", AttrKind::Ints),
    ],
    traits: PLAIN,
    infer: infer_classifier,
    content: None,
    eval: eval_classifier,
    scalar: None,
    data: None,
    work: work_svm,
    sample: sample_classifier,
};

static SVM_REGRESSOR: OpDef = OpDef {
    name: "svm_regressor",
    doc: "support vector regression, or with `one_class` whether a row is like the training data (1 or -1)",
    onnx: &[ml("SVMRegressor", 1)],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: &[
        attr("coefficients", AttrKind::Floats),
        KERNEL_PARAMS,
        KERNEL_TYPE,
        attr("n_supports", AttrKind::Int),
        attr("one_class", AttrKind::Int),
        POST_TRANSFORM,
        attr("rho", AttrKind::Floats),
        attr("support_vectors", AttrKind::Floats),
    ],
    traits: PLAIN,
    infer: infer_regressor,
    content: None,
    eval: eval_regressor,
    scalar: None,
    data: None,
    work: work_svm,
    sample: sample_regressor,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KernelKind {
    Linear,
    Poly,
    Rbf,
    Sigmoid,
}

/// How alike two rows are.
#[derive(Clone, Copy, Debug)]
struct Kernel {
    kind: KernelKind,
    gamma: f64,
    coef0: f64,
    degree: f64,
}

impl Kernel {
    const LINEAR: Self = Self { kind: KernelKind::Linear, gamma: 0.0, coef0: 0.0, degree: 0.0 };

    fn read(attrs: &Attrs) -> Result<Self, Diag> {
        let kind = match attrs.str("kernel_type").unwrap_or("LINEAR") {
            "LINEAR" => KernelKind::Linear,
            "POLY" => KernelKind::Poly,
            "RBF" => KernelKind::Rbf,
            "SIGMOID" => KernelKind::Sigmoid,
            other => return Err(attr_error(format!("kernel_type {other} is unknown"))),
        };
        let params = floats(attrs, "kernel_params").unwrap_or_default();
        let param = |n: usize| params.get(n).copied().unwrap_or(0.0);
        Ok(Self { kind, gamma: param(0), coef0: param(1), degree: param(2) })
    }

    fn of(self, a: &[f64], b: &[f64]) -> f64 {
        let pairs = a.iter().zip(b);
        if self.kind == KernelKind::Rbf {
            let distance: f64 = pairs.map(|(x, y)| (x - y) * (x - y)).sum();
            return libm::exp(-self.gamma * distance);
        }
        let dot: f64 = pairs.map(|(x, y)| x * y).sum();
        match self.kind {
            KernelKind::Poly => libm::pow(self.gamma * dot + self.coef0, self.degree),
            KernelKind::Sigmoid => libm::tanh(self.gamma * dot + self.coef0),
            _ => dot,
        }
    }
}

/// Vectors a row is compared with, all of one length.
struct Vectors {
    kernel: Kernel,
    n: usize,
    width: usize,
    values: Vec<f64>,
}

impl Vectors {
    fn new(kernel: Kernel, n: usize, values: Vec<f64>) -> Result<Self, Diag> {
        if n == 0 || !values.len().is_multiple_of(n) {
            return Err(attr_error(format!("{} numbers do not make {n} vectors", values.len())));
        }
        Ok(Self { kernel, n, width: values.len() / n, values })
    }

    fn compare(&self, row: &[f64]) -> Vec<f64> {
        let vector = |i: usize| &self.values[i * self.width..(i + 1) * self.width];
        (0..self.n).map(|i| self.kernel.of(row, vector(i))).collect()
    }

    fn check(&self, features: &Dim) -> Result<(), Diag> {
        match features.as_known() {
            Some(n) if n != self.width as i64 => {
                Err(type_error(format!("the model has {} features, the operand {n}", self.width)))
            }
            _ => Ok(()),
        }
    }
}

fn count(attrs: &Attrs, name: &str) -> Result<usize, Diag> {
    let n = attrs.int_or(name, 0);
    usize::try_from(n).map_err(|_| attr_error(format!("{name} is {n}")))
}

fn at_least(list: Vec<f64>, n: usize, name: &str) -> Result<Vec<f64>, Diag> {
    if list.len() >= n {
        return Ok(list);
    }
    Err(attr_error(format!("{name} has {} elements, {n} are needed", list.len())))
}

/// A regression: what a row is compared with, and the weight of each comparison.
struct Regression {
    vectors: Vectors,
    weights: Vec<f64>,
    rho: f64,
}

impl Regression {
    fn read(attrs: &Attrs) -> Result<Self, Diag> {
        let coefficients = floats(attrs, "coefficients").unwrap_or_default();
        let rho = floats(attrs, "rho").and_then(|v| v.first().copied()).unwrap_or(0.0);
        let n = count(attrs, "n_supports")?;
        if n == 0 {
            let vectors = Vectors::new(Kernel::LINEAR, 1, coefficients)?;
            return Ok(Self { vectors, weights: vec![1.0], rho });
        }
        let supports = floats(attrs, "support_vectors").unwrap_or_default();
        let vectors = Vectors::new(Kernel::read(attrs)?, n, supports)?;
        Ok(Self { vectors, weights: at_least(coefficients, n, "coefficients")?, rho })
    }
}

fn infer_regressor(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    want_dtype(x.dtype, ML_NUMBERS)?;
    let (rows, features) = row_dims(x)?;
    Regression::read(ctx.attrs)?.vectors.check(&features)?;
    Ok(vec![Type::new(DType::F32, [rows, Dim::known(1)])])
}

fn eval_regressor(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_regressor)?;
    let model = Regression::read(ctx.attrs)?;
    let post = Post::read(ctx.attrs)?;
    let one_class = ctx.attrs.flag("one_class");
    let score = |row: &[f64]| {
        let compared = model.vectors.compare(row);
        let sum: f64 = compared.iter().zip(&model.weights).map(|(k, w)| k * w).sum();
        let mut score = [sum + model.rho];
        if one_class {
            return if score[0] > 0.0 { 1.0 } else { -1.0 };
        }
        post.apply(&mut score);
        score[0]
    };
    let y: Vec<f64> = Rows::new(tensor(ctx, 0)?).iter().map(score).collect();
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// A classifier: with support vectors one decision for each pair of classes, without one score for each class.
struct Classifier {
    labels: Labels,
    vectors: Vectors,
    coefficients: Vec<f64>,
    /// Support vectors of each class; empty for the linear form.
    per_class: Vec<usize>,
    rho: Vec<f64>,
    /// Scale and offset that turn each decision into a probability.
    proba: Option<(Vec<f64>, Vec<f64>)>,
    post: Post,
    all_positive: bool,
}

impl Classifier {
    fn read(attrs: &Attrs) -> Result<Self, Diag> {
        let labels = Labels::read(attrs, "classlabels_ints")?;
        let n = labels.len();
        let coefficients = floats(attrs, "coefficients").unwrap_or_default();
        let per_class: Option<Vec<usize>> = attrs
            .ints("vectors_per_class")
            .unwrap_or_default()
            .into_iter()
            .map(|v| usize::try_from(v).ok())
            .collect();
        let per_class = per_class.ok_or_else(|| attr_error("vectors_per_class holds a negative number"))?;
        let n_vectors = per_class.iter().try_fold(0usize, |n, &v| n.checked_add(v)).unwrap_or(usize::MAX);
        let rho = floats(attrs, "rho").unwrap_or_default();
        let post = Post::read(attrs)?;
        let all_positive = coefficients.iter().all(|c| *c >= 0.0);
        if n_vectors == 0 {
            let vectors = Vectors::new(Kernel::LINEAR, n, coefficients)?;
            let rho = at_least(rho, 1, "rho")?;
            let coefficients = Vec::new();
            let per_class = Vec::new();
            return Ok(Self {
                labels,
                vectors,
                coefficients,
                per_class,
                rho,
                proba: None,
                post,
                all_positive,
            });
        }
        if per_class.len() != n || n < 2 {
            return Err(attr_error(format!("vectors_per_class is for {} classes of {n}", per_class.len())));
        }
        let n_pairs = n * (n - 1) / 2;
        let supports = floats(attrs, "support_vectors").unwrap_or_default();
        let vectors = Vectors::new(Kernel::read(attrs)?, n_vectors, supports)?;
        let coefficients = at_least(coefficients, (n - 1).saturating_mul(n_vectors), "coefficients")?;
        let rho = at_least(rho, n_pairs, "rho")?;
        let proba = floats(attrs, "prob_a").filter(|a| !a.is_empty());
        let offsets = floats(attrs, "prob_b").unwrap_or_default();
        let proba = match proba {
            Some(scales) => {
                Some((at_least(scales, n_pairs, "prob_a")?, at_least(offsets, n_pairs, "prob_b")?))
            }
            None => None,
        };
        if n == 2 && proba.is_none() && post == Post::Probit {
            return Err(unsupported("PROBIT of the margin of two classes is not defined"));
        }
        Ok(Self { labels, vectors, coefficients, per_class, rho, proba, post, all_positive })
    }

    /// Columns of the scores: a probability for each class, a margin for each pair of them, or for two classes
    /// the margin of each.
    fn columns(&self) -> usize {
        match self.labels.len() {
            n if self.per_class.is_empty() || self.proba.is_some() || n == 2 => n,
            n => n * (n - 1) / 2,
        }
    }

    /// The class and the scores of a row.
    fn decide(&self, row: &[f64]) -> (usize, Vec<f64>) {
        let compared = self.vectors.compare(row);
        let (class, mut scores) =
            if self.per_class.is_empty() { self.linear(&compared) } else { self.pairs(&compared) };
        self.post.apply(&mut scores);
        (class, scores)
    }

    fn linear(&self, compared: &[f64]) -> (usize, Vec<f64>) {
        let scores: Vec<f64> = compared.iter().map(|c| f64::from((c + self.rho[0]) as f32)).collect();
        let best = arg_max(&scores);
        // Two scores that are shares: half of the whole is enough for the second class.
        let second = scores.len() == 2 && self.all_positive && scores[best] >= 0.5;
        (if second { 1 } else { best }, scores)
    }

    fn pairs(&self, compared: &[f64]) -> (usize, Vec<f64>) {
        let margins = self.margins(compared);
        let n = self.labels.len();
        let mut votes = vec![0.0; n];
        for ((i, j), margin) in pairs(n).zip(&margins) {
            votes[if *margin > 0.0 { i } else { j }] += 1.0;
        }
        let scores = match &self.proba {
            Some((scales, offsets)) => {
                let likely = |k: usize| 1.0 - logistic(margins[k] * scales[k] + offsets[k]);
                couple(n, &(0..margins.len()).map(likely).collect::<Vec<f64>>())
            }
            None if n == 2 => vec![-margins[0], margins[0]],
            None => margins,
        };
        (arg_max(&votes), scores)
    }

    /// The decision of each pair of classes: positive for the first.
    fn margins(&self, compared: &[f64]) -> Vec<f64> {
        let n_vectors = compared.len();
        let starts: Vec<usize> = self
            .per_class
            .iter()
            .scan(0, |start, n| {
                *start += n;
                Some(*start - n)
            })
            .collect();
        // Row `r` of the coefficients, the part that belongs to the support vectors of `class`.
        let part = |r: usize, class: usize| -> f64 {
            let (from, to) = (starts[class], starts[class] + self.per_class[class]);
            let coefficients = &self.coefficients[r * n_vectors + from..r * n_vectors + to];
            coefficients.iter().zip(&compared[from..to]).map(|(c, k)| c * k).sum()
        };
        pairs(self.labels.len())
            .zip(&self.rho)
            .map(|((i, j), rho)| f64::from((part(j - 1, i) + part(i, j) + rho) as f32))
            .collect()
    }
}

/// Pairs of classes in libsvm's order.
fn pairs(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).flat_map(move |i| (i + 1..n).map(move |j| (i, j)))
}

/// Probabilities of `n` classes from those of each pair, by the second method of Wu, Lin and Weng, "Probability
/// estimates for multi-class classification by pairwise coupling", 2004 (algorithm 2).
fn couple(n: usize, likely: &[f64]) -> Vec<f64> {
    const LEAST: f64 = 1e-7;
    const MAX_ROUNDS: usize = 100;
    let mut r = vec![vec![0.0; n]; n];
    for ((i, j), p) in pairs(n).zip(likely) {
        r[i][j] = p.clamp(LEAST, 1.0 - LEAST);
        r[j][i] = 1.0 - r[i][j];
    }
    let q = |t: usize, j: usize| {
        if t == j {
            (0..n).filter(|&k| k != t).map(|k| r[k][t] * r[k][t]).sum::<f64>()
        } else {
            -r[j][t] * r[t][j]
        }
    };
    let q: Vec<Vec<f64>> = (0..n).map(|t| (0..n).map(|j| q(t, j)).collect()).collect();
    let mut p = vec![1.0 / n as f64; n];
    for _ in 0..MAX_ROUNDS {
        let mut qp: Vec<f64> = q.iter().map(|row| row.iter().zip(&p).map(|(q, p)| q * p).sum()).collect();
        let mut pqp: f64 = p.iter().zip(&qp).map(|(p, q)| p * q).sum();
        let error = qp.iter().map(|v| (v - pqp).abs()).fold(0.0, f64::max);
        if error < 0.005 / n as f64 {
            break;
        }
        for (t, line) in q.iter().enumerate() {
            let step = (pqp - qp[t]) / line[t];
            p[t] += step;
            pqp = (pqp + step * (step * line[t] + 2.0 * qp[t])) / (1.0 + step) / (1.0 + step);
            for ((qp, p), q) in qp.iter_mut().zip(&mut p).zip(line) {
                *qp = (*qp + step * q) / (1.0 + step);
                *p /= 1.0 + step;
            }
        }
    }
    p
}

fn infer_classifier(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    want_dtype(x.dtype, ML_NUMBERS)?;
    let (rows, features) = row_dims(x)?;
    let model = Classifier::read(ctx.attrs)?;
    model.vectors.check(&features)?;
    let types = vec![
        Type::new(model.labels.dtype(), [rows.clone()]),
        Type::new(DType::F32, [rows, model.columns().into()]),
    ];
    Ok(types.into_iter().take(ctx.n_outputs.max(1)).collect())
}

fn eval_classifier(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let shapes = results(ctx, infer_classifier)?;
    let model = Classifier::read(ctx.attrs)?;
    let rows = Rows::new(tensor(ctx, 0)?);
    let (picks, scores): (Vec<usize>, Vec<Vec<f64>>) = rows.iter().map(|row| model.decide(row)).unzip();
    let mut out = vec![model.labels.vector(&picks)?];
    if let Some((dtype, shape)) = shapes.get(1) {
        out.push(from_f64s(*dtype, shape, &scores.concat())?);
    }
    Ok(out)
}

/// A comparison with every number of the support vectors (or coefficients) for each row.
fn work_svm(ctx: &WorkCtx) -> Work {
    let rows = ctx.outputs.first().and_then(|(_, s)| s.first().copied()).unwrap_or(0);
    let n = |name: &str| floats(ctx.attrs, name).map_or(0, |v| v.len());
    let numbers = n("support_vectors") + n("coefficients");
    work(ctx, 2.0 * rows as f64 * numbers as f64, WorkKind::Vector)
}

fn sample_kernel(rng: &mut Rng, attrs: &mut Attrs) {
    attrs.set("kernel_type", *rng.pick(&["LINEAR", "POLY", "RBF", "SIGMOID"]));
    attrs.set("kernel_params", vec![0.5f32, 0.25, 2.0]);
    attrs.set("post_transform", *rng.pick(&["NONE", "NONE", "LOGISTIC", "SOFTMAX"]));
}

fn sample_regressor(rng: &mut Rng) -> Sample {
    let (n, width) = (rng.below(4), 1 + rng.below(3));
    let mut attrs = Attrs::new().with("rho", vec![0.25f32]).with("n_supports", n as i64);
    sample_kernel(rng, &mut attrs);
    attrs.set("coefficients", sample_floats(rng, if n == 0 { width } else { n }));
    attrs.set("support_vectors", sample_floats(rng, n * width));
    attrs.set("one_class", rng.int(0, 1));
    Sample { attrs, ..sample_of(vec![sample_rows(rng, width)]) }
}

fn sample_classifier(rng: &mut Rng) -> Sample {
    let (n, width) = (2 + rng.below(3), 1 + rng.below(3));
    let per_class: Vec<i64> = (0..n).map(|_| rng.int(1, 2)).collect();
    let n_vectors = per_class.iter().sum::<i64>() as usize;
    let n_pairs = n * (n - 1) / 2;
    let mut attrs = Attrs::new().with("rho", sample_floats(rng, n_pairs));
    sample_kernel(rng, &mut attrs);
    attrs.set("classlabels_ints", (0..n as i64).map(|i| 3 * i).collect::<Vec<i64>>());
    if rng.below(4) == 0 {
        attrs.set("coefficients", sample_floats(rng, n * width));
    } else {
        attrs.set("coefficients", sample_floats(rng, (n - 1) * n_vectors));
        attrs.set("support_vectors", sample_floats(rng, n_vectors * width));
        attrs.set("vectors_per_class", per_class);
        if rng.below(2) == 0 {
            attrs.set("prob_a", vec![-1.5f32; n_pairs]);
            attrs.set("prob_b", vec![0.1f32; n_pairs]);
        }
    }
    Sample { attrs, n_outputs: 1 + rng.below(2), ..sample_of(vec![sample_rows(rng, width)]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coupling_gives_probabilities() {
        let p = couple(3, &[0.8, 0.7, 0.4]);
        assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        assert!(p[0] > p[2] && p[2] > p[1]);
        let p = couple(2, &[0.8]);
        assert!((p[0] - 0.8).abs() < 0.01, "{p:?}");
    }
}
