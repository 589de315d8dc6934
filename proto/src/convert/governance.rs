//! Quotas, holds, partitions, unknown tasks, paused schedulers and rights.

use std::sync::Arc;

use plenum_model::{
    CUSTOM_RESOURCES, Hold, JobId, LogTime, Partition, QUOTA_MAX, Quota, Revision, Rights, TaskTraces, UnknownId,
    UnknownTask,
};

use super::jobs::constraints;
use super::resources::{list, resources};
use super::{each, required};
use crate::bounds::{self, LIST_MAX, signed};
use crate::error::{Invalid, Within};
use crate::{names, v1};

/// Stands for no limit of a named resource.
const UNLIMITED: i64 = -1;

impl From<&Quota> for v1::Quota {
    fn from(quota: &Quota) -> Self {
        let [cpu_millis, memory_bytes, disk_bytes, custom @ ..] = quota.limits;
        let used = custom.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        Self {
            cpu_millis: cpu_millis.map(signed),
            memory_bytes: memory_bytes.map(signed),
            disk_bytes: disk_bytes.map(signed),
            custom: custom[..used].iter().map(|limit| limit.map_or(UNLIMITED, signed)).collect(),
        }
    }
}

impl TryFrom<v1::Quota> for Quota {
    type Error = Invalid;

    fn try_from(wire: v1::Quota) -> Result<Self, Invalid> {
        bounds::at_most("custom", "named resources", wire.custom.len(), CUSTOM_RESOURCES)?;
        let limit = |field: &str, found: Option<i64>| {
            let Some(found) = found else { return Ok(None) };
            let amount = u64::try_from(found).ok().filter(|&amount| amount <= QUOTA_MAX);
            amount.map(Some).ok_or_else(|| Invalid::new(field, format!("0 to {QUOTA_MAX}"), found))
        };
        let mut quota = Self::default();
        quota.limits[0] = limit("cpu_millis", wire.cpu_millis)?;
        quota.limits[1] = limit("memory_bytes", wire.memory_bytes)?;
        quota.limits[2] = limit("disk_bytes", wire.disk_bytes)?;
        for (position, &found) in wire.custom.iter().enumerate() {
            let found = (found != UNLIMITED).then_some(found);
            quota.limits[3 + position] = limit("", found).within_at("custom", position)?;
        }
        Ok(quota)
    }
}

pub(super) fn quota_to_wire(namespace: &str, quota: Option<&Quota>) -> v1::QuotaChange {
    v1::QuotaChange { namespace: namespace.to_owned(), limit: quota.map(Into::into) }
}

pub(super) fn quota_from_wire(wire: v1::QuotaChange) -> Result<(Arc<str>, Option<Quota>), Invalid> {
    let limit = wire.limit.map(Quota::try_from).transpose().within("limit")?;
    Ok((names::name("namespace", &wire.namespace)?, limit))
}

pub(super) fn hold_to_wire(job: JobId, hold: Option<&Hold>) -> v1::HoldChange {
    let Some(hold) = hold else {
        return v1::HoldChange { job: job.to_bits(), removed: true, ..v1::HoldChange::default() };
    };
    v1::HoldChange {
        job: job.to_bits(),
        machines: hold.machines.clone(),
        resources: Some((&hold.resources).into()),
        deadline_micros: hold.deadline.micros,
        first_wait_revision: hold.first_wait.0,
        removed: false,
    }
}

pub(super) fn hold_from_wire(wire: v1::HoldChange) -> Result<(JobId, Option<Hold>), Invalid> {
    let job = bounds::job("job", wire.job)?;
    if wire.removed {
        return Ok((job, None));
    }
    bounds::at_most("machines", "machines", wire.machines.len(), bounds::CLAIMS_MAX)?;
    bounds::rows("machines", &wire.machines)?;
    let hold = Hold {
        machines: wire.machines,
        resources: resources("resources", wire.resources)?,
        deadline: LogTime { micros: wire.deadline_micros },
        first_wait: Revision(wire.first_wait_revision),
    };
    Ok((job, Some(hold)))
}

