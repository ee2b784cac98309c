//! One device of a machine: a processor, how it executes, and every figure with its origin.

use serde::{Deserialize, Serialize};

use crate::adapter::AdapterType;
use crate::cpu::{Cache, CacheKind};
use crate::defaults;
use crate::fact::Fact;
use crate::isa::{self, Cores};
use crate::kind::Kind;
use crate::precision::{Precision, Rates};
use crate::profile::Profile;

/// How a device executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// Kernels on the cores of this machine.
    Cpu,
    /// Shaders through WebGPU on an adapter of this machine.
    Wgpu,
    /// Right numbers computed on the CPU, time taken from the figures of the device.
    Sim,
}

impl Driver {
    /// Every driver.
    pub const ALL: [Driver; 3] = [Driver::Cpu, Driver::Wgpu, Driver::Sim];

    /// The word used in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Driver::Cpu => "cpu",
            Driver::Wgpu => "wgpu",
            Driver::Sim => "sim",
        }
    }

    /// The driver of that word, if there is one.
    pub fn parse(word: &str) -> Option<Driver> {
        Driver::ALL.into_iter().find(|driver| driver.as_str() == word)
    }
}

/// Which adapter a device of the wgpu driver opens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AdapterRef {
    /// Position in the list of adapters; the first one when absent.
    pub index: Option<u32>,
    /// Name the adapter must have, when stated.
    pub name: Option<String>,
    /// Kind of device; decides the defaults.
    pub class: AdapterType,
    /// Largest buffer in bytes.
    pub max_buffer_bytes: Option<u64>,
}

impl Default for AdapterRef {
    fn default() -> Self {
        AdapterRef { index: None, name: None, class: AdapterType::Other, max_buffer_bytes: None }
    }
}

/// The rate a device computes some work at.
#[derive(Clone, Debug, PartialEq)]
pub struct Rate {
    /// TFLOPS or TOPS, dense peak.
    pub tflops: f64,
    /// The format it computes in, which may differ from the one asked for.
    pub computes_in: Precision,
    /// Where the rate comes from, and which substitution was made.
    pub origin: String,
}

/// One device of a machine. `None` is unknown, never zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Name within the machine, such as "cpu0".
    pub name: String,
    /// What it is, in words.
    pub title: Option<String>,
    /// How it executes.
    pub driver: Driver,
    /// Family.
    pub kind: Kind,
    /// Id of the profile its figures come from.
    pub profile: Option<String>,
    /// Dense matrix rates.
    pub dense: Rates,
    /// Rates outside the matrix units.
    pub vector: Rates,
    /// Format that f32 work is computed in when there is no fp32 rate. `None` makes such work unsupported.
    pub f32_as: Option<Precision>,
    /// Memory in bytes.
    pub memory_bytes: Option<Fact<u64>>,
    /// True when the memory is the CPU's.
    pub shared_memory: bool,
    /// Nominal memory bandwidth in GB/s.
    pub bandwidth_gbs: Option<Fact<f64>>,
    /// Cost of starting one kernel in us.
    pub launch_us: Option<Fact<f64>>,
    /// Attained over peak rate of a typical matrix product.
    pub matmul_efficiency: Option<Fact<f64>>,
    /// The same for eight-bit formats, where it was measured apart.
    pub matmul_efficiency_8bit: Option<Fact<f64>>,
    /// Attained over nominal memory bandwidth of a typical kernel.
    pub memory_efficiency: Option<Fact<f64>>,
    /// Power at work in W.
    pub power_w: Option<Fact<f64>>,
    /// Rent in USD per hour.
    pub usd_per_hour: Option<Fact<f64>>,
    /// Physical cores.
    pub cores: Option<u32>,
    /// Threads the device may use.
    pub threads: Option<u32>,
    /// Instruction sets (CPU).
    pub isa: Vec<String>,
    /// Caches (CPU).
    pub caches: Vec<Cache>,
    /// Adapter (wgpu).
    pub adapter: Option<AdapterRef>,
}

