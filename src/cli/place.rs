//! `partita place`.

use super::Io;
use super::args::{PlaceArgs, PlaceFormat};
use crate::error::{Error, Result};
use partita_place::{Format, Limits, solve_text};

pub(super) fn execute(args: &PlaceArgs, io: &mut Io) -> Result<()> {
    let format = match args.format {
        PlaceFormat::Partita => Format::Partita,
        PlaceFormat::Msr => Format::Msr,
        PlaceFormat::Iopddl | PlaceFormat::Helix => {
            return Err(Error::new(
                "U030",
                "this form of placement problem is not supported yet",
                "use partita or msr",
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
