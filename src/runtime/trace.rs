//! When steps ran: measured spans, and a simulated clock for plans with devices nobody here has.
//!
//! This file and `session` are the only places of the runtime that read a clock.

use partita_plan::{Plan, Queue, Step};
use std::time::Instant;

/// When a step ran, in microseconds from the start of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Span {
    /// Start in microseconds.
    pub start_us: f64,
    /// End in microseconds.
    pub end_us: f64,
}

/// One step of a trace or a timeline.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceRow {
    /// Index of the queue in the plan.
    pub queue: usize,
    /// Index of the step in its queue.
    pub step: usize,
    /// Name of the step.
    pub name: String,
    /// Start in microseconds from the start of the run.
    pub start_us: f64,
    /// End in microseconds from the start of the run.
    pub end_us: f64,
    /// What the plan predicted for the duration, in microseconds.
    pub predicted_us: f64,
}

/// A run on the simulated clock.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline {
    /// Steps by queue, in order.
    pub rows: Vec<TraceRow>,
    /// End of the last step in microseconds.
    pub makespan_us: f64,
}

impl Timeline {
    /// Runs the queues of a checked plan on a simulated clock.
    ///
    /// Steps on a device with `simulated[device]`, and transfers from or to one, last as long as the plan
    /// predicts. Others last as long as measured in `spans` (one list per queue); where that is missing, as
    /// predicted. A step starts when the step before it in its queue and all that it waits for have ended.
    pub fn simulate(plan: &Plan, simulated: &[bool], spans: &[Vec<Span>]) -> Self {
        let mut ends: Vec<Vec<f64>> = plan.queues.iter().map(|q| Vec::with_capacity(q.steps.len())).collect();
        let mut rows: Vec<Vec<TraceRow>> = vec![Vec::new(); plan.queues.len()];
        let mut moved = true;
        while moved {
            moved = false;
            for (index, queue) in plan.queues.iter().enumerate() {
                while let Some((at, step, start)) = next(queue, index, &ends) {
                    let measured = spans.get(index).and_then(|s| s.get(at));
                    let measured = measured.filter(|_| !is_simulated(queue, simulated));
                    let end = start + measured.map_or(step.time_us, |s| s.end_us - s.start_us);
                    ends[index].push(end);
                    rows[index].push(row(index, at, step, Span { start_us: start, end_us: end }));
                    moved = true;
                }
            }
        }
        let makespan_us = ends.iter().filter_map(|q| q.last()).fold(0.0, |most: f64, &end| most.max(end));
        Self { rows: rows.into_iter().flatten().collect(), makespan_us }
    }
}

/// The next step of a queue and its start, once everything before it has ended.
fn next<'a>(queue: &'a Queue, index: usize, ends: &[Vec<f64>]) -> Option<(usize, &'a Step, f64)> {
    let at = ends[index].len();
    let step = queue.steps.get(at)?;
    let mut start = ends[index].last().copied().unwrap_or(0.0);
    for wait in step.waits.iter().filter(|w| w.steps > 0) {
        let end = ends.get(wait.queue as usize)?.get(wait.steps as usize - 1)?;
        start = start.max(*end);
    }
    Some((at, step, start))
}

fn is_simulated(queue: &Queue, simulated: &[bool]) -> bool {
    let device = |d: u32| simulated.get(d as usize).copied().unwrap_or(false);
    device(queue.device) || (queue.copies && device(queue.from))
}

fn row(queue: usize, at: usize, step: &Step, span: Span) -> TraceRow {
    TraceRow {
        queue,
        step: at,
        name: step.name.clone(),
        start_us: span.start_us,
        end_us: span.end_us,
        predicted_us: step.time_us,
    }
}

/// Measured spans as rows.
pub(crate) fn measured_rows(plan: &Plan, spans: &[Vec<Span>]) -> Vec<TraceRow> {
    let rows = |(index, queue): (usize, &Queue)| -> Vec<TraceRow> {
        let spans = spans.get(index).map_or(&[][..], Vec::as_slice);
        let steps = queue.steps.iter().zip(spans).enumerate();
        steps.map(|(at, (step, span))| row(index, at, step, *span)).collect()
    };
    plan.queues.iter().enumerate().flat_map(rows).collect()
}

/// Records spans of one queue into memory reserved beforehand; does nothing without it.
#[derive(Default)]
pub(crate) struct Recorder {
    run: Option<Instant>,
    spans: Vec<Span>,
    steps: usize,
}

impl Recorder {
    /// Room for `steps` steps; 0 switches recording off.
    pub(crate) fn new(steps: usize) -> Self {
        Self { run: None, spans: Vec::with_capacity(steps), steps }
    }

    /// The moment that a run starts.
    pub(crate) fn clock() -> Instant {
        Instant::now()
    }

    /// Forgets the last run.
    pub(crate) fn begin(&mut self, run: Instant) {
        self.spans.clear();
        self.run = (self.steps > 0).then_some(run);
    }

    /// Microseconds since the run started; 0 when switched off.
    pub(crate) fn now(&self) -> f64 {
        self.run.map_or(0.0, |run| run.elapsed().as_secs_f64() * 1e6)
    }

    /// Ends the step that started at `start_us`.
    pub(crate) fn record(&mut self, start_us: f64) {
        if self.run.is_some() && self.spans.len() < self.steps {
            let end_us = self.now();
            self.spans.push(Span { start_us, end_us });
        }
    }

    pub(crate) fn spans(&self) -> &[Span] {
        &self.spans
    }
}
