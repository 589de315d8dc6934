//! Stories of holds that bring nothing: where a group's own tasks are in the way, where something else is missing, and where nothing would ever fit.

use super::*;

// The replacement of a task was held room for beside its mate, where `per_machine` kept it out, and a running gang went on without it.
#[test]
fn no_room_is_held_for_a_task_where_its_mates_keep_it_out() {
    let mut stage = Stage::new();
    stage.seat_with(Batch::default(), settings(Some(SOON)));
    // It comes before its mates in the queue, and has nothing to place until they run.
    let stream = stage.submit(&JobBuilder::new("stream", "batch").group("main", 0, 600));
    let mates = stage.submit(&gang("mates", "batch", 3).per_machine(1).forever());
    // The first three have room for a mate and a small task, or for two mates; the last one for four small ones.
    for (name, cpu_millis) in [("m1", 2100), ("m2", 2100), ("m3", 2100), ("m4", 2400)] {
        stage.machine(name, cpu_millis, &[]);
    }
    stage.settle();
    stage.ask("owner", Command::ScaleJob { job: stream, version: None, group: 0, count: 400 });
    stage.advance(1_000_000);
    assert_eq!((stage.placed(mates).len(), stage.placed(stream).len()), (3, 7));

    let lost =
        stage.cell().allocations().find(|found| found.row.job() == mates).map(|found| (found.id, found.row.machine));
    let (lost, machine) = lost.unwrap();
    stage.ask("owner", Command::StopAllocation(lost));
    stage.report(lost, AllocationState::Stopped, 0);
    stage.settle();
    for _ in 0..60 {
        ends_one(&mut stage, stream);
        let with_mates: Vec<u32> = stage.placed(mates).iter().map(|placed| placed.2).collect();
        assert!(!held(&stage, mates).iter().any(|slot| with_mates.contains(slot)), "{with_mates:?}, not {machine}");
    }
    assert_eq!(stage.placed(mates).len(), 3);
}

// What `spread` would never let start had a hold of all that it was thought to take, five minutes of ten.
#[test]
fn nothing_is_held_for_a_gang_that_spread_keeps_from_starting() {
    let rounds_with = |at_most| {
        let mut stage = Stage::new();
        let seat = stage.seat_with(Batch::default(), settings(Some(SOON)));
        for (name, rack) in [("m1", "r1"), ("m2", "r1"), ("m3", "r1"), ("m4", "r2")] {
            stage.machine(name, 1000, &[("rack", rack)]);
        }
        let stream = stage.submit(&JobBuilder::new("stream", "batch").group("main", 400, 600));
        stage.settle();
        let wide = stage.submit(&gang("wide", "batch", 3).spread("rack", at_most));
        let rounds = rounds_until_placed(&mut stage, stream, wide, 60);
        (rounds.is_some(), stage.runtime(seat).counters().holds_taken > 0)
    };
    assert_eq!(rounds_with(2), (true, true), "two beside each other, and the one of the other rack");
    assert_eq!(rounds_with(1), (false, false), "there are two racks");
    assert!(rounds_with(9).0, "a rule that is wide");
}

// A gang that lacked GPUs held all the cores that it takes, five minutes of ten, and was said to need no more.
#[test]
fn room_is_not_held_for_long_for_what_lacks_something_else() {
    let mut stage = Stage::new();
    let seat = stage.seat_with(Batch::default(), settings(Some(SOON)));
    for name in ["m1", "m2"] {
        stage.machine_with_gpus(name, 2000, &[], 1);
    }
    let small = stage.submit(&JobBuilder::new("small", "batch").group("main", 2, 100).gpu(1000).forever());
    stage.settle();
    let wide = stage.submit(&gang("wide", "batch", 2).gpu(1000));
    stage.advance(20_000_000);
    assert_eq!((stage.placed(small).len(), held(&stage, wide).len()), (2, 2));
    assert!(stage.passed_over(wide, 0).contains("holds all room that it takes"), "{}", stage.passed_over(wide, 0));
    stage.advance(20_000_000);
    assert_eq!((held(&stage, wide).len(), stage.runtime(seat).counters().holds_given_back), (0, 1));
}

