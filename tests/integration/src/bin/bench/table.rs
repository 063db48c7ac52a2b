//! The table, and whether it is met.

use std::fmt;

use crate::cases::TENTHS;

/// What was added, in instructions.
pub fn added(base: u64, with: u64) -> String {
    let added = with.cast_signed() - base.cast_signed();
    let sign = if added < 0 { '-' } else { '+' };
    let (whole, tenth) = (added.unsigned_abs() / TENTHS, added.unsigned_abs() % TENTHS);
    format!("{sign}{whole}.{tenth}")
}

/// How far two figures of the same may lie apart: 1 % of the base.
fn repeats_to(base: u64) -> u64 {
    base / 100
}

/// Figures against their limits.
pub struct Table {
    lines: Vec<String>,
    over: usize,
}

impl Table {
    pub fn new() -> Self {
        Self {
            lines: Vec::new(),
            over: 0,
        }
    }

    /// What is added to a case, by figures in [`TENTHS`]; `idle` is the one with programs that do nothing. Where nothing may
    /// be added, that is held to what figures repeat to.
    pub fn cost(&mut self, title: &str, base: u64, idle: Option<u64>, with: u64, limit: u64) {
        let limit = limit * TENTHS;
        let tolerance = if limit == 0 { repeats_to(base) } else { 0 };
        self.added(title, base, idle, with, (limit, limit + tolerance));
    }

    /// What should cost the same as `alone`.
    pub fn same(&mut self, title: &str, base: u64, alone: u64, with: u64) {
        let limit = alone.saturating_sub(base);
        self.added(title, base, None, with, (limit, limit + repeats_to(base)));
    }

    fn added(
        &mut self,
        title: &str,
        base: u64,
        idle: Option<u64>,
        with: u64,
        (limit, tolerated): (u64, u64),
    ) {
        let is_over = with.cast_signed() - base.cast_signed() > tolerated.cast_signed();
        let idle = idle.map(|idle| added(base, idle)).unwrap_or_default();
        self.line(
            title,
            [
                &(base / TENTHS).to_string(),
                &idle,
                &(with / TENTHS).to_string(),
                &added(base, with),
                &(limit / TENTHS).to_string(),
            ],
            is_over,
        );
    }

    /// An amount that has no base.
    pub fn amount(&mut self, title: &str, found: u64, limit: u64) {
        let columns = ["", "", &found.to_string(), "", &limit.to_string()];
        self.line(title, columns, found > limit);
    }

    fn line(&mut self, title: &str, columns: [&str; 5], is_over: bool) {
        let verdict = if is_over { "OVER" } else { "ok" };
        self.over += usize::from(is_over);
        self.lines
            .push(format!("{}  {verdict}", in_columns(title, columns)));
    }

    /// Whether no line is over its limit.
    pub fn is_met(&self) -> bool {
        self.over == 0
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["base", "idle", "with", "added", "limit"];
        writeln!(f, "{}", in_columns("instructions", head))?;
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        if self.over > 0 {
            writeln!(f, "{} over the limit", self.over)?;
        }
        Ok(())
    }
}

fn in_columns(title: &str, [base, idle, with, added, limit]: [&str; 5]) -> String {
    format!("{title:<43} {base:>9} {idle:>8} {with:>9} {added:>9} {limit:>8}")
}
