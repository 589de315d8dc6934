//! Bugs in the core and in the server, each found by the property that is there for it. Needs the feature `planted-bugs`: `cargo xtask test --only simulator`.
#![allow(clippy::unwrap_used)]

#[path = "../checker/bench.rs"]
mod bench;
#[path = "../checker/client.rs"]
mod client;
#[path = "../checker/restored.rs"]
mod restored;
#[path = "../checker/scenes.rs"]
mod scenes;
mod served;
mod shown;
#[path = "../checker/traffic.rs"]
mod traffic;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{PoisonError, RwLock};

use plenum_checker::picture::slot_of;
use plenum_checker::{Evidence, Violation, check};
use plenum_model::Resource;
use plenum_model::planted::{self, Bug};
use plenum_proto::v1;
use plenum_testkit::JobBuilder;

use crate::bench::Bench;
use crate::restored::claimed_after_a_restore;
use crate::traffic::{ASKING, OF_JOBS, OF_TWO, Traffic};

/// A server has threads of its own, so its bug is planted in all of them: nobody else may be at work then.
static PLANTING: RwLock<()> = RwLock::new(());

/// Runs traffic on a core with a bug, until the wanted violation is found by a property that is to find the bug, and once more without; fails when it
/// never is, or is there without the bug.
fn is_found(bug: Bug, wanted: impl Fn(&Violation) -> bool) {
    is_found_from(0, bug, wanted);
}

/// The same, from a seed on.
fn is_found_from(first: u64, bug: Bug, wanted: impl Fn(&Violation) -> bool) {
    let _together = PLANTING.read().unwrap_or_else(PoisonError::into_inner);
    let mut others = Vec::new();
    for seed in first..first + 12 {
        planted::plant(Some(bug));
        let mut traffic = Traffic::new(seed);
        // What a bug has made of a cell may be beyond what its code can stand; what it told until then is evidence enough.
        let ended = catch_unwind(AssertUnwindSafe(|| traffic.run(300)));
        planted::plant(None);
        drop(ended);
        let verdict = check(&traffic.bench.evidence);
        if shown::found_as_listed(bug, &verdict).iter().any(&wanted) {
            let mut traffic = Traffic::new(seed);
            traffic.run(300);
            assert_eq!(check(&traffic.bench.evidence).violations, [], "without {bug:?}, seed {seed}");
            return;
        }
        others.extend(verdict.violations);
    }
    panic!("{bug:?} was not found; but {:?}", others.first());
}

/// What the properties that are to find this bug find in what a core with it tells; or all of them, with none.
fn found_in(bug: Option<Bug>, scene: impl FnOnce() -> Evidence) -> Vec<Violation> {
    let _together = PLANTING.read().unwrap_or_else(PoisonError::into_inner);
    planted::plant(bug);
    let evidence = scene();
    planted::plant(None);
    let verdict = check(&evidence);
    match bug {
        Some(bug) => shown::found_as_listed(bug, &verdict),
        None => verdict.violations,
    }
}

#[test]
fn granting_without_room_is_found_as_overcommit() {
    is_found(Bug::GrantsWithoutRoom, |found| matches!(found, Violation::Overcommitted { .. }));
}

#[test]
fn granting_on_machines_that_take_no_claims_is_found() {
    is_found(
        Bug::GrantsOnAnyMachine,
        |found| matches!(found, Violation::RuleBroken { what, .. } if what.contains("CORDONED")),
    );
}

#[test]
fn overlooking_constraints_is_found() {
    is_found(
        Bug::OverlooksConstraints,
        |found| matches!(found, Violation::RuleBroken { what, .. } if what.contains("rack")),
    );
}

#[test]
fn conflicts_that_blame_nobody_are_found() {
    is_found(
        Bug::BlamesNobody,
        |found| matches!(found, Violation::WrongKind { what, .. } if what.contains("names nobody")),
    );
}

