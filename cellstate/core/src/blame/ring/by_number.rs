//! What few changes have besides: found by the number of the change, forgotten with it.

use std::collections::VecDeque;

/// Below so many places it stays as it is.
const PLACES_MIN: usize = 64;

/// Values by ascending number.
#[derive(Debug)]
pub(super) struct ByNumber<T> {
    values: VecDeque<(u64, T)>,
}

impl<T> ByNumber<T> {
    pub(super) const fn new() -> Self {
        Self { values: VecDeque::new() }
    }

    /// Whether there are none.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Adds the value of a number above all others.
    pub(super) fn push(&mut self, number: u64, value: T) {
        self.values.push_back((number, value));
    }

    /// Lets go of all below a number, and of their memory when most of it is theirs.
    pub(super) fn forget_below(&mut self, number: u64) {
        if self.values.front().is_none_or(|&(oldest, _)| oldest >= number) {
            return;
        }
        while self.values.front().is_some_and(|&(oldest, _)| oldest < number) {
            self.values.pop_front();
        }
        // Half of what stays is free for those to come: it is copied once for as many.
        if self.values.capacity() > PLACES_MIN.max(self.values.len() * 4) {
            self.values.shrink_to(PLACES_MIN.max(self.values.len() * 2));
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    pub(super) fn get(&self, number: u64) -> Option<&T> {
        let found = self.values.binary_search_by_key(&number, |&(number, _)| number).ok()?;
        Some(&self.values[found].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_takes_no_memory() {
        let mut values = ByNumber::new();
        for number in 0..10_000 {
            values.push(number, number);
        }
        assert_eq!((values.get(7), values.get(10_000)), (Some(&7), None));
        values.forget_below(9_900);
        assert_eq!((values.get(9_899), values.get(9_900)), (None, Some(&9_900)));
        assert!(values.values.capacity() <= 400, "{} places", values.values.capacity());
        values.forget_below(u64::MAX);
        assert!(values.values.capacity() <= PLACES_MIN, "{} places", values.values.capacity());
    }
}
