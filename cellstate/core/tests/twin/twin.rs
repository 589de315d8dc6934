//! The twin itself: what each command does to the picture.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_core::Decided;
use plenum_model::{
    AllocationId, AllocationState, Command, Decision, FoundMachine, JobId, JobKind, JobShape, JobState, LogTime,
    Machine, MachineId, MachineState, Outcome, RejectionCode, Request, Revision, Room, SessionId, TaskState,
    Transaction, TransactionId, Unfit,
};

use crate::compare::assert_outcome;
use crate::picture::{Allocation, Group, Job, NEW_TASK, Picture, Session, Task};

/// What the core must have answered.
#[derive(Debug)]
pub(crate) enum Expected {
    /// Done, with a new revision.
    Changed,
    /// Nothing to do, or a dry run.
    Unchanged,
    Rejected(RejectionCode),
    Repeated(u64),
}

/// Changes that a ring remembers which is not to forget anything.
pub(crate) const RING: usize = 1 << 16;

/// What happened to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Something that it ran has ended.
    End,
    /// It was changed itself.
    Machine,
    /// It was granted, with this transaction.
    Grant(AllocationId, TransactionId),
}

/// One change of a machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    /// Its slot.
    pub(crate) machine: u32,
    pub(crate) what: What,
}

/// A whole cell, and its past.
pub(crate) struct Twin {
    pub(crate) live: Picture,
    /// By revision.
    pub(crate) history: Vec<Picture>,
    pub(crate) now: LogTime,
    /// The revision at which the server opened: nothing before it is known to the ring of changes.
    pub(crate) opened: u64,
    /// What happened to machines, oldest first, in the order in which the core notes it.
    pub(crate) changes: Vec<Change>,
    /// So many of these came before the server opened.
    changes_before: usize,
    /// So many of the newest ones the core remembers.
    ring_changes: usize,
    /// Each change of a job that may stand in the way of claims: revision and slot.
    pub(crate) job_events: Vec<(u64, u32)>,
    /// By how much a machine's capacity grew at a revision.
    pub(crate) shrunk: Vec<(u64, u32, Room)>,
    /// Machines that were given up since they are unreachable.
    pub(crate) given_up: BTreeSet<u32>,
    /// When machines were given up, in the last minute.
    pub(crate) given_up_at: Vec<LogTime>,
    /// When the server opened: before, no agent could answer.
    pub(crate) opened_at: LogTime,
    /// Ids are never used twice.
    ids: BTreeSet<AllocationId>,
}

impl Twin {
    /// Beside a core that remembers so many changes.
    pub(crate) fn new(ring_changes: usize) -> Self {
        Self {
            live: Picture::default(),
            history: vec![Picture::default()],
            now: LogTime::default(),
            opened: 0,
            changes: Vec::new(),
            changes_before: 0,
            ring_changes,
            job_events: Vec::new(),
            shrunk: Vec::new(),
            given_up: BTreeSet::new(),
            given_up_at: Vec::new(),
            opened_at: LogTime::default(),
            ids: BTreeSet::new(),
        }
    }

    /// Does what was asked, and compares the answer with the core's. Ids are the core's to choose, if they are new.
    pub(crate) fn follow(&mut self, request: &Request, now: LogTime, decided: &Decided) {
        self.now = now.max(self.live.time);
        let expected = self.expect(request, decided);
        let machines = &self.live.machines;
        let is_away = |slot: &u32| machines.get(slot).is_some_and(|found| found.state == MachineState::Unreachable);
        self.given_up.retain(is_away);
        match (&expected, decided) {
            (Expected::Changed, Decided::Changed { .. }) => {
                self.live.revision += 1;
                self.live.time = self.now;
                self.note_jobs();
                // As the core notes what one command does: first what ends, then the machine, then what is granted.
                let new = self.changes.partition_point(|change| change.revision < self.live.revision);
                self.changes[new..].sort_by_key(|change| matches!(change.what, What::Machine | What::Grant(..)));
                self.history.push(self.live.clone());
            }
            (Expected::Unchanged, Decided::Unchanged(Decision::Accepted { .. } | Decision::Outcome(_))) => {}
            (Expected::Rejected(code), Decided::Unchanged(Decision::Rejected(rejection)))
                if *code == rejection.code => {}
            (Expected::Repeated(revision), Decided::Repeated(found)) if *revision == found.0 => {}
            _ => panic!("expected {expected:?}, found {decided:?}"),
        }
    }

