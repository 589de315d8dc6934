//! Stories of the core: what it grants and refuses, and why.

mod costs;
mod devices;
mod draining;
mod governing;
mod handing_over;
mod limits;
mod story;

use story::check;

#[test]
fn first_commit_wins_the_last_room() {
    check(
        "
        machine m1 cpu=4000
        job web by service tasks=1 cpu=3000
        job map by batch tasks=1 cpu=3000
        snapshot
        service: claim web[0]@m1
        batch:   claim map[0]@m1
        ",
        "
        service: committed; web[0] granted
        batch: refused; map[0] conflict NoRoom short cpu_millis 2000 culprits service 3000 total 3000
        ",
    );
}

#[test]
fn what_never_fitted_is_a_misfit_and_names_nobody() {
    check(
        "
        machine m1 cpu=1000
        job web by service tasks=1 cpu=3000
        snapshot
        service: claim web[0]@m1
        ",
        "service: refused; web[0] misfit NoRoom short cpu_millis 2000",
    );
}

#[test]
fn an_earlier_claim_of_the_same_transaction_makes_a_misfit() {
    check(
        "
        machine m1 cpu=4000
        job web by service tasks=2 cpu=3000
        snapshot
        service: claim web[0]@m1 web[1]@m1
        ",
        "service: partial; web[0] granted; web[1] misfit NoRoom short cpu_millis 2000",
    );
}

#[test]
fn a_gang_below_its_minimum_gets_nothing() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=1000
        job gang by ml tasks=2 cpu=3000
        job web by service tasks=1 cpu=3000
        snapshot
        ml: claim gang[0]@m1 gang[1]@m2 min=2
        service: claim web[0]@m1
        ",
        "
        ml: refused; gang[0] mate MinimumMissed; gang[1] misfit NoRoom short cpu_millis 2000
        service: committed; web[0] granted
        ",
    );
}

#[test]
fn an_atomic_transaction_has_all_of_its_effects_or_none() {
    check(
        "
        machine m1 cpu=8000
        machine m2 cpu=1000
        job a by ml tasks=1 cpu=3000
        job b by ml tasks=1 cpu=3000
        job c by ml tasks=1 cpu=3000
        ml: claim c[0]@m1
        snapshot
        ml: stop c[0] claim a[0]@m1 min=1 claim b[0]@m2 min=1 atomic
        show c[0]
        ml: stop c[0] claim a[0]@m1 min=1 claim b[0]@m2 min=1
        show c[0]
        ",
        "
        ml: committed; c[0] granted
        ml: refused; a[0] mate MinimumMissed; b[0] misfit NoRoom short cpu_millis 2000
        c[0] Granted
        ml: partial; a[0] granted; b[0] misfit NoRoom short cpu_millis 2000
        c[0] Stopping
        ",
    );
}

#[test]
fn a_task_is_placed_once() {
    check(
        "
        machine m1 cpu=8000
        machine m2 cpu=8000
        job web by service tasks=1 cpu=1000
        snapshot
        service: claim web[0]@m1
        service: claim web[0]@m2
        snapshot
        service: claim web[0]@m2
        ",
        "
        service: committed; web[0] granted
        service: refused; web[0] conflict TaskTaken culprits service 0 total 0
        service: refused; web[0] misfit TaskTaken
        ",
    );
}

#[test]
fn a_replacement_stops_the_old_one_in_the_same_transaction() {
    check(
        "
        machine m1 cpu=1500
        machine m2 cpu=8000
        job web by service tasks=1 cpu=1000
        snapshot
        service: claim web[0]@m1
        service: stop web[0] claim web[0]@m1
        service: stop web[0] claim web[0]@m2
        show web[0]
        ",
        "
        service: committed; web[0] granted
        service: partial; web[0] conflict NoRoom short cpu_millis 500 culprits service 1000 total 1000
        service: committed; web[0] granted
        web[0] Granted
        ",
    );
}

