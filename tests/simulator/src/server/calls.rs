//! Calls: agents register and report, and the owner of jobs asks for this and that.

use std::sync::Arc;

use plenum_model::planted::{self, Bug};
use plenum_model::{
    BootId, Command, Decision, Machine, MachineId, MachineState, RejectionCode, Request, Revision, Unfit,
};
use plenum_proto::command;
use plenum_proto::machines::{self, Fitness};
use plenum_proto::v1::{self, command::Ask};
use plenum_server::agents::{self, Asking, Grant, Hindrance};
use plenum_server::commit::Asked;

use super::{Server, Ticket};
use crate::books::Checked;
use crate::faults::Fault;
use crate::world::{ConnectionId, Message, Side, World};

const INVALID_ARGUMENT: i32 = 3;
const ALREADY_EXISTS: i32 = 6;
const ABORTED: i32 = 10;
const UNAVAILABLE: i32 = 14;
/// Each machine of a simulated cell has one agent, which may be started again.
const ONE_AGENT: &str = "";

/// A report that came in, and what it says of its machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    connection: ConnectionId,
    fitness: Fitness,
}

impl Server {
    /// A message arrives.
    pub(crate) fn receive(&mut self, world: &mut World, id: ConnectionId, message: Message) -> Checked {
        if !self.open {
            return self.fail_call(world, id, UNAVAILABLE, "not open yet");
        }
        match message {
            Message::Session(message) => self.session_message(world, id, message),
            Message::Register(request) => self.register(world, id, request),
            Message::Follow(request) => self.begin_following(world, id, &request),
            Message::Report(request) => self.report(world, id, request),
            Message::Ask { principal, command } => {
                let asked = (*command).clone();
                let request = Request { principal: principal.into(), namespace: "default".into(), command: asked };
                self.ask(Some(Ticket::Ask { connection: id, command }), Asked::new(request));
                self.turn(world)
            }
            Message::TakeHold(request) => self.take_hold(world, id, request),
            _ => self.fail_call(world, id, INVALID_ARGUMENT, "not for a server"),
        }
    }

    /// An epoch from before the cell was restored: its agent has to register.
    pub(super) fn is_of_the_past(&self, epoch: u32) -> bool {
        epoch <= plenum_model::floor_of(self.identity.incarnation)
    }

    fn fail_call(&mut self, world: &mut World, id: ConnectionId, status: i32, reason: &str) -> Checked {
        world.send(id, Side::Client, Message::Refused { status, code: "", reason: reason.to_owned() });
        world.hang_up(id, Side::Server);
        Ok(())
    }

    fn register(&mut self, world: &mut World, id: ConnectionId, request: v1::RegisterRequest) -> Checked {
        let Some(mut machine) = request.machine else {
            return self.fail_call(world, id, INVALID_ARGUMENT, "expected what was found");
        };
        machine.seen_revision = if request.incarnation == self.identity.incarnation { request.revision } else { 0 };
        let (name, boot_id) = (machine.name.clone(), machine.boot_id.clone());
        let asking = Asking { instance: ONE_AGENT.to_owned(), boot_id, micros: request.asked_micros };
        let cell = self.snapshot(world)?;
        let is_first = match self.may_register(&name, &asking) {
            Ok(is_first) => is_first,
            Err(Hindrance::Late) => {
                world.tell(|| format!("server: {name} has asked later than for this registration"));
                world.struck(Fault::LateRegistration);
                return self.fail_call(world, id, ALREADY_EXISTS, "asked later");
            }
            Err(_) => return self.fail_call(world, id, UNAVAILABLE, "an earlier one is not decided yet"),
        };
        let known = cell.machine_named(&name).map(|machine| (machine.id, machine.epoch));
        match machines::register(machine) {
            Ok(mut command) => {
                agents::leave_out_known(&cell, &mut command);
                let request = Request { principal: Self::principal(), namespace: "".into(), command };
                let ticket = Ticket::Register { connection: id, name, asking, is_first, known };
                self.ask(Some(ticket), Asked::new(request));
                self.turn(world)
            }
            Err(invalid) => {
                if is_first {
                    self.registrations.end(&name);
                }
                self.fail_call(world, id, INVALID_ARGUMENT, &invalid.to_string())
            }
        }
    }

    /// Whether a registration may be decided now, and is to be taken out of those under way after that.
    fn may_register(&mut self, name: &str, asking: &Asking) -> Result<bool, Hindrance> {
        if planted::is(Bug::BelievesTheLate) {
            return Ok(false);
        }
        let known = self.mirror.cell().machine_named(name);
        let known = known.filter(|machine| machine.boot_id == BootId::from(asking.boot_id.as_str()));
        if known.is_some_and(|machine| self.leases.is_late(machine.id, &asking.instance, asking.micros)) {
            return Err(Hindrance::Late);
        }
        self.registrations.begin(name, asking)
    }

