//! The `exec` driver: a task is a process of this machine, under a shim, in a cgroup and namespaces.
//!
//! It keeps nothing in memory that its directory doesn't have, so that any agent can go on where another one died.

mod clean;
mod facts;
mod left;
#[cfg(test)]
mod levels;
mod marks;
mod places;
mod printed;
mod recording;
mod recover;
mod start;
mod turn;
mod unread;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, Semaphore, mpsc, watch};

use plenum_model::AllocationId;

use crate::{
    cgroup::AgentCgroup,
    directories::{self, AgentDirectory},
    driver::{Driver, DriverEvent, Recovered, TaskSpec},
    isolation::{Isolation, Probed},
    open_files,
    process::ProcessIdentity,
    removal::remove_tree,
    threads::{self, Alarm, on_a_thread},
};

pub use self::left::Left;
pub(crate) use self::{
    left::end_left,
    printed::Relief,
    recover::holds_any,
    unread::{Note, is_unreadable},
};

/// Starts that are prepared at once, each on a thread: the rest waits. More would only wait for the disk together.
const STARTS_AT_ONCE_MAX: usize = 4;
/// What is removed at once, each on a thread: a task may leave a million files, and all that waits for the disk shares its threads.
const REMOVALS_AT_ONCE_MAX: usize = 2;
/// Ends that are marked at once. On a disk that answers one takes no time, and on one that does not, more would only
/// hold more threads.
const MARKS_AT_ONCE_MAX: usize = 1;
/// After an end, the directory is cleaned if it wasn't for this long; sooner after many, but for directories of jobs.
const CLEANED_EVERY: Duration = Duration::from_secs(3600);

/// How a shim is started: a program that calls [`crate::shim::main`] with the arguments that follow `arguments`.
#[derive(Clone, Debug)]
pub struct ShimProgram {
    /// The program.
    pub program: PathBuf,
    /// What comes before the shim's own arguments.
    pub arguments: Vec<OsString>,
}

impl ShimProgram {
    /// This very program with the hidden subcommand `shim`, also after its file was replaced by an upgrade.
    #[must_use]
    pub fn own_binary() -> Self {
        Self { program: "/proc/self/exe".into(), arguments: vec!["shim".into()] }
    }

    /// Runs a shim to find out which [`Isolation`] works here. None works where the shim can't be run, which may pass.
    #[must_use]
    pub fn probe(&self) -> Probed {
        let output = std::process::Command::new(&self.program).args(&self.arguments).arg("--probe").output();
        let hindered =
            |why: String| Probed { isolation: Isolation::default(), hindrance: Some(format!("running a shim: {why}")) };
        match output {
            Err(error) => hindered(error.to_string()),
            Ok(output) => {
                serde_json::from_slice(&output.stdout).unwrap_or_else(|_| hindered(output.status.to_string()))
            }
        }
    }
}

/// What an [`ExecDriver`] is made of.
#[derive(Clone, Debug)]
pub struct ExecOptions {
    /// Where everything is kept. Must be absolute, and held by one agent only.
    pub directory: AgentDirectory,
    /// How shims are started.
    pub shim: ShimProgram,
    /// The parent of the tasks' cgroups; `None`: tasks have no limits.
    pub cgroup: Option<AgentCgroup>,
    /// Namespaces of the tasks.
    pub isolation: Isolation,
    /// Output kept of each task and stream: two files of at most this size.
    pub log_file_bytes_max: u64,
    /// Ended allocations whose directories are kept for readers of logs. Those that printed nothing, those that printed something and ended well or were
    /// asked to end, and those that did and failed have a third each, as long as they need it; within each the oldest go.
    pub ended_kept_max: usize,
    /// Output kept of these, in bytes, each task's as a whole: shared in the same way. It may be an eighth more for a moment.
    pub ended_bytes_max: u64,
}

