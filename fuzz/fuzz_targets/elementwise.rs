//! exp, ln, sums, softmax and cross-entropy of any bit patterns against the twin.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| popgrad_kernels::checks::elementwise(data));
