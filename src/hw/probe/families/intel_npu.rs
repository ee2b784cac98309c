//! Intel NPUs, where the driver of the kernel registers: the accel class and the PCI bus.

use crate::kind::Kind;
use crate::probe::families::on_bus;
use crate::probe::pci::{PciFunction, accel_nodes};
use crate::probe::{Findings, Host, Probe, pci_ids};

pub(in crate::probe) const PROBE: Probe = Probe {
    family: FAMILY,
    about: "PCI 8086:7d1d, ad1d, 643e, b03e or driver intel_vpu, /dev/accel/accel*",
    run,
};

const FAMILY: &str = "intel-npu";

/// PCI vendor id.
const VENDOR: u32 = 0x8086;

fn run(host: &Host, findings: &mut Findings) {
    let is_npu = |function: &&PciFunction| {
        let named = pci_ids::name(VENDOR, function.device).is_some_and(|name| name.contains("NPU"));
        named || host.root.link_name(&function.path("driver")).as_deref() == Some("intel_vpu")
    };
    let npus: Vec<&PciFunction> =
        host.pci_of(VENDOR).filter(|f| f.class >> 16 == 0x12).filter(is_npu).collect();
    for (index, npu) in npus.into_iter().enumerate() {
        let mut found = on_bus(host, FAMILY, Kind::Npu, npu, "Intel NPU");
        found.index = u32::try_from(index).ok();
        found.shared_memory = true;
        found.nodes = accel_nodes(&host.root, &npu.address);
        found.utilization_percent = None;
        found.clock_mhz = host.root.number(&npu.path("npu_max_frequency_mhz"));
        found.memory_used_bytes = host.root.number(&npu.path("npu_memory_utilization"));
        findings.device(host, found);
    }
}
