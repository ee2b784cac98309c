//! Minimum latency: starts, exact search on small problems, annealing chains, integer program on tiny ones.

use crate::anneal::{Placed, Run};
use crate::answer::{Bound, Limits, Status};
use crate::bottleneck::{Found, in_parallel};
use crate::bound::latency_bound;
use crate::improve::{Scene, improve};
use crate::milp::{Backend, MilpLimits, MilpStatus};
use crate::schedule::{Schedule, from_starts};
use crate::{exact, heft, ilp};

/// Units and operations up to which the exact search is tried.
const EXACT_UNITS: usize = 64;
const EXACT_OPERATIONS: usize = 400;
/// Coefficients up to which HiGHS is asked.
const HIGHS_TERMS: usize = 3_000;
/// Work counted per coefficient and node of an integer program.
const WORK_PER_TERM: u64 = 200;
/// Share of the work an integer program may take, as a divisor.
const PROGRAM_SHARE: u64 = 4;
/// Share of the work the exact search may take, as a divisor.
const EXACT_SHARE: u64 = 3;
/// Annealing chains per stage; a constant, so that threads do not change the answer.
const CHAINS: u64 = 4;

/// Solves; `None` when nothing feasible was found.
pub(crate) fn solve(scene: Scene<'_>, limits: &Limits) -> Option<(Found, Schedule)> {
    let bound = latency_bound(scene.problem, scene.units);
    let mut state =
        State { scene, best: None, starts: None, bound, solver: String::new(), work: 0, searched: false };
    let starts = starts(scene);
    for (name, start) in &starts {
        state.offer(start.clone(), name);
    }
    let operations = scene.problem.tasks.len() + scene.problem.tensors.len();
    let small = scene.units.len() <= EXACT_UNITS && operations <= EXACT_OPERATIONS;
    if !state.proven() {
        // A short search first: the exact one cuts better with a good value.
        state.chains(limits, if small { limits.work / 20 } else { limits.work });
    }
    if !state.proven() && limits.exact && small {
        state.exact(limits.work / EXACT_SHARE);
        if !state.proven() {
            state.chains(limits, limits.work.saturating_sub(state.work));
            state.program(limits);
        }
    }
    let placed = state.best.clone()?;
    let schedule = state.schedule(&placed)?;
    let status = match (state.bound.proves(placed.value), state.searched) {
        (true, _) => Status::Optimal,
        (false, true) => Status::LimitReached,
        (false, false) => Status::Feasible,
    };
    let found = Found { placed, bound: state.bound, status, solver: state.solver, work: state.work };
    Some((found, schedule))
}

fn starts(scene: Scene<'_>) -> Vec<(&'static str, Vec<usize>)> {
    let (p, units) = (scene.problem, scene.units);
    let mut starts = vec![
        ("earliest finish", heft::earliest_finish(p, units, scene.shape)),
        ("order path", heft::order_path(p, units, scene.shape)),
    ];
    for d in 0..scene.shape.k {
        let on = |c: &Vec<usize>| if c.contains(&d) { d } else { c[0] };
        starts.push(("one device", units.candidates.iter().map(on).collect()));
    }
    starts.push(("first fit", first_fit(scene)));
    starts
}

/// Largest memory first, each unit on its fastest device with room: a start when memory is tight.
fn first_fit(scene: Scene<'_>) -> Vec<usize> {
    let units = scene.units;
    let mut order: Vec<usize> = (0..units.len()).collect();
    order.sort_by_key(|&u| (std::cmp::Reverse(units.memory_bytes[u]), u));
    let mut room: Vec<u64> =
        scene.problem.devices.iter().map(|d| d.memory_bytes.unwrap_or(u64::MAX)).collect();
    let mut device = vec![0; units.len()];
    for u in order {
        let key = |d: usize| (units.memory_bytes[u] > room[d], units.time_us[u][d]);
        let better = |a: usize, b: usize| if key(b) < key(a) { b } else { a };
        let d = units.candidates[u].iter().copied().reduce(better).unwrap_or(0);
        room[d] = room[d].saturating_sub(units.memory_bytes[u]);
        device[u] = d;
    }
    device
}

