//! The last events of each job, by kind: so that a claim that a job stands in the way of names the command that made it so.
//!
//! Derived, like the ring: it begins empty when a server opens.

use plenum_model::{
    Cell, Culprit, Delta, GroupRow, JobChange, Move, NotWanted, Revision, SessionId, TaskState, TransactionId,
};

use super::group_events::{GroupEvents, Part};
use super::ring::UNKNOWN_TASK;
use crate::derived::names::Names;

/// What can happen to a job that stands in the way of claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum JobEventKind {
    /// Submitted, or given another version.
    #[default]
    Submitted = 0,
    /// Complete, failed or stopped.
    Over = 1,
    /// A group was scaled.
    Group = 2,
    /// A task is done, or failed for good, or is to run again.
    Task = 3,
    /// Its tasks were given a machine to share, or lost it.
    Home = 4,
    /// It is gone.
    Retired = 5,
    /// The allocation of a task that has a single instance began to leave.
    Left = 6,
    /// A group has to sleep over a failure.
    Backoff = 7,
    /// A group that was done is not any more: it was scaled up, or its tasks are to run again.
    Undone = 8,
    /// An unknown task was found that is one of its tasks of which only one may run.
    Unknown = 9,
}

/// Words for people, by kind.
const WORDS: [&str; 10] =
    ["submitted", "over", "group", "task", "home", "retired", "leaving", "backoff", "undone", UNKNOWN_TASK];

/// Events that are kept of each job.
const PLACES: usize = 7;

impl JobEventKind {
    pub(crate) const fn word(self) -> &'static str {
        WORDS[self as usize]
    }

    /// Where a job's last event of this kind is kept: those of its groups together, as these are known one by one as far back as
    /// [`GroupEvents`] go.
    const fn place(self) -> usize {
        match self {
            Self::Backoff | Self::Undone => Self::Group as usize,
            Self::Unknown => Self::Left as usize,
            kind => kind as usize,
        }
    }

    /// The kinds of events that can make a task unwanted so; none where nothing does that to a job of the same version.
    pub(crate) fn behind(not_wanted: NotWanted) -> &'static [Self] {
        match not_wanted {
            NotWanted::JobOver(_) => &[Self::Over],
            NotWanted::Recurring => &[Self::Submitted],
            NotWanted::Backoff(_) => &[Self::Backoff],
            NotWanted::NoSuchTask => &[Self::Group],
            NotWanted::Task(_) => &[Self::Task],
            NotWanted::NoSuchGroup => &[],
            NotWanted::After(_) => &[Self::Undone],
        }
    }
}

/// One event, in 24 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) revision: u64,
    /// Of the transaction that it came with; 0 where it was none.
    session: u64,
    number: u32,
    scheduler: u16,
    kind: JobEventKind,
}

impl Event {
    /// What a delta does.
    pub(crate) fn of(delta: &Delta) -> Self {
        let grants = delta.grants.first();
        Self {
            revision: delta.revision.0,
            session: grants.map_or(0, |grants| grants.session.0),
            number: grants.map_or(0, |grants| grants.number),
            scheduler: grants.map_or(0, |grants| grants.scheduler),
            kind: JobEventKind::default(),
        }
    }

    /// The same as an event of this kind.
    pub(crate) const fn of_kind(self, kind: JobEventKind) -> Self {
        Self { kind, ..self }
    }

    /// Who is to blame for it.
    pub(crate) fn culprit(self, (cell, names): (&Cell, &Names)) -> Culprit {
        let transaction =
            (self.session > 0).then(|| TransactionId { session: SessionId(self.session), number: self.number.into() });
        let named = || names.name_at(cell, self.scheduler, Revision(self.revision));
        let scheduler = if transaction.is_some() { named() } else { "" };
        Culprit {
            revision: Revision(self.revision),
            transaction,
            scheduler: scheduler.into(),
            event: if transaction.is_some() { "".into() } else { self.kind.word().into() },
            amount: 0,
            allocation: None,
        }
    }
}

