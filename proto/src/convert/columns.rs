//! Reading the packed columns of deltas and pages: nearly all of their bytes.
//!
//! Generated code takes some nine nanoseconds a number, three times what folding it may cost at a start. So columns are read here, and
//! all else is left to generated code, message by message. What looks unusual in any way is left to it altogether, a field that this version
//! does not know, too: there is one judge of what is a message, and this is not it.

mod transaction;

use bytes::Bytes;
use prost::Message;

use super::newer::says_all;
use crate::fields::fields;
use crate::v1;

pub(super) use transaction::transaction;

/// Fields of a delta.
const GRANTS: u64 = 8;
const MOVES: u64 = 9;
const ENDS: u64 = 10;

/// Fields of a page.
const MACHINES: u64 = 4;
const TASKS: u64 = 7;
const ALLOCATIONS: u64 = 8;
/// Fields of a page of machines.
const MACHINE_ROWS: u64 = 1;
const LAST_CHANGES: u64 = 2;
/// A field of a machine.
const ATTRIBUTES: u64 = 6;
/// Below are the number of the table and that of the page, which each page has.
const NUMBER_FIELDS_END: u64 = 3;

/// The delta in these bytes, exactly as generated code reads it; `None` when it is to do that, and where it is asked for `whole` and has a field
/// that this version does not know.
pub(super) fn delta(bytes: &Bytes, whole: bool) -> Option<v1::Delta> {
    let mut rest = Vec::new();
    let (mut grants, mut moves, mut ends) = (Vec::new(), None, None);
    for field in fields(bytes) {
        let field = field.ok()?;
        let content = &bytes[field.content.clone()];
        match (field.number, field.is_delimited(bytes)) {
            (GRANTS, true) => grants.push(read_grants(content, whole)?),
            (MOVES, true) if moves.is_none() => moves = Some(read_moves(content, whole)?),
            (ENDS, true) if ends.is_none() => ends = Some(read_ends(content, whole)?),
            // Generated code would merge the second one into the first.
            (GRANTS..=ENDS, _) => return None,
            _ => rest.extend_from_slice(&bytes[field.whole]),
        }
    }
    let rest_bytes = rest.len();
    let rest = v1::Delta::decode(Bytes::from(rest)).ok()?;
    (!whole || says_all(&rest, rest_bytes)).then(|| v1::Delta { grants, moves, ends, ..rest })
}

/// A page, and what was left out of its machines.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Columned {
    pub(super) page: v1::Page,
    /// For each machine its fields of attributes, encoded: many machines have the same ones, which need not be read each time. Empty where
    /// the machines have them.
    pub(super) attributes: Vec<Vec<u8>>,
}

/// The page in these bytes, exactly as generated code reads it, but for the attributes of machines; `None` when generated code is to
/// do that.
pub(super) fn page(bytes: &Bytes, whole: bool) -> Option<Columned> {
    let mut rest = Vec::new();
    let (mut tasks, mut allocations, mut machines, mut attributes) = (None, None, None, Vec::new());
    for field in fields(bytes) {
        let field = field.ok()?;
        let content = &bytes[field.content.clone()];
        match (field.number, field.is_delimited(bytes)) {
            (TASKS, true) if tasks.is_none() => tasks = Some(read_tasks(content, whole)?),
            (ALLOCATIONS, true) if allocations.is_none() => allocations = Some(read_allocations(content, whole)?),
            (MACHINES, true) if machines.is_none() => machines = Some(read_machines(content, &mut attributes, whole)?),
            // A second one, or a page of another table: the whole is generated code's.
            (NUMBER_FIELDS_END.., _) => return None,
            _ => rest.extend_from_slice(&bytes[field.whole]),
        }
    }
    let rest = v1::Page::decode(rest.as_slice()).ok()?;
    Some(Columned { page: v1::Page { tasks, allocations, machines, ..rest }, attributes })
}

fn read_machines(bytes: &[u8], attributes: &mut Vec<Vec<u8>>, whole: bool) -> Option<v1::MachinePage> {
    let mut page = v1::MachinePage::default();
    let mut rest = Vec::new();
    for field in fields(bytes) {
        let field = field.ok()?;
        let content = &bytes[field.content.clone()];
        match (field.number, field.is_delimited(bytes)) {
            (MACHINE_ROWS, true) => {
                let (machine, own) = read_machine(content, &mut rest, whole)?;
                page.machines.push(machine);
                attributes.push(own);
            }
            (LAST_CHANGES, true) => unpack(content, &mut page.last_changes)?,
            _ => return None,
        }
    }
    Some(page)
}

