//! Chooses one e-node per class so that what the roots need is cheap, each shared part counted once.
//!
//! Two starting points, the input graph and a bottom-up choice by set cost, then local search by reference
//! counts: a class switches to another form when what becomes alive costs less than what dies. The input graph
//! is the incumbent, so the result is never dearer.

use super::analysis::Egg;
use super::lang::ENode;
use egg::Id;
use partita_ir::diag::Diag;
use std::collections::{BTreeMap, BTreeSet};

/// Classes above this number are chosen by tree cost first, since set costs take quadratic memory.
const MAX_SET_CLASSES: usize = 6000;

/// Rounds of local search.
const MAX_ROUNDS: usize = 8;

/// Classes the local search may visit while it looks for cycles, in all; then it takes what it has.
const MAX_SEARCH_STEPS: usize = 100_000_000;

/// Gains below this many microseconds are rounding.
const EPSILON_US: f64 = 1e-9;

/// For each class the number of the chosen e-node among the class's nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    picks: BTreeMap<Id, usize>,
}

impl Choice {
    /// The chosen e-node of a (canonical) class.
    pub fn node<'a>(&self, egraph: &'a Egg, id: Id) -> &'a ENode {
        let nodes = &egraph[id].nodes;
        &nodes[self.picks.get(&id).copied().unwrap_or(0).min(nodes.len() - 1)]
    }

    /// Classes the roots need, operands first, in the order of a depth-first walk.
    ///
    /// # Errors
    /// `R010` when the choice is cyclic.
    pub fn order(&self, egraph: &Egg, roots: &[Id]) -> Result<Vec<Id>, Diag> {
        let mut order = Vec::new();
        let mut state: BTreeMap<Id, bool> = BTreeMap::new();
        for &root in roots {
            let mut stack = vec![(egraph.find(root), 0)];
            while let Some((id, next)) = stack.pop() {
                if next == 0 && state.contains_key(&id) {
                    if state[&id] {
                        continue;
                    }
                    return Err(Diag::new("R010", "the chosen forms depend on each other in a cycle"));
                }
                state.entry(id).or_insert(false);
                match self.node(egraph, id).children.get(next) {
                    Some(&child) => stack.extend([(id, next + 1), (egraph.find(child), 0)]),
                    None => {
                        state.insert(id, true);
                        order.push(id);
                    }
                }
            }
        }
        Ok(order)
    }
}

/// Price of an e-node and the classes it reads, each once.
type Priced = (f64, Vec<usize>);

/// An e-graph with prices: the problem of extraction, classes and children numbered densely.
struct Problem {
    ids: Vec<Id>,
    /// For each class its nodes.
    nodes: Vec<Vec<Priced>>,
    roots: Vec<usize>,
}

/// The chosen forms with their cost, and the cost of the input graph.
#[derive(Clone, Debug)]
pub struct Extracted {
    pub choice: Choice,
    pub cost_us: f64,
    pub input_cost_us: f64,
}

/// Extracts from an e-graph; `origin` is the input graph's e-nodes, operands first.
pub fn extract(
    egraph: &Egg,
    roots: &[Id],
    origin: &[(Id, ENode)],
    prices: &BTreeMap<Id, Vec<f64>>,
) -> Extracted {
    let problem = Problem::new(egraph, roots, prices);
    let input_cost_us = input_cost(egraph, roots, origin, prices);
    let mut best = (f64::INFINITY, vec![0; problem.nodes.len()]);
    for start in [problem.input(egraph, origin), problem.bottom_up()] {
        let Some(cost) = problem.cost(&start) else { continue };
        let (cost, picks) = problem.improve(start, cost);
        if cost < best.0 - EPSILON_US {
            best = (cost, picks);
        }
    }
    let picks = problem.ids.iter().copied().zip(best.1).collect();
    Extracted { choice: Choice { picks }, cost_us: best.0, input_cost_us }
}

