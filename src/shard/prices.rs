//! Prices of everything a search asks for, computed once per pool, degree and load.

use std::collections::BTreeMap;

use partita_hw::Kind;

use crate::factors;
use crate::fill::{Item, Room};
use crate::layer::{ExpertSplit, LayerTime, Load, head_time, layer_kv_bytes, layer_time, share};
use crate::pool::{Pools, Wire};
use crate::request::Request;
use crate::timing::Timing;

/// Price of a layer at one degree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit {
    /// Its time.
    pub(crate) layer: LayerTime,
    /// How its experts are divided.
    pub(crate) experts: ExpertSplit,
    /// Time of the output product in us.
    pub(crate) head_us: f64,
}

/// What a CPU is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CpuTime {
    /// Its own time: nothing else works.
    Alone,
    /// More, for it also feeds the accelerators that work beside it.
    Beside,
}

/// What a replica holds and does: sequences in all, which decide memory.
#[derive(Clone, Debug)]
pub(crate) struct Prices<'a> {
    /// What is asked.
    pub(crate) request: &'a Request,
    /// The devices.
    pub(crate) pools: &'a Pools,
    /// Sequences of a replica.
    pub(crate) sequences: u64,
    cpu: CpuTime,
    rooms: BTreeMap<(usize, usize), (Room, ExpertSplit)>,
    units: BTreeMap<(usize, usize, bool, u64), Option<Unit>>,
}

impl<'a> Prices<'a> {
    /// Nothing priced yet.
    pub(crate) fn new(request: &'a Request, pools: &'a Pools, sequences: u64, cpu: CpuTime) -> Prices<'a> {
        Prices { request, pools, sequences, cpu, rooms: BTreeMap::new(), units: BTreeMap::new() }
    }

    /// The load of one of `pieces` pieces.
    pub(crate) fn load(&self, decode: bool, pieces: u64) -> Load {
        let sequences = self.sequences as f64;
        if decode {
            self.request.decode_load(sequences / pieces as f64)
        } else {
            self.request.prefill_load(sequences, pieces)
        }
    }

    /// Bytes between stages for that load.
    pub(crate) fn hop_bytes(&self, load: &Load) -> f64 {
        load.rows() * self.request.subject.spec.hidden as f64 * factors::ACTIVATION_BYTES
    }

    /// Price of a layer; `None` when the pool's devices cannot compute it.
    pub(crate) fn unit(&mut self, pool: usize, ranks: usize, decode: bool, pieces: u64) -> Option<Unit> {
        if let Some(known) = self.units.get(&(pool, ranks, decode, pieces)) {
            return *known;
        }
        let load = self.load(decode, pieces);
        let unit = self.price(pool, ranks, &load);
        self.units.insert((pool, ranks, decode, pieces), unit);
        unit
    }

    fn price(&self, pool: usize, ranks: usize, load: &Load) -> Option<Unit> {
        let pool = &self.pools.list[pool];
        let subject = &self.request.subject;
        let group = pool.ranks(ranks);
        let (mut layer, experts) = layer_time(subject, &pool.device, &group, load)?;
        // Only the last token of a prompt is turned into a word.
        let rows = if load.decode { load.rows() } else { load.sequences };
        let mut head_us = head_time(subject, &pool.device, &group, rows)?;
        if pool.device.kind == Kind::Cpu && self.cpu == CpuTime::Beside {
            layer.us /= factors::HOST_LEFT;
            head_us /= factors::HOST_LEFT;
        }
        Some(Unit { layer, experts, head_us })
    }

    /// Most layers of a stage in memory, and how experts are divided there.
    pub(crate) fn room(&mut self, pool: usize, ranks: usize) -> (Room, ExpertSplit) {
        if let Some(known) = self.rooms.get(&(pool, ranks)) {
            return *known;
        }
        let decode = self.request.phase != crate::request::Phase::Prefill;
        let experts = self.unit(pool, ranks, decode, 1).map_or(ExpertSplit::Columns, |unit| unit.experts);
        let room = self.measure(pool, ranks, experts);
        self.rooms.insert((pool, ranks), (room, experts));
        (room, experts)
    }

    fn measure(&self, pool: usize, ranks: usize, experts: ExpertSplit) -> Room {
        let bytes = stage_bytes(self.request, self.sequences, ranks, experts);
        let free = self.pools.list[pool].usable_bytes - bytes.buffers;
        let layers = self.request.subject.spec.layers as usize;
        let most = |rest: f64| {
            let left = free - rest;
            (left >= 0.0).then(|| ((left / bytes.layer).floor() as usize).min(layers))
        };
        let tied = self.request.subject.spec.tied_embeddings;
        let both = if tied { bytes.table.max(bytes.head) } else { bytes.table + bytes.head };
        Room {
            middle: most(0.0).unwrap_or(0),
            first: most(bytes.table),
            last: most(bytes.head),
            only: most(both),
        }
    }

    /// The pool as part of a pipeline, when its slots are shared by `replicas`.
    pub(crate) fn item(
        &mut self,
        pool: usize,
        ranks: usize,
        decode: bool,
        pieces: u64,
        replicas: usize,
    ) -> Option<Item> {
        let unit = self.unit(pool, ranks, decode, pieces)?;
        let (room, _) = self.room(pool, ranks);
        let bytes = self.hop_bytes(&self.load(decode, pieces));
        let pool = &self.pools.list[pool];
        let hop_us = pool.shortest_way(ranks, bytes);
        let slots = pool.slots(ranks) / replicas;
        let item = Item { unit_us: unit.layer.us, head_us: unit.head_us, hop_us, slots, room };
        (slots > 0 && room.middle > 0).then_some(item)
    }

    /// Times of the stages of a replica for one load.
    pub(crate) fn timing(&mut self, stages: &[StageShape], decode: bool, pieces: u64) -> Option<Timing> {
        let load = self.load(decode, pieces);
        let bytes = self.hop_bytes(&load);
        let mut timing = Timing::default();
        for (index, stage) in stages.iter().enumerate() {
            let unit = self.unit(stage.pool, stage.ranks, decode, pieces)?;
            let last = index + 1 == stages.len();
            let head_us = if last { unit.head_us } else { 0.0 };
            timing.stage_us.push(stage.layers as f64 * unit.layer.us + head_us);
            if let Some(next) = stages.get(index + 1) {
                let slot = stages[..index].iter().filter(|other| other.pool == stage.pool).count();
                timing.hop_us.push(self.way(stage, next, slot).us(bytes));
            }
        }
        if let (Some(first), Some(last)) = (stages.first(), stages.last())
            && stages.len() > 1
            && decode
        {
            let slot = stages.iter().filter(|other| other.pool == last.pool).count() - 1;
            timing.back_us = self.way(last, first, slot).us(4.0 * load.sequences);
        }
        Some(timing)
    }

    /// The way between two stages; `slot` counts the stages of the first one's pool before it.
    fn way(&self, from: &StageShape, to: &StageShape, slot: usize) -> Wire {
        if from.pool == to.pool {
            self.pools.list[from.pool].way_behind(from.ranks, slot)
        } else {
            self.pools.between[from.pool][to.pool]
        }
    }
}

