//! `TreeEnsemble` and the two older forms it replaced, `TreeEnsembleRegressor` and `TreeEnsembleClassifier`.

use crate::common::unsupported;
use crate::common::{
    PLAIN, attr, attr_error, between, exactly, from_f64s, input, required, tensor, type_error, work,
};
use crate::eval::{result, results};
use crate::ml_common::arg_max;
use crate::ml_common::{
    Labels, ML_NUMBERS, POST_TRANSFORM, Post, Rows, floats, ml, round_f32, row_dims, want_dtype,
};
use crate::ml_forest::{Forest, Scores};
use crate::ml_tree_lists::{CLASSES, TARGETS, aggregate, older_parts, parts};
use crate::ml_tree_samples::{sample_classifier, sample_ensemble, sample_regressor};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrDef, AttrKind, EvalCtx, InferCtx, OpDef, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&TREE_ENSEMBLE, &TREE_ENSEMBLE_CLASSIFIER, &TREE_ENSEMBLE_REGRESSOR];

static TREE_ENSEMBLE: OpDef = OpDef {
    name: "tree_ensemble",
    doc: "decision trees with tests against thresholds and sets; the leaves' votes for each target are aggregated",
    onnx: &[ml("TreeEnsemble", 5)],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: &[
        attr("aggregate_function", AttrKind::Int),
        required("leaf_targetids", AttrKind::Ints),
        required("leaf_weights", AttrKind::Tensor),
        attr("membership_values", AttrKind::Tensor),
        attr("n_targets", AttrKind::Int),
        required("nodes_falseleafs", AttrKind::Ints),
        required("nodes_falsenodeids", AttrKind::Ints),
        required("nodes_featureids", AttrKind::Ints),
        attr("nodes_hitrates", AttrKind::Tensor),
        attr("nodes_missing_value_tracks_true", AttrKind::Ints),
        required("nodes_modes", AttrKind::Tensor),
        required("nodes_splits", AttrKind::Tensor),
        required("nodes_trueleafs", AttrKind::Ints),
        required("nodes_truenodeids", AttrKind::Ints),
        attr("post_transform", AttrKind::Int),
        required("tree_roots", AttrKind::Ints),
    ],
    traits: PLAIN,
    infer: infer_ensemble,
    content: None,
    eval: eval_ensemble,
    scalar: None,
    data: None,
    work: work_trees,
    sample: sample_ensemble,
};

/// Attributes both older forms have.
macro_rules! older_attrs {
    ($($own:expr),* $(,)?) => {
        &[
            attr("base_values", AttrKind::Floats),
            attr("base_values_as_tensor", AttrKind::Tensor),
            attr("nodes_falsenodeids", AttrKind::Ints),
            attr("nodes_featureids", AttrKind::Ints),
            attr("nodes_hitrates", AttrKind::Floats),
            attr("nodes_hitrates_as_tensor", AttrKind::Tensor),
            attr("nodes_missing_value_tracks_true", AttrKind::Ints),
            attr("nodes_modes", AttrKind::Strs),
            attr("nodes_nodeids", AttrKind::Ints),
            attr("nodes_treeids", AttrKind::Ints),
            attr("nodes_truenodeids", AttrKind::Ints),
            attr("nodes_values", AttrKind::Floats),
            attr("nodes_values_as_tensor", AttrKind::Tensor),
            POST_TRANSFORM,
            $($own),*
        ]
    };
}

const REGRESSOR_ATTRS: &[AttrDef] = older_attrs![
    attr("aggregate_function", AttrKind::Str),
    attr("n_targets", AttrKind::Int),
    attr("target_ids", AttrKind::Ints),
    attr("target_nodeids", AttrKind::Ints),
    attr("target_treeids", AttrKind::Ints),
    attr("target_weights", AttrKind::Floats),
    attr("target_weights_as_tensor", AttrKind::Tensor),
];

const CLASSIFIER_ATTRS: &[AttrDef] = older_attrs![
    attr("class_ids", AttrKind::Ints),
    attr("class_nodeids", AttrKind::Ints),
    attr("class_treeids", AttrKind::Ints),
    attr("class_weights", AttrKind::Floats),
    attr("class_weights_as_tensor", AttrKind::Tensor),
    attr("classlabels_int64s", AttrKind::Ints),
    attr("classlabels_strings", AttrKind::Strs),
];

static TREE_ENSEMBLE_REGRESSOR: OpDef = OpDef {
    name: "tree_ensemble_regressor",
    doc: "decision trees whose leaves vote for targets",
    onnx: &[ml("TreeEnsembleRegressor", 1)],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: REGRESSOR_ATTRS,
    traits: PLAIN,
    infer: infer_regressor,
    content: None,
    eval: eval_regressor,
    scalar: None,
    data: None,
    work: work_trees,
    sample: sample_regressor,
};

