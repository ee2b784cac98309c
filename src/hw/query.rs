//! Questions to a machine or to the profiles: what fits a need, what is best, what it adds up to.

use std::collections::BTreeMap;

use crate::cost::{Estimate, Work, estimate};
use crate::device::Device;
use crate::kind::Kind;
use crate::machine::Machine;
use crate::precision::Precision;
use crate::profile::{Profile, Profiles};

/// What a device must have. An unset field asks for nothing; an unknown figure meets no demand on it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Need {
    /// At least this much memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// A rate for this format, substitutions included.
    pub precision: Option<Precision>,
    /// This family.
    pub kind: Option<Kind>,
    /// Something of this machine computes.
    pub runs_here: bool,
}

impl Need {
    fn met_by(&self, device: &Device) -> bool {
        let memory = device.memory_bytes.as_ref().map(|fact| fact.value);
        self.memory_bytes.is_none_or(|need| memory.is_some_and(|memory| memory >= need))
            && self.precision.is_none_or(|precision| device.dense_rate(precision).is_some())
            && self.kind.is_none_or(|kind| device.kind == kind)
            && (!self.runs_here || device.runs_here())
    }

    fn met_by_profile(&self, profile: &Profile) -> bool {
        self.memory_bytes.is_none_or(|need| profile.memory.capacity_bytes.is_some_and(|have| have >= need))
            && self.precision.is_none_or(|precision| profile.dense.contains_key(&precision))
            && self.kind.is_none_or(|kind| profile.kind == kind)
            && !self.runs_here
    }
}

/// Sums over a machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Devices.
    pub devices: usize,
    /// Devices by family.
    pub by_kind: BTreeMap<Kind, usize>,
    /// Memory in bytes; memory shared with the CPU is counted once.
    pub memory_bytes: u64,
    /// Devices whose memory is unknown and not in the sum.
    pub unknown_memory: usize,
    /// Published and formula rates by format in TFLOPS or TOPS, without substitutions.
    pub dense_tflops: BTreeMap<Precision, f64>,
    /// Power in W of the devices that state one.
    pub power_w: f64,
}

impl Machine {
    /// Positions of the devices that meet a need, in machine order.
    pub fn satisfying(&self, need: &Need) -> Vec<usize> {
        (0..self.devices.len()).filter(|&index| need.met_by(&self.devices[index])).collect()
    }

    /// The device that meets a need and is fastest in its format (fp32 when unset); ties go to the first.
    pub fn best(&self, need: &Need) -> Option<usize> {
        let precision = need.precision.unwrap_or(Precision::Fp32);
        let rate = |index: &usize| self.devices[*index].dense_rate(precision).map_or(0.0, |rate| rate.tflops);
        let candidates = self.satisfying(need).into_iter().rev();
        candidates.max_by(|a, b| rate(a).total_cmp(&rate(b)))
    }

    /// The device that does some work soonest, transfers left out; ties go to the first.
    pub fn fastest(&self, work: &Work) -> Option<(usize, Estimate)> {
        let costs = self.devices.iter().enumerate();
        let known = costs.filter_map(|(index, device)| Some((index, estimate(device, work)?)));
        known.min_by(|a, b| a.1.time_us.total_cmp(&b.1.time_us))
    }

    /// Sums over the devices.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals { devices: self.devices.len(), ..Totals::default() };
        let has_cpu = self.devices.iter().any(|device| device.kind == Kind::Cpu && !device.shared_memory);
        let mut shared = 0;
        for device in &self.devices {
            *totals.by_kind.entry(device.kind).or_insert(0) += 1;
            totals.power_w += device.power_w.as_ref().map_or(0.0, |fact| fact.value);
            match &device.memory_bytes {
                Some(fact) if device.shared_memory => shared = shared.max(fact.value),
                Some(fact) => totals.memory_bytes = totals.memory_bytes.saturating_add(fact.value),
                None if device.shared_memory => {}
                None => totals.unknown_memory += 1,
            }
            for (&precision, fact) in &device.dense {
                *totals.dense_tflops.entry(precision).or_insert(0.0) += fact.value;
            }
        }
        if !has_cpu {
            totals.memory_bytes = totals.memory_bytes.saturating_add(shared);
        }
        totals
    }
}

impl Profiles {
    /// Profiles that meet a need by published figures alone, in file order.
    pub fn satisfying<'p>(&'p self, need: &Need) -> Vec<&'p Profile> {
        self.iter().filter(|profile| need.met_by_profile(profile)).collect()
    }

    /// The profile with the highest published rate in a format among those that meet a need.
    pub fn best<'p>(&'p self, need: &Need) -> Option<&'p Profile> {
        let precision = need.precision.unwrap_or(Precision::Fp32);
        let rate = |profile: &Profile| profile.dense.get(&precision).copied().unwrap_or(0.0);
        self.satisfying(need).into_iter().rev().max_by(|a, b| rate(a).total_cmp(&rate(b)))
    }
}
