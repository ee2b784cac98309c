//! The operator dictionary: one row per operator with its whole truth.
