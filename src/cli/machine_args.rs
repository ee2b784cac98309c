//! The command line of `partita devices` and `partita machine`.

use clap::Args;
use partita_hw::{COMMON, Column, Edit, Kind, PROBES, Precision, Selection};
use std::path::PathBuf;
use std::time::Duration;

/// Which machine is meant, and how it is looked at.
#[derive(Debug, Args)]
pub struct Looking {
    /// Look at the files below DIR instead of the running machine; tools are run from its own folders
    #[arg(long, value_name = "DIR", conflicts_with_all = ["recording", "machine"])]
    pub root: Option<PathBuf>,
    /// Look at a recorded machine: its files, tools' answers and variables as one text
    #[arg(long, value_name = "FILE", conflicts_with = "machine")]
    pub recording: Option<PathBuf>,
    /// Take the machine of a file instead of looking
    #[arg(long, value_name = "FILE")]
    pub machine: Option<PathBuf>,
    /// Look for vendors' tools in DIR before the usual folders
    #[arg(long = "tools", value_name = "DIR")]
    pub tools: Vec<PathBuf>,
    /// Run only these probes: families, or `minimal`, `common`, `all`
    #[arg(long, value_name = "FAMILIES", value_delimiter = ',', value_parser = probe)]
    pub probe: Vec<String>,
    /// Leave these probes out
    #[arg(long, value_name = "FAMILIES", value_delimiter = ',', value_parser = family)]
    pub no_probe: Vec<String>,
    /// Take an answer of an earlier call that is at most so old, and keep this one for later calls
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub max_age: Option<Duration>,
}

impl Looking {
    /// The probes to run.
    pub(super) fn selection(&self) -> Selection {
        let mut selection = Selection { without: self.no_probe.clone(), ..Selection::default() };
        if !self.probe.is_empty() && !self.probe.iter().any(|name| name == "all") {
            let expand = |name: &String| match name.as_str() {
                "common" => COMMON.iter().map(ToString::to_string).collect(),
                "minimal" => vec!["cpu".to_owned()],
                _ => vec![name.clone()],
            };
            selection.only = Some(self.probe.iter().flat_map(expand).collect());
        }
        selection
    }
}

/// Changes to the machine that was found: what if it were another one?
#[derive(Debug, Args)]
#[command(next_help_heading = "What if")]
pub struct WhatIf {
    /// Add processors of a profile (also in short: h100-sxm), joined as the profile says or by LINK
    #[arg(long = "add", value_name = "PROFILE[:COUNT][@LINK]", value_parser = Edit::parse_add)]
    pub add: Vec<Edit>,
    /// Put a processor in the place of a device
    #[arg(long = "replace", value_name = "DEVICE=PROFILE", value_parser = Edit::parse_replace)]
    pub replace: Vec<Edit>,
    /// Join two devices by an interconnect
    #[arg(long = "link", value_name = "DEVICE:DEVICE=LINK", value_parser = Edit::parse_join)]
    pub link: Vec<Edit>,
    /// Remove a device
    #[arg(long = "remove", value_name = "DEVICE")]
    pub remove: Vec<String>,
}

impl WhatIf {
    /// The edits: what is replaced first, then added and joined, and removed last.
    pub(super) fn edits(&self) -> Vec<Edit> {
        let remove = self.remove.iter().map(|device| Edit::Remove { device: device.clone() });
        let others = self.replace.iter().chain(&self.add).chain(&self.link).cloned();
        others.chain(remove).collect()
    }
}