/// A partition that is set: which machines, and for whom.
pub(super) fn partition(machines: Vec<v1::Constraint>, schedulers: Vec<String>) -> Result<Partition, Invalid> {
    bounds::at_most("schedulers", "schedulers", schedulers.len(), LIST_MAX)?;
    Ok(Partition {
        machines: constraints("machines", machines)?,
        schedulers: each("schedulers", schedulers, |text| names::name("", &text))?,
    })
}

pub(super) fn partition_to_wire(name: &str, partition: Option<&Partition>) -> v1::PartitionChange {
    v1::PartitionChange {
        name: name.to_owned(),
        machines: partition.map(|found| list(&found.machines)).unwrap_or_default(),
        removed: partition.is_none(),
        schedulers: partition.into_iter().flat_map(|found| &found.schedulers).map(|name| name.to_string()).collect(),
    }
}

pub(super) fn partition_from_wire(wire: v1::PartitionChange) -> Result<(Arc<str>, Option<Partition>), Invalid> {
    let found = (!wire.removed).then(|| partition(wire.machines, wire.schedulers)).transpose()?;
    Ok((names::name("name", &wire.name)?, found))
}

pub(super) fn unknown_to_wire(id: UnknownId, task: Option<&UnknownTask>) -> v1::UnknownTaskChange {
    let Some(task) = task else {
        // The generation of the machine does not count for one that is gone.
        let machine = plenum_model::MachineId { slot: id.machine, generation: 1 }.to_bits();
        let allocation = id.allocation.to_bits();
        return v1::UnknownTaskChange { machine, allocation, removed: true, ..v1::UnknownTaskChange::default() };
    };
    v1::UnknownTaskChange {
        machine: task.machine.to_bits(),
        allocation: id.allocation.to_bits(),
        task: Some((&*task.traces).into()),
        since_micros: task.since.micros,
        removed: false,
        until_micros: task.until.map_or(0, |until| until.micros),
        stopping: task.stopping,
    }
}

pub(super) fn unknown_from_wire(wire: v1::UnknownTaskChange) -> Result<(UnknownId, Option<Arc<UnknownTask>>), Invalid> {
    let machine = bounds::machine("machine", wire.machine)?;
    bounds::row("machine", machine.slot)?;
    let id = UnknownId { machine: machine.slot, allocation: bounds::allocation("allocation", wire.allocation)? };
    if wire.removed {
        return Ok((id, None));
    }
    let traces = traces(required("task", "what it is", wire.task)?).within("task")?;
    let task = UnknownTask {
        machine,
        traces: Arc::new(traces),
        since: LogTime { micros: wire.since_micros },
        until: bounds::optional_time("until_micros", wire.until_micros)?,
        stopping: wire.stopping,
    };
    Ok((id, Some(Arc::new(task))))
}

/// What is known of an unknown task: nothing at all if its agent has no traces of it.
fn traces(wire: v1::TaskTraces) -> Result<TaskTraces, Invalid> {
    let none = TaskTraces::default();
    if wire == v1::TaskTraces::from(&none) { Ok(none) } else { wire.try_into() }
}

pub(super) fn paused_to_wire(scheduler: &str, paused: bool) -> v1::PausedChange {
    v1::PausedChange { scheduler: scheduler.to_owned(), paused }
}

pub(super) fn paused_from_wire(wire: v1::PausedChange) -> Result<(Arc<str>, bool), Invalid> {
    Ok((names::name("scheduler", &wire.scheduler)?, wire.paused))
}

pub(super) fn rights_to_wire(scheduler: &str, rights: Rights) -> v1::RightsChange {
    let Rights { evicts, priority } = rights;
    v1::RightsChange { scheduler: scheduler.to_owned(), evicts, priority: priority.into() }
}

pub(super) fn rights_from_wire(wire: v1::RightsChange) -> Result<(Arc<str>, Rights), Invalid> {
    let rights = Rights { evicts: wire.evicts, priority: priority("priority", wire.priority)? };
    Ok((names::name("scheduler", &wire.scheduler)?, rights))
}

/// Reads a scheduler's priority.
pub(super) fn priority(field: &'static str, found: u32) -> Result<u8, Invalid> {
    let narrow = u8::try_from(found).ok().filter(|priority| (1..=Rights::PRIORITY_MAX).contains(priority));
    narrow.ok_or_else(|| Invalid::new(field, format!("1 to {}", Rights::PRIORITY_MAX), found))
}
