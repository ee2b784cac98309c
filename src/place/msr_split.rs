//! Starts for the MSR latency search: linear orders of colour groups cut into one segment per accelerator.
//!
//! The dynamic program takes the segments to run one after another; a group on the CPU adds its own time. It
//! knows the communication of each segment exactly and the memory, and uses at most one segment per accelerator.
//! Orders in which a segment is not contiguous score infinite in the evaluator and fall away.

use crate::msr_latency::{CPU, Net, Place};
use std::collections::BTreeSet;

/// Shares of a group's CPU time that count: CPU groups beside each other run at once, which the chain of the
/// dynamic program cannot see.
const CPU_SHARES: [f64; 3] = [1.0, 0.5, 0.25];
/// Most segment extensions tried per order.
const MAX_STEPS: usize = 50_000_000;

/// Placements of groups to begin with.
pub(crate) fn starts(net: &Net<'_>) -> Vec<Vec<Place>> {
    let n = net.groups.len();
    let mut starts = vec![vec![CPU; n]];
    for order in [depth_first(net), breadth_first(net)] {
        for share in CPU_SHARES {
            starts.extend(split(net, &order, share));
        }
        starts.push(fill(net, &order));
    }
    starts
}

/// Groups by the place of their first node in an order that follows one branch as far as it can.
pub(crate) fn depth_first(net: &Net<'_>) -> Vec<usize> {
    let mut waiting = group_inputs(net);
    let readers = group_outputs(net);
    let mut stack: Vec<usize> = (0..waiting.len()).rev().filter(|&g| waiting[g] == 0).collect();
    let mut order = Vec::with_capacity(waiting.len());
    while let Some(g) = stack.pop() {
        order.push(g);
        for &h in readers[g].iter().rev() {
            waiting[h] -= 1;
            if waiting[h] == 0 {
                stack.push(h);
            }
        }
    }
    complete(order, waiting.len())
}

fn breadth_first(net: &Net<'_>) -> Vec<usize> {
    let mut waiting = group_inputs(net);
    let readers = group_outputs(net);
    let mut order: Vec<usize> = (0..waiting.len()).filter(|&g| waiting[g] == 0).collect();
    let mut at = 0;
    while at < order.len() {
        for &h in &readers[order[at]] {
            waiting[h] -= 1;
            if waiting[h] == 0 {
                order.push(h);
            }
        }
        at += 1;
    }
    complete(order, waiting.len())
}

/// Groups that colours put on a cycle come last, by index.
fn complete(mut order: Vec<usize>, n: usize) -> Vec<usize> {
    let mut seen = vec![false; n];
    order.iter().for_each(|&g| seen[g] = true);
    order.extend((0..n).filter(|&g| !seen[g]));
    order
}

fn group_outputs(net: &Net<'_>) -> Vec<BTreeSet<usize>> {
    let mut out = vec![BTreeSet::new(); net.groups.len()];
    for &(u, v) in &net.instance.edges {
        let (a, b) = (net.group_of[u], net.group_of[v]);
        if a != b {
            out[a].insert(b);
        }
    }
    out
}

fn group_inputs(net: &Net<'_>) -> Vec<usize> {
    let mut waiting = vec![0; net.groups.len()];
    group_outputs(net).iter().flatten().for_each(|&h| waiting[h] += 1);
    waiting
}

/// Fills one accelerator after another in order, as far as memory goes; the rest stays on the CPU.
fn fill(net: &Net<'_>, order: &[usize]) -> Vec<Place> {
    let mut place = vec![CPU; order.len()];
    let (mut s, mut used) = (0usize, 0.0);
    for &g in order {
        if !net.supported[g] {
            continue;
        }
        if used + net.size[g] > net.instance.memory_bytes {
            (s, used) = (s + 1, 0.0);
        }
        if s >= net.instance.accelerators {
            break;
        }
        if used + net.size[g] <= net.instance.memory_bytes {
            used += net.size[g];
            place[g] = s as Place;
        }
    }
    place
}

