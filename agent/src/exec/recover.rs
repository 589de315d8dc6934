//! What earlier agents left: reading it, and cleaning up what nobody watches.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::OwnedFd,
    path::Path,
    process::ExitStatus,
    thread,
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;

use super::{
    ExecOptions,
    facts::StartFacts,
    recording::ENDS_KEPT,
    start::{Adopted, Start},
    unread,
};
use plenum_model::{AllocationId, is_name};

use crate::{
    cgroup::{AgentCgroup, TaskCgroup},
    directories::{AgentDirectory, AllocationDirectory, let_owner_in},
    driver::{Exit, Failure, FailureKind, Found, Recovered},
    durable,
    process::{ProcessIdentity, boot_id, kill_listed, with_environment_entry},
    removal::remove_tree,
    shim::{ShimSpec, unix_ms},
    threads::{self, Alarm, on_a_thread},
};

/// How long the end of one task is waited for at once. There are only so many threads for that: what hangs in the kernel must not keep
/// them from tasks that don't.
const GONE_WITHIN: Duration = Duration::from_secs(1);
/// How soon it is looked again for what has no control group, each time later: that reads of all processes of the machine.
const CLEARED_PAUSE_MIN: Duration = Duration::from_millis(5);
const CLEARED_PAUSE_MAX: Duration = Duration::from_millis(500);
/// So many looks in a row have to find nothing of it, the pauses between them being the shortest: what is in the middle of an exec has no environment.
const CLEARED_LOOKS: u32 = 3;
/// How soon it is looked again for groups of which nothing else is here, each time later: what hangs in the kernel may do so for days.
const STRAYS_PAUSE_MIN: Duration = Duration::from_secs(1);
const STRAYS_PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long an agent that begins waits in all for what it kills. A process that hangs in the kernel must keep it neither from registering nor from
/// hearing that it is to end; what is gone by then, the cell is told of with the registration.
const RECOVERED_WITHIN: Duration = Duration::from_secs(2);
/// So many allocations of which something can't be read are ended one by one. Of more it is the whole disk: then all tasks of a machine would be stopped for
/// what may be over in a moment, as a cable, and nobody is sure of what was read of the others.
const UNREADABLE_MAX: usize = 8;

/// What is there of one start.
pub(super) enum Trace {
    /// Nobody recorded it.
    None,
    /// Its shim lives.
    Alive(OwnedFd),
    /// It was recorded; there is neither a shim nor word of its end.
    Vanished,
    /// It ended.
    Exit(Exit),
}

/// Looks what is there.
///
/// # Errors
/// When that can't be found out, such as without a descriptor left. What is not known must not be taken for lost: whatever is
/// lost is killed.
pub(super) fn look(directory: &AllocationDirectory, restart: u32) -> io::Result<Trace> {
    look_unless_unreadable(directory, restart)?.map_err(|failure| io::Error::other(failure.message))
}

/// The same; `Err` inside it: the disk does not give back what was written down.
fn look_unless_unreadable(directory: &AllocationDirectory, restart: u32) -> io::Result<Result<Trace, Failure>> {
    directory.let_owner_in();
    match read_unless_damaged(&directory.exit(restart))? {
        Read::There(exit) => return Ok(Ok(Trace::Exit(exit))),
        Read::Unreadable(failure) => return Ok(Err(failure)),
        Read::Absent | Read::Damaged => {}
    }
    let shim = match read_unless_damaged::<ProcessIdentity>(&directory.record(restart))? {
        Read::Absent => return Ok(Ok(Trace::None)),
        Read::Damaged => return Ok(Ok(Trace::Vanished)),
        Read::Unreadable(failure) => return Ok(Err(failure)),
        Read::There(shim) => shim,
    };
    if let Some(shim) = shim.open()? {
        return Ok(Ok(Trace::Alive(shim)));
    }
    // It may have ended between the two readings.
    Ok(match read_unless_damaged(&directory.exit(restart))? {
        Read::There(exit) => Ok(Trace::Exit(exit)),
        Read::Unreadable(failure) => Err(failure),
        Read::Absent | Read::Damaged => Ok(Trace::Vanished),
    })
}

/// A small file, as it was found.
pub(super) enum Read<T> {
    Absent,
    /// Nothing that we wrote: it never becomes readable.
    Damaged,
    /// The disk does not give it back; what its start ends with for that.
    Unreadable(Failure),
    There(T),
}

