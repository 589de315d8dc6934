//! The life of one start: record, shim, and watching it until nothing is left.

mod prepare;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    pin::pin,
    process::{Child, ExitStatus},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Signal, pidfd_send_signal};
use tokio::{
    io::{AsyncReadExt, Interest, unix::AsyncFd},
    net::unix::pipe,
    sync::{Notify, Semaphore, mpsc, watch},
    time::{Instant, sleep_until},
};

use self::prepare::{begun, never_made, prepare, void};
use super::{
    Asked, ExecOptions,
    facts::StartFacts,
    marks::Marks,
    recording::Recording,
    recover,
    turn::{Permission, Turn},
    unread,
};
use plenum_model::AllocationId;

use crate::{
    driver::{DriverEvent, Exit, Failure, FailureKind, TaskSpec},
    process::kill_below,
    shim::is_readable,
    threads::on_a_thread,
};

/// A shim kills its task after the kill timeout. One that hasn't managed after this long on top is killed itself.
pub(super) const SHIM_OVERDUE_AFTER: Duration = Duration::from_secs(10);
/// How soon what did not end in time is killed again: a shim that waits for a disk dies when that answers, and what it started may have forked since.
const KILLED_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Each time later, up to this: that reads of all processes of the machine, and a disk may not answer for days.
const KILLED_AGAIN_AFTER_MAX: Duration = Duration::from_secs(60);
/// How often the file of an adopted task is looked for, as long as its command isn't known to run.
const RUNNING_LOOKED_FOR_EVERY: Duration = Duration::from_millis(50);
/// How soon it is tried again to find out where a task stands.
const LOOKED_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// Each time later, up to this: what hangs in the kernel may do so for days.
const LOOKED_AGAIN_AFTER_MAX: Duration = Duration::from_secs(2);

/// Where a start begins its life in this agent.
pub(super) enum Start {
    New {
        task: Box<TaskSpec>,
        /// An earlier agent wrote it down: a shim of that one may still be on its way to it.
        is_known: bool,
    },
    Adopted(Box<Adopted>),
    /// Its shim is gone, and something of it is left.
    Leaving(Box<StartFacts>),
    /// Recorded, never started, and not wanted any more.
    Void {
        allocation: AllocationId,
        restart: u32,
    },
}

/// What the starts of one driver share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) options: Arc<ExecOptions>,
    /// Taken while a start is prepared.
    pub(super) slots: Arc<Semaphore>,
    pub(super) recording: Arc<Recording>,
    pub(super) forgotten: Arc<Marks>,
    /// See [`ExecDriver::setups_failed`](super::ExecDriver::setups_failed).
    pub(super) setups_failed: Arc<Notify>,
    /// See [`ExecDriver::start_through`](super::ExecDriver::start_through).
    pub(super) gate: Option<watch::Receiver<bool>>,
    /// See [`ExecDriver::start_until`](super::ExecDriver::start_until).
    pub(super) permission: Permission,
}

/// A start that another process of ours made.
pub(super) struct Adopted {
    pub(super) facts: StartFacts,
    pub(super) shim: OwnedFd,
}

/// A shim that is being watched.
struct Watched {
    facts: StartFacts,
    shim: OwnedFd,
    /// Only for a shim of our own.
    child: Option<(Child, pipe::Receiver)>,
}

enum Prepared {
    Watched(Box<Watched>),
    Ended(Exit),
}

