//! Whom to evict, against a plain search of all sets of tenants.

use proptest::prelude::*;

use super::*;
use plenum_model::{Room, VICTIMS_MAX};

fn tenant(slot: u32, priority: u8, created: u64) -> Tenant {
    Tenant {
        id: AllocationId { slot, generation: 1 },
        created: Revision(created),
        shape: 0,
        priority,
        is_torn: false,
        is_service: false,
        is_special: false,
    }
}

fn wanting(resources: &Resources, band: u8) -> Wanting<'_> {
    Wanting::new(resources, band)
}

fn room(cpu: i64, memory: i64) -> Room {
    let mut room = Room::default();
    (room.0[0], room.0[1]) = (cpu, memory);
    room
}

/// The best of all sets of tenants of a machine, each judged by itself.
fn plainly(tenants: &Tenants, machine: u32, free: &Room, wanting: &Wanting<'_>) -> Option<EvictionRank> {
    let all: Vec<Tenant> =
        tenants.on(machine).iter().filter(|tenant| tenant.priority / 10 < wanting.band).copied().collect();
    let sets =
        (0_u32..1 << all.len()).map(|set| all.iter().enumerate().filter(move |(place, _)| set >> place & 1 == 1));
    let sets = sets.filter(|set| set.clone().count() <= tenants.unnamed(machine));
    let fitting = sets.filter_map(|set| {
        let victims: Vec<Tenant> = set.map(|(_, tenant)| *tenant).collect();
        let mut room = tenants.coming(machine, free, wanting.band);
        victims.iter().for_each(|victim| room.add(tenants.room_of(victim)));
        let ids: Vec<AllocationId> = victims.iter().map(|victim| victim.id).collect();
        let fits =
            room.shortage(wanting.resources).is_none() && wanting.enough.is_none_or(|enough| enough(machine, &ids));
        fits.then(|| victims.iter().fold(EvictionRank::nobody(machine), EvictionRank::with))
    });
    fitting.min()
}

/// Tenants with their room, and what is free beside them.
type Made = (Vec<(Tenant, Resources)>, Room);

fn made() -> impl Strategy<Value = Made> {
    let one = (0_u64..4, 0_u64..4, 0_u8..35, 0_u64..9, 0_u8..8);
    (prop::collection::vec(one, 0..8), -1_i64..3, -1_i64..3).prop_map(|(all, cpu, memory)| {
        let tenants = all.into_iter().enumerate().map(|(slot, (cpu, memory, priority, created, flags))| {
            let flags = [flags == 7, flags & 3 == 2, flags & 1 == 1];
            let made = tenant(u32::try_from(slot).unwrap(), priority / 5 * 5, created);
            let made = Tenant { is_torn: flags[0], is_service: flags[1], is_special: flags[2], ..made };
            (made, Resources::new(cpu * 500, memory))
        });
        (tenants.collect(), room(cpu * 500, memory))
    })
}

