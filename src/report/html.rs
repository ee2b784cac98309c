//! The report as one HTML file that opens without a network: the certificate, who runs what when, memory, transfers, the
//! critical path, and why every step is where it is.
//!
//! The data are gathered here, `report.html` says how they look, and the template engine escapes every text: names come
//! from models and may hold anything.

use crate::error::{Error, Result};
use crate::report::charts::{Gantt, MemoryChart, gantt, memory, time_text};
use crate::report::dot::size_text;
use crate::report::explain::{constraint, kernel_of, why_of};
use crate::report::measured::Measured;
use crate::report::stages::value_bytes;
use crate::report::timeline::{self, At, Timeline};
use crate::report::{program, summary};
use minijinja::{Environment, UndefinedBehavior};
use partita_plan::letters::visible;
use partita_plan::text::type_text;
use partita_plan::{Choice, Plan, Provenance, Queue, Step};
use serde::Serialize;

const TEMPLATE: &str = include_str!("report.html");
/// Most rows of a table.
const MAX_ROWS: usize = 1500;
/// Plans of single devices that take longer than so many times the plan are not drawn to scale.
const CUT_ABOVE: f64 = 3.0;
/// Width of the bars of the certificate and of utilization.
const BAR_PX: f64 = 420.0;

#[derive(Serialize)]
struct Page {
    title: String,
    facts: Vec<(&'static str, String)>,
    cards: Vec<(&'static str, String, String)>,
    certificate: Vec<Scaled>,
    alone: String,
    unused: Vec<String>,
    program: String,
    parts: Vec<Part>,
}

/// A bar with a name and a figure.
#[derive(Serialize)]
struct Scaled {
    name: String,
    width: f64,
    class: &'static str,
    text: String,
}

#[derive(Serialize)]
struct Part {
    title: String,
    gantt: Gantt,
    utilization: Vec<Scaled>,
    memory: Vec<MemoryChart>,
    transfers: Vec<[String; 7]>,
    transfers_left_out: usize,
    critical: Vec<[String; 5]>,
    critical_left_out: usize,
    critical_sum: String,
    measured: Vec<[String; 6]>,
    measured_sum: String,
    steps: Vec<Row>,
    steps_left_out: usize,
}

#[derive(Serialize)]
struct Row {
    start: String,
    time: String,
    slack: String,
    critical: bool,
    device: String,
    kernel: String,
    name: String,
    covers: String,
    reason: String,
    binds: String,
    choices: Vec<[String; 4]>,
}

/// The HTML text of a plan, with what was measured where that is given. The same plan gives the same bytes.
///
/// # Errors
/// `F019` when the template fails, which would be a mistake in this program.
pub fn render(plan: &Plan, measured: Option<&Measured>) -> Result<String> {
    let failed = |e: minijinja::Error| {
        Error::new("F019", format!("the report cannot be made: {e:#}"), "please report this")
    };
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.add_template("report.html", TEMPLATE).map_err(failed)?;
    let template = environment.get_template("report.html").map_err(failed)?;
    template.render(page(plan, measured)).map_err(failed)
}

fn page(plan: &Plan, measured: Option<&Measured>) -> Page {
    let p = plan.provenance.clone().unwrap_or_default();
    let parts = plan.parts();
    let titled = parts.len() > 1;
    let part = |(n, part): (usize, &Plan)| {
        let title = if titled { format!("Part {n}: {}", visible(&part.name)) } else { String::new() };
        self::part(part, title, measured, &p)
    };
    Page {
        title: visible(&plan.name).into_owned(),
        facts: facts(plan, &p),
        cards: cards(plan, &p, measured),
        certificate: certificate(&p),
        alone: summary::splitting(plan).map(|s| visible(&s).into_owned()).unwrap_or_default(),
        unused: (0..plan.devices.len())
            .filter_map(|d| summary::unused(plan, d))
            .map(|s| visible(&s).into_owned())
            .collect(),
        program: plan.program.as_ref().map(program::sentence).unwrap_or_default(),
        parts: parts.iter().enumerate().map(part).collect(),
    }
}

fn facts(plan: &Plan, p: &Provenance) -> Vec<(&'static str, String)> {
    let clean = |text: &str| visible(text).into_owned();
    let device = |d: &partita_plan::Device| {
        let profile = if d.profile.is_empty() { String::new() } else { format!(", {}", d.profile) };
        format!("{} ({}{profile})", d.name, d.driver)
    };
    let sizes = plan.parts().iter().flat_map(|p| &p.symbols).map(|s| format!("{} = {}", s.name, s.likely));
    let mut sizes: Vec<String> = sizes.collect();
    sizes.sort();
    sizes.dedup();
    let mut rows = vec![
        ("machine", clean(&p.machine)),
        ("devices", clean(&plan.devices.iter().map(device).collect::<Vec<_>>().join(", "))),
        ("objective", clean(&p.objective)),
        ("operators", format!("{} as read, {} after optimization", p.nodes_before, p.nodes_after)),
        ("weights", size_text(plan.weight_bytes as f64)),
        ("compiler", clean(&p.compiler)),
    ];
    if !sizes.is_empty() {
        rows.insert(3, ("sizes taken", clean(&sizes.join(", "))));
    }
    rows
}

fn cards(plan: &Plan, p: &Provenance, measured: Option<&Measured>) -> Vec<(&'static str, String, String)> {
    let gap = if p.value_us > 0.0 { 100.0 * (p.value_us - p.bound_us) / p.value_us } else { 0.0 };
    let queues = || plan.parts().iter().flat_map(|p| &p.queues);
    let count = |copies: bool| queues().filter(|q| q.copies == copies).map(|q| q.steps.len()).sum::<usize>();
    let copies = queues().filter(|q| q.copies).fold(0.0, |sum, q| sum + timeline::busy_us(q));
    let used = summary::used(plan);
    let mut out = vec![
        ("predicted", time_text(p.value_us), p.objective.clone()),
        ("proven bound", time_text(p.bound_us), "no plan is shorter".to_owned()),
        ("gap", format!("{gap:.1} %"), p.status.clone()),
        ("steps", count(false).to_string(), format!("on {used} of {} devices", plan.devices.len())),
        ("transfers", count(true).to_string(), time_text(copies)),
    ];
    if let Some(measured) = measured {
        let (us, of) =
            measured.end_us().map_or((measured.total_us(), "all steps"), |us| (us, "the whole run"));
        out.push((measured.clock, time_text(us), of.to_owned()));
    }
    out
}

/// The value beside its bound and beside the plans of single devices.
fn certificate(p: &Provenance) -> Vec<Scaled> {
    let mut rows = vec![
        ("this plan".to_owned(), p.value_us, "value", String::new()),
        ("proven bound".to_owned(), p.bound_us, "bound", format!(" ({})", visible(&p.solver))),
    ];
    for alone in &p.alone {
        rows.push((
            format!("{} alone", visible(&alone.device)),
            alone.value_us,
            "alone",
            visible(&alone.barred).into_owned(),
        ));
    }
    // A device that is far slower would make all other bars vanish; its bar is cut.
    let longest = rows.iter().map(|r| r.1).fold(f64::MIN_POSITIVE, f64::max);
    let most = if p.value_us > 0.0 { longest.min(CUT_ABOVE * p.value_us) } else { longest };
    let bar = |(name, us, class, note): (String, f64, &'static str, String)| {
        let cut = if us > most { " (the bar is cut)" } else { "" };
        let text = if us < 0.0 { note.clone() } else { format!("{}{cut}{note}", time_text(us)) };
        Scaled { name, width: width(us.max(0.0) / most), class, text }
    };
    rows.into_iter().map(bar).collect()
}

fn width(share: f64) -> f64 {
    (share.clamp(0.0, 1.0) * BAR_PX * 100.0).round() / 100.0
}

fn part(plan: &Plan, title: String, measured: Option<&Measured>, p: &Provenance) -> Part {
    let timeline = Timeline::new(plan);
    let order = timeline::order(plan);
    let copies: Vec<At> = order.iter().copied().filter(|at| plan.queues[at.0].copies).collect();
    let steps: Vec<At> = order.iter().copied().filter(|at| !plan.queues[at.0].copies).collect();
    let clean = |text: &str| visible(text).into_owned();
    Part {
        title,
        gantt: gantt(plan, &timeline, measured),
        utilization: plan.queues.iter().map(|q| utilization(q, timeline.end_us)).collect(),
        memory: memory(plan, timeline.end_us),
        transfers: copies
            .iter()
            .take(MAX_ROWS)
            .map(|at| transfer(plan, &timeline, *at).map(|t| clean(&t)))
            .collect(),
        transfers_left_out: copies.len().saturating_sub(MAX_ROWS),
        critical: timeline
            .critical
            .iter()
            .take(MAX_ROWS)
            .map(|at| critical(plan, *at).map(|t| clean(&t)))
            .collect(),
        critical_left_out: timeline.critical.len().saturating_sub(MAX_ROWS),
        critical_sum: critical_sum(plan, &timeline),
        measured: measured.map(|m| compared(plan, m)).unwrap_or_default(),
        measured_sum: measured.map(|m| compared_sum(plan, m)).unwrap_or_default(),
        steps: steps.iter().take(MAX_ROWS).map(|at| row(plan, &timeline, *at, p)).collect(),
        steps_left_out: steps.len().saturating_sub(MAX_ROWS),
    }
}

fn utilization(queue: &Queue, end_us: f64) -> Scaled {
    let busy = timeline::busy_us(queue);
    let share = busy / end_us.max(f64::MIN_POSITIVE);
    let text = format!("{:.1} %: {} steps, {}", 100.0 * share, queue.steps.len(), time_text(busy));
    let class = if queue.copies { "link" } else { "value" };
    Scaled { name: visible(&queue.name).into_owned(), width: width(share), class, text }
}

fn at_step(plan: &Plan, at: At) -> (&Queue, &Step) {
    (&plan.queues[at.0], &plan.queues[at.0].steps[at.1])
}

/// Link, value, type, bytes, start, time, rate.
fn transfer(plan: &Plan, timeline: &Timeline, at: At) -> [String; 7] {
    let (queue, step) = at_step(plan, at);
    let value = step.outputs.first().and_then(|v| plan.values.get(*v as usize));
    let bytes = value.map_or(0.0, |v| value_bytes(plan, v));
    let critical = if timeline.is_critical(at) { " (critical)" } else { "" };
    let rate =
        if step.time_us > 0.0 { format!("{:.2} GB/s", bytes / step.time_us / 1e3) } else { String::new() };
    [
        queue.name.clone(),
        format!("{}{critical}", step.name.strip_prefix("copy ").unwrap_or(&step.name)),
        value.map(|v| type_text(plan, v)).unwrap_or_default(),
        size_text(bytes),
        time_text(step.start_us),
        time_text(step.time_us),
        rate,
    ]
}

/// Start, time, waited before, queue, step.
fn critical(plan: &Plan, at: At) -> [String; 5] {
    let (queue, step) = at_step(plan, at);
    let kernel = if queue.copies { "transfer" } else { kernel_of(plan, step) };
    [
        time_text(step.start_us),
        time_text(step.time_us),
        time_text(waited(plan, at)),
        queue.name.clone(),
        format!("{} ({kernel})", step.name),
    ]
}

/// Microseconds between the end of what a step waited for and its start.
fn waited(plan: &Plan, at: At) -> f64 {
    let ready = timeline::held_by(plan, at)
        .and_then(|b| timeline::step(plan, b))
        .map_or(0.0, |s| s.start_us + s.time_us);
    (timeline::step(plan, at).map_or(0.0, |s| s.start_us) - ready).max(0.0)
}

fn critical_sum(plan: &Plan, timeline: &Timeline) -> String {
    let sum = |copies: bool| {
        let own = timeline.critical.iter().filter(|at| plan.queues[at.0].copies == copies);
        own.fold(0.0, |sum, at| sum + at_step(plan, *at).1.time_us)
    };
    let (work, moved) = (sum(false), sum(true));
    let share = |us: f64| 100.0 * us / timeline.end_us.max(f64::MIN_POSITIVE);
    let idle = (timeline.end_us - work - moved).max(0.0);
    format!(
        "{} steps: {} of work ({:.1} %), {} of transfers ({:.1} %), {} between them ({:.1} %).",
        timeline.critical.len(),
        time_text(work),
        share(work),
        time_text(moved),
        share(moved),
        time_text(idle),
        share(idle)
    )
}

/// Predicted and measured of each step, those that differ most first.
fn compared(plan: &Plan, measured: &Measured) -> Vec<[String; 6]> {
    let mut rows: Vec<(f64, [String; 6])> = Vec::new();
    for (queue, spans) in plan.queues.iter().zip(&measured.queues) {
        for (step, span) in queue.steps.iter().zip(spans) {
            let off = span.time_us - step.time_us;
            let kernel = if queue.copies { "transfer" } else { kernel_of(plan, step) };
            let ratio = if span.time_us > 0.0 {
                format!("{:.2}", step.time_us / span.time_us)
            } else {
                "-".to_owned()
            };
            let name = format!("{} ({kernel})", step.name);
            let texts = [time_text(step.time_us), time_text(span.time_us), format!("{off:+.2} us"), ratio];
            let [predicted, took, off_text, ratio] = texts;
            let cells = [predicted, took, off_text, ratio, queue.name.clone(), name];
            rows.push((off.abs(), cells.map(|t| visible(&t).into_owned())));
        }
    }
    rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    rows.into_iter().take(MAX_ROWS).map(|r| r.1).collect()
}

fn compared_sum(plan: &Plan, measured: &Measured) -> String {
    let predicted = plan.queues.iter().fold(0.0, |sum, q| sum + timeline::busy_us(q));
    let took = measured.total_us();
    let end =
        measured.end_us().map(|us| format!("; the whole run took {}", time_text(us))).unwrap_or_default();
    let ratio = predicted / took.max(f64::MIN_POSITIVE);
    format!(
        "All steps: predicted {}, {} {} (ratio {ratio:.2}){end}.",
        time_text(predicted),
        measured.clock,
        time_text(took)
    )
}

fn row(plan: &Plan, timeline: &Timeline, at: At, p: &Provenance) -> Row {
    let (queue, step) = at_step(plan, at);
    let device = plan.devices.get(queue.device as usize).map_or("?", |d| d.name.as_str());
    let why = why_of(queue, at.1);
    let clean = |text: &str| visible(text).into_owned();
    let mut covers: Vec<&str> = step.covers.iter().map(String::as_str).collect();
    covers.retain(|name| *name != step.name);
    let choices = step.why.as_ref().map(|w| w.choices.iter().map(|c| choice(c, p)).collect());
    Row {
        start: time_text(step.start_us),
        time: time_text(step.time_us),
        slack: time_text(timeline.slack_us(at)),
        critical: timeline.is_critical(at),
        device: clean(device),
        kernel: clean(kernel_of(plan, step)),
        name: clean(&step.name),
        covers: clean(&covers.join(", ")),
        reason: why.map(|w| clean(&w.reason)).unwrap_or_default(),
        binds: why.map(|w| clean(&constraint(w, device))).unwrap_or_default(),
        choices: choices.unwrap_or_default(),
    }
}

/// Device, time, whole plan, origin.
fn choice(choice: &Choice, p: &Provenance) -> [String; 4] {
    let time = if choice.time_us < 0.0 { "cannot".to_owned() } else { time_text(choice.time_us) };
    let plan = match choice.plan_us {
        us if us > 0.0 && p.value_us > 0.0 => {
            format!("{} ({:+.1} %)", time_text(us), 100.0 * (us / p.value_us - 1.0))
        }
        us if us > 0.0 => time_text(us),
        _ => "-".to_owned(),
    };
    let barred = if choice.barred.is_empty() { String::new() } else { format!("; {}", choice.barred) };
    [choice.device.clone(), time, plan, format!("{}{barred}", choice.origin)]
        .map(|t| visible(&t).into_owned())
}
