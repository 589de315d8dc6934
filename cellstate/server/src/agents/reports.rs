//! What agents report, gathered: one command for all that came in while the one before was on its way.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use plenum_model::{Command, Decision, Transition};
use plenum_proto::bounds::TRANSITIONS_MAX;
use tokio::sync::{Notify, oneshot};
use tonic::Code;

use crate::api::failure::Failure;
use crate::commit::{first_within, reports_within};
use crate::shared::{Decided, Shared};

/// Transitions that wait, of all agents.
const WAITING_MAX: usize = 16 * TRANSITIONS_MAX;
/// When an agent tries again: by then some commands of reports are done with.
const FULL_RETRY: Duration = Duration::from_millis(100);
/// Whom the log names for them.
const PRINCIPAL: &str = "agents";

/// Told the revision at which what it reported is in the books, or why it is not.
type Waiter = oneshot::Sender<Result<u64, Failure>>;

#[derive(Default)]
struct Waiting {
    transitions: usize,
    reports: Vec<(Vec<Transition>, Waiter)>,
}

/// Reports on their way.
#[derive(Default)]
pub(crate) struct Reports {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

impl Reports {
    /// Takes a report, and waits until it is durable.
    pub(crate) async fn report(&self, transitions: Vec<Transition>) -> Result<u64, Failure> {
        let (waiter, answered) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if waiting.transitions + transitions.len() > WAITING_MAX {
                let message = format!("{WAITING_MAX} transitions wait already; report again later");
                return Err(Failure::new(Code::ResourceExhausted, "QUEUE_FULL", message).retry(FULL_RETRY));
            }
            waiting.transitions += transitions.len();
            waiting.reports.push((transitions, waiter));
        }
        self.arrived.notify_one();
        answered.await.unwrap_or_else(|_| Err(Failure::ending()))
    }

    /// Gathers and asks, one command at a time.
    pub(crate) async fn gather(&self, shared: &Shared) {
        loop {
            let bytes_max = shared.settings.reported_bytes_max();
            let (transitions, waiters) = self.take(bytes_max);
            if waiters.is_empty() {
                self.arrived.notified().await;
                continue;
            }
            let answer = ask(shared, transitions, bytes_max).await;
            let mut begins = 0;
            for (transitions, waiter) in waiters {
                let rejected = answer.rejected.range(begins..begins + transitions).next();
                let told = rejected.map_or_else(|| answer.at.clone(), |(_, failure)| Err(failure.clone()));
                begins += transitions;
                // An agent that left will report again.
                drop(waiter.send(told));
            }
        }
    }

    /// As many reports as one command of the log has room for, by their number and by their bytes; and of each, how many of the transitions are
    /// its own.
    fn take(&self, bytes_max: usize) -> (Vec<Transition>, Vec<(usize, Waiter)>) {
        let mut waiting = self.waiting.lock();
        let reports = waiting.reports.iter().map(|(report, _)| report.as_slice());
        let count = reports_within(reports, TRANSITIONS_MAX, bytes_max);
        let (mut transitions, mut waiters) = (Vec::new(), Vec::new());
        for (report, waiter) in waiting.reports.drain(..count) {
            waiters.push((report.len(), waiter));
            transitions.extend(report);
        }
        waiting.transitions -= transitions.len();
        (transitions, waiters)
    }
}

/// What became of reports.
struct Answer {
    /// The revision at which they are in the books; or why they are not, which holds for all: who reported tries again, and what was decided
    /// before has no effect a second time.
    at: Result<u64, Failure>,
    /// By their position, transitions that the cell takes in no command, however small: what follows from one may come to more than the log
    /// has room for.
    rejected: BTreeMap<usize, Failure>,
}

/// Asks for what was reported, in one command if the log has room for that. One that is rejected is asked for in halves, so that nobody hears of
/// what others reported.
async fn ask(shared: &Shared, transitions: Vec<Transition>, bytes_max: usize) -> Answer {
    let (mut at, mut rejected) = (None, BTreeMap::new());
    let mut left = vec![(0, transitions)];
    while let Some((begins, mut transitions)) = left.pop() {
        let rest = transitions.split_off(first_within(&transitions, bytes_max));
        if !rest.is_empty() {
            left.push((begins + transitions.len(), rest));
        }
        let command = Command::ReportStatus(transitions.clone());
        match shared.ask(Shared::request(&PRINCIPAL.into(), "".into(), command)).await {
            Ok(Decided { decision: Decision::Rejected(rejection), .. }) => {
                let second = transitions.split_off(transitions.len() / 2);
                if transitions.is_empty() {
                    tracing::warn!(allocation = %second[0].allocation, %rejection, "what was reported is not in the books");
                    rejected.insert(begins, rejection.into());
                } else {
                    left.push((begins + transitions.len(), second));
                    left.push((begins, transitions));
                }
            }
            Ok(decided) => at = Some(decided.at.0),
            Err(failure) => return Answer { at: Err(failure), rejected },
        }
    }
    // Where all of it was rejected, each has its own reason.
    Answer { at: at.ok_or_else(Failure::ending), rejected }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_report_that_there_is_no_room_for_is_told_when_to_come_again() {
        let reports = Reports::default();
        reports.waiting.lock().transitions = WAITING_MAX - 1;
        let transition = Transition {
            allocation: plenum_model::AllocationId { slot: 0, generation: 1 },
            machine: plenum_model::MachineId { slot: 0, generation: 1 },
            epoch: 1,
            state: plenum_model::AllocationState::Running,
            ready: false,
            exit_code: 0,
            restarts: 0,
            reason: "".into(),
        };
        let full = reports.report(vec![transition; 2]).await.unwrap_err();
        assert_eq!((full.status, full.code, full.retry_after), (Code::ResourceExhausted, "QUEUE_FULL", FULL_RETRY));
        let waiting = reports.waiting.lock();
        assert_eq!((waiting.transitions, waiting.reports.len()), (WAITING_MAX - 1, 0), "it takes no room");
    }
}
