//! Stories of holds: what they are for, who has room beside them, and on machines that have less than they gave.

use plenum_model::{Command, Decision, GroupShape, RejectionCode, Resource, Resources, SessionId};

use super::check;
use super::costs::Large;
use crate::CoreOptions;

#[test]
fn an_earlier_hold_takes_room_from_a_later_one_which_keeps_its_place() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        job low by ml tasks=2 cpu=3000 prio=10
        job high by ml tasks=2 cpu=3000 prio=90
        job same by ml tasks=2 cpu=1000 prio=10
        hold low m1,m2 cpu=3000
        hold same m1 cpu=1000
        hold same m1 cpu=1500
        hold high m1 cpu=3000 for=120
        hold? low
        hold? same
        hold? high
        hold low m1 cpu=3000
        wait 60
        hold? low
        hold? high
        hold low m1 cpu=3000
        wait 60
        hold? high
        due?
        ",
        "
        NO_ROOM_TO_HOLD: m1 is short of cpu by 500m for same beside the holds that come first
        low holds [m2] for 60
        same holds [m1] for 60
        high holds [m1] for 120
        NO_ROOM_TO_HOLD: m1 is short of cpu by 2000m for low beside the holds that come first
        low no hold
        high holds [m1] for 60
        NO_ROOM_TO_HOLD: m1 is short of cpu by 2000m for low beside the holds that come first
        high no hold
        due never
        ",
    );
}

// The quota that the later one would give back was missing to the earlier one, and both kept what they had for ever.
#[test]
fn two_half_fitting_gangs_of_one_namespace_do_not_block_each_other_by_its_quota() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        machine m3 cpu=1000
        quota default cpu=2000
        job a by ml tasks=2 cpu=1000
        job b by ml tasks=2 cpu=1000
        hold a m1 cpu=1000
        hold b m2 cpu=1000
        hold b m1,m2 cpu=1000
        hold a m1,m3 cpu=1000
        hold a m1,m2 cpu=1000
        hold? a
        hold? b
        used? default
        hold a m1,m2,m3 cpu=1000
        ",
        "
        NO_ROOM_TO_HOLD: m1 is short of cpu by 1000m for b beside the holds that come first
        NO_ROOM_TO_HOLD: the quota of default is short of cpu by 1000m for a to hold that
        a holds [m1 m2] for 60
        b holds [] for 60
        default uses 2000
        NO_ROOM_TO_HOLD: the quota of default is short of cpu by 1000m for a to hold that
        ",
    );
}

#[test]
fn a_hold_without_machines_still_keeps_its_place() {
    check(
        "
        machine m1 cpu=4000
        job low by ml tasks=2 cpu=3000 prio=10
        job late by ml tasks=2 cpu=3000 prio=10
        job high by ml tasks=2 cpu=3000 prio=90
        hold low m1 cpu=3000
        hold high m1 cpu=3000
        hold? low
        unhold high
        hold late m1 cpu=3000
        hold low m1 cpu=3000
        hold? low
        hold? late
        unhold low
        unhold low
        ",
        "
        low holds [] for 60
        low holds [m1] for 60
        late holds [] for 60
        ",
    );
}

#[test]
fn a_hold_needs_machines_that_take_claims_of_its_job() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000 rack=a
        machine m3 cpu=4000
        job gang by ml tasks=2 cpu=3000
        job over by ml tasks=1 cpu=1000
        stopjob over
        cordon m1
        partition lab rack=a for=research
        hold gang m1 cpu=1000
        hold gang m2 cpu=1000
        hold gang m3 cpu=5000
        hold gang m3
        hold gang m3 cpu=1000 for=0
        hold over m3 cpu=1000
        partition lab rack=a for=research,ml
        hold gang m2 cpu=1000 for=6000
        hold? gang
        partition lab
        partition lab
        ",
        "
        NO_ROOM_TO_HOLD: m1 takes no claims (cordoned)
        NO_ROOM_TO_HOLD: m2 is reserved for other schedulers than ml by a partition
        NO_ROOM_TO_HOLD: m3 is short of cpu by 1000m for gang
        INVALID_REQUEST: resources: expected some of each machine's room, found none
        INVALID_REQUEST: within_micros: expected a deadline that is still to come when this is decided, found one that was 0 µs before
        JOB_OVER: over is over (stopped) and can't be changed
        gang holds [m2] for 600
        NO_SUCH_PARTITION: there is no partition lab to remove; `plenum partition list` shows those that are
        ",
    );
}

