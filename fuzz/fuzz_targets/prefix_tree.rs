//! Small prefix trees, every kind of weights, against word-by-word enumeration.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| popgrad_kernels::checks::prefix_tree(data));
