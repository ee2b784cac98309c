//! What other places would cost: one region moved while all others stay, and everything on one device.
//!
//! The objective of such a plan is that of its list schedule (latency) or its busiest device or link (throughput), so
//! that it is what a plan would take, not an estimate of a difference. The number of plans looked at is bounded by work
//! that is counted.

use partita_place::{Objective, Problem, list_schedule};
use partita_plan::Alone;

/// Most tasks and tensors looked at for one placement; some tenths of a second.
const MAX_LOOKS: usize = 3_000_000;

/// One region somewhere else.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moved {
    /// Objective of the whole plan in microseconds, as if nothing barred it; `None` when nobody looked.
    pub plan_us: Option<Value>,
    /// What bars the region from the device although it could run there; empty when nothing does.
    pub barred: String,
}

/// The objective in microseconds; `None` when the plan cannot exist.
pub type Value = Option<f64>;

/// The objective of a placement, wherever it comes from.
pub fn value_us(problem: &Problem, objective: Objective, device_of: &[usize]) -> Value {
    match objective {
        Objective::Latency => list_schedule(problem, device_of).map(|s| s.makespan_us),
        Objective::Bottleneck => busiest_us(problem, device_of),
    }
}

/// Load of the busiest device or directed link.
fn busiest_us(problem: &Problem, device_of: &[usize]) -> Value {
    let n = problem.devices.len();
    let mut loads = vec![0.0f64; n + n * n];
    for (task, &device) in device_of.iter().enumerate() {
        loads[device] += problem.time_us(task, device)?;
    }
    for (tensor, row) in problem.tensors.iter().enumerate() {
        let from = device_of[row.producer];
        let mut reached = vec![from];
        for to in row.consumers.iter().map(|c| device_of[*c]) {
            if !reached.contains(&to) {
                reached.push(to);
                loads[n + from * n + to] += problem.transfer_us(tensor, from, to)?;
            }
        }
    }
    loads.into_iter().reduce(f64::max)
}

/// Resident bytes on every device.
fn resident(problem: &Problem, device_of: &[usize]) -> Vec<u64> {
    let mut bytes = vec![0u64; problem.devices.len()];
    for (task, &device) in device_of.iter().enumerate() {
        bytes[device] = bytes[device].saturating_add(problem.tasks[task].memory_bytes);
    }
    bytes
}

/// For every task and device what the plan would be with only that task moved; the longest tasks first, until the work
/// is spent.
pub fn moves(problem: &Problem, objective: Objective, device_of: &[usize]) -> Vec<Vec<Moved>> {
    let mut problem = problem.clone();
    let mut device_of = device_of.to_vec();
    let held = resident(&problem, &device_of);
    let readers: usize = problem.tensors.iter().map(|t| t.consumers.len() + 1).sum();
    let mut looks = MAX_LOOKS / (problem.tasks.len() + readers).max(1);
    let mut rows = vec![vec![Moved::default(); problem.devices.len()]; problem.tasks.len()];
    let here_us = |t: &usize| problem.tasks[*t].time_us[device_of[*t]].unwrap_or(0.0);
    let mut order: Vec<usize> = (0..problem.tasks.len()).collect();
    order.sort_by(|a, b| here_us(b).total_cmp(&here_us(a)).then(a.cmp(b)));
    for task in order {
        let pin = problem.tasks[task].pin.take();
        let here = device_of[task];
        for device in (0..problem.devices.len()).filter(|d| *d != here) {
            if problem.tasks[task].time_us[device].is_none() {
                continue;
            }
            rows[task][device].barred = barred(&problem, task, device, pin, held[device]);
            if looks > 0 {
                looks -= 1;
                device_of[task] = device;
                rows[task][device].plan_us = Some(value_us(&problem, objective, &device_of));
                device_of[task] = here;
            }
        }
        problem.tasks[task].pin = pin;
    }
    rows
}

fn barred(problem: &Problem, task: usize, device: usize, pin: Option<usize>, held: u64) -> String {
    let needed = problem.tasks[task].memory_bytes;
    match (pin, problem.devices[device].memory_bytes) {
        (Some(pin), _) if pin != device => format!("pinned to {}", problem.devices[pin].name),
        (_, Some(limit)) if held.saturating_add(needed) > limit => {
            format!("needs {needed} bytes of memory, {} are left", limit.saturating_sub(held))
        }
        _ => String::new(),
    }
}

/// The plan of each device without the others; tasks that are pinned stay where they are.
pub fn alone(problem: &Problem, objective: Objective) -> Vec<Alone> {
    (0..problem.devices.len()).map(|device| alone_on(problem, objective, device)).collect()
}

