//! From the parallel lists of attributes that describe trees in ONNX to the parts of a forest.

use crate::common::attr_error;
use crate::ml_common::floats;
use crate::ml_forest::{Aggregate, Link, Mode, Parts, Split};
use partita_ir::Tensor;
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;

/// Parts of the trees of `TreeEnsemble`: interior nodes and leaves are listed apart, links are positions.
///
/// # Errors
/// `V021` when lists differ in length or hold values without a meaning.
pub(crate) fn parts(attrs: &Attrs, n_targets: usize) -> Result<Parts, Diag> {
    let modes = tensor_ints(attrs, "nodes_modes")?;
    let modes: Option<Vec<Mode>> = modes.into_iter().map(Mode::numbered).collect();
    let modes = modes.ok_or_else(|| attr_error("nodes_modes holds an unknown mode"))?;
    let n = modes.len();
    let splits = sized(attrs.tensor("nodes_splits").map(Tensor::to_f64s), n, "nodes_splits")?;
    let features = indices(attrs, "nodes_featureids", n)?;
    let if_true = links(attrs, "nodes_truenodeids", "nodes_trueleafs", n)?;
    let if_false = links(attrs, "nodes_falsenodeids", "nodes_falseleafs", n)?;
    let missing = missing(attrs, n)?;
    let sets = member_sets(attrs);
    if sets.len() != modes.iter().filter(|m| **m == Mode::Member).count() {
        return Err(attr_error("membership_values must hold one set for each node with mode BRANCH_MEMBER"));
    }
    let mut n_sets = 0;
    let split = |i: usize| {
        let member = modes[i] == Mode::Member;
        let value = if member { f64::from(n_sets) } else { splits[i] };
        n_sets += u32::from(member);
        Split {
            feature: features[i],
            mode: modes[i],
            missing_true: missing[i],
            value,
            if_true: if_true[i],
            if_false: if_false[i],
        }
    };
    let splits = (0..n).map(split).collect();
    let roots = attrs.ints("tree_roots").unwrap_or_default();
    let roots: Option<Vec<Link>> = roots.into_iter().map(|r| u32::try_from(r).ok().map(Link::Node)).collect();
    let roots = roots.ok_or_else(|| attr_error("tree_roots holds a number that is no position"))?;
    Ok(Parts { splits, roots, leaves: leaves(attrs)?, sets, n_targets })
}

fn leaves(attrs: &Attrs) -> Result<Vec<Vec<(u32, f64)>>, Diag> {
    let weights = attrs.tensor("leaf_weights").map(Tensor::to_f64s).unwrap_or_default();
    let targets = indices(attrs, "leaf_targetids", weights.len())?;
    Ok(targets.into_iter().zip(weights).map(|vote| vec![vote]).collect())
}

/// The sets of `membership_values`, which end with a NaN each; the last one may go without.
fn member_sets(attrs: &Attrs) -> Vec<Vec<f64>> {
    let values = attrs.tensor("membership_values").map(Tensor::to_f64s).unwrap_or_default();
    let mut sets: Vec<Vec<f64>> = values.split(|v| v.is_nan()).map(<[f64]>::to_vec).collect();
    if sets.last().is_some_and(Vec::is_empty) {
        sets.pop();
    }
    sets
}

fn links(attrs: &Attrs, ids: &str, leafs: &str, n: usize) -> Result<Vec<Link>, Diag> {
    let positions = indices(attrs, ids, n)?;
    let is_leaf = sized(attrs.ints(leafs), n, leafs)?;
    let link = |(at, leaf): (u32, i64)| if leaf == 0 { Link::Node(at) } else { Link::Leaf(at) };
    Ok(positions.into_iter().zip(is_leaf).map(link).collect())
}

fn missing(attrs: &Attrs, n: usize) -> Result<Vec<bool>, Diag> {
    const NAME: &str = "nodes_missing_value_tracks_true";
    let flags = attrs.ints(NAME).filter(|v| !v.is_empty()).unwrap_or_else(|| vec![0; n]);
    Ok(sized(Some(flags), n, NAME)?.into_iter().map(|v| v != 0).collect())
}

/// A list that must have `n` elements; one that is missing has none.
fn sized<T>(list: Option<Vec<T>>, n: usize, name: &str) -> Result<Vec<T>, Diag> {
    let list = list.unwrap_or_default();
    if list.len() == n {
        return Ok(list);
    }
    Err(attr_error(format!("{name} has {} elements, {n} are expected", list.len()))
        .hint("the model is damaged; export it again"))
}

