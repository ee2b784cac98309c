//! What is asked of a solver and what it answers: objective, limits, value, bound, status.

use crate::schedule::Schedule;

/// Relative distance within which a value counts as equal to a proven bound.
pub const OPTIMAL_RELATIVE: f64 = 1e-9;
/// Work of one solve unless the caller says otherwise; about five seconds of one core.
pub const DEFAULT_WORK: u64 = 200_000_000;

/// What to minimise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objective {
    /// Time of one inference: devices and links work at once, each does one thing at a time.
    Latency,
    /// Load of the busiest device or link, the time per sample of a pipeline.
    Bottleneck,
}

impl Objective {
    /// Reads the word used on the command line: `latency` or `throughput`.
    pub fn from_word(word: &str) -> Option<Objective> {
        match word {
            "latency" => Some(Objective::Latency),
            "throughput" => Some(Objective::Bottleneck),
            _ => None,
        }
    }

    /// The word used on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Objective::Latency => "latency",
            Objective::Bottleneck => "throughput",
        }
    }
}

/// How much a solve may spend. Work is counted, not timed, so the same limits give the same answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Elementary steps: about one tensor or one task looked at, each.
    pub work: u64,
    /// Threads; they share the same searches and do not change the answer.
    pub threads: usize,
    /// Whether to spend work on proofs (branch and bound, integer programs) after the searches.
    pub exact: bool,
    /// Seed of the searches.
    pub seed: u64,
    /// Whether a HiGHS library may be loaded when one is found.
    pub highs: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { work: DEFAULT_WORK, threads: 1, exact: true, seed: 1, highs: true }
    }
}

/// How far a solve got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The value is within [`OPTIMAL_RELATIVE`] of a proven bound.
    Optimal,
    /// The searches ended on their own; optimality is not proven.
    Feasible,
    /// A work limit ended a proof that had begun.
    LimitReached,
}

impl Status {
    /// The word used in solution files.
    pub fn word(self) -> &'static str {
        match self {
            Status::Optimal => "optimal",
            Status::Feasible => "feasible",
            Status::LimitReached => "limit",
        }
    }
}

/// A placement with its schedule, its value and what is proven about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The device of each task.
    pub device_of_task: Vec<usize>,
    /// When everything runs in one inference.
    pub schedule: Schedule,
    /// The objective in microseconds (in the file's own unit for MSR instances).
    pub value: f64,
    /// No placement is better than this.
    pub lower_bound: f64,
    /// Which argument proves the bound.
    pub bound_kind: &'static str,
    /// `(value - lower_bound) / value`, zero for a zero value.
    pub gap: f64,
    /// How far the solve got.
    pub status: Status,
    /// The method that found the placement, for people.
    pub solver: String,
    /// Elementary steps spent.
    pub work_used: u64,
}

/// A proven bound and the name of its proof.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// No placement has a smaller value.
    pub value: f64,
    /// Which argument proves it.
    pub kind: &'static str,
}

impl Bound {
    /// The stronger of two bounds; the first on a tie.
    pub(crate) fn max(self, other: Bound) -> Bound {
        if other.value > self.value { other } else { self }
    }

    /// Whether `value` is optimal by this bound.
    pub(crate) fn proves(self, value: f64) -> bool {
        value - self.value <= OPTIMAL_RELATIVE * value.abs()
    }
}

/// `(value - bound) / value`, clamped to zero from below.
pub(crate) fn relative_gap(value: f64, bound: f64) -> f64 {
    if value <= 0.0 { 0.0 } else { ((value - bound) / value).max(0.0) }
}
