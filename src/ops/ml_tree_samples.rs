//! Random trees for the rows' samples, in the lists of either form.

use crate::common::sample_of;
use partita_ir::attr::{Attr, Attrs};
use partita_ir::op::{Rng, Sample};
use partita_ir::{DType, Tensor};

/// A random tree: interior nodes first come, first served; children are positions in `nodes`.
struct Tree {
    /// (feature, threshold, true child, false child), or `None` for a leaf.
    nodes: Vec<Option<(i64, f32, usize, usize)>>,
}

const N_FEATURES: usize = 3;

fn tree(rng: &mut Rng) -> Tree {
    let n_splits = rng.below(4);
    let mut nodes = vec![None];
    for _ in 0..n_splits {
        let leaves: Vec<usize> = (0..nodes.len()).filter(|&i| nodes[i].is_none()).collect();
        let at = *rng.pick(&leaves);
        let threshold = rng.int(-4, 4) as f32 / 2.0;
        nodes[at] = Some((rng.below(N_FEATURES) as i64, threshold, nodes.len(), nodes.len() + 1));
        nodes.extend([None, None]);
    }
    Tree { nodes }
}

fn rows(rng: &mut Rng, dtype: DType) -> Tensor {
    let shape = if rng.below(4) == 0 { vec![N_FEATURES] } else { vec![1 + rng.below(3), N_FEATURES] };
    rng.tensor(dtype, &shape, -3.0, 3.0)
}

fn strs(list: Vec<&str>) -> Attr {
    Attr::Strs(list.into_iter().map(str::to_owned).collect())
}

fn tensor(dtype: DType, values: &[f64]) -> Attr {
    Attr::Tensor(Tensor::from_f64s(dtype, &[values.len()], values).unwrap_or_else(|| Tensor::scalar(0.0f32)))
}

/// Random trees in the lists both older forms have, and the (tree, node) of every leaf.
fn older_lists(rng: &mut Rng, attrs: &mut Attrs) -> Vec<(i64, i64)> {
    const MODES: [&str; 6] =
        ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"];
    let (mut leaves, mut modes, mut values) = (Vec::new(), Vec::new(), Vec::new());
    let [mut trees, mut ids, mut features, mut if_true, mut if_false, mut missing] =
        [const { Vec::<i64>::new() }; 6];
    for t in 0..1 + rng.below(3) as i64 {
        for (id, node) in tree(rng).nodes.into_iter().enumerate() {
            if node.is_none() {
                leaves.push((t, id as i64));
            }
            let (feature, threshold, yes, no) = node.unwrap_or_default();
            trees.push(t);
            ids.push(id as i64);
            modes.push(if node.is_some() { *rng.pick(&MODES) } else { "LEAF" });
            features.push(feature);
            values.push(threshold);
            if_true.push(yes as i64);
            if_false.push(no as i64);
            missing.push(rng.int(0, 1));
        }
    }
    attrs.set("nodes_treeids", trees);
    attrs.set("nodes_nodeids", ids);
    attrs.set("nodes_modes", strs(modes));
    attrs.set("nodes_featureids", features);
    attrs.set("nodes_values", values);
    attrs.set("nodes_truenodeids", if_true);
    attrs.set("nodes_falsenodeids", if_false);
    if rng.below(2) == 0 {
        attrs.set("nodes_missing_value_tracks_true", missing);
    }
    leaves
}

/// Votes of the leaves for `n` targets, under the names that start with `lead`; ids are called `ids`.
fn older_votes(rng: &mut Rng, attrs: &mut Attrs, leaves: &[(i64, i64)], n: usize, lead: &str) {
    let [mut trees, mut nodes, mut targets] = [const { Vec::<i64>::new() }; 3];
    let mut weights = Vec::new();
    for &(tree, node) in leaves {
        for _ in 0..1 + rng.below(2) {
            trees.push(tree);
            nodes.push(node);
            targets.push(rng.below(n) as i64);
            weights.push(rng.float(-1.0, 1.0) as f32);
        }
    }
    attrs.set(&format!("{lead}_treeids"), trees);
    attrs.set(&format!("{lead}_nodeids"), nodes);
    attrs.set(&format!("{lead}_ids"), targets);
    if rng.below(2) == 0 {
        attrs.set(&format!("{lead}_weights"), weights);
    } else {
        let wide: Vec<f64> = weights.into_iter().map(f64::from).collect();
        attrs.set(&format!("{lead}_weights_as_tensor"), tensor(DType::F64, &wide));
    }
    if rng.below(3) == 0 && n > 2 {
        attrs.set("base_values", vec![0.25f32; n]);
    }
}

