//! Where events go: stdout, and the audit log if there is one. A thread of its own writes, so that
//! a reader who does not read holds up nobody's start.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use prometheus::IntCounterVec;

use super::{
    Detail, Event, Kind, Lifecycle, Notice, Notices, Who,
    output::{AuditLog, Stdout},
};
use crate::{process::Container, util::Clock};

/// Hand-overs that may wait for the writer, and their bytes: what an attacker makes us say must not
/// take our memory.
const WAITING: usize = 4096;
const WAITING_BYTES: usize = 1024 * 1024;
/// Where events are lost that nobody reads.
const OUTPUT: &str = "output";
/// How often the writer looks whether something was lost while nothing came.
const LOOK_FOR_LOSSES: Duration = Duration::from_secs(1);
/// After a write what comes is collected for so long: where many events come, waking the writer for each costs more than they
/// do. What comes alone is written at once.
const COLLECTED_FOR: Duration = Duration::from_millis(5);
/// What is collected has room for, at first: two events of a start. One that grows with every field costs as much again.
const USUAL_BYTES: usize = 1024;
/// The writer's stack, in bytes.
const STACK: usize = 128 * 1024;

/// Takes events. Cheap to clone; each clone collects its own until it is flushed, since every
/// hand-over wakes the writer.
pub(crate) struct Journal {
    node: Arc<str>,
    lines: SyncSender<Vec<u8>>,
    lost: Arc<AtomicU64>,
    waiting: Arc<AtomicUsize>,
    dropped: IntCounterVec,
    notices: Option<Notices>,
    /// The audit log is to be opened anew.
    reopen: Arc<AtomicBool>,
    collected: Vec<u8>,
    /// How many, those included that the collected tell the loss of.
    events: u64,
}

impl Clone for Journal {
    fn clone(&self) -> Self {
        Self {
            node: self.node.clone(),
            lines: self.lines.clone(),
            lost: self.lost.clone(),
            waiting: self.waiting.clone(),
            dropped: self.dropped.clone(),
            notices: self.notices.clone(),
            reopen: self.reopen.clone(),
            collected: Vec::new(),
            events: 0,
        }
    }
}

/// The thread that writes; joined at the end, when every [`Journal`] is gone.
pub(crate) struct Writer(JoinHandle<()>);

impl Writer {
    /// Waits until everything is written, or for a second where some [`Journal`] is still in use.
    pub(crate) fn finish(self) {
        const PATIENCE: Duration = Duration::from_secs(1);
        const STEP: Duration = Duration::from_millis(5);
        let mut waited = Duration::ZERO;
        while !self.0.is_finished() && waited < PATIENCE {
            thread::sleep(STEP);
            waited += STEP;
        }
    }
}

impl Journal {
    /// Starts writing. `dropped` counts what is lost, by where.
    pub(crate) fn start(
        audit_log: Option<&Path>,
        dropped: IntCounterVec,
    ) -> io::Result<(Self, Writer)> {
        let audit_log = audit_log.map(AuditLog::open).transpose()?;
        let (lines, handed_over) = sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let waiting = Arc::new(AtomicUsize::new(0));
        let journal = Self {
            node: node_name().into(),
            lines,
            lost: lost.clone(),
            waiting: waiting.clone(),
            dropped,
            notices: None,
            reopen: Arc::default(),
            collected: Vec::new(),
            events: 0,
        };
        let writer = Pen {
            stdout: Stdout::new(),
            audit_log,
            reopen: journal.reopen.clone(),
            lost,
            waiting,
            dropped: journal.dropped.clone(),
            node: journal.node.clone(),
        };
        let thread = thread::Builder::new()
            .name("journal".into())
            .stack_size(STACK)
            .spawn(move || writer.write_all(&handed_over))?;
        Ok((journal, Writer(thread)))
    }

    /// Tells of refusals, and of the agent's own troubles, there too.
    pub(crate) fn tell_too(&mut self, notices: Notices) {
        self.notices = Some(notices);
    }

    /// Has the audit log opened anew within a second, or with the next event. (One that was moved is, without that.)
    pub(crate) fn reopen_audit_log(&self) {
        self.reopen.store(true, Ordering::Relaxed);
    }

    /// Takes an event that happened at a time of the monotonic clock.
    pub(crate) fn emit(&mut self, time_ns: u64, kind: Kind, who: Who<'_>, detail: Detail<'_>) {
        if let Some(notices) = &self.notices
            && let Some(notice) = Notice::of(&who, &detail)
        {
            notices.give(notice);
        }
        if self.collected.capacity() == 0 {
            self.collected.reserve(USUAL_BYTES);
        }
        write_line(&mut self.collected, &self.node, time_ns, kind, who, detail);
        self.events += 1;
    }

    /// Tells of events that were lost on their way to us; `container` had too many of them. Where that is lost itself,
    /// so many are counted as lost there, not one.
    pub(crate) fn tell_loss(
        &mut self,
        count: u64,
        lost_in: &'static str,
        container: Option<&Container>,
    ) {
        self.dropped.with_label_values(&[lost_in]).inc_by(count);
        let who = Who {
            container,
            ..Who::agent()
        };
        let detail = Detail::Dropped { count, lost_in };
        self.emit(Clock::monotonic_ns(), Kind::Dropped, who, detail);
        self.events += count;
    }

    /// Takes an event of the agent's own; `mode` is the one in force.
    pub(crate) fn emit_lifecycle(&mut self, action: Lifecycle, mode: &str, reason: Option<&str>) {
        let detail = Detail::Agent {
            action,
            mode,
            reason,
        };
        self.emit(Clock::monotonic_ns(), Kind::Agent, Who::agent(), detail);
    }