    /// Notes which jobs don't stand where they stood a revision ago.
    fn note_jobs(&mut self) {
        let (before, now) = (&self.history.last().unwrap().jobs, &self.live.jobs);
        let ids: BTreeSet<JobId> = before.keys().chain(now.keys()).copied().collect();
        let standing = |jobs: &BTreeMap<JobId, Job>, id: &JobId| jobs.get(id).map(Job::standing);
        let changed = ids.into_iter().filter(|id| standing(before, id) != standing(now, id));
        self.job_events.extend(changed.map(|id| (self.live.revision, id.slot)));
    }

    /// The changes that the core remembers, oldest first.
    pub(crate) fn remembered(&self) -> &[Change] {
        &self.changes[self.forgotten()..]
    }

    fn forgotten(&self) -> usize {
        self.changes.len().saturating_sub(self.ring_changes).max(self.changes_before)
    }

    /// The core remembers all changes above this revision.
    pub(crate) fn floor(&self) -> u64 {
        let forgotten = self.forgotten();
        if forgotten > self.changes_before { self.changes[forgotten - 1].revision } else { self.opened }
    }

    /// The core may forget within these tests what numbers of resources stood for, too.
    pub(crate) fn ring_is_small(&self) -> bool {
        self.ring_changes < RING
    }

    /// Notes what this command does to a machine.
    pub(crate) fn note(&mut self, machine: u32, what: What) {
        self.changes.push(Change { revision: self.next(), machine, what });
    }

    /// The revision that this command makes, if it makes one.
    pub(crate) fn next(&self) -> u64 {
        self.live.revision + 1
    }

    fn expect(&mut self, request: &Request, decided: &Decided) -> Expected {
        match &request.command {
            Command::OpenServer(identity) => {
                self.live.identity = identity.clone();
                self.opened = self.next();
                self.changes_before = self.changes.len();
                self.given_up = self.live.given_up();
                self.given_up_at = vec![self.live.time; self.live.perhaps_given_up().len()];
                self.opened_at = self.now;
                Expected::Changed
            }
            Command::OpenSession { scheduler } => {
                let session = Session { scheduler: scheduler.clone(), decided: Vec::new() };
                self.live.sessions.insert(SessionId(self.next()), session);
                Expected::Changed
            }
            Command::CloseSession(id) => match self.live.sessions.remove(id) {
                Some(_) => Expected::Changed,
                None => Expected::Rejected(RejectionCode::NoSuchSession),
            },
            Command::Commit(txn, digest) => self.commit(txn, *digest, decided),
            Command::SubmitJob { shape, body_digest, expected_version, .. } => {
                self.submit(shape, *body_digest, *expected_version, decided)
            }
            Command::StopJob { job, version } => self.stop_job(*job, *version),
            Command::ScaleJob { job, version, group, count } => self.scale(*job, *version, *group, *count),
            Command::StopAllocation(id) => self.stop_allocation(*id),
            Command::RegisterMachine(found) => self.register(found, decided),
            Command::ExpireMachine { machine, epoch } => self.expire(*machine, *epoch),
            Command::ReportFitness { machine, epoch, unfit } => self.report_fitness(*machine, *epoch, *unfit),
            Command::CordonMachine { machine, cordoned } => self.cordon(*machine, *cordoned),
            Command::RemoveMachine { machine, unless_alive } => self.remove_machine(*machine, *unless_alive),
            Command::ReportStatus(transitions) => self.report(transitions, decided),
            Command::Tick => self.tick(decided),
            other => panic!("{other:?} is not told"),
        }
    }

