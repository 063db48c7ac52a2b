//! Text files of `/proc/<pid>`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kernelseal_parsers::proc::feed(bytes));
