//! Stories of the batch scheduler, against the real core.

use plenum_model::{
    AllocationId, AllocationState, Command, FoundMachine, Inventory, Quota, Resources, SessionId, TaskTraces,
};
use plenum_testkit::{JobBuilder, Stage};

use super::*;

fn machines(placed: &[(u16, u32, u32)]) -> Vec<u32> {
    placed.iter().map(|&(_, _, machine)| machine).collect()
}

#[test]
fn tasks_are_packed_onto_the_fullest_machine_that_has_room() {
    let mut stage = Stage::new();
    stage.machine("large", 16_000, &[]);
    stage.machine("small", 3_000, &[]);
    stage.seat(Batch::default());
    let job = stage.submit(&JobBuilder::new("words", "batch").group("map", 4, 1000));
    stage.settle();
    let placed = stage.placed(job);
    assert_eq!(machines(&placed).iter().filter(|&&machine| machine == 1).count(), 3, "{placed:?}");
}

/// The agent of a machine comes, and runs at most one task that the cell does not know, which was granted so much CPU for the first of a job.
fn register(stage: &mut Stage, runs: Option<(&str, u64)>) {
    let unknown = |(job, cpu_millis): (&str, u64)| {
        let (namespace, job, group) = ("default".into(), job.into(), "main".into());
        let resources = Resources::new(cpu_millis, 1);
        let traces = TaskTraces { namespace, job, group, resources, ..TaskTraces::default() };
        Inventory {
            allocation: AllocationId { slot: 7, generation: 1 },
            state: AllocationState::Running,
            exit_code: 0,
            reason: "".into(),
            restarts: 0,
            task: Some(traces.into()),
        }
    };
    let command = Command::RegisterMachine(FoundMachine {
        name: "m1".into(),
        boot_id: "boot".into(),
        capacity: Resources::new(4000, 1 << 34),
        inventory: runs.into_iter().map(unknown).collect(),
        seen: stage.cell().revision(),
        ..FoundMachine::default()
    });
    stage.ask("agent", command);
}

/// What an agent runs and the cell does not know had ended; the columns still had it, and nobody looked again.
#[test]
fn room_that_an_unknown_task_leaves_is_claimed() {
    let mut stage = Stage::new();
    register(&mut stage, Some(("old", 3000)));
    stage.seat(Batch::default());
    let job = stage.submit(&JobBuilder::new("words", "batch").group("main", 1, 2000));
    stage.advance(1_000_000);
    assert!(stage.passed_over(job, 0).contains("short of cpu by 1000m"), "{}", stage.passed_over(job, 0));
    register(&mut stage, None);
    stage.advance(1_000_000);
    assert_eq!(stage.placed(job).len(), 1);
}

/// Nothing else happens to the job, and it was never left for want of room: the end of the unknown task is the occasion.
#[test]
fn a_task_of_which_only_one_may_run_is_placed_once_an_unknown_one_has_ended() {
    let mut stage = Stage::new();
    register(&mut stage, Some(("db", 1000)));
    stage.seat(Batch::default());
    let job = stage.submit(&JobBuilder::new("db", "batch").group("main", 2, 1000).single_instance());
    stage.advance(1_000_000);
    assert_eq!(stage.placed(job).iter().map(|&(_, task, _)| task).collect::<Vec<_>>(), [1]);
    register(&mut stage, None);
    stage.advance(1_000_000);
    assert_eq!(stage.placed(job).len(), 2);
}

#[test]
fn room_that_is_held_no_longer_is_claimed() {
    let mut stage = Stage::new();
    let machine = stage.machine("m1", 4000, &[]);
    let gang = stage.submit(&JobBuilder::new("gang", "nobody").group("main", 1, 4000));
    let hold = |stage: &mut Stage, machines: Vec<u32>| {
        let (resources, deadline) = (Resources::new(4000, 1), stage.cell().time().plus_micros(60_000_000));
        stage
            .ask("gang", Command::TakeHold { session: SessionId::default(), job: gang, machines, resources, deadline });
    };
    hold(&mut stage, vec![machine]);
    stage.seat(Batch::default());
    let job = stage.submit(&JobBuilder::new("words", "batch").group("main", 1, 2000));
    stage.advance(1_000_000);
    assert_eq!(stage.placed(job), []);
    hold(&mut stage, Vec::new());
    stage.advance(1_000_000);
    assert_eq!(stage.placed(job).len(), 1);
}

