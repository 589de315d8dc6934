//! Stories of machines that are lost, found rebooted, removed or cordoned, and of registrations that come too late.

use plenum_model::{AllocationState, Command, GroupShape};

use super::costs::{Large, placement};
use super::story::check;
use crate::CoreOptions;

#[test]
fn what_an_unreachable_machine_ran_is_lost_after_a_time_and_placed_elsewhere() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        job web by service tasks=1 cpu=1000
        service: claim web[0]@m1
        report web[0] running
        expire m1
        wait 59
        show web[0]
        snapshot
        wait 2
        service: claim web[0]@m1
        service: claim web[0]@m2
        show web[0]
        ",
        "
        service: committed; web[0] granted
        web[0] Running
        service: refused; web[0] misfit MachineNotReady
        service: committed; web[0] granted
        web[0] Granted
        ",
    );
}

/// How many of so many machines are lost in each of three minutes, where all are silent and nobody has set how many may be.
fn lost_by_minute(machines: u32) -> [usize; 3] {
    let mut large = Large::new(CoreOptions::default());
    let ids: Vec<_> = (0..machines).map(|number| large.machine(format!("m{number}"))).collect();
    let job = large.job(GroupShape { count: machines, lost_after_micros: Some(60_000_000), ..GroupShape::default() });
    let on = |task: u32| ids[task as usize].slot;
    assert_eq!(large.commit(vec![placement(job, 0..machines, on, 0)]).granted(), machines as usize);
    for &machine in &ids {
        large.ask(Command::ExpireMachine { machine, epoch: 1 });
    }
    let mut lost_before = 0;
    [(); 3].map(|()| {
        large.now = large.now.plus_micros(60_000_000);
        while large.core.next_due().is_some_and(|due| due <= large.now) {
            large.ask(Command::Tick);
        }
        // Each runs one task.
        let lost = large.in_state(AllocationState::Lost) - lost_before;
        lost_before += lost;
        lost
    })
}

#[test]
fn a_twentieth_of_the_machines_is_lost_a_minute_and_at_least_one() {
    assert_eq!(lost_by_minute(40), [2, 2, 2]);
    assert_eq!(lost_by_minute(39), [1, 1, 1]);
    assert_eq!(lost_by_minute(5), [1, 1, 1]);
    assert_eq!(lost_by_minute(200), [10, 10, 10]);
}

// The server was down for an hour. The first thing it did was to give up machines that had been away when it stopped, though their agents
// had had nobody to answer in that time.
#[test]
fn a_machine_that_was_away_when_the_server_stopped_has_its_time_again_when_one_starts() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        job web by service tasks=1 cpu=1000
        service: claim web[0]@m1
        report web[0] running
        expire m1
        restart after=3600
        wait 0
        show web[0]
        wait 59
        show web[0]
        wait 1
        snapshot
        service: claim web[0]@m2
        ",
        "
        service: committed; web[0] granted
        web[0] Running
        web[0] Running
        service: committed; web[0] granted
        ",
    );
}

#[test]
fn a_rebooted_machine_runs_nothing_any_more() {
    check(
        "
        machine m1 cpu=1000
        job web by service tasks=1 cpu=1000
        service: claim web[0]@m1
        report web[0] running
        machine m1 cpu=1000 boot=b
        show web[0]
        snapshot
        service: claim web[0]@m1
        ",
        "
        service: committed; web[0] granted
        web[0] gone
        service: committed; web[0] granted
        ",
    );
}

#[test]
fn a_removed_machine_takes_what_it_ran_with_it() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        job web by service tasks=1 cpu=1000
        service: claim web[0]@m1
        snapshot
        remove m1
        service: claim web[0]@m1
        service: claim web[0]@m2
        ",
        "
        service: committed; web[0] granted
        service: refused; web[0] conflict NoSuchMachine culprits removed 0 total 0
        service: committed; web[0] granted
        ",
    );
}

/// It was judged by a picture of before: a machine that came back in between was removed, and what it ran was placed a second time.
#[test]
fn a_machine_that_is_there_and_runs_something_is_removed_only_by_who_says_so() {
    let alive = "MACHINE_ALIVE: the agent of m1 renews its lease, or did a moment ago, and m1 runs 1 task: that would count as lost at once, \
                 and run twice; drain m1 and then stop its agent, or stop the agent and wait until m1 is unreachable (`--force` \
                 removes it all the same, and an agent that runs brings it back as a new machine)";
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        job web by service tasks=1 cpu=1000
        service: claim web[0]@m1
        remove m1 unless-alive
        expire m1
        machine m1 cpu=1000
        remove m1 unless-alive
        cordon m1
        remove m1 unless-alive
        remove m2 unless-alive
        expire m1
        remove m1 unless-alive
        show web[0]
        machine m3 cpu=1000
        service: claim web[0]@m3
        remove m3
        show web[0]
        ",
        &format!(
            "
            service: committed; web[0] granted
            {alive}
            {alive}
            {alive}
            web[0] gone
            service: committed; web[0] granted
            web[0] gone
            "
        ),
    );
}

#[test]
fn a_cordon_outlives_the_lease() {
    check(
        "
        machine m1 cpu=1000
        cordon m1
        expire m1
        machine m1 cpu=1000
        machine? m1
        uncordon m1
        machine? m1
        expire m1
        cordon m1
        machine m1 cpu=1000
        machine? m1
        ",
        "
        m1 Cordoned
        m1 Ready
        m1 Cordoned
        ",
    );
}

/// The agent of an earlier boot had sent its registration just before the machine went down, and the network kept it: it was taken for
/// yet another boot, and the cell thought that nothing ran there.
#[test]
fn a_registration_from_before_a_boot_comes_too_late() {
    check(
        "
        machine m1 cpu=4000 boot=a
        job web by service tasks=1 cpu=1000
        machine m1 cpu=4000 boot=b
        service: claim web[0]@m1
        machine m1 cpu=4000 boot=a seen=2
        machine m1 cpu=4000 boot=a seen=0
        show web[0]
        machine m1 cpu=4000 boot=b seen=0
        machine m1 cpu=4000 boot=b seen=3
        show web[0]
        machine m1 cpu=4000 boot=c
        show web[0]
        ",
        "
        service: committed; web[0] granted
        STALE_EPOCH: m1 began its epoch at revision 4, and this agent has heard of 2 only; register again with what it heard now
        STALE_EPOCH: m1 began its epoch at revision 4, and this agent has heard of 0 only; register again with what it heard now
        web[0] Granted
        STALE_EPOCH: m1 began its epoch at revision 4, and this agent has heard of 3 only; register again with what it heard now
        web[0] Granted
        web[0] gone
        ",
    );
}

// Epochs go on behind those of the life before: the first one of a new machine is not the first of all.
#[test]
fn a_new_machine_of_a_restored_cell_is_said_to_have_registered() {
    check(
        "
        machine m9 cpu=1000
        restore
        job web by service tasks=2 cpu=1000
        snapshot
        machine m1 cpu=1000
        machine m9 cpu=1000
        service: claim web[0]@m1
        service: claim web[1]@m9
        ",
        "
        service: refused; web[0] conflict MachineChanged culprits registered 0 total 0
        service: refused; web[1] conflict MachineChanged culprits epoch 0 total 0
        ",
    );
}
