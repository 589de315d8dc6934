//! Stories of unknown tasks: where only one of each task of a job may run, nothing is placed beside one of them; who may tell that
//! they are gone; and how many of them a machine may have.

use std::sync::Arc;

use plenum_model::{AllocationId, AllocationState, Command, Decision, Inventory, RejectionCode, Resources, floor_of};

use super::check;
use super::costs::Large;
use crate::CoreOptions;
use crate::invariants::check_cell;

// After a restore a successor started beside the task that an agent had told of, and that the cell listed: two of them wrote to the same data.
#[test]
fn of_a_task_of_which_only_one_may_run_none_is_placed_beside_an_unknown_one() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        job db by service tasks=2 cpu=1000 single
        restore
        machine m2 cpu=4000
        machine m1 cpu=4000 runs=alloc-7-1 of=db[0]
        service: claim db[0]@m2 db[1]@m2
        adopt m1 alloc-7-1
        wait 900
        service: claim db[0]@m2
        stopid alloc-7-1
        service: claim db[0]@m2
        receipt m1 alloc-7-1
        service: claim db[0]@m2
        divergences?
        ",
        "
        service: partial; db[0] misfit Predecessor; db[1] granted
        service: refused; db[0] misfit Predecessor
        service: refused; db[0] misfit Predecessor
        service: committed; db[0] granted
        divergences []
        ",
    );
}

#[test]
fn an_unknown_task_is_in_the_way_of_nothing_else() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=9000
        job db by service tasks=2 cpu=1000 single
        job web by service tasks=1 cpu=1000
        job log by service tasks=1 cpu=1000 single
        job cache by service tasks=1 cpu=1000 single in=other
        restore
        machine m2 cpu=9000
        machine m1 cpu=4000 runs=alloc-7-1 of=db[1]
        machine m1 cpu=4000 runs=alloc-7-1,alloc-7-2 of=web[0]
        machine m1 cpu=4000 runs=alloc-7-1,alloc-7-2,alloc-7-3 of=cache[0]
        service: claim db[0]@m2
        service: claim web[0]@m2
        service: claim log[0]@m2
        service: claim cache[0]@m2
        unknown? m1
        ",
        "
        service: committed; db[0] granted
        service: committed; web[0] granted
        service: committed; log[0] granted
        service: committed; cache[0] granted
        m1 alloc-7-1 until 900; alloc-7-2 until 900; alloc-7-3 until 900; free 1000
        ",
    );
}

#[test]
fn who_claimed_before_an_unknown_task_was_found_is_told_of_it() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        job db by service tasks=2 cpu=1000 single
        restore
        machine m2 cpu=4000
        machine m1 cpu=4000
        snapshot
        machine m1 cpu=4000 runs=alloc-7-1 of=db[0]
        service: claim db[0]@m2
        adopt m1 alloc-7-1
        service: claim db[0]@m2
        ",
        "
        service: refused; db[0] conflict Predecessor culprits unknown task 0 total 0
        service: refused; db[0] conflict Predecessor culprits unknown task 0 total 0
        ",
    );
}

/// Nobody knows which of several jobs of one name it is of: also one that is submitted, or grows, behind it waits.
#[test]
fn a_job_that_comes_behind_an_unknown_task_of_its_name_waits_for_it() {
    check(
        "
        machine m1 cpu=4000
        restore
        machine m1 cpu=4000 runs=alloc-7-1 of=db[1]
        job db by service tasks=1 cpu=1000 single
        scale db 2
        service: claim db[0]@m1 db[1]@m1
        machine m1 cpu=4000 boot=b
        service: claim db[1]@m1
        ",
        "
        service: partial; db[0] granted; db[1] misfit Predecessor
        service: committed; db[1] granted
        ",
    );
}

#[test]
fn a_machine_that_is_removed_leaves_no_unknown_task_in_the_way() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        job db by service tasks=1 cpu=1000 single
        restore
        machine m2 cpu=4000
        machine m1 cpu=4000 runs=alloc-7-1 of=db[0]
        expire m1
        wait 5000
        service: claim db[0]@m2
        remove m1
        service: claim db[0]@m2
        ",
        "
        service: refused; db[0] misfit Predecessor
        service: committed; db[0] granted
        ",
    );
}

#[test]
fn an_agent_that_has_not_heard_of_the_epoch_cannot_tell_that_an_unknown_task_is_gone() {
    check(
        "
        machine m1 cpu=4000
        restore
        machine m1 cpu=4000 runs=alloc-7-1
        machine m1 cpu=4000 seen=0
        unknown? m1
        machine m1 cpu=4000
        unknown? m1
        ",
        "
        m1 alloc-7-1 until 900; free 3000
        m1 free 4000
        ",
    );
}

// Schedulers were there before the agents, and placed tasks that these were about to tell of.
#[test]
fn of_a_restored_cell_agents_are_heard_first_or_their_leases_run_out() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        machine m3 cpu=4000
        machine m4 cpu=4000
        expire m4
        job db by service tasks=2 cpu=1000 single
        job web by service tasks=1 cpu=1000
        restore
        machine m1 cpu=4000
        service: claim db[0]@m1
        service: claim web[0]@m1
        restart
        expire m2
        service: claim db[0]@m1
        machine m3 cpu=4000 runs=alloc-7-1 of=db[1]
        service: claim db[0]@m1 db[1]@m1
        ",
        "
        service: refused; db[0] misfit Predecessor
        service: committed; web[0] granted
        service: refused; db[0] misfit Predecessor
        service: partial; db[0] granted; db[1] misfit Predecessor
        ",
    );
}

/// What a restored cell answers a machine that runs so many tasks of before its restore and so many that have ended in it since, and how many of both
/// it then has as unknown ones.
fn registered_with(before: u32, ended: u32) -> (Decision, [usize; 2]) {
    let mut large = Large::new(CoreOptions::default());
    large.restore();
    let item = |slot: u32, generation: u32| Inventory {
        allocation: AllocationId { slot, generation },
        state: AllocationState::Running,
        exit_code: 0,
        reason: "".into(),
        restarts: 0,
        task: None,
    };
    let before = (0..before).map(|slot| item(slot, 1));
    let ended = (0..ended).map(|slot| item(slot, floor_of(2) + 1));
    let answer = large.ask(Command::RegisterMachine {
        name: "m1".into(),
        boot_id: "boot".into(),
        capacity: Resources::new(1000, 1 << 30),
        attributes: Arc::default(),
        devices: Vec::new(),
        inventory: before.chain(ended).collect(),
        seen: large.core.cell().revision(),
    });
    let cell = large.core.cell();
    check_cell(cell).expect("all of it holds");
    let stopping = cell.unknown_tasks().filter(|(_, task)| task.stopping).count();
    (answer, [cell.unknown_tasks().count() - stopping, stopping])
}

// A machine that had been removed came back with more of what had ended so than are kept. It was refused for as long as that ran, and nobody told it to
// stop any of it.
#[test]
fn a_machine_is_registered_however_many_tasks_it_runs_that_have_ended_here() {
    let (answer, kept) = registered_with(100, 4097);
    assert!(matches!(answer, Decision::Accepted { .. }), "{answer:?}");
    assert_eq!(kept, [100, 3996], "the others come first");
    let (answer, kept) = registered_with(4097, 1);
    assert!(matches!(&answer, Decision::Rejected(why) if why.code == RejectionCode::LimitReached), "{answer:?}");
    assert_eq!(kept, [0, 0]);
}
