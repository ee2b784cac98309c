//! One file of cases: header, titles, inputs, expectations; written back with new expectations.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The expectation of a case that changes nothing.
pub(crate) const UNCHANGED: &str = "unchanged";

/// The TOML of the `//!` lines.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Header {
    /// Passes in order.
    pub(crate) passes: Vec<String>,
    /// Themes of rules; all when empty.
    pub(crate) rules: Vec<String>,
    pub(crate) strict: bool,
    pub(crate) approximate: bool,
    /// A file of fixtures/machines.
    pub(crate) machine: String,
    pub(crate) throughput: bool,
    /// Sizes of symbols.
    pub(crate) dims: BTreeMap<String, i64>,
}

/// One case.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) title: String,
    /// Line of the title in the file, from 1.
    pub(crate) line: usize,
    pub(crate) input: String,
    pub(crate) expectation: Option<String>,
}

/// One file.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) kind: String,
    pub(crate) path: PathBuf,
    pub(crate) header: Header,
    /// Everything before the first case.
    head: String,
    pub(crate) cases: Vec<Case>,
}

impl File {
    /// Reads a file of cases.
    ///
    /// # Errors
    /// A file that cannot be read, or is malformed.
    pub(crate) fn read(kind: &str, path: &Path) -> Result<Self, String> {
        let say = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let text = std::fs::read_to_string(path).map_err(|e| say(&e))?;
        let (head, body) = text.split_once("=== ").ok_or_else(|| say(&"no case begins with `=== title`"))?;
        let toml: String =
            head.lines().filter_map(|l| l.strip_prefix("//!")).map(|l| format!("{}\n", l.trim())).collect();
        let header = toml::from_str(&toml).map_err(|e| say(&e))?;
        let mut line = head.lines().count() + 1;
        let mut cases = Vec::new();
        for part in format!("\n=== {body}").split("\n=== ").skip(1) {
            cases.push(case(part, line));
            line += part.lines().count() + usize::from(part.ends_with('\n'));
        }
        let mut titles: Vec<&str> = cases.iter().map(|c| c.title.as_str()).collect();
        titles.sort_unstable();
        match titles.windows(2).find(|w| w[0] == w[1]) {
            Some(twice) => Err(say(&format!("two cases are called {:?}", twice[0]))),
            None => Ok(Self {
                kind: kind.to_owned(),
                path: path.to_owned(),
                header,
                head: head.to_owned(),
                cases,
            }),
        }
    }

    /// The file's name without its ending.
    pub(crate) fn stem(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The text of the file with other expectations.
    pub(crate) fn with_expectations(&self, expectations: &[Option<String>]) -> String {
        let mut out = self.head.clone();
        for (n, (case, expectation)) in self.cases.iter().zip(expectations).enumerate() {
            let gap = if n == 0 { "" } else { "\n" };
            let _ = write!(out, "{gap}=== {}\n{}", case.title, case.input);
            if let Some(expectation) = expectation {
                let _ = write!(out, "---\n{expectation}");
            }
        }
        out
    }
}

fn case(part: &str, line: usize) -> Case {
    let (title, rest) = part.split_once('\n').unwrap_or((part, ""));
    let (input, expectation) = match rest.split_once("\n---\n") {
        Some((input, expectation)) => (input, Some(trimmed(expectation))),
        None => (rest, None),
    };
    Case { title: title.to_owned(), line, input: trimmed(input), expectation }
}

/// Text with one newline at its end.
fn trimmed(text: &str) -> String {
    format!("{}\n", text.trim_end())
}
