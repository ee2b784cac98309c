//! The back end that is always there: microlp, reached through good_lp, limited by nodes.
//!
//! good_lp builds the program; it only offers a clock limit, so the built program is solved through microlp's
//! own call, which counts nodes.

use crate::milp::{Column, Milp, MilpAnswer, MilpLimits, MilpStatus, Row};
use good_lp::{Expression, ProblemVariables, SolverModel, Variable, solvers::microlp as backend, variable};
use microlp::{Error, SolveOptions, TerminationReason};

/// Solves a program within a node limit.
pub(crate) fn solve(milp: &Milp, limits: &MilpLimits) -> MilpAnswer {
    let mut variables = ProblemVariables::new();
    let columns: Vec<Variable> = milp.columns.iter().map(|c| variables.add(definition(c))).collect();
    let terms = milp.columns.iter().zip(&columns).map(|(c, &v)| (v, c.cost));
    let objective = terms.fold(Expression::from(0.0), |sum, (v, cost)| sum + cost * v);
    let mut model = variables.minimise(objective).using(backend::microlp);
    for row in &milp.rows {
        add_row(&mut model, row, &columns);
    }
    let mut options = SolveOptions::default();
    options.node_limit = Some(limits.nodes);
    let none = |status| MilpAnswer { status, values: None, bound: f64::NEG_INFINITY, nodes: 0 };
    let outcome = match model.as_inner().solve_with(options) {
        Ok(outcome) => outcome,
        Err(Error::Infeasible) => return none(MilpStatus::Infeasible),
        Err(_) => return none(MilpStatus::Failed),
    };
    let stats = outcome.stats();
    let status = match outcome.termination_reason() {
        TerminationReason::ProvenOptimal => MilpStatus::Optimal,
        _ => MilpStatus::Limit,
    };
    let values: Option<Vec<f64>> = outcome.solution().map(|s| s.iter().map(|(_, v)| v).collect());
    let bound = stats.best_bound.unwrap_or(f64::NEG_INFINITY);
    MilpAnswer { status, values, bound, nodes: stats.nodes_solved }
}

fn definition(c: &Column) -> good_lp::VariableDefinition {
    let bounded = variable().bounds(c.lower..=c.upper);
    if c.integer { bounded.integer() } else { bounded }
}

fn add_row(model: &mut backend::MicroLpProblem, row: &Row, columns: &[Variable]) {
    let sum = || {
        let terms = row.terms.iter().map(|&(c, v)| v * columns[c]);
        terms.fold(Expression::from(0.0), |sum, term| sum + term)
    };
    if row.lower == row.upper {
        model.add_constraint(sum().eq(row.upper));
        return;
    }
    if row.upper.is_finite() {
        model.add_constraint(sum().leq(row.upper));
    }
    if row.lower.is_finite() {
        model.add_constraint(sum().geq(row.lower));
    }
}
