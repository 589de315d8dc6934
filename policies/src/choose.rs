//! Machines for k equal tasks, as if each had been placed alone, one after the other, on the best of all machines.
//!
//! A pure function of columns, request, scoring and count. Of two machines the one with the lower cost is better; of two with equal cost the one
//! that the request's rule for ties puts first. Nothing is cut off: all machines are looked at, unless the request asks for a sample.

mod draw;
mod following;
mod in_turn;

use std::borrow::Cow;
use std::collections::BTreeSet;

pub use following::choose_following;
use in_turn::Untouched;
pub use in_turn::{choose_asking, choose_asking_by};

use crate::columns::{Columns, Eligible, place};
use crate::kernel::lanes;
use crate::kernel::{Best, First, Place, Shortlist};
use crate::policy::{Policy, WithScoring};
use crate::request::{Judge, Request, Suits};
use crate::scoring::Scoring;
use crate::settings::{PARTS_MAX, Parts};

/// A machine that was ranked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// Its slot.
    pub machine: u32,
    /// What it costs, affinities counted in, rounded down to the nearness.
    pub cost: f32,
}

/// Machine slots for up to `count` equal tasks, best first; fewer when no more fit. A slot comes as often as tasks go there.
///
/// Exact: the same as placing the tasks one by one, each on the best of *all* machines on which it fits, with the room shrunk by the tasks before
/// it. Depends on its arguments only. Takes one scan of the columns, plus `count` times its logarithm.
#[must_use]
pub fn choose(columns: &Columns, request: &Request<'_>, policy: Policy, count: u32) -> Vec<u32> {
    struct Choose<'a>(&'a Columns, &'a Request<'a>, u32);

    impl WithScoring for Choose<'_> {
        type Output = Vec<u32>;

        fn with<S: Scoring>(self, scoring: &S) -> Vec<u32> {
            choose_by(self.0, self.1, scoring, self.2)
        }
    }

    let chosen = policy.with(columns, Choose(columns, request, count));
    chosen.unwrap_or_else(|| draw::choose(columns, request, count, &mut once(request.suits)))
}

/// As [`choose`], by any scoring.
#[must_use]
pub fn choose_by<S: Scoring + ?Sized>(columns: &Columns, request: &Request<'_>, scoring: &S, count: u32) -> Vec<u32> {
    let judge = Judge::new(columns, request, scoring);
    let Request { home, suits, settings, .. } = request;
    if count == 1 && home.is_none() && suits.is_none() && settings.sample.is_none() {
        let best = parts(settings.parts).find_map(|part| Scan::new(&judge, part).best());
        return best.into_iter().map(|place| judge.ask.order.slot(place.tie)).collect();
    }
    judge.choose(count, &mut once(*suits))
}

/// Takes each machine that suits once, or any as often as it comes where nobody asks.
fn once(suits: Option<Suits<'_>>) -> impl FnMut(u32) -> bool {
    let mut asked = BTreeSet::new();
    move |slot| suits.is_none_or(|suits| asked.insert(slot) && suits.0(slot))
}

/// The `most` best machines for one task, best first; fewer when it fits on no more. For alternates, and for showing how machines compare.
///
/// With parts in the request, all of one part stand before any of the next. Samples do not apply.
#[must_use]
pub fn rank<S: Scoring + ?Sized>(columns: &Columns, request: &Request<'_>, scoring: &S, most: usize) -> Vec<Ranked> {
    let judge = Judge::new(columns, request, scoring);
    let mut ranked = Vec::new();
    for part in parts(request.settings.parts) {
        if ranked.len() >= most {
            break;
        }
        let scan = Scan::new(&judge, part);
        let mut best = Untouched::new(&scan, most - ranked.len());
        while ranked.len() < most
            && let Some(key) = best.pop()
        {
            ranked.extend(Some(judge.ranked(key)).filter(|ranked| judge.suits(ranked.machine)));
        }
    }
    ranked
}

impl<S: Scoring + ?Sized> Judge<'_, S> {
    pub(crate) fn ranked(&self, key: u64) -> Ranked {
        let Place { cost, tie } = Place::of_key(key);
        Ranked { machine: self.ask.order.slot(tie), cost }
    }

    fn suits(&self, slot: u32) -> bool {
        self.request.suits.is_none_or(|suits| suits.0(slot))
    }
}

