//! What probes find: devices, links between them, warnings. Every figure may be unknown; none is guessed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::kind::Kind;

/// Largest memory believed of one device, in bytes: 1 PiB.
const MAX_MEMORY_BYTES: u64 = 1 << 50;

/// Longest text kept of a name, in characters.
const MAX_NAME_CHARS: usize = 160;

/// A device that is not the CPU, as probes saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// Family of the probe that saw it first, such as "nvidia".
    pub family: String,
    /// Kind of processor.
    pub kind: Kind,
    /// Name as its driver, its vendor's tool or the PCI id table gives it.
    pub name: String,
    /// True when a driver has it.
    pub available: bool,
    /// Its name in the machine; absent when too little is known to plan for it.
    pub device: Option<String>,
    /// Id of its profile.
    pub profile: Option<String>,
    /// PCI address, such as "0000:c1:00.0".
    pub pci_address: Option<String>,
    /// PCI vendor and device id, such as "10de:2330".
    pub pci_id: Option<String>,
    /// Unique id, in the driver's form.
    pub uuid: Option<String>,
    /// Number the vendor's tool gives it.
    pub index: Option<u32>,
    /// NUMA node it is attached to.
    pub numa_node: Option<u32>,
    /// Kernel driver.
    pub driver: Option<String>,
    /// Version of the driver.
    pub driver_version: Option<String>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory in use, in bytes.
    pub memory_used_bytes: Option<u64>,
    /// Memory free, in bytes.
    pub memory_free_bytes: Option<u64>,
    /// True when its memory is the CPU's.
    pub shared_memory: bool,
    /// Width of the memory bus in bits.
    pub memory_bus_bits: Option<u32>,
    /// Highest memory clock in MHz.
    pub memory_clock_mhz: Option<f64>,
    /// Highest core clock in MHz.
    pub clock_mhz: Option<f64>,
    /// Cores, in the vendor's sense of the word.
    pub cores: Option<u32>,
    /// What code must be compiled for, such as "9.0" or "gfx942".
    pub compute_capability: Option<String>,
    /// Temperature in degrees Celsius.
    pub temperature_c: Option<f64>,
    /// Power drawn in W.
    pub power_w: Option<f64>,
    /// Limit of the power in W.
    pub power_limit_w: Option<f64>,
    /// Share of time it is busy, in percent.
    pub utilization_percent: Option<f64>,
    /// True when its memory corrects errors.
    pub ecc: Option<bool>,
    /// True when it is divided into instances (MIG).
    pub mig: Option<bool>,
    /// True when its driver stays loaded.
    pub persistence: Option<bool>,
    /// Its PCIe link.
    pub pcie: Option<PcieLink>,
    /// Device nodes.
    pub nodes: Vec<String>,
    /// Families of all probes that saw it.
    pub sources: Vec<String>,
    /// Further facts in the words of their source.
    pub facts: BTreeMap<String, String>,
}

/// A PCIe link as the device and the port above it can run it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PcieLink {
    /// Transfers per lane in GT/s that both ends can do; idle devices run slower meanwhile.
    pub gts: f64,
    /// Lanes in use.
    pub lanes: u32,
    /// Lanes the device could use.
    pub max_lanes: Option<u32>,
    /// Payload of the line code in GB/s, one direction.
    pub gbs_per_dir: f64,
}

/// A link between two devices that probes saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PeerLink {
    /// One end: a PCI address, or family and number such as "nvidia#0".
    pub from: String,
    /// The other end.
    pub to: String,
    /// Technology, such as "nvlink" or "pcie-switch".
    pub kind: String,
    /// Links side by side.
    pub links: u32,
    /// Id of the interconnect that describes it.
    pub interconnect: Option<String>,
    /// Payload of all links together in GB/s, one direction.
    pub gbs_per_dir: Option<f64>,
    /// What said so, in its own words.
    pub said: String,
}

/// What kind of trouble a warning is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum WarningKind {
    /// A tool ended with an error.
    ToolFailed,
    /// A tool or a whole probe took too long.
    TimedOut,
    /// A tool wrote more than is read.
    Truncated,
    /// Text that does not have its documented form.
    Parse,
    /// A file of the system that should be there is not, or holds nonsense.
    Sysfs,
    /// A figure out of its range, or more devices than the limit.
    Limit,
}

impl WarningKind {
    /// The word in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            WarningKind::ToolFailed => "tool-failed",
            WarningKind::TimedOut => "timed-out",
            WarningKind::Truncated => "truncated",
            WarningKind::Parse => "parse",
            WarningKind::Sysfs => "sysfs",
            WarningKind::Limit => "limit",
        }
    }
}

/// Trouble of a probe; detection goes on without what it would have said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Warning {
    /// Family of the probe.
    pub family: String,
    /// Kind of trouble.
    pub kind: WarningKind,
    /// One sentence.
    pub message: String,
}

impl Found {
    /// A device about which nothing else is known yet.
    pub(crate) fn new(family: &str, kind: Kind, name: &str) -> Found {
        Found {
            family: family.to_owned(),
            kind,
            name: clean(name),
            available: false,
            device: None,
            profile: None,
            pci_address: None,
            pci_id: None,
            uuid: None,
            index: None,
            numa_node: None,
            driver: None,
            driver_version: None,
            memory_bytes: None,
            memory_used_bytes: None,
            memory_free_bytes: None,
            shared_memory: false,
            memory_bus_bits: None,
            memory_clock_mhz: None,
            clock_mhz: None,
            cores: None,
            compute_capability: None,
            temperature_c: None,
            power_w: None,
            power_limit_w: None,
            utilization_percent: None,
            ecc: None,
            mig: None,
            persistence: None,
            pcie: None,
            nodes: Vec::new(),
            sources: vec![family.to_owned()],
            facts: BTreeMap::new(),
        }
    }

