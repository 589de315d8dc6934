//! Stories of full cells, against the real core.

use std::collections::BTreeSet;

use plenum_model::{
    AllocationId, AllocationRef, AllocationState, Command, FoundMachine, Inventory, JobId, Port, Quota, TaskTraces,
    Transition,
};
use plenum_sdk::{Decision, Plan, Scheduler, View};
use plenum_testkit::{JobBuilder, Seat, Stage};

use crate::batch::Batch;
use crate::service::Service;

pub(super) fn job(name: &str, count: u32, cpu_millis: i64, priority: u32) -> JobBuilder {
    JobBuilder::new(name, "batch").group("main", count, cpu_millis).priority(priority)
}

/// A cell of so many machines with two cores each, and the scheduler `batch`.
pub(super) fn stage(machines: u32) -> Stage {
    let mut stage = Stage::new();
    for number in 0..machines {
        stage.machine(&format!("m{number}"), 2000, &[]);
    }
    stage.seat(Batch::default());
    stage
}

pub(super) fn submit(stage: &mut Stage, job: &JobBuilder) -> JobId {
    let id = stage.submit(job);
    stage.advance(1_000_000);
    id
}

/// Tasks of a job on machines that don't leave, and those that are being evicted.
pub(super) fn stands(stage: &Stage, job: JobId) -> (usize, usize) {
    (stage.placed(job).len(), leaving(stage).filter(|found| found.row.job() == job).count())
}

pub(super) fn leaving(stage: &Stage) -> impl Iterator<Item = AllocationRef<'_>> {
    stage.cell().allocations().filter(|found| found.status.state.is_leaving())
}

/// All that leaves has left.
pub(super) fn leave(stage: &mut Stage) {
    let ended = |found: AllocationRef<'_>| {
        let machine = stage.cell().machine_in(found.row.machine).unwrap();
        Transition::new(machine.id, machine.epoch, found.id, AllocationState::Stopped)
    };
    let all = leaving(stage).map(ended).collect();
    stage.ask("agent", Command::ReportStatus(all));
    stage.advance(1_000_000);
}

fn grant_evictions(stage: &mut Stage, scheduler: &str, evicts: bool) {
    let scheduler = scheduler.into();
    stage.ask("operator", Command::SetRights { scheduler, evicts: Some(evicts), priority: None });
    stage.advance(1_000_000);
}

#[test]
fn a_task_of_a_higher_band_takes_the_place_of_one_of_a_lower_which_comes_back_later() {
    let mut stage = stage(1);
    let low = submit(&mut stage, &job("low", 1, 2000, 10));
    let high = submit(&mut stage, &job("high", 1, 2000, 90));
    assert_eq!((stands(&stage, high), stands(&stage, low)), ((1, 0), (0, 1)));
    assert_eq!(stage.passed_over(high, 0), "");
    assert!(stage.passed_over(low, 0).contains("short of cpu by 2000m"), "{}", stage.passed_over(low, 0));
    leave(&mut stage);
    stage.finish(high, true);
    stage.advance(1_000_000);
    assert_eq!(stands(&stage, low), (1, 0));
}

#[test]
fn nobody_goes_where_free_room_is_enough() {
    let mut stage = stage(2);
    let low = submit(&mut stage, &job("low", 3, 1000, 10));
    let high = submit(&mut stage, &job("high", 1, 1000, 90));
    assert_eq!((stands(&stage, high), stands(&stage, low)), ((1, 0), (3, 0)));
}

#[test]
fn nobody_goes_for_a_job_of_the_same_band() {
    let mut stage = stage(1);
    let low = submit(&mut stage, &job("low", 1, 2000, 50));
    let high = submit(&mut stage, &job("high", 1, 2000, 59));
    assert_eq!((stands(&stage, high), stands(&stage, low)), ((0, 0), (1, 0)));
    assert_eq!(
        stage.passed_over(high, 0),
        "of 1 machine 1 lacks cpu by at least 2000m; nearest is m0, short of cpu by 2000m"
    );
}