fn alone_on(problem: &Problem, objective: Objective, device: usize) -> Alone {
    let name = problem.devices[device].name.clone();
    let device_of: Vec<usize> = problem.tasks.iter().map(|t| t.pin.unwrap_or(device)).collect();
    let cannot = (0..device_of.len()).filter(|t| problem.time_us(*t, device_of[*t]).is_none()).count();
    let held = resident(problem, &device_of)[device];
    let short = problem.devices[device].memory_bytes.filter(|limit| *limit < held);
    let value = value_us(problem, objective, &device_of);
    let barred = match (cannot, short, value) {
        (1.., _, _) => format!("it cannot run {cannot} of the operators"),
        (_, Some(limit), _) => format!("it needs {held} bytes for weights and has {limit}"),
        (_, _, None) => "a link is missing".to_owned(),
        _ => String::new(),
    };
    let value_us = value.filter(|_| barred.is_empty()).unwrap_or(-1.0);
    Alone { device: name, value_us, barred }
}

/// The constraint that holds a task where it is; the words of [`partita_plan::Why::binds`].
pub fn binds(problem: &Problem, task: usize, row: &[Moved], value_us: f64) -> &'static str {
    let task = &problem.tasks[task];
    if task.pin.is_some() {
        return "pin";
    }
    if task.time_us.iter().flatten().count() <= 1 {
        return "support";
    }
    let tolerance = 1e-9 * value_us.abs();
    let better = |us: f64| us < value_us - tolerance;
    let plans = || row.iter().filter_map(|m| Some((m.plan_us??, m.barred.is_empty())));
    if plans().any(|(us, free)| free && better(us)) {
        return "search";
    }
    if plans().any(|(us, free)| !free && better(us)) {
        return "memory";
    }
    if row.iter().all(|m| m.plan_us.is_none()) {
        return "";
    }
    if plans().any(|(us, free)| free && us <= value_us + tolerance) { "indifferent" } else { "time" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_place::{CommModel, Device, Link, Task, Tensor};

    /// Two tasks in a row on two devices, the second of which is twice as fast behind a link of 5 us.
    fn pair(memory_bytes: Option<u64>) -> Problem {
        let task = |name: &str| Task {
            name: name.into(),
            time_us: vec![Some(8.0), Some(4.0)],
            memory_bytes: 10,
            colocate: None,
            pin: None,
        };
        let device = |name: &str, memory_bytes| Device { name: name.into(), memory_bytes };
        let link = Some(Link { latency_us: 5.0, us_per_byte: 0.0 });
        Problem {
            name: "pair".into(),
            devices: vec![device("a", None), device("b", memory_bytes)],
            tasks: vec![task("one"), task("two")],
            tensors: vec![Tensor { name: "t".into(), bytes: 1, producer: 0, consumers: vec![1] }],
            links: vec![vec![None, link], vec![link, None]],
            comm: CommModel::Links,
        }
    }

    #[test]
    fn moves_are_whole_plans() {
        let problem = pair(None);
        let rows = moves(&problem, Objective::Latency, &[0, 0]);
        // 8 here, 5 for the way, 4 there; and the other way round.
        assert_eq!([rows[0][1].plan_us, rows[1][1].plan_us], [Some(Some(17.0)), Some(Some(17.0))]);
        assert_eq!(binds(&problem, 0, &rows[0], 16.0), "time");
        assert_eq!(binds(&problem, 0, &rows[0], 18.0), "search");
        assert_eq!(moves(&problem, Objective::Bottleneck, &[0, 0])[1][1].plan_us, Some(Some(8.0)));
    }

    #[test]
    fn memory_and_pins_bar_but_are_priced() {
        let mut problem = pair(Some(5));
        let rows = moves(&problem, Objective::Bottleneck, &[0, 0]);
        assert!(rows[1][1].barred.contains("needs 10 bytes"), "{:?}", rows[1]);
        assert_eq!(binds(&problem, 1, &rows[1], 16.0), "memory");
        problem.tasks[1].pin = Some(0);
        let rows = moves(&problem, Objective::Latency, &[0, 0]);
        assert_eq!(rows[1][1].barred, "pinned to a");
        assert_eq!(rows[1][1].plan_us, Some(Some(17.0)));
        assert_eq!(binds(&problem, 1, &rows[1], 16.0), "pin");
    }

    #[test]
    fn one_device_makes_a_plan_or_says_why_not() {
        let values: Vec<f64> = alone(&pair(None), Objective::Latency).iter().map(|a| a.value_us).collect();
        assert_eq!(values, [16.0, 8.0]);
        let mut problem = pair(Some(15));
        assert!(alone(&problem, Objective::Latency)[1].barred.contains("20 bytes"));
        problem.tasks[0].time_us[1] = None;
        assert!(alone(&problem, Objective::Latency)[1].barred.contains("1 of the operators"));
    }
}