/// Tenants of machines on each of which only so `many` more victims can be named: others were chosen there, who had nothing.
fn nameable(many: usize, mut machines: Vec<Vec<(Tenant, Resources)>>) -> Tenants {
    let idle: Vec<Tenant> = (1_000..).take(VICTIMS_MAX - many).map(|slot| tenant(slot, 99, 1)).collect();
    for machine in &mut machines {
        machine.extend(idle.iter().map(|idle| (*idle, Resources::new(0, 0))));
    }
    let mut tenants = Tenants::made(&machines);
    let ids: Vec<AllocationId> = idle.iter().map(|idle| idle.id).collect();
    (0..).zip(&machines).for_each(|(machine, _)| tenants.choose(machine, &ids));
    tenants
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nobody_finds_victims_of_less_cost_on_a_machine(
        made in made(), cpu in 0_u64..9, memory in 0_u64..9, band in 0_u8..5, most in 0_usize..9,
    ) {
        let (all, free) = made;
        let tenants = nameable(most, vec![all]);
        let need = Resources::new(cpu * 500, memory);
        for special in [false, true] {
            // Two of those that have devices must go.
            let enough = |_: u32, ids: &[AllocationId]| {
                let special = |id: &&AllocationId| tenants.on(0).iter().any(|tenant| tenant.id == **id && tenant.is_special);
                ids.iter().filter(special).count() >= 2
            };
            let wanting = Wanting { enough: special.then_some(&enough), ..wanting(&need, band) };
            let found = least(&tenants, 0, &free, &wanting);
            prop_assert_eq!(found.as_ref().map(|found| found.rank), plainly(&tenants, 0, &free, &wanting));
            if let Some(found) = found {
                prop_assert_eq!(found.rank.victims as usize, found.victims.len());
            }
        }
    }

    #[test]
    fn each_task_goes_to_the_machine_of_least_cost_as_things_stand_then(
        machines in prop::collection::vec(made(), 1..5), cpu in 1_u64..7, memory in 0_u64..5, band in 1_u8..4,
        most in 1_usize..12, groups in prop::collection::vec(prop::collection::vec(0_u32..3, 5), 3),
        turns in prop::collection::vec(0_usize..4, 8),
    ) {
        let (all, mut free): (Vec<_>, Vec<Room>) = machines.into_iter().unzip();
        let mut tenants = nameable(most, all);
        let need = Resources::new(cpu * 500, memory);
        // Groups that need the same ask in turns; the last one is not to be spread.
        let mut groups: Vec<BTreeMap<u32, u32>> =
            groups.into_iter().map(|group| (0..).zip(group).filter(|(_, count)| *count > 0).collect()).collect();
        let rooms = |free: &[Room]| (0..).zip(free.to_vec()).collect::<Vec<(u32, Room)>>();
        let mut cheapest = Cheapest::new(&tenants, rooms(&free).into_iter(), &wanting(&need, band));
        for turn in turns {
            let wanting = Wanting { siblings: groups.get(turn), ..wanting(&need, band) };
            let ranks = rooms(&free).into_iter().filter_map(|(machine, free)| {
                let rank = plainly(&tenants, machine, &free, &wanting)?;
                Some(EvictionRank { siblings: wanting.siblings_on(machine), ..rank })
            });
            let best = ranks.min();
            match cheapest.next(&tenants, |machine| Some(free[machine as usize]), &wanting, &mut 100_000) {
                Found::Here(found) => {
                    prop_assert_eq!(Some(found.rank.price()), best.map(|best| best.price()));
                    let machine = found.rank.machine;
                    if !found.victims.is_empty() {
                        tenants.choose(machine, &found.victims);
                    }
                    free[machine as usize].take(&need);
                    groups.get_mut(turn).into_iter().for_each(|group| *group.entry(machine).or_default() += 1);
                }
                Found::Nowhere => prop_assert_eq!(best, None),
                Found::Unsure => prop_assert!(false, "there was budget left"),
            }
        }
    }

    #[test]
    fn what_was_chosen_and_is_spared_stands_as_before(made in made(), cpu in 1_u64..9) {
        let (all, free) = made;
        let mut tenants = Tenants::made(&[all]);
        let need = Resources::new(cpu * 500, 1);
        let before = least(&tenants, 0, &free, &wanting(&need, 9));
        if let Some(Eviction { victims, .. }) = &before {
            tenants.choose(0, victims);
            prop_assert_eq!(least(&tenants, 0, &free, &wanting(&need, 9)).map(|found| found.victims), Some(Vec::new()));
            tenants.spare(0, victims.len());
            prop_assert_eq!(least(&tenants, 0, &free, &wanting(&need, 9)), before);
            prop_assert_eq!(tenants.leaving(0, 9).count(), 0);
        }
    }
}

#[test]
fn many_small_tenants_of_a_few_kinds_are_searched_quickly_and_to_the_end() {
    let kinds = [(5, 100), (12, 250), (12, 400)];
    let made = (0..120_u32).map(|slot| {
        let (priority, cpu) = kinds[slot as usize % 3];
        (tenant(slot, priority, u64::from(slot)), Resources::new(cpu, 1))
    });
    let tenants = Tenants::made(&[made.collect()]);
    let need = Resources::new(4500, 1);
    let found = least(&tenants, 0, &room(0, 1), &wanting(&need, 5)).unwrap();
    // Forty of priority 5 have 4,000 only, so that some of 12 go: eleven of 400 and one of 100 cost least.
    assert_eq!((found.rank.highest, found.rank.priorities, found.rank.victims), (13, 11 * 13 + 6, 12));
}

