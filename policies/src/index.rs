//! An index of the best machines, kept up to date: for each class of equal tasks the best of each block of 64 machines.
//!
//! Tasks that ask for the same and are placed by the same policy form a class. What a class has found out stays true for each block until a row in it
//! changes, and the columns know when that was. So a decision costs a look at the blocks that changed since the class's last one, and one at the
//! best of each block: a thousand equal tasks that come one by one cost little more than one. As Borg does with cached scores and equivalence classes
//! (Verma et al., EuroSys 2015, §3.4), but exact.

use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_model::Resources;

use crate::choose::{choose, choose_by};
use crate::columns::{Columns, Eligible};
use crate::kernel::{Minima, Place, lanes};
use crate::policy::{Policy, WithScoring};
use crate::request::{Judge, Request};
use crate::scoring::Scoring;
use crate::settings::{Settings, Ties, mix};

/// Classes that are remembered: at 100,000 machines 13 KiB each. Past it, the one that was not asked for the longest is forgotten.
const CLASSES_MAX: usize = 256;

/// See the module. Belongs to one `Columns`, of which it remembers what it saw.
#[derive(Clone, Debug, Default)]
pub struct Index {
    classes: BTreeMap<Key, Class>,
    /// Counts decisions, to know which class was not asked for the longest.
    clock: u64,
}

/// What equal tasks share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    resources: Resources,
    /// Where the request's set of eligible machines is: the class keeps it alive, so nobody else comes to be there.
    eligible: usize,
    /// Of the scoring's name and configuration.
    scoring: u64,
    seeded: Option<u64>,
    nearness: u32,
}

#[derive(Clone, Debug)]
struct Class {
    /// Kept, so that its address stays its own.
    _eligible: Option<Arc<Eligible>>,
    minima: Vec<Place>,
    as_of: u64,
    asked: u64,
}

impl Index {
    /// As [`choose`](crate::choose()), with `eligible` in the place of the request's own. Quicker for a task of a class that was asked for before.
    ///
    /// Requests with a home, siblings, a hold, a further condition, samples or parts are decided without the index, and so are those for more
    /// than one task: for them one scan finds all.
    #[must_use]
    pub fn choose(
        &mut self,
        columns: &Columns,
        request: &Request<'_>,
        eligible: Option<&Arc<Eligible>>,
        policy: Policy,
        count: u32,
    ) -> Vec<u32> {
        let request = Request { eligible: eligible.map(AsRef::as_ref), ..*request };
        if count != 1 || !is_plain(&request) {
            return choose(columns, &request, policy, count);
        }
        let work = Ask { index: self, columns, request: &request, eligible };
        policy.with(columns, work).unwrap_or_else(|| choose(columns, &request, policy, count))
    }

    /// As [`Index::choose`], by any scoring. Two scorings of one name have different `configuration`s if their costs may differ. A scoring with columns of
    /// its own says with [`Columns::touch`] which rows changed in them.
    #[must_use]
    pub fn choose_by<S: Scoring + ?Sized>(
        &mut self,
        columns: &Columns,
        request: &Request<'_>,
        eligible: Option<&Arc<Eligible>>,
        (scoring, configuration): (&S, u64),
        count: u32,
    ) -> Vec<u32> {
        let request = Request { eligible: eligible.map(AsRef::as_ref), ..*request };
        if count != 1 || !is_plain(&request) {
            return choose_by(columns, &request, scoring, count);
        }
        self.best(columns, &request, eligible, scoring, configuration).into_iter().collect()
    }

    fn best<S: Scoring + ?Sized>(
        &mut self,
        columns: &Columns,
        request: &Request<'_>,
        eligible: Option<&Arc<Eligible>>,
        scoring: &S,
        configuration: u64,
    ) -> Option<u32> {
        let Settings { ties, seed, nearness, .. } = request.settings;
        self.clock += 1;
        let key = Key {
            resources: *request.resources,
            eligible: eligible.map_or(0, |eligible| Arc::as_ptr(eligible).addr()),
            scoring: scoring.name().bytes().fold(mix(configuration), |sum, byte| mix(sum ^ u64::from(byte))),
            seeded: (ties == Ties::Seeded).then_some(seed),
            nearness: nearness.to_bits(),
        };
        self.make_room(&key);
        let fresh = || Class { _eligible: eligible.cloned(), minima: Vec::new(), as_of: 0, asked: 0 };
        let class = self.classes.entry(key).or_insert_with(fresh);
        class.asked = self.clock;
        class.best(&Judge::new(columns, request, scoring))
    }

