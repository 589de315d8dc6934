//! A green run means something only if a bug makes it red, and the right checker finds it: one planted bug for each rule, and none without.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use plenum_model::planted::{self, Bug};
use plenum_simulator::{Failure, Tally, finds, run};

/// Seeds within which a planted bug is found: most of them within a few, one that needs a rival whose right was just taken within hundreds.
const SEEDS: Range<u64> = 0..1000;

/// Bugs in what is not simulated, a server's threads, its start and its memory: they have their tests in `tests/checker`, `planted`, where a test
/// compares its list with this one.
const OUTSIDE: &[Bug] = &[Bug::KeepsAllForWatchers, Bug::OverlooksFullDisks, Bug::RecoversAnother];

/// Tries seeds until this checker fails, those first of which it is known. Others may fail before: the cell is then broken in more than one way.
/// Gives the seed.
fn found(bug: Bug, invariant: &str, known: &[u64]) -> u64 {
    let mut others = std::collections::BTreeMap::<String, u64>::new();
    for seed in known.iter().copied().chain(SEEDS) {
        let Some(what) = finds(bug, seed) else { continue };
        let first = what.split(':').next().unwrap_or_default();
        if first == invariant {
            return seed;
        }
        *others.entry(first.to_owned()).or_default() += 1;
    }
    panic!("{bug} was not found by {invariant} within {SEEDS:?}; found by others: {others:?}");
}

/// What comes of a seed with a bug that strikes now and then, when so many questions for it came before: what is wrong, and its story.
fn after(questions: u64, bug: Bug, seed: u64) -> Result<Tally, (String, String)> {
    planted::plant(Some(bug));
    for _ in 0..questions {
        let _ = planted::strikes(bug, 7);
    }
    let played = run(seed);
    planted::plant(None);
    played.map_err(|failure| {
        let Failure { what, story, .. } = *failure;
        (what, story)
    })
}

// The questions of the run before counted in the next one: the story of a failure was that of another one, or there was none.
#[test]
fn a_bug_that_strikes_now_and_then_strikes_again_where_it_did_when_a_seed_is_played_again() {
    let mut found = 0;
    for seed in 0..3 {
        let first = after(0, Bug::LosesBatches, seed);
        found += u64::from(first.is_err());
        for questions in [1, 4] {
            let again = after(questions, Bug::LosesBatches, seed);
            // Not all of their stories.
            let what = |of: &Result<Tally, (String, String)>| of.as_ref().err().map(|(what, _)| what.clone());
            assert!(again == first, "seed {seed}: {:?}, and then {:?}", what(&first), what(&again));
        }
    }
    assert!(found > 0, "it was not found in any of these seeds");
}

/// The names of all checkers, as the simulator's sources have them.
fn checkers() -> BTreeSet<String> {
    let mut checkers = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("the project's folders are readable") {
            let path = entry.expect("the project's folders are readable").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a source file is text");
            let names = text.split("\"invariant_").skip(1).filter_map(|rest| rest.split('"').next());
            checkers.extend(names.map(|name| format!("invariant_{name}")));
        }
    }
    checkers
}

// Each with a seed that found it: a search from the first one on takes some hundred times as long for a few. Where it does not find it any more, as
// after a change of what is drawn, the search begins, and says what to write here.
macro_rules! found {
    ($($name:ident: $bug:ident by $invariant:literal $(at $seed:literal)?;)*) => {
        $(#[test]
        fn $name() {
            let (bug, known) = (Bug::$bug, &[$($seed)?]);
            let seed = found(bug, $invariant, known);
            if !known.contains(&seed) {
                println!("{bug} is found at {seed}, and known to be at {known:?}");
            }
        })*

        #[test]
        fn every_planted_bug_has_its_test() {
            let tested = [$(Bug::$bug),*];
            let tested = |bug: &Bug| tested.contains(bug) || OUTSIDE.contains(bug);
            let untested: Vec<Bug> = Bug::ALL.into_iter().filter(|bug| !tested(bug)).collect();
            assert!(untested.is_empty(), "{untested:?}");
        }

        #[test]
        fn every_checker_has_a_bug_that_it_finds() {
            let shown: BTreeSet<String> = [$($invariant.to_owned()),*].into();
            assert_eq!(checkers(), shown);
        }
    };
}