#[test]
fn conflicts_that_blame_an_event_that_never_was_are_found() {
    is_found(
        Bug::BlamesEvents,
        |found| matches!(found, Violation::FalseCulprit { what, .. } if what.contains("is called cordoned")),
    );
}

#[test]
fn conflicts_that_leave_out_the_newest_culprit_are_found() {
    is_found(
        Bug::BlamesOlder,
        |found| matches!(found, Violation::WrongKind { what, .. } if what.ends_with("is left out")),
    );
}

#[test]
fn conflicts_that_are_denied_are_found_whatever_was_lost() {
    for sign in ["were free at its base", "has the task since", "was ready at its base"] {
        is_found(
            Bug::DeniesConflicts,
            |found| matches!(found, Violation::WrongKind { what, .. } if what.contains(sign)),
        );
    }
}

/// What was refused so, though nothing of that was in its way.
fn is_made_up(sign: &str) -> impl Fn(&Violation) -> bool + '_ {
    move |found| matches!(found, Violation::WrongKind { what, .. } if what.contains(sign))
}

#[test]
fn quotas_that_are_blamed_though_they_have_room_are_found() {
    is_found(Bug::RefusesByQuota, is_made_up("has no limit of"));
    is_found(Bug::RefusesByQuota, is_made_up("at most, and may use"));
}

#[test]
fn rights_and_partitions_that_are_blamed_though_they_are_not_in_the_way_are_found() {
    is_found(Bug::RefusesByPartition, is_made_up("no partition keeps"));
    is_found(Bug::RefusesByRight, is_made_up("it names nobody there to evict"));
}

#[test]
fn minimums_that_are_said_to_be_missed_where_there_is_none_are_found() {
    is_found(Bug::RefusesAsMate, is_made_up("there is no minimum"));
    is_found(Bug::RefusesAsMate, is_made_up("others of its placement were granted"));
}

#[test]
fn limits_that_are_blamed_though_they_are_not_reached_are_found() {
    is_found(
        Bug::RefusesByLimit,
        |found| matches!(found, Violation::WrongKind { what, .. } if what.contains("did not stand in its way")),
    );
}

#[test]
fn conflicts_that_are_said_to_be_too_old_are_found() {
    is_found(
        Bug::CallsStale,
        |found| matches!(found, Violation::WrongKind { what, .. } if what.contains("none of which is forgotten")),
    );
}

#[test]
fn forgotten_minimums_are_found() {
    is_found(
        Bug::ForgetsMinimums,
        |found| matches!(found, Violation::MinimumBroken { what, .. } if what.contains("and its minimum is")),
    );
}

#[test]
fn culprits_that_took_less_than_what_is_short_are_found() {
    is_found(Bug::HalvesBlame, |found| matches!(found, Violation::CulpritsTooSmall { .. }));
}

#[test]
fn an_atomic_transaction_that_keeps_its_stops_is_found() {
    is_found(
        Bug::ForgetsAtomic,
        |found| matches!(found, Violation::MinimumBroken { what, .. } if what.starts_with("it is atomic")),
    );
}

#[test]
fn parts_that_are_called_refused_are_found() {
    is_found(
        Bug::CallsPartsRefused,
        |found| matches!(found, Violation::MinimumBroken { what, .. } if what.starts_with("it was refused")),
    );
}

#[test]
fn overlooked_pauses_are_found() {
    is_found(
        Bug::OverlooksPauses,
        |found| matches!(found, Violation::RuleBroken { what, .. } if what.contains("if it is not paused")),
    );
}

#[test]
fn holds_that_a_sequence_overlooks_are_found() {
    is_found_from(
        ASKING,
        Bug::SequenceIgnoresHolds,
        |found| matches!(found, Violation::NotAsAsked { what, .. } if what.ends_with(": hold")),
    );
}

#[test]
fn forgotten_numbers_are_found_as_taking_effect_twice() {
    is_found(Bug::ForgetsNumbers, |found| matches!(found, Violation::NumberTwice { .. }));
}

#[test]
fn room_that_leaks_is_found_in_the_sums() {
    is_found(Bug::LeaksRoom, |found| matches!(found, Violation::WrongSum { .. }));
}

