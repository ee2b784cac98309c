//! Intel GPUs: the PCI bus with the files of i915 and xe, and xpu-smi where it is.

use crate::kind::Kind;
use crate::probe::families::{on_bus, read_sensors};
use crate::probe::found::Found;
use crate::probe::pci::{PciFunction, address_of, normal_address};
use crate::probe::text::{Csv, CsvRow};
use crate::probe::{Findings, Host, Probe, WarningKind};

pub(in crate::probe) const PROBE: Probe = Probe {
    family: FAMILY,
    about: "xpu-smi discovery --dump, PCI vendor 8086 display controllers, files of i915 and xe",
    run,
};

const FAMILY: &str = "intel-gpu";

/// PCI vendor id.
const VENDOR: u32 = 0x8086;

/// Device id, name, driver, address, link, memory, bus, units.
const DUMP: &str = "1,2,4,8,11,13,14,16,18,19";

fn run(host: &Host, findings: &mut Findings) {
    let tool = findings.tool(host, "xpu-smi", &["discovery", "--dump", DUMP]);
    if let Some(text) = tool {
        read_dump(host, &text, findings);
    }
    let gpus: Vec<&PciFunction> =
        host.pci_of(VENDOR).filter(|function| function.class >> 16 == 0x03).collect();
    for gpu in gpus {
        let mut found = on_bus(host, FAMILY, Kind::Gpu, gpu, "Intel GPU");
        read_driver(host, gpu, &mut found);
        findings.device(host, found);
    }
}

fn read_dump(host: &Host, text: &str, findings: &mut Findings) {
    let Some(table) = Csv::parse(text, "device id") else {
        return findings.warn(WarningKind::Parse, "xpu-smi printed no table with a column named Device ID");
    };
    let (rows, damaged) = table.rows();
    if damaged > 0 {
        findings
            .warn(WarningKind::Parse, format!("xpu-smi printed {damaged} lines that do not fit its header"));
    }
    for found in rows.iter().filter_map(read_row) {
        findings.device(host, found);
    }
}

fn read_row(row: &CsvRow<'_, '_>) -> Option<Found> {
    let mut found = Found::new(FAMILY, Kind::Gpu, &row.word("device name")?);
    found.available = true;
    found.index = row.count("device id");
    found.uuid = row.word("soc uuid");
    found.driver_version = row.word("driver version");
    found.pci_address = row.word("pci bdf address").and_then(|address| normal_address(&address));
    found.memory_bytes = row.bytes("memory physical size", 1 << 20);
    found.memory_bus_bits = row.count("memory bus width").filter(|&bits| bits > 0);
    found.cores = row.count("number of eus").filter(|&units| units > 0);
    found.profile = crate::adapter::profile_words(&found.name).map(str::to_owned);
    Some(found)
}

fn read_driver(host: &Host, gpu: &PciFunction, found: &mut Found) {
    let root = &host.root;
    let card = |name: &String| {
        name.starts_with("card")
            && !name.contains('-')
            && address_of(root, &format!("sys/class/drm/{name}/device")).as_deref() == Some(&gpu.address)
    };
    let cards = root.list("sys/class/drm").into_iter().find(card);
    if let Some(card) = cards {
        let folder = format!("sys/class/drm/{card}");
        found.memory_bytes = root.number(&format!("{folder}/lmem_total_bytes"));
        found.clock_mhz = root
            .number(&format!("{folder}/gt_max_freq_mhz"))
            .or_else(|| root.number(&gpu.path("tile0/gt0/freq0/max_freq")));
        found.nodes.push(format!("/dev/dri/{card}"));
    }
    if found.memory_bytes.is_none() {
        // xe: one file per tile.
        let tiles =
            (0..8).map_while(|tile| root.number(&gpu.path(&format!("tile{tile}/physical_vram_size_bytes"))));
        found.memory_bytes = tiles.reduce(|a: u64, b: u64| a.saturating_add(b));
    }
    // Graphics of the processor sit at device 2 of bus 0 and use the CPU's memory.
    found.shared_memory = found.memory_bytes.is_none() && gpu.address.ends_with(":00:02.0");
    if let Some(folder) = gpu.path("").strip_suffix('/') {
        read_sensors(host, folder, found);
    }
}
