//! Memory on CXL: its size, and the one NUMA node that shows it.

use serde::{Deserialize, Serialize};

use crate::probe::pci::address_of;
use crate::probe::{Findings, Host, Probe};

pub(in crate::probe) const PROBE: Probe =
    Probe { family: "cxl", about: "/sys/bus/cxl/devices/mem*: sizes, serial number, NUMA node", run };

const DEVICES: &str = "sys/bus/cxl/devices";

/// A memory device on CXL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CxlMemory {
    /// Name, such as "mem0".
    pub name: String,
    /// Volatile memory in bytes.
    pub ram_bytes: Option<u64>,
    /// Persistent memory in bytes.
    pub pmem_bytes: Option<u64>,
    /// NUMA node it belongs to.
    pub numa_node: Option<u32>,
    /// True when that node is online: its memory then is part of the CPU's and must not be added to it.
    pub part_of_host_memory: bool,
    /// Serial number.
    pub serial: Option<String>,
    /// PCI address.
    pub pci_address: Option<String>,
}

fn run(host: &Host, findings: &mut Findings) {
    let root = &host.root;
    let online = crate::cpu::online_nodes(root);
    let is_memory = |name: &String| {
        name.strip_prefix("mem")
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    };
    for name in root.list(DEVICES).into_iter().filter(is_memory).take(1024) {
        let at = |file: &str| format!("{DEVICES}/{name}/{file}");
        let size = |file: &str| size_bytes(&root.word(&at(file))?);
        let numa_node = root.number(&at("numa_node"));
        findings.system.cxl.push(CxlMemory {
            ram_bytes: size("ram/size"),
            pmem_bytes: size("pmem/size"),
            numa_node,
            part_of_host_memory: numa_node.is_some_and(|node| online.contains(&node)),
            serial: root.word(&at("serial")).map(|serial| crate::probe::found::clean(&serial)),
            pci_address: address_of(root, &format!("{DEVICES}/{name}")),
            name,
        });
    }
}

/// Sizes are printed in base 16 behind "0x".
fn size_bytes(text: &str) -> Option<u64> {
    let size = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    size.filter(|&bytes| bytes > 0 && bytes < 1 << 60)
}
