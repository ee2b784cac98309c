//! From an arrangement of pools to a plan with device names, bytes, figures and a certificate.

use partita_hw::{Kind, Machine};

use crate::block::{Block, Work};
use crate::error::{Code, ShardError};
use crate::layer::share;
use crate::plan::{Alternative, Certificate, PLAN_SCHEMA, Part, Plan, Role, Stage, Unused};
use crate::pool::{Pools, pools};
use crate::prices::{CpuTime, Prices, stage_bytes};
use crate::request::{Allow, Objective, Phase, Request};
use crate::search::{Arrangement, Outcome, cut_pool, search};

/// A machine prepared for one request, with what the search says.
struct Answer {
    pools: Pools,
    outcome: Outcome,
    work: Work,
}

/// Plans a request on a machine.
///
/// # Errors
/// A letter when the request is out of range, nothing fits, a cap cannot be kept, or a required device stays unused.
pub fn plan(request: &Request, machine: &Machine) -> Result<Plan, ShardError> {
    request.check()?;
    let answer = solve(request, machine, 0);
    let Some(best) = &answer.outcome.best else { return Err(nothing(request, machine, &answer.pools)) };
    let mut plan = assemble(request, machine, &answer, best);
    demand(request, machine, &plan)?;
    plan.alternatives = alternatives(request, machine, &plan);
    remark(request, &mut plan);
    Ok(plan)
}

/// Most sequences tried by [`plan_largest_batch`].
const MOST_SEQUENCES: u64 = 4096;

/// Sequences beyond a batch do not pay when they bring less than this.
const PAYS: f64 = 1.05;

/// Plans for as many sequences as pay: the least power of two whose throughput is within a twentieth of the best of
/// any that fits.
///
/// # Errors
/// As [`plan`].
pub fn plan_largest_batch(request: &Request, machine: &Machine) -> Result<Plan, ShardError> {
    request.check()?;
    let rate = |batch: u64| -> Option<f64> {
        let request = Request { batch, ..request.clone() };
        let answer = solve(&request, machine, 0);
        let best = answer.outcome.best.as_ref()?;
        Some(assemble(&request, machine, &answer, best).tokens_per_second)
    };
    let batches = (0..=MOST_SEQUENCES.ilog2()).map(|power| 1_u64 << power);
    let rates: Vec<(u64, f64)> = batches.map_while(|batch| Some((batch, rate(batch)?))).collect();
    let fastest = rates.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
    let enough = rates.iter().find(|(_, rate)| *rate * PAYS >= fastest);
    let batch = enough.map_or(1, |(batch, _)| *batch);
    plan(&Request { batch, ..request.clone() }, machine)
}

fn solve(request: &Request, machine: &Machine, must: u32) -> Answer {
    let mut pools = pools(machine);
    leave_out_unknown(request, &mut pools);
    prefer(&mut pools, &request.required);
    let mut work = Work { used: 0, limit: request.work, cut: false };
    let outcome = search(request, &pools, must, &mut work);
    Answer { pools, outcome, work }
}

/// Energy and price cannot be minimized over devices whose power or rent nobody stated.
fn leave_out_unknown(request: &Request, pools: &mut Pools) {
    let caps = &request.caps;
    let power = request.objective == Objective::Energy || caps.power_w.is_some();
    let price = request.objective == Objective::Price || caps.usd_per_hour.is_some();
    let mut keep = Vec::new();
    for (index, pool) in pools.list.iter().enumerate() {
        let why = match (power && pool.device.power_w.is_none(), price && pool.device.usd_per_hour.is_none()) {
            (true, _) => "its power is unknown: state power_w",
            (_, true) => "its rent is unknown: state usd_per_hour",
            _ => {
                keep.push(index);
                continue;
            }
        };
        let all = pool.islands.iter().flatten();
        pools.left_out.extend(all.map(|&device| (device, why.to_owned())));
    }
    pools.between = keep.iter().map(|&a| keep.iter().map(|&b| pools.between[a][b]).collect()).collect();
    pools.list = keep.iter().map(|&index| pools.list[index].clone()).collect();
}

/// Required devices come first among their equals, so that they are used first.
fn prefer(pools: &mut Pools, required: &[usize]) {
    for pool in &mut pools.list {
        for island in &mut pool.islands {
            island.sort_by_key(|device| !required.contains(device));
        }
        pool.islands.sort_by_key(|island| !island.iter().any(|device| required.contains(device)));
    }
}

