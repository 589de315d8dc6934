//! The bare resolver: rows in pages, a fit check, a ring of changes that gives culprits, deltas in columns, numbers that count once.
//!
//! A stop frees the room at once, as nobody reports; there are no rules, groups, devices, quotas or snapshots.

use std::collections::{HashMap, VecDeque};

use anyhow::{Context, ensure};
use plenum_model::prefetch;

use super::pages::Pages;
use super::wire::{Outcome, Transaction};

const MACHINES_A_PAGE: usize = 256;
const ALLOCATIONS_A_PAGE: usize = 64;
const STATES_A_PAGE: usize = 4096;
/// A page of allocations is filled again when it has so many free rows.
const WORTH_FILLING: u32 = 16;
/// Changes that the ring has: 16 MiB.
const RING: usize = 1 << 19;
/// Transactions whose numbers are remembered.
const NUMBERS: usize = 100_000;
/// So many steps ahead rows are asked for: what a transaction names, and what is found through that.
const NAMED_AHEAD: usize = 24;
const FOUND_AHEAD: usize = 12;

const FREE: u8 = 0;
const LIVE: u8 = 1;

/// What changes of a machine, 32 bytes.
#[derive(Clone, Copy, Default)]
struct Machine {
    free_cpu_millis: u32,
    count: u32,
    free_memory_bytes: u64,
    last_change: u64,
    last_entry: u32,
    /// Stands for what a row has besides, so that it is as long.
    _rest: u32,
}

/// Written once, at the grant: a cache line.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
#[allow(dead_code, reason = "written as a cell has to, and read by nobody here")]
struct Allocation {
    job: u32,
    task: u32,
    machine: u32,
    generation: u32,
    cpu_millis: u32,
    version: u32,
    memory_bytes: u64,
    created: u64,
    number: u64,
}

/// One grant or stop, in the chain of its machine; 32 bytes.
#[derive(Clone, Copy, Default)]
struct Change {
    revision: u64,
    previous: u32,
    /// Taken, or given back if negative.
    cpu_millis: i32,
    memory_bytes: i64,
    number: u64,
}

/// What became of the claims of a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) granted: u64,
    pub(crate) refused: u64,
    /// Of these, claims that somebody else's grant after the base stood in the way of.
    pub(crate) with_culprit: u64,
}

/// The bare cell.
pub(crate) struct Cell {
    machines: Pages<Machine, MACHINES_A_PAGE>,
    allocations: Pages<Allocation, ALLOCATIONS_A_PAGE>,
    states: Pages<u8, STATES_A_PAGE>,
    /// By page of allocations, a bit for each free row.
    free: Vec<u64>,
    /// Pages that are worth filling, oldest first, and whether a page is among them.
    pages: VecDeque<u32>,
    queued: Vec<bool>,
    filling: usize,
    ring: Vec<Change>,
    /// Entries of the ring so far; the first has number 1.
    changes: u32,
    numbers: HashMap<u64, u64>,
    order: VecDeque<u64>,
    revision: u64,
    live: u64,
}

fn low(id: u64) -> u32 {
    u32::try_from(id & u64::from(u32::MAX)).expect("the low half")
}

impl Cell {
    /// A cell of machines that have so much each, without allocations.
    pub(crate) fn new(machines: u32, cpu_millis: u32, memory_bytes: u64) -> Self {
        let machine = Machine { free_cpu_millis: cpu_millis, free_memory_bytes: memory_bytes, ..Machine::default() };
        Self {
            machines: Pages::filled(machines as usize, machine),
            allocations: Pages::filled(0, Allocation::default()),
            states: Pages::filled(0, FREE),
            free: Vec::new(),
            pages: VecDeque::new(),
            queued: Vec::new(),
            filling: 0,
            ring: vec![Change::default(); RING],
            changes: 0,
            numbers: HashMap::with_capacity(NUMBERS + 1),
            order: VecDeque::with_capacity(NUMBERS + 1),
            revision: 0,
            live: 0,
        }
    }

    /// The number of the last decided transaction.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Allocations that are there.
    pub(crate) fn live(&self) -> u64 {
        self.live
    }

    /// Decides a transaction; what changed is appended to `delta`, in columns of variable-length numbers. `outcome` is written anew.
    ///
    /// # Errors
    /// When it stops what is not there, or its number was there before: the load is wrong.
    pub(crate) fn decide(
        &mut self,
        transaction: &Transaction,
        outcome: &mut Outcome,
        delta: &mut Vec<u8>,
    ) -> anyhow::Result<Counted> {
        self.revision += 1;
        ensure!(self.numbers.insert(transaction.number, self.revision).is_none(), "a number was used twice");
        self.order.push_back(transaction.number);
        if self.order.len() > NUMBERS {
            let oldest = self.order.pop_front().expect("it has many");
            self.numbers.remove(&oldest);
        }
        outcome.number = transaction.number;
        outcome.revision = self.revision;
        outcome.allocations.clear();
        put(delta, self.revision);
        self.stop(transaction, delta)?;
        Ok(self.grant(transaction, outcome, delta))
    }

