//! Requests, as the log keeps them. Reading one back checks it again, through the same doors as when it came in.

use std::sync::Arc;

use bytes::{BufMut, Bytes};
use plenum_model::{
    CellIdentity, Command, FoundMachine, JobId, JobShape, LogTime, Partition, Request, Resources, SessionId, Transition,
};
use prost::Message;

use super::delta::wire::{Column, VARINT_BYTES_MAX, delimited_bytes, put_length, varint_bytes, zigzag};
use super::governance::{partition, priority};
use super::jobs::submission;
use super::machines::{Reasons, attributes_to_wire, register, reported, unfit, unfit_to_wire};
use super::resources::{list, resources};
use super::{each, newer, required, transaction};
use crate::bounds::{self, BODY_BYTES_MAX, COUNT_MAX, CUSTOM_MAX, TRANSITIONS_MAX};
use crate::error::{self, Invalid, ReadError, Within};
use crate::fields::fields;
use crate::v1::command::Ask;
use crate::{names, v1};

/// The bytes that the log keeps of a request.
#[must_use]
pub fn encode(request: &Request) -> Bytes {
    match &request.command {
        Command::ReportStatus(transitions) => encode_report(&request.principal, &request.namespace, transitions),
        _ => v1::Command::from(request).encode_to_vec().into(),
    }
}

/// Each claim comes to its receipt, so reports are as hot as transactions: their columns are measured and written once.
fn encode_report(principal: &str, namespace: &str, transitions: &[Transition]) -> Bytes {
    let around = v1::Command { principal: principal.to_owned(), namespace: namespace.to_owned(), ask: None };
    let machines = Column::new(1, transitions.iter().map(|one| one.machine.to_bits()));
    let epochs = Column::new(2, transitions.iter().map(|one| one.epoch));
    let allocations = Column::new(3, transitions.iter().map(|one| one.allocation.to_bits()));
    let states = Column::new(4, transitions.iter().map(|one| one.state as u32));
    let ready = Column::new(5, transitions.iter().map(|one| u32::from(one.ready)));
    let exit_codes = Column::new(6, transitions.iter().map(|one| zigzag(one.exit_code)));
    let restarts = Column::new(7, transitions.iter().map(|one| one.restarts));
    let reasons = v1::ReportStatus { reasons: reasons_of(transitions), ..v1::ReportStatus::default() };
    let bytes = machines.bytes()
        + allocations.bytes()
        + epochs.bytes()
        + restarts.bytes()
        + states.bytes()
        + ready.bytes()
        + exit_codes.bytes()
        + reasons.encoded_len();
    let mut out = Vec::with_capacity(around.encoded_len() + 1 + VARINT_BYTES_MAX + bytes);
    around.encode(&mut out).expect("a growing buffer has room");
    put_length(&mut out, REPORT_STATUS, bytes);
    machines.put(&mut out);
    epochs.put(&mut out);
    allocations.put(&mut out);
    states.put(&mut out);
    ready.put(&mut out);
    exit_codes.put(&mut out);
    restarts.put(&mut out);
    reasons.encode(&mut out).expect("a growing buffer has room");
    out.into()
}

/// The bytes that the log keeps of a transaction: those in which it came.
#[must_use]
pub fn encode_commit(principal: &str, namespace: &str, transaction: &[u8]) -> Bytes {
    let texts = [(PRINCIPAL, principal), (NAMESPACE, namespace)].into_iter().filter(|(_, text)| !text.is_empty());
    let around: usize = texts.clone().map(|(_, text)| delimited_bytes(text.len())).sum();
    // Exactly: what is larger than its content is frozen with one more allocation.
    let bytes = around + 1 + varint_bytes(transaction.len() as u64) + transaction.len();
    let mut out = Vec::with_capacity(bytes);
    for (field, text) in texts {
        put_length(&mut out, field, text.len());
        out.put_slice(text.as_bytes());
    }
    put_length(&mut out, COMMIT, transaction.len());
    out.put_slice(transaction);
    out.into()
}

