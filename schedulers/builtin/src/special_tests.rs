//! Stories of groups that ask for more than room: devices, ports, limits, spread, minimums.

use plenum_testkit::{JobBuilder, Stage};

use crate::batch::Batch;
use crate::service::Service;

fn machines(placed: &[(u16, u32, u32)]) -> Vec<u32> {
    let mut machines: Vec<u32> = placed.iter().map(|&(_, _, machine)| machine).collect();
    machines.sort_unstable();
    machines
}

#[test]
fn gpus_are_shared_up_to_the_last_thousandth_and_no_further() {
    let mut stage = Stage::new();
    stage.machine("plain", 16_000, &[]);
    stage.machine_with_gpus("m1", 16_000, &[], 2);
    stage.seat(Batch::default());
    let job = stage.submit(&JobBuilder::new("train", "batch").group("main", 5, 100).gpu(500));
    stage.advance(1_000_000);
    assert_eq!(machines(&stage.placed(job)), [1, 1, 1, 1]);
    assert!(stage.passed_over(job, 0).contains("limits, devices or ports"), "{}", stage.passed_over(job, 0));
}

#[test]
fn a_fixed_port_puts_each_task_on_a_machine_of_its_own() {
    let mut stage = Stage::new();
    for name in ["m0", "m1", "m2"] {
        stage.machine(name, 8_000, &[]);
    }
    stage.seat(Service::default());
    let job = stage.submit(&JobBuilder::new("web", "service").group("main", 4, 100).port("http", 8080).forever());
    stage.advance(1_000_000);
    assert_eq!(machines(&stage.placed(job)), [0, 1, 2]);
}

#[test]
fn spread_and_limits_are_planned_as_the_cell_judges_them() {
    let mut stage = Stage::new();
    for (name, rack) in [("m0", "a"), ("m1", "a"), ("m2", "b")] {
        stage.machine(name, 8_000, &[("rack", rack)]);
    }
    let seat = stage.seat(Batch::default());
    let racks = stage.submit(&JobBuilder::new("racks", "batch").group("main", 5, 100).spread("rack", 2));
    let each = stage.submit(&JobBuilder::new("each", "batch").group("main", 5, 100).per_machine(1));
    stage.advance(1_000_000);
    assert_eq!((stage.placed(racks).len(), machines(&stage.placed(each))), (4, vec![0, 1, 2]));
    assert_eq!(stage.runtime(seat).counters().claims_misfit, 0, "planned with the code that commits");
}

#[test]
fn a_gang_waits_until_its_minimum_fits_and_leaves_room_to_others() {
    let mut stage = Stage::new();
    stage.machine("m0", 2_000, &[]);
    let seat = stage.seat(Batch::default());
    let gang = stage.submit(&JobBuilder::new("gang", "batch").group("main", 4, 1000).min(3).priority(90));
    let small = stage.submit(&JobBuilder::new("small", "batch").group("main", 1, 1000));
    stage.advance(1_000_000);
    assert_eq!((stage.placed(gang).len(), stage.placed(small).len()), (0, 1));
    assert!(
        stage.passed_over(gang, 0).starts_with("the 3 tasks that it starts with"),
        "{}",
        stage.passed_over(gang, 0)
    );
    stage.machine("m1", 2_000, &[]);
    stage.advance(1_000_000);
    assert_eq!(stage.placed(gang).len(), 3);
    assert_eq!(stage.runtime(seat).counters().claims_misfit, 0);
}
