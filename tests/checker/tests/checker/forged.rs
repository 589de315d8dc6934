//! Streams, replies and logs that were changed on their way to the checker: what no bug in the core can reach. Each property that is
//! about more than decisions fails here.

use bytes::Bytes;
use plenum_checker::calls::{Asked, Call, Reply};
use plenum_checker::picture::{Allocation, slot_of};
use plenum_checker::properties::{
    Damage, FullDisk, Made, SlowWatchers, property_a_full_disk_only_refuses, property_a_task_has_one_allocation,
    property_acknowledged_is_durable, property_culprits_are_true, property_damage_is_named,
    property_declared_rules_hold, property_no_room_is_overcommitted, property_quotas_and_priorities_hold,
    property_real_time_order_holds, property_replies_equal_the_fold, property_revisions_have_no_gaps,
    property_slow_watchers_cost_nobody, property_snapshots_equal_the_fold, property_the_history_reaches_what_was_told,
    property_used_is_the_sum,
};
use plenum_checker::stream::Event;
use plenum_checker::{Chronicle, Evidence, Recording, Violation};
use plenum_model::Resource;
use plenum_proto::v1;
use plenum_testkit::JobBuilder;
use prost::Message;

use crate::bench::{Bench, machine};
use crate::traffic::Traffic;

/// A run without a fault, of about a hundred and fifty revisions.
fn run() -> Evidence {
    run_of(140)
}

pub(crate) fn run_of(steps: usize) -> Evidence {
    let mut traffic = Traffic::new(11);
    traffic.run(steps);
    traffic.bench.evidence
}

pub(crate) fn chronicle(evidence: &Evidence) -> Chronicle {
    Chronicle::of(&evidence.recordings).unwrap().pop().unwrap()
}

/// Changes the delta of the first revision for which `change` says that it did.
pub(crate) fn change_delta(recording: &mut Recording, change: impl Fn(&mut v1::Delta) -> bool) {
    for event in &mut recording.events {
        let Event::Delta { bytes, delta } = event else { continue };
        if change(delta) {
            *bytes = Bytes::from(delta.encode_to_vec());
            return;
        }
    }
    panic!("no delta was one to change");
}

fn position_of(recording: &Recording, revision: u64) -> usize {
    let is = |event: &Event| matches!(event, Event::Delta { delta, .. } if delta.revision == revision);
    recording.events.iter().position(is).unwrap()
}

fn gaps(recordings: &[Recording]) -> Vec<String> {
    let violations = property_revisions_have_no_gaps(recordings);
    violations.into_iter().map(|violation| violation.to_string()).collect()
}

#[test]
fn a_delta_that_is_left_out_is_a_gap() {
    let mut evidence = run();
    assert_eq!(gaps(&evidence.recordings), [""; 0]);
    let main = &mut evidence.recordings[0];
    main.events.remove(position_of(main, 50));
    assert_eq!(gaps(&evidence.recordings), ["gap: watcher main: revision 51 comes, and Some(50) was expected"]);
}

#[test]
fn a_delta_that_comes_twice_is_a_gap() {
    let mut evidence = run();
    let main = &mut evidence.recordings[0];
    let at = position_of(main, 50);
    main.events.insert(at, main.events[at].clone());
    assert_eq!(gaps(&evidence.recordings), ["gap: watcher main: revision 50 comes, and Some(51) was expected"]);
}

#[test]
fn a_server_that_offers_less_than_was_seen_is_a_gap() {
    let mut evidence = run();
    let snapshot = evidence.recordings[1].events.clone();
    evidence.recordings[0].events.extend(snapshot);
    assert!(gaps(&evidence.recordings)[0].contains("it begins anew at revision"));
}

#[test]
fn a_server_that_says_it_is_behind_what_it_told_is_a_gap() {
    let mut evidence = run();
    let heartbeat = v1::Heartbeat { revision: 20, ..v1::Heartbeat::default() };
    evidence.recordings[0].events.push(Event::Heartbeat(heartbeat));
    assert!(gaps(&evidence.recordings)[0].contains("the cell is said to be at 20"));
}

