//! Free rows of the tables. Derived from the cell, and rebuilt from it when a server opens: so replay chooses the same rows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use plenum_model::{AllocationRow, AllocationState, Cell, last_of};

/// Rows of a page of allocations: one bit each in a mask.
const PAGE: u32 = 64;

/// A page is filled again once it has this many holes: fewer, and each grant would touch another page; more, and pages would
/// stay too empty. With 16 pages are 85% full after long random churn.
const HOLES_MIN: u32 = 16;

/// Free rows of the table of allocations: one page is filled at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AllocationSlots {
    /// For each page, a bit for each free row.
    free: Vec<u64>,
    /// Pages with enough holes, in the order in which they got them.
    ready: VecDeque<u32>,
    filling: u32,
}

/// Whether a slot whose last tenant had this generation gets no other one in this incarnation: its name would be that of what a
/// restored cell gives. That takes 67 million tenants of one slot.
#[inline]
pub(crate) fn is_used_up(cell: &Cell, generation: u32) -> bool {
    generation >= last_of(cell.identity().incarnation)
}

/// Where the taking of rows stood.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AllocationMark {
    filling: u32,
    pages: usize,
}

/// Rows in the order in which [`AllocationSlots::take`] gives them.
#[derive(Clone, Debug)]
pub(crate) struct NextRows<'a> {
    slots: &'a AllocationSlots,
    page: u32,
    mask: u64,
    ready: usize,
}

impl Iterator for NextRows<'_> {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        while self.mask == 0 {
            self.page = *self.slots.ready.get(self.ready)?;
            self.ready += 1;
            self.mask = *self.slots.free.get(self.page as usize)?;
        }
        let row = self.mask.trailing_zeros();
        self.mask &= self.mask - 1;
        Some(self.page * PAGE + row)
    }
}

impl AllocationSlots {
    pub(crate) fn rebuild(cell: &Cell) -> Self {
        let statuses = cell.statuses();
        let pages = statuses.len().div_ceil(PAGE);
        let mut free = vec![u64::MAX; pages as usize];
        for (slot, status) in (0..).zip(statuses.iter()) {
            let used_up = |row: &AllocationRow| is_used_up(cell, row.generation);
            if status.state() != AllocationState::Free || cell.allocation_rows().get(slot).is_some_and(used_up) {
                free[(slot / PAGE) as usize] &= !(1 << (slot % PAGE));
            }
        }
        let filling = cell.filling().unwrap_or(0);
        let ready = (0..pages).filter(|&page| page != filling && free[page as usize].count_ones() >= HOLES_MIN);
        Self { ready: ready.collect(), free, filling }
    }

    /// Takes a free row.
    pub(crate) fn take(&mut self) -> u32 {
        loop {
            if self.filling as usize >= self.free.len() {
                self.free.resize(self.filling as usize + 1, u64::MAX);
            }
            let mask = &mut self.free[self.filling as usize];
            if *mask != 0 {
                let row = mask.trailing_zeros();
                *mask &= *mask - 1;
                return self.filling * PAGE + row;
            }
            let pages = u32::try_from(self.free.len()).expect("rows have 32-bit numbers");
            self.filling = self.ready.pop_front().unwrap_or(pages);
        }
    }

