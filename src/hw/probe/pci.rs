//! The PCI bus, read once and used by every probe: ids, drivers, NUMA nodes and link speeds by address.

use crate::interconnect::pcie_gbs;
use crate::probe::Host;
use crate::probe::found::{Found, PcieLink};
use crate::probe::root::Root;

const DEVICES: &str = "sys/bus/pci/devices";

/// Most functions looked at.
const MAX_FUNCTIONS: usize = 16_384;

/// Largest NUMA node number believed.
const MAX_NODE: u32 = 4096;

/// One function of the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PciFunction {
    /// Address, such as "0000:c1:00.0".
    pub(crate) address: String,
    /// Vendor id.
    pub(crate) vendor: u32,
    /// Device id.
    pub(crate) device: u32,
    /// Class, subclass and interface.
    pub(crate) class: u32,
}

impl PciFunction {
    /// True for display controllers and processing accelerators.
    pub(crate) fn is_display_or_accelerator(&self) -> bool {
        matches!(self.class >> 16, 0x03 | 0x12)
    }

    /// The path of a file of this function.
    pub(crate) fn path(&self, file: &str) -> String {
        format!("{DEVICES}/{}/{file}", self.address)
    }

    /// The address without the function: cards may show several.
    pub(crate) fn slot(&self) -> &str {
        self.address.split('.').next().unwrap_or(&self.address)
    }
}

/// Every function, by address.
pub(crate) fn scan(root: &Root) -> Vec<PciFunction> {
    let names = root.list(DEVICES);
    let function = |name: String| {
        let address = normal_address(&name)?;
        let read = |file: &str| root.hex(&format!("{DEVICES}/{name}/{file}"));
        Some(PciFunction {
            address,
            vendor: read("vendor")?,
            device: read("device")?,
            class: read("class").unwrap_or(0),
        })
    };
    let mut functions: Vec<PciFunction> =
        names.into_iter().take(MAX_FUNCTIONS).filter_map(function).collect();
    functions.sort_by(|a, b| a.address.cmp(&b.address));
    functions
}

/// A PCI address in the form of sysfs; tools write domains of 8 digits, upper case, or leave them out.
pub(crate) fn normal_address(text: &str) -> Option<String> {
    let text = text.trim();
    let mut parts = text.rsplitn(3, ':');
    let (slot, bus) = (parts.next()?, parts.next()?);
    let domain = parts.next().unwrap_or("0");
    let (device, function) = slot.split_once('.').unwrap_or((slot, "0"));
    let hex = |text: &str, most: u32| u32::from_str_radix(text, 16).ok().filter(|&value| value <= most);
    let (domain, bus) = (hex(domain, 0x7fff_ffff)?, hex(bus, 0xff)?);
    let (device, function) = (hex(device, 0x1f)?, hex(function, 7)?);
    Some(format!("{domain:04x}:{bus:02x}:{device:02x}.{function}"))
}

/// The address in a device's real path; the device may be a child of the PCI function.
pub(crate) fn address_of(root: &Root, path: &str) -> Option<String> {
    root.real(path)?.rsplit('/').find(|part| part.contains('.')).and_then(normal_address)
}

/// "10de:2330".
pub(crate) fn id_text(vendor: u32, device: u32) -> String {
    format!("{vendor:04x}:{device:04x}")
}

/// A device of a function, with what the bus says about it.
pub(crate) fn found_at(host: &Host, function: &PciFunction, mut found: Found) -> Found {
    found.pci_address = Some(function.address.clone());
    complete(host, &mut found);
    found
}