// A gang that had once had all that it takes had the patience of that, half a minute: as soon as a more urgent job took a machine of it, it gave the others back and rested.
#[test]
fn a_hold_that_was_whole_and_lost_a_machine_has_the_time_of_a_part_and_then_of_a_whole_one_again() {
    let mut stage = Stage::new();
    stage.seat_with(Batch::default(), settings(Some(SOON)));
    for name in ["m1", "m2"] {
        stage.machine_with_gpus(name, 2000, &[], 1);
    }
    stage.submit(&JobBuilder::new("small", "batch").group("main", 2, 100).gpu(1000).forever());
    stage.settle();
    let wide = stage.submit(&gang("wide", "batch", 2).gpu(1000));
    stage.advance(10_000_000);
    assert_eq!(held(&stage, wide).len(), 2);
    let urgent = stage.submit(&JobBuilder::new("urgent", "batch").group("main", 1, 1500).priority(90));
    stage.advance(2_000_000);
    assert_eq!((stage.placed(urgent).len(), held(&stage, wide).len()), (1, 1));
    stage.advance(60_000_000);
    assert_eq!(held(&stage, wide).len(), 1, "it lacks a machine, and not something else");
    stage.finish(urgent, true);
    stage.advance(20_000_000);
    assert_eq!(held(&stage, wide).len(), 2, "it is whole for twenty seconds");
    stage.advance(20_000_000);
    assert_eq!(held(&stage, wide).len(), 0, "and starts no more than before");
}

// What was held for a gang stayed so when a machine was removed that it could not do without.
#[test]
fn what_can_not_fit_any_more_gives_its_room_back_at_once() {
    let (mut stage, _, gang) = half_held(SOON);
    let unheld = (0..4).find(|slot| !held(&stage, gang).contains(slot) && stage.cell().machine_in(*slot).is_some());
    stage.remove(unheld.unwrap());
    stage.advance(3_000_000);
    assert!(held(&stage, gang).is_empty(), "{:?}", held(&stage, gang));
}

// Four gangs at the head of the queue whose machines were full for long found nothing to hold, and no gang behind them was looked at.
#[test]
fn gangs_that_find_nothing_to_hold_keep_no_other_from_having_room_held() {
    let mut stage = Stage::new();
    for (name, kind) in [("m1", "a"), ("m2", "a"), ("m3", "b"), ("m4", "b")] {
        stage.machine(name, 1000, &[("kind", kind)]);
    }
    stage.seat_with(Batch::default(), settings(Some(SOON)));
    let long = JobBuilder::new("long", "batch").group("main", 2, 1000).on("kind", "a").forever();
    stage.submit(&long);
    let stream = stage.submit(&JobBuilder::new("stream", "batch").group("main", 400, 600).on("kind", "b"));
    stage.settle();
    for number in 0..8 {
        stage.submit(&gang(&format!("stuck-{number}"), "batch", 2).on("kind", "a"));
    }
    let wanted = stage.submit(&gang("wanted", "batch", 2).on("kind", "b"));
    assert!(rounds_until_placed(&mut stage, stream, wanted, 60).is_some());
}

// A gang that could not start rested for up to forty minutes, also where it was stopped and submitted again as one that could.
#[test]
fn a_gang_that_is_another_one_than_before_rests_no_more() {
    let (mut stage, _) = one_of_three_full();
    let large = stage.submit(&gang("gang", "batch", 3));
    stage.advance(6 * 60_000_000);
    let stream = stage.submit(&JobBuilder::new("stream", "batch").group("main", 400, 600));
    stage.advance(1_000_000);
    assert_eq!((held(&stage, large).len(), stage.placed(stream).len()), (0, 2), "it rests");
    stage.ask("owner", Command::StopJob { job: large, version: None });
    let small = stage.submit(&gang("gang", "batch", 2));
    assert_eq!(small, large);
    assert!(rounds_until_placed(&mut stage, stream, small, 60).is_some());
}