/// Names of the single-number facts in machine files, in the order of [`Device::facts`].
pub(crate) const FACT_KEYS: [&str; 7] = [
    "bandwidth_gbs",
    "launch_us",
    "matmul_efficiency",
    "matmul_efficiency_8bit",
    "memory_efficiency",
    "power_w",
    "usd_per_hour",
];

impl Device {
    /// A device with the figures of its profile, or with no figures at all.
    pub fn new(name: &str, driver: Driver, kind: Kind, profile: Option<&Profile>) -> Device {
        let mut device = Device {
            name: name.to_owned(),
            title: profile.map(|profile| profile.name.clone()),
            driver,
            kind,
            profile: profile.map(|profile| profile.id.clone()),
            dense: Rates::new(),
            vector: Rates::new(),
            f32_as: f32_policy(kind),
            memory_bytes: None,
            shared_memory: false,
            bandwidth_gbs: None,
            launch_us: None,
            matmul_efficiency: None,
            matmul_efficiency_8bit: None,
            memory_efficiency: None,
            power_w: None,
            usd_per_hour: None,
            cores: None,
            threads: None,
            isa: Vec::new(),
            caches: Vec::new(),
            adapter: (driver == Driver::Wgpu).then(AdapterRef::default),
        };
        if let Some(profile) = profile {
            device.take_rates(profile);
            device.take_figures(profile);
        }
        device
    }

    fn take_rates(&mut self, profile: &Profile) {
        let fact = |table: &str, precision: Precision, &rate: &f64| {
            Fact::new(rate, profile.origin(&format!("{table}.{precision}")))
        };
        let vector: Rates = profile.vector.iter().map(|(&p, rate)| (p, fact("vector", p, rate))).collect();
        let dense: Rates = profile.dense.iter().map(|(&p, rate)| (p, fact("dense", p, rate))).collect();
        if self.driver == Driver::Wgpu {
            // Shaders reach the vector units only; matrix units would promise rates no shader attains.
            let fp32 = vector.get(&Precision::Fp32).or(dense.get(&Precision::Fp32)).cloned();
            self.dense = fp32.map(|fact| (Precision::Fp32, fact)).into_iter().collect();
        } else {
            (self.dense, self.vector) = (dense, vector);
        }
    }

    fn take_figures(&mut self, profile: &Profile) {
        let memory = &profile.memory;
        let fact = |field: &str, value: f64| Fact::new(value, profile.origin(field));
        let bytes = memory.usable_bytes.or(memory.capacity_bytes);
        self.memory_bytes = bytes.map(|bytes| Fact::new(bytes, profile.origin("memory.capacity")));
        self.shared_memory = memory.shared_with_cpu;
        let gbs = memory.measured_bandwidth_gbs.or(memory.bandwidth_gbs);
        self.bandwidth_gbs = gbs.map(|gbs| fact("memory.bandwidth_gbs", gbs));
        self.power_w = profile.power_w().map(|watts| fact("power.tdp_w", watts));
        self.usd_per_hour = profile.usd_per_hour().map(|usd| fact("price", usd));
        self.cores = profile.cores.filter(|_| self.kind == Kind::Cpu);
        if self.driver != Driver::Wgpu {
            self.launch_us = profile.launch_us.map(|us| fact("launch.overhead_us", us));
        }
        let typical = defaults::typical_over_best(self.kind);
        let product = |key: &str| {
            let best = profile.efficiency.number(key)?;
            let origin = format!("{}: best product {best} x {typical} typical", profile.origin("efficiency"));
            Some(Fact::new(defaults::share(best, typical), origin))
        };
        self.matmul_efficiency = product("bf16_matmul_max");
        self.matmul_efficiency_8bit = product("fp8_matmul_max");
        let stream = memory.measured_bandwidth_gbs.map(|_| 1.0).or(profile.efficiency.number("hbm_stream"));
        self.memory_efficiency = stream.map(|stream| {
            let kernel = defaults::KERNEL_OVER_STREAM;
            let origin = format!("{}: stream {stream} x {kernel} kernel", profile.origin("memory"));
            Fact::new(defaults::share(stream, kernel), origin)
        });
    }

