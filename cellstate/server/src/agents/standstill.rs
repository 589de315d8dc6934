//! Time that counts for no lease, as nobody could renew one: found by who looks often enough, and finds that he did not.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use plenum_model::planted::{self, Bug};
use plenum_model::rare;

/// Tells the time in which nobody could renew a lease, which counts for none: the server itself stood still, as when its machine slept or its
/// process was stopped; or nothing was decided, and no registration taken, so that an agent that was started again had no lease to renew: the cell
/// was read-only, or a write of its log did not come back, as on a disk that does not answer.
///
/// In microseconds of the caller's monotonic clock, which goes on meanwhile.
#[derive(Debug)]
pub struct Standstill {
    within_micros: i64,
    looked_at_micros: i64,
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// How much of the time since the last look counts for no lease.
    pub lost_micros: i64,
    /// The server stood still meanwhile.
    pub slept: bool,
    /// Since when a write does not come back, where it counts for no lease for that alone.
    pub stuck_since_micros: Option<i64>,
}

impl Standstill {
    /// Of a server whose leases have this term. Agents renew after a third of it: while the server runs, no lease of an agent that is there
    /// comes nearer to its end than two thirds, and what is not noticed here takes half of these at most.
    #[must_use]
    pub fn new(lease: Duration, now_micros: i64) -> Self {
        let within_micros = i64::try_from(lease.as_micros() / 6).unwrap_or(i64::MAX / 2);
        Self { within_micros, looked_at_micros: now_micros }
    }

    /// To be called before leases are looked at, and after so long at the latest: [`Self::within_micros`]. `read_only`: the cell is.
    /// `writing_micros`: for how long the write in flight takes already, or 0. What comes back within [`Self::within_micros`] stopped nobody.
    #[must_use]
    pub fn look(&mut self, now_micros: i64, read_only: bool, writing_micros: i64) -> Look {
        let elapsed = now_micros - std::mem::replace(&mut self.looked_at_micros, now_micros);
        let slept = elapsed > 2 * self.within_micros && !planted::is(Bug::CountsItsSleep);
        if slept {
            rare!("time in which the server stood still counts for no lease");
        }
        let is_stuck = writing_micros > self.within_micros;
        if is_stuck {
            rare!("time in which a write did not come back counts for no lease");
        }
        let stuck_since_micros = (is_stuck && !slept && !read_only).then(|| now_micros - writing_micros);
        Look { lost_micros: if slept || read_only || is_stuck { elapsed } else { 0 }, slept, stuck_since_micros }
    }

    /// The look that a start ends with: in all of it nobody was served, as where it waited for room. One within [`Self::within_micros`] kept nobody
    /// from anything.
    #[must_use]
    pub fn started(&mut self, now_micros: i64) -> Look {
        let elapsed = now_micros - std::mem::replace(&mut self.looked_at_micros, now_micros);
        let lost_micros = if elapsed > self.within_micros { elapsed } else { 0 };
        Look { lost_micros, slept: false, stuck_since_micros: None }
    }

    /// How often it is to be looked at least.
    #[must_use]
    pub const fn within_micros(&self) -> i64 {
        self.within_micros
    }
}

/// Until when nothing is taken from anybody by time: while nobody could say anything, agents could not register, schedulers could not renew holds, and
/// operators could not adopt or undrain. They get one term of a lease for it before the cell gives up what they did not speak for. What takes nothing
/// from anybody need not wait for that.
///
/// A disk that is slow, and answers, does not put it off without end: everybody is heard between its writes, if late. Behind a respite that began with
/// one write no other write begins one for a term.
#[derive(Debug)]
pub struct Respite {
    term_micros: i64,
    /// What was not looked at for longer stood still, by [`Standstill::look`], and nobody has reckoned with that yet.
    unlooked_micros_max: i64,
    looked_at_micros: AtomicI64,
    until_micros: AtomicI64,
    /// When the last one that a write began was over, or is; [`i64::MIN`]: none did.
    stuck_until_micros: AtomicI64,
}

