#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| services::fuzzing::nodes(bytes));