/// Adds driver, ids, NUMA node and link of the function a device sits on. Every vendor's devices get them alike.
pub(crate) fn complete(host: &Host, found: &mut Found) {
    let Some(address) = found.pci_address.clone() else { return };
    let Some(function) = host.pci().iter().find(|function| function.address == address) else { return };
    let root = &host.root;
    found.pci_id.get_or_insert_with(|| id_text(function.vendor, function.device));
    found.driver = found.driver.take().or_else(|| root.link_name(&function.path("driver")));
    found.available |=
        found.driver.as_deref().is_some_and(|driver| driver != "vfio-pci" && driver != "pciback");
    // -1 says that the system has no nodes, or does not know.
    let node = root.number::<u32>(&function.path("numa_node")).filter(|&node| node <= MAX_NODE);
    found.numa_node = found.numa_node.or(node);
    found.pcie = found.pcie.or_else(|| link(root, function));
}

/// The link of a function: lanes in use, at the fastest rate that both ends can do.
///
/// The current rate is not used, because idle devices lower it. Cards with a switch of the same vendor on them
/// (AMD since Navi, Intel Arc) show made-up figures at the GPU: there the link of the card is that of the switch.
pub(crate) fn link(root: &Root, function: &PciFunction) -> Option<PcieLink> {
    let path = root.real(&format!("{DEVICES}/{}", function.address))?;
    let mut parts: Vec<&str> = path.split('/').collect();
    let bridges = parts.iter().filter(|part| normal_address(part).is_some()).count();
    // The first is the root port, which is no part of the card whatever its vendor.
    let vendor = |path: &[&str]| root.hex(&format!("{}/vendor", path.join("/")));
    for _ in 2..bridges {
        if vendor(&parts[..parts.len() - 1]) != Some(function.vendor) {
            break;
        }
        parts.pop();
    }
    let (own, port) = (parts.join("/"), parts[..parts.len() - 1].join("/"));
    let rate = |folder: &str| rate_gts(&root.word(&format!("{folder}/max_link_speed"))?);
    let gts = rate(&own)?;
    let gts = rate(&port).map_or(gts, |port| port.min(gts));
    let count =
        |file: &str| root.number::<u32>(&format!("{own}/{file}")).filter(|lanes| (1..=32).contains(lanes));
    let max_lanes = count("max_link_width");
    let lanes = count("current_link_width").or(max_lanes)?;
    let gbs_per_dir = pcie_gbs(generation(gts)?, lanes)?;
    Some(PcieLink { gts, lanes, max_lanes, gbs_per_dir })
}

/// "16.0 GT/s PCIe".
fn rate_gts(text: &str) -> Option<f64> {
    let rate: f64 = text.split_whitespace().next()?.parse().ok()?;
    generation(rate).map(|_| rate)
}

fn generation(gts: f64) -> Option<u32> {
    let rates = [2.5, 5.0, 8.0, 16.0, 32.0, 64.0];
    rates.iter().zip(1..).find(|&(&rate, _)| rate == gts).map(|(_, generation)| generation)
}

/// The `dev/accel/accelN` nodes of an address.
pub(crate) fn accel_nodes(root: &Root, address: &str) -> Vec<String> {
    let class = "sys/class/accel";
    let here =
        |name: &String| address_of(root, &format!("{class}/{name}/device")).as_deref() == Some(address);
    let names = root.list(class).into_iter().filter(here);
    names.map(|name| format!("/dev/accel/{name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_every_tool() {
        for text in ["0000:c1:00.0", "00000000:C1:00.0", "C1:00.0", "0:c1:0.0", " 0000:c1:00 "] {
            assert_eq!(normal_address(text).as_deref(), Some("0000:c1:00.0"), "{text}");
        }
        assert_eq!(normal_address("10000:e1:00.0").as_deref(), Some("10000:e1:00.0"));
        for text in ["", "c1", "zz:00.0", "0000:c1:20.0", "0000:c1:00.9", "é:é.é", "1:2:3:4.0"] {
            assert_eq!(normal_address(text), None, "{text}");
        }
    }

    #[test]
    fn rates_are_those_of_the_standard() {
        assert_eq!(rate_gts("16.0 GT/s PCIe"), Some(16.0));
        assert_eq!(rate_gts("Unknown"), None);
        assert_eq!(rate_gts("17.0 GT/s"), None);
    }
}