/// The parts to look at, one after the other: part and number of parts. One of one without the setting.
fn parts(parts: Option<Parts>) -> impl Iterator<Item = (u32, u32)> {
    let Parts { count, first } = parts.unwrap_or(Parts { count: 1, first: 0 });
    let count = count.clamp(1, PARTS_MAX);
    (0..count)
        .map(move |behind| (u64::from(first) + u64::from(behind)) % u64::from(count))
        .map(move |part| (u32::try_from(part).expect("below 64"), count))
}

/// One look at the machines of one part.
pub(crate) struct Scan<'a, S: ?Sized> {
    judge: &'a Judge<'a, S>,
    /// Machines that the kernel looks at.
    words: Cow<'a, [u64]>,
    /// Machines that are judged one by one, because the kernel does not know all of them.
    special: Vec<u32>,
}

impl<'a, S: Scoring + ?Sized> Scan<'a, S> {
    pub(crate) fn new(judge: &'a Judge<'a, S>, part: (u32, u32)) -> Self {
        let mut words = words(judge.columns, judge.request, part);
        let mut special = judge.special_rows();
        special.retain(|&slot| slot % part.1 == part.0);
        if !special.is_empty() {
            clear(words.to_mut(), &special);
        }
        Self { judge, words, special }
    }

    fn special_places(&self) -> impl Iterator<Item = Place> {
        self.special.iter().filter_map(|&slot| self.judge.place(slot, 0))
    }

    /// The best machine for one task.
    fn best(&self) -> Option<Place> {
        let Judge { scoring, ask, .. } = *self.judge;
        let plain = lanes::run(Best { scoring, rows: self.judge.rows(&self.words), ask });
        let best = self.special_places().fold(plain, |best, place| if place.is_before(&best) { place } else { best });
        (best.cost < f32::INFINITY).then_some(best)
    }

    /// The keys of the best machines for one task, best first.
    fn first(&self, most: usize) -> Vec<u64> {
        let mut list = Shortlist::new(most);
        self.special_places().for_each(|place| list.add(place));
        let Judge { scoring, ask, .. } = *self.judge;
        lanes::run(First { scoring, rows: self.judge.rows(&self.words), ask, list: &mut list });
        list.sorted()
    }
}

/// One bit for each machine of a part that the request allows.
fn words<'a>(columns: &Columns, request: &Request<'a>, part: (u32, u32)) -> Cow<'a, [u64]> {
    let mut words = words_of_part(columns, request, part);
    if let Some(without) = request.without {
        words.to_mut().iter_mut().zip(without).for_each(|(word, without)| *word &= !without);
    }
    if let Some(home) = request.home {
        let (home, lane) = place(home);
        let keep = |(block, word): (usize, &mut u64)| *word &= u64::from(block == home) << lane;
        words.to_mut().iter_mut().enumerate().for_each(keep);
    }
    words
}

fn words_of_part<'a>(columns: &Columns, request: &Request<'a>, (part, parts): (u32, u32)) -> Cow<'a, [u64]> {
    let blocks = columns.changed.len();
    let eligible = request.eligible.map(Eligible::words);
    if parts == 1 {
        // One that was kept from before the columns followed another cell may have more.
        let known = |words: &'a [u64]| Cow::Borrowed(&words[..words.len().min(blocks)]);
        return eligible.map_or_else(|| Cow::Owned(vec![u64::MAX; blocks]), known);
    }
    // Which rows of a block belong to the part repeats after as many blocks as there are parts.
    let mut pattern = vec![0_u64; parts as usize];
    for row in (part as usize..64 * parts as usize).step_by(parts as usize) {
        pattern[row / 64] |= 1 << (row % 64);
    }
    let word = |block: usize| eligible.map_or(u64::MAX, |words| words.get(block).copied().unwrap_or(0));
    Cow::Owned((0..blocks).map(|block| word(block) & pattern[block % parts as usize]).collect())
}

/// Leaves machines to be judged one by one.
pub(crate) fn clear(words: &mut [u64], slots: &[u32]) {
    for &slot in slots {
        let (block, lane) = place(slot);
        words.get_mut(block).into_iter().for_each(|word| *word &= !(1 << lane));
    }
}

#[cfg(test)]
mod tests;