fn post(rng: &mut Rng) -> &'static str {
    rng.pick::<&str>(&["NONE", "NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"])
}

fn numbers(rng: &mut Rng) -> DType {
    *rng.pick(&[DType::F32, DType::F32, DType::F64, DType::I64, DType::I32])
}

pub(crate) fn sample_regressor(rng: &mut Rng) -> Sample {
    let mut attrs = Attrs::new();
    let leaves = older_lists(rng, &mut attrs);
    let n = 1 + rng.below(3);
    older_votes(rng, &mut attrs, &leaves, n, "target");
    attrs.set("n_targets", n as i64);
    attrs.set("aggregate_function", *rng.pick(&["SUM", "AVERAGE", "MIN", "MAX"]));
    attrs.set("post_transform", post(rng));
    let dtype = numbers(rng);
    Sample { attrs, ..sample_of(vec![rows(rng, dtype)]) }
}

pub(crate) fn sample_classifier(rng: &mut Rng) -> Sample {
    let mut attrs = Attrs::new();
    let leaves = older_lists(rng, &mut attrs);
    let n = 2 + rng.below(3);
    older_votes(rng, &mut attrs, &leaves, n, "class");
    attrs.set("classlabels_int64s", (0..n as i64).map(|i| 10 - i).collect::<Vec<i64>>());
    attrs.set("post_transform", post(rng));
    let dtype = numbers(rng);
    Sample { attrs, n_outputs: 1 + rng.below(2), ..sample_of(vec![rows(rng, dtype)]) }
}

/// Where a branch of the newer form leads: (position, whether it is a leaf).
type Branch = (i64, i64);

pub(crate) fn sample_ensemble(rng: &mut Rng) -> Sample {
    let dtype = *rng.pick(&[DType::F32, DType::F32, DType::F64, DType::F16]);
    let (mut modes, mut splits, mut members, mut weights) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let [mut features, mut roots, mut targets] = [const { Vec::<i64>::new() }; 3];
    let (mut yes, mut no): (Vec<Branch>, Vec<Branch>) = (Vec::new(), Vec::new());
    for _ in 0..1 + rng.below(3) {
        let tree = tree(rng);
        let (first_node, first_leaf) = (modes.len() as i64, weights.len() as i64);
        let interior: Vec<usize> = (0..tree.nodes.len()).filter(|&i| tree.nodes[i].is_some()).collect();
        let leaves: Vec<usize> = (0..tree.nodes.len()).filter(|&i| tree.nodes[i].is_none()).collect();
        let branch = |at: usize| match (interior.binary_search(&at), leaves.binary_search(&at)) {
            (Ok(n), _) => (first_node + n as i64, 0),
            (_, n) => (first_leaf + n.unwrap_or(0) as i64, 1),
        };
        roots.push(first_node);
        for node in tree.nodes.iter().flatten() {
            let mode = rng.below(7);
            if mode == 6 {
                members.extend([rng.int(-3, 3) as f64, rng.int(-3, 3) as f64, f64::NAN]);
            }
            modes.push(mode as f64);
            splits.push(f64::from(node.1));
            features.push(node.0);
            yes.push(branch(node.2));
            no.push(branch(node.3));
        }
        // A tree that is a leaf is a node whose branches both lead to it.
        if interior.is_empty() {
            modes.push(0.0);
            splits.push(0.0);
            features.push(0);
            yes.push((first_leaf, 1));
            no.push((first_leaf, 1));
        }
        for _ in &leaves {
            weights.push(rng.float(-1.0, 1.0));
            targets.push(rng.int(0, 1));
        }
    }
    let column = |list: &[Branch], leaf: bool| -> Vec<i64> {
        list.iter().map(|b| if leaf { b.1 } else { b.0 }).collect()
    };
    let mut attrs = Attrs::new()
        .with("aggregate_function", rng.int(0, 3))
        .with("leaf_targetids", targets)
        .with("leaf_weights", tensor(dtype, &weights))
        .with("n_targets", 2i64)
        .with("nodes_falseleafs", column(&no, true))
        .with("nodes_falsenodeids", column(&no, false))
        .with("nodes_featureids", features)
        .with("nodes_modes", tensor(DType::U8, &modes))
        .with("nodes_splits", tensor(dtype, &splits))
        .with("nodes_trueleafs", column(&yes, true))
        .with("nodes_truenodeids", column(&yes, false))
        .with("post_transform", rng.int(0, 3))
        .with("tree_roots", roots);
    if !members.is_empty() {
        attrs.set("membership_values", tensor(dtype, &members));
    }
    Sample { attrs, ..sample_of(vec![rows(rng, dtype)]) }
}