// Four gangs that could never fit had all places at the head of the queue, and none behind them had a hold.
#[test]
fn what_fits_nowhere_keeps_no_other_gang_from_having_room_held() {
    let mut stage = Stage::new();
    let (_, stream) = crowded(&mut stage, Some(SOON));
    for number in 0..24 {
        stage.submit(&gang(&format!("huge-{number}"), "batch", 5));
    }
    let wanted = stage.submit(&gang("wanted", "batch", 4));
    assert!(rounds_until_placed(&mut stage, stream, wanted, 100).is_some());
}

/// Only the first gang of a job was looked at: where that fitted nowhere, none of the others ever had a hold.
#[test]
fn a_gang_behind_one_of_its_job_that_fits_nowhere_has_room_held() {
    let mut stage = Stage::new();
    let (_, stream) = crowded(&mut stage, Some(SOON));
    let two = JobBuilder::new("two", "batch").group("nowhere", 2, 1000).min(2).on("kind", "none");
    let two = stage.submit(&two.group("wanted", 4, 1000).min(4));
    assert!(rounds_until_placed(&mut stage, stream, two, 100).is_some());
    assert!(stage.placed(two).iter().all(|(group, ..)| *group == 1));
}

#[test]
fn a_gang_behind_one_of_its_job_that_fits_nowhere_rests_as_long_as_any_other() {
    let (mut stage, _) = one_of_three_full();
    let two = JobBuilder::new("two", "batch").group("nowhere", 2, 1000).min(2).on("kind", "none");
    let two = stage.submit(&two.group("wanted", 3, 1000).min(3));
    assert_eq!(minutes_held(&mut stage, &[two], 5), 5);
    assert_eq!(minutes_held(&mut stage, &[two], 4), 0, "it has brought nothing for five minutes");
}

/// It rested on for five minutes, as what was compared was the group that fits nowhere.
#[test]
fn a_gang_behind_one_of_its_job_that_fits_nowhere_rests_no_more_once_it_is_scaled() {
    let mut stage = Stage::new();
    stage.seat_with(Batch::default(), settings(Some(SOON)));
    for name in ["m1", "m2"] {
        stage.machine_with_gpus(name, 2000, &[], 1);
    }
    let small = stage.submit(&JobBuilder::new("small", "batch").group("main", 2, 100).gpu(1000).forever());
    stage.settle();
    let two = JobBuilder::new("two", "batch").group("nowhere", 2, 1000).min(2).on("kind", "none");
    let two = stage.submit(&two.group("wanted", 2, 1000).min(2).gpu(1000));
    stage.advance(20_000_000);
    assert_eq!((stage.placed(small).len(), held(&stage, two).len()), (2, 2));
    stage.advance(20_000_000);
    assert_eq!(held(&stage, two).len(), 0, "it lacks GPUs, and rests");
    stage.ask("owner", Command::ScaleJob { job: two, version: None, group: 1, count: 1 });
    stage.advance(15_000_000);
    assert_eq!(held(&stage, two).len(), 1);
}

/// It rested on for up to eighty seconds when it was scaled to what fits, or what it lacked had come, and others had what came free.
#[test]
fn what_fitted_nowhere_has_room_held_soon_after_it_fits() {
    for is_scaled in [true, false] {
        let mut stage = Stage::new();
        let (_, stream) = crowded(&mut stage, Some(Holding::default()));
        let gang = stage.submit(&gang("gang", "batch", 5));
        // It rests for ten seconds, twenty and forty, and then for eighty.
        stage.advance(90_000_000);
        if is_scaled {
            stage.ask("owner", Command::ScaleJob { job: gang, version: None, group: 0, count: 4 });
        } else {
            stage.machine("m9", 1000, &[]);
        }
        let rounds = rounds_until_placed(&mut stage, stream, gang, 300);
        assert!(rounds.is_some_and(|rounds| rounds <= 150), "{rounds:?}, scaled: {is_scaled}");
    }
}