impl Respite {
    /// Of a server whose leases have this term. In microseconds of the clock of [`Standstill`].
    #[must_use]
    pub fn new(lease: Duration, now_micros: i64) -> Self {
        let term_micros = i64::try_from(lease.as_micros()).unwrap_or(i64::MAX / 2);
        Self {
            term_micros,
            unlooked_micros_max: 2 * (term_micros / 6),
            looked_at_micros: AtomicI64::new(now_micros),
            until_micros: AtomicI64::new(i64::MIN),
            stuck_until_micros: AtomicI64::new(i64::MIN),
        }
    }

    /// The server opened its cell just now: before, nobody could say anything to one. `forfeit_micros`: in so long, or since so long where it is
    /// negative, something is due to be taken; `None`: nothing is. What is due later leaves everybody time enough, and nothing waits for it.
    pub fn opened(&self, now_micros: i64, forfeit_micros: Option<i64>) {
        if forfeit_micros.is_some_and(|micros| micros < self.term_micros) {
            rare!("what is due soon after a start of the server waits until everybody could be heard");
            self.begins(now_micros);
        }
    }

    /// What a look of [`Standstill`] found; of one caller. Whether a write begins a respite by it.
    pub fn looked(&self, now_micros: i64, look: Look) -> bool {
        let begins = match look.stuck_since_micros {
            Some(since_micros) => self.stuck(now_micros, since_micros),
            None => {
                if look.lost_micros > 0 {
                    self.begins(now_micros);
                }
                false
            }
        };
        // Whoever sees this sees the other, too.
        self.looked_at_micros.store(now_micros, Ordering::Release);
        begins
    }

    /// A write does not come back since then. Whether a respite begins with it; while it lasts, the respite does.
    fn stuck(&self, now_micros: i64, since_micros: i64) -> bool {
        let until_micros = self.stuck_until_micros.load(Ordering::Relaxed);
        // It was under way at the look that gave this term.
        let goes_on = since_micros <= until_micros.saturating_sub(self.term_micros);
        let begins = !goes_on && now_micros >= until_micros.saturating_add(self.term_micros);
        if goes_on || begins {
            self.begins(now_micros);
            self.stuck_until_micros.store(now_micros.saturating_add(self.term_micros), Ordering::Relaxed);
        }
        begins
    }

    fn begins(&self, now_micros: i64) {
        self.until_micros.store(now_micros.saturating_add(self.term_micros), Ordering::Relaxed);
    }

