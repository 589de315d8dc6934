//! What one transaction may cost, at sizes at which a square would take minutes.

use std::sync::Arc;

use plenum_model::{
    ClaimExtra, Command, Constraint, Decision, Device, FoundMachine, GroupShape, JobId, JobShape, MachineId, Operator,
    Placement, Preemption, RefusalReason, RejectionCode, Resource, Resources, SessionId, Transaction, VICTIMS_MAX,
};

use super::costs::{Large, placement};
use crate::{Core, CoreOptions, Decided};

/// A machine whose attributes no other one has.
fn numbered(large: &mut Large, number: u32) -> u32 {
    let command = Command::RegisterMachine(FoundMachine {
        name: format!("m{number}").into(),
        boot_id: "boot".into(),
        capacity: Resources::new(1_000_000, 1 << 40),
        attributes: Arc::new([("number".into(), number.to_string().into())].into_iter().collect()),
        seen: large.core.cell().revision(),
        ..FoundMachine::default()
    });
    let Decision::Accepted { id, .. } = large.ask(command) else { panic!("registering is accepted") };
    MachineId::from_bits(id).expect("an id").slot
}

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

#[test]
fn a_placement_names_so_many_victims_on_one_machine_and_no_more() {
    let mut large = Large::new(CoreOptions::default());
    let [machine, other] = ["m1", "m2"].map(|name| large.machine(name.to_owned()).slot);
    let low = large.job(GroupShape { count: 100, ..GroupShape::default() });
    let victims = large.commit(vec![placement(low, 0..100, |_| machine, 0)]).placements.concat();
    let high = large.job_at(90, GroupShape { count: 1, ..GroupShape::default() });
    let mut ask = |named: usize, last_is_on: u32| {
        let named = victims.iter().flatten().take(named);
        let mut preemptions: Vec<_> = named.map(|&victim| Preemption { machine, victim }).collect();
        preemptions.last_mut().expect("some are named").machine = last_is_on;
        let claim = Placement { preemptions, ..placement(high, 0..1, |_| machine, 0) };
        let base = large.core.cell().revision();
        let txn = Transaction { base, placements: vec![claim], dry_run: true, ..Transaction::default() };
        let Decided::Unchanged(decision) = large.decide_commit(txn) else { panic!("a dry run changes nothing") };
        decision
    };
    for accepted in [ask(VICTIMS_MAX, machine), ask(VICTIMS_MAX + 1, other)] {
        assert!(matches!(&accepted, Decision::Outcome(outcome) if outcome.granted() == 1), "{accepted:?}");
    }
    let Decision::Rejected(rejection) = ask(VICTIMS_MAX + 1, machine) else { panic!("it is rejected") };
    assert_eq!(rejection.code, RejectionCode::InvalidRequest);
    assert_eq!(rejection.message, "at most 64 victims of a placement on one machine; name fewer");
}

// All who hold room on a machine were ranked there, and all holds were copied by the first change after each snapshot.
#[test]
fn who_finds_room_beside_all_holds_is_not_ranked_among_them() {
    const HOLDERS: usize = 1024;
    // Of one scheduler, which may have half of all places.
    let mut large = Large::new(CoreOptions { holds_max: 2 * HOLDERS, ..CoreOptions::default() });
    let machines: Vec<_> = (0..2048).map(|number| large.machine(format!("m{number}")).slot).collect();
    let deadline = large.now.plus_micros(60_000_000);
    for _ in 0..HOLDERS {
        let job = large.job(GroupShape { count: 1, ..GroupShape::default() });
        let snapshot = large.core.cell().clone();
        large.hold(job, &machines, Resources::new(1, 1), deadline);
        assert!(snapshot.hold(job).is_none());
    }
    assert!(machines.iter().all(|&machine| large.core.cell().held_by(machine).len() == HOLDERS));
}

