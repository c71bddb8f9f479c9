//! Array files of any bytes: an error or arrays, never a panic, never memory that the bytes do not
//! justify.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| popgrad::report::arrays::fuzz_read_arrays(data));
