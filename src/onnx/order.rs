//! The order of nodes: every value is made once, before it is read. ONNX demands it; a file that breaks the
//! rule is refused rather than repaired, and a cycle is told apart from mere disorder.

use onnx_protobuf::NodeProto;
use partita_ir::Diag;
use std::collections::{BTreeMap, BTreeSet};

/// How a node is named to a person.
pub(crate) fn label(node: &NodeProto, index: usize) -> String {
    let op = if node.domain.is_empty() || node.domain == "ai.onnx" {
        node.op_type.clone()
    } else {
        format!("{}.{}", node.domain, node.op_type)
    };
    if node.name.is_empty() { format!("#{index} ({op})") } else { format!("{} ({op})", node.name) }
}

/// Checks the nodes of a graph whose inputs and initializers are `given`, and which may read the names `around` it.
///
/// Findings: `I014` a value is written twice, `I015` it is read and never written, `I016` a cycle, `I017` it is
/// read before it is written.
pub(crate) fn check(
    nodes: &[&NodeProto],
    given: &BTreeSet<&str>,
    around: &dyn Fn(&str) -> bool,
) -> Vec<Diag> {
    let mut found = Vec::new();
    let mut producer: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, node) in nodes.iter().enumerate() {
        for name in node.output.iter().map(String::as_str).filter(|n| !n.is_empty()) {
            let first = given.contains(name) || producer.contains_key(name);
            if first {
                let diag = Diag::new("I014", "two nodes, inputs or initializers make this value");
                found.push(diag.at_node(label(node, at)).at_value(name).hint("rename one of them"));
            } else {
                producer.insert(name, at);
            }
        }
    }
    let looped = on_cycles(nodes, &producer);
    for (at, node) in nodes.iter().enumerate() {
        for name in node.input.iter().map(String::as_str).filter(|n| !n.is_empty()) {
            if !given.contains(name) && (producer.contains_key(name) || !around(name)) {
                found.extend(
                    misplaced(producer.get(name).copied(), at, &looped)
                        .map(|d| d.at_node(label(node, at)).at_value(name)),
                );
            }
        }
    }
    found
}

/// What is wrong with node `at` reading a value that node `producer` makes.
fn misplaced(producer: Option<usize>, at: usize, looped: &BTreeSet<usize>) -> Option<Diag> {
    let Some(producer) = producer else {
        let diag = Diag::new("I015", "nothing makes this value: no node, input or initializer");
        return Some(diag.hint("the model is incomplete; export it again"));
    };
    if producer < at {
        return None;
    }
    Some(if looped.contains(&at) && looped.contains(&producer) {
        Diag::new("I016", "the node's input depends on its own output")
            .hint("a graph must be acyclic; write loops with the Loop operator")
    } else {
        Diag::new("I017", "the value is read before it is made")
            .hint("sort the nodes: producers before their readers")
    })
}

/// Nodes that lie on a cycle or between two: what stays when sources and sinks are taken away for ever.
fn on_cycles(nodes: &[&NodeProto], producer: &BTreeMap<&str, usize>) -> BTreeSet<usize> {
    let producers = |at: usize| nodes[at].input.iter().filter_map(|n| producer.get(n.as_str()).copied());
    // In a sorted file, which is nearly every file, there is nothing to find.
    if (0..nodes.len()).all(|at| producers(at).all(|p| p < at)) {
        return BTreeSet::new();
    }
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for at in 0..nodes.len() {
        producers(at).for_each(|p| readers[p].push(at));
    }
    let forward: Vec<Vec<usize>> = (0..nodes.len()).map(|at| producers(at).collect()).collect();
    let left = peel(&forward, &readers, &vec![true; nodes.len()]);
    let left = peel(&readers, &forward, &left);
    (0..nodes.len()).filter(|&at| left[at]).collect()
}

/// Takes away, again and again, what needs nothing that is left; returns what stays.
fn peel(needs: &[Vec<usize>], needed_by: &[Vec<usize>], start: &[bool]) -> Vec<bool> {
    let mut left = start.to_vec();
    let mut missing: Vec<usize> =
        needs.iter().map(|n| n.iter().filter(|&&other| start[other]).count()).collect();
    let mut ready: Vec<usize> = (0..needs.len()).filter(|&at| start[at] && missing[at] == 0).collect();
    while let Some(at) = ready.pop() {
        left[at] = false;
        for &other in &needed_by[at] {
            missing[other] = missing[other].saturating_sub(1);
            if missing[other] == 0 && left[other] {
                ready.push(other);
            }
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(nodes: &[(&[&str], &str)]) -> Vec<&'static str> {
        let protos: Vec<NodeProto> = nodes
            .iter()
            .map(|(inputs, output)| NodeProto {
                input: inputs.iter().map(ToString::to_string).collect(),
                output: vec![(*output).to_owned()],
                ..Default::default()
            })
            .collect();
        let refs: Vec<&NodeProto> = protos.iter().collect();
        check(&refs, &BTreeSet::from(["x"]), &|_| false).into_iter().map(|d| d.code).collect()
    }

    #[test]
    fn disorder_is_not_a_cycle() {
        assert!(codes(&[(&["x"], "a"), (&["a"], "b")]).is_empty());
        assert_eq!(codes(&[(&["b"], "a"), (&["x"], "b")]), ["I017"]);
        assert_eq!(codes(&[(&["b"], "a"), (&["a"], "b"), (&["b"], "c")]), ["I016"]);
        assert_eq!(codes(&[(&["a"], "a")]), ["I016"]);
        assert_eq!(codes(&[(&["c"], "z"), (&["b"], "a"), (&["a"], "b"), (&["b"], "c")]), ["I017", "I016"]);
    }

    #[test]
    fn names_are_made_once() {
        assert_eq!(codes(&[(&["x"], "a"), (&["x"], "a")]), ["I014"]);
        assert_eq!(codes(&[(&["a"], "x")]), ["I014", "I015"]);
    }
}
