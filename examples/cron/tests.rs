//! When a job is due, and what comes of one that can't be launched.

use std::time::Duration;

use plenum_sdk::api::{JobKind, JobShape, JobView};
use plenum_sdk::tonic::{Code, Status};

use super::{RETRY_AFTER, RETRY_AFTER_MAX, Troubles, concerns_all, due, rest_after};

const SECOND: i64 = 1_000_000;

fn job_of(kind: JobKind, every: Option<&str>) -> JobView {
    let options = every.map(|every| ("every".to_owned(), every.to_owned())).into_iter().collect();
    JobView { shape: Some(JobShape { kind: kind.into(), options, ..JobShape::default() }), ..JobView::default() }
}

/// Of a job that is launched every two seconds, and was submitted and launched last then; when it is due, if it is.
fn due_at(now: i64, submitted: i64, last: Option<i64>) -> Option<i64> {
    let last_instant_micros = last.map(|last| last * SECOND);
    let submitted_micros = submitted * SECOND;
    let job = JobView { submitted_micros, last_instant_micros, ..job_of(JobKind::Recurring, Some("2s")) };
    due(&job, now * SECOND).unwrap().map(|instant| instant / SECOND)
}

#[test]
fn each_multiple_of_a_period_is_due_once_and_of_those_that_were_missed_the_newest() {
    assert_eq!(due_at(8, 5, Some(6)), Some(8));
    assert_eq!(due_at(9, 5, Some(8)), None);
    assert_eq!(due_at(15, 5, Some(8)), Some(14));
}

// One that was stopped and submitted again knows its last instant still: it was launched at once for the newest one that it had missed meanwhile.
#[test]
fn one_that_was_submitted_just_now_waits_for_its_next_time_also_when_it_was_there_before() {
    for last in [None, Some(2)] {
        assert_eq!((due_at(7, 7, last), due_at(8, 7, last)), (None, Some(8)), "{last:?}");
    }
}

// It looked like one that is not due yet: it was never launched, and nobody was told.
#[test]
fn of_one_that_is_never_due_it_is_known_why() {
    for every in ["5m", "30", "", "0s", "-2s", "s", "99999999999999999s"] {
        let why = due(&job_of(JobKind::Recurring, Some(every)), SECOND).unwrap_err();
        assert!(why.contains(&format!("found {every:?}")), "{why}");
    }
    let why = due(&job_of(JobKind::Recurring, None), SECOND).unwrap_err();
    assert!(why.contains("expected whole seconds"), "{why}");
    let why = due(&job_of(JobKind::ToCompletion, Some("2s")), SECOND).unwrap_err();
    assert!(why.contains("not recurring"), "{why}");
}

/// What a cell answers with a code of its own, and perhaps with a time after which to ask again.
fn refused(code: &'static str, retry_micros: Option<i64>) -> Status {
    let mut status = Status::new(Code::Unavailable, "a test");
    status.metadata_mut().insert("plenum-code", code.parse().unwrap());
    if let Some(micros) = retry_micros {
        status.metadata_mut().insert("plenum-retry-after-micros", micros.into());
    }
    status
}

// A cell that took nothing from anybody was asked for each job, twice a second.
#[test]
fn what_concerns_all_jobs_ends_the_round_and_what_concerns_one_does_not() {
    for code in ["READ_ONLY", "QUEUE_FULL", "SERVER_ENDING", "SCHEDULER_PAUSED", "OUTCOME_UNKNOWN"] {
        assert!(concerns_all(&refused(code, Some(1))), "{code}");
    }
    assert!(concerns_all(&Status::new(Code::Unavailable, "nobody answers")));
    for code in ["LIMIT_REACHED", "JOB_CHANGED", "INVALID_REQUEST"] {
        assert!(!concerns_all(&refused(code, None)), "{code}");
    }
}

#[test]
fn the_same_is_asked_again_when_the_cell_says_and_within_bounds() {
    let rests = [None, Some(1), Some(5 * SECOND), Some(3600 * SECOND)].map(|micros| rest_after(&refused("", micros)));
    assert_eq!(rests, [RETRY_AFTER, RETRY_AFTER, Duration::from_secs(5), RETRY_AFTER_MAX]);
}

// A job that could not be launched had a line twice a second.
#[test]
fn what_was_said_of_a_job_last_is_not_said_again_and_it_rests_as_long_as_was_asked_for() {
    let (mut troubles, long) = (Troubles::default(), Duration::from_secs(3600));
    let new = ["full", "full", "paused", "full"].map(|what| troubles.is_new("default/tick", what, long));
    assert_eq!(new, [true, false, true, true]);
    assert!(troubles.is_new("default/tock", "full", Duration::ZERO));
    assert!(troubles.rests("default/tick") && !troubles.rests("default/tock") && !troubles.rests("default/other"));
}
