//! What agents report, gathered: one command for all that came in while the one before was on its way.

use parking_lot::Mutex;
use plenum_model::{Command, Transition};
use plenum_proto::bounds::TRANSITIONS_MAX;
use tokio::sync::{Notify, oneshot};
use tonic::Code;

use crate::api::failure::Failure;
use crate::shared::Shared;

/// Transitions that wait, of all agents.
const WAITING_MAX: usize = 16 * TRANSITIONS_MAX;
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
                return Err(Failure::new(Code::ResourceExhausted, "QUEUE_FULL", message));
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
            let (transitions, waiters) = self.take();
            if waiters.is_empty() {
                self.arrived.notified().await;
                continue;
            }
            let command = Command::ReportStatus(transitions);
            let answer = shared.ask(Shared::request(&PRINCIPAL.into(), "".into(), command)).await;
            for waiter in waiters {
                // An agent that left will report again.
                drop(waiter.send(answer.as_ref().map(|decided| decided.at.0).map_err(Clone::clone)));
            }
        }
    }

    fn take(&self) -> (Vec<Transition>, Vec<Waiter>) {
        let mut waiting = self.waiting.lock();
        let (mut transitions, mut waiters, mut count) = (Vec::new(), Vec::new(), 0);
        while let Some((report, _)) = waiting.reports.get(count) {
            if count > 0 && transitions.len() + report.len() > TRANSITIONS_MAX {
                break;
            }
            transitions.extend_from_slice(report);
            count += 1;
        }
        waiters.extend(waiting.reports.drain(..count).map(|(_, waiter)| waiter));
        waiting.transitions -= transitions.len();
        (transitions, waiters)
    }
}
