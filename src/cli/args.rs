//! The command line, stated once.

pub use super::machine_args::{DevicesArgs, MachineArgs};
use super::tensors;
use crate::error::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use partita_hw::Edit;
use partita_ir::RunLimits;
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the input is wrong, or something failed; the message says what and what to do
  2  the command line is wrong
  3  the model uses something valid that is not supported
`partita diff` ends with 1 also when the plans differ, `partita check` when the plan does not fit.

Results go to stdout, progress and messages to stderr.";

/// Compiles models for machines with unlike processors, shows what it decided and why, and runs the result.
#[derive(Debug, Parser)]
#[command(name = "partita", version, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compile a model into a plan: what runs where, when, out of which memory
    #[command(
        after_help = "Example:\n  partita compile model.onnx -o model.plan --machine cpu-gpu.toml --dump-dot dots/ --report report.html\n  partita compile model.onnx --machine cpu-gpu.toml --what-if remove=gpu0 --what-if add=nvidia-a100-sxm-80gb:2"
    )]
    Compile(CompileArgs),
    /// Run a plan, or a model (compiled on the fly), once
    #[command(
        after_help = "Example:\n  partita run model.plan --input image=cat.npy --output-dir out/\n  partita run model.onnx --input random"
    )]
    Run(RunArgs),
    /// Measure a plan or a model
    #[command(after_help = "Example:\n  partita bench model.plan --threads 2 --runs 100 --json")]
    Bench(BenchArgs),
    /// Show a plan
    #[command(
        after_help = "Example:\n  partita inspect model.plan --format html > report.html\n  partita inspect model.plan --format dot --around /conv1/Conv | dot -Tsvg > plan.svg"
    )]
    Inspect(InspectArgs),
    /// Rewrite a model and write it back as ONNX
    #[command(after_help = "Example:\n  partita optimize model.onnx -o smaller.onnx --report")]
    Optimize(OptimizeArgs),
    /// Say why a node runs where it runs: what others would cost, what decides, whether it may be late
    #[command(
        after_help = "Example:\n  partita explain model.plan /conv1/Conv\n  partita explain model.plan"
    )]
    Explain(ExplainArgs),
    /// Say what differs between two plans: 0 when they are equal, 1 when they differ
    #[command(after_help = "Example:\n  partita diff before.plan after.plan")]
    Diff(DiffArgs),
    /// Say whether a plan fits a machine, without loading its weights
    #[command(after_help = "Example:\n  partita check model.plan --machine cpu-gpu.toml")]
    Check(CheckArgs),
    /// List the processors of this machine
    #[command(
        after_help = "Example:\n  partita devices --json\n  partita devices --add h100-sxm:8 --remove cpu0 --kind gpu\n  partita devices --watch 2 --columns device,load,free,temperature,power,what"
    )]
    Devices(Box<DevicesArgs>),
    /// Measure what kernels cost on this machine, for predictions
    #[command(
        after_help = "Example:\n  partita calibrate\n  partita calibrate -o costs.toml\n  partita bench model.onnx --costs costs.toml --profile"
    )]
    Calibrate(CalibrateArgs),
    /// Write this machine, or another one put together from profiles, as a machine file
    #[command(
        after_help = "Example:\n  partita machine -o machine.toml\n  partita machine --add h100-sxm:8 --add tpu-v5p -o bigger.toml"
    )]
    Machine(Box<MachineArgs>),
    /// Run conformance cases: inputs and outputs as ONNX .pb files
    #[command(
        after_help = "Example:\n  partita conformance --cases cases.txt\n  partita conformance model.onnx inputs/ outputs/"
    )]
    Conformance(ConformanceArgs),
    /// Solve a placement problem given as numbers
    #[command(
        after_help = "Example:\n  partita place bert.json --format msr --objective throughput -o bert.solution.json"
    )]
    Place(PlaceArgs),
    /// Plan a model larger than a device: which devices hold which layers, how fast, how far from the best
    #[command(
        after_help = "Example:\n  partita shard --model llama-3-70b --quant int8 --machine server.toml\n  partita shard --params 70B --quant q4_k_m --machine server.toml --batch max --objective throughput"
    )]
    Shard(Box<super::shard_args::ShardArgs>),
}

