//! Texts and tables of counts of any bytes: an error or a corpus whose laws sum to 1, never a
//! panic.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| popgrad::paper::birth::corpus::fuzz(data));
