//! Exact search for small latency problems: branch and bound over placements, and inside over schedules.
//!
//! Outside, units get devices in topological order; a node is cut by the path labels, by the load of the
//! devices, and by symmetry (an empty device of a class only after its equal of lower index is used). Inside,
//! the job graph of a complete placement is searched over active schedules (Giffler and Thompson 1960: branch on
//! who goes first on the resource that could finish something earliest), which contain an optimal one.

use crate::answer::OPTIMAL_RELATIVE;
use crate::bound::Labels;
use crate::improve::{Scene, WORK_PER_OP};
use crate::jobs::Jobs;

/// Cut when a bound is this close to the best known value.
const CUT: f64 = 1.0 - OPTIMAL_RELATIVE / 2.0;

/// Result of the search.
#[derive(Debug, Clone)]
pub(crate) struct Exact {
    /// Placement of units and starts of its operations, when better than what was given.
    pub(crate) better: Option<(Vec<usize>, Vec<f64>)>,
    pub(crate) value: f64,
    /// Whether the whole space was searched.
    pub(crate) complete: bool,
    pub(crate) work: u64,
}

/// Searches for a latency below `known`, spending at most `work`.
pub(crate) fn search(scene: Scene<'_>, known: f64, work: u64) -> Exact {
    let n = scene.problem.tasks.len();
    let mut search = Outer {
        scene,
        labels: Labels::new(scene.problem),
        class: scene.units.device_classes(scene.problem),
        device_of_task: vec![None; n],
        device_of_unit: vec![0; scene.units.len()],
        used: vec![0; scene.shape.k],
        room: scene.problem.devices.iter().map(|d| d.memory_bytes.unwrap_or(u64::MAX)).collect(),
        result: Exact { better: None, value: known, complete: true, work: 0 },
        budget: work,
    };
    search.branch(0);
    search.result
}

struct Outer<'a> {
    scene: Scene<'a>,
    labels: Labels,
    class: Vec<usize>,
    device_of_task: Vec<Option<usize>>,
    device_of_unit: Vec<usize>,
    used: Vec<usize>,
    room: Vec<u64>,
    result: Exact,
    budget: u64,
}

impl Outer<'_> {
    fn branch(&mut self, depth: usize) {
        if self.result.work >= self.budget {
            self.result.complete = false;
            return;
        }
        self.result.work += self.scene.work() * self.scene.shape.k as u64;
        if self.labels.bound(&self.device_of_task) >= self.result.value * CUT {
            return;
        }
        let Some(&u) = self.scene.units.order.get(depth) else {
            self.leaf();
            return;
        };
        let mut devices: Vec<usize> = self.scene.units.candidates[u].clone();
        devices.sort_by(|&a, &b| self.scene.units.time_us[u][a].total_cmp(&self.scene.units.time_us[u][b]));
        for d in devices {
            let size = self.scene.units.memory_bytes[u];
            let twin_unused = (0..d).any(|e| self.class[e] == self.class[d] && self.used[e] == 0);
            if size > self.room[d] || (self.used[d] == 0 && twin_unused) {
                continue;
            }
            self.set(u, Some(d));
            self.used[d] += 1;
            self.room[d] -= size;
            self.branch(depth + 1);
            self.room[d] += size;
            self.used[d] -= 1;
            self.set(u, None);
        }
    }

    fn set(&mut self, u: usize, device: Option<usize>) {
        self.device_of_unit[u] = device.unwrap_or(0);
        for &t in &self.scene.units.members[u] {
            self.device_of_task[t] = device;
        }
    }

    fn leaf(&mut self) {
        let Some(jobs) = self.scene.jobs(&self.device_of_unit) else { return };
        let budget = self.budget.saturating_sub(self.result.work);
        let found = best_schedule(&jobs, self.result.value, budget);
        self.result.work += found.work;
        self.result.complete &= found.complete;
        if let Some(start) = found.start {
            self.result.value = jobs.makespan(&start);
            self.result.better = Some((self.device_of_unit.clone(), start));
        }
    }
}

/// Result of the search over the schedules of one placement.
#[derive(Debug, Clone)]
pub(crate) struct BestSchedule {
    /// Starts of all operations, when shorter than what was known.
    pub(crate) start: Option<Vec<f64>>,
    pub(crate) complete: bool,
    pub(crate) work: u64,
}

