//! What is remembered of one job that room is held for, or may be, and what is to be asked for it next.

use std::collections::BTreeSet;
use std::sync::Arc;

use plenum_model::{Hold, Job, JobId, LogTime, MachineState, Resources, Revision, any_waits};

use super::aim::{Aim, Rooms};
use super::contenders::{Left, Search};
use super::need::{Need, first_that_fits, needs_of};
use super::rests::{Newcomers, Pause};
use super::urgent::{Evictable, beside_victims, displacing};
use super::vain::Vain;
use super::wish::{Wish, given_back, larger, wish};
use super::{Sight, Why};
use crate::settings::Holding;

/// So often at most all machines are looked at for a job, unless what waits of it changed or something of it was granted; in between those alone whose room changed. So often the walk over ten thousand machines, for each of
/// the few jobs that starve, is some thousandths of the time that there is; where the first groups of all of them fit nowhere it is eight walks each, and some hundredths.
pub(super) const LOOK_MICROS: i64 = 1_000_000;

/// Within so long a pass comes to a job that rests no more.
const PASS_MICROS: i64 = 10_000_000;

/// For so long all that a job takes is held for it: what it lacks besides, as devices and ports, may be about to come free.
const FULL_MICROS: i64 = 30_000_000;

/// So often at most a rest is twice as long as the one before: after a hold that brought nothing, or of what fits nowhere.
const RESTS_DOUBLED_MAX: u32 = 3;

/// A hold that was renewed is left alone for one part in so many of the time for which it is asked, or for half of what it has left if that is shorter: it may last for less than was
/// asked for, as the cell gives so much at most, and a renewal may be seen late, after a connection was gone.
const RENEWAL_PARTS: i64 = 16;

/// But for so long at least, unless that part is shorter: by log time that is ahead it seems to be over as soon as it is renewed.
const AGAIN_MICROS: i64 = 1_000_000;

/// What was last found out about a need.
#[derive(Clone, Debug)]
pub(super) struct Aimed {
    pub(super) need: Need,
    pub(super) aim: Aim,
    /// When all machines were looked at, and what the mirror showed then.
    pub(super) walked_micros: i64,
    pub(super) walked: Revision,
}

/// A request that is not answered, or whose effect the mirror does not show yet.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) number: u64,
    /// None: it gives room back.
    pub(super) machines: Vec<u32>,
    /// The revision at which it was decided.
    pub(super) decided: Option<Revision>,
}

/// A hold, as long as the mirror shows it.
#[derive(Clone, Copy, Debug)]
struct Kept {
    deadline: LogTime,
    /// When half of the time until then is over. Of one that was renewed a 16th of the time for which it is asked before it ends, if that is sooner.
    renew: LogTime,
    /// Not before, by the process's own clock.
    renew_from_micros: i64,
    /// On how many machines it was at most, and how much on each.
    worth: (u64, Resources),
    grew_micros: i64,
    /// What the mirror showed then.
    grew: Revision,
    /// It is on fewer machines than it was: earlier holds took some.
    is_short: bool,
    /// When it came to what it is worth, for the first time or once more.
    complete_micros: i64,
}

/// Why nothing is held for a job for a while.
#[derive(Clone, Copy, Debug)]
struct Rest {
    /// Whose hold brought nothing, its own or that of another one after which it has to wait; and its end by log time, a whole second, for people. `None`: what waits of
    /// it fits nowhere.
    after: Option<(JobId, LogTime)>,
    /// What came first of all that waited of it.
    need: Need,
    /// What its own hold was for, which may be another group; the same where it rests after none.
    of: Need,
    /// What had been granted by then, and was there still when the hold was given back, was in the way. `None`: without that it had not been whole either, or it lacked something else; or it is no gang.
    since: Option<Revision>,
    /// That is heeded from now on.
    ends_from_micros: i64,
    /// When it was last found out whether that is gone.
    looked_micros: i64,
}

/// What all jobs are looked at by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene<'a> {
    pub(super) sight: &'a Sight<'a>,
    pub(super) victims: &'a Evictable<'a>,
    pub(super) newcomers: &'a Newcomers<'a>,
    pub(super) pauses: &'a [Pause],
}

