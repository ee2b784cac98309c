//! Seeded simulated annealing for the bottleneck objective.
//!
//! Moves: one unit to another device (half of them to a device its neighbours are on), a swap of two units, a
//! run of the linear order from one device to another, a cluster of units held together by dear
//! flows. The energy is the largest load or the 32-norm of the loads, and a share of their mean, so that moves
//! away from the bottleneck still have a direction, and a steep price for memory beyond capacity, so that a start
//! that does not fit is repaired rather than refused. Budgets count work.

use crate::load::{LoadModel, LoadState};
use crate::rng::Rng;

/// One run: how hot, how long, which seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) work: u64,
    /// First and last temperature relative to the start's energy.
    pub(crate) hot: f64,
    pub(crate) cold: f64,
    /// Share of the mean load in the energy.
    pub(crate) mean_share: f64,
    /// Whether loads close to the maximum count too.
    pub(crate) crowding: bool,
}

/// A placement of units and its objective.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) device_of_unit: Vec<usize>,
    pub(crate) value: f64,
}

/// Energy per fraction of capacity exceeded, in units of the start's energy.
const OVERFLOW_PRICE: f64 = 4.0;
/// A problem of so many units is looked at for a new best after every move.
const UNITS_PER_MOVE: usize = 512;
/// Links per unit of work of a trial.
const LINKS_PER_WORK: usize = 4;
/// Moves between two recomputations of the loads.
const REFRESH_MOVES: u64 = 1 << 14;

/// Anneals from `start`; the best feasible placement seen, if any.
pub(crate) fn anneal(model: &LoadModel<'_>, start: &[usize], run: Run) -> Option<Placed> {
    let movable: Vec<usize> =
        (0..model.units.len()).filter(|&u| model.units.candidates[u].len() > 1).collect();
    let mut search = Search::new(model, start, run);
    if movable.is_empty() {
        return search.best;
    }
    let (mut spent, mut moves) = (0u64, 0u64);
    while spent < run.work {
        if moves.is_multiple_of(64) {
            search.cool(spent as f64 / run.work as f64);
        }
        spent += search.step(&movable);
        moves += 1;
        if moves.is_multiple_of(REFRESH_MOVES) {
            search.state.refresh(model);
        }
        if moves.is_multiple_of(search.patience) {
            search.note();
        }
    }
    search.note();
    search.best
}

struct Search<'a> {
    model: &'a LoadModel<'a>,
    run: Run,
    state: LoadState,
    scratch: Vec<f64>,
    bytes: Vec<u64>,
    position: Vec<usize>,
    rng: Rng,
    scale: f64,
    energy: f64,
    temperature: f64,
    best: Option<Placed>,
    best_seen: f64,
    /// Moves between two looks at whether this is the best so far; a look at a large problem is dear.
    patience: u64,
}

impl<'a> Search<'a> {
    fn new(model: &'a LoadModel<'a>, start: &[usize], run: Run) -> Self {
        let state = LoadState::new(model, start);
        let mut position = vec![0; model.units.len()];
        for (i, &u) in model.units.order.iter().enumerate() {
            position[u] = i;
        }
        let scale = state.load.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let (scratch, bytes) = (state.load.clone(), state.bytes.clone());
        let rng = Rng::new(run.seed);
        let value = model.value(start);
        let best = value.map(|value| Placed { device_of_unit: start.to_vec(), value });
        let best_seen = value.unwrap_or(f64::INFINITY);
        let temperature = run.hot * scale;
        let mut search = Search {
            model,
            run,
            state,
            scratch,
            bytes,
            position,
            rng,
            scale,
            energy: 0.0,
            temperature,
            best,
            best_seen,
            patience: (model.units.len() / UNITS_PER_MOVE).max(1) as u64,
        };
        search.energy = search.energy_of(&search.state.load, &search.state.bytes);
        search
    }

    fn cool(&mut self, progress: f64) {
        self.temperature = self.scale * self.run.hot * (self.run.cold / self.run.hot).powf(progress);
    }

