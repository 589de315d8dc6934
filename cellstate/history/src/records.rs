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

/// Consecutive batches.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BlockRecord {
    #[prost(message, repeated, tag = "1")]
    pub(crate) batches: Vec<BatchRecord>,
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
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ConflictRecord {
    #[prost(int64, tag = "1")]
    pub(crate) time_micros: i64,
    #[prost(uint64, tag = "2")]
    pub(crate) session: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) number: u64,
    #[prost(string, tag = "4")]
    pub(crate) loser: String,
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

/// Allocations that ended at one revision, or some of them.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EndedRecord {
    #[prost(uint64, repeated, tag = "1")]
    pub(crate) ids: Vec<u64>,
    /// Encoded `AllocationView`s, one for each id.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(crate) views: Vec<Bytes>,
}

/// Where an ended allocation is.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EndedPlaceRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) revision: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) chunk: u64,
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
}

/// The head of a `LogBatch`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LogBatchHead {
    #[prost(message, repeated, tag = "3")]
    pub(crate) entries: Vec<LogEntryHead>,
}

/// The head of a `LogEntry`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LogEntryHead {
    #[prost(uint64, tag = "1")]
    pub(crate) revision: u64,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) decided: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) delta: Bytes,
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
}

/// The head of a `Delta`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct DeltaHead {
    #[prost(message, repeated, tag = "12")]
    pub(crate) sessions: Vec<v1::SessionChange>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn heads_read_what_the_whole_messages_wrote() {
        let outcome = v1::Outcome { session: 7, number: 8, revision: 9, claims: 3, ..Default::default() };
        let decision = v1::Decision { answer: Some(v1::decision::Answer::Outcome(outcome)) };
        let opened = v1::SessionOpened { id: 7, scheduler: "batch".to_owned(), ..Default::default() };
        let change = v1::SessionChange { change: Some(v1::session_change::Change::Opened(opened)) };
        let delta = v1::Delta { revision: 9, sessions: vec![change.clone()], ..Default::default() };
        let entry = v1::LogEntry {
            revision: 9,
            asked: Bytes::from_static(b"x"),
            decided: decision.encode_to_vec().into(),
            delta: delta.encode_to_vec().into(),
        };
        let batch = v1::LogBatch { core_version: 1, time_micros: 5, entries: vec![entry] };

        let head = LogBatchHead::decode(Bytes::from(batch.encode_to_vec())).unwrap();
        assert_eq!(head.entries[0].revision, 9);
        let decided = DecisionHead::decode(head.entries[0].decided.clone()).unwrap();
        assert_eq!(decided.outcome, Some(OutcomeHead { session: 7, number: 8, revision: 9 }));
        let delta = DeltaHead::decode(head.entries[0].delta.clone()).unwrap();
        assert_eq!(delta.sessions, vec![change]);
    }
}
