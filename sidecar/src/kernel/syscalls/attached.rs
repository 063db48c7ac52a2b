//! Where the programs are attached: to the functions of what is watched, and where that cannot be, to the tracepoints
//! that every call passes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
};

use aya::{
    Ebpf,
    programs::{
        KProbe, ProgramError, RawTracePoint, kprobe::KProbeLinkId,
        raw_trace_point::RawTracePointLinkId,
    },
};

use super::{Error, MONITOR, refused};
use crate::{
    config::calls::{self, Call, End},
    kernel::{load::program, own_objects},
};

/// The programs at a function's beginning and end.
pub(super) const PROBES: [&str; 2] = ["enter", "leave"];
/// The programs at the tracepoints of their names.
pub(super) const POINTS: [&str; 2] = ["sys_enter", "sys_exit"];
/// The program at a successful exec's tracepoint, of its name.
pub(super) const EXEC: &str = "sched_process_exec";
/// What the functions of system calls are called, before their own names (since 4.17).
const PREFIX: &str = if cfg!(target_arch = "aarch64") {
    "__arm64_sys_"
} else {
    "__x64_sys_"
};

/// How the names begin of functions for programs of 32 bits.
const NARROW_PREFIX: &str = "__ia32_";

/// How a call is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// By probes of its function: no other call is slowed down.
    Probes,
    /// By the tracepoints of all calls.
    Tracepoints,
}

/// See the module.
pub(super) struct Attached {
    ebpf: Ebpf,
    is_loaded: bool,
    calls: Vec<&'static str>,
    /// By the functions' names.
    probed: BTreeMap<String, [KProbeLinkId; 2]>,
    /// The last function that could not be probed.
    refused: String,
    points: Option<[RawTracePointLinkId; 2]>,
    exec: Option<RawTracePointLinkId>,
}

impl Attached {
    pub(super) fn new(ebpf: Ebpf) -> Self {
        Self {
            ebpf,
            is_loaded: false,
            calls: Vec::new(),
            probed: BTreeMap::new(),
            refused: String::new(),
            points: None,
            exec: None,
        }
    }