/// The best sequence of segments and CPU groups over one order.
fn split(net: &Net<'_>, order: &[usize], cpu_share: f64) -> Option<Vec<Place>> {
    let (n, k) = (order.len(), net.instance.accelerators);
    if n.saturating_mul(n).saturating_mul(k + 1) > MAX_STEPS {
        return None;
    }
    let size = (n + 1) * (k + 1);
    let mut table = Table { best: vec![f64::INFINITY; size], from: vec![(0, false); size] };
    table.best[0] = 0.0;
    for start in 0..n {
        let row = start * (k + 1);
        if net.instance.cpus > 0 {
            let time: f64 = net.groups[order[start]].iter().map(|&i| net.instance.nodes[i].cpu).sum();
            for j in 0..=k {
                relax(&mut table, (row + j, row + k + 1 + j), cpu_share * time, start, false);
            }
        }
        let mut segment = Segment::new(net);
        for end in start + 1..=n {
            if !segment.add(order[end - 1]) {
                break;
            }
            let cost = segment.cost;
            for j in 0..k {
                relax(&mut table, (row + j, end * (k + 1) + j + 1), cost, start, true);
            }
        }
    }
    let last = n * (k + 1);
    let mut j = (0..=k).reduce(|a, b| if table.best[last + b] < table.best[last + a] { b } else { a })?;
    if table.best[last + j].is_infinite() {
        return None;
    }
    let mut place = vec![CPU; n];
    let mut end = n;
    while end > 0 {
        let (start, accelerated) = table.from[end * (k + 1) + j];
        if accelerated {
            j -= 1;
            order[start..end].iter().for_each(|&g| place[g] = j as Place);
        }
        end = start;
    }
    Some(place)
}

/// One state of the table reached from another: `at` plus `cost` into `to`, the step having begun at `start`.
fn relax(table: &mut Table, (at, to): (usize, usize), cost: f64, start: usize, accelerated: bool) {
    let value = table.best[at] + cost;
    if value < table.best[to] {
        table.best[to] = value;
        table.from[to] = (start, accelerated);
    }
}

/// Best value per position and accelerators used, and the step that gave it: its start, and whether it was a
/// segment on an accelerator.
struct Table {
    best: Vec<f64>,
    from: Vec<(usize, bool)>,
}

/// Cost of a growing segment on one accelerator.
struct Segment<'a> {
    net: &'a Net<'a>,
    inside: Vec<bool>,
    cost: f64,
    bytes: f64,
}

impl<'a> Segment<'a> {
    fn new(net: &'a Net<'a>) -> Self {
        Segment { net, inside: vec![false; net.group_of.len()], cost: 0.0, bytes: 0.0 }
    }

    fn add(&mut self, g: usize) -> bool {
        self.bytes += self.net.size[g];
        if !self.net.supported[g] || self.bytes > self.net.instance.memory_bytes {
            return false;
        }
        for &i in &self.net.groups[g] {
            self.add_node(i);
        }
        true
    }

    fn add_node(&mut self, i: usize) {
        let node = &self.net.instance.nodes[i];
        let inside = |v: &u32| self.inside[*v as usize];
        let mut change = node.acc.unwrap_or(f64::INFINITY);
        // The node's own output: an input until now if something inside reads it, an output if something outside does.
        let (read_in, read_out) =
            (self.net.outputs[i].iter().any(inside), self.net.outputs[i].iter().any(|v| !inside(v)));
        change += node.out_cost * (f64::from(u8::from(read_out)) - f64::from(u8::from(read_in)));
        for &u in &self.net.inputs[i] {
            let cost = self.net.instance.nodes[u as usize].out_cost;
            let others = || self.net.outputs[u as usize].iter().filter(|&&v| v as usize != i);
            if self.inside[u as usize] {
                change -= if others().all(inside) { cost } else { 0.0 };
            } else {
                change += if others().any(inside) { 0.0 } else { cost };
            }
        }
        self.cost += change;
        self.inside[i] = true;
    }
}
