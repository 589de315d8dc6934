//! The agent as a process: it carries what happens to the [`AgentReconciler`] and does what that says.
//!
//! One thread turns this loop; others only wait for disks. All connections go out from here.

mod calls;
mod elsewhere;
mod fitness;
mod instance;
mod killed;
mod left;
mod lock;
mod log_upload;
mod memory;
mod namespaces;
mod options;
mod surroundings;

use std::{
    fs::{self, TryLockError},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use plenum_proto::v1;
use serde::{Deserialize, Serialize};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::sleep_until,
};

pub(crate) use self::calls::registration as answered;
use self::{
    calls::{Arrival, Calls},
    elsewhere::{Elsewhere, Keeps},
    lock::Lock,
    log_upload::LogUploads,
    memory::Memory,
};
pub use self::{left::end_tasks_left, options::Options, surroundings::Surroundings};
use crate::{
    assignments,
    clock::Clock,
    directories::{self, AgentDirectory, let_owner_in},
    driver::{Driver, DriverEvent},
    durable,
    exec::{ExecDriver, ExecOptions, holds_any, is_unreadable},
    machine::{self, Discovery, Machine},
    process::{boot_id, hear_of_children, let_others_pass, outlive_limits_of_files},
    reconciler::{AgentReconciler, Input, Output, Settings},
    threads::{self, Alarm, Panicked},
};

/// What waits to be looked at: events of tasks, and answers of the cell. Who has more waits.
const QUEUE_MAX: usize = 256;
/// How often what was seen of the cell is written down while it rises: what a copy of the cell from before lacks, an agent takes for ended.
const NOTED_EVERY: Duration = Duration::from_secs(60);
/// At the end, how long to wait for the cell to answer for it.
const FAREWELL_WITHIN: Duration = Duration::from_secs(2);
/// At the end, how long to wait for what is being written. What the next agent misses then, it hears again.
const WRITTEN_WITHIN: Duration = Duration::from_secs(2);

/// Why an agent can't run, or can't go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The directory can't be used.
    #[error("agent directory {}: {source}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What it knew of its cell can't be read any more.
    #[error(
        "what this machine's agent knew of its cell can't be read (if the server is of that cell, move the file away: tasks go on, and it \
         is written anew)"
    )]
    Damaged {
        /// The file, and what is wrong with it, or with its disk.
        source: io::Error,
    },
    /// Another agent uses the directory.
    #[error("agent directory {}: another agent uses it; end that one, or name another directory", path.display())]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// Tasks are here that were granted to a machine of another name.
    #[error(
        "agent directory {}: its tasks are those of machine {of}, and this agent's name is {name}: what runs of them goes on, and the cell has not heard of all their ends; \
         name it {of} (`name` in its file, or --name), and to rename the machine, drain it first; or name another directory",
        path.display()
    )]
    Renamed {
        /// The directory.
        path: PathBuf,
        /// Whose tasks they are.
        of: String,
        /// The agent's name.
        name: String,
    },
    /// This machine can't be offered.
    #[error("this machine: {0}")]
    Machine(#[source] io::Error),
    /// The server's address is none.
    #[error("server address {address:?}: {message}; expected something like http://127.0.0.1:7070")]
    Address {
        /// As it was given.
        address: String,
        /// What is wrong.
        message: String,
    },
    /// Tasks may run here, and it can't be found out which.
    #[error("finding the tasks that run here (they go on, and nothing was started): {0}")]
    Recover(#[source] io::Error),
    /// The kernel refuses what every agent needs.
    #[error("starting the agent: {0}")]
    Start(#[source] io::Error),
    /// A part panicked without which it must not go on: it would look well, and tasks be neither started nor watched.
    #[error("{part} failed, which is a fault of Plenum: {what} (tasks go on, and the next agent finds them)")]
    Panicked {
        /// What it does.
        part: &'static str,
        /// What it said.
        what: String,
    },
}

/// What an agent remembers of its cell, over restarts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Remembered {
    /// In hexadecimal; empty: no cell yet.
    cell_id: String,
    /// Under which name it registered there; empty: written by an agent that did not keep it.
    #[serde(default)]
    machine: String,
    incarnation: u64,
    revision: u64,
    /// Absent: written by an agent that did not keep it.
    #[serde(default)]
    registered: Option<Registered>,
}

/// As what, and when, an agent registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Registered {
    /// The machine's id, in words.
    machine: String,
    epoch: u32,
    /// After a reboot the epoch is another one whether the lease had ended or not.
    boot_id: String,
}

