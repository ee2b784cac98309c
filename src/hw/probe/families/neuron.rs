//! AWS Inferentia and Trainium: neuron-ls, the driver's files, the PCI bus, the instance type.

use serde_json::Value;

use crate::kind::Kind;
use crate::probe::families::{numbered_nodes, on_bus};
use crate::probe::found::{Found, PeerLink};
use crate::probe::pci::{PciFunction, normal_address};
use crate::probe::{Findings, Host, Probe, WarningKind, pci_ids};

pub(in crate::probe) const PROBE: Probe = Probe {
    family: FAMILY,
    about: "neuron-ls --json-output, PCI vendor 1d0f with the ids of Neuron, /dev/neuron*, instance type by DMI",
    run,
};

const FAMILY: &str = "neuron";

/// PCI vendor id.
const VENDOR: u32 = 0x1d0f;

/// Instance type, profile and name.
const INSTANCES: [(&str, &str, &str); 6] = [
    ("inf1.", "aws-inferentia1", "AWS Inferentia"),
    ("inf2.", "aws-inferentia2", "AWS Inferentia2"),
    ("trn1", "aws-trainium1", "AWS Trainium"),
    ("trn2", "aws-trainium2", "AWS Trainium2"),
    ("trn3", "aws-trainium3", "AWS Trainium3"),
    ("u-trn3", "aws-trainium3", "AWS Trainium3"),
];

fn run(host: &Host, findings: &mut Findings) {
    let chips: Vec<&PciFunction> =
        host.pci_of(VENDOR).filter(|f| pci_ids::name(f.vendor, f.device).is_some()).collect();
    let nodes = numbered_nodes(host, "neuron");
    let instance = host.root.word("sys/class/dmi/id/product_name").unwrap_or_default();
    let instance = INSTANCES.iter().find(|row| instance.starts_with(row.0));
    if let Some(text) = findings.tool(host, "neuron-ls", &["--json-output"]) {
        read_list(host, &text, instance, findings);
    }
    for chip in &chips {
        let found = on_bus(host, FAMILY, Kind::Custom, chip, "AWS Neuron device");
        findings.device(host, found);
    }
    if findings.devices().is_empty() {
        for (index, node) in nodes.into_iter().enumerate() {
            let mut found = named(instance);
            found.index = u32::try_from(index).ok();
            found.available = true;
            found.nodes.push(node);
            findings.device(host, found);
        }
    }
}

fn named(instance: Option<&(&str, &str, &str)>) -> Found {
    let mut found = Found::new(FAMILY, Kind::Custom, instance.map_or("AWS Neuron device", |row| row.2));
    found.profile = instance.map(|row| row.1.to_owned());
    found
}

fn read_list(host: &Host, text: &str, instance: Option<&(&str, &str, &str)>, findings: &mut Findings) {
    let report: Value = match serde_json::from_str(text) {
        Ok(report) => report,
        Err(error) => {
            return findings.warn(WarningKind::Parse, format!("neuron-ls printed no JSON: {error}"));
        }
    };
    // A list, or an object that holds one, by version.
    let list = report.as_array().or_else(|| report.as_object()?.values().find_map(Value::as_array));
    let Some(list) = list else {
        return findings.warn(WarningKind::Parse, "neuron-ls printed no list of devices");
    };
    for entry in list {
        let Some(index) = number(entry, "neuron_device") else {
            findings.warn(WarningKind::Parse, "neuron-ls printed a device without a number");
            continue;
        };
        let mut found = named(instance);
        found.index = u32::try_from(index).ok();
        found.available = true;
        found.pci_address = entry.get("bdf").and_then(Value::as_str).and_then(normal_address);
        found.cores = number(entry, "nc_count").and_then(|count| u32::try_from(count).ok());
        found.memory_bytes = number(entry, "memory_size");
        found.nodes.push(format!("/dev/neuron{index}"));
        link(entry, index, findings);
        name_by_id(host, &mut found);
        findings.device(host, found);
    }
}

/// The chip's own id is surer than the name of the instance.
fn name_by_id(host: &Host, found: &mut Found) {
    let chip = host.pci_of(VENDOR).find(|function| Some(&function.address) == found.pci_address.as_ref());
    if let Some((name, id)) =
        chip.and_then(|f| pci_ids::name(f.vendor, f.device).zip(pci_ids::profile(f.vendor, f.device)))
    {
        (found.name, found.profile) = (name.to_owned(), Some(id.to_owned()));
    }
}

fn number(entry: &Value, key: &str) -> Option<u64> {
    entry.get(key).and_then(Value::as_u64)
}

/// Each pair is listed from both ends; the lower number keeps it.
fn link(entry: &Value, index: u64, findings: &mut Findings) {
    let others = entry.get("connected_to").and_then(Value::as_array);
    for other in
        others.into_iter().flatten().filter_map(Value::as_u64).take(64).filter(|&other| other > index)
    {
        findings.system.links.push(PeerLink {
            from: format!("{FAMILY}#{index}"),
            to: format!("{FAMILY}#{other}"),
            kind: "neuronlink".to_owned(),
            links: 1,
            interconnect: None,
            gbs_per_dir: None,
            said: "connected_to of neuron-ls".to_owned(),
        });
    }
}
