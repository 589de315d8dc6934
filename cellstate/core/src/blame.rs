//! Why a claim is refused: of which kind, and who came between.

mod devices;

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::Arc;

use plenum_model::rare;
use plenum_model::{
    AllocationId, AllocationRef, AllocationRow, Cell, Culprit, Device, GroupShape, Job, JobId, LogTime, MachineId,
    MachineState, NotWanted, Obstacle, RefusalKind, RefusalReason, Resource, Resources, Revision, Room, SessionId,
    Shortage, TakeOver, TransactionId,
};

use crate::claims::ALLOCATIONS_MAX;
use crate::freed::FreedRoom;
use crate::group_events::{GroupEvents, Part};
use crate::hindsight::{Hindsight, Past, Suspect, Suspects, Who};
use crate::job_events::{JobEventKind, JobEvents, is_done};
use crate::names::Names;
use crate::newcomers::{Newcomer, Newcomers, Retagged};
use crate::preempt::{may_evict, room_within};
use crate::ring::{Change, Ring};

/// Culprits that a refusal lists.
const CULPRITS_LISTED: usize = 4;

/// What stands in a claim's way.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    /// The machine, or its room.
    Machine(Obstacle),
    /// The machine registered, or began an epoch, at this revision, after the base.
    NewMachine(Revision, u32),
    /// Check `sequence`: somebody else than this session, of the scheduler with this number since then, changed the machine, or nobody can tell any more.
    Changed(SessionId, (u16, Revision)),
    /// The task or its group.
    NotWanted(NotWanted),
    /// The task has this allocation.
    Taken(u32),
    /// There is no such job.
    NoSuchJob(JobId),
    /// The job has another version than this one.
    OtherVersion(JobId, u32),
    /// The allocation that the task had is leaving, or an unknown task is this one, and its group has a single instance.
    Predecessor,
    /// The namespace has too much already.
    Quota(Shortage),
    /// A guard on the placement or the whole.
    Guard(Guarded),
    /// The claim contradicts itself or the job, or may not be made.
    Never(RefusalKind, RefusalReason),
}

/// What a failed guard was about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Guarded {
    /// The version of a job.
    Version(JobId),
    /// An attribute of the machine in this slot, and when that changed last, if it was after the base.
    Attribute(u32, Option<Revision>),
    /// An attribute of a machine that is not there.
    Gone(MachineId),
}

impl Trouble {
    /// Whether another machine could be the answer.
    pub(crate) fn is_of_the_machine(self) -> bool {
        match self {
            Self::Machine(_) | Self::NewMachine(..) | Self::Changed(..) => true,
            Self::Never(_, reason) => matches!(reason, RefusalReason::NotPermitted | RefusalReason::MayNotEvict),
            Self::NotWanted(_)
            | Self::Taken(_)
            | Self::NoSuchJob(_)
            | Self::OtherVersion(..)
            | Self::Predecessor
            | Self::Quota(_)
            | Self::Guard(..) => false,
        }
    }
}

/// Which claim a refusal is about.
#[derive(Debug)]
pub(crate) struct About<'a> {
    /// Slot of its machine.
    pub(crate) machine: u32,
    /// Slot of its job.
    pub(crate) job: u32,
    /// Its group's row.
    pub(crate) group_row: u32,
    /// Its task's index.
    pub(crate) task: u32,
    /// The room that it needs.
    pub(crate) need: Resources,
    /// What earlier claims of the transaction got on that machine.
    pub(crate) promised: Resources,
    /// How many they are.
    pub(crate) promised_claims: u32,
    /// Devices that they got there.
    pub(crate) promised_devices: &'a [Device],
    /// Its group.
    pub(crate) shape: Option<&'a GroupShape>,
    /// Its job: a hold of it is free room.
    pub(crate) owner: JobId,
    /// The holds of that machine that end with the transaction.
    pub(crate) freed: Option<Rc<FreedRoom>>,
    /// What is free there without them.
    pub(crate) free: Room,
    /// Whose room it wanted beside that, each once.
    pub(crate) sources: Vec<Wanted<'a>>,
    /// What earlier claims of the transaction took over from them.
    pub(crate) handed_over: Vec<&'a TakeOver>,
    /// Slots of those of them whom the transaction evicts or stops anyway.
    pub(crate) going: Vec<u32>,
    /// The very devices that it names.
    pub(crate) devices: &'a [Device],
}

