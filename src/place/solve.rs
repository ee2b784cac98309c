//! The entry points: a problem to an answer, a text to an answer and a solution file.

use crate::answer::{Answer, Limits, Objective, relative_gap};
use crate::bottleneck::{self, Found};
use crate::error::PlaceError;
use crate::improve::Scene;
use crate::jobs::Shape;
use crate::load::LoadModel;
use crate::problem::Problem;
use crate::schedule::{Schedule, list_schedule};
use crate::units::Units;
use crate::{helix, latency, msr, msr_latency, piper, solution, text};

/// The forms of problem file that are read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Format {
    /// Our own text form.
    Partita,
    /// The compact JSON form of the MSR instances.
    Msr,
    /// The placement programs of Helix in the LP form.
    Helix,
    /// The TMPC problems of Piper.
    Piper(piper::Options),
}

impl Format {
    /// Reads the word used on the command line: `partita`, `msr`, `helix` or `piper`.
    pub fn from_word(word: &str) -> Option<Format> {
        match word {
            "partita" => Some(Format::Partita),
            "msr" => Some(Format::Msr),
            "helix" => Some(Format::Helix),
            "piper" => Some(Format::Piper(piper::Options::default())),
            _ => None,
        }
    }
}

/// Solves a problem. The same problem, objective and limits give the same answer, whatever the threads.
///
/// # Errors
/// What [`Problem::validate`] says, `P004` when no placement can exist, `P005` when none was found.
pub fn solve(p: &Problem, objective: Objective, limits: &Limits) -> Result<Answer, PlaceError> {
    p.validate()?;
    refuse_oversized(p)?;
    let units = Units::new(p);
    match objective {
        Objective::Bottleneck => {
            let model = LoadModel::new(p, &units);
            let found = bottleneck::solve(&model, limits).ok_or_else(nothing_found)?;
            let schedule =
                list_schedule(p, &units.expand(&found.placed.device_of_unit)).ok_or_else(nothing_found)?;
            Ok(answer(&units, found, schedule))
        }
        Objective::Latency => {
            let shape = Shape::new(p);
            let scene = Scene { problem: p, units: &units, shape: &shape };
            let (found, schedule) = latency::solve(scene, limits).ok_or_else(nothing_found)?;
            Ok(answer(&units, found, schedule))
        }
    }
}

fn nothing_found() -> PlaceError {
    PlaceError::not_found("no placement that fits the memory and the paths was found within the work limit")
}

/// A memory argument that needs no search: everything together, and each task alone.
fn refuse_oversized(p: &Problem) -> Result<(), PlaceError> {
    for (t, task) in p.tasks.iter().enumerate() {
        let fits = |d: usize| p.devices[d].memory_bytes.is_none_or(|room| task.memory_bytes <= room);
        if !(0..p.devices.len()).any(|d| p.time_us(t, d).is_some() && fits(d)) {
            let message = "it is larger than the memory of every device that may run it";
            return Err(PlaceError::impossible(format!("task {}", task.name), message));
        }
    }
    let total: u128 = p.tasks.iter().map(|t| u128::from(t.memory_bytes)).sum();
    let room: Option<u128> = p.devices.iter().map(|d| d.memory_bytes.map(u128::from)).sum();
    match room.filter(|&r| total > r) {
        Some(r) => {
            let message = format!("the tasks need {total} bytes, the devices have {r}");
            Err(PlaceError::impossible("memory", message))
        }
        None => Ok(()),
    }
}

fn answer(units: &Units, found: Found, schedule: Schedule) -> Answer {
    let value = found.placed.value;
    let lower_bound = found.bound.value.min(value);
    Answer {
        device_of_task: units.expand(&found.placed.device_of_unit),
        schedule,
        value,
        lower_bound,
        bound_kind: found.bound.kind,
        gap: relative_gap(value, lower_bound),
        status: found.status,
        solver: found.solver,
        work_used: found.work,
    }
}

/// Solves the problem in a file's text and writes the solution file's text.
///
/// For [`Format::Msr`] and [`Objective::Latency`] the objective is that of the instances: one contiguous
/// subgraph per accelerator, processors without limit.
///
/// # Errors
/// What the readers and [`solve`] say.
pub fn solve_text(
    input: &str,
    format: Format,
    objective: Objective,
    limits: &Limits,
) -> Result<(Answer, String), PlaceError> {
    match format {
        Format::Helix => helix::solve_text(input, limits),
        Format::Piper(options) => piper::solve_text(input, &options),
        Format::Partita => {
            let problem = text::parse(input)?;
            let answer = solve(&problem, objective, limits)?;
            let file = solution::print(&problem, objective, &answer);
            Ok((answer, file))
        }
        Format::Msr => {
            let instance = msr::read(input)?;
            let answer = match objective {
                Objective::Bottleneck => solve(&instance.to_problem()?, objective, limits)?,
                Objective::Latency => msr_latency::solve(&instance, limits)?,
            };
            let file = instance.write_solution(objective, &answer)?;
            Ok((answer, file))
        }
    }
}
