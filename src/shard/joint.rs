//! A lower bound for reading and writing with one division of layers.
//!
//! Each phase alone may want another division, so the sum of their separate bounds can be far below any plan. Here both
//! share one: for fractional layers `H_i` on pool `i` with `K_i` stages the run is at least
//!
//! `sum H_i (r_i + w_i) + (m_r - 1) t_r + (N - 1) max(sum H_i w_i, m_w t_w) + (m_w - 1) t_w`,
//!
//! where `t_r >= H_i r_i / K_i` and `t_w >= H_i w_i / K_i` are the slowest stages. Replacing each maximum by a convex
//! combination keeps it a lower bound (weak duality) and makes it linear in `H`, so it is solved by filling the cheapest
//! pool first. The combination is improved by multiplicative weights; every one of them is valid, the best is kept.

use crate::fill::Item;

/// Rounds of improvement; more changed no bound in the fourth digit.
const ROUNDS: usize = 150;

/// One phase: its items, its pieces.
#[derive(Clone, Copy)]
pub(crate) struct Side<'a> {
    /// The pools.
    pub(crate) items: &'a [Item],
    /// Pieces.
    pub(crate) pieces: u64,
}

impl Side<'_> {
    /// Time of a layer on a pool with its share of the hops.
    fn dear(&self, at: usize) -> f64 {
        let item = &self.items[at];
        item.unit_us + item.hop_us / item.room.middle.max(1) as f64
    }

    /// Share of a layer's time on each of the pool's stages.
    fn spread(&self, at: usize) -> f64 {
        self.items[at].unit_us / self.items[at].slots.max(1) as f64
    }

    /// What every division has besides.
    fn constant(&self) -> f64 {
        let head = self.items.iter().map(|item| item.head_us).fold(f64::INFINITY, f64::min);
        head - self.items.iter().map(|item| item.hop_us).sum::<f64>()
    }
}

/// Weights on the pools of both phases and on the way through while writing.
struct Weights {
    reading: Vec<f64>,
    writing: Vec<f64>,
    through: f64,
}

/// Lower bound on reading once and writing `rounds` rounds, in us.
pub(crate) fn joint(reading: Side<'_>, writing: Side<'_>, layers: usize, rounds: u64) -> f64 {
    let count = reading.items.len();
    let even = vec![1.0 / count as f64; count];
    let mut weights = Weights { reading: even.clone(), writing: even, through: 0.5 };
    let mut best = f64::NEG_INFINITY;
    for round in 1..=ROUNDS {
        let step = 2.0 / (round as f64).sqrt();
        let (bound, given) = solve(reading, writing, layers, rounds, &weights);
        best = best.max(bound);
        push(&mut weights.reading, step, |at| given[at] * reading.spread(at));
        push(&mut weights.writing, step, |at| given[at] * writing.spread(at));
        let through: f64 = (0..count).map(|at| given[at] * writing.dear(at)).sum();
        let slowest = (0..count).map(|at| given[at] * writing.spread(at)).fold(0.0, f64::max);
        let wait = writing.pieces as f64 * slowest;
        let odds =
            weights.through / (1.0 - weights.through) * (step * (through - wait) / through.max(wait)).exp();
        weights.through = (odds / (1.0 + odds)).clamp(1e-6, 1.0 - 1e-6);
    }
    best
}

/// Moves weight to where the load is.
fn push(weights: &mut [f64], step: f64, load: impl Fn(usize) -> f64) {
    let most = (0..weights.len()).map(&load).fold(1e-12, f64::max);
    for (at, weight) in weights.iter_mut().enumerate() {
        *weight = weight.max(1e-9) * (step * load(at) / most).exp();
    }
    let sum: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= sum);
}

/// The least of the linear form over divisions that fit, and that division.
fn solve(
    reading: Side<'_>,
    writing: Side<'_>,
    layers: usize,
    rounds: u64,
    weights: &Weights,
) -> (f64, Vec<f64>) {
    let count = reading.items.len();
    let more = rounds.saturating_sub(1) as f64;
    let (waits_r, waits_w) = ((reading.pieces - 1) as f64, (writing.pieces - 1) as f64);
    let waiting = waits_w + more * (1.0 - weights.through) * writing.pieces as f64;
    let cost = |at: usize| {
        reading.dear(at)
            + waits_r * weights.reading[at] * reading.spread(at)
            + (1.0 + more * weights.through) * writing.dear(at)
            + waiting * weights.writing[at] * writing.spread(at)
    };
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|&a, &b| cost(a).total_cmp(&cost(b)));
    let (mut left, mut sum, mut given) = (layers as f64, 0.0, vec![0.0; count]);
    for at in order {
        let item = &writing.items[at];
        given[at] = left.min((item.slots * item.room.middle) as f64);
        left -= given[at];
        sum += given[at] * cost(at);
    }
    let constant = reading.constant() + (1.0 + more * weights.through) * writing.constant();
    (sum + constant, given)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fill::Room;

    fn item(unit_us: f64, slots: usize, middle: usize) -> Item {
        let room = Room { middle, first: Some(middle), last: Some(middle), only: Some(middle) };
        Item { unit_us, head_us: 0.0, hop_us: 0.0, slots, room }
    }

    /// The run of a division of whole layers over pools of one stage each.
    fn run(reading: &[Item], writing: &[Item], given: &[usize], pieces: (u64, u64), rounds: u64) -> f64 {
        let times = |items: &[Item]| -> Vec<f64> {
            items.iter().zip(given).map(|(item, &n)| n as f64 * item.unit_us).collect()
        };
        let (r, w) = (times(reading), times(writing));
        let most = |times: &[f64]| times.iter().copied().fold(0.0, f64::max);
        let (sum_r, sum_w): (f64, f64) = (r.iter().sum(), w.iter().sum());
        let round = sum_w.max(pieces.1 as f64 * most(&w));
        sum_r
            + (pieces.0 - 1) as f64 * most(&r)
            + (rounds - 1) as f64 * round
            + sum_w
            + (pieces.1 - 1) as f64 * most(&w)
    }

    #[test]
    fn the_bound_is_below_every_division_and_near_the_best() {
        let reading = [item(3.0, 1, 30), item(1.0, 1, 30), item(7.0, 1, 30)];
        let writing = [item(1.0, 1, 30), item(2.0, 1, 30), item(1.5, 1, 30)];
        let mut best = f64::INFINITY;
        for a in 0..=30 {
            for b in 0..=30_usize.min(40 - a) {
                let c = 40 - a - b;
                if c <= 30 {
                    best = best.min(run(&reading, &writing, &[a, b, c], (8, 4), 20));
                }
            }
        }
        let side = |items, pieces| Side { items, pieces };
        let bound = joint(side(&reading, 8), side(&writing, 4), 40, 20);
        assert!(bound <= best && bound >= 0.93 * best, "{bound} {best}");
    }
}
