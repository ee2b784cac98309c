//! When a value's bytes must be reserved, as positions in its device's compute queue.
//!
//! Positions are step indices. Steps of the own queue touch a value at their own position. Transfers run
//! beside the queue, so they touch it somewhere between two own steps, and the position is rounded outwards:
//! a value written by a transfer is reserved from the last own step known to be done before the transfer
//! starts, a value read by a transfer up to the step before the first own step that waits for its end.
//! Rounding `first` down to a step that is over (not the one after it) is what makes two values with disjoint
//! positions safe to share bytes: see the test with two transfers in one gap.

use crate::{NO_VALUE, Order, Plan, PlanError, Storage};

/// Positions of a device's compute queue, both inclusive, at which a value's bytes are its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// First position.
    pub first: u32,
    /// Last position.
    pub last: u32,
}

/// The value that owns the bytes of each value: itself, or where its chain of aliases ends.
///
/// # Errors
/// `L016` when an alias names no value, closes a circle or crosses devices.
pub fn alias_roots(plan: &Plan) -> Result<Vec<u32>, PlanError> {
    let mut roots: Vec<Option<u32>> = vec![None; plan.values.len()];
    for start in 0..plan.values.len() {
        let mut chain = Vec::new();
        let mut at = start;
        let root = loop {
            if let Some(known) = roots[at] {
                break known;
            }
            if chain.len() > plan.values.len() {
                return Err(alias_error(plan, start, "its aliases form a circle"));
            }
            chain.push(at);
            if plan.values[at].storage != Storage::Alias as i32 {
                break at as u32;
            }
            at = next_in_chain(plan, at)?;
        };
        for value in chain {
            roots[value] = Some(root);
        }
    }
    Ok(roots.into_iter().flatten().collect())
}

fn next_in_chain(plan: &Plan, at: usize) -> Result<usize, PlanError> {
    let next = plan.values[at].alias_of as usize;
    match plan.values.get(next) {
        None => Err(alias_error(plan, at, "it shares the bytes of a value that does not exist")),
        Some(target) if target.device != plan.values[at].device => {
            Err(alias_error(plan, at, "it shares the bytes of a value on another device"))
        }
        Some(_) => Ok(next),
    }
}

fn alias_error(plan: &Plan, value: usize, what: &str) -> PlanError {
    PlanError::new("L016", value_place(plan, value), what, "compile the model again")
}

/// Names a value for error messages.
pub(crate) fn value_place(plan: &Plan, value: usize) -> String {
    let name = plan.values.get(value).map_or("", |v| v.name.as_str());
    format!("value {value} ({name})")
}

/// The compute queue of every device, if it has one.
///
/// # Errors
/// `L019` when a queue's device does not exist or a device has two compute queues.
pub fn compute_queues(plan: &Plan) -> Result<Vec<Option<usize>>, PlanError> {
    let mut queues = vec![None; plan.devices.len()];
    for (index, queue) in plan.queues.iter().enumerate().filter(|(_, q)| !q.copies) {
        let bad = |what: &str| {
            let place = format!("queue {index} ({})", queue.name);
            PlanError::new("L019", place, what, "compile the model again")
        };
        let slot = queues.get_mut(queue.device as usize);
        let slot = slot.ok_or_else(|| bad("its device does not exist"))?;
        if slot.replace(index).is_some() {
            return Err(bad("its device has another compute queue already"));
        }
    }
    Ok(queues)
}

/// The reservation of every value; aliases have that of the value they share bytes with.
///
/// Inputs are reserved from position 0 and outputs to the end. Values that nothing touches get position 0;
/// values of devices without a compute queue too, so such values never share bytes.
///
/// # Errors
/// `L016`, `L019` as [`alias_roots`] and [`compute_queues`]; `L050` for a step that names an unknown value.
pub fn reserve_positions(plan: &Plan, order: &Order) -> Result<Vec<Reservation>, PlanError> {
    let roots = alias_roots(plan)?;
    let compute = compute_queues(plan)?;
    let mut spans = Spans { plan, order, roots, compute, spans: vec![None; plan.values.len()] };
    for (index, queue) in plan.queues.iter().enumerate() {
        for step in 0..queue.steps.len() {
            if queue.copies { spans.transfer((index, step))? } else { spans.launch((index, step))? }
        }
    }
    for port in &plan.inputs {
        spans.touch(port.value, 0, 0)?;
    }
    for port in &plan.outputs {
        let end = spans.end_of(port.value)?;
        spans.touch(port.value, end, end)?;
    }
    Ok(spans.finish())
}

struct Spans<'a> {
    plan: &'a Plan,
    order: &'a Order,
    roots: Vec<u32>,
    compute: Vec<Option<usize>>,
    /// Per root, what is known so far.
    spans: Vec<Option<Reservation>>,
}

impl Spans<'_> {
    fn touch(&mut self, value: u32, first: usize, last: usize) -> Result<(), PlanError> {
        let root = *self.roots.get(value as usize).ok_or_else(|| unknown(value))?;
        let (first, last) = (first as u32, last.max(first) as u32);
        let span = self.spans[root as usize].get_or_insert(Reservation { first, last });
        span.first = span.first.min(first);
        span.last = span.last.max(last);
        Ok(())
    }

    /// The compute queue of the value's device.
    fn queue_of(&self, value: u32) -> Result<Option<usize>, PlanError> {
        let value = self.plan.values.get(value as usize).ok_or_else(|| unknown(value))?;
        Ok(self.compute.get(value.device as usize).copied().flatten())
    }

    fn end_of(&self, value: u32) -> Result<usize, PlanError> {
        let queue = self.queue_of(value)?;
        Ok(queue.map_or(0, |q| self.order.steps(q).saturating_sub(1)))
    }

    fn launch(&mut self, at: (usize, usize)) -> Result<(), PlanError> {
        let step = &self.plan.queues[at.0].steps[at.1];
        for &value in step.inputs.iter().chain(&step.outputs).filter(|&&v| v != NO_VALUE) {
            self.touch(value, at.1, at.1)?;
        }
        Ok(())
    }

    fn transfer(&mut self, at: (usize, usize)) -> Result<(), PlanError> {
        let step = &self.plan.queues[at.0].steps[at.1];
        for &value in &step.inputs {
            let last = self.over_by(at, value)?;
            self.touch(value, last, last)?;
        }
        for &value in &step.outputs {
            let queue = self.queue_of(value)?;
            let first = queue.and_then(|q| self.order.last_before(at, q)).unwrap_or(0);
            let last = self.over_by(at, value)?;
            self.touch(value, first, last)?;
        }
        Ok(())
    }

    /// Last position of the value's queue at which transfer `at` may still run.
    fn over_by(&self, at: (usize, usize), value: u32) -> Result<usize, PlanError> {
        let end = self.end_of(value)?;
        let after = self.queue_of(value)?.and_then(|q| self.order.first_after(at, q));
        Ok(after.map_or(end, |step| step.saturating_sub(1)))
    }

    fn finish(self) -> Vec<Reservation> {
        let unused = Reservation { first: 0, last: 0 };
        self.roots.iter().map(|&root| self.spans[root as usize].unwrap_or(unused)).collect()
    }
}

fn unknown(value: u32) -> PlanError {
    PlanError::new("L050", "the steps", format!("value {value} does not exist"), "compile the model again")
}
