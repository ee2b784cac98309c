//! What was found on the running machine, as JSON with a schema version and as a table for people.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::adapter::AdapterInfo;
use crate::cpu::CpuInfo;
use crate::listing::{Column, Filter, Row, USUAL_COLUMNS, table};
use crate::machine::Machine;
use crate::probe::{Detection, Found, System, Timing, Warning};
use crate::profile::Profiles;

/// Version of the JSON; it grows when a reader of the old form would misread the new one.
pub const DEVICE_REPORT_SCHEMA: u32 = 2;

/// Everything detection found, and the machine it makes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DeviceReport {
    /// Version of this form.
    pub schema: u32,
    /// The CPU.
    pub cpu: CpuInfo,
    /// Other processors, each once.
    pub devices: Vec<Found>,
    /// Links between them, and what surrounds them.
    pub system: System,
    /// The adapters, repeats included.
    pub adapters: Vec<AdapterInfo>,
    /// Trouble on the way.
    pub warnings: Vec<Warning>,
    /// How long each probe took, when asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timings: Vec<Timing>,
    /// The machine they make.
    pub machine: Machine,
}

impl DeviceReport {
    /// A report of these findings.
    pub fn new(mut detection: Detection, adapters: Vec<AdapterInfo>, profiles: &Profiles) -> DeviceReport {
        // Shaders on CPU cores are the CPU, which is there already.
        let hardware: Vec<AdapterInfo> =
            adapters.iter().filter(|adapter| !adapter.is_software()).cloned().collect();
        let machine = Machine::found(&mut detection, &hardware, profiles);
        let Detection { cpu, devices, system, warnings, timings } = detection;
        DeviceReport {
            schema: DEVICE_REPORT_SCHEMA,
            cpu,
            devices,
            system,
            adapters,
            warnings,
            timings,
            machine,
        }
    }

    /// A report of a machine that nobody looked at.
    pub fn of_machine(machine: Machine) -> DeviceReport {
        let Detection { mut cpu, devices, system, warnings, timings } = Detection::default();
        "unknown".clone_into(&mut cpu.arch);
        DeviceReport {
            schema: DEVICE_REPORT_SCHEMA,
            cpu,
            devices,
            system,
            adapters: Vec::new(),
            warnings,
            timings,
            machine,
        }
    }

    /// Keeps the devices a filter wants. The host stays in the machine, because everything is reached from it.
    pub fn keep(&mut self, filter: &Filter) {
        if *filter != Filter::default() {
            let (names, seen) = split(&self.rows(filter));
            self.keep_these(names, seen);
        }
    }

    /// Keeps the best of the devices a filter wants, and the host.
    pub fn keep_best(&mut self, filter: &Filter) {
        let best: Vec<Row<'_>> = self.best(filter).into_iter().collect();
        let (names, seen) = split(&best);
        self.keep_these(names, seen);
    }

    fn keep_these(&mut self, mut names: Vec<String>, seen: Vec<Found>) {
        names.extend(self.machine.devices.get(self.machine.host).map(|host| host.name.clone()));
        self.machine.keep(&names);
        self.devices = seen;
    }

    /// Reads a report.
    ///
    /// # Errors
    /// What is wrong with the JSON, or that its schema is another one.
    pub fn from_json(text: &str) -> Result<DeviceReport, serde_json::Error> {
        let report: DeviceReport = serde_json::from_str(text)?;
        if report.schema == DEVICE_REPORT_SCHEMA {
            return Ok(report);
        }
        let message = format!("schema {}, this program reads {DEVICE_REPORT_SCHEMA}", report.schema);
        Err(serde::de::Error::custom(message))
    }

    /// The report as indented JSON.
    ///
    /// # Errors
    /// None in practice: every field has a JSON form.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }
}

