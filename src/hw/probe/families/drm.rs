//! GPUs of every other vendor that have a render node: Adreno, Mali, VideoCore, Vivante, PowerVR, nouveau, virtual ones.

use crate::kind::Kind;
use crate::probe::found::Found;
use crate::probe::pci::address_of;
use crate::probe::text::tree_strings;
use crate::probe::{Findings, Host, Probe};

pub(in crate::probe) const PROBE: Probe =
    Probe { family: FAMILY, about: "/sys/class/drm/renderD* with the driver and the device tree name", run };

const FAMILY: &str = "drm";

/// Drivers whose devices have probes of their own, and those that draw on the CPU.
const OTHERS: [&str; 9] =
    ["amdgpu", "radeon", "i915", "xe", "nvidia", "asahi", "vgem", "vkms", "faux_driver"];

/// Driver, what it drives, the vendor id Vulkan shows for it, and whether it uses the CPU's memory.
const DRIVERS: [(&str, &str, &str, bool); 10] = [
    ("msm", "Qualcomm Adreno GPU", "5143", true),
    ("msm_dpu", "Qualcomm Adreno GPU", "5143", true),
    ("panfrost", "Arm Mali GPU", "13b5", true),
    ("panthor", "Arm Mali GPU", "13b5", true),
    ("lima", "Arm Mali GPU", "13b5", true),
    ("v3d", "Broadcom VideoCore GPU", "14e4", true),
    ("etnaviv", "Vivante GPU", "10001", true),
    ("powervr", "Imagination PowerVR GPU", "1010", true),
    ("nouveau", "NVIDIA GPU (nouveau)", "10de", false),
    ("virtio_gpu", "Virtual GPU (virtio)", "1af4", true),
];

fn run(host: &Host, findings: &mut Findings) {
    let root = &host.root;
    for name in root.list("sys/class/drm").into_iter().filter(|name| name.starts_with("renderD")) {
        let folder = format!("sys/class/drm/{name}/device");
        let Some(driver) = root.link_name(&format!("{folder}/driver")) else { continue };
        if OTHERS.contains(&driver.as_str()) {
            continue;
        }
        let row = DRIVERS.iter().find(|row| row.0 == driver || driver.replace('-', "_") == row.0);
        let title = row.map_or_else(|| format!("GPU of the driver {driver}"), |row| row.1.to_owned());
        let mut found = Found::new(FAMILY, Kind::Gpu, &title);
        found.available = true;
        found.driver = Some(driver);
        found.shared_memory = row.is_some_and(|row| row.3);
        found.fact("vulkan vendor", row.map(|row| row.2.to_owned()));
        found.pci_address = address_of(root, &folder);
        found.nodes.push(format!("/dev/dri/{name}"));
        let tree = root.text(&format!("{folder}/of_node/compatible")).unwrap_or_default();
        found.fact("device tree", tree_strings(&tree).first().map(|&name| name.to_owned()));
        findings.device(host, found);
    }
}
