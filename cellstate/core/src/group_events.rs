//! The last changes of groups, and of tasks that are done, failed, or to be run again: so that a claim on a task that is not wanted is told
//! whether that came about after its base. A job's own events ([`crate::job_events`]) are of all its groups and tasks together.
//!
//! Derived, like the ring: it begins empty when a server opens. Changes are only put in line, as most are never asked about: who is refused
//! looks for those above its base, once for a transaction.

use std::collections::{BTreeMap, VecDeque};

use plenum_model::{Delta, JobChange, Revision};

/// Changes that are remembered, in 24 bytes each.
const CHANGES_MAX: usize = 1 << 14;

/// The row of a group and a task's index; without one, the group itself was scaled, or has to sleep over a failure.
type Part = (u32, Option<u32>);

/// When each changed last.
pub(crate) type Changed = BTreeMap<Part, Revision>;

/// The last changes of groups and tasks, of all jobs.
#[derive(Debug)]
pub(crate) struct GroupEvents {
    /// Oldest first.
    changes: VecDeque<(Revision, Part)>,
    /// Of what came up to here some is forgotten.
    floor: Revision,
}

impl GroupEvents {
    pub(crate) const fn new(floor: Revision) -> Self {
        Self { changes: VecDeque::new(), floor }
    }

    pub(crate) fn note_delta(&mut self, delta: &Delta) {
        let groups = delta.jobs.iter().filter_map(|change| match change {
            JobChange::Group { row, .. } => Some((*row, None)),
            _ => None,
        });
        let tasks = delta.tasks.iter().map(|change| (change.group_row, Some(change.task)));
        for part in groups.chain(tasks) {
            if self.changes.len() == CHANGES_MAX
                && let Some((forgotten, ..)) = self.changes.pop_front()
            {
                self.floor = forgotten;
            }
            self.changes.push_back((delta.revision, part));
        }
    }

    /// What changed after `base`; `None` if some of that is forgotten.
    pub(crate) fn since(&self, base: Revision) -> Option<Changed> {
        let first = self.changes.partition_point(|(revision, ..)| *revision <= base);
        (base >= self.floor).then(|| self.changes.range(first..).map(|&(revision, part)| (part, revision)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_model::{LogTime, TaskChange, TaskState};

    fn note(events: &mut GroupEvents, revision: u64, tasks: std::ops::Range<u32>) {
        let mut delta = Delta::new(Revision(revision), LogTime::from_micros(1));
        let change = |task| TaskChange { group_row: 7, task, state: TaskState::Done, failures: 0 };
        delta.tasks.extend(tasks.map(change));
        events.note_delta(&delta);
    }

    #[test]
    fn a_change_is_known_by_its_task_to_whose_base_is_older() {
        let mut events = GroupEvents::new(Revision(2));
        note(&mut events, 3, 0..2);
        note(&mut events, 5, 1..3);
        let since = |base| events.since(Revision(base)).map(|changed| changed.into_iter().collect::<Vec<_>>());
        assert_eq!(since(1), None, "the server opened later");
        let all = [(0, 3), (1, 5), (2, 5)].map(|(task, revision)| ((7, Some(task)), Revision(revision)));
        assert_eq!(since(2), Some(all.to_vec()));
        assert_eq!(since(4), Some(all[1..].to_vec()));
        assert_eq!(since(5), Some(Vec::new()));
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