    /// The rows that will be taken next, as far as they have had tenants; they stay free.
    pub(crate) fn next_rows(&self) -> NextRows<'_> {
        let mask = self.free.get(self.filling as usize).copied().unwrap_or(0);
        NextRows { slots: self, page: self.filling, mask, ready: 0 }
    }

    /// Of the pages that are filled next, those of these rows come first, in this order, as far as they have enough holes.
    pub(crate) fn foretell(&mut self, rows: impl Iterator<Item = u32>) {
        let mut pages: Vec<u32> = rows.map(|row| row / PAGE).filter(|&page| page != self.filling).collect();
        pages.dedup();
        for page in pages.into_iter().rev() {
            let place = self.ready.iter().position(|&ready| ready == page);
            if let Some(page) = place.and_then(|place| self.ready.remove(place)) {
                self.ready.push_front(page);
            }
        }
    }

    /// Where it stands, to go back to.
    pub(crate) fn mark(&self) -> AllocationMark {
        AllocationMark { filling: self.filling, pages: self.free.len() }
    }

    /// Takes back all rows that were taken since, given in that order: the next ones are the same again.
    pub(crate) fn untake(&mut self, mark: AllocationMark, taken: impl DoubleEndedIterator<Item = u32>) {
        let mut begun = None;
        for slot in taken.rev() {
            let page = slot / PAGE;
            self.free[page as usize] |= 1 << (slot % PAGE);
            // A page that was begun since, and was not new, stood at the front of those that are ready.
            if page != mark.filling && begun != Some(page) {
                begun = Some(page);
                if (page as usize) < mark.pages {
                    self.ready.push_front(page);
                }
            }
        }
        self.filling = mark.filling;
        self.free.truncate(mark.pages);
    }

    /// Brings what giving these rows back touches into the cache.
    #[inline]
    pub(crate) fn warm(&self, slots: impl Iterator<Item = u32>) {
        slots.filter_map(|slot| self.free.get((slot / PAGE) as usize)).for_each(plenum_model::prefetch);
    }

    /// Gives a row back whose tenant had this generation. One that is used up stays empty.
    #[inline]
    pub(crate) fn give_back(&mut self, cell: &Cell, slot: u32, generation: u32) {
        if !is_used_up(cell, generation) {
            self.give(slot);
        }
    }

    fn give(&mut self, slot: u32) {
        let page = slot / PAGE;
        let mask = &mut self.free[page as usize];
        *mask |= 1 << (slot % PAGE);
        if page != self.filling && mask.count_ones() == HOLES_MIN {
            self.ready.push_back(page);
        }
    }
}

/// Free rows of a table whose tenants take one row: the lowest first.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RowSlots {
    free: BTreeSet<u32>,
    end: u32,
}

impl RowSlots {
    pub(crate) fn rebuild(end: u32, is_taken: impl Fn(u32) -> bool) -> Self {
        Self { free: (0..end).filter(|&row| !is_taken(row)).collect(), end }
    }

    /// The row that the next tenant gets; `take` makes it so.
    pub(crate) fn next(&self) -> u32 {
        self.free.first().copied().unwrap_or(self.end)
    }

    pub(crate) fn take(&mut self, row: u32) {
        if !self.free.remove(&row) {
            self.free.extend(self.end..row);
            self.end = self.end.max(row + 1);
        }
    }

    pub(crate) fn give(&mut self, row: u32) {
        self.free.insert(row);
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> u32 {
        self.end - u32::try_from(self.free.len()).expect("rows have 32-bit numbers")
    }
}

/// Free rows of a table whose tenants take several that follow each other. Places have sizes of powers of two and stand at
/// multiples of their size, so that a place that was given back serves the next tenant of that size.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RangeSlots {
    /// By size, the starts of free places.
    free: BTreeMap<u32, BTreeSet<u32>>,
    /// Where the last place ends that is taken.
    end: u32,
}

/// The size of the place for so many rows.
pub(crate) fn place_size(rows: u32) -> u32 {
    rows.max(1).next_power_of_two()
}

impl RangeSlots {
    /// From the places that are taken: start and rows.
    pub(crate) fn rebuild(taken: impl Iterator<Item = (u32, u32)>) -> Self {
        let mut taken: Vec<_> = taken.map(|(start, rows)| (start, place_size(rows))).collect();
        taken.sort_unstable();
        let mut slots = Self::default();
        for (start, size) in taken {
            slots.free_between(slots.end, start);
            slots.end = start + size;
        }
        slots
    }

    fn free_between(&mut self, mut start: u32, end: u32) {
        while start < end {
            let aligned = if start == 0 { u32::MAX } else { 1 << start.trailing_zeros() };
            let fitting = 1 << (end - start).ilog2();
            let size = aligned.min(fitting);
            self.free_place(start, size);
            start += size;
        }
    }