#[test]
fn what_does_not_fit_says_why_and_lets_smaller_jobs_pass() {
    let mut stage = Stage::new();
    stage.machine("m1", 4_000, &[]);
    stage.seat(Batch::default());
    let wide = stage.submit(&JobBuilder::new("wide", "batch").group("main", 1, 6000).priority(90));
    let small = stage.submit(&JobBuilder::new("small", "batch").group("main", 2, 1000));
    stage.advance(1_000_000);
    assert_eq!(stage.placed(small).len(), 2);
    assert_eq!(
        stage.passed_over(wide, 0),
        "of 1 machine 1 lacks cpu by at least 2000m; \
         nearest is m1, short of cpu by 2000m, and too small even when empty"
    );
}

#[test]
fn a_note_is_taken_back_when_the_job_is_placed() {
    let mut stage = Stage::new();
    stage.seat(Batch::default());
    let job = stage.submit(&JobBuilder::new("words", "batch").group("main", 1, 1000));
    stage.advance(1_000_000);
    assert_eq!(stage.passed_over(job, 0), "the cell has no machines");
    stage.machine("m1", 4_000, &[]);
    stage.advance(1_000_000);
    assert_eq!((stage.placed(job).len(), stage.passed_over(job, 0)), (1, ""));
}

#[test]
fn constraints_are_kept() {
    let mut stage = Stage::new();
    stage.machine("slow", 8_000, &[("disk", "hdd")]);
    stage.machine("quick", 8_000, &[("disk", "ssd")]);
    stage.seat(Batch::default());
    let job = stage.submit(&JobBuilder::new("words", "batch").group("main", 3, 1000).on("disk", "ssd"));
    stage.settle();
    assert_eq!(machines(&stage.placed(job)), [1, 1, 1]);
}

#[test]
fn wishes_are_weighed_against_how_well_a_machine_fits() {
    let placed = |weight: i32| {
        let mut stage = Stage::new();
        // One core is left on the tight machine, and seven on the roomy one: far more than a hundredth of it, and less than all.
        stage.machine("tight", 2_000, &[("disk", "hdd")]);
        stage.machine("roomy", 8_000, &[("disk", "ssd")]);
        stage.seat(Batch::default());
        let job = stage.submit(&JobBuilder::new("words", "batch").group("map", 1, 1000).wish("disk", "ssd", weight));
        stage.settle();
        machines(&stage.placed(job))
    };
    assert_eq!((placed(-10), placed(1), placed(100)), (vec![0], vec![0], vec![1]));
}

#[test]
fn a_wish_that_nobody_meets_is_no_condition() {
    let mut stage = Stage::new();
    stage.machine("m1", 2_000, &[("disk", "hdd")]);
    stage.seat(Batch::default());
    let job = stage.submit(&JobBuilder::new("words", "batch").group("map", 2, 1000).wish("disk", "ssd", 100));
    stage.settle();
    assert_eq!(machines(&stage.placed(job)), [0, 0]);
}

#[test]
fn a_job_that_shares_a_machine_goes_where_all_of_it_fits() {
    let mut stage = Stage::new();
    stage.machine("tight", 2_000, &[]);
    stage.machine("roomy", 8_000, &[]);
    stage.seat(Batch::default());
    let words = JobBuilder::new("words", "batch")
        .same_machine()
        .group("split", 1, 500)
        .group("map", 8, 500)
        .after("split")
        .group("reduce", 1, 1000)
        .after("map");
    let job = stage.submit(&words);
    stage.settle();
    assert_eq!(stage.placed(job), [(0, 0, 1)]);
    stage.finish(job, true);
    stage.advance(1_000);
    assert_eq!(stage.placed(job).len(), 8);
    stage.finish(job, true);
    stage.advance(1_000);
    assert_eq!(stage.placed(job), [(2, 0, 1)]);
}