/// Fields of `Command`.
const PRINCIPAL: u8 = 1;
const NAMESPACE: u8 = 2;
const COMMIT: u8 = 6;
const REPORT_STATUS: u8 = 13;

/// The request that the log kept.
///
/// # Errors
/// When the bytes are none, or break a rule; [`ReadError::Newer`] where that may be a later version's.
pub fn decode(bytes: Bytes) -> Result<Request, ReadError> {
    let wire: v1::Command = error::decode("Command", bytes.clone())?;
    let mut request = Request::try_from(wire).map_err(|source| newer::breaks_a_rule("Command", &bytes, source))?;
    // The content of a transaction is its very bytes; the decoded message does not have them any more.
    if let Command::Commit(_, digest) = &mut request.command
        && let Some(field) = fields(&bytes).flatten().find(|field| field.number == u64::from(COMMIT))
    {
        *digest = transaction::digest(&bytes[field.content]);
    }
    Ok(request)
}

/// The request of a scheduler that begins.
///
/// # Errors
/// Names the field that breaks a rule.
pub fn open_session(principal: &str, namespace: &str, scheduler: &str) -> Result<Request, Invalid> {
    Ok(Request {
        principal: names::principal("principal", principal)?,
        namespace: names::optional_name("namespace", namespace)?,
        command: Command::OpenSession { scheduler: names::name("scheduler", scheduler)? },
    })
}

impl From<&Request> for v1::Command {
    fn from(request: &Request) -> Self {
        Self {
            principal: request.principal.to_string(),
            namespace: request.namespace.to_string(),
            ask: Some(ask(&request.command)),
        }
    }
}

impl TryFrom<v1::Command> for Request {
    type Error = Invalid;

    fn try_from(wire: v1::Command) -> Result<Self, Invalid> {
        Ok(Self {
            principal: names::principal("principal", &wire.principal)?,
            namespace: names::optional_name("namespace", &wire.namespace)?,
            command: command(required("ask", "a command that this version knows", wire.ask)?)?,
        })
    }
}

fn ask(command: &Command) -> Ask {
    match command {
        Command::OpenServer(identity) => Ask::OpenServer(open_server(identity)),
        Command::OpenSession { scheduler } => Ask::OpenSession(v1::OpenSession { scheduler: scheduler.to_string() }),
        Command::CloseSession(session) => Ask::CloseSession(v1::CloseSession { session: session.0 }),
        Command::Commit(transaction, _) => Ask::Commit(transaction.as_ref().into()),
        Command::SubmitJob { shape, body, expected_version, .. } => {
            let (body, expected_version) = (Bytes::copy_from_slice(body), *expected_version);
            Ask::SubmitJob(v1::SubmitJob { shape: Some(shape.as_ref().into()), body, expected_version })
        }
        Command::StopJob { job, version } => {
            Ask::StopJob(v1::StopJob { job: job.to_bits(), version: version.unwrap_or(0) })
        }
        Command::ScaleJob { job, version, group, count } => {
            let (group, version) = ((*group).into(), version.unwrap_or(0));
            Ask::ScaleJob(v1::ScaleJob { job: job.to_bits(), group, count: *count, version })
        }
        Command::StopAllocation(id) => Ask::StopAllocation(v1::StopAllocation { allocation: id.to_bits() }),
        Command::RegisterMachine(FoundMachine { name, boot_id, capacity, attributes, devices, inventory, seen }) => {
            Ask::RegisterMachine(v1::RegisterMachine {
                name: name.to_string(),
                boot_id: boot_id.to_string(),
                capacity: Some(capacity.into()),
                attributes: attributes_to_wire(attributes),
                devices: list(devices),
                inventory: list(inventory),
                seen_revision: seen.0,
            })
        }
        Command::ReportStatus(transitions) => Ask::ReportStatus(report_to_wire(transitions)),
        Command::ExpireMachine { machine, epoch } => {
            Ask::ExpireMachine(v1::ExpireMachine { machine: machine.to_bits(), epoch: *epoch })
        }
        Command::ReportFitness { machine, epoch, unfit } => Ask::ReportFitness(v1::ReportFitness {
            machine: machine.to_bits(),
            epoch: *epoch,
            unfit: unfit_to_wire(*unfit),
        }),
        Command::CordonMachine { machine, cordoned } => {
            Ask::CordonMachine(v1::CordonMachine { machine: machine.to_bits(), cordoned: *cordoned })
        }
        Command::DrainMachine { machine, deadline } => Ask::DrainMachine(v1::DrainMachine {
            machine: machine.to_bits(),
            deadline_micros: deadline.map_or(0, |deadline| deadline.micros),
        }),
        Command::RemoveMachine { machine, unless_alive } => {
            Ask::RemoveMachine(v1::RemoveMachine { machine: machine.to_bits(), unless_alive: *unless_alive })
        }
        Command::Launch { parent, instant_micros } => {
            Ask::Launch(v1::Launch { parent: parent.to_bits(), instant_micros: *instant_micros })
        }
        Command::TakeHold { session, job, machines, resources, deadline } => {
            Ask::TakeHold(take_hold_to_wire((*session, *job), machines, resources, *deadline))
        }
        Command::SetQuota { namespace, limit } => {
            let limit = limit.as_ref().map(v1::Quota::from);
            Ask::SetQuota(v1::SetQuota { namespace: namespace.to_string(), limit })
        }
        Command::SetPartition { name, partition } => Ask::SetPartition(set_partition_to_wire(name, partition.as_ref())),
        Command::AdoptUnknown { machine, allocation } => {
            Ask::AdoptUnknown(v1::AdoptUnknown { machine: machine.to_bits(), allocation: allocation.to_bits() })
        }
        Command::PauseScheduler { scheduler, paused } => {
            Ask::PauseScheduler(v1::PauseScheduler { scheduler: scheduler.to_string(), paused: *paused })
        }
        Command::SetRights { scheduler, evicts, priority } => Ask::SetRights(set_rights(scheduler, *evicts, *priority)),
        Command::Tick => Ask::Tick(v1::Tick {}),
    }
}

