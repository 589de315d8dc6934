//! Room that is set aside for jobs that starve: for which of them a runtime asks the cell to hold some, how much and where, and when it gives that back.
//!
//! It goes by the mirror, and remembers only what the cell does not tell: what it has asked for, and since when a hold has not grown. So a process that
//! takes over from another one finds its holds in the mirror, and goes on with them. It knows nothing of connections, and decides nothing about claims.

mod aim;
mod contenders;
mod wish;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::{
    Cell, Hold, Job, JobId, LogTime, MachineState, Resources, Revision, TaskState, any_waits, counted, wanted,
};

use crate::in_flight::InFlight;
use crate::queue::Turn;
use crate::settings::Holding;
use aim::{Aim, Rooms, fits};
use contenders::{Left, Search};
use wish::{given_back, larger, wish};

pub(crate) use contenders::Contenders;
pub(crate) use wish::Wish;

/// Most tasks of a group without a minimum for which room is held at once: a hold ends with the first grant, and the others ask again.
const TASKS_MAX: u32 = 64;

/// So often at most all machines are looked at for a job; in between those alone whose room changed. So often the walk over ten thousand machines, for each of
/// the few jobs that starve, is some thousandths of the time that there is.
const LOOK_MICROS: i64 = 1_000_000;

/// How a job comes to be held room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Why {
    /// Holds of lower bands may have the room that it needs.
    Urgent,
    /// It lost often, or has waited for long.
    Starves,
}

/// What is seen of the cell when holds are looked after.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sight<'a> {
    pub(crate) cell: &'a Cell,
    pub(crate) holding: &'a Holding,
    /// Machines that changed since the last look; `None` for any.
    pub(crate) changed: Option<&'a [u32]>,
    pub(crate) in_flight: &'a InFlight,
    pub(crate) contenders: &'a Contenders,
    pub(crate) log_time: LogTime,
    pub(crate) now_micros: i64,
    /// The cell executes nothing of this scheduler but what gives back.
    pub(crate) is_paused: bool,
}

/// What waits of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Need {
    version: u32,
    group: u16,
    /// So many tasks are to be placed.
    count: u32,
    /// All of them at once.
    is_gang: bool,
}

/// What was last found out about a need.
#[derive(Clone, Debug)]
struct Aimed {
    need: Need,
    aim: Aim,
    /// When all machines were looked at.
    walked_micros: i64,
}

/// A request that is not answered, or whose effect the mirror does not show yet.
#[derive(Clone, Debug)]
struct Asked {
    number: u64,
    /// None: it gives room back.
    machines: Vec<u32>,
    /// The revision at which it was decided.
    decided: Option<Revision>,
}

/// A hold, as long as the mirror shows it.
#[derive(Clone, Copy, Debug)]
struct Kept {
    deadline: LogTime,
    /// When half of the time until then is over.
    renew: LogTime,
    /// For how many tasks it was at most, and how much on each machine.
    worth: (u64, Resources),
    grew_micros: i64,
}

/// What is remembered of a job.
#[derive(Clone, Debug, Default)]
struct Held {
    aimed: Option<Aimed>,
    /// Machines that changed since they were last looked at for it, unless all are looked at next.
    unseen: BTreeSet<u32>,
    /// To whom room was left that it could have.
    left: Left,
    asked: Option<Asked>,
    kept: Option<Kept>,
    /// Requests that were refused in a row.
    refused: u32,
    /// Nothing is asked for it before.
    rests_until_micros: i64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    /// Jobs of this pass for which room may be held, in the order of the queue: the first few of each kind.
    candidates: BTreeMap<Turn, Why>,
    /// Those of the pass before. A pass over a long queue takes several decisions, and what comes free goes to the first of them, which may not have come to
    /// the gang that waits for it.
    before: BTreeMap<Turn, Why>,
    jobs: BTreeMap<JobId, Held>,
    /// Of the last request; never used twice, so that an answer that comes late is nobody else's.
    number: u64,
}

impl Holds {
    /// A pass over the queue begins.
    pub(crate) fn begin_pass(&mut self, is_own: impl Fn(JobId) -> bool) {
        self.before = std::mem::take(&mut self.candidates);
        self.before.retain(|turn, _| is_own(turn.job));
    }

