//! The life of one start: record, shim, and watching it until nothing is left.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    pin::pin,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use nix::sys::signal::SigmaskHow;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{
    io::{AsyncReadExt, Interest, unix::AsyncFd},
    net::unix::pipe,
    sync::{Semaphore, mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    Asked, ExecOptions,
    clean::{Recording, record, remove_if_there, remove_starts},
    facts::StartFacts,
    marks::Marks,
    recover,
    turn::{Permission, Turn},
    unread, void_record,
};
use plenum_model::AllocationId;

use crate::{
    directories::AllocationDirectory,
    driver::{DriverEvent, Exit, Failure, FailureKind, TaskSpec},
    durable, open_files,
    process::{ProcessIdentity, boot_id},
    shim::{ShimSpec, is_readable, unix_ms, watched_signals},
};

/// A shim kills its task after the kill timeout. One that hasn't managed after this long on top is killed itself.
pub(super) const SHIM_OVERDUE_AFTER: Duration = Duration::from_secs(10);
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
    let options = Arc::clone(&shared.options);
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
        match blocking(work.clone()).await {
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

/// Runs what waits for the disk on another thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // Cancelled: the runtime is on its way down, and so is this task. A panic is ours to see.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await,
        },
    }
}

/// Writes the record of what is to be started, and starts a shim for it, unless an earlier agent did.
///
/// # Errors
/// When that can't be found out, something is left still of what had begun, or it may not be made now.
fn prepare(shared: &Shared, task: &TaskSpec, is_known: bool) -> io::Result<Prepared> {
    let Shared { options, recording, forgotten, permission, .. } = shared;
    let directory = options.directory.allocation(task.allocation);
    let spec = ShimSpec {
        boot_id: boot_id().to_owned(),
        job_directory: options.directory.job(task.job, task.job_version),
        cgroup: options.cgroup.as_ref().map(|cgroup| cgroup.task(&task.allocation.to_string())),
        isolation: options.isolation,
        log_file_bytes_max: options.log_file_bytes_max,
        open_files: open_files::for_tasks(),
        task: task.clone(),
    };
    let facts = StartFacts::from(&spec);
    directory.let_owner_in();
    if forgotten.is_under_way(task.allocation) {
        // Before it is marked, that end looks like one of this life; and a mark that came after this start would hide it from the next agent.
        let what = "an earlier end of it is still being marked";
        return Err(io::Error::new(io::ErrorKind::WouldBlock, what));
    }
    // What ended in an earlier life of the cell did so with its last start, whatever the number of the one that this life asks for.
    let last = if directory.ended().try_exists()? { directory.last_ended()? } else { None };
    match (recover::look(&directory, last.unwrap_or(facts.restart))?, last) {
        // There it was not made, which was told, and in this life not tried; or this life has heard of that end, and asks for the start after it.
        (recover::Trace::Exit(exit), Some(_)) if facts.restart > 0 || was_never_made(&exit) => {}
        (recover::Trace::Exit(exit), _) => return Ok(Prepared::Ended(exit)),
        (recover::Trace::Alive(shim), _) => {
            return Ok(Prepared::Watched(Box::new(Watched { facts, shim, child: None })));
        }
        (recover::Trace::Vanished, _) => return recover::lost_track(&directory, &facts, None).map(Prepared::Ended),
        (recover::Trace::None, _) => {}
    }
    // To look may have taken long.
    permission.check()?;
    if let Some(last) = last {
        remove_starts(&directory, last)?;
    }
    // It may have ended here before, in an earlier life of the cell: what begins now has not. With that mark, its own end would be taken for one of then.
    forgotten.begins_anew(task.allocation);
    let recorded = remove_if_there(&directory.ended()).and_then(|()| record(&directory, &spec, recording));
    if recorded.is_ok() {
        // So may that. What is written down and was never made, the next agent may make, and a stop makes void.
        permission.check()?;
    }
    let spawned = recorded.and_then(|()| spawn_shim(options, &directory));
    match spawned {
        Ok((shim, child)) => Ok(Prepared::Watched(Box::new(Watched { facts, shim, child: Some(child) }))),
        Err(error) => not_watched(options, &facts, &error, is_known),
    }
}

