//! A configuration file.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kernelseal_parsers::config::feed(bytes));
