//! Stories of jobs that starve, and of the room that the runtime holds for them.

mod answers;
mod bands;
mod elsewhere;
mod mates;
mod rests;
mod urgent;

use plenum_model::{AllocationId, AllocationState, Command, JobId, Quota, Resources, SessionId};
use plenum_sdk::{Holding, Settings};
use plenum_testkit::{JobBuilder, Seat, Stage};

use crate::{Batch, Service};

/// Between two ends of small tasks.
const ROUND_MICROS: i64 = 100_000;

/// Asks after a second, so that a story is short.
const SOON: Holding = Holding {
    jobs_max: 4,
    after_losses: 8,
    after_wait_micros: 1_000_000,
    within_micros: 60_000_000,
    patience_micros: 300_000_000,
};

fn settings(holds: Option<Holding>) -> Settings {
    Settings { seed: 7, holds, ..Settings::default() }
}

/// Four machines of one core, each of them full with one of many small tasks.
fn crowded(stage: &mut Stage, holds: Option<Holding>) -> (Seat, JobId) {
    let seat = stage.seat_with(Batch::default(), settings(holds));
    (seat, fill(stage))
}

fn fill(stage: &mut Stage) -> JobId {
    for name in ["m1", "m2", "m3", "m4"] {
        stage.machine(name, 1000, &[]);
    }
    let stream = stage.submit(&JobBuilder::new("stream", "batch").group("main", 400, 600));
    stage.settle();
    stream
}

fn gang(name: &str, scheduler: &str, tasks: u32) -> JobBuilder {
    JobBuilder::new(name, scheduler).group("main", tasks, 1000).min(tasks)
}

/// The task of the job that runs longest ends, and a moment passes: whoever wants its room has it. The others stand for what is staggered.
fn ends_one(stage: &mut Stage, job: JobId) {
    let oldest = |stage: &Stage| -> Option<AllocationId> {
        let live = stage.cell().allocations().filter(|found| found.row.job() == job);
        live.min_by_key(|found| found.row.task).map(|found| found.id)
    };
    if let Some(id) = oldest(stage) {
        stage.report(id, AllocationState::Running, 0);
        stage.report(id, AllocationState::Complete, 0);
    }
    stage.advance(ROUND_MICROS);
}

/// How many small tasks end before all of the gang is placed; `None`: more than `most`.
fn rounds_until_placed(stage: &mut Stage, stream: JobId, gang: JobId, most: usize) -> Option<usize> {
    for round in 0..most {
        if !stage.placed(gang).is_empty() {
            return Some(round);
        }
        ends_one(stage, stream);
    }
    None
}

/// Three machines of one core, of which one runs something for ever.
fn one_of_three_full() -> (Stage, Seat) {
    let mut stage = Stage::new();
    for name in ["m1", "m2", "m3"] {
        stage.machine(name, 1000, &[]);
    }
    let seat = stage.seat_with(Batch::default(), settings(Some(SOON)));
    stage.submit(&JobBuilder::new("long", "batch").group("main", 1, 1000).forever());
    stage.settle();
    (stage, seat)
}

fn held(stage: &Stage, job: JobId) -> Vec<u32> {
    stage.cell().hold(job).map(|hold| hold.machines.clone()).unwrap_or_default()
}

/// Small tasks took each machine as it came free, and a gang that needed four of them at once waited for as long as there were small tasks.
#[test]
fn a_gang_behind_a_stream_of_small_tasks_starts_machine_by_machine() {
    let rounds = |holds: Option<Holding>| {
        let mut stage = Stage::new();
        let (_, stream) = crowded(&mut stage, holds);
        let gang = stage.submit(&gang("gang", "batch", 4));
        stage.settle();
        let rounds = rounds_until_placed(&mut stage, stream, gang, 300);
        (rounds, stage.placed(gang).len(), stage.cell().hold(gang).is_some())
    };
    // Ten rounds until it asks, one for each machine, and some to spare.
    let (within, placed, still_held) = rounds(Some(SOON));
    assert!(within.is_some_and(|rounds| rounds <= 20), "{within:?}");
    assert_eq!((placed, still_held), (4, false), "the grant ends the hold");
    assert_eq!(rounds(None), (None, 0, false));
}

