//! Bindings that do nothing, silently: their program ran before the agent came, their path is in no program's root, or they want
//! programs of an image that nothing tells (`unknown_image`).
//!
//! Looked for after the start and after each reload, by a thread of its own: the file systems of others may hang.

use std::{
    collections::{BTreeSet, HashSet},
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::{own_pod, unknown_image};
use crate::{
    config::{Binding, Config, Mode},
    kernel::Maps,
    process::{self, Process},
};

/// How long the programs of a pod have to appear before a path that is in none of their roots is told of. A sidecar starts
/// before them.
const POD_IS_COMPLETE: Duration = Duration::from_mins(1);
/// So many processes are looked at, and so many roots.
const MAX_PROCESSES: usize = 16_384;
const MAX_ROOTS: usize = 256;
/// So many programs are told of by number.
const MAX_TOLD: usize = 20;
/// So many looks may be under way: one that hangs in a file system of others is not waited for.
const MAX_LOOKS: usize = 2;
/// Bytes of a process's name that the kernel keeps (`TASK_COMM_LEN`, less its NUL).
const COMM_LEN: usize = 15;

/// Looks for such bindings. The last look is the one that counts.
pub(super) struct Unmatched {
    /// Whether this is the sidecar of a pod, whose programs start after it.
    in_a_pod: bool,
    generation: Arc<AtomicU64>,
    under_way: Arc<AtomicUsize>,
    /// What was told of images: not a second time.
    told_of_image: Arc<Mutex<Option<String>>>,
}

impl Unmatched {
    /// Looks for the first time.
    pub(super) fn begin(config: Arc<Config>) -> Self {
        let unmatched = Self {
            in_a_pod: own_pod().is_some(),
            generation: Arc::default(),
            under_way: Arc::default(),
            told_of_image: Arc::default(),
        };
        unmatched.look(config);
        unmatched
    }

    /// Looks, and warns of what it finds.
    pub(super) fn look(&self, config: Arc<Config>) {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        if config.policy.mode == Mode::Disabled {
            return;
        }
        if self.under_way.fetch_add(1, Ordering::Relaxed) >= MAX_LOOKS {
            self.under_way.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let in_a_pod = self.in_a_pod;
        let (latest, under_way) = (self.generation.clone(), self.under_way.clone());
        let told_of_image = self.told_of_image.clone();
        let spawned = thread::Builder::new()
            .name("unmatched".into())
            .spawn(move || {
                tell_of_image(&config, &told_of_image);
                tell(ran_before(&config.secrets, sealed));
                if in_a_pod {
                    // (a thread that sleeps is no look that hangs)
                    under_way.fetch_sub(1, Ordering::Relaxed);
                    thread::sleep(POD_IS_COMPLETE);
                    under_way.fetch_add(1, Ordering::Relaxed);
                }
                if latest.load(Ordering::Relaxed) == generation {
                    tell(nowhere(&config.secrets));
                }
                under_way.fetch_sub(1, Ordering::Relaxed);
            });
        if let Err(e) = spawned {
            self.under_way.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!("whether each binding has a program is not looked at: {e}");
        }
    }
}

fn tell_of_image(config: &Config, told: &Mutex<Option<String>>) {
    let found = unknown_image::find(&config.secrets);
    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(warning) = found.filter(|warning| told.as_ref() != Some(warning)) {
        tracing::warn!("{warning}");
        *told = Some(warning);
    }
}

fn tell(warnings: Vec<String>) {
    let more = warnings.len().saturating_sub(MAX_TOLD);
    for warning in warnings.into_iter().take(MAX_TOLD) {
        tracing::warn!("{warning}");
    }
    if more > 0 {
        tracing::warn!("and {more} more such bindings or programs");
    }
}

/// What the kernel side knows of processes.
#[derive(Default)]
struct Sealed {
    /// When those under seal started.
    starts: BTreeSet<u64>,
    /// PID namespaces of which somebody else is the agent.
    others: BTreeSet<u64>,
}

/// What it knows now; `None` where it cannot be asked.
fn sealed() -> Option<Sealed> {
    let own = crate::kernel::own_scope().ok()?;
    let maps = Maps::open().ok()?;
    let scopes = maps.scopes().into_iter();
    Some(Sealed {
        starts: maps.sealed_starts().map(process::start_of_ns).collect(),
        others: scopes
            .map(|(id, _)| u64::from(id))
            .filter(|id| *id != u64::from(own))
            .collect(),
    })
}

/// Programs that bindings name, and that are not under seal: they ran before the agent came. `sealed` is asked after
/// all that might be were seen: what starts meanwhile is under seal.
fn ran_before(bindings: &[Binding], sealed: impl FnOnce() -> Option<Sealed>) -> Vec<String> {
    let mut found = Vec::new();
    for pid in process::all().into_iter().flatten().take(MAX_PROCESSES) {
        let process = Process::new(pid);
        if pid == std::process::id() {
            continue;
        }
        let Ok(executable) = process.executable() else {
            continue;
        };
        for binding in bindings
            .iter()
            .filter(|binding| runs(process, &executable, binding))
        {
            found.push((pid, process, binding));
        }
    }
    if found.is_empty() {
        return Vec::new();
    }
    let Some(sealed) = sealed() else {
        return Vec::new();
    };
    let is_open = |process: Process, pid: u32| {
        let start = process.started().ok()?;
        let namespace = fs::metadata(format!("/proc/{pid}/ns/pid")).ok()?.ino();
        Some(!sealed.starts.contains(&start) && !sealed.others.contains(&namespace))
    };
    found
        .into_iter()
        .filter(|(pid, process, _)| is_open(*process, *pid).unwrap_or(false))
        .map(|(pid, _, binding)| {
            let Binding { name, selector, .. } = binding;
            format!(
                "binding {name}: {} runs already, as process {pid}, without its secrets and unguarded: it started before this was watched for. Start it again",
                selector.binary
            )
        })
        .collect()
}

/// Whether a process runs a binding's program, as far as its file and user say. A script is known by the process's name.
fn runs(process: Process, executable: &Path, binding: &Binding) -> bool {
    let selector = &binding.selector;
    let name = selector.basename().as_bytes();
    let file = executable
        .file_name()
        .map(OsStr::as_bytes)
        .unwrap_or_default();
    let is_file = file.strip_suffix(b" (deleted)").unwrap_or(file) == name;
    let comm = &name[..name.len().min(COMM_LEN)];
    if !is_file && process.comm().ok().as_deref() != Some(comm) {
        return false;
    }
    if selector
        .uid
        .is_some_and(|uid| process.user().is_ok_and(|owner| owner != uid))
    {
        return false;
    }
    if !selector.binary.starts_with('/') {
        return true;
    }
    let Ok(there) = process.file_at(Path::new(&selector.binary)) else {
        return false;
    };
    !is_file || process.executable_file().is_ok_and(|own| own == there)
}

/// Bindings whose path leads nowhere in any program's root.
fn nowhere(bindings: &[Binding]) -> Vec<String> {
    let mut missing: Vec<_> = bindings
        .iter()
        .filter(|binding| binding.selector.binary.starts_with('/'))
        .collect();
    let mut roots = HashSet::new();
    for pid in process::all().into_iter().flatten().take(MAX_PROCESSES) {
        if missing.is_empty() {
            break;
        }
        let process = Process::new(pid);
        // (kernel threads have the same root as the first process)
        let Ok(root) = process.root() else {
            continue;
        };
        if !roots.insert(root) {
            continue;
        }
        if roots.len() > MAX_ROOTS {
            // It may be in one of the others.
            return Vec::new();
        }
        missing.retain(|binding| {
            process
                .file_at(Path::new(&binding.selector.binary))
                .is_err()
        });
    }
    if roots.is_empty() {
        return Vec::new();
    }
    missing
        .into_iter()
        .map(|Binding { name, selector, .. }| {
            format!(
                "binding {name}: no program here has {} in its root ({} looked at): correct the path, unless its container is yet to come",
                selector.binary,
                roots.len()
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;
    use crate::config::parse;

    fn bindings(binary: &str) -> Vec<Binding> {
        let text = format!(
            "version: v1\nsecrets:\n  - name: a\n    selector: {{binary: {binary}}}\n    secretRefs: [{{name: X, source: {{envRef: X}}}}]\n"
        );
        parse(&text, Path::new("config.yaml")).unwrap().secrets
    }

    /// A program that runs, under a name nobody else has.
    struct Running {
        child: Child,
        folder: tempfile::TempDir,
    }

    impl Running {
        fn start(name: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(name);
            // (not by us: what another test's thread starts just then would have it open for writing, and it could not run)
            let copied = Command::new("cp").arg("/bin/sleep").arg(&path).status();
            assert!(copied.unwrap().success());
            let child = Command::new(&path).arg("600").spawn().unwrap();
            // (until it has executed, it is this program)
            while fs::read_link(format!("/proc/{}/exe", child.id())).unwrap() != path {
                thread::sleep(Duration::from_millis(1));
            }
            Self { child, folder }
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }

    #[test]
    fn a_program_that_ran_before_is_told_of_with_its_number() {
        let name = "ran-before-kernelseal";
        let running = Running::start(name);
        let path = running.folder.path().join(name);
        for binary in [name, path.to_str().unwrap()] {
            let told = ran_before(&bindings(binary), || Some(Sealed::default()));
            let process = format!("as process {},", running.child.id());
            assert!(told.len() == 1 && told[0].contains(&process), "{told:?}");
        }
        // Another file of its name is not it.
        let other = running.folder.path().join("other");
        fs::create_dir(&other).unwrap();
        let other = other.join(name);
        fs::write(&other, "").unwrap();
        let told = ran_before(&bindings(other.to_str().unwrap()), || {
            Some(Sealed::default())
        });
        assert!(told.is_empty(), "{told:?}");
    }

    #[test]
    fn a_program_that_is_sealed_or_anothers_is_not_told_of() {
        let name = "is-sealed-kernelseal";
        let running = Running::start(name);
        let process = Process::new(running.child.id());
        let is_sealed = || {
            Some(Sealed {
                starts: BTreeSet::from([process.started().unwrap()]),
                ..Sealed::default()
            })
        };
        assert!(ran_before(&bindings(name), is_sealed).is_empty());
        let is_anothers = || {
            Some(Sealed {
                others: BTreeSet::from([fs::metadata("/proc/self/ns/pid").unwrap().ino()]),
                ..Sealed::default()
            })
        };
        assert!(ran_before(&bindings(name), is_anothers).is_empty());
        // Where the kernel side cannot be asked, nothing is claimed.
        assert!(ran_before(&bindings(name), || None).is_empty());
    }

    #[test]
    fn a_path_in_nobodys_root_is_told_of() {
        let told = nowhere(&bindings("/opt/kernelseal-test/not-there"));
        assert!(
            told.len() == 1 && told[0].contains("/opt/kernelseal-test/not-there"),
            "{told:?}"
        );
        assert!(
            nowhere(&bindings("/proc/self/exe")).len() == 1,
            "magic links are not followed"
        );
        let own = std::env::current_exe().unwrap();
        assert!(nowhere(&bindings(own.to_str().unwrap())).is_empty());
        assert!(nowhere(&bindings("not-there")).is_empty());
    }
}
