//! The solution file of the text form: a header, one line per task, one per transfer.
//!
//! ```text
//! solution toy
//! objective latency
//! value 12.5
//! lower_bound 12.5 path
//! status optimal
//! solver "earliest finish"
//! task conv gpu 10 13            # task device start_us end_us
//! transfer y gpu cpu 13 23.4     # tensor from to start_us end_us
//! ```

use crate::answer::{Answer, Objective};
use crate::problem::Problem;
use crate::text::quote;
use std::fmt::Write;

/// Prints the solution file.
pub fn print(p: &Problem, objective: Objective, answer: &Answer) -> String {
    let word = match objective {
        Objective::Latency => "latency",
        Objective::Bottleneck => "throughput",
    };
    let mut out = format!("solution {}\nobjective {word}\n", quote(&p.name));
    let bound = format_args!(
        "value {}\nlower_bound {} {}",
        answer.value,
        answer.lower_bound,
        quote(answer.bound_kind)
    );
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{bound}");
    let _ = writeln!(out, "status {}\nsolver {}", answer.status.word(), quote(&answer.solver));
    for ((task, &d), slot) in p.tasks.iter().zip(&answer.device_of_task).zip(&answer.schedule.tasks) {
        let (name, device) = (quote(&task.name), quote(&p.devices[d].name));
        let _ = writeln!(out, "task {name} {device} {} {}", slot.start_us, slot.end_us);
    }
    for t in &answer.schedule.transfers {
        let (name, from) = (quote(&p.tensors[t.tensor].name), quote(&p.devices[t.from].name));
        let to = quote(&p.devices[t.to].name);
        let _ = writeln!(out, "transfer {name} {from} {to} {} {}", t.start_us, t.end_us);
    }
    out
}
