//! Finding what the log says about something, block by block, without reading those that say nothing.
use crate::block::{Block, first_of, key_number, stored_block_holding};
use crate::entries::Logged;
use crate::error::{ReadError, StoreError};
use crate::filter::{Filter, Subject};
use crate::history::History;
use crate::keys::{self, Shelf};
use crate::records::SummaryRecord;
use crate::store::{Row, damaged, decode};
use crate::transactions::Order;
use std::ops::RangeInclusive;

/// What is known of a block before it is read.
#[derive(Clone, Debug)]
pub struct BlockSummary {
    /// Its first revision.
    pub first: u64,
    /// Its last revision.
    pub last: u64,
    /// The log time of its first revision.
    pub time_micros: i64,
    /// None of what still gathers in memory: that is read in any case.
    filter: Option<Filter>,
    /// Whether it was seen to set a quota, a partition, a pause or a right; `None` where nobody looked.
    governs: Option<bool>,
    /// Whether it was seen to have a server start, a machine come, go or become another one, or a job fail; `None` as above.
    has_news: Option<bool>,
}

impl BlockSummary {
    /// False only if no entry of it is about the subject.
    #[must_use]
    pub fn may_tell_of(&self, subject: Subject) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.may_hold(subject))
    }

    /// False only if no entry of it sets a quota, a partition, a pause or a right. True of all blocks that were written before this was noted.
    #[must_use]
    pub fn may_govern(&self) -> bool {
        self.governs.unwrap_or(true)
    }

    /// False only if in no entry of it a server starts, a machine comes, goes or is another one than before, or a job fails. True of all blocks that
    /// were written before this was noted.
    #[must_use]
    pub fn may_have_news(&self) -> bool {
        self.has_news.unwrap_or(true)
    }
}

/// A way through blocks. See [`History::walk`].
pub struct Walk {
    history: History,
    order: Order,
    /// What is left to look at.
    from: u64,
    to: u64,
    read_bytes: u64,
}

impl Walk {
    /// The entries of the next block that `wanted` says yes to, as far as they are in the range; in the walk's order. `None` at
    /// the end. What is retired before it comes by is passed over, as what had been before.
    ///
    /// # Errors
    ///
    /// [`ReadError::Store`].
    pub fn next(&mut self, wanted: impl Fn(&BlockSummary) -> bool) -> Result<Option<Vec<Logged>>, ReadError> {
        loop {
            match self.step(&wanted) {
                // Either a block was passed, or what comes next is older than that.
                Err(ReadError::Retired { oldest, .. }) => self.from = self.from.max(oldest),
                found => return found,
            }
        }
    }

    fn step(&mut self, wanted: impl Fn(&BlockSummary) -> bool) -> Result<Option<Vec<Logged>>, ReadError> {
        while let Some(summary) = self.summary()? {
            let (from, to) = (self.from, self.to);
            match self.order {
                Order::OldestFirst => self.from = summary.last.saturating_add(1),
                Order::NewestFirst => self.to = summary.first.saturating_sub(1),
            }
            if !wanted(&summary) {
                continue;
            }
            let block = self.history.block_holding(summary.last)?;
            self.read_bytes += block.bytes();
            // What gathered in memory may have grown since.
            let mut entries = block.entries(from.max(summary.first), to.min(summary.last))?;
            if self.order == Order::NewestFirst {
                entries.reverse();
            }
            return Ok(Some(entries));
        }
        Ok(None)
    }

    pub(crate) fn order(&self) -> Order {
        self.order
    }

    /// Bytes of the blocks that were read so far, as they were logged.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// The revisions that were not looked at yet; empty at the end.
    #[must_use]
    pub fn rest(&self) -> RangeInclusive<u64> {
        self.from..=self.to
    }

