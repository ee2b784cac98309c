//! From prices to a placement problem, its answer, and the reasons a person reads.

use crate::alternatives::{Moved, alone, binds, moves};
use crate::error::{Error, Result};
use crate::price::{Price, Prices, bytes_of};
use partita_codegen::Lowered;
use partita_hw::Machine;
use partita_ir::{Diag, Graph, Regions, Source, ValueId};
use partita_place::{
    Answer, CommModel, Device, Limits, Link, Objective, Problem, Task, Tensor, check, solve,
};
use partita_plan::{Alone, Choice, Why};
use std::collections::{BTreeMap, BTreeSet};

/// What the user asks of a placement.
#[derive(Clone, Debug)]
pub struct Wishes {
    pub objective: Objective,
    pub limits: Limits,
    /// Device name of a region named by one of its nodes or values.
    pub pins: Vec<(String, String)>,
}

/// Where and when every region runs, with the certificate.
#[derive(Clone, Debug)]
pub struct Placement {
    pub device_of: Vec<usize>,
    pub start_us: Vec<f64>,
    pub time_us: Vec<f64>,
    pub why: Vec<Why>,
    /// What each device would take for everything.
    pub alone: Vec<Alone>,
    pub problem: Problem,
    pub answer: Answer,
}

/// Places every region on a device of `machine`.
///
/// # Errors
/// `P0xx` when no placement exists, `M001` for a pin that names nothing.
pub fn place(
    graph: &Graph,
    regions: &Regions,
    lowered: &[Lowered],
    prices: &Prices,
    machine: &Machine,
    hints: &BTreeMap<String, i64>,
    wishes: &Wishes,
) -> Result<Placement> {
    let tasks = Tasks::new(regions, lowered);
    let mut problem = problem(graph, regions, lowered, prices, machine, hints, &tasks);
    pin(graph, regions, machine, &tasks, &mut problem, &wishes.pins)?;
    runnable(regions, prices, &tasks, machine)?;
    let answer =
        solve(&problem, wishes.objective, &wishes.limits).map_err(|e| Error::from(place_diag(&e)))?;
    let violations = check(&problem, wishes.objective, &answer);
    if let Some(violation) = violations.first() {
        return Err(Error::new(
            "P099",
            format!("the solver's answer breaks a constraint: {}: {}", violation.place, violation.message),
            "please report this",
        ));
    }
    Ok(spread(regions, prices, machine, hints, graph, &tasks, problem, answer, wishes.objective))
}

fn place_diag(error: &partita_place::PlaceError) -> Diag {
    Diag::new("P001", error.to_string()).hint("check memory limits, pins and links of the machine")
}

/// Regions that are tasks: those that launch something. Two more tasks stand for the caller's side.
struct Tasks {
    /// Task of every region, if it is one.
    of_region: Vec<Option<usize>>,
    /// Region of every task.
    regions: Vec<usize>,
    source: usize,
    sink: usize,
}

impl Tasks {
    fn new(regions: &Regions, lowered: &[Lowered]) -> Self {
        let launching: Vec<usize> =
            (0..regions.list.len()).filter(|r| !lowered[*r].calls.is_empty()).collect();
        let mut of_region = vec![None; regions.list.len()];
        for (task, region) in launching.iter().enumerate() {
            of_region[*region] = Some(task);
        }
        Self { of_region, source: launching.len(), sink: launching.len() + 1, regions: launching }
    }
}

fn problem(
    graph: &Graph,
    regions: &Regions,
    lowered: &[Lowered],
    prices: &Prices,
    machine: &Machine,
    hints: &BTreeMap<String, i64>,
    tasks: &Tasks,
) -> Problem {
    let devices = machine.devices.iter();
    let devices = devices
        .map(|d| Device { name: d.name.clone(), memory_bytes: d.memory_bytes.as_ref().map(|m| m.value) });
    let mut list: Vec<Task> = tasks
        .regions
        .iter()
        .enumerate()
        .map(|(n, r)| Task {
            name: format!("{n} {}", regions.list[*r].name),
            time_us: prices.rows[*r].iter().map(|p| p.time_us).collect(),
            memory_bytes: prices.weight_bytes[*r],
            colocate: None,
            pin: None,
        })
        .collect();
    for name in ["inputs", "outputs"] {
        let time_us = (0..machine.devices.len()).map(|d| (d == machine.host).then_some(0.0)).collect();
        list.push(Task {
            name: format!("the model's {name}"),
            time_us,
            memory_bytes: 0,
            colocate: None,
            pin: Some(machine.host),
        });
    }
    Problem {
        name: graph.name.clone(),
        devices: devices.collect(),
        tasks: list,
        tensors: tensors(graph, lowered, hints, tasks),
        links: links(machine),
        comm: CommModel::Links,
    }
}

