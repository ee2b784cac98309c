//! Lower bounds that hold for every placement.
//!
//! `load`: for any weights on the devices that sum to one, the weighted sum of loads is at most the largest
//! load, and at least the sum over units of their cheapest weighted time; the weights are improved by a
//! multiplicative update. `path`: labels over the tasks, the earliest end of a task on each device if resources
//! were unlimited and each input chose its producer's device on its own; communication is in the labels.

use crate::answer::Bound;
use crate::problem::Problem;
use crate::units::Units;
use crate::wire::Wire;

/// Most and least updates of the device weights, and the work they may cost together.
const WEIGHT_ROUNDS: (usize, usize) = (20, 400);
const WEIGHT_WORK: usize = 20_000_000;

/// The load bound with the weights that give it.
pub(crate) fn load_bound(units: &Units, k: usize) -> (Bound, Vec<f64>) {
    let mut weight = vec![1.0 / k as f64; k];
    let (mut best, mut best_weight) = (0.0, weight.clone());
    let (fewest, most) = WEIGHT_ROUNDS;
    let rounds = (WEIGHT_WORK / (units.len() * k).max(1)).clamp(fewest, most);
    for round in 0..rounds {
        let (value, used) = weighted(units, &weight);
        if value > best {
            (best, best_weight) = (value, weight.clone());
        }
        let most = used.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let rate = 1.0 / (1.0 + round as f64 / 8.0);
        for (w, u) in weight.iter_mut().zip(&used) {
            *w *= (rate * (u / most - 0.5)).exp();
        }
        let sum: f64 = weight.iter().sum();
        weight.iter_mut().for_each(|w| *w /= sum);
    }
    let single =
        units.time_us.iter().map(|row| row.iter().copied().fold(f64::INFINITY, f64::min)).fold(0.0, f64::max);
    // Rounding in the sums must not lift the bound above the truth.
    let bound = Bound { value: best * (1.0 - 1e-12), kind: "load" };
    (bound.max(Bound { value: single, kind: "largest task" }), best_weight)
}

/// Sum of cheapest weighted times, and the unweighted load each device gets that way.
fn weighted(units: &Units, weight: &[f64]) -> (f64, Vec<f64>) {
    let (mut total, mut used) = (0.0, vec![0.0; weight.len()]);
    for (u, row) in units.time_us.iter().enumerate() {
        let mut best = (f64::INFINITY, 0);
        for &d in &units.candidates[u] {
            let value = weight[d] * row[d];
            if value < best.0 {
                best = (value, d);
            }
        }
        total += best.0;
        used[best.1] += row[best.1];
    }
    (total, used)
}

/// Earliest ends and latest remainders per task and device, communication included.
#[derive(Debug, Clone)]
pub(crate) struct Labels {
    k: usize,
    order: Vec<usize>,
    /// `(tensor, producer)` pairs each task reads, and `(tensor, consumer)` pairs it feeds.
    inputs: Vec<Vec<(usize, usize)>>,
    outputs: Vec<Vec<(usize, usize)>>,
    wire: Wire,
    time_us: Vec<f64>,
    head: Vec<f64>,
    tail: Vec<f64>,
}

impl Labels {
    /// Prepares the labels of a validated problem.
    pub(crate) fn new(p: &Problem) -> Labels {
        let (n, k) = (p.tasks.len(), p.devices.len());
        let (mut inputs, mut outputs) = (vec![Vec::new(); n], vec![Vec::new(); n]);
        for (t, tensor) in p.tensors.iter().enumerate() {
            for &c in &tensor.consumers {
                inputs[c].push((t, tensor.producer));
                outputs[tensor.producer].push((t, c));
            }
        }
        let time_us =
            (0..n * k).map(|i| p.time_us(i / k, i % k).unwrap_or(f64::INFINITY)).collect::<Vec<f64>>();
        let order = p.topological_order().unwrap_or_default();
        let (head, tail) = (vec![0.0; n * k], vec![0.0; n * k]);
        Labels { k, order, inputs, outputs, wire: Wire::new(p), time_us, head, tail }
    }

    /// A lower bound of the makespan when the tasks with `Some` device are fixed there and the others are free.
    pub(crate) fn bound(&mut self, device: &[Option<usize>]) -> f64 {
        let k = self.k;
        self.tails(device);
        self.heads(device);
        let mut most = 0.0f64;
        let (mut first, mut last) = (vec![f64::INFINITY; k], vec![f64::INFINITY; k]);
        let mut sum = vec![0.0; k];
        for (t, fixed) in device.iter().enumerate() {
            let through = |d: usize| self.head[t * k + d] + self.tail[t * k + d];
            let Some(d) = *fixed else {
                most = most.max((0..k).map(through).fold(f64::INFINITY, f64::min));
                continue;
            };
            most = most.max(through(d));
            let time = self.time_us[t * k + d];
            first[d] = first[d].min(self.head[t * k + d] - time);
            last[d] = last[d].min(self.tail[t * k + d]);
            sum[d] += time;
        }
        (0..k).filter(|&d| sum[d] > 0.0).map(|d| first[d] + sum[d] + last[d]).fold(most, f64::max)
    }

    fn allowed(&self, t: usize, d: usize, device: &[Option<usize>]) -> bool {
        device[t].is_none_or(|x| x == d) && self.time_us[t * self.k + d].is_finite()
    }

    /// Earliest end of each task on each device.
    fn heads(&mut self, device: &[Option<usize>]) {
        let k = self.k;
        for i in 0..self.order.len() {
            let t = self.order[i];
            for d in 0..k {
                if !self.allowed(t, d, device) {
                    self.head[t * k + d] = f64::INFINITY;
                    continue;
                }
                let mut ready = 0.0f64;
                for &(x, u) in &self.inputs[t] {
                    let arrival = (0..k).map(|a| self.head[u * k + a] + self.wire.us(x, a, d));
                    ready = ready.max(arrival.fold(f64::INFINITY, f64::min));
                }
                self.head[t * k + d] = ready + self.time_us[t * k + d];
            }
        }
    }

    /// Least time from a task's end to the end of everything that depends on it.
    fn tails(&mut self, device: &[Option<usize>]) {
        let k = self.k;
        for i in (0..self.order.len()).rev() {
            let t = self.order[i];
            for d in 0..k {
                let mut after = 0.0f64;
                for &(x, c) in &self.outputs[t] {
                    let rest = (0..k)
                        .filter(|&b| self.allowed(c, b, device))
                        .map(|b| self.wire.us(x, d, b) + self.time_us[c * k + b] + self.tail[c * k + b]);
                    after = after.max(rest.fold(f64::INFINITY, f64::min));
                }
                self.tail[t * k + d] = after;
            }
        }
    }
}

/// The strongest of the general latency bounds.
pub(crate) fn latency_bound(p: &Problem, units: &Units) -> Bound {
    let path = Labels::new(p).bound(&vec![None; p.tasks.len()]);
    let (load, _) = load_bound(units, p.devices.len());
    Bound { value: path * (1.0 - 1e-12), kind: "path" }.max(load)
}
