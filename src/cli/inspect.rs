//! `partita inspect` and `partita explain`.

use super::Io;
use super::args::{ExplainArgs, InspectArgs, InspectFormat};
use crate::error::{Error, Result};
use crate::report::measured::Measured;
use crate::report::{dot, explain as why, html, json, stages, summary};
use partita_plan::Plan;
use std::path::Path;

pub(super) fn inspect(args: &InspectArgs, io: &mut Io) -> Result<()> {
    let plan = read(&args.plan)?;
    let text = match args.format {
        InspectFormat::Text => {
            let listing: String = plan.parts().iter().map(partita_plan::text::to_text).collect();
            format!("{}\n{}\n{listing}", summary::plan(&plan), summary::placements(&plan))
        }
        InspectFormat::Dot => pictures(&plan, args)?,
        InspectFormat::Json => format!("{}\n", json::plan(&plan)),
        InspectFormat::Html => page(&plan, args.measured.as_deref())?,
    };
    io.write(&text)
}

/// A picture per static part, or of the neighbourhood of a node.
fn pictures(plan: &Plan, args: &InspectArgs) -> Result<String> {
    let all = plan.parts().iter().map(stages::plan);
    let kept: Vec<dot::Picture> = match &args.around {
        None => all.collect(),
        Some(node) => all.filter_map(|p| dot::around(&p, node, args.hops)).collect(),
    };
    if let (Some(node), true) = (&args.around, kept.is_empty()) {
        // It has no such step: the letter is that of `explain`, with near names.
        why::explain(plan, node)?;
    }
    Ok(kept.iter().map(|p| dot::render_above(p, args.collapse_above)).collect())
}

/// The HTML report of a plan, with what was measured where a file says.
pub(super) fn page(plan: &Plan, measured: Option<&Path>) -> Result<String> {
    let measured = measured.map(|file| Measured::read(file, plan)).transpose()?;
    html::render(plan, measured.as_ref())
}

pub(super) fn explain(args: &ExplainArgs, io: &mut Io) -> Result<()> {
    let plan = read(&args.plan)?;
    let text = match &args.node {
        Some(node) => why::explain(&plan, node)?,
        None => why::list(&plan),
    };
    io.write(&text)
}

pub(super) fn read(path: &Path) -> Result<Plan> {
    partita_runtime::read_plan(path).map_err(|e| Error::from(e).in_file(path))
}
