//! Whom to evict on one machine.

mod guess;
mod narrow;

use std::cell::Cell;
use std::cmp::{Ordering, Reverse};

use plenum_model::{AllocationId, DIMENSIONS, Resource, Resources, Room};

use super::{Eviction, EvictionRank, Tenant, Tenants, Wanting};

/// Steps of the search on one machine, beyond which the best that was found counts. Up to ten tenants that all differ are searched to the end; so is whatever many
/// there are of a few kinds, as usual.
const STEPS_MAX: u32 = 2_000;

/// To ask whether devices and ports are enough takes as long as to look at so many tenants, and at those that it is asked about.
const ENOUGH_LOOKS: usize = 16;

/// To gather so many tenants for a question is a step more.
const TENANTS_A_STEP: usize = 64;

/// What is missing, and what somebody has of it, in each dimension that is asked for and short; nothing in others.
type Parts = [i64; DIMENSIONS];

/// Tenants that are as good victims as each other, but for their age.
#[derive(Debug)]
struct Kind {
    parts: Parts,
    /// The youngest first.
    members: Vec<Tenant>,
}

/// The victims of least cost on a machine of which so much is free: less what is promised, and perhaps negative. `None`: the task would not fit without any
/// of those that it may evict, or only without more than a claim may name.
#[must_use]
pub fn least(tenants: &Tenants, machine: u32, free: &Room, wanting: &Wanting<'_>) -> Option<Eviction> {
    search(tenants, machine, free, wanting).0
}

/// The same, and how many tenants it looked at, or what takes as long.
pub(super) fn search(tenants: &Tenants, machine: u32, free: &Room, wanting: &Wanting<'_>) -> (Option<Eviction>, usize) {
    let lack = tenants.coming(machine, free, wanting.band).lack(wanting.resources);
    let missing = Resource::ALL.map(|resource| lack.get(resource).cast_signed());
    let looks = Cell::new(1 + tenants.on(machine).len());
    let search = Search { tenants, machine, wanting, missing, most: tenants.unnamed(machine), looks };
    (search.least(), search.looks.get())
}

/// What an amount gives of what is missing.
fn parts(amount: &Resources, missing: &Parts) -> Parts {
    let mut parts = Resource::ALL.map(|resource| amount.get(resource).cast_signed());
    parts.iter_mut().zip(missing).for_each(|(part, &missing)| *part = if missing > 0 { *part } else { 0 });
    parts
}

fn less(mut missing: Parts, parts: &Parts) -> Parts {
    missing.iter_mut().zip(parts).for_each(|(missing, part)| *missing -= part);
    missing
}

fn more(mut missing: Parts, parts: &Parts) -> Parts {
    missing.iter_mut().zip(parts).for_each(|(missing, part)| *missing += part);
    missing
}

fn is_covered(missing: &Parts) -> bool {
    missing.iter().all(|&missing| missing <= 0)
}

/// `room_alone`: what else they have is of no use.
fn kinds(all: &[Tenant], parts: impl Fn(&Tenant) -> Parts, room_alone: bool) -> Vec<Kind> {
    let key = |tenant: &Tenant| (tenant.is_torn, tenant.priority, tenant.is_service);
    let mut sorted: Vec<(Parts, Tenant)> = all.iter().map(|tenant| (parts(tenant), *tenant)).collect();
    // Those that give most of the cheapest come first: a good answer early rules others out.
    sorted.sort_unstable_by(|(left, one), (right, other)| {
        let by_age = other.created.cmp(&one.created).then(one.id.slot.cmp(&other.id.slot));
        let by_use = if room_alone { Ordering::Equal } else { other.is_special.cmp(&one.is_special) };
        key(one).cmp(&key(other)).then_with(|| right.cmp(left)).then(by_use).then(by_age)
    });
    let alike = |(left, one): &(Parts, Tenant), (right, other): &(Parts, Tenant)| {
        let plain = room_alone || !(one.is_special || other.is_special);
        plain && key(one) == key(other) && left == right
    };
    let kind = |alike: &[(Parts, Tenant)]| Kind {
        parts: alike[0].0,
        members: alike.iter().map(|(_, tenant)| *tenant).collect(),
    };
    sorted.chunk_by(alike).map(kind).collect()
}

/// What the kinds from one on can do.
#[derive(Clone, Copy, Debug, Default)]
struct Rest {
    /// All of them together.
    sum: Parts,
    /// The most that one tenant gives, in each dimension.
    most: Parts,
    /// The lowest priority, plus one.
    lowest: u32,
}

