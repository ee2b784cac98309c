//! Memory of training: weights, gradients, optimizer states, activations, and what each method adds.
//!
//! Mixed precision with Adam keeps 16 bytes per trained parameter: 2 for the weight, 2 for its gradient, 4 for the master
//! copy and 8 for two moments (Rajbhandari et al. 2020, ZeRO, section 3.1). Activations of a layer take
//! `s b h (34 + 5 a s / h)` bytes in 16 bits; without stored attention scores (FlashAttention) the second term goes, and
//! with recomputation only `2 s b h` stay (Korthikanti et al. 2022, section 4).

use serde::{Deserialize, Serialize};

use crate::spec::ModelSpec;

/// Bytes per trained parameter beyond its weight: gradient, master copy, two moments.
const TRAINED_BYTES: f64 = 14.0;

/// Bytes per parameter of a frozen 16-bit weight.
const FROZEN_BYTES: f64 = 2.0;

/// Bytes per parameter of a frozen weight in NF4: 4 bits, and scales of 8 bits per 64 quantized twice (0.127 bits;
/// Dettmers et al. 2023).
const NF4_BYTES: f64 = 4.127 / 8.0;

/// Rank of adapters unless stated (Hu et al. 2021 use 1 to 64; 16 is the common choice).
const LORA_RANK: u64 = 16;

/// Virtual tokens of prefix tuning unless stated (Li and Liang 2021 use 10 to 200).
const PREFIX_TOKENS: u64 = 100;

/// Bytes of a layer's activations per token and unit of width, 16 bits, attention scores not stored.
const ACTIVATION_BYTES: f64 = 34.0;

/// How a model is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Every weight.
    Full,
    /// Adapters of low rank beside frozen weights.
    Lora,
    /// The same beside weights of 4 bits.
    Qlora,
    /// Keys and values put in front.
    Prefix,
    /// Preferences: a trained model and a frozen one.
    Dpo,
    /// Reinforcement: trained policy and value model, frozen reference and reward model.
    Rlhf,
    /// A trained student beside a frozen teacher of the given model; the student has half its layers.
    Distillation,
}

impl Method {
    /// Every method.
    pub const ALL: [Method; 7] = [
        Method::Full,
        Method::Lora,
        Method::Qlora,
        Method::Prefix,
        Method::Dpo,
        Method::Rlhf,
        Method::Distillation,
    ];

    /// The word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Full => "full",
            Method::Lora => "lora",
            Method::Qlora => "qlora",
            Method::Prefix => "prefix",
            Method::Dpo => "dpo",
            Method::Rlhf => "rlhf",
            Method::Distillation => "distillation",
        }
    }
}

/// Memory of a training step in bytes, before anything is divided between devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingMemory {
    /// How it is trained.
    pub method: Method,
    /// Parameters that change.
    pub trained_params: u64,
    /// Weights, frozen ones included.
    pub weight_bytes: f64,
    /// Gradients.
    pub gradient_bytes: f64,
    /// Master copies and moments.
    pub optimizer_bytes: f64,
    /// Activations kept for the backward pass.
    pub activation_bytes: f64,
    /// The same when layers are computed again instead.
    pub recomputed_bytes: f64,
    /// All but the recomputation row.
    pub total_bytes: f64,
    /// How that follows.
    pub formula: String,
}

