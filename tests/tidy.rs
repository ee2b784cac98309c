//! What the repository promises about itself: floors, files, the dictionary, the cases.

mod content;
mod floors;

use crate::support::root;
use std::path::{Path, PathBuf};

/// Whether a folder is ours to look at: not what builds leave, and of hidden ones only those of the checks.
fn is_ours(folder: &str) -> bool {
    folder != "target" && (!folder.starts_with('.') || folder == ".ci" || folder == ".github")
}

/// Every file below the root, in name order, as path from the root.
fn files() -> Vec<PathBuf> {
    let mut out = Vec::new();
    walk(&root(), &mut out);
    out.sort();
    out
}

fn walk(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            if is_ours(&name) {
                walk(&path, out);
            }
        } else {
            out.push(path.strip_prefix(root()).unwrap().to_owned());
        }
    }
}

fn with_ending(ending: &str) -> Vec<PathBuf> {
    files().into_iter().filter(|p| p.extension().is_some_and(|e| e == ending)).collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// Fails with all findings at once.
fn none(findings: &[String]) {
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}
