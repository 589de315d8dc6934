//! Stories of unknown tasks: what they occupy, who adopts or stops them; where only one of each task of a job may run, nothing is placed
//! beside one of them; who may tell that they are gone; and how many of them a machine may have.

use plenum_model::{
    AllocationId, AllocationState, Command, Decision, FoundMachine, Inventory, RejectionCode, Resources, floor_of,
};

use super::check;
use super::costs::Large;
use crate::CoreOptions;
use crate::invariants::check_cell;

#[test]
fn a_task_that_the_cell_does_not_know_occupies_its_room_until_its_receipt() {
    check(
        "
        machine m1 cpu=4000 runs=alloc-7-1
        unknown? m1
        restart
        ",
        "
        m1 alloc-7-1 stopping; free 3000
        ",
    );
}

// What came with the backup, and ended here, ran on for 15 minutes beside its replacement when its machine came back.
#[test]
fn what_a_restored_cell_knew_and_gave_up_is_stopped_at_once() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        job web by service tasks=1 cpu=1000
        job api by service tasks=1 cpu=1000
        service: claim web[0]@m1
        restore
        machine m1 cpu=4000 runs=alloc-0-1
        machine m2 cpu=4000
        expire m1
        remove m1 unless-alive
        machine m1 cpu=4000 runs=alloc-0-1,alloc-0-2,alloc-1-1
        unknown? m1
        ",
        "
        service: committed; web[0] granted
        m1 alloc-0-1 stopping; alloc-0-2 until 900; alloc-1-1 until 900; free 1000
        ",
    );
}

#[test]
fn after_a_restore_unknown_tasks_wait_for_adoption_and_are_told_to_stop() {
    check(
        "
        machine m1 cpu=4000
        job web by service tasks=1 cpu=3000
        restore
        machine m1 cpu=4000 runs=alloc-7-1,alloc-9-4
        unknown? m1
        service: claim web[0]@m1
        adopt m1 alloc-9-4
        adopt m1 alloc-9-4
        adopt m1 alloc-9-5
        restart
        due?
        wait 899
        unknown? m1
        wait 1
        unknown? m1
        adopt m1 alloc-7-1
        receipt m1 alloc-7-1
        unknown? m1
        receipt m1 alloc-7-1
        machine m1 cpu=4000
        unknown? m1
        due?
        ",
        "
        m1 alloc-7-1 until 900; alloc-9-4 until 900; free 2000
        service: refused; web[0] misfit NoRoom short cpu_millis 1000
        NO_SUCH_TASK: alloc-9-5 on m1 is no unknown task, or has ended; `plenum machine show` lists those that run
        due 900
        m1 alloc-7-1 until 1; alloc-9-4 adopted; free 2000
        m1 alloc-7-1 stopping; alloc-9-4 adopted; free 2000
        NO_SUCH_TASK: alloc-7-1 on m1 was told to stop, and can't be adopted any more; `plenum machine show` lists those that run
        m1 alloc-9-4 adopted; free 3000
        m1 free 4000
        due never
        ",
    );
}

/// The server was away when their time was over, and told all of them to stop as it came back, before anybody could adopt one.
#[test]
fn unknown_tasks_have_their_whole_time_again_when_a_server_starts() {
    check(
        "
        machine m1 cpu=4000
        restore
        machine m1 cpu=4000 runs=alloc-7-1,alloc-9-4
        wait 300
        restart after=900
        wait 0
        due?
        adopt m1 alloc-9-4
        wait 899
        due?
        wait 1
        unknown? m1
        due?
        ",
        "
        due 900
        due 1
        m1 alloc-7-1 stopping; alloc-9-4 adopted; free 2000
        due never
        ",
    );
}

/// Who had adopted one could not stop it any more: no command knew it, and it ran until it ended by itself.
#[test]
fn an_unknown_task_is_stopped_by_request_whether_adopted_or_not() {
    check(
        "
        machine m1 cpu=4000
        restore
        machine m1 cpu=4000 runs=alloc-7-1,alloc-9-4
        adopt m1 alloc-9-4
        stopid alloc-9-4
        stopid alloc-9-4
        unknown? m1
        adopt m1 alloc-9-4
        stopid alloc-7-1
        due?
        restart
        unknown? m1
        receipt m1 alloc-7-1
        receipt m1 alloc-9-4
        unknown? m1
        stopid alloc-9-4
        ",
        "
        m1 alloc-7-1 until 900; alloc-9-4 stopping; free 2000
        NO_SUCH_TASK: alloc-9-4 on m1 was told to stop, and can't be adopted any more; `plenum machine show` lists those that run
        due never
        m1 alloc-7-1 stopping; alloc-9-4 stopping; free 2000
        m1 free 4000
        NO_SUCH_ALLOCATION: alloc-9-4 has ended, or never was
        ",
    );
}

