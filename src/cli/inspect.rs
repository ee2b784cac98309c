//! `partita inspect` and `partita explain`.

use super::Io;
use super::args::{ExplainArgs, InspectArgs, InspectFormat};
use crate::error::{Error, Result};
use crate::report::{dot, explain as why, json, stages, summary};
use partita_plan::Plan;
use std::path::Path;

pub(super) fn inspect(args: &InspectArgs, io: &mut Io) -> Result<()> {
    let plan = read(&args.plan)?;
    let text = match args.format {
        InspectFormat::Text => {
            let listing: String = plan.parts().iter().map(partita_plan::text::to_text).collect();
            format!("{}\n{}\n{listing}", summary::plan(&plan), summary::placements(&plan))
        }
        InspectFormat::Dot => plan.parts().iter().map(|p| dot::render(&stages::plan(p))).collect(),
        InspectFormat::Json => format!("{}\n", json::plan(&plan)),
    };
    io.write(&text)
}

pub(super) fn explain(args: &ExplainArgs, io: &mut Io) -> Result<()> {
    let text = why::explain(&read(&args.plan)?, &args.node)?;
    io.write(&text)
}

fn read(path: &Path) -> Result<Plan> {
    partita_runtime::read_plan(path).map_err(|e| Error::from(e).in_file(path))
}
