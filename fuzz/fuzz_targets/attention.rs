//! Causal attention of any shape and layout, forward and backward, against the twin and under NaN
//! behind the mask.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| popgrad_kernels::checks::attention(data));
