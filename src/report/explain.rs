//! Why a node runs where it runs: what every device would take for it and for the whole plan with it, what brings its
//! operands, which constraint decides, and whether it may be late.

use crate::error::{Error, Result};
use crate::report::dot::size_text;
use crate::report::stages::{root, value_bytes};
use crate::report::timeline::{self, At, Timeline};
use crate::report::{printable, program};
use partita_plan::text::type_text;
use partita_plan::{Choice, NO_VALUE, Plan, Provenance, Queue, Step, Why};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Most steps that are explained for one name.
const MAX_MATCHES: usize = 20;
/// Most names that a wrong one is compared with.
const MAX_COMPARED: usize = 20_000;
/// Longest name that is compared.
const MAX_NAME: usize = 200;

/// Explains every step that stands for the node `node`, or writes the value `node`; or else those whose names
/// contain it.
///
/// # Errors
/// `E001` when there is none; the hint names near ones.
pub fn explain(plan: &Plan, node: &str) -> Result<String> {
    let exact = found(plan, &|name| name == node);
    let found = if exact.is_empty() { found(plan, &|name| name.contains(node)) } else { exact };
    if found.is_empty() {
        let near = near(plan, node);
        let hint = match near.as_slice() {
            [] => "partita explain PLAN lists the steps; nodes may have been merged".to_owned(),
            near => format!("did you mean {}?", near.join(" or ")),
        };
        return Err(Error::new("E001", format!("the plan has no step {node}"), hint));
    }
    let mut out = found.iter().take(MAX_MATCHES).cloned().collect::<Vec<_>>().join("\n");
    if found.len() > MAX_MATCHES {
        let _ = writeln!(out, "\n... and {} more; give a longer name", found.len() - MAX_MATCHES);
    }
    Ok(printable(&out))
}

/// One line per step of the plan: when, how late it may be, where, what decides, and for which nodes it stands.
pub fn list(plan: &Plan) -> String {
    let mut out = plan.program.as_ref().map(|p| format!("{}\n", program::listing(p))).unwrap_or_default();
    let _ = writeln!(
        out,
        "{:>10} {:>10} {:>10}  {:<8} {:<12} {:<11} step",
        "start us", "time us", "slack us", "device", "kernel", "decided by"
    );
    for plan in plan.parts() {
        let timeline = Timeline::new(plan);
        for at in timeline::order(plan) {
            out.push_str(&listed(plan, &timeline, at));
        }
    }
    printable(&out)
}

fn listed(plan: &Plan, timeline: &Timeline, at: At) -> String {
    let (queue, step) = (&plan.queues[at.0], &plan.queues[at.0].steps[at.1]);
    let kernel = if queue.copies { "transfer" } else { kernel_of(plan, step) };
    let slack = if timeline.is_critical(at) {
        "critical".to_owned()
    } else {
        format!("{:.2}", timeline.slack_us(at))
    };
    let mut covers: Vec<&str> = step.covers.iter().map(String::as_str).collect();
    covers.retain(|name| *name != step.name);
    let covers = if covers.is_empty() { String::new() } else { format!(" ({})", covers.join(", ")) };
    let binds = why_of(queue, at.1).map_or("", |w| w.binds.as_str());
    format!(
        "{:>10.2} {:>10.2} {slack:>10}  {:<8} {kernel:<12} {binds:<11} {}{covers}\n",
        step.start_us, step.time_us, queue.name, step.name
    )
}

pub(crate) fn kernel_of<'a>(plan: &'a Plan, step: &Step) -> &'a str {
    plan.kernels.get(step.kernel as usize).map_or("?", |k| k.library.as_str())
}

/// The reasons of a step: its own, or those of the first step of its region.
pub(crate) fn why_of(queue: &Queue, at: usize) -> Option<&Why> {
    let name = &queue.steps.get(at)?.name;
    let mut region = queue.steps[..=at].iter().rev().take_while(|s| s.name == *name);
    region.find_map(|s| s.why.as_ref())
}

