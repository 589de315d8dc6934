//! Stories of gangs for which a hold brought nothing, and of when room is held for them again.

use plenum_model::{Command, LogTime};

use super::*;

const MINUTE_MICROS: i64 = 60_000_000;

/// Four machines of one core, of which two run something for ever; a gang of three held the others for five minutes, and a stream of small tasks has them now.
fn rests_behind_a_stream() -> (Stage, [JobId; 3]) {
    let mut stage = Stage::new();
    for name in ["m1", "m2", "m3", "m4"] {
        stage.machine(name, 1000, &[]);
    }
    stage.seat_with(Batch::default(), settings(Some(SOON)));
    let long = stage.submit(&JobBuilder::new("long", "batch").group("main", 2, 1000).forever());
    stage.settle();
    let gang = stage.submit(&gang("gang", "batch", 3));
    stage.advance(4 * MINUTE_MICROS);
    assert_eq!(held(&stage, gang).len(), 2);
    let stream = stage.submit(&JobBuilder::new("stream", "batch").group("main", 4000, 600));
    stage.advance(2 * MINUTE_MICROS);
    assert_eq!((held(&stage, gang).len(), stage.placed(stream).len()), (0, 2), "it rests");
    (stage, [long, gang, stream])
}

/// What it lacked had come free, and others had that, and all else that came free, for the minutes that were left of its rest.
#[test]
fn a_rest_ends_when_what_was_in_the_way_has_ended() {
    let (mut stage, [long, gang, stream]) = rests_behind_a_stream();
    stage.finish(long, true);
    stage.ask("owner", Command::StopJob { job: long, version: None });
    let rounds = rounds_until_placed(&mut stage, stream, gang, 300);
    assert!(rounds.is_some_and(|rounds| rounds <= 150), "{rounds:?}");
}

#[test]
fn a_rest_ends_when_the_cell_has_become_large_enough() {
    let (mut stage, [_, gang, stream]) = rests_behind_a_stream();
    stage.machine("m5", 1000, &[]);
    let rounds = rounds_until_placed(&mut stage, stream, gang, 300);
    assert!(rounds.is_some_and(|rounds| rounds <= 150), "{rounds:?}");
}

/// Nothing told why a gang had nothing of what came free, nor when it would ask for that again.
#[test]
fn people_are_told_until_when_a_gang_rests() {
    let (mut stage, [_, gang, stream]) = rests_behind_a_stream();
    let told = stage.passed_over(gang, 0).to_owned();
    let until = told.strip_prefix("after a hold that brought nothing the next one is asked for by ");
    let until = until.and_then(|rest| rest.split_once("; ")).map(|(until, _)| until.to_owned());
    let until = until.unwrap_or_else(|| panic!("{told}"));
    (0..20).for_each(|_| ends_one(&mut stage, stream));
    assert!(stage.passed_over(gang, 0).contains(&until), "{}", stage.passed_over(gang, 0));
    let (mut seconds, limit) = (0, 10 * 60);
    while held(&stage, gang).is_empty() && seconds < limit {
        ends_one(&mut stage, stream);
        stage.advance(1_000_000 - ROUND_MICROS);
        seconds += 1;
    }
    let now = stage.cell().time().micros;
    let around = [now - 1_000_000, now].map(|micros| LogTime::from_micros(micros).whole_second().to_string());
    assert!(around.contains(&until), "{until} was told, and it is {around:?}");
    stage.advance(1_000_000);
    assert!(!stage.passed_over(gang, 0).contains("brought nothing"), "{}", stage.passed_over(gang, 0));
}

#[test]
fn a_gang_that_was_scaled_rests_no_more() {
    let (mut stage, [_, gang, stream]) = rests_behind_a_stream();
    stage.ask("owner", Command::ScaleJob { job: gang, version: None, group: 0, count: 2 });
    let rounds = rounds_until_placed(&mut stage, stream, gang, 300);
    assert!(rounds.is_some_and(|rounds| rounds <= 150), "{rounds:?}");
}

/// Small tasks that end leave it as far from a start as it was, and another gang of its size, too.
#[test]
fn a_rest_goes_on_while_what_is_in_the_way_is_there() {
    let (mut stage, [_, large, stream]) = rests_behind_a_stream();
    let other = stage.submit(&gang("other", "batch", 3));
    let is_held = |_: &usize| {
        ends_one(&mut stage, stream);
        [large, other].iter().any(|job| !held(&stage, *job).is_empty())
    };
    assert_eq!((0..2 * 60 * 10).filter(is_held).count(), 0, "in two minutes");
    // It was told that it rested after a hold, and had had none.
    let told = stage.passed_over(other, 0);
    let after = told.split_once(", after a hold of gang that brought nothing; ").map(|(until, _)| until);
    assert!(after.is_some_and(|until| until.starts_with("no room is held for it before ")), "{told}");
    stage.advance(10 * MINUTE_MICROS);
    assert_eq!(held(&stage, large).len(), 0, "its next rest is twice as long");
}