// Each claim that found no room looked up all holds that ended before it on its machine, and did so again when it was refused: 16,000 claims beside
// five hundred of them took seconds.
#[test]
fn holds_that_end_are_looked_up_once_for_all_claims_on_their_machine() {
    const HOLDERS: u32 = 256;
    const CLAIMS: u32 = 8000;
    let mut large = Large::new(CoreOptions::default());
    let [full, empty] = ["m1", "m2"].map(|name| large.machine(name.to_owned()).slot);
    let deadline = large.now.plus_micros(60_000_000);
    let holders: Vec<_> = (0..HOLDERS).map(|_| large.job(GroupShape { count: 1, ..GroupShape::default() })).collect();
    // Each of its tasks needs a whole machine, and its own hold is among those that end.
    let whole = Resources::new(1_000_000, 1);
    let last = large.job_at(0, GroupShape { count: CLAIMS, resources: whole, ..GroupShape::default() });
    holders.iter().for_each(|&job| large.hold(job, &[full], Resources::new(2, 2), deadline));
    large.hold(last, &[full], Resources::new(5, 5), deadline);
    let third = large.machine("m3".to_owned()).slot;
    let mut placements: Vec<_> = holders.iter().map(|&job| placement(job, 0..1, |_| empty, 0)).collect();
    placements.push(placement(last, 0..1, |_| third, 0));
    placements.push(placement(last, 1..CLAIMS, |_| full, 0));
    let outcome = large.commit(placements);
    // All that was held is free, and none of it twice: one more task has the machine.
    assert_eq!((outcome.granted(), outcome.refusals.len()), (HOLDERS as usize + 2, CLAIMS as usize - 2));
    let short = Some((Resource::CpuMillis, 1_000_000));
    assert!(outcome.refusals.iter().all(|refusal| (refusal.reason, refusal.short) == (RefusalReason::NoRoom, short)));
    assert_eq!(large.core.derived.promised.holds_looked_up.get(), u64::from(HOLDERS) + 1);
}

// All classes of machines were judged by all constraints of a job with its first claim, and by all partitions with the first one of a
// scheduler. This would be hundreds of millions of constraints.
#[test]
fn only_the_machines_that_are_claimed_on_are_judged() {
    const MACHINES: u32 = 16_384;
    let mut large = Large::new(CoreOptions::default());
    let machines: Vec<_> = (0..MACHINES).map(|number| numbered(&mut large, number)).collect();
    let any =
        || Constraint { attribute: "number".into(), operator: Operator::GreaterOrEqual, values: vec!["7".into()] };
    let constraints = vec![any(); 64];
    for number in (8..MACHINES).step_by(4) {
        let group = GroupShape { count: 2, constraints: constraints.clone(), ..GroupShape::default() };
        let job = large.job(group);
        let on = [machines[number as usize], machines[number as usize % 7]];
        let outcome = large.commit(vec![placement(job, 0..2, |task| on[task as usize], 0)]);
        assert_eq!((outcome.granted(), outcome.refusals.len()), (1, 1));
        assert_eq!(outcome.refusals[0].reason, RefusalReason::Constraint);
    }
}

// Each job that is pinned to a machine of its own kept two bits for each class of machines up to that one's: with 100,000 of them gigabytes.
#[test]
fn bitmaps_of_constraints_have_a_bound_and_those_that_are_forgotten_are_made_anew() {
    const MACHINES: u32 = 2048;
    const WORDS_MAX: usize = 4096;
    let mut large = Large::new(CoreOptions::default());
    large.core.derived.rules.sets.words_max = WORDS_MAX;
    let machines: Vec<_> = (0..MACHINES).map(|number| numbered(&mut large, number)).collect();
    let pinned_to = |number: u32| Constraint {
        attribute: "number".into(),
        operator: Operator::Equal,
        values: vec![number.to_string().into()],
    };
    let group = |number| GroupShape { count: 4, constraints: vec![pinned_to(number)], ..GroupShape::default() };
    let jobs: Vec<_> = (0..MACHINES).map(|number| large.job(group(number))).collect();
    let mut most = 0;
    for first in [0, 2] {
        for (number, &job) in jobs.iter().enumerate() {
            // Its own machine, and the next one.
            let on = |task: u32| machines[(number + (task % 2) as usize) % machines.len()];
            let outcome = large.commit(vec![placement(job, first..first + 2, on, 0)]);
            assert_eq!((outcome.granted(), outcome.refusals.len()), (1, 1));
            assert_eq!((outcome.refusals[0].task, outcome.refusals[0].reason), (first + 1, RefusalReason::Constraint));
            most = most.max(large.core.derived.rules.sets.check_words());
        }
    }
    assert!((WORDS_MAX / 2..=WORDS_MAX).contains(&most), "{most}");
    // Whoever leaves takes what it has along.
    for &job in &jobs {
        large.ask(Command::StopJob { job, version: None });
    }
    assert_eq!(large.core.derived.rules.sets.check_words(), 0);
}

