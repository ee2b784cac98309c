//! What files hold: sizes, headers, words that have no place, docs of operators, cases of rules.

use super::{files, none, read, with_ending};
use crate::support::root;
use partita_passes::PASSES;
use partita_passes::rules::THEMES;
use std::path::Path;

const MOST_LINES: usize = 800;
const MOST_FIXTURE_BYTES: u64 = 10_000;
/// Fixtures that may be larger, each with the reason.
const LARGE_FIXTURES: &[(&str, &str)] = &[
    ("fixtures/digits/digits.onnx", "trained weights"),
    ("fixtures/digits/images.npy", "360 images"),
    ("fixtures/digits/probabilities.npy", "an answer per image"),
    ("fixtures/placement/asplos-2025-iopddl-B.json.gz", "an instance with a proven optimum"),
    ("fixtures/placement/asplos-2025-iopddl-G.json.gz", "an instance with a known best"),
    ("fixtures/placement/LICENSE-iopddl", "the licence of these"),
    ("fixtures/onnx/bad/groups.onnx", "nesting has to be deep to hurt"),
];

/// Endings of files that are text.
const TEXT: &[&str] = &["rs", "toml", "md", "py", "rules", "graph", "yml", "yaml", "sh", "wgsl", "problem"];

#[test]
fn rust_files_have_a_header_and_are_short() {
    let mut findings = Vec::new();
    for path in with_ending("rs") {
        let text = read(&path);
        if !text.starts_with("//! ") {
            findings.push(format!("{} does not begin with what it is for", path.display()));
        }
        let lines = text.lines().count();
        if lines > MOST_LINES {
            findings.push(format!("{} has {lines} lines", path.display()));
        }
    }
    none(&findings);
}

/// Where printing is the purpose.
fn may_print(path: &Path) -> bool {
    let folder = path.components().any(|c| {
        let name = c.as_os_str();
        name == "tests" || name == "benches" || name == "examples"
    });
    folder || path.starts_with("fixtures") || path == Path::new("src/main.rs") || path.ends_with("tests.rs")
}

#[test]
fn nothing_is_left_over_and_only_main_prints() {
    // Put together here, so that this file does not find itself.
    let left_over = ["todo", "unimplemented", "dbg"].map(|w| format!("{w}!("));
    let printing = ["println", "print", "eprintln", "eprint"].map(|w| format!("{w}!("));
    let mut findings = Vec::new();
    for path in with_ending("rs") {
        let text = read(&path);
        let product = text.split("#[cfg(test)]").next().unwrap_or_default();
        let mut words: Vec<&String> = left_over.iter().filter(|w| text.contains(*w)).collect();
        if !may_print(&path) {
            words.extend(printing.iter().filter(|w| product.lines().any(|l| calls(l, w))));
        }
        let ignored = format!("#[{}", "ignore");
        if text.contains(&ignored) {
            findings.push(format!("{} ignores a test", path.display()));
        }
        findings.extend(words.iter().map(|w| format!("{} has {w}", path.display())));
    }
    none(&findings);
}

/// Whether a line calls a macro (and not one whose name merely ends alike).
fn calls(line: &str, word: &str) -> bool {
    let code = !line.trim_start().starts_with("//");
    let own = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    code && line.match_indices(word).any(|(at, _)| own(at))
}

#[test]
fn nothing_names_a_machine_or_a_mirror() {
    let words: Vec<String> = [
        ("/wo", "rk/"),
        ("/ro", "ot/"),
        ("/ho", "me/"),
        ("index.cr", "ates.io"),
        ("pypi", ".org"),
        ("pythonhosted", ".org"),
    ]
    .iter()
    .map(|(a, b)| format!("{a}{b}"))
    .collect();
    let mut findings = Vec::new();
    for path in files() {
        let is_text = path.extension().is_some_and(|e| TEXT.iter().any(|t| e == *t));
        if !is_text {
            continue;
        }
        let text = read(&path);
        for (n, line) in text.lines().enumerate() {
            let found = words.iter().filter(|w| line.contains(*w));
            findings.extend(found.map(|w| format!("{}:{}: {w}", path.display(), n + 1)));
        }
    }
    none(&findings);
}

#[test]
fn fixtures_are_small() {
    let mut findings = Vec::new();
    for path in files().into_iter().filter(|p| p.starts_with("fixtures")) {
        let bytes = std::fs::metadata(root().join(&path)).unwrap().len();
        let listed = LARGE_FIXTURES.iter().any(|(p, _)| path == Path::new(p));
        if bytes > MOST_FIXTURE_BYTES && !listed {
            findings.push(format!("{} has {bytes} bytes", path.display()));
        }
    }
    let gone = LARGE_FIXTURES.iter().filter(|(p, _)| !root().join(p).exists());
    findings.extend(gone.map(|(p, _)| format!("{p} is listed as large and does not exist")));
    none(&findings);
}

#[test]
fn every_operator_says_what_it_computes() {
    let mut findings = Vec::new();
    for op in partita_ops::registry().iter() {
        let said = (3..=200).contains(&op.doc.len()) && op.doc.trim() == op.doc && !op.doc.contains('\n');
        if !said {
            findings.push(format!("{}: {:?} is not one sentence", op.name, op.doc));
        }
        let snake = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !op.name.chars().all(snake) {
            findings.push(format!("{} is not in lower snake case", op.name));
        }
    }
    none(&findings);
}

#[test]
fn every_theme_and_pass_has_cases_and_one_that_changes_nothing() {
    let rules = THEMES.iter().map(|(theme, _)| format!("rules/{theme}.graph"));
    let passes = PASSES.iter().map(|p| format!("passes/{}.graph", p.name));
    let mut findings = Vec::new();
    for name in rules.chain(passes) {
        let path = Path::new("tests/filetests").join(&name);
        match std::fs::read_to_string(root().join(&path)) {
            Err(_) => findings.push(format!("{name} does not exist")),
            Ok(text) if !text.contains("\n---\nunchanged\n") => {
                findings.push(format!("{name} has no case that is unchanged"));
            }
            Ok(text) if text.matches("\n=== ").count() < 2 => findings.push(format!("{name} has one case")),
            Ok(_) => {}
        }
    }
    none(&findings);
}

#[test]
fn every_rule_file_is_listed() {
    let listed = |p: &Path| THEMES.iter().any(|(t, _)| p.file_stem().is_some_and(|s| s == *t));
    let files = with_ending("rules").into_iter().filter(|p| p.starts_with("passes/rules"));
    let findings: Vec<String> =
        files.filter(|p| !listed(p)).map(|p| format!("{} is not in THEMES", p.display())).collect();
    none(&findings);
}

#[test]
fn exemptions_from_lints_give_a_reason() {
    let mut findings = Vec::new();
    for path in with_ending("rs") {
        let text = read(&path);
        for word in ["allow(", "expect("] {
            for part in text.split(&format!("#[{word}")).chain(text.split(&format!("#![{word}"))).skip(1) {
                let attribute = part.split(")]").next().unwrap_or_default();
                let lint = attribute.contains("clippy::") || attribute.contains("unsafe_code");
                if lint && attribute.len() < 400 && !attribute.contains("reason") {
                    findings.push(format!("{}: {word}{attribute}", path.display()));
                }
            }
        }
    }
    none(&findings);
}
