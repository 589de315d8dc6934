//! Stories of the core: what it grants and refuses, and why.

mod apart;
mod blaming;
mod bounds;
mod came_and_went;
mod costs;
mod costs_of_claims;
mod devices;
mod draining;
mod expecting;
mod generations;
mod governing;
mod handing_over;
mod holds;
mod jobs;
mod launching;
mod limits;
mod machines;
mod refusing;
mod restarts;
mod restoring;
mod reuse;
mod sizes;
mod story;
mod unknown;
mod violations;
mod violations_of_few;

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

// There is room for both, so that nothing but the check can tell that others came between.
#[test]
fn the_coarse_check_sees_what_others_hold_and_what_nobody_knew() {
    check(
        "
        machine m1 cpu=8000
        machine m2 cpu=8000
        machine m3 cpu=8000
        job gang by ml tasks=2 cpu=3000
        job map by batch tasks=3 cpu=1000
        ml:
        batch:
        snapshot
        hold gang m1 cpu=3000
        machine m2 cpu=8000 runs=alloc-7-1
        batch: sequence claim map[0]@m1 map[1]@m2 map[2]@m3
        batch: claim map[0]@m1 map[1]@m2
        ",
        "
        ml: committed
        batch: committed
        batch: partial; map[0] conflict MachineChanged culprits hold 0 total 0; map[1] conflict MachineChanged culprits unknown task 0 total 0; map[2] granted
        batch: committed; map[0] granted; map[1] granted
        ",
    );
}

// What holds and unknown tasks gave back counted as a change: after it, whoever had checked each machine lost a race against nobody.
#[test]
fn the_coarse_check_does_not_count_what_is_given_back() {
    check(
        "
        machine m1 cpu=8000
        machine m2 cpu=8000
        job gang by ml tasks=2 cpu=3000
        job map by batch tasks=4 cpu=1000
        restore
        machine m2 cpu=8000 runs=alloc-7-1
        hold gang m1 cpu=3000 for=10
        snapshot
        wait 11
        receipt m2 alloc-7-1
        batch: claim map[0]@m1 map[1]@m2 sequence
        batch: claim map[2]@m1 map[3]@m2 sequence
        ",
        "
        batch: committed; map[0] granted; map[1] granted
        batch: committed; map[2] granted; map[3] granted
        ",
    );
}

// A hold that ended later than somebody else's grant was named in its place.
#[test]
fn what_is_given_back_is_no_culprit_of_a_changed_machine() {
    check(
        "
        machine m1 cpu=8000
        job gang by ml tasks=2 cpu=3000
        job map by batch tasks=1 cpu=1000
        job web by service tasks=1 cpu=1000
        hold gang m1 cpu=3000 for=10
        snapshot
        service: claim web[0]@m1
        wait 11
        batch: claim map[0]@m1 sequence
        hold gang m1 cpu=3000 for=10
        wait 11
        batch: claim map[0]@m1 sequence
        ",
        "
        service: committed; web[0] granted
        batch: refused; map[0] conflict MachineChanged culprits service 0 total 0
        batch: refused; map[0] conflict MachineChanged culprits hold 0 total 0
        ",
    );
}
