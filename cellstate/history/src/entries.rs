//! Reading the log back: by revision, and by time.
use crate::block::{stored_block_holding, time_row};
use crate::checkpoint::at_or_before;
use crate::error::{ReadError, StoreError};
use crate::history::History;
use crate::keys::{self, Shelf};
use crate::records::{BatchRecord, DecisionHead};
use plenum_proto::v1;
use prost::Message;
use std::collections::VecDeque;

/// An entry of the log, with what its batch says.
#[derive(Clone, Debug, PartialEq)]
pub struct Logged {
    /// The version of the core that decided it.
    pub core_version: u32,
    /// The bounds that it was decided with, where they were logged.
    pub core_options: Option<v1::CoreOptions>,
    /// Its log time, in microseconds since the Unix epoch.
    pub time_micros: i64,
    /// The entry itself.
    pub entry: v1::LogEntry,
}

impl Logged {
    /// Session and number of the transaction that was decided here; `None` of anything else, repeated ones too.
    #[must_use]
    pub fn transaction(&self) -> Option<(u64, u64)> {
        let outcome = DecisionHead::decode(self.entry.decided.clone()).ok()?.outcome?;
        (outcome.revision == self.entry.revision).then_some((outcome.session, outcome.number))
    }
}

/// Entries in order. See [`History::entries`].
pub struct Entries {
    history: History,
    next: u64,
    last: u64,
    /// What is left of the block that was read last.
    read: VecDeque<Logged>,
    failed: bool,
}

impl Iterator for Entries {
    type Item = Result<Logged, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.read.is_empty() {
            if self.failed || self.next > self.last {
                return None;
            }
            let block = self.history.block_holding(self.next);
            match block.and_then(|block| Ok((block.last, block.entries(self.next, self.last)?))) {
                Ok((block_last, entries)) => {
                    self.read = entries.into();
                    self.next = block_last + 1;
                }
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
        self.read.pop_front().map(Ok)
    }
}

impl History {
    /// The entry of one revision.
    ///
    /// # Errors
    ///
    /// [`ReadError::Retired`] if it is not retained any more, [`ReadError::NotThere`] if it never was or is yet to
    /// come, [`ReadError::Store`].
    pub fn entry(&self, revision: u64) -> Result<Logged, ReadError> {
        let block = self.block_holding(revision)?;
        let entry = block.entries(revision, revision)?.pop();
        entry.ok_or_else(|| block.damaged("it lacks an entry").into())
    }

    /// The entries of revisions `from` to `to`, both included, in order. Holds one block at a time, for as long as it
    /// takes: what is retired before it comes by is an error then. Empty if `from` is above `to`.
    ///
    /// # Errors
    ///
    /// As [`History::entry`], for both ends; the same while iterating, after which it ends.
    pub fn entries(&self, from: u64, to: u64) -> Result<Entries, ReadError> {
        if from <= to {
            let view = self.view();
            view.check(from)?;
            view.check(to)?;
        }
        Ok(Entries { history: self.clone(), next: from, last: to, read: VecDeque::new(), failed: false })
    }

    /// The newest revision whose log time is not after `micros`.
    ///
    /// # Errors
    ///
    /// [`ReadError::BeforeFirst`] if the cell has none, [`ReadError::TimeRetired`] if it is not retained any more,
    /// [`ReadError::Store`].
    pub fn revision_at_time(&self, micros: i64) -> Result<u64, ReadError> {
        let (gathering, newest, oldest) = {
            let view = self.view();
            (view.gathering.clone(), view.newest, view.oldest())
        };
        if let Some(revision) = newest_until(&gathering, micros) {
            return Ok(revision);
        }
        // As it is by then: more may be retired meanwhile.
        let earlier = || {
            let (oldest, base, from_the_start) = {
                let view = self.view();
                let base = view.base.filter(|base| *base > 0 && *base >= view.floor);
                (view.oldest(), base, view.floor == 0 && view.base.is_none_or(|base| base == 0))
            };
            match self.beginning(base, micros)? {
                Some(revision) => Ok(revision),
                None if from_the_start => Err(ReadError::BeforeFirst),
                None => Err(ReadError::TimeRetired { oldest }),
            }
        };
        let rows = keys::time(i64::MIN, 0)..=keys::time(micros, u64::MAX);
        // Others may have come since: what gathered in memory is a block by now, or there are newer ones.
        let known = |first: u64| first <= newest && gathering.first().is_none_or(|batch| first < batch.first);
        for row in self.store()?.rows(Shelf::Index, rows).rev() {
            let (_, first) = time_row(&row?)?;
            if !known(first) {
                continue;
            }
            let Some(block) = stored_block_holding(&*self.store()?, first)? else { return earlier() };
            let last = block.head().last;
            let block = match self.open_block(block) {
                // Where all of it was retired meanwhile, something else may stand there by now. Otherwise it is damage.
                Err(_) if self.view().oldest() > last => return earlier(),
                block => block?,
            };
            let found = newest_until(&block.batches, micros);
            return found.filter(|revision| *revision >= oldest).map_or_else(earlier, Ok);
        }
        earlier()
    }

    /// The checkpoint that the history goes on from, which is of no batch, where it is not after `micros`.
    fn beginning(&self, base: Option<u64>, micros: i64) -> Result<Option<u64>, StoreError> {
        let Some(base) = base else { return Ok(None) };
        let found = at_or_before(&*self.store()?, base)?;
        Ok(found.filter(|found| found.revision == base && found.time_micros <= micros).map(|found| found.revision))
    }
}

fn newest_until(batches: &[BatchRecord], micros: i64) -> Option<u64> {
    batches.iter().rev().find(|batch| batch.time_micros <= micros).map(|batch| batch.last)
}
