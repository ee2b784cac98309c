//! `partita place`.

use super::Io;
use super::args::{PlaceArgs, PlaceFormat, PlaceVariant};
use crate::error::{Error, Result};
use partita_place::piper::{self, Variant};
use partita_place::{Format, Limits, solve_text, strategy, text_of};

pub(super) fn execute(args: &PlaceArgs, io: &mut Io) -> Result<()> {
    let format = match args.format {
        PlaceFormat::Partita => Format::Partita,
        PlaceFormat::Msr => Format::Msr,
        PlaceFormat::Helix => Format::Helix,
        PlaceFormat::Piper => Format::Piper(piper_options(args)),
        PlaceFormat::Iopddl => return select(args, io),
    };
    let bytes = std::fs::read(&args.file).map_err(|e| Error::io("read", &args.file, &e))?;
    let letter = |e: partita_place::PlaceError| {
        Error::new("P001", e.to_string(), "see the problem file").in_file(&args.file)
    };
    let text = text_of(bytes).map_err(letter)?;
    let defaults = Limits::default();
    let limits = Limits { work: args.work.unwrap_or(defaults.work), threads: args.threads, ..defaults };
    (io.progress)("solving");
    let (answer, solution) = solve_text(&text, format, args.objective.into(), &limits).map_err(letter)?;
    std::fs::write(&args.output, solution).map_err(|e| Error::io("write", &args.output, &e))?;
    io.write(&format!(
        "value {}, bound {} ({}), gap {:.3} %, {}; {}, {} work\n",
        digits(answer.value),
        digits(answer.lower_bound),
        answer.bound_kind,
        100.0 * answer.gap,
        answer.status.word(),
        answer.solver,
        answer.work_used
    ))
}

fn piper_options(args: &PlaceArgs) -> piper::Options {
    let has = |v: PlaceVariant| args.variant.contains(&v);
    let variant = Variant {
        no_tensor: has(PlaceVariant::NoTp),
        no_data: has(PlaceVariant::NoDp),
        no_recompute: has(PlaceVariant::NoRecompute),
        equal_split: has(PlaceVariant::EquiSplit),
    };
    piper::Options { variant, devices: args.devices, memory_bytes: args.memory, bandwidth: args.bandwidth }
}

/// At least six digits behind the point, and six that are not leading zeros.
fn digits(x: f64) -> String {
    let places = if x > 0.0 && x < 1.0 { 6 + (-x.log10()) as usize } else { 6 };
    format!("{x:.places$}")
}

/// Selects a strategy per node; the file, plain or gzipped, is read as a stream since it may be very large.
fn select(args: &PlaceArgs, io: &mut Io) -> Result<()> {
    let file = std::fs::File::open(&args.file).map_err(|e| Error::io("read", &args.file, &e))?;
    let work = args.work.unwrap_or(strategy::DEFAULT_WORK);
    let limits = Limits { work, threads: args.threads, ..Limits::default() };
    (io.progress)("solving");
    let (answer, solution) = strategy::solve_reader(file, &limits)
        .map_err(|e| Error::new("P001", e.to_string(), "see the problem file").in_file(&args.file))?;
    std::fs::write(&args.output, solution).map_err(|e| Error::io("write", &args.output, &e))?;
    io.write(&format!(
        "value {}, bound {} ({}), gap {:.3} %, {}; peak usage {}, {} nodes searched, {} work\n",
        answer.value,
        answer.lower_bound,
        answer.bound_kind,
        100.0 * answer.gap,
        answer.status.word(),
        answer.peak_usage,
        answer.core_nodes,
        answer.work_used
    ))
}
