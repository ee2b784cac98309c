//! Number formats that have a rate on some processor.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::fact::Fact;

/// A number format of arithmetic. This is about speed; storage types belong to the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// IEEE double.
    Fp64,
    /// IEEE single.
    Fp32,
    /// Single range with a 10-bit mantissa.
    Tf32,
    /// Single range with a 7-bit mantissa.
    Bf16,
    /// IEEE half.
    Fp16,
    /// Eight-bit floats, either layout.
    Fp8,
    /// Eight-bit integers.
    Int8,
    /// Four-bit integers.
    Int4,
    /// Four-bit floats in blocks with a common scale (NVFP4, MXFP4).
    Fp4,
}

/// Rates per precision in TFLOPS (floating) or TOPS (integer), dense, each with its origin.
pub type Rates = BTreeMap<Precision, Fact<f64>>;

impl Precision {
    /// Every precision, widest first.
    pub const ALL: [Precision; 9] = [
        Precision::Fp64,
        Precision::Fp32,
        Precision::Tf32,
        Precision::Bf16,
        Precision::Fp16,
        Precision::Fp8,
        Precision::Int8,
        Precision::Int4,
        Precision::Fp4,
    ];

    /// The word used in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Precision::Fp64 => "fp64",
            Precision::Fp32 => "fp32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
            Precision::Fp16 => "fp16",
            Precision::Fp8 => "fp8",
            Precision::Int8 => "int8",
            Precision::Int4 => "int4",
            Precision::Fp4 => "fp4",
        }
    }

    /// The precision of that word, if there is one.
    pub fn parse(word: &str) -> Option<Precision> {
        Precision::ALL.into_iter().find(|precision| precision.as_str() == word)
    }

    /// Formats that hold every value of this one, nearest first: a processor without a rate for this format may
    /// compute in one of them without losing anything.
    ///
    /// TF32 holds both 16-bit floats (8-bit exponent, 10-bit mantissa); 16-bit floats hold eight-bit integers
    /// (bf16 up to 256) and FP8.
    pub fn wider(self) -> &'static [Precision] {
        use Precision::{Bf16, Fp8, Fp16, Fp32, Fp64, Int8, Tf32};
        match self {
            Precision::Fp64 => &[],
            Precision::Fp32 => &[Fp64],
            Precision::Tf32 => &[Fp32, Fp64],
            Precision::Bf16 | Precision::Fp16 => &[Tf32, Fp32, Fp64],
            Precision::Fp8 | Precision::Int8 => &[Fp16, Bf16, Tf32, Fp32, Fp64],
            Precision::Int4 => &[Int8, Fp16, Bf16, Tf32, Fp32, Fp64],
            Precision::Fp4 => &[Fp8, Fp16, Bf16, Tf32, Fp32, Fp64],
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for precision in Precision::ALL {
            assert_eq!(Precision::parse(precision.as_str()), Some(precision));
        }
        assert_eq!(Precision::parse("fp12"), None);
    }
}
