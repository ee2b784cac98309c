//! A plan: what the planner answers, as JSON with a schema version.

use serde::{Deserialize, Serialize};

use crate::layer::ExpertSplit;
use crate::request::{Objective, Phase};

/// Version of the JSON; it grows when a reader of the old form would misread the new one.
pub const PLAN_SCHEMA: u32 = 1;

/// What a part of a plan does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads prompts and writes tokens, or what the phase asks for.
    All,
    /// Reads prompts only.
    Prefill,
    /// Writes tokens only.
    Decode,
}

/// Layers on devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// First layer.
    pub first_layer: u64,
    /// Layers.
    pub layers: u64,
    /// Devices that share each layer (tensor parallel).
    pub ranks: u64,
    /// How experts are divided between them.
    pub experts: ExpertSplit,
    /// Whether the degree does not divide the heads or widths, so that one rank has more than another.
    pub uneven: bool,
    /// Whether the cache is split along the sequence, since there are more ranks than key-value heads.
    pub cache_by_sequence: bool,
    /// Whether it holds the table of embeddings.
    pub table: bool,
    /// Whether it holds the output matrix.
    pub head: bool,
    /// Names of the devices, replica by replica.
    pub devices: Vec<Vec<String>>,
    /// Bytes of weights on each device.
    pub weight_bytes: f64,
    /// Bytes of keys and values on each device.
    pub cache_bytes: f64,
    /// Bytes in all on each device, activations included.
    pub bytes: f64,
    /// Bytes a plan may use on each device.
    pub usable_bytes: f64,
    /// Time of a piece of a prompt, in us; 0 when it reads none.
    pub prefill_us: f64,
    /// Time of a piece of a step, in us; 0 when it writes nothing.
    pub decode_us: f64,
    /// Share of the decode time (or the prefill time) spent in exchanges between ranks.
    pub exchange_share: f64,
}

/// Equal replicas of a pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// What it does.
    pub role: Role,
    /// Replicas (data parallel).
    pub replicas: u64,
    /// Sequences of each replica.
    pub sequences: u64,
    /// Pieces the sequences of a replica are written in.
    pub decode_pieces: u64,
    /// Pieces the prompts of a replica are read in.
    pub prefill_pieces: u64,
    /// Stages, in order.
    pub stages: Vec<Stage>,
    /// Time from each stage to the next for a piece of a prompt, in us.
    pub prefill_hop_us: Vec<f64>,
    /// Time from each stage to the next for a piece of a step, in us.
    pub decode_hop_us: Vec<f64>,
    /// Time from the last stage back to the first, in us.
    pub back_us: f64,
    /// Time to read the prompts, in us.
    pub prefill_us: f64,
    /// Time of a round in which every sequence gets a token, in us.
    pub step_us: f64,
    /// Time of the part's run in us.
    pub run_us: f64,
}

/// How good a plan is known to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The objective's value: us, tokens per second, J or USD.
    pub value: f64,
    /// No plan of the class does better than this.
    pub bound: f64,
    /// Distance of the two, relative to the value.
    pub gap: f64,
    /// The class of plans the bound holds for.
    pub class: String,
    /// Divisions of layers tried.
    pub work: u64,
}

/// A device that does nothing, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unused {
    /// Its name.
    pub device: String,
    /// One sentence.
    pub why: String,
}

/// What another strategy would give.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alternative {
    /// The class of strategies.
    pub class: String,
    /// The best plan of it; `None` when nothing fits.
    pub strategy: Option<String>,
    /// Tokens per second.
    pub tokens_per_second: f64,
    /// Time of the run in us.
    pub run_us: f64,
    /// How it compares with the plan, or why it does not fit.
    pub note: String,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Version of this form.
    pub schema: u32,
    /// Id of the model.
    pub model: String,
    /// Where its sizes come from.
    pub model_source: String,
    /// Parameters.
    pub params: u64,
    /// Layers.
    pub layers: u64,
    /// Name of the quantization.
    pub quant: String,
    /// Bits of a weight.
    pub bits: f64,
    /// Bytes of an element of keys and values.
    pub kv_bytes: f64,
    /// Name of the machine.
    pub machine: String,
    /// What is planned.
    pub phase: Phase,
    /// Sequences in flight.
    pub batch: u64,
    /// Tokens of a prompt.
    pub prompt: u64,
    /// Tokens written.
    pub output: u64,
    /// Tokens memory is reserved for.
    pub context: u64,
    /// What was optimized.
    pub objective: Objective,
    /// The strategy in words.
    pub strategy: String,
    /// What runs where.
    pub parts: Vec<Part>,
    /// Bytes of all weights, once.
    pub weight_bytes: f64,
    /// Bytes of keys and values of all sequences.
    pub cache_bytes: f64,
    /// Time to the first token in us; 0 when nothing is read.
    pub prefill_us: f64,
    /// Time to hand keys and values over between devices, in us.
    pub handoff_us: f64,
    /// Time of a round in us; 0 when nothing is written.
    pub step_us: f64,
    /// Time of the run in us (of one round when only decoding is planned).
    pub run_us: f64,
    /// Tokens written (or read) per second, all sequences.
    pub tokens_per_second: f64,
    /// Energy of a token in J at the devices' power; `None` when one is unknown.
    pub joules_per_token: Option<f64>,
    /// Rent of a million tokens in USD; `None` when one is unknown.
    pub usd_per_million_tokens: Option<f64>,
    /// Devices in use.
    pub devices_used: u64,
    /// How good it is.
    pub certificate: Certificate,
    /// What does nothing.
    pub unused: Vec<Unused>,
    /// What else there is.
    pub alternatives: Vec<Alternative>,
    /// Remarks.
    pub notes: Vec<String>,
}

impl Plan {
    /// The plan as indented JSON.
    ///
    /// # Errors
    /// None in practice: every field has a JSON form.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }
}
