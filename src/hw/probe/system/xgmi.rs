//! xGMI between AMD GPUs: the links of the compute driver's topology, each with both ends and its rates.

use crate::probe::families::amd::{kfd_links, kfd_nodes};
use crate::probe::found::PeerLink;
use crate::probe::{Findings, Host, Probe};

pub(in crate::probe) const PROBE: Probe =
    Probe { family: "xgmi", about: "/sys/class/kfd/kfd/topology/nodes/*/io_links of type 11", run };

/// Type of an xGMI link in the compute driver's table.
const XGMI: u64 = 11;

fn run(host: &Host, findings: &mut Findings) {
    let nodes = kfd_nodes(host);
    for node in nodes.values() {
        let Some(from) = node.address() else { continue };
        for properties in kfd_links(host, node.id) {
            let read = |key: &str| properties.get(key).copied();
            let other = read("node_to").and_then(|id| nodes.get(&u32::try_from(id).ok()?));
            // Each pair is listed from both ends; the lower node keeps it.
            let Some(other) = other.filter(|other| read("type") == Some(XGMI) && other.id > node.id) else {
                continue;
            };
            let Some(to) = other.address() else { continue };
            let megabytes = read("max_bandwidth").filter(|&rate| (1..10_000_000).contains(&rate));
            findings.system.links.push(PeerLink {
                from: from.clone(),
                to,
                kind: "xgmi".to_owned(),
                links: 1,
                interconnect: None,
                gbs_per_dir: megabytes.map(|rate| rate as f64 / 1e3),
                said: format!("io_link of node {}, weight {}", node.id, read("weight").unwrap_or(0)),
            });
        }
    }
}
