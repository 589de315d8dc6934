//! Refusals of a wrong kind, where neither culprits nor sums show it: what was lost since the base and is called a misfit, or *stale*, and what was so
//! before and is called a conflict; and conflicts that blame what never happened, or happened elsewhere.

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

/// What happens after the base, and makes the claim of this task a conflict. `signs`: of what is found where that is denied, and where a conflict is
/// made of what was so before.
fn check(
    declare: fn(&mut v1::GroupShape),
    happens: fn(&mut Scene),
    task: u32,
    reason: RefusalReason,
    signs: [&str; 2],
) {
    let mut scene = Scene::new(declare);
    scene.bench.submit(JobBuilder::new("elsewhere", "batch").group("main", 1, 100).spec());
    let elsewhere = scene.bench.revision();
    happens(&mut scene);
    let refusal = scene.claim(task).expect("somebody came first");
    assert_eq!((refusal.kind(), refusal.reason()), (RefusalKind::Conflict, reason), "{refusal:?}");
    assert_eq!(scene.checked(|_| ()), [""; 0]);
    let denied = scene.told_as(RefusalKind::Misfit);
    assert!(matches!(&denied[..], [one] if one.contains(signs[0])), "{reason:?}: {denied:?}");
    let stale = scene.told_as(RefusalKind::Stale);
    assert!(matches!(&stale[..], [one] if one.contains("none of which is forgotten")), "{reason:?}: {stale:?}");
    let blamed = |revision: u64, event: &str| {
        let found = scene.checked(|refusal| {
            let (event, amount) = (event.to_owned(), refusal.culprits_total);
            refusal.culprits = vec![v1::Culprit { revision, event, amount, ..v1::Culprit::default() }];
        });
        let sign = format!("called {event}");
        assert!(found.iter().any(|one| one.contains(&sign)), "{reason:?}: {found:?}");
    };
    blamed(elsewhere, "registered");
    blamed(refusal.culprits[0].revision, "expired");
    // Who has seen it has a misfit.
    scene.base = scene.bench.revision();
    let refusal = scene.claim(task).expect("it stands there still");
    assert_eq!((refusal.kind(), refusal.reason()), (RefusalKind::Misfit, reason), "{refusal:?}");
    assert_eq!(scene.checked(|_| ()), [""; 0]);
    let made_up = scene.told_as(RefusalKind::Conflict);
    assert!(made_up.iter().any(|one| one.contains(signs[1])), "{reason:?}: {made_up:?}");
}

#[test]
fn a_task_that_was_taken_since_is_no_misfit_and_not_forgotten() {
    let takes = |scene: &mut Scene| assert_eq!(scene.claim(0), None);
    check(|_| (), takes, 0, RefusalReason::TaskTaken, ["has the task since", "had the task at its base"]);
}

#[test]
fn a_machine_that_was_ready_is_no_misfit_and_not_forgotten() {
    let cordons = |scene: &mut Scene| scene.bench.cordon(scene.machine, true);
    check(|_| (), cordons, 0, RefusalReason::MachineNotReady, ["was ready at its base", "was CORDONED at its base"]);
}

#[test]
fn a_machine_that_was_there_is_no_misfit_and_not_forgotten() {
    let removes = |scene: &mut Scene| scene.bench.remove(scene.machine);
    check(|_| (), removes, 0, RefusalReason::NoSuchMachine, ["was there at its base", "no machine was there"]);
}

#[test]
fn a_constraint_that_held_is_no_misfit_and_not_forgotten() {
    let needs = |group: &mut v1::GroupShape| {
        let spec = JobBuilder::new("job", "batch").group("main", 1, 100).on("rack", "r1").spec();
        group.constraints.clone_from(&spec.shape.unwrap().groups[0].constraints);
    };
    let moves = |scene: &mut Scene| assert_eq!(scene.bench.machine(found_in("r2")), scene.machine);
    check(needs, moves, 0, RefusalReason::Constraint, ["held there at its base", "its rack was at its base"]);
}

#[test]
fn limits_that_were_not_reached_are_no_misfits_and_not_forgotten() {
    let takes = |scene: &mut Scene| assert_eq!(scene.claim(0), None);
    check(|group| group.per_machine = 1, takes, 1, RefusalReason::PerMachineLimit, ["of its group were there"; 2]);
    let spreads = |group: &mut v1::GroupShape| group.spread.push(v1::Spread { attribute: "rack".into(), at_most: 1 });
    check(spreads, takes, 1, RefusalReason::SpreadLimit, ["few of its group", "were where they are"]);
}

#[test]
fn a_device_that_was_free_is_no_misfit_and_not_forgotten() {
    let needs = |group: &mut v1::GroupShape| {
        group.devices.push(v1::Device { kind: "gpu".into(), millis: 600, ..v1::Device::default() });
    };
    let takes = |scene: &mut Scene| assert_eq!(scene.claim(0), None);
    check(needs, takes, 1, RefusalReason::DeviceTaken, ["1 gpu were free", "no gpu had 600 millis left"]);
}

