//! Runs a scheduler in a process: what its line to the cell brings goes into the runtime, and what that says is done. Decides nothing.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::pin;

use crate::address::{RunError, endpoint, principal};
use crate::line::{Line, gone, monotonic_micros};
use crate::runtime::{Input, Output, SchedulerRuntime};
use crate::scheduler::Scheduler;
use crate::settings::Settings;

/// Where the cell is, and how to behave towards it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Such as `http://127.0.0.1:7070`.
    pub address: String,
    /// Who the scheduler is, for the cell; on loopback `local` if empty.
    pub principal: String,
    /// Of the runtime.
    pub settings: Settings,
}

impl Options {
    /// A cell at an address, and everything else as usual.
    #[must_use]
    pub fn new(address: impl Into<String>) -> Self {
        Self { address: address.into(), principal: String::new(), settings: Settings::default() }
    }
}

/// A seed of this process, so that a thousand do not come back to a restarted cell in the same instant.
pub(crate) fn drawn_seed() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// Settings with the clock of the process, and with a seed where they have none: whoever begins from the default ones has neither.
fn of_a_process(settings: Settings) -> Settings {
    let seed = if settings.seed == 0 { drawn_seed() } else { settings.seed };
    Settings { seed, stopwatch: monotonic_micros, ..settings }
}

/// Runs a scheduler against a cell until `shutdown` is ready. Connects again by itself, for as long as it takes: a cell that
/// is not there yet, or restarts, is no error. Where the settings have no seed, one is drawn at random; the one that decided stands in each transaction.
///
/// # Errors
/// Only before it begins: when something in the options can never work.
pub async fn run<S: Scheduler>(
    options: Options,
    scheduler: S,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let endpoint = endpoint(&options.address)?;
    let principal = principal(&options.principal)?;
    let name = scheduler.name().to_owned();
    let runtime = SchedulerRuntime::new(of_a_process(options.settings), scheduler)?;
    let mut shell = Shell { runtime, line: Line::new(name, endpoint, principal) };
    shell.handle(Input::Start);
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            () = shell.step() => {}
        }
    }
    shell.tell_of_end();
    shell.line.close(shell.runtime.close(), shell.runtime.cell_id()).await;
    Ok(())
}

struct Shell<S> {
    runtime: SchedulerRuntime<S>,
    line: Line,
}

impl<S: Scheduler> Shell<S> {
    /// Waits for what happens next, and does what follows from it.
    async fn step(&mut self) {
        let input = self.line.next().await;
        if self.handle(input) {
            // What was sent has only woken the task of the connection. Where this one is on a thread of tokio's, that waits for the same thread, which no other takes
            // it from, and as long as there is more to receive the next decision would come before it.
            tokio::task::yield_now().await;
        }
    }

    /// True where something was sent.
    fn handle(&mut self, input: Input) -> bool {
        let (mut input, mut sends) = (Some(input), false);
        while let Some(next) = input.take() {
            for output in self.runtime.handle(monotonic_micros(), next) {
                sends |= matches!(output, Output::Send(_));
                // It leaves the connection by itself, and would only be told what it knows.
                let leaves = matches!(output, Output::ConnectAfter { .. });
                if !self.line.carry_out(output, self.runtime.cell_id()) {
                    input = Some(gone("too much waits to be sent"));
                } else if leaves {
                    input = None;
                }
            }
        }
        sends
    }

    fn tell_of_end(&self) {
        let counters = self.runtime.counters();
        let (decisions, transactions) = (counters.decisions, counters.transactions);
        let (claims_granted, claims_conflict) = (counters.claims_granted, counters.claims_conflict);
        tracing::info!(scheduler = self.line.name(), decisions, transactions, claims_granted, claims_conflict, "ends");
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use plenum_proto::v1;
    use plenum_proto::v1::session_response::Tell;

    use super::*;
    use crate::scheduler::Decision;
    use crate::view::View;

    struct Idle;

    impl Scheduler for Idle {
        fn name(&self) -> &str {
            "idle"
        }

        fn decide(&mut self, _: &View<'_>) -> Decision {
            Decision::default()
        }
    }

    fn idle(address: &str) -> Shell<Idle> {
        let line = Line::new("idle".into(), endpoint(address).unwrap(), None);
        Shell { runtime: SchedulerRuntime::new(Settings::default(), Idle).unwrap(), line }
    }

    // Two processes that were set this way came back to a restarted cell in the same instants.
    #[test]
    fn a_process_draws_a_seed_where_its_settings_have_none() {
        let settings = of_a_process(Settings { window: 2, ..Settings::default() });
        let other = of_a_process(Settings::default());
        assert_ne!(settings.seed, other.seed);
        assert_eq!((settings.window, of_a_process(Settings { seed: 7, ..settings }).seed), (2, 7));
    }

    /// Asked to end in a pause between two attempts it ended without a word, and its session was a silent peer for ten minutes.
    #[tokio::test]
    async fn who_ends_without_a_connection_makes_one_to_close_its_session() {
        let cell = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ends = async |session: u64| {
            let mut shell = idle(&format!("http://{}", cell.local_addr().unwrap()));
            shell.handle(Input::Connected);
            let welcome = v1::Welcome { session, incarnation: 1, ..v1::Welcome::default() };
            shell.handle(Input::Received(v1::SessionResponse { tell: Some(Tell::Welcome(welcome)) }));
            tokio::select! {
                biased;
                reached = cell.accept() => reached.is_ok(),
                () = shell.line.close(shell.runtime.close(), shell.runtime.cell_id()) => false,
            }
        };
        assert!(ends(5).await);
        assert!(!ends(0).await, "it has none");
    }

    /// Where several threads of tokio's serve it, what it had sent went out after the next decisions, however long those took.
    #[tokio::test]
    async fn who_has_sent_something_lets_others_have_their_turn_before_what_comes_next() {
        let mut shell = idle("http://127.0.0.1:7070");
        loop {
            let mut step = Box::pin(shell.step());
            let is_over = std::future::poll_fn(|context| Poll::Ready(step.as_mut().poll(context).is_ready())).await;
            assert!(!is_over, "it has greeted, and goes on at once");
            drop(step);
            if shell.line.calls() {
                return;
            }
            // The timer has not looked at the time yet.
            tokio::task::yield_now().await;
        }
    }
}