    /// Whether anything may be taken that is due.
    #[must_use]
    pub fn is_over(&self, now_micros: i64) -> bool {
        let unlooked = now_micros.saturating_sub(self.looked_at_micros.load(Ordering::Acquire));
        let is_over = unlooked <= self.unlooked_micros_max && now_micros >= self.until_micros.load(Ordering::Relaxed);
        is_over || planted::is(Bug::TakesAtOnce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that was unreachable when the disk filled up lost its tasks as soon as there was room, seconds before its agent could register.
    #[test]
    fn after_time_in_which_nobody_could_register_nothing_is_given_up_for_a_term() {
        let respite = Respite::new(Duration::from_micros(60), 0);
        let look = |lost_micros| Look { lost_micros, slept: false, stuck_since_micros: None };
        let over = |now: i64| respite.is_over(now);
        // Of a sleep that was shorter than half a term, what was due was taken before anybody had looked.
        assert_eq!([20, 21].map(over), [true, false], "who stood still has not looked yet");
        respite.looked(100, look(100));
        assert_eq!([100, 119].map(over), [false; 2]);
        for (now, expected) in [(120, false), (140, false), (159, false), (160, true)] {
            respite.looked(now, look(0));
            assert_eq!(respite.is_over(now), expected, "{now}");
        }
    }

    // A hold was given away in the very batch of a start, before who had held it all the time could renew it.
    #[test]
    fn what_is_due_soon_after_a_start_waits_for_a_term_and_nothing_waits_for_what_is_due_later() {
        for (forfeit_micros, expected) in
            [(None, true), (Some(-1000), false), (Some(0), false), (Some(59), false), (Some(60), true)]
        {
            let respite = Respite::new(Duration::from_micros(60), 100);
            respite.opened(100, forfeit_micros);
            assert_eq!(respite.is_over(101), expected, "{forfeit_micros:?}");
            respite.looked(160, Look { lost_micros: 0, slept: false, stuck_since_micros: None });
            assert!(respite.is_over(160), "{forfeit_micros:?}");
        }
    }

    // Each write of a disk that was slow, and answered, began the term anew: for as long as it was slow no machine was given up, no drain ended, and no
    // hold was given back.
    #[test]
    fn a_disk_that_answers_slowly_puts_off_what_is_due_for_no_longer_than_it_then_lets_it_happen() {
        let (mut standstill, respite) =
            (Standstill::new(Duration::from_micros(60), 0), Respite::new(Duration::from_micros(60), 0));
        // Each write takes 20, and the next one begins at once.
        let found = (1..60).map(|look| {
            let now = 5 * look;
            let begins = respite.looked(now, standstill.look(now, false, now % 20));
            (now, begins, respite.is_over(now))
        });
        let found: Vec<_> = found.collect();
        let begun: Vec<i64> = found.iter().filter(|(_, begins, _)| *begins).map(|(now, ..)| *now).collect();
        assert_eq!(begun, [15, 135, 255]);
        for (now, _, is_over) in found {
            assert_eq!(is_over, now < 15 || (75..135).contains(&now) || (195..255).contains(&now), "{now}");
        }
    }

    // One that does not come back is the same at each look: whoever waited behind it gets a term when it does, whenever the one before came.
    #[test]
    fn a_write_that_does_not_come_back_puts_off_what_is_due_until_a_term_after_it_did() {
        let respite = Respite::new(Duration::from_micros(60), 0);
        let looked =
            |now, stuck_since_micros| respite.looked(now, Look { lost_micros: 1, slept: false, stuck_since_micros });
        assert_eq!([20, 30].map(|now| looked(now, Some(5))), [true, false]);
        // Another one: until 150 it counts for nothing, and from then on it does.
        assert_eq!([140, 150, 160, 300].map(|now| looked(now, Some(100))), [false, true, false, false]);
        respite.looked(359, Look { lost_micros: 0, slept: false, stuck_since_micros: None });
        assert_eq!([359, 360].map(|now| respite.is_over(now)), [false, true]);
        // What is no write begins one whenever it comes.
        assert!(!looked(361, None) && !respite.is_over(380));
    }

    // A machine that was unreachable when the disk stopped answering lost its tasks as soon as it answered, and only then was its agent heard, which had
    // waited to register for all that time.
    #[test]
    fn time_in_which_a_write_does_not_come_back_counts_for_no_lease() {
        let mut standstill = Standstill::new(Duration::from_micros(60), 0);
        let mut lost = |now, writing| standstill.look(now, false, writing).lost_micros;
        assert_eq!(
            [(10, 9), (20, 10), (21, 11), (30, 20), (40, 0)].map(|(now, writing)| lost(now, writing)),
            [0, 0, 1, 9, 0]
        );
        assert!(!standstill.look(49, false, 29).slept, "it looked all the time");
    }

    // The server said of itself that it had stood still, as if it had been stopped.
    #[test]
    fn a_start_that_took_long_counts_for_no_lease_and_is_no_sleep() {
        let started = |now| Standstill::new(Duration::from_micros(60), 0).started(now);
        let look = |lost_micros| Look { lost_micros, slept: false, stuck_since_micros: None };
        assert_eq!([10, 11, 100].map(started), [0, 11, 100].map(look));
        let mut standstill = Standstill::new(Duration::from_micros(60), 0);
        assert_eq!([standstill.started(100), standstill.look(110, false, 0)], [look(100), look(0)]);
    }

    #[test]
    fn time_in_which_nobody_could_renew_a_lease_counts_for_none() {
        let mut standstill = Standstill::new(Duration::from_micros(60), 100);
        let mut lost = |now, read_only| standstill.look(now, read_only, 0).lost_micros;
        assert_eq!([105, 115, 135, 156, 157].map(|now| lost(now, false)), [0, 0, 0, 21, 0]);
        // An agent that was started again while the disk was full counted as gone as soon as there was room.
        assert_eq!([160, 170].map(|now| lost(now, true)), [3, 10], "nor could anybody register");
        assert_eq!(lost(175, false), 0);
        let slept = [195, 216].map(|now| standstill.look(now, true, 0).slept);
        assert_eq!(slept, [false, true], "who is read-only did not sleep by that");
    }
}
