//! What happened in a run, told only when somebody will read it, for a run can be repeated.
//!
//! It is told in the format of the stories in `tests/stories`: steps of the log, which the core can take again, and between them, as
//! remarks, what happened around it.

/// Lines that are kept. More than any run has; the bound is for those that go in circles.
const LINES_MAX: usize = 50_000;

/// The transcript of a run.
#[derive(Debug, Default)]
pub(crate) struct Story {
    told: bool,
    lines: Vec<String>,
}

impl Story {
    /// A story that is told, or one that costs nothing.
    pub(crate) fn new(told: bool) -> Self {
        Self { told, lines: Vec::new() }
    }

    /// Whether somebody reads it.
    pub(crate) fn is_told(&self) -> bool {
        self.told
    }

    /// Something that happened around the log.
    pub(crate) fn tell(&mut self, now_micros: i64, line: impl FnOnce() -> String) {
        if self.told {
            let (seconds, micros) = (now_micros / 1_000_000, now_micros % 1_000_000);
            self.step(format!("# {seconds}.{micros:06} {}", line().replace('\n', " ")));
        }
    }

    /// A line of the log.
    pub(crate) fn step(&mut self, line: String) {
        if self.lines.len() < LINES_MAX {
            self.lines.push(line);
        }
    }

    /// All lines.
    pub(crate) fn text(&self) -> String {
        self.lines.iter().fold(String::new(), |text, line| text + line + "\n")
    }
}
