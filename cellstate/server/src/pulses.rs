//! How schedulers do, as they say: the last word of each session that has a stream, never logged. And who promised to say so and does not.

use std::collections::BTreeMap;

use plenum_model::{Revision, SessionId};
use plenum_proto::v1;

/// Whoever has not been heard of for so many times the pause between pulses, while the cell went on, has a mirror that grows old.
const SILENT_PAUSES: i64 = 2;

/// When a session was heard of last, and what it said.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Last {
    /// `None`: it promised pulses, and none has come.
    said: Option<Said>,
    /// The pause that it promised; 0: it promised nothing.
    pause_micros: i64,
    /// What its mirror had; of one that has said nothing, what there was when it was welcomed.
    revision: Revision,
    /// When that was, by the monotonic clock.
    at_micros: i64,
}

/// What a pulse said.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Said {
    busy_ratio: f64,
    waiting_jobs: u32,
    /// How old the mirror was when it came.
    age_micros: i64,
}

/// How one member of a scheduler does, or several together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Doing {
    /// How much of their time they decide: up to 1 for each. `None`: none has said so.
    pub(crate) busy_ratio: Option<f64>,
    /// Jobs that have tasks to place. `None`: none has said so.
    pub(crate) waiting_jobs: Option<u32>,
    /// How old their mirrors are: the oldest. `None`: none has said so, and none is silent.
    pub(crate) snapshot_age_micros: Option<i64>,
    /// How many are not heard of any more, while their mirrors grow old.
    pub(crate) silent: u32,
    /// How long ago they were heard of: the longest.
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
        row.busy_millis = self.busy_ratio.map(|ratio| (ratio * 1000.0).round() as u32);
        row.waiting_jobs = self.waiting_jobs;
        row.snapshot_age_micros = self.snapshot_age_micros.map(i64::unsigned_abs);
        row.silent = Some(self.silent);
        row.pulse_age_micros = Some(self.pulse_age_micros.unsigned_abs());
    }

    /// Both together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            busy_ratio: both(self.busy_ratio, other.busy_ratio, |one, two| one + two),
            waiting_jobs: both(self.waiting_jobs, other.waiting_jobs, u32::saturating_add),
            snapshot_age_micros: self.snapshot_age_micros.max(other.snapshot_age_micros),
            silent: self.silent.saturating_add(other.silent),
            pulse_age_micros: self.pulse_age_micros.max(other.pulse_age_micros),
        }
    }
}

/// What one of two says, or both together.
fn both<T>(one: Option<T>, two: Option<T>, together: impl FnOnce(T, T) -> T) -> Option<T> {
    match (one, two) {
        (Some(one), Some(two)) => Some(together(one, two)),
        (one, two) => one.or(two),
    }
}

/// Of all sessions with a stream: as many as there are at most.
#[derive(Debug)]
pub(crate) struct Pulses {
    pause_micros: i64,
    last: BTreeMap<SessionId, Last>,
}

impl Pulses {
    /// Schedulers are asked for one after each such pause; 0: for none.
    pub(crate) const fn new(pause_micros: i64) -> Self {
        Self { pause_micros, last: BTreeMap::new() }
    }

    /// A session is welcomed that promises one after each such pause, or after the one that it is asked for. That is a sign of it, as a pulse is: one that
    /// hangs may never send a first one. Where none are asked for none are missed.
    pub(crate) fn promised(&mut self, session: SessionId, pause_micros: u64, revision: Revision, now_micros: i64) {
        if self.pause_micros == 0 {
            return;
        }
        let pause_micros = i64::try_from(pause_micros).unwrap_or(i64::MAX);
        let last =
            self.last.entry(session).or_insert(Last { said: None, pause_micros, revision, at_micros: now_micros });
        // It may have said something on another stream.
        (last.pause_micros, last.at_micros) = (pause_micros, now_micros);
    }

    /// It takes a part of a snapshot, if it is a session that was heard of.
    pub(crate) fn took(&mut self, session: SessionId, now_micros: i64) {
        if let Some(last) = self.last.get_mut(&session) {
            last.at_micros = now_micros;
        }
    }

    /// Takes a pulse of a mirror to which the cell had added nothing for longer than `age_micros`. Where none are asked for, nobody knows when the next
    /// one is missing, and what one says that comes all the same grows old: it is not kept.
    pub(crate) fn put(&mut self, session: SessionId, pulse: v1::Pulse, age_micros: i64, now_micros: i64) {
        if self.pause_micros == 0 {
            return;
        }
        let over = pulse.over_micros.max(1);
        let said = Said {
            busy_ratio: float(pulse.busy_micros.min(over)) / float(over),
            waiting_jobs: pulse.waiting_jobs,
            age_micros: age_micros.max(0),
        };
        let pause_micros = self.last.get(&session).map_or(0, |last| last.pause_micros);
        let revision = Revision(pulse.revision);
        self.last.insert(session, Last { said: Some(said), pause_micros, revision, at_micros: now_micros });
    }

    /// Its stream is gone.
    pub(crate) fn remove(&mut self, session: SessionId) {
        self.last.remove(&session);
    }

