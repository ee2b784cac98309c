//! Stages for a flow: how many layers, held by which kinds of nodes.
//!
//! Nodes with equal throughputs are of one kind. A stage of `h` layers is a minimal multiset of kinds whose
//! throughputs with `h` layers sum to the wanted flow. Nodes that are joined by links wider than any flow form a
//! region; stages stay within one, and the stages of a region follow each other. Stages are put together by a beam search over what is left
//! of each kind; the largest flow that still covers the model is found by bisection.

use super::model::{Cluster, End, Span};
use crate::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};

/// Partial covers kept from step to step.
const BEAM: usize = 100;
/// Most patterns for one flow.
pub(crate) const MAX_PATTERNS: usize = 20_000;
/// Plans tried, and spans kept.
const PLANS: usize = 64;
const KEPT: usize = 8;
/// A plan must carry more than the best before it by this share.
const BETTER: f64 = 1e-3;
/// Bisections of the flow.
const BISECTIONS: usize = 14;

/// Nodes of equal throughput, and of one region where that counts.
#[derive(Debug, Clone)]
pub(crate) struct Kind {
    pub(crate) throughput: Vec<f64>,
    pub(crate) nodes: Vec<usize>,
    region: usize,
}

pub(crate) fn kinds(cluster: &Cluster) -> Vec<Kind> {
    kinds_by(cluster, &vec![0; cluster.nodes.len()])
}

fn kinds_by(cluster: &Cluster, region: &[usize]) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = Vec::new();
    for (i, node) in cluster.nodes.iter().enumerate() {
        match kinds.iter_mut().find(|k| k.throughput == node.throughput && k.region == region[i]) {
            Some(kind) => kind.nodes.push(i),
            None => {
                let throughput = node.throughput.clone();
                kinds.push(Kind { throughput, nodes: vec![i], region: region[i] });
            }
        }
    }
    kinds
}

/// Numbers such that nodes of equal number are joined by links of at least this capacity.
fn regions(cluster: &Cluster, capacity: f64) -> Vec<usize> {
    let mut region: Vec<usize> = (0..cluster.nodes.len()).collect();
    for link in &cluster.links {
        if let (End::Node(a), End::Node(b)) = (link.from, link.to)
            && link.capacity >= capacity
        {
            let (low, high) = (region[a].min(region[b]), region[a].max(region[b]));
            region.iter_mut().filter(|r| **r == high).for_each(|r| *r = low);
        }
    }
    region
}

/// `h` layers by so many of each kind.
#[derive(Debug, Clone, PartialEq)]
struct Stage {
    h: usize,
    count: Vec<usize>,
}

/// Spans to begin with and the flow their stages were made for, the largest first: with regions and without.
///
/// Every order of the regions and every way to share the width of their borders is a plan; a plan is followed up
/// when it carries more than the best before it.
pub(crate) fn spans(cluster: &Cluster, most: f64, seed: u64) -> [Vec<(f64, Vec<Span>)>; 2] {
    let by_region = follow(cluster, &regions(cluster, most), most, PLANS, seed);
    // As if all links were wide: what is left to the search then is larger, but nothing is ruled out.
    [by_region, follow(cluster, &vec![0; cluster.nodes.len()], most, 1, seed)]
}

/// What the plans over these regions lead to, the largest flow first.
fn follow(cluster: &Cluster, region: &[usize], most: f64, plans: usize, seed: u64) -> Vec<(f64, Vec<Span>)> {
    let kinds = kinds_by(cluster, region);
    let mut rng = Rng::new(seed);
    let mut found: Vec<(f64, Vec<Span>)> = Vec::new();
    let mut best = 0.0;
    for _ in 0..plans {
        let plan = Plan::random(cluster, region, &mut rng);
        let (mut low, mut high) = (best, most * (1.0 + 1e-9));
        let mut flow = if best > 0.0 { best * (1.0 + BETTER) } else { most / 2.0 };
        for _ in 0..BISECTIONS {
            match plan.stages(cluster, &kinds, flow) {
                Some(stages) => {
                    found.push((flow, assign(cluster, &kinds, &stages)));
                    low = flow;
                }
                None if flow <= best * (1.0 + BETTER) && best > 0.0 => break,
                None => high = flow,
            }
            flow = (low + high) / 2.0;
        }
        best = low;
    }
    found.reverse();
    found.truncate(KEPT);
    found
}

/// In which order the regions follow each other, and how wide the stages at their borders are.
#[derive(Debug, Clone)]
struct Plan {
    order: Vec<usize>,
    /// Mean capacity of the links from each region to the next, and the share of the width on the near side.
    borders: Vec<(f64, f64)>,
}

