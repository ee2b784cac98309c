//! From an arrangement of pools to a plan with device names, bytes, figures and a certificate.

use std::collections::BTreeSet;

use partita_hw::{Kind, Machine};

use crate::block::{Block, Work};
use crate::layer::{ExpertSplit, share};
use crate::plan::{Certificate, PLAN_SCHEMA, Part, Plan, Role, Stage, Unused};
use crate::pool::Pools;
use crate::prices::{CpuTime, Prices, stage_bytes};
use crate::request::{Objective, Phase, Request};
use crate::search::{Arrangement, Outcome, cut_pool};

/// A machine prepared for one request, with what the search says.
pub(crate) struct Answer {
    pub(crate) pools: Pools,
    pub(crate) outcome: Outcome,
    pub(crate) work: Work,
}

/// Bytes of all weights and of all keys and values.
pub(crate) fn model_bytes(request: &Request) -> (f64, f64) {
    let spec = &request.subject.spec;
    let kept = request.kept_tokens() * request.batch as f64;
    (
        spec.params() as f64 * request.subject.quant.bytes(),
        kept * spec.kv_bytes_per_token(request.subject.kv_bytes),
    )
}

pub(crate) fn assemble(request: &Request, machine: &Machine, answer: &Answer, best: &Arrangement) -> Plan {
    let pools = match best.cut {
        Some((at, size)) => cut_pool(&answer.pools, at, size),
        None => answer.pools.clone(),
    };
    let (reading, writing) = halves(request, best);
    let all = best.blocks.iter().chain(best.reader.as_ref().map(|(reader, _)| reader));
    let only_cpus =
        all.flat_map(|block| &block.stages).all(|stage| pools.list[stage.pool].device.kind == Kind::Cpu);
    let cpu = if only_cpus { CpuTime::Alone } else { CpuTime::Beside };
    let mut parts = Vec::new();
    if let Some((reader, _)) = &best.reader {
        parts.push(part(&reading, machine, &pools, (reader, Role::Prefill), cpu));
    }
    let role = if best.reader.is_some() { Role::Decode } else { Role::All };
    parts.extend(best.blocks.iter().map(|block| part(&writing, machine, &pools, (block, role), cpu)));
    let run_us = best.run_us();
    let tokens = request.counted_tokens(request.batch as f64);
    let tokens_per_second = match request.objective {
        Objective::Throughput => -best.cost * 1e6,
        _ => tokens / run_us * 1e6,
    };
    let (watts, usd) = (total(machine, &parts, |d| &d.power_w), total(machine, &parts, |d| &d.usd_per_hour));
    let prefill = |part: &Part| part.prefill_us;
    let (weight_bytes, cache_bytes) = model_bytes(request);
    Plan {
        schema: PLAN_SCHEMA,
        model: request.subject.spec.id.clone(),
        model_source: request.subject.spec.source.clone(),
        params: request.subject.spec.params(),
        layers: request.subject.spec.layers,
        quant: request.subject.quant.name.to_owned(),
        bits: request.subject.quant.bits,
        kv_bytes: request.subject.kv_bytes,
        machine: machine.name.clone(),
        phase: request.phase,
        batch: request.batch,
        prompt: request.prompt,
        output: request.output,
        context: request.context,
        objective: request.objective,
        strategy: strategy(&parts, machine),
        weight_bytes,
        cache_bytes,
        prefill_us: parts.iter().map(prefill).fold(0.0, f64::max),
        handoff_us: best.reader.as_ref().map_or(0.0, |(_, us)| *us),
        step_us: parts.iter().map(|part| part.step_us).fold(0.0, f64::max),
        run_us,
        tokens_per_second,
        joules_per_token: watts.map(|watts| watts / tokens_per_second),
        usd_per_million_tokens: usd.map(|usd| usd / 3600.0 / tokens_per_second * 1e6),
        devices_used: parts
            .iter()
            .flat_map(|part| &part.stages)
            .map(|stage| stage.devices.iter().flatten().count() as u64)
            .sum(),
        certificate: certificate(request, answer, best),
        unused: unused(machine, &answer.pools, &parts),
        alternatives: Vec::new(),
        notes: Vec::new(),
        parts,
    }
}

