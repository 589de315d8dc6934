//! What a server does by itself: leases that run out, sessions that nobody uses any more, reports of agents.

use std::sync::Arc;
use std::time::Duration;

use plenum_model::Command;
use tokio::task::JoinHandle;

use crate::shared::Shared;

/// How often sessions without a stream are looked at.
const SESSIONS_INTERVAL: Duration = Duration::from_secs(30);

/// How often a read-only cell looks at leases: those that are over then stay so until there is room.
const READ_ONLY_PAUSE_MICROS: i64 = 1_000_000;

/// Starts all tasks.
pub(crate) fn start(shared: &Arc<Shared>) -> Vec<JoinHandle<()>> {
    let gathering = shared.clone();
    vec![
        tokio::spawn(expire_leases(shared.clone())),
        tokio::spawn(close_sessions(shared.clone())),
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
