//! The last events of each job, by kind: so that a claim that a job stands in the way of names the command that made it so.
//!
//! Derived, like the ring: it begins empty when a server opens.

use plenum_model::{
    Cell, Culprit, Delta, JobChange, Move, NotWanted, RefusalReason, Revision, SessionId, TransactionId,
};

use crate::names::Names;

/// What can happen to a job that stands in the way of claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobEventKind {
    /// Submitted, or given another version.
    Submitted = 0,
    /// Complete, failed or stopped.
    Over = 1,
    /// A group was scaled, or has to sleep over a failure.
    Group = 2,
    /// A task is done, or failed for good, or is to run again.
    Task = 3,
    /// Its tasks were given a machine to share, or lost it.
    Home = 4,
    /// It is gone.
    Retired = 5,
    /// The allocation of a task that has a single instance began to leave.
    Left = 6,
}

const KINDS: usize = 7;

/// Words for people, by kind.
const WORDS: [&str; KINDS] = ["submitted", "over", "group", "task", "home", "retired", "leaving"];

impl JobEventKind {
    pub(crate) const fn word(self) -> &'static str {
        WORDS[self as usize]
    }

    /// The kinds of events that can make a task unwanted so; none where nothing does that to a job of the same version.
    pub(crate) fn behind(not_wanted: NotWanted) -> &'static [Self] {
        match not_wanted {
            NotWanted::JobOver(_) => &[Self::Over],
            NotWanted::Recurring => &[Self::Submitted],
            NotWanted::Backoff(_) | NotWanted::NoSuchTask => &[Self::Group],
            NotWanted::Task(_) => &[Self::Task],
            NotWanted::NoSuchGroup => &[],
            // Predecessors that were done stay so, unless they were scaled up or the job has to start over elsewhere.
            NotWanted::After(_) => &[Self::Home, Self::Group],
        }
    }

    /// The kinds of events that can make a job stand in the way for this reason.
    pub(crate) fn of_reason(reason: RefusalReason) -> &'static [Self] {
        match reason {
            RefusalReason::NoSuchJob => &[Self::Retired],
            RefusalReason::OtherMachine => &[Self::Home],
            _ => &[Self::Submitted],
        }
    }
}

/// One event, in 24 bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Event {
    revision: u64,
    /// Of the transaction that it came with; 0 where it was none.
    session: u64,
    number: u32,
    scheduler: u16,
}

/// The last events of all jobs, by slot.
#[derive(Debug, Default)]
pub(crate) struct JobEvents {
    events: Vec<[Event; KINDS]>,
    /// Some group has, or had, a single instance: only then the leaving of an allocation is an event.
    has_single_instances: bool,
}

impl JobEvents {
    pub(crate) fn rebuild(cell: &Cell) -> Self {
        let has_single_instances = cell.groups().iter().any(|group| group.single_instance);
        Self { events: Vec::new(), has_single_instances }
    }

    fn note(&mut self, slot: u32, kind: JobEventKind, event: Event) {
        let slot = slot as usize;
        if slot >= self.events.len() {
            self.events.resize(slot + 1, [Event::default(); KINDS]);
        }
        self.events[slot][kind as usize] = event;
    }

    /// What happened to the job that had the slot before is in nobody's way, but that it is gone is in that of those who still want it.
    fn forget_earlier_tenant(&mut self, slot: u32) {
        if let Some(events) = self.events.get_mut(slot as usize) {
            let retired = events[JobEventKind::Retired as usize];
            *events = [Event::default(); KINDS];
            events[JobEventKind::Retired as usize] = retired;
        }
    }

