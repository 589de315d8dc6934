//! Sessions: a scheduler's standing with the cell, and the numbers that were decided in it.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::{Revision, SessionId};

/// Decided numbers that a session remembers, and so the most that may be in flight.
pub const NUMBERS_KEPT: usize = 256;

/// The last number that a session has for a transaction: rows keep it in 32 bits.
pub const NUMBER_MAX: u64 = 0xFFFF_FFFF;

/// A number that was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecidedNumber {
    /// The transaction's number.
    pub number: u64,
    /// When it was decided.
    pub revision: Revision,
    /// Of the request's content.
    pub digest: u64,
}

/// A scheduler's or a client's standing with the cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The revision of its opening.
    pub id: SessionId,
    /// The scheduler's name.
    pub scheduler: Arc<str>,
    /// Who it is.
    pub principal: Arc<str>,
    /// Where it works.
    pub namespace: Arc<str>,
    /// The last decided numbers, rising. Invariant: at most `NUMBERS_KEPT`.
    pub decided: VecDeque<DecidedNumber>,
}

/// What a session knows of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Above all others: to be decided.
    New,
    /// Decided before.
    Decided(DecidedNumber),
    /// Below what is remembered: never to be executed. Whether it was, the session can't tell.
    Retired,
    /// Among those that are remembered, and not one of them: a higher one came first. It was never executed, nor will it be.
    Skipped,
}

impl Session {
    /// What is known of a number.
    #[must_use]
    pub fn standing(&self, number: u64) -> Standing {
        if self.decided.back().is_none_or(|last| number > last.number) {
            return Standing::New;
        }
        match self.decided.binary_search_by_key(&number, |decided| decided.number) {
            Ok(found) => Standing::Decided(self.decided[found]),
            // Of one that has forgotten nothing yet all are remembered.
            Err(place) if place > 0 || self.decided.len() < NUMBERS_KEPT => Standing::Skipped,
            Err(_) => Standing::Retired,
        }
    }
}
