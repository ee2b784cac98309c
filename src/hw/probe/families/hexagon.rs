//! Qualcomm Hexagon processors under Linux: nodes of fastrpc, the chip by its device tree.

use crate::kind::Kind;
use crate::probe::families::compatible;
use crate::probe::found::Found;
use crate::probe::{Findings, Host, Probe};

pub(in crate::probe) const PROBE: Probe =
    Probe { family: FAMILY, about: "/dev/fastrpc-cdsp*, /dev/adsprpc-smd, chip by device tree", run };

const FAMILY: &str = "hexagon";

/// Device tree name, profile and name.
const CHIPS: [(&str, &str, &str); 3] = [
    ("qcom,x1e80100", "qualcomm-hexagon-x-elite", "Qualcomm Hexagon NPU (Snapdragon X Elite)"),
    ("qcom,sm8550", "qualcomm-hexagon-8gen2", "Qualcomm Hexagon (Snapdragon 8 Gen 2)"),
    ("qcom,sm8650", "qualcomm-hexagon-8gen3", "Qualcomm Hexagon (Snapdragon 8 Gen 3)"),
];

fn run(host: &Host, findings: &mut Findings) {
    let nodes = host.nodes();
    // The secure node is a second door to the same processor.
    let is_compute = |name: &&String| name.starts_with("fastrpc-cdsp") && !name.ends_with("-secure");
    let mut doors: Vec<&String> = nodes.iter().filter(is_compute).collect();
    if doors.is_empty() {
        doors = nodes.iter().filter(|name| *name == "adsprpc-smd").collect();
    }
    let names = compatible(host);
    let chip = CHIPS.iter().find(|row| names.iter().any(|name| name == row.0));
    for (index, door) in doors.into_iter().enumerate() {
        let mut found = Found::new(FAMILY, Kind::Npu, chip.map_or("Qualcomm Hexagon", |row| row.2));
        found.index = u32::try_from(index).ok();
        found.available = true;
        found.shared_memory = true;
        found.profile = chip.map(|row| row.1.to_owned());
        found.nodes.push(format!("/dev/{door}"));
        findings.device(host, found);
    }
}
