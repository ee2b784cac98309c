//! Signal processors that Linux starts as remote processors.

use crate::kind::Kind;
use crate::probe::found::Found;
use crate::probe::{Findings, Host, Probe};

pub(in crate::probe) const PROBE: Probe =
    Probe { family: FAMILY, about: "/sys/class/remoteproc: name, firmware and state", run };

const FAMILY: &str = "dsp";

/// Words of a firmware, profile and name.
const PARTS: [(&str, Option<&str>, &str); 4] = [
    ("j721e-c71", Some("ti-tda4vm-c7x-mma"), "TI C7x DSP (TDA4VM)"),
    ("-c71", None, "TI C7x DSP"),
    ("-c66", None, "TI C66x DSP"),
    ("sharc", None, "Analog Devices SHARC DSP"),
];

fn run(host: &Host, findings: &mut Findings) {
    let root = &host.root;
    for entry in root.list("sys/class/remoteproc") {
        let read = |file: &str| root.word(&format!("sys/class/remoteproc/{entry}/{file}"));
        let (name, firmware) = (read("name").unwrap_or_default(), read("firmware").unwrap_or_default());
        // Qualcomm's compute DSP is the Hexagon that the probe of its family counts.
        let is_dsp = name.contains("dsp") || PARTS.iter().any(|row| firmware.contains(row.0));
        if !is_dsp || name.contains("cdsp") {
            continue;
        }
        let part = PARTS.iter().find(|row| firmware.contains(row.0));
        let title = part.map_or_else(|| format!("DSP {name}"), |row| row.2.to_owned());
        let mut found = Found::new(FAMILY, Kind::Dsp, &title);
        found.index = entry.strip_prefix("remoteproc").and_then(|number| number.parse().ok());
        found.profile = part.and_then(|row| row.1).map(str::to_owned);
        found.shared_memory = true;
        let state = read("state");
        found.available = state.as_deref() == Some("running");
        found.fact("state", state);
        found.fact("firmware", Some(firmware));
        findings.device(host, found);
    }
}
