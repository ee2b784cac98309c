//! `partita compile`.

use super::Io;
use super::args::CompileArgs;
use crate::error::{Error, Result};
use crate::pipeline::{Compiled, compile, load_with};
use crate::report::{stages, summary};
use std::path::Path;

pub(super) fn execute(args: &CompileArgs, io: &mut Io) -> Result<()> {
    let options = args.compiling.options()?;
    let machine = args.compiling.machine()?;
    (io.progress)("loading");
    let model = load_with(&args.model, &args.compiling.import()?)?;
    let compiled = compile(&model, &machine, &options, io.progress)?;
    (io.progress)("writing");
    crate::session::write(&compiled, &args.output)?;
    if let Some(dir) = &args.dump_dot {
        dump(&compiled, dir)?;
    }
    io.write(&summary::compiled(&compiled))
}

fn dump(compiled: &Compiled, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, &e))?;
    for (name, text) in stages::all(compiled) {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|e| Error::io("write", &path, &e))?;
    }
    Ok(())
}
