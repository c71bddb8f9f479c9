//! Configuration files and overrides of any text: an error or a configuration that survives the
//! round trip.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    for preset in ["chain", "birth"] {
        let base = popgrad::paper::preset(preset, false).and_then(|layers| popgrad::config::resolve(&layers));
        popgrad::config::fuzz(data, &base.expect("presets resolve").table());
    }
});
