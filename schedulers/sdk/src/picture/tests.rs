//! Stories of one picture and hand-made messages. Stories of a real cell stand in the testkit.

use plenum_model::{CellIdentity, Delta, LogTime};
use plenum_proto::delta;

use super::*;

fn welcome(revision: u64, snapshot: bool) -> v1::Welcome {
    let cell_id = vec![1; 16].into();
    v1::Welcome { incarnation: 1, term: 1, revision, snapshot, cell_id, ..v1::Welcome::default() }
}

/// The delta of a revision; the first one opens the server, all others do nothing.
fn encoded(revision: u64) -> bytes::Bytes {
    let mut delta = Delta::new(Revision(revision), LogTime::from_micros(5));
    if revision == 1 {
        delta.cell = Some(CellIdentity { cell_id: [1; 16], incarnation: 1, term: 1, ..CellIdentity::default() });
    }
    let mut bytes = Vec::new();
    delta::encode(&delta, &mut bytes);
    bytes.into()
}

fn deltas(revisions: impl IntoIterator<Item = u64>) -> Tell {
    Tell::Deltas(v1::Deltas { deltas: revisions.into_iter().map(encoded).collect() })
}

fn beat(revision: u64) -> Tell {
    Tell::Heartbeat(v1::Heartbeat { revision, ..v1::Heartbeat::default() })
}

/// When all happens, where nothing is said of that.
const NOW: i64 = 1_000_000;

fn take(picture: &mut Picture, tell: Tell) -> Result<(), Useless> {
    take_at(picture, NOW, tell)
}

fn take_at(picture: &mut Picture, now_micros: i64, tell: Tell) -> Result<(), Useless> {
    picture.take(v1::SessionResponse { tell: Some(tell) }, now_micros)
}

/// The revision of the picture, if it is current.
fn current(picture: &Picture) -> Option<u64> {
    picture.current(NOW).map(|cell| cell.revision().0)
}

/// A picture that is current at revision 5 of incarnation 1.
fn at_five() -> Picture {
    let mut picture = Picture::default();
    for tell in [Tell::Welcome(welcome(0, false)), deltas(1..=5), beat(5)] {
        take(&mut picture, tell).unwrap();
    }
    assert!(picture.is_news(NOW));
    picture.looked();
    picture
}

// Of a welcome that goes on it was thought that it is the present: a framework would have acted on a picture 237 revisions old.
#[test]
fn who_comes_back_is_current_once_it_has_come_to_what_a_heartbeat_told() {
    let mut picture = at_five();
    picture.lost();
    assert_eq!(current(&picture), None);
    let hello = picture.hello(NOW);
    assert_eq!((hello.revision, hello.incarnation, hello.seen_revision, hello.seen_term), (5, 1, 5, 1));
    take(&mut picture, Tell::Welcome(welcome(5, false))).unwrap();
    assert_eq!(current(&picture), None, "how far the cell is, nobody has said");
    take(&mut picture, beat(8)).unwrap();
    take(&mut picture, deltas([6, 7])).unwrap();
    assert_eq!((current(&picture), picture.is_news(NOW)), (None, false));
    take(&mut picture, deltas([8])).unwrap();
    assert_eq!((current(&picture), picture.is_news(NOW)), (Some(8), true));
    picture.looked();
    take(&mut picture, beat(8)).unwrap();
    assert!(!picture.is_news(NOW), "nothing has changed");
    take(&mut picture, beat(9)).unwrap();
    assert_eq!(current(&picture), None, "it is behind");
}

/// A heartbeat that a server made so many seconds after its start, an hour and more after this side's.
fn beat_of(revision: u64, second: i64) -> Tell {
    let now_micros = (3_600 + second) * 1_000_000;
    Tell::Heartbeat(v1::Heartbeat { revision, now_micros, ..v1::Heartbeat::default() })
}