/// Groups behind equally many others were taken for all that run side by side: the job was bound to a machine on which `work` did not fit beside `serve`, which waited for it.
#[test]
fn a_job_that_shares_a_machine_goes_where_what_runs_long_fits_beside_what_comes_after_others() {
    let mut stage = Stage::new();
    for (name, cpu_millis) in [("small", 3_000), ("middle", 4_000), ("large", 8_000)] {
        stage.machine(name, cpu_millis, &[]);
    }
    stage.seat(Batch::default());
    let words = JobBuilder::new("words", "batch").same_machine().group("prepare", 1, 1000).group("serve", 1, 2000);
    let job = stage.submit(&words.group("work", 1, 2000).after("prepare"));
    stage.settle();
    assert_eq!(stage.placed(job), [(0, 0, 1), (1, 0, 1)]);
    let prepare = stage.cell().allocations().find(|found| found.row.group == 0).unwrap().id;
    for state in [AllocationState::Running, AllocationState::Complete] {
        stage.report(prepare, state, 0);
    }
    stage.advance(1_000_000);
    assert_eq!(stage.placed(job), [(1, 0, 1), (2, 0, 1)]);
}

/// The same of one task of each, where all of them have room nowhere: it went to the emptiest machine.
#[test]
fn a_job_that_takes_turns_goes_where_one_task_of_each_fits_that_may_run_side_by_side() {
    let mut stage = Stage::new();
    stage.machine("busy", 16_000, &[]);
    stage.seat(Batch::default());
    stage.submit(&JobBuilder::new("fill", "batch").group("main", 1, 12_000));
    stage.advance(1_000_000);
    stage.machine("idle", 3_900, &[]);
    let words = JobBuilder::new("words", "batch").same_machine().group("prepare", 1, 1000).group("serve", 1, 2000);
    let job = stage.submit(&words.group("work", 10, 2000).after("prepare"));
    stage.advance(1_000_000);
    assert_eq!(stage.placed(job), [(0, 0, 0), (1, 0, 0)]);
}

/// There are 6,561 sets of groups that may run side by side, each of eight; and each group may run beside 21 others.
#[test]
fn a_job_of_many_rows_of_groups_is_asked_for_one_of_each_row_at_once() {
    let mut stage = Stage::new();
    stage.machine("tight", 9_000, &[]);
    stage.machine("roomy", 30_000, &[]);
    stage.seat(Batch::default());
    let mut job = JobBuilder::new("words", "batch").same_machine();
    for row in 0..8 {
        job = job.group(&format!("first-{row}"), 1, 1000);
        for (step, before) in [("second", "first"), ("third", "second")] {
            job = job.group(&format!("{step}-{row}"), 1, 1000).after(&format!("{before}-{row}"));
        }
    }
    let job = stage.submit(&job);
    stage.settle();
    assert_eq!(machines(&stage.placed(job)), [0; 8]);
}

/// What one task of them would need was asked for all the same, and the job waited for ever.
#[test]
fn groups_of_no_tasks_ask_nothing_of_the_machine_that_a_job_shares() {
    let jobs = |tasks: u32| {
        let export = |cpu_millis| {
            let job = JobBuilder::new("train", "batch").same_machine().group("train", 1, 1000);
            job.group("export", tasks, cpu_millis)
        };
        [export(9000), export(100).on("disk", "tape"), export(100).gpu(1000)]
    };
    for (tasks, job) in jobs(0).into_iter().map(|job| (0, job)).chain(jobs(1).map(|job| (1, job))) {
        let mut stage = Stage::new();
        stage.machine("m0", 4_000, &[]);
        stage.seat(Batch::default());
        let job = stage.submit(&job);
        stage.advance(1_000_000);
        if tasks > 0 {
            assert_eq!(stage.placed(job), []);
            stage.ask("owner", Command::ScaleJob { job, version: None, group: 1, count: 0 });
            stage.advance(1_000_000);
        }
        assert_eq!(stage.placed(job), [(0, 0, 0)], "of {tasks}: {}", stage.passed_over(job, 0));
    }
}

/// It was taken to come after all that the group of no tasks comes after.
#[test]
fn what_comes_after_a_group_of_no_tasks_is_beside_what_that_comes_after() {
    let mut stage = Stage::new();
    stage.machine("small", 2_000, &[]);
    stage.machine("large", 4_000, &[]);
    stage.seat(Batch::default());
    let words = JobBuilder::new("words", "batch").same_machine().group("prepare", 1, 2000);
    let job = stage.submit(&words.group("check", 0, 100).after("prepare").group("work", 1, 2000).after("check"));
    stage.settle();
    assert_eq!(stage.placed(job), [(0, 0, 1), (2, 0, 1)]);
}

