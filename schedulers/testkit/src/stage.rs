//! The real core and real scheduler runtimes in one thread: no connection, no disk, and a clock that the test advances.
//!
//! Messages are delivered in order: until all is quiet by [`Stage::seat`], [`Stage::finish`], [`Stage::report`], [`Stage::remove`], [`Stage::release`] and
//! [`Stage::advance`], and after whatever else a test does, such as submitting a job or adding a machine, by [`Stage::settle`]. A test decides when time
//! passes, what tasks do, when a scheduler's requests are held back, and when its connection breaks.

mod serving;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use plenum_core::{Core, CoreOptions, Decided};
use plenum_model::{
    AllocationId, AllocationState, Cell, CellIdentity, Command, Decision, Device, FoundMachine, JobId, LogTime,
    MachineId, Outcome, Request, Resources, Revision, SessionId, Transition,
};
use plenum_proto::v1::{self, session_response::Tell};
use plenum_proto::{delta, jobs, pages, sections::Sections};
use plenum_sdk::{Input, Notice, Output, Scheduler, SchedulerRuntime, Settings};

use crate::job::JobBuilder;
use serving::tell;

/// Log time at which each stage begins: the schedulers' own clocks begin at 0.
const BEGIN_MICROS: i64 = 1_000_000_000_000_000;

/// Steps after which a stage that never comes to rest is thought to run in circles.
const STEPS_MAX: usize = 100_000;

/// A scheduler on a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat(usize);

/// A cell with its schedulers.
pub struct Stage {
    core: Core,
    now_micros: i64,
    /// All deltas, encoded as mirrors get them, by revision.
    deltas: BTreeMap<Revision, Bytes>,
    outcomes: BTreeMap<(SessionId, u64), Outcome>,
    seats: Vec<Player>,
    transcript: String,
    passed_over: BTreeMap<(JobId, u32), String>,
    /// How often schedulers are asked how they do, in microseconds; 0: not at all.
    pulse_micros: u64,
    pulses: Vec<v1::Pulse>,
}

struct Player {
    name: String,
    runtime: SchedulerRuntime<Box<dyn Scheduler>>,
    link: Option<Linked>,
    connect_at: Option<i64>,
    wake_at: Option<i64>,
    held: bool,
    cut_off: bool,
    /// Codes that its next transactions are rejected with.
    rejections: VecDeque<String>,
    /// With which its requests for holds are refused; empty: they are not.
    hold_refusal: String,
    loses_hold_answers: bool,
    /// What happens next it is told by a snapshot.
    is_behind: bool,
    notices: Vec<Notice>,
}

#[derive(Default)]
struct Linked {
    session: Option<SessionId>,
    /// Up to where deltas were put into `to_scheduler`.
    told: Revision,
    to_cell: VecDeque<v1::SessionRequest>,
    /// Requests to hold room, which are made beside the stream, by their numbers.
    holds: VecDeque<(u64, v1::TakeHoldRequest)>,
    to_scheduler: VecDeque<v1::SessionResponse>,
}

impl Default for Stage {
    fn default() -> Self {
        Self::new()
    }
}

impl Stage {
    /// An empty cell.
    #[must_use]
    pub fn new() -> Self {
        let mut stage = Self {
            core: Core::new(CoreOptions::default()),
            now_micros: 0,
            deltas: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            seats: Vec::new(),
            transcript: String::new(),
            passed_over: BTreeMap::new(),
            pulse_micros: 0,
            pulses: Vec::new(),
        };
        let identity = CellIdentity { cell_id: [7; 16], incarnation: 1, term: 1, custom_resources: Vec::new() };
        stage.ask("local", Command::OpenServer(identity));
        stage
    }

    /// The cell as it is.
    #[must_use]
    pub fn cell(&self) -> &Cell {
        self.core.cell()
    }

    /// Adds a machine, and gives its slot. Attributes as pairs of name and value.
    pub fn machine(&mut self, name: &str, cpu_millis: u64, attributes: &[(&str, &str)]) -> u32 {
        self.machine_with_gpus(name, cpu_millis, attributes, 0)
    }