    /// Multiplies what adds up over parts of a processor: rates, bandwidth, power and rent. Memory stays.
    pub(crate) fn scale(&mut self, factor: f64, why: &str) {
        let sums = [&mut self.bandwidth_gbs, &mut self.power_w, &mut self.usd_per_hour];
        let rates = self.dense.values_mut().chain(self.vector.values_mut());
        for fact in sums.into_iter().flatten().chain(rates) {
            fact.value *= factor;
            fact.origin = format!("{}; {why}", fact.origin);
        }
    }

    /// Fills what is still unknown with documented defaults; origins say so. Memory and power stay unknown.
    pub fn fill_defaults(&mut self) {
        if self.profile.is_none() {
            match self.driver {
                Driver::Cpu => self.fill_cpu(),
                Driver::Wgpu => self.fill_adapter(),
                Driver::Sim => {}
            }
        }
        let kind = self.kind;
        let launch = match self.driver {
            Driver::Wgpu => (defaults::WGPU_LAUNCH_US, "default: one WebGPU dispatch"),
            Driver::Cpu | Driver::Sim => defaults::launch_us(kind),
        };
        self.launch_us.get_or_insert_with(|| Fact::new(launch.0, launch.1));
        self.matmul_efficiency.get_or_insert_with(|| {
            let (best, typical) = (defaults::matmul_efficiency(kind), defaults::typical_over_best(kind));
            Fact::new(
                defaults::share(best, typical),
                format!("default: best product {best} x {typical} typical"),
            )
        });
        self.memory_efficiency.get_or_insert_with(|| {
            let (stream, kernel) = (defaults::stream_efficiency(kind), defaults::KERNEL_OVER_STREAM);
            Fact::new(defaults::share(stream, kernel), format!("default: stream {stream} x {kernel} kernel"))
        });
    }

    fn fill_cpu(&mut self) {
        let count = self.cores.or(self.threads).unwrap_or(1);
        let cores = Cores { count, isa: &self.isa, clock: None, halves_512: false };
        for (precision, rate) in isa::peak_rates(&cores) {
            self.dense.entry(precision).or_insert(rate);
        }
        self.bandwidth_gbs.get_or_insert_with(|| {
            Fact::new(defaults::cpu_bandwidth_gbs(count), format!("default: {count} cores without a profile"))
        });
    }

    fn fill_adapter(&mut self) {
        let class = self.adapter.as_ref().map_or(AdapterType::Other, |adapter| adapter.class);
        let values = defaults::adapter(class);
        let fact = |value| Fact::new(value, values.origin);
        self.dense.entry(Precision::Fp32).or_insert_with(|| fact(values.fp32_tflops));
        self.bandwidth_gbs.get_or_insert_with(|| fact(values.bandwidth_gbs));
        self.launch_us.get_or_insert_with(|| fact(values.launch_us));
        self.shared_memory |= matches!(class, AdapterType::Integrated | AdapterType::Cpu);
    }

    /// The single-number facts, in the order of the keys in machine files.
    pub(crate) fn facts(&self) -> [&Option<Fact<f64>>; 7] {
        [
            &self.bandwidth_gbs,
            &self.launch_us,
            &self.matmul_efficiency,
            &self.matmul_efficiency_8bit,
            &self.memory_efficiency,
            &self.power_w,
            &self.usd_per_hour,
        ]
    }

