//! The keys of all rows. Numbers are big-endian, so that the order of keys is the order of numbers.
use std::fmt::Write;

/// A part of the store, with rows that are written and retired alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shelf {
    /// Blocks by first revision: ascending, so that tables never overlap and are never merged.
    Blocks,
    /// Filters of blocks by first revision: ascending as blocks are, and most of what is written about them.
    Filters,
    /// Small rows.
    Index,
    /// Page images by set, but for those that a large set begins with: ascending from set to set, so that tables of different sets do not overlap, but
    /// for one at each end.
    Images,
    /// The records of checkpoints; and the page images of formats up to 4.
    Pages,
}

impl Shelf {
    /// In the order in which they go to tables: rows before the blocks that they are about, and images before the record that says that
    /// all are there.
    pub(crate) const ALL: [Self; 5] = [Self::Index, Self::Filters, Self::Blocks, Self::Images, Self::Pages];
    /// Blocks, and all rows about them.
    pub(crate) const ABOUT_BLOCKS: [Self; 3] = [Self::Index, Self::Filters, Self::Blocks];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Blocks => "blocks",
            Self::Filters => "filters",
            Self::Index => "index",
            Self::Images => "images",
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
const RETIRED: u8 = 9;

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
/// The revision of a beginning, as long as the names of what was there are not all written.
pub(crate) const UNNAMED: [u8; 2] = [SETTING, 5];

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

/// What a day's revisions came to that are retired; the day as a number, 0 is 1970-01-01. Those before sort before later ones, too.
pub(crate) fn retired(day: i64) -> Vec<u8> {
    key(RETIRED, &[day.cast_unsigned() ^ (1 << 63)])
}

pub(crate) fn time_of(key: &[u8]) -> Option<(i64, u64)> {
    Some(((number_at(key, 0)? ^ (1 << 63)).cast_signed(), number_at(key, 1)?))
}

/// Where the row with such a key stands among those about times, as a number: what lies between two of them can be halved.
pub(crate) fn time_place(key: &[u8]) -> Option<u128> {
    Some(u128::from_be_bytes(key.get(1..17)?.try_into().ok()?))
}

/// The key of a row about a time that stands, or would stand, at this place.
pub(crate) fn time_at(place: u128) -> Vec<u8> {
    let mut key = vec![TIME];
    key.extend_from_slice(&place.to_be_bytes());
    key
}

/// What the block from a revision on is about, in the index of formats up to 4. Later ones have it among the filters, by the block's key.
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

/// A key that no row has, before those of all rows: a table with it goes with the oldest that is let go of.
pub(crate) fn of_nothing(shelf: Shelf) -> Vec<u8> {
    match shelf {
        Shelf::Blocks | Shelf::Filters => block(0),
        Shelf::Index => vec![0],
        // As images of a set begin with that, and there is no set 0 here.
        Shelf::Images => vec![0; 8],
        Shelf::Pages => checkpoint(0),
    }
}

/// An image of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ImageKey {
    /// The checkpoint that its set began with. 0: formats up to 4, which had no sets.
    pub(crate) set: u64,
    pub(crate) table: u8,
    pub(crate) page: u32,
    pub(crate) revision: u64,
}

impl ImageKey {
    /// Comes before all images of a set.
    pub(crate) const fn first_of(set: u64) -> Self {
        Self { set, table: 0, page: 0, revision: 0 }
    }

    /// Comes after all images of a set.
    pub(crate) const fn last_of(set: u64) -> Self {
        Self { set, table: u8::MAX, page: u32::MAX, revision: u64::MAX }
    }

    /// Where images of this set are.
    pub(crate) const fn shelf(set: u64) -> Shelf {
        if set == 0 { Shelf::Pages } else { Shelf::Images }
    }

    pub(crate) fn encode(self) -> Vec<u8> {
        let mut key = if self.set == 0 { vec![IMAGE] } else { self.set.to_be_bytes().to_vec() };
        key.push(self.table);
        key.extend_from_slice(&self.page.to_be_bytes());
        key.extend_from_slice(&self.revision.to_be_bytes());
        key
    }

    pub(crate) fn decode(key: &[u8]) -> Option<Self> {
        let (set, rest) = match key.len() {
            14 if key[0] == IMAGE => (0, &key[1..]),
            21 => (u64::from_be_bytes(key[..8].try_into().ok()?), &key[8..]),
            _ => return None,
        };
        let page = u32::from_be_bytes(rest[1..5].try_into().ok()?);
        let revision = u64::from_be_bytes(rest[5..].try_into().ok()?);
        Some(Self { set, table: rest[0], page, revision })
    }
}

/// A row's name, for people.
pub(crate) fn describe(shelf: Shelf, key: &[u8]) -> String {
    let number = |position| number_at(key, position).unwrap_or_default();
    match (shelf, key.first().copied()) {
        (Shelf::Blocks | Shelf::Filters, _) if key.len() == 8 => {
            let first = key.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
            let what = if shelf == Shelf::Filters { "filter of the block" } else { "block" };
            format!("the {what} from revision {first} on")
        }
        (Shelf::Pages, Some(CHECKPOINT)) => format!("the checkpoint at revision {}", number(0)),
        (Shelf::Pages | Shelf::Images, _) => match ImageKey::decode(key) {
            Some(image) => format!("page {} of table {} at revision {}", image.page, image.table, image.revision),
            None => hex(key),
        },
        (Shelf::Index, Some(TIME)) => format!("the time of the block from revision {} on", number(1)),
        (Shelf::Index, Some(SUMMARY)) => format!("the summary of the block from revision {} on", number(0)),
        (Shelf::Index, Some(SESSION)) => format!("session {}", number(0)),
        (Shelf::Index, Some(CONFLICTS)) => format!("the conflicts of the block from revision {} on", number(0)),
        (Shelf::Index, Some(JOB)) => format!("the name of job {}", number(0)),
        (Shelf::Index, Some(RETIRED)) => format!("what is retired of day {}", (number(0) ^ (1 << 63)).cast_signed()),
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
