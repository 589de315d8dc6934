//! Stories of single decisions.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use plenum_model::{MachineState, Resources};

use super::*;
use crate::twin::{MIB, Made, cell_of, followed, plain};
use crate::{Amounts, Candidate, Index, Settings, Spread, Ties};

fn check(machines: &[Made], policy: Policy, task: (u64, u64), count: u32, expected: &[u32]) {
    let columns = followed(&cell_of(machines), &BTreeMap::new());
    let resources = Resources::new(task.0, task.1 * MIB);
    let request = Request::new(&resources, Settings::default());
    assert_eq!(choose(&columns, &request, policy, count), expected);
}

// Memory was set aside for as many machines as there were tasks: 16 GiB for whoever asked for all that fit.
#[test]
fn who_asks_for_as_many_as_fit_takes_memory_for_these_alone() {
    let columns = followed(&cell_of(&[plain(2500, 64), plain(1000, 64)]), &BTreeMap::new());
    let resources = Resources::new(500, MIB);
    let chosen = choose(&columns, &Request::new(&resources, Settings::default()), Policy::FirstFit, u32::MAX);
    assert_eq!(chosen, [0, 0, 0, 0, 0, 1, 1]);
    assert!(chosen.capacity() < 100, "{}", chosen.capacity());
}

#[test]
fn first_fit_goes_by_slot() {
    check(&[plain(500, 64), plain(2000, 64), plain(3000, 64)], Policy::FirstFit, (1000, 1), 3, &[1, 1, 2]);
}

#[test]
fn best_fit_fills_the_fullest_machine_before_it_opens_the_next() {
    check(&[plain(4000, 64), plain(2000, 64), plain(3000, 64)], Policy::BestFit, (1000, 1), 4, &[1, 1, 2, 2]);
}

#[test]
fn worst_fit_takes_the_emptiest_each_time() {
    check(&[plain(4000, 64), plain(2000, 64), plain(3000, 64)], Policy::WorstFit, (1000, 1), 4, &[0, 2, 0, 1]);
}

#[test]
fn spread_gives_each_machine_one_before_any_gets_two() {
    check(&[plain(4000, 64), plain(2000, 64), plain(3000, 64)], Policy::Spread, (1000, 1), 5, &[0, 2, 1, 0, 2]);
}

#[test]
fn a_task_of_much_memory_goes_where_memory_is_what_is_left() {
    let machines = [plain(8000, 2048), plain(2000, 8192)];
    check(&machines, Policy::DotProduct, (500, 2048), 1, &[1]);
    check(&machines, Policy::DotProduct, (2000, 512), 1, &[0]);
}

#[test]
fn tetris_sees_shares_and_not_sizes() {
    // Half of the small machine's cores are free, and a tenth of the large one's memory.
    let cell = cell_of(&[plain(2000, 2000), plain(20_000, 20_000)]);
    let columns = followed(&cell, &[(0, Resources::new(1000, 0)), (1, Resources::new(10_000, 18_000 * MIB))].into());
    let resources = Resources::new(500, 500 * MIB);
    let request = Request::new(&resources, Settings::default());
    assert_eq!(choose(&columns, &request, Policy::Tetris, 1), [0]);
    assert_eq!(choose(&columns, &request, Policy::WorstFit, 1), [1]);
}

#[test]
fn consolidation_wakes_the_smallest_machine_and_only_when_it_must() {
    let cell = cell_of(&[plain(8000, 64), plain(4000, 64), plain(2000, 64)]);
    let columns = followed(&cell, &[(0, Resources::new(6000, 0))].into());
    let resources = Resources::new(1000, MIB);
    let request = Request::new(&resources, Settings::default());
    assert_eq!(choose(&columns, &request, Policy::Consolidation, 5), [0, 0, 2, 2, 1]);
}

#[test]
fn what_does_not_fit_is_left_out_and_not_squeezed_in() {
    check(&[plain(1500, 64), plain(900, 64)], Policy::BestFit, (1000, 1), 3, &[0]);
    check(&[plain(1500, 1)], Policy::BestFit, (1000, 2), 1, &[]);
}

#[test]
fn a_fraction_of_a_unit_that_is_missing_is_missing() {
    let mut short = plain(1000, 4);
    short.resources.memory_bytes -= 1;
    let cell = cell_of(&[short, plain(2000, 5)]);
    let columns = followed(&cell, &BTreeMap::new());
    let chosen = |bytes: u64| {
        let resources = Resources::new(1000, bytes);
        choose(&columns, &Request::new(&resources, Settings::default()), Policy::BestFit, 1)
    };
    assert_eq!(chosen(4 * MIB), [1]);
    assert_eq!(chosen(4 * MIB - 1), [0]);
    assert_eq!(chosen(4 * MIB + 1), [1]);
}

