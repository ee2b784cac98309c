//! What one layer costs on a device that holds a share of it: time, memory, exchanges.
//!
//! A share is that of the busiest rank: heads, key-value heads, columns of the feed-forward layer and experts are whole,
//! so a degree that does not divide them costs as much as the next larger share.

use partita_hw::{
    Collective, Device, Group, Precision, Work, WorkKind, estimate, hierarchical_all_reduce, tile_rows,
};

use crate::factors;
use crate::quant::Quant;
use crate::spec::{Family, ModelSpec};

/// What is planned: a model in a format.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    /// The model.
    pub spec: ModelSpec,
    /// How its weights are stored.
    pub quant: Quant,
    /// Bytes of an element of keys and values.
    pub kv_bytes: f64,
}

/// What a step of a phase does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Load {
    /// Sequences in the piece.
    pub(crate) sequences: f64,
    /// New tokens of each.
    pub(crate) tokens: f64,
    /// Keys a new token attends to, on average.
    pub(crate) keys: f64,
    /// Whether tokens are written one at a time.
    pub(crate) decode: bool,
}

impl Load {
    /// Rows of the products.
    pub(crate) fn rows(&self) -> f64 {
        self.sequences * self.tokens
    }
}

/// Devices that share a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ranks {
    /// How many in all.
    pub(crate) count: usize,
    /// Those joined closely.
    pub(crate) inner: Group,
    /// Groups of them, where more than one is needed.
    pub(crate) outer: Option<Group>,
}

/// How experts are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExpertSplit {
    /// There are none, or every rank holds columns of each.
    Columns,
    /// Ranks hold whole experts and tokens travel.
    Whole,
}

/// The busiest rank's part of a layer, in parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Share {
    attention: f64,
    experts: f64,
    /// Share of the keys and values it keeps.
    pub(crate) kv: f64,
    /// Whether the cache is split along the sequence because there are more ranks than key-value heads.
    pub(crate) by_sequence: bool,
    /// Whether some rank has more than another.
    pub(crate) uneven: bool,
    vectors: f64,
}

fn whole(total: u64, ranks: u64) -> f64 {
    if total == 0 { 1.0 } else { total.div_ceil(ranks) as f64 / total as f64 }
}

/// The busiest of `ranks` ranks' part of a layer.
pub(crate) fn share(spec: &ModelSpec, ranks: usize, experts: ExpertSplit) -> Share {
    let p = (ranks as u64).max(1);
    let by_sequence = p > spec.kv_heads && spec.kv_heads > 0;
    let (kv_weights, kv) = if by_sequence {
        (1.0 / spec.kv_heads.max(1) as f64, 1.0 / p as f64)
    } else {
        (whole(spec.kv_heads, p), whole(spec.kv_heads, p))
    };
    let cross = if spec.family == Family::EncoderDecoder { 3.0 } else { 1.0 };
    let attention =
        cross * (whole(spec.heads, p) * spec.query_params() as f64 + kv_weights * spec.kv_params() as f64);
    let all = spec.experts.max(1) as f64 * spec.expert_params() as f64;
    let (held, experts_even) = match experts {
        ExpertSplit::Columns => (whole(spec.ffn, p) * all, spec.ffn.is_multiple_of(p)),
        ExpertSplit::Whole => (whole(spec.experts, p) * all, spec.experts.is_multiple_of(p)),
    };
    let even =
        spec.heads.is_multiple_of(p) && (by_sequence || spec.kv_heads.is_multiple_of(p)) && experts_even;
    let halves = if spec.family == Family::EncoderDecoder { 2.0 } else { 1.0 };
    let products = cross * (spec.query_params() + spec.kv_params()) as f64 + halves * all;
    let vectors = spec.layer_params() as f64 - products - spec.router_params() as f64;
    Share {
        attention,
        experts: halves * held + spec.router_params() as f64,
        kv,
        by_sequence,
        uneven: !even && spec.family != Family::Blocks,
        vectors: vectors.max(0.0),
    }
}

impl Share {
    /// Bytes of the weights this rank holds of a layer; vectors stay in 16 bits.
    pub(crate) fn weight_bytes(&self, spec: &ModelSpec, quant: &Quant) -> f64 {
        if spec.family == Family::Blocks {
            return spec.layer_params() as f64 * quant.bytes();
        }
        (self.attention + self.experts) * quant.bytes() + self.vectors * factors::ACTIVATION_BYTES
    }
}

