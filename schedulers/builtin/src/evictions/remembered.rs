//! What found nobody to evict: it is not asked for again for a while, in which others have their turn.

use std::collections::BTreeMap;

use plenum_model::{Cell, LogTime, Revision};
use plenum_sdk::View;

use super::{Denied, left_of, rest_of};

/// Kinds of tasks that are remembered to have found nobody. Where more of them wait, those that were asked for first are forgotten, and asked for again before those
/// behind them in the queue: these have their turn only once others in front of them are placed or stopped.
const DENIED_MAX: usize = 4096;

/// What found nobody is asked for again after so many rests at least, so that others have their turn; and after more where there are many such kinds: of so many each
/// has one. In a rest `KINDS_MAX` can be asked for, so that all have their turn, as many as are remembered.
const DENIED_RESTS: i64 = 8;
const DENIED_PER_REST: i64 = 32;

/// Looks of all searches that found nobody that are made up for by a microsecond more, in which as many can be made for others: a look takes some tenth of one.
const LOOKS_A_MICRO: usize = 4;

/// No more than this is made up for them: of what is not wanted any more they count until that is over.
const LOOKS_MICROS_MAX: i64 = 60_000_000;

/// Searches that came to no end of which is remembered how far they came: a bit for each machine.
const BEGUN_MAX: usize = 64;

/// For so long after it may be asked for again, and as long as it was not, it is of use how far the search for a kind came.
const BEGUN_MICROS: i64 = 1_000_000;

/// What a search that came to no end has looked at.
#[derive(Clone, Debug)]
pub(super) struct Begun {
    /// The cell's when it began.
    revision: Revision,
    /// The machines, one bit each.
    machines: Vec<u64>,
}

impl Begun {
    pub(super) fn at(revision: Revision) -> Self {
        Self { revision, machines: Vec::new() }
    }

    pub(super) fn has(&self, slot: u32) -> bool {
        self.machines.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    pub(super) fn add(&mut self, slot: u32) {
        let word = slot as usize / 64;
        if self.machines.len() <= word {
            self.machines.resize(word + 1, 0);
        }
        self.machines[word] |= 1 << (slot % 64);
    }
}

/// That a kind found nobody.
#[derive(Clone, Debug)]
struct Past {
    at: LogTime,
    /// The decision.
    turn: u64,
    /// Of the cell in which it found nobody.
    revision: Revision,
    why: Denied,
    /// How many were made for it.
    looks: usize,
    /// Where its search came to no end.
    begun: Option<Begun>,
}

/// What found nobody: it is not asked for again for a while, in which others have their turn, and people are told the same.
#[derive(Debug)]
pub(super) struct Remembered<K> {
    all: BTreeMap<K, Past>,
    /// Of all of them.
    looks: usize,
    /// Decisions that were begun.
    turn: u64,
}

impl<K> Default for Remembered<K> {
    fn default() -> Self {
        Self { all: BTreeMap::new(), looks: 0, turn: 0 }
    }
}

impl<K: Ord + Clone> Remembered<K> {
    /// Begins a decision: forgets what is over.
    pub(super) fn begin(&mut self, view: &View<'_>) {
        self.turn += 1;
        let (micros, turn) = (self.micros(view.cell()), self.turn);
        self.all.retain(|_, past| {
            let more = if past.begun.is_some() { micros.saturating_add(BEGUN_MICROS) } else { 0 };
            past.rests_in(turn) || left_of(micros.saturating_add(more), past.at, view.now()) > 0
        });
        self.looks = self.all.values().map(|past| past.looks).sum();
    }

    /// It found nobody in so many looks. With `begun` it was not looked at to the end, and else on none of the machines, of which these were looked at before.
    pub(super) fn put(&mut self, view: &View<'_>, kind: K, (why, looks): (Denied, usize), begun: Option<Begun>) {
        if self.all.len() >= DENIED_MAX {
            self.forget_oldest();
        }
        let revision = begun.as_ref().map_or_else(|| view.cell().revision(), |begun| begun.revision);
        let are_many = || self.all.values().filter(|past| past.begun.is_some()).count() >= BEGUN_MAX;
        let begun = begun.filter(|_| why == Denied::Later && !are_many());
        self.looks += looks;
        self.all.insert(kind, Past { at: view.now(), turn: self.turn, revision, why, looks, begun });
    }

    /// Why it found nobody, if that is not long ago, and what is left of that while if it may find somebody then.
    pub(super) fn get(&self, view: &View<'_>, kind: &K) -> Option<(Denied, Option<i64>)> {
        let past = self.all.get(kind)?;
        let left = left_of(self.micros(view.cell()), past.at, view.now());
        if left == 0 && !past.rests_in(self.turn) {
            return None;
        }
        // In a cell that stands still nothing is found later, either, where it was looked at to the end.
        let may_find = past.why == Denied::Later || past.revision < view.cell().revision();
        Some((past.why, may_find.then_some(left)))
    }

    /// How far the search for a kind came that is asked for again; it is forgotten.
    pub(super) fn take(&mut self, kind: &K) -> Option<Begun> {
        let past = self.all.remove(kind)?;
        self.looks -= past.looks.min(self.looks);
        past.begun
    }

    fn forget_oldest(&mut self) {
        let oldest = self.all.iter().min_by_key(|(_, past)| past.turn).map(|(kind, _)| kind.clone());
        oldest.into_iter().for_each(|kind| drop(self.take(&kind)));
    }

    /// For how long it is not asked for again.
    fn micros(&self, cell: &Cell) -> i64 {
        let rests = DENIED_RESTS.max(i64::try_from(self.all.len()).unwrap_or(i64::MAX) / DENIED_PER_REST);
        let looks = i64::try_from(self.looks / LOOKS_A_MICRO).unwrap_or(i64::MAX).min(LOOKS_MICROS_MAX);
        rest_of(cell).saturating_mul(rests).saturating_add(looks)
    }
}

impl Past {
    /// Who used up the looks of a decision leaves those of the next one to others, however long that decision took.
    fn rests_in(&self, turn: u64) -> bool {
        self.why == Denied::Later && turn <= self.turn + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn past(turn: u64, looks: usize) -> Past {
        let (at, revision) = (LogTime::default(), Revision::default());
        Past { at, turn, revision, why: Denied::Enough, looks, begun: None }
    }

    // One kind too many made all be forgotten: as many searches began anew as there was room for.
    #[test]
    fn of_too_many_the_one_that_was_asked_for_first_is_forgotten() {
        let all = BTreeMap::from([("new", past(3, 5)), ("old", past(1, 7)), ("between", past(2, 9))]);
        let mut remembered = Remembered { all, looks: 21, turn: 3 };
        remembered.forget_oldest();
        assert_eq!(
            (remembered.all.keys().copied().collect::<Vec<_>>(), remembered.looks),
            (vec!["between", "new"], 14)
        );
    }

    #[test]
    fn machines_that_were_looked_at_are_known_one_by_one() {
        let mut begun = Begun::at(Revision(1));
        [0, 63, 64, 200].into_iter().for_each(|slot| begun.add(slot));
        let known: Vec<u32> = (0..1000).filter(|&slot| begun.has(slot)).collect();
        assert_eq!(known, [0, 63, 64, 200]);
    }
}
