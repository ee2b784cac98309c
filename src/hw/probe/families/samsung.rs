//! Samsung NPUs: nodes of the Exynos driver, the chip by its device tree.

use crate::kind::Kind;
use crate::probe::families::compatible;
use crate::probe::found::Found;
use crate::probe::{Findings, Host, Probe};

pub(in crate::probe) const PROBE: Probe = Probe {
    family: FAMILY,
    about: "/sys/class/misc/samsung_npu, exynos_npu or npu, /dev/vertex10, chip by device tree",
    run,
};

const FAMILY: &str = "samsung";

/// Device tree name and profile.
const CHIPS: [(&str, &str); 3] = [
    ("samsung,exynos2100", "samsung-exynos-2100-npu"),
    ("samsung,exynos9840", "samsung-exynos-2100-npu"),
    ("samsung,exynosautov920", "samsung-exynos-auto-v920-npu"),
];

fn run(host: &Host, findings: &mut Findings) {
    let names = compatible(host);
    let is_exynos = names.iter().any(|name| name.starts_with("samsung,exynos"));
    let class =
        ["samsung_npu", "exynos_npu"].iter().find(|name| host.root.exists(&format!("sys/class/misc/{name}")));
    // Names that other vendors could use count only on the vendor's own chip.
    let plain = (is_exynos && host.root.exists("sys/class/misc/npu")).then_some(&"npu");
    let vertex = (is_exynos && host.root.exists("dev/vertex10")).then_some(&"vertex10");
    let Some(node) = class.or(plain).or(vertex) else { return };
    let profile = CHIPS.iter().find(|row| names.iter().any(|name| name == row.0)).map(|row| row.1.to_owned());
    let mut found = Found::new(FAMILY, Kind::Npu, "Samsung NPU");
    found.available = true;
    found.shared_memory = true;
    found.index = Some(0);
    found.profile = profile;
    found.nodes.push(format!("/dev/{node}"));
    findings.device(host, found);
}
