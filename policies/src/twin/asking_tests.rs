//! Tasks of which each may stand in the way of the next, against a full sort and a question to every machine for each of them.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::tests::{OWNER, affinities, amounts, policies, settings, world};
use super::*;
use crate::{Suits, choose, choose_asking};

/// So many tasks on a machine and on machines of one value, as limits and spread rules say, and machines that lack something for all of them.
#[derive(Clone, Debug)]
struct Limits {
    per_machine: u32,
    /// Values by slot, and how many of each; machines whose slot leaves nothing have none.
    spread: Vec<(u32, u32)>,
    lacking: BTreeSet<u32>,
}

fn limits() -> impl Strategy<Value = Limits> {
    let spread = prop::collection::vec((1u32..40, 1u32..6), 0..3);
    let lacking = prop_oneof![Just(BTreeSet::new()), prop::collection::btree_set(0u32..150, 0..140)];
    (1u32..5, spread, lacking).prop_map(|(per_machine, spread, lacking)| Limits { per_machine, spread, lacking })
}

impl Limits {
    fn allow(&self, slot: u32, placed: &BTreeMap<u32, u32>) -> bool {
        let beside = |values: u32| placed.iter().filter(move |(other, _)| **other % values == slot % values);
        placed.get(&slot).copied().unwrap_or(0) < self.per_machine
            && !self.lacking.contains(&slot)
            && self.spread.iter().all(|&(values, most)| {
                (values == 1 || !slot.is_multiple_of(values))
                    && beside(values).map(|(_, tasks)| tasks).sum::<u32>() < most
            })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_task_goes_to_the_best_of_all_that_nothing_stands_in_the_way_of_by_then(
        (cell, promised) in world(),
        siblings in prop::collection::btree_map(0u32..160, 1u32..3, 0..40),
        resources in amounts(),
        affinities in affinities(),
        home in prop::option::weighted(0.1, 0u32..160),
        policy in policies(),
        settings in settings(),
        known in any::<bool>(),
        limits in limits(),
        count in 0u32..60,
    ) {
        let mut columns = followed(&cell, &promised);
        let eligible = columns.eligible(&[], &affinities, &cell);
        let without: Vec<u64> = (0..cell.machine_rows().len().div_ceil(64))
            .map(|word| (0..64).filter(|bit| known && limits.lacking.contains(&(word * 64 + bit))).map(|bit| 1 << bit).sum())
            .collect();
        let request = Request {
            eligible: eligible.as_deref(), home, siblings: &siblings, hold: cell.hold(OWNER),
            without: Some(&without), ..Request::new(&resources, settings)
        };
        let twin = Twin {
            cell: &cell, promised: &promised, constraints: &[], affinities: &affinities, job: OWNER, request: &request,
        };
        let scoring = scoring_of(policy, &cell).unwrap();

        let (mut placed, mut expected, mut refused) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        let parts = settings.parts.unwrap_or(crate::Parts { count: 1, first: 0 });
        let behind = |slot: u32| (slot % parts.count + parts.count - parts.first % parts.count) % parts.count;
        for _ in 0..count {
            let sorted = twin.sorted(&*scoring, &placed).into_iter().map(|(_, _, slot)| slot);
            let allowed = sorted.filter(|&slot| limits.allow(slot, &placed));
            let Some(slot) = allowed.min_by_key(|&slot| behind(slot)) else { break };
            *placed.entry(slot).or_insert(0) += 1;
            expected.push(slot);
        }

        let mut taken = BTreeMap::new();
        let mut asked_in_vain = false;
        let chosen = choose_asking(&columns, &request, policy, count, &mut |slot| {
            asked_in_vain |= refused.contains(&slot) || known && limits.lacking.contains(&slot);
            let allowed = limits.allow(slot, &taken);
            if allowed {
                *taken.entry(slot).or_insert(0) += 1;
            } else {
                refused.insert(slot);
            }
            allowed
        });
        prop_assert_eq!(&chosen, &expected);
        prop_assert!(!asked_in_vain, "a machine was asked again that had said no");

        // One task is asked for as by `suits`, and where all say yes it is the plain choice.
        let first = |slot: u32| limits.allow(slot, &BTreeMap::new());
        let one = choose(&columns, &Request { suits: Some(Suits(&first)), ..request }, policy, 1);
        prop_assert_eq!(&chosen[..chosen.len().min(1)], &one[..one.len().min(count as usize)]);
        let count = if resources.is_nothing() { count.min(3) } else { count };
        let all = choose_asking(&columns, &request, policy, count, &mut |_| true);
        prop_assert_eq!(all, choose(&columns, &request, policy, count));
    }

    #[test]
    fn who_draws_asks_too_and_goes_on_while_any_machine_says_yes(
        (cell, promised) in world(),
        resources in amounts(),
        home in prop::option::weighted(0.1, 0u32..160),
        seed in any::<u64>(),
        sample in prop::option::of(1u32..5),
        limits in limits(),
        count in 0u32..200,
    ) {
        let columns = followed(&cell, &promised);
        let settings = Settings { seed, sample, ..Settings::default() };
        let request = Request { home, ..Request::new(&resources, settings) };
        let policy = if sample.is_some() { Policy::BestFit } else { Policy::Random };
        let twin = Twin {
            cell: &cell, promised: &promised, constraints: &[], affinities: &[], job: JobId::default(), request: &request,
        };
        let mut placed = BTreeMap::new();
        let mut misplaced = None;
        let chosen = choose_asking(&columns, &request, policy, count, &mut |slot| {
            let fits = twin.sorted(&FirstFit, &placed).iter().any(|(_, _, fits)| *fits == slot);
            misplaced = if fits { misplaced } else { Some(slot) };
            let allowed = limits.allow(slot, &placed);
            if allowed {
                *placed.entry(slot).or_insert(0) += 1;
            }
            allowed
        });
        prop_assert_eq!(misplaced, None);
        prop_assert_eq!(chosen.len(), placed.values().sum::<u32>() as usize);
        let left = twin.sorted(&FirstFit, &placed).into_iter().filter(|&(_, _, slot)| limits.allow(slot, &placed)).count();
        prop_assert!(chosen.len() == count as usize || left == 0, "{} of {count}, and {left} are left", chosen.len());
    }
}
