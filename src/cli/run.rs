//! `partita run`.

use super::args::RunArgs;
use super::{Io, tensors};
use crate::error::{Error, Result};
use crate::npy;
use crate::report::trace;
use crate::session::{Opening, open, run_data};
use partita_ir::{DType, Datum, Tensor};
use partita_onnx::PortKind;
use partita_runtime::{Program, Session};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(super) fn execute(args: &RunArgs, io: &mut Io) -> Result<()> {
    let compile = args.compiling.options()?;
    let opening = Opening {
        threads: args.compiling.threads,
        trace: args.trace.is_some(),
        import: &args.compiling.import()?,
        compile: &compile,
        machine: &|| args.compiling.machine(),
        progress: io.progress,
        limits: args.limiting.limits(),
    };
    let (files, fill) = files(&args.inputs, args.seed)?;
    let mut program = open(&args.program, &opening)?;
    let given = given(&program, &files)?;
    let inputs = tensors::inputs(program.plan(), given, fill, &compile.dims)?;
    (io.progress)("running");
    let outputs = run_data(&program, inputs)?;
    if let Some(dir) = &args.output_dir {
        write_outputs(&program, &outputs, dir)?;
    }
    if let Some(path) = &args.trace {
        write_trace(traced(&mut program)?, path)?;
    }
    io.write(&listing(&program, &outputs))
}

/// The session of a static model.
pub(super) fn traced(program: &mut Program) -> Result<&mut Session> {
    program.session().ok_or_else(|| {
        Error::new(
            "F016",
            "times of steps are known for static models only",
            "leave --trace and --profile out",
        )
    })
}

/// Writes what ran when in the last run.
pub(super) fn write_trace(session: &Session, path: &Path) -> Result<()> {
    std::fs::write(path, trace::chrome(session)).map_err(|e| Error::io("write", path, &e))
}

/// `--input` as given: files by name, and the seed when the rest is random.
fn files(inputs: &[String], seed: u64) -> Result<(BTreeMap<String, PathBuf>, Option<u64>)> {
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
        files.insert(name.to_owned(), PathBuf::from(file));
    }
    Ok((files, fill))
}

/// The values in the files, of the kinds the program wants.
fn given(program: &Program, files: &BTreeMap<String, PathBuf>) -> Result<BTreeMap<String, Datum>> {
    let read = |(name, path): (&String, &PathBuf)| {
        let port = program.inputs().iter().find(|p| p.name == *name);
        let kind = port.map_or(PortKind::Tensor, |p| kind_of(&p.text));
        let datum = match kind {
            PortKind::Tensor => Datum::Tensor(tensors::read(path)?),
            kind => tensors::read_pb(path, kind)?,
        };
        Ok((name.clone(), datum))
    };
    files.iter().map(read).collect()
}

/// The kind of value a type as text stands for.
fn kind_of(ty: &str) -> PortKind {
    match ty.split('(').next() {
        Some("seq") => PortKind::Sequence,
        Some("opt") => PortKind::Optional,
        Some("map") => PortKind::Map,
        _ => PortKind::Tensor,
    }
}

/// Writes every output as NAME.npy; items of sequences as NAME.0.npy and so on.
pub(super) fn write_outputs(program: &Program, outputs: &[Datum], dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, &e))?;
    for (port, datum) in program.outputs().iter().zip(outputs) {
        for (suffix, tensor) in tensors_of(datum) {
            npy::write(&dir.join(format!("{}{suffix}.npy", tensors::file_name(&port.name))), tensor)?;
        }
    }
    Ok(())
}

/// All tensors of a value with the path to them: `.0` for the first item, `.keys` and `.values` of a map.
fn tensors_of(datum: &Datum) -> Vec<(String, &Tensor)> {
    let mut todo = vec![(String::new(), datum)];
    let mut out = Vec::new();
    while let Some((path, next)) = todo.pop() {
        match next {
            Datum::Tensor(tensor) => out.push((path, tensor)),
            Datum::Sequence(items) => {
                todo.extend(items.iter().enumerate().rev().map(|(n, d)| (format!("{path}.{n}"), d)));
            }
            Datum::Optional(item) => todo.extend(item.as_deref().map(|d| (path, d))),
            Datum::Map { keys, values } => {
                out.extend([(format!("{path}.keys"), keys), (format!("{path}.values"), values)]);
            }
        }
    }
    out
}

fn listing(program: &Program, outputs: &[Datum]) -> String {
    let one = |(port, datum): (&partita_runtime::PortInfo, &Datum)| {
        let parts = tensors_of(datum);
        if parts.is_empty() {
            return format!("{}: {} without items\n", port.name, datum.kind());
        }
        parts.into_iter().map(|(path, tensor)| format!("{}{path}: {}\n", port.name, shown(tensor))).collect()
    };
    program.outputs().iter().zip(outputs).map(one).collect()
}

/// Type and first elements of a tensor.
fn shown(tensor: &Tensor) -> String {
    const SHOWN: usize = 8;
    let values: Vec<String> = match tensor.dtype() {
        DType::Str => tensor.strings().into_iter().take(SHOWN).map(|s| format!("{s:?}")).collect(),
        _ => tensor.to_f64s().into_iter().take(SHOWN).map(|v| format!("{v:.6}")).collect(),
    };
    let more = if tensor.n_elements() > SHOWN { ", ..." } else { "" };
    format!("{}{:?} = [{}{more}]", tensor.dtype().name(), tensor.shape(), values.join(", "))
}
