//! Why a claim is refused: of which kind, and who came between.

use std::cell::RefCell;
use std::sync::Arc;

use plenum_model::{
    AllocationId, AllocationRef, AllocationRow, Cell, Culprit, Device, DeviceRoom, GroupShape, JobId, MachineState,
    NotWanted, Obstacle, RefusalKind, RefusalReason, Resource, Resources, Revision, Room, SessionId, Shortage,
    TaskTraces, TransactionId, choose_devices, device_rooms,
};

use crate::job_events::{JobEventKind, JobEvents};
use crate::newcomers::Newcomers;
use crate::preempt::may_evict;
use crate::ring::{Change, ChangeKind, Ring, UNKNOWN_TASK};

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
    /// The allocation that the task had is leaving, and its group has a single instance.
    Predecessor,
    /// The namespace has too much already.
    Quota(Shortage),
    /// A guard on the placement or the whole; about a job, or about a machine.
    Guard(Option<JobId>, Option<u32>),
    /// The claim contradicts itself or the job, or may not be made.
    Never(RefusalKind, RefusalReason),
}

impl Trouble {
    /// Whether another machine could be the answer.
    pub(crate) fn is_of_the_machine(self) -> bool {
        match self {
            Self::Machine(_) | Self::NewMachine(..) | Self::Changed(_) => true,
            Self::Never(_, reason) => reason == RefusalReason::NotPermitted,
            Self::NotWanted(_)
            | Self::Taken(_)
            | Self::Job(_)
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
    /// The room that it needs.
    pub(crate) need: Resources,
    /// What earlier claims of the transaction got on that machine.
    pub(crate) promised: Resources,
    /// Devices that they got there.
    pub(crate) promised_devices: Vec<Device>,
    /// Its group.
    pub(crate) shape: Option<&'a GroupShape>,
    /// Its job: a hold of it is free room.
    pub(crate) owner: JobId,
    /// Other jobs whose holds of that machine end with the transaction.
    pub(crate) ended_holders: Vec<JobId>,
    /// What is free there beside them.
    pub(crate) free: Room,
    /// Whom it would have evicted.
    pub(crate) victims: Vec<AllocationId>,
}

impl Default for About<'_> {
    fn default() -> Self {
        Self {
            machine: u32::MAX,
            job: u32::MAX,
            group_row: u32::MAX,
            need: Resources::default(),
            promised: Resources::default(),
            promised_devices: Vec::new(),
            shape: None,
            owner: JobId::default(),
            ended_holders: Vec::new(),
            free: Room::default(),
            victims: Vec::new(),
        }
    }
}

/// A refusal's facts.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) kind: RefusalKind,
    pub(crate) reason: RefusalReason,
    pub(crate) short: Option<(Resource, u64)>,
    pub(crate) short_device: Option<(Arc<str>, u64)>,
    pub(crate) port: Option<u16>,
    pub(crate) culprits: Vec<Culprit>,
    pub(crate) total: u64,
}

impl Facts {
    pub(crate) fn plain(kind: RefusalKind, reason: RefusalReason) -> Self {
        Self { kind, reason, short: None, short_device: None, port: None, culprits: Vec::new(), total: 0 }
    }

    fn caused(kind: RefusalKind, reason: RefusalReason, culprit: Culprit) -> Self {
        Self { total: culprit.amount, culprits: vec![culprit], ..Self::plain(kind, reason) }
    }

    /// As `blame`, unless there is nobody: then it was so at the base.
    fn blame_someone(self, all: Vec<Culprit>, short_by: u64) -> Self {
        if all.is_empty() { self } else { self.blame(all, short_by) }
    }

    /// Names culprits, newest first, until their sum reaches what is short; lists the first few.
    fn blame(self, mut all: Vec<Culprit>, short_by: u64) -> Self {
        all.sort_by_key(|culprit| std::cmp::Reverse(culprit.revision));
        let mut culprits = Vec::new();
        let mut total = 0;
        for culprit in all {
            if total >= short_by {
                break;
            }
            total += culprit.amount;
            if culprits.len() < CULPRITS_LISTED {
                culprits.push(culprit);
            }
        }
        Self { kind: RefusalKind::Conflict, culprits, total, ..self }
    }
}

