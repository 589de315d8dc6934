//! Stories of refused claims: of which kind they are, and who is to blame.

use std::sync::Arc;

use plenum_model::{
    ClaimExtra, Command, Constraint, Decision, Device, FoundMachine, GroupShape, JobId, JobShape, MachineId, Operator,
    Outcome, Placement, Port, Preemption, Refusal, RefusalKind, RefusalReason, Resources, Revision, Transaction,
};

use super::check;
use super::costs::{Large, complete, placement};
use crate::CoreOptions;
use crate::invariants::{Violation, invariant_conflicts_name_their_culprits};

// Who named whom to take over from, and came second, was told that the claim had never fitted.
#[test]
fn room_that_was_to_be_taken_over_and_went_to_somebody_else_is_a_conflict() {
    check(
        "
        machine m1 cpu=1000
        job old by service tasks=1 cpu=1000
        job a by batch tasks=1 cpu=1000
        job b by ml tasks=1 cpu=1000
        service: claim old[0]@m1
        stopjob old
        snapshot
        batch: claim a[0]@m1 over=old[0]
        ml: claim b[0]@m1 over=old[0]
        ",
        "
        service: committed; old[0] granted
        batch: committed; a[0] granted over old[0] 1000
        ml: refused; b[0] conflict NoRoom short cpu_millis 1000 culprits batch 1000 total 1000
        ",
    );
}

#[test]
fn a_device_that_was_to_be_taken_over_and_went_to_somebody_else_is_a_conflict() {
    check(
        "
        machine m1 cpu=4000 gpus=1
        job old by service tasks=1 cpu=1000 gpus=1000
        job a by batch tasks=1 cpu=1000 gpus=1000
        job b by ml tasks=1 cpu=1000 gpus=1000
        service: claim old[0]@m1
        stopjob old
        snapshot
        batch: claim a[0]@m1 over=old[0]
        ml: claim b[0]@m1 over=old[0]
        ",
        "
        service: committed; old[0] granted gpu0:1000
        batch: committed; a[0] granted over old[0] 0 gpu0:1000 gpu0:1000
        ml: refused; b[0] conflict DeviceTaken short gpu 1000 culprits batch 1000 total 1000
        ",
    );
}

// A victim of another machine counted as room that the machine had at the base, and whoever came last there was blamed.
#[test]
fn a_victim_on_another_machine_gives_no_room() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        job old by batch tasks=1 cpu=400
        job low by batch tasks=2 cpu=1000 prio=10
        job high by ml tasks=1 cpu=1000 prio=90
        batch: claim old[0]@m1
        batch: claim low[0]@m2
        snapshot
        report old[0] complete
        batch: claim low[1]@m1
        ml: claim high[0]@m1 victim=low[0]@m1
        ",
        "
        batch: committed; old[0] granted
        batch: committed; low[0] granted
        batch: committed; low[1] granted
        ml: refused; high[0] misfit NoRoom short cpu_millis 1000
        ",
    );
}

// Of two parts of one device that were handed over one counted as given back, and so the machine as fuller at the base than it was.
#[test]
fn a_device_that_was_handed_over_in_parts_was_not_free_after_its_first_tenant() {
    check(
        "
        machine m1 cpu=5000 gpus=2
        job low by batch tasks=4 cpu=1400 gpus=300,300 prio=10
        job high by ml tasks=1 cpu=500 gpus=1000 prio=90
        batch: claim low[0]@m1 low[1]@m1 low[2]@m1
        report low[1] complete
        snapshot
        ml: claim high[0]@m1 victim=low[0]
        report low[0] stopped
        batch: claim low[3]@m1
        ",
        "
        batch: committed; low[0] granted gpu0:300 gpu0:300; low[1] granted gpu0:300 gpu1:300; low[2] granted gpu1:300 gpu1:300
        ml: committed; high[0] granted over low[0] 0 gpu0:600 gpu0:1000
        batch: refused; low[3] conflict DeviceTaken short gpu 200 culprits ml 1000 total 1000
        ",
    );
}