#[test]
fn a_hold_counts_in_the_quota_and_is_refused_beyond_it() {
    check(
        "
        machine m1 cpu=9000
        job gang by ml tasks=2 cpu=3000
        quota default cpu=3000
        hold gang m1 cpu=4000
        hold gang m1 cpu=3000
        hold gang m1 cpu=2500
        used? default
        ",
        "
        NO_ROOM_TO_HOLD: the quota of default is short of cpu by 1000m for gang to hold that
        default uses 2500
        ",
    );
}

#[test]
fn a_hold_ends_with_its_job_and_leaves_a_machine_that_is_removed() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        job gang by ml tasks=2 cpu=3000
        hold gang m1,m2 cpu=3000
        remove m1
        hold? gang
        machine m9 cpu=4000
        stopjob gang
        hold? gang
        ",
        "
        gang holds [m2] for 60
        gang no hold
        ",
    );
}

// Holds were not in the ring of changes: who lost its room to one was told that it had never fitted.
#[test]
fn who_loses_room_to_a_hold_learns_of_it_and_its_owner_does_not_stand_in_its_own_way() {
    check(
        "
        machine m1 cpu=4000
        job gang by ml tasks=1 cpu=3000
        job web by service tasks=2 cpu=2000
        ml:
        snapshot
        hold gang m1 cpu=3000 for=300
        service: claim web[0]@m1
        ml: sequence claim gang[0]@m1
        service: claim web[0]@m1
        ",
        "
        ml: committed
        service: refused; web[0] conflict NoRoom short cpu_millis 1000 culprits hold 3000 total 3000
        ml: committed; gang[0] granted
        service: refused; web[0] conflict NoRoom short cpu_millis 1000 culprits ml 3000 total 3000
        ",
    );
}

// What a job held was taken room for the others in the very transaction that granted it what it waited for.
#[test]
fn room_that_was_held_is_free_once_its_job_was_granted_what_it_waited_for() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=100
        job gang by ml tasks=2 cpu=1000
        job web by ml tasks=2 cpu=3000
        quota default cpu=4000
        hold gang m1 cpu=3000
        ml: claim web[0]@m1
        ml: claim gang[0]@m1 gang[1]@m2 min=2 claim web[0]@m1
        hold? gang
        ml: claim gang[0]@m1 claim web[0]@m1 claim web[1]@m1
        hold? gang
        used? default
        ",
        "
        ml: refused; web[0] quota QuotaExceeded short cpu_millis 2000
        ml: refused; gang[0] mate MinimumMissed; gang[1] misfit NoRoom short cpu_millis 900; web[0] quota QuotaExceeded short cpu_millis 2000
        gang holds [m1] for 60
        ml: partial; gang[0] granted; web[0] granted; web[1] quota QuotaExceeded short cpu_millis 3000
        gang no hold
        default uses 4000
        ",
    );
}

#[test]
fn who_lacks_room_beside_a_hold_that_ends_is_told_of_those_who_came_between() {
    check(
        "
        machine m1 cpu=5000
        job gang by ml tasks=1 cpu=1000
        job web by ml tasks=2 cpu=3000
        job other by batch tasks=1 cpu=1500
        snapshot
        hold gang m1 cpu=3000
        batch: claim other[0]@m1
        ml: claim web[0]@m1
        ml: claim gang[0]@m1 claim web[0]@m1
        ",
        "
        batch: committed; other[0] granted
        ml: refused; web[0] conflict NoRoom short cpu_millis 2500 culprits batch 1500 hold 3000 total 4500
        ml: partial; gang[0] granted; web[0] conflict NoRoom short cpu_millis 500 culprits batch 1500 total 1500
        ",
    );
}

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

