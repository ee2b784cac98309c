//! Groq cards: the PCI bus, one function a chip; device nodes where the bus is hidden.

use crate::kind::Kind;
use crate::probe::families::{numbered_nodes, on_bus};
use crate::probe::found::Found;
use crate::probe::pci::PciFunction;
use crate::probe::{Findings, Host, Probe};

pub(in crate::probe) const PROBE: Probe =
    Probe { family: FAMILY, about: "PCI 1de0:0000, one function a chip, /dev/groqA*", run };

const FAMILY: &str = "groq";

/// PCI vendor id.
const VENDOR: u32 = 0x1de0;

fn run(host: &Host, findings: &mut Findings) {
    let nodes = numbered_nodes(host, "groqA");
    let chips: Vec<&PciFunction> = host.pci_of(VENDOR).collect();
    for (index, chip) in chips.iter().enumerate() {
        let mut found = on_bus(host, FAMILY, Kind::Lpu, chip, "Groq device");
        found.index = u32::try_from(index).ok();
        found.nodes.extend(nodes.get(index).cloned());
        findings.device(host, found);
    }
    if chips.is_empty() {
        for (index, node) in nodes.into_iter().enumerate() {
            let mut found = Found::new(FAMILY, Kind::Lpu, "Groq LPU (GroqChip)");
            found.profile = Some("groq-lpu1".to_owned());
            found.index = u32::try_from(index).ok();
            found.available = true;
            found.nodes.push(node);
            findings.device(host, found);
        }
    }
}