#[test]
fn a_task_that_needs_no_cpu_goes_where_cpu_is_overspent() {
    let columns = followed(&cell_of(&[plain(1000, 64)]), &[(0, Resources::new(2000, 0))].into());
    let resources = Resources::new(0, MIB);
    assert_eq!(choose(&columns, &Request::new(&resources, Settings::default()), Policy::BestFit, 2), [0, 0]);
}

#[test]
fn a_closed_machine_takes_not_even_a_task_that_needs_nothing() {
    let closed = Made { state: MachineState::Cordoned, ..plain(1000, 64) };
    let columns = followed(&cell_of(&[closed]), &BTreeMap::new());
    for policy in Policy::ALL {
        assert!(choose(&columns, &Request::new(&Resources::default(), Settings::default()), policy, 1).is_empty());
    }
}

#[test]
fn seeds_part_schedulers_that_see_equal_machines() {
    let columns = followed(&cell_of(&vec![plain(1000, 64); 100]), &BTreeMap::new());
    let resources = Resources::new(1000, MIB);
    let chosen = |seed| {
        let settings = Settings { ties: Ties::Seeded, seed, ..Settings::default() };
        choose(&columns, &Request::new(&resources, settings), Policy::BestFit, 10)
    };
    assert_eq!(chosen(1), chosen(1));
    // Ten of a hundred share one by chance.
    let shared = |one: u64, other: u64| chosen(one).iter().filter(|slot| chosen(other).contains(slot)).count();
    let mean: usize = (0..100).map(|seed| shared(seed, seed + 1)).sum();
    assert!(mean <= 150, "{mean} machines are the same in 100 pairs of seeds");
}

#[test]
fn another_part_is_looked_at_only_when_the_own_one_is_full() {
    let columns = followed(&cell_of(&[plain(1000, 64), plain(2000, 64), plain(1000, 64)]), &BTreeMap::new());
    let resources = Resources::new(1000, MIB);
    let settings = Settings { parts: Some(Parts { count: 2, first: 1 }), ..Settings::default() };
    assert_eq!(choose(&columns, &Request::new(&resources, settings), Policy::BestFit, 4), [1, 1, 0, 2]);
}

#[test]
fn taken_room_is_gone_until_the_columns_follow_again() {
    let cell = cell_of(&[plain(1000, 64)]);
    let mut columns = followed(&cell, &BTreeMap::new());
    let resources = Resources::new(1000, MIB);
    let request = Request::new(&resources, Settings::default());
    columns.take(0, &resources);
    assert!(choose(&columns, &request, Policy::BestFit, 1).is_empty());
    columns.follow(&cell, Some(&[]), &BTreeMap::new());
    assert_eq!(choose(&columns, &request, Policy::BestFit, 1), [0]);
}

#[test]
fn random_reaches_all_machines_that_fit_about_equally_often() {
    let columns = followed(&cell_of(&[plain(900, 64), plain(1000, 64), plain(4000, 64)]), &BTreeMap::new());
    let resources = Resources::new(1000, MIB);
    let mut times = [0; 3];
    for seed in 0..600 {
        let settings = Settings { seed, ..Settings::default() };
        times[choose(&columns, &Request::new(&resources, settings), Policy::Random, 1)[0] as usize] += 1;
    }
    assert!(times[0] == 0 && times[1] > 240 && times[2] > 240, "{times:?}");
}

/// With one seed for a run each decision drew the same machines in the same order: a first fit on a shuffled cell.
#[test]
fn random_and_samples_draw_anew_for_each_decision_of_one_seed() {
    let columns = followed(&cell_of(&vec![plain(4000, 64); 4]), &BTreeMap::new());
    let resources = Resources::new(1000, MIB);
    for (policy, sample) in [(Policy::Random, None), (Policy::WorstFit, Some(1))] {
        let mut times = [0; 4];
        for turn in 0..400 {
            let settings = Settings { seed: 7, turn, sample, ..Settings::default() };
            times[choose(&columns, &Request::new(&resources, settings), policy, 1)[0] as usize] += 1;
        }
        assert!(times.iter().all(|&times| (60..140).contains(&times)), "{policy:?}: {times:?}");
    }
    let tied = |turn| {
        let settings = Settings { ties: Ties::Seeded, seed: 7, turn, ..Settings::default() };
        choose(&columns, &Request::new(&resources, settings), Policy::BestFit, 1)
    };
    assert_eq!(tied(1), tied(2), "the order of equals is a scheduler's own, and stays");
}

