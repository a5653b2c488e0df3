#![no_main]

#[path = "../../services/src/codec/request/reference.rs"]
mod reference;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    services::fuzzing::http_request(bytes);
    reference::compare(bytes, services::fuzzing::head_parts);
});