    /// The answer to a registration. The lease begins before the picture shows the machine.
    pub(super) fn registered(
        &mut self,
        world: &mut World,
        id: ConnectionId,
        (asking, was): (&Asking, Option<(MachineId, u32)>),
        (at, decision): (Revision, &Decision),
    ) -> Checked {
        if let Decision::Rejected(rejection) = decision
            && rejection.code == RejectionCode::StaleEpoch
        {
            self.register_again(world, id, at);
            return Ok(());
        }
        let Decision::Accepted { id: machine, version: epoch } = *decision else {
            return self.fail_call(world, id, INVALID_ARGUMENT, &format!("{decision:?}"));
        };
        world.books.invariant_the_agent_that_asked_last_counts((machine, epoch), asking.micros)?;
        let machine_id = MachineId::from_bits(machine);
        if let Some(machine) = machine_id {
            let (goes_on, by) = (was == Some((machine, epoch)), (asking.instance.as_str(), asking.micros));
            if self.leases.grant(machine, epoch, goes_on, by, world.now()) == Grant::Over {
                let expire = Asked::by_server(Command::ExpireMachine { machine, epoch });
                self.ask(Some(Ticket::Expiry { connection: id }), expire);
                return Ok(());
            }
            self.renewals.renewed(machine, epoch, world.now());
        }
        // The one that was known was removed meanwhile, and with it what the inventory left out as known.
        if was.is_some_and(|(known, _)| Some(known) != machine_id) {
            self.register_again(world, id, at);
            return Ok(());
        }
        // What came by before the lease was there did not end it: somebody may have removed the machine.
        let cell = self.snapshot(world)?;
        let is_there = |found: &&Arc<Machine>| found.epoch == epoch && found.state != MachineState::Unreachable;
        let Some(found) = machine_id.and_then(|machine| cell.machine(machine)).filter(is_there) else {
            self.register_again(world, id, cell.revision());
            return Ok(());
        };
        let told = if planted::is(Bug::TellsOldRevisions) { found.epoch_began } else { at };
        let response = v1::RegisterResponse {
            machine,
            epoch,
            lease_micros: world.mix.lease_micros,
            renew_micros: world.mix.lease_micros / 3,
            revision: told.0,
            incarnation: self.identity.incarnation,
            cell_id: bytes::Bytes::copy_from_slice(&self.identity.cell_id),
            unfit: machines::unfit_to_wire(found.unfit),
            ..Default::default()
        };
        world.send(id, Side::Client, Message::Registered(response));
        world.hang_up(id, Side::Server);
        Ok(())
    }

    /// The answer to an agent that is to ask again, knowing of this revision.
    pub(super) fn register_again(&self, world: &mut World, id: ConnectionId, at: Revision) {
        let (revision, incarnation) = (at.0, self.identity.incarnation);
        let again = v1::RegisterResponse { revision, incarnation, register_again: true, ..Default::default() };
        world.send(id, Side::Client, Message::Registered(again));
        world.hang_up(id, Side::Server);
    }

    fn report(&mut self, world: &mut World, id: ConnectionId, request: v1::ReportRequest) -> Checked {
        self.invariant_a_server_never_offers_less(request.machine, (request.incarnation, request.revision))?;
        let known = !self.is_of_the_past(request.epoch)
            && MachineId::from_bits(request.machine)
                .is_some_and(|machine| self.leases.renew(machine, request.epoch, ONE_AGENT, world.now()));
        if let Some(machine) = MachineId::from_bits(request.machine).filter(|_| known) {
            self.renewals.renewed(machine, request.epoch, world.now());
        }
        let said = (MachineId::from_bits(request.machine), machines::unfit("unfit", request.unfit), request.epoch);
        let (transitions, fitness) = match (machines::transitions(request), said) {
            (Ok(transitions), (Some(machine), Ok(unfit), epoch)) => (transitions, Fitness { machine, epoch, unfit }),
            (transitions, said) => {
                let what = format!("{:?}, {said:?}", transitions.err());
                return self.fail_call(world, id, INVALID_ARGUMENT, &what);
            }
        };
        let told = Told { connection: id, fitness };
        if !known {
            Self::register_first(world, id, self.committer.durable());
            return Ok(());
        }
        if transitions.is_empty() {
            let asks = self.takes_fitness(world, told, self.committer.durable());
            return if asks { self.turn(world) } else { Ok(()) };
        }
        self.reports.push((told, transitions));
        self.gather();
        self.turn(world)
    }

    /// One command for all reports that came in while the one before was on its way.
    fn gather(&mut self) {
        if self.reporting || self.reports.is_empty() {
            return;
        }
        self.reporting = true;
        let most = if self.reports_alone { 1 } else { self.reports.len() };
        let (told, transitions): (Vec<_>, Vec<_>) = self.reports.drain(..most).unzip();
        let command = Command::ReportStatus(transitions.concat());
        let request = Request { principal: "agents".into(), namespace: "".into(), command };
        self.ask(Some(Ticket::Reports { told }), Asked::new(request));
    }

