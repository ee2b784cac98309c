//! Formats weights are stored in: how many bits a weight takes, scales included, and what it is multiplied in.

use partita_hw::Precision;

use crate::error::{Code, ShardError};

/// A format of weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quant {
    /// The word on the command line.
    pub name: &'static str,
    /// Bits a weight takes on average, scales and offsets included.
    pub bits: f64,
    /// Formats products may be computed in, best first.
    pub computes: &'static [Precision],
    /// Bytes of an element of keys and values that usually goes with it.
    pub kv_bytes: f64,
    /// Where the bits come from.
    pub source: &'static str,
}

use Precision::{Bf16, Fp4, Fp8, Fp16, Fp32, Int8};

/// Weights only: they are widened to 16 bits before they multiply.
const WIDENED: &[Precision] = &[Bf16, Fp16];
const PLAIN: &str = "the format itself";
const BLOCKS: &str = "block layouts of ggml (bytes of a block over its weights)";
const MIXES: &str = "llama.cpp's table of bits per weight (Llama 3.1 8B): formats differ by tensor";

const fn row(
    name: &'static str,
    bits: f64,
    computes: &'static [Precision],
    kv_bytes: f64,
    source: &'static str,
) -> Quant {
    Quant { name, bits, computes, kv_bytes, source }
}

/// Every format, widest first within its family.
pub const QUANTS: &[Quant] = &[
    row("fp32", 32.0, &[Fp32], 2.0, PLAIN),
    row("tf32", 32.0, &[Precision::Tf32], 2.0, PLAIN),
    row("bf16", 16.0, WIDENED, 2.0, PLAIN),
    row("fp16", 16.0, &[Fp16, Bf16], 2.0, PLAIN),
    row("fp8", 8.0, &[Fp8], 1.0, "the format itself; one scale per tensor"),
    row("fp8-e4m3", 8.0, &[Fp8], 1.0, "the format itself; one scale per tensor"),
    row("fp8-e5m2", 8.0, &[Fp8], 1.0, "the format itself; one scale per tensor"),
    row("mxfp8", 8.25, &[Fp8], 1.0, "OCP MX 1.0: 8 bits and an 8-bit scale per 32"),
    row("int8", 8.0, &[Int8], 2.0, "the format itself; one scale per row"),
    row("mxfp6", 6.25, WIDENED, 1.0, "OCP MX 1.0: 6 bits and an 8-bit scale per 32"),
    row("fp6", 6.0, WIDENED, 1.0, PLAIN),
    row("nvfp4", 4.5, &[Fp4], 1.0, "4 bits and an 8-bit scale per 16"),
    row("mxfp4", 4.25, &[Fp4], 1.0, "OCP MX 1.0: 4 bits and an 8-bit scale per 32"),
    row("fp4", 4.5, &[Fp4], 1.0, "as nvfp4"),
    row("int4", 4.15625, WIDENED, 2.0, "4 bits, a 16-bit scale and a 4-bit offset per 128 (GPTQ, AWQ)"),
    row("int4-g64", 4.3125, WIDENED, 2.0, "the same per 64"),
    row("int4-g32", 4.625, WIDENED, 2.0, "the same per 32"),
    row("q8_0", 8.5, WIDENED, 2.0, BLOCKS),
    row("q6_k", 6.5625, WIDENED, 2.0, BLOCKS),
    row("q5_k", 5.5, WIDENED, 2.0, BLOCKS),
    row("q5_1", 6.0, WIDENED, 2.0, BLOCKS),
    row("q5_0", 5.5, WIDENED, 2.0, BLOCKS),
    row("q4_k", 4.5, WIDENED, 2.0, BLOCKS),
    row("q4_1", 5.0, WIDENED, 2.0, BLOCKS),
    row("q4_0", 4.5, WIDENED, 2.0, BLOCKS),
    row("iq4_nl", 4.5, WIDENED, 2.0, BLOCKS),
    row("iq4_xs", 4.25, WIDENED, 2.0, BLOCKS),
    row("q3_k", 3.4375, WIDENED, 2.0, BLOCKS),
    row("iq3_s", 3.4375, WIDENED, 2.0, BLOCKS),
    row("iq3_xxs", 3.0625, WIDENED, 2.0, BLOCKS),
    row("q2_k", 2.625, WIDENED, 2.0, BLOCKS),
    row("iq2_s", 2.5625, WIDENED, 2.0, BLOCKS),
    row("iq2_xs", 2.3125, WIDENED, 2.0, BLOCKS),
    row("iq2_xxs", 2.0625, WIDENED, 2.0, BLOCKS),
    row("iq1_m", 1.75, WIDENED, 2.0, BLOCKS),
    row("iq1_s", 1.5625, WIDENED, 2.0, BLOCKS),
    row("tq2_0", 2.0625, WIDENED, 2.0, BLOCKS),
    row("tq1_0", 1.6875, WIDENED, 2.0, BLOCKS),
    row("q5_k_m", 5.7036, WIDENED, 2.0, MIXES),
    row("q5_k_s", 5.5704, WIDENED, 2.0, MIXES),
    row("q4_k_m", 4.8944, WIDENED, 2.0, MIXES),
    row("q4_k_s", 4.6672, WIDENED, 2.0, MIXES),
    row("q3_k_l", 4.2979, WIDENED, 2.0, MIXES),
    row("q3_k_m", 3.9960, WIDENED, 2.0, MIXES),
    row("q3_k_s", 3.6429, WIDENED, 2.0, MIXES),
];

impl Quant {
    /// The format of that name.
    ///
    /// # Errors
    /// A letter that lists the names.
    pub fn parse(name: &str) -> Result<Quant, ShardError> {
        let plain = name.to_ascii_lowercase().replace('-', "_");
        let found = QUANTS.iter().find(|quant| quant.name.replace('-', "_") == plain);
        found.copied().ok_or_else(|| {
            let names: Vec<&str> = QUANTS.iter().map(|quant| quant.name).collect();
            let message = format!("there is no quantization {name:?}");
            ShardError::new(Code::UnknownQuant, message, format!("one of {}", names.join(", ")))
        })
    }

    /// Bytes of a weight.
    pub fn bytes(&self) -> f64 {
        self.bits / 8.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_bits_are_what_blocks_hold() {
        assert_eq!(Quant::parse("Q4_K_M").unwrap().bits, 4.8944);
        assert_eq!(Quant::parse("INT4_G32").unwrap().bits, 4.0 + 20.0 / 32.0);
        // 256 weights: 128 bytes of nibbles, 12 of scales, two halves.
        assert_eq!(Quant::parse("q4_k").unwrap().bits, 8.0 * 144.0 / 256.0);
        assert_eq!(Quant::parse("q6_k").unwrap().bits, 8.0 * 210.0 / 256.0);
        assert_eq!(Quant::parse("q2_k").unwrap().bits, 8.0 * 84.0 / 256.0);
        assert_eq!(Quant::parse("nvfp4").unwrap().bits, 4.5);
        assert!(Quant::parse("fp12").unwrap_err().hint.contains("mxfp4"));
    }
}
