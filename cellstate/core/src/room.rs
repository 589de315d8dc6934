//! Why a claim is refused: of which kind, and who came between.

use plenum_model::{
    Cell, Culprit, JobId, MachineState, NotWanted, Obstacle, RefusalKind, RefusalReason, Resource, Resources, Revision,
    Room, SessionId, Shortage, TransactionId,
};

use crate::job_events::{JobEventKind, JobEvents};
use crate::ring::{Change, ChangeKind, Ring};

/// Culprits that a refusal lists.
const CULPRITS_LISTED: usize = 4;

/// What stands in a claim's way.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    /// The machine, or its room.
    Machine(Obstacle),
    /// The machine registered, or began an epoch, at this revision, after the base.
    NewMachine(Revision, u32),
    /// Check `sequence`: somebody else than this session changed the machine, or nobody can tell any more.
    Changed(SessionId),
    /// The task or its group.
    NotWanted(NotWanted),
    /// The task has this allocation.
    Taken(u32),
    /// The job, for this reason.
    Job(RefusalReason),
    /// A guard on the placement or the whole; about a job, or about a machine.
    Guard(Option<JobId>, Option<u32>),
    /// The claim contradicts itself or the job, or may not be made.
    Never(RefusalKind, RefusalReason),
}

/// A refusal's facts.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) kind: RefusalKind,
    pub(crate) reason: RefusalReason,
    pub(crate) short: Option<(Resource, u64)>,
    pub(crate) culprits: Vec<Culprit>,
    pub(crate) total: u64,
}

impl Facts {
    pub(crate) fn plain(kind: RefusalKind, reason: RefusalReason) -> Self {
        Self { kind, reason, short: None, culprits: Vec::new(), total: 0 }
    }

    fn caused(kind: RefusalKind, reason: RefusalReason, culprit: Culprit) -> Self {
        Self { culprits: vec![culprit], ..Self::plain(kind, reason) }
    }
}

/// What the judge of refusals looks at.
pub(crate) struct Judge<'a> {
    pub(crate) cell: &'a Cell,
    pub(crate) ring: &'a Ring,
    pub(crate) job_events: &'a JobEvents,
    pub(crate) base: Revision,
    /// When the ring began: what happened before is only known from rows.
    pub(crate) opened: Revision,
}

