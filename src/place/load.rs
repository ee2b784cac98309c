//! The bottleneck objective: loads of devices and links under a placement of units, kept up to date by moves.
//!
//! Resources are the devices `0..k` and, when links pay, the directed links `k + from * k + to`.

use crate::problem::{CommModel, Problem};
use crate::units::{Flow, Units};

/// A reduced problem with what the load of a placement needs.
#[derive(Debug)]
pub(crate) struct LoadModel<'a> {
    pub(crate) problem: &'a Problem,
    pub(crate) units: &'a Units,
    pub(crate) k: usize,
    charged: u64,
    endpoint: bool,
    /// Capacity of each device in bytes, `u64::MAX` for unlimited.
    pub(crate) capacity: Vec<u64>,
    /// Whether some device cannot hold everything.
    pub(crate) memory_binds: bool,
}

/// Load put on a link that does not exist: far above any real load, so that searches leave it.
const NO_PATH_US: f64 = 1e18;

impl<'a> LoadModel<'a> {
    pub(crate) fn new(problem: &'a Problem, units: &'a Units) -> Self {
        let charged_flags = match &problem.comm {
            CommModel::Endpoint { charged, .. } => charged.as_slice(),
            CommModel::Links => &[],
        };
        let charged = charged_flags.iter().enumerate().fold(0, |set, (d, &c)| set | (u64::from(c) << d));
        let total = units.memory_bytes.iter().fold(0u64, |sum, &m| sum.saturating_add(m));
        LoadModel {
            memory_binds: problem.devices.iter().any(|d| d.memory_bytes.is_some_and(|room| room < total)),
            problem,
            units,
            k: problem.devices.len(),
            charged,
            endpoint: matches!(problem.comm, CommModel::Endpoint { .. }),
            capacity: problem.devices.iter().map(|d| d.memory_bytes.unwrap_or(u64::MAX)).collect(),
        }
    }

    pub(crate) fn n_resources(&self) -> usize {
        if self.endpoint { self.k } else { self.k + self.k * self.k }
    }

    /// Whether device `d` pays for what crosses its border.
    pub(crate) fn is_charged(&self, d: usize) -> bool {
        self.charged >> d & 1 == 1
    }

    /// Whether endpoints pay rather than links.
    pub(crate) fn endpoints_pay(&self) -> bool {
        self.endpoint
    }

    /// Time the link `a -> b` is busy when `flow` crosses it; `NO_PATH_US` without a path.
    pub(crate) fn link_us(&self, flow: &Flow, a: usize, b: usize) -> f64 {
        self.problem.links[a][b].map_or(NO_PATH_US, |l| {
            f64::from(flow.messages) * l.latency_us + flow.bytes as f64 * l.us_per_byte
        })
    }

    /// What a flow costs a device or link it crosses to, at its dearest.
    pub(crate) fn flow_us(&self, flow: &Flow) -> f64 {
        if self.endpoint {
            return flow.cost_us;
        }
        let pairs = (0..self.k).flat_map(|a| (0..self.k).map(move |b| (a, b))).filter(|(a, b)| a != b);
        pairs.map(|(a, b)| self.link_us(flow, a, b)).filter(|&us| us < NO_PATH_US).fold(0.0, f64::max)
    }

    /// Adds `sign` times the communication of a flow from device `a` to the devices in `readers`.
    fn charge(&self, flow: &Flow, a: usize, readers: u64, sign: f64, load: &mut [f64]) {
        let others = readers & !(1 << a);
        if others == 0 {
            return;
        }
        if self.endpoint {
            let cost = sign * flow.cost_us;
            let mut paying = others & self.charged | (self.charged & (1 << a));
            while paying != 0 {
                load[paying.trailing_zeros() as usize] += cost;
                paying &= paying - 1;
            }
            return;
        }
        let mut rest = others;
        while rest != 0 {
            let b = rest.trailing_zeros() as usize;
            load[self.k + a * self.k + b] += sign * self.link_us(flow, a, b);
            rest &= rest - 1;
        }
    }

    /// Loads of all resources from scratch, and bytes per device.
    pub(crate) fn loads(&self, device_of_unit: &[usize]) -> (Vec<f64>, Vec<u64>) {
        let (mut load, mut bytes) = (vec![0.0; self.n_resources()], vec![0u64; self.k]);
        for (u, &d) in device_of_unit.iter().enumerate() {
            load[d] += self.units.time_us[u][d];
            bytes[d] = bytes[d].saturating_add(self.units.memory_bytes[u]);
        }
        for flow in &self.units.flows {
            let readers = flow.consumers.iter().fold(0, |set, &c| set | 1u64 << device_of_unit[c]);
            self.charge(flow, device_of_unit[flow.producer], readers, 1.0, &mut load);
        }
        (load, bytes)
    }

