#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| virtnet_tests::fuzz::function(bytes));
