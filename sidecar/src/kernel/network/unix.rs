//! Where the network monitor is attached for Unix sockets: only while somebody asks for them. All of it are probes, of which a
//! function takes any number.

use aya::{
    Ebpf,
    programs::{KProbe, ProgramError, kprobe::KProbeLinkId},
};

use super::{ACCEPTED, Error, MONITOR, program, refused};

/// The last that is asked when a process connects.
const MAY_CONNECT: &str = "security_unix_stream_connect";
/// The programs and their functions; ends come first, for what nobody saw begin is passed over.
pub(super) const PROBES: [(&str, &str); 4] = [
    ("unix_release", "unix_release"),
    ("unix_accepted", ACCEPTED),
    ("unix_connected", MAY_CONNECT),
    ("unix_connects", MAY_CONNECT),
];

/// See the module.
pub(super) struct Unix {
    /// Whether the kernel says where all is that we read.
    is_known: bool,
    links: Vec<KProbeLinkId>,
}

impl Unix {
    pub(super) fn new(is_known: bool) -> Self {
        Self {
            is_known,
            links: Vec::new(),
        }
    }

    pub(super) fn is_attached(&self) -> bool {
        !self.links.is_empty()
    }

    /// Attached if it is asked for, and else not.
    pub(super) fn follow(&mut self, ebpf: &mut Ebpf, is_asked: bool) -> Result<(), Error> {
        if is_asked == self.is_attached() {
            return Ok(());
        }
        if !is_asked {
            return self.leave(ebpf);
        }
        let attached = self.attach(ebpf);
        if attached.is_err() {
            // (why it could not be attached is what is to be told)
            let _ = self.leave(ebpf);
        }
        attached
    }

    fn attach(&mut self, ebpf: &mut Ebpf) -> Result<(), Error> {
        if !self.is_known {
            return Err(Error::Monitor {
                monitor: MONITOR,
                what: "Unix sockets".into(),
                cause: "this kernel's BTF does not describe them (CONFIG_UNIX is not y). Remove unix from protocols".into(),
            });
        }
        let failed = |name| move |e: ProgramError| refused(MONITOR, name, &e);
        for (name, function) in PROBES {
            let probe = program::<KProbe>(ebpf, name)?;
            match probe.load() {
                Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
                Err(e) => return Err(failed(name)(e)),
            }
            self.links
                .push(probe.attach(function, 0).map_err(failed(name))?);
        }
        Ok(())
    }

    /// (Not unloaded: they count how often they were skipped.)
    fn leave(&mut self, ebpf: &mut Ebpf) -> Result<(), Error> {
        for ((name, _), link) in PROBES.into_iter().zip(self.links.drain(..)) {
            let left = program::<KProbe>(ebpf, name)?.detach(link);
            left.map_err(|e| refused(MONITOR, name, &e))?;
        }
        Ok(())
    }
}
