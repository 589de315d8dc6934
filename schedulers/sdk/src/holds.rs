//! Room that is set aside for jobs that starve: for which of them a runtime asks the cell to hold some, how much and where, and when it gives that back.
//!
//! It goes by the mirror, and remembers only what the cell does not tell: what it has asked for, and since when a hold has not grown. So a process that
//! takes over from another one finds its holds in the mirror, and goes on with them. It knows nothing of connections, and decides nothing about claims.

mod aim;
mod contenders;
mod held;
mod need;
mod rests;
mod urgent;
mod vain;
mod wish;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use plenum_model::{Cell, JobId, LogTime, Revision, any_waits, counted};

use crate::in_flight::InFlight;
use crate::queue::Turn;
use crate::settings::Holding;
use aim::{Rooms, fits};
use held::{Aimed, Asked, Held, Scene};
use rests::{Newcomers, Pause};
use urgent::Evictable;

pub(crate) use contenders::{Contenders, Strangers};
pub(crate) use wish::Wish;

/// So many jobs of each kind are looked at, at least: the first of the queue that do not rest. More than may hold room at once, as one that finds nothing to hold keeps
/// none of those behind it from that.
const CANDIDATES_MIN: usize = 16;

/// So often it is looked at whether what rests could start by now: a walk over all allocations, and over all machines one for each group that room is looked for, and one more for its job. Once these
/// groups are so many, as of two jobs with eight each, no further job is looked at; one of which no room is looked for counts as a group.
const REST_LOOK_MICROS: i64 = 10_000_000;
const REST_LOOKS_MAX: usize = 16;

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
    /// Its scheduler evicts what is of lower bands, and may.
    pub(crate) evicts: bool,
    /// The cell executes nothing of this scheduler but what gives back.
    pub(crate) is_paused: bool,
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
    /// Jobs for which others took holds, as operators do.
    others: BTreeSet<JobId>,
    /// Of the last request; never used twice, so that an answer that comes late is nobody else's.
    number: u64,
    /// When it may be looked again at what evictions could free, for all jobs together.
    victims_due_micros: i64,
    /// When it is looked again at who rests.
    rests_due_micros: i64,
    /// After holds that brought nothing: a few, as each takes the place of a holder for as long as it was kept.
    pauses: Vec<Pause>,
}

impl Holds {
    /// Nothing of what is remembered is of the jobs that there are from now on, whatever their numbers.
    pub(crate) fn begin_anew(&mut self) {
        *self = Self { number: self.number, ..Self::default() };
    }

    /// A pass over the queue begins.
    pub(crate) fn begin_pass(&mut self, is_own: impl Fn(JobId) -> bool) {
        self.before = std::mem::take(&mut self.candidates);
        self.before.retain(|turn, _| is_own(turn.job));
    }

    /// A job may need a hold. Of each kind the first of the queue are remembered that do not rest; gives when one that rests may be told again.
    pub(crate) fn consider(&mut self, turn: Turn, why: Why, (holding, now_micros): (&Holding, i64)) -> Option<i64> {
        let held = self.jobs.get(&turn.job).filter(|held| held.asked.is_none());
        let rests = held.map(|held| held.rests_until_micros).filter(|until| now_micros < *until);
        if rests.is_some() {
            return rests;
        }
        self.candidates.insert(turn, why);
        let alike = |candidate: &(&Turn, &Why)| *candidate.1 == why;
        if self.candidates.iter().filter(alike).count() > holding.jobs_max.max(CANDIDATES_MIN) {
            let last = self.candidates.iter().rfind(alike).map(|(turn, _)| *turn);
            if let Some(last) = last {
                self.candidates.remove(&last);
            }
        }
        None
    }

    /// The mirror shows these holds. What is held for longer than this process would ask for, somebody else took on purpose: it is left alone until it ends.
    pub(crate) fn see_others(&mut self, cell: &Cell, longest: LogTime) {
        self.others.retain(|job| cell.hold(*job).is_some());
        self.others.extend(cell.holds().filter(|(_, hold)| hold.deadline > longest).map(|(job, _)| job));
    }

    /// Whether somebody else took the hold of a job.
    pub(crate) fn is_others(&self, job: JobId) -> bool {
        self.others.contains(&job)
    }

    /// Nothing is held, asked for or to be held.
    pub(crate) fn is_idle(&self) -> bool {
        self.candidates.is_empty() && self.before.is_empty() && self.jobs.is_empty()
    }