/// Why a machine is in another epoch than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Anew {
    LeaseEnded,
    CellRestored,
}

impl Remembered {
    /// Why it is registered in a later epoch than an agent was before it, in this boot; `None`: it is not, or nobody knows.
    fn why_anew(&self, registered: &Registered, incarnation: u64) -> Option<Anew> {
        let earlier = self.registered.as_ref()?;
        let is_same = (&earlier.machine, &earlier.boot_id) == (&registered.machine, &registered.boot_id);
        let why = if self.incarnation == incarnation { Anew::LeaseEnded } else { Anew::CellRestored };
        (is_same && earlier.epoch < registered.epoch).then_some(why)
    }
}

/// Runs an agent until SIGTERM or SIGINT. The cell is told, and places nothing more here until the next agent is back. Where its
/// tasks are stopped with it, a second one kills them, and a third one ends it at once.
///
/// Tasks go on without it and are found again by the next agent of the same directory, unless
/// [`Options::stop_tasks_on_exit`] is set: then they are all stopped first, and no cgroup stays behind.
///
/// To be called on a thread that runs no async runtime. A supervisor that starts agents must end the agent's process only
/// (`KillMode=process` in systemd): shims are its children.
///
/// # Errors
/// When it can't begin. A server that can't be reached is no error, nor is one of another cell than what the directory has is of: it is asked
/// again for ever. Another name than that of the directory's tasks is one: it stays the same for as long as this agent runs. When a part of it panics.
pub fn run(options: &Options) -> Result<(), AgentError> {
    hear_of_children();
    outlive_limits_of_files();
    let_others_pass();
    let path = options.directory.clone();
    let named = |source| AgentError::Directory { path: path.clone(), source };
    directories::make(&options.directory).map_err(named)?;
    let directory = AgentDirectory::new(fs::canonicalize(&options.directory).map_err(named)?);
    if directory.root().to_str().is_none() {
        // Shims are told their paths as texts: each task would fail by itself.
        return Err(named(io::Error::new(
            io::ErrorKind::InvalidInput,
            "expected a path in UTF-8; name another directory",
        )));
    }
    let_owner_in(directory.root());
    let lock = Lock::take(&directory.lock(), options.waits_for_predecessor).map_err(|error| match error {
        TryLockError::WouldBlock => AgentError::InUse { path: path.clone() },
        TryLockError::Error(source) => AgentError::Directory { path: path.clone(), source },
    })?;
    let remembered = remembered(&directory, named)?;
    let instance = instance::of(&directory).map_err(named)?;
    let name = machine::name(options.name.as_deref()).map_err(AgentError::Machine)?;
    check_name(&name, &remembered, &directory)?;
    let mut surroundings = Surroundings::find(options, &name, &directory);
    let machine = machine::discover(&Discovery {
        name,
        shares: options.shares,
        memory_aside: options.memory_aside,
        directory: directory.root().to_owned(),
        cgroup: surroundings.cgroup.as_ref().map(crate::cgroup::AgentCgroup::version),
        attributes: options.attributes.clone(),
        devices: options.devices.clone(),
        resources: options.resources.clone(),
    })
    .map_err(AgentError::Machine)?;
    surroundings.bound(machine.memory_limit_bytes, options.shares);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AgentError::Start)?;
    let outcome = runtime.block_on(async {
        let mut agent = Agent::begin(options, directory, machine, &surroundings, (remembered, instance))?;
        let outcome = agent.turn(&lock).await;
        let outcome = outcome.map(|()| agent.driver.active() == 0);
        agent.written().await;
        outcome
    });
    // Watchers of tasks that go on would hold it up.
    runtime.shutdown_background();
    // A shim that is on its way to its task needs the group above it: that stays unless nothing goes on.
    let goes_on = !matches!(outcome, Ok(true));
    if let Some(cgroup) = surroundings.cgroup.filter(|_| !goes_on) {
        cgroup.remove();
    }
    drop(lock);
    outcome.map(drop)
}

