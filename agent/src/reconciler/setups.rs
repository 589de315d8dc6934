//! Whether tasks can be set up on this machine, as far as the ones that were tried tell.
//!
//! A machine on which no cgroup, no mount or no process can be made fails its tasks within milliseconds, and has room again at once: left
//! alone, it would get the next ones, and use up the attempts of all that waits in the cell. So it takes none for a while once the set-up of several
//! different tasks failed in a row, and is tried again then. One task alone says little: what it asks for may be at fault. So it counts twice at the most,
//! when it is placed here again: without that, two jobs of one task would have used up their attempts here before a third one told. What starts again here
//! says nothing of what the cell would place: it goes on trying whether or not the machine takes others.

use plenum_model::AllocationId;

use crate::{
    driver::{Exit, FailureKind},
    traces::Traces,
};

/// So many set-ups that fail in a row, of different tasks, before the machine takes no more.
const FAILURES: usize = 3;
/// So many allocations of one task count among these.
const FAILURES_OF_ONE: usize = 2;
/// For how long it takes none; each time that it fails again after that, twice as long.
const PAUSE_MS_MIN: u64 = 30_000;
const PAUSE_MS_MAX: u64 = 16 * 60_000;

/// What the latest set-ups tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Setups {
    /// Whose set-up failed since one was done, and of which allocation; fewer than [`FAILURES`].
    failed: Vec<(String, AllocationId)>,
    /// Until when the machine takes no tasks.
    until_ms: Option<u64>,
    /// How often it was given a rest since a set-up was done: after the first one, one failure is enough for the next.
    rests: u32,
}

impl Setups {
    /// A task runs, or would if there were such a program: what it takes was made.
    pub(super) fn done(&mut self) {
        *self = Self::default();
    }

    /// A start ended, of a task that says where it comes from: each of its attempts is an allocation of its own, and the same task. The end of what was
    /// set up long ago says nothing of what can be set up now.
    pub(super) fn ended(
        &mut self,
        now_ms: u64,
        (allocation, restart): (AllocationId, u32),
        traces: Option<&Traces>,
        exit: &Exit,
    ) {
        match exit.failure.as_ref().map(|failure| failure.kind) {
            Some(FailureKind::Setup) if restart > 0 => {}
            Some(FailureKind::Setup) => {
                let named = |of: &Traces| format!("{}/{}/{}/{}", of.namespace, of.job, of.group, of.task);
                self.failed(now_ms, (traces.map_or_else(|| allocation.to_string(), named), allocation));
            }
            Some(FailureKind::CommandNotFound | FailureKind::NotExecutable) => self.done(),
            // That a command was started is told when it is, which may be days before its end. Of others nobody saw how far they came.
            Some(FailureKind::OutOfMemory | FailureKind::LostTrack | FailureKind::Booted | FailureKind::Unreadable)
            | None => {}
        }
    }

    fn failed(&mut self, now_ms: u64, failed: (String, AllocationId)) {
        let of_its_task = self.failed.iter().filter(|(task, _)| *task == failed.0).count();
        // What was granted before fails, too, and says nothing new.
        if self.fail(now_ms) || of_its_task >= FAILURES_OF_ONE || self.failed.contains(&failed) {
            return;
        }
        self.failed.push(failed);
        if self.failed.len() >= FAILURES || self.rests > 0 {
            let pause_ms = PAUSE_MS_MIN.saturating_mul(1 << self.rests.min(16)).min(PAUSE_MS_MAX);
            *self = Self {
                failed: Vec::new(),
                until_ms: Some(now_ms.saturating_add(pause_ms)),
                rests: self.rests.saturating_add(1),
            };
        }
    }

    /// Whether the machine shall take no tasks for that.
    pub(super) fn fail(&self, now_ms: u64) -> bool {
        self.until_ms.is_some_and(|until_ms| now_ms < until_ms)
    }