pub(super) fn read_unless_damaged<T: DeserializeOwned>(path: &Path) -> io::Result<Read<T>> {
    // What a disk does not give back at once it may give at the second try.
    let found = durable::read(path)
        .or_else(|error| if unread::is_unreadable(&error) { durable::read(path) } else { Err(error) });
    match found {
        Ok(found) => Ok(found.map_or(Read::Absent, Read::There)),
        Err(error) if unread::is_unreadable(&error) => Ok(Read::Unreadable(unread::failure(path, &error))),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::warn!(%error, "a damaged file: its task counts as lost");
            Ok(Read::Damaged)
        }
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    }
}

/// The allocations that have a directory, those that only keep logs included. What their tasks did to these keeps nobody from looking into them.
///
/// # Errors
/// When they can't be listed: then nobody knows what runs.
pub(super) fn allocations(directory: &AgentDirectory) -> io::Result<Vec<AllocationId>> {
    let (mut keys, allocations) = (Vec::new(), directory.allocations());
    let_owner_in(directory.root());
    let_owner_in(&allocations);
    for entry in fs::read_dir(allocations)? {
        keys.extend(entry?.file_name().to_str().and_then(AllocationId::parse));
    }
    keys.sort();
    keys.iter().for_each(|&key| let_owner_in(directory.allocation(key).root()));
    Ok(keys)
}

/// True while something is here that was started since the machine was booted, and of whose end the cell has not heard. Nothing that may run is touched.
///
/// # Errors
/// When that can't be found out.
pub(crate) fn holds_any(directory: &AgentDirectory) -> io::Result<bool> {
    if !directory.allocations().try_exists()? {
        return Ok(false);
    }
    for allocation in allocations(directory)? {
        let directory = directory.allocation(allocation);
        if directory.ended().exists() {
            continue;
        }
        let Some(looked) = look_at_one(directory, allocation)? else { continue };
        // Of what is damaged, or can't be read, nobody can say that it does not run.
        let is_held = |(spec, trace): (ShimSpec, Result<Trace, Failure>)| {
            spec.boot_id == boot_id() && !matches!(trace, Ok(Trace::None))
        };
        if looked.start.is_ok_and(|start| !is_held(start)) {
            continue;
        }
        return Ok(true);
    }
    Ok(false)
}

/// Everything that has not been forgotten, with what is to be watched of it. Cgroups that belong to nothing of it are emptied and removed, on
/// another thread where that takes long; of a panic of that `alarm` is told.
///
/// What of one can't be read ends, and with it what may run of it ([`unread`]); of many it is the whole disk.
///
/// # Errors
/// When something can't be found out of what may run. Nothing was killed then.
pub(super) fn recover(options: &ExecOptions, alarm: &Alarm) -> io::Result<Vec<(Recovered, Option<Start>)>> {
    let mut looked = Vec::new();
    for allocation in allocations(&options.directory)? {
        let directory = options.directory.allocation(allocation);
        if !directory.ended().exists() {
            looked.extend(look_at_one(directory, allocation)?);
        }
    }
    check_unreadable(&looked)?;
    let names = options.cgroup.as_ref().map_or_else(|| Ok(Vec::new()), AgentCgroup::names)?;
    let deadline = Instant::now() + RECOVERED_WITHIN;
    let found: Vec<_> = looked.into_iter().map(|looked| recover_one(options, looked, deadline)).collect();
    let mut left = Vec::new();
    if let Some(parent) = &options.cgroup {
        // Looked up for each group: there may be ten thousand of both, and the agent's lease waits.
        let is_used =
            |(recovered, there): &&(Recovered, Option<Start>)| there.is_some() || recovered.found == Found::NotStarted;
        let used = found.iter().filter(is_used).map(|(recovered, _)| recovered.allocation.to_string());
        let used: BTreeSet<String> = used.collect();
        for name in names.into_iter().filter(|name| is_name(name, false) && !used.contains(name)) {
            let group = parent.task(&name);
            if !is_removed(&group, deadline) {
                left.push((name, group));
            }
        }
    }
    if !left.is_empty() {
        let strays = Strays { directory: options.directory.clone(), groups: left, told: BTreeSet::new() };
        drop(threads::spawn("what removes control groups", alarm, remove_patiently(strays)));
    }
    Ok(found)
}

