//! The summary of a compilation, for people.

use crate::pipeline::Compiled;
use crate::report::dot::size_text;
use crate::report::program;
use partita_plan::memory::{self, Item};
use partita_plan::{Alone, Device, ElementType, Plan, Storage, Value};
use std::fmt::Write as _;

/// What was compiled, how far it was optimized, where it runs and what that is predicted to cost.
pub fn compiled(compiled: &Compiled) -> String {
    let mut out = plan(&compiled.assembly.plan);
    let rules = compiled.history.fired();
    if !rules.is_empty() {
        let list: Vec<String> = rules.iter().map(|(name, n)| format!("{name} x{n}")).collect();
        let _ = writeln!(out, "rules      {}", list.join(", "));
    }
    out
}

/// A plan in a few lines.
pub fn plan(plan: &Plan) -> String {
    let mut out = String::new();
    if let Some(p) = &plan.provenance {
        let _ = writeln!(out, "plan       {} for {}, by {}", plan.name, p.machine, p.compiler);
        let _ = writeln!(out, "operators  {} as read, {} after optimization", p.nodes_before, p.nodes_after);
        let gap = if p.value_us > 0.0 { 100.0 * (p.value_us - p.bound_us) / p.value_us } else { 0.0 };
        let _ = writeln!(
            out,
            "placement  {} {:.2} us predicted, bound {:.2} us (gap {gap:.1} %), {}; {}",
            p.objective, p.value_us, p.bound_us, p.status, p.solver
        );
    }
    if let Some(program) = &plan.program {
        let _ = writeln!(out, "program    {}", program::sentence(program));
    }
    for (n, device) in plan.devices.iter().enumerate() {
        let _ = writeln!(out, "  {}", device_line(plan, n, device));
    }
    for device in 0..plan.devices.len() {
        if let Some(sentence) = unused(plan, device) {
            let _ = writeln!(out, "  {sentence}");
        }
    }
    if let Some(sentence) = splitting(plan) {
        let _ = writeln!(out, "  {sentence}");
    }
    let queues = plan.parts().iter().flat_map(|p| &p.queues);
    let copies: Vec<_> = queues.filter(|q| q.copies).flat_map(|q| &q.steps).collect();
    let copy_us = copies.iter().fold(0.0, |sum, s| sum + s.time_us);
    let _ = writeln!(
        out,
        "transfers  {} taking {copy_us:.2} us, weights {}",
        copies.len(),
        size_text(plan.weight_bytes as f64)
    );
    out
}

/// What a device does, in all static parts.
fn device_line(plan: &Plan, n: usize, device: &Device) -> String {
    let queues = plan.parts().iter().flat_map(|p| &p.queues);
    let steps: Vec<_> =
        queues.filter(|q| !q.copies && q.device as usize == n).flat_map(|q| &q.steps).collect();
    let busy = steps.iter().fold(0.0, |sum, s| sum + s.time_us);
    let parts = plan.parts();
    let arena = if parts.iter().all(|p| p.symbols.is_empty()) {
        let bytes = parts.iter().filter_map(|p| p.devices.get(n)).map(|d| d.arena_bytes).sum::<u64>();
        let least = parts.iter().map(|p| least_arena(p, n)).sum::<u64>();
        let ratio = if least > 0 { bytes as f64 / least as f64 } else { 1.0 };
        format!("{} ({ratio:.2} x the least)", size_text(bytes as f64))
    } else {
        "sized at run time".to_owned()
    };
    let profile = if device.profile.is_empty() { String::new() } else { format!(", {}", device.profile) };
    format!(
        "{:<10} {:>4} steps, {busy:>10.2} us busy, arena {arena} ({}{profile})",
        device.name,
        steps.len(),
        device.driver
    )
}

/// The most bytes alive at one step of a device, for a plan without symbols: no arena is smaller.
pub fn least_arena(plan: &Plan, device: usize) -> u64 {
    let own = |v: &&Value| v.device as usize == device && v.storage == Storage::Arena as i32;
    let bytes = |v: &Value| {
        let element = ElementType::try_from(v.dtype).map_or(1, ElementType::size_bytes) as u64;
        let dims = v.shape.iter().map(|d| d.as_constant().and_then(|d| u64::try_from(d).ok()).unwrap_or(0));
        dims.fold(element, u64::saturating_mul)
    };
    let item = |v: &Value| Item { bytes: bytes(v), align: 1, first: v.first, last: v.last };
    memory::lower_bound(&plan.values.iter().filter(own).map(item).collect::<Vec<_>>())
}

/// Devices that have steps.
pub fn used(plan: &Plan) -> usize {
    (0..plan.devices.len()).filter(|n| is_used(plan, *n)).count()
}

fn is_used(plan: &Plan, device: usize) -> bool {
    let mut queues = plan.parts().iter().flat_map(|p| &p.queues);
    queues.any(|q| !q.copies && q.device as usize == device && !q.steps.is_empty())
}

