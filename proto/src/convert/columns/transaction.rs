//! Reading transactions: their columns are most of what a server takes in.

use bytes::Bytes;

use super::unpack;
use crate::fields::{Field, fields, number};
use crate::v1;

/// The wire types of a number, and of what says its length.
const NUMBER: u8 = 0;
const DELIMITED: u8 = 2;

/// The transaction in these bytes, exactly as generated code reads it; `None` when it is to do that.
///
/// Only what nearly every transaction consists of is read here: what guards, extras and groups of an early protobuf mean, and how deep a
/// message may be, stays generated code's to say.
pub(in super::super) fn transaction(bytes: &[u8]) -> Option<v1::Transaction> {
    let mut read = v1::Transaction::default();
    for field in fields(bytes) {
        let field = field.ok()?;
        let content = &bytes[field.content.clone()];
        match (field.number, wire_type(&field, bytes)) {
            (1, NUMBER) => read.session = number(content)?,
            (2, NUMBER) => read.number = number(content)?,
            (3, NUMBER) => read.incarnation = number(content)?,
            (4, NUMBER) => read.base_revision = number(content)?,
            (5, NUMBER) => read.atomic = number(content)? > 0,
            (6, NUMBER) => read.check = number(content)?.try_into().ok()?,
            (7, DELIMITED) => read.placements.push(placement(content)?),
            (8, DELIMITED) => unpack(content, &mut read.stops)?,
            (10, NUMBER) => read.dry_run = number(content)? > 0,
            // Generated code would merge a second one into the first.
            (11, DELIMITED) if read.decision.is_none() => read.decision = Some(decision(content)?),
            _ => return None,
        }
    }
    Some(read)
}

fn placement(bytes: &[u8]) -> Option<v1::Placement> {
    let mut read = v1::Placement::default();
    for field in fields(bytes) {
        let field = field.ok()?;
        let content = &bytes[field.content.clone()];
        match (field.number, wire_type(&field, bytes)) {
            (1, NUMBER) => read.job = number(content)?,
            (2, NUMBER) => read.group = number(content)?.try_into().ok()?,
            (3, NUMBER) => read.job_version = number(content)?.try_into().ok()?,
            (5, DELIMITED) => unpack(content, &mut read.machines)?,
            (6, DELIMITED) => unpack(content, &mut read.tasks)?,
            (7, NUMBER) => read.min = number(content)?.try_into().ok()?,
            (11, DELIMITED) => unpack(content, &mut read.alternates)?,
            _ => return None,
        }
    }
    Some(read)
}

fn decision(bytes: &[u8]) -> Option<v1::DecisionMetadata> {
    let mut read = v1::DecisionMetadata::default();
    for field in fields(bytes) {
        let field = field.ok()?;
        let content = &bytes[field.content.clone()];
        match (field.number, wire_type(&field, bytes)) {
            (1, NUMBER) => read.attempt = number(content)?.try_into().ok()?,
            (2, DELIMITED) => read.policy = str::from_utf8(content).ok()?.to_owned(),
            (3, DELIMITED) => read.configuration = Bytes::copy_from_slice(content),
            (4, NUMBER) => read.seed = number(content)?,
            (5, DELIMITED) => unpack(content, &mut read.assumed)?,
            (6, NUMBER) => read.queued_micros = number(content)?.cast_signed(),
            (7, NUMBER) => read.deciding_micros = number(content)?.cast_signed(),
            _ => return None,
        }
    }
    Some(read)
}

fn wire_type(field: &Field, message: &[u8]) -> u8 {
    message[field.whole.start] & 7
}

#[cfg(test)]
mod tests {
    use super::transaction;
    use prost::Message;

    use crate::v1;

    /// With everything that is read here.
    fn plain() -> v1::Transaction {
        let placement = |first: u32| v1::Placement {
            job: 1 << 40 | 7,
            group: 3,
            job_version: u32::MAX,
            machines: (first..first + 20).collect(),
            tasks: vec![u32::MAX, 0, 127, 128, 1 << 28],
            min: 4,
            alternates: vec![9, 300],
            ..v1::Placement::default()
        };
        v1::Transaction {
            session: 300,
            number: 7,
            incarnation: u64::MAX,
            base_revision: 1 << 33,
            atomic: true,
            check: v1::ConflictCheck::Sequence.into(),
            placements: vec![placement(0), v1::Placement::default(), placement(70_000)],
            stops: vec![1 << 32, u64::MAX],
            dry_run: true,
            decision: Some(v1::DecisionMetadata {
                attempt: 2,
                policy: "best-fit".to_owned(),
                configuration: vec![1, 2, 3].into(),
                seed: 99,
                assumed: vec![4, 1 << 40],
                queued_micros: -1,
                deciding_micros: i64::MAX,
            }),
            ..v1::Transaction::default()
        }
    }

    #[test]
    fn a_transaction_is_read_as_generated_code_reads_it() {
        assert_eq!(transaction(&plain().encode_to_vec()), Some(plain()));
        assert_eq!(transaction(&[]), Some(v1::Transaction::default()));
    }

    #[test]
    fn changed_bytes_are_read_as_generated_code_reads_them_or_not_at_all() {
        let whole = plain().encode_to_vec();
        let mut taken = 0;
        for place in 0..whole.len() {
            for change in [1, 2, 4, 8, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[place] ^= change;
                if let Some(found) = transaction(&bytes) {
                    assert_eq!(
                        v1::Transaction::decode(bytes.as_slice()).as_ref(),
                        Ok(&found),
                        "byte {place} ^ {change}"
                    );
                    taken += 1;
                }
            }
        }
        assert!(taken > whole.len(), "most changes leave a message: {taken}");
        for end in 0..whole.len() {
            if let Some(found) = transaction(&whole[..end]) {
                assert_eq!(v1::Transaction::decode(&whole[..end]), Ok(found), "{end}");
            }
        }
    }

    #[test]
    fn what_is_unusual_is_left_to_generated_code() {
        let with =
            |placement: v1::Placement| v1::Transaction { placements: vec![placement], ..v1::Transaction::default() };
        let guards = vec![v1::Guard::default()];
        let unusual = [
            v1::Transaction { guards: guards.clone(), ..v1::Transaction::default() },
            with(v1::Placement { guards, ..v1::Placement::default() }),
            with(v1::Placement { resources: Some(v1::Resources::default()), ..v1::Placement::default() }),
            with(v1::Placement { extras: vec![v1::ClaimExtras::default()], ..v1::Placement::default() }),
            with(v1::Placement { preemptions: vec![v1::Preemption::default()], ..v1::Placement::default() }),
            v1::Transaction { check: -1, ..v1::Transaction::default() },
        ];
        for message in unusual {
            assert_eq!(transaction(&message.encode_to_vec()), None, "{message:?}");
        }
        // Two decisions, which are one; a column that is not packed; a field that is not known; a group.
        for bytes in [&[90, 2, 8, 1, 90, 2, 32, 1][..], &[64, 1], &[0xfa, 0x3f, 0], &[0xa3, 0x06, 0xa4, 0x06]] {
            assert!(v1::Transaction::decode(bytes).is_ok(), "{bytes:?}");
            assert_eq!(transaction(bytes), None, "{bytes:?}");
        }
    }
}
