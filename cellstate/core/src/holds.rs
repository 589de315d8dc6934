//! Holds: room set aside for a starving gang, as long as something of it waits. Taken room for others, free room for its owner, one a job, for a bounded time.
//!
//! Their order is by band, then by first wait. An earlier one may take room from later ones, so that two half-fitting gangs never
//! block each other for ever; a later one that lost machines keeps its place until its deadline.

use std::collections::{BTreeMap, BTreeSet};

use plenum_model::planted::{self, Bug};
use plenum_model::{
    Delta, GivenBack, Hold, Job, JobChange, JobId, JobKind, LogTime, MachineState, Rejection, RejectionCode, Resource,
    Resources, SessionId, any_waits,
};

use crate::quotas::Budget;
use crate::sessions::no_such_session;
use crate::{Core, Handled, Verdict, accepted};

/// All holds but one, as that one meets them on each of its machines: ranked once for all of these.
struct Queue {
    /// Whose they are, and how much they hold on each of their machines; in the order of their ranks.
    ranked: Vec<(JobId, Resources)>,
    /// By job, the place in that order; sorted.
    places: Vec<(JobId, usize)>,
    /// So many come before the one that is taken.
    earlier: usize,
}

impl Queue {
    /// The places of those of these jobs that are in it, rising.
    fn among(&self, jobs: &[JobId]) -> Vec<usize> {
        let place = |job: &JobId| self.places.binary_search_by_key(job, |(of, _)| *of).ok();
        let mut places: Vec<usize> = jobs.iter().filter_map(place).map(|found| self.places[found].1).collect();
        places.sort_unstable();
        places
    }
}

impl Core {
    /// Sets room aside for a job on each of these machines, or on none of them; renews that; or gives it back, without machines.
    pub(crate) fn take_hold(
        &mut self,
        session: SessionId,
        id: JobId,
        machines: &[u32],
        resources: &Resources,
        deadline: LogTime,
        now: LogTime,
    ) -> Handled {
        let job = self.live_job(id, None)?;
        if session != SessionId::default() {
            let asks = self.cell.session(session).ok_or_else(|| no_such_session(session))?;
            self.expect_own(&asks.scheduler, &job)?;
        }
        let before = self.cell.hold(id).cloned();
        let answer = accepted(id.to_bits(), job.version);
        let mut delta = self.draft(now);
        if machines.is_empty() {
            if before.is_none() {
                return Ok(Verdict::Answer(answer));
            }
            delta.holds.push((id, None));
            return Ok(Verdict::Change(answer, delta));
        }
        self.may_hold(session)?;
        self.check_hold(&job, resources, deadline, now)?;
        let hold = Hold {
            machines: machines.iter().copied().collect::<BTreeSet<_>>().into_iter().collect(),
            resources: *resources,
            deadline: deadline.min(now.plus_micros(self.options.hold_micros_max)),
            first_wait: before.as_ref().map_or(delta.revision, |hold| hold.first_wait),
        };
        let mut lost: BTreeMap<JobId, Vec<u32>> = BTreeMap::new();
        let queue = self.queue(&job, &hold);
        let unsuited = self.unsuited_to_all_groups(&job, &hold.machines);
        for &machine in &hold.machines {
            for loser in self.losers_of(&job, &hold, machine, &queue, &unsuited)? {
                lost.entry(loser).or_default().push(machine);
            }
        }
        if before.as_ref().is_none_or(|before| !gives_back(before, &hold)) {
            self.check_hold_quota(&job, &hold, &lost)?;
        }
        if before.as_ref() == Some(&hold) {
            return Ok(Verdict::Answer(answer));
        }
        delta.holds.push((id, Some(hold)));
        for (loser, lost) in lost {
            let mut left = self.cell.hold(loser).expect("it holds room there").clone();
            // Both rise: each is gone through once.
            let mut lost = lost.into_iter().peekable();
            left.machines.retain(|held| lost.next_if_eq(held).is_none());
            delta.holds.push((loser, Some(left)));
        }
        Ok(Verdict::Change(answer, delta))
    }

