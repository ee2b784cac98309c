//! Exact reductions before the search: what is proven here never has to be searched.
//!
//! * A strategy is pruned when another costs no more beside every choice of the neighbours and uses no more.
//! * A node whose best strategy follows from one neighbour's is merged into it, usage and all.
//! * A node without usage that counts and with two neighbours becomes an edge between them.
//! * A load counts only over times that some choice can push beyond the limit.
//!
//! Each step is recorded so that choices of the rest can be turned back into choices of all nodes.

use super::file::StrategyProblem;
use super::tables::{FORBIDDEN, Tables};
use crate::error::PlaceError;
use std::collections::BTreeMap;

/// Usage of a node's strategies over an interval of times.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Load {
    pub(crate) begin: u32,
    pub(crate) end: u32,
    pub(crate) usage: Vec<i64>,
}

/// One step, undone in reverse order.
#[derive(Debug, Clone)]
enum Step {
    /// Strategies were pruned; the list says which were kept.
    Keep { node: u32, kept: Vec<u16> },
    /// The node's strategy is `map[strategy of leader]`.
    Follow { node: u32, leader: u32, map: Vec<u16> },
    /// The node's strategy is `choice[strategy of a * strategies of b + strategy of b]`.
    Between { node: u32, a: u32, b: u32, width: usize, choice: Vec<u16> },
}

/// A problem while it shrinks. A node that is gone has no neighbours and one strategy.
#[derive(Debug)]
pub(crate) struct Reduced {
    pub(crate) cost: Vec<Vec<f64>>,
    pub(crate) loads: Vec<Vec<Load>>,
    /// Neighbours with the table whose rows are this node's strategies.
    pub(crate) near: Vec<BTreeMap<u32, u32>>,
    pub(crate) tables: Tables,
    /// Whether the node still chooses.
    pub(crate) alive: Vec<bool>,
    /// Usage of what is decided, by time.
    pub(crate) base: Vec<i64>,
    /// Cost of what is decided.
    pub(crate) base_cost: f64,
    pub(crate) limit: Option<i64>,
    /// Work done, in table entries.
    pub(crate) work: u64,
    steps: Vec<Step>,
    /// Greatest rise of a row over another, by table.
    rises: BTreeMap<u32, Box<[f64]>>,
    dirty: Vec<bool>,
    /// Number of times before `t` that can exceed the limit.
    tight_before: Vec<u32>,
}

/// Largest sum of row, column and neighbour strategies when a node is replaced by an edge.
const MAX_BETWEEN: usize = 1 << 20;
/// Rounds over all nodes.
const ROUNDS: usize = 12;

impl Reduced {
    /// Takes over a valid problem and reduces it.
    pub(crate) fn new(p: &StrategyProblem) -> Reduced {
        let mut r = Reduced::copy(p);
        for _ in 0..ROUNDS {
            r.see_times();
            let mut changed = false;
            // Leaves first, so that few edges are left to move when a node with many goes.
            let mut order: Vec<usize> = (0..r.cost.len()).filter(|&v| r.alive[v]).collect();
            order.sort_by_key(|&v| r.near[v].len());
            for v in order {
                if std::mem::take(&mut r.dirty[v]) && r.alive[v] {
                    changed |= r.visit(v);
                }
            }
            if !changed {
                break;
            }
        }
        r.see_times();
        r.rises.clear();
        r
    }

    /// # Errors
    /// `P004` when the least usage exceeds the limit at some time.
    pub(crate) fn refuse_overfull(&self) -> Result<(), PlaceError> {
        let least = self.extremes().0.into_iter().max().unwrap_or(0);
        match self.limit.filter(|&limit| least > limit.max(0)) {
            Some(limit) => {
                let message = format!(
                    "without forbidden pairs at least {least} is used at some time, the limit is {limit}"
                );
                Err(PlaceError::impossible("usage_limit", message))
            }
            None => Ok(()),
        }
    }

    fn copy(p: &StrategyProblem) -> Reduced {
        let n = p.nodes.len();
        let (times, number) = times(p);
        let mut r = Reduced {
            cost: p.nodes.iter().map(|v| v.costs.iter().map(|&c| number_of(c)).collect()).collect(),
            loads: vec![Vec::new(); n],
            near: vec![BTreeMap::new(); n],
            tables: Tables::default(),
            alive: vec![true; n],
            base: vec![0; times],
            base_cost: 0.0,
            // All usages together are below 2^60, so a limit beyond that says the same as one of 2^61.
            limit: p.usage_limit.map(|limit| limit.clamp(-(1 << 61), 1 << 61)),
            work: 0,
            steps: Vec::new(),
            rises: BTreeMap::new(),
            dirty: vec![true; n],
            tight_before: Vec::new(),
        };
        for (v, node) in p.nodes.iter().enumerate() {
            if node.begin < node.end && p.usage_limit.is_some() {
                let (begin, end) = (number[&node.begin], number[&node.end]);
                r.loads[v].push(Load { begin, end, usage: node.usages.clone() });
            }
        }
        r.copy_edges(p);
        r
    }