/// Runs processes. To be used inside a tokio runtime.
#[derive(Debug)]
pub struct ExecDriver {
    options: Arc<ExecOptions>,
    events: mpsc::Sender<DriverEvent>,
    /// One entry per start that is not gone, or not known to be.
    starts: BTreeMap<AllocationId, Handle>,
    /// Recorded by an earlier agent, and never started.
    unstarted: BTreeMap<AllocationId, u32>,
    slots: Arc<Semaphore>,
    removals: Arc<Semaphore>,
    marks: Arc<Semaphore>,
    forgotten: Arc<marks::Marks>,
    setups_failed: Arc<Notify>,
    /// True while starts may be made.
    gate: Option<watch::Receiver<bool>>,
    permission: turn::Permission,
    /// For a panic of what watches a start, or is done in the background.
    alarm: Alarm,
    recording: Arc<recording::Recording>,
    cleaning: Arc<clean::Cleaning>,
    /// Directories of jobs, too.
    cleaned_at: Instant,
}

/// What is asked of a start. Only ever rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Run,
    /// End within the kill timeout.
    Stop,
    /// End now.
    Kill,
}

/// True if that is more than was asked before.
fn raise(asked: &mut Asked, to: Asked) -> bool {
    let is_more = to > *asked;
    *asked = to.max(*asked);
    is_more
}

#[derive(Debug)]
struct Handle {
    stop: watch::Sender<Asked>,
}

impl ExecDriver {
    /// A driver that tells its events to `events`. It waits where that is full.
    ///
    /// # Errors
    /// When its directories can't be made.
    pub fn new(options: ExecOptions, events: mpsc::Sender<DriverEvent>) -> io::Result<Self> {
        open_files::raise();
        directories::make(&options.directory.allocations())?;
        directories::make(&options.directory.jobs())?;
        options.directory.close_to_others();
        Ok(Self {
            options: Arc::new(options),
            events,
            starts: BTreeMap::new(),
            unstarted: BTreeMap::new(),
            slots: Arc::new(Semaphore::new(STARTS_AT_ONCE_MAX)),
            removals: Arc::new(Semaphore::new(REMOVALS_AT_ONCE_MAX)),
            marks: Arc::new(Semaphore::new(MARKS_AT_ONCE_MAX)),
            forgotten: Arc::default(),
            setups_failed: Arc::default(),
            gate: None,
            permission: turn::Permission::default(),
            alarm: mpsc::channel(1).0,
            recording: Arc::default(),
            cleaning: Arc::default(),
            cleaned_at: Instant::now(),
        })
    }

    /// How many starts are on their way, running or ending.
    pub fn active(&mut self) -> usize {
        self.starts.retain(|_, handle| !handle.stop.is_closed());
        self.starts.len()
    }

    /// Separates the tasks that are started from now on in this way.
    pub fn separate_by(&mut self, isolation: Isolation) {
        Arc::make_mut(&mut self.options).isolation = isolation;
    }

    /// Makes no start while `gate` says false, or once nobody can say true any more. Before the first call all are made
    /// at once.
    pub(crate) fn start_through(&mut self, gate: watch::Receiver<bool>) {
        self.gate = Some(gate);
    }

    /// Makes no start when that time has come, by [`since_boot`](crate::clock::since_boot), nor while `until` has none. What was asked for and is not
    /// made by then waits. Before the first call there is no such time.
    pub(crate) fn start_until(&mut self, until: watch::Receiver<Option<Duration>>) {
        self.permission = turn::Permission::until(until);
    }

    /// Tells `alarm` when it does not watch a start any more, or does not clean, for a panic. Before the first call nobody hears of that.
    pub(crate) fn alarm(&mut self, alarm: Alarm) {
        self.alarm = alarm;
    }

    /// What gives room back that ended tasks take.
    pub(crate) fn relief(&self) -> Relief {
        let agent = self.options.directory.clone();
        Relief { agent, recording: Arc::clone(&self.recording), forgotten: Arc::clone(&self.forgotten) }
    }

    /// Who waits there hears that a task could not be set up.
    pub(crate) fn setups_failed(&self) -> Arc<Notify> {
        Arc::clone(&self.setups_failed)
    }

    /// Comes back when all that was forgotten is marked, so that the next agent doesn't find it.
    pub(crate) async fn marked(&self) {
        self.forgotten.made().await;
    }

    /// Where something is kept, of allocations or of their jobs: none, if nothing is. Waits for the disk.
    pub(crate) fn kept(&self) -> Vec<PathBuf> {
        clean::kept(&self.options.directory)
    }