/// What a gang holds of the two machines that it needs, after a scheduler that was quicker has taken one of them three times and keeps it.
fn held_after_three_losses(after_losses: u32) -> usize {
    let mut stage = Stage::new();
    for name in ["m1", "m2"] {
        stage.machine(name, 1000, &[]);
    }
    let holding = Holding { after_losses, after_wait_micros: 600_000_000, ..SOON };
    let batch = stage.seat_with(Batch::default(), settings(Some(holding)));
    stage.seat_with(Service::default(), settings(None));
    stage.hold(batch);
    let gang = stage.submit(&gang("gang", "batch", 2));
    for round in 0..3 {
        // It claims both, as soon as it may after the loss before.
        stage.advance(5_000_000);
        let rival = stage.submit(&JobBuilder::new(&format!("rival-{round}"), "service").group("main", 1, 1000));
        stage.settle();
        assert_eq!(stage.placed(rival).len(), 1);
        stage.release(batch);
        assert_eq!(stage.placed(gang).len(), 0, "it lost");
        if round < 2 {
            stage.hold(batch);
            stage.finish(rival, true);
        }
    }
    stage.advance(5_000_000);
    held(&stage, gang).len()
}

/// That it waited long enough was the only reason to ask in any of these stories.
#[test]
fn a_gang_that_lost_so_many_races_asks_for_room_however_short_it_waited() {
    assert_eq!((held_after_three_losses(3), held_after_three_losses(4)), (1, 0));
}

/// A pass over a long queue takes several decisions. What came free went to the first of them, which knew nothing of a gang behind more tasks than it had.
#[test]
fn a_gang_behind_more_waiting_tasks_than_a_decision_has_starts_as_well() {
    let mut stage = Stage::new();
    stage.seat_with(Batch::default(), Settings { tasks_max: 10, ..settings(Some(SOON)) });
    let stream = fill(&mut stage);
    let gang = stage.submit(&gang("gang", "batch", 4));
    stage.settle();
    let rounds = rounds_until_placed(&mut stage, stream, gang, 100);
    assert!(rounds.is_some_and(|rounds| rounds <= 20), "{rounds:?}");
}

/// The same where all its tasks are to share a machine, of which small tasks have a quarter each: the machine is never free at once.
#[test]
fn what_needs_one_machine_gathers_its_room_there() {
    let rounds = |holds: Option<Holding>| {
        let mut stage = Stage::new();
        stage.machine("m1", 4000, &[]);
        stage.machine("m2", 4000, &[]);
        stage.seat_with(Batch::default(), settings(holds));
        let stream = stage.submit(&JobBuilder::new("stream", "batch").group("main", 400, 1000));
        stage.settle();
        let gang = stage.submit(&JobBuilder::new("gang", "batch").same_machine().group("main", 2, 2000).min(2));
        stage.settle();
        rounds_until_placed(&mut stage, stream, gang, 300)
    };
    let within = rounds(Some(SOON));
    assert!(within.is_some_and(|rounds| rounds <= 30), "{within:?}");
    assert_eq!(rounds(None), None);
}

/// It was held room for the group that comes first, while its machine was chosen with room for the largest one: the hold was whole, brought nothing, and the job waited
/// for as long as there were small tasks.
#[test]
fn what_needs_one_machine_gathers_room_for_the_largest_of_its_groups_there() {
    let mut stage = Stage::new();
    stage.machine("m1", 4000, &[]);
    stage.machine("m2", 4000, &[]);
    stage.seat_with(Batch::default(), settings(Some(SOON)));
    let stream = stage.submit(&JobBuilder::new("stream", "batch").group("main", 400, 1000));
    stage.settle();
    let staged = JobBuilder::new("staged", "batch").same_machine().group("prep", 1, 1000).min(1);
    let staged = stage.submit(&staged.group("train", 1, 4000).after("prep").min(1));
    stage.settle();
    let within = rounds_until_placed(&mut stage, stream, staged, 300);
    assert!(within.is_some_and(|rounds| rounds <= 30), "{within:?}");
    let prepared = stage.placed(staged);
    assert_eq!(prepared.len(), 1);
    stage.finish(staged, true);
    let within = rounds_until_placed(&mut stage, stream, staged, 300);
    assert!(within.is_some_and(|rounds| rounds <= 30), "{within:?}");
    assert_eq!(stage.placed(staged), [(1, 0, prepared[0].2)], "where the first one was");
}