/// A list of `n` positions.
fn indices(attrs: &Attrs, name: &str, n: usize) -> Result<Vec<u32>, Diag> {
    let list = sized(attrs.ints(name), n, name)?;
    let positions: Option<Vec<u32>> = list.into_iter().map(|v| u32::try_from(v).ok()).collect();
    positions.ok_or_else(|| attr_error(format!("{name} holds a number that is no position")))
}

fn tensor_ints(attrs: &Attrs, name: &str) -> Result<Vec<i64>, Diag> {
    attrs.tensor(name).map(Tensor::to_i64s).ok_or_else(|| attr_error(format!("{name} is missing")))
}

/// Names of the lists that hold the votes of the older forms.
#[derive(Clone, Copy)]
pub(crate) struct VoteNames {
    pub(crate) trees: &'static str,
    pub(crate) nodes: &'static str,
    pub(crate) targets: &'static str,
    pub(crate) weights: &'static str,
}

/// Votes of `TreeEnsembleRegressor`.
pub(crate) const TARGETS: VoteNames = VoteNames {
    trees: "target_treeids",
    nodes: "target_nodeids",
    targets: "target_ids",
    weights: "target_weights",
};

/// Votes of `TreeEnsembleClassifier`.
pub(crate) const CLASSES: VoteNames = VoteNames {
    trees: "class_treeids",
    nodes: "class_nodeids",
    targets: "class_ids",
    weights: "class_weights",
};

/// Nodes by (tree, id).
struct Ids {
    keys: Vec<(i64, i64)>,
    /// Positions in order of their keys.
    order: Vec<u32>,
}

impl Ids {
    fn read(attrs: &Attrs) -> Result<Self, Diag> {
        let trees = attrs.ints("nodes_treeids").unwrap_or_default();
        let nodes = sized(attrs.ints("nodes_nodeids"), trees.len(), "nodes_nodeids")?;
        let keys: Vec<(i64, i64)> = trees.into_iter().zip(nodes).collect();
        let mut order: Vec<u32> = (0..keys.len() as u32).collect();
        order.sort_by_key(|&i| keys[i as usize]);
        match order.windows(2).find(|w| keys[w[0] as usize] == keys[w[1] as usize]) {
            None => Ok(Self { keys, order }),
            Some(w) => {
                let (tree, node) = keys[w[0] as usize];
                Err(attr_error(format!("tree {tree} has two nodes {node}")))
            }
        }
    }

    fn find(&self, key: (i64, i64)) -> Option<usize> {
        let at = self.order.binary_search_by_key(&key, |&i| self.keys[i as usize]).ok()?;
        Some(self.order[at] as usize)
    }
}

/// Parts of the trees of the older forms: nodes and leaves are listed together, links are ids within a tree.
///
/// # Errors
/// `V021` when lists differ in length or hold values without a meaning.
pub(crate) fn older_parts(attrs: &Attrs, names: VoteNames, n_targets: usize) -> Result<Parts, Diag> {
    let ids = Ids::read(attrs)?;
    let n = ids.keys.len();
    let modes: Option<Vec<Option<Mode>>> =
        attrs.strs("nodes_modes").unwrap_or_default().iter().map(|m| Mode::named(m)).collect();
    let modes = modes.ok_or_else(|| attr_error("nodes_modes holds an unknown mode"))?;
    let modes = sized(Some(modes), n, "nodes_modes")?;
    let links = number(&modes);
    let (splits, children) = older_splits(attrs, &ids, &modes, &links)?;
    let mut leaves = vec![Vec::new(); modes.iter().filter(|m| m.is_none()).count()];
    for (key, vote) in votes(attrs, names)? {
        let Some(at) = ids.find(key) else {
            return Err(attr_error(format!(
                "node {} of tree {} has a vote but does not exist",
                key.1, key.0
            )));
        };
        if let Link::Leaf(leaf) = links[at] {
            leaves[leaf as usize].push(vote);
        }
    }
    let roots = roots(&ids, &children).into_iter().map(|at| links[at]).collect();
    Ok(Parts { splits, roots, leaves, sets: Vec::new(), n_targets })
}

