//! Which sessions have a stream, which have been without one too long, and whose they are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use plenum_model::{Cell, Delta, Session, SessionChange, SessionId};

#[derive(Clone, Copy, Debug)]
enum Standing {
    /// So many streams.
    Connected(u32),
    /// Without one since, in microseconds of the monotonic clock.
    Alone(i64),
    /// Of a simple client, which has no stream, and was last heard of then.
    Used(i64),
}

/// How long after its last call a simple client counts as connected, in microseconds.
const USED_MICROS: i64 = 30_000_000;

/// Whose a session is: nothing of this changes while it is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) scheduler: Arc<str>,
    pub(crate) principal: Arc<str>,
    pub(crate) namespace: Arc<str>,
}

impl From<&Session> for Owner {
    fn from(session: &Session) -> Self {
        let Session { scheduler, principal, namespace, .. } = session;
        Self { scheduler: scheduler.clone(), principal: principal.clone(), namespace: namespace.clone() }
    }
}

/// The highest number of a session's transactions that was queued. Of those up to it one may have been decided, and its asker not have heard
/// of that: the connection broke before. And how many streams may still bring one.
#[derive(Debug)]
pub(crate) struct HighestQueued {
    number: AtomicU64,
    /// Streams of the session.
    streams: AtomicU32,
}

impl HighestQueued {
    pub(crate) fn new(number: u64) -> Arc<Self> {
        Arc::new(Self { number: AtomicU64::new(number), streams: AtomicU32::new(0) })
    }

    /// A transaction is queued. To be called before anybody can decide it.
    pub(crate) fn raise(&self, number: u64) {
        // Hardly ever by two at a time, and read before it is written: a line that is not written stays where it is.
        if !self.covers(number) {
            self.number.fetch_max(number, Ordering::AcqRel);
        }
    }

    /// Whether the number, or a higher one, was queued before.
    pub(crate) fn covers(&self, number: u64) -> bool {
        number <= self.number.load(Ordering::Acquire)
    }

    /// Whether the number may have come before, or may yet: while the session has another stream than so many of who asks, what was sent over that one
    /// may still wait in its connection, and be executed when it is read.
    pub(crate) fn may_cover(&self, number: u64, own_streams: u32) -> bool {
        self.covers(number) || self.streams.load(Ordering::Acquire) > own_streams
    }
}

/// Whether a session is over: it was closed, or is about to be as nobody used it.
#[derive(Debug, Default)]
pub(crate) struct Over(AtomicBool);

impl Over {
    /// Looked at by each of its streams whenever that goes on.
    pub(crate) fn is_so(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A session that is open.
#[derive(Debug)]
struct Known {
    owner: Owner,
    queued: Arc<HighestQueued>,
    over: Arc<Over>,
}

impl Known {
    fn new(owner: Owner, highest_queued: u64) -> Self {
        Self { owner, queued: HighestQueued::new(highest_queued), over: Arc::default() }
    }
}

/// All sessions of the cell, as their streams see them.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    standings: BTreeMap<SessionId, Standing>,
    /// Of the sessions that were open at the start, and were opened since: so that a request in one needs no snapshot of the cell. One
    /// that was closed may still be here for a while; what is asked in it is rejected by the core.
    known: BTreeMap<SessionId, Known>,
}

impl Sessions {
    /// Sessions of a cell whose server starts now: nobody knows since when they are alone.
    pub(crate) fn of_cell(cell: &Cell, now_micros: i64) -> Self {
        let alone = |session: &Arc<Session>| (session.id, Standing::Alone(now_micros));
        let known = |session: &Arc<Session>| {
            let last = session.decided.back().map_or(0, |last| last.number);
            (session.id, Known::new(Owner::from(&**session), last))
        };
        Self { standings: cell.sessions().map(alone).collect(), known: cell.sessions().map(known).collect() }
    }

    /// A session was opened.
    pub(crate) fn opened(&mut self, session: SessionId, owner: Owner) {
        self.known.entry(session).or_insert_with(|| Known::new(owner, 0));
    }

    /// Takes what is published, in order: it comes later than the answers, and who asked may be gone by then. A session whose opener left
    /// nobody else would ever count as alone. One that was closed meanwhile is known again from its opening to its closing.
    pub(crate) fn published(&mut self, delta: &Delta, now_micros: i64) {
        for change in &delta.sessions {
            match change {
                SessionChange::Opened { scheduler, principal, namespace } => {
                    let session = SessionId(delta.revision.0);
                    let (scheduler, principal, namespace) = (scheduler.clone(), principal.clone(), namespace.clone());
                    let owner = Owner { scheduler, principal, namespace };
                    self.standings.entry(session).or_insert(Standing::Alone(now_micros));
                    self.opened(session, owner);
                }
                SessionChange::Closed(session) => {
                    self.closed(*session);
                    // It will not grow old.
                    self.standings.remove(session);
                }
                SessionChange::Number { .. } => {}
            }
        }
    }

