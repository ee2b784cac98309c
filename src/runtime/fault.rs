//! Devices that fail on purpose: a driver around another one that fails at a chosen call.
//!
//! Tests wrap a driver with it to see that every failure becomes a typed error and that the next run works.
//! Nothing of it is in the way of a session that does not use it.

use crate::driver::{Bound, Driver, DriverFactory};
use crate::error::RuntimeError;
use partita_plan::Plan;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A call that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Site {
    Open,
    Bind,
    Launch,
    Upload,
    Download,
    Finish,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It returns error `R090`.
    Error,
    /// It panics, as a faulty driver would.
    Panic,
}

#[derive(Clone, Copy)]
struct Armed {
    site: Site,
    failure: Failure,
    /// Calls of the site that still succeed.
    left: u32,
}

/// Which call fails next, shared by all devices of a factory. Fails once, then is harmless.
#[derive(Default)]
pub struct Faults {
    armed: Mutex<Option<Armed>>,
    fired: AtomicU32,
}

impl Faults {
    /// The call of `site` after `skip` successful ones fails.
    pub fn arm(&self, site: Site, skip: u32, failure: Failure) {
        *self.lock() = Some(Armed { site, failure, left: skip });
    }

    /// Nothing fails any more.
    pub fn disarm(&self) {
        *self.lock() = None;
    }

    /// How many failures have happened.
    pub fn fired(&self) -> u32 {
        self.fired.load(Ordering::SeqCst)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Armed>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this call fails, and how.
    fn take(&self, site: Site) -> Option<Failure> {
        let mut armed = self.lock();
        let shot = armed.as_mut().filter(|a| a.site == site)?;
        if shot.left > 0 {
            shot.left -= 1;
            return None;
        }
        let failure = shot.failure;
        *armed = None;
        self.fired.fetch_add(1, Ordering::SeqCst);
        Some(failure)
    }

    #[expect(clippy::panic, reason = "a panicking driver is what is injected")]
    fn call(&self, site: Site) -> Result<(), RuntimeError> {
        match self.take(site) {
            None => Ok(()),
            Some(Failure::Panic) => panic!("injected panic"),
            Some(Failure::Error) => Err(RuntimeError::new(
                "R090",
                format!("{site:?}"),
                "a fault was injected here",
                "this happens in tests only",
            )),
        }
    }
}

/// Opens devices of another factory, wrapped so that they can fail. It keeps the other's name.
pub struct FaultFactory {
    inner: Arc<dyn DriverFactory>,
    faults: Arc<Faults>,
}

impl FaultFactory {
    /// Wraps `inner`; `faults` says what fails.
    pub fn new(inner: Arc<dyn DriverFactory>, faults: Arc<Faults>) -> Self {
        Self { inner, faults }
    }
}

impl DriverFactory for FaultFactory {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn open(&self, plan: &Arc<Plan>, device: usize) -> Result<Box<dyn Driver>, RuntimeError> {
        self.faults.call(Site::Open)?;
        let inner = self.inner.open(plan, device)?;
        Ok(Box::new(FaultDriver { inner, faults: Arc::clone(&self.faults) }))
    }
}

struct FaultDriver {
    inner: Box<dyn Driver>,
    faults: Arc<Faults>,
}

impl Driver for FaultDriver {
    fn bind(&mut self, bound: &Arc<Bound>) -> Result<(), RuntimeError> {
        self.faults.call(Site::Bind)?;
        self.inner.bind(bound)
    }

    fn launch(&self, queue: usize, step: usize) -> Result<(), RuntimeError> {
        self.faults.call(Site::Launch)?;
        self.inner.launch(queue, step)
    }

    fn upload(&self, value: usize, bytes: &[u8]) -> Result<(), RuntimeError> {
        self.faults.call(Site::Upload)?;
        self.inner.upload(value, bytes)
    }

    fn download(&self, value: usize, bytes: &mut [u8]) -> Result<(), RuntimeError> {
        self.faults.call(Site::Download)?;
        self.inner.download(value, bytes)
    }

    fn host_bytes(&self, value: usize) -> Option<&[u8]> {
        self.inner.host_bytes(value)
    }

    fn finish(&self) -> Result<(), RuntimeError> {
        self.faults.call(Site::Finish)?;
        self.inner.finish()
    }

    fn is_simulated(&self) -> bool {
        self.inner.is_simulated()
    }
}
