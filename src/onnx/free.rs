//! Names that a subgraph reads from around it. A name that the subgraph defines is its own, wherever it does so.

use crate::attrs::graphs;
use onnx_protobuf::{GraphProto, NodeProto};
use std::collections::BTreeSet;

/// Names `graph` defines itself.
pub(crate) fn defined(graph: &GraphProto) -> BTreeSet<&str> {
    let dense = graph.initializer.iter().map(|t| t.name.as_str());
    let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref()).map(|v| v.name.as_str());
    let made = graph.node.iter().flat_map(|n| n.output.iter().map(String::as_str));
    let formal = graph.input.iter().map(|i| i.name.as_str());
    formal.chain(dense).chain(sparse).chain(made).filter(|n| !n.is_empty()).collect()
}

/// Names the graphs read and do not define, each once, in the order of their first reading. Recursion is as deep as
/// messages may nest.
pub(crate) fn free_names<'g>(graphs: impl Iterator<Item = &'g GraphProto>) -> Vec<&'g str> {
    let mut free = Free::default();
    graphs.for_each(|graph| free.graph(graph));
    free.names
}

#[derive(Default)]
struct Free<'g> {
    /// What the graphs around the current one define.
    bound: Vec<BTreeSet<&'g str>>,
    names: Vec<&'g str>,
    seen: BTreeSet<&'g str>,
}

impl<'g> Free<'g> {
    fn graph(&mut self, graph: &'g GraphProto) {
        self.bound.push(defined(graph));
        graph.node.iter().for_each(|node| self.node(node));
        graph.output.iter().for_each(|output| self.read(&output.name));
        self.bound.pop();
    }

    fn node(&mut self, node: &'g NodeProto) {
        node.input.iter().for_each(|name| self.read(name));
        graphs(node).for_each(|(_, graph)| self.graph(graph));
    }

    fn read(&mut self, name: &'g str) {
        if !name.is_empty() && !self.bound.iter().any(|b| b.contains(name)) && self.seen.insert(name) {
            self.names.push(name);
        }
    }
}

/// Number of nodes of a graph, those of graphs inside included.
pub(crate) fn n_nodes(graph: &GraphProto) -> usize {
    graph.node.iter().map(n_nodes_of).sum()
}

/// A node and all nodes inside.
pub(crate) fn n_nodes_of(node: &NodeProto) -> usize {
    1 + graphs(node).map(|(_, graph)| n_nodes(graph)).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnx_protobuf::attribute_proto::AttributeType;
    use onnx_protobuf::{AttributeProto, ValueInfoProto};

    fn node(inputs: &[&str], output: &str, body: Option<GraphProto>) -> NodeProto {
        let attribute = body.map(|g| AttributeProto {
            type_: AttributeType::GRAPH.into(),
            g: Some(g).into(),
            ..Default::default()
        });
        NodeProto {
            input: inputs.iter().map(ToString::to_string).collect(),
            output: vec![output.to_owned()],
            attribute: attribute.into_iter().collect(),
            ..Default::default()
        }
    }

    #[test]
    fn inner_definitions_hide_outer_names() {
        let formal = |name: &str| ValueInfoProto { name: name.to_owned(), ..Default::default() };
        let inner = GraphProto {
            node: vec![node(&["a", "x", "t"], "y", None)],
            input: vec![formal("x")],
            ..Default::default()
        };
        let outer = GraphProto {
            node: vec![node(&["b", ""], "t", None), node(&["t"], "z", Some(inner))],
            output: vec![formal("z"), formal("w")],
            ..Default::default()
        };
        assert_eq!(free_names(std::iter::once(&outer)), ["b", "a", "w"]);
        assert_eq!(n_nodes(&outer), 3);
    }
}
