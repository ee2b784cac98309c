//! Fuzz target: see `checks::importer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::importer(bytes));
