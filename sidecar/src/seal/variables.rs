//! Variables that bring code into a program, past its path and its digest: the loader's and the C library's, and those of
//! interpreters and libraries.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use sha2::{Digest as _, Sha256};

use super::stack::Stack;
use crate::process::{First, SharedWhereabouts};

/// Of those that glibc itself does not heed where a program has more rights than who starts it (`sysdeps/generic/unsecvars.h`), what
/// brings code, has the loader write files, or leads it to others. musl's loader knows the first of them.
const OF_LOADERS: [&str; 10] = [
    "LD_PRELOAD",
    "LD_AUDIT",
    "LD_LIBRARY_PATH",
    "LD_ORIGIN_PATH",
    "LD_DEBUG_OUTPUT",
    "LD_PROFILE",
    "LD_PROFILE_OUTPUT",
    "GCONV_PATH",
    "GETCONF_DIR",
    "HOSTALIASES",
];

/// Those by which common interpreters, virtual machines and libraries are told of code to run, or where to look for it.
const OF_INTERPRETERS: [&str; 44] = [
    "BASH_ENV",
    "CLASSPATH",
    "CORECLR_PROFILER",
    "CORECLR_PROFILER_PATH",
    "DOTNET_ADDITIONAL_DEPS",
    "DOTNET_STARTUP_HOOKS",
    "ELIXIR_ERL_OPTIONS",
    "ERL_AFLAGS",
    "ERL_FLAGS",
    "ERL_LIBS",
    "ERL_ZFLAGS",
    "GEM_HOME",
    "GEM_PATH",
    "GUILE_LOAD_PATH",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "JULIA_LOAD_PATH",
    "KRB5_CONFIG",
    "LOCPATH",
    "LUA_CPATH",
    "LUA_INIT",
    "LUA_PATH",
    "MONO_PATH",
    "NLSPATH",
    "NODE_OPTIONS",
    "NODE_PATH",
    "OPENSSL_CONF",
    "OPENSSL_ENGINES",
    "OPENSSL_MODULES",
    "PERL5DB",
    "PERL5LIB",
    "PERL5OPT",
    "PERLLIB",
    "PHPRC",
    "PHP_INI_SCAN_DIR",
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "RUBYLIB",
    "RUBYOPT",
    "R_PROFILE",
    "R_PROFILE_USER",
    "SASL_PATH",
    "_JAVA_OPTIONS",
];
/// What bash takes for functions: `BASH_FUNC_name%%`.
const FUNCTIONS: &str = "BASH_FUNC_";
/// Containers that are remembered.
const REMEMBERED: usize = 1024;
/// Variables that bring code, of one program or container: of more than that, the rest are none that it was started with.
const MOST: usize = 256;
/// How long a first process's variables are waited for: they are its memory, and that may never come (userfaultfd).
const READ_WITHIN: Duration = Duration::from_secs(2);

/// One of those, as a program has it.
pub(crate) struct Foreign<'a> {
    /// Its name.
    pub(crate) name: &'static str,
    /// The whole of it, `NAME=value`.
    entry: &'a [u8],
}

/// The name that a variable of one of these lists has, if its value is not empty.
fn name_in(names: &[&'static str], entry: &[u8]) -> Option<&'static str> {
    let (name, value) = entry.split_at_checked(entry.iter().position(|byte| *byte == b'=')?)?;
    let found = names.iter().find(|known| known.as_bytes() == name);
    found.copied().filter(|_| value.len() > 1)
}

/// Those that a program's loader will heed.
pub(crate) fn of_loader(stack: &Stack<'_>) -> impl Iterator<Item = &'static str> {
    let entries = stack.variables().filter(|_| !stack.is_secure());
    entries.filter_map(|entry| name_in(&OF_LOADERS, entry))
}

/// Those that an interpreter or a library would heed, whatever the program is.
pub(crate) fn of_interpreters<'a>(stack: &Stack<'a>) -> impl Iterator<Item = Foreign<'a>> {
    stack.variables().filter_map(foreign)
}

fn foreign(entry: &[u8]) -> Option<Foreign<'_>> {
    let is_function = entry.starts_with(FUNCTIONS.as_bytes());
    let name = name_in(&OF_INTERPRETERS, entry).or(is_function.then_some(FUNCTIONS));
    name.map(|name| Foreign { name, entry })
}

