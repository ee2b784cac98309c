//! Whatever Vulkan shows. These are mostly devices that other probes saw as well; ids and names tell them apart later.

use crate::adapter::profile_words;
use crate::kind::Kind;
use crate::probe::found::Found;
use crate::probe::pci::id_text;
use crate::probe::root::parse_hex;
use crate::probe::text::{after, word};
use crate::probe::{Findings, Host, Probe, WarningKind, pci_ids};

pub(in crate::probe) const PROBE: Probe = Probe { family: FAMILY, about: "vulkaninfo --summary", run };

pub(in crate::probe) const FAMILY: &str = "vulkan";

/// What it says when there is no driver; that is an answer, not trouble.
const NO_DRIVER: [&str; 2] = ["ERROR_INCOMPATIBLE_DRIVER", "No DRI3 support"];

fn run(host: &Host, findings: &mut Findings) {
    let Some(text) = findings.tool(host, "vulkaninfo", &["--summary"]) else {
        findings.warnings.retain(|warning| !NO_DRIVER.iter().any(|known| warning.message.contains(known)));
        return;
    };
    if !text.contains("Devices:") {
        return findings.warn(WarningKind::Parse, "vulkaninfo printed no summary of devices");
    }
    // "GPU0:" begins a device; lines of its properties follow.
    let mut block = String::new();
    for line in text.lines().chain(["GPU"]) {
        let heading = line.trim_end().trim_end_matches(':');
        if heading.strip_prefix("GPU").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit())) {
            if let Some(found) = read(&block) {
                findings.device(host, found);
            }
            block.clear();
        } else {
            block.push_str(line);
            block.push('\n');
        }
    }
}

fn read(block: &str) -> Option<Found> {
    let kind = after(block, "deviceType")?;
    // Shaders on CPU cores are the CPU, which is counted already.
    if kind.ends_with("TYPE_CPU") {
        return None;
    }
    let name = after(block, "deviceName").and_then(word)?;
    let mut found = Found::new(FAMILY, Kind::Gpu, &name);
    found.available = true;
    found.shared_memory = kind.ends_with("INTEGRATED_GPU");
    let id = |key: &str| after(block, key).and_then(parse_hex);
    if let Some((vendor, device)) = id("vendorID").zip(id("deviceID")) {
        found.pci_id = Some(id_text(vendor, device));
        found.profile = pci_ids::profile(vendor, device).map(str::to_owned);
    }
    found.profile = found.profile.take().or_else(|| profile_words(&name).map(str::to_owned));
    found.uuid = after(block, "deviceUUID").and_then(word);
    found.driver_version = after(block, "driverInfo").and_then(word);
    found.fact("vulkan", after(block, "apiVersion").and_then(word));
    Some(found)
}