/// Tells `events` what becomes of `start`, up to `Gone`.
pub(super) async fn live(
    start: Start,
    shared: Shared,
    events: mpsc::Sender<DriverEvent>,
    mut stop: watch::Receiver<Asked>,
) {
    let (options, setups_failed) = (Arc::clone(&shared.options), Arc::clone(&shared.setups_failed));
    let (allocation, restart) = match &start {
        Start::New { task, .. } => (task.allocation, task.restart),
        Start::Adopted(adopted) => (adopted.facts.allocation, adopted.facts.restart),
        Start::Leaving(facts) => (facts.allocation, facts.restart),
        Start::Void { allocation, restart } => (*allocation, *restart),
    };
    let is_known = matches!(&start, Start::New { is_known: true, .. });
    // That what leaves ran is told with where it was found.
    let mut started_told = matches!(&start, Start::Leaving(_));
    let mut prepared = match start {
        Start::Adopted(adopted) => {
            Prepared::Watched(Box::new(Watched { facts: adopted.facts, shim: adopted.shim, child: None }))
        }
        Start::Leaving(facts) => {
            let (options, facts, since) = (Arc::clone(&options), Arc::from(facts), std::time::Instant::now());
            patiently(None, allocation, move || outlast(&options, &facts, since).map(Prepared::Ended)).await
        }
        Start::Void { .. } => {
            let options = Arc::clone(&options);
            patiently(None, allocation, move || void(&options, allocation, restart)).await
        }
        Start::New { task, .. } => {
            let prepared = make(*task, is_known, shared, stop.clone()).await;
            if matches!(prepared, Prepared::Watched(_)) {
                let _ = events.send(DriverEvent::Recorded { allocation, restart }).await;
            }
            prepared
        }
    };
    let exit = loop {
        match prepared {
            Prepared::Ended(exit) => break exit,
            Prepared::Watched(watched) => {
                let (status, facts) = watch_shim(*watched, &options, &events, &mut stop, &mut started_told).await;
                let (options, facts) = (Arc::clone(&options), Arc::new(facts));
                prepared = patiently(None, allocation, move || after_shim(&options, &facts, status, is_known)).await;
            }
        }
    };
    // The receiver is dropped only with the agent.
    if exit.started_unix_ms.is_some() && !started_told {
        let _ = events.send(DriverEvent::Started { allocation, restart }).await;
    }
    if exit.failure.as_ref().is_some_and(|failure| failure.kind == FailureKind::Setup) {
        setups_failed.notify_one();
    }
    drop(stop);
    let _ = events.send(DriverEvent::Exited { allocation, restart, exit }).await;
    let _ = events.send(DriverEvent::Gone { allocation, restart }).await;
}

/// Sees to it that nothing is left of a start whose shim is gone, or of which it can't be read whether it is. It has been known since then.
///
/// # Errors
/// When that can't be found out, or something is left still.
fn outlast(options: &ExecOptions, facts: &StartFacts, since: std::time::Instant) -> io::Result<Exit> {
    match &facts.unread {
        Some(failure) => unread::outlast(options, facts, failure, since),
        None => recover::outlast(&options.directory.allocation(facts.allocation), facts),
    }
}

/// Makes a new start when it is its turn, unless it is told to end before.
async fn make(task: TaskSpec, is_known: bool, shared: Shared, stop: watch::Receiver<Asked>) -> Prepared {
    opened(shared.gate.clone()).await;
    let allocation = task.allocation;
    let (slots, permission) = (Arc::clone(&shared.slots), shared.permission.clone());
    let turn = Turn { slots, permission, stop: stop.clone() };
    let (shared, task) = (Arc::new(shared), Arc::new(task));
    let work = move || {
        // Told to stop while it waited for its turn.
        let is_void = *stop.borrow() > Asked::Run;
        if is_void { void(&shared.options, task.allocation, task.restart) } else { prepare(&shared, &task, is_known) }
    };
    patiently(Some(turn), allocation, work).await
}

/// Comes back when the next agent would know of which cell a start is.
async fn opened(gate: Option<watch::Receiver<bool>>) {
    let Some(mut gate) = gate else { return };
    let is_open = gate.wait_for(|is_open| *is_open).await.is_ok();
    if !is_open {
        // The agent ends.
        std::future::pending::<()>().await;
    }
}

/// What `work` finds, as soon as it can be found out where the task stands. It has a thread, and a slot where it has to take its `turn`, while it looks
/// and works, and neither while it waits: what can't be looked at for long, or hangs in the kernel, must not keep others from being started.
async fn patiently(
    mut turn: Option<Turn>,
    allocation: AllocationId,
    work: impl Fn() -> io::Result<Prepared> + Clone + Send + 'static,
) -> Prepared {
    let (mut told, mut pause) = (false, LOOKED_AGAIN_AFTER);
    loop {
        let slot = match &mut turn {
            Some(turn) => turn.taken().await,
            None => None,
        };
        match on_a_thread(work.clone()).await {
            Ok(prepared) => return prepared,
            Err(error) => tell(allocation, &error, &mut told),
        }
        drop(slot);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOKED_AGAIN_AFTER_MAX);
    }
}

/// Says once why it can't be found out where a task stands. That a start may not be made yet is no such reason: it waits.
fn tell(allocation: AllocationId, error: &io::Error, told: &mut bool) {
    if error.kind() == io::ErrorKind::WouldBlock {
        tracing::debug!(%allocation, %error, "a start waits to be made");
    } else if !std::mem::replace(told, true) {
        tracing::warn!(%allocation, %error, "can't find out where a task stands: tries again");
    }
}

