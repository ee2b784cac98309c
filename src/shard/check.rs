//! Checks a plan from scratch: devices, layers, memory, times. Shares no code with the search; sizes are derived from the
//! model's closed forms again, and times are played as events.

use std::collections::BTreeSet;

use partita_hw::{Kind, Machine};

use crate::layer::ExpertSplit;
use crate::plan::{Part, Plan, Role, Stage};
use crate::request::{Objective, Phase, Request};
use crate::timing::{Timing, simulate};

/// Relative difference allowed between derived and stated bytes.
const SAME: f64 = 1e-6;

/// Relative difference allowed between a formula and the simulation.
const SAME_TIME: f64 = 0.01;

/// What is wrong with a plan; empty when nothing is.
pub fn check(plan: &Plan, request: &Request, machine: &Machine) -> Vec<String> {
    let mut findings = Vec::new();
    let mut used = BTreeSet::new();
    for part in &plan.parts {
        check_layers(part, plan.layers, &mut findings);
        check_devices(part, machine, &mut used, &mut findings);
        for stage in &part.stages {
            check_degree(stage, request, &mut findings);
            check_memory(part, stage, request, machine, &mut findings);
        }
        check_times(part, request, &mut findings);
    }
    check_service(plan, request, &mut findings);
    check_figures(plan, request, machine, &used, &mut findings);
    findings
}

/// Every layer exactly once, in order; the table in front, the output matrix behind.
fn check_layers(part: &Part, layers: u64, findings: &mut Vec<String>) {
    let mut next = 0;
    for stage in &part.stages {
        if stage.first_layer != next {
            findings.push(format!("a stage begins at layer {}, {next} was next", stage.first_layer));
        }
        next = stage.first_layer + stage.layers;
    }
    if next != layers {
        findings.push(format!("{next} of {layers} layers are placed"));
    }
    let (first, last) = (part.stages.first(), part.stages.last());
    let tables = part.stages.iter().filter(|stage| stage.table).count();
    let heads = part.stages.iter().filter(|stage| stage.head).count();
    let right = first.is_some_and(|stage| stage.table) && last.is_some_and(|stage| stage.head);
    if !right || tables != 1 || heads != 1 {
        findings.push("the table is not in front, or the output matrix not behind".to_owned());
    }
}

/// Every device exists and serves once.
fn check_devices(part: &Part, machine: &Machine, used: &mut BTreeSet<String>, findings: &mut Vec<String>) {
    for stage in &part.stages {
        if stage.devices.len() as u64 != part.replicas {
            findings.push(format!("{} replicas, {} sets of devices", part.replicas, stage.devices.len()));
        }
        for group in &stage.devices {
            if group.len() as u64 != stage.ranks {
                findings.push(format!("{} ranks, {} devices", stage.ranks, group.len()));
            }
            for name in group {
                if machine.device(name).is_none() {
                    findings.push(format!("there is no device {name}"));
                }
                if !used.insert(name.clone()) {
                    findings.push(format!("{name} serves twice"));
                }
            }
        }
    }
}

/// A degree divides what it splits, or the stage says that it does not.
fn check_degree(stage: &Stage, request: &Request, findings: &mut Vec<String>) {
    let spec = &request.subject.spec;
    let p = stage.ranks;
    if p < 2 {
        return;
    }
    let columns = match stage.experts {
        ExpertSplit::Columns => spec.ffn,
        ExpertSplit::Whole => spec.experts,
    };
    let keys_even = stage.cache_by_sequence || spec.kv_heads.is_multiple_of(p);
    let even = spec.heads.is_multiple_of(p) && keys_even && columns.is_multiple_of(p);
    if even == stage.uneven {
        findings.push(format!(
            "degree {p} is{} even, and the stage says otherwise",
            if even { "" } else { " not" }
        ));
    }
    if p > spec.heads {
        findings.push(format!("degree {p} is larger than {} heads", spec.heads));
    }
}

/// The largest of `ranks` shares of `total` whole things.
fn largest(total: u64, ranks: u64) -> f64 {
    total.div_ceil(ranks) as f64
}