#[test]
fn room_stays_taken_until_the_receipt() {
    check(
        "
        machine m1 cpu=1000
        job web by service tasks=1 cpu=1000
        job map by batch tasks=1 cpu=1000
        service: claim web[0]@m1
        stopjob web
        snapshot
        batch: claim map[0]@m1
        report web[0] stopped
        snapshot
        batch: claim map[0]@m1
        ",
        "
        service: committed; web[0] granted
        batch: refused; map[0] misfit NoRoom short cpu_millis 1000
        batch: committed; map[0] granted
        ",
    );
}

#[test]
fn the_coarse_check_sees_any_change_by_others_and_none_of_its_own() {
    check(
        "
        machine m1 cpu=8000
        job web by service tasks=2 cpu=1000
        job map by batch tasks=3 cpu=1000
        snapshot
        service: claim web[0]@m1
        batch: claim map[0]@m1 sequence
        service: claim web[1]@m1 sequence
        ",
        "
        service: committed; web[0] granted
        batch: refused; map[0] conflict MachineChanged culprits service 0 total 0
        service: committed; web[1] granted
        ",
    );
}

#[test]
fn a_group_waits_for_the_groups_before_it() {
    check(
        "
        machine m1 cpu=8000
        job wc by batch tasks=1 cpu=1000
        group wc reduce after=main tasks=1 cpu=1000
        snapshot
        batch: claim wc.reduce[0]@m1
        batch: claim wc[0]@m1
        report wc[0] complete
        snapshot
        batch: claim wc.reduce[0]@m1
        report wc.reduce[0] complete
        job? wc
        ",
        "
        batch: refused; wc.reduce[0] misfit NotWanted
        batch: committed; wc[0] granted
        batch: committed; wc.reduce[0] granted
        wc Complete
        ",
    );
}

#[test]
fn the_failure_after_the_last_retry_fails_the_job_and_stops_the_rest() {
    check(
        "
        machine m1 cpu=8000
        job map by batch tasks=2 cpu=1000 retry=1 delay=5
        snapshot
        batch: claim map[0]@m1 map[1]@m1
        report map[0] failed 7
        snapshot
        batch: claim map[0]@m1
        wait 5
        batch: claim map[0]@m1
        report map[0] failed 7
        job? map
        show map[1]
        ",
        "
        batch: committed; map[0] granted; map[1] granted
        batch: refused; map[0] misfit NotWanted
        batch: committed; map[0] granted
        map Failed task main[0] failed: exit code 7
        map[1] Stopping
        ",
    );
}

#[test]
fn an_exit_of_a_service_is_a_failure_and_is_retried_for_ever() {
    check(
        "
        machine m1 cpu=8000
        job web by service tasks=1 cpu=1000 forever
        snapshot
        service: claim web[0]@m1
        report web[0] complete
        snapshot
        service: claim web[0]@m1
        job? web
        ",
        "
        service: committed; web[0] granted
        service: committed; web[0] granted
        web Running
        ",
    );
}

#[test]
fn what_an_unreachable_machine_ran_is_lost_after_a_time_and_placed_elsewhere() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        job web by service tasks=1 cpu=1000
        service: claim web[0]@m1
        report web[0] running
        expire m1
        wait 59
        show web[0]
        snapshot
        wait 2
        service: claim web[0]@m1
        service: claim web[0]@m2
        show web[0]
        ",
        "
        service: committed; web[0] granted
        web[0] Running
        service: refused; web[0] misfit MachineNotReady
        service: committed; web[0] granted
        web[0] Granted
        ",
    );
}

#[test]
fn a_claim_on_an_epoch_that_began_after_the_base_is_a_conflict_with_it() {
    check(
        "
        machine m1 cpu=1000
        job web by service tasks=1 cpu=1000
        snapshot
        expire m1
        service: claim web[0]@m1
        machine m1 cpu=1000
        service: claim web[0]@m1
        ",
        "
        service: refused; web[0] conflict MachineNotReady culprits expired 0 total 0
        service: refused; web[0] conflict MachineChanged culprits epoch 0 total 0
        ",
    );
}

#[test]
fn a_base_older_than_the_ring_is_stale() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        job web by service tasks=1 cpu=1000
        job map by batch tasks=1 cpu=1000
        service: claim web[0]@m1
        snapshot
        restart
        batch: claim map[0]@m1
        batch: claim map[0]@m2
        ",
        "
        service: committed; web[0] granted
        batch: refused; map[0] stale NoRoom short cpu_millis 1000
        batch: committed; map[0] granted
        ",
    );
}