#[test]
fn who_waits_although_there_are_lower_bands_is_told_that_they_have_not_enough() {
    let mut stage = stage(2);
    // Each machine gets one of both kinds: two of a size don't fit beside each other.
    for (name, cpu, priority) in [("even-0", 1200, 90), ("even-1", 1200, 90), ("low-0", 800, 10), ("low-1", 800, 10)] {
        submit(&mut stage, &job(name, 1, cpu, priority));
    }
    let wide = submit(&mut stage, &job("wide", 1, 1000, 95));
    assert_eq!((stands(&stage, wide), leaving(&stage).count()), ((0, 0), 0));
    assert_eq!(
        stage.passed_over(wide, 0),
        "no lower band has enough on any machine to be evicted; of 2 machines 2 lack cpu by at least 1000m; \
         nearest is m0, short of cpu by 1000m"
    );
    let wider = submit(&mut stage, &job("wider", 1, 3000, 95));
    assert!(stage.passed_over(wider, 0).starts_with("of 2 machines"), "{}", stage.passed_over(wider, 0));
    assert!(stage.passed_over(wider, 0).ends_with("too small even when empty"), "{}", stage.passed_over(wider, 0));
}

#[test]
fn the_lowest_priorities_go_and_of_these_the_fewest() {
    let mut stage = stage(2);
    let small = submit(&mut stage, &job("small", 4, 500, 5));
    let middle = submit(&mut stage, &job("middle", 1, 2000, 35));
    let high = submit(&mut stage, &job("high", 1, 700, 90));
    assert_eq!((stands(&stage, small), stands(&stage, middle)), ((2, 2), (1, 0)));
    // Of what was freed for it 300m are left: with one more of the small ones they are enough for another.
    let second = submit(&mut stage, &job("second", 1, 700, 90));
    assert_eq!((stands(&stage, small), stands(&stage, middle)), ((1, 3), (1, 0)));
    assert_eq!((stands(&stage, high), stands(&stage, second)), ((1, 0), (1, 0)));
    leave(&mut stage);
    assert_eq!(stands(&stage, high), (1, 0));
}

#[test]
fn who_leaves_anyway_is_waited_for_and_nobody_else_goes() {
    let mut stage = stage(2);
    let [first, other] =
        [("first", 60), ("other", 10)].map(|(name, priority)| submit(&mut stage, &job(name, 1, 2000, priority)));
    stage.ask("owner", Command::StopJob { job: first, version: None });
    let high = submit(&mut stage, &job("high", 1, 2000, 90));
    assert_eq!((stands(&stage, high), stands(&stage, other)), ((1, 0), (1, 0)), "on top of the one that leaves");
    let next = submit(&mut stage, &job("next", 1, 2000, 90));
    assert_eq!((stands(&stage, next), stands(&stage, other)), ((1, 0), (0, 1)), "that room is spoken for");
}

// One after the other was granted on top of it, as that costs nothing, until all that it had was spoken for: each of them waited as long as it took.
#[test]
fn who_has_been_leaving_for_more_than_a_minute_is_waited_for_by_nobody_else() {
    let mut stage = stage(2);
    let [slow, other] =
        [("slow", 60), ("other", 10)].map(|(name, priority)| submit(&mut stage, &job(name, 1, 2000, priority)));
    let [at_slow, at_other] = [slow, other].map(|job| machines(&stage, job));
    stage.ask("owner", Command::StopJob { job: slow, version: None });
    let first = submit(&mut stage, &job("first", 1, 500, 90));
    stage.advance(50_000_000);
    let second = submit(&mut stage, &job("second", 1, 500, 90));
    assert_eq!([first, second].map(|job| machines(&stage, job)), [at_slow.clone(), at_slow]);
    assert_eq!(stands(&stage, other), (1, 0));
    stage.advance(10_000_000);
    let third = submit(&mut stage, &job("third", 1, 500, 90));
    assert_eq!((machines(&stage, third), stands(&stage, other)), (at_other, (0, 1)));
    // What nobody took over of it is room once it has left: each machine has some for one.
    leave(&mut stage);
    let more = submit(&mut stage, &job("more", 2, 1000, 5));
    assert_eq!(stands(&stage, more), (2, 0));
}

#[test]
fn many_tasks_of_one_job_take_the_places_of_as_many_as_it_needs() {
    let mut stage = stage(20);
    let low = submit(&mut stage, &job("low", 80, 500, 10));
    let high = submit(&mut stage, &job("high", 30, 1000, 90));
    assert_eq!((stands(&stage, high), stands(&stage, low)), ((30, 0), (20, 60)));
    let more = submit(&mut stage, &job("more", 30, 1000, 90));
    assert_eq!((stands(&stage, more), stands(&stage, low)), ((10, 0), (0, 80)));
    let told = stage.passed_over(more, 0);
    assert!(told.starts_with("no lower band"), "{told}");
}