/// Whether it is the end of a start that could not be set up, or was stopped before it was made.
fn was_never_made(exit: &Exit) -> bool {
    let is_setup = exit.failure.as_ref().is_some_and(|failure| failure.kind == FailureKind::Setup);
    let is_void = exit.stop_requested && exit.failure.is_none() && exit.code.or(exit.signal).is_none();
    (is_setup || is_void) && exit.started_unix_ms.is_none()
}

/// What becomes of a start for which no shim could be started, or none that could be watched: that one was killed, and may have begun before.
///
/// # Errors
/// When that can't be found out, or something is left still.
fn not_watched(options: &ExecOptions, facts: &StartFacts, error: &io::Error, is_known: bool) -> io::Result<Prepared> {
    if let Some(begun) = begun(options, facts, None)? {
        return Ok(begun);
    }
    // What the machine lacks, its operator has to mend: tasks go on failing here.
    let (allocation, directory) = (facts.allocation, options.directory.root().display());
    tracing::warn!(%allocation, %error, %directory, "a task could not be set up on this machine");
    let failure = Failure::new(FailureKind::Setup, format!("starting a shim: {error}"));
    never_made(options, facts, failure, is_known)
}

/// The end of a start that could not be made. Where a shim of an earlier agent may still be on its way to it, that one is kept from it before
/// anybody hears that it failed; or watched, if it was faster.
fn never_made(options: &ExecOptions, facts: &StartFacts, failure: Failure, is_known: bool) -> io::Result<Prepared> {
    if is_known && let watched @ Prepared::Watched(_) = void(options, facts.allocation, facts.restart)? {
        return Ok(watched);
    }
    let (exit, directory) = (Exit::failed(failure, unix_ms()), options.directory.allocation(facts.allocation));
    if directory.spec().exists() {
        // The next agent would take it for one that is still to be made, also where the cell has given its room to others by then.
        recover::write_end(&directory, facts.restart, &exit);
    }
    Ok(Prepared::Ended(exit))
}

/// Starts a shim that no signal of ours ends before it can heed one: it inherits what is blocked here. One that was stopped on its way would be gone
/// without a word, as if its task could not be set up on this machine.
fn spawn_deaf(command: &mut Command) -> io::Result<Child> {
    let before = watched_signals().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let spawned = command.spawn();
    before.thread_set_mask()?;
    spawned
}

type OwnShim = (OwnedFd, (Child, pipe::Receiver));

