//! Lagrangian prices of usage over time, by subgradient steps on the bound of tree-reweighted messages.

use super::model::Model;
use super::trws::Messages;

/// Prices, the bound they prove, and an assignment they suggest.
pub(crate) struct Dual {
    /// Price of a unit of usage at each time.
    pub(crate) price: Vec<f64>,
    /// No solution costs less, as far as the nodes that still choose.
    pub(crate) bound: f64,
    pub(crate) work: u64,
}

/// Entries of tables touched by one sweep.
pub(crate) fn sweep_work(m: &Model) -> u64 {
    2 * m.table.iter().map(|&t| m.tables[t as usize].floats.len() as u64).sum::<u64>()
        + 4 * m.cost.len() as u64
}

/// Improves prices until `work` is spent; `value` is the cost of a known solution.
///
/// Only times at which some relaxed solution was the worst of a stretch over the limit get a price: a handful,
/// instead of one for each of thousands of nearly equal times.
pub(crate) fn ascend(m: &Model, start: Option<Vec<f64>>, value: f64, work: u64) -> Dual {
    let mut price = start.unwrap_or_else(|| vec![0.0; m.room.len()]);
    let mut active: Vec<bool> = price.iter().map(|&p| p > 0.0).collect();
    let mut best = Dual { price: price.clone(), bound: f64::NEG_INFINITY, work: 0 };
    let mut messages = Messages::new(m, 2.0 * value.abs());
    let mut cost = vec![0.0; m.cost.len()];
    let each = sweep_work(m) + 2 * m.loads.iter().map(|l| l.len() as u64).sum::<u64>() + m.room.len() as u64;
    let (mut step, mut since) = (0.3, 0);
    let mut flow = vec![0.0; price.len()];
    let keep = 0.7;
    let patience = 15;
    let mut goal = f64::NEG_INFINITY;
    while best.work < work {
        best.work += each;
        m.charge(&price, &mut cost);
        cost.iter_mut().zip(&m.cost).for_each(|(c, own)| *c += own);
        let free: f64 = price.iter().zip(&m.room).map(|(p, r)| p * r).sum();
        let bound = messages.sweep(m, &cost) - free;
        if bound > best.bound {
            best.bound = bound;
            best.price.clone_from(&price);
        }
        since += 1;
        if best.bound > goal {
            goal = best.bound + 0.002 * (value - best.bound);
            since = 0;
        } else if since > patience {
            since = 0;
            step *= 0.8;
            if step < 1e-5 {
                break;
            }
        }
        let x: Vec<u16> = (0..m.nodes()).map(|v| least(messages.gather(m, &cost, v))).collect();
        let usage = m.usage(&x);
        for t in m.peaks(&usage) {
            active[t as usize] = true;
        }
        let mut norm = 0.0;
        for t in (0..price.len()).filter(|&t| active[t]) {
            flow[t] = keep * flow[t] + (1.0 - keep) * (usage[t] - m.room[t]);
            if price[t] == 0.0 && flow[t] < 0.0 {
                flow[t] = 0.0;
            }
            norm += flow[t] * flow[t];
        }
        if norm == 0.0 {
            continue;
        }
        let long = step * (value - bound).max(0.0) / norm;
        price.iter_mut().zip(&flow).for_each(|(p, f)| *p = (*p + long * f).max(0.0));
    }
    best
}

/// Number of the least entry.
pub(crate) fn least(list: &[f64]) -> u16 {
    let mut at = 0;
    for (i, x) in list.iter().enumerate() {
        if *x < list[at] {
            at = i;
        }
    }
    at as u16
}
