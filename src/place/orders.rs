//! Linear orders of units in which neighbours are close, so that contiguous runs cut few tensors.
//!
//! Colocated tasks (a layer and its gradient) can make the units cyclic. Every unit therefore gets a level, the
//! earliest of its tasks, where a task without inputs counts as late as its readers allow; only edges to a higher
//! level are followed. For a training graph that leaves the forward part.

use crate::problem::Problem;
use crate::rng::Rng;
use crate::units::Flow;
use std::collections::BTreeSet;

/// Rounds of settling, and the part of the order that counts as far.
const SETTLE_ROUNDS: usize = 4;
const FAR_SHARE: usize = 20;

/// The acyclic part of the quotient: what each unit reads from lower levels, and the units nobody higher reads.
#[derive(Debug, Clone)]
pub(crate) struct Quotient {
    /// Orders by the first task visited when the tasks themselves are followed.
    by_task: Vec<Vec<usize>>,
    inputs: Vec<Vec<usize>>,
    sinks: Vec<usize>,
    by_level: Vec<usize>,
}

impl Quotient {
    pub(crate) fn new(p: &Problem, unit_of_task: &[usize], n_units: usize) -> Quotient {
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
        // Sinks by level: what is read late comes late.
        let sinks = by_level.iter().copied().filter(|&u| !read[u]).collect();
        let by_task = task_post_orders(p, unit_of_task, n_units);
        Quotient {
            by_task,
            inputs: inputs.into_iter().map(|set| set.into_iter().collect()).collect(),
            sinks,
            by_level,
        }
    }

    /// Depth-first from the sinks, inputs by index.
    pub(crate) fn post_order(&self) -> Vec<usize> {
        post_order(&self.inputs, &self.sinks)
    }

    /// Orders that are always tried, the one that usually cuts least first.
    pub(crate) fn orders(&self) -> Vec<Vec<usize>> {
        let mut reversed = self.inputs.clone();
        reversed.iter_mut().for_each(|list| list.reverse());
        let mut orders = vec![self.post_order(), post_order(&reversed, &self.sinks), self.by_level.clone()];
        orders.extend(self.by_task.iter().cloned());
        orders
    }

    /// A post-order with every list of inputs, and sometimes the sinks, in a random sequence.
    pub(crate) fn random(&self, rng: &mut Rng) -> Vec<usize> {
        let mut inputs = self.inputs.clone();
        inputs.iter_mut().for_each(|list| shuffle(list, rng));
        let mut sinks = self.sinks.clone();
        if rng.below(2) == 0 {
            shuffle(&mut sinks, rng);
        }
        post_order(&inputs, &sinks)
    }
}

fn shuffle(list: &mut [usize], rng: &mut Rng) {
    for i in (1..list.len()).rev() {
        list.swap(i, rng.below(i + 1));
    }
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

/// Units by their first task in a post-order over the tasks, from the first input and from the last.
fn task_post_orders(p: &Problem, unit_of_task: &[usize], n_units: usize) -> Vec<Vec<usize>> {
    let n = p.tasks.len();
    let (mut inputs, mut read) = (vec![Vec::new(); n], vec![false; n]);
    for tensor in &p.tensors {
        tensor.consumers.iter().for_each(|&c| inputs[c].push(tensor.producer));
        read[tensor.producer] |= !tensor.consumers.is_empty();
    }
    let sinks: Vec<usize> = (0..n).filter(|&t| !read[t]).collect();
    let first_visits = |inputs: &[Vec<usize>]| -> Vec<usize> {
        let mut seen = vec![false; n_units];
        let units = post_order(inputs, &sinks).into_iter().map(|t| unit_of_task[t]);
        units.filter(|&u| !std::mem::replace(&mut seen[u], true)).collect()
    };
    let forwards = first_visits(&inputs);
    inputs.iter_mut().for_each(|list| list.reverse());
    vec![forwards, first_visits(&inputs)]
}
