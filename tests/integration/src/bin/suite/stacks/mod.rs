//! The rebuilt stack on the real kernel: whatever a program is executed with, it finds that and its secrets, and nothing else
//! is different from a start without us.

mod compare;
mod dump;
mod random;

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use nix::sys::personality::{self, Persona};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};
use serde_json::json;

use self::compare::compare;
use self::dump::Dump;
use self::random::{Case, Random, Secret, limit, secrets};

const LONG: Duration = Duration::from_mins(6);
/// Cases for each sort of program in a run.
const CASES: usize = 120;
/// Bindings with different secrets; cases take them in turns.
const BINDINGS: usize = 25;
/// Set to a seed that a failure named, to see it again.
const SEED: &str = "KERNELSEAL_SEED";
/// Seeds and cases that failed once.
const REGRESSIONS: &[(u64, usize)] = &[];
/// Seeds of every run, beside a new one. The cases are enough for every sort of them.
const STEADY: (u64, Range<usize>) = (1, 0..2 * BINDINGS);
/// The kernel counts pointers, too, and its own strings: what is so far below its limit must fit.
const SLACK: u64 = 4096;
/// The variable that comes with files.
const DIRECTORY: &str = "KERNELSEAL_SECRETS_DIR=/run/kernelseal/secrets/";

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    let registry = registry
        .slow_test("stacks::static_programs", LONG, || {
            every_case("stack-static", 8)
        })
        .slow_test("stacks::dynamic_programs", LONG, || {
            every_case("stack-dynamic", 8)
        });
    // (on arm64 they are refused: `delivery::c_32_bit`)
    #[cfg(target_arch = "x86_64")]
    let registry = registry.slow_test("stacks::programs_of_32_bits", LONG, || {
        every_case("stack-32", 4)
    });
    registry
}

fn every_case(program: &str, width: usize) -> Result<()> {
    for (seed, case) in REGRESSIONS {
        Bench::new(program, width, *seed)?.run(*case..case + 1)?;
    }
    if let Ok(seed) = std::env::var(SEED) {
        return Bench::new(program, width, seed.parse()?)?.run(0..CASES);
    }
    let (seed, cases) = STEADY;
    let steady = cases.len();
    Bench::new(program, width, seed)?.run(cases)?;
    let mut seed = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut seed)?;
    Bench::new(program, width, u64::from_le_bytes(seed))?.run(0..CASES - steady)
}

/// A binding's secrets, and whether they come as files, too.
struct Given {
    secrets: Vec<Secret>,
    has_files: bool,
}

/// An agent with random secrets, and programs for them: of each two, of which a binding means one.
struct Bench {
    scratch: Scratch,
    seed: u64,
    width: usize,
    given: Vec<Given>,
    _agent: Agent,
}

impl Bench {
    fn new(program: &str, width: usize, seed: u64) -> Result<Self> {
        let scratch = Scratch::new()?;
        let mut random = Random::new(seed);
        let mut given = Vec::new();
        let mut config: Option<Config> = None;
        for number in 0..BINDINGS {
            scratch.probe(program, format!("bound-{number:02}"))?;
            scratch.probe(program, format!("plain-{number:02}"))?;
            let name = format!("bound-{number:02}");
            let mut all = match config {
                Some(all) => all.and_seal(&name),
                None => Config::seal(&name).policy("holdTimeout", "1m"),
            };
            let secrets = secrets(&mut random);
            for (index, (secret, value)) in secrets.iter().enumerate() {
                let path = scratch.file(format!("secret-{number}-{index}"), value)?;
                all = all.secret(secret, json!({"fileRef": path.to_string_lossy()}));
            }
            let has_files = random.below(3) == 0;
            if !has_files {
                all = all.delivery(&["env"]);
            }
            config = Some(all);
            given.push(Given { secrets, has_files });
        }
        Ok(Self {
            _agent: Agent::run(&config.context("no bindings")?)?,
            scratch,
            seed,
            width,
            given,
        })
    }

    fn run(&self, cases: Range<usize>) -> Result<()> {
        let mut refused = 0;
        let count = cases.len();
        for number in cases {
            let is_refused = self.check(number).with_context(|| {
                format!(
                    "case {number}, pointers of {} bytes; again with {SEED}={}",
                    self.width, self.seed
                )
            })?;
            refused += usize::from(is_refused);
        }
        println!("{refused} of {count} cases were too much for the kernel, or for it with ours");
        ensure!(refused < count.max(2), "none of {count} cases was started");
        Ok(())
    }

    /// One program with us and without; true if it was too much for the kernel or for us.
    fn check(&self, number: usize) -> Result<bool> {
        let mut random = Random::new(self.seed.wrapping_add(number as u64).rotate_left(32));
        let case = Case::new(&mut random);
        let given = &self.given[number % BINDINGS];
        let path = |sort: &str| {
            self.scratch
                .join(format!("{sort}-{:02}", number % BINDINGS))
        };
        let plain = self.execute(&path("plain"), &case)?;
        let (pid, bound) = self.execute(&path("bound"), &case)?;
        let plain = match plain.1 {
            Found::Said(dump) => dump,
            Found::TooMuch => {
                ensure!(
                    matches!(bound, Found::TooMuch),
                    "the kernel refuses it, and then does not"
                );
                return Ok(true);
            }
            Found::Refused => bail!("it was refused without a binding"),
        };
        let total = total(&case, &path("bound"), given);
        if let Found::Said(bound) = bound {
            let (kept, ours) = given.expected(&plain.variables, pid);
            let expected = [kept.as_slice(), &ours].concat();
            compare(&plain, &bound, (&expected, kept.len()), case.is_fixed)
                .with_context(|| described(&case, given))?;
            if total > limit(case.stack_limit) {
                self.ensure_allowed(&path("plain"), case, expected)?;
            }
            return Ok(false);
        }
        ensure!(
            total + SLACK > limit(case.stack_limit),
            "it was refused with {total} bytes of {}; {}",
            limit(case.stack_limit),
            described(&case, given)
        );
        Ok(true)
    }