/// Waits for the shim's end, and hands on what it says and what is asked of it meanwhile.
async fn watch_shim(
    watched: Watched,
    options: &ExecOptions,
    events: &mpsc::Sender<DriverEvent>,
    stop: &mut watch::Receiver<Asked>,
    started_told: &mut bool,
) -> (Option<ExitStatus>, StartFacts) {
    let Watched { facts, shim, child } = watched;
    let (mut child, mut notice) = child.map_or((None, None), |(child, notice)| (Some(child), Some(notice)));
    let directory = options.directory.allocation(facts.allocation);
    let (allocation, restart) = (facts.allocation, facts.restart);
    let shim = watchable(shim, allocation).await;
    // Kept over whatever else happens: a disk that does not answer has one thread of each start.
    let mut marked = pin!(marked(directory.running(restart)));
    let mut overdue_at = None;
    let (mut told, mut is_dropped, mut killed_again_after) = (Asked::Run, false, None::<Duration>);
    loop {
        let asked = *stop.borrow();
        if asked > told {
            told = asked;
            let signal = if asked == Asked::Kill { Signal::QUIT } else { Signal::TERM };
            // It may be gone already.
            let _ = pidfd_send_signal(shim.get_ref(), signal);
            overdue_at = overdue_since(asked, Instant::now(), facts.kill_timeout_ms);
        }
        let looking = !*started_told && notice.is_none();
        tokio::select! {
            ended = shim.readable() => {
                drop(ended);
                break;
            }
            running = wait_for_notice(&mut notice), if notice.is_some() && !*started_told => {
                notice = None;
                if running {
                    *started_told = true;
                    let _ = events.send(DriverEvent::Started { allocation, restart }).await;
                }
            }
            () = &mut marked, if looking => {
                *started_told = true;
                let _ = events.send(DriverEvent::Started { allocation, restart }).await;
            }
            // When the driver was dropped, the task goes on, and so does watching it as long as the runtime lives.
            changed = stop.changed(), if !is_dropped => is_dropped = changed.is_err(),
            () = reached(overdue_at) => {
                // Who stood still hears of the time first.
                if is_readable(shim.get_ref().as_fd()) {
                    break;
                }
                if killed_again_after.is_none() {
                    tracing::warn!(%allocation, "a shim didn't end its task in time: killing both, until the shim is gone");
                }
                kill_with_shim(&facts, shim.get_ref()).await;
                let pause = killed_again_after.map_or(KILLED_AGAIN_AFTER, |pause| (pause * 2).min(KILLED_AGAIN_AFTER_MAX));
                (overdue_at, killed_again_after) = (Some(Instant::now() + pause), Some(pause));
            }
        }
    }
    let status = child.as_mut().and_then(|child| child.wait().ok());
    (status, facts)
}

/// Kills a task, and then its shim: without a group nobody would know otherwise what the task started, and of a shim that waits for a disk the kernel only
/// takes note that it is killed.
async fn kill_with_shim(facts: &StartFacts, shim: &OwnedFd) {
    if let Some(cgroup) = &facts.cgroup {
        cgroup.kill();
    } else if let Ok(shim) = shim.try_clone() {
        // That reads of all processes of the machine.
        on_a_thread(move || kill_below(shim.as_fd())).await;
    }
    // It may be gone already.
    let _ = pidfd_send_signal(shim, Signal::KILL);
}

/// When a shim has had its time that was asked at `asked_at` to end its task. One that nobody asked has all the time there is.
fn overdue_since(asked: Asked, asked_at: Instant, kill_timeout_ms: u64) -> Option<Instant> {
    let patience_ms = match asked {
        Asked::Run => return None,
        Asked::Stop => kill_timeout_ms,
        Asked::Kill => 0,
    };
    Some(asked_at + Duration::from_millis(patience_ms) + SHIM_OVERDUE_AFTER)
}

/// Comes back then; where there is no such time, never.
async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The shim, to be waited for: as soon as the kernel has the memory that this takes. Until then nobody would hear of its end, and it of no stop.
async fn watchable(mut shim: OwnedFd, allocation: AllocationId) -> AsyncFd<OwnedFd> {
    let mut told = false;
    loop {
        // SAFETY: an `OwnedFd` stays open, and names the same process, as long as it lives inside the `AsyncFd`.
        #[allow(unsafe_code)]
        let registered = unsafe { AsyncFd::register_with_interest(shim, Interest::READABLE) };
        let error;
        (shim, error) = match registered {
            Ok(shim) => return shim,
            Err(error) => error.into_parts(),
        };
        if !std::mem::replace(&mut told, true) {
            tracing::error!(%allocation, %error, "can't watch a shim: tries again");
        }
        tokio::time::sleep(LOOKED_AGAIN_AFTER).await;
    }
}

/// Comes back when that file is there. It is looked for on another thread: on this one the agent keeps its lease.
async fn marked(running: PathBuf) {
    loop {
        tokio::time::sleep(RUNNING_LOOKED_FOR_EVERY).await;
        let running = running.clone();
        if on_a_thread(move || running.exists()).await {
            return;
        }
    }
}

