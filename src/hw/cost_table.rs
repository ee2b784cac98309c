//! The cost file: measured times of kernels, and fits to such times. A measured number beats every formula.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::cost::{Bound, Estimate, Work, estimate};
use crate::cost_fit::Fit;
use crate::device::Device;
use crate::error::{Code, HwError};
use crate::reader::{Source, Table};

/// Version of the cost table format.
const SCHEMA: u64 = 1;

/// Most entries of a table.
const MAX_ENTRIES: usize = 1_000_000;

/// One measured number.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// Time of one run in us.
    pub us: f64,
    /// How it was measured.
    pub origin: String,
    /// Day it was measured, as year-month-day.
    pub date: String,
    /// Runs it is the median of, when stated.
    pub samples: Option<u32>,
}

/// Measured times by device name and kernel key, fits by device name, class of kernels and threads. What a key or a
/// class says is up to the code generator.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CostTable {
    /// The processor that was measured, as machines call it.
    pub processor: Option<String>,
    /// Bytes that stay in its last cache until they are used again.
    pub far_bytes: Option<f64>,
    entries: BTreeMap<(String, String), Measurement>,
    fits: BTreeMap<(String, String), BTreeMap<u32, Fit>>,
}

impl CostTable {
    /// Reads a cost table. `file` is its name for error messages.
    ///
    /// # Errors
    /// Located errors for broken text, unknown fields, values out of range and keys used twice.
    pub fn parse(file: &str, text: &str) -> Result<CostTable, HwError> {
        let source = Source { file, text };
        let document = source.parse()?;
        let mut root = Table::root(&source, &document);
        root.schema(SCHEMA)?;
        let mut table = CostTable {
            processor: root.word("processor")?,
            far_bytes: root.number("far_bytes")?,
            ..CostTable::default()
        };
        for fit in root.tables("fit")? {
            table.read_fit(&source, fit)?;
        }
        for mut entry in root.tables("entry")? {
            let (offset, key) = (entry.offset, (entry.need_word("device")?, entry.need_word("kernel")?));
            let measurement = read_measurement(entry)?;
            if table.entries.len() >= MAX_ENTRIES {
                return Err(source.error(Code::Limit, offset, "too many entries", ""));
            }
            let message = format!("{} on {} is listed twice", key.1, key.0);
            if table.entries.insert(key, measurement).is_some() {
                return Err(source.error(Code::Duplicate, offset, message, "keep one of them"));
            }
        }
        root.finish()?;
        Ok(table)
    }

    fn read_fit(&mut self, source: &Source<'_>, mut table: Table<'_>) -> Result<(), HwError> {
        let offset = table.offset;
        let key = (table.need_word("device")?, table.need_word("class")?);
        let threads = table.small_count("threads")?.ok_or_else(|| table.missing("threads"))?;
        let message = format!("{} on {} with {threads} threads is listed twice", key.1, key.0);
        let fit = Fit::read(table)?;
        if self.fits.values().map(BTreeMap::len).sum::<usize>() >= MAX_ENTRIES {
            return Err(source.error(Code::Limit, offset, "too many fits", ""));
        }
        match self.fits.entry(key).or_default().insert(threads, fit) {
            None => Ok(()),
            Some(_) => Err(source.error(Code::Duplicate, offset, message, "keep one of them")),
        }
    }

    /// The table as a file that [`CostTable::parse`] reads back, sorted by device and kernel.
    pub fn to_toml(&self) -> String {
        let quoted = |word: &str| toml::Value::String(word.to_owned()).to_string();
        let mut out = format!("schema = {SCHEMA}\n");
        if let Some(processor) = &self.processor {
            let _ = writeln!(out, "processor = {}", quoted(processor));
        }
        if let Some(bytes) = self.far_bytes {
            let _ = writeln!(out, "far_bytes = {bytes:?}");
        }
        for ((device, class), fits) in &self.fits {
            for (threads, fit) in fits {
                let (device, class) = (quoted(device), quoted(class));
                let _ = writeln!(out, "\n[[fit]]\ndevice = {device}\nclass = {class}\nthreads = {threads}");
                fit.write(&quoted, &mut out);
            }
        }
        for ((device, kernel), entry) in &self.entries {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "\n[[entry]]\ndevice = {}\nkernel = {}", quoted(device), quoted(kernel));
            let (origin, date) = (quoted(&entry.origin), quoted(&entry.date));
            let _ = writeln!(out, "us = {:?}\norigin = {origin}\ndate = {date}", entry.us);
            if let Some(samples) = entry.samples {
                let _ = writeln!(out, "samples = {samples}");
            }
        }
        out
    }

    /// Records a measurement in place of an older one of the same key.
    pub fn insert(&mut self, device: &str, kernel: &str, measurement: Measurement) {
        self.entries.insert((device.to_owned(), kernel.to_owned()), measurement);
    }

    /// Records a fit in place of an older one for the same class and threads.
    pub fn insert_fit(&mut self, device: &str, class: &str, threads: u32, fit: Fit) {
        self.fits.entry((device.to_owned(), class.to_owned())).or_default().insert(threads, fit);
    }

    /// The fit for so many threads, or the most below that were measured, or the fewest; `None` for a class or a device
    /// that has none.
    pub fn fit(&self, device: &str, class: &str, threads: u32) -> Option<&Fit> {
        let fits = self.fits.get(&(device.to_owned(), class.to_owned()))?;
        let below = fits.range(..=threads).next_back();
        below.or_else(|| fits.iter().next()).map(|(_, fit)| fit)
    }

    /// Every fit as (device, class, threads, fit), sorted.
    pub fn fits(&self) -> impl Iterator<Item = (&str, &str, u32, &Fit)> {
        self.fits.iter().flat_map(|((device, class), fits)| {
            fits.iter().map(move |(threads, fit)| (device.as_str(), class.as_str(), *threads, fit))
        })
    }

    /// The measurement of that kernel on that device.
    pub fn get(&self, device: &str, kernel: &str) -> Option<&Measurement> {
        self.entries.get(&(device.to_owned(), kernel.to_owned()))
    }

    /// Every entry as (device, kernel, measurement), sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &Measurement)> {
        self.entries.iter().map(|((device, kernel), entry)| (device.as_str(), kernel.as_str(), entry))
    }

    /// How many measurements there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when there are neither measurements nor fits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.fits.is_empty()
    }
}

fn read_measurement(mut entry: Table<'_>) -> Result<Measurement, HwError> {
    let measurement = Measurement {
        us: entry.number("us")?.ok_or_else(|| entry.missing("us"))?,
        origin: entry.need_word("origin")?,
        date: entry.need_word("date")?,
        samples: entry.small_count("samples")?,
    };
    entry.finish()?;
    Ok(measurement)
}

/// The cost of a kernel: measured when the table has it, else by formula. `None` as for [`estimate`], but a measured
/// kernel is supported whatever the formula thinks.
pub fn price(table: &CostTable, device: &Device, kernel: &str, work: &Work) -> Option<Estimate> {
    let formula = estimate(device, work);
    let Some(measured) = table.get(&device.name, kernel) else { return formula };
    let part = |of: fn(&Estimate) -> f64| formula.as_ref().map_or(0.0, of);
    Some(Estimate {
        time_us: measured.us,
        compute_us: part(|formula| formula.compute_us),
        memory_us: part(|formula| formula.memory_us),
        launch_us: part(|formula| formula.launch_us),
        joules: device.power_w.as_ref().map(|watts| watts.value * measured.us * 1e-6),
        bound: Bound::Measured,
        origin: format!("measured: {} ({})", measured.origin, measured.date),
    })
}
