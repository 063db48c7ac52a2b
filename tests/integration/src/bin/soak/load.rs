//! So many starts a second, of programs that bindings are about and of others, for some time.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kernelseal_integration::{hang, probe};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use nix::sys::wait::{WaitStatus, waitpid};

use crate::kinds::{Fate, Kind, Programs};

/// Starts asked for in a second, of programs that a binding is about.
pub const MATCHED_RATE: u64 = Kind::MIX.len() as u64;
/// The same of others.
pub const UNMATCHED_RATE: u64 = 500;
/// Threads that start them: so many programs live at one time, with a child each.
const MATCHED_WORKERS: usize = 12;
const UNMATCHED_WORKERS: usize = 2;
/// A start that takes longer hangs: what it waits for has shorter limits, of a minute each.
const LONGEST: Duration = Duration::from_mins(4);
/// Complaints that are kept; the others are counted.
const KEPT: usize = 10;

/// What came of it so far.
#[derive(Default)]
pub struct Tally {
    matched: AtomicU64,
    unmatched: AtomicU64,
    kinds: Mutex<Kinds>,
    /// What is under way, by its number, and since when.
    under_way: Mutex<BTreeMap<u64, (Kind, Instant)>>,
}

#[derive(Default)]
struct Kinds {
    counts: BTreeMap<&'static str, u64>,
    complaints: Vec<String>,
    failures: u64,
}

impl Tally {
    /// Starts of programs that a binding is about.
    pub fn matched(&self) -> u64 {
        self.matched.load(Ordering::Relaxed)
    }

    /// Starts of others.
    pub fn unmatched(&self) -> u64 {
        self.unmatched.load(Ordering::Relaxed)
    }

    /// How many went as they should not.
    pub fn failures(&self) -> u64 {
        self.kinds().failures
    }

    /// How many had this fate.
    pub fn of(&self, fate: Fate) -> u64 {
        let kinds = self.kinds();
        kinds.counts.get(name(fate)).copied().unwrap_or_default()
    }

    /// What did not go as it should, the first of them in words.
    pub fn complaints(&self) -> String {
        let kinds = self.kinds();
        format!(
            "{} starts went wrong; the first:\n{}",
            kinds.failures,
            kinds.complaints.join("\n")
        )
    }

    fn kinds(&self) -> MutexGuard<'_, Kinds> {
        self.kinds.lock().expect("nobody panics here")
    }

    fn under_way(&self) -> MutexGuard<'_, BTreeMap<u64, (Kind, Instant)>> {
        self.under_way.lock().expect("nobody panics here")
    }

    /// Ends all if a start does not end: its thread cannot be made to.
    fn ensure_none_hangs(&self) {
        let under_way = self.under_way();
        let hang: Vec<_> = under_way
            .iter()
            .filter(|(_, (_, begin))| begin.elapsed() > LONGEST)
            .map(|(number, (kind, begin))| {
                format!("start {number}, {kind:?}, {:?}", begin.elapsed())
            })
            .collect();
        if !hang.is_empty() {
            println!("soak: these do not end: {}", hang.join("; "));
            println!(
                "soak: what everybody waits for:\n{}",
                hang::threads().join("\n")
            );
            process::exit(1);
        }
    }

    fn note(&self, what: &str, fate: Option<Fate>, result: Result<()>) {
        let mut kinds = self.kinds();
        match (result, fate) {
            (Ok(()), Some(fate)) => *kinds.counts.entry(name(fate)).or_default() += 1,
            (Ok(()), None) => {}
            (Err(error), _) => {
                kinds.failures += 1;
                if kinds.complaints.len() < KEPT {
                    println!("soak: {what}: {error:#}");
                    kinds.complaints.push(format!("{what}: {error:#}"));
                }
            }
        }
    }
}

fn name(fate: Fate) -> &'static str {
    match fate {
        Fate::Served => "served",
        Fate::Refused => "refused",
        Fate::LeftAlone => "left alone",
        Fate::Killed => "killed",
    }
}

/// Starts programs for so long; `each_second` is called on this thread meanwhile.
pub fn run(
    programs: &Programs,
    tally: &Tally,
    length: Duration,
    mut each_second: impl FnMut() -> Result<()>,
) -> Result<()> {
    let matched = Pace::new(MATCHED_RATE, length);
    let unmatched = Pace::new(UNMATCHED_RATE, length);
    let first = tally.matched();
    let other = CString::new(probe::path("bench-idle")?.as_os_str().as_bytes())?;
    thread::scope(|scope| {
        for _ in 0..MATCHED_WORKERS {
            scope.spawn(|| {
                while let Some(number) = matched.next() {
                    let number = first + number;
                    let kind = Kind::MIX[usize::try_from(number % MATCHED_RATE).unwrap_or(0)];
                    let begin = Instant::now();
                    tally.under_way().insert(number, (kind, begin));
                    let result = programs.start(kind, number);
                    tally.under_way().remove(&number);
                    tally.note(
                        &format!("start {number}, {kind:?}"),
                        Some(kind.fate()),
                        result,
                    );
                    tally.matched.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..UNMATCHED_WORKERS {
            scope.spawn(|| {
                while unmatched.next().is_some() {
                    tally.note("a program of no binding", None, start_other(&other));
                    tally.unmatched.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while matched.is_on() || !tally.under_way().is_empty() {
            thread::sleep(Duration::from_secs(1));
            tally.ensure_none_hangs();
            each_second()?;
        }
        Ok(())
    })
}

fn start_other(path: &CStr) -> Result<()> {
    let actions = PosixSpawnFileActions::init()?;
    let attributes = PosixSpawnAttr::init()?;
    let variables = [c"PATH=/usr/bin:/bin"];
    let child = posix_spawn(path, &actions, &attributes, &[path], &variables)
        .with_context(|| format!("cannot start {path:?}"))?;
    let status = waitpid(child, None)?;
    ensure!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
    Ok(())
}

/// Says when the next start is due.
struct Pace {
    begin: Instant,
    length: Duration,
    each: Duration,
    next: AtomicU64,
}

impl Pace {
    fn new(rate: u64, length: Duration) -> Self {
        Self {
            begin: Instant::now(),
            length,
            each: Duration::from_secs(1) / u32::try_from(rate).unwrap_or(u32::MAX),
            next: AtomicU64::new(0),
        }
    }

    fn is_on(&self) -> bool {
        self.begin.elapsed() < self.length
    }

    /// Waits until a start is due, and gives its number; `None` at the end. What is late is made up for as fast as
    /// it goes.
    fn next(&self) -> Option<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let due = self.each * u32::try_from(number).unwrap_or(u32::MAX);
        thread::sleep(due.min(self.length).saturating_sub(self.begin.elapsed()));
        self.is_on().then_some(number)
    }
}