    /// Frees a place; with its other half where that is free, too, and so on (Knuth, The Art of Computer Programming 1, 2.5, the
    /// buddy system).
    fn free_place(&mut self, mut start: u32, mut size: u32) {
        while self.take_free(start ^ size, size) {
            start &= !size;
            size *= 2;
        }
        self.free.entry(size).or_default().insert(start);
    }

    /// Whether a place is free as a whole; it is not any more then.
    fn take_free(&mut self, start: u32, size: u32) -> bool {
        let Some(starts) = self.free.get_mut(&size) else { return false };
        let taken = starts.remove(&start);
        if starts.is_empty() {
            self.free.remove(&size);
        }
        taken
    }

    /// Takes a place for so many rows: the first one of the smallest size that is free and enough. What is left of it stays free.
    pub(crate) fn take(&mut self, rows: u32) -> u32 {
        let size = place_size(rows);
        let found = self.free.range(size..).find_map(|(&larger, starts)| Some((larger, *starts.first()?)));
        if let Some((larger, start)) = found {
            self.take_free(start, larger);
            self.free_between(start + size, start + larger);
            return start;
        }
        let start = self.end.next_multiple_of(size);
        self.free_between(self.end, start);
        self.end = start + size;
        start
    }

    /// How many rows are in use or free between others.
    pub(crate) fn end(&self) -> u32 {
        self.end
    }

    /// Gives the place of so many rows back.
    pub(crate) fn give(&mut self, start: u32, rows: u32) {
        self.free_place(start, place_size(rows));
        self.cut();
    }

    /// Gives the end of a place back, whose tenant needs fewer rows than before.
    pub(crate) fn shrink(&mut self, start: u32, rows: u32, fewer: u32) {
        self.free_between(start + place_size(fewer), start + place_size(rows));
        self.cut();
    }

    /// What is free behind the last place that is taken is not of the table: the next tenant of any size may begin there.
    fn cut(&mut self) {
        while let Some((start, size)) = self.last_free() {
            self.take_free(start, size);
            self.end = start;
        }
    }