    /// The last of the queue for which room is held, or may be. `own`: jobs that this session looks after and that have a hold.
    pub(crate) fn last(&self, own: &[Turn]) -> Option<Turn> {
        self.candidates.keys().chain(self.before.keys()).chain(own).max().copied()
    }

    /// What is to be asked for now, each with the number of the request. `own`: jobs of the queue that this session looks after and that have a hold. Gives also when
    /// to look again.
    pub(crate) fn look(&mut self, sight: &Sight<'_>, own: &[Turn]) -> (Vec<(u64, Wish)>, Option<i64>) {
        let mut turns: BTreeMap<Turn, Option<Why>> = own.iter().map(|turn| (*turn, None)).collect();
        for (turn, why) in self.candidates.iter().chain(&self.before).filter(|(turn, _)| !self.is_others(turn.job)) {
            turns.entry(*turn).or_insert(Some(*why));
        }
        self.forget_all_but(sight, &turns.keys().map(|turn| turn.job).collect());
        self.jobs.values_mut().for_each(|held| held.note(sight.changed, sight.now_micros));
        let victims = Evictable::of(sight, self.victims_due_micros);
        self.pauses.retain(|pause| pause.until_micros > sight.now_micros);
        let since = self.jobs.values().filter_map(Held::since).chain(self.pauses.iter().map(|pause| pause.since)).min();
        let newcomers = Newcomers::since(sight.cell, since.unwrap_or_else(|| sight.cell.revision()));
        // Who comes first in the queue asks, and only once it has got something the last one gives back what it holds: the cell may refuse the first one for ever,
        // as where its quota is too small.
        let (mut holders, mut taken) = (0, 0);
        let (mut wishes, mut wake) = (Vec::<(u64, Wish)>::new(), self.end_rests(sight, &newcomers));
        let (mut promised, mut asked) = (Cow::Borrowed(sight.in_flight.promised()), sight.in_flight.asked_to_hold());
        for (turn, why) in turns {
            let Some(job) = sight.cell.job(turn.job) else { continue };
            let held = self.jobs.entry(turn.job).or_default();
            let rooms = Rooms { cell: sight.cell, job: job.id, promised: &promised, asked: &asked };
            let is_holder = sight.cell.hold(job.id).is_some();
            let has_place = sight.holding.jobs_max > if is_holder { holders } else { taken };
            let rested_until = held.rests_until_micros;
            let wish = held.look(
                Scene { sight, victims: &victims, newcomers: &newcomers, pauses: &self.pauses },
                &rooms,
                job,
                (why, has_place),
            );
            // Who rests from now on makes place for others of the queue.
            let makes_place = (held.rests_until_micros > rested_until).then_some(sight.now_micros);
            self.pauses.extend(makes_place.and_then(|_| held.pause(sight, job)));
            wake = wake.into_iter().chain(makes_place).min();
            wake = wake.into_iter().chain(held.next_micros(sight, sight.cell.hold(job.id))).min();
            holders += usize::from(is_holder);
            if let Some(wish) = wish {
                self.number += 1;
                held.asked = Some(Asked { number: self.number, machines: wish.machines.clone(), decided: None });
                // What the first in the queue asks for is not there for those behind it.
                for (slot, more) in &wish.more {
                    for sum in [promised.to_mut(), &mut asked] {
                        let of_slot = sum.entry(*slot).or_default();
                        *of_slot = of_slot.with(more);
                    }
                }
                wishes.push((self.number, wish));
            }
            taken += usize::from(is_holder || held.asked.is_some());
        }
        if victims.were_looked_at() {
            self.victims_due_micros = sight.now_micros.saturating_add(held::LOOK_MICROS);
        }
        let again = victims.are_put_off().then_some(self.victims_due_micros);
        (wishes, wake.into_iter().chain(again).min())
    }

    /// Ends rests whose reason is gone; of very many, those who waited longest for such a look come first, and at least one is looked at. Gives when to look again, which is at once for who rests no more.
    fn end_rests(&mut self, sight: &Sight<'_>, newcomers: &Newcomers<'_>) -> Option<i64> {
        let looked = |held: &Held| held.rest_looked_micros(sight.now_micros);
        let resting = self.jobs.iter_mut().filter_map(|(job, held)| Some((looked(held)?, *job, held)));
        let mut resting: Vec<(i64, JobId, &mut Held)> = resting.collect();
        if sight.now_micros < self.rests_due_micros {
            return (!resting.is_empty()).then_some(self.rests_due_micros);
        }
        resting.sort_unstable_by_key(|(looked_micros, job, _)| (*looked_micros, *job));
        let (mut next, mut looks) = (None, 0);
        for (_, job, held) in resting {
            if looks >= REST_LOOKS_MAX {
                break;
            }
            let found = sight.cell.job(job).map(|job| held.ends_rest((sight, newcomers), job));
            let (ends, groups) = found.unwrap_or_default();
            looks += groups.max(1);
            self.rests_due_micros = sight.now_micros.saturating_add(REST_LOOK_MICROS);
            let due_micros = if ends { sight.now_micros } else { self.rests_due_micros };
            next = next.into_iter().chain([due_micros]).min();
        }
        next
    }

