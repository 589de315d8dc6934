//! Stories of what groups declare: limits of machines, spread, single instances, minimums.

use plenum_model::{AllocationState, AllocationStatus, Decision, Delta, GroupShape, Move, Transaction};

use super::check;
use super::costs::{Large, placement};
use crate::invariants::{Violation, invariant_minimums_hold};
use crate::{CoreOptions, Decided};

#[test]
fn a_group_limits_its_tasks_on_one_machine() {
    check(
        "
        machine m1 cpu=8000
        machine m2 cpu=8000
        job web by service tasks=4 cpu=100 per=1
        service: claim web[0]@m1 web[1]@m1 web[2]@m2
        service: stop web[0] claim web[3]@m1
        ",
        "
        service: partial; web[0] granted; web[1] misfit PerMachineLimit; web[2] granted
        service: committed; web[3] granted
        ",
    );
}

#[test]
fn spread_is_kept_across_transactions_and_names_who_came_between() {
    check(
        "
        machine m1 cpu=8000 rack=r1
        machine m2 cpu=8000 rack=r1
        machine m3 cpu=8000 rack=r2
        machine m4 cpu=8000
        job web by service tasks=5 cpu=100 spread=rack:1
        snapshot
        service: claim web[0]@m1
        service: claim web[1]@m2 web[2]@m3 web[3]@m4
        report web[0] failed 1
        wait 1
        service: claim web[1]@m2
        ",
        "
        service: committed; web[0] granted
        service: partial; web[1] conflict SpreadLimit culprits service 1 total 1; web[2] granted; web[3] misfit SpreadLimit
        service: committed; web[1] granted
        ",
    );
}

#[test]
fn spread_is_counted_again_after_a_restart() {
    check(
        "
        machine m1 cpu=8000 rack=r1
        job web by service tasks=2 cpu=100 spread=rack:1
        service: claim web[0]@m1
        restart
        service: claim web[1]@m1
        ",
        "
        service: committed; web[0] granted
        service: refused; web[1] misfit SpreadLimit
        ",
    );
}

// Only grants were looked for: with tasks that came with their machine, or a machine that came to them, it was taken for a misfit, and
// for a divergence.
#[test]
fn attributes_that_changed_since_the_base_are_to_blame_where_they_fill_a_spread() {
    check(
        "
        machine m1 cpu=8000 rack=r1
        machine m2 cpu=8000 rack=r2
        machine m3 cpu=8000 rack=r3
        job web by service tasks=3 cpu=100 spread=rack:1
        service: claim web[0]@m1
        snapshot
        machine m1 cpu=8000 rack=r2
        service: claim web[1]@m2
        machine m3 cpu=8000 rack=r2
        service: claim web[1]@m3
        machine m3 cpu=8000
        service: claim web[1]@m3
        snapshot
        service: claim web[1]@m2
        machine m2 cpu=8000 rack=r2 disk=ssd
        service: claim web[1]@m2
        ",
        "
        service: committed; web[0] granted
        service: refused; web[1] conflict SpreadLimit culprits attributes 0 total 0
        service: refused; web[1] conflict SpreadLimit culprits attributes 0 total 0
        service: refused; web[1] conflict SpreadLimit culprits attributes 0 total 0
        service: refused; web[1] misfit SpreadLimit
        service: refused; web[1] misfit SpreadLimit
        ",
    );
}

// The first task of a transaction filled a rack to which its machine had come after the base, and the second one, on another machine of that
// rack, was a divergence: a scheduler that knew of nothing was told of a bug.
#[test]
fn a_rack_that_the_transaction_itself_filled_is_the_fault_of_who_moved_the_machine_there() {
    check(
        "
        machine m1 cpu=8000 rack=r1
        machine m2 cpu=8000 rack=r2
        job web by service tasks=3 cpu=100 spread=rack:1
        job cache by service tasks=3 cpu=100 spread=rack:1
        snapshot
        machine m1 cpu=8000 rack=r2
        service: claim web[0]@m1 web[1]@m2
        service: claim cache[0]@m1 cache[1]@m2 min=2 claim cache[1]@m2 cache[2]@m2
        ",
        "
        service: partial; web[0] granted; web[1] conflict SpreadLimit culprits attributes 0 total 0
        service: partial; cache[0] mate MinimumMissed; cache[1] conflict SpreadLimit culprits attributes 0 total 0; cache[1] granted; cache[2] misfit SpreadLimit
        ",
    );
}

