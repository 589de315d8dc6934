//! Stories of the service scheduler, against the real core.

use plenum_testkit::{JobBuilder, Stage};

use super::*;

fn web(count: u32) -> JobBuilder {
    JobBuilder::new("web", "service").group("web", count, 500).forever()
}

#[test]
fn siblings_are_kept_apart() {
    let mut stage = Stage::new();
    for name in ["m1", "m2", "m3"] {
        stage.machine(name, 4_000, &[]);
    }
    stage.seat(Service::default());
    let job = stage.submit(&web(3));
    stage.settle();
    let mut machines: Vec<_> = stage.placed(job).iter().map(|&(_, _, machine)| machine).collect();
    machines.sort_unstable();
    assert_eq!(machines, [0, 1, 2]);
}

#[test]
fn a_machine_that_is_not_wished_for_comes_last() {
    let mut stage = Stage::new();
    stage.machine("m1", 8_000, &[("power", "spot")]);
    stage.machine("m2", 4_000, &[("power", "grid")]);
    stage.machine("m3", 4_000, &[("power", "grid")]);
    stage.seat(Service::default());
    let job = stage.submit(&web(2).wish("power", "spot", -100));
    stage.settle();
    let mut machines: Vec<_> = stage.placed(job).iter().map(|&(_, _, machine)| machine).collect();
    machines.sort_unstable();
    assert_eq!(machines, [1, 2]);
}

#[test]
fn a_failed_task_comes_back_and_goes_where_it_has_no_sibling() {
    let mut stage = Stage::new();
    stage.machine("m1", 4_000, &[]);
    stage.machine("m2", 4_000, &[]);
    stage.seat(Service::default());
    let job = stage.submit(&web(2));
    stage.settle();
    for _ in 0..5 {
        stage.finish(job, false);
        stage.advance(1_100_000);
        let machines: std::collections::BTreeSet<_> =
            stage.placed(job).iter().map(|&(_, _, machine)| machine).collect();
        assert_eq!(machines.len(), 2);
    }
}

#[test]
fn lost_tasks_are_replaced_on_machines_that_are_left() {
    let mut stage = Stage::new();
    stage.machine("m1", 4_000, &[]);
    stage.machine("m2", 4_000, &[]);
    stage.seat(Service::default());
    let job = stage.submit(&web(2));
    stage.settle();
    stage.expire(0);
    stage.advance(1_000_000);
    assert_eq!(stage.placed(job).len(), 2, "a machine that may come back keeps its tasks for a while");
    stage.advance(120_000_000);
    assert_eq!(stage.placed(job), [(0, 0, 1), (0, 1, 1)]);
}

#[test]
fn tasks_of_a_removed_machine_are_replaced_at_once() {
    let mut stage = Stage::new();
    stage.machine("m1", 4_000, &[]);
    stage.machine("m2", 4_000, &[]);
    stage.seat(Service::default());
    let job = stage.submit(&web(2));
    stage.settle();
    stage.remove(0);
    stage.advance(10_000);
    assert_eq!(stage.placed(job), [(0, 0, 1), (0, 1, 1)]);
}