impl DeviceReport {
    /// What it adds up to, one line a figure. Unlike links are not added.
    pub fn summary(&self) -> String {
        let totals = self.machine.totals();
        let kinds: Vec<String> =
            totals.by_kind.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let mut out = format!("{} devices: {}\n", totals.devices, kinds.join(", "));
        let unknown = if totals.unknown_memory == 0 {
            String::new()
        } else {
            format!(", {} devices with unknown memory", totals.unknown_memory)
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "memory: {:.1} GiB{unknown}", totals.memory_bytes as f64 / f64::from(1 << 30));
        for (precision, tflops) in &totals.dense_tflops {
            let _ = writeln!(out, "{precision}: {tflops:.1} TF");
        }
        let unplanned = self.devices.iter().filter(|found| found.device.is_none()).count();
        if unplanned > 0 {
            let _ = writeln!(out, "{unplanned} more devices without published rates");
        }
        out
    }

    /// Where detection ran: container, orchestrator, cloud; empty when none was seen.
    pub fn surroundings(&self) -> String {
        let environment = &self.system.environment;
        let mut out = String::new();
        if let Some(container) = &environment.container {
            let _ = writeln!(out, "container: {container}");
        }
        if let Some(cloud) = &environment.cloud {
            let _ = writeln!(out, "cloud: {} {}", cloud.vendor, cloud.instance.as_deref().unwrap_or(""));
        }
        for port in &self.system.fabric {
            let state = if port.active { "active" } else { "down" };
            let rate = port.gbs_per_dir.map_or("unknown rate".to_owned(), |gbs| format!("{gbs:.1} GB/s"));
            let _ = writeln!(out, "{} port {}: {} {rate}, {state}", port.adapter, port.port, port.kind);
        }
        for memory in &self.system.cxl {
            let size = memory.ram_bytes.or(memory.pmem_bytes);
            let size = size.map_or("unknown size".to_owned(), |bytes| {
                format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0)
            });
            let node = memory.numa_node.map_or(String::new(), |node| format!(", NUMA node {node}"));
            let _ = writeln!(out, "CXL {}: {size}{node}", memory.name);
        }
        out
    }
}

/// Names in the machine, and findings, of rows.
fn split(rows: &[Row<'_>]) -> (Vec<String>, Vec<Found>) {
    let names = rows.iter().filter_map(|row| row.device).map(|device| device.name.clone());
    (names.collect(), rows.iter().filter_map(|row| row.found.cloned()).collect())
}

impl Machine {
    /// A table of the devices and the ways between them and the host, one line each.
    pub fn table(&self) -> String {
        let rows: Vec<Row<'_>> =
            self.devices.iter().map(|device| Row { found: None, device: Some(device) }).collect();
        let columns: Vec<Column> =
            USUAL_COLUMNS.into_iter().filter(|&column| column != Column::Pci).collect();
        table(&rows, &columns) + &self.ways()
    }

    /// The ways between the host and every other device, and the links that pairs of them have, one line each.
    pub fn ways(&self) -> String {
        let mut out = String::new();
        for (index, device) in self.devices.iter().enumerate().filter(|&(index, _)| index != self.host) {
            let Some(path) = self.path(self.host, index) else { continue };
            let (from, gbs) = (&self.devices[self.host].name, 1e-3 / path.us_per_byte);
            let _ = writeln!(
                out,
                "{from} -> {}: {:.1} us + {gbs:.1} GB/s ({})",
                device.name, path.latency_us, path.origin
            );
        }
        let between = self.links.iter().filter(|link| link.from != self.host && link.to != self.host);
        for link in between {
            let (from, to) = (&self.devices[link.from].name, &self.devices[link.to].name);
            let arrow = if link.one_way { "->" } else { "--" };
            let _ = writeln!(
                out,
                "{from} {arrow} {to}: {:.1} us + {:.1} GB/s ({})",
                link.latency_us, link.gbs, link.origin
            );
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The committed schema is the one the types have; `BLESS=1` writes it anew.
    #[test]
    fn the_schema_is_fresh() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/devices.schema.json");
        let fresh = serde_json::to_string_pretty(&schemars::schema_for!(DeviceReport)).unwrap() + "\n";
        if std::env::var("BLESS").is_ok() && std::env::var("CI").is_err() {
            std::fs::write(path, &fresh).unwrap();
        }
        assert!(
            std::fs::read_to_string(path).unwrap() == fresh,
            "run this test with BLESS=1 and read the difference"
        );
    }
}
