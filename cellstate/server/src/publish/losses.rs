//! What transactions lost: read back from their answers, for the few that lost something.

use std::sync::Arc;

use plenum_history::ConflictNote;
use plenum_model::{Revision, SessionId, TransactionId};
use plenum_proto::fields::fields;
use plenum_proto::v1;
use prost::Message;

use super::{LoggedBatch, MirrorError};
use crate::commit::Published;

/// What one transaction was refused.
#[derive(Debug)]
pub(crate) struct Losses {
    pub(crate) scheduler: Arc<str>,
    pub(crate) refusals: Vec<v1::Refusal>,
    /// Those that it lost to somebody.
    pub(crate) conflicts: Option<ConflictNote>,
    /// Those that it could have known of.
    pub(crate) divergence: Option<Divergence>,
}

/// Claims that were refused for what their scheduler had seen: planner and committer disagree, although they judge with the same code. The
/// log has all that is needed to decide it again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Divergence {
    pub(crate) transaction: TransactionId,
    pub(crate) revision: u64,
    pub(crate) base_revision: u64,
    /// How many.
    pub(crate) claims: u64,
    /// Why the first one was refused.
    pub(crate) reason: &'static str,
}

impl Divergence {
    /// What of this outcome is one, if anything is.
    pub(crate) fn of_outcome(outcome: &v1::Outcome, base_revision: u64) -> Option<Self> {
        let mut divergent = outcome.divergent().map(|(_, refusal)| refusal).peekable();
        let reason = divergent.peek()?.reason().as_str_name();
        Some(Self {
            transaction: TransactionId { session: SessionId(outcome.session), number: outcome.number },
            revision: outcome.revision,
            base_revision,
            claims: divergent.count() as u64,
            reason,
        })
    }
}

/// The losses of a batch, by its own bytes.
pub(crate) fn losses(published: &Published) -> Result<Vec<Losses>, MirrorError> {
    let mut losses = Vec::new();
    for note in published.transactions.iter().filter(|note| note.refused) {
        let Some(outcome) = outcome(&published.batch, note.revision)? else { continue };
        let asked = asked(&published.batch, note.revision)?.unwrap_or_default();
        let deciding_micros = asked.decision.map_or(0, |decision| decision.deciding_micros);
        let conflicts = ConflictNote::of_outcome(&outcome, &note.scheduler, asked.base_revision, deciding_micros);
        let divergence = Divergence::of_outcome(&outcome, asked.base_revision);
        losses.push(Losses { scheduler: note.scheduler.clone(), refusals: outcome.refusals, conflicts, divergence });
    }
    Ok(losses)
}

/// An outcome without what it granted: nobody here looks at that, and it is the most of it.
fn outcome(batch: &LoggedBatch, revision: Revision) -> Result<Option<v1::Outcome>, MirrorError> {
    let Some(outcome) = batch.outcome(revision) else { return Ok(None) };
    let decoded = v1::Outcome::decode(&*picked(&outcome, |field| field != GRANTED));
    decoded.map(Some).map_err(|source| MirrorError::Decode { revision, source })
}

/// What a transaction was based on, and how it was decided; nothing of what it asked.
fn asked(batch: &LoggedBatch, revision: Revision) -> Result<Option<v1::Transaction>, MirrorError> {
    let asked = batch.asked(revision).unwrap_or_default();
    let Some(commit) = fields(&asked).flatten().find(|field| field.number == COMMIT) else { return Ok(None) };
    let head = picked(&asked[commit.content], |field| matches!(field, BASE | DECISION));
    v1::Transaction::decode(&*head).map(Some).map_err(|source| MirrorError::Decode { revision, source })
}

/// Fields of `Command`, `Transaction` and `Outcome`.
const COMMIT: u64 = 6;
const BASE: u64 = 4;
const DECISION: u64 = 11;
const GRANTED: u64 = 6;

