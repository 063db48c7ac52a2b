//! Paths and names, as the kernel side looks at them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kernelseal_parsers::names::feed(bytes));
