//! Fuzz target: see `checks::plan`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::plan(bytes));