impl Plan {
    fn random(cluster: &Cluster, region: &[usize], rng: &mut Rng) -> Plan {
        let mut order: Vec<usize> = region.iter().copied().collect::<BTreeSet<usize>>().into_iter().collect();
        for i in (1..order.len()).rev() {
            order.swap(i, rng.below(i + 1));
        }
        let borders =
            order.windows(2).map(|w| (mean_capacity(cluster, region, w[0], w[1]), rng.unit())).collect();
        Plan { order, borders }
    }

    /// Stages in their order for a flow; `None` when none were found.
    fn stages(&self, cluster: &Cluster, kinds: &[Kind], flow: f64) -> Option<Vec<Stage>> {
        let mut left: Vec<usize> = kinds.iter().map(|k| k.nodes.len()).collect();
        let (mut entry, mut exit) = (vec![None; self.order.len()], vec![None; self.order.len()]);
        for (i, &(capacity, share)) in self.borders.iter().enumerate() {
            let pairs = (flow / capacity.max(1e-9)).ceil().min(1e6);
            // From one node here and all pairs' nodes there to the other way round.
            let near = pairs.powf(share).round().max(1.0);
            let far = (pairs / near).ceil();
            exit[i] = Some(wide_stage(kinds, self.order[i], near as usize, flow, &mut left)?);
            entry[i + 1] = Some(wide_stage(kinds, self.order[i + 1], far as usize, flow, &mut left)?);
        }
        let fixed: usize = entry.iter().chain(&exit).flatten().map(|s: &Stage| s.h).sum();
        let inner = cover(cluster.layers.saturating_sub(fixed), kinds, flow, left)?;
        let mut stages = Vec::new();
        for (i, &region) in self.order.iter().enumerate() {
            stages.extend(entry[i].take());
            stages.extend(inner.iter().filter(|s| s.region(kinds) == Some(region)).cloned());
            stages.extend(exit[i].take());
        }
        trim(&mut stages, cluster.layers);
        Some(stages)
    }
}

impl Stage {
    fn region(&self, kinds: &[Kind]) -> Option<usize> {
        kinds.iter().zip(&self.count).find(|(_, c)| **c > 0).map(|(k, _)| k.region)
    }
}

fn mean_capacity(cluster: &Cluster, region: &[usize], a: usize, b: usize) -> f64 {
    let joins = |end: End, r: usize| matches!(end, End::Node(n) if region[n] == r);
    let links = cluster.links.iter().filter(|l| joins(l.from, a) && joins(l.to, b));
    let (n, sum) = links.fold((0, 0.0), |(n, sum), l| (n + 1, sum + l.capacity));
    if n == 0 { 0.0 } else { sum / f64::from(n) }
}

/// The stage of a region with at least so many nodes that wastes least, taken from what is left.
fn wide_stage(kinds: &[Kind], region: usize, width: usize, flow: f64, left: &mut [usize]) -> Option<Stage> {
    let worth = worth(kinds, flow);
    let mut cheap: Vec<usize> = (0..kinds.len()).filter(|&k| kinds[k].region == region).collect();
    cheap.sort_by(|&a, &b| worth[a].total_cmp(&worth[b]));
    let most = kinds.iter().map(|k| k.throughput.len()).max().unwrap_or(0);
    let mut best: Option<(f64, Stage)> = None;
    for h in 1..most {
        let (mut count, mut n, mut sum, mut price) = (vec![0; kinds.len()], 0, 0.0, 0.0);
        for &k in &cheap {
            let speed = kinds[k].throughput.get(h).copied().unwrap_or(0.0);
            while speed > 0.0 && count[k] < left[k] && (n < width || sum < flow) {
                count[k] += 1;
                n += 1;
                sum += speed;
                price += worth[k];
            }
        }
        let waste = price - h as f64;
        if n >= width && sum >= flow && best.as_ref().is_none_or(|b| waste < b.0) {
            best = Some((waste, Stage { h, count }));
        }
    }
    let (_, stage) = best?;
    left.iter_mut().zip(&stage.count).for_each(|(l, c)| *l -= c);
    Some(stage)
}

/// Layers a node of each kind is worth at this flow, at best.
fn worth(kinds: &[Kind], flow: f64) -> Vec<f64> {
    let best = |k: &Kind| {
        k.throughput.iter().enumerate().map(|(h, &t)| h as f64 * t.min(flow)).fold(0.0, f64::max) / flow
    };
    kinds.iter().map(best).collect()
}

