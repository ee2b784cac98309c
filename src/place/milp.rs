//! Mixed-integer programs in a neutral form, and the back ends that solve them.
//!
//! The models in `ilp.rs` know nothing of a solver. microlp (pure Rust, through good_lp) is always there; a
//! HiGHS library is used when one can be loaded at run time.

use crate::highs::Highs;
use crate::microlp;

/// One variable.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Column {
    /// Least value; may be `-inf`.
    pub lower: f64,
    /// Greatest value; may be `inf`.
    pub upper: f64,
    /// Coefficient in the objective.
    pub cost: f64,
    /// Whether only whole values count.
    pub integer: bool,
}

/// `lower <= sum of terms <= upper`.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// May be `-inf`.
    pub lower: f64,
    /// May be `inf`.
    pub upper: f64,
    /// Column and coefficient; a column appears at most once.
    pub terms: Vec<(usize, f64)>,
}

/// A minimisation over columns and rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Milp {
    /// The variables.
    pub columns: Vec<Column>,
    /// The constraints.
    pub rows: Vec<Row>,
    /// A value for each column to start from, feasible or not.
    pub start: Option<Vec<f64>>,
}

impl Milp {
    /// Adds a variable and returns its index.
    pub fn column(&mut self, lower: f64, upper: f64, cost: f64, integer: bool) -> usize {
        self.columns.push(Column { lower, upper, cost, integer });
        self.columns.len() - 1
    }

    /// Adds a constraint; terms of equal columns are summed.
    pub fn row(&mut self, lower: f64, upper: f64, mut terms: Vec<(usize, f64)>) {
        terms.sort_by_key(|t| t.0);
        terms.dedup_by(|b, a| {
            let same = a.0 == b.0;
            if same {
                a.1 += b.1;
            }
            same
        });
        terms.retain(|t| t.1 != 0.0);
        self.rows.push(Row { lower, upper, terms });
    }

    /// The objective at `values`.
    pub fn objective(&self, values: &[f64]) -> f64 {
        self.columns.iter().zip(values).map(|(c, v)| c.cost * v).sum()
    }

    /// Number of coefficients in the rows.
    pub fn n_terms(&self) -> usize {
        self.rows.iter().map(|r| r.terms.len()).sum()
    }
}

/// What a back end may spend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MilpLimits {
    /// Branch-and-bound nodes. Never a clock: the same limits give the same answer.
    pub nodes: u64,
    /// Threads (HiGHS).
    pub threads: usize,
}

/// How a back end ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MilpStatus {
    /// Proven by the back end within its tolerances.
    Optimal,
    /// No solution exists.
    Infeasible,
    /// A counted limit was reached.
    Limit,
    /// The back end gave up.
    Failed,
}

/// What a back end found.
#[derive(Debug, Clone, PartialEq)]
pub struct MilpAnswer {
    /// How it ended.
    pub status: MilpStatus,
    /// The best feasible values, if any.
    pub values: Option<Vec<f64>>,
    /// A lower bound on the objective; `-inf` when none is known.
    pub bound: f64,
    /// Nodes searched, as far as the back end tells.
    pub nodes: u64,
}

/// A way to solve a [`Milp`].
#[derive(Debug)]
pub enum Backend {
    /// Pure Rust, small programs only.
    Microlp,
    /// A shared library found on this machine.
    Highs(Highs),
}

impl Backend {
    /// HiGHS when it can be loaded, else microlp; with a sentence for people about the choice.
    pub fn best_available() -> (Backend, String) {
        match Highs::load() {
            Ok(highs) => {
                let sentence = format!("HiGHS {} is used.", highs.version());
                (Backend::Highs(highs), sentence)
            }
            Err(reason) => (Backend::Microlp, format!("{reason} microlp is used.")),
        }
    }

    /// The word for solver names.
    pub fn name(&self) -> &'static str {
        match self {
            Backend::Microlp => "microlp",
            Backend::Highs(_) => "highs",
        }
    }

    /// Solves a program.
    pub fn solve(&self, milp: &Milp, limits: &MilpLimits) -> MilpAnswer {
        match self {
            Backend::Microlp => microlp::solve(milp, limits),
            Backend::Highs(highs) => highs.solve(milp, limits),
        }
    }
}
