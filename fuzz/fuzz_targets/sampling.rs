//! Addressed draws, simplices, stationary laws and inversion in lanes, bit for bit against one at a
//! time.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| popgrad_kernels::checks::sampling(data));