/// The requests the parts of an arrangement answer.
fn halves(request: &Request, best: &Arrangement) -> (Request, Request) {
    if best.reader.is_none() {
        return (request.clone(), request.clone());
    }
    let reading = Request { phase: Phase::Prefill, ..request.clone() };
    let writing = Request {
        phase: Phase::Decode,
        context: request.context.max(request.prompt + request.output),
        mean_keys: Some(request.prompt as f64 + request.output as f64 / 2.0),
        rounds: request.output,
        ..request.clone()
    };
    (reading, writing)
}

fn total(
    machine: &Machine,
    parts: &[Part],
    figure: impl Fn(&partita_hw::Device) -> &Option<partita_hw::Fact<f64>>,
) -> Option<f64> {
    let names = parts.iter().flat_map(|part| &part.stages).flat_map(|stage| stage.devices.iter().flatten());
    let one = |name: &String| {
        let device = &machine.devices[machine.device(name)?];
        figure(device).as_ref().map(|fact| fact.value)
    };
    names.map(one).sum()
}

fn certificate(request: &Request, answer: &Answer, best: &Arrangement) -> Certificate {
    let scale = |cost: f64| match request.objective {
        Objective::Throughput => -cost * 1e6,
        _ => cost,
    };
    let bound = answer.outcome.bound.min(best.cost);
    let (value, bound) = (scale(best.cost), scale(bound));
    let degrees = if answer.work.cut {
        "some degrees (powers of two and the ends)"
    } else {
        "degrees 1 to 8, then even ones"
    };
    let class = format!(
        "plans in which each set of alike devices has one tensor degree per block: {degrees}, every order, number of \
         stages, division of layers and pieces; equal replicas; shares of the batch in eighths; prompts read together \
         or apart"
    );
    let gap = if value == 0.0 { 0.0 } else { ((value - bound) / value).abs() };
    Certificate { value, bound, gap, class, work: answer.work.used }
}

fn part(
    request: &Request,
    machine: &Machine,
    pools: &Pools,
    (block, role): (&Block, Role),
    cpu: CpuTime,
) -> Part {
    let mut prices = Prices::new(request, pools, block.sequences, cpu);
    let writes = request.phase != Phase::Prefill;
    let reads = request.phase != Phase::Decode;
    let decode = if writes { prices.timing(&block.stages, true, block.decode_pieces) } else { None }
        .unwrap_or_default();
    let prefill = if reads { prices.timing(&block.stages, false, block.prefill_pieces) } else { None }
        .unwrap_or_default();
    let mut stages = Vec::new();
    let mut first_layer = 0;
    for index in 0..block.stages.len() {
        let mut stage = stage(request, machine, pools, block, index, &mut prices);
        stage.first_layer = first_layer;
        stage.prefill_us = prefill.stage_us.get(index).copied().unwrap_or(0.0);
        stage.decode_us = decode.stage_us.get(index).copied().unwrap_or(0.0);
        first_layer += stage.layers;
        stages.push(stage);
    }
    Part {
        role,
        replicas: block.replicas as u64,
        sequences: block.sequences,
        decode_pieces: block.decode_pieces,
        prefill_pieces: block.prefill_pieces,
        stages,
        prefill_hop_us: prefill.hop_us,
        decode_hop_us: decode.hop_us,
        back_us: decode.back_us,
        prefill_us: block.prefill_us,
        step_us: block.step_us,
        run_us: block.run_us,
    }
}

