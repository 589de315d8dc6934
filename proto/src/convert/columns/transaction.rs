//! Reading transactions: their columns are most of what a server takes in.

use std::ops::Range;

use bytes::Bytes;

use plenum_model::{AllocationId, ConflictCheck, Revision, Transaction};

use super::super::delta::wire::VARINT_BYTES_MAX;
use super::super::enums::Known;
use super::super::transaction::transaction_id;
use super::unpack;
use crate::bounds::ASSUMED_MAX;
use crate::fields::{Field, fields, number as varint};
use crate::v1;

/// The wire types of a number, and of what says its length.
const NUMBER: u8 = 0;
const DELIMITED: u8 = 2;

/// The transaction in these bytes, exactly as generated code reads it, and where its `decision` stands (nowhere: an empty range); `None`
/// when generated code is to read it, or when it breaks a rule.
///
/// Only what nearly every transaction consists of is read here: what guards, extras and groups of an early protobuf mean, and how deep a
/// message may be, stays generated code's to say. How much a long one asks for was checked before.
pub(in super::super) fn transaction(bytes: &[u8]) -> Option<(Transaction, Range<usize>)> {
    let mut read = Transaction::default();
    let (mut session, mut number, mut check, mut stops) = (0, 0, 0, Vec::new());
    let mut decision_at = None;
    for field in fields(bytes) {
        let field = field.ok()?;
        let content = &bytes[field.content.clone()];
        match (field.number, wire_type(&field, bytes)) {
            (1, NUMBER) => session = varint(content)?,
            (2, NUMBER) => number = varint(content)?,
            (3, NUMBER) => read.incarnation = varint(content)?,
            (4, NUMBER) => read.base = Revision(varint(content)?),
            (5, NUMBER) => read.atomic = varint(content)? > 0,
            (6, NUMBER) => check = varint(content)?.try_into().ok()?,
            (7, DELIMITED) => {
                if read.placements.is_empty() {
                    // Mostly there is one, of some hundred bytes: room for four would be made else.
                    read.placements.reserve_exact(1);
                }
                read.placements.push(placement(content)?.try_into().ok()?);
            }
            (8, DELIMITED) => unpack(content, &mut stops)?,
            (10, NUMBER) => read.dry_run = varint(content)? > 0,
            // Generated code would merge a second one into the first.
            (11, DELIMITED) if decision_at.is_none() => {
                read.decision = decision(content)?.try_into().ok()?;
                decision_at = Some(field.whole);
            }
            _ => return None,
        }
    }
    read.id = transaction_id(session, number).ok()?;
    read.check = ConflictCheck::known("check", check).ok()?;
    read.stops = stops.into_iter().map(AllocationId::from_bits).collect::<Option<_>>()?;
    Some((read, decision_at.unwrap_or_default()))
}

