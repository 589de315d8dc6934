//! Why a claim is refused: of which kind, and who came between.
//!
//! [`Judge::facts`] tells it of any [`Trouble`]. What each kind needs to be looked at stands in a module of its own.

mod devices;
pub(crate) mod grounds;
pub(crate) mod group_events;
mod guards;
pub(crate) mod hindsight;
pub(crate) mod job_events;
mod jobs;
mod limits;
mod machine;
pub(crate) mod newcomers;
mod ports;
pub(crate) mod ring;
mod room;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use plenum_model::{
    AllocationId, AllocationRow, Cell, Culprit, Device, GroupShape, JobId, MachineId, NotWanted, Obstacle, RefusalKind,
    RefusalReason, Resource, Resources, Revision, Room, SessionId, Shortage, TakeOver, TransactionId,
};

use crate::resolve::freed::FreedRoom;
use grounds::Grounds;
use hindsight::{Hindsight, Past, Suspect, Suspects, Who};
use newcomers::Newcomers;
use ring::Change;

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
    pub(crate) grounds: &'b Grounds<'a>,
    pub(crate) hindsight: &'b Hindsight<'a>,
    /// Behind a cell: judging a refusal changes nothing but this.
    pub(crate) newcomers: &'a RefCell<Newcomers>,
    pub(crate) base: Revision,
}

impl<'a> Judge<'a, '_> {
    /// What happened on a machine since the base.
    fn past(&self, machine: u32) -> Rc<Past<'a>> {
        self.hindsight.of(self.cell, self.grounds.ring, machine, self.base)
    }

    /// The facts of a refusal.
    pub(crate) fn facts(&self, trouble: Trouble, about: &About<'_>) -> Facts {
        match trouble {
            Trouble::Never(kind, reason) => Facts::plain(kind, reason),
            Trouble::NewMachine(revision, epoch) => self.new_machine(about.machine, revision, epoch),
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
            Trouble::Predecessor => self.predecessor(about),
            Trouble::Quota(short) => Facts {
                short: Some((short.resource, short.short_by)),
                ..Facts::plain(RefusalKind::Quota, RefusalReason::QuotaExceeded)
            },
            Trouble::NoSuchJob(job) => self.no_such_job(job),
            Trouble::OtherVersion(job, version) => self.other_version(job, version),
            Trouble::Guard(guarded) => self.guard(guarded),
        }
    }

    /// Not seen to have happened after the base: then it was so already, unless nobody can tell.
    fn unseen(&self, complete: bool, reason: RefusalReason) -> Facts {
        Facts::plain(if complete { RefusalKind::Misfit } else { RefusalKind::Stale }, reason)
    }

    /// The newest suspects, until their sum reaches what is short, are to blame: the first few of them are listed. `owners` are sorted,
    /// and what they hold is in nobody's way.
    fn blame(&self, facts: Facts, suspects: &Suspects<'_>, short_by: u64, owners: &[JobId]) -> Facts {
        let (newest, total) = suspects.newest(short_by, owners, CULPRITS_LISTED);
        facts.blame(newest.iter().map(|suspect| self.culprit(suspect)).collect(), total)
    }

    fn culprit(&self, suspect: &Suspect<'_>) -> Culprit {
        match suspect.who {
            Who::Grant(change) => self.grant_culprit(change, suspect.amount),
            Who::Row(found) => self.row_culprit(found.row, found.id, suspect.amount),
            Who::Event(word, _) => event_culprit(suspect.revision, word, suspect.amount),
        }
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
            scheduler: self.grounds.names.name_at(self.cell, change.scheduler, change.revision).into(),
            event: "".into(),
            amount,
            allocation: Some(change.allocation()),
        }
    }
}

fn event_culprit(revision: Revision, word: &str, amount: u64) -> Culprit {
    Culprit { revision, transaction: None, scheduler: "".into(), event: word.into(), amount, allocation: None }
}
