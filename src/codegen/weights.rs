//! The weight section: which constants a plan carries, how they are packed and where they lie.

use crate::call::Target;
use partita_ir::{Tensor, ValueId};
use partita_plan::Kernel;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Alignment of every weight in the section, in bytes.
pub const WEIGHT_ALIGN: u64 = 64;

/// A weight as stored: the tensor's own bytes, or packed ones.
#[derive(Clone, Debug)]
pub enum StoredBytes {
    Raw(Tensor),
    Packed(Vec<u8>),
}

impl AsRef<[u8]> for StoredBytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Raw(t) => t.bytes(),
            Self::Packed(bytes) => bytes,
        }
    }
}

/// A weight with its place in the section.
#[derive(Clone, Debug)]
pub struct StoredWeight {
    pub offset_bytes: u64,
    pub bytes: StoredBytes,
    /// Name of the packed layout; empty for row-major.
    pub layout: String,
}

/// A constant as one kernel operand wants it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct JobKey {
    value: ValueId,
    driver: &'static str,
    /// Kernel and operand, or nothing for a plain copy.
    kernel: String,
}

struct Job<'a> {
    tensor: &'a Tensor,
    /// Target, kernel and operand index; `None` where the bytes are wanted as they are.
    packing: Option<(Target, Kernel, usize)>,
}

/// Collects constants while a plan is assembled; equal wishes share one weight.
#[derive(Default)]
pub(crate) struct WeightPool<'a> {
    ids: BTreeMap<JobKey, usize>,
    jobs: Vec<Job<'a>>,
}

impl<'a> WeightPool<'a> {
    /// The index of `value` as operand `operand` of `kernel` on `target` wants it.
    pub(crate) fn packed(
        &mut self,
        value: ValueId,
        tensor: &'a Tensor,
        target: Target,
        kernel: &Kernel,
        operand: usize,
    ) -> usize {
        let bare = Kernel { program: None, ..kernel.clone() };
        let key = JobKey { value, driver: target.driver, kernel: format!("{operand} {bare:?}") };
        self.add(key, Job { tensor, packing: Some((target, bare, operand)) })
    }

    /// The index of `value` with its bytes as they are.
    pub(crate) fn plain(&mut self, value: ValueId, tensor: &'a Tensor) -> usize {
        self.add(JobKey { value, driver: "", kernel: String::new() }, Job { tensor, packing: None })
    }

    fn add(&mut self, key: JobKey, job: Job<'a>) -> usize {
        let jobs = &mut self.jobs;
        *self.ids.entry(key).or_insert_with(|| {
            jobs.push(job);
            jobs.len() - 1
        })
    }

    /// Packs everything (in parallel, the result does not depend on how) and lays it out. Plain bytes of one
    /// constant are stored once, however many kernels read them.
    pub(crate) fn finish(self) -> (Vec<StoredWeight>, u64) {
        let packed: Vec<(String, StoredBytes)> = self.jobs.par_iter().map(pack).collect();
        let mut raw: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        let mut end = 0u64;
        let mut stored = Vec::with_capacity(packed.len());
        for (layout, bytes) in packed {
            let identity = match &bytes {
                StoredBytes::Raw(t) => Some((t.bytes().as_ptr().addr(), t.bytes().len())),
                StoredBytes::Packed(_) => None,
            };
            let known = identity.and_then(|id| raw.get(&id).copied());
            let offset_bytes = known.unwrap_or(end);
            if known.is_none() {
                end = (end + bytes.as_ref().len() as u64).next_multiple_of(WEIGHT_ALIGN);
                identity.map(|id| raw.insert(id, offset_bytes));
            }
            stored.push(StoredWeight { offset_bytes, bytes, layout });
        }
        (stored, end)
    }
}

fn pack(job: &Job) -> (String, StoredBytes) {
    let tensor = job.tensor;
    let packed = job.packing.as_ref().and_then(|(target, kernel, n)| {
        (target.pack)(kernel, *n, tensor.bytes(), tensor.dtype(), tensor.shape())
    });
    match packed {
        Some((layout, bytes)) => (layout, StoredBytes::Packed(bytes)),
        None => (String::new(), StoredBytes::Raw(tensor.clone())),
    }
}