/// Cost of the graph as it was loaded: what was not one e-node then is counted apart.
fn input_cost(egraph: &Egg, roots: &[Id], origin: &[(Id, ENode)], prices: &BTreeMap<Id, Vec<f64>>) -> f64 {
    let mut first: BTreeMap<Id, &ENode> = BTreeMap::new();
    for (id, node) in origin {
        first.entry(*id).or_insert(node);
    }
    let mut seen = BTreeSet::new();
    let mut todo = roots.to_vec();
    let mut total = 0.0;
    while let Some(id) = todo.pop() {
        let Some(node) = first.get(&id).filter(|_| seen.insert(id)) else { continue };
        todo.extend(&node.children);
        let class = &egraph[id];
        let at = class.nodes.iter().position(|x| canonical(egraph, x) == canonical(egraph, node));
        total += at.map_or(0.0, |at| prices[&class.id][at]);
    }
    total
}

impl Problem {
    fn new(egraph: &Egg, roots: &[Id], prices: &BTreeMap<Id, Vec<f64>>) -> Self {
        let ids = reachable(egraph, roots);
        let number: BTreeMap<Id, usize> = ids.iter().enumerate().map(|(n, &id)| (id, n)).collect();
        let nodes = ids.iter().map(|id| {
            let own = egraph[*id].nodes.iter().zip(&prices[id]);
            own.map(|(node, &price)| {
                let mut children: Vec<usize> =
                    node.children.iter().map(|&c| number[&egraph.find(c)]).collect();
                children.sort_unstable();
                children.dedup();
                (price, children)
            })
            .collect()
        });
        let nodes = nodes.collect();
        let roots = roots.iter().map(|&r| number[&egraph.find(r)]).collect();
        Self { ids, nodes, roots }
    }

    /// The input graph's picks; classes it does not have get their bottom-up pick.
    fn input(&self, egraph: &Egg, origin: &[(Id, ENode)]) -> Vec<usize> {
        let mut picks = self.by_tree_cost();
        let number: BTreeMap<Id, usize> = self.ids.iter().enumerate().map(|(n, &id)| (id, n)).collect();
        let mut seen = BTreeSet::new();
        for (id, node) in origin {
            let id = egraph.find(*id);
            let node = canonical(egraph, node);
            // Two values of one class: the first one has no operand behind the second, so no cycle arises.
            if let (Some(&n), true) = (number.get(&id), seen.insert(id))
                && let Some(at) = egraph[id].nodes.iter().position(|x| canonical(egraph, x) == node)
            {
                picks[n] = at;
            }
        }
        picks
    }

    /// For each class the node with the cheapest tree; what is shared is counted again.
    fn by_tree_cost(&self) -> Vec<usize> {
        let mut best = vec![(f64::INFINITY, 0); self.nodes.len()];
        loop {
            let mut changed = false;
            for (class, nodes) in self.nodes.iter().enumerate() {
                for (n, (price, children)) in nodes.iter().enumerate() {
                    let cost = price + children.iter().map(|&c| best[c].0).sum::<f64>();
                    // Relative, so that sums that no longer grow by a price come to rest.
                    if cost < best[class].0 * (1.0 - 1e-12) {
                        best[class] = (cost, n);
                        changed = true;
                    }
                }
            }
            if !changed {
                return best.into_iter().map(|b| b.1).collect();
            }
        }
    }

    /// For each class the node whose whole sub-graph is cheapest, each class in it counted once.
    fn bottom_up(&self) -> Vec<usize> {
        if self.nodes.len() > MAX_SET_CLASSES {
            return self.by_tree_cost();
        }
        let mut sets = SetCosts::new(self);
        // Operands mostly come first in `ids`, so few rounds suffice.
        for _ in 0..MAX_ROUNDS {
            let mut changed = false;
            for class in 0..self.nodes.len() {
                changed |= sets.update(self, class);
            }
            if !changed {
                break;
            }
        }
        sets.best.iter().map(|b| b.as_ref().map_or(0, |b| b.pick)).collect()
    }

