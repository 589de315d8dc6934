//! The batches that come next: from memory, or from the log.

use std::sync::Arc;

use bytes::Bytes;
use plenum_history::{EncodedBatch, LogPlace};
use plenum_journal::{FramePlace, ReadError};

use super::Feeder;
use super::failing::FeedError;
use crate::publish::LoggedBatch;

/// Most bytes of batches that are written at a time.
const ROUND_BYTES: usize = 4 << 20;
/// Places of frames that are asked for at a time. Whoever appends waits meanwhile, and would wait long if this thread, which gives way to all others,
/// were asked off its core then: once for each batch was too often.
const PLACES_AHEAD: usize = 64;

fn encoded(batch: &LoggedBatch, place: FramePlace) -> EncodedBatch {
    let FramePlace { segment, offset, bytes } = place;
    EncodedBatch {
        first: batch.first().0,
        last: batch.last().0,
        time_micros: batch.time().micros,
        bytes: batch.bytes().clone(),
        place: Some(LogPlace { segment, offset, bytes }),
    }
}

impl Feeder<'_> {
    /// Feeds what comes next, if it waits in memory.
    pub(super) fn feed_from_memory(&mut self) -> Result<(), FeedError> {
        let batches = self.next_batches(false)?;
        if batches.is_empty() { Ok(()) } else { self.feed(batches) }
    }

    /// The batches that come next, as many as go in one round, from the log only if it `may_read` that; none if there are none.
    pub(super) fn next_batches(&mut self, may_read: bool) -> Result<Vec<EncodedBatch>, FeedError> {
        let mut next = self.shared.feed.history().newest_revision() + 1;
        let (mut batches, mut bytes) = (Vec::new(), 0);
        let mut places = Vec::new();
        while bytes < ROUND_BYTES {
            // Before the queue is looked at: what was told by now is in it, or did not fit.
            let told = self.shared.feed.told();
            let held = self.held.take().or_else(|| self.shared.feed.take());
            // What was read from the log, and came from memory, too.
            if held.as_ref().is_some_and(|held| held.last().0 < next) {
                continue;
            }
            let is_next = held.as_ref().is_some_and(|held| held.first().0 == next);
            let place = if is_next { self.place_of(next, &mut places) } else { None };
            let (batch, place) = match (held, place) {
                (Some(held), Some(place)) => {
                    self.reader = None;
                    (held, place)
                }
                (held, _) => {
                    self.held = held;
                    if !may_read {
                        break;
                    }
                    match self.read(next, told)? {
                        Some(read) => read,
                        None => break,
                    }
                }
            };
            next = batch.last().0 + 1;
            bytes += batch.bytes().len();
            batches.push(encoded(&batch, place));
        }
        Ok(batches)
    }

    /// Where the frame that begins with a revision stands, if it is one of the newest: of those that were asked for, or are asked for now.
    fn place_of(&self, next: u64, asked: &mut Vec<(u64, FramePlace)>) -> Option<FramePlace> {
        if asked.last().is_none_or(|(newest, _)| *newest < next) {
            *asked = self.shared.keeper.places_from(next, PLACES_AHEAD);
        }
        let found = asked.binary_search_by_key(&next, |(first, _)| *first).ok()?;
        Some(asked[found].1)
    }

    /// The batch of a revision, from the log, and its place; `None` if it was not told of yet, or is not there any more.
    fn read(&mut self, next: u64, told: u64) -> Result<Option<(Arc<LoggedBatch>, FramePlace)>, FeedError> {
        if told < next {
            return Ok(None);
        }
        if self.reader.is_none() {
            match self.shared.keeper.reader(next) {
                Ok(reader) => self.reader = Some(reader),
                // As after a restore: the history goes on from its newest checkpoint.
                Err(ReadError::Retired { oldest, .. }) => {
                    self.leap_over_gap(oldest)?;
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let Some(reader) = &mut self.reader else { return Ok(None) };
        while let Some(frame) = reader.next_frame()? {
            if frame.last_revision >= next {
                let place = FramePlace { segment: frame.segment, offset: frame.offset, bytes: frame.bytes };
                let batch = LoggedBatch::parse(Bytes::copy_from_slice(frame.payload))?;
                return Ok(Some((Arc::new(batch), place)));
            }
        }
        self.reader = None;
        Ok(None)
    }
}
