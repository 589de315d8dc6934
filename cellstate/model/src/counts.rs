//! How the tasks of one group are spread: what limits a machine and spread rules count.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{Cell, GroupShape, Job, TaskState};

/// Tasks of a group that have an allocation which is not leaving, by machine and by the values of its spread rules.
///
/// Signed, so that one of them can stand for a change of another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupCounts {
    machines: BTreeMap<u32, i64>,
    /// One for each spread rule.
    values: Vec<BTreeMap<Arc<str>, i64>>,
}

impl GroupCounts {
    /// Counts a group from scratch: a walk over its tasks.
    #[must_use]
    pub fn of(cell: &Cell, job: &Job, group: u16) -> Self {
        let mut counts = Self::default();
        let shape = job.shape.groups.get(usize::from(group));
        let (Some(shape), Some(row)) = (shape, cell.group(job, group)) else { return counts };
        if row.tasks_in(TaskState::Live) == 0 {
            return counts;
        }
        let tasks = (0..row.count).filter_map(|task| cell.task(row, task));
        for task in tasks.filter(|task| task.state == TaskState::Live) {
            if let Some(found) = cell.allocation_in(task.allocation - 1) {
                counts.add(cell, shape, found.row.machine, 1);
            }
        }
        counts
    }

    /// Whether the group declares anything that is counted.
    #[must_use]
    pub fn are_needed_by(shape: &GroupShape) -> bool {
        shape.per_machine > 0 || !shape.spread.is_empty()
    }

    /// So many tasks more on a machine; fewer where negative.
    pub fn add(&mut self, cell: &Cell, shape: &GroupShape, machine: u32, tasks: i64) {
        bump(&mut self.machines, machine, tasks);
        self.values.resize_with(shape.spread.len(), BTreeMap::new);
        let Some(found) = cell.machine_in(machine) else { return };
        for (rule, values) in shape.spread.iter().zip(&mut self.values) {
            if let Some(value) = found.attributes.get(&rule.attribute) {
                bump(values, value.clone(), tasks);
            }
        }
    }

    /// Tasks on a machine.
    #[must_use]
    pub fn on_machine(&self, machine: u32) -> i64 {
        self.machines.get(&machine).copied().unwrap_or(0)
    }

    /// Tasks on machines with this value, by the position of the spread rule.
    #[must_use]
    pub fn with_value(&self, rule: usize, value: &str) -> i64 {
        self.values.get(rule).and_then(|values| values.get(value)).copied().unwrap_or(0)
    }
}

fn bump<K: Ord>(counts: &mut BTreeMap<K, i64>, key: K, by: i64) {
    use std::collections::btree_map::Entry;
    match counts.entry(key) {
        Entry::Vacant(entry) => {
            if by != 0 {
                entry.insert(by);
            }
        }
        Entry::Occupied(mut entry) => {
            *entry.get_mut() += by;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}