    /// The answer to gathered reports. Of machines whose epochs were over by then nothing is in the books, and if they were refused, of none: agents then
    /// report again.
    pub(super) fn reported(&mut self, world: &mut World, told: Vec<Told>, at: Revision, decision: &Decision) {
        self.reporting = false;
        if let Decision::Rejected(rejection) = decision {
            self.reports_alone = true;
            *world.tally.rejections.entry(rejection.code.as_str().to_owned()).or_default() += 1;
            for Told { connection, .. } in told {
                let reason = rejection.message.clone();
                world.send(connection, Side::Client, Message::Refused { status: UNAVAILABLE, code: "", reason });
                world.hang_up(connection, Side::Server);
            }
            return self.gather();
        }
        let some_passed_over = matches!(decision, Decision::Accepted { version: 1.., .. });
        for told in told {
            let Fitness { machine, epoch, .. } = told.fitness;
            if some_passed_over && !self.undurable_cell().is_current(machine, epoch) {
                Self::register_first(world, told.connection, at);
            } else {
                self.takes_fitness(world, told, at);
            }
        }
        self.gather();
    }

    /// What was reported is in the books. What an agent says of its machine's fitness is noted if it is news, and the report answered
    /// after that. True if it is.
    fn takes_fitness(&mut self, world: &mut World, told: Told, revision: Revision) -> bool {
        let Told { connection, fitness: Fitness { machine, epoch, unfit } } = told;
        let is_news = self.fitness_of(machine) != unfit;
        if is_news {
            let command = Command::ReportFitness { machine, epoch, unfit };
            let request = Request { principal: Self::principal(), namespace: "".into(), command };
            self.ask(Some(Ticket::Fitness { connection, revision }), Asked::new(request));
        } else {
            Self::report_answered(world, connection, revision);
        }
        is_news
    }

    /// The answer to a report of an epoch that is over.
    fn register_first(world: &mut World, id: ConnectionId, at: Revision) {
        world.send(id, Side::Client, Message::Reported(v1::ReportResponse { revision: at.0, register: true }));
        world.hang_up(id, Side::Server);
    }

    pub(super) fn report_answered(world: &mut World, id: ConnectionId, revision: Revision) {
        let response = v1::ReportResponse { revision: revision.0, register: false };
        world.send(id, Side::Client, Message::Reported(response));
        world.hang_up(id, Side::Server);
    }

    /// Why a machine's agent wants no new claims there, as far as that is durable: the picture may be behind.
    fn fitness_of(&self, machine: MachineId) -> Option<Unfit> {
        let unfolded = self.unfolded.iter().flat_map(|published| &published.deltas);
        let changed = unfolded.flat_map(|delta| &delta.machines).rfind(|changed| changed.id == machine);
        changed.or_else(|| self.mirror.cell().machine(machine)).and_then(|machine| machine.unfit)
    }

    /// The answer to a command of the owner.
    pub(super) fn answered(&mut self, world: &mut World, id: ConnectionId, decision: &Decision) {
        let done = matches!(decision, Decision::Accepted { .. });
        if let Decision::Rejected(rejection) = decision {
            *world.tally.rejections.entry(rejection.code.as_str().to_owned()).or_default() += 1;
        }
        world.send(id, Side::Client, Message::Answered { done, is_above: Self::is_above(decision) });
        world.hang_up(id, Side::Server);
    }

    /// A scheduler asks for room to be held.
    fn take_hold(&mut self, world: &mut World, id: ConnectionId, wire: v1::TakeHoldRequest) -> Checked {
        if wire.incarnation != self.identity.incarnation {
            return self.fail_call(world, id, ABORTED, RejectionCode::OtherIncarnation.as_str());
        }
        let take = v1::TakeHold {
            job: wire.job,
            machines: wire.machines,
            resources: Some(wire.resources.unwrap_or_default()),
            deadline_micros: self.log_now(world).plus_micros(wire.within_micros).micros,
            session: wire.session,
        };
        let Ok(command) = command::command(Ask::TakeHold(take)) else {
            return self.fail_call(world, id, INVALID_ARGUMENT, RejectionCode::InvalidRequest.as_str());
        };
        let request = Request { principal: Self::principal_of(world, id), namespace: "".into(), command };
        self.ask(Some(Ticket::Hold { connection: id }), Asked::new(request));
        self.turn(world)
    }

    /// The answer to that.
    pub(super) fn hold_answered(world: &mut World, id: ConnectionId, at: Revision, decision: &Decision) {
        let message = match decision {
            Decision::Rejected(rejection) => {
                let code = rejection.code.as_str().to_owned();
                *world.tally.rejections.entry(code.clone()).or_default() += 1;
                Message::Refused { status: INVALID_ARGUMENT, code: "", reason: code }
            }
            _ => Message::HoldTaken(v1::TakeHoldResponse { revision: at.0, changed: true, deadline_micros: 0 }),
        };
        world.send(id, Side::Client, message);
        world.hang_up(id, Side::Server);
    }
}
