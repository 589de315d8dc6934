//! What transactions lost: read back from their answers, for the few that lost something.

use std::sync::Arc;

use plenum_history::ConflictNote;
use plenum_model::Revision;
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
}

/// The losses of a batch, by its own bytes.
pub(crate) fn losses(published: &Published) -> Result<Vec<Losses>, MirrorError> {
    let mut losses = Vec::new();
    for note in published.transactions.iter().filter(|note| note.refused) {
        let Some(outcome) = outcome(&published.batch, note.revision)? else { continue };
        let asked = asked(&published.batch, note.revision)?.unwrap_or_default();
        let deciding_micros = asked.decision.map_or(0, |decision| decision.deciding_micros);
        let conflicts = ConflictNote::of_outcome(&outcome, &note.scheduler, asked.base_revision, deciding_micros);
        losses.push(Losses { scheduler: note.scheduler.clone(), refusals: outcome.refusals, conflicts });
    }
    Ok(losses)
}

fn outcome(batch: &LoggedBatch, revision: Revision) -> Result<Option<v1::Outcome>, MirrorError> {
    let decided = batch.decided(revision).unwrap_or_default();
    let decision = v1::Decision::decode(decided).map_err(|source| MirrorError::Decode { revision, source })?;
    Ok(match decision.answer {
        Some(v1::decision::Answer::Outcome(outcome)) => Some(outcome),
        _ => None,
    })
}

fn asked(batch: &LoggedBatch, revision: Revision) -> Result<Option<v1::Transaction>, MirrorError> {
    let asked = batch.asked(revision).unwrap_or_default();
    let command = v1::Command::decode(asked).map_err(|source| MirrorError::Decode { revision, source })?;
    Ok(match command.ask {
        Some(v1::command::Ask::Commit(transaction)) => Some(transaction),
        _ => None,
    })
}
