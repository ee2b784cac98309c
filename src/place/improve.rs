//! Seeded annealing of the latency: every move is scored by a list schedule of the whole problem.
//!
//! Moves: one unit, a run of the linear order (so that crossing a slow link can pay off), a swap. Half of the
//! moves aim at a unit whose task or input is on the critical path. The energy adds a small share of all busy
//! time to the makespan, which gives plateaus a slope. Budgets count operations scheduled.

use crate::anneal::{Placed, Run};
use crate::jobs::{Jobs, Shape};
use crate::problem::Problem;
use crate::rng::Rng;
use crate::units::Units;

/// Work counted per operation of one list schedule.
pub(crate) const WORK_PER_OP: u64 = 3;

/// Temperatures are relative to the value of this many average units.
const TASKS_PER_SCALE: f64 = 8.0;

/// What a latency search needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) problem: &'a Problem,
    pub(crate) units: &'a Units,
    pub(crate) shape: &'a Shape,
}

impl Scene<'_> {
    /// Makespan of the list schedule; `None` when memory is exceeded or a path is missing.
    pub(crate) fn value(&self, device_of_unit: &[usize]) -> Option<f64> {
        let jobs = self.jobs(device_of_unit)?;
        Some(jobs.makespan(&jobs.best_list()))
    }

    pub(crate) fn jobs(&self, device_of_unit: &[usize]) -> Option<Jobs> {
        if !self.fits(device_of_unit) {
            return None;
        }
        Jobs::new(self.problem, self.shape, &self.units.expand(device_of_unit))
    }

    fn fits(&self, device_of_unit: &[usize]) -> bool {
        let mut bytes = vec![0u64; self.shape.k];
        for (u, &d) in device_of_unit.iter().enumerate() {
            bytes[d] = bytes[d].saturating_add(self.units.memory_bytes[u]);
        }
        bytes.iter().zip(&self.problem.devices).all(|(&b, d)| d.memory_bytes.is_none_or(|c| b <= c))
    }

    /// Work of one evaluation.
    pub(crate) fn work(&self) -> u64 {
        (self.shape.n_tasks + self.problem.tensors.len() + 4) as u64 * WORK_PER_OP
    }
}

/// Anneals from a feasible `start` until the work is spent or `target` is reached; what it found and spent.
pub(crate) fn improve(scene: Scene<'_>, start: &Placed, run: Run, target: f64) -> (Placed, u64) {
    let movable: Vec<usize> =
        (0..scene.units.len()).filter(|&u| scene.units.candidates[u].len() > 1).collect();
    let mut best = start.clone();
    let Some(mut search) = Search::new(scene, start, run) else { return (best, 0) };
    // A move changes the value by about the time of a task, so temperatures count in those.
    let scale = start.value * TASKS_PER_SCALE / (movable.len() as f64).max(TASKS_PER_SCALE);
    let mut spent = 0;
    while spent < run.work && !movable.is_empty() && best.value > target {
        let progress = spent as f64 / run.work as f64;
        let temperature = scale * run.hot * (run.cold / run.hot).powf(progress);
        search.step(&movable, temperature);
        spent += scene.work();
        if search.value < best.value {
            best = Placed { device_of_unit: search.device.clone(), value: search.value };
        }
    }
    (best, spent)
}

struct Search<'a> {
    scene: Scene<'a>,
    busy_share: f64,
    rng: Rng,
    device: Vec<usize>,
    position: Vec<usize>,
    critical: Vec<usize>,
    value: f64,
    energy: f64,
}

impl<'a> Search<'a> {
    fn new(scene: Scene<'a>, start: &Placed, run: Run) -> Option<Self> {
        let mut position = vec![0; scene.units.len()];
        for (i, &u) in scene.units.order.iter().enumerate() {
            position[u] = i;
        }
        let device = start.device_of_unit.clone();
        let (rng, critical) = (Rng::new(run.seed), Vec::new());
        let busy_share = run.mean_share;
        let mut search =
            Search { scene, busy_share, rng, device, position, critical, value: 0.0, energy: 0.0 };
        let (value, energy, critical) = search.score()?;
        (search.value, search.energy, search.critical) = (value, energy, critical);
        Some(search)
    }

