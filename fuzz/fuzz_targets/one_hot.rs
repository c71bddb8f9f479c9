//! Look-ups over one-hot rows against their twins.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| popgrad_kernels::checks::one_hot(data));