/// As many draws were made as it said, for each task: four billion.
#[test]
fn a_sample_has_no_more_draws_than_there_are_machines() {
    let columns = followed(&cell_of(&[plain(4000, 64), plain(2000, 64)]), &BTreeMap::new());
    let resources = Resources::new(1000, MIB);
    let settings = Settings { sample: Some(u32::MAX), ..Settings::default() };
    assert_eq!(choose(&columns, &Request::new(&resources, settings), Policy::BestFit, 6).len(), 6);
}

/// A scoring of somebody's own, with a column of its own: how warm each machine is.
struct Coolest<'a> {
    celsius: &'a [f32],
}

impl Scoring for Coolest<'_> {
    fn name(&self) -> &str {
        "coolest"
    }

    fn cost(&self, candidate: &Candidate, _task: &Amounts) -> f32 {
        self.celsius.get(candidate.machine as usize).copied().unwrap_or(f32::INFINITY)
    }
}

#[test]
fn a_scoring_may_bring_columns_of_its_own() {
    let columns = followed(&cell_of(&vec![plain(1000, 64); 5]), &BTreeMap::new());
    let resources = Resources::new(1000, MIB);
    let request = Request::new(&resources, Settings::default());
    let coolest = Coolest { celsius: &[40.0, f32::NAN, f32::INFINITY, 30.0] };
    assert_eq!(choose_by(&columns, &request, &coolest, 9), [3, 0]);
}

/// Would have the first machine, whatever else there is.
struct Favourite;

impl Scoring for Favourite {
    fn name(&self) -> &str {
        "favourite"
    }

    fn cost(&self, candidate: &Candidate, _task: &Amounts) -> f32 {
        if candidate.machine == 0 { f32::NEG_INFINITY } else { 0.0 }
    }
}

/// The favourite's cost came to no number where it was short of disk, and nothing was found better than that half a block behind it.
#[test]
fn a_machine_that_is_better_than_all_and_short_of_disk_hides_no_other() {
    let mut machines = vec![plain(1000, 64); 64];
    machines[32].resources.disk_bytes = MIB;
    let columns = followed(&cell_of(&machines), &BTreeMap::new());
    let chosen = |resources: Resources| {
        let request = Request::new(&resources, Settings::default());
        let by_index = Index::default().choose_by(&columns, &request, None, (&Favourite, 0), 1);
        (choose_by(&columns, &request, &Favourite, 1), by_index)
    };
    let with_disk = Resources { disk_bytes: MIB, ..Resources::new(1000, MIB) };
    assert_eq!(chosen(with_disk), (vec![32], vec![32]));
    assert_eq!(chosen(Resources::new(1000, MIB)), (vec![0], vec![0]));
}

/// Spreads, and counts how often it was asked.
#[derive(Default)]
struct Counted(AtomicUsize);

impl Scoring for Counted {
    fn name(&self) -> &str {
        "counted"
    }

    fn cost(&self, candidate: &Candidate, task: &Amounts) -> f32 {
        self.0.fetch_add(1, Ordering::Relaxed);
        Spread.cost(candidate, task)
    }
}

/// Each task looked at all machines, and by itself at each that had a sibling: a service of 10,000 tasks with a spread rule took four seconds to plan.
#[test]
fn tasks_that_are_limited_cost_one_look_at_all_machines_and_one_each() {
    let columns = followed(&cell_of(&vec![plain(8000, 64); 1000]), &BTreeMap::new());
    let resources = Resources::new(1000, MIB);
    let siblings: BTreeMap<u32, u32> = (0..500).map(|slot| (slot, 1)).collect();
    let request = Request { siblings: &siblings, ..Request::new(&resources, Settings::default()) };
    let (scoring, mut racks, mut asked) = (Counted::default(), [0; 10], 0);
    let chosen = choose_asking_by(&columns, &request, &scoring, 3000, &mut |slot| {
        asked += 1;
        let tasks = &mut racks[slot as usize % 10];
        let has_room = *tasks < 200;
        *tasks += i32::from(has_room);
        has_room
    });
    assert_eq!((chosen.len(), racks), (2000, [200; 10]));
    assert!(asked <= 3000, "{asked} questions for 2,000 tasks on 1,000 machines");
    let costs = scoring.0.load(Ordering::Relaxed);
    // A few scans in blocks of 64, and once for each task.
    assert!(costs <= 3 * 1024 + 2000 + 500, "{costs} costs of 1,000 machines for 2,000 tasks");
}
