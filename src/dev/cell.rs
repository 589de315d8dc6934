//! The parts of a development cell: which processes there are, how they are started, and in which order they end.

use std::{
    ffi::OsString,
    net::{Ipv4Addr, TcpListener},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    path::PathBuf,
    time::Duration,
};

use plenum_agent::exec::Left;
use plenum_model::{agreeing, counted};
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tracing_subscriber::filter::LevelFilter;

use super::{
    folder::{Folder, LOG_SHOWN_BYTES, not_ready, with_room_elsewhere, written},
    keeper::{Keeper, PartSpec},
    machines,
    plan::Plan,
    progress::Progress,
};
use crate::{failure::Failure, parts, signals::Signals};

/// The port that a development cell takes if nobody has it.
const PORT: u16 = 7070;
/// Ports that are tried for it.
const PORTS_TRIED: u32 = 5;
/// How long the server may take until it can be reached: recovering a long log takes time.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the address file is looked for. A look costs microseconds; waiting costs the first task its start.
const READY_PERIOD: Duration = Duration::from_millis(3);
/// What schedulers and the server are given to end, and agents whose tasks were to be killed.
const GRACE: Duration = Duration::from_secs(5);
/// How long the end of tasks is waited for that were killed without their agent.
const LEFT_MAX: Duration = Duration::from_secs(5);
/// What is read of an agent's log at the end, of what it printed since it was asked to end.
const LOG_BYTES_MAX: u64 = 1 << 20;
/// What says which of their events parts log.
const LOG_FILTER: &str = "RUST_LOG";
/// How long agents of a killed cell are waited for at most, whatever their tasks are given: those of this one have to register meanwhile.
const EARLIER_AGENTS_MAX: Duration = Duration::from_secs(15);

/// The processes of a cell, in groups that end one after the other.
pub(super) struct DevCell<'dev> {
    plan: &'dev Plan,
    folder: &'dev Folder,
    progress: Progress,
    binary: PathBuf,
    server: Vec<Keeper>,
    schedulers: Vec<Keeper>,
    agents: Vec<Keeper>,
    /// The port that other development cells leave alone, also while a server that died is started again.
    port: Option<Reserved>,
    /// A part that does not stay up is told here.
    given_up: (mpsc::Sender<Failure>, mpsc::Receiver<Failure>),
}

impl<'dev> DevCell<'dev> {
    /// A cell of which nothing runs yet.
    pub(super) fn new(plan: &'dev Plan, folder: &'dev Folder, progress: Progress) -> Result<Self, Failure> {
        let binary = std::env::current_exe().map_err(|error| Failure::io("cannot find this program's file", &error))?;
        let given_up = mpsc::channel(1);
        Ok(Self {
            plan,
            folder,
            progress,
            binary,
            server: Vec::new(),
            schedulers: Vec::new(),
            agents: Vec::new(),
            port: None,
            given_up,
        })
    }

    /// Starts the server and waits until it can be reached; gives its address.
    pub(super) async fn start_server(&mut self) -> Result<String, Failure> {
        let mut ports_left = PORTS_TRIED;
        loop {
            ports_left -= 1;
            let port = self.reserve_port();
            match self.start_server_at(port).await {
                // Somebody else took the port after it was found free; two cells that start together both find the same.
                Err(failure) if failure.code == "ADDRESS_IN_USE" && ports_left > 0 && self.named_port().is_none() => {
                    self.server.clear();
                }
                other => return other,
            }
        }
    }

    /// The one port that was asked for.
    fn named_port(&self) -> Option<u16> {
        self.plan.port.filter(|port| *port != 0)
    }

    /// The port that was asked for; where none was, that of development cells if it is free and no other one has it; otherwise any that is free.
    ///
    /// The server is always told a port; when it is started again after a death, it must take the one that all others know.
    fn reserve_port(&mut self) -> u16 {
        if let Some(port) = self.named_port() {
            self.port = Reserved::take(port);
            return port;
        }
        self.port = match self.plan.port {
            Some(_) => None,
            None => Reserved::take(PORT).filter(|_| free_port(PORT).is_some()),
        };
        self.port.as_ref().map(|_| PORT).or_else(|| free_port(0)).unwrap_or(0)
    }