// Anything that had happened anywhere was enough.
#[test]
fn what_is_said_of_a_job_and_never_was_is_found() {
    let mut scene = Scene::new(|_| ());
    assert_eq!(scene.claim(0), None);
    scene.base = scene.bench.revision();
    scene.bench.machine(machine("elsewhere", 6000, &[]));
    let elsewhere = scene.bench.revision();
    let allocation = scene.bench.core.cell().allocations().next().unwrap().id.to_bits();
    scene.bench.report(allocation, v1::AllocationState::Complete);
    let refusal = scene.claim(0).expect("it is done");
    assert_eq!((refusal.kind(), refusal.reason()), (RefusalKind::Conflict, RefusalReason::NotWanted), "{refusal:?}");
    assert_eq!((refusal.culprits[0].event.as_str(), scene.checked(|_| ())), ("task", Vec::new()));
    let blamed = |change: &dyn Fn(&mut v1::Culprit)| scene.checked(|refusal| change(&mut refusal.culprits[0]));
    let found = blamed(&|culprit| culprit.event = "over".into());
    assert!(matches!(&found[..], [one] if one.contains("called over")), "{found:?}");
    let found = blamed(&|culprit| culprit.revision = elsewhere);
    assert!(matches!(&found[..], [one] if one.contains("called task")), "{found:?}");
}

#[test]
fn a_transaction_or_a_grant_that_is_blamed_for_what_none_can_do_is_found() {
    let mut scene = Scene::new(|_| ());
    assert_eq!(scene.claim(0), None);
    let granted = scene.bench.core.cell().allocations().next().unwrap();
    let (allocation, revision) = (granted.id.to_bits(), granted.row.created.0);
    let (session, number) = (granted.row.session, u64::from(granted.row.number));
    scene.bench.cordon(scene.machine, true);
    let refusal = scene.claim(1).expect("it takes none");
    assert_eq!(refusal.reason(), RefusalReason::MachineNotReady, "{refusal:?}");
    for (allocation, sign) in [(0, "names no allocation"), (allocation, "took nothing that was in its way")] {
        let found = scene.checked(|refusal| {
            refusal.culprits = vec![v1::Culprit { revision, session, number, allocation, ..v1::Culprit::default() }];
        });
        assert!(matches!(&found[..], [one] if one.contains(sign)), "{found:?}");
    }
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

/// Whoever would hide a lost race could say that the scheduler was not permitted to have it: that was believed.
#[test]
fn a_permission_that_nobody_lacked_is_found() {
    let mut scene = Scene::new(|_| ());
    assert_eq!(scene.claim(0), None);
    scene.bench.cordon(scene.machine, true);
    scene.base = scene.bench.revision();
    let holder = scene.bench.core.cell().allocations().next().unwrap().id.to_bits();
    let evicts = v1::Preemption { machine: slot_of(scene.machine), victim: holder };
    let outcome = scene.claim_with(1, |asked| asked.placements[0].preemptions.push(evicts));
    assert_eq!((outcome.refusals[0].reason(), scene.checked(|_| ())), (RefusalReason::MachineNotReady, Vec::new()));
    let denied = |reason: RefusalReason| {
        scene.checked(|refusal| {
            refusal.set_kind(RefusalKind::Permission);
            refusal.set_reason(reason);
        })
    };
    let signs = [
        (RefusalReason::OtherScheduler, "batch places that job"),
        (RefusalReason::NotPermitted, "no partition keeps batch from m1"),
        (RefusalReason::MayNotEvict, "batch may evict"),
        (RefusalReason::OtherMachine, "no matter of permission"),
    ];
    for (reason, sign) in signs {
        let found = denied(reason);
        assert!(matches!(&found[..], [one] if one.contains(sign)), "{reason:?}: {found:?}");
    }
}

/// That it had come since the base was looked at, and not that it was there still.
#[test]
fn what_is_named_as_in_the_way_and_is_gone_again_is_found() {
    let needs = |group: &mut v1::GroupShape| {
        let spec = JobBuilder::new("job", "batch").group("main", 1, 100).on("rack", "r1").spec();
        group.constraints.clone_from(&spec.shape.unwrap().groups[0].constraints);
        group.per_machine = 1;
    };
    let mut scene = Scene::new(needs);
    assert_eq!(scene.claim(0), None);
    scene.base = scene.bench.revision();
    let refusal = scene.claim(1).expect("one is there");
    assert_eq!((refusal.reason(), scene.checked(|_| ())), (RefusalReason::PerMachineLimit, Vec::new()));
    for reason in [
        RefusalReason::NoSuchMachine,
        RefusalReason::MachineNotReady,
        RefusalReason::TaskTaken,
        RefusalReason::Constraint,
    ] {
        let found = scene.checked(|refusal| refusal.set_reason(reason));
        assert!(matches!(&found[..], [one] if one.contains("did not stand in its way")), "{reason:?}: {found:?}");
    }
    let mut scene = Scene::new(|group| group.per_machine = 1);
    scene.bench.cordon(scene.machine, true);
    scene.base = scene.bench.revision();
    scene.claim(0).expect("it takes no claims");
    let found = scene.checked(|refusal| refusal.set_reason(RefusalReason::PerMachineLimit));
    assert!(matches!(&found[..], [one] if one.contains("did not stand in its way")), "nobody is there: {found:?}");
}
