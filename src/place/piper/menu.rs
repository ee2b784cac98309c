//! What a set of nodes costs as one stage, and which way to run each node when memory is short.
//!
//! Taking the fastest way everywhere may not fit. Changes to a way with less memory are then made in the order of
//! seconds lost per byte saved until it fits (the knapsack heuristic of Piper), or, for bounds, the last of them in
//! part, which no selection can beat.

use super::model::{Choice, Model};
use std::collections::BTreeMap;

/// Ways to run a node in a stage: seconds that data parallelism divides, bytes to be brought in line, memory.
#[derive(Debug, Clone, Copy)]
struct Way {
    seconds: f64,
    parameter_bytes: f64,
    sample_bytes: f64,
    fixed_bytes: f64,
}

/// A set of nodes with a degree of tensor parallelism.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    ways: Vec<Vec<Way>>,
    /// Whether all ways of a node have equal parameters, so that the best selection does not depend on `d`.
    uniform: bool,
    known: BTreeMap<(usize, usize), Option<(f64, f64)>>,
}

/// The stage of these nodes; `None` when a node has no menu for the degree.
pub(crate) fn stage(
    model: &Model,
    adjacent: &Adjacent,
    nodes: &[usize],
    inside: &[bool],
    t: usize,
) -> Option<Stage> {
    let mut ways = Vec::with_capacity(nodes.len());
    for &v in nodes {
        let menu = model.nodes[v].menus.get(&t).filter(|m| !m.is_empty())?;
        ways.push(menu.iter().map(|c| way(model, adjacent, c, v, inside)).collect::<Vec<Way>>());
    }
    let uniform = ways.iter().all(|w| w.iter().all(|x| x.parameter_bytes == w[0].parameter_bytes));
    Some(Stage { ways, uniform, known: BTreeMap::new() })
}

/// Neighbours of each node with the bytes of the edge.
pub(crate) type Adjacent = Vec<Vec<(usize, f64)>>;

pub(crate) fn adjacent(model: &Model) -> Adjacent {
    let mut lists = vec![Vec::new(); model.nodes.len()];
    for &(u, v, bytes) in &model.edges {
        lists[u].push((v, bytes));
        lists[v].push((u, bytes));
    }
    lists
}

fn way(model: &Model, adjacent: &Adjacent, c: &Choice, v: usize, inside: &[bool]) -> Way {
    // Activations one way and gradients the other.
    let crossing: f64 = adjacent[v]
        .iter()
        .filter(|(u, _)| !inside[*u])
        .map(|(u, bytes)| 2.0 * (bytes + c.sync_bytes.get(u).copied().unwrap_or(0.0)))
        .sum();
    Way {
        seconds: c.seconds + crossing / model.bandwidth,
        parameter_bytes: c.parameter_bytes,
        sample_bytes: c.sample_bytes,
        fixed_bytes: c.fixed_bytes,
    }
}

impl Stage {
    /// Seconds per sample on `d` replicas with `y` samples in flight; infinite when it does not fit.
    pub(crate) fn seconds(&mut self, model: &Model, d: usize, y: usize, bound: bool) -> f64 {
        let key = (if self.uniform { 0 } else { d }, y);
        let known = match self.known.get(&key) {
            Some(known) => *known,
            None => {
                let found = self.select(model, d, y, bound).map(|(seconds, bytes, _)| (seconds, bytes));
                self.known.insert(key, found);
                found
            }
        };
        known.map_or(f64::INFINITY, |(seconds, bytes)| seconds / d as f64 + resync_seconds(model, bytes, d))
    }

    /// Sums of seconds and parameters, and the way of each node; `None` when nothing fits.
    pub(crate) fn select(
        &self,
        model: &Model,
        d: usize,
        y: usize,
        bound: bool,
    ) -> Option<(f64, f64, Vec<usize>)> {
        let cost = |w: &Way| w.seconds / d as f64 + resync_seconds(model, w.parameter_bytes, d);
        let memory = |w: &Way| w.sample_bytes * y as f64 + w.fixed_bytes;
        let least = |ways: &Vec<Way>, f: &dyn Fn(&Way) -> f64| {
            (0..ways.len()).reduce(|a, b| if f(&ways[b]) < f(&ways[a]) { b } else { a }).unwrap_or(0)
        };
        let mut pick: Vec<usize> = self.ways.iter().map(|w| least(w, &cost)).collect();
        let needed: f64 = self.ways.iter().map(|w| memory(&w[least(w, &memory)])).sum();
        if needed > model.memory_bytes {
            return None;
        }
        let used: f64 = self.ways.iter().zip(&pick).map(|(w, &l)| memory(&w[l])).sum();
        let mut missing = used - model.memory_bytes;
        let mut extra = 0.0;
        // Changes by seconds lost per byte saved; of several for a node the better ratios come first.
        let mut changes: Vec<(f64, usize, usize)> = Vec::new();
        for (i, ways) in self.ways.iter().enumerate() {
            for (l, w) in ways.iter().enumerate() {
                let saved = memory(&ways[pick[i]]) - memory(w);
                if missing > 0.0 && saved > 1e-9 {
                    changes.push(((cost(w) - cost(&ways[pick[i]])) / saved, i, l));
                }
            }
        }
        changes.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        for (ratio, i, l) in changes {
            if missing <= 0.0 {
                break;
            }
            let saved = memory(&self.ways[i][pick[i]]) - memory(&self.ways[i][l]);
            if saved <= 1e-9 {
                continue;
            }
            if bound && saved > missing {
                extra = ratio * missing * d as f64;
                break;
            }
            missing -= saved;
            pick[i] = l;
        }
        let sum = |f: fn(&Way) -> f64| -> f64 { self.ways.iter().zip(&pick).map(|(w, &l)| f(&w[l])).sum() };
        Some((sum(|w| w.seconds) + extra, sum(|w| w.parameter_bytes), pick))
    }
}

/// Seconds per sample to bring the weights of `d` replicas in line, by a distributed parameter server.
pub(crate) fn resync_seconds(model: &Model, bytes: f64, d: usize) -> f64 {
    4.0 * (d - 1) as f64 * bytes / d as f64 / model.batch as f64 / model.bandwidth
}