/// A machine without its attributes, and these.
fn read_machine(bytes: &[u8], rest: &mut Vec<u8>, whole: bool) -> Option<(v1::MachineChange, Vec<u8>)> {
    let mut attributes = Vec::new();
    rest.clear();
    for field in fields(bytes) {
        let field = field.ok()?;
        let is_attribute = field.number == ATTRIBUTES && field.is_delimited(bytes);
        if is_attribute { &mut attributes } else { &mut *rest }.extend_from_slice(&bytes[field.whole]);
    }
    let machine = v1::MachineChange::decode(rest.as_slice()).ok()?;
    (!whole || says_all(&machine, rest.len())).then_some((machine, attributes))
}

fn read_grants(bytes: &[u8], whole: bool) -> Option<v1::Grants> {
    let mut columns = Columns::new([7, 8, 9, 10], []);
    let rest: v1::Grants = columns.read(bytes, whole)?;
    let loose = [&rest.machines, &rest.tasks, &rest.slots, &rest.generations];
    let [machines, tasks, slots, generations] = columns.short;
    loose.iter().all(|column| column.is_empty()).then_some(v1::Grants { machines, tasks, slots, generations, ..rest })
}

fn read_moves(bytes: &[u8], whole: bool) -> Option<v1::Moves> {
    let mut columns = Columns::new([1, 2, 3, 4], []);
    let rest: v1::Moves = columns.read(bytes, whole)?;
    let loose = [&rest.slots, &rest.states, &rest.ready, &rest.restarts];
    let [slots, states, ready, restarts] = columns.short;
    loose.iter().all(|column| column.is_empty()).then_some(v1::Moves { slots, states, ready, restarts, ..rest })
}

fn read_ends(bytes: &[u8], whole: bool) -> Option<v1::Ends> {
    let mut columns = Columns::new([1, 2, 3], []);
    let rest: v1::Ends = columns.read(bytes, whole)?;
    let loose = rest.slots.is_empty() && rest.states.is_empty() && rest.exit_codes.is_empty();
    let [slots, states, codes] = columns.short;
    let exit_codes = codes.into_iter().map(|code| (code >> 1).cast_signed() ^ -(code & 1).cast_signed()).collect();
    loose.then_some(v1::Ends { slots, states, exit_codes, ..rest })
}

fn read_tasks(bytes: &[u8], whole: bool) -> Option<v1::TaskPage> {
    let mut columns = Columns::new([1, 2, 3, 4], []);
    let rest: v1::TaskPage = columns.read(bytes, whole)?;
    let [allocations, attempts, states, failures] = columns.short;
    (rest == v1::TaskPage::default()).then_some(v1::TaskPage { allocations, attempts, states, failures })
}

fn read_allocations(bytes: &[u8], whole: bool) -> Option<v1::AllocationPage> {
    let mut columns = Columns::new([1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15], [4, 14, 18, 19]);
    let mut rest: v1::AllocationPage = columns.read(bytes, whole)?;
    let (reasons, extras) = (std::mem::take(&mut rest.reasons), std::mem::take(&mut rest.extras));
    let [
        generations,
        states,
        ready,
        groups,
        group_rows,
        job_versions,
        tasks,
        attempts,
        machines,
        epochs,
        shapes,
        schedulers,
        restarts,
    ] = columns.short;
    let [jobs, created, sessions, numbers] = columns.long;
    (rest == v1::AllocationPage::default()).then_some(v1::AllocationPage {
        generations,
        states,
        ready,
        jobs,
        groups,
        group_rows,
        job_versions,
        tasks,
        attempts,
        machines,
        epochs,
        shapes,
        schedulers,
        created,
        restarts,
        reasons,
        extras,
        sessions,
        numbers,
    })
}

/// Columns of one message: of numbers of 32 bits, and of 64.
struct Columns<const SHORT: usize, const LONG: usize> {
    short_fields: [u64; SHORT],
    long_fields: [u64; LONG],
    short: [Vec<u32>; SHORT],
    long: [Vec<u64>; LONG],
}

impl<const SHORT: usize, const LONG: usize> Columns<SHORT, LONG> {
    /// Empty columns with these field numbers.
    const fn new(short_fields: [u64; SHORT], long_fields: [u64; LONG]) -> Self {
        Self { short_fields, long_fields, short: [const { Vec::new() }; SHORT], long: [const { Vec::new() }; LONG] }
    }

