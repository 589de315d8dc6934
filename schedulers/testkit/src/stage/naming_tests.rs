//! Stories of schedulers that name the devices and ports of their claims, and keep books of them with a ledger.

use plenum_model::{Device, Port};
use plenum_sdk::{Decision, Plan, Scheduler, View};

use super::*;

fn gpu(index: u32, millis: u32) -> [Device; 1] {
    [Device { kind: "gpu".into(), index, millis, model: "".into() }]
}

fn http(number: u16) -> [Port; 1] {
    [Port { name: "http".into(), number }]
}

/// Spreads parts of GPUs: task k gets of GPU k. Of whole ones it leaves the choice to the cell.
struct Spreading;

impl Scheduler for Spreading {
    fn name(&self) -> &str {
        "blue"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let (mut decision, mut plan, mut ledger) = (Decision::default(), Plan::incremental(), view.ledger());
        for work in view.work() {
            for &task in &work.tasks {
                let millis = work.shape().devices[0].millis;
                let named = if millis < 1000 { Vec::from(gpu(task, millis)) } else { Vec::new() };
                if ledger.take_named(work, 0, &named, &[]) {
                    plan.claim(work, &[task], &[0]).devices(task, &named);
                } else {
                    decision.pass_over(work, 1, "no GPU is left");
                }
            }
        }
        decision.commit(plan);
        decision
    }
}

// The ledger had both halves on the one GPU that the cell would choose, and the whole one was claimed, and refused as a misfit.
#[test]
fn devices_that_a_plan_names_are_taken_in_its_ledger() {
    let mut stage = Stage::new();
    stage.machine_with_gpus("m0", 4000, &[], 2);
    let halves = stage.submit(&JobBuilder::new("halves", "blue").group("main", 2, 100).gpu(500));
    let whole = stage.submit(&JobBuilder::new("whole", "blue").group("main", 1, 100).gpu(1000));
    let seat = stage.seat(Spreading);
    stage.advance(1_000_000);
    assert_eq!((stage.placed(halves).len(), stage.placed(whole).len()), (2, 0));
    assert_eq!(stage.passed_over(whole, 0), "no GPU is left");
    assert_eq!(stage.runtime(seat).counters().claims_misfit, 0);
    stage.finish(halves, true);
    stage.advance(10_000);
    assert_eq!(stage.placed(whole), [(0, 0, 0)]);
}

/// Asks its ledger for what can't be had, before it claims what can.
struct Asking;

impl Scheduler for Asking {
    fn name(&self) -> &str {
        "blue"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let (mut decision, mut plan, mut ledger) = (Decision::default(), Plan::incremental(), view.ledger());
        for work in view.work() {
            assert!(!ledger.take_named(work, 0, &gpu(2, 600), &http(25_000)), "there is no such GPU");
            assert!(!ledger.take_named(work, 0, &gpu(1, 500), &http(25_000)), "it is less than the group declares");
            assert!(ledger.take_named(work, 0, &gpu(1, 600), &http(25_000)));
            assert!(!ledger.take_named(work, 0, &gpu(1, 600), &http(25_001)), "400 are left of it");
            assert!(!ledger.take_named(work, 0, &gpu(0, 600), &http(25_000)), "the port is spoken for");
            assert!(ledger.take_named(work, 0, &gpu(0, 600), &http(25_001)));
            plan.claim(work, &[0, 1], &[0, 0]).devices(0, &gpu(1, 600)).ports(0, &http(25_000));
            plan.devices(1, &gpu(0, 600)).ports(1, &http(25_001));
        }
        decision.commit(plan);
        decision
    }
}

#[test]
fn a_ledger_takes_named_devices_and_ports_only_where_these_are_left() {
    let mut stage = Stage::new();
    stage.machine_with_gpus("m0", 4000, &[], 2);
    let job = stage.submit(&JobBuilder::new("both", "blue").group("main", 2, 100).gpu(600).port("http", 0));
    let seat = stage.seat(Asking);
    assert_eq!(stage.placed(job), [(0, 0, 0), (0, 1, 0)]);
    assert_eq!(stage.runtime(seat).counters().claims_misfit, 0);
}

/// Asks its ledger for ports that its group has not, or not so, before it claims what it has.
struct Misnaming;

impl Scheduler for Misnaming {
    fn name(&self) -> &str {
        "blue"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let (mut decision, mut plan, mut ledger) = (Decision::default(), Plan::incremental(), view.ledger());
        let named = |ports: &[(&str, u16)]| -> Vec<Port> {
            ports.iter().map(|&(name, number)| Port { name: name.into(), number }).collect()
        };
        for work in view.work() {
            let mut takes = |ports: &[(&str, u16)]| ledger.take_named(work, 0, &[], &named(ports));
            assert!(!takes(&[("web", 25_000)]), "the group has no such port");
            assert!(!takes(&[("old", 8_081)]), "it has another number");
            assert!(!takes(&[("http", 8_080)]), "that is the other one's");
            assert!(!takes(&[("http", 25_000), ("admin", 25_000)]), "two ports can't have one number");
            let ports = [("http", 25_000), ("old", 8_080)];
            assert!(takes(&ports));
            plan.claim(work, &[0], &[0]).ports(0, &named(&ports));
        }
        decision.commit(plan);
        decision
    }
}

// The ledger took them, and the claim was refused as a misfit, after which its job rested.
#[test]
fn a_ledger_takes_no_ports_that_are_not_what_the_group_declares() {
    let mut stage = Stage::new();
    stage.machine("m0", 4000, &[]);
    let group = JobBuilder::new("ports", "blue").group("main", 1, 100);
    let job = stage.submit(&group.port("http", 0).port("admin", 0).port("old", 8_080));
    let seat = stage.seat(Misnaming);
    assert_eq!(stage.placed(job), [(0, 0, 0)]);
    assert_eq!(stage.runtime(seat).counters().claims_misfit, 0);
}
