//! `kernelseal top`: the events of agents, read from standard input, as a live view of what is going on.
//!
//! An agent answers nobody in its pod, so there is nothing to ask: the view is made of what it reports anyway, and
//! whoever may read its output may see it. [`state`] keeps what events say, [`render`] draws it.

mod event;
mod render;
mod state;

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use self::{event::Event, render::Size, state::State};

/// How often it is drawn anew.
const INTERVAL: Duration = Duration::from_secs(1);
/// Lines that may wait.
const WAITING: usize = 1024;
/// A line of more bytes is no event.
const LONGEST: u64 = 64 * 1024;
/// To the upper left of an empty screen.
const HOME: &str = "\x1b[H\x1b[2J";

/// Draws until its input ends; where that is no terminal's, once.
pub(crate) fn run() -> anyhow::Result<()> {
    anyhow::ensure!(
        !io::stdin().is_terminal(),
        "it reads events from its standard input: kubectl logs -f POD -c kernelseal | kernelseal top, or tail -F FILE (monitoring.auditLog) | kernelseal top"
    );
    let is_live = io::stdout().is_terminal();
    let lines = read();
    let mut state = State::default();
    let mut events = 0;
    loop {
        let begin = Instant::now();
        let is_over = take(&lines, begin + INTERVAL, &mut state);
        if is_live || is_over {
            let millis = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
            let rate = (state.events - events) * 1_000 / millis.max(1);
            let drawn = draw(&state, is_live, is_over, rate);
            // (whoever read it has gone)
            if drawn.is_err() || is_over {
                return Ok(());
            }
            events = state.events;
        }
    }
}

/// Takes what comes until then; true when no more will.
fn take(lines: &Receiver<Vec<u8>>, until: Instant, state: &mut State) -> bool {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match lines.recv_timeout(left) {
            Ok(line) => match Event::parse(&line) {
                Some(told) => state.take(told),
                None => state.strange += 1,
            },
            Err(RecvTimeoutError::Timeout) => return false,
            Err(RecvTimeoutError::Disconnected) => return true,
        }
    }
}

/// Reads standard input, apart: a frame is due even when nothing comes.
fn read() -> Receiver<Vec<u8>> {
    let (lines, received) = sync_channel(WAITING);
    thread::spawn(move || {
        let mut input = io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let read = io::Read::take(&mut input, LONGEST).read_until(b'\n', &mut line);
            if !matches!(read, Ok(1..)) || lines.send(line).is_err() {
                return;
            }
        }
    });
    received
}

fn draw(state: &State, is_live: bool, is_last: bool, rate: u64) -> io::Result<()> {
    let size = if is_live {
        Size::of_terminal()
    } else {
        Size::UNBOUNDED
    };
    let mut text = String::from(if is_live { HOME } else { "" });
    let lines = render::draw(state, size, is_live.then_some(rate));
    text += &lines.join("\n");
    if is_last {
        text.push('\n');
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
