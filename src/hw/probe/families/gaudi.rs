//! Intel Gaudi: hl-smi where it is, else the PCI bus.

use crate::kind::Kind;
use crate::probe::families::on_bus;
use crate::probe::found::Found;
use crate::probe::pci::{PciFunction, accel_nodes, normal_address};
use crate::probe::text::{Csv, CsvRow};
use crate::probe::{Findings, Host, Probe, WarningKind};

pub(in crate::probe) const PROBE: Probe =
    Probe { family: FAMILY, about: "hl-smi -Q ... -f csv,nounits, PCI vendor 1da3", run };

const FAMILY: &str = "gaudi";

/// PCI vendor id.
const VENDOR: u32 = 0x1da3;

const QUERY: &str = "index,uuid,bus_id,name,driver_version,memory.total,memory.used,memory.free,temperature.aip,\
                     power.draw,utilization.aip";

fn run(host: &Host, findings: &mut Findings) {
    if let Some(text) = findings.tool(host, "hl-smi", &["-Q", QUERY, "-f", "csv,nounits"]) {
        read_table(host, &text, findings);
    }
    let cards: Vec<&PciFunction> = host.pci_of(VENDOR).filter(|function| function.device >= 0x1000).collect();
    for card in cards {
        let mut found = on_bus(host, FAMILY, Kind::Custom, card, "Habana accelerator");
        found.nodes = accel_nodes(&host.root, &card.address);
        findings.device(host, found);
    }
}

fn read_table(host: &Host, text: &str, findings: &mut Findings) {
    let Some(table) = Csv::parse(text, "index") else {
        return findings.warn(WarningKind::Parse, "hl-smi printed no table with a column named index");
    };
    let (rows, damaged) = table.rows();
    if damaged > 0 {
        findings
            .warn(WarningKind::Parse, format!("hl-smi printed {damaged} lines that do not fit its header"));
    }
    for found in rows.iter().filter_map(read_row) {
        findings.device(host, found);
    }
}

fn read_row(row: &CsvRow<'_, '_>) -> Option<Found> {
    let name = row.word("name")?;
    let mut found = Found::new(FAMILY, Kind::Custom, &format!("Intel Gaudi {name}"));
    found.available = true;
    found.index = row.count("index");
    found.uuid = row.word("uuid");
    found.pci_address = row.get("bus_id").and_then(normal_address);
    found.driver_version = row.word("driver_version");
    found.memory_bytes = row.bytes("memory.total", 1 << 20);
    found.memory_used_bytes = row.bytes("memory.used", 1 << 20);
    found.memory_free_bytes = row.bytes("memory.free", 1 << 20);
    found.temperature_c = row.number("temperature.aip");
    found.power_w = row.number("power.draw");
    found.utilization_percent = row.number("utilization.aip");
    // Boards are named HL-2xx with the second chip and HL-3xx with the third.
    let profile = [("HL-22", "intel-gaudi2"), ("HL-32", "intel-gaudi3")];
    found.profile = profile.iter().find(|(board, _)| name.starts_with(board)).map(|(_, id)| (*id).to_owned());
    Some(found)
}
