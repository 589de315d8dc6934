//! Drawing machines instead of looking at all: randomised first fit, and samples.
//!
//! Randomised first fit draws a machine from those that may fit, all equally likely. If the task fits it goes there, and the machine stays in the pool
//! for the next task; if not, the machine is drawn no more. As nothing comes free within a decision, each task goes to any machine on which it
//! fits, all equally likely: a random policy and this one are the same. The simulator of Schwarzkopf, Konwinski, Abd-El-Malek and Wilkes, *Omega: flexible,
//! scalable schedulers for large compute clusters* (EuroSys 2013) places so.
//!
//! Each decision draws anew, from the seed and its own number ([`Settings::turn`](crate::Settings::turn)).
//!
//! A sample takes the best of d machines that were drawn in the same way: Mitzenmacher, *The power of two choices in randomized load balancing* (IEEE
//! Transactions on Parallel and Distributed Systems, 2001); for tasks of one job Ousterhout, Wendell, Zaharia and Stoica, *Sparrow* (SOSP 2013).

use std::collections::{BTreeMap, BTreeSet};

use crate::columns::Columns;
use crate::kernel::Place;
use crate::request::{Judge, Request};
use crate::scoring::{FirstFit, Scoring};
use crate::settings::Draws;

use super::Scan;
use super::in_turn::Take;

/// Draws that may miss, for each one that must hit, before all machines are looked at: in a cell where one machine in 16 fits, one task in ten
/// thousand comes to that.
const MISSES: u32 = 128;

/// Random machines for `count` tasks, each fitting when its turn comes.
pub(super) fn choose(columns: &Columns, request: &Request<'_>, count: u32, take: Take<'_>) -> Vec<u32> {
    let judge = Judge::new(columns, request, &FirstFit);
    if request.home.is_some() {
        return judge.choose(count, take);
    }
    let mut placed: BTreeMap<u32, u32> = BTreeMap::new();
    let mut draws = Draws::of(&request.settings);
    let mut chosen = Vec::new();
    let mut pool = Pool::new(columns.rows());
    while chosen.len() < count as usize {
        let Some(slot) = pool.draw(&judge, &placed, &mut draws) else { break };
        if !take(slot) {
            pool.leave_out(slot);
            continue;
        }
        *placed.entry(slot).or_default() += 1;
        chosen.push(slot);
    }
    chosen
}

/// Machines that may still fit.
enum Pool {
    /// All of them, but for those that were drawn in vain.
    All { rows: u32, out: BTreeSet<u32> },
    /// These.
    Few(Vec<u32>),
}

impl Pool {
    const fn new(rows: u32) -> Self {
        Self::All { rows, out: BTreeSet::new() }
    }

    fn draw<S: Scoring + ?Sized>(
        &mut self,
        judge: &Judge<'_, S>,
        placed: &BTreeMap<u32, u32>,
        draws: &mut Draws,
    ) -> Option<u32> {
        let already = |slot: u32| placed.get(&slot).copied().unwrap_or(0);
        let once = |slot: u32| judge.request.suits.is_none() || already(slot) == 0;
        let fits = |slot: u32| once(slot) && judge.place(slot, already(slot)).is_some() && judge.suits(slot);
        if let Self::All { rows, out } = self {
            for _ in 0..if *rows == 0 { 0 } else { MISSES } {
                let slot = draws.below(*rows);
                if out.contains(&slot) {
                    continue;
                }
                if fits(slot) {
                    return Some(slot);
                }
                out.insert(slot);
            }
            // Few fit: they are found by looking at all, once.
            let all = Scan::new(judge, (0, 1)).first(usize::MAX);
            let slots = all.into_iter().map(|key| judge.ranked(key).machine);
            *self = Self::Few(slots.filter(|slot| !out.contains(slot) && fits(*slot)).collect());
        }
        let Self::Few(slots) = self else { return None };
        while !slots.is_empty() {
            let index = draws.below(u32::try_from(slots.len()).unwrap_or(u32::MAX)) as usize;
            if fits(slots[index]) {
                return Some(slots[index]);
            }
            slots.swap_remove(index);
        }
        None
    }

    /// A machine is drawn no more.
    fn leave_out(&mut self, slot: u32) {
        match self {
            Self::All { out, .. } => drop(out.insert(slot)),
            Self::Few(slots) => slots.retain(|&other| other != slot),
        }
    }
}

/// Each task on the best of a few machines that were drawn from those on which it fits, until `count` are placed or nothing fits any more.
pub(super) fn choose_from_samples<S: Scoring + ?Sized>(
    judge: &Judge<'_, S>,
    most: u32,
    count: u32,
    take: Take<'_>,
    chosen: &mut Vec<u32>,
) {
    let mut placed: BTreeMap<u32, u32> = BTreeMap::new();
    let mut draws = Draws::of(&judge.request.settings);
    let rows = judge.columns.rows();
    let (mut pool, most) = (Pool::new(rows), most.clamp(1, rows.max(1)));
    while chosen.len() < count as usize {
        let sample = (0..most).map_while(|_| pool.draw(judge, &placed, &mut draws));
        let places = sample.filter_map(|slot| judge.place(slot, placed.get(&slot).copied().unwrap_or(0)));
        let best = places.reduce(|best, place| if place.is_before(&best) { place } else { best });
        let Some(Place { tie, .. }) = best else { return };
        let slot = judge.ask.order.slot(tie);
        if !take(slot) {
            pool.leave_out(slot);
            continue;
        }
        *placed.entry(slot).or_default() += 1;
        chosen.push(slot);
    }
}