fn links(machine: &Machine) -> Vec<Vec<Option<Link>>> {
    let n = machine.devices.len();
    let link = |a: usize, b: usize| {
        machine.path(a, b).map(|p| Link { latency_us: p.latency_us, us_per_byte: p.us_per_byte })
    };
    (0..n).map(|a| (0..n).map(|b| if a == b { None } else { link(a, b) }).collect()).collect()
}

/// One tensor per value that crosses tasks, with the tasks that read its bytes (through reshapes too).
fn tensors(graph: &Graph, lowered: &[Lowered], hints: &BTreeMap<String, i64>, tasks: &Tasks) -> Vec<Tensor> {
    let aliases: BTreeMap<ValueId, ValueId> =
        lowered.iter().flat_map(|l| l.aliases.iter().copied()).collect();
    let root = |mut v: ValueId| {
        while let Some(next) = aliases.get(&v) {
            v = *next;
        }
        v
    };
    let mut producer: BTreeMap<ValueId, usize> = graph.inputs().iter().map(|v| (*v, tasks.source)).collect();
    let mut readers: BTreeMap<ValueId, BTreeSet<usize>> = BTreeMap::new();
    for (region, lowered) in lowered.iter().enumerate() {
        let Some(task) = tasks.of_region[region] else { continue };
        for call in &lowered.calls {
            producer.extend(call.results.iter().map(|r| (r.value, task)));
            for arg in call.operands.iter().flatten() {
                readers.entry(root(arg.value)).or_default().insert(task);
            }
        }
    }
    for (_, value) in graph.outputs() {
        readers.entry(root(value)).or_default().insert(tasks.sink);
    }
    let mut tensors = Vec::new();
    for (value, mut consumers) in readers {
        let Some(from) = producer.get(&value) else { continue };
        consumers.remove(from);
        if !consumers.is_empty() && !matches!(graph.value(value).source, Source::Const(_)) {
            let name = format!("{} {}", tensors.len(), graph.value(value).name);
            let bytes = bytes_of(graph.ty(value), hints) as u64;
            tensors.push(Tensor { name, bytes, producer: *from, consumers: consumers.into_iter().collect() });
        }
    }
    tensors
}

fn pin(
    graph: &Graph,
    regions: &Regions,
    machine: &Machine,
    tasks: &Tasks,
    problem: &mut Problem,
    pins: &[(String, String)],
) -> Result<()> {
    for (node, device) in pins {
        let Some(d) = machine.device(device) else {
            let names: Vec<&str> = machine.devices.iter().map(|d| d.name.as_str()).collect();
            return Err(Error::new(
                "M001",
                format!("--pin names the device {device}, which the machine does not have"),
                format!("it has: {}", names.join(", ")),
            ));
        };
        let matches = |r: usize| {
            regions.list[r].nodes.iter().any(|n| {
                let n = graph.node(*n);
                *n.name == **node || n.outputs.iter().any(|v| *graph.value(*v).name == **node)
            })
        };
        let found: Vec<usize> =
            tasks.regions.iter().enumerate().filter(|(_, r)| matches(**r)).map(|(t, _)| t).collect();
        if found.is_empty() {
            return Err(Error::new(
                "M002",
                format!("--pin names the node {node}, which the optimized graph does not have"),
                "partita inspect lists the nodes",
            ));
        }
        for task in found {
            problem.tasks[task].pin = Some(d);
        }
    }
    Ok(())
}

/// Every region must have a device; the reasons of all devices are listed when one has none.
fn runnable(regions: &Regions, prices: &Prices, tasks: &Tasks, machine: &Machine) -> Result<()> {
    let stuck = |r: &&usize| prices.rows[**r].iter().all(|p| p.time_us.is_none());
    let letter = |r: &usize| {
        let why: Vec<String> = machine
            .devices
            .iter()
            .zip(&prices.rows[*r])
            .map(|(d, p)| format!("{}: {}", d.name, p.origin))
            .collect();
        Diag::new("U020", format!("no device of the machine can run it ({})", why.join("; ")))
            .at_node(&regions.list[*r].name)
            .hint("add a cpu device to the machine file")
    };
    let diags: Vec<Diag> = tasks.regions.iter().filter(stuck).map(letter).collect();
    if diags.is_empty() { Ok(()) } else { Err(diags.into()) }
}