/// The shortest schedule of a placement below `known`, if there is one and the work allows.
pub(crate) fn best_schedule(jobs: &Jobs, known: f64, work: u64) -> BestSchedule {
    let mut search = Inner {
        jobs,
        earliest: vec![0.0; jobs.len()],
        free: vec![0.0; jobs.n_resources],
        waiting: jobs.n_before.clone(),
        done: vec![false; jobs.len()],
        best: known,
        result: BestSchedule { start: None, complete: true, work: 0 },
        budget: work,
    };
    let list = jobs.best_list();
    let value = jobs.makespan(&list);
    if value < known * CUT {
        (search.best, search.result.start) = (value, Some(list));
    }
    search.branch(jobs.len());
    search.result
}

struct Inner<'a> {
    jobs: &'a Jobs,
    earliest: Vec<f64>,
    free: Vec<f64>,
    waiting: Vec<u32>,
    done: Vec<bool>,
    best: f64,
    result: BestSchedule,
    budget: u64,
}

impl Inner<'_> {
    fn branch(&mut self, left: usize) {
        if self.result.work >= self.budget {
            self.result.complete = false;
            return;
        }
        self.result.work += self.jobs.len() as u64 * WORK_PER_OP / 2;
        if left == 0 {
            let value = self.jobs.makespan(&self.earliest);
            if value < self.best * CUT {
                self.best = value;
                self.result.start = Some(self.earliest.clone());
            }
            return;
        }
        if self.bound() >= self.best * CUT {
            return;
        }
        for op in self.conflict_set() {
            self.place(op, left);
        }
    }

    fn start_of(&self, op: usize) -> f64 {
        self.earliest[op].max(self.free[self.jobs.resource[op] as usize])
    }

    /// Ready operations that could go first on the resource that can finish something earliest, by tail.
    fn conflict_set(&self) -> Vec<usize> {
        let ready = || (0..self.jobs.len()).filter(|&op| !self.done[op] && self.waiting[op] == 0);
        let end = |op: usize| self.start_of(op) + self.jobs.duration[op];
        let Some(first) = ready().reduce(|a, b| if end(b) < end(a) { b } else { a }) else {
            return Vec::new();
        };
        let (limit, resource) = (end(first), self.jobs.resource[first]);
        let mut set: Vec<usize> = ready()
            .filter(|&op| self.jobs.resource[op] == resource && (op == first || self.start_of(op) < limit))
            .collect();
        set.sort_by(|&a, &b| self.jobs.tail[b].total_cmp(&self.jobs.tail[a]).then(a.cmp(&b)));
        set
    }

    fn place(&mut self, op: usize, left: usize) {
        let r = self.jobs.resource[op] as usize;
        let saved_free = self.free[r];
        let saved_earliest = self.earliest.clone();
        let start = self.start_of(op);
        self.earliest[op] = start;
        let end = start + self.jobs.duration[op];
        self.free[r] = end;
        self.done[op] = true;
        for &s in self.jobs.successors(op) {
            self.waiting[s as usize] -= 1;
            self.earliest[s as usize] = self.earliest[s as usize].max(end);
        }
        self.branch(left - 1);
        for &s in self.jobs.successors(op) {
            self.waiting[s as usize] += 1;
        }
        self.done[op] = false;
        self.free[r] = saved_free;
        self.earliest = saved_earliest;
    }

    /// Longest way over what is left, and per resource the earliest start, all that is left, the least tail.
    fn bound(&self) -> f64 {
        let r = self.jobs.n_resources;
        let (mut first, mut sum, mut last) = (vec![f64::INFINITY; r], vec![0.0; r], vec![f64::INFINITY; r]);
        let mut most = 0.0f64;
        for op in (0..self.jobs.len()).filter(|&op| !self.done[op]) {
            let (start, i) = (self.start_of(op), self.jobs.resource[op] as usize);
            most = most.max(start + self.jobs.tail[op]);
            first[i] = first[i].min(start);
            sum[i] += self.jobs.duration[op];
            last[i] = last[i].min(self.jobs.tail[op] - self.jobs.duration[op]);
        }
        (0..r).filter(|&i| sum[i] > 0.0).map(|i| first[i] + sum[i] + last[i]).fold(most, f64::max)
    }
}