fn remembered(directory: &AgentDirectory, named: impl Fn(io::Error) -> AgentError) -> Result<Remembered, AgentError> {
    let path = remembered_file(directory);
    durable::read::<Remembered>(&path).map(Option::unwrap_or_default).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => AgentError::Damaged { source: error },
        _ if is_unreadable(&error) => AgentError::Damaged { source: of_file(&path, &error, "") },
        _ => named(of_file(&path, &error, "")),
    })
}

/// The failure of a file, with its path, and what to do behind it: the system says neither.
fn of_file(path: &Path, error: &io::Error, what_to_do: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}{what_to_do}", path.display()))
}

/// What was granted to a machine runs under its name: under another one nothing of it would be wanted, and all of it be stopped.
fn check_name(name: &str, remembered: &Remembered, directory: &AgentDirectory) -> Result<(), AgentError> {
    let of = &remembered.machine;
    if of.is_empty() || of == name {
        return Ok(());
    }
    if holds_any(directory).map_err(AgentError::Recover)? {
        return Err(AgentError::Renamed { path: directory.root().to_owned(), of: of.clone(), name: name.to_owned() });
    }
    tracing::info!(name, earlier = of, "nothing runs here of the machine that this was: it is another one from now on");
    Ok(())
}

fn remembered_file(directory: &AgentDirectory) -> PathBuf {
    directory.root().join("cell.json")
}

/// The file that an agent of this directory writes anew with each registration, and while it goes on, and the revision that it had seen then: at that one
/// the cell knew what it offers. `None` before the first one.
#[must_use]
pub fn registration(directory: &Path) -> (PathBuf, Option<u64>) {
    let path = remembered_file(&AgentDirectory::new(directory.to_owned()));
    let remembered = durable::read::<Remembered>(&path).ok().flatten();
    (path, remembered.map(|remembered| remembered.revision))
}

/// Starts what looks for things around the agent that come or pass.
fn look_around(options: &Options, surroundings: &Surroundings, arrivals: &mpsc::Sender<Arrival>, alarm: &Alarm) {
    drop(threads::spawn("what looks for killed processes", alarm, killed::watch(surroundings.cgroup.clone())));
    if surroundings.hindrance.is_some() {
        let (shim, had) = (options.shim.clone(), surroundings.isolation);
        let asking = namespaces::watch(shim, had, namespaces::PAUSE_MIN, arrivals.clone());
        drop(threads::spawn("what asks for namespaces", alarm, asking));
    }
}

struct Agent {
    directory: AgentDirectory,
    machine: Machine,
    stop_tasks_on_exit: bool,
    task_defaults: assignments::Defaults,
    clock: Clock,
    reconciler: AgentReconciler,
    driver: ExecDriver,
    /// Until when the driver may make what it was told to start, as [`AgentReconciler::starts_until_ms`] says.
    starts_until: watch::Sender<Option<Duration>>,
    events: mpsc::Receiver<DriverEvent>,
    calls: Calls,
    arrivals: mpsc::Receiver<Arrival>,
    panics: mpsc::Receiver<Panicked>,
    log_uploads: LogUploads,
    remembered: Remembered,
    memory: Memory,
    /// When what was seen of the cell was written down beside a registration.
    noted_at: Instant,
    /// How often it was asked to end.
    end_requests: u32,
    /// It was said already that another agent serves this machine.
    is_taken_told: bool,
    elsewhere: Elsewhere,
    /// Why it is in another epoch than before, and what is wanted in that one is not known yet.
    anew: Option<Anew>,
    finished_at: Option<Instant>,
    /// What was told of these last.
    fails_setups: bool,
    is_held_up: bool,
}