/// What is remembered of a job.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    pub(super) aimed: Option<Aimed>,
    /// Machines that changed since they were last looked at for it, unless all are looked at next.
    pub(super) unseen: BTreeSet<u32>,
    /// To whom room was left that it could have.
    pub(super) left: Left,
    pub(super) asked: Option<Asked>,
    kept: Option<Kept>,
    /// Requests that were refused in a row.
    pub(super) refused: u32,
    /// Nothing is asked for it before.
    pub(super) rests_until_micros: i64,
    /// Why, where that is no refusal.
    rest: Option<Rest>,
    /// Holds that brought nothing, in a row.
    given_up: u32,
    /// Where that was.
    vain: Vain,
    /// The last one was taken as a rest had ended early.
    ended_early: bool,
    /// Pauses since then or before do not keep it back.
    let_in: Revision,
    /// Looks in a row that found no room for it even if all machines were empty.
    fits_nowhere: u32,
}

impl Kept {
    /// Whether it is to be renewed.
    fn is_due(&self, sight: &Sight<'_>) -> bool {
        self.renew <= sight.log_time && self.renew_from_micros <= sight.now_micros
    }
}

impl Aimed {
    /// Whether all machines were looked at a short while ago.
    pub(super) const fn is_fresh(&self, now_micros: i64) -> bool {
        now_micros < self.fresh_until_micros()
    }

    const fn fresh_until_micros(&self) -> i64 {
        self.walked_micros.saturating_add(LOOK_MICROS)
    }
}

impl Held {
    /// Nothing came of a request: what was promised to it is free again, and is not among what changes.
    pub(super) fn forget_request(&mut self) {
        self.unseen.extend(self.asked.take().into_iter().flat_map(|asked| asked.machines));
    }

    /// These machines changed, or any: they are looked at when something may be asked for the job, which is not while a request is under way, or it rests.
    pub(super) fn note(&mut self, changed: Option<&[u32]>, now_micros: i64) {
        match changed.filter(|_| self.aimed.as_ref().is_some_and(|aimed| aimed.is_fresh(now_micros))) {
            Some(changed) => self.unseen.extend(changed),
            None => {
                self.aimed.iter_mut().for_each(|aimed| aimed.walked_micros = i64::MIN);
                self.unseen.clear();
            }
        }
    }

