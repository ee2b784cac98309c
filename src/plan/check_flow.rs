//! Checks steps: what they name exists and fits, and every read happens after the write it means.

use crate::check::bad;
use crate::order::step_place;
use crate::reserve::value_place;
use crate::tile::{Lane, TileOp};
use crate::{ElementType, Kernel, NO_VALUE, Order, Plan, PlanError, Queue, Step, Storage, Value};
use std::collections::BTreeMap;

/// Library kernels that may write their result over an operand of the same type and shape.
pub(crate) const IN_PLACE_LIBRARIES: [&str; 1] = ["tile"];

/// A step: (queue, index).
type At = (usize, usize);

pub(crate) struct Flow<'a> {
    plan: &'a Plan,
    order: &'a Order,
    roots: &'a [u32],
    /// The step that writes each value itself.
    writer: Vec<Option<At>>,
    /// The steps that write bytes of each root, in the order in which they happen.
    writers: Vec<Vec<At>>,
}

/// Which content of its bytes a value means.
#[derive(Clone, Copy, PartialEq)]
enum Content {
    /// What was there before the run: an input or a weight.
    Initial,
    /// What this step writes.
    Written(At),
}

impl<'a> Flow<'a> {
    /// Collects who writes what.
    ///
    /// # Errors
    /// `L050` a step names what does not exist, `L053` a value or a weight is written where it must not be.
    pub(crate) fn new(plan: &'a Plan, order: &'a Order, roots: &'a [u32]) -> Result<Self, PlanError> {
        let count = plan.values.len();
        let mut flow =
            Self { plan, order, roots, writer: vec![None; count], writers: vec![Vec::new(); count] };
        for (index, queue) in plan.queues.iter().enumerate() {
            for step in 0..queue.steps.len() {
                flow.record((index, step))?;
            }
        }
        flow.sort_writers()?;
        Ok(flow)
    }

    fn record(&mut self, at: At) -> Result<(), PlanError> {
        let step = &self.plan.queues[at.0].steps[at.1];
        let known = |v: &u32| (*v as usize) < self.plan.values.len();
        if !step.inputs.iter().all(|v| *v == NO_VALUE || known(v)) || !step.outputs.iter().all(known) {
            return Err(self.fail("L050", at, "it names a value that does not exist"));
        }
        if step.outputs.is_empty() {
            return Err(self.fail("L050", at, "it writes nothing"));
        }
        if !(timing(step.start_us) && timing(step.time_us)) {
            return Err(self.fail("L057", at, "its predicted time is negative or not a number"));
        }
        for &value in &step.outputs {
            let root = self.roots[value as usize] as usize;
            if self.plan.values[root].storage == Storage::Weight as i32 {
                return Err(self.fail("L053", at, "it writes a weight"));
            }
            if self.writer[value as usize].replace(at).is_some() {
                return Err(self.fail("L053", at, "it writes a value that another step writes too"));
            }
            self.writers[root].push(at);
        }
        Ok(())
    }

    /// Sorts each root's writers; a step's number of known-done steps grows along happens-before.
    fn sort_writers(&mut self) -> Result<(), PlanError> {
        let (plan, order) = (self.plan, self.order);
        let age = |at: &At| -> u64 { (0..plan.queues.len()).map(|q| u64::from(order.done(*at, q))).sum() };
        for writers in self.writers.iter_mut().filter(|w| w.len() > 1) {
            writers.sort_by_key(age);
            if let Some(pair) = writers.windows(2).find(|pair| !order.before(pair[0], pair[1])) {
                let place = step_place(&plan.queues[pair[1].0], pair[1].1);
                return Err(bad("L053", place, "it writes bytes that another step writes at the same time"));
            }
        }
        for port in &plan.inputs {
            if self.writer[port.value as usize].is_some() {
                let place = value_place(plan, port.value as usize);
                return Err(bad("L053", place, "an input of the model is written by a step"));
            }
        }
        Ok(())
    }

    fn fail(&self, code: &'static str, at: At, message: &str) -> PlanError {
        bad(code, step_place(&self.plan.queues[at.0], at.1), message)
    }

