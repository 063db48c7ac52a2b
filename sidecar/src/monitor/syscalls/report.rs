//! What is said of a system call.

use nix::errno::Errno;
use sidecar_common::syscall::Syscall;

use super::{SyscallMonitor, arguments, subscription::Made};
use crate::{
    config::calls::{End, is_narrow},
    monitor::context::{Actor, MonitorContext, name_of},
    observe::{Detail, Kind},
    process::Place,
};

/// The greatest error number (include/linux/err.h).
const MAX_ERRNO: i64 = 4095;

/// What calls of 32 bits are told by, as the field has it.
const NARROW: &str = "i386";

impl SyscallMonitor {
    /// One record of it.
    pub(super) fn report(&mut self, record: &Syscall, context: &mut MonitorContext) {
        let Some(call) = self.calls.get(&record.number).copied() else {
            return;
        };
        let name = name_of(&record.owner);
        let actor = Actor::of(&record.owner, &name);
        let place = context.place_of(actor);
        self.judge(record.owner.cgroup, place.as_deref(), context);
        let ret = (call.end != End::Ends).then_some(record.result);
        let error = ret.and_then(error);
        let made = Made::of(call, record, error.is_some());
        let pods = context.whereabouts.pods();
        if !self.subscriptions.want(&made, place.as_deref(), pods) {
            return;
        }
        let args = arguments::of(call, record);
        context
            .metrics
            .syscalls
            .with_label_values(&[call.name, if error.is_some() { "failed" } else { "ok" }])
            .inc();
        let detail = Detail::Syscall {
            syscall: call.name,
            category: call.category.name(),
            abi: is_narrow(record.number).then_some(NARROW),
            args: &args,
            ret,
            error: error.as_deref(),
            duration_ns: record.duration_ns,
            uid: record.uid,
        };
        context.tell(
            record.header.time_ns,
            Kind::Syscall,
            actor,
            place.as_deref(),
            detail,
        );
    }

    /// Has the kernel side know whether anything of a control group is wanted, where that matters and can be told.
    fn judge(&mut self, cgroup: u64, place: Option<&Place>, context: &MonitorContext) {
        if !self.judges || !context.whereabouts.tells_apart(cgroup) {
            return;
        }
        let verdict = self
            .subscriptions
            .verdict(place, context.whereabouts.pods());
        if let Some(is_wanted) = verdict
            && let Err(e) = self.kernel.judge(cgroup, is_wanted)
        {
            tracing::warn!("what is not wanted is filtered here, not in the kernel: {e}");
        }
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
