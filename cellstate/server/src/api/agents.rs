//! For agents: registering, following, reporting, and logs of tasks.

mod following;
mod registered;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use plenum_model::{BootId, Cell, Command, Machine, MachineId, MachineState, Revision, Transition};
use plenum_proto::machines::Fitness;
use plenum_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::edge::custom;
use super::failure::Failure;
use super::principal;
use crate::agents::{Asking, Booked, Follower, Grant, Hindrance, LogRelay, Noting, Registering, leave_out_known};
use crate::authorise::Principal;
use crate::shared::Shared;
use crate::sync::Seen;
use following::follow;
use registered::{Known, Queued, Registered};

/// Metadata of Follow and Report with the instance that RegisterRequest said.
pub(super) const INSTANCE: &str = "plenum-instance";
const INSTANCE_BYTES_MAX: usize = 64;
/// What a chunk of a log may have, in bytes: twice what our agents send. Some chunks wait for each reader, and those that nobody reads are kept.
const LOG_CHUNK_BYTES_MAX: usize = 64 << 10;
/// How often is looked whether an agent's earlier registration is decided, and for how long: agents give their calls ten seconds.
const EARLIER_EVERY: Duration = Duration::from_millis(10);
const EARLIER_WITHIN: Duration = Duration::from_secs(10);
/// When it asks again, if it is not decided by then.
const EARLIER_RETRY: Duration = Duration::from_secs(1);
/// Messages between a stream and its connection: each may be a part of a large set.
const MESSAGES_MAX: usize = 1;

/// `plenum.v1.Agents`.
pub(super) struct AgentsService {
    shared: Arc<Shared>,
}