    /// Adds a machine with so many whole GPUs.
    pub fn machine_with_gpus(&mut self, name: &str, cpu_millis: u64, attributes: &[(&str, &str)], gpus: u32) -> u32 {
        let models = vec![""; gpus as usize];
        self.machine_with_models(name, cpu_millis, attributes, &models)
    }

    /// Adds a machine with a whole GPU of each of these models.
    pub fn machine_with_models(
        &mut self,
        name: &str,
        cpu_millis: u64,
        attributes: &[(&str, &str)],
        models: &[&str],
    ) -> u32 {
        let gpu =
            |(index, model): (u32, &&str)| Device { kind: "gpu".into(), index, millis: 1000, model: (*model).into() };
        let attributes = attributes.iter().map(|&(name, value)| (name.into(), value.into())).collect();
        let command = Command::RegisterMachine(FoundMachine {
            name: name.into(),
            boot_id: "boot".into(),
            capacity: Resources::new(cpu_millis, 1 << 34),
            attributes: std::sync::Arc::new(attributes),
            devices: (0..).zip(models).map(gpu).collect(),
            ..FoundMachine::default()
        });
        self.ask("agent", command);
        self.cell().machine_named(name).expect("it was just registered").id.slot
    }

    /// The cell as a mirror has it: without what jobs do.
    ///
    /// # Panics
    /// When its pages are none: a bug.
    #[must_use]
    pub fn mirrored(&self) -> Cell {
        let mut decoder = pages::Decoder::new(Sections::MIRROR);
        self.pages().into_iter().for_each(|page| decoder.add(page).expect("a page of this cell"));
        decoder.finish().expect("all pages of this cell")
    }

    fn pages(&self) -> Vec<Bytes> {
        let cell = self.core.cell();
        let seen = pages::every(cell).filter(|(table, _)| Sections::MIRROR.has_table(*table));
        seen.map(|(table, number)| pages::encode_page_for(cell, table, number, Sections::MIRROR)).collect()
    }

    /// Submits a job. Schedulers hear of it with [`Stage::settle`], or with what else delivers messages.
    pub fn submit(&mut self, job: &JobBuilder) -> JobId {
        self.submit_spec(job.spec())
    }

    /// Submits a job that says more than a builder can, as a program would over the API.
    ///
    /// # Panics
    /// When the cell would not take it.
    pub fn submit_spec(&mut self, spec: v1::JobSpec) -> JobId {
        let shape = spec.shape.as_ref().expect("a job has a shape");
        let (namespace, name) = (shape.namespace.clone(), shape.name.clone());
        let command = jobs::submit(spec).expect("the job of a test is valid");
        self.ask("owner", command);
        self.cell().job_named(&namespace, &name).expect("it was just submitted").id
    }

    /// Lets a scheduler begin, and runs until all is quiet.
    pub fn seat(&mut self, scheduler: impl Scheduler + 'static) -> Seat {
        let seed = self.seats.len() as u64;
        self.seat_with(scheduler, Settings { seed, ..Settings::default() })
    }

    /// As `seat`, with settings.
    pub fn seat_with(&mut self, scheduler: impl Scheduler + 'static, settings: Settings) -> Seat {
        let name = scheduler.name().to_owned();
        let scheduler: Box<dyn Scheduler> = Box::new(scheduler);
        let runtime = SchedulerRuntime::new(settings, scheduler).expect("settings of a test are valid");
        self.seats.push(Player {
            name,
            runtime,
            link: None,
            connect_at: None,
            wake_at: None,
            held: false,
            cut_off: false,
            rejections: VecDeque::new(),
            hold_refusal: String::new(),
            loses_hold_answers: false,
            is_behind: false,
            notices: Vec::new(),
        });
        let seat = Seat(self.seats.len() - 1);
        self.give(seat, Input::Start);
        self.settle();
        seat
    }

    /// Holds a scheduler's requests back: it decides, and the cell hears nothing of it.
    pub fn hold(&mut self, seat: Seat) {
        self.seats[seat.0].held = true;
    }

    /// Lets a scheduler's requests through again.
    pub fn release(&mut self, seat: Seat) {
        self.seats[seat.0].held = false;
        self.settle();
    }