fn stage(
    request: &Request,
    machine: &Machine,
    pools: &Pools,
    block: &Block,
    index: usize,
    prices: &mut Prices<'_>,
) -> Stage {
    let shape = &block.stages[index];
    let pool = &pools.list[shape.pool];
    let (_, experts) = prices.room(shape.pool, shape.ranks);
    let part = share(&request.subject.spec, shape.ranks, experts);
    let bytes = stage_bytes(request, block.sequences, shape.ranks, experts);
    let (table, head) = (index == 0, index + 1 == block.stages.len());
    let tied = request.subject.spec.tied_embeddings;
    let rest = match (table, head) {
        (true, true) if tied => bytes.table.max(bytes.head),
        (true, true) => bytes.table + bytes.head,
        (true, false) => bytes.table,
        (false, true) => bytes.head,
        (false, false) => 0.0,
    };
    let own = block.stages.iter().filter(|other| other.pool == shape.pool).count();
    let before = block.stages[..index].iter().filter(|other| other.pool == shape.pool).count();
    let names = |slot: usize| -> Vec<String> {
        pool.members(shape.ranks, slot).iter().map(|&device| machine.devices[device].name.clone()).collect()
    };
    let decode = request.phase != Phase::Prefill;
    let pieces = if decode { block.decode_pieces } else { block.prefill_pieces };
    let unit = prices.unit(shape.pool, shape.ranks, decode, pieces);
    Stage {
        first_layer: 0,
        layers: shape.layers as u64,
        ranks: shape.ranks as u64,
        experts,
        uneven: part.uneven && shape.ranks > 1,
        cache_by_sequence: part.by_sequence && shape.ranks > 1,
        table,
        head,
        devices: (0..block.replicas).map(|replica| names(replica * own + before)).collect(),
        weight_bytes: shape.layers as f64 * bytes.weights + rest,
        cache_bytes: shape.layers as f64 * bytes.cache,
        bytes: shape.layers as f64 * bytes.layer + rest + bytes.buffers,
        usable_bytes: pool.usable_bytes,
        prefill_us: 0.0,
        decode_us: 0.0,
        exchange_share: unit.map_or(0.0, |unit| unit.layer.exchange_us / unit.layer.us),
    }
}

/// The strategy in words.
fn strategy(parts: &[Part], machine: &Machine) -> String {
    let words: Vec<String> = parts.iter().map(|part| part_words(part, machine)).collect();
    words.join("; ")
}

fn part_words(part: &Part, machine: &Machine) -> String {
    let mut words = Vec::new();
    let degrees: BTreeSet<u64> = part.stages.iter().map(|stage| stage.ranks).collect();
    if degrees.iter().any(|&degree| degree > 1) {
        let list: Vec<String> = degrees.iter().rev().map(u64::to_string).collect();
        words.push(format!("tensor {}", list.join("/")));
    }
    if part.stages.len() > 1 {
        words.push(format!("pipeline {}", part.stages.len()));
    }
    if part.replicas > 1 {
        words.push(format!("data {}", part.replicas));
    }
    if part.stages.iter().any(|stage| stage.experts == ExpertSplit::Whole) {
        words.push("expert".to_owned());
    }
    let role = match part.role {
        Role::All => String::new(),
        Role::Prefill => "prefill: ".to_owned(),
        Role::Decode => "decode: ".to_owned(),
    };
    let words = if words.is_empty() { "one device".to_owned() } else { words.join(" x ") };
    format!("{role}{words} on {}", devices_of(part, machine))
}

/// Devices of a part by kind, such as "8 x NVIDIA H100".
fn devices_of(part: &Part, machine: &Machine) -> String {
    let mut counts: Vec<(String, usize)> = Vec::new();
    for name in part.stages.iter().flat_map(|stage| stage.devices.iter().flatten()) {
        let device = machine.device(name).map(|index| &machine.devices[index]);
        let title = device.and_then(|device| device.title.clone()).unwrap_or_else(|| name.clone());
        match counts.iter_mut().find(|(known, _)| *known == title) {
            Some((_, count)) => *count += 1,
            None => counts.push((title, 1)),
        }
    }
    let words =
        counts.iter().map(|(title, n)| if *n == 1 { title.clone() } else { format!("{n} x {title}") });
    words.collect::<Vec<_>>().join(" + ")
}

fn unused(machine: &Machine, pools: &Pools, parts: &[Part]) -> Vec<Unused> {
    let used: BTreeSet<&String> =
        parts.iter().flat_map(|part| &part.stages).flat_map(|stage| stage.devices.iter().flatten()).collect();
    let why = |index: usize| match pools.left_out.iter().find(|(device, _)| *device == index) {
        Some((_, why)) => why.clone(),
        None => "no plan with it is better".to_owned(),
    };
    let idle = machine.devices.iter().enumerate().filter(|(_, device)| !used.contains(&device.name));
    idle.map(|(index, device)| Unused { device: device.name.clone(), why: why(index) }).collect()
}
