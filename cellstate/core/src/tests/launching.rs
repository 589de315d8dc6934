//! Stories of recurring jobs, and of what is launched from them.

use super::story::check;

#[test]
fn each_instant_is_launched_once_and_in_order() {
    check(
        "
        machine m1 cpu=4000
        job nightly by cron tasks=2 cpu=1000 recurring
        scale nightly 1
        launch nightly 3000000
        launch nightly 3000000
        launch nightly 2000000
        launch nightly 3500000
        jobs?
        cron: claim nightly-3[0]@m1
        report nightly-3[0] complete
        job? nightly-3
        service: claim nightly[0]@m1
        restart
        launch nightly 3500000
        launch nightly 3400000
        stopjob nightly
        launch nightly 9000000
        launch nightly 3000000
        job nightly by cron tasks=1 cpu=1000 recurring
        launch nightly 3500000
        launch nightly 3600000
        launch nightly 3550000
        launch nightly 4000000
        jobs?
        launch nightly-4 5000000
        launch nightly -1
        launch nightly 0
        ",
        "
        INSTANT_PASSED: nightly was launched for 3000000 µs; expected a later instant, found 2000000 µs
        nightly cron Waiting
        nightly-3 cron Waiting
        nightly-3500000 cron Waiting
        cron: committed; nightly-3[0] granted
        nightly-3 Complete
        service: refused; nightly[0] permission OtherScheduler
        INSTANT_PASSED: nightly was launched for 3500000 µs; expected a later instant, found 3400000 µs
        JOB_OVER: nightly is over (stopped) and can't be changed
        INSTANT_PASSED: nightly was launched for 3600000 µs; expected a later instant, found 3550000 µs
        nightly cron Waiting
        nightly-3 cron Complete
        nightly-3500000 cron Waiting
        nightly-3600000 cron Waiting
        nightly-4 cron Waiting
        INVALID_REQUEST: nightly-4 is not recurring; only jobs that are can be launched from
        INVALID_REQUEST: instant: expected 1 or more microseconds since 1970, found -1
        INVALID_REQUEST: instant: expected 1 or more microseconds since 1970, found 0
        ",
    );
}

// What its name stood for in between had no instants, and the next version began without any.
#[test]
fn a_recurring_job_goes_on_where_it_stood_whatever_its_name_was_meanwhile() {
    check(
        "
        machine m1 cpu=4000
        job nightly by cron tasks=1 cpu=1000 recurring
        launch nightly 3000000
        stopjob nightly
        job nightly by cron tasks=1 cpu=1000
        stopjob nightly
        job nightly by cron tasks=1 cpu=1000 recurring
        launch nightly 2000000
        launch nightly 4000000
        jobs?
        ",
        "
        INSTANT_PASSED: nightly was launched for 3000000 µs; expected a later instant, found 2000000 µs
        nightly cron Waiting
        nightly-3 cron Waiting
        nightly-4 cron Waiting
        ",
    );
}

#[test]
fn a_recurring_job_that_was_scaled_to_nothing_is_not_launched() {
    check(
        "
        job nightly by batch tasks=2 cpu=100 recurring
        scale nightly 0
        launch nightly 100
        ",
        "INVALID_REQUEST: nightly was scaled to no tasks at all; scale it up before it is launched",
    );
}
