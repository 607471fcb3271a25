#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| memberlist_fuzz::stream::run(input));
