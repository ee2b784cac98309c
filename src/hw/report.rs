//! What was found on the running machine, as JSON with a schema version and as a table for people.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::adapter::AdapterInfo;
use crate::cpu::CpuInfo;
use crate::device::Device;
use crate::machine::Machine;
use crate::precision::Precision;
use crate::profile::Profiles;

/// Version of the JSON; it grows when a reader of the old form would misread the new one.
pub const DEVICE_REPORT_SCHEMA: u32 = 1;

/// Everything detection found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceReport {
    /// Version of this form.
    pub schema: u32,
    /// The CPU.
    pub cpu: CpuInfo,
    /// The adapters, repeats included.
    pub adapters: Vec<AdapterInfo>,
    /// The machine they make.
    pub machine: Machine,
}

impl DeviceReport {
    /// A report of these findings.
    pub fn new(cpu: CpuInfo, adapters: Vec<AdapterInfo>, profiles: &Profiles) -> DeviceReport {
        let machine = Machine::detected(&cpu, &adapters, profiles);
        DeviceReport { schema: DEVICE_REPORT_SCHEMA, cpu, adapters, machine }
    }

    /// The report as indented JSON.
    ///
    /// # Errors
    /// None in practice: every field has a JSON form.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }
}

impl Machine {
    /// A table of the devices and the ways between them and the host, one line each.
    pub fn table(&self) -> String {
        let mut out = format!(
            "{:<8} {:<6} {:<6} {:>10} {:>10} {:>10}  {}\n",
            "device", "driver", "kind", "fp32", "GB/s", "memory", "what"
        );
        for device in &self.devices {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{}", device_row(device));
        }
        for (index, device) in self.devices.iter().enumerate().filter(|&(index, _)| index != self.host) {
            let Some(path) = self.path(self.host, index) else { continue };
            let (from, gbs) = (&self.devices[self.host].name, 1e-3 / path.us_per_byte);
            let _ = writeln!(
                out,
                "{from} -> {}: {:.1} us + {gbs:.1} GB/s ({})",
                device.name, path.latency_us, path.origin
            );
        }
        out
    }
}

fn device_row(device: &Device) -> String {
    let unknown = || "-".to_owned();
    let fp32 = device.dense_rate(Precision::Fp32);
    format!(
        "{:<8} {:<6} {:<6} {:>10} {:>10} {:>10}  {}",
        device.name,
        device.driver.as_str(),
        device.kind,
        fp32.map_or_else(unknown, |rate| tflops(rate.tflops)),
        device.bandwidth_gbs.as_ref().map_or_else(unknown, |fact| format!("{:.1}", fact.value)),
        device.memory_bytes.as_ref().map_or_else(unknown, |fact| gib(fact.value)),
        device.title.as_deref().unwrap_or("-"),
    )
}

fn tflops(rate: f64) -> String {
    if rate < 1.0 { format!("{:.0} GF", rate * 1e3) } else { format!("{rate:.1} TF") }
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}
