//! Two plans beside each other: what moved, what is launched in another way, what it costs by device.
//!
//! Steps are the same step when they have the same name (and come as the same occurrence of it) in the same part.

use crate::report::dot::size_text;
use crate::report::explain::kernel_of;
use crate::report::{printable, timeline};
use partita_plan::{Kernel, Param, Plan, Provenance, Queue, Step, Storage};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Most lines of one kind.
const MAX_LINES: usize = 200;
/// Times that differ by less than this share are the same.
const SAME_TIME: f64 = 1e-6;

/// A step where it stands.
#[derive(Clone, Copy)]
struct Found<'a> {
    plan: &'a Plan,
    queue: &'a Queue,
    step: &'a Step,
}

/// Part, name and occurrence.
type Key<'a> = (usize, &'a str, usize);

/// What differs from `old` to `new`, for people; `None` when the plans are equal. Weights are not looked at.
pub fn diff(old: &Plan, new: &Plan) -> Option<String> {
    if old == new {
        return None;
    }
    let mut out = String::new();
    out.push_str(&facts(old, new));
    out.push_str(&devices(old, new));
    let before = out.len();
    for copies in [false, true] {
        out.push_str(&steps(old, new, copies));
    }
    if out.len() == before {
        out.push_str("the same steps run on the same devices with the same kernels\n");
    }
    Some(printable(&out))
}

/// Fields of the whole that differ.
fn facts(old: &Plan, new: &Plan) -> String {
    let none = Provenance::default();
    let (a, b) = (old.provenance.as_ref().unwrap_or(&none), new.provenance.as_ref().unwrap_or(&none));
    let operators = |p: &Provenance| format!("{} as read, {} optimized", p.nodes_before, p.nodes_after);
    let weights = |p: &Plan| size_text(p.weight_bytes as f64);
    let rows = [
        ("model", old.name.clone(), new.name.clone()),
        ("machine", a.machine.clone(), b.machine.clone()),
        ("compiler", a.compiler.clone(), b.compiler.clone()),
        ("objective", a.objective.clone(), b.objective.clone()),
        ("operators", operators(a), operators(b)),
        ("status", a.status.clone(), b.status.clone()),
        ("weights", weights(old), weights(new)),
    ];
    let mut out = String::new();
    for (what, a, b) in rows.iter().filter(|(_, a, b)| a != b) {
        let _ = writeln!(out, "{what:<10} {a} -> {b}");
    }
    for (what, a, b) in [("predicted", a.value_us, b.value_us), ("bound", a.bound_us, b.bound_us)] {
        if a != b {
            let _ = writeln!(out, "{what:<10} {}", times(a, b));
        }
    }
    out
}

/// Two times with their ratio: percent, or a factor where that says more.
fn times(old: f64, new: f64) -> String {
    const LARGE: f64 = 10.0;
    let ratio = new / old;
    let share = match ratio {
        _ if old <= 0.0 => String::new(),
        ratio if (1.0 / LARGE..LARGE).contains(&ratio) => format!(" ({:+.1} %)", 100.0 * (ratio - 1.0)),
        ratio if ratio >= LARGE => format!(" ({ratio:.1} x)"),
        _ => String::new(),
    };
    format!("{old:.2} -> {new:.2} us{share}")
}

/// What a device has to do in a plan.
#[derive(Default, PartialEq)]
struct Load {
    steps: usize,
    busy_us: f64,
    arena_bytes: u64,
    weight_bytes: u64,
}

fn load(plan: &Plan, name: &str) -> Load {
    let mut load = Load::default();
    for part in plan.parts() {
        let Some(device) = part.devices.iter().position(|d| d.name == name) else { continue };
        for queue in part.queues.iter().filter(|q| !q.copies && q.device as usize == device) {
            load.steps += queue.steps.len();
            load.busy_us += timeline::busy_us(queue);
        }
        load.arena_bytes = load.arena_bytes.max(part.devices[device].arena_bytes);
        load.weight_bytes = load.weight_bytes.saturating_add(weight_bytes(part, device));
    }
    load
}

