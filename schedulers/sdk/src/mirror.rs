//! A scheduler's own copy of the cell state: built from a snapshot, folded forward by deltas, never by guesses.

use plenum_model::planted::{self, Bug};
use plenum_model::{Cell, Delta, FoldError, Hold, Leaver, LogTime, QuotaUse, Revision, collect_leavers};

/// How far log time is thought to be behind this process's clock. A batch carries the time at which it was begun, and the core
/// judges by that: whoever claims at the very end of a backoff would be early.
const LAG_MICROS: i64 = 2_000;

/// Log time that was found to be so far ahead of what was thought is news: whatever was to be done at a time in the log is due sooner. Some times
/// the lag, so that messages which come now a little later and now a little sooner are none.
const LEAP_MICROS: i64 = 10_000;

/// Log time that the server tells between two deltas may be so far ahead of the batch by whose time the next claim is judged: that was begun
/// while the one before was on its way to the disk.
const BATCH_MICROS: i64 = 100_000;

/// The mirror, and what changed in it since somebody last looked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mirror {
    cell: Option<Cell>,
    /// What is used of quotas. Invariant: that of the cell; nothing where there is none.
    quota_use: QuotaUse,
    /// Who leaves with the delta that is folded; scratch.
    leavers: Vec<Leaver>,
    changed: Changed,
    clock: Clock,
    oldest_readable: Option<Revision>,
}

/// Machines whose room or state changed.
#[derive(Clone, Debug, Default)]
enum Changed {
    /// Any of them, or the whole cell.
    #[default]
    All,
    /// Those in these slots, some perhaps twice.
    Slots(Vec<u32>),
}

/// Log time at a moment of this process's own clock.
#[derive(Clone, Copy, Debug, Default)]
struct Clock {
    log_micros: i64,
    local_micros: i64,
}

impl Mirror {
    /// The picture, where there is one.
    pub(crate) const fn cell(&self) -> Option<&Cell> {
        self.cell.as_ref()
    }

    /// Its revision; 0 when there is none.
    pub(crate) fn revision(&self) -> Revision {
        self.cell.as_ref().map_or_else(Revision::default, Cell::revision)
    }

    /// What namespaces use of their quotas.
    pub(crate) const fn quota_use(&self) -> &QuotaUse {
        &self.quota_use
    }

    /// Forgets everything but what time it is: [`Mirror::estimate_anew`] does that.
    pub(crate) fn forget(&mut self) {
        self.cell = None;
        self.quota_use = QuotaUse::default();
        self.changed = Changed::All;
        self.oldest_readable = None;
    }

    /// Starts anew from a snapshot.
    pub(crate) fn replace(&mut self, cell: Cell, now_micros: i64) {
        self.heard(cell.time(), now_micros);
        self.quota_use = QuotaUse::recount(&cell);
        self.cell = Some(cell);
        self.changed = Changed::All;
    }

    /// Folds a delta in. Gives whether log time leapt with it.
    ///
    /// # Errors
    /// When it does not fit. The mirror is then forgotten: half a delta is no picture.
    pub(crate) fn fold(&mut self, delta: &Delta, now_micros: i64) -> Result<bool, FoldError> {
        let Some(cell) = &mut self.cell else {
            return Err(FoldError::Revision { expected: Revision::default(), found: delta.revision });
        };
        if let Changed::Slots(slots) = &mut self.changed {
            slots.extend(delta.machines.iter().map(|machine| machine.id.slot));
            slots.extend(delta.grants.iter().flat_map(|grants| grants.machines.iter().copied()));
            // An ended allocation's row is cleared by the fold, so its machine is looked up before.
            let ended = delta.ends.iter().filter_map(|end| cell.allocation_in(end.slot));
            slots.extend(ended.map(|allocation| allocation.row.machine));
            // Holds take room from others and give it back; where one is as it was nothing changed.
            let holds = delta.holds.iter().flat_map(|(job, hold)| Hold::differences(cell.hold(*job), hold.as_ref()));
            slots.extend(holds.map(|(machine, ..)| machine));
            slots.extend(delta.unknown.iter().map(|(id, _)| id.machine));
            bound(slots, cell.machine_rows().len());
        }
        if self.quota_use.any() {
            self.leavers.clear();
            collect_leavers(delta, cell, &mut self.leavers);
            self.quota_use.before(delta, &self.leavers, cell);
        }
        if let Err(error) = cell.apply(&planted::folded(delta, Bug::MirrorsAnother)) {
            self.forget();
            return Err(error);
        }
        self.quota_use.after(delta, cell);
        Ok(self.heard(delta.time, now_micros))
    }