// A claim went to its spare machine, as another scheduler had taken its first one, and took the room there that a later claim was to have: that was
// called a bug of a scheduler that did nothing wrong.
#[test]
fn what_follows_from_a_lost_race_is_no_divergence() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        machine m3 cpu=1000
        job web by service tasks=1 cpu=1000
        job map by batch tasks=2 cpu=1000
        job red by batch tasks=1 cpu=1000
        job big by batch tasks=1 cpu=2000
        snapshot
        service: claim web[0]@m1
        batch: claim map[0]@m1 or=m2 claim red[0]@m2
        divergences?
        batch: claim map[1]@m1 claim big[0]@m3
        divergences?
        batch: claim big[0]@m3 claim map[1]@m1
        divergences?
        ",
        "
        service: committed; web[0] granted
        batch: partial; map[0] granted on m2; red[0] misfit NoRoom short cpu_millis 1000
        divergences []
        batch: refused; map[1] conflict NoRoom short cpu_millis 1000 culprits service 1000 total 1000; big[0] misfit NoRoom short cpu_millis 1000
        divergences []
        batch: refused; big[0] misfit NoRoom short cpu_millis 1000; map[1] conflict NoRoom short cpu_millis 1000 culprits service 1000 total 1000
        divergences [0]
        ",
    );
}

// A gang of which one had gone to its spare machine was undone as the other then had no room there, and that one was called a bug: what was
// undone was not seen to have gone anywhere.
#[test]
fn what_follows_from_a_lost_race_of_a_gang_that_is_undone_is_no_divergence() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        job web by service tasks=1 cpu=1000
        job map by batch tasks=2 cpu=1000
        snapshot
        service: claim web[0]@m1
        batch: claim map[0]@m1 map[1]@m2 or=m2 min=2
        divergences?
        ",
        "
        service: committed; web[0] granted
        batch: refused; map[0] mate MinimumMissed; map[1] misfit NoRoom short cpu_millis 1000
        divergences []
        ",
    );
}

// Behind a claim that waits for its quota, or that a scheduler makes in vain each time, nobody ever heard of what its mirror has wrong.
#[test]
fn a_misfit_behind_a_claim_that_makes_no_room_is_a_divergence_whatever_refuses_that() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        job large by batch tasks=1 cpu=600
        job small by batch tasks=1 cpu=100
        job other by service tasks=2 cpu=100
        quota default cpu=500
        service: claim other[0]@m1
        cordon m2
        batch: claim large[0]@m1 claim small[0]@m2
        divergences?
        batch: claim small[0]@m1 guard=version:small:7 claim small[0]@m2
        divergences?
        batch: claim other[1]@m1 claim small[0]@m2
        divergences?
        batch: stop other[0] claim small[0]@m2
        divergences?
        ",
        "
        service: committed; other[0] granted
        batch: refused; large[0] quota QuotaExceeded short cpu_millis 200; small[0] misfit MachineNotReady
        divergences [1]
        batch: refused; small[0] guard GuardFailed; small[0] misfit MachineNotReady
        divergences [1]
        batch: refused; other[1] permission OtherScheduler; small[0] misfit MachineNotReady
        divergences [1]
        batch: refused; small[0] misfit MachineNotReady
        divergences [1]
        ",
    );
}

