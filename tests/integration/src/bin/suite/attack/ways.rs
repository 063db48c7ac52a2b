//! The ways that `fixtures/neighbour` knows, with what events call each.

/// The ways of `fixtures/neighbour.c`, and what events call them.
pub(super) const AGENT: [(&str, &str); 21] = [
    ("root", "agent"),
    ("threads_root", "agent"),
    ("cwd", "agent"),
    ("exe", "agent"),
    ("ns", "agent"),
    ("setns", "agent"),
    ("kcmp", "agent"),
    ("queue", "signal"),
    ("prlimit", "prlimit"),
    ("oom_score", "oom_score_adj"),
    ("autogroup", "autogroup"),
    ("timer_slack", "timerslack_ns"),
    ("nice", "priority"),
    ("affinity", "priority"),
    ("ioprio", "priority"),
    ("kill", "signal"),
    ("tgkill", "signal"),
    ("pidfd", "signal"),
    ("term", "signal"),
    // (of this one the kernel does not tell who it was)
    ("file", ""),
    ("kill_9", "signal"),
];

pub(super) const INSTRUMENTS: [(&str, &str); 14] = [
    ("bpf_ids", "bpf"),
    ("bpf_map", "bpf"),
    ("perf_event", "perf_event"),
    ("tracefs", "uprobe_events"),
    ("kcore", "kcore"),
    ("dev_mem", "/dev/mem"),
    ("sysrq", "sysrq-trigger"),
    ("core_pattern", "core_pattern"),
    ("modprobe", "modprobe"),
    ("fatal_signals", "print-fatal-sig"),
    ("answers_opens", "fanotify"),
    ("answers_reads", "fanotify"),
    ("answers_execs", "fanotify"),
    ("answers_first", "fanotify"),
];

/// What files by which the kernel is told something are called in events.
pub(super) const TUNABLES: [(&str, &str); 4] = [
    ("mount_max", "mount-max"),
    ("map_count", "max_map_count"),
    ("caches", "drop_caches"),
    ("huge_pages", "enabled"),
];

pub(super) const OWN: [(&str, &str); 7] = [
    ("host_name", ""),
    ("shared_memory", ""),
    ("forwarding", ""),
    ("namespaces", ""),
    ("device", ""),
    ("read_map_count", ""),
    ("read_huge_pages", ""),
];

pub(super) const SWITCHES: [(&str, &str); 2] = [
    ("ftrace", "ftrace_enabled"),
    ("ftrace_elsewhere", "ftrace_enabled"),
];

pub(super) const IDS: [(&str, &str); 3] = [("maps", "bpf"), ("programs", "bpf"), ("links", "bpf")];

pub(super) const PINS: [(&str, &str); 7] = [
    ("unlinked", "pins"),
    ("renamed", "pins"),
    ("replaced", "pins"),
    ("opened_up", "pins"),
    ("given_away", "pins"),
    ("version", "pins"),
    ("folder", "pins"),
];

pub(super) const MOUNTS: [(&str, &str); 6] = [
    ("other_flags", "mount"),
    ("other_options", "mount"),
    ("over", "mount"),
    ("bound_over", "mount"),
    ("moved_newly", "mount"),
    ("unmounted", "mount"),
];

pub(super) const CHANGES: [(&str, &str); 10] = [
    ("deleted", ""),
    ("renamed", ""),
    ("linked", ""),
    ("symlinked", ""),
    ("made_pipe", ""),
    ("made_folder", ""),
    ("other_mode", ""),
    ("other_owner", ""),
    ("shortened", ""),
    ("other_times", ""),
];
