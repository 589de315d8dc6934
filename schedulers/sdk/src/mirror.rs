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

/// Log time that is thought to be so far ahead of what all heartbeats of a while told is given up. Otherwise whoever is ahead would stay so, as after
/// the server's machine was halted for a minute. It is given up wrongly only where every heartbeat is that late.
const AHEAD_MICROS: i64 = 1_000_000;

/// That while is a whole span and what has begun of the next one. A span ends only after so many heartbeats that were read so far apart: those that
/// waited in a buffer while this process stood still are read at once, and all but the last few are late.
const SPAN_MICROS: i64 = 30_000_000;
const SPAN_BEATS: u32 = 10;
const APART_MICROS: i64 = 500_000;

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
    /// Of the same server as the clock.
    told: Told,
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

/// How far log time is ahead of this process's clock, as heartbeats tell it. What a heartbeat is late makes that less: so of several the greatest is that of the one which was on
/// its way for the shortest time.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// When the span began that is not over.
    since_micros: i64,
    /// Its heartbeats that were read apart, and when the last one of these was.
    beats: u32,
    apart_micros: i64,
    /// The greatest that any of it told.
    most_micros: i64,
    /// The greatest of the span before.
    before_micros: Option<i64>,
}

impl Told {
    /// A heartbeat told log time. Gives what it is now by the one that came soonest, once there were enough of them.
    fn hear(&mut self, log_micros: i64, now_micros: i64) -> Option<i64> {
        let is_over = now_micros.saturating_sub(self.since_micros) >= SPAN_MICROS && self.beats >= SPAN_BEATS;
        if is_over {
            self.before_micros = Some(self.most_micros);
        }
        let told_micros = log_micros.saturating_sub(now_micros);
        if is_over || self.beats == 0 {
            (self.since_micros, self.beats, self.most_micros) = (now_micros, 0, told_micros);
        }
        if self.beats == 0 || now_micros.saturating_sub(self.apart_micros) >= APART_MICROS {
            (self.beats, self.apart_micros) = (self.beats.saturating_add(1), now_micros);
        }
        self.most_micros = self.most_micros.max(told_micros);
        let most_micros = self.before_micros?.max(self.most_micros);
        Some(now_micros.saturating_add(most_micros))
    }
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
        self.told = Told::default();
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
    /// stood still, or counts from an old delta; and where the server's did, which is found out within a minute, with a heartbeat a second. Gives what [`Mirror::heard`] does.
    pub(crate) fn heard_now(&mut self, log_micros: i64, now_micros: i64) -> bool {
        let ahead_micros = if planted::is(Bug::HearsTheFuture) && log_micros > 0 { 20_000_000 } else { 0 };
        let told_micros = log_micros.saturating_sub(BATCH_MICROS) + ahead_micros;
        if log_micros != 0
            && let Some(soonest_micros) = self.told.hear(told_micros, now_micros)
        {
            self.give_up_beyond(soonest_micros, now_micros);
        }
        self.heard(LogTime::from_micros(told_micros), now_micros)
    }

    /// By all heartbeats of the last while it is no later in the log. Nor is it earlier than the last delta.
    fn give_up_beyond(&mut self, log_micros: i64, now_micros: i64) {
        let log_micros = self.cell.as_ref().map_or(log_micros, |cell| log_micros.max(cell.time().micros));
        if self.log_time(now_micros).micros.saturating_sub(log_micros) > AHEAD_MICROS {
            self.clock = Clock { log_micros, local_micros: now_micros };
        }
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
    /// as both clocks run equally fast. Where they do not, it goes back once it is ahead by a second and more ([`Mirror::heard_now`]).
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

    const SECOND: i64 = 1_000_000;
    /// Log time at 0 of the process's clock.
    const BEGIN: i64 = 3_600 * SECOND;

    // It was only ever raised: with a server whose machine had been halted for ten minutes, all that was reckoned by it was over too soon until either was
    // started again.
    #[test]
    fn log_time_that_every_heartbeat_of_a_minute_contradicts_is_given_up() {
        let mut mirror = Mirror::default();
        mirror.replace(Cell::default(), 0);
        mirror.heard_now(BEGIN + 600 * SECOND, 0);
        for second in 1..60 {
            assert!(!mirror.heard_now(BEGIN + second * SECOND, second * SECOND));
            let thought = mirror.log_time(second * SECOND).micros;
            assert!(thought > BEGIN + (599 + second) * SECOND, "second {second}: {thought}");
        }
        assert!(!mirror.heard_now(BEGIN + 60 * SECOND, 60 * SECOND));
        assert_eq!(mirror.log_time(60 * SECOND).micros, BEGIN + 60 * SECOND - BATCH_MICROS);
    }

    #[test]
    fn heartbeats_that_come_late_do_not_set_log_time_back() {
        let mut mirror = Mirror::default();
        mirror.replace(Cell::default(), 0);
        let mut hear = |made_micros: i64, now_micros: i64| {
            mirror.heard_now(BEGIN + made_micros, now_micros);
            let behind = BEGIN + now_micros - mirror.log_time(now_micros).micros;
            assert!((0..2 * BATCH_MICROS).contains(&behind), "at {now_micros} µs it is {behind} µs behind");
        };
        for second in 0..300 {
            // But for one in ten.
            let late = if second % 10 == 0 { 0 } else { 20 };
            hear((second - late) * SECOND, second * SECOND);
        }
        // It stood still, and finds what waited for it.
        (300..=400).for_each(|second| hear(second * SECOND, 400 * SECOND + second));
        // And again as soon as it has read one of them.
        hear(401 * SECOND, 500 * SECOND);
        (402..=600).for_each(|second| hear(second * SECOND, 600 * SECOND + second));
    }

    #[test]
    fn log_time_does_not_go_back_beyond_the_last_delta() {
        let mut mirror = Mirror::default();
        mirror.replace(Cell::default(), 0);
        let logged = BEGIN + 600 * SECOND;
        mirror.fold(&Delta::new(Revision(1), LogTime::from_micros(logged)), 0).unwrap();
        for second in 0..100 {
            mirror.heard_now(BEGIN + second * SECOND, second * SECOND);
        }
        let thought = mirror.log_time(99 * SECOND).micros;
        assert!((logged..=logged + 2 * SECOND).contains(&thought), "{thought}");
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
