//! Stories of tasks that ask for GPUs, against the real core.

use plenum_model::{Command, FoundMachine, Resources};
use plenum_policies::gpu::Counted;
use plenum_testkit::{JobBuilder, Stage};

use super::*;
use crate::batch::Batch;

/// A job of equal tasks that each ask for a part of a GPU, or a whole one.
fn job(name: &str, tasks: u32, millis: i32) -> JobBuilder {
    JobBuilder::new(name, "batch").group("main", tasks, 100).gpu(millis)
}

/// Work that nobody can place: it is expected all the same.
fn expected(name: &str, tasks: u32, millis: i32) -> JobBuilder {
    job(name, tasks, millis).on("rack", "none")
}

fn used(stage: &Stage, slot: u32) -> Vec<i64> {
    let mut used = stage.cell().in_use(slot).map(|used| used.devices.clone()).unwrap_or_default();
    used.resize(stage.cell().machine_in(slot).unwrap().devices.len(), 0);
    used
}

#[test]
fn a_part_of_a_gpu_leaves_pairs_whole_that_others_ask_for() {
    for (policy, beside) in [(GpuPolicy::Worth, 1), (GpuPolicy::FragmentationGradient, 1), (GpuPolicy::ByRoom, 0)] {
        let mut stage = Stage::new();
        // By room alone it is the better fit.
        stage.machine_with_gpus("small", 4_000, &[], 2);
        stage.machine_with_gpus("large", 64_000, &[("size", "large")], 2);
        stage.seat(Batch::default().gpus_by(policy));
        let pairs = stage.submit(&expected("pairs", 8, 1000).gpu(1000));
        let first = stage.submit(&job("first", 1, 500).on("size", "large"));
        stage.advance(1_000_000);
        let second = stage.submit(&job("second", 1, 500));
        stage.advance(1_000_000);
        assert_eq!((stage.placed(pairs), stage.placed(first)), (Vec::new(), vec![(0, 0, 1)]));
        assert_eq!(stage.placed(second), [(0, 0, beside)], "{policy:?}");
    }
}

/// Each name takes a number, of which there are 63: a model without one is of no worth that could be reckoned with, and is placed all the same.
#[test]
fn a_model_beyond_those_that_are_told_apart_is_placed_by_room() {
    let mut stage = Stage::new();
    stage.seat(Batch::default());
    for number in 0..70 {
        stage.submit(
            &JobBuilder::new(&format!("slip{number}"), "batch")
                .group("main", 1, 100)
                .gpu_of(&format!("slip-{number}"), 500),
        );
    }
    stage.advance(1_000_000);
    let gpu = |index| Device { kind: "gpu".into(), index, millis: 1000, model: "real".into() };
    stage.ask("agent", registers((0..2).map(gpu).collect()));
    let tasks = stage.submit(&JobBuilder::new("real", "batch").group("main", 5, 100).gpu_of("real", 500));
    stage.advance(1_000_000);
    assert_eq!(stage.placed(tasks).len(), 4);
}

/// A machine of two GPUs, of which the first has 700 left that others ask for.
fn stage_of_a_hole() -> (Stage, plenum_testkit::Seat) {
    let mut stage = Stage::new();
    stage.machine_with_gpus("m0", 16_000, &[], 2);
    let seat = stage.seat(Batch::default());
    stage.submit(&expected("large", 20, 700));
    stage.submit(&job("first", 1, 300));
    stage.advance(1_000_000);
    assert_eq!(used(&stage, 0), [300, 0]);
    (stage, seat)
}

/// The cell by itself takes the fullest GPU that is enough.
#[test]
fn the_gpu_that_the_policy_chose_is_named_to_the_cell() {
    let (mut stage, _) = stage_of_a_hole();
    stage.submit(&job("half", 1, 500));
    stage.advance(1_000_000);
    assert_eq!(used(&stage, 0), [300, 500]);
}

/// What came beyond so many different needs was not counted, and had no price until a restart: the half went into the hole that others asked for.
#[test]
fn old_needs_give_their_places_to_those_of_today() {
    let mut stage = Stage::new();
    stage.machine_with_gpus("m0", 16_000, &[], 2);
    stage.seat(Batch::default());
    for number in 0..256 {
        let old = JobBuilder::new(&format!("old{number}"), "batch").group("main", 1, 1_000 + number);
        stage.submit(&old.gpu(1000).on("rack", "none"));
    }
    stage.advance(1_000_000);
    stage.submit(&expected("large", 20, 700));
    stage.submit(&job("first", 1, 300));
    stage.advance(1_000_000);
    assert_eq!(used(&stage, 0), [300, 0]);
    stage.submit(&job("half", 1, 500));
    stage.advance(1_000_000);
    assert_eq!(used(&stage, 0), [300, 500]);
}