    async fn start_server_at(&mut self, port: u16) -> Result<String, Failure> {
        let address_file = parts::address_file(&self.folder.server());
        // What an earlier server left, or one that runs, must not be taken for this one's; nor may it be removed.
        let earlier = written(&address_file);
        let arguments = arguments([
            "server".into(),
            "--dir".into(),
            self.folder.server().into(),
            "--listen".into(),
            format!("127.0.0.1:{port}").into(),
        ]);
        let log = self.folder.log("server");
        let printed_from = Folder::log_bytes(&log);
        let keeper = self.start("server", arguments, Vec::new(), GRACE);
        self.server.push(keeper);
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            if written(&address_file) != earlier
                && let Ok(address) = std::fs::read_to_string(&address_file)
            {
                self.folder.publish_address(&address)?;
                return Ok(format!("http://{}", address.trim().trim_start_matches("http://")));
            }
            let said = Folder::printed_since(&log, printed_from, LOG_SHOWN_BYTES);
            // It serves, to nobody who looks for it there.
            if said.contains(plenum_server::ADDRESS_NOT_TOLD) {
                return Err(not_ready(self.folder, "the server cannot write down where it listens", &said));
            }
            if Instant::now() > deadline {
                let what = format!("the server cannot be reached after {} s", READY_TIMEOUT.as_secs());
                return Err(not_ready(self.folder, &what, &said));
            }
            tokio::select! {
                failure = self.given_up() => return Err(failure),
                () = sleep(READY_PERIOD) => {}
            }
        }
    }

    /// Starts schedulers and agents of the cell at this address.
    pub(super) fn start_others(&mut self, address: &str) {
        for scheduler in &self.plan.schedulers {
            let arguments = arguments(["scheduler".into(), scheduler.into()]);
            let environment = vec![("PLENUM_ADDR", address.into())];
            let keeper = self.start(&format!("scheduler-{scheduler}"), arguments, environment, Duration::ZERO);
            self.schedulers.push(keeper);
        }
        // Those of before end with their tasks, which most likely were the same.
        let patience = (self.tasks_grace() + GRACE).min(EARLIER_AGENTS_MAX);
        for machine in machines::names(self.plan.machines) {
            let mut agent = arguments([
                "agent".into(),
                "--name".into(),
                machine.clone().into(),
                "--dir".into(),
                self.folder.agent(&machine).into(),
                "--share".into(),
                self.plan.machines.to_string().into(),
                "--stop-tasks-on-exit".into(),
            ]);
            if self.plan.no_isolation {
                agent.push("--no-isolation".into());
            }
            let environment = vec![("PLENUM_ADDR", address.into())];
            let keeper = self.start(&format!("agent-{machine}"), agent, environment, patience);
            self.agents.push(keeper);
        }
    }

    /// What the tasks of the plan are given to end.
    fn tasks_grace(&self) -> Duration {
        Duration::from_micros(self.plan.kill_timeout_micros().unsigned_abs())
    }

    fn start(
        &self,
        name: &str,
        arguments: Vec<OsString>,
        mut environment: Vec<(&'static str, OsString)>,
        patience: Duration,
    ) -> Keeper {
        environment.extend(log_filter(std::env::var_os(LOG_FILTER)));
        // Where another cell lives, its parts don't end.
        let patience = if self.folder.is_alone() { patience } else { Duration::ZERO };
        let spec = PartSpec { name: name.to_owned(), arguments, environment, log: self.folder.log(name), patience };
        Keeper::start(&self.binary, spec, self.progress.clone(), self.given_up.0.clone())
    }

    /// Waits until a part does not stay up; usually for ever.
    pub(super) async fn given_up(&mut self) -> Failure {
        match self.given_up.1.recv().await {
            Some(failure) => with_room_elsewhere(failure),
            None => std::future::pending().await,
        }
    }

    /// True when tasks may be running.
    pub(super) fn runs_agents(&self) -> bool {
        !self.agents.is_empty()
    }

    /// Ends everything: agents with their tasks first, so that what happened to them is still told to the server. Another
    /// signal kills instead of asking: the tasks by their agents, as nobody else knows them, then the parts.
    ///
    /// Until then agents have all the time there is. Each kills its tasks when they have had what their jobs give them, which nobody here knows of
    /// jobs that were submitted later, or by an earlier run.
    pub(super) async fn stop(&mut self, signals: &mut Signals) {
        let told_after = self.tasks_grace() + GRACE;
        // Where another cell lives, its agents may be the ones that are being started there.
        let own = if self.folder.is_alone() { self.agents.len() } else { 0 };
        let machines: Vec<String> = machines::names(self.plan.machines).take(own).collect();
        let log = |machine: &String| self.folder.log(&format!("agent-{machine}"));
        let printed: Vec<u64> = machines.iter().map(|machine| Folder::log_bytes(&log(machine))).collect();
        tokio::select! {
            () = stop(&mut self.agents, None, signals) => {}
            () = tell_later(&self.progress, told_after) => {}
        }
        for (machine, from) in machines.iter().zip(printed) {
            // What the agents themselves had to kill stands in logs that most often end with the cell.
            let killed = parts::tasks_killed(&Folder::printed_since(&log(machine), from, LOG_BYTES_MAX));
            let left = left_by_agent(self.folder.agent(machine), killed).await;
            left_words(machine, left).iter().for_each(|line| self.progress.say(line));
        }
        stop(&mut self.schedulers, Some(GRACE), signals).await;
        stop(&mut self.server, Some(GRACE), signals).await;
    }
}

