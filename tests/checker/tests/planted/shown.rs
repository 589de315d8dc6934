//! Which test shows which property to fail, and by which bug. Whoever removes a test from here, or adds a property or a bug and no test, is told.

use std::collections::BTreeSet;

use plenum_checker::Violation;
use plenum_checker::properties::Verdict;
use plenum_model::planted::Bug;

/// The page of all properties: a table of them stands at its head.
const PROPERTIES: &str = include_str!("../../src/properties.rs");
/// The simulator's list of bugs, with those that it leaves to these tests.
const OF_THE_SIMULATOR: &str = include_str!("../../../simulator/tests/simulation/bugs.rs");
/// The tests that plant bugs.
const TESTS: [&str; 2] = [include_str!("main.rs"), include_str!("served.rs")];

/// A test, with the bug that it plants and the property that finds it.
struct Shown {
    test: &'static str,
    bug: Bug,
    property: &'static str,
}

macro_rules! shown {
    ($($test:ident: $bug:ident by $property:ident;)*) => {
        const SHOWN: &[Shown] =
            &[$(Shown { test: stringify!($test), bug: Bug::$bug, property: stringify!($property) }),*];
    };
}

shown! {
    granting_without_room_is_found_as_overcommit: GrantsWithoutRoom by property_no_room_is_overcommitted;
    granting_on_machines_that_take_no_claims_is_found: GrantsOnAnyMachine by property_declared_rules_hold;
    overlooking_constraints_is_found: OverlooksConstraints by property_declared_rules_hold;
    conflicts_that_blame_nobody_are_found: BlamesNobody by property_culprits_are_true;
    conflicts_that_blame_an_event_that_never_was_are_found: BlamesEvents by property_culprits_are_true;
    conflicts_that_leave_out_the_newest_culprit_are_found: BlamesOlder by property_culprits_are_true;
    conflicts_that_are_denied_are_found_whatever_was_lost: DeniesConflicts by property_culprits_are_true;
    quotas_that_are_blamed_though_they_have_room_are_found: RefusesByQuota by property_culprits_are_true;
    rights_and_partitions_that_are_blamed_though_they_are_not_in_the_way_are_found:
        RefusesByPartition by property_culprits_are_true;
    rights_and_partitions_that_are_blamed_though_they_are_not_in_the_way_are_found:
        RefusesByRight by property_culprits_are_true;
    minimums_that_are_said_to_be_missed_where_there_is_none_are_found: RefusesAsMate by property_culprits_are_true;
    limits_that_are_blamed_though_they_are_not_reached_are_found: RefusesByLimit by property_culprits_are_true;
    conflicts_that_are_said_to_be_too_old_are_found: CallsStale by property_culprits_are_true;
    forgotten_minimums_are_found: ForgetsMinimums by property_minimums_hold;
    culprits_that_took_less_than_what_is_short_are_found: HalvesBlame by property_culprits_are_true;
    an_atomic_transaction_that_keeps_its_stops_is_found: ForgetsAtomic by property_minimums_hold;
    parts_that_are_called_refused_are_found: CallsPartsRefused by property_minimums_hold;
    overlooked_pauses_are_found: OverlooksPauses by property_declared_rules_hold;
    holds_that_a_sequence_overlooks_are_found: SequenceIgnoresHolds by property_guards_and_sequence_hold;
    forgotten_numbers_are_found_as_taking_effect_twice: ForgetsNumbers by property_a_number_takes_effect_once;
    room_that_leaks_is_found_in_the_sums: LeaksRoom by property_used_is_the_sum;
    pictures_that_leave_something_out_are_found_by_folding: PicturesHalf by property_snapshots_equal_the_fold;
    allocations_that_come_back_to_life_are_found_as_twice_per_task:
        RevivesTheLeaving by property_a_task_has_one_allocation;
    allocations_that_come_back_to_life_are_found_as_leaving_no_more:
        RevivesTheLeaving by property_whoever_leaves_has_a_reason;
    overlooked_quotas_are_found: OverlooksQuotas by property_quotas_and_priorities_hold;
    quota_that_victims_of_another_namespace_give_is_found:
        CreditsOtherNamespaces by property_quotas_and_priorities_hold;
    victims_of_an_equal_band_are_found: EvictsAnybody by property_quotas_and_priorities_hold;
    victims_of_who_may_not_evict_are_found: EvictsWithoutRight by property_quotas_and_priorities_hold;
    room_that_is_handed_over_twice_is_found: HandsOverTwice by property_no_room_is_overcommitted;
    room_that_is_handed_over_by_who_waits_for_it_is_found: HandsOverWhatIsAwaited by property_no_room_is_overcommitted;
    a_job_that_is_torn_apart_is_found: TearsApart by property_declared_rules_hold;
    devices_that_are_granted_twice_are_found: OverlooksDevices by property_no_room_is_overcommitted;
    ports_that_are_granted_twice_are_found: OverlooksPorts by property_no_room_is_overcommitted;
    overlooked_limits_are_found: OverlooksLimits by property_declared_rules_hold;
    second_instances_beside_those_that_leave_are_found_by_folding:
        OverlooksPredecessors by property_snapshots_equal_the_fold;
    second_instances_beside_those_that_nobody_knows_are_found: OverlooksUnknownTasks by property_declared_rules_hold;
    second_instances_before_all_agents_of_a_restored_cell_were_heard_are_found:
        OverlooksTheUnheard by property_declared_rules_hold;
    overlooked_partitions_are_found: OverlooksPartitions by property_declared_rules_hold;
    a_second_partition_that_is_overlooked_is_found: ObeysOnePartition by property_declared_rules_hold;
    dry_runs_that_take_effect_are_found: LogsDryRuns by property_dry_runs_change_nothing;
    overlooked_sequences_are_found: OverlooksSequence by property_guards_and_sequence_hold;
    overlooked_guards_are_found: OverlooksGuards by property_guards_and_sequence_hold;
    overlooked_holds_are_found_as_overcommit: OverlooksHolds by property_no_room_is_overcommitted;
    holds_that_jump_the_queue_are_found: JumpsTheQueue by property_holds_keep_their_order;
    room_that_is_held_for_nobody_who_waits_is_found: KeepsHolds by property_holds_keep_their_order;
    room_that_is_held_for_nobody_who_waits_is_found: HoldsForNothing by property_holds_keep_their_order;
    holds_beyond_a_quota_are_found: HoldsBeyondQuotas by property_quotas_and_priorities_hold;
    holds_where_others_are_reserved_are_found: HoldsAnywhere by property_holds_keep_their_order;
    holds_where_no_task_may_run_are_found: HoldsAgainstConstraints by property_holds_keep_their_order;
    unknown_tasks_that_nobody_wrote_down_are_found: ForgetsUnknownTasks by property_what_runs_has_room;
    unknown_tasks_whose_room_is_freed_by_time_are_found: FreesUnknownTasks by property_what_runs_has_room;
    jobs_that_are_launched_again_are_found: LaunchesAgain by property_each_instant_is_launched_once;
    tasks_that_leave_without_a_reason_are_found: EvictsByLoweredQuota by property_whoever_leaves_has_a_reason;
    tasks_that_leave_without_a_reason_are_found: EvictsByChangedAttributes by property_whoever_leaves_has_a_reason;
    tasks_that_leave_without_a_reason_are_found: DrainsTooSoon by property_whoever_leaves_has_a_reason;
    tasks_that_leave_without_a_reason_are_found: LosesTooSoon by property_whoever_leaves_has_a_reason;
    revisions_that_a_watcher_is_not_told_of_are_found_as_gaps: LeavesOutDeltas by property_revisions_have_no_gaps;
    answers_before_the_sync_are_found_as_lost: AnswersBeforeSync by property_acknowledged_is_durable;
    a_full_disk_that_goes_on_acknowledging_is_found: OverlooksFullDisks by property_a_full_disk_only_refuses;
    damage_that_is_not_named_is_found: HidesDamage by property_damage_is_named;
    a_log_that_becomes_another_cell_is_found: RecoversAnother by property_damage_is_named;
    a_cell_that_comes_back_with_another_picture_is_found_by_folding:
        RecoversAnother by property_snapshots_equal_the_fold;
    deltas_that_are_kept_for_who_does_not_read_are_found_and_so_is_their_memory:
        KeepsAllForWatchers by property_slow_watchers_cost_nobody;
}

