//! What a block may tell of: a small filter beside each block, so that looking for one thing reads few blocks.
//!
//! A filter is a Bloom filter: it never denies what is in its block, and says "maybe" about two or three foreign subjects in a hundred.
//! Rows by subject would be exact, and cost as much as a claim itself: a store takes about a microsecond for each row.
use crate::records::SummaryRecord;
use bytes::Bytes;

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
    /// 64 bits that are spread evenly. There are hundreds of slots in a transaction: these are mixed once, and all others twice.
    #[inline]
    pub(crate) fn hash(self) -> u64 {
        match self {
            Self::AllocationSlot(slot) => mixed(slot.into()),
            other => other.old_hash(),
        }
    }

    /// The same in formats up to 6.
    fn old_hash(self) -> u64 {
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

/// Bits of a filter while it is gathered, and the fewest of a finished one, as powers of two. With fewer, a handful of subjects would let
/// too many others pass.
const BITS_GATHERED: u32 = 20;
const BITS_MIN: u32 = 7;
/// More subjects than that, and too many foreign ones would pass.
const SUBJECTS_MAX: usize = (1 << BITS_GATHERED) / BITS_PER_SUBJECT;
const BITS_PER_SUBJECT: usize = 8;
/// Bits of a word that are set for each subject.
const MARKS: u32 = 4;

/// Hashes that wait to be marked: 64 KiB. Between two batches the words leave the cache nearest to the processor, so that each mark waits for
/// one further away. Waits of marks that are made in a row overlap; with other work between them, they were a third of what it takes to feed
/// the history. And the more of them there are, the more share a line of the cache.
const UNMARKED_MAX: usize = 8192;

/// What the entries of a block are about, while it gathers: 192 KiB, however much that is.
///
/// All marks of a subject stand in one word, so that noting one costs one look into memory. Words are chosen by the low bits of a hash: a
/// filter of half the size is the two halves laid over each other.
#[derive(Default)]
pub(crate) struct Subjects {
    words: Vec<u64>,
    /// Noted, and not yet marked in the words.
    unmarked: Vec<u64>,
    count: usize,
    last: Option<u64>,
    #[cfg(test)]
    all: std::collections::BTreeSet<u64>,
}

impl Subjects {
    /// Notes a subject.
    #[inline]
    pub(crate) fn about(&mut self, subject: Subject) {
        self.note(subject.hash());
    }

    /// Notes a subject by its hash. Only those that follow each other are counted once when they are the same.
    #[inline]
    pub(crate) fn note(&mut self, hash: u64) {
        if self.last == Some(hash) {
            return;
        }
        if self.unmarked.len() >= UNMARKED_MAX {
            self.mark();
        }
        self.unmarked.push(hash);
        self.count += 1;
        self.last = Some(hash);
        #[cfg(test)]
        self.all.insert(hash);
    }

    /// Notes slots of allocations, all at once: hashes of some that are there together are made beside each other, and those that come
    /// one by one wait for each other. Each counts.
    #[inline]
    pub(crate) fn about_slots(&mut self, slots: &[u32]) {
        if self.unmarked.len() + slots.len() > UNMARKED_MAX {
            self.mark();
        }
        self.unmarked.extend(slots.iter().map(|slot| Subject::AllocationSlot(*slot).hash()));
        self.count += slots.len();
        self.last = None;
        #[cfg(test)]
        self.all.extend(slots.iter().map(|slot| Subject::AllocationSlot(*slot).hash()));
    }

    /// Marks what was noted.
    #[cold]
    fn mark(&mut self) {
        let Self { words, unmarked, .. } = self;
        if words.is_empty() {
            *words = vec![0; (1 << BITS_GATHERED) / 64];
        }
        for hash in unmarked.drain(..) {
            let at = word_of(hash, words.len());
            words[at] |= marks(hash);
        }
    }

    /// That many that the block should be closed.
    pub(crate) fn are_many(&self) -> bool {
        self.count >= SUBJECTS_MAX
    }

    /// The filter of what was noted: about a byte or two for each.
    pub(crate) fn filter(&mut self) -> Vec<u8> {
        if self.count == 0 {
            return Vec::new();
        }
        self.mark();
        let mut words = self.words.clone();
        while words.len() > 1 << (BITS_MIN - 6) && words.len() * 32 >= self.count * BITS_PER_SUBJECT {
            let half = words.len() / 2;
            let (low, high) = words.split_at_mut(half);
            low.iter_mut().zip(high).for_each(|(low, high)| *low |= *high);
            words.truncate(half);
        }
        let mut bytes = Vec::with_capacity(8 * words.len());
        words.iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        bytes
    }

    /// The hashes of all that was noted.
    #[cfg(test)]
    pub(crate) fn noted(self) -> Vec<u64> {
        self.all.into_iter().collect()
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.words.fill(0);
        self.unmarked.clear();
        self.count = 0;
        self.last = None;
    }
}

/// Which of so many words, a power of two.
fn word_of(hash: u64, words: usize) -> usize {
    usize::try_from(hash & 0xffff_ffff).unwrap_or(0) & (words - 1)
}

/// The bits of a subject in its word.
fn marks(hash: u64) -> u64 {
    (0..MARKS).fold(0, |marks, mark| marks | 1 << ((hash >> (32 + 6 * mark)) & 63))
}

/// The filter of a block.
#[derive(Clone, Debug)]
pub(crate) enum Filter {
    /// As [`Subjects`] makes it; empty for a block about nothing.
    Words(Bytes),
    /// The same, of formats 4 to 6.
    Mixed(Bytes),
    /// Of formats 2 and 3.
    Probed(Bytes),
}

impl Filter {
    /// As a block's summary has it, of this or of older formats; `None` where it has a size that no filter has.
    pub(crate) fn of(summary: SummaryRecord) -> Option<Self> {
        let SummaryRecord { old_filter, mixed_filter, filter, .. } = summary;
        let sized = |words: &Bytes| words.is_empty() || (words.len() >= 8 && words.len().is_power_of_two());
        match (filter.is_empty(), mixed_filter.is_empty(), old_filter.is_empty()) {
            (true, true, false) => Some(Self::Probed(old_filter)),
            (true, false, _) => sized(&mixed_filter).then_some(Self::Mixed(mixed_filter)),
            _ => sized(&filter).then_some(Self::Words(filter)),
        }
    }

    /// False only if the subject was not noted.
    pub(crate) fn may_hold(&self, subject: Subject) -> bool {
        match self {
            Self::Probed(filter) => may_hold(filter, subject.old_hash()),
            Self::Mixed(filter) => is_marked(filter, subject.old_hash()),
            Self::Words(filter) => is_marked(filter, subject.hash()),
        }
    }
}

/// False only if a subject with this hash was not marked in these words.
fn is_marked(words: &[u8], hash: u64) -> bool {
    if words.is_empty() {
        return false;
    }
    let at = 8 * word_of(hash, words.len() / 8);
    let word = words.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes);
    word & marks(hash) == marks(hash)
}

