//! Marks of rare paths: each is a sentence where something seldom happens, so that a report can show that it did.
//!
//! They are counted only under the feature `planted-bugs`, which no production binary has; without it nothing of them is left. A mark
//! knows nothing of simulations.

#[cfg(feature = "planted-bugs")]
mod there {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    thread_local! {
        static TAKEN: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// Notes that a rare path was taken in this thread: see [`rare!`](crate::rare!).
    pub fn took(path: &'static str) {
        TAKEN.with_borrow_mut(|taken| *taken.entry(path).or_default() += 1);
    }

    /// How often which rare path was taken in this thread since this was asked last.
    #[must_use]
    pub fn taken() -> BTreeMap<&'static str, u64> {
        TAKEN.take()
    }
}

#[cfg(feature = "planted-bugs")]
pub use there::{taken, took};

/// Notes nothing, without the feature.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn took(_path: &'static str) {}

/// Marks a path that is rarely taken, by a sentence of its own: simulations count how often, and none may be never.
#[macro_export]
macro_rules! rare {
    ($path:literal) => {
        $crate::rare::took($path)
    };
}