    fn energy_of(&self, load: &[f64], bytes: &[u64]) -> f64 {
        let (mut most, mut sum) = (f64::MIN_POSITIVE, 0.0f64);
        for &x in load {
            most = most.max(x);
            sum += x;
        }
        let mean = self.run.mean_share * sum / self.model.k as f64;
        most * self.crowding(load, 1.0 / most) + mean + self.overflow(bytes)
    }

    /// The 32-norm over the maximum: how many loads are close to it. One when the run does not ask for it.
    fn crowding(&self, load: &[f64], scale: f64) -> f64 {
        if !self.run.crowding {
            return 1.0;
        }
        let mut sum = 0.0;
        for &x in load {
            let x2 = (x * scale) * (x * scale);
            let x4 = x2 * x2;
            let x8 = x4 * x4;
            let x16 = x8 * x8;
            sum += x16 * x16;
        }
        sum.sqrt().sqrt().sqrt().sqrt().sqrt()
    }

    fn overflow(&self, bytes: &[u64]) -> f64 {
        if !self.model.memory_binds {
            return 0.0;
        }
        let mut price = 0.0;
        for (&b, &c) in bytes.iter().zip(&self.model.capacity) {
            if b > c {
                price += self.scale * OVERFLOW_PRICE * (0.05 + (b - c) as f64 / (c.max(1)) as f64);
            }
        }
        price
    }

    /// One move; returns the work it cost.
    fn step(&mut self, movable: &[usize]) -> u64 {
        let u = movable[self.rng.below(movable.len())];
        match self.rng.below(16) {
            0 | 1 => self.swap(u, movable[self.rng.clone().below(movable.len())]),
            2 => self.run_move(u),
            3 => self.cluster_move(u),
            4..=8 => {
                let b = self.neighbour_device(u);
                self.chain(&[(u, b)])
            }
            _ => {
                let b = self.random_device(u);
                self.chain(&[(u, b)])
            }
        }
    }

    fn random_device(&mut self, u: usize) -> usize {
        let candidates = &self.model.units.candidates[u];
        candidates[self.rng.below(candidates.len())]
    }

    fn neighbour_device(&mut self, u: usize) -> usize {
        let flows = &self.model.units.flows_of_unit[u];
        if flows.is_empty() {
            return self.random_device(u);
        }
        let flow = &self.model.units.flows[flows[self.rng.below(flows.len())]];
        let pick = self.rng.below(flow.consumers.len() + 1);
        let other = if pick == 0 { flow.producer } else { flow.consumers[pick - 1] };
        let d = self.state.device_of_unit[other];
        if self.model.units.time_us[u][d].is_finite() { d } else { self.random_device(u) }
    }

    fn swap(&mut self, u: usize, v: usize) -> u64 {
        self.rng.next();
        let (a, b) = (self.state.device_of_unit[u], self.state.device_of_unit[v]);
        let units = self.model.units;
        if a == b || !units.time_us[u][b].is_finite() || !units.time_us[v][a].is_finite() {
            return 1;
        }
        self.chain(&[(u, b), (v, a)])
    }

    /// Moves up to eight neighbours in the linear order that share a device.
    fn run_move(&mut self, u: usize) -> u64 {
        let (a, b) = (self.state.device_of_unit[u], self.random_device(u));
        let length = 2 + self.rng.below(7);
        let order = &self.model.units.order[self.position[u]..];
        let moves: Vec<(usize, usize)> = order
            .iter()
            .take(length)
            .take_while(|&&v| self.state.device_of_unit[v] == a && self.model.units.time_us[v][b].is_finite())
            .map(|&v| (v, b))
            .collect();
        self.chain(&moves)
    }