    fn copy_edges(&mut self, p: &StrategyProblem) {
        let mut number: BTreeMap<(usize, usize), u32> = BTreeMap::new();
        for e in &p.edges {
            let (rows, cols) = (self.cost[e.a].len(), self.cost[e.b].len());
            let table = &p.tables[e.table];
            if e.a == e.b {
                (0..rows).for_each(|i| self.cost[e.a][i] += number_of(table[i * rows + i]));
                continue;
            }
            let id = *number.entry((e.table, cols)).or_insert_with(|| {
                self.tables.intern(rows, cols, table.iter().map(|&c| number_of(c)).collect())
            });
            self.join(e.a as u32, e.b as u32, id);
        }
    }

    /// Adds table `id` (rows of `a`) between two nodes.
    fn join(&mut self, a: u32, b: u32, id: u32) {
        let id = match self.near[a as usize].get(&b) {
            Some(&old) => self.tables.sum(old, id),
            None => id,
        };
        let turned = self.tables.turned(id);
        self.near[a as usize].insert(b, id);
        self.near[b as usize].insert(a, turned);
    }

    fn part(&mut self, a: u32, b: u32) {
        self.near[a as usize].remove(&b);
        self.near[b as usize].remove(&a);
        self.dirty[b as usize] = true;
    }

    /// Least and greatest usage over time with the strategies that are left.
    pub(crate) fn extremes(&self) -> (Vec<i64>, Vec<i64>) {
        let mut low = vec![0i64; self.base.len() + 1];
        let mut high = low.clone();
        for load in self.loads.iter().flatten() {
            let least = load.usage.iter().copied().min().unwrap_or(0);
            let most = load.usage.iter().copied().max().unwrap_or(0);
            for (line, by) in [(&mut low, least), (&mut high, most)] {
                line[load.begin as usize] += by;
                line[load.end as usize] -= by;
            }
        }
        let sum = |line: Vec<i64>| {
            let mut run = 0;
            line.iter()
                .zip(&self.base)
                .map(|(d, b)| {
                    run += d;
                    run + b
                })
                .collect()
        };
        (sum(low), sum(high))
    }

    /// Finds the times that can exceed the limit and drops loads that touch none of them.
    fn see_times(&mut self) {
        for v in 0..self.cost.len() {
            self.settle_loads(v);
        }
        let limit = self.limit.unwrap_or(i64::MAX);
        let (_, high) = self.extremes();
        let mut count = 0;
        self.tight_before = std::iter::once(0)
            .chain(high.iter().map(|&h| {
                count += u32::from(h > limit);
                count
            }))
            .collect();
        for v in 0..self.cost.len() {
            let tight = &self.tight_before;
            let before = self.loads[v].len();
            self.loads[v].retain(|l| tight[l.end as usize] > tight[l.begin as usize]);
            self.dirty[v] |= self.loads[v].len() < before;
        }
    }

    /// Moves what every strategy uses into the base; adds up loads of one interval.
    fn settle_loads(&mut self, v: usize) {
        let mut loads = std::mem::take(&mut self.loads[v]);
        loads.sort_by_key(|l| (l.begin, l.end));
        loads.dedup_by(|next, kept| {
            let same = (next.begin, next.end) == (kept.begin, kept.end);
            if same {
                kept.usage.iter_mut().zip(&next.usage).for_each(|(a, b)| *a += b);
            }
            same
        });
        for load in &mut loads {
            let least = load.usage.iter().copied().min().unwrap_or(0);
            if least != 0 {
                load.usage.iter_mut().for_each(|u| *u -= least);
                self.base[load.begin as usize..load.end as usize].iter_mut().for_each(|b| *b += least);
            }
        }
        loads.retain(|l| l.usage.iter().any(|&u| u != 0));
        self.loads[v] = loads;
    }

    fn visit(&mut self, v: usize) -> bool {
        let pruned = self.prune(v);
        if self.cost[v].len() == 1 {
            self.decide(v);
            return true;
        }
        match self.near[v].len() {
            0 => pruned,
            1 => self.follow_only_neighbour(v) || pruned,
            2 if self.loads[v].is_empty() => self.replace_by_edge(v) || self.follow_any(v) || pruned,
            _ => self.follow_any(v) || pruned,
        }
    }

