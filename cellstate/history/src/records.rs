//! The values of rows, and heads of messages of `plenum.v1`: only the fields that the index needs, the rest is skipped.
//!
//! A new field gets a new tag; a changed meaning raises the format number in `identity.rs`.
use bytes::Bytes;
use plenum_proto::v1;
use prost::Message;

/// A batch of the log, as it came.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BatchRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) first: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) last: u64,
    #[prost(int64, tag = "3")]
    pub(crate) time_micros: i64,
    /// An encoded `LogBatch`.
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) bytes: Bytes,
}

/// Consecutive batches. Compressed as a whole.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BlockRecord {
    #[prost(message, repeated, tag = "1")]
    pub(crate) batches: Vec<BatchRecord>,
}

/// A block whose batches stand in the log.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PlacedRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) last: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) segment: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) offset: u64,
    /// Of the frames.
    #[prost(uint64, tag = "4")]
    pub(crate) frame_bytes: u64,
    /// Of the batches.
    #[prost(uint64, tag = "5")]
    pub(crate) bytes: u64,
    /// When its first batch was decided.
    #[prost(int64, tag = "6")]
    pub(crate) time_micros: i64,
    /// When its last batch was decided.
    #[prost(int64, tag = "7")]
    pub(crate) newest_time_micros: i64,
    // Earlier versions wrote the size of its filter under 8.
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct NumberRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) number: u64,
}

/// One for each block, by time.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TimeRecord {
    /// Bytes of all batches ever, up to this block's end.
    #[prost(uint64, tag = "1")]
    pub(crate) bytes_so_far: u64,
    /// Of all time up to this block: what does not count for the age of anything before.
    #[prost(int64, tag = "2")]
    pub(crate) uncounted_micros: i64,
    /// What its entries are. Absent where nobody counted: those who wrote blocks before did not.
    #[prost(message, optional, tag = "3")]
    pub(crate) counts: Option<CountsRecord>,
}

/// How much of what is in entries.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct CountsRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) revisions: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) transactions: u64,
    /// Of these transactions.
    #[prost(uint64, tag = "3")]
    pub(crate) claims: u64,
    /// Those of them that were not granted.
    #[prost(uint64, tag = "4")]
    pub(crate) refused_claims: u64,
}

impl CountsRecord {
    pub(crate) fn add(&mut self, other: Self) {
        self.revisions += other.revisions;
        self.transactions += other.transactions;
        self.claims += other.claims;
        self.refused_claims += other.refused_claims;
    }
}

/// The filter of a block, by its first revision.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SummaryRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) last: u64,
    /// When its first batch was decided.
    #[prost(int64, tag = "2")]
    pub(crate) time_micros: i64,
    /// What its entries are about, as formats 2 and 3 tell it: see `filter.rs`.
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) old_filter: Bytes,
    /// The same, as formats 4 to 6 tell it.
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) mixed_filter: Bytes,
    /// What its entries are about.
    #[prost(bytes = "bytes", tag = "7")]
    pub(crate) filter: Bytes,
    /// Whether one of them sets a quota, a partition, a pause or a right. Absent where nobody looked: those who wrote blocks before did not.
    #[prost(bool, optional, tag = "5")]
    pub(crate) governs: Option<bool>,
    /// Whether in one of them a server starts, a machine comes, goes or is another one than before, or a job fails. Absent as the one above.
    #[prost(bool, optional, tag = "6")]
    pub(crate) has_news: Option<bool>,
}

impl ConflictsRecord {
    /// Encodes a record of these conflicts, which stay where they are.
    pub(crate) fn encoded(conflicts: &[ConflictRecord]) -> Vec<u8> {
        let mut bytes = Vec::new();
        conflicts.iter().for_each(|conflict| prost::encoding::message::encode(1, conflict, &mut bytes));
        bytes
    }
}

/// The conflicts of a block, oldest first.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ConflictsRecord {
    #[prost(message, repeated, tag = "1")]
    pub(crate) conflicts: Vec<ConflictRecord>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ConflictRecord {
    #[prost(int64, tag = "1")]
    pub(crate) time_micros: i64,
    #[prost(uint64, tag = "2")]
    pub(crate) session: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) number: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) revision: u64,
    #[prost(uint32, tag = "5")]
    pub(crate) claims: u32,
    #[prost(uint64, tag = "6")]
    pub(crate) staleness_revisions: u64,
    #[prost(int64, tag = "7")]
    pub(crate) deciding_micros: i64,
    #[prost(message, repeated, tag = "8")]
    pub(crate) losses: Vec<LossRecord>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct LossRecord {
    #[prost(string, tag = "1")]
    pub(crate) winner: String,
    /// Slot + 1; 0: not told.
    #[prost(uint64, tag = "2")]
    pub(crate) machine: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) job: u64,
    #[prost(int32, tag = "4")]
    pub(crate) resource: i32,
    #[prost(uint32, tag = "5")]
    pub(crate) claims: u32,
}