#[test]
fn no_more_are_named_than_a_claim_may_name() {
    let made = |count: u32| (0..count).map(|slot| (tenant(slot, 5, 1), Resources::new(100, 1))).collect();
    let tenants = Tenants::made(&[made(64), made(65)]);
    let evict = |machine, cpu| least(&tenants, machine, &room(0, 1), &wanting(&Resources::new(cpu, 1), 5));
    assert_eq!(evict(0, 6_400).map(|found| found.victims.len()), Some(64));
    assert_eq!(evict(1, 6_500), None);
}

// A hundred small ones of the lowest band had room enough together, so that nobody else was looked at; and more of them than a claim may name would have had to go.
#[test]
fn where_the_lowest_band_alone_would_be_too_many_a_dearer_one_goes_for_some_of_them() {
    let small = |count: u32| (0..count).map(|slot| (tenant(slot, 10, u64::from(slot)), Resources::new(1_000, 1)));
    let large = |slot, priority| (tenant(slot, priority, 1), Resources::new(28_000, 1));
    let need = Resources::new(80_000, 1);
    let victims = |all: Vec<(Tenant, Resources)>| {
        let found = least(&Tenants::made(&[all]), 0, &room(0, 1), &wanting(&need, 9))?;
        Some((found.rank.band, found.rank.highest, found.rank.victims))
    };
    assert_eq!(victims(small(100).chain([large(100, 20)]).collect()), Some((3, 21, 53)));
    assert_eq!(victims(small(100).chain([large(100, 15)]).collect()), Some((2, 16, 53)), "inside of a band as well");
    let torn = |slot, priority| (Tenant { is_torn: true, ..large(slot, priority).0 }, large(slot, priority).1);
    assert_eq!(victims(small(100).chain([torn(100, 10)]).collect()), Some((2, 11, 53)), "a gang, too");
    assert_eq!(victims(small(100).chain([large(100, 95)]).collect()), None);
}

// Sixty-four of those that give least, of many sizes, were tried in more ways than a search has steps.
#[test]
fn of_many_tenants_that_all_differ_the_largest_are_found_where_the_others_are_too_many() {
    let small = (0..200).map(|slot| (tenant(slot, 10, u64::from(slot)), Resources::new(1_000 + u64::from(slot), 1)));
    let large = (200..240).map(|slot| (tenant(slot, 20, 1), Resources::new(2_000 + u64::from(slot), 1)));
    let tenants = Tenants::made(&[small.chain(large).collect()]);
    let need = Resources::new(110_000, 1);
    let found = least(&tenants, 0, &room(0, 1), &wanting(&need, 9)).unwrap();
    assert!(found.victims.len() <= VICTIMS_MAX, "{:?}", found.rank);
    assert_eq!(found.rank.band, 3);
}

// A job of sixty thousand small tasks on one machine made each search there move billions of bytes, before it turned out that more of them would have had to go than a claim may name.
#[test]
fn a_crowd_of_tenants_is_looked_at_once_where_too_many_of_them_would_have_to_go() {
    let small = (0..60_000).map(|slot| (tenant(slot, 10, u64::from(slot)), Resources::new(1, 1)));
    let tenants = Tenants::made(&[small.collect()]);
    for special in [false, true] {
        let enough = |_: u32, _: &[AllocationId]| panic!("the room alone rules it out");
        let need = Resources::new(1_000, 1);
        let wanting = Wanting { enough: if special { Some(&enough) } else { None }, ..wanting(&need, 5) };
        let mut cheapest = Cheapest::new(&tenants, [(0, room(0, 1))].into_iter(), &wanting);
        let mut budget = 1_000_000;
        assert_eq!(cheapest.next(&tenants, |_| Some(room(0, 1)), &wanting, &mut budget), Found::Nowhere);
        assert!(budget >= 939_000, "{budget} of a million looks are left");
    }
}