#[test]
fn many_jobs_of_one_task_are_looked_at_together() {
    let mut stage = stage(20);
    let low = submit(&mut stage, &job("low", 80, 500, 10));
    let jobs: Vec<JobId> = (0..40).map(|number| stage.submit(&job(&format!("high-{number}"), 1, 1000, 90))).collect();
    stage.advance(1_000_000);
    assert!(jobs.iter().all(|&job| stands(&stage, job) == (1, 0)));
    assert_eq!(stands(&stage, low), (0, 80));
}

#[test]
fn a_gang_evicts_as_a_whole_or_nobody() {
    let mut stage = stage(3);
    let low = submit(&mut stage, &job("low", 2, 2000, 10));
    submit(&mut stage, &job("peer", 1, 2000, 90));
    let gang = submit(&mut stage, &job("gang", 3, 2000, 90).min(3));
    assert_eq!((stands(&stage, gang), stands(&stage, low)), ((0, 0), (2, 0)), "one of three would wait");
    let told = stage.passed_over(gang, 0);
    let not_for_all =
        "it starts with 3 at once, of which none fits: not enough of lower bands can be evicted for all 3; of 3";
    assert!(told.starts_with(not_for_all), "{told}");
    let huge = submit(&mut stage, &job("huge", 4, 2000, 90).min(4));
    let told = stage.passed_over(huge, 0);
    let nowhere = "it starts with 4 at once, of which none fits, and even on empty machines at most 3: of 3 machines";
    assert!(told.starts_with(nowhere), "it evicts nobody: {told}");
    stage.ask("owner", Command::StopJob { job: huge, version: None });
    stage.machine("m3", 2000, &[]);
    stage.advance(1_000_000);
    assert_eq!((stands(&stage, gang), stands(&stage, low)), ((3, 0), (0, 2)), "one where it is free, two by eviction");
}

#[test]
fn of_one_band_gangs_and_jobs_that_share_a_machine_go_last() {
    let mut stage = stage(3);
    let gang = submit(&mut stage, &job("gang", 1, 2000, 10).min(1));
    let shares = submit(&mut stage, &job("shares", 1, 2000, 10).same_machine());
    let alone = submit(&mut stage, &job("alone", 1, 2000, 15));
    for (name, spoilt) in [("one", 0), ("two", 1), ("three", 2)] {
        submit(&mut stage, &job(name, 1, 2000, 90));
        assert_eq!(stands(&stage, alone), (0, 1), "the first one to go");
        assert_eq!(stands(&stage, gang).1 + stands(&stage, shares).1, spoilt);
    }
}

/// One that went in the place of a gang of a lower band evicted the gang in its turn: two went for one.
#[test]
fn a_gang_of_a_lower_band_goes_before_others_of_a_higher() {
    let mut stage = stage(2);
    let gang = submit(&mut stage, &job("gang", 1, 2000, 10).min(1));
    let alone = submit(&mut stage, &job("alone", 1, 2000, 45));
    submit(&mut stage, &job("high", 1, 2000, 90));
    assert_eq!((stands(&stage, gang), stands(&stage, alone)), ((0, 1), (1, 0)));
}

#[test]
fn a_job_that_shares_a_machine_evicts_where_all_of_it_fits() {
    let mut stage = stage(2);
    let [low, even] =
        [("low", 10), ("even", 90)].map(|(name, priority)| submit(&mut stage, &job(name, 2, 1000, priority)));
    let shares = job("shares", 1, 1000, 90).group("second", 1, 800).same_machine();
    let shares = submit(&mut stage, &shares);
    assert_eq!((stands(&stage, shares), stands(&stage, low), stands(&stage, even)), ((2, 0), (0, 2), (2, 0)));
}

// It was bound to the machine that had room for one of its tasks, and whom to evict was looked for there alone.
#[test]
fn a_gang_that_shares_a_machine_evicts_where_its_minimum_fits() {
    let mut stage = Stage::new();
    stage.machine("m0", 4000, &[]);
    stage.seat(Batch::default());
    let low = submit(&mut stage, &job("low", 2, 2000, 10));
    stage.machine("m1", 1900, &[]);
    let never = submit(&mut stage, &job("never", 6, 1000, 90).min(5).same_machine());
    assert_eq!((stands(&stage, never), stands(&stage, low)), ((0, 0), (2, 0)));
    let gang = submit(&mut stage, &job("gang", 6, 1000, 90).min(3).same_machine());
    assert_eq!((stands(&stage, gang), stands(&stage, low)), ((4, 0), (0, 2)), "four of six have room there");
    assert_eq!(machines(&stage, gang), [0; 4]);
}