// Who brought a second way for a task was told of a bug, each time that the first one worked.
#[test]
fn a_task_that_an_earlier_placement_was_granted_is_no_divergence_in_those_behind() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        job web by batch tasks=2 cpu=1000
        job big by batch tasks=1 cpu=5000
        batch: claim web[0]@m1 claim web[0]@m2
        divergences?
        batch: claim web[0]@m1 claim web[0]@m2
        divergences?
        batch: claim web[1]@m1 claim web[1]@m2 claim big[0]@m2 min=1 atomic
        divergences?
        ",
        "
        batch: partial; web[0] granted; web[0] misfit TaskTaken
        divergences []
        batch: refused; web[0] misfit TaskTaken; web[0] misfit TaskTaken
        divergences [0, 1]
        batch: refused; web[1] mate MinimumMissed; web[1] misfit TaskTaken; big[0] misfit NoRoom short cpu_millis 1000
        divergences [2]
        ",
    );
}

#[test]
fn what_may_follow_from_a_quota_that_kept_a_claim_from_making_room_is_no_divergence() {
    let plays = |before: &str, said: &str| {
        let told = format!("{said}\ndivergences []");
        check(&format!("machine m1 cpu=4000 gpus=1\n{before}\ndivergences?"), &told);
    };
    plays(
        "
        machine m2 cpu=1000
        job gang by ml tasks=1 cpu=3000
        job web by ml tasks=1 cpu=900
        hold gang m2 cpu=1000
        quota default cpu=2000
        ml: claim gang[0]@m1 claim web[0]@m2
        ",
        "ml: refused; gang[0] quota QuotaExceeded short cpu_millis 1000; web[0] misfit NoRoom short cpu_millis 900",
    );
    plays(
        "
        job low by ml tasks=1 cpu=600 ports=http:80 prio=10
        job high by ml tasks=1 cpu=4000 prio=90
        job next by ml tasks=1 cpu=100 ports=http:80
        ml: claim low[0]@m1
        quota default cpu=900
        ml: claim high[0]@m1 victim=low[0] claim next[0]@m1 over=low[0]
        ",
        "
        ml: committed; low[0] granted http:80
        ml: refused; high[0] quota QuotaExceeded short cpu_millis 3100; next[0] misfit PortTaken port 80
        ",
    );
    for more in ["gpus=500", "ports=http", "together"] {
        plays(
            &format!(
                "
                machine m2 cpu=4000
                job large by ml tasks=1 cpu=3000 {more}
                job small by ml tasks=1 cpu=100
                quota default cpu=2000
                cordon m2
                ml: claim large[0]@m1 claim small[0]@m2
                "
            ),
            "ml: refused; large[0] quota QuotaExceeded short cpu_millis 1000; small[0] misfit MachineNotReady",
        );
    }
}

#[test]
fn nobody_knows_what_came_to_a_machine_before_the_server_opened() {
    check(
        "
        machine m1 cpu=8000 rack=r1
        job web by service tasks=3 cpu=100 spread=rack:1 per=2
        job cache by service tasks=2 cpu=100 per=1
        service: claim web[0]@m1 claim cache[0]@m1
        snapshot
        restart
        service: claim web[1]@m1 claim cache[1]@m1
        ",
        "
        service: committed; web[0] granted; cache[0] granted
        service: refused; web[1] stale SpreadLimit; cache[1] stale PerMachineLimit
        ",
    );
}

// Whatever was counted was forgotten when any machine got other attributes, and each group walked again at its next claim.
#[test]
fn a_machine_that_gets_other_attributes_takes_its_tasks_along() {
    check(
        "
        machine m1 cpu=8000 rack=r1
        machine m2 cpu=8000 rack=r2
        machine m3 cpu=8000 rack=r1
        job web by service tasks=6 cpu=100 spread=rack:2
        service: claim web[0]@m1 web[1]@m1
        service: claim web[2]@m3
        machine m1 cpu=8000 rack=r2
        counted?
        service: claim web[2]@m2
        service: claim web[2]@m3 web[3]@m3 web[4]@m3
        machine m2 cpu=8000
        machine m1 cpu=8000 rack=r1 boot=b
        service: claim web[4]@m1
        machine m4 cpu=8000 rack=r3
        service: claim web[0]@m4 web[1]@m4
        service: stop web[0] web[1]
        machine m4 cpu=8000 rack=r1
        counted?
        ",
        "
        service: committed; web[0] granted; web[1] granted
        service: refused; web[2] misfit SpreadLimit
        1 groups counted
        service: refused; web[2] misfit SpreadLimit
        service: partial; web[2] granted; web[3] granted; web[4] misfit SpreadLimit
        service: refused; web[4] misfit SpreadLimit
        service: committed; web[0] granted; web[1] granted
        service: committed
        1 groups counted
        ",
    );
}

