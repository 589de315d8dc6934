//! When allocations of jobs ended, read from the few blocks of the log that tell of them: only what lies around these revisions is folded then, and
//! nothing where none ended. In a busy cell hardly any of what a listing would fold otherwise is about the jobs that were asked for.
//!
//! An end tells a slot, and not whose it was: neither its job nor, where its task was let go of before, its group is in its delta. Grants name their
//! jobs, and a slot's first end behind a grant is the end of what was granted.

use std::collections::BTreeSet;
use std::sync::Arc;

use plenum_history::{BlockSummary, History, Order, Subject};
use plenum_model::{AllocationId, Cell, Job, JobChange};

use super::{delta_of, unreadable};
use crate::api::failure::Failure;
use crate::api::past;

/// Most bytes that are read of names, of what tells of the jobs, and of what tells of their slots: as much each time as a listing folds, which takes
/// many times as long. Of a GiB, which is retained by default, a filter lets some 30 MiB pass that tell of others.
const READ_BYTES_MAX: u64 = super::FOLDED_BYTES_MAX;
/// Most allocations that ended and are looked for: there are ends in nearly all blocks where there are more, and nothing to pass over.
const ENDED_MAX: usize = 1 << 16;

/// Slots that were given to the jobs, each with the revision of the grant, or of a moment between that and the end.
type Granted = BTreeSet<(u32, u64)>;

/// The revisions up to the cell's, as far as these are retained, at which allocations ended of all jobs that have or had this name, in any namespace where
/// that is empty; a few others may be among them. `None` where it would take too long to find out.
pub(in crate::api) fn ends(
    history: &History,
    cell: &Cell,
    namespace: &str,
    name: &str,
) -> Result<Option<BTreeSet<u64>>, Failure> {
    let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
    let remembered = history.jobs_called(namespace, name, READ_BYTES_MAX).map_err(unreadable)?;
    let Some(remembered) = remembered else { return Ok(None) };
    let mut jobs: BTreeSet<u64> = remembered.into_iter().map(|job| job.id).collect();
    // A history that began with a checkpoint that can't be read has no names of what was there.
    let is_called = |job: &&Arc<Job>| {
        *job.shape.name == *name && namespace.is_none_or(|namespace| *job.shape.namespace == *namespace)
    };
    jobs.extend(cell.jobs().filter(is_called).map(|job| job.id.to_bits()));
    match granted(history, cell, jobs)? {
        Some(granted) => ends_of(history, cell, granted),
        None => Ok(None),
    }
}

/// What these jobs were granted and is not live any more.
fn granted(history: &History, cell: &Cell, mut jobs: BTreeSet<u64>) -> Result<Option<Granted>, Failure> {
    let has_ended = |id: AllocationId| cell.allocation(id).is_none();
    let mut granted = Granted::new();
    let mut walk = history.walk(1..=cell.revision().0, Order::NewestFirst);
    // As long as there may be grants that are older.
    while !jobs.is_empty() {
        if walk.read_bytes() > READ_BYTES_MAX || granted.len() > ENDED_MAX {
            return Ok(None);
        }
        let about = |block: &BlockSummary| jobs.iter().any(|job| block.may_tell_of(Subject::Job(*job)));
        let Some(entries) = walk.next(about).map_err(unreadable)? else { break };
        for logged in &entries {
            let delta = delta_of(&logged.entry)?;
            for grants in delta.grants.iter().filter(|grants| jobs.contains(&grants.job.to_bits())) {
                let ids = grants.slots.iter().zip(&grants.generations);
                let ids = ids.map(|(&slot, &generation)| AllocationId { slot, generation });
                granted.extend(ids.filter(|id| has_ended(*id)).map(|id| (id.slot, delta.revision.0)));
            }
            for change in &delta.jobs {
                // Before its first version there was nothing of it.
                if let JobChange::Put { job, .. } = change
                    && job.version == 1
                {
                    jobs.remove(&job.id.to_bits());
                }
            }
        }
    }
    if !jobs.is_empty() {
        // What they were granted before stands in the oldest cell that there is, unless it had ended by then.
        let then = past::fold_retained(history, 0)?;
        let theirs = then.allocations().filter(|found| jobs.contains(&found.row.job().to_bits()));
        granted.extend(theirs.filter(|found| has_ended(found.id)).map(|found| (found.id.slot, then.revision().0)));
    }
    Ok((granted.len() <= ENDED_MAX).then_some(granted))
}

