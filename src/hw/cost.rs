//! What work costs on a device, by the roofline: the larger of arithmetic and memory time, plus launches.
//!
//! The constants behind it are in `defaults.rs`, each with the published measurement it comes from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::defaults;
use crate::device::{Device, Rate};
use crate::kind::Kind;
use crate::precision::Precision;
use crate::route::Path;

/// Which units of a processor the work keeps busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkKind {
    /// Matrix products and convolutions.
    Dense,
    /// Elementwise code and reductions.
    Vector,
    /// Copies and layout changes: no arithmetic counts.
    Move,
}

/// Work as plain numbers; a fused kernel is one `Work` with one launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    /// Which units it keeps busy.
    pub kind: WorkKind,
    /// Operations by format; a multiply-add is two.
    pub flops: BTreeMap<Precision, f64>,
    /// Bytes of inputs read, constants excluded.
    pub bytes_read: f64,
    /// Bytes of outputs written.
    pub bytes_written: f64,
    /// Bytes of constants read.
    pub weight_bytes: f64,
    /// Kernels started.
    pub launches: u32,
}

impl Work {
    /// Work of one kernel that reads and writes nothing yet.
    pub fn new(kind: WorkKind) -> Work {
        Work {
            kind,
            flops: BTreeMap::new(),
            bytes_read: 0.0,
            bytes_written: 0.0,
            weight_bytes: 0.0,
            launches: 1,
        }
    }

    /// The same with so many operations in that format added.
    #[must_use]
    pub fn with_flops(mut self, precision: Precision, flops: f64) -> Work {
        *self.flops.entry(precision).or_insert(0.0) += flops;
        self
    }

    /// The same with these bytes.
    #[must_use]
    pub fn with_bytes(mut self, read: f64, written: f64, weights: f64) -> Work {
        (self.bytes_read, self.bytes_written, self.weight_bytes) = (read, written, weights);
        self
    }

    /// All bytes moved.
    pub fn bytes(&self) -> f64 {
        self.bytes_read + self.bytes_written + self.weight_bytes
    }
}

/// What limits some work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Arithmetic.
    Compute,
    /// Memory bandwidth.
    Memory,
    /// Starting kernels.
    Launch,
    /// Nothing was broken down: the time was measured.
    Measured,
}

impl Bound {
    /// The word used in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Bound::Compute => "compute",
            Bound::Memory => "memory",
            Bound::Launch => "launch",
            Bound::Measured => "measured",
        }
    }
}

/// Predicted cost of some work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estimate {
    /// Time in us.
    pub time_us: f64,
    /// Arithmetic alone, in us.
    pub compute_us: f64,
    /// Memory traffic alone, in us.
    pub memory_us: f64,
    /// Launches alone, in us.
    pub launch_us: f64,
    /// Energy at the device's power at work; `None` when that is unknown.
    pub joules: Option<f64>,
    /// The largest part.
    pub bound: Bound,
    /// Where the figures come from.
    pub origin: String,
}

/// Roofline cost of work on a device.
///
/// `None` when the device cannot do it or nobody knows how fast: no rate for the format, or no memory bandwidth.
pub fn estimate(device: &Device, work: &Work) -> Option<Estimate> {
    let (compute_us, rate_origin) = compute_us(device, work)?;
    let (memory_us, memory_origin) = memory_us(device, work)?;
    let launch_each = device.launch_us.as_ref().map_or(defaults::launch_us(device.kind).0, |fact| fact.value);
    let launch_us = f64::from(work.launches) * launch_each;
    let bound = if launch_us >= compute_us.max(memory_us) {
        Bound::Launch
    } else if memory_us > compute_us {
        Bound::Memory
    } else {
        Bound::Compute
    };
    let time_us = compute_us.max(memory_us) + launch_us;
    let joules = device.power_w.as_ref().map(|watts| watts.value * time_us * 1e-6);
    let origin = match bound {
        Bound::Memory => memory_origin,
        Bound::Launch => device.launch_us.as_ref().map_or(String::new(), |fact| fact.origin.clone()),
        Bound::Compute | Bound::Measured => rate_origin,
    };
    Some(Estimate { time_us, compute_us, memory_us, launch_us, joules, bound, origin })
}

/// Arithmetic time in us; formats follow one another on the same units.
fn compute_us(device: &Device, work: &Work) -> Option<(f64, String)> {
    let mut total = 0.0;
    let mut origins = Vec::new();
    if work.kind != WorkKind::Move {
        for (&precision, &flops) in work.flops.iter().filter(|(_, flops)| **flops > 0.0) {
            let (rate, efficiency, origin) = attained(device, work.kind, precision)?;
            // TFLOPS are 1e12 per second, which is 1e6 per us.
            total += flops / (rate.tflops * 1e6 * efficiency);
            origins.push(format!("{}; {origin}", rate.origin));
        }
    }
    Some((total, origins.join("; ")))
}

/// Peak rate, the share of it that is attained, and where that share comes from.
fn attained(device: &Device, kind: WorkKind, precision: Precision) -> Option<(Rate, f64, String)> {
    if kind == WorkKind::Vector {
        let rate = device.vector_rate(precision)?;
        return Some((rate, defaults::VECTOR_EFFICIENCY, "attained by elementwise code: default".to_owned()));
    }
    let rate = device.dense_rate(precision)?;
    if has_tile_unit(device, &rate) {
        return Some((
            rate,
            defaults::TILE_UNIT_EFFICIENCY,
            "attained by tile units of CPUs: default".to_owned(),
        ));
    }
    let narrow =
        matches!(rate.computes_in, Precision::Fp8 | Precision::Int8 | Precision::Int4 | Precision::Fp4);
    let measured = device.matmul_efficiency_8bit.as_ref().filter(|_| narrow);
    let (efficiency, origin) = match measured.or(device.matmul_efficiency.as_ref()) {
        Some(fact) => (fact.value, fact.origin.clone()),
        None => {
            let share = defaults::matmul_efficiency(device.kind) * defaults::typical_over_best(device.kind);
            (share, "attained by products: default".to_owned())
        }
    };
    Some((rate, efficiency, origin))
}