#[test]
fn pictures_that_leave_something_out_are_found_by_folding() {
    is_found(Bug::PicturesHalf, |found| matches!(found, Violation::OtherPicture { .. }));
}

// What can't be folded passed for it, of which no property was asked.
#[test]
fn allocations_that_come_back_to_life_are_found_as_twice_per_task() {
    assert_eq!(found_in(None, granted_anew), []);
    let violations = found_in(Some(Bug::RevivesTheLeaving), granted_anew);
    assert!(violations.iter().any(|one| matches!(one, Violation::TaskTwice { .. })), "{violations:?}");
}

/// A task is stopped and granted anew, and then the agent says of the first allocation that it runs.
fn granted_anew() -> Evidence {
    let mut bench = Bench::new();
    let machine = bench.machine(bench::machine("m1", 3000, &[]));
    let job = bench.submit(JobBuilder::new("again", "batch").group("main", 1, 1000).forever().spec());
    let session = bench.session("batch");
    let (machines, tasks) = (vec![slot_of(machine)], vec![0]);
    let placements = vec![v1::Placement { job, job_version: 1, machines, tasks, ..v1::Placement::default() }];
    let asked = |bench: &Bench, number: u64, stops: Vec<u64>, placements: &[v1::Placement]| v1::Transaction {
        session,
        number,
        base_revision: bench.revision(),
        stops,
        placements: placements.to_vec(),
        ..v1::Transaction::default()
    };
    let claimed = asked(&bench, 1, Vec::new(), &placements);
    let outcome = bench.commit("batch", claimed).unwrap();
    let before = outcome.placements[0].allocations[0];
    let stopped = asked(&bench, 2, vec![before], &[]);
    bench.commit("batch", stopped).unwrap();
    let anew = asked(&bench, 3, Vec::new(), &placements);
    assert_eq!(bench.commit("batch", anew).unwrap().granted, 1);
    bench.report(before, v1::AllocationState::Running);
    bench.evidence
}

/// Whatever becomes of its task.
#[test]
fn allocations_that_come_back_to_life_are_found_as_leaving_no_more() {
    use v1::AllocationState::{Running, Starting};
    is_found(Bug::RevivesTheLeaving, |found| {
        matches!(found, Violation::LeavesWithoutReason { state: Running | Starting, .. })
    });
}

#[test]
fn overlooked_quotas_are_found() {
    is_found(Bug::OverlooksQuotas, |found| matches!(found, Violation::QuotaExceeded { .. }));
}

#[test]
fn quota_that_victims_of_another_namespace_give_is_found() {
    is_found_from(OF_TWO, Bug::CreditsOtherNamespaces, |found| matches!(found, Violation::QuotaExceeded { .. }));
}

#[test]
fn victims_of_an_equal_band_are_found() {
    is_found(
        Bug::EvictsAnybody,
        |found| matches!(found, Violation::WrongVictim { what, .. } if what.contains("its band is")),
    );
}

#[test]
fn victims_of_who_may_not_evict_are_found() {
    is_found(
        Bug::EvictsWithoutRight,
        |found| matches!(found, Violation::WrongVictim { what, .. } if what.contains("may evict")),
    );
}

#[test]
fn room_that_is_handed_over_twice_is_found() {
    is_found(Bug::HandsOverTwice, |found| matches!(found, Violation::TakenOverTooMuch { .. }));
}

#[test]
fn room_that_is_handed_over_by_who_waits_for_it_is_found() {
    assert_eq!(found_in(None, handed_on), []);
    let violations = found_in(Some(Bug::HandsOverWhatIsAwaited), handed_on);
    assert!(matches!(violations[..], [Violation::TakenOverTooMuch { .. }, ..]), "{violations:?}");
}

