//! What an agent says of ends, held against what its driver did: whoever reads a report knows no other truth.

use plenum_agent::driver::{Exit, FailureKind, TaskSpec};
use plenum_agent::fake::Ended;
use plenum_agent::reconciler::Status;
use plenum_model::{AllocationId, AllocationState};

use crate::books::{Checked, hold};

/// The checker.
const NAME: &str = "invariant_ends_are_told_as_they_were";

/// An agent says this of an allocation whose latest start, if there was one and it is over, ended so.
pub(super) fn check(machine: &str, allocation: AllocationId, status: &Status, ended: Option<Ended<'_>>) -> Checked {
    let is_true = !status.state.is_end() || is_true(status, ended);
    hold(is_true, NAME, || format!("{machine} says of {allocation}: {status:?}, and there was {ended:?}"))
}

/// What has done its work is not started again.
pub(super) fn check_start(machine: &str, task: &TaskSpec, ended: Option<Ended<'_>>) -> Checked {
    let is_done = ended.is_some_and(|ended| !ended.forgotten && is_done(ended.exit));
    hold(!is_done, NAME, || {
        format!("{machine} starts {}, restart {}, although there was {ended:?}", task.allocation, task.restart)
    })
}

/// It ended by itself, and well.
fn is_done(exit: &Exit) -> bool {
    exit.code == Some(0) && exit.failure.is_none() && !exit.stop_requested
}

/// What was written down of it can't be read: its agent knows nothing of how it ended.
fn is_unreadable(exit: &Exit) -> bool {
    exit.failure.as_ref().is_some_and(|failure| failure.kind == FailureKind::Unreadable)
}

fn code(exit: &Exit) -> i32 {
    exit.code.or_else(|| exit.signal.map(|signal| 128 + signal)).unwrap_or(0)
}

fn is_true(status: &Status, ended: Option<Ended<'_>>) -> bool {
    // Of what was never started here, or is not over, nobody can say that it did its work. That nothing of it is left is judged by others.
    let Some(ended) = ended else { return status.state != AllocationState::Complete };
    let is_latest = status.restarts == ended.restart;
    let is_same = is_latest && status.exit_code == code(ended.exit);
    match status.state {
        AllocationState::Complete => is_same && is_done(ended.exit),
        // There is no trace of it any more: an agent that is asked once more can only say that it is gone.
        _ if ended.forgotten => true,
        _ if is_done(ended.exit) => false,
        AllocationState::EndedLost => is_latest && (ended.booted || is_unreadable(ended.exit)) && status.exit_code == 0,
        // Failed; or stopped, perhaps between an end and the next start: then it ended as that start did.
        _ => is_same,
    }
}

#[cfg(test)]
mod tests {
    use plenum_agent::driver::Failure;

    use super::*;

    fn says(state: AllocationState, exit_code: i32, restarts: u32) -> Status {
        Status { state, ready: false, exit_code, reason: "".into(), restarts }
    }

    // The reports of agents were the only evidence of how anything had ended.
    #[test]
    fn an_end_that_was_another_is_found() {
        use AllocationState::{Complete, EndedLost, Failed, Stopped};
        let well = Exit { code: Some(0), ..Exit::default() };
        let badly = Exit { code: Some(1), ..Exit::default() };
        let killed = Exit { signal: Some(15), stop_requested: true, ..Exit::default() };
        let check = |exit: &Exit, booted: bool, forgotten: bool, status: &Status| {
            let ended = Ended { restart: 2, exit, booted, forgotten };
            check("m0", AllocationId { slot: 1, generation: 1 }, status, Some(ended)).is_ok()
        };
        for (exit, state, exit_code) in
            [(&well, Complete, 0), (&badly, Failed, 1), (&badly, Stopped, 1), (&killed, Stopped, 143)]
        {
            assert!(check(exit, false, false, &says(state, exit_code, 2)), "{exit:?} {state:?}");
            assert!(!check(exit, false, false, &says(state, exit_code, 1)), "another start: {exit:?} {state:?}");
            assert!(!check(exit, false, false, &says(state, 7, 2)), "another code: {exit:?} {state:?}");
        }
        for (exit, state, exit_code) in [
            (&well, Failed, 0),
            (&well, Stopped, 0),
            (&well, EndedLost, 0),
            (&badly, Complete, 1),
            (&badly, Complete, 0),
            (&badly, Stopped, 0),
            (&killed, Complete, 0),
            (&killed, Stopped, 0),
        ] {
            assert!(!check(exit, true, false, &says(state, exit_code, 2)), "{exit:?} {state:?}");
        }
        assert!(
            check(&badly, true, false, &says(EndedLost, 0, 2)) && !check(&badly, false, false, &says(EndedLost, 0, 2))
        );
        let unread = Exit::failed(Failure::new(FailureKind::Unreadable, "it can't be read"), 7);
        for (state, is_true) in [(EndedLost, true), (Complete, false)] {
            assert_eq!(check(&unread, false, false, &says(state, 0, 2)), is_true, "{state:?}");
        }
        // An agent that has no trace of it says that it is gone, and never that it did its work.
        assert!(check(&well, false, true, &says(Failed, 0, 0)) && !check(&badly, false, true, &says(Complete, 0, 2)));
    }
}