    /// A job may need a hold. Only the first few of the queue are remembered.
    pub(crate) fn consider(&mut self, turn: Turn, why: Why, holding: &Holding) {
        self.candidates.insert(turn, why);
        let alike = |candidate: &(&Turn, &Why)| *candidate.1 == why;
        if self.candidates.iter().filter(alike).count() > holding.jobs_max {
            let last = self.candidates.iter().rfind(alike).map(|(turn, _)| *turn);
            if let Some(last) = last {
                self.candidates.remove(&last);
            }
        }
    }

    /// Nothing is held, asked for or to be held.
    pub(crate) fn is_idle(&self) -> bool {
        self.candidates.is_empty() && self.before.is_empty() && self.jobs.is_empty()
    }

    /// The last of the queue for which room is held, or may be. `own`: jobs that this session looks after and that have a hold.
    pub(crate) fn last(&self, own: &[Turn]) -> Option<Turn> {
        self.candidates.keys().chain(self.before.keys()).chain(own).max().copied()
    }

    /// What is to be asked for now. `own`: jobs of the queue that this session looks after and that have a hold. Gives also when to look again.
    pub(crate) fn look(&mut self, sight: &Sight<'_>, own: &[Turn]) -> (Vec<Wish>, Option<i64>) {
        let mut turns: BTreeMap<Turn, Option<Why>> = own.iter().map(|turn| (*turn, None)).collect();
        for (turn, why) in self.candidates.iter().chain(&self.before) {
            turns.entry(*turn).or_insert(Some(*why));
        }
        self.jobs.retain(|job, held| {
            let is_seen = turns.keys().any(|turn| turn.job == *job);
            is_seen || held.asked.is_some() || sight.now_micros < held.rests_until_micros
        });
        let is_new = |job: JobId| sight.cell.hold(job).is_none();
        self.jobs.values_mut().for_each(|held| held.note(sight.changed, sight.now_micros));
        let takes = |held: &Held| held.asked.as_ref().is_some_and(|asked| !asked.machines.is_empty());
        let asked = self.jobs.iter().filter(|&(job, held)| is_new(*job) && takes(held)).count();
        let mut free = sight.holding.jobs_max.saturating_sub(own.len() + asked);
        let (mut wishes, mut wake): (Vec<Wish>, Option<i64>) = (Vec::new(), None);
        let mut promised = Cow::Borrowed(sight.in_flight.promised());
        for (turn, why) in turns {
            let Some(job) = sight.cell.job(turn.job) else { continue };
            let held = self.jobs.entry(turn.job).or_default();
            let rooms = Rooms { cell: sight.cell, job: job.id, promised: &promised };
            let mut wish = held.look(sight, &rooms, job, why);
            wake = wake.into_iter().chain(held.next_micros(sight)).min();
            if wish.is_some() && is_new(turn.job) {
                if free == 0 {
                    // The last in the queue makes place for it, and it asks when that has.
                    wish = own.iter().max().filter(|last| **last > turn).map(|last| given_back(last.job));
                } else {
                    free -= 1;
                }
            }
            if let Some(wish) = wish.filter(|wish| self.ask(wish)) {
                // What the first in the queue asks for is not there for those behind it.
                wish.more.iter().for_each(|(slot, more)| {
                    let of_slot = promised.to_mut().entry(*slot).or_default();
                    *of_slot = of_slot.with(more);
                });
                wishes.push(wish);
            }
        }
        (wishes, wake)
    }

    /// A wish becomes a request; false: there is one under way for the job.
    fn ask(&mut self, wish: &Wish) -> bool {
        let held = self.jobs.entry(wish.job).or_default();
        let is_free = held.asked.is_none();
        if is_free {
            self.number += 1;
            held.asked = Some(Asked { number: self.number, machines: wish.machines.clone(), decided: None });
        }
        is_free
    }

    /// The number of the request that a job's wish became.
    pub(crate) fn number_of(&self, job: JobId) -> u64 {
        self.jobs.get(&job).and_then(|held| held.asked.as_ref()).map_or(0, |asked| asked.number)
    }

    /// Whose request that was; `None` of one that nobody waits for any more.
    pub(crate) fn whose(&self, number: u64) -> Option<JobId> {
        let is_it = |held: &Held| held.asked.as_ref().is_some_and(|asked| asked.number == number);
        self.jobs.iter().find(|(_, held)| is_it(held)).map(|(job, _)| *job)
    }