impl AgentsService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The machine with this id, if the principal may speak for it.
    async fn machine(&self, principal: &Principal, id: u64) -> Result<MachineId, Failure> {
        let id = MachineId::from_bits(id).ok_or_else(|| Failure::invalid("machine: expected the id of a machine"))?;
        if self.may_speak_for(principal, id, &mut None).await? { Ok(id) } else { Err(gone(id)) }
    }

    /// Fails if the principal may not speak for one of them. One that is gone is nobody's: its agent is told to register.
    async fn may_speak_for_all(&self, principal: &Principal, machines: &[u64]) -> Result<(), Failure> {
        let mut cell = None;
        for id in machines.iter().filter_map(|id| MachineId::from_bits(*id)) {
            self.may_speak_for(principal, id, &mut cell).await?;
        }
        Ok(())
    }

    /// Fails if the principal may not speak for this machine; false where there is none. The picture is asked for once for all of a call.
    async fn may_speak_for(
        &self,
        principal: &Principal,
        id: MachineId,
        cell: &mut Option<Cell>,
    ) -> Result<bool, Failure> {
        // The local principal may speak for any machine: no need to look up which one it is.
        if principal.role() == crate::authorise::Role::Local {
            return Ok(true);
        }
        // A sign of life must not wait for a picture: while a write does not come back there may be none, and all leases would run out.
        if let Some(name) = self.shared.hub.name_of(id) {
            principal.may_speak_for_machine(&name)?;
            return Ok(true);
        }
        let cell = match cell {
            Some(cell) => cell,
            None => cell.insert(self.shared.snapshot().await),
        };
        let Some(machine) = cell.machine(id) else { return Ok(false) };
        principal.may_speak_for_machine(&machine.name)?;
        Ok(true)
    }

    /// Takes what agents report, and says at which revision it is in the books, and of which machines it is not, as their epochs were over when
    /// it was decided: told that all is well, an agent would forget how tasks ended of which the cell has not heard.
    async fn book(&self, reported: Vec<Transition>) -> Result<(u64, BTreeSet<MachineId>), Failure> {
        let mut passed_over = BTreeSet::new();
        if reported.is_empty() {
            return Ok((self.shared.durable_revision().0, passed_over));
        }
        // One for each machine, as a rule: what happened there stands together.
        let of_one = reported.chunk_by(|one, next| (one.machine, one.epoch) == (next.machine, next.epoch));
        let mut told_of: Vec<_> = of_one.map(|of| (of[0].machine, of[0].epoch)).collect();
        let Booked { at, some_passed_over } = self.shared.hub.reports.report(reported).await?;
        if some_passed_over {
            // An epoch that is over stays so. Whose epoch ended since then registers a moment earlier than it would have.
            let cell = self.shared.snapshot_with(at).await;
            told_of.retain(|&(machine, epoch)| !cell.is_current(machine, epoch));
            passed_over.extend(told_of.into_iter().map(|(machine, _)| machine));
        }
        Ok((at.0, passed_over))
    }

    /// Whether who has seen this revision has seen more of this cell than there is.
    fn is_beyond(&self, incarnation: u64, revision: u64) -> bool {
        (incarnation, revision) > (self.shared.identity.incarnation, self.shared.durable_revision().0)
    }

    /// Fails if an agent has seen more of this cell than there is. A copy that others have gone on from must not write down that the machine is
    /// here: it would come nearer to what was seen with each attempt. Nor must it say what shall run there: all else would be stopped.
    fn has_seen_no_more(&self, machine: &str, incarnation: u64, revision: u64) -> Result<(), Failure> {
        if !self.is_beyond(incarnation, revision) {
            return Ok(());
        }
        let here = (self.shared.identity.incarnation, self.shared.durable_revision().0);
        let what =
            if incarnation > here.0 { Seen::Incarnation.told(incarnation) } else { Seen::Revision.told(revision) };
        self.shared.ahead.take(&format!("the agent of {machine}"), &what, self.shared.clock.monotonic_micros());
        let message = format!(
            "this agent has seen incarnation {incarnation}, revision {revision}, and here is incarnation {}, revision {}: an older copy of the \
             cell; start the server on the directory that went on (`plenum explain NO_SUCH_REVISION` says what to do where that is gone)",
            here.0, here.1
        );
        Err(Failure::new(Code::OutOfRange, "NO_SUCH_REVISION", message))
    }

    /// Whether a machine is served by another agent than this instance, which has seen so much of a cell.
    ///
    /// After a start of the server nobody knows whose it is. What it runs is not of an agent that was never in this cell: all of it would have
    /// failed for want of a trace.
    fn is_anothers(&self, cell: &Cell, machine: MachineId, instance: &str, seen: u64) -> bool {
        let hub = &self.shared.hub;
        let is_newcomer = seen == 0 && !instance.is_empty();
        hub.is_held_by_another(machine, instance)
            || is_newcomer && hub.awaits_its_holder(machine) && runs_something(cell, machine)
    }

    /// Begins to register a machine, behind what the same agent, or its predecessor, asked before: that might be decided after this one
    /// otherwise, and count. That is waited for within a time.
    async fn registering(&self, name: &str, asking: &Asking, within: Duration) -> Result<Registering, Failure> {
        let until = tokio::time::Instant::now() + within;
        loop {
            match self.shared.hub.registering(name, asking) {
                Ok(registering) => return Ok(registering),
                // The same boot in the same epoch would look like one agent, and both would start every task.
                Err(Hindrance::Another) => return Err(taken(name)),
                Err(Hindrance::Late) => return Err(late(name, asking)),
                Err(Hindrance::Earlier) if tokio::time::Instant::now() < until => {
                    tokio::time::sleep(EARLIER_EVERY).await;
                }
                Err(Hindrance::Earlier) => {
                    let message =
                        format!("an earlier registration of {name} by this agent is not decided yet; ask again");
                    let unknown = Failure::new(Code::Unavailable, "OUTCOME_UNKNOWN", message);
                    return Err(unknown.retry(EARLIER_RETRY));
                }
            }
        }
    }

    /// The machine of this name and its epoch, if there is one. Fails if another agent serves it, or one that asked later than this.
    fn is_its_own(&self, cell: &Cell, name: &str, asking: &Asking, seen: u64) -> Result<Option<Known>, Failure> {
        let Some(found) = cell.machine_named(name) else { return Ok(None) };
        let boot = BootId::from(asking.boot_id.as_str());
        if found.boot_id == boot && self.shared.hub.is_late(found.id, asking) {
            return Err(late(name, asking));
        }
        // First, as who has another directory has no copy of it.
        if self.is_anothers(cell, found.id, &asking.instance, seen) {
            return Err(taken(name));
        }
        // Who has not heard of the later boot is told to ask again, having heard of it.
        let has_heard = Revision(seen) >= found.epoch_began;
        if found.boot_id != boot && has_heard && self.shared.hub.is_superseded(found.id, &boot) {
            return Err(superseded(name));
        }
        Ok(Some(Known { id: found.id, epoch: found.epoch, boot: found.boot_id.clone() }))
    }

    /// The answer to an agent that is to ask again, knowing of this revision.
    fn register_again(&self, revision: Revision) -> v1::RegisterResponse {
        v1::RegisterResponse {
            revision: revision.0,
            incarnation: self.shared.identity.incarnation,
            cell_id: bytes::Bytes::copy_from_slice(&self.shared.identity.cell_id),
            register_again: true,
            ..v1::RegisterResponse::default()
        }
    }

    /// True if an epoch began before the cell was restored: its agent has to learn of that, by registering.
    fn is_of_the_past(&self, epoch: u32) -> bool {
        epoch <= plenum_model::floor_of(self.shared.identity.incarnation)
    }

    /// Hands chunks on to their readers. `sending` is the request whose end has not come.
    async fn relay_logs(
        &self,
        principal: &Principal,
        chunks: &mut Streaming<v1::SendLogsRequest>,
        Sending { request: sending, .. }: &mut Sending<'_>,
    ) -> Result<(), Status> {
        let logs = &self.shared.hub.logs;
        let mut allowed = None;
        while let Some(chunk) = chunks.message().await? {
            let bytes = chunk.data.len() + chunk.error.len();
            if bytes > LOG_CHUNK_BYTES_MAX {
                let message = format!("data: expected at most {LOG_CHUNK_BYTES_MAX} bytes in a chunk, found {bytes}");
                return Err(Failure::invalid(message).into());
            }
            if let Some(other) = sending.filter(|request| *request != chunk.request) {
                // Whose end would come with the call's, and nobody would know.
                let found = chunk.request;
                let message = format!(
                    "request: expected {other}, whose end has not come, found {found}; each has a call of its own"
                );
                return Err(Failure::invalid(message).into());
            }
            let Some(writing) = logs.writing(chunk.request) else {
                let message = format!("request {}: nobody reads it any more", chunk.request);
                return Err(Failure::new(Code::Cancelled, "READER_GONE", message).into());
            };
            if allowed != Some(writing.machine) {
                self.may_send_logs_of(principal, writing.machine).await?;
                allowed = Some(writing.machine);
            }
            *sending = Some(chunk.request);
            let v1::SendLogsRequest { data, skipped, next, .. } = chunk;
            // A copy: the bytes share the memory of the whole message that they came in.
            let data = Bytes::copy_from_slice(&data);
            let piece =
                if chunk.error.is_empty() { Ok(v1::LogChunk { data, skipped, next }) } else { Err(chunk.error) };
            let last = chunk.end || piece.is_err();
            let empty = piece.as_ref().is_ok_and(|piece| *piece == v1::LogChunk::default());
            if !empty && !writing.send(piece).await {
                return Err(Failure::new(Code::Cancelled, "READER_GONE", "nobody reads it any more").into());
            }
            if last {
                logs.ended(chunk.request, &writing);
                *sending = None;
            }
        }
        Ok(())
    }

    /// A log comes from the machine that was asked for it, and from no other.
    async fn may_send_logs_of(&self, principal: &Principal, slot: u32) -> Result<(), Failure> {
        if principal.role() == crate::authorise::Role::Local {
            return Ok(());
        }
        let cell = self.shared.snapshot().await;
        // Nobody's name, where the machine is gone.
        let name = cell.machine_in(slot).map_or("", |machine| &machine.name);
        Ok(principal.may_speak_for_machine(name)?)
    }
}

