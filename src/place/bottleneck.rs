//! Minimum bottleneck: starts, annealing chains, exact search, integer program, each seeing the best so far.

use crate::anneal::{Placed, Run, anneal};
use crate::answer::{Bound, Limits, Status};
use crate::bound::load_bound;
use crate::load::LoadModel;
use crate::milp::{Backend, MilpLimits, MilpStatus};
use crate::rng::Rng;
use crate::{dpl, exact_load, ilp, prices, resplit};

/// What a search over units ends with.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) placed: Placed,
    pub(crate) bound: Bound,
    pub(crate) status: Status,
    pub(crate) solver: String,
    pub(crate) work: u64,
}

/// Units up to which the exact search is tried first.
const EXACT_UNITS: usize = 40;
/// Coefficients up to which HiGHS is asked.
const HIGHS_TERMS: usize = 8_000;
/// Work counted per coefficient and node of an integer program.
const WORK_PER_TERM: u64 = 200;
/// Share of the work an integer program may take, as a divisor.
const PROGRAM_SHARE: u64 = 2;
/// Binaries up to which microlp is asked.
const MICROLP_BINARIES: usize = 48;
/// Share of the work the bound by prices may take, as a divisor of three times the work.
const PRICES_SHARE: u64 = 4;
/// Share of the work the exact search may take, as a divisor.
const EXACT_SHARE: u64 = 8;
/// Share of the work the random orders of the linear split may take, as a divisor.
const SPLIT_SHARE: u64 = 10;
/// Share of the work left that the chains may take, as a divisor of twice the work.
const CHAINS_SHARE: u64 = 3;
/// Share of a chain's work that dividing pairs anew may take beside it, as a divisor.
const RESPLIT_SHARE: u64 = 4;
/// Linear splits kept as starts.
const SPLITS: usize = 4;

/// Where a chain begins.
#[derive(Debug, Clone, Copy)]
enum Start {
    Best,
    Other,
    Random,
}

/// Chains of the first stage: start, first temperature, share of the mean, crowding. Constants, so that threads
/// do not change the answer; different, because no single energy is best for all graphs.
const FIRST_STAGE: [(Start, f64, f64, bool); 8] = [
    (Start::Best, 0.02, 0.1, false),
    (Start::Random, 0.2, 0.1, true),
    (Start::Other, 0.05, 0.1, true),
    (Start::Random, 0.2, 0.5, true),
    (Start::Best, 0.02, 0.5, false),
    (Start::Random, 0.2, 0.1, false),
    (Start::Other, 0.1, 0.5, true),
    (Start::Random, 0.4, 0.5, false),
];
/// Chains of the second stage, all from the best so far.
const SECOND_STAGE: [(f64, f64, bool); 4] =
    [(0.003, 0.1, false), (0.01, 0.1, true), (0.03, 0.1, false), (0.1, 0.1, true)];

/// Solves; `None` when nothing feasible was found.
pub(crate) fn solve(model: &LoadModel<'_>, limits: &Limits) -> Option<Found> {
    let (bound, _) = load_bound(model.units, model.k);
    let mut state = State { best: None, bound, solver: String::new(), work: 0, searched: false };
    let starts = starts(model, limits);
    for (name, start) in &starts {
        state.offer(model, start.clone(), name);
    }
    let small = limits.exact && model.units.len() <= EXACT_UNITS;
    if small {
        state.exact(model, limits.work / EXACT_SHARE);
    }
    if !state.proven() {
        state.chains(model, &starts, limits);
    }
    if !state.proven() && limits.exact {
        state.prices(model, limits.work / PRICES_SHARE * 3);
    }
    if !state.proven() && limits.exact {
        state.program(model, limits);
    }
    let placed = state.best?;
    let status = match (state.bound.proves(placed.value), state.searched) {
        (true, _) => Status::Optimal,
        (false, true) => Status::LimitReached,
        (false, false) => Status::Feasible,
    };
    Some(Found { placed, bound: state.bound, status, solver: state.solver, work: state.work })
}

