//! Graphviz pictures of anything with boxes, arrows and groups; large ones are collapsed to stay readable.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Pictures with more boxes than this are collapsed.
pub const COLLAPSE_ABOVE: usize = 150;
/// Boxes per group that a collapsed picture aims at.
const COLLAPSED_BOXES: usize = 60;

/// A box.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// First line of the label.
    pub title: String,
    /// Further lines.
    pub lines: Vec<String>,
    /// Group it is drawn in, if any (a device).
    pub group: Option<String>,
    /// Microseconds it takes, summed when boxes are collapsed.
    pub time_us: f64,
    /// Further names it is found by.
    pub names: Vec<String>,
}

/// An arrow.
#[derive(Clone, Debug)]
pub struct Edge {
    pub from: usize,
    pub to: usize,
    pub bytes: f64,
    /// Microseconds of a transfer; `None` inside one device.
    pub time_us: Option<f64>,
}

/// A picture: boxes in an order in which arrows mostly point forwards.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    pub title: String,
    pub nodes: Vec<Node>,
    pub edges: Vec<Edge>,
}

/// Fill colours of groups, in the order in which groups appear.
const COLOURS: &[&str] =
    &["#dbe9f6", "#fde5cf", "#ddf0dc", "#f6dbe6", "#e8e0f3", "#f5f0c8", "#d9f0ef", "#eadfd6"];

/// The DOT text of a picture, collapsed when it is large.
pub fn render(picture: &Picture) -> String {
    render_above(picture, COLLAPSE_ABOVE)
}

/// The same, collapsed when it has more than `most` boxes.
pub fn render_above(picture: &Picture, most: usize) -> String {
    if picture.nodes.len() > most { draw(&collapse(picture)) } else { draw(picture) }
}

/// The boxes at most `hops` arrows away from those that are called `name` (or whose names hold it, when none is);
/// `None` when there are none.
pub fn around(picture: &Picture, name: &str, hops: usize) -> Option<Picture> {
    let pick = |matches: &dyn Fn(&str) -> bool| -> BTreeSet<usize> {
        let named = |n: &Node| matches(&n.title) || n.names.iter().any(|n| matches(n));
        picture.nodes.iter().enumerate().filter(|(_, n)| named(n)).map(|(at, _)| at).collect()
    };
    let exact = pick(&|n| n == name);
    let mut kept = if exact.is_empty() { pick(&|n| n.contains(name)) } else { exact };
    if kept.is_empty() {
        return None;
    }
    for _ in 0..hops.min(picture.nodes.len()) {
        let next = picture.edges.iter().flat_map(|e| {
            let other = |a: usize, b: usize| kept.contains(&a).then_some(b);
            other(e.from, e.to).into_iter().chain(other(e.to, e.from))
        });
        let next: Vec<usize> = next.collect();
        let before = kept.len();
        kept.extend(next);
        if kept.len() == before {
            break;
        }
    }
    let place: BTreeMap<usize, usize> = kept.iter().enumerate().map(|(new, old)| (*old, new)).collect();
    let edge = |e: &Edge| Some(Edge { from: *place.get(&e.from)?, to: *place.get(&e.to)?, ..e.clone() });
    Some(Picture {
        title: format!("{} around {name}", picture.title),
        nodes: kept.iter().map(|n| picture.nodes[*n].clone()).collect(),
        edges: picture.edges.iter().filter_map(edge).collect(),
    })
}

fn draw(picture: &Picture) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "digraph {} {{", quote(&picture.title));
    let _ =
        writeln!(out, "  label={}; labelloc=t; rankdir=TB; fontname=\"Helvetica\";", quote(&picture.title));
    out.push_str("  node [shape=box, style=\"rounded,filled\", fillcolor=white, fontname=\"Helvetica\", fontsize=10];\n");
    out.push_str("  edge [fontname=\"Helvetica\", fontsize=8, color=\"#555555\"];\n");
    let mut groups: Vec<&str> = Vec::new();
    for group in picture.nodes.iter().filter_map(|n| n.group.as_deref()) {
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    for (n, group) in groups.iter().enumerate() {
        let _ = writeln!(out, "  subgraph cluster_{n} {{");
        let _ = writeln!(
            out,
            "    label={}; style=filled; color=\"{}\";",
            quote(group),
            COLOURS[n % COLOURS.len()]
        );
        boxes(picture, Some(group), "    ", &mut out);
        out.push_str("  }\n");
    }
    boxes(picture, None, "  ", &mut out);
    for edge in &picture.edges {
        arrow(edge, &mut out);
    }
    out.push_str("}\n");
    out
}

fn boxes(picture: &Picture, group: Option<&str>, indent: &str, out: &mut String) {
    for (n, node) in picture.nodes.iter().enumerate().filter(|(_, n)| n.group.as_deref() == group) {
        let mut label = vec![node.title.clone()];
        label.extend(node.lines.iter().cloned());
        if node.time_us > 0.0 {
            label.push(format!("{:.2} us", node.time_us));
        }
        let _ = writeln!(out, "{indent}n{n} [label={}];", quote(&label.join("\n")));
    }
}