fn spawn_shim(options: &ExecOptions, directory: &AllocationDirectory) -> io::Result<OwnShim> {
    let mut command = Command::new(&options.shim.program);
    command
        .args(&options.shim.arguments)
        .arg(directory.root())
        .current_dir("/")
        // The agent's may hold secrets, and a task can look into its shim's.
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // A shim that held our standard error would keep its reader waiting after our own end.
        .stderr(Stdio::null());
    let mut child = spawn_deaf(&mut command)?;
    let mut watched = || {
        let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the kernel gave a pid out of range"))?;
        // Not reaped yet, so the number is still its own.
        let shim = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no pipe from the shim"))?;
        Ok((shim, pipe::Receiver::from_owned_fd(stdout.into())?))
    };
    match watched() {
        Ok((shim, notice)) => Ok((shim, (child, notice))),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
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
    let (mut told, mut is_dropped) = (Asked::Run, false);
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
                tracing::warn!(%allocation, "a shim didn't end its task in time: killing both");
                overdue_at = None;
                if let Some(cgroup) = &facts.cgroup {
                    cgroup.kill();
                }
                let _ = pidfd_send_signal(shim.get_ref(), Signal::KILL);
            }
        }
    }
    let status = child.as_mut().and_then(|child| child.wait().ok());
    (status, facts)
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
        if blocking(move || running.exists()).await {
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

/// What became of a start that a shim took; `None`: none did. `status`: how ours ended, where that is known.
///
/// # Errors
/// When that can't be found out, or something is left still.
fn begun(options: &ExecOptions, facts: &StartFacts, status: Option<ExitStatus>) -> io::Result<Option<Prepared>> {
    let directory = options.directory.allocation(facts.allocation);
    Ok(match recover::look(&directory, facts.restart)? {
        recover::Trace::Exit(exit) => {
            recover::remove_cgroup(facts)?;
            Some(Prepared::Ended(exit))
        }
        // An earlier agent's shim was faster than ours.
        recover::Trace::Alive(shim) => {
            Some(Prepared::Watched(Box::new(Watched { facts: facts.clone(), shim, child: None })))
        }
        recover::Trace::Vanished => Some(Prepared::Ended(recover::lost_track(&directory, facts, status)?)),
        recover::Trace::None => None,
    })
}

/// Sees to it that a start is never made, whether or not it was written down. Where it was made after all, that one is watched.
///
/// # Errors
/// When it can't be found out whether it was made, or a shim could take it still.
fn void(options: &ExecOptions, allocation: AllocationId, restart: u32) -> io::Result<Prepared> {
    let directory = options.directory.allocation(allocation);
    let exit = Exit { stop_requested: true, ended_unix_ms: unix_ms(), ..Exit::default() };
    let recorded = durable::write_once::<ProcessIdentity>(&directory.record(restart), &void_record());
    if matches!(recorded, Ok(true)) {
        let _ = durable::write_atomically(&directory.exit(restart), &exit);
        return Ok(Prepared::Ended(exit));
    }
    match durable::read::<ShimSpec>(&directory.spec()) {
        // A shim that the earlier agent sent off took it after all.
        Ok(Some(spec)) if spec.task.restart == restart => match (recover::look(&directory, restart)?, recorded) {
            // Such as on a full disk. Told to have ended, it might be started by that shim all the same.
            (recover::Trace::None, Err(error)) => Err(error),
            _ => after_shim(options, &StartFacts::from(&spec), None, false),
        },
        // Nobody wrote it down; of what is damaged nobody will ever know more.
        Ok(_) => Ok(Prepared::Ended(exit)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Prepared::Ended(exit)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{fs, path::Path};

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

    /// An agent's directory with room for a start of this boot, and what that is.
    fn recorded_in(place: &Path) -> (ExecOptions, ShimSpec, AllocationDirectory) {
        let options = exec::options_at(place.to_owned());
        let spec = exec::shim_spec(AllocationId { slot: 1, generation: 1 }, place.join("job"));
        let spec = ShimSpec { boot_id: boot_id().to_owned(), ..spec };
        let directory = options.directory.allocation(spec.task.allocation);
        fs::create_dir_all(directory.root()).unwrap();
        (options, spec, directory)
    }

    fn shared_by(options: ExecOptions, forgotten: Arc<Marks>) -> Shared {
        Shared {
            options: Arc::new(options),
            slots: Arc::new(Semaphore::new(1)),
            recording: Arc::default(),
            forgotten,
            gate: None,
            permission: Permission::default(),
        }
    }

    // Its agent had no descriptor left to watch a shim by, and killed it. The task had run, and was told as one that could not be set up: it was
    // made again somewhere, and the machine was held to be broken.
    #[test]
    fn a_task_whose_shim_could_not_be_watched_is_lost_if_that_had_begun() {
        let place = tempfile::tempdir().unwrap();
        let (options, spec, directory) = recorded_in(place.path());
        let told = || {
            let prepared =
                not_watched(&options, &StartFacts::from(&spec), &io::Error::other("no descriptor left"), false);
            let Prepared::Ended(exit) = prepared.unwrap() else { panic!("its shim lives") };
            exit.failure.unwrap()
        };
        let failure = told();
        assert_eq!(
            (failure.kind, failure.message.as_str()),
            (FailureKind::Setup, "starting a shim: no descriptor left")
        );
        // Of that number there never is a process.
        let gone = ProcessIdentity { pid: i32::MAX, start_ticks: 1, boot_id: boot_id().to_owned() };
        assert!(durable::write_once(&directory.record(0), &gone).unwrap());
        assert_eq!(told().kind, FailureKind::LostTrack);
        assert!(directory.exit(0).exists(), "the next agent comes to the same end");
    }

    // It was told as failed, and nothing of that was written down: an agent that was started then, before the cell had decided on it, made it, and the cell
    // had given its room to others.
    #[test]
    fn a_start_that_could_not_be_set_up_is_not_made_by_the_next_agent() {
        let place = tempfile::tempdir().unwrap();
        let (options, spec, directory) = recorded_in(place.path());
        durable::write_atomically(&directory.spec(), &spec).unwrap();
        for is_known in [false, true] {
            let no_memory = io::Error::other("no memory");
            assert!(not_watched(&options, &StartFacts::from(&spec), &no_memory, is_known).is_ok());
            let found = recover::look(&directory, 0).unwrap();
            let recover::Trace::Exit(exit) = found else { panic!("it is to be made") };
            assert!(!exit.stop_requested && exit.failure.is_some_and(|failure| failure.kind == FailureKind::Setup));
            fs::remove_file(directory.exit(0)).unwrap();
        }
    }

    // In a cell that was restored from a backup of before, it was told to have failed once more, and its machine taken for one that sets nothing up.
    #[test]
    fn a_start_that_could_not_be_set_up_in_an_earlier_life_of_the_cell_is_tried_in_this_one() {
        let place = tempfile::tempdir().unwrap();
        let (options, spec, directory) = recorded_in(place.path());
        let (shared, task) = (shared_by(options, Arc::default()), spec.task);
        let told = || {
            let Prepared::Ended(exit) = prepare(&shared, &task, false).unwrap() else { panic!("its shim is none") };
            exit.failure.unwrap().message
        };
        let earlier = Exit::failed(Failure::new(FailureKind::Setup, "no memory then"), 1);
        durable::write_atomically(&directory.exit(0), &earlier).unwrap();
        assert_eq!(told(), "no memory then", "the cell may not have heard of it");
        fs::write(directory.ended(), "").unwrap();
        assert!(told().starts_with("starting a shim"), "it was tried");
    }

    /// A task whose starts ended so in an earlier life of the cell, which heard of it. The last of them had been taken by somebody.
    fn ended_before(place: &Path, ends: &[(u32, Exit)]) -> (Shared, TaskSpec, AllocationDirectory) {
        let (options, spec, directory) = recorded_in(place);
        for (restart, exit) in ends {
            durable::write_for_this_boot(&directory.exit(*restart), exit).unwrap();
        }
        let (last, _) = ends.last().unwrap();
        assert!(durable::write_once::<ProcessIdentity>(&directory.record(*last), &void_record()).unwrap());
        fs::write(directory.ended(), "").unwrap();
        (shared_by(options, Arc::default()), spec.task, directory)
    }

    // A restored cell asked for the first start. What had completed with a later one ran once more, as the first one could not be set up, or its end was
    // kept no longer.
    #[test]
    fn what_completed_in_an_earlier_life_of_the_cell_is_not_made_again() {
        let not_set_up = Exit::failed(Failure::new(FailureKind::Setup, "no memory then"), 1);
        let complete = Exit { code: Some(0), started_unix_ms: Some(1), ..Exit::default() };
        for ends in [vec![(0, not_set_up), (1, complete.clone())], vec![(300, complete.clone())]] {
            let place = tempfile::tempdir().unwrap();
            let (shared, task, directory) = ended_before(place.path(), &ends);
            let Prepared::Ended(exit) = prepare(&shared, &task, false).unwrap() else { panic!("its shim is none") };
            assert_eq!((exit, directory.spec().exists()), (complete.clone(), false));
        }
    }

    // Only the first of them was tried, and the ends of the others told once more; what had been stopped before it was made had failed in this life.
    #[test]
    fn no_start_that_was_not_made_in_an_earlier_life_of_the_cell_is_kept_from_this_one() {
        let not_set_up = Exit::failed(Failure::new(FailureKind::Setup, "no memory then"), 1);
        let void = Exit { stop_requested: true, ended_unix_ms: 1, ..Exit::default() };
        let failed = Exit { code: Some(1), started_unix_ms: Some(1), ..Exit::default() };
        // Of the last two nothing had been written down before they were void: they had taken away no end, and the first one was found for the new start.
        let many = (0..=258).map(|restart| (restart, if restart > 256 { void.clone() } else { failed.clone() }));
        let of_each = |end: Exit| vec![(0, end.clone()), (1, end)];
        for ends in [of_each(not_set_up), of_each(void.clone()), many.collect()] {
            let place = tempfile::tempdir().unwrap();
            let (shared, mut task, _) = ended_before(place.path(), &ends);
            for restart in [0, 1] {
                task.restart = restart;
                let Prepared::Ended(exit) = prepare(&shared, &task, false).unwrap() else { panic!("its shim is none") };
                let told = exit.failure.map(|failure| failure.message).unwrap_or_default();
                assert!(told.starts_with("starting a shim"), "start {restart} was not tried: {told}");
            }
        }
    }

    // It was told once for each start up to that one, at the policy's delays; and of one that was void, and whose end could not be written, nobody knew more.
    #[test]
    fn an_end_in_an_earlier_life_of_the_cell_is_told_once() {
        let failed = Exit { code: Some(1), started_unix_ms: Some(1), ..Exit::default() };
        for last in [0, 600] {
            let place = tempfile::tempdir().unwrap();
            let (shared, mut task, directory) = ended_before(place.path(), &[(last, failed.clone())]);
            durable::write_for_this_boot(&directory.record(last + 1), &void_record()).unwrap();
            let mut told = || {
                let Prepared::Ended(exit) = prepare(&shared, &task, false).unwrap() else { panic!("its shim is none") };
                task.restart += 1;
                exit
            };
            assert_eq!(told(), failed);
            assert_eq!(told().failure.map(|failure| failure.kind), Some(FailureKind::Setup));
        }
    }

    // An end of it had been forgotten and could not be marked. Marked later, it would be hidden from the next agent.
    #[test]
    fn a_start_is_not_marked_for_an_end_before_it() {
        let place = tempfile::tempdir().unwrap();
        let options = exec::options_at(place.path().to_owned());
        let task = exec::shim_spec(AllocationId { slot: 1, generation: 1 }, place.path().join("job")).task;
        let (agent, directory) = (options.directory.clone(), options.directory.allocation(task.allocation));
        let forgotten = Arc::new(Marks::default());
        // It can't be made where a folder is.
        fs::create_dir_all(directory.ended()).unwrap();
        assert!(forgotten.forget(task.allocation));
        let shared = shared_by(options, Arc::clone(&forgotten));
        durable::write_atomically(&directory.exit(0), &Exit::default()).unwrap();
        assert!(prepare(&shared, &task, false).is_err(), "that end may be of an earlier life of the cell");
        fs::remove_file(directory.exit(0)).unwrap();
        forgotten.mark(&directory, task.allocation);
        fs::remove_dir(directory.ended()).unwrap();
        assert!(matches!(prepare(&shared, &task, false).unwrap(), Prepared::Ended(_)), "its shim is none");
        assert!(directory.spec().exists());
        forgotten.try_again(&agent);
        assert!(!directory.ended().exists());
    }

    // On a full disk a start that an earlier agent's shim could still take was told as ended.
    #[test]
    fn a_start_that_cannot_be_made_void_has_not_ended() {
        let place = tempfile::tempdir().unwrap();
        let options = exec::options_at(place.path().to_owned());
        let allocation = AllocationId { slot: 1, generation: 1 };
        let mut spec = exec::shim_spec(allocation, place.path().join("job"));
        spec.task.restart = 2;
        let directory = options.directory.allocation(allocation);
        fs::create_dir_all(directory.root()).unwrap();
        durable::write_atomically(&directory.spec(), &spec).unwrap();
        // A folder where the record is to be prepared: it can't be written.
        let record = directory.record(2);
        let prepared_in = record.with_file_name(format!("record-2.{}.tmp", std::process::id()));
        fs::create_dir(&prepared_in).unwrap();
        assert!(void(&options, allocation, 2).is_err());
        assert!(!record.exists());
        let other = void(&options, allocation, 1).unwrap();
        assert!(matches!(other, Prepared::Ended(exit) if exit.stop_requested), "nobody can start that one any more");
        fs::remove_dir(&prepared_in).unwrap();
        let ended = void(&options, allocation, 2).unwrap();
        assert!(matches!(ended, Prepared::Ended(exit) if exit.stop_requested));
        assert!(record.exists());
    }
}