/// Why nothing fits, with the figures.
fn nothing(request: &Request, machine: &Machine, pools: &Pools) -> ShardError {
    let caps = &request.caps;
    if caps.deadline_us.is_some() || caps.power_w.is_some() || caps.usd_per_hour.is_some() {
        let free = Request { caps: crate::request::Caps::default(), ..request.clone() };
        let answer = solve(&free, machine, 0);
        if let Some(best) = &answer.outcome.best {
            let plan = assemble(&free, machine, &answer, best);
            let message = format!(
                "no plan found keeps the caps; without them the best is {} in {:.3} ms",
                plan.strategy,
                plan.run_us / 1e3
            );
            return ShardError::new(Code::Caps, message, "loosen --deadline, --budget or --power");
        }
    }
    let (weights, cache) = model_bytes(request);
    let have: f64 = pools.list.iter().map(|pool| pool.usable_bytes * pool.count() as f64).sum();
    let message = format!(
        "{} does not fit: weights of {} and keys and values of {} for {} sequences of {} tokens, where the machine offers \
         {} in all",
        request.subject.spec.name,
        gb(weights),
        gb(cache),
        request.batch,
        request.kept_tokens(),
        gb(have)
    );
    let left = match pools.left_out.first() {
        Some((device, why)) => format!("; {} was left out: {why}", machine.devices[*device].name),
        None => String::new(),
    };
    let hint = format!("take a smaller quantization, batch or context, or a larger machine{left}");
    ShardError::new(Code::DoesNotFit, message, hint)
}

fn gb(bytes: f64) -> String {
    if bytes < 1e9 { format!("{:.1} MB", bytes / 1e6) } else { format!("{:.1} GB", bytes / 1e9) }
}

/// Bytes of all weights and of all keys and values.
fn model_bytes(request: &Request) -> (f64, f64) {
    let spec = &request.subject.spec;
    let kept = request.kept_tokens() * request.batch as f64;
    (spec.params() as f64 * request.subject.quant.bytes(), kept * spec.kv_bytes_per_token(request.subject.kv_bytes))
}

