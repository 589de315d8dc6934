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
        Self { revision, text, missing: missing(rows.len(), truncated, limit, "--filter"), hint: None }
    }
}

/// A greater --limit gives no more rows than the server's own, so that only asking for less helps.
pub(super) fn missing(rows: usize, truncated: bool, limit: u32, narrow: &str) -> Option<String> {
    let is_short = limit == 0 || usize::try_from(limit).is_ok_and(|limit| rows < limit);
    (truncated && is_short).then(|| {
        format!("there are more rows than the {rows} that the server told at once: narrow the list with {narrow}")
    })
}

/// Prints a listing; with `watch`, again each time its revision has changed, until the process is interrupted.
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
        if shown != Some(listed.revision) {
            shown = Some(listed.revision);
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
    use super::*;

    // With a --limit above the server's own bound, rows were missing and nothing said so.
    #[test]
    fn missing_rows_are_told_unless_so_few_were_asked_for() {
        let told = |rows, truncated, limit| missing(rows, truncated, limit, "--filter").is_some();
        assert!(told(2, true, 0) && told(2, true, 3));
        assert!(!told(2, true, 2) && !told(2, false, 3) && !told(0, false, 0));
    }
}