    /// Makespan, energy and the units on a critical path of the current devices.
    fn score(&self) -> Option<(f64, f64, Vec<usize>)> {
        let jobs = self.scene.jobs(&self.device)?;
        let start = jobs.eager_list();
        let value = jobs.makespan(&start);
        let busy: f64 = jobs.duration.iter().sum();
        let critical = critical_tasks(&jobs, &start, value);
        let mut units: Vec<usize> = critical.iter().map(|&t| self.scene.units.unit_of_task[t]).collect();
        units.retain(|&u| self.scene.units.candidates[u].len() > 1);
        units.sort_unstable();
        units.dedup();
        Some((value, value + self.busy_share * busy, units))
    }

    fn step(&mut self, movable: &[usize], temperature: f64) {
        let aimed = !self.critical.is_empty() && self.rng.below(2) == 0;
        let from: &[usize] = if aimed { &self.critical } else { movable };
        let u = from[self.rng.clone().below(from.len())];
        self.rng.next();
        let moves = self.propose(u, movable);
        if moves.iter().all(|&(u, d)| self.device[u] == d) {
            return;
        }
        let before: Vec<(usize, usize)> = moves.iter().map(|&(u, _)| (u, self.device[u])).collect();
        moves.iter().for_each(|&(u, d)| self.device[u] = d);
        if let Some((value, energy, critical)) = self.score() {
            let rise = energy - self.energy;
            if rise <= 0.0 || self.rng.unit() < (-rise / temperature).exp() {
                (self.value, self.energy, self.critical) = (value, energy, critical);
                return;
            }
        }
        before.iter().rev().for_each(|&(u, d)| self.device[u] = d);
    }

    fn propose(&mut self, u: usize, movable: &[usize]) -> Vec<(usize, usize)> {
        let units = self.scene.units;
        let candidates = &units.candidates[u];
        let d = candidates[self.rng.below(candidates.len())];
        match self.rng.below(8) {
            0 => {
                let v = movable[self.rng.below(movable.len())];
                let (a, b) = (self.device[u], self.device[v]);
                if units.time_us[u][b].is_finite() && units.time_us[v][a].is_finite() {
                    return vec![(u, b), (v, a)];
                }
                Vec::new()
            }
            1..=4 => {
                let length = 2usize << self.rng.below(5);
                let first = self.position[u].saturating_sub(self.rng.below(length));
                let run = units.order[first..].iter().take(length);
                run.filter(|&&v| units.candidates[v].contains(&d)).map(|&v| (v, d)).collect()
            }
            _ => vec![(u, d)],
        }
    }
}

/// Tasks on one chain of operations without slack that ends the schedule.
fn critical_tasks(jobs: &Jobs, start: &[f64], makespan: f64) -> Vec<usize> {
    let slack = 1e-9 * makespan;
    // An operation is critical when it ends last or when something critical starts the moment it ends, as its
    // successor or on its resource.
    let mut by_start: Vec<usize> = (0..jobs.len()).collect();
    by_start.sort_by(|&a, &b| start[b].total_cmp(&start[a]).then(b.cmp(&a)));
    let mut next_start = vec![f64::NAN; jobs.n_resources];
    let mut critical = vec![false; jobs.len()];
    for &op in &by_start {
        let end = start[op] + jobs.duration[op];
        let r = jobs.resource[op] as usize;
        critical[op] = end + slack >= makespan
            || (next_start[r] - end).abs() <= slack
            || jobs
                .successors(op)
                .iter()
                .any(|&s| critical[s as usize] && (start[s as usize] - end).abs() <= slack);
        if critical[op] {
            next_start[r] = start[op];
        }
    }
    (0..jobs.n_tasks).filter(|&t| critical[t]).collect()
}