    /// Breaks a scheduler's connection. What it sent and the cell has not read is lost, and so is what it was to be told.
    pub fn cut(&mut self, seat: Seat) {
        if self.seats[seat.0].link.take().is_some() {
            let (code, reason) = (String::new(), "cut by the test".into());
            self.give(seat, Input::Disconnected { status: 14, code, reason, retry_micros: 0 });
        }
    }

    /// Cuts a scheduler off: its connection breaks, and no other one is made.
    pub fn cut_off(&mut self, seat: Seat) {
        self.seats[seat.0].cut_off = true;
        self.cut(seat);
    }

    /// Lets a scheduler connect again.
    pub fn let_back(&mut self, seat: Seat) {
        self.seats[seat.0].cut_off = false;
    }

    /// The cell reads what a scheduler sent, and its answers are lost with the connection.
    pub fn cut_answers(&mut self, seat: Seat) {
        while let Some(request) = self.seats[seat.0].link.as_mut().and_then(|link| link.to_cell.pop_front()) {
            self.serve(seat, request);
        }
        while let Some((_, request)) = self.seats[seat.0].link.as_mut().and_then(|link| link.holds.pop_front()) {
            self.decide_hold(request);
        }
        self.cut(seat);
    }

    /// Ends a session, as the cell does with one that was silent too long.
    pub fn close_session(&mut self, session: SessionId) {
        self.ask("local", Command::CloseSession(session));
    }

    /// A scheduler's runtime.
    #[must_use]
    pub fn runtime(&self, seat: Seat) -> &SchedulerRuntime<Box<dyn Scheduler>> {
        &self.seats[seat.0].runtime
    }

    /// Asks the schedulers that are welcomed from now on how they do, so often.
    pub fn ask_for_pulses(&mut self, pause_micros: u64) {
        self.pulse_micros = pause_micros;
    }

    /// What schedulers said of that since this was called last, in order.
    pub fn take_pulses(&mut self) -> Vec<v1::Pulse> {
        std::mem::take(&mut self.pulses)
    }

    /// What a scheduler's runtime told people.
    #[must_use]
    pub fn notices(&self, seat: Seat) -> &[Notice] {
        &self.seats[seat.0].notices
    }

    /// Why a group was passed over, as the cell was told last; empty if it was not.
    #[must_use]
    pub fn passed_over(&self, job: JobId, group: u32) -> &str {
        self.passed_over.get(&(job, group)).map_or("", |reason| reason)
    }

    /// Gives what was written since the last call: a line for each transaction, and one for each refusal.
    pub fn transcript(&mut self) -> String {
        std::mem::take(&mut self.transcript)
    }

    /// Live allocations of a job that are not leaving, as (group, task, machine slot), in that order.
    #[must_use]
    pub fn placed(&self, job: JobId) -> Vec<(u16, u32, u32)> {
        let active = self.cell().allocations().filter(|found| found.row.job() == job && found.status.state.is_active());
        let mut placed: Vec<_> = active.map(|found| (found.row.group, found.row.task, found.row.machine)).collect();
        placed.sort_unstable();
        placed
    }

    /// Every live allocation of the job that is not leaving runs and ends: with success, or with a failure. Not one that takes over room of others, before
    /// these have ended: until then an agent does not start it. Who is evicted or stopped ends by [`Stage::report`] alone.
    pub fn finish(&mut self, job: JobId, success: bool) {
        let active = self.cell().allocations().filter(|found| found.row.job() == job && found.status.state.is_active());
        let active = active.filter(|found| self.awaited_by(found.id).is_empty());
        let ended = if success { AllocationState::Complete } else { AllocationState::Failed };
        let all: Vec<_> = active.map(|found| (found.id, found.row.machine)).collect();
        for state in [AllocationState::Running, ended] {
            let exit_code = i32::from(state == AllocationState::Failed);
            let transitions = all.iter().map(|&(id, machine)| self.transition(id, machine, state, exit_code)).collect();
            self.ask("agent", Command::ReportStatus(transitions));
        }
        self.settle();
    }