#[test]
fn devices_and_ports_of_lower_bands_are_taken_over() {
    let mut stage = Stage::new();
    stage.machine_with_gpus("m0", 8000, &[], 2);
    stage.machine_with_gpus("m1", 8000, &[], 1);
    stage.seat(Batch::default());
    let train = submit(&mut stage, &job("train", 3, 100, 10).gpu(1000));
    let web = submit(&mut stage, &job("web", 2, 100, 10).port("http", 80));
    let plain = submit(&mut stage, &job("plain", 2, 100, 10));
    let seat = stage.seat(Service::default());
    let both =
        JobBuilder::new("both", "service").group("main", 1, 100).priority(90).gpu(1000).gpu(1000).port("http", 80);
    let both = submit(&mut stage, &both);
    assert_eq!(stage.placed(both), [(0, 0, 0)]);
    assert_eq!((stands(&stage, train), stands(&stage, web), stands(&stage, plain)), ((1, 2), (1, 1), (2, 0)));
    let again = submit(&mut stage, &job("again", 2, 100, 90).gpu(1000).port("http", 80));
    assert_eq!(machines(&stage, again), [1], "the other machine has none of a lower band any more");
    assert_eq!(stage.runtime(seat).counters().claims_misfit, 0);
    leave(&mut stage);
    assert_eq!((stage.placed(both).len(), stage.placed(again).len()), (1, 1));
}

// It was asked for at the expense of the one that could be evicted, and the cell refused that, again and again.
#[test]
fn nobody_is_evicted_for_a_port_that_a_task_unknown_to_the_cell_has_too() {
    let mut stage = stage(1);
    let low = submit(&mut stage, &job("low", 1, 100, 10).port("http", 80));
    let known = stage.cell().allocations().next().unwrap().id;
    let traces = TaskTraces {
        namespace: "default".into(),
        job: "old".into(),
        group: "main".into(),
        ports: vec![Port { name: "http".into(), number: 80 }],
        ..TaskTraces::default()
    };
    let runs = |allocation, task: Option<TaskTraces>| Inventory {
        allocation,
        state: AllocationState::Running,
        exit_code: 0,
        reason: "".into(),
        restarts: 0,
        task: task.map(Into::into),
    };
    let unknown = AllocationId { slot: 7, generation: 1 };
    let machine = stage.cell().machine_in(0).unwrap();
    let command = Command::RegisterMachine(FoundMachine {
        name: machine.name.clone(),
        boot_id: "boot".into(),
        capacity: *machine.capacity,
        attributes: machine.attributes.clone(),
        inventory: vec![runs(known, None), runs(unknown, Some(traces))],
        seen: stage.cell().revision(),
        ..FoundMachine::default()
    });
    stage.ask("agent", command);
    let high = submit(&mut stage, &job("high", 1, 100, 90).port("http", 80));
    assert_eq!((stands(&stage, high), stands(&stage, low)), ((0, 0), (1, 0)));
    let told = stage.passed_over(high, 0);
    assert!(told.starts_with("no lower band has enough"), "{told}");
}

// The victim's device was named. When the victim had ended before, the cell chose that one for another claim of the same transaction.
#[test]
fn a_victim_that_ends_before_its_device_is_claimed_is_in_nobodys_way() {
    let mut stage = Stage::new();
    stage.machine_with_gpus("m0", 8000, &[], 2);
    let seat = stage.seat(Batch::default());
    let low = submit(&mut stage, &job("low", 1, 100, 10).gpu(1000));
    stage.hold(seat);
    let high = submit(&mut stage, &job("high", 2, 100, 90).gpu(1000));
    stage.finish(low, true);
    stage.transcript();
    stage.release(seat);
    assert_eq!((stands(&stage, high), stage.runtime(seat).counters().claims_misfit), ((2, 0), 0));
    assert_eq!(stage.transcript(), "batch: 2 of 2 granted\n");
}

