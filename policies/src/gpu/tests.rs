//! Placing on GPUs: stories, and properties over random machines.

use proptest::prelude::*;

use super::target::Target;
use super::*;
use crate::twin::{cell_of, plain};

fn task(cpu_millis: u32, devices: u8, millis: u16) -> GpuTask {
    GpuTask { cpu_millis, memory_mib: 1024, devices, millis, models: ModelSet::ANY }
}

fn target(tasks: &[(GpuTask, u64)]) -> Target {
    let counted = |&(task, count): &(GpuTask, u64)| Counted { task, models: String::new(), count };
    Target::of(&tasks.iter().map(counted).collect::<Vec<_>>())
}

/// A machine of 12 cores a GPU, on which parts of its GPUs are taken.
fn machine(free: &[u16]) -> GpuMachine {
    let devices = u8::try_from(free.len()).unwrap();
    let mut machine = GpuMachine::empty(12_000 * u32::from(devices), 262_144, devices, 0);
    for (position, free) in free.iter().enumerate().filter(|(_, free)| **free < WHOLE) {
        machine.take(&GpuTask { devices: 1, millis: WHOLE - free, ..GpuTask::default() }, 1 << position);
    }
    machine
}

fn cost(scoring: &impl GpuScoring, machine: &GpuMachine, task: &GpuTask) -> f32 {
    scoring.place(machine, scoring.standing(machine), task).cost
}

#[test]
fn what_a_class_cannot_use_is_its_fragmentation() {
    // Half of the tasks want 600, a quarter a whole GPU, a quarter none.
    let fgd = FragmentationGradient::new(&target(&[
        (task(4000, 1, 600), 2),
        (task(4000, 1, 1000), 1),
        (task(4000, 0, 0), 1),
    ]));
    // 600: 500 is too small. Whole: 500 too small. None: all 1500.
    assert_eq!(fgd.fragmentation(&machine(&[1000, 500])), 0.5 * 500.0 + 0.25 * 500.0 + 0.25 * 1500.0);
    // Nothing is left that a whole one fits into.
    assert_eq!(fgd.fragmentation(&machine(&[700, 500])), 0.5 * 500.0 + 0.25 * 1200.0 + 0.25 * 1200.0);
    let mut starved = machine(&[1000, 500]);
    starved.cpu_millis = 3999;
    assert_eq!(fgd.fragmentation(&starved), 1500.0);
}

#[test]
fn a_model_that_does_not_suit_is_fragmentation_as_a_whole() {
    let picky = GpuTask { models: ModelSet::ANY.and(1), ..task(4000, 1, 600) };
    let fgd = FragmentationGradient::new(&target(&[(picky, 1)]));
    assert_eq!(fgd.fragmentation(&machine(&[1000])), 1000.0);
    assert!(!machine(&[1000]).fits(&picky));
    assert_eq!(Worth::new(&target(&[(picky, 1)])).worth(&machine(&[1000])), 0.0);
}

#[test]
fn changes_below_the_step_of_the_logistic_function_tie() {
    let fgd = FragmentationGradient::new(&target(&[(task(1000, 1, 500), 1)]));
    // Nothing changes: 100 × 1/2, and not a bit less.
    assert_eq!(cost(&fgd, &machine(&[1000]), &task(1000, 1, 500)), -50.0);
    // 20 of fragmentation arise: 49.5 is 49, as is 30.
    assert_eq!(cost(&fgd, &machine(&[1000]), &task(1000, 1, 520)), cost(&fgd, &machine(&[1000]), &task(1000, 1, 530)));
}

#[test]
fn published_scores_by_hand() {
    // 24 cores and 2 GPUs; 4 cores and half a GPU are asked for.
    let asked = task(4000, 1, 500);
    let free = machine(&[1000, 1000]);
    assert_eq!(cost(&GpuBestFit, &free, &asked), -((100.0_f32 * (1.0 - 0.5 * (20.0 / 128.0 + 1.5 / 8.0))).floor()));
    // 24/128 × 4/128 + 2/8 × 0.5/8 is 0.0215, and 98.9 is 98.
    assert_eq!(cost(&GpuDotProduct, &free, &asked), -98.0);
    assert_eq!(cost(&GpuPacking, &free, &asked), -31.0);
    assert_eq!(cost(&GpuPacking, &machine(&[1000, 600]), &asked), -94.0);
    assert_eq!(cost(&GpuPacking, &machine(&[1000, 400]), &asked), -49.0);
    assert_eq!(cost(&GpuPacking, &free, &task(4000, 0, 0)), 0.0);
    // Six of eight count as in use on a machine of two; nobody is there.
    assert_eq!(cost(&GpuClustering, &free, &asked), -(18.0 + 25.0));
}

/// Rows behind those of the other cell stayed open, and tasks were placed on slots that were not there.
#[test]
fn nothing_is_placed_on_rows_of_a_larger_cell_that_was_followed_before() {
    let mut machines = GpuMachines::default();
    machines.follow(&cell_of(&[plain(4000, 64), plain(4000, 64), plain(4000, 64)]), None, "gpu");
    machines.follow(&cell_of(&[plain(4000, 64)]), None, "gpu");
    let open: Vec<bool> = machines.rows().iter().map(|row| row.open).collect();
    assert_eq!(open, [true, false, false]);
}