/// It was held on any machine on which the first group could run.
#[test]
fn what_needs_one_machine_is_held_one_that_suits_all_of_its_groups() {
    let ways: [fn(JobBuilder) -> JobBuilder; 2] = [|job| job.on("kind", "b"), |job| job.gpu(1000)];
    for train in ways {
        let mut stage = Stage::new();
        stage.machine("m1", 4000, &[("kind", "a")]);
        let suitable = stage.machine_with_gpus("m2", 4000, &[("kind", "b")], 1);
        stage.seat_with(Batch::default(), settings(Some(SOON)));
        let stream = stage.submit(&JobBuilder::new("stream", "batch").group("main", 400, 1000));
        stage.settle();
        let staged = JobBuilder::new("staged", "batch").same_machine().group("prep", 1, 1000).min(1);
        let staged = stage.submit(&train(staged.group("train", 1, 3000).after("prep").min(1)));
        stage.settle();
        let mut rounds_held = 0;
        for _ in 0..40 {
            let machines = held(&stage, staged);
            assert!(machines.iter().all(|slot| *slot == suitable), "{machines:?}");
            rounds_held += machines.len();
            ends_one(&mut stage, stream);
        }
        assert_eq!((stage.placed(staged), rounds_held > 0), (vec![(0, 0, suitable)], true));
    }
}

#[test]
fn two_gangs_of_two_schedulers_that_want_the_same_machines_run_one_after_the_other() {
    let mut stage = Stage::new();
    let (batch, stream) = crowded(&mut stage, Some(SOON));
    stage.seat_with(Service::default(), settings(Some(SOON)));
    let gangs =
        [("one", "batch"), ("other", "service")].map(|(name, scheduler)| stage.submit(&gang(name, scheduler, 4)));
    stage.settle();
    let mut order = Vec::new();
    for round in 0..100 {
        for gang in gangs {
            if stage.placed(gang).len() == 4 {
                order.push(gang);
                stage.finish(gang, true);
            }
        }
        // The one that is asked first on a stage wins each race: it is the slower one now and then.
        if round % 2 == 0 {
            stage.hold(batch);
        }
        ends_one(&mut stage, stream);
        stage.release(batch);
    }
    assert_eq!(order.len(), 2, "each has run: {order:?}");
    assert_ne!(order[0], order[1]);
}

/// What a gang of a low band held kept a task of a higher one out for as long as the gang waited: running tasks it could evict, and held room it could not take.
#[test]
fn who_is_more_urgent_gets_what_jobs_of_lower_bands_hold() {
    let waits_for = |holds: Option<Holding>| {
        let mut stage = Stage::new();
        for name in ["m1", "m2", "m3"] {
            stage.machine(name, 1000, &[]);
        }
        stage.seat_with(Batch::default(), settings(Some(SOON)));
        stage.seat_with(Service::default(), settings(holds));
        let long = stage.submit(&JobBuilder::new("long", "service").group("main", 1, 1000).priority(95).forever());
        stage.settle();
        let gang = stage.submit(&gang("gang", "batch", 3).priority(5));
        stage.advance(3_000_000);
        assert_eq!((stage.placed(long).len(), held(&stage, gang).len()), (1, 2), "it holds what is free");
        let web = stage.submit(&JobBuilder::new("web", "service").group("main", 2, 600).priority(90).forever());
        stage.settle();
        stage.advance(1_000_000);
        (stage.placed(web).len(), held(&stage, gang).len())
    };
    assert_eq!(waits_for(Some(SOON)), (2, 0));
    assert_eq!(waits_for(None), (0, 2));
}