/// Whether a CPU computes at this rate in a tile unit (AMX and its like): those have 8 to 16 times the vector rate.
fn has_tile_unit(device: &Device, rate: &Rate) -> bool {
    let vector = device.dense.get(&Precision::Fp32).map(|fact| fact.value);
    device.kind == Kind::Cpu && vector.is_some_and(|vector| rate.tflops >= 8.0 * vector)
}

/// Rows a matrix product is computed for when it has `rows`: units work on whole tiles.
///
/// Tensor cores multiply 16 rows at a time (PTX `mma.m16n8k*`), a TPU feeds its systolic array 8 rows at a time, CPUs
/// and statically scheduled processors waste none.
pub fn tile_rows(kind: Kind, rows: f64) -> f64 {
    let tile = match kind {
        Kind::Gpu => 16.0,
        Kind::Tpu | Kind::Npu => 8.0,
        Kind::Cpu | Kind::Lpu | Kind::Fpga | Kind::Dsp | Kind::Custom => 1.0,
    };
    (rows / tile).ceil() * tile
}

/// Memory time in us.
fn memory_us(device: &Device, work: &Work) -> Option<(f64, String)> {
    let bytes = work.bytes();
    if bytes <= 0.0 {
        return Some((0.0, String::new()));
    }
    let bandwidth = device.bandwidth_gbs.as_ref()?;
    let (share, share_origin) = match &device.memory_efficiency {
        Some(fact) => (fact.value, fact.origin.as_str()),
        None => (defaults::stream_efficiency(device.kind) * defaults::KERNEL_OVER_STREAM, "default"),
    };
    let cached = fits_cache(device, bytes);
    let gain = if cached { defaults::CACHE_OVER_MEMORY } else { 1.0 };
    let note = if cached { format!("; in cache x {gain} default") } else { String::new() };
    let us = bytes / (bandwidth.value * 1e3 * share * gain);
    Some((us, format!("{}; {share_origin}{note}", bandwidth.origin)))
}

/// CPU caches keep what fits between kernels; GPU caches are left to the measured shares.
fn fits_cache(device: &Device, bytes: f64) -> bool {
    device.kind == Kind::Cpu && device.last_level_cache_bytes().is_some_and(|cache| bytes <= cache as f64)
}

/// Time of a transfer in us.
pub fn transfer_us(path: &Path, bytes: f64) -> f64 {
    if path.hops.len() < 2 { 0.0 } else { path.latency_us + bytes * path.us_per_byte }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Driver;
    use crate::fact::Fact;

    fn device() -> Device {
        let mut device = Device::new("d", Driver::Sim, Kind::Gpu, None);
        device.dense.insert(Precision::Fp32, Fact::new(1.0, "test"));
        device.bandwidth_gbs = Some(Fact::new(100.0, "test"));
        device.launch_us = Some(Fact::new(3.0, "test"));
        device.matmul_efficiency = Some(Fact::new(0.5, "test"));
        device.memory_efficiency = Some(Fact::new(1.0, "test"));
        device.power_w = Some(Fact::new(10.0, "test"));
        device
    }

    #[test]
    fn roofline_by_hand() {
        // 1e9 FLOP at half of 1 TFLOPS is 2000 us; 1e7 bytes at 100 GB/s are 100 us; one launch is 3 us.
        let work = Work::new(WorkKind::Dense).with_flops(Precision::Fp32, 1e9).with_bytes(4e6, 4e6, 2e6);
        let got = estimate(&device(), &work).unwrap();
        assert_eq!((got.compute_us, got.memory_us, got.launch_us), (2000.0, 100.0, 3.0));
        assert_eq!((got.time_us, got.bound), (2003.0, Bound::Compute));
        assert!((got.joules.unwrap() - 0.02003).abs() < 1e-12);
    }

    #[test]
    fn moves_need_no_rate_and_nothing_is_launch_bound() {
        let copy = Work::new(WorkKind::Move).with_bytes(5e6, 5e6, 0.0);
        assert_eq!(estimate(&device(), &copy).unwrap().bound, Bound::Memory);
        assert_eq!(estimate(&device(), &Work::new(WorkKind::Move)).unwrap().bound, Bound::Launch);
    }

    #[test]
    fn unknown_is_unsupported() {
        let double = Work::new(WorkKind::Dense).with_flops(Precision::Fp64, 1.0);
        assert_eq!(estimate(&device(), &double), None);
        let mut blind = device();
        blind.bandwidth_gbs = None;
        assert_eq!(estimate(&blind, &Work::new(WorkKind::Move).with_bytes(1.0, 0.0, 0.0)), None);
    }

    #[test]
    fn narrow_work_widens_and_says_so() {
        let rate = device().dense_rate(Precision::Int8).unwrap();
        assert_eq!(rate.computes_in, Precision::Fp32);
        assert!(rate.origin.contains("int8 computed in fp32"), "{}", rate.origin);
    }
}