impl Judge<'_> {
    /// The facts of a refusal. `promised` is what earlier claims of the transaction got on that machine.
    pub(crate) fn facts(
        &self,
        trouble: Trouble,
        machine: u32,
        job_slot: u32,
        need: &Resources,
        promised: &Resources,
    ) -> Facts {
        match trouble {
            Trouble::Never(kind, reason) => Facts::plain(kind, reason),
            Trouble::NewMachine(revision, epoch) => {
                let word = if epoch == 1 { "registered" } else { "epoch" };
                let culprit = event_culprit(revision, word, 0);
                Facts::caused(RefusalKind::Conflict, RefusalReason::MachineChanged, culprit)
            }
            Trouble::Machine(Obstacle::NoRoom(short)) => self.no_room(short, machine, need, promised),
            Trouble::Machine(Obstacle::OtherMachine) => {
                self.job_facts(job_slot, &[JobEventKind::Home], RefusalReason::OtherMachine)
            }
            Trouble::Machine(obstacle) => self.machine_facts(obstacle, machine),
            Trouble::Changed(session) => self.changed(machine, session),
            Trouble::Taken(slot) => self.taken(slot),
            Trouble::NotWanted(why) => self.job_facts(job_slot, JobEventKind::behind(why), RefusalReason::NotWanted),
            Trouble::Job(reason) => self.job_facts(job_slot, JobEventKind::of_reason(reason), reason),
            Trouble::Guard(job, machine) => self.guard(job, machine),
        }
    }

    fn guard(&self, job: Option<JobId>, machine: Option<u32>) -> Facts {
        let kinds = [JobEventKind::Retired, JobEventKind::Submitted];
        let job = job.and_then(|job| self.job_events.culprit(self.cell, job.slot, &kinds, self.base));
        let machine = machine.and_then(|machine| {
            let since = self.ring.since(machine, self.base);
            since.events.first().map(|&(revision, event)| event_culprit(revision, event.word, 0))
        });
        let facts = Facts::plain(RefusalKind::Guard, RefusalReason::GuardFailed);
        Facts { culprits: job.or(machine).into_iter().collect(), ..facts }
    }

    /// Not seen to have happened after the base: then it was so already, unless nobody can tell.
    fn unseen(&self, complete: bool, reason: RefusalReason) -> Facts {
        Facts::plain(if complete { RefusalKind::Misfit } else { RefusalKind::Stale }, reason)
    }

    fn job_facts(&self, job_slot: u32, kinds: &[JobEventKind], reason: RefusalReason) -> Facts {
        match self.job_events.culprit(self.cell, job_slot, kinds, self.base) {
            Some(culprit) => Facts::caused(RefusalKind::Conflict, reason, culprit),
            None => self.unseen(self.base >= self.opened, reason),
        }
    }

    fn machine_facts(&self, obstacle: Obstacle, machine: u32) -> Facts {
        let (reason, words): (_, &[&str]) = match obstacle {
            Obstacle::NoSuchMachine => (RefusalReason::NoSuchMachine, &["removed"]),
            Obstacle::NotReady(MachineState::Unreachable) => (RefusalReason::MachineNotReady, &["expired"]),
            Obstacle::NotReady(MachineState::Draining) => (RefusalReason::MachineNotReady, &["draining"]),
            Obstacle::NotReady(_) => (RefusalReason::MachineNotReady, &["cordoned"]),
            Obstacle::Constraint => (RefusalReason::Constraint, &["attributes"]),
            Obstacle::Full => (RefusalReason::PerMachineLimit, &[]),
            Obstacle::PerMachine => (RefusalReason::PerMachineLimit, &[]),
            Obstacle::Spread(_) => (RefusalReason::SpreadLimit, &[]),
            Obstacle::Device(_) => (RefusalReason::DeviceTaken, &[]),
            Obstacle::Port(_) => (RefusalReason::PortTaken, &[]),
            Obstacle::OtherMachine | Obstacle::NoRoom(_) => unreachable!("judged by others"),
        };
        let since = self.ring.since(machine, self.base);
        if let Some((revision, event)) = since.events.iter().find(|(_, event)| words.contains(&event.word)) {
            let culprit = event_culprit(*revision, event.word, 0);
            return Facts::caused(RefusalKind::Conflict, reason, culprit);
        }
        let newest = since.changes.iter().find(|change| change.kind == ChangeKind::Take);
        if let Some(change) = newest.filter(|_| obstacle == Obstacle::Full) {
            let culprit = self.grant_culprit(change, 1);
            return Facts::caused(RefusalKind::Conflict, reason, culprit);
        }
        self.unseen(since.complete, reason)
    }

    fn changed(&self, machine: u32, session: SessionId) -> Facts {
        let since = self.ring.since(machine, self.base);
        let event = since.events.first().map(|&(revision, event)| event_culprit(revision, event.word, 0));
        let by_others = |change: &&&Change| change.kind == ChangeKind::Take && change.session != session.0;
        let grant = since.changes.iter().find(by_others);
        let grant = grant.map(|change| self.grant_culprit(change, 0));
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
        let culprit = Culprit {
            revision: row.created,
            transaction: Some(TransactionId { session: SessionId(row.session), number: row.number.into() }),
            scheduler: self.cell.scheduler_name(row.scheduler).into(),
            event: "".into(),
            amount: 0,
            allocation: Some(row.id(slot)),
        };
        Facts::caused(RefusalKind::Conflict, RefusalReason::TaskTaken, culprit)
    }

    fn grant_culprit(&self, change: &Change, amount: u64) -> Culprit {
        Culprit {
            revision: change.revision,
            transaction: Some(change.transaction()),
            scheduler: self.cell.scheduler_name(change.scheduler).into(),
            event: "".into(),
            amount,
            allocation: Some(change.allocation()),
        }
    }

    fn no_room(&self, short: Shortage, machine: u32, need: &Resources, promised: &Resources) -> Facts {
        let resource = short.resource;
        let since = self.ring.since(machine, self.base);
        let mut before = since.room_at_base(self.cell, self.cell.room(machine));
        before.take(promised);
        let fitted = before.shortage(need).is_none();
        let facts = Facts {
            short: Some((resource, short.short_by)),
            ..Facts::plain(RefusalKind::Misfit, RefusalReason::NoRoom)
        };
        if !since.complete {
            return Facts { kind: RefusalKind::Stale, ..facts };
        }
        if !fitted {
            return facts;
        }
        let takers = since.changes.iter().filter(|change| change.kind == ChangeKind::Take).filter_map(|change| {
            let amount = self.cell.shapes().get(change.shape as usize)?.get(resource);
            let live = self.cell.allocation(change.allocation()).is_some();
            (amount > 0 && live).then(|| self.grant_culprit(change, amount))
        });
        let shrunk = since.events.iter().filter_map(|(revision, event)| {
            let shrunk = u64::try_from(-Room::get(&event.grown, resource)).ok().filter(|&amount| amount > 0)?;
            Some(event_culprit(*revision, event.word, shrunk))
        });
        let mut all: Vec<_> = takers.chain(shrunk).collect();
        all.sort_by_key(|culprit| std::cmp::Reverse(culprit.revision));
        let mut culprits = Vec::new();
        let mut total = 0;
        for culprit in all {
            if total >= short.short_by {
                break;
            }
            total += culprit.amount;
            if culprits.len() < CULPRITS_LISTED {
                culprits.push(culprit);
            }
        }
        Facts { kind: RefusalKind::Conflict, culprits, total, ..facts }
    }
}

fn event_culprit(revision: Revision, word: &str, amount: u64) -> Culprit {
    Culprit { revision, transaction: None, scheduler: "".into(), event: word.into(), amount, allocation: None }
}