    /// A connection begins, to a server that was started since, with another clock maybe: the time of the last delta is all that is sure. With the
    /// same server as before it is better known than that: in a quiet cell the last delta may be an hour old, and heartbeats of an earlier version
    /// of the server tell its time alone.
    pub(crate) fn estimate_anew(&mut self, now_micros: i64) {
        let log_micros = self.cell.as_ref().map_or(0, |cell| cell.time().micros);
        self.clock = Clock { log_micros, local_micros: now_micros };
    }

    /// The server said what time it is in the log. Gives whether that is far later than was thought, as it is once a server of the same clock was
    /// heard again: what was reckoned by the time before is to be reckoned anew.
    pub(crate) fn heard(&mut self, time: LogTime, now_micros: i64) -> bool {
        let thought_micros = self.log_time(now_micros).micros;
        // Told once more it is no later: a heartbeat tells the time of the last delta, too.
        if time.micros > thought_micros {
            self.clock = Clock { log_micros: time.micros, local_micros: now_micros };
        }
        time.micros.saturating_sub(thought_micros) > LEAP_MICROS
    }

    /// The server said what time it is in the log now, whatever was logged last; 0 is said by one that doesn't tell. Of use where this side's clock
    /// stood still, or counts from an old delta. Gives what [`Mirror::heard`] does.
    pub(crate) fn heard_now(&mut self, log_micros: i64, now_micros: i64) -> bool {
        let ahead_micros = if planted::is(Bug::HearsTheFuture) && log_micros > 0 { 20_000_000 } else { 0 };
        self.heard(LogTime::from_micros(log_micros.saturating_sub(BATCH_MICROS) + ahead_micros), now_micros)
    }

    /// The server said what the oldest revision is that can be read; 0 is said by one that doesn't tell.
    pub(crate) fn heard_of_oldest(&mut self, revision: u64) {
        self.oldest_readable = Some(Revision(revision)).filter(|revision| revision.0 > 0).or(self.oldest_readable);
    }

    /// The oldest revision that can be read, as far as the server has said.
    pub(crate) const fn oldest_readable(&self) -> Option<Revision> {
        self.oldest_readable
    }

    /// Log time now. Behind the cell's own by the time that messages take and a little more, and so hardly ever ahead of it, as long
    /// as both clocks run equally fast.
    pub(crate) fn log_time(&self, now_micros: i64) -> LogTime {
        let since = now_micros.saturating_sub(self.clock.local_micros).saturating_sub(LAG_MICROS).max(0);
        let base = LogTime::from_micros(self.clock.log_micros);
        if base.micros == 0 { base } else { base.plus_micros(since) }
    }

    /// Slots of machines that changed since `looked`, `None` for any.
    pub(crate) fn changed(&self) -> Option<&[u32]> {
        match &self.changed {
            Changed::All => None,
            Changed::Slots(slots) => Some(slots),
        }
    }

    /// Somebody has seen all changes.
    pub(crate) fn looked(&mut self) {
        if let Changed::Slots(slots) = &mut self.changed {
            slots.clear();
        } else {
            self.changed = Changed::Slots(Vec::new());
        }
    }
}

/// Keeps a list of slots within twice the machines there are, whoever never looks.
fn bound(slots: &mut Vec<u32>, machines: u32) {
    if slots.len() > 1024 + 2 * machines as usize {
        slots.sort_unstable();
        slots.dedup();
    }
}

#[cfg(test)]
mod tests {
    use plenum_model::{JobId, Resources};

    use super::*;

