//! Numbers used where nobody published one, each with its reason. Every use is marked "default" in the origin.

use crate::adapter::AdapterType;
use crate::kind::Kind;

/// Attained over nominal rate of a link without a measurement: PCIe 5 (55.4 of 63.0) and NVLink 4 (396 of 450) were
/// both measured at 0.88.
pub(crate) const LINK_EFFICIENCY: f64 = 0.88;

/// Latency of a link without a published one, in us: the order of a device round trip.
pub(crate) const LINK_LATENCY_US: f64 = 1.0;

/// What a copy command costs end to end beyond the wire, in us: pinned device copies take 8 to 10 us.
pub const COPY_COMMAND_US: f64 = 9.0;

/// Latency of a copy inside one memory that is started by a command to an accelerator, in us.
pub(crate) const SHARED_COPY_US: f64 = 5.0;

/// Latency of a copy between two CPU devices, in us: one hand-over between thread teams.
pub(crate) const CPU_COPY_US: f64 = 0.5;

/// Host link of a GPU of this machine about which nothing else is known: PCIe 3 x16, the slowest still common.
pub(crate) const HOST_LINK_GBS: f64 = 15.75;

/// Clock of a CPU that does not say, in GHz.
pub(crate) const CPU_CLOCK_GHZ: f64 = 3.0;

/// Memory bandwidth of a CPU without a profile in GB/s: small machines have two channels (51.2 with DDR4-3200) of which
/// one core draws about 20; large ones have 5 per core (460.8 / 96, 537.6 / 96, 307.2 / 56 in the profiles).
pub(crate) fn cpu_bandwidth_gbs(cores: u32) -> f64 {
    let cores = f64::from(cores);
    (20.0 * cores).min(51.2).max(5.0 * cores)
}

/// Matrix rate over vector rate of a processor that lists only matrix rates. The GPUs that list both have 8 (MI300X,
/// V100) to 16 (A100 312 / 19.5, H100 989 / 67).
pub(crate) const MATRIX_OVER_VECTOR: f64 = 16.0;

/// Attained over nominal rate of elementwise code; it is nearly always bound by memory, so the figure seldom matters.
pub(crate) const VECTOR_EFFICIENCY: f64 = 0.5;

/// Best matrix product over peak where none was measured. Published: 0.51 (MI300X) to 0.97 (Gaudi 2), median 0.76. CPUs
/// reach 0.95 with packed operands.
pub(crate) fn matmul_efficiency(kind: Kind) -> f64 {
    if kind == Kind::Cpu { 0.95 } else { 0.75 }
}

/// Typical products of a model over the best product. Accelerators: prefill of a 70B model runs at 45 % of fp8 peak
/// where the best product reaches 71 %. CPUs: whole transformer models run at 77 to 84 % of peak.
pub(crate) fn typical_over_best(kind: Kind) -> f64 {
    if kind == Kind::Cpu { 0.84 } else { 0.65 }
}

/// Attained over peak rate of a CPU's tile unit (AMX) inside a model: two Xeon 6980P write 1,196 tokens/s of Llama 3.1 8B in
/// int8 (MLPerf v5.1, offline), with their prompts 127 of 1,049 TOPS. Between the 7 % of general libraries and the 29 %
/// of products alone that the KTransformers paper (SOSP 2025) gives.
pub(crate) const TILE_UNIT_EFFICIENCY: f64 = 0.12;

/// Attained over nominal memory bandwidth of a long stream: 0.92 measured on HBM; CPUs lose more.
pub(crate) fn stream_efficiency(kind: Kind) -> f64 {
    if kind == Kind::Cpu { 0.85 } else { 0.92 }
}

/// Kernels start, drain and touch several streams, so they attain less than one long stream. With the launch cost this
/// puts decoding at 53 to 58 % of the weight-streaming floor; published figures lie between 45 and 65 %.
pub(crate) const KERNEL_OVER_STREAM: f64 = 0.82;

/// Product of two shares to four digits; more would be noise of the arithmetic in files and reports.
pub(crate) fn share(a: f64, b: f64) -> f64 {
    (a * b * 1e4).round() / 1e4
}

/// Last-level cache over memory bandwidth of a CPU: 175 to 226 against 71 GB/s measured on two cores.
pub const CACHE_OVER_MEMORY: f64 = 2.5;

/// Cost of starting a kernel without a published one, in us, and why.
pub(crate) fn launch_us(kind: Kind) -> (f64, &'static str) {
    match kind {
        Kind::Cpu => (1.0, "default: two barriers of a spinning thread team"),
        Kind::Lpu => (5.2, "formula: 3.33 ms per token / (80 layers x 8 kernels), Llama-2-70B on 576 chips"),
        _ => (5.0, "default: as measured for CUDA, 4 to 6 us"),
    }
}

/// Cost of one dispatch through WebGPU, in us: validation and barriers on top of the driver's launch.
pub(crate) const WGPU_LAUNCH_US: f64 = 20.0;

/// What to assume about a GPU of this machine without a profile.
pub(crate) struct AdapterDefaults {
    /// fp32 rate in TFLOPS.
    pub(crate) fp32_tflops: f64,
    /// Memory bandwidth in GB/s.
    pub(crate) bandwidth_gbs: f64,
    /// Cost of one dispatch in us.
    pub(crate) launch_us: f64,
    /// Where these come from.
    pub(crate) origin: &'static str,
}

/// Low figures on purpose: a guess must not pull work away from a processor that is known.
pub(crate) fn adapter(class: AdapterType) -> AdapterDefaults {
    let (fp32_tflops, bandwidth_gbs, launch_us, origin) = match class {
        AdapterType::Discrete => (5.0, 200.0, WGPU_LAUNCH_US, "default: small discrete GPU"),
        AdapterType::Integrated => (1.0, 40.0, WGPU_LAUNCH_US, "default: integrated GPU"),
        AdapterType::Virtual => (1.0, 40.0, WGPU_LAUNCH_US, "default: virtual GPU"),
        AdapterType::Cpu => (0.01, 4.0, 100.0, "default: software adapter, shaders run on CPU cores"),
        AdapterType::Other => (0.5, 20.0, WGPU_LAUNCH_US, "default: unknown adapter"),
    };
    AdapterDefaults { fp32_tflops, bandwidth_gbs, launch_us, origin }
}
