//! AMD GPUs: the PCI bus, the files of amdgpu and the compute driver's topology.

use crate::kind::Kind;
use crate::probe::families::{on_bus, read_sensors};
use crate::probe::found::Found;
use crate::probe::pci::PciFunction;
use crate::probe::{Findings, Host, Probe, WarningKind};
use std::collections::BTreeMap;

pub(in crate::probe) const PROBE: Probe = Probe {
    family: FAMILY,
    about: "PCI vendor 1002, files of amdgpu (memory, clocks, load, sensors), /sys/class/kfd topology",
    run,
};

pub(in crate::probe) const FAMILY: &str = "amd";

/// PCI vendor id.
const VENDOR: u32 = 0x1002;

const KFD: &str = "sys/class/kfd/kfd/topology/nodes";

/// Radeon RX 7900 XTX among the boards that share an id: the revision tells.
const NAVI31: (u32, u32) = (0x744c, 0xc8);

fn run(host: &Host, findings: &mut Findings) {
    let nodes = kfd_nodes(host);
    let gpus: Vec<&PciFunction> = host.pci_of(VENDOR).filter(|f| f.is_display_or_accelerator()).collect();
    for (index, gpu) in gpus.into_iter().enumerate() {
        let mut found = on_bus(host, FAMILY, Kind::Gpu, gpu, "AMD GPU");
        found.index = u32::try_from(index).ok();
        read_driver(host, gpu, &mut found);
        if found.driver.as_deref() == Some("amdgpu") && found.memory_bytes.is_none() {
            findings.warn(
                WarningKind::Sysfs,
                format!("{}: amdgpu does not say how much memory it has", gpu.address),
            );
        }
        if let Some(node) = nodes.values().find(|node| node.address().as_deref() == Some(&gpu.address)) {
            read_node(host, node, &mut found);
        }
        findings.device(host, found);
    }
}

fn read_driver(host: &Host, gpu: &PciFunction, found: &mut Found) {
    let root = &host.root;
    let word = |file: &str| root.word(&gpu.path(file));
    let number = |file: &str| root.number::<u64>(&gpu.path(file));
    found.memory_bytes = number("mem_info_vram_total");
    found.memory_used_bytes = number("mem_info_vram_used");
    found.memory_free_bytes =
        found.memory_bytes.zip(found.memory_used_bytes).map(|(total, used)| total.saturating_sub(used));
    found.utilization_percent = root.number(&gpu.path("gpu_busy_percent"));
    found.memory_clock_mhz = word("pp_dpm_mclk").and_then(|text| highest_mhz(&text));
    found.clock_mhz = word("pp_dpm_sclk").and_then(|text| highest_mhz(&text));
    found.driver_version = root.word("sys/module/amdgpu/version");
    found.uuid = word("unique_id").map(|id| format!("GPU-{id}"));
    for (key, file) in [
        ("vbios", "vbios_version"),
        ("product", "product_name"),
        ("compute partition", "current_compute_partition"),
        ("memory partition", "current_memory_partition"),
    ] {
        found.fact(key, word(file));
    }
    if (gpu.device, root.hex(&gpu.path("revision")).unwrap_or(0)) == NAVI31 {
        found.name = "AMD Radeon RX 7900 XTX".to_owned();
        found.profile = Some("amd-rx7900xtx".to_owned());
    }
    if let Some(folder) = gpu.path("").strip_suffix('/') {
        read_sensors(host, folder, found);
    }
}

/// The largest of lines such as "2: 1200Mhz *".
fn highest_mhz(text: &str) -> Option<f64> {
    let mhz = |line: &str| crate::probe::text::number(line.split_once(':')?.1);
    text.lines().filter_map(mhz).max_by(f64::total_cmp)
}

/// What the compute driver knows of a node, and of its memory.
fn read_node(host: &Host, node: &KfdNode, found: &mut Found) {
    let target = node.number("gfx_target_version").filter(|&version| version > 0);
    // 90402 is gfx942: major, minor and stepping, the last two in base 16.
    found.compute_capability = target.map(|v| format!("gfx{}{:x}{:x}", v / 10_000, v / 100 % 100, v % 100));
    let per_unit = node.number("simd_per_cu").filter(|&count| count > 0);
    let units = node.number("simd_count").zip(per_unit).map(|(simds, per_unit)| simds / per_unit);
    found.cores = units.and_then(|units| u32::try_from(units).ok()).filter(|&units| units > 0);
    let bank = host.root.text(&format!("{KFD}/{}/mem_banks/0/properties", node.id)).unwrap_or_default();
    let bank = properties(&bank);
    let positive = |key: &str| bank.get(key).copied().filter(|&value| value > 0);
    found.memory_bus_bits = positive("width").and_then(|bits| u32::try_from(bits).ok());
    found.memory_clock_mhz = found.memory_clock_mhz.or(positive("mem_clk_max").map(|mhz| mhz as f64));
    if let Some(hive) = node.number("hive_id").filter(|&hive| hive > 0) {
        found.fact("xgmi hive", Some(format!("{hive:x}")));
    }
}

/// A node of the compute driver's topology.
pub(in crate::probe) struct KfdNode {
    pub(in crate::probe) id: u32,
    properties: BTreeMap<String, u64>,
}

impl KfdNode {
    pub(in crate::probe) fn number(&self, key: &str) -> Option<u64> {
        self.properties.get(key).copied()
    }

    /// Its PCI address; CPUs have none.
    pub(in crate::probe) fn address(&self) -> Option<String> {
        let location = self.number("location_id").filter(|&location| location > 0)?;
        let domain = self.number("domain").unwrap_or(0);
        let (bus, slot) = (location >> 8 & 0xff, location & 0xff);
        Some(format!("{domain:04x}:{bus:02x}:{:02x}.{}", slot >> 3, slot & 7))
    }
}

/// The nodes of the compute driver, by number.
pub(in crate::probe) fn kfd_nodes(host: &Host) -> BTreeMap<u32, KfdNode> {
    let node = |name: String| {
        let id = name.parse().ok()?;
        let text = host.root.text(&format!("{KFD}/{name}/properties"))?;
        Some((id, KfdNode { id, properties: properties(&text) }))
    };
    host.root.list(KFD).into_iter().take(4096).filter_map(node).collect()
}

/// Links of a node: properties of each.
pub(in crate::probe) fn kfd_links(host: &Host, node: u32) -> Vec<BTreeMap<String, u64>> {
    let folder = format!("{KFD}/{node}/io_links");
    let names = host.root.list(&folder).into_iter().take(4096);
    names
        .filter_map(|name| Some(properties(&host.root.text(&format!("{folder}/{name}/properties"))?)))
        .collect()
}

/// Lines of a name and a number.
fn properties(text: &str) -> BTreeMap<String, u64> {
    let pair = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}