impl Rest {
    /// Whether what is missing is more than so many victims of these can give.
    fn is_never_enough(&self, missing: &Parts, victims: usize) -> bool {
        let victims = i64::try_from(victims).unwrap_or(i64::MAX);
        let most = self.sum.iter().zip(self.most).map(|(&sum, most)| sum.min(most.saturating_mul(victims)));
        missing.iter().zip(most).any(|(&missing, most)| missing > most.max(0))
    }

    /// What victims of these add to a cost at least, where so much is missing.
    fn at_least(&self, missing: &Parts, mut rank: EvictionRank) -> EvictionRank {
        let short = missing.iter().zip(self.most).filter(|(missing, most)| **missing > 0 && *most > 0);
        let victims = short.map(|(&missing, most)| (missing + most - 1) / most).max().unwrap_or(0);
        let victims = u32::try_from(victims).unwrap_or(u32::MAX);
        rank.priorities = rank.priorities.saturating_add(victims.saturating_mul(self.lowest));
        rank.victims = rank.victims.saturating_add(victims);
        rank
    }
}

/// For each kind, the rest from it on; and an empty one.
fn rest(kinds: &[Kind]) -> Vec<Rest> {
    let mut rest = vec![Rest { lowest: u32::MAX, ..Rest::default() }; kinds.len() + 1];
    for place in (0..kinds.len()).rev() {
        let Kind { parts, members } = &kinds[place];
        let count = i64::try_from(members.len()).unwrap_or(i64::MAX);
        let Rest { mut sum, mut most, lowest } = rest[place + 1];
        sum.iter_mut().zip(parts).for_each(|(sum, part)| *sum = sum.saturating_add(part.saturating_mul(count)));
        most.iter_mut().zip(parts).for_each(|(most, &part)| *most = part.max(*most));
        let lowest = members.iter().map(|tenant| u32::from(tenant.priority) + 1).fold(lowest, u32::min);
        rest[place] = Rest { sum, most, lowest };
    }
    rest
}

/// What is searched for.
struct Search<'a> {
    tenants: &'a Tenants,
    machine: u32,
    wanting: &'a Wanting<'a>,
    /// While nobody is evicted.
    missing: Parts,
    /// Victims.
    most: usize,
    /// At tenants, and what takes as long.
    looks: Cell<usize>,
}

impl Search<'_> {
    fn least(&self) -> Option<Eviction> {
        if self.is_enough(&self.missing, &[]) {
            return Some(Eviction { rank: EvictionRank::nobody(self.machine), victims: Vec::new() });
        }
        let helps = |tenant: &Tenant| {
            self.parts(tenant).iter().any(|&part| part > 0) || (self.wanting.enough.is_some() && tenant.is_special)
        };
        let may_go = |tenant: &&Tenant| tenant.priority / 10 < self.wanting.band && helps(tenant);
        let mut all: Vec<Tenant> = self.tenants.on(self.machine).iter().filter(may_go).copied().collect();
        all.sort_unstable_by_key(|tenant| (tenant.priority, tenant.id.slot));
        let (rank, mut victims) = self.best(&all)?;
        victims
            .sort_unstable_by_key(|tenant| (tenant.is_torn, tenant.priority, Reverse(tenant.created), tenant.id.slot));
        Some(Eviction { rank, victims: victims.iter().map(|tenant| tenant.id).collect() })
    }

    /// Of those that the best answer can have; and where as many of these as can be named are not enough, of more and more bands. All have the steps of one search.
    fn best(&self, all: &[Tenant]) -> Option<(EvictionRank, Vec<Tenant>)> {
        let mut steps = 0;
        let (few, mut end) = self.narrow(all)?;
        let mut best = self.best_of(&few, &mut steps);
        let mut tried = few.len();
        while best.is_none() && tried < all.len() {
            if tried < end {
                best = self.best_of(&all[..end], &mut steps);
                tried = end;
            }
            let band = all.get(end).map(|tenant| tenant.priority / 10);
            end += all[end..].partition_point(|tenant| Some(tenant.priority / 10) == band);
        }
        best
    }

    fn best_of(&self, all: &[Tenant], steps: &mut u32) -> Option<(EvictionRank, Vec<Tenant>)> {
        let guess = self.spare_the_dearest(all).or_else(|| self.take_the_largest(all));
        let best = guess.map(|guess| (self.rank(&guess), guess));
        // Nobody can be spared.
        if best.as_ref().is_some_and(|(_, victims)| victims.len() == all.len()) {
            return best;
        }
        let kinds = kinds(all, |tenant| self.parts(tenant), self.wanting.enough.is_none());
        let rest = rest(&kinds);
        let mut walk = Walk { search: self, kinds: &kinds, rest, best, chosen: Vec::new(), steps: *steps };
        walk.go(0, self.missing, EvictionRank::nobody(self.machine));
        self.look(walk.steps.saturating_sub(*steps) as usize);
        *steps = walk.steps;
        walk.best
    }

    fn look(&self, times: usize) {
        self.looks.set(self.looks.get().saturating_add(times));
    }

    fn parts(&self, tenant: &Tenant) -> Parts {
        parts(self.tenants.room_of(tenant), &self.missing)
    }

    fn is_enough(&self, missing: &Parts, victims: &[Tenant]) -> bool {
        is_covered(missing) && self.has_else(victims.iter())
    }

    /// Whether there is what else it needs when these leave. Asked about are those alone who have any of it.
    fn has_else<'b>(&self, victims: impl Iterator<Item = &'b Tenant>) -> bool {
        self.wanting.enough.is_none_or(|enough| {
            let mut looks = ENOUGH_LOOKS;
            let special = victims.inspect(|_| looks += 1).filter(|tenant| tenant.is_special);
            let ids: Vec<AllocationId> = special.map(|tenant| tenant.id).collect();
            self.look(looks);
            enough(self.machine, &ids)
        })
    }

    fn rank(&self, victims: &[Tenant]) -> EvictionRank {
        victims.iter().fold(EvictionRank::nobody(self.machine), EvictionRank::with)
    }
}