/// A paragraph for every match in a plan of any kind.
fn found(plan: &Plan, matches: &dyn Fn(&str) -> bool) -> Vec<String> {
    let hosted = plan.program.as_ref().map(|p| program::explain(p, matches)).unwrap_or_default();
    let parts = plan.parts().iter().flat_map(|part| {
        let places = find(part, matches);
        let timeline = if places.is_empty() { Timeline::default() } else { Timeline::new(part) };
        let provenance = plan.provenance.clone().unwrap_or_default();
        let whole = plan.program.is_none().then_some(provenance);
        places.into_iter().map(|at| one(part, &timeline, whole.as_ref(), at)).collect::<Vec<_>>()
    });
    parts.chain(hosted).collect()
}

fn find(plan: &Plan, matches: &dyn Fn(&str) -> bool) -> Vec<At> {
    let written =
        |s: &Step| s.outputs.iter().any(|v| plan.values.get(*v as usize).is_some_and(|v| matches(&v.name)));
    let named = |s: &Step| matches(&s.name) || s.covers.iter().any(|n| matches(n));
    let mut out = Vec::new();
    for (q, queue) in plan.queues.iter().enumerate().filter(|(_, q)| !q.copies) {
        let steps = queue.steps.iter().enumerate().filter(|(_, s)| named(s) || written(s));
        out.extend(steps.map(|(s, _)| (q, s)));
    }
    out
}

/// Names of steps, of the nodes they stand for and of the values they write that look like `node`, the nearest first.
fn near(plan: &Plan, node: &str) -> Vec<String> {
    const SHOWN: usize = 3;
    const ALIKE: f64 = 0.75;
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for part in plan.parts() {
        let steps = part.queues.iter().filter(|q| !q.copies).flat_map(|q| &q.steps);
        for step in steps {
            let written = step.outputs.iter().filter_map(|v| part.values.get(*v as usize));
            names.insert(&step.name);
            names.extend(step.covers.iter().map(String::as_str).chain(written.map(|v| v.name.as_str())));
        }
    }
    let short = |name: &&str| name.len() <= MAX_NAME && node.len() <= MAX_NAME;
    let alike = |name: &str| strsim::jaro_winkler(&node.to_lowercase(), &name.to_lowercase());
    let scored = names.into_iter().filter(short).take(MAX_COMPARED).map(|name| (alike(name), name));
    let mut scored: Vec<(f64, &str)> = scored.filter(|(score, _)| *score >= ALIKE).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(SHOWN).map(|(_, name)| name.to_owned()).collect()
}

/// The paragraph of a step; `whole` is given where the figures of the plan are those of this part.
fn one(plan: &Plan, timeline: &Timeline, whole: Option<&Provenance>, at: At) -> String {
    let (queue, step) = (&plan.queues[at.0], &plan.queues[at.0].steps[at.1]);
    let mut out = String::new();
    let device = &plan.devices[queue.device as usize].name;
    let _ = writeln!(out, "{} runs on {device} as kernel {}", step.name, kernel_of(plan, step));
    let nodes: Vec<&str> = step.covers.iter().map(String::as_str).collect();
    if !nodes.is_empty() {
        let as_one = if nodes.len() > 1 { " (one launch: they move together)" } else { "" };
        let _ = writeln!(out, "  stands for {}{as_one}", nodes.join(", "));
    }
    let _ = writeln!(out, "  predicted  {:.2} us, starting at {:.2} us", step.time_us, step.start_us);
    let _ = writeln!(out, "  schedule   {}", lateness(plan, timeline, at));
    if let Some(why) = why_of(queue, at.1) {
        let own = if step.why.is_some() { "" } else { " (of all launches of this region)" };
        let _ = writeln!(out, "  why        {}", why.reason);
        let _ = writeln!(out, "  decided by {}", constraint(why, device));
        let _ =
            writeln!(out, "  work       {:.3} MFLOP, {} moved{own}", why.flops / 1e6, size_text(why.bytes));
        out.push_str(&choices(why, device, whole));
    }
    out.push_str(&transfers(plan, at));
    out
}

/// Whether the step may be late, and what it waits for.
fn lateness(plan: &Plan, timeline: &Timeline, at: At) -> String {
    let late = if timeline.is_critical(at) {
        "on the critical path: no slack".to_owned()
    } else {
        format!("slack {:.2} us of {:.2} us", timeline.slack_us(at), timeline.end_us)
    };
    let held = timeline::held_by(plan, at);
    let waits = held
        .and_then(|before| Some((before, timeline::step(plan, before)?)))
        .map(|(before, step)| format!("; waits longest for {} on {}", step.name, plan.queues[before.0].name));
    format!("{late}{}", waits.unwrap_or_else(|| "; waits for nothing".to_owned()))
}

