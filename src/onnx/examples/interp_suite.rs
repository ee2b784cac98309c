//! Runs ONNX conformance cases in the reference interpreter: `interp_suite CASES`, one case a line as
//! `model<TAB>inputs folder<TAB>outputs folder`; writes `output_<n>.pb` and, last, `status.txt`. Or one case:
//! `interp_suite MODEL INPUTS OUTPUTS`, with exit code 0 ran, 3 refused as unsupported, 1 wrong.

#![allow(clippy::print_stderr, reason = "a command-line example")]

use partita_ir::interp::{self, Symbols};
use partita_ir::{Budget, Bytes, Datum, Diag, Graph, RunLimits, Tensor};
use partita_onnx::{Imported, Options, PortKind, datum_from_pb, datum_to_pb, load, port_kinds};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// Most bytes of all values together.
const MAX_RUN_BYTES: u64 = 1 << 28;

/// Longest run.
const MAX_TIME: Duration = Duration::from_secs(4);

/// Most elements of a value.
const MAX_ELEMENTS: i64 = 1 << 27;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.as_slice() {
        [cases] => match std::fs::read_to_string(cases) {
            Ok(cases) => cases.lines().for_each(batch_line),
            Err(error) => {
                eprintln!("{cases}: {error}");
                return ExitCode::from(2);
            }
        },
        [model, inputs, outputs] => return single(Path::new(model), Path::new(inputs), Path::new(outputs)),
        _ => {
            eprintln!("usage: interp_suite CASES, or interp_suite MODEL INPUTS OUTPUTS");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn single(model: &Path, inputs: &Path, outputs: &Path) -> ExitCode {
    let Err(diags) = run(model, inputs, outputs) else { return ExitCode::SUCCESS };
    diags.iter().for_each(|d| eprintln!("{d}"));
    ExitCode::from(if diags.iter().any(Diag::is_unsupported) { 3 } else { 1 })
}

fn batch_line(line: &str) {
    let fields: Vec<&str> = line.split('\t').collect();
    let [model, inputs, outputs] = fields.as_slice() else { return };
    let outputs = Path::new(outputs);
    let status = match std::panic::catch_unwind(|| run(Path::new(model), Path::new(inputs), outputs)) {
        Ok(Ok(())) => "ok\n".to_owned(),
        Ok(Err(diags)) => letter(&diags),
        Err(_) => "panic\n".to_owned(),
    };
    let temporary = outputs.join("status.tmp");
    let written = std::fs::write(&temporary, status)
        .and_then(|()| std::fs::rename(&temporary, outputs.join("status.txt")));
    if let Err(error) = written {
        eprintln!("{}: {error}", outputs.display());
    }
}

fn letter(diags: &[Diag]) -> String {
    let refused = diags.iter().any(Diag::is_unsupported);
    let lines: Vec<String> = diags.iter().map(ToString::to_string).collect();
    format!("{}\n{}", if refused { "unsupported" } else { "error" }, lines.join("\n"))
}

fn run(model: &Path, inputs: &Path, outputs: &Path) -> Result<(), Vec<Diag>> {
    let (imported, given) = match load(model, &Options::default()) {
        Ok(imported) => {
            let given = read_inputs(&imported, inputs).map_err(|d| vec![d])?;
            (imported, given)
        }
        // A model that computes axes or shapes from its inputs is built for the inputs at hand.
        Err(diags) if diags.iter().all(Diag::is_unsupported) => {
            (load(model, &with_known_inputs(model, inputs).ok_or(diags)?)?, Vec::new())
        }
        Err(diags) => return Err(diags),
    };
    check_sizes(&imported.graph, &given).map_err(|d| vec![d])?;
    let limits = RunLimits { bytes: MAX_RUN_BYTES, time: Some(MAX_TIME), ..RunLimits::default() };
    let results = interp::run_data(&imported.graph, given, Symbols::new(), &Budget::new(limits));
    let results = results.map_err(|d| vec![d])?;
    for (n, ((name, kind), datum)) in imported.ports.outputs.iter().zip(&results).enumerate() {
        let path = outputs.join(format!("output_{n}.pb"));
        std::fs::write(&path, datum_to_pb(name, datum, *kind))
            .map_err(|e| vec![Diag::new("X003", format!("{}: {e}", path.display()))])?;
    }
    Ok(())
}

/// The interpreter has no memory plan: values beyond a limit are refused before anything is computed.
fn check_sizes(graph: &Graph, given: &[Datum]) -> Result<(), Diag> {
    let mut symbols = Symbols::new();
    for (value, tensor) in graph.inputs().iter().zip(given.iter().map(Datum::as_tensor)) {
        for (dim, &size) in graph.ty(*value).shape.iter().zip(tensor.map_or(&[][..], Tensor::shape)) {
            if let Some(name) = dim.as_symbol() {
                symbols.insert(name.to_owned(), size as i64);
            }
        }
    }
    let results = graph.values().filter(|(id, _)| graph.producer(*id).is_some());
    for (_, value) in results {
        let ty = value.ty.bind(&|name| symbols.get(name).copied());
        let n = ty.n_elements().as_known().unwrap_or(0);
        if n > MAX_ELEMENTS {
            let text = format!("a value of type {ty} is too large for the interpreter");
            return Err(Diag::new("X004", text).at_value(&*value.name).hint("use smaller inputs"));
        }
    }
    Ok(())
}

fn read_input(folder: &Path, n: usize, kind: PortKind) -> Result<Datum, Diag> {
    let path = folder.join(format!("input_{n}.pb"));
    let bytes = std::fs::read(&path).map_err(|e| Diag::new("X003", format!("{}: {e}", path.display())))?;
    datum_from_pb(&Bytes::from_vec(bytes), kind)
}

fn read_inputs(imported: &Imported, folder: &Path) -> Result<Vec<Datum>, Diag> {
    let inputs = imported.ports.inputs.iter().enumerate();
    inputs.map(|(n, (_, kind))| read_input(folder, n, *kind)).collect()
}

/// Options that make every stored input a constant; `None` when the inputs cannot be read or are no tensors.
fn with_known_inputs(model: &Path, folder: &Path) -> Option<Options> {
    let mut options = Options::default();
    for (n, (name, kind)) in port_kinds(model).ok()?.inputs.into_iter().enumerate() {
        let Datum::Tensor(tensor) = read_input(folder, n, kind).ok()? else { return None };
        options.inputs.insert(name, tensor);
    }
    Some(options)
}