/// An idle cell says for ever where it is, and each time was kept.
#[test]
fn of_heartbeats_that_follow_each_other_the_last_one_is_kept_and_those_that_say_less_than_was_told() {
    let mut recording = run().recordings.swap_remove(0);
    let (count, newest) = (recording.events.len(), recording.revision().unwrap());
    let mut beat = |revision: u64| {
        let heartbeat = v1::Heartbeat { revision, ..v1::Heartbeat::default() };
        let tell = Some(v1::session_response::Tell::Heartbeat(heartbeat));
        recording.take(v1::SessionResponse { tell }).unwrap();
        recording.clone()
    };
    for revision in [newest, newest, newest + 1] {
        let heard = beat(revision);
        assert_eq!((heard.events.len(), gaps(&[heard])), (count + 1, Vec::new()));
    }
    for revision in [newest - 9, newest - 8, newest + 1] {
        assert!(gaps(&[beat(revision)])[0].contains(&format!("the cell is said to be at {}", newest - 9)));
    }
}

#[test]
fn an_outcome_that_comes_before_its_delta_is_a_gap() {
    let mut evidence = run();
    let outcome = Box::new(v1::Outcome { revision: 60, ..v1::Outcome::default() });
    let main = &mut evidence.recordings[0];
    main.events.insert(position_of(main, 60), Event::Outcome(outcome));
    assert_eq!(gaps(&evidence.recordings), ["gap: watcher main: an outcome at 60 comes before its delta"]);
}

#[test]
fn a_number_that_is_given_to_others_while_somebody_has_it_does_not_fold() {
    let mut evidence = run();
    change_delta(&mut evidence.recordings[0], |delta| {
        let changes = delta.revision == 100;
        let numbers = if changes { 0..6 } else { 0..0 };
        let resources = Some(v1::Resources::default());
        delta.reshaped.extend(numbers.map(|number| v1::NumberedShape { number, resources: resources.clone() }));
        changes
    });
    let fault = Chronicle::of(&evidence.recordings).unwrap_err();
    assert!(fault.what.contains("gets another meaning, and allocation"), "{fault}");
}

#[test]
fn two_watchers_that_are_told_different_things_are_a_gap() {
    let mut evidence = run();
    let mut other = evidence.recordings[0].clone();
    other.name = "other".into();
    change_delta(&mut other, |delta| {
        let changes = delta.revision == 70;
        delta.time_micros += i64::from(changes);
        changes
    });
    evidence.recordings.push(other);
    assert_eq!(gaps(&evidence.recordings), ["gap: watcher other: revision 70 is told otherwise than to main"]);
}

#[test]
fn an_acknowledged_transaction_that_the_cell_does_not_have_is_lost() {
    let mut evidence = run();
    let told = |evidence: &Evidence| {
        let decided: Vec<_> = evidence.decided().collect();
        property_acknowledged_is_durable(&chronicle(evidence), &decided).len()
    };
    assert_eq!(told(&evidence), 0);
    // The cell came back without its last revisions.
    let last = evidence.calls.iter().filter_map(Call::revision).max().unwrap();
    let main = &mut evidence.recordings[0];
    main.events.truncate(position_of(main, last));
    evidence.recordings.truncate(1);
    assert_eq!(told(&evidence), 1);
    // And one in the middle has another number in the log than its client was told.
    change_delta(&mut evidence.recordings[0], |delta| {
        let decided = delta.sessions.iter_mut().find_map(|change| match &mut change.change {
            Some(v1::session_change::Change::Number(number)) => Some(number),
            _ => None,
        });
        decided.map(|number| number.number += 1_000_000).is_some()
    });
    assert_eq!(told(&evidence), 2);
}

#[test]
fn an_acknowledged_write_that_the_cell_does_not_have_is_lost() {
    let mut evidence = run();
    let newest = chronicle(&evidence).newest();
    let told = |evidence: &Evidence| {
        let chronicles = Chronicle::of(&evidence.recordings).unwrap();
        property_the_history_reaches_what_was_told(&chronicles, &evidence.calls)
    };
    let write = |revision: u64| Call {
        client: "anna".into(),
        called_nanos: 1,
        replied_nanos: Some(2),
        asked: Asked::Write("submit job-9".into()),
        reply: Reply::Revision(revision),
    };
    evidence.calls.push(write(newest));
    assert_eq!(told(&evidence), []);
    evidence.calls.push(write(newest + 1));
    assert!(matches!(&told(&evidence)[..], [Violation::LostRevision { client, .. }] if client == "anna"));
    // A cell that was restored from a backup is another one, and may have less.
    let Some(Asked::Transaction(asked)) = evidence.calls.first_mut().map(|call| &mut call.asked) else {
        panic!("clients begin with transactions");
    };
    asked.incarnation -= 1;
    assert_eq!(told(&evidence), []);
}

