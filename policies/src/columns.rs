//! The room of all machines in packed columns: 16 bytes a machine, so that looking at every machine is a short scan.

use std::collections::BTreeMap;

use plenum_model::{Cell, ClassSet, Constraint, MachineState, Resources};

/// Free CPU of a machine that takes no claims: no need is that small.
const CLOSED: i32 = i32::MIN;

/// Different lists of constraints whose classes are remembered. Far above what lives at once in a cell: past it, they are
/// judged anew.
const CONSTRAINT_LISTS_MAX: usize = 4096;

/// What a placement decision looks at: for each machine what is free and not promised, and its class.
#[derive(Clone, Debug, Default)]
pub struct Columns {
    /// Free less promised; `CLOSED` where nothing may be claimed.
    pub(crate) cpu_millis: Vec<i32>,
    /// Free less promised.
    pub(crate) memory_bytes: Vec<i64>,
    pub(crate) classes: Vec<u32>,
    /// Room that is spoken for, by machine slot. Invariant: the two room columns have it subtracted.
    promised: BTreeMap<u32, Resources>,
    /// Rows whose promise came from `take`: they are read again when the columns follow the cell next time.
    taken: Vec<u32>,
    sets: BTreeMap<Vec<Constraint>, ClassSet>,
}

impl Columns {
    /// Brings the columns to the state of `cell`, with `promised` of each machine spoken for, usually by the scheduler's own
    /// transactions in flight. What was taken with [`Columns::take`] before is forgotten.
    ///
    /// `changed` has the slots of the machines that changed since the last call, in any order; `None` stands for "any, or
    /// another cell", and reads all of them. Promises are compared, and need not be in it.
    pub fn follow(&mut self, cell: &Cell, changed: Option<&[u32]>, promised: &BTreeMap<u32, Resources>) {
        let rows = cell.machine_rows().len();
        let before = std::mem::replace(&mut self.promised, promised.clone());
        let taken = std::mem::take(&mut self.taken);
        let Some(changed) = changed else {
            // Numbers of classes mean something only within one cell.
            self.sets.clear();
            self.resize(rows);
            (0..rows).for_each(|slot| self.read(cell, slot));
            return;
        };
        let known = u32::try_from(self.cpu_millis.len()).expect("machine slots have 32-bit numbers");
        self.resize(rows);
        (known..rows).for_each(|slot| self.read(cell, slot));
        for &slot in changed.iter().chain(&taken).chain(before.keys()).chain(promised.keys()) {
            self.read(cell, slot);
        }
    }

    /// Sets room on a machine aside, for a task that was just placed there.
    pub fn take(&mut self, slot: u32, amount: &Resources) {
        let promise = self.promised.entry(slot).or_default();
        // A sum beyond all bounds cannot come from tasks that fitted; it would only close the machine.
        *promise = promise.checked_add(amount).unwrap_or(Resources::new(u64::MAX / 4, u64::MAX / 4));
        self.taken.push(slot);
        let row = slot as usize;
        if let Some(cpu_millis) = self.cpu_millis.get_mut(row)
            && *cpu_millis != CLOSED
        {
            *cpu_millis = cpu_millis.saturating_sub(narrow(amount.cpu_millis)).max(CLOSED + 1);
            self.memory_bytes[row] = self.memory_bytes[row].saturating_sub_unsigned(amount.memory_bytes);
        }
    }

    /// Takes back what was set aside on a machine, for a task that is not placed there after all.
    pub fn give(&mut self, slot: u32, amount: &Resources) {
        let Some(promise) = self.promised.get_mut(&slot) else { return };
        *promise = promise.without(amount);
        let row = slot as usize;
        if let Some(cpu_millis) = self.cpu_millis.get_mut(row)
            && *cpu_millis != CLOSED
        {
            *cpu_millis = cpu_millis.saturating_add(narrow(amount.cpu_millis));
            self.memory_bytes[row] = self.memory_bytes[row].saturating_add_unsigned(amount.memory_bytes);
        }
    }

    /// What is spoken for on a machine.
    #[must_use]
    pub fn promised(&self, slot: u32) -> Resources {
        self.promised.get(&slot).copied().unwrap_or_default()
    }

    /// The classes of machines that satisfy all of `constraints`; `None` when there are none to satisfy. Judged once for each
    /// list, and again only for classes that are new.
    pub fn classes_for(&mut self, constraints: &[Constraint], cell: &Cell) -> Option<ClassSet> {
        if constraints.is_empty() {
            return None;
        }
        if self.sets.len() >= CONSTRAINT_LISTS_MAX {
            self.sets.clear();
        }
        let set = self.sets.entry(constraints.to_vec()).or_default();
        set.refresh(constraints, cell);
        Some(set.clone())
    }

    fn resize(&mut self, rows: u32) {
        let rows = rows as usize;
        self.cpu_millis.resize(rows, CLOSED);
        self.memory_bytes.resize(rows, 0);
        self.classes.resize(rows, 0);
    }

    fn read(&mut self, cell: &Cell, slot: u32) {
        let index = slot as usize;
        if index >= self.cpu_millis.len() {
            return;
        }
        let open = |row: &&plenum_model::MachineRow| row.state == MachineState::Ready && row.allocations < u16::MAX;
        let Some(row) = cell.machine_row(slot).filter(open) else {
            self.cpu_millis[index] = CLOSED;
            return;
        };
        let promised = self.promised(slot);
        self.cpu_millis[index] = row.free_cpu_millis.saturating_sub(narrow(promised.cpu_millis)).max(CLOSED + 1);
        self.memory_bytes[index] = row.free_memory_bytes.saturating_sub_unsigned(promised.memory_bytes);
        self.classes[index] = row.class;
    }
}

/// CPU as the columns keep it; what is beyond their range is more than any machine has.
pub(crate) fn narrow(cpu_millis: u64) -> i32 {
    i32::try_from(cpu_millis).unwrap_or(i32::MAX)
}

/// The least value of the column that lets `need` in. A resource that is not asked for is never short, even where the room in
/// it is negative; a closed machine lets nothing in.
pub(crate) fn least_cpu(need: u64) -> i32 {
    if need == 0 { CLOSED + 1 } else { narrow(need) }
}

/// See [`least_cpu`].
pub(crate) fn least_memory(need: u64) -> i64 {
    if need == 0 { i64::MIN } else { i64::try_from(need).unwrap_or(i64::MAX) }
}
