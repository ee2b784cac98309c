//! The commands. Each takes its arguments and writes its result; nothing here prints, exits or reads arguments.

pub mod args;
mod bench;
mod calibrate;
mod compare;
mod compile;
mod conformance;
mod costs;
mod inspect;
mod machine;
mod machine_args;
mod optimize;
mod place;
mod run;
mod shard;
pub mod shard_args;
mod tensors;
mod what_if;

use crate::error::{Error, Result};
use crate::pipeline::{CompileOptions, DEFAULT_WORK};
use crate::placement::Wishes;
use args::{Cli, Command, Compiling, ObjectiveArg, PrecisionArg};
use partita_codegen::lower::Precision;
use partita_hw::{CostTable, Machine};
use partita_place::{Limits, Objective};
use std::io::Write;
use std::sync::Arc;

/// Where results go, and who is told about progress.
pub struct Io<'a> {
    pub out: &'a mut dyn Write,
    /// Told the stage that begins.
    pub progress: &'a dyn Fn(&str),
}

impl Io<'_> {
    /// Writes text to the results.
    pub(crate) fn write(&mut self, text: &str) -> Result<()> {
        self.out
            .write_all(text.as_bytes())
            .map_err(|e| Error::io("write", std::path::Path::new("standard output"), &e))
    }
}

/// How a command ended that did what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// What was compared is not the same.
    Different,
}

/// Runs one command.
///
/// # Errors
/// What the command says.
pub fn execute(cli: Cli, io: &mut Io) -> Result<Outcome> {
    if let Command::Diff(args) = &cli.command {
        return compare::diff(args, io);
    }
    run(cli.command, io).map(|()| Outcome::Done)
}

fn run(command: Command, io: &mut Io) -> Result<()> {
    match command {
        Command::Diff(args) => compare::diff(&args, io).map(drop),
        Command::Check(args) => compare::check(&args, io),
        Command::Compile(args) => compile::execute(&args, io),
        Command::Run(args) => run::execute(&args, io),
        Command::Bench(args) => bench::execute(&args, io),
        Command::Inspect(args) => inspect::inspect(&args, io),
        Command::Explain(args) => inspect::explain(&args, io),
        Command::Optimize(args) => optimize::execute(&args, io),
        Command::Devices(args) => machine::devices(&args, io),
        Command::Calibrate(args) => calibrate::execute(&args, io),
        Command::Machine(args) => machine::machine(&args, io),
        Command::Conformance(args) => conformance::execute(&args, io),
        Command::Place(args) => place::execute(&args, io),
        Command::Shard(args) => shard::execute(&args, io),
    }
}

impl From<ObjectiveArg> for Objective {
    fn from(arg: ObjectiveArg) -> Self {
        match arg {
            ObjectiveArg::Latency => Self::Latency,
            ObjectiveArg::Throughput => Self::Bottleneck,
        }
    }
}

impl From<PrecisionArg> for Precision {
    fn from(arg: PrecisionArg) -> Self {
        match arg {
            PrecisionArg::F32 => Self::F32,
            PrecisionArg::Bf16 => Self::Bf16,
        }
    }
}

impl Compiling {
    /// The pipeline's options, with rule files read.
    pub(crate) fn options(&self) -> Result<CompileOptions> {
        let read = |p: &std::path::PathBuf| {
            let text = std::fs::read_to_string(p).map_err(|e| Error::io("read", p, &e))?;
            Ok((p.display().to_string(), text))
        };
        let defaults = Limits::default();
        Ok(CompileOptions {
            dims: self.dims.iter().cloned().collect(),
            hints: self.hints.iter().cloned().collect(),
            fuel: self.fuel,
            rules: self.rules.iter().map(read).collect::<Result<_>>()?,
            strict: self.strict,
            precision: self.precision.into(),
            egraph: !self.no_egraph,
            channels_last: !self.no_channels_last,
            threads: self.threads,
            costs: self.costs()?,
            required: self.required.clone(),
            wishes: Wishes {
                objective: self.objective.into(),
                limits: Limits { work: self.work.unwrap_or(DEFAULT_WORK), ..defaults },
                pins: self.pins.clone(),
            },
        })
    }

    /// The cost file that is named, or that of the running CPU where there is one.
    fn costs(&self) -> Result<Option<Arc<CostTable>>> {
        let own = || costs::default_path().filter(|path| self.machine.is_none() && path.exists());
        match (&self.costs, self.no_costs) {
            (_, true) => Ok(None),
            (Some(path), _) => costs::read_for(path, &self.machine()?).map(Some),
            (None, _) => {
                own().map(|path| costs::read_own(&path, &self.machine()?)).transpose().map(Option::flatten)
            }
        }
    }

    /// The machine to plan for: that of the file, or the running CPU.
    pub(crate) fn machine(&self) -> Result<Machine> {
        match &self.machine {
            Some(path) => crate::devices::from_file(path),
            None => crate::devices::detected(false),
        }
    }
}