    fn commit(&mut self, txn: &Transaction, digest: u64, decided: &Decided) -> Expected {
        let Some(session) = self.live.sessions.get(&txn.id.session) else {
            return Expected::Rejected(RejectionCode::NoSuchSession);
        };
        if txn.incarnation != self.live.identity.incarnation {
            return Expected::Rejected(RejectionCode::OtherIncarnation);
        }
        match session.decided.iter().find(|(number, ..)| *number == txn.id.number) {
            Some(&(_, revision, known)) if known == digest => return Expected::Repeated(revision),
            Some(_) => return Expected::Rejected(RejectionCode::NumberReused),
            None if session.decided.iter().any(|(number, ..)| *number > txn.id.number) => {
                return Expected::Rejected(RejectionCode::NumberRetired);
            }
            None => {}
        }
        if txn.base.0 > self.live.revision {
            return Expected::Rejected(RejectionCode::FutureBase);
        }
        let (Decided::Changed { decision, .. } | Decided::Unchanged(decision)) = decided else {
            panic!("expected an outcome, found {decided:?}");
        };
        let Decision::Outcome(outcome) = decision else { panic!("expected an outcome, found {decision:?}") };
        let verdict = self.judge(txn);
        assert_outcome(self, txn, outcome, &verdict);
        if txn.dry_run {
            return Expected::Unchanged;
        }
        let number = (txn.id.number, self.next(), digest);
        self.live.sessions.get_mut(&txn.id.session).unwrap().decided.push(number);
        verdict.stops.iter().for_each(|&id| self.leave(id, AllocationState::Stopping));
        for &(placement, claim) in &verdict.granted {
            self.grant(txn, placement as usize, claim as usize, outcome);
        }
        for (job, home) in verdict.homes {
            self.live.jobs.get_mut(&job).unwrap().home = Some(home);
        }
        Expected::Changed
    }

    fn grant(&mut self, txn: &Transaction, number: usize, claim: usize, outcome: &Outcome) {
        let placement = &txn.placements[number];
        let (machine, task) = (placement.machines[claim], placement.tasks[claim]);
        let id = outcome.placements[number][claim].unwrap();
        assert!(self.ids.insert(id), "{id} is used twice");
        let revision = self.next();
        let (now, order) = (self.now, self.changes.len() as u64);
        self.note(machine, What::Grant(id, txn.id));
        let job = self.live.jobs.get_mut(&placement.job).unwrap();
        if job.state == JobState::Waiting {
            (job.state, job.since) = (JobState::Running, now);
        }
        let resources = job.shape.groups[usize::from(placement.group)].resources;
        let row = &mut job.groups[usize::from(placement.group)].tasks[task as usize];
        *row = Task { state: TaskState::Live, attempts: row.attempts + 1, ..*row };
        let allocation = Allocation {
            job: placement.job,
            group: placement.group,
            task,
            machine,
            epoch: self.live.machines[&machine].epoch,
            state: AllocationState::Granted,
            ready: false,
            restarts: 0,
            attempt: row.attempts,
            created: revision,
            session: txn.id.session,
            number: txn.id.number,
            resources,
            order,
        };
        self.live.allocations.insert(id, allocation);
    }

    fn submit(
        &mut self,
        shape: &Arc<JobShape>,
        digest: [u8; 32],
        expected: Option<u32>,
        decided: &Decided,
    ) -> Expected {
        let known = self.live.job_named(shape);
        let there = known.map(|id| &self.live.jobs[&id]);
        let version = there.map_or(0, |job| job.version);
        // In these lives nothing is restored, so that each version is one above that before.
        let is_made = |expected: u32| {
            there.is_some_and(|job| job.version == expected + 1 && job.shape == *shape && job.digest == digest)
        };
        match expected {
            Some(expected) if is_made(expected) => return Expected::Unchanged,
            Some(expected) if expected != version => return Expected::Rejected(RejectionCode::JobVersion),
            _ => {}
        }
        if let Some(id) = known.filter(|id| !self.live.jobs[id].state.is_final()) {
            return self.resubmit(id, shape, digest);
        }
        if known.is_some_and(|id| self.live.has_allocations(id)) {
            return Expected::Rejected(RejectionCode::JobLeaving);
        }
        let Decided::Changed { decision: Decision::Accepted { id, version }, .. } = decided else {
            panic!("expected a job, found {decided:?}");
        };
        let id = JobId::from_bits(*id).unwrap();
        let before = known.map_or(0, |id| self.live.jobs[&id].version);
        assert_eq!((*version, known.unwrap_or(id)), (before + 1, id));
        let was = |picture: &Picture| picture.jobs.contains_key(&id);
        assert!(known.is_some() || !self.history.iter().any(was), "{id} is used twice");
        let group = |count: u32| Group { not_before: LogTime::default(), tasks: vec![NEW_TASK; count as usize] };
        let job = Job {
            version: before + 1,
            shape: shape.clone(),
            digest,
            state: JobState::Waiting,
            since: self.now,
            home: None,
            groups: shape.groups.iter().map(|shape| group(shape.count)).collect(),
        };
        self.live.jobs.insert(id, job);
        Expected::Changed
    }