// The scheduler foresaw the device of one that leaves, where the cell gives what is free, and claimed that for another task besides.
#[test]
fn of_devices_that_are_lent_those_are_foreseen_that_the_cell_gives() {
    let mut stage = Stage::new();
    stage.machine_with_gpus("m0", 8000, &[], 3);
    let seat = stage.seat(Batch::default());
    submit(&mut stage, &job("keep", 1, 100, 90).gpu(600));
    let whole = submit(&mut stage, &job("whole", 1, 100, 10).gpu(1000));
    submit(&mut stage, &job("more", 1, 100, 90).gpu(700));
    let part = submit(&mut stage, &job("part", 1, 100, 10).gpu(300));
    stage.ask("operator", Command::StopJob { job: part, version: None });
    let high = job("high", 1, 100, 90).gpu(300).gpu(1000).group("second", 1, 100).gpu(400);
    let high = submit(&mut stage, &high);
    assert_eq!((stands(&stage, whole), stage.placed(high)), ((0, 1), vec![(0, 0, 0)]));
    assert_eq!(stage.runtime(seat).counters().claims_misfit, 0);
}

fn machines(stage: &Stage, job: JobId) -> Vec<u32> {
    stage.placed(job).iter().map(|&(_, _, machine)| machine).collect()
}

#[test]
fn limits_constraints_and_quotas_are_no_reason_to_evict() {
    let mut stage = Stage::new();
    stage.machine("m0", 2000, &[("disk", "ssd")]);
    stage.machine("m1", 2000, &[("disk", "hdd")]);
    stage.seat(Batch::default());
    let low = submit(&mut stage, &job("low", 4, 1000, 10));
    let nowhere = submit(&mut stage, &job("nowhere", 1, 1000, 90).on("disk", "tape"));
    assert_eq!((stands(&stage, nowhere), leaving(&stage).count()), ((0, 0), 0));
    let poor = JobBuilder::new("poor", "batch").namespace("poor").group("main", 1, 1000).priority(90);
    let mut limits = Quota::default();
    limits.limits[0] = Some(500);
    stage.ask("operator", Command::SetQuota { namespace: "poor".into(), limit: Some(limits) });
    let poor = submit(&mut stage, &poor);
    assert_eq!((stands(&stage, poor), leaving(&stage).count()), ((0, 0), 0));
    let one_each = submit(&mut stage, &job("one-each", 3, 1000, 90).per_machine(1));
    assert_eq!(
        (machines(&stage, one_each), stands(&stage, low)),
        (vec![0, 1], (2, 2)),
        "on each as many as it wants there"
    );
    let told = stage.passed_over(one_each, 0);
    assert!(
        told.starts_with("on no machine that its limits allow has a lower band enough to be evicted; of 2"),
        "{told}"
    );
    let quick = submit(&mut stage, &job("quick", 2, 1000, 90).on("disk", "ssd"));
    assert_eq!(machines(&stage, quick), [0], "the other place is its own band's");
    let told = stage.passed_over(quick, 0);
    assert!(told.starts_with("on no machine that it may use has a lower band enough to be evicted; of 2"), "{told}");
    let shares = submit(&mut stage, &job("shares", 2, 1000, 90).on("disk", "ssd").same_machine());
    let told = stage.passed_over(shares, 0);
    assert!(told.contains("share a machine: on no machine that it may use has a lower band enough"), "{told}");
}

// The one that had less than it gave was not looked at, and was among those on none of which a lower band had enough.
#[test]
fn a_machine_that_has_less_than_it_gave_is_not_said_to_have_not_enough() {
    let mut stage = stage(2);
    let low = submit(&mut stage, &job("low", 2, 2000, 10));
    submit(&mut stage, &job("even", 2, 2000, 95));
    leave(&mut stage);
    stage.machine("m2", 3000, &[]);
    stage.advance(1_000_000);
    assert_eq!(machines(&stage, low), [2]);
    stage.machine("m2", 1900, &[]);
    stage.advance(1_000_000);
    let high = submit(&mut stage, &job("high", 1, 1900, 90));
    assert_eq!((stands(&stage, high), stands(&stage, low)), ((0, 0), (1, 0)));
    let told = stage.passed_over(high, 0);
    assert!(told.starts_with("on no machine that it may use has a lower band enough to be evicted; of 3"), "{told}");
}

