//! Stories of jobs of high bands that could have what a gang of a low band holds.

use plenum_model::Command;

use super::*;

/// In thousandths.
const CORE: i64 = 1000;

/// Four machines of four cores, of which tasks of a low band run on three, and on the last one beside one of the highest; a gang of the low band holds what is free of the first three.
fn beside_a_low_gang() -> (Stage, JobId) {
    beside_a_low_gang_with(settings(Some(SOON)))
}

/// The same; with these settings services are placed.
fn beside_a_low_gang_with(of_services: Settings) -> (Stage, JobId) {
    let mut stage = Stage::new();
    for name in ["m1", "m2", "m3", "m4"] {
        stage.machine(name, 4000, &[("kind", "old")]);
    }
    stage.seat_with(Batch::default(), settings(Some(SOON)));
    stage.seat_with(Service::default(), of_services);
    let low = |name: &str, tasks| JobBuilder::new(name, "batch").group("main", tasks, CORE).priority(20).forever();
    stage.submit(&low("long", 12).per_machine(3));
    stage.settle();
    stage.submit(&low("plug", 1).priority(99));
    stage.settle();
    let gang =
        JobBuilder::new("gang", "batch").group("main", 4, CORE).min(4).per_machine(1).on("kind", "old").priority(20);
    let gang = stage.submit(&gang);
    stage.advance(3_000_000);
    assert_eq!((stage.placed(gang).len(), held(&stage, gang).len()), (0, 3));
    (stage, gang)
}

/// A hold was asked for only where it had room for all that a machine was to have of the job: of a long queue that was more than any had, and the more waited the less was taken.
#[test]
fn a_long_queue_of_a_higher_band_takes_what_is_held() {
    let (mut stage, gang) = beside_a_low_gang();
    let sweep = stage.submit(&JobBuilder::new("sweep", "batch").group("main", 100, CORE).priority(60));
    stage.advance(1_000_000);
    assert_eq!((stage.placed(sweep).len(), held(&stage, gang).len()), (15, 0), "the whole cell is theirs");
}

/// What it may evict and what is held were never put together: it waited for as long as the gang, in front of machines of which it could have had all but a quarter.
#[test]
fn who_may_evict_all_but_what_is_held_gets_the_machine() {
    let asks = |name: &str, scheduler: &str, tasks| {
        JobBuilder::new(name, scheduler).group("main", tasks, 4 * CORE).priority(95)
    };
    let jobs = [asks("one", "service", 1).forever(), asks("two", "batch", 2).min(2), asks("three", "batch", 3)];
    for (job, count) in jobs.into_iter().zip(1..) {
        let (mut stage, gang) = beside_a_low_gang();
        let job = stage.submit(&job);
        stage.advance(1_500_000);
        assert_eq!(stage.placed(job).len(), count);
        assert!(stage.cell().hold(job).is_none(), "the grant ends it");
        assert_eq!(held(&stage, gang).len(), 3 - count, "it keeps the others");
    }
}

/// Once it starved nobody looked at held room and evictions together any more, and it waited for as long as the gang of the low band held its part.
#[test]
fn who_starves_has_by_evictions_and_held_room_what_it_had_when_it_was_urgent() {
    let (mut stage, gang) = beside_a_low_gang();
    let limit = |cpu_millis| Some(Quota { limits: [Some(cpu_millis), None, None, None, None, None, None, None] });
    let quota = |limit| Command::SetQuota { namespace: "tight".into(), limit };
    stage.ask("operator", quota(limit(100)));
    let two = JobBuilder::new("two", "batch").group("main", 2, 4 * CORE).min(2).priority(95).namespace("tight");
    let two = stage.submit(&two);
    stage.advance(3_000_000);
    assert_eq!((stage.placed(two).len(), held(&stage, gang).len()), (0, 3));
    stage.ask("operator", quota(None));
    stage.advance(3_000_000);
    assert_eq!((stage.placed(two).len(), held(&stage, gang).len()), (2, 1));
}

