//! Where a plan comes from: a file that is mapped into memory, or bytes.
#![allow(unsafe_code, reason = "memory-mapping a file is unsafe")]

use crate::arena::AlignedBytes;
use crate::driver::WeightBytes;
use crate::error::RuntimeError;
use memmap2::Mmap;
use partita_plan::check::check_all;
use partita_plan::limits::VALUE_ALIGN_BYTES;
use partita_plan::{Plan, PlanFile};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The bytes of a plan file, or where to find them.
pub enum PlanSource {
    /// A file; its weights are read in place, page by page when first used.
    Path(PathBuf),
    /// The bytes of a plan file.
    Bytes(Arc<dyn AsRef<[u8]> + Send + Sync>),
}

impl From<&Path> for PlanSource {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_path_buf())
    }
}

impl From<PathBuf> for PlanSource {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

impl From<Vec<u8>> for PlanSource {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(Arc::new(bytes))
    }
}

impl From<&[u8]> for PlanSource {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(Arc::new(bytes.to_vec()))
    }
}

/// A part of shared bytes.
struct Section {
    whole: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Section {
    fn as_ref(&self) -> &[u8] {
        (*self.whole).as_ref().get(self.range.clone()).unwrap_or_default()
    }
}

/// Decodes the plan and hands its weights over, starting on a cache line.
///
/// # Errors
/// `R001` the file cannot be read, `R006` memory is short, `L001`-`L007` as `PlanFile::decode`.
pub(crate) fn open(source: PlanSource, verify_weights: bool) -> Result<(Plan, WeightBytes), RuntimeError> {
    let whole = match source {
        PlanSource::Path(path) => map(&path)?,
        PlanSource::Bytes(bytes) => bytes,
    };
    let file = PlanFile::decode((*whole).as_ref())?;
    if verify_weights {
        file.verify_weights((*whole).as_ref())?;
    }
    let section = Section { whole, range: file.weights };
    let aligned = (section.as_ref().as_ptr() as u64).is_multiple_of(VALUE_ALIGN_BYTES);
    if aligned || section.range.is_empty() {
        return Ok((file.plan, Arc::new(section)));
    }
    let copy = AlignedBytes::copy_of(section.as_ref()).ok_or_else(|| short(section.range.len()))?;
    Ok((file.plan, Arc::new(copy)))
}

/// Reads the plan of a file and checks it; the weights behind it are not read.
///
/// # Errors
/// `R001` the file cannot be read, `L...` when the plan is damaged.
pub fn read_plan(path: &Path) -> Result<Plan, RuntimeError> {
    let (plan, _) = open(PlanSource::Path(path.to_path_buf()), false)?;
    check_all(&plan)?;
    Ok(plan)
}

fn map(path: &Path) -> Result<Arc<dyn AsRef<[u8]> + Send + Sync>, RuntimeError> {
    let unreadable = |e: std::io::Error| {
        RuntimeError::new(
            "R001",
            path.display().to_string(),
            format!("the plan cannot be read: {e}"),
            "check the path and its permissions",
        )
    };
    let file = File::open(path).map_err(unreadable)?;
    // SAFETY: the map is read-only and private to us. A plan is replaced by renaming, never changed in place, so
    // the mapped file keeps its bytes; whoever truncates it meanwhile gets a bus error, as with any program image.
    let map = unsafe { Mmap::map(&file) };
    Ok(Arc::new(map.map_err(unreadable)?))
}

fn short(bytes: usize) -> RuntimeError {
    RuntimeError::new(
        "R006",
        "the weight section",
        format!("{bytes} bytes of memory are not available"),
        "load the plan from a file, so that its weights are mapped instead of copied",
    )
}
