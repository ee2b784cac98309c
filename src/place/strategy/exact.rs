//! Small cores by complete enumeration, depth first, without what is too dear or over the limit already.

use super::model::Model;

/// Steps of the enumeration per unit of work allowed, and at most.
const WORK_SHARE: u64 = 4;
const MOST_STEPS: u64 = 1 << 24;

struct Enumeration<'a> {
    m: &'a Model,
    x: Vec<u16>,
    usage: Vec<f64>,
    /// Least that node `v` and later ones add.
    rest: Vec<f64>,
    best: Option<(f64, Vec<u16>)>,
}

/// The best assignment within the limit, `Some(None)` when there is none, `None` when the core is too large.
pub(crate) fn enumerate(m: &Model, work: u64) -> Option<Option<Vec<u16>>> {
    let most = (work / WORK_SHARE).min(MOST_STEPS) as f64;
    let leaves: f64 = (0..m.nodes()).map(|v| m.strategies(v) as f64).product();
    if leaves * (m.nodes() + m.room.len()).max(1) as f64 > most {
        return None;
    }
    let mut rest = vec![0.0; m.nodes() + 1];
    for v in (0..m.nodes()).rev() {
        rest[v] = rest[v + 1] + least_of(m, v);
    }
    let usage = vec![0.0; m.room.len()];
    let mut all = Enumeration { m, x: Vec::new(), usage, rest, best: None };
    if m.room.iter().all(|&room| room >= 0.0) {
        all.choose(0.0);
    }
    Some(all.best.map(|b| b.1))
}

/// Least cost of a node and its edges to earlier nodes.
fn least_of(m: &Model, v: usize) -> f64 {
    let least = |list: &[f64]| list.iter().copied().fold(f64::INFINITY, f64::min);
    let edges: f64 = m.edges(v).filter(|&(w, _)| w < v).map(|(_, t)| least(&t.floats)).sum();
    least(&m.cost[m.first[v]..m.first[v + 1]]) + edges
}

impl Enumeration<'_> {
    fn choose(&mut self, cost: f64) {
        let (m, v) = (self.m, self.x.len());
        if self.best.as_ref().is_some_and(|b| cost + self.rest[v] >= b.0) {
            return;
        }
        if v == m.nodes() {
            self.best = Some((cost, self.x.clone()));
            return;
        }
        for s in 0..m.strategies(v) {
            let edges: f64 =
                m.edges(v).filter(|&(w, _)| w < v).map(|(w, t)| t.row(s)[usize::from(self.x[w])]).sum();
            let fits = self.add(v, s, 1.0);
            if fits {
                self.x.push(s as u16);
                self.choose(cost + m.cost[m.first[v] + s] + edges);
                self.x.pop();
            }
            self.add(v, s, -1.0);
        }
    }

    /// Adds a strategy's usage, or takes it away; whether all it touches is within the limit.
    fn add(&mut self, v: usize, s: usize, sign: f64) -> bool {
        let mut fits = true;
        for load in &self.m.loads[v] {
            for t in load.begin as usize..load.end as usize {
                self.usage[t] += sign * load.usage[s] as f64;
                fits &= self.usage[t] <= self.m.room[t];
            }
        }
        fits
    }
}
