//! A machine: its tasks, which live by themselves, and its agent, whose processes come and go.

mod ends;
mod fitness;
mod heard;
mod place;

use plenum_agent::assignments::{self, Defaults};
use plenum_agent::driver::{Driver, DriverEvent, TaskSpec};
use plenum_agent::fake::{FakeDriver, Fate};
use plenum_agent::reconciler::{AgentReconciler, Input, Output, Registration, Settings, Status};
use plenum_agent::traces::Item;
use plenum_model::planted::{self, Bug};
use plenum_model::{AllocationId, MachineId, Unfit};
use plenum_proto::{machines, v1};

use self::fitness::{Outage, Starts};
use self::heard::Heard;
use self::place::{Lack, home};
use crate::books::{Checked, hold};
use crate::faults::Fault;
use crate::outfit::Equipment;
use crate::random::Random;
use crate::seen::Seen;
use crate::server::BEGIN_MICROS;
use crate::world::{ConnectionId, Event, Message, Party, Purpose, Side, World};

/// A call that takes longer has failed.
const CALL_MICROS: i64 = 10_000_000;
/// Tasks that are to run for long do so at least: so that they outlive a server that is restored.
const LONG_MS: u64 = 2_000;
/// Of each machine.
pub(crate) const MEMORY_BYTES: u64 = 1 << 34;

/// See the module.
pub(crate) struct Machine {
    number: usize,
    name: String,
    cpu_millis: i64,
    equipment: Equipment,
    /// It begins at home, and ends there: some jobs run in one rack only.
    rack: usize,
    /// What it began with, will end with, and has not now.
    lacks: Lack,
    boots: u64,
    /// It boots until then.
    up_at_micros: i64,
    driver: FakeDriver,
    life: u64,
    reconciler: Option<AgentReconciler>,
    /// The agent takes its leave, and the next one comes so much later.
    away_micros: Option<i64>,
    disk: Outage,
    cgroups: Outage,
    /// What the agent asks when it registers takes so much longer than anything else, and it does not live to see that.
    late_micros: i64,
    /// When the machine booted last.
    booted_micros: i64,
    /// By how much the machine's clock is off, and by how much it was when the agent that runs now began: that one goes by a clock that nobody sets.
    clock_off_ms: i64,
    began_off_ms: i64,
    /// Incarnation and revision, as they are written down at each registration.
    remembered: (u64, u64),
    register: Option<ConnectionId>,
    /// Reports that are under way, their numbers, and when they were sent.
    reports: Vec<(ConnectionId, u64, u64)>,
    heard: Heard,
    follow: Option<(ConnectionId, MachineId, u32)>,
    wish: u64,
    /// Every start that was made, and in which incarnation: what a cell has forgotten, it may ask for again.
    started: Vec<((AllocationId, u32), u64)>,
}

impl Machine {
    pub(crate) fn new(number: usize, cpu_millis: i64, world: &mut World) -> Self {
        let seed = world.random.number();
        let (failing, recorded_ms_max) = (world.mix.failing_thousandths, world.mix.recorded_ms_max);
        let (disk, cgroups) = (Outage::of_the_disk(), Outage::of_cgroups());
        let outages = [disk.starts(), cgroups.starts()];
        Self {
            number,
            name: format!("m{number}"),
            cpu_millis,
            equipment: world.mix.outfit.of(number),
            rack: home(number),
            lacks: Lack::default(),
            boots: 1,
            up_at_micros: 0,
            driver: FakeDriver::new(move |task| {
                let fails = outages.iter().find_map(Starts::fate);
                fails.unwrap_or_else(|| fate(seed, failing, recorded_ms_max, task))
            }),
            life: 0,
            reconciler: None,
            away_micros: None,
            disk,
            cgroups,
            late_micros: 0,
            booted_micros: -1,
            clock_off_ms: 0,
            began_off_ms: 0,
            remembered: (0, 0),
            register: None,
            reports: Vec::new(),
            heard: Heard::default(),
            follow: None,
            wish: 0,
            started: Vec::new(),
        }
    }

