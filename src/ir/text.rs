//! The text form of graphs: see `text/TEXT.md` for the grammar and its laws.

mod lex;
mod literal;
mod parse;
mod print;

pub use parse::{FileResolver, no_files, parse, parse_type, parse_within};
pub use print::{WeightSink, inline_weights, print, print_with};

/// Longest text that is read, in bytes.
pub const MAX_TEXT_BYTES: usize = 1 << 28;
/// Deepest nesting of lists and of `floordiv`, `max` and `min`.
pub const MAX_NESTING: usize = 32;
/// Most bytes of constants that a text may ask for in a few words, all together.
pub const MAX_MADE_BYTES: usize = 1 << 32;
/// Most elements of a constant that a text may ask for.
pub const MAX_CONST_ELEMENTS: usize = 1 << 31;