/// The head of a [`ConflictsRecord`]: who lost how much to whom.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ConflictsHead {
    #[prost(message, repeated, tag = "1")]
    pub(crate) conflicts: Vec<ConflictHead>,
}

/// The head of a [`ConflictRecord`].
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ConflictHead {
    #[prost(uint64, tag = "2")]
    pub(crate) session: u64,
    #[prost(message, repeated, tag = "8")]
    pub(crate) losses: Vec<LossHead>,
}

/// The head of a [`LossRecord`]. Names stay where they are: as a rule all of a block are the same few.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LossHead {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) winner: Bytes,
    #[prost(uint32, tag = "5")]
    pub(crate) claims: u32,
}

/// What a job is called: kept as long as anything that speaks of it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct JobRecord {
    #[prost(string, tag = "1")]
    pub(crate) namespace: String,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(string, repeated, tag = "3")]
    pub(crate) groups: Vec<String>,
    /// When it was put: its revision.
    #[prost(uint64, tag = "4")]
    pub(crate) revision: u64,
}

/// The head of a [`JobRecord`]: a job may have very many groups.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct JobBearer {
    #[prost(string, tag = "1")]
    pub(crate) namespace: String,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(uint64, tag = "4")]
    pub(crate) revision: u64,
}

/// What the machine in a slot is called, from a revision on.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MachineRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
}

/// A row that goes when the revision of its key is retired.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LeaverRecord {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CheckpointRecord {
    #[prost(int64, tag = "1")]
    pub(crate) time_micros: i64,
    #[prost(uint64, tag = "2")]
    pub(crate) images: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) image_bytes: u64,
    /// Columns: tables that have pages, and how many.
    #[prost(uint32, repeated, tag = "4")]
    pub(crate) tables: Vec<u32>,
    #[prost(uint32, repeated, tag = "5")]
    pub(crate) pages: Vec<u32>,
    /// The checkpoint that the set of its images began with. 0: formats up to 4, which had no sets.
    #[prost(uint64, tag = "6")]
    pub(crate) set: u64,
    /// Bytes of the images that its set began with.
    #[prost(uint64, tag = "7")]
    pub(crate) whole_bytes: u64,
    /// Bytes of all images that came to it since.
    #[prost(uint64, tag = "8")]
    pub(crate) added_bytes: u64,
    /// Whether the images that its set began with are in a file of their own.
    #[prost(bool, tag = "9")]
    pub(crate) in_file: bool,
}

/// The head of a `LogBatch`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LogBatchHead {
    #[prost(int64, tag = "2")]
    pub(crate) time_micros: i64,
    #[prost(message, repeated, tag = "3")]
    pub(crate) entries: Vec<LogEntryHead>,
}

/// The head of a `LogEntry`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LogEntryHead {
    #[prost(uint64, tag = "1")]
    pub(crate) revision: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) asked: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) decided: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) delta: Bytes,
}

/// The head of a `Command`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct CommandHead {
    #[prost(message, optional, tag = "6")]
    pub(crate) commit: Option<TransactionHead>,
}

/// The head of a `Transaction`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TransactionHead {
    #[prost(uint64, tag = "4")]
    pub(crate) base_revision: u64,
    #[prost(message, optional, tag = "11")]
    pub(crate) decision: Option<v1::DecisionMetadata>,
}

/// The head of a `Decision`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct DecisionHead {
    #[prost(message, optional, tag = "2")]
    pub(crate) outcome: Option<OutcomeHead>,
}

/// The head of an `Outcome`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OutcomeHead {
    #[prost(uint64, tag = "1")]
    pub(crate) session: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) number: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) revision: u64,
    #[prost(message, repeated, tag = "7")]
    pub(crate) refusals: Vec<RefusalHead>,
    #[prost(uint32, tag = "9")]
    pub(crate) claims: u32,
    #[prost(uint32, tag = "10")]
    pub(crate) granted: u32,
}

/// The head of a `Refusal`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RefusalHead {
    #[prost(int32, tag = "1")]
    pub(crate) kind: i32,
    #[prost(uint64, tag = "5")]
    pub(crate) job: u64,
    #[prost(uint32, tag = "8")]
    pub(crate) machine: u32,
    #[prost(int32, tag = "9")]
    pub(crate) resource: i32,
    /// Encoded; only the first one is looked at.
    #[prost(bytes = "bytes", repeated, tag = "11")]
    pub(crate) culprits: Vec<Bytes>,
}

/// The head of a `Culprit`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct CulpritHead {
    #[prost(string, tag = "4")]
    pub(crate) scheduler: String,
    #[prost(string, tag = "5")]
    pub(crate) event: String,
}