/// Puts resources that are told by their names where the cell has them.
fn put_named(
    machine: &mut v1::RegisterMachine,
    named: &BTreeMap<String, i64>,
    known: &[Arc<str>],
) -> Result<(), Failure> {
    if named.is_empty() {
        return Ok(());
    }
    let capacity = machine.capacity.get_or_insert_default();
    if !capacity.custom.is_empty() {
        return Err(Failure::invalid(
            "named: expected nothing beside machine.capacity.custom, which has them in order",
        ));
    }
    capacity.custom = vec![0; known.len()];
    for (name, &amount) in named {
        let Some(place) = known.iter().position(|known| **known == **name) else {
            let known = custom::words(known);
            let found: String = name.chars().take(80).collect();
            let message = format!(
                "named: expected resources that this cell has named ({known}), found {found:?}; a cell is given these when it is made, by \
                 `custom_resources` in its server's file, and has no others: leave {found:?} out of the agent's file"
            );
            return Err(Failure::invalid(message));
        };
        capacity.custom[place] = amount;
    }
    Ok(())
}

/// Who speaks for a machine; empty for those who don't say.
fn instance_of<T>(request: &Request<T>) -> Result<String, Failure> {
    let value = request.metadata().get(INSTANCE).map_or(Ok(""), |value| value.to_str());
    checked_instance(value.unwrap_or("?").to_owned())
}

