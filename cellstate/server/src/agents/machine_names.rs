//! What machines are called, as the newest of what is durable has it.

use std::sync::Arc;

use plenum_model::{Cell, Machine, MachineId, MachineState};

/// By slot: what an id is called never changes, so whoever is found here is found in each picture that has the machine. One that came or was given up
/// a moment ago may be missing, or still be there.
#[derive(Debug)]
pub(crate) struct MachineNames {
    /// With the generation of the machine's id.
    by_slot: Vec<Option<(u32, Arc<str>)>>,
}

impl MachineNames {
    pub(super) fn of_cell(cell: &Cell) -> Self {
        let mut names = Self { by_slot: Vec::new() };
        names.by_slot.reserve_exact(cell.machine_slots().len() as usize);
        cell.machines().for_each(|machine| names.machine_changed(machine));
        names
    }

    /// What a machine is called, if it is known.
    pub(super) fn of(&self, machine: MachineId) -> Option<&Arc<str>> {
        let (generation, name) = self.by_slot.get(machine.slot as usize)?.as_ref()?;
        (*generation == machine.generation).then_some(name)
    }

    /// A machine came, changed, or was removed: in the order in which deltas come by.
    pub(super) fn machine_changed(&mut self, machine: &Machine) {
        let MachineId { slot, generation } = machine.id;
        let slot = slot as usize;
        let name = (machine.state != MachineState::Gone).then(|| (generation, machine.name.clone()));
        if slot >= self.by_slot.len() {
            if name.is_none() {
                return;
            }
            self.by_slot.resize(slot + 1, None);
        }
        self.by_slot[slot] = name;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::machine;

    #[test]
    fn a_machine_is_known_by_its_whole_id_until_it_is_removed() {
        let mut names = MachineNames::of_cell(&Cell::default());
        let id = |generation| MachineId { slot: 3, generation };
        names.machine_changed(&machine(9, 1, MachineState::Gone));
        names.machine_changed(&machine(3, 1, MachineState::Ready));
        names.machine_changed(&machine(3, 1, MachineState::Unreachable));
        assert_eq!((names.of(id(1)).map(|name| &**name), names.of(id(2))), (Some("m3"), None));
        names.machine_changed(&machine(3, 1, MachineState::Gone));
        assert_eq!(names.of(id(1)), None);
    }
}