// The hold of the very scheduler whose claim it was counted as what came between.
#[test]
fn a_machine_that_somebody_else_changed_is_not_blamed_on_an_own_hold() {
    check(
        "
        machine m1 cpu=8000
        job gang by ml tasks=2 cpu=3000
        job web by service tasks=1 cpu=1000
        ml: claim gang[1]@m1
        snapshot
        service: claim web[0]@m1
        hold gang m1 cpu=3000 for=10
        ml: claim gang[0]@m1 sequence
        ",
        "
        ml: committed; gang[1] granted
        service: committed; web[0] granted
        ml: refused; gang[0] conflict MachineChanged culprits service 0 total 0
        ",
    );
}

// As another one was free, the claim was said to lack nothing of it, and never to have fitted.
#[test]
fn a_named_device_that_was_taken_since_the_base_is_a_conflict_with_who_took_it() {
    let gpu = |index| Device { kind: "gpu".into(), index, millis: 1000, model: "".into() };
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine_with("m".into(), vec![gpu(0), gpu(1)]);
    let jobs = [0; 3].map(|_| large.job(GroupShape { count: 1, devices: vec![gpu(0)], ..GroupShape::default() }));
    let base = large.core.cell().revision();
    let claim = |job, index| {
        let extras = vec![ClaimExtra { devices: vec![gpu(index)], ..ClaimExtra::default() }];
        let placements = vec![Placement { extras, ..placement(job, 0..1, |_| machine.slot, 0) }];
        Transaction { base, placements, ..Transaction::default() }
    };
    let taker = large.commit_on(claim(jobs[0], 0));
    let told = |large: &mut Large, index| {
        let outcome = large.commit_on(claim(jobs[1], index));
        let refusal = outcome.refusals[0].clone();
        let culprits: Vec<_> = refusal.culprits.iter().map(|culprit| culprit.revision).collect();
        (refusal.kind, refusal.short_device, culprits)
    };
    let short_by = |millis| Some((Arc::<str>::from("gpu"), millis));
    assert_eq!(told(&mut large, 0), (RefusalKind::Conflict, short_by(1000), vec![taker.revision]));
    assert_eq!(told(&mut large, 7), (RefusalKind::Misfit, short_by(1000), Vec::new()), "there never was one");
}

// Whoever took any device of the kind last was blamed, and who had taken those of the model was not named.
#[test]
fn a_device_of_a_model_is_lost_to_who_took_one_of_that_model() {
    let gpu = |index, model: &str| Device { kind: "gpu".into(), index, millis: 1000, model: model.into() };
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine_with("m".into(), vec![gpu(0, "a100"), gpu(1, "h100")]);
    let jobs = ["a100", "h100", "a100", ""].map(|model| {
        let shape = GroupShape { count: 1, devices: vec![gpu(0, model)], ..GroupShape::default() };
        large.job(shape)
    });
    let base = large.core.cell().revision();
    let mut claim = |job| {
        let placements = vec![placement(job, 0..1, |_| machine.slot, 0)];
        large.commit_on(Transaction { base, placements, ..Transaction::default() })
    };
    let [of_model, other, lost, any] = jobs.map(&mut claim);
    let blamed = |outcome: &Outcome| -> Vec<_> {
        assert_eq!(outcome.refusals[0].kind, RefusalKind::Conflict);
        outcome.refusals[0].culprits.iter().map(|culprit| culprit.revision).collect()
    };
    assert_eq!((blamed(&lost), blamed(&any)), (vec![of_model.revision], vec![other.revision]));
}

// The one of any model was pushed onto the only one of the other's, of which nobody had taken any: the claim was said never to have fitted.
#[test]
fn a_device_of_any_model_beside_one_of_a_model_is_lost_to_who_took_the_other_that_there_was() {
    let gpu = |index, model: &str| Device { kind: "gpu".into(), index, millis: 1000, model: model.into() };
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine_with("m".into(), vec![gpu(0, "b"), gpu(1, "a")]);
    let mut job = |devices| large.job(GroupShape { count: 1, devices, ..GroupShape::default() });
    let (rival, both) = (job(vec![gpu(0, "b")]), job(vec![gpu(0, ""), gpu(0, "a")]));
    let base = large.core.cell().revision();
    let mut claim = |job| {
        let placements = vec![placement(job, 0..1, |_| machine.slot, 0)];
        large.commit_on(Transaction { base, placements, ..Transaction::default() })
    };
    let (won, lost) = (claim(rival), claim(both));
    let culprits: Vec<_> = lost.refusals[0].culprits.iter().map(|culprit| culprit.revision).collect();
    assert_eq!((lost.refusals[0].kind, culprits), (RefusalKind::Conflict, vec![won.revision]));
}

