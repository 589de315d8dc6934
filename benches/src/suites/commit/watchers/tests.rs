//! What watchers are told of, how old their pictures are, and which of that is no figure.

use super::*;
use plenum_model::{End, Grants, LogTime, Revision};

/// In a second.
fn counted(count: u64) -> Counted {
    Counted { count, seconds: 1.0 }
}

#[test]
fn a_higher_rate_counts_when_more_is_told_and_nobody_falls_behind() {
    let rows = |told: u64, resyncs: u64| Rows {
        claims_due: 1,
        told: vec![counted(told), counted(0)],
        claims: vec![counted(1)],
        resyncs,
        cores_of_others: 0.0,
    };
    let best = rows(100, 0);
    assert!(best.is_better_than(None));
    assert!(rows(120, 0).is_better_than(Some(&best)));
    assert!(!rows(105, 0).is_better_than(Some(&best)));
    assert!(!rows(500, 1).is_better_than(Some(&best)));
}

#[test]
fn a_rate_at_which_somebody_fell_behind_is_no_figure_even_if_it_is_the_first() {
    let rows = |claims_due: u32, resyncs: u64| Rows {
        claims_due,
        told: vec![counted(claims_due.into())],
        claims: vec![counted(1)],
        resyncs,
        cores_of_others: 0.0,
    };
    let mut best = None;
    assert!(!keep_if_better(&mut best, rows(5000, 1)));
    assert!(best.is_none());
    assert!(keep_if_better(&mut best, rows(5000, 0)) && keep_if_better(&mut best, rows(10_000, 0)));
    assert!(!keep_if_better(&mut best, rows(20_000, 1)));
    assert_eq!(best.unwrap().claims_due, 10_000);
}

/// Watchers whose pictures are at revision 0, without connections.
fn watchers(count: u32) -> Watchers {
    let pictures = (0..count).map(|_| Picture::shared(0)).collect();
    Watchers { told: Arc::default(), pictures, tasks: Vec::new() }
}

/// A message with these revisions, which are so old.
fn message(revisions: std::ops::RangeInclusive<u64>, seconds: i64) -> v1::Deltas {
    let time = LogTime::from_micros(now_micros().unwrap() - seconds * 1_000_000);
    let deltas = revisions.map(|revision| {
        let mut encoded = Vec::new();
        delta::encode(&Delta::new(Revision(revision), time), &mut encoded);
        encoded.into()
    });
    v1::Deltas { deltas: deltas.collect() }
}

fn tell(watchers: &Watchers, watcher: usize, deltas: v1::Deltas) {
    watchers.told.take(deltas, &watchers.pictures[watcher]).unwrap();
}

#[test]
fn a_stall_weighs_as_many_revisions_as_came_late() {
    let watchers = watchers(1);
    for revision in 1..=10 {
        tell(&watchers, 0, message(revision..=revision, 0));
    }
    // All that was decided during a stall comes in one message.
    tell(&watchers, 0, message(11..=100, 2));
    let ages = watchers.take_ages().unwrap();
    assert_eq!(ages.len(), 100);
    assert!(latency::seconds(&ages, 0.05) < 1.0 && latency::seconds(&ages, 0.15) > 1.9);
    assert_eq!(watchers.take_ages().unwrap().len(), 0, "each counts once");
}

#[test]
fn a_watcher_that_hangs_is_not_left_out() {
    let watchers = watchers(2);
    tell(&watchers, 0, message(1..=60, 3));
    tell(&watchers, 1, message(1..=20, 3));
    // Forty are known by the other one, and are at least so old for this one.
    let ages = watchers.take_ages().unwrap();
    assert_eq!(ages.len(), 120);
    assert!(latency::seconds(&ages, 0.0) > 2.9);
    // They still are when nothing else came, and with what came since.
    assert_eq!(watchers.take_ages().unwrap().len(), 40);
    tell(&watchers, 0, message(61..=70, 0));
    tell(&watchers, 1, message(21..=70, 3));
    assert_eq!(watchers.take_ages().unwrap().len(), 60);
    assert_eq!(watchers.take_ages().unwrap().len(), 0);
    assert!(watchers.told.revisions.lock().unwrap().is_empty(), "what all have is forgotten");
}

