//! Stories of callers that say which version of a job they decided on.

use super::story::check;

// A leader of a framework was suspended between its look and its stop: what it stopped when it went on was the new version of the next leader.
#[test]
fn what_was_decided_on_one_version_neither_stops_nor_scales_another() {
    check(
        "
        job web by service tasks=2 cpu=100
        stopjob web
        job web by service tasks=2 cpu=100
        stopjob web version=1
        scale web 5 version=1
        job web by service tasks=5 cpu=100 version=1
        job? web
        version? web
        scale web 5 version=2
        stopjob web version=2
        ",
        "
        JOB_VERSION: web: expected version 1, found version 2 (waiting); look at it and decide anew
        JOB_VERSION: web: expected version 1, found version 2 (waiting); look at it and decide anew
        JOB_VERSION: web: expected version 1, found version 2 (waiting); look at it and decide anew
        web Waiting
        web has version 2
        changed
        changed
        ",
    );
}

#[test]
fn a_version_that_is_over_is_stopped_already_and_can_not_be_scaled() {
    check(
        "
        job web by service tasks=2 cpu=100
        stopjob web version=1
        stopjob web version=1
        scale web 3 version=1
        stopjob web version=4294967295
        ",
        "
        changed
        unchanged
        JOB_OVER: web is over (stopped) and can't be changed
        JOB_VERSION: web: expected version 4294967295, found version 1 (stopped); look at it and decide anew
        ",
    );
}

// Each run had a name of its own, as was advised, and whoever asked again as the answer was lost had it run twice.
#[test]
fn who_expects_no_job_of_a_name_and_asks_until_it_is_answered_has_it_run_once() {
    check(
        "
        machine m1 cpu=8000
        job run by batch tasks=1 cpu=100 version=0
        job run by batch tasks=1 cpu=100 version=0
        batch: claim run[0]@m1
        report run[0] complete
        job run by batch tasks=1 cpu=100 version=0
        version? run
        job run by batch tasks=1 cpu=200 version=0
        job run by batch tasks=1 cpu=100
        job run by batch tasks=1 cpu=100 version=0
        version? run
        ",
        "
        changed
        unchanged
        batch: committed; run[0] granted
        unchanged
        run has version 1
        JOB_VERSION: run: expected no job of this name, found version 1 (complete); look at it and decide anew
        JOB_VERSION: run: expected no job of this name, found version 2 (waiting); look at it and decide anew
        run has version 2
        ",
    );
}

#[test]
fn of_an_expected_version_comes_one_more_at_most() {
    check(
        "
        job run by batch tasks=1 cpu=100
        stopjob run
        job run by batch tasks=1 cpu=100 version=3
        job run by batch tasks=1 cpu=100 version=1
        stopjob run
        job run by batch tasks=1 cpu=100 version=1
        job? run
        job run by batch tasks=1 cpu=100 version=2
        version? run
        job other by batch tasks=1 cpu=100 version=1
        version? other
        job run by batch tasks=1 cpu=100 version=4294967295
        ",
        "
        JOB_VERSION: run: expected version 3, found version 1 (stopped); look at it and decide anew
        changed
        unchanged
        run Stopped stopped by a request
        changed
        run has version 3
        JOB_VERSION: other: expected version 1, found no job of this name; look at it and decide anew
        other has version 0
        JOB_VERSION: run: expected version 4294967295, found version 3 (waiting); look at it and decide anew
        ",
    );
}

#[test]
fn a_repeated_submission_leaves_alone_what_was_scaled_since() {
    check(
        "
        job web by service tasks=2 cpu=100 version=0
        scale web 5
        job web by service tasks=2 cpu=100 version=0
        scale web 5 version=1
        job web by service tasks=2 cpu=100 version=1
        ",
        "
        changed
        unchanged
        unchanged
        changed
        ",
    );
}

// After a restore a job's next version is not one more.
#[test]
fn a_submission_is_known_again_by_the_version_that_a_restored_cell_gave() {
    check(
        "
        job run by batch tasks=1 cpu=100
        stopjob run
        restore
        job run by batch tasks=1 cpu=100 version=1
        job run by batch tasks=1 cpu=100 version=1
        restore
        job run by batch tasks=1 cpu=100 version=1
        job other by batch tasks=1 cpu=100 version=0
        job other by batch tasks=1 cpu=100 version=0
        version? run
        ",
        "
        changed
        unchanged
        unchanged
        changed
        unchanged
        run has version 67108865
        ",
    );
}