fn set_rights(scheduler: &str, evicts: Option<bool>, priority: Option<u8>) -> v1::SetRights {
    v1::SetRights { scheduler: scheduler.to_owned(), evicts, priority: priority.map(u32::from) }
}

fn open_server(identity: &CellIdentity) -> v1::OpenServer {
    v1::OpenServer {
        cell_id: Bytes::copy_from_slice(&identity.cell_id),
        incarnation: identity.incarnation,
        term: identity.term,
        custom_resources: identity.custom_resources.iter().map(|name| name.to_string()).collect(),
    }
}

/// What is asked, checked.
///
/// # Errors
/// Names the field that breaks a rule.
pub fn command(ask: Ask) -> Result<Command, Invalid> {
    Ok(match ask {
        Ask::OpenServer(wire) => {
            Command::OpenServer(identity(&wire.cell_id, wire.incarnation, wire.term, wire.custom_resources)?)
        }
        Ask::OpenSession(wire) => Command::OpenSession { scheduler: names::name("scheduler", &wire.scheduler)? },
        Ask::CloseSession(wire) => Command::CloseSession(SessionId(wire.session)),
        Ask::Commit(wire) => transaction::commit_decoded(&wire).within("commit")?,
        Ask::SubmitJob(wire) => logged_submission(wire).within("submit_job")?,
        Ask::StopJob(wire) => Command::StopJob {
            job: bounds::job("stop_job.job", wire.job)?,
            version: (wire.version > 0).then_some(wire.version),
        },
        Ask::ScaleJob(wire) => Command::ScaleJob {
            job: bounds::job("scale_job.job", wire.job)?,
            version: (wire.version > 0).then_some(wire.version),
            group: bounds::group("scale_job.group", wire.group)?,
            count: bounds::up_to("scale_job.count", wire.count, COUNT_MAX)?,
        },
        Ask::StopAllocation(wire) => {
            Command::StopAllocation(bounds::allocation("stop_allocation.allocation", wire.allocation)?)
        }
        Ask::RegisterMachine(wire) => register(wire).within("register_machine")?,
        Ask::ExpireMachine(wire) => Command::ExpireMachine {
            machine: bounds::machine("expire_machine.machine", wire.machine)?,
            epoch: bounds::epoch("expire_machine.epoch", wire.epoch)?,
        },
        Ask::ReportStatus(wire) => Command::ReportStatus(report(wire).within("report_status")?),
        Ask::ReportFitness(wire) => Command::ReportFitness {
            machine: bounds::machine("report_fitness.machine", wire.machine)?,
            epoch: bounds::epoch("report_fitness.epoch", wire.epoch)?,
            unfit: unfit("report_fitness.unfit", wire.unfit)?,
        },
        Ask::CordonMachine(wire) => Command::CordonMachine {
            machine: bounds::machine("cordon_machine.machine", wire.machine)?,
            cordoned: wire.cordoned,
        },
        Ask::DrainMachine(wire) => Command::DrainMachine {
            machine: bounds::machine("drain_machine.machine", wire.machine)?,
            deadline: bounds::optional_time("drain_machine.deadline_micros", wire.deadline_micros)?,
        },
        Ask::RemoveMachine(wire) => Command::RemoveMachine {
            machine: bounds::machine("remove_machine.machine", wire.machine)?,
            unless_alive: wire.unless_alive,
        },
        Ask::Tick(v1::Tick {}) => Command::Tick,
        Ask::Launch(wire) => {
            Command::Launch { parent: bounds::job("launch.parent", wire.parent)?, instant_micros: wire.instant_micros }
        }
        Ask::TakeHold(wire) => take_hold(wire).within("take_hold")?,
        Ask::SetQuota(wire) => Command::SetQuota {
            namespace: names::name("set_quota.namespace", &wire.namespace)?,
            limit: wire.limit.map(TryInto::try_into).transpose().within("set_quota.limit")?,
        },
        Ask::SetPartition(wire) => set_partition(wire).within("set_partition")?,
        Ask::AdoptUnknown(wire) => Command::AdoptUnknown {
            machine: bounds::machine("adopt_unknown.machine", wire.machine)?,
            allocation: bounds::allocation("adopt_unknown.allocation", wire.allocation)?,
        },
        Ask::PauseScheduler(wire) => Command::PauseScheduler {
            scheduler: names::name("pause_scheduler.scheduler", &wire.scheduler)?,
            paused: wire.paused,
        },
        Ask::SetRights(wire) => Command::SetRights {
            scheduler: names::name("set_rights.scheduler", &wire.scheduler)?,
            evicts: wire.evicts,
            priority: wire.priority.map(|found| priority("set_rights.priority", found)).transpose()?,
        },
    })
}

