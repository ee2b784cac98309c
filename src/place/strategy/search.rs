//! The search for a cheap assignment within the limit: many short annealings of tree moves.
//!
//! Usage over the limit costs a weight per unit that starts low, so that the search can pass through, and rises
//! until the end of an annealing is within the limit. Annealings begin at the best assignment (all of it, or a
//! neighbourhood of a random node), at what the prices of usage suggest, or where the last one ended; their heat
//! and weights are drawn over orders of magnitude, since costs of one problem span many.

use super::dual::{self, Dual};
use super::model::Model;
use super::state::State;
use super::tables::FORBIDDEN;
use super::tree::{How, Tree};
use super::trws::Messages;
use crate::rng::Rng;
use std::collections::VecDeque;

/// Largest tree of a move.
const TREE_NODES: f64 = 60.0;
/// Share of the work for each of the two ascents of the bound.
const BOUND_SHARE: u64 = 10;
/// Work of the slow annealing, in sweeps over all tables, and as a share of all work at most.
const SLOW_SWEEPS: u64 = 1000;
const SLOW_SHARE: f64 = 0.35;
/// Sweeps of messages before an assignment is read from them.
const SWEEPS: u64 = 10;
/// Tries to find a first assignment within the limit, each with weights three times as high.
const FIRST_TRIES: usize = 20;

/// What a search found.
#[derive(Debug)]
pub(crate) struct Found {
    /// Strategy of each node of the model.
    pub(crate) x: Vec<u16>,
    /// No solution of the model costs less.
    pub(crate) bound: f64,
    pub(crate) work: u64,
}

/// How one annealing goes.
struct Plan {
    /// Temperatures at begin and end.
    hot: f64,
    cold: f64,
    /// Weights at begin and end.
    loose: f64,
    tight: f64,
    work: u64,
    /// Where moves begin.
    roots: Vec<u32>,
    /// Trees are smaller the larger this is.
    lean: f64,
}

struct Search<'a> {
    s: State<'a>,
    tree: Tree,
    rng: Rng,
    best: Option<(i128, Vec<u16>)>,
    charge: Vec<f64>,
    /// Price of usage by time of the model.
    price: Option<Vec<f64>>,
    messages: Messages,
    /// A temperature at which costs of the usual node matter.
    typical: f64,
    /// A weight at which usage over the limit is about as dear as what it saves.
    unit: f64,
}

/// Searches until `work` is spent.
pub(crate) fn search(m: &Model, work: u64, seed: u64) -> Found {
    if m.nodes() == 0 {
        return Found { x: Vec::new(), bound: 0.0, work: 0 };
    }
    let mut search = Search::new(m, seed);
    search.first(work / 100);
    let value = search.best.as_ref().map_or(4.0 * search.typical * m.nodes() as f64, |b| b.0 as f64);
    let dual = dual::ascend(m, None, value, work / BOUND_SHARE);
    search.take_prices(&dual);
    let stop = work.saturating_sub(dual.work + work / BOUND_SHARE);
    search.slow(stop);
    let mut number = 0;
    while search.tree.work < stop {
        search.again(number, stop);
        number += 1;
    }
    let x = search.best.as_ref().map_or(search.s.x, |b| b.1.clone());
    let value = search.best.map_or(value, |b| b.0 as f64);
    let left = work.saturating_sub(dual.work + search.tree.work);
    let last = dual::ascend(m, Some(dual.price), value, left);
    Found { x, bound: dual.bound.max(last.bound), work: search.tree.work + dual.work + last.work }
}

