//! Commits: a transaction is checked as a whole, resolved, and turned into an outcome and a delta.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::planted::{self, Bug};
use plenum_model::session::Standing;
use plenum_model::{
    AllocationId, AllocationState, AllocationStatus, Decision, Delta, GrantExtra, GrantedElsewhere, GrantedPorts,
    Grants, JobChange, JobState, LogTime, MachineState, Move, Outcome, Placement, Rejection, RejectionCode,
    SessionChange, Transaction, TransactionId, TransactionOutcome, VICTIMS_MAX, counted, floor_of,
};

use crate::blame::grounds::Grounds;
use crate::blame::hindsight::Hindsight;
use crate::resolve::claims::InHand;
use crate::resolve::freed::Freed;
use crate::resolve::preempt::Remains;
use crate::resolve::{Granted, Resolution, Resolver, granted_ids};
use crate::sessions::no_such_session;
use crate::{Core, Handled, Verdict};

/// Why a number that is not above all others is not executed, nor tried.
fn not_new(id: TransactionId, is_dry: bool, standing: Standing) -> Rejection {
    match standing {
        Standing::Decided(decided) if is_dry => {
            let message = format!(
                "{id} was decided at revision {}: a dry run needs a number above all that were decided, and does not use it up",
                decided.revision
            );
            Rejection::new(RejectionCode::NumberReused, message)
        }
        Standing::Decided(decided) => {
            let message = format!("{id} was decided with other content at revision {}", decided.revision);
            Rejection::new(RejectionCode::NumberReused, message)
        }
        Standing::Skipped => {
            let message = format!(
                "{id} comes behind a higher number: numbers rise in the order in which they arrive; it was never executed, and is not any more"
            );
            Rejection { never_was: true, ..Rejection::new(RejectionCode::NumberRetired, message) }
        }
        Standing::Retired | Standing::New => {
            let message = format!(
                "{id} is older than what its session remembers: it is not executed now; whether it was before, `plenum txn show {id}` tells, as long as that is \
                 retained"
            );
            Rejection::new(RejectionCode::NumberRetired, message)
        }
    }
}

impl Core {
    pub(crate) fn commit(&mut self, txn: &Transaction, digest: u64, now: LogTime) -> Handled {
        // First: a session of another incarnation may have the same id as one that is open.
        if txn.incarnation != self.cell.identity().incarnation {
            let message = format!(
                "expected incarnation {}, found {}: open a new session",
                self.cell.identity().incarnation,
                txn.incarnation
            );
            return Err(Rejection::new(RejectionCode::OtherIncarnation, message));
        }
        let Some(session) = self.cell.session(txn.id.session) else {
            return Err(no_such_session(txn.id.session));
        };
        let standing = session.standing(txn.id.number);
        let only_answers = planted::is(Bug::AnswersAnew) && matches!(standing, Standing::Decided(_));
        match standing {
            Standing::Decided(_) if planted::is(Bug::ForgetsNumbers) || only_answers => {}
            Standing::Decided(decided) if decided.digest == digest => return Ok(Verdict::Repeat(decided.revision)),
            Standing::New => {}
            old => return Err(not_new(txn.id, txn.dry_run, old)),
        }
        self.may_commit(&session.scheduler)?;
        self.check(txn)?;
        let scheduler = self.derived.names.number(&session.scheduler).expect("named when its session was opened");
        let machines = txn.placements.iter().flat_map(Placement::all_machines);
        let grounds = Grounds {
            now,
            session,
            scheduler,
            reserved: self.derived.partitions.closed_to(&self.cell, &session.scheduler, machines),
            quotas: &self.derived.quotas,
            epochs_began: &self.derived.epochs_began,
            newest_epoch: self.derived.newest_epoch,
            ring: &self.derived.ring,
            opened: self.derived.opened,
            job_events: &self.derived.job_events,
            group_events: &self.derived.group_events,
            retagged: &self.derived.retagged,
            names: &self.derived.names,
        };
        let resolver = Resolver {
            cell: &self.cell,
            grounds,
            hindsight: Hindsight::default(),
            newcomers: &self.derived.newcomers,
            rules: &mut self.derived.rules,
            promised: &mut self.derived.promised,
            remains: Remains::default(),
            freed: Freed::default(),
            spare: &mut self.derived.spare,
            next_rows: self.derived.allocation_slots.next_rows(),
            in_hand: InHand::default(),
        };
        let resolution = resolver.resolve(txn);
        // A dry run is not logged, so it must leave no trace in what replay derives: not even in the order of free rows.
        let is_dry = txn.dry_run && !planted::is(Bug::LogsDryRuns);
        let untouched = (is_dry || only_answers).then(|| self.derived.allocation_slots.clone());
        let (outcome, mut delta) = self.conclude(txn, resolution, scheduler, now);
        if let Some(untouched) = untouched {
            self.derived.allocation_slots = untouched;
            return Ok(Verdict::Answer(Decision::Outcome(Box::new(outcome))));
        }
        // There is one: room for four would be made else.
        delta.sessions.reserve_exact(1);
        delta.sessions.push(SessionChange::Number { session: txn.id.session, number: txn.id.number, digest });
        Ok(Verdict::Change(Decision::Outcome(Box::new(outcome)), delta))
    }

