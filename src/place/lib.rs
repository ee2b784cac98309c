//! Placement, schedule and memory as numbers: problems, solvers, bounds, an independent checker.
