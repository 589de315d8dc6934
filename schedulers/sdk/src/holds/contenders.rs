//! Who comes before a gang in what is free: jobs of higher bands that wait, own ones, those of peers and those of other schedulers.
//!
//! A hold asks for what came free before anybody else does. Where a job of a higher band would place a task there, the gang started in its stead, and was evicted
//! for it. So the room is left to such a job; for a moment only, as it may be refused for another reason than want of room, or be kept back on purpose.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::{Cell, GroupShape, Job, JobId, LogTime, TaskState, any_waits, wanted};

use super::aim::{Rooms, at_most, is_open};
use crate::in_flight::InFlight;
use crate::queue::{Queue, Turn};

/// So many jobs at most are asked for each machine: the first of the queue.
const CONTENDERS_MAX: usize = 256;

/// For so long room is left to a job of which nothing is granted: as long as to a peer that may be silent.
const LEFT_MICROS: i64 = 1_000_000;

/// Jobs of other schedulers are looked for so often at most.
const STRANGERS_MICROS: i64 = 1_000_000;

/// Some tasks of a job that may be placed now.
#[derive(Clone, Debug)]
struct Contender {
    band: u8,
    job: Arc<Job>,
    /// Those of its groups that have some.
    groups: Vec<u16>,
}

/// See the module. In the order of the queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contenders(Vec<Contender>);

impl Contenders {
    /// Those of a higher band than the last of the jobs that room is held for, among them some of `strangers`, which are jobs of the same bands.
    pub(crate) fn of(
        cell: &Cell,
        (queue, strangers): (&Queue, &Strangers),
        in_flight: &InFlight,
        last: Turn,
        log_time: LogTime,
    ) -> Self {
        let own = queue.turns().take_while(|turn| turn.band() > last.band()).map(|turn| (turn.band(), turn.job));
        let contender = |(band, job): (u8, JobId)| {
            let job = cell.job(job)?;
            let groups = wanted(cell, job, log_time).filter(|group| {
                let on_their_way = in_flight.machines_of(job.id, group.group).count();
                usize::try_from(group.row.tasks_in(TaskState::Waiting)).is_ok_and(|waiting| waiting > on_their_way)
            });
            let groups: Vec<u16> = groups.map(|group| group.group).collect();
            (!groups.is_empty()).then(|| Contender { band, job: job.clone(), groups })
        };
        let mut contenders: Vec<Contender> = own.filter_map(contender).take(CONTENDERS_MAX).collect();
        let strangers = strangers.jobs.iter().copied().take_while(|(band, _)| *band > last.band());
        contenders.extend(strangers.filter_map(contender));
        contenders.sort_by_key(|contender| Reverse(contender.band));
        contenders.truncate(CONTENDERS_MAX);
        Self(contenders)
    }
}

/// Jobs of other schedulers, or of another process's share of the namespaces, of which tasks wait: the first of the highest bands, with these.
#[derive(Clone, Debug, Default)]
pub(crate) struct Strangers {
    jobs: Vec<(u8, JobId)>,
    /// Those of bands above this one were looked for.
    band: u8,
    /// When they may be looked for again, unless it is for lower bands.
    due_micros: i64,
}

impl Strangers {
    /// Looks for those of bands above this one: all that are not in the queue, and whose scheduler is there and not paused. A walk over all jobs, so once a second,
    /// and once more where it is for lower bands; in between some are found to wait no more, and what comes newly is not known.
    pub(crate) fn look(&mut self, cell: &Cell, queue: &Queue, band: u8, now_micros: i64) {
        if now_micros < self.due_micros && band >= self.band {
            return;
        }
        self.band = band;
        self.due_micros = now_micros.saturating_add(STRANGERS_MICROS);
        let names: BTreeSet<&str> = cell.sessions().map(|session| &*session.scheduler).collect();
        let is_served = |job: &Job| names.contains(&*job.shape.scheduler) && !cell.is_paused(&job.shape.scheduler);
        let strangers = cell.jobs().filter(|job| job.shape.priority / 10 > band && !queue.contains(job.id));
        let waiting = strangers.filter(|job| any_waits(cell, job) && is_served(job));
        self.jobs = waiting.map(|job| (job.shape.priority / 10, job.id)).collect();
        self.jobs.sort_unstable_by_key(|(band, job)| (Reverse(*band), *job));
        self.jobs.truncate(CONTENDERS_MAX);
    }
}

