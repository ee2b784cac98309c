//! What surrounds the processors: links between them, network ports, memory on CXL, disks, containers and clouds.

pub(super) mod cxl;
pub(super) mod environment;
pub(super) mod fabric;
pub(super) mod nvlink;
pub(super) mod storage;
pub(super) mod xgmi;

use serde::{Deserialize, Serialize};

pub use cxl::CxlMemory;
pub use environment::{Cloud, Environment, Kubernetes};
pub use fabric::FabricPort;
pub use storage::Storage;

use crate::probe::found::PeerLink;

/// The surroundings of a machine's processors. Rates of unlike links are never added up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct System {
    /// Links between pairs of devices.
    pub links: Vec<PeerLink>,
    /// PCI addresses of switches between GPUs.
    pub switches: Vec<String>,
    /// Ports of InfiniBand and RoCE adapters.
    pub fabric: Vec<FabricPort>,
    /// Memory on CXL.
    pub cxl: Vec<CxlMemory>,
    /// Disks.
    pub storage: Vec<Storage>,
    /// Container, orchestrator and cloud.
    pub environment: Environment,
}

impl System {
    /// Adds what another probe found.
    pub(super) fn absorb(&mut self, other: System) {
        self.links.extend(other.links);
        self.switches.extend(other.switches);
        self.fabric.extend(other.fabric);
        self.cxl.extend(other.cxl);
        self.storage.extend(other.storage);
        if other.environment != Environment::default() {
            self.environment = other.environment;
        }
    }
}
