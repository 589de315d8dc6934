//! Refusals of a wrong kind, where neither culprits nor sums show it: what was lost since the base and is called a misfit, or *stale*.

use plenum_checker::calls::Reply;
use plenum_checker::picture::slot_of;
use plenum_checker::properties::property_culprits_are_true;
use plenum_proto::v1::{self, RefusalKind, RefusalReason};
use plenum_testkit::JobBuilder;

use crate::bench::{Bench, machine};
use crate::forged::chronicle;

/// A machine, a job with three tasks, and who claims them.
pub(crate) struct Scene {
    pub(crate) bench: Bench,
    pub(crate) machine: u64,
    pub(crate) session: u64,
    number: u64,
    pub(crate) job: u64,
    pub(crate) base: u64,
}

/// The machine as its agent finds it.
pub(crate) fn found_in(rack: &str) -> v1::RegisterMachine {
    let mut found = machine("m1", 6000, &[("rack", rack)]);
    found.devices = vec![v1::Device { kind: "gpu".into(), index: 0, millis: 1000, model: "a".into() }];
    found
}

impl Scene {
    pub(crate) fn new(declare: fn(&mut v1::GroupShape)) -> Self {
        let mut bench = Bench::new();
        let machine = bench.machine(found_in("r1"));
        let session = bench.session("batch");
        let mut spec = JobBuilder::new("job", "batch").group("main", 3, 100).spec();
        declare(&mut spec.shape.as_mut().unwrap().groups[0]);
        let job = bench.submit(spec);
        let base = bench.revision();
        Self { bench, machine, session, number: 0, job, base }
    }

    /// Claims a task on the base; the refusal, if there is one.
    pub(crate) fn claim(&mut self, task: u32) -> Option<v1::Refusal> {
        self.claim_with(task, |_| ()).refusals.first().cloned()
    }

    /// Claims a task on the base, and asks for more.
    pub(crate) fn claim_with(&mut self, task: u32, change: impl Fn(&mut v1::Transaction)) -> v1::Outcome {
        self.number += 1;
        let machines = vec![slot_of(self.machine)];
        let placement =
            v1::Placement { job: self.job, job_version: 1, machines, tasks: vec![task], ..v1::Placement::default() };
        let mut asked = v1::Transaction {
            session: self.session,
            number: self.number,
            base_revision: self.base,
            placements: vec![placement],
            ..v1::Transaction::default()
        };
        change(&mut asked);
        self.bench.commit("batch", asked).unwrap()
    }

    /// What the checker says when the last refusal is told as one of this kind, which blames nobody.
    fn told_as(&self, kind: RefusalKind) -> Vec<String> {
        self.checked(|refusal| {
            refusal.set_kind(kind);
            (refusal.culprits, refusal.culprits_total) = (Vec::new(), 0);
        })
    }

    pub(crate) fn checked(&self, change: impl Fn(&mut v1::Refusal)) -> Vec<String> {
        let mut evidence = self.bench.evidence.clone();
        if let Some(Reply::Outcome(outcome)) = evidence.calls.last_mut().map(|call| &mut call.reply) {
            outcome.refusals.iter_mut().for_each(change);
        }
        let decided: Vec<_> = evidence.decided().collect();
        let found = property_culprits_are_true(&chronicle(&evidence), &decided);
        found.iter().map(ToString::to_string).collect()
    }
}

/// What happens after the base, and makes the claim of this task a conflict.
fn check(declare: fn(&mut v1::GroupShape), happens: fn(&mut Scene), task: u32, reason: RefusalReason, sign: &str) {
    let mut scene = Scene::new(declare);
    happens(&mut scene);
    let refusal = scene.claim(task).expect("somebody came first");
    assert_eq!((refusal.kind(), refusal.reason()), (RefusalKind::Conflict, reason), "{refusal:?}");
    assert_eq!(scene.checked(|_| ()), [""; 0]);
    let denied = scene.told_as(RefusalKind::Misfit);
    assert!(matches!(&denied[..], [one] if one.contains(sign)), "{reason:?}: {denied:?}");
    let stale = scene.told_as(RefusalKind::Stale);
    assert!(matches!(&stale[..], [one] if one.contains("none of which is forgotten")), "{reason:?}: {stale:?}");
    // Who has seen it has a misfit.
    scene.base = scene.bench.revision();
    let refusal = scene.claim(task).expect("it stands there still");
    assert_eq!((refusal.kind(), refusal.reason()), (RefusalKind::Misfit, reason), "{refusal:?}");
    assert_eq!(scene.checked(|_| ()), [""; 0]);
}

#[test]
fn a_task_that_was_taken_since_is_no_misfit_and_not_forgotten() {
    let takes = |scene: &mut Scene| assert_eq!(scene.claim(0), None);
    check(|_| (), takes, 0, RefusalReason::TaskTaken, "has the task since");
}

#[test]
fn a_machine_that_was_ready_is_no_misfit_and_not_forgotten() {
    let cordons = |scene: &mut Scene| scene.bench.cordon(scene.machine, true);
    check(|_| (), cordons, 0, RefusalReason::MachineNotReady, "was ready at its base");
}

#[test]
fn a_machine_that_was_there_is_no_misfit_and_not_forgotten() {
    let removes = |scene: &mut Scene| scene.bench.remove(scene.machine);
    check(|_| (), removes, 0, RefusalReason::NoSuchMachine, "was there at its base");
}

#[test]
fn a_constraint_that_held_is_no_misfit_and_not_forgotten() {
    let needs = |group: &mut v1::GroupShape| {
        let spec = JobBuilder::new("job", "batch").group("main", 1, 100).on("rack", "r1").spec();
        group.constraints.clone_from(&spec.shape.unwrap().groups[0].constraints);
    };
    let moves = |scene: &mut Scene| assert_eq!(scene.bench.machine(found_in("r2")), scene.machine);
    check(needs, moves, 0, RefusalReason::Constraint, "held there at its base");
}

#[test]
fn limits_that_were_not_reached_are_no_misfits_and_not_forgotten() {
    let takes = |scene: &mut Scene| assert_eq!(scene.claim(0), None);
    check(|group| group.per_machine = 1, takes, 1, RefusalReason::PerMachineLimit, "of its group were there");
    let spreads = |group: &mut v1::GroupShape| group.spread.push(v1::Spread { attribute: "rack".into(), at_most: 1 });
    check(spreads, takes, 1, RefusalReason::SpreadLimit, "few of its group");
}

#[test]
fn a_device_that_was_free_is_no_misfit_and_not_forgotten() {
    let needs = |group: &mut v1::GroupShape| {
        group.devices.push(v1::Device { kind: "gpu".into(), millis: 600, ..v1::Device::default() });
    };
    let takes = |scene: &mut Scene| assert_eq!(scene.claim(0), None);
    check(needs, takes, 1, RefusalReason::DeviceTaken, "1 gpu were free");
}

#[test]
fn what_came_before_a_server_opened_the_cell_may_be_forgotten() {
    let mut scene = Scene::new(|_| ());
    scene.bench.cordon(scene.machine, true);
    scene.bench.restart();
    let refusal = scene.claim(0).expect("the machine takes none");
    assert_eq!(refusal.kind(), RefusalKind::Stale, "{refusal:?}");
    assert_eq!(scene.checked(|_| ()), [""; 0]);
}