#[test]
fn a_job_too_wide_for_any_machine_takes_turns_on_the_emptiest() {
    let mut stage = Stage::new();
    stage.machine("m1", 1_000, &[]);
    stage.machine("m2", 2_000, &[]);
    stage.seat(Batch::default());
    let job = stage.submit(&JobBuilder::new("words", "batch").same_machine().group("map", 5, 1000));
    stage.settle();
    assert_eq!(stage.placed(job), [(0, 0, 1), (0, 1, 1)]);
    for _ in 0..2 {
        stage.finish(job, true);
        stage.advance(1_000);
    }
    assert_eq!(stage.placed(job), [(0, 4, 1)]);
}

/// Where the tasks of a job go that is too wide for any machine: to one of seven equal ones, or to the last.
fn machines_of_too_wide(last_cpu_millis: u64, last_disk: &str) -> Vec<u32> {
    let mut stage = Stage::new();
    (0..7).for_each(|number| {
        stage.machine(&format!("m{number}"), 1_500, &[("disk", "hdd")]);
    });
    stage.machine("m7", last_cpu_millis, &[("disk", last_disk)]);
    stage.seat(Batch::default());
    let words = JobBuilder::new("words", "batch").same_machine().group("map", 5, 1000).wish("disk", "ssd", 100);
    let job = stage.submit(&words);
    stage.settle();
    machines(&stage.placed(job))
}

/// What is about as good for a best fit, a quarter of a core, was asked of shares of machines, too: all were equal, and any was taken.
#[test]
fn of_many_machines_a_job_too_wide_for_any_takes_the_emptiest() {
    assert_eq!(machines_of_too_wide(4_000, "hdd"), [7, 7, 7, 7]);
}

#[test]
fn a_job_too_wide_for_any_machine_has_its_wishes_weighed() {
    assert_eq!(machines_of_too_wide(1_500, "ssd"), [7]);
}

#[test]
fn batch_schedulers_on_one_snapshot_keep_out_of_each_others_way() {
    let mut stage = Stage::new();
    for number in 0..64 {
        stage.machine(&format!("m{number}"), 1_000, &[]);
    }
    let seats: Vec<_> = (0..4).map(|_| stage.seat(Batch::default())).collect();
    // All decide before the cell hears of any.
    seats.iter().for_each(|&seat| stage.hold(seat));
    for number in 0..16 {
        stage.submit(&JobBuilder::new(&format!("job{number}"), "batch").group("main", 1, 1000));
    }
    stage.settle();
    seats.iter().for_each(|&seat| stage.release(seat));
    stage.advance(1_000_000);
    let sum = |count: fn(&plenum_sdk::Counters) -> u64| -> u64 {
        seats.iter().map(|&seat| count(stage.runtime(seat).counters())).sum()
    };
    assert_eq!(sum(|counters| counters.claims_granted), 16);
    let conflicts = sum(|counters| counters.claims_conflict);
    assert_eq!(conflicts, 0, "of 16 claims, on 64 equal machines of which each scheduler has a part of its own");
}

/// Who began with a part that has any machine that fits never looked at the one that the job wishes for.
#[test]
fn a_wish_outweighs_the_part_of_the_machines_that_a_scheduler_begins_with() {
    let mut stage = Stage::new();
    stage.machine("m0", 16_000, &[("disk", "hdd")]);
    stage.machine("m1", 16_000, &[("disk", "ssd")]);
    (0..2).for_each(|_| {
        stage.seat(Batch::default());
    });
    let jobs: Vec<_> = (0..12)
        .map(|number| {
            let job = JobBuilder::new(&format!("job{number}"), "batch").group("main", 1, 1000).wish("disk", "ssd", 100);
            stage.submit(&if number % 2 == 0 { job } else { job.same_machine() })
        })
        .collect();
    stage.advance(3_000_000);
    let placed: Vec<u32> = jobs.iter().flat_map(|&job| machines(&stage.placed(job))).collect();
    assert_eq!(placed, [1; 12]);
}