/// Removes them once they are empty. They have a thread while they are looked at, and none in between.
async fn remove_patiently(mut strays: Strays) {
    let mut pause = STRAYS_PAUSE_MIN;
    loop {
        strays = on_a_thread(move || {
            strays.remove();
            strays
        })
        .await;
        if strays.groups.is_empty() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(STRAYS_PAUSE_MAX);
    }
}

/// Groups of which nothing else is here any more, by their names.
struct Strays {
    directory: AgentDirectory,
    groups: Vec<(String, TaskCgroup)>,
    /// The log says of these why they are not known to be empty.
    told: BTreeSet<String>,
}

impl Strays {
    /// Kills what is in them, and removes those that are empty soon.
    fn remove(&mut self) {
        let Self { directory, groups, told } = self;
        groups.retain(|(name, group)| {
            // A cell that was restored may have it started again.
            let directory = AllocationId::parse(name).map(|allocation| directory.allocation(allocation));
            let is_used = directory.is_some_and(|one| one.spec().exists() && !one.ended().exists());
            if is_used || !is_emptied(group, name, told) {
                return !is_used;
            }
            log_if_failed(group.remove());
            false
        });
    }
}

/// An allocation with whatever is there of it.
struct Looked {
    allocation: AllocationId,
    directory: AllocationDirectory,
    /// `Err`: its spec is damaged, or can't be read; within it the same of what its start left. And what it ends with for that.
    start: Result<(ShimSpec, Result<Trace, Failure>), Failure>,
    /// An earlier start of it ran.
    ran_before: bool,
    /// An earlier agent noted that it can't be read: that says nothing of the disk as it is now.
    is_noted: bool,
}

impl Looked {
    /// What the disk does not give back of it.
    fn unreadable(&self) -> Option<&Failure> {
        let failure = match &self.start {
            Ok((_, trace)) => trace.as_ref().err(),
            Err(failure) => Some(failure),
        };
        failure.filter(|failure| failure.kind == FailureKind::Unreadable && !self.is_noted)
    }
}

/// # Errors
/// When it is the whole disk, and not a sector.
fn check_unreadable(looked: &[Looked]) -> io::Result<()> {
    let mut unreadable = looked.iter().filter_map(Looked::unreadable);
    let (first, count) = (unreadable.next(), 1 + unreadable.count());
    match first.filter(|_| count > UNREADABLE_MAX) {
        Some(first) => Err(io::Error::other(format!("{} (and so of {} others)", first.message, count - 1))),
        None => Ok(()),
    }
}

/// Reads what is there, and changes nothing that runs.
fn look_at_one(directory: AllocationDirectory, allocation: AllocationId) -> io::Result<Option<Looked>> {
    let spec = match read_unless_damaged::<ShimSpec>(&directory.spec())? {
        Read::There(spec) => spec,
        Read::Absent => {
            // Without a spec no shim was started, or ever will be.
            let _ = remove_tree(directory.root());
            return Ok(None);
        }
        Read::Damaged => {
            let noted = unread::noted(&directory);
            let is_noted = noted.is_some();
            // As a rule the machine crashed over a start, which is nothing that the task did.
            let message = "what it was to run can't be read any more, as after a crash of the machine";
            let failure = noted.unwrap_or_else(|| Failure::new(FailureKind::Booted, message));
            let (start, ran_before) = (Err(failure), is_noted);
            return Ok(Some(Looked { allocation, directory, start, ran_before, is_noted }));
        }
        Read::Unreadable(failure) => {
            return Ok(Some(Looked { allocation, directory, start: Err(failure), ran_before: true, is_noted: false }));
        }
    };
    let restart = spec.task.restart;
    let ran_before = has_run_before(&directory, restart)?;
    let trace = look_unless_unreadable(&directory, restart)?;
    Ok(Some(Looked { allocation, directory, start: Ok((spec, trace)), ran_before, is_noted: false }))
}

/// Whether a start before `restart` ran, of those whose ends are kept. As a rule the one right before it did, and no other end is read.
fn has_run_before(directory: &AllocationDirectory, restart: u32) -> io::Result<bool> {
    for earlier in (restart.saturating_sub(ENDS_KEPT)..restart).rev() {
        match read_unless_damaged::<Exit>(&directory.exit(earlier))? {
            Read::There(exit) if exit.started_unix_ms.is_some() => return Ok(true),
            // As a rule it did.
            Read::Unreadable(_) => return Ok(true),
            Read::There(_) | Read::Absent | Read::Damaged => {}
        }
    }
    Ok(false)
}

