//! Upper bounds on the flow that hold for every placement, links aside.
//!
//! `coverage`: a flow F passes each of the L layers, and a node with h layers carries at most h * min(T(h), F) of
//! that. `layers`: over each single layer there is a set of nodes whose throughputs sum to F at least; the linear
//! program of how many layers each such set covers, with a node's layers limited by what it holds, has no solution
//! for flows that are too large. Sets count by kinds of nodes and layers held.

use super::model::Cluster;
use super::stages::{Kind, MAX_PATTERNS, kinds};
use crate::microlp;
use crate::milp::{Milp, MilpLimits, MilpStatus};

/// Bisections of each bound.
const BISECTIONS: usize = 60;
const PROGRAM_BISECTIONS: usize = 24;
/// How much of a layer may be missing by rounding.
const SLACK: f64 = 1e-6;

/// The flow above which not even all nodes together cover every layer.
pub fn coverage(cluster: &Cluster) -> f64 {
    let worth = |flow: f64| -> f64 {
        let best = |t: &[f64]| t.iter().enumerate().map(|(h, &t)| h as f64 * t.min(flow)).fold(0.0, f64::max);
        cluster.nodes.iter().map(|n| best(&n.throughput)).sum()
    };
    let most = |t: &[f64]| t.iter().enumerate().map(|(h, &t)| h as f64 * t).fold(0.0, f64::max);
    let (mut low, mut high) = (0.0, cluster.nodes.iter().map(|n| most(&n.throughput)).sum::<f64>());
    for _ in 0..BISECTIONS {
        let flow = (low + high) / 2.0;
        // Equality over a whole range of flows is common.
        if worth(flow) >= cluster.layers as f64 * flow * (1.0 - 1e-12) { low = flow } else { high = flow }
    }
    high
}

/// The stronger bound, at least `known` and at most `most`.
pub(crate) fn layers(cluster: &Cluster, known: f64, most: f64) -> f64 {
    let kinds = kinds(cluster);
    let (mut low, mut high) = (known, most);
    for _ in 0..PROGRAM_BISECTIONS {
        if high - low <= 1e-9 * high {
            break;
        }
        let flow = (low + high) / 2.0;
        if excluded(cluster.layers, &kinds, flow) { high = flow } else { low = flow }
    }
    high
}

/// Whether the program shows that no placement has this flow.
fn excluded(layers: usize, kinds: &[Kind], flow: f64) -> bool {
    let items = items(kinds, flow);
    let Some(sets) = sets(&items, kinds, flow) else { return false };
    let mut milp = Milp::default();
    // Layers by set, then nodes by item.
    for _ in &sets {
        milp.column(0.0, f64::INFINITY, -1.0, false);
    }
    for item in &items {
        milp.column(0.0, kinds[item.kind].nodes.len() as f64, 0.0, false);
    }
    for (i, item) in items.iter().enumerate() {
        let mut terms: Vec<(usize, f64)> = sets
            .iter()
            .enumerate()
            .map(|(s, set)| (s, set.iter().filter(|&&x| x == i).count() as f64))
            .filter(|t| t.1 > 0.0)
            .collect();
        terms.push((sets.len() + i, -(item.h as f64)));
        milp.row(f64::NEG_INFINITY, 0.0, terms);
    }
    for (k, kind) in kinds.iter().enumerate() {
        let terms = items.iter().enumerate().filter(|(_, item)| item.kind == k);
        let terms = terms.map(|(i, _)| (sets.len() + i, 1.0)).collect();
        milp.row(f64::NEG_INFINITY, kind.nodes.len() as f64, terms);
    }
    let answer = microlp::solve(&milp, &MilpLimits { nodes: 1, threads: 1 });
    answer.status == MilpStatus::Optimal
        && answer.values.is_some_and(|v| -milp.objective(&v) < layers as f64 - SLACK * layers as f64)
}

/// A kind of node holding `h` layers.
struct Item {
    kind: usize,
    h: usize,
    speed: f64,
}

/// Items that no other item of the kind beats in layers and throughput up to the flow, fastest first.
fn items(kinds: &[Kind], flow: f64) -> Vec<Item> {
    let mut items = Vec::new();
    for (kind, k) in kinds.iter().enumerate() {
        let mut most = 0.0;
        for (h, &t) in k.throughput.iter().enumerate().skip(1).rev() {
            let speed = t.min(flow);
            if speed > most {
                most = speed;
                items.push(Item { kind, h, speed });
            }
        }
    }
    items.sort_by(|a, b| b.speed.total_cmp(&a.speed).then(a.kind.cmp(&b.kind)));
    items
}

/// Minimal multisets of items that reach the flow; `None` when there are too many.
fn sets(items: &[Item], kinds: &[Kind], flow: f64) -> Option<Vec<Vec<usize>>> {
    let mut out = Vec::new();
    grow(items, kinds, flow, 0, &mut Vec::new(), &mut out);
    (out.len() < MAX_PATTERNS).then_some(out)
}

fn grow(
    items: &[Item],
    kinds: &[Kind],
    missing: f64,
    from: usize,
    set: &mut Vec<usize>,
    out: &mut Vec<Vec<usize>>,
) {
    for (i, item) in items.iter().enumerate().skip(from) {
        if out.len() >= MAX_PATTERNS {
            return;
        }
        let same = set.iter().filter(|&&x| items[x].kind == item.kind).count();
        if same >= kinds[item.kind].nodes.len() {
            continue;
        }
        set.push(i);
        if item.speed >= missing * (1.0 - 1e-12) {
            out.push(set.clone());
        } else {
            grow(items, kinds, missing - item.speed, i, set, out);
        }
        set.pop();
    }
}
