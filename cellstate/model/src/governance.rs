//! What operators and schedulers lay down beside jobs and machines: quotas, holds, partitions; and tasks that nobody knows.

use std::sync::Arc;

use crate::{
    AllocationId, Attributes, Constraint, DIMENSIONS, JobId, LogTime, MachineId, Resource, Resources, Revision,
    Shortage, TaskTraces,
};

/// Most that a quota may allow of any resource, in its unit: far above the sum over any cell, and within 64 bits with a sign, as the protocol has it.
pub const QUOTA_MAX: u64 = 1 << 62;

/// What a namespace may have at most: its allocations and holds that are neither leaving nor lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Quota {
    /// By resource, in its unit, in the order of `Resource::ALL`; `None` for no limit. At most [`QUOTA_MAX`].
    pub limits: [Option<u64>; DIMENSIONS],
}

impl Quota {
    /// How many times `more` may be had on top of `used` before something is short: not once exactly when `shortage` finds something.
    #[must_use]
    pub fn headroom(&self, used: &Resources, more: &Resources) -> u64 {
        let times = Resource::ALL.into_iter().zip(self.limits).filter_map(|(resource, limit)| {
            let free = limit?.saturating_sub(used.get(resource));
            free.checked_div(more.get(resource))
        });
        times.min().unwrap_or(u64::MAX)
    }

    /// The first resource of which `used` and `more` together are above the limit, and by how much.
    #[must_use]
    pub fn shortage(&self, used: &Resources, more: &Resources) -> Option<Shortage> {
        Resource::ALL.into_iter().zip(self.limits).find_map(|(resource, limit)| {
            // What is asked for stands in the way, not what is there: a lowered limit evicts nothing.
            let wanted = used.get(resource).saturating_add(more.get(resource));
            let short_by = wanted.saturating_sub(limit?);
            (short_by > 0 && more.get(resource) > 0).then_some(Shortage { resource, short_by })
        })
    }
}

/// A sum of resources over a cell: in more bits than one machine needs, so that it never overflows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Sum([u128; DIMENSIONS]);

impl Sum {
    /// Counts `amount` so many times more.
    #[inline]
    pub fn add(&mut self, amount: &Resources, times: usize) {
        amount.for_each_used(|dimension, amount| self.0[dimension] += u128::from(amount) * times as u128);
    }

    /// Counts `amount` so many times less. It was counted before; of what was not, as a delta from outside may say, nothing is left.
    #[inline]
    pub fn take(&mut self, amount: &Resources, times: usize) {
        amount.for_each_used(|dimension, amount| {
            let sum = &mut self.0[dimension];
            *sum = sum.saturating_sub(u128::from(amount) * times as u128);
        });
    }

    /// Counts what another one has counted.
    pub fn join(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, more)| *sum += more);
    }

    /// The sum, where it is above what fits in 64 bits that.
    #[must_use]
    pub fn total(&self) -> Resources {
        let [cpu_millis, memory_bytes, disk_bytes, custom @ ..] =
            self.0.map(|sum| u64::try_from(sum).unwrap_or(u64::MAX));
        Resources { cpu_millis, memory_bytes, disk_bytes, custom }
    }

    /// The total when `given` was given back; more where that is negative. Never below 0.
    #[must_use]
    pub fn after_giving(&self, given: &GivenBack) -> Resources {
        let mut left = *self;
        for (sum, given) in left.0.iter_mut().zip(given.0) {
            let less = given.unsigned_abs();
            *sum = if given < 0 { sum.saturating_add(less) } else { sum.saturating_sub(less) };
        }
        left.total()
    }
}

/// What a sum is to become less by; negative where more. One transaction can move more than 64 bits hold: 16,384 claims of 2^50.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct GivenBack([i128; DIMENSIONS]);

impl GivenBack {
    /// Gives `amount` back so many times; takes it where that is negative.
    #[inline]
    pub fn add_times(&mut self, amount: &Resources, times: i64) {
        amount.for_each_used(|dimension, amount| {
            let given = &mut self.0[dimension];
            *given = given.saturating_add(i128::from(amount) * i128::from(times));
        });
    }
}

/// Room set aside for a starving gang: taken room for others, free room for its owner. One a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Slots of machines, rising. None are left when earlier holds took the room: then it keeps its place in the order.
    pub machines: Vec<u32>,
    /// On each.
    pub resources: Resources,
    /// Until when.
    pub deadline: LogTime,
    /// The revision of the first hold of this job; renewing keeps it.
    pub first_wait: Revision,
}