/// What is optimized for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ObjectiveArg {
    /// Least time of one inference
    #[default]
    Latency,
    /// Least load of the busiest device or link, for a stream of inferences
    Throughput,
}

/// What products and convolutions multiply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PrecisionArg {
    /// Single precision
    #[default]
    F32,
    /// Both factors rounded to bfloat16, summed in single precision
    Bf16,
}

/// Options of every command that compiles.
#[derive(Clone, Debug, Args)]
pub struct Compiling {
    /// Machine file; the running CPU when left out
    #[arg(long, value_name = "FILE")]
    pub machine: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t)]
    pub objective: ObjectiveArg,
    /// Fix a symbolic dimension; the others are bound when the plan runs
    #[arg(long = "dim", value_name = "NAME=N", value_parser = dim)]
    pub dims: Vec<(String, i64)>,
    /// Give an input a fixed value: sizes and axes that it holds are then known when the model is compiled
    #[arg(long = "set", value_name = "NAME=FILE", value_parser = pair)]
    pub values: Vec<(String, String)>,
    /// Read weights from files that have other names, maybe outside the model's folder
    #[arg(long)]
    pub allow_hard_links: bool,
    /// Read weights through the links of a Hugging Face cache (snapshots/ID/FILE to ../../blobs/ID)
    #[arg(long)]
    pub allow_hf_cache: bool,
    /// Size a free dimension is likely to have, for predictions; the plan stays general
    #[arg(long = "hint", value_name = "NAME=N", value_parser = dim)]
    pub hints: Vec<(String, i64)>,
    /// Worker threads of the CPU
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// What kernels cost here, as written by `partita calibrate`; for the running CPU the file that it writes without
    /// -o is taken when it is there
    #[arg(long, value_name = "FILE", conflicts_with = "no_costs")]
    pub costs: Option<PathBuf>,
    /// Predict without a cost file
    #[arg(long)]
    pub no_costs: bool,
    /// More rewrite rules
    #[arg(long = "rules", value_name = "FILE")]
    pub rules: Vec<PathBuf>,
    /// Stop after N rewrites, to bisect a bad one
    #[arg(long, value_name = "N")]
    pub fuel: Option<u64>,
    /// Run a node on a device
    #[arg(long = "pin", value_name = "NODE=DEVICE", value_parser = pair)]
    pub pins: Vec<(String, String)>,
    /// Fail, with the figures, when this device gets no work
    #[arg(long = "require", value_name = "DEVICE")]
    pub required: Vec<String>,
    /// Bit-exact rewrites only
    #[arg(long)]
    pub strict: bool,
    /// What products and convolutions with constant weights multiply; bf16 halves the weights and, where the
    /// processor multiplies it, the time, for about three significant digits
    #[arg(long, value_enum, default_value = "f32", conflicts_with = "strict")]
    pub precision: PrecisionArg,
    /// Leave the e-graph out
    #[arg(long)]
    pub no_egraph: bool,
    /// Keep convolution nets in the layout of the model
    #[arg(long)]
    pub no_channels_last: bool,
    /// Work limit of the placement solver, in elementary steps
    #[arg(long, value_name = "N")]
    pub work: Option<u64>,
}

impl Compiling {
    /// What the importer is told.
    pub(super) fn import(&self) -> Result<partita_onnx::Options> {
        let value = |(name, file): &(String, String)| Ok((name.clone(), tensors::read(Path::new(file))?));
        Ok(partita_onnx::Options {
            dims: self.dims.iter().cloned().collect(),
            inputs: self.values.iter().map(value).collect::<Result<_>>()?,
            allow_hard_links: self.allow_hard_links,
            allow_hf_cache: self.allow_hf_cache,
            ..Default::default()
        })
    }
}