    /// Notes a further fact when there is one.
    pub(crate) fn fact(&mut self, key: &str, value: Option<String>) {
        if let Some(value) = value.map(|value| clean(&value)).filter(|value| !value.is_empty()) {
            self.facts.insert(key.to_owned(), value);
        }
    }

    /// The name links use for it when its PCI address is not known.
    pub(crate) fn number(&self) -> Option<String> {
        self.index.map(|index| format!("{}#{index}", self.family))
    }

    /// Drops figures that cannot be, and says which.
    pub(crate) fn check(&mut self) -> Option<String> {
        let mut wrong = Vec::new();
        let memory = [&mut self.memory_bytes, &mut self.memory_used_bytes, &mut self.memory_free_bytes];
        for bytes in memory {
            if bytes.is_some_and(|bytes| bytes > MAX_MEMORY_BYTES) {
                *bytes = None;
                wrong.push("memory");
            }
        }
        drop_outside(&mut self.temperature_c, -100.0, 300.0, "temperature", &mut wrong);
        drop_outside(&mut self.power_w, 0.0, 1e5, "power", &mut wrong);
        drop_outside(&mut self.power_limit_w, 0.0, 1e5, "power limit", &mut wrong);
        drop_outside(&mut self.utilization_percent, 0.0, 100.0, "utilization", &mut wrong);
        drop_outside(&mut self.memory_clock_mhz, 0.0, 1e5, "memory clock", &mut wrong);
        drop_outside(&mut self.clock_mhz, 0.0, 1e5, "clock", &mut wrong);
        // A device without memory of its own says 0 where it means "the CPU's".
        self.memory_bytes = self.memory_bytes.filter(|&bytes| bytes > 0);
        (!wrong.is_empty()).then(|| format!("{}: {} out of range", self.name, wrong.join(", ")))
    }

    /// Takes from another sighting of the same device what this one does not know.
    pub(crate) fn absorb(&mut self, other: Found) {
        macro_rules! fill {
            ($($field:ident),*) => { $( self.$field = self.$field.take().or(other.$field); )* };
        }
        fill!(
            profile,
            pci_address,
            pci_id,
            uuid,
            index,
            numa_node,
            driver,
            driver_version,
            memory_bytes,
            memory_used_bytes,
            memory_free_bytes,
            memory_bus_bits,
            memory_clock_mhz,
            clock_mhz,
            cores,
            compute_capability,
            temperature_c,
            power_w,
            power_limit_w,
            utilization_percent,
            ecc,
            mig,
            persistence,
            pcie
        );
        self.available |= other.available;
        self.shared_memory |= other.shared_memory;
        for node in other.nodes.into_iter().filter(|node| !self.nodes.contains(node)).collect::<Vec<_>>() {
            self.nodes.push(node);
        }
        for source in other.sources {
            if !self.sources.contains(&source) {
                self.sources.push(source);
            }
        }
        for (key, value) in other.facts {
            self.facts.entry(key).or_insert(value);
        }
    }
}

fn drop_outside(value: &mut Option<f64>, least: f64, most: f64, name: &'static str, wrong: &mut Vec<&str>) {
    if value.is_some_and(|value| !(least..=most).contains(&value)) {
        *value = None;
        wrong.push(name);
    }
}

/// Text of a foreign source without control characters, of bounded length.
pub(crate) fn clean(text: &str) -> String {
    let plain = |(at, byte): (usize, u8)| byte.is_ascii_graphic() || (byte == b' ' && at > 0);
    if text.len() <= MAX_NAME_CHARS
        && text.bytes().enumerate().all(plain)
        && !text.contains("  ")
        && !text.ends_with(' ')
    {
        return text.to_owned();
    }
    let visible: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let words: Vec<&str> = visible.split_whitespace().collect();
    words.join(" ").chars().take(MAX_NAME_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_out_of_range_are_dropped() {
        let mut found = Found::new("test", Kind::Gpu, "a\u{1b}[31m\n gpu");
        assert_eq!(found.name, "a [31m gpu");
        found.memory_bytes = Some(u64::MAX);
        found.power_w = Some(f64::NAN);
        found.temperature_c = Some(40.0);
        assert!(found.check().is_some_and(|message| message.contains("memory, power")));
        assert_eq!((found.memory_bytes, found.power_w, found.temperature_c), (None, None, Some(40.0)));
    }

    #[test]
    fn what_is_known_stays_when_sightings_merge() {
        let mut smi = Found::new("nvidia", Kind::Gpu, "H100");
        smi.memory_bytes = Some(1);
        let mut vulkan = Found::new("vulkan", Kind::Gpu, "other name");
        (vulkan.memory_bytes, vulkan.driver_version) = (Some(2), Some("5".to_owned()));
        smi.absorb(vulkan);
        assert_eq!(
            (smi.name.as_str(), smi.memory_bytes, smi.driver_version.as_deref()),
            ("H100", Some(1), Some("5"))
        );
        assert_eq!(smi.sources, ["nvidia", "vulkan"]);
    }
}
