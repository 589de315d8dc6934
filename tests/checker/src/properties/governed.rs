//! Holds, launches, and tasks that agents run although the cell does not know them.

use std::collections::{BTreeMap, BTreeSet};

use plenum_proto::v1;

use super::rules;
use crate::amounts::Amounts;
use crate::chronicle::{Chronicle, Visitor};
use crate::picture::{Picture, is_over, slot_of};
use crate::room;
use crate::violation::Violation;

/// What somebody who looked at a machine itself saw running there, when the cell was at a revision.
#[derive(Clone, Debug, Default)]
pub struct Sighting {
    /// Of which incarnation.
    pub incarnation: u64,
    /// At which revision; what is seen had been told to the cell by then.
    pub revision: u64,
    /// On which machine.
    pub machine: u64,
    /// Allocations, by the ids that the agent knows them by.
    pub running: Vec<u64>,
}

/// What runs on a machine of the cell has room there: as an allocation that is live, or as a task that nobody knows.
#[must_use]
pub fn property_what_runs_has_room(chronicle: &Chronicle, sightings: &[Sighting]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for sighting in sightings.iter().filter(|sighting| sighting.incarnation == chronicle.incarnation) {
        let Some(picture) = chronicle.picture_at(sighting.revision) else { continue };
        let machine = picture.machines.get(&slot_of(sighting.machine));
        if machine.is_none_or(|machine| machine.id != sighting.machine) {
            // It was taken out of the cell: its agent is yet to hear of it.
            continue;
        }
        let has_room = |allocation: &&u64| {
            let live = picture.allocation(**allocation).is_some_and(|found| found.machine == slot_of(sighting.machine));
            live || picture.unknown_tasks.contains_key(&(slot_of(sighting.machine), **allocation))
        };
        let without = sighting.running.iter().filter(|allocation| !has_room(allocation));
        violations.extend(without.map(|&allocation| Violation::RunsWithoutRoom {
            revision: sighting.revision,
            machine: sighting.machine,
            allocation,
        }));
    }
    violations
}

/// Each recurring job is launched for later and later instants.
#[must_use]
pub fn property_each_instant_is_launched_once(chronicle: &Chronicle) -> Vec<Violation> {
    let mut check = Launches(Vec::new());
    chronicle.walk(&mut check);
    check.0
}

struct Launches(Vec<Violation>);

impl Visitor for Launches {
    fn before(&mut self, picture: &Picture, delta: &v1::Delta) {
        for change in &delta.jobs {
            let Some(v1::job_change::Change::Launched(launched)) = &change.change else { continue };
            let last = picture.jobs.get(&launched.id).and_then(|job| job.last_instant_micros);
            if let Some(last) = last.filter(|&last| launched.instant_micros <= last) {
                let (revision, job, instant) = (delta.revision, launched.id, launched.instant_micros);
                self.0.push(Violation::LaunchedAgain { revision, job, last, instant });
            }
        }
    }
}

/// States of tasks that are yet to be placed: one that waits, and one of a single instance that waits for the one before.
const TO_BE_PLACED: [u32; 2] = [0, 5];

/// Room is held only for jobs of which something is yet to be placed, and on machines where the job may be and that have it, beside what is held by
/// those that come first in the order of holds: by band, then by first wait. It is taken only from those that come later. A job that is over holds nothing.
#[must_use]
pub fn property_holds_keep_their_order(chronicle: &Chronicle) -> Vec<Violation> {
    let mut check = Holds::default();
    chronicle.walk(&mut check);
    check.violations
}

#[derive(Default)]
struct Holds {
    violations: Vec<Violation>,
    /// Before the delta.
    held: BTreeMap<u64, v1::HoldChange>,
}

impl Visitor for Holds {
    fn before(&mut self, picture: &Picture, delta: &v1::Delta) {
        if !delta.holds.is_empty() {
            self.held.clone_from(&picture.holds);
        }
    }