impl Agent {
    fn begin(
        options: &Options,
        directory: AgentDirectory,
        machine: Machine,
        surroundings: &Surroundings,
        (remembered, instance): (Remembered, String),
    ) -> Result<Self, AgentError> {
        if !surroundings.missing.is_empty() {
            tracing::warn!("tasks run without: {}", surroundings.missing.join(", "));
        }
        if let Some(hindrance) = &surroundings.hindrance {
            tracing::warn!(hindrance, "what keeps namespaces from them may pass: they are asked for again");
        }
        let (event_sender, events) = mpsc::channel(QUEUE_MAX);
        let exec = ExecOptions {
            directory: directory.clone(),
            shim: options.shim.clone(),
            cgroup: surroundings.cgroup.clone(),
            isolation: surroundings.isolation,
            log_file_bytes_max: options.log_file_bytes_max,
            ended_kept_max: options.ended_kept_max,
            ended_bytes_max: options.ended_bytes_max,
        };
        let path = directory.root().to_owned();
        let mut driver =
            ExecDriver::new(exec, event_sender).map_err(|source| AgentError::Directory { path, source })?;
        let (alarm, panics) = mpsc::channel(1);
        let memory = Memory::at(remembered_file(&directory), &alarm);
        // Of what is started in a cell, the next agent must know which cell that is.
        driver.start_through(memory.gate());
        let (starts_until, until) = watch::channel(None);
        driver.start_until(until);
        let (arrival_sender, arrivals) = mpsc::channel(QUEUE_MAX);
        let (relief, setups_failed) = (driver.relief(), driver.setups_failed());
        let fitness = fitness::watch(directory.clone(), relief, setups_failed, arrival_sender.clone());
        drop(threads::spawn("what tries the disk", &alarm, fitness));
        look_around(options, surroundings, &arrival_sender, &alarm);
        driver.alarm(alarm.clone());
        let calls = Calls::new(&options.server, &machine.name, instance, arrival_sender, alarm)?;
        calls.mean(&remembered.cell_id);
        let clock = Clock::start();
        let settings =
            Settings { seed: clock.base_unix_ms ^ u64::from(std::process::id()) << 32, ..Settings::default() };
        Ok(Self {
            task_defaults: assignments::Defaults { machine: machine.name.clone(), pids_max: options.pids_max },
            machine,
            stop_tasks_on_exit: options.stop_tasks_on_exit,
            clock,
            reconciler: AgentReconciler::new(settings, remembered.incarnation, remembered.revision),
            driver,
            starts_until,
            events,
            log_uploads: LogUploads::new(directory.clone(), calls.connector(), calls.client()),
            directory,
            calls,
            arrivals,
            panics,
            remembered,
            memory,
            noted_at: Instant::now(),
            end_requests: 0,
            is_taken_told: false,
            elsewhere: Elsewhere::default(),
            anew: None,
            finished_at: None,
            fails_setups: false,
            is_held_up: false,
        })
    }

    async fn turn(&mut self, lock: &Lock) -> Result<(), AgentError> {
        let mut terminate = signal(SignalKind::terminate()).map_err(AgentError::Start)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(AgentError::Start)?;
        let recovered = self.driver.recover().map_err(AgentError::Recover)?;
        if !recovered.is_empty() {
            tracing::info!(count = recovered.len(), "found tasks of an earlier agent");
        }
        self.handle(Input::Recovered(recovered));
        loop {
            self.note_what_was_seen();
            if self.has_said_farewell() {
                return Ok(());
            }
            let wake = self.wake_at();
            tokio::select! {
                Some(event) = self.events.recv() => self.handle(Input::Driver(event)),
                Some(arrival) = self.arrivals.recv() => self.arrived(arrival),
                Some(Panicked { part, what }) = self.panics.recv() => return Err(AgentError::Panicked { part, what }),
                () = sleep_until(wake.into()) => self.handle(Input::Tick),
                Some(()) = async { tokio::select! { one = terminate.recv() => one, one = interrupt.recv() => one } } => {
                    self.end_requests += 1;
                    lock.ends();
                    match self.end_requests {
                        1 if self.stop_tasks_on_exit => self.handle(Input::Shutdown),
                        1 => self.leave(),
                        2 if self.stop_tasks_on_exit => self.driver.kill_all(),
                        _ => return Ok(()),
                    }
                }
            }
        }
    }

    /// Tells the cell to place nothing here until the next agent is back; what runs goes on.
    fn leave(&mut self) {
        self.finished_at = Some(Instant::now());
        self.handle(Input::Leave);
    }

