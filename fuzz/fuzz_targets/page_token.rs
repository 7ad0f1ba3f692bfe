#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| billing_service_fuzz::page_token::run(data));