fn checked_instance(instance: String) -> Result<String, Failure> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if instance.len() <= INSTANCE_BYTES_MAX && instance.bytes().all(allowed) {
        return Ok(instance);
    }
    Err(Failure::invalid(format!("instance: expected at most {INSTANCE_BYTES_MAX} of a-z, 0-9 and -, found others")))
}

/// Whether something runs on a machine, known to the cell or not.
fn runs_something(cell: &Cell, machine: MachineId) -> bool {
    cell.machine_row(machine.slot).is_some_and(|row| row.allocations > 0)
        || cell.unknown_on(machine.slot).next().is_some()
}

fn taken(name: &str) -> Failure {
    let message = format!(
        "machine {name} is served by an agent with another directory, and its lease is alive; give this one another --name, \
         or stop the other: the machine comes free when its lease ends"
    );
    Failure::new(Code::AlreadyExists, "MACHINE_TAKEN", message)
}

/// As of hosts that are made from one image: they would take the machine from each other without end.
fn superseded(name: &str) -> Failure {
    let message = format!(
        "machine {name} has registered in a later boot than this agent's, and its lease is alive: that is another host, with the same name and a copy \
         of this one's directory; what runs here counts as lost and runs on; give this agent another --name and a directory of its own, or stop the \
         other: the machine comes free when its lease ends"
    );
    Failure::new(Code::AlreadyExists, "MACHINE_TAKEN", message)
}

/// Its agent has gone, as a rule, and does not hear of this.
fn late(name: &str, asking: &Asking) -> Failure {
    let message = format!(
        "machine {name} was registered by what its agent asked later than this, which it asked {:.6} s after the boot: too late; an agent \
         that is there asks again",
        Duration::from_micros(asking.micros).as_secs_f64()
    );
    Failure::new(Code::AlreadyExists, "MACHINE_TAKEN", message)
}

/// What a machine is called where it is told that its agent has seen more than there is.
fn name_of(found: Option<&Arc<Machine>>) -> &str {
    found.map_or("a machine that is not here", |found| &found.name)
}

fn gone(id: MachineId) -> Failure {
    let message = format!("{id} was removed, or never registered; register again");
    Failure::not_found(plenum_model::RejectionCode::NoSuchMachine, message)
}

#[tonic::async_trait]
impl v1::agents_server::Agents for AgentsService {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<v1::Assignments, Status>> + Send>>;