/// Interior nodes and leaves are numbered apart.
fn number(modes: &[Option<Mode>]) -> Vec<Link> {
    let (mut nodes, mut leaves) = (0u32, 0u32);
    let next = |count: &mut u32| {
        *count += 1;
        *count - 1
    };
    modes
        .iter()
        .map(|m| if m.is_some() { Link::Node(next(&mut nodes)) } else { Link::Leaf(next(&mut leaves)) })
        .collect()
}

/// The interior nodes, and which nodes are children of others.
fn older_splits(
    attrs: &Attrs,
    ids: &Ids,
    modes: &[Option<Mode>],
    links: &[Link],
) -> Result<(Vec<Split>, Vec<bool>), Diag> {
    let n = modes.len();
    let values = sized(floats(attrs, "nodes_values"), n, "nodes_values")?;
    let features = sized(attrs.ints("nodes_featureids"), n, "nodes_featureids")?;
    let if_true = sized(attrs.ints("nodes_truenodeids"), n, "nodes_truenodeids")?;
    let if_false = sized(attrs.ints("nodes_falsenodeids"), n, "nodes_falsenodeids")?;
    let missing = missing(attrs, n)?;
    let mut is_child = vec![false; n];
    let mut splits = Vec::new();
    for (i, mode) in modes.iter().enumerate() {
        let Some(mode) = *mode else { continue };
        let tree = ids.keys[i].0;
        let mut child = |id: i64| {
            let at = ids.find((tree, id)).ok_or_else(|| {
                attr_error(format!("a node of tree {tree} leads to node {id}, which does not exist"))
            })?;
            is_child[at] = true;
            Ok::<Link, Diag>(links[at])
        };
        let feature = u32::try_from(features[i]).map_err(|_| {
            attr_error(format!("nodes_featureids holds {}, which is no position", features[i]))
        })?;
        splits.push(Split {
            feature,
            mode,
            missing_true: missing[i],
            value: values[i],
            if_true: child(if_true[i])?,
            if_false: child(if_false[i])?,
        });
    }
    Ok((splits, is_child))
}

/// Positions of the trees' roots, in the order in which the trees are listed: the node that is nobody's child, or
/// the first one where that does not tell.
fn roots(ids: &Ids, is_child: &[bool]) -> Vec<usize> {
    let mut roots: Vec<usize> = Vec::new();
    let mut start = 0;
    for end in 1..=ids.order.len() {
        let tree = |at: usize| ids.keys[ids.order[at] as usize].0;
        if end < ids.order.len() && tree(end) == tree(start) {
            continue;
        }
        let members = || ids.order[start..end].iter().map(|&i| i as usize);
        let mut orphans = members().filter(|&i| !is_child[i]);
        let root = match (orphans.next(), orphans.next()) {
            (Some(only), None) => Some(only),
            _ => members().min(),
        };
        roots.extend(root);
        start = end;
    }
    roots.sort_unstable();
    roots
}

type Vote = ((i64, i64), (u32, f64));

fn votes(attrs: &Attrs, names: VoteNames) -> Result<Vec<Vote>, Diag> {
    let weights = floats(attrs, names.weights).unwrap_or_default();
    let n = weights.len();
    let trees = sized(attrs.ints(names.trees), n, names.trees)?;
    let nodes = sized(attrs.ints(names.nodes), n, names.nodes)?;
    let targets = indices(attrs, names.targets, n)?;
    Ok(trees.into_iter().zip(nodes).zip(targets.into_iter().zip(weights)).collect())
}

/// How votes are added up: a number in `TreeEnsemble`, a name before.
///
/// # Errors
/// `V021` for another one.
pub(crate) fn aggregate(attrs: &Attrs) -> Result<Aggregate, Diag> {
    const NAME: &str = "aggregate_function";
    match (attrs.str(NAME), attrs.int(NAME)) {
        (None, None) | (Some("SUM"), _) | (_, Some(1)) => Ok(Aggregate::Sum),
        (Some("AVERAGE"), _) | (_, Some(0)) => Ok(Aggregate::Average),
        (Some("MIN"), _) | (_, Some(2)) => Ok(Aggregate::Min),
        (Some("MAX"), _) | (_, Some(3)) => Ok(Aggregate::Max),
        (name, number) => {
            let name = name.map_or_else(|| number.unwrap_or(0).to_string(), str::to_owned);
            Err(attr_error(format!("aggregate_function {name} is unknown")))
        }
    }
}