    /// Cost of a choice; `None` when it is cyclic.
    fn cost(&self, picks: &[usize]) -> Option<f64> {
        let mut state = vec![0u8; picks.len()];
        let mut total = 0.0;
        let mut stack: Vec<(usize, usize)> = Vec::new();
        for &root in &self.roots {
            stack.push((root, 0));
            while let Some((class, next)) = stack.pop() {
                if next == 0 {
                    match state[class] {
                        0 => state[class] = 1,
                        1 => return None,
                        _ => continue,
                    }
                }
                let (price, children) = &self.nodes[class][picks[class]];
                if let Some(&child) = children.get(next) {
                    stack.extend([(class, next + 1), (child, 0)]);
                } else {
                    state[class] = 2;
                    total += price;
                }
            }
        }
        Some(total)
    }

    /// Local search; the result is acyclic if the start is.
    fn improve(&self, picks: Vec<usize>, cost: f64) -> (f64, Vec<usize>) {
        let mut search = Search::new(self, picks, cost);
        for _ in 0..MAX_ROUNDS {
            let mut improved = false;
            // Consumers first: a good form there often frees what its operands were.
            for class in (0..self.nodes.len()).rev() {
                if self.nodes[class].len() > 1 && search.refs[class] > 0 {
                    improved |= search.improve_class(class);
                }
            }
            if !improved {
                break;
            }
        }
        match self.cost(&search.picks) {
            Some(cost) => (cost, search.picks),
            None => (f64::INFINITY, search.picks),
        }
    }
}

fn canonical(egraph: &Egg, node: &ENode) -> ENode {
    ENode { head: node.head, children: node.children.iter().map(|&c| egraph.find(c)).collect() }
}

/// Classes reachable from the roots through any e-node, operands before consumers where there is no cycle.
fn reachable(egraph: &Egg, roots: &[Id]) -> Vec<Id> {
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    for &root in roots {
        let mut stack = vec![(egraph.find(root), false)];
        while let Some((id, expanded)) = stack.pop() {
            if expanded {
                order.push(id);
            } else if seen.insert(id) {
                stack.push((id, true));
                let children = egraph[id].nodes.iter().flat_map(|n| &n.children);
                stack.extend(children.map(|&c| (egraph.find(c), false)));
            }
        }
    }
    order
}

/// The cheapest sub-graph found for a class.
struct SetCost {
    cost: f64,
    pick: usize,
    members: Vec<u64>,
}

struct SetCosts {
    best: Vec<Option<SetCost>>,
    words: usize,
}

impl SetCosts {
    fn new(problem: &Problem) -> Self {
        let n = problem.nodes.len();
        Self { best: (0..n).map(|_| None).collect(), words: n.div_ceil(64) }
    }

    /// Tries every node of a class; says whether a cheaper one was found.
    fn update(&mut self, problem: &Problem, class: usize) -> bool {
        let mut changed = false;
        for pick in 0..problem.nodes[class].len() {
            let Some(found) = self.candidate(problem, class, pick) else { continue };
            if self.best[class].as_ref().is_none_or(|b| found.cost < b.cost - EPSILON_US) {
                self.best[class] = Some(found);
                changed = true;
            }
        }
        changed
    }

    fn candidate(&self, problem: &Problem, class: usize, pick: usize) -> Option<SetCost> {
        let (price, children) = &problem.nodes[class][pick];
        let mut members = vec![0u64; self.words];
        for &child in children {
            let set = &self.best[child].as_ref()?.members;
            members.iter_mut().zip(set).for_each(|(m, s)| *m |= s);
        }
        let bit = 1u64 << (class % 64);
        // The class itself among its operands: a cycle.
        if members[class / 64] & bit != 0 {
            return None;
        }
        let mut cost = *price;
        for (w, word) in members.iter().enumerate() {
            let mut word = *word;
            while word != 0 {
                let member = w * 64 + word.trailing_zeros() as usize;
                let pick = self.best[member].as_ref()?.pick;
                cost += problem.nodes[member][pick].0;
                word &= word - 1;
            }
        }
        members[class / 64] |= bit;
        Some(SetCost { cost, pick, members })
    }
}