    /// A session was closed, or is about to be. Its streams see that when they go on, which they do with each heartbeat.
    pub(crate) fn closed(&mut self, session: SessionId) {
        if let Some(known) = self.known.remove(&session) {
            known.over.0.store(true, Ordering::Release);
        }
    }

    /// Whose a session is; `None` for one that is not open, or is not known here.
    pub(crate) fn owner(&self, session: SessionId) -> Option<&Owner> {
        self.known.get(&session).map(|known| &known.owner)
    }

    /// What was queued of a session. Of one that is not known here anything may have been.
    pub(crate) fn queued(&self, session: SessionId) -> Arc<HighestQueued> {
        self.known.get(&session).map_or_else(|| HighestQueued::new(u64::MAX), |known| known.queued.clone())
    }

    /// Whether the session is over, for its streams to look at. One that is not known here was closed, or is about to be: a stream of it that begins
    /// just then would be told by nobody.
    pub(crate) fn over(&self, session: SessionId) -> Arc<Over> {
        self.known.get(&session).map_or_else(|| Arc::new(Over(AtomicBool::new(true))), |known| known.over.clone())
    }

    /// A simple client opened or used the session.
    pub(crate) fn used(&mut self, session: SessionId, now_micros: i64) {
        let standing = self.standings.entry(session).or_insert(Standing::Used(now_micros));
        if !matches!(standing, Standing::Connected(_)) {
            *standing = Standing::Used(now_micros);
        }
    }

    pub(crate) fn connected(&mut self, session: SessionId) {
        let standing = self.standings.entry(session).or_insert(Standing::Connected(0));
        *standing = match *standing {
            Standing::Connected(streams) => Standing::Connected(streams + 1),
            Standing::Alone(_) | Standing::Used(_) => Standing::Connected(1),
        };
        self.count_streams(session);
    }

    /// A stream of a session ended; whether it was its last one.
    pub(crate) fn disconnected(&mut self, session: SessionId, now_micros: i64) -> bool {
        let Some(standing) = self.standings.get_mut(&session) else { return true };
        *standing = match *standing {
            Standing::Connected(streams) if streams > 1 => Standing::Connected(streams - 1),
            _ => Standing::Alone(now_micros),
        };
        let was_last = matches!(standing, Standing::Alone(_));
        self.count_streams(session);
        was_last
    }

    /// Tells a session's streams how many they are.
    fn count_streams(&self, session: SessionId) {
        let streams = match self.standings.get(&session) {
            Some(Standing::Connected(streams)) => *streams,
            _ => 0,
        };
        if let Some(known) = self.known.get(&session) {
            known.queued.streams.store(streams, Ordering::Release);
        }
    }

    /// Whether it has a stream, or is used by somebody who needs none.
    pub(crate) fn is_connected(&self, session: SessionId, now_micros: i64) -> bool {
        match self.standings.get(&session) {
            Some(Standing::Connected(_)) => true,
            Some(Standing::Used(at)) => now_micros.saturating_sub(*at) < USED_MICROS,
            Some(Standing::Alone(_)) | None => false,
        }
    }

    /// For so long nobody could come back: this time counts for none of them.
    pub(crate) fn stood_still(&mut self, micros: i64) {
        for standing in self.standings.values_mut() {
            if let Standing::Alone(since) | Standing::Used(since) = standing {
                *since = since.saturating_add(micros);
            }
        }
    }

    /// When, by the monotonic clock, the first session of the same scheduler and principal that nobody uses will have been alone too long; `None`: there is
    /// no such session.
    pub(crate) fn next_overdue(&self, owner: &Owner, now_micros: i64, linger_micros: i64) -> Option<i64> {
        let is_theirs = |owned: &Owner| owned.scheduler == owner.scheduler && owned.principal == owner.principal;
        let overdue_at = |(session, standing): (&SessionId, &Standing)| match standing {
            Standing::Alone(since) | Standing::Used(since)
                if !self.is_connected(*session, now_micros) && self.owner(*session).is_some_and(is_theirs) =>
            {
                Some(since.saturating_add(linger_micros))
            }
            _ => None,
        };
        self.standings.iter().filter_map(overdue_at).min()
    }

