//! The load, and what is measured before, between and after.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kernelseal_integration::namespace::process_one;
use kernelseal_integration::process::{resident_kib, run, stopped};
use kernelseal_integration::quiet::{Agent, read_events};
use kernelseal_integration::{agent, leftovers};

use crate::kinds::{Fate, Programs};
use crate::load::{self, MATCHED_RATE, Tally, UNMATCHED_RATE};
use crate::machine::{Kernel, Process};

/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(30);
/// For what has ended to be taken down: files are wiped two seconds after their last program, and the kernel frees
/// memory when every processor has done something else.
const SETTLED: Duration = Duration::from_secs(8);
/// This part of the time is for caches and heaps to reach their size.
const WARM_UP_PART: u32 = 3;

/// A moment without load.
pub struct Measured {
    pub agent: Process,
    pub guardian: Process,
    pub kernel: Kernel,
}

/// What is left of a run.
pub struct Outcome {
    pub tally: Tally,
    /// Before any load, after the warm-up, in the end.
    pub begin: Measured,
    pub warm: Measured,
    pub end: Measured,
    /// As `kernelseal status` tells them in the end.
    pub sealed: u64,
    pub held: u64,
    pub dropped: u64,
    /// Of each type, how many were told, and how many are in the audit log.
    pub events: BTreeMap<String, u64>,
    pub audited: BTreeMap<String, u64>,
    pub stopped: Vec<String>,
    pub secret_places: Vec<String>,
    /// What is in the kernel side's maps when the agent has ended, too.
    pub leftovers: Vec<String>,
    /// Why it could not be removed.
    pub cleanup: Option<String>,
}

/// Runs the load for so long.
pub fn soak(length: Duration) -> Result<Outcome> {
    let programs = Programs::new()?;
    let folder = folder();
    let audit = folder.join("audit");
    let config = programs
        .config()?
        .monitoring("auditLog", audit.to_string_lossy().into_owned());
    // What ran here before is not what is looked at.
    let _ = agent::Agent::command(&["cleanup", "--force"]).output();
    let command = agent::Agent::command(&[]);
    let agent = Agent::start_as(command, folder.clone(), &config.to_string())?;
    println!(
        "soak: {} s; asked for in each: {MATCHED_RATE} starts that a binding is about, {UNMATCHED_RATE} others (emulated machines manage fewer)",
        length.as_secs()
    );

    let tally = Tally::default();
    let begin = measure(&agent)?;
    let mut progress = Progress::new(&tally, &agent);
    let warm_up = length / WARM_UP_PART;
    load::run(&programs, &tally, warm_up, || progress.tell())?;
    let warm = measure(&agent)?;
    progress.reset();
    load::run(&programs, &tally, length.saturating_sub(warm_up), || {
        progress.tell()
    })?;
    let end = measure(&agent)?;
    println!("{}", summary(&tally, length, [&begin, &warm, &end]));

    let [sealed, held, dropped] = status(agent.pid())?;
    let (stopped, secret_places) = (stopped()?, leftovers::secret_places()?);
    let ended = agent.stop()?;
    ensure!(ended.success(), "the agent ended with {ended}");
    thread::sleep(SETTLED);
    let in_maps = leftovers::in_maps()?;
    let cleanup = run(&mut agent::Agent::command(&["cleanup"])).err();
    let outcome = Outcome {
        tally,
        begin,
        warm,
        end,
        sealed,
        held,
        dropped,
        events: count(&folder.join("events"))?,
        audited: count(&audit)?,
        stopped,
        secret_places,
        leftovers: in_maps,
        cleanup: cleanup.map(|error| format!("{error:#}")),
    };
    println!("soak: events: {:?}", outcome.events);
    Ok(outcome)
}

/// Not in memory, where a guest has a disk.
fn folder() -> PathBuf {
    let disk = Path::new("/ext4");
    let folder = if disk.is_dir() {
        disk.to_owned()
    } else {
        std::env::temp_dir()
    };
    folder.join(format!("kernelseal-soak-{}", std::process::id()))
}

fn measure(agent: &Agent) -> Result<Measured> {
    thread::sleep(SETTLED);
    let guardian = process_one(agent.pid()).context("the agent has no guardian")?;
    Ok(Measured {
        agent: Process::look(agent.pid())?,
        guardian: Process::look(guardian)?,
        kernel: Kernel::look()?,
    })
}