/// A gang that starves, with two machines of the three that it needs.
fn half_held(holding: Holding) -> (Stage, Seat, JobId) {
    let mut stage = Stage::new();
    for name in ["m1", "m2"] {
        stage.machine(name, 1000, &[]);
    }
    // Large enough, and never free.
    let full = stage.machine("m3", 1000, &[]);
    let seat = stage.seat_with(Batch::default(), settings(Some(holding)));
    stage.submit(&JobBuilder::new("long", "batch").group("main", 1, 1000).forever());
    stage.settle();
    let gang = stage.submit(&gang("gang", "batch", 3));
    stage.advance(3_000_000);
    assert_eq!(held(&stage, gang).len(), 2, "of three, {full} is full");
    (stage, seat, gang)
}

#[test]
fn a_hold_is_given_back_once_nothing_of_its_job_waits() {
    let scaled = |job: JobId, count| Command::ScaleJob { job, version: None, group: 0, count };
    let (mut stage, seat, gang) = half_held(SOON);
    stage.ask("owner", scaled(gang, 0));
    stage.advance(100_000);
    assert!(stage.cell().hold(gang).is_none());
    assert_eq!(stage.runtime(seat).counters().holds_given_back, 1);

    let (mut stage, _, gang) = half_held(SOON);
    stage.ask("owner", scaled(gang, 2));
    stage.advance(100_000);
    assert_eq!((stage.placed(gang).len(), stage.cell().hold(gang).is_none()), (2, true), "what it holds is enough");

    let (mut stage, _, gang) = half_held(SOON);
    stage.ask("owner", Command::StopJob { job: gang, version: None });
    stage.advance(100_000);
    assert!(stage.cell().hold(gang).is_none());
}

/// The drained one counted as held, so that one that came free instead was no gain: a small task had it, until half a minute later the hold was renewed without
/// the other.
#[test]
fn a_machine_that_is_of_no_use_any_more_is_replaced_in_a_hold_as_soon_as_another_one_is_free() {
    let mut stage = Stage::new();
    let (_, stream) = crowded(&mut stage, Some(SOON));
    let gang = stage.submit(&gang("gang", "batch", 4));
    stage.advance(1_100_000);
    (0..2).for_each(|_| ends_one(&mut stage, stream));
    let machines = held(&stage, gang);
    assert_eq!(machines.len(), 2);
    let machine = stage.cell().machine_in(machines[0]).unwrap().id;
    let deadline = Some(stage.cell().time().plus_micros(600_000_000));
    stage.ask("operator", Command::DrainMachine { machine, deadline });
    ends_one(&mut stage, stream);
    let now = held(&stage, gang);
    assert_eq!((now.len(), now.contains(&machines[0])), (2, false), "the other one and the new one");
    assert_eq!(stage.placed(stream).len(), 1);
}

/// What an operator did just after a hold had grown was heeded with its next renewal, half a minute later, as nothing else happened in the cell.
#[test]
fn what_changes_just_after_a_hold_has_grown_is_heeded_though_nothing_follows() {
    let tight = Quota { limits: [Some(2500), None, None, None, None, None, None, None] };
    let quota = Command::SetQuota { namespace: "default".into(), limit: Some(tight) };
    for changes in [None, Some(quota)] {
        let (mut stage, _) = one_of_three_full();
        let gang = stage.submit(&gang("gang", "batch", 3));
        while held(&stage, gang).len() < 2 {
            stage.advance(10_000);
        }
        let machine = stage.cell().machine_in(held(&stage, gang)[0]).unwrap().id;
        let deadline = Some(stage.cell().time().plus_micros(600_000_000));
        stage.ask("operator", changes.unwrap_or(Command::DrainMachine { machine, deadline }));
        stage.advance(2_000_000);
        assert_eq!(held(&stage, gang).len(), 0, "it can't start any more");
    }
}

