//! What found nobody to evict: it is not asked for again for a while, in which others have their turn.

use std::collections::BTreeMap;

use plenum_model::{LogTime, Revision};
use plenum_sdk::View;

use super::{Denied, left_of, rest_of};

/// Kinds of tasks that are remembered to have found nobody.
const DENIED_MAX: usize = 4096;

/// What found nobody is asked for again after so many rests at least, so that others have their turn; and after more where there are many such kinds: of so many each
/// has one. In a rest `KINDS_MAX` can be asked for, so that all have their turn, however many.
const DENIED_RESTS: i64 = 8;
const DENIED_PER_REST: i64 = 32;

/// That a kind found nobody.
#[derive(Clone, Copy, Debug)]
struct Past {
    at: LogTime,
    revision: Revision,
    why: Denied,
}

/// What found nobody: it is not asked for again for a while, in which others have their turn, and people are told the same.
#[derive(Debug)]
pub(super) struct Remembered<K>(BTreeMap<K, Past>);

impl<K> Default for Remembered<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Remembered<K> {
    pub(super) fn put(&mut self, view: &View<'_>, kind: K, why: Denied) {
        if self.0.len() >= DENIED_MAX {
            self.0.clear();
        }
        self.0.insert(kind, Past { at: view.now(), revision: view.cell().revision(), why });
    }

    /// Why it found nobody, if that is not long ago, and what is left of that while if something has changed since.
    pub(super) fn get(&mut self, view: &View<'_>, kind: &K) -> Option<(Denied, Option<i64>)> {
        let Past { at, revision, why } = *self.0.get(kind)?;
        let rests = DENIED_RESTS.max(i64::try_from(self.0.len()).unwrap_or(i64::MAX) / DENIED_PER_REST);
        let left = left_of(rest_of(view.cell()).saturating_mul(rests), at, view.now());
        if left == 0 {
            self.0.remove(kind);
            return None;
        }
        // In a cell that stands still nothing is found later, either.
        Some((why, (revision < view.cell().revision()).then_some(left)))
    }
}
