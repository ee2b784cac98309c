//! Fuzz target: see `checks::text`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::text(bytes));
