//! Quotas, holds, partitions, unknown tasks and paused schedulers that come and go.

use std::sync::Arc;

use plenum_model::{
    AllocationId, Constraint, Delta, Hold, LogTime, Operator, Partition, Quota, Resources, Rights, TaskTraces,
    UnknownId, UnknownTask,
};

use super::{World, pick};

impl World {
    /// Lays something down, or in one of four cases takes it away.
    pub(super) fn govern(&self, number: u32, empty: Delta) -> Delta {
        let (kind, which) = (number % 6, number / 6 % 6_000);
        let gone = which.is_multiple_of(4);
        match kind {
            0 => Delta { quotas: vec![(name("team", which), (!gone).then(|| quota(which)))], ..empty },
            1 => self.hold(which, gone, empty),
            2 => Delta { partitions: vec![(name("part", which), (!gone).then(partition))], ..empty },
            3 => self.meet_unknown(which, gone, empty),
            4 => {
                let rights = Rights { evicts: which.is_multiple_of(2), priority: if gone { 1 } else { 7 } };
                Delta { rights: vec![(name("scheduler", which), rights)], ..empty }
            }
            _ => Delta { paused: vec![(name("scheduler", which), !gone)], ..empty },
        }
    }

    fn hold(&self, which: u32, gone: bool, empty: Delta) -> Delta {
        let jobs: Vec<_> = self.cell.jobs().collect();
        let Some(job) = pick(&jobs, which) else { return empty };
        let hold = Hold {
            machines: self.cell.machines().map(|machine| machine.id.slot).take(which as usize % 3).collect(),
            resources: Resources::new(10, 1 << 20),
            deadline: LogTime { micros: i64::from(which) },
            first_wait: empty.revision,
        };
        Delta { holds: vec![(job.id, (!gone).then_some(hold))], ..empty }
    }

    fn meet_unknown(&self, which: u32, gone: bool, empty: Delta) -> Delta {
        let known: Vec<_> = self.cell.unknown_tasks().map(|(id, _)| id).collect();
        if gone {
            let Some(&id) = pick(&known, which) else { return empty };
            return Delta { unknown: vec![(id, None)], ..empty };
        }
        let machines: Vec<_> = self.cell.machines().collect();
        let Some(machine) = pick(&machines, which) else { return empty };
        let traces = TaskTraces {
            namespace: "default".into(),
            job: "of-before".into(),
            group: "main".into(),
            task: which,
            resources: Resources::new(1, 1 << 10),
            devices: Vec::new(),
            ports: Vec::new(),
        };
        let task = UnknownTask {
            machine: machine.id,
            traces: Arc::new(traces),
            since: empty.time,
            until: (!which.is_multiple_of(3)).then_some(LogTime { micros: 5 }),
            stopping: which.is_multiple_of(5),
        };
        let id = UnknownId { machine: machine.id.slot, allocation: AllocationId { slot: which, generation: 1 } };
        Delta { unknown: vec![(id, Some(Arc::new(task)))], ..empty }
    }
}

pub(crate) fn name(kind: &str, number: u32) -> Arc<str> {
    format!("{kind}-{number}").into()
}

pub(crate) fn quota(number: u32) -> Quota {
    let mut quota = Quota::default();
    quota.limits[0] = Some(number.into());
    quota
}

pub(crate) fn partition() -> Partition {
    let rack = Constraint { attribute: "rack".into(), operator: Operator::Equal, values: vec!["r1".into()] };
    Partition { machines: vec![rack], schedulers: vec!["batch".into()] }
}