#[test]
fn who_may_evict_nobody_waits_and_evicts_when_it_may() {
    let mut stage = stage(1);
    let low = submit(&mut stage, &job("low", 1, 2000, 10));
    grant_evictions(&mut stage, "batch", false);
    let high = submit(&mut stage, &job("high", 1, 2000, 90));
    assert_eq!((stands(&stage, high), stands(&stage, low)), ((0, 0), (1, 0)));
    let told = stage.passed_over(high, 0);
    assert!(
        told.starts_with("batch may evict nobody (`plenum scheduler set batch --evict yes`); of 1 machine"),
        "{told}"
    );
    grant_evictions(&mut stage, "batch", true);
    assert_eq!((stands(&stage, high), stands(&stage, low)), ((1, 0), (0, 1)));
}

// All of them went to the first machine, as it cost no more than the others: one machine's end was the service's.
#[test]
fn tasks_of_a_service_evict_on_different_machines_where_that_costs_no_more() {
    let mut stage = stage(4);
    stage.seat(Service::default());
    submit(&mut stage, &job("low", 16, 500, 10));
    stage.machine("m4", 500, &[]);
    stage.advance(1_000_000);
    let web = JobBuilder::new("web", "service").group("main", 5, 500).priority(90).forever();
    let web = submit(&mut stage, &web);
    assert_eq!(machines(&stage, web), [4, 0, 1, 2, 3], "one where it is free, and four others");
    let more = JobBuilder::new("more", "service").group("main", 5, 500).priority(90).forever();
    let more = submit(&mut stage, &more);
    let on: BTreeSet<u32> = machines(&stage, more).into_iter().collect();
    assert_eq!(on, [0, 1, 2, 3].into(), "one of them gets two");
}

#[test]
fn a_service_evicts_others_tasks_and_a_move_evicts_nobody() {
    let mut stage = stage(2);
    stage.seat(Service::default());
    let web = JobBuilder::new("web", "service").group("main", 1, 2000).priority(90).forever();
    let low = submit(&mut stage, &job("low", 2, 2000, 10));
    let web = submit(&mut stage, &web);
    assert_eq!((stands(&stage, web), stands(&stage, low)), ((1, 0), (1, 1)));
    leave(&mut stage);
    let machine = stage.cell().machine_in(machines(&stage, web)[0]).unwrap().id;
    let run = stage.cell().allocations().find(|found| found.row.job() == web).map(|found| found.id).unwrap();
    stage.report(run, AllocationState::Running, 0);
    let deadline = stage.cell().time().plus_micros(60_000_000);
    stage.ask("operator", Command::DrainMachine { machine, deadline: Some(deadline) });
    stage.advance(20_000_000);
    assert_eq!((stands(&stage, web), stands(&stage, low)), ((1, 0), (1, 0)), "it runs on until the deadline");
    stage.advance(60_000_000);
    leave(&mut stage);
    assert_eq!((stands(&stage, web), stands(&stage, low).0), ((1, 0), 0), "then it waits, and somebody goes for it");
}

/// Evicts for its own task the one that stands on the first machine.
pub(super) struct Rival;

impl Scheduler for Rival {
    fn name(&self) -> &str {
        "rival"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let (mut decision, mut plan) = (Decision::default(), Plan::incremental());
        let victim = view.cell().allocations().find(|found| found.row.machine == 0 && found.status.state.is_active());
        for work in view.work() {
            plan.claim(work, &work.tasks[..1], &[0]);
            victim.iter().for_each(|victim| {
                plan.evict(0, victim.id);
            });
        }
        decision.commit(plan);
        decision
    }
}

#[test]
fn a_rival_that_takes_the_victim_first_costs_a_conflict_and_no_further_victim() {
    let mut stage = Stage::new();
    stage.machine("m0", 2000, &[]);
    stage.machine("m1", 2000, &[]);
    let seat = stage.seat(Batch::default());
    let low = submit(&mut stage, &job("low", 2, 2000, 10));
    stage.seat(Rival);
    stage.transcript();
    stage.hold(seat);
    let high = stage.submit(&job("high", 1, 2000, 90));
    let rival = stage.submit(&JobBuilder::new("rival", "rival").group("main", 1, 2000).priority(90));
    stage.settle();
    stage.release(seat);
    stage.advance(1_000_000);
    assert_eq!((stands(&stage, rival), stands(&stage, high), stands(&stage, low)), ((1, 0), (1, 0), (0, 2)));
    let told = stage.transcript();
    assert!(told.contains("batch: 0 of 1 granted\n  task 0 on m0: conflict NoRoom, culprit rival\n"), "{told}");
}