    async fn register(&self, request: Request<v1::RegisterRequest>) -> Result<Response<v1::RegisterResponse>, Status> {
        let principal = principal(&request)?;
        let wire = request.into_inner();
        let instance = checked_instance(wire.instance)?;
        let Some(mut machine) = wire.machine else {
            return Err(Failure::invalid("machine: expected what was found, found nothing").into());
        };
        principal.may_speak_for_machine(&machine.name).map_err(Failure::from)?;
        // Before it is told to anybody, or remembered: whatever came may be long, or no text for a log.
        plenum_proto::names::machine_name("name", &machine.name).map_err(Failure::from)?;
        put_named(&mut machine, &wire.named, &self.shared.identity.custom_resources)?;
        self.has_seen_no_more(&machine.name, wire.incarnation, wire.revision)?;
        let asking = Asking { instance, boot_id: machine.boot_id.clone(), micros: wire.asked_micros };
        let name = machine.name.clone();
        // What it has heard of another life of the cell says nothing of this one.
        machine.seen_revision = if wire.incarnation == self.shared.identity.incarnation { wire.revision } else { 0 };
        // Before anything is waited for: what breaks a rule may take far more memory than it has bytes.
        let mut command = plenum_proto::machines::register(machine)?;
        let registering = self.registering(&name, &asking, EARLIER_WITHIN).await?;
        let cell = self.shared.snapshot().await;
        let known = self.is_its_own(&cell, &name, &asking, wire.revision)?;
        let known_as = known.as_ref().map(|known| known.id);
        leave_out_known(&cell, &mut command);
        drop(cell);
        let request = Shared::request(principal.text(), "".into(), command);
        // From here on it is brought to its end also where the call is given up.
        let queued = Queued::new(&self.shared, request, (registering, asking, known))?;
        let (machine, epoch, at, granted) = match queued.decided().await? {
            Registered::As { machine, epoch, at, lease } => (machine, epoch, at, lease),
            Registered::Stale(at) => return Ok(Response::new(self.register_again(at))),
        };
        match granted {
            Grant::Held => {}
            Grant::Another => return Err(taken(&name).into()),
            Grant::Over => {
                // On its way already, as a rule. The agent asks again at once, and is to begin a new epoch then.
                let over = self.shared.ask_own(Command::ExpireMachine { machine, epoch }).await?;
                return Ok(Response::new(self.register_again(over.at)));
            }
        }
        // The one that was known was removed meanwhile, and with it what the inventory left out as known: the next one leaves out nothing of that.
        if known_as.is_some_and(|known| known != machine) {
            return Ok(Response::new(self.register_again(at)));
        }
        let cell = self.shared.snapshot().await;
        // What came by before the lease was in the books did not end it: somebody may have removed the machine.
        let is_there = |found: &&Arc<Machine>| found.epoch == epoch && found.state != MachineState::Unreachable;
        let Some(found) = cell.machine(machine).filter(is_there) else {
            return Ok(Response::new(self.register_again(cell.revision())));
        };
        let unfit = found.unfit;
        let lease = self.shared.settings.lease;
        let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        Ok(Response::new(v1::RegisterResponse {
            machine: machine.to_bits(),
            epoch,
            lease_micros: micros(lease),
            renew_micros: micros(lease / 3),
            revision: at.0,
            incarnation: self.shared.identity.incarnation,
            cell_id: bytes::Bytes::copy_from_slice(&self.shared.identity.cell_id),
            register_again: false,
            unfit: plenum_proto::machines::unfit_to_wire(unfit),
        }))
    }

