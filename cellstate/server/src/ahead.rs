//! Who has seen more of the cell than is here: then this is an older copy of it, and others may have gone on from the newer one.

use parking_lot::Mutex;

/// For how long it is told after somebody said so. Whoever is refused comes again within a minute.
const TOLD_MICROS: i64 = 5 * 60 * 1_000_000;

/// Between two lines of the log about it.
const WARN_MICROS: i64 = 60_000_000;

/// What somebody said last.
#[derive(Clone, Debug)]
struct Said {
    words: String,
    at_micros: i64,
    warned_micros: i64,
}

/// What is known of a newer copy.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    last: Mutex<Option<Said>>,
}

impl Ahead {
    /// Takes that somebody has seen what is not here, such as `revision 7`, at a time of the monotonic clock, and tells the log so now and then.
    pub(crate) fn take(&self, who: &str, what: &str, now_micros: i64) {
        let words = format!(
            "{who} has seen {what} of this cell, which is not here: this directory is an older copy of it; start the server on the one that went on"
        );
        let mut last = self.last.lock();
        let warned = last.as_ref().map(|said| said.warned_micros);
        let warned = warned.filter(|warned| now_micros.saturating_sub(*warned) < WARN_MICROS);
        if warned.is_none() {
            tracing::warn!("{words}");
        }
        *last = Some(Said { words, at_micros: now_micros, warned_micros: warned.unwrap_or(now_micros) });
    }

    /// What was said of late; empty: nothing.
    pub(crate) fn words(&self, now_micros: i64) -> String {
        let last = self.last.lock();
        let of_late = last.as_ref().filter(|said| now_micros.saturating_sub(said.at_micros) < TOLD_MICROS);
        of_late.map(|said| said.words.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_told_until_nobody_has_said_so_for_a_while() {
        let ahead = Ahead::default();
        assert_eq!(ahead.words(0), "");
        ahead.take("scheduler/batch", "revision 7", 1);
        ahead.take("the agent of m1", "incarnation 2", 100);
        let told = ahead.words(TOLD_MICROS + 99);
        assert!(told.starts_with("the agent of m1 has seen incarnation 2 of this cell, which is not here"), "{told}");
        assert_eq!(ahead.words(TOLD_MICROS + 100), "");
    }
}
