//! Batches of the log. What was asked, decided and changed is encoded once before, and only copied here.

use bytes::{BufMut, Bytes};
use plenum_model::{LogTime, Revision};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};

use crate::error::{self, ReadError};
use crate::v1;

/// The version of the core's rules: batches of another one are folded, and never decided again.
pub const CORE_VERSION: u32 = 39;

/// Keys of `LogBatch.entries` and of the fields of `LogEntry`: each is its number and its wire type, in one byte.
const ENTRIES: u8 = 3 << 3 | 2;
const REVISION: u8 = 1 << 3;
const ASKED: u8 = 2 << 3 | 2;
const DECIDED: u8 = 3 << 3 | 2;
const DELTA: u8 = 4 << 3 | 2;

/// Begins a batch: an encoded `LogBatch` without entries, to which `append_entry` adds them.
///
/// `core_options` are the bounds that it is decided with; without them nobody can decide it again.
pub fn begin_batch(out: &mut Vec<u8>, time: LogTime, core_options: Option<v1::CoreOptions>) {
    let entries = Vec::new();
    let batch = v1::LogBatch { core_version: CORE_VERSION, time_micros: time.micros, entries, core_options };
    batch.encode(out).expect("a growing buffer has room");
}

/// Bytes of the entry of one revision, which the lengths of its parts decide.
#[must_use]
pub fn entry_bytes(revision: Revision, asked: &[u8], decided: &[u8], delta: &[u8]) -> usize {
    let bytes = content_bytes(revision, [asked, decided, delta]);
    1 + encoded_len_varint(bytes as u64) + bytes
}

fn content_bytes(revision: Revision, parts: [&[u8]; 3]) -> usize {
    let number = if revision.0 == 0 { 0 } else { 1 + encoded_len_varint(revision.0) };
    number + parts.into_iter().map(part_bytes).sum::<usize>()
}

/// Appends the entry of one revision. `delta` is empty where nothing changed.
pub fn append_entry(out: &mut Vec<u8>, revision: Revision, asked: &[u8], decided: &[u8], delta: &[u8]) {
    let parts = [(ASKED, asked), (DECIDED, decided), (DELTA, delta)];
    let bytes = content_bytes(revision, [asked, decided, delta]);
    out.reserve(1 + encoded_len_varint(bytes as u64) + bytes);
    out.put_u8(ENTRIES);
    encode_varint(bytes as u64, out);
    if revision.0 > 0 {
        out.put_u8(REVISION);
        encode_varint(revision.0, out);
    }
    for (key, part) in parts.into_iter().filter(|(_, part)| !part.is_empty()) {
        out.put_u8(key);
        encode_varint(part.len() as u64, out);
        out.put_slice(part);
    }
}

fn part_bytes(part: &[u8]) -> usize {
    if part.is_empty() { 0 } else { 1 + encoded_len_varint(part.len() as u64) + part.len() }
}

/// The batch in these bytes. Its entries share them: what they hold is decoded where it is needed.
///
/// # Errors
/// When the bytes are none.
pub fn decode_batch(bytes: Bytes) -> Result<v1::LogBatch, ReadError> {
    error::decode("LogBatch", bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_what_the_generated_code_would_write() {
        let time = LogTime { micros: 1_700_000_000_000_000 };
        let mut out = Vec::new();
        begin_batch(&mut out, time, None);
        let long = vec![7; 300];
        append_entry(&mut out, Revision(1), b"asked", b"decided", &long);
        append_entry(&mut out, Revision(300), b"", b"", b"");
        let entry = |revision, asked: &[u8], decided: &[u8], delta: &[u8]| v1::LogEntry {
            revision,
            asked: asked.to_vec().into(),
            decided: decided.to_vec().into(),
            delta: delta.to_vec().into(),
        };
        let entries = vec![entry(1, b"asked", b"decided", &long), entry(300, b"", b"", b"")];
        let batch =
            v1::LogBatch { core_version: CORE_VERSION, time_micros: time.micros, entries, ..Default::default() };
        assert_eq!(out, batch.encode_to_vec());
        assert_eq!(
            entry_bytes(Revision(1), b"asked", b"decided", &long),
            1 + 2 + entry(1, b"asked", b"decided", &long).encoded_len()
        );
        assert_eq!(entry_bytes(Revision(300), b"", b"", b""), 1 + 1 + entry(300, b"", b"", b"").encoded_len());
        let bytes = Bytes::from(batch.encode_to_vec());
        assert_eq!(decode_batch(bytes).unwrap(), batch);
    }

    #[test]
    fn bytes_that_are_no_batch_are_an_error() {
        assert!(decode_batch(Bytes::from_static(b"\x1a\xff")).is_err());
    }
}
