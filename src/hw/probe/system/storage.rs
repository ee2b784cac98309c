//! Disks by class, with a usual reading rate where the class has one.

use serde::{Deserialize, Serialize};

use crate::probe::found::clean;
use crate::probe::pci;
use crate::probe::{Findings, Host, Probe, WarningKind};

pub(in crate::probe) const PROBE: Probe =
    Probe { family: "storage", about: "/sys/block: class, size, model; the PCIe link of NVMe disks", run };

/// Most disks taken.
const MAX_DISKS: usize = 1024;

/// Devices that store nothing of their own.
const NO_DISKS: [&str; 9] = ["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd", "drbd"];

/// Class and its usual sequential reading rate in GB/s. Virtual disks may be anything, so theirs is unknown.
const CLASSES: [(&str, Option<f64>); 5] = [
    ("nvme", Some(3.5)),
    ("ssd", Some(0.55)),
    ("hdd", Some(0.15)),
    ("flash-card", Some(0.1)),
    ("virtual", None),
];

/// Share of a link's payload that reading attains.
const LINK_SHARE: f64 = 0.88;

/// A disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// Name, such as "nvme0n1".
    pub name: String,
    /// "nvme", "ssd", "hdd", "flash-card" or "virtual".
    pub class: String,
    /// Size in bytes.
    pub bytes: Option<u64>,
    /// Model.
    pub model: Option<String>,
    /// Reading rate in GB/s that is usual for the class, at most what the link carries; not measured.
    pub usual_read_gbs: Option<f64>,
    /// Where the rate comes from.
    pub origin: Option<String>,
}

impl Storage {
    /// Seconds to read that many bytes; `None` when the rate is not known.
    pub fn read_seconds(&self, bytes: u64) -> Option<f64> {
        self.usual_read_gbs.map(|gbs| bytes as f64 / (gbs * 1e9))
    }
}

fn run(host: &Host, findings: &mut Findings) {
    let is_disk = |name: &String| !NO_DISKS.iter().any(|prefix| name.starts_with(prefix));
    let disks: Vec<String> = host.root.list("sys/block").into_iter().filter(is_disk).collect();
    if disks.len() > MAX_DISKS {
        findings.warn(WarningKind::Limit, format!("more than {MAX_DISKS} disks"));
    }
    findings.system.storage = disks.iter().take(MAX_DISKS).map(|name| read_disk(host, name)).collect();
}

fn read_disk(host: &Host, name: &str) -> Storage {
    let root = &host.root;
    let at = |file: &str| format!("sys/block/{name}/{file}");
    let class = class(host, name);
    // Sizes are in sectors of 512 bytes whatever the disk's own are.
    let bytes =
        root.number::<u64>(&at("size")).and_then(|sectors| sectors.checked_mul(512)).filter(|&b| b > 0);
    let usual = CLASSES.iter().find(|row| row.0 == class).and_then(|row| row.1);
    let address = pci::address_of(root, &at("device")).filter(|_| class == "nvme");
    let function = address.and_then(|address| host.pci().iter().find(|function| function.address == address));
    let link =
        function.and_then(|function| pci::link(root, function)).map(|link| link.gbs_per_dir * LINK_SHARE);
    let slowed = usual.zip(link).filter(|(usual, link)| link < usual);
    let origin = match (usual, slowed) {
        (None, _) => None,
        (_, Some(_)) => Some("its PCIe link x 0.88".to_owned()),
        _ => Some(format!("usual for {class}, not measured")),
    };
    Storage {
        name: clean(name),
        class: class.to_owned(),
        bytes,
        model: root.word(&at("device/model")).map(|model| clean(&model)),
        usual_read_gbs: slowed.map(|(_, link)| link).or(usual),
        origin,
    }
}

fn class(host: &Host, name: &str) -> &'static str {
    let vendor = host.root.word(&format!("sys/block/{name}/device/vendor")).unwrap_or_default();
    if name.starts_with("nvme") {
        "nvme"
    } else if name.starts_with("vd")
        || name.starts_with("xvd")
        || ["QEMU", "Msft", "VMware"].contains(&vendor.as_str())
    {
        "virtual"
    } else if name.starts_with("mmcblk") {
        "flash-card"
    } else if host.root.number::<u32>(&format!("sys/block/{name}/queue/rotational")) == Some(1) {
        "hdd"
    } else {
        "ssd"
    }
}
