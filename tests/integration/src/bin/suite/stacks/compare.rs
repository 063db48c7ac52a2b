//! A program that was started with us beside the same one without.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use super::dump::{AT_EXECFN, Dump};

/// Entries of the auxiliary vector that differ from start to start where addresses are random: `AT_PHDR`, `AT_BASE`,
/// `AT_ENTRY`, `AT_PLATFORM`, `AT_BASE_PLATFORM`, `AT_RANDOM`, `AT_EXECFN`, `AT_SYSINFO`, `AT_SYSINFO_EHDR`.
const ADDRESSES: [u64; 9] = [3, 7, 9, 15, 24, 25, 31, 32, 33];

/// Fails unless it found what it should, and nothing else has changed. Of the expected variables so many are its own.
pub fn compare(
    plain: &Dump,
    bound: &Dump,
    (expected, kept): (&[Vec<u8>], usize),
    is_fixed: bool,
) -> Result<()> {
    ensure!(bound.arguments == plain.arguments, "other arguments");
    if bound.variables != expected {
        let (found, wanted) = (bound.variables.len(), expected.len());
        let differing = bound
            .variables
            .iter()
            .zip(expected)
            .position(|(a, b)| a != b);
        bail!(
            "{found} variables where {wanted} were expected; the first that differs: {differing:?}"
        );
    }
    ensure!(
        bound.pointer.is_multiple_of(16),
        "its stack pointer is {:#x}",
        bound.pointer
    );
    let comparable = |dump: &Dump| -> Vec<(u64, u64)> {
        let mut auxv = dump.auxv.clone();
        for (kind, value) in &mut auxv {
            if !is_fixed && ADDRESSES.contains(kind) {
                *value = 0;
            }
        }
        auxv
    };
    ensure!(
        comparable(bound) == comparable(plain),
        "auxv {:x?} became {:x?}",
        plain.auxv,
        bound.auxv
    );
    if is_fixed {
        ensure!(
            bound.argument_pointers == plain.argument_pointers,
            "its arguments have moved"
        );
    }
    texts_stay(plain, bound)?;
    for dump in [plain, bound] {
        ensure!(
            dump.proc_auxv == dump.auxv,
            "/proc/self/auxv: {:x?}, on the stack: {:x?}",
            dump.proc_auxv,
            dump.auxv
        );
    }
    ensure!(bound.proc_cmdline == plain.proc_cmdline, "another cmdline");
    // (where ours replace some, the others close up)
    let mut shown = expected[..kept].join(&0);
    shown.resize(plain.proc_environ.len(), 0);
    ensure!(bound.proc_environ == shown, "another environ");
    Ok(())
}

/// What the auxiliary vector points to is there.
fn texts_stay(plain: &Dump, bound: &Dump) -> Result<()> {
    let (mut before, mut after) = (plain.texts()?, bound.texts()?);
    let path =
        |texts: &mut BTreeMap<u64, Vec<u8>>| texts.remove(&AT_EXECFN).context("no AT_EXECFN");
    let (plain_path, bound_path) = (path(&mut before)?, path(&mut after)?);
    let renamed = String::from_utf8(plain_path)?.replace("plain-", "bound-");
    ensure!(
        bound_path == renamed.as_bytes(),
        "AT_EXECFN: {renamed} became {}",
        String::from_utf8_lossy(&bound_path)
    );
    ensure!(before == after, "{before:?} became {after:?}");
    ensure!(
        bound.random()?.iter().any(|byte| *byte != 0),
        "AT_RANDOM leads to zeros"
    );
    Ok(())
}
