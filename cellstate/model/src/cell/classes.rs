//! Classes of machines: those with equal attributes share one, so that constraints are judged once for each.
//!
//! Their numbers mean something only within one cell in one process: nothing that is written or sent has them. When machines have long had
//! other attributes, and most numbers stand for what no machine has any more, all classes are numbered anew.

use std::sync::Arc;

use super::{Cell, page_rows};
use crate::{Attributes, Paged};

/// Numbers beyond two for each class that machines have, before all are given anew: each new class pays for a small part of the walk.
const NUMBERS_SPARE: usize = 1024;

/// By number, how many machines are of a class.
pub(crate) type ClassMachines = Paged<u32, { page_rows::TASKS }>;

impl Cell {
    /// Attributes of each class of machines, by number; also of some that no machine has any more.
    #[must_use]
    pub fn classes(&self) -> &[Arc<Attributes>] {
        &self.classes
    }

    /// Rises when all classes get other numbers. What somebody knows of classes by their numbers is good for one numbering of one cell.
    #[must_use]
    pub const fn class_numbering(&self) -> u64 {
        self.class_numbering
    }

    /// Whether some machine has these very attributes.
    #[must_use]
    pub fn has_class(&self, attributes: &Attributes) -> bool {
        self.class_numbers.get(attributes).is_some_and(|&number| self.machines_of(number) > 0)
    }

    /// Different sets of attributes that machines have.
    #[must_use]
    pub const fn classes_in_use(&self) -> usize {
        self.classes_in_use
    }

    /// The classes of these machines; nothing for those that are not there.
    pub fn classes_of(&self, machines: impl Iterator<Item = u32>) -> impl Iterator<Item = u32> {
        machines.filter_map(|machine| self.machine_row(machine)).map(|row| row.class)
    }

    /// How many machines have the attributes of a class.
    #[must_use]
    pub fn machines_of(&self, class: u32) -> u32 {
        self.class_machines.get(class).copied().unwrap_or(0)
    }

    /// The number of a class, which may be a new one.
    pub(super) fn class_of(&mut self, attributes: &Arc<Attributes>) -> u32 {
        if let Some(&number) = self.class_numbers.get(attributes) {
            return number;
        }
        let number = u32::try_from(self.classes.len()).expect("each class took a registration");
        Arc::make_mut(&mut self.classes).push(attributes.clone());
        Arc::make_mut(&mut self.class_numbers).insert(attributes.clone(), number);
        number
    }

    /// A machine is of another class now: `None` before it came, and after it went.
    pub(super) fn change_class(&mut self, before: Option<u32>, after: Option<u32>) {
        if before == after {
            return;
        }
        if let Some(class) = before {
            let machines = self.class_machines.get_mut(class);
            *machines -= 1;
            self.classes_in_use -= usize::from(*machines == 0);
        }
        if let Some(class) = after {
            let machines = self.class_machines.get_mut(class);
            *machines += 1;
            self.classes_in_use += usize::from(*machines == 1);
        }
    }

