//! When a job is due.

use plenum_sdk::api::{JobKind, JobShape, JobView};

use super::due;

const SECOND: i64 = 1_000_000;

/// Of a job that is launched every two seconds, and was submitted and launched last then; when it is due, if it is.
fn due_at(now: i64, submitted: i64, last: Option<i64>) -> Option<i64> {
    let options = [("every".to_owned(), "2s".to_owned())].into();
    let shape = JobShape { kind: JobKind::Recurring.into(), options, ..JobShape::default() };
    let last_instant_micros = last.map(|last| last * SECOND);
    let submitted_micros = submitted * SECOND;
    let job = JobView { shape: Some(shape), submitted_micros, last_instant_micros, ..JobView::default() };
    due(&job, now * SECOND).map(|instant| instant / SECOND)
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
