//! Listing transactions, by reading blocks.
use crate::block::Block;
use crate::error::{ReadError, StoreError};
use crate::history::History;
use plenum_proto::v1;
use prost::Message;
use std::ops::RangeInclusive;

/// Most bytes of batches that one call reads.
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

/// Some transactions.
#[derive(Clone, Debug, PartialEq)]
pub struct TransactionPage {
    /// In the order that was asked for.
    pub transactions: Vec<LoggedTransaction>,
    /// The revision to go on from, in that order: the limit was reached, or 64 MiB were read. None: that is all.
    pub resume: Option<u64>,
}

impl History {
    /// Lists transactions among `revisions` that pass `filter`, at most `limit`. The range is cut to what is there, also to what is still
    /// there when it comes by.
    ///
    /// Costs reading all batches up to the last one that is given, at most 64 MiB: see [`TransactionPage::resume`].
    ///
    /// # Errors
    ///
    /// [`ReadError::Store`].
    pub fn transactions(
        &self,
        revisions: RangeInclusive<u64>,
        order: Order,
        limit: usize,
        mut filter: impl FnMut(&LoggedTransaction) -> bool,
    ) -> Result<TransactionPage, ReadError> {
        let (oldest, newest, _) = self.extent();
        let (mut from, mut to) = ((*revisions.start()).max(oldest).max(1), (*revisions.end()).min(newest));
        let mut page = TransactionPage { transactions: Vec::new(), resume: None };
        let mut read_bytes = 0;
        while from <= to {
            let next = if order == Order::NewestFirst { to } else { from };
            if read_bytes >= READ_BYTES_MAX {
                page.resume = Some(next);
                break;
            }
            let block = match self.block_holding(next) {
                Err(ReadError::Retired { oldest, .. }) => {
                    from = from.max(oldest);
                    continue;
                }
                block => block?,
            };
            read_bytes += block.bytes();
            let mut found = transactions_of(&block, from, to)?;
            if order == Order::NewestFirst {
                found.reverse();
                to = block.first - 1;
            } else {
                from = block.last + 1;
            }
            for transaction in found {
                if !filter(&transaction) {
                    continue;
                }
                if page.transactions.len() >= limit {
                    page.resume = Some(transaction.revision);
                    return Ok(page);
                }
                page.transactions.push(transaction);
            }
        }
        Ok(page)
    }
}

fn transactions_of(block: &Block, from: u64, to: u64) -> Result<Vec<LoggedTransaction>, StoreError> {
    let mut transactions = Vec::new();
    for logged in block.entries(from, to)? {
        let decision = v1::Decision::decode(logged.entry.decided.clone());
        let decision = decision.map_err(|error| block.damaged(&format!("a decision can't be decoded: {error}")))?;
        if let Some(v1::decision::Answer::Outcome(outcome)) = decision.answer {
            transactions.push(LoggedTransaction {
                revision: logged.entry.revision,
                time_micros: logged.time_micros,
                outcome,
                entry: logged.entry,
            });
        }
    }
    Ok(transactions)
}
