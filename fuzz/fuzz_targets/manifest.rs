//! A manifest that is given a sidecar.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kernelseal_parsers::manifest::feed(bytes));
