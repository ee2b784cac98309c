//! Instruction sets: their names, how a running processor tells them, and the peak rates that follow.

use crate::defaults;
use crate::fact::Fact;
use crate::precision::{Precision, Rates};

/// Name in /proc/cpuinfo, and ours. Ours are the names the compiler and the kernels use.
const LINUX_NAMES: [(&str, &str); 28] = [
    ("sse4_2", "sse4.2"),
    ("avx", "avx"),
    ("avx2", "avx2"),
    ("fma", "fma"),
    ("f16c", "f16c"),
    ("avx_vnni", "avxvnni"),
    ("avx512f", "avx512f"),
    ("avx512bw", "avx512bw"),
    ("avx512cd", "avx512cd"),
    ("avx512dq", "avx512dq"),
    ("avx512vl", "avx512vl"),
    ("avx512vbmi", "avx512vbmi"),
    ("avx512_vnni", "avx512vnni"),
    ("avx512_bf16", "avx512bf16"),
    ("avx512_fp16", "avx512fp16"),
    ("amx_tile", "amx-tile"),
    ("amx_int8", "amx-int8"),
    ("amx_bf16", "amx-bf16"),
    ("amx_fp16", "amx-fp16"),
    ("asimd", "neon"),
    ("asimdhp", "fp16"),
    ("asimddp", "dotprod"),
    ("i8mm", "i8mm"),
    ("bf16", "bf16"),
    ("sve", "sve"),
    ("sve2", "sve2"),
    ("sme", "sme"),
    ("sme2", "sme2"),
];

/// Instruction sets named in the flags of /proc/cpuinfo, in the order of the table.
pub(crate) fn from_flags(flags: &str) -> Vec<String> {
    let words: Vec<&str> = flags.split_whitespace().collect();
    let known = LINUX_NAMES.iter().filter(|(linux, _)| words.contains(linux));
    known.map(|&(_, ours)| ours.to_owned()).collect()
}

/// Instruction sets the running process may use, or `None` where the standard library cannot tell.
///
/// This asks the processor and the system's saved state, which the flags of /proc/cpuinfo do not always reflect.
#[cfg(target_arch = "x86_64")]
pub(crate) fn running() -> Option<Vec<String>> {
    let found = [
        ("sse4.2", is_x86_feature_detected!("sse4.2")),
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avxvnni", is_x86_feature_detected!("avxvnni")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512cd", is_x86_feature_detected!("avx512cd")),
        ("avx512dq", is_x86_feature_detected!("avx512dq")),
        ("avx512vl", is_x86_feature_detected!("avx512vl")),
        ("avx512vbmi", is_x86_feature_detected!("avx512vbmi")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
        ("avx512fp16", is_x86_feature_detected!("avx512fp16")),
    ];
    Some(present(&found))
}

/// Instruction sets the running process may use, or `None` where the standard library cannot tell.
#[cfg(target_arch = "aarch64")]
pub(crate) fn running() -> Option<Vec<String>> {
    use std::arch::is_aarch64_feature_detected;
    let found = [
        ("neon", is_aarch64_feature_detected!("neon")),
        ("fp16", is_aarch64_feature_detected!("fp16")),
        ("dotprod", is_aarch64_feature_detected!("dotprod")),
        ("i8mm", is_aarch64_feature_detected!("i8mm")),
        ("bf16", is_aarch64_feature_detected!("bf16")),
        ("sve", is_aarch64_feature_detected!("sve")),
        ("sve2", is_aarch64_feature_detected!("sve2")),
    ];
    Some(present(&found))
}

/// Instruction sets the running process may use, or `None` where the standard library cannot tell.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) fn running() -> Option<Vec<String>> {
    None
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn present(found: &[(&str, bool)]) -> Vec<String> {
    found.iter().filter(|(_, yes)| *yes).map(|&(name, _)| name.to_owned()).collect()
}

/// What the peak of a CPU follows from.
pub(crate) struct Cores<'a> {
    /// Physical cores.
    pub(crate) count: u32,
    /// Instruction sets, in our names; empty when unknown.
    pub(crate) isa: &'a [String],
    /// Clock in GHz and where it comes from; `None` takes the default.
    pub(crate) clock: Option<(f64, &'static str)>,
    /// True for cores that run a 512-bit instruction as two halves (Zen 4).
    pub(crate) halves_512: bool,
}

