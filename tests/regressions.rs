//! Inputs on which a fuzz target once failed: each must pass what the target demands.

#[path = "fuzz/checks.rs"]
mod checks;

use crate::support::root;

/// Name and function of a target.
type Target = (&'static str, fn(&[u8]));

/// The targets, by the folder of their inputs below `fuzz/regressions`.
const TARGETS: &[Target] = &[("importer", checks::importer), ("plan", checks::plan), ("text", checks::text)];

#[test]
fn nothing_fails_again() {
    for (name, check) in TARGETS {
        let folder = root().join("tests/fuzz/regressions").join(name);
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.map(|e| e.unwrap().path()) {
            eprintln!("{}", path.display());
            check(&std::fs::read(&path).unwrap());
        }
    }
}