// As one of any model was wanted, too, whoever took any last was blamed, without whom the claim would have lost as well.
#[test]
fn a_device_of_a_model_is_lost_to_who_took_one_of_that_model_also_beside_one_of_any() {
    let gpu = |index, model: &str| Device { kind: "gpu".into(), index, millis: 1000, model: model.into() };
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine_with("m".into(), vec![gpu(0, "b"), gpu(1, "b"), gpu(2, "a")]);
    let mut job = |devices| large.job(GroupShape { count: 1, devices, ..GroupShape::default() });
    let jobs = [job(vec![gpu(0, "a")]), job(vec![gpu(0, "b")]), job(vec![gpu(0, ""), gpu(0, "a")])];
    let base = large.core.cell().revision();
    let [of_model, _, lost] = jobs.map(|job| {
        let placements = vec![placement(job, 0..1, |_| machine.slot, 0)];
        large.commit_on(Transaction { base, placements, ..Transaction::default() })
    });
    let culprits: Vec<_> = lost.refusals[0].culprits.iter().map(|culprit| culprit.revision).collect();
    assert_eq!((lost.refusals[0].kind, culprits), (RefusalKind::Conflict, vec![of_model.revision]));
}

// Any other attribute that had changed made it a conflict, and nobody saw that a scheduler does not look at constraints.
#[test]
fn a_constraint_that_failed_at_the_base_already_is_a_misfit_whatever_else_changed() {
    let mut large = Large::new(CoreOptions::default());
    let register = |large: &mut Large, rack: &str, zone: &str| {
        let attributes = [("rack".into(), rack.into()), ("zone".into(), zone.into())];
        let command = Command::RegisterMachine(FoundMachine {
            name: "m".into(),
            boot_id: "boot".into(),
            capacity: Resources::new(1000, 1000),
            attributes: Arc::new(attributes.into_iter().collect()),
            seen: large.core.cell().revision(),
            ..FoundMachine::default()
        });
        let Decision::Accepted { id, .. } = large.ask(command) else { panic!("registering is accepted") };
        MachineId::from_bits(id).expect("an id").slot
    };
    let machine = register(&mut large, "r1", "z1");
    let is = |attribute: &str, value: &str| Constraint {
        attribute: attribute.into(),
        operator: Operator::Equal,
        values: vec![value.into()],
    };
    let mut job = |constraints| large.job(GroupShape { count: 1, constraints, ..GroupShape::default() });
    let (other_rack, here, both) =
        (job(vec![is("rack", "r2")]), job(vec![is("zone", "z1")]), job(vec![is("rack", "r2"), is("zone", "z1")]));
    let base = large.core.cell().revision();
    register(&mut large, "r1", "z2");
    let mut kind = |job| {
        let placements = vec![placement(job, 0..1, |_| machine, 0)];
        large.commit_on(Transaction { base, placements, ..Transaction::default() }).refusals[0].kind
    };
    let kinds = [other_rack, here, both].map(&mut kind);
    assert_eq!(kinds, [RefusalKind::Misfit, RefusalKind::Conflict, RefusalKind::Misfit]);
}