/// Three tasks on a machine for one: each is stopped while it still waits for the one before, and the next one asks for what it has.
fn handed_on() -> Evidence {
    let mut bench = Bench::new();
    bench.machine(bench::machine("m1", 1000, &[]));
    let job = bench.submit(JobBuilder::new("relay", "batch").group("main", 3, 1000).forever().spec());
    let session = bench.session("batch");
    let mut before: Vec<u64> = Vec::new();
    for number in 1..4 {
        let take_overs = before.iter().map(|&victim| v1::TakeOver { victim, ..v1::TakeOver::default() }).collect();
        let extras = vec![v1::ClaimExtras { take_overs, ..v1::ClaimExtras::default() }];
        let task = u32::try_from(number - 1).unwrap();
        let placement =
            v1::Placement { job, job_version: 1, machines: vec![0], tasks: vec![task], extras, ..Default::default() };
        let asked = v1::Transaction {
            session,
            number,
            base_revision: bench.revision(),
            stops: before.last().copied().into_iter().collect(),
            placements: vec![placement],
            ..v1::Transaction::default()
        };
        let outcome = bench.commit("batch", asked).unwrap();
        before.extend(outcome.placements.iter().flat_map(|one| &one.allocations).filter(|&&id| id > 0).take(1));
    }
    bench.evidence
}

#[test]
fn a_job_that_is_torn_apart_is_found() {
    assert_eq!(found_in(None, lost_in_part), []);
    let violations = found_in(Some(Bug::TearsApart), lost_in_part);
    let apart = |what: &str| what.contains("share one machine");
    let is_it = |one: &Violation| matches!(one, Violation::RuleBroken { what, .. } if apart(what));
    assert!(violations.iter().any(is_it), "{violations:?}");
}

/// Two tasks share a machine that falls silent: one of them may soon be placed anew, if it stood alone.
fn lost_in_part() -> Evidence {
    let mut bench = Bench::new();
    let [first, second] = ["m1", "m2"].map(|name| bench.machine(bench::machine(name, 3000, &[])));
    let job = JobBuilder::new("pair", "batch").same_machine().forever();
    let job = job.group("hasty", 1, 1000).lost_after(10_000_000).group("patient", 1, 1000).lost_after(900_000_000);
    let job = bench.submit(job.spec());
    let session = bench.session("batch");
    let asked = |bench: &Bench, number: u64, machine: u64, groups: &[u32]| {
        let machines = vec![slot_of(machine)];
        let one = v1::Placement { job, job_version: 1, machines, tasks: vec![0], ..v1::Placement::default() };
        let placements = groups.iter().map(|&group| v1::Placement { group, ..one.clone() }).collect();
        v1::Transaction { session, number, base_revision: bench.revision(), placements, ..Default::default() }
    };
    let both = asked(&bench, 1, first, &[0, 1]);
    assert_eq!(bench.commit("batch", both).unwrap().granted, 2);
    bench.expire(first);
    bench.wait(31_000_000);
    let anew = asked(&bench, 2, second, &[0]);
    bench.commit("batch", anew);
    bench.evidence
}

#[test]
fn devices_that_are_granted_twice_are_found() {
    is_found(Bug::OverlooksDevices, |found| matches!(found, Violation::DeviceOvercommitted { .. }));
}

#[test]
fn ports_that_are_granted_twice_are_found() {
    is_found(Bug::OverlooksPorts, |found| matches!(found, Violation::PortTwice { .. }));
}

#[test]
fn overlooked_limits_are_found() {
    is_found(
        Bug::OverlooksLimits,
        |found| matches!(found, Violation::RuleBroken { what, .. } if what.contains("of its group are")),
    );
}

/// The checker's fold blocks such a task: a picture says otherwise, or it is granted and does not wait.
#[test]
fn second_instances_beside_those_that_leave_are_found_by_folding() {
    is_found(Bug::OverlooksPredecessors, |found| matches!(found, Violation::OtherPicture { .. }));
}

#[test]
fn second_instances_beside_those_that_nobody_knows_are_found() {
    is_found_from(
        OF_JOBS,
        Bug::OverlooksUnknownTasks,
        |found| matches!(found, Violation::RuleBroken { what, .. } if what.contains("which nobody knows")),
    );
}