/// Whether a machine of several devices is worth it, with the figures; `None` where there is nothing to compare.
pub fn splitting(plan: &Plan) -> Option<String> {
    let p = plan.provenance.as_ref()?;
    if plan.devices.len() < 2 {
        return None;
    }
    let value = p.value_us;
    let alone: Vec<&Alone> = p.alone.iter().filter(|a| a.value_us >= 0.0).collect();
    let best = alone.iter().copied().reduce(|a, b| if b.value_us < a.value_us { b } else { a });
    if used(plan) > 1 {
        let best = best?;
        let ratio = best.value_us / value.max(f64::MIN_POSITIVE);
        return Some(format!(
            "splitting pays: {value:.2} us, {} alone takes {:.2} us ({ratio:.2} x)",
            best.device, best.value_us
        ));
    }
    let here = (0..plan.devices.len()).find(|n| is_used(plan, *n)).map(|n| plan.devices[n].name.as_str())?;
    let mut text = format!("splitting does not pay: {here} alone takes {value:.2} us");
    if let Some((us, step, device)) = best_move(plan, |name| name != here) {
        let _ = write!(text, "; with {step} on {device}, the best single move, the plan takes {us:.2} us");
    }
    let others = alone.iter().filter(|a| a.device != here);
    let others: Vec<String> = others.map(|a| format!("{} alone {:.2} us", a.device, a.value_us)).collect();
    if !others.is_empty() {
        let _ = write!(text, "; {}", others.join(", "));
    }
    Some(text)
}

/// The best plan that differs in one step, which goes to a device that is wished for: microseconds, step, device.
fn best_move(plan: &Plan, wished: impl Fn(&str) -> bool) -> Option<(f64, &str, &str)> {
    if plan.program.is_some() {
        return None;
    }
    let queues = plan.queues.iter().filter(|q| !q.copies);
    let moves = queues.flat_map(|queue| {
        let here = plan.devices.get(queue.device as usize).map_or("", |d| d.name.as_str());
        queue.steps.iter().filter_map(move |s| Some((here, s, s.why.as_ref()?)))
    });
    let open = moves.flat_map(|(here, step, why)| {
        let others =
            why.choices.iter().filter(move |c| c.device != here && c.plan_us > 0.0 && c.barred.is_empty());
        others.map(move |c| (c.plan_us, step.name.as_str(), c.device.as_str()))
    });
    open.filter(|(_, _, device)| wished(device)).min_by(|a, b| a.0.total_cmp(&b.0))
}

/// Why a device runs nothing, with the figures of the plan or the operator it comes closest at; `None` when it is used.
pub fn unused(plan: &Plan, device: usize) -> Option<String> {
    let name = &plan.devices[device].name;
    let queues = || plan.parts().iter().flat_map(|p| &p.queues);
    let steps = || queues().filter(|q| !q.copies).flat_map(|q| q.steps.iter().map(move |s| (q, s)));
    if is_used(plan, device) || (steps().next().is_none() && plan.program.is_some()) {
        return None;
    }
    let value = plan.provenance.as_ref().map_or(0.0, |p| p.value_us);
    if let Some((us, step, _)) = best_move(plan, |d| d == name) {
        let longer = if us > value { "takes longer" } else { "is not shorter" };
        return Some(format!(
            "{name} is not used: a plan with it {longer}: {us:.2} us instead of {value:.2} us with {step} there, the best single move"
        ));
    }
    let rival = |(queue, step): (&partita_plan::Queue, &partita_plan::Step)| {
        let why = step.why.as_ref()?;
        let on = |name: &str| why.choices.iter().find(|c| c.device == *name && c.time_us >= 0.0);
        let (here, there) = (on(name)?, on(&queue.name)?.time_us);
        let barred = if here.barred.is_empty() { String::new() } else { format!(", and {}", here.barred) };
        Some((
            here.time_us / there.max(1e-9),
            here.time_us,
            there,
            step.name.clone(),
            queue.name.clone(),
            barred,
        ))
    };
    let best = steps().filter_map(rival).min_by(|a, b| a.0.total_cmp(&b.0));
    Some(match best {
        None => format!("{name} is not used: it can run none of the operators"),
        Some((_, here, there, step, on, barred)) => format!(
            "{name} is not used: a plan with it takes longer; at best it needs {here:.2} us for {step}, {on} {there:.2} us{barred}"
        ),
    })
}

/// One line per step: when, where, how long, and why there.
pub fn placements(plan: &Plan) -> String {
    let mut out = format!(
        "{:>10} {:>10}  {:<8} {:<12} {}\n",
        "start us", "time us", "device", "kernel", "operator: why"
    );
    if let Some(program) = &plan.program {
        out = format!("{}\n{out}", program::listing(program));
    }
    for plan in plan.parts() {
        out.push_str(&steps(plan));
    }
    out
}

fn steps(plan: &Plan) -> String {
    let mut out = String::new();
    for queue in plan.queues.iter().filter(|q| !q.copies) {
        for step in &queue.steps {
            let kernel = plan.kernels.get(step.kernel as usize).map_or("?", |k| k.library.as_str());
            let why = step.why.as_ref().map_or("", |w| w.reason.as_str());
            let device = &plan.devices[queue.device as usize].name;
            let _ = writeln!(
                out,
                "{:>10.2} {:>10.2}  {device:<8} {kernel:<12} {}: {why}",
                step.start_us, step.time_us, step.name
            );
        }
    }
    out
}
