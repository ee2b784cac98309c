//! Cases of the text form and the verifier: canonical texts, and errors at their line (`//~ ERROR CODE`, or
//! `//~^ ERROR CODE` for the line above).

use super::file::{Case, File, UNCHANGED};
use crate::support::{graph, round_trip, same_text, verified};
use partita_ir::text::{no_files, parse, print};
use partita_ir::{Diag, verify};

/// The canonical text; nothing for a case of errors.
pub(super) fn actual(_: &File, case: &Case) -> Result<Option<String>, String> {
    if !annotations(&case.input).is_empty() {
        return Ok(None);
    }
    let text = print(&graph(&case.input)?);
    Ok(Some(if text == case.input { format!("{UNCHANGED}\n") } else { text }))
}

pub(super) fn laws(_: &File, case: &Case) -> Result<(), String> {
    let wanted = annotations(&case.input);
    if !wanted.is_empty() {
        return errors(&case.input, &wanted);
    }
    let before = graph(&case.input)?;
    verified(&before)?;
    round_trip(&before)
}

/// Line and code of every error the text announces.
fn annotations(text: &str) -> Vec<(usize, String)> {
    let mut out = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let Some((_, note)) = line.split_once("//~") else { continue };
        let (above, note) = note.strip_prefix('^').map_or((0, note), |rest| (1, rest));
        if let Some(code) = note.trim().strip_prefix("ERROR ") {
            out.push((n + 1 - above, code.trim().to_owned()));
        }
    }
    out
}

fn errors(text: &str, wanted: &[(usize, String)]) -> Result<(), String> {
    let found = match parse(text, &partita_ops::registry(), &no_files) {
        Err(diag) => vec![diag],
        Ok(graphs) => graphs.iter().filter_map(|g| verify::verify(g).err()).flatten().collect(),
    };
    let list = |errors: &[(usize, String)]| -> String {
        let mut errors = errors.to_vec();
        errors.sort();
        errors.iter().map(|(line, code)| format!("line {line}: {code}\n")).collect()
    };
    let have: Vec<(usize, String)> = found.iter().map(|d| (line(text, d), d.code.to_owned())).collect();
    let all: String = found.iter().map(|d| format!("{d}\n")).collect();
    same_text(&list(wanted), &list(&have)).map_err(|e| format!("{e}{all}"))?;
    let unsaid = |d: &&Diag| d.message.is_empty() || (d.place.to_string().is_empty() && d.hint.is_empty());
    match found.iter().find(unsaid) {
        Some(diag) => Err(format!("no sentence, or neither place nor hint: {diag:?}")),
        None => Ok(()),
    }
}

/// The line a letter is about; the verifier knows values and nodes, so the line that defines them.
fn line(text: &str, diag: &Diag) -> usize {
    if let Some((line, _)) = diag.place.line_column {
        return line;
    }
    let node = diag.place.node.as_deref().map(|n| n.split(" (").next().unwrap_or(n));
    let name = node.or(diag.place.value.as_deref()).unwrap_or_default();
    let defines = |l: &str| l.contains(&format!("%{name} =")) || l.contains(&format!("loc({name:?})"));
    let reads = |l: &str| l.contains(&format!("%{name}")) || l.contains(name);
    let lines = || text.lines();
    lines().position(defines).or_else(|| lines().position(reads)).map_or(0, |n| n + 1)
}
