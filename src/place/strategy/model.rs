//! What is searched: the nodes that still choose, with flat arrays for the inner loops.

use super::reduce::{Load, Reduced};
use super::tables::Table;
use std::collections::BTreeMap;

/// A table with whole numbers for sums that must be exact and floats for the inner loops.
#[derive(Debug)]
pub(crate) struct Pairs {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) floats: Box<[f64]>,
    pub(crate) exact: Box<[i64]>,
}

impl Pairs {
    fn new(t: &Table) -> Pairs {
        let exact = t.data.iter().map(|&x| x as i64).collect();
        Pairs { rows: t.rows, cols: t.cols, floats: t.data.clone(), exact }
    }

    pub(crate) fn row(&self, i: usize) -> &[f64] {
        &self.floats[i * self.cols..(i + 1) * self.cols]
    }

    pub(crate) fn exact_row(&self, i: usize) -> &[i64] {
        &self.exact[i * self.cols..(i + 1) * self.cols]
    }
}

/// The reduced problem by dense numbers.
#[derive(Debug)]
pub(crate) struct Model {
    /// Strategies of node `v` have the numbers `first[v]..first[v + 1]`.
    pub(crate) first: Vec<usize>,
    /// Cost of each strategy.
    pub(crate) cost: Vec<f64>,
    /// Neighbours of node `v` are at `start[v]..start[v + 1]`.
    pub(crate) start: Vec<usize>,
    pub(crate) near: Vec<u32>,
    /// Table of each neighbour; its rows are strategies of the node.
    pub(crate) table: Vec<u32>,
    pub(crate) tables: Vec<Pairs>,
    /// The transposed table of each table.
    pub(crate) turned: Vec<u32>,
    pub(crate) loads: Vec<Vec<Load>>,
    /// Usage that is free at each time.
    pub(crate) room: Vec<f64>,
    /// Number of each node in the problem as given.
    node: Vec<u32>,
    given: usize,
}

impl Model {
    pub(crate) fn new(r: &Reduced) -> Model {
        let node: Vec<u32> = (0..r.cost.len() as u32).filter(|&v| r.alive[v as usize]).collect();
        let mut number = vec![0u32; r.cost.len()];
        node.iter().zip(0..).for_each(|(&v, i)| number[v as usize] = i);
        let mut m = Model {
            first: vec![0],
            cost: Vec::new(),
            start: vec![0],
            near: Vec::new(),
            table: Vec::new(),
            tables: Vec::new(),
            turned: Vec::new(),
            loads: Vec::new(),
            room: Vec::new(),
            node,
            given: r.cost.len(),
        };
        let mut table_number: BTreeMap<u32, u32> = BTreeMap::new();
        for &v in &m.node {
            let v = v as usize;
            m.cost.extend(&r.cost[v]);
            m.first.push(m.cost.len());
            for (&w, &id) in &r.near[v] {
                let next = m.tables.len() as u32;
                let table = *table_number.entry(id).or_insert(next);
                if table == next {
                    m.tables.push(Pairs::new(r.tables.get(id)));
                }
                m.near.push(number[w as usize]);
                m.table.push(table);
            }
            m.start.push(m.near.len());
        }
        m.turned = (0..m.tables.len() as u32).collect();
        for v in 0..m.nodes() {
            for e in m.start[v]..m.start[v + 1] {
                let w = m.near[e] as usize;
                let back = m.near[m.start[w]..m.start[w + 1]].partition_point(|&u| (u as usize) < v);
                m.turned[m.table[e] as usize] = m.table[m.start[w] + back];
            }
        }
        m.take_times(r);
        m
    }

