//! How the tasks of one group are spread: what limits of machines and spread rules count.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::prefetch::prefetch;
use crate::tally::Tally;
use crate::{Attributes, Cell, GroupShape, Job, TaskState};

/// Tasks of a group that have an allocation which is not leaving, by machine and by the values of its spread rules, as far as it
/// limits them.
///
/// Signed, so that one of them can stand for a change of another. Values are looked up once for each class of machines: what is
/// counted for a grant or a stop is an index and an addition.
#[derive(Clone, Debug, Default)]
pub struct GroupCounts {
    machines: Tally,
    /// One for each spread rule.
    rules: Vec<RuleCounts>,
}

#[derive(Clone, Debug, Default)]
struct RuleCounts {
    /// By class of machines: the place of its value, + 1; 0: it has no such attribute.
    places: Vec<u32>,
    /// Which numbers of classes these are by.
    numbering: u64,
    /// Values, with their places: each machine may have another one.
    values: BTreeMap<Arc<str>, u32>,
    tasks: Vec<i64>,
}

impl RuleCounts {
    /// Whether it knows the value of each class.
    #[inline]
    fn is_complete(&self, cell: &Cell) -> bool {
        self.places.len() >= cell.classes().len() && self.numbering == cell.class_numbering()
    }

    /// Looks up the values of classes that are new.
    fn refresh(&mut self, attribute: &str, cell: &Cell) {
        if self.numbering != cell.class_numbering() {
            self.numbering = cell.class_numbering();
            self.places.clear();
            self.forget_empty_values();
        }
        let classes: &[Arc<Attributes>] = cell.classes();
        for class in &classes[self.places.len().min(classes.len())..] {
            let place = class.get(attribute).map_or(0, |value| self.place_of(value) + 1);
            self.places.push(place);
        }
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
        if let Some(class) = class {
            let places = self.rules.iter().filter_map(|counts| counts.places.get(class as usize));
            places.for_each(prefetch);
        }
    }

    /// See `warm`.
    #[inline]
    pub fn warm_beside(&self, cell: &Cell, machine: u32) {
        let class = if self.rules.is_empty() { None } else { cell.machine_row(machine).map(|row| row.class) };
        for counts in &self.rules {
            let place =
                class.and_then(|class| counts.places.get(class as usize)).and_then(|place| place.checked_sub(1));
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
            if !counts.is_complete(cell) {
                counts.refresh(&rule.attribute, cell);
            }
            if let Some(place) = counts.places.get(row.class as usize).and_then(|place| place.checked_sub(1)) {
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
        let known = counts.places.get(class as usize).filter(|_| counts.numbering == cell.class_numbering());
        match known {
            Some(place) => Some(counts.tasks[place.checked_sub(1)? as usize]),
            // A class that came after the last count.
            None => {
                let value = value(cell, shape, class, rule)?;
                Some(counts.values.get(value).map_or(0, |&place| counts.tasks[place as usize]))
            }
        }
    }
}

fn value<'a>(cell: &'a Cell, shape: &GroupShape, class: u32, rule: usize) -> Option<&'a Arc<str>> {
    cell.classes().get(class as usize)?.get(&shape.spread.get(rule)?.attribute)
}
