//! Files of cases: a header of `//!` lines in TOML, then cases of `=== title`, input, `---`, expectation.

pub(crate) mod file;
pub(crate) mod onnx;
mod passes;
mod text;
mod whole;

use crate::support::same_text;
use file::{Case, File, UNCHANGED};
use libtest_mimic::Trial;
use std::path::Path;
use std::sync::Arc;

/// What the cases of a folder mean.
struct Kind {
    folder: &'static str,
    /// The expectation that holds now; `None` where there is none to write (a case of errors).
    actual: fn(&File, &Case) -> Result<Option<String>, String>,
    /// Everything else that must hold.
    laws: fn(&File, &Case) -> Result<(), String>,
}

const KINDS: &[Kind] = &[
    Kind { folder: "text", actual: text::actual, laws: text::laws },
    Kind { folder: "verify", actual: text::actual, laws: text::laws },
    Kind { folder: "passes", actual: passes::actual, laws: passes::laws },
    Kind { folder: "rules", actual: passes::actual, laws: passes::laws },
    Kind { folder: "whole", actual: whole::actual, laws: whole::laws },
];

/// All files of all kinds, in name order.
///
/// # Errors
/// A file that cannot be read, is malformed, or lies in no kind's folder.
pub(crate) fn discover(folder: &Path) -> Result<Vec<File>, String> {
    let mut files = Vec::new();
    for entry in sorted(folder)? {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == "onnx" {
            continue;
        }
        if !KINDS.iter().any(|k| k.folder == name) {
            return Err(format!("{} belongs to no kind of case", entry.display()));
        }
        for path in sorted(&entry)? {
            files.push(File::read(&name, &path)?);
        }
    }
    Ok(files)
}

fn sorted(folder: &Path) -> Result<Vec<std::path::PathBuf>, String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut paths: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    paths.sort();
    Ok(paths)
}

fn kind(file: &File) -> &'static Kind {
    KINDS.iter().find(|k| k.folder == file.kind).unwrap_or(&KINDS[0])
}

/// One trial per case.
pub(crate) fn trials(file: File) -> Vec<Trial> {
    let file = Arc::new(file);
    let one = |n: usize| {
        let name = format!("{}/{}: {}", file.kind, file.stem(), file.cases[n].title);
        let file = Arc::clone(&file);
        Trial::test(name, move || check(&file, &file.cases[n]).map_err(Into::into))
    };
    (0..file.cases.len()).map(one).collect()
}

fn check(file: &File, case: &Case) -> Result<(), String> {
    let place = || format!("{}:{}\n", file.path.display(), case.line);
    let actual = (kind(file).actual)(file, case).map_err(|e| place() + &e)?;
    match (&case.expectation, &actual) {
        (Some(want), Some(have)) => same_text(want, have)
            .map_err(|e| format!("{}expectation and result differ (BLESS=1 rewrites), {e}", place()))?,
        (None, Some(_)) => return Err(place() + "the case has no expectation (BLESS=1 writes it)"),
        (Some(_), None) => return Err(place() + "a case of errors has no expectation"),
        (None, None) => {}
    }
    (kind(file).laws)(file, case).map_err(|e| place() + &e)
}

/// Rewrites the expectations of a file.
///
/// # Errors
/// A case whose result cannot be computed.
pub(crate) fn bless(file: &File) -> Result<(), String> {
    let actual = |case: &Case| {
        (kind(file).actual)(file, case).map_err(|e| format!("{}: {}: {e}", file.path.display(), case.title))
    };
    let expectations = file.cases.iter().map(actual).collect::<Result<Vec<_>, _>>()?;
    let text = file.with_expectations(&expectations);
    std::fs::write(&file.path, text).map_err(|e| format!("{}: {e}", file.path.display()))
}

/// The expectation for a graph that became `after`.
fn graph_expectation(before: &str, after: &str) -> String {
    if before == after { format!("{UNCHANGED}\n") } else { after.to_owned() }
}
