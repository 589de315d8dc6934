//! The last changes of groups, and of tasks that are done, failed, or to be run again, or leave a single instance; and the last jobs that were retired,
//! and versions of jobs that were replaced: so that a claim on what is not wanted, or not there, is told whether that came about after its base, and
//! who did it. A job's own events ([`super::job_events`]) are of all its groups and tasks together.
//!
//! Derived, like the ring: it begins empty when a server opens. Changes are only put in line, as most are never asked about: who is refused
//! looks for those above its base, once for a transaction.

use std::collections::{BTreeMap, VecDeque};

use plenum_model::{JobId, LogTime, Revision};

use super::job_events::Event;

/// Changes that are remembered, in 40 bytes each.
const CHANGES_MAX: usize = 1 << 14;

/// What changes of a group, which is known by its row, or of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// How many tasks it has, and how many it had before: noted when these are fewer.
    Count(u32, u32),
    /// Until when it sleeps over a failure, and until when it did before.
    Backoff(u32, LogTime),
    /// Whether all of its tasks are done: noted when they are not any more.
    Done(u32),
    /// The task with this index.
    Task(u32, u32),
    /// The job is retired.
    Retired(JobId),
    /// The job was submitted again, and has this version no more.
    Version(JobId, u32),
}

/// What happened to each last.
pub(crate) type Changed = BTreeMap<Part, Event>;

/// The last changes of groups and tasks, of all jobs.
#[derive(Debug)]
pub(crate) struct GroupEvents {
    /// Oldest first.
    changes: VecDeque<(Part, Event)>,
    /// Of what came up to here some is forgotten.
    floor: Revision,
}

impl GroupEvents {
    pub(crate) const fn new(floor: Revision) -> Self {
        Self { changes: VecDeque::new(), floor }
    }

    pub(crate) fn note(&mut self, part: Part, event: Event) {
        if self.changes.len() == CHANGES_MAX
            && let Some((_, forgotten)) = self.changes.pop_front()
        {
            self.floor = Revision(forgotten.revision);
        }
        self.changes.push_back((part, event));
    }

    /// What changed after `base`; `None` if some of that is forgotten.
    pub(crate) fn since(&self, base: Revision) -> Option<Changed> {
        let first = self.changes.partition_point(|(_, event)| event.revision <= base.0);
        (base >= self.floor).then(|| self.changes.range(first..).copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_model::Delta;

    fn note(events: &mut GroupEvents, revision: u64, tasks: std::ops::Range<u32>) {
        let event = Event::of(&Delta::new(Revision(revision), LogTime::from_micros(1)));
        tasks.for_each(|task| events.note(Part::Task(7, task), event));
    }

    #[test]
    fn a_change_is_known_by_its_task_to_whose_base_is_older() {
        let mut events = GroupEvents::new(Revision(2));
        note(&mut events, 3, 0..2);
        note(&mut events, 5, 1..3);
        let since = |base| {
            let changed = events.since(Revision(base))?.into_iter();
            Some(changed.map(|(part, event)| (part, event.revision)).collect::<Vec<_>>())
        };
        assert_eq!(since(1), None, "the server opened later");
        let all = [(0, 3), (1, 5), (2, 5)].map(|(task, revision)| (Part::Task(7, task), revision));
        assert_eq!(since(2), Some(all.to_vec()));
        assert_eq!(since(4), Some(all[1..].to_vec()));
        assert_eq!(since(5), Some(Vec::new()));
    }

    #[test]
    fn each_change_takes_as_much_memory_as_it_is_said_to() {
        assert_eq!(size_of::<(Part, Event)>(), 40);
    }

    #[test]
    fn what_is_forgotten_is_known_to_be() {
        let mut events = GroupEvents::new(Revision(0));
        let most = u32::try_from(CHANGES_MAX).unwrap();
        note(&mut events, 1, 0..2);
        note(&mut events, 2, 0..most - 2);
        assert!(events.since(Revision(0)).is_some());
        note(&mut events, 3, 0..1);
        assert_eq!(events.changes.len(), CHANGES_MAX);
        assert_eq!(events.since(Revision(0)), None);
        assert_eq!(events.since(Revision(1)).map(|changed| changed.len()), Some(CHANGES_MAX - 2));
    }
}