    /// Numbers the classes of the machines that are there anew, when most numbers are nobody's.
    pub(super) fn forget_old_classes(&mut self) {
        if self.classes.len() < 2 * self.classes_in_use + NUMBERS_SPARE {
            return;
        }
        let before = std::mem::take(&mut self.classes);
        (self.class_numbers, self.class_machines) = (Arc::default(), ClassMachines::default());
        self.classes_in_use = 0;
        self.class_numbering += 1;
        let mut numbers = vec![None; before.len()];
        for slot in 0..self.machines.len() {
            let Some(row) = self.machine_row(slot) else { continue };
            let old = row.class as usize;
            let class = *numbers[old].get_or_insert_with(|| self.class_of(&before[old]));
            self.machines.get_mut(slot).class = class;
            self.change_class(None, Some(class));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::super::Cell;
    use super::NUMBERS_SPARE;
    use crate::{
        Attributes, BootId, ClassSet, Constraint, Delta, GroupCounts, GroupShape, LogTime, Machine, MachineId,
        MachineState, Operator, Revision, Spread,
    };

    const MACHINES: u32 = 4;

    fn attributes(serial: usize, rack: usize) -> Arc<Attributes> {
        let text = |number: usize| -> Arc<str> { number.to_string().into() };
        Arc::new(Attributes::from([("serial".into(), text(serial)), ("rack".into(), text(rack))]))
    }

    fn put(cell: &mut Cell, slot: u32, state: MachineState, attributes: &Arc<Attributes>) {
        let machine = Machine {
            id: MachineId { slot, generation: 1 },
            name: format!("m{slot}").into(),
            state,
            cordoned: false,
            unfit: None,
            epoch: 1,
            capacity: Arc::default(),
            attributes: attributes.clone(),
            devices: Arc::default(),
            boot_id: BootId::from("boot"),
            since: LogTime::from_micros(0),
            drain_deadline: None,
            registered: LogTime::from_micros(0),
            epoch_began: Revision(1),
        };
        let delta = Delta::new(cell.revision().next(), cell.time());
        cell.apply(&Delta { machines: vec![Arc::new(machine)], ..delta }).expect("it folds");
    }

    /// What the cell counts of its classes is what its machines say.
    fn check(cell: &Cell) {
        let mut machines = BTreeMap::<u32, u32>::new();
        for machine in cell.machines() {
            let class = cell.machine_row(machine.id.slot).expect("it is there").class;
            assert_eq!(cell.classes()[class as usize], machine.attributes);
            assert!(cell.has_class(&machine.attributes));
            *machines.entry(class).or_default() += 1;
        }
        assert_eq!(cell.classes_in_use(), machines.len());
        (0..).zip(cell.classes()).for_each(|(class, attributes)| {
            let count = machines.get(&class).copied().unwrap_or(0);
            assert_eq!((cell.machines_of(class), cell.has_class(attributes)), (count, count > 0));
        });
        assert!(cell.classes().len() <= 2 * cell.classes_in_use() + NUMBERS_SPARE + 1);
    }

    // Each set of attributes that any machine ever had was remembered, and there was an end to them.
    #[test]
    fn attributes_that_no_machine_has_any_more_are_forgotten() {
        let mut cell = Cell::default();
        let constraint =
            |rack: &str| Constraint { attribute: "rack".into(), operator: Operator::Equal, values: vec![rack.into()] };
        let constraint = [constraint("1")];
        let spread =
            vec![Spread { attribute: "rack".into(), at_most: 9 }, Spread { attribute: "serial".into(), at_most: 9 }];
        let shape = GroupShape { spread, ..GroupShape::default() };
        let (mut set, mut counts) = (ClassSet::default(), GroupCounts::default());
        // Tasks on each machine, which it takes along when it gets other attributes.
        let mut tasks = [0_i64; MACHINES as usize];
        let mut numbering = 0;
        for serial in 0..3 * NUMBERS_SPARE {
            let slot = u32::try_from(serial * 7 % 11).expect("small") % MACHINES;
            let there = tasks[slot as usize];
            if cell.machine_in(slot).is_some() {
                counts.add(&cell, &shape, slot, -there);
            }
            let gone = serial % 13 == 0;
            let state = if gone { MachineState::Gone } else { MachineState::Ready };
            put(&mut cell, slot, state, &attributes(serial, serial % 3));
            tasks[slot as usize] = if gone { 0 } else { there + 1 };
            if !gone {
                counts.add(&cell, &shape, slot, there + 1);
            }
            set.refresh(&constraint, &cell);
            // All of it now and then, and whenever something is forgotten.
            if serial % 64 == 0 || cell.class_numbering() > numbering {
                check(&cell);
                numbering = cell.class_numbering();
            }
            assert!(set.is_complete(&cell));
            for machine in cell.machines() {
                let slot = machine.id.slot;
                let of = |machine: &Machine, name: &str| machine.attributes.get(name).cloned();
                assert_eq!(
                    set.contains(cell.machine_row(slot).expect("it is there").class),
                    of(machine, "rack").as_deref() == Some("1")
                );
                for (rule, name) in ["rack", "serial"].into_iter().enumerate() {
                    let beside = cell.machines().filter(|other| of(other, name) == of(machine, name));
                    let beside: i64 = beside.map(|other| tasks[other.id.slot as usize]).sum();
                    assert_eq!(counts.beside(&cell, &shape, slot, rule), Some(beside));
                }
            }
        }
        assert!(cell.class_numbering() > 1);
    }

    // The values of all classes were looked up for each rule of each group that has tasks, and stood in a table of its own: 18 ms for the
    // first claim of a job where 20,000 machines differ.
    #[test]
    fn values_of_those_classes_only_are_looked_up_that_tasks_are_counted_on() {
        let mut cell = Cell::default();
        (0..300)
            .for_each(|slot| put(&mut cell, slot, MachineState::Ready, &attributes(slot as usize, slot as usize % 3)));
        let rule = |attribute: &str| Spread { attribute: attribute.into(), at_most: 9 };
        let shape = GroupShape { spread: vec![rule("rack"), rule("zone")], ..GroupShape::default() };
        let mut counts = GroupCounts::default();
        for (slot, tasks) in [(7, 1), (8, 2), (7, 1), (10, 1)] {
            counts.add(&cell, &shape, slot, tasks);
        }
        assert_eq!(counts.classes_known(), 2 * 3);
        for (slot, beside) in [(7, 3), (8, 2), (9, 0), (298, 3), (299, 2)] {
            assert_eq!(counts.beside(&cell, &shape, slot, 0), Some(beside));
            assert_eq!(counts.beside(&cell, &shape, slot, 1), None, "no machine has a zone");
        }
        assert_eq!(counts.classes_known(), 2 * 3);
    }

    #[test]
    fn a_snapshot_keeps_the_numbers_of_its_own_classes() {
        let mut cell = Cell::default();
        put(&mut cell, 0, MachineState::Ready, &attributes(0, 0));
        put(&mut cell, 1, MachineState::Ready, &attributes(1, 0));
        let snapshot = cell.clone();
        (2..2 * NUMBERS_SPARE).for_each(|serial| put(&mut cell, 0, MachineState::Ready, &attributes(serial, 0)));
        check(&cell);
        check(&snapshot);
        assert_ne!(cell.class_numbering(), snapshot.class_numbering());
        assert_eq!(snapshot.machine_in(0).expect("it is there").attributes, attributes(0, 0));
    }
}
