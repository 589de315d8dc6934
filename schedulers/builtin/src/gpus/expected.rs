//! The work that is expected: which needs came, and with how many tasks. What came long ago counts less and less, and gives its place to what comes today.

use std::collections::BTreeMap;

use plenum_policies::gpu::{Counted, GpuTask, Target};

/// Different needs that are expected at once.
const NEEDS_MAX: usize = 256;

/// With so many tasks counted all counts are halved, so that the mix of today outweighs that of last month.
const COUNTED_MAX: u64 = 1 << 16;

/// Tasks of one group that count. A job of a million, which perhaps nobody can ever place, would have all counts halved four times by itself, and so drive out whatever
/// came with less than sixteen.
const GROUP_MAX: u64 = COUNTED_MAX / 16;

/// What came of one need.
#[derive(Clone, Copy, Debug, Default)]
struct Need {
    tasks: u64,
    /// The newest group of it, by number.
    came: u64,
}

/// See the module. Whose groups they are it does not know.
#[derive(Debug, Default)]
pub(super) struct Expected {
    needs: BTreeMap<GpuTask, Need>,
    /// Tasks of all needs.
    counted: u64,
    /// How many were counted when a ranking was made of them.
    ranked: u64,
    /// Whether another one shall be made.
    is_outdated: bool,
    /// Groups that came so far, which numbers them.
    groups: u64,
}

impl Expected {
    /// A group came, with so many tasks that need this each.
    pub(super) fn count(&mut self, task: &GpuTask, tasks: u64) {
        let is_new = !self.needs.contains_key(task);
        if is_new && self.needs.len() >= NEEDS_MAX {
            self.make_places();
        }
        let tasks = tasks.min(GROUP_MAX);
        self.groups += 1;
        let need = self.needs.entry(*task).or_default();
        (need.tasks, need.came) = (need.tasks.saturating_add(tasks), self.groups);
        self.counted = self.counted.saturating_add(tasks);
        // What nobody has reckoned with has no price. Half as many again change a mix enough, too.
        self.is_outdated |= is_new || self.counted >= self.ranked.saturating_add(self.ranked / 2);
    }

    /// What a ranking is to be made of; `None` as long as the last one will do.
    pub(super) fn target(&mut self) -> Option<Target> {
        if !std::mem::take(&mut self.is_outdated) {
            return None;
        }
        let counted =
            |(task, need): (&GpuTask, &Need)| Counted { task: *task, models: String::new(), count: need.tasks };
        let target = Target::of(&self.needs.iter().map(counted).collect::<Vec<_>>());
        while self.counted > COUNTED_MAX {
            self.needs.values_mut().for_each(|need| need.tasks /= 2);
            self.needs.retain(|_, need| need.tasks > 0);
            self.sum_up();
        }
        self.ranked = self.counted;
        Some(target)
    }

    /// Halves all counts, and lets half of the needs go: the least first, and of equal ones what came longest ago. To halve until one is nothing would let all go at
    /// once where each came with one task, as it is where each job has memory of its own.
    fn make_places(&mut self) {
        self.needs.values_mut().for_each(|need| need.tasks = (need.tasks / 2).max(1));
        let mut order: Vec<_> = self.needs.iter().map(|(task, need)| (need.tasks, need.came, *task)).collect();
        order.sort_unstable();
        order.truncate(NEEDS_MAX / 2);
        for (_, _, task) in &order {
            self.needs.remove(task);
        }
        self.sum_up();
    }

    fn sum_up(&mut self) {
        self.counted = self.needs.values().map(|need| need.tasks).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The needs of the tests differ in their memory alone.
    fn need(memory_mib: u32) -> GpuTask {
        GpuTask { cpu_millis: 100, memory_mib, devices: 1, millis: 500, ..GpuTask::default() }
    }

    fn known(expected: &Expected) -> Vec<u32> {
        expected.needs.keys().map(|task| task.memory_mib).collect()
    }

    fn tasks(expected: &Expected, memory_mib: u32) -> Option<u64> {
        expected.needs.get(&need(memory_mib)).map(|need| need.tasks)
    }

    /// As many needs as are expected at once, of one task each.
    fn full() -> Expected {
        let mut expected = Expected::default();
        (0..256).for_each(|number| expected.count(&need(number), 1));
        expected
    }

    #[test]
    fn a_new_need_takes_the_place_of_those_that_came_longest_ago() {
        let mut expected = full();
        expected.count(&need(0), 1);
        assert!(expected.target().is_some());
        assert!(expected.target().is_none(), "nothing came since");
        expected.count(&need(1000), 1);
        let stay: Vec<u32> = std::iter::once(0).chain(129..256).chain([1000]).collect();
        assert_eq!(known(&expected), stay);
        assert_eq!(expected.counted, 129);
        assert!(expected.target().is_some(), "a new need has no price before");
    }

    #[test]
    fn one_group_of_a_million_tasks_drives_out_no_others() {
        let mut expected = Expected::default();
        (0..100).for_each(|number| expected.count(&need(number), 1));
        expected.count(&need(1000), 1_000_000);
        assert!(expected.target().is_some());
        assert_eq!(known(&expected), (0..100).chain([1000]).collect::<Vec<u32>>());
        assert_eq!(tasks(&expected, 1000), Some(4096));
    }

    #[test]
    fn beyond_so_many_tasks_all_counts_are_halved_and_what_is_left_of_one_is_nothing() {
        let mut expected = Expected::default();
        expected.count(&need(0), 1);
        expected.count(&need(1), 2);
        (0..16).for_each(|_| expected.count(&need(2), 4096));
        assert!(expected.target().is_some());
        assert_eq!([0, 1, 2].map(|number| tasks(&expected, number)), [None, Some(1), Some(32_768)]);
        assert_eq!(expected.counted, 32_769);
    }

    #[test]
    fn a_need_of_many_tasks_outlasts_many_of_one_and_not_for_ever() {
        let mut expected = Expected::default();
        expected.count(&need(0), 100);
        (1000..1256).for_each(|number| expected.count(&need(number), 1));
        assert_eq!(tasks(&expected, 0), Some(50));
        for number in 1256..10_000 {
            expected.count(&need(number), 1);
            assert!(expected.needs.len() <= 256);
        }
        assert_eq!(tasks(&expected, 0), None);
        assert_eq!(tasks(&expected, 9_999), Some(1));
    }
}
