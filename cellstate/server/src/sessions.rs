//! Which sessions have a stream, and which have been without one too long.

use std::collections::BTreeMap;

use plenum_model::{Cell, SessionId};

#[derive(Clone, Copy, Debug)]
enum Standing {
    /// So many streams.
    Connected(u32),
    /// Without one since, in microseconds of the monotonic clock.
    Alone(i64),
}

/// All sessions of the cell, as their streams see them.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    standings: BTreeMap<SessionId, Standing>,
}

impl Sessions {
    /// Sessions of a cell whose server starts now: nobody knows since when they are alone.
    pub(crate) fn of_cell(cell: &Cell, now_micros: i64) -> Self {
        let alone = |session: &std::sync::Arc<plenum_model::Session>| (session.id, Standing::Alone(now_micros));
        Self { standings: cell.sessions().map(alone).collect() }
    }

    /// A stream began, or a simple client opened or used the session.
    pub(crate) fn seen(&mut self, session: SessionId, now_micros: i64) {
        let standing = self.standings.entry(session).or_insert(Standing::Alone(now_micros));
        if let Standing::Alone(since) = standing {
            *since = now_micros;
        }
    }

    pub(crate) fn connected(&mut self, session: SessionId) {
        let standing = self.standings.entry(session).or_insert(Standing::Connected(0));
        *standing = match *standing {
            Standing::Connected(streams) => Standing::Connected(streams + 1),
            Standing::Alone(_) => Standing::Connected(1),
        };
    }

    pub(crate) fn disconnected(&mut self, session: SessionId, now_micros: i64) {
        if let Some(standing) = self.standings.get_mut(&session) {
            *standing = match *standing {
                Standing::Connected(streams) if streams > 1 => Standing::Connected(streams - 1),
                _ => Standing::Alone(now_micros),
            };
        }
    }

    pub(crate) fn is_connected(&self, session: SessionId) -> bool {
        matches!(self.standings.get(&session), Some(Standing::Connected(_)))
    }

    /// Sessions that were alone too long; each is told once.
    pub(crate) fn overdue(&mut self, now_micros: i64, linger_micros: i64) -> Vec<SessionId> {
        let overdue = |standing: &Standing| matches!(standing, Standing::Alone(since) if now_micros.saturating_sub(*since) >= linger_micros);
        let gone: Vec<SessionId> =
            self.standings.iter().filter(|(_, standing)| overdue(standing)).map(|(session, _)| *session).collect();
        self.standings.retain(|_, standing| !overdue(standing));
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_session_without_any_stream_grows_old() {
        let mut sessions = Sessions::default();
        let (one, other) = (SessionId(1), SessionId(2));
        sessions.connected(one);
        sessions.connected(one);
        sessions.seen(other, 0);
        sessions.disconnected(one, 50);
        assert!(sessions.is_connected(one));
        assert_eq!(sessions.overdue(100, 100), [other]);
        sessions.disconnected(one, 150);
        sessions.seen(one, 200);
        assert_eq!((sessions.overdue(299, 100), sessions.overdue(300, 100)), (vec![], vec![one]));
    }
}