#[test]
fn a_task_that_ended_since_the_base_is_told_with_its_own_end_and_not_that_of_another_one() {
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine("m".into());
    let job = large.job(GroupShape { count: 3, ..GroupShape::default() });
    let claims = || vec![placement(job, 0..2, |_| machine.slot, 0)];
    let granted = large.commit(claims()).placements[0].clone();
    let base = large.core.cell().revision();
    let ended = [0, 1].map(|task| {
        large.ask(Command::ReportStatus(vec![complete(machine, granted[task].unwrap())]));
        large.core.cell().revision()
    });
    let outcome = large.commit_on(Transaction { base, placements: claims(), ..Transaction::default() });
    let told = |refusal: &Refusal| {
        let revisions: Vec<_> = refusal.culprits.iter().map(|culprit| culprit.revision).collect();
        (refusal.kind, refusal.culprits[0].event.to_string(), revisions)
    };
    let expected = ended.map(|revision| (RefusalKind::Conflict, "task".to_owned(), vec![revision]));
    assert_eq!(outcome.refusals.iter().map(told).collect::<Vec<_>>(), expected);
}

/// Of room, a device and a port: who took too little, who is elsewhere, who has nothing of it, and who was there at the base.
#[test]
fn a_conflict_whose_culprits_did_not_take_what_is_short_is_found() {
    let gpu = || Device { kind: "gpu".into(), index: 0, millis: 1000, model: "".into() };
    let mut large = Large::new(CoreOptions::default());
    let machines = ["m1", "m2"].map(|name| large.machine_with(name.to_owned(), vec![gpu()]).slot);
    let no_cpu = || GroupShape { count: 2, resources: Resources::new(0, 1), ..GroupShape::default() };
    let groups = || {
        [
            GroupShape { resources: Resources::new(900_000, 1), ..no_cpu() },
            GroupShape { devices: vec![gpu()], ..no_cpu() },
            GroupShape { ports: vec![Port { name: "http".into(), number: 80 }], ..no_cpu() },
        ]
    };
    let [takers, rivals] = [(); 2].map(|()| groups().map(|group| large.job_at(0, group)));
    let base = large.core.cell().revision();
    let on = |job, tasks| {
        let placements = vec![placement(job, tasks, |task| machines[task as usize], 0)];
        Transaction { base, placements, ..Transaction::default() }
    };
    let taken = takers.map(|job| large.commit_on(on(job, 0..2)).placements.concat());
    let before = large.core.cell().clone();
    for (number, (job, short_by)) in rivals.into_iter().zip([800_000, 1000, 1]).enumerate() {
        let txn = on(job, 0..1);
        let outcome = large.commit_on(txn.clone());
        let found = |change: &dyn Fn(&mut Refusal)| {
            let mut told = outcome.clone();
            change(&mut told.refusals[0]);
            invariant_conflicts_name_their_culprits(&before, &txn, &told)
        };
        assert_eq!(found(&|_| ()), Ok(()), "{:?}", outcome.refusals);
        let (revision, total) = (outcome.revision, short_by - 1);
        let too_small = Err(Violation::CulpritsTooSmall { revision, short_by, total });
        assert_eq!(found(&|refusal| refusal.culprits_total = total), too_small);
        let (elsewhere, has_none) = (taken[number][1], taken[(number + 1) % 3][0]);
        for allocation in [elsewhere, has_none].map(|id| id.expect("it was granted")) {
            let nothing = Err(Violation::CulpritTookNothing { revision, allocation });
            assert_eq!(found(&|refusal| refusal.culprits[0].allocation = Some(allocation)), nothing);
        }
        let not_later = Err(Violation::CulpritNotLater { revision, base });
        assert_eq!(found(&|refusal| refusal.culprits[0].revision = base), not_later);
    }
}

// Any task of the job that began to leave counted, and a scheduler that erred was sent around once more.
#[test]
fn a_claim_on_a_task_whose_predecessor_left_before_is_a_misfit_whatever_else_of_the_job_leaves() {
    check(
        "
        machine m1 cpu=8000
        job db by service tasks=2 cpu=100 single
        service: claim db[0]@m1 db[1]@m1
        service: stop db[0]
        snapshot
        service: stop db[1]
        service: claim db[0]@m1
        service: claim db[1]@m1
        ",
        "
        service: committed; db[0] granted; db[1] granted
        service: committed
        service: committed
        service: refused; db[0] misfit Predecessor
        service: refused; db[1] conflict Predecessor culprits leaving 0 total 0
        ",
    );
}

