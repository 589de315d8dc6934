//! The scan, the index and the columns against the dumb twin.

use proptest::prelude::*;

use super::*;
use crate::kernel::{Best, First, Minima, Place, Shortlist, lanes};
use crate::request::Judge;
use crate::{Index, Parts, Suits, Ties, choose, choose_by, explain, rank};

pub(super) const OWNER: JobId = JobId { slot: 3, generation: 1 };
const OTHER: JobId = JobId { slot: 4, generation: 1 };

fn made() -> impl Strategy<Value = Made> {
    let state = prop_oneof![
        8 => Just(MachineState::Ready), 1 => Just(MachineState::Cordoned), 1 => Just(MachineState::Unreachable)
    ];
    // Whole units, and a few bytes beside them.
    let memory = (0u64..9, 0u64..3).prop_map(|(units, bytes)| units * 256 * MIB + bytes);
    (0u64..9, memory, 0u64..4, 0u64..3, 0u8..3, state).prop_map(|(cpu, memory, disk, custom, rack, state)| {
        let mut resources = Resources::new(cpu * 500, memory);
        resources.disk_bytes = disk * MIB;
        resources.custom[1] = custom;
        Made { resources, rack, state }
    })
}

pub(super) fn amounts() -> impl Strategy<Value = Resources> {
    (0u64..4, 0u64..4, 0u64..3, 0u64..2, 0u64..2, prop::bool::weighted(0.2)).prop_map(
        |(cpu, memory, bytes, disk, custom, with_custom)| {
            let mut resources = Resources::new(cpu * 500, memory * 256 * MIB + bytes);
            resources.disk_bytes = disk * (MIB + bytes);
            resources.custom[1] = if with_custom { custom } else { 0 };
            resources
        },
    )
}

pub(super) fn settings() -> impl Strategy<Value = Settings> {
    let parts = prop::option::weighted(0.3, (1u32..5, any::<u32>()));
    (any::<bool>(), any::<u64>(), prop::option::of(1u16..1500), parts).prop_map(|(seeded, seed, nearness, parts)| {
        Settings {
            ties: if seeded { Ties::Seeded } else { Ties::LowestSlot },
            seed,
            turn: 0,
            nearness: nearness.map_or(0.0, |nearness| f32::from(nearness) / 4.0),
            sample: None,
            parts: parts.map(|(count, first)| Parts { count, first }),
        }
    })
}

pub(super) fn policies() -> impl Strategy<Value = Policy> {
    prop::sample::select(Policy::ALL.into_iter().filter(|policy| *policy != Policy::Random).collect::<Vec<_>>())
}

pub(super) fn affinities() -> impl Strategy<Value = Vec<Affinity>> {
    let one = (0u8..3, -100i32..=100).prop_filter("not 0", |(_, weight)| *weight != 0);
    prop::collection::vec(one.prop_map(|(rack, weight)| Affinity { rule: rack_at_most(rack), weight }), 0..3)
}

