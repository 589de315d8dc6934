//! Partitions: named sets of machines. One that lists schedulers is reserved for them, and closed to all others.

use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_model::planted::{self, Bug};
use plenum_model::{Cell, ClassSet, Delta, LogTime, Partition, Rejection, RejectionCode};

use crate::{Core, Handled, Verdict, accepted};

/// Schedulers whose sets are remembered. Beyond them all are computed anew as they are asked for.
const SETS_MAX: usize = 4096;

/// By scheduler, the classes of machines that some partition reserves for others. Each is judged when first asked for, and all are
/// forgotten when a partition changes: a set of bits for each name of a scheduler that is asked for.
#[derive(Debug, Default)]
pub(crate) struct Reserved(BTreeMap<Arc<str>, ClassSet>);

impl Reserved {
    /// The classes of machines on which this scheduler may not claim, of those that these machines are of; `None`: it may everywhere.
    pub(crate) fn closed_to(
        &mut self,
        cell: &Cell,
        scheduler: &Arc<str>,
        machines: impl Iterator<Item = u32>,
    ) -> Option<&ClassSet> {
        let closes = |partition: &&Partition| !partition.is_open_to(scheduler);
        let mut closed = cell.partitions().map(|(_, partition)| partition).filter(closes).peekable();
        closed.peek()?;
        if self.0.len() >= SETS_MAX && !self.0.contains_key(scheduler) {
            self.0.clear();
        }
        let set = self.0.entry(scheduler.clone()).or_default();
        if !set.is_complete(cell) {
            let counted = if planted::is(Bug::ObeysOnePartition) { 1 } else { usize::MAX };
            let partitions: Vec<_> = closed.take(counted).collect();
            let classes = cell.classes_of(machines);
            set.judge_by(cell, classes, |attributes| partitions.iter().any(|partition| partition.has(attributes)));
        }
        Some(set)
    }

    /// Notes what a delta has changed.
    pub(crate) fn after(&mut self, delta: &Delta) {
        if !delta.partitions.is_empty() {
            self.0.clear();
        }
    }
}

impl Core {
    /// Names a set of machines, or another one by the same name, or forgets the name. What runs there stays.
    pub(crate) fn set_partition(&mut self, name: &Arc<str>, partition: Option<&Partition>, now: LogTime) -> Handled {
        let before = self.cell.partition(name);
        if partition.is_none() && before.is_none() {
            let message =
                format!("there is no partition {name} to remove; `plenum partition list` shows those that are");
            return Err(Rejection::new(RejectionCode::NoSuchPartition, message));
        }
        if partition == before {
            return Ok(Verdict::Answer(accepted(0, 0)));
        }
        let most = self.options.partitions_max;
        if before.is_none() && self.cell.partitions().count() >= most {
            let message = format!("at most {most} partitions; remove some");
            return Err(Rejection::new(RejectionCode::LimitReached, message));
        }
        let mut delta = self.draft(now);
        delta.partitions.push((name.clone(), partition.cloned()));
        Ok(Verdict::Change(accepted(0, 0), delta))
    }
}

#[cfg(test)]
mod tests {
    use plenum_model::{Command, Decision, Request};

    use super::*;
    use crate::{CoreOptions, Decided};

    #[test]
    fn sets_of_so_many_schedulers_are_remembered_and_no_more() {
        let mut core = Core::new(CoreOptions::default());
        let partition = Partition { schedulers: vec!["research".into()], ..Partition::default() };
        let command = Command::SetPartition { name: "lab".into(), partition: Some(partition) };
        let request = Request { principal: "local".into(), namespace: "default".into(), command };
        let decided = core.decide(&request, LogTime::from_micros(1));
        assert!(matches!(&decided, Decided::Changed { decision: Decision::Accepted { .. }, .. }), "{decided:?}");
        let mut asked_by = |scheduler: usize| {
            let Core { cell, derived, .. } = &mut core;
            let name = format!("s{scheduler}").into();
            assert!(derived.partitions.closed_to(cell, &name, std::iter::empty()).is_some());
            derived.partitions.0.len()
        };
        assert_eq!((0..SETS_MAX).map(&mut asked_by).last(), Some(SETS_MAX));
        assert_eq!(asked_by(0), SETS_MAX, "it is remembered");
        assert_eq!(asked_by(SETS_MAX), 1, "all are made anew");
    }
}