    async fn follow(&self, request: Request<v1::FollowRequest>) -> Result<Response<Self::FollowStream>, Status> {
        let principal = principal(&request)?;
        let instance = instance_of(&request)?;
        let wire = request.into_inner();
        let machine = self.machine(&principal, wire.machine).await?;
        let cell = self.shared.snapshot().await;
        let found = cell.machine(machine);
        self.has_seen_no_more(name_of(found), wire.incarnation, wire.revision)?;
        let found = found.ok_or_else(|| gone(machine))?;
        let stale = |message| Failure::new(Code::FailedPrecondition, "STALE_EPOCH", message);
        if self.is_of_the_past(wire.epoch) {
            let message = format!("epoch: {} is from before the cell was restored; register again", wire.epoch);
            return Err(stale(message).into());
        }
        if found.epoch != wire.epoch {
            let message = format!("epoch: expected {}, found {}; register again", found.epoch, wire.epoch);
            return Err(stale(message).into());
        }
        if !self.shared.hub.hold(machine, wire.epoch, &instance) {
            return Err(taken(&found.name).into());
        }
        let (out, stream) = mpsc::channel(MESSAGES_MAX);
        let follower = Follower::new(machine, wire.epoch);
        tokio::spawn(follow(self.shared.clone(), follower, out));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn report(&self, request: Request<v1::ReportRequest>) -> Result<Response<v1::ReportResponse>, Status> {
        let principal = principal(&request)?;
        let instance = instance_of(&request)?;
        let mut wire = request.into_inner();
        let machine = self.machine(&principal, wire.machine).await?;
        let epoch = wire.epoch;
        // Before anything counts: a report that breaks a rule renews nothing.
        let telemetry = plenum_proto::machines::telemetry(wire.telemetry.take())?;
        let unfit = plenum_proto::machines::unfit("unfit", wire.unfit)?;
        let (incarnation, revision) = (wire.incarnation, wire.revision);
        let transitions = plenum_proto::machines::transitions(wire)?;
        if self.is_beyond(incarnation, revision) {
            let cell = self.shared.snapshot().await;
            self.has_seen_no_more(name_of(cell.machine(machine)), incarnation, revision)?;
        }
        // Also for an agent whose machine another one holds: registering tells it so.
        let register = self.is_of_the_past(epoch)
            || !self.shared.hub.renew(machine, epoch, &instance, self.shared.clock.monotonic_micros());
        if register {
            return Ok(Response::new(v1::ReportResponse { revision: self.shared.durable_revision().0, register }));
        }
        if let Some(telemetry) = telemetry {
            self.shared.hub.telemetry(machine, telemetry);
        }
        // Before anything is waited for: what renews this one's lease meanwhile says it, too.
        let noting = Noting::begin(&self.shared, principal.text(), &[Fitness { machine, epoch, unfit }]);
        let (revision, passed_over) = self.book(transitions).await?;
        noting.done().await;
        Ok(Response::new(v1::ReportResponse { revision, register: !passed_over.is_empty() }))
    }

    async fn report_many(
        &self,
        request: Request<v1::ReportManyRequest>,
    ) -> Result<Response<v1::ReportManyResponse>, Status> {
        let principal = principal(&request)?;
        let wire = request.into_inner();
        // Before each of them is looked up.
        let most = plenum_proto::bounds::REPORTED_MACHINES_MAX;
        let found = wire.machines.len().max(wire.instances.len());
        if found > most {
            return Err(
                Failure::invalid(format!("machines: expected at most {most} in a report, found {found}")).into()
            );
        }
        self.may_speak_for_all(&principal, &wire.machines).await?;
        for instance in &wire.instances {
            checked_instance(instance.clone())?;
        }
        let (hub, now) = (&self.shared.hub, self.shared.clock.monotonic_micros());
        let many = plenum_proto::machines::many(wire, |of| {
            let may_renew = !self.is_beyond(of.incarnation, of.revision) && !self.is_of_the_past(of.epoch);
            may_renew && hub.renew(of.machine, of.epoch, &of.instance, now)
        })
        .map_err(Failure::from)?;
        let noting = Noting::begin(&self.shared, principal.text(), &many.fitness);
        let (revision, passed_over) = self.book(many.transitions).await?;
        noting.done().await;
        let refused = many.refused.into_iter().map(|of| of.machine);
        let register = refused.chain(passed_over).map(MachineId::to_bits).collect();
        Ok(Response::new(v1::ReportManyResponse { revision, register }))
    }

    async fn send_logs(
        &self,
        request: Request<Streaming<v1::SendLogsRequest>>,
    ) -> Result<Response<v1::SendLogsResponse>, Status> {
        let principal = principal(&request)?;
        let mut chunks = request.into_inner();
        let mut sending = Sending { logs: &self.shared.hub.logs, request: None };
        self.relay_logs(&principal, &mut chunks, &mut sending).await?;
        Ok(Response::new(v1::SendLogsResponse {}))
    }
}

/// What is being sent, and not at its end. Its reader hears of it however the call ends: a call that breaks is dropped where it waits.
struct Sending<'a> {
    logs: &'a LogRelay,
    request: Option<u64>,
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.request.into_iter().for_each(|request| self.logs.broken_off(request));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use plenum_journal::Journal;
    use plenum_model::{AllocationId, AllocationState, Decision, Delta, LogTime, Unfit};

