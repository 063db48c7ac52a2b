//! The view: lines that fit a terminal, with nothing in them that a terminal would act on.

use std::fmt::Write as _;

use super::state::State;

/// How much there is room for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    columns: usize,
    rows: usize,
}

impl Size {
    /// For a file.
    pub(super) const UNBOUNDED: Self = Self {
        columns: usize::MAX,
        rows: usize::MAX,
    };
    /// Of a terminal that does not tell.
    const USUAL: Self = Self {
        columns: 80,
        rows: 24,
    };

    /// Of the terminal that standard output is, at this moment.
    pub(super) fn of_terminal() -> Self {
        let told = rustix::termios::tcgetwinsize(rustix::stdio::stdout());
        match told {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => Self {
                columns: size.ws_col.into(),
                rows: size.ws_row.into(),
            },
            _ => Self::USUAL,
        }
    }
}

/// A table below its heading.
struct Section {
    heading: String,
    rows: Vec<String>,
}

/// Draws it; `rate` is how many events came in a second.
pub(super) fn draw(state: &State, size: Size, rate: Option<u64>) -> Vec<String> {
    let sections = [
        programs(state),
        refusals(state),
        flows(state),
        traffic(state),
        calls(state),
    ];
    let mut lines = vec![summary(state, rate)];
    let shares = share(
        size.rows.saturating_sub(lines.len()),
        &sections.each_ref().map(|section| section.rows.len()),
    );
    for (section, share) in sections.iter().zip(shares) {
        if section.rows.is_empty() || share == 0 {
            continue;
        }
        lines.push(String::new());
        lines.push(section.heading.clone());
        let hidden = section.rows.len().saturating_sub(share);
        // (the last line tells of the others)
        let shown = if hidden > 0 { share - 1 } else { share };
        lines.extend(section.rows.iter().take(shown).cloned());
        if hidden > 0 {
            lines.push(format!("  and {} more", hidden + 1));
        }
    }
    lines.iter().map(|line| fit(line, size.columns)).collect()
}

/// Rows for each, of all there are: what some do not need is the others'. Each that is shown has two lines more.
fn share(rows: usize, wanted: &[usize]) -> Vec<usize> {
    const AROUND: usize = 2;
    let mut left =
        rows.saturating_sub(wanted.iter().filter(|wanted| **wanted > 0).count() * AROUND);
    let mut shares = vec![0; wanted.len()];
    loop {
        let hungry: Vec<usize> = (0..wanted.len())
            .filter(|at| shares[*at] < wanted[*at])
            .collect();
        if hungry.is_empty() || left == 0 {
            return shares;
        }
        let each = (left / hungry.len()).max(1);
        for at in hungry {
            let more = each.min(wanted[at] - shares[at]).min(left);
            shares[at] += more;
            left -= more;
        }
    }
}

/// What a terminal shows as it is, and no more of it than there is room for.
fn fit(line: &str, columns: usize) -> String {
    line.chars()
        .map(|c| if is_obeyed(c) { '?' } else { c })
        .take(columns)
        .collect()
}

/// Controls, and what changes the order or the look of what follows: names are their owners' choice.
fn is_obeyed(c: char) -> bool {
    let is_format = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    c.is_control() || is_format
}

fn summary(state: &State, rate: Option<u64>) -> String {
    let mut line = format!("kernelseal  {}", state.latest);
    if let Some(rate) = rate {
        let _ = write!(line, "  {rate} events/s");
    }
    let _ = write!(
        line,
        "  {} events, {} sealed, {} connections",
        state.events,
        state.programs().len(),
        state.flows().len()
    );
    for (lost_in, count) in &state.lost {
        let _ = write!(line, ", {count} LOST ({lost_in})");
    }
    if state.strange > 0 {
        let _ = write!(line, ", {} lines were no events", state.strange);
    }
    line
}

fn programs(state: &State) -> Section {
    let rows = state.programs().into_iter().map(|program| {
        format!(
            "  {:<9} {:>7} {:<16} {:<32} {:>7}  {}",
            program.since,
            program.pid,
            program.process,
            program.container,
            program.secrets,
            program.bindings
        )
    });
    Section {
        heading: format!(
            "SEALED    {:>9} {:<16} {:<32} {:>7}  {}",
            "PID", "PROCESS", "CONTAINER", "SECRETS", "BINDINGS"
        ),
        rows: rows.collect(),
    }
}

