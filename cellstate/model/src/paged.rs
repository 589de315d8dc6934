//! Dense rows in pages that are shared between snapshots, and copied when first changed while one is alive.
//!
//! Two levels: a clone of the whole costs one reference count for each node of 64 pages, and a change copies one node of
//! pointers and one page, if a snapshot holds them. Without a snapshot nothing is copied.
//!
//! Whether a page may be written in place is remembered beside the pages. Asking the page's own reference count would be an
//! atomic operation on another cache line than the row's, for every write: it doubled the cost of a random stop. So is where the
//! page's rows are, in columns that are written: going through the node took half of all instructions of a look-up.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Pages in a node.
const NODE_PAGES: usize = 64;

type Page<T, const ROWS: usize> = Arc<[T; ROWS]>;

/// Where the rows of a page are, and whose they are: side by side, as whoever writes needs both.
#[derive(Debug)]
struct Place<T, const ROWS: usize> {
    rows: NonNull<[T; ROWS]>,
    /// The epoch in which the column became the page's only owner. Invariant: if it is the current epoch, then no other column holds the page
    /// or its node, because only `clone` shares them, and it begins a new epoch.
    owned: u32,
}

impl<T, const ROWS: usize> Place<T, ROWS> {
    fn of(page: &Page<T, ROWS>) -> Self {
        Self { rows: NonNull::new(Arc::as_ptr(page).cast_mut()).expect("never null"), owned: NEVER }
    }
}

// SAFETY: it stands for a reference to the page (the invariant of `places`), and is sent and shared only with the column that holds that.
#[allow(unsafe_code, reason = "pointers are neither, whatever they point to")]
unsafe impl<T: Send + Sync, const ROWS: usize> Send for Place<T, ROWS> {}
// SAFETY: the same.
#[allow(unsafe_code, reason = "pointers are neither, whatever they point to")]
unsafe impl<T: Send + Sync, const ROWS: usize> Sync for Place<T, ROWS> {}

/// A growing column of rows addressed by small integers, `ROWS` of them a page.
///
/// Rows that were never written read as `T::default()`.
#[derive(Debug)]
pub struct Paged<T, const ROWS: usize> {
    nodes: Vec<Arc<[Page<T, ROWS>; NODE_PAGES]>>,
    /// By page, where its rows are. Invariant: empty, as in a clone that was not written yet, or those of each page of `nodes`, which keep them there.
    places: Vec<Place<T, ROWS>>,
    epoch: AtomicU32,
    /// Rows in use: one more than the highest that was ever written.
    len: u32,
    empty: Page<T, ROWS>,
}

/// The epoch of a page that was never owned, or that nobody knows to be; the first one comes after it.
const NEVER: u32 = 0;
const FIRST_EPOCH: u32 = 1;

impl<T, const ROWS: usize> Clone for Paged<T, ROWS> {
    fn clone(&self) -> Self {
        // From now on nobody owns what both hold. Relaxed is enough: whoever writes has `&mut self`, and so has synchronised with
        // every earlier clone. At the last epoch ownership stays unknown for ever, and each write asks the reference counts.
        let next = self.epoch.load(Ordering::Relaxed).saturating_add(1);
        self.epoch.store(next, Ordering::Relaxed);
        Self {
            nodes: self.nodes.clone(),
            places: Vec::new(),
            epoch: AtomicU32::new(FIRST_EPOCH),
            len: self.len,
            empty: self.empty.clone(),
        }
    }
}

impl<T: Clone + Default, const ROWS: usize> Default for Paged<T, ROWS> {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            places: Vec::new(),
            epoch: AtomicU32::new(FIRST_EPOCH),
            len: 0,
            empty: Arc::new(std::array::from_fn(|_| T::default())),
        }
    }
}

impl<T: Clone + Default, const ROWS: usize> Paged<T, ROWS> {
    /// Rows of one page.
    pub const PAGE_ROWS: usize = ROWS;

    /// One more than the highest row that was ever written.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// True when no row was ever written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The row, or `None` beyond the last one.
    #[must_use]
    #[inline]
    pub fn get(&self, row: u32) -> Option<&T> {
        if row >= self.len {
            return None;
        }
        let row = row as usize;
        let rows = match self.places.get(row / ROWS) {
            // SAFETY: the page is one of this column's (the invariant of `places`), which is borrowed: nobody writes the page or lets it go.
            #[allow(unsafe_code, reason = "the way through the node takes twice as many instructions")]
            Some(place) => unsafe { place.rows.as_ref() },
            None => self.page_of(row / ROWS),
        };
        Some(&rows[row % ROWS])
    }