    fn party(&self) -> Party {
        Party::Agent(self.number)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn runs(&self) -> bool {
        self.reconciler.is_some()
    }

    /// Tasks that run now.
    pub(crate) fn running(&self) -> usize {
        self.driver.running().count()
    }

    /// The cell was told everything that happened here.
    pub(crate) fn is_settled(&self) -> bool {
        self.reconciler.as_ref().is_some_and(AgentReconciler::is_settled)
    }

    fn now_ms(world: &World) -> u64 {
        u64::try_from((BEGIN_MICROS + world.now()) / 1000).unwrap_or(0)
    }

    /// What the agent takes for now.
    fn own_ms(&self, world: &World) -> u64 {
        Self::now_ms(world).saturating_add_signed(self.began_off_ms)
    }

    /// A process of the agent begins, and finds what runs.
    pub(crate) fn start(&mut self, world: &mut World) -> Checked {
        if world.now() < self.up_at_micros {
            return Ok(());
        }
        self.life += 1;
        if std::mem::replace(&mut self.began_off_ms, self.clock_off_ms) != self.clock_off_ms {
            world.struck(Fault::ClockSet);
        }
        let settings = Settings { seed: world.random.number(), ..Settings::default() };
        let (incarnation, revision) = self.remembered;
        self.reconciler = Some(AgentReconciler::new(settings, incarnation, revision));
        // What happened in the meantime was told to nobody.
        drop(self.driver.advance(Self::now_ms(world)));
        let recovered = self.driver.recover().expect("a driver without a disk finds everything");
        world.tally.saw_times(Seen::Readopted, recovered.len() as u64);
        world.tell(|| format!("{}: the agent begins, and finds {} tasks", self.name, recovered.len()));
        self.give(world, Input::Recovered(recovered))?;
        if self.disk.meet(world) { self.probes(world) } else { self.turn(world) }
    }

    /// The agent's process is killed, if there is one; its tasks go on.
    pub(crate) fn kill(&mut self, world: &mut World) -> bool {
        self.ends(world, "is killed")
    }

    /// A process of the agent begins, and is killed as soon as it has asked to register the machine.
    pub(crate) fn dies_registering(&mut self, world: &mut World, late_micros: i64) -> Checked {
        self.kill(world);
        self.late_micros = late_micros;
        self.start(world)?;
        world.agenda.after(0, Event::AgentDies { agent: self.number, life: self.life });
        Ok(())
    }

    pub(crate) fn dies(&mut self, world: &mut World, life: u64) {
        if self.life == life {
            self.kill(world);
        }
    }

    fn ends(&mut self, world: &mut World, how: &str) -> bool {
        self.late_micros = 0;
        if self.reconciler.take().is_none() {
            return false;
        }
        world.tell(|| format!("{}: the agent {how}", self.name));
        self.loses_orders(world);
        (self.register, self.follow, self.away_micros) = (None, None, None);
        self.reports.clear();
        self.heard = Heard::default();
        let party = self.party();
        world.drop_connections(Side::Client, |of| of == party);
        true
    }

    /// What the agent ordered, and is not written down, ends with it.
    fn loses_orders(&mut self, world: &mut World) {
        drop(self.driver.advance(Self::now_ms(world)));
        for start in self.driver.lose_orders() {
            world.tell(|| format!("{}: the start of {} was not made", self.name, start.0));
            world.tally.saw(Seen::StartLost);
            if let Some(place) = self.started.iter().rposition(|(made, _)| *made == start) {
                self.started.remove(place);
            }
        }
    }

    /// The machine boots, which takes a while: the agent and all tasks are gone.
    pub(crate) fn reboot(&mut self, world: &mut World, micros: i64) {
        self.up_at_micros = world.now() + micros;
        self.booted_micros = self.up_at_micros - 1;
        self.kill(world);
        drop(self.driver.advance(Self::now_ms(world)));
        self.driver.reboot();
        self.boots += 1;
        world.tell(|| format!("{}: boots", self.name));
    }

    /// The agent's process ends, and the next one begins at another time.
    pub(crate) fn sets_the_clock(&mut self, world: &mut World, off_ms: i64) {
        self.kill(world);
        self.clock_off_ms = off_ms;
        world.tell(|| format!("{}: the clock is set, and {off_ms} ms off now", self.name));
    }

    /// The agent's process ends, and the next one can't read what was written down of one of the tasks that run. False: none does.
    pub(crate) fn spoils_a_record(&mut self, world: &mut World) -> bool {
        self.kill(world);
        drop(self.driver.advance(Self::now_ms(world)));
        let number = world.random.index(usize::MAX);
        let Some(lost) = self.driver.spoil_record(number) else { return false };
        world.tell(|| format!("{}: the record of {lost} can't be read any more", self.name));
        true
    }

    pub(crate) fn wakes(&mut self, world: &mut World, life: u64, wish: u64) -> Checked {
        if (self.life, self.wish) != (life, wish) || self.reconciler.is_none() {
            return Ok(());
        }
        self.give(world, Input::Tick)?;
        self.turn(world)
    }

    /// Tells the agent what happened to its tasks, and plans when to look again.
    fn turn(&mut self, world: &mut World) -> Checked {
        let now_ms = Self::now_ms(world);
        loop {
            let events = self.driver.advance(now_ms);
            if events.is_empty() {
                break;
            }
            for event in events {
                self.give(world, Input::Driver(event))?;
            }
        }
        self.ends_once_it_has_left(world);
        let wake = self.reconciler.as_ref().and_then(AgentReconciler::next_wake_millis);
        let wake = wake.map(|own_ms| own_ms.saturating_add_signed(-self.began_off_ms));
        if let Some(at_ms) = wake.into_iter().chain(self.driver.next_at_ms()).min() {
            self.wish += 1;
            let (agent, life, wish) = (self.number, self.life, self.wish);
            let at_micros = i64::try_from(at_ms.max(now_ms + 1)).unwrap_or(i64::MAX / 1000) * 1000 - BEGIN_MICROS;
            world.agenda.at(at_micros, Event::AgentWakes { agent, life, wish });
        }
        Ok(())
    }

    /// At most one start per (allocation, restart), whatever happened to the agent; in a restored cell, once more.
    fn note_start(&mut self, world: &mut World, start: (AllocationId, u32)) -> Checked {
        world.tally.saw(Seen::Started);
        world.tally.saw_times(Seen::Restarted, u64::from(start.1 > 0));
        let made = (start, self.remembered.0);
        hold(!self.started.contains(&made), "invariant_at_most_one_start", || {
            format!("{} was started twice on {}, restart {}", start.0, self.name, start.1)
        })?;
        self.started.push(made);
        Ok(())
    }

    /// What the cell is told of ends is what the driver did.
    fn check_ends<'a>(&self, mut told: impl Iterator<Item = (AllocationId, &'a Status)>) -> Checked {
        told.try_for_each(|(id, status)| ends::check(&self.name, id, status, self.driver.ended(id)))
    }

    /// Nothing runs here that the cell thinks is gone.
    pub(crate) fn check_running(&self, world: &World) -> Checked {
        self.driver.running().try_for_each(|running| world.books.invariant_what_runs_is_live(&self.name, running))
    }

    /// A message arrives.
    pub(crate) fn receive(&mut self, world: &mut World, id: ConnectionId, message: Message) -> Checked {
        match message {
            Message::Registered(response) if self.register == Some(id) => {
                self.register = None;
                world.hang_up(id, Side::Client);
                self.registered(world, &response)?;
            }
            Message::Reported(response) => {
                if let Some((number, sent_ms)) = self.report_over(id) {
                    world.hang_up(id, Side::Client);
                    let (revision, register) = (response.revision, response.register);
                    if !register {
                        self.heard.renewed(sent_ms);
                    }
                    self.give(world, Input::ReportAnswered { number, revision, register })?;
                }
            }
            Message::Assignments(message) => {
                if let Some((_, machine, epoch)) = self.follow.filter(|(of, _, _)| *of == id) {
                    let defaults = Defaults { machine: self.name.clone(), pids_max: 64 };
                    let input = assignments::read(machine, epoch, message, &defaults);
                    self.heard.told(&input, self.driver.running());
                    self.give(world, input)?;
                }
            }
            Message::Refused { status, .. } => {
                world.hang_up(id, Side::Client);
                return self.failed(world, id, status);
            }
            _ => {}
        }
        self.turn(world)
    }

    /// Nothing more comes of a report that was under way: its number, and when it was sent.
    fn report_over(&mut self, id: ConnectionId) -> Option<(u64, u64)> {
        let place = self.reports.iter().position(|(of, ..)| *of == id)?;
        let (_, number, sent_ms) = self.reports.swap_remove(place);
        Some((number, sent_ms))
    }

    fn registered(&mut self, world: &mut World, response: &v1::RegisterResponse) -> Checked {
        let millis = |micros: i64| u64::try_from(micros / 1000).unwrap_or(0);
        if response.register_again {
            let (incarnation, revision) = (response.incarnation, response.revision);
            world.tell(|| format!("{}: registers again, knowing of revision {revision}", self.name));
            return self.give(world, Input::RegisterAgain { incarnation, revision });
        }
        let Some(machine) = MachineId::from_bits(response.machine) else { return Ok(()) };
        let registration = Registration {
            machine,
            epoch: response.epoch,
            lease_ms: millis(response.lease_micros),
            renew_ms: millis(response.renew_micros),
            revision: response.revision,
            incarnation: response.incarnation,
            unfit: machines::unfit("unfit", response.unfit).unwrap_or(Some(Unfit::StateUnwritable)),
        };
        world.tell(|| format!("{}: registered as {machine}, epoch {}", self.name, registration.epoch));
        self.remembered = (registration.incarnation, registration.revision);
        self.heard.registered(&registration);
        self.give(world, Input::Registered(registration))
    }

    /// A call or a stream failed, or took too long.
    pub(crate) fn failed(&mut self, world: &mut World, id: ConnectionId, status: i32) -> Checked {
        if self.reconciler.is_none() {
            return Ok(());
        }
        if self.register.take_if(|of| *of == id).is_some() {
            self.give(world, Input::RegisterFailed)?;
        } else if let Some((number, _)) = self.report_over(id) {
            // The codes of `google.rpc` for: no such machine, another epoch.
            let input = match status {
                5 | 9 => Input::ReportAnswered { number, revision: 0, register: true },
                _ => Input::ReportFailed { number },
            };
            self.give(world, input)?;
        } else if let Some((_, machine, epoch)) = self.follow.take_if(|(of, _, _)| *of == id) {
            let input = match status {
                5 | 9 => Input::FollowRefused { machine, epoch },
                _ => Input::FollowEnded,
            };
            self.give(world, input)?;
        } else {
            return Ok(());
        }
        self.turn(world)
    }

    fn give(&mut self, world: &mut World, input: Input) -> Checked {
        let now_ms = self.own_ms(world);
        let Some(reconciler) = &mut self.reconciler else { return Ok(()) };
        for output in reconciler.handle(now_ms, input) {
            self.carry_out(world, output)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, world: &mut World, output: Output) -> Checked {
        match output {
            Output::Start(task) => self.make(world, task)?,
            Output::Stop(allocation) if planted::is(Bug::HastyReceipts) => self.forget_at_once(world, allocation)?,
            Output::Stop(allocation) => self.driver.stop(allocation),
            Output::Forget(allocation) => self.driver.forget(allocation),
            Output::Register { inventory, revision, incarnation } => {
                self.heard.asks(Self::now_ms(world));
                self.check_ends(inventory.iter().map(|item| (item.allocation, &item.status)))?;
                let request = v1::RegisterRequest {
                    machine: Some(self.found(&inventory)),
                    revision,
                    incarnation,
                    asked_micros: (world.now() - self.booted_micros).unsigned_abs(),
                    ..v1::RegisterRequest::default()
                };
                self.register =
                    Some(self.call_slowly(world, Purpose::Register, Message::Register(request), self.late_micros));
            }
            Output::Follow { machine, epoch, revision, incarnation } => {
                if let Some((earlier, _, _)) = self.follow.take() {
                    world.hang_up(earlier, Side::Client);
                }
                let request = v1::FollowRequest { machine: machine.to_bits(), epoch, revision, incarnation };
                let id = world.connect(self.party(), Purpose::Follow);
                world.send(id, Side::Server, Message::Follow(request));
                self.follow = Some((id, machine, epoch));
            }
            Output::Report { number, machine, epoch, transitions, running, unfit, revision, incarnation } => {
                self.check_ends(transitions.iter().map(|(allocation, status)| (*allocation, status)))?;
                for (allocation, status) in transitions.iter().filter(|(_, status)| status.state.is_end()) {
                    world.books.reported(*allocation, status.state);
                }
                let request = v1::ReportRequest {
                    machine: machine.to_bits(),
                    epoch,
                    transitions: transitions.iter().map(|(id, status)| transition(*id, status)).collect(),
                    telemetry: Some(v1::MachineTelemetry { used: None, tasks: running }),
                    unfit: machines::unfit_to_wire(unfit),
                    revision,
                    incarnation,
                };
                let id = self.call(world, Purpose::Report { number }, Message::Report(request));
                self.reports.push((id, number, Self::now_ms(world)));
            }
            Output::Refuse { offered, seen } => {
                return hold(false, "invariant_a_server_never_offers_less", || {
                    format!("{}: offered {offered:?}, seen {seen:?}", self.name)
                });
            }
            Output::Finished => {}
        }
        Ok(())
    }

    /// Makes a start, if the agent may make it.
    fn make(&mut self, world: &mut World, task: TaskSpec) -> Checked {
        world.tell(|| format!("{}: starts {}, restart {}", self.name, task.allocation, task.restart));
        let running = self.driver.running();
        world.books.invariant_a_successor_waits_for_its_victims(&self.name, task.allocation, running)?;
        self.heard.check_start(&self.name, Self::now_ms(world), &task, self.driver.running())?;
        ends::check_start(&self.name, &task, self.driver.ended(task.allocation))?;
        // Two processes of one task would share its cgroup and its ports.
        let beside = self.driver.running_start(task.allocation).filter(|restart| *restart != task.restart);
        hold(beside.is_none(), "invariant_one_start_of_an_allocation_runs_at_a_time", || {
            format!("{} starts {}, restart {}, beside {beside:?}", self.name, task.allocation, task.restart)
        })?;
        // The driver's start fails where one of them lasts.
        for outage in [&mut self.disk, &mut self.cgroups] {
            outage.meet(world);
        }
        let (start, before) = ((task.allocation, task.restart), self.driver.starts().len());
        self.driver.start(task);
        // One that was made before is not made again.
        if self.driver.starts().len() > before { self.note_start(world, start) } else { Ok(()) }
    }

    fn forget_at_once(&mut self, world: &mut World, allocation: AllocationId) -> Checked {
        let started = self.driver.starts().iter().rev().find(|start| start.0 == allocation).copied();
        let Some((_, restart)) = started else { return Ok(()) };
        self.give(world, Input::Driver(DriverEvent::Exited { allocation, restart, exit: Default::default() }))?;
        self.give(world, Input::Driver(DriverEvent::Gone { allocation, restart }))
    }

    fn call(&self, world: &mut World, purpose: Purpose, message: Message) -> ConnectionId {
        self.call_slowly(world, purpose, message, 0)
    }

    fn call_slowly(&self, world: &mut World, purpose: Purpose, message: Message, micros: i64) -> ConnectionId {
        let id = world.connect(self.party(), purpose);
        world.send_slowly(id, Side::Server, message, micros);
        world.agenda.after(CALL_MICROS, Event::Closed { connection: id, side: Side::Client });
        id
    }

    fn found(&self, inventory: &[Item]) -> v1::RegisterMachine {
        let cpu_millis = self.cpu_millis - self.lacks.cpu_millis;
        let memory_bytes = (MEMORY_BYTES - self.lacks.memory_bytes).cast_signed();
        let disk_bytes = (self.equipment.disk_bytes - self.lacks.disk_bytes).cast_signed();
        let custom = vec![(self.equipment.seats - self.lacks.seats).cast_signed()];
        let resources = v1::Resources { cpu_millis, memory_bytes, disk_bytes, custom };
        v1::RegisterMachine {
            name: self.name.clone(),
            boot_id: format!("boot-{}", self.boots),
            capacity: Some(resources),
            attributes: [("rack".to_owned(), format!("r{}", self.rack))].into(),
            devices: self.devices(),
            inventory: inventory.iter().map(Item::to_wire).collect(),
            seen_revision: 0,
        }
    }
}

