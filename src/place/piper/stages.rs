//! Stages for a TMPC problem: a dynamic program over sets that are closed under successors, from the end of the
//! model to its beginning.
//!
//! For a wanted time per sample, the label of a closed set and a sum `s` of data-parallel degrees is the least number
//! of devices; a stage in front of it with degree `d` has `ceil((s + d) / d)` samples in flight. A larger `d` costs
//! more devices and more `s`, so the smallest that fits is enough. The time is found by bisection; every success
//! counts with the time its stages really take. Where there are too many closed sets, one linear order is cut.

use super::menu::{self, Stage};
use super::model::Model;
use std::collections::BTreeMap;

/// Most closed sets; beyond, one linear order is used.
const MAX_SETS: usize = 3000;
/// Most pairs of sets.
const MAX_PAIRS: usize = 2_000_000;
/// Bisections of the time.
const BISECTIONS: usize = 60;
/// Times closer than this share are the same.
const SAME: f64 = 1e-12;

/// What is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Variant {
    /// Without tensor parallelism.
    pub no_tensor: bool,
    /// Without data parallelism.
    pub no_data: bool,
    /// Without recomputing activations.
    pub no_recompute: bool,
    /// Equal shares of the repeated layer, equal degrees everywhere (PipeDream-2BW with tensor parallelism).
    pub equal_split: bool,
}

/// A stage of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Its nodes.
    pub nodes: Vec<usize>,
    /// Degree of data parallelism.
    pub d: usize,
    /// Degree of tensor parallelism.
    pub t: usize,
    /// The way each node runs, by place in its menu.
    pub choice: Vec<usize>,
}

/// Pairs of closed sets, and the stages between them.
struct Pair {
    /// The smaller set.
    from: usize,
    nodes: Vec<usize>,
    /// By degree of tensor parallelism.
    stages: Vec<(usize, Stage)>,
}

/// The program's data: pairs by the larger set, sets by size.
pub(crate) struct Sets {
    pairs: Vec<Vec<Pair>>,
    /// Whether all closed sets are there.
    pub(crate) complete: bool,
}

impl Sets {
    pub(crate) fn new(model: &Model, variant: Variant) -> Sets {
        let (sets, complete) = match closed_sets(model) {
            Some(sets) => (sets, true),
            None => (suffixes(model), false),
        };
        let adjacent = menu::adjacent(model);
        let degrees = degrees(model, variant);
        let mut pairs = Vec::with_capacity(sets.len());
        for (i, large) in sets.iter().enumerate() {
            let mut list = Vec::new();
            for (from, small) in sets[..i].iter().enumerate() {
                if small.iter().zip(large).any(|(s, l)| *s && !*l) {
                    continue;
                }
                let inside: Vec<bool> = large.iter().zip(small).map(|(l, s)| *l && !*s).collect();
                let nodes: Vec<usize> = (0..inside.len()).filter(|&v| inside[v]).collect();
                let stage = |&t: &usize| Some((t, menu::stage(model, &adjacent, &nodes, &inside, t)?));
                let stages: Vec<(usize, Stage)> = degrees.iter().filter_map(stage).collect();
                if !stages.is_empty() {
                    list.push(Pair { from, nodes, stages });
                }
            }
            pairs.push(list);
        }
        Sets { pairs, complete }
    }
}

fn degrees(model: &Model, variant: Variant) -> Vec<usize> {
    let all: std::collections::BTreeSet<usize> =
        model.nodes.iter().flat_map(|n| n.menus.keys().copied()).collect();
    all.into_iter().filter(|&t| t <= model.devices && (t == 1 || !variant.no_tensor)).collect()
}

/// All sets of nodes that contain the successors of their members, by size; `None` when there are too many.
fn closed_sets(model: &Model) -> Option<Vec<Vec<bool>>> {
    let n = model.nodes.len();
    let mut readers = vec![Vec::new(); n];
    model.edges.iter().for_each(|&(u, v, _)| readers[u].push(v));
    let mut sets = vec![vec![false; n]];
    let mut layer: Vec<Vec<bool>> = sets.clone();
    for _ in 0..n {
        let mut next: BTreeMap<Vec<bool>, ()> = BTreeMap::new();
        for set in &layer {
            for v in (0..n).filter(|&v| !set[v] && readers[v].iter().all(|&w| set[w])) {
                let mut larger = set.clone();
                larger[v] = true;
                next.insert(larger, ());
            }
            if next.len() + sets.len() > MAX_SETS {
                return None;
            }
        }
        layer = next.into_keys().collect();
        sets.extend(layer.iter().cloned());
    }
    (sets.len() * sets.len() / 2 <= MAX_PAIRS).then_some(sets)
}

