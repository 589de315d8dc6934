//! How old a heartbeat is: the server's time in it against a clock of one's own. Without a clock: it is given the time.
//!
//! Who stood still, as one that was stopped or whose machine slept, finds a minute's heartbeats in its own buffers, of which each looks as if it came just now. The
//! server's time in them (log time, which within one start of a server never goes back) tells them apart: a difference of both clocks is that between the clocks and how
//! long the heartbeat was on its way, and the least one is that of the heartbeat that was on its way for the shortest time.

/// A heartbeat tells what is so for so long, in microseconds. There is one a second.
pub(super) const FRESH_MICROS: i64 = 3_000_000;

/// A stream whose heartbeats have been old for so long is given up, in microseconds: what piled up in it is more than is read in that time, or one of the clocks was wrong.
pub(super) const LATE_MICROS_MAX: i64 = 30_000_000;

/// Two clocks run apart by at most one part in so many. By as much the least difference rises: otherwise that of a server that is up for a year would have every
/// heartbeat look old. Who falls behind by less is not noticed.
const DRIFT: i64 = 10_000;

/// What the heartbeats of a stream say of the age of what it tells, and those of earlier streams of the clocks. Times are in microseconds, of a clock of this side
/// that never goes back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beats {
    /// When the stream was asked for: nothing that it tells is older.
    asked_micros: i64,
    /// The least difference: this side's time at which a heartbeat was read, less the server's time in it. `None`: nothing was heard of this server's clock.
    least_micros: Option<i64>,
    /// The server's time in the last heartbeat.
    told_micros: i64,
    /// When the last heartbeat of this stream was made, or what is sure of that: not earlier. `None`: there was none.
    made_micros: Option<i64>,
    /// Since when each heartbeat was old as it was read.
    late_since_micros: Option<i64>,
}

impl Beats {
    /// A stream is asked for.
    pub(super) const fn asked(&mut self, now_micros: i64) {
        self.asked_micros = now_micros;
        self.lost();
    }

    /// What the stream has told is no longer of the present, or it is gone. What is known of the clocks stays.
    pub(super) const fn lost(&mut self) {
        self.made_micros = None;
        self.late_since_micros = None;
    }

    /// The stream is of another start of a server, which has another clock.
    pub(super) const fn other_clock(&mut self) {
        self.least_micros = None;
    }

    /// A heartbeat is read, in which the server tells its time; 0 is told by one that does not.
    pub(super) fn heard(&mut self, told_micros: i64, now_micros: i64) {
        // Of a server of an earlier version it is all that is known.
        let made_micros = if told_micros == 0 { now_micros } else { self.made(told_micros, now_micros) };
        self.made_micros = Some(made_micros);
        let is_late = now_micros.saturating_sub(made_micros) > FRESH_MICROS;
        self.late_since_micros = is_late.then(|| self.late_since_micros.unwrap_or(now_micros));
    }

    /// Whether the last heartbeat of this stream tells of the present.
    pub(super) fn are_fresh(&self, now_micros: i64) -> bool {
        self.made_micros.is_some_and(|made| now_micros.saturating_sub(made) <= FRESH_MICROS)
    }

    /// For how long heartbeats have been read that were old; 0: the last one was not.
    pub(super) fn late_micros(&self, now_micros: i64) -> i64 {
        self.late_since_micros.map_or(0, |since| now_micros.saturating_sub(since))
    }