/// What it lacks beside what it holds was told of others, which lack more.
#[test]
fn why_a_job_that_holds_room_waits_is_told_of_no_other() {
    for shared in [false, true] {
        let mut stage = Stage::new();
        let machine = stage.machine("m1", 8_000, &[]);
        let seat = stage.seat(Batch::default());
        stage.submit(&JobBuilder::new("fill", "batch").group("main", 1, 4000));
        stage.advance(1_000_000);
        stage.hold(seat);
        let submit = |stage: &mut Stage, name: &str| {
            let job = JobBuilder::new(name, "batch").group("main", 1, 6000);
            stage.submit(&if shared { job.same_machine() } else { job })
        };
        let holder = submit(&mut stage, "holder");
        let (resources, deadline) = (Resources::new(4000, 1), stage.cell().time().plus_micros(600_000_000));
        stage.ask(
            "gang",
            Command::TakeHold {
                session: SessionId::default(),
                job: holder,
                machines: vec![machine],
                resources,
                deadline,
            },
        );
        let other = submit(&mut stage, "other");
        stage.release(seat);
        stage.advance(5_000_000);
        for (job, short) in [(holder, "short of cpu by 2000m"), (other, "short of cpu by 6000m")] {
            assert!(stage.passed_over(job, 0).contains(short), "{}", stage.passed_over(job, 0));
        }
    }
}

#[test]
fn equal_jobs_are_served_in_their_order_when_room_is_short() {
    let mut stage = Stage::new();
    stage.seat(Batch::default());
    let jobs: Vec<_> = (0..5)
        .map(|number| stage.submit(&JobBuilder::new(&format!("job{number}"), "batch").group("main", 2, 1000)))
        .collect();
    stage.settle();
    stage.machine("m1", 5_000, &[]);
    stage.advance(1_000_000);
    let placed: Vec<_> = jobs.iter().map(|&job| stage.placed(job).len()).collect();
    assert_eq!(placed, [2, 2, 1, 0, 0]);
    assert!(stage.passed_over(jobs[2], 0).contains("short of cpu by 1000m"), "{}", stage.passed_over(jobs[2], 0));
    assert_eq!(stage.passed_over(jobs[4], 0), stage.passed_over(jobs[3], 0));
}

fn limit(stage: &mut Stage, cpu_millis: u64) {
    let mut limits = Quota::default().limits;
    limits[0] = Some(cpu_millis);
    stage.ask("operator", Command::SetQuota { namespace: "default".into(), limit: Some(Quota { limits }) });
}

/// They were claimed, refused and claimed again: lines of the log, and words about conflicts where there were none.
#[test]
fn what_is_beyond_a_quota_is_not_claimed_before_there_is_more_of_it() {
    let mut stage = Stage::new();
    stage.machine("m1", 16_000, &[]);
    limit(&mut stage, 2500);
    let seat = stage.seat(Batch::default());
    let first = stage.submit(&JobBuilder::new("first", "batch").group("main", 2, 1000));
    let second = stage.submit(&JobBuilder::new("second", "batch").group("main", 2, 1000));
    let small = stage.submit(&JobBuilder::new("small", "batch").group("main", 1, 500));
    stage.advance(10_000_000);
    let placed = |stage: &Stage| [first, second, small].map(|job| stage.placed(job).len());
    assert_eq!(placed(&stage), [2, 0, 1]);
    let why = stage.passed_over(second, 0);
    assert!(why.starts_with("the quota of default is short of cpu by "), "{why}");
    let counters = stage.runtime(seat).counters();
    assert_eq!((counters.claims_other, counters.claims_conflict), (0, 0), "{counters:?}");
    limit(&mut stage, 3500);
    stage.advance(1_000_000);
    assert_eq!(placed(&stage), [2, 1, 1]);
    stage.ask("owner", Command::StopJob { job: first, version: None });
    stage.advance(1_000_000);
    assert_eq!(placed(&stage), [0, 2, 1], "quota is back before the receipts");
}

#[test]
fn what_finds_no_room_leaves_its_quota_to_others_and_a_gang_has_it_at_once_or_not_at_all() {
    let mut stage = Stage::new();
    stage.machine("m1", 3000, &[]);
    limit(&mut stage, 4000);
    let seat = stage.seat(Batch::default());
    let large = stage.submit(&JobBuilder::new("large", "batch").group("main", 1, 3500).priority(90));
    let small = stage.submit(&JobBuilder::new("small", "batch").group("main", 2, 1000));
    let gang = stage.submit(&JobBuilder::new("gang", "batch").group("main", 5, 500).min(5));
    stage.advance(2_000_000);
    let placed = |stage: &Stage| [large, small, gang].map(|job| stage.placed(job).len());
    assert_eq!(placed(&stage), [0, 2, 0]);
    assert!(stage.passed_over(gang, 0).starts_with("the quota of default is short of cpu by 500m"));
    limit(&mut stage, 4500);
    stage.machine("m2", 3000, &[]);
    stage.advance(2_000_000);
    assert_eq!((placed(&stage), stage.runtime(seat).counters().claims_other), ([0, 2, 5], 0));
}