#[test]
fn a_recording_that_is_cut_short_is_read_and_one_that_makes_no_sense_is_not() {
    let heartbeat = v1::Heartbeat { revision: 7, time_micros: 1 << 40, ..v1::Heartbeat::default() };
    let message = v1::SessionResponse { tell: Some(v1::session_response::Tell::Heartbeat(heartbeat)) };
    let whole = message.encode_length_delimited_to_vec();
    let read = |bytes: &[u8]| Recording::read("heard", Bytes::copy_from_slice(bytes));
    for rest in [&whole[..3], &[0x80], &[]] {
        let file: Vec<u8> = whole.iter().chain(rest).copied().collect();
        assert_eq!(read(&file).unwrap().events.len(), 1, "{rest:?}");
    }
    for rest in [&[0xff; 64][..], &[0xff, 0xff, 0xff, 0xff, 0x7f], &[3, 0xff, 0xff, 0xff]] {
        let file: Vec<u8> = whole.iter().chain(rest).copied().collect();
        assert!(read(&file).is_err(), "{rest:?}");
    }
}

#[test]
fn a_reply_that_names_other_allocations_than_the_delta_is_found() {
    let mut evidence = run();
    let found = |evidence: &Evidence| {
        let decided: Vec<_> = evidence.decided().collect();
        property_replies_equal_the_fold(&chronicle(evidence), &decided).len()
    };
    assert_eq!(found(&evidence), 0);
    let outcome = evidence.calls.iter_mut().find_map(|call| match &mut call.reply {
        Reply::Outcome(outcome) if outcome.granted > 0 && outcome.revision > 0 => Some(outcome),
        _ => None,
    });
    let placements = &mut outcome.unwrap().placements;
    let granted = placements.iter_mut().flat_map(|one| &mut one.allocations).find(|id| **id > 0).unwrap();
    *granted += 1 << 32;
    assert_eq!(found(&evidence), 1);
}

#[test]
fn what_was_decided_before_something_that_was_acknowledged_before_it_was_asked_is_found() {
    let mut evidence = run();
    assert_eq!(property_real_time_order_holds(&evidence.calls, &[]), []);
    let decided = |call: &&mut Call| call.revision().is_some_and(|revision| revision > 100);
    let late = evidence.calls.iter_mut().find(decided).unwrap();
    let Reply::Outcome(outcome) = &mut late.reply else { panic!("only transactions are logged") };
    outcome.revision = 30;
    let found = property_real_time_order_holds(&evidence.calls, &[]);
    assert!(matches!(found[..], [Violation::OutOfOrder { found: 30, .. }, ..]), "{found:?}");
}

/// Two operators cordoned the same machine, and the cell told the second one where it was: that was out of order.
#[test]
fn a_write_that_changed_nothing_may_have_the_revision_of_what_was_acknowledged_before() {
    let write = |nanos: u64, revision: u64| Call {
        client: "operator".into(),
        called_nanos: nanos,
        replied_nanos: Some(nanos + 1),
        asked: Asked::Write("cordon m1".into()),
        reply: Reply::Revision(revision),
    };
    assert_eq!(property_real_time_order_holds(&[write(1, 231), write(3, 231)], &[]), []);
    let found = property_real_time_order_holds(&[write(1, 231), write(3, 230)], &[]);
    assert!(matches!(found[..], [Violation::OutOfOrder { acknowledged: 231, found: 230, .. }]), "{found:?}");
    // A transaction has a revision that nothing else has.
    let asked = v1::Transaction { session: 3, number: 1, ..v1::Transaction::default() };
    let outcome = v1::Outcome { session: 3, number: 1, revision: 231, ..v1::Outcome::default() };
    let (asked, reply) = (Asked::Transaction(Box::new(asked)), Reply::Outcome(Box::new(outcome)));
    let late = Call { asked, reply, ..write(3, 231) };
    assert_eq!(property_real_time_order_holds(&[write(1, 231), late], &[]).len(), 1);
}

