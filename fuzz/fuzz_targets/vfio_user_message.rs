#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| virtnet_tests::fuzz::vfio_user_message(bytes));