#[test]
fn tasks_that_share_a_machine_stay_together_and_start_over_when_it_is_lost() {
    check(
        "
        machine m1 cpu=8000
        machine m2 cpu=8000
        job wc by batch tasks=2 cpu=1000 together
        snapshot
        batch: claim wc[0]@m1 wc[1]@m2
        report wc[0] complete
        batch: claim wc[1]@m1
        expire m1
        wait 61
        batch: claim wc[0]@m2 wc[1]@m2
        ",
        "
        batch: partial; wc[0] granted; wc[1] misfit OtherMachine
        batch: committed; wc[1] granted
        batch: committed; wc[0] granted; wc[1] granted
        ",
    );
}

#[test]
fn only_the_scheduler_of_a_job_places_it() {
    check(
        "
        machine m1 cpu=8000
        job web by service tasks=1 cpu=1000
        snapshot
        batch: claim web[0]@m1
        ",
        "batch: refused; web[0] permission OtherScheduler",
    );
}

#[test]
fn a_repeated_number_has_the_first_answer_and_no_second_effect() {
    check(
        "
        machine m1 cpu=8000
        job web by service tasks=2 cpu=1000
        snapshot
        service: claim web[0]@m1
        again
        ",
        "
        service: committed; web[0] granted
        service: repeated
        ",
    );
}

#[test]
fn a_rebooted_machine_runs_nothing_any_more() {
    check(
        "
        machine m1 cpu=1000
        job web by service tasks=1 cpu=1000
        service: claim web[0]@m1
        report web[0] running
        machine m1 cpu=1000 boot=b
        show web[0]
        snapshot
        service: claim web[0]@m1
        ",
        "
        service: committed; web[0] granted
        web[0] gone
        service: committed; web[0] granted
        ",
    );
}

#[test]
fn a_finished_job_is_retired_after_a_time() {
    check(
        "
        machine m1 cpu=1000
        job map by batch tasks=1 cpu=1000
        batch: claim map[0]@m1
        report map[0] complete
        job? map
        wait 3601
        job? map
        ",
        "
        batch: committed; map[0] granted
        map Complete
        map gone
        ",
    );
}

#[test]
fn a_job_that_began_again_is_retired_after_its_second_end() {
    check(
        "
        machine m1 cpu=1000
        job map by batch tasks=1 cpu=1000
        batch: claim map[0]@m1
        report map[0] complete
        wait 3000
        job map by batch tasks=1 cpu=1000
        wait 700
        job? map
        batch: claim map[0]@m1
        report map[0] complete
        wait 3500
        job? map
        wait 101
        job? map
        ",
        "
        batch: committed; map[0] granted
        map Waiting
        batch: committed; map[0] granted
        map Complete
        map gone
        ",
    );
}

#[test]
fn a_removed_machine_takes_what_it_ran_with_it() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        job web by service tasks=1 cpu=1000
        service: claim web[0]@m1
        snapshot
        remove m1
        service: claim web[0]@m1
        service: claim web[0]@m2
        ",
        "
        service: committed; web[0] granted
        service: refused; web[0] conflict NoSuchMachine culprits removed 0 total 0
        service: committed; web[0] granted
        ",
    );
}

// The tasks of an undone placement stayed taken for the rest of the transaction.
#[test]
fn what_an_undone_placement_claimed_can_be_claimed_after_it() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        job map by batch tasks=2 cpu=1000
        batch: claim map[0]@m1 map[1]@m1 min=2 claim map[0]@m2
        ",
        "batch: partial; map[0] mate MinimumMissed; map[1] misfit NoRoom short cpu_millis 1000; map[0] granted",
    );
}