type Print = [u8; 32];

fn print(foreign: &Foreign<'_>) -> Print {
    Sha256::digest(foreign.entry).into()
}

/// What containers were started with, of what brings code. Their first processes tell, once: later they may be sealed, or others'.
/// Clones share: each thread that delivers knows what one has found out.
#[derive(Clone, Default)]
pub(crate) struct StartedWith(Arc<Mutex<HashMap<String, Arc<HashSet<Print>>>>>);

impl StartedWith {
    /// The first of these variables that a container was not started with; `pid` is the number of the program that has them.
    pub(super) fn find_other(
        &self,
        container: &str,
        asked: &[Foreign<'_>],
        pid: u32,
        whereabouts: &SharedWhereabouts,
    ) -> io::Result<Option<&'static str>> {
        let known = self.known().get(container).cloned();
        let known = if let Some(known) = known {
            known
        } else {
            let first = whereabouts.lock().first_of(container)?;
            let Some(first) = first else {
                return Ok(asked.first().map(|foreign| foreign.name));
            };
            // (nobody waits for a memory that does not come but who asks)
            let prints = if first.pid == pid {
                asked.iter().take(MOST).map(print).collect()
            } else {
                prints_of(first)?
            };
            let mut all = self.known();
            if all.len() >= REMEMBERED {
                all.clear();
            }
            // (of two that ask at once the first has said it)
            let known = all.entry(container.to_owned());
            known.or_insert_with(|| prints.into()).clone()
        };
        let is_known = |foreign: &&Foreign<'_>| known.contains(&print(foreign));
        let other = asked.iter().find(|foreign| !is_known(foreign));
        Ok(other.map(|foreign| foreign.name))
    }
}

impl StartedWith {
    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<HashSet<Print>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those of a first process; none of one whose memory does not come, and that is not asked again.
fn prints_of(first: First) -> io::Result<HashSet<Print>> {
    match within(READ_WITHIN, move || first.environ())? {
        None => Ok(HashSet::new()),
        Some(environ) => {
            let found = environ?;
            let entries = found.split(|byte| *byte == 0).filter_map(foreign);
            Ok(entries.take(MOST).map(|foreign| print(&foreign)).collect())
        }
    }
}

/// Does something that may take for ever; `None` if it has not come to its end by then.
fn within<T: Send + 'static>(
    time: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Option<T>> {
    let (tell, told) = mpsc::channel();
    thread::Builder::new()
        .name("environ".into())
        .spawn(move || drop(tell.send(work())))?;
    Ok(told.recv_timeout(time).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_known_by_its_whole_name_and_if_it_has_a_value() {
        let of_loader = |entry: &str| name_in(&OF_LOADERS, entry.as_bytes());
        assert_eq!(of_loader("LD_PRELOAD=/x.so"), Some("LD_PRELOAD"));
        assert_eq!(of_loader("GCONV_PATH=/x"), Some("GCONV_PATH"));
        for other in [
            "LD_PRELOAD=",
            "LD_PRELOAD",
            "LD_PRELOADS=/x",
            "XLD_PRELOAD=/x",
            "",
            "=",
        ] {
            assert_eq!(of_loader(other), None, "{other}");
        }
        let of_interpreters = |entry: &str| name_in(&OF_INTERPRETERS, entry.as_bytes());
        assert_eq!(of_interpreters("PYTHONPATH=/x"), Some("PYTHONPATH"));
        assert_eq!(of_interpreters("PYTHONUNBUFFERED=1"), None);
    }

    #[test]
    fn what_does_not_come_is_not_waited_for() {
        assert_eq!(within(READ_WITHIN, || 7).unwrap(), Some(7));
        let (keep, wait) = mpsc::channel::<()>();
        let hangs = move || wait.recv().is_ok();
        assert_eq!(within(Duration::from_millis(1), hangs).unwrap(), None);
        drop(keep);
    }

    #[test]
    fn no_name_is_in_both_lists_or_twice() {
        let all: HashSet<_> = OF_LOADERS.iter().chain(&OF_INTERPRETERS).collect();
        assert_eq!(all.len(), OF_LOADERS.len() + OF_INTERPRETERS.len());
    }
}
