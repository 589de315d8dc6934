//! Heads of what each entry of the log has, read where they stand.
//!
//! Generated code allocates, copies and counts references for each message, and takes longer over those around an answer than all that is
//! looked for in it. Here is read what servers write. Anything else is [`Unusual`], and left to generated code: it is the judge of what is
//! a message.
use crate::batch::{LostClaim, winner};
use crate::records::{CulpritHead, DecisionHead, LogBatchHead, LogEntryHead, OutcomeHead, RefusalHead};
use bytes::Bytes;
use plenum_proto::fields::{Field, Malformed, fields, number};
use plenum_proto::v1;

/// Fields of a `LogBatch`, and of its `LogEntry`.
const TIME_MICROS: u64 = 2;
const ENTRIES: u64 = 3;
const REVISION: u64 = 1;
const ASKED: u64 = 2;
const DECIDED: u64 = 3;
const DELTA: u64 = 4;
/// Of a `Decision`.
const OUTCOME: u64 = 2;
/// Of an `Outcome`.
const SESSION: u64 = 1;
const NUMBER: u64 = 2;
const OUTCOME_REVISION: u64 = 3;
const REFUSALS: u64 = 7;
const CLAIMS: u64 = 9;
const GRANTED: u64 = 10;
/// Of a `Refusal`.
const KIND: u64 = 1;
const JOB: u64 = 5;
const MACHINE: u64 = 8;
const RESOURCE: u64 = 9;
const CULPRITS: u64 = 11;
/// Of a `Culprit`.
const SCHEDULER: u64 = 4;
const EVENT: u64 = 5;

/// Not as servers write it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unusual;

impl From<Malformed> for Unusual {
    fn from(_: Malformed) -> Self {
        Self
    }
}

/// A `LogEntry`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EntryView<'a> {
    pub(crate) revision: u64,
    /// Encoded, as are the others.
    pub(crate) asked: &'a [u8],
    pub(crate) decided: &'a [u8],
    pub(crate) delta: &'a [u8],
}

impl<'a> From<&'a LogEntryHead> for EntryView<'a> {
    fn from(head: &'a LogEntryHead) -> Self {
        Self { revision: head.revision, asked: &head.asked, decided: &head.decided, delta: &head.delta }
    }
}

/// The answer to a transaction.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct OutcomeView<'a> {
    pub(crate) session: u64,
    pub(crate) number: u64,
    pub(crate) revision: u64,
    pub(crate) claims: u32,
    pub(crate) granted: u32,
    /// The claims that were lost as conflicts.
    pub(crate) lost: Vec<LostClaim<'a>>,
}

/// The entries of an encoded `LogBatch`.
pub(crate) fn entries(batch: &[u8]) -> Result<Vec<EntryView<'_>>, Unusual> {
    let mut found = Vec::new();
    for field in fields(batch) {
        let field = field?;
        match field.number {
            ENTRIES => found.push(entry(content(batch, &field)?)?),
            TIME_MICROS => drop(varint(batch, &field)?),
            _ => {}
        }
    }
    Ok(found)
}

/// Which revisions a batch has, and when they were decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) time_micros: i64,
}

/// What an encoded `LogBatch` spans; `None` if it has no entry. The revisions in between are not looked at.
pub(crate) fn span(batch: &[u8]) -> Result<Option<Span>, Unusual> {
    let (mut revisions, mut time_micros) = (None, 0);
    for field in fields(batch) {
        let field = field?;
        match field.number {
            ENTRIES => {
                let revision = entry(content(batch, &field)?)?.revision;
                revisions = Some((revisions.map_or(revision, |(first, _)| first), revision));
            }
            TIME_MICROS => time_micros = varint(batch, &field)?.cast_signed(),
            _ => {}
        }
    }
    Ok(revisions.map(|(first, last)| Span { first, last, time_micros }))
}

/// The same, as generated code reads it.
pub(crate) fn span_by_generated_code(batch: Bytes) -> Result<Option<Span>, prost::DecodeError> {
    let head = <LogBatchHead as prost::Message>::decode(batch)?;
    let ends = head.entries.first().zip(head.entries.last());
    Ok(ends.map(|(first, last)| Span { first: first.revision, last: last.revision, time_micros: head.time_micros }))
}

fn entry(bytes: &[u8]) -> Result<EntryView<'_>, Unusual> {
    let mut entry = EntryView::default();
    for field in fields(bytes) {
        let field = field?;
        match field.number {
            REVISION => entry.revision = varint(bytes, &field)?,
            ASKED => entry.asked = content(bytes, &field)?,
            DECIDED => entry.decided = content(bytes, &field)?,
            DELTA => entry.delta = content(bytes, &field)?,
            _ => {}
        }
    }
    Ok(entry)
}

/// The outcome in an encoded `Decision`; `None` if it answers something else.
pub(crate) fn outcome(decided: &[u8]) -> Result<Option<OutcomeView<'_>>, Unusual> {
    let mut found = None;
    for field in fields(decided) {
        let field = field?;
        if field.number == OUTCOME {
            let outcome = outcome_of(content(decided, &field)?)?;
            // Two of them would be one.
            if found.replace(outcome).is_some() {
                return Err(Unusual);
            }
        }
    }
    Ok(found)
}