// Whatever of the job left last was blamed.
#[test]
fn of_several_that_left_a_claim_is_told_who_made_its_own_predecessor_leave() {
    check(
        "
        machine m1 cpu=8000
        machine m2 cpu=1000
        job db by service tasks=2 cpu=1000 prio=10 single
        job web by other tasks=1 cpu=1000 prio=90
        service: claim db[0]@m1 db[1]@m2
        snapshot
        other: claim web[0]@m2 victim=db[1]
        service: stop db[0]
        service: claim db[1]@m1
        ",
        "
        service: committed; db[0] granted; db[1] granted
        other: committed; web[0] granted over db[1] 1000
        service: committed
        service: refused; db[1] conflict Predecessor culprits other 0 total 0
        ",
    );
}

// That a job got its machine, that a group slept over a failure or was scaled: all of that counted, though nothing of it keeps a group from being
// done that was done at the base.
#[test]
fn a_claim_on_a_group_whose_predecessors_were_never_done_is_a_misfit() {
    let plays = |shares: &str, meanwhile: &str, said: &str| {
        let story = format!(
            "
            machine m1 cpu=4000
            job wc by batch tasks=1 cpu=1000 retry=3 {shares}
            group wc reduce after=main tasks=1 cpu=1000
            snapshot
            {meanwhile}
            batch: claim wc.reduce[0]@m1
            "
        );
        check(&story, &format!("{said}\nbatch: refused; wc.reduce[0] misfit NotWanted (group 0 is not done)"));
    };
    let granted = "batch: committed; wc[0] granted";
    plays("together", "batch: claim wc[0]@m1", granted);
    plays("", "batch: claim wc[0]@m1\nreport wc[0] failed 1", granted);
    plays("", "scale wc 2", "");
}

#[test]
fn a_claim_on_a_group_whose_predecessor_was_done_is_a_conflict_with_what_undid_that() {
    let plays = |shares: &str, meanwhile: &str| {
        let story = format!(
            "
            machine m1 cpu=4000
            machine m2 cpu=4000
            job wc by batch tasks=1 cpu=1000 {shares}
            group wc reduce after=main tasks=1 cpu=1000
            batch: claim wc[0]@m1
            report wc[0] complete
            snapshot
            {meanwhile}
            batch: claim wc.reduce[0]@m2
            "
        );
        let said = "
            batch: committed; wc[0] granted
            batch: refused; wc.reduce[0] conflict NotWanted (group 0 is not done) culprits undone 0 total 0
            ";
        check(&story, said);
    };
    plays("", "scale wc 2");
    plays("together", "expire m1\nwait 61");
}

// That the group slept over a failure counted as if it had been scaled.
#[test]
fn a_failure_is_to_blame_for_the_sleep_over_it_and_for_no_task_that_there_never_was() {
    check(
        "
        machine m1 cpu=4000
        job map by batch tasks=1 cpu=1000 retry=3
        job late by batch tasks=1 cpu=1000 retry=3 delay=5
        batch: claim map[0]@m1 claim late[0]@m1
        snapshot
        report map[0] failed 1
        report late[0] failed 1
        batch: claim map[1]@m1
        batch: claim late[0]@m1
        ",
        "
        batch: committed; map[0] granted; late[0] granted
        batch: refused; map[1] misfit NotWanted (no such task)
        batch: refused; late[0] conflict NotWanted (waits after a failure until 1970-01-01T00:00:06Z) culprits backoff 0 total 0
        ",
    );
}

// Whatever the group was scaled to counted, and a scheduler that claims tasks that never were was sent around once more.
#[test]
fn scaling_that_took_no_such_task_away_is_no_reason_for_a_conflict() {
    let plays = |before: &str, meanwhile: &str, task: u32, told: &str| {
        let story = format!(
            "
            machine m1 cpu=4000
            job map by batch tasks=4 cpu=1000
            {before}
            snapshot
            {meanwhile}
            batch: claim map[{task}]@m1
            "
        );
        check(&story, &format!("batch: refused; map[{task}] {told}"));
    };
    let misfit = "misfit NotWanted (no such task)";
    let conflict = "conflict NotWanted (no such task) culprits group 0 total 0";
    plays("scale map 1", "scale map 2", 5, misfit);
    plays("scale map 3", "scale map 2", 3, misfit);
    plays("", "scale map 3\nscale map 2", 3, conflict);
    plays("", "scale map 6\nscale map 2", 3, conflict);
}

