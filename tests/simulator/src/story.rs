//! What happened, in lines: told only when somebody will read them, for a run can be repeated.

use std::collections::VecDeque;

/// Lines that are kept: the last ones tell why.
const LINES_MAX: usize = 400;

/// The transcript of a run.
#[derive(Debug, Default)]
pub(crate) struct Story {
    told: bool,
    lines: VecDeque<String>,
}

impl Story {
    /// A story that is told, or one that costs nothing.
    pub(crate) fn new(told: bool) -> Self {
        Self { told, lines: VecDeque::new() }
    }

    /// Whether somebody reads it.
    pub(crate) fn is_told(&self) -> bool {
        self.told
    }

    pub(crate) fn tell(&mut self, now_micros: i64, line: impl FnOnce() -> String) {
        if !self.told {
            return;
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        let (seconds, micros) = (now_micros / 1_000_000, now_micros % 1_000_000);
        self.lines.push_back(format!("{seconds:>4}.{micros:06}  {}", line()));
    }

    /// The last lines.
    pub(crate) fn text(&self) -> String {
        self.lines.iter().fold(String::new(), |text, line| text + line + "\n")
    }
}
