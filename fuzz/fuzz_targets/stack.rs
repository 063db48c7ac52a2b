//! A program's initial stack, and variables to add to it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kernelseal_parsers::stack::feed(bytes));
