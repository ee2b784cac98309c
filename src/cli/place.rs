//! `partita place`.

use super::Io;
use super::args::{PlaceArgs, PlaceFormat};
use crate::error::{Error, Result};
use partita_place::{Format, Limits, solve_text, strategy};

pub(super) fn execute(args: &PlaceArgs, io: &mut Io) -> Result<()> {
    let format = match args.format {
        PlaceFormat::Partita => Format::Partita,
        PlaceFormat::Msr => Format::Msr,
        PlaceFormat::Iopddl => return select(args, io),
        PlaceFormat::Helix => {
            return Err(Error::new(
                "U030",
                "this form of placement problem is not supported yet",
                "use partita, msr or iopddl",
            ));
        }
    };
    let text = std::fs::read_to_string(&args.file).map_err(|e| Error::io("read", &args.file, &e))?;
    let defaults = Limits::default();
    let limits = Limits { work: args.work.unwrap_or(defaults.work), threads: args.threads, ..defaults };
    (io.progress)("solving");
    let (answer, solution) = solve_text(&text, format, args.objective.into(), &limits)
        .map_err(|e| Error::new("P001", e.to_string(), "see the problem file").in_file(&args.file))?;
    std::fs::write(&args.output, solution).map_err(|e| Error::io("write", &args.output, &e))?;
    io.write(&format!(
        "value {:.6}, bound {:.6} ({}), gap {:.3} %, {}; {}, {} work\n",
        answer.value,
        answer.lower_bound,
        answer.bound_kind,
        100.0 * answer.gap,
        answer.status.word(),
        answer.solver,
        answer.work_used
    ))
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
