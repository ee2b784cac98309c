//! What all kernels share: operands as raw views whose bounds were checked, scratch memory, launching.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::isa::Isa;
use crate::layout::Layout;
use crate::team::Team;
use partita_plan::{ElementType, Kernel};
use partita_runtime::error::RuntimeError;

/// Bytes to which arenas, scratch areas and parts of them are aligned.
pub(crate) const ALIGN: usize = 64;

/// An operand or result of a step: `bytes` readable (results: writable) bytes at `ptr`.
#[derive(Clone, Debug)]
pub(crate) struct Operand {
    pub ptr: *mut u8,
    pub bytes: usize,
    pub dtype: ElementType,
    pub shape: Vec<usize>,
    /// Packed layout of a weight; then `shape` is the logical shape.
    pub layout: Option<Layout>,
}

// SAFETY: an operand is an address; who may use it when is decided by the plan's order.
unsafe impl Send for Operand {}
// SAFETY: as above.
unsafe impl Sync for Operand {}

impl Operand {
    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub(crate) fn f32(&self) -> *mut f32 {
        self.ptr.cast()
    }
}

/// A pointer that threads of one run may share.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(pub *mut T);

// SAFETY: parts of a run touch disjoint ranges; the kernels see to that.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The pointer; a method, so that closures capture the wrapper.
    pub(crate) fn get(&self) -> *mut T {
        self.0
    }
}

/// A step while it is prepared.
pub(crate) struct Call<'a> {
    /// Name of the step, for errors.
    pub place: &'a str,
    pub kernel: &'a Kernel,
    pub inputs: Vec<Option<Operand>>,
    pub outputs: Vec<Operand>,
    /// The element type of operands that were widened to f32 for this kernel.
    pub widened: Option<ElementType>,
    /// Values of the plan's symbols.
    pub symbols: &'a [i64],
    pub isa: Isa,
    /// Members of the team that will run it.
    pub members: usize,
}

impl Call<'_> {
    /// The error "this step does not fit its kernel".
    pub(crate) fn bad(&self, what: impl Into<String>) -> RuntimeError {
        bad_step(self.place, &self.kernel.library, what)
    }

    /// Input `index`, which must be there.
    pub(crate) fn input(&self, index: usize) -> Result<&Operand, RuntimeError> {
        self.optional(index).ok_or_else(|| self.bad(format!("operand {index} is missing")))
    }

    /// Input `index`, if there.
    pub(crate) fn optional(&self, index: usize) -> Option<&Operand> {
        self.inputs.get(index).and_then(Option::as_ref)
    }

    /// Result `index`, which must be there.
    pub(crate) fn output(&self, index: usize) -> Result<&Operand, RuntimeError> {
        self.outputs.get(index).ok_or_else(|| self.bad(format!("result {index} is missing")))
    }

    /// Fails with `what` unless `holds`.
    pub(crate) fn ensure(&self, holds: bool, what: &str) -> Result<(), RuntimeError> {
        if holds { Ok(()) } else { Err(self.bad(what)) }
    }

    /// Parameter `name` as one number per axis, `default` when absent.
    pub(crate) fn sizes(&self, name: &str, count: usize, default: usize) -> Result<Vec<usize>, RuntimeError> {
        let ints = self.kernel.ints(name);
        if ints.is_empty() {
            return Ok(vec![default; count]);
        }
        let sizes: Option<Vec<usize>> = ints.iter().map(|&v| usize::try_from(v).ok()).collect();
        match sizes {
            Some(sizes) if sizes.len() == count && sizes.iter().all(|&s| s <= MAX_PARAM) => Ok(sizes),
            _ => Err(self.bad(format!("parameter `{name}` does not have {count} valid sizes"))),
        }
    }

    /// Parameter `name` as an axis below `rank`.
    pub(crate) fn axis(&self, name: &str, rank: usize) -> Result<usize, RuntimeError> {
        let axis = self.kernel.int(name).and_then(|a| usize::try_from(a).ok());
        axis.filter(|&a| a < rank).ok_or_else(|| self.bad(format!("parameter `{name}` is not an axis")))
    }

    /// Parameter `name` as a flag; absent is false.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.kernel.int(name).is_some_and(|v| v != 0)
    }
}

/// Largest stride, pad or dilation a kernel takes.
const MAX_PARAM: usize = 1 << 31;

/// The error "this step does not fit its kernel".
pub(crate) fn bad_step(place: &str, library: &str, what: impl Into<String>) -> RuntimeError {
    RuntimeError::new("R040", format!("step `{place}` ({library})"), what, "compile the model again")
}

/// Scratch memory a kernel needs while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scratch {
    /// Bytes all members share.
    pub shared: usize,
    /// Bytes of each member.
    pub local: usize,
}

impl Scratch {
    /// Both needs rounded up, so that parts of them are aligned.
    pub(crate) fn aligned(self) -> Self {
        Self { shared: aligned(self.shared), local: aligned(self.local) }
    }

    /// The larger of both needs.
    pub(crate) fn max(self, other: Self) -> Self {
        Self { shared: self.shared.max(other.shared), local: self.local.max(other.local) }
    }
}

/// What a kernel gets at launch.
pub(crate) struct Cx<'a> {
    pub team: &'a Team,
    pub shared: *mut u8,
    pub local: *mut u8,
    /// Distance between two members' scratch.
    pub local_bytes: usize,
}

// SAFETY: members use disjoint local scratch, and kernels split the shared scratch.
unsafe impl Sync for Cx<'_> {}

impl Cx<'_> {
    /// Scratch of member `part`.
    pub(crate) fn local(&self, part: usize) -> *mut u8 {
        self.local.wrapping_add(part * self.local_bytes)
    }

    /// Runs `job` on up to `parts` members.
    pub(crate) fn run(&self, parts: usize, job: &(dyn Fn(usize) + Sync)) -> Result<(), RuntimeError> {
        self.team.run(parts, job).map_err(|_| {
            RuntimeError::new(
                "R041",
                "the CPU threads",
                "a worker thread failed in an earlier step",
                "open the session again",
            )
        })
    }
}

/// A step that is ready to run.
pub(crate) trait Prepared: Send + Sync {
    /// Scratch needed by `launch`.
    fn scratch(&self) -> Scratch {
        Scratch::default()
    }

    /// Computes the step. Allocates nothing.
    ///
    /// # Errors
    /// When operand values are not valid (an index out of range), or a worker failed.
    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError>;
}

/// Rounds up to the alignment of scratch parts.
pub(crate) fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGN)
}

/// How many members share `work` elementary operations: small work is not worth waking anyone.
pub(crate) fn parts_for(work: usize, grain: usize, members: usize) -> usize {
    (work / grain.max(1)).clamp(1, members)
}