/// Sealed, held and dropped, in the line of our agent.
fn status(agent: u32) -> Result<[u64; 3]> {
    let text = run(&mut agent::Agent::command(&["status"]))?;
    let find = || -> Option<[u64; 3]> {
        let mut lines = text.lines().map(str::split_whitespace);
        let words: Vec<_> = lines
            .find(|words| words.clone().nth(1) == Some(&agent.to_string()))?
            .collect();
        let number = |index: usize| words.get(index)?.parse().ok();
        Some([number(3)?, number(4)?, number(5)?])
    };
    find().with_context(|| format!("kernelseal status tells nothing of process {agent}:\n{text}"))
}

/// How many there are of each type.
fn count(path: &Path) -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    for event in read_events(path)? {
        let event = event?;
        let kind = event["type"].as_str().context("an event without a type")?;
        *counts.entry(kind.to_owned()).or_default() += 1;
    }
    Ok(counts)
}

/// A line now and then.
struct Progress<'a> {
    tally: &'a Tally,
    agent: &'a Agent,
    begin: Instant,
    last: Instant,
    /// Starts of either sort that the last line counted.
    counted: [u64; 2],
}

impl<'a> Progress<'a> {
    fn new(tally: &'a Tally, agent: &'a Agent) -> Self {
        let now = Instant::now();
        Self {
            tally,
            agent,
            begin: now,
            last: now,
            counted: [0; 2],
        }
    }

    /// The next line is about what comes from now on.
    fn reset(&mut self) {
        self.last = Instant::now();
        self.counted = [self.tally.matched(), self.tally.unmatched()];
    }

    fn tell(&mut self) -> Result<()> {
        let passed = self.last.elapsed();
        if passed < PROGRESS {
            return Ok(());
        }
        let before = self.counted;
        self.reset();
        let rate = |index: usize| {
            let starts = self.counted[index] - before[index];
            u128::from(starts) * 1000 / passed.as_millis().max(1)
        };
        println!(
            "soak: {:>5} s: {} and {} starts a second; in all {} and {}, {} went wrong; the agent has {} KiB",
            self.begin.elapsed().as_secs(),
            rate(0),
            rate(1),
            self.counted[0],
            self.counted[1],
            self.tally.failures(),
            resident_kib(self.agent.pid())?
        );
        Ok(())
    }
}

fn summary(tally: &Tally, length: Duration, [begin, warm, end]: [&Measured; 3]) -> String {
    let seconds = length.as_secs().max(1);
    let (matched, unmatched) = (tally.matched(), tally.unmatched());
    let process = |of: &dyn Fn(&Measured) -> Process| {
        let [begin, warm, end] = [begin, warm, end].map(of);
        format!(
            "memory {} -> {} -> {} KiB, descriptors {} -> {} -> {}, threads {} -> {} -> {}",
            begin.resident_kib,
            warm.resident_kib,
            end.resident_kib,
            begin.descriptors,
            warm.descriptors,
            end.descriptors,
            begin.threads,
            warm.threads,
            end.threads
        )
    };
    let kernel = [begin, warm, end].map(|measured| &measured.kernel);
    format!(
        "soak: {matched} starts that a binding is about ({} a second): {} served, {} refused, {} left alone, {} killed by us
soak: {unmatched} others ({} a second)
soak: before any load -> after a third of the time -> in the end:
soak: agent: {}
soak: guardian: {}
soak: kernel: tmpfs {} -> {} -> {} KiB, slabs {} -> {} -> {} KiB, free devices {} -> {} -> {}; grew since the third: {}",
        matched / seconds,
        tally.of(Fate::Served),
        tally.of(Fate::Refused),
        tally.of(Fate::LeftAlone),
        tally.of(Fate::Killed),
        unmatched / seconds,
        process(&|measured| measured.agent),
        process(&|measured| measured.guardian),
        kernel[0].shmem_kib,
        kernel[1].shmem_kib,
        kernel[2].shmem_kib,
        kernel[0].slab_kib,
        kernel[1].slab_kib,
        kernel[2].slab_kib,
        kernel[0].devices,
        kernel[1].devices,
        kernel[2].devices,
        kernel[2].grown_since(kernel[1]),
    )
}
