//! The architecture behind names and shapes of tensors, as the Hugging Face library and its exporters name them.

use super::TensorInfo;
use crate::spec::{Family, ModelSpec};

/// Head width assumed where only products of heads are stored: 128 from a width of 2,048 on, 64 below (Llama, GPT-2).
fn assumed_head_dim(hidden: u64, queries: u64) -> u64 {
    let dim = if hidden >= 2048 { 128 } else { 64 };
    if queries.is_multiple_of(dim) { dim } else { queries }
}

/// Elements of the first layer's tensor of one of these names.
fn first<'t>(tensors: &'t [TensorInfo], names: &[&str]) -> Option<&'t TensorInfo> {
    tensors.iter().find(|tensor| {
        let name = tensor.name.trim_end_matches(".weight");
        names.iter().any(|word| name.ends_with(word)) && tensor.shape.len() == 2
    })
}

/// The number behind `layers.`, `h.`, `blocks.` or `block.` in a name.
fn layer_of(name: &str) -> Option<u64> {
    let mut parts = name.split(['.', '/']);
    while let Some(part) = parts.next() {
        if matches!(part, "layers" | "layer" | "h" | "blocks" | "block" | "blk") {
            return parts.next()?.parse().ok();
        }
    }
    None
}

fn expert_of(name: &str) -> Option<u64> {
    let mut parts = name.split(['.', '/']);
    parts.find(|part| *part == "experts")?;
    parts.next()?.parse().ok()
}

/// The spec, when table, layers, attention and feed-forward are all found.
pub(super) fn infer(tensors: &[TensorInfo]) -> Option<ModelSpec> {
    let table = first(tensors, &["embed_tokens", "wte", "word_embeddings", "token_embd", "tok_embeddings"])?;
    let (vocab, hidden) = (table.shape[0], table.shape[1]);
    let layers = tensors.iter().filter_map(|tensor| layer_of(&tensor.name)).max()?.checked_add(1)?;
    let other =
        |tensor: &TensorInfo| tensor.shape.iter().copied().find(|&size| size != hidden).unwrap_or(hidden);
    let (queries, keys) = match first(tensors, &["q_proj", "wq", "attn_q", "query"]) {
        Some(query) => {
            let key = first(tensors, &["k_proj", "wk", "attn_k", "key"])?;
            (other(query), other(key))
        }
        // One product for all three: as many keys as queries.
        None => first(tensors, &["c_attn", "qkv_proj", "query_key_value"]).map(|_| (hidden, hidden))?,
    };
    let gate = first(tensors, &["gate_proj", "w1", "ffn_gate", "gate_up_proj"]);
    let up = gate.or_else(|| first(tensors, &["up_proj", "c_fc", "intermediate.dense", "fc1", "ffn_up"]))?;
    let experts = tensors
        .iter()
        .filter_map(|tensor| expert_of(&tensor.name))
        .max()
        .map_or(1, |last| last.saturating_add(1));
    let head_dim = assumed_head_dim(hidden, queries).max(1);
    let bert = first(tensors, &["intermediate.dense"]).is_some();
    Some(ModelSpec {
        id: "file".to_owned(),
        name: "the file's model".to_owned(),
        family: if bert { Family::Encoder } else { Family::Decoder },
        layers,
        hidden,
        heads: queries / head_dim,
        kv_heads: (keys / head_dim).max(1),
        head_dim,
        ffn: other(up),
        gated_ffn: gate.is_some(),
        vocab,
        experts,
        top_k: experts.min(2),
        tied_embeddings: first(tensors, &["lm_head", "output"]).is_none(),
        biases: gate.is_none(),
        has_head: !bert,
        evaluations: 1,
        source: "names and shapes of the file's tensors; the width of a head is assumed".to_owned(),
        ..ModelSpec::default()
    })
}
