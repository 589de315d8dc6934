//! What one transaction may cost, at sizes at which a square would take minutes.

use plenum_model::{ClaimExtra, Device, GroupShape, Placement, Preemption};

use super::costs::{Large, placement};
use crate::CoreOptions;

fn gpu(index: u32, millis: u32) -> Device {
    Device { kind: "gpu".into(), index, millis, model: "m".into() }
}

// Each claim copied what each victim had left, with all its devices.
#[test]
fn what_victims_have_left_is_counted_once_for_all_claims_that_take_over_from_them() {
    const CLAIMS: u32 = 4000;
    let mut large = Large::new(CoreOptions::default());
    let id = large.machine_with("m1".to_owned(), (0..256).map(|index| gpu(index, 1000)).collect());
    let low = large.job(GroupShape { count: 64, devices: vec![gpu(0, 62); 64], ..GroupShape::default() });
    let of_victim = |victim: u32| (0..64).map(move |step| gpu(victim % 4 * 64 + step, 62)).collect();
    let extras = (0..64).map(|victim| ClaimExtra { devices: of_victim(victim), ..ClaimExtra::default() }).collect();
    let victims = large.commit(vec![Placement { extras, ..placement(low, 0..64, |_| id.slot, 0) }]).placements.concat();
    let preemptions = victims.into_iter().flatten().map(|victim| Preemption { machine: id.slot, victim }).collect();
    let high = large.job_at(90, GroupShape { count: CLAIMS, devices: vec![gpu(0, 1); 60], ..GroupShape::default() });
    let outcome = large.commit(vec![Placement { preemptions, ..placement(high, 0..CLAIMS, |_| id.slot, 0) }]);
    assert_eq!((outcome.granted(), outcome.refusals.len()), (CLAIMS as usize, 0));
    assert_eq!(large.core.derived.promised.specials.counted.get(), 64);
}
