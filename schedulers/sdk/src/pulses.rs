//! How the scheduler does, told to the cell as often as it wants to hear of it.

use plenum_proto::v1;

/// The shortest pause that is kept to, in microseconds: whatever a server says, a scheduler has better things to do. It is what the cell is promised, which
/// takes the longer of it and its own.
pub(crate) const PAUSE_MICROS_MIN: u64 = 100_000;

/// What there is to tell since the last pulse.
#[derive(Debug, Default)]
pub(crate) struct Pulses {
    /// Between two. 0: the cell takes none.
    pause_micros: i64,
    /// When the last one was told, or work began after a rest.
    since_micros: i64,
    /// How much of the time since then decisions took.
    busy_micros: i64,
    /// Whether it was busy when it told last, and what its mirror had then; `None`: it has told nothing over this connection, and owes that at once.
    told: Option<(bool, u64)>,
}

impl Pulses {
    /// A connection begins, to a cell that takes a pulse so often.
    pub(crate) fn begin(&mut self, pause_micros: u64, now_micros: i64) {
        let kept = if pause_micros == 0 { 0 } else { pause_micros.max(PAUSE_MICROS_MIN) };
        let pause_micros = i64::try_from(kept).unwrap_or(i64::MAX);
        *self = Self { pause_micros, since_micros: now_micros, ..Self::default() };
    }

    /// Whether the next one is the first of this connection.
    pub(crate) const fn is_first(&self) -> bool {
        self.told.is_none()
    }

    /// A decision was made, which took so long.
    pub(crate) fn decided(&mut self, now_micros: i64, took_micros: i64) {
        if self.busy_micros == 0 && self.due_by() < now_micros {
            // Told of a rest and a moment's work together, it would seem to rest.
            self.since_micros = now_micros;
        }
        self.busy_micros = self.busy_micros.saturating_add(took_micros.max(0));
    }

    /// When the next one is to be told, of a mirror at this revision; `None` while there is no news.
    pub(crate) fn due_micros(&self, revision: u64) -> Option<i64> {
        let is_news = self.busy_micros > 0 || self.told != Some((false, revision));
        (self.pause_micros > 0 && is_news).then(|| self.due_by())
    }

    /// The one that is due.
    pub(crate) fn take(&mut self, now_micros: i64, revision: u64, waiting_jobs: usize) -> v1::Pulse {
        let busy_micros = std::mem::take(&mut self.busy_micros);
        let over_micros = now_micros.saturating_sub(self.since_micros).max(busy_micros);
        self.since_micros = now_micros;
        self.told = Some((busy_micros > 0, revision));
        v1::Pulse {
            over_micros: over_micros.unsigned_abs(),
            busy_micros: busy_micros.unsigned_abs(),
            waiting_jobs: u32::try_from(waiting_jobs).unwrap_or(u32::MAX),
            revision,
        }
    }

    const fn due_by(&self) -> i64 {
        let pause_micros = if self.is_first() { 0 } else { self.pause_micros };
        self.since_micros.saturating_add(pause_micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(over_micros: u64, busy_micros: u64, revision: u64) -> v1::Pulse {
        v1::Pulse { over_micros, busy_micros, waiting_jobs: 1, revision }
    }

    #[test]
    fn who_rests_in_a_cell_that_stands_still_says_so_once() {
        let mut pulses = Pulses::default();
        assert_eq!(pulses.due_micros(7), None, "nobody asked");
        pulses.begin(100_000, 1_000_000);
        assert_eq!((pulses.is_first(), pulses.due_micros(7)), (true, Some(1_000_000)), "the first one is due at once");
        assert_eq!(pulses.take(1_000_000, 7, 1), told(0, 0, 7));
        pulses.decided(1_000_000, 30_000);
        assert_eq!((pulses.is_first(), pulses.due_micros(7)), (false, Some(1_100_000)));
        assert_eq!(pulses.take(1_100_000, 7, 1), told(100_000, 30_000, 7));
        assert_eq!(pulses.due_micros(7), Some(1_200_000));
        assert_eq!(pulses.take(1_200_000, 7, 1), told(100_000, 0, 7));
        assert_eq!((pulses.due_micros(7), pulses.due_micros(8)), (None, Some(1_300_000)));
    }

    #[test]
    fn work_after_a_rest_is_not_spread_over_it() {
        let mut pulses = Pulses::default();
        pulses.begin(100_000, 0);
        pulses.take(100_000, 7, 1);
        pulses.decided(5_000_000, 50_000);
        pulses.decided(5_060_000, 30_000);
        assert_eq!(pulses.due_micros(7), Some(5_100_000));
        assert_eq!(pulses.take(5_100_000, 8, 1), told(100_000, 80_000, 8));
    }

    #[test]
    fn a_decision_that_took_longer_than_the_pause_is_told_as_all_of_the_time() {
        let mut pulses = Pulses::default();
        pulses.begin(100_000, 0);
        pulses.take(0, 7, 1);
        // The clock of the inputs stands still while a decision is made.
        pulses.decided(50_000, 400_000);
        assert_eq!(pulses.take(100_000, 7, 1), told(400_000, 400_000, 7));
    }

    #[test]
    fn no_server_makes_a_scheduler_tell_without_end() {
        let mut pulses = Pulses::default();
        let mut next = |pause_micros, now_micros| {
            pulses.begin(pause_micros, now_micros);
            pulses.take(now_micros, 6, 1);
            pulses.due_micros(7)
        };
        assert_eq!((next(1, 0), next(u64::MAX, 5)), (Some(100_000), Some(i64::MAX)));
    }
}