    use super::*;
    use crate::shared::tests::without_threads;

    /// A server that decides nothing, of a cell with the machine m3, and that one's id.
    fn undecided(dir: &Path) -> (Journal, Arc<Shared>, u64) {
        let mut cell = Cell::default();
        let mut delta = Delta::new(Revision(1), LogTime::from_micros(1));
        delta.machines.push(Arc::new(crate::agents::machine(3, 1, MachineState::Ready)));
        cell.apply(&delta).unwrap();
        let (journal, shared) = without_threads(dir, |_| Some(cell));
        (journal, shared, MachineId { slot: 3, generation: 1 }.to_bits())
    }

    #[tokio::test]
    async fn an_agent_whose_earlier_registration_is_not_decided_in_time_is_told_when_to_ask_again() {
        let dir = tempfile::tempdir().unwrap();
        let server = crate::Server::start(crate::ServerOptions::new(dir.path())).await.unwrap();
        let service = AgentsService::new(server.shared().clone());
        let asking = |micros| Asking { instance: "a".to_owned(), boot_id: "boot".to_owned(), micros };
        let earlier = service.registering("m1", &asking(10), EARLIER_WITHIN).await.unwrap();
        let undecided = service.registering("m1", &asking(20), Duration::ZERO).await.err().unwrap();
        assert_eq!((undecided.status, undecided.code), (Code::Unavailable, "OUTCOME_UNKNOWN"));
        assert_eq!(undecided.retry_after, Duration::from_secs(1));
        assert!(service.registering("m2", &asking(20), Duration::ZERO).await.is_ok());
        drop(earlier);
        assert!(service.registering("m1", &asking(20), Duration::ZERO).await.is_ok());
        drop(service);
        server.shutdown().await.unwrap();
    }

    // It waited for one: while a write did not come back, and a picture had to be made from the disk that did not answer, no lease was renewed though
    // all agents spoke.
    #[tokio::test]
    async fn a_sign_of_life_waits_for_no_picture() {
        use v1::agents_server::Agents as _;
        let dir = tempfile::tempdir().unwrap();
        let (_journal, shared, machine) = undecided(dir.path());
        // None is shown, and nobody takes another one.
        shared.picture.tidy();
        assert!(!shared.picture.shows(Revision(1)));
        let service = AgentsService::new(shared);
        let agent = Principal::parse("agent/m3").unwrap();
        let mut one = Request::new(v1::ReportRequest { machine, epoch: 1, ..Default::default() });
        one.extensions_mut().insert(agent.clone());
        let mut reported = std::pin::pin!(service.report(one));
        let answer = tokio::select! {
            biased;
            answer = &mut reported => answer.unwrap(),
            () = std::future::ready(()) => panic!("it waits"),
        };
        assert!(!answer.into_inner().register);
        let machines = [machine];
        let mut many = std::pin::pin!(service.may_speak_for_all(&agent, &machines));
        tokio::select! {
            biased;
            may = &mut many => may.unwrap(),
            () = std::future::ready(()) => panic!("it waits"),
        }
    }