    /// What can be wrong with a transaction as a whole; then it is not decided.
    fn check(&self, txn: &Transaction) -> Result<(), Rejection> {
        if txn.base > self.cell.revision() {
            let message = format!("based on revision {}, and the cell is at {}", txn.base, self.cell.revision());
            return Err(Rejection::new(RejectionCode::FutureBase, message));
        }
        if u32::try_from(txn.id.number).is_err() {
            let message = format!("number {} is above {}; open a new session", txn.id.number, u32::MAX);
            return Err(Rejection::new(RejectionCode::InvalidRequest, message));
        }
        let unequal = |placement: &&Placement| placement.machines.len() != placement.tasks.len();
        if let Some(placement) = txn.placements.iter().find(unequal) {
            let [machines, tasks] = [(&placement.machines, "machine"), (&placement.tasks, "task")]
                .map(|(column, noun)| counted(column.len() as u64, noun));
            let message = format!("columns of a placement differ in length: {machines}, {tasks}");
            return Err(Rejection::new(RejectionCode::InvalidRequest, message));
        }
        if txn.placements.iter().any(|placement| !placement.preemptions.is_empty()) {
            self.check_victims(txn)?;
        }
        Ok(())
    }

    /// A task cannot be evicted and placed by the same transaction. One whose allocation leaves already, or is stopped with it, may be placed:
    /// nobody is evicted then, and who counts on room that becomes free names all who leave, whosever tasks they were.
    fn check_victims(&self, txn: &Transaction) -> Result<(), Rejection> {
        let claimed: BTreeSet<(u32, u16, u32)> = txn
            .placements
            .iter()
            .flat_map(|placement| placement.tasks.iter().map(|&task| (placement.job.slot, placement.group, task)))
            .collect();
        for placement in &txn.placements {
            let mut by_machine = std::collections::BTreeMap::<u32, usize>::new();
            for preemption in &placement.preemptions {
                let count = by_machine.entry(preemption.machine).or_default();
                *count += 1;
                if *count > VICTIMS_MAX {
                    let message = format!("at most {VICTIMS_MAX} victims of a placement on one machine; name fewer");
                    return Err(Rejection::new(RejectionCode::InvalidRequest, message));
                }
            }
        }
        let victims = txn.placements.iter().flat_map(|placement| &placement.preemptions);
        let stopped: BTreeSet<AllocationId> = txn.stops.iter().copied().collect();
        let evicted = victims.filter(|preemption| !stopped.contains(&preemption.victim));
        let named = evicted.filter_map(|preemption| self.cell.allocation(preemption.victim));
        for found in named.filter(|found| !found.status.state.is_leaving()) {
            let row = found.row;
            if claimed.contains(&(row.job_slot, row.group, row.task)) {
                let message = format!(
                    "{} is named as a victim, and its task {} of group {} is claimed; stop it instead, and claim its task",
                    found.id, row.task, row.group
                );
                return Err(Rejection::new(RejectionCode::InvalidRequest, message));
            }
        }
        Ok(())
    }

