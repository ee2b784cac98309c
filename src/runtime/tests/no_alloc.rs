//! After the first run with a shape, runs allocate nothing on the host, on any thread.
//!
//! This test has no harness: the harness allocates on its own thread while a test runs.
#![allow(unsafe_code, clippy::unwrap_used, reason = "a counting allocator, in a test without harness")]

mod common;

use common::plans::two_devices;
use common::{bytes, drivers, load};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    let x = bytes(&[1.0, 2.0, 3.0]);
    let mut result = [0; 12];
    for trace in [false, true] {
        let mut session = load(two_devices(["naive", "open"], true), &drivers(), trace);
        let mut run = || {
            session.run(&[(&x, &[3])]).unwrap();
            session.output(0, &mut result).unwrap();
        };
        run();
        let before = CALLS.load(Ordering::SeqCst);
        (0..100).for_each(|_| run());
        assert_eq!(CALLS.load(Ordering::SeqCst) - before, 0);
    }
}
