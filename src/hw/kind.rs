//! Families of processors.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The family a processor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// General-purpose cores.
    Cpu,
    /// Graphics processors, also those of servers.
    Gpu,
    /// Matrix machines with a large systolic array and vector memory.
    Tpu,
    /// Neural engines of phones, laptops and boards.
    Npu,
    /// Statically scheduled stream processors that hold all weights in SRAM.
    Lpu,
    /// Reconfigurable logic.
    Fpga,
    /// Signal processors.
    Dsp,
    /// Everything else with a datasheet.
    Custom,
}

impl Kind {
    /// Every kind, in declaration order.
    pub const ALL: [Kind; 8] =
        [Kind::Cpu, Kind::Gpu, Kind::Tpu, Kind::Npu, Kind::Lpu, Kind::Fpga, Kind::Dsp, Kind::Custom];

    /// The word used in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Cpu => "cpu",
            Kind::Gpu => "gpu",
            Kind::Tpu => "tpu",
            Kind::Npu => "npu",
            Kind::Lpu => "lpu",
            Kind::Fpga => "fpga",
            Kind::Dsp => "dsp",
            Kind::Custom => "custom",
        }
    }

    /// The kind of that word, if there is one.
    pub fn parse(word: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