/// Bytes of keys and values of one token of one layer, all heads.
pub(crate) fn layer_kv_bytes(spec: &ModelSpec, kv_bytes: f64) -> f64 {
    spec.kv_bytes_per_token(kv_bytes) / spec.layers.max(1) as f64
}

/// The format a device multiplies this quantization in: the first it has a rate for, then 16 and 32 bits.
pub(crate) fn computes_in(device: &Device, quant: &Quant) -> Option<Precision> {
    let all = quant.computes.iter().copied().chain([Precision::Bf16, Precision::Fp16, Precision::Fp32]);
    let mut all = all.filter(|&precision| device.dense_rate(precision).is_some());
    all.next()
}

/// Time of a layer in us.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct LayerTime {
    /// In all.
    pub(crate) us: f64,
    /// Of it, exchanges between ranks.
    pub(crate) exchange_us: f64,
}

/// Experts that some token of `tokens` visits, on average, when each visits `top_k` of `experts` at random.
pub(crate) fn visited_experts(experts: f64, top_k: f64, tokens: f64) -> f64 {
    experts * (1.0 - (1.0 - top_k / experts).powf(tokens))
}

/// Operations and weight bytes of a rank's products.
fn products(spec: &ModelSpec, share: &Share, quant: &Quant, load: &Load, device: &Device) -> (f64, f64) {
    let rows = tile_rows(device.kind, load.rows());
    if spec.family == Family::Blocks {
        let params = spec.layer_params() as f64;
        let flops = spec.flops_published / spec.layers as f64 * load.rows();
        return (flops, params * quant.bytes());
    }
    let (attention, experts) = active(spec, share, load);
    if spec.experts <= 1 {
        return (2.0 * (attention + experts) * rows, (attention + experts) * quant.bytes());
    }
    let (all, top) = (spec.experts as f64, spec.top_k as f64);
    let visited = visited_experts(all, top, load.rows());
    // Each visited expert multiplies its own few rows.
    let each = tile_rows(device.kind, load.rows() * top / visited);
    let flops = 2.0 * attention * rows + 2.0 * experts * (visited / all) * each;
    (flops, (attention + experts * visited / all) * quant.bytes())
}

/// Parameters that multiply in this phase; an encoder-decoder reads with one half and writes with the other.
fn active(spec: &ModelSpec, share: &Share, load: &Load) -> (f64, f64) {
    match (spec.family, load.decode) {
        (Family::EncoderDecoder, true) => (share.attention * 2.0 / 3.0, share.experts / 2.0),
        (Family::EncoderDecoder, false) => (share.attention / 3.0, share.experts / 2.0),
        _ => (share.attention, share.experts),
    }
}

/// Operations and bytes of a rank's attention.
fn attention(spec: &ModelSpec, share: &Share, kv_bytes: f64, load: &Load, ranks: usize) -> (f64, f64) {
    if spec.family == Family::Blocks {
        return (0.0, 0.0);
    }
    let heads = if share.by_sequence { 1.0 / ranks as f64 } else { whole(spec.heads, ranks as u64) };
    let flops = 4.0 * load.rows() * load.keys * spec.attention_width() as f64 * heads;
    let per_token = 2.0 * (spec.kv_heads * spec.head_dim) as f64 * kv_bytes * share.kv;
    // A piece of a prompt reads the keys before it once; a step reads all of them.
    (flops, load.sequences * load.keys * per_token)
}

/// Bytes that kernels between the products read and write: two norms with their residuals (8 widths), rotary embedding
/// (queries, keys and values twice), the activation of the feed-forward layer (two operands, one result).
fn between_bytes(spec: &ModelSpec, load: &Load, ranks: usize) -> f64 {
    let heads = (spec.attention_width() + 2 * spec.kv_heads * spec.head_dim) as f64;
    let visits = spec.top_k.max(1) as f64;
    let divided = 2.0 * heads + 3.0 * spec.ffn as f64 * visits;
    load.rows() * (8.0 * spec.hidden as f64 + divided / ranks as f64) * factors::ACTIVATION_BYTES
}

