//! The move of the search: a random tree of nodes is chosen anew, best for all of them together given the rest.
//!
//! The nodes of an induced tree have no other edges among them, so dynamic programming over the tree is exact
//! (Hamze and de Freitas 2004 sample such trees). Noise of the Gumbel distribution on each strategy turns the
//! best choice into a random one that follows the costs at a temperature (Papandreou and Yuille 2011).

use super::model::Model;
use super::state::State;
use super::trws::lower;
use crate::rng::Rng;

const NOISES: usize = 1 << 14;

/// Buffers of the move.
pub(crate) struct Tree {
    nodes: Vec<u32>,
    /// Position of the parent of each node of the tree.
    parent: Vec<u32>,
    /// Neighbour slot of the parent that leads to this node.
    slot: Vec<u32>,
    /// Start of each node's strategies in `value`.
    start: Vec<u32>,
    value: Vec<f64>,
    message: Vec<f64>,
    choice: Vec<u16>,
    touched: Vec<u32>,
    stamp: Vec<u32>,
    inside: Vec<u32>,
    round: u32,
    border: Vec<(u32, u32)>,
    noise: Vec<f64>,
    saved: Vec<f64>,
    pub(crate) work: u64,
}

impl Tree {
    pub(crate) fn new(m: &Model, rng: &mut Rng) -> Tree {
        let noise = (0..NOISES).map(|_| -(-(rng.unit().max(1e-300)).ln()).max(1e-300).ln());
        Tree {
            nodes: Vec::new(),
            parent: Vec::new(),
            slot: Vec::new(),
            start: Vec::new(),
            value: Vec::new(),
            message: Vec::new(),
            choice: Vec::new(),
            touched: vec![0; m.nodes()],
            stamp: vec![0; m.nodes()],
            inside: vec![0; m.nodes()],
            round: 0,
            border: Vec::new(),
            noise: noise.collect(),
            saved: Vec::new(),
            work: 0,
        }
    }

    /// Grows a random induced tree of at most `size` nodes from `root`.
    fn grow(&mut self, m: &Model, root: usize, size: usize, rng: &mut Rng) {
        self.round += 1;
        self.nodes.clear();
        self.parent.clear();
        self.slot.clear();
        self.border.clear();
        self.add(m, root, 0, u32::MAX);
        while self.nodes.len() < size && !self.border.is_empty() {
            let pick = rng.below(self.border.len());
            let (from, slot) = self.border.swap_remove(pick);
            let w = m.near[slot as usize] as usize;
            if self.inside[w] != self.round && self.touched[w] == 1 {
                self.add(m, w, from, slot);
            }
        }
    }

    fn add(&mut self, m: &Model, v: usize, parent: u32, slot: u32) {
        let at = self.nodes.len() as u32;
        self.inside[v] = self.round;
        self.nodes.push(v as u32);
        self.parent.push(parent);
        self.slot.push(slot);
        for e in m.start[v]..m.start[v + 1] {
            let w = m.near[e] as usize;
            if self.stamp[w] != self.round {
                self.stamp[w] = self.round;
                self.touched[w] = 0;
            }
            self.touched[w] += 1;
            if self.touched[w] == 1 && self.inside[w] != self.round {
                self.border.push((at, e as u32));
            }
        }
        self.work += 60 + 6 * (m.start[v + 1] - m.start[v]) as u64;
    }

    /// Costs of the tree's nodes beside the nodes outside, with prices and noise.
    fn load(&mut self, s: &State, charge: &[f64], scale: f64, heat: f64, rng: &mut Rng) {
        let m = s.m;
        self.value.clear();
        self.start.clear();
        for (i, &v) in self.nodes.iter().enumerate() {
            let v = v as usize;
            let k = m.strategies(v);
            let at = self.value.len();
            self.start.push(at as u32);
            let strategies = m.first[v]..m.first[v + 1];
            let local = &s.local[strategies.clone()];
            if self.slot[i] == u32::MAX {
                self.value.extend(local.iter().map(|&l| l as f64));
            } else {
                // The parent's share is not fixed: take it out, and this node's share out of the parent.
                let table = &m.tables[m.table[self.slot[i] as usize] as usize];
                let parent = self.nodes[self.parent[i] as usize] as usize;
                let own = table.exact_row(usize::from(s.x[parent]));
                self.value.extend(local.iter().zip(own).map(|(&l, &o)| l.wrapping_sub(o) as f64));
                let column = usize::from(s.x[v]);
                let above = self.start[self.parent[i] as usize] as usize;
                for r in 0..table.rows {
                    self.value[above + r] -= table.floats[r * table.cols + column];
                }
                self.work += table.rows as u64;
            }
            let own = &mut self.value[at..at + k];
            let from = rng.below(NOISES);
            for (j, (x, c)) in own.iter_mut().zip(&charge[strategies]).enumerate() {
                *x += scale * c - heat * self.noise[(from + j) % NOISES];
            }
            self.work += 3 * k as u64;
        }
    }