    /// How all do that said so, or promised to; a mirror at some revision is so old now.
    pub(crate) fn all(
        &self,
        now_micros: i64,
        age_of: impl Fn(Revision) -> i64,
    ) -> impl Iterator<Item = (SessionId, Doing)> {
        self.last.iter().map(move |(&session, last)| {
            let pulse_age_micros = now_micros.saturating_sub(last.at_micros).max(0);
            let most = self.pause_micros.max(last.pause_micros).saturating_mul(SILENT_PAUSES);
            let lacks_micros = (pulse_age_micros > most).then(|| age_of(last.revision));
            // Whoever rested has nothing to say before something happens, and until a pause after that.
            let silent = u32::from(lacks_micros.is_some_and(|age| age > most));
            let doing = Doing {
                busy_ratio: last.said.map(|said| said.busy_ratio),
                waiting_jobs: last.said.map(|said| said.waiting_jobs),
                snapshot_age_micros: lacks_micros.or_else(|| last.said.map(|said| said.age_micros)),
                silent,
                pulse_age_micros,
            };
            (session, doing)
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
        let (busy_ratio, waiting_jobs, snapshot_age_micros) = (Some(0.75), Some(4), Some(7));
        let expected = Doing { busy_ratio, waiting_jobs, snapshot_age_micros, ..Doing::default() };
        assert_eq!(both, expected);
        assert_eq!(both.and(Doing::default()), expected, "one that has said nothing yet adds nothing");
        pulses.remove(SessionId(1));
        assert_eq!(first(&pulses, 0, 0).0, SessionId(2));
    }

    #[test]
    fn nobody_is_busy_for_more_than_all_of_its_time() {
        let mut pulses = Pulses::new(100);
        for (over, busy) in [(0, 0), (0, u64::MAX), (10, 20), (u64::MAX, u64::MAX)] {
            pulses.put(SessionId(1), pulse(over, busy), 0, 0);
            let ratio = first(&pulses, 0, 0).1.busy_ratio.unwrap();
            assert!((0.0..=1.0).contains(&ratio), "{busy} of {over}: {ratio}");
        }
    }

    // After a quiet hour the first thing that happened made a mirror an hour old that had all there was.
    #[test]
    fn the_mirror_of_who_fell_silent_is_as_old_as_what_it_lacks() {
        let mut pulses = Pulses::new(100);
        pulses.put(SessionId(1), pulse(100, 0), 7, 1000);
        let age = |now, lacks_for| first(&pulses, now, lacks_for).1.snapshot_age_micros.unwrap();
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
        assert_eq!((back.silent, back.snapshot_age_micros, back.pulse_age_micros), (0, Some(300), 50));
    }

    // One that hung before its first pulse was connected for as long as it did, and its jobs waited for no reason that anybody could see.
    #[test]
    fn who_promised_pulses_is_silent_without_a_first_one_once_the_cell_goes_on() {
        let mut pulses = Pulses::new(100);
        pulses.promised(SessionId(1), 7, Revision(8), 1000);
        let silent = |now, lacks_for| first(&pulses, now, lacks_for).1.silent;
        assert_eq!((silent(1200, 900), silent(1201, 200), silent(1201, 201), silent(9000, 0)), (0, 0, 1, 0));
        let doing = first(&pulses, 1100, 90).1;
        assert_eq!(doing, Doing { pulse_age_micros: 100, ..Doing::default() }, "of itself it has said nothing");
        let doing = first(&pulses, 1201, 201).1;
        let (snapshot_age_micros, pulse_age_micros) = (Some(201), 201);
        assert_eq!(doing, Doing { silent: 1, snapshot_age_micros, pulse_age_micros, ..Doing::default() });
        pulses.put(SessionId(1), pulse(100, 0), 0, 1300);
        assert_eq!(first(&pulses, 1400, 900).1.silent, 0, "it has come to itself");
        pulses.remove(SessionId(1));
        assert_eq!(pulses.all(9000, |_| 9000).count(), 0);
    }

    #[test]
    fn who_promised_pulses_after_longer_pauses_is_silent_after_two_of_these() {
        let mut pulses = Pulses::new(100);
        pulses.promised(SessionId(1), 300, Revision(8), 0);
        let silent = |pulses: &Pulses, now| first(pulses, now, 9000).1.silent;
        assert_eq!((silent(&pulses, 600), silent(&pulses, 601)), (0, 1));
        pulses.put(SessionId(1), pulse(100, 0), 0, 1000);
        assert_eq!((silent(&pulses, 1600), silent(&pulses, 1601)), (0, 1), "nor does a pulse change that");
    }

    // It can send none before it has its mirror, which may be large.
    #[test]
    fn who_takes_its_snapshot_is_heard_of_and_who_comes_back_does_not_lose_what_it_said() {
        let mut pulses = Pulses::new(100);
        pulses.took(SessionId(1), 900);
        assert_eq!(pulses.all(9000, |_| 9000).count(), 0, "it promised nothing");
        pulses.promised(SessionId(1), 7, Revision(8), 1000);
        pulses.took(SessionId(1), 1900);
        assert_eq!((first(&pulses, 2100, 900).1.silent, first(&pulses, 2101, 900).1.silent), (0, 1));
        pulses.put(SessionId(1), pulse(100, 25), 0, 2200);
        pulses.promised(SessionId(1), 7, Revision(9), 5000);
        let doing = first(&pulses, 5100, 900).1;
        assert_eq!((doing.busy_ratio, doing.silent), (Some(0.25), 0));
    }

    #[test]
    fn nobody_is_silent_in_a_cell_that_takes_no_pulses() {
        let mut pulses = Pulses::new(0);
        pulses.promised(SessionId(1), 7, Revision(8), 0);
        assert_eq!(pulses.all(9000, |_| 9000).count(), 0);
    }

    // Its pause was none, so that it was silent as soon as its mirror lacked anything.
    #[test]
    fn who_sends_a_pulse_that_nobody_asked_for_is_not_silent_for_that() {
        let mut pulses = Pulses::new(0);
        pulses.put(SessionId(1), pulse(100, 25), 0, 1000);
        assert_eq!(pulses.all(1001, |_| 1).map(|(_, doing)| doing.silent).sum::<u32>(), 0);
    }
}