    /// Frees what is kept no longer, on another thread.
    fn clean(&mut self, jobs: bool) {
        if jobs {
            self.cleaned_at = Instant::now();
        }
        self.cleaner().clean(jobs);
    }

    fn cleaner(&self) -> Cleaner {
        Cleaner {
            options: Arc::clone(&self.options),
            recording: Arc::clone(&self.recording),
            forgotten: Arc::clone(&self.forgotten),
            cleaning: Arc::clone(&self.cleaning),
            removals: Arc::clone(&self.removals),
            alarm: self.alarm.clone(),
        }
    }

    fn watch_start(&mut self, allocation: AllocationId, start: start::Start) {
        // What shall never run is stopped from the beginning, should it run after all.
        let asked = if matches!(start, start::Start::Void { .. }) { Asked::Stop } else { Asked::Run };
        let (stop, stopped) = watch::channel(asked);
        let shared = start::Shared {
            options: Arc::clone(&self.options),
            slots: Arc::clone(&self.slots),
            recording: Arc::clone(&self.recording),
            forgotten: Arc::clone(&self.forgotten),
            setups_failed: Arc::clone(&self.setups_failed),
            gate: self.gate.clone(),
            permission: self.permission.clone(),
        };
        let life = start::live(start, shared, self.events.clone(), stopped);
        drop(threads::spawn("what watches a task", &self.alarm, life));
        self.starts.insert(allocation, Handle { stop });
    }

    /// Ends every task at once, whatever its kill timeout. Their events come as after a stop.
    pub fn kill_all(&mut self) {
        for handle in self.starts.values() {
            handle.stop.send_if_modified(|asked| raise(asked, Asked::Kill));
        }
    }
}

impl Driver for ExecDriver {
    fn recover(&mut self) -> io::Result<Vec<Recovered>> {
        let mut all = Vec::new();
        for (recovered, there) in recover::recover(&self.options, &self.alarm)? {
            if let Some(start) = there {
                self.watch_start(recovered.allocation, start);
            } else if recovered.found == crate::driver::Found::NotStarted {
                self.unstarted.insert(recovered.allocation, recovered.restart);
            }
            all.push(recovered);
        }
        // An agent that is started seldom and ends little would free nothing otherwise.
        self.clean(true);
        Ok(all)
    }

    fn start(&mut self, task: TaskSpec) {
        let is_known = self.unstarted.remove(&task.allocation).is_some();
        self.watch_start(task.allocation, start::Start::New { task: Box::new(task), is_known });
    }

    fn stop(&mut self, allocation: AllocationId) {
        if let Some(handle) = self.starts.get(&allocation) {
            // Nobody listens any more: it is gone already.
            handle.stop.send_if_modified(|asked| raise(asked, Asked::Stop));
        } else if let Some(restart) = self.unstarted.remove(&allocation) {
            self.watch_start(allocation, start::Start::Void { allocation, restart });
        }
    }

    fn forget(&mut self, allocation: AllocationId) {
        self.starts.remove(&allocation);
        if self.cleaned_at.elapsed() >= CLEANED_EVERY {
            self.clean(true);
        }
        // Aside: who waited here for a disk that does not answer would lose its lease, and its tasks would run
        // elsewhere, too.
        if self.forgotten.forget(allocation) {
            let cleaner = self.cleaner();
            in_background(&self.marks, &self.alarm, move || {
                let directory = cleaner.options.directory.allocation(allocation);
                // Until it is marked nothing of it is started anew: what removes its files later must not meet those of such a start.
                let files = clean::set_files_aside(&cleaner.options.directory, allocation);
                cleaner.forgotten.mark(&directory, allocation);
                // Its output is kept for readers, its files are not: the cell may give their room away.
                if let Some(files) = files {
                    in_background(&cleaner.removals, &cleaner.alarm, move || drop(remove_tree(&files)));
                }
                // Counted when it is marked, as what is not stays: the end of many at once may be the last for long.
                let (tasks, bytes) = cleaner.cleaning.ended(printed::bytes(&directory));
                if tasks > cleaner.options.ended_kept_max / 8 || bytes > cleaner.options.ended_bytes_max / 8 {
                    cleaner.clean(false);
                }
            });
        }
    }
}

