//! Stories of requests for holds that are refused, or of which nobody knows what became.

use plenum_model::Quota;

use super::*;

/// What a cell that had no room for requests, or no disk to write on, refused was asked for again as fast as answers came, until the hold ended by itself.
#[test]
fn a_hold_that_can_not_be_given_back_is_given_back_later() {
    let (mut stage, seat, gang) = half_held(SOON);
    stage.refuse_holds(seat, "QUEUE_FULL");
    stage.ask("owner", Command::ScaleJob { job: gang, version: None, group: 0, count: 0 });
    stage.advance(5_000_000);
    let refused = stage.runtime(seat).counters().holds_refused;
    assert!((5..=20).contains(&refused), "every two seconds in the end: {refused}");
    assert_eq!(held(&stage, gang).len(), 2);
    stage.refuse_holds(seat, "");
    stage.advance(2_500_000);
    assert!(stage.cell().hold(gang).is_none());
}

/// The room was asked for again as soon as after any other request without an answer.
#[test]
fn what_brought_nothing_is_left_to_others_also_where_nobody_heard_that_it_was_given_back() {
    let (mut stage, seat, gang) = half_held(Holding { patience_micros: 200_000_000, ..SOON });
    stage.advance(195_000_000);
    assert_eq!(held(&stage, gang).len(), 2);
    stage.lose_hold_answers(seat, true);
    for _ in 0..18 {
        stage.advance(10_000_000);
        assert!(stage.cell().hold(gang).is_none());
    }
    stage.lose_hold_answers(seat, false);
    stage.advance(30_000_000);
    assert_eq!(held(&stage, gang).len(), 2, "it tries again");
}

/// It asked for all of its tasks at once, was refused each time, and none was placed: a quota is judged for a hold as a whole.
#[test]
fn an_urgent_job_whose_quota_has_room_for_some_of_its_tasks_gets_that() {
    let mut stage = Stage::new();
    for name in ["m1", "m2", "m3", "m4", "m5"] {
        stage.machine(name, 1000, &[]);
    }
    let limit = Quota { limits: [Some(1400), None, None, None, None, None, None, None] };
    stage.ask("operator", Command::SetQuota { namespace: "tight".into(), limit: Some(limit) });
    stage.seat_with(Batch::default(), settings(Some(SOON)));
    stage.submit(&JobBuilder::new("long", "batch").group("main", 1, 1000).priority(99).forever());
    stage.settle();
    let gang = stage.submit(&gang("gang", "batch", 5));
    stage.advance(3_000_000);
    assert_eq!(held(&stage, gang).len(), 4);
    let web = JobBuilder::new("web", "batch").namespace("tight").group("main", 20, 400).priority(90);
    let web = stage.submit(&web);
    stage.advance(5_000_000);
    assert_eq!(stage.placed(web).len(), 3, "of twenty");
}

/// The last one gave its room back for it every two seconds, lost machines to small tasks before it had them again, and never gathered anything.
#[test]
fn nobody_makes_place_for_who_is_refused() {
    let mut stage = Stage::new();
    for name in ["m1", "m2", "m3"] {
        stage.machine(name, 1000, &[]);
    }
    let limit = Quota { limits: [Some(100), None, None, None, None, None, None, None] };
    stage.ask("operator", Command::SetQuota { namespace: "tight".into(), limit: Some(limit) });
    let seat = stage.seat_with(Batch::default(), settings(Some(SOON)));
    stage.submit(&JobBuilder::new("long", "batch").group("main", 1, 1000).priority(99).forever());
    stage.settle();
    let apart = |name: &str| JobBuilder::new(name, "batch").group("main", 3, 200).min(3).per_machine(1);
    let gangs = ["g1", "g2", "g3", "g4"].map(|name| stage.submit(&apart(name)));
    stage.advance(5_000_000);
    let holders = |stage: &Stage| gangs.map(|gang| held(stage, gang).len());
    assert_eq!(holders(&stage), [2, 2, 2, 2]);
    let urgent = JobBuilder::new("urgent", "batch").namespace("tight").group("main", 1, 600).priority(90);
    let urgent = stage.submit(&urgent);
    for _ in 0..20 {
        stage.advance(1_000_000);
        assert_eq!(holders(&stage), [2, 2, 2, 2]);
    }
    let counters = stage.runtime(seat).counters();
    assert_eq!(counters.holds_given_back, 0);
    assert!((10..=40).contains(&counters.holds_refused), "{}", counters.holds_refused);
    stage.ask("operator", Command::SetQuota { namespace: "tight".into(), limit: None });
    stage.advance(3_000_000);
    assert_eq!(stage.placed(urgent).len(), 1);
}