    /// Sessions that were alone too long; each is told once.
    pub(crate) fn overdue(&mut self, now_micros: i64, linger_micros: i64) -> Vec<SessionId> {
        let overdue = |standing: &Standing| match standing {
            Standing::Alone(since) | Standing::Used(since) => now_micros.saturating_sub(*since) >= linger_micros,
            Standing::Connected(_) => false,
        };
        let gone: Vec<SessionId> =
            self.standings.iter().filter(|(_, standing)| overdue(standing)).map(|(session, _)| *session).collect();
        self.standings.retain(|_, standing| !overdue(standing));
        gone.iter().for_each(|session| self.closed(*session));
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_model::{LogTime, Revision};

    // A server that slept for longer than that closed sessions of streams that broke as it woke.
    #[test]
    fn time_in_which_the_server_stood_still_counts_for_no_session() {
        let mut sessions = Sessions::default();
        let owner = Owner { scheduler: "batch".into(), principal: "ann".into(), namespace: "a".into() };
        sessions.opened(SessionId(1), owner);
        sessions.used(SessionId(1), 5);
        sessions.stood_still(1000);
        assert_eq!(sessions.overdue(1104, 100), []);
        assert_eq!(sessions.overdue(1105, 100), [SessionId(1)]);
    }

    #[test]
    fn the_next_session_of_an_owner_to_grow_too_old_is_one_that_nobody_uses() {
        let of = |scheduler: &str, principal: &str| Owner {
            scheduler: scheduler.into(),
            principal: principal.into(),
            namespace: "a".into(),
        };
        let ann = of("batch", "ann");
        let mut sessions = Sessions::default();
        let owners = [&ann, &ann, &ann, &of("batch", "bob"), &of("ml", "ann")];
        for (number, owner) in (1..).zip(owners) {
            sessions.opened(SessionId(number), owner.clone());
            sessions.connected(SessionId(number));
        }
        let next = |sessions: &Sessions, owner: &Owner| sessions.next_overdue(owner, 500, 1000);
        assert_eq!(next(&sessions, &ann), None, "all have streams");
        for (number, at) in [(1, 400), (2, 300), (4, 200), (5, 100)] {
            sessions.disconnected(SessionId(number), at);
        }
        assert_eq!(next(&sessions, &ann), Some(1300));
        assert_eq!((next(&sessions, &of("batch", "bob")), next(&sessions, &of("ml", "bob"))), (Some(1200), None));
        // A simple client has no stream: while it is used, it grows no older.
        sessions.used(SessionId(2), 450);
        assert_eq!(next(&sessions, &ann), Some(1400));
        assert_eq!(sessions.next_overdue(&ann, 450 + USED_MICROS, 10), Some(410));
        sessions.connected(SessionId(1));
        assert_eq!(sessions.next_overdue(&ann, 450 + USED_MICROS, 10), Some(460));
    }

    #[test]
    fn a_session_is_its_owners_until_it_is_closed() {
        let mut sessions = Sessions::default();
        let owner = Owner { scheduler: "batch".into(), principal: "ann".into(), namespace: "a".into() };
        sessions.opened(SessionId(1), owner.clone());
        sessions.opened(SessionId(2), owner.clone());
        sessions.used(SessionId(2), 0);
        assert_eq!(sessions.owner(SessionId(1)), Some(&owner));
        sessions.closed(SessionId(1));
        assert_eq!(sessions.overdue(100, 100), [SessionId(2)]);
        assert_eq!((sessions.owner(SessionId(1)), sessions.owner(SessionId(2))), (None, None));
    }

    /// Its stream went away while the session was being opened, and the session stayed until the server was started again.
    #[test]
    fn a_session_whose_opener_is_gone_grows_old_too() {
        let mut sessions = Sessions::default();
        let (one, other) = (SessionId(1), SessionId(2));
        sessions.published(&changed(1, opened()), 10);
        assert_eq!(sessions.owner(one).map(|owner| &*owner.principal), Some("ann"));
        // One whose stream was quicker is not alone.
        sessions.connected(other);
        sessions.published(&changed(2, opened()), 10);
        assert_eq!((sessions.overdue(109, 100), sessions.overdue(110, 100)), (vec![], vec![one]));
        assert!(sessions.is_connected(other, 110));
    }

    /// Its opening was published after it had been closed: it was known again, grew old, and was closed once more.
    #[test]
    fn a_session_that_was_closed_before_its_opening_is_published_stays_closed() {
        let (mut sessions, session) = (Sessions::default(), SessionId(1));
        let owner = Owner { scheduler: "batch".into(), principal: "ann".into(), namespace: "a".into() };
        sessions.opened(session, owner);
        sessions.used(session, 0);
        sessions.closed(session);
        sessions.published(&changed(1, opened()), 10);
        sessions.published(&changed(2, SessionChange::Closed(session)), 20);
        assert_eq!(sessions.owner(session), None);
        assert_eq!(sessions.overdue(1000, 100), []);
    }

    #[test]
    fn what_was_queued_of_a_session_is_one_for_all_its_streams_and_goes_on_after_what_was_decided() {
        let delta = changed(1, opened());
        let mut cell = Cell::default();
        cell.apply(&delta).unwrap();
        let number =
            |revision, number| changed(revision, SessionChange::Number { session: SessionId(1), number, digest: 0 });
        cell.apply(&number(2, 5)).unwrap();
        cell.apply(&number(3, 9)).unwrap();
        let mut sessions = Sessions::of_cell(&cell, 0);
        let (one, other) = (sessions.queued(SessionId(1)), sessions.queued(SessionId(1)));
        assert_eq!([9, 10].map(|number| one.covers(number)), [true, false]);
        one.raise(11);
        one.raise(10);
        assert_eq!([11, 12].map(|number| other.covers(number)), [true, false]);
        // Known by its answer, and published then.
        let owner = sessions.owner(SessionId(1)).unwrap().clone();
        sessions.opened(SessionId(4), owner);
        sessions.queued(SessionId(4)).raise(1);
        sessions.published(&changed(4, opened()), 0);
        assert_eq!([1, 2].map(|number| sessions.queued(SessionId(4)).covers(number)), [true, false]);
        assert!(sessions.queued(SessionId(99)).covers(u64::MAX), "nothing is known of it");
    }

    // What was sent over a connection that broke was read after the same had been refused over the next one as not executed, and was executed then.
    #[test]
    fn a_number_may_have_come_before_while_the_session_has_another_stream() {
        let mut sessions = Sessions::default();
        sessions.published(&changed(1, opened()), 0);
        let queued = sessions.queued(SessionId(1));
        queued.raise(3);
        let may_cover = |own: u32| [3, 4].map(|number| queued.may_cover(number, own));
        assert_eq!(may_cover(0), [true, false]);
        sessions.connected(SessionId(1));
        assert_eq!((may_cover(1), may_cover(0)), ([true, false], [true, true]), "a call by itself is no stream");
        sessions.connected(SessionId(1));
        assert_eq!(may_cover(1), [true, true]);
        assert!(!queued.covers(4), "a new one is measured all the same");
        sessions.disconnected(SessionId(1), 10);
        assert_eq!(may_cover(1), [true, false]);
    }

    // A stream of a session that was closed went on as if all were well, and what its scheduler said was heard by nobody.
    #[test]
    fn the_streams_of_a_session_see_that_it_is_over_whoever_closes_it() {
        let mut sessions = Sessions::default();
        for revision in 1..=3 {
            sessions.published(&changed(revision, opened()), 0);
        }
        let streams = [1, 2, 3].map(|number| sessions.over(SessionId(number)));
        let are_over = || [0, 1, 2].map(|stream: usize| streams[stream].is_so());
        assert_eq!(are_over(), [false; 3]);
        sessions.closed(SessionId(1));
        sessions.published(&changed(4, SessionChange::Closed(SessionId(2))), 0);
        assert_eq!(are_over(), [true, true, false]);
        assert_eq!(sessions.overdue(100, 100), [SessionId(1), SessionId(3)]);
        assert_eq!(are_over(), [true; 3]);
        // Nobody would tell one that begins before the closing is decided.
        assert!(sessions.over(SessionId(3)).is_so());
    }

    fn opened() -> SessionChange {
        SessionChange::Opened { scheduler: "batch".into(), principal: "ann".into(), namespace: "a".into() }
    }

    fn changed(revision: u64, change: SessionChange) -> Delta {
        Delta { sessions: vec![change], ..Delta::new(Revision(revision), LogTime::default()) }
    }

    #[test]
    fn only_a_session_without_any_stream_grows_old() {
        let mut sessions = Sessions::default();
        let (one, other) = (SessionId(1), SessionId(2));
        sessions.connected(one);
        sessions.connected(one);
        sessions.used(other, 0);
        sessions.disconnected(one, 50);
        assert!(sessions.is_connected(one, 50));
        assert_eq!(sessions.overdue(100, 100), [other]);
        sessions.disconnected(one, 150);
        sessions.used(one, 200);
        assert_eq!((sessions.overdue(299, 100), sessions.overdue(300, 100)), (vec![], vec![one]));
    }

    /// A scheduler of calls without a stream was said to be away while it placed one task after the other.
    #[test]
    fn a_simple_client_is_there_for_a_while_after_each_call_and_a_stream_until_it_ends() {
        let (mut sessions, simple) = (Sessions::default(), SessionId(1));
        sessions.published(&changed(1, opened()), 0);
        assert!(!sessions.is_connected(simple, 0));
        sessions.used(simple, 5);
        assert!(sessions.is_connected(simple, USED_MICROS + 4) && !sessions.is_connected(simple, USED_MICROS + 5));
        sessions.connected(simple);
        sessions.used(simple, 10);
        sessions.disconnected(simple, 20);
        assert!(!sessions.is_connected(simple, 20));
    }
}