    /// The free place with which the table ends.
    fn last_free(&self) -> Option<(u32, u32)> {
        let mut last_of_each = self.free.iter().filter_map(|(&size, starts)| Some((*starts.last()?, size)));
        last_of_each.find(|(start, size)| start + size == self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_page_is_filled_at_a_time() {
        let mut slots = AllocationSlots::default();
        assert_eq!((0..130).map(|_| slots.take()).max(), Some(129));
        (0..15).for_each(|slot| slots.give(slot));
        (130..192).for_each(|slot| assert_eq!(slots.take(), slot));
        assert_eq!(slots.take(), 192, "15 holes are too few");
        slots.give(20);
        (193..256).for_each(|slot| assert_eq!(slots.take(), slot));
        assert_eq!(slots.take(), 0, "with 16 the page is filled again");
    }

    #[test]
    fn places_never_overlap_and_are_used_again() {
        let mut slots = RangeSlots::default();
        let (a, b, c) = (slots.take(3), slots.take(1), slots.take(8));
        assert_eq!((a, b, c), (0, 4, 8));
        slots.give(a, 3);
        assert_eq!(slots.take(4), 0);
        assert_eq!((slots.take(1), slots.take(2)), (5, 6));
    }

    // The table kept its length until a restart: a tenant of four found none of eight rows though four were free.
    #[test]
    fn a_table_ends_with_the_last_place_that_is_taken() {
        let mut slots = RangeSlots::default();
        let (first, _, last) = (slots.take(3), slots.take(4), slots.take(1));
        assert_eq!((first, last, slots.end()), (0, 8, 9));
        slots.give(last, 1);
        assert_eq!((slots.end(), slots.take(8)), (8, 8));
        slots.shrink(8, 8, 2);
        assert_eq!((slots.end(), slots.take(2)), (10, 10));
        slots.give(first, 3);
        assert_eq!((slots.end(), slots.take(4)), (12, 0), "what is free between others stays");
    }

    #[test]
    fn a_place_that_shrinks_and_grows_takes_no_new_rows_each_time() {
        let mut slots = RangeSlots::default();
        let mut base = slots.take(1024);
        let mut most = 0;
        for _ in 0..100 {
            slots.shrink(base, 1024, 1);
            let small = std::mem::replace(&mut base, slots.take(1000));
            most = most.max(slots.end);
            slots.give(small, 1);
        }
        assert_eq!(most, 2048, "one place to go to, and one to come from");
    }

    proptest::proptest! {
        #[test]
        fn places_stay_apart_and_what_is_free_is_what_a_rebuild_finds(
            steps in proptest::collection::vec((0_u8..3, 0_usize..64, 0_u32..40), 1..200),
        ) {
            let mut slots = RangeSlots::default();
            let mut taken: Vec<(u32, u32)> = Vec::new();
            for (what, which, rows) in steps {
                let which = if taken.is_empty() { 0 } else { which % taken.len() };
                match what {
                    1 if !taken.is_empty() => {
                        let (start, rows) = taken.swap_remove(which);
                        slots.give(start, rows);
                    }
                    2 if !taken.is_empty() => {
                        let (start, before) = taken[which];
                        let fewer = rows.min(before);
                        slots.shrink(start, before, fewer);
                        taken[which].1 = fewer;
                    }
                    _ => taken.push((slots.take(rows), rows)),
                }
                // What is taken and taken back leaves no trace.
                let before = slots.clone();
                let places: Vec<_> = (0..rows % 4).map(|more| (slots.take(rows + more), rows + more)).collect();
                places.into_iter().for_each(|(start, rows)| slots.give(start, rows));
                proptest::prop_assert_eq!(&slots, &before);
                let mut sorted = taken.clone();
                sorted.sort_unstable();
                let apart = |pair: &[(u32, u32)]| pair[0].0 + place_size(pair[0].1) <= pair[1].0;
                proptest::prop_assert!(sorted.windows(2).all(apart));
                proptest::prop_assert_eq!(&RangeSlots::rebuild(taken.iter().copied()), &slots);
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn rows_that_are_taken_back_are_the_next_ones_again(
            steps in proptest::collection::vec((0_usize..200, 0_usize..200, 0_usize..200), 1..50),
        ) {
            let mut slots = AllocationSlots::default();
            let mut taken = Vec::new();
            for (takes, gives, tries) in steps {
                let (before, mark) = (slots.clone(), slots.mark());
                let next: Vec<_> = slots.next_rows().take(tries).collect();
                let tried: Vec<_> = (0..tries).map(|_| slots.take()).collect();
                proptest::prop_assert_eq!(&next, &tried[..next.len()], "told before as they are taken");
                let had_tenants = tried.iter().filter(|&&slot| ((slot / PAGE) as usize) < before.free.len());
                proptest::prop_assert_eq!(next.len(), had_tenants.count());
                slots.untake(mark, tried.into_iter());
                proptest::prop_assert_eq!(&slots, &before);
                taken.extend((0..takes).map(|_| slots.take()));
                for _ in 0..gives.min(taken.len()) {
                    slots.give(taken.swap_remove(gives % taken.len()));
                }
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn rows_that_were_foretold_are_taken_in_whichever_order_pages_got_their_holes(
            steps in proptest::collection::vec((0_usize..200, 0_usize..200), 1..50),
        ) {
            let mut slots = AllocationSlots::default();
            let mut taken = Vec::new();
            for (takes, gives) in steps {
                // As a rebuild finds them.
                let mut rebuilt = slots.clone();
                rebuilt.ready.make_contiguous().sort_unstable();
                let rows: Vec<u32> = (0..takes).map(|_| slots.take()).collect();
                rebuilt.foretell(rows.iter().copied());
                let again: Vec<u32> = (0..takes).map(|_| rebuilt.take()).collect();
                proptest::prop_assert_eq!(&rows, &again);
                taken.extend(rows);
                for _ in 0..gives.min(taken.len()) {
                    slots.give(taken.swap_remove(gives % taken.len()));
                }
            }
        }
    }

    #[test]
    fn places_are_found_again_after_a_rebuild() {
        let mut slots = RangeSlots::rebuild([(8, 8), (4, 1)].into_iter());
        assert_eq!((slots.take(4), slots.take(1), slots.take(2), slots.take(1)), (0, 5, 6, 16));
    }
}
