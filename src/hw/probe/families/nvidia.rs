//! NVIDIA GPUs: nvidia-smi where it is, else the driver's files and the PCI bus; Jetson boards by their device tree.

use crate::adapter::profile_words;
use crate::kind::Kind;
use crate::probe::families::{compatible, on_bus};
use crate::probe::found::Found;
use crate::probe::pci::{PciFunction, normal_address};
use crate::probe::text::{Csv, CsvRow, after, flag};
use crate::probe::{Findings, Host, Probe, WarningKind};

pub(in crate::probe) const PROBE: Probe = Probe {
    family: FAMILY,
    about: "nvidia-smi --query-gpu, /proc/driver/nvidia/gpus, PCI vendor 10de, device tree of Jetson boards",
    run,
};

pub(in crate::probe) const FAMILY: &str = "nvidia";

/// PCI vendor id.
pub(in crate::probe) const VENDOR: u32 = 0x10de;

/// What is asked. Drivers refuse a query that holds one unknown name, so the second asks for less.
const QUERIES: [&str; 2] = [
    "--query-gpu=index,name,uuid,pci.bus_id,driver_version,vbios_version,memory.total,memory.used,memory.free,\
     compute_cap,temperature.gpu,power.draw,power.limit,utilization.gpu,clocks.max.memory,clocks.max.sm,\
     ecc.mode.current,mig.mode.current,persistence_mode",
    "--query-gpu=index,name,uuid,pci.bus_id,driver_version,memory.total,memory.used,memory.free,temperature.gpu,\
     power.draw,utilization.gpu",
];

/// Bytes of the unit nvidia-smi counts memory in.
const MIB: u64 = 1 << 20;

fn run(host: &Host, findings: &mut Findings) {
    from_tool(host, findings);
    from_bus(host, findings);
    from_board(host, findings);
}

fn from_tool(host: &Host, findings: &mut Findings) {
    let warnings = findings.warnings.len();
    for query in QUERIES {
        if let Some(text) = findings.tool(host, "nvidia-smi", &[query, "--format=csv,nounits"]) {
            // The refused query is not worth a warning when the smaller one is answered.
            findings.warnings.retain(|warning| warning.kind != WarningKind::ToolFailed);
            return read_table(host, &text, findings);
        }
        let refused =
            findings.warnings[warnings..].iter().any(|warning| warning.message.contains("not a valid field"));
        if !refused {
            return;
        }
    }
}

/// The devices of a table that `nvidia-smi --query-gpu=... --format=csv,nounits` printed; damaged lines are left out.
pub fn nvidia_smi_devices(text: &str) -> Vec<Found> {
    let table = Csv::parse(text, "index");
    table.iter().flat_map(|table| table.rows().0.iter().filter_map(read_row).collect::<Vec<_>>()).collect()
}

fn read_table(host: &Host, text: &str, findings: &mut Findings) {
    let Some(table) = Csv::parse(text, "index") else {
        return findings.warn(WarningKind::Parse, "nvidia-smi printed no table with a column named index");
    };
    let (rows, damaged) = table.rows();
    if damaged > 0 {
        findings.warn(
            WarningKind::Parse,
            format!("nvidia-smi printed {damaged} lines that do not fit its header"),
        );
    }
    for row in rows {
        match read_row(&row) {
            Some(found) => findings.device(host, found),
            None => findings.warn(WarningKind::Parse, "nvidia-smi printed a line without a name"),
        }
    }
}