/// What cleaning takes, whoever asks for it.
struct Cleaner {
    options: Arc<ExecOptions>,
    recording: Arc<recording::Recording>,
    forgotten: Arc<marks::Marks>,
    cleaning: Arc<clean::Cleaning>,
    removals: Arc<Semaphore>,
    alarm: Alarm,
}

impl Cleaner {
    /// Frees what is kept no longer, on another thread.
    fn clean(self, jobs: bool) {
        if !self.cleaning.ask(jobs) {
            return;
        }
        let Self { options, recording, forgotten, cleaning, removals, alarm } = self;
        in_background(&removals, &alarm, move || {
            let jobs = cleaning.begin();
            forgotten.try_again(&options.directory);
            clean::clean(&options, &recording, jobs);
        });
    }
}

/// Does it on another thread, when it is its turn: starts and receipts don't wait for it. What an agent does not come to, the next one removes.
fn in_background(turns: &Arc<Semaphore>, alarm: &Alarm, work: impl FnOnce() + Send + 'static) {
    let turns = Arc::clone(turns);
    let when_it_is_its_turn = async move {
        let _turn = turns.acquire().await;
        on_a_thread(work).await;
    };
    drop(threads::spawn("what marks and removes what ended", alarm, when_it_is_its_turn));
}

/// The record of a start that shall never be made: no shim that is still on its way can take it any more.
fn void_record() -> ProcessIdentity {
    ProcessIdentity { pid: 0, start_ticks: 0, boot_id: String::new() }
}

/// Of an agent in this directory that keeps nothing of what ended, and has neither control groups nor a shim that could be started; for tests.
#[cfg(test)]
fn options_at(directory: PathBuf) -> ExecOptions {
    ExecOptions {
        directory: AgentDirectory::new(directory),
        shim: ShimProgram { program: "/no/such/shim".into(), arguments: Vec::new() },
        cgroup: None,
        isolation: Isolation::default(),
        log_file_bytes_max: 1024,
        ended_kept_max: 0,
        ended_bytes_max: 1 << 20,
    }
}

/// Of an agent that hears of no panic; for tests.
#[cfg(test)]
fn no_alarm() -> Alarm {
    mpsc::channel(1).0
}

