//! How schedulers do, as they say: the last word of each session that has a stream, never logged.

use std::collections::BTreeMap;

use plenum_model::{Revision, SessionId};
use plenum_proto::v1;

/// Whoever has not been heard of for so many times the pause between pulses, while the cell went on, has a mirror that grows old.
const SILENT_PAUSES: i64 = 2;

/// A session's last pulse.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Last {
    busy_ratio: f64,
    waiting_jobs: u32,
    revision: Revision,
    /// How old the mirror was when it came.
    age_micros: i64,
    /// When it came, by the monotonic clock.
    at_micros: i64,
}

/// How one member of a scheduler does, or several together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Doing {
    /// How much of their time they decide: up to 1 for each.
    pub(crate) busy_ratio: f64,
    /// Jobs that have tasks to place.
    pub(crate) waiting_jobs: u32,
    /// How old their mirrors are: the oldest.
    pub(crate) snapshot_age_micros: i64,
    /// How many do not say so any more, while their mirrors grow old.
    pub(crate) silent: u32,
    /// How long ago they said so: the longest.
    pub(crate) pulse_age_micros: i64,
}

impl Doing {
    /// What a listing says of it.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most 1 for each session, of which there are thousands"
    )]
    pub(crate) fn tell(self, row: &mut v1::SchedulerView) {
        row.busy_millis = Some((self.busy_ratio * 1000.0).round() as u32);
        row.waiting_jobs = Some(self.waiting_jobs);
        row.snapshot_age_micros = Some(self.snapshot_age_micros.unsigned_abs());
        row.silent = Some(self.silent);
        row.pulse_age_micros = Some(self.pulse_age_micros.unsigned_abs());
    }

    /// Both together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            busy_ratio: self.busy_ratio + other.busy_ratio,
            waiting_jobs: self.waiting_jobs.saturating_add(other.waiting_jobs),
            snapshot_age_micros: self.snapshot_age_micros.max(other.snapshot_age_micros),
            silent: self.silent.saturating_add(other.silent),
            pulse_age_micros: self.pulse_age_micros.max(other.pulse_age_micros),
        }
    }
}

/// Of all sessions with a stream: as many as there are at most.
#[derive(Debug)]
pub(crate) struct Pulses {
    pause_micros: i64,
    last: BTreeMap<SessionId, Last>,
}

impl Pulses {
    /// Schedulers are asked for one after each such pause.
    pub(crate) const fn new(pause_micros: i64) -> Self {
        Self { pause_micros, last: BTreeMap::new() }
    }

    /// Takes a pulse of a mirror to which the cell had added nothing for longer than `age_micros`.
    pub(crate) fn put(&mut self, session: SessionId, pulse: v1::Pulse, age_micros: i64, now_micros: i64) {
        let over = pulse.over_micros.max(1);
        let last = Last {
            busy_ratio: float(pulse.busy_micros.min(over)) / float(over),
            waiting_jobs: pulse.waiting_jobs,
            revision: Revision(pulse.revision),
            age_micros: age_micros.max(0),
            at_micros: now_micros,
        };
        self.last.insert(session, last);
    }

    /// Its stream is gone.
    pub(crate) fn remove(&mut self, session: SessionId) {
        self.last.remove(&session);
    }

    /// How all do that said so; a mirror at some revision is so old now.
    pub(crate) fn all(
        &self,
        now_micros: i64,
        age_of: impl Fn(Revision) -> i64,
    ) -> impl Iterator<Item = (SessionId, Doing)> {
        self.last.iter().map(move |(&session, last)| {
            let pulse_age_micros = now_micros.saturating_sub(last.at_micros).max(0);
            let most = self.pause_micros.saturating_mul(SILENT_PAUSES);
            let snapshot_age_micros = if pulse_age_micros > most { age_of(last.revision) } else { last.age_micros };
            // Whoever rested has nothing to say before something happens, and until a pause after that.
            let silent = u32::from(pulse_age_micros > most && snapshot_age_micros > most);
            let Last { busy_ratio, waiting_jobs, .. } = *last;
            (session, Doing { busy_ratio, waiting_jobs, snapshot_age_micros, silent, pulse_age_micros })
        })
    }
}

/// Exact below 2^53.
#[allow(clippy::cast_precision_loss, reason = "a ratio is a floating-point number")]
fn float(micros: u64) -> f64 {
    micros as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pulse(over_micros: u64, busy_micros: u64) -> v1::Pulse {
        v1::Pulse { over_micros, busy_micros, waiting_jobs: 2, revision: 8 }
    }

    fn first(pulses: &Pulses, now_micros: i64, age_micros: i64) -> (SessionId, Doing) {
        pulses.all(now_micros, |revision| if revision == Revision(8) { age_micros } else { 0 }).next().unwrap()
    }

    #[test]
    fn what_several_members_do_is_added_up_and_the_oldest_mirror_counts() {
        let mut pulses = Pulses::new(100);
        pulses.put(SessionId(1), pulse(100, 25), 0, 0);
        pulses.put(SessionId(2), pulse(100, 50), 7, 0);
        let both = pulses.all(0, |_| 0).map(|(_, doing)| doing).reduce(Doing::and).unwrap();
        let expected = Doing { busy_ratio: 0.75, waiting_jobs: 4, snapshot_age_micros: 7, ..Doing::default() };
        assert_eq!(both, expected);
        pulses.remove(SessionId(1));
        assert_eq!(first(&pulses, 0, 0).0, SessionId(2));
    }

    #[test]
    fn nobody_is_busy_for_more_than_all_of_its_time() {
        let mut pulses = Pulses::new(100);
        for (over, busy) in [(0, 0), (0, u64::MAX), (10, 20), (u64::MAX, u64::MAX)] {
            pulses.put(SessionId(1), pulse(over, busy), 0, 0);
            let ratio = first(&pulses, 0, 0).1.busy_ratio;
            assert!((0.0..=1.0).contains(&ratio), "{busy} of {over}: {ratio}");
        }
    }

    // After a quiet hour the first thing that happened made a mirror an hour old that had all there was.
    #[test]
    fn the_mirror_of_who_fell_silent_is_as_old_as_what_it_lacks() {
        let mut pulses = Pulses::new(100);
        pulses.put(SessionId(1), pulse(100, 0), 7, 1000);
        let age = |now, lacks_for| first(&pulses, now, lacks_for).1.snapshot_age_micros;
        assert_eq!((age(1200, 0), age(1201, 0), age(1201, 90)), (7, 0, 90));
    }

    // One that was stopped, and one that had come back a moment ago, were both "connected" and so far behind.
    #[test]
    fn who_says_nothing_while_the_cell_goes_on_is_silent_and_who_rests_is_not() {
        let mut pulses = Pulses::new(100);
        pulses.put(SessionId(1), pulse(100, 0), 7, 1000);
        let doing = |now, lacks_for| first(&pulses, now, lacks_for).1;
        let silent = |now, lacks_for| doing(now, lacks_for).silent;
        assert_eq!((silent(1200, 900), silent(1201, 200), silent(1201, 201), silent(9000, 0)), (0, 0, 1, 0));
        assert_eq!(doing(1201, 201).pulse_age_micros, 201);
        pulses.put(SessionId(1), pulse(100, 0), 300, 1300);
        let back = first(&pulses, 1350, 0).1;
        assert_eq!((back.silent, back.snapshot_age_micros, back.pulse_age_micros), (0, 300, 50));
    }
}