/// A cell that is restored begins with the revision of its backup: later calls have lower revisions, and each cell is in order for itself.
#[test]
fn a_restored_cell_is_in_order_for_itself_alone() {
    let evidence = run();
    let mut calls = evidence.calls.clone();
    let (first, last) = (calls[0].called_nanos, calls.iter().filter_map(|call| call.replied_nanos).max().unwrap());
    let moved = evidence.calls.into_iter().map(|mut call| {
        let Asked::Transaction(asked) = &mut call.asked else { panic!("only transactions are logged") };
        asked.incarnation += 1;
        call.called_nanos += last - first + 1;
        call.replied_nanos = call.replied_nanos.map(|nanos| nanos + last - first + 1);
        call
    });
    calls.extend(moved);
    assert_eq!(property_real_time_order_holds(&calls, &[]), []);
    let late = calls.iter_mut().rfind(|call| call.revision().is_some()).unwrap();
    let Reply::Outcome(outcome) = &mut late.reply else { panic!("only transactions are logged") };
    outcome.revision = 3;
    let found = property_real_time_order_holds(&calls, &[]);
    assert!(matches!(found[..], [Violation::OutOfOrder { found: 3, .. }]), "{found:?}");
}

/// Who asked the restored cell sent no transaction, and its revisions were held against those of the one before.
#[test]
fn a_restored_cell_that_only_watchers_know_of_is_not_held_against_the_one_before() {
    let mut evidence = run();
    let last = evidence.calls.iter().filter_map(|call| call.replied_nanos).max().unwrap();
    evidence.calls.push(Call {
        client: "operator".into(),
        called_nanos: last + 1,
        replied_nanos: Some(last + 2),
        asked: Asked::Write("drain m1".into()),
        reply: Reply::Revision(3),
    });
    let first = chronicle(&evidence);
    let restored = Chronicle { incarnation: first.incarnation + 1, ..Chronicle::default() };
    let mut watched = vec![first];
    let found = property_real_time_order_holds(&evidence.calls, &watched);
    assert!(matches!(found[..], [Violation::OutOfOrder { found: 3, .. }]), "{found:?}");
    watched.push(restored);
    assert_eq!(property_real_time_order_holds(&evidence.calls, &watched), []);
}

#[test]
fn a_hold_that_loses_a_machine_under_a_lowered_quota_asks_for_nothing() {
    let mut bench = Bench::new();
    let first = bench.machine(machine("m1", 9000, &[]));
    bench.machine(machine("m2", 9000, &[]));
    let job = bench.submit(JobBuilder::new("web", "service").group("main", 1, 500).forever().spec());
    assert!(bench.hold(job, vec![0, 1], (Resource::CpuMillis, 2000), 60_000_000));
    bench.quota("default", Some((Resource::CpuMillis, 1000)));
    bench.remove(first);
    let held: usize = bench.core.cell().holds().map(|(_, hold)| hold.machines.len()).sum();
    assert_eq!(held, 1, "the removal takes the machine from the hold");
    assert_eq!(property_quotas_and_priorities_hold(&chronicle(&bench.evidence)), []);
}

#[test]
fn culprits_that_did_not_do_it_are_found() {
    let mut evidence = run_of(500);
    let found = |evidence: &Evidence| {
        let decided: Vec<_> = evidence.decided().collect();
        property_culprits_are_true(&chronicle(evidence), &decided)
    };
    assert_eq!(found(&evidence), []);
    // Those whose newest culprit is a transaction, and no event.
    let conflict = |refusal: &&mut v1::Refusal| {
        let by_transaction = refusal.culprits.first().is_some_and(|culprit| culprit.session > 0);
        by_transaction && refusal.reason() == v1::RefusalReason::NoRoom
    };
    let outcomes = evidence.calls.iter_mut().filter_map(|call| match (&call.asked, &mut call.reply) {
        // Nobody came before the very first picture; and dry runs are not looked at.
        (Asked::Transaction(asked), Reply::Outcome(outcome)) if asked.base_revision > 1 && !asked.dry_run => {
            Some(outcome)
        }
        _ => None,
    });
    let mut conflicts = outcomes.flat_map(|outcome| &mut outcome.refusals).filter(conflict);
    // One culprit took less, one came from before the base, one is another transaction, and all other refusals were no conflicts.
    conflicts.next().unwrap().culprits_total = 0;
    conflicts.next().unwrap().culprits[0].revision = 1;
    conflicts.next().unwrap().culprits[0].number += 40;
    for misfit in conflicts {
        (misfit.culprits, misfit.kind) = (Vec::new(), v1::RefusalKind::Misfit.into());
    }
    let found: Vec<String> = found(&evidence).iter().map(ToString::to_string).collect();
    for words in ["culprits took 0", "lies not between", "was not decided there", "were free at its base"] {
        assert!(found.iter().any(|one| one.contains(words)), "{words}: {found:#?}");
    }
}