// That it sleeps longer counted as if it had been awake.
#[test]
fn a_group_that_slept_at_the_base_lost_nothing_by_sleeping_longer_until_it_would_be_awake() {
    let plays = |seconds: u32, told: &str| {
        let story = format!(
            "
            machine m1 cpu=4000
            job late by batch tasks=2 cpu=2000 retry=3 delay=5
            batch: claim late[0]@m1 late[1]@m1
            report late[0] failed 1
            snapshot
            wait 1
            report late[1] failed 1
            wait {seconds}
            batch: claim late[0]@m1
            "
        );
        let said = format!(
            "
            batch: committed; late[0] granted; late[1] granted
            batch: refused; late[0] {told}
            "
        );
        check(&story, &said);
    };
    let asleep = "NotWanted (waits after a failure until 1970-01-01T00:00:07Z)";
    plays(0, &format!("misfit {asleep}"));
    plays(3, &format!("misfit {asleep}"));
    plays(4, &format!("conflict {asleep} culprits backoff 0 total 0"));
}

// Only the first of them that is not done was looked at.
#[test]
fn a_claim_on_a_group_of_whose_predecessors_one_was_never_done_is_a_misfit_whatever_became_of_the_others() {
    let plays = |of_b: &str, granted: &str, told: &str| {
        let story = format!(
            "
            machine m1 cpu=4000
            job wc by batch tasks=1 cpu=1000
            group wc b tasks=1 cpu=1000
            group wc reduce after=main,1 tasks=1 cpu=1000
            batch: claim wc[0]@m1
            report wc[0] complete
            {of_b}
            snapshot
            scale wc 2
            batch: claim wc.reduce[0]@m1
            "
        );
        let said = format!(
            "
            batch: committed; wc[0] granted
            {granted}
            batch: refused; wc.reduce[0] {told}
            "
        );
        check(&story, &said);
    };
    let waits = "NotWanted (group 0 is not done)";
    plays("", "", &format!("misfit {waits}"));
    let done = "batch: claim wc.b[0]@m1\nreport wc.b[0] complete";
    plays(done, "batch: committed; wc.b[0] granted", &format!("conflict {waits} culprits undone 0 total 0"));
}

// The newest change of the machine was named, whatever it was about.
#[test]
fn a_failed_guard_names_what_made_it_fail_since_the_base() {
    check(
        "
        machine m1 cpu=4000 rack=r1
        machine m2 cpu=4000 rack=r0
        job web by service tasks=1 cpu=1000
        job map by service tasks=1 cpu=1000
        snapshot
        service: claim map[0]@m1 guard=version:web:7
        cordon m1
        service: claim web[0]@m1 guard=rack:m1:r0
        machine m2 cpu=4000 rack=r1
        cordon m2
        service: claim web[0]@m1 guard=rack:m2:r0
        machine m3 cpu=4000 rack=r1
        service: claim web[0]@m1 guard=rack:m3:r0
        remove m2
        service: claim web[0]@m1 guard=rack:m2:r0
        stopjob web
        job web by service tasks=2 cpu=1000
        service: claim map[0]@m1 guard=version:web:1
        ",
        "
        service: refused; map[0] guard GuardFailed
        service: refused; web[0] guard GuardFailed
        service: refused; web[0] guard GuardFailed culprits attributes 0 total 0
        service: refused; web[0] guard GuardFailed culprits registered 0 total 0
        service: refused; web[0] guard GuardFailed culprits removed 0 total 0
        service: refused; map[0] guard GuardFailed culprits submitted 0 total 0
        ",
    );
}