#[test]
fn clustering_prefers_its_own_kind_then_mixed_company() {
    let mut shared = GpuMachine::empty(96_000, 393_216, 8, 0);
    shared.take(&task(1000, 1, 100), 1);
    let mut mixed = shared.clone();
    mixed.take(&task(1000, 2, 1000), 0b110);
    let asked = task(1000, 1, 500);
    assert_eq!(cost(&GpuClustering, &shared, &asked), -75.0);
    assert_eq!(cost(&GpuClustering, &mixed, &asked), -(25.0 * 2.1_f32 / 8.0).floor() - 50.0);
    assert_eq!(cost(&GpuClustering, &mixed, &task(1000, 4, 1000)), -(25.0 * 2.1_f32 / 8.0).floor());
    mixed.give(&task(1000, 2, 1000), 0b110);
    assert_eq!((mixed.kinds(), mixed.free()), (shared.kinds(), shared.free()));
}

/// What is expected below: parts that go well with each other, and whole GPUs of middling CPU.
fn mix() -> Target {
    target(&[
        (task(3000, 1, 810), 10),
        (task(11_000, 1, 470), 10),
        (task(4000, 1, 650), 4),
        (task(4000, 1, 320), 4),
        (task(4000, 1, 160), 1),
        (task(11_000, 1, 1000), 20),
        (task(11_000, 8, 1000), 1),
    ])
}

#[test]
fn a_part_goes_where_it_is_cut_best() {
    let worth = Worth::new(&mix());
    // Beside 650 is the best place for 320; in the hole that 470 could have it wastes a half.
    let place = |free: &[u16], millis| {
        worth.place(&machine(free), worth.standing(&machine(free)), &task(4000, 1, millis)).devices
    };
    assert_eq!(place(&[1000, 530, 350], 320), 0b100);
    // A crumb goes into what is lost anyway.
    assert_eq!(place(&[1000, 530, 350, 190], 160), 0b1000);
    // 470 goes into the half that is left of another.
    assert_eq!(place(&[350, 530, 1000], 470), 0b010);
}

#[test]
fn a_machine_short_of_cpu_is_kept_for_those_who_need_little() {
    let worth = Worth::new(&mix());
    let mut poor = machine(&[1000, 1000]);
    poor.cpu_millis = 14_000;
    let rich = machine(&[1000, 1000]);
    let heavy = task(11_000, 1, 470);
    assert!(cost(&worth, &poor, &heavy) > cost(&worth, &rich, &heavy));
    let light = task(3000, 1, 810);
    assert!(cost(&worth, &poor, &light) <= cost(&worth, &rich, &light));
}

#[test]
fn a_block_that_some_need_whole_is_not_broken_while_there_is_another_place() {
    let worth = Worth::new(&target(&[(task(4000, 1, 1000), 1), (task(32_000, 8, 1000), 1)]));
    let (block, broken) = (machine(&[1000; 8]), machine(&[0, 1000, 1000, 1000, 1000, 1000, 1000, 1000]));
    assert!(cost(&worth, &block, &task(4000, 1, 1000)) > cost(&worth, &broken, &task(4000, 1, 1000)));
}

/// What a machine is worth as it stands was thought to be known, and to be nothing, where its row had changed once less than one behind it.
#[test]
fn a_new_placer_knows_nothing_of_machines_that_its_first_task_passed_by() {
    let picky = GpuTask { models: ModelSet::ANY.and(1), ..task(4000, 1, 1000) };
    let mut machines = GpuMachines::default();
    machines.set(0, machine(&[1000; 8]));
    for _ in 0..2 {
        machines.set(1, GpuMachine::empty(12_000, 262_144, 1, 1));
    }
    machines.set(2, machine(&[0, 1000, 1000, 1000, 1000, 1000, 1000, 1000]));
    let expected = target(&[(task(4000, 1, 1000), 1), (task(32_000, 8, 1000), 1)]);
    let mut placer = GpuPlacer::new(Worth::new(&expected));
    assert_eq!(placer.choose(&machines, &picky), Some(GpuChoice { machine: 1, devices: 1 }));
    machines.take(1, &picky, 1);
    // The whole block would cost more.
    assert_eq!(placer.choose(&machines, &task(4000, 1, 1000)), Some(GpuChoice { machine: 2, devices: 0b10 }));
}

fn any_task() -> impl Strategy<Value = GpuTask> {
    let parts = prop::sample::select(vec![110_u16, 230, 320, 470, 650, 810, 1000]);
    (0_u32..20_000, 0_u32..40_000, prop::sample::select(vec![0_u8, 1, 1, 1, 1, 2, 4]), parts, 0_u8..4).prop_map(
        |(cpu_millis, memory_mib, devices, part, model)| {
            let millis = if devices == 1 { part } else { WHOLE * u16::from(devices > 0) };
            let models = if model == 0 || devices == 0 { ModelSet::ANY } else { ModelSet::ANY.and(model - 1) };
            GpuTask { cpu_millis, memory_mib, devices, millis, models }
        },
    )
}