/// Stored bytes of the weights that a device reads; what several values share counts once.
pub(crate) fn weight_bytes(plan: &Plan, device: usize) -> u64 {
    let own = |v: &&partita_plan::Value| v.device as usize == device && v.storage == Storage::Weight as i32;
    let ranges: BTreeSet<(u64, u64)> =
        plan.values.iter().filter(own).map(|v| (v.offset, v.stored_bytes)).collect();
    ranges.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
}

fn devices(old: &Plan, new: &Plan) -> String {
    let mut names: Vec<&str> = Vec::new();
    for device in old.devices.iter().chain(&new.devices) {
        if !names.contains(&device.name.as_str()) {
            names.push(&device.name);
        }
    }
    let mut out = String::new();
    for name in names {
        let (a, b) = (load(old, name), load(new, name));
        let there = |plan: &Plan| plan.devices.iter().any(|d| d.name == name);
        let gone = match (there(old), there(new)) {
            (true, false) => " (gone)",
            (false, true) => " (new)",
            _ => "",
        };
        if a != b || !gone.is_empty() {
            let bytes = |a: u64, b: u64| format!("{} -> {}", size_text(a as f64), size_text(b as f64));
            let _ = writeln!(
                out,
                "device     {name}{gone}: {} -> {} steps, busy {}, arena {}, weights {}",
                a.steps,
                b.steps,
                times(a.busy_us, b.busy_us),
                bytes(a.arena_bytes, b.arena_bytes),
                bytes(a.weight_bytes, b.weight_bytes)
            );
        }
    }
    out
}

fn keyed(plan: &Plan, copies: bool) -> Vec<(Key<'_>, Found<'_>)> {
    let mut out = Vec::new();
    for (n, part) in plan.parts().iter().enumerate() {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for queue in part.queues.iter().filter(|q| q.copies == copies) {
            for step in &queue.steps {
                // The same value may be sent over several links.
                let name = if copies { format!("{} {}", step.name, queue.name) } else { step.name.clone() };
                let count = seen.entry(name).or_default();
                out.push(((n, step.name.as_str(), *count), Found { plan: part, queue, step }));
                *count += 1;
            }
        }
    }
    out
}

/// Steps, or transfers, that are only in one plan or differ.
fn steps(old: &Plan, new: &Plan, copies: bool) -> String {
    let (before, after) = (keyed(old, copies), keyed(new, copies));
    let over = |f: &Found| if copies { f.queue.name.clone() } else { String::new() };
    let index = |list: &[(Key<'_>, Found<'_>)]| -> BTreeMap<(usize, String, usize, String), usize> {
        let key = |(k, f): &(Key<'_>, Found<'_>)| (k.0, k.1.to_owned(), k.2, over(f));
        list.iter().enumerate().map(|(n, row)| (key(row), n)).collect()
    };
    let (of_old, of_new) = (index(&before), index(&after));
    let mut lines: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for (key, (_, a)) in before.iter().map(|row| ((row.0.0, row.0.1.to_owned(), row.0.2, over(&row.1)), row))
    {
        match of_new.get(&key) {
            None => lines.entry(0).or_default().push(only("removed", a)),
            Some(n) => changes(a, &after[*n].1, &mut lines),
        }
    }
    for row in &after {
        let key = (row.0.0, row.0.1.to_owned(), row.0.2, over(&row.1));
        if !of_old.contains_key(&key) {
            lines.entry(1).or_default().push(only("added", &row.1));
        }
    }
    capped(&lines)
}

fn capped(lines: &BTreeMap<usize, Vec<String>>) -> String {
    let mut out = String::new();
    for lines in lines.values() {
        lines.iter().take(MAX_LINES).for_each(|line| out.push_str(line));
        if lines.len() > MAX_LINES {
            let _ = writeln!(out, "           ... and {} more like these", lines.len() - MAX_LINES);
        }
    }
    out
}

