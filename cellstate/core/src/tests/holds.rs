//! Stories of holds: what they are for, and on machines that have less than they gave.

use super::check;

// An earlier hold, or a mere renewal of it, took the machine from a later one for memory that it did not ask for.
#[test]
fn an_earlier_hold_takes_nothing_for_a_resource_that_it_does_not_ask_for() {
    check(
        "
        machine m1 cpu=4000 mem=100
        job late by ml tasks=1 cpu=1000 prio=10
        job early by ml tasks=1 cpu=1000 prio=90
        hold late m1 cpu=1000 mem=60
        machine m1 cpu=4000 mem=40
        hold early m1 cpu=1000
        hold? late
        hold early m1 cpu=1000 mem=1
        hold? late
        ",
        "
        late holds [m1] for 60
        late holds [] for 60
        ",
    );
}

// A scheduler could set aside all the room of a cell for jobs that ran, and renew that for as long as they lived.
#[test]
fn room_is_held_for_a_job_only_while_something_of_it_waits() {
    let nothing_waits = |name: &str| {
        format!(
            "NOT_WANTED: {name}: expected a task that waits to be placed, found none; room is held for what waits: give back what is \
             held, or ask again when something does"
        )
    };
    let [gang, flow] = ["gang", "flow"].map(nothing_waits);
    check(
        "
        machine m1 cpu=8000
        machine m2 cpu=8000
        job gang by ml tasks=2 cpu=1000
        ml: claim gang[0]@m1 gang[1]@m1
        hold gang m2 cpu=1000
        unhold gang
        ml: stop gang[1]
        hold gang m2 cpu=1000
        scale gang 1
        hold gang m2 cpu=1000 for=120
        hold? gang
        unhold gang
        hold? gang
        job flow by ml tasks=1 cpu=1000
        group flow next after=main tasks=1 cpu=1000
        ml: claim flow[0]@m1
        hold flow m2 cpu=1000
        report flow[0] complete
        hold flow m2 cpu=1000
        hold? flow
        ",
        &format!(
            "
            ml: committed; gang[0] granted; gang[1] granted
            {gang}
            ml: committed
            {gang}
            gang holds [m2] for 60
            gang no hold
            ml: committed; flow[0] granted
            {flow}
            flow holds [m2] for 60
            "
        ),
    );
}

#[test]
fn room_is_held_for_what_failed_evicted_or_lost_tasks_are_to_have_again() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        job tried by ml tasks=1 cpu=1000 retry=3 delay=30
        job lost by ml tasks=1 cpu=1000
        job low by ml tasks=1 cpu=1000 prio=10
        job high by ml tasks=1 cpu=4000 prio=90
        ml: claim tried[0]@m1
        report tried[0] failed 1
        hold tried m1 cpu=1000
        hold? tried
        ml: claim lost[0]@m2
        expire m2
        wait 60
        hold lost m1 cpu=1000
        hold? lost
        unhold lost
        ml: claim low[0]@m1
        ml: claim high[0]@m1 victim=low[0]
        hold low m1 mem=10
        hold? low
        machine m3 cpu=1000
        job single by ml tasks=1 cpu=1000 single
        ml: claim single[0]@m3
        ml: stop single[0]
        hold single m1 mem=10
        hold? single
        ",
        "
        ml: committed; tried[0] granted
        tried holds [m1] for 60
        ml: committed; lost[0] granted
        lost holds [m1] for 60
        ml: committed; low[0] granted
        ml: committed; high[0] granted over low[0] 1000
        low holds [m1] for 60
        ml: committed; single[0] granted
        ml: committed
        single holds [m1] for 60
        ",
    );
}