    /// What we let pass the kernel must, too: a program could not pass its variables on otherwise.
    fn ensure_allowed(&self, path: &Path, case: Case, variables: Vec<Vec<u8>>) -> Result<()> {
        let described = format!("{} variables", variables.len());
        let (_, found) = self.execute(path, &Case { variables, ..case })?;
        ensure!(
            matches!(found, Found::Said(_)),
            "the kernel does not take {described} that we let pass"
        );
        Ok(())
    }

    fn execute(&self, path: &Path, case: &Case) -> Result<(Pid, Found)> {
        let strings = |list: &[Vec<u8>]| -> Result<Vec<CString>> {
            Ok(list
                .iter()
                .map(|text| CString::new(&**text))
                .collect::<Result<_, _>>()?)
        };
        let program = CString::new(path.as_os_str().as_bytes())?;
        let (arguments, variables) = (strings(&case.arguments)?, strings(&case.variables)?);
        let (output, input) = pipe2(OFlag::O_CLOEXEC)?;
        let mut actions = PosixSpawnFileActions::init()?;
        actions.add_dup2(input.as_raw_fd(), 1)?;
        let spawned = with_limits(case, || {
            posix_spawn(
                &*program,
                &actions,
                &PosixSpawnAttr::init()?,
                &arguments,
                &variables,
            )
        })?;
        drop(input);
        let pid = match spawned {
            Ok(pid) => pid,
            Err(Errno::E2BIG) => return Ok((Pid::from_raw(0), Found::TooMuch)),
            Err(error) => return Err(error).context("cannot start it"),
        };
        let mut bytes = Vec::new();
        File::from(output).read_to_end(&mut bytes)?;
        let found = match waitpid(pid, None)? {
            WaitStatus::Exited(_, 0) => Found::Said(Dump::parse(&bytes, self.width)?),
            WaitStatus::Signaled(_, Signal::SIGKILL, _) if bytes.is_empty() => Found::Refused,
            status => bail!("it ended with {status:?}"),
        };
        Ok((pid, found))
    }
}

/// What came of a start.
enum Found {
    Said(Dump),
    /// The kernel would not have it.
    TooMuch,
    /// We would not.
    Refused,
}

/// Does it with the case's limit and addresses, which a child inherits.
fn with_limits<T>(case: &Case, what: impl FnOnce() -> T) -> Result<T> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_STACK)?;
    let persona = personality::get()?;
    setrlimit(Resource::RLIMIT_STACK, case.stack_limit, hard)?;
    if case.is_fixed {
        personality::set(persona | Persona::ADDR_NO_RANDOMIZE)?;
    }
    let result = what();
    personality::set(persona)?;
    setrlimit(Resource::RLIMIT_STACK, soft, hard)?;
    Ok(result)
}

impl Given {
    /// Its variables in their order without those of our names, then ours, then where the files are.
    fn expected(&self, variables: &[Vec<u8>], pid: Pid) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let directory = format!("{DIRECTORY}{pid}").into_bytes();
        let mut ours: Vec<Vec<u8>> = self
            .secrets
            .iter()
            .map(|(name, value)| [name.as_bytes(), b"=", value].concat())
            .collect();
        if self.has_files {
            ours.push(directory);
        }
        let name = |entry: &[u8]| {
            let end = entry.iter().position(|byte| *byte == b'=')?;
            Some(entry[..=end].to_vec())
        };
        let names: Vec<_> = ours.iter().filter_map(|entry| name(entry)).collect();
        let kept = variables
            .iter()
            .filter(|entry| name(entry).is_none_or(|name| !names.contains(&name)));
        (kept.cloned().collect(), ours)
    }
}

/// Bytes that the kernel would count, had it been executed like this.
fn total(case: &Case, path: &Path, given: &Given) -> u64 {
    let strings = case.arguments.iter().chain(&case.variables).map(Vec::len);
    let ours = given
        .secrets
        .iter()
        .map(|(name, value)| name.len() + value.len() + 1);
    let directory = [DIRECTORY.len() + 16, path.as_os_str().len()];
    let bytes = strings
        .chain(ours)
        .chain(directory)
        .map(|length| length + 1 + size_of::<u64>());
    bytes.sum::<usize>() as u64
}

fn described(case: &Case, given: &Given) -> String {
    let lengths = |list: &[Vec<u8>]| -> usize { list.iter().map(Vec::len).sum() };
    format!(
        "{} arguments of {} bytes, {} variables of {} bytes, {} secrets of {} bytes, stack limit {}, fixed addresses: {}",
        case.arguments.len(),
        lengths(&case.arguments),
        case.variables.len(),
        lengths(&case.variables),
        given.secrets.len(),
        given
            .secrets
            .iter()
            .map(|(_, value)| value.len())
            .sum::<usize>(),
        case.stack_limit,
        case.is_fixed
    )
}
