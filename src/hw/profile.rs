//! Processor profiles: published figures with their sources.
//!
//! The TOML files under `profiles/` are part of the program. A missing key means that nobody published a number;
//! it loads as `None`, never as zero.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Code, HwError, did_you_mean};
use crate::interconnect::pcie_gbs;
use crate::kind::Kind;
use crate::precision::Precision;
use crate::profile_file;

/// The embedded files, in the order their processors are listed.
const BUILTIN: [(&str, &str); 9] = [
    ("profiles/ai_asic.toml", include_str!("profiles/ai_asic.toml")),
    ("profiles/amd.toml", include_str!("profiles/amd.toml")),
    ("profiles/apple.toml", include_str!("profiles/apple.toml")),
    ("profiles/cpus.toml", include_str!("profiles/cpus.toml")),
    ("profiles/fpga_dsp.toml", include_str!("profiles/fpga_dsp.toml")),
    ("profiles/google.toml", include_str!("profiles/google.toml")),
    ("profiles/intel.toml", include_str!("profiles/intel.toml")),
    ("profiles/npu_mobile.toml", include_str!("profiles/npu_mobile.toml")),
    ("profiles/nvidia.toml", include_str!("profiles/nvidia.toml")),
];

/// How far the figures of a profile were checked against the named sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provenance {
    /// Every headline figure was read in the named source.
    Checked,
    /// Some figures were read, some recalled.
    Mixed,
    /// Figures of the named datasheet, not read again.
    Recalled,
}

impl Provenance {
    /// The word used in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Provenance::Checked => "checked",
            Provenance::Mixed => "mixed",
            Provenance::Recalled => "recalled",
        }
    }

    /// The provenance of that word, if there is one.
    pub fn parse(word: &str) -> Option<Provenance> {
        [Provenance::Checked, Provenance::Mixed, Provenance::Recalled]
            .into_iter()
            .find(|provenance| provenance.as_str() == word)
    }
}

/// Further figures of a profile under the names the file gives them; units are in the names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extra {
    /// Figures.
    pub numbers: BTreeMap<String, f64>,
    /// Remarks, sources and yes/no facts.
    pub words: BTreeMap<String, String>,
}

impl Extra {
    /// The figure of that name.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.numbers.get(key).copied()
    }
}

/// What a vendor claims for sparse operands; dense rates never include it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sparsity {
    /// Sparse rate over dense rate.
    pub factor: Option<f64>,
    /// Sparse headline, where only that was published (TFLOPS).
    pub headline_tflops: Option<f64>,
    /// Which zeros count.
    pub pattern: String,
    /// Formats it applies to, in the vendor's words.
    pub dtypes: Vec<String>,
}

/// Memory of a processor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileMemory {
    /// Technology, such as "hbm3".
    pub technology: Option<String>,
    /// Capacity in bytes; the file states it in the vendor's unit.
    pub capacity_bytes: Option<u64>,
    /// What software sees of the capacity, in bytes.
    pub usable_bytes: Option<u64>,
    /// Nominal bandwidth in GB/s (1e9 bytes).
    pub bandwidth_gbs: Option<f64>,
    /// Measured bandwidth in GB/s.
    pub measured_bandwidth_gbs: Option<f64>,
    /// True when the CPU uses the same memory: capacities must not be added.
    pub shared_with_cpu: bool,
    /// Remarks on further pools.
    pub remarks: BTreeMap<String, String>,
}

/// A link a processor has by construction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileLink {
    /// "host", "peer" or "network".
    pub role: String,
    /// Technology, such as "pcie".
    pub kind: String,
    /// Generation.
    pub generation: Option<u32>,
    /// Lanes.
    pub lanes: Option<u32>,
    /// Nominal GB/s in one direction, all links together.
    pub gbs_per_dir: Option<f64>,
    /// Measured GB/s in one direction (the smaller of both directions).
    pub measured_gbs: Option<f64>,
    /// Latency of one message or hop, in us.
    pub latency_us: Option<f64>,
    /// Further figures.
    pub extra: Extra,
}

impl ProfileLink {
    /// Nominal GB/s in one direction: as published, or by arithmetic from PCIe generation and lanes.
    pub fn nominal_gbs(&self) -> Option<f64> {
        self.gbs_per_dir.or_else(|| match (self.kind.as_str(), self.generation, self.lanes) {
            ("pcie", Some(generation), Some(lanes)) => pcie_gbs(generation, lanes),
            _ => None,
        })
    }
}