    /// Turns a resolution into the outcome and the delta.
    fn conclude(
        &mut self,
        txn: &Transaction,
        resolution: Resolution,
        scheduler: u16,
        now: LogTime,
    ) -> (Outcome, Delta) {
        let mut delta = self.draft(now);
        delta.moves = self.derived.spare.moves.take(resolution.stops.len() + resolution.victims.len());
        let mut moved = self.moved_off(txn, &resolution);
        for &slot in &resolution.stops {
            let restarts = self.cell.extra(slot).map_or(0, |extra| extra.restarts);
            let status = AllocationStatus { state: AllocationState::Stopping, ready: false };
            delta.moves.push(Move { slot, status, restarts, reason: moved.remove(&slot) });
        }
        let evicted = self.evict(txn, &resolution.victims, &mut delta);
        let (mut ports, mut elsewhere) = (Vec::new(), Vec::new());
        let mut placements = Vec::with_capacity(txn.placements.len());
        delta.grants.reserve_exact(resolution.granted.iter().filter(|granted| !granted.is_empty()).count());
        for ((number, placement), granted) in (0..).zip(&txn.placements).zip(&resolution.granted) {
            let grants = delta.grants.len();
            if !granted.is_empty() {
                let columns = self.grant_columns(txn, placement, granted, scheduler, &mut delta);
                delta.grants.push(columns);
            }
            let ends_hold = !granted.is_empty() || planted::is(Bug::RefusalsEndHolds);
            if ends_hold
                && self.cell.hold(placement.job).is_some()
                && !delta.holds.iter().any(|(job, _)| *job == placement.job)
            {
                delta.holds.push((placement.job, None));
            }
            ports.extend(granted.iter().filter_map(|granted| granted_ports(number, granted)));
            if resolution.went_elsewhere {
                elsewhere.extend(granted.iter().filter_map(|granted| granted_elsewhere(number, placement, granted)));
            }
            let ids = self.derived.spare.ids.take(placement.machines.len());
            placements.push(granted_ids(placement, granted, &delta, grants, ids));
        }
        resolution.granted.into_iter().for_each(|granted| self.derived.spare.granted.give(granted));
        for (&job_slot, &machine) in self.derived.promised.homes() {
            let job = self.cell.job_in(job_slot).expect("it was granted a machine");
            delta.jobs.push(JobChange::Home { id: job.id, machine: Some(machine) });
        }
        let any = delta.grants.iter().any(|grants| !grants.slots.is_empty()) || !delta.moves.is_empty();
        let asked = txn.claims() + txn.stops.len() > 0;
        let outcome = match (resolution.refused || (!any && asked), resolution.refusals.is_empty()) {
            (_, true) if !resolution.refused => TransactionOutcome::Committed,
            (true, _) => TransactionOutcome::Refused,
            (false, _) => TransactionOutcome::Partial,
        };
        let outcome = Outcome {
            id: txn.id,
            revision: if txn.dry_run { self.cell.revision() } else { delta.revision },
            time: now,
            outcome,
            placements,
            refusals: resolution.refusals,
            idle_stops: resolution.idle_stops,
            ports,
            elsewhere,
            evicted,
            divergences: resolution.divergences,
        };
        (outcome, delta)
    }

    /// Moves whoever goes for claims of the transaction, and says who that is.
    fn evict(&self, txn: &Transaction, victims: &[(u32, u32)], delta: &mut Delta) -> Vec<AllocationId> {
        let evict = |&(slot, placement): &(u32, u32)| {
            let restarts = self.cell.extra(slot).map_or(0, |extra| extra.restarts);
            let job = self.cell.job(txn.placements[placement as usize].job);
            let reason = job.map(|job| format!("evicted for {}/{}", job.shape.namespace, job.shape.name).into());
            let status = AllocationStatus { state: AllocationState::Evicting, ready: false };
            delta.moves.push(Move { slot, status, restarts, reason });
            self.cell.allocation_in(slot).expect("a victim is there").id
        };
        victims.iter().map(evict).collect()
    }