#[test]
fn second_instances_before_all_agents_of_a_restored_cell_were_heard_are_found() {
    let _together = PLANTING.read().unwrap_or_else(PoisonError::into_inner);
    planted::plant(Some(Bug::OverlooksTheUnheard));
    let (granted, evidence) = claimed_after_a_restore();
    planted::plant(None);
    assert_eq!(granted, [1, 0]);
    let verdict = check(&evidence);
    let violations = &verdict.violations;
    let too_soon = |what: &str| what.contains("the agent of m2 was not heard yet");
    assert!(matches!(&violations[..], [Violation::RuleBroken { what, .. }] if too_soon(what)), "{violations:?}");
    assert_eq!(&shown::found_as_listed(Bug::OverlooksTheUnheard, &verdict), violations);
}

#[test]
fn overlooked_partitions_are_found() {
    is_found(
        Bug::OverlooksPartitions,
        |found| matches!(found, Violation::RuleBroken { what, .. } if what.contains("partition")),
    );
}

#[test]
fn a_second_partition_that_is_overlooked_is_found() {
    is_found_from(
        OF_TWO,
        Bug::ObeysOnePartition,
        |found| matches!(found, Violation::RuleBroken { what, .. } if what.contains("partition")),
    );
}

#[test]
fn dry_runs_that_take_effect_are_found() {
    is_found(
        Bug::LogsDryRuns,
        |found| matches!(found, Violation::NotAsAsked { what, .. } if what.contains("it was to be a dry run")),
    );
}

#[test]
fn overlooked_sequences_are_found() {
    is_found_from(
        ASKING,
        Bug::OverlooksSequence,
        |found| matches!(found, Violation::NotAsAsked { what, .. } if what.contains("in sequence")),
    );
}

#[test]
fn overlooked_guards_are_found() {
    for sign in ["is granted while a guard fails", "something changed while a guard on all of it fails"] {
        is_found_from(
            ASKING,
            Bug::OverlooksGuards,
            |found| matches!(found, Violation::NotAsAsked { what, .. } if what.contains(sign)),
        );
    }
}

#[test]
fn overlooked_holds_are_found_as_overcommit() {
    is_found(Bug::OverlooksHolds, |found| matches!(found, Violation::Overcommitted { .. }));
}

#[test]
fn holds_that_jump_the_queue_are_found() {
    is_found(
        Bug::JumpsTheQueue,
        |found| matches!(found, Violation::HoldBroken { what, .. } if what.contains("comes first")),
    );
}

/// A hold that is taken for a job, and what becomes of both.
type Held = fn(&mut Bench, u64);

#[test]
fn room_that_is_held_for_nobody_who_waits_is_found() {
    let deeds: [(Bug, &str, Held); 2] = [
        (Bug::KeepsHolds, "the job is over", |bench, job| {
            assert!(bench.hold(job, vec![0], (Resource::CpuMillis, 1000), 60_000_000));
            let job = plenum_model::JobId::from_bits(job).unwrap();
            bench.ask(plenum_model::Command::StopJob { job, version: None });
        }),
        (Bug::HoldsForNothing, "none of its tasks waits", |bench, job| {
            let session = bench.session("batch");
            let (machines, tasks) = (vec![0], vec![0]);
            let placement = v1::Placement { job, job_version: 1, machines, tasks, ..v1::Placement::default() };
            let (base_revision, placements) = (bench.revision(), vec![placement]);
            let asked = v1::Transaction { session, number: 1, base_revision, placements, ..Default::default() };
            assert_eq!(bench.commit("batch", asked).unwrap().granted, 1);
            bench.hold(job, vec![0], (Resource::CpuMillis, 1000), 60_000_000);
        }),
    ];
    for (bug, sign, deed) in deeds {
        let held = || {
            let mut bench = Bench::new();
            bench.machine(bench::machine("m1", 6000, &[]));
            let job = bench.submit(JobBuilder::new("gang", "batch").group("main", 1, 1000).forever().spec());
            deed(&mut bench, job);
            bench.evidence
        };
        let found = |bug: Option<Bug>| found_in(bug, held);
        assert_eq!(found(None), [], "without {bug:?}");
        let violations = found(Some(bug));
        let is_it = |what: &str| what.contains(sign);
        assert!(
            matches!(&violations[..], [Violation::HoldBroken { what, .. }] if is_it(what)),
            "{bug:?}: {violations:?}"
        );
    }
}