fn read_row(row: &CsvRow<'_, '_>) -> Option<Found> {
    let mut found = Found::new(FAMILY, Kind::Gpu, &row.word("name")?);
    found.available = true;
    found.index = row.count("index");
    found.pci_address = row.get("pci.bus_id").and_then(normal_address);
    found.uuid = row.word("uuid");
    found.driver = Some(FAMILY.to_owned());
    found.driver_version = row.word("driver_version");
    found.memory_bytes = row.bytes("memory.total", MIB);
    found.memory_used_bytes = row.bytes("memory.used", MIB);
    found.memory_free_bytes = row.bytes("memory.free", MIB);
    found.compute_capability = row.word("compute_cap");
    found.temperature_c = row.number("temperature.gpu");
    found.power_w = row.number("power.draw");
    found.power_limit_w = row.number("power.limit");
    found.utilization_percent = row.number("utilization.gpu");
    found.memory_clock_mhz = row.number("clocks.max.memory");
    found.clock_mhz = row.number("clocks.max.sm");
    found.ecc = row.get("ecc.mode.current").and_then(flag);
    found.mig = row.get("mig.mode.current").and_then(flag);
    found.persistence = row.get("persistence_mode").and_then(flag);
    found.fact("vbios", row.word("vbios_version"));
    found.profile = profile_words(&found.name).map(str::to_owned);
    Some(found)
}

fn from_bus(host: &Host, findings: &mut Findings) {
    // GPUs are display controllers; switches and sound devices of the same vendor are not.
    let gpus: Vec<&PciFunction> =
        host.pci_of(VENDOR).filter(|function| function.class >> 16 == 0x03).collect();
    for gpu in gpus {
        let mut found = on_bus(host, FAMILY, Kind::Gpu, gpu, "NVIDIA GPU");
        let about = format!("proc/driver/nvidia/gpus/{}/information", gpu.address);
        if let Some(text) = host.root.text(&about) {
            if let Some(model) = after(&text, "Model") {
                found = Found { name: crate::probe::found::clean(model), ..found };
                found.profile = profile_words(&found.name).map(str::to_owned);
            }
            found.uuid = after(&text, "GPU UUID").filter(|uuid| !uuid.contains('?')).map(str::to_owned);
            found.fact(
                "vbios",
                after(&text, "Video BIOS").filter(|bios| !bios.contains('?')).map(str::to_owned),
            );
            found.nodes.extend(after(&text, "Device Minor").map(|minor| format!("/dev/nvidia{minor}")));
        }
        found.driver_version = driver_version(host);
        findings.device(host, found);
    }
}

/// "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 ..." or the module's own file.
fn driver_version(host: &Host) -> Option<String> {
    host.root.word("sys/module/nvidia/version").or_else(|| {
        let text = host.root.text("proc/driver/nvidia/version")?;
        let is_version =
            |word: &&str| word.contains('.') && word.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        text.split_whitespace().find(is_version).map(str::to_owned)
    })
}

/// Jetson GPUs sit on no bus and share the CPU's memory.
fn from_board(host: &Host, findings: &mut Findings) {
    let chips = [("nvidia,tegra234", "Orin"), ("nvidia,tegra194", "Xavier"), ("nvidia,tegra264", "Thor")];
    let names = compatible(host);
    let Some((_, chip)) = chips.iter().find(|(name, _)| names.iter().any(|known| known == name)) else {
        return;
    };
    let board = host.root.word("proc/device-tree/model").unwrap_or_else(|| format!("NVIDIA Jetson {chip}"));
    let board = board.trim_end_matches('\0');
    let mut found = Found::new(FAMILY, Kind::Gpu, board);
    found.available = host.root.exists("dev/nvhost-gpu") || host.root.exists("dev/nvgpu");
    found.shared_memory = true;
    found.index = Some(0);
    if board.contains("AGX Orin") && (board.contains("64GB") || has_64_gb(host)) {
        found.profile = Some("nvidia-jetson-agx-orin-64gb".to_owned());
    }
    findings.device(host, found);
}

/// The 64 GB board shows 61 to 62 GiB to Linux, the 32 GB one half of it.
fn has_64_gb(host: &Host) -> bool {
    crate::cpu::memory_bytes(&host.root).is_some_and(|bytes| bytes > 48 << 30)
}
