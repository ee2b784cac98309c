//! Strategy selection: one strategy per node so that node costs and costs of pairs are least while usage stays
//! within a limit at all times. The form of the ASPLOS 2025 contest on intra-operator parallelism.
//!
//! Reading order: `file` reads, `check` scores; `reduce` shrinks a problem of 60,000 nodes to some hundreds or
//! thousands, exactly; `model` is what is left; `exact` enumerates it when it is small; else `trws` and `dual` bound
//! it from below, and `tree`, `state` and `search` find an assignment.

pub mod check;
mod dual;
mod exact;
pub mod file;
mod model;
mod reduce;
mod search;
mod state;
mod tables;
mod tree;
mod trws;

use crate::answer::{Limits, Status, relative_gap};
use crate::error::PlaceError;
use file::StrategyProblem;
use model::Model;
use reduce::Reduced;
use std::io::Read;
use tables::FORBIDDEN;

/// Work of one solve unless the caller says otherwise; under a minute of one core.
pub const DEFAULT_WORK: u64 = 30_000_000_000;
/// Share of the bound that rounding of floats could be wrong by.
const ROUNDING: f64 = 1e-9;

/// An assignment and what is proven about it.
#[derive(Debug, Clone, PartialEq)]
pub struct StrategyAnswer {
    /// The strategy of each node.
    pub strategy_of_node: Vec<usize>,
    /// Sum of costs, exact.
    pub value: i128,
    /// Greatest usage at any time, exact.
    pub peak_usage: i128,
    /// No assignment within the limit costs less.
    pub lower_bound: i128,
    /// Which argument proves the bound.
    pub bound_kind: &'static str,
    /// `(value - lower_bound) / value`.
    pub gap: f64,
    /// How far the solve got.
    pub status: Status,
    /// Nodes left after the exact reductions.
    pub core_nodes: usize,
    /// Elementary steps spent.
    pub work_used: u64,
}

/// Reads a problem (JSON, plain or gzipped), solves it and writes the solution.
///
/// # Errors
/// What [`file::read`] and [`solve`] say.
pub fn solve_reader(input: impl Read, limits: &Limits) -> Result<(StrategyAnswer, String), PlaceError> {
    let problem = file::read(input)?;
    let answer = solve(&problem, limits)?;
    let text = problem.write_solution(&answer.strategy_of_node);
    Ok((answer, text))
}

/// Solves a problem. The same problem and limits give the same answer; threads do not change it.
///
/// # Errors
/// What [`StrategyProblem::validate`] says, `P004` when no choice is within the limit, `P005` when no
/// assignment within the limit was found.
pub fn solve(p: &StrategyProblem, limits: &Limits) -> Result<StrategyAnswer, PlaceError> {
    p.validate()?;
    let reduced = Reduced::new(p);
    reduced.refuse_overfull()?;
    let model = Model::new(&reduced);
    let work = limits.work.saturating_sub(reduced.work);
    let found = match exact::enumerate(&model, work) {
        Some(Some(x)) => search::Found { x, bound: f64::INFINITY, work: 0 },
        Some(None) => return Err(PlaceError::impossible("usage_limit", "no choice stays within it")),
        None => search::search(&model, work, limits.seed),
    };
    let strategy_of_node = reduced.expand(&model.spread(&found.x));
    let score = check::score(p, &strategy_of_node)?;
    if !score.fits {
        return Err(PlaceError::not_found(
            "no choice within the usage limit was found within the work limit",
        ));
    }
    let (lower_bound, bound_kind) = bound(p, found.bound + reduced.base_cost, score.cost);
    let gap = relative_gap(score.cost as f64, lower_bound as f64);
    Ok(StrategyAnswer {
        strategy_of_node,
        value: score.cost,
        peak_usage: score.peak_usage,
        lower_bound,
        bound_kind,
        gap,
        status: if lower_bound == score.cost { Status::Optimal } else { Status::Feasible },
        core_nodes: model.nodes(),
        work_used: reduced.work + found.work,
    })
}

/// The bound as a whole number: costs are whole, so it is rounded up, after what rounding may have added is taken
/// off; the bound of an enumeration is infinite here. Where forbidden pairs could be part of an optimum the sum of least costs is all that is proven.
fn bound(p: &StrategyProblem, proven: f64, value: i128) -> (i128, &'static str) {
    let (least, negative) = p.least_costs();
    if value as f64 >= FORBIDDEN - negative as f64 {
        return (least, "sum of least costs");
    }
    let rounded = (proven - 2.0 * ROUNDING * value.unsigned_abs() as f64).ceil() as i128;
    let kind =
        if proven.is_finite() { "tree-reweighted messages with prices of usage" } else { "enumeration" };
    (rounded.max(least).min(value), kind)
}