/// When these ended.
fn ends_of(history: &History, cell: &Cell, mut granted: Granted) -> Result<Option<BTreeSet<u64>>, Failure> {
    let mut ends = BTreeSet::new();
    let first = granted.iter().map(|(_, revision)| *revision).min().unwrap_or_default();
    let mut walk = history.walk(first..=cell.revision().0, Order::OldestFirst);
    while !granted.is_empty() {
        if walk.read_bytes() > READ_BYTES_MAX {
            return Ok(None);
        }
        let about = |block: &BlockSummary| {
            let mut by_then = granted.iter().filter(|(_, revision)| *revision <= block.last);
            by_then.any(|(slot, _)| block.may_tell_of(Subject::AllocationSlot(*slot)))
        };
        let Some(entries) = walk.next(about).map_err(unreadable)? else { break };
        for logged in &entries {
            let delta = delta_of(&logged.entry)?;
            for end in &delta.ends {
                // What a delta ends, it ends before it grants.
                let before = (end.slot, 0)..(end.slot, delta.revision.0);
                if let Some(ended) = granted.range(before).next_back().copied() {
                    granted.remove(&ended);
                    ends.insert(delta.revision.0);
                }
            }
        }
    }
    Ok(Some(ends))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::api::listing::Room;
    use crate::api::past::ended::{Left, list};
    use crate::api::past::story::gone::tests::{at, history_of};
    use crate::engine::Picture;
    use plenum_model::{
        AllocationState, Delta, End, Grants, GroupShape, JobId, JobShape, JobState, LogTime, MachineState, Resources,
    };

    const WEB: JobId = JobId { slot: 0, generation: 1 };
    const OTHER: JobId = JobId { slot: 1, generation: 1 };
    /// Submitted when `WEB` was retired, under the same name.
    const WEB_ANEW: JobId = JobId { slot: 0, generation: 2 };

    /// A job of two tasks is submitted.
    fn put(id: JobId, version: u32, name: &str) -> JobChange {
        let group = GroupShape { name: "work".into(), count: 2, ..GroupShape::default() };
        let (name, namespace, scheduler) = (name.into(), "default".into(), "batch".into());
        let job = Job {
            id,
            version,
            shape: Arc::new(JobShape { name, namespace, scheduler, groups: vec![group], ..JobShape::default() }),
            body: Some(Arc::from([])),
            body_digest: [0; 32],
            submitted: LogTime::from_micros(1),
            state: JobState::Waiting,
            state_since: LogTime::from_micros(1),
            reason: "".into(),
            group_base: id.slot,
            home: None,
            last_instant_micros: None,
        };
        JobChange::Put { job: Arc::new(job), task_bases: vec![2 * id.slot] }
    }

    fn grant(job: JobId, task: u32, (slot, generation): (u32, u32)) -> Delta {
        let grants = Grants {
            job,
            group_row: job.slot,
            slots: vec![slot],
            generations: vec![generation],
            machines: vec![0],
            tasks: vec![task],
            ..Grants::default()
        };
        Delta { grants: vec![grants], ..Delta::default() }
    }

    /// The end of one that was told to stop: its delta has nothing else.
    fn end(slot: u32) -> Delta {
        let end = End { slot, state: AllocationState::Stopped, exit_code: 0, reason: None };
        Delta { ends: vec![end], ..Delta::default() }
    }

    fn changes(jobs: Vec<JobChange>) -> Delta {
        Delta { jobs, ..Delta::default() }
    }

    fn decided_at(revision: u64, delta: Delta) -> Delta {
        let Delta { revision, time, .. } = at(revision);
        Delta { revision, time, ..delta }
    }

    /// Slots go from job to job; `WEB` is submitted again at revision 9, under its id, and retired at 14.
    fn course() -> Vec<Delta> {
        let came = Delta {
            machines: vec![Arc::new(crate::agents::machine(0, 7, MachineState::Ready))],
            scheduler_names: vec!["batch".into()],
            shapes: vec![Resources::default()],
            ..changes(vec![put(WEB, 1, "web"), put(OTHER, 1, "other")])
        };
        let course = [
            came,
            grant(WEB, 0, (0, 1)),
            grant(OTHER, 0, (1, 1)),
            end(0),
            grant(OTHER, 1, (0, 2)),
            grant(WEB, 0, (2, 1)),
            end(0),
            end(2),
            changes(vec![put(WEB, 2, "web")]),
            grant(WEB, 1, (0, 3)),
            // One leaves a slot, and another one gets it at once.
            Delta { ends: end(1).ends, ..grant(WEB, 0, (1, 2)) },
            end(0),
            end(1),
            changes(vec![JobChange::Removed(WEB)]),
            changes(vec![put(WEB_ANEW, 1, "web")]),
            grant(WEB_ANEW, 0, (0, 4)),
            end(0),
            grant(WEB_ANEW, 0, (0, 5)),
            grant(OTHER, 0, (1, 3)),
        ];
        (1..).zip(course).map(|(revision, delta)| decided_at(revision, delta)).collect()
    }

    /// Allocations of jobs of a name that ended, with the revisions at which they did, when these are looked for and when they are not.
    fn listed(history: &History, cell: &Cell, name: &str) -> [Vec<(u64, u64)>; 2] {
        let picture = Picture::new(Cell::default(), crate::publish::Times::default(), Duration::ZERO);
        let found = ends(history, cell, "", name).unwrap();
        assert!(found.is_some(), "all of it is read");
        [found, None].map(|ends| {
            let mut room = Room::new(100);
            let passes = |row: &plenum_proto::v1::AllocationView| row.job == name;
            let (rows, left) = list(history, &picture, cell.revision(), ends.as_ref(), &mut room, passes).unwrap();
            assert_eq!(left, Left::Nothing);
            rows.iter().map(|row| (row.id, row.ended_revision)).collect()
        })
    }

    // Ends of those that were told to stop, were lost or had to go say nothing of their jobs, and a slot has one tenant after the other.
    #[test]
    fn what_ended_of_a_job_is_found_whoever_had_its_slots_whatever_is_retired_and_whichever_moment_is_asked_for() {
        let course = course();
        for retired in [0, 1, 3, 4, 6, 10, 11, 15] {
            let dir = tempfile::tempdir().unwrap();
            let history = history_of(dir.path(), &course);
            let mut cell = Cell::default();
            for delta in &course {
                cell.apply(delta).unwrap();
                let revision = cell.revision().0;
                if revision == retired {
                    crate::checkpoint::write(&history, &cell, None).unwrap();
                    history.retire(revision).unwrap();
                    assert_eq!(history.oldest_revision(), revision);
                }
                if revision > retired {
                    for name in ["web", "other", "none"] {
                        let [by_ends, by_all] = listed(&history, &cell, name);
                        assert_eq!(by_ends, by_all, "{name} at revision {revision}, retained from {retired} on");
                    }
                }
            }
            if retired == 0 {
                let ended: Vec<_> = listed(&history, &cell, "web")[0].iter().map(|(_, revision)| *revision).collect();
                assert_eq!(ended, [17, 13, 12, 8, 4]);
                let ended: Vec<_> = ends(&history, &cell, "default", "other").unwrap().into_iter().flatten().collect();
                assert_eq!(ended, [7, 11], "and not when others ended in its slots");
                assert_eq!(ends(&history, &cell, "ml", "web").unwrap(), Some(BTreeSet::new()));
            }
        }
    }

    // Of each job 64 MiB of the past were folded, which took seconds in a busy cell, also where nothing of it had ended.
    #[test]
    fn what_tells_of_other_jobs_is_not_folded_for_one_of_which_nothing_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut course = course();
        course.truncate(3);
        course.extend([decided_at(4, end(1)), at(5)]);
        let (history, cell) = past::tests::retiring_at(dir.path(), &course, 4);
        let picture = Picture::new(Cell::default(), crate::publish::Times::default(), Duration::ZERO);
        let found = ends(&history, &cell, "default", "web").unwrap();
        assert_eq!(found, Some(BTreeSet::new()));
        let list = |ends: Option<&BTreeSet<u64>>| {
            let mut room = Room::new(100);
            list(&history, &picture, cell.revision(), ends, &mut room, |row| row.job == "web").unwrap()
        };
        assert_eq!((list(found.as_ref()), history.oldest_revision()), ((vec![], Left::Nothing), 1));
        // While the block that tells of the other one's end is read, all before the newest revision is retired.
        list(None);
        assert_eq!(history.oldest_revision(), 5);
    }
}