/// What the properties found that are to find this bug: what others find of it shows nothing of them.
pub(super) fn found_as_listed(bug: Bug, verdict: &Verdict) -> Vec<Violation> {
    let is_listed = |property: &str| SHOWN.iter().any(|one| one.bug == bug && one.property == property);
    verdict.found().filter(|(property, _)| is_listed(property)).map(|(_, violation)| violation.clone()).collect()
}

/// What an audit is to find, and no property.
const OF_AUDITS: &[&str] = &["a_log_that_is_decided_again_as_wrongly_is_found_by_its_audit"];

/// Properties that no planted bug shows to fail, each with the test that does so with forged evidence, and the text in which that is.
const FORGED: [(&str, &str, &str); 5] = [
    (
        "property_acknowledged_is_listed",
        "an_acknowledged_transaction_that_the_cell_does_not_list_is_lost",
        include_str!("../checker/listed.rs"),
    ),
    (
        "property_the_history_reaches_what_was_told",
        "an_acknowledged_write_that_the_cell_does_not_have_is_lost",
        include_str!("../checker/forged.rs"),
    ),
    (
        "property_replies_equal_the_fold",
        "a_reply_that_names_other_allocations_than_the_delta_is_found",
        include_str!("../checker/forged.rs"),
    ),
    (
        "property_real_time_order_holds",
        "what_was_decided_before_something_that_was_acknowledged_before_it_was_asked_is_found",
        include_str!("../checker/forged.rs"),
    ),
    (
        "property_spares_are_taken_in_order",
        "a_spare_machine_before_whose_turn_another_one_had_room_is_found",
        include_str!("../checker/asked.rs"),
    ),
];