/// Says after a while what is waited for. Never comes back.
async fn tell_later(progress: &Progress, after: Duration) {
    sleep(after).await;
    progress.say("tasks are still ending: each is given its kill_timeout (Ctrl-C or SIGTERM kills them)");
    std::future::pending().await
}

/// Ends what runs of an agent's tasks though that one has ended, and gives how many did not end by themselves: `killed` by the agent, and those.
async fn left_by_agent(directory: PathBuf, killed: usize) -> std::io::Result<Left> {
    let ending = spawn_blocking(move || plenum_agent::end_tasks_left(&directory, LEFT_MAX));
    let left = ending.await.unwrap_or_else(|error| Err(std::io::Error::other(error)))?;
    Ok(Left { killed: left.killed + killed.saturating_sub(left.hanging), ..left })
}

/// What people are told of tasks that an agent left.
fn left_words(machine: &str, left: std::io::Result<Left>) -> Vec<String> {
    let tasks = |count: usize| counted(count as u64, "task");
    match left {
        Ok(left) => {
            let them = agreeing(left.killed as u64, "it", "them");
            let killed =
                format!("{machine}: {} did not end in time: killed, with what watched over {them}", tasks(left.killed));
            let goes_on = agreeing(left.hanging as u64, "goes on: it hangs", "go on: they hang");
            let hanging = format!("{machine}: {} can't be killed and {goes_on} in the kernel", tasks(left.hanging));
            let them = agreeing(left.unread as u64, "it", "them");
            let unread =
                format!("{machine}: {} may go on: what was written down of {them} can't be read", tasks(left.unread));
            [(left.killed, killed), (left.hanging, hanging), (left.unread, unread)]
                .into_iter()
                .filter(|(count, _)| *count > 0)
                .map(|(_, line)| line)
                .collect()
        }
        Err(error) => vec![format!("{machine}: tasks may go on: it can't be found out which there are: {error}")],
    }
}

/// Asks parts to end, insists, and kills them. Without a `grace`, it insists when another signal comes.
async fn stop(parts: &mut [Keeper], grace: Option<Duration>, signals: &mut Signals) {
    parts.iter().for_each(Keeper::stop);
    if end_within(grace, parts, signals).await {
        return;
    }
    parts.iter().for_each(Keeper::hurry);
    if !end_within(Some(GRACE), parts, signals).await {
        parts.iter().for_each(Keeper::kill);
        all_ended(parts).await;
    }
}

/// True when all parts end within this time, where there is one, and before another signal.
async fn end_within(grace: Option<Duration>, parts: &mut [Keeper], signals: &mut Signals) -> bool {
    tokio::select! {
        () = all_ended(parts) => true,
        () = sleep(grace.unwrap_or_default()), if grace.is_some() => false,
        () = signals.next() => false,
    }
}

async fn all_ended(parts: &mut [Keeper]) {
    for part in parts {
        part.ended().await;
    }
}

/// What every part is started with: errors for programs, so that they can be passed on, and an end when this process is
/// gone without having said so.
fn arguments<const N: usize>(arguments: [OsString; N]) -> Vec<OsString> {
    let mut all = arguments.to_vec();
    all.extend(["--output".into(), "json".into(), "--with-parent".into(), std::process::id().to_string().into()]);
    all
}