    /// Something of a job was granted: room may be left to it once more.
    pub(crate) fn granted(&mut self, job: JobId) {
        self.jobs.values_mut().for_each(|held| held.left.granted(job));
    }

    /// A request was executed at this revision. Gives whether it gave room back.
    pub(crate) fn executed(&mut self, job: JobId, revision: Revision) -> bool {
        let Some(held) = self.jobs.get_mut(&job) else { return false };
        held.refused = 0;
        let Some(asked) = &mut held.asked else { return false };
        asked.decided = Some(revision);
        asked.machines.is_empty()
    }

    /// A request was refused, or nobody knows what became of it: nothing is asked for the job until `rests` says so, by how often that was in a row.
    pub(crate) fn refused(&mut self, job: JobId, rests: impl FnOnce(u32) -> i64) {
        let Some(held) = self.jobs.get_mut(&job) else { return };
        held.forget_request();
        held.refused = held.refused.saturating_add(1);
        held.rests_until_micros = rests(held.refused);
    }

    /// Jobs whose requests the mirror shows by now; they may ask again.
    pub(crate) fn shown(&mut self, cell: &Cell) -> Vec<JobId> {
        let mut shown = Vec::new();
        for (job, held) in &mut self.jobs {
            let is_shown = |asked: &Asked| asked.decided.is_some_and(|decided| decided <= cell.revision());
            if held.asked.as_ref().is_some_and(is_shown) {
                held.asked = None;
                shown.push(*job);
            }
        }
        shown
    }

    /// Whether any request is not answered, or not shown by the mirror yet.
    pub(crate) fn has_asked(&self) -> bool {
        self.jobs.values().any(|held| held.asked.is_some())
    }

    /// The connection is gone, and with it all answers: the mirror will show what became of them. Gives whose requests had none.
    pub(crate) fn forget_asked(&mut self) -> Vec<JobId> {
        let asked = self.jobs.iter_mut().filter(|(_, held)| held.asked.is_some());
        let forget = |(job, held): (&JobId, &mut Held)| {
            held.forget_request();
            *job
        };
        asked.map(forget).collect()
    }

    /// What a job that holds room waits with, for people: empty of all others.
    pub(crate) fn words(&self, cell: &Cell, job: JobId) -> String {
        let Some(hold) = cell.hold(job) else { return String::new() };
        let Some(Aimed { aim, .. }) = self.jobs.get(&job).and_then(|held| held.aimed.as_ref()) else {
            return String::new();
        };
        if fits(&aim.each, &hold.resources) == 0 {
            return "holds a part of a machine; ".to_owned();
        }
        let machines = u64::try_from(aim.machines).unwrap_or(u64::MAX);
        format!("holds {} of the {} that it takes; ", hold.machines.len(), counted(machines, "machine"))
    }
}

impl Aimed {
    /// Whether all machines were looked at a short while ago.
    const fn is_fresh(&self, now_micros: i64) -> bool {
        now_micros < self.walked_micros.saturating_add(LOOK_MICROS)
    }
}

impl Held {
    /// Nothing came of a request: what was promised to it is free again, and is not among what changes.
    fn forget_request(&mut self) {
        self.unseen.extend(self.asked.take().into_iter().flat_map(|asked| asked.machines));
    }

    /// These machines changed, or any: they are looked at when something may be asked for the job, which is not while a request is under way, or it rests.
    fn note(&mut self, changed: Option<&[u32]>, now_micros: i64) {
        match changed.filter(|_| self.aimed.as_ref().is_some_and(|aimed| aimed.is_fresh(now_micros))) {
            Some(changed) => self.unseen.extend(changed),
            None => {
                self.aimed.iter_mut().for_each(|aimed| aimed.walked_micros = i64::MIN);
                self.unseen.clear();
            }
        }
    }