/// What a run may use.
#[derive(Clone, Debug, Args)]
pub struct Limiting {
    /// Most runs of loop bodies
    #[arg(long, value_name = "N", default_value_t = partita_plan::budget::DEFAULT_MAX_STEPS)]
    pub max_steps: u64,
    /// Most seconds of a run of a model with control flow or values beyond tensors
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<f64>,
    /// Most bytes held by values that are computed on the host
    #[arg(long, value_name = "BYTES", default_value_t = partita_plan::budget::DEFAULT_MAX_BYTES)]
    pub max_memory: u64,
}

impl Limiting {
    pub(super) fn limits(&self) -> RunLimits {
        let time = self.timeout.and_then(|s| Duration::try_from_secs_f64(s).ok());
        RunLimits { steps: self.max_steps, bytes: self.max_memory, time }
    }
}

#[derive(Debug, Args)]
pub struct CompileArgs {
    /// ONNX model, or a graph in the text form (.graph)
    pub model: PathBuf,
    /// Where the plan goes
    #[arg(short, long, value_name = "PLAN", required_unless_present = "what_if")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub compiling: Compiling,
    /// Measure on this machine which way to compute is fastest, where there is a choice (at most a minute), and note it
    /// in the cost file
    #[arg(long, conflicts_with_all = ["no_costs", "strict"])]
    pub tune: bool,
    /// Write nothing: compare with the plan for another machine, without a device (remove=DEVICE), with more of a
    /// processor (add=PROFILE:COUNT), with another one (replace=DEVICE=PROFILE) or another link (link=A:B=LINK); several
    /// are applied in their order
    #[arg(long, value_name = "CHANGE", value_parser = Edit::parse, conflicts_with_all = ["output", "dump_dot", "report", "tune"])]
    pub what_if: Vec<Edit>,
    /// Write what was decided and why as one HTML file
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Show what a run took in the report: a trace, or the output of bench --profile --json
    #[arg(long, value_name = "FILE", requires = "report")]
    pub measured: Option<PathBuf>,
    /// Write a DOT file for every stage into DIR
    #[arg(long, value_name = "DIR")]
    pub dump_dot: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// A plan, an ONNX model or a text graph
    #[arg(value_name = "PLAN-or-MODEL")]
    pub program: PathBuf,
    /// NAME=FILE with a .npy or .pb tensor, or `random` to fill what is missing (seeded)
    #[arg(long = "input", value_name = "NAME=FILE")]
    pub inputs: Vec<String>,
    /// Seed of `--input random`
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Write every output as NAME.npy
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Write what ran when, as a trace for chrome://tracing or Perfetto
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    #[command(flatten)]
    pub limiting: Limiting,
    #[command(flatten)]
    pub compiling: Compiling,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// A plan, an ONNX model or a text graph
    #[arg(value_name = "PLAN-or-MODEL")]
    pub program: PathBuf,
    /// NAME.npy per input; missing ones are random (seeded)
    #[arg(long, value_name = "DIR")]
    pub inputs_dir: Option<PathBuf>,
    /// Write every output as NAME.npy
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Timed runs; without it as many as fit a second, at least 30
    #[arg(long, value_name = "N")]
    pub runs: Option<usize>,
    /// The last line is one JSON object with a schema version
    #[arg(long)]
    pub json: bool,
    /// Say where the time goes, by kernel and by step, from further runs that are traced
    #[arg(long)]
    pub profile: bool,
    /// Write what ran when in one more run, as a trace for chrome://tracing or Perfetto
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    #[command(flatten)]
    pub limiting: Limiting,
    #[command(flatten)]
    pub compiling: Compiling,
}

#[derive(Debug, Args)]
pub struct CalibrateArgs {
    /// Where the costs go; without it to costs.toml in the user's cache folder, where other commands find it
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Most threads to measure with; all that the machine has when left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
}