/// Minimal stages for a flow.
fn patterns(layers: usize, kinds: &[Kind], flow: f64) -> Vec<Stage> {
    let mut out = Vec::new();
    for h in 1..=layers {
        let speed: Vec<f64> = kinds.iter().map(|k| k.throughput.get(h).copied().unwrap_or(0.0)).collect();
        if speed.iter().all(|&t| t <= 0.0) {
            continue;
        }
        for region in kinds.iter().map(|k| k.region).collect::<BTreeSet<usize>>() {
            let able = |&k: &usize| speed[k] > 0.0 && kinds[k].region == region;
            let mut order: Vec<usize> = (0..kinds.len()).filter(able).collect();
            order.sort_by(|&a, &b| speed[b].total_cmp(&speed[a]));
            let mut count = vec![0; kinds.len()];
            extend(kinds, &speed, &order, flow, &mut count, &mut |count| {
                if out.len() < MAX_PATTERNS {
                    out.push(Stage { h, count: count.to_vec() });
                }
            });
        }
    }
    out
}

/// Multisets that reach the flow with their last member and not without, members by falling throughput.
fn extend(
    kinds: &[Kind],
    speed: &[f64],
    order: &[usize],
    missing: f64,
    count: &mut Vec<usize>,
    found: &mut dyn FnMut(&[usize]),
) {
    for (i, &k) in order.iter().enumerate() {
        if count[k] == kinds[k].nodes.len() {
            continue;
        }
        count[k] += 1;
        if speed[k] >= missing * (1.0 - 1e-12) {
            found(count);
        } else {
            let reach: f64 =
                order[i..].iter().map(|&j| speed[j] * (kinds[j].nodes.len() - count[j]) as f64).sum();
            if reach >= (missing - speed[k]) * (1.0 - 1e-12) {
                extend(kinds, speed, &order[i..], missing - speed[k], count, found);
            }
        }
        count[k] -= 1;
    }
}

/// A partial cover: what is left of each kind, layers covered, stages by number.
#[derive(Debug, Clone)]
struct Partial {
    left: Vec<usize>,
    covered: usize,
    stages: Vec<usize>,
}

/// Stages of what is left that cover so many layers or more; `None` when the beam finds none.
fn cover(layers: usize, kinds: &[Kind], flow: f64, left: Vec<usize>) -> Option<Vec<Stage>> {
    let patterns = patterns(layers.max(1), kinds, flow);
    let worth = worth(kinds, flow);
    let mut beam = vec![Partial { left, covered: 0, stages: Vec::new() }];
    while !beam.is_empty() {
        if let Some(done) = beam.iter().find(|p| p.covered >= layers) {
            return Some(done.stages.iter().map(|&i| patterns[i].clone()).collect());
        }
        let mut next: BTreeMap<Vec<usize>, Partial> = BTreeMap::new();
        for partial in &beam {
            let from = partial.stages.last().copied().unwrap_or(0);
            for (i, stage) in patterns.iter().enumerate().skip(from) {
                if stage.count.iter().zip(&partial.left).any(|(c, l)| c > l) {
                    continue;
                }
                let left: Vec<usize> = partial.left.iter().zip(&stage.count).map(|(l, c)| l - c).collect();
                let covered = partial.covered + stage.h;
                if next.get(&left).is_none_or(|p| p.covered < covered) {
                    let mut stages = partial.stages.clone();
                    stages.push(i);
                    next.insert(left.clone(), Partial { left, covered, stages });
                }
            }
        }
        let hope = |p: &Partial| {
            p.covered as f64 + p.left.iter().zip(&worth).map(|(&l, w)| l as f64 * w).sum::<f64>()
        };
        beam = next.into_values().filter(|p| hope(p) >= layers as f64 - 1e-6).collect();
        beam.sort_by(|a, b| hope(b).total_cmp(&hope(a)));
        beam.truncate(BEAM);
    }
    None
}

/// Takes layers beyond the model away from the longest stages.
fn trim(stages: &mut Vec<Stage>, layers: usize) {
    let mut extra = stages.iter().map(|s| s.h).sum::<usize>().saturating_sub(layers);
    while extra > 0 {
        let Some(longest) = stages.iter_mut().max_by_key(|s| s.h) else { return };
        longest.h -= 1;
        extra -= 1;
        stages.retain(|s| s.h > 0);
    }
}

/// Nodes to stages by number.
fn assign(cluster: &Cluster, kinds: &[Kind], stages: &[Stage]) -> Vec<Span> {
    let mut span = vec![(0, 0); cluster.nodes.len()];
    let mut free: Vec<std::vec::IntoIter<usize>> =
        kinds.iter().map(|k| k.nodes.clone().into_iter()).collect();
    let mut start = 0;
    for stage in stages {
        for (kind, &count) in free.iter_mut().zip(&stage.count) {
            for node in kind.by_ref().take(count) {
                span[node] = (start, stage.h);
            }
        }
        start += stage.h;
    }
    span
}