/// The constraint that decides, as a sentence.
pub(crate) fn constraint(why: &Why, device: &str) -> String {
    let best = next_best(why, device);
    let figure = |c: &Choice| format!("{:.2} us on {}", c.plan_us, c.device);
    match why.binds.as_str() {
        "pin" => format!("pin: it was asked to run on {device}"),
        "support" => format!("support: no device but {device} has a kernel for it"),
        "memory" => {
            let full = why.choices.iter().find(|c| !c.barred.is_empty());
            let text = full.map_or(String::new(), |c| format!(": {} {}", c.device, c.barred));
            format!("memory{text}")
        }
        "time" => format!("time: at best the plan would take {}", best.map_or("longer".to_owned(), figure)),
        "indifferent" => {
            format!(
                "nothing: the plan would take as long with it elsewhere ({})",
                best.map_or(String::new(), figure)
            )
        }
        "search" => format!(
            "the work limit of the search: the plan would take {} (raise --work)",
            best.map_or(String::new(), figure)
        ),
        _ => "not recorded: the plan is old, or too large to try every move".to_owned(),
    }
}

/// The other device with the best plan of those that are allowed.
fn next_best<'a>(why: &'a Why, device: &str) -> Option<&'a Choice> {
    let open = why.choices.iter().filter(|c| c.device != device && c.plan_us > 0.0 && c.barred.is_empty());
    open.min_by(|a, b| a.plan_us.total_cmp(&b.plan_us))
}

/// A table: what each device would take, alone and for the whole plan, and where the figure is from.
fn choices(why: &Why, device: &str, whole: Option<&Provenance>) -> String {
    let objective = whole.map_or("part", |p| p.objective.as_str());
    let objective = if objective == "throughput" { "busiest us" } else { "plan us" };
    let mut out = format!("    {:<10} {:>14} {objective:>14}   origin of the time\n", "device", "time us");
    for choice in &why.choices {
        let time =
            if choice.time_us < 0.0 { "cannot".to_owned() } else { format!("{:.2} us", choice.time_us) };
        let plan = match choice.plan_us {
            _ if choice.time_us < 0.0 => "-".to_owned(),
            us if us < 0.0 => "no link".to_owned(),
            0.0 => "?".to_owned(),
            us => format!("{us:.2}"),
        };
        let here = if choice.device == device { "*" } else { " " };
        let barred = if choice.barred.is_empty() { String::new() } else { format!("; {}", choice.barred) };
        let _ =
            writeln!(out, "  {here} {:<10} {time:>14} {plan:>14}   {}{barred}", choice.device, choice.origin);
    }
    out
}

/// What arrives for the step, and what leaves for others.
fn transfers(plan: &Plan, at: At) -> String {
    let step = &plan.queues[at.0].steps[at.1];
    let mut out = String::new();
    for value in step.inputs.iter().filter(|v| **v != NO_VALUE) {
        for (link, copy) in copies(plan).filter(|(_, c)| c.outputs.contains(&root(plan, *value))) {
            let _ = writeln!(out, "  arrives    {}", moved(plan, link, copy, *value));
        }
    }
    for value in &step.outputs {
        let from = root(plan, *value);
        for (link, copy) in copies(plan).filter(|(_, c)| c.inputs.iter().any(|v| root(plan, *v) == from)) {
            let _ = writeln!(out, "  leaves     {}", moved(plan, link, copy, *value));
        }
    }
    out
}

fn moved(plan: &Plan, link: &str, copy: &Step, value: u32) -> String {
    let value = &plan.values[value as usize];
    let ty = type_text(plan, value);
    let size = size_text(value_bytes(plan, value));
    let (start, time) = (copy.start_us, copy.time_us);
    format!("{} ({ty}, {size}) over {link} in {time:.2} us, starting at {start:.2} us", value.name)
}

/// Every transfer with the name of its link.
fn copies(plan: &Plan) -> impl Iterator<Item = (&str, &Step)> {
    let queues = plan.queues.iter().filter(|q| q.copies);
    queues.flat_map(|q| q.steps.iter().map(|s| (q.name.as_str(), s)))
}
