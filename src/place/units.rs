//! The reduced problem the searches work on: colocated tasks merged into units, tensors merged by endpoints.
//!
//! A unit is the smallest thing that moves between devices. Tensors of one producer unit that are read by the
//! same units always cross together, so they are one [`Flow`]. Both reductions keep every placement's value.

use crate::orders::{Quotient, settle};
use crate::problem::{CommModel, Problem};
use std::collections::BTreeMap;

/// Tensors of one producer that are read by the same units.
#[derive(Debug, Clone)]
pub(crate) struct Flow {
    pub(crate) producer: usize,
    pub(crate) consumers: Vec<usize>,
    /// Sum of sizes.
    pub(crate) bytes: u64,
    /// How many messages one crossing is.
    pub(crate) messages: u32,
    /// Sum of endpoint costs; zero when links pay.
    pub(crate) cost_us: f64,
}

/// The reduced problem.
#[derive(Debug, Clone)]
pub(crate) struct Units {
    pub(crate) unit_of_task: Vec<usize>,
    /// Tasks of each unit, ascending.
    pub(crate) members: Vec<Vec<usize>>,
    /// Sum of times, unit-major; infinite where the unit may not run.
    pub(crate) time_us: Vec<Vec<f64>>,
    pub(crate) memory_bytes: Vec<u64>,
    /// Devices each unit may run on, ascending, never empty.
    pub(crate) candidates: Vec<Vec<usize>>,
    pub(crate) flows: Vec<Flow>,
    /// Flows a unit produces or reads.
    pub(crate) flows_of_unit: Vec<Vec<usize>>,
    /// Units in a linear order in which neighbours tend to be close.
    pub(crate) order: Vec<usize>,
    /// Where more such orders come from.
    pub(crate) quotient: Quotient,
}

impl Units {
    /// Reduces a validated problem.
    pub(crate) fn new(p: &Problem) -> Units {
        let (unit_of_task, members) = merge_colocated(p);
        let k = p.devices.len();
        let total = |unit: &Vec<usize>, d: usize| -> f64 {
            unit.iter().map(|&t| p.time_us(t, d).unwrap_or(f64::INFINITY)).sum()
        };
        let time_us: Vec<Vec<f64>> =
            members.iter().map(|unit| (0..k).map(|d| total(unit, d)).collect()).collect();
        let candidates = time_us.iter().map(|row| (0..k).filter(|&d| row[d].is_finite()).collect()).collect();
        let memory_bytes = members
            .iter()
            .map(|unit| unit.iter().fold(0u64, |sum, &t| sum.saturating_add(p.tasks[t].memory_bytes)))
            .collect();
        let flows = merge_tensors(p, &unit_of_task);
        let mut flows_of_unit = vec![Vec::new(); members.len()];
        for (f, flow) in flows.iter().enumerate() {
            flows_of_unit[flow.producer].push(f);
            for &c in &flow.consumers {
                flows_of_unit[c].push(f);
            }
        }
        let quotient = Quotient::new(p, &unit_of_task, members.len());
        let order = settle(&quotient.post_order(), &flows);
        Units {
            unit_of_task,
            members,
            time_us,
            memory_bytes,
            candidates,
            flows,
            flows_of_unit,
            order,
            quotient,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// Spreads a placement of units over the tasks.
    pub(crate) fn expand(&self, device_of_unit: &[usize]) -> Vec<usize> {
        self.unit_of_task.iter().map(|&u| device_of_unit[u]).collect()
    }

    /// Device numbers such that equal numbers mean the devices can be exchanged without changing anything.
    pub(crate) fn device_classes(&self, p: &Problem) -> Vec<usize> {
        let k = p.devices.len();
        let mut class: Vec<usize> = (0..k).collect();
        for b in 1..k {
            if let Some(a) = (0..b).find(|&a| class[a] == a && self.exchangeable(p, a, b)) {
                class[b] = a;
            }
        }
        class
    }

    fn exchangeable(&self, p: &Problem, a: usize, b: usize) -> bool {
        p.devices[a].memory_bytes == p.devices[b].memory_bytes
            && self.time_us.iter().all(|row| row[a] == row[b])
            && match &p.comm {
                CommModel::Endpoint { charged, .. } => charged[a] == charged[b],
                CommModel::Links => {
                    p.links[a][b] == p.links[b][a]
                        && (0..p.devices.len())
                            .filter(|&d| d != a && d != b)
                            .all(|d| p.links[a][d] == p.links[b][d] && p.links[d][a] == p.links[d][b])
                }
            }
    }
}

fn merge_colocated(p: &Problem) -> (Vec<usize>, Vec<Vec<usize>>) {
    let mut of_class: BTreeMap<u32, usize> = BTreeMap::new();
    let mut members: Vec<Vec<usize>> = Vec::new();
    let mut unit_of_task = Vec::with_capacity(p.tasks.len());
    for (t, task) in p.tasks.iter().enumerate() {
        let fresh = members.len();
        let unit = task.colocate.map_or(fresh, |c| *of_class.entry(c).or_insert(fresh));
        if unit == fresh {
            members.push(Vec::new());
        }
        members[unit].push(t);
        unit_of_task.push(unit);
    }
    (unit_of_task, members)
}

fn merge_tensors(p: &Problem, unit_of_task: &[usize]) -> Vec<Flow> {
    let mut merged: BTreeMap<(usize, Vec<usize>), Flow> = BTreeMap::new();
    for (t, tensor) in p.tensors.iter().enumerate() {
        let producer = unit_of_task[tensor.producer];
        let mut consumers: Vec<usize> = tensor.consumers.iter().map(|&c| unit_of_task[c]).collect();
        consumers.sort_unstable();
        consumers.dedup();
        consumers.retain(|&c| c != producer);
        if consumers.is_empty() {
            continue;
        }
        let flow = merged.entry((producer, consumers.clone())).or_insert(Flow {
            producer,
            consumers,
            bytes: 0,
            messages: 0,
            cost_us: 0.0,
        });
        flow.bytes = flow.bytes.saturating_add(tensor.bytes);
        flow.messages += 1;
        if let CommModel::Endpoint { cost_us, .. } = &p.comm {
            flow.cost_us += cost_us[t];
        }
    }
    merged.into_values().collect()
}