/// What the judge of refusals looks at.
pub(crate) struct Judge<'a> {
    pub(crate) cell: &'a Cell,
    pub(crate) ring: &'a Ring,
    pub(crate) job_events: &'a JobEvents,
    pub(crate) newcomers: &'a RefCell<Newcomers>,
    pub(crate) base: Revision,
    /// When the ring began: what happened before is only known from rows.
    pub(crate) opened: Revision,
}

impl Judge<'_> {
    /// The facts of a refusal.
    pub(crate) fn facts(&self, trouble: Trouble, about: &About<'_>) -> Facts {
        match trouble {
            Trouble::Never(kind, reason) => Facts::plain(kind, reason),
            Trouble::NewMachine(revision, epoch) => {
                let word = if epoch == 1 { "registered" } else { "epoch" };
                let culprit = event_culprit(revision, word, 0);
                Facts::caused(RefusalKind::Conflict, RefusalReason::MachineChanged, culprit)
            }
            Trouble::Machine(Obstacle::NoRoom(short)) => self.no_room(short, about),
            Trouble::Machine(Obstacle::OtherMachine) => {
                self.job_facts(about.job, &[JobEventKind::Home], RefusalReason::OtherMachine)
            }
            Trouble::Machine(Obstacle::Device(position)) => self.no_device(position, about),
            Trouble::Machine(Obstacle::Port(port)) => self.no_port(port, about),
            Trouble::Machine(Obstacle::PerMachine) => self.limit(None, about),
            Trouble::Machine(Obstacle::Spread(rule)) => self.limit(Some(rule), about),
            Trouble::Machine(obstacle) => self.machine_facts(obstacle, about.machine),
            Trouble::Changed(session) => self.changed(about.machine, session),
            Trouble::Taken(slot) => self.taken(slot),
            Trouble::NotWanted(why) => self.job_facts(about.job, JobEventKind::behind(why), RefusalReason::NotWanted),
            Trouble::Predecessor => self.job_facts(about.job, &[JobEventKind::Left], RefusalReason::Predecessor),
            Trouble::Quota(short) => Facts {
                short: Some((short.resource, short.short_by)),
                ..Facts::plain(RefusalKind::Quota, RefusalReason::QuotaExceeded)
            },
            Trouble::Job(reason) => self.job_facts(about.job, JobEventKind::of_reason(reason), reason),
            Trouble::Guard(job, machine) => self.guard(job, machine),
        }
    }

    fn guard(&self, job: Option<JobId>, machine: Option<u32>) -> Facts {
        let kinds = [JobEventKind::Retired, JobEventKind::Submitted];
        let job = job.and_then(|job| self.job_events.culprit(self.cell, job.slot, &kinds, self.base));
        let machine = machine.and_then(|machine| {
            let since = self.ring.since(machine, self.base);
            let of_machine = since.events.iter().find(|(_, event)| event.holder.is_none());
            of_machine.map(|&(revision, event)| event_culprit(revision, event.word, 0))
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
            Obstacle::OtherMachine
            | Obstacle::NoRoom(_)
            | Obstacle::PerMachine
            | Obstacle::Spread(_)
            | Obstacle::Device(_)
            | Obstacle::Port(_) => unreachable!("judged by others"),
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
            scheduler: self.cell.scheduler_name(change.scheduler).into(),
            event: "".into(),
            amount,
            allocation: Some(change.allocation()),
        }
    }

    fn no_room(&self, short: Shortage, about: &About<'_>) -> Facts {
        let resource = short.resource;
        let since = self.ring.since(about.machine, self.base);
        let owners: Vec<JobId> = about.ended_holders.iter().copied().chain([about.owner]).collect();
        let mut before = since.room_at_base(self.cell, about.free, &owners);
        before.take(&about.promised);
        // Whom it would have evicted was there at the base, too; who has ended since gave its room back.
        let owner = self.cell.job(about.owner);
        for victim in about.victims.iter().filter_map(|&victim| self.cell.allocation(victim)) {
            let could = owner.is_some_and(|owner| may_evict(self.cell, owner, &victim));
            if victim.row.created <= self.base && (could || victim.status.state.is_leaving()) {
                before.add(&self.cell.resources_of(victim.row));
            }
        }
        let gone = since.changes.iter().filter(|change| change.kind == ChangeKind::Release);
        for change in gone.filter(|change| about.victims.contains(&change.allocation())) {
            before.add(&self.cell.shapes().get(change.shape as usize).copied().unwrap_or_default());
        }
        let fitted = before.shortage(&about.need).is_none();
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
        let others = since.events.iter().filter(|(_, event)| !event.is_hold_of(&owners));
        let shrunk = others.filter_map(|(revision, event)| {
            let shrunk = u64::try_from(-Room::get(&event.grown, resource)).ok().filter(|&amount| amount > 0)?;
            Some(event_culprit(*revision, event.word, shrunk))
        });
        let (misfit, blamed) = (Facts { short: facts.short, ..Facts::plain(facts.kind, facts.reason) }, facts);
        let blamed = blamed.blame(takers.chain(shrunk).collect(), short.short_by);
        // Without victims that cannot be: what was free at the base and is not now was taken since.
        if blamed.total < short.short_by { misfit } else { blamed }
    }

    /// Live allocations that were granted on a machine after the base, newest first as far as the ring goes.
    fn takers(&self, machine: u32) -> (Vec<AllocationRef<'_>>, bool) {
        let since = self.ring.since(machine, self.base);
        let takes = since.changes.iter().filter(|change| change.kind == ChangeKind::Take);
        (takes.filter_map(|change| self.cell.allocation(change.allocation())).collect(), since.complete)
    }

    /// The unknown tasks of a machine, and when the newest of them was found, if that was after the base. What any of them has counts
    /// as found then: the ring knows when there were more of them, not which.
    fn unknown_found(&self, machine: u32) -> Option<(Revision, Vec<&TaskTraces>)> {
        let tasks: Vec<&TaskTraces> = self.cell.unknown_on(machine).map(|(_, task)| &*task.traces).collect();
        if tasks.is_empty() {
            return None;
        }
        let since = self.ring.since(machine, self.base);
        let found =
            since.events.iter().filter(|(_, event)| event.word == UNKNOWN_TASK).map(|(revision, _)| *revision).max();
        found.map(|revision| (revision, tasks))
    }

    fn no_device(&self, position: u16, about: &About<'_>) -> Facts {
        let facts = Facts::plain(RefusalKind::Misfit, RefusalReason::DeviceTaken);
        let wanted = about.shape.map(|shape| shape.devices.as_slice()).unwrap_or_default();
        let (Some(want), Some(machine)) = (wanted.get(usize::from(position)), self.cell.machine_in(about.machine))
        else {
            return facts;
        };
        let mut now = device_rooms(self.cell, machine);
        for device in &about.promised_devices {
            let room = now.iter_mut().find(|room| room.kind == device.kind && room.index == device.index);
            room.into_iter().for_each(|room| room.free_millis -= i64::from(device.millis));
        }
        let since = self.ring.since(about.machine, self.base);
        let mut before = since.devices_at_base(now.clone());
        let found = self.unknown_found(about.machine);
        for device in found.iter().flat_map(|(_, tasks)| tasks).flat_map(|task| &task.devices) {
            let room = before.iter_mut().find(|room| room.kind == device.kind && room.index == device.index);
            room.into_iter().for_each(|room| room.free_millis += i64::from(device.millis));
        }
        let fitted = choose_devices(&mut before, wanted).is_ok();
        // What is short is judged after those that come before it in the list were served.
        let _ = choose_devices(&mut now, &wanted[..usize::from(position)]);
        let suits = |room: &&DeviceRoom| room.kind == want.kind && (want.model.is_empty() || want.model == room.model);
        let best = now.iter().filter(suits).map(|room| room.free_millis.max(0)).max();
        let short_by = u64::from(want.millis).saturating_sub(best.unwrap_or(0).unsigned_abs());
        let facts = Facts { short_device: Some((want.kind.clone(), short_by)), ..facts };
        if !since.complete {
            return Facts { kind: RefusalKind::Stale, ..facts };
        }
        if !fitted {
            return facts;
        }
        let (takers, _) = self.takers(about.machine);
        let culprits = takers.iter().filter_map(|found| {
            let devices = found.extra?.devices.iter().filter(|device| device.kind == want.kind);
            let amount = devices.map(|device| u64::from(device.millis)).sum();
            (amount > 0).then(|| self.row_culprit(found.row, found.id, amount))
        });
        let unknown = found.iter().filter_map(|(revision, tasks)| {
            let devices = tasks.iter().flat_map(|task| &task.devices).filter(|device| device.kind == want.kind);
            let amount = devices.map(|device| u64::from(device.millis)).sum();
            (amount > 0).then(|| event_culprit(*revision, UNKNOWN_TASK, amount))
        });
        // The claim may have named other devices than the best: then nobody is to blame for what those lack.
        let misfit = Facts { short_device: facts.short_device.clone(), ..Facts::plain(facts.kind, facts.reason) };
        let blamed = facts.blame_someone(culprits.chain(unknown).collect(), short_by);
        if blamed.culprits.is_empty() || blamed.total < short_by { misfit } else { blamed }
    }

    fn no_port(&self, port: u16, about: &About<'_>) -> Facts {
        let facts = Facts { port: Some(port), ..Facts::plain(RefusalKind::Misfit, RefusalReason::PortTaken) };
        let (takers, complete) = self.takers(about.machine);
        // Port 0: all dynamic ones are in use, and whoever came last took one of them.
        let holds = |found: &&AllocationRef<'_>| {
            found.extra.is_some_and(|extra| extra.ports.iter().any(|held| held.number == port || port == 0))
        };
        let found = self.unknown_found(about.machine).filter(|(_, tasks)| {
            tasks.iter().flat_map(|task| &task.ports).any(|held| held.number == port || port == 0)
        });
        let unknown = found.map(|(revision, _)| event_culprit(revision, UNKNOWN_TASK, 1));
        let culprits = takers.iter().filter(holds).map(|found| self.row_culprit(found.row, found.id, 1));
        let culprits: Vec<_> = culprits.chain(unknown).collect();
        match (culprits.is_empty(), complete) {
            (false, _) => facts.blame(culprits, 1),
            (true, true) => facts,
            (true, false) => Facts { kind: RefusalKind::Stale, ..facts },
        }
    }

    /// A limit of a machine, or of the machines with one value, is reached. Who was granted after the base is to blame; without
    /// anybody, it was reached at the base already.
    fn limit(&self, rule: Option<u16>, about: &About<'_>) -> Facts {
        let reason = if rule.is_some() { RefusalReason::SpreadLimit } else { RefusalReason::PerMachineLimit };
        let facts = Facts::plain(RefusalKind::Misfit, reason);
        let limit = (about.group_row, about.shape, rule);
        let newest = self.newcomers.borrow_mut().newest(self.cell, self.base, limit, about.machine);
        let newest = newest.and_then(|slot| self.cell.allocation_in(slot));
        let culprits: Vec<_> = newest.map(|found| self.row_culprit(found.row, found.id, 1)).into_iter().collect();
        facts.blame_someone(culprits, 1)
    }
}

fn event_culprit(revision: Revision, word: &str, amount: u64) -> Culprit {
    Culprit { revision, transaction: None, scheduler: "".into(), event: word.into(), amount, allocation: None }
}