fn placement(bytes: &[u8]) -> Option<v1::Placement> {
    let mut read = v1::Placement::default();
    for field in fields(bytes) {
        let field = field.ok()?;
        let content = &bytes[field.content.clone()];
        match (field.number, wire_type(&field, bytes)) {
            (1, NUMBER) => read.job = varint(content)?,
            (2, NUMBER) => read.group = varint(content)?.try_into().ok()?,
            (3, NUMBER) => read.job_version = varint(content)?.try_into().ok()?,
            (5, DELIMITED) => unpack(content, &mut read.machines)?,
            (6, DELIMITED) => unpack(content, &mut read.tasks)?,
            (7, NUMBER) => read.min = varint(content)?.try_into().ok()?,
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
            (1, NUMBER) => read.attempt = varint(content)?.try_into().ok()?,
            (2, DELIMITED) => read.policy = str::from_utf8(content).ok()?.to_owned(),
            (3, DELIMITED) => read.configuration = Bytes::copy_from_slice(content),
            (4, NUMBER) => read.seed = varint(content)?,
            (5, DELIMITED) if content.len() <= ASSUMED_MAX * VARINT_BYTES_MAX => unpack(content, &mut read.assumed)?,
            (6, NUMBER) => read.queued_micros = varint(content)?.cast_signed(),
            (7, NUMBER) => read.deciding_micros = varint(content)?.cast_signed(),
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
    use plenum_model::Transaction;
    use prost::Message;

    use crate::bounds::SPAN_MICROS_MAX;
    use crate::v1;

    fn transaction(bytes: &[u8]) -> Option<Transaction> {
        super::transaction(bytes).map(|(read, _)| read)
    }

    fn by_generated_code(bytes: &[u8]) -> Option<Transaction> {
        v1::Transaction::decode(bytes).ok()?.try_into().ok()
    }

    /// With everything that is read here.
    fn plain() -> v1::Transaction {
        let placement = |first: u32| v1::Placement {
            job: 1 << 40 | 7,
            group: 3,
            job_version: u32::MAX,
            machines: (first..first + 6).collect(),
            tasks: vec![0, 127, 128, 1 << 14, 1 << 15, 999_999],
            min: 4,
            alternates: vec![9, u32::MAX],
            ..v1::Placement::default()
        };
        v1::Transaction {
            session: 300,
            number: 7,
            incarnation: u64::MAX,
            base_revision: 1 << 33,
            atomic: true,
            check: v1::ConflictCheck::Sequence.into(),
            placements: vec![placement(0), placement(70_000)],
            stops: vec![1 << 32, u64::MAX],
            dry_run: true,
            decision: Some(v1::DecisionMetadata {
                attempt: 2,
                policy: "best-fit".to_owned(),
                configuration: vec![1, 2, 3].into(),
                seed: 99,
                assumed: vec![4, 1 << 40],
                queued_micros: 1,
                deciding_micros: 1 << 20,
            }),
            ..v1::Transaction::default()
        }
    }

    #[test]
    fn a_transaction_is_read_as_generated_code_reads_it() {
        let bytes = plain().encode_to_vec();
        let (found, decision) = super::transaction(&bytes).unwrap();
        assert_eq!(Some(found), by_generated_code(&bytes));
        assert_eq!(bytes[decision.start], 11 << 3 | 2, "where its decision stands");
        assert_eq!(decision.end, bytes.len());
    }

    #[test]
    fn one_that_breaks_a_rule_is_left_to_generated_code_which_tells_which() {
        let one = |number| v1::Placement { machines: vec![1], tasks: vec![0], job: number, ..Default::default() };
        let broken = [
            v1::Transaction { session: 0, ..plain() },
            v1::Transaction { number: 0, ..plain() },
            v1::Transaction { stops: vec![5], ..plain() },
            v1::Transaction { check: 77, ..plain() },
            v1::Transaction { placements: vec![one(0)], ..plain() },
            v1::Transaction { placements: vec![v1::Placement { tasks: vec![], ..one(1 << 32) }], ..plain() },
        ];
        for message in broken {
            let bytes = message.encode_to_vec();
            assert_eq!((transaction(&bytes), by_generated_code(&bytes)), (None, None), "{message:?}");
        }
    }

    // Of a scheduler whose clock had gone back each transaction was refused, whatever it claimed.
    #[test]
    fn times_of_a_decision_beyond_their_bounds_are_read_as_the_nearest_within() {
        let times = [(-1, 0), (i64::MIN, 0), (SPAN_MICROS_MAX, SPAN_MICROS_MAX), (i64::MAX, SPAN_MICROS_MAX)];
        for (said, read) in times {
            let decision = v1::DecisionMetadata { queued_micros: said, deciding_micros: said, ..Default::default() };
            let bytes = v1::Transaction { decision: Some(decision), ..plain() }.encode_to_vec();
            let found = transaction(&bytes).expect("it is read here");
            assert_eq!((found.decision.queued_micros, found.decision.deciding_micros), (read, read), "{said}");
            assert_eq!(by_generated_code(&bytes), Some(found), "{said}");
        }
    }

    #[test]
    fn far_too_many_transactions_in_flight_are_not_unpacked_here() {
        let with = |assumed| {
            let decision = v1::DecisionMetadata { assumed: vec![1; assumed], ..Default::default() };
            v1::Transaction { decision: Some(decision), ..plain() }.encode_to_vec()
        };
        assert!(transaction(&with(256)).is_some());
        for assumed in [257, 100_000] {
            assert_eq!((transaction(&with(assumed)), by_generated_code(&with(assumed))), (None, None));
        }
    }

    #[test]
    fn changed_bytes_are_read_as_generated_code_reads_them_or_not_at_all() {
        let whole = plain().encode_to_vec();
        let mut taken = 0;
        for place in 0..whole.len() {
            for change in 1..=u8::MAX {
                let mut bytes = whole.clone();
                bytes[place] ^= change;
                if let Some(found) = transaction(&bytes) {
                    assert_eq!(by_generated_code(&bytes), Some(found), "byte {place} ^ {change}");
                    taken += 1;
                }
            }
        }
        assert!(taken > whole.len(), "many changes leave a message: {taken}");
        for end in 0..whole.len() {
            if let Some(found) = transaction(&whole[..end]) {
                assert_eq!(by_generated_code(&whole[..end]), Some(found), "{end}");
            }
        }
    }

    #[test]
    fn what_is_unusual_is_left_to_generated_code() {
        let fact = v1::guard::Fact::JobVersion(v1::JobVersionGuard { job: 1 << 32, version: 3 });
        let guards = vec![v1::Guard { fact: Some(fact) }];
        let with = |placement: v1::Placement| v1::Transaction { placements: vec![placement], ..plain() };
        let one = v1::Placement { job: 1 << 32, machines: vec![1], tasks: vec![0], ..v1::Placement::default() };
        let victim = v1::Preemption { machine: 1, victim: 1 << 32 };
        let unusual = [
            v1::Transaction { guards: guards.clone(), ..plain() },
            with(v1::Placement { guards, ..one.clone() }),
            with(v1::Placement { resources: Some(v1::Resources::default()), ..one.clone() }),
            with(v1::Placement { extras: vec![v1::ClaimExtras::default()], ..one.clone() }),
            with(v1::Placement { preemptions: vec![victim], ..one }),
        ]
        .map(|message| message.encode_to_vec());
        // A second decision, which becomes one with the first; a column that is not packed; a field that is not known; a group.
        let more =
            [&[90, 2, 32, 1][..], &[64, 0x80, 0x80, 0x80, 0x80, 0x10], &[0xfa, 0x3f, 0], &[0xa3, 0x06, 0xa4, 0x06]]
                .map(|more| [&plain().encode_to_vec(), more].concat());
        for bytes in unusual.iter().chain(&more) {
            assert!(by_generated_code(bytes).is_some(), "{bytes:?}");
            assert_eq!(transaction(bytes), None, "{bytes:?}");
        }
    }
}