    /// What is remembered of jobs that are not looked at now goes, unless it rests, or has an answer to come: it would begin anew otherwise.
    fn forget_all_but(&mut self, sight: &Sight<'_>, seen: &BTreeSet<JobId>) {
        let waits = |job: JobId| sight.cell.job(job).is_some_and(|job| any_waits(sight.cell, job));
        self.jobs.retain(|job, held| {
            let is_remembered = || sight.now_micros < held.remembered_until_micros(sight.holding) && waits(*job);
            seen.contains(job) || held.asked.is_some() || is_remembered()
        });
    }

    /// Whose request that was; `None` of one that nobody waits for any more.
    pub(crate) fn whose(&self, number: u64) -> Option<JobId> {
        let is_it = |held: &Held| held.asked.as_ref().is_some_and(|asked| asked.number == number);
        self.jobs.iter().find(|(_, held)| is_it(held)).map(|(job, _)| *job)
    }

    /// Something of a job was granted: room may be left to it once more.
    pub(crate) fn granted(&mut self, job: JobId) {
        self.jobs.values_mut().for_each(|held| held.left.granted(job));
        self.jobs.get_mut(&job).into_iter().for_each(Held::granted);
    }

    /// A job is another one than before: what was found out about it says nothing of it.
    pub(crate) fn changed(&mut self, job: JobId) {
        self.jobs.get_mut(&job).into_iter().for_each(Held::begin_anew);
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
        // What was given back for good reason is not asked for any sooner where nobody knows whether it was.
        held.rests_until_micros = held.rests_until_micros.max(rests(held.refused));
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

    /// What a job that holds room, or did so in vain, waits with, for people: empty of all others.
    pub(crate) fn words(&self, cell: &Cell, job: JobId) -> String {
        if let Some(hold) = cell.hold(job).filter(|_| self.is_others(job)) {
            let (machines, until) = (hold.machines.len() as u64, hold.deadline.whole_second());
            let machines = counted(machines, "machine");
            return format!("somebody holds {machines} for it until {until}, and nothing else is asked for before; ");
        }
        let Some(held) = self.jobs.get(&job) else { return String::new() };
        let Some(hold) = cell.hold(job) else {
            // A rest that is over may not have been looked at since.
            let rest = held.rests_after().filter(|(_, until)| *until > cell.time());
            return rest.map_or_else(String::new, |(after, until)| rest_in_words(cell, job, after, until));
        };
        let Some(Aimed { aim, .. }) = &held.aimed else { return String::new() };
        if fits(&aim.each, &hold.resources) == 0 {
            return "holds a part of a machine; ".to_owned();
        }
        let machines = u64::try_from(aim.machines).unwrap_or(u64::MAX);
        if held.is_whole(hold) {
            return format!(
                "holds all room that it takes, on {}, and lacks something else; ",
                counted(machines, "machine")
            );
        }
        format!("holds {} of the {} that it takes; ", hold.machines.len(), counted(machines, "machine"))
    }
}

/// Why no room is held for a job that rests after a hold, its own or that of another one.
fn rest_in_words(cell: &Cell, job: JobId, after: JobId, until: LogTime) -> String {
    if after == job {
        return format!("after a hold that brought nothing the next one is asked for by {until}; ");
    }
    let whose = cell.job(after).map_or_else(|| "another job".to_owned(), |after| after.shape.name.to_string());
    format!("no room is held for it before {until}, after a hold of {whose} that brought nothing; ")
}

#[cfg(test)]
mod tests {
    use super::aim::Aim;
    use super::need::Need;
    use super::*;

    // A gang that grew by a machine had all ten thousand looked at once more, as what changed while it asked was not known.
    #[test]
    fn all_machines_are_looked_at_once_a_second_and_in_between_those_that_changed() {
        let need = Need { version: 1, group: 0, count: 2, is_gang: true };
        let mut held = Held::default();
        held.aimed = Some(Aimed { need, aim: Aim::default(), walked_micros: 5_000_000, walked: Revision(0) });
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
