//! Rows of a delta that pages have, too, and the slow parts of a delta.

use std::sync::Arc;

use bytes::Bytes;
use plenum_model::{
    CellIdentity, GrantExtra, Job, JobChange, JobShape, JobState, LogTime, Revision, SessionChange, SessionId,
    TaskChange, TaskState,
};

use super::super::enums::Known;
use super::super::resources::{devices, list, ports, take_overs};
use super::super::{command, required};
use crate::bounds::{self, COUNT_MAX, SOURCES_MAX, TEXT_BYTES_MAX};
use crate::error::{Invalid, Within};
use crate::v1::{job_change, session_change};
use crate::{names, v1};

/// Bytes of a BLAKE3 hash.
const DIGEST_BYTES: usize = 32;

/// Which cell it is.
pub(in super::super) fn cell_to_wire(identity: &CellIdentity) -> v1::CellChange {
    v1::CellChange {
        cell_id: Bytes::copy_from_slice(&identity.cell_id),
        incarnation: identity.incarnation,
        term: identity.term,
        custom_resources: identity.custom_resources.iter().map(|name| name.to_string()).collect(),
    }
}

pub(in super::super) fn cell_from_wire(wire: v1::CellChange) -> Result<CellIdentity, Invalid> {
    command::identity(&wire.cell_id, wire.incarnation, wire.term, wire.custom_resources)
}

/// A name that the cell has taken once.
pub(in super::super) fn name(text: &str) -> Result<Arc<str>, Invalid> {
    names::name("", text)
}

/// A job, apart from its body.
pub(in super::super) fn job_to_wire(job: &Job, task_bases: &[u32]) -> v1::JobPut {
    v1::JobPut {
        id: job.id.to_bits(),
        version: job.version,
        shape: Some(job.shape.as_ref().into()),
        body_digest: Bytes::copy_from_slice(&job.body_digest),
        submitted_micros: job.submitted.micros,
        group_base: job.group_base,
        task_bases: task_bases.to_vec(),
        state: v1::JobState::from(job.state).into(),
        state_since_micros: job.state_since.micros,
        reason: job.reason.to_string(),
        home: job.home.map_or(0, |slot| slot + 1),
        last_instant_micros: job.last_instant_micros,
    }
}

/// A job, with the body that came beside it, and the first task row of each group.
pub(in super::super) fn job_from_wire(wire: v1::JobPut, body: Option<Arc<[u8]>>) -> Result<(Job, Vec<u32>), Invalid> {
    bounds::rows("task_bases", &wire.task_bases)?;
    let id = bounds::job("id", wire.id)?;
    bounds::row("id", id.slot)?;
    let digest = wire.body_digest.as_ref();
    let body_digest = digest.try_into().map_err(|_| {
        Invalid::new("body_digest", format!("{DIGEST_BYTES} bytes"), format_args!("{} bytes", digest.len()))
    })?;
    let job = Job {
        id,
        version: wire.version,
        shape: Arc::new(JobShape::try_from(required("shape", "the shape of a job", wire.shape)?).within("shape")?),
        body,
        body_digest,
        submitted: LogTime { micros: wire.submitted_micros },
        state: JobState::known("state", wire.state)?,
        state_since: LogTime { micros: wire.state_since_micros },
        reason: names::reason("reason", &wire.reason)?,
        group_base: bounds::row("group_base", wire.group_base)?,
        home: bounds::optional_row("home", wire.home)?,
        last_instant_micros: wire.last_instant_micros,
    };
    Ok((job, wire.task_bases))
}