/// Bytes of weights and of keys and values of one layer on the fullest rank.
fn layer_bytes(stage: &Stage, request: &Request) -> (f64, f64) {
    let (spec, p) = (&request.subject.spec, stage.ranks);
    let bytes = request.subject.quant.bits / 8.0;
    if spec.heads == 0 {
        return (spec.params() as f64 / spec.layers as f64 * bytes, 0.0);
    }
    let (h, d) = (spec.hidden as f64, spec.head_dim as f64);
    let keys = if stage.cache_by_sequence { 1.0 } else { largest(spec.kv_heads, p) };
    let attention = 2.0 * h * d * largest(spec.heads, p) + 2.0 * h * d * keys;
    let matrices = if spec.gated_ffn { 3.0 } else { 2.0 };
    let feed_forward = match stage.experts {
        ExpertSplit::Columns => matrices * h * largest(spec.ffn, p) * spec.experts.max(1) as f64,
        ExpertSplit::Whole => matrices * h * spec.ffn as f64 * largest(spec.experts, p),
    };
    let router = if spec.experts > 1 { h * spec.experts as f64 } else { 0.0 };
    // Encoder-decoders have two layers in one: the decoder's with a second attention.
    let (attentions, forwards) = if spec.encoder_layers > 0 { (3.0, 2.0) } else { (1.0, 1.0) };
    let all = attentions * 2.0 * h * d * (spec.heads + spec.kv_heads) as f64
        + forwards * matrices * h * (spec.ffn * spec.experts.max(1)) as f64
        + router;
    let vectors = spec.layer_params() as f64 - all;
    let weights = (attentions * attention + forwards * feed_forward + router) * bytes + vectors * 2.0;
    let cached = if spec.decodes() {
        let heads = if stage.cache_by_sequence { spec.kv_heads as f64 / p as f64 } else { keys };
        2.0 * heads * d * request.subject.kv_bytes
    } else {
        0.0
    };
    (weights, cached)
}

/// What a device holds is what the plan says, and fits.
fn check_memory(
    part: &Part,
    stage: &Stage,
    request: &Request,
    machine: &Machine,
    findings: &mut Vec<String>,
) {
    let spec = &request.subject.spec;
    let (bytes, p) = (request.subject.quant.bits / 8.0, stage.ranks as f64);
    let (weights, cached) = layer_bytes(stage, request);
    let tokens = match request.phase {
        Phase::Decode => request.context as f64,
        _ => request.context.max(request.prompt + request.output) as f64,
    };
    let tokens = tokens + if spec.encoder_layers > 0 { spec.tokens as f64 } else { 0.0 };
    let sequences = part.sequences as f64;
    let table = (spec.embedding_params() as f64 * bytes + 2.0 * spec.other_params as f64) / p;
    let head = if spec.has_head {
        (spec.head_params() as f64 * bytes + 4.0 * sequences * spec.vocab as f64) / p
    } else {
        0.0
    };
    let ends = match (stage.table, stage.head) {
        (true, true) if spec.tied_embeddings => table.max(head),
        (table_here, head_here) => f64::from(table_here) * table + f64::from(head_here) * head,
    };
    let reads = request.phase != Phase::Decode && part.role != Role::Decode;
    let rows = if reads { (sequences * request.prompt as f64).min(8192.0).max(sequences) } else { sequences };
    let wide = spec.ffn as f64 * if spec.gated_ffn { 2.0 } else { 1.0 } / p;
    let buffers = 2.0 * rows * (6.0 * spec.hidden as f64 + wide);
    let layers = stage.layers as f64;
    let need = layers * (weights + cached * tokens * sequences) + ends + buffers;
    if (need / stage.bytes - 1.0).abs() > SAME {
        findings.push(format!("a stage states {:.0} bytes and needs {need:.0}", stage.bytes));
    }
    for name in stage.devices.iter().flatten() {
        let Some(device) = machine.device(name).map(|index| &machine.devices[index]) else { continue };
        let own = device.memory_bytes.as_ref().map_or(0.0, |fact| fact.value as f64);
        let usable = if device.kind == Kind::Lpu { own } else { 0.9 * own };
        if need > usable * (1.0 + 1e-9) {
            findings.push(format!("{name} needs {need:.0} bytes and may use {usable:.0}"));
        }
    }
}

