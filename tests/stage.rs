//! The folder, the processes and the questions of one test.
//!
//! Everything that a test starts carries the test's folder in its environment, and tasks carry it in theirs where the job file
//! says `$STAGE`. So whatever a test left running is found, told, and ended, however the test itself ended.

use std::{
    ffi::OsStr,
    fs,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

/// Bound of every wait. On a quiet machine none takes a tenth of it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_PERIOD: Duration = Duration::from_millis(20);
/// What is shown of each log when a test fails.
const LOG_SHOWN_BYTES: usize = 3000;

/// Waits until there is something; `what` is told when there never is.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited for {} s in vain: {what}", PATIENCE.as_secs());
        std::thread::sleep(LOOK_PERIOD);
    }
}

/// True when this user may make cgroups, mounts and other users' processes.
pub(crate) fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

/// One test's folder, and whatever runs in its name.
pub(crate) struct Stage {
    path: PathBuf,
    folder: Option<TempDir>,
    pub(crate) binary: PathBuf,
    /// Words before the binary, such as those that become another user.
    pub(crate) prefix: Vec<String>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::at(tempfile::Builder::new().prefix("plenum-story-").tempdir().unwrap())
    }

    /// One whose files are in memory, where the system has a place for such: a sync then takes no time. What a process leaves behind that is killed
    /// is the same there.
    pub(crate) fn in_memory() -> Self {
        let folder = tempfile::Builder::new().prefix("plenum-story-").tempdir_in("/dev/shm");
        folder.map_or_else(|_| Self::new(), Self::at)
    }

    fn at(folder: TempDir) -> Self {
        let path = folder.path().canonicalize().unwrap();
        for part in ["home", "tmp"] {
            fs::create_dir(path.join(part)).unwrap();
        }
        Self { path, folder: Some(folder), binary: env!("CARGO_BIN_EXE_plenum").into(), prefix: Vec::new() }
    }

    /// A path in the test's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The same, as a word for a command line.
    pub(crate) fn word(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes a file, in which `$STAGE` is the test's folder, and gives its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text.replace("$STAGE", &self.path.display().to_string())).unwrap();
        path.display().to_string()
    }

    /// The text of a file of the test's folder; empty where there is none.
    pub(crate) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The built binary, in an environment that has nothing of this process's but its programs.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut words = self.prefix.iter().map(OsStr::new).chain([self.binary.as_os_str()]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).args(arguments).current_dir(&self.path).env_clear();
        for (name, value) in [("HOME", "home"), ("TMPDIR", "tmp"), ("STAGE", "")] {
            command.env(name, self.path(value));
        }
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("NO_COLOR", "1");
        command.stdin(Stdio::null()).process_group(0);
        command
    }

    /// Starts the binary; what it prints goes to `NAME.out` and `NAME.err`.
    pub(crate) fn start(&self, name: &str, arguments: &[&str]) -> Process {
        self.start_by(name, arguments, |command| (command.spawn().unwrap(), ())).0
    }

    /// The same, in a way of the test's own, with whatever goes with it.
    pub(crate) fn start_by<W>(
        &self,
        name: &str,
        arguments: &[&str],
        spawn: impl FnOnce(&mut Command) -> (Child, W),
    ) -> (Process, W) {
        let file = |kind: &str| fs::File::create(self.path(&format!("{name}.{kind}"))).unwrap();
        let (child, with) = spawn(self.command(arguments).stdout(file("out")).stderr(file("err")));
        (Process { name: name.to_owned(), child }, with)
    }

    /// Runs the binary to its end.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        let name = format!("run-{}", arguments.first().copied().unwrap_or("plenum").trim_start_matches('-'));
        let mut process = self.start(&name, arguments);
        let status = process.ended();
        Done {
            status,
            out: self.text(&format!("{name}.out")),
            err: self.text(&format!("{name}.err")),
            words: arguments.join(" "),
        }
    }

    /// Runs the binary to its end while nobody reads what it prints, and gives its exit code; what it says is in `unread.err`.
    #[track_caller]
    pub(crate) fn unread(&self, arguments: &[&str]) -> Option<i32> {
        let (mut process, ()) = self.start_by("unread", arguments, |command| {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            (command.stdout(Stdio::from(writer)).spawn().unwrap(), ())
        });
        process.ended().code()
    }

    /// Asks a cell, and gives the JSON that it answers with.
    #[track_caller]
    pub(crate) fn ask(&self, address: &str, arguments: &[&str]) -> Value {
        self.try_ask(address, arguments).unwrap_or_else(|done| panic!("{done}"))
    }

    /// The same, where the cell may be away.
    pub(crate) fn try_ask(&self, address: &str, arguments: &[&str]) -> Result<Value, Done> {
        let done = self.run(&[&["--addr", address, "-o", "json"], arguments].concat());
        if done.code() == Some(0) { Ok(done.json()) } else { Err(done) }
    }

    /// The allocation of a job that runs, once one does.
    #[track_caller]
    pub(crate) fn running(&self, address: &str, job: &str) -> String {
        eventually("it runs", || {
            let job = self.try_ask(address, &["job", "show", job]).ok()?;
            let id = job["allocations"].as_array()?.iter().find(|found| found["state"] == "running")?["id"].as_str()?;
            Some(id.to_owned())
        })
    }

    /// A server in `DIR`, which can be reached. Without a port it takes a free one.
    #[track_caller]
    pub(crate) fn server(&self, dir: &str, port: Option<u16>, more: &[&str]) -> Served {
        let address_file = self.path(dir).join("address");
        let _ = fs::remove_file(&address_file);
        let (dir, listen) = (self.word(dir), format!("127.0.0.1:{}", port.unwrap_or(0)));
        let mut process = self.start("server", &[&["server", "--dir", &dir, "--listen", &listen], more].concat());
        let address = eventually("the server can be reached", || {
            let has_ended = process.child.try_wait().unwrap();
            assert!(has_ended.is_none(), "the server ended: {}", self.text("server.err"));
            read_address(&address_file)
        });
        Served { process, address }
    }

    /// `plenum dev` in the folder `cell`, once its server can be reached.
    #[track_caller]
    pub(crate) fn dev(&self, arguments: &[&str]) -> Served {
        let (dir, address_file) = (self.word("cell"), self.path("cell/address"));
        // What a killed one left.
        let _ = fs::remove_file(&address_file);
        let mut process = self.start("dev", &[&["dev", "--dir", &dir], arguments].concat());
        let address = eventually("the cell can be reached", || {
            let has_ended = process.child.try_wait().unwrap();
            assert!(has_ended.is_none(), "dev ended: {}", self.text("dev.err"));
            read_address(&address_file)
        });
        Served { process, address }
    }

    /// A built-in scheduler of this cell.
    pub(crate) fn scheduler(&self, address: &str, name: &str) -> Process {
        self.start(&format!("scheduler-{name}"), &["--addr", address, "scheduler", name])
    }

    /// The agent of the machine `m1`, in this folder, which leaves its tasks to its successor.
    pub(crate) fn agent(&self, address: &str, dir: &str) -> Process {
        self.start("agent", &["--addr", address, "agent", "--dir", &self.word(dir), "--name", "m1"])
    }

    /// Submits a job.
    #[track_caller]
    pub(crate) fn submit(&self, address: &str, name: &str, text: &str) {
        let file = self.file(name, text);
        self.ask(address, &["job", "run", &file]);
    }

    /// Processes of this test whose command line has this word; all with an empty one.
    pub(crate) fn processes(&self, word: &str) -> Vec<Found> {
        self.processes_with(word, "")
    }

    /// The same, of those that have these words in their environment, too.
    pub(crate) fn processes_with(&self, word: &str, variable: &str) -> Vec<Found> {
        let mark = self.path.display().to_string();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let read = |what: &str| {
                String::from_utf8_lossy(&fs::read(entry.path().join(what)).unwrap_or_default()).into_owned()
            };
            let (words, environment) = (read("cmdline").replace('\0', " "), read("environ"));
            let is_ours =
                id != std::process::id().cast_signed() && (words.contains(&mark) || environment.contains(&mark));
            // A process that ended and waits to be reaped has neither, and holds nothing.
            if is_ours && words.contains(word) && environment.contains(variable) {
                found.push(Found { id, words });
            }
        }
        // A shell that forked, and has not become what it starts yet, has the same words: it is gone in a moment, and so is who has no parent any more.
        let all = found.clone();
        let stands_alone = |one: &Found| {
            one.parent().is_some_and(|parent| !all.iter().any(|other| other.id == parent && other.words == one.words))
        };
        found.retain(stands_alone);
        found
    }

    /// The one process of this test with this word.
    #[track_caller]
    pub(crate) fn process(&self, word: &str) -> Found {
        eventually(&format!("one process with `{word}`"), || {
            let mut found = self.processes(word);
            if found.len() == 1 { found.pop() } else { None }
        })
    }

    /// Cgroups and mounts that have to do with this test.
    pub(crate) fn kernel_traces(&self) -> Vec<String> {
        let mark = self.path.display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut traces: Vec<String> = mounts.lines().filter(|line| line.contains(&mark)).map(str::to_owned).collect();
        traces.extend(self.cgroups().into_iter().map(|path| path.display().to_string()));
        traces
    }

    /// Cgroups of agents whose directory is in this test's folder: each is named by a number made of that.
    fn cgroups(&self) -> Vec<PathBuf> {
        // Agents that tests start by themselves have folders of any name.
        let inside = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut agents: Vec<PathBuf> = inside(&self.path).chain(inside(&self.path("agents"))).collect();
        // A temporary cell is in a folder named by its process.
        let cells = fs::read_dir(self.path("tmp")).into_iter().flatten().flatten().map(|entry| entry.path());
        for cell in cells.chain([self.path("cell")]) {
            agents.extend((1..=4).map(|number| cell.join(format!("agents/machine-{number}"))));
        }
        let numbers: Vec<String> = agents.iter().map(|path| format!("-{:08x}", fnv(path))).collect();
        let mut found = Vec::new();
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            for parent in [hierarchy.path().join("plenum"), PathBuf::from("/sys/fs/cgroup/plenum")] {
                for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    if numbers.iter().any(|number| name.ends_with(number)) && !found.contains(&entry.path()) {
                        found.push(entry.path());
                    }
                }
            }
        }
        found
    }

    /// What the test's processes printed, for a test that fails.
    fn tell(&self) {
        let logs = ["", "cell/logs"].map(|folder| fs::read_dir(self.path(folder)).into_iter().flatten().flatten());
        for entry in logs.into_iter().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|kind| kind == "err" || kind == "out" || kind == "log") {
                let text = fs::read(&path).unwrap_or_default();
                let shown = String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_SHOWN_BYTES)..]);
                eprintln!("---- {}\n{shown}", path.display());
            }
        }
    }

    /// Takes off what this thread still has mounted in the folder, which could not be removed with it.
    fn take_off_mounts(&self) {
        for mount in fs::read_to_string("/proc/thread-self/mounts").unwrap_or_default().lines() {
            let place = Path::new(mount.split(' ').nth(1).unwrap_or_default());
            if place.starts_with(&self.path) {
                let _ = umount2(place, MntFlags::MNT_DETACH);
            }
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
        }
        // Each may start another one before it is found itself.
        for _ in 0..200 {
            let found = self.processes("");
            if found.is_empty() {
                break;
            }
            for process in found {
                let _ = kill(Pid::from_raw(process.id), Signal::SIGKILL);
            }
            std::thread::sleep(LOOK_PERIOD);
        }
        for agent in self.cgroups() {
            for task in fs::read_dir(&agent).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(task.path().join("command"));
                let _ = fs::remove_dir(task.path());
            }
            let _ = fs::remove_dir(agent);
        }
        self.take_off_mounts();
        drop(self.folder.take());
    }
}

