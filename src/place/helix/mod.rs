//! Layers of a model on unlike GPUs: the placement programs of Helix (Mei et al., ASPLOS 2025), with the flow of
//! tokens to be maximised.
//!
//! Stages that fit the kinds of nodes are found first, then an annealing over the spans of the single nodes takes
//! the links in. `bounds` gives the certificate, `check` scores a placement from the program's rows alone.

mod bounds;
pub mod check;
mod flow;
mod model;
mod search;
mod stages;

pub use bounds::coverage;
pub use model::{Cluster, End, Link, Node, Span};

use crate::answer::{Answer, Limits, Status};
use crate::bottleneck::in_parallel;
use crate::error::PlaceError;
use crate::jobs::Key;
use crate::lp;
use crate::schedule::Schedule;
use serde::Serialize;
use std::collections::BTreeMap;

/// Work counted per link and node of one flow.
const WORK_PER_ITEM: u64 = 4;
/// Annealing chains; a constant, so that threads do not change the answer.
const CHAINS: u64 = 4;

/// A placement, its flow and what is proven about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// First layer and number of layers of each node.
    pub span: Vec<Span>,
    /// Tokens per second.
    pub flow: f64,
    /// No placement has a larger flow.
    pub upper_bound: f64,
    /// Which argument proves the bound.
    pub bound_kind: &'static str,
    /// Elementary steps spent.
    pub work_used: u64,
}

/// Places the layers of a cluster.
///
/// # Errors
/// `P005` when no placement with a flow was found.
pub fn solve(cluster: &Cluster, limits: &Limits) -> Result<Placement, PlaceError> {
    let coverage = coverage(cluster);
    let mut starts = stages::spans(cluster, coverage, limits.seed);
    let mut promise = search::Promise::default();
    for group in &mut starts {
        group.sort_by_cached_key(|(aim, span)| std::cmp::Reverse(Key(promise.of(cluster, span, *aim) * aim)));
    }
    let per_flow = (cluster.links.len() + cluster.nodes.len()).max(1) as u64 * WORK_PER_ITEM;
    let flows = (limits.work / per_flow / CHAINS).max(1);
    let layers = if limits.exact { bounds::layers(cluster, 0.0, coverage) } else { coverage };
    let (upper_bound, bound_kind) =
        if layers < coverage { (layers, "layers") } else { (coverage, "coverage") };
    let enough = upper_bound * (1.0 - 1e-7);
    let runs: Vec<(search::Run, &Vec<Span>)> = (0..CHAINS)
        .filter_map(|i| {
            let (this, other) = (&starts[i as usize % 2], &starts[1 - i as usize % 2]);
            let (aim, start) = this.get(i as usize / 2).or_else(|| other.get(i as usize))?;
            Some((search::Run { seed: limits.seed + i, flows, aim: *aim, enough }, start))
        })
        .collect();
    let mut best: Option<(f64, Vec<Span>)> = None;
    let found = in_parallel(&runs, limits.threads, |(run, start)| search::anneal(cluster, start, run));
    for (value, span) in found {
        if best.as_ref().is_none_or(|b| value > b.0) {
            best = Some((value, span));
        }
    }
    let nothing = || PlaceError::not_found("no placement lets a token through from the source to the sink");
    let (flow, span) = best.filter(|b| b.0 > 0.0).ok_or_else(nothing)?;
    let upper_bound = upper_bound.max(flow);
    Ok(Placement { span, flow, upper_bound, bound_kind, work_used: flows * per_flow * CHAINS })
}

#[derive(Serialize)]
struct SolutionFile {
    start: BTreeMap<String, usize>,
    hold: BTreeMap<String, usize>,
    flow: f64,
    upper_bound: f64,
    bound_kind: &'static str,
}

/// Solves the program in a text and writes the solution as JSON: first layer and number of layers per node.
/// The answer's value is the flow, to be maximised, and its bound is from above.
///
/// # Errors
/// What the reader and [`solve`] say.
pub fn solve_text(input: &str, limits: &Limits) -> Result<(Answer, String), PlaceError> {
    let cluster = Cluster::from_program(&lp::read(input)?)?;
    let placement = solve(&cluster, limits)?;
    let used = || cluster.nodes.iter().zip(&placement.span).filter(|(_, s)| s.1 > 0);
    let file = SolutionFile {
        start: used().map(|(n, s)| (n.name.clone(), s.0)).collect(),
        hold: used().map(|(n, s)| (n.name.clone(), s.1)).collect(),
        flow: placement.flow,
        upper_bound: placement.upper_bound,
        bound_kind: placement.bound_kind,
    };
    let text =
        serde_json::to_string_pretty(&file).map_err(|e| PlaceError::helix("solution", e.to_string()))?;
    let gap = ((placement.upper_bound - placement.flow) / placement.upper_bound).max(0.0);
    let answer = Answer {
        device_of_task: Vec::new(),
        schedule: Schedule::default(),
        value: placement.flow,
        lower_bound: placement.upper_bound,
        bound_kind: placement.bound_kind,
        gap,
        status: if gap <= 1e-9 { Status::Optimal } else { Status::Feasible },
        solver: "stages and annealing".into(),
        work_used: placement.work_used,
    };
    Ok((answer, text))
}
