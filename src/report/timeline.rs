//! The predicted timeline of a static plan: who waits for whom, what cannot be late, and by how much the rest can.
//!
//! Steps wait for the step before them in their queue and for the progress of other queues that they name; nothing else
//! orders them. Slack is that of the critical path method: how much later a step may end without a later end of all.

use partita_plan::{Plan, Queue, Step};

/// A step: its queue and its position there.
pub type At = (usize, usize);

/// When things happen in one run.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// End of the last step in microseconds.
    pub end_us: f64,
    /// Microseconds every step may be late.
    slack_us: Vec<Vec<f64>>,
    /// The chain of steps that ends last, each the one that its successor waited for the longest.
    pub critical: Vec<At>,
}

/// Slack below this share of the whole is none.
const NO_SLACK: f64 = 1e-9;

impl Timeline {
    /// The timeline of a static plan that passed its check.
    pub fn new(plan: &Plan) -> Self {
        let all = all(plan);
        let end = |at: &At| end_us(plan, *at);
        let end_us = all.iter().map(end).fold(0.0, f64::max);
        let mut latest: Vec<Vec<f64>> = plan.queues.iter().map(|q| vec![end_us; q.steps.len()]).collect();
        // Starts respect waits, so later starts come first; ties are resolved by going through the queues backwards.
        for at in order(plan).into_iter().rev() {
            let start = latest[at.0][at.1] - step(plan, at).map_or(0.0, |s| s.time_us);
            for (queue, position) in before(plan, at) {
                if let Some(own) = latest.get_mut(queue).and_then(|q| q.get_mut(position)) {
                    *own = own.min(start);
                }
            }
        }
        let slack = |q: usize, s: usize| (latest[q][s] - end(&(q, s))).max(0.0);
        let slack_us =
            latest.iter().enumerate().map(|(q, row)| (0..row.len()).map(|s| slack(q, s)).collect()).collect();
        let mut out = Self { end_us, slack_us, critical: Vec::new() };
        out.critical = out.chain(plan, &all);
        out
    }

    /// From the step that ends last to the first.
    fn chain(&self, plan: &Plan, all: &[At]) -> Vec<At> {
        let last = all.iter().copied().reduce(|a, b| if end_us(plan, b) > end_us(plan, a) { b } else { a });
        let mut chain: Vec<At> = last.into_iter().collect();
        while let Some(at) = chain.last().copied().filter(|_| chain.len() <= all.len()) {
            match held_by(plan, at) {
                Some(before) => chain.push(before),
                None => break,
            }
        }
        chain.reverse();
        chain
    }

    /// Microseconds a step may be late; 0 for steps that are not there.
    pub fn slack_us(&self, at: At) -> f64 {
        self.slack_us.get(at.0).and_then(|q| q.get(at.1)).copied().unwrap_or(0.0)
    }

    /// Whether a step cannot be late.
    pub fn is_critical(&self, at: At) -> bool {
        self.slack_us(at) <= NO_SLACK * self.end_us
    }
}

/// The step at a place.
pub fn step(plan: &Plan, at: At) -> Option<&Step> {
    plan.queues.get(at.0)?.steps.get(at.1)
}

fn end_us(plan: &Plan, at: At) -> f64 {
    step(plan, at).map_or(0.0, |s| s.start_us + s.time_us)
}

fn all(plan: &Plan) -> Vec<At> {
    plan.queues
        .iter()
        .enumerate()
        .flat_map(|(q, queue)| (0..queue.steps.len()).map(move |s| (q, s)))
        .collect()
}

/// The steps that a step waits for: the one before it in its queue, and the last of each queue it names.
pub fn before(plan: &Plan, at: At) -> Vec<At> {
    let own = at.1.checked_sub(1).map(|s| (at.0, s));
    let waits = step(plan, at).into_iter().flat_map(|s| &s.waits);
    own.into_iter()
        .chain(waits.filter_map(|w| Some((w.queue as usize, (w.steps as usize).checked_sub(1)?))))
        .collect()
}

/// Of the steps that a step waits for, the one that ends last.
pub fn held_by(plan: &Plan, at: At) -> Option<At> {
    let later = |a: At, b: At| if end_us(plan, b) > end_us(plan, a) { b } else { a };
    before(plan, at).into_iter().filter(|b| step(plan, *b).is_some()).reduce(later)
}

/// All steps in an order in which what is waited for comes first; of those that are ready the earliest.
pub fn order(plan: &Plan) -> Vec<At> {
    let mut done = vec![0usize; plan.queues.len()];
    let mut out = Vec::new();
    loop {
        let ready = |q: usize| {
            let step = plan.queues[q].steps.get(done[q])?;
            let met =
                |w: &partita_plan::Wait| done.get(w.queue as usize).is_some_and(|d| *d >= w.steps as usize);
            step.waits.iter().all(met).then_some((step.start_us, q))
        };
        let next =
            (0..plan.queues.len()).filter_map(ready).min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let Some((_, queue)) = next else { return out };
        out.push((queue, done[queue]));
        done[queue] += 1;
    }
}

/// Microseconds that a queue is busy.
pub fn busy_us(queue: &Queue) -> f64 {
    queue.steps.iter().fold(0.0, |sum, s| sum + s.time_us)
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_plan::Wait;

    /// Two steps on `a`, a copy of the first to `b`, and one step there that waits for it.
    fn fork() -> Plan {
        let step = |name: &str, start_us: f64, time_us: f64, waits: &[(u32, u32)]| Step {
            name: name.into(),
            start_us,
            time_us,
            waits: waits.iter().map(|&(queue, steps)| Wait { queue, steps }).collect(),
            ..Step::default()
        };
        let queue = |steps: Vec<Step>| Queue { steps, ..Queue::default() };
        Plan {
            queues: vec![
                queue(vec![step("one", 0.0, 4.0, &[]), step("two", 4.0, 1.0, &[])]),
                queue(vec![step("three", 6.0, 3.0, &[(2, 1)])]),
                queue(vec![step("copy", 4.0, 2.0, &[(0, 1)])]),
            ],
            ..Plan::default()
        }
    }

    #[test]
    fn the_critical_path_and_what_can_be_late() {
        let plan = fork();
        let timeline = Timeline::new(&plan);
        assert_eq!(timeline.end_us, 9.0);
        assert_eq!(timeline.critical, [(0, 0), (2, 0), (1, 0)]);
        assert_eq!(timeline.slack_us((0, 1)), 4.0);
        assert!(timeline.is_critical((2, 0)) && !timeline.is_critical((0, 1)));
        assert_eq!(order(&plan), [(0, 0), (0, 1), (2, 0), (1, 0)]);
    }

    #[test]
    fn nothing_is_a_timeline_too() {
        let timeline = Timeline::new(&Plan::default());
        assert!(timeline.critical.is_empty() && timeline.end_us == 0.0 && timeline.slack_us((3, 3)) == 0.0);
    }
}
