//! The room of all machines in packed columns, so that looking at every machine is a short scan.
//!
//! The columns are rounded to whole units, and rank; what is exactly free stands beside them, and decides. Only rows that changed are read from the
//! cell again, and each block of rows knows when that last happened, so that whoever derived something from it derives only that anew.

mod eligible;

use std::collections::BTreeMap;

use plenum_model::{Cell, JobId, MachineState, Requirement, Resources, Room};

pub use eligible::Eligible;

use crate::kernel::BLOCK;
use crate::scoring::Amounts;
use eligible::EligibleSets;

/// Free CPU of a machine that takes no claims: no need is that small.
const CLOSED: i32 = -1;

/// Bytes of a unit of memory and disk in the columns.
pub(crate) const UNIT_BYTES: u64 = 1 << 20;

/// What a placement decision looks at.
#[derive(Clone, Debug, Default)]
pub struct Columns {
    rows: u32,
    /// CPU, memory and disk that are free and not promised, in whole units, at least 0; `CLOSED` for CPU where nothing may be claimed. All columns
    /// are as long as there are blocks, and closed behind the last row.
    pub(crate) free: [Vec<[i32; BLOCK]>; 3],
    pub(crate) capacity: [Vec<[f32; BLOCK]>; 3],
    /// One over the capacity, 0 where there is none.
    pub(crate) per_capacity: [Vec<[f32; BLOCK]>; 3],
    /// Exactly what is free: less what is promised, and less what any job holds.
    pub(crate) rooms: Vec<Room>,
    classes: Vec<u32>,
    /// Which numbers of classes these are.
    class_numbering: u64,
    /// The largest amount of each resource on any machine. Invariant: no machine has more; and some machine has as much, unless `may_be_less`.
    largest: Amounts,
    /// A machine that had as much has less now: whether another one has as much is not known before all rows are read.
    may_be_less: bool,
    /// Room that is spoken for, by machine slot. Invariant: `rooms` have it subtracted.
    promised: BTreeMap<u32, Resources>,
    /// Rows whose promise came from `take`: they are read again when the columns follow the cell next time.
    taken: Vec<u32>,
    /// Rises with each change.
    pub(crate) stamp: u64,
    /// For each block, the stamp of its last change.
    pub(crate) changed: Vec<u64>,
    sets: EligibleSets,
    /// Looks at all machines for the largest amounts.
    #[cfg(test)]
    pub(crate) looks: u32,
}

impl Columns {
    /// Brings the columns to the state of `cell`, with `promised` of each machine spoken for, usually by the scheduler's own
    /// transactions in flight. What was taken with [`Columns::take`] before is forgotten.
    ///
    /// `changed` has the slots of the machines that changed since the last call, in any order; `None` stands for "any, or
    /// another cell", and reads all of them. Promises are compared, and need not be in it.
    pub fn follow(&mut self, cell: &Cell, changed: Option<&[u32]>, promised: &BTreeMap<u32, Resources>) {
        self.stamp += 1;
        let rows = cell.machine_rows().len();
        let before = std::mem::replace(&mut self.promised, promised.clone());
        let taken = std::mem::take(&mut self.taken);
        let same_classes = self.class_numbering == cell.class_numbering();
        let Some(changed) = changed.filter(|_| same_classes) else {
            // Numbers of classes, too, mean something only within one cell, and there only until they are given anew.
            let promised = std::mem::take(&mut self.promised);
            let class_numbering = cell.class_numbering();
            *self = Self { promised, stamp: self.stamp, class_numbering, ..Self::default() };
            self.resize(rows);
            (0..rows).for_each(|slot| self.read(cell, slot));
            return self.know_largest(&Amounts::default());
        };
        let (known, largest) = (self.rows, self.largest);
        self.resize(rows);
        (known..rows).for_each(|slot| self.read(cell, slot));
        for &slot in changed {
            self.read(cell, slot);
            self.touch(slot);
        }
        for &slot in taken.iter().chain(before.keys()).chain(promised.keys()) {
            self.read(cell, slot);
        }
        self.know_largest(&largest);
    }

