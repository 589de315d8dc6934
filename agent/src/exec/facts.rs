//! What must be known of a start for as long as it is watched. It knows nothing of what is run.

use plenum_model::AllocationId;

use crate::{cgroup::TaskCgroup, process::boot_id, shim::ShimSpec};

/// A start without its command and its environment: these may have 64 KiB, and thousands of starts are watched at once.
#[derive(Clone, Debug)]
pub(super) struct StartFacts {
    pub(super) allocation: AllocationId,
    pub(super) restart: u32,
    /// From SIGTERM to SIGKILL.
    pub(super) kill_timeout_ms: u64,
    pub(super) cgroup: Option<TaskCgroup>,
    /// It was written down in this boot of the machine.
    pub(super) is_of_this_boot: bool,
}

impl From<&ShimSpec> for StartFacts {
    fn from(spec: &ShimSpec) -> Self {
        Self {
            allocation: spec.task.allocation,
            restart: spec.task.restart,
            kill_timeout_ms: spec.task.kill_timeout_ms,
            cgroup: spec.cgroup.clone(),
            is_of_this_boot: spec.boot_id == boot_id(),
        }
    }
}
