//! Which step happens before which: vector clocks over queues.
//!
//! The clock of a step says, for every queue, how many of its steps are known to be done when this step is
//! done. Computing the clocks means running the queues' waits once, so a plan that would hang is found here.

use crate::limits::{MAX_CLOCK_CELLS, MAX_QUEUES, MAX_STEPS, MAX_WAITS};
use crate::{Plan, PlanError, Queue};

/// Waits that count as much as one step towards the limit of the table.
const WAITS_PER_ROW: usize = 16;

/// The happens-before relation of a plan's steps. A step is (queue index, step index).
#[derive(Clone, Debug)]
pub struct Order {
    queues: usize,
    /// Clocks of queue `q`, `queues` numbers per step.
    clocks: Vec<Vec<u32>>,
}

impl Order {
    /// Runs the waits of all queues and records the clock of every step.
    ///
    /// # Errors
    /// `L040` over a limit, `L041` a wait names a queue or step that does not exist, `L042` steps wait for
    /// each other in a circle.
    pub fn new(plan: &Plan) -> Result<Self, PlanError> {
        limits(plan)?;
        waits_exist(plan)?;
        let queues = plan.queues.len();
        let clocks = plan.queues.iter().map(|q| Vec::with_capacity(q.steps.len() * queues)).collect();
        let mut simulation = Simulation { plan, order: Self { queues, clocks }, first_wait: vec![0; queues] };
        while simulation.sweep() {}
        simulation.finished()?;
        Ok(simulation.order)
    }

    /// Whether step `a` is done before step `b` starts. False for unknown steps.
    pub fn before(&self, a: (usize, usize), b: (usize, usize)) -> bool {
        a != b && (a.1 as u64) < u64::from(self.done(b, a.0))
    }

    /// How many steps of `queue` are done when step `at` is done. 0 for unknown steps.
    pub fn done(&self, at: (usize, usize), queue: usize) -> u32 {
        if queue >= self.queues {
            return 0;
        }
        let clocks = self.clocks.get(at.0);
        clocks.and_then(|c| c.get(at.1 * self.queues + queue)).copied().unwrap_or(0)
    }

    /// The first step of `queue` that starts after step `at` is done.
    pub fn first_after(&self, at: (usize, usize), queue: usize) -> Option<usize> {
        let steps = self.steps(queue);
        let (mut low, mut high) = (0, steps);
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.before(at, (queue, middle)) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        (low < steps).then_some(low)
    }

    /// The last step of `queue` that is done before step `at` starts.
    pub fn last_before(&self, at: (usize, usize), queue: usize) -> Option<usize> {
        let own = usize::from(at.0 == queue);
        (self.done(at, queue) as usize).checked_sub(own + 1)
    }

    /// Number of steps of `queue`.
    pub fn steps(&self, queue: usize) -> usize {
        self.clocks.get(queue).map_or(0, |c| c.len() / self.queues.max(1))
    }
}

/// Bounds the table and the time to fill it: one row per step, one pass over a row per wait.
fn limits(plan: &Plan) -> Result<(), PlanError> {
    let steps: usize = plan.queues.iter().map(|q| q.steps.len()).sum();
    let waits: usize = plan.queues.iter().flat_map(|q| &q.steps).map(|s| s.waits.len()).sum();
    let queues = plan.queues.len();
    let rows = steps.saturating_add(waits / WAITS_PER_ROW);
    if queues <= MAX_QUEUES && steps <= MAX_STEPS && rows.saturating_mul(queues) <= MAX_CLOCK_CELLS {
        return Ok(());
    }
    Err(PlanError::new(
        "L040",
        "the queues",
        format!("{steps} steps with {waits} waits in {queues} queues exceed the limits"),
        format!("at most {MAX_STEPS} steps, {MAX_QUEUES} queues, {MAX_CLOCK_CELLS} for their product"),
    ))
}

fn waits_exist(plan: &Plan) -> Result<(), PlanError> {
    for queue in &plan.queues {
        for (at, step) in queue.steps.iter().enumerate() {
            let known = step.waits.iter().all(|wait| {
                plan.queues.get(wait.queue as usize).is_some_and(|q| wait.steps as usize <= q.steps.len())
            });
            if !known || step.waits.len() > MAX_WAITS {
                return Err(PlanError::new(
                    "L041",
                    step_place(queue, at),
                    "the step waits for a queue or a step that does not exist",
                    "compile the model again",
                ));
            }
        }
    }
    Ok(())
}

/// Names a step for error messages.
pub(crate) fn step_place(queue: &Queue, step: usize) -> String {
    let name = queue.steps.get(step).map_or("", |s| s.name.as_str());
    format!("step {step} ({name}) of queue {}", queue.name)
}

/// A run of the queues in which every step takes no time.
struct Simulation<'a> {
    plan: &'a Plan,
    order: Order,
    /// Per queue, the first wait of its next step that was not met when last looked at.
    first_wait: Vec<usize>,
}

impl Simulation<'_> {
    /// Advances every queue as far as it goes; whether any moved.
    fn sweep(&mut self) -> bool {
        let mut moved = false;
        for queue in 0..self.order.queues {
            while self.next_is_ready(queue) {
                self.advance(queue);
                moved = true;
            }
        }
        moved
    }

    fn next_is_ready(&mut self, queue: usize) -> bool {
        let Some(step) = self.plan.queues[queue].steps.get(self.order.steps(queue)) else { return false };
        while let Some(wait) = step.waits.get(self.first_wait[queue]) {
            if self.order.steps(wait.queue as usize) < wait.steps as usize {
                return false;
            }
            self.first_wait[queue] += 1;
        }
        true
    }

    fn advance(&mut self, queue: usize) {
        let at = self.order.steps(queue);
        let start = self.order.clocks[queue].len();
        for other in 0..self.order.queues {
            let before = at.checked_sub(1).map_or(0, |previous| self.order.done((queue, previous), other));
            self.order.clocks[queue].push(before);
        }
        self.order.clocks[queue][start + queue] = at as u32 + 1;
        for wait in &self.plan.queues[queue].steps[at].waits {
            let Some(last) = wait.steps.checked_sub(1) else { continue };
            for other in 0..self.order.queues {
                let seen = self.order.done((wait.queue as usize, last as usize), other);
                let cell = &mut self.order.clocks[queue][start + other];
                *cell = seen.max(*cell);
            }
        }
        self.first_wait[queue] = 0;
    }

    fn finished(&self) -> Result<(), PlanError> {
        for (index, queue) in self.plan.queues.iter().enumerate() {
            let at = self.order.steps(index);
            if at < queue.steps.len() {
                return Err(PlanError::new(
                    "L042",
                    step_place(queue, at),
                    "the step waits for something that waits for it",
                    "compile the model again",
                ));
            }
        }
        Ok(())
    }
}
