//! The devices of a report as rows: chosen by a filter, sorted, and printed as a table or as tab-separated values.

use std::fmt::Write;

use crate::device::{Device, Driver};
use crate::kind::Kind;
use crate::precision::Precision;
use crate::probe::Found;
use crate::report::DeviceReport;

/// Which devices are wanted. An empty filter wants all; an unknown figure meets no demand on it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Families of probes; any of them.
    pub families: Vec<String>,
    /// Kinds of processors; any of them.
    pub kinds: Vec<Kind>,
    /// At least this much memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// A rate for this format, substitutions included.
    pub precision: Option<Precision>,
    /// A driver of the system has it.
    pub available: bool,
}

/// A device as seen, as planned for, or both.
#[derive(Clone, Copy, Debug)]
pub struct Row<'r> {
    /// What detection saw; absent for the CPU, adapters and devices of a what-if.
    pub found: Option<&'r Found>,
    /// The device of the machine; absent when nothing says how fast it is.
    pub device: Option<&'r Device>,
}

/// A column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Name in the machine.
    Device,
    /// How it executes.
    Driver,
    /// Kind of processor.
    Kind,
    /// Family of the probe.
    Family,
    /// Rate in a format.
    Rate(Precision),
    /// Memory bandwidth.
    Bandwidth,
    /// Memory.
    Memory,
    /// Memory free.
    Free,
    /// PCI address.
    Pci,
    /// Profile.
    Profile,
    /// NUMA node.
    Numa,
    /// Payload of the PCIe link.
    Pcie,
    /// Temperature.
    Temperature,
    /// Power drawn.
    Power,
    /// Share of time it is busy.
    Load,
    /// What it is, in words.
    What,
}

impl Column {
    /// Every column with the word that names it; the formats are among them.
    pub fn all() -> Vec<(&'static str, Column)> {
        let rates = Precision::ALL.map(|precision| (precision.as_str(), Column::Rate(precision)));
        let first = [
            ("device", Column::Device),
            ("driver", Column::Driver),
            ("kind", Column::Kind),
            ("family", Column::Family),
        ];
        let rest = [
            ("bandwidth", Column::Bandwidth),
            ("memory", Column::Memory),
            ("free", Column::Free),
            ("pci", Column::Pci),
            ("profile", Column::Profile),
            ("numa", Column::Numa),
            ("pcie", Column::Pcie),
            ("temperature", Column::Temperature),
            ("power", Column::Power),
            ("load", Column::Load),
            ("what", Column::What),
        ];
        first.into_iter().chain(rates).chain(rest).collect()
    }

    /// The column of that word.
    ///
    /// # Errors
    /// The words there are.
    pub fn parse(word: &str) -> Result<Column, String> {
        let all = Column::all();
        let found = all.iter().find(|(name, _)| *name == word).map(|(_, column)| *column);
        found.ok_or_else(|| {
            format!("one of {}", all.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "))
        })
    }

    fn title(self) -> &'static str {
        match self {
            Column::Bandwidth => "GB/s",
            Column::Pcie => "PCIe GB/s",
            Column::Temperature => "deg C",
            Column::Power => "W",
            Column::Load => "load",
            other => {
                Column::all().into_iter().find(|(_, column)| *column == other).map_or("", |(name, _)| name)
            }
        }
    }

    fn is_number(self) -> bool {
        !matches!(
            self,
            Column::Device
                | Column::Driver
                | Column::Kind
                | Column::Family
                | Column::Pci
                | Column::Profile
                | Column::What
        )
    }
}

/// The columns of the table, unless others are asked for.
pub const USUAL_COLUMNS: [Column; 8] = [
    Column::Device,
    Column::Driver,
    Column::Kind,
    Column::Rate(Precision::Fp32),
    Column::Bandwidth,
    Column::Memory,
    Column::Pci,
    Column::What,
];

