//! Subsets of units in a linear order, with the price of cutting flows, as paths through few states.
//!
//! A set of units is built by deciding unit after unit whether it is inside. What the future must know of the past
//! is, for every flow that reaches over the present place, whether the units seen are all inside or all outside;
//! a flow that has both is cut, is paid for and forgotten. Real models have few such flows at any place of a good
//! order. Where there are too many states, the cheapest flows are given away free from there on, which only lowers
//! the price of sets.

use crate::units::Units;
use std::collections::{BTreeMap, BTreeSet};

/// Most states between two units.
const MAX_STATES: usize = 256;
/// Most flows that reach over one place; two bits of a state each.
const MAX_OPEN: usize = 60;

/// Units that are cut apart at a cost: a flow's producer and readers.
#[derive(Debug, Clone)]
pub(crate) struct Edge {
    pub(crate) units: Vec<usize>,
    pub(crate) cost_us: f64,
}

/// From one state to the next by one unit's decision.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Move {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// Cost of the flows that become cut.
    pub(crate) cut_us: f64,
    pub(crate) inside: bool,
    /// Inside, and the unit before is not.
    pub(crate) first: bool,
}

/// The decision about one unit.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) unit: usize,
    /// By the state they lead to.
    pub(crate) moves: Vec<Move>,
    /// Number of states after it.
    pub(crate) n_states: usize,
}

/// All decisions; there is one state before the first and after the last.
#[derive(Debug, Clone)]
pub(crate) struct Frontier {
    pub(crate) steps: Vec<Step>,
}

impl Frontier {
    /// Of sets whose cut flows are paid.
    pub(crate) fn with_cuts(units: &Units) -> Frontier {
        let edges = edges(units);
        build(&narrow_order(units, &edges), &edges)
    }

    /// Of sets that pay for no flow.
    pub(crate) fn without_cuts(units: &Units) -> Frontier {
        build(&units.order, &[])
    }

    /// States over all places.
    pub(crate) fn n_states(&self) -> usize {
        self.steps.iter().map(|s| s.n_states).sum()
    }

    /// Moves over all places.
    pub(crate) fn n_moves(&self) -> usize {
        self.steps.iter().map(|s| s.moves.len()).sum()
    }
}

/// Flows with equal ends as one edge each.
pub(crate) fn edges(units: &Units) -> Vec<Edge> {
    let mut merged: BTreeMap<Vec<usize>, f64> = BTreeMap::new();
    for flow in units.flows.iter().filter(|f| f.cost_us > 0.0) {
        let mut ends = flow.consumers.clone();
        ends.push(flow.producer);
        ends.sort_unstable();
        *merged.entry(ends).or_insert(0.0) += flow.cost_us;
    }
    merged.into_iter().map(|(units, cost_us)| Edge { units, cost_us }).collect()
}

/// An order in which few edges reach over any place: always next, of the units that share an edge with one that
/// is placed, the one that opens least beyond what it closes; among equals the one seen first in the given order.
pub(crate) fn narrow_order(units: &Units, edges: &[Edge]) -> Vec<usize> {
    let n = units.len();
    let mut edges_of = vec![Vec::new(); n];
    for (e, edge) in edges.iter().enumerate() {
        edge.units.iter().for_each(|&u| edges_of[u].push(e));
    }
    let mut rank = vec![0; n];
    units.order.iter().enumerate().for_each(|(i, &u)| rank[u] = i);
    let mut left: Vec<usize> = edges.iter().map(|e| e.units.len()).collect();
    let (mut placed, mut near) = (vec![false; n], BTreeSet::new());
    let mut order = Vec::with_capacity(n);
    for &first in &units.order {
        if placed[first] {
            continue;
        }
        near.insert((rank[first], first));
        while let Some(&(_, u)) = near.iter().min_by_key(|(r, u)| (growth(&edges_of[*u], edges, &left), *r)) {
            near.remove(&(rank[u], u));
            placed[u] = true;
            order.push(u);
            for &e in &edges_of[u] {
                left[e] -= 1;
                near.extend(edges[e].units.iter().filter(|&&v| !placed[v]).map(|&v| (rank[v], v)));
            }
        }
    }
    order
}

/// Edges a unit opens less those it closes.
fn growth(edges_of_unit: &[usize], edges: &[Edge], left: &[usize]) -> i64 {
    let change = |&e: &usize| i64::from(left[e] == edges[e].units.len()) - i64::from(left[e] == 1);
    edges_of_unit.iter().map(change).sum()
}

