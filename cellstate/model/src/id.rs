//! Ids, revisions and log time: the small types that everything else is addressed by.

use std::fmt;

/// The number of a decided command: strictly increasing, without gaps. 0 is the empty cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Log time: microseconds since the Unix epoch, never going backwards within a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogTime {
    /// Microseconds since the Unix epoch.
    pub micros: i64,
}

impl LogTime {
    /// That many microseconds after the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self { micros }
    }

    /// This time, `micros` later; saturating at the end of time.
    #[must_use]
    pub const fn plus_micros(self, micros: i64) -> Self {
        Self { micros: self.micros.saturating_add(micros) }
    }
}

/// Bits of a generation that count uses within one incarnation: 67 million of one slot.
const USES_BITS: u32 = 26;

/// Most incarnations whose ids are told apart: what is left of 32 bits.
pub const INCARNATIONS_MAX: u64 = 1 << (32 - USES_BITS);

/// Generations that an incarnation gives, and epochs of machines in it, are above this. A restored cell has forgotten what was given
/// after its backup was taken, and agents still run that: the same id must not become the name of something else. 0 in the first.
#[must_use]
pub const fn floor_of(incarnation: u64) -> u32 {
    let before = incarnation.saturating_sub(1);
    let most = INCARNATIONS_MAX - 1;
    #[allow(clippy::cast_possible_truncation, reason = "at most 63")]
    let restores = if before < most { before as u32 } else { most as u32 };
    restores << USES_BITS
}

/// The last generation that an incarnation gives: a slot whose tenant had it is used up, until the cell is restored. One more, and its
/// name could be given again by the next incarnation.
#[must_use]
pub const fn last_of(incarnation: u64) -> u32 {
    floor_of(incarnation).saturating_add(1 << USES_BITS)
}

/// The incarnation that gives a generation, counted from 0. Of those beyond the bound nothing tells the last ones apart.
#[must_use]
pub const fn incarnation_of(generation: u32) -> u32 {
    generation.saturating_sub(1) >> USES_BITS
}

macro_rules! generational_id {
    ($name:ident, $prefix:literal, $what:literal) => {
        #[doc = concat!("The id of ", $what, ": a slot of its table, and the generation of that slot.")]
        ///
        /// A slot is used again after its tenant has left, with a higher generation; so an id is never used twice.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            /// The row in its table.
            pub slot: u32,
            /// From 1; 0 stands for no id at all.
            pub generation: u32,
        }

        impl $name {
            /// The id in 64 bits: the slot in the low half, its generation in the high half.
            #[must_use]
            pub const fn to_bits(self) -> u64 {
                (self.generation as u64) << 32 | self.slot as u64
            }

            /// The id from its 64 bits; `None` when the generation is 0.
            #[must_use]
            pub const fn from_bits(bits: u64) -> Option<Self> {
                #[allow(clippy::cast_possible_truncation, reason = "takes the halves apart")]
                let id = Self { slot: bits as u32, generation: (bits >> 32) as u32 };
                if id.generation == 0 { None } else { Some(id) }
            }

            /// The id that people write: the prefix, the slot and the generation.
            ///
            /// # Errors
            /// `None` when the text is anything else than `to_string` of an id.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                let (slot, generation) = text.strip_prefix($prefix)?.split_once('-')?;
                let id = Self { slot: slot.parse().ok()?, generation: generation.parse().ok()? };
                (id.generation > 0 && id.to_string() == text).then_some(id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}-{}"), self.slot, self.generation)
            }
        }
    };
}

generational_id!(MachineId, "machine-", "a machine");
generational_id!(AllocationId, "alloc-", "an allocation");
generational_id!(JobId, "job-", "a job");

/// The id of a session: the revision at which it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// The name of a transaction: its session, and its number within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId {
    /// Whose it is.
    pub session: SessionId,
    /// From 1, rising.
    pub number: u64,
}

impl TransactionId {
    /// The id that people write: `txn-<session>-<number>`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (session, number) = text.strip_prefix("txn-")?.split_once('-')?;
        Some(Self { session: SessionId(session.parse().ok()?), number: number.parse().ok()? })
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "txn-{}-{}", self.session.0, self.number)
    }
}

/// Whether a text may be a name of a job, a group, a scheduler, a namespace or a machine: 1 to 63 bytes of `a-z`, `0-9`
/// and `-`, beginning and ending with a letter or a digit. Machines may also have dots, as host names do.
#[must_use]
pub fn is_name(text: &str, dots: bool) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|&byte| plain(byte) || byte == b'-' || (dots && byte == b'.'))
        && bytes.first().is_some_and(|&byte| plain(byte))
        && bytes.last().is_some_and(|&byte| plain(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_bits_and_text() {
        let id = AllocationId { slot: 17, generation: 3 };
        assert_eq!(AllocationId::from_bits(id.to_bits()), Some(id));
        assert_eq!(id.to_string(), "alloc-17-3");
        assert_eq!(AllocationId::parse("alloc-17-3"), Some(id));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in ["", "alloc-", "alloc-1", "alloc-1-0", "alloc-01-1", "machine-1-1", "alloc-1-1-1", "alloc--1-1"] {
            assert_eq!(AllocationId::parse(text), None, "{text}");
        }
        assert_eq!(AllocationId::from_bits(7), None);
    }

    #[test]
    fn names_are_not_paths() {
        assert!(is_name("word-count", false) && is_name("rack-1.example", true));
        for text in ["", "..", "a/b", "A", "-a", "a-", "a.b", "a\0", "ä", &"a".repeat(64)] {
            assert!(!is_name(text, false), "{text}");
        }
    }

    #[test]
    fn each_incarnation_has_generations_of_its_own() {
        assert_eq!((floor_of(0), floor_of(1)), (0, 0));
        assert_eq!(floor_of(2), 1 << 26);
        assert!((1..INCARNATIONS_MAX).all(|incarnation| floor_of(incarnation) < floor_of(incarnation + 1)));
        assert_eq!(floor_of(INCARNATIONS_MAX), floor_of(u64::MAX), "a cell is not restored that often");
        assert!((1..INCARNATIONS_MAX).all(|incarnation| last_of(incarnation) == floor_of(incarnation + 1)));
        assert_eq!(last_of(INCARNATIONS_MAX), u32::MAX, "the last one has one less");
        for (number, incarnation) in (0..).zip(1..=INCARNATIONS_MAX) {
            let ends = (incarnation_of(floor_of(incarnation) + 1), incarnation_of(last_of(incarnation)));
            assert_eq!(ends, (number, number));
        }
    }
}