    // Each of them waited for a disk that did not answer, for as long as the lease or longer: that of a machine that had become unfit was lost.
    #[tokio::test]
    async fn who_says_again_what_is_being_noted_of_its_fitness_does_not_wait_for_that() {
        use v1::agents_server::Agents as _;
        let dir = tempfile::tempdir().unwrap();
        let (_journal, shared, machine) = undecided(dir.path());
        let service = AgentsService::new(shared);
        let said = || {
            let unfit = plenum_proto::machines::unfit_to_wire(Some(Unfit::StateUnwritable));
            let mut said = Request::new(v1::ReportRequest { machine, epoch: 1, unfit, ..Default::default() });
            said.extensions_mut().insert(Principal::parse("agent/m3").unwrap());
            said
        };
        tokio::select! {
            biased;
            _ = service.report(said()) => panic!("nobody has noted it"),
            () = std::future::ready(()) => {}
        }
        // Its agent gave the first call up, and the server did not.
        tokio::select! {
            biased;
            again = service.report(said()) => assert!(!again.unwrap().into_inner().register),
            () = std::future::ready(()) => panic!("it waits"),
        }
    }

    // It stood in the server's log and in each status, however long it was, and whatever was in it.
    #[tokio::test]
    async fn what_is_no_name_of_a_machine_is_told_to_nobody() {
        use v1::agents_server::Agents as _;
        let dir = tempfile::tempdir().unwrap();
        let server = crate::Server::start(crate::ServerOptions::new(dir.path())).await.unwrap();
        let shared = server.shared().clone();
        let service = AgentsService::new(shared.clone());
        let machine = v1::RegisterMachine { name: "m 1".repeat(1000), ..Default::default() };
        let wire = v1::RegisterRequest { machine: Some(machine), revision: u64::MAX, ..Default::default() };
        let mut request = Request::new(wire);
        request.extensions_mut().insert(Principal::local());
        let refused = service.register(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert_eq!(shared.ahead.words(shared.clock.monotonic_micros()), "");
        drop((service, shared));
        server.shutdown().await.unwrap();
    }

    // Its lease ran out while it waited to be decided, and its agent registered again. It was answered like any other, and how its task had ended was
    // forgotten.
    #[tokio::test]
    async fn a_report_that_is_decided_after_its_epoch_is_to_be_told_again() {
        let dir = tempfile::tempdir().unwrap();
        let server = crate::Server::start(crate::ServerOptions::new(dir.path())).await.unwrap();
        let shared = server.shared();
        let service = AgentsService::new(shared.clone());
        let register = async |name: &str| {
            let found = v1::RegisterMachine {
                name: name.to_owned(),
                boot_id: "boot".to_owned(),
                capacity: Some(v1::Resources { cpu_millis: 1000, memory_bytes: 1 << 30, ..Default::default() }),
                seen_revision: shared.durable_revision().0,
                ..Default::default()
            };
            let command = plenum_proto::machines::register(found).unwrap();
            let decided = shared.ask(Shared::request(&"local".into(), "".into(), command)).await.unwrap();
            let Decision::Accepted { id, version } = decided.decision else { panic!("{:?}", decided.decision) };
            (MachineId::from_bits(id).unwrap(), version)
        };
        let (here, away) = (register("m1").await, register("m2").await);
        shared.ask_own(Command::ExpireMachine { machine: away.0, epoch: away.1 }).await.unwrap();
        let back = register("m2").await;
        assert_eq!(back, (away.0, away.1 + 1));

        let ended = |(machine, epoch): (MachineId, u32)| {
            Transition::new(machine, epoch, AllocationId { slot: 0, generation: 1 }, AllocationState::Complete)
        };
        let passed_over = async |reported| service.book(reported).await.unwrap().1;
        assert_eq!(passed_over(vec![ended(here), ended(away), ended(away)]).await, BTreeSet::from([away.0]));
        assert_eq!(passed_over(vec![ended(here), ended(back)]).await, BTreeSet::new());
        server.shutdown().await.unwrap();
    }
}
