//! When revisions were decided.

use plenum_model::{LogTime, Revision};

/// Batches whose time is remembered at most. 16 bytes each: 1 MiB.
const TIMES_MAX: usize = 65_536;
/// How far a time that is not remembered exactly may be off: one part in so many of how long ago it is.
const PARTS: i64 = 1024;

/// When revisions were decided: one entry a batch, rising. The newest half of what fits is exact; of what is older, as many entries stay as it
/// takes for no time to be off by more than a thousandth of its age.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times {
    firsts: Vec<(Revision, LogTime)>,
    /// From this position on nothing was left out.
    exact_from: usize,
}

impl Times {
    /// A batch begins with this revision.
    pub(crate) fn push(&mut self, first: Revision, time: LogTime) {
        if self.firsts.last().is_some_and(|(_, last)| *last == time) {
            return;
        }
        if self.firsts.len() >= TIMES_MAX {
            self.thin(time);
        }
        self.firsts.push((first, time));
    }

    /// When a revision was decided: exactly, or too early by a thousandth of how long ago it is. `None` before what is remembered.
    pub(crate) fn about(&self, revision: Revision) -> Option<LogTime> {
        self.position(revision).map(|position| self.firsts[position].1)
    }

    /// When a revision was decided; `None` where that is not remembered exactly.
    pub(crate) fn exactly(&self, revision: Revision) -> Option<LogTime> {
        let position = self.position(revision).filter(|position| *position >= self.exact_from)?;
        Some(self.firsts[position].1)
    }

    fn position(&self, revision: Revision) -> Option<usize> {
        self.firsts.partition_point(|(first, _)| *first <= revision).checked_sub(1)
    }

    /// Leaves out of the older half what its neighbours stand for.
    fn thin(&mut self, now: LogTime) {
        let mut recent = self.firsts.split_off(self.firsts.len() / 2);
        let mut kept: Vec<(Revision, LogTime)> = Vec::new();
        // An entry stands for all up to the next one that is kept.
        for (position, &entry) in self.firsts.iter().enumerate() {
            let until = self.firsts.get(position + 1).or_else(|| recent.first()).map_or(now, |(_, time)| *time);
            let age = now.micros.saturating_sub(until.micros);
            let wrong_by = kept.last().map_or(i64::MAX, |(_, time)| until.micros.saturating_sub(time.micros));
            if wrong_by > age / PARTS {
                kept.push(entry);
            }
        }
        // As many as there would be of a clock that leaps by centuries.
        let surplus = kept.len().saturating_sub(TIMES_MAX * 2 / 5);
        kept.drain(..surplus);
        self.exact_from = kept.len();
        kept.append(&mut recent);
        self.firsts = kept;
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
        assert_eq!(times.exactly(Revision(0)), None);
        assert_eq!(times.exactly(Revision(6)), Some(LogTime::from_micros(1)));
        assert_eq!(times.exactly(Revision(1000)), Some(LogTime::from_micros(9)));
    }

    // Every other entry of the older half went each time: of what was some 270,000 batches old the first entry was left alone, and so allocations
    // were as old as their server.
    #[test]
    fn old_times_are_off_by_a_thousandth_of_their_age_at_most() {
        let batches = 6 * TIMES_MAX as u64;
        // A second apart, a microsecond apart, and now and then an hour in which nothing happens.
        for apart in [|_| 1_000_000, |_| 1, |batch: u64| if batch.is_multiple_of(1000) { 3_600_000_000 } else { 10 }] {
            let (mut times, mut truth, mut now) = (Times::default(), Vec::new(), 0);
            for batch in 0..batches {
                now += apart(batch);
                truth.push(now);
                times.push(Revision(1 + batch), LogTime::from_micros(now));
                assert!(times.firsts.len() <= TIMES_MAX);
            }
            assert!(times.firsts.is_sorted());
            for (revision, &time) in (1..).map(Revision).zip(&truth) {
                let about = times.about(revision).unwrap().micros;
                assert!(
                    about <= time && time - about <= (now - time) / 1000,
                    "{revision}: {about}, and was {time} of {now}"
                );
                assert!(times.exactly(revision).is_none_or(|exact| exact.micros == time));
            }
            let recent = Revision(batches - TIMES_MAX as u64 / 3);
            assert!(times.exactly(recent).is_some());
        }
    }
}
