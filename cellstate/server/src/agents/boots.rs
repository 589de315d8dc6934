//! Boots of machines that later ones have superseded.

use std::collections::BTreeMap;

use plenum_model::{BootId, MachineId};

/// So many of one machine are remembered: as many hosts of one image, and one more, take no turns.
const SUPERSEDED_MAX: usize = 16;

/// By slot, of machines that have booted since this server started, until their lease ends next: as a rule one for each, of some 100 bytes, and 16 at
/// most. A boot that is over does not come back. So who speaks of one is on another host, with the name and a copy of the directory of the machine's own
/// agent: each of them would be believed to have booted, and all that the other one runs to be lost.
#[derive(Debug, Default)]
pub(crate) struct Boots {
    /// With the generation of the machine's id; those that were superseded last come last.
    superseded: BTreeMap<u32, (u32, Vec<BootId>)>,
}

impl Boots {
    /// A machine that was in a boot has registered in another one.
    pub(super) fn superseded(&mut self, machine: MachineId, before: BootId, by: &BootId) {
        let known = self.superseded.entry(machine.slot).or_default();
        if known.0 != machine.generation {
            // Few boot more than once.
            *known = (machine.generation, Vec::with_capacity(1));
        }
        let boots = &mut known.1;
        boots.retain(|boot| *boot != before && boot != by);
        if boots.len() == SUPERSEDED_MAX {
            boots.remove(0);
        }
        boots.push(before);
    }

    /// Whether a machine has registered in another boot since it did in this one.
    pub(super) fn is_superseded(&self, machine: MachineId, boot: &BootId) -> bool {
        let known = self.superseded.get(&machine.slot).filter(|known| known.0 == machine.generation);
        known.is_some_and(|(_, boots)| boots.contains(boot))
    }

    /// A machine is gone, or nobody serves it: whoever registers next has it.
    pub(super) fn machine_left(&mut self, slot: u32) {
        self.superseded.remove(&slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: MachineId = MachineId { slot: 3, generation: 1 };

    /// A machine registers in these boots, one after the other.
    fn booted(boots: &[BootId]) -> Boots {
        let mut known = Boots::default();
        for pair in boots.windows(2) {
            known.superseded(MACHINE, pair[0].clone(), &pair[1]);
        }
        known
    }

    #[test]
    fn all_boots_before_the_present_one_are_superseded() {
        let [first, second, third, other] = ["1", "2", "3", "4"].map(BootId::from);
        let mut boots = booted(&[first.clone(), second.clone(), third.clone()]);
        let is_superseded =
            |boots: &Boots| [&first, &second, &third, &other].map(|boot| boots.is_superseded(MACHINE, boot));
        assert_eq!(is_superseded(&boots), [true, true, false, false]);
        assert!(!boots.is_superseded(MachineId { generation: 2, ..MACHINE }, &first), "that is another machine");
        // As where a virtual machine is put back to an earlier moment once its lease has ended.
        boots.superseded(MACHINE, third.clone(), &first);
        assert_eq!(is_superseded(&boots), [false, true, true, false]);
        boots.machine_left(MACHINE.slot);
        assert_eq!(is_superseded(&boots), [false; 4]);
    }

    #[test]
    fn of_a_machine_that_boots_often_the_last_boots_are_remembered() {
        let all: Vec<BootId> =
            (0..=SUPERSEDED_MAX + 1).map(|number| BootId::from(number.to_string().as_str())).collect();
        let boots = booted(&all);
        let superseded = all.iter().filter(|boot| boots.is_superseded(MACHINE, boot)).count();
        assert_eq!((superseded, boots.is_superseded(MACHINE, &all[0])), (SUPERSEDED_MAX, false));
    }
}