    /// Says that something about a machine changed that a scoring's own columns have, and these do not.
    pub fn touch(&mut self, slot: u32) {
        if let Some(changed) = self.changed.get_mut(slot as usize / BLOCK) {
            self.stamp += 1;
            *changed = self.stamp;
        }
    }

    /// Sets room on a machine aside, for a task that was just placed there.
    pub fn take(&mut self, slot: u32, amount: &Resources) {
        let promise = self.promised.entry(slot).or_default();
        let before = *promise;
        // A sum beyond all bounds cannot come from tasks that fitted; it would only close the machine.
        *promise = promise.checked_add(amount).unwrap_or(Resources::new(u64::MAX / 4, u64::MAX / 4));
        let after = *promise;
        self.taken.push(slot);
        self.promise_changed(slot, &before, &after);
    }

    /// Takes back what was set aside on a machine, for a task that is not placed there after all.
    pub fn give(&mut self, slot: u32, amount: &Resources) {
        let Some(promise) = self.promised.get_mut(&slot) else { return };
        let before = *promise;
        *promise = promise.without(amount);
        let after = *promise;
        self.promise_changed(slot, &before, &after);
    }

    /// What is spoken for on a machine.
    #[must_use]
    pub fn promised(&self, slot: u32) -> Resources {
        self.promised.get(&slot).copied().unwrap_or_default()
    }

    /// Slots of machines of which something is spoken for, rising.
    pub fn promised_slots(&self) -> impl Iterator<Item = u32> {
        self.promised.keys().copied()
    }

    /// Slots of machines, from 0.
    #[must_use]
    pub const fn rows(&self) -> u32 {
        self.rows
    }

    /// The largest amount of each resource on any machine of the cell.
    #[must_use]
    pub const fn largest(&self) -> &Amounts {
        &self.largest
    }

    /// What is exactly free on a machine, less what is promised and what any job holds there; `None` where nothing may be claimed.
    #[must_use]
    pub fn room(&self, slot: u32) -> Option<&Room> {
        if self.is_open(slot) { self.rooms.get(slot as usize) } else { None }
    }

    /// What there is on a machine, and one over it.
    pub(crate) fn capacities(&self, slot: u32) -> [Amounts; 2] {
        let (block, lane) = place(slot);
        [&self.capacity, &self.per_capacity].map(|columns| {
            let amount = |resource: usize| columns[resource].get(block).map_or(0.0, |rows| rows[lane]);
            Amounts { cpu_millis: amount(0), memory_mib: amount(1), disk_mib: amount(2) }
        })
    }

    fn is_open(&self, slot: u32) -> bool {
        let (block, lane) = place(slot);
        self.free[0].get(block).is_some_and(|rows| rows[lane] != CLOSED)
    }

    fn promise_changed(&mut self, slot: u32, before: &Resources, after: &Resources) {
        if !self.is_open(slot) {
            return;
        }
        let room = &mut self.rooms[slot as usize];
        room.add(before);
        room.take(after);
        let units = units(room);
        self.write_free(slot, units);
    }

    fn write_free(&mut self, slot: u32, units: [i32; 3]) {
        let (block, lane) = place(slot);
        self.stamp += 1;
        self.changed[block] = self.stamp;
        for (column, amount) in self.free.iter_mut().zip(units) {
            column[block][lane] = amount;
        }
    }

    fn resize(&mut self, rows: u32) {
        let blocks = (rows as usize).div_ceil(BLOCK);
        self.rows = rows;
        self.free[0].resize(blocks, [CLOSED; BLOCK]);
        self.free[1..].iter_mut().for_each(|column| column.resize(blocks, [0; BLOCK]));
        let capacities = self.capacity.iter_mut().chain(&mut self.per_capacity);
        capacities.for_each(|column| column.resize(blocks, [0.0; BLOCK]));
        self.rooms.resize(rows as usize, Room::default());
        self.classes.resize(rows as usize, u32::MAX);
        self.changed.resize(blocks, self.stamp);
        if let Some(last) = self.free[0].last_mut() {
            last[(rows as usize - 1) % BLOCK + 1..].fill(CLOSED);
        }
    }

