//! GPUs of Windows, as its management interface lists them.

use serde_json::Value;

use crate::adapter::profile_words;
use crate::kind::Kind;
use crate::probe::found::Found;
use crate::probe::pci::id_text;
use crate::probe::root::parse_hex;
use crate::probe::text::{after, bytes, word};
use crate::probe::{Findings, Host, Probe, WarningKind, pci_ids};

pub(in crate::probe) const PROBE: Probe = Probe {
    family: FAMILY,
    about: "Get-CimInstance Win32_VideoController by PowerShell, as JSON or as a list; wmic where that is missing",
    run,
};

const FAMILY: &str = "windows";

const QUERY: &str = "Get-CimInstance Win32_VideoController | Select-Object Name,AdapterRAM,DriverVersion,PNPDeviceID \
                     | ConvertTo-Json";

/// The field is 32 bits wide: from here on it only says "at least".
const FIELD_LIMIT_BYTES: u64 = 0xfff0_0000;

fn run(host: &Host, findings: &mut Findings) {
    let powershell = findings.tool(host, "powershell", &["-NoProfile", "-NonInteractive", "-Command", QUERY]);
    if let Some(text) = powershell {
        return read(host, &text, findings);
    }
    let fields = "Name,AdapterRAM,DriverVersion,PNPDeviceID";
    if let Some(text) =
        findings.tool(host, "wmic", &["path", "Win32_VideoController", "get", fields, "/format:list"])
    {
        read(host, &text, findings);
    }
}

fn read(host: &Host, text: &str, findings: &mut Findings) {
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.starts_with(['{', '[']) {
        match serde_json::from_str::<Value>(text) {
            Ok(Value::Array(list)) => list.iter().for_each(|entry| read_json(host, entry, findings)),
            Ok(entry) => read_json(host, &entry, findings),
            Err(error) => {
                findings.warn(WarningKind::Parse, format!("PowerShell printed broken JSON: {error}"));
            }
        }
        return;
    }
    // A list: "Name : ..." by PowerShell, "Name=..." by wmic, a blank line between controllers.
    let text = text.replace('\r', "");
    let mut seen = false;
    let mut block = String::new();
    for line in text.lines().chain([""]) {
        if line.trim().is_empty() {
            seen |= read_list(host, &block, findings);
            block.clear();
        } else {
            block.push_str(line);
            block.push('\n');
        }
    }
    if !seen && !text.is_empty() {
        findings.warn(WarningKind::Parse, "no video controller in what Windows printed");
    }
}

fn read_json(host: &Host, entry: &Value, findings: &mut Findings) {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).and_then(word);
    let Some(name) = text("Name") else { return };
    let memory = entry.get("AdapterRAM").and_then(Value::as_u64);
    controller(host, &name, memory, text("DriverVersion"), text("PNPDeviceID"), findings);
}

fn read_list(host: &Host, block: &str, findings: &mut Findings) -> bool {
    let text = |key: &str| after(block, key).and_then(word);
    let Some(name) = text("Name") else { return false };
    let memory = text("AdapterRAM").and_then(|size| bytes(&size, 1));
    controller(host, &name, memory, text("DriverVersion"), text("PNPDeviceID"), findings);
    true
}

fn controller(
    host: &Host,
    name: &str,
    memory: Option<u64>,
    version: Option<String>,
    path: Option<String>,
    findings: &mut Findings,
) {
    // Remote desktops and the driver of last resort are no processors.
    let path = path.unwrap_or_default();
    if !path.starts_with("PCI\\") && !path.starts_with("ACPI\\") && !path.is_empty()
        || name.contains("Basic Display")
    {
        return;
    }
    let mut found = Found::new(FAMILY, Kind::Gpu, name);
    found.available = true;
    found.memory_bytes = memory.filter(|&bytes| bytes < FIELD_LIMIT_BYTES);
    found.driver_version = version;
    let id = |key: &str| parse_hex(path.split_once(key)?.1.get(..4)?);
    if let Some((vendor, device)) = id("VEN_").zip(id("DEV_")) {
        found.pci_id = Some(id_text(vendor, device));
        found.profile = pci_ids::profile(vendor, device).map(str::to_owned);
    }
    found.profile = found.profile.take().or_else(|| profile_words(name).map(str::to_owned));
    findings.device(host, found);
}