fn suffixes(model: &Model) -> Vec<Vec<bool>> {
    let mut set = vec![false; model.nodes.len()];
    let mut sets = vec![set.clone()];
    for &v in model.order().iter().rev() {
        set[v] = true;
        sets.push(set.clone());
    }
    sets
}

/// Where a label came from: pair, degrees, `s` before.
type Step = (u32, u32, u32, u32);

/// The least time per sample and its stages in order; with `bound`, a time below which there is none.
pub(crate) fn best(
    model: &Model,
    sets: &mut Sets,
    variant: Variant,
    bound: bool,
) -> Option<(f64, Vec<Part>)> {
    let mut found: Option<(f64, Vec<Part>)> = None;
    let mut low = 0.0;
    let mut wanted = f64::MAX;
    for _ in 0..BISECTIONS {
        match decide(model, sets, variant, wanted, bound) {
            Some((time, parts)) => {
                let better = found.as_ref().is_none_or(|f| time < f.0);
                if better {
                    found = Some((time, parts));
                }
            }
            None => low = wanted,
        }
        let high = found.as_ref()?.0;
        if high - low <= SAME * high {
            break;
        }
        wanted = if low == 0.0 { high / 2.0 } else { low + (high - low) / 2.0 };
    }
    if bound { found.map(|f| (low, f.1)) } else { found }
}

/// Stages of at most `wanted` seconds per sample, and their largest.
fn decide(
    model: &Model,
    sets: &mut Sets,
    variant: Variant,
    wanted: f64,
    bound: bool,
) -> Option<(f64, Vec<Part>)> {
    let most_s = model.batch.min(model.devices);
    let ds: Vec<usize> =
        (1..=most_s).filter(|d| model.batch.is_multiple_of(*d) && (*d == 1 || !variant.no_data)).collect();
    let n = sets.pairs.len();
    let mut least = vec![vec![usize::MAX; most_s + 1]; n];
    let mut step: Vec<Vec<Step>> = vec![vec![(0, 0, 0, 0); most_s + 1]; n];
    least[0][0] = 0;
    for i in 1..n {
        for (p, pair) in sets.pairs[i].iter_mut().enumerate() {
            for (t, stage) in &mut pair.stages {
                let mut at = 0;
                for s in 0..most_s {
                    let k = least[pair.from][s];
                    if k >= model.devices {
                        continue;
                    }
                    // More in flight never fits where less did not.
                    while at < ds.len() && {
                        let d = ds[at];
                        k + *t * d <= model.devices
                            && stage.seconds(model, d, (s + d).div_ceil(d), bound) > wanted
                    } {
                        at += 1;
                    }
                    let Some(&d) = ds.get(at) else { break };
                    let (after, devices) = (s + d, k + *t * d);
                    if after <= most_s && devices <= model.devices && devices < least[i][after] {
                        least[i][after] = devices;
                        step[i][after] = (p as u32, *t as u32, d as u32, s as u32);
                    }
                }
            }
        }
    }
    let s = (0..=most_s).filter(|&s| least[n - 1][s] != usize::MAX).min_by_key(|&s| least[n - 1][s])?;
    read_back(model, sets, &step, s, bound)
}

fn read_back(
    model: &Model,
    sets: &mut Sets,
    step: &[Vec<Step>],
    mut s: usize,
    bound: bool,
) -> Option<(f64, Vec<Part>)> {
    let (mut i, mut time, mut parts) = (sets.pairs.len() - 1, 0.0f64, Vec::new());
    while i > 0 {
        let (p, t, d, before) = step[i][s];
        let (t, d) = (t as usize, d as usize);
        let pair = &mut sets.pairs[i][p as usize];
        let stage = pair.stages.iter_mut().find(|x| x.0 == t)?;
        let y = s.div_ceil(d);
        time = time.max(stage.1.seconds(model, d, y, bound));
        let (_, _, choice) = stage.1.select(model, d, y, bound)?;
        parts.push(Part { nodes: pair.nodes.clone(), d, t, choice });
        (i, s) = (pair.from, before as usize);
    }
    Some((time, parts))
}
