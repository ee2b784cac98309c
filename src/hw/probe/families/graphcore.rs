//! Graphcore IPUs: gc-info, device nodes, the PCI bus.

use crate::kind::Kind;
use crate::probe::families::{numbered_nodes, on_bus};
use crate::probe::found::Found;
use crate::probe::pci::{PciFunction, normal_address};
use crate::probe::{Findings, Host, Probe};

pub(in crate::probe) const PROBE: Probe =
    Probe { family: FAMILY, about: "gc-info --list-devices, PCI vendor 1d95, /dev/ipu*", run };

const FAMILY: &str = "graphcore";

/// PCI vendor id.
const VENDOR: u32 = 0x1d95;

fn run(host: &Host, findings: &mut Findings) {
    if let Some(text) = findings.tool(host, "gc-info", &["--list-devices"]) {
        // "-+- Id: [0], target: [PCIe], PCI Domain: [0000:11:00.0]"; groups name no domain and are no more chips.
        for line in
            text.lines().filter(|line| line.trim_start().starts_with("-+- Id") && line.contains("PCI Domain"))
        {
            let mut found = named(&text);
            found.index = bracketed(line, "Id").and_then(crate::probe::text::count);
            found.pci_address = bracketed(line, "PCI Domain").and_then(normal_address);
            found.available = true;
            findings.device(host, found);
        }
    }
    let chips: Vec<&PciFunction> = host.pci_of(VENDOR).collect();
    for chip in &chips {
        let found = on_bus(host, FAMILY, Kind::Custom, chip, "Graphcore IPU");
        findings.device(host, found);
    }
    if findings.devices().is_empty() {
        for (index, node) in numbered_nodes(host, "ipu").into_iter().enumerate() {
            let mut found = named("");
            found.index = u32::try_from(index).ok();
            found.available = true;
            found.nodes.push(node);
            findings.device(host, found);
        }
    }
}

fn named(text: &str) -> Found {
    let (name, profile) = if text.contains("Bow") {
        ("Graphcore Bow IPU", Some("graphcore-bow"))
    } else if text.contains("GC200") || text.contains("Mk2") || text.contains("M2000") {
        ("Graphcore GC200 IPU", Some("graphcore-gc200"))
    } else {
        ("Graphcore IPU", None)
    };
    let mut found = Found::new(FAMILY, Kind::Custom, name);
    found.profile = profile.map(str::to_owned);
    found
}

/// The value of "key: [value]".
fn bracketed<'l>(line: &'l str, key: &str) -> Option<&'l str> {
    let rest = line.split_once(&format!("{key}:"))?.1;
    Some(rest.split_once('[')?.1.split_once(']')?.0)
}
