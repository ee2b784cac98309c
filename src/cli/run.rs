//! `partita run`.

use super::args::RunArgs;
use super::{Io, tensors};
use crate::error::{Error, Result};
use crate::npy;
use crate::report::trace;
use crate::session::{Opening, open, run};
use partita_ir::Tensor;
use partita_runtime::Session;
use std::collections::BTreeMap;
use std::path::Path;

pub(super) fn execute(args: &RunArgs, io: &mut Io) -> Result<()> {
    let compile = args.compiling.options()?;
    let opening = Opening {
        threads: args.compiling.threads,
        trace: args.trace.is_some(),
        compile: &compile,
        machine: &|| args.compiling.machine(),
        progress: io.progress,
    };
    let (mut given, fill) = given(&args.inputs, args.seed)?;
    let mut session = open(&args.program, &opening, &mut given)?;
    let inputs = tensors::inputs(session.plan(), given, fill, &compile.dims)?;
    (io.progress)("running");
    let outputs = run(&mut session, &inputs)?;
    if let Some(dir) = &args.output_dir {
        write_outputs(&session, &outputs, dir)?;
    }
    if let Some(path) = &args.trace {
        std::fs::write(path, trace::chrome(&session)).map_err(|e| Error::io("write", path, &e))?;
    }
    io.write(&listing(&session, &outputs))
}

/// `--input` as given: files by name, and whether the rest is random.
fn given(inputs: &[String], seed: u64) -> Result<(BTreeMap<String, Tensor>, Option<u64>)> {
    let (mut files, mut fill) = (BTreeMap::new(), None);
    for input in inputs {
        if input == "random" {
            fill = Some(seed);
            continue;
        }
        let (name, file) = input.rsplit_once('=').ok_or_else(|| {
            Error::new(
                "F013",
                format!("--input {input} is neither NAME=FILE nor random"),
                "write --input image=cat.npy",
            )
        })?;
        files.insert(name.to_owned(), tensors::read(Path::new(file))?);
    }
    Ok((files, fill))
}

/// Writes every output as NAME.npy.
pub(super) fn write_outputs(session: &Session, outputs: &[Tensor], dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, &e))?;
    for (port, tensor) in session.outputs().iter().zip(outputs) {
        let path = dir.join(format!("{}.npy", tensors::file_name(&port.name)));
        npy::write(&path, tensor.dtype(), tensor.shape(), tensor.bytes())?;
    }
    Ok(())
}

fn listing(session: &Session, outputs: &[Tensor]) -> String {
    let one = |(port, tensor): (&partita_runtime::PortInfo, &Tensor)| {
        let values: Vec<String> = tensor.to_f64s().iter().take(8).map(|v| format!("{v:.6}")).collect();
        let more = if tensor.n_elements() > 8 { ", ..." } else { "" };
        format!(
            "{}: {}{:?} = [{}{more}]\n",
            port.name,
            tensor.dtype().name(),
            tensor.shape(),
            values.join(", ")
        )
    };
    session.outputs().iter().zip(outputs).map(one).collect()
}