impl Hold {
    /// Its place in the order of holds: by band, then by first wait. The smaller one may take room from the larger.
    #[must_use]
    pub fn rank(&self, priority: u8, job: JobId) -> (u8, Revision, JobId) {
        Self::rank_since(self.first_wait, priority, job)
    }

    /// The same of who waits since then, whether it has a hold or not.
    pub(crate) fn rank_since(first_wait: Revision, priority: u8, job: JobId) -> (u8, Revision, JobId) {
        (u8::MAX - priority / 10, first_wait, job)
    }

    /// Where two holds of a job differ: slots of machines, rising, each with what was held there and what is. Work: one step for each
    /// machine of both.
    pub fn differences<'a>(
        before: Option<&'a Self>,
        after: Option<&'a Self>,
    ) -> impl Iterator<Item = (u32, Resources, Resources)> + 'a {
        let machines = |hold: Option<&'a Self>| hold.map_or(&[][..], |hold| &hold.machines).iter().copied().peekable();
        let on_each = |hold: Option<&Self>| hold.map_or_else(Resources::default, |hold| hold.resources);
        let (mut left, mut right) = (machines(before), machines(after));
        let (then, now) = (on_each(before), on_each(after));
        let next = move || {
            let machine = match (left.peek(), right.peek()) {
                (Some(&left), Some(&right)) => left.min(right),
                (left, right) => *left.or(right)?,
            };
            let was = left.next_if_eq(&machine).map_or_else(Resources::default, |_| then);
            let is = right.next_if_eq(&machine).map_or_else(Resources::default, |_| now);
            Some((machine, was, is))
        };
        std::iter::from_fn(next).filter(|(_, was, is)| was != is)
    }
}

/// A named set of machines, reserved for some schedulers or only named.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Partition {
    /// All must hold on a machine of it.
    pub machines: Vec<Constraint>,
    /// Who may claim on its machines; empty: everybody.
    pub schedulers: Vec<Arc<str>>,
}

impl Partition {
    /// Whether machines with these attributes are in it.
    #[must_use]
    pub fn has(&self, attributes: &Attributes) -> bool {
        self.machines.iter().all(|constraint| constraint.holds(attributes))
    }

    /// Whether a scheduler may claim on its machines.
    #[must_use]
    pub fn is_open_to(&self, scheduler: &str) -> bool {
        self.schedulers.is_empty() || self.schedulers.iter().any(|open| **open == *scheduler)
    }
}

/// What a scheduler is granted, beside what its role may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Whether it may evict allocations of lower bands.
    pub evicts: bool,
    /// How many turns its requests get at the resolver for one of a usual scheduler's: 1, or more. At most [`Rights::PRIORITY_MAX`].
    pub priority: u8,
}

impl Rights {
    /// The highest priority.
    pub const PRIORITY_MAX: u8 = 100;
}

impl Default for Rights {
    /// What a scheduler has of which nobody said anything.
    fn default() -> Self {
        Self { evicts: true, priority: 1 }
    }
}

/// Which unknown task: where it runs, and what its agent calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnknownId {
    /// Slot of the machine.
    pub machine: u32,
    /// The id that it had in the life of the cell which granted it.
    pub allocation: AllocationId,
}