/// Placements to begin with, by name; not all need fit the memory.
fn starts(model: &LoadModel<'_>, limits: &Limits) -> Vec<(&'static str, Vec<usize>)> {
    let units = model.units;
    let mut starts = Vec::new();
    for (_, split) in dpl::best_splits(model, limits.seed, limits.work / SPLIT_SHARE, SPLITS) {
        starts.push(("linear split", split));
    }
    starts.push(("greedy", greedy(model)));
    for d in 0..model.k {
        let on = |c: &Vec<usize>| if c.contains(&d) { d } else { c[0] };
        starts.push(("one device", units.candidates.iter().map(on).collect()));
    }
    starts
}

/// Longest unit first, each to the device whose load stays lowest among those with room.
fn greedy(model: &LoadModel<'_>) -> Vec<usize> {
    let units = model.units;
    let least = |u: usize| units.time_us[u].iter().copied().fold(f64::INFINITY, f64::min);
    let mut order: Vec<usize> = (0..units.len()).collect();
    order.sort_by(|&a, &b| least(b).total_cmp(&least(a)).then(a.cmp(&b)));
    let (mut load, mut room) = (vec![0.0; model.k], model.capacity.clone());
    let mut device = vec![0; units.len()];
    for u in order {
        let key = |d: usize| (units.memory_bytes[u] > room[d], load[d] + units.time_us[u][d]);
        let better = |a: usize, b: usize| if key(b) < key(a) { b } else { a };
        let d = units.candidates[u].iter().copied().reduce(better).unwrap_or(0);
        load[d] += units.time_us[u][d];
        room[d] = room[d].saturating_sub(units.memory_bytes[u]);
        device[u] = d;
    }
    device
}

struct State {
    best: Option<Placed>,
    bound: Bound,
    solver: String,
    work: u64,
    /// Whether a proof was begun.
    searched: bool,
}

impl State {
    fn value(&self) -> f64 {
        self.best.as_ref().map_or(f64::INFINITY, |b| b.value)
    }

    fn proven(&self) -> bool {
        self.best.as_ref().is_some_and(|b| self.bound.proves(b.value))
    }

    fn offer(&mut self, model: &LoadModel<'_>, device_of_unit: Vec<usize>, by: &str) {
        if let Some(value) = model.value(&device_of_unit)
            && value < self.value()
        {
            self.best = Some(Placed { device_of_unit, value });
            self.solver = by.to_owned();
        }
    }

    fn exact(&mut self, model: &LoadModel<'_>, work: u64) {
        let found = exact_load::search(model, self.value(), work);
        self.work += found.work;
        self.searched = true;
        if let Some(placed) = found.better {
            self.offer(model, placed.device_of_unit, "branch and bound");
        }
        if found.complete {
            self.bound = self.bound.max(Bound { value: self.value(), kind: "branch and bound" });
        }
    }

    fn prices(&mut self, model: &LoadModel<'_>, work: u64) {
        let (bound, spent) = prices::bound(model, self.value(), work);
        self.work += spent;
        self.searched = true;
        if let Some(bound) = bound {
            self.bound = self.bound.max(bound);
        }
    }