    fn read(&mut self, cell: &Cell, slot: u32) {
        if slot >= self.rows {
            return;
        }
        let row = slot as usize;
        let (mut free, mut capacity) = ([CLOSED, 0, 0], Amounts::default());
        if let Some(machine) = cell.machine_in(slot).filter(|machine| machine.state != MachineState::Gone) {
            capacity = Amounts::of(units(&Room::all_of(&machine.capacity)));
        }
        let class = cell.machine_row(slot).map_or(u32::MAX, |row| row.class);
        if class != self.classes[row] {
            self.classes[row] = class;
            self.sets.class_changed(slot);
        }
        self.read_capacity(slot, &capacity);
        let mut exact = Room::default();
        // A task that needs nothing may run wherever anything may: the shared judgement says where that is.
        if nothing().obstacle(cell, slot, &Resources::default()).is_none() {
            exact = cell.room_for(slot, nothing().job);
            exact.take(&self.promised(slot));
            free = units(&exact);
        }
        let (block, lane) = place(slot);
        // Some bytes more or less may not show in the units.
        if self.free.each_ref().map(|column| column[block][lane]) != free || self.rooms[row] != exact {
            self.rooms[row] = exact;
            self.write_free(slot, free);
        }
    }

    fn read_capacity(&mut self, slot: u32, capacity: &Amounts) {
        let [before, _] = self.capacities(slot);
        if before == *capacity {
            return;
        }
        let (block, lane) = place(slot);
        let write = |columns: &mut [Vec<[f32; BLOCK]>; 3], amounts: &Amounts| {
            let all = [amounts.cpu_millis, amounts.memory_mib, amounts.disk_mib];
            columns.iter_mut().zip(all).for_each(|(column, amount)| column[block][lane] = amount);
        };
        write(&mut self.capacity, capacity);
        write(&mut self.per_capacity, &capacity.inverse());
        let Amounts { cpu_millis, memory_mib, disk_mib } = self.largest;
        let shrinks = |before: f32, now: f32, most: f32| before == most && now < before;
        self.may_be_less |= shrinks(before.cpu_millis, capacity.cpu_millis, cpu_millis)
            || shrinks(before.memory_mib, capacity.memory_mib, memory_mib)
            || shrinks(before.disk_mib, capacity.disk_mib, disk_mib);
        self.largest = self.largest.upper(capacity);
        self.touch(slot);
    }

    /// Brings the largest amounts up to date, which were `before` when rows began to be read: one look at all machines, however many have less now.
    fn know_largest(&mut self, before: &Amounts) {
        if std::mem::take(&mut self.may_be_less) {
            let amounts = |slot: u32| self.capacities(slot)[0];
            self.largest = (0..self.rows).fold(Amounts::default(), |most, slot| most.upper(&amounts(slot)));
            #[cfg(test)]
            {
                self.looks += 1;
            }
        }
        if self.largest != *before {
            // What whole machines are worth depends on it, and so do costs of all.
            self.stamp += 1;
            self.changed.fill(self.stamp);
        }
    }
}

/// A task that asks for nothing, of no job.
fn nothing() -> Requirement<'static> {
    const NOTHING: &Resources = &Resources::new(0, 0);
    Requirement { resources: NOTHING, classes: None, home: None, job: JobId::default(), special: None }
}

/// Block and row within it.
pub(crate) const fn place(slot: u32) -> (usize, usize) {
    (slot as usize / BLOCK, slot as usize % BLOCK)
}

/// Amounts as the columns keep them: whole units, rounded down, 0 where less than nothing is free: who asks for none of it is let in, and
/// nobody else.
pub(crate) fn units(room: &Room) -> [i32; 3] {
    let whole = |amount: i64| i32::try_from(amount.max(0)).unwrap_or(i32::MAX);
    let mib = |bytes: i64| whole(bytes.max(0) / UNIT_BYTES.cast_signed());
    [whole(room.0[0]), mib(room.0[1]), mib(room.0[2])]
}
