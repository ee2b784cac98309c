//! What ran when, as a Chrome trace (opens in chrome://tracing and Perfetto).

use partita_runtime::{Session, TraceRow};
use serde_json::{Value, json};

/// The last run: measured times as process 1, the simulated clock (where simulated devices take the time of
/// their profiles) as process 2, the plan's prediction as process 3.
pub fn chrome(session: &Session) -> String {
    let plan = session.plan();
    let mut events = Vec::new();
    for (pid, name) in [(1, "measured"), (2, "simulated clock"), (3, "predicted")] {
        events.push(json!({ "ph": "M", "pid": pid, "name": "process_name", "args": { "name": name } }));
        for (tid, queue) in plan.queues.iter().enumerate() {
            let args = json!({ "name": queue.name });
            events.push(json!({ "ph": "M", "pid": pid, "tid": tid, "name": "thread_name", "args": args }));
        }
    }
    events.extend(session.trace().iter().map(|r| event(1, r)));
    events.extend(session.timeline().rows.iter().map(|r| event(2, r)));
    for (tid, queue) in plan.queues.iter().enumerate() {
        events.extend(queue.steps.iter().map(|s| span(3, tid, &s.name, s.start_us, s.time_us, s.time_us)));
    }
    format!("{}\n", json!({ "traceEvents": events, "displayTimeUnit": "ns" }))
}

fn event(pid: u32, row: &TraceRow) -> Value {
    span(pid, row.queue, &row.name, row.start_us, row.end_us - row.start_us, row.predicted_us)
}

fn span(pid: u32, tid: usize, name: &str, start_us: f64, time_us: f64, predicted_us: f64) -> Value {
    json!({
        "ph": "X", "pid": pid, "tid": tid, "name": name, "ts": start_us, "dur": time_us,
        "args": { "predicted_us": predicted_us },
    })
}