    /// Two stages of chains: from the starts and from chance, then from the best at lower temperatures.
    fn chains(&mut self, model: &LoadModel<'_>, starts: &[(&'static str, Vec<usize>)], limits: &Limits) {
        let left = limits.work.saturating_sub(self.work) / CHAINS_SHARE * 2;
        let mut rng = Rng::new(limits.seed);
        let mut random =
            || -> Vec<usize> { model.units.candidates.iter().map(|c| c[rng.below(c.len())]).collect() };
        let warm = self.best.as_ref().map_or(&starts[0].1, |b| &b.device_of_unit).clone();
        let first: Vec<(Vec<usize>, Run)> = FIRST_STAGE
            .iter()
            .enumerate()
            .map(|(i, &(place, hot, mean_share, crowding))| {
                let start = match place {
                    Start::Best => warm.clone(),
                    Start::Other => starts[(i / 2) % starts.len()].1.clone(),
                    Start::Random => random(),
                };
                let work = left / 2 / FIRST_STAGE.len() as u64;
                (start, Run { seed: limits.seed + i as u64, work, hot, cold: 1e-4, mean_share, crowding })
            })
            .collect();
        self.run_chains(model, &first, limits.threads);
        let again = self.best.as_ref().map_or(warm, |b| b.device_of_unit.clone());
        let second: Vec<(Vec<usize>, Run)> = SECOND_STAGE
            .iter()
            .enumerate()
            .map(|(i, &(hot, mean_share, crowding))| {
                let (seed, work) = (limits.seed + 100 + i as u64, left / 2 / SECOND_STAGE.len() as u64);
                (again.clone(), Run { seed, work, hot, cold: 3e-5, mean_share, crowding })
            })
            .collect();
        self.run_chains(model, &second, limits.threads);
    }

    fn run_chains(&mut self, model: &LoadModel<'_>, chains: &[(Vec<usize>, Run)], threads: usize) {
        let results = in_parallel(chains, threads, |(start, run)| {
            let placed = anneal(model, start, *run)?;
            let (divided, work) = resplit::improve(model, &placed, run.seed, run.work / RESPLIT_SHARE);
            Some((placed, divided, work))
        });
        for (result, (_, run)) in results.into_iter().zip(chains) {
            self.work += run.work;
            if let Some((placed, divided, work)) = result {
                self.work += work;
                self.offer(model, placed.device_of_unit, "annealing");
                self.offer(model, divided.device_of_unit, "annealing and division of pairs");
            }
        }
    }

    /// Asks an integer programming back end when the program is of a size it can handle.
    fn program(&mut self, model: &LoadModel<'_>, limits: &Limits) {
        if model.units.len() * model.k > HIGHS_TERMS {
            return;
        }
        let backend = if limits.highs { Backend::best_available().0 } else { Backend::Microlp };
        let start = self.best.as_ref().map(|b| b.device_of_unit.clone());
        let horizon = self.value() * (1.0 + 1e-9);
        let program = ilp::bottleneck(model, start.as_deref(), horizon);
        let terms = program.milp.n_terms();
        let binaries = program.milp.columns.iter().filter(|c| c.integer).count();
        let fits = match backend {
            Backend::Highs(_) => terms <= HIGHS_TERMS,
            Backend::Microlp => binaries <= MICROLP_BINARIES,
        };
        if !fits {
            return;
        }
        self.searched = true;
        let nodes = (limits.work / PROGRAM_SHARE / (WORK_PER_TERM * terms as u64 + 1000)).max(20);
        let answer = backend.solve(&program.milp, &MilpLimits { nodes, threads: 1 });
        self.work += answer.nodes.max(1) * WORK_PER_TERM * terms as u64;
        if let Some(values) = &answer.values {
            self.offer(model, program.read(model.units, values), backend.name());
        }
        let bound = match answer.status {
            // Nothing below the horizon: the best so far is optimal.
            MilpStatus::Infeasible => self.value(),
            _ => answer.bound.min(self.value()),
        };
        if answer.status != MilpStatus::Failed && bound.is_finite() {
            self.bound = self.bound.max(Bound { value: bound, kind: "integer program" });
        }
    }
}

/// Maps over `items` with up to `threads` threads; the results keep the order of the items.
pub(crate) fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    f: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    if threads <= 1 || items.len() <= 1 {
        return items.iter().map(f).collect();
    }
    let chunk = items.len().div_ceil(threads);
    std::thread::scope(|scope| {
        let workers: Vec<_> = items
            .chunks(chunk)
            .map(|part| {
                let f = &f;
                scope.spawn(move || part.iter().map(f).collect::<Vec<R>>())
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}