    /// Hands over what was taken. Never waits: where the writer cannot keep up, the loss is
    /// counted and reported.
    pub(crate) fn flush(&mut self) {
        if self.collected.is_empty() {
            return;
        }
        let lines = std::mem::take(&mut self.collected);
        let events = std::mem::take(&mut self.events);
        let bytes = lines.len();
        let has_room = self.waiting.fetch_add(bytes, Ordering::Relaxed) < WAITING_BYTES;
        let is_handed_over = has_room && self.lines.try_send(lines).is_ok();
        if !is_handed_over {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.lost.fetch_add(events, Ordering::Relaxed);
        }
    }
}

/// Adds an event's line.
fn write_line(
    to: &mut Vec<u8>,
    node: &str,
    time_ns: u64,
    kind: Kind,
    who: Who<'_>,
    detail: Detail<'_>,
) {
    let timestamp = Clock::rfc3339(time_ns);
    let event = Event {
        timestamp,
        node,
        kind,
        who,
        detail,
    };
    // Serialising plain fields into memory cannot fail.
    let _ = serde_json::to_writer(&mut *to, &event);
    to.push(b'\n');
}

/// The writing side.
struct Pen {
    stdout: Stdout,
    audit_log: Option<AuditLog>,
    reopen: Arc<AtomicBool>,
    lost: Arc<AtomicU64>,
    waiting: Arc<AtomicUsize>,
    dropped: IntCounterVec,
    node: Arc<str>,
}

impl Pen {
    fn write_all(mut self, handed_over: &Receiver<Vec<u8>>) {
        loop {
            let (mut lines, is_over) = match handed_over.recv_timeout(LOOK_FOR_LOSSES) {
                Ok(lines) => (lines, false),
                // (what was lost may be the last that happened)
                Err(RecvTimeoutError::Timeout) => (Vec::new(), false),
                Err(RecvTimeoutError::Disconnected) => (Vec::new(), true),
            };
            // what else is there goes out in the same write
            while let Ok(more) = handed_over.try_recv() {
                lines.extend_from_slice(&more);
            }
            let bytes = lines.len();
            let count = self.lost.swap(0, Ordering::Relaxed);
            if count > 0 {
                let lost_in = OUTPUT;
                self.dropped.with_label_values(&[lost_in]).inc_by(count);
                let detail = Detail::Dropped { count, lost_in };
                let now = Clock::monotonic_ns();
                write_line(
                    &mut lines,
                    &self.node,
                    now,
                    Kind::Dropped,
                    Who::agent(),
                    detail,
                );
            }
            let is_asked = self.reopen.swap(false, Ordering::Relaxed);
            if let Some(log) = &mut self.audit_log
                && (is_asked || !lines.is_empty())
            {
                log.follow(is_asked);
            }
            if !lines.is_empty() {
                self.write(&lines);
            }
            // Only now: what is being written takes memory, too.
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            if is_over {
                return;
            }
            if bytes > 0 {
                thread::sleep(COLLECTED_FOR);
            }
        }
    }

    /// Writes everywhere.
    fn write(&mut self, lines: &[u8]) {
        let node = self.node.clone();
        let tell = |count, lost_in| {
            let detail = Detail::Dropped { count, lost_in };
            let now = Clock::monotonic_ns();
            let mut line = Vec::new();
            write_line(&mut line, &node, now, Kind::Dropped, Who::agent(), detail);
            line
        };
        let mut lost = vec![self.stdout.write(lines, tell)];
        lost.extend(self.audit_log.as_mut().map(|log| log.write(lines, tell)));
        for (count, lost_in) in lost {
            self.dropped.with_label_values(&[lost_in]).inc_by(count);
        }
    }
}

/// Variable by which a pod is told its node's name in Kubernetes (`fieldRef`).
pub(crate) const NODE_NAME: &str = "NODE_NAME";

/// The node's name in Kubernetes, if we were told.
pub(crate) fn node_in_kubernetes() -> Option<String> {
    std::env::var(NODE_NAME)
        .ok()
        .filter(|name| !name.is_empty())
}

/// The node's name: Kubernetes' if the pod was told, else the host's.
fn node_name() -> String {
    node_in_kubernetes().unwrap_or_else(|| {
        nix::unistd::gethostname()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    })
}

#[cfg(test)]
mod tests {
    use prometheus::Opts;

    use super::*;

    #[test]
    fn a_loss_that_cannot_be_told_counts_as_all_it_told() {
        let (lines, _handed_over) = sync_channel(1);
        let dropped = IntCounterVec::new(Opts::new("dropped", "-"), &["lost_in"]).unwrap();
        let mut journal = Journal {
            node: "node".into(),
            lines,
            lost: Arc::default(),
            waiting: Arc::default(),
            dropped: dropped.clone(),
            notices: None,
            reopen: Arc::default(),
            collected: Vec::new(),
            events: 0,
        };
        journal.tell_loss(3, "kernel", None);
        journal.flush();
        assert_eq!(journal.lost.load(Ordering::Relaxed), 0);
        // the writer has no room any more
        journal.tell_loss(9_857, "network", None);
        journal.flush();
        assert_eq!(journal.lost.load(Ordering::Relaxed), 9_858);
        for (lost_in, count) in [("kernel", 3), ("network", 9_857), (OUTPUT, 0)] {
            assert_eq!(dropped.with_label_values(&[lost_in]).get(), count);
        }
    }
}