    /// Whether who asks in this session may take room: since it was asked the session may have been closed, or its scheduler paused. An
    /// operator has none.
    fn may_hold(&self, id: SessionId) -> Result<(), Rejection> {
        if id == SessionId::default() {
            return Ok(());
        }
        let session = self.cell.session(id).ok_or_else(|| no_such_session(id))?;
        self.may_commit(&session.scheduler)
    }

    /// What can be wrong with a hold, whatever room there is.
    fn check_hold(&self, job: &Job, resources: &Resources, deadline: LogTime, now: LogTime) -> Result<(), Rejection> {
        let invalid = |message: String| Err(Rejection::new(RejectionCode::InvalidRequest, message));
        if job.shape.kind == JobKind::Recurring {
            return invalid(format!(
                "{} is recurring and runs nothing itself; hold room for what it launches",
                job.shape.name
            ));
        }
        if *resources == Resources::default() {
            return invalid("resources: expected some of each machine's room, found none".to_owned());
        }
        if deadline <= now {
            return invalid(format!(
                "within_micros: expected a deadline that is still to come when this is decided, found one that was {} µs before",
                now.micros.saturating_sub(deadline.micros)
            ));
        }
        // A renewal is asked for the same: what is placed needs no room, and would keep others from theirs for as long as it lives.
        if !any_waits(&self.cell, job) && !planted::is(Bug::HoldsForNothing) {
            let message = format!(
                "{}: expected a task that waits to be placed, found none; room is held for what waits: give back what is held, or ask \
                 again when something does",
                job.shape.name
            );
            return Err(Rejection::new(RejectionCode::NotWanted, message));
        }
        if self.cell.hold(job.id).is_some() { Ok(()) } else { self.has_place_to_hold(&job.shape.scheduler, now) }
    }

    /// Whether one more job of this scheduler may hold room. One scheduler has at most half of the places that others leave: however many
    /// of its jobs hold room for as long as they like, a gang of another one gets a place, and then the room that is its due.
    fn has_place_to_hold(&self, scheduler: &str, now: LogTime) -> Result<(), Rejection> {
        let is_own = |job: JobId| self.cell.job(job).is_some_and(|job| &*job.shape.scheduler == scheduler);
        let own = self.cell.holds().filter(|(job, _)| is_own(*job)).count();
        let others = self.cell.holds().len() - own;
        let most = self.options.holds_max;
        let places = |others: usize| most.saturating_sub(others).div_ceil(2);
        if own < places(others) || planted::is(Bug::HoldsWithoutPlace) {
            return Ok(());
        }
        // The end of one helps where it is the only one that is missing.
        let end_of_own_helps = own > 0 && own - 1 < places(others);
        let end_of_others_helps = others > 0 && own < places(others - 1);
        let helps = |job: JobId| if is_own(job) { end_of_own_helps } else { end_of_others_helps };
        let first = self.cell.holds().filter(|(job, _)| helps(*job)).map(|(_, hold)| hold.deadline).min();
        let advice = if first.is_some() { ", or try again when some are done" } else { "" };
        let message = format!(
            "at most {most} jobs can hold room at once, and those of one scheduler half of what others leave: {own} of {scheduler} do, \
             and {others} of others; give some back{advice}"
        );
        Err(Rejection::new(RejectionCode::LimitReached, message).passing_at(first, now))
    }

