//! How the tasks of one group are spread: what limits of machines and spread rules count.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::prefetch::prefetch;
use crate::tally::Tally;
use crate::{Cell, GroupShape, Job, TaskState};

/// Tasks of a group that have an allocation which is not leaving, by machine and by the values of its spread rules, as far as it
/// limits them.
///
/// Signed, so that one of them can stand for a change of another. Values are looked up once for each class of machines that tasks are
/// counted on, and for no other one: what is counted for a grant or a stop is an index and an addition.
#[derive(Clone, Debug, Default)]
pub struct GroupCounts {
    machines: Tally,
    /// One for each spread rule.
    rules: Vec<RuleCounts>,
}

#[derive(Clone, Debug, Default)]
struct RuleCounts {
    /// By class of machines: the place of its value, + 2; 1: it has no such attribute; 0: it was not looked up.
    places: Tally,
    /// Which numbers of classes these are by.
    numbering: u64,
    /// Values, with their places: each machine may have another one.
    values: BTreeMap<Arc<str>, u32>,
    tasks: Vec<i64>,
}

impl RuleCounts {
    /// The place of the value of a class, or that it has none; `None`: it was not looked up.
    #[inline]
    fn known(&self, cell: &Cell, class: u32) -> Option<Option<u32>> {
        let found = if self.numbering == cell.class_numbering() { self.places.get(class) } else { 0 };
        (found > 0).then(|| u32::try_from(found - 2).ok())
    }

    #[inline]
    fn place(&mut self, attribute: &str, cell: &Cell, class: u32) -> Option<u32> {
        match self.known(cell, class) {
            Some(place) => place,
            None => self.look_up(attribute, cell, class),
        }
    }

    #[cold]
    fn look_up(&mut self, attribute: &str, cell: &Cell, class: u32) -> Option<u32> {
        if self.numbering != cell.class_numbering() {
            self.numbering = cell.class_numbering();
            self.places = Tally::default();
            self.forget_empty_values();
        }
        let value = cell.classes().get(class as usize)?.get(attribute);
        let place = value.map(|value| self.place_of(value));
        let number = place.map(|place| i32::try_from(place).expect("each value took a registration"));
        self.places.add(class, number.map_or(1, |number| number + 2));
        place
    }

    /// Values that no task counts for: most of them no machine has any more.
    fn forget_empty_values(&mut self) {
        let (values, tasks) = (std::mem::take(&mut self.values), std::mem::take(&mut self.tasks));
        for (value, place) in values {
            let count = tasks[place as usize];
            if count != 0 {
                let place = self.place_of(&value);
                self.tasks[place as usize] = count;
            }
        }
    }

    fn place_of(&mut self, value: &Arc<str>) -> u32 {
        if let Some(&place) = self.values.get(value) {
            return place;
        }
        let place = u32::try_from(self.tasks.len()).expect("each value took a registration");
        self.values.insert(value.clone(), place);
        self.tasks.push(0);
        place
    }
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
    #[inline]
    pub fn are_needed_by(shape: &GroupShape) -> bool {
        shape.per_machine > 0 || !shape.spread.is_empty()
    }

    /// Brings what is counted for a machine into the cache, but the tasks beside it: `warm_beside` does that once this is there.
    #[inline]
    pub fn warm(&self, cell: &Cell, machine: u32) {
        self.machines.warm(machine);
        let class = if self.rules.is_empty() { None } else { cell.machine_row(machine).map(|row| row.class) };
        class.into_iter().for_each(|class| self.rules.iter().for_each(|counts| counts.places.warm(class)));
    }

    /// See `warm`.
    #[inline]
    pub fn warm_beside(&self, cell: &Cell, machine: u32) {
        let class = if self.rules.is_empty() { None } else { cell.machine_row(machine).map(|row| row.class) };
        for counts in &self.rules {
            let place = class.and_then(|class| counts.known(cell, class).flatten());
            place.and_then(|place| counts.tasks.get(place as usize)).into_iter().for_each(prefetch);
        }
    }

    /// So many tasks more on a machine; fewer where negative. `shape` is always that of the same group.
    pub fn add(&mut self, cell: &Cell, shape: &GroupShape, machine: u32, tasks: i64) {
        if shape.per_machine > 0 {
            self.machines.add(machine, i32::try_from(tasks).expect("a group has fewer tasks"));
        }
        if shape.spread.is_empty() {
            return;
        }
        let Some(row) = cell.machine_row(machine) else { return };
        if self.rules.len() < shape.spread.len() {
            self.rules.resize_with(shape.spread.len(), RuleCounts::default);
        }
        for (rule, counts) in shape.spread.iter().zip(&mut self.rules) {
            if let Some(place) = counts.place(&rule.attribute, cell, row.class) {
                counts.tasks[place as usize] += tasks;
            }
        }
    }

    /// Tasks on a machine; 0 where the group does not limit them.
    #[must_use]
    pub fn on_machine(&self, machine: u32) -> i64 {
        self.machines.get(machine).into()
    }

    /// Tasks on machines that have the value of this one, by the position of the spread rule; `None`: it has no such attribute.
    #[must_use]
    pub fn beside(&self, cell: &Cell, shape: &GroupShape, machine: u32, rule: usize) -> Option<i64> {
        let class = cell.machine_row(machine)?.class;
        let Some(counts) = self.rules.get(rule) else { return value(cell, shape, class, rule).map(|_| 0) };
        match counts.known(cell, class) {
            Some(place) => Some(counts.tasks[place? as usize]),
            // A class that no task was counted on.
            None => {
                let value = value(cell, shape, class, rule)?;
                Some(counts.values.get(value).map_or(0, |&place| counts.tasks[place as usize]))
            }
        }
    }

    /// Classes that were looked up, for all rules.
    #[cfg(test)]
    pub(crate) fn classes_known(&self) -> usize {
        self.rules.iter().map(|counts| counts.places.len()).sum()
    }
}

fn value<'a>(cell: &'a Cell, shape: &GroupShape, class: u32, rule: usize) -> Option<&'a Arc<str>> {
    cell.classes().get(class as usize)?.get(&shape.spread.get(rule)?.attribute)
}