    /// Best strategies of the tree, leaves first and back.
    fn solve(&mut self, m: &Model) {
        for i in (1..self.nodes.len()).rev() {
            let table = &m.tables[m.table[self.slot[i] as usize] as usize];
            let (rows, at) = (table.rows, self.start[i] as usize);
            self.message.clear();
            // Rows of the turned table are this node's strategies: one pass per strategy over the parent's.
            let turned = &m.tables[m.turned[m.table[self.slot[i] as usize] as usize] as usize];
            self.message.resize(rows, f64::INFINITY);
            for j in 0..table.cols {
                lower(&mut self.message, turned.row(j), self.value[at + j]);
            }
            let above = self.start[self.parent[i] as usize] as usize;
            self.value[above..above + rows].iter_mut().zip(&self.message).for_each(|(v, m)| *v += m);
            self.work += table.floats.len() as u64;
        }
        self.choice.clear();
        for i in 0..self.nodes.len() {
            let at = self.start[i] as usize;
            let k = m.strategies(self.nodes[i] as usize);
            let own = &self.value[at..at + k];
            let best = if i == 0 {
                super::dual::least(own)
            } else {
                let table = &m.tables[m.table[self.slot[i] as usize] as usize];
                let row = table.row(usize::from(self.choice[self.parent[i] as usize]));
                let mut best = (f64::INFINITY, 0);
                for (j, (a, b)) in own.iter().zip(row).enumerate() {
                    if a + b < best.0 {
                        best = (a + b, j as u16);
                    }
                }
                best.1
            };
            self.choice.push(best);
        }
    }

    /// Exact change of cost when the tree takes its choices.
    fn change(&self, s: &State) -> i128 {
        let m = s.m;
        let mut sum = 0i128;
        for (i, &v) in self.nodes.iter().enumerate() {
            let v = v as usize;
            let (old, new) = (usize::from(s.x[v]), usize::from(self.choice[i]));
            if old == new {
                continue;
            }
            let change = s.local[m.first[v] + new].wrapping_sub(s.local[m.first[v] + old]);
            sum += i128::from(change);
            if i > 0 {
                let above = self.parent[i] as usize;
                let (p, q) = (usize::from(s.x[self.nodes[above] as usize]), usize::from(self.choice[above]));
                if p != q {
                    let t = &m.tables[m.table[self.slot[i] as usize] as usize];
                    let at = |a: usize, b: usize| t.exact[a * t.cols + b];
                    sum += i128::from(at(q, new) - at(q, old) - at(p, new) + at(p, old));
                }
            }
        }
        sum
    }

    /// Tries one tree; returns whether the assignment changed.
    pub(crate) fn step(&mut self, s: &mut State, how: &How, rng: &mut Rng) -> bool {
        self.grow(s.m, how.root, how.size, rng);
        self.load(s, how.charge, how.scale, how.heat, rng);
        self.solve(s.m);
        let changed = self.nodes.iter().zip(&self.choice).any(|(&v, &c)| s.x[v as usize] != c);
        if !changed {
            return false;
        }
        let delta = self.change(s) as f64;
        let bar = -how.heat * rng.unit().max(1e-300).ln();
        let (begin, end) = self.reach(s);
        let before = s.penalty(begin, end);
        self.work += 2 * (end - begin) as u64;
        if delta - before > bar {
            return false;
        }
        self.saved.clear();
        self.saved.extend(&s.usage[begin..end]);
        for (&v, &c) in self.nodes.iter().zip(&self.choice) {
            let x = s.x[v as usize];
            if x != c {
                s.shift_usage(v as usize, x, c);
                self.work += s.span(v as usize) as u64;
            }
        }
        let after = s.penalty(begin, end);

        if delta + after - before > bar {
            s.usage[begin..end].copy_from_slice(&self.saved);
            return false;
        }
        for i in 0..self.nodes.len() {
            let (v, c) = (self.nodes[i] as usize, self.choice[i]);
            if s.x[v] != c {
                s.set(v, c);
                self.work += 20 * (s.m.start[v + 1] - s.m.start[v]) as u64;
            }
        }
        true
    }

    /// Watched times that the changes can touch.
    fn reach(&self, s: &State) -> (usize, usize) {
        let (mut begin, mut end) = (usize::MAX, 0);
        for (&v, &c) in self.nodes.iter().zip(&self.choice) {
            if s.x[v as usize] != c {
                let (a, b) = s.reach(v as usize);
                if a < b {
                    begin = begin.min(a);
                    end = end.max(b);
                }
            }
        }
        (begin.min(end), end)
    }
}

/// How one move is made.
pub(crate) struct How<'a> {
    pub(crate) root: usize,
    pub(crate) size: usize,
    /// What the usage of each strategy costs at full price.
    pub(crate) charge: &'a [f64],
    /// Share of the price this move sees.
    pub(crate) scale: f64,
    /// Temperature.
    pub(crate) heat: f64,
}
