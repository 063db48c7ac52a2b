//! The things that are measured.

use std::ffi::CStr;
use std::hint::black_box;
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{OFlag, open};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use nix::sys::stat::Mode;
use nix::sys::uio::pread;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{close, getppid};

use crate::machine::{ENV_AND_FILE, ENV_ONLY, EXT4_FILE, TMPFS_FILE, UNMATCHED};

/// What figures are counted in: an instruction more or less decides, and none must be lost by rounding twice.
pub const TENTHS: u64 = 10;
/// Samples of a case. A multiple of [`SLICES`].
const SAMPLES: usize = 400;
/// Sorted by their figure, samples are looked at in slices of this number.
const SLICES: usize = 20;
/// What counts of starts: the middle half, as its mean. Without the timer's ticks at the upper end, and steadier than the
/// one median.
const MIDDLE: Range<usize> = SLICES / 4..SLICES * 3 / 4;
/// What counts of connections: the quarter of them that is around the first quartile. What earlier ones left to be freed falls
/// into others, as chance has it; there it agrees to within 15 from boot to boot.
const LOWER: Range<usize> = SLICES / 8..SLICES * 3 / 8;
/// What counts of opens: an open takes 110 less while the processor has files at hand that were given back together
/// (after an RCU grace period). How many do is left to chance, so those alone count.
const CHEAPEST: Range<usize> = 0..SLICES / 10;
/// Calls in one sample, for what takes thousands of instructions.
const OPENS: u32 = 20;
/// Calls in one sample, for what takes hundreds.
const CALLS: u32 = 500;
/// Calls of a case that makes one in a sample.
pub const CALLS_OF_A_CASE: u64 = (WARM_UP + SAMPLES) as u64;
/// No descriptor.
pub const NO_FILE: i32 = -1;
/// Starts before the first that counts: caches fill, and what one start leaves to do falls into the next.
const WARM_UP: usize = 20;

/// Something that kernelseal may make slower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    OpenExt4,
    OpenTmpfs,
    OpenProcSelf,
    OpenProcOther,
    /// One byte, of an open file.
    Read,
    Spawn,
    SystemCall,
    StartEnv,
    StartEnvAndFile,
    /// A TCP connection through loopback, both its ends, from its beginning to its end.
    Connection,
    /// A system call that a monitor can watch.
    WatchedCall,
}

/// What may be added to a case, in instructions.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    /// So much.
    Of(u64),
    /// So much over what a program costs that does nothing, at the same hook: how much a hook costs by itself differs
    /// from kernel to kernel.
    OverIdle(u64),
    /// Twice what programs cost that do nothing, at the same hooks, and so many records.
    TwiceIdle {
        /// What one call is told by.
        records: u64,
    },
}

impl Case {
    /// Those that the sealing may make slower.
    pub const ALL: [Self; 9] = [
        Self::OpenExt4,
        Self::OpenTmpfs,
        Self::OpenProcSelf,
        Self::OpenProcOther,
        Self::Read,
        Self::Spawn,
        Self::SystemCall,
        Self::StartEnv,
        Self::StartEnvAndFile,
    ];
    /// Those that a hook on every open makes slower.
    pub const OPENS: [Self; 4] = [
        Self::OpenExt4,
        Self::OpenTmpfs,
        Self::OpenProcSelf,
        Self::OpenProcOther,
    ];

