//! Ending what an agent left running that nobody comes after: tasks whose shims do not answer, or whose agent was killed.
//!
//! It writes down no end: the next agent of the directory, should there be one, finds shims that were killed. So it does where a shim was still on its
//! way to its task, and was kept from it here.

use std::{
    io,
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Signal, pidfd_send_signal};

use super::{
    recover::{self, Read, Trace, allocations, look, read_unless_damaged},
    unread, void_record,
};
use crate::{
    directories::{AgentDirectory, AllocationDirectory},
    durable,
    process::{ProcessIdentity, boot_id, descendants, kill_listed},
    shim::ShimSpec,
};

/// What is killed is looked at again this soon: it may have forked in between.
const KILL_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// What was left of an agent's tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Tasks that were killed, with their shims, and are gone.
    pub killed: usize,
    /// Tasks of which something is there still: it hangs in the kernel.
    pub hanging: usize,
    /// Tasks of which can't be read what was written down, nor so whether they run.
    pub unread: usize,
}

/// Kills all tasks of this directory that can be read of, and their shims with them, and waits for their end, for at most `within`. Whoever calls it holds the
/// directory, or knows that nobody starts tasks there any more.
///
/// # Errors
/// When it can't be found out which there are.
pub(crate) fn end_left(directory: &AgentDirectory, within: Duration) -> io::Result<Left> {
    let deadline = Instant::now() + within;
    let (mut tasks, mut left_alone) = (Vec::new(), 0);
    for allocation in allocations(directory)? {
        let directory = directory.allocation(allocation);
        if directory.ended().exists() {
            continue;
        }
        match read_unless_damaged::<ShimSpec>(&directory.spec()) {
            Ok(Read::There(spec)) if spec.boot_id == boot_id() => tasks.push(Task { directory, spec }),
            Ok(Read::There(_) | Read::Absent) => {}
            // What is damaged says of no process that it is there; the agent's own note of what it could not read does.
            Ok(Read::Damaged) => left_alone += usize::from(unread::noted(&directory).is_some()),
            Ok(Read::Unreadable(_)) | Err(_) => left_alone += 1,
        }
    }
    tasks.iter().for_each(Task::keep_shims_from_it);
    tasks.retain(Task::is_there);
    let found = tasks.len();
    while !tasks.is_empty() {
        tasks.iter().for_each(Task::kill);
        thread::sleep(KILL_AGAIN_AFTER);
        tasks.retain(|task| task.is_there() || !task.remove_cgroup());
        if Instant::now() >= deadline {
            break;
        }
    }
    // Of what can't be looked at nobody can say that it hangs.
    let unread = tasks.iter().filter(|task| look(&task.directory, task.spec.task.restart).is_err()).count();
    Ok(Left { killed: found - tasks.len(), hanging: tasks.len() - unread, unread: left_alone + unread })
}

struct Task {
    directory: AllocationDirectory,
    spec: ShimSpec,
}

impl Task {
    /// The agent may have been killed when it had just sent a shim off, which is not to be found before it has written its record. It finds another one
    /// now; where it was faster, it is killed like any other.
    fn keep_shims_from_it(&self) {
        let record = self.directory.record(self.spec.task.restart);
        if !record.exists()
            && let Err(error) = durable::write_once::<ProcessIdentity>(&record, &void_record())
        {
            tracing::warn!(%error, path = %record.display(), "can't keep a task from being started");
        }
    }

    /// What can't be looked at is there.
    fn is_there(&self) -> bool {
        let is_recorded = match look(&self.directory, self.spec.task.restart) {
            Ok(Trace::Alive(_)) | Err(_) => return true,
            Ok(Trace::Vanished) => true,
            Ok(Trace::None | Trace::Exit(_)) => false,
        };
        match &self.spec.cgroup {
            Some(cgroup) => !matches!(cgroup.is_empty(), Ok(true)),
            None => is_recorded && !matches!(recover::marked(&self.directory), Ok(left) if left.is_empty()),
        }
    }

