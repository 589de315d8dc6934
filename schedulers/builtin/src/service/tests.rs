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

/// Each job had a transaction of its own, and all but the first four were planned for nothing, again and again.
#[test]
fn many_services_at_once_are_each_planned_once() {
    let mut stage = Stage::new();
    for number in 0..20 {
        stage.machine(&format!("m{number}"), 4_000, &[]);
    }
    let seat = stage.seat(Service::default());
    stage.cut_off(seat);
    let service = |number: u32| JobBuilder::new(&format!("web{number}"), "service").group("web", 2, 500).forever();
    let jobs: Vec<_> = (0..50).map(|number| stage.submit(&service(number))).collect();
    stage.let_back(seat);
    stage.advance(1_000_000);
    for &job in &jobs {
        let machines: Vec<_> = stage.placed(job).iter().map(|&(_, _, machine)| machine).collect();
        assert!(machines.len() == 2 && machines[0] != machines[1], "{machines:?}");
    }
    let counters = stage.runtime(seat).counters();
    assert_eq!((counters.dropped, counters.claims_granted, counters.transactions), (0, 100, 4));
}

#[test]
fn a_few_services_have_a_transaction_each() {
    let mut stage = Stage::new();
    stage.machine("m1", 4_000, &[]);
    let seat = stage.seat(Service::default());
    stage.cut_off(seat);
    for name in ["web", "mail", "wiki"] {
        stage.submit(&JobBuilder::new(name, "service").group("main", 1, 500).forever());
    }
    stage.let_back(seat);
    stage.advance(1_000_000);
    assert_eq!(stage.runtime(seat).counters().transactions, 3);
}