/// A task that an agent runs and the cell does not know, as after a restore: it occupies its room until its agent's receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownTask {
    /// Where it runs.
    pub machine: MachineId,
    /// What it is, as its agent was told.
    pub traces: Arc<TaskTraces>,
    /// When the cell heard of it.
    pub since: LogTime,
    /// When it will be told to stop, or was; `None`: it was adopted, and runs until it ends or its machine is drained. A server that starts
    /// meanwhile tells it later, once it has been there itself for as long as the time for it is.
    pub until: Option<LogTime>,
    /// It was told to stop.
    pub stopping: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AMOUNT_MAX, CUSTOM_RESOURCES, Operator};

    #[test]
    fn a_partition_has_the_machines_on_which_all_of_its_rules_hold() {
        let rule =
            |name: &str| Constraint { attribute: name.into(), operator: Operator::Equal, values: vec!["yes".into()] };
        let of = |names: &[&str]| names.iter().map(|&name| (name.into(), "yes".into())).collect::<Attributes>();
        let fast = Partition { machines: vec![rule("ssd"), rule("gpu")], ..Partition::default() };
        let has = [&["ssd", "gpu"][..], &["ssd"], &["gpu"], &[]].map(|names| fast.has(&of(names)));
        assert_eq!(has, [true, false, false, false]);
        assert!(Partition::default().has(&of(&[])), "without rules it has all");
    }

    /// Of a second resource as of the first one: whatever is limited, decides.
    #[test]
    fn what_is_left_of_a_quota_is_that_of_whichever_resource_is_limited() {
        let more = Resources { disk_bytes: 10, custom: [10; CUSTOM_RESOURCES], ..Resources::new(10, 10) };
        for (place, resource) in Resource::ALL.into_iter().enumerate() {
            let mut quota = Quota::default();
            quota.limits[place] = Some(25);
            let left = |used: &Resources| (quota.headroom(used, &more), quota.shortage(used, &more));
            let twice = Resources { disk_bytes: 20, custom: [20; CUSTOM_RESOURCES], ..Resources::new(20, 20) };
            assert_eq!(left(&Resources::default()), (2, None), "{resource}");
            assert_eq!(left(&twice), (0, Some(Shortage { resource, short_by: 5 })), "{resource}");
        }
        let mut memory = Quota::default();
        memory.limits[1] = Some(25);
        let more = Resources::new(100, 10);
        for used in 0..40 {
            let used = Resources::new(0, used);
            let none_is_left = memory.headroom(&used, &more) == 0;
            assert_eq!(none_is_left, memory.shortage(&used, &more).is_some(), "{used:?}");
        }
        assert_eq!(
            memory.headroom(&Resources::new(0, 24), &Resources::new(100, 0)),
            u64::MAX,
            "it asks for none of it"
        );
    }

    #[test]
    fn two_holds_of_a_job_differ_where_one_has_a_machine_more_or_all_have_more_room() {
        let hold = |machines: &[u32], cpu_millis| Hold {
            machines: machines.to_vec(),
            resources: Resources::new(cpu_millis, 1),
            deadline: LogTime { micros: 1 },
            first_wait: Revision(1),
        };
        let (some, more, nothing) = (Resources::new(5, 1), Resources::new(6, 1), Resources::default());
        let differ = |before: Option<&Hold>, after: Option<&Hold>| Hold::differences(before, after).collect::<Vec<_>>();
        let before = hold(&[1, 3, 4, 9], 5);
        assert_eq!(
            differ(Some(&before), Some(&hold(&[0, 3, 9, 12], 5))),
            [(0, nothing, some), (1, some, nothing), (4, some, nothing), (12, nothing, some)]
        );
        assert_eq!(
            differ(Some(&before), Some(&hold(&[3, 10], 6))),
            [(1, some, nothing), (3, some, more), (4, some, nothing), (9, some, nothing), (10, nothing, more)]
        );
        assert_eq!(differ(None, Some(&hold(&[2], 5))), [(2, nothing, some)]);
        assert_eq!(differ(Some(&hold(&[2], 5)), None), [(2, some, nothing)]);
        assert_eq!(differ(Some(&before), Some(&before)), []);
    }

    /// A mirror counts off what a server says; a sum below nothing would stop whoever follows it.
    #[test]
    fn more_than_was_counted_leaves_nothing() {
        let mut sum = Sum::default();
        sum.add(&Resources::new(1000, 5), 2);
        sum.take(&Resources::new(1000, 1), 3);
        assert_eq!(sum.total(), Resources::new(0, 7));
    }

    #[test]
    fn what_a_transaction_takes_and_gives_back_is_exact_beyond_what_a_machine_holds() {
        let most = Resources::new(1, AMOUNT_MAX);
        let (mut sum, mut given) = (Sum::default(), GivenBack::default());
        sum.add(&most, 3);
        given.add_times(&most, -16_384);
        assert_eq!(sum.after_giving(&given), Resources::new(16_387, u64::MAX), "more than 64 bits hold");
        given.add_times(&most, 16_385);
        assert_eq!(sum.after_giving(&given), Resources::new(2, 2 * AMOUNT_MAX));
        given.add_times(&most, i64::MAX);
        given.add_times(&Resources::new(0, u64::MAX), i64::MAX);
        given.add_times(&Resources::new(0, u64::MAX), i64::MAX);
        assert_eq!(sum.after_giving(&given), Resources::default());
        // What is used is more than 64 bits hold, too: what is given back of it is taken off the whole.
        let (mut sum, mut given) = (Sum::default(), GivenBack::default());
        sum.add(&most, 20_000);
        given.add_times(&most, 1000);
        assert_eq!(sum.after_giving(&given).memory_bytes, u64::MAX);
    }
}