#[test]
fn a_machine_that_is_listed_with_other_sums_is_found() {
    let mut evidence = run();
    assert_eq!(property_used_is_the_sum(&chronicle(&evidence), &evidence.listings), []);
    let mut shortened = evidence.listings.clone();
    shortened[1].machines.pop();
    assert_eq!(property_used_is_the_sum(&chronicle(&evidence), &shortened).len(), 1);
    shortened[1].truncated = true;
    assert_eq!(property_used_is_the_sum(&chronicle(&evidence), &shortened), []);
    // One twice, in the place of another.
    let mut doubled = evidence.listings.clone();
    doubled[1].machines[0] = doubled[1].machines[1].clone();
    assert_eq!(property_used_is_the_sum(&chronicle(&evidence), &doubled).len(), 1);
    evidence.listings[1].machines[0].allocated.as_mut().unwrap().cpu_millis += 500;
    assert_eq!(property_used_is_the_sum(&chronicle(&evidence), &evidence.listings).len(), 1);
}

#[test]
fn a_quota_that_is_listed_with_another_limit_is_found() {
    let mut bench = Bench::new();
    bench.machine(machine("m1", 9000, &[]));
    bench.quota("default", Some((Resource::CpuMillis, 1000)));
    bench.list();
    let mut evidence = bench.evidence;
    assert_eq!(property_used_is_the_sum(&chronicle(&evidence), &evidence.listings), []);
    evidence.listings.last_mut().unwrap().quotas[0].limit.as_mut().unwrap().cpu_millis = Some(2000);
    let found = property_used_is_the_sum(&chronicle(&evidence), &evidence.listings);
    assert!(matches!(&found[..], [one] if one.to_string().contains("as its limit")), "{found:?}");
}

/// Nobody looked at who is live where no machine is, until somebody else got its slot.
#[test]
fn whoever_is_left_where_a_machine_was_removed_is_found() {
    let mut bench = Bench::new();
    let machine = bench.machine(machine("m1", 9000, &[]));
    let job = bench.submit(JobBuilder::new("job", "batch").group("main", 1, 500).forever().spec());
    let placement =
        v1::Placement { job, job_version: 1, machines: vec![0], tasks: vec![0], ..v1::Placement::default() };
    let (session, base_revision, placements) = (bench.session("batch"), bench.revision(), vec![placement]);
    let asked = v1::Transaction { session, number: 1, base_revision, placements, ..v1::Transaction::default() };
    assert_eq!(bench.commit("batch", asked).unwrap().granted, 1);
    bench.remove(machine);
    let mut evidence = bench.evidence;
    assert_eq!(property_used_is_the_sum(&chronicle(&evidence), &[]), []);
    let removed = chronicle(&evidence).newest();
    let main = &mut evidence.recordings[0];
    change_delta(main, |delta| {
        let changes = delta.revision == removed;
        if changes {
            (delta.ends, delta.moves) = (None, None);
            delta.tasks.clear();
            delta.jobs.clear();
        }
        changes
    });
    let found = property_used_is_the_sum(&chronicle(&evidence), &[]);
    assert!(matches!(&found[..], [one] if one.to_string().contains("where no machine is")), "{found:?}");
}

#[test]
fn a_cell_that_recovers_to_something_else_is_found() {
    let mut evidence = run();
    assert_eq!(property_snapshots_equal_the_fold(&chronicle(&evidence), &evidence.recordings), []);
    let Some(Event::Snapshot(picture)) = evidence.recordings.last_mut().and_then(|last| last.events.last_mut()) else {
        panic!("the last watcher got a snapshot");
    };
    let allocation = picture.allocations.values_mut().next().unwrap();
    allocation.restarts += 1;
    let found = property_snapshots_equal_the_fold(&chronicle(&evidence), &evidence.recordings);
    assert!(matches!(&found[..], [Violation::OtherPicture { .. }]), "{found:?}");
}