/// It waited until it starved, ten seconds, as the held machines alone were not enough.
#[test]
fn a_gang_that_needs_held_machines_and_evictions_has_both_at_once() {
    let mut stage = Stage::new();
    for name in ["m1", "m2", "m3", "m4"] {
        stage.machine(name, 1000, &[]);
    }
    stage.seat_with(Batch::default(), settings(Some(Holding { after_wait_micros: 10_000_000, ..SOON })));
    let low = JobBuilder::new("long", "batch").group("main", 2, CORE).priority(20).forever();
    let low = stage.submit(&low);
    stage.settle();
    let gang = stage.submit(&gang("gang", "batch", 4).priority(25));
    stage.advance(11_000_000);
    assert_eq!((stage.placed(low).len(), held(&stage, gang).len()), (2, 2));
    let high = JobBuilder::new("high", "batch").group("main", 3, CORE).min(3).priority(60);
    let high = stage.submit(&high);
    stage.advance(1_500_000);
    assert_eq!((stage.placed(high).len(), stage.placed(low).len()), (3, 1), "one had to go");
}

/// What it held beside its victims was less than a machine of its own: it gave both parts up for the one that was free, where it did not claim at once, and had nothing then.
#[test]
fn parts_that_are_held_beside_victims_are_not_given_up_for_one_free_machine() {
    let seldom = Settings { pause_micros: 3_000_000, ..settings(Some(SOON)) };
    let (mut stage, gang) = beside_a_low_gang_with(seldom);
    stage.machine("m5", 4000, &[("kind", "new")]);
    let three = JobBuilder::new("three", "service").group("main", 3, 4 * CORE).min(3).priority(95).forever();
    let three = stage.submit(&three);
    stage.advance(12_000_000);
    assert_eq!((stage.placed(three).len(), held(&stage, gang).len()), (3, 1));
}

#[test]
fn who_may_not_evict_takes_no_part_of_what_is_held() {
    let (mut stage, gang) = beside_a_low_gang();
    stage.ask("operator", Command::SetRights { scheduler: "service".into(), evicts: Some(false), priority: None });
    let one = JobBuilder::new("one", "service").group("main", 1, 4 * CORE).priority(95).forever();
    let one = stage.submit(&one);
    stage.advance(5_000_000);
    assert_eq!((stage.placed(one).len(), held(&stage, gang).len()), (0, 3));
}

/// A machine without a GPU that was free counted as room for it, and nothing was asked for.
#[test]
fn a_free_machine_without_gpus_keeps_nobody_who_wants_one_from_asking() {
    let mut stage = Stage::new();
    for (name, gpus) in [("m1", 0), ("m2", 1), ("m3", 1)] {
        stage.machine_with_gpus(name, 1000, &[], gpus);
    }
    stage.seat_with(Batch::default(), settings(Some(SOON)));
    let long = JobBuilder::new("long", "batch").group("main", 1, CORE).gpu(1000).priority(99).forever();
    stage.submit(&long);
    stage.settle();
    let gang = stage.submit(&gang("gang", "batch", 2).gpu(1000).priority(20));
    stage.advance(3_000_000);
    assert_eq!(held(&stage, gang).len(), 1, "of the machines with GPUs one is full");
    let one = stage.submit(&JobBuilder::new("one", "batch").group("main", 1, CORE).gpu(1000).priority(90));
    stage.advance(1_500_000);
    assert_eq!((stage.placed(one).len(), held(&stage, gang).len()), (1, 0));
}

/// It held the machine whose GPUs were in use, for half a minute, and rested for five beside another one with idle GPUs.
#[test]
fn room_is_taken_from_holds_where_gpus_are_idle() {
    let mut stage = Stage::new();
    for (name, kind, cpu_millis) in [("m1", "a", 2000), ("m2", "b", 1000), ("m3", "c", 1000)] {
        stage.machine_with_gpus(name, cpu_millis, &[("kind", kind)], 1);
    }
    stage.seat_with(Batch::default(), settings(Some(SOON)));
    let asks = |name: &str, cpu_millis| JobBuilder::new(name, "batch").group("main", 1, cpu_millis).priority(60);
    stage.submit(&asks("with-gpu", CORE).gpu(1000).on("kind", "a").forever());
    stage.submit(&asks("full", CORE).on("kind", "b").forever());
    stage.settle();
    let gang = stage.submit(&gang("gang", "batch", 3).priority(20));
    stage.advance(3_000_000);
    assert_eq!((held(&stage, gang), stage.placed(gang).len()), (vec![0, 2], 0));
    let one = stage.submit(&asks("one", CORE).gpu(1000));
    stage.advance(1_500_000);
    assert_eq!(stage.placed(one).len(), 1);
}
