//! What happened to the cell as a whole: servers that started, machines that came, went or became others than they were, and jobs that failed. What becomes of
//! single tasks it does not tell: that is far more, and stands in the stories of their jobs.

use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_history::{History, Logged, ReadError};
use plenum_model::{Cell, Delta, JobChange, JobState, Machine};

use super::Teller;
use super::machine::{came, difference};
use crate::api::failure::Failure;

/// A machine as it was from some revision on.
pub(super) struct Row {
    /// The place of its event.
    event: usize,
    machine: Arc<Machine>,
    /// It came then: there was none before.
    came: bool,
}

/// From which revision on a story is told that is asked for since a time, in microseconds; 0: of all that is retained.
pub(in crate::api) fn first_since(history: &History, since_micros: i64) -> Result<u64, Failure> {
    if since_micros == 0 {
        return Ok(1);
    }
    match history.revision_at_time(since_micros.saturating_sub(1)) {
        Ok(before) => Ok(before.saturating_add(1)),
        // All that is retained is of a later time; what is retired of it the story says.
        Err(ReadError::BeforeFirst | ReadError::TimeRetired { .. }) => Ok(1),
        Err(error) => Err(Failure::history(&error)),
    }
}

impl Teller<'_> {
    /// Tells what an entry has of it.
    pub(super) fn cell(&mut self, logged: &Logged, delta: &Delta) -> Result<(), Failure> {
        for change in delta.jobs.iter().rev() {
            if let JobChange::State { id, state: JobState::Failed, reason } = change {
                let colon = if reason.is_empty() { "" } else { ": " };
                self.push(logged, "failed", format!("job {}{colon}{reason}", self.job_name(*id)))?;
            }
        }
        if !delta.machines.is_empty() {
            let event = self.event(logged, "", String::new())?;
            for machine in delta.machines.iter().rev() {
                let row = Row { event: self.events.len(), machine: machine.clone(), came: came(machine, delta) };
                self.rows.push(row);
                self.events.push(event.clone());
            }
        }
        if let Some(cell) = &delta.cell {
            self.push(logged, "started", format!("server: term {}, incarnation {}", cell.term, cell.incarnation))?;
        }
        Ok(())
    }

    /// Says of each row of a machine what differs from the one before. The first one of each that did not come then differs from what the cell had at
    /// a revision, before all of them.
    pub(super) fn finish_cell(&mut self, revision: u64) -> Result<(), Failure> {
        let mut before: BTreeMap<u32, Arc<Machine>> = BTreeMap::new();
        let mut then: Option<Cell> = None;
        for Row { event, machine, came } in std::mem::take(&mut self.rows).into_iter().rev() {
            let slot = machine.id.slot;
            let mut known = before.remove(&slot);
            if known.is_none() && !came {
                let cell = match then.take() {
                    Some(cell) => cell,
                    None => self.then(revision)?,
                };
                // Of what is retained the oldest cell may be that of the row itself: what was before it nobody knows.
                let is_before = cell.revision().0 < self.events[event].revision;
                known = cell.machine_in(slot).filter(|_| is_before).cloned();
                then = Some(cell);
            }
            // A slot is given to others.
            let known = known.filter(|known| known.id == machine.id);
            let (word, facts) = difference(known.as_deref(), &machine, came);
            let colon = if facts.is_empty() { "" } else { ": " };
            let told = &mut self.events[event];
            (told.event, told.detail) = (word.to_owned(), format!("machine {}{colon}{facts}", machine.name));
            before.insert(slot, machine);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::gone::tests::{append, at, history_of};
    use super::super::{Hero, tell};
    use super::*;
    use crate::agents::machine;
    use plenum_model::{CellIdentity, Deadline, JobId, LogTime, MachineState, Revision};

    /// Seven revisions: a server starts, two machines come, one is drained, something else happens, that one is lost, a job fails, and it is back.
    fn course() -> Vec<Delta> {
        let ready = |slot, revision| Machine {
            registered: LogTime::from_micros(1),
            epoch_began: Revision(revision),
            ..machine(slot, 1, MachineState::Ready)
        };
        let with = |revision, machine: Machine| Delta { machines: vec![Arc::new(machine)], ..at(revision) };
        let first = ready(0, 2);
        let drained = Machine {
            state: MachineState::Draining,
            drain_deadline: Deadline::new(LogTime::from_micros(60_000_000)),
            ..first.clone()
        };
        let lost = Machine { state: MachineState::Unreachable, ..first.clone() };
        let back = Machine { epoch: 2, epoch_began: Revision(7), registered: LogTime::from_micros(0), ..first.clone() };
        let failed = JobChange::State {
            id: JobId { slot: 3, generation: 1 },
            state: JobState::Failed,
            reason: "work: task 0 failed".into(),
        };
        vec![
            Delta { cell: Some(CellIdentity { term: 4, incarnation: 1, ..CellIdentity::default() }), ..at(1) },
            Delta { machines: [first, ready(1, 2)].map(Arc::new).to_vec(), ..at(2) },
            with(3, drained),
            at(4),
            with(5, lost),
            Delta { jobs: vec![failed], ..at(6) },
            with(7, back),
        ]
    }

    fn words(history: &History, from: u64, limit: usize) -> (Vec<String>, u64) {
        let mut cell = Cell::default();
        // Up to there the story is told; nothing else of it is asked.
        cell.apply(&at(1)).unwrap();
        (2..=7).for_each(|revision| cell.apply(&at(revision)).unwrap());
        let story = tell(history, &cell, &Hero::Cell { from }, limit).unwrap();
        let told = story.events.iter().map(|event| format!("{} {} {}", event.revision, event.event, event.detail));
        (told.map(|line| line.trim_end().to_owned()).collect(), story.older_at)
    }

    // Which machines had been lost in the night was asked of each machine, and which jobs had failed of each job.
    #[test]
    fn the_story_of_a_cell_has_its_servers_its_machines_and_the_jobs_that_failed() {
        let dir = tempfile::tempdir().unwrap();
        let course: Vec<Delta> = course().into_iter().filter(|delta| delta.jobs.is_empty()).collect();
        let history = history_of(dir.path(), &course[..5]);
        append(&history, &[at(6)]);
        append(&history, &course[5..]);
        let whole = [
            "1 started server: term 4, incarnation 1",
            "2 registered machine m0: ready, epoch 1",
            "2 registered machine m1: ready, epoch 1",
            "3 draining machine m0: what is left is stopped at 1970-01-01T00:01:00Z",
            "5 unreachable machine m0",
            "7 ready machine m0: epoch 2",
        ];
        assert_eq!(words(&history, 1, 10), (whole.map(str::to_owned).to_vec(), 0));
        // What a machine was before is asked of the cell of then.
        assert_eq!(words(&history, 1, 1), (vec![whole[5].to_owned()], 5));
        assert_eq!(words(&history, 5, 10), (vec![whole[4].to_owned(), whole[5].to_owned()], 0));
        assert_eq!(words(&history, 8, 10), (vec![], 0));
    }

    // No test followed the pages to the end: one that left out what a page began with, or told it twice, passed them all.
    #[test]
    fn pages_of_any_length_tell_together_what_one_page_tells_also_while_more_happens() {
        let dir = tempfile::tempdir().unwrap();
        let course: Vec<Delta> = course().into_iter().filter(|delta| delta.jobs.is_empty()).collect();
        let history = history_of(dir.path(), &course[..5]);
        append(&history, &[at(6)]);
        append(&history, &course[5..]);
        let told = |until: u64, limit| {
            let mut cell = Cell::default();
            (1..=until).for_each(|revision| cell.apply(&at(revision)).unwrap());
            tell(&history, &cell, &Hero::Cell { from: 1 }, limit).unwrap()
        };
        let whole = told(7, 100).events;
        assert_eq!(whole.len(), 6);
        let mut newest = 7;
        for limit in 1..=whole.len() {
            let (mut until, mut gathered) = (7, Vec::new());
            while until > 0 {
                let page = told(until, limit);
                assert!(page.older_at < until, "{limit}: what is older is older");
                assert_eq!(page.truncated, page.older_at > 0, "{limit}");
                gathered.splice(0..0, page.events);
                until = page.older_at;
                newest += 1;
                let another = CellIdentity { term: newest, incarnation: 1, ..CellIdentity::default() };
                append(&history, &[Delta { cell: Some(another), ..at(newest) }]);
            }
            assert_eq!(gathered, whole, "pages of {limit}");
        }
    }

    #[test]
    fn a_job_that_failed_is_told_by_its_name_or_its_id_and_why() {
        let dir = tempfile::tempdir().unwrap();
        let history = history_of(dir.path(), &course());
        let failed = "6 failed job job-3-1: work: task 0 failed".to_owned();
        // The last one is back, and that is told by the row before.
        assert_eq!(words(&history, 6, 10).0, [failed, "7 ready machine m0: epoch 2".to_owned()]);
    }

    // Once older revisions were retired it was told as changed, and in nothing: the oldest cell that is retained has it already.
    #[test]
    fn what_is_told_of_the_oldest_revision_is_not_compared_with_itself() {
        let dir = tempfile::tempdir().unwrap();
        let course = course();
        let history = history_of(dir.path(), &course[..5]);
        let mut cell = Cell::default();
        course[..5].iter().for_each(|delta| cell.apply(delta).unwrap());
        crate::checkpoint::write(&history, &cell, None).unwrap();
        assert_eq!(history.retire(5).unwrap().oldest, 5);
        let story = tell(&history, &cell, &Hero::Cell { from: 1 }, 10).unwrap();
        let told: Vec<_> = story.events.iter().map(|event| (event.revision, &*event.event, &*event.detail)).collect();
        assert_eq!(told, [(5, "unreachable", "machine m0")]);
    }
}
