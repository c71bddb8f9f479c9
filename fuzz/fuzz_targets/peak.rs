//! Load sweeps over slices of any length and alignment.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| popgrad_kernels::checks::peak(data));
