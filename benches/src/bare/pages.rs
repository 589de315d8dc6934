//! Rows in pages of equal length, as a bare cell has them: found by number in two steps, and never moved.

use std::ops::{Index, IndexMut};

/// See the module.
pub(super) struct Pages<T, const ROWS: usize>(Vec<Box<[T; ROWS]>>);

impl<T: Copy, const ROWS: usize> Pages<T, ROWS> {
    /// At least so many rows, all alike.
    pub(super) fn filled(rows: usize, row: T) -> Self {
        let mut pages = Self(Vec::new());
        pages.reach(rows, row);
        pages
    }

    /// Adds pages of such rows until there are at least so many.
    pub(super) fn reach(&mut self, rows: usize, row: T) {
        while self.rows() < rows {
            self.0.push(Box::new([row; ROWS]));
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.0.len() * ROWS
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flat_map(|page| page.iter())
    }
}

impl<T, const ROWS: usize> Index<usize> for Pages<T, ROWS> {
    type Output = T;

    #[inline]
    fn index(&self, row: usize) -> &T {
        &self.0[row / ROWS][row % ROWS]
    }
}

impl<T, const ROWS: usize> IndexMut<usize> for Pages<T, ROWS> {
    #[inline]
    fn index_mut(&mut self, row: usize) -> &mut T {
        &mut self.0[row / ROWS][row % ROWS]
    }
}
