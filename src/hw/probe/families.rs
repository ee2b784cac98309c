//! One file per family of processors.

pub(super) mod amd;
pub(super) mod apple;
pub(super) mod ascend;
pub(super) mod cerebras;
pub(super) mod cpu;
pub(super) mod drm;
pub(super) mod dsp;
pub(super) mod edge_tpu;
pub(super) mod fpga;
pub(super) mod gaudi;
pub(super) mod graphcore;
pub(super) mod groq;
pub(super) mod hexagon;
pub(super) mod intel_gpu;
pub(super) mod intel_npu;
pub(super) mod mediatek;
pub(super) mod neuron;
pub(super) mod nvidia;
pub(super) mod qualcomm;
pub(super) mod samsung;
pub(super) mod tenstorrent;
pub(super) mod tpu;
pub(super) mod vulkan;
pub(super) mod windows;
pub(super) mod xdna;

use crate::kind::Kind;
use crate::probe::found::Found;
use crate::probe::pci::{self, PciFunction};
use crate::probe::{Host, pci_ids};

/// A device known by its place on the bus alone, under the name of its id.
fn on_bus(host: &Host, family: &str, kind: Kind, function: &PciFunction, unnamed: &str) -> Found {
    let name = pci_ids::name(function.vendor, function.device).unwrap_or(unnamed);
    pci::found_at(host, function, Found::new(family, kind, name))
}

/// Names in `dev` that are a prefix and a number, as paths.
fn numbered_nodes(host: &Host, prefix: &str) -> Vec<String> {
    let numbered = |name: &str| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    host.nodes().iter().filter(|name| numbered(name)).map(|name| format!("/dev/{name}")).collect()
}

/// What the board and its chip call themselves in the device tree.
fn compatible(host: &Host) -> Vec<String> {
    let text = host.root.text("proc/device-tree/compatible").unwrap_or_default();
    crate::probe::text::tree_strings(&text).into_iter().map(str::to_owned).collect()
}

/// Temperature in degrees, power and its limit in W of the first sensor below a device folder.
fn read_sensors(host: &Host, folder: &str, found: &mut Found) {
    let root = &host.root;
    for sensor in root.list(&format!("{folder}/hwmon")) {
        let read = |file: &str, scale: f64| {
            root.number::<f64>(&format!("{folder}/hwmon/{sensor}/{file}")).map(|value| value / scale)
        };
        found.temperature_c = found.temperature_c.or_else(|| read("temp1_input", 1e3));
        found.power_w =
            found.power_w.or_else(|| read("power1_average", 1e6)).or_else(|| read("power1_input", 1e6));
        found.power_limit_w =
            found.power_limit_w.or_else(|| read("power1_cap", 1e6)).or_else(|| read("power1_max", 1e6));
    }
}