/// A change of a job, apart from a body.
pub(super) fn job_change_to_wire(change: &JobChange) -> v1::JobChange {
    let change = match change {
        JobChange::Put { job, task_bases } => job_change::Change::Put(job_to_wire(job, task_bases)),
        JobChange::State { id, state, reason } => job_change::Change::State(v1::JobStateChange {
            id: id.to_bits(),
            state: v1::JobState::from(*state).into(),
            reason: reason.to_string(),
        }),
        JobChange::Group { row, count, not_before, task_base } => job_change::Change::Group(v1::GroupChange {
            group: *row,
            count: *count,
            not_before_micros: not_before.micros,
            task_base: *task_base,
        }),
        JobChange::Removed(id) => job_change::Change::Removed(id.to_bits()),
        JobChange::Home { id, machine } => {
            job_change::Change::Home(v1::JobHome { id: id.to_bits(), machine: machine.map_or(0, |slot| slot + 1) })
        }
        JobChange::Launched { id, instant_micros } => {
            let (id, instant_micros) = (id.to_bits(), *instant_micros);
            job_change::Change::Launched(v1::JobLaunched { id, instant_micros })
        }
    };
    v1::JobChange { change: Some(change) }
}

/// A change of a job. `body` gives the body of a job that is put.
pub(super) fn job_change_from_wire(
    wire: v1::JobChange,
    body: impl FnOnce(u64) -> Option<Arc<[u8]>>,
) -> Result<JobChange, Invalid> {
    Ok(match required("change", "a change that this version knows", wire.change)? {
        job_change::Change::Put(put) => {
            let body = body(put.id);
            let (job, task_bases) = job_from_wire(put, body).within("put")?;
            JobChange::Put { job: Arc::new(job), task_bases }
        }
        job_change::Change::State(wire) => JobChange::State {
            id: bounds::job("state.id", wire.id)?,
            state: JobState::known("state.state", wire.state)?,
            reason: names::reason("state.reason", &wire.reason)?,
        },
        job_change::Change::Group(wire) => JobChange::Group {
            row: bounds::row("group.group", wire.group)?,
            count: bounds::up_to("group.count", wire.count, COUNT_MAX)?,
            not_before: LogTime { micros: wire.not_before_micros },
            task_base: bounds::row("group.task_base", wire.task_base)?,
        },
        job_change::Change::Removed(id) => JobChange::Removed(bounds::job("removed", id)?),
        job_change::Change::Home(wire) => JobChange::Home {
            id: bounds::job("home.id", wire.id)?,
            machine: bounds::optional_row("home.machine", wire.machine)?,
        },
        job_change::Change::Launched(wire) => {
            JobChange::Launched { id: bounds::job("launched.id", wire.id)?, instant_micros: wire.instant_micros }
        }
    })
}

/// Bodies of the jobs that are put.
pub(super) fn bodies(jobs: &[JobChange]) -> Vec<v1::BodyChange> {
    jobs.iter()
        .filter_map(|change| match change {
            JobChange::Put { job, .. } => {
                let body = Bytes::copy_from_slice(job.body.as_ref()?);
                Some(v1::BodyChange { job: job.id.to_bits(), body })
            }
            _ => None,
        })
        .collect()
}

/// What one grant has beyond resources.
pub(super) fn grant_extra_to_wire(extra: &GrantExtra) -> v1::GrantExtras {
    extra_to_wire(extra.claim, &extra.devices, &extra.ports, &extra.takes_over)
}

/// What one allocation has beyond resources, at this position of its columns.
pub(in super::super) fn extra_to_wire(
    claim: u32,
    devices: &[plenum_model::Device],
    ports: &[plenum_model::Port],
    takes_over: &[plenum_model::TakeOver],
) -> v1::GrantExtras {
    v1::GrantExtras { claim, devices: list(devices), ports: list(ports), take_overs: list(takes_over) }
}

/// What one allocation has beyond resources; its position is below `rows`.
pub(in super::super) fn extra_from_wire(wire: v1::GrantExtras, rows: usize) -> Result<GrantExtra, Invalid> {
    position(wire.claim, rows).within("claim")?;
    Ok(GrantExtra {
        claim: wire.claim,
        devices: devices("devices", wire.devices)?,
        ports: ports("ports", wire.ports)?,
        takes_over: take_overs("take_overs", wire.take_overs, SOURCES_MAX)?,
    })
}

/// A position in columns of so many rows.
pub(in super::super) fn position(found: u32, rows: usize) -> Result<usize, Invalid> {
    let position = found as usize;
    if position < rows {
        Ok(position)
    } else {
        Err(Invalid::new("", format!("a position below {rows}, the number of rows"), found))
    }
}

