//! The work that is expected: which tasks come, and how often each.
//!
//! Whoever places learns it from what arrived so far, from yesterday, or from a plan. It is a distribution, never an order.

use super::{GpuTask, ModelSet};

/// A kind of task, and how many of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// What each asks for.
    pub task: GpuTask,
    /// The models that suit, as somebody wrote them. Orders what is else alike, nothing more.
    pub models: String,
    /// How many came.
    pub count: u64,
}

/// A class of expected tasks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Class {
    /// What each asks for.
    pub(super) task: GpuTask,
    /// Its part of all tasks that are looked at. The sum over classes is 1.
    pub(super) weight: f64,
}

/// The work that is expected.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Target {
    classes: Vec<Class>,
    typical: Vec<Class>,
}

/// Tasks of a hundred that the typical classes cover.
const TYPICAL_PERCENT: u64 = 95;

impl Target {
    /// From tasks and how often each came, in any order; the same kind may come more than once.
    #[must_use]
    pub fn of(counted: &[Counted]) -> Self {
        Self { classes: classes(counted), typical: typical(counted) }
    }

    /// All classes, the most frequent first.
    #[must_use]
    pub(super) fn classes(&self) -> &[Class] {
        &self.classes
    }

    /// The classes that the fragmentation gradient looks at: the most frequent ones, without memory, that make 95% of the tasks.
    #[must_use]
    pub(super) fn typical(&self) -> &[Class] {
        &self.typical
    }

    /// How many those are.
    #[must_use]
    pub fn typical_classes(&self) -> usize {
        self.typical.len()
    }

    /// How often each part of a GPU is asked for, by thousandths.
    pub(super) fn shares(&self) -> impl Iterator<Item = (u16, f64)> + '_ {
        self.classes.iter().filter(|class| class.task.shares()).map(|class| (class.task.millis, class.weight))
    }
}

fn classes(counted: &[Counted]) -> Vec<Class> {
    let mut sums = std::collections::BTreeMap::<GpuTask, u64>::new();
    // What never comes has no weight, and the sum over nothing else would be none.
    for Counted { task, count, .. } in counted.iter().filter(|counted| counted.count > 0) {
        *sums.entry(*task).or_default() += count;
    }
    let all = sums.values().sum::<u64>();
    let mut sums = sums.into_iter().collect::<Vec<_>>();
    sums.sort_by_key(|(task, count)| std::cmp::Reverse((*count, *task)));
    sums.into_iter().map(|(task, count)| Class { task, weight: ratio(count, all) }).collect()
}

/// In the order in which the authors' simulator goes through them: by count, CPU, thousandths, GPUs and models as text, all descending. The
/// order decides which classes are left out, and the last bits of sums.
fn typical(counted: &[Counted]) -> Vec<Class> {
    let mut sums = std::collections::BTreeMap::<(u32, u16, u8, &str, ModelSet), u64>::new();
    for Counted { task, models, count } in counted {
        *sums.entry((task.cpu_millis, task.millis, task.devices, models, task.models)).or_default() += count;
    }
    let all = sums.values().sum::<u64>();
    let mut sums = sums.into_iter().map(|(kind, count)| (count, kind)).collect::<Vec<_>>();
    sums.sort_unstable_by(|one, other| other.cmp(one));
    let mut covered = 0;
    let mut typical = Vec::new();
    for (count, (cpu_millis, millis, devices, _, models)) in sums {
        if covered * 100 >= all * TYPICAL_PERCENT {
            break;
        }
        covered += count;
        let task = GpuTask { cpu_millis, memory_mib: 0, devices, millis, models };
        typical.push(Class { task, weight: ratio(count, all) });
    }
    let part = ratio(covered, all);
    typical.iter_mut().for_each(|class| class.weight /= part);
    typical
}

#[allow(clippy::cast_precision_loss, reason = "counts of tasks are far below 2^53")]
fn ratio(count: u64, all: u64) -> f64 {
    count as f64 / all.max(1) as f64
}