/// Peak rates by formula: cores x lanes x FMA units x 2 x clock, and multiples of it for narrower formats.
pub(crate) fn peak_rates(cores: &Cores<'_>) -> Rates {
    let (lanes, units, shape) = vector_shape(cores);
    let (ghz, clock) = cores.clock.unwrap_or((defaults::CPU_CLOCK_GHZ, "default"));
    let core_ghz = f64::from(cores.count) * ghz;
    let fp32 = core_ghz * lanes * units * 2.0;
    let origin = format!(
        "formula: {} cores x {lanes} lanes x {units} FMA units x 2 x {ghz} GHz ({shape}, clock {clock})",
        cores.count
    );
    let mut rates = Rates::new();
    let mut set = |precision, gflops: f64, note: &str| {
        // Rounded to a MFLOPS: more digits would be noise of the arithmetic.
        let tflops = (gflops * 1e3).round() / 1e6;
        rates.insert(precision, Fact::new(tflops, format!("{origin}{note}")));
    };
    set(Precision::Fp32, fp32, "");
    set(Precision::Fp64, fp32 / 2.0, ", half as many lanes");
    let has = |name: &str| cores.isa.iter().any(|isa| isa == name);
    let narrow = [
        (Precision::Bf16, has("avx512bf16"), 2.0 * fp32, ", x 2 with avx512bf16"),
        (Precision::Bf16, has("bf16"), 4.0 * fp32, ", x 4 with bf16 matrix instructions"),
        (Precision::Bf16, has("amx-bf16"), 1024.0 * core_ghz, ", AMX does 1024 per clock"),
        (Precision::Fp16, has("avx512fp16") || has("fp16"), 2.0 * fp32, ", x 2 with 16-bit lanes"),
        (Precision::Int8, has("avx512vnni") || has("avxvnni"), 4.0 * fp32, ", x 4 with VNNI"),
        (Precision::Int8, has("dotprod"), 4.0 * fp32, ", x 4 with dotprod"),
        (Precision::Int8, has("i8mm"), 8.0 * fp32, ", x 8 with i8mm"),
        (Precision::Int8, has("amx-int8"), 2048.0 * core_ghz, ", AMX does 2048 per clock"),
    ];
    for (precision, _, gflops, note) in narrow.into_iter().filter(|row| row.1) {
        set(precision, gflops, note);
    }
    rates
}

/// fp32 lanes, FMA units and what they follow from.
fn vector_shape(cores: &Cores<'_>) -> (f64, f64, &'static str) {
    let has = |name: &str| cores.isa.iter().any(|isa| isa == name);
    if has("avx512f") {
        let units = if cores.halves_512 { 1.0 } else { 2.0 };
        (16.0, units, "avx512f")
    } else if has("avx2") && has("fma") {
        (8.0, 2.0, "avx2 and fma")
    } else if has("neon") {
        (4.0, 2.0, "neon")
    } else {
        (4.0, 1.0, "instruction set unknown, 128-bit lanes assumed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(isa: &[String], halves_512: bool) -> Rates {
        peak_rates(&Cores { count: 2, isa, clock: Some((4.0, "measured")), halves_512 })
    }

    #[test]
    fn formula_gives_the_measured_order() {
        // Two Zen 5 cores: 506 to 541 GFLOPS fp32 measured at 4.05 to 4.5 GHz, bf16 x 2, int8 x 4.
        let isa: Vec<String> = ["avx512f", "avx512bf16", "avx512vnni"].map(str::to_owned).to_vec();
        let rates = cores(&isa, false);
        assert_eq!(rates[&Precision::Fp32].value, 0.512);
        assert_eq!(rates[&Precision::Bf16].value, 1.024);
        assert_eq!(rates[&Precision::Int8].value, 2.048);
        assert_eq!(cores(&isa, true)[&Precision::Fp32].value, 0.256);
        assert!(
            rates[&Precision::Fp32]
                .origin
                .starts_with("formula: 2 cores x 16 lanes x 2 FMA units x 2 x 4 GHz")
        );
    }

    #[test]
    fn unknown_set_is_modest_and_has_no_narrow_formats() {
        let rates = cores(&[], false);
        assert_eq!(rates[&Precision::Fp32].value, 0.064);
        assert!(!rates.contains_key(&Precision::Int8));
    }

    #[test]
    fn flags_are_words_not_substrings() {
        assert_eq!(from_flags("avx512_vnnix avx2 fma4"), ["avx2"]);
    }
}