// For each tenant that can stay all ids of the others were gathered, and the look at them was not counted.
#[test]
fn what_is_asked_of_a_crowd_is_counted_by_the_tenants_that_it_is_asked_about() {
    let special = |slot| (Tenant { is_special: true, ..tenant(slot, 10, u64::from(slot)) }, Resources::new(1, 1));
    let tenants = Tenants::made(&[(0..12_000).map(special).collect()]);
    let (need, asked) = (Resources::new(1, 1), std::cell::Cell::new(0));
    // The device that is wanted has one of them.
    let enough = |_: u32, ids: &[AllocationId]| {
        asked.set(asked.get() + ids.len());
        ids.iter().any(|id| id.slot == 7_000)
    };
    let wanting = Wanting { enough: Some(&enough), ..wanting(&need, 5) };
    let mut cheapest = Cheapest::new(&tenants, [(0, room(1, 1))].into_iter(), &wanting);
    let mut budget = 4_000_000;
    let Found::Here(found) = cheapest.next(&tenants, |_| Some(room(1, 1)), &wanting, &mut budget) else {
        panic!("there is one")
    };
    assert_eq!(found.victims.iter().map(|id| id.slot).collect::<Vec<_>>(), [7_000]);
    let looks = 4_000_000 - budget;
    assert!(looks >= asked.get(), "{looks} looks, and {} ids were asked about", asked.get());
    assert!(looks < 600_000, "{looks} looks");
}

// A service evicted on the machine that its task was on, as another one had a task where nobody of its own was.
#[test]
fn where_a_group_has_tasks_is_forgotten_when_another_one_asks() {
    let machine = |_| vec![(tenant(0, 10, 1), Resources::new(100, 1))];
    let mut tenants = Tenants::made(&(0..3).map(machine).collect::<Vec<_>>());
    let need = Resources::new(100, 1);
    let mut cheapest = Cheapest::new(&tenants, (0..3).map(|machine| (machine, room(0, 1))), &wanting(&need, 5));
    let (mut seats, mut free) = (Vec::new(), [room(0, 1); 3]);
    for siblings in [BTreeMap::from([(0, 1)]), BTreeMap::from([(2, 1)])] {
        let wanting = Wanting { siblings: Some(&siblings), ..wanting(&need, 5) };
        let Found::Here(found) = cheapest.next(&tenants, |machine| Some(free[machine as usize]), &wanting, &mut 1_000)
        else {
            panic!("there is enough")
        };
        tenants.choose(found.rank.machine, &found.victims);
        free[found.rank.machine as usize].take(&need);
        seats.push(found.rank.machine);
    }
    assert_eq!(seats, [1, 0]);
}

#[test]
fn who_may_look_no_further_goes_on_with_the_next_question() {
    let machine = |priority| vec![(tenant(u32::from(priority), priority, 1), Resources::new(100, 1))];
    let tenants = Tenants::made(&[machine(29), machine(28), machine(27)]);
    let need = Resources::new(100, 1);
    let wanting = wanting(&need, 5);
    let mut cheapest = Cheapest::new(&tenants, (0..3).map(|machine| (machine, room(0, 1))), &wanting);
    let mut ask = |mut budget| cheapest.next(&tenants, |_| Some(room(0, 1)), &wanting, &mut budget);
    assert_eq!(ask(0), Found::Unsure);
    let Found::Here(found) = ask(100) else { panic!("it goes on") };
    assert_eq!(found.rank.machine, 2);
}

// Each task of each kind looked at all tenants of the cell.
#[test]
fn of_machines_that_are_alike_one_is_looked_at_for_a_task() {
    let machine = |_| (0..10).map(|slot| (tenant(slot, 12, 1), Resources::new(100, 1))).collect::<Vec<_>>();
    let mut tenants = Tenants::made(&(0..1_000).map(machine).collect::<Vec<_>>());
    for cpu in [100, 250, 900] {
        let need = Resources::new(cpu, 1);
        let wanting = wanting(&need, 5);
        let mut cheapest = Cheapest::new(&tenants, (0..1_000).map(|machine| (machine, room(0, 1))), &wanting);
        let mut budget = 10_000;
        for _ in 0..50 {
            let Found::Here(found) = cheapest.next(&tenants, |_| Some(room(0, 1)), &wanting, &mut budget) else {
                panic!("there is enough")
            };
            tenants.choose(found.rank.machine, &found.victims);
        }
        assert!(budget > 8_000, "{budget} of 10,000 looks are left");
    }
}