// Whoever had the slot after it and was gone as well was named.
#[test]
fn a_guard_on_what_is_gone_is_told_of_its_own_end_and_not_of_the_next_tenants() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000 rack=r0
        job web by service tasks=1 cpu=1000
        job old by service tasks=1 cpu=1000
        most finished-jobs 0
        snapshot
        remove m2
        machine m9 cpu=4000 rack=r1
        service: claim web[0]@m1 guard=rack:m2:r0
        remove m9
        service: claim web[0]@m1 guard=rack:m2:r0
        stopjob old
        wait 1
        job new by service tasks=1 cpu=1000
        service: claim web[0]@m1 guard=id:job-1-1:1
        stopjob new
        wait 1
        job? new
        service: claim web[0]@m1 guard=id:job-1-1:1
        ",
        "
        service: refused; web[0] guard GuardFailed culprits removed 0 total 0
        service: refused; web[0] guard GuardFailed
        service: refused; web[0] guard GuardFailed culprits retired 0 total 0
        new gone
        service: refused; web[0] guard GuardFailed
        ",
    );
}

/// Kind and culprit of the refusal of one claim on task 0 of this version of a job, on this base. A misfit must be a divergence, whatever happened
/// since.
fn refused(large: &mut Large, (job, job_version): (JobId, u32), base: Revision) -> (RefusalKind, Option<Revision>) {
    let placements = vec![Placement { job_version, ..placement(job, 0..1, |_| 0, 0) }];
    let outcome = large.commit_on(Transaction { base, placements, ..Transaction::default() });
    let [refusal] = &outcome.refusals[..] else { panic!("one is refused: {outcome:?}") };
    assert!(matches!(refusal.reason, RefusalReason::NoSuchJob | RefusalReason::JobVersion), "{refusal:?}");
    let divergences = if refusal.kind == RefusalKind::Misfit { vec![0] } else { Vec::new() };
    assert_eq!(outcome.divergences, divergences, "{refusal:?}");
    (refusal.kind, refusal.culprits.first().map(|culprit| culprit.revision))
}

// Whoever had the slot of a job next was blamed for its end, by its submission or by its own end, also where the job was gone at the base.
#[test]
fn a_claim_on_a_job_that_is_gone_is_told_of_that_jobs_own_end() {
    let mut large = Large::new(CoreOptions { finished_jobs_max: 0, ..CoreOptions::default() });
    large.machine("m1".to_owned());
    let one = || GroupShape { count: 1, ..GroupShape::default() };
    let retire = |large: &mut Large, job| {
        large.ask(Command::StopJob { job, version: None });
        large.ask(Command::Tick);
        assert_eq!(large.core.cell().job(job), None, "it is retired");
        large.core.cell().revision()
    };
    let old = large.job(one());
    let before = large.core.cell().revision();
    let end = retire(&mut large, old);
    let next = large.job(one());
    assert_eq!(next.slot, old.slot);
    assert_eq!(refused(&mut large, (old, 1), before), (RefusalKind::Conflict, Some(end)));
    assert_eq!(refused(&mut large, (old, 1), end), (RefusalKind::Misfit, None));
    let last = retire(&mut large, next);
    assert_eq!(refused(&mut large, (old, 1), before), (RefusalKind::Conflict, Some(end)));
    assert_eq!(refused(&mut large, (old, 1), end), (RefusalKind::Misfit, None));
    assert_eq!(refused(&mut large, (next, 1), end), (RefusalKind::Conflict, Some(last)));
    let never = JobId { generation: next.generation + 1, ..next };
    assert_eq!(refused(&mut large, (never, 1), end), (RefusalKind::Misfit, None));
}

