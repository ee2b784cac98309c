//! Aligned memory of the device: the arena and scratch.
#![allow(unsafe_code, reason = "the arena and scratch are raw, aligned memory")]

use crate::prepared::ALIGN;
use partita_runtime::error::RuntimeError;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// Huge pages begin at multiples of this many bytes.
const HUGE: usize = 2 << 20;
/// Bytes below which huge pages are not asked for.
const HUGE_FROM: usize = 4 << 20;

/// Zeroed memory, aligned to `ALIGN` bytes at least. Large ones are pages that nobody has touched yet.
pub(crate) struct Memory {
    /// What the allocator gave.
    base: NonNull<u8>,
    layout: Layout,
    /// The first aligned byte in it, and how many are used from there on.
    ptr: *mut u8,
    bytes: usize,
}

// SAFETY: plain memory; who may use it when is decided by the plan's order.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Reserves `bytes` bytes.
    ///
    /// # Errors
    /// `R044` when memory is short.
    pub(crate) fn new(bytes: usize) -> Result<Self, RuntimeError> {
        let short = || {
            RuntimeError::new(
                "R044",
                "the CPU's memory",
                format!("{bytes} bytes could not be reserved"),
                "run a smaller batch or a smaller model, or free memory",
            )
        };
        let align = if bytes >= HUGE_FROM { HUGE } else { ALIGN };
        // Aligned by hand: the allocator would write zeros to aligned memory instead of asking for fresh pages.
        let room = bytes.checked_add(align).ok_or_else(short)?;
        let layout = Layout::from_size_align(room, 1).map_err(|_| short())?;
        // SAFETY: the size is at least `ALIGN`.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(short)?;
        let skipped = base.addr().get().next_multiple_of(align) - base.addr().get();
        let ptr = base.as_ptr().wrapping_add(skipped);
        advise(ptr, bytes);
        Ok(Self { base, layout, ptr, bytes })
    }

    pub(crate) fn ptr(&self) -> *mut u8 {
        self.ptr
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: reserved with this layout.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

/// Asks for huge pages; a refusal costs only speed.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
fn advise(ptr: *mut u8, bytes: usize) {
    /// `MADV_HUGEPAGE` of Linux.
    const HUGE_PAGE: i32 = 14;
    unsafe extern "C" {
        fn madvise(address: *mut std::ffi::c_void, bytes: usize, advice: i32) -> i32;
    }
    if bytes >= HUGE_FROM {
        // SAFETY: the range is ours and begins at a page; the advice does not change contents.
        unsafe { madvise(ptr.cast(), bytes / HUGE * HUGE, HUGE_PAGE) };
    }
}

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
fn advise(_: *mut u8, _: usize) {}