    /// Notes what a delta did to jobs. `cell` has taken it already.
    pub(crate) fn note_delta(&mut self, delta: &Delta, cell: &Cell) {
        let grants = delta.grants.first();
        let event = Event {
            revision: delta.revision.0,
            session: grants.map_or(0, |grants| grants.session.0),
            number: grants.map_or(0, |grants| grants.number),
            scheduler: grants.map_or(0, |grants| grants.scheduler),
        };
        let slot_of = |row: u32| cell.groups().get(row).map_or(0, |group| group.job_slot);
        for change in &delta.jobs {
            let (slot, kind) = match change {
                JobChange::Put { job, .. } => {
                    self.has_single_instances |= job.shape.groups.iter().any(|group| group.single_instance);
                    if job.version == 1 {
                        self.forget_earlier_tenant(job.id.slot);
                    }
                    (job.id.slot, JobEventKind::Submitted)
                }
                JobChange::State { id, state, .. } if state.is_final() => (id.slot, JobEventKind::Over),
                JobChange::State { .. } | JobChange::Launched { .. } => continue,
                JobChange::Group { row, .. } => (slot_of(*row), JobEventKind::Group),
                JobChange::Removed(id) => (id.slot, JobEventKind::Retired),
                JobChange::Home { id, .. } => (id.slot, JobEventKind::Home),
            };
            self.note(slot, kind, event);
        }
        for change in &delta.tasks {
            self.note(slot_of(change.group_row), JobEventKind::Task, event);
        }
        if !self.has_single_instances {
            return;
        }
        // One that ends with the same delta has left before: what is told of it are its restarts.
        let leaves = |change: &&Move| change.status.state.is_leaving() && cell.status(change.slot).state.is_leaving();
        for change in delta.moves.iter().filter(leaves) {
            let Some(row) = cell.allocation_rows().get(change.slot) else { continue };
            if cell.groups().get(row.group_row).is_some_and(|group| group.single_instance) {
                self.note(row.job_slot, JobEventKind::Left, event);
            }
        }
    }

    /// The revision of the newest event of a job, of any kind.
    pub(crate) fn newest(&self, slot: u32) -> Revision {
        let events = self.events.get(slot as usize).map(|events| events.iter().map(|event| event.revision));
        Revision(events.and_then(Iterator::max).unwrap_or(0))
    }

    /// The newest event of these kinds, if it was after the base; or else the submission, if that was: then nothing about the job
    /// was so at the base.
    pub(crate) fn culprit(
        &self,
        (cell, names): (&Cell, &Names),
        slot: u32,
        kinds: &[JobEventKind],
        base: Revision,
    ) -> Option<Culprit> {
        let events = self.events.get(slot as usize)?;
        let newest = kinds.iter().copied().max_by_key(|kind| events[*kind as usize].revision);
        let newest = newest.filter(|kind| events[*kind as usize].revision > base.0);
        let kind = newest.unwrap_or(JobEventKind::Submitted);
        let event = events[kind as usize];
        let transaction = (event.session > 0)
            .then(|| TransactionId { session: SessionId(event.session), number: event.number.into() });
        let named = || names.name_at(cell, event.scheduler, Revision(event.revision));
        let scheduler = if transaction.is_some() { named() } else { "" };
        (event.revision > base.0).then(|| Culprit {
            revision: Revision(event.revision),
            transaction,
            scheduler: scheduler.into(),
            event: if transaction.is_some() { "".into() } else { kind.word().into() },
            amount: 0,
            allocation: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_model::{Job, JobId, JobState, LogTime};
    use std::sync::Arc;

    // A refused claim of a new job was blamed on what had become of the one that had its slot before.
    #[test]
    fn a_new_job_has_no_events_of_the_one_that_had_its_slot() {
        let (cell, names, mut events) = (Cell::default(), Names::rebuild(&Cell::default()), JobEvents::default());
        let at = |revision| Delta::new(Revision(revision), LogTime::from_micros(1));
        let put = |revision, generation, version| {
            let job = Job {
                id: JobId { slot: 0, generation },
                version,
                shape: Arc::default(),
                body: None,
                body_digest: [0; 32],
                submitted: LogTime::from_micros(1),
                state: JobState::Waiting,
                state_since: LogTime::from_micros(1),
                reason: "".into(),
                group_base: 0,
                home: None,
                last_instant_micros: None,
            };
            Delta { jobs: vec![JobChange::Put { job: Arc::new(job), task_bases: Vec::new() }], ..at(revision) }
        };
        events.note_delta(&put(1, 1, 1), &cell);
        let over = JobChange::State {
            id: JobId { slot: 0, generation: 1 },
            state: JobState::Failed,
            reason: "it failed".into(),
        };
        events.note_delta(&Delta { jobs: vec![over], ..at(2) }, &cell);
        let removed = JobChange::Removed(JobId { slot: 0, generation: 1 });
        events.note_delta(&Delta { jobs: vec![removed], ..at(3) }, &cell);
        events.note_delta(&put(4, 2, 1), &cell);
        let culprit = |events: &JobEvents, kind| {
            events.culprit((&cell, &names), 0, &[kind], Revision(1)).map(|culprit| culprit.event.to_string())
        };
        assert_eq!(culprit(&events, JobEventKind::Over).as_deref(), Some("submitted"));
        assert_eq!(culprit(&events, JobEventKind::Retired).as_deref(), Some("retired"));
        events.note_delta(&put(5, 2, 2), &cell);
        assert_eq!(culprit(&events, JobEventKind::Over).as_deref(), Some("submitted"));
    }
}