// The submission of the newest version was blamed for the end of each one before.
#[test]
fn a_claim_on_an_earlier_version_of_a_job_is_told_of_the_end_of_that_one() {
    let mut large = Large::new(CoreOptions::default());
    large.machine("m1".to_owned());
    let group = GroupShape { name: "main".into(), count: 1, resources: Resources::new(1, 1), ..GroupShape::default() };
    let shape =
        JobShape { name: "again".into(), scheduler: "batch".into(), groups: vec![group], ..JobShape::default() };
    let shape = Arc::new(shape);
    let submit = |large: &mut Large| {
        let command = Command::submit(shape.clone());
        let Decision::Accepted { id, .. } = large.ask(command) else { panic!("submitting is accepted") };
        (JobId::from_bits(id).expect("an id"), large.core.cell().revision())
    };
    let start = large.core.cell().revision();
    let (job, first) = submit(&mut large);
    assert_eq!(refused(&mut large, (job, 0), start), (RefusalKind::Misfit, None), "no version comes before the first");
    large.ask(Command::StopJob { job, version: None });
    let (_, second) = submit(&mut large);
    large.ask(Command::StopJob { job, version: None });
    let (_, third) = submit(&mut large);
    assert_eq!(large.core.cell().job(job).map(|job| job.version), Some(3));
    assert_eq!(refused(&mut large, (job, 1), first), (RefusalKind::Conflict, Some(second)));
    assert_eq!(refused(&mut large, (job, 1), second), (RefusalKind::Misfit, None));
    assert_eq!(refused(&mut large, (job, 2), second), (RefusalKind::Conflict, Some(third)));
    assert_eq!(refused(&mut large, (job, 4), second), (RefusalKind::Misfit, None));
}

// Whoever gave up the machine before was blamed for what the transaction chose itself.
#[test]
fn a_claim_elsewhere_than_an_earlier_one_of_its_transaction_chose_is_a_misfit() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        job pair by batch tasks=2 cpu=1000 together
        batch: claim pair[0]@m1
        snapshot
        batch: stop pair[0]
        report pair[0] stopped
        batch: claim pair[0]@m1 pair[1]@m2
        divergences?
        ",
        "
        batch: committed; pair[0] granted
        batch: committed
        batch: partial; pair[0] granted; pair[1] misfit OtherMachine
        divergences [0]
        ",
    );
}

// Whoever had the device since was blamed where a victim that the claim names had ended: that one could have had anything.
#[test]
fn a_device_of_another_model_than_the_claim_names_was_taken_by_nobody() {
    let device = |millis, model: &str| Device { kind: "gpu".into(), index: 0, millis, model: model.into() };
    let group =
        |millis, model: &str| GroupShape { count: 1, devices: vec![device(millis, model)], ..GroupShape::default() };
    let refused_after = |before: &str, after: &str| {
        let mut large = Large::new(CoreOptions::default());
        let machine = large.machine_with("m1".to_owned(), vec![device(1000, before)]);
        let [low, other] = [(); 2].map(|()| large.job(group(1000, "")));
        let high = large.job_at(90, group(500, "a"));
        let claim = |job| placement(job, 0..1, |_| machine.slot, 0);
        let victim = large.commit(vec![claim(low)]).placements[0][0].expect("it is granted");
        let base = large.core.cell().revision();
        large.ask(Command::ReportStatus(vec![complete(machine, victim)]));
        if before == after {
            assert_eq!(large.commit(vec![claim(other)]).granted(), 1);
        } else {
            assert_eq!(large.machine_with("m1".to_owned(), vec![device(1000, after)]), machine);
        }
        let named = ClaimExtra { devices: vec![device(500, "a")], ..ClaimExtra::default() };
        let preemptions = vec![Preemption { machine: machine.slot, victim }];
        let placements = vec![Placement { extras: vec![named], preemptions, ..claim(high) }];
        let outcome = large.commit_on(Transaction { base, placements, ..Transaction::default() });
        let [refusal] = &outcome.refusals[..] else { panic!("there is one claim: {outcome:?}") };
        assert_eq!(refusal.reason, RefusalReason::DeviceTaken);
        let events: Vec<(&str, u64)> = refusal.culprits.iter().map(|one| (&*one.event, one.amount)).collect();
        (refusal.kind, format!("{events:?}"))
    };
    assert_eq!(refused_after("b", "b"), (RefusalKind::Misfit, "[]".to_owned()));
    assert_eq!(refused_after("a", "a").0, RefusalKind::Conflict, "it was taken");
    let (kind, events) = refused_after("a", "b");
    assert_eq!(
        (kind, events.ends_with(", 500)]")),
        (RefusalKind::Conflict, true),
        "its machine has another one since: {events}"
    );
}
