//! The TMPC problems of Piper (Tarnawski et al., NeurIPS 2021): a graph of layers, and for each layer and degree
//! of tensor parallelism a menu of ways to run it, with time, memory and communication.

use crate::error::PlaceError;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Most nodes.
pub(crate) const MAX_NODES: usize = 4096;
/// Most devices.
pub(crate) const MAX_DEVICES: usize = 10_000;

/// One way to run a node on `t` devices.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Its name in the menu.
    pub id: String,
    /// Seconds per sample, forward and backward.
    pub seconds: f64,
    /// Weights that data parallelism has to bring in line, bytes.
    pub parameter_bytes: f64,
    /// Memory for each sample in flight, bytes.
    pub sample_bytes: f64,
    /// Memory in any case, bytes.
    pub fixed_bytes: f64,
    /// Bytes to add to an edge that leaves the stage, by the node at its other end.
    pub sync_bytes: BTreeMap<usize, f64>,
}

/// A layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Number in the file.
    pub id: i64,
    /// Name for people.
    pub name: String,
    /// Menus by degree of tensor parallelism.
    pub menus: BTreeMap<usize, Vec<Choice>>,
}

/// The problem, nodes renumbered from zero in the order of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Devices there are.
    pub devices: usize,
    /// Memory of each, bytes.
    pub memory_bytes: f64,
    /// Bytes per second of each device to the outside.
    pub bandwidth: f64,
    /// Samples in a batch; the degree of data parallelism divides it.
    pub batch: usize,
    /// The layers.
    pub nodes: Vec<Node>,
    /// From, to, bytes.
    pub edges: Vec<(usize, usize, f64)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    max_devices: usize,
    max_memory_per_device: f64,
    bandwidth: f64,
    mbs_in_batch: usize,
    nodes: Vec<FileNode>,
    edges: Vec<FileEdge>,
}

#[derive(Deserialize)]
struct FileNode {
    id: i64,
    #[serde(default)]
    name: String,
    #[serde(rename = "TMPCs")]
    menus: BTreeMap<String, Vec<FileChoice>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileChoice {
    id: String,
    time_per_sample: f64,
    parameter_size: f64,
    memory_usage_a: f64,
    memory_usage_b: f64,
    sync_time_fw: BTreeMap<String, f64>,
    sync_time_bw: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileEdge {
    source_id: i64,
    dest_id: i64,
    communication_cost: f64,
}

/// Reads a problem.
///
/// # Errors
/// `P009` for text that is not of the form or contradicts itself, `P003` for exceeded limits.
pub fn read(text: &str) -> Result<Model, PlaceError> {
    let file: File = serde_json::from_str(text)
        .map_err(|e| PlaceError::tmpc(format!("line {}, column {}", e.line(), e.column()), e.to_string()))?;
    if file.nodes.len() > MAX_NODES || file.max_devices > MAX_DEVICES {
        let message = format!("at most {MAX_NODES} nodes and {MAX_DEVICES} devices are taken");
        return Err(PlaceError::limit("problem", message));
    }
    let index: BTreeMap<i64, usize> = file.nodes.iter().enumerate().map(|(i, n)| (n.id, i)).collect();
    if index.len() != file.nodes.len() || file.nodes.is_empty() {
        return Err(PlaceError::tmpc("nodes", "there are none, or an id is used twice"));
    }
    let nodes = file.nodes.into_iter().map(|n| node(n, &index)).collect::<Result<Vec<Node>, PlaceError>>()?;
    let mut edges = Vec::with_capacity(file.edges.len());
    for e in &file.edges {
        match (index.get(&e.source_id), index.get(&e.dest_id)) {
            (Some(&u), Some(&v)) if u != v => edges.push((u, v, amount("edges", e.communication_cost)?)),
            _ => {
                let place = format!("edge {} -> {}", e.source_id, e.dest_id);
                return Err(PlaceError::tmpc(place, "it names no two nodes"));
            }
        }
    }
    let model = Model {
        devices: file.max_devices,
        memory_bytes: amount("maxMemoryPerDevice", file.max_memory_per_device)?,
        bandwidth: amount("bandwidth", file.bandwidth)?,
        batch: file.mbs_in_batch,
        nodes,
        edges,
    };
    model.validate()?;
    Ok(model)
}

fn node(file: FileNode, index: &BTreeMap<i64, usize>) -> Result<Node, PlaceError> {
    let place = format!("node {}", file.id);
    let mut menus = BTreeMap::new();
    for (degree, list) in file.menus {
        let degree = degree.parse::<usize>().ok().filter(|t| (1..=MAX_DEVICES).contains(t));
        let degree =
            degree.ok_or_else(|| PlaceError::tmpc(&place, "a key of TMPCs is no number of devices"))?;
        let list = list.into_iter().map(|c| choice(c, &place, index)).collect::<Result<Vec<Choice>, _>>()?;
        menus.insert(degree, list);
    }
    Ok(Node { id: file.id, name: file.name, menus })
}

fn choice(file: FileChoice, place: &str, index: &BTreeMap<i64, usize>) -> Result<Choice, PlaceError> {
    let mut sync_bytes = BTreeMap::new();
    for (other, bytes) in file.sync_time_fw.iter().chain(&file.sync_time_bw) {
        let other = other.parse().ok().and_then(|id: i64| index.get(&id));
        let other = other.ok_or_else(|| PlaceError::tmpc(place, "a sync time names no node"))?;
        *sync_bytes.entry(*other).or_insert(0.0) += amount(place, *bytes)?;
    }
    Ok(Choice {
        id: file.id,
        seconds: amount(place, file.time_per_sample)?,
        parameter_bytes: amount(place, file.parameter_size)?,
        sample_bytes: amount(place, file.memory_usage_a)?,
        fixed_bytes: amount(place, file.memory_usage_b)?,
        sync_bytes,
    })
}

fn amount(place: &str, x: f64) -> Result<f64, PlaceError> {
    if x.is_finite() && x >= 0.0 {
        return Ok(x);
    }
    Err(PlaceError::tmpc(place, "its numbers must be finite and not negative"))
}

impl Model {
    /// Checks what the solvers rely on, also after numbers were changed.
    ///
    /// # Errors
    /// `P009` for no device, no batch, no bandwidth or a cycle.
    pub fn validate(&self) -> Result<(), PlaceError> {
        if self.devices == 0 || self.devices > MAX_DEVICES || self.batch == 0 || self.bandwidth <= 0.0 {
            return Err(PlaceError::tmpc("problem", "devices, batch and bandwidth must be above zero"));
        }
        if self.order().len() < self.nodes.len() {
            return Err(PlaceError::tmpc("edges", "they form a cycle"));
        }
        Ok(())
    }

    /// A topological order; shorter than the nodes when there is a cycle.
    pub(crate) fn order(&self) -> Vec<usize> {
        let n = self.nodes.len();
        let (mut waiting, mut readers) = (vec![0usize; n], vec![Vec::new(); n]);
        for &(u, v, _) in &self.edges {
            waiting[v] += 1;
            readers[u].push(v);
        }
        let mut order: Vec<usize> = (0..n).filter(|&v| waiting[v] == 0).collect();
        let mut at = 0;
        while at < order.len() {
            for &v in &readers[order[at]] {
                waiting[v] -= 1;
                if waiting[v] == 0 {
                    order.push(v);
                }
            }
            at += 1;
        }
        order
    }
}