fn recover_one(options: &ExecOptions, looked: Looked, deadline: Instant) -> (Recovered, Option<Start>) {
    let Looked { allocation, directory, start, ran_before, is_noted: _ } = looked;
    let (spec, trace) = match start {
        Ok(read) => read,
        Err(failure) => {
            let cgroup = options.cgroup.as_ref().map(|parent| parent.task(&allocation.to_string()));
            let facts = StartFacts::unknown(allocation, cgroup);
            let (found, there) = recover_unread(options, facts, failure);
            let (restart, restarts_at, traces, policy, booted) = (0, Vec::new(), None, None, false);
            return (Recovered { allocation, restart, restarts_at, ran_before, found, traces, policy, booted }, there);
        }
    };
    let (restart, restarts_at) = (spec.task.restart, spec.task.restarts_at());
    let (traces, policy) = (spec.task.traces.clone(), spec.task.policy);
    let facts = StartFacts::from(&spec);
    let trace = match trace {
        Ok(trace) => trace,
        // With that boot it ended.
        Err(_) if !facts.is_of_this_boot => Trace::Vanished,
        Err(failure) => {
            let (found, there) = recover_unread(options, facts, failure);
            let booted = false;
            return (Recovered { allocation, restart, restarts_at, ran_before, found, traces, policy, booted }, there);
        }
    };
    let (booted, running) = (!facts.is_of_this_boot, directory.running(restart).exists());
    let (found, there) = match trace {
        Trace::Alive(shim) => (Found::Alive { running }, Some(Start::Adopted(Box::new(Adopted { facts, shim })))),
        // In another boot somebody may have started it, and only the record of that be lost.
        Trace::None if !booted => (Found::NotStarted, None),
        Trace::Exit(exit) if facts.cgroup.as_ref().is_none_or(|cgroup| is_removed(cgroup, deadline)) => {
            (Found::Ended(exit), None)
        }
        Trace::None | Trace::Vanished if is_cleared(&directory, &facts, deadline) => {
            (Found::Ended(write_lost(&directory, &facts, None)), None)
        }
        trace => {
            let ran = running || matches!(&trace, Trace::Exit(exit) if exit.started_unix_ms.is_some());
            tracing::warn!(%allocation, "what is left of a task whose shim is gone was killed, and is not known to be gone yet");
            (Found::Leaving { ran }, Some(Start::Leaving(Box::new(facts))))
        }
    };
    (Recovered { allocation, restart, restarts_at, ran_before, found, traces, policy, booted }, there)
}

/// A start of which something can't be read: it has ended, or is being ended.
fn recover_unread(options: &ExecOptions, facts: StartFacts, failure: Failure) -> (Found, Option<Start>) {
    let allocation = facts.allocation;
    match unread::outlast(options, &facts, &failure, Instant::now()) {
        Ok(exit) => (Found::Ended(exit), None),
        Err(error) => {
            let why = &failure.message;
            tracing::error!(%allocation, why, %error, "a task is stopped, as what was written down of it can't be read");
            let facts = StartFacts { unread: Some(failure), ..facts };
            // Of what ran once, the cell hears of no step back.
            (Found::Leaving { ran: true }, Some(Start::Leaving(Box::new(facts))))
        }
    }
}

/// Sees to it that nothing is left of a start whose shim is gone, and says how it ended.
///
/// # Errors
/// When that can't be found out, or something is left still.
pub(super) fn outlast(directory: &AllocationDirectory, facts: &StartFacts) -> io::Result<Exit> {
    match look(directory, facts.restart)? {
        Trace::Exit(exit) => remove_cgroup(facts).map(|()| exit),
        _ => lost_track(directory, facts, None),
    }
}

/// Kills what is left of a start whose shim vanished, and writes down that it ended so. `status`: how the shim ended, where that is known.
///
/// # Errors
/// When something is left still after a while, or that can't be found out.
pub(super) fn lost_track(
    directory: &AllocationDirectory,
    facts: &StartFacts,
    status: Option<ExitStatus>,
) -> io::Result<Exit> {
    remove_cgroup(facts)?;
    if facts.cgroup.is_none() && !is_cleared(directory, facts, Instant::now() + GONE_WITHIN) {
        return Err(is_left());
    }
    Ok(write_lost(directory, facts, status))
}

