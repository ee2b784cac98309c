//! An independent checker: scores a placement from the rows of the program alone.
//!
//! With the holds and starts fixed, what is left of the program is a flow under capacities. The flow is found by
//! shortest augmenting paths over an adjacency matrix; no code is shared with the solver.

use crate::check::Violation;
use crate::lp::{Program, Sense};
use std::collections::{BTreeMap, VecDeque};

/// Rounding allowed in rows and flows.
const SLACK: f64 = 1e-9;

/// Violations of a placement given by node name as first layer and number of layers, and its flow.
pub fn check(program: &Program, spans: &BTreeMap<String, (usize, usize)>) -> (f64, Vec<Violation>) {
    let mut value: BTreeMap<String, f64> = BTreeMap::new();
    for (node, (start, hold)) in spans {
        value.insert(format!("start_{node}"), *start as f64);
        value.insert(format!("hold_{node}_{hold}"), 1.0);
    }
    let known: BTreeMap<&str, ()> = program.variables.iter().map(|v| (v.as_str(), ())).collect();
    let mut bad: Vec<Violation> = value
        .keys()
        .filter(|v| !known.contains_key(v.as_str()))
        .map(|v| Violation { place: v.clone(), message: "the program has no such variable".into() })
        .collect();
    let kind = |v: usize, prefix: &str| program.variables[v].starts_with(prefix);
    let sum = |terms: &[(usize, f64)], on: &str| -> f64 {
        let at = |name: &str| if name == on { 1.0 } else { value.get(name).copied().unwrap_or(0.0) };
        terms.iter().map(|&(v, a)| a * at(&program.variables[v])).sum()
    };
    let mut capacity: BTreeMap<(String, String), f64> = BTreeMap::new();
    let mut shut: BTreeMap<String, bool> = BTreeMap::new();
    for row in &program.rows {
        let switch = row.terms.iter().find(|t| kind(t.0, "switch_"));
        let has = |prefix: &str| row.terms.iter().any(|t| kind(t.0, prefix));
        match switch {
            Some(_) if has("flow_") => {}
            Some(&(s, _)) => {
                let name = &program.variables[s];
                let left = sum(&row.terms, name);
                let holds =
                    if row.sense == Sense::Ge { left >= row.rhs - SLACK } else { left <= row.rhs + SLACK };
                *shut.entry(name.clone()).or_insert(false) |= !holds;
            }
            None if has("flow_") && has("hold_") => {
                let node = row.terms.iter().find_map(|t| {
                    program.variables[t.0].strip_prefix("hold_")?.rsplit_once('_').map(|x| x.0.to_owned())
                });
                let room: f64 = -sum(&row.terms, "");
                if let Some(node) = node {
                    capacity.insert((format!("{node} in"), format!("{node} out")), room);
                }
            }
            None if has("start_") && has("hold_") && sum(&row.terms, "") > row.rhs + SLACK => {
                bad.push(Violation {
                    place: row.name.clone(),
                    message: "a span ends behind the last layer".into(),
                });
            }
            None => {}
        }
    }
    for row in program.rows.iter().filter(|r| r.terms.len() == 2) {
        let Some(&(s, factor)) = row.terms.iter().find(|t| kind(t.0, "switch_")) else { continue };
        let name = &program.variables[s];
        if !row.terms.iter().any(|t| kind(t.0, "flow_")) || shut.get(name).copied().unwrap_or(false) {
            continue;
        }
        if let Some((a, b)) = ends(&name["switch_".len()..], spans) {
            capacity.insert((a, b), -factor);
        }
    }
    (max_flow(&capacity), bad)
}

/// The two ends of a link when both are in use.
fn ends(name: &str, spans: &BTreeMap<String, (usize, usize)>) -> Option<(String, String)> {
    name.match_indices('_').find_map(|(i, _)| {
        let (a, b) = (&name[..i], &name[i + 1..]);
        let from = if a == "source" { "source".into() } else { spans.get(a).map(|_| format!("{a} out"))? };
        let to = if b == "sink" { "sink".into() } else { spans.get(b).map(|_| format!("{b} in"))? };
        Some((from, to))
    })
}

fn max_flow(capacity: &BTreeMap<(String, String), f64>) -> f64 {
    let mut number: BTreeMap<&str, usize> = BTreeMap::from([("source", 0), ("sink", 1)]);
    for (a, b) in capacity.keys() {
        for name in [a, b] {
            let fresh = number.len();
            number.entry(name).or_insert(fresh);
        }
    }
    let n = number.len();
    let mut left = vec![vec![0.0f64; n]; n];
    for ((a, b), c) in capacity {
        left[number[a.as_str()]][number[b.as_str()]] += c.max(0.0);
    }
    let mut total = 0.0;
    loop {
        let (mut parent, mut queue) = (vec![usize::MAX; n], VecDeque::from([0]));
        parent[0] = 0;
        while let Some(u) = queue.pop_front() {
            for v in 0..n {
                if parent[v] == usize::MAX && left[u][v] > SLACK {
                    parent[v] = u;
                    queue.push_back(v);
                }
            }
        }
        if parent[1] == usize::MAX {
            return total;
        }
        let path: Vec<(usize, usize)> = std::iter::successors(Some(1), |&v| (v != 0).then(|| parent[v]))
            .map(|v| (parent[v], v))
            .collect();
        let steps = || path.iter().filter(|(u, v)| u != v);
        let push = steps().map(|&(u, v)| left[u][v]).fold(f64::INFINITY, f64::min);
        for &(u, v) in steps() {
            left[u][v] -= push;
            left[v][u] += push;
        }
        total += push;
    }
}