/// The last events of all jobs, by slot.
#[derive(Debug, Default)]
pub(crate) struct JobEvents {
    events: Vec<[Event; PLACES]>,
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
            self.events.resize(slot + 1, [Event::default(); PLACES]);
        }
        self.events[slot][kind.place()] = event.of_kind(kind);
    }

    /// What happened to the job that had the slot before is in nobody's way, but that it is gone is in that of those who still want it.
    fn forget_earlier_tenant(&mut self, slot: u32) {
        if let Some(events) = self.events.get_mut(slot as usize) {
            let retired = events[JobEventKind::Retired.place()];
            *events = [Event::default(); PLACES];
            events[JobEventKind::Retired.place()] = retired;
        }
    }

    /// Notes what a delta does to jobs, and to each group and task of them. `cell` has not taken it yet.
    pub(crate) fn note_delta(&mut self, delta: &Delta, cell: &Cell, groups: &mut GroupEvents) {
        let event = Event::of(delta);
        for change in &delta.jobs {
            let (slot, kind) = match change {
                JobChange::Put { job, .. } => {
                    self.has_single_instances |= job.shape.groups.iter().any(|group| group.single_instance);
                    if job.version == 1 {
                        self.forget_earlier_tenant(job.id.slot);
                    }
                    if let Some(before) = cell.job(job.id) {
                        groups.note(Part::Version(job.id, before.version), event.of_kind(JobEventKind::Submitted));
                    }
                    (job.id.slot, JobEventKind::Submitted)
                }
                JobChange::State { id, state, .. } if state.is_final() => (id.slot, JobEventKind::Over),
                JobChange::State { .. } | JobChange::Launched { .. } => continue,
                JobChange::Group { row, count, not_before, .. } => {
                    let Some(group) = cell.groups().get(*row) else { continue };
                    // More tasks take none away.
                    let shrinks = (*count < group.count).then_some(Part::Count(*row, group.count));
                    let slept = Part::Backoff(*row, group.not_before);
                    let parts = [
                        (JobEventKind::Group, shrinks, *count != group.count),
                        (JobEventKind::Backoff, Some(slept), *not_before != group.not_before),
                        (JobEventKind::Undone, Some(Part::Done(*row)), *count > group.count && is_done(group)),
                    ];
                    for (kind, part, _) in parts.into_iter().filter(|(_, _, changes)| *changes) {
                        self.note(group.job_slot, kind, event);
                        part.into_iter().for_each(|part| groups.note(part, event.of_kind(kind)));
                    }
                    continue;
                }
                JobChange::Removed(id) => {
                    groups.note(Part::Retired(*id), event.of_kind(JobEventKind::Retired));
                    (id.slot, JobEventKind::Retired)
                }
                JobChange::Home { id, .. } => (id.slot, JobEventKind::Home),
            };
            self.note(slot, kind, event);
        }
        self.note_tasks(delta, cell, event, groups);
        if self.has_single_instances {
            self.note_leaving(delta, cell, event, groups);
            self.note_unknown(delta, cell, event, groups);
        }
    }

    fn note_tasks(&mut self, delta: &Delta, cell: &Cell, event: Event, groups: &mut GroupEvents) {
        let mut undone = None;
        for change in &delta.tasks {
            let row = change.group_row;
            let Some(group) = cell.groups().get(row) else { continue };
            self.note(group.job_slot, JobEventKind::Task, event);
            groups.note(Part::Task(row, change.task), event.of_kind(JobEventKind::Task));
            // Those of one group follow each other.
            if change.state != TaskState::Done && undone != Some(row) && is_done(group) {
                undone = Some(row);
                self.note(group.job_slot, JobEventKind::Undone, event);
                groups.note(Part::Done(row), event.of_kind(JobEventKind::Undone));
            }
        }
    }

    /// Tasks of groups with single instances whose allocations begin to leave: no other one may take their place yet.
    fn note_leaving(&mut self, delta: &Delta, cell: &Cell, event: Event, groups: &mut GroupEvents) {
        let begins = |change: &&Move| change.status.state.is_leaving() && cell.is_active(change.slot);
        for change in delta.moves.iter().filter(begins) {
            let Some(row) = cell.allocation_rows().get(change.slot) else { continue };
            if cell.groups().get(row.group_row).is_some_and(|group| group.single_instance) {
                self.note(row.job_slot, JobEventKind::Left, event);
                groups.note(Part::Task(row.group_row, row.task), event.of_kind(JobEventKind::Left));
            }
        }
    }

    /// Tasks of such groups that were found to run unknown to the cell: nothing may be placed for them, either.
    fn note_unknown(&mut self, delta: &Delta, cell: &Cell, event: Event, groups: &mut GroupEvents) {
        let found = delta.unknown.iter().filter(|(id, _)| cell.unknown_task(*id).is_none());
        for traces in found.filter_map(|(_, task)| Some(&task.as_ref()?.traces)) {
            let Some(job) = cell.job_named(&traces.namespace, &traces.job) else { continue };
            let mut shapes = job.group_positions().zip(&job.shape.groups);
            let named = shapes.find(|(_, shape)| shape.single_instance && shape.name == traces.group);
            if let Some(row) = named.and_then(|(position, _)| job.group_row(position)) {
                self.note(job.id.slot, JobEventKind::Unknown, event);
                groups.note(Part::Task(row, traces.task), event.of_kind(JobEventKind::Unknown));
            }
        }
    }

    /// The revision of the newest event of a job, of any kind.
    pub(crate) fn newest(&self, slot: u32) -> Revision {
        let events = self.events.get(slot as usize).map(|events| events.iter().map(|event| event.revision));
        Revision(events.and_then(Iterator::max).unwrap_or(0))
    }

    /// The newest event of these kinds, or of any of its groups for one of those, if it was after the base; or else the submission, if
    /// that was: then nothing about the job was so at the base.
    pub(crate) fn culprit(
        &self,
        (cell, names): (&Cell, &Names),
        slot: u32,
        kinds: &[JobEventKind],
        base: Revision,
    ) -> Option<Culprit> {
        let events = self.events.get(slot as usize)?;
        let newest = kinds.iter().map(|kind| events[kind.place()]).max_by_key(|event| event.revision);
        let submitted = events[JobEventKind::Submitted.place()];
        let event = newest.filter(|event| event.revision > base.0).unwrap_or(submitted);
        (event.revision > base.0).then(|| event.culprit((cell, names)))
    }

    /// The newest event of this very kind, if it was after the base.
    pub(crate) fn newest_of(
        &self,
        (cell, names): (&Cell, &Names),
        slot: u32,
        kind: JobEventKind,
        base: Revision,
    ) -> Option<Culprit> {
        let event = self.events.get(slot as usize)?[kind.place()];
        (event.kind == kind && event.revision > base.0).then(|| event.culprit((cell, names)))
    }

    /// When the job was submitted, or got its present version; 0 where nobody knows any more.
    pub(crate) fn submitted(&self, slot: u32) -> u64 {
        self.events.get(slot as usize).map_or(0, |events| events[JobEventKind::Submitted.place()].revision)
    }
}

