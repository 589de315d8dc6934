//! Devices that a machine lost while a task had them.

use super::*;

fn gpu(index: u32, millis: u32) -> Device {
    Device { kind: "gpu".into(), index, millis, model: "".into() }
}

// Whoever had a device that the machine lost counted as somebody who had got too much, as soon as another task came there.
#[test]
fn a_grant_beside_a_task_that_lost_its_device_is_right_and_one_of_a_device_that_is_gone_is_found() {
    let mut stage = Stage::new(GroupShape { devices: vec![gpu(0, 400)], ..GroupShape::default() });
    stage.register_with("m1", &[gpu(0, 1000), gpu(1, 1000)]);
    let (_, first) = stage.place();
    let has = first.grants[0].extras[0].devices[0].index;
    stage.register_with("m1", &[gpu(1 - has, 1000)]);
    let shape = (*stage.core.cell().job(stage.job).expect("it runs").shape).clone();
    stage.submit(JobShape { name: "other".into(), ..shape });
    let (before, granted) = stage.place();
    let judged = |devices: &[Device]| {
        let mut after = before.clone();
        after.apply(&granted).expect("it folds");
        let machine = after.machine(stage.machine).expect("it is there");
        let changed = Arc::new(plenum_model::Machine { devices: Arc::new(devices.to_vec()), ..(**machine).clone() });
        let later = Delta { machines: vec![changed], ..next(&after) };
        after.apply(&later).expect("it folds");
        stage.judged(&before, &after, &granted, rules::check)
    };
    assert_eq!(judged(&[gpu(1 - has, 1000)]), Ok(()));
    assert_eq!(judged(&[gpu(1 - has, 400)]), Ok(()));
    let found = |devices: &[Device]| judged(devices).expect_err("it is not there").facts;
    assert!(found(&[gpu(1 - has, 399)]).ends_with(&format!("400 of 399 of gpu {}", 1 - has)));
    assert!(found(&[gpu(has, 1000)]).ends_with(&format!("400 of 0 of gpu {}", 1 - has)));
}
