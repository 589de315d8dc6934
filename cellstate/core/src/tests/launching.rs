//! Stories of recurring jobs, and of what is launched from them.

use plenum_model::{Command, Decision, JobKind, JobShape, RejectionCode, is_name};

use super::costs::Large;
use super::sizes::submit;
use super::story::check;
use crate::CoreOptions;

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

#[test]
fn no_launch_takes_the_place_of_another_job_that_has_its_name() {
    check(
        "
        job nightly by cron tasks=1 cpu=1000 recurring
        job nightly-3 by batch tasks=2 cpu=1000
        launch nightly 3000000
        jobs?
        stopjob nightly-3
        launch nightly 3000000
        jobs?
        ",
        "
        JOB_CHANGED: nightly-3 is there already and not over, and was not launched for that; stop it
        nightly cron Waiting
        nightly-3 batch Waiting
        nightly cron Waiting
        nightly-3 cron Waiting
        ",
    );
}

// What the log has of a job is read again by who takes no other names.
#[test]
fn what_is_launched_has_a_name_and_a_scheduler_that_everybody_takes() {
    let mut large = Large::new(CoreOptions::default());
    let recurring = |name: &str, scheduler: &str| {
        let options = [("launch.scheduler".into(), scheduler.into())].into();
        submit(name, JobShape { kind: JobKind::Recurring, options, ..JobShape::default() }, &[1])
    };
    let long = "n".repeat(43);
    for (name, scheduler) in [(&*format!("{long}n"), "batch"), ("nightly", "Not A Name"), ("nightly", "")] {
        let refused = large.ask(recurring(name, scheduler));
        assert!(
            matches!(&refused, Decision::Rejected(why) if why.code == RejectionCode::InvalidRequest),
            "{name} by {scheduler:?}: {refused:?}"
        );
    }
    let parent = large.submit(recurring(&long, "batch"));
    let child = large.submit(Command::Launch { parent, instant_micros: i64::MAX });
    let shape = &large.core.cell().job(child).expect("it was launched").shape;
    assert!(is_name(&shape.name, false) && is_name(&shape.scheduler, false), "{shape:?}");
}
