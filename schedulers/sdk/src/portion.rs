//! How many tasks one decision is offered: fewer for a while, once the cell found a transaction too large.

/// How long fewer are offered, before twice as many are tried.
const PAUSE_MICROS: i64 = 60_000_000;

/// The longest of these pauses. They double while the cell goes on finding transactions too large: a cell of small segments does so for
/// ever, and each trial costs the jobs in it a moment.
const PAUSE_MICROS_MAX: i64 = 16 * PAUSE_MICROS;

/// A portion of work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portion {
    /// As the settings have it.
    most: usize,
    now: usize,
    pause_micros: i64,
    /// When more is tried, as long as it is less than `most`.
    grows_micros: i64,
    /// It grew since a transaction was too large.
    has_grown: bool,
}

impl Portion {
    /// The largest one.
    pub(crate) const fn new(most: usize) -> Self {
        Self { most, now: most, pause_micros: PAUSE_MICROS, grows_micros: i64::MIN, has_grown: false }
    }

    /// Most tasks of a decision that is made now.
    pub(crate) fn tasks(&mut self, now_micros: i64) -> usize {
        if self.now < self.most && self.grows_micros <= now_micros {
            self.now = self.now.saturating_mul(2).min(self.most);
            self.grows_micros = now_micros.saturating_add(self.pause_micros);
            self.has_grown = true;
        }
        self.now
    }

    /// So many claims were too large, by themselves or with all that their tasks get. The same again would be too large again, and nothing
    /// would ever be placed.
    pub(crate) fn was_too_large(&mut self, claims: usize, now_micros: i64) {
        // Of several that were on their way each is told; and where all went well in between, this is another story.
        if self.has_grown {
            let is_another = self.now == self.most && self.grows_micros <= now_micros;
            self.pause_micros = if is_another { PAUSE_MICROS } else { (2 * self.pause_micros).min(PAUSE_MICROS_MAX) };
        }
        self.has_grown = false;
        self.now = (claims / 2).clamp(1, self.now);
        self.grows_micros = now_micros.saturating_add(self.pause_micros);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // It stayed small for as long as the session lasted, whatever had made one transaction large.
    #[test]
    fn a_portion_that_was_too_large_grows_again_in_steps() {
        let mut portion = Portion::new(4096);
        portion.was_too_large(4096, 0);
        portion.was_too_large(2048, 0);
        assert_eq!(portion.tasks(0), 1024);
        let minutes = |minutes| minutes * PAUSE_MICROS;
        assert_eq!([1, 2, 3, 4, 5].map(|minute| portion.tasks(minutes(minute))), [2048, 4096, 4096, 4096, 4096]);
        portion.was_too_large(4096, minutes(99));
        assert_eq!([99, 100].map(|minute| portion.tasks(minutes(minute))), [2048, 4096], "long ago nothing was wrong");
    }

    #[test]
    fn where_it_is_always_too_large_that_is_tried_ever_more_rarely() {
        let mut portion = Portion::new(4096);
        let mut trials = 0;
        for minute in 0..24 * 60 {
            let now = minute * PAUSE_MICROS;
            let offered = portion.tasks(now);
            if offered > 100 {
                trials += 1;
                portion.was_too_large(offered, now);
            }
        }
        assert!((60..120).contains(&trials), "{trials} trials in a day");
        assert!((50..=100).contains(&portion.tasks(0)), "what is left is offered all the time");
    }
}