/// The books assumed the cell's own choice for each claim in flight: that the first GPU was cut, and the second still whole.
#[test]
fn what_is_named_in_flight_is_not_claimed_again() {
    let (mut stage, seat) = stage_of_a_hole();
    stage.hold(seat);
    stage.submit(&job("half", 1, 500));
    stage.advance(1_000_000);
    let whole = stage.submit(&job("whole", 1, 1000));
    let large = stage.submit(&job("fits", 1, 700));
    stage.advance(1_000_000);
    stage.release(seat);
    stage.advance(1_000_000);
    assert_eq!((stage.placed(whole).len(), stage.placed(large).len()), (0, 1));
    assert_eq!(used(&stage, 0), [1000, 500]);
    let counters = stage.runtime(seat).counters();
    assert_eq!((counters.claims_misfit, counters.claims_conflict), (0, 0));
}

/// The policies by themselves are the oracle: they are what `docs/gpu-placement.md` has measured.
#[test]
fn tasks_go_to_the_machines_and_gpus_that_the_policy_says() {
    const MIX: [(i32, u32); 5] = [(470, 400), (810, 300), (1000, 200), (530, 200), (190, 100)];
    let mut stage = Stage::new();
    let mut machines = GpuMachines::default();
    for slot in 0..10 {
        // Some have less CPU than their GPUs could use.
        let cpu_millis = [1_000, 300, 500][slot as usize % 3];
        stage.machine_with_gpus(&format!("m{slot}"), cpu_millis.into(), &[], 4);
        machines.set(slot, GpuMachine::empty(cpu_millis, 1 << 14, 4, 0));
    }
    stage.seat(Batch::default());
    let task = |millis: i32| GpuTask {
        cpu_millis: 100,
        memory_mib: 1,
        devices: 1,
        millis: u16::try_from(millis).unwrap(),
        models: ModelSet::ANY,
    };
    for (millis, tasks) in MIX {
        stage.submit(&expected(&format!("mix{millis}"), tasks, millis));
    }
    stage.advance(1_000_000);
    let counted = MIX.map(|(millis, tasks)| Counted { task: task(millis), models: String::new(), count: tasks.into() });
    let mut oracle = GpuPlacer::new(Worth::new(&Target::of(&counted)));
    let mut unlike_the_cell = 0;
    for number in 0..60 {
        // A fixed shuffle of the mix.
        let (millis, _) = MIX[(number * 7 + number * number / 3) % MIX.len()];
        let wanted = oracle.choose(&machines, &task(millis));
        let job = stage.submit(&job(&format!("job{number}"), 1, millis));
        stage.advance(200_000);
        let placed = stage.placed(job);
        assert_eq!(placed.first().map(|placed| placed.2), wanted.map(|wanted| wanted.machine), "task {number}");
        let Some(wanted) = wanted else { continue };
        unlike_the_cell +=
            u32::from(machines.rows()[wanted.machine as usize].tightest(&task(millis)) != wanted.devices);
        machines.take(wanted.machine, &task(millis), wanted.devices);
        let free: Vec<i64> = used(&stage, wanted.machine).iter().map(|used| 1000 - used).collect();
        let expected: Vec<i64> =
            machines.rows()[wanted.machine as usize].free().iter().map(|&free| free.into()).collect();
        assert_eq!(free, expected, "task {number} on machine {}", wanted.machine);
    }
    assert!(unlike_the_cell > 0, "the policy never chose another GPU than the cell would have");
}

/// The picture was read from the cell alone, which shows nothing of other groups of the same decision.
#[test]
fn tasks_without_gpus_that_are_placed_first_leave_less_room() {
    let mut stage = Stage::new();
    stage.machine_with_gpus("m0", 4_000, &[], 1);
    stage.machine_with_gpus("m1", 4_000, &[], 1);
    let seat = stage.seat(Batch::default());
    stage.hold(seat);
    let plain = stage.submit(&JobBuilder::new("plain", "batch").group("main", 1, 4_000).priority(90));
    let train = stage.submit(&job("train", 1, 1000));
    stage.release(seat);
    stage.advance(1_000_000);
    let (plain, train) = (stage.placed(plain), stage.placed(train));
    assert_eq!((plain.len(), train.len()), (1, 1));
    assert_ne!(plain[0].2, train[0].2);
    assert_eq!(stage.runtime(seat).counters().claims_misfit, 0);
}

#[test]
fn gpus_beyond_those_that_the_policy_looks_at_are_no_harm() {
    let mut stage = Stage::new();
    stage.machine_with_gpus("m0", 64_000, &[], 17);
    stage.seat(Batch::default());
    let half = stage.submit(&job("half", 1, 500));
    let whole = stage.submit(&job("whole", 1, 1000));
    stage.advance(1_000_000);
    assert_eq!((stage.placed(half).len(), stage.placed(whole).len()), (1, 1));
}

