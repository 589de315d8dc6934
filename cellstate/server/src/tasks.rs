//! What a server does by itself: leases that run out, sessions that nobody uses any more, reports of agents. Without one of these it must
//! not go on: it would look well, and no lease would ever run out.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use plenum_model::{Command, MachineId};
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};

use crate::agents::{Look, Standstill};
use crate::error::ServerError;
use crate::shared::Shared;
use crate::sync::LendingBounds;

/// How often sessions without a stream are looked at.
const SESSIONS_INTERVAL: Duration = Duration::from_secs(30);

/// Leases that ran out at once and are told each in a line of its own, as machines that are given up; of more the last line says how many.
const EXPIRED_TOLD_MAX: usize = 8;

/// How often snapshots that watchers were lent are looked at.
const SNAPSHOTS_INTERVAL_MIN: Duration = Duration::from_millis(10);
const SNAPSHOTS_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// Starts all tasks.
pub(crate) fn start(shared: &Arc<Shared>) -> Vec<JoinHandle<()>> {
    let gathering = shared.clone();
    vec![
        spawn("leases", shared, expire_leases(shared.clone())),
        spawn("sessions", shared, close_sessions(shared.clone())),
        spawn("snapshots", shared, take_snapshots_back(shared.clone())),
        spawn("reports", shared, async move { gathering.hub.reports.gather(&gathering).await }),
    ]
}

/// Starts a task that goes on for as long as the server does; if it panics, or ends before, the server ends.
pub(crate) fn spawn(
    name: &'static str,
    shared: &Arc<Shared>,
    task: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    let shared = shared.clone();
    tokio::spawn(async move {
        let mut task = pin!(task);
        let panicked = std::future::poll_fn(|context| {
            let polled = catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(context)));
            polled.map_or_else(|panic| Poll::Ready(Some(panic)), |polled| polled.map(|()| None))
        });
        match panicked.await {
            Some(panic) => shared.fail(ServerError::panicked(name, &*panic)),
            None if *shared.ending.borrow() => {}
            None => shared.fail(ServerError::Thread { name, what: "it ended by itself".to_owned() }),
        }
    })
}

/// What a part of a task gave, which ran beside it: its panic is the task's own. Nothing where the event loop ends.
pub(crate) fn joined<T>(part: Result<T, JoinError>) -> Option<T> {
    part.map_err(|error| error.try_into_panic().map(|panic| resume_unwind(panic))).ok()
}

/// Has work done on a thread of its own. None where the system gives no thread now and there is none to wait for: then it is not done, and what it holds
/// is let go of, unless there came a thread just then, which does it for nobody.
///
/// Tokio makes a panic of that, and keeps the work until there is a thread again. Others would wait as long for what it holds: so it is taken back.
pub(crate) fn on_a_thread<T: Send + 'static>(
    event_loop: &Handle,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<JoinHandle<T>> {
    let waiting = Arc::new(Mutex::new(Some(work)));
    let taking = waiting.clone();
    let doing = move || {
        let work = taking.lock().take();
        // Nobody asks any more what became of it, and nothing is to be said of it.
        let Some(work) = work else { resume_unwind(Box::new("it was taken back")) };
        work()
    };
    let begun = catch_unwind(AssertUnwindSafe(|| event_loop.spawn_blocking(doing))).ok();
    if begun.is_none() {
        let taken_back = waiting.lock().take();
        drop(taken_back);
    }
    begun
}

/// An event loop that gets no thread beside its own: there is no address space for such a stack.
#[cfg(test)]
pub(crate) fn runtime_without_threads() -> tokio::runtime::Runtime {
    let mut without = tokio::runtime::Builder::new_current_thread();
    without.enable_all().thread_stack_size(1 << 50).build().expect("it starts no thread")
}

