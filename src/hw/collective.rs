//! Collective operations by the alpha-beta model: messages of `latency + bytes x time per byte`.
//!
//! Formulas as in Thakur, Rabenseifner, Gropp, "Optimization of Collective Communication Operations in MPICH" (2005),
//! and the table of `interconnects.toml`. Local reduction runs at memory speed and is left out: it is a percent of the
//! wire's time on every fabric of the table.

use crate::fabric::Topology;

/// What is exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collective {
    /// Everyone holds `bytes`, everyone gets their sum.
    AllReduce,
    /// Everyone gets `bytes` in total, a part from each.
    AllGather,
    /// Everyone holds `bytes`, everyone gets a part of their sum.
    ReduceScatter,
    /// Everyone holds `bytes`, a part for each.
    AllToAll,
    /// One holds `bytes`, everyone gets them.
    Broadcast,
}

/// How it is exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Nothing moves: one rank or no bytes.
    None,
    /// Around a ring, a part at a time.
    Ring,
    /// Up and down a tree.
    Tree,
    /// Exchanges with partners at doubling distance.
    Doubling,
    /// Every pair at once over its own link.
    Direct,
    /// Inside groups, between them, inside groups.
    Hierarchical,
}

impl Algorithm {
    /// The word used in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::None => "none",
            Algorithm::Ring => "ring",
            Algorithm::Tree => "tree",
            Algorithm::Doubling => "doubling",
            Algorithm::Direct => "direct",
            Algorithm::Hierarchical => "hierarchical",
        }
    }
}

/// Devices that exchange, joined alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// How many.
    pub ranks: usize,
    /// How they are joined.
    pub topology: Topology,
    /// Latency of one message between neighbours, in us.
    pub latency_us: f64,
    /// Time per byte between neighbours, in us.
    pub us_per_byte: f64,
    /// What starting the operation costs once, in us.
    pub command_us: f64,
}

/// The cheapest way and its time in us.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exchange {
    /// How.
    pub algorithm: Algorithm,
    /// Time in us, the command included.
    pub us: f64,
}

const NOTHING: Exchange = Exchange { algorithm: Algorithm::None, us: 0.0 };

impl Group {
    /// Time of a collective of `bytes` by the cheapest algorithm the topology allows.
    pub fn exchange(&self, what: Collective, bytes: f64) -> Exchange {
        if self.ranks < 2 || bytes <= 0.0 {
            return NOTHING;
        }
        let ways = match what {
            Collective::AllReduce => self.all_reduce(bytes),
            Collective::AllGather | Collective::ReduceScatter => self.scatter(bytes),
            Collective::AllToAll => vec![self.all_to_all(bytes)],
            Collective::Broadcast => self.broadcast(bytes),
        };
        let best = ways.into_iter().min_by(|a, b| a.1.total_cmp(&b.1));
        best.map_or(NOTHING, |(algorithm, us)| Exchange { algorithm, us: us + self.command_us })
    }

    fn sizes(&self) -> (f64, f64, f64, f64) {
        let ranks = self.ranks as f64;
        // Neighbours at doubling distance are several hops away on a ring.
        let rounds =
            if self.topology == Topology::Ring { (ranks / 2.0).floor() } else { ranks.log2().ceil() };
        (ranks, rounds, self.latency_us, self.us_per_byte)
    }

    fn all_reduce(&self, bytes: f64) -> Vec<(Algorithm, f64)> {
        let (p, rounds, a, b) = self.sizes();
        let moved = 2.0 * (p - 1.0) / p * bytes * b;
        let mut ways = vec![
            (Algorithm::Ring, 2.0 * (p - 1.0) * a + moved),
            (Algorithm::Tree, 2.0 * rounds * a + 2.0 * bytes * b),
            (Algorithm::Doubling, rounds * (a + bytes * b)),
        ];
        if self.topology == Topology::Mesh {
            ways.push((Algorithm::Direct, 2.0 * (a + bytes / p * b)));
        }
        ways
    }

    fn scatter(&self, bytes: f64) -> Vec<(Algorithm, f64)> {
        let (p, rounds, a, b) = self.sizes();
        let mut ways = vec![(Algorithm::Ring, (p - 1.0) * a + (p - 1.0) / p * bytes * b)];
        match self.topology {
            Topology::Mesh => ways.push((Algorithm::Direct, a + bytes / p * b)),
            Topology::Switch => ways.push((Algorithm::Doubling, rounds * a + (p - 1.0) / p * bytes * b)),
            Topology::Ring => {}
        }
        ways
    }

