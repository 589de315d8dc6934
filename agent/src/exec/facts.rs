//! What must be known of a start for as long as it is watched. It knows nothing of what is run.

use plenum_model::AllocationId;

use super::unread::KILL_TIMEOUT_MS;
use crate::{cgroup::TaskCgroup, driver::Failure, process::boot_id, shim::ShimSpec};

/// A start without its command and its environment: these may have 64 KiB, and thousands of starts are watched at once.
#[derive(Clone, Debug)]
pub(super) struct StartFacts {
    pub(super) allocation: AllocationId,
    pub(super) restart: u32,
    /// From SIGTERM to SIGKILL.
    pub(super) kill_timeout_ms: u64,
    pub(super) cgroup: Option<TaskCgroup>,
    /// It has a namespace of pids of its own: with its shim, the kernel ends all of it.
    pub(super) ends_with_shim: bool,
    /// It was written down in this boot of the machine.
    pub(super) is_of_this_boot: bool,
    /// What can't be read of what was written down of it, and what it ends with for that.
    pub(super) unread: Option<Failure>,
    /// Which start it is can't be read either.
    pub(super) is_unknown: bool,
}

impl StartFacts {
    /// Of a start whose spec can't be read. It may run in the group of its allocation.
    pub(super) fn unknown(allocation: AllocationId, cgroup: Option<TaskCgroup>) -> Self {
        Self {
            allocation,
            restart: 0,
            kill_timeout_ms: KILL_TIMEOUT_MS,
            cgroup,
            ends_with_shim: false,
            is_of_this_boot: true,
            unread: None,
            is_unknown: true,
        }
    }

    /// Which start it is; `None`: its spec can't be read, and `restart` is not true.
    pub(super) fn restart_if_known(&self) -> Option<u32> {
        (!self.is_unknown).then_some(self.restart)
    }
}

impl From<&ShimSpec> for StartFacts {
    fn from(spec: &ShimSpec) -> Self {
        Self {
            allocation: spec.task.allocation,
            restart: spec.task.restart,
            kill_timeout_ms: spec.task.kill_timeout_ms,
            cgroup: spec.cgroup.clone(),
            ends_with_shim: spec.isolation.pid,
            is_of_this_boot: spec.boot_id == boot_id(),
            unread: None,
            is_unknown: false,
        }
    }
}