/// A gang of three, two of whose machines are free, and the last one is shared in pieces by a stream of small tasks.
fn lacks_a_machine_in_pieces() -> (Stage, JobId, JobId) {
    let mut stage = Stage::new();
    for (name, kind) in [("m1", "a"), ("m2", "a"), ("m3", "b")] {
        stage.machine(name, 1000, &[("kind", kind)]);
    }
    stage.seat_with(Batch::default(), settings(Some(SOON)));
    let stream = stage.submit(&JobBuilder::new("stream", "batch").group("main", 9000, 250).on("kind", "b"));
    stage.settle();
    let gang = stage.submit(&gang("gang", "batch", 3));
    (stage, gang, stream)
}

/// Its last machine is never free at once, as small tasks share that in pieces: it would hold the others for ever if that were a reason to try again.
#[test]
fn a_rest_goes_on_where_a_hold_was_whole_but_for_what_comes_and_goes() {
    let (mut stage, gang, stream) = lacks_a_machine_in_pieces();
    let mut rounds_held = 0;
    for _ in 0..9 * 60 {
        ends_one(&mut stage, stream);
        stage.advance(1_000_000 - ROUND_MICROS);
        rounds_held += usize::from(!held(&stage, gang).is_empty());
    }
    assert!((290..=310).contains(&rounds_held), "of {} seconds {rounds_held}", 9 * 60);
}

/// Of the tasks in its way that are older than its hold the last ones end a minute after that was given back, and others are there by then: it held the rest for five minutes of six.
#[test]
fn a_rest_that_ended_early_in_vain_is_followed_by_one_of_a_fair_length() {
    let (mut stage, gang, stream) = lacks_a_machine_in_pieces();
    let mut held_of = |rounds: u32| {
        let is_held = |_: &u32| {
            ends_one(&mut stage, stream);
            stage.advance(90_000_000 - ROUND_MICROS);
            !held(&stage, gang).is_empty()
        };
        (0..rounds).filter(is_held).count()
    };
    let (first, then) = (held_of(20), held_of(60));
    assert!(first <= 13 && then <= 20, "of 30 minutes {first} rounds, of the 90 after that {then}");
}

/// Seconds of so many minutes in which one of these holds room, behind a stream of which a task ends each second.
fn seconds_held(stage: &mut Stage, stream: JobId, gangs: &[JobId], minutes: usize) -> usize {
    let is_held = |_| {
        ends_one(stage, stream);
        stage.advance(1_000_000 - ROUND_MICROS);
        usize::from(gangs.iter().any(|gang| !held(stage, *gang).is_empty()))
    };
    (0..60 * minutes).map(is_held).sum()
}

/// Each held most of the cell while the others rested: two of them for all of the first twenty minutes, and more of them for longer.
#[test]
fn gangs_that_can_not_start_hold_no_more_than_half_of_the_time() {
    for number in [2, 4] {
        let mut stage = Stage::new();
        for name in ["m1", "m2", "m3", "m4"] {
            stage.machine(name, 1000, &[]);
        }
        stage.seat_with(Batch::default(), settings(Some(SOON)));
        stage.submit(&JobBuilder::new("long", "batch").group("main", 2, 1000).forever());
        stage.settle();
        let stream = stage.submit(&JobBuilder::new("stream", "batch").group("main", 9000, 600));
        stage.settle();
        let gangs: Vec<JobId> =
            (0..number).map(|number| stage.submit(&gang(&format!("gang-{number}"), "batch", 3))).collect();
        let held = [(); 3].map(|()| seconds_held(&mut stage, stream, &gangs, 20));
        assert!(held.iter().all(|seconds| *seconds <= 11 * 60), "of {number} in 20 minutes each {held:?}");
    }
}

/// One that needs no more than what comes and goes is not among those who wait.
#[test]
fn a_gang_that_can_start_need_not_wait_after_a_hold_of_another_one_that_brought_nothing() {
    let (mut stage, [_, large, stream]) = rests_behind_a_stream();
    let small = stage.submit(&gang("small", "batch", 2));
    let rounds = rounds_until_placed(&mut stage, stream, small, 300);
    assert!(rounds.is_some_and(|rounds| rounds <= 20), "{rounds:?}");
    assert!(held(&stage, large).is_empty());
}