/// It was renewed for a minute, and so shortened, let grow, and given back where it had brought nothing for five minutes.
#[test]
fn a_hold_that_an_operator_took_for_longer_is_left_as_it_is() {
    let (mut stage, seat) = one_of_three_full();
    let gang = stage.submit(&gang("gang", "batch", 3));
    let (resources, deadline) = (Resources::new(1000, 1), stage.cell().time().plus_micros(600_000_000));
    let session = SessionId::default();
    stage.ask("operator", Command::TakeHold { session, job: gang, machines: vec![1], resources, deadline });
    for _ in 0..59 {
        stage.advance(10_000_000);
        let hold = stage.cell().hold(gang).unwrap();
        assert_eq!((&hold.machines[..], hold.deadline), (&[1][..], deadline));
    }
    let until = deadline.whole_second();
    let expected = format!("somebody holds 1 machine for it until {until}, and nothing else is asked for before; ");
    assert!(stage.passed_over(gang, 0).starts_with(&expected), "{}", stage.passed_over(gang, 0));
    stage.advance(20_000_000);
    assert_eq!(held(&stage, gang).len(), 2, "its own, once that one is over");
    assert_eq!(stage.runtime(seat).counters().holds_given_back, 0);
}

/// What was said of it was written before the hold was seen, and nothing that changed about holds was an occasion to say it anew.
#[test]
fn a_gang_that_waits_for_its_predecessors_says_what_is_held_for_it() {
    let mut stage = Stage::new();
    for name in ["m1", "m2", "m3"] {
        stage.machine(name, 1000, &[]);
    }
    stage.seat_with(Batch::default(), settings(Some(SOON)));
    let gang = stage.submit(&gang("gang", "batch", 3).single_instance());
    stage.settle();
    assert_eq!(stage.placed(gang).len(), 3);
    let placed: Vec<_> = stage.cell().allocations().map(|found| (found.id, found.row.machine)).collect();
    for &(id, _) in &placed {
        stage.ask("owner", Command::StopAllocation(id));
    }
    for &(id, _) in &placed[1..] {
        stage.report(id, AllocationState::Stopped, 143);
    }
    let why = "it starts with 3 at once, and 2 of them can be placed now";
    // It does not starve yet: no time has come at which it would be looked at again.
    stage.advance(400_000);
    assert!(stage.passed_over(gang, 0).starts_with(why), "{}", stage.passed_over(gang, 0));
    let (resources, deadline) = (Resources::new(1000, 1), stage.cell().time().plus_micros(600_000_000));
    let (session, machines) = (SessionId::default(), vec![placed[1].1]);
    stage.ask("operator", Command::TakeHold { session, job: gang, machines, resources, deadline });
    stage.advance(300_000);
    let until = deadline.whole_second();
    let expected =
        format!("somebody holds 1 machine for it until {until}, and nothing else is asked for before; {why}");
    assert!(stage.passed_over(gang, 0).starts_with(&expected), "{}", stage.passed_over(gang, 0));
}

#[test]
fn a_hold_is_renewed_for_as_long_as_it_may_bring_something_and_others_have_the_room_after_that() {
    let (mut stage, seat, gang) = half_held(Holding { patience_micros: 200_000_000, ..SOON });
    for _ in 0..6 {
        stage.advance(30_000_000);
        assert_eq!(held(&stage, gang).len(), 2);
    }
    let taken = stage.runtime(seat).counters().holds_taken;
    assert!((4..=10).contains(&taken), "twice a minute, and not more often: {taken}");
    stage.advance(30_000_000);
    assert!(stage.cell().hold(gang).is_none(), "it has brought nothing");
    stage.advance(150_000_000);
    assert!(stage.cell().hold(gang).is_none());
    stage.advance(60_000_000);
    assert_eq!(held(&stage, gang).len(), 2, "it tries again");
}

/// A quota that is too small is no reason to ask a thousand times. It was one for a gang behind more tasks than a decision has: how often it was refused was forgotten with
/// each pass.
#[test]
fn who_is_refused_a_hold_asks_ever_more_seldom() {
    for tasks_max in [4096, 10] {
        let mut stage = Stage::new();
        for name in ["m1", "m2", "m3"] {
            stage.machine(name, 1000, &[]);
        }
        let limit = Quota { limits: [Some(2500), None, None, None, None, None, None, None] };
        stage.ask("operator", Command::SetQuota { namespace: "default".into(), limit: Some(limit) });
        let seat = stage.seat_with(Batch::default(), Settings { tasks_max, ..settings(Some(SOON)) });
        stage.submit(&JobBuilder::new("long", "batch").group("main", 1, 1000).forever());
        stage.settle();
        // Larger than any machine.
        stage.submit(&JobBuilder::new("huge", "batch").group("main", 40, 9000));
        stage.settle();
        let gang = stage.submit(&gang("gang", "batch", 2));
        stage.advance(61_000_000);
        let refused = stage.runtime(seat).counters().holds_refused;
        assert!((10..=80).contains(&refused), "every two seconds in the end: {refused}");
        assert!(stage.cell().hold(gang).is_none());
        // What it was short of is there.
        stage.ask("operator", Command::SetQuota { namespace: "default".into(), limit: None });
        stage.advance(3_000_000);
        assert_eq!(stage.placed(gang).len(), 2);
    }
}