    /// Adds to `load` what placing unit `u` on `d` costs beside the units that are placed already. A flow counts
    /// once its producer is placed, for the readers placed so far.
    pub(crate) fn add_unit(&self, u: usize, d: usize, placed: &[Option<usize>], load: &mut [f64]) {
        load[d] += self.units.time_us[u][d];
        for &f in &self.units.flows_of_unit[u] {
            let flow = &self.units.flows[f];
            let readers = flow.consumers.iter().filter_map(|&c| placed[c]).fold(0, |set, c| set | 1u64 << c);
            if flow.producer == u {
                self.charge(flow, d, readers, 1.0, load);
            } else if let Some(a) = placed[flow.producer] {
                self.charge(flow, a, readers, -1.0, load);
                self.charge(flow, a, readers | 1 << d, 1.0, load);
            }
        }
    }

    /// The objective; `None` when memory is exceeded, a unit may not run there, or a path is missing.
    pub(crate) fn value(&self, device_of_unit: &[usize]) -> Option<f64> {
        let (load, bytes) = self.loads(device_of_unit);
        let value = load.iter().copied().fold(0.0, f64::max);
        let fits = bytes.iter().zip(&self.capacity).all(|(b, c)| b <= c);
        (fits && value < NO_PATH_US).then_some(value)
    }
}

/// A placement under search: devices, loads, and how many readers each flow has on each device.
#[derive(Debug, Clone)]
pub(crate) struct LoadState {
    pub(crate) device_of_unit: Vec<usize>,
    pub(crate) load: Vec<f64>,
    pub(crate) bytes: Vec<u64>,
    n_readers: Vec<u32>,
    readers: Vec<u64>,
}

impl LoadState {
    pub(crate) fn new(model: &LoadModel<'_>, device_of_unit: &[usize]) -> Self {
        let n_flows = model.units.flows.len();
        let (mut n_readers, mut readers) = (vec![0u32; n_flows * model.k], vec![0u64; n_flows]);
        for (f, flow) in model.units.flows.iter().enumerate() {
            for &c in &flow.consumers {
                let d = device_of_unit[c];
                n_readers[f * model.k + d] += 1;
                readers[f] |= 1 << d;
            }
        }
        let (load, bytes) = model.loads(device_of_unit);
        LoadState { device_of_unit: device_of_unit.to_vec(), load, bytes, n_readers, readers }
    }

    /// Loads after moving unit `u` to device `b`, written to `load`; the state does not change.
    pub(crate) fn trial(&self, model: &LoadModel<'_>, u: usize, b: usize, load: &mut [f64]) {
        load.copy_from_slice(&self.load);
        let a = self.device_of_unit[u];
        load[a] -= model.units.time_us[u][a];
        load[b] += model.units.time_us[u][b];
        for &f in &model.units.flows_of_unit[u] {
            let flow = &model.units.flows[f];
            if flow.producer == u {
                model.charge(flow, a, self.readers[f], -1.0, load);
                model.charge(flow, b, self.readers[f], 1.0, load);
                continue;
            }
            let after = self.readers_after(model.k, f, a, b);
            if after != self.readers[f] {
                let from = self.device_of_unit[flow.producer];
                model.charge(flow, from, self.readers[f], -1.0, load);
                model.charge(flow, from, after, 1.0, load);
            }
        }
    }

    fn readers_after(&self, k: usize, f: usize, a: usize, b: usize) -> u64 {
        let left = if self.n_readers[f * k + a] == 1 { self.readers[f] & !(1 << a) } else { self.readers[f] };
        left | 1 << b
    }

    /// Moves unit `u` to device `b`; `load` is what [`LoadState::trial`] computed for it and is swapped in.
    pub(crate) fn commit(&mut self, model: &LoadModel<'_>, u: usize, b: usize, load: &mut Vec<f64>) {
        std::mem::swap(&mut self.load, load);
        let (a, k) = (self.device_of_unit[u], model.k);
        let size = model.units.memory_bytes[u];
        self.bytes[a] = self.bytes[a].saturating_sub(size);
        self.bytes[b] = self.bytes[b].saturating_add(size);
        for &f in &model.units.flows_of_unit[u] {
            if model.units.flows[f].producer == u {
                continue;
            }
            self.readers[f] = self.readers_after(k, f, a, b);
            self.n_readers[f * k + a] -= 1;
            self.n_readers[f * k + b] += 1;
        }
        self.device_of_unit[u] = b;
    }

    /// Removes the rounding that many small updates leave behind.
    pub(crate) fn refresh(&mut self, model: &LoadModel<'_>) {
        (self.load, self.bytes) = model.loads(&self.device_of_unit);
    }
}
