//! Losses, layer norm, updates, table rows and dot products of any bit patterns against the twin.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| popgrad_kernels::checks::vecmath(data));
