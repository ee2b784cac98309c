//! FPGA cards of AMD (XRT) and Intel (OPAE), each card once; FPGAs of boards by the kernel's manager.

use std::collections::BTreeSet;

use crate::kind::Kind;
use crate::probe::families::on_bus;
use crate::probe::found::Found;
use crate::probe::pci::PciFunction;
use crate::probe::{Findings, Host, Probe, pci_ids};

pub(in crate::probe) const PROBE: Probe = Probe {
    family: FAMILY,
    about: "PCI 10ee (Alveo, driver xocl or xclmgmt), Intel PAC ids and driver dfl-pci, /sys/class/fpga_manager",
    run,
};

const FAMILY: &str = "fpga";

/// PCI vendor ids of Xilinx and Intel.
const VENDORS: [u32; 2] = [0x10ee, 0x8086];

/// Drivers of FPGA cards.
const DRIVERS: [&str; 5] = ["xocl", "xclmgmt", "dfl-pci", "intel-fpga-pci", "xdma"];

fn run(host: &Host, findings: &mut Findings) {
    let is_fpga = |function: &&PciFunction| {
        let named = pci_ids::name(function.vendor, function.device)
            .is_some_and(|name| name.contains("Alveo") || name.contains("FPGA"));
        let driver = || host.root.link_name(&function.path("driver"));
        named || driver().is_some_and(|driver| DRIVERS.contains(&driver.as_str()))
    };
    let candidates = host.pci().iter().filter(|function| VENDORS.contains(&function.vendor));
    let mut functions: Vec<&PciFunction> = candidates.filter(is_fpga).collect();
    // A card shows a function for management and one for users; the user's comes first.
    functions.sort_by_key(|f| (f.slot().to_owned(), management(f)));
    let mut slots = BTreeSet::new();
    for function in functions {
        if slots.insert(function.slot().to_owned()) {
            let mut found = on_bus(host, FAMILY, Kind::Fpga, function, "FPGA card");
            found.name = found.name.replace(" (management)", "");
            findings.device(host, found);
        }
    }
    let root = &host.root;
    for (index, name) in root.list("sys/class/fpga_manager").into_iter().enumerate() {
        // Managers of cards hang below a PCI function and were counted.
        let folder = format!("sys/class/fpga_manager/{name}");
        if crate::probe::pci::address_of(root, &format!("{folder}/device")).is_some() {
            continue;
        }
        let title = root.word(&format!("{folder}/name")).unwrap_or_else(|| "FPGA".to_owned());
        let mut found = Found::new(FAMILY, Kind::Fpga, &title);
        found.index = u32::try_from(index).ok();
        found.available = true;
        found.shared_memory = true;
        found.fact("state", root.word(&format!("{folder}/state")));
        findings.device(host, found);
    }
}

fn management(function: &PciFunction) -> bool {
    pci_ids::name(function.vendor, function.device).is_some_and(|name| name.contains("management"))
}