fn assemble(request: &Request, machine: &Machine, answer: &Answer, best: &Arrangement) -> Plan {
    let pools = match best.cut {
        Some((at, size)) => cut_pool(&answer.pools, at, size),
        None => answer.pools.clone(),
    };
    let (reading, writing) = halves(request, best);
    let all = best.blocks.iter().chain(best.reader.as_ref().map(|(reader, _)| reader));
    let only_cpus = all.flat_map(|block| &block.stages).all(|stage| pools.list[stage.pool].device.kind == Kind::Cpu);
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
        devices_used: parts.iter().flat_map(|part| &part.stages).map(|stage| stage.devices.iter().flatten().count() as u64).sum(),
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
    let degrees = if answer.work.cut { "some degrees (powers of two and the ends)" } else { "degrees 1 to 8, then even ones" };
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
    let decode = if writes { prices.timing(&block.stages, true, block.decode_pieces) } else { None }.unwrap_or_default();
    let prefill = if reads { prices.timing(&block.stages, false, block.prefill_pieces) } else { None }.unwrap_or_default();
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
    let degrees: std::collections::BTreeSet<u64> = part.stages.iter().map(|stage| stage.ranks).collect();
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
    if part.stages.iter().any(|stage| stage.experts == crate::layer::ExpertSplit::Whole) {
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
    let words = counts.iter().map(|(title, n)| if *n == 1 { title.clone() } else { format!("{n} x {title}") });
    words.collect::<Vec<_>>().join(" + ")
}

fn unused(machine: &Machine, pools: &Pools, parts: &[Part]) -> Vec<Unused> {
    let used: std::collections::BTreeSet<&String> =
        parts.iter().flat_map(|part| &part.stages).flat_map(|stage| stage.devices.iter().flatten()).collect();
    let why = |index: usize| match pools.left_out.iter().find(|(device, _)| *device == index) {
        Some((_, why)) => why.clone(),
        None => "no plan with it is better".to_owned(),
    };
    let idle = machine.devices.iter().enumerate().filter(|(_, device)| !used.contains(&device.name));
    idle.map(|(index, device)| Unused { device: device.name.clone(), why: why(index) }).collect()
}

/// Refuses a plan in which a required device does nothing.
fn demand(request: &Request, machine: &Machine, plan: &Plan) -> Result<(), ShardError> {
    let idle = |index: &&usize| plan.unused.iter().any(|unused| unused.device == machine.devices[**index].name);
    let Some(&index) = request.required.iter().find(idle) else { return Ok(()) };
    let pools = pools(machine);
    let holds = |pool: &crate::pool::Pool| pool.islands.iter().flatten().any(|&device| device == index);
    let name = &machine.devices[index].name;
    let hint = "drop --require, or --remove the devices that do better without it";
    let without = format!("{name} stays unused: the best plan is {} at {:.1} tokens/s", plan.strategy, plan.tokens_per_second);
    let forced = pools.list.iter().position(holds).and_then(|pool| {
        let answer = solve(request, machine, 1 << pool);
        let best = answer.outcome.best.clone()?;
        Some(assemble(request, machine, &answer, &best))
    });
    let message = match forced {
        Some(with) if with.unused.iter().all(|unused| unused.device != *name) => {
            format!("{without}; with it the best is {} at {:.1} tokens/s", with.strategy, with.tokens_per_second)
        }
        _ => format!("{without}; no plan that uses it fits"),
    };
    Err(ShardError::new(Code::Unused, message, hint))
}

/// The best plan of each narrower class of strategies.
fn alternatives(request: &Request, machine: &Machine, plan: &Plan) -> Vec<Alternative> {
    let none = Allow::NONE;
    let classes = [
        ("one device", none),
        ("pipeline", Allow { pipeline: true, ..none }),
        ("tensor", Allow { tensor: true, ..none }),
        ("tensor and pipeline", Allow { tensor: true, pipeline: true, ..none }),
        ("with replicas", Allow { split: false, ..Allow::ALL }),
    ];
    let mut list = Vec::new();
    for (class, allow) in classes {
        let allowed = request.allow;
        let within = (!allow.tensor || allowed.tensor)
            && (!allow.pipeline || allowed.pipeline)
            && (!allow.data || allowed.data);
        if !within || allow == allowed {
            continue;
        }
        let narrow = Request { allow, ..request.clone() };
        let answer = solve(&narrow, machine, 0);
        let other = answer.outcome.best.as_ref().map(|best| assemble(&narrow, machine, &answer, best));
        list.push(alternative(class, plan, other));
    }
    list
}

fn alternative(class: &str, plan: &Plan, other: Option<Plan>) -> Alternative {
    let Some(other) = other else {
        return Alternative {
            class: class.to_owned(),
            strategy: None,
            tokens_per_second: 0.0,
            run_us: 0.0,
            note: "does not fit".to_owned(),
        };
    };
    let note = if other.strategy == plan.strategy {
        "is the plan".to_owned()
    } else {
        let throughput = plan.objective == Objective::Throughput;
        let (worse, word) = if throughput {
            (1.0 - other.tokens_per_second / plan.tokens_per_second, "fewer tokens per second")
        } else {
            (other.certificate.value / plan.certificate.value - 1.0, "more")
        };
        format!("{:.1} % {word}", 100.0 * worse)
    };
    Alternative {
        class: class.to_owned(),
        strategy: Some(other.strategy),
        tokens_per_second: other.tokens_per_second,
        run_us: other.run_us,
        note,
    }
}

/// Remarks a reader should not have to find out.
fn remark(request: &Request, plan: &mut Plan) {
    let single = plan.alternatives.iter().find(|other| other.class == "one device");
    if plan.devices_used == 1 && plan.unused.len() > 0 {
        let best = plan.alternatives.iter().filter(|other| other.class != "one device" && other.note != "is the plan");
        let best = best.filter(|other| other.strategy.is_some()).min_by(|a, b| a.run_us.total_cmp(&b.run_us));
        let figures = best.map_or(String::new(), |other| {
            format!(": {} takes {:.3} ms where one device takes {:.3}", other.class, other.run_us / 1e3, plan.run_us / 1e3)
        });
        plan.notes.push(format!("splitting does not pay{figures}"));
    } else if let Some(single) = single.filter(|single| single.strategy.is_some()) {
        let gain = single.run_us / plan.run_us;
        plan.notes.push(format!("one device would take {:.3} ms: splitting gains {gain:.2} x", single.run_us / 1e3));
    }
    let spec = &request.subject.spec;
    if spec.context > 0 && request.context > spec.context && spec.decodes() {
        let (asked, most) = (request.context, spec.context);
        plan.notes.push(format!("the context of {asked} tokens is beyond the {most} the model was made for"));
    }
    for stage in plan.parts.iter().flat_map(|part| &part.stages).filter(|stage| stage.uneven).take(1) {
        plan.notes.push(format!("degree {} does not divide the heads or widths: ranks differ, the largest is charged", stage.ranks));
    }
    let rates = rate_notes(plan);
    plan.notes.extend(rates);
}

fn rate_notes(plan: &Plan) -> Vec<String> {
    let mut notes = Vec::new();
    if plan.joules_per_token.is_none() {
        notes.push("energy is unknown: some device states no power_w".to_owned());
    }
    if plan.usd_per_million_tokens.is_none() {
        notes.push("price is unknown: some device states no usd_per_hour".to_owned());
    }
    notes
}