/// Which cell it is.
pub(super) fn identity(id: &[u8], incarnation: u64, term: u64, names: Vec<String>) -> Result<CellIdentity, Invalid> {
    let bytes = id.len();
    let cell_id = id.try_into().map_err(|_| Invalid::new("cell_id", "16 bytes", format_args!("{bytes} bytes")))?;
    bounds::at_most("custom_resources", "named resources", names.len(), CUSTOM_MAX)?;
    let custom_resources = each("custom_resources", names, |name| names::attribute("", &name))?;
    Ok(CellIdentity { cell_id, incarnation, term, custom_resources })
}

fn logged_submission(wire: v1::SubmitJob) -> Result<Command, Invalid> {
    let shape = JobShape::try_from(required("shape", "the shape of a job", wire.shape)?).within("shape")?;
    names::short("body", wire.body.len(), BODY_BYTES_MAX)?;
    if wire.body.is_empty() {
        return Err(Invalid::missing("body", "an encoded body"));
    }
    Ok(submission(Arc::new(shape), wire.body.as_ref().into(), wire.expected_version))
}

/// Without rules and schedulers the partition is removed.
fn set_partition(wire: v1::SetPartition) -> Result<Command, Invalid> {
    if wire.machines.is_empty() && !wire.schedulers.is_empty() {
        let expected = "at least one rule about machines for these schedulers (neither removes the partition)";
        return Err(Invalid::new("machines", expected, "none"));
    }
    let set = !wire.machines.is_empty();
    Ok(Command::SetPartition {
        name: names::name("name", &wire.name)?,
        partition: set.then(|| partition(wire.machines, wire.schedulers)).transpose()?,
    })
}

