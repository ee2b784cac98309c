//! Opening a plan or a model as something that runs, and running it on tensors.

use crate::devices::drivers;
use crate::error::{Error, Result};
use crate::host_kernels::ReferenceKernels;
use crate::pipeline::{CompileOptions, Compiled, Progress, compile, load_with};
use partita_hw::Machine;
use partita_ir::{Datum, RunLimits, Tensor};
use partita_runtime::{PlanSource, Program, SessionOptions};
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
    /// What a run may use.
    pub limits: RunLimits,
    /// How a model (not a plan) is read and compiled, and for which machine.
    pub import: &'a partita_onnx::Options,
    pub compile: &'a CompileOptions,
    pub machine: &'a dyn Fn() -> Result<Machine>,
    pub progress: Progress<'a>,
}

/// Opens a plan; a model is compiled first.
///
/// # Errors
/// What is wrong with the file, or what a device says.
pub fn open(path: &Path, opening: &Opening) -> Result<Program> {
    let (source, _folder) =
        if is_plan(path)? { (PlanSource::Path(path.to_path_buf()), None) } else { compiled(path, opening)? };
    (opening.progress)("opening devices");
    let options = SessionOptions { threads: opening.threads, trace: opening.trace, ..limits() };
    let mut program = Program::load(source, &drivers(), Some(&ReferenceKernels), &options)
        .map_err(|e| Error::from(e).in_file(path))?;
    program.limits = opening.limits;
    Ok(program)
}

/// Whether the file begins as plans do.
///
/// # Errors
/// When it cannot be opened.
pub(crate) fn is_plan(path: &Path) -> Result<bool> {
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
fn compiled(path: &Path, opening: &Opening) -> Result<(PlanSource, Option<tempfile::TempDir>)> {
    (opening.progress)("loading");
    let model = load_with(path, opening.import)?;
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

/// The plan file of a compiled model, in memory.
pub(crate) fn encoded(compiled: &Compiled) -> Result<Vec<u8>> {
    let weights = compiled.assembly.weights.iter().map(|w| (w.offset_bytes, &w.bytes));
    Ok(partita_plan::file::encode(&compiled.assembly.plan, weights)?)
}

/// A program for a plan that was just compiled, in memory.
///
/// # Errors
/// What a device says.
pub fn load_compiled(compiled: &Compiled) -> Result<Program> {
    load_encoded(PlanSource::Bytes(Arc::new(encoded(compiled)?)), None)
}

/// The same for a plan file in memory, on so many threads, or as many as the plan says.
pub(crate) fn load_encoded(source: PlanSource, threads: Option<u32>) -> Result<Program> {
    let options = SessionOptions { threads, ..limits() };
    Ok(Program::load(source, &drivers(), Some(&ReferenceKernels), &options)?)
}

/// Runs a program on tensors and returns its outputs.
///
/// # Errors
/// When an input does not fit, a device fails, or an output is no tensor.
pub fn run(program: &mut Program, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    let outputs = program.run(inputs.iter().cloned().map(Datum::Tensor).collect())?;
    let tensor = |datum: Datum| match datum {
        Datum::Tensor(tensor) => Ok(tensor),
        other => Err(Error::new("F015", format!("an output is {}", other.kind()), "use run_data")),
    };
    outputs.into_iter().map(tensor).collect()
}

/// Runs a program on values of any kind.
///
/// # Errors
/// When an input does not fit, or a device fails.
pub fn run_data(program: &Program, inputs: Vec<Datum>) -> Result<Vec<Datum>> {
    Ok(program.run(inputs)?)
}
