//! The keys of all rows. Numbers are big-endian, so that the order of keys is the order of numbers.
use std::fmt::Write;

/// A part of the store, with rows that are written and retired alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shelf {
    /// Blocks by first revision: ascending, so that tables never overlap and are never merged.
    Blocks,
    /// Small rows.
    Index,
    /// Page images, and the records of checkpoints.
    Pages,
}

impl Shelf {
    /// In the order in which they go to tables: rows before the blocks that they are about.
    pub(crate) const ALL: [Self; 3] = [Self::Index, Self::Blocks, Self::Pages];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Blocks => "blocks",
            Self::Index => "index",
            Self::Pages => "pages",
        }
    }
}

const SETTING: u8 = 1;
const TIME: u8 = 2;
const SUMMARY: u8 = 3;
const SESSION: u8 = 4;
const LEAVER: u8 = 5;
const CONFLICTS: u8 = 6;
const JOB: u8 = 7;
const MACHINE: u8 = 8;

const CHECKPOINT: u8 = 0;
const IMAGE: u8 = 1;

/// The newest revision whose rows are in the index.
pub(crate) const HEAD: [u8; 2] = [SETTING, 1];
/// The revision that the first block ever came after.
pub(crate) const BASE: [u8; 2] = [SETTING, 2];
/// What is older may be read no more.
pub(crate) const FLOOR: [u8; 2] = [SETTING, 3];
/// What is older has no rows any more.
pub(crate) const CLEANED: [u8; 2] = [SETTING, 4];

fn key(tag: u8, numbers: &[u64]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + 8 * numbers.len());
    key.push(tag);
    for number in numbers {
        key.extend_from_slice(&number.to_be_bytes());
    }
    key
}

/// Reads the `position`th number of a key with a tag.
pub(crate) fn number_at(key: &[u8], position: usize) -> Option<u64> {
    let start = 1 + 8 * position;
    Some(u64::from_be_bytes(key.get(start..start + 8)?.try_into().ok()?))
}

pub(crate) fn block(first: u64) -> Vec<u8> {
    first.to_be_bytes().to_vec()
}

/// Times before 1970 sort before later ones, too.
pub(crate) fn time(time_micros: i64, first: u64) -> Vec<u8> {
    key(TIME, &[time_micros.cast_unsigned() ^ (1 << 63), first])
}

pub(crate) fn time_of(key: &[u8]) -> Option<(i64, u64)> {
    Some(((number_at(key, 0)? ^ (1 << 63)).cast_signed(), number_at(key, 1)?))
}

/// What the block from a revision on is about.
pub(crate) fn summary(first: u64) -> Vec<u8> {
    key(SUMMARY, &[first])
}

/// The conflicts of the block from a revision on.
pub(crate) fn conflicts(first: u64) -> Vec<u8> {
    key(CONFLICTS, &[first])
}

pub(crate) fn session(id: u64) -> Vec<u8> {
    key(SESSION, &[id])
}

pub(crate) fn job(id: u64) -> Vec<u8> {
    key(JOB, &[id])
}

/// The machine in a slot, from a revision on.
pub(crate) fn machine(slot: u32, from: u64) -> Vec<u8> {
    key(MACHINE, &[slot.into(), from])
}

/// Rows that go when this revision is retired: one key each.
pub(crate) fn leaver(revision: u64, number: u64) -> Vec<u8> {
    key(LEAVER, &[revision, number])
}

pub(crate) fn checkpoint(revision: u64) -> Vec<u8> {
    key(CHECKPOINT, &[revision])
}

/// A key that no row has.
pub(crate) fn of_nothing(shelf: Shelf) -> Vec<u8> {
    match shelf {
        Shelf::Blocks => block(0),
        Shelf::Index => vec![0],
        Shelf::Pages => checkpoint(0),
    }
}

/// An image of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ImageKey {
    pub(crate) table: u8,
    pub(crate) page: u32,
    pub(crate) revision: u64,
}

impl ImageKey {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut key = vec![IMAGE, self.table];
        key.extend_from_slice(&self.page.to_be_bytes());
        key.extend_from_slice(&self.revision.to_be_bytes());
        key
    }

    pub(crate) fn decode(key: &[u8]) -> Option<Self> {
        if key.len() != 14 || key[0] != IMAGE {
            return None;
        }
        Some(Self {
            table: key[1],
            page: u32::from_be_bytes(key[2..6].try_into().ok()?),
            revision: u64::from_be_bytes(key[6..14].try_into().ok()?),
        })
    }
}

/// A row's name, for people.
pub(crate) fn describe(shelf: Shelf, key: &[u8]) -> String {
    let number = |position| number_at(key, position).unwrap_or_default();
    match (shelf, key.first().copied()) {
        (Shelf::Blocks, _) if key.len() == 8 => {
            let first = key.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
            format!("the block from revision {first} on")
        }
        (Shelf::Pages, Some(CHECKPOINT)) => format!("the checkpoint at revision {}", number(0)),
        (Shelf::Pages, _) => match ImageKey::decode(key) {
            Some(image) => format!("page {} of table {} at revision {}", image.page, image.table, image.revision),
            None => hex(key),
        },
        (Shelf::Index, Some(TIME)) => format!("the time of the block from revision {} on", number(1)),
        (Shelf::Index, Some(SUMMARY)) => format!("the summary of the block from revision {} on", number(0)),
        (Shelf::Index, Some(SESSION)) => format!("session {}", number(0)),
        (Shelf::Index, Some(CONFLICTS)) => format!("the conflicts of the block from revision {} on", number(0)),
        (Shelf::Index, Some(JOB)) => format!("the name of job {}", number(0)),
        (Shelf::Index, Some(MACHINE)) => format!("the machine in slot {} from revision {} on", number(0), number(1)),
        (_, _) => format!("row {} of {}", hex(key), shelf.name()),
    }
}

/// Bytes as lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
