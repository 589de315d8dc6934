//! The load of the bare cell: claims on machines drawn at random, as many stops of live allocations drawn at random, and a rival to whom five
//! claims of a hundred lose.

use super::wire::{Outcome, Transaction};
use crate::random::Random;

/// What each task gets. Machines have room for `FITTING` of them, and get 100 on average: 60% used, and none is ever full by chance.
const CPU_MILLIS: u32 = 100;
const MEMORY_BYTES: u64 = 64 << 20;
/// Live allocations a machine.
const TENANTS: u32 = 100;
const FITTING: u32 = 168;
/// Machines that the rival keeps full.
pub(super) const RACES: u32 = 8;
const LOSERS_PERCENT: u32 = 5;

/// Draws transactions, and follows what becomes of them.
pub(crate) struct Load {
    random: Random,
    machines: u32,
    number: u64,
    task: u32,
    losers_due: u32,
    live: Vec<u64>,
    /// What the rival has.
    raced: Vec<u64>,
}

impl Load {
    /// For a cell of so many machines, of which the last few are the rival's.
    pub(crate) fn new(machines: u32, seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            machines: machines - RACES,
            number: 0,
            task: 0,
            losers_due: 0,
            live: Vec::new(),
            raced: Vec::new(),
        }
    }

    /// What each machine has.
    pub(crate) const fn capacity() -> (u32, u64) {
        (CPU_MILLIS * FITTING, MEMORY_BYTES * FITTING as u64)
    }

    /// How many allocations are live in the steady state.
    pub(crate) fn aim(&self) -> usize {
        (self.machines * TENANTS) as usize
    }

    /// Allocations that are there as far as it knows, the rival's left out.
    pub(crate) fn live(&self) -> usize {
        self.live.len()
    }

    /// So many claims, and as many stops if the cell is filled; with `race` some of them lose.
    pub(crate) fn transaction(&mut self, base: u64, claims: u32, stops: bool, race: bool) -> Transaction {
        self.losers_due += if race { claims * LOSERS_PERCENT } else { 0 };
        let losers = self.losers_due / 100;
        self.losers_due %= 100;
        let machines = (0..claims).map(|claim| match claim < losers {
            true => self.machines + claim % RACES,
            false => self.random.below(self.machines),
        });
        let machines = machines.collect();
        let tasks = (self.task..self.task + claims).collect();
        self.task = (self.task + claims) % (1 << 20);
        let stopped = if stops { (claims - losers) as usize } else { 0 };
        let mut victims = Vec::with_capacity(stopped);
        while victims.len() < stopped && !self.live.is_empty() {
            let victim = self.random.below(u32::try_from(self.live.len()).expect("rows have 32 bits"));
            victims.push(self.live.swap_remove(victim as usize));
        }
        self.shaped(base, machines, tasks, victims, (CPU_MILLIS, MEMORY_BYTES))
    }

    /// The rival gives its machines up.
    pub(crate) fn give_up(&mut self, base: u64) -> Transaction {
        let stops = std::mem::take(&mut self.raced);
        self.shaped(base, Vec::new(), Vec::new(), stops, Self::capacity())
    }

    /// The rival takes all room of its machines, and gives up before what it still has of it.
    pub(crate) fn race(&mut self, base: u64) -> Transaction {
        let machines = (self.machines..self.machines + RACES).collect();
        let stops = std::mem::take(&mut self.raced);
        self.shaped(base, machines, (0..RACES).collect(), stops, Self::capacity())
    }

    fn shaped(
        &mut self,
        base: u64,
        machines: Vec<u32>,
        tasks: Vec<u32>,
        stops: Vec<u64>,
        (cpu_millis, memory_bytes): (u32, u64),
    ) -> Transaction {
        self.number += 1;
        Transaction { number: self.number, base, job: 1, cpu_millis, memory_bytes, machines, tasks, stops }
    }

    /// Takes note of what was granted.
    pub(crate) fn follow(&mut self, outcome: &Outcome) {
        self.live.extend(outcome.allocations.iter().filter(|id| **id != 0));
    }

    /// The same of the rival's.
    pub(crate) fn follow_race(&mut self, outcome: &Outcome) {
        self.raced.extend(outcome.allocations.iter().filter(|id| **id != 0));
    }
}