    /// Reads packed columns, and gives all other fields as generated code reads them. Columns that are not packed are among those.
    fn read<M: Message + Default>(&mut self, bytes: &[u8], whole: bool) -> Option<M> {
        let mut rest = Vec::new();
        for field in fields(bytes) {
            let field = field.ok()?;
            let is = |&number: &u64| number == field.number;
            if !field.is_delimited(bytes) {
                rest.extend_from_slice(&bytes[field.whole]);
            } else if let Some(column) = self.short_fields.iter().position(is) {
                unpack(&bytes[field.content], &mut self.short[column])?;
            } else if let Some(column) = self.long_fields.iter().position(is) {
                unpack(&bytes[field.content], &mut self.long[column])?;
            } else {
                rest.extend_from_slice(&bytes[field.whole]);
            }
        }
        M::decode(rest.as_slice()).ok().filter(|message| !whole || says_all(message, rest.len()))
    }
}

/// The top bit of each byte: in all but the last one of a number it is set.
const GOES_ON: u64 = 0x8080_8080_8080_8080;

/// Appends the numbers of a packed column; `None` where one has more bits than the column's, or ends in the middle.
///
/// Eight bytes at a time: most columns are of states, counts and the like, eight numbers of one byte each, and the others have no
/// number that is longer than that.
fn unpack<N: TryFrom<u64>>(bytes: &[u8], column: &mut Vec<N>) -> Option<()> {
    column.reserve(bytes.iter().filter(|&&byte| byte < 0x80).count());
    let mut rest = bytes;
    while let Some((&word, after)) = rest.split_first_chunk::<8>() {
        let (word, bits) = (u64::from_le_bytes(word), u64::from_le_bytes(word) & GOES_ON);
        if bits == 0 {
            for byte in word.to_le_bytes() {
                column.push(N::try_from(byte.into()).ok()?);
            }
            rest = after;
        } else if bits == GOES_ON {
            rest = unpack_one(rest, column)?;
        } else {
            // Bytes up to the first one that does not go on, the others cleared; then sevens of bits are brought together, by pairs.
            let end = (!word & GOES_ON).trailing_zeros() + 1;
            let sevens = word & (u64::MAX >> (64 - end)) & !GOES_ON;
            let pairs = sevens & 0x007f_007f_007f_007f | sevens >> 1 & 0x3f80_3f80_3f80_3f80;
            let fours = pairs & 0x0000_3fff_0000_3fff | pairs >> 2 & 0x0fff_c000_0fff_c000;
            let number = fours & 0x0fff_ffff | fours >> 4 & 0x00ff_ffff_f000_0000;
            column.push(N::try_from(number).ok()?);
            rest = &rest[end as usize / 8..];
        }
    }
    while !rest.is_empty() {
        rest = unpack_one(rest, column)?;
    }
    Some(())
}