    /// Why allocations leave a drained machine that are stopped while their tasks are placed anew, by their slots: both with one transaction. Why
    /// it stops others is its scheduler's to know.
    fn moved_off(&self, txn: &Transaction, resolution: &Resolution) -> BTreeMap<u32, Arc<str>> {
        // Mostly none is, and then nothing is looked up.
        if self.derived.drains.first().is_none() {
            return BTreeMap::new();
        }
        let stopped = resolution.stops.iter().filter_map(|&slot| self.cell.allocation_in(slot));
        let drained = stopped.filter_map(|found| Some((found, self.cell.machine_in(found.row.machine)?)));
        let mut drained = drained.filter(|(_, machine)| machine.state == MachineState::Draining).peekable();
        if drained.peek().is_none() {
            return BTreeMap::new();
        }
        let placed = txn.placements.iter().zip(&resolution.granted).flat_map(|(placement, granted)| {
            let task_of = |granted: &Granted| placement.tasks[granted.claim as usize];
            granted.iter().map(move |granted| (placement.job.slot, placement.group, task_of(granted)))
        });
        let placed: BTreeSet<(u32, u16, u32)> = placed.collect();
        let anew = drained.filter(|(found, _)| placed.contains(&(found.row.job_slot, found.row.group, found.row.task)));
        let mut reasons = BTreeMap::<u32, Arc<str>>::new();
        anew.map(|(found, machine)| {
            let reason = reasons.entry(machine.id.slot);
            (
                found.id.slot,
                reason.or_insert_with(|| format!("moved off {}, which is drained", machine.name).into()).clone(),
            )
        })
        .collect()
    }

    fn grant_columns(
        &mut self,
        txn: &Transaction,
        placement: &Placement,
        granted: &[Granted],
        scheduler: u16,
        delta: &mut Delta,
    ) -> Grants {
        let job = self.cell.job(placement.job).expect("its claims were granted");
        let group = usize::from(placement.group);
        let shape = self.cell.shape_number(&job.shape.groups[group].resources).expect("interned when it was submitted");
        if job.state == JobState::Waiting && self.derived.promised.start(job.id.slot) {
            delta.jobs.push(JobChange::State { id: job.id, state: JobState::Running, reason: "".into() });
        }
        let columns = &mut self.derived.spare.columns;
        let mut grants = Grants {
            job: job.id,
            group: placement.group,
            group_row: job.group_row(placement.group).expect("its claims were granted"),
            job_version: job.version,
            shape,
            scheduler,
            session: txn.id.session,
            number: u32::try_from(txn.id.number).expect("checked before"),
            machines: columns.take(granted.len()),
            tasks: columns.take(granted.len()),
            slots: columns.take(granted.len()),
            generations: columns.take(granted.len()),
            extras: Vec::new(),
        };
        for _ in granted {
            grants.slots.push(self.derived.allocation_slots.take());
        }
        let floor = floor_of(self.cell.identity().incarnation);
        for (number, granted) in granted.iter().enumerate() {
            let slot = grants.slots[number];
            let before = self.cell.allocation_rows().get(slot).map_or(0, |row| row.generation);
            if let Some(extra) = &granted.extra {
                let claim = u32::try_from(number).expect("bounded by CLAIMS_MAX");
                grants.extras.push(GrantExtra { claim, ..GrantExtra::clone(extra) });
            }
            grants.machines.push(granted.machine);
            grants.tasks.push(placement.tasks[granted.claim as usize]);
            grants.generations.push(before.max(floor) + 1);
        }
        grants
    }
}

/// The ports of a granted claim, if it got some.
fn granted_ports(placement: u32, granted: &Granted) -> Option<GrantedPorts> {
    let extra = granted.extra.as_ref().filter(|extra| !extra.ports.is_empty())?;
    Some(GrantedPorts { placement, claim: granted.claim, ports: extra.ports.clone() })
}

/// Where a granted claim is, if that is not its own machine.
fn granted_elsewhere(number: u32, placement: &Placement, granted: &Granted) -> Option<GrantedElsewhere> {
    let &Granted { claim, machine, .. } = granted;
    let is_own = placement.machines[claim as usize] == machine;
    (!is_own).then_some(GrantedElsewhere { placement: number, claim, machine })
}
