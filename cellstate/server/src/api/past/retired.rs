//! Transactions whose numbers are older than what their sessions remember: what became of them stands in the history, for as long as that is retained.
//!
//! Neither the resolver, which has rejected them, nor what else their streams are told waits for it.

use std::sync::Arc;

use plenum_history::{History, Lookup};
use plenum_model::{Command, Rejection, RejectionCode, Revision, TransactionId};
use tokio::sync::mpsc;
use tonic::Code;

use crate::api::failure::Failure;
use crate::api::past;
use crate::ingress::Told;
use crate::shared::Shared;

/// A transaction that was rejected for its number.
#[derive(Debug)]
pub(crate) struct Retired {
    /// Of its content.
    pub(crate) digest: u64,
    /// The revision that it was judged on.
    pub(crate) at: Revision,
    pub(crate) rejection: Rejection,
}

/// Answers it to its stream, unless that has ended by then.
pub(in crate::api) async fn answer(
    shared: Arc<Shared>,
    id: TransactionId,
    retired: Retired,
    to: mpsc::UnboundedSender<(u64, Told)>,
) {
    let found = tokio::select! {
        found = decided_at(&shared, id, retired) => found,
        () = to.closed() => return,
    };
    let told = match found {
        Ok(revision) => Told::Decided(revision),
        Err(failure) => Told::Refused(Box::new(failure)),
    };
    drop(to.send((id.number, told)));
}

/// When this very transaction was decided, or else why it is not executed.
pub(in crate::api) async fn decided_at(
    shared: &Arc<Shared>,
    id: TransactionId,
    retired: Retired,
) -> Result<Revision, Failure> {
    let Retired { digest, at, rejection } = retired;
    // A history that is behind may have it all the same.
    let reached = past::reach(shared, at).await;
    let history = shared.feed.history().clone();
    let found = past::looking_up(&shared.reads, move || look_up(&history, id)).await;
    // After its store was opened again it may have less than was waited for.
    let reached = if past::has(shared, at) { reached } else { Err(past::behind(shared, at)) };
    match found {
        Ok(Some((revision, of_content))) if of_content == digest => Ok(revision),
        Ok(Some((revision, _))) => {
            let message = format!("{id} was decided with other content at revision {revision}");
            Err(Rejection::new(RejectionCode::NumberReused, message).into())
        }
        Ok(None) => {
            Err(reached.err().map_or_else(|| rejection.clone().into(), |behind| unless_it_passes(behind, &rejection)))
        }
        Err(failure) => Err(unless_it_passes(failure, &rejection)),
    }
}

/// What to say where it could not be looked up: the rejection, unless what is in the way passes by itself. Who was told that the number is retired gives
/// up what may have been decided.
fn unless_it_passes(failure: Failure, rejection: &Rejection) -> Failure {
    if failure.status == Code::Unavailable && !failure.retry_after.is_zero() {
        return failure.of_what_was_decided();
    }
    tracing::warn!(code = failure.code, why = %failure.message, "a number that is retired can't be looked up");
    rejection.clone().into()
}

/// When a transaction was decided, and the digest of its content; `None` where the history has not got it.
fn look_up(history: &History, id: TransactionId) -> Result<Option<(Revision, u64)>, Failure> {
    let failed = |error| Failure::history(&error);
    let found = history.transaction(id.session.0, id.number).map_err(failed)?;
    let Lookup::Found(revision) = found else { return Ok(None) };
    let asked = history.entry(revision).map_err(failed)?.entry.asked;
    match plenum_proto::command::decode(asked).map(|request| request.command) {
        Ok(Command::Commit(_, digest)) => Ok(Some((Revision(revision), digest))),
        _ => Err(Failure::internal(format!("revision {revision} is no transaction"))),
    }
}

#[cfg(test)]
mod tests {
    use plenum_model::SessionId;

    use super::*;

    // Whoever was told that it is retired dropped it, and a second later its outcome was there.
    #[test]
    fn a_number_that_can_not_be_looked_up_for_now_is_to_be_sent_again() {
        let rejection = Rejection::new(RejectionCode::NumberRetired, "old");
        let told = |failure| {
            let told = unless_it_passes(failure, &rejection);
            (told.code, told.retry_after.is_zero())
        };
        assert_eq!(told(Failure::history_behind("behind")), ("OUTCOME_UNKNOWN", false));
        assert_eq!(told(Failure::no_thread()), ("OUTCOME_UNKNOWN", false));
        assert_eq!(told(Failure::internal("damaged")), ("NUMBER_RETIRED", true));
    }

    // The store was opened again, and had lost what had been there when it was waited for: the number was said to be retired.
    #[tokio::test]
    async fn a_number_that_is_looked_up_in_a_history_that_has_lost_its_end_is_to_be_sent_again() {
        let dir = tempfile::tempdir().unwrap();
        let (_journal, shared) = past::tests::with_a_history_that_has_lost_all(dir.path()).await;
        let id = TransactionId { session: SessionId(2), number: 1 };
        let rejection = Rejection::new(RejectionCode::NumberRetired, "old");
        let retired = Retired { digest: 0, at: shared.durable_revision(), rejection };
        assert_eq!(decided_at(&shared, id, retired).await.unwrap_err().code, "OUTCOME_UNKNOWN");
    }
}