/// Memory of training `spec` on `batch` sequences of `tokens` tokens.
pub fn training(spec: &ModelSpec, method: Method, batch: u64, tokens: u64) -> TrainingMemory {
    let params = spec.params() as f64;
    let (trained, frozen_bytes, copies, formula) = match method {
        Method::Full => {
            (params, 0.0, 1.0, "16 bytes per parameter: weight 2, gradient 2, master 4, moments 8")
        }
        Method::Lora => {
            (adapters(spec), params * FROZEN_BYTES, 1.0, "frozen weights at 2 bytes, adapters at 16")
        }
        Method::Qlora => {
            (adapters(spec), params * NF4_BYTES, 1.0, "frozen weights at 4.127 bits, adapters at 16 bytes")
        }
        Method::Prefix => {
            (prefixes(spec), params * FROZEN_BYTES, 1.0, "frozen weights at 2 bytes, prefixes at 16")
        }
        Method::Dpo => (
            params,
            params * FROZEN_BYTES,
            2.0,
            "16 bytes per parameter and a frozen reference at 2; chosen and rejected",
        ),
        Method::Rlhf => (
            2.0 * params,
            2.0 * params * FROZEN_BYTES,
            2.0,
            "policy and value model at 16 bytes, reference and reward at 2",
        ),
        Method::Distillation => (
            params / 2.0,
            params * FROZEN_BYTES,
            0.5,
            "a student of half the layers at 16 bytes, the teacher at 2",
        ),
    };
    let elements = (batch * tokens) as f64 * spec.hidden as f64;
    let layers = spec.layers as f64 * copies;
    let activation_bytes = ACTIVATION_BYTES * elements * layers + logits(spec, batch, tokens);
    let recomputed_bytes =
        2.0 * elements * layers + ACTIVATION_BYTES * elements + logits(spec, batch, tokens);
    let weight_bytes = trained * FROZEN_BYTES + frozen_bytes;
    let gradient_bytes = trained * 2.0;
    let optimizer_bytes = trained * (TRAINED_BYTES - 2.0);
    TrainingMemory {
        method,
        trained_params: trained as u64,
        weight_bytes,
        gradient_bytes,
        optimizer_bytes,
        activation_bytes,
        recomputed_bytes,
        total_bytes: weight_bytes + gradient_bytes + optimizer_bytes + activation_bytes,
        formula: formula.to_owned(),
    }
}

/// Logits and their gradient in 32 bits.
fn logits(spec: &ModelSpec, batch: u64, tokens: u64) -> f64 {
    if spec.has_head { 2.0 * 4.0 * (batch * tokens) as f64 * spec.vocab as f64 } else { 0.0 }
}

/// Parameters of adapters on every product of every layer.
fn adapters(spec: &ModelSpec) -> f64 {
    let (hidden, wide) = (spec.hidden, spec.attention_width());
    let keys = spec.kv_heads * spec.head_dim;
    let attention = 2 * (hidden + wide) + 2 * (hidden + keys);
    let matrices = if spec.gated_ffn { 3 } else { 2 };
    let feed_forward = spec.experts.max(1) * matrices * (hidden + spec.ffn);
    (spec.layers * LORA_RANK) as f64 * (attention + feed_forward) as f64
}

fn prefixes(spec: &ModelSpec) -> f64 {
    (spec.layers * PREFIX_TOKENS * 2 * spec.kv_heads * spec.head_dim) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{guess, model};

    #[test]
    fn states_of_a_7b_model_are_sixteen_bytes_a_parameter() {
        let memory = training(&guess(7e9).unwrap(), Method::Full, 1, 2048);
        let states = memory.weight_bytes + memory.gradient_bytes + memory.optimizer_bytes;
        assert!((states / 112e9 - 1.0).abs() < 0.01, "{states}");
        assert!(memory.recomputed_bytes < memory.activation_bytes);
    }

    #[test]
    fn methods_order_as_expected() {
        let spec = model("llama-3-8b").unwrap();
        let total = |method| training(&spec, method, 1, 1024).total_bytes;
        assert!(total(Method::Qlora) < total(Method::Lora));
        assert!(total(Method::Lora) < total(Method::Full));
        assert!(total(Method::Full) < total(Method::Dpo));
        assert!(total(Method::Dpo) < total(Method::Rlhf));
        // Rank 16 on every product of Llama 3 8B is published as 41.9 M parameters.
        assert_eq!(training(&spec, Method::Lora, 1, 1).trained_params, 41_943_040);
    }
}
