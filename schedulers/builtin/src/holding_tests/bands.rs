//! Stories of gangs of low bands beside work of higher ones.

use plenum_model::Quota;

use super::*;

/// The gang asked for each machine that came free before the next task of the higher job was placed there, started in its stead, and was evicted for it.
#[test]
fn what_comes_free_goes_to_what_waits_of_a_higher_band_and_not_to_a_gang() {
    // Also where tasks end so seldom that the higher job waits for longer than room is left to anybody.
    for pause_micros in [100_000, 700_000, 2_700_000] {
        let mut stage = Stage::new();
        let (seat, stream) = crowded(&mut stage, Some(SOON));
        let gang = stage.submit(&gang("gang", "batch", 4).priority(5));
        stage.advance(2_000_000);
        for _ in 0..50 {
            ends_one(&mut stage, stream);
            let (small, large) = (stage.placed(stream).len(), held(&stage, gang).len());
            assert_eq!((small, large, stage.placed(gang).len()), (4, 0, 0), "{pause_micros}");
            stage.advance(pause_micros - ROUND_MICROS);
        }
        assert_eq!(stage.runtime(seat).counters().holds_taken, 0, "{pause_micros}");
    }
}

/// It was left to higher jobs of its own scheduler alone: before the stream of another one a gang gathered its machines, started, and was evicted, again and again.
#[test]
fn what_comes_free_goes_to_what_waits_with_another_scheduler() {
    let mut stage = Stage::new();
    let seat = stage.seat_with(Batch::default(), settings(Some(SOON)));
    stage.seat_with(Service::default(), settings(Some(SOON)));
    for name in ["m1", "m2", "m3", "m4"] {
        stage.machine(name, 1000, &[]);
    }
    let stream = stage.submit(&JobBuilder::new("stream", "service").group("main", 400, 600).priority(60));
    stage.settle();
    let gang = stage.submit(&gang("gang", "batch", 4).priority(20));
    stage.advance(2_000_000);
    for round in 0..100 {
        ends_one(&mut stage, stream);
        assert_eq!((stage.placed(gang).len(), held(&stage, gang).len()), (0, 0), "{round}");
    }
    assert_eq!(stage.runtime(seat).counters().holds_taken, 0);
    // Nobody places the stream any more.
    stage.ask("operator", Command::PauseScheduler { scheduler: "service".into(), paused: true });
    for _ in 0..20 {
        ends_one(&mut stage, stream);
    }
    stage.advance(3_000_000);
    assert_eq!(stage.placed(gang).len(), 4);
}

#[test]
fn a_gang_starts_while_work_of_a_higher_band_comes_and_goes_on_other_machines() {
    let mut stage = Stage::new();
    for (name, kind) in [("m1", "a"), ("m2", "a"), ("m3", "b"), ("m4", "b")] {
        stage.machine(name, 1000, &[("kind", kind)]);
    }
    stage.seat_with(Batch::default(), settings(Some(SOON)));
    let stream = |name: &str, kind: &str| JobBuilder::new(name, "batch").group("main", 400, 600).on("kind", kind);
    let high = stage.submit(&stream("high", "a").priority(90));
    let low = stage.submit(&stream("low", "b").priority(5));
    stage.settle();
    let gang = stage.submit(&gang("gang", "batch", 2).on("kind", "b").priority(5));
    let started = (0..40).position(|_| {
        ends_one(&mut stage, high);
        ends_one(&mut stage, low);
        stage.placed(gang).len() == 2
    });
    assert!(started.is_some(), "the other one has no use for these");
}

#[test]
fn room_that_a_higher_job_has_no_use_for_is_left_to_it_for_a_second_and_then_held() {
    let (mut stage, _, high, gang) = beside_a_quota();
    stage.advance(900_000);
    assert!(held(&stage, gang).is_empty(), "it may be about to be placed there");
    stage.advance(200_000);
    assert_eq!(held(&stage, gang), [1]);
    // From now on it can be placed, and comes first.
    stage.ask("operator", Command::SetQuota { namespace: "tight".into(), limit: None });
    stage.advance(1_000_000);
    assert_eq!((stage.placed(high).len(), held(&stage, gang).len()), (1, 0));
}

/// Of two machines one is full; a gang that needs both starves from now on, and a job of a higher band waits for want of quota alone.
fn beside_a_quota() -> (Stage, Seat, JobId, JobId) {
    let mut stage = Stage::new();
    let seat = stage.seat_with(Batch::default(), settings(Some(SOON)));
    let limit = Quota { limits: [Some(100), None, None, None, None, None, None, None] };
    stage.ask("operator", Command::SetQuota { namespace: "tight".into(), limit: Some(limit) });
    for name in ["m1", "m2"] {
        stage.machine(name, 1000, &[]);
    }
    stage.submit(&JobBuilder::new("long", "batch").group("main", 1, 1000).priority(99).forever());
    stage.settle();
    let high = stage.submit(&JobBuilder::new("high", "batch").namespace("tight").group("main", 1, 600).priority(90));
    let gang = stage.submit(&gang("gang", "batch", 2));
    stage.advance(SOON.after_wait_micros + 10_000);
    (stage, seat, high, gang)
}

/// Jobs of other schedulers were looked for above the band of the gang that starved then: for up to a second those of the bands between were not there for the next one.
#[test]
fn a_gang_of_a_lower_band_finds_strangers_that_the_one_before_it_need_not_know() {
    let mut stage = Stage::new();
    let seat = stage.seat_with(Batch::default(), settings(Some(SOON)));
    stage.seat_with(Service::default(), settings(None));
    for name in ["m1", "m2", "m3"] {
        stage.machine(name, 1000, &[]);
    }
    let stream = stage.submit(&JobBuilder::new("stream", "service").group("main", 400, 600).priority(60));
    stage.settle();
    let high = stage.submit(&gang("high", "batch", 4).on("kind", "other").priority(65));
    stage.advance(400_000);
    let low = stage.submit(&gang("low", "batch", 3).priority(20));
    for round in 0..60 {
        ends_one(&mut stage, stream);
        assert_eq!((held(&stage, low).len(), stage.placed(low).len()), (0, 0), "{round}");
    }
    assert_eq!((held(&stage, high).len(), stage.runtime(seat).counters().holds_taken), (0, 0), "it fits nowhere");
}