    /// When time alone changes that.
    pub(super) fn wakes_at_ms(&self) -> Option<u64> {
        self.until_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Failure;

    fn id(slot: u32) -> AllocationId {
        AllocationId { slot, generation: 1 }
    }

    fn failed(kind: FailureKind) -> Exit {
        Exit::failed(Failure::new(kind, "no cgroup"), 0)
    }

    #[test]
    fn several_different_tasks_have_to_fail_in_a_row() {
        let mut setups = Setups::default();
        let exit = failed(FailureKind::Setup);
        for _ in 0..10 {
            setups.ended(0, (id(1), 0), None, &exit);
            setups.ended(0, (id(2), 0), None, &exit);
        }
        assert!(!setups.fail(0), "one of two may be at fault itself");
        setups.ended(0, (id(3), 0), None, &failed(FailureKind::CommandNotFound));
        setups.ended(0, (id(4), 0), None, &exit);
        setups.ended(0, (id(5), 0), None, &exit);
        assert!(!setups.fail(0), "one was set up in between");
        setups.ended(0, (id(6), 0), None, &failed(FailureKind::LostTrack));
        setups.ended(7, (id(7), 0), None, &exit);
        assert!(setups.fail(7) && setups.fail(7 + PAUSE_MS_MIN - 1) && !setups.fail(7 + PAUSE_MS_MIN));
        assert_eq!(setups.wakes_at_ms(), Some(7 + PAUSE_MS_MIN));
        setups.done();
        assert!(!setups.fail(7));
    }

    // Jobs of one task came one after the other, and each failed for good: all its attempts were made on a machine with room, and counted once.
    #[test]
    fn a_task_that_is_placed_again_counts_twice_and_alone_keeps_no_machine_from_others() {
        let mut setups = Setups::default();
        let exit = failed(FailureKind::Setup);
        let job = |name: &str| Traces { job: name.to_owned(), ..Traces::default() };
        for slot in 10..20 {
            setups.ended(0, (id(slot), 0), Some(&job("first")), &exit);
        }
        assert!(!setups.fail(0), "it may be at fault itself, however often it is placed");
        setups.ended(0, (id(20), 0), Some(&job("second")), &exit);
        assert!(setups.fail(0));
    }

    // The programs of one job's tasks lay on a mount that failed. They started again and again, and each time that a rest was over the next one began, a longer
    // one, though everything else could be set up there.
    #[test]
    fn what_fails_when_it_starts_again_keeps_no_machine_from_others() {
        let mut setups = Setups::default();
        let exit = failed(FailureKind::Setup);
        (1..=3).for_each(|slot| setups.ended(0, (id(slot), 1), None, &exit));
        assert!(!setups.fail(0));
        (1..=3).for_each(|slot| setups.ended(0, (id(slot), 0), None, &exit));
        let until_ms = setups.wakes_at_ms().unwrap_or_default();
        (1..=3).for_each(|slot| setups.ended(until_ms, (id(slot), 1), None, &exit));
        assert!(until_ms > 0 && !setups.fail(until_ms));
        setups.ended(until_ms, (id(4), 1), None, &failed(FailureKind::CommandNotFound));
        assert_eq!(setups, Setups::default(), "that one was set up");
    }

    // Each end of a task that had been set up before the trouble began ended the rest of its machine, which got the next tasks and failed them.
    #[test]
    fn an_end_of_what_was_set_up_before_ends_no_rest() {
        let mut setups = Setups::default();
        let exit = failed(FailureKind::Setup);
        (1..=3).for_each(|slot| setups.ended(0, (id(slot), 0), None, &exit));
        let resting = setups.clone();
        let well = Exit { code: Some(0), started_unix_ms: Some(1), ..Exit::default() };
        let killed = Exit { started_unix_ms: Some(1), ..failed(FailureKind::OutOfMemory) };
        setups.ended(1, (id(4), 0), None, &well);
        setups.ended(1, (id(5), 0), None, &killed);
        assert!(setups.fail(1) && setups == resting, "they were set up long ago");
        setups.done();
        assert!(!setups.fail(1), "one is set up now");
    }

    #[test]
    fn a_machine_that_fails_again_rests_longer_each_time_up_to_a_bound() {
        let mut setups = Setups::default();
        let exit = failed(FailureKind::Setup);
        (1..=3).for_each(|slot| setups.ended(0, (id(slot), 0), None, &exit));
        let (mut now_ms, mut pauses) = (0, Vec::new());
        for slot in 4..24 {
            let until_ms = setups.wakes_at_ms().unwrap_or_default();
            setups.ended(now_ms, (id(100 + slot), 0), None, &exit);
            assert_eq!(setups.wakes_at_ms(), Some(until_ms), "what was granted before changes nothing");
            pauses.push(until_ms - now_ms);
            now_ms = until_ms;
            setups.ended(now_ms, (id(slot), 0), None, &exit);
        }
        assert_eq!(pauses[..3], [PAUSE_MS_MIN, 2 * PAUSE_MS_MIN, 4 * PAUSE_MS_MIN]);
        assert_eq!(pauses.last(), Some(&PAUSE_MS_MAX));
    }
}