/// Appends the first number of some bytes, and gives those behind it.
fn unpack_one<'a, N: TryFrom<u64>>(bytes: &'a [u8], column: &mut Vec<N>) -> Option<&'a [u8]> {
    let (mut number, mut shift) = (0, 0);
    for (at, &byte) in bytes.iter().enumerate() {
        if shift >= 63 && byte > 1 {
            return None;
        }
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            column.push(N::try_from(number).ok()?);
            return Some(&bytes[at + 1..]);
        }
        shift += 7;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{Columned, unpack};
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message;
    use prost::encoding::{decode_varint, encode_varint};

    use crate::v1;

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

    fn read(bytes: &Bytes) -> Option<v1::Delta> {
        super::delta(bytes, false)
    }

    fn page(bytes: &Bytes) -> Option<Columned> {
        super::page(bytes, false)
    }

    #[test]
    fn a_delta_is_read_as_generated_code_reads_it() {
        let bytes = Bytes::from(delta().encode_to_vec());
        assert_eq!(read(&bytes), Some(delta()));
        assert_eq!(super::delta(&bytes, true), Some(delta()), "it has nothing that is not known");
        let empty = v1::Delta { moves: Some(v1::Moves::default()), ..v1::Delta::default() };
        assert_eq!(read(&Bytes::from(empty.encode_to_vec())), Some(empty));
    }

    /// The page with the attributes of its machines; nothing where these make no sense.
    fn joined(found: Columned) -> Option<v1::Page> {
        let Columned { mut page, attributes } = found;
        let machines = page.machines.iter_mut().flat_map(|page| &mut page.machines);
        for (machine, own) in machines.zip(attributes) {
            machine.attributes = v1::MachineChange::decode(own.as_slice()).ok()?.attributes;
        }
        Some(page)
    }

    #[test]
    fn a_page_is_read_as_generated_code_reads_it() {
        let reason = v1::NumberedReason { position: 1, reason: "moved".to_owned() };
        let allocations = v1::AllocationPage {
            generations: vec![1, u32::MAX],
            jobs: vec![1 << 40 | 7, u64::MAX, 0],
            restarts: vec![1, 2],
            reasons: vec![reason],
            extras: vec![v1::GrantExtras { claim: 3, ..v1::GrantExtras::default() }],
            numbers: vec![300, 3],
            ..v1::AllocationPage::default()
        };
        let tasks = v1::TaskPage { allocations: vec![9], failures: vec![1, 0], ..v1::TaskPage::default() };
        let empty = v1::Page { table: v1::Table::Allocations.into(), number: 9, ..v1::Page::default() };
        let machine = |id: u64, attributes: &[(&str, &str)]| v1::MachineChange {
            id,
            name: format!("m{id}"),
            capacity: Some(v1::Resources { cpu_millis: 4000, ..v1::Resources::default() }),
            attributes: attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            epoch_began: id,
            ..v1::MachineChange::default()
        };
        let machines = v1::MachinePage {
            machines: vec![
                machine(1 << 40, &[("rack", "r1"), ("zone", "a")]),
                machine(7, &[]),
                machine(9, &[("a", "")]),
            ],
            last_changes: vec![300, 0, u64::MAX],
        };
        let pages = [
            v1::Page { table: v1::Table::Machines.into(), machines: Some(machines), ..empty.clone() },
            v1::Page { allocations: Some(allocations), ..empty.clone() },
            v1::Page { table: v1::Table::Tasks.into(), tasks: Some(tasks), ..empty.clone() },
            empty.clone(),
        ];
        for whole in pages {
            let bytes = whole.encode_to_vec();
            assert_eq!(page(&Bytes::from(bytes.clone())).and_then(joined).as_ref(), Some(&whole));
            let found = super::page(&Bytes::from(bytes.clone()), true);
            assert_eq!(found.and_then(joined), Some(whole), "it has nothing that is not known");
            for place in 0..bytes.len() {
                let mut bytes = bytes.clone();
                bytes[place] ^= 0x81;
                if let Some(found) = page(&Bytes::from(bytes.clone())).and_then(joined) {
                    assert_eq!(v1::Page::decode(bytes.as_slice()), Ok(found), "byte {place}");
                }
            }
        }
        let meta = v1::Page { meta: Some(v1::MetaPage::default()), ..empty };
        assert_eq!(page(&Bytes::from(meta.encode_to_vec())), None, "it has hardly any columns");
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

    /// As generated code reads a column: one number after the other.
    fn unpacked(mut bytes: &[u8]) -> Option<Vec<u64>> {
        let mut numbers = Vec::new();
        while !bytes.is_empty() {
            numbers.push(decode_varint(&mut bytes).ok()?);
        }
        Some(numbers)
    }

    fn check_column(bytes: &[u8]) -> Result<(), TestCaseError> {
        let (expected, mut long, mut short) = (unpacked(bytes), Vec::new(), Vec::<u32>::new());
        prop_assert_eq!(unpack(bytes, &mut long).map(|()| long), expected.clone());
        let fitting = expected.and_then(|numbers| numbers.into_iter().map(|n| u32::try_from(n).ok()).collect());
        prop_assert_eq!(unpack(bytes, &mut short).map(|()| short), fitting);
        Ok(())
    }

    proptest! {
        #[test]
        fn numbers_of_all_lengths_are_unpacked(column in proptest::collection::vec((any::<u64>(), 0_u32..64), 0..60)) {
            let mut bytes = Vec::new();
            column.iter().for_each(|(number, shift)| encode_varint(number >> shift, &mut bytes));
            check_column(&bytes)?;
            check_column(&bytes[..bytes.len().saturating_sub(1)])?;
        }

        #[test]
        fn any_bytes_are_unpacked_as_generated_code_does(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            check_column(&bytes)?;
        }
    }
}
