//! Mounts of a process, some of which may be secret directories.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kernelseal_parsers::mountinfo::feed(bytes));