/// The quota was told first, and of one task, while the next one waited for a machine: whoever raised it got nothing.
#[test]
fn a_group_that_waits_for_room_and_for_quota_says_both_and_first_what_the_next_task_waits_for() {
    let mut stage = Stage::new();
    stage.machine("m1", 1500, &[]);
    limit(&mut stage, 3000);
    stage.seat(Batch::default());
    let job = stage.submit(&JobBuilder::new("words", "batch").group("main", 5, 1000));
    stage.advance(2_000_000);
    assert_eq!(stage.placed(job).len(), 1);
    let why = "of 1 machine 1 lacks cpu by at least 500m; nearest is m1, short of cpu by 500m; \
               for all of them the quota of default is short of cpu by 2000m";
    assert_eq!(stage.passed_over(job, 0), why);
    // With room for two more the quota is what the next one waits for.
    stage.machine("m2", 8000, &[]);
    stage.advance(2_000_000);
    assert_eq!(stage.placed(job).len(), 3);
    assert_eq!(stage.passed_over(job, 0), "the quota of default is short of cpu by 1000m");
}

/// What the first might have had of the quota was gone for those that were asked about with it, and they were told that it is short.
#[test]
fn equal_jobs_that_find_no_room_are_all_told_so_and_not_that_their_quota_is_short() {
    let mut stage = Stage::new();
    stage.machine("m1", 500, &[]);
    limit(&mut stage, 2000);
    stage.seat(Batch::default());
    let jobs = ["first", "second"].map(|name| stage.submit(&JobBuilder::new(name, "batch").group("main", 2, 1000)));
    stage.advance(2_000_000);
    for job in jobs {
        let why = stage.passed_over(job, 0);
        assert!(why.starts_with("of 1 machine 1 lacks cpu by at least 500m"), "{why}");
    }
}

/// How many it needs at once was read from a mirror that did not show those in flight: the rest was no gang, was given up, and nothing was an
/// occasion to look again.
#[test]
fn the_rest_of_a_gang_is_placed_when_those_in_flight_are_answered() {
    let mut stage = Stage::new();
    (0..8).for_each(|number| {
        stage.machine(&format!("m{number}"), 4000, &[]);
    });
    let seat = stage.seat(Batch::default());
    stage.hold(seat);
    let gang = stage.submit(&JobBuilder::new("gang", "batch").group("g", 4, 1000).min(4));
    stage.advance(1_000);
    stage.ask("owner", Command::ScaleJob { job: gang, version: None, group: 0, count: 5 });
    stage.advance(10_000);
    stage.release(seat);
    stage.advance(1_000_000);
    assert_eq!((stage.placed(gang).len(), stage.passed_over(gang, 0)), (5, ""));
}

#[test]
fn a_gang_of_more_tasks_than_one_decision_has_is_placed_whole() {
    let mut stage = Stage::new();
    (0..30).for_each(|number| {
        stage.machine(&format!("m{number}"), 200_000, &[]);
    });
    let seat = stage.seat(Batch::default());
    stage.hold(seat);
    let gang = stage.submit(&JobBuilder::new("gang", "batch").group("g", 5000, 1000).min(1000));
    stage.advance(5_000);
    stage.release(seat);
    stage.advance(1_000_000);
    assert_eq!(stage.placed(gang).len(), 5000);
}

