//! Named figures of the cost model that are not a processor's own, each with its source.
//!
//! Shares of peak rates and of memory bandwidth belong to processors and live in `partita-hw`: products of a model run
//! at 0.65 of the best product, kernels stream at 0.82 of a long stream.

use partita_hw::Kind;

/// Kernels of a decoder layer as engines fuse them: norm, query-key-value product, rotary with cache write, attention,
/// output product, norm, gate and up product with activation, down product. The same eight count for the hop cost of
/// Groq's processors (`partita-hw`, launch cost of an LPU).
pub(crate) const LAYER_KERNELS: u32 = 8;

/// Further kernels of a layer with experts: router, choice, gathering and scattering of tokens.
pub(crate) const EXPERT_KERNELS: u32 = 4;

/// Kernels of a step outside the layers: lookup, last norm, output product, sampling.
pub(crate) const STEP_KERNELS: u32 = 4;

/// All-reduces of a layer split by columns and rows: after attention and after the feed-forward layer (Shoeybi et al.
/// 2019, Megatron-LM).
pub(crate) const LAYER_REDUCES: f64 = 2.0;

/// Bytes of an activation.
pub(crate) const ACTIVATION_BYTES: f64 = 2.0;

/// Buffers of the residual's width a layer needs at once: input, residual, query-key-value, attention output.
pub(crate) const RESIDUAL_BUFFERS: f64 = 6.0;

/// Most rows a prompt is read at once for; longer prompts go in pieces (chunked prefill; engines default to 2,048 to
/// 8,192 rows).
pub(crate) const MOST_ROWS_AT_ONCE: f64 = 8192.0;

/// Share of a memory that a plan may fill: the rest is the driver's, the allocator's and the library's. vLLM's default
/// is 0.9. A statically scheduled processor has no allocator.
pub(crate) fn usable_memory(kind: Kind) -> f64 {
    if kind == Kind::Lpu { 1.0 } else { 0.9 }
}

/// What starting a collective costs beyond its messages, in us: a command on GPUs; a hand-over between thread teams on
/// CPUs; nothing where the exchange is part of a compiled program.
pub(crate) fn collective_command_us(kind: Kind) -> f64 {
    match kind {
        Kind::Gpu | Kind::Npu | Kind::Custom | Kind::Fpga | Kind::Dsp => partita_hw::COPY_COMMAND_US,
        Kind::Cpu => 0.5,
        Kind::Tpu | Kind::Lpu => 0.0,
    }
}

/// Largest tensor-parallel degree considered; published systems stop at 64 (TPU v4 slices, Pope et al. 2022).
pub(crate) const MOST_RANKS: usize = 64;

/// What products attain over the share that `partita-hw` gives for a typical product. Its 0.65 of the best product was
/// taken from a whole prompt (5,000 tokens of a 70B model on two H100, 407 ms); here exchanges (35 ms), launches (3 ms)
/// and what lies between products (38 ms) are charged apart, which leaves 332 ms for products and attention: 0.77.
pub(crate) fn products_over_typical(kind: Kind) -> f64 {
    if kind == Kind::Cpu { 1.0 } else { 0.77 / 0.65 }
}

/// Share of a CPU that is left for a model when accelerators work beside it: its cores also launch kernels, copy, turn text
/// into tokens and serve the network. Assumed, on the low side: two sockets of 128 cores attain 0.145 of one H200 when
/// they do nothing else (MLPerf v5.1, Llama 3.1 8B), and no measurement of both together shows more than that.
pub(crate) const HOST_LEFT: f64 = 0.4;
