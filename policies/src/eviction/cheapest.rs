//! The machine on which the evictions cost least, for one task after the other.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use plenum_model::{Resource, Room};

use super::least::search;
use super::{Eviction, EvictionRank, Tenants, Wanting};

/// So many entries are gone through in the time of a look at a tenant.
const ENTRIES_A_LOOK: usize = 16;

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// There.
    Here(Eviction),
    /// On no machine.
    Nowhere,
    /// The tenants that were to be looked at were used up before it was found. The next question goes on.
    Unsure,
}

/// Machines by what an eviction costs there at least. A cost depends on its own machine alone and, while tasks are placed, falls only where victims were chosen: so
/// hardly a machine is searched twice, and most are never: sums by band tell that they cost more, or have not enough. Of machines of equal price
/// the first one that was found so is taken.
#[derive(Clone, Debug, Default)]
pub struct Cheapest {
    heap: BinaryHeap<Reverse<(EvictionRank, u32)>>,
    /// Tasks of a group that the heap counts, by machine. Where the group that asks has fewer, it would be told that a machine costs more than it does.
    siblings: BTreeMap<u32, u32>,
    /// How many of the machines on which somebody was chosen it has heard of.
    heard: usize,
}

impl Cheapest {
    /// For equal tasks that may run on these machines, of each of which so much is free.
    #[must_use]
    pub fn new(tenants: &Tenants, machines: impl Iterator<Item = (u32, Room)>, wanting: &Wanting<'_>) -> Self {
        let entries = machines.filter_map(|(machine, free)| at_least(tenants, machine, &free, wanting));
        Self {
            heap: entries.map(|rank| Reverse((rank, rank.machine))).collect(),
            heard: tenants.touched.len(),
            ..Self::default()
        }
    }

    /// The best machine for one task. `free`: what is free there now, `None` where no further task may go. Looks at so many tenants, with the steps of searches among
    /// them, and not many more, and takes off `budget` what it looked at. Where that is not enough for the best one, it is the best of those that were looked at.
    pub fn next(
        &mut self,
        tenants: &Tenants,
        free: impl Fn(u32) -> Option<Room>,
        wanting: &Wanting<'_>,
        budget: &mut usize,
    ) -> Found {
        for &machine in tenants.touched.iter().skip(self.heard) {
            self.add(tenants, machine, &free, wanting);
        }
        self.heard = tenants.touched.len();
        let mut cheapest: Option<Eviction> = None;
        let mut is_of_this_group = false;
        while let Some(&Reverse((_, machine))) = self.heap.peek() {
            if *budget == 0 {
                return cheapest.map_or(Found::Unsure, Found::Here);
            }
            self.heap.pop();
            self.siblings.remove(&machine);
            let Some(free) = free(machine) else { continue };
            let (found, looked_at) = search(tenants, machine, &free, wanting);
            *budget = budget.saturating_sub(looked_at);
            let Some(mut found) = found else { continue };
            // Nobody's are known before somebody asks: a group's siblings are its own, and the heap is of all that need the same.
            found.rank.siblings = wanting.siblings_on(machine);
            if found.rank.siblings > 0 && !is_of_this_group {
                self.forget_others(wanting, budget);
                is_of_this_group = true;
            }
            let is_best = |Reverse((next, _)): &Reverse<(EvictionRank, u32)>| found.rank.price() <= next.price();
            if self.heap.peek().is_none_or(is_best) {
                // Another task may go there, too. Where somebody was chosen, that is heard of.
                if found.victims.is_empty() {
                    self.put(found.rank);
                }
                return Found::Here(found);
            }
            self.put(found.rank);
            if cheapest.as_ref().is_none_or(|cheapest| found.rank.price() < cheapest.rank.price()) {
                cheapest = Some(found);
            }
        }
        Found::Nowhere
    }

    fn put(&mut self, rank: EvictionRank) {
        if rank.siblings > 0 {
            self.siblings.insert(rank.machine, rank.siblings);
        }
        self.heap.push(Reverse((rank, rank.machine)));
    }

    /// Counts nobody's siblings any more if the group that asks has fewer somewhere: they are another group's.
    fn forget_others(&mut self, wanting: &Wanting<'_>, budget: &mut usize) {
        let mut has = wanting.siblings.into_iter().flatten().peekable();
        let mut looks = (self.siblings.len() + wanting.siblings.map_or(0, BTreeMap::len)) / ENTRIES_A_LOOK;
        let are_its_own = self.siblings.iter().all(|(machine, count)| {
            while has.next_if(|(other, _)| *other < machine).is_some() {}
            has.next_if(|(other, _)| *other == machine).is_some_and(|(_, has)| has >= count)
        });
        if !are_its_own {
            self.siblings.clear();
            looks += self.heap.len() / ENTRIES_A_LOOK;
            let entries = std::mem::take(&mut self.heap).into_iter();
            let forget = |Reverse((rank, machine))| Reverse((EvictionRank { siblings: 0, ..rank }, machine));
            self.heap = entries.map(forget).collect();
        }
        *budget = budget.saturating_sub(looks);
    }

    fn add(&mut self, tenants: &Tenants, machine: u32, free: &impl Fn(u32) -> Option<Room>, wanting: &Wanting<'_>) {
        let rank = free(machine).and_then(|free| at_least(tenants, machine, &free, wanting));
        self.heap.extend(rank.map(|rank| Reverse((rank, machine))));
    }
}

/// What an eviction costs there at least; `None`: there is not enough to evict.
fn at_least(tenants: &Tenants, machine: u32, free: &Room, wanting: &Wanting<'_>) -> Option<EvictionRank> {
    let coming = tenants.coming(machine, free, wanting.band);
    let nobody = EvictionRank::nobody(machine);
    if coming.shortage(wanting.resources).is_none() {
        return Some(nobody);
    }
    let levels = tenants.levels(machine, &coming, wanting.resources, wanting.band)?;
    let (first, last) = (levels.first()?, levels.last()?);
    // Somebody of the last band goes, and as many in all as it takes when each has as much as the largest.
    let lack = coming.lack(wanting.resources);
    let victims = Resource::ALL.map(|resource| {
        let most = u64::try_from(last.most.get(resource)).unwrap_or(0).max(1);
        u32::try_from(lack.get(resource).div_ceil(most)).unwrap_or(u32::MAX)
    });
    let victims = victims.into_iter().max().unwrap_or(1).max(1);
    let highest = last.lowest.saturating_add(1);
    let others = (victims - 1).saturating_mul(u32::from(first.lowest) + 1);
    let priorities = u32::from(highest).saturating_add(others);
    Some(EvictionRank { band: last.band.saturating_add(1), highest, priorities, victims, ..nobody })
}
