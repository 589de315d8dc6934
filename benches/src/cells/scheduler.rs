//! One scheduler: its queue, its picture of the cell, and what it did.

use std::collections::VecDeque;
use std::sync::Arc;

use plenum_model::{AllocationId, JobId, Revision, SessionId, TransactionId};

use super::choice::Exact;
use super::mirror::Mirror;
use super::workload::{JobPlan, Stream};
use crate::random::Random;

/// When a scheduler looks at the cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looks {
    /// When it begins to think: what it decides is as old as its thoughts (shared state).
    BeforeThinking,
    /// When it has thought: nobody else can have placed anything (monolithic, and frameworks with an offer).
    AfterThinking,
}

/// A job on its way.
pub(crate) struct Job {
    pub(crate) plan: JobPlan,
    /// The scheduler whose it is.
    pub(crate) scheduler: usize,
    pub(crate) id: JobId,
    /// The kind of its constraints.
    pub(crate) kind: usize,
    /// Tasks without a machine, rising.
    pub(crate) waiting: Vec<u32>,
    pub(crate) attempts: u32,
    /// When a scheduler first took it out of its queue.
    pub(crate) first_micros: Option<i64>,
    /// What its first attempt took, once that was made.
    pub(crate) first_thought_micros: Option<i64>,
    pub(crate) abandoned: bool,
}

/// What a scheduler did for one stream. Times in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Deciding transactions of which all claims were granted.
    pub(crate) useful_micros: i64,
    /// Deciding transactions of which some claim was refused, however many were granted.
    pub(crate) wasted_micros: i64,
    /// Deciding that no machine has room.
    pub(crate) fruitless_micros: i64,
    pub(crate) committed: u64,
    pub(crate) conflicted: u64,
    pub(crate) claims_granted: u64,
    pub(crate) claims_refused: u64,
    pub(crate) fruitless: u64,
    pub(crate) abandoned: u64,
}

impl Tally {
    /// Both together.
    pub(crate) const fn plus(self, other: Self) -> Self {
        Self {
            useful_micros: self.useful_micros + other.useful_micros,
            wasted_micros: self.wasted_micros + other.wasted_micros,
            fruitless_micros: self.fruitless_micros + other.fruitless_micros,
            committed: self.committed + other.committed,
            conflicted: self.conflicted + other.conflicted,
            claims_granted: self.claims_granted + other.claims_granted,
            claims_refused: self.claims_refused + other.claims_refused,
            fruitless: self.fruitless + other.fruitless,
            abandoned: self.abandoned + other.abandoned,
        }
    }
}

/// What is being thought about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Thought {
    pub(crate) job: usize,
    pub(crate) takes_micros: i64,
    /// The revision of the picture.
    pub(crate) base: Revision,
}

/// Allocations that will end together.
pub(crate) struct Ending {
    pub(crate) job: usize,
    pub(crate) allocations: Vec<(u32, AllocationId)>,
}

/// One scheduler.
pub(crate) struct Scheduler {
    pub(crate) name: Arc<str>,
    pub(crate) session: SessionId,
    /// Transactions so far.
    pub(crate) number: u64,
    pub(crate) looks: Looks,
    pub(crate) queue: VecDeque<usize>,
    pub(crate) thought: Option<Thought>,
    pub(crate) mirror: Mirror,
    /// Instead of the mirror, where machines are chosen exactly.
    pub(crate) exact: Option<Exact>,
    pub(crate) random: Random,
    /// For Batch and for Service.
    pub(crate) tallies: [Tally; 2],
}

impl Scheduler {
    /// The number of its next transaction. Numbers rise in the order of commits.
    pub(crate) fn next_id(&mut self) -> TransactionId {
        self.number += 1;
        TransactionId { session: self.session, number: self.number }
    }

    pub(crate) fn tally(&mut self, stream: Stream) -> &mut Tally {
        &mut self.tallies[usize::from(stream == Stream::Service)]
    }
}