/// One processor with its published figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Stable id, such as "nvidia-h100-sxm5-80gb".
    pub id: String,
    /// Name in print.
    pub name: String,
    /// Family.
    pub kind: Kind,
    /// Vendor, lower case.
    pub vendor: String,
    /// Architecture.
    pub arch: String,
    /// Year of release.
    pub year: Option<u32>,
    /// What one record is: chip, card, socket, block of a chip.
    pub unit: String,
    /// Formats the processor computes in, in the vendor's words.
    pub dtypes: Vec<String>,
    /// Cores, in the vendor's sense of the word.
    pub cores: Option<u32>,
    /// Dense matrix rates in TFLOPS or TOPS.
    pub dense: BTreeMap<Precision, f64>,
    /// Dense rates of formats without a [`Precision`] (block formats, fp4, fp6).
    pub other_dense: BTreeMap<String, f64>,
    /// Rates outside the matrix units, in TFLOPS.
    pub vector: BTreeMap<Precision, f64>,
    /// Other published rates that must not be used as dense ones.
    pub alt: Extra,
    /// Sparse claims.
    pub sparsity: Option<Sparsity>,
    /// Memory.
    pub memory: ProfileMemory,
    /// Caches, scratchpads and unit counts; units are in the names.
    pub on_chip: Extra,
    /// Power figures in W.
    pub power: Extra,
    /// Cost of starting one kernel, in us.
    pub launch_us: Option<f64>,
    /// Attained over nominal rates.
    pub efficiency: Extra,
    /// Prices in USD; rents are per hour.
    pub price: Extra,
    /// How the processor shows up on a machine.
    pub detect: Extra,
    /// Links.
    pub links: Vec<ProfileLink>,
    /// How far the figures were checked.
    pub provenance: Provenance,
    /// Where the figures were read.
    pub sources: Vec<String>,
    /// Fields that are arithmetic, such as "dense.*".
    pub estimated: Vec<String>,
    /// Remarks.
    pub notes: String,
}

impl Profile {
    /// The link to the host, if one was published with a rate.
    pub fn host_link(&self) -> Option<&ProfileLink> {
        self.links.iter().find(|link| link.role == "host" && link.nominal_gbs().is_some())
    }

    /// Design power in W, or the nearest published figure.
    pub fn power_w(&self) -> Option<f64> {
        first_number(&self.power, &["tdp_w", "typical_w", "measured_mean_w", "measured_w", "max_w"])
    }

    /// Rent in USD per hour; on-demand before reserved.
    pub fn usd_per_hour(&self) -> Option<f64> {
        let keys = [
            "on_demand_us",
            "capacity_block_per_gpu",
            "capacity_block_per_chip",
            "aws_p5_48xlarge_per_gpu_pre_2025_06",
        ];
        first_number(&self.price, &keys)
    }

    /// The largest on-chip memory in bytes.
    pub fn on_chip_bytes(&self) -> Option<u64> {
        let sizes = self.on_chip.numbers.iter().filter_map(|(key, &value)| memory_size_bytes(key, value));
        sizes.max()
    }

    /// True when the field (such as "dense.fp32") is arithmetic rather than a vendor's statement.
    pub fn is_estimated(&self, field: &str) -> bool {
        let group = field.split_once('.').map(|(group, _)| format!("{group}.*"));
        self.estimated.iter().any(|name| name == field || Some(name) == group.as_ref())
    }

    /// The origin text of a field taken from this profile.
    pub fn origin(&self, field: &str) -> String {
        let estimated = if self.is_estimated(field) { ", estimated" } else { "" };
        format!("profile {} ({}{estimated})", self.id, self.provenance.as_str())
    }
}

fn first_number(extra: &Extra, keys: &[&str]) -> Option<f64> {
    keys.iter().find_map(|key| extra.number(key))
}

/// Bytes of a figure such as `l2_mib`; `None` for names that are not sizes of a whole memory.
fn memory_size_bytes(key: &str, value: f64) -> Option<u64> {
    let (_, unit) = key.rsplit_once('_')?;
    let scale = match unit {
        "bytes" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        _ => return None,
    };
    Some((value * scale) as u64)
}