#[test]
fn unknown_tasks_go_with_a_boot_and_with_their_machine() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=500
        restore
        machine m1 cpu=4000 runs=alloc-7-1
        machine m2 cpu=500 runs=alloc-8-1
        unknown? m2
        machine m1 cpu=4000 boot=b
        unknown? m1
        remove m2
        machine m3 cpu=500
        unknown? m3
        due?
        ",
        "
        m2 alloc-8-1 until 900; free -500
        m1 free 4000
        m3 free 500
        due never
        ",
    );
}

// It was removed though its agent was there, came back at once, and which of its tasks were adopted was forgotten.
#[test]
fn a_machine_that_runs_what_the_cell_does_not_know_is_removed_only_by_who_says_so() {
    let alive = "MACHINE_ALIVE: the agent of m1 renews its lease, or did a moment ago, and m1 runs 1 task: that would count as lost at once, \
                 and run twice; drain m1 and then stop its agent, or stop the agent and wait until m1 is unreachable (`--force` \
                 removes it all the same, and an agent that runs brings it back as a new machine)";
    check(
        "
        machine m1 cpu=4000
        restore
        machine m1 cpu=4000 runs=alloc-7-1
        remove m1 unless-alive
        unknown? m1
        expire m1
        remove m1 unless-alive
        ",
        &format!(
            "
        {alive}
        m1 alloc-7-1 until 900; free 3000
        "
        ),
    );
}

/// A machine had booted since the backup was taken. In the restored cell its registration looked like one of a machine that boots now,
/// where nothing runs: what it ran was told to nobody, and its room was given away.
#[test]
fn what_runs_on_a_machine_that_booted_after_the_backup_is_found() {
    check(
        "
        machine m1 cpu=4000 boot=a
        job web by service tasks=1 cpu=1000
        service: claim web[0]@m1
        restore
        machine m1 cpu=4000 boot=b runs=alloc-7-1
        unknown? m1
        show web[0]
        machine m1 cpu=4000 boot=c runs=alloc-7-1
        unknown? m1
        ",
        "
        service: committed; web[0] granted
        m1 alloc-7-1 until 900; free 3000
        web[0] gone
        m1 free 4000
        ",
    );
}

// An unknown task of which no room is known left no trace: who wanted its device was told that it had never been free.
#[test]
fn an_unknown_task_without_room_is_blamed_for_its_device_and_its_port() {
    check(
        "
        machine m1 cpu=4000 gpus=1
        job gpu by ml tasks=1 cpu=1000 gpus=1000
        job web by service tasks=1 cpu=1000 ports=http:8080
        restore
        machine m1 cpu=4000 gpus=1
        snapshot
        machine m1 cpu=4000 gpus=1 runs=alloc-7-1 each=0 using=1000 listening=8080
        ml: claim gpu[0]@m1
        service: claim web[0]@m1
        receipt m1 alloc-7-1
        ml: claim gpu[0]@m1
        ",
        "
        ml: refused; gpu[0] conflict DeviceTaken short gpu 1000 culprits unknown task 1000 total 1000
        service: refused; web[0] conflict PortTaken port 8080 culprits unknown task 1 total 1
        ml: committed; gpu[0] granted gpu0:1000
        ",
    );
}

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
    registered_again(&mut restored(), before, ended)
}

fn restored() -> Large {
    let mut large = Large::new(CoreOptions::default());
    large.restore();
    large
}

/// The same in a cell that may have the machine already.
fn registered_again(large: &mut Large, before: u32, ended: u32) -> (Decision, [usize; 2]) {
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
    let answer = large.ask(Command::RegisterMachine(FoundMachine {
        name: "m1".into(),
        boot_id: "boot".into(),
        capacity: Resources::new(1000, 1 << 30),
        inventory: before.chain(ended).collect(),
        seen: large.core.cell().revision(),
        ..FoundMachine::default()
    }));
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

#[test]
fn what_a_machine_has_already_leaves_so_many_places_for_what_has_ended_here() {
    let mut restored = restored();
    let (answer, kept) = registered_again(&mut restored, 100, 0);
    assert!(matches!(answer, Decision::Accepted { .. }), "{answer:?}");
    assert_eq!(kept, [100, 0]);
    let (answer, kept) = registered_again(&mut restored, 100, 4097);
    assert!(matches!(answer, Decision::Accepted { .. }), "{answer:?}");
    assert_eq!(kept, [100, 3996]);
}

#[test]
fn what_was_granted_after_the_backup_has_its_time_also_where_its_row_is_anothers_by_now() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        job web by service tasks=1 cpu=1000
        restore
        machine m2 cpu=4000
        service: claim web[0]@m2
        machine m1 cpu=4000 runs=alloc-0-1
        unknown? m1
        ",
        "
        service: committed; web[0] granted
        m1 alloc-0-1 until 900; free 3000
        ",
    );
}

// As after a copy of a state directory.
#[test]
fn a_task_that_two_machines_tell_of_is_stopped_on_both() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        restore
        machine m1 cpu=4000 runs=alloc-7-1
        machine m2 cpu=4000 runs=alloc-7-1
        stopid alloc-7-1
        unknown? m1
        unknown? m2
        ",
        "
        m1 alloc-7-1 stopping; free 3000
        m2 alloc-7-1 stopping; free 3000
        ",
    );
}