    /// What is to be asked for a job now. `why` it may have a hold; `None` of one that has one and is no candidate. `has_place`: it is one of the first few that may.
    pub(super) fn look(
        &mut self,
        scene: Scene<'_>,
        rooms: &Rooms<'_>,
        job: &Arc<Job>,
        (why, has_place): (Option<Why>, bool),
    ) -> Option<Wish> {
        let sight = scene.sight;
        let hold = sight.cell.hold(job.id);
        self.keep(sight, hold);
        if self.asked.is_some() || sight.now_micros < self.rests_until_micros {
            return None;
        }
        self.rest = None;
        // A grant ends the hold; and what is promised to the job itself would seem to be lost to it.
        if job.group_positions().any(|group| sight.in_flight.machines_of(job.id, group).next().is_some()) {
            return None;
        }
        let gives_up = |held: &mut Self| hold.is_some_and(|hold| held.gives_up(scene, rooms, (job, hold)));
        if hold.is_some() && (!has_place || !any_waits(sight.cell, job) || gives_up(self)) {
            return Some(given_back(job.id));
        }
        if sight.is_paused || !has_place {
            return None;
        }
        let needs = needs_of(sight, job, self.refused);
        let more = match (hold, needs.first().map(|need| need.is_gang)) {
            (Some(_), Some(true)) => self.more(scene, rooms, job, (&needs, Why::Starves)),
            // A candidate of the pass before may have started since: what it waits with is no gang any more.
            (None, Some(is_gang)) => why
                .filter(|why| is_gang || *why == Why::Urgent)
                .and_then(|why| self.more(scene, rooms, job, (&needs, why))),
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
        // One that is seen for the first time may be about to end.
        let is_renewed = self.kept.is_some_and(|kept| kept.deadline < hold.deadline);
        let part_micros = if is_renewed { sight.holding.within_micros / RENEWAL_PARTS } else { 0 };
        let least_micros = part_micros.min(halfway_micros.max(AGAIN_MICROS));
        let last = hold.deadline.plus_micros(-part_micros);
        let new = Kept {
            deadline: hold.deadline,
            // Log time may seem to be past the deadline, and go back: it is due before the hold ends all the same.
            renew: sight.log_time.plus_micros(halfway_micros).min(last),
            renew_from_micros: sight.now_micros.saturating_add(least_micros),
            worth,
            grew_micros: sight.now_micros,
            grew: sight.cell.revision(),
            is_short: false,
            complete_micros: sight.now_micros,
        };
        self.vain.holds();
        let kept = self.kept.get_or_insert(new);
        if kept.deadline != hold.deadline {
            (kept.deadline, kept.renew, kept.renew_from_micros) = (new.deadline, new.renew, new.renew_from_micros);
        }
        // Machines that it lost to an earlier one and gets back are no growth: two that take turns would never end.
        let is_more = machines > kept.worth.0 || !hold.resources.fits_in(&kept.worth.1);
        if is_more {
            let Kept { deadline, renew, renew_from_micros, .. } = *kept;
            *kept = Kept { deadline, renew, renew_from_micros, ..new };
        }
        let was_short = std::mem::replace(&mut kept.is_short, machines < kept.worth.0);
        if was_short && !kept.is_short {
            kept.complete_micros = sight.now_micros;
        }
    }

    /// Whether a hold has brought nothing for so long that others have the room for a while, longer with each time: two that can't start would else keep it idle in
    /// turns. Its job may ask again then.
    fn gives_up(&mut self, scene: Scene<'_>, rooms: &Rooms<'_>, (job, hold): (&Job, &Hold)) -> bool {
        let Scene { sight, newcomers, .. } = scene;
        let is_over = self.patience_ends_micros(sight.holding, hold).is_some_and(|ends| ends <= sight.now_micros);
        if is_over {
            self.note_vain(rooms, hold);
            let rest_micros = sight.holding.patience_micros.saturating_mul(1 << self.given_up);
            // Of tasks that run for longer than a hold is kept some end all the time: each would be a reason to try again.
            let wait_micros = if std::mem::take(&mut self.ended_early) { rest_micros / 2 } else { 0 };
            let (looked_micros, ends_from_micros) = (sight.now_micros, sight.now_micros.saturating_add(wait_micros));
            let until = sight.log_time.plus_micros(rest_micros).whole_second();
            let first = needs_of(sight, job, self.refused).first().copied();
            self.rest = self.kept.zip(self.aimed.as_ref()).map(|(Kept { grew, .. }, Aimed { need, aim, .. })| {
                let is_blocked = || !newcomers.leave_room(rooms, aim, (job.shape.priority / 10, grew));
                let since = (need.is_gang && is_blocked()).then_some(grew);
                let (need, of) = (first.unwrap_or(*need), *need);
                Rest { after: Some((job.id, until)), need, of, since, ends_from_micros, looked_micros }
            });
            self.rests_until_micros = sight.now_micros.saturating_add(rest_micros);
            self.given_up = RESTS_DOUBLED_MAX.min(self.given_up + 1);
            self.aimed = None;
            self.unseen.clear();
        }
        is_over
    }

    /// The next hold is to begin elsewhere, where it is of a single machine: of several each was given as a whole, and others were missing.
    fn note_vain(&mut self, rooms: &Rooms<'_>, hold: &Hold) {
        let was_whole = self.is_whole(hold);
        let aimed = self.aimed.as_ref().filter(|aimed| aimed.aim.machines == 1);
        let (Some(kept), Some(_), &[slot]) = (self.kept, aimed, &hold.machines[..]) else { return };
        if let Some(machine) = rooms.cell.machine_in(slot) {
            self.vain.add(machine.id, was_whole, kept.grew);
        }
    }

    /// The job is another one than before: neither what was found out about it nor its rest says anything of it.
    pub(super) fn begin_anew(&mut self) {
        (self.given_up, self.fits_nowhere, self.refused, self.ended_early) = (0, 0, 0, false);
        (self.rests_until_micros, self.let_in) = (i64::MIN, Revision::default());
        (self.aimed, self.rest, self.vain) = (None, None, Vain::default());
    }

    /// When it was last looked at whether it could start by now; `None` of all but what fitted nowhere, and gangs that rest after a hold that brought nothing.
    pub(super) fn rest_looked_micros(&self, now_micros: i64) -> Option<i64> {
        let rests = now_micros < self.rests_until_micros && self.asked.is_none();
        self.rest.filter(|rest| rests && (rest.of.is_gang || rest.after.is_none())).map(|rest| rest.looked_micros)
    }

    /// After whose hold, which brought nothing, it rests, and until when, for people.
    pub(super) fn rests_after(&self) -> Option<(JobId, LogTime)> {
        self.rest.and_then(|rest| rest.after)
    }

    /// Since when its hold has not grown, or had not when it was given back.
    pub(super) fn since(&self) -> Option<Revision> {
        let kept = self.kept.map(|kept| kept.grew).into_iter();
        kept.chain(self.rest.and_then(|rest| rest.since)).chain(self.vain.since()).min()
    }

    /// Ends the rest, if its reason is gone: what waits of the job is something else, or what was in the way of all that it takes is there no more. Gives whether it did, and
    /// of how many groups at most room was looked for, each in a walk over all machines.
    pub(super) fn ends_rest(
        &mut self,
        (sight, newcomers): (&Sight<'_>, &Newcomers<'_>),
        job: &Arc<Job>,
    ) -> (bool, usize) {
        let Some(rest) = self.rest.as_mut() else { return (false, 0) };
        rest.looked_micros = sight.now_micros;
        let rest = *rest;
        let needs = needs_of(sight, job, self.refused);
        let Some(first) = needs.first() else { return (false, 0) };
        if *first != rest.need || !needs.contains(&rest.of) {
            self.begin_anew();
            return (true, 0);
        }
        if rest.after.is_none() {
            let fits = first_that_fits(sight, job, &needs).is_some();
            if fits {
                (self.rests_until_micros, self.rest) = (i64::MIN, None);
            }
            return (fits, needs.len());
        }
        let asked = sight.in_flight.asked_to_hold();
        let rooms = Rooms { cell: sight.cell, job: job.id, promised: sight.in_flight.promised(), asked: &asked };
        let has_room = |aim: &Aim, since| newcomers.leave_room(&rooms, aim, (job.shape.priority / 10, since));
        let since = rest.since.filter(|_| rest.ends_from_micros <= sight.now_micros);
        let may_start = since
            .is_some_and(|since| first_that_fits(sight, job, &needs).is_some_and(|(_, aim)| has_room(&aim, since)));
        if may_start {
            // The next one is as long as if this one had not: it may be that it can't start after all.
            (self.rests_until_micros, self.rest, self.ended_early) = (i64::MIN, None, true);
        }
        (may_start, since.map_or(0, |_| needs.len()))
    }

    /// Something of the job was granted.
    pub(super) fn granted(&mut self) {
        (self.given_up, self.ended_early, self.vain) = (0, false, Vain::default());
        // What its tasks leave of its limits is another thing now.
        self.aimed.iter_mut().for_each(|aimed| aimed.walked_micros = i64::MIN);
    }

    /// Until when it is remembered, where nothing else asks for it: a pass over a long queue may come to its job some time after its rest; and who rests ever longer begins
    /// anew only once it could have held room again for long.
    pub(super) const fn remembered_until_micros(&self, holding: &Holding) -> i64 {
        let more_micros = match (self.given_up, self.refused, self.fits_nowhere) {
            (0, 0, 0) => 0,
            (0, ..) => PASS_MICROS,
            _ => holding.patience_micros.saturating_mul(1 << RESTS_DOUBLED_MAX),
        };
        self.rests_until_micros.saturating_add(more_micros)
    }

    /// When a hold has brought nothing for so long. One that is whole again, after it had lost machines, has its time for that once more, but not again and again.
    fn patience_ends_micros(&self, holding: &Holding, hold: &Hold) -> Option<i64> {
        let kept = self.kept?;
        let ends_micros = kept.grew_micros.saturating_add(holding.patience_micros);
        if !self.is_whole(hold) {
            return Some(ends_micros);
        }
        let full_micros = FULL_MICROS.min(holding.patience_micros);
        Some(kept.complete_micros.min(ends_micros).saturating_add(full_micros))
    }

    /// Whether a hold is all that the job takes: what it waits for now is none of that.
    pub(super) fn is_whole(&self, hold: &Hold) -> bool {
        let is_all =
            |aimed: &Aimed| aimed.aim.each.fits_in(&hold.resources) && hold.machines.len() >= aimed.aim.machines;
        self.aimed.as_ref().is_some_and(is_all)
    }

    /// A larger hold than there is, if the room for one is there.
    fn more(
        &mut self,
        scene: Scene<'_>,
        rooms: &Rooms<'_>,
        job: &Arc<Job>,
        (needs, why): (&[Need], Why),
    ) -> Option<Wish> {
        let Scene { sight, victims, .. } = scene;
        let hold = sight.cell.hold(job.id);
        let first = *needs.first()?;
        let is_current = |aimed: &Aimed| needs.contains(&aimed.need) && aimed.is_fresh(sight.now_micros);
        let unseen = std::mem::take(&mut self.unseen);
        let slots: Vec<u32> = if self.aimed.as_ref().is_some_and(is_current) {
            unseen.into_iter().collect()
        } else {
            let Some((need, aim)) = first_that_fits(sight, job, needs) else {
                // It would not fit if all machines were empty, and what it holds is of no use to it.
                self.rests_nowhere(sight, first);
                return hold.map(|_| given_back(job.id));
            };
            self.fits_nowhere = 0;
            let (walked_micros, walked) = (sight.now_micros, sight.cell.revision());
            self.aimed = Some(Aimed { need, aim, walked_micros, walked });
            (0..sight.cell.machine_rows().len()).collect()
        };
        let Aimed { need, ref aim, .. } = *self.aimed.as_ref()?;
        let slots: Vec<u32> = slots.into_iter().filter(|slot| aim.has_some(rooms, *slot)).collect();
        let band = job.shape.priority / 10;
        if hold.is_none() && aim.machines == 1 {
            self.vain.look((rooms, scene.newcomers), (aim, band), (sight.holding, sight.now_micros));
        }
        let before = std::mem::take(&mut self.left);
        let mut search = Search::new(sight.contenders, rooms, band, before, sight.now_micros);
        let beside = || beside_victims((rooms, victims), aim, band, need);
        let mut pause = None;
        let wish = match why {
            Why::Urgent => displacing(&mut search, aim, &slots, need).or_else(beside),
            Why::Starves => {
                let is_whole = |wish: &Wish| wish.machines.len() >= aim.machines && wish.resources == aim.each;
                let larger = larger(&mut search, aim, hold, (&slots, &self.vain)).filter(|wish| {
                    let may_wait = hold.is_none() && !is_whole(wish);
                    pause = if may_wait { self.pause_of(scene, rooms, (aim, band)) } else { None };
                    pause.is_none()
                });
                // All at once, by evictions beside what lower bands hold, comes before a part. Who holds some goes on with that: the two would take turns.
                if hold.is_some() || larger.as_ref().is_some_and(is_whole) || !victims.are_evicted_beside(rooms, aim) {
                    larger
                } else {
                    beside().or_else(|| larger.filter(|_| !victims.are_put_off()))
                }
            }
        };
        (self.unseen, self.left) = search.end();
        match pause.filter(|_| wish.is_none() && !victims.are_put_off()) {
            Some(pause) => self.waits_out(pause, sight, first),
            None if wish.is_some() => {
                self.let_in = scene.pauses.iter().map(|pause| pause.since).max().unwrap_or_default()
            }
            None => {}
        }
        wish
    }

    /// Which pause keeps it from a hold.
    fn pause_of<'a>(&self, scene: Scene<'a>, rooms: &Rooms<'_>, (aim, band): (&Aim, u8)) -> Option<&'a Pause> {
        let mut newer = scene.pauses.iter().filter(|pause| pause.since > self.let_in);
        newer.find(|pause| pause.keeps_back(scene.newcomers, rooms, aim, band))
    }

    /// Rests for a while, as it fits nowhere, longer each time in a row; or until it does.
    fn rests_nowhere(&mut self, sight: &Sight<'_>, need: Need) {
        let rest_micros = sight.holding.after_wait_micros.max(LOOK_MICROS).saturating_mul(1 << self.fits_nowhere);
        let (ends_from_micros, looked_micros) = (sight.now_micros, sight.now_micros);
        self.rest = Some(Rest { after: None, need, of: need, since: None, ends_from_micros, looked_micros });
        self.rests_until_micros = sight.now_micros.saturating_add(rest_micros);
        self.fits_nowhere = RESTS_DOUBLED_MAX.min(self.fits_nowhere + 1);
    }

    /// Rests until a pause is over, or what was in the way of the other gang is gone.
    fn waits_out(&mut self, pause: &Pause, sight: &Sight<'_>, need: Need) {
        let until = sight.log_time.plus_micros(pause.until_micros.saturating_sub(sight.now_micros)).whole_second();
        let (since, now_micros) = (Some(pause.since), sight.now_micros);
        let (after, ends_from_micros, looked_micros) = (Some((pause.after, until)), now_micros, now_micros);
        self.rest = Some(Rest { after, need, of: need, since, ends_from_micros, looked_micros });
        self.rests_until_micros = pause.until_micros;
    }

    /// The pause after its hold, where that is given back as something was in its way: as long as that was kept without growing.
    pub(super) fn pause(&self, sight: &Sight<'_>, job: &Job) -> Option<Pause> {
        let hold = sight.cell.hold(job.id)?;
        let since = self.rest?.since?;
        let until_micros = sight.now_micros.saturating_add(sight.holding.patience_micros);
        let (band, machines) = (job.shape.priority / 10, hold.machines.clone());
        Some(Pause { until_micros, after: job.id, band, since, machines })
    }

    /// The same hold for longer, once half of its time is over: on those of its machines that still take claims and have the room.
    fn renewal(&self, sight: &Sight<'_>, rooms: &Rooms<'_>, hold: &Hold) -> Option<Wish> {
        self.kept.filter(|kept| kept.is_due(sight))?;
        let is_ready = |slot: u32| sight.cell.machine_row(slot).is_some_and(|row| row.state == MachineState::Ready);
        let suits = |slot: u32| self.aimed.as_ref().is_none_or(|aimed| aimed.aim.suits(sight.cell, slot));
        let stays = |slot: &u32| is_ready(*slot) && suits(*slot) && rooms.may_hold(*slot, &hold.resources);
        let machines: Vec<u32> = hold.machines.iter().copied().filter(stays).collect();
        // Without machines it would be given back: its place in the order is kept until it ends.
        (!machines.is_empty()).then(|| wish(rooms.job, Some(hold), machines, hold.resources))
    }

    /// When there is something to do for it by then at the latest, by the process's own clock.
    pub(super) fn next_micros(&self, sight: &Sight<'_>, hold: Option<&Hold>) -> Option<i64> {
        let now_micros = sight.now_micros;
        let rests = Some(self.rests_until_micros).filter(|rests| *rests > now_micros);
        let patience = hold.and_then(|hold| self.patience_ends_micros(sight.holding, hold));
        let patience = patience.into_iter().chain(self.vain.waits_until_micros(sight.holding));
        let until = |time: LogTime| time.micros.saturating_sub(sight.log_time.micros);
        let renewal = self.kept.map(|kept| now_micros.saturating_add(until(kept.renew)).max(kept.renew_from_micros));
        // What changed since then, as a quota or a partition, may be another aim, and needs not be followed by anything else.
        let outdated = self.aimed.iter().filter(|aimed| aimed.walked < sight.cell.revision());
        let outdated = outdated.map(Aimed::fresh_until_micros);
        // What is asked for by then is answered, or its connection is gone; each is an occasion by itself.
        let due = patience.chain(renewal).chain(outdated).filter(|due| *due > now_micros);
        rests.into_iter().chain(self.left.over_micros(now_micros)).chain(due).min()
    }
}

#[cfg(test)]
mod tests {
    use plenum_model::Cell;

