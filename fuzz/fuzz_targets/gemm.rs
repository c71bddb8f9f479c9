//! Matrix products of any shape and layout against the twin, on every instruction set. The check
//! itself is a plain function, which stable `cargo test` runs on the corpus.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| popgrad_kernels::checks::gemm(data));
