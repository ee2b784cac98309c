//! What a run may use: steps of loops, time and memory, counted as it goes.

use crate::PlanError;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// Runs of bodies before a loop is taken to be endless.
pub const DEFAULT_MAX_STEPS: u64 = 1_000_000;

/// Bytes that values computed on the host may hold together.
pub const DEFAULT_MAX_BYTES: u64 = 1 << 29;

/// Limits of a run.
#[derive(Clone, Copy, Debug)]
pub struct RunLimits {
    /// Runs of bodies.
    pub steps: u64,
    /// Bytes held at one time by values that are computed on the host.
    pub bytes: u64,
    /// Wall-clock time; `None` for no limit.
    pub time: Option<Duration>,
}

impl Default for RunLimits {
    fn default() -> Self {
        Self { steps: DEFAULT_MAX_STEPS, bytes: DEFAULT_MAX_BYTES, time: None }
    }
}

/// What is left of the limits.
#[derive(Debug)]
pub struct Budget {
    steps: Cell<u64>,
    bytes: Cell<u64>,
    deadline: Option<Instant>,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(RunLimits::default())
    }
}

impl Budget {
    /// A full budget; the time starts now.
    pub fn new(limits: RunLimits) -> Self {
        let deadline = limits.time.and_then(|t| Instant::now().checked_add(t));
        Self { steps: Cell::new(limits.steps), bytes: Cell::new(limits.bytes), deadline }
    }

    /// Takes one run of a body.
    ///
    /// # Errors
    /// `X030` when none is left, or no time.
    pub fn step(&self) -> Result<(), PlanError> {
        let left = self.steps.get().checked_sub(1).ok_or_else(|| {
            over(
                "X030",
                "the limit of runs of loop bodies is reached",
                "raise it with --max-steps if the loop ends",
            )
        })?;
        self.steps.set(left);
        self.check_time()
    }

    /// Checks the time.
    ///
    /// # Errors
    /// `X036` when there is none left.
    pub fn check_time(&self) -> Result<(), PlanError> {
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => {
                Err(over("X036", "the time for the run is over", "raise it with --timeout"))
            }
            _ => Ok(()),
        }
    }

    /// Takes bytes.
    ///
    /// # Errors
    /// `X035` when not as many are left.
    pub fn hold(&self, bytes: usize) -> Result<(), PlanError> {
        let left =
            self.bytes.get().checked_sub(bytes as u64).ok_or_else(|| {
                over("X035", "the limit of memory is reached", "raise it with --max-memory")
            })?;
        self.bytes.set(left);
        Ok(())
    }

    /// Checks that as many bytes are left, without taking them.
    ///
    /// # Errors
    /// `X035` when they are not.
    pub fn room(&self, bytes: usize) -> Result<(), PlanError> {
        self.hold(bytes)?;
        self.release(bytes);
        Ok(())
    }

    /// Gives bytes back.
    pub fn release(&self, bytes: usize) {
        self.bytes.set(self.bytes.get().saturating_add(bytes as u64));
    }
}

fn over(code: &'static str, message: &str, hint: &str) -> PlanError {
    PlanError::new(code, "the run", message, hint)
}
