//! Preemption of least cost: on which machine, and whom, to evict for a task that fits nowhere as things are.
//!
//! The order of the costs is that of Kubernetes' scheduler (its plugin `DefaultPreemption`, where it picks among candidates): fewest
//! disruption budgets violated, then the lowest highest priority among the victims, then the smallest sum of their priorities, then fewest of them, then the ones
//! that started last. In the place of budgets stand gangs and jobs that share a machine, of which one eviction spoils more than one task; they come behind the highest band:
//! whoever goes in the place of a gang of a lower band would evict that gang in its turn. Bands, of which only lower ones can be evicted, are Borg's (Verma and others,
//! EuroSys 2015, §2.5), and against such cascades, too.
//!
//! [`Tenants`] are read from a cell once for many questions. [`least`] is the answer for one machine, exact as long as that is a short search;
//! [`Cheapest`] goes through all machines, for one task after the other. Nothing here evicts: who is chosen is named in a transaction, and
//! the cell decides.

mod cheapest;
mod least;
mod tenants;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use plenum_model::{AllocationId, Resources, Revision};

pub use cheapest::{Cheapest, Found};
pub use least::least;
pub use tenants::{Tenant, Tenants};

/// What it costs to evict some tasks. The smallest is best; fields are compared from the top, and each only grows with a further victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EvictionRank {
    /// The highest band among the victims, plus one; 0 where there are none.
    pub band: u8,
    /// Victims whose job is spoilt as a whole: of gangs, and of jobs whose tasks share a machine.
    pub torn: u32,
    /// The highest priority among the victims, plus one.
    pub highest: u8,
    /// The sum of their priorities, each plus one, so that one of priority 0 is not for nothing.
    pub priorities: u32,
    /// Victims that would run for ever: of batch work some is lost, and of a service what it does.
    pub services: u32,
    /// How many.
    pub victims: u32,
    /// Tasks of the group on that machine, where they are to be spread.
    pub siblings: u32,
    /// The grant of the oldest one: of equal ones on a machine those go that have done least.
    pub oldest: Reverse<Revision>,
    /// Breaks ties, so that a run can be replayed.
    pub machine: u32,
}

impl EvictionRank {
    /// Nobody is evicted.
    #[must_use]
    pub const fn nobody(machine: u32) -> Self {
        let oldest = Reverse(Revision(u64::MAX));
        Self { band: 0, torn: 0, highest: 0, priorities: 0, services: 0, victims: 0, siblings: 0, oldest, machine }
    }

    /// All that counts between machines. Ages don't: to compare them, each tenant of each machine that is as good as another would have to be looked at.
    #[must_use]
    pub const fn price(&self) -> (u8, u32, u8, u32, u32, u32, u32) {
        (self.band, self.torn, self.highest, self.priorities, self.services, self.victims, self.siblings)
    }

    /// One more.
    #[must_use]
    pub fn with(mut self, victim: &Tenant) -> Self {
        self.band = self.band.max(victim.priority / 10 + 1);
        self.torn += u32::from(victim.is_torn);
        self.highest = self.highest.max(victim.priority.saturating_add(1));
        self.priorities += u32::from(victim.priority) + 1;
        self.services += u32::from(victim.is_service);
        self.victims += 1;
        self.oldest = self.oldest.max(Reverse(victim.created));
        self
    }
}

/// Asked of the machine in a slot, and of those who leave it besides those who do anyway.
pub type Enough<'a> = dyn Fn(u32, &[AllocationId]) -> bool + 'a;

/// A task that needs room.
#[derive(Clone, Copy)]
pub struct Wanting<'a> {
    /// How much.
    pub resources: &'a Resources,
    /// The band of its job, priority / 10: only lower ones are victims.
    pub band: u8,
    /// Whether the machine in a slot has what else it needs (devices, ports), when these leave besides those who do anyway. Holds of more of them, if it holds
    /// of some. Asked only where the room is enough, and about those alone who have devices or ports.
    pub enough: Option<&'a Enough<'a>>,
    /// Tasks of its group by machine, where they are to be spread: of equal machines one with the fewest is taken.
    pub siblings: Option<&'a BTreeMap<u32, u32>>,
}

impl<'a> Wanting<'a> {
    /// Room alone, wherever it is.
    #[must_use]
    pub const fn new(resources: &'a Resources, band: u8) -> Self {
        Self { resources, band, enough: None, siblings: None }
    }

    fn siblings_on(&self, machine: u32) -> u32 {
        self.siblings.and_then(|siblings| siblings.get(&machine)).copied().unwrap_or(0)
    }
}

impl fmt::Debug for Wanting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wanting({:?}, band {})", self.resources, self.band)
    }
}

/// A machine on which the task fits once the victims have left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// What it costs, and on which machine.
    pub rank: EvictionRank,
    /// Who goes, the cheapest first. Empty: what leaves anyway is enough, or what is free.
    pub victims: Vec<AllocationId>,
}

#[cfg(test)]
mod tests;
