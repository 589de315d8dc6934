//! What a runtime did, in numbers that only rise.

use plenum_model::{Outcome, RefusalKind, TransactionOutcome};

/// Counters of one runtime, from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls of `decide`.
    pub decisions: u64,
    /// Transactions that were sent for the first time.
    pub transactions: u64,
    /// Transactions that were sent again after a broken connection.
    pub sent_again: u64,
    /// Outcomes by what became of the transaction.
    pub committed: u64,
    /// See `committed`.
    pub partial: u64,
    /// See `committed`.
    pub refused: u64,
    /// Transactions that the cell did not execute.
    pub rejected: u64,
    /// Transactions that may have been executed, and whose outcome can't be read: they were lost with their session, are too old, larger than the server
    /// takes by now, or were answered with what this version does not know.
    pub unread: u64,
    /// Plans that were dropped unsent: too large, or beyond the window.
    pub dropped: u64,
    /// Claims that were granted.
    pub claims_granted: u64,
    /// Claims that lost a race.
    pub claims_conflict: u64,
    /// Claims that never fitted: each is a bug of the scheduler, or of the mirror.
    pub claims_misfit: u64,
    /// Claims that were refused for any other reason.
    pub claims_other: u64,
    /// Requests to hold room, or to hold it for longer, that the cell executed.
    pub holds_taken: u64,
    /// Holds that were given back.
    pub holds_given_back: u64,
    /// Requests of that kind that the cell refused, or that got no answer.
    pub holds_refused: u64,
    /// Deltas that were folded.
    pub deltas: u64,
    /// Snapshots that were taken over.
    pub snapshots: u64,
    /// Sessions and connections that began.
    pub connections: u64,
}

impl Counters {
    pub(crate) fn count(&mut self, outcome: &Outcome) {
        match outcome.outcome {
            TransactionOutcome::Committed => self.committed += 1,
            TransactionOutcome::Partial => self.partial += 1,
            TransactionOutcome::Refused => self.refused += 1,
        }
        self.claims_granted += outcome.granted() as u64;
        for refusal in outcome.refusals.iter().filter(|refusal| refusal.claim.is_some()) {
            match refusal.kind {
                RefusalKind::Conflict => self.claims_conflict += 1,
                RefusalKind::Misfit => self.claims_misfit += 1,
                _ => self.claims_other += 1,
            }
        }
    }
}