fn outcome_of(bytes: &[u8]) -> Result<OutcomeView<'_>, Unusual> {
    let mut outcome = OutcomeView::default();
    for field in fields(bytes) {
        let field = field?;
        match field.number {
            SESSION => outcome.session = varint(bytes, &field)?,
            NUMBER => outcome.number = varint(bytes, &field)?,
            OUTCOME_REVISION => outcome.revision = varint(bytes, &field)?,
            REFUSALS => outcome.lost.extend(lost_claim(content(bytes, &field)?)?),
            CLAIMS => outcome.claims = small(bytes, &field)?,
            GRANTED => outcome.granted = small(bytes, &field)?,
            _ => {}
        }
    }
    Ok(outcome)
}

/// The claim of a `Refusal`, if it was lost as a conflict.
fn lost_claim(bytes: &[u8]) -> Result<Option<LostClaim<'_>>, Unusual> {
    let (mut kind, mut job, mut machine, mut resource, mut culprit) = (0, 0, 0, 0, None);
    for field in fields(bytes) {
        let field = field?;
        match field.number {
            KIND => kind = enumerated(bytes, &field)?,
            JOB => job = varint(bytes, &field)?,
            MACHINE => machine = small(bytes, &field)?,
            RESOURCE => resource = enumerated(bytes, &field)?,
            CULPRITS => {
                let content = content(bytes, &field)?;
                culprit.get_or_insert(content);
            }
            _ => {}
        }
    }
    if kind != i32::from(v1::RefusalKind::Conflict) {
        return Ok(None);
    }
    let culprit = culprit.map(|culprit| names(culprit)).transpose()?;
    Ok(Some(LostClaim { winner: winner(culprit), machine, job, resource }))
}

/// Scheduler and event of a `Culprit`.
fn names(bytes: &[u8]) -> Result<(&str, &str), Unusual> {
    let (mut scheduler, mut event) = ("", "");
    for field in fields(bytes) {
        let field = field?;
        let name = match field.number {
            SCHEDULER => &mut scheduler,
            EVENT => &mut event,
            _ => continue,
        };
        *name = std::str::from_utf8(content(bytes, &field)?).map_err(|_| Unusual)?;
    }
    Ok((scheduler, event))
}

/// What a field of a message has, that says its length.
pub(crate) fn content<'a>(message: &'a [u8], field: &Field) -> Result<&'a [u8], Unusual> {
    if !field.is_delimited(message) {
        return Err(Unusual);
    }
    Ok(&message[field.content.clone()])
}

/// The number that a field of a message has.
pub(crate) fn varint(message: &[u8], field: &Field) -> Result<u64, Unusual> {
    if message[field.whole.start] & 7 != 0 {
        return Err(Unusual);
    }
    number(&message[field.content.clone()]).ok_or(Unusual)
}

/// A number that fits in 32 bits, as all do that are written.
pub(crate) fn small(message: &[u8], field: &Field) -> Result<u32, Unusual> {
    u32::try_from(varint(message, field)?).map_err(|_| Unusual)
}

fn enumerated(message: &[u8], field: &Field) -> Result<i32, Unusual> {
    i32::try_from(varint(message, field)?).map_err(|_| Unusual)
}

/// As generated code reads the outcome in a `Decision`.
pub(crate) fn outcome_by_generated_code(decided: &[u8]) -> Result<Option<OutcomeView<'static>>, prost::DecodeError> {
    let decision = <DecisionHead as prost::Message>::decode(decided)?;
    let view = |outcome: OutcomeHead| {
        let OutcomeHead { session, number, revision, refusals, claims, granted } = outcome;
        Ok(OutcomeView { session, number, revision, claims, granted, lost: lost_claims(&refusals)? })
    };
    decision.outcome.map(view).transpose()
}