/// A stage before devices are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StageShape {
    /// Position of its pool.
    pub(crate) pool: usize,
    /// Devices.
    pub(crate) ranks: usize,
    /// Layers.
    pub(crate) layers: usize,
}

/// Bytes a device of a stage holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct StageBytes {
    /// Weights of a layer.
    pub(crate) weights: f64,
    /// Keys and values of a layer.
    pub(crate) cache: f64,
    /// Both.
    pub(crate) layer: f64,
    /// Its part of the table of embeddings and of parameters outside the layers.
    pub(crate) table: f64,
    /// Its part of the output matrix, with logits.
    pub(crate) head: f64,
    /// Activations.
    pub(crate) buffers: f64,
}

/// Bytes of the parts of a stage of that degree for so many sequences.
pub(crate) fn stage_bytes(
    request: &Request,
    sequences: u64,
    ranks: usize,
    experts: ExpertSplit,
) -> StageBytes {
    let spec = &request.subject.spec;
    let (quant, p) = (&request.subject.quant, ranks as f64);
    let part = share(spec, ranks, experts);
    let weights = part.weight_bytes(spec, quant);
    let kept = request.kept_tokens() * sequences as f64;
    let cache = kept * layer_kv_bytes(spec, request.subject.kv_bytes) * part.kv;
    let reading = match request.phase {
        crate::request::Phase::Decode => 0.0,
        _ => (request.prompt as f64 * sequences as f64).min(factors::MOST_ROWS_AT_ONCE),
    };
    let rows = reading.max(sequences as f64);
    let wide = (if spec.gated_ffn { 2 } else { 1 } * spec.ffn) as f64 / p;
    let buffers = rows * (factors::RESIDUAL_BUFFERS * spec.hidden as f64 + wide) * factors::ACTIVATION_BYTES;
    let table = (spec.embedding_params() as f64 * quant.bytes()
        + spec.other_params as f64 * factors::ACTIVATION_BYTES)
        / p;
    let logits = sequences as f64 * spec.vocab as f64 * 4.0 / p;
    let head = spec.head_params() as f64 * quant.bytes() / p + if spec.has_head { logits } else { 0.0 };
    StageBytes { weights, cache, layer: weights + cache, table, head, buffers }
}