    /// What is to be asked for a job now. `why` it may have a hold; `None` of one that has one and is no candidate.
    fn look(&mut self, sight: &Sight<'_>, rooms: &Rooms<'_>, job: &Arc<Job>, why: Option<Why>) -> Option<Wish> {
        let hold = sight.cell.hold(job.id);
        self.keep(sight, hold);
        if self.asked.is_some() {
            return None;
        }
        if hold.is_some() && (!any_waits(sight.cell, job) || self.gives_up(sight)) {
            return Some(given_back(job.id));
        }
        if sight.is_paused || sight.now_micros < self.rests_until_micros {
            return None;
        }
        let need = need_of(sight, job);
        let more = match (hold, need) {
            (Some(_), Some(need)) if need.is_gang => self.more(sight, rooms, job, (need, Why::Starves)),
            // A candidate of the pass before may have started since: what it waits with is no gang any more.
            (None, Some(need)) => why
                .filter(|why| need.is_gang || *why == Why::Urgent)
                .and_then(|why| self.more(sight, rooms, job, (need, why))),
            _ => None,
        };
        more.or_else(|| self.renewal(sight, rooms, hold?))
    }

    /// Notes what the mirror shows of the hold.
    fn keep(&mut self, sight: &Sight<'_>, hold: Option<&Hold>) {
        let Some(hold) = hold else {
            self.kept = None;
            return;
        };
        let machines = u64::try_from(hold.machines.len()).unwrap_or(u64::MAX);
        let worth = (machines, hold.resources);
        let halfway_micros = hold.deadline.micros.saturating_sub(sight.log_time.micros).max(0) / 2;
        let renew = sight.log_time.plus_micros(halfway_micros);
        let new = Kept { deadline: hold.deadline, renew, worth, grew_micros: sight.now_micros };
        let kept = self.kept.get_or_insert(new);
        if kept.deadline != hold.deadline {
            (kept.deadline, kept.renew) = (new.deadline, new.renew);
        }
        // Machines that it lost to an earlier one and gets back are no growth: two that take turns would never end.
        let is_more = machines > kept.worth.0 || !hold.resources.fits_in(&kept.worth.1);
        if is_more {
            (kept.worth, kept.grew_micros) = (worth, sight.now_micros);
        }
    }

    /// Whether a hold has brought nothing for so long that others have the room for as long. Its job may ask again then.
    fn gives_up(&mut self, sight: &Sight<'_>) -> bool {
        let patience_micros = sight.holding.patience_micros;
        let is_over = self.grew_micros().is_some_and(|grew| grew.saturating_add(patience_micros) <= sight.now_micros);
        if is_over {
            self.rests_until_micros = sight.now_micros.saturating_add(patience_micros);
        }
        is_over
    }

    /// Since when it has not grown.
    fn grew_micros(&self) -> Option<i64> {
        self.kept.map(|kept| kept.grew_micros)
    }

    /// A larger hold than there is, if the room for one is there.
    fn more(&mut self, sight: &Sight<'_>, rooms: &Rooms<'_>, job: &Arc<Job>, (need, why): (Need, Why)) -> Option<Wish> {
        let is_current = |aimed: &Aimed| aimed.need == need && aimed.is_fresh(sight.now_micros);
        let unseen = std::mem::take(&mut self.unseen);
        let slots: Vec<u32> = if self.aimed.as_ref().is_some_and(is_current) {
            unseen.into_iter().collect()
        } else {
            let shape = &job.shape.groups[usize::from(need.group)];
            let Some(aim) = Aim::of(sight.cell, job, shape, (need.count, need.is_gang)) else {
                // It would not fit if all machines were empty.
                let rest_micros = sight.holding.after_wait_micros.max(LOOK_MICROS);
                self.rests_until_micros = sight.now_micros.saturating_add(rest_micros);
                return None;
            };
            self.aimed = Some(Aimed { need, aim, walked_micros: sight.now_micros });
            (0..sight.cell.machine_rows().len()).collect()
        };
        let aim = &self.aimed.as_ref()?.aim;
        let slots: Vec<u32> = slots.into_iter().filter(|slot| aim.has_some(rooms, *slot)).collect();
        let hold = sight.cell.hold(job.id);
        let (band, before) = (job.shape.priority / 10, std::mem::take(&mut self.left));
        let mut search = Search::new(sight.contenders, rooms, band, before, sight.now_micros);
        let wish = larger(&mut search, aim, hold, &slots, (need, why));
        (self.unseen, self.left) = search.end();
        wish
    }