    fn value(&self, value: u32) -> &'a Value {
        &self.plan.values[value as usize]
    }

    /// Checks every step and every output.
    ///
    /// # Errors
    /// `L050`-`L056`.
    pub(crate) fn check(&self) -> Result<(), PlanError> {
        let contents = self.contents();
        for (index, queue) in self.plan.queues.iter().enumerate() {
            self.queue(index, queue)?;
            for (step_index, step) in queue.steps.iter().enumerate() {
                let at = (index, step_index);
                if queue.copies {
                    self.copy(at, queue, step)?;
                } else {
                    self.launch(at, queue, step)?;
                }
                for &value in step.inputs.iter().filter(|&&v| v != NO_VALUE) {
                    self.read(at, value, contents[value as usize])?;
                }
            }
        }
        self.outputs(&contents)
    }

    fn queue(&self, index: usize, queue: &Queue) -> Result<(), PlanError> {
        let devices = self.plan.devices.len();
        let exists = |device: u32| (device as usize) < devices;
        let fail = |what: &str| Err(bad("L019", format!("queue {index} ({})", queue.name), what));
        if !exists(queue.device) || (queue.copies && !exists(queue.from)) {
            return fail("its device does not exist");
        }
        if queue.copies && queue.device == queue.from {
            return fail("it copies from a device to itself");
        }
        Ok(())
    }

    /// What each value means when it is read; `None` for one that nothing fills.
    fn contents(&self) -> Vec<Option<Content>> {
        let mut contents: Vec<Option<Content>> = vec![None; self.plan.values.len()];
        for port in &self.plan.inputs {
            contents[port.value as usize] = Some(Content::Initial);
        }
        for (index, value) in self.plan.values.iter().enumerate() {
            if let Some(at) = self.writer[index] {
                contents[index] = Some(Content::Written(at));
            } else if value.storage == Storage::Weight as i32 {
                contents[index] = Some(Content::Initial);
            }
        }
        self.resolve_aliases(&mut contents);
        contents
    }

    /// An alias that nothing writes itself means what the value it shares bytes with means.
    fn resolve_aliases(&self, contents: &mut [Option<Content>]) {
        let alias = |v: usize| self.plan.values[v].storage == Storage::Alias as i32;
        let mut resolved: Vec<bool> =
            (0..contents.len()).map(|v| contents[v].is_some() || !alias(v)).collect();
        for index in 0..contents.len() {
            let mut chain = Vec::new();
            let mut at = index;
            while !resolved[at] {
                chain.push(at);
                at = self.plan.values[at].alias_of as usize;
            }
            for value in chain {
                contents[value] = contents[at];
                resolved[value] = true;
            }
        }
    }

    /// A read is after the write it means and not after a later write over the same bytes.
    fn read(&self, at: At, value: u32, content: Option<Content>) -> Result<(), PlanError> {
        let writers = &self.writers[self.roots[value as usize] as usize];
        let next = match content {
            None => return Err(self.fail("L052", at, "it reads a value that nothing writes")),
            Some(Content::Initial) => writers.first(),
            Some(Content::Written(writer)) => {
                if !self.order.before(writer, at) {
                    return Err(self.fail("L052", at, "it may start before a value it reads is written"));
                }
                self.writer_after(writers, writer)
            }
        };
        match next {
            Some(&next) if next != at && !self.order.before(at, next) => {
                Err(self.fail("L052", at, "a value it reads may be overwritten before it is done"))
            }
            _ => Ok(()),
        }
    }

    fn writer_after<'b>(&self, writers: &'b [At], writer: At) -> Option<&'b At> {
        writers.get(writers.partition_point(|&w| w == writer || self.order.before(w, writer)))
    }

    fn outputs(&self, contents: &[Option<Content>]) -> Result<(), PlanError> {
        for (index, port) in self.plan.outputs.iter().enumerate() {
            let fail = |what: &str| Err(bad("L052", format!("output {index} ({})", port.name), what));
            let writers = &self.writers[self.roots[port.value as usize] as usize];
            let kept = match contents[port.value as usize] {
                None => return fail("nothing writes its value"),
                Some(Content::Initial) => writers.is_empty(),
                Some(Content::Written(writer)) => writers.last() == Some(&writer),
            };
            if !kept {
                return fail("its value is overwritten before the end");
            }
        }
        Ok(())
    }

    fn copy(&self, at: At, queue: &Queue, step: &Step) -> Result<(), PlanError> {
        let (&[source], &[target]) = (step.inputs.as_slice(), step.outputs.as_slice()) else {
            return Err(self.fail("L056", at, "a transfer reads one value and writes one"));
        };
        if source == NO_VALUE {
            return Err(self.fail("L056", at, "a transfer reads one value and writes one"));
        }
        let (source, target) = (self.value(source), self.value(target));
        if source.device != queue.from || target.device != queue.device {
            return Err(self.fail("L051", at, "its values are not on the devices of its queue"));
        }
        if !same_type(source, target) || source.layout != target.layout {
            return Err(self.fail("L056", at, "it copies between values of different type or shape"));
        }
        if !source.layout.is_empty() {
            return Err(self.fail("L056", at, "it copies a packed weight"));
        }
        Ok(())
    }

    fn launch(&self, at: At, queue: &Queue, step: &Step) -> Result<(), PlanError> {
        let Some(kernel) = self.plan.kernels.get(step.kernel as usize) else {
            return Err(self.fail("L050", at, "its kernel does not exist"));
        };
        let operands = step.inputs.iter().filter(|&&v| v != NO_VALUE).chain(&step.outputs);
        if operands.into_iter().any(|&v| self.value(v).device != queue.device) {
            return Err(self.fail("L051", at, "it uses a value of another device"));
        }
        self.operands(at, kernel, step)?;
        self.in_place(at, kernel, step)
    }

    /// The operands match the kernel's program in number and kind of lane.
    fn operands(&self, at: At, kernel: &Kernel, step: &Step) -> Result<(), PlanError> {
        let Some(program) = &kernel.program else { return Ok(()) };
        let own = if kernel.library == "tile" { Some(0) } else { own_operands(kernel, step) };
        let Some(own) = own else {
            return Err(self.fail("L054", at, "the kernel's `n_own` does not fit its operands"));
        };
        // Input 0 of an epilogue is the kernel's result, a float; the step's own operands are not its inputs.
        let shift = usize::from(kernel.library != "tile");
        let extra = &step.inputs[own..];
        let results = if shift == 0 { step.outputs.len() } else { 1 };
        if program.inputs as usize != extra.len() + shift || program.outputs.len() != results {
            return Err(self.fail("L054", at, "its operands do not match its program"));
        }
        if extra.contains(&NO_VALUE) {
            return Err(self.fail("L054", at, "its program loads an omitted operand"));
        }
        for instr in program.instrs.iter().filter(|i| i.op == TileOp::Load as i32) {
            let operand = (instr.index as usize).checked_sub(shift);
            let float = operand.is_none_or(|o| extra.get(o).is_some_and(|&v| is_float(self.value(v))));
            if float != (instr.lane == Lane::Float as i32) {
                return Err(self.fail("L054", at, "its program loads an operand into the wrong lane"));
            }
        }
        Ok(())
    }

    /// A step writes no bytes that it reads, except elementwise over an operand of the same type and shape.
    fn in_place(&self, at: At, kernel: &Kernel, step: &Step) -> Result<(), PlanError> {
        let written: BTreeMap<u32, u32> = step.outputs.iter().map(|&v| (self.roots[v as usize], v)).collect();
        let elementwise = IN_PLACE_LIBRARIES.contains(&kernel.library.as_str());
        for &input in step.inputs.iter().filter(|&&v| v != NO_VALUE) {
            let Some(&output) = written.get(&self.roots[input as usize]) else { continue };
            if !(elementwise && same_type(self.value(input), self.value(output))) {
                return Err(self.fail("L055", at, "it writes over a value that it reads"));
            }
        }
        Ok(())
    }
}

fn own_operands(kernel: &Kernel, step: &Step) -> Option<usize> {
    let own = usize::try_from(kernel.int("n_own")?).ok()?;
    (own <= step.inputs.len()).then_some(own)
}

fn same_type(a: &Value, b: &Value) -> bool {
    a.dtype == b.dtype && a.shape == b.shape
}

fn is_float(value: &Value) -> bool {
    ElementType::try_from(value.dtype).is_ok_and(ElementType::is_float)
}

fn timing(us: f64) -> bool {
    us.is_finite() && us >= 0.0
}
