//! What is asked of the system call monitor's kernel side, and how it comes to be there while the programs run.

use std::collections::BTreeSet;

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
};
use sidecar_common::{
    monitor::Within,
    syscall::{CallFlags, FilterFlags, MAX_UIDS, Settings},
};

use super::{Error, array, contract, failed, hash};
use crate::config::calls::{self, Call, End, Meaning};

/// What is asked of the kernel side.
#[derive(Clone, Default)]
pub(crate) struct SyscallsRequest {
    /// What is watched.
    pub(crate) calls: Vec<&'static Call>,
    /// Only users of these; empty for all.
    pub(crate) uids: Vec<u32>,
    /// Only what fails.
    pub(crate) only_failed: bool,
    /// Only control groups that are judged to be wanted.
    pub(crate) only_groups: bool,
    /// Records a second for each control group; 0 for any number.
    pub(crate) rate: u32,
}

/// The maps that say it.
pub(super) struct Applied {
    settings: Array<MapData, Settings>,
    calls: Array<MapData, sidecar_common::syscall::Call>,
    uids: HashMap<MapData, u32, u8>,
    within: Within,
}

impl Applied {
    pub(super) fn take(ebpf: &mut Ebpf, within: Within) -> Result<Self, Error> {
        Ok(Self {
            settings: array(ebpf, &contract::SETTINGS)?,
            calls: array(ebpf, &contract::CALLS)?,
            uids: hash(ebpf, &contract::UIDS)?,
            within,
        })
    }

    /// Says what is wanted, and that it changes, until [`settle`](Self::settle).
    pub(super) fn apply(&mut self, request: &SyscallsRequest) -> Result<(), Error> {
        self.make_room(request)?;
        for uid in &request.uids {
            self.uids
                .insert(*uid, 1, 0)
                .map_err(failed(contract::UIDS.name))?;
        }
        for (number, call) in calls::numbered(&request.calls) {
            let set = self.calls.set(number, watched(number, call), 0);
            set.map_err(failed(contract::CALLS.name))?;
        }
        self.set(request, FilterFlags::CHANGING)
    }

    /// Makes room for the new users' entries. If the old and the new ones do not fit together, the kernel side reports all users until
    /// the new ones are entered; the agent's own filter drops those that nobody asked for.
    fn make_room(&mut self, request: &SyscallsRequest) -> Result<(), Error> {
        let stale = self.stale_uids(request);
        if stale.len() + request.uids.len() <= MAX_UIDS {
            return Ok(());
        }
        let of_all_users = SyscallsRequest {
            uids: Vec::new(),
            ..request.clone()
        };
        self.set(&of_all_users, FilterFlags::CHANGING)?;
        self.forget(&stale)
    }

    /// By this request; whether it is [`FilterFlags::CHANGING`] is said beside it.
    fn set(&mut self, request: &SyscallsRequest, changing: FilterFlags) -> Result<(), Error> {
        let only = [
            (request.only_failed, FilterFlags::ONLY_FAILED),
            (!request.uids.is_empty(), FilterFlags::ONLY_UIDS),
            (request.only_groups, FilterFlags::ONLY_GROUPS),
        ];
        let settings = Settings {
            within: self.within,
            flags: only
                .into_iter()
                .filter_map(|(is_asked, flag)| is_asked.then_some(flag))
                .fold(changing, |flags, flag| flags | flag),
            rate: request.rate,
            agent: std::process::id(),
            reserved: 0,
        };
        let set = self.settings.set(0, settings, 0);
        set.map_err(failed(contract::SETTINGS.name))
    }

    /// What is wanted is in force: nothing else is told of.
    pub(super) fn settle(&mut self, request: &SyscallsRequest) -> Result<(), Error> {
        let wanted: BTreeSet<u32> = calls::numbered(&request.calls)
            .map(|(number, _)| number)
            .collect();
        let numbers = 0..self.calls.len();
        for number in numbers.filter(|number| !wanted.contains(number)) {
            let set = self
                .calls
                .set(number, sidecar_common::syscall::Call::default(), 0);
            set.map_err(failed(contract::CALLS.name))?;
        }
        self.forget(&self.stale_uids(request))?;
        self.set(request, FilterFlags::empty())
    }

    fn stale_uids(&self, request: &SyscallsRequest) -> Vec<u32> {
        let known = self.uids.keys().filter_map(Result::ok);
        known.filter(|uid| !request.uids.contains(uid)).collect()
    }

    fn forget(&mut self, uids: &[u32]) -> Result<(), Error> {
        for uid in uids {
            self.uids.remove(uid).map_err(failed(contract::UIDS.name))?;
        }
        Ok(())
    }
}

/// How the call of a number is watched.
fn watched(number: u32, call: &Call) -> sidecar_common::syscall::Call {
    let mut flags = CallFlags::WATCHED;
    flags.set(CallFlags::NARROW, calls::is_narrow(number));
    flags.set(CallFlags::PART, calls::is_part(number));
    flags |= match call.end {
        End::Returns => CallFlags::empty(),
        End::Ends => CallFlags::ENDS,
        End::Execs => CallFlags::EXEC,
        End::Parts => CallFlags::PARTS,
    };
    let mut watched = sidecar_common::syscall::Call {
        flags,
        arguments: u32::try_from(call.arguments.len()).unwrap_or(0),
        ..Default::default()
    };
    let mut texts = 0;
    for (place, argument) in (1_u8..).zip(call.arguments) {
        match argument.1 {
            // (the table has no row with more of them than there is room for)
            Meaning::Text => {
                watched.texts[texts] = place;
                texts += 1;
            }
            // (a structure is read like an address: so many bytes as the argument after it says)
            Meaning::Address | Meaning::Words(_) => {
                (watched.address, watched.address_length) = (place, place + 1);
            }
            Meaning::AddressOut => {
                (watched.address, watched.address_length) = (place, place + 1);
                watched.flags |= CallFlags::LENGTH_BY_POINTER;
            }
            Meaning::Message => {
                watched.address = place;
                watched.flags |= CallFlags::MESSAGE;
            }
            _ => {}
        }
    }
    watched
}

#[cfg(test)]
mod tests {
    use sidecar_common::syscall::{NARROW, SOCKETCALL};

    use super::*;

    #[test]
    fn places_are_those_of_the_arguments() {
        let of = |name: &str| watched(0, calls::find(name).unwrap());
        assert_eq!(of("renameat2").texts, [2, 4]);
        let accept = of("accept4");
        assert_eq!((accept.address, accept.address_length), (2, 3));
        assert_eq!(
            accept.flags,
            CallFlags::WATCHED | CallFlags::LENGTH_BY_POINTER
        );
        let how = of("openat2");
        assert_eq!((how.address, how.address_length), (3, 4));
        assert_eq!(of("sendmsg").flags, CallFlags::WATCHED | CallFlags::MESSAGE);
        assert_eq!(of("exit_group").flags, CallFlags::WATCHED | CallFlags::ENDS);
        assert_eq!(of("execveat").texts, [2, 0]);
        let narrow = watched(NARROW, calls::find("close").unwrap());
        assert_eq!(narrow.flags, CallFlags::WATCHED | CallFlags::NARROW);
        let part = watched(SOCKETCALL + 1, calls::find("socket").unwrap());
        assert_eq!(
            (part.flags, part.arguments),
            (CallFlags::WATCHED | CallFlags::NARROW | CallFlags::PART, 3)
        );
    }
}