    use super::*;
    use crate::holds::Contenders;
    use crate::in_flight::InFlight;
    use crate::plan::tests::work;

    // Sixteen of them, as those that sleep over a failure, had all looks, and no other rest ended early.
    #[test]
    fn what_has_nothing_to_place_while_it_rests_is_next_looked_at_after_all_others() {
        let (cell, in_flight) = (Cell::default(), InFlight::default());
        let (holding, contenders) = (Holding::default(), Contenders::default());
        let sight = |now_micros| Sight {
            cell: &cell,
            holding: &holding,
            changed: None,
            in_flight: &in_flight,
            contenders: &contenders,
            log_time: LogTime::default(),
            now_micros,
            evicts: false,
            is_paused: false,
        };
        let mut held = Held::default();
        held.rests_nowhere(&sight(5), Need { version: 3, group: 0, count: 2, is_gang: true });
        assert_eq!(held.rest_looked_micros(9), Some(5));
        // The cell has no such job, so that none of its groups is wanted.
        let looked = held.ends_rest((&sight(9), &Newcomers::since(&cell, Revision(0))), &work().job);
        assert_eq!(looked, (false, 0));
        assert_eq!(held.rest_looked_micros(9), Some(9));
    }

    const SECOND: i64 = 1_000_000;

    /// One that is ahead of log time by so many seconds looks after a hold of a job, and others hold nothing.
    struct Keeper {
        cell: Cell,
        holding: Holding,
        in_flight: InFlight,
        contenders: Contenders,
        ahead: i64,
        held: Held,
    }