/// How an agent makes a number of its directory, which ends the names of its cgroups.
fn fnv(path: &Path) -> u32 {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

pub(crate) fn read_address(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let address = text.trim().trim_start_matches("http://");
    (!address.is_empty()).then(|| format!("http://{address}"))
}

/// A process that was found running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) id: i32,
    pub(crate) words: String,
}

impl Found {
    /// `kill -9`
    pub(crate) fn kill(&self) {
        kill(Pid::from_raw(self.id), Signal::SIGKILL).unwrap();
    }

    /// The process that it is a child of; none when it has ended.
    pub(crate) fn parent(&self) -> Option<i32> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id)).ok()?;
        status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
    }

    /// True while this very process runs.
    pub(crate) fn is_there(&self) -> bool {
        let words = fs::read(format!("/proc/{}/cmdline", self.id)).unwrap_or_default();
        String::from_utf8_lossy(&words).replace('\0', " ") == self.words
    }
}

/// A process that the test started. It is killed when the test ends, with its group.
pub(crate) struct Process {
    name: String,
    child: Child,
}

impl Process {
    pub(crate) fn id(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id()), signal).unwrap();
    }

    /// How it ended, if it has.
    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let name = self.name.clone();
        eventually(&format!("the end of {name}"), || self.child.try_wait().unwrap())
    }

    /// `kill -9`, and it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.id()), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// A server, or a whole cell, that can be reached.
