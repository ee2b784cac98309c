//! Cerebras systems: they are reached over the network, so the host shows little: nodes, a variable, a tool.

use crate::kind::Kind;
use crate::probe::families::numbered_nodes;
use crate::probe::found::Found;
use crate::probe::{Findings, Host, Probe};

pub(in crate::probe) const PROBE: Probe =
    Probe { family: FAMILY, about: "/dev/cerebras*, cerebras_cli info", run };

const FAMILY: &str = "cerebras";

/// Words of a system's name, profile, name.
const SYSTEMS: [(&str, &str, &str); 4] = [
    ("CS-3", "cerebras-wse3", "Cerebras CS-3"),
    ("WSE-3", "cerebras-wse3", "Cerebras CS-3"),
    ("CS-2", "cerebras-wse2", "Cerebras CS-2"),
    ("WSE-2", "cerebras-wse2", "Cerebras CS-2"),
];

fn run(host: &Host, findings: &mut Findings) {
    // One line a system; lines that name none are headers and remarks.
    let text = findings.tool(host, "cerebras_cli", &["info"]).unwrap_or_default();
    let named: Vec<_> =
        text.lines().filter_map(|line| SYSTEMS.iter().find(|row| line.contains(row.0))).collect();
    let nodes = numbered_nodes(host, "cerebras");
    for index in 0..named.len().max(nodes.len()) {
        let system = named.get(index);
        let mut found = Found::new(FAMILY, Kind::Custom, system.map_or("Cerebras system", |row| row.2));
        found.index = u32::try_from(index).ok();
        found.available = true;
        found.profile = system.map(|row| row.1.to_owned());
        found.nodes.extend(nodes.get(index).cloned());
        findings.device(host, found);
    }
}