    /// Folds a node with one strategy into its neighbours.
    fn decide(&mut self, v: usize) {
        for (w, id) in std::mem::take(&mut self.near[v]) {
            let row = self.tables.get(id).row(0);
            self.cost[w as usize].iter_mut().zip(row).for_each(|(c, r)| *c = (*c + r).min(FORBIDDEN));
            self.near[w as usize].remove(&(v as u32));
            self.dirty[w as usize] = true;
        }
        self.settle_loads(v);
        self.base_cost += self.cost[v][0];
        self.cost[v] = vec![0.0];
        self.alive[v] = false;
    }

    /// Greatest of `row j - row i` over the columns, for all pairs `(j, i)`; where `i` is forbidden it cannot rise.
    fn rises(&mut self, id: u32) -> &[f64] {
        let tables = &self.tables;
        self.rises.entry(id).or_insert_with(|| {
            let t = tables.get(id);
            let rise = |j: usize, i: usize| {
                t.row(j)
                    .iter()
                    .zip(t.row(i))
                    .filter(|&(_, &y)| y < FORBIDDEN)
                    .map(|(x, y)| x - y)
                    .fold(-FORBIDDEN, f64::max)
            };
            (0..t.rows).flat_map(|j| (0..t.rows).map(move |i| (j, i))).map(|(j, i)| rise(j, i)).collect()
        })
    }

    /// Removes strategies that another one replaces at no cost.
    fn prune(&mut self, v: usize) -> bool {
        let k = self.cost[v].len();
        if k == 1 || k > 256 {
            return false;
        }
        let mut worse = vec![0.0; k * k];
        for j in 0..k {
            for i in 0..k {
                worse[j * k + i] =
                    if self.cost[v][i] >= FORBIDDEN { -FORBIDDEN } else { self.cost[v][j] - self.cost[v][i] };
            }
        }
        let ids: Vec<u32> = self.near[v].values().copied().collect();
        self.work += (ids.len() * k * k) as u64;
        for id in ids {
            worse.iter_mut().zip(self.rises(id)).for_each(|(w, r)| *w += r);
        }
        for load in &self.loads[v] {
            for j in 0..k {
                (0..k).filter(|&i| load.usage[j] > load.usage[i]).for_each(|i| worse[j * k + i] = FORBIDDEN);
            }
        }
        let mut gone = vec![false; k];
        for i in 0..k {
            let better = |j: usize| j != i && worse[j * k + i] <= 0.0;
            gone[i] = (0..k).any(|j| !gone[j] && better(j));
        }
        let kept: Vec<u16> = (0..k).filter(|&i| !gone[i]).map(|i| i as u16).collect();
        kept.len() < k && self.keep(v, kept)
    }

    fn keep(&mut self, v: usize, kept: Vec<u16>) -> bool {
        let pick = |i: &u16| usize::from(*i);
        self.cost[v] = kept.iter().map(|i| self.cost[v][pick(i)]).collect();
        for load in &mut self.loads[v] {
            load.usage = kept.iter().map(|i| load.usage[pick(i)]).collect();
        }
        for (w, id) in self.near[v].clone() {
            let id = self.tables.select_rows(id, &kept);
            let turned = self.tables.turned(id);
            self.near[v].insert(w, id);
            self.near[w as usize].insert(v as u32, turned);
            self.dirty[w as usize] = true;
        }
        self.dirty[v] = true;
        self.steps.push(Step::Keep { node: v as u32, kept });
        true
    }

    /// Merges a node into its only neighbour when for each strategy of that one it has a best answer.
    fn follow_only_neighbour(&mut self, v: usize) -> bool {
        let Some((&u, &id)) = self.near[v].first_key_value() else { return false };
        let id = self.tables.turned(id);
        let t = self.tables.get(id);
        let mut map = Vec::with_capacity(t.rows);
        for i in 0..t.rows {
            let cost = |j: usize| (t.row(i)[j] + self.cost[v][j]).min(FORBIDDEN);
            let best =
                (0..t.cols).min_by(|&a, &b| cost(a).total_cmp(&cost(b)).then(self.usage_order(v, a, b)));
            let Some(best) = best else { return false };
            if !self.loads[v]
                .iter()
                .all(|l| (0..t.cols).all(|j| l.usage[best] <= l.usage[j] || cost(j) >= FORBIDDEN))
            {
                return false;
            }
            map.push(best as u16);
        }
        self.work += t.data.len() as u64;
        self.merge(v, u, map);
        true
    }

    fn usage_order(&self, v: usize, a: usize, b: usize) -> std::cmp::Ordering {
        let of = |i: usize| self.loads[v].iter().map(move |l| l.usage[i]);
        of(a).cmp(of(b))
    }

    /// Merges a node into a neighbour each of whose strategies allows it only one.
    fn follow_any(&mut self, v: usize) -> bool {
        let found = self.near[v].iter().find_map(|(&u, &id)| {
            let t = self.tables.get(id);
            forced(t.rows, t.cols, &t.data).map(|map| (u, map))
        });
        match found {
            Some((u, map)) => {
                self.merge(v, u, map);
                true
            }
            None => false,
        }
    }