pub(crate) struct Served {
    pub(crate) process: Process,
    pub(crate) address: String,
}

impl Served {
    pub(crate) fn port(&self) -> u16 {
        self.address.rsplit(':').next().unwrap().parse().unwrap()
    }

    /// Asks it to end, as Ctrl-C does, and waits.
    #[track_caller]
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.process.signal(Signal::SIGINT);
        self.process.ended()
    }
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub(crate) struct Done {
    status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
    words: String,
}

impl Done {
    /// The exit code; none after a signal.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// It ended like this, and said all of these words on standard error.
    #[track_caller]
    pub(crate) fn says(&self, code: i32, words: &[&str]) -> &Self {
        assert_eq!(self.code(), Some(code), "{self}");
        for word in words {
            assert!(self.err.contains(word), "expected {word:?} in: {self}");
        }
        self
    }

    /// The one JSON value on standard output.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("no JSON ({error}): {self}"))
    }

    /// The one error for programs: the only value on standard output.
    #[track_caller]
    pub(crate) fn error(&self) -> Value {
        self.json()["error"].clone()
    }
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, signal) => format!("signal {signal:?}"),
        };
        write!(f, "`plenum {}` ended with {end}\n-- out:\n{}\n-- err:\n{}", self.words, self.out, self.err)
    }
}