static TREE_ENSEMBLE_CLASSIFIER: OpDef = OpDef {
    name: "tree_ensemble_classifier",
    doc: "decision trees whose leaves vote for classes; gives the top class and the scores of all",
    onnx: &[ml("TreeEnsembleClassifier", 1)],
    inputs: exactly(1),
    outputs: between(1, 2),
    attrs: CLASSIFIER_ATTRS,
    traits: PLAIN,
    infer: infer_classifier,
    content: None,
    eval: eval_classifier,
    scalar: None,
    data: None,
    work: work_trees,
    sample: sample_classifier,
};

/// The stated number of targets, or as many as are voted for.
fn n_targets(attrs: &Attrs, ids: &str) -> Result<usize, Diag> {
    let voted = attrs.ints(ids).unwrap_or_default().into_iter().max().map_or(0, |m| m.saturating_add(1));
    let n = attrs.int_or("n_targets", voted);
    usize::try_from(n).map_err(|_| attr_error(format!("n_targets is {n}")))
}

/// Rows of the operand; checks that it has the features the trees ask for.
fn checked_rows(ctx: &InferCtx) -> Result<Dim, Diag> {
    let (rows, features) = row_dims(input(ctx, 0)?)?;
    let most = ctx.attrs.ints("nodes_featureids").unwrap_or_default().into_iter().max().unwrap_or(-1);
    match features.as_known() {
        Some(have) if have <= most => {
            Err(type_error(format!("the trees look at feature {most}, the operand has {have} features")))
        }
        _ => Ok(rows),
    }
}

fn infer_ensemble(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let dtype = input(ctx, 0)?.dtype;
    want_dtype(dtype, &[DType::F32, DType::F64, DType::F16])?;
    let n = n_targets(ctx.attrs, "leaf_targetids")?;
    Ok(vec![Type::new(dtype, [checked_rows(ctx)?, n.into()])])
}

fn infer_regressor(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    want_dtype(input(ctx, 0)?.dtype, ML_NUMBERS)?;
    let n = n_targets(ctx.attrs, "target_ids")?;
    Ok(vec![Type::new(DType::F32, [checked_rows(ctx)?, n.into()])])
}

fn infer_classifier(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    want_dtype(input(ctx, 0)?.dtype, ML_NUMBERS)?;
    let labels = Labels::read(ctx.attrs, "classlabels_int64s")?;
    let rows = checked_rows(ctx)?;
    let scores = Type::new(DType::F32, [rows.clone(), labels.len().into()]);
    let types = vec![Type::new(labels.dtype(), [rows]), scores];
    Ok(types.into_iter().take(ctx.n_outputs.max(1)).collect())
}

fn walk(ctx: &EvalCtx, forest: &Forest) -> Result<Scores, Diag> {
    let rows = Rows::new(tensor(ctx, 0)?);
    if forest.n_features() > rows.width {
        return Err(type_error(format!(
            "the trees look at {} features, the operand has {}",
            forest.n_features(),
            rows.width
        )));
    }
    Ok(forest.scores(&rows, aggregate(ctx.attrs)?))
}

fn eval_ensemble(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_ensemble)?;
    let forest = Forest::new(parts(ctx.attrs, shape[1])?)?;
    let mut scores = walk(ctx, &forest)?;
    let post = Post::read(ctx.attrs)?;
    scores.rows_mut().for_each(|row| post.apply(row));
    Ok(vec![from_f64s(dtype, &shape, &scores.values)?])
}

fn eval_regressor(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_regressor)?;
    let forest = Forest::new(older_parts(ctx.attrs, TARGETS, shape[1])?)?;
    let mut scores = walk(ctx, &forest)?;
    let post = Post::read(ctx.attrs)?;
    let base = base_values(ctx.attrs, shape[1])?;
    for row in scores.rows_mut() {
        row.iter_mut().zip(&base).for_each(|(s, b)| *s += b);
        post.apply(row);
    }
    Ok(vec![from_f64s(dtype, &shape, &scores.values)?])
}

/// One base value for each target; one that is stated alone is for all.
fn base_values(attrs: &Attrs, n: usize) -> Result<Vec<f64>, Diag> {
    match floats(attrs, "base_values").unwrap_or_default() {
        base if base.is_empty() => Ok(vec![0.0; n]),
        base if base.len() == n => Ok(base),
        base if base.len() == 1 => Ok(vec![base[0]; n]),
        base => Err(attr_error(format!("base_values has {} elements, there are {n} targets", base.len()))),
    }
}