/// The same run in which a namespace has a quota from the beginning, a victim is evicted, or a machine is smaller.
fn told_otherwise(change: impl Fn(&mut v1::Delta) -> bool) -> Chronicle {
    let mut evidence = run();
    change_delta(&mut evidence.recordings[0], change);
    evidence.recordings.truncate(1);
    chronicle(&evidence)
}

#[test]
fn a_quota_that_grants_ignored_is_found() {
    let quota = v1::Quota { cpu_millis: Some(3000), ..v1::Quota::default() };
    let change = v1::QuotaChange { namespace: "default".into(), limit: Some(quota) };
    let chronicle = told_otherwise(|delta| {
        delta.quotas.push(change.clone());
        true
    });
    let found = property_quotas_and_priorities_hold(&chronicle);
    assert!(matches!(found[0], Violation::QuotaExceeded { limit: 3000, .. }), "{found:?}");
}

/// Its state is to say so, too. What it says otherwise is no excuse.
#[test]
fn a_grant_on_a_machine_whose_agent_wanted_none_is_found() {
    assert_eq!(property_declared_rules_hold(&told_otherwise(|delta| !delta.machines.is_empty())), []);
    let chronicle = told_otherwise(|delta| {
        let machine = delta.machines.first_mut();
        machine.map(|machine| machine.unfit = v1::Unfit::AgentLeaves.into()).is_some()
    });
    let found = property_declared_rules_hold(&chronicle);
    assert!(matches!(&found[0], Violation::RuleBroken { what, .. } if what.contains("AGENT_LEAVES")), "{found:?}");
}

#[test]
fn a_victim_for_whom_nobody_was_granted_anything_is_found() {
    let chronicle = told_otherwise(|delta| {
        let Some(moves) = delta.moves.as_mut().filter(|_| delta.grants.is_empty()) else { return false };
        let stopping = moves.states.iter_mut().find(|state| **state == v1::AllocationState::Stopping as u32);
        stopping.map(|state| *state = v1::AllocationState::Evicting as u32).is_some()
    });
    let found = property_quotas_and_priorities_hold(&chronicle);
    assert!(matches!(&found[0], Violation::WrongVictim { what, .. } if what.contains("nobody")), "{found:?}");
}

#[test]
fn a_machine_that_was_smaller_than_what_it_was_granted_is_found() {
    let chronicle = told_otherwise(|delta| {
        let capacity = delta.machines.first_mut().and_then(|machine| machine.capacity.as_mut());
        capacity.map(|capacity| capacity.memory_bytes = 1 << 20).is_some()
    });
    let found = property_no_room_is_overcommitted(&chronicle);
    assert!(matches!(found[0], Violation::Overcommitted { .. }), "{found:?}");
}

#[test]
fn devices_and_ports_that_were_granted_twice_are_found() {
    let gpu = |millis| v1::Device { kind: "gpu".into(), index: 0, millis, model: String::new() };
    let chronicle = {
        let mut evidence = run();
        change_delta(&mut evidence.recordings[0], |delta| {
            delta.machines.first_mut().map(|machine| machine.devices.push(gpu(1000))).is_some()
        });
        for event in &mut evidence.recordings[0].events {
            let Event::Delta { delta, .. } = event else { continue };
            for grants in &mut delta.grants {
                let port = v1::Port { name: "http".into(), number: 80 };
                let all = 0..u32::try_from(grants.slots.len()).unwrap();
                let extra = |claim| v1::GrantExtras {
                    claim,
                    devices: vec![gpu(600)],
                    ports: vec![port.clone()],
                    ..v1::GrantExtras::default()
                };
                grants.extras = all.map(extra).collect();
            }
        }
        evidence.recordings.truncate(1);
        chronicle(&evidence)
    };
    let found = property_no_room_is_overcommitted(&chronicle);
    assert!(found.iter().any(|one| matches!(one, Violation::DeviceOvercommitted { free: -200, .. })), "{found:?}");
    assert!(found.iter().any(|one| matches!(one, Violation::PortTwice { port: 80, holders: 2, .. })));
}