    /// Only numbers of tasks may differ.
    fn resubmit(&mut self, id: JobId, shape: &Arc<JobShape>, digest: [u8; 32]) -> Expected {
        let job = &self.live.jobs[&id];
        let bare = |shape: &JobShape| {
            let mut bare = shape.clone();
            bare.groups.iter_mut().for_each(|group| group.count = 0);
            bare
        };
        if bare(shape) != bare(&job.shape) || digest != job.digest {
            return Expected::Rejected(RejectionCode::JobChanged);
        }
        let counts: Vec<u32> = shape.groups.iter().map(|group| group.count).collect();
        let differs = |(group, count): &(u16, u32)| job.groups[usize::from(*group)].tasks.len() != *count as usize;
        let scaled: Vec<_> = (0u16..).zip(counts).filter(differs).collect();
        if scaled.is_empty() {
            return Expected::Unchanged;
        }
        let was_bound = self.live.jobs[&id].is_bound();
        scaled.into_iter().for_each(|(group, count)| self.resize(id, group, count));
        self.complete_if_done(id);
        self.give_up_home(id, was_bound);
        Expected::Changed
    }

    fn stop_job(&mut self, id: JobId, version: Option<u32>) -> Expected {
        match self.live.jobs.get_mut(&id) {
            None => return Expected::Rejected(RejectionCode::NoSuchJob),
            Some(job) if version.is_some_and(|version| version != job.version) => {
                return Expected::Rejected(RejectionCode::JobVersion);
            }
            Some(job) if version.is_some() && job.state.is_final() => return Expected::Unchanged,
            Some(job) if job.state.is_final() => return Expected::Rejected(RejectionCode::JobOver),
            Some(job) => (job.state, job.since) = (JobState::Stopped, self.now),
        }
        self.stop_all(id);
        Expected::Changed
    }

    fn scale(&mut self, id: JobId, version: Option<u32>, group: u16, count: u32) -> Expected {
        let Some(job) = self.live.jobs.get(&id) else { return Expected::Rejected(RejectionCode::NoSuchJob) };
        if version.is_some_and(|version| version != job.version) {
            return Expected::Rejected(RejectionCode::JobVersion);
        }
        if job.state.is_final() {
            return Expected::Rejected(RejectionCode::JobOver);
        }
        let Some(tasks) = job.groups.get(usize::from(group)).map(|group| group.tasks.len()) else {
            return Expected::Rejected(RejectionCode::NoSuchGroup);
        };
        if tasks == count as usize {
            return Expected::Unchanged;
        }
        let was_bound = self.live.jobs[&id].is_bound();
        self.resize(id, group, count);
        self.complete_if_done(id);
        self.give_up_home(id, was_bound);
        Expected::Changed
    }

    /// Tasks at the end go, and what runs of them is stopped; new ones wait.
    fn resize(&mut self, id: JobId, group: u16, count: u32) {
        let beyond = |found: &Allocation| (found.job, found.group) == (id, group) && found.task >= count;
        let active = self.live.allocations.iter().filter(|(_, found)| beyond(found) && found.state.is_active());
        let stopped: Vec<_> = active.map(|(&id, _)| id).collect();
        stopped.into_iter().for_each(|id| self.leave(id, AllocationState::Stopping));
        let job = self.live.jobs.get_mut(&id).unwrap();
        job.groups[usize::from(group)].tasks.resize(count as usize, NEW_TASK);
    }

