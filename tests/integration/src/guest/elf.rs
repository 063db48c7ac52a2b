//! Tells which libraries a program needs in a guest.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

const PROGRAM_INTERPRETER: u32 = 3;

/// A library that a program names.
#[derive(Debug, PartialEq, Eq)]
pub enum Library {
    /// Found on this machine.
    Found(PathBuf),
    /// Named by the program and not on this machine.
    Missing(String),
}

/// The libraries and the loader of the program at `path`: none for anything but a dynamic 64-bit ELF.
pub fn libraries(path: &Path) -> Result<Vec<Library>> {
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(4096).read_to_end(&mut head))
        .with_context(|| format!("cannot read {}", path.display()))?;
    if !has_interpreter(&head) {
        return Ok(Vec::new());
    }
    let output = match Command::new("ldd").arg(path).output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!(
                "ldd is missing, and {} is dynamic; install the package libc-bin",
                path.display()
            )
        }
        Err(error) => return Err(error).context("cannot run ldd"),
    };
    if !output.status.success() {
        bail!(
            "ldd {}: {}",
            path.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(parse_ldd(&String::from_utf8_lossy(&output.stdout)))
}

/// Whether the first bytes of a file are those of a 64-bit ELF that wants a loader.
fn has_interpreter(head: &[u8]) -> bool {
    let half = |at: usize| {
        head.get(at..at + 2)
            .map(|b| usize::from(u16::from_le_bytes([b[0], b[1]])))
    };
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return false;
    }
    let table = head
        .get(32..40)
        .and_then(|b| b.try_into().ok())
        .map(u64::from_le_bytes);
    let (Some(table), Some(size), Some(count)) = (table, half(54), half(56)) else {
        return false;
    };
    let Ok(table) = usize::try_from(table) else {
        return false;
    };
    (0..count).any(|n| {
        let at = table.saturating_add(n * size);
        let kind = head
            .get(at..at.saturating_add(4))
            .and_then(|b| b.try_into().ok());
        kind.map(u32::from_le_bytes) == Some(PROGRAM_INTERPRETER)
    })
}

/// Reads lines such as `libm.so.6 => /lib/libm.so.6 (0x7f…)` and `/lib64/ld-linux-x86-64.so.2 (0x7f…)`.
fn parse_ldd(text: &str) -> Vec<Library> {
    text.lines()
        .filter_map(|line| {
            let line = line.trim();
            let (name, place) = line.split_once(" => ").unwrap_or((line, line));
            if place.starts_with("not found") {
                return Some(Library::Missing(name.to_owned()));
            }
            let path = place.split(" (0x").next()?;
            path.starts_with('/')
                .then(|| Library::Found(PathBuf::from(path)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Library, has_interpreter, parse_ldd};

    #[test]
    fn ldd_is_understood() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibexpat.so.1 => not found\n\
                    \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            parse_ldd(text),
            [
                Library::Missing("libexpat.so.1".into()),
                Library::Found("/lib/x86_64-linux-gnu/libm.so.6".into()),
                Library::Found("/lib64/ld-linux-x86-64.so.2".into()),
            ]
        );
    }

    #[test]
    fn scripts_and_cut_files_have_no_interpreter() {
        assert!(!has_interpreter(b"#!/bin/sh\n"));
        assert!(!has_interpreter(b"\x7fELF\x02\x01"));
    }

    #[test]
    fn this_test_is_dynamic_or_static_without_a_panic() {
        let head = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(
            has_interpreter(&head[..4096]),
            cfg!(not(target_feature = "crt-static"))
        );
    }
}
