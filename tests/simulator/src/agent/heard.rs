//! What the agent that runs now has heard of the cell: whether it may start anything, judged without its reconciler.

use std::collections::BTreeSet;

use plenum_agent::driver::TaskSpec;
use plenum_agent::reconciler::{Input, Registration};
use plenum_model::{AllocationId, MachineId};

use crate::books::{Checked, hold};

/// See the module. Nothing, for an agent that has just begun.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// When it asked last to be registered.
    asked_ms: u64,
    present: Option<Present>,
}

/// A registration that was answered, and after which none was asked for.
#[derive(Debug)]
struct Present {
    of: (MachineId, u32),
    lease_ms: u64,
    /// When what renewed the lease last was sent.
    renewed_ms: u64,
    /// What ran here, and was to end, when the whole wanted set came first; `None`: it has not come yet.
    fence: Option<BTreeSet<AllocationId>>,
}

impl Heard {
    /// It asks to be registered: whatever it was before, is over.
    pub(super) fn asks(&mut self, now_ms: u64) {
        *self = Self { asked_ms: now_ms, present: None };
    }

    pub(super) fn registered(&mut self, registration: &Registration) {
        self.present = Some(Present {
            of: (registration.machine, registration.epoch),
            lease_ms: registration.lease_ms,
            renewed_ms: self.asked_ms,
            fence: None,
        });
    }

    /// A report that was sent then had its effect.
    pub(super) fn renewed(&mut self, sent_ms: u64) {
        if let Some(present) = &mut self.present {
            present.renewed_ms = present.renewed_ms.max(sent_ms);
        }
    }

    /// It hears what is wanted here, while this runs. What is to end later, when the whole set was told already, keeps nobody waiting.
    pub(super) fn told(&mut self, input: &Input, running: impl Iterator<Item = AllocationId>) {
        let Input::Assignments { machine, epoch, full: true, wanted, stop, keep, .. } = input else { return };
        let Some(present) = self.present.as_mut().filter(|present| present.of == (*machine, *epoch)) else { return };
        let stays: BTreeSet<AllocationId> =
            wanted.iter().map(|assignment| assignment.allocation).chain(keep.iter().copied()).collect();
        let ends = |id: &AllocationId| !stays.contains(id) || stop.contains(id);
        present.fence.get_or_insert_with(|| running.filter(ends).collect());
    }

    /// Nothing is started unless the lease holds by the agent's own clock, the whole wanted set is known, and nothing runs any more that was
    /// not in it: it may have been placed elsewhere while the agent was not heard.
    pub(super) fn check_start(
        &self,
        machine: &str,
        now_ms: u64,
        task: &TaskSpec,
        mut running: impl Iterator<Item = AllocationId>,
    ) -> Checked {
        let what = || format!("{machine} starts {}, restart {}", task.allocation, task.restart);
        let present = self.present.as_ref().filter(|present| now_ms < present.renewed_ms + present.lease_ms);
        let Some(present) = present else {
            return hold(false, "invariant_nothing_starts_without_a_lease", || {
                format!("{} at {now_ms}: {:?}", what(), self.present)
            });
        };
        let name = "invariant_nothing_starts_beside_what_is_fenced";
        let Some(fence) = &present.fence else {
            return hold(false, name, || format!("{} and was not told yet what is wanted", what()));
        };
        let left = running.find(|id| fence.contains(id));
        hold(left.is_none(), name, || format!("{} while {left:?} runs, which was to end", what()))
    }
}
