//! The log on stderr: text for people, JSON for collectors. A thread of its own writes, and what it
//! cannot keep up with is lost: a reader who does not read must hold up nobody's start. Libraries do not
//! speak here: kube logs an answer that it cannot read, and that may be a Secret.

use std::io;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{filter::Targets, fmt, prelude::*};

use crate::config::{LogFormat, LogLevel};

/// Whose lines are written: our own modules'.
const OURS: &str = env!("CARGO_CRATE_NAME");
/// Lines that may wait for the writer.
const WAITING: usize = 512;

/// Writes out what waits when it is dropped.
pub(crate) struct Log(#[expect(dead_code, reason = "held for its drop")] WorkerGuard);

/// Starts logging. Events do not come this way: no level silences them.
pub(crate) fn start(level: LogLevel, format: LogFormat) -> Log {
    let level = match level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING)
        .thread_name("log")
        .finish(io::stderr());
    let filter = Targets::new().with_target(OURS, level);
    let base = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer().with_writer(writer).with_target(false);
    // A second start (in tests) keeps the first.
    let _ = match format {
        LogFormat::Text => base
            .with(layer.with_ansi(io::IsTerminal::is_terminal(&io::stderr())))
            .try_init(),
        LogFormat::Json => base.with(layer.json().flatten_event(true)).try_init(),
    };
    Log(guard)
}
