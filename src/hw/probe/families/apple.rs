//! Apple GPUs and Neural Engines: system_profiler on macOS, the device tree on Linux. Their memory is the CPU's.

use serde_json::Value;

use crate::kind::Kind;
use crate::probe::families::compatible;
use crate::probe::found::Found;
use crate::probe::text::{bytes, count, word};
use crate::probe::{Findings, Host, Probe, WarningKind};

pub(in crate::probe) const PROBE: Probe = Probe {
    family: FAMILY,
    about: "system_profiler SPHardwareDataType SPDisplaysDataType -json, device tree names apple,tNNNN",
    run,
};

const FAMILY: &str = "apple";

/// Device tree name and chip.
const CHIPS: [(&str, &str); 15] = [
    ("apple,t8103", "Apple M1"),
    ("apple,t6000", "Apple M1 Pro"),
    ("apple,t6001", "Apple M1 Max"),
    ("apple,t6002", "Apple M1 Ultra"),
    ("apple,t8112", "Apple M2"),
    ("apple,t6020", "Apple M2 Pro"),
    ("apple,t6021", "Apple M2 Max"),
    ("apple,t6022", "Apple M2 Ultra"),
    ("apple,t8122", "Apple M3"),
    ("apple,t6030", "Apple M3 Pro"),
    ("apple,t6031", "Apple M3 Max"),
    ("apple,t6034", "Apple M3 Max"),
    ("apple,t8132", "Apple M4"),
    ("apple,t6040", "Apple M4 Pro"),
    ("apple,t6041", "Apple M4 Max"),
];

/// Chip, GPU cores, profile: chips are sold with fewer cores too, and those are other parts.
const GPUS: [(&str, u32, &str); 10] = [
    ("Apple M1", 8, "apple-m1-gpu"),
    ("Apple M1 Max", 32, "apple-m1-max-gpu"),
    ("Apple M1 Ultra", 64, "apple-m1-ultra-gpu"),
    ("Apple M2", 10, "apple-m2-gpu"),
    ("Apple M2 Ultra", 76, "apple-m2-ultra-gpu"),
    ("Apple M3 Max", 30, "apple-m3-max-30c-gpu"),
    ("Apple M3 Max", 40, "apple-m3-max-40c-gpu"),
    ("Apple M3 Ultra", 80, "apple-m3-ultra-gpu"),
    ("Apple M4", 10, "apple-m4-gpu"),
    ("Apple M4 Max", 40, "apple-m4-max-40c-gpu"),
];

fn run(host: &Host, findings: &mut Findings) {
    let args = ["SPHardwareDataType", "SPDisplaysDataType", "-json"];
    if let Some(text) = findings.tool(host, "system_profiler", &args) {
        match serde_json::from_str::<Value>(&text) {
            Ok(report) => read_report(host, &report, findings),
            Err(error) => {
                findings.warn(WarningKind::Parse, format!("system_profiler printed no JSON: {error}"));
            }
        }
    }
    let names = compatible(host);
    if let Some((_, chip)) = CHIPS.iter().find(|(name, _)| names.iter().any(|known| known == name)) {
        let mut gpu = gpu(chip, None);
        gpu.available = host.root.exists("sys/bus/platform/drivers/asahi");
        gpu.driver = gpu.available.then(|| "asahi".to_owned());
        findings.device(host, gpu);
        findings.device(host, neural_engine(chip));
    }
}

fn read_report(host: &Host, report: &Value, findings: &mut Findings) {
    let hardware = report.pointer("/SPHardwareDataType/0");
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).and_then(word);
    let chip = hardware.and_then(|hardware| text(hardware, "chip_type"));
    let memory = hardware.and_then(|hardware| bytes(&text(hardware, "physical_memory")?, 1));
    let model = hardware.and_then(|hardware| text(hardware, "machine_model"));
    let empty = Vec::new();
    let displays = report.get("SPDisplaysDataType").and_then(Value::as_array).unwrap_or(&empty);
    for (index, display) in displays.iter().enumerate() {
        let Some(name) = text(display, "sppci_model").or_else(|| text(display, "_name")) else { continue };
        let cores = text(display, "sppci_cores").and_then(|cores| count(&cores));
        let mut found =
            if name.starts_with("Apple ") { gpu(&name, cores) } else { Found::new(FAMILY, Kind::Gpu, &name) };
        found.available = true;
        found.index = u32::try_from(index).ok();
        let own = text(display, "spdisplays_vram").and_then(|vram| bytes(&vram, 1));
        // Unified memory is the machine's and is counted with the CPU.
        found.memory_bytes = own.or(memory.filter(|_| found.shared_memory));
        found.fact("metal", text(display, "spdisplays_mtlgpufamilysupport"));
        found.fact("model", model.clone());
        findings.device(host, found);
    }
    if let Some(chip) = chip.filter(|chip| chip.starts_with("Apple M")) {
        let mut engine = neural_engine(&chip);
        engine.available = true;
        findings.device(host, engine);
    }
}

fn gpu(chip: &str, cores: Option<u32>) -> Found {
    let mut found = Found::new(FAMILY, Kind::Gpu, &format!("{chip} GPU"));
    found.shared_memory = true;
    found.cores = cores;
    let row = cores.and_then(|cores| GPUS.iter().find(|row| row.0 == chip && row.1 == cores));
    found.profile = row.map(|row| row.2.to_owned());
    found
}

/// Chips of a generation share one engine; an Ultra has two and is another part.
fn neural_engine(chip: &str) -> Found {
    let mut found = Found::new(FAMILY, Kind::Npu, &format!("{chip} Neural Engine"));
    found.shared_memory = true;
    let generation = chip.split(' ').nth(1).unwrap_or_default();
    if ["M1", "M2", "M3", "M4"].contains(&generation) && !chip.contains("Ultra") {
        found.profile = Some(format!("apple-{}-ane", generation.to_ascii_lowercase()));
    }
    found
}
