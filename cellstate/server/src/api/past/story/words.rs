//! The words of stories: what became of a task, why an allocation went, and what was asked for.

use plenum_model::{AllocationState, End, Move, TaskState, counted};
use plenum_proto::v1;

/// What an unreachable machine ran is lost in two steps, and the end of it has no words but those of the first: the machine is given up, and later,
/// if ever, it tells that nothing of it is left.
const GIVEN_UP: &str = " is unreachable";

/// Why an allocation is told to stop, or is lost; none where nobody said.
pub(super) fn why_it_moved(moved: &Move) -> Option<String> {
    let reason = moved.reason.as_deref()?;
    let is_given_up = moved.status.state == AllocationState::Lost && reason.ends_with(GIVEN_UP);
    Some(if is_given_up { format!("given up: {reason}") } else { reason.to_owned() })
}

/// Why an allocation ended; none where nobody said.
pub(super) fn why_it_ended(end: &End) -> Option<&str> {
    let reason = end.reason.as_deref()?;
    let was_given_up = end.state == AllocationState::EndedLost && reason.ends_with(GIVEN_UP);
    Some(if was_given_up { "its machine is back, and it has ended for sure" } else { reason })
}

/// What became of a task; being placed is told by its grant.
pub(super) fn task_word(state: TaskState) -> Option<&'static str> {
    match state {
        TaskState::Waiting => Some("waiting"),
        TaskState::Live => None,
        TaskState::Done => Some("done"),
        TaskState::Failed => Some("failed"),
        TaskState::Cancelled => Some("cancelled"),
        TaskState::Blocked => Some("blocked"),
    }
}

/// The task, or how many they are.
pub(super) fn tasks_of(tasks: &[u32]) -> String {
    match tasks {
        [only] => format!("task {only}"),
        _ => counted(tasks.len() as u64, "task"),
    }
}

/// What was asked for, in a word.
pub(super) fn command_word(ask: &v1::command::Ask) -> &'static str {
    use v1::command::Ask;
    match ask {
        Ask::OpenServer(_) => "open-server",
        Ask::OpenSession(_) => "open-session",
        Ask::CloseSession(_) => "close-session",
        Ask::Commit(_) => "transaction",
        Ask::SubmitJob(_) => "submit-job",
        Ask::StopJob(_) => "stop-job",
        Ask::ScaleJob(_) => "scale-job",
        Ask::StopAllocation(_) => "stop-allocation",
        Ask::RegisterMachine(_) => "register-machine",
        Ask::ExpireMachine(_) => "expire-machine",
        Ask::ReportStatus(_) => "report-status",
        Ask::ReportFitness(_) => "report-fitness",
        Ask::CordonMachine(cordon) if cordon.cordoned => "cordon-machine",
        Ask::CordonMachine(_) => "uncordon-machine",
        Ask::DrainMachine(drain) if drain.deadline_micros != 0 => "drain-machine",
        Ask::DrainMachine(_) => "undrain-machine",
        Ask::RemoveMachine(_) => "remove-machine",
        Ask::Tick(_) => "tick",
        Ask::Launch(_) => "launch",
        Ask::TakeHold(_) => "take-hold",
        Ask::SetQuota(_) => "set-quota",
        Ask::SetPartition(_) => "set-partition",
        Ask::AdoptUnknown(_) => "adopt-unknown",
        Ask::PauseScheduler(pause) if pause.paused => "pause-scheduler",
        Ask::PauseScheduler(_) => "resume-scheduler",
        Ask::SetRights(_) => "set-rights",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // `ready` by `drain-machine`: it read as if the drain had made it ready.
    #[test]
    fn the_end_of_a_cordon_or_a_drain_is_not_told_as_its_beginning() {
        use v1::command::Ask;
        let cordon = |cordoned| command_word(&Ask::CordonMachine(v1::CordonMachine { machine: 1, cordoned }));
        let drain =
            |deadline_micros| command_word(&Ask::DrainMachine(v1::DrainMachine { machine: 1, deadline_micros }));
        assert_eq!([cordon(true), cordon(false)], ["cordon-machine", "uncordon-machine"]);
        assert_eq!([drain(60_000_000), drain(0)], ["drain-machine", "undrain-machine"]);
    }
}