/// Form of `inspect`'s output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum InspectFormat {
    #[default]
    Text,
    Dot,
    Json,
    Html,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    pub plan: PathBuf,
    #[arg(long, value_enum, default_value_t)]
    pub format: InspectFormat,
    /// DOT: only what is near a node
    #[arg(long, value_name = "NODE")]
    pub around: Option<String>,
    /// DOT: how many arrows away is near
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub hops: usize,
    /// DOT: most boxes that are drawn one by one
    #[arg(long, value_name = "N", default_value_t = crate::report::dot::COLLAPSE_ABOVE)]
    pub collapse_above: usize,
    /// HTML: show what a run took; a trace, or the output of bench --profile --json
    #[arg(long, value_name = "FILE")]
    pub measured: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct OptimizeArgs {
    pub model: PathBuf,
    /// Where the optimized model goes
    #[arg(short, long, value_name = "OUT.onnx")]
    pub output: PathBuf,
    /// Say which passes and rules did what
    #[arg(long)]
    pub report: bool,
    #[command(flatten)]
    pub compiling: Compiling,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    pub plan: PathBuf,
    /// Name of a node, a value, or a part of one; all steps are listed without it
    pub node: Option<String>,
}

#[derive(Debug, Args)]
pub struct DiffArgs {
    pub old: PathBuf,
    pub new: PathBuf,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    pub plan: PathBuf,
    /// Machine file; what is here when left out
    #[arg(long, value_name = "FILE")]
    pub machine: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ConformanceArgs {
    /// One case a line: model, inputs folder, outputs folder, separated by tabs
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "inputs_dir", "outputs_dir"])]
    pub cases: Option<PathBuf>,
    #[arg(required_unless_present = "cases")]
    pub model: Option<PathBuf>,
    /// Holds input_<i>.pb
    #[arg(required_unless_present = "cases")]
    pub inputs_dir: Option<PathBuf>,
    /// Gets output_<j>.pb
    #[arg(required_unless_present = "cases")]
    pub outputs_dir: Option<PathBuf>,
    #[command(flatten)]
    pub limiting: Limiting,
    #[command(flatten)]
    pub compiling: Compiling,
}

/// Form of a placement problem.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PlaceFormat {
    /// Our text form
    #[default]
    Partita,
    /// JSON of the MSR instances (throughput and latency)
    Msr,
    /// Contest instances of the intra-operator parallelism challenge
    Iopddl,
    /// MILP models of Helix
    Helix,
    /// TMPC problems of Piper
    Piper,
}

/// What a Piper plan does without, or how it splits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlaceVariant {
    /// No tensor parallelism
    NoTp,
    /// No data parallelism
    NoDp,
    /// No recomputed activations
    NoRecompute,
    /// Equal shares of the repeated layer, equal degrees everywhere
    EquiSplit,
}

#[derive(Debug, Args)]
pub struct PlaceArgs {
    /// The problem
    pub file: PathBuf,
    #[arg(long, value_enum, default_value_t)]
    pub format: PlaceFormat,
    #[arg(long, value_enum, default_value_t)]
    pub objective: ObjectiveArg,
    /// Work limit in elementary steps: the same limit gives the same answer on every machine
    #[arg(long, value_name = "N")]
    pub work: Option<u64>,
    /// Solver threads
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// Piper problems: what plans do without
    #[arg(long, value_enum)]
    pub variant: Vec<PlaceVariant>,
    /// Piper problems: another number of devices
    #[arg(long, value_name = "N")]
    pub devices: Option<usize>,
    /// Piper problems: another memory per device
    #[arg(long, value_name = "BYTES")]
    pub memory: Option<f64>,
    /// Piper problems: another bandwidth
    #[arg(long, value_name = "BYTES_PER_SECOND")]
    pub bandwidth: Option<f64>,
    /// Where the solution goes
    #[arg(short, long, value_name = "SOLUTION")]
    pub output: PathBuf,
}

fn pair(text: &str) -> std::result::Result<(String, String), String> {
    // Node names may hold `=`; device names do not.
    let (a, b) = text.rsplit_once('=').ok_or("expected NAME=VALUE")?;
    if a.is_empty() || b.is_empty() {
        Err("expected NAME=VALUE".to_owned())
    } else {
        Ok((a.to_owned(), b.to_owned()))
    }
}

fn dim(text: &str) -> std::result::Result<(String, i64), String> {
    let (name, size) = pair(text)?;
    match size.parse::<i64>() {
        Ok(n) if n >= 0 => Ok((name, n)),
        _ => Err(format!("{size} is not a size")),
    }
}
