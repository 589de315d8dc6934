//! How often a task was started again within its allocation: agents count it, and the cell tells what they told last.

use plenum_model::{
    AllocationId, AllocationState, Command, Decision, Delta, FoundMachine, GroupShape, Inventory, MachineId, Placement,
    Preemption, Request, Resources, RetryPolicy, Transaction, Transition,
};

use super::costs::{Large, placement};
use crate::{CoreOptions, Decided};

/// A machine with one allocation for each of a job's two tasks, of which none may fail.
fn granted() -> (Large, MachineId, Vec<AllocationId>) {
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine("m1".to_owned());
    let retry = RetryPolicy { attempts: Some(0), delay_micros: 0 };
    let job = large.job(GroupShape { count: 2, retry, ..GroupShape::default() });
    let outcome = large.commit(vec![placement(job, 0..2, |_| machine.slot, 0)]);
    (large, machine, outcome.placements.concat().into_iter().flatten().collect())
}

fn told(machine: MachineId, allocation: AllocationId, state: AllocationState, restarts: u32) -> Transition {
    let (epoch, reason) = (1, "".into());
    let ready = state == AllocationState::Running;
    Transition { machine, epoch, allocation, state, ready, exit_code: 1, restarts, reason }
}

fn report(large: &mut Large, transitions: Vec<Transition>) -> Delta {
    change(large, Command::ReportStatus(transitions))
}

fn change(large: &mut Large, command: Command) -> Delta {
    let request = Request { principal: "local".into(), namespace: "default".into(), command };
    let Decided::Changed { decision, delta } = large.core.decide(&request, large.now) else { panic!("it changes") };
    assert!(matches!(decision, Decision::Accepted { .. }));
    delta
}

/// What the delta tells last of an allocation's restarts, and as what it counts there.
fn moved(delta: &Delta, id: AllocationId) -> Option<(AllocationState, bool, u32)> {
    let last = delta.moves.iter().rev().find(|change| change.slot == id.slot)?;
    Some((last.status.state, last.status.ready, last.restarts))
}

// A task that fails at once was started again and again before an agent told of the first restart; and the final row said that it never
// was.
#[test]
fn restarts_that_nobody_told_while_it_ran_come_with_the_end() {
    let (mut large, machine, ids) = granted();
    report(&mut large, vec![told(machine, ids[0], AllocationState::Running, 2)]);
    let delta = report(&mut large, vec![told(machine, ids[0], AllocationState::Failed, 5)]);
    assert_eq!(moved(&delta, ids[0]), Some((AllocationState::Running, true, 5)));
    assert_eq!(delta.ends.len(), 1);
    assert!(large.core.cell().allocation(ids[0]).is_none());
}

#[test]
fn an_end_that_tells_of_no_more_restarts_than_are_known_moves_nothing() {
    let (mut large, machine, ids) = granted();
    report(&mut large, vec![told(machine, ids[0], AllocationState::Running, 2)]);
    for (id, restarts) in [(ids[0], 2), (ids[1], 0)] {
        let delta = report(&mut large, vec![told(machine, id, AllocationState::Complete, restarts)]);
        assert_eq!((moved(&delta, id), delta.ends.len()), (None, 1));
    }
}

#[test]
fn restarts_of_the_end_that_counts_are_told_and_of_no_later_one() {
    let (mut large, machine, ids) = granted();
    let transitions = vec![
        told(machine, ids[0], AllocationState::Running, 1),
        told(machine, ids[0], AllocationState::Failed, 3),
        told(machine, ids[0], AllocationState::Failed, 9),
    ];
    let delta = report(&mut large, transitions);
    assert_eq!(moved(&delta, ids[0]), Some((AllocationState::Running, true, 3)));
    assert_eq!(moved(&delta, ids[1]).map(|seen| seen.0), Some(AllocationState::Stopping), "its job failed");
    assert_eq!(delta.ends.len(), 1);
}

// Read backwards, the one step said how often it was started again until its end, and nobody was told that it ran.
#[test]
fn an_end_in_the_report_of_another_step_tells_restarts_apart_from_it() {
    let (mut large, machine, ids) = granted();
    let transitions = vec![
        told(machine, ids[0], AllocationState::Running, 2),
        told(machine, ids[0], AllocationState::Complete, 2),
        told(machine, ids[1], AllocationState::Running, 0),
        told(machine, ids[1], AllocationState::Complete, 0),
    ];
    let delta = report(&mut large, transitions);
    let moves = |id: AllocationId| {
        let of_it = delta.moves.iter().filter(|change| change.slot == id.slot);
        of_it.map(|change| (change.status.state, change.restarts)).collect::<Vec<_>>()
    };
    assert_eq!(moves(ids[0]), [(AllocationState::Running, 2); 2]);
    assert_eq!(moves(ids[1]), [(AllocationState::Running, 0)]);
}