// What was counted stayed until the job was retired.
#[test]
fn tasks_of_a_job_that_is_over_are_counted_no_more() {
    check(
        "
        machine m1 cpu=8000 rack=r1
        job web by service tasks=3 cpu=100 spread=rack:2 per=2
        job map by batch tasks=2 cpu=100 per=1
        service: claim web[0]@m1
        batch: claim map[0]@m1
        counted?
        stopjob web
        service: claim web[1]@m1
        counted?
        report web[0] stopped
        counted?
        job web by service tasks=3 cpu=100 spread=rack:2 per=2
        service: claim web[0]@m1 web[1]@m1 web[2]@m1
        counted?
        ",
        "
        service: committed; web[0] granted
        batch: committed; map[0] granted
        2 groups counted
        service: refused; web[1] misfit NotWanted (the job is over (stopped))
        1 groups counted
        1 groups counted
        service: partial; web[0] granted; web[1] granted; web[2] misfit PerMachineLimit
        2 groups counted
        ",
    );
}

#[test]
fn a_single_instance_waits_for_the_receipt_of_its_predecessor() {
    check(
        "
        machine m1 cpu=8000
        machine m2 cpu=8000
        job db by service tasks=1 cpu=100 single
        service: claim db[0]@m1
        service: stop db[0] claim db[0]@m2
        service: stop db[0]
        service: claim db[0]@m2
        report db[0] stopped
        service: claim db[0]@m2
        ",
        "
        service: committed; db[0] granted
        service: partial; db[0] misfit Predecessor
        service: committed
        service: refused; db[0] misfit Predecessor
        service: committed; db[0] granted
        ",
    );
}

/// Scaling up waited for what was still leaving; submitting the job again with more tasks did not.
#[test]
fn a_single_instance_is_not_doubled_by_submitting_its_job_again() {
    check(
        "
        machine m1 cpu=8000
        job db by service tasks=2 cpu=100 single
        service: claim db[0]@m1 db[1]@m1
        scale db 1
        job db by service tasks=2 cpu=100 single
        report db[1] stopped
        job db by service tasks=2 cpu=100 single
        service: claim db[1]@m1
        ",
        "
        service: committed; db[0] granted; db[1] granted
        JOB_LEAVING: 1 task of this group is still leaving, and it has single instances; scale it up when it has ended
        service: committed; db[1] granted
        ",
    );
}

#[test]
fn a_group_with_a_minimum_starts_with_as_many_or_not_at_all() {
    check(
        "
        machine m1 cpu=2000
        job gang by ml tasks=4 cpu=1000 min=3
        ml: claim gang[0]@m1 gang[1]@m1 gang[2]@m1
        machine m2 cpu=2000
        ml: claim gang[0]@m1 gang[1]@m1 gang[2]@m2
        ml: claim gang[3]@m2
        ",
        "
        ml: refused; gang[0] mate MinimumMissed; gang[1] mate MinimumMissed; gang[2] misfit NoRoom short cpu_millis 1000
        ml: committed; gang[0] granted; gang[1] granted; gang[2] granted
        ml: committed; gang[3] granted
        ",
    );
}

// A gang of four was scaled to two: its minimum of three could never be met again, and it waited for ever.
#[test]
fn a_gang_that_was_scaled_below_its_minimum_starts_with_all_it_has() {
    check(
        "
        machine m1 cpu=4000
        job gang by ml tasks=4 cpu=1000 min=3
        scale gang 2
        ml: claim gang[0]@m1
        ml: claim gang[0]@m1 gang[1]@m1
        ",
        "
        ml: refused; gang[0] mate MinimumMissed
        ml: committed; gang[0] granted; gang[1] granted
        ",
    );
}

