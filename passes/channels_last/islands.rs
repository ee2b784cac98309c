//! Which values hand their layout to each other, what their convolutions compute and their transpositions move.

use partita_ir::{NodeId, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// What an island does.
#[derive(Default)]
struct Sums {
    macs: f64,
    moved: f64,
    convolutions: Vec<NodeId>,
}

/// Values of the new graph, joined to islands.
#[derive(Default)]
pub(super) struct Islands {
    /// Towards the island's first value.
    parent: BTreeMap<ValueId, ValueId>,
    macs: Vec<(ValueId, NodeId, f64)>,
    moved: Vec<(ValueId, f64)>,
}

impl Islands {
    fn root(&self, mut value: ValueId) -> ValueId {
        while let Some(&up) = self.parent.get(&value).filter(|up| **up != value) {
            value = up;
        }
        value
    }

    /// Two values are of one island.
    pub(super) fn join(&mut self, a: ValueId, b: ValueId) {
        let (a, b) = (self.root(a), self.root(b));
        if a != b {
            self.parent.insert(a.max(b), a.min(b));
        }
    }

    /// Convolution `node` of the old graph, with result `value`.
    pub(super) fn convolution(&mut self, value: ValueId, node: NodeId, macs: f64) {
        self.macs.push((value, node, macs));
    }

    /// A transposition at the border of the island that `value` is in.
    pub(super) fn moved(&mut self, value: ValueId, elements: f64) {
        self.moved.push((value, elements));
    }

    /// Convolutions of islands with fewer multiply-adds than `macs_per_move` for each element moved.
    pub(super) fn losing(&self, macs_per_move: f64) -> BTreeSet<NodeId> {
        let mut sums: BTreeMap<ValueId, Sums> = BTreeMap::new();
        for (value, node, macs) in &self.macs {
            let sum = sums.entry(self.root(*value)).or_default();
            sum.macs += macs;
            sum.convolutions.push(*node);
        }
        for (value, elements) in &self.moved {
            sums.entry(self.root(*value)).or_default().moved += elements;
        }
        let losing = sums.into_values().filter(|s| s.macs < macs_per_move * s.moved);
        losing.flat_map(|s| s.convolutions).collect()
    }
}
