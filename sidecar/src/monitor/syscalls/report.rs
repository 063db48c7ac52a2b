//! What is said of a system call.

use nix::errno::Errno;
use sidecar_common::syscall::Syscall;

use super::{SyscallMonitor, arguments};
use crate::{
    config::calls::End,
    monitor::desk::{Actor, Desk, name_of},
    observe::{Detail, Kind},
    process::Place,
};

/// The greatest error number (include/linux/err.h).
const MAX_ERRNO: i64 = 4095;

impl SyscallMonitor {
    /// One record of it.
    pub(super) fn report(&mut self, record: &Syscall, desk: &mut Desk) {
        let Some(call) = self.calls.get(&record.number).copied() else {
            return;
        };
        let name = name_of(&record.owner);
        let actor = Actor::of(&record.owner, &name);
        let place = desk.place_of(actor);
        let cgroup = record.owner.cgroup;
        let tells_apart = desk.whereabouts.tells_apart(cgroup);
        if !self.is_wanted(tells_apart.then_some(cgroup), place.as_deref()) {
            return;
        }
        let args = arguments::of(call, record);
        let ret = (call.end != End::Ends).then_some(record.result);
        let error = ret.and_then(error);
        desk.metrics
            .syscalls
            .with_label_values(&[call.name, if error.is_some() { "failed" } else { "ok" }])
            .inc();
        let detail = Detail::Syscall {
            syscall: call.name,
            category: call.category.name(),
            args: &args,
            ret,
            error: error.as_deref(),
            duration_ns: record.duration_ns,
            uid: record.uid,
        };
        desk.tell(
            record.header.time_ns,
            Kind::Syscall,
            actor,
            place.as_deref(),
            detail,
        );
    }

    /// Whether it is of a container that is asked for. Of one that cannot be told yet, it is not; of others the kernel
    /// side knows it from then on.
    fn is_wanted(&mut self, cgroup: Option<u64>, place: Option<&Place>) -> bool {
        if self.filter.containers.is_empty() {
            return true;
        }
        let Some(place) = place else {
            return false;
        };
        let answers = place.container.iter().flat_map(|container| {
            let names = self.filter.containers.iter();
            names.map(|name| container.is_called(name))
        });
        let answers: Vec<Option<bool>> = answers.collect();
        let verdict = if answers.contains(&Some(true)) {
            Some(true)
        } else {
            // (a name that is not known yet may be one of these)
            (!answers.contains(&None)).then_some(false)
        };
        if let Some((is_wanted, cgroup)) = verdict.zip(cgroup)
            && let Err(e) = self.kernel.judge(cgroup, is_wanted)
        {
            tracing::warn!("what is not wanted is filtered here, not in the kernel: {e}");
        }
        verdict == Some(true)
    }
}

/// The error's name, of what a call returned.
fn error(result: i64) -> Option<String> {
    /// What the kernel says to itself (include/linux/errno.h): the call starts over, or ends with EINTR.
    const STARTS_OVER: [(i64, &str); 4] = [
        (512, "ERESTARTSYS"),
        (513, "ERESTARTNOINTR"),
        (514, "ERESTARTNOHAND"),
        (516, "ERESTART_RESTARTBLOCK"),
    ];
    if !(-MAX_ERRNO..0).contains(&result) {
        return None;
    }
    let number = -result;
    let inner = STARTS_OVER.iter().find(|(one, _)| *one == number);
    Some(inner.map_or_else(
        || format!("{:?}", Errno::from_raw(i32::try_from(number).unwrap_or(0))),
        |(_, name)| (*name).to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_their_names() {
        assert_eq!(error(-2).as_deref(), Some("ENOENT"));
        assert_eq!(error(-512).as_deref(), Some("ERESTARTSYS"));
        assert_eq!(error(0), None);
        // an address that mmap gives
        assert_eq!(error(-0x1000_0000), None);
    }
}