    /// When a heartbeat was made, at the earliest.
    fn made(&mut self, told_micros: i64, now_micros: i64) -> i64 {
        let since_micros = now_micros.saturating_sub(told_micros);
        let passed_micros = told_micros.saturating_sub(self.told_micros).max(0);
        self.told_micros = told_micros;
        let known = self.least_micros.map(|least| least.saturating_add(passed_micros / DRIFT));
        let mut least_micros = known.map_or(since_micros, |least| least.min(since_micros));
        let is_young = now_micros.saturating_sub(self.asked_micros) <= FRESH_MICROS;
        if is_young && since_micros.saturating_sub(least_micros) > FRESH_MICROS {
            // It can't be as old as it looks: a clock was slewed.
            least_micros = since_micros;
        }
        self.least_micros = Some(least_micros);
        // Read much sooner after the earlier ones than it was made, it is one of many that were waiting to be read, and so may be the next one. Of the first one nobody
        // knows.
        let is_paced = known.is_some_and(|known| known.saturating_sub(since_micros) <= passed_micros / 2);
        let made_micros = if is_paced { told_micros.saturating_add(least_micros) } else { i64::MIN };
        made_micros.max(self.asked_micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;
    const HOUR: i64 = 3_600 * SECOND;
    /// What the server's clock shows at 0 of this side's.
    const BEGIN: i64 = 1_000 * HOUR;

    /// Hears, at a time of this side's, a heartbeat that was made at another one; gives whether it tells of the present.
    fn hear(beats: &mut Beats, made_micros: i64, now_micros: i64) -> bool {
        beats.heard(BEGIN + made_micros, now_micros);
        beats.are_fresh(now_micros)
    }

    /// One whose heartbeats took 5 ms, once a second, for ten seconds.
    fn on_time() -> Beats {
        let mut beats = Beats::default();
        beats.asked(0);
        for second in 1..=10 {
            assert!(hear(&mut beats, second * SECOND, second * SECOND + 5_000), "second {second}");
        }
        beats
    }

    // A program that was stopped for 50 s read as many heartbeats within a moment, and took each picture that it came through for the present: what was dead for a minute
    // was published as there.
    #[test]
    fn who_stood_still_knows_the_heartbeats_that_waited_for_it() {
        let mut beats = on_time();
        let now = 60 * SECOND;
        assert!(!beats.are_fresh(now), "before anything is read");
        for second in 11..=56 {
            assert!(!hear(&mut beats, second * SECOND, now + second), "second {second}");
        }
        assert!(hear(&mut beats, 58 * SECOND, now + 58), "of two seconds ago");
        assert!(hear(&mut beats, 60 * SECOND, now + 5_000));
        assert_eq!(beats.late_micros(now + 5_000), 0);
    }

    // Nothing was known of the clocks yet: the first heartbeat that is read may be as old as the stream.
    #[test]
    fn who_stood_still_before_its_first_heartbeat_trusts_none_that_comes_too_soon() {
        let mut beats = Beats::default();
        beats.asked(0);
        let now = 60 * SECOND;
        for second in 1..=60 {
            assert!(!hear(&mut beats, second * SECOND, now + second), "second {second}");
        }
        assert!(hear(&mut beats, 61 * SECOND, now + SECOND + 5_000), "as long after the last one as it was made");
        assert!(hear(&mut beats, 62 * SECOND, now + 2 * SECOND + 5_000));
    }

    #[test]
    fn what_a_stream_tells_is_no_older_than_the_stream() {
        let mut beats = on_time();
        beats.asked(20 * SECOND);
        assert!(!beats.are_fresh(20 * SECOND), "it has told nothing");
        // The server's clock was slewed by eight seconds meanwhile, and no heartbeat looked new for ever.
        let slewed = |second: i64| (second - 8) * SECOND;
        assert!(hear(&mut beats, slewed(21), 21 * SECOND));
        assert!((22..40).all(|second| hear(&mut beats, slewed(second), second * SECOND)));
    }

    #[test]
    fn a_heartbeat_grows_old_while_none_follows() {
        let beats = on_time();
        let made = 10 * SECOND + 5_000;
        assert!(beats.are_fresh(made + FRESH_MICROS) && !beats.are_fresh(made + FRESH_MICROS + 1));
    }

    #[test]
    fn a_server_that_starts_anew_has_another_clock() {
        let mut beats = on_time();
        beats.asked(20 * SECOND);
        beats.other_clock();
        // It is an hour behind by what it tells, or ahead.
        let mut other = beats;
        assert!((21..60).all(|second| hear(&mut beats, second * SECOND - HOUR, second * SECOND)));
        assert!((21..60).all(|second| hear(&mut other, second * SECOND + HOUR, second * SECOND)));
    }

    // Its clock stands still while its machine sleeps, and leaps once that is noticed.
    #[test]
    fn a_server_whose_machine_slept_is_believed_once_its_clock_has_leapt() {
        let mut beats = on_time();
        assert!(!hear(&mut beats, 11 * SECOND, HOUR + 11 * SECOND), "for all that is known it is an hour old");
        assert!((12..20).all(|second| hear(&mut beats, HOUR + second * SECOND, HOUR + second * SECOND)));
    }

    // As in a virtual machine that was halted.
    #[test]
    fn whose_own_clock_stood_still_trusts_the_second_heartbeat() {
        let mut beats = on_time();
        assert!(!hear(&mut beats, HOUR + 11 * SECOND, 11 * SECOND), "none came so soon before");
        assert!((12..20).all(|second| hear(&mut beats, HOUR + second * SECOND, second * SECOND)));
    }

    #[test]
    fn clocks_that_run_apart_make_nothing_look_old() {
        for fast in [-100, 100] {
            let mut beats = on_time();
            // A week of heartbeats, by a server's clock that is off by so many microseconds a second.
            let all = (11..604_800).all(|second| hear(&mut beats, second * (SECOND + fast), second * SECOND + 5_000));
            assert!(all, "{fast} µs a second");
        }
    }

    #[test]
    fn heartbeats_that_stay_old_are_late_for_so_long() {
        let mut beats = on_time();
        for second in 20..=25 {
            assert!(!hear(&mut beats, (second - 5) * SECOND, second * SECOND));
            assert_eq!(beats.late_micros(second * SECOND), (second - 20) * SECOND);
        }
        assert!(hear(&mut beats, 25 * SECOND, 26 * SECOND));
        assert_eq!(beats.late_micros(26 * SECOND), 0);
    }

    #[test]
    fn of_a_server_that_does_not_tell_its_time_a_heartbeat_is_as_old_as_it_was_read() {
        let mut beats = Beats::default();
        beats.asked(0);
        beats.heard(0, HOUR);
        assert!(beats.are_fresh(HOUR) && !beats.are_fresh(HOUR + FRESH_MICROS + 1));
    }
}