    fn after(&mut self, picture: &Picture, delta: &v1::Delta) {
        let ended = delta.jobs.iter().filter_map(ended_job).filter_map(|job| picture.holds.get(&job));
        self.violations.extend(ended.map(|hold| broken(delta, hold, "the job is over, or gone".to_owned())));
        // Grants use holds up, and machines that go take their part with them: here it is about who took from whom.
        if !delta.grants.is_empty() || !delta.machines.is_empty() {
            return;
        }
        let there = delta.holds.iter().filter(|hold| !hold.removed);
        let (losers, takers): (Vec<_>, Vec<_>) = there.partition(|hold| self.only_lost(hold));
        for taker in &takers {
            let what = not_allowed(picture, taker);
            self.violations.extend(what.map(|what| broken(delta, taker, what)));
            for loser in &losers {
                let (own, other) = (rank(picture, taker), rank(picture, loser));
                if own.is_some() && other.is_some() && other < own {
                    let what = format!("it takes from the hold of job {:#x}, which comes first", loser.job);
                    self.violations.push(broken(delta, taker, what));
                }
            }
        }
    }
}

impl Holds {
    /// It is as it was, without some of its machines.
    fn only_lost(&self, hold: &v1::HoldChange) -> bool {
        let Some(before) = self.held.get(&hold.job) else { return false };
        let left: BTreeSet<u32> = hold.machines.iter().copied().collect();
        let had: BTreeSet<u32> = before.machines.iter().copied().collect();
        let same = v1::HoldChange { machines: before.machines.clone(), ..hold.clone() };
        same == *before && left.is_subset(&had) && left != had
    }
}

/// A job that is over with this change, or retired.
fn ended_job(change: &v1::JobChange) -> Option<u64> {
    match change.change.as_ref()? {
        v1::job_change::Change::State(change) => is_over(change.state()).then_some(change.id),
        v1::job_change::Change::Removed(job) => Some(*job),
        _ => None,
    }
}

fn broken(delta: &v1::Delta, hold: &v1::HoldChange, what: String) -> Violation {
    Violation::HoldBroken { revision: delta.revision, job: hold.job, what }
}

/// Its place in the order of holds; the smaller one comes first.
fn rank(picture: &Picture, hold: &v1::HoldChange) -> Option<(u32, u64, u64)> {
    let priority = picture.jobs.get(&hold.job)?.shape.as_ref()?.priority;
    Some((u32::MAX - priority / 10, hold.first_wait_revision, hold.job))
}

/// Why room may not be held there.
fn not_allowed(picture: &Picture, hold: &v1::HoldChange) -> Option<String> {
    let job = picture.jobs.get(&hold.job)?;
    let shape = job.shape.as_ref()?;
    if !any_waits(picture, job) {
        return Some("none of its tasks waits".to_owned());
    }
    let (own, wanted) = (rank(picture, hold)?, Amounts::of_optional(hold.resources.as_ref()));
    for slot in &hold.machines {
        let Some(machine) = picture.machines.get(slot) else {
            return Some(format!("machine slot {slot} is not there"));
        };
        if let Some(why) = rules::why_it_takes_none(machine) {
            return Some(format!("{} is {why}", machine.name));
        }
        if let Some(partition) = rules::closing_partition(picture.partitions.values(), machine, &shape.scheduler) {
            return Some(format!("{} is in partition {partition}, which is for others", machine.name));
        }
        let suits = |rule| rules::holds(rule, &machine.attributes);
        if !shape.groups.iter().any(|group| group.constraints.iter().all(suits)) {
            return Some(format!("{} breaks a constraint of each group", machine.name));
        }
        let mut free = room::free(picture, *slot);
        let others = picture.holds.values().filter(|other| other.job != hold.job && other.machines.contains(slot));
        for earlier in others.filter(|other| rank(picture, other).is_some_and(|rank| rank < own)) {
            free.take(&Amounts::of_optional(earlier.resources.as_ref()));
        }
        if let Some(short) = wanted.first_above(&free) {
            return Some(format!("{} is short of {short:?} beside what comes first", machine.name));
        }
    }
    None
}

/// Whether anything of a job is yet to be placed.
fn any_waits(picture: &Picture, job: &v1::JobPut) -> bool {
    let groups = job.shape.as_ref().map_or(0, |shape| shape.groups.len());
    let count = |row: &u32| picture.groups.get(row).map_or(0, |group| group.count);
    let mut rows = (job.group_base..).take(groups);
    rows.any(|row| (0..count(&row)).any(|task| TO_BE_PLACED.contains(&picture.task(row, task).state)))
}
