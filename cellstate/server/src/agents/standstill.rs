//! Time that counts for no lease, as nobody could renew one: found by who looks often enough, and finds that he did not.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use plenum_model::planted::{self, Bug};
use plenum_model::rare;

/// Tells the time in which nobody could renew a lease, which counts for none: the server itself stood still, as when its machine slept or its
/// process was stopped; or the cell was read-only, and took no registration, so that an agent that was started again had no lease to renew.
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
    #[must_use]
    pub fn look(&mut self, now_micros: i64, read_only: bool) -> Look {
        let elapsed = now_micros - std::mem::replace(&mut self.looked_at_micros, now_micros);
        let slept = elapsed > 2 * self.within_micros && !planted::is(Bug::CountsItsSleep);
        if slept {
            rare!("time in which the server stood still counts for no lease");
        }
        Look { lost_micros: if slept || read_only { elapsed } else { 0 }, slept }
    }

    /// How often it is to be looked at least.
    #[must_use]
    pub const fn within_micros(&self) -> i64 {
        self.within_micros
    }
}

/// Until when nothing is taken from anybody by time: while nobody could say anything, agents could not register and operators could not adopt or
/// undrain. They get one term of a lease for it before the cell gives up what they did not speak for. What takes nothing from anybody need not
/// wait for that.
#[derive(Debug)]
pub struct Respite {
    term_micros: i64,
    /// What was not looked at for longer stood still, and nobody has reckoned with that yet.
    unlooked_micros_max: i64,
    looked_at_micros: AtomicI64,
    until_micros: AtomicI64,
}

impl Respite {
    /// Of a server whose leases have this term. In microseconds of the clock of [`Standstill`].
    #[must_use]
    pub fn new(lease: Duration, now_micros: i64) -> Self {
        let term_micros = i64::try_from(lease.as_micros()).unwrap_or(i64::MAX / 2);
        Self {
            term_micros,
            unlooked_micros_max: term_micros / 2,
            looked_at_micros: AtomicI64::new(now_micros),
            until_micros: AtomicI64::new(i64::MIN),
        }
    }

    /// What a look of [`Standstill`] found.
    pub fn looked(&self, now_micros: i64, look: Look) {
        if look.lost_micros > 0 {
            self.until_micros.store(now_micros.saturating_add(self.term_micros), Ordering::Relaxed);
        }
        // Whoever sees this sees the other, too.
        self.looked_at_micros.store(now_micros, Ordering::Release);
    }

    /// Whether anything may be taken that is due.
    #[must_use]
    pub fn is_over(&self, now_micros: i64) -> bool {
        let unlooked = now_micros.saturating_sub(self.looked_at_micros.load(Ordering::Acquire));
        unlooked <= self.unlooked_micros_max && now_micros >= self.until_micros.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that was unreachable when the disk filled up lost its tasks as soon as there was room, seconds before its agent could register.
    #[test]
    fn after_time_in_which_nobody_could_register_nothing_is_given_up_for_a_term() {
        let respite = Respite::new(Duration::from_micros(60), 0);
        let look = |lost_micros| Look { lost_micros, slept: false };
        let over = |now: i64| respite.is_over(now);
        assert_eq!([30, 31].map(over), [true, false], "who stood still has not looked yet");
        respite.looked(100, look(100));
        assert_eq!([100, 129].map(over), [false; 2]);
        for (now, expected) in [(120, false), (140, false), (159, false), (160, true)] {
            respite.looked(now, look(0));
            assert_eq!(respite.is_over(now), expected, "{now}");
        }
    }

    #[test]
    fn time_in_which_nobody_could_renew_a_lease_counts_for_none() {
        let mut standstill = Standstill::new(Duration::from_micros(60), 100);
        let mut lost = |now, read_only| standstill.look(now, read_only).lost_micros;
        assert_eq!([105, 115, 135, 156, 157].map(|now| lost(now, false)), [0, 0, 0, 21, 0]);
        // An agent that was started again while the disk was full counted as gone as soon as there was room.
        assert_eq!([160, 170].map(|now| lost(now, true)), [3, 10], "nor could anybody register");
        assert_eq!(lost(175, false), 0);
        let slept = [195, 216].map(|now| standstill.look(now, true).slept);
        assert_eq!(slept, [false, true], "who is read-only did not sleep by that");
    }
}