fn is_left() -> io::Error {
    let what = "what was killed of it is not gone: it hangs in the kernel, or can't be looked at";
    io::Error::new(io::ErrorKind::TimedOut, what)
}

fn write_lost(directory: &AllocationDirectory, facts: &StartFacts, status: Option<ExitStatus>) -> Exit {
    let (kind, message) = if !facts.is_of_this_boot {
        (FailureKind::Booted, "the machine was booted while it ran")
    } else if status.is_some_and(|status| status.code().is_some()) {
        (FailureKind::LostTrack, "how it ended could not be written down, as on a full disk: the end is unknown")
    } else {
        let message = "its shim was killed: the task's end is unknown, and what was left of it has been killed";
        (FailureKind::LostTrack, message)
    };
    let exit = Exit::failed(Failure::new(kind, message), unix_ms());
    // Without it an agent of another boot takes it for lost all the same. After a boot there may be thousands, and no agent registers before all are written.
    warn_if_failed(durable::write_for_this_boot(&directory.exit(facts.restart), &exit));
    exit
}

/// Has the next agent find this end, too. Where that fails, it comes to the same by itself.
pub(super) fn write_end(directory: &AllocationDirectory, restart: u32, exit: &Exit) {
    warn_if_failed(durable::write_atomically(&directory.exit(restart), exit));
}

fn warn_if_failed(written: io::Result<()>) {
    if let Err(error) = written {
        tracing::warn!(%error, "can't write down the end of a task");
    }
}

/// Empties and removes the cgroup of a start whose shim ended. Where that ended as it should, both are gone already.
///
/// # Errors
/// When something is in it still after a while, or that can't be found out.
pub(super) fn remove_cgroup(facts: &StartFacts) -> io::Result<()> {
    let Some(cgroup) = &facts.cgroup else { return Ok(()) };
    if !cgroup.kill_until_empty(GONE_WITHIN)? {
        return Err(is_left());
    }
    log_if_failed(cgroup.remove());
    Ok(())
}

/// Kills what is left of a start whose shim vanished, and waits for its end until `deadline`. True: nothing of it is there.
fn is_cleared(directory: &AllocationDirectory, facts: &StartFacts, deadline: Instant) -> bool {
    if let Some(cgroup) = &facts.cgroup {
        return is_removed(cgroup, deadline);
    }
    if !facts.is_of_this_boot {
        // With that boot it ended.
        return true;
    }
    // With a pid namespace the kernel is killing it already, which takes a moment. Without one, nobody is.
    let looks = if facts.ends_with_shim { 1 } else { CLEARED_LOOKS };
    is_cleared_by(looks, deadline, || match marked(directory) {
        Ok(left) if left.is_empty() => true,
        Ok(_) => {
            kill_listed(|| marked(directory).unwrap_or_default());
            false
        }
        Err(_) => false,
    })
}