    /// The agent of one allocation tells how that stands: it is `Running` (and ready); it ended by itself, `Complete` or `Failed`, with an exit code; or
    /// it ended as it was told to, `Stopped`, `Evicted` or `EndedLost`, mostly by SIGTERM: 143.
    ///
    /// # Panics
    /// When the allocation is not there, or has ended already; or when it is to have run, and takes over room of others that have not ended: an agent does not start
    /// it before.
    pub fn report(&mut self, allocation: AllocationId, state: AllocationState, exit_code: i32) {
        let found = self.cell().allocation(allocation).expect("a live allocation of the test");
        let awaited: Vec<_> = self.awaited_by(allocation).iter().map(ToString::to_string).collect();
        assert!(
            awaited.is_empty() || !has_run(state),
            "{allocation} can't be {state:?}: it takes over room of {}; report first that these have ended",
            awaited.join(", ")
        );
        let transition = self.transition(allocation, found.row.machine, state, exit_code);
        self.ask("agent", Command::ReportStatus(vec![transition]));
        self.settle();
    }

    /// Those whose end an allocation waits for, as it takes over room of theirs.
    fn awaited_by(&self, allocation: AllocationId) -> Vec<AllocationId> {
        let extra = self.cell().extra(allocation.slot);
        extra.into_iter().flat_map(|extra| &extra.takes_over).map(|entry| entry.victim).collect()
    }

    fn transition(&self, allocation: AllocationId, machine: u32, state: AllocationState, exit_code: i32) -> Transition {
        let machine = self.cell().machine_in(machine).expect("it has an allocation");
        Transition {
            machine: machine.id,
            epoch: machine.epoch,
            allocation,
            state,
            ready: state == AllocationState::Running,
            exit_code,
            restarts: 0,
            reason: if exit_code == 0 { "".into() } else { format!("exit code {exit_code}").into() },
        }
    }

    /// A machine's lease runs out.
    pub fn expire(&mut self, slot: u32) {
        let machine = self.cell().machine_in(slot).expect("a machine of the test");
        let command = Command::ExpireMachine { machine: machine.id, epoch: machine.epoch };
        self.ask("local", command);
    }

    /// A machine is taken out of the cell, with all that it ran.
    pub fn remove(&mut self, slot: u32) {
        let id: MachineId = self.cell().machine_in(slot).expect("a machine of the test").id;
        self.ask("operator", Command::RemoveMachine { machine: id, unless_alive: false });
        self.settle();
    }

    /// Asks the cell for something, as a principal.
    ///
    /// # Panics
    /// When the cell rejects it.
    pub fn ask(&mut self, principal: &str, command: Command) -> Decision {
        let request = Request { principal: principal.into(), namespace: "default".into(), command };
        let decision = self.decide(&request);
        if let Decision::Rejected(rejection) = &decision {
            panic!("the cell rejects what the test asks: {rejection:?}");
        }
        decision
    }

    /// Lets time pass, and all that becomes due happen.
    pub fn advance(&mut self, micros: i64) {
        let end = self.now_micros + micros;
        self.settle();
        while let Some(next) = self.next_due().filter(|&due| due <= end) {
            self.now_micros = self.now_micros.max(next);
            self.decide(&Request { principal: "local".into(), namespace: "".into(), command: Command::Tick });
            for seat in 0..self.seats.len() {
                self.beat(Seat(seat));
            }
            self.settle();
        }
        self.now_micros = end;
        self.decide(&Request { principal: "local".into(), namespace: "".into(), command: Command::Tick });
        self.settle();
    }

    fn next_due(&self) -> Option<i64> {
        let core = self.core.next_due().map(|due| due.micros - BEGIN_MICROS);
        let seats = self.seats.iter().filter(|player| !player.cut_off);
        let timers = seats.flat_map(|player| player.connect_at.into_iter().chain(player.wake_at));
        timers.chain(core).map(|due| due.max(self.now_micros + 1)).min()
    }

    fn beat(&mut self, seat: Seat) {
        // As a server does: of the last batch, however long ago that was.
        let (revision, time_micros) = (self.cell().revision().0, self.cell().time().micros);
        if let Some(link) = &mut self.seats[seat.0].link
            && link.session.is_some()
        {
            link.to_scheduler.push_back(tell(Tell::Heartbeat(v1::Heartbeat {
                revision,
                time_micros,
                ..v1::Heartbeat::default()
            })));
        }
    }

