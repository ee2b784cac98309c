//! What launches of a class of kernels cost on a device: a few parameters fitted to measured times.
//!
//! A launch is described by amounts (multiply-adds, bytes from memory, rows...), whose names and meaning belong to
//! whoever describes it; a fit holds the nanoseconds of one of each, for one number of threads.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::error::HwError;
use crate::reader::Table;

/// Nanoseconds per amount, and what they were fitted to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fit {
    /// Work of one launch for which a further thread joins in; 0 when the fit is for one thread.
    pub grain: f64,
    /// Nanoseconds of one of each amount, above zero.
    pub ns: BTreeMap<String, f64>,
    /// Launches it was fitted to.
    pub samples: u32,
    /// How it was measured, and how well it fits.
    pub origin: String,
    /// Day it was measured, as year-month-day.
    pub date: String,
}

impl Fit {
    /// Microseconds of a launch with these amounts; those without a cost count nothing.
    pub fn time_us<'a>(&self, amounts: impl Iterator<Item = (&'a str, f64)>) -> f64 {
        amounts.map(|(name, amount)| self.ns.get(name).map_or(0.0, |ns| ns * amount)).sum::<f64>() / 1e3
    }

    pub(crate) fn read(mut table: Table<'_>) -> Result<Self, HwError> {
        let fit = Self {
            grain: table.number_or_zero("grain")?.unwrap_or(0.0),
            ns: match table.table("ns")? {
                Some(ns) => ns.all_numbers()?.into_iter().map(|(name, at)| (name, at.value)).collect(),
                None => return Err(table.missing("ns")),
            },
            samples: table.small_count("samples")?.ok_or_else(|| table.missing("samples"))?,
            origin: table.need_word("origin")?,
            date: table.need_word("date")?,
        };
        table.finish()?;
        Ok(fit)
    }

    /// The fields as lines of a table.
    pub(crate) fn write(&self, quoted: &dyn Fn(&str) -> String, out: &mut String) {
        let ns: Vec<String> = self.ns.iter().map(|(name, ns)| format!("{} = {ns:?}", quoted(name))).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "grain = {:?}\nns = {{ {} }}", self.grain, ns.join(", "));
        let (origin, date) = (quoted(&self.origin), quoted(&self.date));
        let _ = writeln!(out, "samples = {}\norigin = {origin}\ndate = {date}", self.samples);
    }
}
