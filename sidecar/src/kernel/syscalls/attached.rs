//! Where the programs are attached: to the functions of what is watched, and where that cannot be, to the tracepoints
//! that every call passes.

use std::{collections::BTreeMap, io};

use aya::{
    Ebpf,
    programs::{
        KProbe, ProgramError, RawTracePoint, kprobe::KProbeLinkId,
        raw_trace_point::RawTracePointLinkId,
    },
};

use super::{Error, MONITOR, refused};
use crate::{
    config::calls::{Call, End},
    kernel::load::program,
};

/// The programs at a function's beginning and end.
const PROBES: [&str; 2] = ["enter", "leave"];
/// The programs at the tracepoints of their names.
const POINTS: [&str; 2] = ["sys_enter", "sys_exit"];
/// The program at a successful exec's tracepoint, of its name.
const EXEC: &str = "sched_process_exec";
/// What the functions of system calls are called, before their own names (since 4.17).
const PREFIX: &str = if cfg!(target_arch = "aarch64") {
    "__arm64_sys_"
} else {
    "__x64_sys_"
};

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
    probed: BTreeMap<&'static str, [KProbeLinkId; 2]>,
    /// With why they are not probed.
    traced: BTreeMap<&'static str, String>,
    points: Option<[RawTracePointLinkId; 2]>,
    exec: Option<RawTracePointLinkId>,
}

impl Attached {
    pub(super) fn new(ebpf: Ebpf) -> Self {
        Self {
            ebpf,
            is_loaded: false,
            probed: BTreeMap::new(),
            traced: BTreeMap::new(),
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
        self.follow_execs(calls.iter().any(|call| call.end == End::Execs))?;
        for call in calls {
            if self.probed.contains_key(call.name) {
                continue;
            }
            match self.probe(call) {
                Ok(links) => {
                    self.traced.remove(call.name);
                    self.probed.insert(call.name, links);
                }
                Err(why) => {
                    self.traced.insert(call.name, why.to_string());
                }
            }
        }
        let is_wanted = |name: &str| calls.iter().any(|call| call.name == name);
        self.traced.retain(|name, _| is_wanted(name));
        self.follow_by_points()?;
        let stale: Vec<&str> = self
            .probed
            .keys()
            .copied()
            .filter(|name| !is_wanted(name))
            .collect();
        for name in stale {
            if let Some(links) = self.probed.remove(name) {
                self.release(links)?;
            }
        }
        Ok(())
    }

    /// How each is watched.
    pub(super) fn how(&self) -> impl Iterator<Item = (&'static str, How)> {
        let probed = self.probed.keys().map(|name| (*name, How::Probes));
        probed.chain(self.traced.keys().map(|name| (*name, How::Tracepoints)))
    }

    /// The end first: one that nobody saw begin is passed over.
    fn probe(&mut self, call: &Call) -> Result<[KProbeLinkId; 2], ProgramError> {
        let function = format!("{PREFIX}{}", call.function);
        let [enter, leave] = PROBES;
        let mut attach = |name: &str| -> Result<KProbeLinkId, ProgramError> {
            let program = program::<KProbe>(&mut self.ebpf, name)
                .map_err(|e| ProgramError::IOError(io::Error::other(e)))?;
            program.attach(function.as_str(), 0)
        };
        let end = attach(leave)?;
        match attach(enter) {
            Ok(begin) => Ok([begin, end]),
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

    fn follow_by_points(&mut self) -> Result<(), Error> {
        match (self.points.take(), self.traced.is_empty()) {
            (None, true) => {}
            (Some(points), false) => self.points = Some(points),
            (Some(points), true) => {
                for (name, link) in POINTS.into_iter().zip(points) {
                    self.unpoint(name, link)?;
                }
            }
            (None, false) => {
                let [enter, exit] = POINTS;
                let end = self.point(exit)?;
                self.points = Some([self.point(enter)?, end]);
                for (name, why) in &self.traced {
                    tracing::warn!(
                        "{name} is watched by the tracepoints that every system call passes, which slows all of them down: its function cannot be probed: {why}"
                    );
                }
            }
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
