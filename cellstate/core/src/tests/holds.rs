//! Stories of holds: what they are for, and on machines that have less than they gave.

use plenum_model::{Command, Decision, GroupShape, RejectionCode, Resource, Resources, SessionId};

use super::check;
use super::costs::Large;
use crate::CoreOptions;

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