    fn stop(&mut self, transaction: &Transaction, delta: &mut Vec<u8>) -> anyhow::Result<()> {
        let stops = &transaction.stops;
        put(delta, stops.len() as u64);
        for (step, &id) in stops.iter().enumerate() {
            if let Some(&coming) = stops.get(step + NAMED_AHEAD) {
                let coming = low(coming) as usize;
                prefetch(&self.allocations[coming]);
                prefetch(&self.states[coming]);
            }
            if let Some(&coming) = stops.get(step + FOUND_AHEAD) {
                let machine = self.allocations[low(coming) as usize].machine;
                prefetch(&self.machines[machine as usize]);
            }
            let slot = low(id) as usize;
            let state = &mut self.states[slot];
            let row = self.allocations[slot];
            ensure!(*state == LIVE && u64::from(row.generation) == id >> 32, "a stop of what is not there");
            *state = FREE;
            self.live -= 1;
            let page = slot / ALLOCATIONS_A_PAGE;
            self.free[page] |= 1 << (slot % ALLOCATIONS_A_PAGE);
            if self.free[page].count_ones() == WORTH_FILLING && !std::mem::replace(&mut self.queued[page], true) {
                self.pages.push_back(u32::try_from(page).context("pages have 32 bits")?);
            }
            let machine = &mut self.machines[row.machine as usize];
            machine.free_cpu_millis += row.cpu_millis;
            machine.free_memory_bytes += row.memory_bytes;
            machine.count -= 1;
            let taken = (-i32::try_from(row.cpu_millis)?, -i64::try_from(row.memory_bytes)?);
            note(&mut self.ring, &mut self.changes, machine, self.revision, taken, transaction.number);
            put(delta, slot as u64);
        }
        Ok(())
    }

    fn grant(&mut self, transaction: &Transaction, outcome: &mut Outcome, delta: &mut Vec<u8>) -> Counted {
        let mut counted = Counted::default();
        let (cpu, memory) = (transaction.cpu_millis, transaction.memory_bytes);
        put(delta, transaction.machines.len() as u64);
        for (step, (&number, &task)) in transaction.machines.iter().zip(&transaction.tasks).enumerate() {
            if let Some(&coming) = transaction.machines.get(step + FOUND_AHEAD) {
                prefetch(&self.machines[coming as usize]);
            }
            let machine = &self.machines[number as usize];
            if machine.free_cpu_millis < cpu || machine.free_memory_bytes < memory {
                counted.refused += 1;
                counted.with_culprit += u64::from(self.culprit(machine, transaction).is_some());
                outcome.allocations.push(0);
                continue;
            }
            let slot = self.free_row();
            let machine = &mut self.machines[number as usize];
            machine.free_cpu_millis -= cpu;
            machine.free_memory_bytes -= memory;
            machine.count += 1;
            let taken = (cpu.cast_signed(), memory.cast_signed());
            note(&mut self.ring, &mut self.changes, machine, self.revision, taken, transaction.number);
            let row = &mut self.allocations[slot];
            let generation = row.generation + 1;
            *row = Allocation {
                job: transaction.job,
                task,
                machine: number,
                generation,
                cpu_millis: cpu,
                version: 1,
                memory_bytes: memory,
                created: self.revision,
                number: transaction.number,
            };
            self.states[slot] = LIVE;
            self.live += 1;
            counted.granted += 1;
            outcome.allocations.push(u64::from(generation) << 32 | slot as u64);
            put(delta, number.into());
            put(delta, slot as u64);
            put(delta, generation.into());
            put(delta, task.into());
        }
        counted
    }

    /// The newest grant on a machine after the base, where what stands in the way of a claim was free at the base: the chain of the machine is
    /// walked back to it. None where it never fitted, or the ring does not reach back.
    fn culprit(&self, machine: &Machine, transaction: &Transaction) -> Option<u64> {
        let (mut cpu, mut memory) = (i64::from(machine.free_cpu_millis), machine.free_memory_bytes.cast_signed());
        let (mut entry, mut culprit) = (machine.last_entry, None);
        while entry > 0 && self.changes - entry < u32::try_from(RING).expect("it is small") {
            let change = &self.ring[entry as usize % RING];
            if change.revision <= transaction.base {
                break;
            }
            cpu += i64::from(change.cpu_millis);
            memory += change.memory_bytes;
            if change.cpu_millis > 0 && culprit.is_none() {
                culprit = Some(change.number);
            }
            entry = change.previous;
        }
        let fitted = cpu >= i64::from(transaction.cpu_millis) && memory >= transaction.memory_bytes.cast_signed();
        culprit.filter(|_| fitted)
    }

