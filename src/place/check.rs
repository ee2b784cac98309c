//! An independent checker: re-derives every constraint and the value of an answer from the problem alone.
//!
//! Shares no code with the solvers or the scheduler; only the data types are common.

use crate::answer::{Answer, Objective};
use crate::problem::{CommModel, Problem};
use std::collections::{BTreeMap, BTreeSet};

/// Relative and absolute slack for comparing times.
const SLACK: f64 = 1e-6;

/// Something an answer breaks, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What it is about: a task, a tensor, a device or the answer.
    pub place: String,
    /// One sentence.
    pub message: String,
}

/// All violations of an answer; empty when it is right.
pub fn check(p: &Problem, objective: Objective, answer: &Answer) -> Vec<Violation> {
    let mut found = Findings { p, device: &answer.device_of_task, list: Vec::new() };
    let n = p.tasks.len();
    let k = p.devices.len();
    if answer.device_of_task.len() != n || answer.device_of_task.iter().any(|&d| d >= k) {
        found.say("answer", "it must name one existing device per task");
        return found.list;
    }
    found.candidates();
    found.colocation();
    found.memory();
    if answer.schedule.tasks.len() != n {
        found.say("answer", "the schedule must have one slot per task");
        return found.list;
    }
    found.durations(answer);
    found.transfers(answer);
    found.precedence(answer);
    found.overlaps(answer);
    let ends = answer.schedule.tasks.iter().map(|s| s.end_us).fold(0.0, f64::max);
    if differs(ends, answer.schedule.makespan_us) {
        found.say("answer", "the makespan is not the last end of a task");
    }
    let value = match objective {
        Objective::Latency => ends,
        Objective::Bottleneck => bottleneck(p, &answer.device_of_task),
    };
    if differs(value, answer.value) {
        found.say("answer", &format!("the value is {value}, not {}", answer.value));
    }
    if answer.lower_bound > answer.value * (1.0 + SLACK) + SLACK {
        found.say("answer", "the lower bound is above the value");
    }
    found.list
}

/// The bottleneck of a placement, from its definition.
pub fn bottleneck(p: &Problem, device: &[usize]) -> f64 {
    let mut device_us = vec![0.0f64; p.devices.len()];
    let mut link_us: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    for (task, &d) in p.tasks.iter().zip(device) {
        device_us[d] += task.time_us.get(d).copied().flatten().unwrap_or(f64::INFINITY);
    }
    for (x, tensor) in p.tensors.iter().enumerate() {
        let home = device[tensor.producer];
        let mut away: BTreeSet<usize> = tensor.consumers.iter().map(|&c| device[c]).collect();
        away.remove(&home);
        match &p.comm {
            CommModel::Links => {
                for b in away {
                    let us = p.links[home][b]
                        .map_or(f64::INFINITY, |l| l.latency_us + l.us_per_byte * tensor.bytes as f64);
                    *link_us.entry((home, b)).or_insert(0.0) += us;
                }
            }
            CommModel::Endpoint { cost_us, charged } => {
                if charged[home] && !away.is_empty() {
                    device_us[home] += cost_us[x];
                }
                for b in away {
                    device_us[b] += if charged[b] { cost_us[x] } else { 0.0 };
                }
            }
        }
    }
    device_us.into_iter().chain(link_us.into_values()).fold(0.0, f64::max)
}

fn differs(a: f64, b: f64) -> bool {
    a.is_nan() || b.is_nan() || (a - b).abs() > SLACK * (1.0 + a.abs().max(b.abs()))
}

/// Whether `a` is before `b` by more than rounding.
fn before(a: f64, b: f64) -> bool {
    a < b - SLACK * (1.0 + b.abs())
}

struct Findings<'a> {
    p: &'a Problem,
    device: &'a [usize],
    list: Vec<Violation>,
}

