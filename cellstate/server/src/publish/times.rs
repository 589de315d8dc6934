//! When revisions were decided.

use plenum_model::{LogTime, Revision};

/// Batches whose time is remembered exactly. 16 bytes each: 1 MiB.
const TIMES_MAX: usize = 65_536;

/// When revisions were decided: one entry a batch, rising. Beyond its bound every other entry of the older half goes, so that old
/// times become coarser, never wrong by more than their neighbour.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times {
    firsts: Vec<(Revision, LogTime)>,
}

impl Times {
    /// A batch begins with this revision.
    pub(crate) fn push(&mut self, first: Revision, time: LogTime) {
        if self.firsts.last().is_some_and(|(_, last)| *last == time) {
            return;
        }
        if self.firsts.len() >= TIMES_MAX {
            let half = self.firsts.len() / 2;
            let mut position = 0;
            self.firsts.retain(|_| {
                position += 1;
                position > half || position % 2 == 1
            });
        }
        self.firsts.push((first, time));
    }

    /// When a revision was decided; `None` before what is remembered.
    pub(crate) fn of(&self, revision: Revision) -> Option<LogTime> {
        let after = self.firsts.partition_point(|(first, _)| *first <= revision);
        self.firsts.get(after.checked_sub(1)?).map(|(_, time)| *time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact_until_there_are_too_many() {
        let mut times = Times::default();
        (0..10)
            .for_each(|batch| times.push(Revision(1 + 3 * batch), LogTime::from_micros(i64::try_from(batch).unwrap())));
        assert_eq!(times.of(Revision(0)), None);
        assert_eq!(times.of(Revision(6)), Some(LogTime::from_micros(1)));
        assert_eq!(times.of(Revision(1000)), Some(LogTime::from_micros(9)));
    }

    #[test]
    fn old_times_become_coarser_and_stay_in_order() {
        let mut times = Times::default();
        let batches = 3 * TIMES_MAX as u64;
        (1..=batches)
            .for_each(|batch| times.push(Revision(batch), LogTime::from_micros(i64::try_from(batch).unwrap())));
        assert!(times.firsts.len() <= TIMES_MAX && times.firsts.is_sorted());
        assert_eq!(times.of(Revision(batches)), Some(LogTime::from_micros(i64::try_from(batches).unwrap())));
        assert!(times.of(Revision(1)).is_some());
    }
}