// The stop was counted with a placement that was undone, and was lost with it: only where the group had not been counted before.
#[test]
fn a_stop_counts_for_later_placements_though_an_earlier_one_is_undone() {
    check(
        "
        machine m1 cpu=8000
        machine m2 cpu=50
        job web by service tasks=4 cpu=100 per=1
        service: claim web[0]@m1
        restart
        service: stop web[0] claim web[1]@m1 web[2]@m2 min=2 claim web[3]@m1
        ",
        "
        service: committed; web[0] granted
        service: partial; web[1] mate MinimumMissed; web[2] misfit NoRoom short cpu_millis 50; web[3] granted
        ",
    );
}

// What a victim would have given back to its namespace stayed given when the placement that it was to go for was undone.
#[test]
fn a_victim_that_stays_gives_nothing_back_to_its_namespace() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=500
        machine m3 cpu=9000
        job low by batch tasks=1 cpu=4000 prio=10
        job other by batch tasks=1 cpu=2000 prio=10
        job gang by ml tasks=2 cpu=4000 prio=90
        job late by ml tasks=1 cpu=5000 prio=90
        quota default cpu=10000
        batch: claim low[0]@m1 claim other[0]@m3
        ml: claim gang[0]@m1 gang[1]@m2 victim=low[0] min=2 claim late[0]@m3
        show low[0]
        ",
        "
        batch: committed; low[0] granted; other[0] granted
        ml: refused; gang[0] mate MinimumMissed; gang[1] misfit NoRoom short cpu_millis 3500; late[0] quota QuotaExceeded short cpu_millis 1000
        low[0] Granted
        ",
    );
}

// The rows of the tasks that were scaled away stayed taken until a restart. They are others' now, while their allocations still leave.
#[test]
fn rows_of_tasks_that_were_scaled_away_serve_others_while_their_allocations_leave() {
    check(
        "
        machine m1 cpu=8000
        job web by service tasks=4 cpu=100
        service: claim web[0]@m1 web[1]@m1 web[2]@m1 web[3]@m1
        taskrows?
        scale web 1
        job map by batch tasks=2 cpu=100
        batch: claim map[0]@m1 map[1]@m1
        taskrows?
        report web[2] stopped
        report web[3] stopped
        restart
        report web[1] stopped
        scale web 4
        service: claim web[3]@m1
        taskrows?
        scale web 1
        scale web 4
        scale web 1
        scale web 4
        taskrows?
        ",
        "
        service: committed; web[0] granted; web[1] granted; web[2] granted; web[3] granted
        4 task rows
        batch: committed; map[0] granted; map[1] granted
        4 task rows
        service: committed; web[3] granted
        8 task rows
        8 task rows
        ",
    );
}

// Whom the transaction itself stopped counted as there: of a gang that moved as a whole one task started, and three did not.
#[test]
fn a_gang_that_its_own_transaction_stops_starts_anew_with_its_minimum_or_not_at_all() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=1000
        job gang by ml tasks=4 cpu=1000 min=4
        ml: claim gang[0]@m1 gang[1]@m1 gang[2]@m1 gang[3]@m1
        ml: stop gang[0] gang[1] gang[2] gang[3] claim gang[0]@m2 gang[1]@m2 gang[2]@m2 gang[3]@m2 atomic
        show gang[3]
        ml: stop gang[0] gang[1] gang[2] gang[3] claim gang[0]@m2 gang[1]@m2 gang[2]@m2 gang[3]@m2
        show gang[3]
        ",
        "
        ml: committed; gang[0] granted; gang[1] granted; gang[2] granted; gang[3] granted
        ml: refused; gang[0] mate MinimumMissed; gang[1] misfit NoRoom short cpu_millis 1000; gang[2] misfit NoRoom short cpu_millis 1000; gang[3] misfit NoRoom short cpu_millis 1000
        gang[3] Granted
        ml: partial; gang[0] mate MinimumMissed; gang[1] misfit NoRoom short cpu_millis 1000; gang[2] misfit NoRoom short cpu_millis 1000; gang[3] misfit NoRoom short cpu_millis 1000
        gang[3] Stopping
        ",
    );
}

