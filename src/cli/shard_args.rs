//! Arguments of `partita shard`, stated once.

use clap::{ArgGroup, Args, ValueEnum};
use std::path::PathBuf;

/// What is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PhaseArg {
    /// Reading the prompt
    Prefill,
    /// Writing tokens
    Decode,
    /// Both, on the same devices or on different ones
    Both,
}

/// What is optimized for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ShardObjective {
    /// Least time of the run
    #[default]
    Latency,
    /// Most tokens per second
    Throughput,
    /// Least energy
    Energy,
    /// Least rent
    Price,
}

/// Which strategies may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum StrategyArg {
    /// Whatever is best
    #[default]
    Any,
    /// One device
    None,
    /// Layers one after the other on different devices
    Pipeline,
    /// Every layer split between devices
    Tensor,
    /// Replicas
    Data,
    /// Anything but prompts and answers on different devices
    Together,
}

/// How a model is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MethodArg {
    Full,
    Lora,
    Qlora,
    Prefix,
    Dpo,
    Rlhf,
    Distillation,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["model", "params", "file", "models"])))]
pub struct ShardArgs {
    /// A model the program knows
    #[arg(long, value_name = "ID")]
    pub model: Option<String>,
    /// A model of which only the size is known, such as 70B or 350M
    #[arg(long, value_name = "N", value_parser = params)]
    pub params: Option<f64>,
    /// A model by the header of its file: safetensors, GGUF or ONNX
    #[arg(long, value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// List the models the program knows
    #[arg(long)]
    pub models: bool,
    /// Format of the weights (fp16, int8, nvfp4, q4_k_m, ...); the file's own, or bf16
    #[arg(long, value_name = "FORMAT")]
    pub quant: Option<String>,
    /// Bits of an element of keys and values; what usually goes with the format when left out
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u32).range(2..=32))]
    pub kv_bits: Option<u32>,
    /// Machine file; the running machine when left out
    #[arg(long, value_name = "FILE")]
    pub machine: Option<PathBuf>,
    /// Plan for N more devices of a profile
    #[arg(long, value_name = "PROFILE:N")]
    pub add: Vec<String>,
    /// Plan without a device
    #[arg(long, value_name = "DEVICE")]
    pub remove: Vec<String>,
    #[arg(long, value_enum)]
    pub phase: Option<PhaseArg>,
    /// Tokens of a prompt
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub prompt: u64,
    /// Tokens written after it
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub output: u64,
    /// Tokens memory is reserved for per sequence; prompt and output when left out
    #[arg(long, value_name = "N")]
    pub context: Option<u64>,
    /// Sequences in flight: a number, or `max` for as many as pay
    #[arg(long, value_name = "N", default_value = "1", value_parser = batch)]
    pub batch: BatchArg,
    #[arg(long, value_enum, default_value_t)]
    pub objective: ShardObjective,
    /// Most milliseconds of the run
    #[arg(long, value_name = "MS", value_parser = positive)]
    pub deadline: Option<f64>,
    /// Most rent of the devices used, in USD per hour
    #[arg(long, value_name = "USD", value_parser = positive)]
    pub budget: Option<f64>,
    /// Most power of the devices used, in watts
    #[arg(long, value_name = "W", value_parser = positive)]
    pub power: Option<f64>,
    #[arg(long, value_enum, default_value_t)]
    pub strategy: StrategyArg,
    /// Fail, with the figures, when this device gets no work
    #[arg(long = "require", value_name = "DEVICE")]
    pub required: Vec<String>,
    /// Memory of training instead of a plan
    #[arg(long, value_enum, value_name = "METHOD")]
    pub training: Option<MethodArg>,
    /// Rented machines that fit, cheapest first, instead of a plan
    #[arg(long)]
    pub cloud: bool,
    /// Prices of rented machines in place of the program's
    #[arg(long, value_name = "FILE", requires = "cloud")]
    pub prices: Option<PathBuf>,
    /// Divisions of layers tried at most: the same limit gives the same plan on every machine
    #[arg(long, value_name = "N")]
    pub work: Option<u64>,
    /// One JSON object with a schema version
    #[arg(long)]
    pub json: bool,
}

/// A batch, or as much as pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchArg {
    /// So many sequences.
    Exactly(u64),
    /// As many as pay.
    Max,
}

fn batch(text: &str) -> Result<BatchArg, String> {
    if text == "max" {
        return Ok(BatchArg::Max);
    }
    match text.parse() {
        Ok(n) if (1..=partita_shard::MAX_BATCH).contains(&n) => Ok(BatchArg::Exactly(n)),
        _ => Err(format!("{text} is not a batch: 1 to {} or max", partita_shard::MAX_BATCH)),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(n) if n > 0.0 && n.is_finite() => Ok(n),
        _ => Err(format!("{text} is not a number above zero")),
    }
}

/// A size with a unit: K, M, B (or G), T.
fn params(text: &str) -> Result<f64, String> {
    let unit = match text.chars().last().map(|c| c.to_ascii_uppercase()) {
        Some('K') => 1e3,
        Some('M') => 1e6,
        Some('B' | 'G') => 1e9,
        Some('T') => 1e12,
        _ => 1.0,
    };
    let digits = if unit > 1.0 { &text[..text.len() - 1] } else { text };
    match digits.parse::<f64>() {
        Ok(n) if n > 0.0 && n.is_finite() => Ok(n * unit),
        _ => Err(format!("{text} is not a size such as 70B, 350M or 8e9")),
    }
}
