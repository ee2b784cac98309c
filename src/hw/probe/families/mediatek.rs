//! MediaTek APUs: device nodes, the chip by its device tree.

use crate::kind::Kind;
use crate::probe::families::{compatible, numbered_nodes};
use crate::probe::found::Found;
use crate::probe::{Findings, Host, Probe};

pub(in crate::probe) const PROBE: Probe =
    Probe { family: FAMILY, about: "/dev/mtk_mdla*, /dev/apusys, chip by device tree", run };

const FAMILY: &str = "mediatek";

/// Device tree name and profile.
const CHIPS: [(&str, &str); 3] = [
    ("mediatek,mt8195", "mediatek-genio-1200"),
    ("mediatek,mt8395", "mediatek-genio-1200"),
    ("mediatek,mt8196", "mediatek-kompanio-ultra-910"),
];

fn run(host: &Host, findings: &mut Findings) {
    // Several nodes are cores of one unit, whose figures are published together.
    let mut nodes = numbered_nodes(host, "mtk_mdla");
    let others = ["mtk_mdla", "apusys"].into_iter().filter(|name| host.root.exists(&format!("dev/{name}")));
    nodes.extend(others.map(|name| format!("/dev/{name}")));
    if nodes.is_empty() {
        return;
    }
    let names = compatible(host);
    let profile = CHIPS.iter().find(|row| names.iter().any(|name| name == row.0));
    let mut found = Found::new(FAMILY, Kind::Npu, "MediaTek APU");
    found.available = true;
    found.shared_memory = true;
    found.index = Some(0);
    found.profile = profile.map(|row| row.1.to_owned());
    found.nodes = nodes;
    findings.device(host, found);
}