struct State<'a> {
    scene: Scene<'a>,
    best: Option<Placed>,
    /// Starts of the operations of the best placement when a search found better ones than the list schedule.
    starts: Option<Vec<f64>>,
    bound: Bound,
    solver: String,
    work: u64,
    searched: bool,
}

impl State<'_> {
    fn value(&self) -> f64 {
        self.best.as_ref().map_or(f64::INFINITY, |b| b.value)
    }

    fn proven(&self) -> bool {
        self.best.as_ref().is_some_and(|b| self.bound.proves(b.value))
    }

    fn offer(&mut self, device_of_unit: Vec<usize>, by: &str) {
        self.work += self.scene.work();
        if let Some(value) = self.scene.value(&device_of_unit)
            && value < self.value()
        {
            self.best = Some(Placed { device_of_unit, value });
            self.starts = None;
            self.solver = by.to_owned();
        }
    }

    fn chains(&mut self, limits: &Limits, work: u64) {
        let Some(best) = self.best.clone() else { return };
        let target = self.bound.value;
        let each = work / (2 * CHAINS);
        for (stage, hots) in [(0, [0.3, 0.1, 0.03, 0.01]), (1, [0.1, 0.03, 0.01, 0.003])] {
            let from = self.best.clone().unwrap_or_else(|| best.clone());
            let runs: Vec<Run> = (0..CHAINS)
                .map(|i| {
                    let seed = limits.seed + stage * CHAINS + i;
                    Run {
                        seed,
                        work: each,
                        hot: hots[i as usize % 4],
                        cold: 1e-4,
                        mean_share: 0.01,
                        crowding: false,
                    }
                })
                .collect();
            let scene = self.scene;
            for (placed, spent) in in_parallel(&runs, limits.threads, |r| improve(scene, &from, *r, target)) {
                self.work += spent;
                if placed.value < self.value() {
                    self.offer(placed.device_of_unit, "annealing");
                }
            }
        }
    }

    fn exact(&mut self, work: u64) {
        let found = exact::search(self.scene, self.value(), work);
        self.work += found.work;
        self.searched = true;
        if let Some((device_of_unit, starts)) = found.better {
            self.best = Some(Placed { device_of_unit, value: found.value });
            self.starts = Some(starts);
            self.solver = "branch and bound".into();
        }
        if found.complete && self.best.is_some() {
            self.bound = self.bound.max(Bound { value: self.value(), kind: "branch and bound" });
        }
    }

    /// Asks HiGHS for a bound and perhaps a better placement when the program is tiny.
    fn program(&mut self, limits: &Limits) {
        if !limits.highs || self.best.is_none() {
            return;
        }
        let (backend @ Backend::Highs(_), _) = Backend::best_available() else { return };
        let horizon = self.value() * (1.0 + 1e-9);
        let program = ilp::latency(self.scene.problem, self.scene.units, horizon);
        let terms = program.milp.n_terms();
        if terms > HIGHS_TERMS {
            return;
        }
        let nodes = (limits.work / PROGRAM_SHARE / (WORK_PER_TERM * terms as u64 + 1000)).max(20);
        let answer = backend.solve(&program.milp, &MilpLimits { nodes, threads: 1 });
        self.work += answer.nodes.max(1) * WORK_PER_TERM * terms as u64;
        if let Some(values) = &answer.values {
            self.offer(program.read(self.scene.units, values), backend.name());
        }
        let finished = matches!(answer.status, MilpStatus::Optimal | MilpStatus::Limit);
        if finished && answer.bound.is_finite() {
            let value = answer.bound.min(self.value());
            self.bound = self.bound.max(Bound { value, kind: "integer program" });
        }
    }

    fn schedule(&self, placed: &Placed) -> Option<Schedule> {
        let jobs = self.scene.jobs(&placed.device_of_unit)?;
        let starts = self.starts.clone().unwrap_or_else(|| jobs.best_list());
        Some(from_starts(&jobs, &starts))
    }
}