/// Local search state: a choice with how many live consumers (and roots) each class has.
struct Search<'a> {
    problem: &'a Problem,
    picks: Vec<usize>,
    refs: Vec<u32>,
    cost: f64,
    /// Changes of `refs` since the last commit, to be undone.
    undo: Vec<(usize, bool)>,
    steps: usize,
    /// Round in which `reaches` last saw a class.
    seen: Vec<u32>,
    round: u32,
}

impl<'a> Search<'a> {
    fn new(problem: &'a Problem, picks: Vec<usize>, cost: f64) -> Self {
        let refs = vec![0; picks.len()];
        let seen = vec![0; picks.len()];
        let mut search = Self { problem, picks, refs, cost, undo: Vec::new(), steps: 0, seen, round: 0 };
        for &root in &problem.roots {
            search.acquire(root);
        }
        search.undo.clear();
        search
    }

    /// Adds a reference to a class; returns what becomes alive costs.
    fn acquire(&mut self, class: usize) -> f64 {
        let mut cost = 0.0;
        let mut todo = vec![class];
        while let Some(class) = todo.pop() {
            self.refs[class] += 1;
            self.undo.push((class, true));
            if self.refs[class] == 1 {
                let (price, children) = &self.problem.nodes[class][self.picks[class]];
                cost += price;
                todo.extend(children);
            }
        }
        cost
    }

    /// Removes a reference; returns what dies saves.
    fn release(&mut self, class: usize) -> f64 {
        let mut saved = 0.0;
        let mut todo = vec![class];
        while let Some(class) = todo.pop() {
            self.refs[class] = self.refs[class].saturating_sub(1);
            self.undo.push((class, false));
            if self.refs[class] == 0 {
                let (price, children) = &self.problem.nodes[class][self.picks[class]];
                saved += price;
                todo.extend(children);
            }
        }
        saved
    }

    fn improve_class(&mut self, class: usize) -> bool {
        let mut improved = false;
        for pick in 0..self.problem.nodes[class].len() {
            if pick != self.picks[class] && self.try_switch(class, pick) {
                improved = true;
            }
        }
        improved
    }

    /// Switches a class to another node if that is cheaper and stays acyclic.
    fn try_switch(&mut self, class: usize, pick: usize) -> bool {
        let old = self.picks[class];
        let mut delta = self.problem.nodes[class][pick].0 - self.problem.nodes[class][old].0;
        let children = &self.problem.nodes[class][pick].1;
        // New operands first: what both forms share must not die in between.
        for &child in children {
            delta += self.acquire(child);
        }
        for &child in &self.problem.nodes[class][old].1 {
            delta -= self.release(child);
        }
        // The dear question last.
        if delta < -EPSILON_US && !self.reaches(children, class) {
            self.picks[class] = pick;
            self.cost += delta;
            self.undo.clear();
            return true;
        }
        for (class, added) in std::mem::take(&mut self.undo).into_iter().rev() {
            self.refs[class] = if added { self.refs[class] - 1 } else { self.refs[class] + 1 };
        }
        false
    }

    /// Whether `target` is needed by any of `from` under the present choice; also when that is not known
    /// because the steps are used up.
    fn reaches(&mut self, from: &[usize], target: usize) -> bool {
        self.round += 1;
        let mut todo = from.to_vec();
        while let Some(class) = todo.pop() {
            if class == target || self.steps >= MAX_SEARCH_STEPS {
                return true;
            }
            if std::mem::replace(&mut self.seen[class], self.round) != self.round {
                self.steps += 1;
                todo.extend(&self.problem.nodes[class][self.picks[class]].1);
            }
        }
        false
    }
}