#[test]
fn a_scheduler_that_is_started_anew_goes_on_with_what_the_one_before_it_held() {
    let (mut stage, seat, gang) = half_held(SOON);
    let session = stage.runtime(seat).session();
    stage.cut_off(seat);
    stage.close_session(session);
    let since = stage.cell().hold(gang).map(|hold| hold.first_wait);
    stage.seat_with(Batch::default(), settings(Some(SOON)));
    stage.advance(100_000_000);
    assert_eq!(held(&stage, gang).len(), 2);
    assert_eq!(stage.cell().hold(gang).map(|hold| hold.first_wait), since, "renewed: the old one had it for a minute");
    stage.machine("m4", 1000, &[]);
    stage.settle();
    stage.advance(100_000);
    assert_eq!(stage.placed(gang).len(), 3);

    let (mut stage, seat, gang) = half_held(SOON);
    let session = stage.runtime(seat).session();
    stage.cut_off(seat);
    stage.close_session(session);
    stage.ask("owner", Command::ScaleJob { job: gang, version: None, group: 0, count: 0 });
    assert_eq!(held(&stage, gang).len(), 2, "nobody gives it back");
    let seat = stage.seat_with(Batch::default(), settings(Some(SOON)));
    stage.advance(1_000_000);
    assert!(stage.cell().hold(gang).is_none());
    assert_eq!(stage.runtime(seat).counters().holds_given_back, 1);
}

/// Who gets no answer finds in the mirror what became of it, or asks again.
#[test]
fn a_request_whose_answer_is_lost_is_as_good_as_one_that_was_heard() {
    let mut stage = Stage::new();
    let (seat, stream) = crowded(&mut stage, Some(SOON));
    let gang = stage.submit(&gang("gang", "batch", 4));
    stage.settle();
    for round in 0..40 {
        stage.hold(seat);
        ends_one(&mut stage, stream);
        match round % 3 {
            0 => stage.cut_answers(seat),
            1 => stage.cut(seat),
            _ => {}
        }
        stage.release(seat);
        stage.advance(ROUND_MICROS);
    }
    assert_eq!(stage.placed(gang).len(), 4);
    assert!(stage.cell().hold(gang).is_none());
}

/// One long queue does not set aside the whole cell.
#[test]
fn room_is_held_for_the_first_few_of_the_queue_alone() {
    let mut stage = Stage::new();
    for name in ["m1", "m2", "m3"] {
        stage.machine(name, 1000, &[]);
    }
    stage.seat_with(Batch::default(), settings(Some(Holding { jobs_max: 2, ..SOON })));
    stage.submit(&JobBuilder::new("long", "batch").group("main", 1, 1000).forever());
    stage.settle();
    // Each needs some of all three machines, and there is room for three of them on the two that are free.
    let apart = |name: &str| JobBuilder::new(name, "batch").group("main", 3, 300).min(3).per_machine(1);
    let gangs: Vec<JobId> = ["g1", "g2", "g3"].into_iter().map(|name| stage.submit(&apart(name))).collect();
    stage.advance(5_000_000);
    let holders = |stage: &Stage| gangs.iter().map(|gang| held(stage, *gang).len()).collect::<Vec<_>>();
    assert_eq!(holders(&stage), [2, 2, 0]);
    let first = stage.submit(&apart("first").priority(59));
    stage.advance(5_000_000);
    assert_eq!((held(&stage, first).len(), holders(&stage)), (2, vec![2, 0, 0]), "the last one makes place");
}
