//! The text form on random graphs and on mutated texts.

use crate::random::{net, samples, seeds};
use crate::support::{graph, root, round_trip, same_results};
use partita_ir::op::Rng;
use partita_ir::text::{no_files, parse, print};
use proptest::prelude::*;
use std::path::PathBuf;

#[test]
fn every_operator_prints_and_parses() {
    for (seed, program) in samples(4) {
        round_trip(&program.graph).unwrap_or_else(|e| panic!("{}, seed {seed}: {e}", program.name));
    }
}

/// Texts of all cases, without their titles and expectations.
fn corpus() -> Vec<String> {
    let folders: Vec<PathBuf> = ["text", "verify", "rules", "passes", "whole"]
        .iter()
        .map(|f| root().join("tests/filetests").join(f))
        .collect();
    let files = folders.iter().flat_map(|f| std::fs::read_dir(f).unwrap());
    let mut paths: Vec<PathBuf> = files.map(|e| e.unwrap().path()).collect();
    paths.sort();
    let read = |p: &PathBuf| std::fs::read_to_string(p).unwrap();
    let cases = paths.iter().map(read).flat_map(|t| t.split("\n=== ").map(str::to_owned).collect::<Vec<_>>());
    cases.map(|c| c.split("\n---\n").next().unwrap_or("").to_owned()).collect()
}

/// One small change: a deleted, doubled, swapped or foreign piece.
fn mutate(text: &str, rng: &mut Rng) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..1 + rng.below(3) {
        if chars.is_empty() {
            break;
        }
        let (at, to) = (rng.below(chars.len()), rng.below(chars.len()));
        match rng.below(5) {
            0 => {
                chars.remove(at);
            }
            1 => chars.insert(at, *rng.pick(&['%', '{', '"', ']', '-', '9', '\u{1f980}', '\0', ':', '('])),
            2 => chars.swap(at, to),
            3 => chars.truncate(at),
            _ => {
                let piece: Vec<char> = chars[at..(at + 12).min(chars.len())].to_vec();
                chars.splice(to..to, piece);
            }
        }
    }
    chars.into_iter().collect()
}

#[test]
fn mutated_texts_are_answered() {
    let mut rng = Rng(7);
    let corpus = corpus();
    assert!(corpus.len() > 50);
    let mut accepted = 0;
    for _ in seeds(4000) {
        let text = mutate(rng.pick(&corpus).as_str(), &mut rng.clone());
        rng.next_u64();
        match parse(&text, &partita_ops::registry(), &no_files) {
            Ok(graphs) => {
                accepted += 1;
                for graph in graphs.iter().filter(|g| partita_ir::verify::verify(g).is_ok()) {
                    round_trip(graph).unwrap_or_else(|e| panic!("{e}\n{text}"));
                }
            }
            Err(diag) => {
                assert!(!diag.message.is_empty(), "{text}");
                assert!(diag.place.line_column.is_some(), "no line: {diag}\n{text}");
            }
        }
    }
    assert!(accepted > 100, "only {accepted} mutants parse");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_graphs_print_and_parse(seed: u64, n in 1usize..24) {
        let program = net(seed, n);
        round_trip(&program.graph).unwrap();
        let again = graph(&print(&program.graph)).unwrap();
        prop_assert_eq!(same_results(&program.graph, &again, 0.0), Ok(()));
    }

    #[test]
    fn any_text_is_answered(text in "[a-z%{}()\\[\\]:,=\"\\-> 0-9\n]{0,80}") {
        let _ = parse(&text, &partita_ops::registry(), &no_files);
        let _ = parse(&format!("graph g(%x: f32[2]) -> (%x) {{ {text} }}"), &partita_ops::registry(), &no_files);
    }
}
