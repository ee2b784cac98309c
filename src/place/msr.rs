//! The MSR instances (`msr-dnn-partitioning/compact-v1`): reading, and writing solutions in the form their
//! evaluators read. Devices are numbered CPUs first, then accelerators.

use crate::answer::{Answer, Objective};
use crate::error::PlaceError;
use crate::problem::{CommModel, Device, MAX_DEVICES, MAX_TASKS, Problem, Task, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An instance with nodes renumbered from zero in the order of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// What the file says it is from.
    pub name: String,
    /// Number of accelerators.
    pub accelerators: usize,
    /// Number of CPUs.
    pub cpus: usize,
    /// Memory of each accelerator in bytes.
    pub memory_bytes: f64,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// Edges between node indices, without repeats.
    pub edges: Vec<(usize, usize)>,
}

/// One node; times and costs in the file's unit.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Node {
    /// Number in the file.
    pub id: u64,
    /// Name for people.
    #[serde(default)]
    pub name: String,
    /// Time on a CPU.
    pub cpu: f64,
    /// Time on an accelerator; `None` when unsupported.
    pub acc: Option<f64>,
    /// Resident bytes.
    pub size: f64,
    /// Colocation class; `None` is alone in its own.
    pub color: Option<u32>,
    /// Cost of moving the node's output over an accelerator's border.
    #[serde(default)]
    pub out_cost: f64,
}

#[derive(Deserialize)]
struct File {
    format: String,
    #[serde(default)]
    source: String,
    accelerators: usize,
    cpus: usize,
    acc_mem_bytes: f64,
    nodes: Vec<Node>,
    edges: Vec<(u64, u64)>,
}

/// Reads an instance.
///
/// # Errors
/// `P006` for text that is not of the format or contradicts itself, `P003` for exceeded limits.
pub fn read(text: &str) -> Result<Instance, PlaceError> {
    let file: File = serde_json::from_str(text)
        .map_err(|e| PlaceError::msr(format!("line {}, column {}", e.line(), e.column()), e.to_string()))?;
    if !file.format.starts_with("msr-dnn-partitioning/compact") {
        return Err(PlaceError::msr("format", format!("`{}` is another format", file.format)));
    }
    if file.nodes.len() > MAX_TASKS || file.accelerators.saturating_add(file.cpus) > MAX_DEVICES {
        return Err(PlaceError::limit(
            "instance",
            format!("at most {MAX_TASKS} nodes, {MAX_DEVICES} devices"),
        ));
    }
    if file.accelerators + file.cpus == 0 {
        return Err(PlaceError::msr("accelerators", "there is no device"));
    }
    let bad = |x: f64| !x.is_finite() || x < 0.0;
    for node in &file.nodes {
        if [node.cpu, node.acc.unwrap_or(0.0), node.size, node.out_cost].into_iter().any(bad) {
            return Err(PlaceError::msr(
                format!("node {}", node.id),
                "its numbers must be finite and not negative",
            ));
        }
    }
    let index: BTreeMap<u64, usize> = file.nodes.iter().enumerate().map(|(i, n)| (n.id, i)).collect();
    if index.len() != file.nodes.len() {
        return Err(PlaceError::msr("nodes", "an id is used twice"));
    }
    let mut edges = Vec::with_capacity(file.edges.len());
    for (u, v) in &file.edges {
        match (index.get(u), index.get(v)) {
            (Some(&a), Some(&b)) if a != b => edges.push((a, b)),
            _ => return Err(PlaceError::msr(format!("edge {u} -> {v}"), "it names no two nodes")),
        }
    }
    edges.sort_unstable();
    edges.dedup();
    let (accelerators, cpus, memory_bytes) = (file.accelerators, file.cpus, file.acc_mem_bytes);
    Ok(Instance { name: file.source, accelerators, cpus, memory_bytes, nodes: file.nodes, edges })
}

#[derive(Serialize)]
struct SolutionFile<'a> {
    objective: &'a str,
    value: f64,
    lower_bound: f64,
    bound_kind: &'a str,
    status: &'a str,
    solver: &'a str,
    device_of_node: BTreeMap<String, usize>,
}

impl Instance {
    /// The max-load problem: accelerators pay for their border, CPUs never, node ids are the task names.
    ///
    /// # Errors
    /// What [`Problem::validate`] says.
    pub fn to_problem(&self) -> Result<Problem, PlaceError> {
        let k = self.cpus + self.accelerators;
        let is_cpu = |d: usize| d < self.cpus;
        let device = |d: usize| Device {
            name: if is_cpu(d) { format!("cpu{d}") } else { format!("acc{}", d - self.cpus) },
            memory_bytes: if is_cpu(d) { None } else { Some(self.memory_bytes.max(0.0) as u64) },
        };
        let task = |node: &Node| Task {
            name: node.id.to_string(),
            time_us: (0..k).map(|d| if is_cpu(d) { Some(node.cpu) } else { node.acc }).collect(),
            memory_bytes: node.size.ceil() as u64,
            colocate: node.color,
            pin: None,
        };
        let mut consumers: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        self.edges.iter().for_each(|&(u, v)| consumers[u].push(v));
        let (mut tensors, mut cost_us) = (Vec::new(), Vec::new());
        for (u, consumers) in consumers.into_iter().enumerate().filter(|(_, c)| !c.is_empty()) {
            let name = self.nodes[u].id.to_string();
            tensors.push(Tensor { name, bytes: 0, producer: u, consumers });
            cost_us.push(self.nodes[u].out_cost);
        }
        let problem = Problem {
            name: self.name.clone(),
            devices: (0..k).map(device).collect(),
            tasks: self.nodes.iter().map(task).collect(),
            tensors,
            links: vec![vec![None; k]; k],
            comm: CommModel::Endpoint { cost_us, charged: (0..k).map(|d| !is_cpu(d)).collect() },
        };
        problem.validate()?;
        Ok(problem)
    }

    /// Writes a solution in the form the public evaluators read.
    ///
    /// # Errors
    /// `P006` when a number cannot be written as JSON.
    pub fn write_solution(&self, objective: Objective, answer: &Answer) -> Result<String, PlaceError> {
        let file = SolutionFile {
            objective: if objective == Objective::Latency { "latency" } else { "max_load" },
            value: answer.value,
            lower_bound: answer.lower_bound,
            bound_kind: answer.bound_kind,
            status: answer.status.word(),
            solver: &answer.solver,
            device_of_node: self
                .nodes
                .iter()
                .zip(&answer.device_of_task)
                .map(|(node, &d)| (node.id.to_string(), d))
                .collect(),
        };
        serde_json::to_string_pretty(&file).map_err(|e| PlaceError::msr("solution", e.to_string()))
    }
}
