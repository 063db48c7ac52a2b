//! Loads and attaches the kernel side, all of it or nothing.

use aya::{
    Ebpf, EbpfLoader,
    programs::{
        BtfTracePoint, Lsm, Program, RawTracePoint, RawTracePointRunOptions, TestRun as _,
        links::FdLink,
    },
};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use super::{
    Cause, Error, attach_ids,
    contract::{FIND_SYSCALL_SLOT, HOOKS, LATE, MMAP_FILE, PINNED_PROGRAMS, TRACEPOINTS},
    lockdown::{Locked, lacks_helper},
    offsets::{self, Types},
    relocate::relocate,
    self_test,
};
use crate::util::error_chain;

/// The kernel side, as `build.rs` left it.
pub(super) static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernelseal.bpf.o"));

/// A loaded and attached kernel side; gone when dropped, unless it is pinned.
pub(crate) struct Loaded {
    pub(super) ebpf: Ebpf,
    pub(super) links: Vec<(&'static str, FdLink)>,
}

impl Loaded {
    /// Names of the hooks and tracepoints, which are not the same on every kernel.
    pub(crate) fn attached(&self) -> Vec<&'static str> {
        self.links.iter().map(|(name, _)| *name).collect()
    }
}

/// Loads every program and attaches every hook.
pub(crate) fn load() -> Result<Loaded, Error> {
    // Maps count against this limit before 5.11.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let types = Types::of_running_kernel()?;
    let offsets = offsets::resolve(&types)?;
    let points = attach_ids::table(&types, &[HOOKS, &[MMAP_FILE]].concat(), TRACEPOINTS)?;
    drop(types);
    let mut ebpf = EbpfLoader::new()
        .btf(None)
        .load(&relocate(OBJECT, &offsets, None)?)
        .map_err(|e| Error::Load {
            what: "the maps".into(),
            cause: chain(&e),
        })?;

    for name in PINNED_PROGRAMS.iter().copied().chain([FIND_SYSCALL_SLOT]) {
        program::<RawTracePoint>(&mut ebpf, name)?
            .load()
            .map_err(failed(name))?;
    }
    let found = program::<RawTracePoint>(&mut ebpf, FIND_SYSCALL_SLOT)?
        .test_run(RawTracePointRunOptions::new())
        .map_err(failed(FIND_SYSCALL_SLOT))?;
    if found.return_value != 1 {
        return Err(Error::NoSyscallSlot);
    }

    let needed = |name: &&str| offsets.exit_keeps_memory != 0 || !LATE.contains(name);
    let tracepoints = || TRACEPOINTS.iter().copied().filter(needed);
    let hooks = || HOOKS.iter().copied().filter(needed);
    let mut links = Vec::with_capacity(HOOKS.len() + TRACEPOINTS.len());
    // Tracepoints first: a seal must be inherited and end before the first is given.
    for name in tracepoints() {
        let program = program::<BtfTracePoint>(&mut ebpf, name)?;
        program.load(name, &points).map_err(failed(name))?;
    }
    for name in hooks() {
        program::<Lsm>(&mut ebpf, name)?
            .load(name, &points)
            .map_err(failed(name))?;
    }
    program::<Lsm>(&mut ebpf, MMAP_FILE)?
        .load(MMAP_FILE, &points)
        .map_err(failed(MMAP_FILE))?;
    for name in tracepoints() {
        let program = program::<BtfTracePoint>(&mut ebpf, name)?;
        let link = program
            .attach()
            .and_then(|id| program.take_link(id))
            .map_err(failed(name))?;
        links.push((name, link.into()));
    }
    for name in hooks() {
        let program = program::<Lsm>(&mut ebpf, name)?;
        let link = program
            .attach()
            .and_then(|id| program.take_link(id))
            .map_err(failed(name))?;
        links.push((name, link.into()));
    }
    // Attached is not at work.
    self_test::ensure_fires()?;
    Ok(Loaded { ebpf, links })
}

/// A program of an object, by its name.
pub(super) fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, Error>
where
    &'a mut P: TryFrom<&'a mut Program>,
{
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| Error::Load {
            what: name.into(),
            cause: "not in the kernel object".into(),
        })
}

fn failed<E: std::error::Error>(name: &str) -> impl FnOnce(E) -> Error {
    move |e| refused(format!("program {name}"), chain(&e))
}

/// What the kernel said, with its cause where what it said tells one.
fn refused(what: String, said: String) -> Error {
    if lacks_helper(&said) {
        Error::Unfit(Cause::Locked(Locked::find()))
    } else {
        Error::Load { what, cause: said }
    }
}

/// An error and its causes on one line; the verifier's log, if there is one, shortened to its end.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    const KEPT: usize = 1500;
    let mut text = error_chain(error);
    if text.len() > KEPT {
        let from = (text.len() - KEPT..text.len()).find(|i| text.is_char_boundary(*i));
        text = format!("… {}", &text[from.unwrap_or(0)..]);
    }
    text
}