/// A start of a command that ends at once, as tests record it.
#[cfg(test)]
pub(crate) fn shim_spec(allocation: AllocationId, job_directory: PathBuf) -> crate::shim::ShimSpec {
    let task = TaskSpec {
        allocation,
        restart: 0,
        job: plenum_model::JobId { slot: 3, generation: 1 },
        job_version: 1,
        command: vec!["true".to_owned()],
        env: std::collections::BTreeMap::new(),
        cpu_millis: 0,
        memory_bytes: 0,
        pids_max: 0,
        kill_timeout_ms: 0,
        traces: None,
        policy: None,
        recent_restarts_at: Vec::new(),
    };
    crate::shim::ShimSpec {
        task,
        boot_id: String::new(),
        job_directory,
        cgroup: None,
        isolation: Isolation::default(),
        log_file_bytes_max: 1024,
        open_files: None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{fs, path::Path, sync::mpsc::channel};

    use super::*;

    /// All turns of removals there are.
    async fn removals_of(driver: &ExecDriver) -> tokio::sync::OwnedSemaphorePermit {
        let all = u32::try_from(REMOVALS_AT_ONCE_MAX).unwrap();
        Arc::clone(&driver.removals).acquire_many_owned(all).await.unwrap()
    }

    fn driver_at(place: &Path) -> ExecDriver {
        let options = ExecOptions {
            directory: AgentDirectory::new(place.to_owned()),
            shim: ShimProgram { program: "shim".into(), arguments: Vec::new() },
            cgroup: None,
            isolation: Isolation::default(),
            log_file_bytes_max: 1024,
            ended_kept_max: 64,
            ended_bytes_max: 1024,
        };
        let (sender, _events) = mpsc::channel(1);
        ExecDriver::new(options, sender).unwrap()
    }

    // Behind the files of many others those of an allocation waited for their removal. Meanwhile it was started anew, and lost its new ones.
    #[tokio::test]
    async fn who_is_started_anew_keeps_its_files_when_those_of_its_end_before_are_removed() {
        let place = tempfile::tempdir().unwrap();
        let mut driver = driver_at(place.path());
        let allocation = AllocationId { slot: 1, generation: 1 };
        let directory = driver.options.directory.allocation(allocation);
        fs::create_dir_all(directory.task().join("old")).unwrap();
        let others = removals_of(&driver).await;
        driver.forget(allocation);
        driver.marked().await;
        fs::remove_file(directory.ended()).unwrap();
        fs::create_dir_all(directory.task().join("new")).unwrap();
        drop(others);
        // They are removed from beside the new ones.
        while !directory.task().join("old").exists()
            && fs::read_dir(driver.options.directory.allocations()).unwrap().count() > 1
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(removals_of(&driver).await);
        let kept: Vec<_> = fs::read_dir(directory.task()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(kept, ["new"], "and the old ones are gone");
    }

    // Few tasks that had printed much ended, and then none for long: nothing was cleaned meanwhile.
    #[tokio::test]
    async fn what_ended_tasks_printed_is_looked_at_as_soon_as_much_of_it_came() {
        let place = tempfile::tempdir().unwrap();
        let mut driver = driver_at(place.path());
        let allocation = AllocationId { slot: 1, generation: 1 };
        let root = driver.options.directory.allocation(allocation).root().to_owned();
        fs::create_dir_all(&root).unwrap();
        fs::write(root.join("stdout-0.log"), [b'x'; 1025]).unwrap();
        driver.forget(allocation);
        let given_up = async {
            while root.join("stdout-0.log").exists() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), given_up).await.unwrap();
        assert!(root.join("stdout-1025.log").exists());
    }

    // What was there to clean was looked for before the ends were marked, and then nothing ended for hours.
    #[tokio::test]
    async fn of_many_that_end_at_once_no_more_are_kept_than_are_to_be() {
        let place = tempfile::tempdir().unwrap();
        let mut driver = driver_at(place.path());
        let allocations = (1..=300).map(|slot| AllocationId { slot, generation: 1 });
        for allocation in allocations.clone() {
            fs::create_dir_all(driver.options.directory.allocation(allocation).root()).unwrap();
        }
        allocations.for_each(|allocation| driver.forget(allocation));
        let kept = || fs::read_dir(driver.options.directory.allocations()).unwrap().count();
        let quiet = async {
            while kept() > 64 + 64 / 8 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), quiet).await.unwrap();
    }

    // A thousand tasks that had left many files ended together. Their removal had all threads there are, and for minutes nothing was
    // started on that machine, and no end told.
    #[tokio::test]
    async fn what_is_removed_leaves_threads_for_starts_and_receipts() {
        let turns = Arc::new(Semaphore::new(REMOVALS_AT_ONCE_MAX));
        let (hold, held) = channel::<()>();
        let held = Arc::new(std::sync::Mutex::new(held));
        for _ in 0..1000 {
            let held = Arc::clone(&held);
            // Until the sender is gone.
            in_background(&turns, &no_alarm(), move || drop(held.lock().map(|held| held.recv())));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let start = tokio::task::spawn_blocking(|| 7);
        let made = tokio::time::timeout(Duration::from_secs(5), start).await;
        drop(hold);
        assert!(matches!(made, Ok(Ok(7))), "{made:?}");
    }

    // It was a panic of whoever waited, and the turn went to the next one, whose work was not done either.
    #[test]
    fn what_finds_no_thread_keeps_its_turn() {
        threads::runtime_without_threads().block_on(async {
            let turns = Arc::new(Semaphore::new(REMOVALS_AT_ONCE_MAX));
            in_background(&turns, &no_alarm(), || ());
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(turns.available_permits(), REMOVALS_AT_ONCE_MAX - 1);
        });
    }

    // Nothing was cleaned from then on, until the disk was full.
    #[tokio::test]
    async fn of_a_panic_of_what_is_done_in_the_background_the_agent_hears() {
        let (alarm, mut panics) = mpsc::channel(1);
        in_background(&Arc::new(Semaphore::new(1)), &alarm, || panic!("no such disk"));
        assert_eq!(panics.recv().await.unwrap().what, "no such disk");
    }
}
