#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| billing_service_fuzz::jwt::run(data));
