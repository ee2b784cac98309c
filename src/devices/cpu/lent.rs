//! Steps whose operands lie in the caller's memory: prepared once for each place, and kept for the next time.
//!
//! A prepared step holds addresses, so a value that moves means other steps. Callers use few places again and
//! again (one buffer, or two that change roles), so the last few are kept beside those in use.
#![allow(unsafe_code, reason = "addresses of the caller's memory are handed on")]

use crate::bind::{Machine, Values};
use crate::driver::Steps;
use crate::memory::Memory;
use crate::prepared::{Prepared, Scratch};
use partita_plan::{NO_VALUE, Plan, Step};
use partita_runtime::driver::{Bound, HostKernels, Lent};
use partita_runtime::error::RuntimeError;
use std::collections::{BTreeMap, BTreeSet};

/// Places kept for a step beside the one in use.
const KEPT: usize = 3;

/// Addresses of a step's operands and results; 0 in the arena.
type Key = Vec<usize>;

/// Queue and index of a step.
type At = (usize, usize);

/// What is lent, and the steps for it.
#[derive(Default)]
pub(crate) struct Loans {
    /// Values in the caller's memory, by the value that owns the bytes.
    pub lent: BTreeMap<usize, *mut u8>,
    /// Steps that touch the bytes of a value, for those that were ever lent.
    readers: BTreeMap<usize, Vec<At>>,
    /// Where the operands of moved steps are now.
    current: BTreeMap<At, Key>,
    /// Steps for other places, the oldest first.
    idle: BTreeMap<At, Vec<Placed>>,
}

/// A step, and where its operands are.
type Placed = (Key, Box<dyn Prepared>);

// SAFETY: addresses only; who may use them when is decided by the session that lends them.
unsafe impl Send for Loans {}
// SAFETY: as above.
unsafe impl Sync for Loans {}

/// What steps are prepared from.
pub(crate) struct Workshop<'a> {
    pub bound: &'a Bound,
    pub device: usize,
    pub arena: &'a Memory,
    pub machine: Machine,
    pub host: Option<&'a dyn HostKernels>,
}

impl Loans {
    /// Moves values and puts the steps for their new places into `steps`. Returns the scratch these need.
    ///
    /// # Errors
    /// When a kernel does not take an operand there.
    pub(crate) fn apply(
        &mut self,
        changes: &[Lent],
        shop: &Workshop<'_>,
        steps: &mut Steps,
    ) -> Result<Scratch, RuntimeError> {
        let plan = &shop.bound.plan;
        let mut moved = BTreeSet::new();
        for change in changes {
            let Some(root) = shop.values(&self.lent).root(change.value) else { continue };
            match change.memory {
                Some(memory) => self.lent.insert(root, memory.as_ptr()),
                None => self.lent.remove(&root),
            };
            let readers = self.readers.entry(root).or_insert_with(|| shop.readers(root));
            moved.extend(readers.iter().copied());
        }
        let mut scratch = Scratch::default();
        for at in moved {
            let step = &plan.queues[at.0].steps[at.1];
            scratch = scratch.max(self.switch(at, step, shop, steps)?);
        }
        Ok(scratch)
    }

    /// Replaces one step by that for where its operands are now.
    fn switch(
        &mut self,
        at: At,
        step: &Step,
        shop: &Workshop<'_>,
        steps: &mut Steps,
    ) -> Result<Scratch, RuntimeError> {
        let values = shop.values(&self.lent);
        let key = key(step, &values);
        let arena = || vec![0; key.len()];
        let before = self.current.get(&at).cloned().unwrap_or_else(arena);
        if before == key {
            return Ok(Scratch::default());
        }
        let idle = self.idle.entry(at).or_default();
        let found = idle.iter().position(|(k, _)| *k == key);
        let next = match found {
            Some(found) => idle.remove(found).1,
            None => values.prepare(step, shop.machine, shop.host)?,
        };
        let scratch = next.scratch();
        idle.push((before, std::mem::replace(&mut steps[at.0][at.1], next)));
        if idle.len() > KEPT {
            idle.remove(0);
        }
        self.current.insert(at, key);
        Ok(scratch)
    }
}

impl Workshop<'_> {
    pub(crate) fn values<'b>(&'b self, lent: &'b BTreeMap<usize, *mut u8>) -> Values<'b> {
        Values { bound: self.bound, device: self.device, arena: self.arena, lent }
    }

    /// The device's steps that touch the bytes of value `root`.
    fn readers(&self, root: usize) -> Vec<At> {
        let none = BTreeMap::new();
        let values = self.values(&none);
        let touches = |step: &Step| operands(step).any(|v| values.root(v) == Some(root));
        let plan: &Plan = &self.bound.plan;
        let own = plan.queues.iter().enumerate();
        let own = own.filter(|(_, q)| !q.copies && q.device as usize == self.device);
        own.flat_map(|(queue, q)| q.steps.iter().enumerate().map(move |(at, step)| ((queue, at), step)))
            .filter_map(|(at, step)| touches(step).then_some(at))
            .collect()
    }
}

fn operands(step: &Step) -> impl Iterator<Item = usize> {
    step.inputs.iter().chain(&step.outputs).filter(|&&v| v != NO_VALUE).map(|&v| v as usize)
}

fn key(step: &Step, values: &Values<'_>) -> Key {
    let address = |v| values.root(v).and_then(|root| values.lent.get(&root)).map_or(0, |p| p.addr());
    operands(step).map(address).collect()
}
