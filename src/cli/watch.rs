//! Listings that are printed once, or again whenever something changed.

use std::{
    cell::Cell,
    io::{self, IsTerminal},
    pin::pin,
    process,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::silence::found;
use crate::{
    failure::Failure,
    output::{self, Format, Row, Window},
    signals::Leave,
};

/// How often a watched listing is asked for again.
const PERIOD: Duration = Duration::from_secs(1);
/// How old a listing gets that takes the place of the one before, though nothing has changed: the ages in it go on.
const PAINTED_FOR_MAX: Duration = Duration::from_secs(5);

/// How long who leaves waits for a listing that is being printed: a pipe that nobody empties takes no more of it.
const PRINTED_WITHIN: Duration = Duration::from_secs(2);

/// An empty screen for the first listing. Several terminals keep what this clears, so that it can be scrolled back to: what stood there before may be wanted.
const CLEAR: &str = "\x1b[H\x1b[2J";
/// The same for the next one, which leaves no copy of the one before there: the first line is cleared by itself, and then all below it.
const CLEAR_AGAIN: &str = "\x1b[H\x1b[K\x1b[B\x1b[J\x1b[H";

/// What a listing says, and the revision it is of.
pub(super) struct Listed {
    pub(super) revision: u64,
    /// What it says that changes without a revision.
    pub(super) unlogged: String,
    pub(super) text: String,
    /// What people are told about rows that are missing.
    pub(super) missing: Option<String>,
    /// What else people are told about rows that they see.
    pub(super) hint: Option<String>,
}

impl Listed {
    /// Rows that were answered when `limit` were asked for; 0: as many as the server likes.
    pub(super) fn of<R: Row>(format: Format, revision: u64, rows: &[R], truncated: bool, limit: u32) -> Self {
        let text = output::listing(format, revision, rows, truncated);
        let unlogged = rows.iter().map(|row| row.unlogged() + "\n").collect();
        let missing = missing(format, rows.len(), truncated, limit, "--filter");
        Self { revision, unlogged, text, missing, hint: None }
    }

    /// What it is known by: one that has the same says the same, but for ages.
    pub(super) fn mark(&self) -> (u64, String) {
        (self.revision, self.unlogged.clone())
    }
}

/// What people are told of a listing that was cut at so many rows, `limit` having been asked for; 0: as many as the server likes. `narrow`: the flag
/// that leaves fewer of them.
pub(super) fn missing(format: Format, rows: usize, truncated: bool, limit: u32, narrow: &str) -> Option<String> {
    // A greater --limit gives no more rows than the server's own, so that only asking for less helps.
    let is_short = limit == 0 || usize::try_from(limit).is_ok_and(|limit| rows < limit);
    match format {
        // Programs find `truncated` in it.
        Format::Json | Format::Yaml => None,
        _ if !truncated => None,
        // These have no room for it.
        Format::Table | Format::Wide | Format::Name if is_short => Some(format!(
            "there are more rows than the {rows} that the server told at once: narrow the list with {narrow}"
        )),
        // Scripts take them, and such a one has what it asked for.
        Format::Name => None,
        Format::Table | Format::Wide => Some(format!(
            "there are more rows than the {rows} asked for: narrow the list with {narrow}, or ask for more with --limit, as far as the server tells so many at once"
        )),
    }
}

/// Prints a listing; with `watch`, again each time that its revision or what has none has changed, and where it takes the place of the one before also once
/// that is old or the window has another size, until the process is interrupted or asked to end, or nobody reads it any more. What was begun is printed whole
/// before that, where somebody takes it.
pub(super) async fn print(
    format: Format,
    watch: bool,
    list: impl AsyncFnMut() -> Result<Listed, Failure>,
) -> Result<(), Failure> {
    let printer = Printer::default();
    let listing = print_each(format, watch, list, &printer);
    if !watch {
        return listing.await;
    }
    let mut leave = Leave::listen()?;
    let mut listing = pin!(output::while_read(listing));
    let exit = tokio::select! {
        biased;
        outcome = &mut listing => return outcome,
        exit = leave.next() => exit,
    };
    if printer.is_at_work.get() {
        tokio::select! {
            _ = listing => {}
            () = printer.is_done.notified() => {}
            // Who asks twice does not want to wait.
            _ = leave.next() => {}
            () = tokio::time::sleep(PRINTED_WITHIN) => {}
        }
    }
    process::exit(exit.into())
}

/// Prints beside everything else, so that signals are heard while nobody takes what is printed.
#[derive(Default)]
struct Printer {
    is_at_work: Cell<bool>,
    /// Told each time that it has printed something.
    is_done: Notify,
}

impl Printer {
    async fn print(&self, text: String) -> Result<(), Failure> {
        self.is_at_work.set(true);
        let printed = tokio::task::spawn_blocking(move || output::print(&text)).await;
        self.is_at_work.set(false);
        self.is_done.notify_waiters();
        printed.unwrap_or_else(|error| Err(Failure::new("INTERNAL", format!("cannot print: {error}"))))
    }
}

async fn print_each(
    format: Format,
    watch: bool,
    mut list: impl AsyncFnMut() -> Result<Listed, Failure>,
    printer: &Printer,
) -> Result<(), Failure> {
    let mut shown: Option<(u64, String)> = None;
    let mut painted = (Instant::now(), None);
    let mut back = None;
    let mut silence = None;
    loop {
        let listed = list().await;
        // Who watches goes on when a server does that is away for a while, such as for a restart.
        let listed = if shown.is_some() { found(listed, &mut silence)? } else { Some(listed?) };
        let Some(listed) = listed else {
            tokio::time::sleep(PERIOD).await;
            continue;
        };
        let mark = listed.mark();
        let window = if watch && clears_screen(format) { Window::of(&io::stdout()) } else { None };
        let is_old = clears_screen(format) && painted.0.elapsed() >= PAINTED_FOR_MAX;
        if is_old || window != painted.1 || shown.as_ref() != Some(&mark) {
            painted = (Instant::now(), window);
            back = shown.as_ref().and_then(|(before, _)| went_back(*before, mark.0)).or(back);
            let is_first = shown.replace(mark).is_none();
            // Behind the listing, and again: a fresh screen takes them away.
            let hint = listed.hint.filter(|_| format.is_for_people());
            let notes: Vec<String> = [back.clone(), listed.missing, hint].into_iter().flatten().collect();
            let text = match window {
                Some(window) => window.fitted(listed.text, rows_below(window, &notes)),
                None => listed.text,
            };
            printer.print(framed(format, watch, is_first, text)).await?;
            notes.iter().for_each(|note| output::tell(note));
            back = back.filter(|_| clears_screen(format));
        }
        if !watch {
            return Ok(());
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// The rows that notes take in a window, where they come there, too.
fn rows_below(window: Window, notes: &[String]) -> usize {
    let notes = if io::stderr().is_terminal() { notes } else { &[] };
    notes.iter().map(|note| window.rows_of(&output::told(note))).sum()
}

/// What who watches is told where a listing is of an older revision than the one before: rows that are missing have not ended.
fn went_back(before: u64, now: u64) -> Option<String> {
    (now < before).then(|| {
        format!(
            "warning: the revision went back from {before} to {now}: this is an older copy of the cell, a restored one or another cell, and lacks what came after that; `plenum status` tells which cell and incarnation"
        )
    })
}

/// What separates one listing from the next: a fresh screen, an empty line, or for programs a line of its own.
fn framed(format: Format, watch: bool, is_first: bool, text: String) -> String {
    match format {
        _ if !watch => text,
        Format::Json => match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(value) => output::one_line_of(&value),
            Err(_) => text,
        },
        Format::Yaml => format!("---\n{text}"),
        _ if clears_screen(format) => format!("{}{text}", if is_first { CLEAR } else { CLEAR_AGAIN }),
        _ => format!("{text}\n"),
    }
}

/// Whether a listing that is watched takes the place of the one before.
fn clears_screen(format: Format) -> bool {
    format.is_for_people() && output::moves_cursor(&io::stdout())
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

    // A server was started on an older copy, and jobs went from a watched list as if they had been retired.
    #[test]
    fn who_watches_is_told_once_that_the_revision_went_back() {
        let told: Vec<_> = [10, 16, 10, 10, 11].windows(2).filter_map(|pair| went_back(pair[0], pair[1])).collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("went back from 16 to 10: this is an older copy of the cell"), "{told:?}");
    }

    // With a --limit above the server's own bound, rows were missing and nothing said so; nor did it with any other --limit, as if there were no more.
    #[test]
    fn missing_rows_are_told_with_what_shows_them() {
        let told =
            |format, rows, truncated, limit| missing(format, rows, truncated, limit, "--since").unwrap_or_default();
        for format in [Format::Table, Format::Wide, Format::Name] {
            assert!(told(format, 2, true, 0).ends_with("that the server told at once: narrow the list with --since"));
            assert_eq!(told(format, 2, true, 3), told(format, 2, true, 0));
            assert_eq!((told(format, 2, false, 2), told(format, 0, false, 0)), (String::new(), String::new()));
        }
        // Where they were as many as the server tells at once, a greater one showed the same.
        let few = "there are more rows than the 2 asked for: narrow the list with --since, or ask for more with --limit, as far as the server tells so many at once";
        assert_eq!([Format::Table, Format::Wide].map(|format| told(format, 2, true, 2)), [few, few]);
        assert_eq!(told(Format::Name, 2, true, 2), "", "a script asked for so few");
        assert_eq!([Format::Json, Format::Yaml].map(|format| told(format, 2, true, 0)), ["", ""]);
    }
}
