//! Stories of requests for holds that are refused, or of which nobody knows what became.

use super::*;

/// What a cell that had no room for requests, or no disk to write on, refused was asked for again as fast as answers came, until the hold ended by itself.
#[test]
fn a_hold_that_can_not_be_given_back_is_given_back_later() {
    let (mut stage, seat, gang) = half_held(SOON);
    stage.refuse_holds(seat, "QUEUE_FULL");
    stage.ask("owner", Command::ScaleJob { job: gang, version: None, group: 0, count: 0 });
    stage.advance(5_000_000);
    let refused = stage.runtime(seat).counters().holds_refused;
    assert!((5..=20).contains(&refused), "every two seconds in the end: {refused}");
    assert_eq!(held(&stage, gang).len(), 2);
    stage.refuse_holds(seat, "");
    stage.advance(2_500_000);
    assert!(stage.cell().hold(gang).is_none());
}

/// The room was asked for again as soon as after any other request without an answer.
#[test]
fn what_brought_nothing_is_left_to_others_also_where_nobody_heard_that_it_was_given_back() {
    let (mut stage, seat, gang) = half_held(Holding { patience_micros: 200_000_000, ..SOON });
    stage.advance(195_000_000);
    assert_eq!(held(&stage, gang).len(), 2);
    stage.lose_hold_answers(seat, true);
    for _ in 0..18 {
        stage.advance(10_000_000);
        assert!(stage.cell().hold(gang).is_none());
    }
    stage.lose_hold_answers(seat, false);
    stage.advance(30_000_000);
    assert_eq!(held(&stage, gang).len(), 2, "it tries again");
}