    /// What others lose to it is given back to the quota: two gangs of one namespace would block each other for ever otherwise.
    fn check_hold_quota(&self, job: &Job, hold: &Hold, lost: &BTreeMap<JobId, Vec<u32>>) -> Result<(), Rejection> {
        let namespace = &job.shape.namespace;
        let quotas = &self.derived.quotas;
        let Some(budget) = Budget::of(quotas, &self.cell, job, false) else { return Ok(()) };
        let mut given = GivenBack::default();
        for (loser, machines) in lost.iter().filter(|(loser, _)| quotas.place_of(loser.slot) == Some(budget.place)) {
            let held = self.cell.hold(*loser).expect("it holds room there");
            given.add_times(&held.resources, i64::try_from(machines.len()).expect("machines have slots of 32 bits"));
        }
        let mut wanted = plenum_model::Sum::default();
        wanted.add(&hold.resources, hold.machines.len());
        let short = budget.shortage(&given, &wanted.total());
        let short = short.filter(|_| !planted::is(Bug::HoldsBeyondQuotas));
        let Some(short) = short else { return Ok(()) };
        let short = self.words_of(short);
        let message = format!("the quota of {namespace} is short of {short} for {} to hold that", job.shape.name);
        Err(Rejection::new(RejectionCode::NoRoomToHold, message))
    }

    /// With what the cell calls its resources.
    fn words_of(&self, short: plenum_model::Shortage) -> String {
        short.words_in(&self.cell.identity().custom_resources)
    }

    /// The holds of other jobs than this one, in their order.
    fn queue(&self, job: &Job, hold: &Hold) -> Queue {
        let rank = hold.rank(job.shape.priority, job.id);
        let others = self.cell.holds().filter(|(other, _)| *other != job.id);
        let ranked = others.filter_map(|(other, other_hold)| {
            let priority = self.cell.job(other)?.shape.priority;
            Some((other_hold.rank(priority, other), other, other_hold.resources))
        });
        let mut ranked: Vec<_> = ranked.collect();
        ranked.sort_unstable_by_key(|(rank, ..)| *rank);
        let earlier = |(other, ..): &(_, JobId, Resources)| *other < rank && !planted::is(Bug::JumpsTheQueue);
        let earlier = ranked.iter().take_while(|entry| earlier(entry)).count();
        let mut places: Vec<_> = ranked.iter().map(|(_, other, _)| *other).zip(0..).collect();
        places.sort_unstable();
        Queue { ranked: ranked.into_iter().map(|(_, other, resources)| (other, resources)).collect(), places, earlier }
    }

    /// Of these machines, in rising order, those on which tasks of no group of the job may run: a hold is for the job as a whole. By the bitmaps
    /// that claims go by, which are kept: a job may have thousands of constraints, and a hold of it is renewed again and again.
    fn unsuited_to_all_groups(&mut self, job: &Job, machines: &[u32]) -> Vec<u32> {
        let mut unsuited = machines.to_vec();
        for (group, shape) in (0..).zip(&job.shape.groups) {
            if unsuited.is_empty() || shape.constraints.is_empty() {
                return Vec::new();
            }
            let rule = (group, &shape.constraints[..]);
            let classes = self.derived.rules.classes(&self.cell, job, rule, unsuited.iter().copied());
            unsuited.retain(|&machine| !self.cell.machine_row(machine).is_some_and(|row| classes.contains(row.class)));
        }
        unsuited
    }