fn only(what: &str, f: &Found) -> String {
    let kind = if f.queue.copies { "transfer" } else { kernel_of(f.plan, f.step) };
    format!("{what:<10} {} on {} ({kind}, {:.2} us)\n", f.step.name, f.queue.name, f.step.time_us)
}

/// Lines about a step that is in both plans, by kind.
fn changes(a: &Found, b: &Found, lines: &mut BTreeMap<usize, Vec<String>>) {
    let name = &a.step.name;
    let (here, there) = (&a.queue.name, &b.queue.name);
    let time = times(a.step.time_us, b.step.time_us);
    if here != there {
        lines.entry(2).or_default().push(format!("moved      {name}: {here} -> {there}, {time}\n"));
    } else if (a.step.time_us - b.step.time_us).abs() > SAME_TIME * a.step.time_us.abs() {
        lines.entry(5).or_default().push(format!("time       {name} on {here}: {time}\n"));
    }
    if a.queue.copies {
        return;
    }
    let (Some(old), Some(new)) = (kernel(a), kernel(b)) else { return };
    if old.library != new.library {
        lines.entry(3).or_default().push(format!("kernel     {name}: {} -> {}\n", old.library, new.library));
    } else if old != new {
        lines.entry(4).or_default().push(format!(
            "parameters {name} ({}): {}\n",
            old.library,
            parameters(old, new)
        ));
    }
}

fn kernel<'a>(f: &Found<'a>) -> Option<&'a Kernel> {
    f.plan.kernels.get(f.step.kernel as usize)
}

/// The parameters of two kernels of one library that differ.
fn parameters(old: &Kernel, new: &Kernel) -> String {
    let names: BTreeSet<&str> = old.params.iter().chain(&new.params).map(|p| p.name.as_str()).collect();
    let mut out: Vec<String> = Vec::new();
    for name in names {
        let (a, b) = (old.param(name), new.param(name));
        if a != b {
            out.push(format!("{name} {} -> {}", parameter(a), parameter(b)));
        }
    }
    if old.program != new.program {
        let count = |k: &Kernel| k.program.as_ref().map_or(0, |p| p.instrs.len());
        out.push(format!("program of {} -> {} instructions", count(old), count(new)));
    }
    out.join(", ")
}

fn parameter(param: Option<&Param>) -> String {
    let Some(param) = param else { return "nothing".to_owned() };
    let mut words: Vec<String> = param.ints.iter().map(ToString::to_string).collect();
    words.extend(param.floats.iter().map(ToString::to_string));
    words.extend(param.strings.iter().cloned());
    words.extend(param.dims.iter().map(|d| d.as_constant().map_or("?".to_owned(), |n| n.to_string())));
    format!("[{}]", words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_plan::Device;

    fn plan(device: u32, ints: Vec<i64>) -> Plan {
        let name = ["cpu0", "gpu0"][device as usize].to_owned();
        let device_of = |name: &str| Device { name: name.into(), driver: "cpu".into(), ..Default::default() };
        let step = Step { name: "fc".into(), time_us: 2.0, ..Default::default() };
        let params = vec![Param { name: "tile".into(), ints, ..Default::default() }];
        Plan {
            devices: vec![device_of("cpu0"), device_of("gpu0")],
            kernels: vec![Kernel { library: "gemm".into(), params, program: None }],
            queues: vec![Queue { name, device, steps: vec![step], ..Default::default() }],
            ..Default::default()
        }
    }

    #[test]
    fn equal_plans_have_no_difference() {
        assert_eq!(diff(&plan(0, vec![1]), &plan(0, vec![1])), None);
    }

    #[test]
    fn moves_and_parameters_are_told_apart() {
        let text = diff(&plan(0, vec![1]), &plan(1, vec![1])).unwrap();
        assert!(text.contains("moved      fc: cpu0 -> gpu0, 2.00 -> 2.00 us"), "{text}");
        assert!(text.contains("device     gpu0: 0 -> 1 steps"), "{text}");
        let text = diff(&plan(0, vec![1]), &plan(0, vec![1, 2])).unwrap();
        assert_eq!(text, "parameters fc (gemm): tile [1] -> [1, 2]\n");
    }
}
