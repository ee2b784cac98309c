//! What a device must be able to do for a session: bind a plan's values to memory, launch, copy in and out.
#![allow(unsafe_code, reason = "a device may work in the caller's memory, which is lent by address")]

use crate::error::RuntimeError;
use partita_plan::{ElementType, Kernel, Plan};
use std::ptr::NonNull;
use std::sync::Arc;

/// Weight bytes behind a plan: a memory map or a vector, shared by all drivers.
pub type WeightBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A plan with its symbols bound: every size is a number now.
#[derive(Clone)]
pub struct Bound {
    pub plan: Arc<Plan>,
    /// Values of the plan's symbols.
    pub symbols: Vec<i64>,
    /// Shape of every value.
    pub shapes: Vec<Vec<usize>>,
    /// Bytes of every value (stored bytes for packed weights).
    pub sizes_bytes: Vec<usize>,
    /// Byte offset of every value in its device's arena or in the weight section; aliases are resolved.
    pub offsets_bytes: Vec<usize>,
    /// Arena bytes per device.
    pub arena_bytes: Vec<usize>,
    /// The weight section of the plan file, from its first byte.
    pub weights: WeightBytes,
}

/// Memory of the caller in which a value lies while steps run.
#[derive(Clone, Copy, Debug)]
pub struct Lent {
    pub value: usize,
    /// The value's first byte; `None` for its place in the device's own memory.
    pub memory: Option<NonNull<u8>>,
    /// Bytes there, as many as the value has.
    pub bytes: usize,
}

/// One opened device of a plan. Steps of one queue are launched in order; transfers may call `upload` and
/// `download` from other threads while a step runs, but never on a value that a running step touches.
pub trait Driver: Send + Sync {
    /// Reserves the arena and prepares every step of this device's compute queue for these shapes.
    ///
    /// # Errors
    /// When memory is short or a kernel does not exist here for these types.
    fn bind(&mut self, bound: &Arc<Bound>) -> Result<(), RuntimeError>;

    /// Runs step `step` of compute queue `queue`; returns when its results may be read by `download`, or
    /// when it has been submitted to a device that keeps order itself. Allocates nothing on the host.
    ///
    /// # Errors
    /// When the device fails or a kernel refuses its operands (an index out of range).
    fn launch(&self, queue: usize, step: usize) -> Result<(), RuntimeError>;

    /// Copies host bytes into a value. The length equals the value's size.
    ///
    /// # Errors
    /// When the device fails.
    fn upload(&self, value: usize, bytes: &[u8]) -> Result<(), RuntimeError>;

    /// Copies a value to host bytes, after everything launched before it. The length equals the value's size.
    ///
    /// # Errors
    /// When the device fails.
    fn download(&self, value: usize, bytes: &mut [u8]) -> Result<(), RuntimeError>;

    /// The value's bytes where the host can read them in place, so that transfers copy once.
    fn host_bytes(&self, _value: usize) -> Option<&[u8]> {
        None
    }

    /// Moves values (with all that share their bytes) into the caller's memory, or back. False where the device
    /// works in its own memory only; then nothing has changed. After an error it has to be bound again.
    ///
    /// # Safety
    /// Until the value is moved again or the device bound again, whoever launches steps, uploads or downloads
    /// sees to it that the memory is there and used by nobody else meanwhile. Steps write only to values that
    /// are results in the plan.
    ///
    /// # Errors
    /// When a kernel does not take an operand there.
    unsafe fn lend(&mut self, _values: &[Lent]) -> Result<bool, RuntimeError> {
        Ok(false)
    }

    /// Waits until all launched steps are done.
    ///
    /// # Errors
    /// When the device fails.
    fn finish(&self) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// Whether time is kept by the plan's predictions rather than by a clock (a simulated device).
    fn is_simulated(&self) -> bool {
        false
    }
}

/// Opens devices of one kind.
pub trait DriverFactory: Send + Sync {
    /// The driver's name in machine files and plans.
    fn name(&self) -> &'static str;

    /// Opens device `device` of the plan.
    ///
    /// # Errors
    /// When the device is absent on this machine.
    fn open(&self, plan: &Arc<Plan>, device: usize) -> Result<Box<dyn Driver>, RuntimeError>;
}

/// A tensor's type and shape as a host kernel sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostType {
    pub dtype: ElementType,
    pub shape: Vec<usize>,
}

/// A kernel evaluated on the host for operators without a fast one.
pub trait HostKernel: Send + Sync {
    /// Reads `inputs` (`None` for omitted operands) and fills `outputs`, both row-major.
    ///
    /// # Errors
    /// When the operands' values are not valid for the operator.
    fn run(&self, inputs: &[Option<&[u8]>], outputs: &mut [&mut [u8]]) -> Result<(), RuntimeError>;
}

/// Source of host kernels: the reference evaluation of operators, where the program links it.
pub trait HostKernels: Send + Sync {
    /// Prepares `kernel` for these operands and results. `symbols` are the values of the plan's symbols.
    ///
    /// # Errors
    /// When the operator is unknown or does not take these types.
    fn prepare(
        &self,
        kernel: &Kernel,
        inputs: &[Option<HostType>],
        outputs: &[HostType],
        symbols: &[i64],
    ) -> Result<Box<dyn HostKernel>, RuntimeError>;
}