    #[test]
    fn machines_change_when_room_is_held_on_them_and_when_it_is_given_back() {
        let mut mirror = Mirror::default();
        mirror.replace(Cell::default(), 0);
        let job = JobId { slot: 0, generation: 1 };
        let hold = |machines: &[u32]| Hold {
            machines: machines.to_vec(),
            resources: Resources::new(1000, 0),
            deadline: LogTime::default(),
            first_wait: Revision(1),
        };
        let mut fold = |revision, hold: Option<Hold>| {
            mirror.looked();
            let mut delta = Delta::new(Revision(revision), LogTime::from_micros(1));
            delta.holds.push((job, hold));
            mirror.fold(&delta, 0).unwrap();
            let mut changed = mirror.changed().unwrap().to_vec();
            changed.sort_unstable();
            changed
        };
        assert_eq!(fold(1, Some(hold(&[2, 5]))), [2, 5]);
        assert_eq!(fold(2, Some(hold(&[5, 7]))), [2, 7], "on one machine it is as it was");
        assert_eq!(fold(3, None), [5, 7]);
    }

    #[test]
    fn a_connection_begins_with_the_time_of_the_last_delta() {
        let mut mirror = Mirror::default();
        mirror.replace(Cell::default(), 0);
        mirror.fold(&Delta::new(Revision(1), LogTime::from_micros(1_000)), 0).unwrap();
        let later = LAG_MICROS + 500;
        assert_eq!(mirror.log_time(later).micros, 1_500);
        mirror.estimate_anew(later);
        assert_eq!(mirror.log_time(later + LAG_MICROS + 100).micros, 1_100);
    }

    /// In a quiet cell the snapshot is as old as the last delta, and backoffs ended later by as much.
    #[test]
    fn a_mirror_that_is_fetched_anew_still_tells_what_time_it_is() {
        let mut mirror = Mirror::default();
        mirror.replace(Cell::default(), 0);
        mirror.fold(&Delta::new(Revision(1), LogTime::from_micros(1_000)), 0).unwrap();
        let snapshot = mirror.cell().unwrap().clone();
        let later = LAG_MICROS + 500;
        mirror.forget();
        mirror.replace(snapshot, later);
        assert_eq!(mirror.log_time(later).micros, 1_500);
    }

    /// Whoever heard the same time again within the lag began to count anew each time.
    #[test]
    fn a_time_that_is_told_again_holds_nothing_up() {
        let mut mirror = Mirror::default();
        mirror.replace(Cell::default(), 0);
        mirror.fold(&Delta::new(Revision(1), LogTime::from_micros(1_000)), 0).unwrap();
        for now_micros in 0..LAG_MICROS + 500 {
            mirror.heard(LogTime::from_micros(1_000), now_micros);
        }
        assert_eq!(mirror.log_time(LAG_MICROS + 500).micros, 1_500);
    }

    /// While its machine slept a scheduler's clock stood still, and backoffs lasted longer by as much until something was logged.
    #[test]
    fn a_mirror_whose_clock_stood_still_hears_what_time_it_is() {
        const HOUR: i64 = 3_600_000_000;
        let mut mirror = Mirror::default();
        mirror.replace(Cell::default(), 0);
        mirror.fold(&Delta::new(Revision(1), LogTime::from_micros(1_000)), 0).unwrap();
        let later = LAG_MICROS + 500;
        assert!(!mirror.heard_now(0, later), "a server that does not tell");
        assert!(!mirror.heard_now(1_500 + BATCH_MICROS, later), "as was thought, for all that claims are judged by");
        assert_eq!(mirror.log_time(later).micros, 1_500);
        assert!(mirror.heard_now(HOUR, later));
        assert_eq!(mirror.log_time(later).micros, HOUR - BATCH_MICROS);
        assert_eq!(mirror.log_time(later + LAG_MICROS + 100).micros, HOUR - BATCH_MICROS + 100);
    }

    #[test]
    fn log_time_leaps_where_it_was_thought_to_be_far_behind() {
        let mut mirror = Mirror::default();
        mirror.replace(Cell::default(), 0);
        let second = |second: i64| second * 1_000_000;
        mirror.fold(&Delta::new(Revision(1), LogTime::from_micros(second(1))), 0).unwrap();
        let mut heard = |log_micros, now_micros| mirror.heard(LogTime::from_micros(log_micros), now_micros);
        assert!(!heard(second(2), second(1)), "just as was thought");
        assert!(!heard(second(3) - LAG_MICROS, second(2)), "a message that took longer");
        mirror.estimate_anew(second(3));
        let mut heard = |log_micros, now_micros| mirror.heard(LogTime::from_micros(log_micros), now_micros);
        assert!(heard(second(5), second(4)), "thought to be a second after the last delta");
        assert!(!heard(second(6), second(5)));
    }
}