/// The claims among these that were lost as conflicts.
fn lost_claims(refusals: &[RefusalHead]) -> Result<Vec<LostClaim<'static>>, prost::DecodeError> {
    let conflicts = refusals.iter().filter(|refusal| refusal.kind == i32::from(v1::RefusalKind::Conflict));
    let lost = conflicts.map(|refusal| {
        let culprit = refusal.culprits.first().cloned().map(<CulpritHead as prost::Message>::decode).transpose()?;
        let culprit = culprit.as_ref().map(|culprit| (culprit.scheduler.as_str(), culprit.event.as_str()));
        Ok(LostClaim {
            winner: winner(culprit).into_owned().into(),
            machine: refusal.machine,
            job: refusal.job,
            resource: refusal.resource,
        })
    });
    lost.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use prost::Message;

    fn decision() -> v1::Decision {
        let culprit = |scheduler: &str, event: &str| v1::Culprit {
            revision: 300,
            scheduler: scheduler.to_owned(),
            event: event.to_owned(),
            ..Default::default()
        };
        let refusal = |kind: v1::RefusalKind, machine, culprits| v1::Refusal {
            kind: kind.into(),
            claim: 5,
            job: 7 << 32,
            machine,
            resource: 2,
            short_by: -1,
            culprits,
            ..Default::default()
        };
        let refusals = vec![
            refusal(v1::RefusalKind::Conflict, 200, vec![culprit("batch", ""), culprit("service", "")]),
            refusal(v1::RefusalKind::Misfit, 3, vec![]),
            refusal(v1::RefusalKind::Conflict, u32::MAX, vec![culprit("", "expired")]),
            refusal(v1::RefusalKind::Conflict, 0, vec![]),
        ];
        let placements = vec![v1::PlacementOutcome { allocations: vec![1, 2, 3], ..Default::default() }];
        let (session, number, revision, claims, granted) = (u64::MAX, 8, 9, 100, 96);
        let outcome =
            v1::Outcome { session, number, revision, claims, granted, refusals, placements, ..Default::default() };
        v1::Decision { answer: Some(v1::decision::Answer::Outcome(outcome)) }
    }

    #[test]
    fn outcomes_are_read_as_generated_code_reads_them() {
        let bytes = decision().encode_to_vec();
        let found = outcome(&bytes).unwrap();
        let winners: Vec<_> = found.iter().flat_map(|found| &found.lost).map(|lost| &*lost.winner).collect();
        assert_eq!(winners, ["batch", "(expired)", "(unknown)"]);
        assert_eq!(found, outcome_by_generated_code(&bytes).unwrap());
        let rejected = v1::Decision { answer: Some(v1::decision::Answer::Accepted(v1::Accepted::default())) };
        assert_eq!(outcome(&rejected.encode_to_vec()), Ok(None));
    }

    #[test]
    fn whatever_is_read_of_changed_outcomes_is_what_generated_code_reads() {
        let bytes = decision().encode_to_vec();
        let mut read = 0;
        for at in 0..bytes.len() {
            for changed in 0..=u8::MAX {
                let mut bytes = bytes.clone();
                bytes[at] ^= changed;
                let Ok(found) = outcome(&bytes) else { continue };
                assert_eq!(Ok(found), outcome_by_generated_code(&bytes), "byte {at} is another one");
                read += 1;
            }
        }
        assert!(read > bytes.len(), "only {read} were read");
    }

    #[test]
    fn entries_are_read_as_generated_code_reads_them() {
        let entry = |revision| v1::LogEntry {
            revision,
            asked: vec![1; 200].into(),
            decided: decision().encode_to_vec().into(),
            delta: vec![].into(),
        };
        let batch = v1::LogBatch {
            core_version: 3,
            time_micros: -1,
            entries: (1..300).map(entry).collect(),
            core_options: None,
        };
        let bytes = batch.encode_to_vec();
        let head = LogBatchHead::decode(&*bytes).unwrap();
        let expected: Vec<_> = head.entries.iter().map(EntryView::from).collect();
        assert_eq!(entries(&bytes), Ok(expected));
        assert_eq!(span(&bytes), Ok(Some(Span { first: 1, last: 299, time_micros: -1 })));
        assert_eq!(span(&v1::LogBatch { entries: vec![], ..batch }.encode_to_vec()), Ok(None));
    }

    #[test]
    fn whatever_is_read_of_changed_batches_is_what_generated_code_reads() {
        let entry =
            v1::LogEntry { revision: 300, asked: vec![1; 3].into(), decided: vec![2].into(), delta: vec![3; 5].into() };
        let core_options = Some(v1::CoreOptions::default());
        let entries_of = vec![entry.clone(), v1::LogEntry { revision: 301, ..entry }];
        let batch = v1::LogBatch { core_version: 3, time_micros: 1 << 40, entries: entries_of, core_options };
        let bytes = batch.encode_to_vec();
        let mut read = 0;
        for at in 0..bytes.len() {
            for changed in 1..=u8::MAX {
                let mut bytes = bytes.clone();
                bytes[at] ^= changed;
                let Ok(found) = entries(&bytes) else { continue };
                let head = LogBatchHead::decode(&*bytes).unwrap();
                let expected: Vec<_> = head.entries.iter().map(EntryView::from).collect();
                assert_eq!(found, expected, "byte {at} ^ {changed}");
                let spanned = span_by_generated_code(Bytes::copy_from_slice(&bytes)).unwrap();
                assert_eq!(span(&bytes), Ok(spanned), "byte {at} ^ {changed}");
                read += 1;
            }
        }
        assert!(read > bytes.len(), "only {read} were read");
    }

    #[test]
    fn what_no_server_writes_is_left_to_generated_code() {
        // An outcome in two parts, a revision that says its length, a machine beyond 32 bits.
        assert_eq!(outcome(&[0x12, 2, 0x08, 7, 0x12, 2, 0x10, 8]), Err(Unusual));
        assert_eq!(entries(&[0x1a, 3, 0x0a, 1, 1]), Err(Unusual));
        let machine = [0x12, 9, 0x3a, 7, 0x40, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(outcome(&machine), Err(Unusual));
        assert!(outcome_by_generated_code(&machine).is_ok());
    }
}