/// Logs each lease that runs out. While the cell is read-only nothing is logged, and none runs out.
async fn expire_leases(shared: Arc<Shared>) {
    // From the start on, by when all leases begin: it may have waited for room, and nobody was served meanwhile.
    let mut standstill = Standstill::new(shared.settings.lease, 0);
    take_out(&shared, |now| standstill.started(now));
    loop {
        let read_only = shared.space.is_read_only();
        let now = reckon(&shared, &mut standstill, read_only);
        if !read_only {
            let expired = shared.hub.expire(now);
            tell_expired(&expired, |machine| shared.hub.name_of(machine));
            for (machine, epoch) in expired {
                shared.metrics.lease_lost();
                // Not waited for: the machine's next state comes back through the publishing thread.
                let expire = Command::ExpireMachine { machine, epoch };
                shared.ingress.push_own(crate::commit::Asked::by_server(expire), None);
            }
        }
        let pause = pause_micros(now, shared.hub.next_expiry_micros()).min(standstill.within_micros());
        let pause = Duration::from_micros(u64::try_from(pause).unwrap_or(0));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.hub.leases_changed.notified() => {}
        }
    }
}

/// Says whose leases ran out at once.
fn tell_expired(expired: &[(MachineId, u32)], name_of: impl Fn(MachineId) -> Option<Arc<str>>) {
    for (machine, epoch) in expired.iter().take(EXPIRED_TOLD_MAX) {
        let name = name_of(*machine);
        tracing::warn!(name = name.as_deref(), %machine, epoch, "lease ran out");
    }
    if expired.len() > EXPIRED_TOLD_MAX {
        tracing::warn!(others = expired.len() - EXPIRED_TOLD_MAX, "other leases ran out with these");
    }
}

/// Looks at the time since the last look, and takes what of it counts for nobody out of what runs. Gives the time of the look.
pub(crate) fn reckon(shared: &Shared, standstill: &mut Standstill, read_only: bool) -> i64 {
    take_out(shared, |now| standstill.look(now, read_only, shared.writing.micros(now)))
}

/// The same by this look.
fn take_out(shared: &Shared, look: impl FnOnce(i64) -> Look) -> i64 {
    let unnoticed = shared.clock.unnoticed_sleep_micros();
    let now = shared.clock.monotonic_micros().saturating_add(unnoticed);
    let look = look(now);
    if shared.respite.looked(now, look) {
        tracing::warn!(
            millis = look.stuck_since_micros.map_or(0, |since| now - since) / 1000,
            "a write of the log takes long: what is due to be taken from anybody waits until it has come back, and the term of a lease more"
        );
    }
    // Only then: nothing becomes due by it before that is known.
    shared.clock.slept(unnoticed);
    if look.slept {
        tracing::warn!(millis = look.lost_micros / 1000, "the server stood still; leases run for as much longer");
    }
    shared.hub.stood_still(look.lost_micros);
    if look.lost_micros > 0 {
        shared.sessions.lock().stood_still(look.lost_micros);
    }
    now
}

/// How long to wait for the next lease to run out.
fn pause_micros(now_micros: i64, due_micros: Option<i64>) -> i64 {
    due_micros.map_or(3_600_000_000, |due| due.saturating_sub(now_micros).max(10_000))
}

/// Takes snapshots back from watchers that stopped reading: nothing is asked of a session while its connection takes nothing.
async fn take_snapshots_back(shared: Arc<Shared>) {
    let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    let (idle, age) = (shared.settings.snapshot_idle, shared.settings.snapshot_patience);
    let bounds = LendingBounds { idle_micros: micros(idle), age_micros: micros(age) };
    let interval = (idle / 4).clamp(SNAPSHOTS_INTERVAL_MIN, SNAPSHOTS_INTERVAL_MAX);
    loop {
        tokio::time::sleep(interval).await;
        if shared.lending.is_empty() {
            continue;
        }
        let taking = shared.clone();
        // On a thread of its own: the last one who holds a picture may have many pages to free.
        let taken = on_a_thread(&Handle::current(), move || {
            let now = taking.clock.monotonic_micros();
            taking.lending.take_back(bounds, now, |revision| taking.recent.read().continues(revision))
        });
        let Some(taken) = taken else { continue };
        let snapshots = joined(taken.await).unwrap_or(0);
        if snapshots > 0 {
            tracing::info!(snapshots, "taken back from watchers that did not read on; they begin anew when they do");
        }
    }
}

/// How long after it is due a session is closed at the latest, where nothing is in the way.
pub(crate) fn sessions_interval(linger: Duration) -> Duration {
    SESSIONS_INTERVAL.min(linger)
}

