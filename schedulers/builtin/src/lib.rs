//! The built-in schedulers, each a small module on the public SDK: what they can do, any team's own scheduler can do.
//!
//! | scheduler | for | places by |
//! |---|---|---|
//! | [`Batch`] | many short tasks | best fit, apart from its neighbours; GPUs by their worth |
//! | [`Service`] | tasks that run for ever, also off machines that are drained | spread |
//!
//! They see nothing of the core or the server.

mod batch;
mod evictions;
mod gpus;
#[cfg(test)]
mod holding_tests;
#[cfg(test)]
mod leaving_tests;
mod placer;
mod service;
mod shared_machine;
#[cfg(test)]
mod special_tests;

use std::future::Future;
use std::pin::Pin;

pub use batch::Batch;
pub use gpus::GpuPolicy;
pub use service::Service;

pub use plenum_sdk::{Options as SchedulerOptions, RunError, asked_to_end};

/// Names of the built-in schedulers.
pub const NAMES: &[&str] = &[batch::NAME, service::NAME];

/// Why a built-in scheduler could not begin.
#[derive(Debug)]
pub enum SchedulerError {
    /// There is none of that name.
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// See [`RunError`].
    Run(RunError),
}

impl std::fmt::Display for SchedulerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown { name } => {
                let shown: String = name.chars().take(80).collect();
                write!(f, "expected a built-in scheduler ({}), found {shown:?}", NAMES.join(", "))
            }
            Self::Run(_) => f.write_str("the scheduler could not begin"),
        }
    }
}

impl std::error::Error for SchedulerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unknown { .. } => None,
            Self::Run(error) => Some(error),
        }
    }
}

/// Runs the built-in scheduler of that name until `shutdown` is ready. Where the options name no principal it is `scheduler/NAME`:
/// the cell queues fairly between principals, so each scheduler needs one of its own, apart from people's `local`. What is given back is `Send`, and so is `shutdown`.
///
/// # Errors
/// When there is none of that name, or something in the options can never work.
pub async fn run(
    name: &str,
    options: SchedulerOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), SchedulerError> {
    run_until(name, options, Box::pin(shutdown)).await
}

/// What is waited for, with its type left out: all of it would be compiled once more in each crate that waits for it.
type Waiting<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

fn run_until<'a>(
    name: &'a str,
    options: SchedulerOptions,
    shutdown: Waiting<'a, ()>,
) -> Waiting<'a, Result<(), SchedulerError>> {
    Box::pin(run_one(name, options, shutdown))
}

async fn run_one(name: &str, mut options: SchedulerOptions, shutdown: Waiting<'_, ()>) -> Result<(), SchedulerError> {
    if options.principal.is_empty() {
        options.principal = format!("scheduler/{name}");
    }
    match name {
        batch::NAME => plenum_sdk::run(options, Batch::default(), shutdown).await,
        service::NAME => plenum_sdk::run(options, Service::default(), shutdown).await,
        _ => return Err(SchedulerError::Unknown { name: name.to_owned() }),
    }
    .map_err(SchedulerError::Run)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use plenum_sdk::api::ListRequest;
    use plenum_sdk::{Client, Holding};
    use plenum_testkit::{JobBuilder, TestCell};

    use super::*;

    #[tokio::test]
    async fn an_unknown_name_is_answered_with_the_known_ones() {
        let refused = run("bath", SchedulerOptions::new("http://127.0.0.1:1"), async {}).await;
        assert_eq!(refused.unwrap_err().to_string(), "expected a built-in scheduler (batch, service), found \"bath\"");
    }

    #[tokio::test]
    async fn each_has_a_queue_of_its_own_in_the_cell() {
        let mut cell = TestCell::start().await;
        cell.machine("m1", 2000, Duration::from_millis(20)).await;
        let work = async {
            cell.submit(&JobBuilder::new("words", "batch").group("map", 1, 500)).await;
            cell.wait_until_complete("words").await;
            cell.transactions("batch").await
        };
        let transactions = tokio::select! {
            ended = run("batch", SchedulerOptions::new(cell.address()), std::future::pending()) => panic!("{ended:?}"),
            transactions = work => transactions,
        };
        assert_eq!(transactions[0].principal, "scheduler/batch");
    }

    #[tokio::test]
    async fn a_gang_that_starves_holds_room_in_a_real_cell_until_it_starts() {
        let mut cell = TestCell::start().await;
        cell.machine("m1", 1000, Duration::from_millis(20)).await;
        cell.machine("m2", 1000, Duration::from_millis(20)).await;
        let mut options = SchedulerOptions::new(cell.address());
        options.principal = "scheduler/batch".into();
        let holds = Holding { after_wait_micros: 100_000, within_micros: 1_000_000, ..Holding::default() };
        options.settings.holds = Some(holds);
        let _batch = cell.scheduler_with(Batch::default(), options);
        cell.submit(&JobBuilder::new("long", "batch").group("main", 1, 1000).forever()).await;
        cell.wait_for("long", |job| job.groups[0].running == 1).await;
        cell.submit(&JobBuilder::new("gang", "batch").group("main", 2, 1000).min(2)).await;
        let client = Client::new(cell.address(), "").unwrap();
        let held = async || {
            let listed = client.govern().list_holds(ListRequest::default()).await.unwrap().into_inner();
            listed.holds.into_iter().map(|hold| (hold.job, hold.scheduler, hold.machines.len())).collect::<Vec<_>>()
        };
        let expected = [("gang".to_owned(), "batch".to_owned(), 1)];
        let begun = Instant::now();
        while held().await != expected {
            assert!(begun.elapsed() < Duration::from_secs(30), "nothing is held");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Longer than it asks for at a time.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert_eq!(held().await, expected, "it is renewed");
        cell.machine("m3", 1000, Duration::from_millis(20)).await;
        cell.wait_until_complete("gang").await;
        assert_eq!(held().await, []);
    }

    #[tokio::test]
    async fn batch_and_service_share_a_real_cell() {
        let mut cell = TestCell::start().await;
        cell.machine("m1", 2000, Duration::from_millis(20)).await;
        cell.machine("m2", 2000, Duration::from_millis(20)).await;
        let _batch = cell.scheduler(Batch::default());
        let _service = cell.scheduler(Service::default());
        cell.submit(&JobBuilder::new("web", "service").group("web", 2, 500).forever()).await;
        // First: where `words` has filled a machine, the other one takes both.
        cell.wait_for("web", |job| job.groups[0].running == 2).await;
        let words = JobBuilder::new("words", "batch")
            .same_machine()
            .group("split", 1, 500)
            .group("map", 8, 500)
            .after("split")
            .group("reduce", 1, 1000)
            .after("map");
        cell.submit(&words).await;
        cell.wait_until_complete("words").await;
        let web = cell.wait_for("web", |job| job.groups[0].running == 2).await;
        assert_eq!(web.groups[0].waiting, 0);
        let allocations = cell.allocations("web").await;
        assert_ne!(allocations[0].machine, allocations[1].machine);
    }
}
