//! Files as memory: a regular file mapped for reading.
//!
//! A mapped file that somebody truncates while it is in use ends the process with a bus error; no system
//! offers a cure short of copying. Model files are therefore expected to be replaced (renamed over), not
//! rewritten in place, while they are open.

#![allow(unsafe_code, reason = "mapping a file is unsafe in itself; this file is the one place that does it")]

use memmap2::Mmap;
use partita_ir::{Bytes, Diag};
use std::fs::{File, Metadata};
use std::path::Path;
use std::sync::Arc;

/// Bytes that tensors may share.
pub(crate) type Owner = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Lets `Bytes` own further slices.
struct Held(Bytes);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

/// An owner over bytes that are in memory already.
pub(crate) fn hold(bytes: Bytes) -> Owner {
    Arc::new(Held(bytes))
}

/// Maps the regular file at `path`; at most `max_bytes`. `accept` sees the file that is open, whatever happens to its
/// name meanwhile.
///
/// # Errors
/// `I001` when it cannot be opened or is no regular file, `I002` when it is too large, and what `accept` says.
pub(crate) fn map(
    path: &Path,
    max_bytes: u64,
    accept: &dyn Fn(&Metadata) -> Result<(), Diag>,
) -> Result<Owner, Diag> {
    let cannot = |error: std::io::Error| {
        Diag::new("I001", format!("the file cannot be read: {error}"))
            .hint("check the path and its permissions")
    };
    let regular = |is_file: bool| {
        let diag = Diag::new("I001", "this is not a regular file").hint("give the path of a file");
        if is_file { Ok(()) } else { Err(diag) }
    };
    // Asked before opening as well: opening a pipe would wait for its writer.
    regular(std::fs::metadata(path).map_err(cannot)?.is_file())?;
    let file = File::open(path).map_err(cannot)?;
    let metadata = file.metadata().map_err(cannot)?;
    regular(metadata.is_file())?;
    accept(&metadata)?;
    if metadata.len() > max_bytes {
        let text = format!("the file has {} bytes, at most {max_bytes} are read", metadata.len());
        return Err(Diag::new("I002", text).hint("raise the limit"));
    }
    if metadata.len() == 0 {
        return Ok(Arc::new(Vec::new()));
    }
    // SAFETY: the map is only read, and it lives as long as every slice of it (they share the owner). That the
    // file is not truncated meanwhile is a documented demand on the user, see above.
    let map = unsafe { Mmap::map(&file) }.map_err(cannot)?;
    Ok(Arc::new(map))
}
