//! What comes before a shim is watched: what an earlier agent, or an earlier life of the cell, left of a task is looked at; then its start is written
//! down, made, or made void.

use std::{
    io,
    os::fd::OwnedFd,
    process::{Child, Command, ExitStatus, Stdio},
};

use nix::sys::signal::SigmaskHow;
use plenum_model::AllocationId;
use rustix::process::{PidfdFlags, pidfd_open};
use tokio::net::unix::pipe;

use super::{Prepared, Shared, Watched, after_shim};
use crate::{
    directories::AllocationDirectory,
    driver::{Exit, Failure, FailureKind, TaskSpec},
    durable,
    exec::{
        ExecOptions,
        facts::StartFacts,
        recording::{record, remove_if_there, remove_starts},
        recover, void_record,
    },
    open_files,
    process::{ProcessIdentity, boot_id},
    shim::{ShimSpec, unix_ms, watched_signals},
};

/// Writes the record of what is to be started, and starts a shim for it, unless an earlier agent did.
///
/// # Errors
/// When that can't be found out, something is left still of what had begun, or it may not be made now.
pub(super) fn prepare(shared: &Shared, task: &TaskSpec, is_known: bool) -> io::Result<Prepared> {
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
    let last = if forgotten.has_ended(&directory, task.allocation)? { directory.last_ended()? } else { None };
    match (recover::look(&directory, last.unwrap_or(facts.restart))?, last) {
        // There it was not made, which was told, and in this life not tried; or this life has heard of that end, and asks for the start after it.
        (recover::Trace::Exit(exit), Some(_)) if facts.restart > 0 || was_never_made(&exit) => {}
        (recover::Trace::Exit(exit), _) => return Ok(Prepared::Ended(exit)),
        (recover::Trace::Alive(shim), _) => {
            let facts = as_made(&directory, facts)?;
            return Ok(Prepared::Watched(Box::new(Watched { facts, shim, child: None })));
        }
        (recover::Trace::Vanished, _) => {
            let facts = as_made(&directory, facts)?;
            return recover::lost_track(&directory, &facts, None).map(Prepared::Ended);
        }
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

/// What is known of a start that an earlier agent made. It has the group and the kill timeout that this one wrote down, whatever this agent would give it.
///
/// # Errors
/// When that can't be read now.
fn as_made(directory: &AllocationDirectory, facts: StartFacts) -> io::Result<StartFacts> {
    Ok(match recover::read_unless_damaged::<ShimSpec>(&directory.spec())? {
        recover::Read::There(made) if made.task.restart == facts.restart => StartFacts::from(&made),
        _ => facts,
    })
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
pub(super) fn never_made(
    options: &ExecOptions,
    facts: &StartFacts,
    failure: Failure,
    is_known: bool,
) -> io::Result<Prepared> {
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

/// What became of a start that a shim took; `None`: none did. `status`: how ours ended, where that is known.
///
/// # Errors
/// When that can't be found out, or something is left still.
pub(super) fn begun(
    options: &ExecOptions,
    facts: &StartFacts,
    status: Option<ExitStatus>,
) -> io::Result<Option<Prepared>> {
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
pub(super) fn void(options: &ExecOptions, allocation: AllocationId, restart: u32) -> io::Result<Prepared> {
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
    use std::{fs, path::Path, sync::Arc};

    use tokio::sync::Semaphore;

    use super::*;
    use crate::{
        cgroup::{AgentCgroup, Mounts},
        exec::{self, marks::Marks, turn::Permission},
    };

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
            setups_failed: Arc::default(),
            gate: None,
            permission: Permission::default(),
        }
    }

    /// The end that a start comes to at once: there is no shim to be started.
    fn end_of(shared: &Shared, task: &TaskSpec) -> Exit {
        let Prepared::Ended(exit) = prepare(shared, task, false).unwrap() else { panic!("its shim is none") };
        exit
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

    // It ran in no group. Once its shim was killed, nothing was found in the one that this agent would have given it, and its end was told while it ran.
    #[test]
    fn what_an_earlier_agent_made_is_watched_as_that_one_made_it() {
        let place = tempfile::tempdir().unwrap();
        let (options, spec, directory) = recorded_in(place.path());
        durable::write_atomically(&directory.spec(), &spec).unwrap();
        let groups = place.path().join("groups");
        fs::create_dir(&groups).unwrap();
        fs::write(groups.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        let cgroup = AgentCgroup::prepare(&Mounts::unified(&groups).unwrap(), "m1").0;
        assert!(cgroup.is_some());
        // This process lives for as long as it is looked at.
        let shim = ProcessIdentity::of_this_process().unwrap();
        assert!(durable::write_once(&directory.record(0), &shim).unwrap());
        let shared = shared_by(ExecOptions { cgroup, ..options }, Arc::default());
        let task = TaskSpec { kill_timeout_ms: 9000, ..spec.task };
        let Prepared::Watched(watched) = prepare(&shared, &task, true).unwrap() else { panic!("its shim lives") };
        assert_eq!((watched.facts.cgroup, watched.facts.kill_timeout_ms), (None, 0));
    }

    // In a cell that was restored from a backup of before, it was told to have failed once more, and its machine taken for one that sets nothing up.
    #[test]
    fn a_start_that_could_not_be_set_up_in_an_earlier_life_of_the_cell_is_tried_in_this_one() {
        let place = tempfile::tempdir().unwrap();
        let (options, spec, directory) = recorded_in(place.path());
        let (shared, task) = (shared_by(options, Arc::default()), spec.task);
        let told = || end_of(&shared, &task).failure.unwrap().message;
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
            let exit = end_of(&shared, &task);
            assert_eq!((exit, directory.spec().exists()), (complete.clone(), false));
        }
    }

    // As long as that end could not be marked, it ran once more, too.
    #[test]
    fn what_completed_in_an_earlier_life_of_the_cell_is_not_made_again_before_it_can_be_marked() {
        let complete = Exit { code: Some(0), started_unix_ms: Some(1), ..Exit::default() };
        let place = tempfile::tempdir().unwrap();
        let (shared, task, directory) = ended_before(place.path(), &[(300, complete.clone())]);
        fs::remove_file(directory.ended()).unwrap();
        // It can't be made where a folder is.
        fs::create_dir(directory.ended()).unwrap();
        assert!(shared.forgotten.forget(task.allocation));
        shared.forgotten.mark(&directory, task.allocation);
        fs::remove_dir(directory.ended()).unwrap();
        let exit = end_of(&shared, &task);
        assert_eq!((exit, directory.spec().exists()), (complete, false));
    }

    // Only the first of them was tried, and the ends of the others told once more; what had been stopped before it was made had failed in this life.
    #[test]
    fn what_was_never_made_in_an_earlier_life_of_the_cell_is_made_in_this_one_whatever_its_number() {
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
                let told = end_of(&shared, &task).failure.map(|failure| failure.message).unwrap_or_default();
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
                let exit = end_of(&shared, &task);
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