#[test]
fn of_those_who_come_later_the_first_ones_keep_what_an_earlier_hold_leaves() {
    check(
        "
        machine m1 cpu=4000
        job a by ml tasks=1 cpu=1000 prio=10
        job b by ml tasks=1 cpu=1000 prio=10
        job c by ml tasks=1 cpu=1000 prio=10
        job high by ml tasks=1 cpu=1000 prio=90
        hold a m1 cpu=1000
        hold b m1 cpu=1000
        hold c m1 cpu=1000
        hold high m1 cpu=2500
        hold? a
        hold? b
        hold? c
        hold? high
        ",
        "
        a holds [m1] for 60
        b holds [] for 60
        c holds [] for 60
        high holds [m1] for 60
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

// With less, two gangs wait for what the other one holds for ever; with more, each hold is refused.
#[test]
fn what_a_view_says_that_a_hold_may_have_is_granted_and_no_more() {
    // The bands of who held first and of who held then; whose is asked for, or that of a third one; and what it may have of a thousand cores.
    let cases = [
        ((5, 5), 0, 1_000_000),
        ((5, 5), 1, 600_000),
        ((5, 5), 2, 300_000),
        ((5, 25), 0, 700_000),
        ((5, 25), 1, 1_000_000),
        ((25, 5), 1, 600_000),
        ((5, 25), 2, 300_000),
    ];
    for ((first, second), asks, expected) in cases {
        let mut large = Large::new(CoreOptions::default());
        let machine = large.machine("m1".to_owned()).slot;
        let group = || GroupShape { count: 1, resources: Resources::new(1, 1), ..GroupShape::default() };
        let jobs = [first, second, 5].map(|priority| large.job_at(priority, group()));
        let deadline = large.now.plus_micros(60_000_000);
        large.hold(jobs[0], &[machine], Resources::new(400_000, 0), deadline);
        large.hold(jobs[1], &[machine], Resources::new(300_000, 0), deadline);
        let room = large.core.cell().room_to_hold(machine, jobs[asks]).get(Resource::CpuMillis);
        assert_eq!(room, expected, "{first} {second} {asks}");
        let asked = |amount: i64| {
            let resources = Resources::new(u64::try_from(amount).unwrap(), 0);
            let (session, machines) = (SessionId::default(), vec![machine]);
            Command::TakeHold { session, job: jobs[asks], machines, resources, deadline }
        };
        let refused = large.ask(asked(room + 1));
        assert!(
            matches!(&refused, Decision::Rejected(why) if why.code == RejectionCode::NoRoomToHold),
            "{first} {second} {asks}: {refused:?}"
        );
        let granted = large.ask(asked(room));
        assert!(matches!(granted, Decision::Accepted { .. }), "{first} {second} {asks}: {granted:?}");
    }
}

// It was refused as long as the namespace had more than the quota: only to give back all of it, and its place with it, was left.
#[test]
fn a_hold_can_be_made_smaller_whatever_its_quota_and_none_is_renewed_beyond_one() {
    check(
        "
        machine m1 cpu=9000
        machine m2 cpu=9000
        job gang by ml tasks=2 cpu=3000
        job other by ml tasks=1 cpu=1000
        quota default cpu=5000
        hold other m1 cpu=1000
        hold gang m1,m2 cpu=2000
        quota default cpu=2000
        hold gang m1,m2 cpu=2000
        hold gang m1 cpu=2000
        hold? gang
        used? default
        ",
        "
        NO_ROOM_TO_HOLD: the quota of default is short of cpu by 3000m for gang to hold that
        gang holds [m1] for 60
        default uses 3000
        ",
    );
}

#[test]
fn claims_find_the_room_of_those_holds_that_have_ended_before_them() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        job first by ml tasks=1 cpu=100
        job second by ml tasks=1 cpu=100
        job whole by ml tasks=2 cpu=4000
        snapshot
        hold first m1 cpu=1000
        hold second m1 cpu=1000
        ml: claim first[0]@m2 claim whole[0]@m1 claim second[0]@m2 claim whole[1]@m1
        ",
        "
        ml: partial; first[0] granted; whole[0] conflict NoRoom short cpu_millis 1000 culprits hold 1000 total 1000; second[0] granted; whole[1] granted
        ",
    );
}