#[test]
fn room_that_is_taken_over_from_somebody_who_stays_is_found() {
    let chronicle = told_otherwise(|delta| {
        let Some(grants) = delta.grants.first_mut().filter(|_| delta.revision > 60) else { return false };
        let amount = Some(v1::Resources { cpu_millis: 500, ..v1::Resources::default() });
        let entry = v1::TakeOver { victim: 1 << 32, amount, ..v1::TakeOver::default() };
        grants.extras.push(v1::GrantExtras { take_overs: vec![entry], ..v1::GrantExtras::default() });
        true
    });
    let found = property_no_room_is_overcommitted(&chronicle);
    assert!(matches!(found[0], Violation::TakenOverTooMuch { .. }), "{found:?}");
}

// What is beyond the need counts as free, beside the one who still has it.
#[test]
fn more_room_than_is_needed_that_is_taken_over_is_found() {
    let chronicle = told_otherwise(|delta| {
        let Some(grants) = delta.grants.first_mut().filter(|_| delta.revision > 60) else { return false };
        let amount = Some(v1::Resources { cpu_millis: 1 << 40, ..v1::Resources::default() });
        let entry = v1::TakeOver { victim: 1 << 32, amount, ..v1::TakeOver::default() };
        grants.extras.push(v1::GrantExtras { take_overs: vec![entry], ..v1::GrantExtras::default() });
        true
    });
    let found = property_no_room_is_overcommitted(&chronicle);
    assert!(found.iter().any(|one| matches!(one, Violation::TakesOverTooMuch { .. })), "{found:?}");
}

/// A grant of a task that somebody who leaves had before: its revision, and both.
fn grant_anew(chronicle: &Chronicle) -> (u64, u64, u64) {
    let task = |found: &Allocation| (found.job, found.group, found.task);
    let mut picture = chronicle.segments[0].start.clone();
    for delta in &chronicle.segments[0].deltas {
        picture.fold(delta).unwrap();
        for heir in picture.allocations.values().filter(|found| found.created == delta.revision) {
            let mut leaving = picture.allocations.values().filter(|found| found.is_leaving());
            if let Some(before) = leaving.find(|found| task(found) == task(heir)) {
                return (delta.revision, before.id, heir.id);
            }
        }
    }
    panic!("no task was granted anew before who had it was gone");
}

#[test]
fn a_task_that_is_granted_while_who_had_it_stays_is_found_as_twice_there() {
    let mut evidence = run_of(300);
    let (revision, before, heir) = grant_anew(&chronicle(&evidence));
    assert_eq!(property_a_task_has_one_allocation(&chronicle(&evidence)), []);
    let main = &mut evidence.recordings[0];
    change_delta(main, |delta| {
        let changes = delta.revision == revision;
        if changes {
            let moves = delta.moves.get_or_insert_default();
            moves.slots.push(slot_of(before));
            moves.states.push(v1::AllocationState::Running as u32);
            moves.ready.push(0);
        }
        changes
    });
    main.events.truncate(position_of(main, revision) + 1);
    evidence.recordings.truncate(1);
    let found = property_a_task_has_one_allocation(&chronicle(&evidence));
    assert!(
        matches!(&found[..], [Violation::TaskTwice { revision: at, first, second }]
            if *at == revision && [before, heir].iter().all(|id| id == first || id == second)),
        "{found:?}"
    );
}

#[test]
fn a_full_disk_that_takes_commits_or_stops_readers_is_found() {
    let refused = |message: &str| {
        FullDisk::Commit(Reply::Failed { status: 8, code: "READ_ONLY".into(), message: message.into() })
    };
    let good = [
        FullDisk::Status(String::new()),
        FullDisk::Fills,
        refused("/var/cell/log: 10 bytes are free, and 4096 are needed"),
        FullDisk::Read(None),
        FullDisk::Status("low on space".into()),
        FullDisk::Heartbeat(None),
        FullDisk::Frees,
        FullDisk::Status(String::new()),
        FullDisk::Commit(Reply::Revision(9)),
    ];
    assert_eq!(property_a_full_disk_only_refuses(&good), []);
    let broken = [
        (2, FullDisk::Commit(Reply::Revision(7))),
        (2, refused("no")),
        (3, FullDisk::Read(Some("the stream ended".into()))),
        (4, FullDisk::Status(String::new())),
        (5, FullDisk::Heartbeat(Some("it is read-only".into()))),
        (7, FullDisk::Status("low on space".into())),
        (8, refused("/var/cell/log: 10 bytes are free, and 4096 are needed")),
        (2, refused("/srv/cell-1/data-2: there is no room")),
    ];
    for (at, event) in broken {
        let mut bad = good.to_vec();
        bad[at] = event.clone();
        assert!(!property_a_full_disk_only_refuses(&bad).is_empty(), "{event:?}");
    }
    // Nothing is shown by what nobody tried.
    for at in 2..6 {
        let mut bad = good.to_vec();
        bad.remove(at);
        let found = property_a_full_disk_only_refuses(&bad);
        assert!(matches!(&found[..], [Violation::FullDisk { what }] if what.starts_with("nobody tried")), "{found:?}");
    }
}

