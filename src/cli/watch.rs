//! Listings that are printed once, or again whenever something changed.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use super::job::found;
use crate::{
    failure::Failure,
    output::{self, Format, Row},
};

/// How often a watched listing is asked for again.
const PERIOD: Duration = Duration::from_secs(1);

/// What a listing says, and the revision it is of.
pub(super) struct Listed {
    pub(super) revision: u64,
    /// What it says that changes without a revision.
    pub(super) unlogged: String,
    pub(super) text: String,
    /// What people are told about rows that are missing without their having asked for so few.
    pub(super) missing: Option<String>,
    /// What else people are told about rows that they see.
    pub(super) hint: Option<String>,
}

impl Listed {
    /// Rows that were answered when `limit` were asked for; 0: as many as the server likes.
    pub(super) fn of<R: Row>(format: Format, revision: u64, rows: &[R], truncated: bool, limit: u32) -> Self {
        let text = output::listing(format, revision, rows, truncated);
        let unlogged = rows.iter().map(|row| row.unlogged() + "\n").collect();
        Self { revision, unlogged, text, missing: missing(rows.len(), truncated, limit, "--filter"), hint: None }
    }

    /// What it is known by: one that has the same says the same, but for ages.
    pub(super) fn mark(&self) -> (u64, String) {
        (self.revision, self.unlogged.clone())
    }
}

/// A greater --limit gives no more rows than the server's own, so that only asking for less helps.
pub(super) fn missing(rows: usize, truncated: bool, limit: u32, narrow: &str) -> Option<String> {
    let is_short = limit == 0 || usize::try_from(limit).is_ok_and(|limit| rows < limit);
    (truncated && is_short).then(|| {
        format!("there are more rows than the {rows} that the server told at once: narrow the list with {narrow}")
    })
}

/// Prints a listing; with `watch`, again each time that its revision or what has none has changed, until the process is interrupted.
pub(super) async fn print(
    format: Format,
    watch: bool,
    mut list: impl AsyncFnMut() -> Result<Listed, Failure>,
) -> Result<(), Failure> {
    let mut shown = None;
    let mut silent_since = None;
    loop {
        let listed = list().await;
        // Who watches goes on when a server does that is away for a while, such as for a restart.
        let listed = if shown.is_some() { found(listed, &mut silent_since)? } else { Some(listed?) };
        let Some(listed) = listed else {
            tokio::time::sleep(PERIOD).await;
            continue;
        };
        let mark = Some(listed.mark());
        if shown != mark {
            shown = mark;
            output::print(&framed(format, watch, listed.text))?;
            // Programs that read JSON find `truncated` in it; names have no room for it.
            let is_untold = matches!(format, Format::Table | Format::Wide | Format::Name);
            if let Some(missing) = listed.missing.filter(|_| is_untold) {
                output::tell(&missing);
            }
            if let Some(hint) = listed.hint.filter(|_| matches!(format, Format::Table | Format::Wide)) {
                output::tell(&hint);
            }
        }
        if !watch {
            return Ok(());
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// What separates one listing from the next: a fresh screen, an empty line, or for programs a line of its own.
fn framed(format: Format, watch: bool, text: String) -> String {
    match format {
        _ if !watch => text,
        Format::Json => match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(value) => output::one_line_of(&value),
            Err(_) => text,
        },
        Format::Yaml => format!("---\n{text}"),
        Format::Table | Format::Wide if io::stdout().is_terminal() => format!("\x1b[H\x1b[2J{text}"),
        _ => format!("{text}\n"),
    }
}

#[cfg(test)]
mod tests {
    use plenum_proto::v1::{JobView, SchedulerView};

    use super::*;

    // The only session of a scheduler came and went, and who watched the list was told with the next job.
    #[test]
    fn a_scheduler_that_connects_or_leaves_is_another_listing_at_the_same_revision() {
        let listed = |connected, waiting_tasks| {
            let name = "ml".to_owned();
            let view = SchedulerView { name, sessions: 1, connected, waiting_tasks, ..SchedulerView::default() };
            Listed::of(Format::Table, 7, &[view], false, 0).mark()
        };
        assert_ne!(listed(Some(0), 1), listed(Some(1), 1));
        assert_eq!(listed(Some(1), 1), listed(Some(1), 1));
        let job = |why: &str| {
            let view = JobView { waiting_reason: why.to_owned(), ..JobView::default() };
            Listed::of(Format::Wide, 7, &[view], false, 0).mark()
        };
        assert_ne!(job("no scheduler ml is connected; start one"), job("no machine is large enough"));
    }

    // With a --limit above the server's own bound, rows were missing and nothing said so.
    #[test]
    fn missing_rows_are_told_unless_so_few_were_asked_for() {
        let told = |rows, truncated, limit| missing(rows, truncated, limit, "--filter").is_some();
        assert!(told(2, true, 0) && told(2, true, 3));
        assert!(!told(2, true, 2) && !told(2, false, 3) && !told(0, false, 0));
    }
}