/// How votes become the scores of classes.
enum Classes {
    /// One score for each class.
    Each(Vec<f64>),
    /// Two classes, all votes go to the first: its score is that of the second against the first. `share` when
    /// scores are shares of 1 (no vote is negative) rather than signed margins.
    Second { base: f64, share: bool },
    /// Two classes, all votes go to the second.
    OnlySecond { base: Vec<f64>, share: bool },
    /// One class: whether it is the case.
    One { base: f64 },
}

impl Classes {
    /// ONNX says little about two classes of which one has votes; this is what converters of models rely on.
    fn new(attrs: &Attrs, labels: &Labels) -> Result<Self, Diag> {
        let base = floats(attrs, "base_values").unwrap_or_default();
        let first_base = base.first().copied().unwrap_or(0.0);
        let ids = attrs.ints("class_ids").unwrap_or_default();
        let share = floats(attrs, "class_weights").unwrap_or_default().iter().all(|w| *w >= 0.0);
        let only = |class: i64| !ids.is_empty() && ids.iter().all(|i| *i == class);
        match labels.len() {
            1 if *labels != Labels::Ints(vec![1]) => {
                Err(unsupported("a classifier with one class other than 1 has no defined result"))
            }
            1 => Ok(Self::One { base: first_base }),
            2 if only(0) => Ok(Self::Second { base: first_base, share }),
            2 if only(1) => Ok(Self::OnlySecond { base: one_each(base, 2)?, share }),
            n => Ok(Self::Each(one_each(base, n)?)),
        }
    }

    /// Turns a row of votes into scores and tells the class.
    fn decide(&self, row: &mut [f64], post: Post) -> usize {
        let class = match self {
            Self::Each(base) | Self::OnlySecond { base, .. } => {
                row.iter_mut().zip(base).for_each(|(s, b)| *s += b);
                round_f32(row);
                match self {
                    Self::OnlySecond { share: true, .. } => Some(usize::from(row[1] > 0.5)),
                    _ => Some(arg_max(row)),
                }
            }
            Self::Second { base, share } => {
                let score = f64::from((row[0] + base) as f32);
                let complement = *share && matches!(post, Post::None) || post == Post::Probit;
                row.copy_from_slice(&[if complement { 1.0 - score } else { -score }, score]);
                Some(arg_max(row))
            }
            Self::One { base } => {
                row[0] += base;
                None
            }
        };
        let positive = row[0] > 0.0;
        post.apply(row);
        class.unwrap_or(usize::from(positive))
    }
}

fn one_each(base: Vec<f64>, n: usize) -> Result<Vec<f64>, Diag> {
    match base.len() {
        0 => Ok(vec![0.0; n]),
        have if have == n => Ok(base),
        1 => Err(unsupported(format!("one base value for {n} classes has no defined meaning"))),
        have => Err(attr_error(format!("base_values has {have} elements, there are {n} classes"))),
    }
}

fn eval_classifier(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let shapes = results(ctx, infer_classifier)?;
    let labels = Labels::read(ctx.attrs, "classlabels_int64s")?;
    let forest = Forest::new(older_parts(ctx.attrs, CLASSES, labels.len())?)?;
    let classes = Classes::new(ctx.attrs, &labels)?;
    let post = Post::read(ctx.attrs)?;
    let mut scores = walk(ctx, &forest)?;
    let picks: Vec<usize> = scores.rows_mut().map(|row| classes.decide(row, post)).collect();
    let labels = if labels.len() == 1 { labels.binary() } else { labels };
    let mut out = vec![labels.vector(&picks)?];
    if let Some((dtype, shape)) = shapes.get(1) {
        out.push(from_f64s(*dtype, shape, &scores.values)?);
    }
    Ok(out)
}

/// A walk from the root to a leaf for each row and tree; the depth is taken from balanced trees.
fn work_trees(ctx: &WorkCtx) -> Work {
    let rows = ctx.outputs.first().and_then(|(_, s)| s.first().copied()).unwrap_or(0);
    let n_nodes = ctx.attrs.ints("nodes_featureids").map_or(0, |v| v.len());
    let listed = ctx.attrs.ints("tree_roots").or_else(|| {
        let mut trees = ctx.attrs.ints("nodes_treeids").unwrap_or_default();
        trees.dedup();
        Some(trees)
    });
    let n_trees = listed.map_or(1, |v| v.len()).max(1);
    let depth = 1.0 + (n_nodes as f64 / n_trees as f64).max(1.0).log2();
    work(ctx, rows as f64 * n_trees as f64 * depth, WorkKind::Vector)
}