    fn complete_if_done(&mut self, id: JobId) {
        let now = self.now;
        let job = self.live.jobs.get_mut(&id).unwrap();
        let mut tasks = job.groups.iter().flat_map(|group| &group.tasks).peekable();
        let done = tasks.peek().is_some() && tasks.all(|task| task.state == TaskState::Done);
        if done && job.shape.kind == JobKind::ToCompletion {
            (job.state, job.since) = (JobState::Complete, now);
        }
    }

    /// What bound a job to its machine was scaled away.
    fn give_up_home(&mut self, id: JobId, was_bound: bool) {
        let home = self.live.jobs[&id].home;
        let is_its = |found: &Allocation| found.job == id && Some(found.machine) == home;
        let is_there = self.live.allocations.values().any(is_its);
        let job = self.live.jobs.get_mut(&id).unwrap();
        if was_bound && !job.is_bound() && !is_there && !job.state.is_final() {
            job.home = None;
        }
    }

    fn stop_allocation(&mut self, id: AllocationId) -> Expected {
        match self.live.allocations.get(&id).map(|found| found.state.is_leaving()) {
            None => Expected::Rejected(RejectionCode::NoSuchAllocation),
            Some(true) => Expected::Unchanged,
            Some(false) => {
                self.leave(id, AllocationState::Stopping);
                Expected::Changed
            }
        }
    }

    fn register(&mut self, found: &FoundMachine, decided: &Decided) -> Expected {
        let FoundMachine { name, boot_id, capacity, attributes, inventory, seen, .. } = found;
        let Some(slot) = self.live.machine_named(name) else { return self.register_new(found, decided) };
        let before = self.live.machines[&slot].clone();
        let (rebooted, expired) =
            (before.boot_id != boot_id.as_ref().into(), before.state == MachineState::Unreachable);
        if seen.0 < before.epoch_began.0 && (rebooted || seen.0 > 0) {
            return Expected::Rejected(RejectionCode::StaleEpoch);
        }
        let mut machine = Machine {
            boot_id: boot_id.as_ref().into(),
            capacity: Arc::new(*capacity),
            attributes: attributes.clone(),
            ..before.as_ref().clone()
        };
        if rebooted || expired {
            (machine.epoch, machine.epoch_began) = (before.epoch + 1, Revision(self.next()));
        }
        if expired {
            let closed = before.cordoned || before.unfit.is_some();
            let state = if closed { MachineState::Cordoned } else { MachineState::Ready };
            (machine.state, machine.since) = (state, self.now);
        }
        if machine == *before {
            return Expected::Unchanged;
        }
        self.put_machine(machine);
        if rebooted {
            let reported: BTreeMap<_, _> = inventory.iter().map(|item| (item.allocation, item.state)).collect();
            let ended = |id| reported.get(&id).copied().filter(|state| state.is_end());
            let ends: Vec<_> = self.live_on(slot).into_iter().map(|id| (id, ended(id))).collect();
            let state = |ended: Option<AllocationState>| ended.unwrap_or(AllocationState::EndedLost);
            let mut ends: Vec<_> = ends.into_iter().map(|(id, ended)| (id, state(ended))).collect();
            // Nobody knows which came last: then failures do.
            ends.sort_by_key(|(id, state)| {
                let failed = matches!(state, AllocationState::Failed | AllocationState::Complete);
                failed && self.live.allocations[id].state.is_active()
            });
            self.end_all(ends);
        }
        Expected::Changed
    }

    fn register_new(&mut self, found: &FoundMachine, decided: &Decided) -> Expected {
        let FoundMachine { name, boot_id, capacity, attributes, .. } = found;
        let Decided::Changed { decision: Decision::Accepted { id, version: 1 }, .. } = decided else {
            panic!("expected a machine, found {decided:?}");
        };
        let id = MachineId::from_bits(*id).unwrap();
        let was = |picture: &Picture| picture.machines.get(&id.slot).is_some_and(|machine| machine.id == id);
        assert!(!self.history.iter().any(was), "{id} is used twice");
        assert!(!self.live.machines.contains_key(&id.slot), "{id} is in a slot that is taken");
        self.put_machine(Machine {
            id,
            name: name.clone(),
            state: MachineState::Ready,
            cordoned: false,
            unfit: None,
            epoch: 1,
            capacity: Arc::new(*capacity),
            attributes: attributes.clone(),
            devices: Arc::default(),
            boot_id: boot_id.as_ref().into(),
            since: self.now,
            drain_deadline: None,
            registered: self.now,
            epoch_began: Revision(self.next()),
        });
        Expected::Changed
    }

