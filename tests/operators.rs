//! The page about operators says what the dictionary says: `docs/operators.md` is written from it, from the list of
//! what ONNX defines (`docs/onnx-operators.tsv`) and from the reasons of what is refused (`docs/refused.tsv`).
//!
//! `BLESS=1 cargo test --test main operators` writes the page anew.

mod probe;
mod table;

use crate::support::root;
use partita_onnx::accepts;
use std::collections::BTreeMap;

/// An operator that ONNX defines.
pub(crate) struct Defined {
    /// Empty for the standard one.
    pub(crate) domain: String,
    pub(crate) name: String,
    /// Opsets of its forms.
    pub(crate) opsets: Vec<i64>,
}

impl Defined {
    /// The forms that are read.
    pub(crate) fn accepted(&self) -> Vec<i64> {
        let accepted = |&opset: &i64| {
            // The form of an early opset is that of the oldest opset in use, too.
            accepts(&self.domain, &self.name, opset)
                || opset < OLDEST && accepts(&self.domain, &self.name, OLDEST)
        };
        self.opsets.iter().copied().filter(accepted).collect()
    }
}

/// The oldest opset the page speaks of.
const OLDEST: i64 = 6;

fn lines(file: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(root().join("docs").join(file)).unwrap();
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

/// What ONNX defines.
fn defined() -> Vec<Defined> {
    let row = |fields: Vec<String>| Defined {
        domain: if fields[0] == "ai.onnx" { String::new() } else { fields[0].clone() },
        name: fields[1].clone(),
        opsets: fields[2].split(' ').map(|n| n.parse().unwrap()).collect(),
    };
    lines("onnx-operators.tsv").into_iter().map(row).collect()
}

/// Why operators are refused, by domain and name.
fn refused() -> BTreeMap<(String, String), String> {
    let row = |f: Vec<String>| {
        ((if f[0] == "ai.onnx" { String::new() } else { f[0].clone() }, f[1].clone()), f[2].clone())
    };
    lines("refused.tsv").into_iter().map(row).collect()
}

#[test]
fn what_is_refused_has_a_reason_and_nothing_else_has() {
    let refused = refused();
    let mut findings = Vec::new();
    for one in defined() {
        let key = (one.domain.clone(), one.name.clone());
        let missing = one.accepted().len() < one.opsets.len();
        match (missing, refused.contains_key(&key)) {
            (true, false) => {
                findings.push(format!("{}.{} is refused without a reason", one.domain, one.name));
            }
            (false, true) => {
                findings.push(format!("{}.{} is accepted, it has a reason", one.domain, one.name));
            }
            _ => {}
        }
    }
    assert!(findings.is_empty(), "docs/refused.tsv:\n{}", findings.join("\n"));
}

#[test]
fn the_page_is_up_to_date() {
    let page = table::page(&defined(), &refused());
    let path = root().join("docs/operators.md");
    if std::env::var_os("BLESS").is_some() && std::env::var_os("CI").is_none() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = page.lines().zip(written.lines().chain(std::iter::repeat(""))).find(|(a, b)| a != b);
    assert!(
        page == written,
        "docs/operators.md is not what the dictionary says (BLESS=1 writes it): {:?}",
        differs.map(|(want, have)| format!("\nwant {want}\nhave {have}"))
    );
}