#[test]
fn pictures_that_were_old_in_one_window_are_in_the_tails_of_all() {
    let ages = [5, 5, 1000].map(|millis| {
        let mut ages = latency::histogram();
        ages.record(latency::micros(Duration::from_millis(millis))).unwrap();
        ages
    });
    let case = Case { suite: "commit", case: TIMED_CASE, parameters: crate::figure::Parameters::new() };
    let figures = of_ages(&case, &ages).unwrap();
    assert!(figures[0].value < 0.01, "half of the windows' medians are below: {:?}", figures[0]);
    assert!(figures[1].value > 0.9 && figures[2].value > 0.9, "{figures:?}");
}

/// A publisher that stalled for all watchers from before the end of the last window until after it: in that window nobody knew of what was decided
/// meanwhile, and the ages were left unread when the load was over.
#[tokio::test]
async fn what_nobody_was_told_of_when_the_last_window_ended_is_in_it() {
    let mut watchers = watchers(2);
    let mut ages = [latency::histogram(), watchers.take_ages().unwrap()];
    for watcher in [0, 1] {
        tell(&watchers, watcher, message(1..=40, 2));
    }
    assert_eq!(watchers.finish_timed(40, &mut ages).await.unwrap(), 0);
    assert_eq!(ages.each_ref().map(Histogram::len), [0, 80]);
    assert!(latency::seconds(&ages[1], 0.0) > 1.9);
}

#[test]
fn a_picture_that_began_anew_is_no_figure() {
    let (watchers, had) = (watchers(1), had(1000, 5));
    assert!(is_told(watchers.resyncs(), &had));
    watchers.told.resyncs.fetch_add(1, Ordering::Relaxed);
    assert!(!is_told(watchers.resyncs(), &had));
    assert!(watchers.check().is_ok(), "with a rate that is too high it is what is looked for");
}

/// In a second of a load that had so many transactions answered, and so many of a hundred of their claims refused.
fn had(answered: u64, refused_percent: u64) -> Had {
    let (granted, refused) = (answered * (100 - refused_percent), answered * refused_percent);
    Had { counted: Counters { granted, refused, answered, ..Counters::default() }, seconds: 1.0 }
}

#[test]
fn a_load_that_came_late_or_was_refused_is_not_the_one_of_the_case() {
    // Fifty watchers decode in the threads that the load is sent from. Of a load with a third of its rate, and of one whose claims found no room,
    // pictures were young, under the name of the whole rate.
    assert!(had(1000, 5).another_load().is_none() && had(985, 25).another_load().is_none());
    assert!(had(300, 5).another_load().unwrap().contains("rate"));
    assert_eq!(had(1000, 40).another_load().unwrap(), "40 of 100 claims were refused");
    assert!(!is_told(0, &had(300, 5)) && !is_told(0, &had(1000, 40)));
    // The gate looks for the beginning. On a machine that is too busy for the load watchers fall behind, too.
    let late = Some("staleness_seconds_p99 will be missing: the load did not keep its rate".to_owned());
    assert_eq!((why_not(0, &had(300, 5)), why_not(2, &had(300, 5))), (late.clone(), late));
    assert!(why_not(2, &had(1000, 5)).unwrap().starts_with(TIMED_CASE));
}

#[test]
fn each_row_of_a_delta_counts_once() {
    let mut delta = Delta::new(Revision(7), LogTime::default());
    assert_eq!(rows_of(&delta), 0);
    delta.grants =
        vec![Grants { slots: vec![1, 2, 3], ..Grants::default() }, Grants { slots: vec![4], ..Grants::default() }];
    delta.ends = vec![End { slot: 9, state: plenum_model::AllocationState::Stopped, exit_code: 0, reason: None }];
    assert_eq!(rows_of(&delta), 5);
}
