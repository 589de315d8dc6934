//! Dense rows in pages that are shared between snapshots, and copied when first changed while one is alive.
//!
//! Two levels: a clone of the whole costs one reference count for each node of 64 pages, and a change copies one node of
//! pointers and one page, if a snapshot holds them. Without a snapshot nothing is copied.

use std::sync::Arc;

/// Pages in a node.
const NODE_PAGES: usize = 64;

type Page<T, const ROWS: usize> = Arc<[T; ROWS]>;

/// A growing column of rows addressed by small integers, `ROWS` of them a page.
///
/// Rows that were never written read as `T::default()`.
#[derive(Debug)]
pub struct Paged<T, const ROWS: usize> {
    nodes: Vec<Arc<Vec<Page<T, ROWS>>>>,
    /// Rows in use: one more than the highest that was ever written.
    len: u32,
    empty: Arc<[T; ROWS]>,
}

impl<T, const ROWS: usize> Clone for Paged<T, ROWS> {
    fn clone(&self) -> Self {
        Self { nodes: self.nodes.clone(), len: self.len, empty: self.empty.clone() }
    }
}

impl<T: Clone + Default, const ROWS: usize> Default for Paged<T, ROWS> {
    fn default() -> Self {
        Self { nodes: Vec::new(), len: 0, empty: Arc::new(std::array::from_fn(|_| T::default())) }
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
    pub fn get(&self, row: u32) -> Option<&T> {
        if row >= self.len {
            return None;
        }
        let row = row as usize;
        let page = self.nodes.get(row / (ROWS * NODE_PAGES))?.get(row / ROWS % NODE_PAGES)?;
        page.get(row % ROWS)
    }

    /// The row for writing; grows up to it. Copies what a snapshot shares.
    pub fn get_mut(&mut self, row: u32) -> &mut T {
        if row >= self.len {
            self.grow(row);
        }
        let row = row as usize;
        let node = Arc::make_mut(&mut self.nodes[row / (ROWS * NODE_PAGES)]);
        &mut Arc::make_mut(&mut node[row / ROWS % NODE_PAGES])[row % ROWS]
    }

    #[cold]
    fn grow(&mut self, row: u32) {
        let pages = row as usize / ROWS + 1;
        let mut have = self.pages() as usize;
        while have < pages {
            if have.is_multiple_of(NODE_PAGES) {
                self.nodes.push(Arc::new(Vec::with_capacity(NODE_PAGES)));
            }
            let node = self.nodes.last_mut().expect("one was pushed when the last was full");
            Arc::make_mut(node).push(self.empty.clone());
            have += 1;
        }
        self.len = row + 1;
    }

    /// Number of pages.
    #[must_use]
    pub fn pages(&self) -> u32 {
        let last = self.nodes.last().map_or(0, |node| node.len());
        let full = self.nodes.len().saturating_sub(1) * NODE_PAGES;
        u32::try_from(full + last).expect("rows have 32-bit numbers")
    }

    /// The rows of one page; the last page may have rows beyond `len`, which read as default.
    #[must_use]
    pub fn page(&self, page: u32) -> Option<&[T; ROWS]> {
        let page = page as usize;
        self.nodes.get(page / NODE_PAGES)?.get(page % NODE_PAGES).map(|page| &**page)
    }

    /// All rows, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.nodes.iter().flat_map(|node| node.iter()).flat_map(|page| page.iter()).take(self.len as usize)
    }

    /// Numbers of the pages that are not the very same as in `before`: a superset of those whose rows differ. The cost goes by
    /// nodes that changed.
    pub fn changed_pages<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = u32> + 'a {
        self.nodes.iter().enumerate().flat_map(move |(number, node)| {
            let old = before.nodes.get(number);
            let same = old.is_some_and(|old| Arc::ptr_eq(old, node));
            let pages = if same { 0 } else { node.len() };
            (0..pages).filter_map(move |page| {
                let shared = old.and_then(|old| old.get(page)).is_some_and(|old| Arc::ptr_eq(old, &node[page]));
                let number = u32::try_from(number * NODE_PAGES + page).expect("rows have 32-bit numbers");
                (!shared).then_some(number)
            })
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
    fn rows_between_are_default() {
        let mut column = Paged::<u32, 4>::default();
        *column.get_mut(6) = 1;
        assert_eq!(column.iter().copied().collect::<Vec<_>>(), [0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(column.pages(), 2);
    }
}