/// Exchanges of a layer between its ranks, in us.
fn exchanges(spec: &ModelSpec, share: &Share, split: ExpertSplit, ranks: &Ranks, load: &Load) -> f64 {
    if ranks.count < 2 {
        return 0.0;
    }
    let bytes = load.rows() * spec.hidden as f64 * factors::ACTIVATION_BYTES;
    let reduce = |bytes: f64| match &ranks.outer {
        Some(outer) => hierarchical_all_reduce(&ranks.inner, outer, bytes).us,
        None => ranks.inner.exchange(Collective::AllReduce, bytes).us,
    };
    let mut us = match split {
        ExpertSplit::Columns => factors::LAYER_REDUCES * reduce(bytes),
        ExpertSplit::Whole => {
            let travelling = bytes * spec.top_k as f64 / ranks.count as f64;
            let group = ranks.outer.unwrap_or(ranks.inner);
            let flat = Group { ranks: ranks.count, ..group };
            // Tokens go out to their experts and come back, and every rank gets all of them again.
            reduce(bytes)
                + 2.0 * flat.exchange(Collective::AllToAll, travelling).us
                + flat.exchange(Collective::AllGather, bytes).us
        }
    };
    if share.by_sequence {
        us += reduce(load.rows() * spec.attention_width() as f64 * factors::ACTIVATION_BYTES);
    }
    us
}

/// Time of one layer on a rank; `None` when the device cannot multiply the format or its memory's speed is unknown.
pub(crate) fn layer_time(
    subject: &Subject,
    device: &Device,
    ranks: &Ranks,
    load: &Load,
) -> Option<(LayerTime, ExpertSplit)> {
    let columns = time_of(subject, device, ranks, load, ExpertSplit::Columns)?;
    if subject.spec.experts <= 1 || ranks.count < 2 {
        return Some((columns, ExpertSplit::Columns));
    }
    let whole = time_of(subject, device, ranks, load, ExpertSplit::Whole)?;
    let better = whole.us < columns.us;
    Some(if better { (whole, ExpertSplit::Whole) } else { (columns, ExpertSplit::Columns) })
}

/// The same with the division of experts given.
pub(crate) fn time_of(
    subject: &Subject,
    device: &Device,
    ranks: &Ranks,
    load: &Load,
    split: ExpertSplit,
) -> Option<LayerTime> {
    let (spec, quant) = (&subject.spec, &subject.quant);
    let precision = computes_in(device, quant)?;
    let share = share(spec, ranks.count, split);
    let (flops, weight_bytes) = products(spec, &share, quant, load, device);
    let gain = factors::products_over_typical(device.kind);
    let mut work =
        Work::new(WorkKind::Dense).with_flops(precision, flops / gain).with_bytes(0.0, 0.0, weight_bytes);
    let halves = if spec.family == Family::EncoderDecoder && load.decode { 4 } else { 0 };
    let expert_kernels = if spec.experts > 1 { factors::EXPERT_KERNELS } else { 0 };
    work.launches = factors::LAYER_KERNELS + expert_kernels + halves;
    let products = estimate(device, &work)?;
    let (flops, bytes) = attention(spec, &share, subject.kv_bytes, load, ranks.count);
    let half = if device.dense_rate(Precision::Bf16).is_some() { Precision::Bf16 } else { precision };
    let mut work = Work::new(WorkKind::Dense).with_flops(half, flops / gain).with_bytes(bytes, 0.0, 0.0);
    work.launches = 0;
    let attention = estimate(device, &work)?;
    let exchange_us = exchanges(spec, &share, split, ranks, load);
    let mut work = Work::new(WorkKind::Move).with_bytes(between_bytes(spec, load, ranks.count), 0.0, 0.0);
    work.launches = 0;
    let between = estimate(device, &work)?;
    let us = products.time_us + attention.time_us + between.time_us + exchange_us;
    Some(LayerTime { us, exchange_us })
}

/// Time of what a step does outside the layers: the output product over `rows` rows and sampling, in us.
pub(crate) fn head_time(subject: &Subject, device: &Device, ranks: &Ranks, rows: f64) -> Option<f64> {
    let (spec, quant) = (&subject.spec, &subject.quant);
    let precision = computes_in(device, quant)?;
    let params = spec.head_params() as f64 / ranks.count as f64;
    let flops = 2.0 * params * tile_rows(device.kind, rows);
    let logits = rows * spec.vocab as f64 * 4.0 / ranks.count as f64;
    let mut work = Work::new(WorkKind::Dense).with_flops(precision, flops).with_bytes(
        logits,
        logits,
        params * quant.bytes(),
    );
    work.launches = factors::STEP_KERNELS;
    let gather = if ranks.count > 1 && spec.has_head {
        ranks.inner.exchange(Collective::AllGather, rows * 8.0 * ranks.count as f64).us
    } else {
        0.0
    };
    Some(estimate(device, &work)?.time_us + gather)
}
