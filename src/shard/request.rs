//! What is asked of the planner.

use serde::{Deserialize, Serialize};

use crate::error::{Code, ShardError};
use crate::layer::{Load, Subject};
use crate::spec::Family;

/// Most sequences in flight.
pub const MAX_BATCH: u64 = 65_536;

/// Most tokens of a prompt, an answer or a context.
pub const MAX_TOKENS: u64 = 1 << 24;

/// Which part of a run is planned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Reading the prompt.
    Prefill,
    /// Writing tokens.
    Decode,
    /// Both, one after the other.
    #[default]
    Both,
}

/// What is optimized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// Least time of the run.
    #[default]
    Latency,
    /// Most tokens per second.
    Throughput,
    /// Least energy of the run.
    Energy,
    /// Least rent of the run.
    Price,
}

/// Limits a plan must keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Caps {
    /// Most time of the run in us.
    pub deadline_us: Option<f64>,
    /// Most rent of the devices used, in USD per hour.
    pub usd_per_hour: Option<f64>,
    /// Most power of the devices used, in W.
    pub power_w: Option<f64>,
}

/// Which strategies may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allow {
    /// Several devices in a stage.
    pub tensor: bool,
    /// Several stages.
    pub pipeline: bool,
    /// Several replicas.
    pub data: bool,
    /// Prompt and answer on different devices.
    pub split: bool,
}

impl Allow {
    /// Everything.
    pub const ALL: Allow = Allow { tensor: true, pipeline: true, data: true, split: true };
    /// One device.
    pub const NONE: Allow = Allow { tensor: false, pipeline: false, data: false, split: false };
}

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The model in a format.
    pub subject: Subject,
    /// What is planned.
    pub phase: Phase,
    /// Sequences in flight.
    pub batch: u64,
    /// Tokens of a prompt.
    pub prompt: u64,
    /// Tokens written after it.
    pub output: u64,
    /// Tokens memory is reserved for; with [`Phase::Decode`] also the keys a token attends to.
    pub context: u64,
    /// What is optimized.
    pub objective: Objective,
    /// What must be kept.
    pub caps: Caps,
    /// What may be used.
    pub allow: Allow,
    /// Positions of devices that must work.
    pub required: Vec<usize>,
    /// Devices of a stage at least: more than one to learn what splitting would cost.
    pub least_ranks: usize,
    /// Keys a written token attends to on average, where that is not the context.
    pub mean_keys: Option<f64>,
    /// Rounds of writing that a decoding plan is timed for; 0 times one.
    pub rounds: u64,
    /// Fillings tried at most; the same limit gives the same plan on every machine.
    pub work: u64,
}

/// Fillings tried unless the caller says otherwise.
pub const DEFAULT_WORK: u64 = 4_000_000;

impl Request {
    /// Decoding with everything allowed.
    pub fn new(subject: Subject, batch: u64, prompt: u64, output: u64) -> Request {
        let decodes = subject.spec.decodes();
        let prompt = if subject.spec.tokens > 0 { subject.spec.tokens } else { prompt };
        Request {
            subject,
            phase: if decodes { Phase::Both } else { Phase::Prefill },
            batch,
            prompt,
            output: if decodes { output } else { 0 },
            context: prompt + output,
            objective: Objective::Latency,
            caps: Caps::default(),
            allow: Allow::ALL,
            required: Vec::new(),
            least_ranks: 1,
            mean_keys: None,
            rounds: 0,
            work: DEFAULT_WORK,
        }
    }

    /// Refuses sizes out of range.
    ///
    /// # Errors
    /// A letter that names the size.
    pub fn check(&self) -> Result<(), ShardError> {
        let bad = |message: String, hint: &str| Err(ShardError::new(Code::Input, message, hint));
        if let Err(message) = self.subject.spec.check() {
            return bad(message, "correct the description of the model");
        }
        if !(1..=MAX_BATCH).contains(&self.batch) {
            return bad(format!("a batch of {} is out of range", self.batch), "1 to 65536");
        }
        let tokens = [self.prompt, self.output, self.context];
        if tokens.iter().any(|&tokens| tokens > MAX_TOKENS) || self.prompt == 0 && self.phase != Phase::Decode
        {
            return bad(
                "a prompt, an answer or a context is out of range".to_owned(),
                "at most 16,777,216 tokens",
            );
        }
        if !self.subject.spec.decodes() && self.phase != Phase::Prefill {
            let message = format!("{} writes no tokens", self.subject.spec.name);
            return bad(message, "leave --phase out");
        }
        if self.phase == Phase::Both && self.output == 0 {
            return bad("nothing is to be written".to_owned(), "--output N, or --phase prefill");
        }
        Ok(())
    }

    /// Tokens of keys and values kept for a sequence; an encoder-decoder keeps those of its input as well.
    pub(crate) fn kept_tokens(&self) -> f64 {
        let own = match self.phase {
            Phase::Decode => self.context,
            _ => self.context.max(self.prompt + self.output),
        };
        let crossed =
            if self.subject.spec.family == Family::EncoderDecoder { self.subject.spec.tokens } else { 0 };
        (own + crossed) as f64
    }

    /// The load of a step that writes one token for each of `sequences`.
    pub(crate) fn decode_load(&self, sequences: f64) -> Load {
        let keys = match (self.mean_keys, self.phase) {
            (Some(keys), _) => keys,
            (None, Phase::Decode) => self.context as f64,
            _ => self.prompt as f64 + self.output as f64 / 2.0,
        };
        Load { sequences, tokens: 1.0, keys, decode: true }
    }

    /// The load of one of `pieces` pieces of the prompts of `sequences` sequences.
    pub(crate) fn prefill_load(&self, sequences: f64, pieces: u64) -> Load {
        let prompt = self.prompt as f64;
        // A decoder's token sees half of the prompt on average, an encoder's sees all of it.
        let causal = self.subject.spec.family == Family::Decoder;
        let keys = if causal { prompt / 2.0 } else { prompt };
        let each = sequences / pieces as f64;
        if each >= 1.0 {
            return Load { sequences: each, tokens: prompt, keys, decode: false };
        }
        // Pieces of a prompt follow one another through the stages.
        Load { sequences: 1.0, tokens: prompt * each, keys, decode: false }
    }

    /// Rounds a run is timed for; `None` for the time of one round in a stream of them.
    pub(crate) fn timed_rounds(&self) -> Option<u64> {
        match self.phase {
            Phase::Both => Some(self.output),
            Phase::Decode if self.rounds > 0 => Some(self.rounds),
            Phase::Decode | Phase::Prefill => None,
        }
    }

    /// Tokens the run is counted in: those written, or those read when nothing is written.
    pub(crate) fn counted_tokens(&self, sequences: f64) -> f64 {
        match self.phase {
            Phase::Both => sequences * self.output as f64,
            Phase::Decode => sequences,
            Phase::Prefill => sequences * self.prompt as f64,
        }
    }
}