    /// The same hold for longer, once half of its time is over: on those of its machines that still take claims and have the room.
    fn renewal(&self, sight: &Sight<'_>, rooms: &Rooms<'_>, hold: &Hold) -> Option<Wish> {
        self.kept.filter(|kept| kept.renew <= sight.log_time)?;
        let is_ready = |slot: u32| sight.cell.machine_row(slot).is_some_and(|row| row.state == MachineState::Ready);
        let suits = |slot: u32| self.aimed.as_ref().is_none_or(|aimed| aimed.aim.suits(sight.cell, slot));
        let stays = |slot: &u32| is_ready(*slot) && suits(*slot) && rooms.may_hold(*slot, &hold.resources);
        let machines: Vec<u32> = hold.machines.iter().copied().filter(stays).collect();
        // Without machines it would be given back: its place in the order is kept until it ends.
        (!machines.is_empty()).then(|| wish(rooms.job, Some(hold), machines, hold.resources))
    }

    /// When there is something to do for it by then at the latest, by the process's own clock.
    fn next_micros(&self, sight: &Sight<'_>) -> Option<i64> {
        let now_micros = sight.now_micros;
        let rests = Some(self.rests_until_micros).filter(|rests| *rests > now_micros);
        let patience = self.grew_micros().map(|since| since.saturating_add(sight.holding.patience_micros));
        let until = |time: LogTime| time.micros.saturating_sub(sight.log_time.micros);
        let renewal = self.kept.map(|kept| now_micros.saturating_add(until(kept.renew)));
        // What is asked for by then is answered, or its connection is gone; each is an occasion by itself.
        let due = patience.into_iter().chain(renewal).filter(|due| *due > now_micros);
        rests.into_iter().chain(self.left.over_micros(now_micros)).chain(due).min()
    }
}

/// What of a job room may be held for: the first of its groups that starts with so many at once and has them waiting, or else the first that has any. `None` where
/// nothing may be placed now, or something of the group is on its way.
fn need_of(sight: &Sight<'_>, job: &Job) -> Option<Need> {
    let need = |group: plenum_model::WantedGroup<'_>| {
        let waiting = group.row.tasks_in(TaskState::Waiting);
        let least = job.shape.groups.get(usize::from(group.group))?.least_at_once(group.row);
        let is_gang = least > 0;
        let count = if is_gang { least } else { waiting.min(TASKS_MAX) };
        let is_on_its_way = sight.in_flight.machines_of(job.id, group.group).next().is_some();
        let (version, group) = (job.version, group.group);
        (waiting >= count && !is_on_its_way).then_some(Need { version, group, count, is_gang })
    };
    let needs: Vec<Need> = wanted(sight.cell, job, sight.log_time).filter_map(need).collect();
    needs.iter().find(|need| need.is_gang).or_else(|| needs.first()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    // A gang that grew by a machine had all ten thousand looked at once more, as what changed while it asked was not known.
    #[test]
    fn all_machines_are_looked_at_once_a_second_and_in_between_those_that_changed() {
        let need = Need { version: 1, group: 0, count: 2, is_gang: true };
        let mut held =
            Held { aimed: Some(Aimed { need, aim: Aim::default(), walked_micros: 5_000_000 }), ..Held::default() };
        let walks_all = |held: &Held, now_micros| !held.aimed.as_ref().unwrap().is_fresh(now_micros);
        held.asked = Some(Asked { number: 1, machines: vec![4, 9], decided: Some(Revision(0)) });
        held.note(Some(&[7, 4, 7]), 5_100_000);
        let job = JobId::default();
        let mut holds = Holds { jobs: BTreeMap::from([(job, held)]), ..Holds::default() };
        assert_eq!(holds.shown(&Cell::default()), [job]);
        let held = holds.jobs.get_mut(&job).unwrap();
        assert!(!walks_all(held, 5_900_000), "the mirror shows what became of the request");
        assert_eq!(Vec::from_iter(held.unseen.clone()), [4, 7]);

        held.asked = Some(Asked { number: 2, machines: vec![4, 9], decided: None });
        holds.refused(job, |_| 0);
        let held = holds.jobs.get_mut(&job).unwrap();
        assert_eq!(Vec::from_iter(held.unseen.clone()), [4, 7, 9], "what it asked for may be had");

        held.note(Some(&[1]), 6_000_000);
        assert!(walks_all(held, 6_000_000) && held.unseen.is_empty());
        held.aimed.as_mut().unwrap().walked_micros = 6_000_000;
        held.note(None, 6_100_000);
        assert!(walks_all(held, 6_100_000), "any may have changed");
    }
}
