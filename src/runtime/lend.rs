//! Which inputs and outputs lie in the caller's memory, so that a run need not copy them.
//!
//! Moving a value means preparing the steps that touch it once more, which costs more than one copy. So an address
//! is used from the second time it is seen on, among the last two that differ: that covers buffers that are kept
//! and pairs of buffers that change places (the state of a decoder), and leaves buffers that are new every time
//! alone.

use crate::driver::{Bound, Lent};
use partita_plan::{NO_VALUE, Storage};
use std::ptr::NonNull;

/// Values below this are copied: a copy costs less than the bookkeeping can win.
const LEAST_BYTES: usize = 16 << 10;
/// Alignment of memory that is used in place: that of any element type, and of what allocators return.
const ALIGN: usize = 16;

/// An input or output.
#[derive(Debug)]
struct Loan {
    value: usize,
    device: usize,
    bytes: usize,
    /// False where the value cannot lie elsewhere.
    able: bool,
    /// The last two addresses that callers gave, the latest first.
    seen: [usize; 2],
    /// Where it lies now; 0 for the device's own memory.
    at: usize,
}

/// The inputs and outputs of a bound plan.
#[derive(Debug, Default)]
pub(crate) struct Loans {
    loans: Vec<Loan>,
    n_inputs: usize,
    /// What a run changes; a field so that a run allocates nothing.
    pub changes: Vec<Lent>,
}

impl Loans {
    /// Everything in the devices' own memory. `roots` says whose bytes each value shares.
    pub(crate) fn new(bound: &Bound, roots: &[u32]) -> Self {
        let plan = &bound.plan;
        let root = |value: u32| roots[value as usize] as usize;
        // What may not be an input in the caller's memory, which nobody may write to, and where no result may stay.
        let mut kept = vec![false; plan.values.len()];
        let written = plan.queues.iter().flat_map(|q| &q.steps).flat_map(|s| &s.outputs).copied();
        let returned = plan.outputs.iter().map(|port| port.value);
        written.filter(|&v| v != NO_VALUE).chain(returned).for_each(|v| kept[root(v)] = true);
        let mut taken = vec![false; plan.values.len()];
        let loan = |(index, port): (usize, &partita_plan::Port)| {
            let (value, own) = (port.value as usize, root(port.value));
            let bytes = bound.sizes_bytes[value];
            let arena = plan.values[own].storage == Storage::Arena as i32;
            let fits = bytes >= LEAST_BYTES && bytes == bound.sizes_bytes[own];
            // One value lies in one place.
            let free = !std::mem::replace(&mut taken[own], true);
            let able = arena && fits && free && (index >= plan.inputs.len() || !kept[own]);
            let device = plan.values[value].device as usize;
            Loan { value, device, bytes, able, seen: [0; 2], at: 0 }
        };
        let loans: Vec<Loan> = plan.inputs.iter().chain(&plan.outputs).enumerate().map(loan).collect();
        let changes = Vec::with_capacity(loans.len());
        Self { loans, n_inputs: plan.inputs.len(), changes }
    }

    /// Notes where the caller's memory is in this run, null for none, and fills `changes`.
    pub(crate) fn decide(
        &mut self,
        input: impl Fn(usize) -> *mut u8,
        mut output: impl FnMut(usize) -> *mut u8,
    ) {
        self.changes.clear();
        for (index, loan) in self.loans.iter_mut().enumerate() {
            let given = if index < self.n_inputs { input(index) } else { output(index - self.n_inputs) };
            let at = loan.choose(given.addr());
            if at != loan.at {
                loan.at = at;
                let memory = NonNull::new(given).filter(|_| at != 0);
                self.changes.push(Lent { value: loan.value, memory, bytes: loan.bytes });
            }
        }
    }

    /// The device keeps its values to itself, from now on.
    pub(crate) fn refuse(&mut self, device: usize) {
        for loan in self.loans.iter_mut().filter(|l| l.device == device) {
            (loan.able, loan.at) = (false, 0);
        }
    }

    /// Whether input `index` is read where the caller has it.
    pub(crate) fn input(&self, index: usize) -> bool {
        self.loans[index].at != 0
    }

    /// Whether output `index` was written to the caller's memory.
    pub(crate) fn output(&self, index: usize) -> bool {
        self.loans[self.n_inputs + index].at != 0
    }
}

impl Loan {
    fn choose(&mut self, given: usize) -> usize {
        if !self.able || given == 0 || !given.is_multiple_of(ALIGN) {
            return 0;
        }
        let known = self.seen.contains(&given);
        if self.seen[0] != given {
            self.seen = [given, self.seen[0]];
        }
        if known { given } else { 0 }
    }
}
