//! Listing transactions, by reading blocks.
use crate::entries::Logged;
use crate::error::{ReadError, StoreError};
use crate::history::History;
use crate::keys::{self, Shelf};
use crate::store::damaged;
use crate::walk::Walk;
use plenum_proto::v1;
use prost::Message;
use std::ops::RangeInclusive;

/// Most bytes of batches that one listing reads.
const READ_BYTES_MAX: u64 = 64 << 20;

/// Which transactions come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The newest first.
    NewestFirst,
    /// The oldest first.
    OldestFirst,
}

/// A transaction in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedTransaction {
    /// At which it was decided.
    pub revision: u64,
    /// Its log time, in microseconds since the Unix epoch.
    pub time_micros: i64,
    /// What was answered.
    pub outcome: v1::Outcome,
    /// The entry: `asked` holds the encoded `Command`.
    pub entry: v1::LogEntry,
}

/// Transactions in order. See [`History::transactions`].
pub struct Transactions {
    walk: Walk,
    /// What is left of the block that was read last.
    entries: std::vec::IntoIter<Logged>,
}

impl Transactions {
    /// At the end: the revision to go on from, in the order that was asked for, because 64 MiB were read. None: that was all.
    #[must_use]
    pub fn resume(&self) -> Option<u64> {
        let rest = self.walk.rest();
        let next = if self.walk.order() == Order::NewestFirst { *rest.end() } else { *rest.start() };
        (!rest.is_empty()).then_some(next)
    }
}

impl Iterator for Transactions {
    type Item = Result<LoggedTransaction, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // What was answered may take many times as much in memory as in the log: it is decoded one by one.
            if let Some(found) = self.entries.by_ref().find_map(|logged| transaction_of(logged).transpose()) {
                return Some(found.map_err(ReadError::from));
            }
            if self.walk.read_bytes() >= READ_BYTES_MAX {
                return None;
            }
            match self.walk.next(|_| true) {
                Ok(entries) => self.entries = entries?.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl History {
    /// Lists transactions among `revisions`. The range is cut to what is there, also to what is still there when it comes by.
    ///
    /// Costs reading all batches up to the last one that is given, at most 64 MiB: see [`Transactions::resume`]. Holds one block at a time.
    ///
    /// # Errors
    ///
    /// Of each: [`ReadError::Store`].
    #[must_use]
    pub fn transactions(&self, revisions: RangeInclusive<u64>, order: Order) -> Transactions {
        Transactions { walk: self.walk(revisions, order), entries: Vec::new().into_iter() }
    }
}

/// None: it is something else.
fn transaction_of(logged: Logged) -> Result<Option<LoggedTransaction>, StoreError> {
    let Logged { time_micros, entry, .. } = logged;
    let revision = entry.revision;
    let decision = v1::Decision::decode(entry.decided.clone()).map_err(|error| {
        let what = format!("the decision of revision {revision} can't be decoded: {error}");
        damaged(Shelf::Blocks, &keys::block(revision), &what)
    })?;
    Ok(match decision.answer {
        Some(v1::decision::Answer::Outcome(outcome)) => {
            Some(LoggedTransaction { revision, time_micros, outcome, entry })
        }
        _ => None,
    })
}
