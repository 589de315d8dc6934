//! What a server does by itself: leases that run out, sessions that nobody uses any more, reports of agents.

use std::sync::Arc;
use std::time::Duration;

use plenum_model::Command;
use tokio::task::JoinHandle;

use crate::shared::Shared;
use crate::sync::LendingBounds;

/// How often sessions without a stream are looked at.
const SESSIONS_INTERVAL: Duration = Duration::from_secs(30);

/// How often a read-only cell looks at leases: those that are over then stay so until there is room.
const READ_ONLY_PAUSE_MICROS: i64 = 1_000_000;

/// How often snapshots that watchers were lent are looked at.
const SNAPSHOTS_INTERVAL_MIN: Duration = Duration::from_millis(10);
const SNAPSHOTS_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// Starts all tasks.
pub(crate) fn start(shared: &Arc<Shared>) -> Vec<JoinHandle<()>> {
    let gathering = shared.clone();
    vec![
        tokio::spawn(expire_leases(shared.clone())),
        tokio::spawn(close_sessions(shared.clone())),
        tokio::spawn(take_snapshots_back(shared.clone())),
        tokio::spawn(async move { gathering.hub.reports.gather(&gathering).await }),
    ]
}

/// Logs each lease that runs out. While the cell is read-only nothing is logged, and leases get a fresh term by the next renewal.
async fn expire_leases(shared: Arc<Shared>) {
    loop {
        let now = shared.clock.monotonic_micros();
        let read_only = shared.space.is_read_only();
        if !read_only {
            let expired = shared.hub.expire(now);
            if let Some((machine, epoch)) = expired.first() {
                // When many agents go at once, one line says it.
                tracing::warn!(%machine, epoch, others = expired.len() - 1, "lease ran out");
            }
            for (machine, epoch) in expired {
                shared.metrics.lease_lost();
                // Not waited for: the machine's next state comes back through the publishing thread.
                let expire = Command::ExpireMachine { machine, epoch };
                shared.ingress.push_own(crate::commit::Asked::by_server(expire), None);
            }
        }
        let pause = pause_micros(now, shared.hub.next_expiry_micros(), read_only);
        let pause = Duration::from_micros(u64::try_from(pause).unwrap_or(0));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.hub.leases_changed.notified() => {}
        }
    }
}

/// How long to wait for the next lease to run out: one that is over already can only wait for the cell to take changes again.
fn pause_micros(now_micros: i64, due_micros: Option<i64>, read_only: bool) -> i64 {
    let least = if read_only { READ_ONLY_PAUSE_MICROS } else { 10_000 };
    due_micros.map_or(3_600_000_000, |due| due.saturating_sub(now_micros).max(least))
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
        let taken = tokio::task::spawn_blocking(move || {
            let now = taking.clock.monotonic_micros();
            taking.lending.take_back(bounds, now, |revision| taking.recent.read().continues(revision))
        });
        let snapshots = taken.await.unwrap_or(0);
        if snapshots > 0 {
            tracing::info!(snapshots, "taken back from watchers that did not read on; they begin anew when they do");
        }
    }
}

/// Closes sessions whose streams have been gone for long.
async fn close_sessions(shared: Arc<Shared>) {
    let linger_micros = i64::try_from(shared.settings.session_linger.as_micros()).unwrap_or(i64::MAX);
    let interval = SESSIONS_INTERVAL.min(shared.settings.session_linger);
    loop {
        tokio::time::sleep(interval).await;
        if shared.space.is_read_only() {
            continue;
        }
        let overdue = shared.sessions.lock().overdue(shared.clock.monotonic_micros(), linger_micros);
        for session in overdue {
            tracing::info!(session = session.0, "nobody uses the session any more: it is closed");
            shared.ingress.push_own(crate::commit::Asked::by_server(Command::CloseSession(session)), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_looked_at_again_and_again_while_nothing_can_change() {
        assert_eq!(pause_micros(100, None, false), 3_600_000_000);
        assert_eq!(pause_micros(100, Some(5_000_100), false), 5_000_000);
        assert_eq!(pause_micros(100, Some(100), false), 10_000);
        assert_eq!(pause_micros(100, Some(0), true), READ_ONLY_PAUSE_MICROS);
        assert_eq!(pause_micros(100, Some(5_000_100), true), 5_000_000);
    }
}