    /// What is known of the next block.
    fn summary(&self) -> Result<Option<BlockSummary>, ReadError> {
        if self.from > self.to {
            return Ok(None);
        }
        let next = if self.order == Order::NewestFirst { self.to } else { self.from };
        let gathering = {
            let view = self.history.view();
            view.check(next)?;
            let first = view.gathering.first().filter(|first| first.first <= next);
            first.map(|first| BlockSummary {
                first: first.first,
                last: view.newest,
                time_micros: first.time_micros,
                filter: None,
                governs: None,
                has_news: None,
            })
        };
        if gathering.is_some() {
            return Ok(gathering);
        }
        let store = self.history.store()?;
        let shelves = [
            (Shelf::Filters, keys::block(0)..=keys::block(next)),
            (Shelf::Index, keys::summary(0)..=keys::summary(next)),
        ];
        for (shelf, keys) in shelves {
            let found = store.last(shelf, keys)?.map(|row| summary_of(shelf, row)).transpose()?;
            if let Some(summary) = found.filter(|summary| summary.last >= next) {
                return Ok(Some(summary));
            }
        }
        // Its summary was retired: the block tells, or says what is wrong.
        Ok(Some(bare(&self.history.block_holding(next)?)))
    }
}

fn bare(block: &Block) -> BlockSummary {
    let time_micros = block.batches.first().map_or(0, |batch| batch.time_micros);
    BlockSummary { first: block.first, last: block.last, time_micros, filter: None, governs: None, has_news: None }
}

/// What a row of the filters says, or one of the index of formats up to 4.
fn summary_of(shelf: Shelf, row: Row) -> Result<BlockSummary, StoreError> {
    let first = match shelf {
        Shelf::Filters => first_of(shelf, &row.key)?,
        _ => key_number(shelf, &row.key, 0)?,
    };
    let record: SummaryRecord = decode(shelf, &row.key, row.value)?;
    let SummaryRecord { last, time_micros, governs, has_news, .. } = record;
    let filter =
        Filter::of(record).ok_or_else(|| damaged(shelf, &row.key, "its filter has no size that a filter has"))?;
    Ok(BlockSummary { first, last, time_micros, filter: Some(filter), governs, has_news })
}

impl History {
    /// A way through the blocks of these revisions; the range is cut to what is there. Holds one block at a time.
    #[must_use]
    pub fn walk(&self, revisions: RangeInclusive<u64>, order: Order) -> Walk {
        let (oldest, newest, _) = self.extent();
        let (from, to) = ((*revisions.start()).max(oldest).max(1), (*revisions.end()).min(newest));
        Walk { history: self.clone(), order, from, to, read_bytes: 0 }
    }

    /// The entry of a session's transaction, where it is retained.
    pub(crate) fn find_transaction(&self, session: u64, number: u64) -> Result<Option<u64>, ReadError> {
        // A session's id is the revision of its opening.
        let mut walk = self.walk(session..=u64::MAX, Order::NewestFirst);
        let subject = Subject::Transaction(session, number);
        while let Some(entries) = walk.next(|summary| summary.may_tell_of(subject))? {
            for logged in entries {
                if logged.transaction() == Some((session, number)) {
                    return Ok(Some(logged.entry.revision));
                }
            }
        }
        Ok(None)
    }

    /// The least number of a session's transactions that are retained.
    pub(crate) fn first_number(&self, session: u64) -> Result<Option<u64>, ReadError> {
        let mut walk = self.walk(session..=u64::MAX, Order::OldestFirst);
        while let Some(entries) = walk.next(|summary| summary.may_tell_of(Subject::Session(session)))? {
            let found = entries.iter().filter_map(Logged::transaction).find(|(of, _)| *of == session);
            if let Some((_, number)) = found {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// The first revision of the block that holds a revision.
    pub(crate) fn block_start(&self, revision: u64) -> Result<u64, StoreError> {
        Ok(stored_block_holding(&*self.store()?, revision)?.map_or(revision, |block| block.head().first))
    }
}
