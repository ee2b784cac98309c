//! `partita conformance`: one case, or many in one process, with tensors as ONNX .pb files.

use super::args::{Compiling, ConformanceArgs};
use super::{Io, tensors};
use crate::error::{Error, Result};
use crate::pipeline::{compile, load_with};
use crate::session::{load_compiled, run_data};
use partita_hw::Machine;
use partita_ir::{Datum, RunLimits};
use partita_onnx::PortKind;
use std::path::Path;

pub(super) fn execute(args: &ConformanceArgs, io: &mut Io) -> Result<()> {
    let machine = args.compiling.machine()?;
    if let Some(cases) = &args.cases {
        return batch(cases, args, &machine, io);
    }
    match (&args.model, &args.inputs_dir, &args.outputs_dir) {
        (Some(model), Some(inputs), Some(outputs)) => {
            case((model, inputs, outputs), &args.compiling, &machine, args.limiting.limits())
        }
        _ => Err(Error::new(
            "F020",
            "MODEL, INPUTS_DIR and OUTPUTS_DIR are all needed",
            "or give --cases FILE",
        )),
    }
}

/// Runs every line of the file; the status of each case goes into its outputs folder, last.
fn batch(cases: &Path, args: &ConformanceArgs, machine: &Machine, io: &mut Io) -> Result<()> {
    let text = std::fs::read_to_string(cases).map_err(|e| Error::io("read", cases, &e))?;
    let (mut ok, mut n) = (0, 0);
    for line in text.lines().filter(|l| !l.trim().is_empty()) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [model, inputs, outputs] = fields.as_slice() else {
            return Err(Error::new(
                "F021",
                format!("the line {line:?} has not three fields"),
                "separate them by tabs",
            )
            .in_file(cases));
        };
        (io.progress)(model);
        let paths = (Path::new(*model), Path::new(*inputs), Path::new(*outputs));
        let result = case(paths, &args.compiling, machine, args.limiting.limits());
        n += 1;
        ok += usize::from(result.is_ok());
        status(Path::new(outputs), &result)?;
    }
    io.write(&format!("{ok} of {n} cases ran\n"))
}

fn status(outputs: &Path, result: &Result<()>) -> Result<()> {
    let text = match result {
        Ok(()) => "ok\n".to_owned(),
        Err(e) if e.is_unsupported() => format!("unsupported\n{e}\n"),
        Err(e) => format!("error\n{e}\n"),
    };
    // A case may fail before it has anything to write.
    std::fs::create_dir_all(outputs).map_err(|e| Error::io("create", outputs, &e))?;
    let (partial, path) = (outputs.join("status.partial"), outputs.join("status.txt"));
    std::fs::write(&partial, text).map_err(|e| Error::io("write", &partial, &e))?;
    std::fs::rename(&partial, &path).map_err(|e| Error::io("write", &path, &e))
}

fn case(
    (model, inputs, outputs): (&Path, &Path, &Path),
    compiling: &Compiling,
    machine: &Machine,
    limits: RunLimits,
) -> Result<()> {
    let options = compiling.options()?;
    let import = compiling.import()?;
    let loaded = load_with(model, &import)?;
    let ports = partita_onnx::port_kinds(model).map_err(|d| Error::from(d).in_file(model))?;
    // Inputs whose values were set are no inputs any more.
    let input = |(i, (_, kind)): (usize, &(String, PortKind))| {
        tensors::read_pb(&inputs.join(format!("input_{i}.pb")), *kind)
    };
    let given: Vec<Datum> = ports
        .inputs
        .iter()
        .enumerate()
        .filter(|(_, (name, _))| !import.inputs.contains_key(name))
        .map(input)
        .collect::<Result<_>>()?;
    let compiled = compile(&loaded, machine, &options, &|_| {})?;
    let mut program = load_compiled(&compiled)?;
    program.limits = limits;
    let results = run_data(&program, given)?;
    std::fs::create_dir_all(outputs).map_err(|e| Error::io("create", outputs, &e))?;
    for (n, ((name, kind), datum)) in ports.outputs.iter().zip(&results).enumerate() {
        let path = outputs.join(format!("output_{n}.pb"));
        let bytes = partita_onnx::datum_to_pb(name, datum, *kind);
        std::fs::write(&path, bytes).map_err(|e| Error::io("write", &path, &e))?;
    }
    Ok(())
}
