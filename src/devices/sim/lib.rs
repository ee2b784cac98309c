//! Simulated devices: right numbers on the CPU, time by the plan's predictions.
//!
//! **Contract.** A plan for a machine nobody here has runs with this driver: every launch is done by the driver
//! it wraps, and the session's timeline counts the plan's times for these devices and their links.
//!
//! **Invariants.** No kernel and no clock here. Values are those of the wrapped driver, bit for bit.

use partita_plan::Plan;
use partita_runtime::{Bound, Driver, DriverFactory, RuntimeError};
use std::sync::Arc;

/// The driver's name in machine files and plans.
pub const NAME: &str = "sim";

/// Opens simulated devices on top of another driver.
pub struct SimFactory {
    inner: Arc<dyn DriverFactory>,
}

impl SimFactory {
    /// Simulated devices whose values `inner` computes (the CPU driver).
    pub fn new(inner: Arc<dyn DriverFactory>) -> Self {
        Self { inner }
    }
}

impl DriverFactory for SimFactory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn open(&self, plan: &Arc<Plan>, device: usize) -> Result<Box<dyn Driver>, RuntimeError> {
        Ok(Box::new(SimDriver { inner: self.inner.open(plan, device)? }))
    }
}

struct SimDriver {
    inner: Box<dyn Driver>,
}

impl Driver for SimDriver {
    fn bind(&mut self, bound: &Arc<Bound>) -> Result<(), RuntimeError> {
        self.inner.bind(bound)
    }

    fn launch(&self, queue: usize, step: usize) -> Result<(), RuntimeError> {
        self.inner.launch(queue, step)
    }

    fn upload(&self, value: usize, bytes: &[u8]) -> Result<(), RuntimeError> {
        self.inner.upload(value, bytes)
    }

    fn download(&self, value: usize, bytes: &mut [u8]) -> Result<(), RuntimeError> {
        self.inner.download(value, bytes)
    }

    fn host_bytes(&self, value: usize) -> Option<&[u8]> {
        self.inner.host_bytes(value)
    }

    fn finish(&self) -> Result<(), RuntimeError> {
        self.inner.finish()
    }

    fn is_simulated(&self) -> bool {
        true
    }
}
