//! Huawei Ascend: the table of npu-smi, else the PCI bus, else device nodes.

use crate::kind::Kind;
use crate::probe::families::{numbered_nodes, on_bus};
use crate::probe::found::Found;
use crate::probe::pci::{PciFunction, normal_address};
use crate::probe::text::{count, number};
use crate::probe::{Findings, Host, Probe, WarningKind, pci_ids};

pub(in crate::probe) const PROBE: Probe = Probe {
    family: FAMILY,
    about: "npu-smi info, PCI vendor 19e5 with the ids of Ascend, /dev/davinci*",
    run,
};

const FAMILY: &str = "ascend";

/// PCI vendor id.
const VENDOR: u32 = 0x19e5;

fn run(host: &Host, findings: &mut Findings) {
    if let Some(text) = findings.tool(host, "npu-smi", &["info"]) {
        read_table(host, &text, findings);
    }
    let chips: Vec<&PciFunction> =
        host.pci_of(VENDOR).filter(|f| pci_ids::name(f.vendor, f.device).is_some()).collect();
    for chip in &chips {
        let found = on_bus(host, FAMILY, Kind::Npu, chip, "Huawei Ascend");
        findings.device(host, found);
    }
    if findings.devices().is_empty() {
        for (index, node) in numbered_nodes(host, "davinci").into_iter().enumerate() {
            let mut found = Found::new(FAMILY, Kind::Npu, "Huawei Ascend");
            found.index = u32::try_from(index).ok();
            found.available = true;
            found.nodes.push(node);
            findings.device(host, found);
        }
    }
}

/// Two lines a chip: number and name, health, figures; then chip, address, load and memory.
fn read_table(host: &Host, text: &str, findings: &mut Findings) {
    let rows = text.lines().filter(|line| line.trim_start().starts_with('|'));
    let cells = rows.map(|line| line.trim().trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    let mut first: Option<Vec<&str>> = None;
    let mut seen = 0;
    for cells in cells.filter(|cells| cells.len() == 3) {
        match (&first, normal_address(cells[1])) {
            (Some(upper), Some(address)) => {
                let found = read_chip(upper, &cells, address);
                findings.device(host, found);
                (first, seen) = (None, seen + 1);
            }
            _ => first = Some(cells),
        }
    }
    if seen == 0 {
        findings.warn(WarningKind::Parse, "npu-smi printed no table of chips");
    }
}

fn read_chip(upper: &[&str], lower: &[&str], address: String) -> Found {
    let mut words = upper[0].split_whitespace();
    let index = words.next().and_then(count);
    let name = words.next().unwrap_or("");
    let mut found = Found::new(FAMILY, Kind::Npu, &format!("Huawei Ascend {name}"));
    (found.index, found.pci_address) = (index, Some(address));
    found.available = upper[1].starts_with("OK");
    let mut figures = upper[2].split_whitespace().map(number);
    (found.power_w, found.temperature_c) = (figures.next().flatten(), figures.next().flatten());
    // "0    0 / 0    3340 / 65536": load, host memory, own memory; older chips have one pair only.
    let figures: Vec<f64> =
        lower[2].split(|c: char| c == '/' || c.is_whitespace()).filter_map(number).collect();
    found.utilization_percent = figures.first().copied();
    if let [.., used, total] = figures[..]
        && figures.len() >= 3
    {
        let bytes = |mib: f64| (0.0..1e9).contains(&mib).then_some((mib * 1_048_576.0) as u64);
        (found.memory_used_bytes, found.memory_bytes) = (bytes(used), bytes(total));
    }
    if name.starts_with("910B") {
        found.profile = Some("huawei-ascend-910b".to_owned());
    }
    found
}