    impl Keeper {
        fn new(within: i64, ahead: i64) -> Self {
            let holding = Holding { within_micros: within * SECOND, ..Holding::default() };
            let (in_flight, contenders) = (InFlight::default(), Contenders::default());
            Self { cell: Cell::default(), holding, in_flight, contenders, ahead, held: Held::default() }
        }

        fn sight(&self, second: i64) -> Sight<'_> {
            Sight {
                cell: &self.cell,
                holding: &self.holding,
                changed: None,
                in_flight: &self.in_flight,
                contenders: &self.contenders,
                log_time: LogTime::from_micros((second + self.ahead) * SECOND),
                now_micros: second * SECOND,
                evicts: false,
                is_paused: false,
            }
        }

        /// It is shown a hold that ends in that second.
        fn sees(&mut self, second: i64, end: i64) {
            let (machines, deadline) = (vec![0], LogTime::from_micros(end * SECOND));
            let hold = Hold { machines, resources: Resources::new(1000, 0), deadline, first_wait: Revision(1) };
            let mut held = std::mem::take(&mut self.held);
            held.keep(&self.sight(second), Some(&hold));
            self.held = held;
        }

        fn is_due(&self, second: i64) -> bool {
            self.held.kept.unwrap().is_due(&self.sight(second))
        }