/// The head of a `Delta`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct DeltaHead {
    /// Of this it is asked only whether it is there.
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub(crate) cell: Option<Bytes>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) machines: Vec<v1::MachineChange>,
    #[prost(message, repeated, tag = "7")]
    pub(crate) jobs: Vec<v1::JobChange>,
    #[prost(message, repeated, tag = "8")]
    pub(crate) grants: Vec<GrantsHead>,
    #[prost(message, optional, tag = "9")]
    pub(crate) moves: Option<SlotsHead>,
    #[prost(message, optional, tag = "10")]
    pub(crate) ends: Option<SlotsHead>,
    #[prost(message, repeated, tag = "11")]
    pub(crate) tasks: Vec<TaskChangesHead>,
    #[prost(message, repeated, tag = "12")]
    pub(crate) sessions: Vec<v1::SessionChange>,
    /// Of these it is asked only whether there are any.
    #[prost(bytes = "bytes", repeated, tag = "13")]
    pub(crate) quotas: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "15")]
    pub(crate) partitions: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "18")]
    pub(crate) paused: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "21")]
    pub(crate) rights: Vec<Bytes>,
}

/// The head of a `Grants`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct GrantsHead {
    #[prost(uint64, tag = "1")]
    pub(crate) job: u64,
    #[prost(uint32, repeated, tag = "9")]
    pub(crate) slots: Vec<u32>,
}

/// The head of a `Moves` or an `Ends`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SlotsHead {
    #[prost(uint32, repeated, tag = "1")]
    pub(crate) slots: Vec<u32>,
}

/// The head of a `TaskChanges`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TaskChangesHead {
    #[prost(uint32, tag = "1")]
    pub(crate) group_row: u32,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn heads_read_what_the_whole_messages_wrote() {
        let refusals = vec![v1::Refusal { machine: 4, ..Default::default() }];
        let outcome = v1::Outcome {
            session: 7,
            number: 8,
            revision: 9,
            claims: 3,
            granted: 2,
            refusals: refusals.clone(),
            ..Default::default()
        };
        let decision = v1::Decision { answer: Some(v1::decision::Answer::Outcome(outcome)) };
        let opened = v1::SessionOpened { id: 7, scheduler: "batch".to_owned(), ..Default::default() };
        let change = v1::SessionChange { change: Some(v1::session_change::Change::Opened(opened)) };
        let delta = v1::Delta {
            revision: 9,
            sessions: vec![change.clone()],
            grants: vec![v1::Grants { job: 5, slots: vec![1, 2], machines: vec![3, 3], ..Default::default() }],
            moves: Some(v1::Moves { slots: vec![6], states: vec![3], ..Default::default() }),
            ends: Some(v1::Ends { slots: vec![8, 9], states: vec![6, 6], ..Default::default() }),
            tasks: vec![v1::TaskChanges { group_row: 11, tasks: vec![0], ..Default::default() }],
            ..Default::default()
        };
        let decided = v1::DecisionMetadata { deciding_micros: 70, ..Default::default() };
        let asked =
            v1::Transaction { session: 7, base_revision: 6, decision: Some(decided.clone()), ..Default::default() };
        let asked = v1::Command { ask: Some(v1::command::Ask::Commit(asked)), ..Default::default() };
        let entry = v1::LogEntry {
            revision: 9,
            asked: asked.encode_to_vec().into(),
            decided: decision.encode_to_vec().into(),
            delta: delta.encode_to_vec().into(),
        };
        let batch = v1::LogBatch { core_version: 1, time_micros: 5, entries: vec![entry], ..Default::default() };

        let head = LogBatchHead::decode(Bytes::from(batch.encode_to_vec())).unwrap();
        let entry = &head.entries[0];
        assert_eq!(entry.revision, 9);
        let outcome = DecisionHead::decode(entry.decided.clone()).unwrap().outcome;
        let refusals = refusals.iter().map(|refusal| RefusalHead {
            kind: refusal.kind,
            job: refusal.job,
            machine: refusal.machine,
            resource: refusal.resource,
            culprits: refusal.culprits.iter().map(|culprit| culprit.encode_to_vec().into()).collect(),
        });
        let refusals = refusals.collect();
        assert_eq!(outcome, Some(OutcomeHead { session: 7, number: 8, revision: 9, refusals, claims: 3, granted: 2 }));
        let asked = CommandHead::decode(entry.asked.clone()).unwrap().commit;
        assert_eq!(asked, Some(TransactionHead { base_revision: 6, decision: Some(decided) }));
        let delta = DeltaHead::decode(entry.delta.clone()).unwrap();
        assert_eq!(delta.sessions, vec![change]);
        assert_eq!(delta.grants, vec![GrantsHead { job: 5, slots: vec![1, 2] }]);
        assert_eq!(delta.moves.unwrap().slots, [6]);
        assert_eq!(delta.ends.unwrap().slots, [8, 9]);
        assert_eq!(delta.tasks[0].group_row, 11);
    }
}
