//! What everybody waits for: for when a test does not come to its end.

use std::fs;
use std::path::Path;

/// Every thread of every process that has memory of its own: who it is, and where in the kernel it waits. What sealed
/// programs refuse is missing.
#[must_use]
pub fn threads() -> Vec<String> {
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
    let threads = folders.flat_map(|process| {
        let tasks = fs::read_dir(process.path().join("task"));
        tasks.into_iter().flatten().flatten()
    });
    threads
        .filter_map(|thread| thread_at(&thread.path()))
        .collect()
}

fn thread_at(folder: &Path) -> Option<String> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let status = read("status")?;
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        Some(line.replace('\t', " "))
    };
    // A thread of the kernel's has no memory.
    field("VmSize:")?;
    let fields = [
        "Tgid:",
        "Pid:",
        "PPid:",
        "Name:",
        "State:",
        "TracerPid:",
        "SigPnd:",
        "ShdPnd:",
    ];
    let fields: Vec<String> = fields.into_iter().filter_map(field).collect();
    let call = read("syscall").unwrap_or_default();
    let stack = read("stack").unwrap_or_default();
    let stack: Vec<&str> = stack
        .lines()
        .map(|line| line.trim_start_matches("[<0>] "))
        .collect();
    Some(format!(
        "{} syscall: {} in: {}",
        fields.join(" "),
        call.trim_end(),
        stack.join(" < ")
    ))
}
