//! Stories of what groups declare: limits of machines, spread, single instances, minimums.

use super::check;

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
