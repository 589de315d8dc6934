//! A green run means something only if a bug makes it red, and the right checker finds it: one planted bug for each rule, and none without.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use plenum_model::planted::{self, Bug};
use plenum_simulator::{Failure, Tally, run, run_with};

/// Seeds within which a planted bug is found: most of them within a few, one that needs a rival whose right was just taken within hundreds.
const SEEDS: Range<u64> = 0..1000;

/// Bugs in what is not simulated, a server's threads, its start and its memory: they have their tests in `tests/checker`, `planted`, where a test
/// compares its list with this one.
const OUTSIDE: &[Bug] = &[Bug::KeepsAllForWatchers, Bug::OverlooksFullDisks, Bug::RecoversAnother];

/// Tries seeds until this checker fails. Others may fail before: the cell is then broken in more than one way.
fn is_found(bug: Bug, invariant: &str) {
    let mut others = std::collections::BTreeMap::<String, u64>::new();
    for seed in SEEDS {
        let Err(failure) = run_with(bug, seed) else { continue };
        let first = failure.what.split(':').next().unwrap_or_default();
        if first == invariant {
            return;
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

macro_rules! found {
    ($($name:ident: $bug:ident by $invariant:literal;)*) => {
        $(#[test]
        fn $name() {
            is_found(Bug::$bug, $invariant);
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
    grants_without_room_are_found: GrantsWithoutRoom by "invariant_no_grant_makes_room_negative";
    grants_on_machines_that_take_none_are_found: GrantsOnAnyMachine by "invariant_every_grant_was_valid_at_its_revision";
    grants_on_machines_whose_agents_want_none_are_found:
        OverlooksFitness by "invariant_every_grant_was_valid_at_its_revision";
    conflicts_without_a_culprit_are_found: BlamesNobody by "invariant_conflicts_name_true_culprits";
    conflicts_with_an_event_that_never_was_are_found: BlamesEvents by "invariant_conflicts_name_true_culprits";
    culprits_that_took_less_than_what_is_short_are_found:
        HalvesBlame by "invariant_culprits_took_what_was_short";
    culprits_that_are_not_the_newest_are_found: BlamesOlder by "invariant_culprits_are_the_newest";
    half_a_gang_is_found: ForgetsMinimums by "invariant_minimums_hold";
    an_atomic_transaction_that_keeps_its_stops_is_found: ForgetsAtomic by "invariant_minimums_hold";
    a_picture_that_is_not_the_fold_is_found: PicturesHalf by "invariant_everybody_has_the_same_cell";
    answers_before_the_sync_are_found: AnswersBeforeSync by "invariant_acknowledged_survives_any_crash";
    a_disk_that_lies_about_syncs_is_found: LyingDisk by "invariant_a_crash_is_no_damage";
    a_number_that_is_decided_twice_is_found: ForgetsNumbers by "invariant_a_number_takes_effect_at_most_once";
    a_constraint_that_is_overlooked_is_found: OverlooksConstraints by "invariant_no_decision_breaks_a_declared_rule";
    a_limit_that_is_overlooked_is_found: OverlooksLimits by "invariant_no_decision_breaks_a_declared_rule";
    a_quota_that_is_overlooked_is_found: OverlooksQuotas by "invariant_no_grant_exceeds_a_quota";
    a_partition_that_is_overlooked_is_found: OverlooksPartitions by "invariant_no_decision_breaks_a_declared_rule";
    a_device_that_is_granted_twice_is_found: OverlooksDevices by "invariant_no_device_or_port_is_given_twice";
    a_port_that_is_granted_twice_is_found: OverlooksPorts by "invariant_no_device_or_port_is_given_twice";
    a_sequence_that_others_broke_is_found: OverlooksSequence by "invariant_every_grant_was_valid_at_its_revision";
    a_guard_that_is_overlooked_is_found: OverlooksGuards by "invariant_every_grant_was_valid_at_its_revision";
    a_pause_that_is_overlooked_is_found: OverlooksPauses by "invariant_every_grant_was_valid_at_its_revision";
    a_second_instance_beside_one_that_leaves_is_found:
        OverlooksPredecessors by "invariant_every_grant_was_valid_at_its_revision";
    a_second_instance_beside_one_that_runs_unknown_is_found:
        OverlooksUnknownTasks by "invariant_every_grant_was_valid_at_its_revision";
    a_second_instance_before_all_agents_were_heard_is_found:
        OverlooksTheUnheard by "invariant_every_grant_was_valid_at_its_revision";
    a_version_that_was_expected_and_is_overlooked_is_found:
        OverlooksExpectations by "invariant_what_was_expected_was_there";
    a_hold_that_is_overlooked_is_found: OverlooksHolds by "invariant_no_grant_takes_room_that_is_held_for_others";
    a_hold_that_jumps_the_queue_is_found: JumpsTheQueue by "invariant_holds_take_room_from_later_ones_only";
    a_hold_beyond_a_quota_is_found: HoldsBeyondQuotas by "invariant_no_grant_exceeds_a_quota";
    a_hold_where_others_are_is_found: HoldsAnywhere by "invariant_holds_are_where_their_job_may_be";
    a_hold_for_what_does_not_wait_is_found: HoldsForNothing by "invariant_holds_are_for_what_waits";
    a_hold_for_which_there_is_no_place_is_found:
        HoldsWithoutPlace by "invariant_nothing_comes_above_a_bound";
    a_hold_of_a_job_that_is_over_is_found:
        KeepsHolds by "invariant_holds_are_of_live_jobs_on_machines_that_are_there";
    a_granted_task_that_counts_as_unknown_is_found: ForgetsWhatItGranted by "invariant_unknown_tasks_are_unknown";
    an_unknown_task_that_nobody_wrote_down_is_found: ForgetsUnknownTasks by "invariant_what_runs_is_live";
    an_unknown_task_that_leaves_too_soon_is_found:
        FreesUnknownTasks by "invariant_unknown_tasks_go_only_when_nothing_of_them_runs";
    a_job_that_is_launched_again_is_found: LaunchesAgain by "invariant_each_instant_is_launched_once_and_in_order";
    a_session_that_outlives_its_cell_is_found: KeepsSessions by "invariant_nobody_goes_on_in_a_restored_cell";
    victims_of_an_equal_band_are_found: EvictsAnybody by "invariant_only_lower_bands_are_evicted";
    victims_of_who_may_not_evict_are_found: EvictsWithoutRight by "invariant_only_who_may_evicts";
    room_that_is_handed_over_twice_is_found: HandsOverTwice by "invariant_room_is_handed_over_once";
    room_that_is_handed_over_by_who_waits_for_it_is_found:
        HandsOverWhatIsAwaited by "invariant_room_is_handed_over_once";
    a_successor_that_starts_too_soon_is_found: StartsTooSoon by "invariant_a_successor_waits_for_its_victims";
    a_restart_beside_the_start_before_is_found:
        RestartsTooSoon by "invariant_one_start_of_an_allocation_runs_at_a_time";
    decisions_by_hidden_state_are_found: DecidesByHiddenState by "invariant_deciding_again_gives_the_same_bytes";
    room_that_leaks_is_found: LeaksRoom by "invariant_used_equals_the_sum_of_live_allocations";
    two_allocations_of_a_task_are_found: RevivesTheLeaving by "invariant_one_allocation_per_task_is_not_leaving";
    a_job_that_is_torn_apart_is_found: TearsApart by "invariant_tasks_that_share_a_machine_stay_together";
    a_task_that_never_runs_again_is_found: NeverTriesAgain by "invariant_everything_that_fits_runs_once_faults_stop";
    a_refused_transaction_with_an_effect_is_found: CallsPartsRefused by "invariant_refused_has_no_effect";
    a_refusal_that_ends_a_hold_is_found: RefusalsEndHolds by "invariant_refused_has_no_effect";
    a_conflict_that_is_denied_is_found:
        DeniesConflicts by "invariant_conflict_fitted_at_the_base_and_misfit_did_not";
    a_conflict_that_is_said_to_be_too_old_is_found: CallsStale by "invariant_stale_is_what_nobody_remembers";
    a_quota_that_is_blamed_though_it_has_room_is_found: RefusesByQuota by "invariant_what_refuses_a_claim_is_there";
    a_partition_that_is_blamed_though_it_is_open_is_found:
        RefusesByPartition by "invariant_what_refuses_a_claim_is_there";
    a_right_that_is_missed_though_nobody_was_to_leave_is_found:
        RefusesByRight by "invariant_what_refuses_a_claim_is_there";
    a_guard_that_is_blamed_though_it_holds_is_found: RefusesByGuard by "invariant_what_refuses_a_claim_is_there";
    mates_that_are_blamed_though_none_was_lost_are_found:
        RefusesAsMate by "invariant_what_refuses_a_claim_is_there";
    a_limit_that_is_blamed_though_it_is_not_reached_is_found:
        RefusesByLimit by "invariant_what_refuses_a_claim_is_there";
    a_predecessor_that_is_blamed_though_there_is_none_is_found:
        RefusesByPredecessor by "invariant_what_refuses_a_claim_is_there";
    a_version_that_is_blamed_though_it_is_the_claim_s_is_found:
        RefusesByVersion by "invariant_what_refuses_a_claim_is_there";
    another_answer_to_a_repeated_number_is_found:
        AnswersAnew by "invariant_a_repeated_number_gets_the_same_answer";
    a_batch_that_is_not_written_is_found: LosesBatches by "invariant_revisions_have_no_gaps";
    a_snapshot_of_what_is_not_durable_is_found:
        ShowsTooSoon by "invariant_a_mirror_is_the_cell_at_its_revision";
    a_batch_that_is_not_shown_is_found: ForgetsToPublish by "invariant_published_without_gaps";
    a_log_that_is_not_what_was_shown_is_found: LogsAnotherTime by "invariant_the_log_is_a_prefix_of_what_was_sent";
    deltas_that_are_left_out_are_found: LeavesOutDeltas by "invariant_no_notice_is_a_bug";
    a_scheduler_that_is_ahead_of_its_time_is_found:
        HearsTheFuture by "invariant_nothing_is_claimed_before_its_backoff_ends";
    a_server_that_takes_what_is_due_at_once_is_found:
        TakesAtOnce by "invariant_nothing_is_taken_before_all_were_heard";
    a_server_that_counts_its_sleep_is_found: CountsItsSleep by "invariant_no_lease_ends_by_its_server_s_sleep";
    a_dead_agent_that_is_believed_is_found: BelievesTheLate by "invariant_the_agent_that_asked_last_counts";
    receipts_for_what_still_runs_are_found: HastyReceipts by "invariant_what_runs_is_live";
    batches_without_an_end_are_found: CutsBatches by "invariant_the_log_can_be_read";
    another_outcome_than_the_log_has_is_found:
        TellsAnotherOutcome by "invariant_an_outcome_is_what_the_log_says";
    outcomes_that_come_too_soon_are_found: TellsOutcomesFirst by "invariant_deltas_precede_their_outcome";
    damage_that_is_not_named_is_found: HidesDamage by "invariant_damage_is_named";
    a_disk_that_loses_what_it_held_is_found: RotReadsAsZeros by "invariant_only_the_last_frame_is_cut";
    a_mirror_of_another_cell_is_found: MirrorsAnother by "invariant_a_mirror_is_the_cell_at_its_revision";
    room_that_is_freed_too_soon_is_found:
        FreesAtExpiry by "invariant_room_is_freed_only_by_receipts_boots_and_removals";
    a_core_that_keeps_what_it_does_not_say_is_found:
        KeepsAnother by "invariant_a_snapshot_is_the_fold_of_all_deltas";
    a_torn_backup_is_found: TearsBackups by "invariant_a_backup_is_sound";
    a_log_that_ends_too_soon_is_found: AnswersBeforeSync by "invariant_the_log_ends_with_the_cell";
    answers_before_they_are_true_are_found: AnswersAtOnce by "invariant_published_before_answered";
    a_job_that_is_given_up_is_found: GivesUpAtOnce by "invariant_jobs_that_fit_complete";
    tasks_that_are_miscounted_are_found: MiscountsTheLeaving by "invariant_counters_count_their_tasks";
    agents_that_are_waited_for_though_they_were_heard_are_found:
        MiscountsTheUnheard by "invariant_unknown_tasks_are_unknown";
    names_of_unknown_tasks_that_have_ended_are_found: NamesTheEnded by "invariant_unknown_tasks_are_unknown";
    a_number_of_resources_that_is_given_twice_is_found:
        GivesUsedNumbers by "invariant_allocations_have_what_their_groups_declare";
    a_second_start_is_found: StartsAgain by "invariant_at_most_one_start";
    a_server_that_tells_old_revisions_is_found: TellsOldRevisions by "invariant_a_server_never_offers_less";
    a_dry_run_that_takes_effect_is_found: LogsDryRuns by "invariant_a_dry_run_changes_nothing";
    a_start_after_the_lease_is_found: StartsWithoutLease by "invariant_nothing_starts_without_a_lease";
    a_start_beside_what_was_placed_elsewhere_is_found:
        StartsBesideTheFenced by "invariant_nothing_starts_beside_what_is_fenced";
    an_end_that_is_told_as_another_is_found: ForgetsExits by "invariant_ends_are_told_as_they_were";
    quota_that_victims_of_another_namespace_give_is_found:
        CreditsOtherNamespaces by "invariant_no_grant_exceeds_a_quota";
    a_second_partition_that_is_overlooked_is_found:
        ObeysOnePartition by "invariant_no_decision_breaks_a_declared_rule";
    a_hold_that_a_sequence_does_not_see_is_found:
        SequenceIgnoresHolds by "invariant_every_grant_was_valid_at_its_revision";
    a_lowered_limit_that_stops_a_task_is_found: EvictsByLoweredQuota by "invariant_whoever_leaves_has_a_reason";
    changed_attributes_that_stop_a_task_are_found:
        EvictsByChangedAttributes by "invariant_whoever_leaves_has_a_reason";
    a_drain_that_does_not_wait_for_its_deadline_is_found:
        DrainsTooSoon by "invariant_whoever_leaves_has_a_reason";
    a_drain_that_goes_on_behind_its_deadline_is_found:
        DrainsTooLate by "invariant_what_is_due_happens_in_time";
    a_hold_that_ends_before_its_deadline_is_found:
        EndsHoldsTooSoon by "invariant_nothing_happens_before_its_time";
    a_task_that_is_lost_too_soon_is_found: LosesTooSoon by "invariant_whoever_leaves_has_a_reason";
    a_cell_that_gives_up_all_its_machines_is_found:
        GivesUpTooMany by "invariant_whoever_leaves_has_a_reason";
    a_task_that_waits_for_who_has_ended_is_found:
        KeepsSuccessorsWaiting by "invariant_counters_count_their_tasks";
    a_victim_that_is_not_told_is_found: HidesVictims by "invariant_an_outcome_tells_what_was_done";
    an_allocation_that_goes_on_when_it_is_stopped_is_found: LetsRunOn by "invariant_what_is_accepted_is_done";
    a_right_that_is_said_to_be_as_wanted_and_is_not_is_found: ForgetsRights by "invariant_what_is_accepted_is_done";
    an_instant_of_which_no_job_comes_is_found:
        LaunchesNobody by "invariant_each_instant_is_launched_once_and_in_order";
    a_job_that_comes_without_its_launch_is_found:
        ForgetsLaunches by "invariant_each_instant_is_launched_once_and_in_order";
    a_victim_of_whom_nothing_is_needed_is_found: EvictsForNothing by "invariant_nobody_goes_for_nothing";
    room_that_is_taken_over_and_not_needed_is_found: TakesAllOver by "invariant_nobody_goes_for_nothing";
    a_stream_that_asks_for_ever_is_found: AsksForEver by "invariant_everything_that_fits_runs_once_faults_stop";
}