/// Whether what comes after a group may be placed.
pub(crate) const fn is_done(group: &GroupRow) -> bool {
    group.tasks_in(TaskState::Done) == group.count
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_model::{Job, JobId, JobState, LogTime};
    use std::sync::Arc;

    // A refused claim of a new job was blamed on what had become of the one that had its slot before.
    #[test]
    fn a_new_job_has_no_events_of_the_one_that_had_its_slot() {
        let (cell, names) = (Cell::default(), Names::rebuild(&Cell::default()));
        let (mut events, mut groups) = (JobEvents::default(), GroupEvents::new(Revision(0)));
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
        events.note_delta(&put(1, 1, 1), &cell, &mut groups);
        let over = JobChange::State {
            id: JobId { slot: 0, generation: 1 },
            state: JobState::Failed,
            reason: "it failed".into(),
        };
        events.note_delta(&Delta { jobs: vec![over], ..at(2) }, &cell, &mut groups);
        let removed = JobChange::Removed(JobId { slot: 0, generation: 1 });
        events.note_delta(&Delta { jobs: vec![removed], ..at(3) }, &cell, &mut groups);
        events.note_delta(&put(4, 2, 1), &cell, &mut groups);
        let culprit = |events: &JobEvents, kind| {
            events.culprit((&cell, &names), 0, &[kind], Revision(1)).map(|culprit| culprit.event.to_string())
        };
        assert_eq!(culprit(&events, JobEventKind::Over).as_deref(), Some("submitted"));
        assert_eq!(culprit(&events, JobEventKind::Retired).as_deref(), Some("retired"));
        events.note_delta(&put(5, 2, 2), &cell, &mut groups);
        assert_eq!(culprit(&events, JobEventKind::Over).as_deref(), Some("submitted"));
    }

    // Each kind had a place of its own in the row of each job: 48 bytes more, of which there are a million.
    #[test]
    fn what_last_became_of_any_group_of_a_job_is_kept_once_and_told_as_what_it_was() {
        let (cell, names) = (Cell::default(), Names::rebuild(&Cell::default()));
        let mut events = JobEvents::default();
        let at = |revision| Event::of(&Delta::new(Revision(revision), LogTime::from_micros(1)));
        let told = |events: &JobEvents| {
            let causes = [NotWanted::NoSuchTask, NotWanted::Backoff(LogTime::from_micros(1)), NotWanted::After(0)];
            let culprits = causes.map(|cause| {
                let culprit = events.culprit((&cell, &names), 0, JobEventKind::behind(cause), Revision(1));
                culprit.map(|culprit| (culprit.revision.0, culprit.event.to_string()))
            });
            assert!(culprits.iter().all(|culprit| *culprit == culprits[0]), "{culprits:?}");
            culprits[0].clone()
        };
        let kinds = [(2, JobEventKind::Group), (3, JobEventKind::Backoff), (4, JobEventKind::Undone)];
        for (revision, kind) in kinds {
            events.note(0, kind, at(revision));
            assert_eq!(told(&events), Some((revision, kind.word().to_owned())));
        }
        assert_eq!(size_of_val(&events.events[0]), 168);
    }
}