/// Since when room has been left to jobs of which nothing was granted, by the process's own clock.
#[derive(Clone, Debug, Default)]
pub(super) struct Left(BTreeMap<JobId, i64>);

impl Left {
    /// Something of a job was granted.
    pub(super) fn granted(&mut self, job: JobId) {
        self.0.remove(&job);
    }

    /// When that is over for the first of them.
    pub(super) fn over_micros(&self, now_micros: i64) -> Option<i64> {
        let over = self.0.values().map(|since| since.saturating_add(LEFT_MICROS));
        over.filter(|over| *over > now_micros).min()
    }

    fn is_over(&self, job: JobId, now_micros: i64) -> bool {
        self.0.get(&job).is_some_and(|since| since.saturating_add(LEFT_MICROS) <= now_micros)
    }
}

/// One search for room for a job, and what it leaves.
#[derive(Debug)]
pub(super) struct Search<'a> {
    contenders: &'a Contenders,
    pub(super) rooms: &'a Rooms<'a>,
    /// Of the job.
    band: u8,
    now_micros: i64,
    before: Left,
    /// What it has left to whom.
    left: Left,
    machines: BTreeSet<u32>,
}

impl<'a> Search<'a> {
    /// `before`: what the last search for the job gave.
    pub(super) fn new(
        contenders: &'a Contenders,
        rooms: &'a Rooms<'a>,
        band: u8,
        before: Left,
        now_micros: i64,
    ) -> Self {
        Self { contenders, rooms, band, now_micros, before, left: Left::default(), machines: BTreeSet::new() }
    }

    /// Whether what is free on a machine is left to a job of a higher band.
    pub(super) fn leaves(&mut self, slot: u32) -> bool {
        let higher = self.contenders.0.iter().take_while(|contender| contender.band > self.band);
        let mut counting = higher.filter(|contender| !self.before.is_over(contender.job.id, self.now_micros));
        let Some(contender) = counting.find(|contender| contender.may_place(self.rooms, slot)) else { return false };
        let job = contender.job.id;
        self.left.0.insert(job, self.before.0.get(&job).copied().unwrap_or(self.now_micros));
        self.machines.insert(slot);
        true
    }

    /// Machines on which room was left, and to whom. A job for which that is over has its next moment when something of it was granted; one that would have none
    /// of what there is now, when there is something for it.
    pub(super) fn end(mut self) -> (BTreeSet<u32>, Left) {
        let over = self.contenders.0.iter().map(|contender| contender.job.id);
        let over = over.filter(|job| self.before.is_over(*job, self.now_micros));
        let over = over.filter_map(|job| Some((job, *self.before.0.get(&job)?)));
        self.left.0.extend(over);
        (self.machines, self.left)
    }
}

impl Contender {
    /// Whether a task of it fits in what is free on a machine.
    fn may_place(&self, rooms: &Rooms<'_>, slot: u32) -> bool {
        let Some(machine) = rooms.cell.machine_in(slot) else { return false };
        let (job, rooms) = (&self.job, rooms.of(self.job.id));
        let fits = |shape: &GroupShape| {
            rooms.may_claim(slot, &shape.resources)
                && at_most(machine, shape) > 0
                && shape.constraints.iter().all(|rule| rule.holds(&machine.attributes))
        };
        let mut shapes = self.groups.iter().filter_map(|group| job.shape.groups.get(usize::from(*group)));
        job.home.filter(|_| job.shape.same_machine).is_none_or(|home| home == slot)
            && shapes.any(fits)
            && is_open(rooms.cell, &job.shape.scheduler, &machine.attributes)
    }
}