/// Probes of a filter of formats 2 and 3.
const PROBES: u32 = 5;

/// False only if a subject with this hash was not among those of a filter of formats 2 and 3.
fn may_hold(filter: &[u8], hash: u64) -> bool {
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
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn summary(filter: Vec<u8>) -> SummaryRecord {
        SummaryRecord { filter: filter.into(), ..SummaryRecord::default() }
    }

    #[test]
    fn a_filter_knows_its_own_and_few_others() {
        // One behind the other, as the first ones are given, or anywhere among a million and more.
        for step in [1_u32, 7, 64, 1 << 14, 2_654_435_761] {
            for count in [1_u32, 10, 1_000, 20_000, 65_536, 130_000] {
                let slot = |number: u32| Subject::AllocationSlot(number.wrapping_mul(step));
                let own = || (0..count).map(slot);
                let mut subjects = Subjects::default();
                own().for_each(|subject| subjects.about(subject));
                assert!(!subjects.are_many());
                let bytes = subjects.filter();
                assert!(bytes.len() <= (2 * count as usize).max(16), "{} bytes for {count}", bytes.len());
                let filter = Filter::of(summary(bytes)).unwrap();
                assert!(own().all(|subject| filter.may_hold(subject)));
                let foreign = (count..count + 10_000).filter(|number| filter.may_hold(slot(*number))).count();
                assert!(foreign < 600, "{foreign} of 10000 foreign slots pass a filter of {count}, {step} apart");
                let foreign = (0..10_000).filter(|id| filter.may_hold(Subject::Job(*id))).count();
                assert!(foreign < 600, "{foreign} of 10000 jobs pass a filter of {count}, {step} apart");
            }
        }
    }

    #[test]
    fn the_filter_of_nothing_holds_nothing() {
        let mut subjects = Subjects::default();
        subjects.note(Subject::Session(1).hash());
        subjects.clear();
        assert!(subjects.filter().is_empty());
        for filter in [Filter::Words, Filter::Mixed, Filter::Probed].map(|kind| kind(Bytes::new())) {
            assert!(!filter.may_hold(Subject::Session(1)));
        }
    }

    #[test]
    fn filters_of_sizes_that_none_has_are_refused_and_old_ones_are_read() {
        for bytes in [24, 4] {
            let odd = || vec![0; bytes];
            assert!(Filter::of(summary(odd())).is_none());
            let mixed = SummaryRecord { mixed_filter: odd().into(), ..SummaryRecord::default() };
            assert!(Filter::of(mixed).is_none());
        }
        let slots = (Subject::AllocationSlot(7), Subject::AllocationSlot(8));
        for (own, foreign) in [slots, (Subject::Job(7), Subject::Job(8))] {
            let mut old = vec![0; 16];
            places(own.old_hash(), old.len()).for_each(|(byte, mask)| old[byte] |= mask);
            let old = Filter::of(SummaryRecord { old_filter: old.into(), ..SummaryRecord::default() }).unwrap();
            let mut mixed = [0_u64; 16];
            mixed[word_of(own.old_hash(), 16)] |= marks(own.old_hash());
            let mixed: Vec<u8> = mixed.iter().flat_map(|word| word.to_le_bytes()).collect();
            let mixed = Filter::of(SummaryRecord { mixed_filter: mixed.into(), ..SummaryRecord::default() }).unwrap();
            for filter in [old, mixed] {
                assert!(filter.may_hold(own) && !filter.may_hold(foreign));
            }
        }
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