/// Some of the top fields of a message, as a message.
fn picked(message: &[u8], wanted: impl Fn(u64) -> bool) -> Vec<u8> {
    let mut picked = Vec::new();
    for field in fields(message).flatten().filter(|field| wanted(field.number)) {
        picked.extend_from_slice(&message[field.whole]);
    }
    picked
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::batch::BatchEncoder;
    use plenum_model::{LogTime, TransactionOutcome};

    #[test]
    fn what_was_lost_is_read_without_what_was_granted() {
        let refusal = v1::Refusal { kind: v1::RefusalKind::Conflict.into(), machine: 3, ..Default::default() };
        let granted = v1::PlacementOutcome { allocations: vec![7; 100], ..Default::default() };
        let outcome = v1::Outcome {
            session: 4,
            number: 5,
            revision: 9,
            claims: 101,
            placements: vec![granted],
            refusals: vec![refusal.clone()],
            ..Default::default()
        };
        let decided = v1::Decision { answer: Some(v1::decision::Answer::Outcome(outcome)) };
        let decision = v1::DecisionMetadata { deciding_micros: 70, ..Default::default() };
        let transaction = v1::Transaction { base_revision: 6, decision: Some(decision), ..Default::default() };
        let asked = v1::Command { ask: Some(v1::command::Ask::Commit(transaction)), ..Default::default() };
        let mut encoder = BatchEncoder::default();
        encoder.begin(LogTime::default());
        encoder.add(Revision(9), &asked.encode_to_vec(), &decided.encode_to_vec(), b"");
        let batch = Arc::new(LoggedBatch::parse(encoder.finish()).unwrap());
        let (scheduler, outcome) = (Arc::from("batch"), TransactionOutcome::Partial);
        let note = crate::commit::TransactionNote {
            revision: Revision(9),
            scheduler,
            outcome,
            granted: 100,
            refused: true,
            started: Vec::new(),
        };
        let lost = losses(&Published { batch, deltas: Vec::new(), transactions: vec![note] }).unwrap();
        let conflicts = lost[0].conflicts.as_ref().unwrap();
        assert_eq!((lost.len(), &lost[0].refusals), (1, &vec![refusal]));
        assert_eq!((conflicts.staleness_revisions, conflicts.deciding_micros, conflicts.claims), (3, 70, 101));
    }

    #[test]
    fn a_divergence_names_its_transaction_and_leaves_out_claims_that_came_a_moment_early() {
        let refusal = |reason: v1::RefusalReason| v1::Refusal { reason: reason.into(), ..Default::default() };
        let outcome = |divergences| v1::Outcome {
            session: 4,
            number: 5,
            revision: 9,
            refusals: vec![
                v1::Refusal {
                    not_wanted: v1::NotWantedCause::InBackoff.into(),
                    ..refusal(v1::RefusalReason::NotWanted)
                },
                refusal(v1::RefusalReason::Constraint),
                refusal(v1::RefusalReason::NoRoom),
                v1::Refusal {
                    not_wanted: v1::NotWantedCause::TaskIsDone.into(),
                    ..refusal(v1::RefusalReason::NotWanted)
                },
            ],
            divergences,
            ..Default::default()
        };
        let transaction = TransactionId { session: SessionId(4), number: 5 };
        let reason = v1::RefusalReason::Constraint.as_str_name();
        let expected = Divergence { transaction, revision: 9, base_revision: 6, claims: 2, reason };
        assert_eq!(Divergence::of_outcome(&outcome(vec![0, 1, 2]), 6), Some(expected));
        assert_eq!(Divergence::of_outcome(&outcome(vec![0]), 6), None, "it came too early");
        // It was taken for early, whatever stood in its way.
        let done = Divergence::of_outcome(&outcome(vec![3]), 6).expect("the task was done at the base");
        assert_eq!((done.claims, done.reason), (1, v1::RefusalReason::NotWanted.as_str_name()));
        assert_eq!(Divergence::of_outcome(&outcome(Vec::new()), 6), None);
    }
}
