//! Opening a plan or a model as something that runs, and running it on tensors.

use crate::devices::drivers;
use crate::error::{Error, Result};
use crate::pipeline::{CompileOptions, Compiled, Progress, compile, load_for};
use partita_hw::Machine;
use partita_ir::{DType, Tensor};
use partita_runtime::{PlanSource, Session, SessionOptions};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// First bytes of a plan file.
const PLAN_MAGIC: &[u8] = b"PARTITA\0";

/// How a program is opened.
pub struct Opening<'a> {
    /// Threads of CPU devices instead of the plan's.
    pub threads: Option<u32>,
    /// Record when each step runs.
    pub trace: bool,
    /// How a model (not a plan) is compiled, and for which machine.
    pub compile: &'a CompileOptions,
    pub machine: &'a dyn Fn() -> Result<Machine>,
    pub progress: Progress<'a>,
}

/// Opens a plan; a model is compiled first. Values in `given` that the model had to be compiled for (see
/// `pipeline::load_for`) are taken out.
///
/// # Errors
/// What is wrong with the file, or what a device says.
pub fn open(path: &Path, opening: &Opening, given: &mut BTreeMap<String, Tensor>) -> Result<Session> {
    let (source, _folder) = if is_plan(path)? {
        (PlanSource::Path(path.to_path_buf()), None)
    } else {
        compiled(path, opening, given)?
    };
    (opening.progress)("opening devices");
    let options = SessionOptions { threads: opening.threads, trace: opening.trace, ..limits() };
    Session::load(source, &drivers(), options).map_err(|e| Error::from(e).in_file(path))
}

fn is_plan(path: &Path) -> Result<bool> {
    use std::io::Read;
    let mut head = [0u8; 8];
    let mut file = std::fs::File::open(path).map_err(|e| Error::io("read", path, &e))?;
    Ok(file.read_exact(&mut head).is_ok() && head == PLAN_MAGIC)
}

/// An arena may not be larger than the machine's memory (or the container's limit on it).
fn limits() -> SessionOptions {
    let cpu = partita_hw::detect_cpu(Path::new("/"));
    let memory_bytes = cpu.memory_limit_bytes.or(cpu.memory_bytes).unwrap_or(u64::MAX);
    let defaults = SessionOptions::default();
    SessionOptions { max_arena_bytes: defaults.max_arena_bytes.min(memory_bytes), ..defaults }
}

/// The plan in a temporary folder, which may go once the plan is mapped.
fn compiled(
    path: &Path,
    opening: &Opening,
    given: &mut BTreeMap<String, Tensor>,
) -> Result<(PlanSource, Option<tempfile::TempDir>)> {
    (opening.progress)("loading");
    let model = load_for(path, &opening.compile.dims, given)?;
    let compiled = compile(&model, &(opening.machine)()?, opening.compile, opening.progress)?;
    drop(model);
    // Through a file, so that the weights are mapped rather than held twice.
    let folder = tempfile::tempdir().map_err(|e| Error::io("create", Path::new("a temporary folder"), &e))?;
    let plan = folder.path().join("model.plan");
    write(&compiled, &plan)?;
    Ok((PlanSource::Path(plan), Some(folder)))
}

/// Writes the plan file, atomically.
///
/// # Errors
/// When the disk is full, or the folder cannot be written.
pub fn write(compiled: &Compiled, path: &Path) -> Result<()> {
    let weights = compiled.assembly.weights.iter().map(|w| (w.offset_bytes, &w.bytes));
    Ok(partita_plan::file::encode_to(&compiled.assembly.plan, weights, path)?)
}

fn encoded(compiled: &Compiled) -> Result<PlanSource> {
    let weights = compiled.assembly.weights.iter().map(|w| (w.offset_bytes, &w.bytes));
    let bytes = partita_plan::file::encode(&compiled.assembly.plan, weights)?;
    Ok(PlanSource::Bytes(Arc::new(bytes)))
}

/// A session for a plan that was just compiled, in memory.
///
/// # Errors
/// What a device says.
pub fn load_compiled(compiled: &Compiled) -> Result<Session> {
    Ok(Session::load(encoded(compiled)?, &drivers(), limits())?)
}

/// Runs a session on tensors and returns its outputs.
///
/// # Errors
/// When an input does not fit, or a device fails.
pub fn run(session: &mut Session, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    check_types(session, inputs)?;
    let views: Vec<(&[u8], &[usize])> = inputs.iter().map(|t| (t.bytes(), t.shape())).collect();
    session.run(&views)?;
    outputs(session)
}

/// Sizes are checked by the session; element types travel beside the bytes.
fn check_types(session: &Session, inputs: &[Tensor]) -> Result<()> {
    for (port, tensor) in session.inputs().iter().zip(inputs) {
        if port.dtype != tensor.dtype() {
            let text =
                format!("input {} is {}, the model wants {}", port.name, tensor.dtype().name(), port.text);
            return Err(Error::new("F012", text, "convert it, for example with numpy's astype"));
        }
    }
    Ok(())
}

/// The outputs of the last run.
///
/// # Errors
/// When nothing ran yet, or a device fails.
pub fn outputs(session: &Session) -> Result<Vec<Tensor>> {
    let one = |n: usize, dtype: DType| {
        let shape = session.output_shape(n)?.to_vec();
        let bytes = partita_ir::Bytes::from_vec(session.output_vec(n)?);
        Tensor::new(dtype, &shape, bytes)
            .ok_or_else(|| Error::new("R060", "an output has the wrong size", "compile the plan again"))
    };
    session.outputs().iter().enumerate().map(|(n, port)| one(n, port.dtype)).collect()
}
