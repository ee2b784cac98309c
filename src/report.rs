//! Reports: they read everything and change nothing.

pub(crate) mod charts;
pub mod check;
pub mod diff;
pub mod dot;
pub mod explain;
pub mod html;
pub mod json;
pub mod measured;
pub mod profile;
pub mod program;
pub mod stages;
pub mod summary;
pub mod timeline;
pub mod trace;

use partita_plan::letters::is_unseen;

/// Text for a terminal: names come from models, so what would move the cursor is spelled out.
pub(crate) fn printable(text: &str) -> String {
    if !text.contains(|c| c != '\n' && is_unseen(c)) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '\n' && is_unseen(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}
