//! Names that are used up.

use plenum_model::{AllocationId, AllocationState, Command, GroupShape, MachineId, Transaction, Transition, last_of};

use super::costs::{Large, placement};
use crate::{Core, CoreOptions, Decided};

fn end(large: &mut Large, machine: MachineId, allocation: AllocationId) {
    let state = AllocationState::Complete;
    let reason = "".into();
    let transition = Transition { reason, ..Transition::new(machine, 1, allocation, state) };
    large.ask(Command::ReportStatus(vec![transition]));
}

// After 67 million tenants of one slot, the next one had a name of those that a restored cell gives; and after four billion the number
// went over.
#[test]
fn a_slot_that_is_used_up_is_not_given_out_again() {
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine("m1".to_owned());
    let job = large.job(GroupShape { count: 200, ..GroupShape::default() });
    let one = |task: u32| vec![placement(job, task..task + 1, |_| machine.slot, 0)];
    // The first slot has had so many tenants.
    let mut cell = large.core.cell().clone();
    let first = Transaction { base: cell.revision(), placements: one(0), ..Transaction::default() };
    let Decided::Changed { mut delta, .. } = large.decide_commit(first) else { panic!("it is granted") };
    assert_eq!(delta.grants[0].slots, [0]);
    delta.grants[0].generations = vec![last_of(1)];
    cell.apply(&delta).expect("it fits");
    large.core = Core::from_cell(cell, CoreOptions::default());
    end(&mut large, machine, AllocationId { slot: 0, generation: last_of(1) });
    assert_eq!(large.core.cell().live(), 0);
    let slots = |large: &mut Large, task: u32| {
        let ids: Vec<AllocationId> = large.commit(one(task)).placements.concat().into_iter().flatten().collect();
        ids[0]
    };
    let next = slots(&mut large, 1);
    assert_eq!((next.slot, next.generation), (1, 1));
    // Those before the last one are given out again, and what is used up stays so after a restart.
    end(&mut large, machine, next);
    large.core = Core::from_cell(large.core.cell().clone(), CoreOptions::default());
    let again = slots(&mut large, 2);
    assert_eq!((again.slot, again.generation), (1, 2));
}