#[test]
fn a_gang_that_does_not_fit_gives_its_gpus_back() {
    let mut stage = Stage::new();
    stage.machine_with_gpus("m0", 16_000, &[], 2);
    let seat = stage.seat(Batch::default());
    stage.hold(seat);
    let gang = stage.submit(&job("gang", 3, 1000).min(3).priority(90));
    let small = stage.submit(&job("small", 2, 1000));
    stage.release(seat);
    stage.advance(1_000_000);
    assert_eq!((stage.placed(gang).len(), stage.placed(small).len()), (0, 2));
    assert_eq!(used(&stage, 0), [1000, 1000]);
}

/// Its machine, given back before anybody had looked at the GPUs, counted as the only one to be read: on all others the policy saw none from then on.
#[test]
fn a_gang_that_gives_its_machine_back_before_gpus_are_asked_for_hides_no_others() {
    let mut stage = Stage::new();
    // To the policy both are alike, and the first one wins; by room alone the small one is the better fit.
    stage.machine_with_gpus("large", 64_000, &[], 2);
    stage.machine_with_gpus("small", 4_000, &[], 2);
    stage.machine("rack", 8_000, &[("rack", "x")]);
    stage.seat(Batch::default());
    let gang = JobBuilder::new("gang", "batch").group("main", 2, 100).min(2).per_machine(1).on("rack", "x");
    let gang = stage.submit(&gang);
    stage.advance(1_000_000);
    assert!(stage.passed_over(gang, 0).contains("of which 1 fits"), "{}", stage.passed_over(gang, 0));
    let half = stage.submit(&job("half", 1, 500));
    stage.advance(1_000_000);
    assert_eq!((stage.placed(gang), stage.placed(half)), (Vec::new(), vec![(0, 0, 0)]));
}

#[test]
fn a_model_that_is_asked_for_is_the_model_that_is_given() {
    let mut stage = Stage::new();
    for (name, model) in [("m0", "a100"), ("m1", "t4")] {
        let device = plenum_model::Device { kind: "gpu".into(), index: 0, millis: 1000, model: model.into() };
        let command = Command::RegisterMachine(FoundMachine {
            name: name.into(),
            boot_id: "boot".into(),
            capacity: Resources::new(8_000, 1 << 34),
            devices: vec![device],
            ..FoundMachine::default()
        });
        stage.ask("agent", command);
    }
    stage.seat(Batch::default());
    let t4 = stage.submit(&JobBuilder::new("t4", "batch").group("main", 2, 100).gpu_of("t4", 1000));
    stage.advance(1_000_000);
    assert_eq!(stage.placed(t4), [(0, 0, 1)]);
}

/// A job counted with the tasks that it was submitted with, none: what was expected was nothing of nothing, and no machine had a cost that is a number.
#[test]
fn a_job_that_was_scaled_up_counts_with_the_tasks_that_it_has() {
    let mut stage = Stage::new();
    // By room alone the small machine is the better fit, and breaks a pair.
    stage.machine_with_gpus("small", 4_000, &[], 2);
    stage.machine_with_gpus("large", 64_000, &[("size", "large")], 2);
    stage.seat(Batch::default());
    let pairs = stage.submit(&expected("pairs", 0, 1000).gpu(1000));
    let scale = Command::ScaleJob { job: pairs, version: None, group: 0, count: 8 };
    assert!(matches!(stage.ask("user", scale), plenum_model::Decision::Accepted { .. }));
    stage.submit(&job("first", 1, 500).on("size", "large"));
    stage.advance(1_000_000);
    let second = stage.submit(&job("second", 1, 500));
    stage.advance(1_000_000);
    assert_eq!(stage.placed(second), [(0, 0, 1)]);
}

/// A machine with these devices comes, or comes again.
fn registers(devices: Vec<Device>) -> Command {
    Command::RegisterMachine(FoundMachine {
        name: "m0".into(),
        boot_id: "boot".into(),
        capacity: Resources::new(16_000, 1 << 34),
        devices,
        ..FoundMachine::default()
    })
}

/// The machine counted as one of its first GPU's model, and the claim named its second one, of another: refused for ever, as a misfit.
#[test]
fn of_a_machine_with_unlike_gpus_the_model_that_is_asked_for_is_given() {
    let mut stage = Stage::new();
    let gpu = |index, model: &str| Device { kind: "gpu".into(), index, millis: 1000, model: model.into() };
    stage.ask("agent", registers(vec![gpu(0, "a100"), gpu(1, "t4")]));
    let seat = stage.seat(Batch::default());
    let slips = JobBuilder::new("slips", "batch").group("main", 1, 100).gpu_of("t4", 500);
    let slips = stage.submit(&slips);
    stage.advance(1_000_000);
    let half = JobBuilder::new("half", "batch").group("main", 1, 100).gpu_of("a100", 500);
    let half = stage.submit(&half);
    stage.advance(10_000_000);
    let any = stage.submit(&job("any", 1, 500));
    stage.advance(10_000_000);
    assert_eq!((stage.placed(slips).len(), stage.placed(half).len(), stage.placed(any).len()), (1, 1, 1));
    assert_eq!(stage.runtime(seat).counters().claims_misfit, 0);
}