found! {
    grants_without_room_are_found: GrantsWithoutRoom by "invariant_no_grant_makes_room_negative" at 4;
    grants_on_machines_that_take_none_are_found: GrantsOnAnyMachine by "invariant_every_grant_was_valid_at_its_revision" at 0;
    grants_on_machines_whose_agents_want_none_are_found:
        OverlooksFitness by "invariant_every_grant_was_valid_at_its_revision" at 1;
    conflicts_without_a_culprit_are_found: BlamesNobody by "invariant_conflicts_name_true_culprits" at 0;
    conflicts_with_an_event_that_never_was_are_found: BlamesEvents by "invariant_conflicts_name_true_culprits" at 0;
    culprits_that_took_less_than_what_is_short_are_found:
        HalvesBlame by "invariant_culprits_took_what_was_short" at 4;
    culprits_that_are_not_the_newest_are_found: BlamesOlder by "invariant_culprits_are_the_newest" at 20;
    half_a_gang_is_found: ForgetsMinimums by "invariant_minimums_hold" at 4;
    an_atomic_transaction_that_keeps_its_stops_is_found: ForgetsAtomic by "invariant_minimums_hold" at 11;
    a_picture_that_is_not_the_fold_is_found: PicturesHalf by "invariant_everybody_has_the_same_cell" at 0;
    answers_before_the_sync_are_found: AnswersBeforeSync by "invariant_acknowledged_survives_any_crash" at 7;
    a_disk_that_lies_about_syncs_is_found: LyingDisk by "invariant_a_crash_is_no_damage" at 7;
    a_number_that_is_decided_twice_is_found: ForgetsNumbers by "invariant_a_number_takes_effect_at_most_once" at 4;
    a_constraint_that_is_overlooked_is_found: OverlooksConstraints by "invariant_no_decision_breaks_a_declared_rule" at 18;
    a_limit_that_is_overlooked_is_found: OverlooksLimits by "invariant_no_decision_breaks_a_declared_rule" at 5;
    a_quota_that_is_overlooked_is_found: OverlooksQuotas by "invariant_no_grant_exceeds_a_quota" at 6;
    a_partition_that_is_overlooked_is_found: OverlooksPartitions by "invariant_no_decision_breaks_a_declared_rule" at 11;
    a_device_that_is_granted_twice_is_found: OverlooksDevices by "invariant_no_device_or_port_is_given_twice" at 1;
    a_port_that_is_granted_twice_is_found: OverlooksPorts by "invariant_no_device_or_port_is_given_twice" at 4;
    a_sequence_that_others_broke_is_found: OverlooksSequence by "invariant_every_grant_was_valid_at_its_revision" at 4;
    a_guard_that_is_overlooked_is_found: OverlooksGuards by "invariant_every_grant_was_valid_at_its_revision" at 4;
    a_pause_that_is_overlooked_is_found: OverlooksPauses by "invariant_every_grant_was_valid_at_its_revision" at 3;
    a_second_instance_beside_one_that_leaves_is_found:
        OverlooksPredecessors by "invariant_every_grant_was_valid_at_its_revision" at 6;
    a_second_instance_beside_one_that_runs_unknown_is_found:
        OverlooksUnknownTasks by "invariant_every_grant_was_valid_at_its_revision" at 57;
    a_second_instance_before_all_agents_were_heard_is_found:
        OverlooksTheUnheard by "invariant_every_grant_was_valid_at_its_revision" at 1;
    a_version_that_was_expected_and_is_overlooked_is_found:
        OverlooksExpectations by "invariant_what_was_expected_was_there" at 4;
    a_hold_that_is_overlooked_is_found: OverlooksHolds by "invariant_no_grant_takes_room_that_is_held_for_others" at 6;
    a_hold_that_jumps_the_queue_is_found: JumpsTheQueue by "invariant_holds_take_room_from_later_ones_only" at 33;
    a_hold_beyond_a_quota_is_found: HoldsBeyondQuotas by "invariant_no_grant_exceeds_a_quota" at 6;
    a_hold_where_others_are_is_found: HoldsAnywhere by "invariant_holds_are_where_their_job_may_be" at 11;
    a_hold_where_no_task_may_run_is_found: HoldsAgainstConstraints by "invariant_holds_are_where_their_job_may_be";
    a_hold_for_what_does_not_wait_is_found: HoldsForNothing by "invariant_holds_are_for_what_waits" at 3;
    a_hold_for_which_there_is_no_place_is_found:
        HoldsWithoutPlace by "invariant_nothing_comes_above_a_bound" at 52;
    a_hold_of_a_job_that_is_over_is_found:
        KeepsHolds by "invariant_holds_are_of_live_jobs_on_machines_that_are_there" at 17;
    a_granted_task_that_counts_as_unknown_is_found: ForgetsWhatItGranted by "invariant_unknown_tasks_are_unknown" at 0;
    an_unknown_task_that_nobody_wrote_down_is_found: ForgetsUnknownTasks by "invariant_what_runs_is_live" at 4;
    an_unknown_task_that_leaves_too_soon_is_found:
        FreesUnknownTasks by "invariant_unknown_tasks_go_only_when_nothing_of_them_runs" at 52;
    a_job_that_is_launched_again_is_found: LaunchesAgain by "invariant_each_instant_is_launched_once_and_in_order" at 6;
    a_session_that_outlives_its_cell_is_found: KeepsSessions by "invariant_nobody_goes_on_in_a_restored_cell" at 1;
    victims_of_an_equal_band_are_found: EvictsAnybody by "invariant_only_lower_bands_are_evicted" at 4;
    victims_of_who_may_not_evict_are_found: EvictsWithoutRight by "invariant_only_who_may_evicts" at 332;
    room_that_is_handed_over_twice_is_found: HandsOverTwice by "invariant_room_is_handed_over_once" at 4;
    room_that_is_handed_over_by_who_waits_for_it_is_found:
        HandsOverWhatIsAwaited by "invariant_room_is_handed_over_once" at 11;
    a_successor_that_starts_too_soon_is_found: StartsTooSoon by "invariant_a_successor_waits_for_its_victims" at 1;
    a_restart_beside_the_start_before_is_found:
        RestartsTooSoon by "invariant_one_start_of_an_allocation_runs_at_a_time" at 5;
    decisions_by_hidden_state_are_found: DecidesByHiddenState by "invariant_deciding_again_gives_the_same_bytes" at 0;
    room_that_leaks_is_found: LeaksRoom by "invariant_used_equals_the_sum_of_live_allocations" at 0;
    two_allocations_of_a_task_are_found: RevivesTheLeaving by "invariant_one_allocation_per_task_is_not_leaving" at 1;
    a_job_that_is_torn_apart_is_found: TearsApart by "invariant_tasks_that_share_a_machine_stay_together" at 89;
    a_task_that_never_runs_again_is_found: NeverTriesAgain by "invariant_everything_that_fits_runs_once_faults_stop" at 1;
    a_refused_transaction_with_an_effect_is_found: CallsPartsRefused by "invariant_refused_has_no_effect" at 4;
    a_refusal_that_ends_a_hold_is_found: RefusalsEndHolds by "invariant_refused_has_no_effect" at 4;
    a_conflict_that_is_denied_is_found:
        DeniesConflicts by "invariant_conflict_fitted_at_the_base_and_misfit_did_not" at 12;
    a_conflict_that_is_said_to_be_too_old_is_found: CallsStale by "invariant_stale_is_what_nobody_remembers" at 0;
    a_quota_that_is_blamed_though_it_has_room_is_found: RefusesByQuota by "invariant_what_refuses_a_claim_is_there" at 4;
    a_partition_that_is_blamed_though_it_is_open_is_found:
        RefusesByPartition by "invariant_what_refuses_a_claim_is_there" at 4;
    a_right_that_is_missed_though_nobody_was_to_leave_is_found:
        RefusesByRight by "invariant_what_refuses_a_claim_is_there" at 4;
    a_guard_that_is_blamed_though_it_holds_is_found: RefusesByGuard by "invariant_what_refuses_a_claim_is_there" at 4;
    mates_that_are_blamed_though_none_was_lost_are_found:
        RefusesAsMate by "invariant_what_refuses_a_claim_is_there" at 4;
    a_limit_that_is_blamed_though_it_is_not_reached_is_found:
        RefusesByLimit by "invariant_what_refuses_a_claim_is_there" at 4;
    a_predecessor_that_is_blamed_though_there_is_none_is_found:
        RefusesByPredecessor by "invariant_what_refuses_a_claim_is_there" at 4;
    a_version_that_is_blamed_though_it_is_the_claim_s_is_found:
        RefusesByVersion by "invariant_what_refuses_a_claim_is_there" at 4;
    another_answer_to_a_repeated_number_is_found:
        AnswersAnew by "invariant_a_repeated_number_gets_the_same_answer" at 4;
    a_batch_that_is_not_written_is_found: LosesBatches by "invariant_revisions_have_no_gaps" at 0;
    a_snapshot_of_what_is_not_durable_is_found:
        ShowsTooSoon by "invariant_a_mirror_is_the_cell_at_its_revision" at 3;
    a_batch_that_is_not_shown_is_found: ForgetsToPublish by "invariant_published_without_gaps" at 0;
    a_log_that_is_not_what_was_shown_is_found: LogsAnotherTime by "invariant_the_log_is_a_prefix_of_what_was_sent" at 0;
    deltas_that_are_left_out_are_found: LeavesOutDeltas by "invariant_no_notice_is_a_bug" at 0;
    a_scheduler_that_is_ahead_of_its_time_is_found:
        HearsTheFuture by "invariant_nothing_is_claimed_before_its_backoff_ends" at 2;
    a_server_that_takes_what_is_due_at_once_is_found:
        TakesAtOnce by "invariant_nothing_is_taken_before_all_were_heard" at 0;
    a_server_that_counts_its_sleep_is_found: CountsItsSleep by "invariant_no_lease_ends_by_its_server_s_sleep" at 14;
    a_dead_agent_that_is_believed_is_found: BelievesTheLate by "invariant_the_agent_that_asked_last_counts" at 23;
    receipts_for_what_still_runs_are_found: HastyReceipts by "invariant_what_runs_is_live" at 0;
    batches_without_an_end_are_found: CutsBatches by "invariant_the_log_can_be_read" at 0;
    another_outcome_than_the_log_has_is_found:
        TellsAnotherOutcome by "invariant_an_outcome_is_what_the_log_says" at 0;
    outcomes_that_come_too_soon_are_found: TellsOutcomesFirst by "invariant_deltas_precede_their_outcome" at 0;
    damage_that_is_not_named_is_found: HidesDamage by "invariant_damage_is_named" at 0;
    a_disk_that_loses_what_it_held_is_found: RotReadsAsZeros by "invariant_only_the_last_frame_is_cut" at 349;
    a_mirror_of_another_cell_is_found: MirrorsAnother by "invariant_a_mirror_is_the_cell_at_its_revision" at 0;
    room_that_is_freed_too_soon_is_found:
        FreesAtExpiry by "invariant_room_is_freed_only_by_receipts_boots_and_removals" at 0;
    a_core_that_keeps_what_it_does_not_say_is_found:
        KeepsAnother by "invariant_a_snapshot_is_the_fold_of_all_deltas" at 0;
    a_torn_backup_is_found: TearsBackups by "invariant_a_backup_is_sound" at 15;
    a_log_that_ends_too_soon_is_found: AnswersBeforeSync by "invariant_the_log_ends_with_the_cell" at 0;
    answers_before_they_are_true_are_found: AnswersAtOnce by "invariant_published_before_answered" at 0;
    a_job_that_is_given_up_is_found: GivesUpAtOnce by "invariant_jobs_that_fit_complete" at 1;
    tasks_that_are_miscounted_are_found: MiscountsTheLeaving by "invariant_counters_count_their_tasks" at 0;
    agents_that_are_waited_for_though_they_were_heard_are_found:
        MiscountsTheUnheard by "invariant_unknown_tasks_are_unknown" at 1;
    names_of_unknown_tasks_that_have_ended_are_found: NamesTheEnded by "invariant_unknown_tasks_are_unknown" at 1;
    a_number_of_resources_that_is_given_twice_is_found:
        GivesUsedNumbers by "invariant_allocations_have_what_their_groups_declare" at 0;
    a_second_start_is_found: StartsAgain by "invariant_at_most_one_start" at 37;
    a_server_that_tells_old_revisions_is_found: TellsOldRevisions by "invariant_a_server_never_offers_less" at 4;
    a_dry_run_that_takes_effect_is_found: LogsDryRuns by "invariant_a_dry_run_changes_nothing" at 10;
    a_start_after_the_lease_is_found: StartsWithoutLease by "invariant_nothing_starts_without_a_lease" at 85;
    a_start_beside_what_was_placed_elsewhere_is_found:
        StartsBesideTheFenced by "invariant_nothing_starts_beside_what_is_fenced" at 4;
    an_end_that_is_told_as_another_is_found: ForgetsExits by "invariant_ends_are_told_as_they_were" at 0;
    quota_that_victims_of_another_namespace_give_is_found:
        CreditsOtherNamespaces by "invariant_no_grant_exceeds_a_quota" at 134;
    a_second_partition_that_is_overlooked_is_found:
        ObeysOnePartition by "invariant_no_decision_breaks_a_declared_rule" at 547;
    a_hold_that_a_sequence_does_not_see_is_found:
        SequenceIgnoresHolds by "invariant_every_grant_was_valid_at_its_revision" at 110;
    a_lowered_limit_that_stops_a_task_is_found: EvictsByLoweredQuota by "invariant_whoever_leaves_has_a_reason" at 6;
    changed_attributes_that_stop_a_task_are_found:
        EvictsByChangedAttributes by "invariant_whoever_leaves_has_a_reason" at 0;
    a_drain_that_does_not_wait_for_its_deadline_is_found:
        DrainsTooSoon by "invariant_whoever_leaves_has_a_reason" at 13;
    a_drain_that_goes_on_behind_its_deadline_is_found:
        DrainsTooLate by "invariant_what_is_due_happens_in_time" at 13;
    a_hold_that_ends_before_its_deadline_is_found:
        EndsHoldsTooSoon by "invariant_nothing_happens_before_its_time" at 47;
    a_task_that_is_lost_too_soon_is_found: LosesTooSoon by "invariant_whoever_leaves_has_a_reason" at 0;
    a_cell_that_gives_up_all_its_machines_is_found:
        GivesUpTooMany by "invariant_whoever_leaves_has_a_reason" at 26;
    a_task_that_waits_for_who_has_ended_is_found:
        KeepsSuccessorsWaiting by "invariant_counters_count_their_tasks" at 4;
    a_victim_that_is_not_told_is_found: HidesVictims by "invariant_an_outcome_tells_what_was_done" at 1;
    an_allocation_that_goes_on_when_it_is_stopped_is_found: LetsRunOn by "invariant_what_is_accepted_is_done" at 3;
    a_right_that_is_said_to_be_as_wanted_and_is_not_is_found: ForgetsRights by "invariant_what_is_accepted_is_done" at 13;
    an_instant_of_which_no_job_comes_is_found:
        LaunchesNobody by "invariant_each_instant_is_launched_once_and_in_order" at 3;
    a_job_that_comes_without_its_launch_is_found:
        ForgetsLaunches by "invariant_each_instant_is_launched_once_and_in_order" at 3;
    a_victim_of_whom_nothing_is_needed_is_found: EvictsForNothing by "invariant_nobody_goes_for_nothing" at 4;
    room_that_is_taken_over_and_not_needed_is_found: TakesAllOver by "invariant_nobody_goes_for_nothing" at 1;
    a_stream_that_asks_for_ever_is_found: AsksForEver by "invariant_everything_that_fits_runs_once_faults_stop" at 0;
}