/// Somebody whose room a claim wanted: one that it named itself, with what it wants of it, or one whom it would have evicted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) id: AllocationId,
    pub(crate) most: Option<&'a TakeOver>,
}

impl Default for About<'_> {
    fn default() -> Self {
        Self {
            machine: u32::MAX,
            job: u32::MAX,
            group_row: u32::MAX,
            task: u32::MAX,
            need: Resources::default(),
            promised: Resources::default(),
            promised_claims: 0,
            promised_devices: &[],
            shape: None,
            owner: JobId::default(),
            freed: None,
            free: Room::default(),
            sources: Vec::new(),
            handed_over: Vec::new(),
            going: Vec::new(),
            devices: &[],
        }
    }
}

/// A refusal's facts.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) kind: RefusalKind,
    pub(crate) reason: RefusalReason,
    pub(crate) short: Option<(Resource, u64)>,
    pub(crate) short_device: Option<(Arc<str>, u64)>,
    pub(crate) port: Option<u16>,
    pub(crate) not_wanted: Option<NotWanted>,
    pub(crate) culprits: Vec<Culprit>,
    pub(crate) total: u64,
}

impl Facts {
    pub(crate) fn plain(kind: RefusalKind, reason: RefusalReason) -> Self {
        Self {
            kind,
            reason,
            short: None,
            short_device: None,
            port: None,
            not_wanted: None,
            culprits: Vec::new(),
            total: 0,
        }
    }

    fn caused(kind: RefusalKind, reason: RefusalReason, culprit: Culprit) -> Self {
        Self { total: culprit.amount, culprits: vec![culprit], ..Self::plain(kind, reason) }
    }

    /// A conflict with these, who took so much.
    fn blame(self, culprits: Vec<Culprit>, total: u64) -> Self {
        Self { kind: RefusalKind::Conflict, culprits, total, ..self }
    }
}

/// What the judge of refusals looks at.
pub(crate) struct Judge<'a, 'b> {
    pub(crate) cell: &'a Cell,
    pub(crate) ring: &'a Ring,
    pub(crate) hindsight: &'b Hindsight<'a>,
    pub(crate) names: &'a Names,
    pub(crate) job_events: &'a JobEvents,
    pub(crate) group_events: &'a GroupEvents,
    pub(crate) newcomers: &'a RefCell<Newcomers>,
    pub(crate) retagged: &'a Retagged,
    pub(crate) base: Revision,
    /// When the ring began: what happened before is only known from rows.
    pub(crate) opened: Revision,
    pub(crate) now: LogTime,
}

