//! A batch as it stands in the log: encoded once, and cut into pieces for everybody who needs one.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use plenum_model::{LogTime, Revision};
use plenum_proto::delta::cut;
use plenum_proto::fields::{self as wire, Malformed};
use plenum_proto::log;
use plenum_proto::sections::Sections;
use plenum_proto::v1;
use prost::Message;

const CORE_VERSION: u64 = 1;
const TIME: u64 = 2;
const ENTRIES: u64 = 3;
const CORE_OPTIONS: u64 = 4;
const REVISION: u64 = 1;
const ASKED: u64 = 2;
const DECIDED: u64 = 3;
const DELTA: u64 = 4;
/// Of `Decision`.
const OUTCOME: u64 = 2;

/// Deltas that are less of their batch than one byte of so many are copied out of it: a watcher that does not read on holds what is on its
/// way to it, and of a batch whose transactions were large and refused that would be nearly all for nothing. Most are more of theirs.
const HELD_PER_BYTE: usize = 4;
/// For so many sets of sections deltas are kept, those that were asked for last: nearly all watchers ask for one of two.
const CUTS_MAX: usize = 4;

/// Where the pieces of one entry stand in its batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    asked: Range<usize>,
    decided: Range<usize>,
    delta: Range<usize>,
}

/// Decided commands of consecutive revisions that became durable together: an encoded `LogBatch`, with a table of its pieces.
///
/// All pieces share its memory, which may be that of other batches, too.
pub struct LoggedBatch {
    first: Revision,
    time: LogTime,
    core_version: u32,
    core_options: Range<usize>,
    bytes: Bytes,
    /// Of the memory that whoever has a piece holds.
    held_bytes: usize,
    entries: Vec<Entry>,
    /// Deltas without the sections that somebody did not ask for, made when first wanted: each once, whoever watches.
    /// In the order in which they were asked for last.
    cut: Mutex<Vec<(Sections, Arc<[Bytes]>)>>,
}

/// Bytes that are no batch of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotABatch {
    /// What is wrong with them.
    pub what: String,
}

impl fmt::Display for NotABatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a batch of the log: {}", self.what)
    }
}

impl std::error::Error for NotABatch {}

impl From<Malformed> for NotABatch {
    fn from(malformed: Malformed) -> Self {
        Self { what: format!("it makes no sense from byte {} on", malformed.at) }
    }
}

impl LoggedBatch {
    /// Finds the pieces of an encoded `LogBatch`.
    ///
    /// # Errors
    /// When the bytes are not a batch with at least one entry and without gaps.
    pub fn parse(bytes: Bytes) -> Result<Self, NotABatch> {
        let mut batch = Self {
            first: Revision(0),
            time: LogTime::default(),
            core_version: 0,
            core_options: 0..0,
            bytes: bytes.clone(),
            held_bytes: bytes.len(),
            entries: Vec::new(),
            cut: Mutex::new(Vec::new()),
        };
        for field in wire::fields(&bytes) {
            let field = field?;
            let content = &bytes[field.content.clone()];
            match field.number {
                CORE_VERSION => {
                    batch.core_version = wire::number(content).and_then(|found| u32::try_from(found).ok()).unwrap_or(0);
                }
                TIME => batch.time = LogTime::from_micros(wire::number(content).unwrap_or(0).cast_signed()),
                ENTRIES => batch.add(&bytes, field.content)?,
                CORE_OPTIONS => batch.core_options = field.content,
                _ => {}
            }
        }
        if batch.entries.is_empty() {
            return Err(NotABatch { what: "it has no entries".to_owned() });
        }
        Ok(batch)
    }

    fn add(&mut self, bytes: &Bytes, place: Range<usize>) -> Result<(), NotABatch> {
        let mut entry = Entry::default();
        let mut revision = 0;
        for field in wire::fields(&bytes[place.clone()]) {
            let field = field.map_err(|malformed| Malformed { at: place.start + malformed.at })?;
            let content = place.start + field.content.start..place.start + field.content.end;
            match field.number {
                REVISION => revision = wire::number(&bytes[content]).unwrap_or(0),
                ASKED => entry.asked = content,
                DECIDED => entry.decided = content,
                DELTA => entry.delta = content,
                _ => {}
            }
        }
        if self.entries.is_empty() {
            self.first = Revision(revision);
        }
        let expected = self.first.0.checked_add(self.entries.len() as u64);
        if expected != Some(revision) || revision == 0 {
            let expected = expected.map_or_else(|| "none".to_owned(), |expected| expected.to_string());
            return Err(NotABatch { what: format!("expected revision {expected}, found {revision}") });
        }
        self.entries.push(entry);
        Ok(())
    }

