//! A model as an architecture: sizes, from which parameters, operations and cache bytes follow in closed form.
//!
//! Operations count two per multiply-add. Products are those with weights, attention is apart:
//! decoding a token at context `n` costs `2 x active + 4 x layers x n x heads x head_dim`; reading a prompt of `S`
//! tokens costs `2 x (active - head) x S + 2 x head + 2 x layers x S^2 x heads x head_dim` (causal: half the square).

use serde::{Deserialize, Serialize};

/// Most layers of a model.
pub(crate) const MAX_LAYERS: u64 = 10_000;

/// Largest hidden size, feed-forward size, vocabulary and the like.
pub(crate) const MAX_WIDTH: u64 = 1 << 24;

/// How a model is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Reads a prompt, then writes a token at a time.
    #[default]
    Decoder,
    /// Reads its whole input at once.
    Encoder,
    /// Reads with one half, writes with the other.
    EncoderDecoder,
    /// Known by size and operations only; cut into equal blocks.
    Blocks,
}

/// A model. Sizes are in elements.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSpec {
    /// Stable id, such as "llama-3-70b".
    pub id: String,
    /// Name in print.
    pub name: String,
    /// How it is run.
    pub family: Family,
    /// Layers (decoder layers of an encoder-decoder).
    pub layers: u64,
    /// Encoder layers in front of them (encoder-decoder only).
    pub encoder_layers: u64,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// Width of the feed-forward layer.
    pub ffn: u64,
    /// Whether the feed-forward layer has a gate (three matrices).
    pub gated_ffn: bool,
    /// Words of the vocabulary (classes of a classifier).
    pub vocab: u64,
    /// Experts of a feed-forward layer, 1 for none.
    pub experts: u64,
    /// Experts a token visits.
    pub top_k: u64,
    /// Whether the output matrix is the table of embeddings.
    pub tied_embeddings: bool,
    /// Whether projections have biases and norms have two vectors (GPT-2, BERT, ViT, Whisper).
    pub biases: bool,
    /// Whether an output matrix over the vocabulary exists at all.
    pub has_head: bool,
    /// Most tokens it attends to.
    pub context: u64,
    /// Tokens of one input where the architecture fixes them (image patches, frames of audio).
    pub tokens: u64,
    /// Parameters outside layers, table and head: positions, patches, convolutions, poolers, last norms.
    pub other_params: u64,
    /// Parameters in print; the closed form must agree.
    pub params_published: u64,
    /// Operations of one input, where only a published figure exists.
    pub flops_published: f64,
    /// Inputs evaluated for one sample (denoising steps, twice with guidance).
    pub evaluations: u64,
    /// Where the sizes come from.
    pub source: String,
}

impl ModelSpec {
    /// Refuses sizes no product of this file may overflow on.
    ///
    /// # Errors
    /// A sentence that names the size.
    pub fn check(&self) -> Result<(), String> {
        let widths = [
            ("hidden", self.hidden),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("ffn", self.ffn),
            ("experts", self.experts),
        ];
        if self.layers == 0 || self.layers > MAX_LAYERS || self.encoder_layers > MAX_LAYERS {
            return Err(format!("{} layers; a plan has 1 to {MAX_LAYERS}", self.layers));
        }
        let blocks = self.family == Family::Blocks;
        let bad = |&&(_, width): &&(&str, u64)| (width == 0 && !blocks) || width > MAX_WIDTH;
        if let Some((name, width)) = widths.iter().find(bad) {
            return Err(format!("{name} is {width}; it must be 1 to {MAX_WIDTH}"));
        }
        let width = self.heads as f64 * self.head_dim.max(self.kv_heads) as f64;
        let layer = self.hidden as f64 * (6.0 * width + 3.0 * self.ffn as f64 * self.experts.max(1) as f64);
        if layer * (self.layers + self.encoder_layers) as f64 > 1e17 || self.kv_heads > self.heads {
            return Err(
                "the layers are larger than any model's, or have more key-value heads than heads".to_owned()
            );
        }
        if self.vocab > MAX_WIDTH || self.top_k > self.experts || self.other_params > 1 << 50 {
            return Err(
                "the vocabulary, the experts per token or other parameters are out of range".to_owned()
            );
        }
        Ok(())
    }

    /// Width of all query heads together.
    pub fn attention_width(&self) -> u64 {
        self.heads * self.head_dim
    }

    /// Weights of query and output projections of a layer.
    pub fn query_params(&self) -> u64 {
        2 * self.hidden * self.attention_width()
    }

    /// Weights of key and value projections of a layer.
    pub fn kv_params(&self) -> u64 {
        2 * self.hidden * self.kv_heads * self.head_dim
    }

    /// Weights of one expert, or of the feed-forward layer.
    pub fn expert_params(&self) -> u64 {
        (if self.gated_ffn { 3 } else { 2 }) * self.hidden * self.ffn
    }

    /// Weights that choose experts.
    pub fn router_params(&self) -> u64 {
        if self.experts > 1 { self.hidden * self.experts } else { 0 }
    }

