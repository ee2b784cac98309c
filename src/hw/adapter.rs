//! GPU adapters as plain data from the caller, and the profiles their names stand for.
//!
//! This crate links no graphics library. Whoever does passes what the adapter says about itself.

use serde::{Deserialize, Serialize};

use crate::profile::{Profile, Profiles};

/// What kind of device an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum AdapterType {
    /// A card with memory of its own.
    Discrete,
    /// A GPU that shares memory with the CPU.
    Integrated,
    /// A GPU passed into a virtual machine by software.
    Virtual,
    /// Shaders run on CPU cores (llvmpipe, lavapipe, SwiftShader).
    Cpu,
    /// The driver does not say.
    Other,
}

impl AdapterType {
    /// The word used in files.
    pub fn as_str(self) -> &'static str {
        match self {
            AdapterType::Discrete => "discrete",
            AdapterType::Integrated => "integrated",
            AdapterType::Virtual => "virtual",
            AdapterType::Cpu => "cpu",
            AdapterType::Other => "other",
        }
    }

    /// The type of that word, if there is one.
    pub fn parse(word: &str) -> Option<AdapterType> {
        use AdapterType::{Cpu, Discrete, Integrated, Other, Virtual};
        [Discrete, Integrated, Virtual, Cpu, Other].into_iter().find(|class| class.as_str() == word)
    }
}

/// What an adapter says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AdapterInfo {
    /// Position in the caller's list; the driver opens the adapter by it.
    pub index: u32,
    /// Name, such as "NVIDIA GeForce RTX 4090".
    pub name: String,
    /// Backend, such as "vulkan", "metal", "dx12" or "gl".
    pub backend: String,
    /// Kind of device.
    pub device_type: AdapterType,
    /// PCI vendor id, 0 when unknown.
    pub vendor: u32,
    /// PCI device id, 0 when unknown.
    pub device: u32,
    /// PCI address, where the driver tells it.
    #[serde(default)]
    pub pci_address: Option<String>,
    /// Driver name.
    pub driver: String,
    /// Driver version.
    pub driver_info: String,
    /// Largest buffer in bytes.
    pub max_buffer_bytes: Option<u64>,
    /// Memory in bytes, where the caller can tell.
    pub memory_bytes: Option<u64>,
    /// True when shaders may use 16-bit floats.
    pub shader_f16: bool,
}

impl AdapterInfo {
    /// True for adapters that run shaders on CPU cores, whatever type they claim.
    pub fn is_software(&self) -> bool {
        let name = self.name.to_ascii_lowercase();
        let known = ["llvmpipe", "lavapipe", "swiftshader", "softpipe", "basic render driver"];
        self.device_type == AdapterType::Cpu || known.iter().any(|word| name.contains(word))
    }
}

/// Adapters without those that another backend shows as well. GL is the one that repeats; identical cards on one
/// backend are different cards.
pub(crate) fn without_repeats(adapters: &[AdapterInfo]) -> Vec<&AdapterInfo> {
    let repeated = |adapter: &AdapterInfo| {
        adapter.backend == "gl" && adapters.iter().any(|other| other.backend != "gl" && same(adapter, other))
    };
    adapters.iter().filter(|adapter| !repeated(adapter)).collect()
}

/// GL appends bus and driver to the name and often knows no ids, so names are compared by containment.
fn same(gl: &AdapterInfo, other: &AdapterInfo) -> bool {
    let (gl_name, name) = (gl.name.to_ascii_lowercase(), other.name.to_ascii_lowercase());
    (gl.is_software() && other.is_software()) || gl_name.contains(&name) || name.contains(&gl_name)
}

