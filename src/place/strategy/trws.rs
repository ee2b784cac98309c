//! Sequential tree-reweighted message passing (Kolmogorov 2006): a lower bound on the sum of node and pair costs,
//! and the message that every node ends with.
//!
//! Messages reparameterise the costs, so that any message gives a valid bound; sweeps forth and back never lower it.

use super::model::Model;

/// Messages of a problem; nodes are swept in their order.
pub(crate) struct Messages {
    /// Message to the node at the head of each neighbour slot: slot `e` of node `v` holds the message from
    /// `near[e]` to `v`.
    at: Vec<f64>,
    /// Start of slot `e` in `at`.
    offset: Vec<usize>,
    /// The slot of the same edge seen from the other end.
    twin: Vec<u32>,
    /// Share of a node's belief that goes to each edge: over the larger of earlier and later neighbours.
    share: Vec<f64>,
    /// Entries above this count as this: what exceeds a known solution needs no exact number.
    cap: f64,
    belief: Vec<f64>,
}

impl Messages {
    pub(crate) fn new(m: &Model, cap: f64) -> Messages {
        let mut offset = Vec::with_capacity(m.near.len());
        let mut size = 0;
        let (mut twin, mut share) = (Vec::with_capacity(m.near.len()), Vec::with_capacity(m.nodes()));
        for v in 0..m.nodes() {
            let mut earlier = 0;
            for &w in &m.near[m.start[v]..m.start[v + 1]] {
                let w = w as usize;
                offset.push(size);
                size += m.strategies(v);
                earlier += usize::from(w < v);
                let back = &m.near[m.start[w]..m.start[w + 1]];
                twin.push((m.start[w] + back.partition_point(|&u| (u as usize) < v)) as u32);
            }
            let degree = m.start[v + 1] - m.start[v];
            share.push(1.0 / earlier.max(degree - earlier).max(1) as f64);
        }
        Messages { at: vec![0.0; size], offset, twin, share, cap, belief: Vec::new() }
    }

    /// Costs of a node's strategies with all messages to it.
    pub(crate) fn gather(&mut self, m: &Model, cost: &[f64], v: usize) -> &mut Vec<f64> {
        let k = m.strategies(v);
        self.belief.clear();
        self.belief.extend(cost[m.first[v]..m.first[v + 1]].iter().map(|c| c.min(self.cap)));
        for e in m.start[v]..m.start[v + 1] {
            let from = &self.at[self.offset[e]..self.offset[e] + k];
            self.belief.iter_mut().zip(from).for_each(|(b, f)| *b += f);
        }
        &mut self.belief
    }

    /// One sweep forth and one back; returns the bound. `cost` has one number per strategy.
    pub(crate) fn sweep(&mut self, m: &Model, cost: &[f64]) -> f64 {
        for v in 0..m.nodes() {
            self.pass(m, cost, v, |w| w > v);
        }
        (0..m.nodes()).rev().map(|v| self.pass(m, cost, v, |w| w < v)).sum()
    }

    /// Chooses node by node: best beside the nodes chosen before, messages standing for the others.
    pub(crate) fn decode(&self, m: &Model, cost: &[f64]) -> Vec<u16> {
        let mut x: Vec<u16> = Vec::with_capacity(m.nodes());
        for v in 0..m.nodes() {
            let mut belief: Vec<f64> = cost[m.first[v]..m.first[v + 1]].to_vec();
            for e in m.start[v]..m.start[v + 1] {
                let w = m.near[e] as usize;
                if w < v {
                    let t = &m.tables[m.turned[m.table[e] as usize] as usize];
                    belief.iter_mut().zip(t.row(usize::from(x[w]))).for_each(|(b, f)| *b += f);
                } else {
                    let from = &self.at[self.offset[e]..];
                    belief.iter_mut().zip(from).for_each(|(b, f)| *b += f);
                }
            }
            x.push(super::dual::least(&belief));
        }
        x
    }

    /// Sends messages from `v` to the neighbours chosen; returns what was taken out of the belief and messages.
    fn pass(&mut self, m: &Model, cost: &[f64], v: usize, chosen: impl Fn(usize) -> bool) -> f64 {
        let mut belief = std::mem::take(self.gather(m, cost, v));
        let mut taken = normalise(&mut belief);
        let k = belief.len();
        let share = self.share[v];
        let mut tail = vec![0.0; k];
        for e in m.start[v]..m.start[v + 1] {
            if !chosen(m.near[e] as usize) {
                continue;
            }
            let back = &self.at[self.offset[e]..self.offset[e] + k];
            tail.iter_mut().zip(&belief).zip(back).for_each(|((t, b), f)| *t = share * b - f);
            let table = &m.tables[m.table[e] as usize];
            let at = self.offset[self.twin[e] as usize];
            let out = &mut self.at[at..at + table.cols];
            out.fill(f64::INFINITY);
            for (i, &t) in tail.iter().enumerate() {
                lower(out, table.row(i), t);
            }
            let cap = self.cap;
            taken += normalise(out);
            out.iter_mut().for_each(|o| *o = o.min(cap));
        }
        self.belief = belief;
        taken
    }
}

/// Takes the least entry out of all.
fn normalise(list: &mut [f64]) -> f64 {
    let least = list.iter().copied().fold(f64::INFINITY, f64::min);
    list.iter_mut().for_each(|x| *x -= least);
    least
}

/// `out = min(out, row + by)`.
#[inline]
pub(crate) fn lower(out: &mut [f64], row: &[f64], by: f64) {
    for (o, r) in out.iter_mut().zip(row) {
        let x = r + by;
        *o = if x < *o { x } else { *o };
    }
}