// Stopped for 50 s, a framework found what had been told meanwhile in its buffers, and published one by one pictures that were as old: of tasks that were dead for long.
#[test]
fn who_stood_still_is_not_current_before_it_has_come_to_the_present() {
    let seconds = |second: i64| second * 1_000_000;
    let mut picture = at_five();
    picture.hello(0);
    take_at(&mut picture, 0, Tell::Welcome(welcome(5, false))).unwrap();
    take_at(&mut picture, seconds(1), beat_of(5, 1)).unwrap();
    take_at(&mut picture, seconds(2), beat_of(5, 2)).unwrap();
    assert!(picture.current(seconds(2)).is_some() && picture.current(seconds(5)).is_some());
    picture.looked();
    assert!(picture.current(seconds(52)).is_none(), "it has heard nothing for 50 s");
    for second in 3..49 {
        let revision = u64::try_from(second).unwrap() + 3;
        take_at(&mut picture, seconds(52), deltas([revision])).unwrap();
        take_at(&mut picture, seconds(52), beat_of(revision, second)).unwrap();
        assert!(!picture.is_news(seconds(52)), "of second {second}");
    }
    take_at(&mut picture, seconds(52), deltas([52])).unwrap();
    take_at(&mut picture, seconds(52), beat_of(52, 52)).unwrap();
    assert!(picture.is_news(seconds(52)));
}

#[test]
fn a_stream_that_stays_late_is_given_up_and_the_next_one_begins_with_what_is_so_now() {
    let seconds = |second: i64| second * 1_000_000;
    let mut picture = at_five();
    picture.hello(0);
    for second in 1..=2 {
        take_at(&mut picture, seconds(second), beat_of(5, second)).unwrap();
    }
    for second in 20..=50 {
        take_at(&mut picture, seconds(second), beat_of(5, second - 10)).unwrap();
    }
    assert_eq!(take_at(&mut picture, seconds(51), beat_of(5, 41)), Err(Useless::Late));
    picture.lost();
    picture.hello(seconds(52));
    take_at(&mut picture, seconds(52), Tell::Welcome(welcome(5, false))).unwrap();
    take_at(&mut picture, seconds(53), beat_of(5, 43)).unwrap();
    assert!(picture.current(seconds(53)).is_some(), "it is no older than its stream, whatever the clocks say");
}

#[test]
fn who_fell_behind_keeps_the_old_picture_until_the_new_one_is_whole() {
    let mut picture = at_five();
    take(&mut picture, Tell::Welcome(welcome(900, true))).unwrap();
    assert_eq!((current(&picture), picture.cell().map(|cell| cell.revision().0)), (None, Some(5)));
    let early = take(&mut picture, deltas([6])).unwrap_err();
    assert_eq!(early, unread("a delta before the mirror was complete"));
    let part = v1::SnapshotPart { revision: 900, last: true, ..v1::SnapshotPart::default() };
    assert!(matches!(take(&mut picture, Tell::Snapshot(part)), Err(Useless::Unread(_))), "no page is no cell");
    picture.lost();
    picture.forget();
    let hello = picture.hello(NOW);
    assert_eq!((hello.revision, hello.seen_revision), (0, 900), "what was seen stays");
}

#[test]
fn what_does_not_fit_is_not_shown() {
    for (tell, why) in [
        (deltas([7]), "a delta that does not fit"),
        (Tell::Deltas(v1::Deltas { deltas: vec![vec![7].into()] }), "a delta that cannot be read"),
        (Tell::Snapshot(v1::SnapshotPart::default()), "a page of a snapshot that was not announced"),
        (Tell::Welcome(welcome(6, false)), "at revision 5, and offered to go on after 6"),
    ] {
        let Err(Useless::Unread(found)) = take(&mut at_five(), tell) else { panic!("{why}") };
        assert!(found.starts_with(why), "{found}");
    }
}

#[test]
fn a_server_that_does_not_compare_is_compared() {
    let other = v1::Welcome { cell_id: vec![2; 16].into(), ..welcome(5, true) };
    assert_eq!(take(&mut at_five(), Tell::Welcome(other)), Err(Useless::OtherCell(vec![2; 16])));
    assert_eq!(take(&mut at_five(), Tell::Welcome(welcome(4, true))), Err(Useless::Older));
    let restored = v1::Welcome { incarnation: 2, ..welcome(3, true) };
    let mut picture = at_five();
    take(&mut picture, Tell::Welcome(restored)).unwrap();
    let hello = picture.hello(NOW);
    assert_eq!((hello.revision, hello.seen_incarnation), (0, 2), "its mirror is of another life");
    let goes_on = v1::Welcome { incarnation: 2, ..welcome(5, false) };
    assert!(matches!(take(&mut at_five(), Tell::Welcome(goes_on)), Err(Useless::Unread(_))));
}