fn refusals(state: &State) -> Section {
    let rows = state.refusals().into_iter().map(|refusal| {
        format!(
            "  {:<9} {:>7} {:<16} {:<32} {:<7}  {}",
            refusal.time,
            refusal.pid,
            refusal.process,
            refusal.container,
            refusal.kind,
            refusal.what
        )
    });
    Section {
        heading: format!(
            "NOT ALLOWED {:>7} {:<16} {:<32} {:<7}  {}",
            "PID", "PROCESS", "CONTAINER", "", "WHAT"
        ),
        rows: rows.collect(),
    }
}

fn flows(state: &State) -> Section {
    let rows = state.flows().into_iter().map(|flow| {
        let arrow = if flow.is_outbound { "->" } else { "<-" };
        format!(
            "  {:<9} {:>7} {:<16} {:<32} {:<4} {arrow} {}",
            flow.since, flow.pid, flow.process, flow.container, flow.protocol, flow.peer
        )
    });
    Section {
        heading: format!(
            "CONNECTED {:>9} {:<16} {:<32} {:<4} {}",
            "PID", "PROCESS", "CONTAINER", "", "WITH"
        ),
        rows: rows.collect(),
    }
}

fn traffic(state: &State) -> Section {
    let rows = state.traffic().into_iter().map(|(with, traffic)| {
        format!(
            "  {with:<44} {:>12} {:>8} {:>14} {:>14}",
            traffic.connections, traffic.failed, traffic.sent, traffic.received
        )
    });
    Section {
        heading: format!(
            "{:<46} {:>12} {:>8} {:>14} {:>14}",
            "TRAFFIC (of what is closed)", "CONNECTIONS", "FAILED", "BYTES SENT", "RECEIVED"
        ),
        rows: rows.collect(),
    }
}

fn calls(state: &State) -> Section {
    let rows = state.calls().into_iter().map(|(call, process, calls)| {
        format!(
            "  {call:<24} {process:<19} {:>12} {:>8}",
            calls.count, calls.failed
        )
    });
    Section {
        heading: format!(
            "{:<26} {:<19} {:>12} {:>8}",
            "SYSCALL", "PROCESS", "CALLS", "FAILED"
        ),
        rows: rows.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::event::Event, *};

    fn state_of(events: usize) -> State {
        let mut state = State::default();
        for pid in 0..events {
            let line = format!(
                r#"{{"timestamp":"2026-11-21T06:51:55.806172Z","type":"SEALED","pid":{pid},"process":"a\u001b[2J\u202epp","bindings":["shop"]}}"#
            );
            state.take(Event::parse(line.as_bytes()).unwrap());
            let line = format!(
                r#"{{"timestamp":"2026-11-21T06:51:55.806172Z","type":"REFUSED","pid":{pid},"process":"b","reason":"no\nplace"}}"#
            );
            state.take(Event::parse(line.as_bytes()).unwrap());
        }
        state
    }

    #[test]
    fn nothing_reaches_the_terminal_that_it_would_act_on() {
        for line in draw(&state_of(3), Size::UNBOUNDED, Some(1)) {
            assert!(!line.contains(['\u{1b}', '\n', '\u{202e}']), "{line:?}");
        }
    }

    #[test]
    fn it_fits() {
        let state = state_of(50);
        for (columns, rows) in [(80, 24), (40, 10), (10, 3), (1, 1)] {
            let lines = draw(&state, Size { columns, rows }, None);
            assert!(lines.len() <= rows, "{} of {rows}", lines.len());
            assert!(lines.iter().all(|line| line.chars().count() <= columns));
        }
        let lines = draw(
            &state,
            Size {
                columns: 80,
                rows: 24,
            },
            None,
        );
        assert!(
            lines.iter().any(|line| line.contains("and 42 more")),
            "{lines:#?}"
        );
    }

    #[test]
    fn room_that_some_do_not_need_is_the_others() {
        assert_eq!(share(20, &[1, 100, 0, 2]), [1, 11, 0, 2]);
        assert_eq!(share(0, &[1, 1]), [0, 0]);
        assert_eq!(share(7, &[5, 5]), [2, 1]);
    }
}