/// The names of all tests of a source, each with its body.
fn tests_of(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let attributes = ["#[test]\n", "#[tokio::test]\n"];
    let tests = attributes.into_iter().flat_map(|attribute| text.split(attribute).skip(1));
    let tests = tests.filter_map(|rest| rest.split("\n}\n").next());
    tests.filter_map(|test| test.split_once("fn ").and_then(|(_, named)| named.split_once("() ")))
}

/// The functions that the table names, each with the row's number, or none.
fn table() -> Vec<(&'static str, &'static str)> {
    let rows = PROPERTIES.lines().filter_map(|line| line.strip_prefix("//! | ")).filter(|row| row.contains("[`"));
    rows.flat_map(|row| {
        let (number, functions) = row.split_once('|').expect("a row has two columns");
        let functions = functions.split("[`").skip(1).filter_map(|rest| rest.split('`').next());
        functions.map(move |function| (number.trim(), function))
    })
    .collect()
}

#[test]
fn every_property_is_in_the_table_and_was_seen_to_fail() {
    let named: BTreeSet<&str> = table().iter().map(|(_, function)| *function).collect();
    let exported = PROPERTIES.split(|character: char| !character.is_alphanumeric() && character != '_');
    let exported: BTreeSet<&str> = exported.filter(|word| word.starts_with("property_")).collect();
    assert_eq!(named, exported, "the table of `properties.rs` names each of them");
    let shown: BTreeSet<&str> = SHOWN.iter().map(|one| one.property).collect();
    let forged: BTreeSet<&str> = FORGED.iter().map(|(property, ..)| *property).collect();
    let seen: BTreeSet<&str> = shown.union(&forged).copied().collect();
    assert_eq!(seen, named, "each of them was seen to fail, and nothing else");
    assert!(shown.is_disjoint(&forged), "what a bug shows to fail needs no excuse");
    for (property, test, text) in FORGED {
        assert!(tests_of(text).any(|(name, _)| name == test), "there is no {test}, which shows that {property} fails");
    }
}

#[test]
fn every_property_with_a_number_is_shown_to_fail_by_a_bug() {
    let table = table();
    let numbers = table.iter().filter(|(number, _)| !number.is_empty());
    let numbers: BTreeSet<u32> = numbers.map(|(number, _)| number.parse().unwrap()).collect();
    assert_eq!(numbers, (1..=9).chain([15, 16, 18]).collect());
    for number in numbers {
        let is_shown = |function: &str| SHOWN.iter().any(|one| one.property == function);
        let mut of_it = table.iter().filter(|(row, _)| *row == number.to_string());
        assert!(of_it.any(|(_, function)| is_shown(function)), "no bug shows that property {number} fails");
    }
}

// The list of the simulator named such bugs, and pointed here: whoever removed a test from here was told by nobody.
#[test]
fn every_bug_that_the_simulator_leaves_to_others_is_planted_here() {
    let list = OF_THE_SIMULATOR.split_once("const OUTSIDE: &[Bug] = &[").and_then(|(_, rest)| rest.split_once("];"));
    let (list, _) = list.expect("the simulator says which bugs are not its own");
    let outside: Vec<&str> = list.split("Bug::").skip(1).filter_map(|rest| rest.split([',', '\n']).next()).collect();
    assert!(outside.len() > 2, "{outside:?}");
    let planted: BTreeSet<String> = SHOWN.iter().map(|one| format!("{:?}", one.bug)).collect();
    let unplanted: Vec<_> = outside.into_iter().filter(|bug| !planted.contains(*bug)).collect();
    assert!(unplanted.is_empty(), "no test of the checker plants these: {unplanted:?}");
}

// What the list said of a property was compared with nothing. Of the other tests, `found_as_listed` does.
#[test]
fn a_test_that_asks_one_property_asks_the_one_that_it_is_listed_with() {
    let mut asked = 0;
    for (test, body) in tests_of(TESTS[1]) {
        for one in SHOWN.iter().filter(|one| one.test == test) {
            assert!(body.contains(one.property), "{test} does not ask {}", one.property);
            asked += 1;
        }
    }
    assert!(asked > 5, "only {asked} were found");
}

#[test]
fn the_list_has_each_test_that_plants_a_bug_and_no_other() {
    let mut planting = BTreeSet::new();
    for (test, body) in TESTS.into_iter().flat_map(tests_of).filter(|(test, _)| !OF_AUDITS.contains(test)) {
        let bugs = body.split("Bug::").skip(1).filter_map(|rest| rest.split(|end: char| !end.is_alphanumeric()).next());
        planting.extend(bugs.map(|bug| (test, bug.to_owned())));
    }
    let listed: BTreeSet<_> = SHOWN.iter().map(|one| (one.test, format!("{:?}", one.bug))).collect();
    assert_eq!(listed, planting);
    for audit in OF_AUDITS {
        assert!(TESTS.into_iter().flat_map(tests_of).any(|(test, _)| test == *audit), "there is no {audit}");
    }
}
