//! Cells that are sound, and are not what the cell was.

use plenum_model::{FoundMachine, Inventory};

use super::*;

/// A cell with a session of this scheduler, at revision 2.
fn with_session_of(scheduler: &str) -> Cell {
    let mut core = Core::new(CoreOptions::default());
    let identity = plenum_model::CellIdentity { incarnation: 1, term: 1, ..Default::default() };
    for command in [Command::OpenServer(identity), Command::OpenSession { scheduler: scheduler.into() }] {
        let request = Request { principal: "local".into(), namespace: "default".into(), command };
        let decided = core.decide(&request, LogTime::from_micros(1));
        assert!(matches!(decided, Decided::Changed { .. }), "{decided:?}");
    }
    core.cell().clone()
}

// A backup became what everything else was compared with, whatever was in it.
#[test]
fn a_backup_of_another_cell_is_found() {
    let mut books = Books::new(CoreOptions::default());
    books.snapshots.push_back(with_session_of("batch"));
    let restored = |books: &mut Books, scheduler: &str| {
        books.restored(with_session_of(scheduler), &Endings::default(), 2).map_err(|violation| violation.invariant)
    };
    assert_eq!(restored(&mut books, "batch"), Ok(()));
    assert_eq!(restored(&mut books, "service"), Err("invariant_a_backup_is_sound"));
    books.snapshots.clear();
    assert_eq!(restored(&mut books, "service"), Ok(()), "what it was is not known any more");
}

/// A registration of the one machine after this boot, whose agent names these.
fn registration(boot_id: &str, inventory: Vec<Inventory>) -> Request {
    let command = Command::RegisterMachine(FoundMachine {
        name: "m0".into(),
        boot_id: boot_id.into(),
        inventory,
        ..FoundMachine::default()
    });
    Request { principal: "local".into(), namespace: "".into(), command }
}

// It was excused for ever: whatever ran on a machine that was removed once could be forgotten, and its room given away.
#[test]
fn what_ran_on_a_removed_machine_is_excused_until_its_agent_names_it() {
    let mut books = Books::new(CoreOptions::default());
    let [named, over, unnamed] = [1, 2, 3].map(|slot| AllocationId { slot, generation: 1 });
    books.removed.extend([named, over, unnamed]);
    let item =
        |allocation, state| Inventory { allocation, state, exit_code: 0, reason: "".into(), restarts: 0, task: None };
    let inventory = vec![item(named, AllocationState::Running), item(over, AllocationState::Failed)];
    let excused = |books: &Books| [named, over, unnamed].map(|id| books.invariant_what_runs_is_live("m0", id).is_ok());
    let mut core = Core::new(CoreOptions::default());
    let identity = plenum_model::CellIdentity { incarnation: 1, term: 1, ..Default::default() };
    let opening = Request { command: Command::OpenServer(identity), ..registration("", Vec::new()) };
    for request in [opening, registration("boot-1", Vec::new())] {
        let decided = core.decide(&request, LogTime::from_micros(1));
        assert!(matches!(decided, Decided::Changed { .. }), "{decided:?}");
    }
    books.named(core.cell(), &registration("boot-2", inventory.clone()));
    assert_eq!(excused(&books), [true; 3], "what is named after a boot is no unknown task");
    books.named(core.cell(), &registration("boot-1", inventory));
    assert_eq!(excused(&books), [false, true, true]);
}