/// Looks until so many looks in a row have found nothing, or `deadline` has come: then that is not known. A row that was begun in time comes to its end.
fn is_cleared_by(looks: u32, deadline: Instant, mut finds_nothing: impl FnMut() -> bool) -> bool {
    let is_late = Instant::now() >= deadline;
    let (mut empty, mut pause) = (0, CLEARED_PAUSE_MIN);
    loop {
        if finds_nothing() {
            (empty, pause) = (empty + 1, CLEARED_PAUSE_MIN);
        } else {
            empty = 0;
        }
        if empty >= looks {
            return true;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() && (is_late || empty == 0) {
            return false;
        }
        thread::sleep(if empty == 0 { pause.min(left) } else { pause });
        pause = (pause * 2).min(CLEARED_PAUSE_MAX);
    }
}

/// Processes that still have the environment in which a task was started. Each task of this agent has a directory of its own, so this names exactly one.
pub(super) fn marked(directory: &AllocationDirectory) -> io::Result<Vec<i32>> {
    with_environment_entry(&format!("PLENUM_TASK_DIR={}", directory.task().display()))
}

/// Kills what is in a group until `deadline`, and removes it once it is empty. True: nothing is in it.
fn is_removed(cgroup: &TaskCgroup, deadline: Instant) -> bool {
    let within = deadline.saturating_duration_since(Instant::now());
    let is_empty = matches!(cgroup.kill_until_empty(within), Ok(true));
    if is_empty {
        log_if_failed(cgroup.remove());
    }
    is_empty
}

/// Kills what is in a group, and waits a while. True: it is empty; or else the log says why it is not known to be, once.
fn is_emptied(cgroup: &TaskCgroup, name: &str, told: &mut BTreeSet<String>) -> bool {
    let outcome = cgroup.kill_until_empty(GONE_WITHIN);
    let is_empty = matches!(outcome, Ok(true));
    if !is_empty && told.insert(name.to_owned()) {
        let error = outcome.err().unwrap_or_else(is_left);
        tracing::warn!(cgroup = name, %error, "processes of a task that is not known here are left: they are killed again and again");
    }
    is_empty
}

pub(super) fn log_if_failed(removed: io::Result<()>) {
    if let Err(error) = removed {
        tracing::warn!(%error, "can't remove a cgroup");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{os::unix::fs::PermissionsExt, path::PathBuf, sync::mpsc};

    use tracing::Level;

    use super::*;
    use crate::{
        cgroup::Mounts,
        exec::{self, levels::Levels},
        reconciler::RestartPolicy,
    };

    #[test]
    fn what_ended_before_a_boot_is_found_so_with_what_follows_its_failures() {
        let place = tempfile::tempdir().unwrap();
        let options = exec::options_at(place.path().join("agent"));
        let policy = Some(RestartPolicy { attempts: 2, delay_ms: 1, within_ms: 0 });
        for (slot, boot) in [(1, "an-earlier-one"), (2, boot_id())] {
            let allocation = AllocationId { slot, generation: 1 };
            let mut spec = exec::shim_spec(allocation, place.path().join("job"));
            (spec.boot_id, spec.task.policy) = (boot.to_owned(), policy);
            let directory = options.directory.allocation(allocation);
            fs::create_dir_all(directory.root()).unwrap();
            durable::write_atomically(&directory.spec(), &spec).unwrap();
            durable::write_atomically(&directory.exit(0), &Exit { code: Some(3), ..Exit::default() }).unwrap();
        }
        let found = recover(&options, &exec::no_alarm()).unwrap();
        let found: Vec<_> = found.iter().map(|(one, _)| (one.allocation.slot, one.booted, one.policy)).collect();
        assert_eq!(found, [(1, true, policy), (2, false, policy)]);
    }

    #[test]
    fn a_directory_holds_what_this_boot_started_and_the_cell_has_not_heard_the_end_of() {
        let place = tempfile::tempdir().unwrap();
        let agent = AgentDirectory::new(place.path().join("agent"));
        assert!(!holds_any(&agent).unwrap(), "there is not even a directory");
        let allocation = AllocationId { slot: 1, generation: 1 };
        let directory = agent.allocation(allocation);
        fs::create_dir_all(directory.root()).unwrap();
        let write = |boot: &str| {
            let spec = ShimSpec { boot_id: boot.to_owned(), ..exec::shim_spec(allocation, place.path().join("job")) };
            durable::write_atomically(&directory.spec(), &spec).unwrap();
        };
        write(boot_id());
        assert!(!holds_any(&agent).unwrap(), "it was never started");
        let shim = ProcessIdentity::of_this_process().unwrap();
        assert!(durable::write_once(&directory.record(0), &shim).unwrap());
        assert!(holds_any(&agent).unwrap(), "it runs");
        durable::write_atomically(&directory.exit(0), &Exit { code: Some(3), ..Exit::default() }).unwrap();
        assert!(holds_any(&agent).unwrap(), "its end was not told");
        write("an-earlier-one");
        assert!(!holds_any(&agent).unwrap(), "with that boot all of it ended");
        write(boot_id());
        fs::write(directory.ended(), "").unwrap();
        assert!(!holds_any(&agent).unwrap(), "the cell knows");
        fs::remove_file(directory.ended()).unwrap();
        fs::write(directory.spec(), "{").unwrap();
        assert!(holds_any(&agent).unwrap(), "nobody knows");
    }

    // Without namespaces a task did `chmod 0 ..`, or `../..`. Its agent, of an ordinary user, tried for ever to find out how it had ended, and the
    // next one did not start.
    #[test]
    fn what_a_task_did_to_the_directory_above_its_own_keeps_nobody_from_finding_it() {
        let place = tempfile::tempdir().unwrap();
        let options = exec::options_at(place.path().join("agent"));
        let directories = [1, 2].map(|slot| {
            let allocation = AllocationId { slot, generation: 1 };
            let directory = options.directory.allocation(allocation);
            fs::create_dir_all(directory.root()).unwrap();
            let spec = exec::shim_spec(allocation, place.path().join("job"));
            durable::write_atomically(&directory.spec(), &spec).unwrap();
            durable::write_atomically(&directory.exit(0), &Exit { code: Some(3), ..Exit::default() }).unwrap();
            directory
        });
        fs::write(directories[1].ended(), "").unwrap();
        let allocations = options.directory.allocations();
        let above = [allocations.as_path(), options.directory.root()];
        let all = || directories.iter().map(AllocationDirectory::root).chain(above);
        let shut = || all().for_each(|one| set_mode(one, 0));
        // Who is root may look whatever they are.
        let is_open = || all().map(|one| mode(one) == 0o700).collect::<Vec<_>>();
        shut();
        let found = recover(&options, &exec::no_alarm()).unwrap();
        let found: Vec<_> = found.into_iter().map(|(one, _)| (one.allocation.slot, one.found)).collect();
        assert!(matches!(&found[..], [(1, Found::Ended(exit))] if exit.code == Some(3)), "{found:?}");
        assert_eq!(is_open(), [true; 4]);
        shut();
        assert!(matches!(look(&directories[0], 0).unwrap(), Trace::Exit(exit) if exit.code == Some(3)));
        assert_eq!(is_open(), [true, false, true, true]);
        set_mode(directories[1].root(), 0o700);
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    // After a boot each of thousands of tasks had all processes of the machine looked at once, while the agent's lease waited.
    #[test]
    fn what_is_left_of_an_earlier_boot_is_not_looked_for() {
        let place = tempfile::tempdir().unwrap();
        let allocation = AllocationId { slot: 1, generation: 1 };
        let directory = AgentDirectory::new(place.path().join("agent")).allocation(allocation);
        let mut sleep = std::process::Command::new("sleep");
        let mut child = sleep.arg("30").env("PLENUM_TASK_DIR", directory.task()).spawn().unwrap();
        // In the middle of its exec it has no environment that can be read.
        let mark = format!("PLENUM_TASK_DIR={}", directory.task().display());
        while with_environment_entry(&mark).unwrap().is_empty() {
            thread::yield_now();
        }
        let spec = exec::shim_spec(allocation, place.path().join("job"));
        let spec = ShimSpec { boot_id: "an-earlier-one".to_owned(), ..spec };
        let is_cleared = is_cleared(&directory, &StartFacts::from(&spec), Instant::now());
        let status = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_cleared && status.is_none(), "{status:?}");
    }

    // What was in the middle of an exec, one look did not find. The task was told as ended, and ran on.
    #[test]
    fn what_one_look_does_not_find_is_not_taken_for_gone() {
        let cleared = |looks: u32, found_nothing: &[bool]| {
            let mut looked = 0;
            let is_cleared = is_cleared_by(looks, Instant::now() + Duration::from_secs(20), || {
                looked += 1;
                found_nothing.get(looked - 1).copied().unwrap_or(true)
            });
            (is_cleared, looked)
        };
        assert_eq!(cleared(CLEARED_LOOKS, &[]), (true, CLEARED_LOOKS as usize));
        assert_eq!(cleared(3, &[true, true, false, true, false]), (true, 8));
        assert_eq!(cleared(1, &[]), (true, 1), "where the kernel ends all of it, once is enough");
        assert!(!is_cleared_by(3, Instant::now(), || true), "there is no time for that: it is looked again later");
        let slow = || {
            thread::sleep(Duration::from_millis(20));
            true
        };
        assert!(
            is_cleared_by(3, Instant::now() + Duration::from_millis(10), slow),
            "where a look takes long it ends as well"
        );
    }

    // Of a thousand restarts that it may have in an hour, a task had seven hundred left after nine hundred, once its agent was started again: it went
    // by the ends that are kept, of which there are none either where no shim could be started.
    #[test]
    fn restarts_count_for_the_next_agent_at_the_times_they_were_written_down_with() {
        let place = tempfile::tempdir().unwrap();
        let allocation = AllocationId { slot: 1, generation: 1 };
        let options = exec::options_at(place.path().join("agent"));
        let directory = options.directory.allocation(allocation);
        fs::create_dir_all(directory.root()).unwrap();
        let ends = Exit { ended_unix_ms: 5000, ..Exit::default() };
        durable::write_once(&directory.exit(2), &ends).unwrap();
        let restarts = |recent_restarts_at: &[(u64, u32)]| {
            let mut spec = exec::shim_spec(allocation, place.path().join("job"));
            (spec.task.restart, spec.task.recent_restarts_at) = (300, recent_restarts_at.to_vec());
            durable::write_atomically(&directory.spec(), &spec).unwrap();
            let looked = look_at_one(directory.clone(), allocation).unwrap().unwrap();
            recover_one(&options, looked, Instant::now()).0.restarts_at
        };
        assert_eq!(restarts(&[(900, 200), (1000, 90)]), [(900, 200), (1000, 90)]);
        assert!(restarts(&[]).is_empty(), "none was within the policy's time");
        assert_eq!(restarts(&[(900, 290), (950, u32::MAX), (1000, 1)]), [(900, 290), (950, 10)], "there were no more");
    }

    // An agent that began read the ends of up to 256 starts of each allocation, all of which say the same as a rule.
    #[test]
    fn of_starts_before_no_end_is_read_beyond_the_latest_that_ran() {
        let place = tempfile::tempdir().unwrap();
        let directory = AllocationDirectory::new(place.path().to_owned());
        fs::create_dir(directory.exit(0)).unwrap();
        assert!(has_run_before(&directory, 1).is_err(), "it can't be read");
        durable::write_once(&directory.exit(1), &Exit { started_unix_ms: Some(5000), ..Exit::default() }).unwrap();
        durable::write_once(&directory.exit(2), &Exit::default()).unwrap();
        assert!(has_run_before(&directory, 3).unwrap());
    }

    /// An allocation's group in which a process hangs, at `place`: a number that none has, and that does not go away.
    fn hanging(place: &Path, allocation: AllocationId) -> (TaskCgroup, PathBuf) {
        fs::write(place.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        let parent = AgentCgroup::prepare(&Mounts::unified(place).unwrap(), "m1").0.unwrap();
        let group = place.join("plenum/m1").join(allocation.to_string());
        fs::create_dir(&group).unwrap();
        let processes = group.join("cgroup.procs");
        fs::write(&processes, format!("{}\n", i32::MAX)).unwrap();
        (parent.task(&allocation.to_string()), processes)
    }

    // Each task that hung in the kernel without its shim kept a thread for ever. There are 512: after as many of them nothing was started, and
    // nothing was written to any disk.
    #[test]
    fn what_hangs_in_the_kernel_keeps_no_thread() {
        let place = tempfile::tempdir().unwrap();
        let allocation = AllocationId { slot: 1, generation: 1 };
        let (cgroup, processes) = hanging(place.path(), allocation);
        let spec = exec::shim_spec(allocation, place.path().join("job"));
        let facts = StartFacts { cgroup: Some(cgroup), ..StartFacts::from(&spec) };
        let directory = AgentDirectory::new(place.path().join("agent")).allocation(allocation);
        fs::create_dir_all(directory.root()).unwrap();
        let (sender, tried) = mpsc::channel();
        let try_once = {
            let (directory, facts) = (directory.clone(), facts.clone());
            move || drop(sender.send(outlast(&directory, &facts)))
        };
        drop(thread::spawn(try_once));
        let exit = tried.recv_timeout(5 * GONE_WITHIN).expect("the thread is free again");
        assert!(exit.is_err_and(|error| error.to_string().contains("hangs in the kernel")));
        assert!(!directory.exit(0).exists(), "it has not ended");
        fs::write(processes, "").unwrap();
        let exit = outlast(&directory, &facts).unwrap();
        assert_eq!(exit.failure.unwrap().kind, FailureKind::Booted);
    }

    // A process hung in a group of a task of which the agent's directory knew nothing: the log said so every ten seconds, for ever.
    #[test]
    fn that_something_hangs_of_which_nothing_is_known_is_told_once() {
        let (place, levels) = (tempfile::tempdir().unwrap(), Levels::default());
        let allocation = AllocationId { slot: 1, generation: 1 };
        let (group, processes) = hanging(place.path(), allocation);
        let directory = AgentDirectory::new(place.path().join("agent"));
        let mut strays = Strays { directory, groups: vec![(allocation.to_string(), group)], told: BTreeSet::new() };
        tracing::subscriber::with_default(levels.clone(), || {
            strays.remove();
            strays.remove();
        });
        assert_eq!((levels.kept(), strays.groups.len()), (vec![Level::WARN], 1));
        fs::write(processes, "").unwrap();
        strays.remove();
        assert!(strays.groups.is_empty());
    }
}