    /// To these, and to nothing else.
    pub(super) fn follow(&mut self, calls: &[&'static Call]) -> Result<(), Error> {
        if !self.is_loaded {
            for name in PROBES {
                let program = program::<KProbe>(&mut self.ebpf, name)?;
                program.load().map_err(|e| refused(MONITOR, name, &e))?;
            }
            self.is_loaded = true;
        }
        own_objects::note_monitor(&self.ebpf)?;
        self.follow_execs(calls.iter().any(|call| call.end == End::Execs))?;
        // One way for all calls: both would tell of one twice. (While one follows the other the kernel side sees to that.)
        let probed = match self.probe_all(calls) {
            Ok(probed) => {
                self.leave_points()?;
                probed
            }
            Err((function, why)) => {
                self.follow_points(&function, &why)?;
                BTreeSet::new()
            }
        };
        let stale: Vec<String> = self
            .probed
            .keys()
            .filter(|function| !probed.contains(*function))
            .cloned()
            .collect();
        for function in stale {
            if let Some(links) = self.probed.remove(&function) {
                self.release(links)?;
            }
        }
        self.calls = calls.iter().map(|call| call.name).collect();
        Ok(())
    }

    /// How each is watched.
    pub(super) fn how(&self) -> impl Iterator<Item = (&'static str, How)> {
        let how = if self.points.is_none() {
            How::Probes
        } else {
            How::Tracepoints
        };
        self.calls.iter().map(move |name| (*name, how))
    }

    /// Probes all functions of these calls; gives their names, or that of one that cannot be probed.
    fn probe_all(
        &mut self,
        calls: &[&'static Call],
    ) -> Result<BTreeSet<String>, (String, ProgramError)> {
        let wide = |call: &&Call| vec![format!("{PREFIX}{}", call.function)];
        let mut functions: Vec<Vec<String>> = calls.iter().map(wide).collect();
        functions.extend(calls::narrow_functions(calls).into_iter().map(Vec::from));
        // The one that could not be probed before comes first, or all others would be in vain once more.
        functions.sort_by_key(|names| !names.contains(&self.refused));
        let mut probed = BTreeSet::new();
        for names in functions {
            match self.probe_one(&names) {
                Ok(function) => probed.extend(function),
                Err((function, why)) => {
                    self.refused.clone_from(&function);
                    return Err((function, why));
                }
            }
        }
        Ok(probed)
    }

    /// Probes the first of these functions that there is; none, if it is one for 32 bits in a kernel that has no such calls.
    fn probe_one(&mut self, names: &[String]) -> Result<Option<String>, (String, ProgramError)> {
        let mut missing = None;
        for function in names {
            match self.probe(function) {
                Ok(()) => return Ok(Some(function.clone())),
                Err(e) if is_missing(&e) => missing = Some((function.clone(), e)),
                Err(e) => return Err((function.clone(), e)),
            }
        }
        match missing {
            Some(missing) if !is_narrow(&missing.0) || has_narrow_calls() => Err(missing),
            _ => Ok(None),
        }
    }

    /// The end first: one that nobody saw begin is passed over.
    fn probe(&mut self, function: &str) -> Result<(), ProgramError> {
        if self.probed.contains_key(function) {
            return Ok(());
        }
        let [enter, leave] = PROBES;
        let mut attach = |name: &str| -> Result<KProbeLinkId, ProgramError> {
            let program = program::<KProbe>(&mut self.ebpf, name)
                .map_err(|e| ProgramError::IOError(io::Error::other(e)))?;
            program.attach(function, 0)
        };
        let end = attach(leave)?;
        match attach(enter) {
            Ok(begin) => {
                self.probed.insert(function.to_owned(), [begin, end]);
                Ok(())
            }
            Err(e) => {
                let program = program::<KProbe>(&mut self.ebpf, leave);
                let _ = program.map(|program| program.detach(end));
                Err(e)
            }
        }
    }

    fn release(&mut self, links: [KProbeLinkId; 2]) -> Result<(), Error> {
        for (name, link) in PROBES.into_iter().zip(links) {
            let program = program::<KProbe>(&mut self.ebpf, name)?;
            program
                .detach(link)
                .map_err(|e| refused(MONITOR, name, &e))?;
        }
        Ok(())
    }

    fn follow_execs(&mut self, are_watched: bool) -> Result<(), Error> {
        match (self.exec.take(), are_watched) {
            (None, false) => {}
            (None, true) => self.exec = Some(self.point(EXEC)?),
            (Some(link), true) => self.exec = Some(link),
            (Some(link), false) => self.unpoint(EXEC, link)?,
        }
        Ok(())
    }

    fn follow_points(&mut self, function: &str, why: &ProgramError) -> Result<(), Error> {
        if self.points.is_some() {
            return Ok(());
        }
        let [enter, exit] = POINTS;
        let end = self.point(exit)?;
        self.points = Some([self.point(enter)?, end]);
        tracing::warn!(
            "{function} cannot be probed: {why}. Its calls are watched by raw_syscalls tracepoints instead, which slows every system call down"
        );
        Ok(())
    }

    fn leave_points(&mut self) -> Result<(), Error> {
        for (name, link) in POINTS
            .into_iter()
            .zip(self.points.take().into_iter().flatten())
        {
            self.unpoint(name, link)?;
        }
        Ok(())
    }

    fn unpoint(&mut self, name: &str, link: RawTracePointLinkId) -> Result<(), Error> {
        let program = program::<RawTracePoint>(&mut self.ebpf, name)?;
        program.detach(link).map_err(|e| refused(MONITOR, name, &e))
    }

    fn point(&mut self, name: &str) -> Result<RawTracePointLinkId, Error> {
        let program = program::<RawTracePoint>(&mut self.ebpf, name)?;
        let loaded = match program.load() {
            Err(ProgramError::AlreadyLoaded) => Ok(()),
            loaded => loaded,
        };
        loaded
            .and_then(|()| program.attach(name))
            .map_err(|e| refused(MONITOR, name, &e))
    }
}

/// Whether the kernel has no such function.
fn is_missing(e: &ProgramError) -> bool {
    matches!(e, ProgramError::SyscallError(e) if e.io_error.kind() == io::ErrorKind::NotFound)
}

fn is_narrow(function: &str) -> bool {
    function.starts_with(NARROW_PREFIX)
}

/// Whether the running kernel does calls of 32 bits: then each has a function. What cannot be read says nothing against it.
fn has_narrow_calls() -> bool {
    fs::read_to_string("/proc/kallsyms").is_ok_and(|symbols| {
        let mut names = symbols.lines().filter_map(|line| line.split(' ').nth(2));
        names.any(|name| name.starts_with(NARROW_PREFIX))
    })
}