// After a boot the agent told of the ends that it found, and the final rows said that these tasks were never started again.
#[test]
fn a_receipt_that_comes_with_a_registration_tells_restarts() {
    let (mut large, machine, ids) = granted();
    report(&mut large, vec![told(machine, ids[1], AllocationState::Running, 4)]);
    let item = |allocation, state, restarts| Inventory {
        allocation,
        state,
        exit_code: 1,
        reason: "".into(),
        restarts,
        task: None,
    };
    let inventory = vec![item(ids[0], AllocationState::Complete, 3), item(ids[1], AllocationState::Running, 5)];
    let before = large.core.cell().machine(machine).expect("it is there").clone();
    let command = Command::RegisterMachine(FoundMachine {
        name: before.name.clone(),
        boot_id: "another".into(),
        capacity: *before.capacity,
        attributes: before.attributes.clone(),
        devices: before.devices.to_vec(),
        inventory,
        seen: large.core.cell().revision(),
    });
    let delta = change(&mut large, command);
    assert_eq!(moved(&delta, ids[0]).map(|(_, _, restarts)| restarts), Some(3));
    assert_eq!(
        moved(&delta, ids[1]),
        Some((AllocationState::Running, true, 5)),
        "also of one that was lost with the boot"
    );
    let ends: Vec<_> = delta.ends.iter().map(|end| end.state).collect();
    assert_eq!(ends, [AllocationState::Complete, AllocationState::EndedLost]);
}

// Who is evicted once is not evicted again for nobody.
#[test]
fn restarts_of_those_who_leave_come_with_their_end_too() {
    let (mut large, machine, ids) = granted();
    large.commit_on(Transaction {
        base: large.core.cell().revision(),
        stops: vec![ids[0]],
        placements: Vec::<Placement>::new(),
        ..Transaction::default()
    });
    let before = large.core.cell().clone();
    let delta = report(&mut large, vec![told(machine, ids[0], AllocationState::Failed, 4)]);
    assert_eq!(moved(&delta, ids[0]), Some((AllocationState::Stopping, false, 4)));
    assert_eq!(delta.ends[0].state, AllocationState::Stopped);
    let mut folded = before;
    folded.apply(&delta).expect("it folds");
    assert!(folded.allocation(ids[0]).is_none());
}

#[test]
fn who_is_told_to_leave_keeps_its_restarts() {
    let (mut large, machine, ids) = granted();
    report(&mut large, ids.iter().map(|&id| told(machine, id, AllocationState::Running, 3)).collect());
    let resources = Resources::new(1_000_000 - 1, 1);
    let high = large.job_at(90, GroupShape { count: 1, resources, ..GroupShape::default() });
    let preemptions = vec![Preemption { machine: machine.slot, victim: ids[0] }];
    let claim = Placement { preemptions, ..placement(high, 0..1, |_| machine.slot, 0) };
    let base = large.core.cell().revision();
    let txn = Transaction { base, stops: vec![ids[1]], placements: vec![claim], ..Transaction::default() };
    let decided = large.decide_commit(txn);
    let Decided::Changed { delta, .. } = &decided else { panic!("{decided:?}") };
    assert_eq!(moved(delta, ids[0]), Some((AllocationState::Evicting, false, 3)));
    assert_eq!(moved(delta, ids[1]), Some((AllocationState::Stopping, false, 3)));
    let cell = large.core.cell();
    let restarts: Vec<_> = ids.iter().map(|id| cell.extra(id.slot).map(|extra| extra.restarts)).collect();
    assert_eq!(restarts, [Some(3); 2]);
}

// It was answered like any other: an agent that took this for its receipt forgot how its task had ended, and the next one, which found no trace
// of it, started it a second time.
#[test]
fn a_report_says_how_much_of_it_is_of_an_epoch_that_is_over() {
    let (mut large, away, ids) = granted();
    let here = large.machine("m2".to_owned());
    large.ask(Command::ExpireMachine { machine: away, epoch: 1 });
    assert_eq!(large.machine("m1".to_owned()), away);
    let of_the_past = told(away, ids[0], AllocationState::Complete, 0);
    let report = |large: &mut Large, transitions| large.ask(Command::ReportStatus(transitions));
    assert_eq!(report(&mut large, vec![of_the_past.clone(); 2]), Decision::Accepted { id: 0, version: 2 });
    assert!(large.core.cell().allocation(ids[0]).is_some());

    let job = large.job(GroupShape { count: 1, ..GroupShape::default() });
    let other =
        large.commit(vec![placement(job, 0..1, |_| here.slot, 0)]).placements.concat()[0].expect("it is granted");
    let ends = told(here, other, AllocationState::Complete, 0);
    assert_eq!(report(&mut large, vec![of_the_past, ends]), Decision::Accepted { id: 0, version: 1 });
    assert!(large.core.cell().allocation(other).is_none());
}