impl Filter {
    /// True when a row is wanted.
    pub fn wants(&self, row: &Row<'_>) -> bool {
        let family = row.family();
        let seen =
            |name: &String| name == family || row.found.is_some_and(|found| found.sources.contains(name));
        (self.families.is_empty() || self.families.iter().any(seen))
            && (self.kinds.is_empty() || row.kind().is_some_and(|kind| self.kinds.contains(&kind)))
            && self.memory_bytes.is_none_or(|need| row.memory_bytes().is_some_and(|bytes| bytes >= need))
            && self.precision.is_none_or(|precision| row.rate(precision).is_some())
            && (!self.available || row.is_available())
    }
}

impl Row<'_> {
    /// Kind of processor.
    pub fn kind(&self) -> Option<Kind> {
        self.device.map(|device| device.kind).or(self.found.map(|found| found.kind))
    }

    /// Family of the probe; "wgpu" for adapters that no probe saw, "what-if" for what is not here.
    pub fn family(&self) -> &str {
        match (self.found, self.device.map(|device| device.driver)) {
            (Some(found), _) => &found.family,
            (None, Some(Driver::Cpu)) => "cpu",
            (None, Some(Driver::Wgpu)) => "wgpu",
            (None, _) => "what-if",
        }
    }

    /// Memory in bytes.
    pub fn memory_bytes(&self) -> Option<u64> {
        let device = self.device.and_then(|device| device.memory_bytes.as_ref()).map(|fact| fact.value);
        device.or(self.found.and_then(|found| found.memory_bytes))
    }

    /// True when a driver has it.
    pub fn is_available(&self) -> bool {
        self.found.map_or_else(|| self.device.is_some_and(Device::runs_here), |found| found.available)
    }

    /// Rate in a format in TFLOPS or TOPS, substitutions included.
    pub fn rate(&self, precision: Precision) -> Option<f64> {
        self.device.and_then(|device| device.dense_rate(precision)).map(|rate| rate.tflops)
    }

    /// The figure of a column, for sorting.
    fn number(&self, column: Column) -> Option<f64> {
        let found = self.found;
        match column {
            Column::Rate(precision) => self.rate(precision),
            Column::Bandwidth => {
                self.device.and_then(|device| device.bandwidth_gbs.as_ref()).map(|fact| fact.value)
            }
            Column::Memory => self.memory_bytes().map(|bytes| bytes as f64),
            Column::Free => found.and_then(|found| found.memory_free_bytes).map(|bytes| bytes as f64),
            Column::Numa => found.and_then(|found| found.numa_node).map(f64::from),
            Column::Pcie => found.and_then(|found| found.pcie).map(|link| link.gbs_per_dir),
            Column::Temperature => found.and_then(|found| found.temperature_c),
            Column::Power => found.and_then(|found| found.power_w),
            Column::Load => found.and_then(|found| found.utilization_percent),
            _ => None,
        }
    }

    /// The text of a column; "-" when unknown.
    fn cell(&self, column: Column) -> String {
        let (found, device) = (self.found, self.device);
        let number = self.number(column);
        let text = match column {
            Column::Device => device.map(|device| device.name.clone()),
            Column::Driver => device.map(|device| device.driver.as_str().to_owned()),
            Column::Kind => self.kind().map(|kind| kind.to_string()),
            Column::Family => Some(self.family().to_owned()),
            Column::Pci => found.and_then(|found| found.pci_address.clone()),
            Column::Profile => device
                .and_then(|device| device.profile.clone())
                .or_else(|| found.and_then(|found| found.profile.clone())),
            Column::What => device
                .and_then(|device| device.title.clone())
                .or_else(|| found.map(|found| found.name.clone())),
            Column::Rate(_) => number.map(tera),
            Column::Memory | Column::Free => number.map(gib),
            Column::Numa => number.map(|node| format!("{node:.0}")),
            Column::Load => number.map(|share| format!("{share:.0} %")),
            Column::Bandwidth | Column::Pcie | Column::Temperature | Column::Power => {
                number.map(|number| format!("{number:.1}"))
            }
        };
        text.unwrap_or_else(|| "-".to_owned())
    }
}