fn transition(allocation: AllocationId, status: &Status) -> v1::Transition {
    v1::Transition {
        allocation: allocation.to_bits(),
        state: i32::from(status.state as u8),
        ready: status.ready,
        exit_code: status.exit_code,
        reason: status.reason.to_string(),
        restarts: status.restarts,
    }
}

/// What becomes of a start: by its command, and by chance that is the same in a replay.
fn fate(seed: u64, failing_thousandths: u64, recorded_ms_max: u64, task: &TaskSpec) -> Fate {
    let key = task.allocation.to_bits() ^ u64::from(task.restart).rotate_left(17);
    let mut random = Random::new(seed ^ key.wrapping_mul(0xD6E8_FEB8_6659_FD93));
    let fails = random.chance(failing_thousandths);
    let runs_ms = 50 + random.below(3000);
    let fate = match task.command.first().map(String::as_str) {
        _ if fails => Fate::exits_after_ms(runs_ms / 4, 1),
        Some("/bin/forever") => Fate::runs_for_ever(),
        Some("/bin/long") => Fate::succeeds_after_ms(LONG_MS + 2 * runs_ms),
        _ => Fate::succeeds_after_ms(runs_ms),
    };
    let slow = |random: &mut Random, most: u64| if random.chance(300) { random.below(most) } else { 0 };
    Fate {
        starts_after_ms: slow(&mut random, 800),
        stops_after_ms: slow(&mut random, 1500),
        gone_after_ms: slow(&mut random, 500),
        recorded_after_ms: slow(&mut random, recorded_ms_max),
        shim_after_ms: slow(&mut random, recorded_ms_max),
        ..fate
    }
}