    /// Delivers messages and fires timers until nothing is left to do at this time.
    pub fn settle(&mut self) {
        for _ in 0..STEPS_MAX {
            let moved = (0..self.seats.len()).any(|seat| self.step(Seat(seat)));
            if !moved {
                return;
            }
        }
        panic!("the stage did not come to rest:\n{}", self.transcript);
    }

    fn step(&mut self, seat: Seat) -> bool {
        self.publish(seat);
        let now = self.now_micros;
        let player = &mut self.seats[seat.0];
        if player.connect_at.is_some_and(|at| at <= now) && !player.cut_off {
            player.connect_at = None;
            player.link = Some(Linked::default());
            self.give(seat, Input::Connected);
            return true;
        }
        if player.wake_at.is_some_and(|at| at <= now) {
            player.wake_at = None;
            self.give(seat, Input::Tick);
            return true;
        }
        let held = player.held;
        let Some(link) = &mut player.link else { return false };
        if let Some(message) = link.to_scheduler.pop_front() {
            self.give(seat, Input::Received(message));
            return true;
        }
        if !held && let Some(request) = link.to_cell.pop_front() {
            self.serve(seat, request);
            return true;
        }
        if !held && let Some((number, request)) = link.holds.pop_front() {
            let answer = self.answer_hold(seat, request);
            self.give(seat, Input::Held { number, answer });
            return true;
        }
        false
    }

    fn give(&mut self, seat: Seat, input: Input) {
        let now = self.now_micros;
        for output in self.seats[seat.0].runtime.handle(now, input) {
            let player = &mut self.seats[seat.0];
            match output {
                Output::Send(request) => {
                    if let Some(link) = &mut player.link {
                        link.to_cell.push_back(request);
                    }
                }
                Output::ConnectAfter { micros } => player.connect_at = Some(now + micros),
                Output::Disconnect => player.link = None,
                Output::Close(request) => {
                    let command = Command::CloseSession(SessionId(request.session));
                    self.ask("local", command);
                }
                Output::Hold { number, request } => {
                    player.link.iter_mut().for_each(|link| link.holds.push_back((number, request.clone())));
                }
                Output::WakeAt { micros } => player.wake_at = Some(micros),
                Output::Notice(notice) => player.notices.push(notice),
            }
        }
    }

    fn log_time(&self) -> LogTime {
        LogTime::from_micros(BEGIN_MICROS + self.now_micros)
    }

    fn decide(&mut self, request: &Request) -> Decision {
        match self.core.decide(request, self.log_time()) {
            Decided::Changed { decision, delta: changed } => {
                let mut bytes = Vec::new();
                delta::encode(&changed, &mut bytes);
                self.deltas.insert(changed.revision, delta::cut(Sections::MIRROR, bytes.into()));
                decision
            }
            Decided::Unchanged(decision) => decision,
            Decided::Repeated(revision) => {
                let Command::Commit(asked, _) = &request.command else { panic!("only transactions are repeated") };
                let first = &self.outcomes[&(asked.id.session, asked.id.number)];
                assert_eq!(first.revision, revision, "the log answers with the first outcome");
                Decision::Outcome(Box::new(first.clone()))
            }
        }
    }
}

/// Whether an allocation that is in this state has been started.
fn has_run(state: AllocationState) -> bool {
    matches!(state, AllocationState::Running | AllocationState::Complete | AllocationState::Failed)
}

#[cfg(test)]
mod ahead_tests;
#[cfg(test)]
mod anew_tests;
#[cfg(test)]
mod ended_tests;
#[cfg(test)]
mod fill_tests;
#[cfg(test)]
mod hold_tests;
#[cfg(test)]
mod naming_tests;
#[cfg(test)]
mod pass_tests;
#[cfg(test)]
mod pulse_tests;
#[cfg(test)]
mod quota_tests;
#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod replacing_tests;
#[cfg(test)]
mod serving_tests;
#[cfg(test)]
mod sharing_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod unanswered_tests;
#[cfg(test)]
mod waiting_tests;