/// It was held room for up to its quota, for five of every ten minutes, and kept the other jobs of its namespace out.
#[test]
fn nothing_is_held_for_a_gang_that_is_larger_than_its_quota() {
    let (mut stage, seat) = one_of_three_full();
    let limit = Quota { limits: [Some(2500), None, None, None, None, None, None, None] };
    stage.ask("operator", Command::SetQuota { namespace: "tight".into(), limit: Some(limit) });
    let gang = stage.submit(&gang("gang", "batch", 3).namespace("tight"));
    stage.advance(60_000_000);
    assert_eq!((held(&stage, gang).len(), stage.runtime(seat).counters().holds_refused), (0, 0));
    let limit = Quota { limits: [Some(3000), None, None, None, None, None, None, None] };
    stage.ask("operator", Command::SetQuota { namespace: "tight".into(), limit: Some(limit) });
    stage.advance(9_000_000);
    assert_eq!(held(&stage, gang).len(), 2, "it may have that, and looks every eight seconds in the end");
}

/// In how many of so many minutes to come one of these holds room.
fn minutes_held(stage: &mut Stage, gangs: &[JobId], minutes: usize) -> usize {
    let is_held = |_| {
        stage.advance(60_000_000);
        usize::from(gangs.iter().any(|gang| !held(stage, *gang).is_empty()))
    };
    (0..minutes).map(is_held).sum()
}

/// Each held most of the cell while the other one rested, and nobody else had that for as long as both waited.
#[test]
fn gangs_that_can_not_start_hold_ever_less_of_the_time() {
    let mut stage = Stage::new();
    for name in ["m1", "m2", "m3"] {
        stage.machine(name, 1000, &[]);
    }
    stage.seat_with(Batch::default(), settings(Some(SOON)));
    stage.submit(&JobBuilder::new("long", "batch").group("main", 1, 1000).forever());
    stage.settle();
    let gangs = ["one", "other"].map(|name| stage.submit(&gang(name, "batch", 3)));
    let first = minutes_held(&mut stage, &gangs, 20);
    let later = [(); 3].map(|()| minutes_held(&mut stage, &gangs, 80));
    assert!(first <= 11 && later.iter().all(|minutes| *minutes <= 30), "{first}, {later:?}");
    assert!(later[2] > 0, "they may fit by then");
}

/// It held the first machines that had the cores, without a GPU among them, gave these back half a minute later, and had no others.
#[test]
fn a_gang_that_wants_gpus_is_held_machines_that_have_them() {
    let mut stage = Stage::new();
    for name in ["m1", "m2"] {
        stage.machine(name, 1000, &[]);
    }
    let equipped = ["m3", "m4"].map(|name| stage.machine_with_gpus(name, 1000, &[], 1));
    stage.seat_with(Batch::default(), settings(Some(SOON)));
    let stream = stage.submit(&JobBuilder::new("stream", "batch").group("main", 400, 600));
    stage.settle();
    let gang = stage.submit(&gang("gang", "batch", 2).gpu(1000));
    stage.settle();
    let started = (0..60).position(|_| {
        ends_one(&mut stage, stream);
        assert!(held(&stage, gang).iter().all(|slot| equipped.contains(slot)), "{:?}", held(&stage, gang));
        stage.placed(gang).len() == 2
    });
    assert!(started.is_some());
}

/// What was remembered of a gang went with its rest where others before it had all places: it began anew with the shortest one.
#[test]
fn gangs_that_can_not_start_hold_ever_less_of_the_time_also_where_they_are_many() {
    let mut stage = Stage::new();
    for name in ["m1", "m2", "m3"] {
        stage.machine(name, 1000, &[]);
    }
    stage.seat_with(Batch::default(), settings(Some(Holding { jobs_max: 1, ..SOON })));
    stage.submit(&JobBuilder::new("long", "batch").group("main", 1, 1000).forever());
    stage.settle();
    let gangs: Vec<JobId> = (0..5).map(|number| stage.submit(&gang(&format!("gang-{number}"), "batch", 3))).collect();
    minutes_held(&mut stage, &gangs, 240);
    let later = minutes_held(&mut stage, &gangs, 240);
    // Each holds for five minutes and rests for forty.
    assert!(later <= 150, "{later}");
}
