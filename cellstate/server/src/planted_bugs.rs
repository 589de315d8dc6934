//! Bugs that are put into what a server writes and finds: see `plenum_model::planted`. Without that feature, nothing.

use std::borrow::Cow;

use bytes::Bytes;
use parking_lot::Mutex;
use plenum_journal::OpenError;
use plenum_model::planted::{self, Bug};
use plenum_proto::v1;
use prost::Message;

use crate::commit::Batch;
use crate::error::ServerError;
use crate::publish::LoggedBatch;

/// What was answered, and waits to be written with the next one: see [`Bug::AnswersBeforeSync`].
static LATE: Mutex<Option<Batch>> = Mutex::new(None);

/// What is written of a batch.
#[inline(always)]
pub(crate) fn logged(batch: &LoggedBatch) -> Bytes {
    if planted::strikes(Bug::LogsAnotherTime, 7)
        && let Ok(mut wire) = v1::LogBatch::decode(batch.bytes().clone())
    {
        wire.time_micros += 1;
        return wire.encode_to_vec().into();
    }
    if planted::strikes(Bug::CutsBatches, 7) {
        return batch.bytes().slice(..batch.bytes().len() - 1);
    }
    batch.bytes().clone()
}

/// An encoded outcome, as schedulers are told it.
#[inline(always)]
pub(crate) fn outcome(encoded: Bytes) -> Bytes {
    if planted::is(Bug::TellsAnotherOutcome)
        && let Ok(mut wire) = v1::Outcome::decode(encoded.clone())
    {
        wire.refusals.clear();
        return wire.encode_to_vec().into();
    }
    encoded
}

/// What is to be written now, to a log that ends at this revision: this batch, or the one before it, if there was one.
#[inline(always)]
pub(crate) fn due(batch: &Batch, written: u64) -> Option<Cow<'_, Batch>> {
    if !planted::is(Bug::AnswersBeforeSync) {
        return Some(Cow::Borrowed(batch));
    }
    let late = LATE.lock().replace(batch.clone());
    late.filter(|late| late.term == batch.term && late.first.0 == written + 1).map(Cow::Owned)
}

/// What is said of a log that could not be opened.
#[inline(always)]
pub(crate) fn told(error: OpenError) -> ServerError {
    if planted::is(Bug::HidesDamage) {
        return ServerError::Thread { name: "log", what: "it is broken".to_owned() };
    }
    error.into()
}
