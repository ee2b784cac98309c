//! `partita compile`.

use super::args::CompileArgs;
use super::calibrate::today;
use super::{Io, costs, inspect, what_if};
use crate::calibrate::tune::{Tuned, Tuning, tune};
use crate::error::{Error, Result};
use crate::pipeline::{CompileOptions, Compiled, Model, compile, load_with};
use crate::report::{stages, summary};
use partita_hw::{CostTable, Driver, Machine};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Time that tuning may take.
const TUNING_TIME: Duration = Duration::from_secs(50);

pub(super) fn execute(args: &CompileArgs, io: &mut Io) -> Result<()> {
    let machine = args.compiling.machine()?;
    if let (true, Some(path)) = (args.tune, &args.compiling.costs)
        && !path.exists()
    {
        costs::write(&CostTable::default(), path)?;
    }
    let mut options = args.compiling.options()?;
    let changed = what_if::edited(&machine, &args.what_if)?;
    (io.progress)("loading");
    let model = load_with(&args.model, &args.compiling.import()?)?;
    if args.tune {
        options.costs = Some(tuned(args, &model, &machine, &options, io)?);
    }
    let compiled = compile(&model, &machine, &options, io.progress)?;
    if !args.what_if.is_empty() {
        let other = compile(&model, &changed, &options, io.progress)?;
        return io.write(&what_if::compared(&compiled.assembly.plan, &other.assembly.plan, &args.what_if));
    }
    (io.progress)("writing");
    if let Some(output) = &args.output {
        crate::session::write(&compiled, output)?;
    }
    if let Some(dir) = &args.dump_dot {
        dump(&compiled, dir)?;
    }
    if let Some(file) = &args.report {
        let page = inspect::page(&compiled.assembly.plan, args.measured.as_deref())?;
        std::fs::write(file, page).map_err(|e| Error::io("write", file, &e))?;
    }
    io.write(&summary::compiled(&compiled))
}

/// The cost file with what was missing for the model.
fn tuned(
    args: &CompileArgs,
    model: &Model,
    machine: &Machine,
    options: &CompileOptions,
    io: &mut Io,
) -> Result<Arc<CostTable>> {
    let mut table = options.costs.as_deref().cloned().unwrap_or_default();
    let cpu = machine.devices.iter().find(|d| d.driver == Driver::Cpu);
    table.processor = table.processor.or_else(|| cpu.and_then(|d| d.title.clone()));
    let path = costs::path_or_default(args.compiling.costs.as_deref())?;
    let how = Tuning { time: TUNING_TIME, date: &today(), progress: io.progress };
    let tuned = tune(model, machine, options, &mut table, &how)?;
    if tuned.measured > 0 {
        costs::write(&table, &path)?;
    }
    let Tuned { convolutions, measured } = tuned;
    io.write(&format!(
        "tuned: {convolutions} sizes of convolutions have a choice, {measured} were measured now; costs in {}\n",
        path.display()
    ))?;
    Ok(Arc::new(table))
}

fn dump(compiled: &Compiled, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, &e))?;
    for (name, text) in stages::all(compiled) {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|e| Error::io("write", &path, &e))?;
    }
    Ok(())
}
