//! Reading the packed columns of a delta: nearly all of its bytes.
//!
//! Generated code takes some nine nanoseconds a number, three times what folding it may cost at a start. So columns are read here, and
//! all else is left to generated code, message by message. What looks unusual in any way is left to it altogether: there is one judge of
//! what is a message, and this is not it.

use bytes::Bytes;
use prost::Message;

use crate::fields::fields;
use crate::v1;

const GRANTS: u64 = 8;
const MOVES: u64 = 9;
const ENDS: u64 = 10;

/// The message in these bytes, exactly as generated code reads it; `None` when it is to do that.
pub(super) fn read(bytes: &Bytes) -> Option<v1::Delta> {
    let mut rest = Vec::new();
    let (mut grants, mut moves, mut ends) = (Vec::new(), None, None);
    for field in fields(bytes) {
        let field = field.ok()?;
        let content = &bytes[field.content.clone()];
        match (field.number, field.is_delimited(bytes)) {
            (GRANTS, true) => grants.push(read_grants(content)?),
            (MOVES, true) if moves.is_none() => moves = Some(read_moves(content)?),
            (ENDS, true) if ends.is_none() => ends = Some(read_ends(content)?),
            // Generated code would merge the second one into the first.
            (GRANTS..=ENDS, _) => return None,
            _ => rest.extend_from_slice(&bytes[field.whole]),
        }
    }
    let rest = v1::Delta::decode(Bytes::from(rest)).ok()?;
    Some(v1::Delta { grants, moves, ends, ..rest })
}

fn read_grants(bytes: &[u8]) -> Option<v1::Grants> {
    let mut columns = [const { Vec::new() }; 4];
    let rest: v1::Grants = read_columns(bytes, [7, 8, 9, 10], &mut columns)?;
    let loose = [&rest.machines, &rest.tasks, &rest.slots, &rest.generations];
    let [machines, tasks, slots, generations] = columns;
    loose.iter().all(|column| column.is_empty()).then_some(v1::Grants { machines, tasks, slots, generations, ..rest })
}

fn read_moves(bytes: &[u8]) -> Option<v1::Moves> {
    let mut columns = [const { Vec::new() }; 4];
    let rest: v1::Moves = read_columns(bytes, [1, 2, 3, 4], &mut columns)?;
    let loose = [&rest.slots, &rest.states, &rest.ready, &rest.restarts];
    let [slots, states, ready, restarts] = columns;
    loose.iter().all(|column| column.is_empty()).then_some(v1::Moves { slots, states, ready, restarts, ..rest })
}

fn read_ends(bytes: &[u8]) -> Option<v1::Ends> {
    let mut columns = [const { Vec::new() }; 3];
    let rest: v1::Ends = read_columns(bytes, [1, 2, 3], &mut columns)?;
    let loose = rest.slots.is_empty() && rest.states.is_empty() && rest.exit_codes.is_empty();
    let [slots, states, codes] = columns;
    let exit_codes = codes.into_iter().map(|code| (code >> 1).cast_signed() ^ -(code & 1).cast_signed()).collect();
    loose.then_some(v1::Ends { slots, states, exit_codes, ..rest })
}

/// Reads packed columns with these field numbers, and all other fields as generated code does. Columns that are not packed are among
/// those.
fn read_columns<M: Message + Default, const COLUMNS: usize>(
    bytes: &[u8],
    numbers: [u64; COLUMNS],
    columns: &mut [Vec<u32>; COLUMNS],
) -> Option<M> {
    let mut rest = Vec::new();
    for field in fields(bytes) {
        let field = field.ok()?;
        match numbers.iter().position(|&number| number == field.number) {
            Some(column) if field.is_delimited(bytes) => unpack(&bytes[field.content], &mut columns[column])?,
            _ => rest.extend_from_slice(&bytes[field.whole]),
        }
    }
    M::decode(rest.as_slice()).ok()
}

/// Appends the numbers of a packed column; `None` where one has more than 32 bits, or ends in the middle.
fn unpack(bytes: &[u8], column: &mut Vec<u32>) -> Option<()> {
    column.reserve(bytes.iter().filter(|&&byte| byte < 0x80).count());
    let (mut number, mut shift) = (0, 0);
    for &byte in bytes {
        if shift == 28 && byte > 0x0f {
            return None;
        }
        number |= u32::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            column.push(number);
            (number, shift) = (0, 0);
        } else {
            shift += 7;
        }
    }
    (shift == 0).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta() -> v1::Delta {
        let grants = |first: u32| v1::Grants {
            job: 1 << 40 | 7,
            number: 9,
            machines: (first..first + 300).collect(),
            tasks: vec![u32::MAX, 0, 127, 128, 1 << 28],
            slots: vec![1; 40],
            extras: vec![v1::GrantExtras { claim: 3, ..v1::GrantExtras::default() }],
            ..v1::Grants::default()
        };
        let reason = v1::NumberedReason { position: 1, reason: "moved".to_owned() };
        v1::Delta {
            revision: 5,
            time_micros: -1,
            scheduler_names: vec!["batch".to_owned()],
            grants: vec![grants(0), v1::Grants::default(), grants(70_000)],
            moves: Some(v1::Moves {
                slots: vec![4, 5],
                restarts: vec![1, 2],
                reasons: vec![reason],
                ..Default::default()
            }),
            ends: Some(v1::Ends {
                slots: vec![6],
                exit_codes: vec![0, -1, i32::MIN, i32::MAX, 7],
                ..Default::default()
            }),
            tasks: vec![v1::TaskChanges { group_row: 2, tasks: vec![1], ..Default::default() }],
            ..v1::Delta::default()
        }
    }

    #[test]
    fn a_delta_is_read_as_generated_code_reads_it() {
        let bytes = Bytes::from(delta().encode_to_vec());
        assert_eq!(read(&bytes), Some(delta()));
        let empty = v1::Delta { moves: Some(v1::Moves::default()), ..v1::Delta::default() };
        assert_eq!(read(&Bytes::from(empty.encode_to_vec())), Some(empty));
    }

    #[test]
    fn what_is_unusual_is_left_to_generated_code() {
        let moves = v1::Delta { moves: delta().moves, ..v1::Delta::default() }.encode_to_vec();
        // The same message twice, which is one; a column that is not packed; a number of more than 32 bits.
        let twice = [moves.clone(), moves].concat();
        for bytes in [twice.as_slice(), &[74, 2, 8, 7], &[74, 8, 10, 6, 0xff, 0xff, 0xff, 0xff, 0x7f, 1]] {
            assert!(v1::Delta::decode(bytes).is_ok(), "{bytes:?}");
            assert_eq!(read(&Bytes::copy_from_slice(bytes)), None, "{bytes:?}");
        }
    }

    #[test]
    fn changed_bytes_are_read_as_generated_code_reads_them_or_not_at_all() {
        let whole = delta().encode_to_vec();
        let mut taken = 0;
        for place in 0..whole.len() {
            for change in [1, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[place] ^= change;
                if let Some(found) = read(&Bytes::from(bytes.clone())) {
                    assert_eq!(v1::Delta::decode(bytes.as_slice()).as_ref(), Ok(&found), "byte {place} ^ {change}");
                    taken += 1;
                }
            }
        }
        assert!(taken > whole.len(), "most changes leave a message: {taken}");
        for end in 0..whole.len() {
            if let Some(found) = read(&Bytes::copy_from_slice(&whole[..end])) {
                assert_eq!(v1::Delta::decode(&whole[..end]), Ok(found), "{end}");
            }
        }
    }
}
