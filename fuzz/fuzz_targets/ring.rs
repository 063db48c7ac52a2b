//! A record of the kernel side's.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kernelseal_parsers::ring::feed(bytes));