/// A job of one task in each group, which these constraints are of.
fn of_groups<const GROUPS: usize>(large: &mut Large, name: &str, constraints: [Vec<Constraint>; GROUPS]) -> JobId {
    let group = |(number, constraints): (usize, Vec<Constraint>)| GroupShape {
        name: format!("g{number}").into(),
        count: 1,
        resources: Resources::new(1, 1),
        constraints,
        ..GroupShape::default()
    };
    let shape = JobShape {
        namespace: "default".into(),
        name: name.into(),
        scheduler: "batch".into(),
        groups: constraints.into_iter().enumerate().map(group).collect(),
        ..JobShape::default()
    };
    large.submit(Command::submit(shape))
}

// Each hold, and each renewal of one, judged all constraints of its job anew on each machine that differs: seconds for one command.
#[test]
fn a_hold_goes_by_what_claims_have_judged_and_they_by_what_it_has() {
    let mut large = Large::new(CoreOptions::default());
    let machines: Vec<_> = (0..4).map(|number| numbered(&mut large, number)).collect();
    let below =
        |value: &str| Constraint { attribute: "number".into(), operator: Operator::Less, values: vec![value.into()] };
    let id = of_groups(&mut large, "gang", ["2", "3", "9"].map(|value| vec![below(value)]));
    let deadline = large.now.plus_micros(60_000_000);
    large.hold(id, &machines[..3], Resources::new(1, 1), deadline);
    // Whether it is known by now that tasks of a group may run on a machine.
    let Core { cell, derived, .. } = &mut large.core;
    let job = cell.job(id).expect("it is there").clone();
    let mut is_known = |group: u16, machine: u32| {
        let rule = (group, &job.shape.groups[usize::from(group)].constraints[..]);
        let classes = derived.rules.classes(cell, &job, rule, std::iter::empty());
        classes.contains(cell.machine_row(machines[machine as usize]).expect("it is there").class)
    };
    assert!(is_known(0, 0) && is_known(0, 1) && is_known(1, 2));
    assert!((0..4).all(|machine| !is_known(2, machine)), "what suits an earlier group is not judged for later ones");
}

#[test]
fn room_is_held_where_tasks_of_some_group_may_run_and_nowhere_else() {
    let mut large = Large::new(CoreOptions::default());
    let machines: Vec<_> = (0..4).map(|number| numbered(&mut large, number)).collect();
    let below = |value: &str| {
        vec![Constraint { attribute: "number".into(), operator: Operator::Less, values: vec![value.into()] }]
    };
    let bound = of_groups(&mut large, "bound", [below("1"), below("3")]);
    let free = of_groups(&mut large, "free", [below("1"), Vec::new()]);
    let take = |large: &mut Large, job, machine: usize| {
        let deadline = large.now.plus_micros(60_000_000);
        let (session, machines) = (SessionId::default(), vec![machines[machine]]);
        large.ask(Command::TakeHold { session, job, machines, resources: Resources::new(1, 1), deadline })
    };
    assert!(matches!(take(&mut large, bound, 2), Decision::Accepted { .. }), "one group may run there");
    let refused = take(&mut large, bound, 3);
    let Decision::Rejected(why) = &refused else { panic!("{refused:?}") };
    assert_eq!(
        (why.code, &*why.message),
        (RejectionCode::NoRoomToHold, "m3 breaks the constraints of each group of bound")
    );
    assert!(matches!(take(&mut large, free, 3), Decision::Accepted { .. }), "a group without any may run anywhere");
}
