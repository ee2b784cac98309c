//! When everything runs for a fixed placement: starts and ends of tasks on devices and of transfers on links.
//!
//! Two list schedules with the upward rank as priority are made and the shorter is kept; ties go by index, so
//! the schedule is a function of its inputs.

use crate::jobs::{Jobs, Shape};
use crate::problem::Problem;

/// Start and end in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Slot {
    /// When it starts.
    pub start_us: f64,
    /// When it ends.
    pub end_us: f64,
}

/// One tensor on its way from one device to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transfer {
    /// Index of the tensor.
    pub tensor: usize,
    /// Device it leaves.
    pub from: usize,
    /// Device it reaches.
    pub to: usize,
    /// When it starts.
    pub start_us: f64,
    /// When it ends.
    pub end_us: f64,
}

/// A timeline.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Schedule {
    /// One slot per task.
    pub tasks: Vec<Slot>,
    /// Transfers by start, then tensor, then destination.
    pub transfers: Vec<Transfer>,
    /// End of the last task.
    pub makespan_us: f64,
}

/// Schedules a placement; `None` when a tensor has no path or a task may not run where it is.
pub fn list_schedule(p: &Problem, device_of_task: &[usize]) -> Option<Schedule> {
    let jobs = Jobs::new(p, &Shape::new(p), device_of_task)?;
    Some(from_starts(&jobs, &jobs.best_list()))
}

/// Makes the public form from starts of operations.
pub(crate) fn from_starts(jobs: &Jobs, start: &[f64]) -> Schedule {
    let slot = |op: usize| Slot { start_us: start[op], end_us: start[op] + jobs.duration[op] };
    let tasks: Vec<Slot> = (0..jobs.n_tasks).map(slot).collect();
    let mut transfers: Vec<Transfer> = jobs
        .moves
        .iter()
        .enumerate()
        .map(|(i, m)| {
            let s = slot(jobs.n_tasks + i);
            Transfer { tensor: m.tensor, from: m.from, to: m.to, start_us: s.start_us, end_us: s.end_us }
        })
        .collect();
    transfers.sort_by(|a, b| {
        a.start_us.total_cmp(&b.start_us).then(a.tensor.cmp(&b.tensor)).then(a.to.cmp(&b.to))
    });
    let makespan_us = tasks.iter().map(|s| s.end_us).fold(0.0, f64::max);
    Schedule { tasks, transfers, makespan_us }
}