/// Words an adapter's name must hold, and the profile they stand for; longer rows first.
const NAMES: [(&str, &str); 33] = [
    ("v100 sxm2 32gb", "nvidia-v100-sxm2-32gb"),
    ("a100 sxm4 40gb", "nvidia-a100-sxm4-40gb"),
    ("a100 sxm4 80gb", "nvidia-a100-sxm4-80gb"),
    ("a100 pcie 40gb", "nvidia-a100-pcie-40gb"),
    ("a100 80gb pcie", "nvidia-a100-pcie-80gb"),
    ("h100 80gb hbm3", "nvidia-h100-sxm5-80gb"),
    ("h100 pcie", "nvidia-h100-pcie-80gb"),
    ("h200", "nvidia-h200-sxm-141gb"),
    ("b200", "nvidia-b200-sxm-180gb"),
    ("gb200", "nvidia-gb200-per-gpu"),
    ("tesla t4", "nvidia-t4"),
    ("nvidia a10", "nvidia-a10"),
    ("nvidia l4", "nvidia-l4"),
    ("nvidia l40s", "nvidia-l40s"),
    ("rtx 4090", "nvidia-rtx4090"),
    ("rtx 5090", "nvidia-rtx5090"),
    ("instinct mi210", "amd-mi210"),
    ("instinct mi250x", "amd-mi250x"),
    ("instinct mi300x", "amd-mi300x"),
    ("instinct mi325x", "amd-mi325x"),
    ("instinct mi355x", "amd-mi355x"),
    ("rx 7900 xtx", "amd-rx7900xtx"),
    ("gpu max 1550", "intel-max-1550"),
    ("arc a770", "intel-arc-a770-16gb"),
    ("arc b580", "intel-arc-b580"),
    ("apple m1 max", "apple-m1-max-gpu"),
    ("apple m1 ultra", "apple-m1-ultra-gpu"),
    ("apple m2 ultra", "apple-m2-ultra-gpu"),
    ("apple m3 ultra", "apple-m3-ultra-gpu"),
    ("apple m1", "apple-m1-gpu"),
    ("apple m2", "apple-m2-gpu"),
    ("apple m4", "apple-m4-gpu"),
    ("apple m4 max", "apple-m4-max-40c-gpu"),
];

/// Words that make a name a different part from the one without them.
const OTHER_PARTS: [&str; 13] =
    ["laptop", "mobile", "max", "pro", "ultra", "ti", "super", "d", "q", "m", "grid", "mig", "nvl"];

/// The profile an adapter's name clearly stands for; `None` when in doubt, and for software adapters.
pub fn profile_for_adapter<'p>(adapter: &AdapterInfo, profiles: &'p Profiles) -> Option<&'p Profile> {
    if adapter.is_software() {
        return None;
    }
    profile_words(&adapter.name).and_then(|id| profiles.get(id))
}

/// Id of the profile that the words of a name clearly stand for.
pub(crate) fn profile_words(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase().replace("(tm)", "").replace("(r)", "");
    let words: Vec<&str> =
        name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).collect();
    let fits = |row: &&(&str, &str)| {
        let wanted = row.0.split(' ');
        wanted.clone().all(|word| words.contains(&word))
            && !OTHER_PARTS
                .iter()
                .any(|other| words.contains(other) && !wanted.clone().any(|word| word == *other))
    };
    NAMES.iter().find(fits).map(|&(_, id)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(name: &str, backend: &str, device_type: AdapterType) -> AdapterInfo {
        AdapterInfo {
            index: 0,
            name: name.to_owned(),
            backend: backend.to_owned(),
            device_type,
            vendor: 0,
            device: 0,
            pci_address: None,
            driver: String::new(),
            driver_info: String::new(),
            max_buffer_bytes: None,
            memory_bytes: None,
            shader_f16: false,
        }
    }

    #[test]
    fn every_row_names_a_profile() {
        let profiles = Profiles::builtin().unwrap();
        for (words, id) in NAMES {
            assert!(profiles.get(id).is_some(), "{words}: {id}");
        }
    }

    #[test]
    fn names_as_drivers_print_them() {
        let profiles = Profiles::builtin().unwrap();
        let id = |name: &str| {
            profile_for_adapter(&adapter(name, "vulkan", AdapterType::Discrete), &profiles)
                .map(|p| p.id.clone())
        };
        assert_eq!(id("NVIDIA GeForce RTX 4090").as_deref(), Some("nvidia-rtx4090"));
        assert_eq!(id("NVIDIA GeForce RTX 4090 Laptop GPU"), None);
        assert_eq!(id("NVIDIA A100-SXM4-80GB").as_deref(), Some("nvidia-a100-sxm4-80gb"));
        assert_eq!(id("NVIDIA H100 80GB HBM3").as_deref(), Some("nvidia-h100-sxm5-80gb"));
        assert_eq!(id("AMD Radeon RX 7900 XTX (RADV NAVI31)").as_deref(), Some("amd-rx7900xtx"));
        assert_eq!(id("Intel(R) Arc(tm) A770 Graphics (DG2)").as_deref(), Some("intel-arc-a770-16gb"));
        assert_eq!(id("Apple M1 Max").as_deref(), Some("apple-m1-max-gpu"));
        assert_eq!(id("Apple M2 Pro"), None);
        assert_eq!(id("NVIDIA A10G"), None);
    }

    #[test]
    fn gl_repeats_are_dropped_and_twins_kept() {
        let list = [
            adapter("NVIDIA T4", "vulkan", AdapterType::Discrete),
            adapter("NVIDIA T4", "vulkan", AdapterType::Discrete),
            adapter("NVIDIA T4/PCIe/SSE2", "gl", AdapterType::Other),
        ];
        assert_eq!(without_repeats(&list).len(), 2);
    }
}
