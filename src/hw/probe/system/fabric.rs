//! InfiniBand and RoCE: every port of every adapter.

use serde::{Deserialize, Serialize};

use crate::probe::found::clean;
use crate::probe::pci::address_of;
use crate::probe::text::number;
use crate::probe::{Findings, Host, Probe, WarningKind};

pub(in crate::probe) const PROBE: Probe = Probe {
    family: "fabric",
    about: "/sys/class/infiniband/*/ports/*: state, rate, link layer, types of the first addresses",
    run,
};

const CLASS: &str = "sys/class/infiniband";

/// Most ports taken.
const MAX_PORTS: usize = 1024;

/// Most addresses of a port that are looked at for their type.
const MAX_GIDS: usize = 16;

/// Rate in Gbit/s and the interconnect of that generation.
const INFINIBAND: [(f64, &str); 4] =
    [(100.0, "ib-edr"), (200.0, "ib-hdr"), (400.0, "ib-ndr"), (800.0, "ib-xdr")];

/// The same for RoCE version 2.
const ROCE: [(f64, &str); 2] = [(100.0, "rocev2-100g"), (400.0, "rocev2-400g")];

/// A port of a network adapter that moves memory by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FabricPort {
    /// Adapter, such as "mlx5_0".
    pub adapter: String,
    /// Port, from 1.
    pub port: u32,
    /// "infiniband", "roce-v1" or "roce-v2".
    pub kind: String,
    /// True when the port is active.
    pub active: bool,
    /// Rate in Gbit/s.
    pub gbit: Option<f64>,
    /// The same in GB/s, one direction.
    pub gbs_per_dir: Option<f64>,
    /// Id of the interconnect that describes it.
    pub interconnect: Option<String>,
    /// PCI address of the adapter.
    pub pci_address: Option<String>,
    /// NUMA node of the adapter.
    pub numa_node: Option<u32>,
    /// Network interface, for RoCE.
    pub interface: Option<String>,
}

fn run(host: &Host, findings: &mut Findings) {
    for adapter in host.root.list(CLASS) {
        for port in host.root.list(&format!("{CLASS}/{adapter}/ports")) {
            if findings.system.fabric.len() >= MAX_PORTS {
                return findings.warn(WarningKind::Limit, format!("more than {MAX_PORTS} ports"));
            }
            match read_port(host, &adapter, &port) {
                Some(port) => findings.system.fabric.push(port),
                None => findings
                    .warn(WarningKind::Sysfs, format!("{adapter} port {port} does not say what it is")),
            }
        }
    }
}

fn read_port(host: &Host, adapter: &str, port: &str) -> Option<FabricPort> {
    let root = &host.root;
    let folder = format!("{CLASS}/{adapter}/ports/{port}");
    let kind = match root.word(&format!("{folder}/link_layer"))?.as_str() {
        "InfiniBand" => "infiniband",
        "Ethernet" => roce_version(host, &folder),
        _ => return None,
    };
    let gbit = root
        .word(&format!("{folder}/rate"))
        .and_then(|text| number(&text))
        .filter(|rate| (0.1..1e5).contains(rate));
    let table: &[(f64, &str)] = match kind {
        "infiniband" => &INFINIBAND,
        "roce-v2" => &ROCE,
        _ => &[],
    };
    let row = gbit.and_then(|gbit| table.iter().find(|row| row.0 == gbit));
    Some(FabricPort {
        adapter: clean(adapter),
        port: port.parse().ok()?,
        kind: kind.to_owned(),
        active: root.word(&format!("{folder}/state")).is_some_and(|state| state.contains("ACTIVE")),
        gbit,
        gbs_per_dir: gbit.map(|gbit| gbit / 8.0),
        interconnect: row.map(|row| row.1.to_owned()),
        pci_address: address_of(root, &format!("{CLASS}/{adapter}/device")),
        numa_node: root.number(&format!("{CLASS}/{adapter}/device/numa_node")),
        interface: root.word(&format!("{folder}/gid_attrs/ndevs/0")).map(|name| clean(&name)),
    })
}

/// Version 2 when any address is of that type; unset addresses cannot be read.
fn roce_version(host: &Host, folder: &str) -> &'static str {
    let types = format!("{folder}/gid_attrs/types");
    let mut names = host.root.list(&types).into_iter().take(MAX_GIDS);
    let version_2 = |name: String| host.root.word(&format!("{types}/{name}")).as_deref() == Some("RoCE v2");
    if names.any(version_2) { "roce-v2" } else { "roce-v1" }
}
