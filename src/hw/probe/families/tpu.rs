//! Google TPUs: PCI vendor 1ae0, device nodes and the variables of TPU machines; links of the torus by version.

use crate::kind::Kind;
use crate::probe::families::{numbered_nodes, on_bus};
use crate::probe::found::{Found, PeerLink};
use crate::probe::pci::{PciFunction, address_of};
use crate::probe::{Findings, Host, Probe, pci_ids};

pub(in crate::probe) const PROBE: Probe = Probe {
    family: FAMILY,
    about: "PCI vendor 1ae0 with its device ids, /dev/accel* and /dev/vfio/*, TPU_ACCELERATOR_TYPE and its kin",
    run,
};

const FAMILY: &str = "tpu";

/// PCI vendor id.
const VENDOR: u32 = 0x1ae0;

/// The id that v2 and v3 share.
const V2_OR_V3: u32 = 0x0027;

/// Generations as accelerator types begin: "v5litepod-8" is eight chips of v5e.
const TYPES: [(&str, &str, &str); 9] = [
    ("v2-", "google-tpu-v2", "Google TPU v2"),
    ("v3-", "google-tpu-v3", "Google TPU v3"),
    ("v4-", "google-tpu-v4", "Google TPU v4"),
    ("v5litepod-", "google-tpu-v5e", "Google TPU v5e"),
    ("v5e-", "google-tpu-v5e", "Google TPU v5e"),
    ("v5p-", "google-tpu-v5p", "Google TPU v5p"),
    ("v6e-", "google-tpu-v6e", "Google TPU v6e"),
    ("v7x-", "google-tpu-7x", "Google TPU7x"),
    ("tpu7x-", "google-tpu-7x", "Google TPU7x"),
];

/// Profile and the interconnect between neighbours.
const TORUS: [(&str, &str); 4] = [
    ("google-tpu-v4", "ici-v4"),
    ("google-tpu-v5e", "ici-v5e"),
    ("google-tpu-v5p", "ici-v5p"),
    ("google-tpu-v6e", "ici-v6e"),
];

fn run(host: &Host, findings: &mut Findings) {
    let stated = host.variable("TPU_ACCELERATOR_TYPE").or_else(|| host.variable("ACCELERATOR_TYPE"));
    let stated = stated.and_then(|kind| TYPES.iter().find(|row| kind.starts_with(row.0)));
    let chips: Vec<&PciFunction> = host.pci_of(VENDOR).filter(|function| is_tpu(host, function)).collect();
    let nodes = numbered_nodes(host, "accel");
    for (index, chip) in chips.iter().enumerate() {
        let mut found = on_bus(host, FAMILY, Kind::Tpu, chip, "Google TPU of an unknown version");
        found.profile = pci_ids::profile(chip.vendor, chip.device).map(str::to_owned);
        found.index = u32::try_from(index).ok();
        found.nodes.extend(nodes.get(index).cloned());
        // There the machine's own word decides; an unknown id stays unknown.
        if let Some(row) = stated.filter(|_| chip.device == V2_OR_V3) {
            take_type(&mut found, row);
        }
        findings.device(host, found);
    }
    if chips.is_empty()
        && let Some(row) = stated
    {
        // Containers often hide the bus but not the nodes.
        for (index, node) in nodes.iter().enumerate() {
            let mut found = Found::new(FAMILY, Kind::Tpu, row.2);
            found.index = u32::try_from(index).ok();
            found.available = true;
            found.nodes.push(node.clone());
            take_type(&mut found, row);
            findings.device(host, found);
        }
    }
    link_neighbours(host, findings);
}

fn take_type(found: &mut Found, row: &(&str, &str, &str)) {
    found.name = row.2.to_owned();
    found.profile = Some(row.1.to_owned());
}

/// Google's network and storage functions share the vendor id: a TPU has a known id or an accelerator node.
fn is_tpu(host: &Host, function: &PciFunction) -> bool {
    let known = pci_ids::name(function.vendor, function.device).is_some();
    let is_node = || {
        let mut names = host.root.list("sys/class/accel").into_iter();
        names.any(|name| {
            address_of(&host.root, &format!("sys/class/accel/{name}/device")).as_deref()
                == Some(&function.address)
        })
    };
    known || is_node()
}

/// Chips of one host form a grid; neighbours along its axes are joined.
fn link_neighbours(host: &Host, findings: &mut Findings) {
    let bounds = host.variable("TPU_CHIPS_PER_HOST_BOUNDS").unwrap_or_default();
    let bounds: Vec<usize> = bounds.split(',').filter_map(|size| size.trim().parse().ok()).collect();
    let chips: Vec<(String, String)> = findings
        .devices()
        .iter()
        .map(|chip| (chip.pci_address.clone().or(chip.number()), chip.profile.clone()))
        .filter_map(|(end, profile)| Some((end?, profile?)))
        .collect();
    let product = bounds.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
    if bounds.is_empty() || product != Some(chips.len()) {
        return;
    }
    for (index, (from, profile)) in chips.iter().enumerate() {
        let Some((_, interconnect)) = TORUS.iter().find(|row| row.0 == profile) else { continue };
        let mut stride = 1;
        for &size in &bounds {
            let inside = index / stride % size + 1 < size;
            if let Some((to, _)) = chips.get(index + stride).filter(|_| inside) {
                findings.system.links.push(PeerLink {
                    from: from.clone(),
                    to: to.clone(),
                    kind: "ici".to_owned(),
                    links: 1,
                    interconnect: Some((*interconnect).to_owned()),
                    gbs_per_dir: None,
                    said: format!("neighbours in a grid of {bounds:?}"),
                });
            }
            stride *= size;
        }
    }
}
