//! Configuration files and overrides of any text: an error or a configuration that survives the
//! round trip.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(base) = popgrad::paper::preset("chain", false) {
        popgrad::config::fuzz(data, &base);
    }
    if let Ok(base) = popgrad::paper::preset("birth", false) {
        popgrad::paper::birth::fuzz(data, &base);
    }
});