    /// Moves a cluster grown from `u` over flows within its device, the dearer the surer (after Wolff 1989):
    /// what is held together by more than the temperature moves together.
    fn cluster_move(&mut self, u: usize) -> u64 {
        let (a, b) = (self.state.device_of_unit[u], self.random_device(u));
        let most = 2usize << self.rng.below(6);
        let units = self.model.units;
        let (mut cluster, mut at, mut work) = (vec![u], 0, 1);
        while at < cluster.len() && cluster.len() < most {
            let v = cluster[at];
            at += 1;
            for &f in &units.flows_of_unit[v] {
                work += 1;
                let flow = &units.flows[f];
                let bond = self.model.flow_us(flow) / self.temperature;
                if self.rng.unit() >= 1.0 - (-bond).exp() {
                    continue;
                }
                for &w in std::iter::once(&flow.producer).chain(&flow.consumers) {
                    let joins = self.state.device_of_unit[w] == a && units.time_us[w][b].is_finite();
                    if joins && cluster.len() < most && !cluster.contains(&w) {
                        cluster.push(w);
                    }
                }
            }
        }
        let moves: Vec<(usize, usize)> = cluster.into_iter().map(|w| (w, b)).collect();
        work + self.chain(&moves)
    }

    /// Applies moves one after another and keeps them all or none.
    fn chain(&mut self, moves: &[(usize, usize)]) -> u64 {
        let model = self.model;
        let mut work = 1 + ((model.n_resources() - model.k) / LINKS_PER_WORK) as u64;
        if let &[(u, b)] = moves {
            if self.state.device_of_unit[u] == b {
                return 1;
            }
            self.state.trial(model, u, b, &mut self.scratch);
            let mut bytes = std::mem::take(&mut self.bytes);
            if model.memory_binds {
                self.bytes_after(u, b, &mut bytes);
            }
            let energy = self.energy_of(&self.scratch, &bytes);
            self.bytes = bytes;
            if self.accepts(energy) {
                self.state.commit(model, u, b, &mut self.scratch);
                self.moved(energy);
            }
            return work + model.units.flows_of_unit[u].len() as u64;
        }
        let before: Vec<usize> = moves.iter().map(|&(u, _)| self.state.device_of_unit[u]).collect();
        let (load, bytes) = (self.state.load.clone(), self.state.bytes.clone());
        for &(u, b) in moves {
            self.force(u, b);
            work += 1 + model.units.flows_of_unit[u].len() as u64;
        }
        let energy = self.energy_of(&self.state.load, &self.state.bytes);
        if self.accepts(energy) {
            self.moved(energy);
            return work;
        }
        for (&(u, _), &a) in moves.iter().zip(&before).rev() {
            self.force(u, a);
        }
        (self.state.load, self.state.bytes) = (load, bytes);
        2 * work
    }

    fn force(&mut self, u: usize, b: usize) {
        if self.state.device_of_unit[u] != b {
            self.state.trial(self.model, u, b, &mut self.scratch);
            self.state.commit(self.model, u, b, &mut self.scratch);
        }
    }

    fn bytes_after(&self, u: usize, b: usize, bytes: &mut [u64]) {
        bytes.copy_from_slice(&self.state.bytes);
        let (a, size) = (self.state.device_of_unit[u], self.model.units.memory_bytes[u]);
        bytes[a] = bytes[a].saturating_sub(size);
        bytes[b] = bytes[b].saturating_add(size);
    }

    fn accepts(&mut self, energy: f64) -> bool {
        let rise = energy - self.energy;
        rise <= 0.0 || self.rng.unit() < (-rise / self.temperature).exp()
    }

    fn moved(&mut self, energy: f64) {
        self.energy = energy;
        if self.patience == 1 {
            self.note();
        }
    }

    /// Takes note of a new best.
    fn note(&mut self) {
        let most = self.state.load.iter().copied().fold(0.0, f64::max);
        if most >= self.best_seen * (1.0 - 1e-12) {
            return;
        }
        // The running loads carry rounding, so a new best is recomputed before it counts.
        if let Some(value) = self.model.value(&self.state.device_of_unit)
            && value < self.best_seen
        {
            self.best_seen = value;
            self.best = Some(Placed { device_of_unit: self.state.device_of_unit.clone(), value });
        }
    }
}