    /// For a class that is not known yet.
    fn make_room(&mut self, key: &Key) {
        if self.classes.len() < CLASSES_MAX || self.classes.contains_key(key) {
            return;
        }
        let oldest = self.classes.iter().min_by_key(|(_, class)| class.asked).map(|(key, _)| *key);
        oldest.into_iter().for_each(|key| drop(self.classes.remove(&key)));
    }
}

/// Whether a request is told from others by what a class knows.
fn is_plain(request: &Request<'_>) -> bool {
    let Settings { sample, parts, .. } = request.settings;
    let special =
        request.home.is_some() || request.hold.is_some() || request.suits.is_some() || request.without.is_some();
    !special && request.siblings.is_empty() && sample.is_none() && parts.is_none()
}

struct Ask<'a> {
    index: &'a mut Index,
    columns: &'a Columns,
    request: &'a Request<'a>,
    eligible: Option<&'a Arc<Eligible>>,
}

impl WithScoring for Ask<'_> {
    type Output = Vec<u32>;

    fn with<S: Scoring>(self, scoring: &S) -> Vec<u32> {
        self.index.best(self.columns, self.request, self.eligible, scoring, 0).into_iter().collect()
    }
}

impl Class {
    /// Looks at what changed, and gives the best of all machines.
    fn best<S: Scoring + ?Sized>(&mut self, judge: &Judge<'_, S>) -> Option<u32> {
        let columns = judge.columns;
        self.minima.resize(columns.changed.len(), Place::NONE);
        let changed = (0..).zip(&columns.changed).filter(|(_, changed)| **changed > self.as_of);
        let blocks: Vec<u32> = changed.map(|(block, _)| block).collect();
        self.as_of = columns.stamp;
        if !blocks.is_empty() {
            let all = judge.request.eligible.map_or_else(|| vec![u64::MAX; columns.changed.len()], |_| Vec::new());
            let words = judge.request.eligible.map_or(all.as_slice(), Eligible::words);
            let (rows, scoring, ask) = (judge.rows(words), judge.scoring, judge.ask);
            lanes::run(Minima { scoring, rows, ask, blocks: &blocks, minima: &mut self.minima });
        }
        let first =
            self.minima.iter().fold(Place::NONE, |best, place| if place.is_before(&best) { *place } else { best });
        (first.cost < f32::INFINITY).then(|| judge.ask.order.slot(first.tie))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::kernel::BLOCK;
    use crate::scoring::{Amounts, Candidate};
    use crate::twin::{MIB, cell_of, followed, plain};

    /// Counts how often it was asked.
    #[derive(Default)]
    struct Counted(Cell<usize>);

    impl Scoring for Counted {
        fn name(&self) -> &str {
            "counted"
        }

        fn cost(&self, _candidate: &Candidate, _task: &Amounts) -> f32 {
            self.0.set(self.0.get() + 1);
            0.0
        }
    }

    /// Room was made before anybody looked whether the class is known: with the last place taken each of them was forgotten when it was asked for again.
    #[test]
    fn as_many_classes_as_are_remembered_are_looked_at_once_each_and_one_more_takes_the_oldest_place() {
        let columns = followed(&cell_of(&[plain(1000, 64)]), &BTreeMap::new());
        let (mut index, scoring) = (Index::default(), Counted::default());
        let mut looks = |class: u64| {
            let before = scoring.0.get();
            let resources = Resources::new(class, MIB);
            let request = Request::new(&resources, Settings::default());
            assert_eq!(index.choose_by(&columns, &request, None, (&scoring, 0), 1), [0]);
            (scoring.0.get() - before) / BLOCK
        };
        let mut round = || (1..=256).map(&mut looks).sum::<usize>();
        assert_eq!((round(), round()), (256, 0));
        assert_eq!((looks(257), looks(2), looks(1), looks(2)), (1, 0, 1, 0));
    }
}
