//! Prices of GPUs: stories, and properties over random machines.

use proptest::prelude::*;

use super::*;
use crate::gpu::{Counted, GpuTask};

fn shares(parts: &[(u16, u64)]) -> Target {
    let counted = |&(millis, count): &(u16, u64)| Counted {
        task: GpuTask { cpu_millis: 1000, devices: 1, millis, ..GpuTask::default() },
        models: String::new(),
        count,
    };
    Target::of(&parts.iter().map(counted).collect::<Vec<_>>())
}

fn near(one: f64, other: f64) -> bool {
    (one - other).abs() < 1e-6
}

#[test]
fn a_half_costs_a_half_and_what_nothing_fits_beside_costs_a_whole() {
    let prices = Prices::new(&shares(&[(470, 100), (810, 100)]));
    assert!(near(prices.piece(470), 0.5) && near(prices.piece(810), 1.0), "{prices:?}");
    assert!(near(prices.hole(530), 0.5) && near(prices.hole(190), 0.0) && near(prices.hole(1000), 1.0), "{prices:?}");
    // 100 GPUs for those of 810, 50 for those of 470, of 200 tasks.
    assert!(near(prices.gpus_a_task(), 0.75), "{prices:?}");
}

#[test]
fn crumbs_that_fit_beside_something_large_are_free() {
    let prices = Prices::new(&shares(&[(810, 100), (160, 20)]));
    assert!(near(prices.piece(160), 0.0) && near(prices.hole(190), 0.0), "{prices:?}");
    assert!(near(prices.gpus_a_task(), 100.0 / 120.0), "{prices:?}");
}

#[test]
fn crumbs_that_outnumber_the_large_ones_have_a_price_and_so_have_their_holes() {
    // 10 GPUs of 800 + 200; the other 90 crumbs make five a GPU.
    let prices = Prices::new(&shares(&[(800, 10), (200, 100)]));
    assert!(near(prices.piece(200), 0.2) && near(prices.piece(800), 0.8) && near(prices.hole(250), 0.2), "{prices:?}");
    assert!(near(prices.gpus_a_task(), 28.0 / 110.0), "{prices:?}");
}

#[test]
fn work_without_parts_has_whole_gpus_only() {
    let prices = Prices::new(&shares(&[(1000, 5)]));
    assert!(near(prices.piece(1000), 1.0) && near(prices.hole(1000), 1.0) && near(prices.hole(990), 0.0));
    assert!(near(Prices::new(&Target::default()).hole(1000), 1.0));
}

#[test]
fn parts_are_rounded_up_to_hundredths_and_holes_down() {
    let prices = Prices::new(&shares(&[(333, 5)]));
    assert!(near(prices.piece(333), 0.5) && near(prices.gpus_a_task(), 0.5), "{prices:?}");
    assert!(near(prices.hole(333), 0.0) && near(prices.hole(340), 0.5), "{prices:?}");
}

/// Packs tasks by first fit, descending: some packing, never better than the best.
fn first_fit_descending(parts: &[(u16, u64)]) -> u64 {
    let mut pieces =
        parts.iter().flat_map(|&(millis, count)| (0..count).map(move |_| millis.div_ceil(MILLIS))).collect::<Vec<_>>();
    pieces.sort_unstable_by(|one, other| other.cmp(one));
    let mut left: Vec<u16> = Vec::new();
    for piece in pieces {
        match left.iter_mut().find(|left| **left >= piece) {
            Some(left) => *left -= piece,
            None => left.push(100 - piece),
        }
    }
    left.len() as u64
}

proptest! {
    #[test]
    fn no_cut_gains_and_the_prices_are_a_bound_near_what_a_packing_needs(
        parts in prop::collection::btree_map(1_u16..99, 1_u64..60, 1..25),
    ) {
        let parts = parts.into_iter().map(|(size, count)| (size * 10, count)).collect::<Vec<_>>();
        let prices = Prices::new(&shares(&parts));
        for &(part, _) in &parts {
            prop_assert!((0.0..=1.0).contains(&prices.piece(part)));
            for room in part..=1000 {
                // To cut never makes more than there was.
                prop_assert!(prices.hole(room) + 1e-6 >= prices.hole(room - part) + prices.piece(part));
            }
        }
        let tasks = parts.iter().map(|(_, count)| count).sum::<u64>();
        let bound = prices.gpus_a_task() * tasks as f64;
        let area = parts.iter().map(|(part, count)| u64::from(*part) * count).sum::<u64>() as f64 / 1000.0;
        let packed = first_fit_descending(&parts) as f64;
        prop_assert!(bound <= packed + 1e-6 && bound + 1e-6 >= area, "{area} {bound} {packed}");
        // First fit, descending, is at most 11/9 of the best and a little, and the best at most one GPU a size more than the bound.
        prop_assert!(packed <= 11.0 / 9.0 * (bound + parts.len() as f64) + 4.0, "{bound} {packed}");
    }
}