#[test]
fn damage_that_shortens_the_history_or_is_not_named_is_found() {
    let evidence = run();
    let chronicle = chronicle(&evidence);
    let newest = chronicle.newest();
    let started = |revision: u64| {
        let folded = chronicle.picture_at(revision).unwrap();
        Made::Started(Box::new(plenum_checker::picture::Picture { revision: revision + 1, ..folded }))
    };
    let found = |made: Made| {
        let damage = Damage { place: "segment-7 4100".into(), acknowledged: newest - 3, made };
        property_damage_is_named(&chronicle, &[damage]).len()
    };
    let named = "segment-7, offset 4096, revision 12: expected checksum 0x12, found 0x13; restore it";
    assert_eq!(found(started(newest)) + found(started(newest - 3)) + found(Made::Refused(named.into())), 0);
    assert_eq!(found(started(newest - 4)), 1);
    let never_was = plenum_checker::picture::Picture { revision: newest + 2, ..Default::default() };
    assert_eq!(found(Made::Started(Box::new(never_was))), 1);
    assert_eq!(found(Made::Refused("it is broken".into())), 1);
    assert_eq!(found(Made::Refused(named.replace("4096", "70000"))), 1);
    assert_eq!(found(Made::Refused(named.replace("offset 4096", "an offset"))), 1);
    // Nobody can say whether a cell is the one before where nobody heard what that was.
    let unheard = Chronicle { segments: chronicle.segments[..0].to_vec(), ..chronicle.clone() };
    let damage = Damage { place: "segment-7 4100".into(), acknowledged: 0, made: started(newest) };
    assert_eq!(property_damage_is_named(&unheard, &[damage]).len(), 1);
    assert_eq!(found(Made::Crashed("index out of bounds".into())), 1);
    let Made::Started(mut other) = started(newest) else { unreachable!() };
    other.jobs.pop_last();
    assert_eq!(found(Made::Started(other)), 1);
}

#[test]
fn slow_watchers_that_cost_memory_or_never_catch_up_are_found() {
    let evidence = run();
    let chronicle = chronicle(&evidence);
    let target = chronicle.newest();
    let quick = evidence.recordings[0].clone();
    // Reads a little, is begun anew with the last snapshot, and is there.
    let mut slow = quick.clone();
    slow.name = "slow".into();
    slow.events.truncate(20);
    let first = slow.events.remove(0);
    slow.events.clear();
    slow.events.extend(evidence.recordings[1].events.clone());
    slow.events.extend(evidence.recordings.last().unwrap().events.clone());
    let good = SlowWatchers {
        stalled: vec![slow],
        reading: vec![quick.clone()],
        target,
        memory_bytes: (1000, 2000),
        memory_bound_bytes: 1000,
    };
    assert_eq!(property_slow_watchers_cost_nobody(&chronicle, &good), []);
    let grown = SlowWatchers { memory_bytes: (1000, 2001), ..good.clone() };
    let mut behind = good.clone();
    behind.stalled[0].events.truncate(2);
    let mut never_anew = good.clone();
    never_anew.stalled[0] = quick;
    let mut elsewhere = good.clone();
    if let Some(Event::Snapshot(picture)) = elsewhere.stalled[0].events.last_mut() {
        picture.jobs.pop_last();
    }
    let mut disturbed = good.clone();
    disturbed.reading[0].events.insert(0, first);
    disturbed.reading[0].events.extend(good.stalled[0].events.clone());
    for bad in [grown, behind, never_anew, elsewhere, disturbed] {
        assert!(!property_slow_watchers_cost_nobody(&chronicle, &bad).is_empty());
    }
}