fn arrow(edge: &Edge, out: &mut String) {
    let size = size_text(edge.bytes);
    let (label, style) = match edge.time_us {
        Some(us) => (format!("{size}, {us:.2} us"), ", color=\"#c0392b\", penwidth=1.6"),
        None => (size, ""),
    };
    let _ = writeln!(out, "  n{} -> n{} [label={}{style}];", edge.from, edge.to, quote(&label));
}

/// Bytes for people.
pub fn size_text(bytes: f64) -> String {
    match bytes {
        b if b < 1e3 => format!("{b:.0} B"),
        b if b < 1e6 => format!("{:.1} kB", b / 1e3),
        b if b < 1e9 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.2} GB", b / 1e9),
    }
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// Joins runs of boxes of one group into one box each; arrows between runs are summed.
pub fn collapse(picture: &Picture) -> Picture {
    let run_length = picture.nodes.len().div_ceil(COLLAPSED_BOXES);
    let mut run_of: Vec<usize> = Vec::with_capacity(picture.nodes.len());
    let mut runs: Vec<Vec<usize>> = Vec::new();
    let mut open: BTreeMap<Option<&str>, usize> = BTreeMap::new();
    for (n, node) in picture.nodes.iter().enumerate() {
        let group = node.group.as_deref();
        let run = match open.get(&group) {
            Some(run) if runs[*run].len() < run_length => *run,
            _ => {
                runs.push(Vec::new());
                open.insert(group, runs.len() - 1);
                runs.len() - 1
            }
        };
        runs[run].push(n);
        run_of.push(run);
    }
    let nodes = runs.iter().map(|members| joined(picture, members)).collect();
    Picture { title: picture.title.clone(), nodes, edges: joined_edges(picture, &run_of) }
}

fn joined(picture: &Picture, members: &[usize]) -> Node {
    let first = &picture.nodes[members[0]];
    let last = &picture.nodes[members[members.len() - 1]];
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for member in members {
        let node = &picture.nodes[*member];
        *kinds.entry(node.lines.first().map_or(node.title.as_str(), String::as_str)).or_default() += 1;
    }
    let mut kinds: Vec<(&str, usize)> = kinds.into_iter().collect();
    kinds.sort_by_key(|(name, n)| (std::cmp::Reverse(*n), *name));
    let kinds: Vec<String> = kinds.iter().take(4).map(|(name, n)| format!("{n} x {name}")).collect();
    Node {
        title: format!("{} steps", members.len()),
        lines: vec![format!("{} ... {}", first.title, last.title), kinds.join(", ")],
        group: first.group.clone(),
        time_us: members.iter().map(|m| picture.nodes[*m].time_us).sum(),
        names: Vec::new(),
    }
}

fn joined_edges(picture: &Picture, run_of: &[usize]) -> Vec<Edge> {
    let mut sums: BTreeMap<(usize, usize), (f64, Option<f64>)> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for edge in &picture.edges {
        let key = (run_of[edge.from], run_of[edge.to]);
        // One value read by many boxes of a run crosses once.
        if key.0 != key.1 && seen.insert((edge.from, key.1)) {
            let sum = sums.entry(key).or_insert((0.0, None));
            sum.0 += edge.bytes;
            sum.1 = match (sum.1, edge.time_us) {
                (a, None) => a,
                (a, Some(b)) => Some(a.unwrap_or(0.0) + b),
            };
        }
    }
    sums.into_iter().map(|((from, to), (bytes, time_us))| Edge { from, to, bytes, time_us }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(n: usize) -> Picture {
        let node = |i: usize| Node {
            title: format!("node {i}"),
            lines: vec!["relu".to_owned()],
            group: Some(if i.is_multiple_of(7) { "gpu0" } else { "cpu0" }.to_owned()),
            time_us: 1.0,
            names: vec![format!("value {i}")],
        };
        let edge = |i: usize| Edge { from: i, to: i + 1, bytes: 4.0, time_us: None };
        Picture {
            title: "chain".into(),
            nodes: (0..n).map(node).collect(),
            edges: (0..n - 1).map(edge).collect(),
        }
    }

    #[test]
    fn a_thousand_boxes_stay_readable() {
        let small = collapse(&chain(1000));
        assert!(small.nodes.len() <= 2 * COLLAPSED_BOXES, "{}", small.nodes.len());
        let total: f64 = small.nodes.iter().map(|n| n.time_us).sum();
        assert!((total - 1000.0).abs() < 1e-9);
        let text = render(&chain(1000));
        assert_eq!(text.matches("subgraph").count(), 2);
    }

    #[test]
    fn neighbours_of_a_box() {
        let titles = |name: &str, hops: usize| -> Vec<String> {
            let picture = around(&chain(9), name, hops).unwrap();
            assert_eq!(picture.edges.len() + 1, picture.nodes.len());
            picture.nodes.into_iter().map(|n| n.title).collect()
        };
        assert_eq!(titles("node 4", 1), ["node 3", "node 4", "node 5"]);
        assert_eq!(titles("value 0", 2), ["node 0", "node 1", "node 2"]);
        assert!(around(&chain(9), "nobody", 1).is_none());
    }

    #[test]
    fn quotes_are_escaped() {
        let mut picture = chain(2);
        picture.nodes[0].title = "a\"b\\c".to_owned();
        assert!(render(&picture).contains(r#"a\"b\\c"#));
    }
}
