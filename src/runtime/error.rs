//! Errors of a run: code, place, one sentence, a hint; the same letter that plans use.

/// What went wrong while a plan was loaded, bound or run.
pub use partita_plan::PlanError as RuntimeError;