    /// Takes a free row: of the page that is being filled, of the next one worth it, or of a new one.
    fn free_row(&mut self) -> usize {
        // One that was filled while it stood in the queue has none any more.
        while self.free.get(self.filling).is_none_or(|free| *free == 0) {
            self.filling = match self.pages.pop_front() {
                Some(page) => page as usize,
                None => self.new_page(),
            };
            self.queued[self.filling] = false;
        }
        let free = &mut self.free[self.filling];
        let row = free.trailing_zeros() as usize;
        *free &= *free - 1;
        self.filling * ALLOCATIONS_A_PAGE + row
    }

    fn new_page(&mut self) -> usize {
        let page = self.free.len();
        self.free.push(u64::MAX);
        self.queued.push(false);
        let rows = self.free.len() * ALLOCATIONS_A_PAGE;
        self.allocations.reach(rows, Allocation::default());
        self.states.reach(rows, FREE);
        page
    }

    /// Whether what machines have less is what live allocations have, and as many are live as were granted and not stopped.
    pub(crate) fn check(&self, capacity: (u64, u64)) -> anyhow::Result<()> {
        let live = self.allocations.iter().zip(self.states.iter()).filter(|(_, state)| **state == LIVE);
        let (mut used, mut count) = ((0, 0), 0);
        for (row, _) in live {
            used.0 += u64::from(row.cpu_millis);
            used.1 += row.memory_bytes;
            count += 1;
        }
        let free: (u64, u64) = self.machines.iter().fold((0, 0), |free, machine| {
            (free.0 + u64::from(machine.free_cpu_millis), free.1 + machine.free_memory_bytes)
        });
        ensure!(count == self.live, "{count} rows are live, and {} were counted", self.live);
        let all = self.machines.rows() as u64;
        let expected = (all * capacity.0, all * capacity.1);
        let found = (free.0 + used.0, free.1 + used.1);
        ensure!(expected == found, "machines have {expected:?}, and {found:?} is free or used");
        let tenants: u64 = self.machines.iter().map(|machine| u64::from(machine.count)).sum();
        ensure!(tenants == count, "machines count {tenants} allocations of {count}");
        Ok(())
    }
}

/// Appends to the ring, and to the chain of a machine.
fn note(ring: &mut [Change], changes: &mut u32, machine: &mut Machine, revision: u64, taken: (i32, i64), number: u64) {
    *changes += 1;
    let previous = std::mem::replace(&mut machine.last_entry, *changes);
    machine.last_change = revision;
    ring[*changes as usize % RING] = Change { revision, previous, cpu_millis: taken.0, memory_bytes: taken.1, number };
}

/// A number in as few bytes as it needs, seven bits each.
fn put(into: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        into.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    into.push((number & 0x7f) as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bare::Load;

    #[test]
    fn what_is_stopped_comes_back_and_who_loses_has_a_culprit() {
        let (cpu, memory) = Load::capacity();
        let (mut load, mut cell) = (Load::new(64, 7), Cell::new(64, cpu, memory));
        let (mut outcome, mut delta) = (Outcome::default(), Vec::new());
        while load.live() < load.aim() {
            let transaction = load.transaction(cell.revision(), 50, false, false);
            cell.decide(&transaction, &mut outcome, &mut delta).unwrap();
            load.follow(&outcome);
        }
        for _ in 0..200 {
            let given_up = load.give_up(cell.revision());
            cell.decide(&given_up, &mut outcome, &mut delta).unwrap();
            let base = cell.revision();
            let race = load.race(base);
            cell.decide(&race, &mut outcome, &mut delta).unwrap();
            load.follow_race(&outcome);
            let transaction = load.transaction(base, 100, true, true);
            let counted = cell.decide(&transaction, &mut outcome, &mut delta).unwrap();
            load.follow(&outcome);
            assert_eq!(counted, Counted { granted: 95, refused: 5, with_culprit: 5 });
        }
        assert_eq!(cell.live(), load.live() as u64 + 8);
        cell.check((cpu.into(), memory)).unwrap();
        let twice = Transaction { number: 1, ..Transaction::default() };
        assert!(cell.decide(&twice, &mut outcome, &mut delta).is_err());
    }
}
