//! Linear orders of units in which neighbours are close, so that contiguous runs cut few tensors.
//!
//! Colocated tasks (a layer and its gradient) can make the units cyclic. Every unit therefore gets a level, the
//! earliest of its tasks, where a task without inputs counts as late as its readers allow; only edges to a higher
//! level are followed. For a training graph that leaves the forward part.

use crate::problem::Problem;
use crate::units::Flow;
use std::collections::BTreeSet;

/// Rounds of settling, and the part of the order that counts as far.
const SETTLE_ROUNDS: usize = 4;
const FAR_SHARE: usize = 20;

/// At least one order, the one that usually cuts least first.
pub(crate) fn linear_orders(p: &Problem, unit_of_task: &[usize], n_units: usize) -> Vec<Vec<usize>> {
    let level = unit_levels(p, unit_of_task, n_units);
    let mut inputs: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); n_units];
    let mut read = vec![false; n_units];
    for tensor in &p.tensors {
        let a = unit_of_task[tensor.producer];
        for b in tensor.consumers.iter().map(|&c| unit_of_task[c]).filter(|&b| level[a] < level[b]) {
            inputs[b].insert(a);
            read[a] = true;
        }
    }
    let mut by_level: Vec<usize> = (0..n_units).collect();
    by_level.sort_by_key(|&u| level[u]);
    let lists = |reverse: bool| -> Vec<Vec<usize>> {
        let list = |set: &BTreeSet<usize>| -> Vec<usize> {
            if reverse { set.iter().rev().copied().collect() } else { set.iter().copied().collect() }
        };
        inputs.iter().map(list).collect()
    };
    // Sinks by level: what is read late comes late.
    let sinks: Vec<usize> = by_level.iter().copied().filter(|&u| !read[u]).collect();
    vec![
        post_order(&lists(false), &sinks),
        post_order(&lists(true), &sinks),
        branch_first_units(p, unit_of_task, n_units),
        by_level,
    ]
}

/// An order with every unit that is far from its neighbours moved to the weighted median of their places: a
/// gradient that shares no class with its layer belongs beside the layer, not at the end.
pub(crate) fn settle(order: &[usize], flows: &[Flow]) -> Vec<usize> {
    let n = order.len();
    let far = (n / FAR_SHARE).max(4);
    let mut order = order.to_vec();
    for _ in 0..SETTLE_ROUNDS {
        let mut position = vec![0usize; n];
        order.iter().enumerate().for_each(|(i, &u)| position[u] = i);
        let mut neighbours: Vec<Vec<(usize, f64)>> = vec![Vec::new(); n];
        for flow in flows {
            let weight = flow.cost_us + flow.bytes as f64;
            for &c in &flow.consumers {
                neighbours[c].push((position[flow.producer], weight));
                neighbours[flow.producer].push((position[c], weight));
            }
        }
        let place = |u: usize, list: &mut Vec<(usize, f64)>| match weighted_median(list) {
            Some(m) if m.abs_diff(position[u]) > far => (2 * m + 1, u),
            _ => (2 * position[u], u),
        };
        let mut keyed: Vec<(usize, usize)> =
            neighbours.iter_mut().enumerate().map(|(u, list)| place(u, list)).collect();
        keyed.sort_unstable();
        order = keyed.into_iter().map(|(_, u)| u).collect();
    }
    order
}

/// The place at which half of the weight is reached.
fn weighted_median(list: &mut [(usize, f64)]) -> Option<usize> {
    list.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let half = list.iter().map(|x| x.1).sum::<f64>() / 2.0;
    let mut sum = 0.0;
    list.iter()
        .find(|x| {
            sum += x.1;
            sum >= half
        })
        .map(|x| x.0)
}

/// Longest path to each unit's first task.
fn unit_levels(p: &Problem, unit_of_task: &[usize], n_units: usize) -> Vec<u32> {
    let n = p.tasks.len();
    let (mut level, mut is_source) = (vec![1u32; n], vec![true; n]);
    let mut produced: Vec<Vec<usize>> = vec![Vec::new(); n];
    for (x, tensor) in p.tensors.iter().enumerate() {
        produced[tensor.producer].push(x);
        tensor.consumers.iter().for_each(|&c| is_source[c] = false);
    }
    for t in p.topological_order().unwrap_or_default() {
        for c in produced[t].iter().flat_map(|&x| &p.tensors[x].consumers) {
            level[*c] = level[*c].max(level[t] + 1);
        }
    }
    let mut of_unit = vec![u32::MAX; n_units];
    for t in 0..n {
        let readers = || produced[t].iter().flat_map(|&x| &p.tensors[x].consumers);
        let at = match readers().map(|&c| level[c] - 1).min() {
            Some(late) if is_source[t] => late,
            _ => level[t],
        };
        let unit = &mut of_unit[unit_of_task[t]];
        *unit = (*unit).min(at);
    }
    of_unit
}

/// Depth-first post-order from the sinks: everything a unit reads comes just before it.
fn post_order(inputs: &[Vec<usize>], sinks: &[usize]) -> Vec<usize> {
    let mut entered = vec![false; inputs.len()];
    let mut order = Vec::with_capacity(inputs.len());
    for &sink in sinks {
        entered[sink] = true;
        let mut stack = vec![(sink, 0usize)];
        while let Some((u, next)) = stack.pop() {
            match inputs[u].get(next) {
                None => order.push(u),
                Some(&v) => {
                    stack.push((u, next + 1));
                    if !std::mem::replace(&mut entered[v], true) {
                        stack.push((v, 0));
                    }
                }
            }
        }
    }
    order
}

/// Units by the place of their first task in a topological order that follows one branch as far as it can.
fn branch_first_units(p: &Problem, unit_of_task: &[usize], n_units: usize) -> Vec<usize> {
    let n = p.tasks.len();
    let mut waiting = vec![0usize; n];
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); n];
    for tensor in &p.tensors {
        for &c in &tensor.consumers {
            waiting[c] += 1;
            readers[tensor.producer].push(c);
        }
    }
    let mut stack: Vec<usize> = (0..n).rev().filter(|&t| waiting[t] == 0).collect();
    let (mut seen, mut order) = (vec![false; n_units], Vec::with_capacity(n_units));
    while let Some(t) = stack.pop() {
        let unit = unit_of_task[t];
        if !seen[unit] {
            seen[unit] = true;
            order.push(unit);
        }
        for &c in readers[t].iter().rev() {
            waiting[c] -= 1;
            if waiting[c] == 0 {
                stack.push(c);
            }
        }
    }
    order
}
