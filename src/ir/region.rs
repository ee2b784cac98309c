//! Regions: groups of nodes that become one kernel each.

use crate::graph::{NodeId, ValueId};
use std::collections::BTreeMap;

/// What a region becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionKind {
    /// A library kernel (the anchor) with an elementwise epilogue.
    Anchor,
    /// One tile program.
    Elementwise,
    /// One node.
    Single,
    /// One node that only reinterprets the shape: no kernel at all where memory can be shared.
    Reshape,
}

/// A future kernel.
#[derive(Clone, Debug)]
pub struct Region {
    /// Name of its most telling node.
    pub name: String,
    pub kind: RegionKind,
    /// In topological order.
    pub nodes: Vec<NodeId>,
    /// The library kernel's node of an `Anchor`.
    pub anchor: Option<NodeId>,
    /// Values read from outside, constants included, each once.
    pub inputs: Vec<ValueId>,
    /// Values read outside; exactly one unless the kind is `Single`.
    pub outputs: Vec<ValueId>,
}

/// A partition of all nodes of a graph into regions.
#[derive(Clone, Debug, Default)]
pub struct Regions {
    /// In topological order of the quotient graph, which is acyclic.
    pub list: Vec<Region>,
    /// Region of every node.
    pub of_node: BTreeMap<NodeId, usize>,
}
