//! Texts of graphs with several parents: an error, or a graph that its own text gives back.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| popgrad::task::dag::fuzz(data));