impl<'a> Judge<'a, '_> {
    /// What happened on a machine since the base.
    fn past(&self, machine: u32) -> Rc<Past<'a>> {
        self.hindsight.of(self.cell, self.ring, machine, self.base)
    }

    /// The facts of a refusal.
    pub(crate) fn facts(&self, trouble: Trouble, about: &About<'_>) -> Facts {
        match trouble {
            Trouble::Never(kind, reason) => Facts::plain(kind, reason),
            Trouble::NewMachine(revision, epoch) => {
                let known =
                    self.past(about.machine).event_of(&["registered", "epoch"]).filter(|(at, _)| *at == revision);
                let word = known.map_or(if epoch == 1 { "registered" } else { "epoch" }, |(_, event)| event.word);
                let culprit = event_culprit(revision, word, 0);
                Facts::caused(RefusalKind::Conflict, RefusalReason::MachineChanged, culprit)
            }
            Trouble::Machine(Obstacle::NoRoom(short)) => self.no_room(short, about),
            Trouble::Machine(Obstacle::OtherMachine) => self.other_machine(about.job),
            Trouble::Machine(Obstacle::Device(position)) => self.no_device(position, about),
            Trouble::Machine(Obstacle::Port(port)) => self.no_port(port, about),
            Trouble::Machine(Obstacle::PerMachine) => self.limit(None, about),
            Trouble::Machine(Obstacle::Spread(rule)) => self.limit(Some(rule), about),
            Trouble::Machine(Obstacle::Constraint) => self.constraint(about),
            Trouble::Machine(Obstacle::Full) => self.full(about),
            Trouble::Machine(obstacle) => self.machine_facts(obstacle, about.machine),
            Trouble::Changed(session, scheduler) => self.changed(about.machine, session, scheduler),
            Trouble::Taken(slot) => self.taken(slot),
            Trouble::NotWanted(why) => Facts { not_wanted: Some(why), ..self.unwanted(why, about) },
            Trouble::Predecessor => {
                let part = Part::Task(about.group_row, about.task);
                self.part_facts(part..=part, about.job, &[JobEventKind::Left], RefusalReason::Predecessor)
            }
            Trouble::Quota(short) => Facts {
                short: Some((short.resource, short.short_by)),
                ..Facts::plain(RefusalKind::Quota, RefusalReason::QuotaExceeded)
            },
            Trouble::NoSuchJob(job) => self.no_such_job(job),
            Trouble::OtherVersion(job, version) => self.other_version(job, version),
            Trouble::Guard(guarded) => self.guard(guarded),
        }
    }

    fn unwanted(&self, why: NotWanted, about: &About<'_>) -> Facts {
        let kinds = JobEventKind::behind(why);
        if kinds.is_empty() {
            // The version that the claim names never had it.
            return Facts::plain(RefusalKind::Misfit, RefusalReason::NotWanted);
        }
        let row = about.group_row;
        let parts = match why {
            NotWanted::Task(_) => Some(Part::Task(row, about.task)..=Part::Task(row, about.task)),
            // It was among them before.
            NotWanted::NoSuchTask => Some(Part::Count(row, about.task.saturating_add(1))..=Part::Count(row, u32::MAX)),
            // It would be awake by now.
            NotWanted::Backoff(_) => {
                Some(Part::Backoff(row, LogTime::from_micros(i64::MIN))..=Part::Backoff(row, self.now))
            }
            NotWanted::After(_) if self.waited_before(about) => {
                return self.job_facts(about.job, &[], RefusalReason::NotWanted);
            }
            NotWanted::After(group) => {
                let row = self.cell.job_in(about.job).and_then(|job| job.group_row(group));
                row.map(|row| Part::Done(row)..=Part::Done(row))
            }
            NotWanted::JobOver(_) | NotWanted::Recurring | NotWanted::NoSuchGroup => None,
        };
        match parts {
            Some(parts) => self.part_facts(parts, about.job, kinds, RefusalReason::NotWanted),
            None => self.job_facts(about.job, kinds, RefusalReason::NotWanted),
        }
    }

    /// Whether some group that comes before a claim's was not done at the base already, and is not now: the first one that is not done
    /// may have been.
    fn waited_before(&self, about: &About<'_>) -> bool {
        let Some(changed) = self.hindsight.groups(self.group_events, self.base) else { return false };
        let Some(job) = self.cell.job_in(about.job) else { return false };
        let submitted = self.job_events.submitted(about.job);
        let undone = |row: u32| changed.get(&Part::Done(row)).is_some_and(|event| event.revision > submitted);
        let shape = about.group_row.checked_sub(job.group_base).and_then(|group| job.shape.groups.get(group as usize));
        let before = shape.map(|shape| shape.after.as_slice()).unwrap_or_default();
        let mut rows = before.iter().filter_map(|&group| Some((job.group_row(group)?, self.cell.group(job, group)?)));
        rows.any(|(row, group)| !is_done(group) && !undone(row))
    }

    /// Where none of these parts of a job changed, it was so at the base, unless all of the job is younger. What happened to the row of its
    /// group before the job had it is in nobody's way.
    fn part_facts(
        &self,
        parts: RangeInclusive<Part>,
        job_slot: u32,
        kinds: &[JobEventKind],
        reason: RefusalReason,
    ) -> Facts {
        let Some(changed) = self.hindsight.groups(self.group_events, self.base) else {
            return self.job_facts(job_slot, kinds, reason);
        };
        let submitted = self.job_events.submitted(job_slot);
        let newest = changed.range(parts).map(|(_, event)| event).max_by_key(|event| event.revision);
        match newest.filter(|event| event.revision > submitted) {
            None => self.job_facts(job_slot, &[], reason),
            Some(event) => {
                let culprit = event.culprit((self.cell, self.names));
                Facts::caused(RefusalKind::Conflict, reason, culprit)
            }
        }
    }

    /// A guard that fails names what did it since the base, as far as the slot tells: of one that is gone its end, unless another one has left the slot
    /// since.
    fn guard(&self, guarded: Guarded) -> Facts {
        let event_of = |machine: u32, word: &'static str| {
            let event = self.past(machine).event_of(&[word]);
            event.map(|(revision, event)| event_culprit(revision, event.word, 0))
        };
        let job_event = |job: JobId, kind: JobEventKind| {
            self.job_events.newest_of((self.cell, self.names), job.slot, kind, self.base)
        };
        let culprit = match guarded {
            Guarded::Version(job) if self.cell.job(job).is_some() => job_event(job, JobEventKind::Submitted),
            // Whoever has the slot of one that is gone did nothing to it.
            Guarded::Version(job) if !self.left_its_slot_last(job) => None,
            Guarded::Version(job) => job_event(job, JobEventKind::Retired),
            Guarded::Attribute(_, Some(revision)) => Some(event_culprit(revision, "attributes", 0)),
            Guarded::Attribute(machine, None) => event_of(machine, "registered"),
            Guarded::Gone(machine) => {
                let slot = self.cell.machine_slots().get(machine.slot);
                let left =
                    slot.is_some_and(|slot| left_last(machine.generation, slot.generation, slot.machine.is_some()));
                if left { event_of(machine.slot, "removed") } else { None }
            }
        };
        let facts = Facts::plain(RefusalKind::Guard, RefusalReason::GuardFailed);
        Facts { culprits: culprit.into_iter().collect(), ..facts }
    }

    /// Whether nobody has left a job's slot after it: only then the last end that is known of that slot is its own.
    fn left_its_slot_last(&self, job: JobId) -> bool {
        let slot = self.cell.job_slots().get(job.slot);
        slot.is_some_and(|slot| left_last(job.generation, slot.generation, slot.job.is_some()))
    }

    fn no_such_job(&self, job: JobId) -> Facts {
        let is_its_own = self.left_its_slot_last(job);
        self.ended(Part::Retired(job), (job.slot, JobEventKind::Retired, is_its_own), RefusalReason::NoSuchJob)
    }

    fn other_version(&self, job: JobId, version: u32) -> Facts {
        // The first version of a job ended none.
        let is_the_one_before = |found: &Arc<Job>| version > 0 && version.checked_add(1) == Some(found.version);
        let is_its_own = self.cell.job(job).is_some_and(is_the_one_before);
        self.ended(
            Part::Version(job, version),
            (job.slot, JobEventKind::Submitted, is_its_own),
            RefusalReason::JobVersion,
        )
    }

    /// What a claim names has ended, or never was. `last`: the kind of its end, in this slot of a job, and whether nothing has ended so there after
    /// it. What has the slot or the job later did nothing to it.
    fn ended(&self, part: Part, last: (u32, JobEventKind, bool), reason: RefusalReason) -> Facts {
        let (slot, kind, is_its_own) = last;
        let sources = (self.cell, self.names);
        match self.job_events.newest_of(sources, slot, kind, self.base) {
            Some(culprit) if is_its_own => Facts::caused(RefusalKind::Conflict, reason, culprit),
            None => self.unseen(self.base >= self.opened, reason),
            // Another one ended there since the base: this one before that, or not at all.
            Some(_) => match self.hindsight.groups(self.group_events, self.base) {
                None => self.unseen(false, reason),
                Some(changed) => changed.get(&part).map_or_else(
                    || self.unseen(true, reason),
                    |event| Facts::caused(RefusalKind::Conflict, reason, event.culprit(sources)),
                ),
            },
        }
    }

    /// A job that has no machine yet was promised another one by an earlier claim of the same transaction.
    fn other_machine(&self, job_slot: u32) -> Facts {
        let reason = RefusalReason::OtherMachine;
        if self.cell.job_in(job_slot).is_some_and(|job| job.home.is_none()) {
            return Facts::plain(RefusalKind::Misfit, reason);
        }
        self.job_facts(job_slot, &[JobEventKind::Home], reason)
    }

    /// Not seen to have happened after the base: then it was so already, unless nobody can tell.
    fn unseen(&self, complete: bool, reason: RefusalReason) -> Facts {
        Facts::plain(if complete { RefusalKind::Misfit } else { RefusalKind::Stale }, reason)
    }

    fn job_facts(&self, job_slot: u32, kinds: &[JobEventKind], reason: RefusalReason) -> Facts {
        match self.job_events.culprit((self.cell, self.names), job_slot, kinds, self.base) {
            Some(culprit) => Facts::caused(RefusalKind::Conflict, reason, culprit),
            None => self.unseen(self.base >= self.opened, reason),
        }
    }

    fn machine_facts(&self, obstacle: Obstacle, machine: u32) -> Facts {
        let (reason, words): (_, &[&'static str]) = match obstacle {
            Obstacle::NoSuchMachine => (RefusalReason::NoSuchMachine, &["removed"]),
            Obstacle::NotReady(MachineState::Unreachable) => (RefusalReason::MachineNotReady, &["expired"]),
            Obstacle::NotReady(MachineState::Draining) => (RefusalReason::MachineNotReady, &["draining"]),
            Obstacle::NotReady(_) => (RefusalReason::MachineNotReady, &["cordoned"]),
            Obstacle::Full
            | Obstacle::OtherMachine
            | Obstacle::Constraint
            | Obstacle::NoRoom(_)
            | Obstacle::PerMachine
            | Obstacle::Spread(_)
            | Obstacle::Device(_)
            | Obstacle::Port(_) => unreachable!("judged by others"),
        };
        let past = self.past(machine);
        // That it changed from one such state to another one is nobody's fault.
        let stood = past.first_change().is_some_and(|event| match obstacle {
            Obstacle::NoSuchMachine => event.word == "registered",
            _ => !event.took_claims,
        });
        if let Some((revision, event)) = past.event_of(words).filter(|_| !stood) {
            let culprit = event_culprit(revision, event.word, 0);
            return Facts::caused(RefusalKind::Conflict, reason, culprit);
        }
        self.unseen(past.is_complete(), reason)
    }

    /// A machine that has as many allocations as one can have: lost to whoever was granted one last, if it had fewer at the base.
    fn full(&self, about: &About<'_>) -> Facts {
        let (past, reason) = (self.past(about.machine), RefusalReason::PerMachineLimit);
        let live = self.cell.machine_row(about.machine).map_or(0, |row| u32::from(row.allocations));
        let before = i64::from(live + about.promised_claims) - past.allocations_more();
        let had_place = past.is_complete() && before < i64::from(ALLOCATIONS_MAX);
        match past.newest_take().filter(|_| had_place) {
            Some(change) => Facts::caused(RefusalKind::Conflict, reason, self.grant_culprit(change, 1)),
            None => self.unseen(past.is_complete(), reason),
        }
    }

    /// What an attribute was before nobody remembers: the one that a failing constraint is about did suit if it has changed since. One that failed at
    /// the base already is not made good by a change of others.
    fn constraint(&self, about: &About<'_>) -> Facts {
        let attributes = self.cell.machine_in(about.machine).map(|machine| &*machine.attributes);
        let constraints = about.shape.map(|shape| shape.constraints.as_slice()).unwrap_or_default();
        let failing = constraints.iter().filter(|constraint| !attributes.is_some_and(|has| constraint.holds(has)));
        let changed =
            failing.map(|failing| self.retagged.since(self.cell, about.machine, &failing.attribute, self.base));
        match changed.collect::<Option<Vec<_>>>().and_then(|changed| changed.into_iter().max()) {
            Some(revision) => {
                let culprit = event_culprit(revision, "attributes", 0);
                Facts::caused(RefusalKind::Conflict, RefusalReason::Constraint, culprit)
            }
            None => self.unseen(self.retagged.is_complete(self.base), RefusalReason::Constraint),
        }
    }

    fn changed(&self, machine: u32, session: SessionId, scheduler: (u16, Revision)) -> Facts {
        let past = self.past(machine);
        let event = past.change_by_others(scheduler).map(|(revision, event)| event_culprit(revision, event.word, 0));
        let grant = past.take_by_others(session).map(|change| self.grant_culprit(change, 0));
        match grant.into_iter().chain(event).max_by_key(|culprit| culprit.revision) {
            Some(culprit) => Facts::caused(RefusalKind::Conflict, RefusalReason::MachineChanged, culprit),
            None => Facts::plain(RefusalKind::Stale, RefusalReason::MachineChanged),
        }
    }

    fn taken(&self, slot: u32) -> Facts {
        let row = self.cell.allocation_in(slot).map(|found| *found.row).unwrap_or_default();
        if row.created <= self.base {
            return Facts::plain(RefusalKind::Misfit, RefusalReason::TaskTaken);
        }
        let culprit = self.row_culprit(&row, row.id(slot), 0);
        Facts::caused(RefusalKind::Conflict, RefusalReason::TaskTaken, culprit)
    }

    fn row_culprit(&self, row: &AllocationRow, id: AllocationId, amount: u64) -> Culprit {
        Culprit {
            revision: row.created,
            transaction: Some(TransactionId { session: SessionId(row.session), number: row.number.into() }),
            scheduler: self.cell.scheduler_name(row.scheduler).into(),
            event: "".into(),
            amount,
            allocation: Some(id),
        }
    }

    fn grant_culprit(&self, change: &Change, amount: u64) -> Culprit {
        Culprit {
            revision: change.revision,
            transaction: Some(change.transaction()),
            scheduler: self.names.name_at(self.cell, change.scheduler, change.revision).into(),
            event: "".into(),
            amount,
            allocation: Some(change.allocation()),
        }
    }

    fn culprit(&self, suspect: &Suspect<'_>) -> Culprit {
        match suspect.who {
            Who::Grant(change) => self.grant_culprit(change, suspect.amount),
            Who::Row(found) => self.row_culprit(found.row, found.id, suspect.amount),
            Who::Event(word, _) => event_culprit(suspect.revision, word, suspect.amount),
        }
    }

    /// The newest suspects, until their sum reaches what is short, are to blame: the first few of them are listed. `owners` are sorted,
    /// and what they hold is in nobody's way.
    fn blame(&self, facts: Facts, suspects: &Suspects<'_>, short_by: u64, owners: &[JobId]) -> Facts {
        let (newest, total) = suspects.newest(short_by, owners, CULPRITS_LISTED);
        facts.blame(newest.iter().map(|suspect| self.culprit(suspect)).collect(), total)
    }

    fn no_room(&self, short: Shortage, about: &About<'_>) -> Facts {
        let resource = short.resource;
        let past = self.past(about.machine);
        let mut owners = about.freed.as_deref().map(|freed| freed.owners(&past).clone()).unwrap_or_default();
        past.note_owner(&mut owners, about.owner);
        let mut before = past.room_at_base(about.free, &owners);
        before.take(&about.promised);
        // Whose room it wanted was there at the base, too, with all but what others had taken over by then; who has ended since gave its room back.
        let heirs = self.hindsight.heirs(self.cell, about.machine);
        for (source, wanted) in self.sources(about).filter(|(source, _)| source.row.created <= self.base) {
            let left = heirs.left_of(self.cell, &source).amount;
            let had = past.handed_over_by(source.id).map_or(left, |since| left.with(&since.amount));
            let taken = about.handed_over.iter().filter(|entry| entry.victim == source.id);
            let had = taken.fold(had, |had, entry| had.without(&entry.amount));
            before.add(&room_within(wanted.most, &had));
        }
        let ended = about.sources.iter().filter_map(|wanted| Some((wanted, past.released(wanted.id)?)));
        ended.for_each(|(wanted, shape)| before.add(&room_within(wanted.most, &shape)));
        let fitted = before.shortage(&about.need).is_none();
        let facts = Facts {
            short: Some((resource, short.short_by)),
            ..Facts::plain(RefusalKind::Misfit, RefusalReason::NoRoom)
        };
        if !past.knows_amounts() {
            return Facts { kind: RefusalKind::Stale, ..facts };
        }
        if !fitted {
            return facts;
        }
        let misfit = Facts { short: facts.short, ..Facts::plain(facts.kind, facts.reason) };
        let blamed = self.blame(facts, past.takers(resource), short.short_by, &owners.jobs);
        // Without such sources that cannot be: what was free at the base and is not now was taken since.
        if blamed.total < short.short_by { misfit } else { blamed }
    }

    /// Of those whose room a claim wanted, who leaves anyway, and whom it would have evicted and may.
    fn sources<'b>(&'b self, about: &'b About<'_>) -> impl Iterator<Item = (AllocationRef<'b>, &'b Wanted<'b>)> {
        let live = about.sources.iter().filter_map(|wanted| Some((self.cell.allocation(wanted.id)?, wanted)));
        live.filter(|(source, wanted)| self.gives(about, source, wanted))
    }

    fn gives(&self, about: &About<'_>, source: &AllocationRef<'_>, wanted: &Wanted<'_>) -> bool {
        source.status.state.is_leaving()
            || about.going.contains(&source.id.slot)
            || (wanted.most.is_none()
                && self.cell.job(about.owner).is_some_and(|owner| may_evict(self.cell, owner, source)))
    }

    /// Port 0: all dynamic ones are in use, and whoever came last took one of them.
    fn no_port(&self, port: u16, about: &About<'_>) -> Facts {
        let facts = Facts { port: Some(port), ..Facts::plain(RefusalKind::Misfit, RefusalReason::PortTaken) };
        let past = self.past(about.machine);
        if !past.is_complete() {
            return Facts { kind: RefusalKind::Stale, ..facts };
        }
        let was_there = if port == 0 { past.has_fewer_ports() } else { self.had_port(port, about, &past) };
        match past.port_taker(port).filter(|_| was_there) {
            Some(taker) => facts.blame(vec![self.culprit(&taker)], taker.amount),
            None => facts,
        }
    }

    /// Whether a claim would have got a port at the base: nobody had it then, or one from whom the claim wanted it.
    fn had_port(&self, port: u16, about: &About<'_>, past: &Past<'_>) -> bool {
        let holder = match past.holders_of(port) {
            [] => return true,
            &[holder] => holder,
            _ => return false,
        };
        let of_it = |most: &TakeOver| most.ports.is_empty() || most.ports.contains(&port);
        let wanted = about.sources.iter().find(|wanted| wanted.id == holder && wanted.most.is_none_or(of_it));
        wanted.is_some_and(|wanted| {
            let live = self.cell.allocation(holder);
            live.map_or_else(|| past.released(holder).is_some(), |source| self.gives(about, &source, wanted))
        })
    }

    /// A limit of a machine, or of the machines with one value, is reached. Who was granted after the base is to blame, or else who
    /// brought tasks to that value, or the machine to them; without anybody, it was reached at the base already.
    fn limit(&self, rule: Option<u16>, about: &About<'_>) -> Facts {
        let reason = if rule.is_some() { RefusalReason::SpreadLimit } else { RefusalReason::PerMachineLimit };
        let facts = Facts::plain(RefusalKind::Misfit, reason);
        let limit = (about.group_row, about.shape, rule);
        let sources = (self.cell, self.ring, self.retagged);
        let newest = self.newcomers.borrow_mut().newest(sources, self.base, limit, about.machine);
        match newest {
            Some(Newcomer::Granted(slot)) => match self.cell.allocation_in(slot) {
                Some(found) => facts.blame(vec![self.row_culprit(found.row, found.id, 1)], 1),
                None => facts,
            },
            Some(Newcomer::Retagged(revision)) => {
                rare!("a spread limit is reached by other attributes");
                Facts::caused(RefusalKind::Conflict, reason, event_culprit(revision, "attributes", 0))
            }
            Some(Newcomer::Forgotten) => self.unseen(false, reason),
            None => self.unseen(true, reason),
        }
    }
}

/// Whether nobody has left a slot after the tenant of this generation, given the generation of the newest tenant, and whether that one is still there.
/// Only then the last end that is known of that slot is its own.
fn left_last(generation: u32, newest: u32, newest_is_there: bool) -> bool {
    newest.checked_sub(u32::from(newest_is_there)) == Some(generation)
}

fn event_culprit(revision: Revision, word: &str, amount: u64) -> Culprit {
    Culprit { revision, transaction: None, scheduler: "".into(), event: word.into(), amount, allocation: None }
}
