//! Token and label files of any bytes: an error or rows of equal length, never a panic.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| popgrad::discover::tokens::fuzz(data));