    /// Weights of a layer that multiply, all experts.
    pub fn layer_matmul_params(&self) -> u64 {
        self.query_params()
            + self.kv_params()
            + self.experts.max(1) * self.expert_params()
            + self.router_params()
    }

    /// Norms and biases of a layer.
    fn layer_vectors(&self) -> u64 {
        if !self.biases {
            return 2 * self.hidden;
        }
        let projections = 2 * self.attention_width().max(self.hidden) + 2 * self.kv_heads * self.head_dim;
        4 * self.hidden + projections + self.ffn + self.hidden
    }

    /// Every parameter of a layer.
    pub fn layer_params(&self) -> u64 {
        match self.family {
            Family::Blocks => self.params_published / self.layers.max(1),
            Family::EncoderDecoder => {
                let (encoder, decoder) = self.pair_params();
                self.encoder_layers * encoder / self.layers.max(1) + decoder
            }
            Family::Decoder | Family::Encoder => self.layer_matmul_params() + self.layer_vectors(),
        }
    }

    /// Parameters of a Whisper-like pair: one encoder layer and one decoder layer with cross attention; keys have no
    /// bias.
    fn pair_params(&self) -> (u64, u64) {
        let attention = self.query_params() + self.kv_params() + 3 * self.hidden;
        let rest = self.expert_params() + self.ffn + self.hidden;
        (attention + rest + 4 * self.hidden, 2 * attention + rest + 6 * self.hidden)
    }

    /// Parameters of the table of embeddings.
    pub fn embedding_params(&self) -> u64 {
        if self.family == Family::Blocks || !self.has_head && self.tokens > 0 {
            0
        } else {
            self.vocab * self.hidden
        }
    }

    /// Parameters of the output matrix, also when it is the table.
    pub fn head_params(&self) -> u64 {
        if self.has_head { self.vocab * self.hidden } else { 0 }
    }

    /// Every parameter.
    pub fn params(&self) -> u64 {
        let untied = if self.tied_embeddings { 0 } else { self.head_params() };
        let layers = match self.family {
            Family::Blocks => return self.params_published,
            Family::EncoderDecoder => {
                let (encoder, decoder) = self.pair_params();
                self.encoder_layers * encoder + self.layers * decoder
            }
            Family::Decoder | Family::Encoder => self.layers * self.layer_params(),
        };
        layers + self.embedding_params() + untied + self.other_params
    }

    /// Weights that multiply for every token: no table, no norms; the experts a token visits only.
    pub fn matmul_params_active(&self) -> u64 {
        let idle = self.experts.saturating_sub(self.top_k) * self.expert_params();
        // Cross attention projects queries and outputs for every token, keys and values once per input.
        let cross = if self.family == Family::EncoderDecoder { self.query_params() } else { 0 };
        self.layers * (self.layer_matmul_params() - idle + cross) + self.head_params()
    }

    /// The same with every expert.
    pub fn matmul_params_total(&self) -> u64 {
        self.layers * self.layer_matmul_params() + self.head_params()
    }

    /// Bytes of keys and values of one token at so many bytes per element.
    pub fn kv_bytes_per_token(&self, bytes: f64) -> f64 {
        match self.family {
            Family::Encoder | Family::Blocks => 0.0,
            Family::Decoder | Family::EncoderDecoder => {
                2.0 * (self.layers * self.kv_heads * self.head_dim) as f64 * bytes
            }
        }
    }

    /// Operations of writing one token at that context.
    pub fn decode_flops(&self, context: f64) -> f64 {
        2.0 * self.matmul_params_active() as f64
            + 4.0 * self.layers as f64 * context * self.attention_width() as f64
    }

    /// Operations of reading `tokens`: causal for decoders, everything with everything for encoders.
    pub fn prefill_flops(&self, tokens: f64) -> f64 {
        if self.family == Family::Blocks {
            return self.flops_published;
        }
        let head = self.head_params() as f64;
        let body = 2.0 * (self.matmul_params_active() as f64 - head) * tokens;
        let square = self.layers as f64 * tokens * tokens * self.attention_width() as f64;
        match self.family {
            Family::EncoderDecoder => self.encoder_flops(tokens),
            Family::Encoder => body + 4.0 * square + 2.0 * head,
            _ => body + 2.0 * square + 2.0 * head,
        }
    }

    /// Operations of the encoder over `frames`, and of the keys and values it hands to the decoder.
    fn encoder_flops(&self, frames: f64) -> f64 {
        let layer = (self.query_params() + self.kv_params() + self.expert_params()) as f64;
        let square = 4.0 * frames * frames * self.attention_width() as f64;
        let cross = 2.0 * self.kv_params() as f64 * frames * self.layers as f64;
        self.encoder_layers as f64 * (2.0 * layer * frames + square) + cross
    }

    /// Whether it writes tokens one at a time.
    pub fn decodes(&self) -> bool {
        matches!(self.family, Family::Decoder | Family::EncoderDecoder)
    }
}