/// What is known of an open edge, two bits each.
const UNSEEN: u128 = 0;
const OUTSIDE: u128 = 1;
const INSIDE: u128 = 2;
const CUT: u128 = 3;
/// No bits are left for the edge.
const NO_SLOT: u32 = u32::MAX;
/// The unit before is inside.
const RUNNING: u128 = 1 << 127;

/// Which edges open, touch and close at each unit, and the bits of a state each edge has while it is open.
struct Sites {
    edges_of: Vec<Vec<usize>>,
    last: Vec<usize>,
    slot: Vec<u32>,
}

/// The steps over `order`.
fn build(order: &[usize], edges: &[Edge]) -> Frontier {
    let sites = sites(order, edges);
    let mut states: BTreeMap<u128, usize> = BTreeMap::from([(0, 0)]);
    let mut steps = Vec::with_capacity(order.len());
    let mut open: BTreeSet<usize> = BTreeSet::new();
    for (place, &unit) in order.iter().enumerate() {
        let mut reached: Vec<(u128, Move)> = Vec::with_capacity(2 * states.len());
        for (&state, &from) in &states {
            for inside in [false, true] {
                let (after, cut_us) = sites.decide(edges, place, unit, state, inside);
                let first = inside && state & RUNNING == 0;
                reached.push((after, Move { from, to: 0, cut_us, inside, first }));
            }
        }
        open.extend(
            sites.edges_of[unit].iter().filter(|&&e| sites.last[e] > place && sites.slot[e] != NO_SLOT),
        );
        open.retain(|&e| sites.last[e] > place);
        states = number(&reached);
        while states.len() > MAX_STATES {
            let cheaper = |&a: &usize, &b: &usize| edges[a].cost_us.total_cmp(&edges[b].cost_us);
            let Some(e) = open.iter().copied().min_by(cheaper) else { break };
            // Taken to be cut and paid for already.
            open.remove(&e);
            reached.iter_mut().for_each(|(state, _)| *state |= CUT << (2 * sites.slot[e]));
            states = number(&reached);
        }
        let mut moves: Vec<Move> =
            reached.iter().map(|(state, m)| Move { to: states[state], ..*m }).collect();
        moves.sort_by_key(|m| m.to);
        steps.push(Step { unit, moves, n_states: states.len() });
    }
    Frontier { steps }
}

/// Numbers the states that are reached.
fn number(reached: &[(u128, Move)]) -> BTreeMap<u128, usize> {
    let distinct: BTreeSet<u128> = reached.iter().map(|r| r.0).collect();
    distinct.into_iter().enumerate().map(|(i, state)| (state, i)).collect()
}

fn sites(order: &[usize], edges: &[Edge]) -> Sites {
    let mut position = vec![0; order.len()];
    order.iter().enumerate().for_each(|(i, &u)| position[u] = i);
    let mut edges_of = vec![Vec::new(); order.len()];
    let mut last = vec![0; edges.len()];
    for (e, edge) in edges.iter().enumerate() {
        for &u in &edge.units {
            edges_of[u].push(e);
            last[e] = last[e].max(position[u]);
        }
    }
    let mut free: Vec<u32> = (0..MAX_OPEN as u32).rev().collect();
    let (mut slot, mut seen) = (vec![NO_SLOT; edges.len()], vec![false; edges.len()]);
    for (place, &u) in order.iter().enumerate() {
        for &e in &edges_of[u] {
            if !std::mem::replace(&mut seen[e], true) {
                // An edge for which there is no room is never paid for.
                slot[e] = free.pop().unwrap_or(NO_SLOT);
            }
        }
        let closed = edges_of[u].iter().map(|&e| (last[e], slot[e]));
        free.extend(closed.filter(|&(last, slot)| last == place && slot != NO_SLOT).map(|(_, slot)| slot));
    }
    Sites { edges_of, last, slot }
}

impl Sites {
    /// The state after the decision, and what it cuts.
    fn decide(&self, edges: &[Edge], place: usize, unit: usize, state: u128, inside: bool) -> (u128, f64) {
        let (mut after, mut cut_us) = (state & !RUNNING, 0.0);
        let side = if inside { INSIDE } else { OUTSIDE };
        for &e in self.edges_of[unit].iter().filter(|&&e| self.slot[e] != NO_SLOT) {
            let shift = 2 * self.slot[e];
            let seen = state >> shift & 3;
            let now = if seen == UNSEEN || seen == side { side } else { CUT };
            if now == CUT && seen != CUT {
                cut_us += edges[e].cost_us;
            }
            after &= !(3 << shift);
            if self.last[e] > place {
                after |= now << shift;
            }
        }
        // Behind the last unit there is one state.
        if inside && place + 1 < self.edges_of.len() {
            after |= RUNNING;
        }
        (after, cut_us)
    }
}