fn set_partition_to_wire(name: &str, partition: Option<&Partition>) -> v1::SetPartition {
    v1::SetPartition {
        name: name.to_owned(),
        machines: partition.map(|found| list(&found.machines)).unwrap_or_default(),
        schedulers: partition.into_iter().flat_map(|found| &found.schedulers).map(|name| name.to_string()).collect(),
    }
}

fn take_hold_to_wire(
    (session, job): (SessionId, JobId),
    machines: &[u32],
    resources: &Resources,
    deadline: LogTime,
) -> v1::TakeHold {
    v1::TakeHold {
        job: job.to_bits(),
        machines: machines.to_vec(),
        resources: Some(resources.into()),
        deadline_micros: deadline.micros,
        session: session.0,
    }
}

fn take_hold(wire: v1::TakeHold) -> Result<Command, Invalid> {
    bounds::at_most("machines", "machines", wire.machines.len(), bounds::CLAIMS_MAX)?;
    let deadline = bounds::optional_time("deadline_micros", wire.deadline_micros)?;
    Ok(Command::TakeHold {
        session: SessionId(wire.session),
        job: bounds::job("job", wire.job)?,
        machines: wire.machines,
        resources: resources("resources", wire.resources)?,
        deadline: required("deadline_micros", "a deadline", deadline)?,
    })
}

fn report_to_wire(transitions: &[Transition]) -> v1::ReportStatus {
    v1::ReportStatus {
        machines: transitions.iter().map(|one| one.machine.to_bits()).collect(),
        epochs: transitions.iter().map(|one| one.epoch).collect(),
        allocations: transitions.iter().map(|one| one.allocation.to_bits()).collect(),
        states: transitions.iter().map(|one| one.state as u32).collect(),
        ready: transitions.iter().map(|one| one.ready).collect(),
        exit_codes: transitions.iter().map(|one| one.exit_code).collect(),
        restarts: transitions.iter().map(|one| one.restarts).collect(),
        reasons: reasons_of(transitions),
    }
}

fn reasons_of(transitions: &[Transition]) -> Vec<String> {
    let any = transitions.iter().any(|one| !one.reason.is_empty());
    if any { transitions.iter().map(|one| one.reason.to_string()).collect() } else { Vec::new() }
}

fn report(wire: v1::ReportStatus) -> Result<Vec<Transition>, Invalid> {
    let rows = wire.allocations.len();
    bounds::at_most("allocations", "transitions", rows, TRANSITIONS_MAX)?;
    bounds::column("machines", rows, wire.machines.len())?;
    bounds::column("epochs", rows, wire.epochs.len())?;
    bounds::column("states", rows, wire.states.len())?;
    bounds::column("ready", rows, wire.ready.len())?;
    bounds::column("exit_codes", rows, wire.exit_codes.len())?;
    bounds::column("restarts", rows, wire.restarts.len())?;
    if !wire.reasons.is_empty() {
        bounds::column("reasons", rows, wire.reasons.len())?;
    }
    let mut reasons = Reasons::default();
    let mut transition = |row: usize| {
        let state = i32::try_from(wire.states[row]).unwrap_or(i32::MAX);
        Ok(Transition {
            machine: bounds::machine("machine", wire.machines[row])?,
            epoch: bounds::epoch("epoch", wire.epochs[row])?,
            allocation: bounds::allocation("allocation", wire.allocations[row])?,
            state: reported("state", state)?,
            ready: wire.ready[row],
            exit_code: wire.exit_codes[row],
            restarts: wire.restarts[row],
            reason: reasons.checked(wire.reasons.get(row).map_or("", |reason| reason))?,
        })
    };
    (0..rows).map(|row| transition(row).within_at("", row)).collect()
}