// Whom an earlier placement of the transaction evicts counted as there, too, and whom one would have evicted that was undone must not count
// as gone.
#[test]
fn a_gang_whose_tasks_its_own_transaction_evicts_is_not_one_that_is_there() {
    check(
        "
        machine m1 cpu=2000
        machine m2 cpu=1000
        job low by ml tasks=3 cpu=1000 prio=10 min=2
        job high by ml tasks=2 cpu=1000 prio=90
        ml: claim low[0]@m1 low[1]@m1
        ml: claim high[0]@m1 high[1]@m1 victim=low[0] victim=low[1] min=3 claim low[2]@m2
        ml: stop low[2]
        report low[2] stopped
        ml: claim high[0]@m1 high[1]@m1 victim=low[0] victim=low[1] claim low[2]@m2
        ",
        "
        ml: committed; low[0] granted; low[1] granted
        ml: partial; high[0] mate MinimumMissed; high[1] mate MinimumMissed; low[2] granted
        ml: committed
        ml: partial; high[0] granted over low[0] 1000; high[1] granted over low[1] 1000; low[2] mate MinimumMissed
        ",
    );
}

// What an earlier placement was granted did not count as there: the fifth task of a gang of four was refused for want of mates.
#[test]
fn what_an_earlier_placement_is_granted_counts_for_the_minimum_of_the_next() {
    check(
        "
        machine m1 cpu=5000
        machine m2 cpu=1000
        job gang by ml tasks=5 cpu=1000 min=4
        ml: claim gang[0]@m1 gang[1]@m1 gang[2]@m2 gang[3]@m2 claim gang[4]@m1
        ml: claim gang[0]@m1 gang[1]@m1 gang[2]@m1 gang[3]@m1 claim gang[4]@m1
        ",
        "
        ml: refused; gang[0] mate MinimumMissed; gang[1] mate MinimumMissed; gang[2] mate MinimumMissed; gang[3] misfit NoRoom short cpu_millis 1000; gang[4] mate MinimumMissed
        ml: committed; gang[0] granted; gang[1] granted; gang[2] granted; gang[3] granted; gang[4] granted
        ",
    );
}

// Grants alone were looked for.
#[test]
fn an_atomic_transaction_that_missed_a_minimum_and_keeps_its_stops_is_found() {
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine("m1".to_owned()).slot;
    let [old, new] = [(); 2].map(|()| large.job(GroupShape { count: 1, ..GroupShape::default() }));
    let granted = large.commit(vec![placement(old, 0..1, |_| machine, 0)]).placements.concat();
    let stops: Vec<_> = granted.into_iter().flatten().collect();
    let before = large.core.cell().clone();
    let txn = Transaction {
        base: before.revision(),
        atomic: true,
        stops: stops.clone(),
        placements: vec![placement(new, 0..1, |_| machine + 1, 1)],
        ..Transaction::default()
    };
    let Decided::Changed { decision: Decision::Outcome(outcome), delta } = large.decide_commit(txn.clone()) else {
        panic!("it is decided")
    };
    let found = |delta: &Delta| invariant_minimums_hold(&before, &txn, &outcome, delta);
    assert_eq!(found(&delta), Ok(()));
    let status = AllocationStatus { state: AllocationState::Stopping, ready: false };
    let moves = vec![Move { slot: stops[0].slot, status, restarts: 0, reason: None }];
    let kept = Delta { moves, ..delta };
    let broken = Violation::MinimumBroken { revision: outcome.revision, placement: 0 };
    assert_eq!(found(&kept), Err(broken));
}
