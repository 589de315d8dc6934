//! Guards that fail, and who did it.

use plenum_model::{JobId, RefusalKind, RefusalReason};

use super::job_events::JobEventKind;
use super::jobs::left_last;
use super::{Facts, Guarded, Judge, event_culprit};

impl Judge<'_, '_> {
    /// A guard that fails names what did it since the base, as far as the slot tells: of one that is gone its end, unless another one has left the slot
    /// since.
    pub(super) fn guard(&self, guarded: Guarded) -> Facts {
        let event_of = |machine: u32, word: &'static str| {
            let event = self.past(machine).event_of(&[word]);
            event.map(|(revision, event)| event_culprit(revision, event.word, 0))
        };
        let job_event = |job: JobId, kind: JobEventKind| {
            self.grounds.job_events.newest_of((self.cell, self.grounds.names), job.slot, kind, self.base)
        };
        let culprit = match guarded {
            Guarded::Version(job) if self.cell.job(job).is_some() => job_event(job, JobEventKind::Submitted),
            // Whoever has the slot of one that is gone did nothing to it.
            Guarded::Version(job) if !self.left_its_slot_last(job) => None,
            Guarded::Version(job) => job_event(job, JobEventKind::Retired),
            Guarded::Attribute(_, Some(revision)) => Some(event_culprit(revision, "attributes", 0)),
            Guarded::Attribute(machine, None) => event_of(machine, "registered"),
            Guarded::Gone(machine) => {
                let slot = self.cell.machine_slots().get(machine.slot);
                let left =
                    slot.is_some_and(|slot| left_last(machine.generation, slot.generation, slot.machine.is_some()));
                if left { event_of(machine.slot, "removed") } else { None }
            }
        };
        let facts = Facts::plain(RefusalKind::Guard, RefusalReason::GuardFailed);
        Facts { culprits: culprit.into_iter().collect(), ..facts }
    }
}
