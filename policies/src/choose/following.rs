//! Placing by a scoring whose costs change beyond the machine that a task went to: the best of each block of machines is kept, and only the
//! blocks that a placement touched are looked at again.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use crate::columns::{Columns, place};
use crate::kernel::{Minima, Place, lanes};
use crate::request::{Judge, Request};
use crate::scoring::Following;

use super::{clear, words};

/// As [`choose_by`](super::choose_by), where a placement may change what other machines cost. Exact too: each task goes to the best of all machines as
/// things stand when its turn comes. Takes one scan, and for each task a look at the blocks of 64 that were touched and at the best of each block.
///
/// Samples and parts do not apply.
#[must_use]
pub fn choose_following<S: Following + ?Sized>(
    columns: &Columns,
    request: &Request<'_>,
    scoring: &mut S,
    count: u32,
) -> Vec<u32> {
    let mut words = words(columns, request, (0, 1)).into_owned();
    let judge = Judge::new(columns, request, &*scoring);
    // Machines that are judged one by one: siblings, holds, and whatever a task went to.
    let mut special: BTreeMap<u32, u32> = judge.special_rows().into_iter().map(|slot| (slot, 0)).collect();
    clear(&mut words, &special.keys().copied().collect::<Vec<_>>());
    let mut minima = vec![Place::NONE; words.len()];
    let mut stale: BTreeSet<u32> = (0..u32::try_from(words.len()).unwrap_or(u32::MAX)).collect();
    let mut unsure: BTreeSet<u32> = special.keys().copied().collect();
    let mut places: BTreeMap<u32, u64> = BTreeMap::new();
    let mut ranked: BTreeSet<u64> = BTreeSet::new();
    let mut chosen = Vec::new();
    let mut touched = Vec::new();
    while chosen.len() < count as usize {
        let judge = Judge::new(columns, request, &*scoring);
        refresh(&judge, &words, std::mem::take(&mut stale), &mut minima);
        for slot in std::mem::take(&mut unsure) {
            if let Some(before) = places.remove(&slot) {
                ranked.remove(&before);
            }
            let suits = judge.suits(slot) && (request.suits.is_none() || special[&slot] == 0);
            if let Some(place) = judge.place(slot, special[&slot]).filter(|_| suits) {
                places.insert(slot, place.key());
                ranked.insert(place.key());
            }
        }
        let least = minima.iter().fold(Place::NONE, |best, place| if place.is_before(&best) { *place } else { best });
        let untouched = (least.cost < f32::INFINITY).then(|| least.key());
        let Some(key) = untouched.into_iter().chain(ranked.first().copied()).min() else { break };
        let slot = judge.ranked(key).machine;
        let (block, _) = place(slot);
        let block = u32::try_from(block).unwrap_or(u32::MAX);
        if let Entry::Vacant(unknown) = special.entry(slot) {
            unknown.insert(0);
            clear(&mut words, &[slot]);
            stale.insert(block);
            if !judge.suits(slot) {
                continue;
            }
        }
        chosen.push(slot);
        special.entry(slot).and_modify(|placed| *placed += 1);
        unsure.insert(slot);
        touched.clear();
        scoring.placed(slot, &mut touched);
        for &other in touched.iter().filter(|&&other| other < columns.rows()) {
            if special.contains_key(&other) {
                unsure.insert(other);
            } else {
                stale.insert(u32::try_from(place(other).0).unwrap_or(u32::MAX));
            }
        }
    }
    chosen
}

/// Looks at the stale blocks again.
fn refresh<S: Following + ?Sized>(judge: &Judge<'_, S>, words: &[u64], stale: BTreeSet<u32>, minima: &mut [Place]) {
    let blocks: Vec<u32> = stale.into_iter().collect();
    let (scoring, ask) = (judge.scoring, judge.ask);
    lanes::run(Minima { scoring, rows: judge.rows(words), ask, blocks: &blocks, minima });
}