async fn wait_for_notice(notice: &mut Option<pipe::Receiver>) -> bool {
    match notice {
        Some(pipe) => matches!(pipe.read_u8().await, Ok(b'r')),
        None => std::future::pending().await,
    }
}

/// Finds out how a start ended whose shim is gone, and sees to it that nothing is left.
///
/// # Errors
/// When that can't be found out, or something is left still.
fn after_shim(
    options: &ExecOptions,
    facts: &StartFacts,
    status: Option<ExitStatus>,
    is_known: bool,
) -> io::Result<Prepared> {
    if let Some(begun) = begun(options, facts, status)? {
        return Ok(begun);
    }
    recover::remove_cgroup(facts)?;
    let how = status.map_or_else(|| "status unknown".to_owned(), |status| status.to_string());
    let allocation = facts.allocation;
    tracing::warn!(%allocation, how, "a task could not be set up on this machine: its shim ended before it");
    let failure = Failure::new(FailureKind::Setup, format!("its shim ended before it started the task ({how})"));
    never_made(options, facts, failure, is_known)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{
        fs,
        io::{BufRead, BufReader, Read},
        process::{Command, Stdio},
    };

    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use tracing::Level;

    use super::*;
    use crate::exec::{self, levels::Levels};

    // Who was asked nothing had a year, as if that were never: then its agent killed it, and the cell heard of a lost task.
    #[tokio::test]
    async fn who_was_not_asked_to_end_is_never_overdue() {
        let now = Instant::now();
        assert_eq!(overdue_since(Asked::Run, now, 1000), None);
        let second = Duration::from_secs(1);
        assert_eq!(overdue_since(Asked::Stop, now, 1000), Some(now + second + SHIM_OVERDUE_AFTER));
        assert_eq!(overdue_since(Asked::Kill, now, 1000), Some(now + SHIM_OVERDUE_AFTER));
        reached(Some(now)).await;
        let never = tokio::time::timeout(Duration::from_millis(20), reached(None)).await;
        assert!(never.is_err());
    }

    // Only the shim was killed, which waited for a disk: its task ran on until that answered.
    #[tokio::test]
    async fn what_is_overdue_is_killed_with_all_that_it_started() {
        let mut shim = Command::new("sh");
        shim.args(["-c", "sleep 60 & echo started; wait"]).stdout(Stdio::piped());
        let mut shim = shim.spawn().unwrap();
        let mut printed = BufReader::new(shim.stdout.take().unwrap());
        printed.read_line(&mut String::new()).unwrap();
        let handle = pidfd_open(Pid::from_child(&shim), PidfdFlags::empty()).unwrap();
        let allocation = AllocationId { slot: 1, generation: 1 };
        let facts = StartFacts::from(&exec::shim_spec(allocation, PathBuf::from("/job")));
        let since = std::time::Instant::now();
        kill_with_shim(&facts, &handle).await;
        shim.wait().unwrap();
        // That is open for as long as one of them lives.
        printed.read_to_end(&mut Vec::new()).unwrap();
        assert!(since.elapsed() < Duration::from_secs(30));
    }

    // The agent asked its disk on the thread on which it keeps its lease. Where that did not answer, its tasks ran elsewhere, too.
    #[test]
    fn that_an_adopted_task_runs_is_looked_for_on_another_thread() {
        let place = tempfile::tempdir().unwrap();
        let running = place.path().join("running-0");
        fs::write(&running, "").unwrap();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let (answer, disk) = std::sync::mpsc::channel::<()>();
            // The only thread that may wait for the disk does so until the sender is gone.
            drop(tokio::task::spawn_blocking(move || disk.recv()));
            let mut marked = pin!(marked(running));
            let waited = tokio::time::timeout(4 * RUNNING_LOOKED_FOR_EVERY, &mut marked).await;
            assert!(waited.is_err(), "the disk was asked on the only thread of the agent");
            drop(answer);
            marked.await;
        });
    }

    // A lease that ended while a start was looked at was told as a disk's failure, and the failure that came after it not at all.
    #[test]
    fn that_a_start_waits_to_be_made_is_no_failure_of_a_disk_and_hides_none() {
        let (levels, allocation) = (Levels::default(), AllocationId { slot: 1, generation: 1 });
        let waits = Permission::until(watch::channel(None).1).check().unwrap_err();
        let fails = io::Error::other("an input/output error");
        tracing::subscriber::with_default(levels.clone(), || {
            let mut told = false;
            [&waits, &fails, &waits, &fails].into_iter().for_each(|error| tell(allocation, error, &mut told));
        });
        assert_eq!(levels.kept(), [Level::DEBUG, Level::WARN, Level::DEBUG]);
    }
}