    /// Merges `v` into `u` by a map from strategies of `u` to those of `v`.
    fn merge(&mut self, v: usize, u: u32, map: Vec<u16>) {
        let leader = u as usize;
        let id = self.near[leader][&(v as u32)];
        let t = self.tables.get(id);
        for (i, &j) in map.iter().enumerate() {
            let j = usize::from(j);
            self.cost[leader][i] = (self.cost[leader][i] + t.row(i)[j] + self.cost[v][j]).min(FORBIDDEN);
        }
        for mut load in std::mem::take(&mut self.loads[v]) {
            load.usage = map.iter().map(|&j| load.usage[usize::from(j)]).collect();
            self.loads[leader].push(load);
        }
        self.part(v as u32, u);
        for (w, id) in std::mem::take(&mut self.near[v]) {
            self.near[w as usize].remove(&(v as u32));
            self.dirty[w as usize] = true;
            let id = self.tables.select_rows(id, &map);
            self.join(u, w, id);
        }
        self.cost[v] = vec![0.0];
        self.alive[v] = false;
        self.steps.push(Step::Follow { node: v as u32, leader: u, map });
    }

    /// Replaces a node between two others, whose usage never counts, by an edge.
    fn replace_by_edge(&mut self, v: usize) -> bool {
        let ends: Vec<(u32, u32)> = self.near[v].iter().map(|(&w, &id)| (w, id)).collect();
        let [(a, x), (b, y)] = ends[..] else { return false };
        let (x, y) = (self.tables.turned(x), self.tables.turned(y));
        let (ta, tb) = (self.tables.get(x), self.tables.get(y));
        let (rows, cols, k) = (ta.rows, tb.rows, ta.cols);
        if rows * cols * k > MAX_BETWEEN {
            return false;
        }
        let (mut data, mut choice) = (Vec::with_capacity(rows * cols), Vec::with_capacity(rows * cols));
        for i in 0..rows {
            let left: Vec<f64> = ta.row(i).iter().zip(&self.cost[v]).map(|(t, c)| t + c).collect();
            for j in 0..cols {
                let cost = |s: usize| left[s] + tb.row(j)[s];
                let best = (0..k).min_by(|&s, &t| cost(s).total_cmp(&cost(t))).unwrap_or(0);
                data.push(cost(best).min(FORBIDDEN));
                choice.push(best as u16);
            }
        }
        self.work += (rows * cols * k) as u64;
        self.part(v as u32, a);
        self.part(v as u32, b);
        let id = self.tables.intern(rows, cols, data);
        self.join(a, b, id);
        self.cost[v] = vec![0.0];
        self.alive[v] = false;
        self.steps.push(Step::Between { node: v as u32, a, b, width: cols, choice });
        true
    }

    /// Turns strategies of the reduced problem (zero for nodes that are gone) into those of the problem as given.
    pub(crate) fn expand(&self, choice: &[u16]) -> Vec<usize> {
        let mut x: Vec<u16> = choice.to_vec();
        for step in self.steps.iter().rev() {
            match step {
                Step::Keep { node, kept } => x[*node as usize] = kept[usize::from(x[*node as usize])],
                Step::Follow { node, leader, map } => {
                    x[*node as usize] = map[usize::from(x[*leader as usize])];
                }
                Step::Between { node, a, b, width, choice } => {
                    let at = usize::from(x[*a as usize]) * width + usize::from(x[*b as usize]);
                    x[*node as usize] = choice[at];
                }
            }
        }
        x.into_iter().map(usize::from).collect()
    }
}

/// For each column the only row allowed beside it, if no column allows two; columns that allow none get row 0.
fn forced(rows: usize, cols: usize, data: &[f64]) -> Option<Vec<u16>> {
    let mut map = vec![None; cols];
    for i in 0..rows {
        for j in 0..cols {
            if data[i * cols + j] < FORBIDDEN {
                if map[j].is_some() {
                    return None;
                }
                map[j] = Some(i as u16);
            }
        }
    }
    Some(map.into_iter().map(|m| m.unwrap_or(0)).collect())
}

/// A cost as the searches see it.
fn number_of(cost: i64) -> f64 {
    (cost as f64).min(FORBIDDEN)
}

/// Distinct times of the problem, numbered from zero.
fn times(p: &StrategyProblem) -> (usize, BTreeMap<i64, u32>) {
    let mut all: Vec<i64> =
        p.nodes.iter().filter(|v| v.begin < v.end).flat_map(|v| [v.begin, v.end]).collect();
    all.sort_unstable();
    all.dedup();
    (all.len(), all.into_iter().zip(0..).collect())
}