// The second one named the first one's victim, which the mirror still showed, and lost a race against its own scheduler.
#[test]
fn whom_a_transaction_in_flight_names_no_other_one_names() {
    let mut stage = Stage::new();
    stage.machine("m0", 2000, &[]);
    stage.machine("m1", 2000, &[]);
    let seat = stage.seat(Batch::default());
    let low = submit(&mut stage, &job("low", 2, 2000, 10));
    stage.transcript();
    stage.hold(seat);
    let jobs = ["first", "second"].map(|name| {
        let job = stage.submit(&job(name, 1, 2000, 90));
        stage.advance(10_000);
        job
    });
    stage.release(seat);
    stage.settle();
    assert_eq!(stage.transcript(), "batch: 1 of 1 granted\nbatch: 1 of 1 granted\n");
    assert!(jobs.iter().all(|&job| stands(&stage, job) == (1, 0)));
    assert_eq!(stands(&stage, low), (0, 2));
}

/// A machine that these tasks of a service of low priority fill, and a held seat of `batch` that has evicted for a first task of a core and was not answered.
fn first_in_flight(low: [i64; 2]) -> (Stage, Seat, JobId) {
    let mut stage = Stage::new();
    stage.machine("m0", low.iter().sum::<i64>().unsigned_abs(), &[]);
    stage.seat(Service::default());
    let seat = stage.seat(Batch::default());
    for (number, cpu) in low.into_iter().enumerate() {
        submit(&mut stage, &JobBuilder::new(&format!("low-{number}"), "service").group("main", 1, cpu).priority(10));
    }
    stage.hold(seat);
    let first = submit(&mut stage, &job("first", 1, 4000, 90));
    (stage, seat, first)
}

// Who was named in flight was left out, and what goes in his place was not: the second one lacked the room of both, was told that no lower band had enough, and heard nothing of the first one's
// grant.
#[test]
fn what_a_transaction_in_flight_frees_and_takes_is_balanced_for_the_next() {
    let (mut stage, seat, first) = first_in_flight([4000, 3000]);
    let second = submit(&mut stage, &job("second", 1, 3000, 90));
    stage.transcript();
    stage.release(seat);
    assert_eq!(stage.transcript(), "batch: 1 of 1 granted\nbatch: 1 of 1 granted\n");
    assert_eq!((stands(&stage, first), stands(&stage, second), leaving(&stage).count()), ((1, 0), (1, 0), 2));
}

// It evicted another one, as what the first one leaves of his victim's room was not counted.
#[test]
fn what_is_left_of_a_victim_in_flight_is_taken_before_anybody_else_goes() {
    let (mut stage, seat, first) = first_in_flight([6000, 1000]);
    let second = submit(&mut stage, &job("second", 1, 1000, 90));
    stage.release(seat);
    stage.advance(1_000_000);
    assert_eq!((stands(&stage, first), stands(&stage, second), leaving(&stage).count()), ((1, 0), (1, 0), 1));
}

// It named the other one's victim before its own: that one went in the place of its own, of a lower band, and evicted it in its turn.
#[test]
fn whose_sibling_is_refused_evicts_the_one_that_it_chose() {
    let mut stage = Stage::new();
    stage.machine("m0", 3000, &[]);
    let seat = stage.seat(Batch::default());
    let [dear, cheap] = [("dear", 2000, 40), ("cheap", 1000, 10)]
        .map(|(name, cpu, priority)| submit(&mut stage, &job(name, 1, cpu, priority)));
    stage.hold(seat);
    let [wide, small] = [("wide", 2000, 95), ("small", 1000, 90)]
        .map(|(name, cpu, priority)| submit(&mut stage, &job(name, 1, cpu, priority)));
    stage.ask("owner", Command::StopJob { job: wide, version: None });
    stage.release(seat);
    stage.advance(1_000_000);
    assert_eq!((stands(&stage, small), stands(&stage, dear), stands(&stage, cheap)), ((1, 0), (1, 0), (0, 1)));
}