/// Closes sessions whose streams have been gone for long.
async fn close_sessions(shared: Arc<Shared>) {
    let linger_micros = i64::try_from(shared.settings.session_linger.as_micros()).unwrap_or(i64::MAX);
    let interval = sessions_interval(shared.settings.session_linger);
    loop {
        tokio::time::sleep(interval).await;
        let now = shared.clock.monotonic_micros();
        if shared.space.is_read_only() || !shared.respite.is_over(now) {
            continue;
        }
        let overdue = shared.sessions.lock().overdue(now, linger_micros);
        for session in overdue {
            tracing::info!(session = session.0, "nobody uses the session any more: it is closed");
            shared.ingress.push_own(crate::commit::Asked::by_server(Command::CloseSession(session)), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing::Event;

    use super::*;
    use crate::engine::warnings::Warnings;
    use crate::{Server, ServerOptions};

    /// What the server ends with when this task is among its own.
    async fn ended_with(task: impl Future<Output = ()> + Send + 'static) -> ServerError {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(ServerOptions::new(dir.path())).await.unwrap();
        let watched = spawn("leases", server.shared(), task);
        tokio::time::timeout(Duration::from_secs(30), server.ended()).await.expect("the server ends");
        watched.await.unwrap();
        server.shutdown().await.unwrap_err()
    }

    // Nobody noticed, and no lease ran out any more.
    #[tokio::test]
    async fn a_server_whose_task_panics_or_ends_ends_and_says_so() {
        let panicked = ended_with(async { panic!("no lease of that number") }).await;
        assert_eq!(panicked.to_string(), "the thread leases failed: no lease of that number");
        let part = tokio::task::spawn_blocking(|| panic!("no such picture"));
        assert_eq!(
            ended_with(async { joined(part.await).unwrap_or(()) }).await.to_string(),
            "the thread leases failed: no such picture"
        );
        assert_eq!(ended_with(async {}).await.to_string(), "the thread leases failed: it ended by itself");
    }

    // The server took the panic for the end of a task without which it must not go on, and ended.
    #[test]
    fn where_the_system_gives_no_thread_nothing_panics() {
        let mut with_stacks = tokio::runtime::Builder::new_current_thread();
        let (done, told) = std::sync::mpsc::channel();
        // There is no address space for such a stack.
        let without = with_stacks.thread_stack_size(1 << 50).build().unwrap();
        let sender = done.clone();
        assert!(on_a_thread(without.handle(), move || sender.send(1)).is_none());
        let with = with_stacks.thread_stack_size(1 << 20).build().unwrap();
        let asked = on_a_thread(with.handle(), move || done.send(2)).expect("there is a thread");
        assert!(with.block_on(asked).unwrap().is_ok());
        assert_eq!(told.try_recv(), Ok(2));
    }

    // It was in the event loop's queue until there was a thread, and whoever needed the lock or the turn that it held waited as long.
    #[test]
    fn work_that_gets_no_thread_lets_go_of_what_it_holds() {
        let without = runtime_without_threads();
        let held = Arc::new(());
        let holds = held.clone();
        assert!(on_a_thread(without.handle(), move || drop(holds)).is_none());
        assert_eq!(Arc::strong_count(&held), 1);
    }

    // One line named the first of them, and of the others nobody could say which.
    #[test]
    fn of_leases_that_run_out_at_once_eight_are_named_and_the_others_counted() {
        let told = |leases: u32| {
            let (lines, named) = (Arc::new(Mutex::new(0)), Mutex::new(Vec::new()));
            let noted = lines.clone();
            let log = Warnings(move |_: &Event<'_>| *noted.lock() += 1);
            let expired: Vec<_> = (0..leases).map(|slot| (MachineId { slot, generation: 1 }, 1)).collect();
            let name_of = |machine: MachineId| {
                named.lock().push(machine.slot);
                Some(Arc::from("m1"))
            };
            tracing::subscriber::with_default(log, || tell_expired(&expired, name_of));
            (*lines.lock(), named.into_inner())
        };
        assert_eq!(told(0), (0, vec![]));
        assert_eq!(told(2), (2, vec![0, 1]));
        assert_eq!(told(8).0, 8);
        assert_eq!(told(100), (9, (0..8).collect::<Vec<_>>()));
    }

    #[test]
    fn nothing_is_looked_at_again_and_again_while_nothing_can_change() {
        assert_eq!(pause_micros(100, None), 3_600_000_000);
        assert_eq!(pause_micros(100, Some(5_000_100)), 5_000_000);
        assert_eq!(pause_micros(100, Some(100)), 10_000);
    }
}