#[allow(clippy::too_many_arguments, reason = "the whole state of a placement is put together here, once")]
fn spread(
    regions: &Regions,
    prices: &Prices,
    machine: &Machine,
    hints: &BTreeMap<String, i64>,
    graph: &Graph,
    tasks: &Tasks,
    problem: Problem,
    answer: Answer,
    objective: Objective,
) -> Placement {
    let n = regions.list.len();
    let moved = moves(&problem, objective, &answer.device_of_task);
    let mut out = Placement {
        device_of: vec![machine.host; n],
        start_us: vec![0.0; n],
        time_us: vec![0.0; n],
        why: vec![Why::default(); n],
        alone: alone(&problem, objective),
        problem,
        answer,
    };
    for (task, region) in tasks.regions.iter().enumerate() {
        let device = out.answer.device_of_task[task];
        let slot = out.answer.schedule.tasks[task];
        out.device_of[*region] = device;
        out.start_us[*region] = slot.start_us;
        out.time_us[*region] = slot.end_us - slot.start_us;
        let mut why = why(*region, device, regions, prices, machine, hints, graph);
        add_plans(&mut why, &moved[task], device, out.answer.value);
        why.binds = binds(&out.problem, task, &moved[task], out.answer.value).to_owned();
        out.why[*region] = why;
    }
    // Regions that launch nothing keep their place in the order: behind the latest task before them.
    let mut latest = 0.0f64;
    for region in 0..n {
        match tasks.of_region[region] {
            Some(_) => latest = latest.max(out.start_us[region]),
            None => out.start_us[region] = latest,
        }
    }
    out
}

/// What the whole plan would be with the region elsewhere.
fn add_plans(why: &mut Why, moved: &[Moved], device: usize, value_us: f64) {
    for (d, (choice, moved)) in why.choices.iter_mut().zip(moved).enumerate() {
        choice.barred.clone_from(&moved.barred);
        choice.plan_us = match moved.plan_us {
            _ if d == device => value_us,
            None => 0.0,
            Some(us) => us.unwrap_or(-1.0),
        };
    }
}

fn why(
    region: usize,
    device: usize,
    regions: &Regions,
    prices: &Prices,
    machine: &Machine,
    hints: &BTreeMap<String, i64>,
    graph: &Graph,
) -> Why {
    let row = &prices.rows[region];
    let choices = machine.devices.iter().zip(row).map(|(d, p)| Choice {
        device: d.name.clone(),
        time_us: p.time_us.unwrap_or(-1.0),
        origin: p.origin.clone(),
        ..Choice::default()
    });
    let work = &prices.work[region];
    let moved: f64 = regions.list[region]
        .inputs
        .iter()
        .filter(|v| graph.as_const(**v).is_none())
        .map(|v| bytes_of(graph.ty(*v), hints))
        .sum();
    Why {
        choices: choices.collect(),
        flops: work.flops,
        bytes: work.read_bytes + work.written_bytes,
        reason: reason(device, row, machine, moved),
        ..Why::default()
    }
}

/// The sentence: the fastest device, or what moving the data there would have cost.
fn reason(device: usize, row: &[Price], machine: &Machine, moved_bytes: f64) -> String {
    let name = |d: usize| machine.devices[d].name.as_str();
    let Some(here) = row[device].time_us else { return "pinned".to_owned() };
    let others = (0..row.len()).filter(|d| *d != device).filter_map(|d| row[d].time_us.map(|t| (d, t)));
    match others.min_by(|a, b| a.1.total_cmp(&b.1)) {
        None if row.len() == 1 => format!("{} is the only device", name(device)),
        None => format!("only {} can run it", name(device)),
        Some((other, time)) if time >= here => {
            format!("{} is fastest: {here:.2} us against {time:.2} us on {}", name(device), name(other))
        }
        Some((other, time)) => {
            let hop = machine.path(device, other).map_or(0.0, |p| p.latency_us + p.us_per_byte * moved_bytes);
            format!(
                "{} would compute it in {time:.2} us instead of {here:.2} us, but its {:.1} kB of operands take {hop:.2} us to get there; whole-plan time decided for {}",
                name(other),
                moved_bytes / 1e3,
                name(device)
            )
        }
    }
}