    /// The same, to change.
    pub(crate) fn facts_mut(&mut self) -> [&mut Option<Fact<f64>>; 7] {
        [
            &mut self.bandwidth_gbs,
            &mut self.launch_us,
            &mut self.matmul_efficiency,
            &mut self.matmul_efficiency_8bit,
            &mut self.memory_efficiency,
            &mut self.power_w,
            &mut self.usd_per_hour,
        ]
    }

    /// Nominal memory bandwidth in bytes per us.
    pub fn bandwidth_bytes_per_us(&self) -> Option<f64> {
        self.bandwidth_gbs.as_ref().map(|fact| fact.value * 1e3)
    }

    /// Rent for a time of `us` microseconds in USD; `None` when no price is known.
    pub fn rent_usd(&self, us: f64) -> Option<f64> {
        self.usd_per_hour.as_ref().map(|fact| fact.value * us / 3.6e9)
    }

    /// True when something of this machine computes: not a simulation.
    pub fn runs_here(&self) -> bool {
        self.driver != Driver::Sim
    }

    /// Size of the last-level cache in bytes, all instances together (CPU).
    pub fn last_level_cache_bytes(&self) -> Option<u64> {
        let data = self.caches.iter().filter(|cache| cache.kind != CacheKind::Instruction);
        let last = data.max_by_key(|cache| cache.level)?;
        Some(last.bytes.saturating_mul(u64::from(last.instances)))
    }

    /// The rate of matrix work in that format.
    ///
    /// In this order: the published rate; a format that holds every value of the one asked for
    /// ([`Precision::wider`]); for fp32 and tf32 the device's `f32_as`. `None` means unsupported.
    pub fn dense_rate(&self, precision: Precision) -> Option<Rate> {
        let found = |p: Precision| self.dense.get(&p).map(|fact| (p, fact));
        if let Some((_, fact)) = found(precision) {
            return Some(Rate { tflops: fact.value, computes_in: precision, origin: fact.origin.clone() });
        }
        if let Some((wide, fact)) = precision.wider().iter().find_map(|&wide| found(wide)) {
            let origin = format!("{}; {precision} computed in {wide}", fact.origin);
            return Some(Rate { tflops: fact.value, computes_in: wide, origin });
        }
        let single = matches!(precision, Precision::Fp32 | Precision::Tf32);
        let (reduced, fact) = self.f32_as.filter(|_| single).and_then(found)?;
        let origin = format!("{}; {precision} computed in {reduced} (f32_as)", fact.origin);
        Some(Rate { tflops: fact.value, computes_in: reduced, origin })
    }

    /// The rate of elementwise and reducing work in that format.
    ///
    /// Vector units compute narrow formats in fp32. Where no vector rate is known, processors whose fp32 rate is not
    /// a matrix unit's (CPUs, GPUs) use it; others get a default fraction of the matrix rate.
    pub fn vector_rate(&self, precision: Precision) -> Option<Rate> {
        let single = if precision == Precision::Fp64 { Precision::Fp64 } else { Precision::Fp32 };
        let has_fp32_units = matches!(self.kind, Kind::Cpu | Kind::Gpu | Kind::Dsp);
        let general = self.dense.get(&single).filter(|_| has_fp32_units);
        if let Some(fact) = self.vector.get(&single).or(general) {
            return Some(Rate { tflops: fact.value, computes_in: single, origin: fact.origin.clone() });
        }
        let matrix = self.dense_rate(precision)?;
        let fraction = defaults::MATRIX_OVER_VECTOR;
        let origin = format!("{}; vector units assumed 1/{fraction} of it (default)", matrix.origin);
        Some(Rate { tflops: matrix.tflops / fraction, computes_in: matrix.computes_in, origin })
    }
}

/// TPUs multiply in bf16 and LPUs in fp16; frameworks run f32 graphs on them that way. Everyone else has to say so in
/// the machine file.
fn f32_policy(kind: Kind) -> Option<Precision> {
    match kind {
        Kind::Tpu => Some(Precision::Bf16),
        Kind::Lpu => Some(Precision::Fp16),
        _ => None,
    }
}
