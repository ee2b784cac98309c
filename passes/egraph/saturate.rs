//! Applies rules until nothing changes or a limit is reached. Every limit is a count, so the result does not
//! depend on the machine.

use super::analysis::Egg;
use super::matcher::{Index, Match, find};
use super::pattern::Rule;
use super::plan::{add, plan};
use std::collections::BTreeMap;

/// Limits of saturation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rounds per phase.
    pub rounds: usize,
    /// E-nodes: saturation stops when there are more.
    pub e_nodes: usize,
    /// E-nodes may grow to at most this multiple of what a phase starts with, if that is less.
    pub growth: usize,
    /// Applications of one rule in one round.
    pub applications_per_rule: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { rounds: 12, e_nodes: 60_000, growth: 8, applications_per_rule: 2_000 }
    }
}

/// Why saturation ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stop {
    /// No rule changed anything any more.
    #[default]
    Saturated,
    Rounds,
    ENodes,
    Fuel,
    /// A rule claimed that two different types are equal.
    Conflict,
}

/// What saturation did.
#[derive(Clone, Debug, Default)]
pub struct Saturation {
    pub stop: Stop,
    /// Applications that changed the e-graph, by rule.
    pub fired: BTreeMap<String, u64>,
}

/// Fewest e-nodes the growth limit allows, so that small graphs have room.
const MIN_ALLOWED_E_NODES: usize = 4_000;

/// Saturates phase by phase; a phase runs the rules of all phases up to it. `spend` is asked before each
/// application and says whether there is fuel left.
pub fn saturate(
    egraph: &mut Egg,
    rules: &[&Rule],
    limits: &Limits,
    spend: &mut dyn FnMut() -> bool,
) -> Saturation {
    let mut out = Saturation::default();
    let last = rules.iter().map(|r| r.phase).max().unwrap_or(1);
    let mut exploded = false;
    for phase in 1..=last {
        // Rules that ran into the limit do not get another phase's room.
        let takes_part = |r: &&Rule| r.phase == phase || (r.phase < phase && !exploded);
        let active: Vec<&Rule> = rules.iter().copied().filter(takes_part).collect();
        let room = (egraph.total_number_of_nodes() * limits.growth).max(MIN_ALLOWED_E_NODES);
        let stop = run_phase(egraph, &active, limits, room.min(limits.e_nodes), spend, &mut out.fired);
        match stop {
            Stop::Saturated => {}
            Stop::Fuel | Stop::Conflict => return Saturation { stop, ..out },
            Stop::Rounds | Stop::ENodes => {
                exploded = true;
                out.stop = stop;
            }
        }
    }
    out
}

/// Rounds of one phase until nothing changes or a limit is reached.
fn run_phase(
    egraph: &mut Egg,
    rules: &[&Rule],
    limits: &Limits,
    room: usize,
    spend: &mut dyn FnMut() -> bool,
    fired: &mut BTreeMap<String, u64>,
) -> Stop {
    for _ in 0..limits.rounds {
        let (changed, stop) = round(egraph, rules, limits, spend, fired);
        if let Some(stop) = stop {
            return stop;
        }
        if !changed {
            return Stop::Saturated;
        }
        if egraph.total_number_of_nodes() > room {
            return Stop::ENodes;
        }
    }
    Stop::Rounds
}

/// One round: match everything, then apply everything. Says whether the e-graph changed.
fn round(
    egraph: &mut Egg,
    rules: &[&Rule],
    limits: &Limits,
    spend: &mut dyn FnMut() -> bool,
    fired: &mut BTreeMap<String, u64>,
) -> (bool, Option<Stop>) {
    let index = Index::new(egraph);
    let found: Vec<(&Rule, Vec<Match>)> =
        rules.iter().map(|rule| (*rule, find(egraph, &index, rule))).filter(|(_, m)| !m.is_empty()).collect();
    let mut changed = false;
    for (rule, matches) in found {
        let mut n = 0;
        for m in matches {
            if n >= limits.applications_per_rule {
                break;
            }
            match apply(egraph, rule, &m, spend) {
                Applied::Nothing => {}
                Applied::Changed => n += 1,
                Applied::NoFuel => {
                    egraph.rebuild();
                    count(fired, rule, n);
                    return (true, Some(Stop::Fuel));
                }
            }
        }
        changed |= n > 0;
        count(fired, rule, n);
    }
    egraph.rebuild();
    let stop = (egraph.analysis.conflicts > 0).then_some(Stop::Conflict);
    (changed, stop)
}

fn count(fired: &mut BTreeMap<String, u64>, rule: &Rule, n: usize) {
    if n > 0 {
        *fired.entry(rule.name.clone()).or_default() += n as u64;
    }
}

enum Applied {
    Nothing,
    Changed,
    NoFuel,
}

fn apply(egraph: &mut Egg, rule: &Rule, found: &Match, spend: &mut dyn FnMut() -> bool) -> Applied {
    let Some(plan) = plan(egraph, rule, found) else { return Applied::Nothing };
    if plan.is_known(egraph, found.root) {
        return Applied::Nothing;
    }
    if !spend() {
        return Applied::NoFuel;
    }
    let id = add(egraph, &plan);
    if egraph.union(found.root, id) { Applied::Changed } else { Applied::Nothing }
}