impl Findings<'_> {
    fn say(&mut self, place: &str, message: &str) {
        self.list.push(Violation { place: place.to_owned(), message: message.to_owned() });
    }

    fn candidates(&mut self) {
        for (task, &d) in self.p.tasks.iter().zip(self.device) {
            if task.time_us[d].is_none() {
                self.say(&task.name, "it is on a device that cannot run it");
            }
            if task.pin.is_some_and(|pin| pin != d) {
                self.say(&task.name, "it is not where it is pinned");
            }
        }
    }

    fn colocation(&mut self) {
        let mut home: BTreeMap<u32, usize> = BTreeMap::new();
        for (task, &d) in self.p.tasks.iter().zip(self.device) {
            if let Some(class) = task.colocate
                && *home.entry(class).or_insert(d) != d
            {
                self.say(&task.name, "it is apart from its colocation class");
            }
        }
    }

    fn memory(&mut self) {
        for (d, device) in self.p.devices.iter().enumerate() {
            let here = self.p.tasks.iter().zip(self.device).filter(|(_, x)| **x == d);
            let bytes: u128 = here.map(|(t, _)| u128::from(t.memory_bytes)).sum();
            if device.memory_bytes.is_some_and(|room| bytes > u128::from(room)) {
                self.say(&device.name, "its memory is exceeded");
            }
        }
    }

    fn durations(&mut self, answer: &Answer) {
        for (t, slot) in answer.schedule.tasks.iter().enumerate() {
            let task = &self.p.tasks[t];
            let time = task.time_us[self.device[t]].unwrap_or(f64::NAN);
            if before(slot.start_us, 0.0) || differs(slot.end_us - slot.start_us, time) {
                self.say(&task.name, "its slot does not start at or after zero and last its time");
            }
        }
    }

    fn wire_us(&self, x: usize, a: usize, b: usize) -> f64 {
        match &self.p.comm {
            CommModel::Links => self.p.links[a][b]
                .map_or(f64::INFINITY, |l| l.latency_us + l.us_per_byte * self.p.tensors[x].bytes as f64),
            CommModel::Endpoint { cost_us, charged } => {
                cost_us[x] * [a, b].into_iter().filter(|&d| charged[d]).count() as f64
            }
        }
    }

    fn transfers(&mut self, answer: &Answer) {
        let mut seen: BTreeSet<(usize, usize)> = BTreeSet::new();
        for tr in &answer.schedule.transfers {
            let k = self.p.devices.len();
            if tr.tensor >= self.p.tensors.len() || tr.from >= k || tr.to >= k || tr.from == tr.to {
                self.say("answer", "a transfer names a tensor or a path that does not exist");
                continue;
            }
            let tensor = &self.p.tensors[tr.tensor];
            if !seen.insert((tr.tensor, tr.to)) {
                self.say(&tensor.name, "it is sent twice to one device");
            }
            if tr.from != self.device[tensor.producer] {
                self.say(&tensor.name, "it is sent from a device that does not make it");
            }
            if before(tr.start_us, answer.schedule.tasks[tensor.producer].end_us) {
                self.say(&tensor.name, "it is sent before it is made");
            }
            if differs(tr.end_us - tr.start_us, self.wire_us(tr.tensor, tr.from, tr.to)) {
                self.say(&tensor.name, "its transfer does not last its time");
            }
        }
    }

    fn precedence(&mut self, answer: &Answer) {
        let arrivals: BTreeMap<(usize, usize), f64> =
            answer.schedule.transfers.iter().map(|t| ((t.tensor, t.to), t.end_us)).collect();
        for (x, tensor) in self.p.tensors.iter().enumerate() {
            for &c in &tensor.consumers {
                let (a, b) = (self.device[tensor.producer], self.device[c]);
                let local = answer.schedule.tasks[tensor.producer].end_us;
                let ready = if a == b { Some(local) } else { arrivals.get(&(x, b)).copied() };
                match ready {
                    None => self.say(&tensor.name, "a reader's device never gets it"),
                    Some(at) if before(answer.schedule.tasks[c].start_us, at) => {
                        self.say(&self.p.tasks[c].name, "it starts before an input is there");
                    }
                    Some(_) => {}
                }
            }
        }
    }

    fn overlaps(&mut self, answer: &Answer) {
        let mut busy: BTreeMap<(usize, usize), Vec<(f64, f64)>> = BTreeMap::new();
        for (t, slot) in answer.schedule.tasks.iter().enumerate() {
            let d = self.device[t];
            busy.entry((d, d)).or_default().push((slot.start_us, slot.end_us));
        }
        for tr in &answer.schedule.transfers {
            busy.entry((tr.from, tr.to)).or_default().push((tr.start_us, tr.end_us));
        }
        for ((a, b), mut slots) in busy {
            slots.sort_by(|x, y| x.0.total_cmp(&y.0).then(x.1.total_cmp(&y.1)));
            if slots.windows(2).any(|w| before(w[1].0, w[0].1)) {
                let what = if a == b { "device" } else { "link" };
                self.say(what, &format!("two things at once on {a} -> {b}"));
            }
        }
    }
}