    /// Keeps the times that can exceed the limit and that no neighbour in time always exceeds in usage.
    fn take_times(&mut self, r: &Reduced) {
        let Some(limit) = r.limit else {
            self.loads = vec![Vec::new(); self.nodes()];
            return;
        };
        let (_, high) = r.extremes();
        let times = r.base.len();
        let (mut begins, mut ends) = (vec![false; times + 1], vec![false; times + 1]);
        for load in r.loads.iter().flatten() {
            begins[load.begin as usize] = true;
            ends[load.end as usize] = true;
        }
        let mut kept: Vec<usize> = Vec::new();
        let (mut born, mut died) = (false, false);
        for t in 0..times {
            born |= begins[t];
            died |= ends[t];
            if high[t] <= limit {
                continue;
            }
            if let Some(&last) = kept.last() {
                if !born && r.base[t] <= r.base[last] {
                    continue;
                }
                if !died && r.base[t] >= r.base[last] {
                    kept.pop();
                }
            }
            kept.push(t);
            (born, died) = (false, false);
        }
        let place: Vec<u32> = (0..=times).map(|t| kept.partition_point(|&k| k < t) as u32).collect();
        self.room = kept.iter().map(|&t| (limit - r.base[t]) as f64).collect();
        for &v in &self.node {
            let moved = r.loads[v as usize].iter().map(|l| Load {
                begin: place[l.begin as usize],
                end: place[l.end as usize],
                usage: l.usage.clone(),
            });
            self.loads.push(moved.filter(|l| l.begin < l.end).collect());
        }
    }

    pub(crate) fn nodes(&self) -> usize {
        self.node.len()
    }

    pub(crate) fn strategies(&self, v: usize) -> usize {
        self.first[v + 1] - self.first[v]
    }

    /// Neighbours of a node with their tables.
    pub(crate) fn edges(&self, v: usize) -> impl Iterator<Item = (usize, &Pairs)> {
        let range = self.start[v]..self.start[v + 1];
        self.near[range.clone()]
            .iter()
            .zip(&self.table[range])
            .map(|(&w, &t)| (w as usize, &self.tables[t as usize]))
    }

    /// Usage over time of an assignment.
    pub(crate) fn usage(&self, x: &[u16]) -> Vec<f64> {
        let mut steps = vec![0.0; self.room.len() + 1];
        for (v, loads) in self.loads.iter().enumerate() {
            for load in loads {
                let u = load.usage[usize::from(x[v])] as f64;
                steps[load.begin as usize] += u;
                steps[load.end as usize] -= u;
            }
        }
        let mut run = 0.0;
        steps[..self.room.len()]
            .iter()
            .map(|d| {
                run += d;
                run
            })
            .collect()
    }

    /// Times over the limit: the worst of each stretch.
    pub(crate) fn peaks(&self, usage: &[f64]) -> Vec<u32> {
        let over = |t: usize| usage[t] - self.room[t];
        let mut peaks = Vec::new();
        let mut worst: Option<usize> = None;
        for t in 0..usage.len() {
            match worst {
                _ if over(t) <= 0.0 => peaks.extend(worst.take().map(|w| w as u32)),
                Some(w) if over(w) >= over(t) => {}
                _ => worst = Some(t),
            }
        }
        peaks.extend(worst.map(|w| w as u32));
        peaks
    }

    /// What each strategy's usage costs at prices per time; the list goes to `out`.
    pub(crate) fn charge(&self, price: &[f64], out: &mut [f64]) {
        let mut before = vec![0.0; price.len() + 1];
        (0..price.len()).for_each(|t| before[t + 1] = before[t] + price[t]);
        out.fill(0.0);
        for (v, loads) in self.loads.iter().enumerate() {
            let out = &mut out[self.first[v]..self.first[v + 1]];
            for load in loads {
                let each = before[load.end as usize] - before[load.begin as usize];
                if each > 0.0 {
                    out.iter_mut().zip(&load.usage).for_each(|(o, &u)| *o += each * u as f64);
                }
            }
        }
    }

    /// Strategies by node as given, zero for nodes that are gone.
    pub(crate) fn spread(&self, x: &[u16]) -> Vec<u16> {
        let mut all = vec![0; self.given];
        self.node.iter().zip(x).for_each(|(&v, &s)| all[v as usize] = s);
        all
    }
}