impl<'a> Search<'a> {
    fn new(m: &'a Model, seed: u64) -> Search<'a> {
        let mut rng = Rng::new(seed);
        let mut messages = Messages::new(m, FORBIDDEN);
        let bound = (0..SWEEPS).map(|_| messages.sweep(m, &m.cost)).last().unwrap_or(0.0).abs();
        let room = m.room.iter().sum::<f64>() / m.room.len().max(1) as f64;
        let mut tree = Tree::new(m, &mut rng);
        tree.work = SWEEPS * dual::sweep_work(m);
        let x = messages.decode(m, &m.cost);
        Search {
            s: State::new(m, x),
            tree,
            rng,
            best: None,
            charge: vec![0.0; m.cost.len()],
            price: None,
            messages,
            typical: (bound / m.nodes().max(1) as f64).max(1e-3),
            unit: 0.03 * (bound / room.max(1.0)).max(1e-9),
        }
    }

    /// Finds an assignment within the limit by weights that rise from try to try.
    fn first(&mut self, work: u64) {
        for _ in 0..FIRST_TRIES {
            let n = self.s.m.nodes() as u32;
            let (hot, cold) = (10.0 * self.typical, 1e-4 * self.typical);
            let roots = (0..n).collect();
            self.anneal(&Plan { hot, cold, loose: self.unit, tight: self.unit, work, roots, lean: 2.0 });
            if self.best.is_some() {
                break;
            }
            self.unit *= 3.0;
        }
    }

    fn take_prices(&mut self, dual: &Dual) {
        let most = dual.price.iter().copied().fold(0.0, f64::max);
        let total: f64 = dual.price.iter().sum();
        let priced = |&t: &usize| dual.price[t] > 1e-4 * most;
        let times: Vec<u32> = (0..dual.price.len()).filter(priced).map(|t| t as u32).collect();
        if total > 0.0 {
            self.unit = total;
            self.price = Some(dual.price.clone());
        }
        self.s.watch(&times);
    }

    /// One slow annealing of everything, from what the best prices suggest.
    fn slow(&mut self, stop: u64) {
        self.take_suggestion(1.2, 0.0);
        let left = stop.saturating_sub(self.tree.work);
        let plan = Plan {
            hot: 10.0 * self.typical,
            cold: 1e-4 * self.typical,
            loose: 0.1 * self.unit,
            tight: self.unit,
            work: (SLOW_SWEEPS * dual::sweep_work(self.s.m)).min((SLOW_SHARE * left as f64) as u64),
            roots: (0..self.s.m.nodes() as u32).collect(),
            lean: 2.5,
        };
        self.anneal(&plan);
    }

    /// One more annealing: of a neighbourhood, or of everything from one of three beginnings.
    fn again(&mut self, number: u64, stop: u64) {
        let n = self.s.m.nodes();
        if number % 8 >= 2 {
            self.return_to_best();
            let nodes = self.draw(5.0, (n as f64 / 4.0).max(5.0)).round() as usize;
            let roots = self.ball(nodes);
            let (hot, loose) = (self.draw(0.01, 3.0), self.draw(0.3, 3.0));
            self.anneal_drawn(roots, hot, loose, stop);
            return;
        }
        match number / 8 * 2 + number % 8 {
            i if i % 3 == 0 => {
                let (scale, noise) = (self.draw(0.5, 2.0), self.draw(0.01, 10.0));
                self.take_suggestion(scale, noise);
            }
            i if i % 3 == 1 => self.return_to_best(),
            _ => {}
        }
        let (hot, loose) = (self.draw(0.01, 30.0), self.draw(0.01, 3.0));
        self.anneal_drawn((0..n as u32).collect(), hot, loose, stop);
    }

    /// An annealing of some nodes, its length and other figures drawn; `hot` and `loose` are in usual units.
    fn anneal_drawn(&mut self, roots: Vec<u32>, hot: f64, loose: f64, stop: u64) {
        let share = roots.len() as f64 / self.s.m.nodes() as f64;
        let sweeps = self.draw(10.0, 200.0);
        let left = stop.saturating_sub(self.tree.work);
        let plan = Plan {
            hot: hot * self.typical,
            cold: 1e-5 * self.typical,
            loose: loose * self.unit,
            tight: self.unit * self.draw(1.0, 1000.0),
            work: ((sweeps * share * dual::sweep_work(self.s.m) as f64) as u64).min(left),
            roots,
            lean: self.draw(1.0, 4.0),
        };
        self.anneal(&plan);
    }

    /// A number between `low` and `high`, all orders of magnitude alike.
    fn draw(&mut self, low: f64, high: f64) -> f64 {
        low * (high / low).powf(self.rng.unit())
    }

    fn return_to_best(&mut self) {
        if let Some((_, x)) = &self.best {
            self.tree.work += self.s.jump(x);
        }
    }

    /// Jumps to what messages suggest at `scale` times the best prices, with noise on prices and costs unless
    /// `noise`, in usual units, is zero.
    fn take_suggestion(&mut self, scale: f64, noise: f64) {
        let m = self.s.m;
        let jitter = if noise > 0.0 { 1.5 } else { 0.0 };
        let mut price = self.price.clone().unwrap_or_else(|| vec![0.0; m.room.len()]);
        price.iter_mut().for_each(|p| *p *= scale * (jitter * (self.rng.unit() - 0.5)).exp());
        let mut cost = vec![0.0; m.cost.len()];
        m.charge(&price, &mut cost);
        for (c, own) in cost.iter_mut().zip(&m.cost) {
            *c += own + noise * self.typical * self.rng.unit();
        }
        (0..SWEEPS).for_each(|_| {
            self.messages.sweep(m, &cost);
        });
        self.tree.work += SWEEPS * dual::sweep_work(m);
        let x = self.messages.decode(m, &cost);
        self.tree.work += self.s.jump(&x);
    }

    /// The nodes nearest to a random one.
    fn ball(&mut self, size: usize) -> Vec<u32> {
        let m = self.s.m;
        if size >= m.nodes() {
            return (0..m.nodes() as u32).collect();
        }
        let root = self.rng.below(m.nodes());
        let mut seen = vec![false; m.nodes()];
        let (mut found, mut queue) = (Vec::new(), VecDeque::from([root]));
        seen[root] = true;
        while let Some(v) = queue.pop_front().filter(|_| found.len() < size) {
            found.push(v as u32);
            for (w, _) in m.edges(v) {
                if !std::mem::replace(&mut seen[w], true) {
                    queue.push_back(w);
                }
            }
        }
        found
    }

    fn anneal(&mut self, plan: &Plan) {
        let from = self.tree.work;
        let batch = plan.roots.len().clamp(100, 2000);
        self.s.weight.fill(plan.loose);
        let most = TREE_NODES.min(self.s.m.nodes() as f64);
        loop {
            let done = (self.tree.work - from) as f64 / plan.work.max(1) as f64;
            if done >= 1.0 {
                break;
            }
            let heat = plan.hot * (plan.cold / plan.hot).powf(done);
            self.weigh(plan.loose * (plan.tight / plan.loose).powf((done * 1.25).min(1.0)), done > 0.7);
            self.price();
            for _ in 0..batch {
                let how = How {
                    root: plan.roots[self.rng.below(plan.roots.len())] as usize,
                    size: most.powf(self.rng.unit().powf(plan.lean)).round() as usize,
                    charge: &self.charge,
                    scale: 1.3 * self.rng.unit(),
                    heat,
                };
                self.tree.step(&mut self.s, &how, &mut self.rng);
            }
            self.look();
        }
    }

    /// Raises the weight of what is over the limit and lowers it slowly elsewhere, never below `least`; late in an
    /// annealing it rises faster and stays.
    fn weigh(&mut self, least: f64, late: bool) {
        let s = &mut self.s;
        let (up, down) = if late { (1.5, 1.0) } else { (1.0 + 0.08, 1.0 - 0.03) };
        for t in 0..s.weight.len() {
            let over = s.usage[t] > s.room[t];
            s.weight[t] = (s.weight[t] * if over { up } else { down }).max(least);
        }
    }

    /// Prices of usage for the coming moves: those of the bound, and the weight where usage is over the limit.
    fn price(&mut self) {
        let s = &self.s;
        let price: Vec<f64> = (0..s.usage.len())
            .map(|t| {
                let proven = self.price.as_ref().map_or(0.0, |all| all[s.watched[t] as usize]);
                if s.usage[t] > s.room[t] { proven.max(s.weight[t]) } else { proven }
            })
            .collect();
        self.tree.work += s.charge(&price, &mut self.charge);
    }

    /// Watches times that were missed; keeps the assignment if it is the best within the limit.
    fn look(&mut self) {
        if !self.s.within() {
            return;
        }
        let peaks = self.s.unwatched_peaks();
        self.tree.work += (self.s.m.room.len() + self.s.m.nodes()) as u64;
        if !peaks.is_empty() {
            self.tree.work += self.s.watch(&peaks);
        } else if self.best.as_ref().is_none_or(|b| self.s.cost < b.0) {
            self.best = Some((self.s.cost, self.s.x.clone()));
        }
    }
}