    /// Its first revision.
    #[must_use]
    pub fn first(&self) -> Revision {
        self.first
    }

    /// Its last revision.
    #[must_use]
    pub fn last(&self) -> Revision {
        // In this order: it may be the last revision that there can be.
        Revision(self.first.0 + (self.entries.len() as u64 - 1))
    }

    /// The time at which all of it was decided.
    #[must_use]
    pub fn time(&self) -> LogTime {
        self.time
    }

    /// The version of the core that decided it.
    #[must_use]
    pub fn core_version(&self) -> u32 {
        self.core_version
    }

    /// The bounds that it was decided with, where they were logged and can be read.
    #[must_use]
    pub fn core_options(&self) -> Option<v1::CoreOptions> {
        let options = self.bytes.slice(self.core_options.clone());
        if options.is_empty() { None } else { v1::CoreOptions::decode(options).ok() }
    }

    /// The whole, as logged.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its revisions, rising.
    pub fn revisions(&self) -> impl Iterator<Item = Revision> + use<> {
        (self.first.0..=self.last().0).map(Revision)
    }

    fn entry(&self, revision: Revision) -> Option<&Entry> {
        let position = revision.0.checked_sub(self.first.0)?;
        self.entries.get(usize::try_from(position).ok()?)
    }

    /// What was asked at a revision: an encoded `Command`. `None` for revisions of other batches.
    #[must_use]
    pub fn asked(&self, revision: Revision) -> Option<Bytes> {
        Some(self.bytes.slice(self.entry(revision)?.asked.clone()))
    }

    /// What was answered at a revision: an encoded `Decision`.
    #[must_use]
    pub fn decided(&self, revision: Revision) -> Option<Bytes> {
        Some(self.bytes.slice(self.entry(revision)?.decided.clone()))
    }

    /// The outcome that was answered at a revision: an encoded `Outcome`; `None` where it was another answer.
    #[must_use]
    pub fn outcome(&self, revision: Revision) -> Option<Bytes> {
        let decided = self.decided(revision)?;
        let field = wire::fields(&decided).flatten().find(|field| field.number == OUTCOME)?;
        Some(decided.slice(field.content))
    }

    /// What changed at a revision: an encoded `Delta`.
    #[must_use]
    pub fn delta(&self, revision: Revision) -> Option<Bytes> {
        Some(self.bytes.slice(self.entry(revision)?.delta.clone()))
    }

    /// The deltas for watchers of these sections, in order. Made once for each set of sections, as long as there are few of these. Whoever
    /// holds them holds at most four times their bytes.
    #[must_use]
    pub fn deltas(&self, sections: Sections) -> Arc<[Bytes]> {
        let mut made = self.cut.lock();
        if let Some(place) = made.iter().position(|(of, _)| *of == sections) {
            // Behind the others: the first one goes when there is no room for another.
            made[place..].rotate_left(1);
            return made[made.len() - 1].1.clone();
        }
        let deltas: Vec<Bytes> =
            self.entries.iter().map(|entry| cut(sections, self.bytes.slice(entry.delta.clone()))).collect();
        let bytes: usize = deltas.iter().map(Bytes::len).sum();
        let are_little = bytes.saturating_mul(HELD_PER_BYTE) < self.held_bytes;
        let deltas: Arc<[Bytes]> = if are_little { together(&deltas, bytes) } else { deltas }.into();
        if made.len() >= CUTS_MAX {
            made.remove(0);
        }
        made.push((sections, deltas.clone()));
        deltas
    }
}

/// Copies of batches, one behind the other in one memory of their size. What was cut from them is made again when it is wanted.
pub(super) fn packed<'a>(batches: impl Iterator<Item = &'a LoggedBatch> + Clone) -> Vec<LoggedBatch> {
    let held_bytes = batches.clone().map(|batch| batch.bytes.len()).sum();
    let copies = together(batches.clone().map(|batch| &batch.bytes), held_bytes);
    let moved = batches.zip(copies).map(|(batch, bytes)| LoggedBatch {
        first: batch.first,
        time: batch.time,
        core_version: batch.core_version,
        core_options: batch.core_options.clone(),
        bytes,
        held_bytes,
        entries: batch.entries.clone(),
        cut: Mutex::new(Vec::new()),
    });
    moved.collect()
}

