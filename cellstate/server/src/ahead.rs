//! Who has seen more of the cell than is here: then this is an older copy of it, and others may have gone on from the newer one. Or they are mistaken, as a
//! watcher of one's own that takes over what it saw of another cell: which of both it is, a person has to tell.

use parking_lot::Mutex;

/// For how long it is told after somebody said so. Whoever is refused comes again within a minute.
const TOLD_MICROS: i64 = 5 * 60 * 1_000_000;

/// Between two lines of the log about it.
const WARN_MICROS: i64 = 60_000_000;

/// What somebody said last.
#[derive(Clone, Debug)]
struct Said {
    words: String,
    /// Since then somebody has said so again and again.
    since_micros: i64,
    at_micros: i64,
    warned_micros: i64,
}

/// For who has no other copy any more.
const WAY_OUT: &str = "Where the directory that went on is gone, stop this server: `plenum restore --from DIR --dir NEW --incarnation N` makes a \
                       cell of this one that all follow, with N above every incarnation that the cell ever had";

/// What is known of a newer copy.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    last: Mutex<Option<Said>>,
}

impl Ahead {
    /// Takes that somebody has seen what is not here, such as `revision 7`, at a time of the monotonic clock, and tells the log so now and then.
    pub(crate) fn take(&self, who: &str, what: &str, now_micros: i64) {
        let words = format!(
            "{who} has seen {what} of this cell, which is not here: this directory is an older copy of it, and the server is to be started on the one that \
             went on; or that client is mistaken"
        );
        let mut last = self.last.lock();
        let since_micros = of_late(last.as_ref(), now_micros).map_or(now_micros, |said| said.since_micros);
        let warned = last.as_ref().map(|said| said.warned_micros);
        let warned = warned.filter(|warned| now_micros.saturating_sub(*warned) < WARN_MICROS);
        let warned_micros = warned.unwrap_or(now_micros);
        *last = Some(Said { words: words.clone(), since_micros, at_micros: now_micros, warned_micros });
        drop(last);
        // Under no lock: a standard error that nobody reads any more holds up who writes there, and nobody else shall wait for this one.
        if warned.is_none() {
            tracing::warn!("{words}. {WAY_OUT}");
        }
    }

    /// What was said of late, and when; empty: nothing.
    pub(crate) fn words(&self, now_micros: i64) -> String {
        let last = self.last.lock();
        let Some(Said { words, since_micros, at_micros, .. }) = of_late(last.as_ref(), now_micros) else {
            return String::new();
        };
        let seconds = |at_micros: i64| now_micros.saturating_sub(at_micros).max(0) / 1_000_000;
        let first = if since_micros == at_micros {
            String::new()
        } else {
            format!(", and first {} s ago", seconds(*since_micros))
        };
        format!("{words} (said {} s ago{first}). {WAY_OUT}", seconds(*at_micros))
    }
}

fn of_late(last: Option<&Said>, now_micros: i64) -> Option<&Said> {
    last.filter(|said| now_micros.saturating_sub(said.at_micros) < TOLD_MICROS)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing::Event;

    use super::*;
    use crate::engine::warnings::Warnings;

    // Where nobody read the standard error, whoever asked for a status waited for it as well, and so did the next who came with such a word.
    #[test]
    fn who_tells_the_log_of_it_keeps_nobody_else_waiting() {
        let (ahead, is_free) = (Arc::new(Ahead::default()), Arc::new(Mutex::new(None)));
        let (telling, noted) = (ahead.clone(), is_free.clone());
        let log = Warnings(move |_: &Event<'_>| *noted.lock() = Some(telling.last.try_lock().is_some()));
        tracing::subscriber::with_default(log, || ahead.take("scheduler/batch", "revision 7", 1));
        assert_eq!(*is_free.lock(), Some(true));
    }

    #[test]
    fn what_was_said_is_told_until_nobody_has_said_so_for_a_while() {
        let ahead = Ahead::default();
        assert_eq!(ahead.words(0), "");
        ahead.take("scheduler/batch", "revision 7", 1);
        ahead.take("the agent of m1", "incarnation 2", 100);
        let told = ahead.words(TOLD_MICROS + 99);
        assert!(told.starts_with("the agent of m1 has seen incarnation 2 of this cell, which is not here"), "{told}");
        assert!(
            told.contains("`plenum restore --from DIR --dir NEW --incarnation N`"),
            "where the newer copy is gone: {told}"
        );
        assert_eq!(ahead.words(TOLD_MICROS + 100), "");
        ahead.take("scheduler/batch", "revision 7", TOLD_MICROS + 100);
        assert!(ahead.words(TOLD_MICROS + 100).contains(" (said 0 s ago). "), "that is another time");
    }

    // Any client that takes over what it saw elsewhere says so, and people looked for another copy that there is not.
    #[test]
    fn it_is_told_that_who_says_so_may_be_mistaken_and_when_it_was() {
        let ahead = Ahead::default();
        ahead.take("local", "revision 7", 5_000_000);
        ahead.take("local", "revision 9", 9_000_000);
        let told = ahead.words(20_000_000);
        let end = "went on; or that client is mistaken (said 11 s ago, and first 15 s ago). ";
        assert!(told.starts_with("local has seen revision 9") && told.contains(end), "{told}");
    }
}