    /// Everything was stopped, or is left to the next agent, and the cell knows or won't know.
    fn has_said_farewell(&self) -> bool {
        self.finished_at.is_some_and(|at| self.reconciler.has_left() || at.elapsed() > FAREWELL_WITHIN)
    }

    fn wake_at(&self) -> Instant {
        let wake =
            self.reconciler.next_wake_millis().map_or(Duration::from_secs(3600), |at_ms| self.clock.until(at_ms));
        let farewell = self.finished_at.map(|at| (at + FAREWELL_WITHIN).saturating_duration_since(Instant::now()));
        Instant::now() + farewell.map_or(wake, |farewell| farewell.min(wake)) + Duration::from_millis(1)
    }

    fn arrived(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Input(input) => self.handle(input),
            Arrival::Registered(response) => self.registered(&response),
            Arrival::Taken(message) => self.taken(&message),
            Arrival::Isolation(isolation) => self.driver.separate_by(isolation),
            Arrival::OtherCell(found) => self.other_cell(&found),
            Arrival::Assignments { machine, epoch, message } => {
                for asked in &message.logs {
                    self.log_uploads.asked(asked);
                }
                let input = assignments::read(machine, epoch, message, &self.task_defaults);
                self.handle(input);
                self.tell_of_another_epoch();
            }
        }
    }

    /// Says so when what is wanted in an epoch behind another one is known: the lease had ended between them, or the cell was restored.
    fn tell_of_another_epoch(&mut self) {
        let Some((stopped, anew)) = self.reconciler.fenced().zip(self.anew) else { return };
        self.anew = None;
        match anew {
            Anew::LeaseEnded => tracing::warn!(
                name = self.machine.name,
                stopped,
                "its lease had ended, and it is registered anew: what runs here of tasks that the cell gave up or ended meanwhile is stopped"
            ),
            Anew::CellRestored => tracing::warn!(
                name = self.machine.name,
                stopped,
                "the cell was restored, and it is registered anew: what runs here of tasks that the cell does not want any more is stopped"
            ),
        }
    }

    /// Another agent serves this machine: nothing is started, and asked again, as that one may be on its way out.
    fn taken(&mut self, message: &str) {
        if !std::mem::replace(&mut self.is_taken_told, true) {
            tracing::error!(code = "MACHINE_TAKEN", "{message} (asked again until then; nothing new is started here)");
        }
        self.handle(Input::RegisterFailed);
    }

    fn registered(&mut self, response: &v1::RegisterResponse) {
        let cell_id: String = response.cell_id.iter().map(|byte| format!("{byte:02x}")).collect();
        let other = !self.remembered.cell_id.is_empty() && self.remembered.cell_id != cell_id;
        if other {
            return self.other_cell(&cell_id);
        }
        self.elsewhere.is_over();
        if response.register_again {
            tracing::info!(
                revision = response.revision,
                "the machine began another epoch meanwhile, or was removed: registers again"
            );
            let (incarnation, revision) = (response.incarnation, response.revision);
            return self.handle(Input::RegisterAgain { incarnation, revision });
        }
        let Some(registration) = calls::registration(response) else {
            tracing::error!("the server registered this machine without an id, an epoch or a lease: not used");
            return self.handle(Input::RegisterFailed);
        };
        self.is_taken_told = false;
        let (machine, epoch, incarnation) = (registration.machine, registration.epoch, registration.incarnation);
        self.handle(Input::Registered(registration));
        if self.reconciler.is_in(machine, epoch) {
            tracing::info!(name = self.machine.name, %machine, epoch, "registered");
            let registered = Registered { machine: machine.to_string(), epoch, boot_id: boot_id().to_owned() };
            self.anew = self.remembered.why_anew(&registered, incarnation).or(self.anew);
            self.remember(cell_id, registered);
        }
    }

    /// Another cell answers at the address, perhaps by mistake and for a moment. What is here is not its own: tasks go on as without a server, and it is
    /// asked again. An agent that has nothing is free to serve it.
    fn other_cell(&mut self, found: &str) {
        if self.end_requests > 0 {
            // Its tasks may be on their way out, which must not end half-way; the other cell is told nothing.
            return self.handle(Input::RegisterFailed);
        }
        let keeps = if self.reconciler.holds_any() {
            Some(Keeps::Tasks)
        } else {
            Some(self.driver.kept()).filter(|kept| !kept.is_empty()).map(Keeps::Files)
        };
        if let Some(keeps) = keeps {
            self.elsewhere.tell(self.directory.root(), (self.remembered.cell_id.as_str(), found), &keeps);
            return self.handle(Input::RegisterFailed);
        }
        tracing::info!(found, "another cell answers, and there is nothing here of the one before: joins it");
        // So what was seen of it means nothing either.
        let settings = Settings { seed: self.clock.now_ms(), ..Settings::default() };
        self.reconciler = AgentReconciler::new(settings, 0, 0);
        self.remembered = Remembered::default();
        self.anew = None;
        self.calls.mean("");
        self.handle(Input::Recovered(Vec::new()));
    }

    /// Has the cell written down whose registration was accepted, and what was seen of it. Nothing was started in it
    /// yet, nor is before that is done.
    fn remember(&mut self, cell_id: String, registered: Registered) {
        let (incarnation, revision) = self.reconciler.seen();
        self.calls.mean(&cell_id);
        let (machine, registered) = (self.machine.name.clone(), Some(registered));
        self.remembered = Remembered { cell_id, machine, incarnation, revision, registered };
        self.memory.keep(self.remembered.clone());
    }

    /// Has what was seen of the cell since written down, too, now and then and with the last word: the next agent would believe a copy of the cell from
    /// before, and stop all that was granted since.
    fn note_what_was_seen(&mut self) {
        let (incarnation, revision) = self.reconciler.seen();
        let is_known = (self.remembered.incarnation, self.remembered.revision) == (incarnation, revision);
        let is_time = self.finished_at.is_some() || self.noted_at.elapsed() >= NOTED_EVERY;
        if is_known || !is_time || self.remembered.incarnation != incarnation {
            return;
        }
        self.noted_at = Instant::now();
        self.remembered.revision = revision;
        self.memory.note(self.remembered.clone());
    }

    /// Waits for what the next agent needs to be written down, unless the disk does not answer.
    async fn written(self) {
        let Self { driver, memory, .. } = self;
        let written = async {
            driver.marked().await;
            memory.end().await;
        };
        let _ = tokio::time::timeout(WRITTEN_WITHIN, written).await;
    }

    fn handle(&mut self, input: Input) {
        let outputs = self.reconciler.handle(self.clock.now_ms(), input);
        // Before anything else: what is told to end here must find nothing begun beside it.
        let until = self.reconciler.starts_until_ms().map(|at_ms| self.clock.at(at_ms));
        self.starts_until.send_if_modified(|told| std::mem::replace(told, until) != until);
        for output in outputs {
            match output {
                Output::Start(task) => {
                    tracing::debug!(allocation = %task.allocation, restart = task.restart, "starting");
                    self.driver.start(task);
                }
                Output::Stop(allocation) => {
                    tracing::debug!(%allocation, "stopping");
                    self.driver.stop(allocation);
                }
                Output::Forget(allocation) => self.driver.forget(allocation),
                Output::Register { inventory, revision, incarnation } => {
                    self.calls.register(&self.machine, &inventory, (incarnation, revision));
                }
                Output::Follow { machine, epoch, revision, incarnation } => {
                    self.log_uploads.end_all();
                    self.calls.follow(machine, epoch, (incarnation, revision));
                }
                Output::Report { number, machine, epoch, transitions, running, unfit, revision, incarnation } => {
                    let seen = (incarnation, revision);
                    self.calls.report(number, (machine, epoch), transitions, running, unfit, seen);
                }
                Output::Refuse { offered, seen } => {
                    tracing::error!(
                        ?offered,
                        ?seen,
                        "the server has an older state than this agent has seen: it is not used (is it a restored copy?)"
                    );
                }
                Output::Finished => self.finished_at = Some(Instant::now()),
            }
        }
        self.tell_of_setups();
        self.tell_of_what_hangs();
        self.log_uploads.look(|allocation| self.reconciler.holds(allocation));
    }

    /// Says so when tasks can't be set up here any more, and when they are tried again.
    fn tell_of_setups(&mut self) {
        let fails = self.reconciler.fails_setups();
        if fails == std::mem::replace(&mut self.fails_setups, fails) {
            return;
        }
        if fails {
            tracing::error!(
                "several tasks could not be set up here, one after another: this machine takes none for a while"
            );
        } else {
            tracing::info!("tasks are set up here again, or it is tried: this machine takes tasks");
        }
    }

    /// Says so when nothing is started here for what does not end, and when that is over.
    fn tell_of_what_hangs(&mut self) {
        let is_held_up = self.reconciler.is_held_up();
        if is_held_up == std::mem::replace(&mut self.is_held_up, is_held_up) {
            return;
        }
        if is_held_up {
            tracing::error!(
                "tasks that are to end are still there (do their processes hang?): nothing is started before they are gone, and this machine \
                 takes no tasks"
            );
        } else {
            tracing::info!("what was to end is gone: this machine takes tasks");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    // The agent did not start, and said what was wrong and not what to do.
    #[test]
    fn who_cannot_read_what_it_knew_of_its_cell_says_what_to_do() {
        let place = tempfile::tempdir().unwrap();
        let directory = AgentDirectory::new(place.path().to_owned());
        let other = |error: io::Error| panic!("{error}");
        assert!(remembered(&directory, other).unwrap().cell_id.is_empty());
        fs::write(remembered_file(&directory), "{\"cell_id\":").unwrap();
        let error = remembered(&directory, other).err().unwrap();
        assert!(error.to_string().contains("move the file away"), "{error}");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("cell.json"), "{source}");
    }

    // An agent that was started anew after its lease stopped tasks and said nothing; one whose cell had been restored said that its lease had ended.
    #[test]
    fn why_the_machine_is_in_another_epoch_is_known_also_after_a_restart_of_the_agent() {
        let of = |machine: &str, epoch, boot_id: &str| Registered {
            machine: machine.to_owned(),
            epoch,
            boot_id: boot_id.to_owned(),
        };
        let place = tempfile::tempdir().unwrap();
        let directory = AgentDirectory::new(place.path().to_owned());
        let read = || remembered(&directory, |error: io::Error| panic!("{error}")).unwrap();
        fs::write(remembered_file(&directory), r#"{"cell_id":"ab","incarnation":1,"revision":4}"#).unwrap();
        assert_eq!(read().why_anew(&of("machine-0-1", 2, "a"), 1), None, "an earlier agent did not keep it");
        let kept = Remembered { registered: Some(of("machine-0-1", 2, "a")), ..read() };
        durable::write_surely(&remembered_file(&directory), &kept).unwrap();
        let why = |machine: &str, epoch, boot_id: &str, incarnation| {
            read().why_anew(&of(machine, epoch, boot_id), incarnation)
        };
        assert_eq!(why("machine-0-1", 3, "a", 1), Some(Anew::LeaseEnded));
        assert_eq!(why("machine-0-1", 3, "a", 2), Some(Anew::CellRestored));
        assert_eq!(why("machine-0-1", 2, "a", 1), None, "the same one");
        assert_eq!(why("machine-0-1", 3, "b", 1), None, "a reboot");
        assert_eq!(why("machine-0-2", 3, "a", 1), None, "another machine");
    }

    // Of an unreadable sector it said `Input/output error`, not of which file, and not what to do.
    #[test]
    fn who_cannot_read_a_file_from_its_disk_says_which_and_what_to_do() {
        let place = tempfile::tempdir().unwrap();
        let directory = AgentDirectory::new(place.path().to_owned());
        let other = |error: io::Error| panic!("{error}");
        std::os::unix::fs::symlink("/proc/self/mem", remembered_file(&directory)).unwrap();
        let error = remembered(&directory, other).err().unwrap();
        assert!(error.to_string().contains("move the file away"), "{error}");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("cell.json: Input/output error"), "{source}");
        std::os::unix::fs::symlink("/proc/self/mem", directory.root().join("instance")).unwrap();
        let error = instance::of(&directory).unwrap_err().to_string();
        assert!(error.contains("instance: Input/output error") && error.contains("move the file away"), "{error}");
    }
}
