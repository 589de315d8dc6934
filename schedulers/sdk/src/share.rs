//! How live sessions of one scheduler name share its jobs without talking to each other: rendezvous hashing.

use std::collections::{BTreeMap, BTreeSet};

use plenum_model::{Cell, JobId, SessionId};

/// The sessions of one scheduler name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Share {
    own: SessionId,
    peers: BTreeSet<SessionId>,
    /// Peers that left jobs lying for which there was room: a scheduler that was killed keeps its session for a while.
    silent: BTreeSet<SessionId>,
    /// When each peer committed something last, or was first seen, or could be heard again, by this process's own clock.
    heard_micros: BTreeMap<SessionId, i64>,
}

impl Share {
    /// Reads who is there.
    pub(crate) fn read(&mut self, cell: &Cell, own: SessionId, (scheduler, namespace): (&str, &str), now_micros: i64) {
        let alike = |session: &&std::sync::Arc<plenum_model::Session>| {
            &*session.scheduler == scheduler && &*session.namespace == namespace
        };
        self.own = own;
        self.peers = cell.sessions().filter(alike).map(|session| session.id).collect();
        self.peers.insert(own);
        self.silent.retain(|session| self.peers.contains(session));
        self.heard_micros.retain(|session, _| self.peers.contains(session));
        for &session in &self.peers {
            self.heard_micros.entry(session).or_insert(now_micros);
        }
    }

    /// The session that shares with the others.
    pub(crate) const fn own(&self) -> SessionId {
        self.own
    }

    /// Whose a job is: the session with the highest hash of both. When one comes or goes, only its own jobs change hands.
    pub(crate) fn owner(&self, job: JobId) -> SessionId {
        let live = self.peers.iter().filter(|session| !self.silent.contains(session));
        live.copied().max_by_key(|session| weight(*session, job)).unwrap_or(self.own)
    }

    /// Whether the own session is the one whose job it is.
    pub(crate) fn is_own(&self, job: JobId) -> bool {
        self.owner(job) == self.own
    }

    /// Whether any other session of the name is there.
    pub(crate) fn has_peers(&self) -> bool {
        self.peers.iter().any(|session| *session != self.own)
    }

    /// The own session's place among all sessions of its name, from 0, and how many they are. Silent ones count until the cell ends their
    /// sessions: who is thought silent in error goes on claiming.
    pub(crate) fn place(&self) -> (u32, u32) {
        let before = self.peers.iter().filter(|session| **session < self.own).count();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        (number(before), number(self.peers.len()).max(1))
    }

    /// When a peer gave a sign of life last.
    pub(crate) fn heard_micros(&self, session: SessionId) -> i64 {
        self.heard_micros.get(&session).copied().unwrap_or(i64::MIN)
    }

    /// Nobody could be heard until now: that says nothing of them.
    pub(crate) fn hears_again(&mut self, now_micros: i64) {
        self.heard_micros.values_mut().for_each(|heard| *heard = now_micros);
    }

    /// A peer left a job lying too long, for which there was room.
    pub(crate) fn silence(&mut self, session: SessionId) {
        if session != self.own {
            self.silent.insert(session);
        }
    }

    /// A peer committed something. True: it was thought silent.
    pub(crate) fn heard(&mut self, session: SessionId, now_micros: i64) -> bool {
        self.heard_micros.entry(session).and_modify(|heard| *heard = now_micros);
        self.silent.remove(&session)
    }
}

fn weight(session: SessionId, job: JobId) -> u64 {
    mix(mix(session.0) ^ job.to_bits())
}

/// The finaliser of `splitmix64`.
pub(crate) fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(sessions: &[u64]) -> Share {
        let peers = sessions.iter().copied().map(SessionId).collect();
        Share { own: SessionId(sessions[0]), peers, ..Share::default() }
    }

    fn job(slot: u32) -> JobId {
        JobId { slot, generation: 1 }
    }

    #[test]
    fn each_job_has_one_owner_and_all_sessions_agree() {
        let (one, other) = (share(&[3, 9, 40]), share(&[40, 3, 9]));
        let owners: BTreeSet<_> = (0..100).map(|slot| one.owner(job(slot))).collect();
        assert_eq!(owners.len(), 3);
        assert!((0..100).all(|slot| one.owner(job(slot)) == other.owner(job(slot))));
    }

    #[test]
    fn when_a_session_leaves_only_its_own_jobs_change_hands() {
        let (before, after) = (share(&[3, 9, 40]), share(&[3, 9]));
        for slot in 0..100 {
            let owner = before.owner(job(slot));
            assert!(owner == SessionId(40) || after.owner(job(slot)) == owner);
        }
    }

    #[test]
    fn each_session_has_a_place_of_its_own_among_all_that_stand() {
        let mut share = share(&[9, 3, 40]);
        assert_eq!(share.place(), (1, 3));
        share.silence(SessionId(3));
        assert_eq!(share.place(), (1, 3), "it may be alive, and claim in its own part");
        assert_eq!(Share::default().place(), (0, 1));
    }

    #[test]
    fn a_silent_session_owns_nothing_until_it_is_heard() {
        let mut share = share(&[3, 9]);
        share.silence(SessionId(9));
        assert!((0..100).all(|slot| share.owner(job(slot)) == SessionId(3)));
        assert!(share.heard(SessionId(9), 1) && !share.heard(SessionId(9), 1));
        assert!((0..100).any(|slot| share.owner(job(slot)) == SessionId(9)));
    }
}