    /// The task first: with its shim, nobody would know where it comes from. Of the task those above first, while its group still lets it
    /// fork: a command that can't would end by itself, and its shim note an end that nobody brought about.
    fn kill(&self) {
        let record = self.directory.record(self.spec.task.restart);
        let recorded = durable::read::<ProcessIdentity>(&record).ok().flatten();
        let shim = recorded.and_then(|identity| Some((identity.pid, identity.open().ok().flatten()?)));
        if let Some((pid, _)) = &shim {
            kill_listed(|| descendants(*pid));
        }
        if let Some(cgroup) = &self.spec.cgroup {
            cgroup.kill();
        }
        if let Some((_, shim)) = &shim {
            // It may be gone by now.
            let _ = pidfd_send_signal(shim.as_fd(), Signal::KILL);
        }
        if self.spec.cgroup.is_none() {
            kill_listed(|| recover::marked(&self.directory).unwrap_or_default());
        }
    }

    /// True when it is not there any more, nor are those above it that nobody else uses.
    fn remove_cgroup(&self) -> bool {
        self.spec.cgroup.as_ref().is_none_or(|cgroup| {
            cgroup.remove().is_ok_and(|()| {
                cgroup.remove_above();
                true
            })
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{fs, os::unix::fs::symlink};

    use plenum_model::AllocationId;

    use super::*;
    use crate::exec;

    // It was said to hang in the kernel, and nothing of it was there.
    #[test]
    fn a_task_whose_record_cannot_be_read_is_not_said_to_hang() {
        let place = tempfile::tempdir().unwrap();
        let agent = AgentDirectory::new(place.path().to_owned());
        let allocation = AllocationId { slot: 1, generation: 1 };
        let directory = agent.allocation(allocation);
        fs::create_dir_all(directory.root()).unwrap();
        let spec = ShimSpec { boot_id: boot_id().to_owned(), ..exec::shim_spec(allocation, place.path().join("job")) };
        durable::write_atomically(&directory.spec(), &spec).unwrap();
        symlink("/proc/self/mem", directory.record(0)).unwrap();
        assert_eq!(end_left(&agent, Duration::ZERO).unwrap(), Left { unread: 1, ..Left::default() });
    }

    // An agent was killed when it had just started a shim. Nothing was found to be killed, and a moment later the shim ran its task, which went on
    // when all else had ended.
    #[test]
    fn a_shim_that_is_on_its_way_does_not_run_its_task_any_more() {
        let place = tempfile::tempdir().unwrap();
        let (agent, allocation) =
            (AgentDirectory::new(place.path().to_owned()), AllocationId { slot: 1, generation: 1 });
        let spec = exec::shim_spec(allocation, place.path().join("job"));
        let directory = agent.allocation(allocation);
        fs::create_dir_all(directory.root()).unwrap();
        let spec = ShimSpec { boot_id: boot_id().to_owned(), ..spec };
        durable::write_atomically(&directory.spec(), &spec).unwrap();
        assert_eq!(end_left(&agent, Duration::from_secs(10)).unwrap(), Left::default());
        let shim = ProcessIdentity::of_this_process().unwrap();
        assert!(!durable::write_once(&directory.record(0), &shim).unwrap(), "it has the record, and runs the task");
    }

    // They ran on when all else had ended, and nobody was told.
    #[test]
    fn tasks_of_which_nothing_can_be_read_are_counted() {
        let place = tempfile::tempdir().unwrap();
        let agent = AgentDirectory::new(place.path().to_owned());
        let at = |slot| {
            let directory = agent.allocation(AllocationId { slot, generation: 1 });
            fs::create_dir_all(directory.root()).unwrap();
            directory
        };
        symlink("/proc/self/mem", at(1).spec()).unwrap();
        fs::write(at(2).spec(), "{\"unreadable\":\"it can't be read\"}").unwrap();
        fs::write(at(3).spec(), "{\"half").unwrap();
        symlink("/proc/self/mem", at(4).spec()).unwrap();
        fs::write(at(4).ended(), "").unwrap();
        at(5);
        let left = end_left(&agent, Duration::from_secs(10)).unwrap();
        assert_eq!(left, Left { unread: 2, ..Left::default() }, "nor is what is damaged, or has ended");
    }
}