/// What parts log where somebody has said so: what is read here of their logs is among it, unless these very crates are named.
fn log_filter(given: Option<OsString>) -> Option<(&'static str, OsString)> {
    // An empty variable is how shells unset one for a single command.
    let given = given.filter(|given| !given.is_empty())?;
    let words = given.to_string_lossy();
    // What names a crate goes before what is said of all, which may be more.
    let at_least = |part: &str, least: LevelFilter| {
        let said = words.split(',').map(|word| word.trim().rsplit_once('=').unwrap_or_else(|| ("", word.trim())));
        let levels = said.filter(|(target, _)| part.starts_with(target));
        let levels = levels.filter_map(|(target, level)| Some((target.len(), level.parse::<LevelFilter>().ok()?)));
        let level = levels.max_by_key(|(length, _)| *length).map_or(least, |(_, level)| level.max(least));
        format!("{part}={level},")
    };
    let parts = [("plenum_agent", LevelFilter::WARN), ("plenum_server", LevelFilter::ERROR)];
    let mut filter = OsString::from(parts.map(|(part, least)| at_least(part, least)).concat());
    filter.push(&given);
    Some((LOG_FILTER, filter))
}

/// This port, or any for 0, if nobody listens there.
fn free_port(port: u16) -> Option<u16> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    socket.and_then(|socket| socket.local_addr()).map(|address| address.port()).ok()
}

/// A port that this cell has, whether its server listens or is being started again. Only development cells look at it.
///
/// It is an abstract socket's name: it holds wherever the port does, leaves no file, and ends with the process.
#[derive(Debug)]
struct Reserved {
    _held: UnixListener,
}

impl Reserved {
    fn take(port: u16) -> Option<Self> {
        let address = SocketAddr::from_abstract_name(format!("plenum-dev-port-{port}")).ok()?;
        UnixListener::bind_addr(&address).ok().map(|held| Self { _held: held })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Of two tasks it was said that it hangs in the kernel.
    #[test]
    fn tasks_that_an_agent_left_are_told_in_number() {
        let told = |killed, hanging| left_words("m1", Ok(Left { killed, hanging, unread: 0 }));
        assert_eq!(told(0, 1), ["m1: 1 task can't be killed and goes on: it hangs in the kernel"]);
        let many = [
            "m1: 2 tasks did not end in time: killed, with what watched over them",
            "m1: 3 tasks can't be killed and go on: they hang in the kernel",
        ];
        assert_eq!(told(2, 3), many);
        let unread = |unread| left_words("m1", Ok(Left { unread, ..Left::default() }));
        assert_eq!(unread(1), ["m1: 1 task may go on: what was written down of it can't be read"]);
        assert_eq!(unread(2), ["m1: 2 tasks may go on: what was written down of them can't be read"]);
    }

    // Whoever had RUST_LOG set for a program of their own was not told what tasks run without, nor that tasks were killed.
    #[test]
    fn parts_log_what_is_read_of_their_logs_whatever_else_they_shall_log() {
        let filter = |given: &str| log_filter(Some(given.into()));
        let told = |filter: &str| Some((LOG_FILTER, OsString::from(filter)));
        assert_eq!(filter("error"), told("plenum_agent=warn,plenum_server=error,error"));
        assert_eq!(filter("debug"), told("plenum_agent=debug,plenum_server=debug,debug"), "and not less than that");
        let of_one = "error,plenum_agent=debug";
        assert_eq!(filter(of_one), told("plenum_agent=debug,plenum_server=error,error,plenum_agent=debug"));
        assert_eq!(filter("mine=trace"), told("plenum_agent=warn,plenum_server=error,mine=trace"));
        assert_eq!((log_filter(None), filter("")), (None, None), "as parts do by themselves");
    }

    #[test]
    fn a_port_is_reserved_by_one_cell_at_a_time() {
        // None that a cell could have, and another one for each process that runs this.
        let port = u16::try_from(std::process::id() % 1000).expect("below a thousand");
        let first = Reserved::take(port);
        assert!(first.is_some() && Reserved::take(port).is_none());
        drop(first);
        assert!(Reserved::take(port).is_some());
    }
}
