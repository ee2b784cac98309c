//! The planner: prepares the machine, searches, and says what a reader should not have to find out: why nothing fits, what a
//! required device would cost, what other strategies give.

use partita_hw::Machine;

use crate::assemble::{Answer, assemble, model_bytes};
use crate::block::Work;
use crate::error::{Code, ShardError};
use crate::plan::{Alternative, Plan};
use crate::pool::{Pool, Pools, pools};
use crate::request::{Allow, Caps, Objective, Request};
use crate::search::search;

/// Plans a request on a machine.
///
/// # Errors
/// A letter when the request is out of range, nothing fits, a cap cannot be kept, or a required device stays unused.
pub fn plan(request: &Request, machine: &Machine) -> Result<Plan, ShardError> {
    let mut plan = best_plan(request, machine)?;
    plan.alternatives = alternatives(request, machine, &plan);
    remark(request, machine, &mut plan);
    Ok(plan)
}

/// The same without alternatives and remarks.
pub(crate) fn best_plan(request: &Request, machine: &Machine) -> Result<Plan, ShardError> {
    request.check()?;
    let answer = solve(request, machine, 0);
    let Some(best) = &answer.outcome.best else { return Err(nothing(request, machine, &answer.pools)) };
    let plan = assemble(request, machine, &answer, best);
    demand(request, machine, &plan)?;
    Ok(plan)
}

/// Most sequences tried by [`plan_largest_batch`].
const MOST_SEQUENCES: u64 = 4096;

/// Kinds of devices compared with to say that splitting does not pay.
const MOST_COMPARED: usize = 4;

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
        let why = match (power && pool.device.power_w.is_none(), price && pool.device.usd_per_hour.is_none())
        {
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
        let free = Request { caps: Caps::default(), ..request.clone() };
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

/// Refuses a plan in which a required device does nothing.
fn demand(request: &Request, machine: &Machine, plan: &Plan) -> Result<(), ShardError> {
    let idle =
        |index: &&usize| plan.unused.iter().any(|unused| unused.device == machine.devices[**index].name);
    let Some(&index) = request.required.iter().find(idle) else { return Ok(()) };
    let pools = solve(&Request { allow: Allow::NONE, ..request.clone() }, machine, 0).pools;
    let holds = |pool: &Pool| pool.islands.iter().flatten().any(|&device| device == index);
    let name = &machine.devices[index].name;
    let hint = "drop --require, or --remove the devices that do better without it";
    let without = format!(
        "{name} stays unused: the best plan is {} at {:.1} tokens/s",
        plan.strategy, plan.tokens_per_second
    );
    let forced = pools.list.iter().position(holds).and_then(|pool| {
        let answer = solve(request, machine, 1 << pool);
        let best = answer.outcome.best.clone()?;
        Some(assemble(request, machine, &answer, &best))
    });
    let message = match forced {
        Some(with) if with.unused.iter().all(|unused| unused.device != *name) => {
            format!(
                "{without}; with it the best is {} at {:.1} tokens/s",
                with.strategy, with.tokens_per_second
            )
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
fn remark(request: &Request, machine: &Machine, plan: &mut Plan) {
    let single = plan.alternatives.iter().find(|other| other.class == "one device");
    if plan.devices_used == 1 && !plan.unused.is_empty() {
        let other = best_of_several(request, machine, plan);
        let figures = other.map_or(String::new(), |other| {
            format!(
                ": {} takes {:.3} ms where one device takes {:.3}",
                other.strategy,
                other.run_us / 1e3,
                plan.run_us / 1e3
            )
        });
        plan.notes.push(format!("splitting does not pay{figures}"));
    } else if let Some(single) = single.filter(|single| single.strategy.is_some()) {
        let gain = single.run_us / plan.run_us;
        plan.notes.push(format!(
            "one device would take {:.3} ms: splitting gains {gain:.2} x",
            single.run_us / 1e3
        ));
    }
    let spec = &request.subject.spec;
    if spec.evaluations > 1 {
        plan.notes.push(format!("the run is one evaluation; a sample takes {}", spec.evaluations));
    }
    if spec.context > 0 && request.context > spec.context && spec.decodes() {
        let (asked, most) = (request.context, spec.context);
        plan.notes.push(format!("the context of {asked} tokens is beyond the {most} the model was made for"));
    }
    for stage in plan.parts.iter().flat_map(|part| &part.stages).filter(|stage| stage.uneven).take(1) {
        plan.notes.push(format!(
            "degree {} does not divide the heads or widths: ranks differ, the largest is charged",
            stage.ranks
        ));
    }
    let rates = rate_notes(plan);
    plan.notes.extend(rates);
}

/// The best plan in which some other device works beside the one in use, or several share every layer.
fn best_of_several(request: &Request, machine: &Machine, plan: &Plan) -> Option<Plan> {
    let used = plan.parts.first()?.stages.first()?.devices.first()?.first()?;
    let used = machine.device(used)?;
    let all = solve(&Request { allow: Allow::NONE, ..request.clone() }, machine, 0).pools;
    let own = all.list.iter().position(|pool| pool.islands.iter().flatten().any(|&device| device == used))?;
    let others = (0..all.list.len()).filter(|&pool| pool != own).take(MOST_COMPARED);
    let plans = others.filter_map(|pool| {
        let answer = solve(request, machine, 1 << own | 1 << pool);
        let best = answer.outcome.best.as_ref()?;
        Some(assemble(request, machine, &answer, best))
    });
    let shared = Request { least_ranks: 2, ..request.clone() };
    let answer = solve(&shared, machine, 0);
    let shared = answer.outcome.best.as_ref().map(|best| assemble(&shared, machine, &answer, best));
    plans.chain(shared).min_by(|a, b| a.run_us.total_cmp(&b.run_us))
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