/// Places, and gives back some, and compares what is remembered with what is reckoned anew. Now and then a new placer goes on with the same machines.
fn remembered_is_true<S: GpuScoring + Clone>(
    scoring: &S,
    tasks: &[GpuTask],
    ends: &[usize],
) -> Result<(), TestCaseError> {
    let mut machines = GpuMachines::default();
    for slot in 0_u8..6 {
        let gpus = [1, 2, 4, 8][usize::from(slot) % 4];
        machines.set(slot.into(), GpuMachine::empty(8000 * u32::from(gpus) + 8000, 200_000, gpus, slot % 3));
    }
    let mut placer = GpuPlacer::new(scoring.clone());
    let mut live = Vec::new();
    for (task, end) in tasks.iter().zip(ends.iter().cycle()) {
        if end % 5 == 0 {
            placer = GpuPlacer::new(scoring.clone());
        }
        let chosen = placer.choose(&machines, task);
        let row = |slot: usize| &machines.rows()[slot];
        let fresh = |slot: usize| placer.scoring().place(row(slot), placer.scoring().standing(row(slot)), task);
        let best = (0..machines.rows().len()).filter(|slot| row(*slot).fits(task));
        let best = best
            .map(|slot| (fresh(slot), slot))
            .min_by(|one, other| one.0.cost.total_cmp(&other.0.cost).then(one.1.cmp(&other.1)));
        let best = best.map(|(scored, slot)| (u32::try_from(slot).unwrap(), scored.devices));
        prop_assert_eq!(chosen.map(|choice| (choice.machine, choice.devices)), best);
        if let Some(choice) = chosen {
            prop_assert_eq!(choice.devices.count_ones(), u32::from(task.devices));
            machines.take(choice.machine, task, choice.devices);
            live.push((choice, *task));
        }
        if end % 3 == 0 && !live.is_empty() {
            let (choice, task) = live.swap_remove(end % live.len());
            machines.give(choice.machine, &task, choice.devices);
        }
    }
    let standing = placer.standing(&machines).collect::<Vec<_>>();
    let fresh = machines.rows().iter().map(|row| placer.scoring().standing(row)).collect::<Vec<_>>();
    prop_assert_eq!(standing, fresh);
    Ok(())
}

proptest! {
    #[test]
    fn what_is_kept_up_to_date_is_what_reckoning_anew_gives(
        tasks in prop::collection::vec(any_task(), 1..80),
        ends in prop::collection::vec(0_usize..1000, 1..40),
    ) {
        let expected = target(&tasks.iter().map(|task| (*task, 1)).collect::<Vec<_>>());
        remembered_is_true(&FragmentationGradient::new(&expected), &tasks, &ends)?;
        remembered_is_true(&Worth::new(&expected), &tasks, &ends)?;
        remembered_is_true(&GpuClustering, &tasks, &ends)?;
        remembered_is_true(&GpuPacking, &tasks, &ends)?;
    }

    #[test]
    fn a_machine_is_never_worth_more_after_a_task_than_before(
        tasks in prop::collection::vec(any_task(), 1..30),
    ) {
        let worth = Worth::new(&target(&tasks.iter().map(|task| (*task, 1)).collect::<Vec<_>>()));
        let mut machine = GpuMachine::empty(96_000, 300_000, 8, 1);
        for task in &tasks {
            let before = worth.worth(&machine);
            prop_assert!(before <= 8.0 + 1e-9);
            if machine.fits(task) {
                let scored = worth.place(&machine, before, task);
                prop_assert!(scored.cost >= 0.0, "{scored:?}");
                machine.take(task, scored.devices);
                prop_assert!(worth.worth(&machine) <= before + 1e-9);
            }
        }
    }
}

#[test]
fn random_fit_finds_what_fits_and_nothing_else() {
    let mut machines = GpuMachines::default();
    machines.set(0, machine(&[300]));
    machines.set(1, machine(&[0, 700, 900]));
    let draw = |below| below - 1;
    assert_eq!(random_fit(&machines, &task(1000, 1, 600), draw), Some(GpuChoice { machine: 1, devices: 0b100 }));
    assert_eq!(random_fit(&machines, &task(1000, 1, 600), |_| 0), Some(GpuChoice { machine: 1, devices: 0b010 }));
    assert_eq!(random_fit(&machines, &task(1000, 1, 1000), draw), None);
}

#[test]
fn work_of_which_nothing_is_expected_gives_costs_all_the_same() {
    let worth = Worth::new(&target(&[(task(1000, 1, 500), 0), (task(1000, 2, 1000), 0)]));
    for asked in [task(1000, 1, 500), task(1000, 2, 1000)] {
        assert!(cost(&worth, &machine(&[1000, 1000]), &asked).is_finite(), "{asked:?}");
    }
}
