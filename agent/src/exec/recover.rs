//! What earlier agents left: reading it, and cleaning up what nobody watches.

use std::{fs, io, os::fd::OwnedFd, time::Duration};

use super::{ExecOptions, start::Adopted};
use plenum_model::{AllocationId, is_name};

use crate::{
    directories::{AgentDirectory, AllocationDirectory},
    driver::{Exit, Failure, FailureKind, Found, Recovered},
    durable,
    process::{ProcessIdentity, boot_id, kill_each, with_environment_entry},
    shim::{ShimSpec, unix_ms},
};

/// How long to wait at once for killed processes to be gone, before it is said in the log that they hang.
const KILLED_WITHIN: Duration = Duration::from_secs(10);

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

pub(super) fn look(directory: &AllocationDirectory, restart: u32) -> Trace {
    if let Some(exit) = read_exit(directory, restart) {
        return Trace::Exit(exit);
    }
    match durable::read::<ProcessIdentity>(&directory.record(restart)) {
        Ok(None) => Trace::None,
        Ok(Some(shim)) => match shim.open() {
            Some(shim) => Trace::Alive(shim),
            // It may have ended between the two readings.
            None => read_exit(directory, restart).map_or(Trace::Vanished, Trace::Exit),
        },
        Err(error) => {
            tracing::warn!(%error, "a damaged record: its task counts as lost");
            Trace::Vanished
        }
    }
}

fn read_exit(directory: &AllocationDirectory, restart: u32) -> Option<Exit> {
    durable::read(&directory.exit(restart))
        .inspect_err(|error| tracing::warn!(%error, "can't read how a task ended: it counts as lost"))
        .ok()
        .flatten()
}

/// The allocations that have a directory, those that only keep logs included.
pub(super) fn allocations(directory: &AgentDirectory) -> Vec<AllocationId> {
    let entries = fs::read_dir(directory.allocations()).into_iter().flatten();
    let mut keys: Vec<AllocationId> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str().and_then(AllocationId::parse)).collect();
    keys.sort();
    keys
}

/// Everything that has not been forgotten, with the shims of what lives. Cgroups that belong to nothing of it are emptied
/// and removed.
pub(super) fn recover(options: &ExecOptions) -> Vec<(Recovered, Option<Adopted>)> {
    let mut found = Vec::new();
    for allocation in allocations(&options.directory) {
        let directory = options.directory.allocation(allocation);
        if !directory.ended().exists() {
            found.extend(recover_one(&directory, allocation));
        }
    }
    if let Some(parent) = &options.cgroup {
        for name in parent.names() {
            let alive = |(recovered, adopted): &(Recovered, Option<Adopted>)| {
                (adopted.is_some() || recovered.found == Found::NotStarted) && recovered.allocation.to_string() == name
            };
            if is_name(&name, false) && !found.iter().any(alive) {
                let left = parent.task(&name);
                log_if_stuck(left.kill_until_empty(KILLED_WITHIN), &name);
                log_if_failed(left.remove());
            }
        }
    }
    found
}

fn recover_one(directory: &AllocationDirectory, allocation: AllocationId) -> Option<(Recovered, Option<Adopted>)> {
    let spec = match durable::read::<ShimSpec>(&directory.spec()) {
        Ok(Some(spec)) => spec,
        Ok(None) => {
            // Without a spec no shim was started, or ever will be.
            let _ = fs::remove_dir_all(directory.root());
            return None;
        }
        Err(error) => {
            tracing::warn!(%allocation, %error, "a damaged spec: the allocation counts as lost");
            let found = Found::Ended(Exit::failed(Failure::new(FailureKind::LostTrack, error.to_string()), unix_ms()));
            return Some((
                Recovered { allocation, restart: 0, earlier_ends_unix_ms: Vec::new(), found, traces: None },
                None,
            ));
        }
    };
    let restart = spec.task.restart;
    let traces = spec.task.traces.clone();
    let earlier_ends_unix_ms =
        (0..restart).filter_map(|earlier| read_exit(directory, earlier)).map(|exit| exit.ended_unix_ms).collect();
    let (found, adopted) = match look(directory, restart) {
        Trace::Alive(shim) => {
            (Found::Alive { running: directory.running(restart).exists() }, Some(Adopted { spec, shim }))
        }
        Trace::Exit(exit) => {
            remove_cgroup(&spec);
            (Found::Ended(exit), None)
        }
        // In another boot somebody may have started it, and only the record of that be lost.
        Trace::None if spec.boot_id == boot_id() => (Found::NotStarted, None),
        Trace::None | Trace::Vanished => (Found::Ended(lost_track(directory, &spec)), None),
    };
    Some((Recovered { allocation, restart, earlier_ends_unix_ms, found, traces }, adopted))
}

/// Kills what is left of a start whose shim vanished, and writes down that it ended so.
pub(super) fn lost_track(directory: &AllocationDirectory, spec: &ShimSpec) -> Exit {
    kill_what_is_left(directory, spec);
    let message = if spec.boot_id == boot_id() {
        "its shim was killed: the task's end is unknown, and what was left of it has been killed"
    } else {
        "the machine was booted while it ran"
    };
    let exit = Exit::failed(Failure::new(FailureKind::LostTrack, message), unix_ms());
    if let Err(error) = durable::write_atomically(&directory.exit(spec.task.restart), &exit) {
        // The next recovery comes to the same end.
        tracing::warn!(%error, "can't write down the end of a task");
    }
    exit
}

/// Removes the cgroup of a start whose shim ended. Where that ended as it should, both are gone already.
pub(super) fn remove_cgroup(spec: &ShimSpec) {
    if let Some(cgroup) = &spec.cgroup {
        while !cgroup.kill_until_empty(KILLED_WITHIN) {
            log_if_stuck(false, &spec.task.allocation.to_string());
        }
        log_if_failed(cgroup.remove());
    }
}

/// Comes back when nothing runs of a start whose shim vanished.
fn kill_what_is_left(directory: &AllocationDirectory, spec: &ShimSpec) {
    remove_cgroup(spec);
    if spec.cgroup.is_some() {
        return;
    }
    // With a pid namespace the kernel is killing it already, which takes a moment. Without one, nobody is. Each task of
    // this agent has a directory of its own, so this names exactly one.
    let mark = format!("PLENUM_TASK_DIR={}", directory.task().display());
    loop {
        let left = with_environment_entry(&mark);
        if left.is_empty() {
            return;
        }
        kill_each(&left);
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn log_if_stuck(empty: bool, name: &str) {
    if !empty {
        tracing::warn!(cgroup = name, "killed processes don't go away: they hang in the kernel");
    }
}

fn log_if_failed(removed: io::Result<()>) {
    if let Err(error) = removed {
        tracing::warn!(%error, "can't remove a cgroup");
    }
}