    /// The rows of a page, through its node.
    #[inline(never)]
    fn page_of(&self, page: usize) -> &[T; ROWS] {
        &self.nodes[page / NODE_PAGES][page % NODE_PAGES]
    }

    /// Brings the row into the cache, without waiting for it; nothing beyond the last one.
    #[inline]
    pub fn prefetch(&self, row: u32) {
        if let Some(row) = self.get(row) {
            crate::prefetch::prefetch(row);
        }
    }

    /// The row for writing, or `None` beyond the last one. Copies what a snapshot shares.
    #[inline]
    pub fn there_mut(&mut self, row: u32) -> Option<&mut T> {
        if row < self.len { Some(self.get_mut(row)) } else { None }
    }

    /// The row for writing; grows up to it. Copies what a snapshot shares.
    #[inline]
    pub fn get_mut(&mut self, row: u32) -> &mut T {
        if row >= self.len {
            self.grow(row);
        }
        let row = row as usize;
        let page = row / ROWS;
        let epoch = *self.epoch.get_mut();
        let mut rows = match self.places.get(page) {
            Some(place) if place.owned == epoch => place.rows,
            _ => self.own(page),
        };
        // SAFETY: this is where the page is (the invariant of `places`), and it is owned in this epoch (the invariant of `owned`, made true by
        // `own` otherwise): this column holds the only reference to it, through a node that nobody else holds, and `&mut self` keeps others
        // from reading it meanwhile.
        #[allow(unsafe_code, reason = "an atomic reference count for each write doubles its cost")]
        let rows = unsafe { rows.as_mut() };
        &mut rows[row % ROWS]
    }

    /// Becomes the only owner of a page, by copying it and its node if anybody else holds them. Gives where its rows are now.
    #[cold]
    fn own(&mut self, page: usize) -> NonNull<[T; ROWS]> {
        let node = Arc::make_mut(&mut self.nodes[page / NODE_PAGES]);
        let own = &mut node[page % NODE_PAGES];
        Arc::make_mut(own);
        let (rows, epoch) = (Place::of(own).rows, *self.epoch.get_mut());
        if self.places.is_empty() {
            self.find_pages();
        }
        self.places[page] = Place { rows, owned: if epoch == u32::MAX { NEVER } else { epoch } };
        rows
    }

    /// Notes where the pages of all nodes are that it does not know yet.
    fn find_pages(&mut self) {
        let known = self.places.len() / NODE_PAGES;
        self.places.extend(self.nodes[known..].iter().flat_map(|node| node.iter()).map(Place::of));
    }

    #[cold]
    fn grow(&mut self, row: u32) {
        let nodes = row as usize / (ROWS * NODE_PAGES) + 1;
        if nodes > self.nodes.len() {
            // The same one for all of them, as it has the same page everywhere: so rows that are left out cost next to nothing.
            let empty = Arc::new(std::array::from_fn(|_| self.empty.clone()));
            self.nodes.resize(nodes, empty);
            self.find_pages();
        }
        self.len = row + 1;
    }

    /// Number of pages.
    #[must_use]
    pub fn pages(&self) -> u32 {
        u32::try_from((self.len as usize).div_ceil(ROWS)).expect("rows have 32-bit numbers")
    }

    /// The rows of one page; the last page may have rows beyond `len`, which read as default.
    #[must_use]
    pub fn page(&self, page: u32) -> Option<&[T; ROWS]> {
        if page >= self.pages() {
            return None;
        }
        Some(self.page_of(page as usize))
    }

    /// The rows from this one on, up to the end of its page; none beyond the last one.
    #[must_use]
    pub fn rows_from(&self, row: u32) -> &[T] {
        if row >= self.len {
            return &[];
        }
        let (page, at) = (row as usize / ROWS, row as usize % ROWS);
        let end = (self.len as usize - page * ROWS).min(ROWS);
        &self.page_of(page)[at..end]
    }

