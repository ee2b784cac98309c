//! AMD's NPUs in Ryzen processors, both generations.

use crate::kind::Kind;
use crate::probe::families::on_bus;
use crate::probe::found::Found;
use crate::probe::pci::{PciFunction, accel_nodes};
use crate::probe::text::after;
use crate::probe::{Findings, Host, Probe};

pub(in crate::probe) const PROBE: Probe = Probe {
    family: FAMILY,
    about: "PCI 1022:1502 (XDNA) and 1022:17f0 (XDNA 2) with the revision, driver amdxdna, /dev/accel/accel*",
    run,
};

const FAMILY: &str = "xdna";

/// PCI vendor id.
const VENDOR: u32 = 0x1022;

/// Device ids of the first and the second generation.
const IDS: [u32; 2] = [0x1502, 0x17f0];

fn run(host: &Host, findings: &mut Findings) {
    let npus: Vec<&PciFunction> =
        host.pci_of(VENDOR).filter(|function| IDS.contains(&function.device)).collect();
    for (index, npu) in npus.into_iter().enumerate() {
        let mut found = on_bus(host, FAMILY, Kind::Npu, npu, "AMD XDNA NPU");
        found.index = u32::try_from(index).ok();
        found.shared_memory = true;
        found.nodes = accel_nodes(&host.root, &npu.address);
        found.fact("firmware", host.root.word(&npu.path("fw_version")));
        found.fact("board", host.root.word(&npu.path("vbnv")));
        let revision = host.root.hex(&npu.path("revision")).unwrap_or(0);
        if npu.device == IDS[0] {
            found.fact("generation", Some("XDNA".to_owned()));
            first_generation(host, &mut found);
        } else {
            found.fact("generation", Some("XDNA 2".to_owned()));
            second_generation(revision, &mut found);
        }
        findings.device(host, found);
    }
}

/// Phoenix (10 TOPS) and Hawk Point (16) share id and revision; the processor's number tells: 7x40 or 8x4x.
fn first_generation(host: &Host, found: &mut Found) {
    let text = host.root.text("proc/cpuinfo").unwrap_or_default();
    let model = after(&text, "model name").unwrap_or_default();
    let series = model.split_whitespace().find_map(|word| {
        let digits: String = word.chars().take_while(char::is_ascii_digit).collect();
        (digits.len() == 4).then_some(digits)
    });
    let series = series.unwrap_or_default();
    let (name, profile) = match series.as_bytes() {
        [b'7', _, b'4', _] => ("AMD XDNA NPU (Phoenix)", "amd-xdna1-phoenix"),
        [b'8', _, b'4', _] => ("AMD XDNA NPU (Hawk Point)", "amd-xdna1-hawkpoint"),
        _ => return,
    };
    found.name = name.to_owned();
    found.profile = Some(profile.to_owned());
}

/// Revisions of the driver's table: Strix, Strix Halo, Krackan.
fn second_generation(revision: u32, found: &mut Found) {
    let (name, profile) = match revision {
        0x10 => ("AMD XDNA 2 NPU (Strix)", Some("amd-xdna2-strix")),
        0x11 => ("AMD XDNA 2 NPU (Strix Halo)", None),
        0x20 => ("AMD XDNA 2 NPU (Krackan)", None),
        _ => return,
    };
    found.name = name.to_owned();
    found.profile = profile.map(str::to_owned);
}