/// A cell with holds, and what is spoken for.
pub(super) fn world() -> impl Strategy<Value = (Cell, BTreeMap<u32, Resources>)> {
    let machines = prop::collection::vec(made(), 0..150);
    let promised = prop::collection::btree_map(0u32..150, amounts(), 0..8);
    let hold = || (prop::collection::btree_set(0u32..150, 0..6), amounts());
    let holds = prop::option::weighted(0.3, (hold(), hold()));
    (machines, promised, holds).prop_map(|(machines, promised, holds): (Vec<Made>, _, _)| {
        let mut cell = cell_of(&machines);
        if let Some((own, other)) = holds {
            let hold = |(machines, resources): (std::collections::BTreeSet<u32>, Resources)| Hold {
                machines: machines.into_iter().filter(|&slot| slot < cell.machine_rows().len()).collect(),
                resources,
                deadline: LogTime::default(),
                first_wait: Revision(1),
            };
            let holds = [(OWNER, Some(hold(own))), (OTHER, Some(hold(other)))];
            put(&mut cell, &BTreeMap::new(), &holds);
        }
        (cell, promised)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_scan_agrees_with_a_full_sort_for_every_task(
        (cell, mut promised) in world(),
        taken in prop::collection::vec((0u32..150, amounts()), 0..4),
        siblings in prop::collection::btree_map(0u32..160, 1u32..3, 0..6),
        resources in amounts(),
        constraints in prop::collection::vec((0u8..3).prop_map(rack_at_most), 0..2),
        affinities in affinities(),
        home in prop::option::weighted(0.1, 0u32..160),
        policy in policies(),
        settings in settings(),
        count in prop_oneof![Just(1u32), 0u32..40],
    ) {
        let mut columns = followed(&cell, &promised);
        for (slot, amount) in taken {
            columns.take(slot, &amount);
            let promise = promised.entry(slot).or_default();
            *promise = promise.checked_add(&amount).unwrap();
        }
        let eligible = columns.eligible(&constraints, &affinities, &cell);
        let request = Request {
            eligible: eligible.as_deref(), home, siblings: &siblings, hold: cell.hold(OWNER),
            ..Request::new(&resources, settings)
        };
        let twin = Twin {
            cell: &cell, promised: &promised, constraints: &constraints, affinities: &affinities, job: OWNER,
            request: &request,
        };
        let count = if resources.is_nothing() { count.min(3) } else { count };
        let scoring = scoring_of(policy, &cell).unwrap();
        let chosen = choose(&columns, &request, policy, count);
        prop_assert_eq!(&chosen, &twin.choose(&*scoring, count));
        prop_assert_eq!(&chosen, &choose_by(&columns, &request, &*scoring, count));

        if settings.parts.is_none() && home.is_none() {
            let sorted = twin.sorted(&*scoring, &BTreeMap::new());
            let ranked = rank(&columns, &request, &*scoring, count as usize);
            let ranked: Vec<_> = ranked.into_iter().map(|ranked| (ranked.cost, ranked.machine)).collect();
            let sorted: Vec<_> = sorted.into_iter().take(count as usize).map(|(cost, _, slot)| (cost, slot)).collect();
            prop_assert_eq!(ranked, sorted);

            // Who asks about each machine gets the best of those that suit, each once.
            let suits = |slot: u32| slot % 3 == 1;
            let request = Request { suits: Some(Suits(&suits)), ..request };
            let suiting = twin.sorted(&*scoring, &BTreeMap::new()).into_iter().map(|(_, _, slot)| slot);
            let suiting: Vec<u32> = suiting.filter(|&slot| suits(slot)).take(count as usize).collect();
            prop_assert_eq!(&choose(&columns, &request, policy, count), &suiting);

            // Nobody asks about machines that are known not to suit.
            let known = |slot: u32| slot.is_multiple_of(3);
            let mut without = vec![0_u64; cell.machine_rows().len().div_ceil(64) as usize];
            for slot in (0..cell.machine_rows().len()).filter(|&slot| known(slot)) {
                without[slot as usize / 64] |= 1 << (slot % 64);
            }
            let asked = |slot: u32| {
                assert!(!known(slot));
                suits(slot)
            };
            let request = Request { suits: Some(Suits(&asked)), without: Some(&without), ..request };
            prop_assert_eq!(choose(&columns, &request, policy, count), suiting);
        }

        let classes = eligible.as_ref().map(|eligible| eligible.classes());
        let requirement = Requirement { resources: &resources, classes, home, job: OWNER, special: None };
        let why = explain(&columns, &cell, &requirement, &constraints, &[], |_| None);
        let lacking: u32 = why.lacks.values().map(|lack| lack.machines).sum();
        let closed: u32 = why.not_ready.values().chain(why.constraints.values()).sum();
        prop_assert_eq!(why.machines, why.fitting + lacking + closed + why.other_machine + why.full);
        prop_assert!(why.reserved.is_empty(), "there are no partitions");
        prop_assert_eq!(why.fitting == 0, choose(&columns, &request, policy, 1).is_empty());
    }

    #[test]
    fn all_widths_of_vectors_give_the_same_bits(
        (cell, promised) in world(),
        resources in amounts(),
        affinities in affinities(),
        policy in policies(),
        settings in settings(),
        most in 0usize..200,
    ) {
        let mut columns = followed(&cell, &promised);
        let eligible = columns.eligible(&[rack_at_most(1)], &affinities, &cell);
        let request = Request { eligible: eligible.as_deref(), ..Request::new(&resources, settings) };
        let scoring = scoring_of(policy, &cell).unwrap();
        let judge = Judge::new(&columns, &request, &*scoring);
        let words = eligible.as_ref().unwrap().words();
        let blocks: Vec<u32> = (0..u32::try_from(words.len()).unwrap()).collect();
        let at = |width: lanes::Width| {
            let (scoring, rows, ask) = (judge.scoring, judge.rows(words), judge.ask);
            let mut minima = vec![Place::NONE; blocks.len()];
            lanes::run_at(width, Minima { scoring, rows, ask, blocks: &blocks, minima: &mut minima });
            let mut list = Shortlist::new(most);
            lanes::run_at(width, First { scoring, rows, ask, list: &mut list });
            let keys = |places: Vec<Place>| places.iter().map(Place::key).collect::<Vec<_>>();
            (keys(vec![lanes::run_at(width, Best { scoring, rows, ask })]), keys(minima), list.sorted())
        };
        let plain = at(lanes::Width::Plain);
        prop_assert_eq!(plain.1.iter().min(), plain.0.first().filter(|_| !blocks.is_empty()));
        for width in lanes::Width::all() {
            prop_assert_eq!(&at(width), &plain, "{:?}", width);
        }
    }

    #[test]
    fn what_follows_changes_equals_what_is_read_anew(
        (mut cell, promised) in world(),
        rounds in prop::collection::vec(
            (
                prop::collection::btree_map(0u32..160, (made(), prop::bool::weighted(0.2)), 0..6),
                prop::collection::btree_map(0u32..160, amounts(), 0..4),
                prop::collection::vec((0u32..160, amounts(), any::<bool>()), 0..4),
            ),
            1..5,
        ),
        wanted in prop::collection::vec((amounts(), policies(), settings(), affinities()), 1..4),
    ) {
        let mut columns = followed(&cell, &promised);
        let mut index = Index::default();
        for (changes, promised, taken) in rounds {
            let mut machines = BTreeMap::new();
            for (slot, (mut made, gone)) in changes {
                // New machines take the next slot; a machine that is not there cannot go.
                let slot = slot.min(cell.machine_rows().len());
                if gone && cell.machine_in(slot).is_some() {
                    (made.state, made.resources) = (MachineState::Gone, Resources::default());
                }
                machines.entry(slot).or_insert(made);
            }
            put(&mut cell, &machines, &[]);
            let changed: Vec<u32> = machines.keys().copied().collect();
            columns.follow(&cell, Some(&changed), &promised);
            let mut spoken = promised.clone();
            for (slot, amount, back) in taken {
                columns.take(slot, &amount);
                if back {
                    columns.give(slot, &amount);
                } else {
                    let promise = spoken.entry(slot).or_default();
                    *promise = promise.checked_add(&amount).unwrap();
                }
            }
            let mut anew = followed(&cell, &spoken);
            prop_assert_eq!(&columns.free, &anew.free);
            prop_assert_eq!(&columns.capacity, &anew.capacity);
            prop_assert_eq!(columns.largest(), anew.largest());
            for slot in 0..=columns.rows() {
                prop_assert_eq!(columns.room(slot), anew.room(slot));
            }
            for (resources, policy, settings, affinities) in &wanted {
                let constraints = [rack_at_most(1)];
                let eligible = columns.eligible(&constraints, affinities, &cell);
                let fresh = anew.eligible(&constraints, affinities, &cell);
                prop_assert_eq!(eligible.as_ref().unwrap().words(), fresh.as_ref().unwrap().words());
                prop_assert_eq!(eligible.as_ref().unwrap().weights(), fresh.as_ref().unwrap().weights());
                let request = Request::new(resources, *settings);
                let by_index = index.choose(&columns, &request, eligible.as_ref(), *policy, 1);
                let request = Request { eligible: fresh.as_deref(), ..request };
                prop_assert_eq!(by_index, choose(&anew, &request, *policy, 1));
            }
        }
    }

    #[test]
    fn draws_go_only_where_tasks_fit_and_until_none_does(
        (cell, promised) in world(),
        resources in amounts(),
        seed in any::<u64>(),
        sample in prop::option::of(1u32..5),
        count in 0u32..400,
    ) {
        let columns = followed(&cell, &promised);
        let settings = Settings { seed, sample, ..Settings::default() };
        let request = Request::new(&resources, settings);
        let policy = if sample.is_some() { Policy::BestFit } else { Policy::Random };
        let twin = Twin {
            cell: &cell, promised: &promised, constraints: &[], affinities: &[], job: JobId::default(), request: &request,
        };
        let chosen = choose(&columns, &request, policy, count);
        prop_assert_eq!(&chosen, &choose(&columns, &request, policy, count));
        let mut placed = BTreeMap::new();
        for slot in &chosen {
            let fitting = twin.sorted(&FirstFit, &placed);
            prop_assert!(fitting.iter().any(|(_, _, fits)| fits == slot));
            *placed.entry(*slot).or_default() += 1;
        }
        let none_left = twin.sorted(&FirstFit, &placed).is_empty();
        prop_assert!(chosen.len() == count as usize || none_left, "{} of {count}", chosen.len());
    }
}

/// The cell numbers its classes anew when machines have had many attributes: what is known by the old numbers says nothing any more.
#[test]
fn machines_that_get_other_attributes_again_and_again_are_told_apart() {
    let mut cell = cell_of(&[plain(1000, 1), plain(1000, 1), plain(1000, 1)]);
    let mut columns = followed(&cell, &BTreeMap::new());
    for serial in 0..3000_u32 {
        let slot = serial * 7 % 5 % 3;
        let mut machine = machine(slot, &Made { rack: u8::from(serial % 2 == 0), ..plain(1000, 1) });
        Arc::make_mut(&mut machine.attributes).insert("serial".into(), serial.to_string().into());
        let delta = Delta::new(cell.revision().next(), cell.time());
        cell.apply(&Delta { machines: vec![Arc::new(machine)], ..delta }).unwrap();
        columns.follow(&cell, Some(&[slot]), &BTreeMap::new());
        let affinity = Affinity { rule: rack_at_most(0), weight: 100 };
        let eligible = columns.eligible(&[rack_at_most(0)], &[affinity], &cell).unwrap();
        for machine in cell.machines() {
            let holds = *machine.attributes["rack"] == *"0";
            assert_eq!((eligible.contains(machine.id.slot), eligible.weight(machine.id.slot) > 0.0), (holds, holds));
        }
    }
    assert!(cell.class_numbering() > 1);
}

/// Each machine that changed was a walk over all of them, be it for a resource that none has, or of which it has more now: the square of their number, when
/// all agents are upgraded.
#[test]
fn capacities_that_change_at_once_cost_one_look_at_all_machines_and_most_cost_none() {
    let large = plain(4000, 16);
    let mut cell = cell_of(&vec![large.clone(); 200]);
    let mut columns = followed(&cell, &BTreeMap::new());
    let mut looks = |columns: &mut Columns, changes: &[(u32, Made)]| {
        let before = columns.looks;
        put(&mut cell, &changes.iter().cloned().collect(), &[]);
        let slots: Vec<u32> = changes.iter().map(|&(slot, _)| slot).collect();
        columns.follow(&cell, Some(&slots), &BTreeMap::new());
        assert_eq!(columns.largest(), followed(&cell, &BTreeMap::new()).largest());
        columns.looks - before
    };
    let all = |made: &Made| (0..200).map(|slot| (slot, made.clone())).collect::<Vec<_>>();
    assert_eq!(looks(&mut columns, &all(&plain(4000, 15))), 1, "all of them shrink");
    assert_eq!(looks(&mut columns, &all(&large)), 0, "they grow");
    assert_eq!(looks(&mut columns, &[(7, plain(5000, 16))]), 0, "one is the largest");
    assert_eq!(looks(&mut columns, &[(8, plain(3000, 17))]), 0, "what is less is not the most");
    assert_eq!(looks(&mut columns, &[(8, plain(2000, 17))]), 0, "nor is it here");
    assert_eq!(looks(&mut columns, &[(6, plain(6000, 1)), (7, large.clone())]), 0, "another one is larger");
    assert_eq!(looks(&mut columns, &[(6, large.clone())]), 1, "it was the largest");
}
