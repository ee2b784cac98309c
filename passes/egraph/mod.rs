//! Equality saturation: the graph becomes an e-graph, rules add equal forms, the cheapest form comes out.
//!
//! **Reading order.** `lang` (the e-node), `analysis` (what a class knows), `pattern` (rules as values),
//! `parse`, `functions` (conditions), `matcher`, `plan` (applying a match), `saturate`, `cost`, `extract`.

pub mod analysis;
pub mod cost;
pub mod extract;
pub mod functions;
pub mod lang;
mod lexer;
pub mod load;
pub mod matcher;
pub mod parse;
pub mod pattern;
pub mod plan;
pub mod saturate;