#[derive(Debug, Args)]
pub struct DevicesArgs {
    /// One JSON object with a schema version
    #[arg(long, conflicts_with_all = ["tsv", "summary", "columns", "sort"])]
    pub json: bool,
    /// Tab-separated values with column names in the first line
    #[arg(long, conflicts_with = "summary")]
    pub tsv: bool,
    /// What the machine adds up to
    #[arg(long)]
    pub summary: bool,
    /// Columns of the table, by name
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',', value_parser = Column::parse)]
    pub columns: Vec<Column>,
    /// Sort by a column: figures from large to small
    #[arg(long, value_name = "COLUMN", value_parser = Column::parse)]
    pub sort: Option<Column>,
    /// Only devices of these families of probes
    #[arg(long, value_name = "FAMILIES", value_delimiter = ',', value_parser = family)]
    pub family: Vec<String>,
    /// Only devices of these kinds: cpu, gpu, tpu, npu, lpu, fpga, dsp, custom
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = kind)]
    pub kind: Vec<Kind>,
    /// Only devices with at least this memory, such as 40GiB or 80GB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub min_memory: Option<u64>,
    /// Only devices that compute in this format: fp32, bf16, int8, ...
    #[arg(long, value_name = "FORMAT", value_parser = precision)]
    pub computes: Option<Precision>,
    /// Only devices that a driver of the system has
    #[arg(long)]
    pub available: bool,
    /// Only the device that is fastest in the format of --computes (fp32 without it)
    #[arg(long)]
    pub best: bool,
    /// Look again every so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, conflicts_with = "max_age")]
    pub watch: Option<Duration>,
    /// With --watch: end after so many looks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), requires = "watch")]
    pub count: Option<u64>,
    /// Say how long each probe took
    #[arg(long, visible_alias = "profile-timing")]
    pub timing: bool,
    /// List the probes and what each reads, and look at nothing
    #[arg(long, exclusive = true)]
    pub probes: bool,
    #[command(flatten)]
    pub looking: Looking,
    #[command(flatten)]
    pub what_if: WhatIf,
}

#[derive(Debug, Args)]
pub struct MachineArgs {
    /// Where the machine file goes; the standard output when left out
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub looking: Looking,
    #[command(flatten)]
    pub what_if: WhatIf,
}

type Parsed<T> = std::result::Result<T, String>;

fn family(text: &str) -> Parsed<String> {
    let names: Vec<&str> = PROBES.iter().map(|probe| probe.family).collect();
    if names.contains(&text) { Ok(text.to_owned()) } else { Err(format!("one of {}", names.join(", "))) }
}

fn probe(text: &str) -> Parsed<String> {
    if ["all", "common", "minimal"].contains(&text) { Ok(text.to_owned()) } else { family(text) }
}

fn kind(text: &str) -> Parsed<Kind> {
    Kind::parse(text).ok_or_else(|| format!("one of {}", Kind::ALL.map(Kind::as_str).join(", ")))
}

fn precision(text: &str) -> Parsed<Precision> {
    Precision::parse(text)
        .ok_or_else(|| format!("one of {}", Precision::ALL.map(Precision::as_str).join(", ")))
}

/// A length of time of at least a millisecond and at most a year.
fn seconds(text: &str) -> Parsed<Duration> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (1e-3..=3.2e7).contains(seconds));
    let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    time.ok_or_else(|| "expected a number of seconds above 0, such as 2 or 0.5".to_owned())
}

/// Bytes of "40GiB" (powers of 1024), "80GB" (powers of 1000), "1e9" or "512".
fn size(text: &str) -> Parsed<u64> {
    let wrong = || "expected a size such as 40GiB, 80GB or a number of bytes".to_owned();
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale: f64 = match unit.trim() {
        "" | "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        "K" | "KiB" => 1024.0,
        "M" | "MiB" => 1_048_576.0,
        "G" | "GiB" => 1_073_741_824.0,
        "T" | "TiB" => 1_099_511_627_776.0,
        _ => return Err(wrong()),
    };
    let bytes = number.parse::<f64>().map_err(|_| wrong())? * scale;
    if (0.0..=1e18).contains(&bytes) { Ok(bytes.round() as u64) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times() {
        assert_eq!(
            (size("40GiB"), size("80GB"), size("1.5K"), size("7")),
            (Ok(40 << 30), Ok(80_000_000_000), Ok(1536), Ok(7))
        );
        for text in ["", "GB", "4 apples", "-1", "1e99", "9999999999999999999TB", "1..2"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["0", "-1", "soon", "NaN", "inf"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