/// Reasons with their positions, where there are some.
pub(super) fn reasons<'a>(all: impl Iterator<Item = Option<&'a Arc<str>>>) -> Vec<v1::NumberedReason> {
    (0..)
        .zip(all)
        .filter_map(|(position, reason)| Some(v1::NumberedReason { position, reason: reason?.to_string() }))
        .collect()
}

/// Hands out each reason with its position.
pub(in super::super) fn reasons_by_position(
    wire: &[v1::NumberedReason],
    rows: usize,
    mut put: impl FnMut(usize, Arc<str>),
) -> Result<(), Invalid> {
    for (number, entry) in wire.iter().enumerate() {
        let position = position(entry.position, rows).within("position").within_at("reasons", number)?;
        let reason = names::text("reason", &entry.reason, TEXT_BYTES_MAX).within_at("reasons", number)?;
        put(position, reason);
    }
    Ok(())
}

/// Changes of tasks, one entry for each run of one group.
pub(super) fn task_changes(tasks: &[TaskChange]) -> Vec<v1::TaskChanges> {
    let runs = tasks.chunk_by(|left, right| left.group_row == right.group_row);
    runs.map(|run| v1::TaskChanges {
        group_row: run.first().map_or(0, |first| first.group_row),
        tasks: run.iter().map(|change| change.task).collect(),
        states: run.iter().map(|change| change.state as u32).collect(),
        failures: run.iter().map(|change| change.failures.into()).collect(),
    })
    .collect()
}

pub(super) fn push_tasks(wire: &v1::TaskChanges, tasks: &mut Vec<TaskChange>) -> Result<(), Invalid> {
    let rows = wire.tasks.len();
    bounds::column("states", rows, wire.states.len())?;
    bounds::column("failures", rows, wire.failures.len())?;
    bounds::rows("tasks", &wire.tasks)?;
    let group_row = bounds::row("group_row", wire.group_row)?;
    tasks.reserve(rows);
    for ((&task, &state), &failures) in wire.tasks.iter().zip(&wire.states).zip(&wire.failures) {
        let state =
            TaskState::from_number(state).ok_or_else(|| Invalid::new("states", "states of tasks, 0 to 5", state))?;
        let failures = bounds::narrow("failures", failures, u64::from(u8::MAX))?;
        tasks.push(TaskChange { group_row, task, state, failures });
    }
    Ok(())
}

/// A change of a session. The id of an opened one is the delta's revision.
pub(super) fn session_to_wire(change: &SessionChange, revision: Revision) -> v1::SessionChange {
    let change = match change {
        SessionChange::Opened { scheduler, principal, namespace } => {
            session_change::Change::Opened(v1::SessionOpened {
                id: revision.0,
                scheduler: scheduler.to_string(),
                principal: principal.to_string(),
                namespace: namespace.to_string(),
            })
        }
        SessionChange::Closed(id) => session_change::Change::Closed(id.0),
        SessionChange::Number { session, number, digest } => {
            session_change::Change::Number(v1::SessionNumber { session: session.0, number: *number, digest: *digest })
        }
    };
    v1::SessionChange { change: Some(change) }
}

pub(super) fn session_from_wire(wire: v1::SessionChange, revision: u64) -> Result<SessionChange, Invalid> {
    Ok(match required("change", "a change that this version knows", wire.change)? {
        session_change::Change::Opened(wire) => {
            if wire.id != revision {
                return Err(Invalid::new("opened.id", format!("{revision}, the delta's revision"), wire.id));
            }
            SessionChange::Opened {
                scheduler: names::name("opened.scheduler", &wire.scheduler)?,
                principal: names::principal("opened.principal", &wire.principal)?,
                namespace: names::optional_name("opened.namespace", &wire.namespace)?,
            }
        }
        session_change::Change::Closed(id) => SessionChange::Closed(SessionId(id)),
        session_change::Change::Number(wire) => {
            SessionChange::Number { session: SessionId(wire.session), number: wire.number, digest: wire.digest }
        }
    })
}