        /// In which of these seconds it renews a hold that was taken in second 100. Each lasts for so many seconds, and is shown a second after it was taken.
        fn renews(&mut self, seconds: std::ops::RangeInclusive<i64>, lasts: i64) -> Vec<i64> {
            let (mut taken, mut renewed) = (100, Vec::new());
            for second in seconds {
                self.sees(second, taken + lasts);
                if self.is_due(second) {
                    taken = second;
                    renewed.push(second);
                }
            }
            renewed
        }
    }

    // By whose log time it was over already, it was asked for once more as soon as the mirror showed it, as often as there were answers.
    #[test]
    fn a_hold_whose_deadline_seems_to_be_over_is_not_renewed_with_each_look() {
        let mut keeper = Keeper::new(60, 120);
        // A second after it is shown.
        assert_eq!(keeper.renews(101..=161, 60), Vec::from_iter((101..=161).step_by(2)));
        // It gets to know what time it is just after it was renewed.
        keeper.sees(162, 221);
        keeper.ahead = 0;
        assert_eq!((163..=221).find(|second| keeper.is_due(*second)), Some(218), "before it ends, in second 221");
    }

    // It was left alone for a 16th of what had been asked for, however little of that there was: each one that had been renewed once ended before it was renewed again.
    #[test]
    fn a_renewed_hold_that_lasts_for_less_than_was_asked_for_is_renewed_before_it_ends() {
        // Four hours were asked for, and the cell gives ten minutes at a time.
        assert_eq!(Keeper::new(4 * 3600, 0).renews(101..=1200, 600), [401, 702, 1003]);
        // It sees the renewal three seconds before the end.
        let mut keeper = Keeper::new(60, 0);
        keeper.sees(101, 160);
        keeper.sees(188, 191);
        assert_eq!((188..=191).find(|second| keeper.is_due(*second)), Some(190));
    }
}