// Three tasks of a service went to one machine, as all were of equal price and it was the first.
#[test]
fn of_machines_of_equal_price_one_with_the_fewest_siblings_is_taken_and_nobody_dearer_goes_for_that() {
    let machine = |priority| vec![(tenant(0, priority, 1), Resources::new(400, 1))];
    let mut tenants = Tenants::made(&[machine(10), machine(10), machine(10), machine(11)]);
    let need = Resources::new(100, 1);
    let mut siblings = BTreeMap::from([(0, 1)]);
    let mut cheapest = Cheapest::new(&tenants, (0..4).map(|machine| (machine, room(0, 1))), &wanting(&need, 5));
    let mut seats = Vec::new();
    for _ in 0..4 {
        let wanting = Wanting { siblings: Some(&siblings), ..wanting(&need, 5) };
        let Found::Here(found) = cheapest.next(&tenants, |_| Some(room(0, 1)), &wanting, &mut 1_000) else {
            panic!("there is enough")
        };
        let machine = found.rank.machine;
        if !found.victims.is_empty() {
            tenants.choose(machine, &found.victims);
        }
        *siblings.entry(machine).or_default() += 1;
        seats.push((machine, found.victims.len()));
    }
    // What the first victim leaves is enough for more than one: for that, nobody else goes.
    assert_eq!(seats, [(1, 1), (1, 0), (1, 0), (1, 0)]);
}

// All sets of sixteen were searched, on each of all machines: what is short of devices only is not ruled out by room.
#[test]
fn where_all_devices_are_needed_no_other_sets_are_looked_at() {
    let machine = |_| {
        let special = |slot| (Tenant { is_special: true, ..tenant(slot, 12, 1) }, Resources::new(100, 1));
        (0..16).map(special).collect::<Vec<_>>()
    };
    let tenants = Tenants::made(&(0..100).map(machine).collect::<Vec<_>>());
    let need = Resources::new(100, 1);
    let all = |_: u32, victims: &[AllocationId]| victims.len() == 16;
    let wanting = Wanting { enough: Some(&all), ..wanting(&need, 5) };
    let free = || room(1000, 1000);
    let mut cheapest = Cheapest::new(&tenants, (0..100).map(|machine| (machine, free())), &wanting);
    let mut budget = 1_000_000;
    let Found::Here(found) = cheapest.next(&tenants, |_| Some(free()), &wanting, &mut budget) else {
        panic!("there is enough")
    };
    assert_eq!(found.victims.len(), 16);
    assert!(budget > 800_000, "{budget} of a million looks are left");
    // Who may not look at all of them takes the best of those that it saw, and does not begin anew for ever.
    let mut few = 5_000;
    let mut cheapest = Cheapest::new(&tenants, (0..100).map(|machine| (machine, free())), &wanting);
    assert!(matches!(cheapest.next(&tenants, |_| Some(free()), &wanting, &mut few), Found::Here(_)));
}

// If the claim of the higher band is refused, its victim stays.
#[test]
fn a_lower_band_does_not_count_on_victims_that_it_could_not_evict() {
    let mut tenants = Tenants::made(&[vec![(tenant(0, 30, 1), Resources::new(1000, 1))]]);
    let need = Resources::new(400, 1);
    let evict = |tenants: &Tenants, band| least(tenants, 0, &room(-400, 1), &wanting(&need, band));
    let high = evict(&tenants, 5).unwrap();
    tenants.choose(0, &high.victims);
    assert_eq!(evict(&tenants, 4).map(|found| found.victims), Some(Vec::new()), "it could evict it as well");
    assert_eq!(evict(&tenants, 3), None);
    assert_eq!((tenants.leaving(0, 4).count(), tenants.leaving(0, 3).count()), (1, 0));
}
