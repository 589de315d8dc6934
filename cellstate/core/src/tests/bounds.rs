//! Stories of what there may be so many of, and no more.

use super::story::check;

// One scheduler whose jobs held all places kept everybody else's gangs out for as long as it liked, also those that come first.
#[test]
fn one_scheduler_leaves_others_places_for_holds() {
    check(
        "
        most holds 4
        machine m1 cpu=9000
        job a1 by ml tasks=1 cpu=1000 prio=10
        job a2 by ml tasks=1 cpu=1000 prio=10
        job a3 by ml tasks=1 cpu=1000 prio=90
        job b1 by web tasks=1 cpu=1000
        job b2 by web tasks=1 cpu=1000
        job c1 by gang tasks=1 cpu=1000
        job d1 by batch tasks=1 cpu=1000
        hold a1 m1 cpu=100
        hold a2 m1 cpu=100
        hold a3 m1 cpu=100
        hold a2 m1 cpu=200 for=120
        hold b1 m1 cpu=100
        hold b2 m1 cpu=100
        hold c1 m1 cpu=100
        hold d1 m1 cpu=100
        unhold a1
        hold d1 m1 cpu=100
        hold? a1
        hold? a2
        hold? a3
        hold? b1
        hold? b2
        hold? c1
        hold? d1
        ",
        "
        LIMIT_REACHED: at most 4 jobs can hold room at once, and those of one scheduler half of what others leave: 2 of ml do, and 0 of others; give some back, or try again when some are done
        LIMIT_REACHED: at most 4 jobs can hold room at once, and those of one scheduler half of what others leave: 1 of web do, and 2 of others; give some back, or try again when some are done
        LIMIT_REACHED: at most 4 jobs can hold room at once, and those of one scheduler half of what others leave: 0 of batch do, and 4 of others; give some back, or try again when some are done
        a1 no hold
        a2 holds [m1] for 120
        a3 no hold
        b1 holds [m1] for 60
        b2 no hold
        c1 holds [m1] for 60
        d1 holds [m1] for 60
        ",
    );
}

#[test]
fn of_partitions_there_are_so_many_and_those_can_be_changed() {
    check(
        "
        most partitions 1
        partition lab rack=a for=research
        partition den rack=b for=research
        partition lab rack=b for=research
        partition lab
        partition den rack=b for=research
        partition den
        ",
        "
        LIMIT_REACHED: at most 1 partitions; remove some
        ",
    );
}

#[test]
fn of_machines_there_are_so_many_and_those_can_come_back() {
    check(
        "
        most machines 2
        machine m1 cpu=4000
        machine m2 cpu=4000
        machine m3 cpu=4000
        machine m1 cpu=5000
        remove m2
        machine m3 cpu=4000
        machine? m1
        machine? m3
        ",
        "
        LIMIT_REACHED: at most 2 machines in the cell; remove some
        m1 Ready
        m3 Ready
        ",
    );
}