/// Two of its four could be placed, and were given up as a gang for which there is no room, without a word; and so was every equal one.
#[test]
fn a_gang_that_waits_for_its_predecessors_keeps_no_equal_one_from_starting() {
    let mut stage = Stage::new();
    (0..4).for_each(|number| {
        stage.machine(&format!("m{number}"), 1000, &[]);
    });
    stage.seat(Batch::default());
    let gang = |name: &str| JobBuilder::new(name, "batch").group("g", 4, 1000).min(4).single_instance();
    let first = stage.submit(&gang("first"));
    stage.advance(10_000);
    (4..12).for_each(|number| {
        stage.machine(&format!("m{number}"), 1000, &[]);
    });
    let placed: Vec<_> = stage.cell().allocations().map(|found| found.id).collect();
    for &allocation in &placed {
        stage.ask("owner", Command::StopAllocation(allocation));
    }
    placed[..2].iter().for_each(|&allocation| stage.report(allocation, AllocationState::Stopped, 0));
    stage.advance(10_000);
    let second = stage.submit(&gang("second"));
    stage.advance(1_000_000);
    assert_eq!([first, second].map(|job| stage.placed(job).len()), [0, 4]);
    let why =
        "it starts with 4 at once, and 2 of them can be placed now: the others wait for their predecessors to end";
    assert_eq!(stage.passed_over(first, 0), why);
    // Whatever else it lacks.
    limit(&mut stage, 100_000);
    stage.advance(1_000_000);
    assert_eq!(stage.passed_over(first, 0), why);
    placed[2..].iter().for_each(|&allocation| stage.report(allocation, AllocationState::Stopped, 0));
    stage.advance(1_000_000);
    assert_eq!(stage.placed(first).len(), 4);
}

/// All that were free were needed at once as far as the mirror told, and nobody looked again when it told otherwise.
#[test]
fn what_was_a_gang_only_while_others_were_in_flight_is_placed_in_what_room_there_is() {
    let mut stage = Stage::new();
    stage.machine("m1", 6000, &[]);
    let seat = stage.seat(Batch::default());
    stage.hold(seat);
    let gang = stage.submit(&JobBuilder::new("gang", "batch").group("g", 4, 1000).min(4));
    stage.advance(1_000);
    stage.ask("owner", Command::ScaleJob { job: gang, version: None, group: 0, count: 8 });
    stage.advance(10_000);
    stage.release(seat);
    stage.advance(1_000_000);
    assert_eq!(stage.placed(gang).len(), 6);
    assert!(!stage.passed_over(gang, 0).contains("at once"), "{}", stage.passed_over(gang, 0));
}

/// The room went to jobs of the lowest priority: 24,576 tasks that wait are six decisions, a millisecond apart, and where others run something ends in
/// each of these.
#[test]
fn of_more_tasks_than_one_decision_takes_those_of_the_highest_priority_have_what_comes_free() {
    let mut stage = Stage::new();
    stage.machine("m1", 12_000, &[]);
    stage.seat(Batch::default());
    let job =
        |name: &str, count, priority| JobBuilder::new(name, "batch").group("main", count, 1000).priority(priority);
    let running: Vec<_> = (0..12).map(|number| stage.submit(&job(&format!("old-{number}"), 1, 50))).collect();
    stage.advance(1_000_000);
    assert!(running.iter().all(|&job| stage.placed(job).len() == 1));
    (0..48).for_each(|number| {
        stage.submit(&job(&format!("low-{number}"), 512, 50));
    });
    let high = stage.submit(&job("high", 12, 59));
    stage.advance(1_000_000);
    assert_eq!(stage.placed(high), []);
    for &job in &running {
        stage.finish(job, true);
        stage.advance(1_500);
    }
    stage.advance(1_000_000);
    assert_eq!(stage.placed(high).len(), 12);
}

/// What gave its machine up said nothing else, and nobody looked: the job waited until something else happened.
#[test]
fn a_job_that_waits_for_a_shared_machine_goes_elsewhere_once_that_is_given_up() {
    for drains in [true, false] {
        let mut stage = Stage::new();
        stage.machine("m0", 2000, &[]);
        stage.seat(Batch::default());
        let job = stage.submit(&JobBuilder::new("shared", "batch").same_machine().group("main", 1, 1000));
        stage.settle();
        assert_eq!(stage.placed(job), [(0, 0, 0)]);
        stage.machine("m1", 2000, &[]);
        if drains {
            let deadline = Some(stage.cell().time().plus_micros(10_000_000));
            let machine = stage.cell().machine_in(0).unwrap().id;
            stage.ask("operator", Command::DrainMachine { machine, deadline });
            stage.settle();
        }
        stage.finish(job, false);
        if drains {
            stage.advance(9_000_000);
        } else {
            stage.expire(0);
        }
        assert_eq!(stage.cell().job(job).unwrap().home, Some(0), "its machine may take it again");
        stage.advance(3_600_000_000);
        assert_eq!(stage.cell().job(job).unwrap().home, Some(1), "drains: {drains}");
        assert_eq!((stage.placed(job), stage.passed_over(job, 0)), (vec![(0, 0, 1)], ""));
    }
}
