//! What a block may tell of: a small filter beside each block, so that looking for one thing reads few blocks.
//!
//! A filter is a Bloom filter: it never denies what is in its block, and says "maybe" about one foreign subject in fifty.
//! Rows by subject would be exact, and cost as much as a claim itself: a store takes about a microsecond for each row.

/// Probes for each subject; with eight bits for each, one foreign subject in fifty passes them all.
const PROBES: u32 = 5;
const BITS_PER_KEY: usize = 8;
/// With fewer bits, a handful of subjects would let too many others pass.
const FILTER_BYTES_MIN: usize = 16;

/// Something that entries of the log are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The allocations in this slot, one after the other.
    AllocationSlot(u32),
    /// The job with this id: its changes, and grants of its tasks.
    Job(u64),
    /// The group in this row: its changes, and those of its tasks.
    GroupRow(u32),
    /// The machines in this slot, one after the other: changes of them, not of their allocations.
    MachineSlot(u32),
    /// The session with this id: its transactions, its opening and its end.
    Session(u64),
    /// A transaction, by session and number.
    Transaction(u64, u64),
}

impl Subject {
    /// 64 bits that are spread evenly.
    pub(crate) fn hash(self) -> u64 {
        let (tag, one, other) = match self {
            Self::AllocationSlot(slot) => (1, u64::from(slot), 0),
            Self::Job(id) => (2, id, 0),
            Self::GroupRow(row) => (3, u64::from(row), 0),
            Self::MachineSlot(slot) => (4, u64::from(slot), 0),
            Self::Session(id) => (5, id, 0),
            Self::Transaction(session, number) => (6, session, number),
        };
        mixed(mixed(one ^ (tag << 56)) ^ other)
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The filter of subjects with these hashes.
pub(crate) fn build(hashes: &[u64]) -> Vec<u8> {
    let least = if hashes.is_empty() { 0 } else { FILTER_BYTES_MIN };
    let mut bytes = vec![0_u8; (hashes.len() * BITS_PER_KEY).div_ceil(8).max(least)];
    for hash in hashes {
        for (byte, mask) in places(*hash, bytes.len()) {
            bytes[byte] |= mask;
        }
    }
    bytes
}

/// False only if a subject with this hash was not among those of the filter.
pub(crate) fn may_hold(filter: &[u8], hash: u64) -> bool {
    !filter.is_empty() && places(hash, filter.len()).all(|(byte, mask)| filter[byte] & mask != 0)
}

/// Byte and bit of each probe, in a filter of so many bytes; there is at least one.
fn places(hash: u64, bytes: usize) -> impl Iterator<Item = (usize, u8)> {
    let bits = 8 * bytes as u64;
    let (start, step) = (hash >> 32, (hash & 0xffff_ffff) | 1);
    (0..u64::from(PROBES)).map(move |probe| {
        let spread = start.wrapping_add(step.wrapping_mul(probe)) & 0xffff_ffff;
        let bit = (spread * bits) >> 32;
        (usize::try_from(bit / 8).unwrap_or(0), 1 << (bit % 8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_knows_its_own_and_few_others() {
        for count in [1_u32, 10, 1_000, 20_000] {
            let own: Vec<u64> = (0..count).map(|slot| Subject::AllocationSlot(slot).hash()).collect();
            let filter = build(&own);
            assert!(own.iter().all(|hash| may_hold(&filter, *hash)));
            let foreign = (0..10_000).filter(|id| may_hold(&filter, Subject::Job(*id).hash())).count();
            assert!(foreign < 600, "{foreign} of 10000 foreign subjects pass a filter of {count}");
        }
    }

    #[test]
    fn the_filter_of_nothing_holds_nothing() {
        assert!(build(&[]).is_empty());
        assert!(!may_hold(&[], Subject::Session(1).hash()));
    }

    #[test]
    fn equal_numbers_of_different_kinds_are_different_subjects() {
        let seven = [
            Subject::AllocationSlot(7),
            Subject::Job(7),
            Subject::GroupRow(7),
            Subject::MachineSlot(7),
            Subject::Session(7),
            Subject::Transaction(7, 0),
            Subject::Transaction(0, 7),
        ];
        let mut hashes: Vec<u64> = seven.iter().map(|subject| subject.hash()).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), seven.len());
    }
}