#[test]
fn holds_beyond_a_quota_are_found() {
    is_found(Bug::HoldsBeyondQuotas, |found| matches!(found, Violation::QuotaExceeded { .. }));
}

#[test]
fn holds_where_others_are_reserved_are_found() {
    is_found(
        Bug::HoldsAnywhere,
        |found| matches!(found, Violation::HoldBroken { what, .. } if what.contains("partition")),
    );
}

#[test]
fn holds_where_no_task_may_run_are_found() {
    is_found(
        Bug::HoldsAgainstConstraints,
        |found| matches!(found, Violation::HoldBroken { what, .. } if what.contains("constraint")),
    );
}

#[test]
fn unknown_tasks_that_nobody_wrote_down_are_found() {
    is_found(Bug::ForgetsUnknownTasks, |found| matches!(found, Violation::RunsWithoutRoom { .. }));
}

#[test]
fn unknown_tasks_whose_room_is_freed_by_time_are_found() {
    is_found(Bug::FreesUnknownTasks, |found| matches!(found, Violation::RunsWithoutRoom { .. }));
}

#[test]
fn jobs_that_are_launched_again_are_found() {
    is_found(Bug::LaunchesAgain, |found| matches!(found, Violation::LaunchedAgain { .. }));
}

/// What may be done where tasks run on the machine of this id, and stops none of them.
type Deed = fn(&mut Bench, u64);

#[test]
fn tasks_that_leave_without_a_reason_are_found() {
    let deeds: [(Bug, Deed); 4] = [
        (Bug::EvictsByLoweredQuota, |bench, _| bench.quota("default", Some((Resource::CpuMillis, 1000)))),
        (Bug::EvictsByChangedAttributes, |bench, machine| {
            let mut again = bench::machine("m1", 6000, &[("rack", "r2")]);
            (again.seen_revision, again.inventory) = (bench.revision(), bench.inventory(machine));
            bench.machine(again);
        }),
        (Bug::DrainsTooSoon, |bench, machine| {
            bench.drain(machine, true);
            bench.wait(1_000_000);
        }),
        (Bug::LosesTooSoon, |bench, machine| {
            bench.expire(machine);
            bench.wait(31_000_000);
        }),
    ];
    for (bug, deed) in deeds {
        let found = |bug: Option<Bug>| found_in(bug, || running(deed));
        assert_eq!(found(None), [], "without {bug:?}");
        let violations = found(Some(bug));
        let leaves = |one: &Violation| matches!(one, Violation::LeavesWithoutReason { .. });
        assert!(violations.iter().any(leaves), "{bug:?}: {violations:?}");
    }
}

/// Three tasks run on a machine, and something is done there.
fn running(deed: Deed) -> Evidence {
    let mut bench = Bench::new();
    let machine = bench.machine(bench::machine("m1", 6000, &[("rack", "r1")]));
    let job = bench.submit(JobBuilder::new("steady", "batch").group("main", 3, 1000).forever().spec());
    let session = bench.session("batch");
    let (machines, tasks) = (vec![slot_of(machine); 3], vec![0, 1, 2]);
    let placement = v1::Placement { job, job_version: 1, machines, tasks, ..v1::Placement::default() };
    let (base_revision, placements) = (bench.revision(), vec![placement]);
    let asked = v1::Transaction { session, number: 1, base_revision, placements, ..v1::Transaction::default() };
    assert_eq!(bench.commit("batch", asked).unwrap().granted, 3);
    deed(&mut bench, machine);
    bench.evidence
}
