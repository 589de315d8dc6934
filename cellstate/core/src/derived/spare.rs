//! Vectors of deltas and outcomes that nobody needs any more, for the next ones.
//!
//! Deltas end on another thread than the one that makes them. Giving their memory back there, and asking for as much again here, cost a
//! quarter of what deciding cost, most of it for the large ones.

use plenum_model::{AllocationId, Delta, End, Grants, Move, Outcome};

use crate::resolve::Granted;

/// Vectors of fewer bytes are not kept: the allocator has such ones at hand.
const BYTES_MIN: usize = 256;
/// Vectors of more bytes are not kept: few requests need them.
const BYTES_MAX: usize = 1 << 16;
/// Bytes that are kept of each kind: as much as the batches come to that are on their way.
const KEPT_BYTES: usize = 1 << 20;

/// Empty vectors of one kind.
#[derive(Debug)]
pub(crate) struct Vectors<T> {
    kept: Vec<Vec<T>>,
    bytes: usize,
}

impl<T> Default for Vectors<T> {
    fn default() -> Self {
        Self { kept: Vec::new(), bytes: 0 }
    }
}

impl<T> Vectors<T> {
    /// An empty vector with room for so many.
    pub(crate) fn take(&mut self, count: usize) -> Vec<T> {
        if count * size_of::<T>() < BYTES_MIN {
            return Vec::with_capacity(count);
        }
        let mut vector = self.kept.pop().unwrap_or_default();
        self.bytes -= vector.capacity() * size_of::<T>();
        vector.reserve_exact(count);
        vector
    }

    /// Takes a vector back; what is in it is dropped.
    pub(crate) fn give(&mut self, mut vector: Vec<T>) {
        let bytes = vector.capacity() * size_of::<T>();
        if (BYTES_MIN..=BYTES_MAX).contains(&bytes) && self.bytes + bytes <= KEPT_BYTES {
            vector.clear();
            self.bytes += bytes;
            self.kept.push(vector);
        }
    }
}

/// All that is kept.
#[derive(Debug, Default)]
pub(crate) struct Spare {
    pub(crate) granted: Vectors<Granted>,
    pub(crate) ids: Vectors<Option<AllocationId>>,
    pub(crate) moves: Vectors<Move>,
    pub(crate) ends: Vectors<End>,
    /// Columns of grants.
    pub(crate) columns: Vectors<u32>,
}

impl Spare {
    /// Takes what a delta has.
    pub(crate) fn give_delta(&mut self, delta: Delta) {
        let Delta { moves, ends, grants, .. } = delta;
        self.moves.give(moves);
        self.ends.give(ends);
        for Grants { machines, tasks, slots, generations, .. } in grants {
            [machines, tasks, slots, generations].into_iter().for_each(|column| self.columns.give(column));
        }
    }

    /// Takes what an outcome has.
    pub(crate) fn give_outcome(&mut self, outcome: Outcome) {
        outcome.placements.into_iter().for_each(|ids| self.ids.give(ids));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_used_again_within_bounds() {
        let mut vectors = Vectors::<u64>::default();
        let first = vectors.take(100);
        let place = first.as_ptr();
        vectors.give(first);
        let second = vectors.take(50);
        assert_eq!(second.as_ptr(), place, "the very same memory");
        vectors.give(vec![1; 4]);
        vectors.give(vec![1; BYTES_MAX]);
        assert!(vectors.kept.is_empty() && vectors.bytes == 0, "neither small nor huge ones are kept");
        (0..1000).for_each(|_| vectors.give(vec![1; BYTES_MAX / 8]));
        assert_eq!((vectors.kept.len(), vectors.bytes), (KEPT_BYTES / BYTES_MAX, KEPT_BYTES));
        assert!(vectors.take(BYTES_MAX).is_empty(), "it grows, and nothing is left in it");
        (0..KEPT_BYTES / BYTES_MAX - 1).for_each(|_| assert!(vectors.take(100).capacity() > 100));
        assert_eq!(vectors.bytes, 0);
    }
}