/// Times follow from those of the stages, by playing every event.
fn check_times(part: &Part, request: &Request, findings: &mut Vec<String>) {
    let prefill = Timing {
        stage_us: part.stages.iter().map(|stage| stage.prefill_us).collect(),
        hop_us: part.prefill_hop_us.clone(),
        back_us: 0.0,
    };
    let decode = Timing {
        stage_us: part.stages.iter().map(|stage| stage.decode_us).collect(),
        hop_us: part.decode_hop_us.clone(),
        back_us: part.back_us,
    };
    let mut same = |what: &str, stated: f64, played: f64| {
        if (stated - played).abs() > SAME_TIME * played {
            findings.push(format!("{what} is stated as {stated:.3} us and plays in {played:.3}"));
        }
    };
    let reads = part.role != Role::Decode && request.phase != Phase::Decode;
    let writes = part.role != Role::Prefill && request.phase != Phase::Prefill;
    let mut run_us = 0.0;
    if reads {
        let played = simulate(&prefill, part.prefill_pieces, 1);
        same("reading", part.prefill_us, played);
        run_us += played;
    }
    if writes {
        // A round in a stream of them: what one more hundred adds.
        let (few, many) =
            (simulate(&decode, part.decode_pieces, 50), simulate(&decode, part.decode_pieces, 150));
        same("a round", part.step_us, (many - few) / 100.0);
        run_us += match request.phase {
            Phase::Both => simulate(&decode, part.decode_pieces, request.output),
            _ => (many - few) / 100.0,
        };
    }
    same("the run", part.run_us, run_us);
}

/// Every sequence is served.
fn check_service(plan: &Plan, request: &Request, findings: &mut Vec<String>) {
    let served = |role: Role| -> u64 {
        plan.parts.iter().filter(|part| part.role == role).map(|part| part.replicas * part.sequences).sum()
    };
    let (all, reads, writes) = (served(Role::All), served(Role::Prefill), served(Role::Decode));
    let enough = if reads + writes > 0 { reads.min(writes) + all } else { all };
    if enough < request.batch {
        findings.push(format!("{enough} of {} sequences are served", request.batch));
    }
}

/// Sums, caps and the certificate.
fn check_figures(
    plan: &Plan,
    request: &Request,
    machine: &Machine,
    used: &BTreeSet<String>,
    findings: &mut Vec<String>,
) {
    let slowest = |role: Role| {
        plan.parts.iter().filter(|part| part.role == role).map(|part| part.run_us).fold(0.0, f64::max)
    };
    let run_us = slowest(Role::All).max(slowest(Role::Prefill) + plan.handoff_us + slowest(Role::Decode));
    if (run_us - plan.run_us).abs() > 1e-6 * run_us {
        findings.push(format!("the run is stated as {:.3} us and its parts take {run_us:.3}", plan.run_us));
    }
    let certificate = &plan.certificate;
    let better = if plan.objective == Objective::Throughput {
        certificate.value > certificate.bound * (1.0 + 1e-9)
    } else {
        certificate.value < certificate.bound * (1.0 - 1e-9)
    };
    if better {
        findings.push(format!("value {} is better than its bound {}", certificate.value, certificate.bound));
    }
    for &index in &request.required {
        if !used.contains(&machine.devices[index].name) {
            findings.push(format!("{} is required and does nothing", machine.devices[index].name));
        }
    }
    let all = used.iter().filter_map(|name| machine.device(name)).map(|index| &machine.devices[index]);
    let sum = |of: &dyn Fn(&partita_hw::Device) -> f64| all.clone().map(of).sum::<f64>();
    let watts = sum(&|device| device.power_w.as_ref().map_or(0.0, |fact| fact.value));
    let usd = sum(&|device| device.usd_per_hour.as_ref().map_or(0.0, |fact| fact.value));
    let caps = &request.caps;
    for (what, cap, value) in [
        ("time", caps.deadline_us, plan.run_us),
        ("power", caps.power_w, watts),
        ("rent", caps.usd_per_hour, usd),
    ] {
        if cap.is_some_and(|cap| value > cap * (1.0 + 1e-9)) {
            findings.push(format!("the cap on {what} is broken: {value}"));
        }
    }
}