    fn all_to_all(&self, bytes: f64) -> (Algorithm, f64) {
        let (p, _, a, b) = self.sizes();
        match self.topology {
            Topology::Switch => (Algorithm::Direct, (p - 1.0) * a + (p - 1.0) / p * bytes * b),
            Topology::Mesh => (Algorithm::Direct, a + bytes / p * b),
            // A quarter of everything crosses the bisection each way, over two links.
            Topology::Ring => (Algorithm::Ring, p / 2.0 * a + p / 8.0 * bytes * b),
        }
    }

    fn broadcast(&self, bytes: f64) -> Vec<(Algorithm, f64)> {
        let (p, rounds, a, b) = self.sizes();
        // The best number of pieces of a pipelined ring balances the fill against the latency of each piece.
        let pieces = ((p - 2.0) * bytes * b / a.max(1e-9)).sqrt().clamp(1.0, 1e6).round();
        let ring = (p - 2.0 + pieces) * (a + bytes / pieces * b);
        vec![(Algorithm::Tree, rounds * (a + bytes * b)), (Algorithm::Ring, ring)]
    }
}

/// All-reduce over `outer.ranks` groups of `inner.ranks` devices: reduce-scatter inside, all-reduce of each part
/// between the groups, all-gather inside; or flat over the slower network where that is cheaper.
pub fn hierarchical_all_reduce(inner: &Group, outer: &Group, bytes: f64) -> Exchange {
    if outer.ranks < 2 {
        return inner.exchange(Collective::AllReduce, bytes);
    }
    let part = bytes / inner.ranks.max(1) as f64;
    let between = outer.exchange(Collective::AllReduce, part).us;
    let inside = inner.exchange(Collective::ReduceScatter, bytes).us
        + inner.exchange(Collective::AllGather, bytes).us
        // One operation, one command.
        - if inner.ranks > 1 { inner.command_us } else { 0.0 };
    let us = between + inside.max(0.0);
    let flat = Group { ranks: inner.ranks * outer.ranks, ..*outer }.exchange(Collective::AllReduce, bytes);
    if flat.us < us { flat } else { Exchange { algorithm: Algorithm::Hierarchical, us } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(ranks: usize, topology: Topology) -> Group {
        Group { ranks, topology, latency_us: 2.0, us_per_byte: 1e-3, command_us: 0.0 }
    }

    #[test]
    fn large_all_reduce_is_a_ring_and_small_is_not() {
        let eight = group(8, Topology::Switch);
        let large = eight.exchange(Collective::AllReduce, 8e6);
        assert_eq!(large.algorithm, Algorithm::Ring);
        assert!((large.us - (28.0 + 14_000.0)).abs() < 1e-6);
        let small = eight.exchange(Collective::AllReduce, 8.0);
        assert_eq!(small.algorithm, Algorithm::Doubling);
        assert!((small.us - 3.0 * (2.0 + 0.008)).abs() < 1e-9);
    }

    #[test]
    fn a_mesh_uses_all_links_at_once() {
        let mesh = group(8, Topology::Mesh).exchange(Collective::AllReduce, 8e6);
        assert_eq!(mesh.algorithm, Algorithm::Direct);
        assert!((mesh.us - 2.0 * (2.0 + 1000.0)).abs() < 1e-9);
        let exchange = group(4, Topology::Mesh).exchange(Collective::AllToAll, 4e6);
        assert!((exchange.us - 1002.0).abs() < 1e-9);
    }

    #[test]
    fn one_rank_and_no_bytes_are_free() {
        for what in
            [Collective::AllReduce, Collective::AllGather, Collective::AllToAll, Collective::Broadcast]
        {
            assert_eq!(group(1, Topology::Ring).exchange(what, 1e9).us, 0.0);
            assert_eq!(group(4, Topology::Ring).exchange(what, 0.0).us, 0.0);
        }
    }

    #[test]
    fn groups_of_groups_beat_a_flat_ring_on_a_slow_network() {
        let inner = Group { us_per_byte: 1e-5, ..group(8, Topology::Switch) };
        let outer = group(2, Topology::Switch);
        let both = hierarchical_all_reduce(&inner, &outer, 8e6);
        assert_eq!(both.algorithm, Algorithm::Hierarchical);
        // Inside 2 x (6 + 70), between 2 ranks 2 + 1e6 bytes x 1e-3 (doubling) or ring 4 + 1000: 1002.
        assert!((both.us - (2.0 * (6.0 + 70.0) + 1002.0)).abs() < 1e-6, "{}", both.us);
    }

    #[test]
    fn gathering_is_half_of_reducing() {
        let four = group(4, Topology::Ring);
        let gather = four.exchange(Collective::AllGather, 4e6).us;
        assert!((2.0 * gather - four.exchange(Collective::AllReduce, 4e6).us).abs() < 1e-6);
        assert_eq!(gather, four.exchange(Collective::ReduceScatter, 4e6).us);
        assert!(four.exchange(Collective::Broadcast, 4e6).us > 4e3);
    }
}
