//! Why a node runs where it runs.

use crate::error::{Error, Result};
use crate::report::dot::size_text;
use crate::report::program;
use partita_plan::{NO_VALUE, Plan, Queue, Step};
use std::fmt::Write as _;

/// Most steps that are explained for one name.
const MAX_MATCHES: usize = 20;

/// Explains every step that stands for the node `node`, or writes the value `node`; or else those whose names
/// contain it.
///
/// # Errors
/// `E001` when there is none.
pub fn explain(plan: &Plan, node: &str) -> Result<String> {
    let exact = found(plan, &|name| name == node);
    let found = if exact.is_empty() { found(plan, &|name| name.contains(node)) } else { exact };
    if found.is_empty() {
        return Err(Error::new(
            "E001",
            format!("the plan has no step {node}"),
            "partita inspect lists the steps; nodes may have been merged",
        ));
    }
    let mut out = String::new();
    for text in found.iter().take(MAX_MATCHES) {
        out.push_str(text);
    }
    if found.len() > MAX_MATCHES {
        let _ = writeln!(out, "... and {} more; give a longer name", found.len() - MAX_MATCHES);
    }
    Ok(out)
}

/// A paragraph for every match in a plan of any kind.
fn found(plan: &Plan, matches: &dyn Fn(&str) -> bool) -> Vec<String> {
    let steps = |part| find(part, matches).into_iter().map(move |(queue, step)| one(part, queue, step));
    let hosted = plan.program.as_ref().map(|p| program::explain(p, matches)).unwrap_or_default();
    plan.parts().iter().flat_map(steps).chain(hosted).collect()
}

fn find<'a>(plan: &'a Plan, matches: &dyn Fn(&str) -> bool) -> Vec<(&'a Queue, &'a Step)> {
    let written =
        |s: &Step| s.outputs.iter().any(|v| plan.values.get(*v as usize).is_some_and(|v| matches(&v.name)));
    let named = |s: &Step| matches(&s.name) || s.covers.iter().any(|n| matches(n));
    let queues = plan.queues.iter().filter(|q| !q.copies);
    queues.flat_map(|q| q.steps.iter().map(move |s| (q, s))).filter(|(_, s)| named(s) || written(s)).collect()
}

fn one(plan: &Plan, queue: &Queue, step: &Step) -> String {
    let mut out = String::new();
    let kernel = plan.kernels.get(step.kernel as usize).map_or("?", |k| k.library.as_str());
    let device = &plan.devices[queue.device as usize].name;
    let _ = writeln!(out, "{} runs on {device} as kernel {kernel}", step.name);
    if !step.covers.is_empty() {
        let _ = writeln!(out, "  stands for: {}", step.covers.join(", "));
    }
    let _ = writeln!(out, "  predicted: {:.2} us, starting at {:.2} us", step.time_us, step.start_us);
    let Some(why) = &step.why else { return out };
    let _ = writeln!(out, "  why:       {}", why.reason);
    let _ = writeln!(out, "  work:      {:.3} MFLOP, {} moved", why.flops / 1e6, size_text(why.bytes));
    for choice in &why.choices {
        let time = if choice.time_us < 0.0 {
            "cannot run it".to_owned()
        } else {
            format!("{:.2} us", choice.time_us)
        };
        let _ = writeln!(out, "    {:<10} {time:>14}   {}", choice.device, choice.origin);
    }
    for value in step.inputs.iter().filter(|v| **v != NO_VALUE) {
        if let Some((link, copy)) = copied(plan, *value) {
            let _ = writeln!(
                out,
                "  operand {} arrives over {link} in {:.2} us",
                plan.values[*value as usize].name, copy.time_us
            );
        }
    }
    out
}

/// The transfer that brings a value to its device, if one does.
fn copied(plan: &Plan, value: u32) -> Option<(&str, &Step)> {
    let root = crate::report::stages::root(plan, value);
    let copies = plan.queues.iter().filter(|q| q.copies);
    copies.flat_map(|q| q.steps.iter().map(|s| (q.name.as_str(), s))).find(|(_, s)| s.outputs.contains(&root))
}