    /// A machine as it is now, with an event.
    fn put_machine(&mut self, machine: Machine) {
        let (slot, revision) = (machine.id.slot, self.next());
        self.note(slot, What::Machine);
        if let Some(before) = self.live.machines.get(&slot) {
            let mut grown = Room::all_of(&machine.capacity);
            grown.take(&before.capacity);
            self.shrunk.push((revision, slot, grown));
        }
        self.live.machines.insert(slot, Arc::new(machine));
    }

    fn known(&self, id: MachineId) -> Option<Machine> {
        self.live.machines.get(&id.slot).filter(|machine| machine.id == id).map(|machine| machine.as_ref().clone())
    }

    fn expire(&mut self, id: MachineId, epoch: u32) -> Expected {
        match self.known(id) {
            None => Expected::Rejected(RejectionCode::NoSuchMachine),
            Some(machine) if machine.epoch != epoch => Expected::Rejected(RejectionCode::StaleEpoch),
            Some(machine) if machine.state == MachineState::Unreachable => Expected::Unchanged,
            Some(machine) => {
                self.put_machine(Machine { state: MachineState::Unreachable, since: self.now, ..machine });
                Expected::Changed
            }
        }
    }

    fn report_fitness(&mut self, id: MachineId, epoch: u32, unfit: Option<Unfit>) -> Expected {
        match self.known(id) {
            None => Expected::Rejected(RejectionCode::NoSuchMachine),
            Some(machine) if machine.epoch != epoch || machine.state == MachineState::Unreachable => {
                Expected::Rejected(RejectionCode::StaleEpoch)
            }
            Some(machine) if machine.unfit == unfit => Expected::Unchanged,
            Some(machine) => {
                let closed = machine.cordoned || unfit.is_some();
                let state = if closed { MachineState::Cordoned } else { MachineState::Ready };
                let since = if state == machine.state { machine.since } else { self.now };
                self.put_machine(Machine { state, unfit, since, ..machine });
                Expected::Changed
            }
        }
    }

    fn cordon(&mut self, id: MachineId, cordoned: bool) -> Expected {
        match self.known(id) {
            None => Expected::Rejected(RejectionCode::NoSuchMachine),
            Some(machine) if machine.cordoned == cordoned => Expected::Unchanged,
            Some(machine) if machine.state == MachineState::Unreachable => {
                self.put_machine(Machine { cordoned, ..machine });
                Expected::Changed
            }
            Some(machine) => {
                let closed = cordoned || machine.unfit.is_some();
                let state = if closed { MachineState::Cordoned } else { MachineState::Ready };
                let since = if state == machine.state { machine.since } else { self.now };
                self.put_machine(Machine { state, cordoned, since, ..machine });
                Expected::Changed
            }
        }
    }

    fn remove_machine(&mut self, id: MachineId, unless_alive: bool) -> Expected {
        let Some(machine) = self.known(id) else { return Expected::Rejected(RejectionCode::NoSuchMachine) };
        if unless_alive && machine.state != MachineState::Unreachable && !self.live_on(id.slot).is_empty() {
            return Expected::Rejected(RejectionCode::MachineAlive);
        }
        self.note(id.slot, What::Machine);
        let ends = self.live_on(id.slot).into_iter().map(|id| (id, AllocationState::EndedLost)).collect();
        self.end_all_and_remove(ends, Some(id.slot));
        self.live.machines.remove(&id.slot);
        Expected::Changed
    }

    /// Live allocations on a machine.
    pub(crate) fn live_on(&self, slot: u32) -> Vec<AllocationId> {
        self.live.allocations.iter().filter(|(_, found)| found.machine == slot).map(|(&id, _)| id).collect()
    }
}