/// A copy of pieces, all in one memory of so many bytes.
fn together<'a>(pieces: impl IntoIterator<Item = &'a Bytes>, bytes: usize) -> Vec<Bytes> {
    let mut all = BytesMut::with_capacity(bytes);
    let taken = pieces.into_iter().map(|piece| {
        all.extend_from_slice(piece);
        all.split().freeze()
    });
    taken.collect()
}

impl fmt::Debug for LoggedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoggedBatch({} to {}, {} bytes)", self.first, self.last(), self.bytes.len())
    }
}

/// A batch being encoded.
#[derive(Debug, Default)]
pub(crate) struct BatchEncoder {
    bytes: Vec<u8>,
    core_options: Option<v1::CoreOptions>,
}

impl BatchEncoder {
    /// For batches of a core with these bounds.
    pub(crate) fn new(core_options: v1::CoreOptions) -> Self {
        Self { bytes: Vec::new(), core_options: Some(core_options) }
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Begins a batch.
    pub(crate) fn begin(&mut self, time: LogTime) {
        log::begin_batch(&mut self.bytes, time, self.core_options);
    }

    /// Adds an entry.
    pub(crate) fn add(&mut self, revision: Revision, asked: &[u8], decided: &[u8], delta: &[u8]) {
        log::append_entry(&mut self.bytes, revision, asked, decided, delta);
    }

    /// The batch; the next one gets memory of its own, as this one's is shared for as long as somebody needs a piece. It will
    /// probably be about as large.
    pub(crate) fn finish(&mut self) -> Bytes {
        let next = Vec::with_capacity(self.bytes.len() + self.bytes.len() / 8);
        std::mem::replace(&mut self.bytes, next).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded() -> Bytes {
        let mut encoder = BatchEncoder::default();
        encoder.begin(LogTime::from_micros(1_000_000));
        encoder.add(Revision(300), b"asked", b"", b"delta");
        encoder.add(Revision(301), b"", b"decided", &[7; 200]);
        encoder.finish()
    }

    #[test]
    fn what_is_encoded_is_a_log_batch() {
        let batch = v1::LogBatch::decode(encoded()).unwrap();
        assert_eq!((batch.core_version, batch.time_micros, batch.entries.len()), (log::CORE_VERSION, 1_000_000, 2));
        assert_eq!((batch.entries[1].revision, &batch.entries[1].delta[..]), (301, &[7; 200][..]));
    }

    #[test]
    fn pieces_are_found_again() {
        let batch = LoggedBatch::parse(encoded()).unwrap();
        assert_eq!((batch.first(), batch.last()), (Revision(300), Revision(301)));
        assert_eq!((batch.time().micros, batch.core_version()), (1_000_000, log::CORE_VERSION));
        assert_eq!(batch.asked(Revision(300)).unwrap(), "asked");
        assert_eq!(batch.decided(Revision(301)).unwrap(), "decided");
        assert_eq!(batch.delta(Revision(302)), None);
        assert_eq!(batch.deltas(Sections::ALL).len(), 2);
    }

    #[test]
    fn a_batch_may_end_with_the_last_revision_that_there_can_be() {
        let mut encoder = BatchEncoder::default();
        encoder.begin(LogTime::default());
        encoder.add(Revision(u64::MAX), b"asked", b"", b"delta");
        let batch = LoggedBatch::parse(encoder.finish()).unwrap();
        assert_eq!((batch.last(), batch.revisions().count()), (Revision(u64::MAX), 1));
    }

    // One principal's 64 watchers, each of other sections, had every batch kept some thirty times over.
    #[test]
    fn deltas_are_kept_for_few_sets_of_sections() {
        let batch = LoggedBatch::parse(encoded()).unwrap();
        let sections: Vec<i32> = (1..=6).filter(|section| v1::Section::try_from(*section).is_ok()).collect();
        for set in 1..1_u32 << sections.len() {
            let asked = (0..).zip(&sections).filter(|(bit, _)| set >> bit & 1 == 1).map(|(_, section)| *section);
            let made = batch.deltas(Sections::from_wire(&asked.collect::<Vec<_>>()).unwrap());
            assert!(batch.cut.lock().len() <= CUTS_MAX && made.len() == 2);
        }
        assert_eq!(sections.len(), 6);
    }

    // Those that had been made first went: what nearly all watch was made again and again where some few watched other things.
    #[test]
    fn deltas_are_kept_that_were_asked_for_last() {
        let batch = LoggedBatch::parse(encoded()).unwrap();
        let of = |section: v1::Section| Sections::from_wire(&[section.into()]).unwrap();
        let [machines, sessions, quotas] = [v1::Section::Machines, v1::Section::Sessions, v1::Section::Quotas].map(of);
        let first = batch.deltas(Sections::MIRROR);
        let others = [machines, sessions, quotas].map(|sections| batch.deltas(sections));
        assert!(Arc::ptr_eq(&first, &batch.deltas(Sections::MIRROR)));
        let newest = batch.deltas(Sections::ALL);
        for (sections, made) in
            [(Sections::MIRROR, &first), (Sections::ALL, &newest), (sessions, &others[1]), (quotas, &others[2])]
        {
            assert!(Arc::ptr_eq(made, &batch.deltas(sections)), "{sections:?}");
        }
        assert!(!Arc::ptr_eq(&others[0], &batch.deltas(machines)));
    }

    // A watcher that did not read on held, with a message of some small deltas, all batches in memory that they stood in.
    #[test]
    fn deltas_that_are_little_of_a_batch_do_not_hold_it() {
        for (asked_bytes, holds) in [(1000, false), (0, true)] {
            let mut encoder = BatchEncoder::default();
            encoder.begin(LogTime::default());
            (1..=3).for_each(|revision| {
                encoder.add(Revision(revision), &vec![1; asked_bytes], b"", b"a delta of some bytes")
            });
            let bytes = encoder.finish();
            let batch = LoggedBatch::parse(bytes.clone()).unwrap();
            let deltas = batch.deltas(Sections::ALL);
            drop(batch);
            assert_eq!(*deltas, [&b"a delta of some bytes"[..]; 3]);
            assert_eq!(!bytes.is_unique(), holds);
        }
    }

    #[test]
    fn an_outcome_is_a_piece_of_what_was_decided() {
        let outcome = v1::Outcome { session: 7, number: 9, granted: 1, ..Default::default() };
        let decision = v1::Decision { answer: Some(v1::decision::Answer::Outcome(outcome.clone())) };
        let accepted = v1::Decision { answer: Some(v1::decision::Answer::Accepted(v1::Accepted::default())) };
        let mut encoder = BatchEncoder::default();
        encoder.begin(LogTime::default());
        encoder.add(Revision(1), b"", &decision.encode_to_vec(), b"");
        encoder.add(Revision(2), b"", &accepted.encode_to_vec(), b"");
        let batch = LoggedBatch::parse(encoder.finish()).unwrap();
        assert_eq!(v1::Outcome::decode(batch.outcome(Revision(1)).unwrap()).unwrap(), outcome);
        assert_eq!((batch.outcome(Revision(2)), batch.outcome(Revision(3))), (None, None));
    }

    #[test]
    fn gaps_and_torn_bytes_are_no_batch() {
        let mut encoder = BatchEncoder::default();
        encoder.begin(LogTime::default());
        encoder.add(Revision(3), b"", b"", b"");
        encoder.add(Revision(5), b"", b"", b"");
        assert!(LoggedBatch::parse(encoder.finish()).is_err());
        // After the last revision that there can be, there is no other.
        let entry = |revision| v1::LogEntry { revision, ..v1::LogEntry::default() };
        let beyond = v1::LogBatch { entries: vec![entry(u64::MAX), entry(0)], ..v1::LogBatch::default() };
        assert!(LoggedBatch::parse(beyond.encode_to_vec().into()).is_err());
        let whole = encoded();
        for end in 0..whole.len() - 1 {
            // A batch may by chance end where an entry does; it then has fewer revisions, which the frame's label tells.
            if let Ok(batch) = LoggedBatch::parse(whole.slice(..end)) {
                assert!(batch.last() < Revision(301), "{end}");
            }
        }
    }
}