// Undoing the second placement took the home back that the first one had chosen, so that the job came apart.
#[test]
fn an_undone_placement_leaves_the_job_where_an_earlier_one_put_it() {
    check(
        "
        machine m1 cpu=2000
        machine m2 cpu=2000
        job wc by batch tasks=3 cpu=1000 together
        batch: claim wc[0]@m1 claim wc[1]@m1 wc[2]@m2 min=2
        batch: claim wc[1]@m2
        ",
        "
        batch: partial; wc[0] granted; wc[1] mate MinimumMissed; wc[2] misfit OtherMachine
        batch: refused; wc[1] misfit OtherMachine
        ",
    );
}

// The newest grant was named, also when it was the session's own.
#[test]
fn the_culprit_of_a_changed_machine_is_somebody_else() {
    check(
        "
        machine m1 cpu=4000
        job map by batch tasks=2 cpu=1000
        job web by service tasks=1 cpu=1000
        snapshot
        service: claim web[0]@m1
        batch: claim map[0]@m1
        batch: claim map[1]@m1 sequence
        ",
        "
        service: committed; web[0] granted
        batch: committed; map[0] granted
        batch: refused; map[1] conflict MachineChanged culprits service 0 total 0
        ",
    );
}

// Looking for live tasks among those that go away subtracted 1 from the 0 of those without an allocation.
#[test]
fn a_group_shrinks_by_its_waiting_tasks() {
    check(
        "
        machine m1 cpu=2000
        job map by batch tasks=3 cpu=1000
        batch: claim map[0]@m1
        job map by batch tasks=1 cpu=1000
        batch: claim map[1]@m1
        ",
        "
        batch: committed; map[0] granted
        batch: refused; map[1] misfit NotWanted
        ",
    );
}

#[test]
fn scaling_down_stops_the_highest_tasks_and_their_room_waits_for_the_receipt() {
    check(
        "
        machine m1 cpu=3000
        job web by service tasks=3 cpu=1000
        job map by batch tasks=1 cpu=1000
        service: claim web[0]@m1 web[1]@m1 web[2]@m1
        scale web 1
        show web[0]
        show web[2]
        snapshot
        batch: claim map[0]@m1
        scale web 2
        service: claim web[1]@m1
        report web[2] stopped
        snapshot
        batch: claim map[0]@m1
        ",
        "
        service: committed; web[0] granted; web[1] granted; web[2] granted
        web[0] Granted
        web[2] Stopping
        batch: refused; map[0] misfit NoRoom short cpu_millis 1000
        service: refused; web[1] misfit NoRoom short cpu_millis 1000
        batch: committed; map[0] granted
        ",
    );
}

#[test]
fn a_job_whose_undone_tasks_are_scaled_away_is_complete() {
    check(
        "
        machine m1 cpu=1000
        job map by batch tasks=2 cpu=1000
        batch: claim map[0]@m1
        report map[0] complete
        scale map 1
        job? map
        ",
        "
        batch: committed; map[0] granted
        map Complete
        ",
    );
}

#[test]
fn a_job_whose_shared_machine_is_removed_between_two_tasks_starts_over() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        job wc by batch tasks=2 cpu=1000 together
        batch: claim wc[0]@m1
        report wc[0] complete
        remove m1
        snapshot
        batch: claim wc[0]@m2
        ",
        "
        batch: committed; wc[0] granted
        batch: committed; wc[0] granted
        ",
    );
}

#[test]
fn a_job_whose_shared_machine_vanishes_between_two_tasks_starts_over_after_a_time() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        job wc by batch tasks=2 cpu=1000 together
        batch: claim wc[0]@m1
        report wc[0] complete
        expire m1
        wait 59
        snapshot
        batch: claim wc[1]@m2
        wait 2
        snapshot
        batch: claim wc[0]@m2
        ",
        "
        batch: committed; wc[0] granted
        batch: refused; wc[1] misfit OtherMachine
        batch: committed; wc[0] granted
        ",
    );
}

#[test]
fn a_cordon_outlives_the_lease() {
    check(
        "
        machine m1 cpu=1000
        cordon m1
        expire m1
        machine m1 cpu=1000
        machine? m1
        uncordon m1
        machine? m1
        expire m1
        cordon m1
        machine m1 cpu=1000
        machine? m1
        ",
        "
        m1 Cordoned
        m1 Ready
        m1 Cordoned
        ",
    );
}