#[test]
fn a_device_of_a_victim_in_flight_is_counted_on_by_nobody_else() {
    let mut stage = Stage::new();
    stage.machine_with_gpus("m0", 8000, &[], 1);
    stage.machine_with_gpus("m1", 8000, &[], 1);
    let seat = stage.seat(Batch::default());
    let low = submit(&mut stage, &job("low", 2, 100, 10).gpu(1000));
    stage.transcript();
    stage.hold(seat);
    for name in ["first", "second"] {
        submit(&mut stage, &job(name, 1, 100, 90).gpu(1000));
    }
    stage.release(seat);
    assert_eq!(stage.transcript(), "batch: 1 of 1 granted\nbatch: 1 of 1 granted\n");
    assert_eq!(stands(&stage, low), (0, 2));
}

// Of the devices that the first one gets nothing was booked, as some were its victim's still: the second one claimed the free one, too, and was refused.
#[test]
fn a_free_device_that_goes_with_one_of_a_victim_in_flight_is_claimed_by_nobody_else() {
    let mut stage = Stage::new();
    stage.machine_with_gpus("m0", 8000, &[], 2);
    let seat = stage.seat(Batch::default());
    let low = submit(&mut stage, &job("low", 1, 100, 10).gpu(1000));
    stage.transcript();
    stage.hold(seat);
    let first = submit(&mut stage, &job("first", 1, 100, 90).gpu(1000).gpu(1000));
    let second = submit(&mut stage, &job("second", 1, 100, 90).gpu(1000));
    stage.release(seat);
    stage.advance(1_000_000);
    assert_eq!(stage.transcript(), "batch: 1 of 1 granted\n");
    assert_eq!((stands(&stage, first), stands(&stage, second), stands(&stage, low)), ((1, 0), (0, 0), (0, 1)));
    leave(&mut stage);
    stage.finish(first, true);
    stage.advance(1_000_000);
    assert_eq!(stands(&stage, second), (1, 0));
}

// That it was granted was no occasion for who could not count on its victim, nor on what he leaves.
#[test]
fn who_found_nobody_hears_that_a_transaction_with_victims_was_decided() {
    let mut stage = Stage::new();
    stage.machine("m0", 4000, &[]);
    stage.seat(Service::default());
    let seat = stage.seat(Batch::default());
    submit(&mut stage, &JobBuilder::new("low", "service").group("main", 1, 4000).priority(25));
    submit(&mut stage, &JobBuilder::new("lowest", "service").group("main", 1, 4000).priority(5));
    stage.hold(seat);
    submit(&mut stage, &job("first", 1, 3000, 90));
    let second = submit(&mut stage, &job("second", 1, 1000, 21));
    stage.release(seat);
    stage.advance(1_000_000);
    assert_eq!((stands(&stage, second), leaving(&stage).count()), ((1, 0), 1), "{}", stage.passed_over(second, 0));
}

#[test]
fn sessions_that_share_the_jobs_evict_for_each_task_once() {
    let mut stage = Stage::new();
    (0..10).for_each(|number| {
        stage.machine(&format!("m{number}"), 2000, &[]);
    });
    (0..3).for_each(|_| {
        stage.seat(Batch::default());
    });
    let low = submit(&mut stage, &job("low", 20, 1000, 10));
    let jobs: Vec<JobId> = (0..12).map(|number| stage.submit(&job(&format!("high-{number}"), 1, 1000, 90))).collect();
    stage.advance(10_000_000);
    assert!(jobs.iter().all(|&job| stands(&stage, job) == (1, 0)));
    assert_eq!(stands(&stage, low), (8, 12));
}

#[test]
fn a_full_cell_comes_to_rest_with_the_highest_bands_running() {
    let mut stage = stage(4);
    for band in 0..8 {
        for number in 0..4 {
            stage.submit(&job(&format!("j{band}-{number}"), 1, 1000, band * 10 + number));
            stage.settle();
        }
    }
    for _ in 0..10 {
        stage.advance(1_000_000);
        leave(&mut stage);
    }
    let cell = stage.cell();
    let priority = |found: AllocationRef<'_>| cell.job(found.row.job()).unwrap().shape.priority;
    let mut running: Vec<u8> = cell.allocations().map(priority).collect();
    running.sort_unstable();
    assert_eq!(running, [60, 61, 62, 63, 70, 71, 72, 73]);
    let before = cell.revision();
    stage.advance(1_000_000);
    let granted = stage.transcript().lines().filter(|line| line.contains("1 of 1")).count();
    assert!(granted <= 60, "{granted} grants for 32 tasks, of which each was placed once and evicted once at most");
    assert_eq!(leaving(&stage).count(), 0, "since {before}");
}
