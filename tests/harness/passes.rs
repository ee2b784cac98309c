//! Cases of passes and rules: a graph, the passes to run, the graph that comes out.

use super::file::{Case, File, Header, UNCHANGED};
use super::graph_expectation;
use crate::support::{graph, round_trip, same_results, same_text, verified};
use partita_ir::Graph;
use partita_ir::text::print;
use partita_passes::egraph::parse::rules;
use partita_passes::rules::THEMES;
use partita_passes::{Ctx, Options, PASSES};

/// Relative to the largest element: rules of class `reassociating` may change the last bits.
const RELATIVE: f64 = 1e-4;
/// Most amounts of fuel that are tried.
const MOST_FUEL: u64 = 40;
/// Amounts that give the final graph in a row, after which more fuel is taken to change nothing.
const SETTLED: u64 = 3;

pub(super) fn actual(file: &File, case: &Case) -> Result<Option<String>, String> {
    let before = graph(&case.input)?;
    let text = print(&before);
    let after = apply(&file.header, before, None)?;
    Ok(Some(graph_expectation(&text, &print(&after))))
}

pub(super) fn laws(file: &File, case: &Case) -> Result<(), String> {
    let before = graph(&case.input)?;
    sound("the input", &before)?;
    let after = match case.expectation.as_deref().map(str::trim) {
        None | Some(UNCHANGED) => before.clone(),
        Some(text) => graph(text)?,
    };
    sound("the expectation", &after)?;
    same_results(&before, &after, RELATIVE).map_err(|e| format!("input and expectation: {e}"))?;
    let again = apply(&file.header, after.clone(), None)?;
    same_text(&print(&after), &print(&again)).map_err(|e| format!("a second run changes the graph, {e}"))?;
    fuel(&file.header, &before, &print(&after))
}

fn sound(what: &str, graph: &Graph) -> Result<(), String> {
    verified(graph).and_then(|()| round_trip(graph)).map_err(|e| format!("{what}: {e}"))
}

/// Whatever the fuel, the graph verifies and computes the same.
fn fuel(header: &Header, before: &Graph, last: &str) -> Result<(), String> {
    let mut settled = 0;
    for fuel in 0..=MOST_FUEL {
        let part = apply(header, before.clone(), Some(fuel))?;
        let sound = verified(&part).and_then(|()| same_results(before, &part, RELATIVE));
        sound.map_err(|e| format!("with fuel {fuel}: {e}"))?;
        settled = if print(&part) == last { settled + 1 } else { 0 };
        if settled == SETTLED {
            return Ok(());
        }
    }
    Err(format!("the graph is not finished with fuel {MOST_FUEL}; make the case smaller"))
}

/// Runs the passes of the header with the rules of its themes.
fn apply(header: &Header, graph: Graph, fuel: Option<u64>) -> Result<Graph, String> {
    let say = |all: Vec<partita_ir::Diag>| all.iter().map(|d| format!("{d}\n")).collect::<String>();
    let options =
        Options { fuel, strict: header.strict, approximate: header.approximate, ..Options::default() };
    let mut ctx = Ctx::new(&options).map_err(say)?;
    if !header.rules.is_empty() {
        let names = theme_rules(&header.rules)?;
        ctx.rules.retain(|r| names.contains(&r.name));
    }
    let mut graph = graph;
    for name in &header.passes {
        let pass = PASSES.iter().find(|p| p.name == name).ok_or(format!("there is no pass {name}"))?;
        graph = (pass.run)(&mut ctx, graph).map_err(say)?;
        verified(&graph).map_err(|e| format!("after pass {name}: {e}"))?;
    }
    Ok(graph)
}

/// Names of the rules of some themes.
fn theme_rules(themes: &[String]) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for theme in themes {
        let text = THEMES.iter().find(|(t, _)| t == theme).ok_or(format!("there is no theme {theme}"))?.1;
        let rules = rules(theme, text, partita_ops::registry()).map_err(|d| format!("{d:?}"))?;
        names.extend(rules.into_iter().map(|r| r.name));
    }
    Ok(names)
}
