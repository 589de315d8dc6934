//! What one transaction may cost, at sizes at which a square would take minutes.

use plenum_model::{ClaimExtra, Command, Decision, Device, GroupShape, Placement, Preemption, Resources};

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

// All who hold room on a machine were ranked there, and all holds were copied by the first change after each snapshot.
#[test]
fn who_finds_room_beside_all_holds_is_not_ranked_among_them() {
    const HOLDERS: usize = 1024;
    let mut large = Large::new(CoreOptions::default());
    let machines: Vec<_> = (0..2048).map(|number| large.machine(format!("m{number}")).slot).collect();
    let deadline = large.now.plus_micros(60_000_000);
    for _ in 0..HOLDERS {
        let job = large.job(GroupShape { count: 1, ..GroupShape::default() });
        let snapshot = large.core.cell().clone();
        let machines = machines.clone();
        let answer = large.ask(Command::TakeHold { job, machines, resources: Resources::new(1, 1), deadline });
        assert!(matches!(answer, Decision::Accepted { .. }), "{answer:?}");
        assert!(snapshot.hold(job).is_none());
    }
    assert!(machines.iter().all(|&machine| large.core.cell().held_by(machine).len() == HOLDERS));
}