/// How many words of a short form are whole words of an id; `None` when they do not begin its words in order.
fn whole_words(words: &[&str], id: &str) -> Option<usize> {
    let mut parts = id.split('-');
    let mut whole = 0;
    for word in words {
        let part = parts.find(|part| part.starts_with(word))?;
        whole += usize::from(part == *word);
    }
    Some(whole)
}

/// A collection of profiles in a fixed order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profiles {
    list: Vec<Profile>,
}

impl Profiles {
    /// The profiles that come with the program.
    ///
    /// # Errors
    /// None in practice: a test parses every embedded file.
    pub fn builtin() -> Result<Profiles, HwError> {
        let mut profiles = Profiles::default();
        for (file, text) in BUILTIN {
            profiles.add(file, text)?;
        }
        Ok(profiles)
    }

    /// Adds the processors of one more file, in its order.
    ///
    /// # Errors
    /// Located errors for broken text, unknown fields, values out of range and ids already taken.
    pub fn add(&mut self, file: &str, text: &str) -> Result<(), HwError> {
        profile_file::read(file, text, &mut self.list)
    }

    /// The profile of that id.
    pub fn get(&self, id: &str) -> Option<&Profile> {
        self.list.iter().find(|profile| profile.id == id)
    }

    /// The profile of that id, or the one a short form stands for: "h100-sxm" is nvidia-h100-sxm5-80gb.
    ///
    /// The words of a short form begin words of the id, in their order; whole words count more.
    ///
    /// # Errors
    /// The ids it may stand for; none when there is no such profile.
    pub fn find(&self, name: &str) -> Result<&Profile, Vec<&str>> {
        if let Some(profile) = self.get(name) {
            return Ok(profile);
        }
        let name = name.to_ascii_lowercase();
        let words: Vec<&str> = name.split('-').filter(|word| !word.is_empty()).collect();
        let scored =
            self.list.iter().filter_map(|profile| Some((whole_words(&words, &profile.id)?, profile)));
        let scored: Vec<(usize, &Profile)> = scored.filter(|_| !words.is_empty()).collect();
        let best = scored.iter().map(|(score, _)| *score).max().unwrap_or(0);
        let near: Vec<&Profile> =
            scored.into_iter().filter(|(score, _)| *score == best).map(|(_, profile)| profile).collect();
        match near[..] {
            [profile] => Ok(profile),
            _ => Err(near.into_iter().map(|profile| profile.id.as_str()).collect()),
        }
    }

    /// Every profile, in file order.
    pub fn iter(&self) -> impl Iterator<Item = &Profile> {
        self.list.iter()
    }

    /// Profiles of one family, in file order.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Profile> {
        self.list.iter().filter(move |profile| profile.kind == kind)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Code and hint for an id that is not here.
    pub(crate) fn unknown(&self, id: &str) -> (Code, String) {
        let ids = self.list.iter().map(|profile| profile.id.as_str());
        (Code::UnknownProfile, did_you_mean(id, ids, "ids look like nvidia-h100-sxm5-80gb"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_stand_for_one_profile_or_say_which() {
        let profiles = Profiles::builtin().unwrap();
        let find = |name| profiles.find(name).map(|profile| profile.id.as_str());
        for (name, id) in [
            ("h100-sxm", "nvidia-h100-sxm5-80gb"),
            ("a10", "nvidia-a10"),
            ("tpu-v5p", "google-tpu-v5p"),
            ("v5p", "google-tpu-v5p"),
            ("groq", "groq-lpu1"),
            ("MI300X", "amd-mi300x"),
            ("epyc-9654", "amd-epyc-9654"),
        ] {
            assert_eq!(find(name), Ok(id), "{name}");
        }
        assert_eq!(find("h100"), Err(vec!["nvidia-h100-sxm5-80gb", "nvidia-h100-pcie-80gb"]));
        assert_eq!((find("zebra"), find(""), find("-")), (Err(vec![]), Err(vec![]), Err(vec![])));
    }

    #[test]
    fn sizes_know_their_unit() {
        assert_eq!(memory_size_bytes("l2_mib", 50.0), Some(52_428_800));
        assert_eq!(memory_size_bytes("sram_mb", 230.0), Some(230_000_000));
        assert_eq!(memory_size_bytes("smem_l1_kib_per_sm", 256.0), None);
        assert_eq!(memory_size_bytes("sms", 132.0), None);
    }
}