    /// Its line's name.
    pub fn title(self) -> &'static str {
        match self {
            Self::OpenExt4 => "open+close, ext4",
            Self::OpenTmpfs => "open+close, tmpfs",
            Self::OpenProcSelf => "open+close, /proc/self/stat",
            Self::OpenProcOther => "open+close, /proc/1/stat",
            Self::Read => "read of a byte, ext4",
            Self::Spawn => "spawn+wait, unmatched program",
            Self::SystemCall => "getppid",
            Self::StartEnv => "start+wait, matched program, env",
            Self::StartEnvAndFile => "start+wait, matched program, env and file",
            Self::Connection => "connect+accept+close twice, watched",
            Self::WatchedCall => "close(-1), watched",
        }
    }

    /// What may be added to it, in instructions.
    pub fn limit(self) -> Limit {
        match self {
            Self::OpenExt4 | Self::OpenTmpfs | Self::Read => Limit::OverIdle(34),
            Self::OpenProcSelf | Self::OpenProcOther => Limit::OverIdle(190),
            Self::Spawn => Limit::Of(1_500),
            Self::SystemCall => Limit::Of(0),
            Self::StartEnv => Limit::Of(150_000),
            Self::StartEnvAndFile => Limit::Of(600_000),
            Self::Connection => Limit::TwiceIdle { records: 4 },
            Self::WatchedCall => Limit::TwiceIdle { records: 1 },
        }
    }

    /// Measures cases one after another, in [`TENTHS`].
    pub fn measure_all(cases: &[Self]) -> Result<Vec<u64>> {
        cases.iter().map(|case| case.measure()).collect()
    }

    /// Measures it, in [`TENTHS`].
    pub fn measure(self) -> Result<u64> {
        match self {
            Self::OpenExt4 => measure(CHEAPEST, OPENS, || open_and_close(EXT4_FILE)),
            Self::OpenTmpfs => measure(CHEAPEST, OPENS, || open_and_close(TMPFS_FILE)),
            Self::OpenProcSelf => measure(CHEAPEST, OPENS, || open_and_close(c"/proc/self/stat")),
            Self::OpenProcOther => measure(CHEAPEST, OPENS, || open_and_close(c"/proc/1/stat")),
            Self::Read => {
                let file = open(EXT4_FILE, OFlag::O_RDONLY, Mode::empty())?;
                measure(MIDDLE, CALLS, || {
                    ensure!(pread(&file, &mut [0], 0)? == 1, "nothing to read");
                    Ok(())
                })
            }
            Self::Spawn => measure(MIDDLE, 1, || spawn_and_wait(UNMATCHED)),
            Self::SystemCall => measure(MIDDLE, CALLS, || {
                black_box(getppid());
                Ok(())
            }),
            Self::StartEnv => measure(MIDDLE, 1, || spawn_and_wait(ENV_ONLY)),
            Self::StartEnvAndFile => measure(MIDDLE, 1, || spawn_and_wait(ENV_AND_FILE)),
            Self::Connection => {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                let address = listener.local_addr()?;
                measure(LOWER, 1, || {
                    let outgoing = TcpStream::connect(address)?;
                    let incoming = listener.accept()?;
                    drop((outgoing, incoming));
                    Ok(())
                })
            }
            Self::WatchedCall => measure(MIDDLE, 1, || {
                let _ = black_box(close(NO_FILE));
                Ok(())
            }),
        }
        .with_context(|| format!("while measuring {}", self.title()))
    }
}

/// Tenths of nanoseconds that one call takes: the mean of some slices of the samples.
fn measure(slices: Range<usize>, calls: u32, mut call: impl FnMut() -> Result<()>) -> Result<u64> {
    let mut samples = Vec::with_capacity(SAMPLES);
    for round in 0..WARM_UP + SAMPLES {
        let begin = Instant::now();
        for _ in 0..calls {
            call()?;
        }
        let all = begin.elapsed();
        if round >= WARM_UP {
            samples.push(u64::try_from(all.as_nanos())?);
        }
    }
    samples.sort_unstable();
    let of = |slice: usize| slice * (SAMPLES / SLICES);
    let counted = &samples[of(slices.start)..of(slices.end)];
    let (sum, calls) = (
        counted.iter().sum::<u64>(),
        counted.len() as u64 * u64::from(calls),
    );
    Ok(sum * TENTHS / calls)
}

fn open_and_close(path: &CStr) -> Result<()> {
    drop(
        open(path, OFlag::O_RDONLY, Mode::empty())
            .with_context(|| format!("cannot open {path:?}"))?,
    );
    Ok(())
}

fn spawn_and_wait(path: &CStr) -> Result<()> {
    let actions = PosixSpawnFileActions::init()?;
    let attributes = PosixSpawnAttr::init()?;
    let variables: [&CStr; 1] = [c"PATH=/usr/bin:/bin"];
    let child = posix_spawn(path, &actions, &attributes, &[path], &variables)
        .with_context(|| format!("cannot start {path:?}"))?;
    let status = waitpid(child, None)?;
    ensure!(
        matches!(status, WaitStatus::Exited(_, 0)),
        "{path:?} ended with {status:?}"
    );
    Ok(())
}