/// What the job itself was promised by its claim counted as room that it could not hold: the machine fell out of the hold, and had to be had once more, before
/// anybody else, where the claim came to nothing.
#[test]
fn a_hold_is_not_renewed_without_the_machines_that_its_own_job_claims() {
    let (mut stage, seat) = one_of_three_full();
    let gang = stage.submit(&gang("gang", "batch", 3).group("extra", 0, 300));
    stage.advance(3_000_000);
    assert_eq!(held(&stage, gang).len(), 2);
    stage.hold(seat);
    stage.ask("owner", Command::ScaleJob { job: gang, version: None, group: 1, count: 1 });
    stage.advance(35_000_000);
    stage.reject_next(seat, "QUEUE_FULL");
    stage.release(seat);
    assert_eq!((stage.placed(gang).len(), held(&stage, gang).len()), (0, 2));
    assert_eq!(stage.runtime(seat).counters().holds_taken, 2, "it was taken, and renewed as a whole");
}

/// What another job was promised by its claim on one of the machines counted as lost to the hold, though that has it from whom it evicts there: the hold was renewed without the
/// machine, and that had to be had once more, before anybody else.
#[test]
fn a_hold_is_renewed_with_a_machine_on_which_another_job_evicts_somebody() {
    let mut stage = Stage::new();
    for (name, cpu_millis, kind) in [("m1", 2000, "a"), ("m2", 1000, "b"), ("m3", 1000, "c")] {
        stage.machine(name, cpu_millis, &[("kind", kind)]);
    }
    let seat = stage.seat_with(Batch::default(), settings(Some(SOON)));
    let one_on = |name: &str, kind: &str| JobBuilder::new(name, "batch").group("main", 1, 1000).on("kind", kind);
    let evicted = stage.submit(&one_on("evicted", "a").priority(5).forever());
    stage.submit(&one_on("long", "c").priority(5).forever());
    stage.settle();
    let gang = stage.submit(&gang("gang", "batch", 3).priority(5));
    stage.advance(3_000_000);
    assert_eq!(held(&stage, gang), [0, 1]);
    stage.hold(seat);
    let urgent = stage.submit(&one_on("urgent", "a").priority(90));
    stage.advance(35_000_000);
    stage.release(seat);
    assert_eq!((stage.placed(urgent).len(), stage.placed(evicted).len()), (1, 0));
    assert_eq!(held(&stage, gang), [0, 1]);
    assert_eq!(stage.runtime(seat).counters().holds_taken, 2, "it was taken, and renewed as a whole");
}

/// A request that was executed counted as not shown yet until the next delta: nothing was asked for the job in a cell where nothing else happened, and the hold ended.
#[test]
fn a_hold_that_a_snapshot_shows_is_renewed() {
    let mut stage = Stage::new();
    let seat = stage.seat_with(Batch::default(), settings(Some(SOON)));
    for name in ["m1", "m2"] {
        stage.machine(name, 1000, &[]);
    }
    stage.submit(&JobBuilder::new("long", "batch").group("main", 1, 1000).forever());
    stage.settle();
    let gang = stage.submit(&gang("gang", "batch", 2));
    stage.advance(SOON.after_wait_micros - 10_000);
    stage.fall_behind(seat);
    stage.advance(20_000);
    assert_eq!((held(&stage, gang).len(), stage.runtime(seat).counters().snapshots), (1, 2));
    let since = stage.cell().hold(gang).map(|hold| hold.first_wait);
    stage.advance(70_000_000);
    assert_eq!(stage.cell().hold(gang).map(|hold| hold.first_wait), since);
}