fn tera(rate: f64) -> String {
    if rate < 1.0 { format!("{:.0} GF", rate * 1e3) } else { format!("{rate:.1} TF") }
}

fn gib(bytes: f64) -> String {
    let gib = bytes / f64::from(1 << 30);
    if gib < 1.0 { format!("{:.0} MiB", gib * 1024.0) } else { format!("{gib:.1} GiB") }
}

impl DeviceReport {
    /// The devices a filter wants: those of the machine in its order, then those nothing is known to plan with.
    pub fn rows(&self, filter: &Filter) -> Vec<Row<'_>> {
        let of_machine = self.machine.devices.iter().map(|device| {
            let found = self.devices.iter().find(|found| found.device.as_ref() == Some(&device.name));
            Row { found, device: Some(device) }
        });
        let only_seen = self.devices.iter().filter(|found| found.device.is_none());
        let rows = of_machine.chain(only_seen.map(|found| Row { found: Some(found), device: None }));
        rows.filter(|row| filter.wants(row)).collect()
    }

    /// Of the devices a filter wants, the one that is fastest in its format (fp32 when unset); ties go to the first.
    pub fn best(&self, filter: &Filter) -> Option<Row<'_>> {
        let precision = filter.precision.unwrap_or(Precision::Fp32);
        let rated = self.rows(filter).into_iter().rev().filter_map(|row| Some((row.rate(precision)?, row)));
        rated.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, row)| row)
    }
}

/// Sorts rows by a column: figures from large to small with unknown ones last, words by alphabet. Ties keep their order.
pub fn sort_rows(rows: &mut [Row<'_>], column: Column) {
    if column.is_number() {
        let key = |row: &Row<'_>| row.number(column).unwrap_or(f64::NEG_INFINITY);
        rows.sort_by(|a, b| key(b).total_cmp(&key(a)));
    } else {
        rows.sort_by_cached_key(|row| row.cell(column));
    }
}

/// Rows as a table with aligned columns; figures stand to the right.
pub fn table(rows: &[Row<'_>], columns: &[Column]) -> String {
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| columns.iter().map(|&column| row.cell(column)).collect()).collect();
    let width = |at: usize, column: Column| {
        let longest = cells.iter().map(|cells| cells[at].chars().count()).max().unwrap_or(0);
        longest.max(column.title().chars().count())
    };
    let widths: Vec<usize> = columns.iter().enumerate().map(|(at, &column)| width(at, column)).collect();
    let titles: Vec<String> = columns.iter().map(|column| column.title().to_owned()).collect();
    let mut out = String::new();
    for line in std::iter::once(&titles).chain(&cells) {
        let mut text = String::new();
        for ((cell, &column), &width) in line.iter().zip(columns).zip(&widths) {
            // Writing to a string cannot fail.
            let _ = if column.is_number() {
                write!(text, "{cell:>width$}  ")
            } else {
                write!(text, "{cell:<width$}  ")
            };
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

/// Rows as tab-separated values under a line of column names; unknown cells are empty.
pub fn tab_separated(rows: &[Row<'_>], columns: &[Column]) -> String {
    let line = |cells: Vec<String>| cells.join("\t") + "\n";
    let plain = |row: &Row<'_>, column: Column| match row.number(column) {
        Some(number) => number.to_string(),
        None if column.is_number() => String::new(),
        None => row.cell(column).replace('\t', " ").trim_matches('-').to_owned(),
    };
    let head = line(columns.iter().map(|column| column.title().to_owned()).collect());
    let body = rows.iter().map(|row| line(columns.iter().map(|&column| plain(row, column)).collect()));
    head + &body.collect::<String>()
}