    /// All rows, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.nodes.iter().flat_map(|node| node.iter()).flat_map(|page| page.iter()).take(self.len as usize)
    }

    /// Numbers of the pages that are not the very same as in `before`: a superset of those whose rows differ. The cost goes by
    /// nodes that changed.
    pub fn changed_pages<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = u32> + 'a {
        let end = self.pages();
        self.nodes
            .iter()
            .zip(0..)
            .flat_map(move |(node, number)| {
                let old = before.nodes.get(number as usize);
                let same = old.is_some_and(|old| Arc::ptr_eq(old, node));
                let pages = if same { 0 } else { NODE_PAGES };
                let changed = move |page: &usize| !old.is_some_and(|old| Arc::ptr_eq(&old[*page], &node[*page]));
                (0..pages).filter(changed).zip(std::iter::repeat(number))
            })
            .filter_map(move |(page, node): (usize, u32)| {
                let number = node * u32::try_from(NODE_PAGES).expect("small") + u32::try_from(page).expect("small");
                (number < end).then_some(number)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_keeps_what_it_saw() {
        let mut column = Paged::<u32, 4>::default();
        *column.get_mut(9) = 7;
        let snapshot = column.clone();
        *column.get_mut(9) = 8;
        *column.get_mut(300) = 1;
        assert_eq!((snapshot.get(9), snapshot.get(300)), (Some(&7), None));
        assert_eq!((column.get(9), column.get(300), column.get(301)), (Some(&8), Some(&1), None));
    }

    #[test]
    fn only_changed_pages_differ() {
        let mut column = Paged::<u32, 4>::default();
        *column.get_mut(1023) = 1;
        let before = column.clone();
        *column.get_mut(5) = 2;
        *column.get_mut(600) = 3;
        assert_eq!(column.changed_pages(&before).collect::<Vec<_>>(), [1, 150]);
        assert_eq!(before.changed_pages(&before).count(), 0);
    }

    #[test]
    fn two_clones_never_write_into_each_other() {
        let mut left = Paged::<u32, 4>::default();
        (0..1000).for_each(|row| *left.get_mut(row) = 1);
        let mut right = left.clone();
        (0..1000).for_each(|row| *right.get_mut(row) += 1);
        let third = right.clone();
        (0..1000).for_each(|row| *left.get_mut(row) += 10);
        (0..1000).for_each(|row| *right.get_mut(row) += 100);
        let sums = [&left, &right, &third].map(|column| column.iter().sum::<u32>());
        assert_eq!(sums, [11_000, 102_000, 2000]);
    }

    #[test]
    fn nodes_between_are_one_and_each_is_written_by_itself() {
        let mut column = Paged::<u32, 4>::default();
        *column.get_mut(10_000) = 7;
        assert!(Arc::ptr_eq(&column.nodes[0], &column.nodes[1]), "nobody wrote there");
        let snapshot = column.clone();
        (0..512).step_by(256).for_each(|row| *column.get_mut(row) = row + 1);
        assert_eq!([0, 256, 512, 10_000].map(|row| column.get(row).copied()), [Some(1), Some(257), Some(0), Some(7)]);
        assert_eq!([0, 256, 512, 10_000].map(|row| snapshot.get(row).copied()), [Some(0), Some(0), Some(0), Some(7)]);
        assert_eq!(column.changed_pages(&snapshot).collect::<Vec<_>>(), [0, 64]);
    }

    #[test]
    fn rows_are_there_up_to_the_end_of_their_page_or_the_last_one() {
        let mut column = Paged::<u32, 4>::default();
        (0..10).for_each(|row| *column.get_mut(row) = row);
        let snapshot = column.clone();
        *column.get_mut(5) = 7;
        assert_eq!((snapshot.rows_from(4), column.rows_from(4)), (&[4, 5, 6, 7][..], &[4, 7, 6, 7][..]));
        assert_eq!([3, 8, 9].map(|row| column.rows_from(row)), [&[3][..], &[8, 9], &[9]]);
        assert!([10, 11, 12, u32::MAX].into_iter().all(|row| column.rows_from(row).is_empty()));
    }

    #[test]
    fn rows_between_are_default() {
        let mut column = Paged::<u32, 4>::default();
        *column.get_mut(6) = 1;
        assert_eq!(column.iter().copied().collect::<Vec<_>>(), [0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(column.pages(), 2);
    }
}
