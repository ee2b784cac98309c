//! Google's Edge TPU on PCI Express and on USB.

use crate::kind::Kind;
use crate::probe::families::on_bus;
use crate::probe::found::Found;
use crate::probe::pci::{PciFunction, address_of};
use crate::probe::text::number;
use crate::probe::{Findings, Host, Probe};

pub(in crate::probe) const PROBE: Probe =
    Probe { family: FAMILY, about: "PCI 1ac1:089a, /sys/class/apex, USB 1a6e:089a and 18d1:9302", run };

const FAMILY: &str = "edge-tpu";

/// PCI vendor and device id.
const ID: (u32, u32) = (0x1ac1, 0x089a);

/// USB ids before and after its firmware is loaded.
const USB: [(u32, u32); 2] = [(0x1a6e, 0x089a), (0x18d1, 0x9302)];

fn run(host: &Host, findings: &mut Findings) {
    let root = &host.root;
    let class = "sys/class/apex";
    let chips: Vec<&PciFunction> = host.pci_of(ID.0).filter(|function| function.device == ID.1).collect();
    for chip in chips {
        let mut found = on_bus(host, FAMILY, Kind::Npu, chip, "Google Edge TPU");
        let here = |name: &String| {
            address_of(root, &format!("{class}/{name}/device")).as_deref() == Some(&chip.address)
        };
        if let Some(name) = root.list(class).into_iter().find(here) {
            let temperature = root.word(&format!("{class}/{name}/temp"));
            found.temperature_c = temperature.and_then(|text| number(&text)).map(|value| value / 1e3);
            found.nodes.push(format!("/dev/{name}"));
        }
        findings.device(host, found);
    }
    for name in root.list("sys/bus/usb/devices") {
        let read = |file: &str| root.hex(&format!("sys/bus/usb/devices/{name}/{file}"));
        if read("idVendor").zip(read("idProduct")).is_some_and(|id| USB.contains(&id)) {
            let mut found = Found::new(FAMILY, Kind::Npu, "Google Coral Edge TPU (USB)");
            found.available = true;
            found.profile = Some("google-edge-tpu".to_owned());
            found.fact("usb", Some(name));
            findings.device(host, found);
        }
    }
}
