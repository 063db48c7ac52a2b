//! Wall-clock times of what the kernel stamped with its monotonic clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Translates `bpf_ktime_get_ns` into times of day.
#[derive(Clone, Copy)]
pub(crate) struct Clock;

impl Clock {
    /// The monotonic clock now, in nanoseconds.
    pub(crate) fn monotonic_ns() -> u64 {
        nanoseconds(ClockId::CLOCK_MONOTONIC)
    }

    /// When that was, in RFC 3339 with microseconds. Both clocks are read each time: the wall
    /// clock may be set while we run.
    pub(crate) fn rfc3339(monotonic_ns: u64) -> String {
        let ago = Self::monotonic_ns().saturating_sub(monotonic_ns);
        let then = nanoseconds(ClockId::CLOCK_REALTIME).saturating_sub(ago);
        let then: SystemTime = UNIX_EPOCH + Duration::from_nanos(then);
        humantime::format_rfc3339_micros(then).to_string()
    }
}

fn nanoseconds(clock: ClockId) -> u64 {
    // Cannot fail for these two clocks; zero would only date an event wrongly.
    clock_gettime(clock).map_or(0, |now| {
        now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned()
    })
}