    /// The jobs that lose their hold of a machine to this one; or why it cannot be held there. `unsuited`: machines that break the constraints
    /// of each group.
    fn losers_of(
        &mut self,
        job: &Job,
        hold: &Hold,
        slot: u32,
        queue: &Queue,
        unsuited: &[u32],
    ) -> Result<Vec<JobId>, Rejection> {
        let refuse = |message: String| Err(Rejection::new(RejectionCode::NoRoomToHold, message));
        let Some(machine) = self.cell.machine_in(slot) else {
            return refuse(format!("there is no machine in slot {slot}"));
        };
        let name = &machine.name;
        if machine.state != MachineState::Ready {
            return refuse(format!("{name} takes no claims ({})", machine.state.word()));
        }
        let class = self.cell.machine_row(slot).map_or(u32::MAX, |row| row.class);
        if unsuited.binary_search(&slot).is_ok() && !planted::is(Bug::HoldsAgainstConstraints) {
            return refuse(format!("{name} breaks the constraints of each group of {}", job.shape.name));
        }
        let scheduler = &job.shape.scheduler;
        let closed = self.derived.partitions.closed_to(&self.cell, scheduler, std::iter::once(slot));
        if closed.is_some_and(|closed| closed.contains(class)) && !planted::is(Bug::HoldsAnywhere) {
            return refuse(format!("{name} is reserved for other schedulers than {scheduler} by a partition"));
        }
        // With room for all of them nobody comes before anybody: a thousand jobs may hold some of it.
        let mut beside_all = self.cell.room_for(slot, job.id);
        beside_all.take(&hold.resources);
        if beside_all.0.iter().all(|&free| free >= 0) {
            return Ok(Vec::new());
        }
        let on_machine = queue.among(self.cell.held_by(slot));
        let (earlier, later) = on_machine.split_at(on_machine.partition_point(|&place| place < queue.earlier));
        let mut room = self.cell.room(slot);
        earlier.iter().for_each(|&place| room.take(&queue.ranked[place].1));
        if let Some(short) = room.shortage(&hold.resources) {
            let short = self.words_of(short);
            let beside = if earlier.is_empty() { "" } else { " beside the holds that come first" };
            return refuse(format!("{name} is short of {short} for {}{beside}", job.shape.name));
        }
        room.take(&hold.resources);
        let mut losers = Vec::new();
        for (other, resources) in later.iter().map(|&place| &queue.ranked[place]) {
            // What this one does not ask for it takes from nobody, also where a machine has less of it than it gave.
            if room.shortage(&asked_by_both(resources, &hold.resources)).is_none() {
                room.take(resources);
            } else {
                losers.push(*other);
            }
        }
        Ok(losers)
    }

    /// Ends the holds of jobs that are over with this delta, and takes machines that are gone out of those that stay: their slots
    /// will be others'.
    pub(crate) fn settle_holds(&self, delta: &mut Delta) {
        if !self.cell.has_holds() {
            return;
        }
        let mut changed: BTreeMap<JobId, Option<Hold>> = std::mem::take(&mut delta.holds).into_iter().collect();
        for change in &delta.jobs {
            let over = match change {
                JobChange::State { id, state, .. } if state.is_final() => *id,
                JobChange::Removed(id) => *id,
                _ => continue,
            };
            if self.cell.hold(over).is_some() {
                changed.insert(over, None);
            }
        }
        for machine in delta.machines.iter().filter(|machine| machine.state == MachineState::Gone) {
            for &job in self.cell.held_by(machine.id.slot) {
                let hold = changed.entry(job).or_insert_with(|| self.cell.hold(job).cloned());
                hold.iter_mut().for_each(|hold| hold.machines.retain(|&held| held != machine.id.slot));
            }
        }
        delta.holds.extend(changed);
    }

    /// Jobs whose holds are over at `now`, at most `max` of them.
    pub(crate) fn expired_holds(&self, now: LogTime, max: usize) -> Vec<JobId> {
        let is_over = |hold: &Hold| hold.deadline <= now || planted::is(Bug::EndsHoldsTooSoon);
        let expired = self.cell.holds().filter(|(_, hold)| is_over(hold));
        expired.map(|(job, _)| job).take(max).collect()
    }
}

/// Whether a hold has less of some resource, and more of none, than the one in whose place it comes.
fn gives_back(before: &Hold, hold: &Hold) -> bool {
    let of = |hold: &Hold, resource| u128::from(hold.resources.get(resource)) * hold.machines.len() as u128;
    let all = || Resource::ALL.into_iter().map(|resource| (of(before, resource), of(hold, resource)));
    all().all(|(before, now)| now <= before) && all().any(|(before, now)| now < before)
}

/// What is asked for of those resources that another one asks for as well.
fn asked_by_both(asked: &Resources, other: &Resources) -> Resources {
    let of = |resource: Resource| if other.get(resource) > 0 { asked.get(resource) } else { 0 };
    let [cpu_millis, memory_bytes, disk_bytes, custom @ ..] = Resource::ALL.map(of);
    Resources { cpu_millis, memory_bytes, disk_bytes, custom }
}
