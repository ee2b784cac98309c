//! What a run took, step by step, from a trace or a profile that `bench` and `run` write.

use crate::error::{Error, Result};
use partita_plan::{Plan, Step};
use serde_json::Value;
use std::path::Path;

/// Largest file that is read.
const MAX_BYTES: u64 = 1 << 28;

/// One step as measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Microseconds from the start of the run; a profile does not say.
    pub start_us: Option<f64>,
    pub time_us: f64,
}

/// A span per queue and step of a static plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// What kept the time: `measured`, or `simulated` for traces of plans with simulated devices, which take as long on
    /// the clock of this computer as a CPU needs to imitate them.
    pub clock: &'static str,
    pub queues: Vec<Vec<Span>>,
}

impl Measured {
    /// Microseconds of all steps.
    pub fn total_us(&self) -> f64 {
        self.queues.iter().flatten().fold(0.0, |sum, s| sum + s.time_us)
    }

    /// End of the last step, where starts are known.
    pub fn end_us(&self) -> Option<f64> {
        let ends = self.queues.iter().flatten().map(|s| Some(s.start_us? + s.time_us));
        ends.collect::<Option<Vec<f64>>>()?.into_iter().reduce(f64::max)
    }

    /// Reads `file` for `plan`: a trace (`bench --trace`, `run --trace`) or the output of `bench --profile --json`.
    ///
    /// # Errors
    /// `F017` when it is neither, `F018` when its steps are not those of the plan.
    pub fn read(file: &Path, plan: &Plan) -> Result<Self> {
        let bytes = std::fs::metadata(file).map_err(|e| Error::io("read", file, &e))?.len();
        if bytes > MAX_BYTES {
            return Err(strange(&format!("it has {bytes} bytes, at most {MAX_BYTES} are read")).in_file(file));
        }
        let text = std::fs::read_to_string(file).map_err(|e| Error::io("read", file, &e))?;
        Self::parse(&text, plan).map_err(|e| e.in_file(file))
    }

    fn parse(text: &str, plan: &Plan) -> Result<Self> {
        // `bench --json` may print other lines before the object.
        let last = text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default();
        let json: Value = serde_json::from_str(text)
            .or_else(|_| serde_json::from_str(last))
            .map_err(|e| strange(&format!("it is no JSON: {e}")))?;
        if plan.program.is_some() {
            return Err(other("the plan is a program, whose steps are not traced"));
        }
        if let Some(events) = json["traceEvents"].as_array() {
            return of_trace(events, plan);
        }
        match json["profile"]["steps"].as_array() {
            Some(steps) => of_profile(steps, plan),
            None => Err(strange("it has neither traceEvents nor profile.steps")),
        }
    }
}

fn strange(message: &str) -> Error {
    Error::new("F017", message, "give what bench --trace FILE or bench --profile --json writes")
}

fn other(message: &str) -> Error {
    Error::new("F018", message, "measure the plan that is reported")
}

/// Events of process 1 are measured, those of process 2 by the simulated clock; their threads are the queues.
fn of_trace(events: &[Value], plan: &Plan) -> Result<Measured> {
    let simulated = plan.devices.iter().any(|d| d.driver == "sim");
    let (process, clock) = if simulated { (2, "simulated") } else { (1, "measured") };
    let mut queues: Vec<Vec<Span>> = vec![Vec::new(); plan.queues.len()];
    let measured = events.iter().filter(|e| e["ph"] == "X" && e["pid"] == process);
    for event in measured {
        let queue = event["tid"].as_u64().and_then(|q| usize::try_from(q).ok());
        let Some(spans) = queue.and_then(|q| queues.get_mut(q)) else {
            return Err(other("it has a queue that the plan has not"));
        };
        let step = queue.and_then(|q| plan.queues[q].steps.get(spans.len()));
        spans.push(span(step, event, "ts", "dur")?);
    }
    complete(queues, clock, plan)
}

/// Steps in the order of the plan.
fn of_profile(steps: &[Value], plan: &Plan) -> Result<Measured> {
    let mut rows = steps.iter();
    let mut queues = Vec::new();
    for queue in &plan.queues {
        let spans =
            queue.steps.iter().zip(rows.by_ref()).map(|(step, row)| span(Some(step), row, "", "time_us"));
        queues.push(spans.collect::<Result<Vec<Span>>>()?);
    }
    if rows.next().is_some() {
        return Err(other("it has more steps than the plan"));
    }
    complete(queues, "measured", plan)
}

fn span(step: Option<&Step>, row: &Value, start: &str, time: &str) -> Result<Span> {
    let step = step.ok_or_else(|| other("it has more steps than the plan"))?;
    if row["name"].as_str() != Some(step.name.as_str()) {
        return Err(other(&format!("it has {} where the plan has {}", row["name"], step.name)));
    }
    let number = |key: &str| row[key].as_f64().filter(|us| us.is_finite() && *us >= 0.0);
    let time_us = number(time).ok_or_else(|| strange(&format!("{} has no {time}", step.name)))?;
    Ok(Span { start_us: number(start), time_us })
}

fn complete(queues: Vec<Vec<Span>>, clock: &'static str, plan: &Plan) -> Result<Measured> {
    let same = queues.iter().zip(&plan.queues).all(|(spans, queue)| spans.len() == queue.steps.len());
    if same { Ok(Measured { clock, queues }) } else { Err(other("it has fewer steps than the plan")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_plan::Queue;

    fn plan() -> Plan {
        let step = |name: &str| Step { name: name.into(), ..Step::default() };
        Plan {
            queues: vec![Queue { steps: vec![step("a"), step("b")], ..Queue::default() }],
            ..Plan::default()
        }
    }

    #[test]
    fn traces_and_profiles_are_read() {
        let event = |name: &str, ts: f64| {
            format!(r#"{{"ph":"X","pid":1,"tid":0,"name":"{name}","ts":{ts},"dur":2.5}}"#)
        };
        let trace = format!(r#"{{"traceEvents":[{},{}]}}"#, event("a", 0.0), event("b", 3.0));
        let measured = Measured::parse(&trace, &plan()).unwrap();
        assert_eq!((measured.total_us(), measured.end_us()), (5.0, Some(5.5)));
        let profile = r#"{"profile":{"steps":[{"name":"a","time_us":1},{"name":"b","time_us":2}]}}"#;
        let measured = Measured::parse(&format!("said first\n{profile}\n"), &plan()).unwrap();
        assert_eq!((measured.total_us(), measured.end_us()), (3.0, None));
    }

    #[test]
    fn others_are_refused() {
        let code = |text: &str| Measured::parse(text, &plan()).unwrap_err().diags[0].code;
        assert_eq!(code("x"), "F017");
        assert_eq!(code("{}"), "F017");
        assert_eq!(code(r#"{"traceEvents":[]}"#), "F018");
        assert_eq!(code(r#"{"traceEvents":[{"ph":"X","pid":1,"tid":9}]}"#), "F018");
        assert_eq!(code(r#"{"profile":{"steps":[{"name":"c","time_us":1}]}}"#), "F018");
        assert_eq!(code(r#"{"profile":{"steps":[{"name":"a","time_us":-1}]}}"#), "F017");
    }
}
