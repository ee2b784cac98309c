//! After shapes are bound, a run allocates nothing on the host. A program of its own, without a test harness: a
//! harness has threads that allocate at any time.

#![allow(unsafe_code, reason = "a counting allocator wraps the system's")]
#![allow(clippy::expect_used, clippy::print_stdout, reason = "a test program")]

use partita::{CompileOptions, compile, devices, load, npy, session};
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system allocator unchanged; only a counter is kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/digits");
    let images = npy::read(&folder.join("images.npy")).expect("the images load");
    let model = load(&folder.join("digits.onnx"), &Default::default()).expect("the model loads");
    for threads in [1, 2] {
        let options = CompileOptions { threads: Some(threads), ..Default::default() };
        let machine = devices::detected(false).expect("the machine is detected");
        let compiled = compile(&model, &machine, &options, &|_| {}).expect("the model compiles");
        let mut program = session::load_compiled(&compiled).expect("the plan loads");
        let session = program.session().expect("the model is static");
        let inputs = [(images.bytes(), images.shape())];
        let mut scores = vec![0u8; images.shape()[0] * 10 * 4];
        for _ in 0..2 {
            session.run(&inputs).expect("it runs");
            session.output(0, &mut scores).expect("it has an output");
        }
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..10 {
            session.run(&inputs).expect("it runs");
            session.output(0, &mut scores).expect("it has an output");
        }
        let during = ALLOCATIONS.load(Ordering::Relaxed) - before;
        assert_eq!(during, 0, "ten runs on {threads} threads allocated {during} times");
        println!("ten runs on {threads} threads allocated nothing");
    }
}