/// A search for something better, to the end or to the bound of its steps.
struct Walk<'a> {
    search: &'a Search<'a>,
    kinds: &'a [Kind],
    /// See [`rest`].
    rest: Vec<Rest>,
    best: Option<(EvictionRank, Vec<Tenant>)>,
    chosen: Vec<Tenant>,
    steps: u32,
}

impl Walk<'_> {
    fn go(&mut self, place: usize, missing: Parts, rank: EvictionRank) {
        self.steps += 1;
        let best = self.best.as_ref().map(|(best, _)| *best);
        let is_worse = |rank: &EvictionRank| best.is_some_and(|best| *rank >= best);
        if self.steps > STEPS_MAX || is_worse(&rank) {
            return;
        }
        if self.search.is_enough(&missing, &self.chosen) {
            self.best = Some((rank, self.chosen.clone()));
            return;
        }
        let Some(kind) = self.kinds.get(place) else { return };
        // There is room, and it is devices or ports that are short: who is left may not have them.
        if is_covered(&missing) && !self.would_be_enough(place, &missing) {
            return;
        }
        let rest = &self.rest[place];
        let room = self.search.most.saturating_sub(self.chosen.len());
        if rest.is_never_enough(&missing, room) || is_worse(&rest.at_least(&missing, rank)) {
            return;
        }
        let most = self.of_use(kind, &missing).min(kind.members.len()).min(room);
        // As many as are of use first, and then ever fewer.
        let ranks: Vec<EvictionRank> = kind.members[..most]
            .iter()
            .scan(rank, |rank, tenant| {
                *rank = rank.with(tenant);
                Some(*rank)
            })
            .collect();
        for count in (0..=most).rev() {
            let times = i64::try_from(count).unwrap_or(i64::MAX);
            let left = less(missing, &kind.parts.map(|part| part.saturating_mul(times)));
            let with = count.checked_sub(1).map_or(rank, |last| ranks[last]);
            let before = self.chosen.len();
            self.chosen.extend_from_slice(&kind.members[..count]);
            self.go(place + 1, left, with);
            self.chosen.truncate(before);
        }
    }

    /// Whether those who are chosen, and all who may still be, are enough.
    fn would_be_enough(&mut self, place: usize, missing: &Parts) -> bool {
        let before = self.chosen.len();
        let kinds = self.kinds;
        kinds[place..].iter().for_each(|kind| self.chosen.extend_from_slice(&kind.members));
        self.steps += 1 + u32::try_from(self.chosen.len() / TENANTS_A_STEP).unwrap_or(STEPS_MAX);
        let enough = self.search.is_enough(missing, &self.chosen);
        self.chosen.truncate(before);
        enough
    }

    /// How many of a kind cover all that they can cover of what is missing.
    fn of_use(&self, kind: &Kind, missing: &Parts) -> usize {
        let covered = missing.iter().zip(kind.parts).filter(|(missing, part)| **missing > 0 && *part > 0);
        let most = covered.map(|(&missing, part)| (missing + part - 1) / part).max().unwrap_or(0);
        let special = kind.members.first().is_some_and(|tenant| tenant.is_special);
        usize::try_from(most).unwrap_or(usize::MAX).max(usize::from(special && self.search.wanting.enough.is_some()))
    }
}
