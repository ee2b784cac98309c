//! Pipeline, tensor and data parallelism with recomputation for a chain-like model: the TMPC problems of Piper
//! (Tarnawski et al., NeurIPS 2021). The value is the time per sample of the slowest stage, in seconds.

pub mod check;
mod equal;
mod menu;
mod model;
mod stages;

pub use model::{Choice, Model, Node, read};
pub use stages::{Part, Variant};

use crate::answer::{Answer, Bound, Status, relative_gap};
use crate::error::PlaceError;
use crate::schedule::Schedule;
use serde::Serialize;
use std::collections::BTreeMap;

/// What may be changed about a problem before it is solved.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Options {
    /// What is allowed.
    pub variant: Variant,
    /// Another number of devices.
    pub devices: Option<usize>,
    /// Another memory per device, bytes.
    pub memory_bytes: Option<f64>,
    /// Another bandwidth, bytes per second.
    pub bandwidth: Option<f64>,
}

/// A plan with its time and what is proven about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The stages in their order.
    pub parts: Vec<Part>,
    /// Seconds per sample.
    pub seconds: f64,
    /// No plan of the variant is faster.
    pub lower_bound: f64,
    /// Which argument proves the bound.
    pub bound_kind: &'static str,
}

/// The fastest plan.
///
/// # Errors
/// `P009` for numbers that contradict each other, `P004` when no plan fits the memory.
pub fn solve(model: &Model, variant: Variant) -> Result<Plan, PlaceError> {
    model.validate()?;
    let mut model = model.clone();
    if variant.no_recompute {
        without_recomputing(&mut model);
    }
    let nothing = || PlaceError::impossible("memory", "no choice of stages and degrees fits the devices");
    if variant.equal_split {
        let (seconds, parts) = equal::best(&model, variant).ok_or_else(nothing)?;
        // All equal splits are tried.
        return Ok(Plan { parts, seconds, lower_bound: seconds, bound_kind: "enumeration" });
    }
    let mut sets = stages::Sets::new(&model, variant);
    let (seconds, parts) = stages::best(&model, &mut sets, variant, false).ok_or_else(nothing)?;
    // With more than two ways the last change in part is no bound.
    let pairs = model.nodes.iter().all(|n| n.menus.values().all(|m| m.len() <= 2));
    let bound = if sets.complete && pairs {
        let mut sets = stages::Sets::new(&model, variant);
        let (value, _) = stages::best(&model, &mut sets, variant, true).ok_or_else(nothing)?;
        Bound { value: value.min(seconds), kind: "stages, memory in parts" }
    } else {
        Bound { value: work_bound(&model), kind: "work" }
    };
    Ok(Plan { parts, seconds, lower_bound: bound.value, bound_kind: bound.kind })
}

/// Keeps the first way of each menu that does not recompute; by convention the first is the plain one.
fn without_recomputing(model: &mut Model) {
    for menu in model.nodes.iter_mut().flat_map(|n| n.menus.values_mut()) {
        let plain = menu.iter().position(|c| c.id == "vanilla").unwrap_or(0);
        if plain < menu.len() {
            *menu = vec![menu.swap_remove(plain)];
        }
    }
}

/// All work at the least device seconds, spread over all devices.
fn work_bound(model: &Model) -> f64 {
    let least = |n: &Node| {
        let ways = n.menus.iter().flat_map(|(t, menu)| menu.iter().map(move |c| *t as f64 * c.seconds));
        ways.fold(f64::INFINITY, f64::min)
    };
    model.nodes.iter().map(least).filter(|x| x.is_finite()).sum::<f64>() / model.devices as f64
        * (1.0 - 1e-12)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SolutionStage {
    nodes: Vec<i64>,
    data_parallel_degree: usize,
    tensor_parallel_degree: usize,
    #[serde(rename = "TMPCids")]
    choices: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct SolutionFile {
    value: f64,
    lower_bound: f64,
    bound_kind: &'static str,
    stages: Vec<SolutionStage>,
}

/// Solves the problem in a text and writes the plan as JSON: nodes, degrees and the chosen way of each node per
/// stage. The answer's value is in seconds per sample.
///
/// # Errors
/// What the reader and [`solve`] say.
pub fn solve_text(input: &str, options: &Options) -> Result<(Answer, String), PlaceError> {
    let mut model = read(input)?;
    model.devices = options.devices.unwrap_or(model.devices);
    model.memory_bytes = options.memory_bytes.unwrap_or(model.memory_bytes);
    model.bandwidth = options.bandwidth.unwrap_or(model.bandwidth);
    let plan = solve(&model, options.variant)?;
    let mut shown = model.clone();
    if options.variant.no_recompute {
        without_recomputing(&mut shown);
    }
    let stage = |part: &Part| SolutionStage {
        nodes: part.nodes.iter().map(|&v| shown.nodes[v].id).collect(),
        data_parallel_degree: part.d,
        tensor_parallel_degree: part.t,
        choices: part
            .nodes
            .iter()
            .zip(&part.choice)
            .filter_map(|(&v, &l)| {
                let node = &shown.nodes[v];
                Some((node.id.to_string(), node.menus.get(&part.t)?.get(l)?.id.clone()))
            })
            .collect(),
    };
    let file = SolutionFile {
        value: plan.seconds,
        lower_bound: plan.lower_bound,
        bound_kind: plan.bound_kind,
        stages: plan.parts.iter().map(stage).collect(),
    };
    let text =
        serde_json::to_string_pretty(&file).map_err(|e| PlaceError::tmpc("solution", e.to_string()))?;
    let gap = relative_gap(plan.seconds, plan.lower_bound);
    let answer = Answer {
        device_of_task: Vec::new(),
        schedule: Schedule::default(),
        value: plan.seconds,
        lower_bound: plan.lower_bound,
        bound_kind: plan.bound_kind,
        gap,
        status: if gap <= 1e-9 { Status::Optimal } else { Status::Feasible },
        solver: if options.variant.equal_split { "equal split".into() } else { "stages".into() },
        work_used: 0,
    };
    Ok((answer, text))
}
