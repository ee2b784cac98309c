//! Qualcomm Cloud AI 100: the PCI bus and device nodes for how many, qaic-util for which.

use crate::kind::Kind;
use crate::probe::families::{numbered_nodes, on_bus};
use crate::probe::found::Found;
use crate::probe::pci::{PciFunction, accel_nodes, normal_address};
use crate::probe::text::{after, bytes, count, word};
use crate::probe::{Findings, Host, Probe};

pub(in crate::probe) const PROBE: Probe = Probe {
    family: FAMILY,
    about: "qaic-util -q, PCI 17cb:a100, /dev/accel/accel* of qaic, /dev/qaic_aic100_*",
    run,
};

const FAMILY: &str = "qualcomm";

/// PCI vendor and device id.
const ID: (u32, u32) = (0x17cb, 0xa100);

fn run(host: &Host, findings: &mut Findings) {
    if let Some(text) = findings.tool(host, "qaic-util", &["-q"]) {
        // A card begins with "QID 0".
        for card in text.split("QID ").skip(1) {
            let found = read_card(card);
            findings.device(host, found);
        }
    }
    let cards: Vec<&PciFunction> = host.pci_of(ID.0).filter(|function| function.device == ID.1).collect();
    for card in &cards {
        let mut found = on_bus(host, FAMILY, Kind::Custom, card, "Qualcomm Cloud AI 100");
        found.nodes = accel_nodes(&host.root, &card.address);
        findings.device(host, found);
    }
    if findings.devices().is_empty() {
        for (index, node) in numbered_nodes(host, "qaic_aic100_").into_iter().enumerate() {
            let mut found = Found::new(FAMILY, Kind::Custom, "Qualcomm Cloud AI 100");
            found.index = u32::try_from(index).ok();
            found.available = true;
            found.nodes.push(node);
            findings.device(host, found);
        }
    }
}

fn read_card(text: &str) -> Found {
    let mut found = Found::new(FAMILY, Kind::Custom, "Qualcomm Cloud AI 100");
    found.index = text.lines().next().and_then(count);
    found.available = after(text, "Status").is_some_and(|status| status.starts_with("Ready"));
    found.pci_address = after(text, "PCI Address").and_then(normal_address);
    found.memory_bytes = after(text, "Dram Total").and_then(|size| bytes(size, 1 << 20));
    found.memory_free_bytes = after(text, "Dram Free").and_then(|size| bytes(size, 1 << 20));
    found.cores = after(text, "Nsp Total").and_then(count);
    found.nodes.extend(after(text, "Dev Link").and_then(word));
    let kind = after(text, "SKU Type").unwrap_or_default();
    for (word, profile) in [
        ("Ultra", "qualcomm-ai100-ultra"),
        ("Pro", "qualcomm-ai100-pro"),
        ("Standard", "qualcomm-ai100-standard"),
    ] {
        if kind.contains(word) {
            found.name = format!("Qualcomm Cloud AI 100 {word}");
            found.profile = Some(profile.to_owned());
            break;
        }
    }
    found.fact("board", word(kind));
    found
}
